/** What is written down before an effect and after it, so that whoever comes next knows what may have happened. */
import { randomUUID } from "node:crypto";
import { ConnectorError } from "../connectors/connector.ts";
import type { Effect } from "../core/assemble.ts";
import type { Json, Tx } from "../store/store.ts";
import { backoffMs } from "./clock.ts";
import { sentence } from "./observe.ts";
import { Overtaken } from "./turn.ts";
import type { Staged, Turn } from "./turn.ts";

/** A write that waited longer than this between its permission and its sending asks for permission again. */
const staleGrantMs = 1000;

export const noFailures = { failures: 0, retryAtMs: null, lastFailure: null } as const;

/** Writes the intent while the fence holds and the rotation is still wanted. What follows is the effect, and nothing else. */
export async function intend(
  turn: Turn,
  effect: Effect,
  more: Readonly<Record<string, Json>>,
  work?: (tx: Tx, staged: Staged) => Promise<void>,
): Promise<string> {
  const id = randomUUID();
  turn.deps.crashPoint(`before-intent:${effect.verb}`);
  await turn.held.ensure();
  await turn.write(async (tx, staged) => {
    const row = await tx.rotations.get(turn.row.id);
    if (row === undefined || row.status !== "running" || row.direction !== turn.row.direction) throw new Overtaken();
    staged.journal(
      "intent",
      {
        verb: effect.verb,
        action: effect.action.kind,
        place: effect.place,
        version: effect.version,
        phase: effect.phase,
        fence: turn.held.lease.fence,
        text: effect.text,
        ...more,
      },
      id,
    );
    await work?.(tx, staged);
  });
  const grantedAtMs = turn.deps.clock.now();
  turn.deps.crashPoint(`after-intent:${effect.verb}`);
  // A process that was frozen here may wake when another one has long taken over.
  if (turn.deps.clock.now() - grantedAtMs > staleGrantMs)
    await turn.deps.store.fenced(turn.held.lease, async () => undefined);
  return id;
}

/** Writes the outcome, and the state that follows from it, in one transaction. Returns why the rotation must stop, if it must. */
export async function outcome(
  turn: Turn,
  effect: Effect,
  id: string,
  error: ConnectorError | null,
  nowMs: number,
  done: (tx: Tx, staged: Staged) => Promise<void>,
): Promise<string | null> {
  turn.lastEffectStep = ++turn.step;
  const result = error === null ? "done" : error.kind === "unknown-outcome" ? "unknown" : "failed";
  const place = turn.placeOf(effect.place);
  let stop: string | null = null;
  await turn.write(async (tx, staged) => {
    staged.journal(
      "outcome",
      {
        verb: effect.verb,
        place: effect.place,
        version: effect.version,
        result,
        ...(error === null ? {} : { failure: error.kind, detail: sentence(error) }),
      },
      id,
    );
    staged.about({ lastEffectMs: nowMs });
    if (error === null) await done(tx, staged);
    else {
      const before = turn.notesOf(effect.place);
      const failures = before.failures + 1;
      const notes =
        result === "unknown" && place !== undefined
          ? turn.afterUnknown(place, effect.version, nowMs, effect.verb)
          : before;
      const pauseMs = Math.max(
        error.retryAfterMs ?? 0,
        error.kind === "conflict" ? 0 : backoffMs(failures, turn.deps.random),
      );
      staged.remember(effect.place, {
        ...notes,
        failures,
        lastFailure: sentence(error),
        retryAtMs: nowMs + pauseMs,
      });
      stop = whyStop(effect, error, failures, turn.deps.options.maxAttempts);
    }
  });
  turn.deps.crashPoint(`after-outcome:${effect.verb}`);
  return stop;
}

/** The first holder that uses a version makes it the current one; the other is on its way out. */
export async function switched(turn: Turn, tx: Tx, staged: Staged, version: string, nowMs: number): Promise<void> {
  staged.about({ lastSwitchMs: nowMs });
  for (const row of await tx.versions.list(turn.credential.name)) {
    if (row.id === version && row.state !== "current" && row.state !== "compromised")
      await tx.versions.update(row.id, { state: "current" });
    else if (row.id !== version && row.state === "current") await tx.versions.update(row.id, { state: "retiring" });
  }
}

export async function maybeLost(tx: Tx, staged: Staged, version: string): Promise<void> {
  const row = await tx.versions.get(version);
  if (row?.material !== "volatile") return;
  await tx.versions.update(version, { material: "lost" });
  staged.note({
    version,
    text: `${version} was asked for and its secret part was not sealed in time, so it is of no use. It will be taken away, and another one made.`,
  });
}

export function asFailure(error: unknown): ConnectorError {
  if (error instanceof ConnectorError) return error;
  throw error;
}

/** When to give up: at once for what repeating cannot mend, after a bounded number of attempts for the rest. */
function whyStop(effect: Effect, error: ConnectorError, failures: number, maxAttempts: number): string | null {
  const told = `${effect.text}: ${sentence(error)}`;
  if (error.kind === "refused" || error.kind === "misconfigured") return `${told} Mend it, then resume; or roll back.`;
  // Being asked to slow down is no failure of the other side: it gets five times the patience.
  const limit = error.kind === "throttled" ? maxAttempts * 5 : maxAttempts;
  return failures >= limit ? `${told} It was tried ${failures} times. Mend it, then resume; or roll back.` : null;
}
