/** The JSON Schema of `keyroll.yaml` that editors complete from, and what the loader learns from schemas of connectors. */
import { z } from "zod";
import type { IssuerConnector, PlaceConnector, SystemType } from "../connectors/connector.ts";
import type { Registry } from "../connectors/registry.ts";
import { recipes } from "./recipes/all.ts";
import { recipeCommon } from "./recipes/recipe.ts";
import type { Recipe } from "./recipes/recipe.ts";
import {
  credentialShape,
  fileShape,
  issuerCommon,
  modelPlace,
  modelType,
  namePattern,
  placeCommon,
  systemCommon,
} from "./schema.ts";

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
  definitions["credential-or-recipe"] = {
    if: { type: "object", required: ["use"] },
    // A schema that is right for one recipe only lets an editor complete that recipe's keys.
    // oxlint-disable-next-line unicorn/no-thenable -- a key of JSON Schema.
    then: { oneOf: recipes.map((recipe) => ({ $ref: `#/definitions/recipe.${recipe.name}` })) },
    else: { $ref: "#/definitions/credential" },
  };
  for (const recipe of recipes) definitions[`recipe.${recipe.name}`] = recipeSchema(recipe);
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
      credentials: named(fileParts["credentials"]?.["description"], "credential-or-recipe"),
    },
    definitions,
  };
}

function recipeSchema(recipe: Recipe): JsonSchema {
  const own = jsonSchemaOf(recipe.values);
  const required = Array.isArray(own["required"]) ? own["required"] : [];
  return {
    ...own,
    title: recipe.title,
    properties: {
      ...properties(jsonSchemaOf(z.strictObject(recipeCommon))),
      use: { const: recipe.name, description: recipe.title },
      ...properties(own),
    },
    required: ["use", ...required],
  };
}
