import { describe, expect, it } from "vitest";
import {
  credential,
  fresh,
  hash,
  holder,
  holds,
  quietPolicy,
  sees,
  verifier,
  version,
} from "../../test/support/declare.ts";
import { assemble, effectOf, type AssembleInput } from "./assemble.ts";
import { explain } from "./explain.ts";
import { decide, next, Planner } from "./next.ts";
import type { Traits } from "./place.ts";
import { breachCosts, plan, type Plan } from "./plan.ts";
import { System } from "./system.ts";

const oneSlot: Partial<Traits> = { storeCapacity: 1, staging: false };
const database = (capacity: number) =>
  credential("app", [verifier("role", { capacity }), holder("env", ["role"], { ...oneSlot, refreshMs: 5000 })]);
const actions = (result: Plan) => result.steps.map((step) => `${step.action}${step.place ? ` ${step.place}` : ""}`);
const make = (input: AssembleInput) => plan(input, { hash });
const before = (result: Plan, first: string, second: string) => {
  const order = actions(result);
  expect(order).toContain(first);
  expect(order).toContain(second);
  return order.indexOf(first) < order.indexOf(second);
};

describe("a plan with room for both versions", () => {
  const result = make(fresh(database(2)));

  it("is proved, without a gap", () => {
    expect(result.safety.verdict).toBe("proved");
    expect(result.safety.states).toBeGreaterThan(5);
    expect(result.gaps).toEqual([]);
  });
  it("trusts before it gives, and removes after every consumer has moved", () => {
    expect(before(result, "trust role", "set env")).toBe(true);
    expect(before(result, "check env", "distrust role")).toBe(true);
  });
  it("keeps everything up at every stop, and can be rolled back until the sealed copy is destroyed", () => {
    for (const step of result.steps) {
      expect(step.ifStopped.serviceUp).toBe(true);
      expect(step.ifStopped.canResume).toBe(true);
      expect(step.ifStopped.canRollBack).toBe(step.action !== "destroy");
    }
    expect(result.steps[result.pointOfNoReturn! - 1]!.action).toBe("destroy");
  });
  it("counts the time that the old version is needed into the last safe start", () => {
    const notAfterMs = Date.UTC(2027, 0, 1);
    const dated = make(
      fresh(database(2), { versions: [version("app#1", { facts: { fingerprint: "x", notAfterMs } })] }),
    );
    expect(dated.expires).toBe("2027-01-01T00:00:00.000Z");
    const lead = notAfterMs - Date.parse(dated.lastSafeStart!);
    expect(lead).toBeGreaterThanOrEqual(5000);
    expect(lead).toBeLessThan(dated.estimateMs);
  });
});

describe("a plan for a verifier with one slot", () => {
  const result = make(fresh(database(1)));

  it("declares the gap, with its cause, as unavoidable, with a bound", () => {
    expect(result.safety.verdict).toBe("proved with declared gaps");
    expect(result.gaps).toHaveLength(1);
    expect(result.gaps[0]).toMatchObject({ holder: "env", verifier: "role", kind: "unavoidable" });
    expect(result.gaps[0]!.boundMs).toBeGreaterThanOrEqual(5000);
    expect(result.gaps[0]!.cause).toContain("would be refused");
  });
  it("says at which step the service may be down, and that it is up again at the end", () => {
    const opening = result.steps.find((step) => step.opensGap.length > 0)!;
    expect(opening.ifStopped.serviceUp).toBe(false);
    expect(result.steps.at(-1)!.ifStopped.serviceUp).toBe(true);
  });
});

it("tells a race from an unavoidable gap: a vault that makes its own new version current", () => {
  const vault = credential("cert", [
    verifier("app-registration"),
    holder("vault", ["app-registration"], { issuingActivates: true, staging: false, roles: ["holder", "issuer"] }),
  ]);
  const issuedInVault = { ...vault, issuer: { ...vault.issuer, place: "vault" } };
  const result = make(fresh(issuedInVault));
  expect(result.safety.verdict).toBe("proved with declared gaps");
  expect(result.gaps[0]).toMatchObject({ holder: "vault", verifier: "app-registration", kind: "race" });
});

it("waits for data: the old key is removed only when no record needs it", () => {
  const data = credential("key", [
    verifier("decrypt", { drain: "job", drainMs: 86_400_000 }),
    holder("writers", ["decrypt"]),
  ]);
  const result = make(
    fresh(data, { seen: { decrypt: { ...sees("key#1"), records: { "key#1": 7 } }, writers: holds("key#1") } }),
  );
  expect(result.safety.verdict).toBe("proved");
  expect(result.hasData).toBe(true);
  expect(before(result, "start-reencryption decrypt", "distrust decrypt")).toBe(true);
  expect(result.steps.every((step) => step.ifStopped.oldDataReadable && step.ifStopped.newDataReadable)).toBe(true);
  expect(result.estimateMs).toBeGreaterThan(86_400_000);
});

it("puts people, soak and windows before their phase, and never in front of a breach's removal", () => {
  const policy = { ...quietPolicy, soakMs: 60_000, approvals: { retire: 2 } };
  const decl = { ...database(2), policy };
  const planned = actions(make(fresh(decl)));
  expect(planned.indexOf("soak")).toBeGreaterThan(planned.indexOf("check env"));
  expect(planned.indexOf("approve")).toBeLessThan(planned.indexOf("distrust role"));
  const base = fresh(decl);
  const breach = actions(make({ ...base, rotation: { ...base.rotation, mode: "breach" } }));
  expect(breach).not.toContain("soak");
  expect(breach).toContain("approve");
});

describe("a breach", () => {
  const base = fresh(database(2));
  const contain = make({ ...base, rotation: { ...base.rotation, mode: "breach", strategy: "contain-first" } });
  const available = make({ ...base, rotation: { ...base.rotation, mode: "breach" } });

  it("contained first takes trust away before anything else and declares the outage", () => {
    expect(contain.steps[0]!.action).toBe("distrust");
    expect(contain.safety.verdict).toBe("proved with declared gaps");
    expect(contain.gaps[0]!.boundMs).toBeGreaterThan(0);
  });
  it("with availability first has no gap and ends with the old version refused", () => {
    expect(available.safety.verdict).toBe("proved");
    expect(available.gaps).toEqual([]);
    expect(actions(available)).toContain("distrust role");
  });
  it("never offers to roll back to what is compromised", () => {
    for (const step of [...contain.steps, ...available.steps]) expect(step.ifStopped.canRollBack).toBe(false);
  });
});

it("rolling back from the middle is proved: what is taken back is known here, although nobody ends with it", () => {
  const input = fresh(database(2), {
    versions: [version("app#1"), version("app#2", { state: "pending" })],
    seen: { role: sees("app#1", "app#2"), env: holds("app#2") },
  });
  const result = make({ ...input, rotation: { ...input.rotation, direction: "back" } });
  expect(result.safety.verdict).toBe("proved");
  expect(before(result, "set env", "distrust role")).toBe(true);
});

describe("the digest", () => {
  it("stays the same when only time passes, and changes with a place, a policy or the old version", () => {
    const input = fresh(database(2));
    const digest = make(input).digest;
    expect(digest).toMatch(/^[0-9a-f]{64}$/);
    expect(make({ ...input, nowMs: input.nowMs + 86_400_000 }).digest).toBe(digest);
    expect(make(fresh(database(1))).digest).not.toBe(digest);
    expect(make(fresh({ ...database(2), policy: { ...quietPolicy, approvals: { retire: 1 } } })).digest).not.toBe(
      digest,
    );
    expect(make({ ...input, versions: [version("app#1", { facts: { fingerprint: "other" } })] }).digest).not.toBe(
      digest,
    );
  });
});

describe("what was observed decides", () => {
  it("an unseen replica counts as not accepting: nothing is given to the holder", () => {
    const decl = credential("app", [verifier("role"), holder("env", ["role"], oneSlot)]);
    const input = fresh(decl, {
      versions: [version("app#1"), version("app#2")],
      seen: { role: null, env: holds("app#1") },
      memory: {
        role: {
          changedMs: null,
          beforeAll: [],
          beforeAny: [],
          presented: [],
          accepted: [],
          refused: [],
          lastSeen: sees("app#1", "app#2"),
        },
      },
    });
    const decision = next(
      ...(() => {
        const a = assemble(input);
        return [a.topology, a.situation, a.goal] as const;
      })(),
    );
    expect(decision.kind === "act" ? decision.actions.map((x) => x.kind) : decision.kind).not.toContain("set");
    expect(assemble(input).unseen).toEqual(["role"]);
  });
  it("a probe that was refused holds back the switch, and one that was accepted lets it go", () => {
    const decl = credential("app", [verifier("role"), holder("env", ["role"], oneSlot)]);
    const base = { changedMs: 900_000, beforeAll: ["app#1"], beforeAny: ["app#1"], presented: [], canProbe: true };
    const decide2 = (accepted: string[], refused: string[]) => {
      const a = assemble(
        fresh(decl, {
          versions: [version("app#1"), version("app#2")],
          seen: { role: sees("app#1", "app#2"), env: holds("app#1") },
          memory: { role: { ...base, accepted, refused } },
        }),
      );
      const decision = next(a.topology, a.situation, a.goal);
      return decision.kind === "act" ? decision.actions.map((action) => effectOf(a, action).verb) : [decision.kind];
    };
    expect(decide2([], [])).toEqual(["wait"]);
    expect(decide2([], ["app#2"])).toEqual(["wait"]);
    expect(decide2(["app#2"], [])).toContain("activate");
  });
  it("sessions that are still open under the old version hold back its removal", () => {
    const decl = credential("app", [verifier("role"), holder("env", ["role"], oneSlot)]);
    const at = (inUse: string[]) => {
      const a = assemble(
        fresh(decl, {
          versions: [version("app#1"), version("app#2")],
          seen: { role: { ...sees("app#1", "app#2"), inUse }, env: holds("app#2") },
        }),
      );
      return next(a.topology, a.situation, a.goal).kind;
    };
    expect(at(["app#1"])).toBe("wait");
    expect(at([])).toBe("act");
  });
  it("consumers that may not have re-read yet hold back the removal", () => {
    const decl = credential("app", [verifier("role"), holder("env", ["role"], { ...oneSlot, refreshMs: 10_000 })]);
    const at = (nowMs: number) => {
      const a = assemble(
        fresh(decl, {
          versions: [version("app#1"), version("app#2")],
          seen: { role: sees("app#1", "app#2"), env: holds("app#2") },
          memory: {
            env: {
              changedMs: 1_000_000,
              beforeAll: [],
              beforeAny: [],
              presented: ["app#1"],
              accepted: [],
              refused: [],
            },
          },
          nowMs,
        }),
      );
      return next(a.topology, a.situation, a.goal).kind;
    };
    expect(at(1_005_000)).toBe("wait");
    expect(at(1_010_000)).toBe("act");
  });
  it("a readable place that does not say what is in use is written again, and everything it has counts as live", () => {
    const decl = credential("app", [verifier("role"), holder("env", ["role"], oneSlot)]);
    const a = assemble(
      fresh(decl, {
        versions: [version("app#1"), version("app#2")],
        seen: { role: sees("app#1", "app#2"), env: sees("app#2") },
        memory: {
          env: {
            changedMs: 1,
            beforeAll: [],
            beforeAny: [],
            presented: ["app#1"],
            accepted: [],
            refused: [],
            wrote: "app#2",
          },
        },
      }),
    );
    const decision = next(a.topology, a.situation, a.goal);
    expect(decision.kind === "act" ? decision.actions.map((x) => x.kind) : decision.kind).toEqual(["set"]);
  });
  it("entries of others take room and are left alone", () => {
    const decl = credential("app", [verifier("role", { capacity: 2 }), holder("env", ["role"], oneSlot)]);
    const a = assemble(
      fresh(decl, {
        seen: {
          role: { entries: [...sees("app#1").entries, { mark: "somebody", enabled: true }] },
          env: holds("app#1"),
        },
      }),
    );
    expect(a.topology.verifiers[0]!.capacity).toBe(1);
    expect(a.notes.join()).toContain("left alone");
  });
  it("a rotation that is finished says so", () => {
    const decl = credential("app", [verifier("role"), holder("env", ["role"], oneSlot)]);
    const a = assemble(
      fresh(decl, {
        versions: [version("app#1"), version("app#2")],
        seen: { role: sees("app#2"), env: holds("app#2") },
      }),
    );
    expect(next(a.topology, a.situation, a.goal).kind).toBe("done");
  });
});

describe("a leaf under a CA that stays", () => {
  const decl = credential("web", [verifier("clients", { admits: "issuer" }), holder("server", ["clients"], oneSlot)]);
  const bundle = (mark: string) => ({ entries: [{ mark, enabled: true, admits: ["web#1"] }] });

  it("needs no change at the clients", () => {
    const input = fresh(decl, {
      versions: [version("web#1", { facts: { fingerprint: "a", signedBy: "ca" } })],
      seen: { clients: bundle("ca"), server: holds("web#1") },
    });
    const result = make({ ...input, rotation: { ...input.rotation, signer: "ca" } });
    expect(result.safety.verdict).toBe("proved");
    expect(actions(result)).not.toContain("trust clients");
    expect(actions(result)).toContain("set server");
  });
  it("is blocked, with the reason, when the new one would be signed by a CA that the clients do not trust", () => {
    const input = fresh(decl, {
      versions: [version("web#1", { facts: { fingerprint: "a", signedBy: "ca" } })],
      seen: { clients: bundle("ca"), server: holds("web#1") },
    });
    const a = assemble({ ...input, rotation: { ...input.rotation, signer: "other-ca" } });
    const system = new System(a.topology);
    const planner = new Planner(system, a.goal);
    const issued = { ...a.situation, material: a.situation.material.map(() => "sealed" as const) };
    const decision = decide(planner, system.encode(issued));
    expect(decision.kind).toBe("blocked");
    const explained = explain({
      ...input,
      versions: [...input.versions, version("web#2", { facts: { fingerprint: "b", signedBy: "other-ca" } })],
      rotation: { ...input.rotation, signer: "other-ca" },
    });
    expect(explained.decision).toBe("blocked");
    expect(explained.sentences.join()).toContain("web#2 would be refused from server to clients");
  });
});

it("does not lock Keyroll itself out: its own sign-in is one of the holders", () => {
  const decl = credential("admin", [
    verifier("server", { capacity: 2 }),
    holder("apps", ["server"], oneSlot),
    holder("keyroll itself", ["server"], oneSlot),
  ]);
  const result = make(fresh(decl));
  expect(before(result, "set keyroll itself", "distrust server")).toBe(true);
});

it("says what a breach costs, and that nobody can say where no verifier is declared", () => {
  const cost = (decl: ReturnType<typeof database>, strategy: "availability-first" | "contain-first") => {
    const input = fresh(decl);
    return breachCosts(make({ ...input, rotation: { ...input.rotation, mode: "breach", strategy } }));
  };
  const available = cost(database(2), "availability-first");
  const contain = cost(database(2), "contain-first");
  expect(contain.exposureMs).toBeLessThan(available.exposureMs!);
  expect(contain.outageMs).toBeGreaterThan(0);
  expect(available.outageMs).toBe(0);
  expect(cost(credential("lone", [holder("file", [])]), "contain-first").exposureMs).toBeNull();
});
