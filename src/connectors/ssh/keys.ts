/** OpenSSH's one-line form of public keys (RFC 4253 section 6.6, RFC 5656, RFC 8709), and the lines of an authorized_keys file (sshd(8)). */
import { createPublicKey } from "node:crypto";
import { ConnectorError } from "../connector.ts";
import type { Secret } from "../secret.ts";
import { privateKeyOf } from "../shared/x509.ts";

const text = (value: string | Buffer): Buffer => {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
};
/** A multiple precision integer (RFC 4251 section 5): no leading zeros, and one before a set top bit. */
const mpint = (value: Buffer): Buffer => {
  let start = 0;
  while (start < value.length - 1 && value[start] === 0) start++;
  const bare = value.subarray(start);
  return text((bare[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.from([0]), bare]) : bare);
};
const curves: Readonly<Record<string, string>> = { "P-256": "nistp256", "P-384": "nistp384", "P-521": "nistp521" };

/** `ssh-ed25519 AAAA…` of a private key. */
export function publicLine(privateKey: Secret): string {
  const jwk = createPublicKey(privateKeyOf(privateKey)).export({ format: "jwk" });
  const part = (name: "x" | "y" | "n" | "e"): Buffer => Buffer.from(jwk[name] ?? "", "base64url");
  if (jwk.kty === "OKP" && jwk.crv === "Ed25519") return line("ssh-ed25519", [text(part("x"))]);
  if (jwk.kty === "RSA") return line("ssh-rsa", [mpint(part("e")), mpint(part("n"))]);
  const curve = curves[jwk.crv ?? ""];
  if (jwk.kty === "EC" && curve !== undefined) {
    return line(`ecdsa-sha2-${curve}`, [text(curve), text(Buffer.concat([Buffer.from([4]), part("x"), part("y")]))]);
  }
  throw new ConnectorError("misconfigured", "OpenSSH takes Ed25519, ECDSA and RSA keys, and this is another kind.", {
    next: "Choose another algorithm at the issuer.",
  });
}
function line(type: string, parts: readonly Buffer[]): string {
  return `${type} ${Buffer.concat([text(type), ...parts]).toString("base64")}`;
}

/** The key of one line of the file, options and comment left out. `null`: a comment, an empty line, or something else. */
export function keyOfLine(whole: string): { readonly key: string; readonly comment: string } | null {
  if (/^\s*(#|$)/.test(whole)) return null;
  // Options may hold quoted blanks and may themselves name a key type, so the type must be followed by what begins as a key of it does.
  const found = /(?:^|\s)((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+(AAAA[A-Za-z0-9+/]+={0,2})(?:\s+(.*))?$/.exec(whole);
  return found ? { key: `${found[1]} ${found[2]}`, comment: (found[3] ?? "").trim() } : null;
}
