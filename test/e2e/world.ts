/** An estate with something of everything on real files, a server with a worker, and Chromium: for the end-to-end tests and the pictures. */
import { createPublicKey, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium, type Browser, type BrowserContext, type Page } from "playwright-core";
import { build } from "vite";
import { App } from "../../src/app.ts";
import { certify, makeKey } from "../../src/connectors/shared/certify.ts";
import { privateKeyOf } from "../../src/connectors/shared/x509.ts";
import type { EngineWorker } from "../../src/engine/worker.ts";
import { createClient, type Client } from "../../src/server/client.ts";
import { startServer, type RunningServer } from "../../src/server/http.ts";
import { withStore } from "../support/store.ts";

const dayMs = 86_400_000;
export const chromiumPath: string | null =
  ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path)) ?? null;

/** Days until the end of what is in use, by credential. */
const certificates = {
  "web-shop": { owner: "shop", days: 21 },
  "web-checkout": { owner: "shop", days: 74 },
  "partner-api": { owner: "integration", days: -3 },
  "message-bus": { owner: "integration", days: 130 },
  "identity-signing": { owner: "identity", days: 12 },
  "vpn-gateway": { owner: "network", days: 260 },
} as const;

function estateText(folder: string): string {
  const leaf = (name: string, owner: string): string => `
  ${name}:
    kind: certificate
    owner: ${owner}
    issuer: { type: x509.ca, certificateFile: ./ca.pem, keyFile: ./ca.key, subject: "CN=${name}", names: [${name}.example.org], validity: 90d }
    places:
      ${name}-clients: { type: file.certificate, verifier: true, kind: bundle, trusts: issuer, certificate: ./ca.pem }
      ${name}-server: { type: file.certificate, holder: true, presentsTo: [${name}-clients], certificate: ./${name}.pem, key: ./${name}.key }
    policy: { rotateBefore: 14d, soak: 0s, margin: ${name === "identity-signing" ? "14d" : "2d"} }`;
  return `version: 1
defaults: { owner: platform }
credentials:${Object.entries(certificates)
    .map(([name, { owner }]) => leaf(name, owner))
    .join("")}
  deploy-token:
    kind: secret
    labels: { tier: gold }
    issuer: { type: random, length: 32 }
    places:
      deploy-server: { type: file.value, holder: true, path: ./server.env, format: dotenv, keys: { password: API_TOKEN } }
      deploy-client: { type: file.value, holder: true, path: ./client.json, format: json, keys: { password: token } }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s }
  build-token:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      build-runner: { type: file.value, holder: true, path: ./build.txt, format: text }
      build-mirror: { type: file.value, holder: true, path: ./mirror.txt, format: text }
    policy: { maxAge: 60d, rotateBefore: never, soak: 0s }
  payment-key:
    kind: secret
    owner: payments
    issuer: { type: random, length: 32 }
    places:
      payment-service: { type: file.value, holder: true, path: ./payment.txt, format: text }
    policy: { maxAge: 180d, rotateBefore: never, soak: 0s, approvals: { switch: 1 } }
  console-password:
    kind: secret
    owner: payments
    issuer: { type: random, length: 32 }
    places:
      console:
        type: manual
        holder: true
        title: Billing console
        minutes: 5
        activate:
          title: Enter the new password in the billing console
          steps:
            - Open https://billing.example.org/settings and choose Service password.
            - { text: "Take the value that belongs to this version from the hand-over page, and note its name.", copy: "\${id}" }
            - Save, and wait until the console says Deployed.
        check: { argv: [cat, ${folder}/console.json] }
    policy: { maxAge: 365d, rotateBefore: never, soak: 0s }
`;
}

export interface DashboardWorld {
  readonly server: RunningServer;
  /** As if its machine were gone. */
  stopServer(): Promise<void>;
  readonly folder: string;
  readonly admin: Client;
  /** Somebody else, who may approve. */
  readonly approver: Client;
  readonly browser: Browser;
  /** A sign-in link for a browser. */
  link(): Promise<string>;
  open(options: {
    width: number;
    height: number;
    theme: "light" | "dark";
  }): Promise<{ context: BrowserContext; page: Page }>;
  stop(): Promise<void>;
}

async function writeEstate(folder: string): Promise<void> {
  const caKey = await makeKey("ec-p256");
  const ca = privateKeyOf(caKey);
  const now = Date.now();
  const serial = (): string => `01${randomBytes(8).toString("hex")}`;
  const [authority] = await certify({
    profile: { subject: "CN=Example private CA", names: [], ca: true, usages: [] },
    publicKey: createPublicKey(ca),
    signer: { self: ca },
    serial: serial(),
    notBeforeMs: now - 365 * dayMs,
    notAfterMs: now + 1825 * dayMs,
  });
  const { X509Certificate } = await import("node:crypto");
  const file = (name: string, text: string): void => writeFileSync(join(folder, name), text, { mode: 0o600 });
  file("ca.pem", authority!);
  file("ca.key", caKey.reveal());
  for (const [name, { days }] of Object.entries(certificates)) {
    const key = await makeKey("ec-p256");
    const chain = await certify({
      profile: { subject: `CN=${name}`, names: [`${name}.example.org`], ca: false, usages: ["server"] },
      publicKey: createPublicKey(privateKeyOf(key)),
      signer: { certificate: new X509Certificate(authority!), key: ca, above: [] },
      serial: serial(),
      notBeforeMs: now - 90 * dayMs,
      notAfterMs: now + days * dayMs,
    });
    file(`${name}.pem`, chain.join(""));
    file(`${name}.key`, key.reveal());
  }
  file("server.env", "OTHER=1\nAPI_TOKEN=first-deploy-token-value\n");
  file("client.json", JSON.stringify({ token: "first-deploy-token-value" }));
  file("build.txt", "first-build-token-value");
  file("mirror.txt", "first-build-token-value");
  file("payment.txt", "first-payment-key-value");
  file("console.json", JSON.stringify({ entries: [] }));
  file("keyroll.yaml", estateText(folder));
}

async function signedIn(url: string, link: string): Promise<Client> {
  const answer = await fetch(`${url}/api/v1/session`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-keyroll": "1" },
    body: JSON.stringify({ code: link.split("#")[1] }),
  });
  if (!answer.ok) throw new Error(await answer.text());
  const cookie = answer.headers.get("set-cookie")!.split(";")[0]!;
  return createClient({
    base: url,
    fetch: (input, init) =>
      fetch(input, { ...init, headers: { ...(init?.headers as Record<string, string>), cookie } }),
  });
}

/** Asks until it holds; every wait has an end. */
export async function until<T>(ask: () => Promise<T>, holds: (value: T) => boolean, timeoutMs = 20_000): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await ask();
    if (holds(value)) return value;
    if (performance.now() > end) throw new Error(`It did not come to hold: ${JSON.stringify(value).slice(0, 600)}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** What is shipped is what is tried: React's build for production, which a test runner's `NODE_ENV` would turn into the other one. */
async function buildWeb(outDir: string): Promise<void> {
  const before = process.env["NODE_ENV"];
  process.env["NODE_ENV"] = "production";
  try {
    await build({
      configFile: resolve(import.meta.dirname, "../../vite.config.ts"),
      logLevel: "error",
      build: { outDir, emptyOutDir: true },
    });
  } finally {
    if (before === undefined) delete process.env["NODE_ENV"];
    else process.env["NODE_ENV"] = before;
  }
}

/** `executablePath`: of a Chromium. Everything that was started is ended again when it fails. */
export async function openWorld(executablePath: string): Promise<DashboardWorld> {
  const undo: (() => unknown)[] = [];
  const stop = async (): Promise<void> => {
    for (const step of undo.splice(0).toReversed()) await step();
  };
  try {
    const folder = mkdtempSync(join(tmpdir(), "keyroll-e2e-"));
    undo.push(() => rmSync(folder, { recursive: true, force: true }));
    const webDir = join(folder, "web");
    await buildWeb(webDir);
    const store = await withStore();
    undo.push(() => store[Symbol.asyncDispose]());
    const home = join(folder, "estate");
    mkdirSync(home);
    await writeEstate(home);
    const app = new App({
      env: { PATH: process.env["PATH"] },
      cwd: home,
      dataDir: store.dataDir,
      database: store.database,
      databaseUrl: null,
      person: "alex",
    });
    undo.push(() => app.close());
    await app.engine();
    const worker: EngineWorker = await app.startWorker({ concurrency: 2 });
    undo.push(() => worker.stop());
    await app.status({ observe: "auto" });
    const server = await startServer(app, { port: 0, webDir, version: "0.1.0", checkAnswers: true });
    let stopped = false;
    const stopServer = async (): Promise<void> => {
      if (!stopped) await server.stop();
      stopped = true;
    };
    undo.push(stopServer);
    const admin = await signedIn(server.url, await server.signInLink("alex"));
    await admin.call("addPerson", { body: { person: "robin", grants: [{ role: "approver", owner: "*" }] } });
    const invited = await admin.call("makeSignInLink", { params: { person: "robin" }, body: {} });
    const approver = await signedIn(server.url, invited.link);

    const browser = await chromium.launch({
      executablePath,
      headless: true,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
    undo.push(() => browser.close());
    return {
      server,
      stopServer,
      folder: home,
      admin,
      approver,
      browser,
      link: () => server.signInLink("alex"),
      async open({ width, height, theme }) {
        const context = await browser.newContext({
          viewport: { width, height },
          colorScheme: theme,
          reducedMotion: "reduce",
          locale: "en-GB",
        });
        return { context, page: await context.newPage() };
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Gives the pages something to show: one done and then tampered with, one that waits for a hand, one for an approval. */
export async function fillWorld(
  world: DashboardWorld,
): Promise<{ task: string; approval: string; done: string; byHand: string }> {
  const { admin } = world;
  const start = async (credential: string): Promise<string> => {
    const preview = await admin.call("planRotation", { params: { name: credential }, body: {} });
    const { plan } = preview.options[0]!;
    const row = await admin.call("startRotation", { body: { credential, planDigest: plan.digest } });
    return row.id;
  };
  const done = await start("build-token");
  const byHand = await start("console-password");
  const approval = await start("payment-key");
  const rotation = (id: string) => () => admin.call("getRotation", { params: { id } });
  await until(rotation(done), (view) => view.status === "done");
  await until(rotation(approval), (view) => view.waitsForApproval !== null);
  const tasks = await until(
    () => admin.call("listTasks"),
    (page) => page.items.length > 0,
  );
  writeFileSync(join(world.folder, "mirror.txt"), "somebody-put-an-old-value-back");
  await admin.call("observeCredential", { params: { name: "build-token" }, body: {} });
  return { done, byHand, approval, task: tasks.items[0]!.id };
}
