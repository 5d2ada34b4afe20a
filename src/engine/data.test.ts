/** Data at rest, sessions and holders that cannot be read, through the whole engine: what outlives a version is seen gone before its end. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openBench, simple, SimulatedCrash } from "../../test/support/engine.ts";
import type { Bench } from "../../test/support/engine.ts";
import { markOf } from "../../test/support/memory-places.ts";
import { withStore } from "../../test/support/store.ts";
import type { TestStore } from "../../test/support/store.ts";
import type { RotationRow } from "../store/store.ts";

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
  async function withData(stops = false): Promise<string> {
    bench = await openBench({ db, seed: 3 });
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
  }
});

describe("sessions in a breach", () => {
  for (const strategy of ["availability-first", "contain-first"] as const) {
    test(`${strategy}: what was granted to a thief is ended once no copy grants it anew`, async () => {
      bench = await openBench({ db, seed: 5 });
      await bench.apply(
        simple(bench, {
          places: [
            bench.world.verifier("db", { ...before, copies: 3, traits: { propagationMs: 600_000 } }),
            bench.world.holder("env", ["db"], { ...before, traits: { session: true } }),
          ],
        }),
      );
      bench.world.stolen.add(old);
      expect(bench.world.usable(old)).toBe(true);
      const accepted: boolean[] = [];
      const check = bench.world.onCall;
      bench.world.onCall = (call) => {
        void check?.(call);
        if (call.verb === "endSessions") accepted.push(bench.world.place("db").letsIn(old));
      };
      const started = await bench.start(bench.name, { mode: "breach", strategy });
      const ended = await bench.run(started.id);
      expect(ended.status, ended.reason ?? "").toBe("done");
      expect(accepted).toEqual([false]);
      expect(called("endSessions", "env")).toEqual([`${bench.name}#1`]);
      expect(bench.world.usable(old)).toBe(false);
      expect(bench.world.refusals()).toEqual([]);
      if (strategy === "availability-first") expect(bench.refused).toEqual([]);
    });
  }

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
  test("after a write without an answer nothing is taken away until a person has set it", async () => {
    bench = await openBench({ db });
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
    const started = await bench.start(bench.name);
    bench.world.fail("env", "activate", { kind: "unknown-applied", times: 100 });
    const halted = await bench.run(started.id);
    expect(halted.status).toBe("halted");
    expect(bench.world.place("db").values()).toContain(old);
    expect(called("remove")).toEqual([]);
    expect(bench.refused).toEqual([]);
  });
});
