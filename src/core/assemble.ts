/**
 * From what is declared, known and seen to the model: the topology of one rotation, its situation and its goal. The plan and the engine both
 * start here, so that what a user previews is what is run. Pure: the same input gives the same model.
 */
import {
  bit,
  type Action,
  type Edge,
  type Goal,
  type Holder,
  type HolderState,
  type Item,
  type Mask,
  type MaterialState,
  type Situation,
  type Topology,
  type Verifier,
  type VerifierState,
  type VersionSpec,
} from "./model.ts";
import type { CredentialDecl, Entry, Observation, Phase, PlaceDecl, VersionFacts, VersionState } from "./place.ts";
import { describeAction } from "./words.ts";

export interface VersionRecord {
  /** `<credential>#<number>`. */
  readonly id: string;
  readonly facts: VersionFacts;
  readonly state: VersionState;
  readonly material: MaterialState;
  /** The secret part is sealed here and can be given to a place. */
  readonly hasMaterial: boolean;
  /** Per place: where that place keeps it. */
  readonly placements: Readonly<
    Record<string, { readonly slot?: string; readonly attributes?: Readonly<Record<string, string>> }>
  >;
  readonly createdMs: number;
}

/** What one look at a place cannot tell, and the journal remembers. */
export interface PlaceMemory {
  /** When the place was last changed, by us or (as far as seen) by somebody else. */
  readonly changedMs: number | null;
  /**
   * Verifier: version ids that every copy accepted for certain just before that change. What an earlier change added and not every copy had
   * heard of yet is left out.
   */
  readonly beforeAll: readonly string[];
  /** Verifier: version ids that some copy may still have accepted just before that change, so that it may accept them now. */
  readonly beforeAny: readonly string[];
  /** Holder: version ids that were in use at any time before that change, so that somebody may still present them. */
  readonly presented: readonly string[];
  /** Version ids that the system itself was seen to accept, or to refuse, since that change. */
  readonly accepted: readonly string[];
  readonly refused: readonly string[];
  /** The place can be asked whether it accepts a version; then it must have said yes before a version counts as accepted. */
  readonly canProbe?: boolean;
  /** What was seen last, for when the place cannot be seen now. */
  readonly lastSeen?: Observation;
  /** For places that cannot be read: the version that our last confirmed write made current. */
  readonly wrote?: string;
  /** The version that a running re-encryption writes. */
  readonly job?: string;
  /** Re-encryptions to these may be running: a start had no answer, or nobody asked it to stop. A confirmed start ends the doubt. */
  readonly maybeJobs?: readonly string[];
  /** Versions that a write of ours may have made current here since it was last seen. */
  readonly maybe?: readonly string[];
  /** Versions whose grants (sessions, registrations) were ended here. */
  readonly ended?: readonly string[];
}

export interface RotationSpec {
  readonly mode: "planned" | "breach";
  readonly strategy: "availability-first" | "contain-first";
  readonly direction: "forward" | "back";
  /** The version that is being replaced; `null` where none is known yet. */
  readonly from: string | null;
  /** The new version; it need not exist yet. */
  readonly to: string;
  /** Places between which a refusal was declared before the start. */
  readonly exposed: readonly { readonly holder: string; readonly verifier: string }[];
  /** Fingerprint of the CA version that will sign, where the issuer is a CA of the estate. */
  readonly signer?: string;
}

export interface AssembleInput {
  readonly credential: CredentialDecl;
  readonly versions: readonly VersionRecord[];
  readonly rotation: RotationSpec;
  /** Per place; `null` or absent: could not be seen. */
  readonly seen: Readonly<Record<string, Observation | null>>;
  readonly memory: Readonly<Record<string, PlaceMemory>>;
  readonly nowMs: number;
}

export interface Assembled {
  readonly topology: Topology;
  readonly situation: Situation;
  readonly goal: Goal;
  /** Version ids by index. */
  readonly versionIds: readonly string[];
  /** Place names by verifier index and by holder index. */
  readonly verifierPlaces: readonly string[];
  readonly holderPlaces: readonly string[];
  /** Places that could not be seen: nothing may be done to them. */
  readonly unseen: readonly string[];
  /** What a person should know: entries left alone, what cannot be taken back. */
  readonly notes: readonly string[];
}

const emptyMemory: PlaceMemory = {
  changedMs: null,
  beforeAll: [],
  beforeAny: [],
  presented: [],
  accepted: [],
  refused: [],
};

/** Copies whose number nobody knows: enough that the proof stands for any number of them. */
const many = 8;

/** A version that is in use somewhere and that Keyroll does not know. */
const unknownAt = (place: string): string => `unknown at ${place}`;

export function assemble(input: AssembleInput): Assembled {
  const { credential, rotation, nowMs } = input;
  const notes: string[] = [];
  const unseen = credential.places.filter((place) => !input.seen[place.name]).map((place) => place.name);
  const observationOf = (place: PlaceDecl): Observation | null =>
    input.seen[place.name] ?? memoryOf(place).lastSeen ?? null;
  const memoryOf = (place: PlaceDecl): PlaceMemory => input.memory[place.name] ?? emptyMemory;

  const isVerifier = (place: PlaceDecl) => place.traits.roles.includes("verifier");
  const isHolder = (place: PlaceDecl) => place.traits.roles.includes("holder");
  const verifierPlaces = credential.places.filter(isVerifier);
  const holderPlaces = credential.places.filter(isHolder);
  // A place with neither role only watches: what is seen in use there is live somewhere.
  const watchers = credential.places.filter((place) => !isVerifier(place) && !isHolder(place));

  // Versions: the two of the rotation, and every other known one that is still somewhere.
  const known = new Map(input.versions.map((version) => [version.id, version]));
  const ids: string[] = [];
  const indexOf = (id: string): number => {
    const at = ids.indexOf(id);
    return at >= 0 ? at : ids.push(id) - 1;
  };
  if (rotation.from !== null) indexOf(rotation.from);
  indexOf(rotation.to);
  const versionOfMark = (place: PlaceDecl, mark: string | null | undefined): string | null => {
    if (mark === null || mark === undefined) return null;
    const entry = observationOf(place)?.entries.find((x) => x.mark === mark);
    return entry?.version ?? (known.has(mark) ? mark : null);
  };
  for (const place of credential.places) {
    const seen = observationOf(place);
    for (const entry of seen?.entries ?? [])
      if (entry.version !== undefined && known.has(entry.version)) indexOf(entry.version);
    const { beforeAll, beforeAny, presented } = memoryOf(place);
    for (const id of [...beforeAll, ...beforeAny, ...presented]) if (known.has(id)) indexOf(id);
    if (isHolder(place) && typeof seen?.current === "string" && versionOfMark(place, seen.current) === null)
      indexOf(unknownAt(place.name));
  }

  const target = rotation.direction === "forward" ? rotation.to : (rotation.from ?? rotation.to);
  const issuerPlace = credential.places.find((place) => place.name === credential.issuer.place);
  const issuing = (issuerPlace ?? credential.issuer).traits;
  const record = (id: string) => known.get(id);
  const isIssued = (id: string): boolean => id === rotation.to;

  const signerOf = (id: string): string | undefined =>
    record(id)?.facts.signedBy ?? (id === rotation.to ? rotation.signer : undefined);

  // Items: one per version where single versions are trusted, one per CA entry where whatever a CA signed is.
  const items: Item[] = [];
  const itemOfVersion = new Map<number, number>();
  const caItems = new Map<string, number>();
  if (verifierPlaces.some((place) => place.traits.admits === "version"))
    ids.forEach((id, v) => {
      if (id.startsWith("unknown at ")) return;
      itemOfVersion.set(v, items.push({ name: id, admits: bit(v), denies: 0, version: isIssued(id) ? v : null }) - 1);
    });
  const expectSameSigner =
    rotation.signer === undefined && rotation.from !== null && (record(rotation.to)?.material ?? "none") === "none";
  const lets = (entry: Entry, id: string): boolean => {
    if (entry.admits?.includes(id)) return true;
    const signer = signerOf(id);
    // Nobody signed it yet and the estate does not say who will: the plan expects the one who signed the last. Once it is made it is looked at.
    if (signer === undefined)
      return expectSameSigner && id === rotation.to && entry.admits?.includes(rotation.from!) === true;
    if (entry.mark === signer) return true;
    // Whoever lets in a sibling under the same CA lets in this one as well.
    return (entry.admits ?? []).some((other) => signerOf(other) === signer);
  };
  for (const place of verifierPlaces) {
    if (place.traits.admits !== "issuer") continue;
    for (const entry of observationOf(place)?.entries ?? []) {
      if (!entry.enabled) continue;
      const admits = ids.reduce((mask, id, v) => (lets(entry, id) ? mask | bit(v) : mask), 0);
      if (admits === 0) continue;
      const key = `${entry.mark} ${admits}`;
      if (!caItems.has(key))
        caItems.set(key, items.push({ name: `CA ${short(entry.mark)}`, admits, denies: 0, version: null }) - 1);
    }
  }

  const from = rotation.from === null ? undefined : record(rotation.from);
  const verifiers: Verifier[] = [];
  const verifierStates: VerifierState[] = [];
  const final: Mask[] = [];
  let undeniable = 0;
  for (const place of verifierPlaces) {
    const { traits } = place;
    const seen = observationOf(place);
    const memory = memoryOf(place);
    let configured = 0;
    let foreign = 0;
    for (const entry of seen?.entries ?? []) {
      if (!entry.enabled) continue;
      if (traits.admits === "issuer") {
        const admits = ids.reduce((mask, id, v) => (lets(entry, id) ? mask | bit(v) : mask), 0);
        const item = caItems.get(`${entry.mark} ${admits}`);
        if (item !== undefined) configured |= bit(item);
        continue;
      }
      const version = entry.version === undefined ? -1 : ids.indexOf(entry.version);
      const item = itemOfVersion.get(version);
      if (item === undefined) foreign++;
      else configured |= bit(item);
    }
    if (foreign > 0)
      notes.push(
        `${place.name} has ${foreign} other ${foreign === 1 ? "entry" : "entries"} that Keyroll does not know; they are left alone.`,
      );
    verifiers.push({
      name: place.name,
      capacity: Math.max(1, traits.capacity - foreign),
      replicas: traits.propagationMs > 0 ? many : 1,
      serial: traits.transitions.includes("serial"),
      noTwoToTwo: traits.transitions.includes("no-two-to-two"),
      restorable: traits.restorable && (from?.hasMaterial ?? true),
      changeMs: traits.changeMs,
      propagationMs: traits.propagationMs,
      human: traits.human,
    });
    verifierStates.push({ configured, enforced: enforced(place, configured), gone: 0 });
    if (traits.admits === "issuer") {
      final.push(configured);
      if (rotation.mode === "breach")
        undeniable |= items.reduce((mask, item, t) => (configured & bit(t) ? mask | item.admits : mask), 0);
    } else final.push(bit(itemOfVersion.get(ids.indexOf(target))!));

    function enforced(at: PlaceDecl, now: Mask): Mask[] {
      const itemsOf = (versions: readonly string[]): Mask =>
        versions.reduce((mask, id) => {
          const item = itemOfVersion.get(ids.indexOf(id));
          return item === undefined ? mask : mask | bit(item);
        }, 0);
      // Unseen, it counts as accepting nothing where somebody relies on it, and where a breach ends as accepting all that it may.
      if (!input.seen[at.name]) return [now | itemsOf(memory.beforeAny), 0];
      const sets = new Set([now]);
      if (traits.admits === "version") {
        const settled = seen?.settled === true;
        if (!settled && memory.changedMs !== null && nowMs < memory.changedMs + traits.propagationMs) {
          // Which of the states on the way a copy is in cannot be told. Two bounds stand for all of them: the least that it may accept, on
          // which nobody may count for more, and the most, which a breach has to see gone.
          sets.add(itemsOf(memory.beforeAll));
          sets.add(now | itemsOf(memory.beforeAny));
        }
        // What the system was seen to refuse, or was never seen to accept since it was written, does not count as accepted.
        const doubtful = memory.refused.filter((id) => !memory.accepted.includes(id));
        const untried =
          memory.canProbe && memory.changedMs !== null
            ? ids.filter((id) => !memory.beforeAll.includes(id) && !memory.accepted.includes(id) && !settled)
            : [];
        const held = itemsOf([...doubtful, ...untried]) & now;
        if (held) sets.add(now & ~held);
      }
      return [...sets];
    }
  }

  let compromised = 0;
  if (rotation.mode === "breach") {
    ids.forEach((id, v) => {
      if (id === rotation.from || record(id)?.state === "compromised") compromised |= bit(v);
    });
    const kept = compromised & undeniable;
    if (kept)
      notes.push(
        `A place trusts everything that the CA signed, so ${ids.filter((_, v) => kept & bit(v)).join(", ")} stays acceptable there until it expires or its CA revokes it.`,
      );
    compromised &= ~undeniable;
    const keepers = credential.places.filter((place) => place.traits.session).map((place) => place.name);
    if (compromised && keepers.length > 0)
      notes.push(
        `Sessions under ${ids.filter((_, v) => compromised & bit(v)).join(", ")} are ended at ${keepers.join(", ")} before the breach is over.`,
      );
  }
  /** What some copy of a verifier may let in. */
  const letsIn = (verifier: number): Mask => {
    const { configured, enforced } = verifierStates[verifier]!;
    const anywhere = enforced.reduce((all, set) => all | set, configured);
    return items.reduce((mask, item, t) => (anywhere & bit(t) ? mask | item.admits : mask), 0);
  };

  if (expectSameSigner && caItems.size > 0)
    notes.push(
      `Expects the CA that signed ${rotation.from} to sign ${rotation.to} as well; that is checked before it is given to anybody.`,
    );

  const watched = new Set<string>();
  for (const place of watchers)
    for (const mark of observationOf(place)?.inUse ?? []) {
      const id = versionOfMark(place, mark);
      if (id !== null) watched.add(id);
    }

  const edges: Edge[] = [];
  const exposed: number[] = [];
  const holders: Holder[] = [];
  const holderStates: HolderState[] = [];
  holderPlaces.forEach((place, h) => {
    const { traits } = place;
    const seen = observationOf(place);
    const memory = memoryOf(place);
    const maskOf = (versions: Iterable<string>): Mask => {
      let mask = 0;
      for (const id of versions) if (ids.includes(id)) mask |= bit(ids.indexOf(id));
      return mask;
    };
    let stored = maskOf((seen?.entries ?? []).flatMap((entry) => (entry.version === undefined ? [] : [entry.version])));
    let current: number | null = null;
    const doubted = seen?.current === undefined && !traits.readable ? (memory.maybe ?? []) : [];
    // A place that can be read and does not say what is in use is in between (written, and not reloaded): anything it has may be live.
    const between = seen !== null && seen.current === undefined && traits.readable;
    if (between) current = null;
    else if (seen?.current === undefined) {
      // It cannot be read back: what we last wrote and saw confirmed, else what was there before us. After a write without an answer it may
      // be either, until a write is confirmed.
      const assumed = memory.wrote ?? rotation.from;
      if (doubted.length > 0) stored |= maskOf([...doubted, ...(assumed === null ? [] : [assumed])]);
      else if (assumed !== null && ids.includes(assumed)) current = ids.indexOf(assumed);
    } else if (seen.current !== null) {
      const id = versionOfMark(place, seen.current);
      current = ids.indexOf(id ?? unknownAt(place.name));
      if (id === null) notes.push(`${place.name} uses a value that Keyroll does not know.`);
    }
    if (current !== null) stored |= bit(current);
    const lives = new Set<number | null>([current]);
    const addLives = (mask: Mask): void => {
      ids.forEach((_, v) => {
        if (mask & bit(v)) lives.add(v);
      });
    };
    const settling = memory.changedMs !== null && nowMs < memory.changedMs + traits.refreshMs;
    if (settling) addLives(maskOf(memory.presented));
    addLives(maskOf((seen?.inUse ?? []).flatMap((mark) => versionOfMark(place, mark) ?? [])));
    addLives(maskOf(watched));
    // A process that was not seen may present whatever its store has.
    if (!input.seen[place.name] || between || doubted.length > 0)
      addLives(stored | maskOf([...memory.presented, ...(rotation.from === null ? [] : [rotation.from])]));

    // And what was seen last may be older than our own last write.
    if (!input.seen[place.name])
      addLives(maskOf([...(memory.wrote === undefined ? [] : [memory.wrote]), ...(memory.maybe ?? [])]));

    const inFlight: Mask[] = [];
    const job: (number | null)[] = [];
    for (const name of place.presentsTo) {
      const verifier = verifierPlaces.findIndex((x) => x.name === name);
      if (verifier < 0) continue;
      const verifierPlace = verifierPlaces[verifier]!;
      const verifierSeen = observationOf(verifierPlace);
      // Records leave by re-encryption only, and lie only where a data set says so; the same holder may present to others at a handshake.
      const sets = (credential.data ?? []).filter(
        (set) => set.writtenUnder === place.name && set.readBy.includes(name),
      );
      const hasJob = verifierPlace.traits.drain === "job" || traits.drain === "job" || sets.length > 0;
      const timed =
        verifierPlace.traits.drain === "timed" || traits.drain === "timed" || verifierSeen?.inUse !== undefined;
      const drainMs = Math.max(verifierPlace.traits.drainMs, traits.drainMs, ...sets.map((set) => set.drainMs));
      let flying = 0;
      if (timed && memory.changedMs !== null && nowMs < memory.changedMs + traits.refreshMs + drainMs)
        flying |= maskOf(memory.presented);
      flying |= maskOf((verifierSeen?.inUse ?? []).flatMap((mark) => versionOfMark(verifierPlace, mark) ?? []));
      if (hasJob) {
        const records = verifierSeen?.records ?? seen?.records;
        if (records)
          for (const [mark, count] of Object.entries(records)) {
            if (count > 0) flying |= maskOf([versionOfMark(verifierPlace, mark) ?? mark]);
          }
        // Nobody counted, so every version that ever wrote here may still have data.
        else flying |= stored | maskOf(ids.filter((id) => id === rotation.from));
      }
      if (hasJob) flying |= maskOf([...(memoryOf(verifierPlace).maybeJobs ?? []), ...(memory.maybeJobs ?? [])]);
      const jobOf = hasJob ? (memoryOf(verifierPlace).job ?? memory.job) : undefined;
      edges.push({ holder: h, verifier, drain: hasJob ? "job" : timed ? "timed" : "instant", drainMs });
      inFlight.push(flying);
      job.push(jobOf !== undefined && ids.includes(jobOf) ? ids.indexOf(jobOf) : null);
      if (rotation.exposed.some((x) => x.holder === place.name && x.verifier === name)) exposed.push(edges.length - 1);
    }
    holders.push({
      name: place.name,
      ...(place.signsInTo === undefined ? {} : { essential: true }),
      units: 1,
      processes: traits.refreshMs > 0 ? many : 1,
      storeCapacity: traits.storeCapacity,
      staging: traits.staging,
      session: traits.session,
      restorable: traits.restorable,
      changeMs: traits.changeMs,
      refreshMs: traits.refreshMs,
      human: traits.human,
    });
    const ended = maskOf(memory.ended ?? []);
    const processes = [...lives].map((live) => ({
      live,
      granted: traits.session && (live === null || (ended & bit(live)) === 0) ? live : null,
    }));
    // Whoever had the compromised version may hold a grant under it that none of our users knows of. Once nobody lets the version in any
    // more, such a grant is what is left of it, until it is ended.
    if (traits.session) {
      const accepted = place.presentsTo.reduce((mask, name) => {
        const verifier = verifierPlaces.findIndex((x) => x.name === name);
        return verifier < 0 ? mask : mask | letsIn(verifier);
      }, 0);
      ids.forEach((_, v) => {
        if (compromised & ~accepted & ~ended & bit(v) && !lives.has(v)) processes.push({ live: current, granted: v });
      });
    }
    holderStates.push({ units: [{ stored, current, processes }], inFlight, job });
  });

  const toIndex = ids.indexOf(rotation.to);
  const toItem = itemOfVersion.get(toIndex);
  const versions: VersionSpec[] = ids.map((id) => {
    const unavailable = !isIssued(id) && !(record(id)?.hasMaterial ?? false);
    const spec: VersionSpec = {
      name: id,
      issuer: isIssued(id)
        ? {
            place: issuerPlace?.name ?? "issuer",
            oneTime: issuing.minting === "theirs",
            autoTrust:
              issuing.issuingTrusts && issuerPlace && toItem !== undefined && isVerifier(issuerPlace)
                ? [{ verifier: verifierPlaces.indexOf(issuerPlace), item: toItem }]
                : [],
            autoCurrent:
              issuing.issuingActivates && issuerPlace && isHolder(issuerPlace)
                ? [holderPlaces.indexOf(issuerPlace)]
                : [],
            durationMs: issuing.changeMs,
          }
        : null,
    };
    return unavailable ? { ...spec, unavailable } : spec;
  });

  return {
    topology: { name: credential.name, versions, items, verifiers, holders, edges },
    situation: {
      material: ids.map((id) => (isIssued(id) ? (record(id)?.material ?? "none") : "sealed")),
      verifiers: verifierStates,
      holders: holderStates,
      expired: ids.reduce((mask, id, v) => {
        const notAfter = record(id)?.facts.notAfterMs;
        return notAfter !== undefined && notAfter <= nowMs ? mask | bit(v) : mask;
      }, 0),
    },
    goal: {
      target: holderPlaces.map(() => ids.indexOf(target)),
      final,
      compromised,
      exposed,
      containFirst: rotation.mode === "breach" && rotation.strategy === "contain-first",
    },
    versionIds: ids,
    verifierPlaces: verifierPlaces.map((place) => place.name),
    holderPlaces: holderPlaces.map((place) => place.name),
    unseen,
    notes,
  };
}

/** First four and last two characters of a fingerprint: enough to compare by eye. */
export function short(fingerprint: string): string {
  return fingerprint.length > 12 ? `${fingerprint.slice(0, 4)}…${fingerprint.slice(-2)}` : fingerprint;
}

export type Verb =
  | "issue"
  | "seal"
  | "add"
  | "activate"
  | "remove"
  | "reencrypt"
  | "stopReencrypt"
  | "endSessions"
  | "forget";

/** What the engine must call for an action. */
export interface Effect {
  readonly verb: Verb;
  /** Name of the place; for `issue`, `seal` and `forget` the issuer's. */
  readonly place: string;
  readonly version: string;
  readonly action: Action;
  readonly phase: Phase;
  readonly text: string;
  /** Only a person can do it. */
  readonly human: boolean;
}

export function phaseOf(action: Action): Phase {
  switch (action.kind) {
    case "issue":
    case "seal":
    case "remove-orphan":
    case "forget-orphan":
      return "issue";
    case "trust":
    case "stage":
      return "distribute";
    case "swap":
    case "activate":
    case "set":
    case "start-reencryption":
    case "stop-reencryption":
      return "switch";
    case "deny":
    case "distrust":
    case "purge":
    case "end-sessions":
      return "retire";
  }
}

const verbs: Record<Action["kind"], Verb> = {
  issue: "issue",
  seal: "seal",
  trust: "add",
  deny: "add",
  swap: "add",
  distrust: "remove",
  stage: "add",
  activate: "activate",
  set: "activate",
  purge: "remove",
  "start-reencryption": "reencrypt",
  "stop-reencryption": "stopReencrypt",
  "end-sessions": "endSessions",
  "remove-orphan": "remove",
  "forget-orphan": "forget",
};

export function effectOf(assembled: Assembled, action: Action): Effect {
  const { topology } = assembled;
  const verb = verbs[action.kind];
  const atVerifier =
    verb === "reencrypt" || verb === "stopReencrypt" ? topology.edges[action.edge!]!.verifier : action.verifier;
  const place =
    atVerifier !== null
      ? assembled.verifierPlaces[atVerifier]!
      : action.holder !== null
        ? assembled.holderPlaces[action.holder]!
        : topology.versions[action.version!]!.issuer!.place;
  return {
    verb,
    place,
    version: action.version === null ? topology.items[action.item!]!.name : assembled.versionIds[action.version]!,
    action,
    phase: phaseOf(action),
    text: describeAction(topology, action),
    human:
      action.verifier !== null
        ? topology.verifiers[action.verifier]!.human
        : action.holder !== null && topology.holders[action.holder]!.human,
  };
}
