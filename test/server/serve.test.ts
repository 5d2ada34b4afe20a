/** `keyroll serve` as a process: where it is, the first sign-in, a token of the command line, and an orderly end. */
import { afterAll, expect, test } from "vitest";
import { openHome } from "../cli/keyroll.ts";
import { createClient } from "../../src/server/client.ts";
import { until } from "./harness.ts";

const home = openHome(`
version: 1
defaults: { owner: platform }
credentials:
  token:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      file: { type: file.value, holder: true, path: ./token.txt, format: text }
    policy: { maxAge: 90d, rotateBefore: never }
`);
afterAll(() => home.remove());

test("serves, lets its operator in, and ends when it is told to", { timeout: 60_000 }, async () => {
  home.write("token.txt", "canary-11aa22bb33cc-serve");
  const early = await home.run(["sign-in"]);
  expect([early.code, early.stderr]).toEqual([4, expect.stringMatching(/No server has run.*\nNext: Start one/)]);
  const wrong = await home.run(["serve", "--port", "70000"]);
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringMatching(/--port 70000 is not a port/)]);
  const open = await home.run(["serve", "--port", "0", "--listen", "0.0.0.0"]);
  expect([open.code, open.stderr]).toEqual([4, expect.stringMatching(/Add --public-url/)]);

  const { child, ended, text } = home.start(["serve", "--port", "0"]);
  const shown = await until(
    // No terminal, no link: what is printed here ends in a log.
    async () => /Dashboard and API: (\S+)\n.*On this machine: keyroll sign-in/.exec(text())?.[1] ?? "",
    (url) => url !== "" || child.exitCode !== null,
    40_000,
  );
  expect(text()).not.toContain("#");

  const link = (await home.run(["sign-in", "-q"])).stdout.trim();
  expect(link.startsWith(`${shown}/sign-in#`)).toBe(true);
  const signIn = () =>
    fetch(`${shown}/api/v1/session`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-keyroll": "1" },
      body: JSON.stringify({ code: link.split("#")[1] }),
    });
  expect(await (await signIn()).json()).toMatchObject({
    person: "alice",
    grants: [{ role: "admin", owner: "*" }],
    live: true,
  });
  expect((await signIn()).status).toBe(401);

  const made = await home.run(["token", "create", "ci", "--role", "viewer", "-q"]);
  const client = createClient({ base: shown, token: made.stdout.trim() });
  expect(await client.call("getSession")).toMatchObject({
    person: "alice",
    via: "token",
    permissions: { operate: [] },
  });
  expect((await client.call("listCredentials")).items.map((item) => item.name)).toEqual(["token"]);
  const more = await home.run(["token", "create", "more", "--role", "owner"]);
  expect([more.code, more.stderr]).toEqual([2, expect.stringMatching(/--role owner is not known/)]);

  child.kill("SIGINT");
  const { code } = await ended;
  expect(code === 0 || code === 130).toBe(true);
  expect(text()).not.toContain("canary-11aa22bb33cc-serve");
  await expect(fetch(shown)).rejects.toThrow();
});
