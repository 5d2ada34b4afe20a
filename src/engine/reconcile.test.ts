import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openBench, simple, SimulatedCrash } from "../../test/support/engine.ts";
import type { Bench } from "../../test/support/engine.ts";
import { withStore } from "../../test/support/store.ts";
import type { TestStore } from "../../test/support/store.ts";

let db: TestStore;
let bench: Bench;
beforeAll(async () => {
  db = await withStore();
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

async function kinds(rotation: string): Promise<string[]> {
  const { events } = await bench.rotations.show(rotation);
  return events
    .filter((event) => event.kind === "outcome")
    .map((event) => {
      const { verb, place, result } = event.payload as { verb: string; place: string; result: string };
      return `${verb} ${place} ${result}`;
    });
}

/** Exactly the new version everywhere, nobody was ever refused, and the journal is whole. */
async function expectRolled(rotation: string): Promise<void> {
  const row = (await bench.db.store.rotations.get(rotation))!;
  expect(row.status, row.reason ?? row.waitingFor ?? "").toBe("done");
  expect(bench.refused).toEqual([]);
  const value = bench.world.place("env").currentValue();
  expect(value).not.toBe("old-password");
  expect(bench.world.place("db").values()).toEqual([value]);
  expect(bench.world.place("env").values()).toEqual([value]);
  expect(await bench.db.store.journal.openIntents(rotation)).toEqual([]);
  expect((await bench.deps.journal.verify()).ok).toBe(true);
}

describe("a planned rotation", () => {
  test("adds, switches and removes in the order that refuses nobody, and ends with the old one seen refused", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    await bench.run(started.id);
    await expectRolled(started.id);
    expect(await kinds(started.id)).toEqual([
      "issue issuer done",
      "add db done",
      "add env done",
      "activate env done",
      "remove db done",
      "remove env done",
    ]);
    const versions = await bench.db.store.versions.list(bench.name);
    expect(versions.map(({ id, state, material }) => ({ id, state, material }))).toEqual([
      { id: `${bench.name}#1`, state: "retired", material: "none" },
      { id: `${bench.name}#2`, state: "current", material: "sealed" },
    ]);
    const { events } = await bench.rotations.show(started.id);
    const probes = events.flatMap((event) => {
      const payload = event.payload as { probe?: string; version?: string };
      return payload.probe === undefined ? [] : [`${payload.version!.split("#")[1]} ${payload.probe}`];
    });
    // After each change of what is accepted, and after the switch; at the end the other way round.
    expect(probes).toEqual(["2 accepted", "2 accepted", "2 accepted", "1 refused"]);
  });
});

describe("what lags is waited for", () => {
  test("replicas, consumers and drains take their time, and nobody is refused meanwhile", async () => {
    bench = await openBench({ db, seed: 7 });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", {
            values: ["old-password"],
            copies: 3,
            traits: { propagationMs: 60_000, drain: "timed", drainMs: 30_000 },
          }),
          bench.world.holder("env", ["db"], {
            values: ["old-password"],
            copies: 3,
            traits: { refreshMs: 45_000, storeCapacity: 1, staging: false },
          }),
        ],
      }),
    );
    const started = await bench.start(bench.name);
    const beforeMs = bench.clock.now();
    await bench.run(started.id);
    await expectRolled(started.id);
    // Propagation of the addition, refresh, drain, propagation of the removal.
    expect(bench.clock.now() - beforeMs).toBeGreaterThanOrEqual(60_000 + 45_000 + 30_000 + 60_000);
  });

  test("a place that verifies and holds waits in each role for that role alone", async () => {
    bench = await openBench({ db, seed: 11 });
    const values = ["old-password"];
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", { values }),
          bench.world.declare("gateway", ["db"], {
            values,
            copies: 3,
            traits: { roles: ["verifier", "holder"], propagationMs: 600_000, refreshMs: 600_000 },
          }),
          bench.world.holder("env", ["gateway"], { values }),
        ],
      }),
    );
    const started = await bench.start(bench.name);
    await bench.run(started.id);
    await expectRolled(started.id);
    expect(bench.world.place("gateway").values()).toEqual([bench.world.place("env").currentValue()]);
    const at = (verb: string, place: string): number =>
      bench.world.calls.find((call) => call.verb === verb && call.place === place)!.atMs;
    // What it trusts is still travelling when it begins to use the new version itself; only its own clients wait for that.
    expect(at("activate", "gateway") - at("add", "gateway")).toBeLessThan(60_000);
    expect(at("activate", "env") - at("add", "gateway")).toBeGreaterThanOrEqual(600_000);
  });

  test("soak and windows hold removal back and say until when", async () => {
    bench = await openBench({ db, startMs: Date.UTC(2027, 0, 15, 12) });
    await bench.apply(
      simple(bench, {
        policy: {
          soakMs: 3_600_000,
          windows: [
            { days: [5], fromMinute: 11 * 60, toMinute: 15 * 60, timeZone: "UTC", text: "Fri 11:00-15:00 UTC" },
          ],
        },
      }),
    );
    const started = await bench.start(bench.name);
    await bench.run(started.id, { turns: 1 }).catch(() => undefined);
    const row = (await bench.db.store.rotations.get(started.id))!;
    expect(row.status).toBe("waiting");
    expect(row.waitingFor).toContain("proving itself");
    expect(row.nextWakeAtMs).toBeGreaterThanOrEqual(Date.UTC(2027, 0, 15, 13));
    await bench.run(started.id);
    await expectRolled(started.id);
  });
});

describe("each outcome of an effect", () => {
  const effects = [
    ["db", "add"],
    ["env", "activate"],
    ["db", "remove"],
    ["env", "remove"],
    ["issuer", "issue"],
  ] as const;
  for (const kind of [
    "throttled",
    "unavailable",
    "conflict",
    "unknown-applied",
    "unknown-not-applied",
    "bug",
  ] as const) {
    test(`${kind}: goes on after looking, and comes to the same end`, async () => {
      bench = await openBench({ db });
      await bench.apply(simple(bench));
      for (const [place, verb] of effects) bench.world.fail(place, verb, kind);
      const started = await bench.start(bench.name);
      await bench.run(started.id);
      await expectRolled(started.id);
      const results = await kinds(started.id);
      const expected = kind.startsWith("unknown") || kind === "bug" ? "unknown" : "failed";
      for (const [place, verb] of effects) expect(results).toContain(`${verb} ${place} ${expected}`);
      // What an unknown request had done already is seen, and not done again.
      if (kind === "unknown-applied") expect(results).not.toContain("add db done");
    });
  }

  test("where a place keeps the version is learnt from what is there when the answer that told it was lost", async () => {
    for (const lose of [
      () => bench.world.fail("db", "add", "unknown-applied"),
      () => void (bench.crashAt = { name: "after-effect:add", pass: 1 }),
    ]) {
      bench = await openBench({ db });
      await bench.apply(simple(bench));
      lose();
      const started = await bench.start(bench.name);
      await bench.run(started.id).catch(async (error: unknown) => {
        if (!(error instanceof SimulatedCrash)) throw error;
        await bench.expireLease(started.id);
        await bench.run(started.id, { worker: "w2" });
      });
      await expectRolled(started.id);
      const version = (await bench.db.store.versions.list(bench.name)).at(-1)!;
      expect(version.placements["db"]).toEqual({ slot: expect.any(String) as string });
    }
  });

  for (const kind of ["refused", "misconfigured"] as const) {
    test(`${kind}: asks a person at once, and goes on when resumed`, async () => {
      bench = await openBench({ db });
      await bench.apply(simple(bench));
      bench.world.fail("env", "activate", kind);
      const started = await bench.start(bench.name);
      const halted = await bench.run(started.id);
      expect(halted.status).toBe("halted");
      expect(halted.reason).toContain(kind === "refused" ? "their answer is no" : "Missing permission: write on env");
      expect(halted.reason).toContain("resume");
      expect(bench.world.place("db").values()).toContain("old-password");
      await bench.rotations.resume(started.id, { person: "alice" });
      await bench.run(started.id);
      await expectRolled(started.id);
    });
  }

  test("a place that never answers is tried a bounded number of times", async () => {
    bench = await openBench({ db, options: { maxAttempts: 3 } });
    await bench.apply(simple(bench));
    bench.world.fail("db", "add", { kind: "unavailable", times: 100 });
    const started = await bench.start(bench.name);
    const halted = await bench.run(started.id);
    expect(halted.status).toBe("halted");
    expect(halted.reason).toContain("tried 3 times");
    expect(bench.world.calls.filter((call) => call.verb === "add" && call.place === "db").length).toBe(3);
  });

  test("a place that says that it is done and does not show it is asked a bounded number of times", async () => {
    bench = await openBench({ db, options: { maxAttempts: 3 } });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const place = bench.world.place("env");
    const check = bench.world.onCall;
    bench.world.onCall = (call) => {
      void check?.(call);
      // Something behind the place puts the old value back before anybody looks.
      if (call.verb === "observe" && place.current !== null && place.currentValue() !== "old-password") {
        place.byHand("activate", "old-password");
      }
    };
    const halted = await bench.run(started.id);
    expect(halted.status).toBe("halted");
    expect(halted.reason).toContain("does not show it");
    expect(bench.world.place("db").values()).toContain("old-password");
    expect(bench.refused).toEqual([]);
  });

  test("Retry-After is obeyed", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    bench.world.fail("db", "add", { kind: "throttled", retryAfterMs: 90_000 });
    const started = await bench.start(bench.name);
    await bench.run(started.id);
    await expectRolled(started.id);
    const [first, second] = bench.world.calls.filter((call) => call.verb === "add" && call.place === "db");
    expect(second!.atMs - first!.atMs).toBeGreaterThanOrEqual(90_000);
  });

  test("no answer at all within the time limit is unknown, and is looked at before it is repeated", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    bench.world.fail("db", "add", "hang");
    const started = await bench.start(bench.name);
    const check = bench.world.onCall;
    bench.world.onCall = (call) => {
      void check?.(call);
      if (call.verb === "add" && call.place === "db")
        setTimeout(() => bench.clock.moveTo(bench.clock.now() + 60_000), 20);
    };
    await bench.run(started.id);
    await expectRolled(started.id);
    const results = await kinds(started.id);
    expect(results).toContain("add db unknown");
    expect(results).not.toContain("add db done");
  });

  test("a late whole-set write is waited out before the set is written again", async () => {
    bench = await openBench({ db });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", { values: ["old-password"], traits: { writes: "whole-set" } }),
          bench.world.holder("env", ["db"], { values: ["old-password"] }),
        ],
      }),
    );
    bench.world.fail("db", "add", { kind: "unknown-late", lateMs: 30_000 });
    const started = await bench.start(bench.name);
    await bench.run(started.id);
    await expectRolled(started.id);
    // The late request arrived within its life and was seen: nothing was sent twice.
    expect(bench.world.calls.filter((call) => call.verb === "add" && call.place === "db").length).toBe(1);
  });

  test("a place that cannot be seen stops everything there until it can", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    bench.world.fail("env", "observe", { kind: "unavailable", times: 6 });
    await bench.run(started.id);
    await expectRolled(started.id);
  });
});

describe("a worker that dies", () => {
  const points = [
    ...["issue", "add", "activate", "remove"].flatMap((verb) =>
      ["before-intent", "after-intent", "after-effect", "after-outcome"].map((at) => `${at}:${verb}`),
    ),
    "before-seal",
    "after-seal",
  ];
  for (const point of points) {
    test(`at ${point}: the next one ends it, with nothing lost or orphaned`, async () => {
      bench = await openBench({ db });
      await bench.apply(simple(bench));
      const started = await bench.start(bench.name);
      bench.crashAt = { name: point, pass: 1 };
      await expect(bench.run(started.id)).rejects.toThrow(SimulatedCrash);
      await bench.expireLease(started.id);
      await bench.run(started.id, { worker: "w2" });
      await expectRolled(started.id);
    });
  }

  for (const point of ["after-intent:issue", "after-effect:issue", "before-seal"]) {
    test(`at ${point} of a value that is shown once: it is taken away, and another one made`, async () => {
      bench = await openBench({ db });
      bench.world.verifier("db", { values: ["old-password"] });
      await bench.apply(
        simple(bench, {
          places: [
            bench.world.verifier("db", { values: ["old-password"] }),
            bench.world.holder("env", ["db"], { values: ["old-password"] }),
          ],
          credential: { issuer: bench.world.oneTimeIssuer("db") },
        }),
      );
      const started = await bench.start(bench.name);
      bench.crashAt = { name: point, pass: 1 };
      await expect(bench.run(started.id)).rejects.toThrow(SimulatedCrash);
      await bench.expireLease(started.id);
      await bench.run(started.id, { worker: "w2" });
      await expectRolled(started.id);
      const versions = await bench.db.store.versions.list(bench.name);
      expect(versions.map(({ id, state }) => `${id} ${state}`)).toEqual([
        `${bench.name}#1 retired`,
        `${bench.name}#2 retired`,
        `${bench.name}#3 current`,
      ]);
    });
  }
});
