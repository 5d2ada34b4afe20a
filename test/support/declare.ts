/** Short words for declaring credentials and places in tests, with nothing but data in them. */
import { createHash } from "node:crypto";
import type { AssembleInput, VersionRecord } from "../../src/core/assemble.ts";
import {
  plainTraits,
  type CredentialDecl,
  type Observation,
  type PlaceDecl,
  type Policy,
  type Traits,
} from "../../src/core/place.ts";

export const hash = (text: string): string => createHash("sha256").update(text).digest("hex");

export const quietPolicy: Policy = {
  rotateBeforeMs: null,
  maxAgeMs: null,
  soakMs: 0,
  marginMs: 0,
  approvals: {},
  windows: [],
  notify: [],
};

export function verifier(name: string, traits: Partial<Traits> = {}): PlaceDecl {
  return {
    name,
    type: "model",
    traits: { ...plainTraits, roles: ["verifier"], ...traits },
    presentsTo: [],
    config: {},
  };
}
export function holder(name: string, presentsTo: readonly string[], traits: Partial<Traits> = {}): PlaceDecl {
  return { name, type: "model", traits: { ...plainTraits, roles: ["holder"], ...traits }, presentsTo, config: {} };
}
export function credential(
  name: string,
  places: readonly PlaceDecl[],
  more: Partial<CredentialDecl> = {},
): CredentialDecl {
  return {
    name,
    kind: "password",
    owner: "payments",
    labels: {},
    issuer: { type: "random", traits: plainTraits, config: {} },
    places,
    policy: quietPolicy,
    source: "keyroll.yaml:1",
    ...more,
  };
}
export function version(id: string, more: Partial<VersionRecord> = {}): VersionRecord {
  return {
    id,
    facts: { fingerprint: hash(id) },
    state: "current",
    material: "sealed",
    hasMaterial: true,
    placements: {},
    createdMs: 0,
    ...more,
  };
}

/** What is seen when a version is trusted or held somewhere. */
export const sees = (...ids: string[]): Observation => ({
  entries: ids.map((id) => ({ mark: id, version: id, enabled: true })),
});
export const holds = (current: string, ...others: string[]): Observation => ({ ...sees(current, ...others), current });

/** A planned rotation from #1 to #2 in which every place has #1 and nothing happened yet. */
export function fresh(decl: CredentialDecl, more: Partial<AssembleInput> = {}): AssembleInput {
  const from = `${decl.name}#1`;
  return {
    credential: decl,
    versions: [version(from)],
    rotation: {
      mode: "planned",
      strategy: "availability-first",
      direction: "forward",
      from,
      to: `${decl.name}#2`,
      exposed: [],
    },
    seen: Object.fromEntries(
      decl.places.map((place) => [place.name, place.traits.roles.includes("holder") ? holds(from) : sees(from)]),
    ),
    memory: {},
    nowMs: 1_000_000,
    ...more,
  };
}
