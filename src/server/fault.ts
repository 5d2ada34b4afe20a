/** Errors on their way to HTTP: one place that knows which status each has, and that what is our mistake says nothing about its inside. */
import { randomUUID } from "node:crypto";
import { describeError } from "../app.ts";
import type { Log } from "../connectors/connector.ts";
import { Problem } from "../core/problem.ts";
import type { ProblemDocument } from "./schema.ts";

const titles: Readonly<Record<number, string>> = {
  400: "The request is not right",
  401: "Not signed in",
  403: "Not allowed",
  404: "Not found",
  405: "Not like that",
  409: "Not now",
  413: "Too large",
  415: "Not JSON",
  421: "Not this server",
  422: "Not the same request",
  429: "Too many requests",
  500: "A mistake in Keyroll",
  502: "A system outside failed",
  503: "Not available now",
  504: "No answer from a system outside",
};

/** What the HTTP side itself refuses. */
export class Fault extends Error {
  override readonly name = "Fault";
  readonly status: number;
  readonly kind: string;
  readonly next: string | null;
  readonly errors: readonly { readonly path: string; readonly detail: string }[] | null;
  readonly headers: Readonly<Record<string, string>>;
  constructor(
    status: number,
    kind: string,
    message: string,
    more: {
      readonly next?: string;
      readonly errors?: readonly { path: string; detail: string }[];
      readonly headers?: Readonly<Record<string, string>>;
    } = {},
  ) {
    super(message);
    this.status = status;
    this.kind = kind;
    this.next = more.next ?? null;
    this.errors = more.errors ?? null;
    this.headers = more.headers ?? {};
  }
}

/** Absent and not readable are told alike, so that nobody can ask which names exist. */
export function notFound(what: string, name: string): Fault {
  return new Fault(404, "not-found", `There is no ${what} "${name}", or you may not see it.`);
}

const statusByKind: Readonly<Record<string, number>> = {
  // Problem
  usage: 400,
  refused: 409,
  waiting: 409,
  stale: 409,
  "not-allowed": 403,
  "not-found": 404,
  failed: 502,
  // Outside systems
  throttled: 503,
  unavailable: 503,
  conflict: 409,
  "unknown-outcome": 504,
  misconfigured: 502,
  // Store
  "already-rotating": 409,
  "fenced-off": 409,
  "disk-full": 503,
  permission: 503,
  "cannot-start": 503,
  "newer-schema": 503,
  "newer-data": 503,
  "wrong-kek": 503,
  tampered: 503,
  estate: 503,
};

export interface Answerable {
  readonly document: ProblemDocument;
  readonly headers: Readonly<Record<string, string>>;
}

/** For a bug: the reader gets a reference, the log gets the rest. */
export function problemOf(error: unknown, log: Log): Answerable {
  if (error instanceof Fault) {
    const { status, kind, message, next, errors, headers } = error;
    return {
      document: document(status, kind, message, null, next, errors === null ? {} : { errors: [...errors] }),
      headers,
    };
  }
  const told = describeError(error);
  if (told.bug) {
    const reference = randomUUID();
    log.warn("a request failed by a mistake in Keyroll", {
      reference,
      error: error instanceof Error ? (error.stack ?? error.message) : String(error),
    });
    return {
      document: document(
        500,
        "bug",
        "Something went wrong that should not be able to.",
        null,
        "Report it with the reference; the server's log has more under it.",
        { reference },
      ),
      headers: {},
    };
  }
  const status = statusByKind[told.kind] ?? 503;
  // The place in a declaration is for people of the estate; a file of the server is not.
  const where = error instanceof Problem ? told.where : null;
  return {
    document: document(status, told.kind, told.message, where, told.next),
    headers: status === 503 ? { "retry-after": "5" } : {},
  };
}

function document(
  status: number,
  kind: string,
  detail: string,
  where: string | null,
  next: string | null,
  more: Partial<ProblemDocument> = {},
): ProblemDocument {
  return {
    type: `urn:keyroll:problem:${kind}`,
    title: titles[status] ?? "Failed",
    status,
    detail,
    kind,
    where,
    next,
    ...more,
  };
}
