/**
 * What runs in a worker: containers that need a password or a library that recurses. The worker is killed when it takes too long, so nothing
 * here has to defend itself against time; depth and iterations are still checked first, because they are cheap to see.
 */
import forge from "node-forge";
import { certificateItem } from "./certificate.ts";
import { Cursor, Malformed, refuseDeepNesting, tag } from "./der.ts";
import type { ParsedItem } from "./found.ts";
import { privateKeyItem, revocationListItem } from "./keys.ts";
import type { HeavyJob } from "./parse.ts";

/** More rounds than this of a key derivation are an attack: OWASP asks for 600,000 of PBKDF2-SHA256, OpenSSL writes 2,048. */
export const maxIterations = 1_000_000;

export interface HeavyResult {
  readonly items: readonly ParsedItem[];
  /** Sentences; when there are no items, why not. */
  readonly problems: readonly string[];
  /** A limit of ours said no, rather than the format. */
  readonly refused: boolean;
}

class Refused extends Malformed {}

/** Opens one container with the passwords given. Never throws. */
export function parseHeavy(job: HeavyJob, passwords: readonly string[]): HeavyResult {
  const bytes = Buffer.from(job.bytes.buffer, job.bytes.byteOffset, job.bytes.byteLength);
  try {
    switch (job.form) {
      case "pem-key":
      case "der-key":
        return { items: [openKey(job, bytes, passwords)], problems: [], refused: false };
      case "pkcs12":
        return openPkcs12(bytes, passwords, job.index);
      case "pkcs7":
        return { ...openBerPkcs7(bytes, job.index), refused: false };
    }
  } catch (error) {
    const text =
      error instanceof Malformed
        ? error.message
        : `this ${job.form === "pkcs12" ? "PKCS#12 file" : "file"} is damaged or of an unknown kind`;
    return { items: [], problems: [text], refused: error instanceof Refused };
  } finally {
    bytes.fill(0);
  }
}

function openKey(job: HeavyJob, bytes: Buffer, passwords: readonly string[]): ParsedItem {
  const der =
    job.form === "der-key" ? bytes : Buffer.from(bytes.toString("latin1").replace(/-----[^-]*-----/g, ""), "base64");
  refuseIterationBomb(der);
  for (const password of passwords) {
    try {
      return privateKeyItem(
        Buffer.from(bytes),
        job.form === "der-key" ? "pkcs8" : "pem",
        job.form === "der-key" ? "der" : "pem",
        job.index,
        job.label,
        password,
      );
    } catch {
      // A wrong password and a damaged key look the same; the sentence below says both.
    }
  }
  throw new Malformed("no given password opens the private key");
}

/** PBKDF2, PBES1 and the PKCS#12 derivations (RFC 8018, RFC 7292 appendix C) all carry `{ salt, iterations }` right behind their name. */
const derivations = [Buffer.from("06092a864886f70d0105", "hex"), Buffer.from("060a2a864886f70d010c01", "hex")];

/** Refuses derivations of more than {@link maxIterations} rounds that can be seen without a password. Throws {@link Malformed}. */
export function refuseIterationBomb(bytes: Buffer): void {
  for (const name of derivations) {
    for (let at = bytes.indexOf(name); at !== -1; at = bytes.indexOf(name, at + 1)) {
      const rounds = iterationsBehind(bytes, at);
      if (rounds > maxIterations) {
        throw new Refused(
          `its key derivation asks for ${rounds} rounds, more than the ${maxIterations} that are allowed`,
        );
      }
    }
  }
}

function iterationsBehind(bytes: Buffer, at: number): number {
  try {
    const cursor = new Cursor(bytes, at);
    cursor.read();
    if (cursor.read() !== tag.sequence) return 0;
    cursor.enter();
    if (cursor.read() !== tag.octetString || cursor.read() !== tag.integer) return 0;
    return integer(bytes, cursor.content, cursor.stop);
  } catch {
    // Not a derivation after all, or cut off: the parser itself will say so.
    return 0;
  }
}
function integer(bytes: Buffer, from: number, to: number): number {
  let value = 0;
  for (let i = from; i < to; i++) value = value * 256 + bytes[i]!;
  return value;
}

function asn1(bytes: Buffer): forge.asn1.Asn1 {
  refuseDeepNesting(bytes);
  try {
    return forge.asn1.fromDer(forge.util.createBuffer(bytes.toString("binary")), {
      strict: false,
      parseAllBytes: false,
    } as never);
  } catch {
    throw new Malformed("it is cut off or damaged");
  }
}

function openPkcs12(bytes: Buffer, passwords: readonly string[], firstIndex: number): HeavyResult {
  refuseIterationBomb(bytes);
  const tree = asn1(bytes);
  const macRounds = roundsOfMac(tree);
  if (macRounds > maxIterations) {
    throw new Refused(
      `its integrity check asks for ${macRounds} rounds, more than the ${maxIterations} that are allowed`,
    );
  }
  let store: forge.pkcs12.Pkcs12Pfx | undefined;
  let why = "no given password opens it, and neither does an empty one";
  for (const password of ["", undefined, ...passwords]) {
    try {
      store = forge.pkcs12.pkcs12FromAsn1(tree, false, password as string);
      break;
    } catch (error) {
      // Only the cases that another password cannot mend are told apart; the library's own text may quote its input.
      const text = error instanceof Error ? error.message : "";
      if (/unsupported|Cannot read encrypted|OID/i.test(text))
        why = "it uses an encryption or integrity check that is not read here (or no password fits)";
    }
  }
  if (store === undefined) throw new Malformed(why);
  return { ...contents(store, firstIndex), refused: false };
}

function roundsOfMac(tree: forge.asn1.Asn1): number {
  const mac = (tree.value as forge.asn1.Asn1[])[2];
  const rounds = Array.isArray(mac?.value) ? (mac.value as forge.asn1.Asn1[])[2]?.value : undefined;
  if (typeof rounds !== "string") return 1;
  const octets = Buffer.from(rounds, "latin1");
  return integer(octets, 0, octets.length);
}

function contents(store: forge.pkcs12.Pkcs12Pfx, firstIndex: number): { items: ParsedItem[]; problems: string[] } {
  const items: ParsedItem[] = [];
  const problems: string[] = [];
  let index = firstIndex;
  for (const safe of store.safeContents as unknown as { safeBags: forge.pkcs12.Bag[]; encrypted: boolean }[]) {
    for (const bag of safe.safeBags) {
      const label = friendlyName(bag);
      try {
        if (bag.type === forge.pki.oids["certBag"]) {
          const der = toDer(bag.cert ? forge.pki.certificateToAsn1(bag.cert) : bag.asn1);
          items.push({ ...certificateItem(der, 0, der.length, "pkcs12", index), ...label });
        } else if (bag.type === forge.pki.oids["keyBag"] || bag.type === forge.pki.oids["pkcs8ShroudedKeyBag"]) {
          const shrouded = safe.encrypted || bag.type === forge.pki.oids["pkcs8ShroudedKeyBag"];
          const der = toDer(bag.key ? forge.pki.wrapRsaPrivateKey(forge.pki.privateKeyToAsn1(bag.key)) : bag.asn1);
          items.push({ ...privateKeyItem(der, "pkcs8", "pkcs12", index), encrypted: shrouded, ...label });
        } else {
          continue;
        }
      } catch (error) {
        problems.push(`bag ${index + 1}: ${error instanceof Malformed ? error.message : "it cannot be read"}`);
      }
      index++;
    }
  }
  if (items.length === 0 && problems.length === 0) problems.push("it opens and is empty");
  return { items, problems };
}

function friendlyName(bag: forge.pkcs12.Bag): { label?: string } {
  const name: unknown = (bag.attributes as { friendlyName?: unknown[] } | undefined)?.friendlyName?.[0];
  return typeof name === "string" ? { label: name.slice(0, 200) } : {};
}

function toDer(element: forge.asn1.Asn1): Buffer {
  return Buffer.from(forge.asn1.toDer(element).getBytes(), "latin1");
}

/** PKCS#7 with indefinite lengths, as Windows and Java write it: rewritten as DER, then read as ours. */
function openBerPkcs7(bytes: Buffer, firstIndex: number): { items: ParsedItem[]; problems: string[] } {
  const items: ParsedItem[] = [];
  const problems: string[] = [];
  const content = (asn1(bytes).value as forge.asn1.Asn1[])[1]?.value as forge.asn1.Asn1[] | undefined;
  const signed = content?.[0]?.value;
  if (!Array.isArray(signed)) throw new Malformed("the PKCS#7 message holds no signed data");
  let index = firstIndex;
  for (const part of signed) {
    if (part.tagClass !== forge.asn1.Class.CONTEXT_SPECIFIC || !Array.isArray(part.value)) continue;
    for (const element of part.value as forge.asn1.Asn1[]) {
      try {
        const der = toDer(element);
        items.push(
          (part.type as number) === 0
            ? certificateItem(der, 0, der.length, "pkcs7", index)
            : revocationListItem(der, "pkcs7", index),
        );
      } catch (error) {
        problems.push(
          `entry ${index + 1} of the PKCS#7 message: ${error instanceof Malformed ? error.message : "it cannot be read"}`,
        );
      }
      index++;
    }
  }
  if (items.length === 0 && problems.length === 0) problems.push("the PKCS#7 message holds no certificates");
  return { items, problems };
}
