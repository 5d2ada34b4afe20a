/** The end: everything as it should be, the old version seen refused, and the secrets that are of no use any more destroyed. */
import type { VersionRecord } from "../core/assemble.ts";
import { actionOf } from "../core/system.ts";
import { perform } from "./effects.ts";
import { settledByTime } from "./memory.ts";
import { probe } from "./observe.ts";
import { probePauseMs, recordProbe } from "./probes.ts";
import { checkTasks } from "./tasks.ts";
import type { Turn, TurnResult } from "./turn.ts";
import { halt, park, wakeRotation } from "./waits.ts";

/** Everything is as it should be. It is the end only when the old version was seen refused, and no late write can bring it back. */
export async function finish(turn: Turn, nowMs: number): Promise<TurnResult | "look again"> {
  if (turn.stale()) {
    await turn.lookAt(turn.credential.places);
    return "look again";
  }
  const late = turn.credential.places.some((place) => place.traits.writes === "whole-set" && !place.traits.conditional);
  const quietAtMs = (turn.about.lastEffectMs ?? 0) + turn.deps.options.requestLifeMs;
  if (turn.row.mode === "breach" && late && quietAtMs > nowMs) {
    await park(
      turn,
      "the end of the longest request life, so that no late write can bring the compromised version back",
      quietAtMs,
      nowMs,
    );
    return "parked";
  }
  const settledAtMs = issuersSettleAtMs(turn, nowMs);
  if (turn.row.mode === "breach" && settledAtMs !== null)
    return await park(turn, "the removal to have reached every copy", settledAtMs, nowMs);
  const sessions = await endSessionsAtVerifiers(turn, nowMs);
  if (sessions !== null) return sessions;
  const verdict = await oldRefused(turn, nowMs);
  if (verdict !== null) return verdict;
  await checkTasks(turn, []);
  const forward = turn.row.direction === "forward";
  const kept = forward ? turn.row.toVersion : turn.row.fromVersion;
  await turn.write(async (tx, staged) => {
    for (const row of await tx.versions.list(turn.credential.name)) {
      if (row.id === kept) {
        if (row.state !== "current") await tx.versions.update(row.id, { state: "current" });
        continue;
      }
      // A compromised version keeps its name, so that it is recognised wherever it turns up again.
      if (row.state !== "compromised" && row.state !== "retired")
        await tx.versions.update(row.id, { state: "retired" });
      const destroyed = await tx.sealed.destroy(turn.credential.name, row.id);
      if (destroyed > 0 || row.material === "sealed") await tx.versions.update(row.id, { material: "none" });
    }
    const status = forward ? "done" : "rolled-back";
    staged.update({ status, waitingFor: null, nextWakeAtMs: null, reason: turn.row.reason });
    staged.journal("rotation", { status, from: turn.row.fromVersion, to: turn.row.toVersion });
    if (turn.about.parent !== null) await wakeRotation(tx, turn.about.parent, await tx.now());
  });
  return "ended";
}

/**
 * When a change of who may sign has reached every copy. What single versions a copy may still accept is remembered and part of the model; of
 * a bundle of CAs only what is there now is known.
 */
function issuersSettleAtMs(turn: Turn, nowMs: number): number | null {
  const travelling = turn.credential.places.flatMap((place) => {
    const notes = turn.notesOf(place.name);
    if (place.traits.admits !== "issuer" || settledByTime(place, notes, nowMs)) return [];
    return [notes.changedMs! + place.traits.propagationMs];
  });
  return travelling.length === 0 ? null : Math.max(...travelling);
}

/**
 * Sessions that a verifier keeps open itself, such as a database's, belong to whoever opened them, and no order depends on them: by now nobody
 * of ours needs them. So in a breach they are ended at the end. `null`: there is nothing to end any more.
 */
async function endSessionsAtVerifiers(turn: Turn, nowMs: number): Promise<TurnResult | "look again" | null> {
  const version = turn.row.fromVersion;
  if (turn.row.mode !== "breach" || version === null) return null;
  for (const place of turn.credential.places) {
    const { roles, session } = place.traits;
    if (!session || !roles.includes("verifier") || !turn.can(place.name, "endSessions")) continue;
    const { ended, retryAtMs, lastFailure } = turn.notesOf(place.name);
    if (ended?.includes(version) === true) continue;
    if (retryAtMs !== null && retryAtMs > nowMs)
      return await park(
        turn,
        `sessions under ${version} to be ended at ${place.name}: ${lastFailure ?? ""}`,
        retryAtMs,
        nowMs,
      );
    const stopped = await perform(turn, {
      verb: "endSessions",
      place: place.name,
      version,
      action: actionOf("end-sessions", null, null, null),
      phase: "retire",
      text: `end what was granted to ${version} at ${place.name}`,
      human: false,
    });
    return stopped === null ? "look again" : await halt(turn, stopped);
  }
  return null;
}

/** Tries the version that must no longer work. `null`: it was refused everywhere where it can be tried. */
export async function oldRefused(turn: Turn, nowMs: number): Promise<TurnResult | null> {
  const oldId = turn.row.direction === "forward" ? turn.row.fromVersion : turn.row.toVersion;
  const old = oldId === null ? undefined : turn.version(oldId);
  const kept = turn.version(turn.wanted() ?? "");
  if (old === undefined || !old.hasMaterial) return null;
  for (const place of turn.credential.places) {
    if (!place.traits.roles.includes("verifier") || !turn.can(place.name, "probe")) continue;
    if (place.traits.admits === "issuer" && sameIssuer(old, kept)) continue;
    const notes = turn.notesOf(place.name);
    if (notes.refused.includes(old.id)) continue;
    const last = notes.probes[old.id];
    if (last !== undefined && nowMs - last.atMs < probePauseMs(last.tries)) {
      await park(
        turn,
        `${place.name} to be asked again whether it refuses ${old.id}`,
        last.atMs + probePauseMs(last.tries),
        nowMs,
      );
      return "parked";
    }
    const answer = await probe(turn.open, place, old, turn.seen[place.name] ?? null, turn.signal);
    await recordProbe(turn, place, old.id, answer, nowMs);
    if (answer.outcome === "refused") continue;
    const tries = (last?.tries ?? 0) + 1;
    const settling = notes.changedMs !== null && nowMs < notes.changedMs + place.traits.propagationMs;
    if (!settling && (answer.outcome === "accepted" || tries >= turn.deps.options.probeAttempts)) {
      const found =
        answer.outcome === "accepted"
          ? `still accepts ${old.id}, which is configured there no more`
          : `could not be made to say whether it refuses ${old.id}`;
      return await halt(
        turn,
        `${place.name} ${found}: ${answer.detail} Everything else is done. Look into it, then resume.`,
      );
    }
    await park(turn, `${place.name} to refuse ${old.id}`, nowMs + probePauseMs(tries), nowMs);
    return "parked";
  }
  return null;
}

function sameIssuer(a: VersionRecord, b: VersionRecord | undefined): boolean {
  if (b === undefined) return false;
  const of = (version: VersionRecord): string | undefined => version.facts.signedBy ?? version.facts.issuer;
  return of(a) !== undefined && of(a) === of(b);
}
