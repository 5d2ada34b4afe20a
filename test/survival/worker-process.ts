/**
 * A worker in a process of its own, for tests that kill, freeze and mislead it. It is composed as `keyroll worker` is, and differs in two ways: leases
 * are short, and it begins and stops when it is told over IPC, so that a test pays for starting a process while another one is at work.
 *
 * Run as `node worker-process.ts <settings as JSON>`. Messages in: `go`, `stop`, `clock <ms>`; out: `ready`, `stopped`, and what the log says.
 */
import { App, type AppOptions } from "../../src/app.ts";
import type { Log } from "../../src/connectors/connector.ts";
import type { EngineDeps, EngineOptions } from "../../src/engine/deps.ts";
import { startWorker, type EngineWorker } from "../../src/engine/worker.ts";
import { tableRegistry } from "./table-places.ts";

export interface WorkerSettings {
  readonly estateFile: string;
  readonly dataDir: string;
  readonly databaseUrl: string | null;
  readonly engine?: Partial<EngineOptions>;
  readonly concurrency?: number;
  readonly sweepMs?: number;
  /** Name of the crash point at which the process stops itself with SIGSTOP, once. */
  readonly freezeAt?: string;
  /** Places are rows of this database instead of what ships with Keyroll. */
  readonly tables?: string;
}

export type FromWorker =
  | { readonly kind: "ready" }
  | { readonly kind: "stopped" }
  | { readonly kind: "frozen" }
  | { readonly kind: "log"; readonly text: string }
  | { readonly kind: "failed"; readonly text: string };

const say = (message: FromWorker): void => void process.send?.(message);

/** The host's clock as this process sees it: timers keep their pace, as they do when an operator sets the date. */
function shiftClock(ms: number): void {
  const real = Date;
  const shifted = class extends real {
    constructor(...args: readonly unknown[]) {
      if (args.length === 0) super(real.now() + ms);
      else super(...(args as [number]));
    }
    static override now(): number {
      return real.now() + ms;
    }
  };
  globalThis.Date = shifted as DateConstructor;
}

async function main(settings: WorkerSettings): Promise<void> {
  const line =
    (level: string): Log["info"] =>
    (message, fields) =>
      say({ kind: "log", text: `${level}: ${message} ${JSON.stringify(fields ?? {})}` });
  const registry = settings.tables === undefined ? undefined : tableRegistry(settings.tables).registry;
  const options: AppOptions = {
    env: process.env,
    cwd: settings.dataDir,
    file: settings.estateFile,
    dataDir: settings.dataDir,
    databaseUrl: settings.databaseUrl,
    person: "survivor",
    log: { debug: line("debug"), info: line("info"), warn: line("warn") },
    ...(registry === undefined ? {} : { registry }),
  };
  const app = new App(options);
  const { deps } = await app.engine();
  let frozen = false;
  const own: EngineDeps = {
    ...deps,
    options: { ...deps.options, ...settings.engine },
    crashPoint(name) {
      deps.crashPoint(name);
      if (frozen || name !== settings.freezeAt) return;
      frozen = true;
      say({ kind: "frozen" });
      // The message must be on its way before everything stands still.
      process.kill(process.pid, "SIGSTOP");
    },
  };
  let worker: EngineWorker | null = null;
  let turn = Promise.resolve();
  const then = (work: () => Promise<void>): void => {
    turn = turn.then(work).catch((error: unknown) => say({ kind: "failed", text: String(error) }));
  };
  process.on("message", (message: string) => {
    const [word, value] = message.split(" ");
    if (word === "clock") shiftClock(Number(value));
    else if (word === "go") {
      then(async () => {
        worker = await startWorker(own, {
          ...(settings.concurrency === undefined ? {} : { concurrency: settings.concurrency }),
          sweepMs: settings.sweepMs ?? 250,
        });
      });
    } else if (word === "stop") {
      then(async () => {
        await worker?.stop();
        worker = null;
        say({ kind: "stopped" });
      });
    }
  });
  process.once("disconnect", () => process.exit(0));
  say({ kind: "ready" });
}

if (process.argv[1] === import.meta.filename) {
  main(JSON.parse(process.argv[2]!) as WorkerSettings).catch((error: unknown) => {
    say({ kind: "failed", text: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    process.exitCode = 1;
    process.disconnect?.();
  });
}
