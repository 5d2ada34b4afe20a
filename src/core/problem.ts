/** What went wrong, for a person: what, where, what to do next. The one error type that leaves a room; everything else is a bug. */

/** Decides the exit code and the HTTP status. `stale`: no verdict, because something could not be seen. */
export type ProblemKind = "failed" | "usage" | "refused" | "waiting" | "stale" | "not-allowed" | "not-found";

export class Problem extends Error {
  override readonly name = "Problem";
  readonly kind: ProblemKind;
  /** `file:line`, a path in the estate, a place. */
  readonly where: string | undefined;
  /** One sentence in the imperative. */
  readonly next: string | undefined;
  constructor(kind: ProblemKind, what: string, more: { where?: string; next?: string } = {}) {
    super(what);
    this.kind = kind;
    this.where = more.where;
    this.next = more.next;
  }
}

/** The exit codes of the command line (docs/cli.md). */
export const exitCodes: Record<ProblemKind, number> = {
  failed: 1,
  "not-found": 1,
  usage: 2,
  refused: 4,
  waiting: 5,
  stale: 7,
  "not-allowed": 8,
};

/** The problem in three lines: what, where, next. */
export function problemText(problem: Problem): string {
  return [
    `${problem.where ? `${problem.where}  ` : ""}${problem.message}`,
    ...(problem.next ? [`Next: ${problem.next}`] : []),
  ].join("\n");
}
