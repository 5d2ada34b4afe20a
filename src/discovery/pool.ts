/** Worker threads for jobs that may never end: a thread that overruns its time is killed and replaced, and the job is answered in its place. */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { HeavyResult } from "./heavy.ts";
import type { HeavyJob } from "./parse.ts";

export interface ParsePool {
  /** Answers within about `limitMs` of the job's start. Never rejects. */
  run(job: HeavyJob, passwords: readonly string[]): Promise<HeavyResult>;
  close(): Promise<void>;
}

/** A whole worker with the libraries stays under this; what does not fit is killed by the runtime. Bounds JavaScript's heap only. */
const maxHeapMiB = 192;
/** Starting a thread and loading the libraries is not the file's fault. */
const startLimitMs = 20_000;

interface Waiting {
  readonly job: HeavyJob;
  readonly passwords: readonly string[];
  readonly resolve: (result: HeavyResult) => void;
}

/** Starts no thread until there is a job. `limitMs` counts from the moment a thread takes the job. */
export function openParsePool(limitMs: number, size = Math.max(1, Math.min(2, availableParallelism()))): ParsePool {
  const queue: Waiting[] = [];
  const idle: Thread[] = [];
  let threads = 0;
  let closed = false;
  const living = new Set<Thread>();

  function dispatch(): void {
    while (queue.length > 0) {
      const thread = idle.pop();
      if (thread !== undefined) {
        void runOn(thread, queue.shift()!);
      } else if (threads < size) {
        threads++;
        void start();
        return;
      } else {
        return;
      }
    }
  }

  async function start(): Promise<void> {
    const thread = openThread();
    living.add(thread);
    if (await thread.ready) {
      idle.push(thread);
    } else {
      await drop(thread);
      queue.shift()?.resolve(failed("the worker thread that reads it did not start"));
    }
    dispatch();
  }

  async function runOn(thread: Thread, waiting: Waiting): Promise<void> {
    const result = await thread.run(waiting.job, waiting.passwords, limitMs);
    if (result === "dead") await drop(thread);
    else idle.push(thread);
    waiting.resolve(
      result === "dead"
        ? failed(`reading it took more than ${limitMs} ms or too much memory, and was stopped`)
        : result,
    );
    dispatch();
  }

  async function drop(thread: Thread): Promise<void> {
    living.delete(thread);
    threads--;
    await thread.kill();
  }

  return {
    run(job, passwords) {
      if (closed) return Promise.resolve(failed("the scan has ended"));
      return new Promise((resolve) => {
        queue.push({ job, passwords, resolve });
        dispatch();
      });
    },
    async close() {
      closed = true;
      for (const waiting of queue.splice(0)) waiting.resolve(failed("the scan has ended"));
      await Promise.all([...living].map((thread) => thread.kill()));
    },
  };
}

function failed(problem: string): HeavyResult {
  return { items: [], problems: [problem], refused: true };
}

interface Thread {
  readonly ready: Promise<boolean>;
  run(job: HeavyJob, passwords: readonly string[], limitMs: number): Promise<HeavyResult | "dead">;
  kill(): Promise<void>;
}

function openThread(): Thread {
  // The name of the file differs between the sources and the published build, and no tool rewrites it inside a URL.
  const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
  const worker = new Worker(new URL(`./parse-worker.${extension}`, import.meta.url), {
    resourceLimits: { maxOldGenerationSizeMb: maxHeapMiB },
    // Neither the scanned system's environment nor a test runner's flags are of use in there.
    env: {},
    execArgv: [],
    stderr: true,
  });
  worker.unref();
  let deliver: ((result: HeavyResult | "dead") => void) | undefined;
  let dead = false;
  const started = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => started.resolve(false), startLimitMs);
  function die(): void {
    dead = true;
    started.resolve(false);
    clearTimeout(timer);
    deliver?.("dead");
  }
  worker.on("message", (message: { ready?: true; result?: HeavyResult }) => {
    if (message.ready) {
      clearTimeout(timer);
      started.resolve(true);
    } else if (message.result !== undefined) {
      deliver?.(message.result);
    }
  });
  worker.on("error", die);
  worker.on("exit", die);
  return {
    ready: started.promise,
    run(job, passwords, limitMs) {
      if (dead) return Promise.resolve("dead");
      return new Promise((resolve) => {
        const limit = setTimeout(() => deliver?.("dead"), limitMs);
        deliver = (result) => {
          deliver = undefined;
          clearTimeout(limit);
          worker.unref();
          resolve(result);
        };
        worker.ref();
        worker.postMessage({ job, passwords }, [job.bytes.buffer]);
      });
    },
    async kill() {
      clearTimeout(timer);
      await worker.terminate();
    },
  };
}
