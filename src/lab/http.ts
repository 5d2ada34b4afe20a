/** What the lab's services see of a request and what they answer. */
import type { X509Certificate } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";

export interface LabRequest {
  readonly method: string;
  /** `https://localhost:40001`: how the caller wrote it, so that links lead back the same way. */
  readonly origin: string;
  /** Which listener it came in on. */
  readonly port: number;
  readonly path: string;
  /** The path, decoded, without empty parts at its ends. */
  readonly segments: readonly string[];
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly requestId: string;
  /** What the client showed in the TLS handshake, leaf first; the handshake proves that it has the leaf's key, and nothing about the chain. */
  readonly peer: readonly X509Certificate[];
}

export interface Reply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as JSON; absent: no body. */
  readonly body?: unknown;
  /** Sent as it is, in place of JSON. */
  readonly text?: { readonly type: string; readonly content: string };
}

/** Thrown by a service to answer with an error; anything else that is thrown is a mistake of the lab itself. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly reply: Reply;
  constructor(reply: Reply) {
    super(`answered ${reply.status}`);
    this.reply = reply;
  }
}

export type Json = Readonly<Record<string, unknown>>;

export const isRecord = (value: unknown): value is Json =>
  value !== null && typeof value === "object" && !Array.isArray(value);

/** `undefined`: the body is not a JSON object. */
export function jsonBody(request: LabRequest): Json | undefined {
  try {
    const value: unknown = request.body === "" ? {} : JSON.parse(request.body);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Without entries that are undefined, so that an answer never carries an invented field. */
export function compact<T extends Json>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, each]) => each !== undefined)) as T;
}

export const text = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);
export const seconds = (ms: number): number => Math.floor(ms / 1000);
/** `2026-11-21T10:00:00Z`, as Graph writes credentials' times. */
export const isoSeconds = (ms: number): string => new Date(ms).toISOString().replace(/\.\d{3}Z$/, "Z");

/** One page out of a list, and the offset of the next one. */
export function page<T>(
  all: readonly T[],
  offset: number,
  size: number,
): { readonly items: readonly T[]; readonly next: number | null } {
  const items = all.slice(offset, offset + size);
  return { items, next: offset + size < all.length ? offset + size : null };
}
export const skipToken = (offset: number): string => Buffer.from(JSON.stringify({ offset })).toString("base64url");
/** 0 where there is none; `null`: not one of ours. */
export function readSkipToken(token: string | null): number | null {
  if (token === null) return 0;
  try {
    const value: unknown = JSON.parse(Buffer.from(token, "base64url").toString());
    return isRecord(value) && typeof value["offset"] === "number" ? value["offset"] : null;
  } catch {
    return null;
  }
}
