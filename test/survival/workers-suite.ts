/**
 * Three worker processes on one PostgreSQL, one of them killed in the middle and one frozen until others have taken over what it held. What is proved is
 * read from the journal, and from what the places themselves noted about every effect: who made it, and who held the rotation at that moment.
 */
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { App } from "../../src/app.ts";
import { startPostgres, type PostgresServer } from "../../src/demo/postgres-server.ts";
import { inParallel } from "../../src/engine/deps.ts";
import { startWorkerProcess, type WorkerProcess } from "./processes.ts";
import { tableEstate, tableRegistry, tableSchema, type TableRegistry } from "./table-places.ts";

const shortLeaseMs = 2500;

export interface TableWorldOptions {
  /** What was committed survives a kill of the server. Slower. */
  readonly durable?: boolean;
  readonly soak?: string;
  /** Default: short, so that a test need not wait long for a take-over. */
  readonly leaseMs?: number;
  readonly sweepMs?: number;
}

export interface TableWorld extends AsyncDisposable {
  readonly server: PostgresServer;
  readonly app: App;
  readonly names: readonly string[];
  readonly folder: string;
  readonly leaseMs: number;
  sql<R>(text: string): Promise<readonly R[]>;
  worker(more?: { freezeAt?: string; concurrency?: number }, env?: Readonly<Record<string, string>>): WorkerProcess;
}

/** A database of its own with `count` credentials whose places are its rows. */
export async function openTableWorld(count: number, options: TableWorldOptions = {}): Promise<TableWorld> {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-workers-")));
  const leaseMs = options.leaseMs ?? shortLeaseMs;
  const processes: WorkerProcess[] = [];
  let server: PostgresServer | null = null;
  let app: App | null = null;
  let registry: TableRegistry | null = null;
  const close = async (): Promise<void> => {
    await Promise.all(processes.map((each) => each.end()));
    await app?.close();
    await registry?.close();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const started = await startPostgres({
      settings: { max_connections: "120", synchronous_commit: options.durable === true ? "on" : "off" },
    });
    server = started;
    const { yaml, rows, names } = tableEstate(count, options.soak);
    const estateFile = join(folder, "keyroll.yaml");
    writeFileSync(estateFile, yaml);
    await started.sql(tableSchema);
    await started.sql(rows);
    registry = tableRegistry(started.url);
    const opened = new App({
      env: process.env,
      cwd: folder,
      file: estateFile,
      dataDir: folder,
      databaseUrl: started.url,
      person: "tester",
      registry: registry.registry,
    });
    app = opened;
    await opened.engine();
    return {
      server: started,
      app: opened,
      names,
      folder,
      leaseMs,
      sql: async <R>(text: string) => (await started.sql(text)).rows as R[],
      worker(more = {}, env = {}) {
        const settings = {
          estateFile,
          dataDir: folder,
          databaseUrl: started.url,
          engine: { leaseMs },
          tables: started.url,
        };
        const worker = startWorkerProcess({ ...settings, sweepMs: options.sweepMs ?? 500, ...more }, env);
        processes.push(worker);
        return worker;
      },
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

export async function startAll(world: TableWorld): Promise<void> {
  const { rotations } = await world.app.engine();
  const how = { mode: "planned", strategy: "availability-first", startedBy: "tester", planDigest: null } as const;
  await inParallel(world.names, 4, (credential) => rotations.start({ credential, ...how }));
}

export async function finished(world: TableWorld, count: number, patienceMs: number): Promise<void> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    const [row] = await world.sql<{ done: number; open: number }>(
      "select count(*) filter (where status = 'done')::int as done, count(*) filter (where ended_at is null)::int as open from keyroll.rotations",
    );
    if (row!.done === count) return;
    if (performance.now() > deadline) {
      const rest = await world.sql(
        "select id, status, reason, waiting_for, lease_owner, lease_fence, lease_until, next_wake_at, now() from keyroll.rotations where status <> 'done' limit 5",
      );
      throw new Error(`${row!.done} of ${count} rotations are done, ${row!.open} are open: ${JSON.stringify(rest)}`);
    }
    await sleep(200);
  }
}

export function workersSuite(count: number): void {
  test(`${count} rotations, three workers, one killed and one frozen`, async () => {
    await using world = await openTableWorld(count);
    await startAll(world);
    // The hardest moment to be frozen at: the intent is written, and the effect comes next.
    const freezing = world.worker({ freezeAt: "after-intent:add" });
    const dying = world.worker(
      {},
      { KEYROLL_CRASH_AT: `after-effect:activate:${Math.max(2, Math.floor(count / 10))}` },
    );
    const steady = world.worker();
    await Promise.all([freezing.ready, dying.ready, steady.ready]);
    freezing.go();
    dying.go();
    steady.go();

    await freezing.frozen;
    const frozenHeld = await heldBy(world, freezing.pid);
    expect(await dying.ended).toBe("SIGKILL");
    // Thawed only when everything that it held has been taken over, or has ended without it.
    await expect
      .poll(async () => (await heldBy(world, freezing.pid)).filter((id) => frozenHeld.includes(id)).length, {
        timeout: 60_000,
      })
      .toBe(0);
    freezing.signal("SIGCONT");
    await finished(world, count, 240_000);
    await Promise.all([freezing.rest(), steady.rest()]);
    // Nothing that thawed late may arrive after the end.
    await sleep(300);
    expect(frozenHeld.length).toBeGreaterThan(0);
    await judge(world, count, frozenHeld);
  }, 400_000);
}

async function heldBy(world: TableWorld, pid: number): Promise<string[]> {
  const rows = await world.sql<{ id: string }>(`select id from keyroll.rotations where lease_owner like '%-${pid}-%'`);
  return rows.map(({ id }) => id);
}

interface EffectRow {
  readonly pid: number;
  readonly verb: string;
  readonly version: string;
  readonly rotation: string | null;
  readonly owner: string | null;
  readonly fence: string | null;
}
interface JournalLine {
  readonly seq: string;
  readonly rotation: string;
  readonly kind: string;
  readonly actor: string;
  readonly effect: string;
  readonly payload: {
    readonly verb: string;
    readonly version: string;
    readonly fence?: number;
    readonly result?: string;
  };
}

async function judge(world: TableWorld, count: number, frozenHeld: readonly string[]): Promise<void> {
  // At most one rotation per credential at a time: here each had exactly one, and none was doubled.
  const [{ most } = { most: 0 }] = await world.sql<{ most: number }>(
    "select max(n)::int as most from (select count(*) as n from keyroll.rotations group by credential) as each",
  );
  expect(most).toBe(1);

  const effects = await world.sql<EffectRow>(
    "select pid, verb, version, rotation, owner, fence from survival.effects order by seq",
  );
  const journal = await world.sql<JournalLine>(
    "select seq, rotation, kind, actor, effect, payload from keyroll.journal where kind in ('intent', 'outcome') order by seq",
  );
  const intents = journal.filter(({ kind }) => kind === "intent");

  // No effect was made by a worker that had lost its fence: at the very moment of each, the database said that its process held the rotation,
  // and under that fence the journal has the intent of exactly this effect by exactly this worker.
  for (const { pid, verb, version, rotation, owner, fence } of effects) {
    const what = `${verb} ${version} by process ${pid}, while ${owner} held ${rotation} with fence ${fence}`;
    expect(owner, what).toContain(`-${pid}-`);
    const meant = intents.some(
      ({ rotation: id, actor, payload }) =>
        id === rotation &&
        actor === `worker:${owner}` &&
        payload.verb === verb &&
        payload.version === version &&
        payload.fence === Number(fence),
    );
    expect(meant, what).toBe(true);
  }
  // Within a rotation the fences of the journal only grow, and one fence belongs to one worker.
  const last = new Map<string, { fence: number; actor: string }>();
  let takenOver = 0;
  for (const { rotation, actor, payload } of intents) {
    const before = last.get(rotation);
    const fence = payload.fence!;
    expect(fence, rotation).toBeGreaterThanOrEqual(before?.fence ?? 0);
    if (before !== undefined && before.fence === fence) expect(actor, rotation).toBe(before.actor);
    if (before !== undefined && before.actor !== actor) takenOver++;
    last.set(rotation, { fence, actor });
  }
  expect(takenOver).toBeGreaterThan(0);
  // What the frozen worker held was finished by others.
  for (const id of frozenHeld) expect(last.has(id), id).toBe(true);

  const outcomes = new Set(journal.filter(({ kind }) => kind === "outcome").map(({ effect }) => effect));
  expect(intents.filter(({ effect }) => !outcomes.has(effect))).toEqual([]);
  expect(await world.app.auditVerify([])).toMatchObject({ verification: { ok: true } });

  // Both places of every credential hold one value, the same one, and not the one from before.
  const [{ right } = { right: 0 }] = await world.sql<{ right: number }>(`
    select count(*)::int as right from (
      select split_part(place, '/', 1) as name, count(*) as rows, count(distinct value) as different, bool_or(value like 'old-password%') as old
      from survival.stored group by 1
    ) as each where rows = 2 and different = 1 and not old`);
  expect(right).toBe(count);
}
