/** Doing one effect: intent, call, outcome; and what a worker finds of an effect in the middle of which another one died. */
import { ConnectorError } from "../connectors/connector.ts";
import type { Place, VersionHandle } from "../connectors/connector.ts";
import type { Effect } from "../core/assemble.ts";
import { backoffMs } from "./clock.ts";
import type { CallScope } from "./connect.ts";
import { asFailure, intend, maybeLost, noFailures, outcome, switched } from "./intent.ts";
import { issue } from "./issue.ts";
import type { Turn } from "./turn.ts";

/** One effect: intent, call, outcome. Returns why the rotation must stop, if it must. */
export async function perform(turn: Turn, effect: Effect): Promise<string | null> {
  if (effect.verb === "issue") return await issue(turn, effect);
  if (effect.verb === "seal") {
    // Sealing happens in one breath with issuing. Reaching this means that the value is in no memory any more.
    await turn.write((tx, staged) => maybeLost(tx, staged, effect.version));
    await turn.reloadVersions();
    return null;
  }
  if (effect.verb === "forget") {
    await forget(turn, effect);
    return null;
  }
  if (effect.verb === "stopReencrypt") {
    // No connector is asked to stop: the next start names another target, and what was moved meanwhile is moved again.
    // So it may go on writing until then.
    const { job, ...notes } = turn.notesOf(effect.place);
    const kept = job === undefined ? notes : { ...notes, maybeJobs: [...new Set([...(notes.maybeJobs ?? []), job])] };
    await turn.write(async (_, staged) => staged.remember(effect.place, kept));
    return null;
  }
  const place = turn.placeOf(effect.place);
  const version = turn.version(effect.version);
  if (place === undefined || version === undefined) {
    return `${effect.text} was offered, and ${place === undefined ? effect.place : effect.version} is not known. This is a mistake in Keyroll: please report it.`;
  }
  const id = await intend(turn, effect, {});
  let placement: { slot?: string; attributes?: Readonly<Record<string, string>> } | void = undefined;
  let error: ConnectorError | null = null;
  try {
    placement = await turn.open.place(place.name).run(
      {
        label: `${effect.verb} ${turn.credential.name}/${place.name}`,
        effect: true,
        lastSeen: turn.seen[place.name] ?? null,
        changeMs: place.traits.changeMs,
        mayStillSend: () => turn.held.fresh(),
      },
      async (connector, scope) => {
        const handle = scope.handle(version, place.name);
        return await call(effect, connector, scope, handle);
      },
    );
  } catch (thrown) {
    error = asFailure(thrown);
  }
  turn.deps.crashPoint(`after-effect:${effect.verb}`);
  const nowMs = await turn.deps.nowMs();
  const done = `${effect.verb} ${effect.version}`;
  const before = turn.notesOf(place.name).repeated;
  const times = before?.effect === done ? before.times + 1 : 1;
  const stop = await outcome(turn, effect, id, error, nowMs, async (tx, staged) => {
    const changed = { ...turn.changed(place, version.id, nowMs, effect.verb), ...noFailures, uncertainUntilMs: null };
    staged.remember(place.name, {
      ...changed,
      repeated: { effect: done, times },
      // The place may show it late: it is given time before it is asked again.
      retryAtMs: times > 1 ? nowMs + backoffMs(times, turn.deps.random) : null,
      ...(effect.verb === "activate" ? { wrote: version.id, maybe: [] } : {}),
    });
    if (effect.verb === "remove") await tx.versions.place(version.id, place.name, null);
    else if (placement !== undefined) await tx.versions.place(version.id, place.name, placement);
    if (effect.verb === "activate") {
      // Its verifiers are asked again: that they accepted it before anybody used it is no proof that they do now.
      for (const name of place.presentsTo) {
        const { probes, ...notes } = turn.notesOf(name);
        const { [version.id]: _, ...others } = probes;
        staged.remember(name, {
          ...notes,
          probes: others,
          accepted: notes.accepted.filter((each) => each !== version.id),
        });
      }
    }
    if (effect.verb === "activate") await switched(turn, tx, staged, version.id, nowMs);
  });
  await turn.reloadVersions();
  if (error === null && times > turn.deps.options.maxAttempts) {
    return `${effect.text}: ${place.name} said ${times} times that it is done, and does not show it. Look into it, then resume; or roll back.`;
  }
  return stop;
}

/** A version that was lost before it was sealed: nothing of it is left anywhere, so another one may be made under another number. */
export async function forget(turn: Turn, effect: Effect): Promise<void> {
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
): Promise<{ slot?: string; attributes?: Readonly<Record<string, string>> } | void> {
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
    case "endSessions":
      return await (connector.endSessions ?? missing).call(connector, scope.cx, handle);
    default:
      return missing();
  }
}
