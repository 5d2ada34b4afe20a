/** A plan that was not proved runs only when somebody else has said so, knowing it; and what a plan rests on cannot change under an approval. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openBench, simple } from "../../test/support/engine.ts";
import type { Bench } from "../../test/support/engine.ts";
import { withStore } from "../../test/support/store.ts";
import type { TestStore } from "../../test/support/store.ts";
import type { CredentialDecl } from "../core/place.ts";
import { Problem } from "../core/problem.ts";
import type { RotationRow } from "../store/store.ts";

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
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof Problem)) throw new Error(`not refused: ${String(error)}`);
  return error;
}

let nonces = 0;
const approval = (row: RotationRow, person: string, phase: "plan" | "issue" | "retire" = "plan") =>
  ({ rotation: row.id, phase, planDigest: row.planDigest, nonce: `n${++nonces}`, person }) as const;

/** What was done outside. */
const effects = (): string[] =>
  bench.world.calls.map((call) => call.verb).filter((verb) => !["observe", "probe", "adopt"].includes(verb));

const values = { values: ["old-password"] };
function declaration(policy: Partial<CredentialDecl["policy"]> = {}): CredentialDecl {
  return simple(bench, {
    places: [bench.world.verifier("db", values), bench.world.holder("env", ["db"], values)],
    policy,
  });
}
/** The same places, of which one says now that its users read a change late. */
function slower(declared: CredentialDecl): CredentialDecl {
  const places = declared.places.map((place) =>
    place.name === "env" ? { ...place, traits: { ...place.traits, refreshMs: 60_000 } } : place,
  );
  return { ...declared, places };
}

describe("a plan that was not proved within its limit", () => {
  async function unproved(policy: Partial<CredentialDecl["policy"]> = {}): Promise<RotationRow> {
    bench = await openBench({ db });
    await bench.apply(declaration(policy));
    const request = {
      credential: bench.name,
      mode: "planned",
      strategy: "availability-first",
      maxStates: 1,
    } as const;
    const { plan } = await bench.rotations.preview(request);
    expect(plan.safety.verdict).toBe("not proved");
    return await bench.rotations.start({ ...request, startedBy: "starter", planDigest: plan.digest });
  }

  test("does nothing at all until somebody else approves just that", async () => {
    const started = await unproved();
    const waiting = await bench.run(started.id);
    expect([waiting.status, waiting.waitingFor]).toEqual(["waiting", expect.stringContaining("was not proved")]);
    expect((await problem(bench.rotations.approve(approval(started, "starter")))).kind).toBe("not-allowed");
    const another = { ...approval(started, "bob"), planDigest: "another" };
    expect((await problem(bench.rotations.approve(another))).kind).toBe("refused");
    // The approval of a phase is another question.
    await bench.rotations.approve(approval(started, "bob", "issue"));
    expect((await bench.run(started.id)).waitingFor).toContain("was not proved");
    expect(effects()).toEqual([]);
    await bench.rotations.approve(approval(started, "bob"));
    expect((await bench.run(started.id)).status).toBe("done");
    expect(bench.refused).toEqual([]);
  });

  test("needs the approvals of the policy beside it", async () => {
    const started = await unproved({ approvals: { issue: 1 } });
    await bench.rotations.approve(approval(started, "bob"));
    expect((await bench.run(started.id)).waitingFor).toContain("must approve the issue phase");
    expect(effects()).toEqual([]);
    await bench.rotations.approve(approval(started, "bob", "issue"));
    expect((await bench.run(started.id)).status).toBe("done");
  });

  test("is paused when somebody says no, and then still not run without a yes", async () => {
    const started = await unproved();
    await bench.rotations.reject({ ...approval(started, "bob"), comment: "prove it" });
    const paused = await bench.run(started.id);
    expect([paused.status, paused.reason]).toEqual(["paused", expect.stringContaining("prove it")]);
    await bench.rotations.resume(started.id, { person: "starter" });
    expect((await bench.run(started.id)).waitingFor).toContain("was not proved");
    expect(effects()).toEqual([]);
  });
});

describe("what a plan rests on", () => {
  test("changed before the start: the plan that was seen is not started", async () => {
    bench = await openBench({ db });
    const declared = declaration();
    await bench.apply(declared);
    const request = { credential: bench.name, mode: "planned", strategy: "availability-first" } as const;
    const { plan } = await bench.rotations.preview(request);
    await bench.apply(slower(declared));
    const refused = await problem(bench.rotations.start({ ...request, startedBy: "starter", planDigest: plan.digest }));
    expect([refused.kind, refused.message]).toEqual(["refused", expect.stringContaining("has changed since")]);
    expect(effects()).toEqual([]);
  });

  test("changed after an approval: the approval is void, and the new plan needs its own", async () => {
    bench = await openBench({ db });
    const declared = declaration({ approvals: { retire: 1 } });
    await bench.apply(declared);
    const started = await bench.start(bench.name);
    expect((await bench.run(started.id)).waitingFor).toContain("must approve the retire phase");
    await bench.rotations.approve(approval(started, "bob", "retire"));
    const done = effects().length;
    await bench.apply(slower(declared));
    const halted = await bench.run(started.id);
    expect([halted.status, halted.reason]).toEqual(["halted", expect.stringContaining("has changed since this plan")]);
    expect(effects().length).toBe(done);
    const resumed = await bench.rotations.resume(started.id, { person: "starter" });
    expect(resumed.planDigest).not.toBe(started.planDigest);
    expect((await bench.run(started.id)).waitingFor).toContain("must approve the retire phase");
    expect((await problem(bench.rotations.approve(approval(started, "bob", "retire")))).kind).toBe("refused");
    await bench.rotations.approve(approval(resumed, "bob", "retire"));
    expect((await bench.run(started.id)).status).toBe("done");
    expect(bench.refused).toEqual([]);
  });

  test("the same after a change that no plan rests on: the approval stands", async () => {
    bench = await openBench({ db });
    const declared = declaration({ approvals: { retire: 1 } });
    await bench.apply(declared);
    const started = await bench.start(bench.name);
    await bench.run(started.id);
    await bench.rotations.approve(approval(started, "bob", "retire"));
    await bench.apply({ ...declared, owner: "somebody else", labels: { tier: "1" } });
    expect((await bench.run(started.id)).status).toBe("done");
  });
});
