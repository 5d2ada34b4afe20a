/**
 * PostgreSQL's stored form of a password, computed here so that the password itself never crosses the connection or reaches the server's log.
 *
 * Sources: RFC 5802 section 3 (SCRAM), RFC 7677 (SHA-256), RFC 4013 (SASLprep); the stored form is
 * `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (PostgreSQL manual, system catalogue `pg_authid`).
 */
import { createHash, createHmac, pbkdf2, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import saslprep from "@mongodb-js/saslprep";
import type { Secret } from "../secret.ts";

const derive = promisify(pbkdf2);

/** What RFC 7677 asks for at least, and what PostgreSQL itself uses (`scram_iterations`). */
export const defaultIterations = 4096;

/** A stored form that asks for more is not checked: whoever can write it could otherwise keep us busy for hours. */
const mostIterations = 5_000_000;

export const saltBytes = 16;

/**
 * SASLprep, with PostgreSQL's own leniency (`pg_saslprep` in src/common): where the rules forbid a password, client and server both use it as it
 * is. Being stricter here would make a verifier that no client can meet.
 */
export function preparePassword(password: string): string {
  try {
    return saslprep(password, { allowUnassigned: true });
  } catch {
    // The rules forbid it: see above.
    return password;
  }
}

async function keys(
  password: Secret,
  salt: Uint8Array,
  iterations: number,
): Promise<{ stored: Buffer; server: Buffer }> {
  const salted = await derive(Buffer.from(preparePassword(password.reveal()), "utf8"), salt, iterations, 32, "sha256");
  const client = createHmac("sha256", salted).update("Client Key").digest();
  const stored = createHash("sha256").update(client).digest();
  const server = createHmac("sha256", salted).update("Server Key").digest();
  salted.fill(0);
  client.fill(0);
  return { stored, server };
}

/** The text that goes into `PASSWORD '...'`. `salt` must be random and used once. */
export async function scramVerifier(
  password: Secret,
  salt: Uint8Array,
  iterations = defaultIterations,
): Promise<string> {
  const { stored, server } = await keys(password, salt, iterations);
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  return `SCRAM-SHA-256$${iterations}:${text(salt)}$${text(stored)}:${text(server)}`;
}

/**
 * Whether a stored form belongs to this password. Knows the older `md5` form too (the MD5 of password and role name), so that a role from before
 * Keyroll is recognised. A form that it does not know fits nothing.
 */
export async function fitsPassword(stored: string, role: string, password: Secret): Promise<boolean> {
  if (/^md5[0-9a-f]{32}$/.test(stored)) {
    const digest = createHash("md5").update(password.bytes()).update(role, "utf8").digest("hex");
    return timingSafeEqual(Buffer.from(stored.slice(3)), Buffer.from(digest));
  }
  const parts = /^SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$/.exec(stored);
  if (!parts) return false;
  const iterations = Number(parts[1]);
  if (iterations < 1 || iterations > mostIterations) return false;
  const expected = Buffer.from(parts[3]!, "base64");
  const { stored: found } = await keys(password, Buffer.from(parts[2]!, "base64"), iterations);
  return expected.length === found.length && timingSafeEqual(expected, found);
}
