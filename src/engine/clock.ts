/** Time and chance as parameters: the simulation runs the same engine on a clock that jumps from event to event. */
import { setTimeout as wait } from "node:timers/promises";

export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after `ms`, or rejects with the signal's reason as soon as it is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  async sleep(ms, signal) {
    try {
      await wait(ms, undefined, signal === undefined ? {} : { signal });
    } catch (error) {
      // Node wraps the reason in its own AbortError; callers want to see why they were stopped.
      throw signal?.aborted === true ? signal.reason : error;
    }
  },
};

/** Uniform in [0, 1). */
export type Random = () => number;

/** A small seeded generator (mulberry32, public domain, Tommy Ettinger), so that a run can be replayed from its seed. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/**
 * Exponential back-off with full jitter: uniform between 0 and `min(cap, base * 2^attempt)`.
 * Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015): full jitter needs the fewest calls under contention.
 */
export function backoffMs(attempt: number, random: Random, baseMs = 500, capMs = 60_000): number {
  return Math.floor(random() * Math.min(capMs, baseMs * 2 ** Math.min(attempt, 30)));
}
