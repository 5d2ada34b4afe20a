/** The `issuer` of a credential: what makes new versions, on its own or as one of the places. */
import type { z } from "zod";
import type { IssuerDecl } from "../core/place.ts";
import { jsonSchemaOf, properties } from "./json-schema.ts";
import type { PlaceDraft } from "./places.ts";
import { quoted, suggestion } from "./problem.ts";
import { below } from "./reading.ts";
import type { Reading, Spot } from "./reading.ts";
import { issuerCommon, modelPlace, modelType, placeCommon, traitsOfModel } from "./schema.ts";
import { isTreeMap, omit, pick } from "./source.ts";
import type { Tree, TreeMap } from "./source.ts";
import { systemOf } from "./systems.ts";

export async function issuerSection(
  reading: Reading,
  raw: Tree | undefined,
  drafts: readonly PlaceDraft[],
  credential: Spot,
  systems: ReadonlyMap<string, { readonly type: string | undefined }>,
  used: Set<string>,
): Promise<IssuerDecl | undefined> {
  const spot = below(credential, "issuer");
  const issuing = drafts.find((draft) => draft.roles.includes("issuer"));
  if (raw === undefined || raw === null) {
    if (issuing === undefined) {
      if (drafts.every((draft) => !draft.broken)) {
        reading.problem(
          spot,
          [],
          "is missing; write issuer: { type: ... }, or issuer: true at the place that makes new versions",
        );
      }
      return undefined;
    }
    return issuerOfPlace(reading, issuing, undefined, spot);
  }
  // Whatever else it is was said when the credential was checked.
  if (!isTreeMap(raw)) return undefined;
  const commonKeys = Object.keys(issuerCommon.shape);
  const own = pick(raw, commonKeys);
  reading.refuseReferences(own, spot);
  const { value: common, right } = reading.checkEach(issuerCommon, own, spot);
  if (!right) return undefined;
  const place = common.place === undefined ? undefined : drafts.find((draft) => draft.name === common.place);
  if (common.place !== undefined && place === undefined) {
    reading.problem(
      spot,
      ["place"],
      `${quoted(common.place)} is not a place of this credential${suggestion(
        common.place,
        drafts.map((draft) => draft.name),
        "place",
      )}`,
    );
    return undefined;
  }
  if (place !== undefined && !place.roles.includes("issuer") && !place.broken) {
    reading.problem(spot, ["place"], `${quoted(place.name)} is not an issuer; write issuer: true there`);
    return undefined;
  }
  if (issuing !== undefined && place === undefined && common.type !== issuing.common?.type) {
    reading.problem(
      spot,
      [],
      `names another issuer than the place ${quoted(issuing.name)}, which has issuer: true; leave one of them out`,
      "key",
    );
    return undefined;
  }
  const at = place ?? issuing;
  const type = common.type ?? at?.common?.type;
  if (type === undefined) {
    reading.problem(spot, ["type"], "is missing; write what makes new versions, such as type: random");
    return undefined;
  }
  if (at?.common?.type !== undefined && type !== at.common.type) {
    reading.problem(
      spot,
      ["type"],
      `${quoted(type)} is not the type of the place ${quoted(at.name)}, which is ${at.common.type}; leave the type out`,
    );
    return undefined;
  }
  const ownKeys = Object.keys(raw).filter((key) => !commonKeys.includes(key));
  if (at !== undefined && ownKeys.length === 0) return issuerOfPlace(reading, at, common.system, spot);
  return issuerOf(reading, type, raw, commonKeys, common, at, spot, systems, used);
}

/** The settings of the issuer are those of the place. */
async function issuerOfPlace(
  reading: Reading,
  place: PlaceDraft,
  system: string | undefined,
  spot: Spot,
): Promise<IssuerDecl | undefined> {
  // The place's own mistakes have been told.
  if (place.decl === undefined) return undefined;
  const { type } = place.decl;
  const at = system ?? place.decl.system;
  const base = {
    type,
    place: place.name,
    ...(at === undefined ? {} : { system: at }),
    declared: place.decl.declared,
    source: reading.source(spot),
  };
  if (type === modelType) return { ...base, traits: place.decl.traits, config: place.decl.config };
  const connector = reading.registry.issuerConnector(type);
  if (connector === undefined) return undefined;
  const config = await reading.config(connector, place.raw, Object.keys(placeCommon.shape), place.spot);
  const traits = config === undefined ? undefined : reading.traits(connector, config.value, place.spot);
  return config === undefined || traits === undefined ? undefined : { ...base, traits, config: config.value };
}

async function issuerOf(
  reading: Reading,
  type: string,
  raw: TreeMap,
  commonKeys: readonly string[],
  common: z.output<typeof issuerCommon>,
  place: PlaceDraft | undefined,
  spot: Spot,
  systems: ReadonlyMap<string, { readonly type: string | undefined }>,
  used: Set<string>,
): Promise<IssuerDecl | undefined> {
  const { registry } = reading;
  const before = reading.problems.count;
  const base = {
    type,
    ...(common.ca === undefined ? {} : { ca: common.ca }),
    ...(place === undefined ? {} : { place: place.name }),
    source: reading.source(spot),
  };
  if (type === modelType) {
    const rest = omit(raw, commonKeys);
    reading.refuseReferences(rest, spot);
    const model = reading.check(modelPlace, rest, spot, commonKeys);
    const system = systemOf(reading, common.system, undefined, modelType, spot, systems, used);
    if (model === undefined || reading.problems.count > before) return undefined;
    return {
      ...base,
      ...(system === undefined ? {} : { system }),
      traits: { ...traitsOfModel(model), roles: ["issuer"] },
      config: model,
      declared: rest,
    };
  }
  const connector = registry.issuerConnector(type);
  if (connector === undefined) {
    const known = [...registry.issuers.map((each) => each.type), modelType];
    const hint =
      registry.placeConnector(type) === undefined
        ? suggestion(type, known, "issuer")
        : `; it is a type of place, and makes no versions${suggestion(type, known, "issuer")}`;
    reading.problem(spot, ["type"], `${quoted(type)} is not an issuer${hint}`);
    return undefined;
  }
  if (common.ca !== undefined && !Object.hasOwn(properties(jsonSchemaOf(connector.config)), "ca")) {
    reading.problem(spot, ["ca"], `is not a known key; ${type} is signed by nobody`, "key");
  }
  const system = systemOf(
    reading,
    common.system ?? (connector.systemType === undefined ? undefined : place?.decl?.system),
    connector.systemType,
    connector.type,
    spot,
    systems,
    used,
  );
  const declared = reading.declared(omit(raw, commonKeys), spot, false);
  const config = await reading.config(connector, raw, commonKeys, spot);
  const traits = config === undefined ? undefined : reading.traits(connector, config.value, spot);
  if (config === undefined || traits === undefined || reading.problems.count > before) return undefined;
  return { ...base, ...(system === undefined ? {} : { system }), traits, config: config.value, declared };
}
