/** Data at rest, sessions and holders that cannot be read, through the whole engine: what outlives a version is seen gone before its end. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openBench, simple, SimulatedCrash } from "../../test/support/engine.ts";
import type { Bench } from "../../test/support/engine.ts";
import { markOf } from "../../test/support/memory-places.ts";
import { withStore } from "../../test/support/store.ts";
import type { TestStore } from "../../test/support/store.ts";
import type { RotationRow } from "../store/store.ts";
import type { EngineOptions } from "./deps.ts";

const old = "old-password";
const before = { values: [old] };

let db: TestStore;
let bench: Bench;
beforeAll(async () => {
  db = await withStore();
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

const called = (verb: string, place = "db"): readonly string[] =>
  bench.world.calls.filter((call) => call.verb === verb && call.place === place).map((call) => call.version ?? "");

/** Runs it turn by turn, and tells what it waited for in between. */
async function watch(rotation: string, until?: (row: RotationRow) => boolean): Promise<string[]> {
  const waited: string[] = [];
  for (let turn = 0; turn < 200; turn++) {
    try {
      await bench.run(rotation, { turns: 1 });
      return waited;
    } catch (error) {
      if (!(error instanceof Error) || !error.message.includes("not at rest")) throw error;
    }
    const row = (await db.store.rotations.get(rotation))!;
    if (row.waitingFor !== null && row.waitingFor !== waited.at(-1)) waited.push(row.waitingFor);
    if (until?.(row) === true) return waited;
  }
  throw new Error(`rotation ${rotation} is not at rest`);
}

describe("data at rest", () => {
  /** 100 records, of which a job moves 40 a minute. The application writes on. */
  async function withData(stops = false, options: Partial<EngineOptions> = {}): Promise<string> {
    bench = await openBench({ db, seed: 3, options });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", {
            ...before,
            data: { records: { [old]: 100 }, batch: 40, everyMs: 60_000, stops },
          }),
          bench.world.holder("env", ["db"], { ...before, copies: 2, traits: { refreshMs: 90_000 } }),
        ],
        credential: { data: [{ name: "orders", writtenUnder: "env", readBy: ["db"], drainMs: 600_000 }] },
      }),
    );
    return (await bench.start(bench.name)).id;
  }

  /** Everything is under one version, and no record was unreadable at any moment. */
  async function expectMoved(rotation: string, status = "done"): Promise<void> {
    const row = (await db.store.rotations.get(rotation))!;
    expect(row.status, row.reason ?? row.waitingFor ?? "").toBe(status);
    expect(bench.refused).toEqual([]);
    const { records, configured } = bench.world.place("db");
    const value = bench.world.place("env").currentValue()!;
    expect(value === old).toBe(status === "rolled-back");
    expect([...records.keys()]).toEqual([markOf(value)]);
    expect(records.get(markOf(value))).toBeGreaterThanOrEqual(100);
    expect(configured.map((stored) => stored.value)).toEqual([value]);
  }

  test("none is left under the old version before it is removed, and the progress is told", async () => {
    const rotation = await withData();
    const leftWhenRemoved: (number | undefined)[] = [];
    const check = bench.world.onCall;
    bench.world.onCall = (call) => {
      void check?.(call);
      if (call.verb === "remove" && call.place === "db")
        leftWhenRemoved.push(bench.world.place("db").records.get(markOf(old)));
    };
    const waited = await watch(rotation);
    await expectMoved(rotation);
    expect(leftWhenRemoved).toEqual([undefined]);
    expect(called("reencrypt")).toEqual([`${bench.name}#2`]);
    const left = waited.flatMap((text) => {
      const found = /the data of env to be re-encrypted: (\d+) of (\d+) records left/.exec(text);
      return found === null ? [] : [Number(found[1])];
    });
    expect(left.length).toBeGreaterThanOrEqual(2);
    expect(left.every((count, index) => index === 0 || count < left[index - 1]!)).toBe(true);
  });

  for (const point of ["after-intent", "after-effect", "after-outcome"]) {
    test(`a worker that dies ${point} of the start: the next one ends it`, async () => {
      const rotation = await withData();
      bench.crashAt = { name: `${point}:reencrypt`, pass: 1 };
      await expect(bench.run(rotation)).rejects.toThrow(SimulatedCrash);
      await bench.expireLease(rotation);
      await bench.run(rotation, { worker: "w2" });
      await expectMoved(rotation);
    });
  }

  for (const kind of ["unknown-applied", "unknown-not-applied", "unknown-late"] as const) {
    test(`${kind}: a start without an answer is looked at, and asked for again only while data is left`, async () => {
      const rotation = await withData();
      bench.world.fail("db", "reencrypt", { kind, lateMs: 30_000 });
      await bench.run(rotation);
      await expectMoved(rotation);
    });
  }

  for (const stops of [true, false]) {
    test(`turned round while a job runs that ${stops ? "can" : "cannot"} be stopped: the data goes back first`, async () => {
      const rotation = await withData(stops);
      await watch(rotation, (row) => row.waitingFor?.includes("records left") === true);
      expect(bench.world.place("db").job).not.toBe(markOf(old));
      await bench.rotations.rollback(rotation, { person: "alice" });
      await bench.run(rotation);
      await expectMoved(rotation, "rolled-back");
      expect(called("reencrypt").at(-1)).toBe(`${bench.name}#1`);
      if (!stops) expect(called("stopReencrypt")).toEqual([]);
    });

    test(`turned round before a job that ${stops ? "can" : "cannot"} be stopped has moved anything: it does no harm later`, async () => {
      const rotation = await withData(stops, { effectsPerTurn: 1 });
      await watch(rotation, () => called("reencrypt").length > 0);
      expect([...bench.world.place("db").records.keys()]).toEqual([markOf(old)]);
      await bench.rotations.rollback(rotation, { person: "alice" });
      await bench.run(rotation);
      await expectMoved(rotation, "rolled-back");
      // A job that nobody can stop is ended by another one, whose target is where the data is.
      expect(called("stopReencrypt")).toEqual(stops ? [`${bench.name}#2`] : []);
      expect(called("reencrypt").slice(1)).toEqual(stops ? [] : [`${bench.name}#1`]);
      // Long after, the data is still readable with what is trusted.
      bench.clock.moveTo(bench.clock.now() + 3_600_000);
      expect(bench.world.refusals()).toEqual([]);
    });

    test(`a stop without an answer that was ${stops ? "" : "not "}obeyed counts as not done until another job takes its place`, async () => {
      const rotation = await withData(true, { effectsPerTurn: 1 });
      await watch(rotation, () => called("reencrypt").length > 0);
      bench.world.fail("db", "stopReencrypt", stops ? "unknown-applied" : "unknown-not-applied");
      await bench.rotations.rollback(rotation, { person: "alice" });
      await bench.run(rotation);
      await expectMoved(rotation, "rolled-back");
      bench.clock.moveTo(bench.clock.now() + 3_600_000);
      expect(bench.world.refusals()).toEqual([]);
    });
  }
});

describe("sessions in a breach", () => {
  // The holder's registrations are part of the order; the sessions that a server keeps open are ended when the order is done.
  for (const keeper of ["env", "db"])
    for (const strategy of ["availability-first", "contain-first"] as const)
      test(`${strategy}: what ${keeper} granted to a thief is ended once no copy grants it anew`, async () => {
        const session = (name: string): { session: boolean } => ({ session: name === keeper });
        bench = await openBench({ db, seed: 5 });
        await bench.apply(
          simple(bench, {
            places: [
              bench.world.verifier("db", {
                ...before,
                copies: 3,
                traits: { propagationMs: 600_000, ...session("db") },
              }),
              bench.world.holder("env", ["db"], { ...before, traits: session("env") }),
            ],
          }),
        );
        bench.world.stolen.add(old);
        expect(bench.world.usable(old)).toBe(true);
        // The first attempt fails, and is made good.
        bench.world.fail(keeper, "endSessions", "unavailable");
        const accepted: boolean[] = [];
        const check = bench.world.onCall;
        bench.world.onCall = (call) => {
          void check?.(call);
          if (call.verb === "endSessions") accepted.push(bench.world.place("db").letsIn(old));
        };
        const started = await bench.start(bench.name, { mode: "breach", strategy });
        const ended = await bench.run(started.id);
        expect(ended.status, ended.reason ?? "").toBe("done");
        expect(accepted).toEqual([false, false]);
        expect(called("endSessions", keeper)).toEqual([`${bench.name}#1`, `${bench.name}#1`]);
        expect(bench.world.usable(old)).toBe(false);
        expect(bench.world.refusals()).toEqual([]);
        if (strategy === "availability-first") expect(bench.refused).toEqual([]);
      });

  test("contained first, the new version is trusted and given out while the removal still travels", async () => {
    bench = await openBench({ db, seed: 5 });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", { ...before, copies: 3, traits: { propagationMs: 600_000 } }),
          bench.world.holder("env", ["db"], { ...before, traits: { session: true } }),
        ],
      }),
    );
    const started = await bench.start(bench.name, { mode: "breach", strategy: "contain-first" });
    await bench.run(started.id);
    const at = (verb: string, place: string): number =>
      bench.world.calls.find((call) => call.verb === verb && call.place === place)!.atMs;
    const removedMs = at("remove", "db");
    expect(at("add", "db") - removedMs).toBeLessThan(60_000);
    expect(at("activate", "env") - removedMs).toBeLessThan(60_000);
    expect(at("endSessions", "env") - removedMs).toBeGreaterThanOrEqual(600_000);
  });
});

describe("a holder that cannot be read", () => {
  async function withBlind(): Promise<string> {
    bench = await openBench({ db, options: { maxAttempts: 3 } });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", before),
          bench.world.holder("env", ["db"], {
            ...before,
            blind: true,
            traits: { readable: false, storeCapacity: 1, staging: false },
          }),
        ],
      }),
    );
    // What was there before Keyroll cannot be known. From the second version on, it is what was given last.
    expect((await bench.run((await bench.start(bench.name)).id)).status).toBe("done");
    return (await bench.start(bench.name)).id;
  }

  for (const kind of ["unknown-applied", "unknown-not-applied", "unknown-late"] as const) {
    test(`${kind}: nothing is taken away before a write was confirmed`, async () => {
      const rotation = await withBlind();
      const given = called("activate", "env").length;
      bench.world.fail("env", "activate", kind);
      const ended = await bench.run(rotation);
      expect(ended.status, ended.reason ?? "").toBe("done");
      expect(called("activate", "env").slice(given)).toEqual([`${bench.name}#2`, `${bench.name}#2`]);
      const order = bench.world.calls.map(({ place, verb }) => `${verb} ${place}`);
      expect(order.indexOf("remove db")).toBeGreaterThan(order.lastIndexOf("activate env"));
      expect(bench.refused).toEqual([]);
    });

    test(`${kind}, turned round: nothing is taken away until it is known what is in use`, async () => {
      const rotation = await withBlind();
      bench.world.fail("env", "activate", { kind, times: 3, lateMs: 20_000 });
      const halted = await bench.run(rotation);
      expect(halted.status).toBe("halted");
      expect(called("remove")).toEqual([]);
      await bench.rotations.rollback(rotation, { person: "alice" });
      const back = await bench.run(rotation);
      expect(back.status, back.reason ?? "").toBe("rolled-back");
      // Whether the new version was in use cannot be read. So the old one is given again, and only then the new one refused.
      const effects = bench.world.calls.map(({ verb, place, version }) => `${verb} ${place} ${version}`);
      expect(effects.filter((text) => /^(activate|remove)/.test(text)).slice(-2)).toEqual([
        `activate env ${bench.name}#1`,
        `remove db ${bench.name}#2`,
      ]);
      bench.clock.moveTo(bench.clock.now() + 3_600_000);
      expect(bench.world.refusals()).toEqual([]);
      expect(bench.refused).toEqual([]);
    });
  }
});
