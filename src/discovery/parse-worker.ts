/** The thread that opens hostile containers. It knows one message: a job with passwords, answered by a result. */
import { parentPort } from "node:worker_threads";
import { parseHeavy } from "./heavy.ts";
import type { HeavyJob } from "./parse.ts";

interface Request {
  readonly job: HeavyJob;
  readonly passwords: readonly string[];
}

/* oxlint-disable unicorn/require-post-message-target-origin -- that is for windows; this is a thread. */
parentPort?.on("message", ({ job, passwords }: Request) => {
  parentPort?.postMessage({ result: parseHeavy(job, passwords) });
});
parentPort?.postMessage({ ready: true });
