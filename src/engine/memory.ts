/**
 * What the engine remembers of one place during one rotation. It is small on purpose: what is there is always observed, and only what no
 * observation can tell (when it changed, what it was before, what was probed) is kept, in the database.
 */
import type { PlaceMemory } from "../core/assemble.ts";
import type { Observation, PlaceDecl } from "../core/place.ts";
import type { Json } from "../store/store.ts";

interface ProbeNote {
  readonly outcome: "accepted" | "refused" | "unknown";
  readonly detail: string;
  readonly atMs: number;
  /** How often it was tried since the last change there. */
  readonly tries: number;
}

export interface PlaceNotes extends PlaceMemory {
  /** Marks of the enabled entries and of the one in use, as last seen: a difference that is not ours is somebody's edit. */
  readonly seen: { readonly entries: Readonly<Record<string, string>>; readonly current: string | null } | null;
  /** Our own changes since `seen` was last explained in full; replicas may show them late. Version ids. */
  readonly ours: readonly string[];
  /** No write before this time: a late request of ours may still arrive and overwrite the whole set. */
  readonly uncertainUntilMs: number | null;
  /** A request of ours without an answer may still arrive until then, whatever it writes. */
  readonly lateUntilMs: number | null;
  /** Failed effects in a row. */
  readonly failures: number;
  readonly retryAtMs: number | null;
  readonly lastFailure: string | null;
  /** The last effect that the place said was done, and how often in a row: a place that says so and does not show it is not asked for ever. */
  readonly repeated: { readonly effect: string; readonly times: number } | null;
  /** By version id, since the last change. */
  readonly probes: Readonly<Record<string, ProbeNote>>;
  /** For a holder that is another credential: the rotation that gives it the new version. */
  readonly child: string | null;
  /** For holders that cannot be read: versions that a write of unknown outcome may have made current. */
  readonly maybe: readonly string[];
}

/** What belongs to the rotation as a whole. Kept beside the places under a name that no place can have. */
export interface RotationNotes {
  readonly lastSwitchMs: number | null;
  /** Last effect anywhere, for the wait at the end of a breach. */
  readonly lastEffectMs: number | null;
  /** The version that must sign, and the rotation that waits for this one: set where a CA's rotation started this one. */
  readonly signer: string | null;
  readonly parent: string | null;
  /** Digest of what the plan rests on in the declaration. `null`: not known. */
  readonly declaration: string | null;
}
export const rotationNotesPlace = "@rotation";

export const noPlaceNotes: PlaceNotes = {
  changedMs: null,
  beforeAll: [],
  beforeAny: [],
  presented: [],
  accepted: [],
  refused: [],
  seen: null,
  ours: [],
  uncertainUntilMs: null,
  lateUntilMs: null,
  failures: 0,
  retryAtMs: null,
  lastFailure: null,
  repeated: null,
  probes: {},
  child: null,
  maybe: [],
};
export const noRotationNotes: RotationNotes = {
  lastSwitchMs: null,
  lastEffectMs: null,
  signer: null,
  parent: null,
  declaration: null,
};

/** The rows hold what this module wrote; fields that an older release did not know get their defaults. */
export function readNotes<T extends object>(json: Json | undefined, defaults: T): T {
  return json === null || typeof json !== "object" || Array.isArray(json) ? defaults : { ...defaults, ...(json as T) };
}
export function writeNotes(notes: PlaceNotes | RotationNotes): Json {
  return notes as unknown as Json;
}

const isVerifier = (place: PlaceDecl): boolean => place.traits.roles.includes("verifier");
const isHolder = (place: PlaceDecl): boolean => place.traits.roles.includes("holder");

/** Version ids that a verifier was seen to trust, as far as they were recognised. */
function trustedIn(place: PlaceDecl, observation: Observation | null): string[] {
  if (!isVerifier(place)) return [];
  const entries = observation?.entries ?? [];
  return entries.flatMap(({ version, enabled }) => (version !== undefined && enabled ? [version] : []));
}

/** Version ids that a holder was seen to use, as far as they were recognised. `assumed`: where use cannot be read. */
function usedIn(place: PlaceDecl, observation: Observation | null, assumed: readonly string[]): string[] {
  if (!isHolder(place)) return [];
  const current = observation?.current;
  // A holder whose use cannot be told may be using any entry.
  const used = (observation?.entries ?? []).filter(({ mark }) => current === undefined || current === mark);
  const ids = used.flatMap(({ version }) => (version === undefined ? [] : [version]));
  return current === undefined ? [...new Set([...assumed, ...ids])] : ids;
}

/** Whether the last change there has reached everybody, by the declared times alone. */
export function settledByTime(place: PlaceDecl, notes: PlaceNotes, nowMs: number): boolean {
  return (
    notes.changedMs === null || nowMs >= notes.changedMs + Math.max(place.traits.propagationMs, place.traits.refreshMs)
  );
}

/** Whether the change is one of what a verifier accepts or of what a holder's users present: only that travels, and is waited for. */
function travels(place: PlaceDecl, verb: string): boolean {
  if (verb === "reencrypt" || verb === "stopReencrypt" || verb === "endSessions") return false;
  return isVerifier(place) || (verb !== "add" && verb !== "remove");
}

/** After a write of ours that had, or may have had, its effect. `assumed`: what an unreadable holder used before. */
export function afterChange(
  place: PlaceDecl,
  notes: PlaceNotes,
  last: Observation | null,
  nowMs: number,
  ours: string | null,
  assumed: string | null,
  verb = "activate",
  answered = true,
): PlaceNotes {
  const all = ours === null || notes.ours.includes(ours) ? notes.ours : [...notes.ours, ours];
  if (ours !== null && verb === "reencrypt")
    return answered
      ? { ...notes, ours: all, job: ours, maybeJobs: [] }
      : { ...notes, ours: all, maybeJobs: [...new Set([...(notes.maybeJobs ?? []), ours])] };
  if (ours !== null && verb === "stopReencrypt") {
    const { job: _, ...rest } = notes;
    const others = (notes.maybeJobs ?? []).filter((job) => job !== ours);
    return { ...rest, ours: all, maybeJobs: answered ? others : [...others, ours] };
  }
  if (ours !== null && verb === "endSessions")
    return answered ? { ...notes, ours: all, ended: [...(notes.ended ?? []), ours] } : { ...notes, ours: all };
  if (!travels(place, verb)) return { ...notes, ours: all };
  const wrote = notes.wrote ?? assumed;
  const unread = wrote === null ? notes.maybe : [wrote, ...notes.maybe];
  return {
    ...notes,
    changedMs: nowMs,
    ...beforeChange(place, notes, trustedIn(place, last), usedIn(place, last, unread), nowMs),
    accepted: [],
    refused: [],
    probes: {},
    ours: all,
  };
}

/** What may still hold elsewhere while a change travels, from what was trusted and used just before it. */
function beforeChange(
  place: PlaceDecl,
  notes: PlaceNotes,
  trusted: readonly string[],
  used: readonly string[],
  nowMs: number,
): Pick<PlaceNotes, "beforeAll" | "beforeAny" | "presented"> {
  // When the change before this one has not settled either, there are more than two states about.
  const settled = notes.changedMs === null || nowMs >= notes.changedMs + place.traits.propagationMs;
  return {
    beforeAll: settled ? trusted : trusted.filter((id) => notes.beforeAll.includes(id)),
    beforeAny: settled ? trusted : [...new Set([...notes.beforeAny, ...trusted])],
    // Tokens outlive the refresh, and the place does not know for how long: its verifiers do. So nothing is forgotten here.
    presented: [...new Set([...notes.presented, ...used])],
  };
}

interface Edit {
  readonly notes: PlaceNotes;
  /** One sentence per difference that we did not make. */
  readonly edits: readonly string[];
}

/** Takes in what was seen now, and tells somebody else's edit from our own changes. */
export function afterLook(place: PlaceDecl, notes: PlaceNotes, observation: Observation, nowMs: number): Edit {
  const entries: Record<string, string> = {};
  for (const entry of observation.entries) {
    entries[entry.mark] = `${entry.version ?? ""}${entry.enabled ? "" : " (disabled)"}`;
  }
  const current = observation.current ?? null;
  const seen = { entries, current };
  // Once a change of ours has had its time, whatever differs later is not ours.
  const ours = settledByTime(place, notes, nowMs) ? [] : notes.ours;
  if (notes.seen === null) return { notes: { ...notes, seen, ours }, edits: [] };
  const mine = (value: string | undefined): boolean =>
    value !== undefined && notes.ours.includes(value.replace(" (disabled)", ""));
  const edits: string[] = [];
  for (const [mark, value] of Object.entries(entries)) {
    const was = notes.seen.entries[mark];
    if (was === value || mine(value) || mine(was)) continue;
    // Recognised later than it was first seen (adopted, or found in an older copy): nothing changed there.
    if (was === "" && value !== "") continue;
    edits.push(was === undefined ? `${mark} was added by somebody else.` : `${mark} was changed by somebody else.`);
  }
  for (const [mark, was] of Object.entries(notes.seen.entries)) {
    if (entries[mark] === undefined && !mine(was)) {
      // A slot that holds one value at a time: our own write pushes the old one out.
      const replaced = notes.ours.length > 0 && (place.traits.storeCapacity === 1 || place.traits.capacity === 1);
      if (!replaced) edits.push(`${mark} was removed by somebody else.`);
    }
  }
  if (current !== notes.seen.current && !mine(current === null ? undefined : entries[current]) && edits.length === 0) {
    const was = notes.seen.current === null ? undefined : notes.seen.entries[notes.seen.current];
    if (!(current === null && mine(was))) edits.push(`${current ?? "nothing"} was made current by somebody else.`);
  }
  if (edits.length === 0) return { notes: { ...notes, seen, ours }, edits };
  // What is only stored is presented by nobody: its coming and going changes no wait.
  if (!isVerifier(place) && current === notes.seen.current) return { notes: { ...notes, seen, ours }, edits };
  const known = Object.entries(notes.seen.entries).filter(
    ([, value]) => value !== "" && !value.endsWith(" (disabled)"),
  );
  const trusted = isVerifier(place) ? known : [];
  const used = isHolder(place) ? known.filter(([mark]) => mark === notes.seen?.current) : [];
  const idsOf = (entries: typeof known): string[] => entries.map(([, value]) => value);
  return {
    notes: {
      ...notes,
      seen,
      ours,
      repeated: null,
      changedMs: nowMs,
      ...beforeChange(place, notes, idsOf(trusted), idsOf(used), nowMs),
      accepted: [],
      refused: [],
      probes: {},
    },
    edits,
  };
}
