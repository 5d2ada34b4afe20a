/**
 * A real PostgreSQL for tests: one embedded server per test process, a fresh database per call, copied from a template that is migrated once.
 * The server stops by itself when the process ends, however it ends; the folder goes with it, or with the next test run.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { openEmbedded, type EmbeddedServer } from "../../src/store/embedded.ts";
import { openStore, type StoreOptions } from "../../src/store/open.ts";
import type { Store } from "../../src/store/store.ts";

export interface TestStore extends AsyncDisposable {
  readonly store: Store;
  /** Of the whole server; give it with `database` to other processes. */
  readonly dataDir: string;
  readonly database: string;
  /** A second store on the same database, as another process would have it. Closed with the first. */
  again(options?: Partial<StoreOptions>): Promise<Store>;
  /** Plain SQL, past the store: for looking into tables and for tampering. */
  sql<R extends Record<string, unknown> = Record<string, unknown>>(
    text: string,
    values?: readonly unknown[],
  ): Promise<readonly R[]>;
  /** Pid of the postmaster that runs now. */
  postmaster(): number;
}

interface Shared {
  readonly server: EmbeddedServer;
  readonly dataDir: string;
  count: number;
}

const prefix = "keyroll-test-";
const template = "template_for_tests";
const slot = Symbol.for("keyroll.test.store");
type Slots = { [slot]?: Promise<Shared> };

function shared(): Promise<Shared> {
  // On `globalThis`, because test files of one process may each load this module anew.
  const slots = globalThis as Slots;
  slots[slot] ??= start();
  return slots[slot];
}

async function start(): Promise<Shared> {
  sweepOldFolders();
  const dataDir = mkdtempSync(join(tmpdir(), `${prefix}${process.pid}-`));
  const server = await openEmbedded({ dataDir });
  process.once("exit", () => {
    const pid = postmasterOf(dataDir);
    if (pid !== null) process.kill(pid, "SIGQUIT");
    rmSync(dataDir, { recursive: true, force: true, maxRetries: 5 });
  });
  const first = await openStore({ dataDir, databaseUrl: null, database: template });
  // The queue's own schema is made with the first worker.
  await (await first.work(async () => undefined)).stop();
  await first.close();
  return { server, dataDir, count: 0 };
}

/** Folders of test processes that were killed. */
function sweepOldFolders(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = new RegExp(`^${prefix}(\\d+)-`).exec(name)?.[1];
    if (pid === undefined) continue;
    try {
      process.kill(Number(pid), 0);
    } catch {
      rmSync(join(tmpdir(), name), { recursive: true, force: true });
    }
  }
}

function postmasterOf(dataDir: string): number | null {
  try {
    return Number.parseInt(readFileSync(join(dataDir, "postgres", "data", "postmaster.pid"), "utf8"), 10);
  } catch {
    return null;
  }
}

async function query(
  server: EmbeddedServer,
  database: string,
  text: string,
  values: readonly unknown[] = [],
): Promise<pg.QueryResult> {
  const client = new pg.Client(server.connection(database));
  await client.connect();
  try {
    return await client.query(text, [...values]);
  } finally {
    await client.end();
  }
}

/** A fresh, migrated database. Use with `await using`, or call its `[Symbol.asyncDispose]`. */
export async function withStore(options: Partial<StoreOptions> = {}): Promise<TestStore> {
  const { server, dataDir } = await shared();
  const database = `test_${process.pid}_${(await shared()).count++}`;
  await query(server, "postgres", `create database ${database} template ${template}`);
  const open = (more: Partial<StoreOptions> = {}): Promise<Store> =>
    openStore({ dataDir, databaseUrl: null, database, poolSize: 6, ...options, ...more });
  const opened: Store[] = [await open()];
  return {
    store: opened[0]!,
    dataDir,
    database,
    async again(more) {
      const store = await open(more);
      opened.push(store);
      return store;
    },
    async sql<R>(text: string, values?: readonly unknown[]) {
      return (await query(server, database, text, values)).rows as R[];
    },
    postmaster() {
      const pid = postmasterOf(dataDir);
      if (pid === null) throw new Error("no database server is running");
      return pid;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(opened.map((store) => store.close()));
      await query(server, "postgres", `drop database ${database} with (force)`);
      rmSync(join(dataDir, database), { recursive: true, force: true });
    },
  };
}

/** Declares credentials with nothing behind them, so that versions and rotations can refer to them. */
export async function declare(store: Store, ...names: readonly string[]): Promise<void> {
  await store.estate.apply({
    digest: `test ${names.join(" ")}`,
    text: "version: 1",
    appliedBy: "test",
    credentials: names.map((name) => ({
      name,
      owner: "tests",
      kind: "password" as const,
      labels: {},
      declaration: {
        name,
        kind: "password" as const,
        owner: "tests",
        labels: {},
        issuer: { type: "random", traits: {} as never, config: {} },
        places: [],
        policy: {
          rotateBeforeMs: null,
          maxAgeMs: null,
          soakMs: 0,
          marginMs: 0,
          approvals: {},
          windows: [],
          notify: [],
        },
        source: "test:1",
      },
    })),
  });
}
