/** A certificate that signed itself, for tests that need something to serve. */
import { createPublicKey, randomBytes } from "node:crypto";
import { certify, makeKey } from "../../src/connectors/shared/certify.ts";
import { privateKeyOf } from "../../src/connectors/shared/x509.ts";
import type { Secret } from "../../src/connectors/secret.ts";

export async function selfSigned(name: string): Promise<{ readonly privateKey: Secret; readonly pem: string }> {
  const privateKey = await makeKey("ec-p256");
  const key = privateKeyOf(privateKey);
  const now = Date.now();
  const [pem] = await certify({
    profile: { subject: `CN=${name}`, names: [name], ca: false, usages: ["server"] },
    publicKey: createPublicKey(key),
    signer: { self: key },
    serial: `01${randomBytes(8).toString("hex")}`,
    notBeforeMs: now - 60_000,
    notAfterMs: now + 3_600_000,
  });
  if (pem === undefined) throw new Error("No certificate came back.");
  return { privateKey, pem };
}
