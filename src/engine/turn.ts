/**
 * What a turn knows, and how it learns and writes: what was seen of every place, what is remembered of it, and the one fenced way into the
 * database. It decides nothing.
 */
import type { AssembleInput, Effect, VersionRecord } from "../core/assemble.ts";
import type { CredentialDecl, Observation, PlaceDecl } from "../core/place.ts";
import type { JournalKind, Json, Lease, RotationPatch, RotationRow, Tx, VersionRow } from "../store/store.ts";
import type { OpenCredential } from "./connect.ts";
import type { EngineDeps } from "./deps.ts";
import type { JournalRecord } from "./journal.ts";
import {
  afterChange,
  afterLook,
  noPlaceNotes,
  noRotationNotes,
  readNotes,
  rotationNotesPlace,
  writeNotes,
} from "./memory.ts";
import type { PlaceNotes, RotationNotes } from "./memory.ts";
import { look } from "./observe.ts";
import { findSigner, memoryFor, recordOf, specOf } from "./spec.ts";

/** Keeps the lease fresh, and tells whether it still is. */
export interface HeldLease {
  readonly lease: Lease;
  /** Renews when little of it is left. Throws {@link FencedOff} when somebody else has taken over. */
  ensure(): Promise<void>;
  /** Whether nobody can have taken over yet, by this process's own clock and without asking. */
  fresh(): boolean;
}

/**
 * `ended`: nothing more to do, ever. `parked`: it will be woken. `again`: somebody called meanwhile, so look once more. `yield`: there is more
 * to do, after others had their turn.
 */
export type TurnResult = "ended" | "parked" | "again" | "yield";

/** Thrown inside a turn when a command from outside (pause, roll back) came between the decision and the effect. */
export class Overtaken extends Error {}

export interface Staged {
  journal(kind: JournalKind, payload: Json, effect?: string): void;
  note(payload: Json): void;
  remember(place: string, notes: PlaceNotes): void;
  about(notes: Partial<RotationNotes>): void;
  update(patch: RotationPatch): void;
}

export class Turn {
  readonly deps: EngineDeps;
  readonly held: HeldLease;
  readonly credential: CredentialDecl;
  readonly open: OpenCredential;
  readonly signal: AbortSignal | undefined;
  row: RotationRow;
  versions: VersionRecord[] = [];
  rows: VersionRow[] = [];
  readonly notes = new Map<string, PlaceNotes>();
  about: RotationNotes = noRotationNotes;
  readonly seen: Record<string, Observation | null> = {};
  /** What each place last answered, also before this turn. */
  readonly lastSeen = new Map<string, Observation>();
  signedBy: string | undefined;
  readonly errors = new Map<string, string>();
  /** Places that asked to be left alone, until when. */
  readonly askedUntilMs = new Map<string, number>();
  /** Counts looks and effects, so that it is known which picture is older than which change. */
  step = 0;
  lastEffectStep = 0;
  readonly seenStep = new Map<string, number>();
  readonly seenAtMs = new Map<string, number>();

  constructor(
    deps: EngineDeps,
    held: HeldLease,
    row: RotationRow,
    credential: CredentialDecl,
    open: OpenCredential,
    signal: AbortSignal | undefined,
  ) {
    this.deps = deps;
    this.held = held;
    this.row = row;
    this.credential = credential;
    this.open = open;
    this.signal = signal;
  }

  input(nowMs: number): AssembleInput {
    return {
      credential: this.credential,
      versions: this.versions,
      rotation: specOf(this.row, this.versions, this.signedBy),
      seen: this.seen,
      memory: Object.fromEntries(
        this.credential.places.map((place) => {
          return [
            place.name,
            memoryFor(this.notesOf(place.name), this.can(place.name, "probe"), this.lastSeen.get(place.name)),
          ];
        }),
      ),
      nowMs,
    };
  }

  notesOf(place: string): PlaceNotes {
    return this.notes.get(place) ?? noPlaceNotes;
  }

  placeOf(name: string): PlaceDecl | undefined {
    return this.credential.places.find((place) => place.name === name);
  }

  version(id: string): VersionRecord | undefined {
    return this.versions.find((version) => version.id === id);
  }

  async reloadVersions(): Promise<void> {
    this.rows = [...(await this.deps.store.versions.list(this.credential.name))];
    this.versions = this.rows.map(recordOf);
  }

  async begin(): Promise<void> {
    await this.held.ensure();
    await this.write(async (tx, staged) => {
      const row = await tx.rotations.get(this.row.id);
      if (row === undefined || row.endedAtMs !== null || row.status === "paused" || row.status === "halted") {
        throw new Overtaken();
      }
      // An empty wake time is the mark by which the end of the turn sees that somebody has called meanwhile.
      staged.update({ status: "running", nextWakeAtMs: null });
    });
    for (const stored of await this.deps.store.places.list(this.row.id)) {
      if (stored.place === rotationNotesPlace) this.about = readNotes(stored.memory, noRotationNotes);
      else this.notes.set(stored.place, readNotes(stored.memory, noPlaceNotes));
    }
    for (const stored of await this.deps.store.observations.list(this.credential.name)) {
      if (stored.observation !== null) this.lastSeen.set(stored.place, stored.observation);
    }
    await this.reloadVersions();
    this.signedBy = (await findSigner(this.deps.store, this.credential, this.about.signer))?.facts.fingerprint;
  }

  /**
   * The only way in which a turn writes: under the fence, all or nothing. What it remembers is taken over when the transaction has been
   * committed, and the journal comes last in it, because its end is locked until then.
   */
  async write<T>(work: (tx: Tx, staged: Staged) => Promise<T>): Promise<T> {
    let notes = new Map<string, PlaceNotes>();
    let about = this.about;
    let row = this.row;
    const result = await this.deps.store.fenced(this.held.lease, async (tx) => {
      // Everything starts anew here, because a transaction that met a deadlock is run again.
      notes = new Map();
      about = this.about;
      row = this.row;
      let patch: RotationPatch = {};
      const records: JournalRecord[] = [];
      const journal = (kind: JournalKind, payload: Json, effect?: string): void => {
        records.push({
          actor: `worker:${this.held.lease.owner}`,
          rotation: this.row.id,
          credential: this.credential.name,
          kind,
          payload,
          ...(effect === undefined ? {} : { effect }),
        });
      };
      const done = await work(tx, {
        journal,
        note: (payload) => journal("note", payload),
        remember: (place, kept) => void notes.set(place, kept),
        about: (more) => void (about = { ...about, ...more }),
        update: (more) => void (patch = { ...patch, ...more }),
      });
      for (const [place, kept] of notes) await tx.places.put(this.row.id, place, writeNotes(kept));
      if (about !== this.about) await tx.places.put(this.row.id, rotationNotesPlace, writeNotes(about));
      if (Object.keys(patch).length > 0) row = await tx.rotations.update(this.row.id, patch);
      await this.deps.journal.append(tx, records);
      return done;
    });
    for (const [place, kept] of notes) this.notes.set(place, kept);
    this.about = about;
    this.row = row;
    return result;
  }

  async lookAt(places: readonly PlaceDecl[]): Promise<void> {
    if (places.length === 0) return;
    this.step++;
    // From when the answers are at the latest: what happens while it looks may or may not be in them.
    const sinceMs = await this.deps.nowMs();
    const looks = await look(this.deps, this.open, places, this.versions, this.seen, this.signal);
    const nowMs = await this.deps.nowMs();
    const placed = await this.write(async (tx, staged) => {
      let found = 0;
      for (const { place, observation, error, retryAfterMs } of looks) {
        this.seen[place] = observation;
        this.seenStep.set(place, this.step);
        this.seenAtMs.set(place, sinceMs);
        this.askedUntilMs.delete(place);
        if (observation === null) {
          if (retryAfterMs !== undefined) this.askedUntilMs.set(place, nowMs + retryAfterMs);
          this.errors.set(place, error ?? "It was not seen.");
          await tx.observations.failed(this.credential.name, place, error ?? "It was not seen.");
          continue;
        }
        this.errors.delete(place);
        this.lastSeen.set(place, observation);
        await tx.observations.saw(this.credential.name, place, observation);
        const before = this.notesOf(place);
        const { notes, edits } = afterLook(this.placeOf(place)!, before, observation, nowMs);
        const settled = observation.current === undefined ? notes : { ...notes, maybe: [] };
        if (JSON.stringify(settled) !== JSON.stringify(before)) staged.remember(place, settled);
        for (const text of edits) staged.note({ edit: true, place, text: `${this.credential.name}/${place}: ${text}` });
        found += await this.takePlacements(tx, place, observation);
      }
      return found;
    });
    if (placed > 0) await this.reloadVersions();
  }

  /** The answer of `add` may be lost with a worker or a connection; where the version lies is then learnt from what is there. */
  async takePlacements(tx: Tx, place: string, observation: Observation): Promise<number> {
    let taken = 0;
    for (const { version, slot, attributes, enabled } of observation.entries) {
      if (version === undefined || !enabled || (slot === undefined && attributes === undefined)) continue;
      const known = this.version(version);
      if (known === undefined || known.placements[place] !== undefined) continue;
      await tx.versions.place(version, place, {
        ...(slot === undefined ? {} : { slot }),
        ...(attributes === undefined ? {} : { attributes }),
      });
      taken++;
    }
    return taken;
  }

  /** Whether some part of the picture is older than the last change. */
  stale(): boolean {
    return this.credential.places.some((place) => (this.seenStep.get(place.name) ?? 0) < this.lastEffectStep);
  }

  /** What an effect may have changed: its place, and every place that an edge joins to it. */
  touchedBy(effect: Effect): PlaceDecl[] {
    const touched = new Set([effect.place]);
    if (effect.verb === "issue" && this.credential.issuer.place !== undefined)
      touched.add(this.credential.issuer.place);
    for (const place of this.credential.places) {
      if (place.presentsTo.some((name) => touched.has(name))) touched.add(place.name);
      if (place.name === effect.place) for (const name of place.presentsTo) touched.add(name);
    }
    return this.credential.places.filter((place) => touched.has(place.name));
  }

  changed(place: PlaceDecl, version: string | null, nowMs: number, verb: string, answered = true): PlaceNotes {
    return afterChange(
      place,
      this.notesOf(place.name),
      this.lastSeen.get(place.name) ?? null,
      nowMs,
      version,
      this.row.fromVersion,
      verb,
      answered,
    );
  }

  afterUnknown(place: PlaceDecl, version: string | null, nowMs: number, verb: string): PlaceNotes {
    const changed = this.changed(place, version, nowMs, verb, false);
    const lateWrites = place.traits.writes === "whole-set" && !place.traits.conditional;
    const maybe = version === null || changed.maybe.includes(version) ? changed.maybe : [...changed.maybe, version];
    const lateUntilMs = nowMs + this.deps.options.requestLifeMs;
    return { ...changed, maybe, lateUntilMs, uncertainUntilMs: lateWrites ? lateUntilMs : null };
  }

  /** Whether the connector of this place has the verb. What stands for another credential has none. */
  can(place: string, verb: "probe" | "stopReencrypt" | "endSessions"): boolean {
    if (this.placeOf(place)?.credential !== undefined) return false;
    try {
      return this.open.place(place).connector[verb] !== undefined;
    } catch {
      // A place that cannot be opened says so when it is looked at.
      return false;
    }
  }

  /** The version that the rotation works towards. */
  wanted(): string | null {
    return this.row.direction === "forward" ? this.row.toVersion : this.row.fromVersion;
  }
}
