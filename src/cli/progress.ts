/** What moves on a terminal: one line that is drawn over, and the steps of a run. Into a file: one line per change, and a sign of life. */
import stringWidth from "string-width";
import type { RunStep, RunView } from "../app.ts";
import { formatDuration } from "../core/time.ts";
import type { Session } from "./session.ts";
import { clean, padEnd } from "./text.ts";
import { clock } from "./when.ts";

export interface BusyLine {
  show(text: string): void;
  clear(): void;
}
const clearLine = "\r\u001b[2K";

/** A line on standard error that the next one draws over; nothing at all where nobody looks. */
export function busyLine(session: Session): BusyLine {
  if (!session.redraws) return { show: () => undefined, clear: () => undefined };
  let shown = false;
  let lastMs = 0;
  return {
    show(text) {
      const nowMs = performance.now();
      if (shown && nowMs - lastMs < 60) return;
      lastMs = nowMs;
      shown = true;
      const width = (session.io.stderr.columns ?? 80) - 1;
      session.io.stderr.write(`${clearLine}${session.err.dim(cut(clean(text), width))}`);
    },
    clear() {
      if (shown) session.io.stderr.write(clearLine);
      shown = false;
    },
  };
}

/** `[#####.....]`, only where the end is known. */
export function bar(done: number, total: number, width = 24): string {
  const full = total === 0 ? 0 : Math.round((Math.min(done, total) / total) * width);
  return `[${"#".repeat(full)}${".".repeat(width - full)}]`;
}

export interface RunDisplay {
  update(view: RunView): void;
  /** Leaves the last picture standing. */
  finish(): void;
}

const heartbeatMs = 60_000;

export function runDisplay(session: Session): RunDisplay {
  return session.redraws ? drawing(session) : lines(session);
}

function waitText(view: RunView): string {
  return view.rotation.waitingFor ?? view.rotation.reason ?? view.rotation.status;
}

/** For logs: one line per change. */
function lines(session: Session): RunDisplay {
  const told = new Map<number, string>();
  let lastWait = "";
  let lastMs = session.io.now();
  const say = (view: RunView, n: number, state: string, text: string, took = ""): void => {
    lastMs = session.io.now();
    const place = `${n}/${view.steps.length}`;
    session.say(
      `${clock(session.io.now())}  ${padEnd(place, 6)} ${padEnd(state, 8)} ${clean(text)}${took === "" ? "" : `  ${took}`}`,
    );
  };
  return {
    update(view) {
      for (const step of view.steps) {
        if (step.state !== "done" || told.get(step.n) === "done") continue;
        told.set(step.n, "done");
        say(view, step.n, "done", step.text, step.tookMs === null ? "" : formatDuration(step.tookMs));
      }
      const { status } = view.rotation;
      const wait = status === "running" || view.rotation.endedAtMs !== null ? "" : `${status} ${waitText(view)}`;
      if (wait !== lastWait) {
        lastWait = wait;
        if (wait !== "") say(view, view.at, status, waitText(view));
      } else if (session.io.now() - lastMs >= heartbeatMs) {
        say(view, view.at, status, wait === "" ? (view.steps[view.at - 1]?.text ?? "") : waitText(view), "still");
      }
    },
    finish: () => undefined,
  };
}

/** In one line, and said so where something was left out. */
export function cut(text: string, width: number): string {
  if (stringWidth(text) <= width) return text;
  let end = Math.min(text.length, width - 1);
  while (end > 0 && stringWidth(text.slice(0, end)) > width - 1) end--;
  return `${text.slice(0, end).trimEnd()}…`;
}

const spin = ["|", "/", "-", "\\"];

/** For a terminal: the steps in place, with the one that is being done in the middle where there are too many. */
function drawing(session: Session): RunDisplay {
  const { err } = session;
  let height = 0;
  let turn = 0;
  const startedMs = session.io.now();
  const mark = (step: RunStep): string => {
    switch (step.state) {
      case "done":
        return err.green("ok");
      case "doing":
        return err.cyan(` ${spin[turn % spin.length]!}`);
      case "waiting":
        return err.yellow(" @");
      case "left":
        return err.dim(" x");
      case "todo":
        return err.dim(" .");
    }
  };
  const picture = (view: RunView): string[] => {
    const columns = Math.max(40, session.io.stderr.columns ?? 80);
    const fits = Math.max(5, (session.io.stderr.rows ?? 24) - 5);
    const from =
      view.steps.length <= fits ? 0 : Math.min(view.steps.length - fits, Math.max(0, view.at - Math.ceil(fits / 2)));
    const shown = view.steps.slice(from, from + fits);
    const rows = shown.map((step) => {
      const took = step.tookMs === null ? "" : formatDuration(step.tookMs);
      const text = cut(clean(step.text), columns - 22);
      const body = `${String(step.n).padStart(3)}  ${padEnd(text, Math.min(60, columns - 22))}  ${took}`;
      return `${mark(step)} ${step.state === "todo" ? err.dim(body) : body}`.trimEnd();
    });
    const { status } = view.rotation;
    const about =
      status === "running" ? `step ${view.at} of ${view.steps.length}` : `${status}: ${clean(waitText(view))}`;
    const elapsed = formatDuration(Math.max(1000, Math.floor((session.io.now() - startedMs) / 1000) * 1000));
    return [
      ...(from > 0 ? [err.dim(`      ${from} before`)] : []),
      ...rows,
      ...(from + shown.length < view.steps.length
        ? [err.dim(`      ${view.steps.length - from - shown.length} more`)]
        : []),
      ...(view.rotation.endedAtMs === null ? [cut(`   ${about}, ${elapsed}`, columns - 1)] : []),
    ];
  };
  return {
    update(view) {
      turn++;
      const rows = picture(view);
      const up = height === 0 ? "" : `\u001b[${height}A\r\u001b[0J`;
      session.io.stderr.write(`${up}${rows.join("\n")}\n`);
      height = rows.length;
    },
    finish() {
      height = 0;
    },
  };
}
