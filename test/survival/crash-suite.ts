/**
 * What must hold after a worker was killed at a named point and another one has finished. `npm test` takes every name once, in a rotation that a
 * seed chooses; `npm run test:live` takes every pass of every name in both rotations.
 */
import { createPrivateKey, randomInt, X509Certificate } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseEnv } from "node:util";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { seededRandom } from "../../src/engine/clock.ts";
import { openCrashRun, type CrashRun, type Pass } from "./crash-run.ts";

const password = "shop-db-password";
const certificate = "shop-web";
const verbs = { [password]: ["issue", "add", "activate", "remove"], [certificate]: ["issue", "activate"] } as const;

/** Every point that `src/engine/crash.ts` is called with, for the effects of these two rotations: the trace must not be silently shorter. */
function expectedPasses(credential: typeof password | typeof certificate): string[] {
  return verbs[credential].flatMap((verb) => [
    `before-intent:${verb}`,
    `after-intent:${verb}`,
    // Sealed twice: the part that is made here, before anything outside hears of it, and the finished version.
    ...(verb === "issue" ? ["before-seal", "after-seal"] : []),
    `after-effect:${verb}`,
    ...(verb === "issue" ? ["before-seal", "after-seal"] : []),
    `after-outcome:${verb}`,
  ]);
}

export function crashSuite(which: "every name" | "every pass"): void {
  let run: CrashRun | null = null;
  let all: readonly Pass[] = [];
  beforeAll(async () => {
    run = await openCrashRun();
    for (const credential of [password, certificate] as const) {
      const passes = await run.trace(credential);
      expect(passes.map(({ name }) => name)).toEqual(expectedPasses(credential));
      all = [...all, ...passes];
    }
  }, 120_000);
  afterAll(async () => {
    await run?.[Symbol.asyncDispose]();
  }, 60_000);

  const seed = Number(process.env["KEYROLL_TEST_SEED"] ?? randomInt(2 ** 31));
  test(`a worker killed at ${which}, seed ${seed}: another one finishes, and no client is refused`, async () => {
    const passes = which === "every pass" ? all : onePerName(all, seed);
    for (const [i, pass] of passes.entries()) {
      const { died, row } = await run!.crash(pass, passes[i + 1]);
      const where = `${pass.credential} at ${pass.name}:${pass.n}`;
      expect({ where, died, status: row.status, reason: row.reason }).toEqual({
        where,
        died: "SIGKILL",
        status: "done",
        reason: null,
      });
      await nothingLeftOver(run!, pass.credential, row.id, where);
      if (pass.credential === password) await onlyTheNewPasswordWorks(run!, where);
      else await theNewCertificateIsServed(run!, where);
      const { databaseRefused, databaseFailed, tlsRefused, tlsFailed, reasons } = run!.world.counts();
      expect({ where, databaseRefused, databaseFailed, tlsRefused, tlsFailed, reasons }).toEqual({
        where,
        databaseRefused: 0,
        databaseFailed: 0,
        tlsRefused: 0,
        tlsFailed: 0,
        reasons: [],
      });
    }
    expect(await run!.app.auditVerify([])).toMatchObject({ verification: { ok: true } });
    const counts = await run!.counts();
    // The clients did try, all the time, and with many a version.
    expect(counts.database["shop_a"]).toBeGreaterThan(0);
    expect(counts.database["shop_b"]).toBeGreaterThan(0);
    expect(Object.keys(counts.tls).length).toBeGreaterThan(1);
    expect(counts).toMatchObject({ databaseRefused: 0, databaseFailed: 0, tlsRefused: 0, tlsFailed: 0 });
  }, 400_000);
}

function onePerName(passes: readonly Pass[], seed: number): Pass[] {
  const random = seededRandom(seed);
  const names = [...new Set(passes.map(({ name }) => name))];
  return names.map((name) => {
    const same = passes.filter((pass) => pass.name === name);
    return same[Math.floor(random() * same.length)]!;
  });
}

/** Journal, versions, sealed records and files. */
async function nothingLeftOver(run: CrashRun, credential: string, rotation: string, where: string): Promise<void> {
  const { store } = await run.app.engine();
  const rows = await store.journal.list({ rotation, limit: 1000 });
  const outcomes = rows.filter(({ kind }) => kind === "outcome").map(({ effect }) => effect);
  const intents = rows.filter(({ kind }) => kind === "intent").map(({ effect }) => effect);
  expect(intents.length, where).toBeGreaterThan(0);
  expect(outcomes.toSorted(), where).toEqual(intents.toSorted());

  const versions = await store.versions.list(credential);
  const current = versions.filter(({ state }) => state === "current");
  expect(current.length, where).toBe(1);
  const odd = versions.filter(
    ({ state, material }) =>
      (state !== "current" && state !== "retired") || material === "volatile" || material === "lost",
  );
  expect(odd, where).toEqual([]);
  for (const version of versions) {
    const kept = version.id === current[0]!.id;
    expect(version.material, `${where}: ${version.id}`).toBe(kept ? "sealed" : "none");
    const sealed = await store.sealed.find(credential, version.id, "material");
    expect(sealed !== undefined, `${where}: ${version.id}`).toBe(kept);
    // The half that was sealed before the issuer was asked is of no use any more.
    expect(await store.sealed.find(credential, version.id, "minted"), `${where}: ${version.id}`).toBeUndefined();
  }
  const expected = ["ca.key", "ca.pem", "data", "keyroll.yaml", "shop.env", "shop.key", "shop.pem", "tls.pid"];
  const files = readdirSync(run.world.folder).filter((name) => !name.startsWith("trace-"));
  expect(files.toSorted(), where).toEqual(expected);
}

async function onlyTheNewPasswordWorks({ world }: CrashRun, where: string): Promise<void> {
  const env = parseEnv(readFileSync(join(world.folder, "shop.env"), "utf8"));
  const { rows } = await world.database.sql(
    "select rolname, rolcanlogin, rolpassword is not null as has from pg_authid where rolname like 'shop\\_%' order by 1",
  );
  const usable = (rows as { rolname: string; rolcanlogin: boolean; has: boolean }[])
    .filter(({ rolcanlogin, has }) => rolcanlogin && has)
    .map(({ rolname }) => rolname);
  expect(usable, where).toEqual([env["DB_USER"]]);
  const client = new pg.Client({
    host: "127.0.0.1",
    port: world.database.port,
    database: "shop",
    user: env["DB_USER"],
    password: env["DB_PASSWORD"],
  });
  await client.connect();
  await client.end();
}

async function theNewCertificateIsServed({ world, app }: CrashRun, where: string): Promise<void> {
  const pem = readFileSync(join(world.folder, "shop.pem"));
  const served = new X509Certificate(pem);
  expect(served.checkPrivateKey(createPrivateKey(readFileSync(join(world.folder, "shop.key")))), where).toBe(true);
  const fingerprint = served.fingerprint256.replaceAll(":", "").toLowerCase();
  const { store } = await app.engine();
  const current = (await store.versions.list(certificate)).find(({ state }) => state === "current");
  expect(current?.facts?.fingerprint, where).toBe(fingerprint);
  expect(existsSync(join(world.folder, "tls.pid")), where).toBe(true);
  // What is really served, from the clients' own count, which is sent five times a second.
  await expect
    .poll(() => Object.keys(world.counts().tls).includes(fingerprint), { timeout: 10_000, message: where })
    .toBe(true);
}
