/** What may go wrong in the lab, and how often. Every decision is drawn from the seed. */
import type { Random } from "./random.ts";

export interface Faults {
  /** New credentials are refused for 4 to 18 s, each replica with its own delay, and removed ones linger for as long. */
  readonly propagation: boolean;
  /** Reads of Graph and ARM may be this old at most, in milliseconds of the lab's time; 0: never. */
  readonly readLagMs: number;
  /** Hold callers to the limits that are published. */
  readonly limits: boolean;
  /** Probabilities for each request. */
  readonly throttled: number;
  readonly unavailable: number;
  readonly droppedBefore: number;
  readonly droppedAfter: number;
  /** Of a directory write that follows another one on the same object within {@link conflictWindowMs}. */
  readonly conflicts: number;
}

/** Of the lab's time. */
export const conflictWindowMs = 10_000;
/** Of the lab's time: measured between creation of a client secret and its first success. */
export const propagationMs = { from: 4_000, to: 18_000 } as const;
/** Sign-ins behind one address are answered by machines that hear of changes at different times. */
export const replicas = 3;

const none: Faults = {
  propagation: false,
  readLagMs: 0,
  limits: false,
  throttled: 0,
  unavailable: 0,
  droppedBefore: 0,
  droppedAfter: 0,
  conflicts: 0,
};
export const faultProfiles = {
  none,
  usual: { ...none, propagation: true, limits: true },
  heavy: {
    propagation: true,
    readLagMs: 5_000,
    limits: true,
    throttled: 0.03,
    unavailable: 0.03,
    droppedBefore: 0.02,
    droppedAfter: 0.02,
    conflicts: 0.5,
  },
} as const satisfies Record<string, Faults>;
export type FaultProfile = keyof typeof faultProfiles;

export function faultsOf(wish: FaultProfile | Partial<Faults> | undefined): Faults {
  if (wish === undefined) return faultProfiles.usual;
  return typeof wish === "string" ? faultProfiles[wish] : { ...none, ...wish };
}

export type Mishap = "throttled" | "unavailable" | "dropped-before" | "dropped-after";

/** At most one mishap for a request. */
export function mishapOf(faults: Faults, random: Random): Mishap | null {
  const draw = random.next();
  let edge = 0;
  for (const [name, probability] of [
    ["throttled", faults.throttled],
    ["unavailable", faults.unavailable],
    ["dropped-before", faults.droppedBefore],
    ["dropped-after", faults.droppedAfter],
  ] as const) {
    edge += probability;
    if (draw < edge) return name;
  }
  return null;
}

/** A window of fixed length, as the published limits are worded ("20 in 10 seconds"). */
export interface WindowLimit {
  readonly calls: number;
  readonly windowMs: number;
}
/** A bucket that refills, as Azure Resource Manager's limits are worded ("250, and 25 more a second"). */
export interface BucketLimit {
  readonly bucket: number;
  readonly perSecond: number;
}
export type Limit = WindowLimit | BucketLimit;

/** Counts calls per key. Times are those of the process; `speed` makes the lab's windows that much shorter. */
export class Limiter {
  readonly #speed: number;
  readonly #windows = new Map<string, { startMs: number; calls: number }>();
  readonly #buckets = new Map<string, { atMs: number; left: number }>();
  constructor(speed: number) {
    this.#speed = speed;
  }

  /** Milliseconds until the next call is let in; 0: this one was, and counts. */
  take(key: string, limit: Limit, nowMs: number): number {
    if ("bucket" in limit) {
      const perMs = (limit.perSecond * this.#speed) / 1000;
      const bucket = this.#buckets.get(key) ?? { atMs: nowMs, left: limit.bucket };
      bucket.left = Math.min(limit.bucket, bucket.left + (nowMs - bucket.atMs) * perMs);
      bucket.atMs = nowMs;
      this.#buckets.set(key, bucket);
      if (bucket.left < 1) return Math.ceil((1 - bucket.left) / perMs);
      bucket.left--;
      return 0;
    }
    const windowMs = limit.windowMs / this.#speed;
    const window = this.#windows.get(key);
    if (window === undefined || nowMs - window.startMs >= windowMs) {
      this.#windows.set(key, { startMs: nowMs, calls: 1 });
      return 0;
    }
    if (window.calls >= limit.calls) return Math.ceil(window.startMs + windowMs - nowMs);
    window.calls++;
    return 0;
  }

  left(key: string): number {
    return Math.floor(this.#buckets.get(key)?.left ?? 0);
  }
}
