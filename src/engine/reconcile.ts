/**
 * One turn of one rotation: look, ask `next`, do what it offers and the policy allows, write it down, look again. The engine adds no order of
 * its own. It holds nothing in memory between turns: a worker that dies at any point is replaced by one that starts from what is there.
 */
import { assemble, effectOf } from "../core/assemble.ts";
import { next } from "../core/next.ts";
import { choose } from "./choose.ts";
import { openCredential } from "./connect.ts";
import type { EngineDeps } from "./deps.ts";
import { closeOpenIntents, perform } from "./effects.ts";
import { finish } from "./finish.ts";
import { openSealed } from "./issue.ts";
import { probeWhatChanged } from "./probes.ts";
import { createSignIns } from "./sign-in.ts";
import { declarationDigest } from "./spec.ts";
import { Overtaken, Turn } from "./turn.ts";
import type { HeldLease, TurnResult } from "./turn.ts";
import { blocked, halt, park, waitForWorld, wake } from "./waits.ts";

/** Runs one turn. Throws {@link FencedOff} when another worker has taken over: nothing was written after that. */
export async function reconcile(deps: EngineDeps, held: HeldLease, signal?: AbortSignal): Promise<TurnResult> {
  const row = await deps.store.rotations.get(held.lease.rotation);
  if (row === undefined || row.endedAtMs !== null) return "ended";
  if (row.status === "paused" || row.status === "halted") return "parked";
  const estate = deps.estate();
  const credential = estate.credentials.find((each) => each.name === row.credential);
  if (credential === undefined) {
    await deps.store.fenced(held.lease, async (tx) => {
      await tx.rotations.update(row.id, {
        status: "halted",
        reason: `${row.credential} is no longer in the estate. Declare it again and resume, or cancel the rotation.`,
        waitingFor: null,
        nextWakeAtMs: null,
      });
    });
    return "parked";
  }
  const open = openCredential(
    credential,
    estate.systems,
    deps.registry,
    (version) => openSealed(deps, version, "material"),
    { ...deps, callTimeoutMs: deps.options.callTimeoutMs, readAttempts: deps.options.readAttempts },
    createSignIns({
      ...deps,
      open: (version) => openSealed(deps, version, "material"),
      fenced: (work) => deps.store.fenced(held.lease, work),
    }),
  );
  const turn = new Turn(deps, held, row, credential, open, signal);
  try {
    return await run(turn);
  } catch (error) {
    if (error instanceof Overtaken) return "again";
    if (signal?.aborted === true && error === signal.reason) {
      // Stopped while it was looking: nothing is under way, and the next worker looks anew.
      await wake(turn, await deps.nowMs());
      return "yield";
    }
    throw error;
  } finally {
    await open.close();
  }
}

async function run(turn: Turn): Promise<TurnResult> {
  await turn.begin();
  await closeOpenIntents(turn);
  const outdated = planIsVoid(turn);
  if (outdated !== null) return await halt(turn, outdated);
  await turn.lookAt(turn.credential.places);
  for (let effects = 0; ;) {
    if (turn.signal?.aborted === true || effects >= turn.deps.options.effectsPerTurn) {
      await wake(turn, await turn.deps.nowMs());
      return "yield";
    }
    const refused = await probeWhatChanged(turn);
    if (refused !== null) return await halt(turn, refused);
    const nowMs = await turn.deps.nowMs();
    // On the way forward a late request of ours does only what is still right. On the way back it would undo what was put right since.
    const lateUntilMs = Math.max(0, ...[...turn.notes.values()].map((notes) => notes.lateUntilMs ?? 0));
    if (turn.row.direction === "back" && lateUntilMs > nowMs)
      return await park(turn, "the end of the longest life of a request that had no answer", lateUntilMs, nowMs);
    const assembled = assemble(turn.input(nowMs));
    const decision = next(assembled.topology, assembled.situation, assembled.goal);
    if (decision.kind === "done") {
      const result = await finish(turn, nowMs);
      if (result === "look again") continue;
      return result;
    }
    if (decision.kind === "blocked") return await blocked(turn, assembled, decision.reasons, nowMs);
    if (decision.kind === "wait") return await waitForWorld(turn, assembled, decision.waits, nowMs);
    const offered = decision.actions.map((action) => effectOf(assembled, action));
    const chosen = await choose(turn, offered, nowMs);
    if (chosen === "look again") continue;
    if (typeof chosen === "string") return chosen;
    const stopped = await perform(turn, chosen);
    if (stopped !== null) return await halt(turn, stopped);
    effects++;
    await turn.lookAt(turn.touchedBy(chosen));
  }
}

/** Why the plan that was proved and approved says nothing about what would be done now. */
function planIsVoid(turn: Turn): string | null {
  const { declaration } = turn.about;
  if (declaration === null || declaration === declarationDigest(turn.credential)) return null;
  return `The declaration of ${turn.credential.name} has changed since this plan was made, so neither its proof nor its approvals hold any more. Resume to go on with a new plan; or roll back.`;
}
