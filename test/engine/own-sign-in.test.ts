/**
 * Keyroll rolls the password that it signs in to a real PostgreSQL server with, through that very sign-in. Nothing here knows the new passwords:
 * whether Keyroll can still get in is asked of Keyroll.
 */
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { CallContext, Log } from "../../src/connectors/connector.ts";
import { shippedRegistry } from "../../src/connectors/registry.ts";
import { startPostgres, type PostgresServer } from "../../src/demo/postgres-server.ts";
import { seededRandom, systemClock } from "../../src/engine/clock.ts";
import { defaultEngineOptions, type EngineDeps } from "../../src/engine/deps.ts";
import { openJournal } from "../../src/engine/journal.ts";
import { createLimits } from "../../src/engine/limits.ts";
import { createRotations, type Rotations } from "../../src/engine/rotations.ts";
import { openSealer } from "../../src/engine/seal.ts";
import { signedInSystem } from "../../src/engine/start.ts";
import { workOn } from "../../src/engine/worker.ts";
import { loadEstate } from "../../src/estate/load.ts";
import type { RotationRow } from "../../src/store/store.ts";
import { withStore, type TestStore } from "../support/store.ts";

const first = "the-first-password";
const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined };

let server: PostgresServer;
let folder: string;
let db: TestStore;
let deps: EngineDeps;
let rotations: Rotations;
/** Ends the "process" at this crash point. */
let dieAt: string | null;

beforeAll(async () => {
  server = await startPostgres();
  folder = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-own-")));
});
afterAll(async () => {
  await server?.stop();
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  for (const role of ["keyroll_a", "keyroll_b", "app_a", "app_b"]) {
    await server.sql(`do $$ begin
      if exists (select from pg_roles where rolname = '${role}') then execute 'drop owned by ${role}'; execute 'drop role ${role}'; end if;
    end $$`);
  }
  for (const role of ["keyroll_admin", "app"]) await server.sql(`drop role if exists ${role}`);
  // As the connector's page says.
  await server.sql(`
    create role app nologin;
    create role keyroll_admin nologin superuser;
    create role keyroll_a login password '${first}' in role keyroll_admin;
    alter role keyroll_a set role to keyroll_admin`);
  writeFileSync(
    join(folder, "keyroll.yaml"),
    `version: 1
defaults: { owner: platform, policy: { maxAge: 90d } }
systems:
  pg: { type: postgres, url: "\${env:ADMIN_URL}", signIn: admin-password }
credentials:
  admin-password:
    kind: password
    issuer: { type: random, length: 40 }
    places:
      roles: { type: postgres.role, system: pg, owner: keyroll_admin, roles: [keyroll_a, keyroll_b] }
  app-password:
    kind: password
    issuer: { type: random, length: 40 }
    places:
      role: { type: postgres.role, system: pg, owner: app, roles: [app_a, app_b] }
      env: { type: file.value, path: ./app.env, format: dotenv, keys: { user: DB_USER, password: DB_PASSWORD } }
`,
  );
  await db?.[Symbol.asyncDispose]();
  db = await withStore();
  const registry = shippedRegistry();
  const { estate, text } = await loadEstate(join(folder, "keyroll.yaml"), {
    registry,
    env: { ADMIN_URL: server.urlFor("keyroll_a", first) },
  });
  await db.store.estate.apply({
    digest: estate.digest,
    text,
    appliedBy: "test",
    credentials: estate.credentials.map((declaration) => ({
      name: declaration.name,
      owner: declaration.owner,
      kind: declaration.kind,
      labels: {},
      declaration: { ...declaration, places: declaration.places.map((place) => ({ ...place, config: null })) },
    })),
  });
  dieAt = null;
  const sealer = await openSealer(db.store);
  deps = {
    store: db.store,
    journal: openJournal(db.store, sealer),
    sealer,
    registry,
    estate: () => estate,
    clock: systemClock,
    random: seededRandom(1),
    limits: createLimits(systemClock),
    log: silent,
    options: defaultEngineOptions,
    nowMs: () => db.store.now(),
    crashPoint(name) {
      if (name !== dieAt) return;
      dieAt = null;
      throw new Error("the process ended");
    },
  };
  rotations = createRotations(deps);
});
afterAll(async () => {
  await db?.[Symbol.asyncDispose]();
});

async function start(credential: string): Promise<RotationRow> {
  const request = { credential, mode: "planned", strategy: "availability-first" } as const;
  const { plan } = await rotations.preview(request);
  return await rotations.start({ ...request, startedBy: "starter", planDigest: plan.digest });
}

async function finish(id: string, worker = "w1"): Promise<RotationRow> {
  for (let turn = 0; turn < 200; turn++) {
    await workOn(deps, worker, id);
    const row = (await db.store.rotations.get(id))!;
    if (row.endedAtMs !== null || row.status === "halted") return row;
    await sleep(20);
  }
  throw new Error(`${id} is not over.`);
}

/** Signs in as Keyroll would now, and says as whom. Throws where the server says no. */
async function signIn(): Promise<string> {
  const [system] = deps.estate().systems;
  const { config } = await signedInSystem(deps, system!);
  const cx: CallContext = {
    now: () => Date.now(),
    signal: new AbortController().signal,
    throttle: async () => undefined,
    log: silent,
  };
  await deps.registry.systemType("postgres")!.check!(cx, config);
  return (config as { user: string }).user;
}

const canLogIn = async (): Promise<string[]> =>
  (
    await server.sql(
      "select rolname::text as name from pg_authid where rolname like 'keyroll%' and rolcanlogin and rolpassword is not null order by 1",
    )
  ).rows.map((row: { name: string }) => row.name);

describe("an admin password that is rolled through itself", () => {
  test("the plan shows Keyroll's own sign-in, and the run moves it before the old one goes", async () => {
    const { plan, adopted } = await rotations.preview({
      credential: "admin-password",
      mode: "planned",
      strategy: "availability-first",
    });
    expect(plan.safety.verdict).toBe("proved");
    expect(adopted).toEqual([{ version: "admin-password#1", place: "keyroll sign-in (pg)" }]);
    const steps = plan.steps.filter((step) => step.by === "keyroll").map((step) => `${step.action} ${step.place}`);
    expect(steps.filter((step) => /^(trust|set|distrust)/.test(step))).toEqual([
      "trust roles",
      "set keyroll sign-in (pg)",
      "distrust roles",
    ]);
    expect(await signIn()).toBe("keyroll_a");

    expect((await finish((await start("admin-password")).id)).status).toBe("done");
    expect(await signIn()).toBe("keyroll_b");
    expect(await canLogIn()).toEqual(["keyroll_b"]);

    // What else is on that server goes on being rolled, and so does the sign-in itself.
    expect((await finish((await start("app-password")).id)).status).toBe("done");
    expect(readFileSync(join(folder, "app.env"), "utf8")).toMatch(/DB_USER="?app_a/);
    expect((await finish((await start("admin-password")).id)).status).toBe("done");
    expect(await signIn()).toBe("keyroll_a");
    expect(await canLogIn()).toEqual(["keyroll_a"]);
    expect((await deps.journal.verify()).ok).toBe(true);
  });

  for (const point of ["after-effect:activate", "after-outcome:activate", "after-effect:remove"])
    test(`a worker that ends at ${point} leaves one that can sign in and finish`, async () => {
      const { id } = await start("admin-password");
      dieAt = point;
      await expect(workOn(deps, "w1", id)).rejects.toThrow("the process ended");
      expect(await signIn()).toBe("keyroll_b");
      await db.sql("update keyroll.rotations set lease_until = now() - interval '1 second' where id = $1", [id]);
      expect((await finish(id, "w2")).status).toBe("done");
      expect(await signIn()).toBe("keyroll_b");
      expect(await canLogIn()).toEqual(["keyroll_b"]);
    });

  test("is rolled back to the password that the url has", async () => {
    const { id } = await start("admin-password");
    dieAt = "before-intent:remove";
    await expect(workOn(deps, "w1", id)).rejects.toThrow("the process ended");
    expect(await signIn()).toBe("keyroll_b");
    await db.sql("update keyroll.rotations set lease_until = now() - interval '1 second' where id = $1", [id]);
    await rotations.rollback(id, { person: "starter" });
    expect((await finish(id, "w2")).status).toBe("rolled-back");
    expect(await signIn()).toBe("keyroll_a");
    expect(await canLogIn()).toEqual(["keyroll_a"]);
  });
});
