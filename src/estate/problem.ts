/** What can be wrong with an estate, and where: the only thing that loading one throws. */
import { closest, distance } from "fastest-levenshtein";

/** Where something stands in a file. Lines and columns count from 1. */
export interface Position {
  /** As a person would write it, from the folder they are in. */
  readonly file: string;
  readonly line: number;
  readonly col: number;
}

export interface EstateProblem extends Position {
  /** `credentials.app.places.env.presentsTo[0]`; empty for the file as a whole. */
  readonly path: string;
  /** What is wrong, and after a semicolon what would be right. No secret that came from the environment or a file is ever in it. */
  readonly text: string;
}

/** All that is wrong, in the order of the files. */
export class EstateError extends Error {
  override readonly name = "EstateError";
  readonly problems: readonly EstateProblem[];
  constructor(problems: readonly EstateProblem[]) {
    super(problems.map(formatProblem).join("\n"));
    this.problems = problems;
  }
}

/** `keyroll.yaml:12:7  credentials.app.owner  is missing; write who looks after it`. */
export function formatProblem(problem: EstateProblem): string {
  const where = problem.line === 0 ? problem.file : `${problem.file}:${problem.line}:${problem.col}`;
  return [where, problem.path, problem.text].filter((part) => part !== "").join("  ");
}

/** More than this would hide the first ones; a mistake in a shared file may repeat a thousand times. */
const maxProblems = 100;

/** Gathers problems, each once, and throws them together. */
export class Problems {
  readonly #found = new Map<string, EstateProblem>();
  readonly #fileOrder: string[] = [];

  add(position: Position, path: string, text: string): void {
    if (!this.#fileOrder.includes(position.file)) this.#fileOrder.push(position.file);
    const { file, line, col } = position;
    const problem = { file, line, col, path, text };
    this.#found.set(formatProblem(problem), problem);
  }

  get count(): number {
    return this.#found.size;
  }

  throwIfAny(): void {
    if (this.#found.size > 0) throw new EstateError(this.sorted());
  }

  sorted(): readonly EstateProblem[] {
    const all = [...this.#found.values()].sort(
      (a, b) => this.#fileOrder.indexOf(a.file) - this.#fileOrder.indexOf(b.file) || a.line - b.line || a.col - b.col,
    );
    const last = all[maxProblems];
    if (last === undefined) return all;
    return [
      ...all.slice(0, maxProblems),
      { ...last, path: "", text: `and ${all.length - maxProblems} more problems; mend these first` },
    ];
  }
}

/** The one that was probably meant, if any is near enough. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  if (known.length === 0 || word.length > 200) return undefined;
  const lower = new Map(known.map((each) => [each.toLowerCase(), each]));
  const found = closest(word.toLowerCase(), [...lower.keys()]);
  const allowed = Math.max(1, Math.floor(Math.max(word.length, found.length) / 3));
  const away = distance(word.toLowerCase(), found);
  if (away <= allowed && away < word.length) return lower.get(found);
  // Two letters that changed places are two edits, which is too many for a short word.
  const letters = (text: string) => [...text].sort().join("");
  return [...lower].find(([each]) => letters(each) === letters(word.toLowerCase()))?.[1];
}

/** `; did you mean "x"?`, or the choices where there are few, or nothing. */
export function suggestion(word: string, known: readonly string[], kind: string): string {
  const near = nearest(word, known);
  if (near !== undefined) return `; did you mean "${near}"?`;
  if (known.length === 0) return `; there is no ${kind} yet`;
  const shown = known.slice(0, 12).map((each) => `"${each}"`);
  return `; there is ${shown.join(", ")}${known.length > shown.length ? ` and ${known.length - shown.length} more` : ""}`;
}

/** What a person wrote, short enough for a message. */
export function quoted(text: string): string {
  const clean = text.replace(/[\p{Cc}\u2028\u2029]/gu, "?");
  return `"${clean.length > 80 ? `${clean.slice(0, 77)}...` : clean}"`;
}

/** `a.b[0].c`, with keys that are no plain words in quotes. */
export function joinPath(path: readonly PropertyKey[]): string {
  let text = "";
  for (const part of path) {
    if (typeof part === "number") text += `[${part}]`;
    else {
      const key = String(part);
      const shown = /^[\w-]+$/.test(key) ? key : quoted(key);
      text += text === "" ? shown : `.${shown}`;
    }
  }
  return text;
}
