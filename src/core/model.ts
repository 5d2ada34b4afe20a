/**
 * The model of a rotation: what exists (the topology), what was seen (the situation), what is wanted (the goal), and the moves.
 * Versions and trust items are indexes below {@link maxVersions}; sets of them are bit masks, so that the proof can run through millions of
 * states. docs/safety.md explains the invariant; this file only names things.
 */

/** A set of versions or of items: bit `i` stands for index `i`. */
export type Mask = number;
/** Bits above 30 would touch the sign of JavaScript's 32-bit operators. */
export const maxVersions = 30;
export const bit = (index: number): Mask => 1 << index;
export const has = (mask: Mask, index: number): boolean => ((mask >>> index) & 1) === 1;
export function size(mask: Mask): number {
  let rest = mask;
  let count = 0;
  while (rest !== 0) {
    rest &= rest - 1;
    count++;
  }
  return count;
}
export function* members(mask: Mask): Generator<number> {
  for (let rest = mask; rest !== 0; rest &= rest - 1) yield 31 - Math.clz32(rest & -rest);
}

export interface VersionSpec {
  /** `<credential>#<number>`, or `new` before it has one. */
  readonly name: string;
  /** How it comes to exist. `null`: it exists already, and Keyroll does not make it. */
  readonly issuer: IssuerSpec | null;
  /** Its secret part is not with us (an unreadable place, a value from before Keyroll): it can stay where it is and be given to nobody. */
  readonly unavailable?: boolean;
}
export interface IssuerSpec {
  readonly place: string;
  /** The secret part is shown once and must be sealed before anything else happens. */
  readonly oneTime: boolean;
  /** Issuing makes these verifiers trust these items at once. */
  readonly autoTrust: readonly { readonly verifier: number; readonly item: number }[];
  /** Issuing makes the version current at these holders at once. */
  readonly autoCurrent: readonly number[];
  readonly durationMs: number;
}
/** One line of a verifier's trust set. */
export interface Item {
  readonly name: string;
  readonly admits: Mask;
  readonly denies: Mask;
  /** The version that must exist and be sealed before the item can be written. `null`: none. */
  readonly version: number | null;
}
export interface Verifier {
  readonly name: string;
  /** How many admitting items fit. */
  readonly capacity: number;
  /** How many copies enforce the set, each at its own pace. */
  readonly replicas: number;
  /** A write is refused until the last one has reached every replica. */
  readonly serial: boolean;
  /** Service Fabric: a set of two may only become a set of one. */
  readonly noTwoToTwo: boolean;
  /** A removed item can be written again (from the sealed copy). */
  readonly restorable: boolean;
  readonly changeMs: number;
  readonly propagationMs: number;
  /** Only a person can change it. */
  readonly human: boolean;
}
export interface Holder {
  readonly name: string;
  /** Its edges are never declared exposed: whoever is refused there could not go on with the rotation. */
  readonly essential?: boolean;
  /** Stores that are moved one by one: 1 for a file or a vault, n for a fleet of devices. */
  readonly units: number;
  /** Processes that read each store, each at its own pace. */
  readonly processes: number;
  readonly storeCapacity: number;
  /** A version can be stored without being in use. */
  readonly staging: boolean;
  /** A grant made under a version outlives it (registration, pooled session). */
  readonly session: boolean;
  readonly restorable: boolean;
  readonly changeMs: number;
  readonly refreshMs: number;
  readonly human: boolean;
}
export type EdgeDrain = "instant" | "timed" | "job";
/** The users of a holder present its version to a verifier. */
export interface Edge {
  readonly holder: number;
  readonly verifier: number;
  readonly drain: EdgeDrain;
  /** How long the last message takes to be gone: token life, or the length of the re-encryption. */
  readonly drainMs: number;
}
export interface Topology {
  readonly name: string;
  readonly versions: readonly VersionSpec[];
  readonly items: readonly Item[];
  readonly verifiers: readonly Verifier[];
  readonly holders: readonly Holder[];
  readonly edges: readonly Edge[];
}

/** `volatile`: made, and not sealed yet. `lost`: made, and gone before it was sealed (an orphan). */
export type MaterialState = "none" | "volatile" | "sealed" | "lost";

/** What was seen. A replica or process that was not seen stands with every value it may have: unknown is not accepted. */
export interface Situation {
  readonly material: readonly MaterialState[];
  readonly verifiers: readonly VerifierState[];
  readonly holders: readonly HolderState[];
  /** Versions whose validity is over. */
  readonly expired: Mask;
}
export interface VerifierState {
  /** Items that are configured. */
  readonly configured: Mask;
  /** Items that each replica enforces. */
  readonly enforced: readonly Mask[];
  /** Items that were removed and cannot be put back. */
  readonly gone: Mask;
}
export interface HolderState {
  readonly units: readonly UnitState[];
  /** Per outgoing edge, in the order of {@link Topology.edges}: versions with messages under way. */
  readonly inFlight: readonly Mask[];
  /** Per outgoing edge: the version that a running re-encryption writes. */
  readonly job: readonly (number | null)[];
}
export interface UnitState {
  readonly stored: Mask;
  /** What a restart would load. */
  readonly current: number | null;
  readonly processes: readonly ProcessState[];
}
export interface ProcessState {
  /** What it presents now. */
  readonly live: number | null;
  /** The version under which it holds a grant. */
  readonly granted: number | null;
}

export interface Goal {
  /** Per holder: the version it must end with. */
  readonly target: readonly number[];
  /** Per verifier: the set of items it must end with. */
  readonly final: readonly Mask[];
  /** Versions that nobody may accept any more. */
  readonly compromised: Mask;
  /** Edges that were declared exposed: the only ones on which a presenter may be refused. */
  readonly exposed: readonly number[];
  /** In a breach: take trust away before anything else. */
  readonly containFirst: boolean;
}

export type ActionKind =
  | "issue"
  | "seal"
  | "trust"
  | "deny"
  | "swap"
  | "distrust"
  | "stage"
  | "activate"
  | "set"
  | "purge"
  | "start-reencryption"
  | "stop-reencryption"
  | "end-sessions"
  | "remove-orphan"
  | "forget-orphan";

/** Something Keyroll can do. Indexes are those of the topology; `null` where the kind has none. */
export interface Action {
  readonly kind: ActionKind;
  readonly version: number | null;
  readonly item: number | null;
  readonly verifier: number | null;
  readonly holder: number | null;
  /** Which of the holder's units; 0 for a single store. */
  readonly unit: number | null;
  readonly edge: number | null;
  /** Edges on which this action makes a refusal possible: only ever declared ones. */
  readonly exposes: readonly number[];
}

/** Something that the world does by itself, and that the next action waits for. */
export interface Wait {
  readonly kind: "propagate" | "refresh" | "re-register" | "drain" | "reencrypt";
  readonly verifier: number | null;
  readonly holder: number | null;
  readonly edge: number | null;
  readonly version: number | null;
}

export type Decision =
  /** Any one of these may be done now, in any order; after each, observe and ask again. */
  | { readonly kind: "act"; readonly actions: readonly Action[] }
  | { readonly kind: "wait"; readonly waits: readonly Wait[] }
  | { readonly kind: "done" }
  /** Nothing is safe and nothing is under way. */
  | { readonly kind: "blocked"; readonly reasons: readonly Blocked[] };

/** Why a needed action is not offered. */
export interface Blocked {
  readonly action: Action;
  readonly cause:
    | "capacity"
    | "two-to-two"
    | "serial"
    | "not-restorable"
    | "would-refuse"
    | "would-readmit"
    | "no-material";
  /** For `would-refuse`: the edges that would lose. */
  readonly edges: readonly number[];
  /** The versions that would be refused, or let in again. */
  readonly versions: Mask;
}
