/**
 * Facts of one X.509 certificate, straight from its DER. `X509Certificate` of node:crypto takes about 230 µs for these facts and this takes a
 * few, which is what makes whole machines and large bundles quick to scan. A property test holds every field to node's answer.
 */
import { hash } from "node:crypto";
import type { VersionFacts } from "../core/place.ts";
import { Cursor, elementLength, Malformed, oidKey, oidText, tag } from "./der.ts";
import { maxNames, type CertificateFacts, type Container, type Found, type ParsedItem } from "./found.ts";

const none: readonly string[] = [];

/** Attribute types of names, in the spelling of RFC 4514 and OpenSSL. */
const attributeNames = new Map(
  Object.entries({
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionL",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionST",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionC",
  }).map(([oid, name]) => [oidKey(oid), name]),
);

const signatureNames = new Map(
  Object.entries({
    "1.2.840.113549.1.1.2": "md2WithRSAEncryption",
    "1.2.840.113549.1.1.4": "md5WithRSAEncryption",
    "1.2.840.113549.1.1.5": "sha1WithRSAEncryption",
    "1.3.14.3.2.29": "sha1WithRSA",
    "1.2.840.113549.1.1.10": "rsassaPss",
    "1.2.840.113549.1.1.11": "sha256WithRSAEncryption",
    "1.2.840.113549.1.1.12": "sha384WithRSAEncryption",
    "1.2.840.113549.1.1.13": "sha512WithRSAEncryption",
    "1.2.840.113549.1.1.14": "sha224WithRSAEncryption",
    "1.2.840.10040.4.3": "dsa-with-SHA1",
    "2.16.840.1.101.3.4.3.2": "dsa_with_SHA256",
    "1.2.840.10045.4.1": "ecdsa-with-SHA1",
    "1.2.840.10045.4.3.1": "ecdsa-with-SHA224",
    "1.2.840.10045.4.3.2": "ecdsa-with-SHA256",
    "1.2.840.10045.4.3.3": "ecdsa-with-SHA384",
    "1.2.840.10045.4.3.4": "ecdsa-with-SHA512",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
  }).map(([oid, name]) => [oidKey(oid), name]),
);

export interface KeyKind {
  readonly type: string;
  /** 0: read it from the key. */
  readonly bits: number;
}
const rsaKey = oidKey("1.2.840.113549.1.1.1");
const rsaPssKey = oidKey("1.2.840.113549.1.1.10");
const dsaKey = oidKey("1.2.840.10040.4.1");
const ecKey = oidKey("1.2.840.10045.2.1");
const keyKinds = new Map<string, KeyKind>(
  (
    [
      ["1.3.101.110", "X25519", 253],
      ["1.3.101.111", "X448", 448],
      ["1.3.101.112", "Ed25519", 253],
      ["1.3.101.113", "Ed448", 456],
      ["2.16.840.1.101.3.4.3.17", "ML-DSA-44", 10496],
      ["2.16.840.1.101.3.4.3.18", "ML-DSA-65", 15616],
      ["2.16.840.1.101.3.4.3.19", "ML-DSA-87", 20736],
    ] as const
  ).map(([oid, type, bits]) => [oidKey(oid), { type, bits }]),
);
const curves = new Map<string, KeyKind>(
  (
    [
      ["1.2.840.10045.3.1.1", "EC P-192", 192],
      ["1.3.132.0.33", "EC P-224", 224],
      ["1.2.840.10045.3.1.7", "EC P-256", 256],
      ["1.3.132.0.34", "EC P-384", 384],
      ["1.3.132.0.35", "EC P-521", 521],
      ["1.3.132.0.10", "EC secp256k1", 256],
      ["1.3.36.3.3.2.8.1.1.7", "EC brainpoolP256r1", 256],
      ["1.3.36.3.3.2.8.1.1.11", "EC brainpoolP384r1", 384],
      ["1.3.36.3.3.2.8.1.1.13", "EC brainpoolP512r1", 512],
    ] as const
  ).map(([oid, type, bits]) => [oidKey(oid), { type, bits }]),
);

/**
 * Keeps what was last made of the same bytes. Issuers, algorithms and key identifiers repeat within a bundle (one issuer, many leaves), and
 * comparing some octets here costs a fraction of a call into the runtime. Each slot holds one value, so that it never grows.
 */
function remember<T>(
  make: (bytes: Buffer, from: number, to: number) => T,
): (bytes: Buffer, from: number, to: number) => T {
  const slots: ({ readonly octets: Buffer; readonly value: T } | undefined)[] = Array.from({ length: 256 });
  return (bytes, from, to) => {
    const length = to - from;
    if (length > longestRemembered) return make(bytes, from, to);
    let mixed = length;
    for (let i = from; i < to; i++) mixed = (Math.imul(mixed, 31) + bytes[i]!) | 0;
    const slot = (mixed ^ (mixed >>> 8) ^ (mixed >>> 16)) & 0xff;
    const known = slots[slot];
    if (known !== undefined && known.octets.length === length) {
      const { octets } = known;
      let i = 0;
      while (i < length && octets[i] === bytes[from + i]) i++;
      if (i === length) return known.value;
    }
    const value = make(bytes, from, to);
    slots[slot] = { octets: Buffer.from(bytes.subarray(from, to)), value };
    return value;
  };
}
const longestRemembered = 512;

/** Reads the name (RFC 5280 section 4.1.2.4) under the cursor. Attributes stay in the order of the certificate. */
export function readName(cursor: Cursor): string {
  cursor.expect(tag.sequence, "a name");
  return nameText(cursor.bytes, cursor.content, cursor.stop);
}

const nameText = remember((bytes, from, to) => {
  const cursor = new Cursor(bytes, from, to);
  let text = "";
  while (cursor.more) {
    cursor.expect(tag.set, "part of a name");
    const set = cursor.enter();
    let first = true;
    while (cursor.more) {
      cursor.expect(tag.sequence, "part of a name");
      const pair = cursor.enter();
      cursor.expect(tag.oid, "the type of a name's part");
      const name =
        attributeNames.get(bytes.toString("latin1", cursor.content, cursor.stop)) ??
        oidText(bytes, cursor.content, cursor.stop);
      const kind = cursor.read();
      const value = escapeValue(stringValue(bytes, kind, cursor.content, cursor.stop));
      text += `${text === "" ? "" : first ? ", " : " + "}${name}=${value}`;
      first = false;
      cursor.leave(pair);
    }
    cursor.leave(set);
  }
  return text;
});

/**
 * Refuses the name in `bytes[from, to)` where {@link readName} would, and makes no text of it. Gives whether all its values are in the string
 * types of today, so that names of different lengths are different names.
 */
function checkName(bytes: Buffer, from: number, to: number): boolean {
  const cursor = new Cursor(bytes, from, to);
  let plainly = true;
  while (cursor.more) {
    cursor.expect(tag.set, "part of a name");
    const set = cursor.enter();
    while (cursor.more) {
      cursor.expect(tag.sequence, "part of a name");
      const pair = cursor.enter();
      cursor.expect(tag.oid, "the type of a name's part");
      // Only a number of that length can be too long to be written.
      if (cursor.stop - cursor.content > 6) oidText(bytes, cursor.content, cursor.stop);
      const kind = cursor.read();
      if (kind === tag.sequence || kind === tag.set) throw new Malformed("part of a name is not text");
      plainly &&= kind === tag.utf8 || kind === tag.printable || kind === tag.ia5;
      cursor.leave(pair);
    }
    cursor.leave(set);
  }
  return plainly;
}

function stringValue(bytes: Buffer, kind: number, from: number, to: number): string {
  switch (kind) {
    case tag.bmp:
      return wide(bytes, from, to, 2);
    case tag.universal:
      return wide(bytes, from, to, 4);
    case tag.utf8:
      return bytes.toString("utf8", from, to);
    case tag.sequence:
    case tag.set:
      throw new Malformed("part of a name is not text");
    default:
      return bytes.toString("latin1", from, to);
  }
}

function wide(bytes: Buffer, from: number, to: number, octets: 2 | 4): string {
  let text = "";
  for (let i = from; i + octets <= to; i += octets) {
    if (octets === 2) {
      text += String.fromCharCode(bytes.readUInt16BE(i));
    } else {
      const point = bytes.readUInt32BE(i);
      text += point > 0x10ffff ? "\ufffd" : String.fromCodePoint(point);
    }
  }
  return text;
}

// oxlint-disable-next-line no-control-regex -- control characters are what must not reach a terminal.
const special = /[,+"\\<>;\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]|^[# ]| $/;
/** Escapes as RFC 4514 section 2.4 does; control and direction characters as hex, so that a name cannot forge a line on a terminal. */
function escapeValue(value: string): string {
  if (!special.test(value)) return value;
  let text = "";
  for (let i = 0; i < value.length; i++) {
    const character = value[i]!;
    if (',+"\\<>;'.includes(character)) text += `\\${character}`;
    else if (character === "#" && i === 0) text += "\\#";
    else if (character === " " && (i === 0 || i === value.length - 1)) text += "\\ ";
    else if (special.test(`x${character}x`)) text += hexEscape(character);
    else text += character;
  }
  return text;
}
function hexEscape(character: string): string {
  return [...Buffer.from(character, "utf8")]
    .map((octet) => `\\${octet.toString(16).toUpperCase().padStart(2, "0")}`)
    .join("");
}

/** Removes what could steer a terminal from text that somebody else wrote (aliases, DNS names). */
export function printable(text: string): string {
  return text
    .split("")
    .map((character) =>
      special.test(`x${character}x`) && !',+"\\<>;'.includes(character) ? hexEscape(character) : character,
    )
    .join("");
}

function two(bytes: Buffer, at: number): number {
  const tens = bytes[at]! - 48;
  const ones = bytes[at + 1]! - 48;
  if (tens < 0 || tens > 9 || ones < 0 || ones > 9) throw new Malformed("a date is not made of digits");
  return tens * 10 + ones;
}

/** Reads UTCTime or GeneralizedTime (RFC 5280 section 4.1.2.5: seconds and `Z` are required) as milliseconds since the epoch. */
export function readTime(cursor: Cursor): number {
  const kind = cursor.read();
  const { bytes, content, stop } = cursor;
  let year: number;
  let at = content;
  if (kind === tag.utcTime && stop - content === 13) {
    const short = two(bytes, at);
    year = short < 50 ? 2000 + short : 1900 + short;
    at += 2;
  } else if (kind === tag.generalizedTime && stop - content === 15) {
    year = two(bytes, at) * 100 + two(bytes, at + 2);
    at += 4;
  } else {
    throw new Malformed("a date is missing or in a form that RFC 5280 forbids");
  }
  const month = two(bytes, at);
  const day = two(bytes, at + 2);
  const hour = two(bytes, at + 4);
  const minute = two(bytes, at + 6);
  const second = two(bytes, at + 8);
  if (
    bytes[at + 10] !== 0x5a ||
    month < 1 ||
    month > 12 ||
    day < 1 ||
    day > 31 ||
    hour > 23 ||
    minute > 59 ||
    second > 60
  ) {
    throw new Malformed("a date is out of range");
  }
  return (((daysBefore(year, month) + day - 1) * 24 + hour) * 60 + minute) * 60_000 + second * 1000;
}

/** Days from 1970-01-01 to the first of a month, in years that begin in March so that the leap day is the last. */
function daysBefore(year: number, month: number): number {
  const shifted = month <= 2 ? year - 1 : year;
  const era = Math.floor(shifted / 400);
  const ofEra = shifted - era * 400;
  const ofYear = Math.floor((153 * ((month + 9) % 12) + 2) / 5);
  return era * 146_097 + ofEra * 365 + Math.floor(ofEra / 4) - Math.floor(ofEra / 100) + ofYear - 719_468;
}

/** Reads the SubjectPublicKeyInfo under the cursor, and leaves `cursor.start` and `cursor.stop` on the whole of it. */
export function readPublicKey(cursor: Cursor): KeyKind {
  cursor.expect(tag.sequence, "the public key");
  const { start, stop, bytes } = cursor;
  const outer = cursor.enter();
  cursor.expect(tag.sequence, "the public key's algorithm");
  let kind = keyAlgorithm(bytes, cursor.content, cursor.stop);
  cursor.expect(tag.bitString, "the public key itself");
  if (cursor.stop === cursor.content) throw new Malformed("the public key is empty");
  if (kind === rsa || kind === rsaPss) {
    cursor.at = cursor.content + 1;
    cursor.limit = cursor.stop;
    cursor.expect(tag.sequence, "the RSA key");
    cursor.enter();
    cursor.expect(tag.integer, "the RSA modulus");
    kind = rsaKind(kind, integerBits(cursor));
  }
  cursor.limit = stop;
  cursor.leave(outer);
  cursor.start = start;
  cursor.stop = stop;
  return kind;
}

const rsa: KeyKind = { type: "RSA", bits: 0 };
const rsaPss: KeyKind = { type: "RSA-PSS", bits: 0 };
const rsa2048: KeyKind = { type: "RSA", bits: 2048 };
function rsaKind(kind: KeyKind, bits: number): KeyKind {
  return kind === rsa && bits === 2048 ? rsa2048 : { type: kind.type, bits };
}

/** What the content of an algorithm identifier says of the key; of RSA keys, all but the bits. */
const keyAlgorithm = remember((bytes, from, to): KeyKind => {
  const cursor = new Cursor(bytes, from, to);
  cursor.expect(tag.oid, "the public key's algorithm");
  const oid = bytes.toString("latin1", cursor.content, cursor.stop);
  if (oid === rsaKey) return rsa;
  if (oid === rsaPssKey) return rsaPss;
  if (oid === ecKey) {
    if (cursor.peek() !== tag.oid) return { type: "EC with explicit parameters", bits: 0 };
    cursor.read();
    const curve = bytes.toString("latin1", cursor.content, cursor.stop);
    return curves.get(curve) ?? { type: `EC ${oidText(bytes, cursor.content, cursor.stop)}`, bits: 0 };
  }
  if (oid === dsaKey) {
    if (cursor.peek() !== tag.sequence) return { type: "DSA", bits: 0 };
    cursor.read();
    cursor.enter();
    cursor.expect(tag.integer, "the DSA prime");
    return { type: "DSA", bits: integerBits(cursor) };
  }
  return keyKinds.get(oid) ?? { type: oidText(bytes, cursor.content, cursor.stop), bits: 0 };
});

function integerBits(cursor: Cursor): number {
  const { bytes, stop } = cursor;
  let at = cursor.content;
  while (at < stop && bytes[at] === 0) at++;
  return at === stop ? 0 : (stop - at) * 8 - (Math.clz32(bytes[at]!) - 24);
}

function readSignatureAlgorithm(cursor: Cursor): string {
  cursor.expect(tag.sequence, "the signature algorithm");
  return signatureAlgorithm(cursor.bytes, cursor.content, cursor.stop);
}

const signatureAlgorithm = remember((bytes, from, to) => {
  const cursor = new Cursor(bytes, from, to);
  cursor.expect(tag.oid, "the signature algorithm");
  const oid = bytes.toString("latin1", cursor.content, cursor.stop);
  if (oid === rsaPssKey) return `rsassaPss with ${pssHash(cursor)}`;
  return signatureNames.get(oid) ?? oidText(bytes, cursor.content, cursor.stop);
});

/** RFC 4055 section 3.1: without a hash in its parameters, RSASSA-PSS means SHA-1. */
function pssHash(cursor: Cursor): string {
  if (cursor.peek() !== tag.sequence) return "SHA1";
  cursor.read();
  cursor.enter();
  if (cursor.peek() !== tag.context0) return "SHA1";
  cursor.read();
  cursor.enter();
  cursor.expect(tag.sequence, "the hash of the signature");
  cursor.enter();
  cursor.expect(tag.oid, "the hash of the signature");
  const oid = oidText(cursor.bytes, cursor.content, cursor.stop);
  const names: Record<string, string> = {
    "1.3.14.3.2.26": "SHA1",
    "2.16.840.1.101.3.4.2.1": "SHA256",
    "2.16.840.1.101.3.4.2.2": "SHA384",
    "2.16.840.1.101.3.4.2.3": "SHA512",
  };
  return names[oid] ?? oid;
}

/** Everything that is read from a certificate, before it is placed anywhere. */
interface CertificateContent {
  readonly facts: VersionFacts;
  readonly key: KeyKind;
  readonly certificate: CertificateFacts;
}

/** Where the parts of the certificate that was read last lie. One for all, because tens of thousands of small objects show. */
const layout = {
  start: 0,
  stop: 0,
  serialFrom: 0,
  serialTo: 0,
  issuerFrom: 0,
  issuerTo: 0,
  subjectFrom: 0,
  subjectTo: 0,
  keyFrom: 0,
  keyTo: 0,
  namesFrom: 0,
  namesTo: 0,
  subjectKeyFrom: 0,
  subjectKeyTo: 0,
  authorityKeyFrom: 0,
  authorityKeyTo: 0,
  notBeforeMs: 0,
  notAfterMs: 0,
  key: rsa,
  isCa: false,
  selfIssued: false,
  signature: "",
};

/** Checks a certificate whole and fills {@link layout}. What this takes can be made into text without an error. Throws {@link Malformed}. */
function readLayout(bytes: Buffer, from: number, to: number): void {
  const cursor = new Cursor(bytes, from, to);
  cursor.expect(tag.sequence, "the certificate");
  layout.start = cursor.start;
  layout.stop = cursor.stop;
  cursor.enter();
  cursor.expect(tag.sequence, "the certificate's content");
  const contentEnd = cursor.stop;
  const certificateEnd = cursor.enter();
  if (cursor.peek() === tag.context0) cursor.read();
  cursor.expect(tag.integer, "the serial number");
  if (cursor.stop === cursor.content || cursor.stop - cursor.content > longestSerial)
    throw new Malformed("the serial number has no sensible length");
  layout.serialFrom = cursor.content;
  layout.serialTo = cursor.stop;
  cursor.expect(tag.sequence, "the signature algorithm");
  cursor.expect(tag.sequence, "a name");
  layout.issuerFrom = cursor.content;
  layout.issuerTo = cursor.stop;
  const plainIssuer = checkName(bytes, cursor.content, cursor.stop);
  cursor.expect(tag.sequence, "the validity");
  const validity = cursor.enter();
  layout.notBeforeMs = readTime(cursor);
  layout.notAfterMs = readTime(cursor);
  cursor.leave(validity);
  cursor.expect(tag.sequence, "a name");
  layout.subjectFrom = cursor.content;
  layout.subjectTo = cursor.stop;
  const plainSubject = checkName(bytes, cursor.content, cursor.stop);
  layout.key = readPublicKey(cursor);
  layout.keyFrom = cursor.start;
  layout.keyTo = cursor.stop;
  readExtensions(cursor);
  cursor.at = contentEnd;
  cursor.limit = certificateEnd;
  layout.signature = readSignatureAlgorithm(cursor);
  cursor.expect(tag.bitString, "the signature");
  // The same name may be written in several string types, so octets alone do not decide; in those of today, another length is another name.
  layout.selfIssued =
    plainIssuer && plainSubject && layout.issuerTo - layout.issuerFrom !== layout.subjectTo - layout.subjectFrom
      ? false
      : nameText(bytes, layout.issuerFrom, layout.issuerTo) === nameText(bytes, layout.subjectFrom, layout.subjectTo);
}

/**
 * Reads the facts of the DER certificate that fills `bytes[from, to)`; `to` is where its own length says, so trailing bytes are the caller's to
 * judge. Throws {@link Malformed}.
 */
function readCertificate(bytes: Buffer, from: number, to: number): CertificateContent {
  readLayout(bytes, from, to);
  const whole = bytes.subarray(layout.start, layout.stop);
  return {
    facts: {
      fingerprint: hash("sha256", whole, "hex"),
      sha1: hash("sha1", whole, "hex"),
      publicKeySha256: hash("sha256", bytes.subarray(layout.keyFrom, layout.keyTo), "hex"),
      notBeforeMs: layout.notBeforeMs,
      notAfterMs: layout.notAfterMs,
      subject: nameText(bytes, layout.subjectFrom, layout.subjectTo),
      issuer: nameText(bytes, layout.issuerFrom, layout.issuerTo),
      serial: serialText(bytes, layout.serialFrom, layout.serialTo),
    },
    key: layout.key,
    certificate: {
      names: layout.namesFrom === 0 ? none : alternativeNames(bytes, layout.namesFrom, layout.namesTo),
      isCa: layout.isCa,
      selfIssued: layout.selfIssued,
      signature: layout.signature,
      subjectKeyId:
        layout.subjectKeyFrom === 0 ? null : bytes.toString("hex", layout.subjectKeyFrom, layout.subjectKeyTo),
      authorityKeyId:
        layout.authorityKeyFrom === 0 ? null : hexText(bytes, layout.authorityKeyFrom, layout.authorityKeyTo),
    },
  };
}

const hexText = remember((bytes, from, to) => bytes.toString("hex", from, to));

/**
 * Facts of one certificate of a bundle. What decides about it is read at once; names that are only shown are made into text when somebody looks,
 * because a bundle has tens of thousands of them. Looks like {@link VersionFacts} to every reader, JSON included.
 */
class BundledFacts implements VersionFacts {
  readonly fingerprint: string;
  readonly publicKeySha256: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly issuer: string;
  readonly #bytes: Buffer;
  readonly #from: number;
  readonly #to: number;
  #whole: CertificateContent | undefined;

  /** Of the certificate that {@link layout} is about. `bytes` must stay as they are. */
  constructor(bytes: Buffer) {
    const { start, stop } = layout;
    this.fingerprint = hash("sha256", bytes.subarray(start, stop), "hex");
    this.publicKeySha256 = hash("sha256", bytes.subarray(layout.keyFrom, layout.keyTo), "hex");
    this.notBeforeMs = layout.notBeforeMs;
    this.notAfterMs = layout.notAfterMs;
    this.issuer = nameText(bytes, layout.issuerFrom, layout.issuerTo);
    this.#bytes = bytes;
    this.#from = start;
    this.#to = stop;
    this.#whole = undefined;
  }

  whole(): CertificateContent {
    this.#whole ??= readCertificate(this.#bytes, this.#from, this.#to);
    return this.#whole;
  }
  get sha1(): string {
    return this.whole().facts.sha1 ?? "";
  }
  get subject(): string {
    return this.whole().facts.subject ?? "";
  }
  get serial(): string {
    return this.whole().facts.serial ?? "";
  }
  toJSON(): VersionFacts {
    return this.whole().facts;
  }
}

/** The rest of them, in the same way. */
class BundledCertificate implements CertificateFacts {
  readonly isCa: boolean;
  readonly selfIssued: boolean;
  readonly signature: string;
  readonly authorityKeyId: string | null;
  readonly #facts: BundledFacts;

  constructor(bytes: Buffer, facts: BundledFacts) {
    this.isCa = layout.isCa;
    this.selfIssued = layout.selfIssued;
    this.signature = layout.signature;
    this.authorityKeyId =
      layout.authorityKeyFrom === 0 ? null : hexText(bytes, layout.authorityKeyFrom, layout.authorityKeyTo);
    this.#facts = facts;
  }

  get names(): readonly string[] {
    return this.#facts.whole().certificate.names;
  }
  get subjectKeyId(): string | null {
    return this.#facts.whole().certificate.subjectKeyId;
  }
  toJSON(): CertificateFacts {
    return this.#facts.whole().certificate;
  }
}

/** RFC 5280 allows 20 octets; some are longer, none is endless. */
const longestSerial = 64;

/** Reads the optional fields at the end of a certificate's content into {@link layout}. Only the extensions that are used are looked into. */
function readExtensions(cursor: Cursor): void {
  layout.isCa = false;
  layout.namesFrom = 0;
  layout.subjectKeyFrom = 0;
  layout.authorityKeyFrom = 0;
  const { bytes } = cursor;
  while (cursor.more) {
    // [1] and [2] are the unique identifiers of version 2.
    if (cursor.read() !== tag.context3) continue;
    cursor.enter();
    cursor.expect(tag.sequence, "the extensions");
    cursor.enter();
    while (cursor.more) {
      cursor.expect(tag.sequence, "an extension");
      const list = cursor.enter();
      const end = cursor.limit;
      cursor.expect(tag.oid, "an extension's name");
      // All that are read here are 2.5.29.x: 55 1D and one more octet.
      const at = cursor.content;
      const which = cursor.stop - at === 3 && bytes[at] === 0x55 && bytes[at + 1] === 0x1d ? bytes[at + 2]! : 0;
      if (which === 17 || which === 19 || which === 14 || which === 35) {
        if (cursor.peek() === tag.boolean) cursor.read();
        cursor.expect(tag.octetString, "an extension's value");
        cursor.enter();
        readExtension(cursor, which);
      }
      cursor.at = end;
      cursor.limit = list;
    }
    break;
  }
}

function readExtension(cursor: Cursor, which: 14 | 17 | 19 | 35): void {
  switch (which) {
    case 14:
      cursor.expect(tag.octetString, "the subject key identifier");
      layout.subjectKeyFrom = cursor.content;
      layout.subjectKeyTo = cursor.stop;
      break;
    case 17:
      cursor.expect(tag.sequence, "the alternative names");
      layout.namesFrom = cursor.content;
      layout.namesTo = cursor.stop;
      checkAlternativeNames(cursor);
      break;
    case 19:
      cursor.expect(tag.sequence, "the basic constraints");
      cursor.enter();
      if (cursor.peek() === tag.boolean) {
        cursor.read();
        layout.isCa = cursor.stop > cursor.content && cursor.bytes[cursor.content] !== 0;
      }
      break;
    case 35:
      cursor.expect(tag.sequence, "the authority key identifier");
      cursor.enter();
      if (cursor.peek() === 0x80) {
        cursor.read();
        layout.authorityKeyFrom = cursor.content;
        layout.authorityKeyTo = cursor.stop;
      }
      break;
  }
}

/** Walks the names as {@link alternativeNames} does, and so refuses what that would. */
function checkAlternativeNames(cursor: Cursor): void {
  cursor.enter();
  for (let taken = 0; cursor.more && taken < maxNames;) {
    const kind = cursor.read();
    if (kind === 0x82 || kind === 0x81 || kind === 0x86 || kind === 0x87) taken++;
  }
}

/** RFC 5280 section 4.2.1.6: [1] mail, [2] DNS, [6] URI, [7] address. Directory and other names are left out. */
function alternativeNames(bytes: Buffer, from: number, to: number): string[] {
  const cursor = new Cursor(bytes, from, to);
  const names: string[] = [];
  while (cursor.more && names.length < maxNames) {
    const kind = cursor.read();
    if (kind === 0x82 || kind === 0x81 || kind === 0x86) {
      const text = bytes.toString("latin1", cursor.content, Math.min(cursor.stop, cursor.content + longestName));
      names.push(plain.test(text) ? text : printable(text));
    } else if (kind === 0x87) {
      names.push(addressText(bytes, cursor.content, cursor.stop));
    }
  }
  return names;
}
const plain = /^[\x21-\x7e]*$/;
/** A DNS name has at most 253 characters; a URI that is longer is cut. */
const longestName = 512;

function addressText(bytes: Buffer, from: number, to: number): string {
  if (to - from === 4) return `${bytes[from]}.${bytes[from + 1]}.${bytes[from + 2]}.${bytes[from + 3]}`;
  if (to - from !== 16) return `address of ${to - from} octets`;
  const groups: string[] = [];
  for (let i = from; i < to; i += 2) groups.push(bytes.readUInt16BE(i).toString(16));
  return groups.join(":");
}

/** Lower-case hex without leading zero octets, as `factsOf` of the connectors writes it. */
function serialText(bytes: Buffer, from: number, to: number): string {
  let at = from;
  if (bytes[at]! < 0x80) {
    while (at < to && bytes[at] === 0) at++;
    return at === to ? "0" : bytes.toString("hex", at, to);
  }
  // Negative serials are forbidden and exist: two's complement, printed with its sign.
  const magnitude = (1n << BigInt((to - from) * 8)) - BigInt(`0x${bytes.toString("hex", from, to)}`);
  const text = magnitude.toString(16);
  return `-${text.length % 2 === 0 ? text : `0${text}`}`;
}

/**
 * The certificate that fills `bytes[from, to)`, as an item. Trailing bytes are a remark, unless `more` says that the format has them (OpenSSL's
 * `TRUSTED CERTIFICATE`). Throws {@link Malformed}.
 */
export function certificateItem(
  bytes: Buffer,
  from: number,
  to: number,
  container: Container,
  index: number,
  more = false,
): ParsedItem {
  const length = elementLength(bytes, from, to);
  const { facts, key, certificate } = readCertificate(bytes, from, to);
  // The scan fills in where it was found; having the fields from the start spares a copy of each item.
  const item: Found = {
    source: "",
    path: "",
    kind: "certificate",
    container,
    index,
    facts,
    keyType: key.type,
    keyBits: key.bits,
    certificate,
    problems: more || length === to - from ? none : [`${to - from - length} bytes follow the certificate`],
  };
  return item;
}

/**
 * As {@link certificateItem}, for the many of a bundle: most text is made when it is looked at, out of `bytes`, which must stay as they are.
 * Throws {@link Malformed}.
 */
export function bundledItem(
  bytes: Buffer,
  from: number,
  to: number,
  index: number,
  place: { readonly source: string; readonly path: string },
): Found {
  readLayout(bytes, from, to);
  const { key } = layout;
  const rest = to - layout.stop;
  const facts = new BundledFacts(bytes);
  return {
    source: place.source,
    path: place.path,
    kind: "certificate",
    container: "pem",
    index,
    facts,
    keyType: key.type,
    keyBits: key.bits,
    certificate: new BundledCertificate(bytes, facts),
    problems: rest === 0 ? none : [`${rest} bytes follow the certificate`],
  };
}
