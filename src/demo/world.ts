/**
 * The small real estate behind `npm start`: a PostgreSQL server of its own with an application, a TLS endpoint under a private CA with clients that
 * check it, and a `keyroll.yaml` that declares them. Everything lies in one folder and listens on 127.0.0.1.
 */
import { fork, type ChildProcess } from "node:child_process";
import { randomBytes, X509Certificate, createPublicKey } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import pg from "pg";
import { certify, makeKey, serialFrom } from "../connectors/shared/certify.ts";
import { fetchPeer } from "../connectors/shared/tls.ts";
import { fingerprintOf, privateKeyOf } from "../connectors/shared/x509.ts";
import { startPostgres, type PostgresServer } from "./postgres-server.ts";
import type { Counts, PresenterSettings } from "./presenters.ts";

export interface DemoWorld {
  readonly folder: string;
  readonly estateFile: string;
  /** Settings that `keyroll.yaml` reads from the environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly database: PostgresServer;
  readonly tlsPort: number;
  /** Of the certificate served at the start. */
  readonly firstFingerprint: string;
  counts(): Counts;
  /** Tries the password from before the demo once more. */
  oldPassword(): Promise<"accepted" | "refused" | "unknown">;
  /** Opens several more connections to the endpoint and looks whether any is served the certificate from before the demo. */
  oldCertificateServed(): Promise<boolean>;
  /** Ends every process that was started, and keeps the files. */
  stop(): Promise<void>;
}

export interface DemoOptions {
  readonly folder: string;
  /** How long an application keeps what it has read before it reads again. */
  readonly rereadMs: number;
  readonly perSecond: number;
  readonly soak: string;
}

const serverName = "shop.demo.internal";
const none: Counts = {
  database: {},
  databaseRefused: 0,
  databaseFailed: 0,
  tls: {},
  tlsRefused: 0,
  tlsFailed: 0,
  reasons: [],
};

/** A child that speaks over IPC; its own words go to a file, so that they never run into the demo's. */
function start(program: string, args: readonly string[]): ChildProcess {
  return fork(join(import.meta.dirname, program), args, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
}

async function firstMessage<T>(child: ChildProcess, what: string): Promise<T> {
  return await new Promise((resolve, reject) => {
    child.once("message", (message) => resolve(message as T));
    child.once("exit", (code) => reject(new Error(`${what} ended with ${code} before it was ready.`)));
  });
}

async function end(child: ChildProcess | null): Promise<void> {
  if (child === null || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((done) => child.once("exit", done));
  child.kill("SIGTERM");
  await gone;
}

export async function startWorld(options: DemoOptions): Promise<DemoWorld> {
  const { folder } = options;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const file = (name: string): string => join(folder, name);
  const children: ChildProcess[] = [];
  let database: PostgresServer | null = null;
  const stop = async (): Promise<void> => {
    await Promise.all(children.map(end));
    await database?.stop();
  };
  try {
    // PostgreSQL, with the login role that the application has used so far.
    const startingDatabase = startPostgres();
    const ca = await makeAuthority();
    database = await startingDatabase;
    const password = randomBytes(18).toString("base64url");
    await database.sql("create role shop nologin");
    await database.sql(`create role shop_a login password '${password}' in role shop`);
    await database.sql("alter role shop_a set role shop");
    await database.sql("create database shop owner shop");
    const envFile = file("shop.env");
    await writeFile(
      envFile,
      `# Read by the shop application every few seconds.\nDB_USER=shop_a\nDB_PASSWORD=${password}\n`,
      { mode: 0o600 },
    );

    // The TLS endpoint, with a certificate that is close to its end.
    const leafKey = await makeKey("ec-p256");
    const leafPublic = createPublicKey(privateKeyOf(leafKey));
    const now = Date.now();
    const chain = await certify({
      profile: { subject: `CN=${serverName}`, names: [serverName], ca: false, usages: ["server"] },
      publicKey: leafPublic,
      signer: { certificate: ca.certificate, key: ca.key, above: [] },
      serial: serialFrom(randomBytes(16).toString("hex"), leafPublic),
      notBeforeMs: now - 82 * 86_400_000,
      notAfterMs: now + 8 * 86_400_000,
    });
    await writeFile(file("shop.pem"), chain.join(""), { mode: 0o644 });
    await writeFile(file("shop.key"), leafKey.reveal(), { mode: 0o600 });
    await writeFile(file("ca.pem"), ca.certificate.toString(), { mode: 0o644 });
    await writeFile(file("ca.key"), ca.pem, { mode: 0o600 });
    const server = start("tls-server.ts", ["0", file("shop.pem"), file("shop.key"), file("tls.pid")]);
    children.push(server);
    const { port: tlsPort } = await firstMessage<{ port: number }>(server, "The TLS endpoint");

    const estateFile = file("keyroll.yaml");
    await writeFile(estateFile, estateText(tlsPort, options), { mode: 0o600 });

    const settings: PresenterSettings = {
      database: {
        port: database.port,
        database: "shop",
        envFile,
        perSecond: options.perSecond,
        rereadMs: options.rereadMs,
      },
      tls: {
        port: tlsPort,
        serverName,
        bundle: file("ca.pem"),
        perSecond: options.perSecond,
        rereadMs: options.rereadMs,
      },
    };
    const presenters = start("presenters.ts", [JSON.stringify(settings)]);
    children.push(presenters);
    let counts = none;
    presenters.on("message", (message) => {
      counts = message as Counts;
    });
    await firstMessage(presenters, "The application");

    const running = database;
    return {
      folder,
      estateFile,
      env: { SHOP_DATABASE_ADMIN_URL: running.url },
      database: running,
      tlsPort,
      firstFingerprint: fingerprintOf(chain[0]!),
      counts: () => counts,
      stop,
      async oldCertificateServed() {
        const old = fingerprintOf(chain[0]!);
        for (let i = 0; i < 5; i++) {
          const peer = await fetchPeer({
            host: "127.0.0.1",
            port: tlsPort,
            serverName,
            startTls: "none",
            timeoutMs: 5000,
            signal: AbortSignal.timeout(10_000),
          });
          if (peer.chain[0] !== undefined && fingerprintOf(peer.chain[0]) === old) return true;
        }
        return false;
      },
      async oldPassword() {
        const client = new pg.Client({
          host: "127.0.0.1",
          port: running.port,
          database: "shop",
          user: "shop_a",
          password,
          connectionTimeoutMillis: 5000,
        });
        try {
          await client.connect();
          return "accepted";
        } catch (error) {
          return ((error as { code?: string }).code ?? "").startsWith("28") ? "refused" : "unknown";
        } finally {
          await client.end().catch(() => {
            // It never came about.
          });
        }
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function makeAuthority() {
  const secret = await makeKey("ec-p256");
  const key = privateKeyOf(secret);
  const publicKey = createPublicKey(key);
  const now = Date.now();
  const [pem] = await certify({
    profile: { subject: "CN=Demo private CA", names: [], ca: true, pathLength: 0, usages: [] },
    publicKey,
    signer: { self: key },
    serial: serialFrom(randomBytes(16).toString("hex"), publicKey),
    notBeforeMs: now - 86_400_000,
    notAfterMs: now + 1825 * 86_400_000,
  });
  return { certificate: new X509Certificate(pem!), key, pem: secret.reveal() };
}

function estateText(tlsPort: number, options: DemoOptions): string {
  const refresh = `${Math.ceil(options.rereadMs / 1000)}s`;
  return `# The demo's estate. Try: keyroll status, keyroll plan shop-db-password, keyroll explain shop-web
version: 1

systems:
  pg: { type: postgres, url: "\${env:SHOP_DATABASE_ADMIN_URL}" }

defaults:
  owner: shop-team
  policy: { soak: ${options.soak}, rotateBefore: 30d }

credentials:
  shop-db-password:
    kind: password
    issuer: { type: random, length: 40 }
    places:
      role: { type: postgres.role, system: pg, verifier: true, owner: shop, roles: [shop_a, shop_b] }
      app:
        type: file.value
        holder: true
        presentsTo: [role]
        path: ./shop.env
        format: dotenv
        keys: { user: DB_USER, password: DB_PASSWORD }
        refresh: ${refresh}

  shop-web:
    kind: certificate
    issuer:
      type: x509.ca
      certificateFile: ./ca.pem
      keyFile: ./ca.key
      subject: "CN=${serverName}"
      names: [${serverName}]
      validity: 90d
    places:
      clients: { type: file.certificate, verifier: true, kind: bundle, trusts: issuer, certificate: ./ca.pem }
      server:
        type: file.certificate
        holder: true
        presentsTo: [clients]
        certificate: ./shop.pem
        key: ./shop.key
        reload: { argv: [sh, -c, ${JSON.stringify(`kill -HUP $(cat '${options.folder}/tls.pid')`)}] }
      served: { type: tls.endpoint, host: 127.0.0.1, port: ${tlsPort}, serverName: ${serverName}, caFile: ./ca.pem }
`;
}

/** Removes a demo folder: only one that a demo made. */
export async function removeWorld(folder: string): Promise<void> {
  if (!existsSync(join(folder, "owner.pid"))) return;
  await chmod(folder, 0o700);
  await rm(folder, { recursive: true, force: true });
}
