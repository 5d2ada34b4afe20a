/** Opens the store: the embedded server in the data folder, or the one that `DATABASE_URL` names. */
import { mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { Kysely, PostgresDialect, sql } from "kysely";
import { openEmbedded, type EmbeddedServer } from "./embedded.ts";
import { codeOf, isRepeatable } from "./errors.ts";
import { folderError } from "./files.ts";
import { migrate } from "./migrations.ts";
import { Connections } from "./pool.ts";
import { queries } from "./queries.ts";
import { WakeQueue } from "./queue.ts";
import type { Tables } from "./schema.ts";
import {
  FencedOff,
  StoreError,
  type Fence,
  type Lease,
  type Store,
  type StoreLocation,
  type Tx,
  type Worker,
  type WorkOptions,
} from "./store.ts";

export interface StoreOptions {
  /** Overrides `KEYROLL_DATA`; default `~/.keyroll`. */
  readonly dataDir?: string;
  /** Overrides `DATABASE_URL`. `null`: the embedded one, whatever the environment says. */
  readonly databaseUrl?: string | null;
  /** Database on the embedded server; default `keyroll`. */
  readonly database?: string;
  /** Connections of this process; default 10. */
  readonly poolSize?: number;
  /** How long a query waits for a database that is being restarted; default 30 s. */
  readonly patienceMs?: number;
  /** How long a process that freezes inside a transaction keeps its locks; default 5 s. */
  readonly idleTransactionMs?: number;
  readonly env?: NodeJS.ProcessEnv;
}

export function dataFolder(options: StoreOptions = {}): string {
  const env = options.env ?? process.env;
  return resolve(options.dataDir ?? nonEmpty(env["KEYROLL_DATA"]) ?? join(homedir(), ".keyroll"));
}

const nonEmpty = (text: string | undefined): string | undefined =>
  text === undefined || text === "" ? undefined : text;

const defaultDatabase = "keyroll";

function keyFolder(dataDir: string, name: string | null): string {
  if (name === null) return dataDir;
  const path = join(dataDir, name.replace(/[^A-Za-z0-9._-]+/g, "-"));
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw folderError(error, path);
  }
  return path;
}

/** Opens and migrates. Throws a {@link StoreError} for everything that a reader can mend. */
export async function openStore(options: StoreOptions = {}): Promise<Store> {
  const env = options.env ?? process.env;
  const dataDir = dataFolder(options);
  const url = options.databaseUrl === undefined ? nonEmpty(env["DATABASE_URL"]) : (options.databaseUrl ?? undefined);
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw folderError(error, dataDir);
  }
  const database = options.database ?? defaultDatabase;
  const embedded = url === undefined ? await openEmbedded({ dataDir }) : null;
  const where = url === undefined ? dataDir : describeUrl(url);
  // Every database has a folder of its own for its key and its checkpoint: rolling the key of one must not take it from another.
  const keyDir = keyFolder(
    dataDir,
    url === undefined ? (database === defaultDatabase ? null : database) : `outside-${where}`,
  );
  const connectionsOf = (size: number): Connections =>
    new Connections({
      config: () => (embedded === null ? { connectionString: url! } : embedded.connection(database)),
      size,
      where,
      ensure: embedded === null ? null : () => embedded.ensure(),
      patienceMs: options.patienceMs ?? 30_000,
      idleTransactionMs: options.idleTransactionMs ?? 5_000,
    });
  const connections = connectionsOf(options.poolSize ?? 10);
  try {
    if (embedded !== null) await createDatabase(embedded, database);
    // A wrong DATABASE_URL is told soon; the embedded server has its own patience with a start.
    const connection = await connections.connect(Math.min(5_000, options.patienceMs ?? 5_000));
    let serverVersion: string;
    try {
      await migrate(connection.raw);
      serverVersion = (await connection.raw.query<{ v: string }>("select current_setting('server_version') as v"))
        .rows[0]!.v;
    } finally {
      connection.release();
    }
    const location: StoreLocation = { kind: embedded === null ? "outside" : "embedded", text: where, serverVersion };
    return buildStore(connections, connectionsOf(3), embedded, location, keyDir);
  } catch (error) {
    await connections.end();
    await embedded?.close();
    throw connections.readable(error);
  }
}

/** Host, port and database: what may be shown. */
function describeUrl(url: string): string {
  try {
    const parsed = new URL(url);
    if (parsed.protocol !== "postgres:" && parsed.protocol !== "postgresql:")
      throw new TypeError("not a PostgreSQL address");
    return `${parsed.hostname === "" ? "localhost" : parsed.hostname}:${parsed.port === "" ? "5432" : parsed.port}${parsed.pathname}`;
  } catch {
    throw new StoreError(
      "misconfigured",
      "DATABASE_URL is not an address of a PostgreSQL database",
      "write it as postgres://user:password@host:5432/name",
    );
  }
}

async function createDatabase(embedded: EmbeddedServer, database: string): Promise<void> {
  if (!/^[a-z][a-z0-9_]{0,60}$/.test(database))
    throw new StoreError("misconfigured", `"${database}" is not a plain database name`);
  const admin = new Connections({
    config: () => embedded.connection("postgres"),
    size: 1,
    where: embedded.dataDir,
    ensure: () => embedded.ensure(),
    patienceMs: 30_000,
    idleTransactionMs: 5_000,
  });
  try {
    const connection = await admin.connect();
    try {
      const { rows } = await connection.raw.query("select 1 from pg_database where datname = $1", [database]);
      if (rows.length === 0) await connection.raw.query(`create database ${database}`);
    } catch (error) {
      // Another process created it in between: 42P04 duplicate_database, or 23505 when both were at it at once.
      if (codeOf(error) !== "42P04" && codeOf(error) !== "23505") throw error;
    } finally {
      connection.release();
    }
  } finally {
    await admin.end();
  }
}

function buildStore(
  connections: Connections,
  queueConnections: Connections,
  embedded: EmbeddedServer | null,
  where: StoreLocation,
  dataDir: string,
): Store {
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: connections }) }).withSchema("keyroll");
  const queue = new WakeQueue(queueConnections, db);
  const workers = new Set<Worker>();
  let closed: Promise<void> | null = null;

  /** From outside a pass: never later than what is there, and a pass that is running is followed by another. */
  async function wakeFromOutside(tx: Kysely<Tables>, rotation: string, atMs?: number): Promise<void> {
    const at = atMs === undefined ? null : new Date(atMs);
    const { rows } = await sql<{ id: string }>`
      update keyroll.rotations set
        next_wake_at = least(next_wake_at, coalesce(${at}::timestamptz, clock_timestamp())),
        wake_requested = wake_requested
          or (lease_owner is not null and coalesce(${at}::timestamptz, clock_timestamp()) <= clock_timestamp())
      where id = ${rotation} and status in ('running', 'waiting', 'paused', 'halted')
      returning id`.execute(tx);
    if (rows.length > 0) await queue.send(tx, rotation, at);
  }

  /**
   * From inside a pass: the rotation's next appointment, in place of the one before. One that is due already is sent when the lease is let go:
   * a worker that came sooner would find it held, and its wake-up would be spent.
   */
  async function appoint(tx: Kysely<Tables>, rotation: string, atMs?: number): Promise<void> {
    const at = atMs === undefined ? null : new Date(atMs);
    const { rows } = await sql<{ later: boolean }>`
      update keyroll.rotations set next_wake_at = coalesce(${at}::timestamptz, clock_timestamp())
      where id = ${rotation} and status in ('running', 'waiting', 'paused', 'halted')
      returning next_wake_at > clock_timestamp() as later`.execute(tx);
    if (rows[0]?.later === true) await queue.send(tx, rotation, at);
  }

  function asTx(tx: Kysely<Tables>, fence: Fence | null): Tx {
    return {
      ...queries(tx),
      enqueue: (rotation, atMs) =>
        fence !== null && rotation === fence.rotation
          ? appoint(tx, rotation, atMs)
          : wakeFromOutside(tx, rotation, atMs),
    };
  }

  async function transaction<T>(work: (tx: Kysely<Tables>) => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        return await db.transaction().execute(work);
      } catch (error) {
        if (tries >= 4 || !isRepeatable(error)) throw error;
      }
    }
  }

  return {
    ...queries(db),
    transaction: (work) => transaction((tx) => work(asTx(tx, null))),
    fenced: (fence, work) =>
      transaction(async (tx) => {
        // The row lock holds off every take-over until this transaction ends; a frozen holder loses its connection.
        const { rows } = await sql`
          select 1 from keyroll.rotations
          where id = ${fence.rotation} and lease_fence = ${fence.fence} and lease_owner is not null
          for update`.execute(tx);
        if (rows.length === 0) throw new FencedOff(fence.rotation, fence.fence);
        return work(asTx(tx, fence));
      }),

    async acquireLease(rotation, owner, ttlMs) {
      const { rows } = await sql<{ fence: number; until: number }>`
        update keyroll.rotations set
          lease_owner = ${owner}, lease_fence = lease_fence + 1, lease_until = clock_timestamp() + ${ttlMs} * interval '1 millisecond',
          wake_requested = false, next_wake_at = null
        where id = (
          select id from keyroll.rotations
          where id = ${rotation} and status in ('running', 'waiting', 'paused', 'halted')
            and (lease_owner is null or lease_until < clock_timestamp())
          -- Locked means that its holder is writing just now: not free, and nothing to wait for.
          for update skip locked
        )
        returning lease_fence as fence, lease_until as until`.execute(db);
      const row = rows[0];
      return row === undefined ? null : { rotation, owner, fence: row.fence, untilMs: row.until };
    },
    async renewLease(lease, ttlMs): Promise<Lease> {
      const { rows } = await sql<{ until: number }>`
        update keyroll.rotations set lease_until = clock_timestamp() + ${ttlMs} * interval '1 millisecond'
        where id = ${lease.rotation} and lease_fence = ${lease.fence} and lease_owner is not null
        returning lease_until as until`.execute(db);
      const row = rows[0];
      if (row === undefined) throw new FencedOff(lease.rotation, lease.fence);
      return { ...lease, untilMs: row.until };
    },
    async releaseLease(lease) {
      const { rows } = await sql<{ due: boolean | null }>`
        update keyroll.rotations set lease_owner = null, lease_until = null
        where id = ${lease.rotation} and lease_fence = ${lease.fence} and lease_owner is not null
        returning wake_requested or next_wake_at <= clock_timestamp() as due`.execute(db);
      // A crash right here leaves a due rotation that nobody holds, which the sweep finds.
      if (rows[0]?.due === true) await transaction((tx) => wakeFromOutside(tx, lease.rotation));
    },

    enqueue: (rotation, atMs) => transaction((tx) => wakeFromOutside(tx, rotation, atMs)),
    async work(handler, options: WorkOptions = {}) {
      const worker = await queue.work(handler, options);
      workers.add(worker);
      return {
        stop: async () => {
          await worker.stop();
          workers.delete(worker);
        },
      };
    },
    sweep: () => queue.sweep(),
    onState: (listener) => connections.onState(listener),
    where,
    dataDir,
    close: () => {
      closed ??= (async () => {
        await Promise.all([...workers].map((worker) => worker.stop()));
        await queue.close();
        await db.destroy();
        await embedded?.close();
      })();
      return closed;
    },
  };
}
