/** What the services of the lab share: the state, the clock, the dice, and who is asking. */
import { createHash, createPrivateKey, createPublicKey, sign, verify } from "node:crypto";
import { replicas, propagationMs, type Faults } from "./faults.ts";
import { isRecord, seconds, type LabRequest, type Reply } from "./http.ts";
import type { Random } from "./random.ts";
import type { ServicePrincipal, Spread, TenantState, Vault } from "./state.ts";

export interface Lab {
  readonly state: TenantState;
  now(): number;
  /** So much of the lab's time in milliseconds of ours. */
  span(ms: number): number;
  faults(): Faults;
  readonly ids: Random;
  readonly dice: Random;
  /** Where sign-in, Graph and ARM are. */
  origin(): string;
  vaultUrl(vault: Vault): string;
  vaultAt(port: number): Vault | undefined;
  /** What listens there: `main`, `vault NAME`, `dps NAME`, `hub NAME`. */
  listenerAt(port: number): string | undefined;
  /** A permission that was taken away from Keyroll's own principal. */
  denied(permission: string): boolean;
  /** Must be called after every change, so that it is kept. */
  changed(): void;
  /** What an application looked like, for reads that lag. */
  readonly past: Map<string, { untilMs: number; value: unknown }[]>;
}

/** One of the services behind the addresses. */
export interface Service {
  readonly name: string;
  handle(request: LabRequest): Promise<Reply>;
  /** The service's own words for "too many requests". */
  throttled(request: LabRequest, retryAfterS: number): Reply;
  unavailable(request: LabRequest): Reply;
  /** Milliseconds until this call is within the published limits; 0: now. */
  limit(request: LabRequest): number;
}

/** The first 8 hex digits of its SHA-256: how the lab names a secret's version without showing it. */
export const fingerprint = (secret: string): string => createHash("sha256").update(secret).digest("hex").slice(0, 8);

/** When each replica hears of something that happens now. */
export function spread(lab: Lab): number[] {
  const now = lab.now();
  return Array.from({ length: replicas }, () =>
    lab.faults().propagation ? now + lab.span(lab.ids.between(propagationMs.from, propagationMs.to)) : now,
  );
}
export function knownAt(item: Spread, replica: number, nowMs: number): boolean {
  const from = item.knownFromMs[replica] ?? 0;
  const until = item.knownUntilMs?.[replica];
  return from <= nowMs && (until === undefined || nowMs < until);
}

/** Keeps what a thing was until now, for reads that lag. */
export function remember(lab: Lab, key: string, value: unknown): void {
  const past = lab.past.get(key) ?? [];
  past.push({ untilMs: lab.now(), value: structuredClone(value) });
  lab.past.set(key, past.slice(-8));
}
/** The thing as a replica sees it that is behind by as much as the faults allow. */
export function lagging<T>(lab: Lab, key: string, value: T): T {
  const { readLagMs } = lab.faults();
  if (readLagMs === 0) return value;
  const atMs = lab.now() - lab.span(readLagMs) * lab.dice.next();
  const old = lab.past.get(key)?.find((each) => each.untilMs > atMs);
  return old === undefined ? value : (old.value as T);
}

/** Resources that tokens are issued for: the audience, and the other names it is asked for by. */
export const audiences: Readonly<Record<string, readonly string[]>> = {
  "https://graph.microsoft.com": ["00000003-0000-0000-c000-000000000000"],
  "https://vault.azure.net": ["cfa8b339-82a2-471a-a3c9-0fc0be7a4093"],
  "https://management.azure.com": ["https://management.core.windows.net", "797f4846-ba00-4fd7-ba43-dac1f8f63013"],
  "https://azure-devices-provisioning.net": [],
  "https://iothubs.azure.net": [],
};
export function audienceOf(resource: string): string | undefined {
  const plain = resource.replace(/\/+$/, "").toLowerCase();
  return Object.entries(audiences).find(([name, others]) => name === plain || others.includes(plain))?.[0];
}

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
export const tokenKeyId = (lab: Lab): string =>
  createHash("sha1")
    .update(createPublicKey(lab.state.tokenKey).export({ type: "spki", format: "der" }))
    .digest("base64url");
export const tokenLifetimeS = 3599;

export function issueToken(lab: Lab, principal: ServicePrincipal, audience: string, how: "1" | "2"): string {
  const now = seconds(lab.now());
  const { tenantId } = lab.state;
  const head = encode({ typ: "JWT", alg: "RS256", kid: tokenKeyId(lab) });
  const body = encode({
    aud: audience,
    iss: `https://sts.windows.net/${tenantId}/`,
    iat: now,
    nbf: now,
    exp: now + tokenLifetimeS,
    appid: principal.appId,
    appidacr: how,
    idtyp: "app",
    oid: principal.id,
    sub: principal.id,
    tid: tenantId,
    ...(audience === "https://graph.microsoft.com" ? { roles: principal.graphRoles } : {}),
    uti: lab.ids.hex(22),
    ver: "1.0",
  });
  const signature = sign("RSA-SHA256", Buffer.from(`${head}.${body}`), createPrivateKey(lab.state.tokenKey));
  return `${head}.${body}.${signature.toString("base64url")}`;
}

export type Caller =
  | { readonly principal: ServicePrincipal }
  | { readonly problem: "missing" | "unreadable" | "expired" }
  | { readonly problem: "audience"; readonly found: string };

/** Who holds the token of this request. The token is verified as a resource does it: signature, times, audience. */
export function callerOf(lab: Lab, request: LabRequest, audience: string): Caller {
  const token = /^Bearer\s+(.+)$/i.exec(request.headers.authorization ?? "")?.[1];
  if (token === undefined) return { problem: "missing" };
  const [head = "", body = "", signature = ""] = token.split(".");
  try {
    const good = verify(
      "RSA-SHA256",
      Buffer.from(`${head}.${body}`),
      createPublicKey(lab.state.tokenKey),
      Buffer.from(signature, "base64url"),
    );
    const claims: unknown = JSON.parse(Buffer.from(body, "base64url").toString());
    if (!good || !isRecord(claims)) return { problem: "unreadable" };
    if (typeof claims["exp"] !== "number" || claims["exp"] <= seconds(lab.now())) return { problem: "expired" };
    if (claims["aud"] !== audience) return { problem: "audience", found: String(claims["aud"]) };
    const principal = lab.state.servicePrincipals.find((each) => each.id === claims["oid"]);
    return principal === undefined ? { problem: "unreadable" } : { principal };
  } catch {
    return { problem: "unreadable" };
  }
}

const isOperator = (lab: Lab, principal: ServicePrincipal): boolean => principal.appId === lab.state.operator.clientId;

export function hasRole(lab: Lab, principal: ServicePrincipal, role: string): boolean {
  return principal.graphRoles.includes(role) && !(isOperator(lab, principal) && lab.denied(role));
}

/** Azure's rule: an action with wildcards, granted on the resource itself or on something above it. Case does not count. */
export function isGranted(lab: Lab, principal: ServicePrincipal, action: string, scope: string): boolean {
  if (isOperator(lab, principal) && lab.denied(action)) return false;
  return principal.grants.some(
    (grant) =>
      matches(grant.action, action) &&
      (`${scope}/`.toLowerCase().startsWith(`${grant.scope}/`.toLowerCase()) || grant.scope === "/"),
  );
}

/** `*` stands for any text. */
export function matches(pattern: string, action: string): boolean {
  const parts = pattern
    .toLowerCase()
    .split("*")
    .map((each) => each.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`).test(action.toLowerCase());
}
