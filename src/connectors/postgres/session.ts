/** Connections to the server, and what its errors mean. Drivers' errors carry statements, hosts and values, so nothing of their text is passed on. */
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import pg from "pg";
import { ConnectorError, type CallContext } from "../connector.ts";
import type { PostgresSystem } from "./schema.ts";

export interface Session {
  /** One statement. `doing` completes "while …" in messages. */
  query<Row extends pg.QueryResultRow>(
    doing: string,
    text: string,
    values?: readonly unknown[],
  ): Promise<readonly Row[]>;
}

export interface SignIn {
  readonly user: string;
  readonly password: string;
}

/** Where in a conversation an error came: it decides whether something may have been done. */
type Stage = "connect" | "query" | "commit";

/** Node's codes for a connection that never was, or is no more. */
const networkCodes = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
]);

interface PgFacts {
  /** SQLSTATE or Node's code. */
  readonly code: string;
  /** The C function that raised it: the same in every language, unlike the message. */
  readonly routine: string;
}

function pgFacts(error: unknown): PgFacts {
  const fields = error instanceof Error ? (error as Error & { code?: unknown; routine?: unknown }) : {};
  const text = (value: unknown): string =>
    typeof value === "string" && /^[A-Za-z0-9_]{1,60}$/.test(value) ? value : "";
  return { code: text((fields as { code?: unknown }).code), routine: text((fields as { routine?: unknown }).routine) };
}

const isSqlState = (code: string): boolean => /^[0-9A-Z]{5}$/.test(code) && !networkCodes.has(code);

/** The permission that each kind of change needs, for SQLSTATE 42501. */
export interface Needs {
  readonly permission: string;
  readonly next: string;
}

/** Turns a driver's error into one of ours: SQLSTATE and our own sentence, nothing else. */
function toConnectorError(error: unknown, stage: Stage, doing: string, needs?: Needs): ConnectorError {
  if (error instanceof ConnectorError) return error;
  const { code } = pgFacts(error);
  const message = error instanceof Error ? error.message : "";
  const at = `while ${doing}`;
  if (code === "28P01" || code === "28000") {
    return new ConnectorError("misconfigured", `PostgreSQL does not let the system's own user in (${code}).`, {
      next: "Correct the user and password in the system's url, or the server's pg_hba.conf.",
    });
  }
  if (code === "3D000") {
    return new ConnectorError("misconfigured", "The database in the system's url does not exist (3D000).", {
      next: "Correct the url.",
    });
  }
  if (code === "42501") {
    return new ConnectorError("misconfigured", `PostgreSQL refused ${at}: a permission is missing (42501).`, needs);
  }
  if (code === "25006") {
    return new ConnectorError("misconfigured", `The server is read-only, ${at} (25006): it is a standby, or set so.`, {
      next: "Point the system's url at the primary.",
    });
  }
  if (code === "53300") return new ConnectorError("unavailable", `PostgreSQL has no connection left, ${at} (53300).`);
  if (code === "57P03")
    return new ConnectorError("unavailable", `PostgreSQL is starting up or shutting down, ${at} (57P03).`);
  if (code === "55P03" || code === "40001" || code === "40P01" || code === "XX000") {
    // XX000 "tuple concurrently updated" is how the catalogues answer two sessions that alter one role.
    return new ConnectorError(
      "conflict",
      `Another session was changing the same roles, ${at} (${code}). Nothing was changed.`,
    );
  }
  if (isSqlState(code) && !code.startsWith("57P") && !code.startsWith("08")) {
    if (code === "57014")
      return new ConnectorError("unavailable", `PostgreSQL took too long ${at} (57014). Nothing was changed.`);
    if (code.startsWith("53"))
      return new ConnectorError("unavailable", `PostgreSQL is out of resources, ${at} (${code}).`);
    return new ConnectorError("refused", `PostgreSQL refused ${at} (${code}).`);
  }
  if (stage === "commit") {
    return new ConnectorError("unknown-outcome", `The connection was lost ${at}, after the change had been sent.`, {
      next: "Look at the roles before anything is repeated.",
    });
  }
  if (/^(ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|ERR_SSL)/.test(code) || /certificate/i.test(message)) {
    const shown = /^[A-Z_]+$/.test(code) ? ` (${code})` : "";
    return new ConnectorError("misconfigured", `The server's certificate is not trusted${shown}.`, {
      next: "Give the CA that signed it in tls.ca, and the name that it carries in tls.serverName.",
    });
  }
  if (/does not support SSL/i.test(message)) {
    return new ConnectorError("misconfigured", "The server does not offer TLS.", {
      next: "Turn ssl on at the server, or set tls: off for a connection that nobody can listen to.",
    });
  }
  if (/^SASL|SCRAM/.test(message)) {
    return new ConnectorError("misconfigured", "The sign-in of the system's own user could not be completed (SASL).", {
      next: "Check that the system's url has a password, and that it reaches the server itself.",
    });
  }
  const shown = code === "" ? "" : ` (${code})`;
  return new ConnectorError(
    "unavailable",
    `PostgreSQL could not be reached or went away ${at}${shown}. Nothing was changed.`,
  );
}

function clientConfig(system: PostgresSystem, who: SignIn): pg.ClientConfig {
  const { tls } = system;
  return {
    host: system.host,
    port: system.port,
    database: system.database,
    user: who.user,
    password: who.password,
    application_name: "keyroll",
    connectionTimeoutMillis: system.connectTimeoutMs,
    // Never from the machine's environment (PGSSLMODE): what is declared is what is used.
    ssl:
      tls.mode === "off"
        ? false
        : {
            rejectUnauthorized: tls.mode === "verify-full",
            // The driver asks for the host of the url whatever it is told, so the name is judged here.
            checkServerIdentity: (_host: string, peer: PeerCertificate) =>
              checkServerIdentity(tls.serverName ?? system.host, peer),
            ...(tls.ca === undefined ? {} : { ca: tls.ca }),
          },
  };
}

/** Opens a connection, runs `body`, closes it. Aborting the call cuts the connection, so that no verb outlives its time limit. */
async function withClient<R>(
  cx: CallContext,
  config: pg.ClientConfig,
  stageNow: { stage: Stage },
  body: (client: pg.Client) => Promise<R>,
): Promise<R> {
  if (cx.signal.aborted) throw new ConnectorError("unavailable", "The call was cancelled before anything was sent.");
  await cx.throttle();
  if (cx.signal.aborted) throw new ConnectorError("unavailable", "The call was cancelled before anything was sent.");
  const client = new pg.Client(config);
  // A connection that dies while nothing is being asked reports it here; the next query fails with it.
  client.on("error", () => undefined);
  const cut = (): void =>
    void (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
  cx.signal.addEventListener("abort", cut, { once: true });
  try {
    stageNow.stage = "connect";
    await client.connect();
    stageNow.stage = "query";
    return await body(client);
  } finally {
    cx.signal.removeEventListener("abort", cut);
    // `end` waits for the other side; a connection that was cut has no other side.
    await Promise.race([
      client.end().catch(() => undefined),
      new Promise((resolve) => setTimeout(resolve, 1000).unref()),
    ]);
  }
}

/** A connection as the system's own user. Each call signs in anew, so that a sign-in that no longer works is seen at once. */
export async function withSession<R>(
  cx: CallContext,
  system: PostgresSystem,
  body: (session: Session) => Promise<R>,
): Promise<R> {
  const at: { stage: Stage } = { stage: "connect" };
  try {
    return await withClient(cx, adminConfig(system), at, async (client) => body(sessionOf(client)));
  } catch (error) {
    throw toConnectorError(error, at.stage, "signing in");
  }
}

/**
 * One transaction under an advisory lock on `lock`, so that two Keyrolls (or two workers) change one set of roles one after the other. Until
 * COMMIT is sent, a lost connection means that nothing was done; after that it is an unknown outcome.
 */
export async function change<R>(
  cx: CallContext,
  system: PostgresSystem,
  lock: string,
  needs: Needs,
  body: (session: Session) => Promise<R>,
): Promise<R> {
  const at: { stage: Stage } = { stage: "connect" };
  try {
    return await withClient(cx, adminConfig(system), at, async (client) => {
      const session = sessionOf(client, needs);
      await session.query("starting", "begin");
      await session.query(
        "starting",
        `set local lock_timeout = ${Math.trunc(Math.min(system.statementTimeoutMs, 5000))}`,
      );
      await session.query("waiting for its turn", "select pg_advisory_xact_lock(hashtext('keyroll'), hashtext($1))", [
        lock,
      ]);
      const result = await body(session);
      if (cx.signal.aborted) throw new ConnectorError("unavailable", "The call was cancelled. Nothing was changed.");
      at.stage = "commit";
      await client.query("commit");
      return result;
    });
  } catch (error) {
    throw toConnectorError(error, at.stage, at.stage === "connect" ? "signing in" : "changing roles", needs);
  }
}

function adminConfig(system: PostgresSystem): pg.ClientConfig {
  return {
    ...clientConfig(system, { user: system.user, password: system.password.reveal() }),
    statement_timeout: system.statementTimeoutMs,
    // A little longer than the server's own limit, which gives the better answer.
    query_timeout: system.statementTimeoutMs + 2000,
  };
}

function sessionOf(client: pg.Client, needs?: Needs): Session {
  return {
    async query<Row extends pg.QueryResultRow>(
      doing: string,
      text: string,
      values: readonly unknown[] = [],
    ): Promise<readonly Row[]> {
      try {
        return (await client.query<Row>(text, [...values])).rows;
      } catch (error) {
        throw toConnectorError(error, "query", doing, needs);
      }
    },
  };
}

/** One sign-in as somebody else, and who one is then. Answers with the server's verdict; everything that is no verdict is `unknown`. */
export async function trySignIn(
  cx: CallContext,
  system: PostgresSystem,
  who: SignIn,
): Promise<{ outcome: "accepted"; currentUser: string } | { outcome: "refused" | "unknown"; detail: string }> {
  const at: { stage: Stage } = { stage: "connect" };
  try {
    return await withClient(
      cx,
      { ...clientConfig(system, who), query_timeout: system.statementTimeoutMs },
      at,
      async (client) => {
        // Only a round trip proves it: with TLS 1.3 a client is through its handshake before the server has judged it.
        const { rows } = await client.query<{ who: string }>("select current_user::text as who");
        return { outcome: "accepted" as const, currentUser: rows[0]?.who ?? "" };
      },
    );
  } catch (error) {
    if (error instanceof ConnectorError) return { outcome: "unknown", detail: error.message };
    const { code, routine } = pgFacts(error);
    if (at.stage === "connect" && code === "28P01")
      return { outcome: "refused", detail: "the password is not accepted (28P01)" };
    if (at.stage === "connect" && code === "28000") {
      // The same SQLSTATE says that pg_hba.conf has no line for us: that tells nothing about the credential.
      if (routine === "ClientAuthentication")
        return { outcome: "unknown", detail: "pg_hba.conf lets nobody sign in from here (28000)" };
      return { outcome: "refused", detail: "the role may not sign in (28000)" };
    }
    const shown = code === "" ? "no answer" : code;
    return { outcome: "unknown", detail: `the server gave no verdict (${shown})` };
  }
}

/** A quoted identifier. PostgreSQL's rule: doubled quotes, no NUL (refused by the schema). */
export const identifier = (name: string): string => pg.escapeIdentifier(name);
export const literal = (text: string): string => pg.escapeLiteral(text);
