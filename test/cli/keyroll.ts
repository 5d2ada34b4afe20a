/** Runs the real command line as a process, with an environment of its own, and tells what it wrote and how it ended. */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const bin = resolve(import.meta.dirname, "../../bin/keyroll.js");

export interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}
export interface Home {
  readonly folder: string;
  run(args: readonly string[], more?: { env?: NodeJS.ProcessEnv; input?: string }): Promise<Result>;
  start(
    args: readonly string[],
    env?: NodeJS.ProcessEnv,
  ): { child: ChildProcess; ended: Promise<Result>; text(): string };
  write(name: string, text: string): void;
  remove(): void;
}

/** A folder with an estate and data of its own. Nothing of the caller's environment decides anything but `PATH`. */
export function openHome(estate?: string): Home {
  const folder = mkdtempSync(join(tmpdir(), "keyroll-cli-"));
  if (estate !== undefined) writeFileSync(join(folder, "keyroll.yaml"), estate);
  const children = new Set<ChildProcess>();
  const home: Home = {
    folder,
    write: (name, text) => writeFileSync(join(folder, name), text, { mode: 0o600 }),
    start(args, env = {}) {
      const child = spawn(process.execPath, [bin, ...args], {
        cwd: folder,
        env: {
          PATH: process.env["PATH"],
          HOME: folder,
          TZ: "UTC",
          LANG: "C.UTF-8",
          KEYROLL_DATA: join(folder, "data"),
          KEYROLL_USER: "alice",
          ...env,
        },
        stdio: ["pipe", "pipe", "pipe"],
      });
      children.add(child);
      let stdout = "";
      let stderr = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
      child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
      const ended = new Promise<Result>((done, fail) => {
        child.once("error", fail);
        child.once("close", (code) => {
          children.delete(child);
          done({ code, stdout, stderr });
        });
      });
      return { child, ended, text: () => stdout + stderr };
    },
    async run(args, more = {}) {
      const { child, ended } = home.start(args, more.env);
      child.stdin!.end(more.input ?? "");
      return await ended;
    },
    remove() {
      for (const child of children) child.kill("SIGKILL");
      stopWorkers(join(folder, "data"));
      // The embedded server ends by itself when nobody has used it for a while; a test does not wait for that.
      stopServer(join(folder, "data"));
      rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    },
  };
  return home;
}

/** Ends the background workers of this folder, by the process ids that their log names. */
function stopWorkers(data: string): void {
  const log = join(data, "worker.log");
  if (!existsSync(log)) return;
  const pids = [...readFileSync(log, "utf8").matchAll(/"worker":"[^"]*?-(\d+)-[0-9a-f]+","store"/g)].map((match) =>
    Number(match[1]),
  );
  const ended = new Set(
    [...readFileSync(log, "utf8").matchAll(/"worker":"[^"]*?-(\d+)-[0-9a-f]+","msg":"stopped"/g)].map((match) =>
      Number(match[1]),
    ),
  );
  for (const pid of pids) {
    if (ended.has(pid)) continue;
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
}

/** Ends the processes whose data lie in this folder, by their ids, as the server itself and our background workers noted them. */
function stopServer(data: string): void {
  const found = spawnSync("find", [data, "-name", "postmaster.pid"], { encoding: "utf8" }).stdout.trim();
  for (const file of found.split("\n").filter((each) => each !== "")) {
    const pid = Number(spawnSync("head", ["-1", file], { encoding: "utf8" }).stdout.trim());
    if (Number.isInteger(pid) && pid > 1) {
      try {
        process.kill(pid, "SIGINT");
      } catch {
        // It has ended meanwhile.
      }
    }
  }
}
