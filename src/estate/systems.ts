/** The `systems` section: what Keyroll connects to. */
import type { SystemDecl } from "../core/place.ts";
import { quoted, suggestion } from "./problem.ts";
import type { Reading, Spot } from "./reading.ts";
import { modelType, systemCommon } from "./schema.ts";
import { omit, pick } from "./source.ts";
import type { Tree } from "./source.ts";

export async function systemSection(
  reading: Reading,
  name: string,
  raw: Tree,
  spot: Spot,
  credentialNames: readonly string[],
): Promise<{ type: string | undefined; decl: SystemDecl | undefined }> {
  const nothing = { type: undefined, decl: undefined };
  if (!reading.isMap(raw, spot, "type: and its settings")) return nothing;
  const commonKeys = Object.keys(systemCommon.shape);
  const own = pick(raw, commonKeys);
  reading.refuseReferences(own, spot);
  const { value: common } = reading.checkEach(systemCommon, own, spot);
  const type = typeof raw["type"] === "string" ? raw["type"] : undefined;
  if (common.signIn !== undefined && !credentialNames.includes(common.signIn)) {
    reading.problem(
      spot,
      ["signIn"],
      `${quoted(common.signIn)} is not a credential of this estate${suggestion(common.signIn, credentialNames, "credential")}`,
    );
  }
  if (type === undefined) return nothing;
  const signIn = common.signIn === undefined ? {} : { signIn: common.signIn };
  const declared = reading.declared(omit(raw, commonKeys), spot, true);
  const base = { name, type, declared, ...signIn, source: reading.source(spot) };
  const { registry } = reading;
  if (type === modelType) {
    for (const key of Object.keys(raw)) {
      if (!commonKeys.includes(key))
        reading.problem(spot, [key], "is not a known key; a system of type model has none of its own", "key");
    }
    return { type, decl: { ...base, config: {} } };
  }
  const connector = registry.systemType(type);
  if (connector === undefined) {
    reading.problem(
      spot,
      ["type"],
      `${quoted(type)} is not a type of system${suggestion(type, [...registry.systems.map((each) => each.type), modelType], "type of system")}`,
    );
    return nothing;
  }
  if (common.signIn !== undefined && connector.withSignIn === undefined) {
    reading.problem(
      spot,
      ["signIn"],
      `is not possible: Keyroll cannot change its own sign-in to a system of type ${type}; leave it out`,
      "key",
    );
  }
  const config = await reading.config(connector, raw, commonKeys, spot);
  return { type, decl: config === undefined ? undefined : { ...base, config: config.value } };
}

/** Checks that a named system is there and of the right type. Returns its name where it is. */
export function systemOf(
  reading: Reading,
  given: string | undefined,
  wanted: string | undefined,
  owner: string,
  spot: Spot,
  systems: ReadonlyMap<string, { readonly type: string | undefined }>,
  used: Set<string>,
): string | undefined {
  const fitting = [...systems].flatMap(([name, { type }]) => (wanted === undefined || type === wanted ? [name] : []));
  if (given === undefined) {
    if (wanted !== undefined) {
      const advice =
        fitting.length > 0
          ? `write system: ${fitting.slice(0, 5).join(" or ")}`
          : `declare a system of type ${wanted} under systems, and name it here`;
      reading.problem(spot, ["system"], `is missing; ${owner} needs one of type ${wanted}: ${advice}`);
    }
    return undefined;
  }
  used.add(given);
  const found = systems.get(given);
  if (found === undefined) {
    reading.problem(
      spot,
      ["system"],
      `${quoted(given)} is not a system of this estate${suggestion(given, fitting.length > 0 ? fitting : [...systems.keys()], "system")}`,
    );
    return undefined;
  }
  if (wanted === undefined && owner !== modelType) {
    reading.problem(spot, ["system"], `is not needed: ${owner} is in no system; leave it out`, "key");
    return undefined;
  }
  if (wanted !== undefined && found.type !== undefined && found.type !== wanted) {
    reading.problem(
      spot,
      ["system"],
      `${quoted(given)} is of type ${found.type}, and ${owner} needs one of type ${wanted}${fitting.length > 0 ? `; write ${fitting.slice(0, 5).join(" or ")}` : ""}`,
    );
    return undefined;
  }
  return given;
}
