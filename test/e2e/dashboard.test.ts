/** The dashboard as people use it: a real server, real files, a real browser. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import axeCore from "axe-core";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { chromiumPath, fillWorld, openWorld, until, type DashboardWorld } from "./world.ts";

const axe = axeCore.source;

interface Violation {
  readonly id: string;
  readonly help: string;
  readonly nodes: readonly string[];
}
/** Evaluated by the debugger, so that the page's own policy against foreign code stays as it is. */
async function violations(page: Page, rules?: readonly string[]): Promise<readonly Violation[]> {
  if (await page.evaluate<boolean>("window.axe === undefined")) await page.evaluate(axe);
  const runOnly = rules ?? ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  return await page.evaluate<readonly Violation[]>(`axe.run(document, {
    runOnly: { type: "${rules === undefined ? "tag" : "rule"}", values: ${JSON.stringify(runOnly)} },
    resultTypes: ["violations"],
  }).then(({ violations }) => violations.map(({ id, help, nodes }) => ({
    id, help, nodes: nodes.slice(0, 4).map((node) => node.html.slice(0, 160) + " " + (node.any[0]?.message ?? "")),
  })))`);
}
const settled = async (page: Page): Promise<void> => {
  await page.locator("#main h1").first().waitFor();
  await page.locator(".skeleton").waitFor({ state: "detached" });
};
const wide = { width: 1440, height: 900 } as const;
const phone = { width: 390, height: 844 } as const;

describe.skipIf(chromiumPath === null)(
  `the dashboard in Chromium${chromiumPath === null ? " (skipped: there is no Chromium here)" : ""}`,
  () => {
    let world: DashboardWorld;
    let ids: Awaited<ReturnType<typeof fillWorld>>;
    beforeAll(async () => {
      world = await openWorld(chromiumPath!);
      ids = await fillWorld(world);
    });
    afterAll(async () => {
      await world?.stop();
    });

    it("signs in by the printed link, once, and keeps no code in the address or in storage", async () => {
      const { context, page } = await world.open({ ...wide, theme: "light" });
      const said: string[] = [];
      page.on("console", (message) => {
        // The server's own sign-in page, which is there without a dashboard as well, has no icon.
        if (message.type() === "error" && !message.location().url.endsWith("/favicon.ico")) said.push(message.text());
      });
      const link = await world.link();
      const code = link.split("#")[1]!;
      await page.goto(link);
      await settled(page);
      expect(await page.locator("#main h1").textContent()).toContain("partner-api is expired");
      expect(page.url()).not.toContain(code);
      expect(
        await page.evaluate<string>("JSON.stringify([localStorage, sessionStorage, document.cookie])"),
      ).not.toContain(code);
      expect(said).toEqual([]);

      const again = await world.open({ ...wide, theme: "light" });
      await again.page.goto(link);
      await again.page.getByRole("alert").waitFor();
      expect(await again.page.getByRole("heading", { level: 1 }).textContent()).toBe("Sign in to Keyroll");
      expect(await violations(again.page)).toEqual([]);
      await again.context.close();
      await context.close();
    });

    it("finds what to start, previews, starts by the typed name and watches it finish", async () => {
      const { context, page } = await world.open({ ...wide, theme: "light" });
      await page.goto(await world.link());
      await settled(page);
      // By keyboard alone: search, open, preview.
      await page.keyboard.press("/");
      await page.keyboard.type("identity-signing");
      await page.keyboard.press("Enter");
      const row = page.getByRole("table").getByRole("link", { name: "identity-signing" });
      await row.waitFor();
      expect(page.url()).toContain("/inventory?q=identity-signing");
      await row.press("Enter");
      await page.getByRole("link", { name: "Preview plan" }).press("Enter");
      await page.getByRole("heading", { name: "Proved safe" }).waitFor();
      const before = readFileSync(join(world.folder, "identity-signing.pem"), "utf8");
      await page.getByRole("button", { name: "Start", exact: true }).press("Enter");
      const confirm = page.getByRole("button", { name: "Start this plan" });
      expect(await confirm.isDisabled()).toBe(true);
      expect(await violations(page)).toEqual([]);
      await page.getByLabel(/^Type identity-signing/).fill("identity-signin");
      expect(await confirm.isDisabled()).toBe(true);
      await page.getByLabel(/^Type identity-signing/).fill("identity-signing");
      await page.keyboard.press("Enter");
      await page.waitForURL(/\/rotations\/[^/]+$/);
      // The page comes to its end by events; nobody reloads it.
      await page.getByText("Done: every place has v2.").waitFor({ timeout: 20_000 });
      expect(await page.locator("tr.s.done").count()).toBe(4);
      const after = readFileSync(join(world.folder, "identity-signing.pem"), "utf8");
      expect(after).toContain("BEGIN CERTIFICATE");
      expect(after).not.toBe(before);
      await context.close();
    });

    it("lets somebody else approve what was read, and shows it at once", async () => {
      const { context, page } = await world.open({ ...wide, theme: "light" });
      await page.goto(await world.link());
      await settled(page);
      await page.goto(`${world.server.url}/rotations/${ids.approval}`);
      const waits = page.getByRole("heading", { name: "The switch phase waits for an approval" });
      await waits.waitFor();
      // Who started it may not approve it, and is told so instead of being offered a button.
      expect(await page.getByRole("button", { name: "Approve" }).count()).toBe(0);
      const { link } = await world.admin.call("makeSignInLink", { params: { person: "robin" }, body: {} });
      const other = await world.open({ ...phone, theme: "dark" });
      await other.page.goto(link);
      await settled(other.page);
      await other.page.goto(`${world.server.url}/rotations/${ids.approval}`);
      await other.page.getByRole("button", { name: "Approve" }).waitFor();
      expect(await violations(other.page)).toEqual([]);
      await other.page.getByRole("button", { name: "Approve" }).click();
      await page.getByText(/^Done: every place has v/).waitFor({ timeout: 20_000 });
      expect(await waits.count()).toBe(0);
      await other.context.close();
      await context.close();
    });

    it("gives a person the exact values on a phone, and does not believe them", async () => {
      const { context, page } = await world.open({ ...phone, theme: "light" });
      await page.goto(await world.link());
      await settled(page);
      await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: /Tasks/ }).click();
      await page.getByText("console-password#1", { exact: true }).waitFor();
      await page.getByRole("button", { name: "Done, check it" }).click();
      await page.getByText("It was looked at, and it is not there yet.").waitFor({ timeout: 20_000 });
      const view = await until(
        () => world.admin.call("getTask", { params: { id: ids.task } }),
        (task) => task.checked !== null,
      );
      expect(view.state).toBe("open");
      await context.close();
    });

    it("needs less than 130 KB, compressed, before the first page is there", async () => {
      const { context, page } = await world.open({ ...wide, theme: "light" });
      const loaded: string[] = [];
      page.on("response", (response) => {
        if (/\/assets\/[^/]+\.(js|css)$/.test(new URL(response.url()).pathname)) loaded.push(response.url());
      });
      await page.goto(`${world.server.url}/`);
      await page.getByRole("heading", { name: "Sign in to Keyroll" }).waitFor();
      const web = join(world.folder, "../web/assets");
      expect(existsSync(web)).toBe(true);
      const bytes = loaded
        .map((url) => gzipSync(readFileSync(join(web, new URL(url).pathname.split("/").at(-1)!))).length)
        .reduce((sum, size) => sum + size, 0);
      expect(loaded.length).toBeGreaterThan(1);
      expect(bytes).toBeLessThan(130_000);
      await context.close();
    });

    it("keeps few rows in the page however long the list is, and fetches as it is scrolled", async () => {
      const { context, page } = await world.open({ ...wide, theme: "light" });
      await page.goto(await world.link());
      await settled(page);
      const [sample] = (await world.admin.call("listCredentials", { query: { q: "web-shop" } })).items;
      // A server with as many would take minutes to fill; that it pages rightly is held by its own tests.
      const total = 100_000;
      await page.route("**/api/v1/credentials?*", async (route) => {
        const from = Number(new URL(route.request().url()).searchParams.get("cursor") ?? 0);
        const items = Array.from({ length: 200 }, (_, i) => ({ ...sample, name: `leaf-${from + i}` }));
        const at = new Date().toISOString();
        const next = from + 200 < total ? String(from + 200) : null;
        await route.fulfill({
          json: { at, stale: false, seen: at, items, nextCursor: next, total, counts: { fine: total } },
        });
      });
      await page.goto(`${world.server.url}/inventory`);
      await page.getByRole("link", { name: "leaf-0", exact: true }).waitFor();
      expect(await page.getByRole("table").getAttribute("aria-rowcount")).toBe("100001");
      // To the end of what is there, again and again: more comes each time, and what is out of sight goes.
      const last = await until(
        async () => {
          expect(await page.locator(".vt-row").count()).toBeLessThanOrEqual(60);
          return await page.evaluate<number>(`(() => {
            const list = document.querySelector(".vt-scroll");
            list.scrollTop = list.scrollHeight;
            return Number([...document.querySelectorAll(".vt-row")].at(-1).getAttribute("aria-rowindex"));
          })()`);
        },
        (rowIndex) => rowIndex > 1200,
      );
      expect(last).toBeLessThanOrEqual(total + 1);
      await context.close();
    });

    const paths = () => [
      "/",
      "/?view=table",
      "/inventory",
      "/inventory?item=deploy-token",
      "/inventory?q=nothing-like-this",
      "/credentials/web-shop/plan",
      "/credentials/deploy-token/plan?mode=breach",
      "/rotations",
      `/rotations/${ids.byHand}`,
      `/rotations/${ids.done}`,
      "/tasks",
      `/tasks/${ids.task}`,
      "/audit",
      "/settings",
      "/no-such-page",
    ];
    it("has no accessibility violation on any page, in both themes and sizes, and fits 320 px", async () => {
      const { context, page } = await world.open({ ...wide, theme: "light" });
      await page.goto(await world.link());
      await settled(page);
      const found: Record<string, readonly Violation[]> = {};
      for (const path of paths()) {
        await page.emulateMedia({ colorScheme: "light" });
        await page.setViewportSize(wide);
        await page.goto(`${world.server.url}${path}`);
        await page.locator("#main h1, #main h2").first().waitFor();
        await page.locator(".skeleton").waitFor({ state: "detached" });
        const look = async (name: string, rules?: readonly string[]): Promise<void> => {
          const list = await violations(page, rules);
          if (list.length > 0) found[`${path} ${name}`] = list;
        };
        await look("wide, light");
        // A theme changes colours, and nothing else that can be wrong.
        await page.emulateMedia({ colorScheme: "dark" });
        await look("wide, dark", ["color-contrast"]);
        await page.setViewportSize(phone);
        await look("phone, dark");
        await page.emulateMedia({ colorScheme: "light" });
        await look("phone, light", ["color-contrast"]);
        await page.setViewportSize({ width: 320, height: 640 });
        const over = await page.evaluate<number>("document.documentElement.scrollWidth");
        if (over > 320) found[`${path} at 320 px is ${over} px wide`] = [];
      }
      expect(found).toEqual({});
      await context.close();
    });

    it("says that what it shows may be old when the server is gone, and never stays green", async () => {
      const { context, page } = await world.open({ ...wide, theme: "light" });
      await page.goto(await world.link());
      await settled(page);
      await page.locator(".live", { hasText: /^Live/ }).waitFor();
      expect(await page.locator(".dot.am").count()).toBe(0);
      const sentence = await page.locator("#main h1").textContent();
      await world.stopServer();
      await page.locator(".live", { hasText: "Reconnecting, last event" }).waitFor();
      expect(await page.locator(".dot.am").count()).toBe(1);
      // What was known stays in sight.
      expect(await page.locator("#main h1").textContent()).toBe(sentence);
      await page.getByText(/^This is what was true at/).waitFor({ timeout: 45_000 });
      await context.close();
    });
  },
);
