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
  let known = into.get(key);
  if (known === undefined) {
    known = { first: item, copies: 0, places: [] };
    into.set(key, known);
  }
  known.copies++;
  if (known.places.length < maxPlaces) known.places.push(placeOf(item));
}

function placeOf(item: Found): FoundAt {
  return {
    path: item.path,
    index: item.index,
    container: item.container,
    ...(item.label === undefined ? {} : { label: item.label }),
  };
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
  for (const one of certificates.values()) {
    // Only these can be an issuer.
    if (one.first.certificate?.isCa === true || one.first.certificate?.selfIssued === true) {
      push(bySubject, one.first.facts.subject ?? "", one);
    }
    const key = one.first.facts.publicKeySha256;
    if (key !== undefined) push(byKey, key, one);
  }
  const issuers = new Map<string, Gathered | null>();
  for (const one of certificates.values()) issuers.set(one.first.facts.fingerprint, issuerOf(one.first, bySubject));
  const list = [...certificates.values()].map((one) => correlated(one, issuers, privateKeys));
  list.sort(
    (a, b) =>
      (a.facts.notAfterMs ?? Infinity) - (b.facts.notAfterMs ?? Infinity) ||
      compare(a.facts.fingerprint, b.facts.fingerprint),
  );
  const findings = [
    ...early,
    ...list.flatMap((one) => certificateFindings(one, options)),
    ...chainFindings(list, issuers),
    ...keyFindings(privateKeys, byKey),
    ...mismatches(certificates, privateKeys),
    ...reloadFindings(list, options),
  ];
  const order = { error: 0, warning: 1, info: 2 };
  findings.sort((a, b) => order[a.severity] - order[b.severity] || compare(a.code, b.code) || compare(a.text, b.text));
  return { certificates: list, keys: keysOf(privateKeys, byKey), findings };
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
function issuerOf(item: Found, bySubject: ReadonlyMap<string, readonly Gathered[]>): Gathered | null {
  if (item.certificate === undefined || item.facts.issuer === undefined) return null;
  const candidates = bySubject.get(item.facts.issuer) ?? [];
  if (item.certificate.selfIssued) {
    const self = candidates.find((one) => one.first.facts.fingerprint === item.facts.fingerprint);
    const wanted = item.certificate.authorityKeyId;
    if (
      self !== undefined &&
      (wanted === null || item.certificate.subjectKeyId === null || wanted === item.certificate.subjectKeyId)
    )
      return self;
  }
  const wanted = item.certificate.authorityKeyId;
  const fitting = candidates.filter((one) => {
    const certificate = one.first.certificate;
    if (certificate === undefined || one.first.facts.fingerprint === item.facts.fingerprint) return false;
    // Roots of version 1 have no extensions at all, and are CAs by being trusted.
    if (!certificate.isCa && !(certificate.selfIssued && certificate.subjectKeyId === null)) return false;
    return wanted === null || certificate.subjectKeyId === null || certificate.subjectKeyId === wanted;
  });
  return fitting.toSorted((a, b) => (b.first.facts.notAfterMs ?? 0) - (a.first.facts.notAfterMs ?? 0))[0] ?? null;
}

function correlated(
  one: Gathered,
  issuers: ReadonlyMap<string, Gathered | null>,
  privateKeys: ReadonlyMap<string, Gathered>,
): CorrelatedCertificate {
  const { facts, certificate, keyType, keyBits } = one.first;
  const key = facts.publicKeySha256 === undefined ? undefined : privateKeys.get(facts.publicKeySha256);
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
    privateKeys: key?.places.toSorted((a, b) => compare(a.path, b.path)) ?? [],
    issuerFingerprint: issuers.get(facts.fingerprint)?.first.facts.fingerprint ?? null,
    chain: leadsToRoot(one, issuers) ? "complete" : "open",
  };
}

function leadsToRoot(one: Gathered, issuers: ReadonlyMap<string, Gathered | null>): boolean {
  let at: Gathered = one;
  // Two that name each other as issuer (cross-signing) must not go round for ever.
  for (let steps = 0; steps < 20; steps++) {
    const issuer = issuers.get(at.first.facts.fingerprint);
    if (issuer === null || issuer === undefined) return false;
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

/** Most have none, of many thousands. */
const nothing: Finding[] = [];

function certificateFindings(one: CorrelatedCertificate, options: CorrelateOptions): Finding[] {
  let findings = nothing;
  for (const judge of judgements) {
    const verdict = judge(one, options);
    if (verdict === undefined) continue;
    if (findings === nothing) findings = [];
    findings.push({ ...verdict, paths: pathsOf(one.places), fingerprint: one.facts.fingerprint });
  }
  return findings;
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
  if (signature === undefined || one.certificate?.selfIssued === true || !/md[25]|sha1/i.test(signature))
    return undefined;
  return {
    code: "weak-signature",
    severity: "warning",
    text: `"${nameOf(one.facts)}" is signed with ${signature}, which can be forged.`,
  };
}
function livesLong(one: CorrelatedCertificate): ReturnType<Judgement> {
  const { notBeforeMs, notAfterMs } = one.facts;
  const { certificate } = one;
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
  if (/^(RSA|RSA-PSS|DSA)$/.test(type)) return bits < 2048 ? `${type} with ${bits} bits, less than 2048` : undefined;
  return type.startsWith("EC ") && bits < 224 ? `${type}, less than 224 bits` : undefined;
}

/** An endpoint that sends its own certificate without the intermediate works only for clients that happen to know it. */
function chainFindings(
  list: readonly CorrelatedCertificate[],
  issuers: ReadonlyMap<string, Gathered | null>,
): Finding[] {
  const findings: Finding[] = [];
  for (const one of list) {
    if (one.certificate === undefined || one.certificate.selfIssued) continue;
    const leaves = one.places.filter((place) => place.container === "tls" && place.index === 0);
    if (leaves.length === 0) continue;
    const issuer = issuers.get(one.facts.fingerprint) ?? null;
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
      certificates: certificates.map((one) => one.first.facts.fingerprint).toSorted(),
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
      paths: [...new Set(leaves.flatMap((one) => pathsOf(one.places)))],
    });
  }
  return findings;
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
  if (!list.some(isServed)) return [];
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
