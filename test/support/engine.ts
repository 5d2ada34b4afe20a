/**
 * An engine over a world in memory and a real database, on a clock that the test moves. A crash is thrown instead of a signal, so that one
 * process can play all the workers. While it runs, the truth is checked at every call and at every move of the world.
 */
import type { Log } from "../../src/connectors/connector.ts";
import type { CredentialDecl, Estate, PlaceDecl, Policy, SystemDecl } from "../../src/core/place.ts";
import type { Clock } from "../../src/engine/clock.ts";
import { seededRandom } from "../../src/engine/clock.ts";
import type { ConnectorRegistry } from "../../src/engine/connect.ts";
import { defaultEngineOptions } from "../../src/engine/deps.ts";
import type { EngineDeps, EngineOptions } from "../../src/engine/deps.ts";
import { openJournal } from "../../src/engine/journal.ts";
import { createLimits } from "../../src/engine/limits.ts";
import { createRotations } from "../../src/engine/rotations.ts";
import type { Rotations } from "../../src/engine/rotations.ts";
import type { StartRequest } from "../../src/engine/start.ts";
import { openSealer } from "../../src/engine/seal.ts";
import { workOn } from "../../src/engine/worker.ts";
import type { RotationRow } from "../../src/store/store.ts";
import { credential } from "./declare.ts";
import { MemoryWorld } from "./memory-places.ts";
import type { Refusal } from "./memory-places.ts";
import { withStore } from "./store.ts";
import type { TestStore } from "./store.ts";

/** Stands for the end of the process: nothing of the engine may catch it. */
export class SimulatedCrash extends Error {}

/** Short sleeps pass at once and move the clock; longer ones wait until the test moves it. */
export class VirtualClock implements Clock {
  #nowMs: number;
  readonly #longSleepMs: number;
  readonly #sleepers = new Set<{ readonly atMs: number; readonly wake: () => void }>();
  constructor(nowMs: number, longSleepMs = 5000) {
    this.#nowMs = nowMs;
    this.#longSleepMs = longSleepMs;
  }
  now(): number {
    return this.#nowMs;
  }
  moveTo(atMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, atMs);
    for (const sleeper of this.#sleepers) {
      if (sleeper.atMs > this.#nowMs) continue;
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
  }
  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (ms < this.#longSleepMs) {
      await new Promise((resolve) => setImmediate(resolve));
      this.moveTo(this.#nowMs + ms);
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const sleeper = { atMs: this.#nowMs + ms, wake: resolve };
      this.#sleepers.add(sleeper);
      signal?.addEventListener(
        "abort",
        () => {
          this.#sleepers.delete(sleeper);
          reject(signal.reason as Error);
        },
        { once: true },
      );
    });
  }
}

export interface Bench extends AsyncDisposable {
  readonly db: TestStore;
  readonly deps: EngineDeps;
  readonly world: MemoryWorld;
  readonly clock: VirtualClock;
  readonly rotations: Rotations;
  /** Of the credential that {@link simple} declares. */
  readonly name: string;
  /** Everything that was logged, as text. */
  readonly logged: string[];
  /** Every refusal that was seen at any moment. */
  readonly refused: Refusal[];
  /** Name of the crash point to die at, and at which pass. */
  crashAt: { name: string; pass: number } | null;
  /** Every crash point that was passed, in order. */
  readonly passed: string[];
  apply(...credentials: CredentialDecl[]): Promise<void>;
  /** Previews, and starts what was previewed. */
  start(name: string, more?: Partial<StartRequest>): Promise<RotationRow>;
  /** Works on it, moving the clock from wake to wake, until it is over, needs a person, or dies at the crash point. */
  run(rotation: string, options?: { turns?: number; worker?: string }): Promise<RotationRow>;
  /** Lets the lease of a dead worker run out. */
  expireLease(rotation: string): Promise<void>;
}

export interface BenchOptions {
  readonly seed?: number;
  readonly options?: Partial<EngineOptions>;
  readonly startMs?: number;
  /** Systems that places are in. */
  readonly systems?: readonly SystemDecl[];
  /** The connectors, where those of the world are not all. */
  registry?(world: MemoryWorld): ConnectorRegistry;
  /** Shared by the benches of a file, because a database takes longer to make than most rotations take to run. Not closed with the bench. */
  readonly db?: TestStore;
}

let benches = 0;

export async function openBench(settings: BenchOptions = {}): Promise<Bench> {
  const db = settings.db ?? (await withStore());
  const name = `app${++benches}`;
  const clock = new VirtualClock(settings.startMs ?? Date.UTC(2027, 0, 15, 12));
  const random = seededRandom(settings.seed ?? 1);
  const world = new MemoryWorld({ now: () => clock.now(), random });
  const sealer = await openSealer(db.store);
  const logged: string[] = [];
  const line: Log["info"] = (message, fields) => void logged.push(`${message} ${JSON.stringify(fields ?? {})}`);
  let estate: Estate = { systems: [], credentials: [], digest: "empty" };
  const refused: Refusal[] = [];
  const passed: string[] = [];
  const check = (): void => void refused.push(...world.refusals());
  world.onCall = check;
  const deps: EngineDeps = {
    store: db.store,
    journal: openJournal(db.store, sealer),
    sealer,
    registry: settings.registry?.(world) ?? world.registry,
    estate: () => estate,
    clock,
    random,
    limits: createLimits(clock),
    log: { debug: line, info: line, warn: line },
    // The lease's heartbeat must be a long sleep, which waits for the test: a short one would turn the clock on for ever.
    options: { ...defaultEngineOptions, leaseMs: 15_000, ...settings.options },
    nowMs: async () => clock.now(),
    crashPoint(name) {
      check();
      passed.push(name);
      if (bench.crashAt?.name !== name) return;
      bench.crashAt.pass--;
      if (bench.crashAt.pass > 0) return;
      bench.crashAt = null;
      throw new SimulatedCrash(name);
    },
  };
  const rotations = createRotations(deps);
  const bench: Bench = {
    db,
    deps,
    world,
    clock,
    rotations,
    name,
    logged,
    refused,
    passed,
    crashAt: null,
    async apply(...credentials) {
      estate = {
        systems: settings.systems ?? [],
        credentials,
        digest: `${credentials.map((each) => each.name).join(" ")} ${Math.random()}`,
      };
      await db.store.estate.apply({
        digest: estate.digest,
        text: "version: 1",
        appliedBy: "test",
        credentials: credentials.map((declaration) => ({
          name: declaration.name,
          owner: declaration.owner,
          kind: declaration.kind,
          labels: declaration.labels,
          declaration,
        })),
      });
    },
    async start(name, more = {}) {
      const request = { credential: name, mode: "planned", strategy: "availability-first", ...more } as const;
      const { plan } = await rotations.preview(request);
      return await rotations.start({ startedBy: "starter", planDigest: plan.digest, ...request });
    },
    async run(rotation, { turns = 200, worker = "w1" } = {}) {
      for (let turn = 0; turn < turns; turn++) {
        await workOn(deps, worker, rotation);
        check();
        const row = (await db.store.rotations.get(rotation))!;
        if (row.endedAtMs !== null || row.status === "paused" || row.status === "halted") return row;
        if (row.nextWakeAtMs === null) continue;
        // A wait of a day is a wait for a person.
        if (row.nextWakeAtMs - clock.now() >= deps.options.idleWakeMs) return row;
        for (;;) {
          const move = world.nextMoveMs();
          if (move === null || move >= row.nextWakeAtMs) break;
          clock.moveTo(move);
          check();
        }
        clock.moveTo(row.nextWakeAtMs);
        check();
      }
      throw new Error(`rotation ${rotation} is not at rest after ${turns} turns`);
    },
    async expireLease(rotation) {
      await db.sql("update keyroll.rotations set lease_until = now() - interval '1 second' where id = $1", [rotation]);
    },
    async [Symbol.asyncDispose]() {
      if (settings.db === undefined) await db[Symbol.asyncDispose]();
    },
  };
  return bench;
}

/** One password: a verifier that takes several, and a holder that uses one. */
export function simple(
  bench: Bench,
  more: { places?: readonly PlaceDecl[]; policy?: Partial<Policy>; credential?: Partial<CredentialDecl> } = {},
): CredentialDecl {
  const places = more.places ?? [
    bench.world.verifier("db", { values: ["old-password"] }),
    bench.world.holder("env", ["db"], { values: ["old-password"] }),
  ];
  const plain = credential(bench.name, places, { issuer: bench.world.issuer(), ...more.credential });
  return { ...plain, policy: { ...plain.policy, ...more.policy } };
}
