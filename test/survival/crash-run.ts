/**
 * One small real estate whose worker is killed again and again, at named points of real rotations, while clients keep connecting. Every pass is a
 * further rotation of the same credential: a worker process dies by SIGKILL, another one finishes, and everything is looked at.
 */
import { mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { App } from "../../src/app.ts";
import type { Counts } from "../../src/demo/presenters.ts";
import { removeWorld, startWorld, type DemoWorld } from "../../src/demo/world.ts";
import type { RotationRow } from "../../src/store/store.ts";
import { startWorkerProcess, type WorkerProcess } from "./processes.ts";
import type { WorkerSettings } from "./worker-process.ts";

/** `name:n`: the n-th time that a rotation passes this point. */
export interface Pass {
  readonly credential: string;
  readonly name: string;
  readonly n: number;
}

export interface CrashRun extends AsyncDisposable {
  readonly world: DemoWorld;
  readonly app: App;
  /** Runs one rotation to its end and returns the points that it passed, in order. */
  trace(credential: string): Promise<readonly Pass[]>;
  /** Runs one rotation whose worker dies at this pass. `next` is started meanwhile, so that its process is ready when it is needed. */
  crash(pass: Pass, next?: Pass): Promise<{ readonly died: string; readonly row: RotationRow }>;
  /** What the clients have seen since the start, with at least one more round of connections. */
  counts(): Promise<Counts>;
}

/** Short, so that a pass takes seconds: a killed process has no request under way to a file or to a server on this machine. */
const engine = { leaseMs: 1500, callTimeoutMs: 30_000, requestLifeMs: 200 } as const;

export async function openCrashRun(): Promise<CrashRun> {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-crash-")));
  let world: DemoWorld | null = null;
  let app: App | null = null;
  const processes = new Set<WorkerProcess>();
  const close = async (): Promise<void> => {
    await Promise.all([...processes].map((each) => each.end()));
    await app?.close();
    await world?.stop();
    await removeWorld(folder);
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    world = await startWorld({ folder, rereadMs: 250, perSecond: 20, soak: "0s" });
    const running = world;
    const { estateFile, env } = running;
    const dataDir = join(folder, "data");
    const opened = new App({
      env: { ...process.env, ...env },
      cwd: folder,
      file: estateFile,
      dataDir,
      databaseUrl: null,
      person: "tester",
    });
    app = opened;
    const { store } = await opened.engine();
    const settings: WorkerSettings = { estateFile, dataDir, databaseUrl: null, engine, sweepMs: 250 };
    const start = (more: Readonly<Record<string, string>> = {}): WorkerProcess => {
      const started = startWorkerProcess(settings, { ...env, ...more });
      processes.add(started);
      void started.ended.then(() => processes.delete(started));
      return started;
    };
    const rescuer = start();
    const waiting = new Map<string, WorkerProcess>();
    const keyOf = (pass: Pass): string => `${pass.credential} ${pass.name}:${pass.n}`;
    const victim = (pass: Pass): WorkerProcess => {
      const key = keyOf(pass);
      const ready = waiting.get(key) ?? start({ KEYROLL_CRASH_AT: `${pass.name}:${pass.n}` });
      waiting.delete(key);
      return ready;
    };
    const begin = async (credential: string): Promise<RotationRow> => {
      const { plan } = await opened.plan({ credential });
      return await opened.start(plan);
    };
    const end = async (id: string): Promise<RotationRow> => {
      for (let tries = 0; tries < 1200; tries++) {
        const row = (await store.rotations.get(id))!;
        if (row.endedAtMs !== null || row.status === "halted") return row;
        await sleep(50);
      }
      throw new Error(
        `Rotation ${id} is not over: ${JSON.stringify(await store.rotations.get(id))}\n${rescuer.said.join("\n")}`,
      );
    };
    await rescuer.ready;
    return {
      world,
      app: opened,
      async trace(credential) {
        const file = join(folder, `trace-${credential}`);
        const traced = start({ KEYROLL_CRASH_TRACE: file });
        await traced.ready;
        traced.go();
        const row = await end((await begin(credential)).id);
        await traced.end();
        if (row.status !== "done") throw new Error(`${credential} was not rolled: ${row.reason}`);
        const passes = new Map<string, number>();
        return readFileSync(file, "utf8")
          .trim()
          .split("\n")
          .map((name) => {
            const n = (passes.get(name) ?? 0) + 1;
            passes.set(name, n);
            return { credential, name, n };
          });
      },
      async crash(pass, next) {
        const dying = victim(pass);
        await dying.ready;
        const { id } = await begin(pass.credential);
        dying.go();
        if (next !== undefined) waiting.set(keyOf(next), start({ KEYROLL_CRASH_AT: `${next.name}:${next.n}` }));
        const died = await Promise.race([
          dying.ended,
          end(id).then((row) => `not at all: ${row.status} ${row.reason}`),
        ]);
        rescuer.go();
        const row = await end(id);
        await rescuer.rest();
        await dying.end();
        return { died, row };
      },
      async counts() {
        await sleep(700);
        return running.counts();
      },
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
