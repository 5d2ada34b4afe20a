/** Runs one program of the user's: no shell, a time limit, bounded output, and an environment without Keyroll's own secrets. */
import { spawn } from "node:child_process";
import { ConnectorError } from "../connector.ts";
import { codeOf } from "./calls.ts";

export interface RunOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Given to the program on standard input. */
  readonly input?: Uint8Array;
  /** Added to the few variables that every program gets. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Output beyond this is dropped. */
  readonly maxOutputBytes?: number;
}

export interface Ran {
  /** `null` when it was ended by a signal. */
  readonly code: number | null;
  readonly endedBy: "itself" | "time-out" | "cancelled";
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** Some output was dropped. */
  readonly cut: boolean;
}

/** What a program needs to find its parts and to speak the reader's language; the rest of our environment may hold secrets. */
const passedOn = /^(PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|LANG|LC_[A-Z]+|TMPDIR|TEMP|TMP|SystemRoot|PATHEXT|ComSpec)$/;

/**
 * Runs the program to its end. Its exit code is the caller's to judge. Throws `misconfigured` when it cannot be started and `unavailable` when
 * the call was cancelled before.
 */
export async function run(argv: readonly string[], options: RunOptions): Promise<Ran> {
  const [program, ...args] = argv;
  if (program === undefined) throw new ConnectorError("misconfigured", "The command is empty.");
  if (options.signal.aborted)
    throw new ConnectorError("unavailable", `${program} was not started: the call was cancelled.`);
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => passedOn.test(name)));
  const limit = options.maxOutputBytes ?? 64 * 1024;
  return new Promise<Ran>((done, fail) => {
    // Its own process group, so that what it started ends with it.
    const child = spawn(program, args, {
      shell: false,
      detached: process.platform !== "win32",
      env: { ...env, ...options.env },
      stdio: "pipe",
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    let endedBy: Ran["endedBy"] = "itself";
    let cut = false;
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    const collect = (into: Buffer[]): ((chunk: Buffer) => void) => {
      let length = 0;
      return (chunk) => {
        const room = limit - length;
        if (chunk.length > room) cut = true;
        if (room > 0) into.push(chunk.subarray(0, room));
        length += chunk.length;
      };
    };
    child.stdout.on("data", collect(stdout));
    child.stderr.on("data", collect(stderr));
    const end = (why: Ran["endedBy"]): void => {
      endedBy = why;
      killGroup(child.pid);
      // A grandchild that left the group may keep the pipes open; the program itself is gone.
      child.stdout.destroy();
      child.stderr.destroy();
    };
    const timer = setTimeout(() => end("time-out"), options.timeoutMs);
    const cancel = (): void => end("cancelled");
    options.signal.addEventListener("abort", cancel, { once: true });
    const settle = (): void => {
      clearTimeout(timer);
      options.signal.removeEventListener("abort", cancel);
    };
    child.on("error", (error) => {
      settle();
      fail(startError(program, codeOf(error)));
    });
    child.on("close", (code) => {
      settle();
      done({ code, endedBy, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr), cut });
    });
    // A program that does not read its input closes the pipe; that is its right.
    child.stdin.on("error", () => {});
    child.stdin.end(options.input);
  });
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(process.platform === "win32" ? pid : -pid, "SIGKILL");
  } catch (error) {
    // It ended by itself a moment ago.
    if (codeOf(error) !== "ESRCH") throw error;
  }
}

function startError(program: string, code: string | undefined): ConnectorError {
  if (code === "ENOENT")
    return new ConnectorError("misconfigured", `The program ${program} was not found.`, {
      next: "Install it, or give its full path.",
    });
  if (code === "EACCES" || code === "EPERM") {
    return new ConnectorError("misconfigured", `Keyroll may not run ${program}.`, {
      permission: `run ${program}`,
      next: "Make it executable for Keyroll's user.",
    });
  }
  return new ConnectorError("unavailable", `The program ${program} could not be started (${code ?? "error"}).`);
}
