/**
 * Waits on top of the model: approvals, soak, windows, a pause. They only ever hold back an action that `next` offered; none of them makes an
 * action safe, so the proof stands whatever they say.
 */
import type { Effect } from "./assemble.ts";
import type { Phase, Policy } from "./place.ts";
import { isOpen, nextOpen } from "./time.ts";

export interface Approval {
  readonly phase: Phase;
  /** Distinct people who agreed and have not withdrawn. */
  readonly people: readonly string[];
}
export interface GateContext {
  readonly nowMs: number;
  readonly startedBy: string;
  readonly approvals: readonly Approval[];
  /** When the last switch was confirmed; the soak counts from it. `null`: none yet. */
  readonly lastSwitchMs: number | null;
  readonly paused: boolean;
  /** In a breach removal is the point: soak and windows do not hold it, approvals still do. */
  readonly mode: "planned" | "breach";
}
export interface Held {
  readonly effect: Effect;
  readonly reason: string;
  /** When to look again; `null`: when a person has acted. */
  readonly until: number | null;
  readonly needs: "approval" | "window" | "soak" | "paused";
}

type Rule = (effect: Effect, policy: Policy, context: GateContext) => Omit<Held, "effect"> | null;

const paused: Rule = (_, __, context) =>
  context.paused ? { reason: "the run is paused", until: null, needs: "paused" } : null;

/** Sealing what was just issued, and taking back what was lost, are never held: waiting would only make them worse. */
const urgent = new Set(["seal", "remove-orphan", "forget-orphan"]);

const approved: Rule = (effect, policy, context) => {
  const needed = policy.approvals[effect.phase] ?? 0;
  const people = new Set(context.approvals.filter((x) => x.phase === effect.phase).flatMap((x) => x.people));
  people.delete(context.startedBy);
  if (people.size >= needed) return null;
  const missing = needed - people.size;
  return {
    reason: `${missing} more ${missing === 1 ? "person" : "people"} must approve the ${effect.phase} phase`,
    until: null,
    needs: "approval",
  };
};

const soaked: Rule = (effect, policy, context) => {
  if (effect.phase !== "retire" || context.mode === "breach" || policy.soakMs === 0 || context.lastSwitchMs === null)
    return null;
  const until = context.lastSwitchMs + policy.soakMs;
  return context.nowMs >= until
    ? null
    : { reason: "the new version is proving itself before anything is removed", until, needs: "soak" };
};

const inWindow: Rule = (effect, policy, context) => {
  if (effect.phase === "issue" || context.mode === "breach" || policy.windows.length === 0) return null;
  if (policy.windows.some((window) => isOpen(window, context.nowMs))) return null;
  const opens = policy.windows.flatMap((window) => nextOpen(window, context.nowMs) ?? []);
  return {
    reason: `outside the window ${policy.windows.map((window) => window.text).join(" or ")}`,
    until: opens.length > 0 ? Math.min(...opens) : null,
    needs: "window",
  };
};

/** In the order in which a person would want to hear of them. */
const rules: readonly Rule[] = [paused, approved, soaked, inWindow];

export function gate(
  effects: readonly Effect[],
  policy: Policy,
  context: GateContext,
): { readonly allowed: Effect[]; readonly held: Held[] } {
  const allowed: Effect[] = [];
  const held: Held[] = [];
  for (const effect of effects) {
    const applicable = urgent.has(effect.action.kind) ? rules.slice(0, 1) : rules;
    const found = applicable.map((rule) => rule(effect, policy, context)).find((x) => x !== null);
    if (found) held.push({ effect, ...found });
    else allowed.push(effect);
  }
  return { allowed, held };
}
