/**
 * Puts together what a scan found: copies of one certificate, keys and the certificates that they fit, chains, and what is wrong with them.
 * Memory grows with the distinct certificates and with the keys, not with the files: each keeps a bounded number of its places.
 */
import { basename, dirname, extname, join } from "node:path";
import type { VersionFacts } from "../core/place.ts";
import type { CertificateFacts, Container, Found } from "./found.ts";

/** Where one object was found. */
export interface FoundAt {
  readonly path: string;
  readonly index: number;
  readonly container: Container;
  readonly label?: string;
}

export interface CorrelatedCertificate {
  readonly facts: VersionFacts;
  readonly certificate: CertificateFacts | undefined;
  readonly keyType: string | undefined;
  readonly keyBits: number | undefined;
  /** How often it was found, places beyond the kept ones included. */
  readonly copies: number;
  readonly places: readonly FoundAt[];
  /** Private keys that fit it. */
  readonly privateKeys: readonly FoundAt[];
  /** Fingerprint of its issuer among what was found; its own when it is self-issued; `null` when it was not found. */
  readonly issuerFingerprint: string | null;
  /** `complete`: up to a root that was found. `open`: the last issuer was not found. */
  readonly chain: "complete" | "open";
}

export interface CorrelatedKey {
  readonly publicKeySha256: string;
  readonly keyType: string | undefined;
  readonly keyBits: number | undefined;
  /** Fingerprints of the certificates that have it. */
  readonly certificates: readonly string[];
  readonly privateKeys: readonly FoundAt[];
}

export type FindingCode =
  | "expired"
  | "expiring"
  | "not-yet-valid"
  | "weak-key"
  | "weak-signature"
  | "long-validity"
  | "mismatched-pair"
  | "chain-incomplete"
  | "chain-order"
  | "not-reloaded"
  | "shared-key"
  | "key-copies"
  | "locked"
  | "odd";

export interface Finding {
  readonly code: FindingCode;
  readonly severity: "error" | "warning" | "info";
  /** One or two sentences that stand alone. */
  readonly text: string;
  readonly paths: readonly string[];
  readonly fingerprint?: string;
}

export interface Correlation {
  /** By expiry, the next one first. */
  readonly certificates: readonly CorrelatedCertificate[];
  /** Keys for which a private key was found, or that several certificates share. */
  readonly keys: readonly CorrelatedKey[];
  /** Errors first. */
  readonly findings: readonly Finding[];
}

export interface CorrelateOptions {
  readonly nowMs: number;
  /** How long before its end a certificate counts as expiring; default 30 days. */
  readonly soonMs?: number;
}

const dayMs = 86_400_000;
const maxPlaces = 100;
const maxEarly = 5000;
/** Longest life of a public server certificate (CA/Browser Forum, baseline requirements 6.3.2, for those issued since September 2020). */
const longestPublicMs = 398 * dayMs;

interface Gathered {
  readonly first: Found;
  copies: number;
  readonly places: FoundAt[];
  /** An endpoint serves it. */
  served: boolean;
  /** Who issued it, among what was found; filled in at the end. */
  issuer: Gathered | null;
}

export interface Correlator {
  /** Takes everything that one file or endpoint held, or a part of it, as a `found` event carries it. */
  add(items: readonly Found[]): void;
  finish(options: CorrelateOptions): Correlation;
}

export function correlate(items: Iterable<Found>, options: CorrelateOptions): Correlation {
  const correlator = openCorrelator();
  let batch: Found[] = [];
  for (const item of items) {
    if (batch.length > 0 && batch[0]!.path !== item.path) {
      correlator.add(batch);
      batch = [];
    }
    batch.push(item);
  }
  correlator.add(batch);
  return correlator.finish(options);
}

export function openCorrelator(): Correlator {
  const certificates = new Map<string, Gathered>();
  const privateKeys = new Map<string, Gathered>();
  const early: Finding[] = [];
  return {
    add(items) {
      for (const item of items) {
        if (item.kind === "certificate") gather(certificates, item.facts.fingerprint, item);
        else if (item.kind === "private-key") gather(privateKeys, item.facts.fingerprint, item);
        else if (item.kind === "keystore" && item.encrypted === true) early.push(locked(item));
        for (const text of item.problems) {
          if (item.kind !== "keystore")
            early.push({ code: "odd", severity: "info", text: `${item.path}: ${text}`, paths: [item.path] });
        }
      }
      early.push(...orderFindings(items));
      // A million odd files must not become a million sentences; nobody reads on after these.
      if (early.length > maxEarly) early.length = maxEarly;
    },
    finish: (options) => finish(certificates, privateKeys, early, options),
  };
}

function gather(into: Map<string, Gathered>, key: string, item: Found): void {
  const known = into.get(key);
  const served = item.container === "tls";
  if (known === undefined) {
    // One place is what nearly all have, and a list that is written with it takes no room for more.
    into.set(key, { first: item, copies: 1, places: [placeOf(item)], served, issuer: null });
    return;
  }
  known.copies++;
  if (served) known.served = true;
  if (known.places.length < maxPlaces) known.places.push(placeOf(item));
}

function placeOf({ path, index, container, label }: Found): FoundAt {
  return label === undefined ? { path, index, container } : { path, index, container, label };
}

function locked(item: Found): Finding {
  const why = item.problems[0] ?? "It is protected by a password.";
  return {
    code: "locked",
    severity: "info",
    text: `${item.path} is a keystore that stays shut. ${why} Give its password to look inside.`,
    paths: [item.path],
    fingerprint: item.facts.fingerprint,
  };
}

/** Judged while the items of one file are at hand, so that no sequence has to be kept. OpenSSL sorts served chains, so endpoints say nothing here. */
function orderFindings(items: readonly Found[]): Finding[] {
  const chain = items.filter(
    (item) => item.kind === "certificate" && (item.container === "pem" || item.container === "base64"),
  );
  if (chain.length < 2 || chain.length > 20 || chain[0]!.index > 1) return [];
  const leaves = chain.filter((item) => item.certificate?.isCa === false && !item.certificate.selfIssued);
  const leaf = leaves[0];
  // Several leaves, or none, are a bundle and no chain.
  if (leaf === undefined || leaves.length > 1) return [];
  const path = leaf.path;
  if (leaf !== chain[0]) {
    if (!chain.some((other) => other !== leaf && other.facts.subject === leaf.facts.issuer)) return [];
    return [
      {
        code: "chain-order",
        severity: "error",
        text: `${path}: the server certificate "${nameOf(leaf.facts)}" must come first, and stands at position ${chain.indexOf(leaf) + 1} of ${chain.length}. Many clients refuse that chain.`,
        paths: [path],
        fingerprint: leaf.facts.fingerprint,
      },
    ];
  }
  for (let i = 0; i + 1 < chain.length; i++) {
    const here = chain[i]!;
    const next = chain[i + 1]!;
    if (here.facts.issuer === next.facts.subject) continue;
    const later = chain.slice(i + 2).some((other) => other.facts.subject === here.facts.issuer);
    const text = later
      ? `${path}: certificate ${i + 2} of ${chain.length} does not issue the one before it; the right one comes later. Each certificate must be followed by its issuer.`
      : `${path}: certificate ${i + 2} of ${chain.length}, "${nameOf(next.facts)}", does not belong to the chain of "${nameOf(leaf.facts)}".`;
    return [
      {
        code: "chain-order",
        severity: later ? "warning" : "info",
        text,
        paths: [path],
        fingerprint: leaf.facts.fingerprint,
      },
    ];
  }
  return [];
}

/** The common name, or the first alternative name's subject, or the serial: something to call it by. */
export function nameOf(facts: VersionFacts): string {
  const common = /(?:^|, |\+ )CN=((?:[^,\\]|\\.)+)/.exec(facts.subject ?? "");
  return (
    common?.[1] ??
    (facts.subject !== undefined && facts.subject !== "" ? facts.subject : facts.fingerprint.slice(0, 16))
  );
}

function finish(
  certificates: ReadonlyMap<string, Gathered>,
  privateKeys: ReadonlyMap<string, Gathered>,
  early: readonly Finding[],
  options: CorrelateOptions,
): Correlation {
  const bySubject = new Map<string, Gathered[]>();
  const byKey = new Map<string, Gathered[]>();
  // By fingerprint first, so that whatever is listed below is in a fixed order.
  const ordered = byFingerprint(certificates);
  for (const one of ordered) {
    const { facts, certificate } = one.first;
    // Only these can be an issuer.
    if (certificate?.isCa === true || certificate?.selfIssued === true) push(bySubject, facts.subject ?? "", one);
    if (facts.publicKeySha256 !== undefined) push(byKey, facts.publicKeySha256, one);
  }
  const issuerOf = issuerFinder(bySubject);
  for (const one of ordered) one.issuer = issuerOf(one.first);
  const list = ordered.map((one) => correlated(one, privateKeys));
  const findings = [...early];
  for (const one of list) judge(one, options, findings);
  const served = ordered.some((one) => one.served);
  if (served) findings.push(...chainFindings(ordered));
  findings.push(...keyFindings(privateKeys, byKey), ...mismatches(certificates, privateKeys));
  list.sort((a, b) => (a.facts.notAfterMs ?? Infinity) - (b.facts.notAfterMs ?? Infinity));
  if (served) findings.push(...reloadFindings(list, options));
  const order = { error: 0, warning: 1, info: 2 };
  findings.sort((a, b) => order[a.severity] - order[b.severity] || compare(a.code, b.code) || compare(a.text, b.text));
  return { certificates: list, keys: keysOf(privateKeys, byKey), findings };
}

/**
 * Sorted as text. The first eight digits and the position make one number each, which are sorted much faster than strings; what these leave out of
 * place (a collision once in thousands) is put right after.
 */
function byFingerprint(certificates: ReadonlyMap<string, Gathered>): Gathered[] {
  const all = [...certificates.values()];
  const numbers = new Float64Array(all.length);
  for (let i = 0; i < all.length; i++)
    numbers[i] = Number.parseInt(all[i]!.first.facts.fingerprint.slice(0, 8), 16) * 2 ** 21 + (i % 2 ** 21);
  if (all.length > 2 ** 21 || numbers.some(Number.isNaN))
    return all.sort((a, b) => compare(a.first.facts.fingerprint, b.first.facts.fingerprint));
  numbers.sort();
  const sorted = Array.from(numbers, (number) => all[number % 2 ** 21]!);
  for (let i = 1; i < sorted.length; i++) {
    const one = sorted[i]!;
    let at = i;
    for (; at > 0 && sorted[at - 1]!.first.facts.fingerprint > one.first.facts.fingerprint; at--)
      sorted[at] = sorted[at - 1]!;
    sorted[at] = one;
  }
  return sorted;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
function push<T>(into: Map<string, T[]>, key: string, value: T): void {
  const list = into.get(key);
  if (list === undefined) into.set(key, [value]);
  else list.push(value);
}

/** By name and key identifier (RFC 5280 section 4.2.1.1), as path building does before it checks signatures. `null`: not found. */
function issuerFinder(bySubject: ReadonlyMap<string, readonly Gathered[]>): (item: Found) => Gathered | null {
  // What is not its own issuer is asked for by these two alone, and a bundle has few issuers.
  let lastName: string | undefined;
  let lastKey: string | null = null;
  let last: Gathered | null = null;
  return (item) => {
    const { certificate, facts } = item;
    if (certificate === undefined || facts.issuer === undefined) return null;
    const wanted = certificate.authorityKeyId;
    if (!certificate.selfIssued && facts.issuer === lastName && wanted === lastKey) return last;
    const found = findIssuer(item, certificate, bySubject.get(facts.issuer) ?? []);
    if (!certificate.selfIssued) {
      lastName = facts.issuer;
      lastKey = wanted;
      last = found;
    }
    return found;
  };
}

function findIssuer(
  item: Found,
  { selfIssued, authorityKeyId: wanted }: CertificateFacts,
  candidates: readonly Gathered[],
): Gathered | null {
  if (selfIssued) {
    const self = candidates.find((one) => one.first.facts.fingerprint === item.facts.fingerprint);
    const own = item.certificate?.subjectKeyId ?? null;
    if (self !== undefined && (wanted === null || own === null || wanted === own)) return self;
  }
  const fitting = candidates.filter((one) => {
    const certificate = one.first.certificate;
    if (certificate === undefined || one.first.facts.fingerprint === item.facts.fingerprint) return false;
    // Roots of version 1 have no extensions at all, and are CAs by being trusted.
    if (!certificate.isCa && !(certificate.selfIssued && certificate.subjectKeyId === null)) return false;
    return wanted === null || certificate.subjectKeyId === null || certificate.subjectKeyId === wanted;
  });
  return fitting.toSorted((a, b) => (b.first.facts.notAfterMs ?? 0) - (a.first.facts.notAfterMs ?? 0))[0] ?? null;
}

const noPlaces: readonly FoundAt[] = [];

function correlated(one: Gathered, privateKeys: ReadonlyMap<string, Gathered>): CorrelatedCertificate {
  const { facts, certificate, keyType, keyBits } = one.first;
  const key =
    facts.publicKeySha256 === undefined || privateKeys.size === 0 ? undefined : privateKeys.get(facts.publicKeySha256);
  return {
    facts,
    certificate,
    keyType,
    keyBits,
    copies: one.copies,
    places:
      one.places.length === 1
        ? one.places
        : one.places.toSorted((a, b) => compare(a.path, b.path) || a.index - b.index),
    privateKeys: key?.places.toSorted((a, b) => compare(a.path, b.path)) ?? noPlaces,
    issuerFingerprint: one.issuer?.first.facts.fingerprint ?? null,
    chain: leadsToRoot(one) ? "complete" : "open",
  };
}

function leadsToRoot(one: Gathered): boolean {
  let at: Gathered = one;
  // Two that name each other as issuer (cross-signing) must not go round for ever.
  for (let steps = 0; steps < 20; steps++) {
    const { issuer } = at;
    if (issuer === null) return false;
    if (issuer === at) return true;
    at = issuer;
  }
  return false;
}

type Judgement = (
  one: CorrelatedCertificate,
  options: CorrelateOptions,
) => Omit<Finding, "paths" | "fingerprint"> | undefined;

/** The policy: each line judges one thing and gives its reason. */
const judgements: readonly Judgement[] = [
  isExpired,
  isExpiring,
  isNotYetValid,
  hasWeakKey,
  hasWeakSignature,
  livesLong,
];

function judge(one: CorrelatedCertificate, options: CorrelateOptions, findings: Finding[]): void {
  for (const judgement of judgements) {
    const verdict = judgement(one, options);
    if (verdict !== undefined)
      findings.push({ ...verdict, paths: pathsOf(one.places), fingerprint: one.facts.fingerprint });
  }
}

function pathsOf(places: readonly FoundAt[]): string[] {
  return [...new Set(places.map((place) => place.path))];
}
function day(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
function isServed(one: CorrelatedCertificate): boolean {
  return one.places.some((place) => place.container === "tls");
}

function isExpired(one: CorrelatedCertificate, { nowMs }: CorrelateOptions): ReturnType<Judgement> {
  const end = one.facts.notAfterMs;
  if (end === undefined || end >= nowMs) return undefined;
  // An expired file may lie anywhere for years; what is served or has its key beside it is in use.
  const used = isServed(one) || one.privateKeys.length > 0;
  return {
    code: "expired",
    severity: used ? "error" : "warning",
    text: `"${nameOf(one.facts)}" expired on ${day(end)}.`,
  };
}
function isExpiring(
  one: CorrelatedCertificate,
  { nowMs, soonMs = 30 * dayMs }: CorrelateOptions,
): ReturnType<Judgement> {
  const end = one.facts.notAfterMs;
  if (end === undefined || end < nowMs || end - nowMs > soonMs) return undefined;
  const days = Math.floor((end - nowMs) / dayMs);
  return {
    code: "expiring",
    severity: "warning",
    text: `"${nameOf(one.facts)}" expires on ${day(end)}, in ${days} ${days === 1 ? "day" : "days"}.`,
  };
}
function isNotYetValid(one: CorrelatedCertificate, { nowMs }: CorrelateOptions): ReturnType<Judgement> {
  const begin = one.facts.notBeforeMs;
  if (begin === undefined || begin <= nowMs) return undefined;
  return {
    code: "not-yet-valid",
    severity: isServed(one) ? "error" : "info",
    text: `"${nameOf(one.facts)}" is valid only from ${day(begin)}.`,
  };
}
function hasWeakKey(one: CorrelatedCertificate): ReturnType<Judgement> {
  const why = weakKey(one.keyType, one.keyBits);
  if (why === undefined) return undefined;
  return { code: "weak-key", severity: "warning", text: `"${nameOf(one.facts)}" has a weak key: ${why}.` };
}
function hasWeakSignature(one: CorrelatedCertificate): ReturnType<Judgement> {
  const signature = one.certificate?.signature;
  // Nobody relies on the signature of a root over itself.
  if (signature === undefined || one.certificate?.selfIssued === true || !isForgeable(signature)) return undefined;
  return {
    code: "weak-signature",
    severity: "warning",
    text: `"${nameOf(one.facts)}" is signed with ${signature}, which can be forged.`,
  };
}
/** The names are few and come again and again. */
const forgeable = new Map<string, boolean>();
function isForgeable(signature: string): boolean {
  let known = forgeable.get(signature);
  if (known === undefined) {
    known = /md[25]|sha1/i.test(signature);
    // Dotted identifiers that nobody knows can be any number.
    if (forgeable.size < 100) forgeable.set(signature, known);
  }
  return known;
}
function livesLong(one: CorrelatedCertificate): ReturnType<Judgement> {
  const { notBeforeMs, notAfterMs } = one.facts;
  const { certificate } = one;
  // The names are looked at last: reading them costs most.
  if (notBeforeMs === undefined || notAfterMs === undefined || certificate === undefined) return undefined;
  if (
    certificate.isCa ||
    certificate.selfIssued ||
    notAfterMs - notBeforeMs <= longestPublicMs ||
    !certificate.names.some(isPublicName)
  )
    return undefined;
  const days = Math.round((notAfterMs - notBeforeMs) / dayMs);
  return {
    code: "long-validity",
    severity: "info",
    text: `"${nameOf(one.facts)}" is valid for ${days} days; browsers refuse public certificates of more than 398.`,
  };
}
function isPublicName(name: string): boolean {
  return (
    /^(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}$/i.test(name) &&
    !/\.(local|internal|lan|home|corp|test|localhost|example|invalid|localdomain)$/i.test(name)
  );
}

/** Below 112 bits of security (NIST SP 800-131A revision 2), in words; `undefined` when it is strong or not known. */
export function weakKey(type: string | undefined, bits: number | undefined): string | undefined {
  if (type === undefined || bits === undefined || bits === 0) return undefined;
  if (type === "RSA" || type === "RSA-PSS" || type === "DSA")
    return bits < 2048 ? `${type} with ${bits} bits, less than 2048` : undefined;
  return type.startsWith("EC ") && bits < 224 ? `${type}, less than 224 bits` : undefined;
}

/** An endpoint that sends its own certificate without the intermediate works only for clients that happen to know it. */
function chainFindings(all: readonly Gathered[]): Finding[] {
  const findings: Finding[] = [];
  for (const { first: one, places, served, issuer } of all) {
    if (!served || one.certificate === undefined || one.certificate.selfIssued) continue;
    const leaves = places.filter((place) => place.container === "tls" && place.index === 0);
    if (leaves.length === 0) continue;
    // A leaf that hangs directly under a root needs nothing else on the wire.
    if (issuer?.first.certificate?.selfIssued === true) continue;
    const without = leaves.filter(
      (leaf) =>
        issuer === null || !issuer.places.some((place) => place.path === leaf.path && place.container === "tls"),
    );
    if (without.length === 0 || (issuer !== null && issuer.copies > maxPlaces)) continue;
    findings.push({
      code: "chain-incomplete",
      severity: "warning",
      text:
        issuer === null
          ? `"${nameOf(one.facts)}" is served without its issuer, "${nameOf({ fingerprint: "", subject: one.facts.issuer ?? "" })}", and that was found nowhere. Clients that do not trust that issuer itself refuse it.`
          : `"${nameOf(one.facts)}" is served without its issuer, "${nameOf(issuer.first.facts)}", which lies in ${issuer.places[0]!.path}. Clients that do not know it refuse the connection.`,
      paths: without.map((place) => place.path),
      fingerprint: one.facts.fingerprint,
    });
  }
  return findings;
}

function keysOf(
  privateKeys: ReadonlyMap<string, Gathered>,
  byKey: ReadonlyMap<string, readonly Gathered[]>,
): CorrelatedKey[] {
  const names = new Set<string>();
  for (const one of privateKeys.values())
    if (one.first.facts.publicKeySha256 !== undefined) names.add(one.first.facts.publicKeySha256);
  for (const [key, list] of byKey) if (list.length > 1) names.add(key);
  return [...names].toSorted().map((publicKeySha256) => {
    const key = privateKeys.get(publicKeySha256);
    const certificates = byKey.get(publicKeySha256) ?? [];
    const some = key?.first ?? certificates[0]?.first;
    return {
      publicKeySha256,
      keyType: some?.keyType,
      keyBits: some?.keyBits,
      certificates: certificates.map((one) => one.first.facts.fingerprint),
      privateKeys: key?.places.toSorted((a, b) => compare(a.path, b.path)) ?? [],
    };
  });
}

function keyFindings(
  privateKeys: ReadonlyMap<string, Gathered>,
  byKey: ReadonlyMap<string, readonly Gathered[]>,
): Finding[] {
  const findings: Finding[] = [];
  for (const one of privateKeys.values()) {
    const paths = pathsOf(one.places);
    const why = weakKey(one.first.keyType, one.first.keyBits);
    if (why !== undefined)
      findings.push({
        code: "weak-key",
        severity: "warning",
        text: `The private key in ${paths[0]} is weak: ${why}.`,
        paths,
      });
    if (paths.length > 1) {
      findings.push({
        code: "key-copies",
        severity: "info",
        text: `One private key lies in ${one.copies} places. A rotation has to reach all of them.`,
        paths,
      });
    }
  }
  for (const list of byKey.values()) {
    // A CA that was signed twice, by itself and by another, shares its key on purpose.
    const leaves = list.filter((one) => one.first.certificate?.isCa === false);
    if (leaves.length < 2) continue;
    findings.push({
      code: "shared-key",
      severity: "info",
      text: `${leaves.length} certificates share one key: ${leaves
        .slice(0, 3)
        .map((one) => `"${nameOf(one.first.facts)}"`)
        .join(", ")}${leaves.length > 3 ? ", …" : ""}. Who renewed them kept the old key.`,
      paths: [...pathSet(leaves)],
    });
  }
  return findings;
}

function pathSet(all: readonly Gathered[]): Set<string> {
  const paths = new Set<string>();
  for (const one of all) for (const place of one.places) paths.add(place.path);
  return paths;
}

/** Names under which a certificate and its key lie side by side (Let's Encrypt, Kubernetes, Debian). */
const pairs: readonly (readonly [string, string])[] = [
  ["privkey", "cert"],
  ["privkey", "fullchain"],
  ["key", "cert"],
  ["key", "certificate"],
  ["server-key", "server-cert"],
  ["client-key", "client-cert"],
  ["ca-key", "ca"],
];
const endings = new Set([".pem", ".crt", ".cer", ".key", ".der", ".cert", ""]);

function stemOf(path: string): string {
  const extension = extname(path);
  return endings.has(extension.toLowerCase()) ? join(dirname(path), basename(path, extension)) : path;
}

/** A key that fits none of the certificates that lie under its name. */
function mismatches(
  certificates: ReadonlyMap<string, Gathered>,
  privateKeys: ReadonlyMap<string, Gathered>,
): Finding[] {
  const wanted = new Map<string, { key: Found; path: string }[]>();
  for (const one of privateKeys.values()) {
    if (one.first.facts.publicKeySha256 === undefined) continue;
    for (const place of one.places) {
      if (place.container !== "pem" && place.container !== "der") continue;
      const stem = stemOf(place.path);
      const names = [stem];
      for (const [key, certificate] of pairs) if (basename(stem) === key) names.push(join(dirname(stem), certificate));
      for (const name of names) push(wanted, name, { key: one.first, path: place.path });
    }
  }
  if (wanted.size === 0) return [];
  // Only first certificates count: what follows in a file is its chain.
  const beside = new Map<string, { certificate: Found; path: string; index: number }>();
  const fits = new Set<string>();
  for (const one of certificates.values()) {
    for (const place of one.places) {
      const stem = stemOf(place.path);
      const candidates = wanted.get(stem);
      if (candidates === undefined) continue;
      for (const { key, path } of candidates) {
        const pair = `${path}\n${place.path}`;
        if (key.facts.publicKeySha256 === one.first.facts.publicKeySha256) {
          fits.add(pair);
        } else {
          const known = beside.get(pair);
          if (known === undefined || place.index < known.index)
            beside.set(pair, { certificate: one.first, path: place.path, index: place.index });
        }
      }
    }
  }
  const findings: Finding[] = [];
  for (const [pair, { certificate, path }] of beside) {
    if (fits.has(pair)) continue;
    const keyPath = pair.slice(0, pair.indexOf("\n"));
    const where = keyPath === path ? `In ${path} the private key` : `The private key ${keyPath}`;
    findings.push({
      code: "mismatched-pair",
      severity: "error",
      text: `${where} does not fit the certificate "${nameOf(certificate.facts)}"${keyPath === path ? "" : ` in ${path}`}. A server that loads them does not start.`,
      paths: [...new Set([keyPath, path])],
      fingerprint: certificate.facts.fingerprint,
    });
  }
  return findings;
}

/** An endpoint that serves an older certificate than the file it probably loads: renewed, and nobody reloaded the server. */
function reloadFindings(list: readonly CorrelatedCertificate[], { nowMs }: CorrelateOptions): Finding[] {
  const newest = new Map<string, CorrelatedCertificate>();
  for (const one of list) {
    if (one.certificate === undefined || one.certificate.isCa || !one.places.some((place) => place.container !== "tls"))
      continue;
    if ((one.facts.notBeforeMs ?? Infinity) > nowMs) continue;
    const key = identity(one);
    const known = newest.get(key);
    if (known === undefined || (known.facts.notBeforeMs ?? 0) < (one.facts.notBeforeMs ?? 0)) newest.set(key, one);
  }
  const findings: Finding[] = [];
  for (const one of list) {
    if (one.certificate === undefined || one.certificate.isCa) continue;
    const served = one.places.filter((place) => place.container === "tls" && place.index === 0);
    const newer = served.length === 0 ? undefined : newest.get(identity(one));
    if (newer === undefined || (newer.facts.notBeforeMs ?? 0) <= (one.facts.notBeforeMs ?? 0)) continue;
    const file = newer.places.find((place) => place.container !== "tls")!.path;
    findings.push({
      code: "not-reloaded",
      severity: "warning",
      text: `${served[0]!.path} serves "${nameOf(one.facts)}" of ${day(one.facts.notBeforeMs ?? 0)}, and ${file} holds a newer one of ${day(newer.facts.notBeforeMs ?? 0)}. The server was probably not reloaded.`,
      paths: [...served.map((place) => place.path), file],
      fingerprint: one.facts.fingerprint,
    });
  }
  return findings;
}
function identity(one: CorrelatedCertificate): string {
  return JSON.stringify([one.facts.subject, one.facts.issuer, one.certificate?.names.toSorted()]);
}
