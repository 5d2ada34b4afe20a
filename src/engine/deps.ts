/** What the engine is given by the composition root, and the numbers it works by. */
import type { Log } from "../connectors/connector.ts";
import type { Estate } from "../core/place.ts";
import type { Store } from "../store/store.ts";
import type { Clock, Random } from "./clock.ts";
import type { ConnectorRegistry } from "./connect.ts";
import type { Journal } from "./journal.ts";
import type { Limits } from "./limits.ts";
import type { Sealer } from "./seal.ts";

export interface EngineOptions {
  /** One connector call. A place whose changes take longer (`changeMs`) gets four times that. */
  readonly callTimeoutMs: number;
  readonly readAttempts: number;
  /** Places looked at at once. */
  readonly observeAtOnce: number;
  /** How long a request that was sent may still arrive. Whole-set writes without conditions are not repeated before. */
  readonly requestLifeMs: number;
  /** Failures in a row before a person is asked. */
  readonly maxAttempts: number;
  /** A worker that is silent for this long is taken for dead. */
  readonly leaseMs: number;
  /** Effects in one go before other rotations get their turn. */
  readonly effectsPerTurn: number;
  /** How long to wait when only a person can go on and nobody wakes us. */
  readonly idleWakeMs: number;
  /** How often a probe is tried that cannot tell. */
  readonly probeAttempts: number;
}

export const defaultEngineOptions: EngineOptions = {
  callTimeoutMs: 60_000,
  readAttempts: 3,
  observeAtOnce: 8,
  requestLifeMs: 60_000,
  maxAttempts: 8,
  leaseMs: 10_000,
  effectsPerTurn: 64,
  idleWakeMs: 86_400_000,
  probeAttempts: 4,
};

export interface EngineDeps {
  readonly store: Store;
  readonly journal: Journal;
  readonly sealer: Sealer;
  readonly registry: ConnectorRegistry;
  /** The estate in force, with its settings resolved. */
  estate(): Estate;
  readonly clock: Clock;
  readonly random: Random;
  readonly limits: Limits;
  readonly log: Log;
  readonly options: EngineOptions;
  /** The time that waits are judged by: the database's clock, so that workers on several hosts agree. */
  nowMs(): Promise<number>;
  /** Named points at which a test may end the process, or throw in its place. */
  crashPoint(name: string): void;
}

/** Runs `work` over `items`, at most `atOnce` at a time, and keeps the order of the results. */
export async function inParallel<T, R>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  results.length = items.length;
  let next = 0;
  async function lane(): Promise<void> {
    while (next < items.length) {
      const index = next++;
      results[index] = await work(items[index]!);
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, lane));
  return results;
}
