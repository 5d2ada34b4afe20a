/**
 * The settings of one system, place or issuer: references resolved, paths made absolute, judged by the connector's own schema. What came from
 * the environment or a file is in the result only, and in no message.
 */
import type { z } from "zod";
import { findings } from "./issues.ts";
import type { Finding } from "./issues.ts";
import { droppedKeys, jsonSchemaOf, properties } from "./json-schema.ts";
import { joinPath, suggestion } from "./problem.ts";
import { modelKeys } from "./schema.ts";
import { isTreeMap, omit } from "./source.ts";
import type { Files, Tree, TreeMap } from "./source.ts";
import { refersOutside, resolvePath, substitute } from "./substitute.ts";

type Path = readonly (string | number)[];

/** What connectors and types of system have in common here. */
export interface ConfiguredType {
  readonly type: string;
  readonly config: z.ZodType;
  readonly paths?: readonly string[];
}

export interface SettingsContext {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly files: Files;
  /** Absolute; where relative paths start. */
  readonly folder: string;
}

export type Settings = { readonly value: unknown } | { readonly wrong: readonly Omit<Finding, "custom">[] };

const reportIt = "this is a mistake in the connector: please report it";
const unspeakable =
  "is not right; what is wrong cannot be said without showing a value that came from the environment or a file";
/** Texts that stand in for a secret one, to find out which complaints are made of any text. */
const standIns = ["", "x", "0", "x".repeat(10_000)];

/** @param commonKeys keys that belong to the estate. One that the connector lists as well, such as `ca`, is given to both. */
export async function readSettings(
  connector: ConfiguredType,
  raw: TreeMap,
  commonKeys: readonly string[],
  context: SettingsContext,
): Promise<Settings> {
  const schema = jsonSchemaOf(connector.config);
  const known = properties(schema);
  const written = omit(
    raw,
    commonKeys.filter((key) => !Object.hasOwn(known, key)),
  );
  const wrong: Omit<Finding, "custom">[] = [];
  const add = (path: Path, text: string, aboutKey = false) => wrong.push({ path, text, aboutKey });

  // `z.object` drops unknown keys without a word; a strict object tells them below.
  for (const path of droppedKeys(schema, written)) {
    const key = String(path.at(-1));
    const names = path.length === 1 ? [...Object.keys(known), ...commonKeys] : [];
    add(
      path,
      unknownKey(connector, path) ?? `is not a known key${path.length === 1 ? suggestion(key, names, "key") : ""}`,
      true,
    );
  }
  const resolved = await substitute(written, { ...context, problem: (path, text) => add(path, text) });
  if (resolved === undefined) return { wrong };

  function judge(tree: Tree): { readonly value: unknown } | { readonly found: readonly Finding[] } {
    const absolute = (connector.paths ?? []).reduce(
      (at, key) => resolvePathsAt(at, key.split("."), context.folder),
      tree,
    );
    const first = connector.config.safeParse(absolute);
    if (first.success) return { value: first.data };
    // Text from the environment where a number is asked for: the environment knows text only.
    const retyped = retype(absolute, written, first.error.issues);
    const second = retyped === undefined ? first : connector.config.safeParse(retyped);
    if (second.success) return { value: second.data };
    return { found: findings(second.error.issues, written, schema, commonKeys) };
  }

  let result: ReturnType<typeof judge>;
  try {
    result = judge(resolved.value);
  } catch {
    // The error is dropped, since it may carry a value.
    add([], `the connector ${connector.type} failed while it checked these settings; ${reportIt}`);
    return { wrong };
  }
  if ("value" in result) return wrong.length > 0 ? { wrong } : result;

  const shown = (finding: Finding) => `${joinPath(finding.path)} ${finding.text}`;
  let harmless: ReadonlySet<string> | undefined;
  for (const finding of result.found) {
    const outside = refersOutside(partAt(written, finding.path) ?? null);
    let { text } = finding;
    if (resolved.secrets.length > 0 && (finding.custom || outside)) {
      // What is said of any text at all does not come from the secret one.
      harmless ??= new Set(standIns.flatMap((standIn) => complaints(resolved.standIn(standIn))));
      const carries = outside || resolved.secrets.some((secret) => shares(text, secret));
      if (carries && !harmless.has(shown(finding))) text = unspeakable;
    }
    add(finding.path, (finding.aboutKey ? unknownKey(connector, finding.path) : undefined) ?? text, finding.aboutKey);
  }
  return { wrong };

  function complaints(tree: Tree): string[] {
    try {
      const other = judge(tree);
      return "found" in other ? other.found.map(shown) : [];
    } catch {
      // A rule that fails on one of these texts says nothing about the others.
      return [];
    }
  }
}

function unknownKey(connector: ConfiguredType, path: Path): string | undefined {
  if (path.length !== 1 || !modelKeys.includes(String(path[0]))) return undefined;
  return `is not a known key; ${connector.type} knows this about itself, only a place of type model declares it`;
}

function partAt(tree: Tree, path: Path): Tree | undefined {
  let at: Tree | undefined = tree;
  for (const part of path) {
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, part)) return undefined;
    at = (at as Record<string | number, Tree>)[part];
  }
  return at;
}

/** A copy in which `path` has another value. Only what is there is changed. */
function replaceAt(tree: Tree, path: Path, change: (value: Tree) => Tree): Tree {
  const [head, ...rest] = path;
  if (head === undefined) return change(tree);
  if (Array.isArray(tree)) return tree.map((each, index) => (index === head ? replaceAt(each, rest, change) : each));
  if (!isTreeMap(tree) || !Object.hasOwn(tree, head)) return tree;
  return { ...tree, [head]: replaceAt(tree[head] ?? null, rest, change) };
}

function resolvePathsAt(tree: Tree, path: Path, folder: string): Tree {
  const change = (value: Tree): Tree => {
    if (typeof value === "string" && value !== "") return resolvePath(value, folder);
    return Array.isArray(value) ? value.map(change) : value;
  };
  return replaceAt(tree, path, change);
}

/** Text that came from outside, as the number or the yes-or-no that the schema asks for there. `undefined`: nothing to be done. */
function retype(tree: Tree, written: Tree, issues: readonly z.core.$ZodIssue[]): Tree | undefined {
  let changed = tree;
  for (const issue of issues) {
    if (issue.code !== "invalid_type") continue;
    const path = issue.path.filter((part) => typeof part !== "symbol");
    const text = partAt(tree, path);
    if (typeof text !== "string" || !refersOutside(partAt(written, path) ?? null)) continue;
    let value: Tree = text;
    if (issue.expected === "number" || (issue.expected as string) === "int") {
      if (/^-?\d+(\.\d+)?$/.test(text.trim()) && Number.isFinite(Number(text))) value = Number(text);
    } else if (issue.expected === "boolean") {
      if (/^(true|false)$/i.test(text.trim())) value = text.trim().toLowerCase() === "true";
    }
    if (value !== text) changed = replaceAt(changed, path, () => value);
  }
  return changed === tree ? undefined : changed;
}

/** Whether a message has a piece of a secret in it: four characters in a row, or all of a shorter one. */
function shares(message: string, secret: string): boolean {
  if (secret.length === 0) return false;
  if (secret.length <= 4) return message.includes(secret);
  for (let start = 0; start + 4 <= message.length; start++) {
    if (secret.includes(message.slice(start, start + 4))) return true;
  }
  return false;
}
