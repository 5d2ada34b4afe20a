/**
 * Named crash points. A test sets `KEYROLL_CRASH_AT=name` or `name:n` and the process is killed, as by a power cut, at the n-th pass
 * (default: the first). `KEYROLL_CRASH_TRACE=file` appends the name of every pass, so that a test can learn which points a run goes through.
 * Without these variables a pass costs one comparison.
 */
import { appendFileSync } from "node:fs";

interface Target {
  readonly name: string;
  readonly pass: number;
}

const target = parseTarget(process.env["KEYROLL_CRASH_AT"]);
const traceFile = process.env["KEYROLL_CRASH_TRACE"];
const armed = target !== null || (traceFile !== undefined && traceFile !== "");
let passes = 0;

/** `name` or `name:n`. Names may hold colons themselves: only a trailing number counts. */
function parseTarget(text: string | undefined): Target | null {
  if (text === undefined || text === "") return null;
  const match = /^(.*?):(\d+)$/.exec(text);
  return match === null ? { name: text, pass: 1 } : { name: match[1]!, pass: Number(match[2]) };
}

export function crashPoint(name: string): void {
  if (!armed) return;
  if (traceFile !== undefined && traceFile !== "") appendFileSync(traceFile, `${name}\n`);
  if (target === null || target.name !== name) return;
  passes++;
  // SIGKILL, because nothing may run after it: no handler, no flush, no `finally`.
  if (passes === target.pass) process.kill(process.pid, "SIGKILL");
}
