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

type Question = (turn: Turn, effect: Effect, place: PlaceDecl, nowMs: number) => Hindrance | null;

/** A place that is not seen is asked again this soon, unless it keeps being silent. */
const lookAgainMs = 1000;

/** The first of the questions that says yes. `null`: nothing holds the effect back. */
export function hindranceTo(turn: Turn, effect: Effect, place: PlaceDecl, nowMs: number): Hindrance | null {
  for (const question of questions) {
    const hindrance = question(turn, effect, place, nowMs);
    if (hindrance !== null) return hindrance;
  }
  return null;
}

const questions: readonly Question[] = [notSeen, lateRequest, failedJustNow, otherEndNotSeen];

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
