/** Follows a run until it ends, a person is needed, or nobody wants to look any more; and says with which exit code. */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunView } from "../app.ts";
import { formatDuration } from "../core/time.ts";
import type { Context } from "./command.ts";
import { runDocumentOf } from "./documents.ts";
import { runDisplay } from "./progress.ts";
import { clean, paragraph } from "./text.ts";

const lookEveryMs = 200;

export type Rest = "ended" | "person" | "aborted";

/** What only a person can move on: approvals, tasks, a pause, a halt. */
export function needsPerson(view: RunView): boolean {
  const { status, waitingFor, nextWakeAtMs, updatedAtMs } = view.rotation;
  if (status === "paused" || status === "halted") return true;
  if (status !== "waiting") return false;
  // Somebody has just acted and called for a worker, which has not come yet: what it waited for is old news.
  if (nextWakeAtMs !== null && nextWakeAtMs <= updatedAtMs + 1000) return false;
  return view.tasks.some((task) => task.state === "open") || /\bapprov/.test(waitingFor ?? "");
}

export async function follow(
  { session, app }: Context,
  id: string,
  options: { stopForPeople: boolean; stream?: boolean },
): Promise<{ rest: Rest; view: RunView }> {
  const display = runDisplay(session);
  let last = "";
  let view = await app.run(id);
  // A run that has just been woken is still written down as waiting; one that waits for a person stays so.
  let person = 0;
  try {
    for (;;) {
      view = await app.run(id);
      if (options.stream === true) {
        const text = JSON.stringify(runDocumentOf(view));
        if (text !== last) await session.line(runDocumentOf(view));
        last = text;
      } else display.update(view);
      if (view.rotation.endedAtMs !== null) return { rest: "ended", view };
      person = needsPerson(view) ? person + 1 : 0;
      if (options.stopForPeople && person > 3) return { rest: "person", view };
      if (session.signal.aborted) return { rest: "aborted", view };
      try {
        await sleep(lookEveryMs, undefined, { signal: session.signal });
      } catch {
        // Ctrl-C or the time limit: the run itself goes on, or rests where it is.
        return { rest: "aborted", view };
      }
    }
  } finally {
    display.finish();
  }
}

/** 0 done, 5 waits for a person, 6 rolled back, 1 cancelled. */
export function exitOf(view: RunView): number {
  switch (view.rotation.status) {
    case "done":
      return 0;
    case "rolled-back":
      return 6;
    case "cancelled":
      return 1;
    default:
      return 5;
  }
}

/** The end of a run, in what was seen. */
export function endText(view: RunView, width: number): string {
  const { rotation } = view;
  const took = formatDuration((rotation.endedAtMs ?? rotation.updatedAtMs) - rotation.createdAtMs);
  const lines: string[] = [];
  if (rotation.status === "done") {
    lines.push(`Done in ${took}: ${rotation.credential} is ${rotation.toVersion ?? view.plan.to} everywhere.`);
    const refused = probes(view, "refused", rotation.fromVersion);
    const accepted = probes(view, "accepted", rotation.toVersion);
    if (accepted.length > 0)
      lines.push(
        `Seen: ${accepted.join(", ")} ${accepted.length === 1 ? "accepts" : "accept"} ${rotation.toVersion ?? "the new version"}.`,
      );
    if (refused.length > 0)
      lines.push(
        `Seen: ${refused.join(", ")} ${refused.length === 1 ? "refuses" : "refuse"} ${rotation.fromVersion ?? "the old version"}.`,
      );
    else if (rotation.fromVersion !== null)
      lines.push(`${rotation.fromVersion} was observed to be gone; no place could be asked to refuse it.`);
  } else if (rotation.status === "rolled-back") {
    lines.push(
      `Rolled back in ${took}: ${rotation.credential} is ${rotation.fromVersion ?? "as it was"} everywhere, as before.`,
    );
  } else if (rotation.status === "cancelled") lines.push(`Cancelled: nothing was put anywhere.`);
  if (rotation.reason !== null && rotation.status !== "done") lines.push(clean(rotation.reason));
  return lines.map((line) => paragraph(line, width)).join("\n");
}

function probes(view: RunView, outcome: string, version: string | null): string[] {
  const last = new Map<string, string>();
  for (const event of view.events) {
    const payload = event.payload as { probe?: string; place?: string; version?: string } | null;
    if (payload?.probe !== undefined && payload.place !== undefined && payload.version === version)
      last.set(payload.place, payload.probe);
  }
  return [...last].flatMap(([place, said]) => (said === outcome ? [place] : []));
}

/** What a person must do now, and the command for it. */
export function personText(view: RunView, width: number): string {
  const { rotation } = view;
  const lines: string[] = [];
  if (rotation.status === "halted" || rotation.status === "paused") {
    lines.push(
      paragraph(
        `${rotation.status === "halted" ? "Stopped" : "Paused"} at step ${view.at} of ${view.steps.length}: ${clean(rotation.reason ?? "")}`,
        width,
      ),
    );
    lines.push(`Next: keyroll run resume ${rotation.id}, or keyroll run rollback ${rotation.id}`);
    return lines.join("\n");
  }
  lines.push(
    paragraph(`Waiting at step ${view.at} of ${view.steps.length}: ${clean(rotation.waitingFor ?? "a person")}`, width),
  );
  const open = view.tasks.filter((task) => task.state === "open");
  for (const task of open) lines.push(`Next: keyroll task show ${task.id}`);
  if (open.length === 0)
    lines.push(`Next: keyroll approve ${rotation.id} (by somebody else than ${rotation.startedBy})`);
  return lines.join("\n");
}

/**
 * Starts a worker that outlives this process and ends when there is nothing left to do, so that a run which nobody watches goes on. Returns
 * where it writes its log.
 */
export function startBackgroundWorker({ session, app }: Context, env: NodeJS.ProcessEnv): string {
  mkdirSync(app.dataDir, { recursive: true, mode: 0o700 });
  const log = join(app.dataDir, "worker.log");
  const out = openSync(log, "a", 0o600);
  try {
    const script = process.argv[1]!;
    const child = spawn(
      process.execPath,
      [...process.execArgv, script, "worker", "--until-idle", "--file", app.estatePath(), "--data", app.dataDir],
      {
        cwd: session.io.cwd,
        detached: true,
        stdio: ["ignore", out, out],
        env,
      },
    );
    child.unref();
  } finally {
    closeSync(out);
  }
  return log;
}
