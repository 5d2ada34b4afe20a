/**
 * Facts of keys, requests and revocation lists. Of a private key only its public half and its strength are kept: the bytes are wiped as soon
 * as they were read.
 */
import { createPrivateKey, createPublicKey, hash, type KeyObject } from "node:crypto";
import { printable, readName, readPublicKey, readTime } from "./certificate.ts";
import { Cursor, Malformed, tag } from "./der.ts";
import type { Container, ParsedItem } from "./found.ts";

const none: readonly string[] = [];

/** RSA with 16,384 bits takes 13 KB of PEM. What is longer is no key, and is not given to the crypto library. */
const maxKeyOctets = 32_768;

/** The item of a SubjectPublicKeyInfo in DER. Throws {@link Malformed}. */
export function publicKeyItem(spki: Buffer, container: Container, index: number, label?: string): ParsedItem {
  return keyItem("public-key", spki, container, index, label);
}

function keyItem(
  kind: "public-key" | "private-key",
  spki: Buffer,
  container: Container,
  index: number,
  label?: string,
  encrypted?: boolean,
): ParsedItem {
  const key = readPublicKey(new Cursor(spki));
  const publicKeySha256 = hash("sha256", spki, "hex");
  return {
    kind,
    container,
    index,
    ...(label === undefined ? {} : { label: printable(label.slice(0, 200)) }),
    facts: { fingerprint: publicKeySha256, publicKeySha256 },
    keyType: key.type,
    keyBits: key.bits,
    ...(kind === "private-key" ? { encrypted: encrypted ?? false } : {}),
    problems: none,
  };
}

/** How a private key lies there. PEM bytes are the whole block, armour included, so that no string of it is ever made. */
export type PrivateKeyForm = "pem" | "pkcs8" | "pkcs1" | "sec1";

/**
 * The public half of a private key. `bytes` are wiped. With a password the key may be encrypted; see `refuseIterationBomb` before. Throws
 * {@link Malformed} without a word of the key.
 */
export function privateKeyItem(
  bytes: Buffer,
  form: PrivateKeyForm,
  container: Container,
  index: number,
  label?: string,
  password?: string,
): ParsedItem {
  try {
    if (bytes.length > maxKeyOctets)
      throw new Malformed(`a private key of ${bytes.length} bytes is larger than any real one`);
    let key: KeyObject;
    try {
      key =
        form === "pem"
          ? createPrivateKey({ key: bytes, format: "pem", ...(password === undefined ? {} : { passphrase: password }) })
          : createPrivateKey({
              key: bytes,
              format: "der",
              type: form,
              ...(password === undefined ? {} : { passphrase: password }),
            });
    } catch {
      throw new Malformed(
        password === undefined
          ? "the private key is damaged or of an unknown type"
          : "no given password opens the private key",
      );
    }
    return keyItem("private-key", publicHalf(key), container, index, label, password !== undefined);
  } finally {
    bytes.fill(0);
  }
}

function publicHalf(key: KeyObject): Buffer {
  try {
    return createPublicKey(key).export({ type: "spki", format: "der" });
  } catch {
    throw new Malformed("the private key has no usable public half");
  }
}

/** A private key that stays shut. Its fingerprint is that of the encrypted bytes, so that copies of one file are still seen as copies. */
export function lockedKeyItem(bytes: Buffer, container: Container, index: number, label?: string): ParsedItem {
  return {
    kind: "private-key",
    container,
    index,
    ...(label === undefined ? {} : { label: printable(label.slice(0, 200)) }),
    facts: { fingerprint: hash("sha256", bytes, "hex") },
    encrypted: true,
    problems: none,
  };
}

/** PKCS#1 public keys carry no algorithm; the crypto library wraps them. */
export function rsaPublicKeyItem(der: Buffer, container: Container, index: number, label?: string): ParsedItem {
  if (der.length > maxKeyOctets) throw new Malformed(`a public key of ${der.length} bytes is larger than any real one`);
  let spki: Buffer;
  try {
    spki = createPublicKey({ key: der, format: "der", type: "pkcs1" }).export({ type: "spki", format: "der" });
  } catch {
    throw new Malformed("the RSA public key is damaged");
  }
  return publicKeyItem(spki, container, index, label);
}

/** A certification request (RFC 2986). Throws {@link Malformed}. */
export function requestItem(der: Buffer, container: Container, index: number): ParsedItem {
  const cursor = new Cursor(der);
  cursor.expect(tag.sequence, "the request");
  cursor.enter();
  cursor.expect(tag.sequence, "the request's content");
  cursor.enter();
  cursor.expect(tag.integer, "the version");
  const subject = readName(cursor);
  const key = readPublicKey(cursor);
  const publicKeySha256 = hash("sha256", der.subarray(cursor.start, cursor.stop), "hex");
  return {
    kind: "csr",
    container,
    index,
    facts: { fingerprint: publicKeySha256, publicKeySha256, subject },
    keyType: key.type,
    keyBits: key.bits,
    problems: none,
  };
}

/** A certificate revocation list (RFC 5280 section 5.1): who issued it and when the next one is due. Throws {@link Malformed}. */
export function revocationListItem(der: Buffer, container: Container, index: number): ParsedItem {
  const cursor = new Cursor(der);
  cursor.expect(tag.sequence, "the revocation list");
  cursor.enter();
  cursor.expect(tag.sequence, "the revocation list's content");
  cursor.enter();
  if (cursor.peek() === tag.integer) cursor.read();
  cursor.expect(tag.sequence, "the signature algorithm");
  const issuer = readName(cursor);
  const notBeforeMs = readTime(cursor);
  const next = cursor.peek();
  const notAfterMs = next === tag.utcTime || next === tag.generalizedTime ? readTime(cursor) : undefined;
  return {
    kind: "crl",
    container,
    index,
    facts: {
      fingerprint: hash("sha256", der, "hex"),
      issuer,
      notBeforeMs,
      ...(notAfterMs === undefined ? {} : { notAfterMs }),
    },
    problems: none,
  };
}

/** Length-prefixed strings of RFC 4251 section 5. */
class SshReader {
  readonly bytes: Buffer;
  at: number;
  constructor(bytes: Buffer, at = 0) {
    this.bytes = bytes;
    this.at = at;
  }
  uint32(): number {
    if (this.at + 4 > this.bytes.length) throw new Malformed("the OpenSSH key is cut off");
    const value = this.bytes.readUInt32BE(this.at);
    this.at += 4;
    return value;
  }
  string(): Buffer {
    const length = this.uint32();
    if (this.at + length > this.bytes.length) throw new Malformed("the OpenSSH key is cut off");
    const value = this.bytes.subarray(this.at, this.at + length);
    this.at += length;
    return value;
  }
}

const sshMagic = Buffer.from("openssh-key-v1\0", "latin1");

/** An OpenSSH private key (PROTOCOL.key): its public half lies in clear beside it, encrypted or not. `bytes` are wiped. */
export function opensshPrivateKeyItem(bytes: Buffer, index: number): ParsedItem {
  try {
    if (!bytes.subarray(0, sshMagic.length).equals(sshMagic))
      throw new Malformed("the OpenSSH key has no magic number");
    const reader = new SshReader(bytes, sshMagic.length);
    const cipher = reader.string().toString("latin1");
    reader.string();
    reader.string();
    if (reader.uint32() < 1) throw new Malformed("the OpenSSH key file holds no key");
    const spki = sshToSpki(reader.string());
    return keyItem("private-key", spki, "openssh", index, "OPENSSH PRIVATE KEY", cipher !== "none");
  } finally {
    bytes.fill(0);
  }
}

/** One public key in the wire form of RFC 4253 section 6.6, as in `id_ed25519.pub`. Throws {@link Malformed}. */
export function opensshPublicKeyItem(blob: Buffer, index: number, comment: string): ParsedItem {
  return publicKeyItem(sshToSpki(blob), "openssh", index, comment === "" ? undefined : comment);
}

const sshCurves: Readonly<Record<string, { crv: string; octets: number }>> = {
  nistp256: { crv: "P-256", octets: 32 },
  nistp384: { crv: "P-384", octets: 48 },
  nistp521: { crv: "P-521", octets: 66 },
};

function sshToSpki(blob: Buffer): Buffer {
  if (blob.length > maxKeyOctets)
    throw new Malformed(`an OpenSSH key of ${blob.length} bytes is larger than any real one`);
  const reader = new SshReader(blob);
  const type = reader.string().toString("latin1");
  const jwk = sshToJwk(type, reader);
  try {
    return createPublicKey({ key: jwk, format: "jwk" }).export({ type: "spki", format: "der" });
  } catch {
    throw new Malformed("the OpenSSH key is damaged");
  }
}

function sshToJwk(type: string, reader: SshReader): Record<string, string> {
  if (type === "ssh-ed25519") return { kty: "OKP", crv: "Ed25519", x: reader.string().toString("base64url") };
  if (type === "ssh-rsa") {
    const e = reader.string().toString("base64url");
    return { kty: "RSA", e, n: withoutLeadingZeros(reader.string()).toString("base64url") };
  }
  if (type.startsWith("ecdsa-sha2-")) {
    const curve = sshCurves[reader.string().toString("latin1")];
    const point = reader.string();
    if (curve !== undefined && point[0] === 4 && point.length === 1 + 2 * curve.octets) {
      return {
        kty: "EC",
        crv: curve.crv,
        x: point.subarray(1, 1 + curve.octets).toString("base64url"),
        y: point.subarray(1 + curve.octets).toString("base64url"),
      };
    }
  }
  throw new Malformed("the OpenSSH key is of a type that is not read here");
}
function withoutLeadingZeros(bytes: Buffer): Buffer {
  let at = 0;
  while (at < bytes.length - 1 && bytes[at] === 0) at++;
  return bytes.subarray(at);
}
