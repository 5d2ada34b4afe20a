/**
 * Writes what a scan found as estate entries to read, correct and paste. A scan cannot know who owns a credential or who signs it: what it does
 * not know is said in a comment, and stands as a part that can be planned and not run.
 */
import { isIP } from "node:net";
import { basename } from "node:path";
import { stringify } from "yaml";
import { nameOf, type CorrelatedCertificate, type Correlation, type FoundAt } from "./correlate.ts";
import { starterOf } from "./targets.ts";

/** Settings of one place or issuer, as they are written. */
type Settings = Record<string, unknown>;

interface Proposal {
  readonly name: string;
  readonly comments: readonly string[];
  readonly entry: Settings;
}

interface Group {
  readonly name: string;
  /** Certificates of one subject, names and issuer: renewals of each other, the newest first. */
  readonly versions: readonly CorrelatedCertificate[];
}

const dayMs = 86_400_000;
const head = [
  "# Proposed by `keyroll scan --estate`. Nothing was changed anywhere.",
  "# Read it, name an owner for each credential, and paste what you want into keyroll.yaml; `keyroll check` says what is missing.",
];

/**
 * Gives YAML for every certificate that somebody here holds the key of or serves, and for the CAs that sign them. `undefined` when there is
 * none. The same correlation gives the same text.
 */
export function propose(correlation: Correlation): string | undefined {
  const byFingerprint = new Map(correlation.certificates.map((one) => [one.facts.fingerprint, one]));
  const isHeld = (one: CorrelatedCertificate): boolean =>
    one.privateKeys.length > 0 || one.places.some((place) => place.container === "tls" && place.index === 0);
  const held = correlation.certificates.filter((one) => one.certificate !== undefined && isHeld(one));
  const names = new Set<string>();
  const groups = grouped(held).map((versions): Group => ({
    name: unique(nameOf(versions[0]!.facts), names),
    versions,
  }));
  if (groups.length === 0) return undefined;
  const groupOf = new Map(
    groups.flatMap((group) => group.versions.map((one) => [one.facts.fingerprint, group] as const)),
  );
  const proposals = groups.map((group) => proposalOf(group, groups, groupOf, byFingerprint));
  const lines = [...head, "credentials:"];
  for (const { name, comments, entry } of proposals) {
    for (const comment of comments) lines.push(`  # ${comment}`);
    const text = stringify({ [name]: entry }, { lineWidth: 0, flowCollectionPadding: true });
    lines.push(
      ...text
        .trimEnd()
        .split("\n")
        .map((line) => `  ${line}`),
    );
  }
  return `${lines.join("\n")}\n`;
}

function grouped(list: readonly CorrelatedCertificate[]): CorrelatedCertificate[][] {
  const groups = new Map<string, CorrelatedCertificate[]>();
  for (const one of list) {
    const key = JSON.stringify([
      one.facts.subject,
      one.facts.issuer,
      one.certificate?.names.toSorted(),
      one.certificate?.isCa,
    ]);
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  return [...groups.values()]
    .map((versions) =>
      versions.toSorted(
        (a, b) =>
          (b.facts.notBeforeMs ?? 0) - (a.facts.notBeforeMs ?? 0) ||
          (a.facts.fingerprint < b.facts.fingerprint ? -1 : 1),
      ),
    )
    .toSorted(
      (a, b) =>
        Number(b[0]!.certificate?.isCa) - Number(a[0]!.certificate?.isCa) ||
        (nameOf(a[0]!.facts) < nameOf(b[0]!.facts) ? -1 : 1),
    );
}

/** Credential and place names: letters, digits, dots, dashes, underscores; at most 100. */
function unique(text: string, taken: Set<string>): string {
  const plain =
    text
      .replace(/^\*\./, "wildcard-")
      .toLowerCase()
      .replace(/[^a-z0-9._-]+/g, "-")
      .replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, "")
      .slice(0, 80) || "certificate";
  let name = plain;
  for (let i = 2; taken.has(name); i++) name = `${plain}-${i}`;
  taken.add(name);
  return name;
}

function day(ms: number | undefined): string {
  return ms === undefined ? "an unknown day" : new Date(ms).toISOString().slice(0, 10);
}
/** A comment must stay one line, whatever a certificate's subject holds. */
function oneLine(text: string): string {
  return text.replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ").slice(0, 300); // oxlint-disable-line no-control-regex -- they are what must go.
}

function proposalOf(
  group: Group,
  groups: readonly Group[],
  groupOf: ReadonlyMap<string, Group>,
  byFingerprint: ReadonlyMap<string, CorrelatedCertificate>,
): Proposal {
  const newest = group.versions[0]!;
  const comments = [
    oneLine(
      `"${nameOf(newest.facts)}", valid until ${day(newest.facts.notAfterMs)}, issued by "${nameOf({ fingerprint: "", subject: newest.facts.issuer ?? "" })}".`,
    ),
  ];
  if (group.versions.length > 1) {
    comments.push(
      `${group.versions.length} versions were found; the newest was taken. Older: ${group.versions
        .slice(1, 6)
        .map((one) => `until ${day(one.facts.notAfterMs)}`)
        .join(", ")}.`,
    );
  }
  const isCa = newest.certificate?.isCa === true;
  const issuerFingerprint = newest.issuerFingerprint;
  const signer =
    issuerFingerprint === null || issuerFingerprint === newest.facts.fingerprint
      ? undefined
      : groupOf.get(issuerFingerprint);
  const issuer = issuerSettings(newest, signer, comments);
  const places: Settings = {};
  const taken = new Set<string>();
  const verifiers = trustPlaces(isCa ? newest : rootOf(newest, byFingerprint), groups, taken, places);
  if (verifiers.length === 0)
    comments.push("Who trusts it was not found: add the trust bundles of its clients as verifiers.");
  if (isCa) {
    for (const leaf of groups) {
      if (
        leaf === group ||
        !leaf.versions.some(
          (one) =>
            one.issuerFingerprint !== null &&
            group.versions.some((ca) => ca.facts.fingerprint === one.issuerFingerprint),
        )
      )
        continue;
      places[unique(leaf.name, taken)] = { credential: leaf.name, holder: true, ...presents(verifiers) };
    }
  }
  for (const { settings, name } of holderPlaces(newest, comments))
    places[unique(name, taken)] = { ...settings, ...presents(verifiers) };
  // An endpoint is only watched: it presents nothing that its files do not.
  for (const { name, settings } of servedPlaces(group)) places[unique(name, taken)] = settings;
  return {
    name: group.name,
    comments,
    entry: { kind: isCa ? "ca" : "certificate", owner: "unassigned", issuer, places, policy: policyOf(newest) },
  };
}

function presents(verifiers: readonly string[]): Settings {
  return verifiers.length === 0 ? {} : { presentsTo: [...verifiers] };
}

/** A sixth of the life, as most automatic renewal does with a third: people are in it here. At least one day. */
function policyOf({ facts }: CorrelatedCertificate): Settings {
  const life = (facts.notAfterMs ?? 0) - (facts.notBeforeMs ?? 0);
  return { rotateBefore: `${Math.max(1, Math.min(90, Math.round(life / 6 / dayMs)))}d` };
}

function issuerSettings(newest: CorrelatedCertificate, signer: Group | undefined, comments: string[]): Settings {
  const { facts, certificate } = newest;
  const days = Math.max(1, Math.round(((facts.notAfterMs ?? 0) - (facts.notBeforeMs ?? 0)) / dayMs));
  const names = (certificate?.names ?? []).filter((name) => /^[A-Za-z0-9.*:_/@-]+$/.test(name));
  const key = keyAlgorithm(newest, comments);
  const profile: Settings = {
    ...(certificate?.isCa === true ? { kind: "ca" } : {}),
    ...(key === undefined ? {} : { key }),
    ...(facts.subject === undefined || facts.subject === "" ? {} : { subject: facts.subject }),
    ...(names.length === 0 ? {} : { names }),
    validity: `${days}d`,
  };
  if (newest.issuerFingerprint === facts.fingerprint) return { type: "x509.self-signed", ...profile };
  if (signer !== undefined && signer.versions.some((one) => one.privateKeys.length > 0))
    return { type: "x509.ca", ca: signer.name, ...profile };
  comments.push(
    "Who signs it is not here. Until you name an issuer (such as x509.ca with certificateFile and keyFile), it can be planned and not run.",
  );
  return { type: "model", human: true };
}

function keyAlgorithm({ keyType, keyBits }: CorrelatedCertificate, comments: string[]): string | undefined {
  if (keyType === "EC P-256") return "ec-p256";
  if (keyType === "EC P-384") return "ec-p384";
  if (keyType === "RSA") {
    if ((keyBits ?? 0) < 3072)
      comments.push(`Its key is RSA with ${keyBits} bits; the next one has 3072 (NIST SP 800-131A).`);
    return (keyBits ?? 0) > 3072 ? "rsa-4096" : "rsa-3072";
  }
  comments.push(
    `Its key is of type ${oneLine(keyType ?? "unknown")}, which is not made here; the next one is of the default type.`,
  );
  return undefined;
}

function rootOf(
  one: CorrelatedCertificate,
  byFingerprint: ReadonlyMap<string, CorrelatedCertificate>,
): CorrelatedCertificate {
  let at = one;
  for (let steps = 0; steps < 20; steps++) {
    const issuer = at.issuerFingerprint === null ? undefined : byFingerprint.get(at.issuerFingerprint);
    if (issuer === undefined || issuer === at) return at;
    at = issuer;
  }
  return at;
}

function isFile(place: FoundAt): boolean {
  return place.container !== "tls" && place.container !== "base64";
}

/** Files that hold the authority and no key of it, nor the leaves that it signed: what clients trust. */
function trustPlaces(
  root: CorrelatedCertificate,
  groups: readonly Group[],
  taken: Set<string>,
  into: Settings,
): string[] {
  if (root.certificate === undefined || !(root.certificate.isCa || root.certificate.selfIssued)) return [];
  const busy = new Set(root.privateKeys.map((place) => place.path));
  // A file that begins with somebody's own certificate is a chain that is presented.
  for (const group of groups) {
    for (const version of group.versions) {
      if (version === root) continue;
      for (const place of version.places) if (place.index === 0) busy.add(place.path);
    }
  }
  const names: string[] = [];
  const paths = [
    ...new Set(root.places.filter((place) => place.container === "pem").map((place) => place.path)),
  ].filter((path) => !busy.has(path));
  for (const path of paths.slice(0, 20)) {
    const name = unique(`trust-${basename(path).replace(/\.[^.]*$/, "")}`, taken);
    into[name] = { type: "file.certificate", kind: "bundle", verifier: true, certificate: path };
    names.push(name);
  }
  return names;
}

/** A certificate file with the key that fits it: the pair that a server loads. */
function holderPlaces(one: CorrelatedCertificate, comments: string[]): { name: string; settings: Settings }[] {
  const found: { name: string; settings: Settings }[] = [];
  const certificates = one.places.filter((place) => isFile(place) && place.index === firstIndex(one, place.path));
  for (const place of certificates.slice(0, 20)) {
    const key = one.privateKeys.find((key) => key.path === place.path) ?? nearestKey(place.path, one.privateKeys);
    if (key === undefined) continue;
    const name = basename(place.path).replace(/\.[^.]*$/, "");
    if (place.container === "pkcs12") {
      comments.push(`${oneLine(place.path)}: put its password into the file that is named below (mode 0600).`);
      const settings = { kind: "pkcs12", holder: true, keystore: place.path, passwordFile: `${place.path}.password` };
      found.push({ name, settings: { type: "file.certificate", ...settings } });
    } else if (place.container === "pem" && key.container === "pem") {
      const files =
        key.path === place.path
          ? { kind: "combined", holder: true, certificate: place.path }
          : { kind: "pair", holder: true, certificate: place.path, key: key.path };
      found.push({ name, settings: { type: "file.certificate", ...files } });
    } else if (place.container === "jks") {
      comments.push(
        `${oneLine(place.path)} holds it as ${place.container}, which a program of yours has to write (type: command).`,
      );
    }
  }
  return found;
}
function firstIndex(one: CorrelatedCertificate, path: string): number {
  return Math.min(...one.places.filter((place) => place.path === path).map((place) => place.index));
}
function folderOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}
/** The key of the same name, of the same folder, or any; PEM before what a server would have to convert. */
function nearestKey(path: string, keys: readonly FoundAt[]): FoundAt | undefined {
  const readable = keys.filter((key) => key.container === "pem");
  const stem = (of: string): string => of.replace(/\.[^./]*$/, "");
  return (
    readable.find((key) => stem(key.path) === stem(path)) ??
    readable.find((key) => folderOf(key.path) === folderOf(path)) ??
    readable[0] ??
    keys[0]
  );
}

const startTls: Readonly<Record<string, string>> = { postgres: "postgres", smtp: "smtp", imap: "imap" };

function servedPlaces(group: Group): { name: string; settings: Settings }[] {
  const seen = new Set<string>();
  const found: { name: string; settings: Settings }[] = [];
  for (const version of group.versions) {
    for (const place of version.places) {
      if (place.container !== "tls" || place.index !== 0) continue;
      const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)/.exec(place.path);
      if (match === null) continue;
      const host = match[1] ?? match[2]!;
      const port = Number(match[3]);
      if (seen.has(`${host} ${port}`)) continue;
      seen.add(`${host} ${port}`);
      const starter = startTls[starterOf(port)];
      const serverName =
        isIP(host) === 0
          ? undefined
          : version.certificate?.names.find((name) => isIP(name) === 0 && !name.includes("*") && !/[@/]/.test(name));
      found.push({
        name: `served-${host}-${port}`,
        settings: {
          type: "tls.endpoint",
          host,
          port,
          ...(serverName === undefined || version.certificate?.names.includes(host) === true ? {} : { serverName }),
          ...(starter === undefined ? {} : { startTls: starter }),
        },
      });
    }
  }
  return found.slice(0, 50);
}
