/** What changes when one estate takes the place of another, in words, before it does. Settings are named by their keys, never by their values. */
import type { CredentialDecl, Estate, IssuerDecl, PlaceDecl, Policy, SystemDecl } from "../core/place.ts";
import { formatDuration } from "../core/time.ts";
import { canonical } from "./digest.ts";

export interface EstateChange {
  readonly change: "added" | "removed" | "changed";
  readonly kind: "system" | "credential" | "settings";
  readonly name: string;
  /** One sentence each; empty for what was added or removed. */
  readonly details: readonly string[];
}

/** Where it stands in the files does not count. */
export function diffEstates(before: Estate, after: Estate): readonly EstateChange[] {
  const settings = changedKeys(before.settings, after.settings);
  return [
    ...(settings.length > 0
      ? [
          {
            change: "changed",
            kind: "settings",
            name: "settings",
            details: [`${settings.join(", ")} changed`],
          } as const,
        ]
      : []),
    ...pairs("system", before.systems, after.systems, systemDetails),
    ...pairs("credential", before.credentials, after.credentials, credentialDetails),
  ];
}

/** Lines such as `~ credential app: place env: settings changed: path`. */
export function formatDiff(changes: readonly EstateChange[]): string {
  const signs = { added: "+", removed: "-", changed: "~" } as const;
  return changes
    .flatMap(({ change, kind, name, details }) => {
      const head = `${signs[change]} ${kind === "settings" ? "settings" : `${kind} ${name}`}`;
      return details.length === 0 ? [head] : details.map((detail) => `${head}: ${detail}`);
    })
    .join("\n");
}

function pairs<T extends { readonly name: string }>(
  kind: "system" | "credential",
  before: readonly T[],
  after: readonly T[],
  details: (before: T, after: T) => readonly string[],
): EstateChange[] {
  const old = new Map(before.map((each) => [each.name, each]));
  const found: EstateChange[] = [];
  for (const each of after) {
    const was = old.get(each.name);
    old.delete(each.name);
    if (was === undefined) found.push({ change: "added", kind, name: each.name, details: [] });
    else {
      const changes = details(was, each);
      if (changes.length > 0) found.push({ change: "changed", kind, name: each.name, details: changes });
    }
  }
  for (const name of old.keys()) found.push({ change: "removed", kind, name, details: [] });
  return found;
}

function systemDetails(before: SystemDecl, after: SystemDecl): string[] {
  return [
    ...word("type", before.type, after.type),
    ...word("signIn", before.signIn, after.signIn),
    ...settings(before, after),
  ];
}

function credentialDetails(before: CredentialDecl, after: CredentialDecl): string[] {
  const labels = changedKeys(before.labels, after.labels);
  return [
    ...word("kind", before.kind, after.kind),
    ...word("owner", before.owner, after.owner),
    ...(labels.length > 0 ? [`labels changed: ${labels.join(", ")}`] : []),
    ...issuerDetails(before.issuer, after.issuer).map((detail) => `issuer: ${detail}`),
    ...pairs("credential", before.places, after.places, placeDetails).flatMap(({ change, name, details }) =>
      change === "changed" ? details.map((detail) => `place ${name}: ${detail}`) : [`place ${name} ${change}`],
    ),
    ...pairs("credential", before.data ?? [], after.data ?? [], (was, is) => [
      ...word("writtenUnder", was.writtenUnder, is.writtenUnder),
      ...word("readBy", was.readBy.join(", "), is.readBy.join(", ")),
      ...time("takes", was.drainMs, is.drainMs),
    ]).flatMap(({ change, name, details }) =>
      change === "changed" ? details.map((detail) => `data ${name}: ${detail}`) : [`data ${name} ${change}`],
    ),
    ...policyDetails(before.policy, after.policy).map((detail) => `policy: ${detail}`),
  ];
}

function issuerDetails(before: IssuerDecl, after: IssuerDecl): string[] {
  return [
    ...word("type", before.type, after.type),
    ...word("system", before.system, after.system),
    ...word("ca", before.ca, after.ca),
    ...word("place", before.place, after.place),
    ...settings(before, after),
  ];
}

function placeDetails(before: PlaceDecl, after: PlaceDecl): string[] {
  const { refreshMs, propagationMs, drainMs, changeMs, roles, ...traits } = after.traits;
  const { refreshMs: r, propagationMs: p, drainMs: d, changeMs: c, roles: was, ...oldTraits } = before.traits;
  const other = changedKeys(oldTraits, traits);
  return [
    ...word("type", before.type, after.type),
    ...word("system", before.system, after.system),
    ...word("credential", before.credential, after.credential),
    ...word("roles", was.join(", "), roles.join(", ")),
    ...word("presentsTo", before.presentsTo.join(", "), after.presentsTo.join(", ")),
    ...time("refresh", r, refreshMs),
    ...time("propagation", p, propagationMs),
    ...time("drain", d, drainMs),
    ...time("expected length of a change", c, changeMs),
    ...(other.length > 0 ? [`traits changed: ${other.join(", ")}`] : []),
    ...settings(before, after),
  ];
}

function policyDetails(before: Policy, after: Policy): string[] {
  const list = (windows: Policy["windows"]) => windows.map((window) => window.text).join(" or ");
  const people = (policy: Policy) =>
    Object.entries(policy.approvals)
      .map(([phase, count]) => `${phase} ${count}`)
      .sort()
      .join(", ");
  return [
    ...time("rotateBefore", before.rotateBeforeMs, after.rotateBeforeMs),
    ...time("maxAge", before.maxAgeMs, after.maxAgeMs),
    ...time("soak", before.soakMs, after.soakMs),
    ...time("margin", before.marginMs, after.marginMs),
    ...word("windows", list(before.windows), list(after.windows)),
    ...word("approvals", people(before), people(after)),
    ...word("notify", before.notify.join(", "), after.notify.join(", ")),
  ];
}

function word(name: string, before: string | undefined, after: string | undefined): string[] {
  if ((before ?? "") === (after ?? "")) return [];
  return [
    `${name} ${before === undefined || before === "" ? "none" : before} -> ${after === undefined || after === "" ? "none" : after}`,
  ];
}
function time(name: string, before: number | null, after: number | null): string[] {
  if (before === after) return [];
  const shown = (ms: number | null) => (ms === null ? "never" : formatDuration(ms));
  return [`${name} ${shown(before)} -> ${shown(after)}`];
}

/** As written, where that is known: a value that came from the environment is no change of the estate. */
function settings(before: { readonly config: unknown; readonly declared?: unknown }, after: typeof before): string[] {
  const written = before.declared !== undefined && after.declared !== undefined;
  const keys = written ? changedKeys(before.declared, after.declared) : changedKeys(before.config, after.config);
  return keys.length > 0 ? [`settings changed: ${keys.join(", ")}`] : [];
}

function changedKeys(before: unknown, after: unknown): string[] {
  const entries = (value: unknown) =>
    new Map(
      typeof value === "object" && value !== null
        ? Object.entries(value).map(([key, each]) => [key, canonical(each)])
        : [],
    );
  const [old, now] = [entries(before), entries(after)];
  return [...new Set([...old.keys(), ...now.keys()])].filter((key) => old.get(key) !== now.get(key)).sort();
}
