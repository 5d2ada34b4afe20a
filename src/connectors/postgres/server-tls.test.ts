import { chownSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:net";
import { connect as connectTls } from "node:tls";
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startPostgres, type PostgresServer } from "../../demo/postgres-server.ts";
import { startPostgresProxy, type Treatment } from "../../../test/support/postgres-proxy.ts";
import { selfSigned } from "../../../test/support/self-signed.ts";
import { placeContract, versionOf, type Fault, type PlaceWorld } from "../connector.contract.ts";
import { ConnectorError, type CallContext, type VersionHandle } from "../connector.ts";
import { factsOf } from "../shared/x509.ts";
import { postgresServerTls, postgresSystem } from "./connector.ts";

let server: PostgresServer;
let first: Awaited<ReturnType<typeof selfSigned>>;
beforeAll(async () => {
  first = await selfSigned("db.test");
  server = await startPostgres({ tls: { certificate: first.pem, privateKey: first.privateKey.reveal() } });
});
afterAll(async () => {
  await server.stop();
});

function context(): CallContext {
  const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined };
  return { now: () => Date.now(), signal: new AbortController().signal, throttle: async () => {}, log: quiet };
}
const files = () => ({
  certificate: join(server.dataFolder, "server.crt"),
  key: join(server.dataFolder, "server.key"),
});

/** What a client is served, found out without the connector's own code. */
async function servedFingerprint(): Promise<string> {
  const socket = connect(server.port, "127.0.0.1");
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once("connect", () => socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])));
    socket.once("data", () => {
      const secure = connectTls({ socket, rejectUnauthorized: false }, () => {
        resolve(createHash("sha256").update(secure.getPeerCertificate().raw).digest("hex"));
        secure.destroy();
      });
      secure.once("error", reject);
    });
  });
}

function put(pem: string, key: string): void {
  const { certificate, key: keyPath } = files();
  for (const [path, text] of [
    [certificate, pem],
    [keyPath, key],
  ] as const) {
    writeFileSync(path, text, { mode: 0o600 });
    chownSync(path, server.owner.uid, server.owner.gid);
  }
}
async function backToTheFirst(): Promise<void> {
  put(first.pem, first.privateKey.reveal());
  await server.sql("select pg_reload_conf()");
  const wanted = factsOf(first.pem).fingerprint;
  while ((await servedFingerprint()) !== wanted) await new Promise((resolve) => setTimeout(resolve, 20));
}

let worlds = 0;
async function makeWorld(): Promise<PlaceWorld> {
  await backToTheFirst();
  const user = `reloader_${++worlds}`;
  await server.sql(`create role ${user} login superuser password 'reload-password-4'`);
  const proxy = await startPostgresProxy(server);
  const made = new Map<number, VersionHandle>();
  // Looking for the certificate does not go through the proxy's statements, so that only the reload is in its hands.
  const system = postgresSystem.config.parse({
    url: `postgres://${user}:reload-password-4@127.0.0.1:${proxy.port}/postgres`,
    tls: "off",
    statementTimeout: "2s",
    connectTimeout: "2s",
  });
  const config = postgresServerTls.config.parse({ ...files(), connections: 2, servedWithin: "3s" });
  const inFile = async (version: VersionHandle): Promise<boolean> => {
    const material = await version.open();
    return (
      material.kind === "key" &&
      readFileSync(files().certificate, "utf8").includes(material.certificates[0]!.trim().slice(30, 200))
    );
  };
  const onReload = (treatment: Treatment): Fault => {
    proxy.onStatement = (text) => (text.startsWith("select pg_catalog.pg_reload_conf") ? treatment : "pass");
    return { clear: () => void (proxy.onStatement = () => "pass") };
  };
  return {
    open: () => postgresServerTls.open(config, system),
    async version(n) {
      const kept = made.get(n);
      if (kept !== undefined) return kept;
      const { privateKey, pem } = await selfSigned(`db-${n}.test`);
      const version = versionOf(`server#${n}`, { kind: "key", privateKey, certificates: [pem] }, factsOf(pem));
      made.set(n, version);
      return version;
    },
    canaries: ["reload-password-4"],
    async inspect(known) {
      const present: string[] = [];
      for (const version of known) if (await inFile(version)) present.push(version.id);
      const extra = join(server.dataFolder, "extra.crt");
      return { present, current: present[0] ?? null, foreign: existsSync(extra) ? [readFileSync(extra, "utf8")] : [] };
    },
    consumer: async (version) => (await servedFingerprint()) === version.facts.fingerprint,
    meddle: {
      add: async () => writeFileSync(join(server.dataFolder, "extra.crt"), "theirs"),
      change: async () => backToTheFirst(),
      remove: async () => backToTheFirst(),
    },
    faults: {
      "lost-request": () => onReload("lose-request"),
      "lost-answer": () => onReload("lose-answer"),
      garbage: () => onReload("garble"),
      down() {
        proxy.down = true;
        return { clear: () => void (proxy.down = false) };
      },
      async denied(verb) {
        if (verb === "observe") return { clear: () => undefined };
        await server.sql(`alter role ${user} nosuperuser`);
        return {
          permission: "pg_reload_conf",
          clear: async () => void (await server.sql(`alter role ${user} superuser`)),
        };
      },
    },
    async close() {
      rmSync(join(server.dataFolder, "extra.crt"), { force: true });
      await proxy.close();
    },
  };
}

placeContract({
  runner: { describe, it },
  name: "postgres.server-tls",
  connector: postgresServerTls,
  config: { certificate: "/x/server.crt", key: "/x/server.key" },
  makeWorld,
  cannot: {
    "throttling is reported as throttled and changes nothing": "neither files nor PostgreSQL have a rate limit",
  },
});

async function failure(run: () => Promise<unknown>): Promise<ConnectorError> {
  try {
    await run();
  } catch (error) {
    if (error instanceof ConnectorError) return error;
    throw error;
  }
  throw new Error("It succeeded.");
}

describe("postgres.server-tls", () => {
  it("refuses a key that does not fit, before anything is written", async () => {
    const world = await makeWorld();
    const [one, two] = [await selfSigned("a.test"), await selfSigned("b.test")];
    const before = readFileSync(files().certificate, "utf8") + readFileSync(files().key, "utf8");
    const mixed = versionOf(
      "server#9",
      { kind: "key", privateKey: two.privateKey, certificates: [one.pem] },
      factsOf(one.pem),
    );
    const error = await failure(async () => (await world.open()).activate?.(context(), mixed));
    expect(error.kind).toBe("refused");
    expect(readFileSync(files().certificate, "utf8") + readFileSync(files().key, "utf8")).toBe(before);
    await world.close?.();
  });

  it("keeps owner and mode of the key, and survives a restart with what it wrote", async () => {
    const world = await makeWorld();
    const version = await world.version(1);
    await (await world.open()).activate?.(context(), version);
    const { mode, uid } = statSync(files().key);
    expect([mode & 0o777, uid]).toEqual([0o600, server.owner.uid]);
    await world.close?.();
    await server.halt();
    await server.start();
    expect(await servedFingerprint()).toBe(version.facts.fingerprint);
  });

  it("names the missing permission", async () => {
    const world = await makeWorld();
    const fault = await world.faults?.denied?.("activate");
    const error = await failure(async () => (await world.open()).activate?.(context(), await world.version(1)));
    await fault?.clear();
    expect(error.permission).toBe("EXECUTE on pg_reload_conf()");
    await world.close?.();
  });

  it("does not call done what the server does not serve", async () => {
    const world = await makeWorld();
    const elsewhere = join(server.dataFolder, "elsewhere");
    const system = postgresSystem.config.parse({ url: server.url, tls: "off" });
    const config = postgresServerTls.config.parse({
      certificate: `${elsewhere}.crt`,
      key: `${elsewhere}.key`,
      connections: 1,
      servedWithin: "500ms",
    });
    const error = await failure(async () =>
      postgresServerTls.open(config, system).activate?.(context(), await world.version(1)),
    );
    expect(error.kind).toBe("refused");
    expect(error.next).toContain("ssl_cert_file");
    await world.close?.();
  });
});
