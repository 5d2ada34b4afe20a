/** Which of the safe effects may be done now: what policy, people, doubts and other rotations hold back, each with its reason. */
import { gate } from "../core/gate.ts";
import type { Effect } from "../core/assemble.ts";
import { preferred } from "../core/plan.ts";
import type { SafetyVerdict } from "../core/plan.ts";
import type { Phase } from "../core/place.ts";
import type { Json } from "../store/store.ts";
import { hindranceTo } from "./hindrance.ts";
import type { Hindrance } from "./hindrance.ts";
import { checkTasks, leftToOthers } from "./tasks.ts";
import type { Turn, TurnResult } from "./turn.ts";
import { halt, park, unseen } from "./waits.ts";

const phases: readonly Phase[] = ["issue", "distribute", "switch", "retire"];

/** `preferred` looks at actions only. */
const noState = new Int32Array(0);

/** The first offered effect that may be done now by the machine; otherwise parks the rotation with everything that it waits for. */
export async function choose(
  turn: Turn,
  offered: readonly Effect[],
  nowMs: number,
): Promise<Effect | "look again" | TurnResult> {
  const unproved = await planApprovalMissing(turn);
  if (unproved !== null) return await park(turn, unproved, nowMs + turn.deps.options.idleWakeMs, nowMs);
  const { allowed, held } = gate(offered, turn.credential.policy, {
    nowMs,
    approvals: await approvalsByPhase(turn),
    startedBy: turn.row.startedBy,
    mode: turn.row.mode,
    lastSwitchMs: turn.about.lastSwitchMs,
    paused: false,
  });
  await checkTasks(turn, offered);

  const waits: Hindrance[] = [];
  const ready: Effect[] = [];
  for (const effect of allowed) {
    const place = turn.placeOf(effect.place);
    const hindrance =
      place === undefined
        ? null
        : (hindranceTo(turn, effect, place, nowMs, offered) ?? (await leftToOthers(turn, effect, place, nowMs)));
    if (typeof hindrance === "string") return await halt(turn, hindrance);
    if (hindrance !== null) waits.push(hindrance);
    else if (lateRequestIsOver(turn, effect)) return await lookAgain(turn);
    else ready.push(effect);
  }
  if (ready.length > 0) {
    const chosen = firstOf(ready);
    // Taking something away is judged on a picture no part of which is older than the last change.
    return chosen.phase === "retire" && turn.stale() ? await lookAgain(turn) : chosen;
  }
  const reasons = waits.map((wait) => wait.reason);
  if (waits.some((wait) => wait.unseen === true)) return await unseen(turn, nowMs, reasons);
  const untilMs = [...waits.map((wait) => wait.untilMs), ...held.map((each) => each.until)];
  const at = Math.min(nowMs + turn.deps.options.idleWakeMs, ...untilMs.filter((until) => until !== null));
  reasons.push(...held.map(({ effect, reason }) => `${effect.text}: ${reason}`));
  return await park(turn, [...new Set(reasons)].join("; "), at, nowMs);
}

/** Of effects that are equally safe: the order of the preview. */
function firstOf(ready: readonly Effect[]): Effect {
  const { action } = preferred(ready.map((effect) => ({ action: effect.action, to: noState })));
  return ready.find((effect) => effect.action === action)!;
}

async function lookAgain(turn: Turn): Promise<"look again"> {
  await turn.lookAt(turn.credential.places);
  return "look again";
}

/** A late request of ours had its time. What counts is what is seen after it. */
function lateRequestIsOver(turn: Turn, effect: Effect): boolean {
  const { uncertainUntilMs } = turn.notesOf(effect.place);
  return uncertainUntilMs !== null && (turn.seenAtMs.get(effect.place) ?? 0) < uncertainUntilMs;
}

async function approvers(turn: Turn, phase: Phase | "plan"): Promise<string[]> {
  const valid = await turn.deps.store.approvals.valid(turn.row.id, phase, turn.row.planDigest);
  return valid.filter((approval) => approval.verdict === "approved").map((approval) => approval.person);
}

async function approvalsByPhase(turn: Turn): Promise<readonly { phase: Phase; people: readonly string[] }[]> {
  // Asked for before every step, so only where the policy wants any.
  const asked = phases.filter((phase) => (turn.credential.policy.approvals[phase] ?? 0) > 0);
  return await Promise.all(asked.map(async (phase) => ({ phase, people: await approvers(turn, phase) })));
}

/** A plan that could not be proved within its bound is run only if somebody has said so, knowing it. */
async function planApprovalMissing(turn: Turn): Promise<string | null> {
  if (!isUnproved(turn.row.plan) || (await approvers(turn, "plan")).length > 0) return null;
  return "approval of a plan that was not proved: somebody must say that it may be run all the same";
}

/** Whether the stored plan was neither proved nor refuted. */
function isUnproved(stored: Json): boolean {
  const unproved: SafetyVerdict = "not proved";
  return (stored as { safety?: { verdict?: string } } | null)?.safety?.verdict === unproved;
}
