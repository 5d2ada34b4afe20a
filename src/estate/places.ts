/** One place of a credential: its connector, its roles, its traits, and whom it presents to. */
import type { z } from "zod";
import type { PlaceConnector } from "../connectors/connector.ts";
import { plainTraits } from "../core/place.ts";
import type { PlaceDecl, Role, Traits } from "../core/place.ts";
import { quoted, suggestion } from "./problem.ts";
import { below } from "./reading.ts";
import type { Reading, Spot } from "./reading.ts";
import { isName, modelPlace, modelType, nameRule, placeCommon, traitsOfModel } from "./schema.ts";
import { isTreeMap, omit, pick } from "./source.ts";
import type { Tree, TreeMap } from "./source.ts";
import { systemOf } from "./systems.ts";

/** The type of the place that stands for another credential. */
const credentialType = "credential";

const roleNames: readonly Role[] = ["issuer", "verifier", "holder"];

/** What is known of a place before it is sure that all of it is right: enough to judge what refers to it. */
export interface PlaceDraft {
  readonly name: string;
  readonly spot: Spot;
  readonly roles: readonly Role[];
  /** Some of its keys could not be read, so silence about roles proves nothing. */
  readonly broken: boolean;
  readonly raw: TreeMap;
  readonly common: z.output<typeof placeCommon> | undefined;
  readonly decl: Omit<PlaceDecl, "presentsTo"> | undefined;
}

export async function placeSection(
  reading: Reading,
  name: string,
  raw: Tree,
  spot: Spot,
  systems: ReadonlyMap<string, { readonly type: string | undefined }>,
  used: Set<string>,
): Promise<PlaceDraft> {
  const broken = (more: Partial<PlaceDraft> = {}): PlaceDraft => ({
    name,
    spot,
    roles: [],
    broken: true,
    raw: {},
    common: undefined,
    decl: undefined,
    ...more,
  });
  if (!isName(name)) reading.problem(spot, [], `${quoted(name)} is not a name; ${nameRule}`, "key");
  if (!reading.isMap(raw, spot, "type, its roles and its settings")) return broken();
  const commonKeys = Object.keys(placeCommon.shape);
  const own = pick(raw, commonKeys);
  reading.refuseReferences(own, spot);
  const { value: common, right: commonRight } = reading.checkEach(placeCommon, own, spot);
  const flagged = roleNames.filter((role) => raw[role] === true);
  const base = { name, spot, raw, common };
  if (common.credential !== undefined && common.type === undefined) {
    for (const key of Object.keys(raw)) {
      if (!["credential", "holder", "presentsTo", "refresh", "drain"].includes(key)) {
        reading.problem(
          spot,
          [key],
          "is not a known key; a place that is another credential takes holder, presentsTo, refresh and drain",
          "key",
        );
      }
    }
    // Its change is a whole rotation of the other one, whose length is filled in when all are known.
    const traits: Traits = { ...plainTraits, roles: ["holder"], storeCapacity: 1, staging: false, readable: false };
    const decl = {
      name,
      type: credentialType,
      traits: withTimes(traits, common),
      config: {},
      declared: {},
      credential: common.credential,
      source: reading.source(spot),
    };
    return { ...base, roles: ["holder"], broken: !commonRight, decl };
  }
  if (common.credential !== undefined) {
    reading.problem(
      spot,
      ["credential"],
      "stands beside a type; a place is either a connector's or another credential: leave one out",
      "key",
    );
    return broken({ ...base, roles: flagged });
  }
  const { type } = common;
  if (type === undefined) {
    const advice = "write the connector, model, or credential: NAME for a place that is another credential";
    if (commonRight) reading.problem(spot, ["type"], `is missing; ${advice}`);
    return broken({ ...base, roles: flagged });
  }
  const { registry } = reading;
  const connector = registry.placeConnector(type);
  let traits: Traits | undefined;
  let config: unknown;
  let roles: readonly Role[];
  let declared: unknown = {};
  let system: string | undefined;
  let right = commonRight;
  if (type === modelType) {
    const rest = omit(raw, commonKeys);
    reading.refuseReferences(rest, spot);
    const model = reading.check(modelPlace, rest, spot, commonKeys);
    roles = flagged;
    system = systemOf(reading, common.system, undefined, modelType, spot, systems, used);
    if (model !== undefined) traits = traitsOfModel(model);
    config = model;
    declared = rest;
  } else if (connector === undefined) {
    unknownPlaceType(reading, type, spot);
    return broken({ ...base, roles: flagged });
  } else {
    declared = reading.declared(omit(raw, commonKeys), spot, false);
    const problemsBefore = reading.problems.count;
    system = systemOf(reading, common.system, connector.systemType, connector.type, spot, systems, used);
    const found = await reading.config(connector, raw, commonKeys, spot);
    if (found !== undefined) {
      config = found.value;
      traits = reading.traits(connector, found.value, spot);
    }
    // Its settings may leave a place fewer roles than its type has: a file is a holder, and a trust bundle is not.
    roles = rolesOf(reading, connector, traits?.roles, raw, flagged, spot);
    right &&= reading.problems.count === problemsBefore;
  }
  const unsure = !commonRight || (traits === undefined && roles.length === 0);
  if (traits === undefined || !right) return { ...base, roles, broken: unsure, decl: undefined };
  const decl = {
    name,
    type,
    ...(system === undefined ? {} : { system }),
    traits: withTimes({ ...traits, roles }, common),
    config,
    declared,
    source: reading.source(spot),
  };
  return { ...base, roles, broken: false, decl };
}

function unknownPlaceType(reading: Reading, type: string, spot: Spot): void {
  const { registry } = reading;
  const known = [...registry.places.map((each) => each.type), modelType];
  const elsewhere =
    registry.issuerConnector(type) !== undefined
      ? "; it makes versions: write it under issuer"
      : registry.systemType(type) !== undefined
        ? `; it is a type of system${suggestion(
            `${type}.`,
            known.filter((each) => each.startsWith(`${type}.`)),
            "place in it",
          )}`
        : suggestion(type, known, "type of place");
  reading.problem(spot, ["type"], `${quoted(type)} is not a type of place${elsewhere}`);
}

function rolesOf(
  reading: Reading,
  connector: PlaceConnector,
  settled: readonly Role[] | undefined,
  raw: TreeMap,
  flagged: readonly Role[],
  spot: Spot,
): readonly Role[] {
  const { registry } = reading;
  const possible = settled ?? connector.roles;
  const able = (role: Role) =>
    possible.includes(role) || (role === "issuer" && registry.issuerConnector(connector.type) !== undefined);
  for (const role of flagged) {
    if (able(role)) continue;
    const can = roleNames.filter(able);
    reading.problem(
      spot,
      [role],
      `${connector.type} cannot be ${article(role)}${connector.roles.includes(role) ? " with these settings" : ""}; ${can.length > 0 ? `write ${can.map((each) => `${each}: true`).join(" or ")}` : "it only watches: leave this out"}`,
      "key",
    );
  }
  if (flagged.length > 0) return flagged.filter(able);
  // Where there is only one thing that it can be, it goes without saying.
  const left = roleNames.filter((role) => able(role) && raw[role] !== false);
  const [only] = left;
  if (only !== undefined && left.length === 1) return [only];
  // With settings that could not be read, more than one role is no mistake of its own.
  if (possible.length === 0 || settled === undefined) return [];
  const can = roleNames.filter(able).map((role) => `${role}: true`);
  reading.problem(spot, [], `has no role; write ${can.join(" or ")}`, "key");
  return [];
}

export function checkRoles(reading: Reading, drafts: readonly PlaceDraft[], raw: TreeMap, spot: Spot): void {
  for (const draft of drafts) {
    if (!draft.broken && draft.raw["type"] === modelType && draft.roles.length === 0) {
      reading.problem(draft.spot, [], "has no role; write verifier: true, holder: true or issuer: true", "key");
    }
  }
  const sure = drafts.every((draft) => !draft.broken);
  if (raw["places"] !== undefined && !isTreeMap(raw["places"])) return;
  if (sure && !drafts.some((draft) => draft.roles.includes("verifier") || draft.roles.includes("holder"))) {
    const what = drafts.length === 0 ? "has no places" : "has no place that accepts or holds it";
    reading.problem(
      spot,
      drafts.length === 0 ? [] : ["places"],
      `${what}; add one with verifier: true, and one with holder: true`,
      "key",
    );
  }
  const issuers = drafts.filter((draft) => draft.roles.includes("issuer"));
  for (const draft of issuers.slice(1)) {
    reading.problem(
      draft.spot,
      ["issuer"],
      `${quoted(issuers[0]?.name ?? "")} is the issuer already; a credential has one`,
      "key",
    );
  }
}

export function checkPresentsTo(reading: Reading, drafts: readonly PlaceDraft[]): Map<string, readonly string[]> {
  const found = new Map<string, readonly string[]>();
  const verifiers = drafts.filter((draft) => draft.roles.includes("verifier")).map((draft) => draft.name);
  for (const draft of drafts) {
    const given = draft.common?.presentsTo;
    const isHolder = draft.roles.includes("holder");
    if (given === undefined) {
      // Naming nobody must not mean that nobody minds: then the proof would be about nothing.
      found.set(draft.name, isHolder ? verifiers : []);
      continue;
    }
    if (!isHolder && !draft.broken) {
      reading.problem(
        draft.spot,
        ["presentsTo"],
        "belongs to holders only; write holder: true, or leave it out",
        "key",
      );
    }
    const list = Array.isArray(draft.raw["presentsTo"]);
    for (const [index, target] of given.entries())
      checkVerifier(reading, target, drafts, below(draft.spot, "presentsTo", ...(list ? [index] : [])));
    found.set(draft.name, [...new Set(given)]);
  }
  return found;
}

/** Checks that a name is a verifier of the same credential. */
export function checkVerifier(reading: Reading, target: string, drafts: readonly PlaceDraft[], spot: Spot): void {
  const other = drafts.find((each) => each.name === target);
  const verifiers = drafts.filter((each) => each.roles.includes("verifier")).map((each) => each.name);
  if (other === undefined) {
    reading.problem(
      spot,
      [],
      `${quoted(target)} is not a place of this credential${suggestion(target, verifiers.length > 0 ? verifiers : drafts.map((each) => each.name), "verifier")}`,
    );
  } else if (!other.roles.includes("verifier") && !other.broken) {
    reading.problem(
      spot,
      [],
      `${quoted(target)} is not a verifier; write verifier: true there, or name a verifier${suggestion(target, verifiers, "verifier").replace(/; did you mean/, ": did you mean")}`,
    );
  }
}

function article(role: Role): string {
  return role === "issuer" ? "an issuer" : `a ${role}`;
}

function withTimes(traits: Traits, common: z.output<typeof placeCommon>): Traits {
  const { refresh, propagation, drain } = common;
  return {
    ...traits,
    ...(refresh === undefined ? {} : { refreshMs: refresh }),
    ...(propagation === undefined ? {} : { propagationMs: propagation }),
    // A job stays a job; the declared time is then how long it takes.
    ...(drain === undefined
      ? {}
      : { drainMs: drain, drain: traits.drain === "job" ? "job" : drain === 0 ? "instant" : "timed" }),
  };
}
