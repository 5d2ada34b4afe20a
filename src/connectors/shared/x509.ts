/**
 * Reading certificates and keys: PEM armour, public facts, key strength, and whether a key belongs to a certificate. Nothing here builds or
 * signs anything, and nothing here knows a file or a connection.
 */
import { createHash, createPrivateKey, X509Certificate } from "node:crypto";
import type { KeyObject } from "node:crypto";
import type { VersionFacts } from "../../core/place.ts";
import { Secret } from "../secret.ts";

/** What is wrong with the input, without any of the input in the text: it may be a private key. */
export class PemError extends Error {
  override readonly name = "PemError";
  /** 1-based line of the text that was read, where there is one. */
  readonly line: number | undefined;
  constructor(message: string, line?: number) {
    super(line === undefined ? message : `line ${line}: ${message}`);
    this.line = line;
  }
}

/** One armoured block (RFC 7468), with where it lies in the text so that a file can be changed around it. */
export interface PemBlock {
  /** `CERTIFICATE`, `PRIVATE KEY`, … */
  readonly label: string;
  readonly der: Buffer;
  /** The block as it was written, from BEGIN to END, without the line end. */
  readonly text: string;
  readonly start: number;
  readonly end: number;
  /** 1-based. */
  readonly line: number;
  /** A key in OpenSSL's old encrypted form, or an encrypted PKCS#8 one. */
  readonly encrypted: boolean;
}

/** A PEM block that big is an attack or a mistake; the largest real ones (CRLs aside) are a few kilobytes. */
const maxBlockChars = 1_000_000;
const armour = /^-----(BEGIN|END) ([A-Z0-9][A-Z0-9 .#+-]{0,63})-----[ \t]*$/;

/** Reads what can be read, and lists what cannot. Linear in the length of the text; never throws. */
export function scanPem(text: string): {
  readonly blocks: readonly PemBlock[];
  readonly problems: readonly PemError[];
} {
  const blocks: PemBlock[] = [];
  const problems: PemError[] = [];
  let open: { label: string; start: number; line: number } | undefined;
  let line = 0;
  for (let at = 0; at < text.length;) {
    line++;
    const newline = text.indexOf("\n", at);
    const next = newline === -1 ? text.length : newline + 1;
    // Only a line that can be armour is cut out, so that a file of one endless line costs nothing.
    const found = text.startsWith("-----", at) && next - at < 200 ? armour.exec(text.slice(at, next).trimEnd()) : null;
    if (found !== null) {
      const [, verb, label = ""] = found;
      if (verb === "BEGIN") {
        if (open !== undefined)
          problems.push(new PemError(`"${label}" begins inside "${open.label}", which never ends`, line));
        open = { label, start: at, line };
      } else if (open === undefined) {
        problems.push(new PemError(`"${label}" ends here and begins nowhere`, line));
      } else if (open.label !== label) {
        problems.push(new PemError(`"${open.label}" begins in line ${open.line} and "${label}" ends here`, line));
        open = undefined;
      } else {
        const end = at + found[0].length;
        const read = decode(text, open.start, end, label, open.line);
        if (read instanceof PemError) problems.push(read);
        else blocks.push(read);
        open = undefined;
      }
    }
    at = next;
  }
  if (open !== undefined)
    problems.push(new PemError(`"${open.label}" begins here and never ends; the file is cut off`, open.line));
  return { blocks, problems };
}

function decode(text: string, start: number, end: number, label: string, line: number): PemBlock | PemError {
  if (end - start > maxBlockChars) return new PemError(`"${label}" is larger than ${maxBlockChars} characters`, line);
  const block = text.slice(start, end);
  const lines = block.split(/\r?\n/).slice(1, -1);
  let encrypted = label === "ENCRYPTED PRIVATE KEY";
  // RFC 1421 headers ("Proc-Type: 4,ENCRYPTED") end with an empty line; a continued header begins with a space.
  if (lines.some((one) => one.includes(":"))) {
    const blank = lines.findIndex((one) => one.trim() === "");
    const headers = lines.splice(0, blank === -1 ? lines.length : blank + 1);
    encrypted ||= headers.some((one) => /^Proc-Type:.*ENCRYPTED/i.test(one));
  }
  const base64 = lines.join("").replaceAll(/\s/g, "");
  if (base64 === "") return new PemError(`"${label}" is empty`, line);
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64) || base64.length % 4 === 1) {
    return new PemError(`"${label}" is not base64; it is cut off or damaged`, line);
  }
  return { label, der: Buffer.from(base64, "base64"), text: block, start, end, line, encrypted };
}

/** All blocks of a text. Throws the first {@link PemError} when any is damaged. */
export function parsePem(text: string): readonly PemBlock[] {
  const { blocks, problems } = scanPem(text);
  if (problems[0] !== undefined) throw problems[0];
  return blocks;
}

export const certificateLabels: readonly string[] = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
export function isPrivateKeyLabel(label: string): boolean {
  return label.endsWith("PRIVATE KEY");
}

/** PEM text, DER bytes, or a certificate that was parsed already. */
export type CertificateInput = string | Uint8Array | X509Certificate;

/** Throws {@link PemError} when it is no certificate. Of a text with several, the first is taken. */
export function certificateOf(input: CertificateInput): X509Certificate {
  if (input instanceof X509Certificate) return input;
  let der: Uint8Array;
  let line: number | undefined;
  if (typeof input === "string") {
    const block = parsePem(input).find((one) => certificateLabels.includes(one.label));
    if (block === undefined) throw new PemError("there is no certificate in this text");
    der = block.der;
    line = block.line;
  } else der = input;
  try {
    return new X509Certificate(der);
  } catch {
    // OpenSSL's own message ("asn1 encoding routines::wrong tag") tells an operator nothing.
    throw new PemError("this is not an X.509 certificate; it is cut off or damaged", line);
  }
}

/** All certificates of a PEM text, in order. Throws {@link PemError}. */
export function certificatesOf(text: string): readonly X509Certificate[] {
  return parsePem(text)
    .filter((block) => certificateLabels.includes(block.label))
    .map((block) => {
      try {
        return new X509Certificate(block.der);
      } catch {
        throw new PemError("this is not an X.509 certificate; it is cut off or damaged", block.line);
      }
    });
}

export function fingerprintOf(input: CertificateInput): string {
  return sha256(certificateOf(input).raw);
}
export function pemOf(input: CertificateInput): string {
  return armourOf("CERTIFICATE", certificateOf(input).raw);
}
/** RFC 7468 armour: 64 characters a line, and a final line end. */
export function armourOf(label: string, der: Uint8Array): string {
  const body = Buffer.from(der)
    .toString("base64")
    .replaceAll(/.{64}(?=.)/g, "$&\n");
  return `-----BEGIN ${label}-----\n${body}\n-----END ${label}-----\n`;
}

/** The public facts of a certificate. Throws {@link PemError}. */
export function factsOf(input: CertificateInput): VersionFacts {
  const certificate = certificateOf(input);
  const publicKey = publicKeySha256(certificate);
  return {
    fingerprint: sha256(certificate.raw),
    sha1: createHash("sha1").update(certificate.raw).digest("hex"),
    ...(publicKey === undefined ? {} : { publicKeySha256: publicKey }),
    notBeforeMs: certificate.validFromDate.getTime(),
    notAfterMs: certificate.validToDate.getTime(),
    subject: nameOf(certificate.subject),
    issuer: nameOf(certificate.issuer),
    serial: certificate.serialNumber.toLowerCase(),
  };
}

/** Node writes one attribute a line, in the order of the encoding. An empty subject is legal (RFC 5280, 4.1.2.6). */
function nameOf(name: string | undefined): string {
  return (name ?? "").replaceAll("\n", ", ");
}

/**
 * SHA-256 of the DER SubjectPublicKeyInfo, lower-case hex. Read from the encoding and not through a key object, so that it is there for key
 * types that OpenSSL does not know too. `undefined` when the certificate is not built as RFC 5280 says.
 */
export function publicKeySha256(input: CertificateInput | KeyObject): string | undefined {
  if (isKeyObject(input)) return sha256(input.export({ type: "spki", format: "der" }));
  const { raw } = certificateOf(input);
  const spki = subjectPublicKeyInfo(raw);
  return spki === undefined ? undefined : sha256(spki);
}
function isKeyObject(input: unknown): input is KeyObject {
  return typeof input === "object" && input !== null && "asymmetricKeyType" in input && "export" in input;
}

/** Walks TBSCertificate (RFC 5280, 4.1): version, serial, signature, issuer, validity, subject, then the key. */
function subjectPublicKeyInfo(der: Buffer): Buffer | undefined {
  const outer = element(der, 0);
  const tbs = outer && element(der, outer.content);
  if (tbs === undefined) return undefined;
  let at = tbs.content;
  // The version is optional and marked [0].
  if (der[at] === 0xa0) at = element(der, at)?.end ?? der.length;
  for (let skipped = 0; skipped < 5; skipped++) at = element(der, at)?.end ?? der.length;
  const spki = element(der, at);
  return spki === undefined || spki.end > tbs.end ? undefined : der.subarray(at, spki.end);
}
function element(der: Buffer, at: number): { content: number; end: number } | undefined {
  const first = der[at + 1];
  if (first === undefined) return undefined;
  if (first < 0x80) return within(der, at + 2, first);
  const bytes = first & 0x7f;
  if (bytes === 0 || bytes > 4 || at + 2 + bytes > der.length) return undefined;
  return within(der, at + 2 + bytes, der.readUIntBE(at + 2, bytes));
}
function within(der: Buffer, content: number, length: number): { content: number; end: number } | undefined {
  return content + length > der.length ? undefined : { content, end: content + length };
}

export interface KeyStrength {
  /** `rsa`, `ec`, `ed25519`, … */
  readonly algorithm: string;
  /** Modulus or field size; absent where the algorithm has one size only. */
  readonly bits?: number;
  readonly curve?: string;
  /** A sentence when it is weaker than NIST SP 800-131A allows (112 bits of security). */
  readonly weak?: string;
}

const curveBits: Readonly<Record<string, number>> = {
  prime256v1: 256,
  secp256k1: 256,
  secp384r1: 384,
  secp521r1: 521,
  secp224r1: 224,
  prime192v1: 192,
};

export function keyStrength(key: KeyObject): KeyStrength {
  const algorithm = key.asymmetricKeyType ?? "unknown";
  const details = key.asymmetricKeyDetails ?? {};
  const curve = details.namedCurve;
  const bits = details.modulusLength ?? (curve === undefined ? undefined : curveBits[curve]);
  const least = algorithm.startsWith("rsa") || algorithm === "dsa" || algorithm === "dh" ? 2048 : 224;
  return {
    algorithm,
    ...(bits === undefined ? {} : { bits }),
    ...(curve === undefined ? {} : { curve }),
    ...(bits === undefined || bits >= least ? {} : { weak: `${algorithm} with ${bits} bits is below ${least}` }),
  };
}

/**
 * Reads a private key in PKCS#8, PKCS#1 or SEC 1 form. Throws {@link PemError}: none there, damaged, or encrypted and the password is missing
 * or wrong.
 */
export function privateKeyOf(key: Secret | KeyObject | string, password?: Secret): KeyObject {
  if (isKeyObject(key)) return key;
  const text = typeof key === "string" ? key : key.reveal();
  const block = parsePem(text).find((one) => isPrivateKeyLabel(one.label));
  if (block === undefined) throw new PemError("there is no private key in this text");
  if (block.encrypted && password === undefined)
    throw new PemError("the private key is encrypted and no password was given", block.line);
  try {
    return createPrivateKey({ key: block.text, ...(password === undefined ? {} : { passphrase: password.reveal() }) });
  } catch {
    const why = block.encrypted
      ? "the password of the private key is wrong, or it is damaged"
      : "the private key is damaged or of an unknown type";
    throw new PemError(why, block.line);
  }
}

/** The key as PKCS#8 PEM, the one form in which keys are sealed and handed on. */
export function pkcs8Of(key: KeyObject): Secret {
  return new Secret(key.export({ type: "pkcs8", format: "pem" }));
}

export function keyMatches(certificate: CertificateInput, privateKey: Secret | KeyObject | string): boolean {
  return certificateOf(certificate).checkPrivateKey(privateKeyOf(privateKey));
}

/**
 * Puts certificates in the order leaf first, each followed by the one that signed it. What does not belong to the chain is left out; a root
 * is kept only when it is all there is.
 */
export function chainFrom(leaf: X509Certificate, others: readonly X509Certificate[]): readonly X509Certificate[] {
  const chain = [leaf];
  // Bounded by the number of certificates, so that two that signed each other end the walk.
  for (let last = leaf; chain.length <= others.length && !isSelfSigned(last);) {
    const issuer = others.find((one) => !chain.includes(one) && !isSelfSigned(one) && last.checkIssued(one));
    if (issuer === undefined) break;
    chain.push(issuer);
    last = issuer;
  }
  return chain;
}
function isSelfSigned(certificate: X509Certificate): boolean {
  return certificate.subject === certificate.issuer && certificate.checkIssued(certificate);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
