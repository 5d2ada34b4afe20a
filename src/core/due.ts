/** What must be started, and why: an ordered list of small decisions, each with its reason. Lists sort by last safe start, not by expiry. */
import type { Policy } from "./place.ts";

export interface DueInput {
  readonly nowMs: number;
  readonly policy: Policy;
  /** Validity end of the current version; absent: it does not expire. */
  readonly notAfterMs?: number;
  /** When the current version was made or first seen. */
  readonly createdMs?: number;
  /** How long a rotation needs until the old version is needed by nobody. */
  readonly neededMs: number;
  /** Copies that hold another version than the current one. */
  readonly outOfStep: readonly { readonly place: string; readonly has: string }[];
  readonly copies: number;
  readonly compromised: boolean;
  /** A rotation that is under way. */
  readonly running?: {
    readonly id: string;
    readonly status: string;
    readonly step: number;
    readonly steps: number;
    readonly waitingFor?: string;
  };
  /** Age of what is known, in milliseconds; `null`: never seen. */
  readonly seenAgoMs: number | null;
  /** After this age what is known is stale. */
  readonly staleAfterMs: number;
  readonly unseen: readonly string[];
}

/** In falling order of urgency; `unknown` is never shown as fine. */
export type DueState = "compromised" | "expired" | "late" | "due" | "out-of-step" | "rotating" | "unknown" | "fine";

export interface Due {
  readonly state: DueState;
  /** One sentence. */
  readonly reason: string;
  readonly lastSafeStartMs: number | null;
  /** When policy wants it started, if that is before the last safe start. */
  readonly startByMs: number | null;
  readonly stale: boolean;
}

export function lastSafeStart(input: DueInput): number | null {
  return input.notAfterMs === undefined ? null : input.notAfterMs - input.neededMs - input.policy.marginMs;
}

function startBy(input: DueInput): { atMs: number; why: string } | null {
  const candidates: { atMs: number; why: string }[] = [];
  const { policy } = input;
  if (policy.rotateBeforeMs !== null && input.notAfterMs !== undefined)
    candidates.push({ atMs: input.notAfterMs - policy.rotateBeforeMs, why: "policy rotates before expiry" });
  if (policy.maxAgeMs !== null && input.createdMs !== undefined)
    candidates.push({ atMs: input.createdMs + policy.maxAgeMs, why: "policy limits the age" });
  const last = lastSafeStart(input);
  if (last !== null) candidates.push({ atMs: last, why: "a later start would not finish before expiry" });
  return candidates.sort((a, b) => a.atMs - b.atMs)[0] ?? null;
}

type Rule = (input: DueInput) => { state: DueState; reason: string } | null;

const list = (names: readonly string[]): string =>
  names.length <= 2 ? names.join(" and ") : `${names.slice(0, 2).join(", ")} and ${names.length - 2} more`;

const rules: readonly Rule[] = [
  ({ running }) =>
    running
      ? {
          state: "rotating",
          reason: `rotating ${running.id}, step ${running.step} of ${running.steps}${running.waitingFor ? `, ${running.waitingFor}` : ""}`,
        }
      : null,
  ({ compromised }) =>
    compromised ? { state: "compromised", reason: "the current version is known to others" } : null,
  ({ notAfterMs, nowMs }) =>
    notAfterMs !== undefined && notAfterMs <= nowMs
      ? { state: "expired", reason: "the current version has expired" }
      : null,
  (input) => {
    const last = lastSafeStart(input);
    return last !== null && last <= input.nowMs ? { state: "late", reason: "the last safe start has passed" } : null;
  },
  ({ outOfStep, copies }) =>
    outOfStep.length > 0
      ? {
          state: "out-of-step",
          reason: `${outOfStep.length} of ${copies} copies differ: ${list(outOfStep.map((copy) => `${copy.place} has ${copy.has}`))}`,
        }
      : null,
  (input) => {
    const start = startBy(input);
    return start !== null && start.atMs <= input.nowMs ? { state: "due", reason: start.why } : null;
  },
  ({ seenAgoMs, unseen }) =>
    seenAgoMs === null || unseen.length > 0
      ? { state: "unknown", reason: seenAgoMs === null ? "never looked at" : `${list(unseen)} could not be seen` }
      : null,
];

export function due(input: DueInput): Due {
  const verdict = rules.map((rule) => rule(input)).find((x) => x !== null);
  return {
    ...(verdict ?? { state: "fine" as const, reason: "nothing to do" }),
    lastSafeStartMs: lastSafeStart(input),
    startByMs: startBy(input)?.atMs ?? null,
    stale: input.seenAgoMs === null || input.seenAgoMs > input.staleAfterMs,
  };
}

const urgency: readonly DueState[] = [
  "compromised",
  "expired",
  "late",
  "out-of-step",
  "due",
  "unknown",
  "rotating",
  "fine",
];

/** What must be started first comes first: broken things, then by the date on which the start is due. */
export function byUrgency(a: Due, b: Due): number {
  const order = urgency.indexOf(a.state) - urgency.indexOf(b.state);
  if (order !== 0) return order;
  return (a.startByMs ?? Number.POSITIVE_INFINITY) - (b.startByMs ?? Number.POSITIVE_INFINITY) || 0;
}
