/**
 * The engine: steps a second with two workers and places in memory against bare pg-boss jobs that do one insert each; what 10,000 rotations cost that
 * wait for weeks; and how long it takes until another worker goes on with what a killed one had begun.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { PgBoss } from "pg-boss";
import type { Log } from "../src/connectors/connector.ts";
import type { CredentialDecl, Estate } from "../src/core/place.ts";
import { startPostgres, type PostgresServer } from "../src/demo/postgres-server.ts";
import { systemClock } from "../src/engine/clock.ts";
import { defaultEngineOptions, inParallel, type EngineDeps } from "../src/engine/deps.ts";
import { openJournal } from "../src/engine/journal.ts";
import { createLimits } from "../src/engine/limits.ts";
import { createRotations } from "../src/engine/rotations.ts";
import { openSealer } from "../src/engine/seal.ts";
import { startWorker } from "../src/engine/worker.ts";
import { openStore } from "../src/store/open.ts";
import type { Store } from "../src/store/store.ts";
import { credential } from "../test/support/declare.ts";
import { MemoryWorld } from "../test/support/memory-places.ts";
import { openTableWorld, type TableWorld } from "../test/survival/workers-suite.ts";
import type { Frame, Sample } from "./frame.ts";

export const name = "engine";

const rotationsPerRound = 60;
const workers = 2;
const lanes = 8;
const parked = 10_000;
const idleMs = 5000;
const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined };

export async function run(frame: Frame): Promise<void> {
  await benchSteps(frame);
  await benchParked(frame);
  await benchTakeOver(frame);
}

interface World extends AsyncDisposable {
  readonly server: PostgresServer;
  readonly stores: readonly Store[];
  readonly world: MemoryWorld;
  readonly names: readonly string[];
  depsOf(store: Store): Promise<EngineDeps>;
}

/** A server of its own that makes every commit durable, as an operator's does. */
async function openWorld(count: number, storeCount: number): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), "keyroll-bench-"));
  const server = await startPostgres({ settings: { max_connections: "120", fsync: "on" } });
  const stores: Store[] = [];
  for (let n = 0; n < storeCount; n++) stores.push(await openStore({ dataDir: folder, databaseUrl: server.url }));
  const world = new MemoryWorld({ now: Date.now, random: Math.random });
  const credentials: CredentialDecl[] = Array.from({ length: count }, (_, n) => {
    const values = [`old-${n}`];
    const places = [world.verifier(`db-${n}`, { values }), world.holder(`env-${n}`, [`db-${n}`], { values })];
    return credential(`app-${n}`, places, { issuer: world.issuer() });
  });
  const estate: Estate = { systems: [], credentials, digest: "bench" };
  await stores[0]!.estate.apply({
    digest: estate.digest,
    text: "version: 1",
    appliedBy: "bench",
    credentials: credentials.map((declaration) => ({
      name: declaration.name,
      owner: declaration.owner,
      kind: declaration.kind,
      labels: declaration.labels,
      declaration,
    })),
  });
  return {
    server,
    stores,
    world,
    names: credentials.map((each) => each.name),
    async depsOf(store) {
      const sealer = await openSealer(store);
      return {
        store,
        journal: openJournal(store, sealer),
        sealer,
        registry: world.registry,
        estate: () => estate,
        clock: systemClock,
        random: Math.random,
        limits: createLimits(systemClock),
        log: silent,
        options: defaultEngineOptions,
        nowMs: () => store.now(),
        crashPoint: () => undefined,
      };
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(stores.map((store) => store.close()));
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function benchSteps(frame: Frame): Promise<void> {
  await using bench = await openWorld(rotationsPerRound, workers);
  const deps = await Promise.all(bench.stores.map((store) => bench.depsOf(store)));
  const rotations = createRotations(deps[0]!);
  const { sql } = bench.server;

  async function ours(): Promise<Sample> {
    const how = { mode: "planned", strategy: "availability-first", startedBy: "bench", planDigest: null } as const;
    const [{ seq } = { seq: 0 }] = (await sql("select coalesce(max(seq), 0)::int as seq from keyroll.journal"))
      .rows as { seq: number }[];
    await inParallel(bench.names, 4, (credentialName) => rotations.start({ credential: credentialName, ...how }));
    const began = performance.now();
    const started = await Promise.all(deps.map((each) => startWorker(each, { concurrency: lanes })));
    for (;;) {
      const [row] = (await sql("select count(*)::int as open from keyroll.rotations where ended_at is null")).rows as {
        open: number;
      }[];
      if (row!.open === 0) break;
      await sleep(20);
    }
    const wallMs = performance.now() - began;
    await Promise.all(started.map((worker) => worker.stop()));
    const [done] = (
      await sql(
        "select count(*)::int as steps from keyroll.journal where seq > $1 and kind = 'outcome' and payload ->> 'result' = 'done'",
        [seq],
      )
    ).rows as { steps: number }[];
    if (done!.steps < rotationsPerRound * 4) throw new Error(`only ${done!.steps} steps were done`);
    return { stepsPerSecond: done!.steps / (wallMs / 1000), steps: done!.steps, wallMs };
  }

  await sql("create table public.bench (id bigserial primary key, job text not null)");
  const bosses = await Promise.all(
    Array.from({ length: workers }, async () => {
      const boss = new PgBoss({
        connectionString: bench.server.url,
        schema: "bare",
        supervise: false,
        schedule: false,
        max: lanes,
      });
      boss.on("error", (error) => {
        throw error;
      });
      await boss.start();
      return boss;
    }),
  );
  await bosses[0]!.createQueue("bench");
  const pool = new pg.Pool({ connectionString: bench.server.url, max: lanes * workers });

  async function bare(): Promise<Sample> {
    const jobs = rotationsPerRound * 6;
    for (let n = 0; n < jobs; n++) await bosses[0]!.send("bench", { n });
    const began = performance.now();
    await Promise.all(
      bosses.flatMap((boss) =>
        Array.from({ length: lanes }, async () => {
          for (;;) {
            const [job] = await boss.fetch("bench");
            if (job === undefined) return;
            await pool.query("insert into public.bench (job) values ($1)", [job.id]);
            await boss.complete("bench", job.id);
          }
        }),
      ),
    );
    const wallMs = performance.now() - began;
    return { stepsPerSecond: jobs / (wallMs / 1000), steps: jobs, wallMs };
  }

  try {
    await frame.compare({
      title: "steps a second, 2 workers with 8 rotations each at once (goal: a third of bare jobs)",
      metric: "stepsPerSecond",
      better: "larger",
      goal: 1 / 3,
      contenders: [
        { name: "keyroll, places in memory", run: ours },
        { name: "pg-boss, one insert a job", run: bare },
      ],
      notes: [
        "A step is an effect with its intent and its outcome in the chained journal, its fence, its looks before and after, and its state; a bare job is fetch, insert, complete. Both wait for every commit to be on disk, and never for a poll.",
      ],
    });
  } finally {
    await pool.end();
    await Promise.all(bosses.map((boss) => boss.stop({ graceful: false })));
  }
}

async function benchParked(frame: Frame): Promise<void> {
  await using full = await openWorld(parked, 1);
  await using empty = await openWorld(1, 1);
  const store = full.stores[0]!;
  frame.say(`parking ${parked} rotations`);
  // Their plans and places do not matter to a worker that only waits; what it sees are rows that are due in a month, and the jobs behind them.
  await inParallel(full.names, 4, (credentialName) =>
    store.transaction(async (tx) => {
      const dueAtMs = (await tx.now()) + 30 * 86_400_000;
      const row = await tx.rotations.create({
        credential: credentialName,
        mode: "planned",
        strategy: "availability-first",
        fromVersion: null,
        planDigest: "bench",
        plan: {},
        exposed: [],
        startedBy: "bench",
        nextWakeAtMs: dueAtMs,
      });
      await tx.rotations.update(row.id, { status: "waiting", waitingFor: "the soak" });
      await tx.enqueue(row.id, dueAtMs);
    }),
  );
  const measure = async (bench: World): Promise<Sample> => {
    const worker = await startWorker(await bench.depsOf(bench.stores[0]!));
    await sleep(1500);
    const processBefore = process.cpuUsage();
    const serverBefore = cpuOfTree(bench.server.pid);
    const began = performance.now();
    await sleep(idleMs);
    const wallMs = performance.now() - began;
    const { user, system } = process.cpuUsage(processBefore);
    const workerPercent = ((user + system) / 1000 / wallMs) * 100;
    const databasePercent = ((cpuOfTree(bench.server.pid) - serverBefore) / wallMs) * 100;
    await worker.stop();
    return { corePercent: workerPercent + databasePercent, workerPercent, databasePercent };
  };
  await frame.compare({
    title: `idle worker with ${parked} parked rotations (goal: under 2 % of a core)`,
    metric: "corePercent",
    contenders: [
      { name: `${parked} parked`, run: () => measure(full) },
      { name: "none parked", run: () => measure(empty) },
    ],
    notes: ["Worker and database together. The database's time has a grain of 10 ms a process."],
  });
}

async function rotationEnded(world: TableWorld, id: string): Promise<void> {
  while ((await world.sql(`select 1 from keyroll.rotations where id = '${id}' and ended_at is null`)).length > 0)
    await sleep(50);
}

/** CPU time of the process and its children, in ms, from Linux's /proc; elsewhere 0. */
function cpuOfTree(root: number): number {
  if (process.platform !== "linux") return 0;
  let ticks = 0;
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      // proc(5): after the name come state, ppid, …; user and system time are the 12th and 13th of these.
      if (Number(entry) === root || Number(fields[1]) === root) ticks += Number(fields[11]) + Number(fields[12]);
    } catch {
      // It has ended meanwhile.
    }
  }
  return ticks * 10;
}

async function benchTakeOver(frame: Frame): Promise<void> {
  const repeats = 6;
  await using world = await openTableWorld(repeats, { leaseMs: defaultEngineOptions.leaseMs, sweepMs: 3000 });
  const { rotations } = await world.app.engine();
  const steady = world.worker();
  await steady.ready;
  let round = 0;
  await frame.compare({
    title: "take-over after kill -9 (goal: under 15 s)",
    metric: "takeOverMs",
    contenders: [
      {
        name: "until another worker goes on",
        async run() {
          const dying = world.worker({}, { KEYROLL_CRASH_AT: "after-intent:activate" });
          await dying.ready;
          dying.go();
          const { id } = await rotations.start({
            credential: world.names[round++]!,
            mode: "planned",
            strategy: "availability-first",
            startedBy: "bench",
            planDigest: null,
          });
          await dying.ended;
          const killedAtMs = Date.now();
          steady.go();
          for (;;) {
            const [row] = await world.sql<{ at: number }>(
              `select extract(epoch from min(at))::float8 * 1000 as at from keyroll.journal
               where rotation = '${id}' and kind = 'outcome' and payload ->> 'result' = 'unknown' having count(*) > 0`,
            );
            if (row !== undefined) {
              // Finished as well, so that nothing of it is left for the next one to die on.
              await rotationEnded(world, id);
              await steady.rest();
              return { takeOverMs: row.at - killedAtMs };
            }
            await sleep(50);
          }
        },
      },
    ],
    notes: [
      `Leases of ${defaultEngineOptions.leaseMs} ms, as by default. Killed right after an intent was written; over when the next worker has closed it.`,
    ],
  });
}
