/** Asking the systems themselves whether a version works. A configuration that says so is not enough to take the old version away. */
import type { Probe } from "../connectors/connector.ts";
import type { PlaceDecl } from "../core/place.ts";
import { probe } from "./observe.ts";
import type { Turn } from "./turn.ts";

/** Tries the wanted version at every verifier where it was put since it was last tried. Returns why the rotation must stop, if it must. */
export async function probeWhatChanged(turn: Turn): Promise<string | null> {
  const id = turn.wanted();
  const version = id === null ? undefined : turn.version(id);
  if (version === undefined || !version.hasMaterial) return null;
  for (const place of turn.credential.places) {
    if (!place.traits.roles.includes("verifier") || !turn.can(place.name, "probe")) continue;
    const notes = turn.notesOf(place.name);
    // Nothing of this rotation has changed what is accepted there, so there is nothing to learn.
    if (notes.changedMs === null || notes.accepted.includes(version.id)) continue;
    const there =
      turn.seen[place.name]?.entries.some((entry) => entry.version === version.id && entry.enabled) ?? false;
    if (!there) continue;
    const last = notes.probes[version.id];
    const nowMs = await turn.deps.nowMs();
    if (last !== undefined && nowMs - last.atMs < probePauseMs(last.tries)) continue;
    const answer = await probe(turn.open, place, version, turn.seen[place.name] ?? null, turn.signal);
    await recordProbe(turn, place, version.id, answer, nowMs);
    const due = nowMs >= notes.changedMs + place.traits.propagationMs;
    if (answer.outcome === "unknown" && due && (last?.tries ?? 0) + 1 >= turn.deps.options.probeAttempts) {
      return `${place.name} does not say whether it accepts ${version.id}: ${answer.detail} Nothing was removed. Mend it, then resume; or roll back.`;
    }
    if (answer.outcome === "refused" && due) {
      return `${place.name} refuses the new version ${version.id}, although it is configured there: ${answer.detail} Nothing was removed. Find out why, then resume; or roll back.`;
    }
  }
  return null;
}

export async function recordProbe(
  turn: Turn,
  place: PlaceDecl,
  version: string,
  answer: Probe,
  nowMs: number,
): Promise<void> {
  const notes = turn.notesOf(place.name);
  const tries = (notes.probes[version]?.tries ?? 0) + 1;
  await turn.write(async (_, staged) => {
    staged.remember(place.name, {
      ...notes,
      probes: { ...notes.probes, [version]: { ...answer, atMs: nowMs, tries } },
      accepted:
        answer.outcome === "accepted"
          ? [...new Set([...notes.accepted, version])]
          : notes.accepted.filter((id) => id !== version),
      refused:
        answer.outcome === "refused"
          ? [...new Set([...notes.refused, version])]
          : notes.refused.filter((id) => id !== version),
    });
    staged.note({ probe: answer.outcome, place: place.name, version, text: answer.detail });
  });
}

/** How long a probe that did not say yes is left alone, growing with every try. */
export function probePauseMs(tries: number): number {
  return Math.min(60_000, 500 * 2 ** Math.min(tries, 10));
}
