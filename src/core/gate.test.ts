import { describe, expect, it } from "vitest";
import type { Effect } from "./assemble.ts";
import { gate, type GateContext } from "./gate.ts";
import type { ActionKind } from "./model.ts";
import type { Phase, Policy } from "./place.ts";
import { parseWindow } from "./time.ts";

const effect = (kind: ActionKind, phase: Phase): Effect => ({
  verb: "remove",
  place: "role",
  version: "app#1",
  action: { kind, version: 0, item: null, verifier: 0, holder: null, unit: null, edge: null, exposes: [] },
  phase,
  text: kind,
  human: false,
});
const windowOf = (text: string) => {
  const parsed = parseWindow(text);
  if (!("value" in parsed)) throw new Error(parsed.problem);
  return parsed.value;
};
const policy = (more: Partial<Policy> = {}): Policy => ({
  rotateBeforeMs: null,
  maxAgeMs: null,
  soakMs: 0,
  marginMs: 0,
  approvals: {},
  windows: [],
  notify: [],
  ...more,
});
const context = (more: Partial<GateContext> = {}): GateContext => ({
  nowMs: Date.UTC(2026, 10, 21, 9, 0),
  startedBy: "ann",
  approvals: [],
  lastSwitchMs: null,
  paused: false,
  mode: "planned",
  ...more,
});
const reasons = (kind: ActionKind, phase: Phase, p: Policy, c: GateContext) =>
  gate([effect(kind, phase)], p, c).held.map((held) => held.needs);

describe("gates only hold back", () => {
  it("lets everything through when nothing is asked for", () => {
    expect(gate([effect("distrust", "retire")], policy(), context()).allowed).toHaveLength(1);
  });
  it("an approval counts distinct people, and never the starter", () => {
    const two = policy({ approvals: { retire: 2 } });
    const by = (...people: string[]) => context({ approvals: [{ phase: "retire", people }] });
    expect(reasons("distrust", "retire", two, by("ann", "bob"))).toEqual(["approval"]);
    expect(reasons("distrust", "retire", two, by("bob", "bob"))).toEqual(["approval"]);
    expect(reasons("distrust", "retire", two, by("bob", "cy"))).toEqual([]);
    expect(reasons("trust", "distribute", two, context())).toEqual([]);
  });
  it("an approval for another phase does not count", () => {
    expect(
      reasons(
        "distrust",
        "retire",
        policy({ approvals: { retire: 1 } }),
        context({ approvals: [{ phase: "switch", people: ["bob"] }] }),
      ),
    ).toEqual(["approval"]);
  });
  it("the soak counts from the last switch and names its end", () => {
    const soak = policy({ soakMs: 60_000 });
    const at = context({ lastSwitchMs: context().nowMs - 59_999 });
    expect(gate([effect("distrust", "retire")], soak, at).held[0]).toMatchObject({
      needs: "soak",
      until: at.nowMs + 1,
    });
    expect(reasons("distrust", "retire", soak, context({ lastSwitchMs: context().nowMs - 60_000 }))).toEqual([]);
  });
  it("a window holds changes until it opens, and never the issuing", () => {
    const window = policy({ windows: [windowOf("Sat 22:00-23:00 UTC")] });
    const held = gate([effect("set", "switch")], window, context()).held[0]!;
    expect(held.needs).toBe("window");
    expect(held.until).toBe(Date.UTC(2026, 10, 21, 22, 0));
    expect(reasons("issue", "issue", window, context())).toEqual([]);
    expect(reasons("set", "switch", window, context({ nowMs: Date.UTC(2026, 10, 21, 22, 30) }))).toEqual([]);
  });
  it("in a breach neither soak nor window holds, and approvals do", () => {
    const all = policy({ soakMs: 1e9, windows: [windowOf("Sat 22:00-23:00 UTC")], approvals: { retire: 1 } });
    const breach = context({ mode: "breach", lastSwitchMs: context().nowMs });
    expect(reasons("distrust", "retire", all, breach)).toEqual(["approval"]);
    expect(
      reasons("distrust", "retire", all, { ...breach, approvals: [{ phase: "retire", people: ["bob"] }] }),
    ).toEqual([]);
  });
  it("a pause holds everything, sealing included; nothing else ever holds sealing", () => {
    const strict = policy({ approvals: { issue: 3 } });
    expect(reasons("seal", "issue", strict, context())).toEqual([]);
    expect(reasons("issue", "issue", strict, context())).toEqual(["approval"]);
    expect(reasons("seal", "issue", strict, context({ paused: true }))).toEqual(["paused"]);
  });
});
