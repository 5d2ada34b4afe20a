/**
 * YAML files as plain values, with the place of every key. The tree is built here and not by the library's `toJS`, so that every value keeps its
 * position, and so that what could hurt is refused: aliases that multiply, deep nesting, tags, keys that reach into prototypes.
 */
import { readFile, stat } from "node:fs/promises";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, Scalar } from "yaml";
import type { Node, YAMLMap } from "yaml";
import { joinPath, quoted } from "./problem.ts";
import type { Position, Problems } from "./problem.ts";

export type Tree = null | boolean | number | string | Tree[] | TreeMap;
export interface TreeMap {
  [key: string]: Tree;
}

export function isTreeMap(value: unknown): value is TreeMap {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function pick(map: TreeMap, keys: readonly string[]): TreeMap {
  return Object.fromEntries(Object.entries(map).filter(([key]) => keys.includes(key)));
}
export function omit(map: TreeMap, keys: readonly string[]): TreeMap {
  return Object.fromEntries(Object.entries(map).filter(([key]) => !keys.includes(key)));
}

/** What the loader needs of the file system. Tests and the fuzzer bring their own. */
export interface Files {
  /** Throws an error with a `code` such as `ENOENT`, and {@link TooLarge} before it would read more than `maxBytes`. */
  read(path: string, maxBytes: number): Promise<Uint8Array>;
}

export class TooLarge extends Error {}

export const nodeFiles: Files = {
  async read(path, maxBytes) {
    const found = await stat(path);
    // A pipe or a device would never end.
    if (!found.isFile())
      throw Object.assign(new Error("not a file"), { code: found.isDirectory() ? "EISDIR" : "ENOTFILE" });
    if (found.size > maxBytes) throw new TooLarge();
    const bytes = await readFile(path);
    if (bytes.length > maxBytes) throw new TooLarge();
    return bytes;
  },
};

/** A reason in words for a file that could not be read, without the path. */
export function readFailure(error: unknown, maxBytes: number): string {
  if (error instanceof TooLarge) return `is larger than ${Math.round(maxBytes / 1024)} KiB`;
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
  const words: Readonly<Record<string, string>> = {
    ENOENT: "does not exist",
    ENOTDIR: "does not exist",
    EISDIR: "is a folder, not a file",
    ENOTFILE: "is not a plain file",
    EACCES: "may not be read by this user",
    EPERM: "may not be read by this user",
    ELOOP: "is a link that leads in a circle",
    ENAMETOOLONG: "has a name that is too long",
    ERR_INVALID_ARG_VALUE: "has a NUL character in its name",
  };
  return words[code] ?? `cannot be read${code === "" ? "" : ` (${code})`}`;
}

/** Throws `TypeError` for bytes that are not UTF-8. A byte order mark is dropped. */
export function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
}

const limits = {
  fileBytes: 1024 * 1024,
  files: 200,
  depth: 40,
  /** Values in one file, those that aliases repeat included. */
  values: 100_000,
} as const;

export interface SourceFile {
  /** Absolute. */
  readonly path: string;
  /** As shown in messages. */
  readonly shown: string;
  /** Absolute folder that relative paths in this file start from. */
  readonly folder: string;
  readonly tree: TreeMap;
  /** The text as read, for keeping what was applied. */
  readonly text: string;
  /** The files that this one includes, in order, without those that were included before. */
  readonly includes: readonly SourceFile[];
}

interface Marks {
  readonly self: Position;
  readonly keys: Map<string | number, { readonly key: Position; readonly value: Position }>;
  /** Keys whose value was refused, and said so: nothing that follows from the gap is worth saying. */
  readonly refused: Set<string | number>;
}

/** Where each container and each of its entries stands. Containers are told apart by identity. */
export class Positions {
  readonly #marks = new WeakMap<object, Marks>();

  mark(container: object, marks: Marks): void {
    this.#marks.set(container, marks);
  }

  /** A container made of another one: what they share stands where it stood. */
  copy(from: object, to: object): void {
    const marks = this.#marks.get(from);
    if (marks !== undefined) this.#marks.set(to, { ...marks, keys: new Map(marks.keys) });
  }

  /** A value that no file has, such as what a recipe wrote: it, and all below it that has no place of its own, stands at `at`. */
  standIn(container: object, key: string | number, value: Tree, at: Position): void {
    let marks = this.#marks.get(container);
    if (marks === undefined) {
      marks = { self: at, keys: new Map(), refused: new Set() };
      this.#marks.set(container, marks);
    }
    if (!marks.keys.has(key)) marks.keys.set(key, { key: at, value: at });
    if (typeof value !== "object" || value === null || this.#marks.has(value)) return;
    for (const [inner, each] of Object.entries(value))
      this.standIn(value, Array.isArray(value) ? Number(inner) : inner, each, at);
    if (!this.#marks.has(value)) this.#marks.set(value, { self: at, keys: new Map(), refused: new Set() });
  }

  /** Whether what `path` names, or something above it, was refused when the file was read. */
  wasRefused(base: Tree, path: readonly PropertyKey[]): boolean {
    let at: Tree | undefined = base;
    for (const part of path) {
      if (typeof at !== "object" || at === null || typeof part === "symbol") return false;
      if (this.#marks.get(at)?.refused.has(part) === true) return true;
      at = Array.isArray(at) ? at[Number(part)] : Object.hasOwn(at, part) ? at[String(part)] : undefined;
    }
    return false;
  }

  /** The position of what `path` names below `base`, or of the nearest thing above it. `key`: of the key itself and not of its value. */
  locate(base: Tree, path: readonly PropertyKey[], which: "key" | "value" = "value"): Position {
    let at: Tree | undefined = base;
    let best: Position = { file: "", line: 0, col: 0 };
    for (let depth = 0; ; depth++) {
      if (typeof at !== "object" || at === null) return best;
      const marks = this.#marks.get(at);
      if (marks === undefined) return best;
      if (depth === 0) best = marks.self;
      const part = path[depth];
      if (part === undefined || typeof part === "symbol") return best;
      const entry = marks.keys.get(part);
      if (entry === undefined) return best;
      at = Array.isArray(at) ? at[Number(part)] : Object.hasOwn(at, part) ? at[String(part)] : undefined;
      // Of a map or list the key says more than the line on which its first entry stands.
      if (depth < path.length - 1) best = entry.key;
      else return which === "key" || typeof at === "object" ? entry.key : entry.value;
    }
  }
}

/** What stands in for a value that was refused, until its container has noted it. Told by identity. */
const refused: Tree = [];

/** Raised inside one file when going on would be dangerous or pointless; the problem is already noted. */
class Stop extends Error {}

/** Keys that mean something to JavaScript objects, and that no estate needs. */
const forbiddenKeys = new Set(["__proto__", "constructor", "prototype"]);

/** Parses one file. Problems are noted, not thrown; `null` when nothing could be made of it. */
function parseYaml(text: string, shown: string, problems: Problems, positions: Positions): Tree {
  const lines = new LineCounter();
  // The library's own check for double keys compares every key with every other; ours below is quick and names both lines.
  const document = parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    uniqueKeys: false,
    logLevel: "error",
    strict: true,
  });
  const at = (offset: number): Position => {
    const { line, col } = lines.linePos(offset);
    return { file: shown, line: Math.max(1, line), col: Math.max(1, col) };
  };
  if (document.errors.length > 0) {
    // The first ones say what is wrong; the rest is mostly what follows from them.
    for (const error of document.errors.slice(0, 5))
      problems.add(at(error.pos[0]), "", yamlProblem(error.code, error.message));
    return null;
  }
  const anchors = new Map<string, Node>();
  const open = new Set<Node>();
  let values = 0;

  function build(node: unknown, path: readonly PropertyKey[], depth: number): Tree {
    if (node === null || node === undefined) return null;
    const here = startOf(node as Node);
    if (++values > limits.values) {
      problems.add(
        here,
        joinPath(path),
        `there are more than ${limits.values} values, counting those that aliases repeat; use fewer aliases or several files`,
      );
      throw new Stop();
    }
    if (depth > limits.depth) {
      problems.add(here, "", `is nested more than ${limits.depth} levels deep; an estate needs fewer than ten`);
      throw new Stop();
    }
    if (isAlias(node)) {
      const target = anchors.get(node.source);
      if (target === undefined) {
        problems.add(
          here,
          joinPath(path),
          `*${node.source} refers to nothing above it; write &${node.source} where the value is`,
        );
        return refused;
      }
      if (open.has(target)) {
        problems.add(here, joinPath(path), `*${node.source} contains itself; write the value out`);
        return refused;
      }
      return build(target, path, depth);
    }
    const typed = node as Node & { anchor?: string; tag?: string };
    if (typed.anchor !== undefined) anchors.set(typed.anchor, typed);
    if (typed.tag !== undefined && !/^tag:yaml\.org,2002:(str|int|float|bool|null|map|seq)$/.test(typed.tag)) {
      problems.add(here, joinPath(path), `the tag ${quoted(typed.tag)} means nothing here; leave it out`);
      return refused;
    }
    open.add(typed);
    try {
      if (isScalar(node)) return scalar(node, here, path);
      if (isSeq(node)) {
        const list: Tree[] = [];
        const marks: Marks = { self: here, keys: new Map(), refused: new Set() };
        positions.mark(list, marks);
        for (const [index, item] of node.items.entries()) {
          const itemAt = item === null || item === undefined ? here : startOf(item as Node);
          marks.keys.set(index, { key: itemAt, value: itemAt });
          const value = build(item, [...path, index], depth + 1);
          if (value === refused) marks.refused.add(index);
          list.push(value === refused ? null : value);
        }
        return list;
      }
      if (isMap(node)) return map(node, here, path, depth);
      problems.add(
        here,
        joinPath(path),
        "is not a value that YAML 1.2 knows; write a map, a list, text, a number, true or false",
      );
      return refused;
    } finally {
      open.delete(typed);
    }
  }

  function map(node: YAMLMap, here: Position, path: readonly PropertyKey[], depth: number): TreeMap {
    const found: TreeMap = {};
    const marks: Marks = { self: here, keys: new Map(), refused: new Set() };
    positions.mark(found, marks);
    const merged: { readonly value: Tree; readonly at: Position }[] = [];
    for (const pair of node.items) {
      const keyNode = isAlias(pair.key) ? anchors.get(pair.key.source) : pair.key;
      const keyAt = pair.key === null ? here : startOf(pair.key as Node);
      const key = isScalar(keyNode) ? keyText(keyNode) : undefined;
      if (isScalar(pair.key) && pair.key.anchor !== undefined) anchors.set(pair.key.anchor, pair.key);
      if (key === undefined) {
        problems.add(keyAt, joinPath(path), "has a key that is not plain text; write a name");
        continue;
      }
      if (forbiddenKeys.has(key)) {
        problems.add(keyAt, joinPath([...path, key]), `the key "${key}" is not allowed; choose another name`);
        continue;
      }
      if (key === "<<" && isScalar(keyNode) && (keyNode.type === undefined || keyNode.type === Scalar.PLAIN)) {
        const value = build(pair.value, path, depth + 1);
        if (value !== refused) merged.push({ value, at: keyAt });
        continue;
      }
      const before = marks.keys.get(key);
      if (before !== undefined) {
        problems.add(keyAt, joinPath([...path, key]), `is written twice; it is already on line ${before.key.line}`);
        continue;
      }
      const valueNode = pair.value as Node | null;
      marks.keys.set(key, {
        key: keyAt,
        value: valueNode === null || valueNode.range === undefined ? keyAt : startOf(valueNode),
      });
      const value = build(pair.value, [...path, key], depth + 1);
      if (value === refused) marks.refused.add(key);
      found[key] = value === refused ? null : value;
    }
    // What is written out wins over what is merged in, wherever the merge stands.
    for (const { value, at: mergedAt } of merged) {
      for (const source of Array.isArray(value) ? value : [value]) {
        if (!isTreeMap(source)) {
          problems.add(mergedAt, joinPath(path), "<< merges maps only; write <<: *name of a map");
          continue;
        }
        for (const [key, each] of Object.entries(source)) {
          if (marks.keys.has(key)) continue;
          const position = positions.locate(source, [key], "key");
          marks.keys.set(key, { key: position, value: positions.locate(source, [key]) });
          found[key] = each;
        }
      }
    }
    return found;
  }

  function scalar(node: Scalar, here: Position, path: readonly PropertyKey[]): Tree {
    const { value } = node;
    if (typeof value === "string" || typeof value === "boolean" || value === null) return value;
    if (typeof value === "number" && Number.isFinite(value)) {
      // A long number or one with a leading zero would come back changed, which in a password or a serial number is not seen for weeks.
      if (node.source === undefined || Number.isSafeInteger(value) || !Number.isInteger(value)) return value;
      problems.add(
        here,
        joinPath(path),
        `the number is too large to be kept exactly; if it is text, write it in quotes`,
      );
      return refused;
    }
    problems.add(here, joinPath(path), "is not a number that can be kept; if it is text, write it in quotes");
    return refused;
  }

  function startOf(node: Node): Position {
    return at(node.range?.[0] ?? 0);
  }

  try {
    const value = build(document.contents, [], 0);
    return value === refused ? null : value;
  } catch (error) {
    if (error instanceof Stop) return null;
    throw error;
  }
}

/** A key as it was written: `1` and `true` are names here. */
function keyText(node: Scalar): string | undefined {
  if (typeof node.value === "string") return node.value === "" ? undefined : node.value;
  if (typeof node.value === "number" || typeof node.value === "boolean") return node.source ?? String(node.value);
  return undefined;
}

/** The library's own words carry pieces of the file, which may be a secret on the wrong line. */
function yamlProblem(code: string, message: string): string {
  const words: Readonly<Record<string, string>> = {
    TAB_AS_INDENT: "is indented with a tab; use spaces",
    BAD_INDENT: "is not indented like its neighbours; line the keys of one map up",
    MISSING_CHAR: "something is missing here, such as a closing quote or bracket, or a comma",
    MULTIPLE_DOCS: "a second document begins here; an estate is one document, other files come in with include",
    BLOCK_AS_IMPLICIT_KEY:
      "a map begins where a value is expected; put text with a colon into quotes, or begin a new line",
    MULTILINE_IMPLICIT_KEY: "a key goes over several lines; a colon may be missing on the line above",
    BLOCK_IN_FLOW: "an indented block stands inside { } or [ ]; write it in the same style",
    UNEXPECTED_TOKEN: "is not expected here; check quotes, brackets, commas and indentation around it",
    BAD_SCALAR_START: "text may not begin with this character; put it into quotes",
    BAD_DQ_ESCAPE: "the backslash does not begin a known escape; write \\\\ for a backslash, or use single quotes",
    BAD_ALIAS: "the alias has no valid name; if it is text, put it into quotes",
    TAG_RESOLVE_FAILED: "the tag means nothing here; if it is text, put it into quotes",
    RESOURCE_EXHAUSTION: "is nested far too deep; an estate needs fewer than ten levels",
    KEY_OVER_1024_CHARS: "the key is longer than 1,024 characters; a closing quote may be missing",
    MULTIPLE_ANCHORS: "has two anchors; keep one",
    MULTIPLE_TAGS: "has two tags; leave them out",
    BAD_DIRECTIVE: "is not a YAML directive that is known; leave it out",
    BAD_COLLECTION_TYPE: "the tag does not fit what follows; leave it out",
    ALIAS_PROPS: "an alias takes no anchor and no tag; leave them out",
    BAD_PROP_ORDER: "anchors and tags stand after the - or the key; move it",
    NON_STRING_KEY: "the key is not text; put it into quotes",
  };
  return `this is not valid YAML: ${words[code] ?? message.replace(/["'`].*["'`]/s, "this").slice(0, 120)}`;
}

/** Reads the first file and everything that it includes. Problems are noted; what could be read is returned. */
export async function readSources(
  path: string,
  files: Files,
  problems: Problems,
  positions: Positions,
): Promise<SourceFile | null> {
  const seen = new Set<string>();

  async function load(
    absolute: string,
    shown: string,
    chain: readonly { readonly absolute: string; readonly shown: string }[],
    from: { readonly at: Position; readonly path: string } | null,
  ): Promise<SourceFile | null> {
    const blame = from?.at ?? { file: shown, line: 0, col: 0 };
    const name = from === null ? "" : `${quoted(shown)} `;
    const circle = chain.findIndex((each) => each.absolute === absolute);
    if (circle >= 0) {
      const names = [...chain.slice(circle).map((each) => each.shown), shown];
      problems.add(
        blame,
        from?.path ?? "",
        `includes go in a circle: ${names.join(" -> ")}; take one of these includes out`,
      );
      return null;
    }
    if (seen.has(absolute)) return null;
    seen.add(absolute);
    if (seen.size > limits.files) {
      problems.add(blame, from?.path ?? "", `there are more than ${limits.files} files; put several into one`);
      return null;
    }
    let text: string;
    try {
      text = decodeUtf8(await files.read(absolute, limits.fileBytes));
    } catch (error) {
      const reason =
        error instanceof TypeError && !("code" in error && error.code === "ERR_INVALID_ARG_VALUE")
          ? "is not UTF-8 text"
          : readFailure(error, limits.fileBytes);
      const advice =
        reason === "does not exist"
          ? from === null
            ? "; write it, or let `keyroll init` write one to begin with"
            : "; paths are relative to the file that includes"
          : "";
      problems.add(blame, from?.path ?? "", `${name}${reason}${advice}`);
      return null;
    }
    const folder = dirname(absolute);
    const before = problems.count;
    const tree = parseYaml(text, shown, problems, positions);
    if (!isTreeMap(tree)) {
      if (problems.count === before) {
        const what =
          tree === null
            ? "is empty"
            : `holds ${Array.isArray(tree) ? "a list" : "a single value"} where a map is expected`;
        problems.add(
          { file: shown, line: 1, col: 1 },
          "",
          `${what}; an estate begins with "version: 1" and has systems and credentials`,
        );
      }
      return null;
    }
    const includes: SourceFile[] = [];
    const wanted = tree["include"];
    const list = Array.isArray(wanted) ? wanted : wanted === undefined ? [] : [wanted];
    for (const [index, each] of list.entries()) {
      const parts = Array.isArray(wanted) ? ["include", index] : ["include"];
      const at = positions.locate(tree, parts);
      // What is no name at all is told by the check of the file's shape.
      if (typeof each !== "string" || each === "") continue;
      if (/\$\{(env|file):/.test(each)) {
        problems.add(at, joinPath(parts), "cannot depend on the environment; write the path itself");
        continue;
      }
      const child = isAbsolute(each) ? each : resolve(folder, each);
      const childShown = isAbsolute(each) ? each : join(dirname(shown), each);
      const source = await load(child, childShown, [...chain, { absolute, shown }], { at, path: joinPath(parts) });
      if (source !== null) includes.push(source);
    }
    return { path: absolute, shown, folder, tree, text, includes };
  }

  return load(resolve(path), path, [], null);
}
