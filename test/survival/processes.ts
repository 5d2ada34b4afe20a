/** Starting, killing and freezing worker processes from a test. Every process is ended by its own pid, also when the test fails. */
import { fork, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import type { FromWorker, WorkerSettings } from "./worker-process.ts";

export interface WorkerProcess {
  readonly pid: number;
  /** What it logged, with the level in front. */
  readonly said: string[];
  /** Resolves when it could begin. */
  readonly ready: Promise<void>;
  /** Resolves when it has stopped itself at `freezeAt`. */
  readonly frozen: Promise<void>;
  /** How it ended: the signal, or the exit code as text. */
  readonly ended: Promise<string>;
  go(): void;
  /** Lets it finish what it holds and take nothing new; the process stays. */
  rest(): Promise<void>;
  /** Moves the clock that it sees, relative to the real one. */
  setClock(offsetMs: number): void;
  signal(name: "SIGKILL" | "SIGSTOP" | "SIGCONT"): void;
  end(): Promise<void>;
}

const program = join(import.meta.dirname, "worker-process.ts");

export function startWorkerProcess(
  settings: WorkerSettings,
  env: Readonly<Record<string, string>> = {},
): WorkerProcess {
  const child: ChildProcess = fork(program, [JSON.stringify(settings)], {
    execArgv: [],
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const said: string[] = [];
  const ready = Promise.withResolvers<void>();
  const frozen = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<string>();
  let stopped: (() => void) | null = null;
  child.on("message", (message: FromWorker) => {
    if (message.kind === "ready") return ready.resolve();
    if (message.kind === "frozen") return frozen.resolve();
    if (message.kind === "stopped") return stopped?.();
    if (message.kind === "log") said.push(message.text);
    else {
      said.push(`failed: ${message.text}`);
      ready.reject(new Error(message.text));
    }
  });
  child.once("exit", (code, signal) => {
    ended.resolve(signal ?? String(code));
    ready.reject(new Error(`The worker process ended with ${signal ?? code} before it was ready.`));
    stopped?.();
  });
  // Tests that kill a process before it was ready do not wait for it.
  ready.promise.catch(() => undefined);
  return {
    pid: child.pid!,
    said,
    ready: ready.promise,
    frozen: frozen.promise,
    ended: ended.promise,
    go: () => void child.send("go"),
    async rest() {
      await new Promise<void>((resolve) => {
        stopped = resolve;
        child.send("stop");
      });
    },
    setClock: (offsetMs) => void child.send(`clock ${offsetMs}`),
    signal: (name) => void child.kill(name),
    async end() {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      await ended.promise;
    },
  };
}
