/** What zod found, in words for the person who wrote the file. */
import type { z } from "zod";
import { quoted, suggestion } from "./problem.ts";
import { properties, schemaAt } from "./json-schema.ts";
import type { JsonSchema } from "./json-schema.ts";
import type { Tree } from "./source.ts";

type Issue = z.core.$ZodIssue;

export interface Finding {
  readonly path: readonly (string | number)[];
  readonly text: string;
  /** The finding is about a key and not about its value. */
  readonly aboutKey: boolean;
  /** Made by a rule of the schema's author, whose words may repeat what was written. */
  readonly custom: boolean;
}

function valueAt(value: Tree, path: readonly PropertyKey[]): Tree | undefined {
  let at: Tree | undefined = value;
  for (const part of path) {
    if (typeof at !== "object" || at === null) return undefined;
    at = Object.hasOwn(at, part) ? (at as Record<PropertyKey, Tree>)[part] : undefined;
  }
  return at;
}

const expectedWords: Readonly<Record<string, string>> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  object: "a map",
  record: "a map",
  null: "nothing",
};

export function kindOf(value: Tree | undefined): string {
  if (value === undefined) return "missing";
  if (value === null) return "empty";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "a map";
  return typeof value === "string" ? "text" : typeof value === "number" ? "a number" : "true or false";
}

/** @param written the value before references were resolved: the only one that may be repeated. */
export function findings(
  issues: readonly Issue[],
  written: Tree,
  schema: JsonSchema,
  alsoKnown: readonly string[] = [],
): Finding[] {
  return issues.flatMap((issue) => describe(issue, [], written, schema, alsoKnown));
}

function describe(
  issue: Issue,
  base: readonly (string | number)[],
  written: Tree,
  schema: JsonSchema,
  alsoKnown: readonly string[],
): Finding[] {
  const path = [...base, ...issue.path.map((part) => (typeof part === "symbol" ? String(part) : part))];
  const value = valueAt(written, path);
  const one = (text: string, custom = false): Finding[] => [{ path, text, aboutKey: false, custom }];
  // A message of the schema's own author says more than any of ours.
  const ownWords = !/^(Invalid|Unrecognized|Too (small|big)|Expected)/.test(issue.message);
  switch (issue.code) {
    case "unrecognized_keys": {
      const known = [...Object.keys(properties(schemaAt(schema, path))), ...(path.length === 0 ? alsoKnown : [])];
      return issue.keys.map((key) => ({
        path: [...path, key],
        text: `is not a known key${suggestion(key, known, "key")}`,
        aboutKey: true,
        custom: false,
      }));
    }
    case "invalid_type": {
      const expected = expectedWords[issue.expected] ?? issue.expected;
      if (ownWords) return one(issue.message, true);
      if (value === undefined) return one(`is missing; write ${expected}${describeKey(schema, path)}`);
      if (value === null) return one(`is empty; write ${expected}${describeKey(schema, path)}`);
      if (issue.expected === "string" && (typeof value === "number" || typeof value === "boolean")) {
        return one(`is ${kindOf(value)} where text is expected; put it into quotes`);
      }
      if (kindOf(value) === expected) return one(`is not ${expected} that can be used; write ${expected}`);
      return one(`is ${kindOf(value)} where ${expected} is expected; write ${expected}${describeKey(schema, path)}`);
    }
    case "invalid_value": {
      if (ownWords) return one(issue.message, true);
      const choices = issue.values.map(String);
      if (value === undefined || value === null)
        return one(
          `is ${kindOf(value)}; write ${choices.length > 1 ? "one of " : ""}${choices.map((each) => `"${each}"`).join(", ")}`,
        );
      if (typeof value === "object")
        return one(`is ${kindOf(value)}; write one of ${choices.map((each) => `"${each}"`).join(", ")}`);
      return one(`${quoted(String(value))} is not one of the choices${suggestion(String(value), choices, "choice")}`);
    }
    case "too_small":
    case "too_big": {
      if (ownWords) return one(issue.message, true);
      const least = issue.code === "too_small";
      const bound = String(least ? issue.minimum : issue.maximum);
      const side = least ? "at least" : "at most";
      if (issue.origin === "string")
        return one(
          least && bound === "1"
            ? "is empty; write text"
            : `is too ${least ? "short" : "long"}; write ${side} ${bound} characters`,
        );
      if (issue.origin === "array" || issue.origin === "set")
        return one(`has too ${least ? "few" : "many"} entries; write ${side} ${bound}`);
      return one(`is too ${least ? "small" : "large"}; write ${side} ${bound}`);
    }
    case "invalid_format":
      return ownWords
        ? one(issue.message, true)
        : one(`does not have the right form (${issue.format})${describeKey(schema, path)}`);
    case "invalid_key":
      return [{ path, text: "is not a name that is allowed here", aboutKey: true, custom: false }];
    case "invalid_union": {
      if (ownWords) return one(issue.message, true);
      if (value === undefined) return one(`is missing${describeKey(schema, path)}`);
      // The branch that the writer meant is the one that got furthest.
      const depth = (branch: readonly Issue[]) =>
        Math.max(...branch.map((each) => each.path.length + (each.code === "invalid_type" ? 0 : 0.5)));
      const best = issue.errors
        .filter((branch) => branch.length > 0)
        .sort((a, b) => depth(b) - depth(a) || a.length - b.length)[0];
      if (best !== undefined && depth(best) > 0)
        return best.flatMap((each) => describe(each, path, written, schema, alsoKnown));
      const kinds = issue.errors
        .flat()
        .flatMap((each) => (each.code === "invalid_type" ? [expectedWords[each.expected] ?? each.expected] : []));
      return one(
        kinds.length > 0
          ? `is ${kindOf(value)}; write ${[...new Set(kinds)].join(" or ")}`
          : `does not fit${describeKey(schema, path)}`,
      );
    }
    default:
      return one(issue.message, true);
  }
}

/** The description of the setting, in brackets, where the schema has one. */
function describeKey(schema: JsonSchema, path: readonly PropertyKey[]): string {
  const { description } = schemaAt(schema, path);
  return typeof description === "string" && description !== "" ? ` (${description.replace(/\.$/, "")})` : "";
}
