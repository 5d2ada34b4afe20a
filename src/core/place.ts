/**
 * The words of an estate, as data: what a place can do (its traits), what is declared, what was seen. No secret value is representable here.
 * Everything is plain JSON, so that it can be stored, sent to a browser and replayed.
 */

/** What a place does for a credential. One place may have several roles. */
export type Role = "issuer" | "verifier" | "holder";

/**
 * Who a verifier's trust line lets in. `version`: exactly one version (a thumbprint, a password hash). `issuer`: everything that the
 * version's issuer signed (a CA bundle), so that a new leaf under a trusted CA needs no change here.
 */
export type Admits = "version" | "issuer";

/**
 * How a message that was sent under a version leaves the edge. `instant`: a handshake. `timed`: a token or a pooled session, gone after
 * {@link Traits.drainMs}. `job`: data at rest, which only a re-encryption ends.
 */
export type Drain = "instant" | "timed" | "job";

/** Facts about a place, declared by its connector and checked by the contract suite: a false trait defeats the proof. */
export interface Traits {
  readonly roles: readonly Role[];
  /** Verifier: how many versions it can trust at once. */
  readonly capacity: number;
  /** Holder: how many versions it can store at once. 1 means that giving the new one overwrites the old one. */
  readonly storeCapacity: number;
  /** Holder: a version can be put in place without becoming the one that is used. */
  readonly staging: boolean;
  readonly admits: Admits;
  /** The stored value can be read back, so that a value which was there before Keyroll can be adopted. */
  readonly readable: boolean;
  /** Issuer: who makes the secret part. `ours`: here, sealed before anything outside hears of it. `theirs`: the remote side, shown once. */
  readonly minting: "ours" | "theirs";
  /** Issuer: issuing makes this same place trust the new version at once. */
  readonly issuingTrusts: boolean;
  /** Issuer: issuing makes the new version current at this same place at once. */
  readonly issuingActivates: boolean;
  /** How long until every replica of a verifier enforces a change. 0: the write itself is atomic for all. */
  readonly propagationMs: number;
  /** How long until every consumer behind a holder has re-read it. 0: activating includes the reload that makes them. */
  readonly refreshMs: number;
  readonly drain: Drain;
  /** Time until the last message sent under a version is gone, for `timed` drains. */
  readonly drainMs: number;
  /** A grant made under a version (registration, open session) outlives it and must be ended in a breach. */
  readonly session: boolean;
  /** Whether the system changes single entries, or a write replaces the whole set. */
  readonly writes: "entries" | "whole-set";
  /** Writes can be made conditional on what was read (ETag, resource version, row version). */
  readonly conditional: boolean;
  /** `serial`: a write is refused until the last one has propagated. `no-two-to-two`: a set of two may only become a set of one. */
  readonly transitions: readonly ("serial" | "no-two-to-two")[];
  /** A version that was removed here can be put back from the sealed copy. */
  readonly restorable: boolean;
  /** Only a person can do it; a probe checks it afterwards. */
  readonly human: boolean;
  /** Expected length of one change at this place. */
  readonly changeMs: number;
}

/** The traits of a plain local verifier and holder. Connectors spread it and say only where they differ. */
export const plainTraits: Traits = {
  roles: [],
  capacity: 16,
  storeCapacity: 16,
  staging: true,
  admits: "version",
  readable: true,
  minting: "ours",
  issuingTrusts: false,
  issuingActivates: false,
  propagationMs: 0,
  refreshMs: 0,
  drain: "instant",
  drainMs: 0,
  session: false,
  writes: "entries",
  conditional: false,
  transitions: [],
  restorable: true,
  human: false,
  changeMs: 1000,
};

/** Public facts of one version. Times are milliseconds since the epoch. Fingerprints are lower-case hex. */
export interface VersionFacts {
  /** The identity: SHA-256 of the DER for certificates, a keyed hash (HMAC-SHA-256 under the store's own key) for opaque secrets. */
  readonly fingerprint: string;
  readonly sha1?: string;
  /** SHA-256 of the DER SubjectPublicKeyInfo. Two certificates with one public key share a key, whatever their thumbprints say. */
  readonly publicKeySha256?: string;
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
  readonly subject?: string;
  readonly issuer?: string;
  readonly serial?: string;
  /** Public names that belong to a version, such as the login role that carries it. Never secret. */
  readonly attributes?: Readonly<Record<string, string>>;
  /** Fingerprint of the CA version that signed it, where the issuer is a credential of the estate. */
  readonly signedBy?: string;
}

/** Life of a version (NIST SP 800-57 key states, in operators' words). */
export type VersionState = "pending" | "current" | "retiring" | "retired" | "compromised";

/** One entry that was seen at a place. */
export interface Entry {
  /** Stable name of the entry at that place: fingerprint, key id, role name. Shown to people, so never secret. */
  readonly mark: string;
  /** The version it is, where the connector could tell. Absent: somebody else's, or unknown. */
  readonly version?: string;
  /** Where the place keeps it: `primary`, `secondary`, a role name, a line. */
  readonly slot?: string;
  /** Public names that the place chose with it, such as `user`: what `add` returned, for when that answer was lost. */
  readonly attributes?: Readonly<Record<string, string>>;
  /** A disabled entry is kept and not accepted. */
  readonly enabled: boolean;
  readonly notAfterMs?: number;
  /** For `admits: "issuer"` verifiers: ids of the known versions that this entry lets in, where the connector checked the signatures. */
  readonly admits?: readonly string[];
}

/** What a connector saw. Absent optional fields mean *not seen*, which is never read as *accepted* or *gone*. */
export interface Observation {
  readonly entries: readonly Entry[];
  /** Holder: mark of the entry that is in use. `null`: none is. Absent: cannot be told. */
  readonly current?: string | null;
  /**
   * Verifier or holder: marks that somebody was seen using just now (sessions by role, certificates served). Present and empty means: looked,
   * and nobody. Absent means: this place cannot tell.
   */
  readonly inUse?: readonly string[];
  /** Verifier: whether every replica was seen to enforce these entries. Absent: judge by {@link Traits.propagationMs}. */
  readonly settled?: boolean;
  /** Data at rest: how many records are still under each mark. Present and empty means none at all. */
  readonly records?: Readonly<Record<string, number>>;
  /** Resource version for conditional writes, handed back to the connector with the next change. */
  readonly etag?: string;
  /** What a person should know, in a sentence each: a missing permission, a stale secondary, a policy that renews by itself. */
  readonly notes?: readonly string[];
}

/** A place as declared: where versions of one credential live. */
export interface PlaceDecl {
  readonly name: string;
  readonly type: string;
  readonly system?: string;
  readonly traits: Traits;
  /** Names of the verifier places of the same credential that this holder's users present it to. */
  readonly presentsTo: readonly string[];
  /** The connector's own settings, already validated by its schema. May hold secrets resolved from the environment: never logged. */
  readonly config: unknown;
  /** The settings as written, `${env:…}` left in place and plain secrets blotted out: what may be stored and shown. */
  readonly declared?: unknown;
  /** For a holder that is another credential: its name. Giving it the new version is a rotation of that credential. */
  readonly credential?: string;
  /** Built in: what this place holds is Keyroll's own sign-in at the system of this name, which is never declared exposed. */
  readonly signsInTo?: string;
  /** `file:line` of the declaration, for messages. */
  readonly source?: string;
}

/** Things that were encrypted or signed under versions of a credential, and must stay readable: rows, files, backups. */
export interface DataDecl {
  readonly name: string;
  /** The holder place under whose version new records are written. */
  readonly writtenUnder: string;
  /** The verifier places that must be able to read them. */
  readonly readBy: readonly string[];
  /** How long moving all of them to a new version takes. */
  readonly drainMs: number;
  readonly source?: string;
}

/** When something may be done. `days`: 0 is Sunday. Minutes count from local midnight; `to <= from` crosses midnight. */
export interface Window {
  readonly days: readonly number[];
  readonly fromMinute: number;
  readonly toMinute: number;
  /** IANA name, such as `Europe/Amsterdam`. */
  readonly timeZone: string;
  /** As the user wrote it. */
  readonly text: string;
}

/** The phases of a rotation that a policy can gate. */
export type Phase = "issue" | "distribute" | "switch" | "retire";

export interface Policy {
  /** Rotate this long before expiry. */
  readonly rotateBeforeMs: number | null;
  /** Rotate when the current version is older than this. */
  readonly maxAgeMs: number | null;
  /** Wait this long between the last switch and the first removal. */
  readonly soakMs: number;
  /** Added to the estimate when the last safe start is computed. */
  readonly marginMs: number;
  /** How many people other than the starter must agree before a phase begins. */
  readonly approvals: Partial<Record<Phase, number>>;
  readonly windows: readonly Window[];
  readonly notify: readonly string[];
}

export interface IssuerDecl {
  readonly type: string;
  readonly system?: string;
  /** The credential that signs, where the issuer is a CA of the estate. */
  readonly ca?: string;
  /** The place of this credential that issues, where the remote side mints (its traits then say what issuing does). */
  readonly place?: string;
  readonly traits: Traits;
  readonly config: unknown;
  /** As in {@link PlaceDecl.declared}. */
  readonly declared?: unknown;
  readonly source?: string;
}

export type CredentialKind = "password" | "secret" | "certificate" | "ca" | "key" | "ssh-key";

export interface CredentialDecl {
  readonly name: string;
  readonly kind: CredentialKind;
  readonly owner: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly issuer: IssuerDecl;
  readonly places: readonly PlaceDecl[];
  /** Data sets. Their holders already present to `readBy`. */
  readonly data?: readonly DataDecl[];
  readonly policy: Policy;
  /** `file:line` of the declaration, for messages. */
  readonly source: string;
}

export interface SystemDecl {
  readonly name: string;
  readonly type: string;
  /** Validated connection settings. May hold secrets resolved from the environment: never logged. */
  readonly config: unknown;
  /** As in {@link PlaceDecl.declared}. */
  readonly declared?: unknown;
  /** The credential of the estate that Keyroll itself signs in with, if it is one. */
  readonly signIn?: string;
  readonly source: string;
}

/** What holds for the estate as a whole. */
export interface EstateSettings {
  /** No request that was sent is alive after this time. */
  readonly requestLifeMs: number;
  /** How often every place is looked at when nothing is being rotated. */
  readonly observeEveryMs: number;
}

export interface Estate {
  readonly systems: readonly SystemDecl[];
  readonly credentials: readonly CredentialDecl[];
  readonly settings?: EstateSettings;
  /** SHA-256 over the declarations, without resolved secrets. */
  readonly digest: string;
}
