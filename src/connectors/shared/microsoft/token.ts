/**
 * Trying a client secret or certificate: a real token request as the application itself (OAuth 2.0 client credentials, RFC 6749, 4.4; assertions
 * of RFC 7523). The SDK is not used here, because it answers from its cache, and because the exact error code is the answer.
 */
import { createHash, randomUUID, sign } from "node:crypto";
import type { CallContext, Probe } from "../../connector.ts";
import type { KeyMaterial, Material, Secret } from "../../secret.ts";
import { throwIfCancelled } from "../calls.ts";
import { certificateOf, privateKeyOf } from "../x509.ts";
import { field, networkFailure, retryAfterMs, sessionOf } from "./session.ts";
import type { MicrosoftSystem } from "./system.ts";
import { ConnectorError } from "../../connector.ts";

/**
 * What Entra says to a client. `expired`: it is the right one, and its time is over. https://learn.microsoft.com/entra/identity-platform/reference-error-codes
 */
export interface SignInAnswer {
  readonly outcome: "accepted" | "refused" | "expired" | "unknown";
  readonly detail: string;
}

/** Verdicts about the credential itself. Any other error says nothing about it. */
const refusals: Readonly<Record<string, "refused" | "expired">> = {
  AADSTS7000215: "refused",
  AADSTS7000222: "expired",
  // No key of the application fits the assertion.
  AADSTS700027: "refused",
  AADSTS7000218: "refused",
};

/** One sign-in as the application. Fails with a {@link ConnectorError} only when it was cancelled, throttled or nobody answered. */
export async function signInAs(
  cx: CallContext,
  system: MicrosoftSystem,
  clientId: string,
  material: Material,
): Promise<SignInAnswer> {
  throwIfCancelled(cx);
  await cx.throttle();
  const url = `${system.endpoints.authority}/${encodeURIComponent(system.tenant)}/oauth2/v2.0/token`;
  const body = new URLSearchParams({
    grant_type: "client_credentials",
    client_id: clientId,
    scope: `${system.endpoints.graphResource}/.default`,
    ...proofOf(cx, url, clientId, material),
  }).toString();
  const doing = "trying the sign-in of the application";
  let status: number;
  let text: string;
  let retryAfter: string | undefined;
  const [{ request }, dispatcher] = await Promise.all([import("undici"), sessionOf(system).agent()]);
  try {
    const answer = await request(url, {
      method: "POST",
      dispatcher,
      signal: AbortSignal.any([cx.signal, AbortSignal.timeout(system.requestTimeoutMs)]),
      headers: { "content-type": "application/x-www-form-urlencoded", accept: "application/json" },
      body,
    });
    status = answer.statusCode;
    const header = answer.headers["retry-after"];
    retryAfter = Array.isArray(header) ? header[0] : header;
    text = await answer.body.text();
  } catch (error) {
    throw networkFailure(error, doing, false);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return { outcome: "unknown", detail: `the token endpoint's answer was not JSON (${status})` };
  }
  if (status === 200 && typeof field(json, "access_token") === "string")
    return { outcome: "accepted", detail: "a token was issued" };
  const code = codeIn(json);
  if (status === 429 || code === "AADSTS90055") {
    const wait = retryAfterMs(retryAfter, cx.now());
    throw new ConnectorError(
      "throttled",
      `Entra asks to slow down, while ${doing}.`,
      wait === undefined ? {} : { retryAfterMs: wait },
    );
  }
  const verdict = status >= 400 && status < 500 ? refusals[code] : undefined;
  return { outcome: verdict ?? "unknown", detail: `${code === "" ? `status ${status}` : code}` };
}

function codeIn(json: unknown): string {
  const codes = field(json, "error_codes");
  if (Array.isArray(codes) && typeof codes[0] === "number") return `AADSTS${codes[0]}`;
  const text = field(json, "error_description");
  return typeof text === "string" ? (/AADSTS\d{2,9}/.exec(text)?.[0] ?? "") : "";
}

function proofOf(cx: CallContext, audience: string, clientId: string, material: Material): Record<string, string> {
  if (material.kind === "secret") return { client_secret: material.value.reveal() };
  return {
    client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    client_assertion: assertion(material, audience, clientId, cx.now()),
  };
}

/** https://learn.microsoft.com/entra/identity-platform/certificate-credentials */
function assertion(material: KeyMaterial, audience: string, clientId: string, nowMs: number): string {
  const leaf = certificateOf(material.certificates[0] ?? "");
  const thumbprint = createHash("sha256").update(leaf.raw).digest("base64url");
  const seconds = Math.floor(nowMs / 1000);
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const head = part({ alg: "PS256", typ: "JWT", "x5t#S256": thumbprint });
  const claims = part({
    aud: audience,
    iss: clientId,
    sub: clientId,
    jti: randomUUID(),
    // A clock that is a little behind must not make it come from the future.
    nbf: seconds - 30,
    iat: seconds - 30,
    exp: seconds + 300,
  });
  const key = privateKeyOf(material.privateKey);
  const signature = sign("sha256", Buffer.from(`${head}.${claims}`), {
    key,
    padding: 6, // RSA_PKCS1_PSS_PADDING
    saltLength: 32,
  });
  return `${head}.${claims}.${signature.toString("base64url")}`;
}

/** Keys that Entra takes for assertions are RSA. */
export function isRsa(privateKey: Secret): boolean {
  return privateKeyOf(privateKey).asymmetricKeyType === "rsa";
}

/** A fresh secret works on some replicas before others, so one sign-in proves little. */
const signInsPerProbe = 5;

/** `accepted` only when every try was; `refused` only when every try was. */
export async function probeSignIn(
  cx: CallContext,
  system: MicrosoftSystem,
  clientId: string,
  material: Material,
): Promise<Probe> {
  let accepted = 0;
  for (let n = 0; n < signInsPerProbe; n++) {
    const answer = await signInAs(cx, system, clientId, material);
    if (answer.outcome === "accepted") {
      accepted++;
      continue;
    }
    if (answer.outcome === "unknown")
      return { outcome: "unknown", detail: `Entra gave no verdict on the sign-in (${answer.detail}).` };
    if (accepted === 0 && n < signInsPerProbe - 1) {
      // The first answer was no: the others must say so too before it counts as gone.
      continue;
    }
    if (accepted > 0) {
      return {
        outcome: "unknown",
        detail: `Entra accepts it on some servers and not yet, or no longer, on others (${answer.detail}).`,
      };
    }
    return { outcome: "refused", detail: `Entra refused it ${signInsPerProbe} times in a row (${answer.detail}).` };
  }
  return accepted === signInsPerProbe
    ? { outcome: "accepted", detail: `Entra issued ${accepted} tokens in a row.` }
    : { outcome: "unknown", detail: "Entra accepts it on some servers and not on others." };
}
