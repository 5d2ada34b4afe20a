/**
 * Signing in and asking: one connection pool and one token cache for each tenant of the estate, plain REST over it, and what the answers mean.
 * Nothing of a foreign message is passed on: codes that look like codes, and our own sentences.
 */
import { rootCertificates } from "node:tls";
import type { TokenCredential } from "@azure/identity";
import type { Agent } from "undici";
import { ConnectorError } from "../../connector.ts";
import type { CallContext } from "../../connector.ts";
import { codeOf, throwIfCancelled } from "../calls.ts";
import type { MicrosoftSystem } from "./system.ts";

export interface Session {
  readonly system: MicrosoftSystem;
  readonly credential: TokenCredential;
  agent(): Promise<Agent>;
  /** For the SDKs. */
  readonly tls: { readonly ca?: string };
}

/** One for each configured system: tokens and connections are kept between calls, and go when the settings go. */
const sessions = new WeakMap<MicrosoftSystem, Session>();

export function sessionOf(system: MicrosoftSystem): Session {
  const kept = sessions.get(system);
  if (kept !== undefined) return kept;
  // Given CAs replace the built-in ones in Node, so both are given.
  const ca = system.ca === undefined ? undefined : [...rootCertificates, system.ca].join("\n");
  const tls = ca === undefined ? {} : { ca };
  // The libraries are loaded when they are first needed: most commands never speak to Microsoft, and would wait for them.
  let credential: Promise<TokenCredential> | undefined;
  let agent: Promise<Agent> | undefined;
  const made: Session = {
    system,
    tls,
    credential: {
      async getToken(scopes, options) {
        try {
          credential ??= credentialOf(system, tls);
          return await (await credential).getToken(scopes, options);
        } catch (error) {
          // Mapped here, so that it is the same whether we ask for the token or an SDK does.
          const failure = signInFailure(error, system);
          if (failure.kind === "unavailable" && (await isNoTenant(made))) throw noTenant(system);
          throw failure;
        }
      },
    },
    agent() {
      agent ??= import("undici").then(
        (undici) =>
          new undici.Agent({
            connect: { ...tls, timeout: Math.min(10_000, system.requestTimeoutMs) },
            connections: 16,
          }),
      );
      return agent;
    },
  };
  sessions.set(system, made);
  return made;
}

async function credentialOf(system: MicrosoftSystem, tls: { readonly ca?: string }): Promise<TokenCredential> {
  const identity = await import("@azure/identity");
  const { auth, tenant, endpoints } = system;
  const common = { tlsOptions: tls, retryOptions: { maxRetries: 0 } };
  // Discovery asks the public cloud which authorities exist; a private or sovereign one is not among them.
  const authority = {
    authorityHost: endpoints.authority,
    disableInstanceDiscovery: !isPublicAuthority(endpoints.authority),
  };
  switch (auth.method) {
    case "client-secret":
      return new identity.ClientSecretCredential(tenant, auth.clientId, auth.clientSecret.reveal(), {
        ...common,
        ...authority,
      });
    case "client-certificate":
      return new identity.ClientCertificateCredential(
        tenant,
        auth.clientId,
        { certificate: auth.pem.reveal() },
        { ...common, ...authority },
      );
    case "managed-identity":
      return auth.clientId === undefined
        ? new identity.ManagedIdentityCredential(common)
        : new identity.ManagedIdentityCredential(auth.clientId, common);
    case "workload-identity":
      return new identity.WorkloadIdentityCredential({
        tenantId: tenant,
        ...(auth.clientId === undefined ? {} : { clientId: auth.clientId }),
        ...(auth.tokenFile === undefined ? {} : { tokenFilePath: auth.tokenFile }),
        ...common,
        ...authority,
      });
    case "azure-cli":
      return new identity.AzureCliCredential({ tenantId: tenant });
  }
}

const isPublicAuthority = (authority: string): boolean =>
  /^https:\/\/login\.(microsoftonline\.com|microsoftonline\.us|chinacloudapi\.cn)$/.test(authority);

/** What a request needs, named exactly, for 403. */
export interface Needs {
  readonly permission: string;
  readonly next: string;
}

export interface Ask {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly url: string;
  /** The resource that the token is for, such as `https://graph.microsoft.com`. `null`: the address carries its own signature. */
  readonly resource: string | null;
  readonly body?: unknown;
  /** Completes "while …" in messages. */
  readonly doing: string;
  /** It changes something, so that silence is an unknown outcome. */
  readonly effect: boolean;
  readonly needs: Needs;
  /** Other statuses that the caller reads itself. */
  readonly alsoOk?: readonly number[];
}

export interface Answer {
  readonly status: number;
  /** Parsed JSON; `null` where there is no body. */
  readonly json: unknown;
  /** The error code of the answer, where it has one. */
  readonly code: string;
}

/** Sends one request. Every failure is a {@link ConnectorError}. */
export async function ask(cx: CallContext, session: Session, what: Ask): Promise<Answer> {
  throwIfCancelled(cx);
  await cx.throttle();
  const token = what.resource === null ? null : await accessToken(cx, session, what.resource);
  throwIfCancelled(cx);
  const signal = AbortSignal.any([cx.signal, AbortSignal.timeout(session.system.requestTimeoutMs)]);
  let status: number;
  let text: string;
  let retryAfter: string | undefined;
  const [{ request }, dispatcher] = await Promise.all([import("undici"), session.agent()]);
  try {
    const answer = await request(what.url, {
      method: what.method,
      dispatcher,
      signal,
      headers: {
        accept: "application/json",
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(what.body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(what.body === undefined ? {} : { body: JSON.stringify(what.body) }),
    });
    status = answer.statusCode;
    const header = answer.headers["retry-after"];
    retryAfter = Array.isArray(header) ? header[0] : header;
    text = await answer.body.text();
  } catch (error) {
    throw networkFailure(error, what.doing, what.effect);
  }
  let json: unknown = null;
  let readable = true;
  if (text !== "") {
    try {
      json = JSON.parse(text);
    } catch {
      readable = false;
    }
  }
  const code = errorCodeOf(json);
  if (status >= 200 && status < 300) {
    if (readable) return { status, json, code };
    throw new ConnectorError(
      what.effect ? "unknown-outcome" : "unavailable",
      `The answer was not JSON, while ${what.doing} (${status}).`,
      { next: "If something stands between Keyroll and the service, it may have answered instead." },
    );
  }
  if (what.alsoOk?.includes(status)) return { status, json, code };
  throw statusFailure({
    status,
    code,
    retryAfterMs: retryAfterMs(retryAfter, cx.now()),
    doing: what.doing,
    effect: what.effect,
    needs: named(what.needs, json),
  });
}

/** Azure says which action was missing: that is the exact name to give a role for. */
function named(needs: Needs, json: unknown): Needs {
  const message = field(field(json, "error"), "message");
  const action = typeof message === "string" ? /perform action '([A-Za-z0-9./]{3,120})'/.exec(message)?.[1] : undefined;
  return action === undefined ? needs : { permission: `${needs.permission} (${action})`, next: needs.next };
}

/** Codes are words; anything else is somebody's text and stays out. */
function errorCodeOf(json: unknown): string {
  const code = field(field(json, "error"), "code") ?? field(json, "code");
  return typeof code === "string" && /^[A-Za-z0-9_.-]{1,80}$/.test(code) ? code : "";
}

export function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, name)
    ? (value as Record<string, unknown>)[name]
    : undefined;
}

/** Seconds or an HTTP date (RFC 9110, 10.2.3). */
export function retryAfterMs(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined) return undefined;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs);
}

export interface Refusal {
  readonly status: number;
  readonly code: string;
  readonly retryAfterMs: number | undefined;
  readonly doing: string;
  readonly effect: boolean;
  readonly needs: Needs;
}

/** What an HTTP status means for the caller. */
export function statusFailure(answer: Refusal): ConnectorError {
  const { status, doing, effect, needs } = answer;
  const shown = answer.code === "" ? `${status}` : `${status} ${answer.code}`;
  const wait = answer.retryAfterMs === undefined ? {} : { retryAfterMs: answer.retryAfterMs };
  if (status === 429)
    return new ConnectorError("throttled", `Microsoft asks to slow down, while ${doing} (${shown}).`, wait);
  if (status === 401) {
    return new ConnectorError("misconfigured", `The sign-in is not accepted, while ${doing} (${shown}).`, {
      permission: needs.permission,
      next: "Check the tenant and the endpoints of the system: the token was issued for another one.",
    });
  }
  if (status === 403) {
    return new ConnectorError("misconfigured", `A permission is missing, while ${doing} (${shown}).`, needs);
  }
  if (status === 409 || status === 412) {
    return new ConnectorError("conflict", `Somebody else was changing the same thing, while ${doing} (${shown}).`);
  }
  if (status === 503 || status === 502 || status === 504 || status >= 500) {
    // A gateway's word about what lies behind it: the request may have come through.
    if (effect && status !== 503) {
      return new ConnectorError("unknown-outcome", `The service failed while ${doing} (${shown}).`, {
        ...wait,
        next: "Look before anything is repeated.",
      });
    }
    return new ConnectorError("unavailable", `The service is not available, while ${doing} (${shown}).`, wait);
  }
  if (status === 404) {
    return new ConnectorError("misconfigured", `It was not found, while ${doing} (${shown}).`, {
      next: "Check the name in the place's settings, and that the sign-in can see it.",
    });
  }
  return new ConnectorError("refused", `The service refused, while ${doing} (${shown}).`);
}

/** Failures before a byte of the request can have been sent. */
const neverSent = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);

export function networkFailure(error: unknown, doing: string, effect: boolean): ConnectorError {
  if (error instanceof ConnectorError) return error;
  const code = deepCode(error);
  if (/^(CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|ERR_TLS|ERR_SSL)/.test(code)) {
    return new ConnectorError("misconfigured", `The server's certificate is not trusted, while ${doing} (${code}).`, {
      next: "Give the CA that signed it in the system's ca.",
    });
  }
  const shown = code === "" ? "" : ` (${code})`;
  if (!effect || neverSent.has(code))
    return new ConnectorError("unavailable", `The service could not be reached, while ${doing}${shown}.`);
  return new ConnectorError("unknown-outcome", `No answer came, while ${doing}${shown}.`, {
    next: "Look before anything is repeated.",
  });
}

/** The code of the innermost cause that has one: SDKs wrap what the socket said. */
function deepCode(error: unknown): string {
  let found = "";
  let at: unknown = error;
  for (let depth = 0; depth < 5 && at !== undefined && at !== null; depth++) {
    const code = codeOf(at);
    if (code !== undefined && /^[A-Z][A-Z0-9_]{1,60}$/.test(code) && code !== "REQUEST_SEND_ERROR") found = code;
    if (at instanceof AggregateError) at = at.errors[0];
    else at = at instanceof Error ? at.cause : undefined;
  }
  return found;
}

/** The library does not say why it could not find out where a tenant signs in. The tenant's own document does. */
async function isNoTenant(session: Session): Promise<boolean> {
  const { endpoints, tenant, requestTimeoutMs } = session.system;
  try {
    const [{ request }, dispatcher] = await Promise.all([import("undici"), session.agent()]);
    const url = `${endpoints.authority}/${encodeURIComponent(tenant)}/v2.0/.well-known/openid-configuration`;
    const answer = await request(url, { dispatcher, signal: AbortSignal.timeout(Math.min(5000, requestTimeoutMs)) });
    const json: unknown = await answer.body.json();
    const text = field(json, "error_description");
    return answer.statusCode === 400 && typeof text === "string" && text.startsWith("AADSTS90002");
  } catch {
    // Nobody answers there either, which is what was said already.
    return false;
  }
}
function noTenant(system: MicrosoftSystem): ConnectorError {
  return new ConnectorError("misconfigured", `There is no tenant ${system.tenant} in this cloud (AADSTS90002).`, {
    permission: `a sign-in at ${system.tenant}`,
    next: "Correct the system's tenant or cloud.",
  });
}

/** A token for Keyroll itself. Nothing is done yet, so no failure is of unknown outcome. */
async function accessToken(cx: CallContext, session: Session, resource: string): Promise<string> {
  try {
    const token = await session.credential.getToken(`${resource}/.default`, { abortSignal: cx.signal });
    if (token === null) throw new ConnectorError("misconfigured", "The sign-in gave no token.");
    return token.token;
  } catch (error) {
    throw signInFailure(error, session.system);
  }
}

/** What Entra's sign-in errors mean. Codes: https://learn.microsoft.com/entra/identity-platform/reference-error-codes */
export function signInFailure(error: unknown, system: MicrosoftSystem): ConnectorError {
  if (error instanceof ConnectorError) return error;
  const code = signInCode(error);
  const status = statusOf(error);
  if (code === "AADSTS90055" || code === "AADSTS50196" || status === 429)
    return new ConnectorError("throttled", "Entra asks to slow down while Keyroll signs in.");
  if (code !== "" && !["AADSTS90033", "AADSTS90085", "AADSTS50087"].includes(code)) {
    return new ConnectorError("misconfigured", `Keyroll cannot sign in to the tenant (${code}).`, {
      permission: `a sign-in at ${system.tenant}`,
      next: adviceFor(code),
    });
  }
  const name = error instanceof Error ? error.name : "";
  if (name === "CredentialUnavailableError" && system.auth.method !== "client-secret" && deepCode(error) === "") {
    return new ConnectorError(
      "misconfigured",
      `Keyroll's sign-in method ${system.auth.method} is not available here.`,
      {
        permission: `a sign-in at ${system.tenant}`,
        next:
          system.auth.method === "azure-cli"
            ? "Run az login."
            : "Run Keyroll where that identity is, or choose another method.",
      },
    );
  }
  const network = networkFailure(error, "Keyroll signs in", false);
  return network;
}

function adviceFor(code: string): string {
  if (code === "AADSTS7000222") return "The client secret of the system's auth has expired: give it a new one.";
  if (code === "AADSTS7000215") return "The client secret of the system's auth is wrong: give its value, not its id.";
  if (code === "AADSTS700016") return "The clientId of the system's auth is not an application of this tenant.";
  if (code === "AADSTS700027")
    return "The certificate of the system's auth is not on the application, or its clock is off.";
  if (code === "AADSTS90002") return "The tenant does not exist in this cloud: correct the system's tenant or cloud.";
  return "Correct the system's auth.";
}

export function signInCode(error: unknown): string {
  const codes = field(field(error, "errorResponse"), "errorCodes");
  if (Array.isArray(codes) && typeof codes[0] === "number") return `AADSTS${codes[0]}`;
  const text = error instanceof Error ? error.message : "";
  return /AADSTS\d{2,9}/.exec(text)?.[0] ?? "";
}
function statusOf(error: unknown): number {
  const status = field(error, "statusCode");
  return typeof status === "number" ? status : 0;
}
