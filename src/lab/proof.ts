/** The proof with which an application rolls its own keys. Reference: Microsoft Graph, "Generating proof of possession tokens for rolling keys". */
import { verify, X509Certificate } from "node:crypto";
import { isRecord, seconds } from "./http.ts";
import type { Lab } from "./lab.ts";
import type { Application } from "./state.ts";

/** Signed with a certificate that the application has and that is still valid; at most ten minutes long. */
export function provenBy(lab: Lab, app: Application, proof: unknown): boolean {
  if (typeof proof !== "string") return false;
  const [head = "", body = "", signature = ""] = proof.split(".");
  let claims: unknown;
  try {
    claims = JSON.parse(Buffer.from(body, "base64url").toString());
  } catch {
    return false;
  }
  if (!isRecord(claims)) return false;
  const { aud, iss, exp, nbf } = claims;
  const nowS = seconds(lab.now());
  if (aud !== "00000002-0000-0000-c000-000000000000" || iss !== app.id) return false;
  if (typeof exp !== "number" || typeof nbf !== "number") return false;
  if (exp - nbf > 600 || exp <= nowS || nbf > nowS + 300) return false;
  return app.keys.some((key) => {
    if (key.endMs <= lab.now()) return false;
    const certificate = new X509Certificate(Buffer.from(key.certificate, "base64"));
    if (certificate.publicKey.asymmetricKeyType !== "rsa") return false;
    return verify(
      "RSA-SHA256",
      Buffer.from(`${head}.${body}`),
      certificate.publicKey,
      Buffer.from(signature, "base64url"),
    );
  });
}
