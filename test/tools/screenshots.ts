/** Pictures of every page for the README, of a real server in a real browser: node test/tools/screenshots.ts [FOLDER] */
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { chromiumPath, fillWorld, openWorld } from "../e2e/world.ts";

if (chromiumPath === null) {
  console.error("There is no Chromium here: apt-get install chromium");
  process.exit(1);
}
const folder = resolve(process.argv[2] ?? join(import.meta.dirname, "../../docs/images"));
mkdirSync(folder, { recursive: true });
const world = await openWorld(chromiumPath);
try {
  const { byHand, approval, done, task } = await fillWorld(world);
  const pages = {
    overview: "/",
    inventory: "/inventory?item=build-token",
    plan: "/credentials/web-shop/plan",
    breach: "/credentials/deploy-token/plan?mode=breach",
    rotations: "/rotations",
    run: `/rotations/${byHand}`,
    approval: `/rotations/${approval}`,
    done: `/rotations/${done}`,
    tasks: `/tasks/${task}`,
    audit: "/audit",
    settings: "/settings",
  };
  const views = [
    ["desktop", "light", 1440, 900],
    ["desktop", "dark", 1440, 900],
    ["phone", "light", 390, 844],
    ["phone", "dark", 390, 844],
  ] as const;
  for (const [size, theme, width, height] of views) {
    const { context, page } = await world.open({ width, height, theme });
    await page.goto(await world.link());
    await page.locator("#main h1").waitFor();
    for (const [name, path] of Object.entries(pages)) {
      // The two pages that the README shows come in every view; of the others, one of each is enough.
      const everyView = name === "overview" || name === "run";
      if (!everyView && !(size === "desktop" && theme === "light") && !(size === "phone" && theme === "dark")) continue;
      await page.setViewportSize({ width, height });
      await page.goto(`${world.server.url}${path}`);
      await page.locator("#main h1").first().waitFor();
      await page.locator(".skeleton").waitFor({ state: "detached" });
      // As tall as what is on it, but no taller than a reader would look at.
      const tall = await page.evaluate<number>("document.documentElement.scrollHeight");
      await page.setViewportSize({ width, height: Math.min(Math.max(height, tall), size === "phone" ? 844 : 1300) });
      await page.waitForTimeout(300);
      await page.screenshot({ path: join(folder, `${name}-${size}-${theme}.png`) });
    }
    await context.close();
  }
} finally {
  await world.stop();
}
