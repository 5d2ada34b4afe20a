/** Why a rotation stands still and until when, in words, and how it is laid down and woken. */
import { effectOf } from "../core/assemble.ts";
import type { Assembled } from "../core/assemble.ts";
import type { Blocked, Wait } from "../core/model.ts";
import type { Tx } from "../store/store.ts";
import { backoffMs } from "./clock.ts";
import { probePauseMs } from "./probes.ts";
import { Overtaken } from "./turn.ts";
import type { Turn, TurnResult } from "./turn.ts";

/** Lays the rotation down until something that goes on by itself should have happened. */
export async function waitForWorld(
  turn: Turn,
  assembled: Assembled,
  waits: readonly Wait[],
  nowMs: number,
): Promise<TurnResult> {
  const standing = waits.map((wait) => standingFor(turn, assembled, wait, nowMs));
  const reasons = [...new Set(standing.map(({ reason }) => reason))];
  if (turn.errors.size > 0) return await unseen(turn, nowMs, reasons);
  return await park(turn, reasons.join("; "), Math.min(...standing.map(({ wakeMs }) => wakeMs)), nowMs);
}

interface Standing {
  readonly reason: string;
  readonly wakeMs: number;
}

function standingFor(turn: Turn, assembled: Assembled, wait: Wait, nowMs: number): Standing {
  const { topology } = assembled;
  const atVerifier = wait.verifier !== null && (wait.kind === "propagate" || wait.holder === null);
  const name = atVerifier
    ? topology.verifiers[wait.verifier!]!.name
    : wait.holder === null
      ? ""
      : topology.holders[wait.holder]!.name;
  const notes = turn.notesOf(name);
  const unseen = turn.errors.get(name);
  const version = wait.version === null ? undefined : topology.versions[wait.version]?.name;
  const left = wait.kind === "reencrypt" ? recordsLeft(turn, assembled, wait) : null;
  const text = waitText(wait.kind, name, version ?? "the old version") + (left === null ? "" : `: ${left}`);
  const changedMs = notes.changedMs ?? nowMs;
  const dueMs = changedMs + lengthOf(turn, assembled, wait, name);
  // What should have happened by now is looked for again, less and less often. How long a job takes is a guess, and its progress is shown.
  const pollMs = Math.min(300_000, Math.max(1000, (nowMs - changedMs) / 8));
  const looked = dueMs <= nowMs || wait.kind === "reencrypt" ? nowMs + pollMs : dueMs;
  const probes = Object.values(notes.probes).filter(({ outcome }) => outcome !== "accepted");
  const probed = probes.map(({ atMs, tries }) => Math.max(nowMs + 250, atMs + probePauseMs(tries)));
  return {
    reason: unseen === undefined ? text : `${name} could not be seen: ${unseen}`,
    wakeMs: Math.min(looked, ...probed),
  };
}

function lengthOf(turn: Turn, assembled: Assembled, wait: Wait, name: string): number {
  const traits = turn.placeOf(name)?.traits;
  if (wait.kind === "propagate") return traits?.propagationMs ?? 0;
  if (wait.kind === "refresh") return traits?.refreshMs ?? 0;
  return wait.edge === null ? 0 : (assembled.topology.edges[wait.edge]?.drainMs ?? 0);
}

/** How many records were still under other versions than the one that the job writes. `null`: nobody counts them. */
function recordsLeft(turn: Turn, assembled: Assembled, wait: Wait): string | null {
  const edge = wait.edge === null ? undefined : assembled.topology.edges[wait.edge];
  if (edge === undefined) return null;
  const { topology, situation, versionIds } = assembled;
  const at = topology.edges.filter((other) => other.holder === edge.holder).indexOf(edge);
  const job = situation.holders[edge.holder]?.job[at];
  const seen = [topology.verifiers[edge.verifier]!.name, topology.holders[edge.holder]!.name].map(
    (name) => turn.seen[name],
  );
  const observation = seen.find((each) => each?.records !== undefined);
  if (observation?.records === undefined) return null;
  const versionOf = (mark: string): string =>
    observation?.entries.find((entry) => entry.mark === mark)?.version ?? mark;
  let left = 0;
  let all = 0;
  for (const [mark, count] of Object.entries(observation.records)) {
    all += count;
    if (job === null || job === undefined || versionOf(mark) !== versionIds[job]) left += count;
  }
  return `${left} of ${all} records left`;
}

export async function blocked(
  turn: Turn,
  assembled: Assembled,
  reasons: readonly Blocked[],
  nowMs: number,
): Promise<TurnResult> {
  if (turn.errors.size > 0) return await unseen(turn, nowMs, []);
  const texts = reasons.map((reason) => blockedText(assembled, reason));
  return await halt(
    turn,
    `Nothing can be done safely. ${[...new Set(texts)].join(" ")} ${assembled.notes.join(" ")} Change what stands in the way, or declare the gap in a new plan; or roll back.`
      .replaceAll(/ {2,}/g, " ")
      .trim(),
  );
}

/** Places that do not answer are looked at again, at growing intervals, and after a while a person is asked. */
export async function unseen(turn: Turn, nowMs: number, reasons: readonly string[]): Promise<TurnResult> {
  const texts = [
    ...new Set([...[...turn.errors].map(([place, error]) => `${place} could not be seen: ${error}`), ...reasons]),
  ];
  // Being asked to come back later is no failure.
  const silent = [...turn.errors.keys()].some((place) => !turn.askedUntilMs.has(place));
  const attempts = turn.row.attempts + (silent ? 1 : 0);
  if (attempts > turn.deps.options.maxAttempts) {
    return await halt(turn, `${texts.join(" ")} It was tried ${attempts} times. Mend it, then resume.`);
  }
  const pauseMs = 1000 + backoffMs(attempts, turn.deps.random, 1000, 300_000);
  await park(turn, texts.join("; "), Math.max(nowMs + pauseMs, ...turn.askedUntilMs.values()), nowMs, attempts);
  return "parked";
}

/** Lays the rotation down until `wakeMs`, unless somebody has called meanwhile. */
export async function park(
  turn: Turn,
  waitingFor: string,
  wakeMs: number,
  nowMs: number,
  attempts = 0,
): Promise<TurnResult> {
  const at = Math.max(wakeMs, nowMs);
  return await turn.write(async (tx, staged) => {
    const row = await tx.rotations.get(turn.row.id);
    if (row === undefined || row.endedAtMs !== null || row.status !== "running" || row.nextWakeAtMs !== null)
      throw new Overtaken();
    staged.update({ status: "waiting", waitingFor, nextWakeAtMs: at, attempts });
    await tx.enqueue(row.id, at);
    return "parked" as const;
  });
}

export async function wake(turn: Turn, atMs: number): Promise<void> {
  await turn.write(async (tx) => {
    await tx.rotations.update(turn.row.id, { nextWakeAtMs: atMs });
    await tx.enqueue(turn.row.id, atMs);
  });
}

/** Asks a person. Nothing is done until somebody resumes, rolls back or cancels. */
export async function halt(turn: Turn, reason: string): Promise<TurnResult> {
  await turn.write(async (tx, staged) => {
    const row = await tx.rotations.get(turn.row.id);
    if (row === undefined || row.status !== "running") throw new Overtaken();
    staged.update({ status: "halted", reason, waitingFor: null, nextWakeAtMs: null });
    staged.journal("rotation", { status: "halted", text: reason });
    if (turn.about.parent !== null) await wakeRotation(tx, turn.about.parent, await tx.now());
  });
  return "parked";
}

function waitText(kind: Wait["kind"], place: string, version: string): string {
  switch (kind) {
    case "propagate":
      return `${place} to enforce the change everywhere`;
    case "refresh":
      return `the users of ${place} to read the new version`;
    case "re-register":
      return `the users of ${place} to sign in anew`;
    case "drain":
      return `the last use of ${version} from ${place} to be over`;
    case "reencrypt":
      return `the data of ${place} to be re-encrypted`;
  }
}

function blockedText(assembled: Assembled, reason: Blocked): string {
  const { text } = effectOf(assembled, reason.action);
  const edges = reason.edges.map((index) => {
    const edge = assembled.topology.edges[index]!;
    return `${assembled.topology.holders[edge.holder]!.name} at ${assembled.topology.verifiers[edge.verifier]!.name}`;
  });
  switch (reason.cause) {
    case "would-refuse":
      return `${text} would lock out ${edges.join(" and ")}.`;
    case "capacity":
      return `${text} does not fit: the place is full.`;
    case "two-to-two":
      return `${text} would change a set of two to another set of two, which the place refuses.`;
    case "serial":
      return `${text} must wait for the last change there.`;
    case "not-restorable":
      return `${text} would need something that cannot be put back.`;
    case "would-readmit":
      return `${text} would let a compromised version in again.`;
    case "no-material":
      return `${text} needs the secret part, which Keyroll does not have.`;
  }
}

/** Wakes a rotation from within a transaction: the empty wake time tells a running turn, the queue wakes a resting one. */
export async function wakeRotation(tx: Tx, rotation: string, nowMs: number): Promise<void> {
  const row = await tx.rotations.lock(rotation);
  if (row === undefined || row.endedAtMs !== null) return;
  await tx.rotations.update(rotation, { nextWakeAtMs: nowMs });
  await tx.enqueue(rotation);
}
