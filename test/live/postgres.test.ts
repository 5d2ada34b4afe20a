/**
 * Debian's PostgreSQL under load: 30 new connections a second from clients that read their env file only every two seconds. In the right order
 * nobody is refused; with the old role closed at once, as a careless script would, some are.
 */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { secretVersions } from "../../src/connectors/connector.contract.ts";
import type { CallContext, Place, VersionHandle } from "../../src/connectors/connector.ts";
import { postgresRole, postgresServerTls, postgresSystem } from "../../src/connectors/postgres/connector.ts";
import { factsOf } from "../../src/connectors/shared/x509.ts";
import { versionOf } from "../../src/connectors/connector.contract.ts";
import { startClients } from "../support/env-file-client.ts";
import { debianBinaries, startPostgres, type PostgresServer } from "../../src/demo/postgres-server.ts";
import { selfSigned } from "../support/self-signed.ts";

const binaries = await debianBinaries();
const rereadMs = 2000;
const perSecond = 30;

function context(): CallContext {
  const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined };
  return { now: () => Date.now(), signal: new AbortController().signal, throttle: async () => {}, log: quiet };
}

describe.skipIf(binaries === null)("PostgreSQL of Debian (skipped where postgresql is not installed)", () => {
  const folder = mkdtempSync(join(tmpdir(), "keyroll-live-pg-"));
  const envFile = join(folder, "app.env");
  let server: PostgresServer;
  beforeAll(async () => {
    const { pem, privateKey } = await selfSigned("db.test");
    server = await startPostgres({ binaries: binaries!, tls: { certificate: pem, privateKey: privateKey.reveal() } });
    await server.sql(
      "create role app nologin; create role keyroll login createrole password 'k'; grant app to keyroll with admin option; grant pg_read_all_stats, pg_signal_backend to keyroll; grant execute on function pg_reload_conf() to keyroll",
    );
  });
  afterAll(async () => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  async function attempt({
    user,
    password,
  }: {
    user: string;
    password: string;
  }): Promise<"accepted" | "refused" | "failed"> {
    const client = new pg.Client({ host: "127.0.0.1", port: server.port, user, password, database: "postgres" });
    client.on("error", () => undefined);
    try {
      await client.connect();
      await client.query("select current_user");
      return "accepted";
    } catch (error) {
      return ["28P01", "28000"].includes((error as { code?: string }).code ?? "") ? "refused" : "failed";
    } finally {
      await client.end().catch(() => undefined);
    }
  }
  async function give(version: VersionHandle, user: string): Promise<void> {
    const material = await version.open();
    writeFileSync(
      `${envFile}.new`,
      `DB_USER=${user}\nDB_PASSWORD=${material.kind === "secret" ? material.value.reveal() : ""}\n`,
    );
    renameSync(`${envFile}.new`, envFile);
  }
  async function rotate(place: Place, old: VersionHandle, fresh: VersionHandle, waitMs: number) {
    const oldSlot = (await place.add?.(context(), old))?.slot ?? "";
    await give(old, oldSlot);
    const clients = startClients({ path: envFile, perSecond, rereadMs, attempt });
    await sleep(1500);
    const slot = (await place.add?.(context(), fresh))?.slot ?? "";
    await give(fresh, slot);
    await sleep(waitMs);
    const during = await place.observe(context(), [old, fresh]);
    await place.remove?.(context(), old);
    await sleep(rereadMs + 1000);
    await clients.stop();
    return { counts: clients.counts, oldSlot, slot, during };
  }
  const open = (): Place =>
    postgresRole.open(
      postgresRole.config.parse({ owner: "app", roles: ["app_a", "app_b"] }),
      postgresSystem.config.parse({ url: server.urlFor("keyroll", "k") }),
    );

  it("refuses nobody in the right order, and the old password at the end", async () => {
    const versions = secretVersions("right");
    const place = open();
    // Longer than the clients' cache by the longest attempt that may be under way.
    const { counts, oldSlot, slot, during } = await rotate(place, versions(1), versions(2), rereadMs + 1500);
    console.log(
      `right order: ${[...counts.accepted].map(([user, n]) => `${n} as ${user}`).join(", ")}, ${counts.refused} refused, ${counts.failed} failed`,
    );
    expect(counts.refused).toBe(0);
    expect(counts.accepted.get(oldSlot)).toBeGreaterThan(0);
    expect(counts.accepted.get(slot)).toBeGreaterThan(0);
    expect(during.inUse ?? []).not.toContain(oldSlot);
    expect((await place.probe?.(context(), versions(1)))?.outcome).toBe("refused");
    expect((await place.probe?.(context(), versions(2)))?.outcome).toBe("accepted");
    await place.remove?.(context(), versions(2));
  });

  it("refuses some when the old role is closed before the clients have read the new password", async () => {
    const versions = secretVersions("wrong");
    const place = open();
    const { counts } = await rotate(place, versions(1), versions(2), 0);
    console.log(`wrong order: ${counts.refused} refused`);
    expect(counts.refused).toBeGreaterThan(0);
    await place.remove?.(context(), versions(2));
  });

  it("serves a new certificate while clients connect, and is not called done before it does", async () => {
    const system = postgresSystem.config.parse({ url: server.urlFor("keyroll", "k"), tls: "off" });
    const config = postgresServerTls.config.parse({
      certificate: join(server.dataFolder, "server.crt"),
      key: join(server.dataFolder, "server.key"),
    });
    const place = postgresServerTls.open(config, system);
    let refused = 0;
    const ended = new AbortController();
    const clients = (async () => {
      while (!ended.signal.aborted) {
        const client = new pg.Client({ connectionString: server.url, ssl: { rejectUnauthorized: false } });
        client.on("error", () => undefined);
        try {
          await client.connect();
          await client.query("select 1");
        } catch {
          refused++;
        }
        await client.end().catch(() => undefined);
      }
    })();
    for (const n of [1, 2, 3]) {
      const { pem, privateKey } = await selfSigned(`db-${n}.test`);
      const version = versionOf(`tls#${n}`, { kind: "key", privateKey, certificates: [pem] }, factsOf(pem));
      await place.activate?.(context(), version);
      expect((await place.probe?.(context(), version))?.outcome).toBe("accepted");
    }
    ended.abort();
    await clients;
    expect(refused).toBe(0);
  });
});
