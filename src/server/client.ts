/**
 * The API as typed calls over `fetch`, for the dashboard and for `keyroll --server`. No validator and nothing of Node is loaded with it. Errors
 * come as {@link ApiProblem}; a network that failed comes as the `TypeError` that `fetch` throws.
 */
import type { z } from "zod";
import { operations, type OperationName } from "./operations.ts";
import type { Contracts, ProblemDocument } from "./schema.ts";

type Part<K extends OperationName, P extends string> =
  Contracts[K] extends Readonly<Record<P, infer S>> ? (S extends z.ZodType ? z.input<S> : never) : never;
type Given<K extends OperationName, P extends string> = [Part<K, P>] extends [never]
  ? { readonly [Name in P]?: never }
  : Record<never, never> extends Part<K, P>
    ? { readonly [Name in P]?: Part<K, P> }
    : { readonly [Name in P]: Part<K, P> };

export type Input<K extends OperationName> = Given<K, "params"> & Given<K, "query"> & Given<K, "body">;
export type Output<K extends OperationName> = z.output<Contracts[K]["response"]>;

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** For writes that may be sent again: the same key is done once. Default: a fresh one for each call. */
  readonly idempotencyKey?: string;
  /** What was known before: the answer is `null` where nothing changed since. */
  readonly etag?: string;
}
export interface Answer<T> {
  readonly data: T;
  readonly etag: string | null;
}

export class ApiProblem extends Error {
  override readonly name = "ApiProblem";
  readonly problem: ProblemDocument;
  readonly retryAfterMs: number | null;
  constructor(problem: ProblemDocument, retryAfterMs: number | null) {
    super(problem.detail);
    this.problem = problem;
    this.retryAfterMs = retryAfterMs;
  }
  get status(): number {
    return this.problem.status;
  }
}

export interface ClientOptions {
  /** Origin and base path, without a slash at the end: `""` in the browser, `https://keyroll.example/below` elsewhere. */
  readonly base: string;
  /** An API token; a browser has its cookie instead. */
  readonly token?: string;
  readonly fetch?: typeof globalThis.fetch;
}

export interface Client {
  call<K extends OperationName>(name: K, ...rest: Rest<K>): Promise<Output<K>>;
  /** The same with the `ETag`; `null`: nothing changed since `options.etag`. */
  read<K extends OperationName>(name: K, input: Input<K>, options?: CallOptions): Promise<Answer<Output<K>> | null>;
  /** Address of an operation: for `EventSource`, downloads and links. */
  url<K extends OperationName>(name: K, input: Input<K>): string;
}
type Rest<K extends OperationName> =
  Record<never, never> extends Input<K>
    ? [input?: Input<K>, options?: CallOptions]
    : [input: Input<K>, options?: CallOptions];

interface Loose {
  readonly params?: Readonly<Record<string, unknown>>;
  readonly query?: Readonly<Record<string, unknown>>;
  readonly body?: unknown;
}

export function createClient(options: ClientOptions): Client {
  const send = options.fetch ?? ((...args: Parameters<typeof globalThis.fetch>) => globalThis.fetch(...args));

  function url(name: OperationName, input: Loose): string {
    const path = operations[name][1].replace(/\{(\w+)\}/g, (_, key: string) =>
      encodeURIComponent(String(input.params?.[key])),
    );
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries(input.query ?? {}))
      if (value !== undefined && value !== null) search.set(key, String(value));
    const text = search.toString();
    return `${options.base}${path}${text === "" ? "" : `?${text}`}`;
  }

  async function read<K extends OperationName>(
    name: K,
    input: Input<K>,
    more: CallOptions = {},
  ): Promise<Answer<Output<K>> | null> {
    const [method] = operations[name];
    const loose = input as Loose;
    const writes = method !== "GET";
    const response = await send(url(name, loose), {
      method,
      credentials: "same-origin",
      redirect: "error",
      headers: {
        accept: "application/json, application/problem+json",
        // A page of another origin cannot send this header without being asked first (CSRF).
        "x-keyroll": "1",
        ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
        ...(writes ? { "idempotency-key": more.idempotencyKey ?? freshKey() } : {}),
        ...(method === "POST" || method === "PATCH" ? { "content-type": "application/json" } : {}),
        ...(more.etag === undefined ? {} : { "if-none-match": more.etag }),
      },
      ...(method === "POST" || method === "PATCH" ? { body: JSON.stringify(loose.body ?? {}) } : {}),
      ...(more.signal === undefined ? {} : { signal: more.signal }),
    });
    if (response.status === 304) return null;
    if (!response.ok) throw await problemOf(response);
    const json = response.headers.get("content-type")?.includes("json") === true;
    const data =
      json && !response.headers.get("content-type")!.includes("ndjson") ? await response.json() : await response.text();
    return { data: data as Output<K>, etag: response.headers.get("etag") };
  }

  return {
    read,
    url: (name, input) => url(name, input as Loose),
    async call(name, ...[input, more]) {
      const answer = await read(name, input ?? ({} as never), more);
      if (answer === null) throw new Error("not modified, although nothing was known before");
      return answer.data;
    },
  };
}

/** Not `randomUUID`, which browsers keep from pages that come over plain HTTP. */
function freshKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function problemOf(response: Response): Promise<ApiProblem> {
  const after = Number(response.headers.get("retry-after") ?? Number.NaN);
  const retryAfterMs = Number.isFinite(after) ? after * 1000 : null;
  try {
    const value: unknown = await response.json();
    if (value !== null && typeof value === "object" && "detail" in value)
      return new ApiProblem(value as ProblemDocument, retryAfterMs);
  } catch {
    // Something between here and the server answered for it.
  }
  return new ApiProblem(
    {
      type: "about:blank",
      title: response.statusText,
      status: response.status,
      detail: `The server answered ${response.status} without saying why.`,
      kind: response.status >= 500 ? "unavailable" : "refused",
      where: null,
      next: "Try again; if it stays, ask whoever runs the server or the proxy before it.",
    },
    retryAfterMs,
  );
}
