/**
 * Connections. Wraps `pg.Pool` in the narrow shape that Kysely needs, and does three things that it does not: it waits for a server that is
 * being restarted instead of failing at once, it turns driver errors into readable ones, and it tells when the database is lost and back.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { PostgresCursorConstructor, PostgresPool, PostgresPoolClient, PostgresQueryResult } from "kysely";
import pg from "pg";
import { isConnectionLoss, readable } from "./errors.ts";

export type StateListener = (state: "lost" | "back", detail: string) => void;

export interface ConnectionsOptions {
  readonly config: () => pg.ClientConfig;
  readonly size: number;
  /** For messages: never a password. */
  readonly where: string;
  /** Restarts the embedded server where it is down. */
  readonly ensure: (() => Promise<void>) | null;
  /** How long a query waits for a lost database to come back before it fails. */
  readonly patienceMs: number;
  /** How long a transaction may stand idle before the server ends it. */
  readonly idleTransactionMs: number;
}

const int8 = 20;
const timestamptz = 1184;
const parseTimestamp = pg.types.getTypeParser(timestamptz) as (text: string) => Date;

/** Times become milliseconds and counts become numbers: no fence or sequence number comes near 2^53. */
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: "text" | "binary") => {
    if (oid === int8) return Number;
    if (oid === timestamptz) return (text: string) => parseTimestamp(text).getTime();
    return pg.types.getTypeParser(oid, format);
  }) as pg.CustomTypesConfig["getTypeParser"],
};

export interface Connection extends PostgresPoolClient {
  readonly raw: pg.PoolClient;
  /** Closes it instead of giving it back, for connections with a state of their own (LISTEN). */
  destroy(): void;
}

export class Connections implements PostgresPool {
  readonly #options: ConnectionsOptions;
  #pool: pg.Pool;
  readonly #listeners = new Set<StateListener>();
  #lost = false;
  #ended = false;

  constructor(options: ConnectionsOptions) {
    this.#options = options;
    this.#pool = this.#newPool();
  }

  #newPool(): pg.Pool {
    const pool = new pg.Pool({
      ...this.#options.config(),
      types,
      max: this.#options.size,
      application_name: "keyroll",
      connectionTimeoutMillis: 10_000,
      idleTimeoutMillis: 60_000,
      keepAlive: true,
      // A process that is frozen inside a transaction must not hold its locks, the journal's end among them, for longer than this.
      idle_in_transaction_session_timeout: this.#options.idleTransactionMs,
      allowExitOnIdle: false,
    });
    // An idle connection broke: the pool has dropped it already, and the next query finds out what is going on.
    pool.on("error", (error) => this.reportLoss(error));
    return pool;
  }

  onState(listener: StateListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  reportLoss(error: unknown): void {
    if (this.#lost || this.#ended || !isConnectionLoss(error)) return;
    this.#lost = true;
    this.#tell("lost", (readable(error, this.#options.where) as Error).message);
  }

  #tell(state: "lost" | "back", detail: string): void {
    for (const listener of this.#listeners) listener(state, detail);
  }

  readable(error: unknown): unknown {
    return readable(error, this.#options.where);
  }

  /** A connection that answers, waiting up to the patience for a lost server. */
  async connect(patienceMs = this.#options.patienceMs): Promise<Connection> {
    const deadline = performance.now() + patienceMs;
    for (let pauseMs = 50; ; pauseMs = Math.min(pauseMs * 2, 1_000)) {
      try {
        const client = await this.#pool.connect();
        if (this.#lost) {
          this.#lost = false;
          this.#tell("back", `the database at ${this.#options.where} answers again`);
        }
        return this.#wrap(client);
      } catch (error) {
        if (!isConnectionLoss(error) || this.#ended) throw readable(error, this.#options.where);
        this.reportLoss(error);
        if (performance.now() > deadline) throw readable(error, this.#options.where);
        if (this.#options.ensure === null) await sleep(pauseMs);
        else await this.#options.ensure();
      }
    }
  }

  #wrap(client: pg.PoolClient): Connection {
    const where = this.#options.where;
    const failed = (error: unknown): never => {
      this.reportLoss(error);
      throw readable(error, where);
    };
    let broken: Error | undefined;
    const onError = (error: Error): void => {
      broken = error;
      this.reportLoss(error);
    };
    client.on("error", onError);
    function query<R>(sql: string, parameters: readonly unknown[]): Promise<PostgresQueryResult<R>>;
    function query<R>(cursor: InstanceType<PostgresCursorConstructor>): R;
    function query(sql: unknown, parameters?: readonly unknown[]): unknown {
      return client.query(sql as string, parameters as unknown[]).catch((error: unknown) => {
        if (isConnectionLoss(error)) broken = error as Error;
        return failed(error);
      });
    }
    return {
      raw: client,
      query: query as PostgresPoolClient["query"],
      release: () => {
        client.removeListener("error", onError);
        // A connection that broke must not go back to the pool.
        client.release(broken ?? false);
      },
      destroy: () => {
        client.removeListener("error", onError);
        client.release(true);
      },
    };
  }

  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.#pool.end();
  }
}
