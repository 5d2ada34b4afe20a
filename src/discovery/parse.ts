/**
 * Recognises what a file holds by its content, and reads everything that takes time in proportion to its length. Whatever needs a password, a
 * key derivation or a parser that recurses is handed on as a job for a worker that can be killed.
 */
import { hash } from "node:crypto";
import { extname } from "node:path";
import { factsOf } from "../connectors/shared/x509.ts";
import { startsWith } from "./bundle.ts";
import { certificateItem } from "./certificate.ts";
import { Cursor, elementLength, Malformed, refuseDeepNesting, tag } from "./der.ts";
import type { Container, ParsedItem, ScanProblem } from "./found.ts";
import { isJavaKeystore, parseJavaKeystore } from "./java-keystore.ts";
import {
  lockedKeyItem,
  opensshPrivateKeyItem,
  opensshPublicKeyItem,
  privateKeyItem,
  publicKeyItem,
  requestItem,
  revocationListItem,
  rsaPublicKeyItem,
} from "./keys.ts";

export interface ParseProblem {
  readonly kind: "problem";
  readonly code: Extract<ScanProblem["code"], "malformed" | "refused">;
  readonly text: string;
}

/** What a worker is asked. The bytes are moved to it, so that no copy of a key stays behind. */
export interface HeavyJob {
  readonly form: "pkcs12" | "pkcs7" | "pem-key" | "der-key";
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly index: number;
  readonly label?: string;
}
export interface Heavy {
  readonly kind: "heavy";
  readonly job: HeavyJob;
  /** What is reported when the worker cannot open it. */
  readonly otherwise: ParsedItem | null;
}

export type Outcome = ParsedItem | ParseProblem | Heavy;

export interface ParseOptions {
  /** File name: only used to decide whether content that is nothing of ours is worth a word. */
  readonly name: string;
  /** Whether there are passwords to try on encrypted keys. */
  readonly hasPasswords: boolean;
  /** What was already read: so many certificates, up to that offset. */
  readonly after?: { readonly items: number; readonly offset: number };
}

const telling = new Set([
  ".pem",
  ".crt",
  ".cer",
  ".der",
  ".key",
  ".p12",
  ".pfx",
  ".p7b",
  ".p7c",
  ".jks",
  ".jceks",
  ".csr",
  ".crl",
]);
const armour = Buffer.from("-----BEGIN ");
const end = Buffer.from("-----END ");
/** Base64 of `-----BEGIN`: PEM inside a value of a Kubernetes secret or a kubeconfig. */
const wrappedArmour = Buffer.from("LS0tLS1CRUdJTi");
const longestLabel = 64;
/** Certificates are public, so that nothing is lost by keeping the last one's bytes. */
const scratch = Buffer.allocUnsafeSlow(64 * 1024);
/** The largest real revocation lists have some ten megabytes. */
const maxBlock = 32 * 1024 * 1024;

/** Gives what a file holds, one by one, so that the caller can pause within a large bundle. Never throws. */
export function* parse(bytes: Buffer, options: ParseOptions): Generator<Outcome, void, void> {
  let found = (options.after?.items ?? 0) > 0;
  for (const outcome of parseAny(bytes, options)) {
    found = true;
    yield outcome;
  }
  if (!found && bytes.length > 0 && telling.has(extname(options.name).toLowerCase())) {
    yield problem(describeJunk(bytes));
  }
}

function describeJunk(bytes: Buffer): string {
  try {
    refuseDeepNesting(bytes);
  } catch (error) {
    return messageOf(error);
  }
  const cutOff = bytes[0] === tag.sequence && bytes[1] !== 0x80 && elementLength(bytes) === -1;
  return cutOff
    ? "it ends before its own length says: it is cut off"
    : "it is named like a certificate or key, and holds neither";
}

function* parseAny(bytes: Buffer, options: ParseOptions): Generator<Outcome, void, void> {
  if (isJavaKeystore(bytes)) {
    yield* parseJavaKeystore(bytes);
    return;
  }
  if (bytes[0] === tag.sequence) {
    const before = recogniseDer(bytes);
    if (before !== undefined) {
      yield* parseDer(bytes, before, "der", 0, options);
      return;
    }
  }
  const { items, offset } = options.after ?? { items: 0, offset: 0 };
  const counter: Counter = { index: items, line: 1, counted: 0 };
  yield* parsePem(bytes, counter, "pem", options, offset);
  // A large bundle of plain PEM holds no PEM inside base64 as well; looking for it would cost as much as reading the bundle.
  if (counter.index === 0 || bytes.length < 1024 * 1024) yield* parseWrapped(bytes, counter, options);
  if (counter.index === 0) yield* parseSshLines(bytes, counter);
}

function problem(text: string, code: ParseProblem["code"] = "malformed"): ParseProblem {
  return { kind: "problem", code, text };
}
/** Parsers throw {@link Malformed} only; a word of anything else could carry input, so it is not repeated. */
function messageOf(error: unknown): string {
  return error instanceof Malformed ? error.message : "it cannot be read";
}

/** Position of the next object, and how far lines were counted: once per file, however many problems it has. */
interface Counter {
  index: number;
  line: number;
  counted: number;
}

function* parsePem(
  bytes: Buffer,
  counter: Counter,
  container: "pem" | "base64",
  options: ParseOptions,
  from = 0,
): Generator<Outcome, void, void> {
  let at = from;
  // Where the next END is, looked for again only behind it: a file of a million BEGINs and one END must not take a million searches.
  let nextEnd = 0;
  for (;;) {
    const start = bytes.indexOf(armour, at);
    if (start === -1) return;
    at = start + armour.length;
    const labelEnd = bytes.indexOf("-----", at);
    if (labelEnd === -1 || labelEnd - at > longestLabel) continue;
    const label = bytes.toString("latin1", at, labelEnd);
    const body = labelEnd + 5;
    // Prose and source code mention the armour; a block has a line end behind it, or an escaped one inside JSON.
    const after = bytes[body];
    const escaped = after === 0x5c;
    if (after !== 0x0a && after !== 0x0d && after !== 0x20 && after !== 0x09 && !escaped) continue;
    // Base64 has no dash, so that the first one is the end of a sound block; looking for one byte is much the fastest search.
    let stop = bytes.indexOf(0x2d, body);
    if (stop !== -1 && !startsWith(bytes, end, stop)) {
      if (nextEnd !== -1 && nextEnd < body) nextEnd = bytes.indexOf(end, body);
      stop = nextEnd;
      const next = bytes.indexOf(armour, body);
      if (next !== -1 && next < stop) stop = -1;
    }
    if (stop === -1) {
      if (atLineStart(bytes, start) && isOurs(label)) {
        yield problem(`${where(bytes, start, counter)}: "${label}" begins and never ends: it is cut off`);
        counter.index++;
      }
      at = body;
      continue;
    }
    const tail = bytes.indexOf("-----", stop + end.length);
    const blockEnd = tail === -1 ? bytes.length : tail + 5;
    at = blockEnd;
    if (!isOurs(label)) continue;
    if (bytes.toString("latin1", stop + end.length, blockEnd - 5) !== label) {
      yield problem(`${where(bytes, start, counter)}: "${label}" begins and something else ends`);
      counter.index++;
      continue;
    }
    if (blockEnd - start > maxBlock) {
      yield problem(
        `${where(bytes, start, counter)}: "${label}" has ${blockEnd - start} bytes, more than is read of one block`,
        "refused",
      );
      counter.index++;
      continue;
    }
    const index = counter.index++;
    try {
      yield* parseBlock(bytes, start, body, stop, blockEnd, label, escaped, index, container, options);
    } catch (error) {
      yield problem(`${where(bytes, start, counter)}: "${label}": ${messageOf(error)}`);
    }
  }
}

function isOurs(label: string): boolean {
  return (
    label.endsWith("CERTIFICATE") ||
    label.endsWith("PRIVATE KEY") ||
    label.endsWith("PUBLIC KEY") ||
    label.endsWith("CERTIFICATE REQUEST") ||
    label === "X509 CRL" ||
    label === "PKCS7" ||
    label === "CMS"
  );
}

function* parseBlock(
  bytes: Buffer,
  start: number,
  body: number,
  stop: number,
  blockEnd: number,
  label: string,
  escaped: boolean,
  index: number,
  container: "pem" | "base64",
  options: ParseOptions,
): Generator<Outcome, void, void> {
  if (label.endsWith("PRIVATE KEY")) {
    yield* parsePrivateKey(bytes, start, body, stop, blockEnd, label, escaped, index, container, options);
    return;
  }
  if (label === "CERTIFICATE" && !escaped && stop - body <= scratch.length) {
    // Read and done with before anything else runs, so that one buffer serves all.
    const length = scratch.write(bytes.toString("latin1", body, stop), "base64");
    if (length > 0 && scratch[0] === tag.sequence) {
      yield lenientCertificate(scratch.subarray(0, length), container, index, false);
      return;
    }
  }
  const der = decode(bytes, body, stop, escaped);
  switch (label) {
    case "CERTIFICATE":
    case "X509 CERTIFICATE":
    case "TRUSTED CERTIFICATE":
      yield lenientCertificate(der, container, index, label === "TRUSTED CERTIFICATE");
      return;
    case "PUBLIC KEY":
      yield publicKeyItem(der, container, index);
      return;
    case "RSA PUBLIC KEY":
      yield rsaPublicKeyItem(der, container, index);
      return;
    case "CERTIFICATE REQUEST":
    case "NEW CERTIFICATE REQUEST":
      yield requestItem(der, container, index);
      return;
    case "X509 CRL":
      yield revocationListItem(der, container, index);
      return;
    case "PKCS7":
    case "CMS":
      yield* parsePkcs7(der, index);
      return;
    default:
      throw new Malformed("this kind of block is not read here");
  }
}

/** The base64 between the armour, without the headers of RFC 1421. */
function decode(bytes: Buffer, from: number, to: number, escaped: boolean): Buffer {
  let text = bytes.toString("latin1", from, to);
  if (escaped) text = text.replaceAll(/\\[rnt]/g, "\n");
  if (text.includes(":")) {
    const blank = /\r?\n[ \t]*\r?\n/.exec(text.slice(0, 8192));
    if (blank !== null) text = text.slice(blank.index + blank[0].length);
  }
  const der = Buffer.from(text, "base64");
  if (der.length === 0) throw new Malformed("it is empty");
  return der;
}

/** What OpenSSL reads, we read: odd dates and encodings that RFC 5280 forbids are a remark and no reason to lose a certificate. */
function lenientCertificate(der: Buffer, container: Container, index: number, trailing = false): ParsedItem {
  try {
    return certificateItem(der, 0, der.length, container, index, trailing);
  } catch (error) {
    const why = messageOf(error);
    refuseDeepNesting(der);
    let facts: ParsedItem["facts"];
    try {
      facts = factsOf(der);
    } catch {
      throw new Malformed(why);
    }
    return {
      kind: "certificate",
      container,
      index,
      facts,
      problems: [`It is not encoded as RFC 5280 demands (${why}); only its main facts are known.`],
    };
  }
}

function* parsePrivateKey(
  bytes: Buffer,
  start: number,
  body: number,
  stop: number,
  blockEnd: number,
  label: string,
  escaped: boolean,
  index: number,
  container: "pem" | "base64",
  options: ParseOptions,
): Generator<Outcome, void, void> {
  if (label === "OPENSSH PRIVATE KEY") {
    yield opensshPrivateKeyItem(decode(bytes, body, stop, escaped), index);
    return;
  }
  const block = escaped
    ? Buffer.from(bytes.toString("latin1", start, blockEnd).replaceAll(/\\[rnt]/g, "\n"), "latin1")
    : Buffer.from(bytes.subarray(start, blockEnd));
  const encrypted = label === "ENCRYPTED PRIVATE KEY" || (block.includes("Proc-Type:") && block.includes("ENCRYPTED"));
  if (!encrypted) {
    yield privateKeyItem(block, "pem", container, index, label);
    return;
  }
  const otherwise = lockedKeyItem(decode(block, body - start, stop - start, false), container, index, label);
  if (!options.hasPasswords) {
    yield otherwise;
    return;
  }
  yield { kind: "heavy", job: { form: "pem-key", bytes: ownCopy(block), index, label }, otherwise };
}

/** A copy with a memory of its own, which can be moved to a worker. */
function ownCopy(bytes: Buffer): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes);
}

function atLineStart(bytes: Buffer, at: number): boolean {
  for (let i = at - 1; i >= 0; i--) {
    const octet = bytes[i];
    if (octet === 0x0a || octet === 0x0d) return true;
    if (octet !== 0x20 && octet !== 0x09) return false;
  }
  return true;
}

/** `line 12`, counted only when something is wrong there. */
function where(bytes: Buffer, at: number, counter: Counter): string {
  for (let i = bytes.indexOf(0x0a, counter.counted); i !== -1 && i < at; i = bytes.indexOf(0x0a, i + 1)) {
    counter.line++;
    counter.counted = i + 1;
  }
  return `line ${counter.line}`;
}

/** PEM that is base64-encoded once more. Values that are split over lines are not put together. */
function* parseWrapped(bytes: Buffer, counter: Counter, options: ParseOptions): Generator<Outcome, void, void> {
  let at = 0;
  for (;;) {
    const start = bytes.indexOf(wrappedArmour, at);
    if (start === -1) return;
    let stop = start;
    while (stop < bytes.length && isBase64(bytes[stop]!)) stop++;
    at = stop;
    const inner = Buffer.from(bytes.toString("latin1", start, stop), "base64");
    const within: Counter = { index: counter.index, line: 1, counted: 0 };
    yield* parsePem(inner, within, "base64", options);
    counter.index = within.index;
    inner.fill(0);
  }
}
function isBase64(octet: number): boolean {
  return (
    (octet >= 0x61 && octet <= 0x7a) ||
    (octet >= 0x41 && octet <= 0x5a) ||
    (octet >= 0x30 && octet <= 0x39) ||
    octet === 0x2b ||
    octet === 0x2f ||
    octet === 0x3d
  );
}

const sshLine =
  /(?:^|[\s"])(?:ssh-(?:rsa|ed25519)|ecdsa-sha2-nistp\d{3}) (AAAA[A-Za-z0-9+/=]{16,24000})(?: ([^\r\n]{0,200}))?/;
/** `authorized_keys` and `*.pub`: small files only, as every line has to be looked at. */
const largestSshFile = 1024 * 1024;
function* parseSshLines(bytes: Buffer, counter: Counter): Generator<Outcome, void, void> {
  if (bytes.length > largestSshFile || bytes.indexOf(" AAAA") === -1) return;
  for (const line of bytes.toString("latin1").split("\n")) {
    if (line.length > 32_768 || line.startsWith("#")) continue;
    const match = sshLine.exec(line);
    if (match === null) continue;
    const index = counter.index++;
    try {
      yield opensshPublicKeyItem(Buffer.from(match[1]!, "base64"), index, match[2] ?? "");
    } catch (error) {
      yield problem(`OpenSSH public key ${index + 1}: ${messageOf(error)}`);
    }
  }
}

type DerForm =
  | "certificate"
  | "csr"
  | "crl"
  | "spki"
  | "pkcs1"
  | "pkcs8"
  | "pkcs8-encrypted"
  | "sec1"
  | "pkcs7"
  | "pkcs12";

const dataOid = Buffer.from("06092a864886f70d0107", "hex");

/**
 * Tells the forms apart by their first two levels, without reading the rest. `undefined`: none of ours. An element that is longer than the
 * file is still recognised where its start is unmistakable, so that a cut-off file is named.
 */
function recogniseDer(bytes: Buffer): DerForm | undefined {
  // Indefinite lengths are BER; old Windows and Java write PKCS#7 and PKCS#12 that way.
  if (bytes[1] === 0x80) {
    if (bytes.subarray(2, 2 + dataOid.length).equals(dataOid)) return "pkcs7";
    return bytes[2] === tag.integer && bytes[3] === 1 && bytes[4] === 3 ? "pkcs12" : undefined;
  }
  if (elementLength(bytes) === -1) return undefined;
  try {
    const cursor = new Cursor(bytes);
    cursor.read();
    cursor.enter();
    const first = cursor.read();
    const { content, stop } = cursor;
    const second = cursor.peek();
    if (first === tag.oid)
      return bytes.subarray(cursor.start, cursor.start + dataOid.length).equals(dataOid) ? "pkcs7" : undefined;
    if (first === tag.integer) {
      const value = stop - content === 1 ? bytes[content]! : -1;
      if (value === 3 && second === tag.sequence) return "pkcs12";
      if (value === 1 && second === tag.octetString) return "sec1";
      if (value === 0 && second === tag.integer) return "pkcs1";
      if (value <= 1 && value >= 0 && second === tag.sequence) return "pkcs8";
      return undefined;
    }
    if (first !== tag.sequence) return undefined;
    if (second === tag.bitString) return "spki";
    if (second === tag.octetString) return "pkcs8-encrypted";
    if (second !== tag.sequence) return undefined;
    const inner = new Cursor(bytes, content, stop);
    const head = inner.read();
    if (head === tag.context0) return "certificate";
    if (head === tag.sequence) return "crl";
    if (head !== tag.integer) return undefined;
    const version = inner.stop - inner.content === 1 ? bytes[inner.content] : -1;
    inner.expect(tag.sequence, "the second field");
    const algorithm = new Cursor(bytes, inner.content, inner.stop).read() === tag.oid;
    if (!algorithm) return "csr";
    // A list of version 2 and a certificate of version 1 begin alike; what follows the issuer differs.
    inner.expect(tag.sequence, "the issuer");
    const after = inner.read();
    return version === 1 && (after === tag.utcTime || after === tag.generalizedTime) ? "crl" : "certificate";
  } catch {
    return undefined;
  }
}

function* parseDer(
  bytes: Buffer,
  form: DerForm,
  container: Container,
  index: number,
  options: ParseOptions,
): Generator<Outcome, void, void> {
  try {
    switch (form) {
      case "certificate":
        yield lenientCertificate(bytes, container, index);
        return;
      case "csr":
        yield requestItem(bytes, container, index);
        return;
      case "crl":
        yield revocationListItem(bytes, container, index);
        return;
      case "spki":
        yield publicKeyItem(bytes, container, index);
        return;
      case "pkcs1":
      case "pkcs8":
      case "sec1":
        yield privateKeyItem(Buffer.from(bytes), form, container, index);
        return;
      case "pkcs8-encrypted": {
        const otherwise = lockedKeyItem(bytes, container, index);
        if (options.hasPasswords)
          yield { kind: "heavy", job: { form: "der-key", bytes: ownCopy(bytes), index }, otherwise };
        else yield otherwise;
        return;
      }
      case "pkcs7":
        yield* parsePkcs7(bytes, index);
        return;
      case "pkcs12":
        yield {
          kind: "heavy",
          job: { form: "pkcs12", bytes: ownCopy(bytes), index },
          otherwise: lockedStore(bytes, index),
        };
        return;
    }
  } catch (error) {
    yield problem(messageOf(error));
  }
}

function lockedStore(bytes: Buffer, index: number): ParsedItem {
  return {
    kind: "keystore",
    container: "pkcs12",
    index,
    facts: { fingerprint: hash("sha256", bytes, "hex") },
    encrypted: true,
    problems: [],
  };
}

/** Certificates and lists of a PKCS#7 SignedData (RFC 2315 section 9.1). BER goes to the worker, where a library reads it. */
function* parsePkcs7(bytes: Buffer, index: number): Generator<Outcome, void, void> {
  const elements: { from: number; to: number; list: boolean }[] = [];
  try {
    const cursor = new Cursor(bytes);
    cursor.expect(tag.sequence, "the PKCS#7 message");
    cursor.enter();
    cursor.expect(tag.oid, "the PKCS#7 type");
    if (cursor.peek() !== tag.context0) throw new Malformed("the PKCS#7 message is empty");
    cursor.read();
    cursor.enter();
    cursor.expect(tag.sequence, "the signed data");
    cursor.enter();
    cursor.expect(tag.integer, "the version");
    cursor.expect(tag.set, "the digest algorithms");
    cursor.expect(tag.sequence, "the content");
    for (let kind = cursor.peek(); kind === tag.context0 || kind === tag.context1; kind = cursor.peek()) {
      cursor.read();
      const outer = cursor.enter();
      while (cursor.more) {
        cursor.expect(tag.sequence, "a certificate in the PKCS#7 message");
        elements.push({ from: cursor.start, to: cursor.stop, list: kind === tag.context1 });
      }
      cursor.leave(outer);
    }
  } catch (error) {
    if (error instanceof Malformed && /indefinite/.test(error.message)) {
      yield { kind: "heavy", job: { form: "pkcs7", bytes: ownCopy(bytes), index }, otherwise: null };
      return;
    }
    throw error;
  }
  if (elements.length === 0) yield problem("the PKCS#7 message holds no certificates");
  let at = index;
  for (const { from, to, list } of elements) {
    const der = bytes.subarray(from, to);
    try {
      yield list ? revocationListItem(der, "pkcs7", at) : lenientCertificate(der, "pkcs7", at);
    } catch (error) {
      yield problem(`entry ${at + 1} of the PKCS#7 message: ${messageOf(error)}`);
    }
    at++;
  }
}
