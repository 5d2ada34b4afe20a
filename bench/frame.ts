/**
 * The frame of all benchmarks: contenders take turns (A B A B …) so that a busy moment hits all of them, medians are compared and not means, and
 * every number is kept. A benchmark is a file here that exports `name` and `run(frame)`.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { arch, availableParallelism, cpus, release, totalmem } from "node:os";
import { join } from "node:path";

/** What one repeat measured, by metric: `wallMs`, `cpuMs`, `maxRssMiB`, `perSecond`, … The unit stands last in the name. */
export type Sample = Readonly<Record<string, number>>;

export interface Contender {
  readonly name: string;
  readonly run: () => Promise<Sample> | Sample;
}

export interface Comparison {
  readonly title: string;
  readonly contenders: readonly Contender[];
  /** The metric that is compared. */
  readonly metric: string;
  /** Smaller is better, unless said otherwise. */
  readonly better?: "smaller" | "larger";
  /** Name of the contender that the others are measured against; default: the last one. */
  readonly baseline?: string;
  /** How many times better than the baseline the first contender should be. Only shown, never asserted. */
  readonly goal?: number;
  /** At least 5, which is the default. */
  readonly repeats?: number;
  /** What a reader must know to judge the numbers. */
  readonly notes?: readonly string[];
}

export interface Row {
  readonly contender: string;
  readonly medians: Sample;
  readonly samples: readonly Sample[];
  /** How many times better than the baseline; `null` for the baseline itself. */
  readonly ratio: number | null;
}

export interface Outcome {
  readonly title: string;
  readonly metric?: string;
  readonly goal?: number;
  readonly rows: readonly Row[];
  readonly notes: readonly string[];
  /** Why it was not run. */
  readonly skipped?: string;
}

export interface Frame {
  /** Runs the contenders in turn and prints a table. One round to warm up comes first and is not counted. */
  compare(comparison: Comparison): Promise<Outcome>;
  /** Records that something could not be measured, such as a tool that is not installed. */
  skip(title: string, why: string): void;
  /** Runs a program to its end. CPU time is that of the program and of everything that it started and waited for. */
  program(
    argv: readonly string[],
    options?: { readonly cwd?: string; readonly env?: Readonly<Record<string, string>> },
  ): Promise<ProgramSample>;
  /** Whether a program is on the path. */
  has(program: string): Promise<boolean>;
  /** Prints a line. */
  say(text: string): void;
}

export interface ProgramSample {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Benchmark {
  readonly name: string;
  run(frame: Frame): Promise<void>;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Runs one benchmark, prints its tables, and writes all numbers to `<folder>/<name>.json`. */
export async function runBenchmark(benchmark: Benchmark, folder: string, nowMs: number): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = [];
  const frame: Frame = {
    async compare(comparison) {
      const outcome = await compare(comparison);
      outcomes.push(outcome);
      print(outcome);
      return outcome;
    },
    skip(title, why) {
      outcomes.push({ title, rows: [], notes: [], skipped: why });
      console.log(`\n${title}\n  skipped: ${why}`);
    },
    program,
    has: async (name) => (await program(["sh", "-c", `command -v "$1"`, "sh", name])).status === 0,
    say: (text) => console.log(text),
  };
  await benchmark.run(frame);
  mkdirSync(folder, { recursive: true });
  const record = { benchmark: benchmark.name, at: new Date(nowMs).toISOString(), machine: machine(), outcomes };
  writeFileSync(join(folder, `${benchmark.name}.json`), `${JSON.stringify(record, null, 2)}\n`);
  return outcomes;
}

function machine(): Record<string, string | number> {
  return {
    node: process.version,
    cpu: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memoryMiB: Math.round(totalmem() / 1048576),
    system: `${process.platform} ${release()} ${arch()}`,
  };
}

async function compare(comparison: Comparison): Promise<Outcome> {
  const { contenders, metric, repeats = 5 } = comparison;
  if (repeats < 5)
    throw new Error(
      `"${comparison.title}" has ${repeats} repeats; at least 5 are needed for a median that means anything.`,
    );
  const samples = new Map(contenders.map((one) => [one.name, [] as Sample[]]));
  for (let round = -1; round < repeats; round++) {
    for (const contender of contenders) {
      const sample = await contender.run();
      if (round >= 0) samples.get(contender.name)!.push(sample);
    }
  }
  const medians = new Map([...samples].map(([name, list]) => [name, mediansOf(list)]));
  const baseline = comparison.baseline ?? contenders.at(-1)!.name;
  const base = medians.get(baseline)?.[metric];
  if (base === undefined) throw new Error(`"${comparison.title}": the baseline "${baseline}" measured no ${metric}.`);
  const rows = contenders.map(({ name }): Row => {
    const own = medians.get(name)!;
    const value = own[metric];
    const ratio =
      name === baseline || value === undefined ? null : comparison.better === "larger" ? value / base : base / value;
    return { contender: name, medians: own, samples: samples.get(name)!, ratio };
  });
  return {
    title: comparison.title,
    metric,
    ...(comparison.goal === undefined ? {} : { goal: comparison.goal }),
    rows,
    notes: comparison.notes ?? [],
  };
}

function mediansOf(samples: readonly Sample[]): Sample {
  const metrics = new Set(samples.flatMap((sample) => Object.keys(sample)));
  return Object.fromEntries(
    [...metrics].map((name) => [name, median(samples.flatMap((sample) => sample[name] ?? []))]),
  );
}

function print({ title, rows, metric, goal, notes }: Outcome): void {
  const metrics = [...new Set(rows.flatMap((row) => Object.keys(row.medians)))];
  const table = [
    ["", ...metrics.map((name) => (name === metric ? `${name}*` : name)), "times better"],
    ...rows.map((row) => [
      row.contender,
      ...metrics.map((name) => number(row.medians[name])),
      row.ratio === null ? "baseline" : number(row.ratio),
    ]),
  ];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((line) => line[column]!.length)));
  console.log(`\n${title}`);
  for (const line of table)
    console.log(
      `  ${line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ")}`,
    );
  const first = rows[0]?.ratio;
  if (goal !== undefined && typeof first === "number")
    console.log(`  goal: ${goal} times better; ${first >= goal ? "met" : "NOT met"}`);
  for (const note of notes) console.log(`  ${note}`);
}
function number(value: number | undefined): string {
  if (value === undefined) return "-";
  return value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(2) : value.toPrecision(3);
}

/** bash's `time` is the one measure of a whole process tree that every machine has; /usr/bin/time rounds to 10 ms. */
const timed = 'TIMEFORMAT="%3R %3U %3S"; { time "$@" 2>&4 ; } 2>&3; ';

async function program(argv: readonly string[], options: Parameters<Frame["program"]>[1] = {}): Promise<ProgramSample> {
  const child = spawn("bash", ["-c", `exec 4>&2; ${timed}`, "bash", ...argv], {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: "C", ...options.env },
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  const texts = ["", "", ""];
  for (const [i, stream] of [child.stdout, child.stderr, child.stdio[3]].entries()) {
    stream!.on("data", (chunk: Buffer) => {
      texts[i] += chunk.toString("utf8");
    });
  }
  const [status] = (await once(child, "close")) as [number | null];
  const times = /([\d.]+) ([\d.]+) ([\d.]+)\s*$/.exec(texts[2]!);
  if (times === null) throw new Error(`bash did not report the times of ${argv[0]}.`);
  const [, real = "0", user = "0", system = "0"] = times;
  return {
    wallMs: Number(real) * 1000,
    cpuMs: (Number(user) + Number(system)) * 1000,
    status: status ?? -1,
    stdout: texts[0]!,
    stderr: texts[1]!,
  };
}
