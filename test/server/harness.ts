/** A whole server on a real store and real files, and people to talk to it. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { App } from "../../src/app.ts";
import type { EngineWorker } from "../../src/engine/worker.ts";
import { createClient, type Client } from "../../src/server/client.ts";
import { startServer, type RunningServer, type ServerOptions } from "../../src/server/http.ts";
import type { Grant, Role } from "../../src/server/schema.ts";
import { withStore, type TestStore } from "../support/store.ts";

/** Old values of the files: they must never be seen outside them. */
export const canaries = [
  "canary-0a1b2c3d4e5f-token",
  "canary-5f4e3d2c1b0a-gated",
  "canary-99887766aabb-other",
] as const;

const estate = `
version: 1
defaults: { owner: platform }
credentials:
  token:
    kind: secret
    labels: { tier: gold }
    issuer: { type: random, length: 32 }
    places:
      server: { type: file.value, holder: true, path: ./server.env, format: dotenv, keys: { password: API_TOKEN } }
      client: { type: file.value, holder: true, path: ./client.json, format: json, keys: { password: token } }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s }
  gated:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      file: { type: file.value, holder: true, path: ./gated.txt, format: text }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s, approvals: { switch: 1 } }
  by-hand:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      console:
        type: manual
        holder: true
        title: Console
        activate: { steps: [{ text: "Paste the name.", copy: "\${id}" }] }
        check: { argv: [cat, FOLDER/console.json] }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s }
  other:
    kind: secret
    owner: payments
    issuer: { type: random, length: 32 }
    places:
      file: { type: file.value, holder: true, path: ./other.txt, format: text }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s }
`;

export interface Someone {
  readonly person: string;
  readonly cookie: string;
  readonly client: Client;
  /** A plain request with the session and the header that a page sends. */
  fetch(path: string, init?: RequestInit & { readonly headers?: Readonly<Record<string, string>> }): Promise<Response>;
}
export interface Harness {
  readonly app: App;
  readonly server: RunningServer;
  readonly folder: string;
  readonly store: TestStore;
  /** Every answer that a client was given. */
  readonly said: readonly string[];
  /** The first admin, through the link of the first start. */
  admin(): Promise<Someone>;
  /** Somebody else, added and invited by the admin. */
  someone(person: string, grants: readonly (readonly [Role, string])[]): Promise<Someone>;
  worker(): Promise<EngineWorker>;
  stop(): Promise<void>;
}

export async function openHarness(options: Partial<ServerOptions> = {}): Promise<Harness> {
  const store = await withStore();
  const folder = mkdtempSync(join(tmpdir(), "keyroll-server-"));
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "keyroll.yaml"), estate.replace("FOLDER", folder));
  writeFileSync(join(folder, "server.env"), `OTHER=1\nAPI_TOKEN=${canaries[0]}\n`);
  writeFileSync(join(folder, "client.json"), JSON.stringify({ token: canaries[0] }));
  writeFileSync(join(folder, "gated.txt"), canaries[1]);
  writeFileSync(join(folder, "other.txt"), canaries[2]);
  writeFileSync(join(folder, "console.json"), JSON.stringify({ entries: [] }));
  const app = new App({
    env: { PATH: process.env["PATH"] },
    cwd: folder,
    dataDir: store.dataDir,
    database: store.database,
    databaseUrl: null,
    person: "root",
  });
  await app.engine();
  const server = await startServer(app, { port: 0, webDir: null, version: "test", checkAnswers: true, ...options });
  const said: string[] = [];
  let first: Promise<Someone> | null = null;
  let worker: EngineWorker | null = null;

  async function signIn(person: string, link: string): Promise<Someone> {
    const answer = await fetch(`${server.url}/api/v1/session`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-keyroll": "1" },
      body: JSON.stringify({ code: link.split("#")[1] }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    const cookie = answer.headers.get("set-cookie")!.split(";")[0]!;
    const send: Someone["fetch"] = (path, init = {}) =>
      fetch(`${server.url}${path}`, { ...init, headers: { cookie, "x-keyroll": "1", ...init.headers } });
    const client = createClient({
      base: server.url,
      fetch: async (input, init) => {
        const answer = await fetch(input, {
          ...init,
          headers: { ...(init?.headers as Record<string, string>), cookie },
        });
        said.push(await answer.clone().text());
        return answer;
      },
    });
    return { person, cookie, client, fetch: send };
  }
  const admin = (): Promise<Someone> => {
    first ??= server.signInLink("root").then((link) => signIn("root", link));
    return first;
  };

  return {
    app,
    server,
    folder,
    store,
    said,
    admin,
    async someone(person, grants) {
      const { client } = await admin();
      const list: Grant[] = grants.map(([role, owner]) => ({ role, owner }));
      await client.call("addPerson", { body: { person, grants: list } });
      const { link } = await client.call("makeSignInLink", { params: { person }, body: {} });
      return await signIn(person, link);
    },
    async worker() {
      worker ??= await app.startWorker({ concurrency: 2 });
      return worker;
    },
    async stop() {
      await worker?.stop();
      await server.stop();
      await app.close();
      await store[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Asks until it holds; every wait of a test has an end. */
export async function until<T>(ask: () => Promise<T>, holds: (value: T) => boolean, timeoutMs = 20_000): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await ask();
    if (holds(value)) return value;
    if (performance.now() > end) throw new Error(`it did not come to that: ${JSON.stringify(value).slice(0, 2000)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
