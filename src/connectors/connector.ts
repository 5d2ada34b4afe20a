/**
 * The contract between Keyroll and everything outside. A connector is one folder: its schema, its traits as data, its few verbs, a page.
 * Every verb promises what happens when the thing is already there, already gone, or changed by somebody else, and the contract suite
 * (`connector.contract.ts`) holds every connector to it.
 */
import type { z } from "zod";
import type { Observation, Role, Traits, VersionFacts } from "../core/place.ts";
import type { Material } from "./secret.ts";

/** A version as a connector gets it: public facts, and a way to open the secret part that works only during the call it was given for. */
export interface VersionHandle {
  /** Keyroll's id, `<credential>#<number>`; safe to write into remote tags and comments. */
  readonly id: string;
  readonly facts: VersionFacts;
  /** Where this very place put it before: what `add` returned. */
  readonly placement?: Placement;
  /** False where only public facts are known (an unreadable place, a version from before Keyroll). `open` then throws `misconfigured`. */
  readonly hasMaterial: boolean;
  open(): Promise<Material>;
}

/** What a place decided when it took a version. Public; kept with the version and handed to the other places' templates. */
export interface Placement {
  /** `primary`, a role name, a key id: what removes exactly this version later. */
  readonly slot?: string;
  /** Public names that consumers need beside the secret, such as `user`. */
  readonly attributes?: Readonly<Record<string, string>>;
}

/** What an issuer is asked for. The same intent twice gives one version: look for the tag before making another. */
export interface IssueIntent {
  /** The id that the new version will have. Write it where the remote side lets us (description, CN, label, comment). */
  readonly id: string;
  /** Random and unique to this attempt, journalled before the call. */
  readonly tag: string;
  /**
   * For issuers of kind `ours`: the secret part, made and sealed before this call, such as the private key that a CA signs for. Absent on the
   * first of the two calls (`mint`).
   */
  readonly minted?: Material;
  /** The credential version that signs, where the issuer is a CA of the estate. */
  readonly signer?: VersionHandle;
  /** The version that is being replaced, for what must carry over (subject, names, content type). */
  readonly previous?: VersionHandle;
}

export interface Issued {
  readonly facts: Omit<VersionFacts, "fingerprint"> & { readonly fingerprint?: string };
  readonly material: Material;
  readonly placement?: Placement;
}

/** `accepted` and `refused` are the system's own answers. `unknown` is everything else: an outage is never a refusal. */
export interface Probe {
  readonly outcome: "accepted" | "refused" | "unknown";
  /** One public sentence. */
  readonly detail: string;
}

/** What a call may use. There is no other way to time, randomness or the log. */
export interface CallContext {
  /** Milliseconds since the epoch. */
  now(): number;
  readonly signal: AbortSignal;
  /** Waits for the system's rate limit before a request. Call it once per request sent. */
  throttle(): Promise<void>;
  readonly log: Log;
  /** What the last `observe` of this place returned, for conditional writes. */
  readonly lastSeen?: Observation;
}

export interface Log {
  debug(message: string, fields?: Readonly<Record<string, string | number | boolean | null>>): void;
  info(message: string, fields?: Readonly<Record<string, string | number | boolean | null>>): void;
  warn(message: string, fields?: Readonly<Record<string, string | number | boolean | null>>): void;
}

/** One open place. `known` are the versions that may be there, so that a connector can recognise them without naming secrets. */
export interface Place {
  /** Read-only. Nothing there is an empty answer, not an error. Never guesses: what was not seen is left out. */
  observe(cx: CallContext, known: readonly VersionHandle[]): Promise<Observation>;
  /**
   * Verifier: trust the version. Holder: put it in place without using it (only where `traits.staging`). Already there is success and returns
   * the same placement. Everything else that is there stays.
   */
  add?(cx: CallContext, version: VersionHandle): Promise<Placement | void>;
  /** Holder: make it the one in use, staged before or not; includes the reload that makes consumers see it. Already current is success. */
  activate?(cx: CallContext, version: VersionHandle): Promise<Placement | void>;
  /** Take exactly this version away. Already gone is success. Never touches another version. */
  remove?(cx: CallContext, version: VersionHandle): Promise<void>;
  /** Does it really work, seen from a consumer's side? */
  probe?(cx: CallContext, version: VersionHandle): Promise<Probe>;
  /** Reads the versions that are there, secret part included, so that a value from before Keyroll can be sealed and rolled back to. */
  adopt?(cx: CallContext): Promise<readonly Issued[]>;
  /** Starts moving the data at rest to `target`; already running is success. Progress is in `observe().records`. */
  reencrypt?(cx: CallContext, target: VersionHandle): Promise<void>;
  /**
   * Stops moving the data at rest to `target`: when it returns, nothing is moved there any more. What was moved stays. Already stopped, or
   * never started, is success. Without this verb a job goes on until the next `reencrypt` names another target.
   */
  stopReencrypt?(cx: CallContext, target: VersionHandle): Promise<void>;
  /** Ends grants made under this version (registrations, sessions). None is success. */
  endSessions?(cx: CallContext, version: VersionHandle): Promise<void>;
  /** What a person must do, for places with `traits.human`: exact public values, numbered. */
  instructions?(action: "add" | "activate" | "remove", version: VersionHandle): Instructions;
  /** Releases connections. Called once, after the last verb. */
  close?(): Promise<void>;
}

export interface Instructions {
  readonly title: string;
  readonly steps: readonly { readonly text: string; readonly copy?: string }[];
  readonly minutes: number;
}

/** Makes versions. */
export interface Issuer {
  /** For `minting: "ours"`: makes the secret part here, touching nothing outside. */
  mint?(cx: CallContext, intent: IssueIntent): Promise<Material>;
  /** Gives the finished version. With `intent.minted` set it must use that and no other secret. */
  issue(cx: CallContext, intent: IssueIntent): Promise<Issued>;
  close?(): Promise<void>;
}

interface ConnectorBase<C, S> {
  /** `postgres.role`; the word users write. */
  readonly type: string;
  /** One line for lists. */
  readonly title: string;
  /** The settings of the place itself. The estate adds the common ones (`verifier`, `holder`, `presentsTo`, `refresh`, …). */
  readonly config: z.ZodType<C>;
  /** The type of system it needs, if any; `systemTypes` in the registry has its schema. */
  readonly systemType?: string;
  traits(config: C): Traits;
  /** Keys of the config whose values name files, resolved against the estate file's folder before `open`. */
  readonly paths?: readonly string[];
  /** What it is not for, and which permissions it needs; shown in docs and by `keyroll doctor`. */
  readonly permissions: readonly string[];
  readonly system?: z.ZodType<S>;
}

export interface PlaceConnector<C = unknown, S = unknown> extends ConnectorBase<C, S> {
  readonly family: "place";
  readonly roles: readonly Role[];
  open(config: C, system: S | undefined): Place;
}

export interface IssuerConnector<C = unknown, S = unknown> extends ConnectorBase<C, S> {
  readonly family: "issuer";
  open(config: C, system: S | undefined): Issuer;
}

export type Connector = PlaceConnector | IssuerConnector;

/** Keeps the type parameters while a connector is written, and forgets them where it is registered. */
export function definePlace<C, S = undefined>(connector: PlaceConnector<C, S>): PlaceConnector {
  return connector as unknown as PlaceConnector;
}
export function defineIssuer<C, S = undefined>(connector: IssuerConnector<C, S>): IssuerConnector {
  return connector as unknown as IssuerConnector;
}

/** What Keyroll itself signs in to a system with. */
export interface SignIn {
  /** Public names that belong to it, such as `user`. */
  readonly attributes: Readonly<Record<string, string>>;
  readonly material: Material;
}

/** How a system is reached: its schema, and what `keyroll doctor` tries. */
export interface SystemType<S = unknown> {
  readonly type: string;
  /**
   * The sign-in that the settings themselves have, so that it can be sealed as the version from before Keyroll. `null`: they have none. With
   * {@link withSignIn}, Keyroll's own sign-in may be a credential of the estate; a type without the two cannot have `signIn`.
   */
  signInOf?(config: S): SignIn | null;
  /** The settings with another sign-in in place of their own. Copies what it keeps of the material. */
  withSignIn?(config: S, signIn: SignIn): S;
  readonly title: string;
  readonly config: z.ZodType<S>;
  /** As in the connectors: keys of the config whose values name files, resolved against the estate file's folder. */
  readonly paths?: readonly string[];
  /** Signs in and looks, changing nothing. Throws a {@link ConnectorError}. */
  check?(cx: CallContext, config: S): Promise<void>;
  /** Requests per second that the system is known to bear, and how many at once. */
  readonly limits: { readonly perSecond: number; readonly burst: number };
}
export function defineSystem<S>(system: SystemType<S>): SystemType {
  return system as unknown as SystemType;
}

/**
 * The closed family of failures. `refused`: their answer is no. `throttled`: later. `unavailable`: nothing was sent, or nothing was done.
 * `conflict`: somebody else changed it. `unknown-outcome`: it was sent and no answer came; never repeated before observing.
 * `misconfigured`: ours to mend, with the missing permission or setting named.
 */
export type FailureKind = "refused" | "throttled" | "unavailable" | "conflict" | "unknown-outcome" | "misconfigured";

export class ConnectorError extends Error {
  override readonly name = "ConnectorError";
  readonly kind: FailureKind;
  /** What the reader should do next, as a sentence. */
  readonly next: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly permission: string | undefined;
  constructor(
    kind: FailureKind,
    message: string,
    more: { next?: string; retryAfterMs?: number; permission?: string; cause?: unknown } = {},
  ) {
    // The cause is deliberately dropped: drivers' errors carry connection strings and statements.
    super(message);
    this.kind = kind;
    this.next = more.next;
    this.retryAfterMs = more.retryAfterMs;
    this.permission = more.permission;
  }
}
