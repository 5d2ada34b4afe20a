/**
 * What one system is asked to bear: a token bucket for its requests, and a circuit breaker that stops asking a system that does not answer.
 * Both are per worker process and hold nothing that a restart must remember.
 */
import { ConnectorError } from "../connectors/connector.ts";
import type { FailureKind } from "../connectors/connector.ts";
import type { Clock } from "./clock.ts";

export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** Systems without a declared limit, and places without a system, are asked gently all the same. */
export const defaultRate: Rate = { perSecond: 50, burst: 50 };

interface Bucket {
  /** Waits for one token, in the order in which callers came. Throws `throttled` where the wait would be long. */
  take(signal: AbortSignal): Promise<void>;
  /** No request before this time: what `Retry-After` asked for. */
  pauseUntil(timeMs: number): void;
}

/** Longer waits are not sat out within a call. */
const longestWaitMs = 4000;

export function tokenBucket(system: string, rate: Rate, clock: Clock): Bucket {
  const everyMs = 1000 / rate.perSecond;
  // The bucket is kept as the time at which it would be full (the generic cell rate algorithm): one number, no timer.
  let seenMs = clock.now();
  let fullAtMs = seenMs;
  let notBeforeMs = 0;
  return {
    async take(signal) {
      signal.throwIfAborted();
      const now = clock.now();
      if (now < seenMs) {
        // The clock was set back: without this everybody would wait for the difference.
        fullAtMs -= seenMs - now;
        notBeforeMs -= seenMs - now;
      }
      seenMs = now;
      fullAtMs = Math.max(fullAtMs, now) + everyMs;
      const readyMs = Math.max(fullAtMs - rate.burst * everyMs, notBeforeMs);
      if (readyMs - now > longestWaitMs) {
        // A call must not use up its time limit by waiting: the rotation is laid down until then instead.
        fullAtMs -= everyMs;
        throw new ConnectorError("throttled", `${system} asked to be left alone for a while.`, {
          retryAfterMs: readyMs - now,
        });
      }
      if (readyMs > now) await clock.sleep(readyMs - now, signal);
    },
    pauseUntil(timeMs) {
      notBeforeMs = Math.max(notBeforeMs, timeMs);
    },
  };
}

export interface BreakerOptions {
  /** Consecutive failures that open it. */
  readonly failures: number;
  /** How long it stays open at first; doubles with every failed trial, up to `maxOpenMs`. */
  readonly openMs: number;
  readonly maxOpenMs: number;
}
const defaultBreaker: BreakerOptions = { failures: 5, openMs: 10_000, maxOpenMs: 300_000 };

interface Breaker {
  /** Throws `unavailable` with the time to come back while the breaker is open; lets one caller through as a trial afterwards. */
  enter(): void;
  /** Must follow every `enter` that did not throw. `null`: it went well. `because`: a public sentence. */
  leave(failure: FailureKind | null, because?: string): void;
  readonly openUntilMs: number | null;
}

export function circuitBreaker(system: string, clock: Clock, options: BreakerOptions = defaultBreaker): Breaker {
  let consecutive = 0;
  let openUntilMs: number | null = null;
  let openMs = options.openMs;
  let trial = false;
  let last = "";
  return {
    get openUntilMs() {
      return openUntilMs;
    },
    enter() {
      if (openUntilMs === null) return;
      const left = openUntilMs - clock.now();
      if (left > 0 || trial) {
        throw new ConnectorError(
          "unavailable",
          `${system} did not answer ${consecutive} times in a row, so it is left alone for a while.${last}`,
          {
            retryAfterMs: Math.max(left, 1000),
            next: `Check that ${system} is reachable from here.`,
          },
        );
      }
      trial = true;
    },
    leave(failure, because) {
      // Only silence counts: a refusal, a throttle or a conflict is an answer.
      const silent = failure === "unavailable" || failure === "unknown-outcome";
      if (!silent) {
        consecutive = 0;
        openUntilMs = null;
        openMs = options.openMs;
      } else {
        consecutive++;
        if (because !== undefined) last = ` The last time: ${because}`;
        if (trial) openMs = Math.min(openMs * 2, options.maxOpenMs);
        if (trial || consecutive >= options.failures) openUntilMs = clock.now() + openMs;
      }
      trial = false;
    },
  };
}

interface Limit {
  readonly bucket: Bucket;
  readonly breaker: Breaker;
}

/** One bucket and one breaker per system, made when first needed and shared by all rotations of this worker. */
export interface Limits {
  of(system: string, rate?: Rate): Limit;
}

export function createLimits(clock: Clock, breaker?: BreakerOptions): Limits {
  const limits = new Map<string, Limit>();
  return {
    of(system, rate = defaultRate) {
      let limit = limits.get(system);
      if (limit === undefined) {
        limit = { bucket: tokenBucket(system, rate, clock), breaker: circuitBreaker(system, clock, breaker) };
        limits.set(system, limit);
      }
      return limit;
    },
  };
}
