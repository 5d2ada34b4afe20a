/** What others do for a rotation: people, by tasks that the machine checks, and the rotations of other credentials. */
import type { Instructions } from "../connectors/connector.ts";
import type { Effect, VersionRecord } from "../core/assemble.ts";
import type { PlaceDecl } from "../core/place.ts";
import { Problem } from "../core/problem.ts";
import type { Json, TaskRow } from "../store/store.ts";
import type { Hindrance } from "./hindrance.ts";
import { startRotation } from "./start.ts";
import type { Turn } from "./turn.ts";

/** Another rotation wakes this one when it ends; this is for when that call is lost. */
const childLookMs = 60_000;

/**
 * Whether a person or another rotation must do this effect: opens the task or starts the rotation, and says what is waited for. A sentence
 * alone: why it cannot go on at all. `null`: the machine does it.
 */
export async function leftToOthers(
  turn: Turn,
  effect: Effect,
  place: PlaceDecl,
  nowMs: number,
): Promise<Hindrance | string | null> {
  if (effect.verb !== "add" && effect.verb !== "activate" && effect.verb !== "remove") return null;
  if (place.traits.human) {
    const task = await openTask(turn, effect, place);
    return task.state === "refused"
      ? `${task.person ?? "A person"} refused "${effect.text}"${task.note === null ? "" : `: ${task.note}`}. Settle it, then resume; or roll back.`
      : { reason: `a person: ${effect.text} (task ${task.id})`, untilMs: null };
  }
  if (place.credential === undefined) return null;
  try {
    return { reason: await childRotation(turn, effect, place, nowMs), untilMs: nowMs + childLookMs };
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return `${place.credential} cannot be rolled: ${error.message} ${error.next ?? ""}`.trim();
  }
}

async function openTask(turn: Turn, effect: Effect, place: PlaceDecl): Promise<TaskRow> {
  const version = turn.version(effect.version);
  const action = effect.verb as "add" | "activate" | "remove";
  const instructions = await instructionsFor(turn, place, action, version, effect.text);
  return await turn.write(async (tx, staged) => {
    const known = (await tx.tasks.list({ rotation: turn.row.id })).filter(
      (task) => task.place === place.name && task.action === action && task.version === effect.version,
    );
    const refused = known.find((task) => task.state === "refused" && task.checked === null);
    if (refused !== undefined) return refused;
    const task = await tx.tasks.open({
      rotation: turn.row.id,
      credential: turn.credential.name,
      place: place.name,
      action,
      version: effect.version,
      instructions: instructions as unknown as Json,
    });
    if (!known.some((other) => other.id === task.id)) {
      staged.journal("task", {
        task: task.id,
        state: "open",
        place: place.name,
        action,
        version: effect.version,
        text: instructions.title,
      });
    }
    return task;
  });
}

async function instructionsFor(
  turn: Turn,
  place: PlaceDecl,
  action: "add" | "activate" | "remove",
  version: VersionRecord | undefined,
  text: string,
): Promise<Instructions> {
  const plain: Instructions = { title: text, steps: [{ text }], minutes: Math.ceil(place.traits.changeMs / 60_000) };
  if (version === undefined) return plain;
  return await turn.open
    .place(place.name)
    .run({ label: `instructions ${place.name}`, effect: false }, async (connector, scope) => {
      return connector.instructions?.(action, scope.handle(version, place.name)) ?? plain;
    });
}

/**
 * A person said "done": what counts is whether `next` still wants the same thing after looking. If it does, the task is open again, with
 * what the machine saw; if it does not, the task is checked.
 */
export async function checkTasks(turn: Turn, offered: readonly Effect[]): Promise<void> {
  const done = await turn.deps.store.tasks.list({ rotation: turn.row.id, states: ["done"] });
  for (const task of done) {
    if (task.checked !== null) continue;
    // Said after this look: what was seen says nothing about it. The call that came with it makes this turn look again before it rests.
    if (task.updatedAtMs > (turn.seenAtMs.get(task.place) ?? 0)) continue;
    const still = offered.some(
      (effect) => effect.place === task.place && effect.verb === task.action && effect.version === task.version,
    );
    const unseen = turn.errors.get(task.place);
    const detail = unseen ?? (still ? "Keyroll looked, and does not see it." : "Keyroll looked, and sees it.");
    await turn.write(async (tx, staged) => {
      await tx.tasks.update(task.id, {
        checked: { seen: !still && unseen === undefined, detail },
        ...(still || unseen !== undefined ? { state: "open" as const } : {}),
      });
      staged.journal("task", { task: task.id, checked: !still && unseen === undefined, text: detail });
    });
  }
}

/** Starts the rotation of the credential that stands in this place, or says what the one that runs is at. */
async function childRotation(turn: Turn, effect: Effect, place: PlaceDecl, nowMs: number): Promise<string> {
  const child = place.credential!;
  const active = await turn.deps.store.rotations.active(child);
  if (active !== undefined) {
    const told =
      active.status === "halted" || active.status === "paused"
        ? ` (${active.status}: ${active.reason ?? "by a person"})`
        : "";
    return `the rotation ${active.id} of ${child}${told}`;
  }
  const started = await startRotation(turn.deps, {
    credential: child,
    mode: "planned",
    strategy: "availability-first",
    startedBy: turn.row.startedBy,
    planDigest: null,
    signer: effect.version,
    parent: turn.row.id,
  });
  await turn.write(async (_, staged) => {
    staged.remember(place.name, {
      ...turn.changed(place, effect.version, nowMs, effect.verb),
      child: started.id,
    });
    staged.note({
      place: place.name,
      text: `${child} is rolled to ${effect.version} by the rotation ${started.id}.`,
    });
  });
  return `the rotation ${started.id} of ${child}`;
}
