/** What holds back an effect that is safe and allowed: one small question per kind of hindrance, each with its reason and until when. */
import type { Effect } from "../core/assemble.ts";
import type { PlaceDecl } from "../core/place.ts";
import type { Turn } from "./turn.ts";

export interface Hindrance {
  readonly reason: string;
  /** `null`: somebody calls when it is over. */
  readonly untilMs: number | null;
  /** A place that could not be seen is looked at again at growing intervals. */
  readonly unseen?: true;
}

type Question = (
  turn: Turn,
  effect: Effect,
  place: PlaceDecl,
  nowMs: number,
  offered: readonly Effect[],
) => Hindrance | null;

/** A place that is not seen is asked again this soon, unless it keeps being silent. */
const lookAgainMs = 1000;

/** The first of the questions that says yes. `null`: nothing holds the effect back. */
export function hindranceTo(
  turn: Turn,
  effect: Effect,
  place: PlaceDecl,
  nowMs: number,
  offered: readonly Effect[],
): Hindrance | null {
  for (const question of questions) {
    const hindrance = question(turn, effect, place, nowMs, offered);
    if (hindrance !== null) return hindrance;
  }
  return null;
}

const questions: readonly Question[] = [notSeen, lateRequest, failedJustNow, otherEndNotSeen, neededInOtherRole];

function notSeen(turn: Turn, _: Effect, place: PlaceDecl, nowMs: number): Hindrance | null {
  const error = turn.errors.get(place.name);
  return error === undefined
    ? null
    : { reason: `${place.name} could not be seen: ${error}`, untilMs: nowMs + lookAgainMs, unseen: true };
}

function lateRequest(turn: Turn, _: Effect, place: PlaceDecl, nowMs: number): Hindrance | null {
  const untilMs = turn.notesOf(place.name).uncertainUntilMs;
  return untilMs === null || untilMs <= nowMs
    ? null
    : {
        reason: `${place.name}: a request whose answer never came may still arrive, so nothing is written there before`,
        untilMs,
      };
}

function failedJustNow(turn: Turn, _: Effect, place: PlaceDecl, nowMs: number): Hindrance | null {
  const { retryAtMs, lastFailure } = turn.notesOf(place.name);
  return retryAtMs === null || retryAtMs <= nowMs
    ? null
    : {
        reason: `${place.name} to be tried again: ${lastFailure ?? "the last attempt failed"}`,
        untilMs: retryAtMs,
      };
}

/** Whoever is not seen counts as presenting, and as accepting, the worst. Against that, a switch would seem to make nothing worse. */
function otherEndNotSeen(turn: Turn, effect: Effect, place: PlaceDecl, nowMs: number): Hindrance | null {
  if (effect.phase !== "switch") return null;
  const ends = turn.credential.places.filter(
    (at) => at.presentsTo.includes(place.name) || place.presentsTo.includes(at.name),
  );
  for (const end of ends) {
    const hindrance = notSeen(turn, effect, end, nowMs);
    if (hindrance !== null) return hindrance;
  }
  return null;
}

/** What is waited for without a known end is looked at again this soon. */
const pollMs = 60_000;

/**
 * Where a place verifies and holds, one entry serves both, and taking it away takes it from both: that is right only when it is offered for
 * both. Containing first means that it goes at once, whoever still uses it.
 */
function neededInOtherRole(
  turn: Turn,
  effect: Effect,
  place: PlaceDecl,
  nowMs: number,
  offered: readonly Effect[],
): Hindrance | null {
  const { roles } = place.traits;
  if (effect.verb !== "remove" || !roles.includes("verifier") || !roles.includes("holder")) return null;
  if (turn.row.mode === "breach" && turn.row.strategy === "contain-first") return null;
  const entry = turn.seen[place.name]?.entries.find(({ version }) => version === effect.version);
  const other = effect.action.kind === "purge" ? "distrust" : "purge";
  const both = offered.some(
    ({ place: at, version, action }) => at === place.name && version === effect.version && action.kind === other,
  );
  if (both || entry?.enabled !== true || effect.action.kind === "remove-orphan") return null;
  const who = other === "purge" ? `${place.name} itself` : `somebody who presents it to ${place.name}`;
  return { reason: `${who} to need ${effect.version} no longer`, untilMs: nowMs + pollMs };
}
