/**
 * What the rest of Keyroll may ask of the database: rows as plain values, one method per question, and no SQL outside this folder.
 * Times are milliseconds since the epoch. Nothing here can hold a secret in clear: sealed records are opaque bytes.
 */
import type { MaterialState } from "../core/model.ts";
import type { PeopleQueries } from "./people.ts";
import type { CredentialDecl, CredentialKind, Observation, Phase, VersionFacts, VersionState } from "../core/place.ts";

/** Any JSON value. Payloads are public only. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json | undefined };

// ---------------------------------------------------------------------------------------------------------------------------------------
// Rows

interface EstateRevision {
  readonly number: number;
  readonly digest: string;
  /** The declarations as written, before `${env:…}` and `${file:…}` are resolved. */
  readonly text: string;
  readonly appliedBy: string;
  readonly appliedAtMs: number;
}

/** A credential as the estate declares it. `declaration` must have no resolved secrets in its configs. */
export interface CredentialRow {
  readonly name: string;
  readonly owner: string;
  readonly kind: CredentialKind;
  readonly labels: Readonly<Record<string, string>>;
  readonly declaration: CredentialDecl;
  /** False when the last applied estate no longer declares it: its history stays. */
  readonly declared: boolean;
  readonly updatedAtMs: number;
}

/** What a place decided when it took a version: the same shape as a connector's `Placement`. */
export interface PlacementRow {
  readonly slot?: string;
  readonly attributes?: Readonly<Record<string, string>>;
}

export interface VersionRow {
  /** `<credential>#<number>`. */
  readonly id: string;
  readonly credential: string;
  readonly number: number;
  /** `null` between the intent to issue and the answer. */
  readonly facts: VersionFacts | null;
  readonly state: VersionState;
  readonly material: MaterialState;
  /** By place name. */
  readonly placements: Readonly<Record<string, PlacementRow>>;
  /** The tag of the attempt that made it, journalled before the call; `null` for adopted versions. */
  readonly issueTag: string | null;
  readonly createdAtMs: number;
  readonly retiredAtMs: number | null;
}

/** One sealed record. Only `engine/seal.ts` can read `blob`. */
export interface SealedRow {
  /** Random, and part of the associated data. */
  readonly id: string;
  readonly owner: string;
  readonly version: string;
  /** `material`, `minted`, `fingerprint-key`, `journal-key` … */
  readonly purpose: string;
  /** Identity of the key-encryption key that wraps this record's data key. */
  readonly kekId: string;
  readonly wrappedKey: Buffer;
  readonly blob: Buffer;
  readonly createdAtMs: number;
}

export type RotationMode = "planned" | "breach";
export type RotationStatus = "running" | "waiting" | "paused" | "halted" | "done" | "rolled-back" | "cancelled";
/** A rotation in one of these states holds its credential: there is at most one. */
export const activeStatuses: readonly RotationStatus[] = ["running", "waiting", "paused", "halted"];

export interface RotationRow {
  /** Short and random, fit to be typed. */
  readonly id: string;
  readonly credential: string;
  readonly mode: RotationMode;
  readonly strategy: "availability-first" | "contain-first";
  readonly direction: "forward" | "back";
  /** Version id; `null` for a first version. */
  readonly fromVersion: string | null;
  /** Version id; `null` until issuing has begun. */
  readonly toVersion: string | null;
  readonly status: RotationStatus;
  readonly planDigest: string;
  readonly plan: Json;
  /** Declared exposed edges, as `holder -> verifier` names. */
  readonly exposed: readonly string[];
  readonly startedBy: string;
  readonly leaseOwner: string | null;
  /** Grows with every take-over; a writer with an older one is fenced off. */
  readonly leaseFence: number;
  readonly leaseUntilMs: number | null;
  /** When it wants to be looked at again. `null`: only when somebody wakes it. */
  readonly nextWakeAtMs: number | null;
  /** Public sentence for `halted`, `paused` and `cancelled`. */
  readonly reason: string | null;
  /** What it waits for, as a public sentence. */
  readonly waitingFor: string | null;
  /** Refused or failed attempts in a row, for bounded retries. */
  readonly attempts: number;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly endedAtMs: number | null;
}

export interface NewRotation {
  readonly id?: string;
  readonly credential: string;
  readonly mode: RotationMode;
  readonly strategy: "availability-first" | "contain-first";
  readonly direction?: "forward" | "back";
  readonly fromVersion: string | null;
  readonly toVersion?: string | null;
  readonly planDigest: string;
  readonly plan: Json;
  readonly exposed: readonly string[];
  readonly startedBy: string;
  readonly nextWakeAtMs?: number | null;
}

/** Fields the engine may change. Absent means unchanged. */
export type RotationPatch = Partial<
  Pick<
    RotationRow,
    | "direction"
    | "fromVersion"
    | "toVersion"
    | "status"
    | "planDigest"
    | "plan"
    | "exposed"
    | "nextWakeAtMs"
    | "reason"
    | "waitingFor"
    | "attempts"
  >
>;

/** What the engine remembers of one place during one rotation. The engine owns the shape. */
export interface PlaceMemoryRow {
  readonly rotation: string;
  readonly place: string;
  readonly memory: Json;
  readonly updatedAtMs: number;
}

export interface ApprovalRow {
  readonly id: number;
  readonly rotation: string;
  readonly phase: Phase | "plan";
  readonly planDigest: string;
  readonly nonce: string;
  readonly person: string;
  readonly verdict: "approved" | "rejected";
  readonly comment: string | null;
  readonly atMs: number;
  readonly expiresAtMs: number | null;
  readonly revokedAtMs: number | null;
}

export type TaskState = "open" | "done" | "refused" | "handed-over";
export interface TaskRow {
  readonly id: string;
  readonly rotation: string;
  readonly credential: string;
  readonly place: string;
  readonly action: "add" | "activate" | "remove";
  readonly version: string;
  /** The connector's `Instructions`. */
  readonly instructions: Json;
  readonly state: TaskState;
  /** Who it is for, or who did it. */
  readonly person: string | null;
  readonly note: string | null;
  readonly dueAtMs: number | null;
  /** What the machine saw after "done"; `null`: not checked yet. */
  readonly checked: Json;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

export interface ObservationRow {
  readonly credential: string;
  readonly place: string;
  /** The last one that succeeded. `null`: never. */
  readonly observation: Observation | null;
  readonly atMs: number | null;
  /** Public sentence of the last failure after `atMs`. `null`: the last look succeeded. */
  readonly error: string | null;
  readonly errorAtMs: number | null;
}

/** `intent` and `outcome` share an effect id. */
export type JournalKind =
  | "intent"
  | "outcome"
  | "approval"
  | "task"
  | "note"
  | "estate"
  | "rotation"
  | "version"
  | "key"
  | "person"
  | "checkpoint";
export interface JournalRow {
  readonly seq: number;
  readonly atMs: number;
  readonly actor: string;
  readonly rotation: string | null;
  readonly credential: string | null;
  readonly kind: JournalKind;
  readonly effect: string | null;
  readonly payload: Json;
  /** Lower-case hex; 64 zeros before the first. */
  readonly prevHash: string;
  readonly hash: string;
}

export interface InventoryItem {
  /** SHA-256 of the DER, lower-case hex. */
  readonly fingerprint: string;
  readonly publicKey: string | null;
  /** Name of the scan: a host, a machine, a system. */
  readonly source: string;
  /** File and entry, or endpoint: where this copy lies. */
  readonly path: string;
  /** `certificate`, `private-key`, `public-key`, … */
  readonly kind: string;
  readonly owner: string | null;
  readonly notAfterMs: number | null;
  readonly facts: Json;
}
export interface InventoryRow extends InventoryItem {
  readonly id: number;
  readonly firstSeenAtMs: number;
  readonly seenAtMs: number;
}

// ---------------------------------------------------------------------------------------------------------------------------------------
// Errors

/** Every failure that a reader can mend: what, where, what next. */
export class StoreError extends Error {
  override readonly name: string = "StoreError";
  readonly code: StoreErrorCode;
  readonly next: string | undefined;
  constructor(code: StoreErrorCode, message: string, next?: string) {
    super(message);
    this.code = code;
    this.next = next;
  }
}
export type StoreErrorCode =
  | "fenced-off"
  | "already-rotating"
  | "not-found"
  | "newer-schema"
  | "newer-data"
  | "disk-full"
  | "permission"
  | "unavailable"
  | "cannot-start"
  | "wrong-kek"
  | "tampered"
  | "misconfigured";

/** Somebody else holds the rotation now. Stop at once, write nothing. */
export class FencedOff extends StoreError {
  override readonly name = "FencedOff";
  constructor(rotation: string, fence: number) {
    super(
      "fenced-off",
      `rotation ${rotation} was taken over by another worker (fence ${fence} is no longer the current one)`,
    );
  }
}

/** One active rotation per credential. */
export class AlreadyRotating extends StoreError {
  override readonly name = "AlreadyRotating";
  readonly credential: string;
  /** The active rotation, where it could still be read. */
  readonly rotation: string | null;
  constructor(credential: string, rotation: string | null) {
    super(
      "already-rotating",
      `${credential} is already being rotated${rotation === null ? "" : ` by ${rotation}`}`,
      rotation === null ? undefined : `follow it with: keyroll run watch ${rotation}`,
    );
    this.credential = credential;
    this.rotation = rotation;
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------
// Questions and changes

/** Proof of a lease. Every write of the engine carries one. */
export interface Fence {
  readonly rotation: string;
  readonly fence: number;
}
export interface Lease extends Fence {
  readonly owner: string;
  /** By the database's clock. */
  readonly untilMs: number;
}

/** Everything that can be asked or changed, inside or outside a transaction. */
export interface Queries {
  /** The database's clock: the only one that leases and waits are judged by. */
  now(): Promise<number>;
  readonly estate: EstateQueries;
  readonly credentials: CredentialQueries;
  readonly versions: VersionQueries;
  readonly sealed: SealedQueries;
  readonly rotations: RotationQueries;
  readonly places: PlaceMemoryQueries;
  readonly approvals: ApprovalQueries;
  readonly tasks: TaskQueries;
  readonly observations: ObservationQueries;
  readonly journal: JournalQueries;
  readonly inventory: InventoryQueries;
  readonly settings: SettingQueries;
  readonly people: PeopleQueries;
}

/** The same inside a transaction; all of it happens or none. */
export interface Tx extends Queries {
  /**
   * Wakes a worker for this rotation at the given time (default: at once), if and only if this transaction commits. Inside {@link Store.fenced}
   * it is the rotation's own next appointment and replaces the one before. From outside it never delays an earlier one, and a pass that is
   * running at that moment is followed by another one.
   */
  enqueue(rotation: string, atMs?: number): Promise<void>;
}

export interface Store extends Queries {
  /**
   * All of it or nothing. `work` may run again after a deadlock, so it must change nothing but the database. Lock order: rotation first, the
   * journal last, because the journal's end is locked until the transaction ends.
   */
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /**
   * A transaction that holds the rotation's row and whose writes happen only while `fence` is the current one. Throws {@link FencedOff}
   * before `work` otherwise; nobody can take the rotation over until it ends. Every write of the engine goes through here.
   */
  fenced<T>(fence: Fence, work: (tx: Tx) => Promise<T>): Promise<T>;

  /** Takes a rotation whose lease is free or has run out, and raises its fence. `null`: somebody else holds it, or it is not there or over. */
  acquireLease(rotation: string, owner: string, ttlMs: number): Promise<Lease | null>;
  /** Throws {@link FencedOff} when it was taken over. */
  renewLease(lease: Lease, ttlMs: number): Promise<Lease>;
  /** Lets go early. Taken over meanwhile is no error. */
  releaseLease(lease: Lease): Promise<void>;

  /** Wakes a worker for this rotation at the given time (default: at once). */
  enqueue(rotation: string, atMs?: number): Promise<void>;
  /**
   * Calls `handler` for every rotation that is woken; several at once up to `concurrency`. The queue only wakes: a rotation may be woken
   * twice or for nothing, and the handler must take the lease itself. A handler that throws is logged through `onError` and woken again by
   * the sweep. Resolves when the worker listens.
   */
  work(handler: (rotation: string) => Promise<void>, options?: WorkOptions): Promise<Worker>;
  /** Wakes every active rotation whose wake time has passed or whose lease ran out. Returns their ids. `work` calls it by itself. */
  sweep(): Promise<readonly string[]>;

  /** Calls back when the database is lost (crash of the server, network) and when it is back. */
  onState(listener: (state: "lost" | "back", detail: string) => void): () => void;
  /** Where it is: a folder or a host, never a password. */
  readonly where: StoreLocation;
  /** Key files and checkpoints lie here, also where the database itself is outside. */
  readonly dataDir: string;
  close(): Promise<void>;
}

export interface StoreLocation {
  readonly kind: "embedded" | "outside";
  /** `~/.keyroll` or `db.example.org:5432/keyroll`. */
  readonly text: string;
  readonly serverVersion: string;
}

export interface WorkOptions {
  /** How many handlers at once; default 8. */
  readonly concurrency?: number;
  /** How often lost wake-ups are looked for; default 3 s. */
  readonly sweepMs?: number;
  /** When a handler that threw without making an appointment is called again; default 5 s. */
  readonly retryMs?: number;
  readonly onError?: (rotation: string, error: unknown) => void;
}
export interface Worker {
  /** Takes no new work and waits for the handlers that run. */
  stop(): Promise<void>;
}

interface EstateQueries {
  /** Same digest as the latest revision: nothing happens, and `changed` is false. */
  apply(revision: {
    digest: string;
    text: string;
    appliedBy: string;
    credentials: readonly Omit<CredentialRow, "declared" | "updatedAtMs">[];
  }): Promise<{ readonly number: number; readonly changed: boolean }>;
  latest(): Promise<EstateRevision | undefined>;
  list(limit?: number): Promise<readonly EstateRevision[]>;
}

interface CredentialQueries {
  get(name: string): Promise<CredentialRow | undefined>;
  list(options?: { readonly includeUndeclared?: boolean }): Promise<readonly CredentialRow[]>;
}

interface VersionQueries {
  /**
   * Reserves the next number. The same `issueTag` twice gives the same row, so that a repeated step makes one version. The credential must
   * have been applied.
   */
  create(version: {
    credential: string;
    facts?: VersionFacts | null;
    state: VersionState;
    material: MaterialState;
    placements?: Readonly<Record<string, PlacementRow>>;
    issueTag?: string | null;
  }): Promise<VersionRow>;
  get(id: string): Promise<VersionRow | undefined>;
  /** Oldest first. */
  list(credential: string): Promise<readonly VersionRow[]>;
  listAll(filter?: { readonly states?: readonly VersionState[] }): Promise<readonly VersionRow[]>;
  byFingerprint(fingerprint: string): Promise<readonly VersionRow[]>;
  /** Absent means unchanged. Setting `retired` stamps the time. */
  update(
    id: string,
    patch: Partial<Pick<VersionRow, "facts" | "state" | "material" | "issueTag">>,
  ): Promise<VersionRow>;
  /** `null` takes the placement away. */
  place(id: string, place: string, placement: PlacementRow | null): Promise<void>;
}

interface SealedQueries {
  /** The same (owner, version, purpose) twice replaces nothing and returns false: a sealed value is never overwritten. */
  insert(row: Omit<SealedRow, "createdAtMs">): Promise<boolean>;
  find(owner: string, version: string, purpose: string): Promise<SealedRow | undefined>;
  /** Deletes every record of the version, or only those of a purpose; returns how many. */
  destroy(owner: string, version: string, purpose?: string): Promise<number>;
  /** Up to `limit` records that are not wrapped by `kekId`, for re-wrapping; locked against other re-wrappers in a transaction. */
  notWrappedBy(kekId: string, limit: number): Promise<readonly SealedRow[]>;
  /** Only if it is still wrapped by `from`. Returns whether it was. */
  rewrap(id: string, from: string, to: string, wrappedKey: Buffer): Promise<boolean>;
  countByKek(): Promise<Readonly<Record<string, number>>>;
}

interface RotationQueries {
  /** Throws {@link AlreadyRotating}. */
  create(rotation: NewRotation): Promise<RotationRow>;
  get(id: string): Promise<RotationRow | undefined>;
  /** The one active rotation of this credential. */
  active(credential: string): Promise<RotationRow | undefined>;
  /** Newest first. */
  list(filter?: {
    readonly credential?: string;
    readonly statuses?: readonly RotationStatus[];
    readonly limit?: number;
  }): Promise<readonly RotationRow[]>;
  /**
   * The same in pages, with how many there are in all. `owners`: of their credentials. `words`: each in the id, the credential, the starter or the
   * status. `before`: the last row of the page before.
   */
  page(filter: {
    readonly credential?: string;
    readonly statuses?: readonly RotationStatus[];
    readonly owners?: readonly string[];
    readonly words?: readonly string[];
    readonly before?: { readonly createdAtMs: number; readonly id: string };
    readonly limit: number;
  }): Promise<{ readonly rows: readonly RotationRow[]; readonly total: number }>;
  /** Ending states stamp `endedAtMs`, free the lease and the credential. */
  update(id: string, patch: RotationPatch): Promise<RotationRow>;
  /** Locks the row for the rest of the transaction, for commands that act from outside the engine (pause, cancel, roll back). */
  lock(id: string): Promise<RotationRow | undefined>;
}

interface PlaceMemoryQueries {
  get(rotation: string, place: string): Promise<PlaceMemoryRow | undefined>;
  list(rotation: string): Promise<readonly PlaceMemoryRow[]>;
  put(rotation: string, place: string, memory: Json): Promise<void>;
}

interface ApprovalQueries {
  /** The same person and nonce twice is one approval. */
  add(approval: {
    rotation: string;
    phase: Phase | "plan";
    planDigest: string;
    nonce: string;
    person: string;
    verdict: "approved" | "rejected";
    comment?: string | null;
    expiresAtMs?: number | null;
  }): Promise<ApprovalRow>;
  /** All of them, newest last, revoked and expired ones too. */
  list(rotation: string): Promise<readonly ApprovalRow[]>;
  /** Approvals that count now: this digest, not revoked, not expired by the database's clock; the latest word of each person. */
  valid(rotation: string, phase: Phase | "plan", planDigest: string): Promise<readonly ApprovalRow[]>;
  /** Returns how many were revoked. Without a person: everybody's. */
  revoke(rotation: string, options?: { readonly phase?: Phase | "plan"; readonly person?: string }): Promise<number>;
}

interface TaskQueries {
  /** One open task per rotation, place, action and version: asked again, the same task is returned. */
  open(task: {
    rotation: string;
    credential: string;
    place: string;
    action: "add" | "activate" | "remove";
    version: string;
    instructions: Json;
    person?: string | null;
    dueAtMs?: number | null;
  }): Promise<TaskRow>;
  get(id: string): Promise<TaskRow | undefined>;
  list(filter?: {
    readonly rotation?: string;
    readonly states?: readonly TaskState[];
    readonly person?: string;
  }): Promise<readonly TaskRow[]>;
  update(
    id: string,
    patch: Partial<Pick<TaskRow, "state" | "person" | "note" | "dueAtMs" | "checked">>,
  ): Promise<TaskRow>;
}

interface ObservationQueries {
  saw(credential: string, place: string, observation: Observation): Promise<void>;
  failed(credential: string, place: string, error: string): Promise<void>;
  get(credential: string, place: string): Promise<ObservationRow | undefined>;
  list(credential?: string): Promise<readonly ObservationRow[]>;
}

/** Raw rows; `engine/journal.ts` is the one that writes them and knows the chain. */
interface JournalQueries {
  /** Locks the chain's end until the transaction ends. Seq 0 and 64 zeros before the first record. */
  lockHead(): Promise<{ readonly seq: number; readonly hash: string; readonly nowMs: number }>;
  /** Appends rows and moves the head. The head must be locked by this transaction. */
  insert(rows: readonly JournalRow[]): Promise<void>;
  head(): Promise<{ readonly seq: number; readonly hash: string }>;
  /** In order, from `afterSeq` (exclusive). */
  page(afterSeq: number, limit: number): Promise<readonly JournalRow[]>;
  /** Newest first. */
  list(filter?: {
    readonly rotation?: string;
    readonly credential?: string;
    readonly kinds?: readonly JournalKind[];
    readonly beforeSeq?: number;
    readonly limit?: number;
  }): Promise<readonly JournalRow[]>;
  /** Intents of this rotation without an outcome, oldest first: after a crash their outcome is unknown. */
  openIntents(rotation: string): Promise<readonly JournalRow[]>;
}

interface InventoryQueries {
  /** Adds or refreshes (source, path, fingerprint, kind). Returns how many rows were new. */
  import(
    items: Iterable<InventoryItem> | AsyncIterable<InventoryItem>,
  ): Promise<{ readonly rows: number; readonly added: number }>;
  /** What a scan of `source` did not see again since `beforeMs` is forgotten. */
  forgetUnseen(source: string, beforeMs: number): Promise<number>;
  /** Soonest first. */
  expiring(filter: {
    readonly beforeMs: number;
    readonly afterMs?: number;
    readonly owner?: string;
    readonly limit?: number;
  }): Promise<readonly InventoryRow[]>;
  copies(fingerprint: string): Promise<readonly InventoryRow[]>;
  sharingKey(publicKey: string): Promise<readonly InventoryRow[]>;
  list(filter?: {
    readonly source?: string;
    readonly afterId?: number;
    readonly limit?: number;
  }): Promise<readonly InventoryRow[]>;
  count(): Promise<number>;
}

/** Small facts of the installation: identity of the key-encryption key, progress of a re-wrap. Public. */
interface SettingQueries {
  get(name: string): Promise<Json | undefined>;
  put(name: string, value: Json): Promise<void>;
  /** The same, locked against change until the transaction ends: `share` lets other readers in. */
  getLocked(name: string, mode: "share" | "update"): Promise<Json | undefined>;
  /** Writes it only if nothing is there yet, and returns what is there then. */
  putIfAbsent(name: string, value: Json): Promise<Json>;
  delete(name: string): Promise<void>;
}
