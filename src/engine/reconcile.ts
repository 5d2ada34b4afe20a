/**
 * One turn of one rotation: look, ask `next`, do what it offers and the policy allows, write it down, look again. The engine adds no order of
 * its own. It holds nothing in memory between turns: a worker that dies at any point is replaced by one that starts from what is there.
 */
import { randomUUID } from "node:crypto";
import { ConnectorError } from "../connectors/connector.ts";
import type { Instructions, Issued, IssueIntent, VersionHandle } from "../connectors/connector.ts";
import type { Material, Secret } from "../connectors/secret.ts";
import { assemble, effectOf } from "../core/assemble.ts";
import type { AssembleInput, Assembled, Effect, VersionRecord } from "../core/assemble.ts";
import { gate } from "../core/gate.ts";
import type { Blocked, Wait } from "../core/model.ts";
import { next } from "../core/next.ts";
import { Problem } from "../core/problem.ts";
import { preferred } from "../core/plan.ts";
import type { CredentialDecl, Observation, Phase, PlaceDecl, VersionFacts } from "../core/place.ts";
import { FencedOff } from "../store/store.ts";
import type { JournalKind, Json, Lease, RotationPatch, RotationRow, TaskRow, Tx, VersionRow } from "../store/store.ts";
import { backoffMs } from "./clock.ts";
import { openCredential } from "./connect.ts";
import type { CallScope, OpenCredential } from "./connect.ts";
import type { EngineDeps } from "./deps.ts";
import type { JournalRecord } from "./journal.ts";
import {
  afterChange,
  afterLook,
  noPlaceNotes,
  noRotationNotes,
  readNotes,
  rotationNotesPlace,
  settledByTime,
  writeNotes,
} from "./memory.ts";
import type { PlaceNotes, RotationNotes } from "./memory.ts";
import { look, probe, sentence } from "./observe.ts";
import { createSignIns } from "./sign-in.ts";
import { credentialOf, findSigner, memoryFor, recordOf, specOf } from "./spec.ts";
import { startRotation } from "./start.ts";

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

const phases: readonly Phase[] = ["issue", "distribute", "switch", "retire"];
/** A write that waited longer than this between its permission and its sending asks for permission again. */
const staleGrantMs = 1000;

/** Thrown inside a turn when a command from outside (pause, roll back) came between the decision and the effect. */
class Overtaken extends Error {}

/** Runs one turn. Throws {@link FencedOff} when another worker has taken over: nothing was written after that. */
export async function reconcile(deps: EngineDeps, held: HeldLease, signal?: AbortSignal): Promise<TurnResult> {
  const row = await deps.store.rotations.get(held.lease.rotation);
  if (row === undefined || row.endedAtMs !== null) return "ended";
  if (row.status === "paused" || row.status === "halted") return "parked";
  const estate = deps.estate();
  const credential = estate.credentials.find((each) => each.name === row.credential);
  if (credential === undefined) {
    await deps.store.fenced(held.lease, async (tx) => {
      await tx.rotations.update(row.id, {
        status: "halted",
        reason: `${row.credential} is no longer in the estate. Declare it again and resume, or cancel the rotation.`,
        waitingFor: null,
        nextWakeAtMs: null,
      });
    });
    return "parked";
  }
  const open = openCredential(
    credential,
    estate.systems,
    deps.registry,
    (version) => openSealed(deps, version, "material"),
    { ...deps, callTimeoutMs: deps.options.callTimeoutMs, readAttempts: deps.options.readAttempts },
    createSignIns({
      ...deps,
      open: (version) => openSealed(deps, version, "material"),
      fenced: (work) => deps.store.fenced(held.lease, work),
    }),
  );
  const turn = new Turn(deps, held, row, credential, open, signal);
  try {
    return await turn.run();
  } catch (error) {
    if (error instanceof Overtaken) return "again";
    if (signal?.aborted === true && error === signal.reason) {
      // Stopped while it was looking: nothing is under way, and the next worker looks anew.
      await turn.wake(await deps.nowMs());
      return "yield";
    }
    throw error;
  } finally {
    await open.close();
  }
}

interface Staged {
  journal(kind: JournalKind, payload: Json, effect?: string): void;
  note(payload: Json): void;
  remember(place: string, notes: PlaceNotes): void;
  about(notes: Partial<RotationNotes>): void;
  update(patch: RotationPatch): void;
}

class Turn {
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

  async run(): Promise<TurnResult> {
    await this.begin();
    await this.closeOpenIntents();
    await this.lookAt(this.credential.places);
    for (let effects = 0; ;) {
      if (this.signal?.aborted === true || effects >= this.deps.options.effectsPerTurn) {
        await this.wake(await this.deps.nowMs());
        return "yield";
      }
      const refused = await this.probeWhatChanged();
      if (refused !== null) return await this.halt(refused);
      const nowMs = await this.deps.nowMs();
      // On the way forward a late request of ours does only what is still right. On the way back it would undo what was put right since.
      const lateUntilMs = Math.max(0, ...[...this.notes.values()].map((notes) => notes.lateUntilMs ?? 0));
      if (this.row.direction === "back" && lateUntilMs > nowMs)
        return await this.park("the end of the longest life of a request that had no answer", lateUntilMs, nowMs);
      const assembled = assemble(this.input(nowMs));
      const decision = next(assembled.topology, assembled.situation, assembled.goal);
      if (decision.kind === "done") {
        const result = await this.finish(nowMs);
        if (result === "look again") continue;
        return result;
      }
      if (decision.kind === "blocked") return await this.blocked(assembled, decision.reasons, nowMs);
      if (decision.kind === "wait") return await this.waitForWorld(assembled, decision.waits, nowMs);
      const offered = decision.actions.map((action) => effectOf(assembled, action));
      const chosen = await this.choose(offered, nowMs);
      if (chosen === "look again") continue;
      if (typeof chosen === "string") return chosen;
      const stopped = await this.perform(chosen);
      if (stopped !== null) return await this.halt(stopped);
      effects++;
      await this.lookAt(this.touchedBy(chosen));
    }
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // What is known

  input(nowMs: number): AssembleInput {
    return {
      credential: this.credential,
      versions: this.versions,
      rotation: specOf(this.row, this.versions, this.signedBy),
      seen: this.seen,
      memory: Object.fromEntries(
        this.credential.places.map((place) => {
          return [place.name, memoryFor(this.notesOf(place.name), this.canProbe(place), this.lastSeen.get(place.name))];
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
    const looks = await look(this.deps, this.open, places, this.versions, this.seen, this.signal);
    const nowMs = await this.deps.nowMs();
    const placed = await this.write(async (tx, staged) => {
      let found = 0;
      for (const { place, observation, error, retryAfterMs } of looks) {
        this.seen[place] = observation;
        this.seenStep.set(place, this.step);
        this.seenAtMs.set(place, nowMs);
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

  // -------------------------------------------------------------------------------------------------------------------------------------
  // After a crash

  /**
   * An intent without an outcome: the worker ended in between, and what it sent may have arrived, may still arrive, or was never sent. A value
   * that was shown once and not sealed is lost for good; everything else is looked at before anything is repeated.
   */
  async closeOpenIntents(): Promise<void> {
    const intents = await this.deps.store.journal.openIntents(this.row.id);
    if (intents.length === 0) return;
    const nowMs = await this.deps.nowMs();
    for (const intent of intents) {
      const payload = intent.payload as { verb?: string; place?: string; version?: string };
      await this.write(async (tx, staged) => {
        staged.journal(
          "outcome",
          { ...payload, result: "unknown", detail: "The worker ended before the answer was written down." },
          intent.effect ?? undefined,
        );
        if (payload.verb === "issue" && payload.version !== undefined)
          await this.maybeLost(tx, staged, payload.version);
        const place = payload.place === undefined ? undefined : this.placeOf(payload.place);
        if (place !== undefined)
          staged.remember(
            place.name,
            this.afterUnknown(place, payload.version ?? null, nowMs, payload.verb ?? "activate"),
          );
        staged.about({ lastEffectMs: nowMs });
      });
    }
    await this.reloadVersions();
  }

  async maybeLost(tx: Tx, staged: Staged, version: string): Promise<void> {
    const row = await tx.versions.get(version);
    if (row?.material !== "volatile") return;
    await tx.versions.update(version, { material: "lost" });
    staged.note({
      version,
      text: `${version} was asked for and its secret part was not sealed in time, so it is of no use. It will be taken away, and another one made.`,
    });
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

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Probing

  canProbe(place: PlaceDecl): boolean {
    if (place.credential !== undefined) return false;
    try {
      return this.open.place(place.name).connector.probe !== undefined;
    } catch {
      return false;
    }
  }

  /** The version that the rotation works towards. */
  wanted(): string | null {
    return this.row.direction === "forward" ? this.row.toVersion : this.row.fromVersion;
  }

  /** Tries the wanted version at every verifier where it was put since it was last tried. Returns why the rotation must stop, if it must. */
  async probeWhatChanged(): Promise<string | null> {
    const id = this.wanted();
    const version = id === null ? undefined : this.version(id);
    if (version === undefined || !version.hasMaterial) return null;
    for (const place of this.credential.places) {
      if (!place.traits.roles.includes("verifier") || !this.canProbe(place)) continue;
      const notes = this.notesOf(place.name);
      // Nothing of this rotation has changed what is accepted there, so there is nothing to learn.
      if (notes.changedMs === null || notes.accepted.includes(version.id)) continue;
      const there =
        this.seen[place.name]?.entries.some((entry) => entry.version === version.id && entry.enabled) ?? false;
      if (!there) continue;
      const last = notes.probes[version.id];
      const nowMs = await this.deps.nowMs();
      if (last !== undefined && nowMs - last.atMs < probePauseMs(last.tries)) continue;
      const answer = await probe(this.open, place, version, this.seen[place.name] ?? null, this.signal);
      await this.recordProbe(place, version.id, answer, nowMs);
      const due = nowMs >= notes.changedMs + place.traits.propagationMs;
      if (answer.outcome === "unknown" && due && (last?.tries ?? 0) + 1 >= this.deps.options.probeAttempts) {
        return `${place.name} does not say whether it accepts ${version.id}: ${answer.detail} Nothing was removed. Mend it, then resume; or roll back.`;
      }
      if (answer.outcome === "refused" && due) {
        return `${place.name} refuses the new version ${version.id}, although it is configured there: ${answer.detail} Nothing was removed. Find out why, then resume; or roll back.`;
      }
    }
    return null;
  }

  async recordProbe(
    place: PlaceDecl,
    version: string,
    answer: { outcome: "accepted" | "refused" | "unknown"; detail: string },
    nowMs: number,
  ): Promise<void> {
    const notes = this.notesOf(place.name);
    const tries = (notes.probes[version]?.tries ?? 0) + 1;
    await this.write(async (_, staged) => {
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

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Choosing

  /** The first offered effect that may be done now by the machine; otherwise parks the rotation with everything that it waits for. */
  async choose(offered: readonly Effect[], nowMs: number): Promise<Effect | "look again" | TurnResult> {
    const reasons: string[] = [];
    const wakes: number[] = [];
    let unseen = false;
    const unproved = await this.planApprovalMissing();
    if (unproved !== null) return await this.park(unproved, nowMs + this.deps.options.idleWakeMs, nowMs);

    const approvals = await Promise.all(
      phases.map(async (phase) => ({
        phase,
        people: (await this.deps.store.approvals.valid(this.row.id, phase, this.row.planDigest))
          .filter((approval) => approval.verdict === "approved")
          .map((approval) => approval.person),
      })),
    );
    const { allowed, held } = gate(offered, this.credential.policy, {
      nowMs,
      approvals,
      startedBy: this.row.startedBy,
      mode: this.row.mode,
      lastSwitchMs: this.about.lastSwitchMs,
      paused: false,
    });
    await this.checkTasks(offered);

    const ready: Effect[] = [];
    for (const effect of allowed) {
      const place = this.placeOf(effect.place);
      const hindrance = place === undefined ? null : this.hindrance(effect, place, nowMs);
      if (hindrance === "stop") {
        return await this.halt(
          `Nobody can tell whether ${effect.version} is in use: a write of it had no answer, and the place cannot be read. Set the place by hand to what it should be, then resume.`,
        );
      }
      if (hindrance !== null) {
        reasons.push(hindrance.reason);
        wakes.push(hindrance.untilMs);
        unseen ||= hindrance.unseen === true;
        continue;
      }
      if (place?.traits.human === true && isPlacing(effect.verb)) {
        const task = await this.openTask(effect, place);
        if (task.state === "refused") {
          return await this.halt(
            `${task.person ?? "A person"} refused "${effect.text}"${task.note === null ? "" : `: ${task.note}`}. Settle it, then resume; or roll back.`,
          );
        }
        reasons.push(`a person: ${effect.text} (task ${task.id})`);
        continue;
      }
      if (place?.credential !== undefined && isPlacing(effect.verb)) {
        try {
          reasons.push(await this.childRotation(effect, place, nowMs));
        } catch (error) {
          if (!(error instanceof Problem)) throw error;
          return await this.halt(`${place.credential} cannot be rolled: ${error.message} ${error.next ?? ""}`.trim());
        }
        wakes.push(nowMs + 60_000);
        continue;
      }
      const notes = this.notesOf(effect.place);
      if (notes.uncertainUntilMs !== null && (this.seenAtMs.get(effect.place) ?? 0) < notes.uncertainUntilMs) {
        // The wait is over: what counts is what is seen after it.
        await this.lookAt(this.credential.places);
        return "look again";
      }
      ready.push(effect);
    }
    if (ready.length > 0) {
      // The order of the preview, among what is equally safe.
      const { action } = preferred(ready.map((effect) => ({ action: effect.action, to: noState })));
      const chosen = ready.find((effect) => effect.action === action)!;
      // Taking something away is judged on a picture no part of which is older than the last change.
      const stale = this.credential.places.some((place) => (this.seenStep.get(place.name) ?? 0) < this.lastEffectStep);
      if (chosen.phase === "retire" && stale) {
        await this.lookAt(this.credential.places);
        return "look again";
      }
      return chosen;
    }
    if (unseen) return await this.unseen(nowMs, reasons);
    for (const { effect, reason, until } of held) {
      reasons.push(`${effect.text}: ${reason}`);
      if (until !== null) wakes.push(until);
    }
    const at = Math.min(nowMs + this.deps.options.idleWakeMs, ...wakes);
    return await this.park([...new Set(reasons)].join("; "), at, nowMs);
  }

  /** What forbids this effect for now, although it is safe and allowed. `stop`: only a person can go on. */
  hindrance(
    effect: Effect,
    place: PlaceDecl,
    nowMs: number,
  ): { reason: string; untilMs: number; unseen?: true } | "stop" | null {
    const notes = this.notesOf(place.name);
    const error = this.errors.get(place.name);
    if (error !== undefined)
      return { reason: `${place.name} could not be seen: ${error}`, untilMs: nowMs + 1000, unseen: true };
    if (notes.uncertainUntilMs !== null && notes.uncertainUntilMs > nowMs) {
      return {
        reason: `${place.name}: a request whose answer never came may still arrive, so nothing is written there before`,
        untilMs: notes.uncertainUntilMs,
      };
    }
    if (notes.retryAtMs !== null && notes.retryAtMs > nowMs) {
      return {
        reason: `${place.name} to be tried again: ${notes.lastFailure ?? "the last attempt failed"}`,
        untilMs: notes.retryAtMs,
      };
    }
    if (effect.phase === "switch") {
      // Whoever is not seen counts as presenting, and as accepting, the worst. Against that, a switch would seem to make nothing worse.
      const dark = this.credential.places.find(
        (at) => (at.presentsTo.includes(place.name) || place.presentsTo.includes(at.name)) && this.errors.has(at.name),
      );
      if (dark !== undefined)
        return {
          reason: `${dark.name} could not be seen: ${this.errors.get(dark.name)}`,
          untilMs: nowMs + 1000,
          unseen: true,
        };
    }
    const settles = (at: PlaceDecl): number | null =>
      settledByTime(at, this.notesOf(at.name), nowMs)
        ? null
        : this.notesOf(at.name).changedMs! + Math.max(at.traits.propagationMs, at.traits.refreshMs);
    // One list of what was there before cannot speak for both roles while two changes are under way.
    const both = place.traits.roles.includes("verifier") && place.traits.roles.includes("holder");
    const waits = both ? settles(place) : null;
    if (waits !== null) return { reason: `the last change at ${place.name} to have reached everybody`, untilMs: waits };
    if (effect.verb === "endSessions") {
      // A copy that still lets the old version in would only grant anew what was ended.
      for (const name of [place.name, ...place.presentsTo]) {
        const until = settles(this.placeOf(name) ?? place);
        if (until !== null) return { reason: `${name} to enforce the removal everywhere`, untilMs: until };
      }
    }
    if (effect.phase === "retire") {
      const doubtful = this.credential.places.some(
        (at) => at.presentsTo.includes(place.name) && this.notesOf(at.name).maybe.includes(effect.version),
      );
      if (doubtful) return "stop";
    }
    return null;
  }

  /** A plan that could not be proved within its bound is run only if somebody has said so, knowing it. */
  async planApprovalMissing(): Promise<string | null> {
    if (!needsPlanApproval(this.row.plan)) return null;
    const valid = await this.deps.store.approvals.valid(this.row.id, "plan", this.row.planDigest);
    const people = valid.filter((approval) => approval.verdict === "approved");
    return people.length > 0
      ? null
      : "approval of a plan that was not proved: somebody must say that it may be run all the same";
  }

  async openTask(effect: Effect, place: PlaceDecl): Promise<TaskRow> {
    const version = this.version(effect.version);
    const action = effect.verb as "add" | "activate" | "remove";
    const instructions = await this.instructionsFor(place, action, version, effect.text);
    return await this.write(async (tx, staged) => {
      const known = (await tx.tasks.list({ rotation: this.row.id })).filter(
        (task) => task.place === place.name && task.action === action && task.version === effect.version,
      );
      const refused = known.find((task) => task.state === "refused" && task.checked === null);
      if (refused !== undefined) return refused;
      const task = await tx.tasks.open({
        rotation: this.row.id,
        credential: this.credential.name,
        place: place.name,
        action,
        version: effect.version,
        instructions: instructions as unknown as Json,
      });
      if (!known.some((other) => other.id === task.id)) {
        staged.journal("task", {
          task: task.id,
          state: "open",
          place: place.name,
          action,
          version: effect.version,
          text: instructions.title,
        });
      }
      return task;
    });
  }

  async instructionsFor(
    place: PlaceDecl,
    action: "add" | "activate" | "remove",
    version: VersionRecord | undefined,
    text: string,
  ): Promise<Instructions> {
    const plain: Instructions = { title: text, steps: [{ text }], minutes: Math.ceil(place.traits.changeMs / 60_000) };
    if (version === undefined) return plain;
    return await this.open
      .place(place.name)
      .run({ label: `instructions ${place.name}`, effect: false }, async (connector, scope) => {
        return connector.instructions?.(action, scope.handle(version, place.name)) ?? plain;
      });
  }

  /**
   * A person said "done": what counts is whether `next` still wants the same thing after looking. If it does, the task is open again, with
   * what the machine saw; if it does not, the task is checked.
   */
  async checkTasks(offered: readonly Effect[]): Promise<void> {
    const done = await this.deps.store.tasks.list({ rotation: this.row.id, states: ["done"] });
    for (const task of done) {
      if (task.checked !== null) continue;
      const still = offered.some(
        (effect) => effect.place === task.place && effect.verb === task.action && effect.version === task.version,
      );
      const unseen = this.errors.get(task.place);
      const detail = unseen ?? (still ? "Keyroll looked, and does not see it." : "Keyroll looked, and sees it.");
      await this.write(async (tx, staged) => {
        await tx.tasks.update(task.id, {
          checked: { seen: !still && unseen === undefined, detail },
          ...(still || unseen !== undefined ? { state: "open" as const } : {}),
        });
        staged.journal("task", { task: task.id, checked: !still && unseen === undefined, text: detail });
      });
    }
  }

  /** Starts the rotation of the credential that stands in this place, or says what the one that runs is at. */
  async childRotation(effect: Effect, place: PlaceDecl, nowMs: number): Promise<string> {
    const child = place.credential!;
    const active = await this.deps.store.rotations.active(child);
    if (active !== undefined) {
      const told =
        active.status === "halted" || active.status === "paused"
          ? ` (${active.status}: ${active.reason ?? "by a person"})`
          : "";
      return `the rotation ${active.id} of ${child}${told}`;
    }
    const started = await startRotation(this.deps, {
      credential: child,
      mode: "planned",
      strategy: "availability-first",
      startedBy: this.row.startedBy,
      planDigest: null,
      signer: effect.version,
      parent: this.row.id,
    });
    await this.write(async (_, staged) => {
      staged.remember(place.name, {
        ...this.changed(place, effect.version, nowMs, effect.verb),
        child: started.id,
      });
      staged.note({
        place: place.name,
        text: `${child} is rolled to ${effect.version} by the rotation ${started.id}.`,
      });
    });
    return `the rotation ${started.id} of ${child}`;
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Doing

  /** One effect: intent, call, outcome. Returns why the rotation must stop, if it must. */
  async perform(effect: Effect): Promise<string | null> {
    if (effect.verb === "issue") return await this.issue(effect);
    if (effect.verb === "seal") {
      // Sealing happens in one breath with issuing. Reaching this means that the value is in no memory any more.
      await this.write((tx, staged) => this.maybeLost(tx, staged, effect.version));
      await this.reloadVersions();
      return null;
    }
    if (effect.verb === "forget") {
      await this.forget(effect);
      return null;
    }
    if (effect.verb === "stopReencrypt") {
      // No connector is asked to stop: the next start names another target, and what was moved meanwhile is moved again.
      // So it may go on writing until then.
      const { job, ...notes } = this.notesOf(effect.place);
      const kept = job === undefined ? notes : { ...notes, maybeJobs: [...new Set([...(notes.maybeJobs ?? []), job])] };
      await this.write(async (_, staged) => staged.remember(effect.place, kept));
      return null;
    }
    const place = this.placeOf(effect.place);
    const version = this.version(effect.version);
    if (place === undefined || version === undefined) {
      return `${effect.text} was offered, and ${place === undefined ? effect.place : effect.version} is not known. This is a mistake in Keyroll: please report it.`;
    }
    const id = await this.intend(effect, {});
    let placement: { slot?: string; attributes?: Readonly<Record<string, string>> } | void = undefined;
    let error: ConnectorError | null = null;
    try {
      placement = await this.open.place(place.name).run(
        {
          label: `${effect.verb} ${this.credential.name}/${place.name}`,
          effect: true,
          lastSeen: this.seen[place.name] ?? null,
          changeMs: place.traits.changeMs,
          mayStillSend: () => this.held.fresh(),
        },
        async (connector, scope) => {
          const handle = scope.handle(version, place.name);
          return await call(effect, connector, scope, handle);
        },
      );
    } catch (thrown) {
      error = asFailure(thrown);
    }
    this.deps.crashPoint(`after-effect:${effect.verb}`);
    const nowMs = await this.deps.nowMs();
    const done = `${effect.verb} ${effect.version}`;
    const before = this.notesOf(place.name).repeated;
    const times = before?.effect === done ? before.times + 1 : 1;
    const stop = await this.outcome(effect, id, error, nowMs, async (tx, staged) => {
      const changed = { ...this.changed(place, version.id, nowMs, effect.verb), ...noFailures, uncertainUntilMs: null };
      staged.remember(place.name, {
        ...changed,
        repeated: { effect: done, times },
        // The place may show it late: it is given time before it is asked again.
        retryAtMs: times > 1 ? nowMs + backoffMs(times, this.deps.random) : null,
        ...(effect.verb === "activate" ? { wrote: version.id, maybe: [] } : {}),
      });
      if (effect.verb === "remove") await tx.versions.place(version.id, place.name, null);
      else if (placement !== undefined) await tx.versions.place(version.id, place.name, placement);
      if (effect.verb === "activate") {
        // Its verifiers are asked again: that they accepted it before anybody used it is no proof that they do now.
        for (const name of place.presentsTo) {
          const { probes, ...notes } = this.notesOf(name);
          const { [version.id]: _, ...others } = probes;
          staged.remember(name, {
            ...notes,
            probes: others,
            accepted: notes.accepted.filter((each) => each !== version.id),
          });
        }
      }
      if (effect.verb === "activate") await this.switched(tx, staged, version.id, nowMs);
    });
    await this.reloadVersions();
    if (error === null && times > this.deps.options.maxAttempts) {
      return `${effect.text}: ${place.name} said ${times} times that it is done, and does not show it. Look into it, then resume; or roll back.`;
    }
    return stop;
  }

  /** The first holder that uses a version makes it the current one; the other is on its way out. */
  async switched(tx: Tx, staged: Staged, version: string, nowMs: number): Promise<void> {
    staged.about({ lastSwitchMs: nowMs });
    for (const row of await tx.versions.list(this.credential.name)) {
      if (row.id === version && row.state !== "current" && row.state !== "compromised")
        await tx.versions.update(row.id, { state: "current" });
      else if (row.id !== version && row.state === "current") await tx.versions.update(row.id, { state: "retiring" });
    }
  }

  /** Writes the intent while the fence holds and the rotation is still wanted. What follows is the effect, and nothing else. */
  async intend(
    effect: Effect,
    more: Readonly<Record<string, Json>>,
    work?: (tx: Tx, staged: Staged) => Promise<void>,
  ): Promise<string> {
    const id = randomUUID();
    this.deps.crashPoint(`before-intent:${effect.verb}`);
    await this.held.ensure();
    await this.write(async (tx, staged) => {
      const row = await tx.rotations.get(this.row.id);
      if (row === undefined || row.status !== "running" || row.direction !== this.row.direction) throw new Overtaken();
      staged.journal(
        "intent",
        {
          verb: effect.verb,
          action: effect.action.kind,
          place: effect.place,
          version: effect.version,
          phase: effect.phase,
          fence: this.held.lease.fence,
          text: effect.text,
          ...more,
        },
        id,
      );
      await work?.(tx, staged);
    });
    const grantedAtMs = this.deps.clock.now();
    this.deps.crashPoint(`after-intent:${effect.verb}`);
    // A process that was frozen here may wake when another one has long taken over.
    if (this.deps.clock.now() - grantedAtMs > staleGrantMs)
      await this.deps.store.fenced(this.held.lease, async () => undefined);
    return id;
  }

  /** Writes the outcome, and the state that follows from it, in one transaction. Returns why the rotation must stop, if it must. */
  async outcome(
    effect: Effect,
    id: string,
    error: ConnectorError | null,
    nowMs: number,
    done: (tx: Tx, staged: Staged) => Promise<void>,
  ): Promise<string | null> {
    this.lastEffectStep = ++this.step;
    const result = error === null ? "done" : error.kind === "unknown-outcome" ? "unknown" : "failed";
    const place = this.placeOf(effect.place);
    let stop: string | null = null;
    await this.write(async (tx, staged) => {
      staged.journal(
        "outcome",
        {
          verb: effect.verb,
          place: effect.place,
          version: effect.version,
          result,
          ...(error === null ? {} : { failure: error.kind, detail: sentence(error) }),
        },
        id,
      );
      staged.about({ lastEffectMs: nowMs });
      if (error === null) await done(tx, staged);
      else {
        const before = this.notesOf(effect.place);
        const failures = before.failures + 1;
        const notes =
          result === "unknown" && place !== undefined
            ? this.afterUnknown(place, effect.version, nowMs, effect.verb)
            : before;
        const pauseMs = Math.max(
          error.retryAfterMs ?? 0,
          error.kind === "conflict" ? 0 : backoffMs(failures, this.deps.random),
        );
        staged.remember(effect.place, {
          ...notes,
          failures,
          lastFailure: sentence(error),
          retryAtMs: nowMs + pauseMs,
        });
        stop = whyStop(effect, error, failures, this.deps.options.maxAttempts);
      }
    });
    this.deps.crashPoint(`after-outcome:${effect.verb}`);
    return stop;
  }

  /** Where the version comes from. Its number and its tag are written down before anything is asked for. */
  async issue(effect: Effect): Promise<string | null> {
    const theirs = this.credential.issuer.traits.minting === "theirs";
    const tag =
      this.version(effect.version) === undefined
        ? randomUUID()
        : (this.rows.find((row) => row.id === effect.version)?.issueTag ?? randomUUID());
    let signer: VersionRecord | null;
    try {
      signer = await this.signer();
    } catch (error) {
      return sentence(error);
    }
    let row: VersionRow | undefined;
    const id = await this.intend(effect, { tag }, async (tx, staged) => {
      row = await tx.versions.create({
        credential: this.credential.name,
        state: "pending",
        material: "none",
        issueTag: tag,
      });
      // From here on it may exist outside without being sealed here.
      if (theirs) row = await tx.versions.update(row.id, { material: "volatile", issueTag: tag });
      staged.update({ toVersion: row.id });
    });
    const versionId = row!.id;
    const previous = this.row.fromVersion === null ? undefined : this.version(this.row.fromVersion);
    const issuer = this.open.issuer();
    const spec = {
      label: `issue ${this.credential.name}`,
      effect: true,
      changeMs: this.credential.issuer.traits.changeMs,
      mayStillSend: () => this.held.fresh(),
      lastSeen: this.credential.issuer.place === undefined ? null : (this.seen[this.credential.issuer.place] ?? null),
    };
    const intentIn = (scope: CallScope, minted?: Material): IssueIntent => ({
      id: versionId,
      tag,
      ...(minted === undefined ? {} : { minted }),
      ...(signer === null ? {} : { signer: scope.handle(signer, null) }),
      ...(previous === undefined ? {} : { previous: scope.handle(previous, this.credential.issuer.place ?? null) }),
    });
    let issued: Issued | null = null;
    let error: ConnectorError | null = null;
    let minted: Material | undefined;
    try {
      if (!theirs) minted = await this.minted(versionId, (scope) => intentIn(scope));
      issued = await issuer.run(spec, (connector, scope) => connector.issue(scope.cx, intentIn(scope, minted)));
    } catch (thrown) {
      if (minted !== undefined) secretOf(minted).wipe();
      error = asFailure(thrown);
    }
    this.deps.crashPoint("after-effect:issue");
    if (issued === null) {
      const nowMs = await this.deps.nowMs();
      const failed = error!;
      const stop = await this.outcome(effect, id, failed, nowMs, async () => undefined);
      await this.write(async (tx, staged) => {
        if (failed.kind === "unknown-outcome") await this.maybeLost(tx, staged, versionId);
        else if (theirs) await tx.versions.update(versionId, { material: "none" });
      });
      await this.reloadVersions();
      return stop;
    }
    const got = issued;
    const facts: VersionFacts = {
      ...got.facts,
      fingerprint: got.facts.fingerprint ?? this.deps.sealer.fingerprint(secretOf(got.material)),
    };
    this.deps.crashPoint("before-seal");
    // The only copy of a value that is shown once is in this variable: nothing but losing the rotation stops the attempts to seal it.
    const nowMs = await this.sealStubbornly(async () => {
      const now = await this.deps.nowMs();
      const place = this.credential.issuer.place === undefined ? undefined : this.placeOf(this.credential.issuer.place);
      await this.write(async (tx, staged) => {
        await this.deps.sealer.seal(
          tx,
          { owner: this.credential.name, version: versionId, purpose: "material" },
          got.material,
        );
        await tx.sealed.destroy(this.credential.name, versionId, "minted");
        await tx.versions.update(versionId, { facts, material: "sealed" });
        staged.note({ version: versionId, text: `${versionId} is sealed.`, sealed: true });
        if (place !== undefined) {
          if (got.placement !== undefined) await tx.versions.place(versionId, place.name, got.placement);
          staged.remember(place.name, this.changed(place, versionId, now, "issue"));
          if (this.credential.issuer.traits.issuingActivates) await this.switched(tx, staged, versionId, now);
        }
      });
      return now;
    });
    this.deps.crashPoint("after-seal");
    secretOf(got.material).wipe();
    const stop = await this.outcome(effect, id, null, nowMs, async (_, staged) => {
      staged.remember(effect.place, { ...this.notesOf(effect.place), ...noFailures });
      staged.journal("version", {
        version: versionId,
        fingerprint: facts.fingerprint,
        ...(facts.notAfterMs === undefined ? {} : { notAfterMs: facts.notAfterMs }),
      });
    });
    await this.reloadVersions();
    return stop;
  }

  /** The secret part that is made here: the sealed one of an earlier attempt, or a new one, sealed before anything outside hears of it. */
  async minted(version: string, intent: (scope: CallScope) => IssueIntent): Promise<Material | undefined> {
    const earlier = await this.deps.store.sealed.find(this.credential.name, version, "minted");
    if (earlier !== undefined) return await openSealed(this.deps, version, "minted");
    const issuer = this.open.issuer();
    if (issuer.connector.mint === undefined) return undefined;
    // Minting touches nothing outside, so that a failure is never of unknown outcome.
    const material = await issuer.run({ label: `mint ${this.credential.name}`, effect: false }, (connector, scope) =>
      connector.mint!(scope.cx, intent(scope)),
    );
    this.deps.crashPoint("before-seal");
    await this.write((tx) =>
      this.deps.sealer.seal(tx, { owner: this.credential.name, version, purpose: "minted" }, material),
    );
    this.deps.crashPoint("after-seal");
    return material;
  }

  async sealStubbornly<T>(seal: () => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await seal();
      } catch (error) {
        if (error instanceof FencedOff || attempt >= 30) throw error;
        this.deps.log.warn("A new version could not be sealed yet; trying again.", { rotation: this.row.id, attempt });
        await this.deps.clock.sleep(backoffMs(attempt, this.deps.random, 100, 5000));
      }
    }
  }

  /** The CA version that signs, where the issuer is a credential of the estate. */
  async signer(): Promise<VersionRecord | null> {
    const ca = this.credential.issuer.ca;
    if (ca === undefined) return null;
    const signer = await findSigner(this.deps.store, this.credential, this.about.signer);
    if (signer === null || !signer.hasMaterial) {
      throw new ConnectorError(
        "misconfigured",
        `${this.credential.name} is signed by ${ca}, of which Keyroll has no usable version.`,
        {
          next: `Roll ${ca} first, or let Keyroll adopt its key.`,
        },
      );
    }
    return signer;
  }

  /** A version that was lost before it was sealed: nothing of it is left anywhere, so another one may be made under another number. */
  async forget(effect: Effect): Promise<void> {
    await this.write(async (tx, staged) => {
      await tx.versions.update(effect.version, { material: "none", state: "retired" });
      await tx.sealed.destroy(this.credential.name, effect.version);
      if (this.row.toVersion === effect.version) staged.update({ toVersion: null });
      staged.note({
        version: effect.version,
        text: `${effect.version} was lost before it was sealed and is gone everywhere.`,
      });
    });
    await this.reloadVersions();
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Standing still

  async waitForWorld(assembled: Assembled, waits: readonly Wait[], nowMs: number): Promise<TurnResult> {
    const reasons: string[] = [];
    let wake = Number.POSITIVE_INFINITY;
    for (const wait of waits) {
      const name =
        wait.verifier !== null && (wait.kind === "propagate" || wait.holder === null)
          ? assembled.topology.verifiers[wait.verifier]!.name
          : wait.holder !== null
            ? assembled.topology.holders[wait.holder]!.name
            : "";
      const place = this.placeOf(name);
      const notes = this.notesOf(name);
      const edge = wait.edge === null ? undefined : assembled.topology.edges[wait.edge];
      const traits = place?.traits;
      const lengthMs =
        wait.kind === "propagate"
          ? (traits?.propagationMs ?? 0)
          : wait.kind === "refresh"
            ? (traits?.refreshMs ?? 0)
            : (edge?.drainMs ?? 0);
      const version =
        wait.version === null
          ? "the old version"
          : (assembled.topology.versions[wait.version]?.name ?? "the old version");
      const dueMs = (notes.changedMs ?? nowMs) + lengthMs;
      const unseen = this.errors.get(name);
      reasons.push(unseen === undefined ? waitText(wait.kind, name, version) : `${name} could not be seen: ${unseen}`);
      // What should have happened by now is looked for again, less and less often.
      const pollMs = Math.min(300_000, Math.max(1000, (nowMs - (notes.changedMs ?? nowMs)) / 8));
      wake = Math.min(wake, dueMs > nowMs ? dueMs : nowMs + pollMs);
      for (const probed of Object.values(notes.probes)) {
        if (probed.outcome !== "accepted")
          wake = Math.min(wake, Math.max(nowMs + 250, probed.atMs + probePauseMs(probed.tries)));
      }
    }
    if (this.errors.size > 0) return await this.unseen(nowMs, reasons);
    await this.park([...new Set(reasons)].join("; "), wake, nowMs);
    return "parked";
  }

  async blocked(assembled: Assembled, reasons: readonly Blocked[], nowMs: number): Promise<TurnResult> {
    if (this.errors.size > 0) return await this.unseen(nowMs, []);
    const texts = reasons.map((reason) => blockedText(assembled, reason));
    return await this.halt(
      `Nothing can be done safely. ${[...new Set(texts)].join(" ")} ${assembled.notes.join(" ")} Change what stands in the way, or declare the gap in a new plan; or roll back.`
        .replaceAll(/ {2,}/g, " ")
        .trim(),
    );
  }

  /** Places that do not answer are looked at again, at growing intervals, and after a while a person is asked. */
  async unseen(nowMs: number, reasons: readonly string[]): Promise<TurnResult> {
    const texts = [
      ...new Set([...[...this.errors].map(([place, error]) => `${place} could not be seen: ${error}`), ...reasons]),
    ];
    // Being asked to come back later is no failure.
    const silent = [...this.errors.keys()].some((place) => !this.askedUntilMs.has(place));
    const attempts = this.row.attempts + (silent ? 1 : 0);
    if (attempts > this.deps.options.maxAttempts) {
      return await this.halt(`${texts.join(" ")} It was tried ${attempts} times. Mend it, then resume.`);
    }
    const pauseMs = 1000 + backoffMs(attempts, this.deps.random, 1000, 300_000);
    await this.park(texts.join("; "), Math.max(nowMs + pauseMs, ...this.askedUntilMs.values()), nowMs, attempts);
    return "parked";
  }

  /** Lays the rotation down until `wakeMs`, unless somebody has called meanwhile. */
  async park(waitingFor: string, wakeMs: number, nowMs: number, attempts = 0): Promise<TurnResult> {
    const at = Math.max(wakeMs, nowMs);
    return await this.write(async (tx, staged) => {
      const row = await tx.rotations.get(this.row.id);
      if (row === undefined || row.endedAtMs !== null || row.status !== "running" || row.nextWakeAtMs !== null)
        throw new Overtaken();
      staged.update({ status: "waiting", waitingFor, nextWakeAtMs: at, attempts });
      await tx.enqueue(row.id, at);
      return "parked" as const;
    });
  }

  async wake(atMs: number): Promise<void> {
    await this.write(async (tx) => {
      await tx.rotations.update(this.row.id, { nextWakeAtMs: atMs });
      await tx.enqueue(this.row.id, atMs);
    });
  }

  /** Asks a person. Nothing is done until somebody resumes, rolls back or cancels. */
  async halt(reason: string): Promise<TurnResult> {
    await this.write(async (tx, staged) => {
      const row = await tx.rotations.get(this.row.id);
      if (row === undefined || row.status !== "running") throw new Overtaken();
      staged.update({ status: "halted", reason, waitingFor: null, nextWakeAtMs: null });
      staged.journal("rotation", { status: "halted", text: reason });
      if (this.about.parent !== null) await wakeRotation(tx, this.about.parent, await tx.now());
    });
    return "parked";
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // The end

  /** Everything is as it should be. It is the end only when the old version was seen refused, and no late write can bring it back. */
  async finish(nowMs: number): Promise<TurnResult | "look again"> {
    const stale = this.credential.places.some((place) => (this.seenStep.get(place.name) ?? 0) < this.lastEffectStep);
    if (stale) {
      await this.lookAt(this.credential.places);
      return "look again";
    }
    const late = this.credential.places.some(
      (place) => place.traits.writes === "whole-set" && !place.traits.conditional,
    );
    const quietAtMs = (this.about.lastEffectMs ?? 0) + this.deps.options.requestLifeMs;
    if (this.row.mode === "breach" && late && quietAtMs > nowMs) {
      await this.park(
        "the end of the longest request life, so that no late write can bring the compromised version back",
        quietAtMs,
        nowMs,
      );
      return "parked";
    }
    // What was there before is remembered as what all copies accept. Whether one of them still accepts more, only time can tell.
    const travelling = this.credential.places.filter((place) => !settledByTime(place, this.notesOf(place.name), nowMs));
    if (this.row.mode === "breach" && travelling.length > 0) {
      const settledAtMs = Math.max(
        ...travelling.map(({ name, traits }) => {
          return this.notesOf(name).changedMs! + Math.max(traits.propagationMs, traits.refreshMs);
        }),
      );
      return await this.park("the removal to have reached every copy", settledAtMs, nowMs);
    }
    const verdict = await this.oldRefused(nowMs);
    if (verdict !== null) return verdict;
    await this.checkTasks([]);
    const forward = this.row.direction === "forward";
    const kept = forward ? this.row.toVersion : this.row.fromVersion;
    await this.write(async (tx, staged) => {
      for (const row of await tx.versions.list(this.credential.name)) {
        if (row.id === kept) {
          if (row.state !== "current") await tx.versions.update(row.id, { state: "current" });
          continue;
        }
        // A compromised version keeps its name, so that it is recognised wherever it turns up again.
        if (row.state !== "compromised" && row.state !== "retired")
          await tx.versions.update(row.id, { state: "retired" });
        const destroyed = await tx.sealed.destroy(this.credential.name, row.id);
        if (destroyed > 0 || row.material === "sealed") await tx.versions.update(row.id, { material: "none" });
      }
      const status = forward ? "done" : "rolled-back";
      staged.update({ status, waitingFor: null, nextWakeAtMs: null, reason: this.row.reason });
      staged.journal("rotation", { status, from: this.row.fromVersion, to: this.row.toVersion });
      if (this.about.parent !== null) await wakeRotation(tx, this.about.parent, await tx.now());
    });
    return "ended";
  }

  /** Tries the version that must no longer work. `null`: it was refused everywhere where it can be tried. */
  async oldRefused(nowMs: number): Promise<TurnResult | null> {
    const oldId = this.row.direction === "forward" ? this.row.fromVersion : this.row.toVersion;
    const old = oldId === null ? undefined : this.version(oldId);
    const kept = this.version(this.wanted() ?? "");
    if (old === undefined || !old.hasMaterial) return null;
    for (const place of this.credential.places) {
      if (!place.traits.roles.includes("verifier") || !this.canProbe(place)) continue;
      if (place.traits.admits === "issuer" && sameIssuer(old, kept)) continue;
      const notes = this.notesOf(place.name);
      if (notes.refused.includes(old.id)) continue;
      const last = notes.probes[old.id];
      if (last !== undefined && nowMs - last.atMs < probePauseMs(last.tries)) {
        await this.park(
          `${place.name} to be asked again whether it refuses ${old.id}`,
          last.atMs + probePauseMs(last.tries),
          nowMs,
        );
        return "parked";
      }
      const answer = await probe(this.open, place, old, this.seen[place.name] ?? null, this.signal);
      await this.recordProbe(place, old.id, answer, nowMs);
      if (answer.outcome === "refused") continue;
      const tries = (last?.tries ?? 0) + 1;
      const settling = notes.changedMs !== null && nowMs < notes.changedMs + place.traits.propagationMs;
      if (!settling && (answer.outcome === "accepted" || tries >= this.deps.options.probeAttempts)) {
        const found =
          answer.outcome === "accepted"
            ? `still accepts ${old.id}, which is configured there no more`
            : `could not be made to say whether it refuses ${old.id}`;
        return await this.halt(
          `${place.name} ${found}: ${answer.detail} Everything else is done. Look into it, then resume.`,
        );
      }
      await this.park(`${place.name} to refuse ${old.id}`, nowMs + probePauseMs(tries), nowMs);
      return "parked";
    }
    return null;
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------

/** `preferred` looks at actions only. */
const noState = new Int32Array(0);

const noFailures = { failures: 0, retryAtMs: null, lastFailure: null } as const;

function isPlacing(verb: Effect["verb"]): boolean {
  return verb === "add" || verb === "activate" || verb === "remove";
}

async function openSealed(deps: EngineDeps, version: string, purpose: "minted" | "material"): Promise<Material> {
  const material = await deps.sealer.open(deps.store, { owner: credentialOf(version), version, purpose });
  if (material === null) {
    throw new ConnectorError("misconfigured", `The secret part of ${version} is not sealed here any more.`, {
      next: "Roll to a new version.",
    });
  }
  return material;
}

function secretOf(material: Material): Secret {
  return material.kind === "secret" ? material.value : material.privateKey;
}

function probePauseMs(tries: number): number {
  return Math.min(60_000, 500 * 2 ** Math.min(tries, 10));
}

function sameIssuer(a: VersionRecord, b: VersionRecord | undefined): boolean {
  if (b === undefined) return false;
  const of = (version: VersionRecord): string | undefined => version.facts.signedBy ?? version.facts.issuer;
  return of(a) !== undefined && of(a) === of(b);
}

/** Whether the stored plan was neither proved nor refuted. */
function needsPlanApproval(plan: Json): boolean {
  const safety = (plan as { safety?: { verdict?: string } } | null)?.safety;
  return safety?.verdict?.startsWith("not proved") === true || safety?.verdict === "not-proved";
}

function asFailure(error: unknown): ConnectorError {
  if (error instanceof ConnectorError) return error;
  throw error;
}

/** When to give up: at once for what repeating cannot mend, after a bounded number of attempts for the rest. */
function whyStop(effect: Effect, error: ConnectorError, failures: number, maxAttempts: number): string | null {
  const told = `${effect.text}: ${sentence(error)}`;
  if (error.kind === "refused" || error.kind === "misconfigured") return `${told} Mend it, then resume; or roll back.`;
  // Being asked to slow down is no failure of the other side: it gets five times the patience.
  const limit = error.kind === "throttled" ? maxAttempts * 5 : maxAttempts;
  return failures >= limit ? `${told} It was tried ${failures} times. Mend it, then resume; or roll back.` : null;
}

async function call(
  effect: Effect,
  connector: import("../connectors/connector.ts").Place,
  scope: CallScope,
  handle: VersionHandle,
): Promise<{ slot?: string; attributes?: Readonly<Record<string, string>> } | void> {
  const missing = (): never => {
    throw new ConnectorError("misconfigured", `The connector at ${effect.place} cannot ${effect.verb}.`, {
      next: "Declare the place without this role, or let a person do it.",
    });
  };
  switch (effect.verb) {
    case "add":
      return await (connector.add ?? missing).call(connector, scope.cx, handle);
    case "activate":
      return await (connector.activate ?? missing).call(connector, scope.cx, handle);
    case "remove":
      return await (connector.remove ?? missing).call(connector, scope.cx, handle);
    case "reencrypt":
      return await (connector.reencrypt ?? missing).call(connector, scope.cx, handle);
    case "endSessions":
      return await (connector.endSessions ?? missing).call(connector, scope.cx, handle);
    default:
      return missing();
  }
}

function waitText(kind: Wait["kind"], place: string, version: string): string {
  switch (kind) {
    case "propagate":
      return `${place} to enforce the change everywhere`;
    case "refresh":
      return `the users of ${place} to read the new version`;
    case "re-register":
      return `the users of ${place} to sign in anew`;
    case "drain":
      return `the last use of ${version} from ${place} to be over`;
    case "reencrypt":
      return `the data of ${place} to be moved away from ${version}`;
  }
}

function blockedText(assembled: Assembled, reason: Blocked): string {
  const { text } = effectOf(assembled, reason.action);
  const edges = reason.edges.map((index) => {
    const edge = assembled.topology.edges[index]!;
    return `${assembled.topology.holders[edge.holder]!.name} at ${assembled.topology.verifiers[edge.verifier]!.name}`;
  });
  switch (reason.cause) {
    case "would-refuse":
      return `${text} would lock out ${edges.join(" and ")}.`;
    case "capacity":
      return `${text} does not fit: the place is full.`;
    case "two-to-two":
      return `${text} would change a set of two to another set of two, which the place refuses.`;
    case "serial":
      return `${text} must wait for the last change there.`;
    case "not-restorable":
      return `${text} would need something that cannot be put back.`;
    case "would-readmit":
      return `${text} would let a compromised version in again.`;
    case "no-material":
      return `${text} needs the secret part, which Keyroll does not have.`;
  }
}

/** Wakes a rotation from within a transaction: the empty wake time tells a running turn, the queue wakes a resting one. */
export async function wakeRotation(tx: Tx, rotation: string, nowMs: number): Promise<void> {
  const row = await tx.rotations.lock(rotation);
  if (row === undefined || row.endedAtMs !== null) return;
  await tx.rotations.update(rotation, { nextWakeAtMs: nowMs });
  await tx.enqueue(rotation);
}
