/** One call of the command line: where it writes, what it was told globally, and how documents leave it. */
import { createInterface } from "node:readline/promises";
import { styleText } from "node:util";
import { Problem } from "../core/problem.ts";
import { parseDuration } from "../core/time.ts";
import { clean, csv, plain, table, type Column, type Paint, type TableOptions } from "./text.ts";

export interface Terminal {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}
/** The process, as far as a command may touch it: a test hands in its own. */
export interface Io {
  readonly stdout: Terminal;
  readonly stderr: Terminal;
  readonly stdin: NodeJS.ReadStream;
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  /** Ctrl-C ends everything, instead of leaving a worker behind that goes on with the run. */
  readonly endsWithCaller?: boolean;
  now(): number;
}

export const formats = ["table", "wide", "json", "csv", "md", "html"] as const;
export type Format = (typeof formats)[number];

/** As commander gives them, before anything is decided. */
export interface GlobalOptions {
  readonly json?: boolean;
  readonly jq?: string;
  readonly output?: string;
  readonly input?: boolean;
  readonly color?: string;
  readonly quiet?: boolean;
  readonly timeout?: string;
  readonly file?: string;
  readonly data?: string;
}

export interface Colors {
  readonly bold: Paint;
  readonly dim: Paint;
  readonly red: Paint;
  readonly green: Paint;
  readonly yellow: Paint;
  readonly cyan: Paint;
}
const none: Colors = { bold: plain, dim: plain, red: plain, green: plain, yellow: plain, cyan: plain };
const paint =
  (style: "bold" | "dim" | "red" | "green" | "yellow" | "cyan"): Paint =>
  (text) =>
    text.trim() === "" ? text : styleText(style, text, { validateStream: false });
const colored: Colors = {
  bold: paint("bold"),
  dim: paint("dim"),
  red: paint("red"),
  green: paint("green"),
  yellow: paint("yellow"),
  cyan: paint("cyan"),
};

const set = (value: string | undefined): boolean => value !== undefined && value !== "";

export class Session {
  readonly io: Io;
  readonly options: GlobalOptions;
  readonly format: Format;
  /** For commands that write one file: `-o` with something that is no format. */
  readonly outFile: string | null;
  /** Colours of standard output and of standard error, which may go to different places. */
  readonly out: Colors;
  readonly err: Colors;
  readonly quiet: boolean;
  /** Aborted by Ctrl-C, by the end of the time limit and by a closed pipe. */
  readonly signal: AbortSignal;
  readonly timeoutMs: number | null;

  constructor(io: Io, options: GlobalOptions, signal: AbortSignal) {
    this.io = io;
    this.options = options;
    this.signal = signal;
    const wanted = options.output;
    const isFormat = (formats as readonly string[]).includes(wanted ?? "");
    this.format = options.json === true || options.jq !== undefined ? "json" : isFormat ? (wanted as Format) : "table";
    this.outFile = wanted !== undefined && !isFormat ? wanted : null;
    this.quiet = options.quiet === true;
    this.out = this.#colors(io.stdout);
    this.err = this.#colors(io.stderr);
    this.timeoutMs = options.timeout === undefined ? null : durationOption("--timeout", options.timeout);
  }

  #colors(terminal: Terminal): Colors {
    const { env } = this.io;
    const choice = this.options.color ?? "auto";
    if (!["auto", "always", "never"].includes(choice)) {
      throw new Problem("usage", `--color ${choice} is not known.`, { next: "Write --color auto, always or never." });
    }
    if (choice === "never") return none;
    if (choice === "always") return colored;
    // NO_COLOR (no-color.org) goes before FORCE_COLOR, because it is the user's standing wish.
    if (set(env["NO_COLOR"])) return none;
    const forced = env["FORCE_COLOR"];
    if (set(forced)) return forced === "0" || forced === "false" ? none : colored;
    return terminal.isTTY === true && env["TERM"] !== "dumb" ? colored : none;
  }

  /** Columns of standard output; endless where nobody looks, so that lines are not cut for programs. */
  get width(): number {
    const declared = Number(this.io.env["COLUMNS"]);
    if (this.io.stdout.isTTY === true) return Math.max(40, this.io.stdout.columns ?? 80);
    return Number.isInteger(declared) && declared >= 40 ? declared : Number.POSITIVE_INFINITY;
  }
  /** For running text: lines that are longer are hard to read. */
  get textWidth(): number {
    return Math.min(this.width, 110);
  }

  /** Whether a person can be asked: a terminal on both sides, and nobody said no. */
  get interactive(): boolean {
    return (
      this.options.input !== false &&
      !set(this.io.env["KEYROLL_NO_INPUT"]) &&
      !set(this.io.env["CI"]) &&
      this.io.stdin.isTTY &&
      this.io.stderr.isTTY === true
    );
  }

  /** Whether lines may be drawn over: never into a file, and not where `KEYROLL_SPINNER` says so. */
  get redraws(): boolean {
    const spinner = this.io.env["KEYROLL_SPINNER"];
    return (
      this.io.stderr.isTTY === true &&
      !this.quiet &&
      !set(this.io.env["CI"]) &&
      this.io.env["TERM"] !== "dumb" &&
      spinner !== "text" &&
      spinner !== "off"
    );
  }

  /** Data: standard output. */
  print(text: string): void {
    this.io.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
  }
  /** Messages and progress: standard error; `--quiet` silences them. */
  say(text: string): void {
    if (!this.quiet) this.io.stderr.write(`${text}\n`);
  }

  /** One document: JSON for programs, else what `text` makes of it. */
  async document(value: unknown, text: () => string): Promise<void> {
    if (this.format === "json") await this.json(value);
    else this.print(text());
  }

  /** One line of a stream of documents (NDJSON). */
  async line(value: unknown): Promise<void> {
    if (this.options.jq === undefined) this.print(JSON.stringify(value));
    else await this.#query(value, ["-c"]);
  }

  async json(value: unknown): Promise<void> {
    if (this.options.jq === undefined) this.print(JSON.stringify(value, null, 2));
    else await this.#query(value, []);
  }

  async #query(value: unknown, flags: readonly string[]): Promise<void> {
    const { raw } = await import("jq-wasm");
    try {
      // Plain text comes out without quotes, as people mean it when they ask for one field.
      const found = await raw(JSON.stringify(value), this.options.jq!, ["-r", ...flags]);
      if (found !== "") this.print(found);
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      throw new Problem("usage", `--jq: ${text.replace(/^jq: /, "").trim()}`, {
        next: "See https://jqlang.org/manual/ for the language.",
      });
    }
  }

  /** A list: a table, CSV, or JSON with `items`. */
  async list<T>(
    value: { readonly items: readonly unknown[] },
    rows: readonly T[],
    columns: readonly Column<T>[],
    more: { readonly empty: string; readonly table?: Partial<TableOptions>; readonly after?: () => string } = {
      empty: "Nothing.",
    },
  ): Promise<void> {
    if (this.format === "json") return await this.json(value);
    if (this.format === "csv") return this.print(csv(rows, columns));
    if (rows.length === 0) return this.say(more.empty);
    const shown = columns.filter((column) => column.wide !== true || this.format === "wide");
    if (this.format === "md") return this.print(markdownTable(rows, shown));
    this.print(table(rows, shown, { width: this.width, head: this.out.dim, ...more.table }));
    const after = more.after?.();
    if (after) this.say(after);
  }

  next(text: string): void {
    this.say(`${this.err.bold("Next:")} ${text}`);
  }

  /** Asks, on standard error, so that data can be piped meanwhile. Ctrl-C and Ctrl-D are both a no. */
  async ask(question: string): Promise<string> {
    const reader = createInterface({ input: this.io.stdin, output: process.stderr });
    try {
      return await new Promise<string>((resolve, reject) => {
        const gone = (): void => {
          this.io.stderr.write("\n");
          reject(new Problem("failed", "Not answered; nothing was changed."));
        };
        // A terminal in line mode hands Ctrl-C to the reader and not to the process.
        reader.once("SIGINT", () => reader.close());
        reader.once("close", gone);
        reader.question(question, { signal: this.signal }).then((answer) => {
          reader.off("close", gone);
          resolve(answer.trim());
        }, reject);
      });
    } finally {
      reader.close();
    }
  }
}

export function markdownTable<T>(rows: readonly T[], columns: readonly Column<T>[]): string {
  const cell = (text: string): string =>
    clean(text).replaceAll("\\", "\\\\").replaceAll("|", "\\|").replaceAll("<", "&lt;").replaceAll("\n", " ");
  const value = (column: Column<T>, row: T): string => {
    const found = column.value(row);
    return cell(typeof found === "string" ? found : found.text);
  };
  return [
    `| ${columns.map((column) => cell(column.title)).join(" | ")} |`,
    `|${columns.map((column) => (column.align === "right" ? "--:" : "---")).join("|")}|`,
    ...rows.map((row) => `| ${columns.map((column) => value(column, row)).join(" | ")} |`),
  ].join("\n");
}

/** Reads `30m` and the like. */
export function durationOption(name: string, text: string): number {
  const parsed = parseDuration(text);
  if ("value" in parsed) return parsed.value;
  throw new Problem("usage", `${name}: ${parsed.problem}.`, { next: `${parsed.fix}, such as ${name} 30m.` });
}
export function countOption(name: string, text: string, most: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  throw new Problem("usage", `${name} ${text} is not a whole number from 1 to ${most.toLocaleString("en-US")}.`);
}
