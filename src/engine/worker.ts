/**
 * Workers: as many as wanted, on as many hosts as wanted. The queue only wakes; a lease with a growing fence says who may write, so that a
 * worker that was frozen and thaws finds itself fenced off, and one that died is replaced when its lease has run out.
 */
import { setMaxListeners } from "node:events";
import { hostname } from "node:os";
import { randomBytes } from "node:crypto";
import { FencedOff, StoreError } from "../store/store.ts";
import type { Lease } from "../store/store.ts";
import type { EngineDeps } from "./deps.ts";
import { reconcile } from "./reconcile.ts";
import type { HeldLease, TurnResult } from "./turn.ts";

export interface EngineWorker {
  readonly id: string;
  /** Takes nothing new, lets effects that were sent come to their end, gives its leases back. */
  stop(): Promise<void>;
}

export interface WorkerOptions {
  readonly id?: string;
  /** Rotations at once. */
  readonly concurrency?: number;
  readonly sweepMs?: number;
}

interface Held extends HeldLease {
  stop(): void;
}

/** Renews the lease in the background for as long as the turn runs. */
function hold(deps: EngineDeps, first: Lease): Held {
  let lease = first;
  let renewedMs = deps.clock.now();
  let lost: FencedOff | null = null;
  const over = new AbortController();
  const beatMs = deps.options.leaseMs / 3;
  async function renew(): Promise<void> {
    if (lost !== null) throw lost;
    // Counted from before the question, so that it never runs out later here than there.
    const askedMs = deps.clock.now();
    try {
      lease = await deps.store.renewLease(lease, deps.options.leaseMs);
      renewedMs = askedMs;
    } catch (error) {
      if (error instanceof FencedOff) lost = error;
      throw error;
    }
  }
  async function beat(): Promise<void> {
    while (!over.signal.aborted && lost === null) {
      try {
        await deps.clock.sleep(beatMs, over.signal);
        await renew();
      } catch {
        // Stopped, fenced off (the next write says so), or the database is away for a moment (the next beat tries again).
      }
    }
  }
  void beat();
  return {
    get lease() {
      return lease;
    },
    async ensure() {
      if (lost !== null) throw lost;
      if (deps.clock.now() - renewedMs >= beatMs) await renew();
    },
    fresh: () => lost === null && deps.clock.now() - renewedMs < deps.options.leaseMs,
    stop: () => over.abort(),
  };
}

/**
 * Takes the rotation if nobody has it, and works on it until it rests. `busy`: somebody else has it. `fenced`: somebody else took it over
 * meanwhile, and nothing was written here since.
 */
export async function workOn(
  deps: EngineDeps,
  owner: string,
  rotation: string,
  signal?: AbortSignal,
  /** What to do with the lease when a turn ends with an error. Default: it is left to run out, as when the process dies. */
  failed?: (lease: Lease, error: unknown) => Promise<void>,
): Promise<TurnResult | "busy" | "fenced"> {
  const lease = await deps.store.acquireLease(rotation, owner, deps.options.leaseMs);
  if (lease === null) return "busy";
  const held = hold(deps, lease);
  let result: TurnResult | "fenced" = "yield";
  try {
    do {
      result = await reconcile(deps, held, signal);
    } while (result === "again");
  } catch (error) {
    if (!(error instanceof FencedOff)) {
      await failed?.(held.lease, error);
      throw error;
    }
    result = "fenced";
  } finally {
    held.stop();
  }
  if (result === "fenced") return result;
  await deps.store.releaseLease(held.lease);
  // Whoever called while the lease was still held was turned away: look whether somebody did.
  const row = await deps.store.rotations.get(rotation);
  const called =
    row !== undefined &&
    row.endedAtMs === null &&
    row.nextWakeAtMs !== null &&
    row.nextWakeAtMs <= (await deps.nowMs());
  if (called && row.status !== "paused" && row.status !== "halted") await deps.store.enqueue(rotation);
  return result;
}

/** Starts working. Rotations left by dead workers are found by the store's sweep. */
export async function startWorker(deps: EngineDeps, options: WorkerOptions = {}): Promise<EngineWorker> {
  const id = options.id ?? `${hostname()}-${process.pid}-${randomBytes(3).toString("hex")}`;
  const stopping = new AbortController();
  // Every call of every rotation listens to it, which is not the leak that Node would warn of.
  setMaxListeners(0, stopping.signal);
  const worker = await deps.store.work(
    async (rotation) => {
      if (stopping.signal.aborted) return;
      await workOn(deps, id, rotation, stopping.signal, (lease, error) => giveUpInTime(deps, id, lease, error));
    },
    {
      ...(options.concurrency === undefined ? {} : { concurrency: options.concurrency }),
      ...(options.sweepMs === undefined ? {} : { sweepMs: options.sweepMs }),
      onError: (rotation, error) =>
        deps.log.warn("A turn failed; it will be tried again.", { rotation, error: nameOf(error) }),
    },
  );
  return {
    id,
    async stop() {
      stopping.abort(new Error("the worker stops"));
      await worker.stop();
    },
  };
}

/**
 * Errors that no connector explains: the database (it will come back, so only wait) or a mistake in Keyroll (bounded, then a person is asked).
 */
async function giveUpInTime(deps: EngineDeps, owner: string, lease: Lease, error: unknown): Promise<void> {
  if (error instanceof StoreError) return;
  await deps.store.fenced(lease, async (tx) => {
    const row = await tx.rotations.get(lease.rotation);
    if (row === undefined) return;
    const attempts = row.attempts + 1;
    if (attempts > deps.options.maxAttempts) {
      const reason = `Keyroll failed ${attempts} times in a row in a way that is its own mistake (${nameOf(error)}). Please report it; resume to try again.`;
      await tx.rotations.update(row.id, { status: "halted", reason, waitingFor: null, nextWakeAtMs: null });
      await deps.journal.append(tx, [
        {
          actor: `worker:${owner}`,
          rotation: row.id,
          credential: row.credential,
          kind: "rotation",
          payload: { status: "halted", text: reason },
        },
      ]);
      return;
    }
    const at = (await deps.nowMs()) + 500 * 2 ** attempts;
    await tx.rotations.update(row.id, { attempts, nextWakeAtMs: at });
    await tx.enqueue(row.id, at);
  });
  await deps.store.releaseLease(lease);
}

/** Class and place of an error, never its text: texts of drivers carry statements and values. */
function nameOf(error: unknown): string {
  if (error instanceof StoreError) return `${error.code}: ${error.message}`;
  if (!(error instanceof Error)) return "an error";
  const frame = /\/((?:src|dist)\/[\w/.-]+:\d+)/.exec(error.stack ?? "")?.[1];
  return `${error.constructor.name}${frame === undefined ? "" : ` at ${frame}`}`;
}
