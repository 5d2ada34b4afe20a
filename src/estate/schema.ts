/**
 * The shape of `keyroll.yaml`: the one source of what the loader accepts and of the JSON Schema that editors complete from. What belongs to a
 * connector comes from the connector's own schema.
 */
import { z } from "zod";
import type { IssuerConnector, PlaceConnector, SystemType } from "../connectors/connector.ts";
import type { Registry } from "../connectors/registry.ts";
import { plainTraits } from "../core/place.ts";
import type { Traits, Window } from "../core/place.ts";
import { parseDuration, parseWindow } from "../core/time.ts";
import { nearest } from "./problem.ts";

/** The type of a place, issuer or system that has declared traits and no connector. */
export const modelType = "model";

/** Names appear in paths, in URLs, in version ids (`name#3`) and in remote tags. */
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;
export function isName(text: string): boolean {
  return namePattern.test(text);
}
export const nameRule = "write letters, digits, dots, dashes and underscores, beginning with a letter or digit";

const durationPattern =
  "^\\s*(0|[0-9.]+\\s*(ms|s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)(\\s*[0-9.]+\\s*[a-z]+)*|[Pp].+)\\s*$";

/** Milliseconds, or half a sentence on what is wrong. */
function readDuration(value: unknown): ReturnType<typeof parseDuration> {
  // `0` is the one number that needs no unit.
  if (typeof value === "string" || value === 0) return parseDuration(String(value));
  if (typeof value !== "number") {
    return { problem: "is not a duration", fix: 'write a number and a unit, such as "30d"' };
  }
  if (value < 0) return { problem: "is negative", fix: "a duration is zero or more" };
  return { problem: `${value} has no unit`, fix: `write ${value}s, ${value}m, ${value}h or ${value}d` };
}

/** Text such as `30d`; milliseconds afterwards. */
function duration(description: string) {
  return z
    .unknown()
    .transform((value, context): number => {
      const parsed = readDuration(value);
      if ("value" in parsed) return parsed.value;
      context.addIssue({ code: "custom", message: `${parsed.problem}; ${parsed.fix}` });
      return z.NEVER;
    })
    .meta({
      description,
      anyOf: [{ type: "string", pattern: durationPattern }, { const: 0 }],
      examples: ["5s", "10m", "2h", "30d"],
    });
}

function durationOrNever(description: string) {
  return z
    .unknown()
    .transform((value, context): number | null => {
      if (value === "never") return null;
      const parsed = readDuration(value);
      if ("value" in parsed) return parsed.value;
      context.addIssue({ code: "custom", message: `${parsed.problem}; ${parsed.fix}, or "never"` });
      return z.NEVER;
    })
    .meta({
      description,
      anyOf: [{ type: "string", pattern: durationPattern }, { const: "never" }, { const: 0 }],
      examples: ["30d", "90d", "never"],
    });
}

function windowText() {
  return z.unknown().transform((value, context): Window => {
    const parsed = parseWindow(typeof value === "string" ? value : "");
    if ("value" in parsed) return parsed.value;
    let fix = parsed.fix;
    if (parsed.badTimeZone !== undefined) {
      const near = nearest(parsed.badTimeZone, [...Intl.supportedValuesOf("timeZone"), "UTC"]);
      if (near !== undefined) fix = `did you mean "${near}"?`;
    }
    context.addIssue({ code: "custom", message: `${parsed.problem}; ${fix}` });
    return z.NEVER;
  });
}
const windowMeta = {
  type: "string",
  examples: ["Sat 02:00-06:00 Europe/Amsterdam", "Mon-Fri 22:00-04:00 UTC", "daily 01:00-03:00"],
};

const words = z.string().trim().min(1, "is empty; write a name");

/** One name or a list of names. */
function oneOrMany(description: string) {
  return z
    .union([words.transform((one) => [one]), z.array(words)], {
      error: "is neither a name nor a list of names; write one name, or [first, second]",
    })
    .describe(description);
}

const count = z.int().min(0).max(20);

/** What holds for every place, whatever its type. */
export const placeCommon = z.strictObject({
  type: words.optional().describe("The connector, or model for a place that Keyroll does not know."),
  credential: words
    .optional()
    .describe(
      "Instead of a type: another credential of the estate. Giving it the new version is a rotation of that credential.",
    ),
  system: words.optional().describe("The system that the place is in."),
  issuer: z.boolean().optional().describe("Versions are made here."),
  verifier: z.boolean().optional().describe("Versions are accepted here."),
  holder: z.boolean().optional().describe("The version that somebody presents is kept here."),
  presentsTo: oneOrMany(
    "Holder: the verifier places that its users present the version to. Default: all verifiers of the credential.",
  ).optional(),
  refresh: duration("Holder: how long until every consumer has re-read it.").optional(),
  propagation: duration("Verifier: how long until a change is enforced everywhere.").optional(),
  drain: duration(
    "How long until the last message that was sent under a version is gone, such as the life of a token.",
  ).optional(),
});

/** What only a place or issuer of type `model` declares: connectors know it of themselves. */
const modelTraits = {
  capacity: z
    .int()
    .min(1)
    .max(30)
    .optional()
    .describe("Verifier: how many versions it can trust at once. Default: 16."),
  storeCapacity: z
    .int()
    .min(1)
    .max(30)
    .optional()
    .describe("Holder: how many versions it can store at once. Default: 16."),
  staging: z.boolean().optional().describe("Holder: a version can be put in place without being used. Default: true."),
  admits: z
    .enum(["version", "issuer"])
    .optional()
    .describe("Verifier: trusts single versions, or all that an issuer signed."),
  readable: z.boolean().optional().describe("The value can be read back. Default: true."),
  minting: z.enum(["ours", "theirs"]).optional().describe("Issuer: who makes the secret part."),
  issuingTrusts: z.boolean().optional().describe("Issuer: the new version is trusted here at once."),
  issuingActivates: z.boolean().optional().describe("Issuer: the new version is in use here at once."),
  session: z.boolean().optional().describe("A grant outlives the version that it was made under."),
  writes: z.enum(["entries", "whole-set"]).optional().describe("A write changes one entry, or replaces all."),
  conditional: z.boolean().optional().describe("Writes can be made conditional on what was read."),
  transitions: z
    .array(z.enum(["serial", "no-two-to-two"]))
    .optional()
    .describe("Rules about which set may follow which."),
  restorable: z.boolean().optional().describe("What was removed can be put back. Default: true."),
  human: z.boolean().optional().describe("Only a person can do it."),
  change: duration("How long one change takes. Default: 1s.").optional(),
};
export const modelPlace = z.strictObject(modelTraits);
export const modelKeys: readonly string[] = Object.keys(modelTraits);

/** The traits of a `model`, without the times that every place may declare. */
export function traitsOfModel(config: z.output<typeof modelPlace>): Traits {
  const { change, ...rest } = config;
  const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  return { ...plainTraits, ...given, ...(change === undefined ? {} : { changeMs: change }) };
}

export const issuerCommon = z.strictObject({
  type: words.optional().describe("What makes the versions."),
  system: words.optional().describe("The system that makes them."),
  ca: words.optional().describe("The credential of the estate that signs."),
  place: words.optional().describe("The place of this credential that issues, where the remote side mints."),
});

export const systemCommon = z.strictObject({
  type: words.describe("What is connected to."),
  signIn: words.optional().describe("The credential of the estate that Keyroll itself signs in with."),
});

const policyShape = z.strictObject({
  rotateBefore: durationOrNever("Rotate this long before expiry.").optional(),
  maxAge: durationOrNever("Rotate when the current version is older than this.").optional(),
  soak: duration("Wait this long between the last switch and the first removal.").optional(),
  margin: duration("Added to the estimate when the last safe start is computed. Default: 1d.").optional(),
  window: windowText()
    .meta({ ...windowMeta, description: "When changes may be made." })
    .optional(),
  windows: z.array(windowText().meta(windowMeta)).min(1).optional().describe("When changes may be made: any of these."),
  approvals: z
    .strictObject({
      issue: count.optional(),
      distribute: count.optional(),
      switch: count.optional(),
      retire: count.optional(),
    })
    .optional()
    .describe("How many people other than the starter must agree before a phase begins."),
  notify: oneOrMany("Who is told.").optional(),
});
export type PolicyInput = z.output<typeof policyShape>;

const labels = z
  .record(
    z.string(),
    z
      .union([z.string(), z.number(), z.boolean()], { error: "is not a single value; write text" })
      .transform((value) => String(value)),
  )
  .describe("Free names and values, to filter by.");

const dataShape = z.strictObject({
  writtenUnder: words.describe("The holder place under whose version new records are written."),
  readBy: oneOrMany("The verifier places that must be able to read them."),
  takes: duration("How long moving all records to a new version takes."),
});

const credentialKinds = ["password", "secret", "certificate", "ca", "key", "ssh-key"] as const;

/** A map of named things; each is looked at by itself, so that a mistake in one hides none in the others. */
function named(description: string) {
  return z.record(z.string(), z.unknown()).describe(description);
}

export const credentialShape = z.strictObject({
  kind: z.enum(credentialKinds).describe("What it is."),
  owner: words.optional().describe("Who looks after it. Default: defaults.owner."),
  labels: labels.optional(),
  issuer: z
    .record(z.string(), z.unknown())
    .optional()
    .describe("What makes new versions. Left out where a place has issuer: true."),
  places: named("Where its versions are held and trusted.").optional(),
  data: z
    .record(z.string(), dataShape)
    .optional()
    .describe("Data sets that were encrypted or signed under its versions."),
  policy: policyShape.optional().describe("When it is rotated, and who must agree."),
});

const defaultsShape = z.strictObject({
  owner: words.optional().describe("Who looks after credentials that name nobody."),
  labels: labels.optional(),
  policy: policyShape.optional().describe("What credentials do not say of themselves."),
});
export type DefaultsInput = z.output<typeof defaultsShape>;

const settingsShape = z.strictObject({
  requestLife: duration("No request that was sent is alive after this time. Default: 2m.").default(120_000),
  observeEvery: duration("How often every place is looked at when nothing is being rotated. Default: 15m.").default(
    900_000,
  ),
});

export const fileShape = z.strictObject({
  version: z
    .literal(1, { error: "is not a version of this file that is known; write version: 1" })
    .optional()
    .describe("Always 1."),
  include: oneOrMany("Other files of the estate, relative to this one.").optional(),
  settings: settingsShape.optional().describe("What holds for the estate as a whole. In the first file only."),
  defaults: defaultsShape.optional().describe("For the credentials of this file and of the files it includes."),
  systems: named("What Keyroll connects to.").optional(),
  credentials: named("What Keyroll rolls.").optional(),
});
export const settingsOf = (input: z.output<typeof settingsShape> | undefined) => input ?? settingsShape.parse({});

// ---------------------------------------------------------------------------------------------------------------------------------------
// JSON Schema

export interface JsonSchema {
  [key: string]: unknown;
}

const converted = new WeakMap<z.ZodType, JsonSchema>();

/** The schema of what users write. Draft 7, which the YAML language server of all editors understands. */
export function jsonSchemaOf(schema: z.ZodType): JsonSchema {
  let found = converted.get(schema);
  if (found === undefined) {
    const { $schema: _, ...rest } = z.toJSONSchema(schema, {
      io: "input",
      target: "draft-7",
      unrepresentable: "any",
      // Left out by zod where a transform follows, since they might be of what comes out. Ours are of what is written.
      override: ({ zodSchema, jsonSchema }) => {
        const examples = z.globalRegistry.get(zodSchema as unknown as z.ZodType)?.["examples"];
        if (Array.isArray(examples)) jsonSchema.examples = examples;
      },
    }) as JsonSchema;
    found = rest;
    converted.set(schema, found);
  }
  return found;
}

function isObject(value: unknown): value is JsonSchema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
function branches(schema: JsonSchema): JsonSchema[] {
  return ["anyOf", "oneOf", "allOf"].flatMap((key) => (Array.isArray(schema[key]) ? schema[key].filter(isObject) : []));
}
export function properties(schema: JsonSchema): Readonly<Record<string, JsonSchema>> {
  const own = isObject(schema["properties"]) ? (schema["properties"] as Record<string, JsonSchema>) : {};
  return Object.assign({}, ...branches(schema).map(properties), own);
}

/** The part of a schema that a path leads to, as far as it is said. */
export function schemaAt(schema: JsonSchema, path: readonly PropertyKey[]): JsonSchema {
  let at = schema;
  for (const part of path) {
    const next =
      typeof part === "number"
        ? [at, ...branches(at)].map((each) => each["items"]).find(isObject)
        : properties(at)[String(part)];
    const rest = isObject(at["additionalProperties"]) ? at["additionalProperties"] : undefined;
    at = next ?? rest ?? {};
  }
  return at;
}

/**
 * Keys that a schema would drop without a word (`z.object` does): a mistyped key must be an error whatever way the connector's author chose.
 * Returns the paths.
 */
export function droppedKeys(
  schema: JsonSchema,
  value: unknown,
  path: readonly (string | number)[] = [],
): (string | number)[][] {
  if (Array.isArray(value)) {
    const items = schema["items"];
    return isObject(items) ? value.flatMap((each, index) => droppedKeys(items, each, [...path, index])) : [];
  }
  if (!isObject(value) || schema["type"] !== "object" || !isObject(schema["properties"])) return [];
  const known = schema["properties"] as Record<string, JsonSchema>;
  const drops = schema["additionalProperties"] === undefined;
  return Object.entries(value).flatMap(([key, each]) => {
    const next = Object.hasOwn(known, key) ? known[key] : undefined;
    if (next === undefined) return drops ? [[...path, key]] : [];
    return droppedKeys(next, each, [...path, key]);
  });
}

const reference = { type: "string", pattern: "\\$\\{(env|file):" };

/** Wherever a connector asks for more than plain text, `${env:NAME}` is as good: it is resolved before the connector sees it. */
function withReferences(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withReferences);
  if (!isObject(schema)) return schema;
  const inner: JsonSchema = Object.fromEntries(
    Object.entries(schema).map(([key, value]) => {
      if (["enum", "const", "default", "examples"].includes(key)) return [key, value];
      // Here the keys are names of the user's and not words of JSON Schema.
      if (["properties", "patternProperties"].includes(key) && isObject(value)) {
        return [key, Object.fromEntries(Object.entries(value).map(([name, each]) => [name, withReferences(each)]))];
      }
      return [key, withReferences(value)];
    }),
  );
  const narrow =
    ["number", "integer", "boolean"].includes(String(schema["type"])) ||
    ["enum", "const", "pattern", "format", "minLength", "maxLength"].some((key) => key in schema);
  if (!narrow) return inner;
  const { description, default: fallback, examples, title, ...rest } = inner;
  const said = Object.fromEntries(
    Object.entries({ description, default: fallback, examples, title }).filter(([, value]) => value !== undefined),
  );
  return { ...said, anyOf: [rest, reference] };
}

/** The common keys and a connector's own as one closed object, so that editors complete both and underline the rest. */
function merged(common: JsonSchema, connector: JsonSchema, type: string): JsonSchema {
  const own = withReferences(connector) as JsonSchema;
  const shared = properties(common);
  const required = (schema: JsonSchema) => (Array.isArray(schema["required"]) ? (schema["required"] as string[]) : []);
  const close = (schema: JsonSchema): JsonSchema => ({
    ...schema,
    properties: { ...properties(schema), ...shared, type: { const: type } },
    required: [...new Set(["type", ...required(schema)])].filter((key) => key === "type" || key in properties(schema)),
    // A connector that takes any further key says so with a schema here.
    additionalProperties: schema["additionalProperties"] ?? false,
  });
  if (own["type"] === "object") return close(own);
  for (const key of ["anyOf", "oneOf"] as const) {
    const options = own[key];
    if (Array.isArray(options) && options.every((each) => isObject(each) && each["type"] === "object")) {
      return { ...own, [key]: options.map((each) => close(each as JsonSchema)) };
    }
  }
  return { type: "object", properties: { ...shared, type: { const: type } }, required: ["type"] };
}

interface Entry {
  readonly type: string;
  readonly title: string;
  readonly schema: JsonSchema;
}

/** An object whose `type` decides what else it may have. */
function byType(common: JsonSchema, entries: readonly Entry[], needsType: boolean): JsonSchema {
  return {
    type: "object",
    properties: {
      type: {
        description: "The connector.",
        anyOf: entries.map((entry) => ({ const: entry.type, description: entry.title })),
      },
    },
    ...(needsType ? { required: ["type"] } : {}),
    allOf: [
      ...entries.map((entry) => ({
        if: { properties: { type: { const: entry.type } }, required: ["type"] },
        // oxlint-disable-next-line unicorn/no-thenable -- a key of JSON Schema.
        then: merged(common, entry.schema, entry.type),
      })),
      // Without a type only the common keys remain.
      ...(needsType
        ? []
        : [
            {
              if: { not: { required: ["type"] } },
              // oxlint-disable-next-line unicorn/no-thenable -- a key of JSON Schema.
              then: { properties: properties(common), additionalProperties: false },
            },
          ]),
    ],
  };
}

/** Connector schemas that refer to parts of themselves carry their own definitions: they move to the top under a name of their own. */
function hoist(schema: JsonSchema, prefix: string, definitions: JsonSchema): JsonSchema {
  const { definitions: inner, $defs, ...rest } = schema;
  const local: JsonSchema = { ...(isObject(inner) ? inner : {}), ...(isObject($defs) ? $defs : {}) };
  const rename = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(rename);
    if (!isObject(value)) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => {
        if (key !== "$ref" || typeof each !== "string") return [key, rename(each)];
        const name = each.replace(/^#\/(definitions|\$defs)\//, "");
        return [key, each === "#" ? `#/definitions/${prefix}` : `#/definitions/${prefix}.${name}`];
      }),
    );
  };
  for (const [name, each] of Object.entries(local)) definitions[`${prefix}.${name}`] = withReferences(rename(each));
  const renamed = rename(rest) as JsonSchema;
  if (JSON.stringify(renamed).includes(`"#/definitions/${prefix}"`)) definitions[prefix] = renamed;
  return renamed;
}

/** The published schema of `keyroll.yaml`, draft 7, with the keys of every connector of the registry. */
export function jsonSchema(registry: Registry): JsonSchema {
  const definitions: JsonSchema = {};
  const entry = (family: string, each: PlaceConnector | IssuerConnector | SystemType): Entry => ({
    type: each.type,
    title: each.title,
    schema: hoist(jsonSchemaOf(each.config), `${family}.${each.type}`, definitions),
  });
  const model = (title: string): Entry => ({ type: modelType, title, schema: jsonSchemaOf(modelPlace) });
  definitions["system"] = byType(
    jsonSchemaOf(systemCommon),
    [
      ...registry.systems.map((each) => entry("system", each)),
      { type: modelType, title: "A system that Keyroll does not know", schema: { type: "object", properties: {} } },
    ],
    true,
  );
  definitions["place"] = byType(
    jsonSchemaOf(placeCommon),
    [
      ...registry.places.map((each) => entry("place", each)),
      model("Declared traits and no connector: can be planned and proved, not run"),
    ],
    false,
  );
  definitions["issuer"] = byType(
    jsonSchemaOf(issuerCommon),
    [...registry.issuers.map((each) => entry("issuer", each)), model("Declared traits and no connector")],
    false,
  );
  const credential = jsonSchemaOf(credentialShape);
  const named = (description: unknown, ref: string) => ({
    type: "object",
    description,
    propertyNames: { pattern: namePattern.source },
    additionalProperties: { $ref: `#/definitions/${ref}` },
  });
  const parts = properties(credential);
  definitions["credential"] = {
    ...credential,
    properties: {
      ...parts,
      issuer: { $ref: "#/definitions/issuer" },
      places: named(parts["places"]?.["description"], "place"),
    },
  };
  const file = jsonSchemaOf(fileShape);
  const fileParts = properties(file);
  return {
    $schema: "http://json-schema.org/draft-07/schema#",
    title: "keyroll.yaml",
    description: "Everything that Keyroll looks after.",
    ...file,
    properties: {
      ...fileParts,
      systems: named(fileParts["systems"]?.["description"], "system"),
      credentials: named(fileParts["credentials"]?.["description"], "credential"),
    },
    definitions,
  };
}
