/** Doing one effect: intent, call, outcome; and what a worker finds of an effect in the middle of which another one died. */
import { ConnectorError } from "../connectors/connector.ts";
import type { Place, Placement, VersionHandle } from "../connectors/connector.ts";
import type { Effect, VersionRecord } from "../core/assemble.ts";
import type { PlaceDecl } from "../core/place.ts";
import { backoffMs } from "./clock.ts";
import type { CallScope } from "./connect.ts";
import { asFailure, intend, maybeLost, noFailures, outcome, switched } from "./intent.ts";
import { issue } from "./issue.ts";
import type { PlaceNotes } from "./memory.ts";
import type { Staged, Turn } from "./turn.ts";

/** One effect: intent, call, outcome. Returns why the rotation must stop, if it must. */
export async function perform(turn: Turn, effect: Effect): Promise<string | null> {
  switch (effect.verb) {
    case "issue":
      return await issue(turn, effect);
    case "seal":
      return await lose(turn, effect);
    case "forget":
      return await forget(turn, effect);
    case "stopReencrypt":
      return turn.can(effect.place, "stopReencrypt") ? await change(turn, effect) : await leaveRunning(turn, effect);
    default:
      return await change(turn, effect);
  }
}

/** Calls the connector, and writes down what follows from its answer. */
async function change(turn: Turn, effect: Effect): Promise<string | null> {
  const place = turn.placeOf(effect.place);
  const version = turn.version(effect.version);
  if (place === undefined || version === undefined) {
    return `${effect.text} was offered, and ${place === undefined ? effect.place : effect.version} is not known. This is a mistake in Keyroll: please report it.`;
  }
  const id = await intend(turn, effect, {});
  let placement: Placement | void = undefined;
  let error: ConnectorError | null = null;
  try {
    placement = await send(turn, effect, place, version);
  } catch (thrown) {
    error = asFailure(thrown);
  }
  turn.deps.crashPoint(`after-effect:${effect.verb}`);
  const nowMs = await turn.deps.nowMs();
  const times = timesInARow(turn, effect);
  const stop = await outcome(turn, effect, id, error, nowMs, async (tx, staged) => {
    staged.remember(place.name, afterDone(turn, effect, place, times, nowMs));
    if (effect.verb === "remove") await tx.versions.place(version.id, place.name, null);
    else if (placement !== undefined) await tx.versions.place(version.id, place.name, placement);
    if (effect.verb !== "activate") return;
    askVerifiersAnew(turn, staged, place, version.id);
    await switched(turn, tx, staged, version.id, nowMs);
  });
  await turn.reloadVersions();
  if (error === null && times > turn.deps.options.maxAttempts) {
    return `${effect.text}: ${place.name} said ${times} times that it is done, and does not show it. Look into it, then resume; or roll back.`;
  }
  return stop;
}

async function send(turn: Turn, effect: Effect, place: PlaceDecl, version: VersionRecord): Promise<Placement | void> {
  const spec = {
    label: `${effect.verb} ${turn.credential.name}/${place.name}`,
    effect: true,
    lastSeen: turn.seen[place.name] ?? null,
    changeMs: place.traits.changeMs,
    mayStillSend: () => turn.held.fresh(),
  };
  return await turn.open
    .place(place.name)
    .run(spec, (connector, scope) => call(effect, connector, scope, scope.handle(version, place.name)));
}

/** How often in a row the place was asked for this very effect, this time included. */
function timesInARow(turn: Turn, effect: Effect): number {
  const before = turn.notesOf(effect.place).repeated;
  return before?.effect === nameOf(effect) ? before.times + 1 : 1;
}
const nameOf = (effect: Effect): string => `${effect.verb} ${effect.version}`;

/** What is remembered of a place that said that it is done. */
function afterDone(turn: Turn, effect: Effect, place: PlaceDecl, times: number, nowMs: number): PlaceNotes {
  return {
    ...turn.changed(place, effect.version, nowMs, effect.verb),
    ...noFailures,
    uncertainUntilMs: null,
    repeated: { effect: nameOf(effect), times },
    // The place may show it late: it is given time before it is asked again.
    retryAtMs: times > 1 ? nowMs + backoffMs(times, turn.deps.random) : null,
    ...(effect.verb === "activate" ? { wrote: effect.version, maybe: [] } : {}),
  };
}

/** That its verifiers accepted a version before anybody used it is no proof that they do now. */
function askVerifiersAnew(turn: Turn, staged: Staged, place: PlaceDecl, version: string): void {
  for (const name of place.presentsTo) {
    const { probes, ...notes } = turn.notesOf(name);
    const { [version]: _, ...others } = probes;
    const accepted = notes.accepted.filter((each) => each !== version);
    staged.remember(name, { ...notes, probes: others, accepted });
  }
}

/** Sealing happens in one breath with issuing. Reaching this means that the value is in no memory any more. */
async function lose(turn: Turn, effect: Effect): Promise<null> {
  await turn.write((tx, staged) => maybeLost(tx, staged, effect.version));
  await turn.reloadVersions();
  return null;
}

/** A connector that cannot stop a job: it may go on writing until the next start names another target, and is counted with until then. */
async function leaveRunning(turn: Turn, effect: Effect): Promise<null> {
  const place = turn.placeOf(effect.place);
  const nowMs = await turn.deps.nowMs();
  await turn.write(async (_, staged) => {
    if (place !== undefined)
      staged.remember(place.name, turn.changed(place, effect.version, nowMs, effect.verb, false));
  });
  return null;
}

/** A version that was lost before it was sealed: nothing of it is left anywhere, so another one may be made under another number. */
async function forget(turn: Turn, effect: Effect): Promise<null> {
  await turn.write(async (tx, staged) => {
    await tx.versions.update(effect.version, { material: "none", state: "retired" });
    await tx.sealed.destroy(turn.credential.name, effect.version);
    if (turn.row.toVersion === effect.version) staged.update({ toVersion: null });
    staged.note({
      version: effect.version,
      text: `${effect.version} was lost before it was sealed and is gone everywhere.`,
    });
  });
  await turn.reloadVersions();
  return null;
}

/**
 * An intent without an outcome: the worker ended in between, and what it sent may have arrived, may still arrive, or was never sent. A value
 * that was shown once and not sealed is lost for good; everything else is looked at before anything is repeated.
 */
export async function closeOpenIntents(turn: Turn): Promise<void> {
  const intents = await turn.deps.store.journal.openIntents(turn.row.id);
  if (intents.length === 0) return;
  const nowMs = await turn.deps.nowMs();
  for (const intent of intents) {
    const payload = intent.payload as { verb?: string; place?: string; version?: string };
    await turn.write(async (tx, staged) => {
      staged.journal(
        "outcome",
        { ...payload, result: "unknown", detail: "The worker ended before the answer was written down." },
        intent.effect ?? undefined,
      );
      if (payload.verb === "issue" && payload.version !== undefined) await maybeLost(tx, staged, payload.version);
      const place = payload.place === undefined ? undefined : turn.placeOf(payload.place);
      if (place !== undefined)
        staged.remember(
          place.name,
          turn.afterUnknown(place, payload.version ?? null, nowMs, payload.verb ?? "activate"),
        );
      staged.about({ lastEffectMs: nowMs });
    });
  }
  await turn.reloadVersions();
}

async function call(
  effect: Effect,
  connector: Place,
  scope: CallScope,
  handle: VersionHandle,
): Promise<Placement | void> {
  const missing = (): never => {
    throw new ConnectorError("misconfigured", `The connector at ${effect.place} cannot ${effect.verb}.`, {
      next: "Declare the place without this role, or let a person do it.",
    });
  };
  switch (effect.verb) {
    case "add":
      return await (connector.add ?? missing).call(connector, scope.cx, handle);
    case "activate":
      return await (connector.activate ?? missing).call(connector, scope.cx, handle);
    case "remove":
      return await (connector.remove ?? missing).call(connector, scope.cx, handle);
    case "reencrypt":
      return await (connector.reencrypt ?? missing).call(connector, scope.cx, handle);
    case "stopReencrypt":
      return await (connector.stopReencrypt ?? missing).call(connector, scope.cx, handle);
    case "endSessions":
      return await (connector.endSessions ?? missing).call(connector, scope.cx, handle);
    default:
      return missing();
  }
}
