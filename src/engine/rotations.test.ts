import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Problem } from "../core/problem.ts";
import { FencedOff } from "../store/store.ts";
import type { TaskRow } from "../store/store.ts";
import { openBench, simple } from "../../test/support/engine.ts";
import type { Bench } from "../../test/support/engine.ts";
import { markOf } from "../../test/support/memory-places.ts";
import { withStore } from "../../test/support/store.ts";
import type { TestStore } from "../../test/support/store.ts";
import { reconcile } from "./reconcile.ts";
import { workOn } from "./worker.ts";

let db: TestStore;
let bench: Bench;
beforeAll(async () => {
  db = await withStore();
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

async function problem(work: Promise<unknown>): Promise<Problem> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(Problem);
  return error as Problem;
}

/** The secret part of a version, as a person who does a task by hand would be given it. */
async function valueOf(version: string): Promise<string> {
  const material = await bench.deps.sealer.open(db.store, { owner: bench.name, version, purpose: "material" });
  if (material?.kind !== "secret") throw new Error(`${version} is not sealed`);
  return material.value.reveal();
}

const before = { values: ["old-password"] };

describe("before the first step", () => {
  test("a preview changes nothing, and a start refuses another plan than the one that was seen", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const request = { credential: bench.name, mode: "planned", strategy: "availability-first" } as const;
    const first = await bench.rotations.preview(request);
    expect(first.plan.safety.verdict).toBe("proved");
    expect(first.adopted).toEqual([{ version: `${bench.name}#1`, place: "env" }]);
    expect(await db.store.versions.list(bench.name)).toEqual([]);
    // Somebody adds a reader in between.
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", before),
          bench.world.holder("env", ["db"], before),
          bench.world.holder("job", ["db"], before),
        ],
      }),
    );
    const refused = await problem(
      bench.rotations.start({ ...request, startedBy: "alice", planDigest: first.plan.digest }),
    );
    expect(refused.kind).toBe("refused");
    expect(refused.message).toContain("changed since");
    expect(await db.store.rotations.active(bench.name)).toBeUndefined();
    expect(await db.store.versions.list(bench.name)).toEqual([]);
    const second = await bench.rotations.preview(request);
    const started = await bench.rotations.start({ ...request, startedBy: "alice", planDigest: second.plan.digest });
    expect((await bench.run(started.id)).status).toBe("done");
    expect(bench.refused).toEqual([]);
  });

  test("what cannot be seen cannot be proved, and is not started", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    bench.world.fail("db", "observe", { kind: "unavailable", times: 100 });
    const refused = await problem(bench.start(bench.name));
    expect(refused.kind).toBe("stale");
    expect(refused.message).toContain("nobody listens");
  });

  test("one rotation at a time", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const refused = await problem(bench.start(bench.name));
    expect(refused.message).toContain(started.id);
  });

  test("entries that nobody knows are reported and left alone", async () => {
    bench = await openBench({ db });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", { values: ["somebody-elses", "old-password"] }),
          bench.world.holder("env", ["db"], before),
        ],
      }),
    );
    const { plan } = await bench.rotations.preview({
      credential: bench.name,
      mode: "planned",
      strategy: "availability-first",
    });
    expect(plan.notes.join(" ")).toContain("left alone");
    const started = await bench.start(bench.name);
    expect((await bench.run(started.id)).status).toBe("done");
    expect(bench.world.place("db").values()).toContain("somebody-elses");
    expect(bench.world.place("db").values()).not.toContain("old-password");
  });

  test("a place with one slot has a declared gap, and only there is anybody refused", async () => {
    bench = await openBench({ db });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", { ...before, traits: { capacity: 1 } }),
          bench.world.holder("env", ["db"], before),
          bench.world.verifier("other", before),
          bench.world.holder("job", ["other"], before),
        ],
      }),
    );
    const { plan } = await bench.rotations.preview({
      credential: bench.name,
      mode: "planned",
      strategy: "availability-first",
    });
    expect(plan.safety.verdict).toBe("proved with declared gaps");
    expect(plan.gaps.map(({ holder, verifier }) => `${holder} ${verifier}`)).toEqual(["env db"]);
    const started = await bench.start(bench.name);
    expect((await bench.run(started.id)).status).toBe("done");
    expect(new Set(bench.refused.map(({ holder, verifier }) => `${holder} ${verifier}`))).toEqual(new Set(["env db"]));
    expect(bench.world.refusals()).toEqual([]);
  });
});

describe("people", () => {
  test("a phase waits for somebody else's approval of this very plan", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench, { policy: { approvals: { retire: 1 } } }));
    const started = await bench.start(bench.name);
    const waiting = await bench.run(started.id);
    expect(waiting.status).toBe("waiting");
    expect(waiting.waitingFor).toContain("1 more person must approve the retire phase");
    expect(bench.world.place("db").values()).toContain("old-password");
    const approval = { rotation: started.id, phase: "retire", planDigest: waiting.planDigest, nonce: "n1" } as const;
    expect((await problem(bench.rotations.approve({ ...approval, person: "starter" }))).kind).toBe("not-allowed");
    expect((await problem(bench.rotations.approve({ ...approval, person: "bob", planDigest: "another" }))).kind).toBe(
      "refused",
    );
    await bench.rotations.approve({ ...approval, person: "bob" });
    expect((await bench.run(started.id)).status).toBe("done");
    expect(bench.refused).toEqual([]);
  });

  test("a rejection pauses with the reason", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench, { policy: { approvals: { switch: 1 } } }));
    const started = await bench.start(bench.name);
    const waiting = await bench.run(started.id);
    await bench.rotations.reject({
      rotation: started.id,
      phase: "switch",
      planDigest: waiting.planDigest,
      nonce: "n",
      person: "bob",
      comment: "not today",
    });
    const row = await bench.run(started.id);
    expect(row.status).toBe("paused");
    expect(row.reason).toContain("bob rejected the switch phase: not today");
  });

  test("a task that a person says is done is checked before anything goes on", async () => {
    bench = await openBench({ db });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", before),
          bench.world.holder("env", ["db"], { ...before, traits: { human: true, storeCapacity: 1, staging: false } }),
        ],
      }),
    );
    const started = await bench.start(bench.name);
    const waiting = await bench.run(started.id);
    expect(waiting.status).toBe("waiting");
    expect(waiting.waitingFor).toContain("a person");
    const open = (): Promise<readonly TaskRow[]> => bench.rotations.tasks({ rotation: started.id, states: ["open"] });
    const [task] = await open();
    expect(task).toMatchObject({ place: "env", action: "activate", version: `${bench.name}#2` });
    expect(task!.instructions).toMatchObject({ minutes: 5 });
    await bench.rotations.taskHandover(task!.id, { person: "bob", to: "carol" });
    expect((await open())[0]!.person).toBe("carol");
    // A click alone does nothing.
    await bench.rotations.taskDone(task!.id, { person: "carol" });
    expect((await bench.run(started.id)).status).toBe("waiting");
    expect((await open())[0]!.checked).toMatchObject({ seen: false });
    expect(bench.world.place("db").values()).toContain("old-password");
    bench.world.place("env").byHand("activate", await valueOf(`${bench.name}#2`));
    await bench.rotations.taskDone(task!.id, { person: "carol" });
    expect((await bench.run(started.id)).status).toBe("done");
    expect((await bench.rotations.tasks({ rotation: started.id }))[0]).toMatchObject({
      state: "done",
      checked: { seen: true },
    });
    expect(bench.refused).toEqual([]);
  });

  test("a refused task halts with what the person said, and resuming asks again", async () => {
    bench = await openBench({ db });
    await bench.apply(
      simple(bench, {
        places: [
          bench.world.verifier("db", before),
          bench.world.holder("env", ["db"], { ...before, traits: { human: true, storeCapacity: 1, staging: false } }),
        ],
      }),
    );
    const started = await bench.start(bench.name);
    await bench.run(started.id);
    const [task] = await bench.rotations.tasks({ rotation: started.id });
    await bench.rotations.taskRefuse(task!.id, { person: "bob", comment: "the console is down" });
    const halted = await bench.run(started.id);
    expect(halted.status).toBe("halted");
    expect(halted.reason).toContain("bob refused");
    expect(halted.reason).toContain("the console is down");
    await bench.rotations.resume(started.id, { person: "alice" });
    expect((await bench.run(started.id)).status).toBe("waiting");
    expect(await bench.rotations.tasks({ rotation: started.id, states: ["open"] })).toHaveLength(1);
  });

  test("pause stops before the next effect, resume goes on", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const check = bench.world.onCall;
    let paused = false;
    bench.world.onCall = async (call) => {
      await check?.(call);
      if (call.verb === "add" && !paused) {
        paused = true;
        await bench.rotations.pause(started.id, { person: "alice", comment: "lunch" });
      }
    };
    const row = await bench.run(started.id);
    expect(row.status).toBe("paused");
    expect(row.reason).toBe("alice paused it: lunch.");
    expect(bench.world.calls.filter((call) => call.verb === "add" || call.verb === "activate")).toHaveLength(1);
    await bench.rotations.resume(started.id, { person: "alice" });
    expect((await bench.run(started.id)).status).toBe("done");
    expect(bench.refused).toEqual([]);
  });

  test("cancel while nothing is placed; afterwards only rolling back", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench, { policy: { approvals: { distribute: 1 } } }));
    const first = await bench.start(bench.name);
    await bench.run(first.id);
    expect((await bench.rotations.cancel(first.id, { person: "alice" })).status).toBe("cancelled");
    expect((await db.store.versions.list(bench.name)).map(({ state, material }) => `${state} ${material}`)).toEqual([
      "current sealed",
      "retired none",
    ]);
    await bench.apply(simple(bench, { policy: { approvals: { retire: 1 } } }));
    const second = await bench.start(bench.name);
    await bench.run(second.id);
    const refused = await problem(bench.rotations.cancel(second.id, { person: "alice" }));
    expect(refused.next).toContain("rollback");
  });

  test("rolling back puts the old version back everywhere, and refuses nobody", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench, { policy: { soakMs: 3_600_000 } }));
    const started = await bench.start(bench.name);
    await workOn(bench.deps, "w1", started.id);
    expect(bench.world.place("env").currentValue()).not.toBe("old-password");
    const row = await bench.rotations.rollback(started.id, { person: "alice", comment: "wrong month" });
    expect(row.planDigest).not.toBe(started.planDigest);
    const ended = await bench.run(started.id);
    expect(ended.status).toBe("rolled-back");
    expect(bench.world.place("db").values()).toEqual(["old-password"]);
    expect(bench.world.place("env").values()).toEqual(["old-password"]);
    expect(bench.refused).toEqual([]);
    expect((await db.store.versions.list(bench.name)).map(({ state, material }) => `${state} ${material}`)).toEqual([
      "current sealed",
      "retired none",
    ]);
  });
});

describe("what the world says", () => {
  test("a verifier that refuses the new version halts before anybody uses it, and nothing is removed", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const check = bench.world.onCall;
    bench.world.onCall = (call) => {
      void check?.(call);
      // The system says that it took the value, and mangles it.
      const place = bench.world.place("db");
      if (call.verb === "probe")
        for (const copy of place.copies) copy.set = copy.set.filter((stored) => stored.value === "old-password");
    };
    const halted = await bench.run(started.id);
    expect(halted.status).toBe("halted");
    expect(halted.reason).toContain("db refuses the new version");
    expect(bench.world.place("env").currentValue()).toBe("old-password");
    expect(bench.world.place("db").values()).toContain("old-password");
  });

  test("an outage during a probe is neither yes nor no", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    bench.world.fail("db", "probe", { kind: "unavailable", times: 4 });
    expect((await bench.run(started.id)).status).toBe("done");
    bench.world.fail("db", "probe", { kind: "unavailable", times: 400 });
    const second = await bench.start(bench.name);
    const halted = await bench.run(second.id);
    expect(halted.status).toBe("halted");
    expect(halted.reason).toContain("does not say whether it accepts");
    expect(bench.refused).toEqual([]);
  });

  test("somebody else's edit is noticed, written down, and worked with", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench, { policy: { soakMs: 60_000 } }));
    const started = await bench.start(bench.name);
    await workOn(bench.deps, "w1", started.id);
    const switched = bench.world.place("env").currentValue();
    bench.world.place("env").byHand("activate", "old-password");
    const ended = await bench.run(started.id);
    expect(ended.status, ended.reason ?? "").toBe("done");
    expect(bench.world.place("env").currentValue()).toBe(switched);
    expect(bench.refused).toEqual([]);
    const { events } = await bench.rotations.show(started.id);
    const edits = events.filter((event) => (event.payload as { edit?: boolean }).edit === true);
    expect(edits).toHaveLength(1);
    expect((edits[0]!.payload as { text: string }).text).toContain(
      `${markOf("old-password")} was made current by somebody else`,
    );
  });
});

describe("a breach", () => {
  for (const strategy of ["availability-first", "contain-first"] as const) {
    test(`${strategy}: the compromised version is let in nowhere at the end`, async () => {
      bench = await openBench({ db });
      await bench.apply(
        simple(bench, {
          places: [
            bench.world.verifier("db", {
              ...before,
              copies: 2,
              traits: { propagationMs: 10_000, writes: "whole-set" },
            }),
            bench.world.holder("env", ["db"], before),
          ],
        }),
      );
      const started = await bench.start(bench.name, { mode: "breach", strategy });
      const ended = await bench.run(started.id);
      expect(ended.status, ended.reason ?? "").toBe("done");
      expect(bench.world.place("db").values()).not.toContain("old-password");
      expect(bench.world.refusals()).toEqual([]);
      expect((await db.store.versions.list(bench.name)).map(({ state, material }) => `${state} ${material}`)).toEqual([
        "compromised none",
        "current sealed",
      ]);
      const removed = bench.world.calls.findIndex((call) => call.place === "db" && call.verb === "remove");
      const added = bench.world.calls.findIndex((call) => call.place === "db" && call.verb === "add");
      if (strategy === "availability-first") {
        expect(bench.refused).toEqual([]);
        expect(added).toBeLessThan(removed);
      } else expect(removed).toBeLessThan(added);
      // A whole-set write may arrive late: the end is declared only after the longest request life.
      const last = bench.world.calls.findLast(
        (call) => call.verb === "remove" || call.verb === "activate" || call.verb === "add",
      );
      expect(bench.clock.now() - last!.atMs).toBeGreaterThanOrEqual(bench.deps.options.requestLifeMs);
      expect((await problem(bench.rotations.rollback(started.id, { person: "alice" }))).kind).toBe("refused");
    });
  }
});

describe("fencing", () => {
  test("a worker that was frozen and thaws does nothing more", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const lease = (await db.store.acquireLease(started.id, "frozen", 30_000))!;
    await bench.expireLease(started.id);
    expect((await bench.run(started.id, { worker: "w2" })).status).toBe("done");
    const calls = bench.world.calls.length;
    await expect(reconcile(bench.deps, { lease, ensure: async () => undefined, fresh: () => true })).resolves.toBe(
      "ended",
    );
    expect(bench.world.calls.length).toBe(calls);
  });

  test("a take-over between the decision and the effect stops the effect", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const lease = (await db.store.acquireLease(started.id, "slow", 30_000))!;
    const check = bench.world.onCall;
    let takenOver = false;
    bench.world.onCall = async (call) => {
      await check?.(call);
      // While the slow worker looks, another one takes over.
      if (call.verb === "observe" && !takenOver) {
        takenOver = true;
        await bench.expireLease(started.id);
        await db.store.acquireLease(started.id, "quick", 30_000);
      }
    };
    await expect(reconcile(bench.deps, { lease, ensure: async () => undefined, fresh: () => true })).rejects.toThrow(
      FencedOff,
    );
    expect(bench.world.calls.filter((call) => call.verb === "issue" || call.verb === "mint")).toEqual([]);
  });
});

describe("secrets", () => {
  test("no value is found in any log, journal record or table", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    for (const [place, verb] of [
      ["db", "add"],
      ["env", "activate"],
      ["db", "remove"],
      ["db", "probe"],
    ] as const) {
      for (const kind of ["bug", "unavailable", "unknown-applied", "throttled"] as const)
        bench.world.fail(place, verb, kind);
    }
    const started = await bench.start(bench.name);
    expect((await bench.run(started.id)).status).toBe("done");
    const value = bench.world.place("env").currentValue()!;
    const tables = await db.sql<{ name: string }>(
      "select table_name as name from information_schema.tables where table_schema = 'keyroll'",
    );
    const dumped = await Promise.all(
      tables.map(({ name }) => db.sql<{ text: string }>(`select t::text as text from keyroll."${name}" t`)),
    );
    const everything = [...bench.logged, ...dumped.flat().map(({ text }) => text)].join("\n");
    expect(everything.length).toBeGreaterThan(1000);
    for (const secret of [value, "old-password"]) {
      for (const form of [
        secret,
        Buffer.from(secret).toString("base64").replace(/=+$/, ""),
        Buffer.from(secret).toString("hex"),
      ]) {
        expect(everything.includes(form)).toBe(false);
      }
    }
  });
});
