/**
 * `${env:NAME}`, `${env:NAME:-default}` and `${file:path}` in the settings of systems, places and issuers. What they stand for is secret until
 * proved otherwise: it goes into the connectors' settings and nowhere else.
 */
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { decodeUtf8, isTreeMap, readFailure } from "./source.ts";
import type { Files, Tree } from "./source.ts";

/** One reference as written. `$${env:X}` is the text `${env:X}` itself. */
const pattern = /\$(\$?)\{(env|file):([^{}]*)(\}?)/g;

function hasReference(text: string): boolean {
  return /\$\{(env|file):/.test(text.replaceAll("$${", ""));
}

/** Whether anything in the tree is a reference. */
export function refersOutside(tree: Tree): boolean {
  if (typeof tree === "string") return hasReference(tree);
  if (Array.isArray(tree)) return tree.some(refersOutside);
  return isTreeMap(tree) && Object.values(tree).some(refersOutside);
}

interface Reference {
  readonly kind: "env" | "file";
  readonly name: string;
  readonly fallback: string | undefined;
  readonly closed: boolean;
}

/** Rewrites every reference in the tree. Escapes are undone. */
function rewrite(
  tree: Tree,
  path: readonly (string | number)[],
  value: (reference: Reference, path: readonly (string | number)[]) => string,
): Tree {
  if (typeof tree === "string") {
    return tree.replace(pattern, (whole, escaped: string, kind: "env" | "file", inner: string, close: string) => {
      if (escaped !== "") return whole.slice(1);
      const split = inner.indexOf(":-");
      return value(
        {
          kind,
          name: (split < 0 ? inner : inner.slice(0, split)).trim(),
          fallback: split < 0 ? undefined : inner.slice(split + 2),
          closed: close !== "",
        },
        path,
      );
    });
  }
  if (Array.isArray(tree)) return tree.map((each, index) => rewrite(each, [...path, index], value));
  if (isTreeMap(tree))
    return Object.fromEntries(Object.entries(tree).map(([key, each]) => [key, rewrite(each, [...path, key], value)]));
  return tree;
}

export interface Resolved {
  readonly value: Tree;
  /** Every text that came from outside, for keeping it out of messages. */
  readonly secrets: readonly string[];
  /** The same tree with other texts in place of the secret ones, to find out which messages do not depend on them. */
  standIn(text: string): Tree;
}

const maxSecretFileBytes = 256 * 1024;

export interface SubstituteOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly files: Files;
  /** Where relative paths start. */
  readonly folder: string;
  problem(path: readonly (string | number)[], text: string): void;
}

/** `undefined` when a reference leads nowhere; the problem is then noted. */
export async function substitute(raw: Tree, options: SubstituteOptions): Promise<Resolved | undefined> {
  const wanted = new Map<string, Promise<string | { readonly problem: string }>>();
  rewrite(raw, [], (reference) => {
    const key = `${reference.kind}:${reference.name}`;
    if (!wanted.has(key)) wanted.set(key, look(reference, options));
    return "";
  });
  const found = new Map<string, string | { readonly problem: string }>();
  for (const [key, value] of wanted) found.set(key, await value);
  let failed = false;
  const secrets = new Set<string>();
  const value = rewrite(raw, [], (reference, path) => {
    const shown = `\${${reference.kind}:${reference.name.length > 80 ? `${reference.name.slice(0, 77)}...` : reference.name}}`;
    if (!reference.closed) {
      failed = true;
      options.problem(path, `${shown.slice(0, -1)} is not closed; write a } after the name`);
      return "";
    }
    const got = found.get(`${reference.kind}:${reference.name}`);
    if (typeof got === "string") {
      secrets.add(got);
      return got;
    }
    if (reference.fallback !== undefined) return reference.fallback;
    failed = true;
    options.problem(path, `${shown} ${got?.problem ?? "is not known"}`);
    return "";
  });
  if (failed) return undefined;
  return { value, secrets: [...secrets], standIn: (text) => rewrite(raw, [], () => text) };
}

async function look(reference: Reference, options: SubstituteOptions): Promise<string | { readonly problem: string }> {
  const { kind, name } = reference;
  if (kind === "env") {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      return { problem: "is not the name of an environment variable; write letters, digits and _" };
    }
    const value = Object.hasOwn(options.env, name) ? options.env[name] : undefined;
    if (value === undefined)
      return { problem: `is not set; set the environment variable ${name}, or write \${env:${name}:-default}` };
    // An empty variable is nearly always one that a script forgot to fill.
    if (value === "")
      return { problem: `is empty; fill the environment variable ${name}, or write \${env:${name}:-default}` };
    return value;
  }
  if (name === "") return { problem: "names no file; write a path" };
  try {
    const text = decodeUtf8(await options.files.read(resolvePath(name, options.folder), maxSecretFileBytes));
    // Editors and `echo` end a file with a line end that is not part of the value.
    return text.replace(/\r?\n$/, "");
  } catch (error) {
    if (error instanceof TypeError && !("code" in error)) return { problem: "is not UTF-8 text; point to a text file" };
    return { problem: `${readFailure(error, maxSecretFileBytes)}; paths are relative to the file that names them` };
  }
}

/** Relative to the folder of the file that names it; `~/` is the user's home. */
export function resolvePath(path: string, folder: string): string {
  if (path === "~" || path.startsWith("~/")) return join(homedir(), path.slice(1));
  return isAbsolute(path) ? path : resolve(folder, path);
}
