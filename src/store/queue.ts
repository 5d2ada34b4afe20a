/**
 * Waking. pg-boss keeps delayed jobs in the same database, so that a wake-up is written in the transaction that writes the state. The queue
 * only wakes: a job that comes twice, late or never does no harm, because the rotation's row says when it is due, the lease says who may act,
 * and the sweep finds whatever was lost.
 */
import { sql, type Kysely } from "kysely";
import pg from "pg";
import { PgBoss, type Db } from "pg-boss";
import { isConnectionLoss } from "./errors.ts";
import type { Connections } from "./pool.ts";
import type { Tables } from "./schema.ts";
import type { Worker, WorkOptions } from "./store.ts";

const queueName = "wake";
const channel = "keyroll_wake";
/** For appointments in the future, which no notification announces. */
const pollMs = 1_000;
/** Enough for the longest wait that a job stands for; the sweep would find it even without one. */
const retentionSeconds = 3_650 * 24 * 3_600;

interface WakeJob {
  readonly rotation: string;
}

export class WakeQueue {
  readonly #connections: Connections;
  readonly #db: Kysely<Tables>;
  #boss: Promise<PgBoss> | null = null;
  #supervised = false;

  /** `connections` are the queue's own: a transaction that waits for the queue while it holds the last shared one would wait for itself. */
  constructor(connections: Connections, db: Kysely<Tables>) {
    this.#connections = connections;
    this.#db = db;
  }

  /** Starts pg-boss when it is first needed: most commands never wake anybody. `supervise` adds its housekeeping, for workers. */
  async #started(supervise: boolean): Promise<PgBoss> {
    if (supervise && !this.#supervised && this.#boss !== null) {
      const light = this.#boss;
      this.#boss = null;
      await (await light).stop({ graceful: false, close: false });
    }
    this.#boss ??= this.#start(supervise).catch((error: unknown) => {
      this.#boss = null;
      throw error;
    });
    return this.#boss;
  }

  async #start(supervise: boolean): Promise<PgBoss> {
    this.#supervised = supervise;
    const boss = new PgBoss({
      db: this.#adapter(),
      schema: "pgboss",
      schedule: false,
      supervise,
      superviseIntervalSeconds: 300,
      maintenanceIntervalSeconds: 3_600,
    });
    // Its background work may meet a database that is being restarted; it tries again by itself.
    boss.on("error", (error) => this.#connections.reportLoss(error));
    await boss.start();
    await boss.createQueue(queueName, {
      retryLimit: 0,
      expireInSeconds: 300,
      retentionSeconds,
      // A finished wake-up is worth nothing.
      deleteAfterSeconds: 60,
    });
    return boss;
  }

  /** pg-boss on our connections, with the driver's own types, which it expects. */
  #adapter(): Db {
    return {
      executeSql: async (text, values) => {
        const connection = await this.#connections.connect();
        try {
          const config = { text, types: pg.types as unknown as pg.CustomTypesConfig };
          const result: unknown = await connection.raw.query(
            values === undefined ? config : { ...config, values: values as unknown[] },
          );
          // Several statements in one text give several results.
          const last = (Array.isArray(result) ? result.at(-1) : result) as pg.QueryResult;
          return { rows: last.rows ?? [] };
        } finally {
          connection.release();
        }
      },
    };
  }

  /** Sends the job in `tx`; `at` null means at once. */
  async send(tx: Kysely<Tables>, rotation: string, at: Date | null): Promise<void> {
    const boss = await this.#started(false);
    const db: Db = {
      executeSql: async (text, values) => {
        const result = await tx.executeQuery({ ...sql.raw(text).compile(tx), parameters: values ?? [] });
        return { rows: [...result.rows] };
      },
    };
    await boss.send(queueName, { rotation } satisfies WakeJob, at === null ? { db } : { db, startAfter: at });
    // Delivered when the transaction commits, and never if it does not.
    if (at === null) await sql`select pg_notify(${channel}, '')`.execute(tx);
  }

  /** For {@link Store.sweep}: rotations that are due and that nobody holds. */
  async sweep(): Promise<readonly string[]> {
    return this.#db.transaction().execute(async (tx) => {
      const { rows } = await sql<{ id: string }>`
        with due as (
          select id from keyroll.rotations
          where (lease_owner is null or lease_until < clock_timestamp())
            and (
              (status in ('running', 'waiting', 'paused', 'halted') and wake_requested)
              or (status in ('running', 'waiting') and (
                next_wake_at < clock_timestamp() - interval '1 second'
                or (lease_owner is not null and lease_until < clock_timestamp())
              ))
              or (status = 'running' and next_wake_at is null and updated_at < clock_timestamp() - interval '60 seconds')
            )
            -- Once per cause, so that a long backlog is not doubled with every sweep; and again, because who took the wake-up may have died of it.
            and (swept_at is null or swept_at < greatest(next_wake_at, lease_until) or swept_at < clock_timestamp() - interval '10 seconds')
          limit 500
          for update skip locked
        )
        update keyroll.rotations r
        set swept_at = clock_timestamp(), next_wake_at = least(r.next_wake_at, clock_timestamp())
        from due where r.id = due.id
        returning r.id`.execute(tx);
      for (const row of rows) await this.send(tx, row.id, null);
      return rows.map((row) => row.id);
    });
  }

  async work(handler: (rotation: string) => Promise<void>, options: WorkOptions): Promise<Worker> {
    const boss = await this.#started(true);
    const loop = new WakeLoop(boss, this.#connections, this.#db, handler, options, () => this.sweep());
    await loop.start();
    return loop;
  }

  async close(): Promise<void> {
    const boss = await this.#boss?.catch(() => null);
    this.#boss = null;
    await boss?.stop({ graceful: false, close: false });
    await this.#connections.end();
  }
}

/** One poll for all handlers, because idle workers should cost one small query a second and no more. */
class WakeLoop implements Worker {
  readonly #boss: PgBoss;
  readonly #connections: Connections;
  readonly #db: Kysely<Tables>;
  readonly #handler: (rotation: string) => Promise<void>;
  readonly #concurrency: number;
  readonly #sweepMs: number;
  readonly #retryMs: number;
  readonly #onError: (rotation: string, error: unknown) => void;
  readonly #sweep: () => Promise<readonly string[]>;
  readonly #running = new Map<string, Promise<void>>();
  /** Woken while their last pass was still tidying up here. */
  readonly #again = new Set<string>();
  #stopping = false;
  #knocked = false;
  #wakeUp: (() => void) | null = null;
  #loops: readonly Promise<void>[] = [];
  #stopListening: (() => void) | null = null;

  constructor(
    boss: PgBoss,
    connections: Connections,
    db: Kysely<Tables>,
    handler: (rotation: string) => Promise<void>,
    options: WorkOptions,
    sweep: () => Promise<readonly string[]>,
  ) {
    this.#boss = boss;
    this.#connections = connections;
    this.#db = db;
    this.#handler = handler;
    this.#concurrency = options.concurrency ?? 8;
    this.#sweepMs = options.sweepMs ?? 3_000;
    this.#retryMs = options.retryMs ?? 5_000;
    this.#onError = options.onError ?? (() => undefined);
    this.#sweep = sweep;
  }

  async start(): Promise<void> {
    const listening = Promise.withResolvers<void>();
    this.#loops = [this.#listen(listening.resolve), this.#fetch()];
    await listening.promise;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.#knock();
    this.#stopListening?.();
    await Promise.all(this.#loops);
    await Promise.all(this.#running.values());
  }

  #knock(): void {
    this.#knocked = true;
    this.#wakeUp?.();
  }

  /** Until somebody knocks, at most `ms`. */
  async #pause(ms: number): Promise<void> {
    if (!this.#knocked && !this.#stopping) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.#wakeUp = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wakeUp = null;
    }
    this.#knocked = false;
  }

  async #listen(ready: () => void): Promise<void> {
    while (!this.#stopping) {
      try {
        const connection = await this.#connections.connect();
        try {
          const ended = Promise.withResolvers<void>();
          this.#stopListening = () => ended.resolve();
          connection.raw.on("notification", () => this.#knock());
          connection.raw.on("end", () => ended.resolve());
          connection.raw.on("error", () => ended.resolve());
          await connection.raw.query(`listen ${channel}`);
          ready();
          // What was sent while nobody listened.
          this.#knock();
          if (!this.#stopping) await ended.promise;
        } finally {
          this.#stopListening = null;
          connection.destroy();
        }
      } catch (error) {
        this.#report("", error);
        // The poll goes on without notifications meanwhile.
        ready();
        await this.#pause(pollMs);
      }
    }
    ready();
  }

  async #fetch(): Promise<void> {
    let nextSweep = 0;
    while (!this.#stopping) {
      try {
        const free = this.#concurrency - this.#running.size;
        const found = free > 0 ? await this.#take(free) : 0;
        if (performance.now() >= nextSweep) {
          await this.#sweep();
          // Jitter keeps many workers from sweeping in step.
          nextSweep = performance.now() + this.#sweepMs * (0.75 + Math.random() / 2);
        }
        if (found > 0 && found === free) continue;
      } catch (error) {
        this.#report("", error);
      }
      await this.#pause(Math.min(pollMs, this.#sweepMs));
    }
  }

  async #take(limit: number): Promise<number> {
    const jobs = await this.#boss.fetch<WakeJob>(queueName, { batchSize: limit });
    if (jobs.length === 0) return 0;
    // Finished before it is handled: what is lost in between, the sweep finds.
    await this.#boss.complete(
      queueName,
      jobs.map((job) => job.id),
    );
    const wanted = [...new Set(jobs.map((job) => job.data.rotation))];
    // A wake-up that a later appointment replaced is dropped. So is one for a rotation that somebody holds: whoever lets it go looks whether
    // it is due, and whoever asked from outside has left a note on the row.
    const { rows } = await sql<{ id: string }>`
      select id from keyroll.rotations
      where id = any(${wanted}) and status in ('running', 'waiting', 'paused', 'halted')
        and (lease_owner is null or lease_until < clock_timestamp())
        and (wake_requested or next_wake_at <= clock_timestamp() or lease_owner is not null)`.execute(this.#db);
    for (const { id } of rows) {
      if (this.#running.has(id)) this.#again.add(id);
      else this.#running.set(id, this.#handle(id));
    }
    return jobs.length;
  }

  async #handle(rotation: string): Promise<void> {
    do {
      this.#again.delete(rotation);
      try {
        await this.#handler(rotation);
      } catch (error) {
        this.#report(rotation, error);
        await this.#comeBack(rotation);
      }
    } while (this.#again.has(rotation) && !this.#stopping);
    this.#running.delete(rotation);
    this.#knock();
  }

  /** A pass that failed without saying when to come back comes back soon, by the sweep. */
  async #comeBack(rotation: string): Promise<void> {
    try {
      await sql`
        update keyroll.rotations set next_wake_at = clock_timestamp() + ${this.#retryMs} * interval '1 millisecond'
        where id = ${rotation} and status in ('running', 'waiting') and lease_owner is null and next_wake_at is null`.execute(
        this.#db,
      );
    } catch (error) {
      this.#report(rotation, error);
    }
  }

  #report(rotation: string, error: unknown): void {
    if (isConnectionLoss(error)) this.#connections.reportLoss(error);
    if (!this.#stopping) this.#onError(rotation, error);
  }
}
