/**
 * The engine itself, with its real database, over estates in memory that lag, fail and crash by seed. Two promises: nobody is refused at any
 * event of the true world; and every request that it sends is one that `next` offers for what it had last seen and written down (refinement).
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { assemble, effectOf } from "../../src/core/assemble.ts";
import { next } from "../../src/core/next.ts";
import type { PlaceDecl } from "../../src/core/place.ts";
import { noPlaceNotes, readNotes } from "../../src/engine/memory.ts";
import { memoryFor, recordOf, specOf } from "../../src/engine/spec.ts";
import { workOn } from "../../src/engine/worker.ts";
import { Random } from "../core/random.ts";
import { type Bench, openBench, simple, SimulatedCrash } from "../support/engine.ts";
import type { Call, FaultKind } from "../support/memory-places.ts";
import { type TestStore, withStore } from "../support/store.ts";

const seed = Number(process.env.KEYROLL_TEST_SEED ?? 1);
const runs = Number(process.env.KEYROLL_ENGINE_RUNS ?? 15);

let db: TestStore;
beforeAll(async () => {
  db = await withStore();
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

const minute = 60_000;
const faults: readonly FaultKind[] = [
  "throttled",
  "unavailable",
  "conflict",
  "unknown-applied",
  "unknown-not-applied",
  "bug",
];
const crashPoints = [
  "before-intent:add",
  "after-effect:add",
  "before-intent:activate",
  "after-effect:activate",
  "before-intent:remove",
  "after-effect:remove",
];

function randomPlaces(bench: Bench, random: Random): PlaceDecl[] {
  const verifiers = Array.from({ length: random.weighted([1, 3], [2, 2]) }, (_, index) => {
    const drain = random.weighted<"instant" | "timed">(["instant", 3], ["timed", 2]);
    return bench.world.verifier(`verifier-${index}`, {
      values: ["old-password"],
      copies: 1 + random.below(3),
      mute: random.chance(0.4),
      traits: {
        capacity: random.weighted([16, 3], [2, 2]),
        propagationMs: random.weighted([0, 1], [10 * minute, 2]),
        drain,
        drainMs: drain === "timed" ? 30 * minute : 0,
        writes: random.chance(0.3) ? "whole-set" : "entries",
        conditional: random.chance(0.5),
      },
    });
  });
  const names = verifiers.map((place) => place.name);
  const holders = Array.from({ length: random.weighted([1, 3], [2, 2]) }, (_, index) => {
    const storeCapacity = random.weighted([16, 3], [1, 2]);
    return bench.world.holder(`holder-${index}`, random.chance(0.7) ? names : [random.pick(names)], {
      values: ["old-password"],
      copies: 1 + random.below(3),
      traits: { storeCapacity, staging: storeCapacity > 1, refreshMs: random.weighted([0, 1], [20 * minute, 2]) },
    });
  });
  return [...verifiers, ...holders];
}

/** What `next` offers for what the engine has in its database at this moment, as `verb place version`. */
async function offered(bench: Bench, rotation: string, places: readonly PlaceDecl[]): Promise<string[]> {
  const row = (await db.store.rotations.get(rotation))!;
  const versions = (await db.store.versions.list(bench.name)).map(recordOf);
  const notes = new Map((await db.store.places.list(rotation)).map((kept) => [kept.place, kept.memory]));
  const rows = new Map((await db.store.observations.list(bench.name)).map((kept) => [kept.place, kept]));
  const assembled = assemble({
    credential: bench.deps.estate().credentials.find((credential) => credential.name === bench.name)!,
    versions,
    rotation: specOf(row, versions),
    seen: Object.fromEntries(
      places.map(({ name }) => [name, rows.get(name)?.error === null ? (rows.get(name)?.observation ?? null) : null]),
    ),
    memory: Object.fromEntries(
      places.map(({ name }) => {
        const canProbe = bench.world.place(name).connector().probe !== undefined;
        return [
          name,
          memoryFor(readNotes(notes.get(name), noPlaceNotes), canProbe, rows.get(name)?.observation ?? undefined),
        ];
      }),
    ),
    nowMs: bench.clock.now(),
  });
  const decision = next(assembled.topology, assembled.situation, assembled.goal);
  if (decision.kind !== "act") return [];
  return decision.actions.map((action) => {
    const effect = effectOf(assembled, action);
    return `${effect.verb} ${effect.place} ${effect.version}`;
  });
}

/** Removals that did not wait for the last token: nobody in this world keeps tokens, so the times of the requests are looked at instead. */
function tooEarly(bench: Bench, places: readonly PlaceDecl[]): string[] {
  const found: string[] = [];
  for (const verifier of places) {
    if (verifier.traits.drain !== "timed") continue;
    const removed = bench.world.calls.find((call) => call.place === verifier.name && call.verb === "remove");
    for (const holder of places) {
      if (removed === undefined || !holder.presentsTo.includes(verifier.name)) continue;
      const switched = bench.world.calls.findLast((call) => call.place === holder.name && call.verb === "activate");
      const waitedMs = removed.atMs - (switched?.atMs ?? 0);
      const neededMs = holder.traits.refreshMs + verifier.traits.drainMs;
      if (waitedMs < neededMs)
        found.push(`${verifier.name} was cut ${waitedMs} ms after ${holder.name} switched, not ${neededMs}`);
    }
  }
  return found;
}

async function play(runSeed: number): Promise<{ effects: number; crashes: number }> {
  const random = new Random(runSeed);
  const bench = await openBench({ db, seed: runSeed });
  try {
    const places = randomPlaces(bench, random);
    await bench.apply(simple(bench, { places }));
    const started = await bench.start(bench.name);
    for (const place of places)
      for (const verb of ["observe", "add", "activate", "remove"] as const)
        if (random.chance(0.15)) bench.world.fail(place.name, verb, random.pick(faults));
    let effects = 0;
    const unoffered: string[] = [];
    const check = bench.world.onCall;
    bench.world.onCall = async (call: Call) => {
      await check?.(call);
      if (call.verb !== "add" && call.verb !== "activate" && call.verb !== "remove") return;
      effects++;
      const may = await offered(bench, started.id, places);
      const did = `${call.verb} ${call.place} ${call.version}`;
      if (!may.includes(did)) unoffered.push(`${did}, while only these were offered: ${may.join(", ") || "none"}`);
    };
    if (random.chance(0.6)) bench.crashAt = { name: random.pick(crashPoints), pass: 1 + random.below(2) };
    let crashes = 0;
    let row = started;
    const run = async (turns: number): Promise<void> => {
      for (;;)
        try {
          row = await bench.run(started.id, { turns, worker: `w${crashes}` });
          return;
        } catch (error) {
          if (!(error instanceof SimulatedCrash)) throw error;
          crashes++;
          await bench.expireLease(started.id);
        }
    };
    await run(300);
    expect([runSeed, row.status, row.reason ?? row.waitingFor]).toEqual([runSeed, "done", row.reason]);
    // Whoever lags is still to be heard.
    for (;;) {
      const move = bench.world.nextMoveMs();
      if (move === null) break;
      bench.clock.moveTo(move);
      await check?.({ place: "", verb: "observe", version: null, atMs: move });
    }
    expect([runSeed, bench.refused]).toEqual([runSeed, []]);
    expect([runSeed, unoffered]).toEqual([runSeed, []]);
    expect([runSeed, tooEarly(bench, places)]).toEqual([runSeed, []]);
    const values = new Set(places.flatMap((place) => bench.world.place(place.name).values()));
    expect([runSeed, values.size, values.has("old-password")]).toEqual([runSeed, 1, false]);
    return { effects, crashes };
  } finally {
    await bench[Symbol.asyncDispose]();
  }
}

describe("turned round while a request is still on its way", () => {
  for (const [place, verb] of [
    ["db", "remove"],
    ["env", "activate"],
  ] as const)
    it(`a late "${verb}" at ${place} refuses nobody`, async () => {
      const bench = await openBench({ db, seed });
      try {
        await bench.apply(simple(bench));
        const started = await bench.start(bench.name);
        // It arrives well within the longest life of a request, and after the person has turned the rotation round.
        bench.world.fail(place, verb, { kind: "unknown-late", lateMs: 20_000 });
        const check = bench.world.onCall;
        const late = new Promise<void>((resolve) => {
          bench.world.onCall = (call) => {
            void check?.(call);
            if (call.place === place && call.verb === verb) resolve();
          };
        });
        const working = workOn(bench.deps, "w1", started.id);
        await late;
        await working;
        bench.world.onCall = check;
        const row = (await db.store.rotations.get(started.id))!;
        expect(row.endedAtMs).toBeNull();
        await bench.rotations.rollback(started.id, { person: "alice" });
        await bench.run(started.id, { turns: 300 });
        bench.clock.moveTo(bench.clock.now() + 60 * minute);
        await check?.({ place: "", verb: "observe", version: null, atMs: bench.clock.now() });
        expect(bench.refused).toEqual([]);
      } finally {
        await bench[Symbol.asyncDispose]();
      }
    });
});

describe("the engine in a world that lags and fails", () => {
  it(
    `${runs} estates from seed ${seed}: nobody refused, every request one that was offered`,
    { timeout: 120_000 },
    async () => {
      let effects = 0;
      let crashes = 0;
      for (let run = 0; run < runs; run++) {
        const outcome = await play(seed + run);
        effects += outcome.effects;
        crashes += outcome.crashes;
      }
      console.log(`engine simulation: seed ${seed}, ${effects} requests, ${crashes} crashes`);
      expect(effects).toBeGreaterThan(runs * 3);
      expect(crashes).toBeGreaterThan(runs / 5);
    },
  );
});
