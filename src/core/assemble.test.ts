import { describe, expect, test } from "vitest";
import { credential, fresh, hash, holder, holds, sees, verifier, version } from "../../test/support/declare.ts";
import { assemble, effectOf, type AssembleInput } from "./assemble.ts";
import { next } from "./next.ts";
import type { CredentialDecl } from "./place.ts";
import { plan } from "./plan.ts";

/** Each edge as `holder verifier drain length`. */
function edges(decl: CredentialDecl): string[] {
  const { topology } = assemble(fresh(decl));
  return topology.edges.map(
    (edge) =>
      `${topology.holders[edge.holder]!.name} ${topology.verifiers[edge.verifier]!.name} ${edge.drain} ${edge.drainMs}`,
  );
}

describe("which edges have data at rest", () => {
  const places = [
    verifier("api"),
    verifier("readers"),
    verifier("archive", { drainMs: 5000 }),
    holder("app", ["api", "readers", "archive"]),
    holder("job", ["api", "readers"], { drain: "timed", drainMs: 7000 }),
  ];
  const data = [
    { name: "orders", writtenUnder: "app", readBy: ["readers"], drainMs: 100_000 },
    { name: "backups", writtenUnder: "app", readBy: ["readers", "archive"], drainMs: 30_000 },
  ];

  test("those that a data set names, and no others of the same holder or verifier", () => {
    expect(edges(credential("key", places, { data }))).toEqual([
      "app api instant 0",
      "app readers job 100000",
      "app archive job 30000",
      "job api timed 7000",
      "job readers timed 7000",
    ]);
    expect(edges(credential("key", places))).toEqual([
      "app api instant 0",
      "app readers instant 0",
      "app archive instant 5000",
      "job api timed 7000",
      "job readers timed 7000",
    ]);
  });

  test("a place whose own traits say so has them at every edge", () => {
    const decl = credential("key", [
      verifier("readers", { drain: "job", drainMs: 9000 }),
      verifier("api"),
      holder("app", ["readers", "api"]),
      holder("writer", ["api"], { drain: "job", drainMs: 4000 }),
    ]);
    expect(edges(decl)).toEqual(["app readers job 9000", "app api instant 0", "writer api job 4000"]);
  });

  test("only they wait for records: the other verifier lets the old version go before", () => {
    const decl = credential("key", [verifier("api"), verifier("readers"), holder("app", ["api", "readers"])], {
      data: [{ name: "orders", writtenUnder: "app", readBy: ["readers"], drainMs: 100_000 }],
    });
    const [before, now] = ["key#1", "key#2"] as const;
    const offered = (records: Record<string, number>): string[] => {
      const both = sees(before, now);
      const input = fresh(decl, {
        versions: [version(before, { state: "retiring" }), version(now)],
        seen: { api: both, readers: { ...both, records }, app: holds(now) },
      });
      const assembled = assemble(input);
      const decision = next(assembled.topology, assembled.situation, assembled.goal);
      if (decision.kind !== "act") return [];
      return decision.actions.map((action) => effectOf(assembled, action)).map(({ verb, place }) => `${verb} ${place}`);
    };
    expect(offered({ [before]: 3, [now]: 1 })).toEqual(["remove api", "reencrypt readers"]);
    expect(offered({ [now]: 4 })).toEqual(["remove api", "remove readers"]);
  });

  test("they are part of what a plan was approved for", () => {
    const decl = credential("key", places, { data });
    const made = plan(fresh(decl), { hash });
    const longer = { ...decl, data: data.map((set) => ({ ...set, drainMs: 200_000 })) };
    expect(plan(fresh(longer), { hash }).digest).not.toBe(made.digest);
    expect(plan(fresh({ ...decl, data: [...data] }), { hash }).digest).toBe(made.digest);
  });
});

describe("Keyroll's own sign-in", () => {
  const own = (capacity: number): CredentialDecl =>
    credential("admin", [
      verifier("roles", { capacity }),
      {
        ...holder("keyroll sign-in (pg)", ["roles"], { storeCapacity: 1, staging: false }),
        signsInTo: "pg",
      },
      holder("script", ["roles"], { storeCapacity: 1, staging: false }),
    ]);
  const breach = (decl: CredentialDecl) => {
    const input = fresh(decl);
    return { ...input, rotation: { ...input.rotation, mode: "breach", strategy: "contain-first" } as const };
  };

  test("is never declared exposed, so that a place for one version blocks the plan", () => {
    const made = plan(fresh(own(1)), { hash });
    expect(made.safety.verdict).toBe("blocked");
    expect(made.exposed).toEqual([]);
    // The same places without Keyroll among their users: a gap that may be declared.
    const others = { ...own(1), places: own(1).places.filter((place) => place.signsInTo === undefined) };
    expect(plan(fresh(others), { hash }).exposed).toEqual([{ holder: "script", verifier: "roles" }]);
  });

  test("moves before anything is cut, however urgent it is", () => {
    const made = plan(breach(own(2)), { hash });
    expect(made.safety.verdict).toMatch(/^proved/);
    expect(made.exposed).toEqual([{ holder: "script", verifier: "roles" }]);
    const steps = made.steps.map((step) => `${step.action} ${step.place ?? ""}`);
    expect(steps.indexOf("distrust roles")).toBeGreaterThan(steps.indexOf("set keyroll sign-in (pg)"));
  });
});

describe("what may still be accepted while changes travel", () => {
  const traits = { propagationMs: 600_000 };
  const [old, made] = ["key#1", "key#2"] as const;
  /** Contained first: the old version was removed a moment ago, and the new one trusted just now. */
  const contained = (more: Partial<AssembleInput> = {}): AssembleInput => {
    const decl = credential("key", [verifier("api", traits), holder("app", ["api"], { session: true })]);
    const base = fresh(decl, { versions: [version(old, { state: "compromised" }), version(made)] });
    return {
      ...base,
      rotation: {
        ...base.rotation,
        mode: "breach",
        strategy: "contain-first",
        exposed: [{ holder: "app", verifier: "api" }],
      },
      seen: { api: sees(made), app: holds(old, made) },
      memory: {
        api: { ...settled, changedMs: base.nowMs - 1000, beforeAll: [], beforeAny: [old] },
      },
      ...more,
    };
  };
  const settled = { changedMs: null, beforeAll: [], beforeAny: [], presented: [], accepted: [], refused: [] };
  const offered = (input: AssembleInput): string[] => {
    const assembled = assemble(input);
    const decision = next(assembled.topology, assembled.situation, assembled.goal);
    if (decision.kind !== "act") return [decision.kind];
    return decision.actions.map((action) => effectOf(assembled, action)).map(({ verb, place }) => `${verb} ${place}`);
  };

  test("a breach goes on while the removal travels, and ends no session that a copy would only grant anew", () => {
    expect(offered(contained())).toEqual(["activate app"]);
    const later = contained();
    expect(offered({ ...later, nowMs: later.nowMs + 600_000 })).toEqual(["endSessions app"]);
  });

  test("it is over only when no copy may accept the compromised version, and every session under it was ended", () => {
    const seen = { api: sees(made), app: holds(made) };
    const ended = { ...settled, changedMs: 0, presented: [old], ended: [old] };
    const input = contained({ seen });
    expect(offered({ ...input, memory: { ...input.memory, app: ended } })).toEqual(["wait"]);
    const later = { ...input, nowMs: input.nowMs + 600_000 };
    expect(offered({ ...later, memory: { ...later.memory, app: ended } })).toEqual(["done"]);
    // The users have long signed in anew. Whoever stole it has not.
    expect(offered({ ...later, memory: { ...later.memory, app: { ...ended, ended: [] } } })).toEqual([
      "endSessions app",
    ]);
    expect(offered({ ...later, seen: { ...seen, api: null }, memory: { ...later.memory, app: ended } })).not.toEqual([
      "done",
    ]);
  });

  test("a place that verifies and holds is judged in each role by what it remembers for it", () => {
    const decl = credential(
      "key",
      [verifier("api", traits), verifier("both", { ...traits, roles: ["verifier", "holder"], refreshMs: 600_000 })].map(
        (place) => (place.name === "both" ? { ...place, presentsTo: ["api"] } : place),
      ),
    );
    const input = fresh(decl, {
      versions: [version(old), version(made)],
      seen: { api: sees(old, made), both: holds(made, old) },
      memory: {
        both: { ...settled, changedMs: 999_000, beforeAll: [made], beforeAny: [old, made], presented: [old] },
      },
    });
    const { situation, versionIds } = assemble(input);
    const maskOf = (...ids: string[]): number => ids.reduce((mask, id) => mask | (1 << versionIds.indexOf(id)), 0);
    const [, both] = situation.verifiers;
    expect(both!.enforced.reduce((all, set) => all & set)).toBe(maskOf(made));
    expect(both!.enforced.reduce((all, set) => all | set)).toBe(maskOf(old, made));
    const lives = situation.holders[0]!.units[0]!.processes.map(({ live }) => versionIds[live!]);
    expect(new Set(lives)).toEqual(new Set([old, made]));
  });
});
