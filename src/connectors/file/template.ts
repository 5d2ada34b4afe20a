/** Values put together from parts: `postgres://${user}:${password|url}@db/shop`. Pure; secrets go in and come out wrapped. */
import { timingSafeEqual } from "node:crypto";
import { Secret } from "../secret.ts";

export class TemplateError extends Error {
  override readonly name = "TemplateError";
}

/** `url`: percent-encoded (RFC 3986), for passwords in connection strings. */
type Filter = "none" | "url" | "base64";
interface PartUse {
  readonly name: string;
  readonly filter: Filter;
}
export interface Template {
  /** Literal text and uses of parts in turn, beginning and ending with literal text. */
  readonly literals: readonly string[];
  readonly uses: readonly PartUse[];
  /** The names, each once. */
  readonly parts: readonly string[];
}

/** `$${` stands for `${`. Throws {@link TemplateError}. */
export function parseTemplate(text: string): Template {
  const literals: string[] = [""];
  const uses: PartUse[] = [];
  const add = (literal: string): void => void literals.push((literals.pop() ?? "") + literal);
  for (let at = 0; at < text.length;) {
    if (text.startsWith("$${", at)) {
      add("${");
      at += 3;
    } else if (text.startsWith("${", at)) {
      const found = /^\$\{([A-Za-z][A-Za-z0-9_]*)(?:\|(url|base64))?\}/.exec(text.slice(at, at + 100));
      if (found === null)
        throw new TemplateError(
          'a part is written like ${password} or ${password|url}; for the text itself write "$${"',
        );
      uses.push({ name: found[1] ?? "", filter: found[2] === "url" || found[2] === "base64" ? found[2] : "none" });
      literals.push("");
      at += found[0].length;
    } else {
      add(text[at] ?? "");
      at++;
    }
  }
  return { literals, uses, parts: [...new Set(uses.map((use) => use.name))] };
}

/** The parts of one version, by name. */
export type Parts = ReadonlyMap<string, Secret>;

/** `undefined`: the name of the first part that is missing. */
export function renderTemplate(template: Template, parts: Parts): Secret | { readonly missing: string } {
  let text = template.literals[0] ?? "";
  for (const [index, use] of template.uses.entries()) {
    const part = parts.get(use.name);
    if (part === undefined) return { missing: use.name };
    text += encode(part.reveal(), use.filter) + (template.literals[index + 1] ?? "");
  }
  return new Secret(text);
}

/**
 * Takes a value apart, or gives `undefined` when it does not fit the template. Each part ends at the first occurrence of the literal text that
 * follows it, except the last, which runs to the end; a part that occurs twice must be the same each time.
 */
export function matchTemplate(template: Template, text: string): Parts | undefined {
  const [first = ""] = template.literals;
  if (!text.startsWith(first)) return undefined;
  const parts = new Map<string, Secret>();
  let at = first.length;
  for (const [index, use] of template.uses.entries()) {
    const literal = template.literals[index + 1] ?? "";
    const isLast = index === template.uses.length - 1;
    // Two parts without text between them cannot be told apart.
    if (literal === "" && !isLast) return undefined;
    const end = isLast ? text.length - literal.length : text.indexOf(literal, at);
    if (end < at || !text.startsWith(literal, end)) return undefined;
    const value = decode(text.slice(at, end), use.filter);
    if (value === undefined) return undefined;
    const secret = new Secret(value);
    const before = parts.get(use.name);
    if (before !== undefined && !sameSecret(before, secret)) return undefined;
    parts.set(use.name, secret);
    at = end + literal.length;
  }
  return at === text.length ? parts : undefined;
}

function encode(value: string, filter: Filter): string {
  if (filter === "url")
    return encodeURIComponent(value).replaceAll(
      /[!'()*]/g,
      (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`,
    );
  return filter === "base64" ? Buffer.from(value, "utf8").toString("base64") : value;
}
function decode(text: string, filter: Filter): string | undefined {
  if (filter === "none") return text;
  if (filter === "base64") return Buffer.from(text, "base64").toString("utf8");
  try {
    return decodeURIComponent(text);
  } catch {
    // A stray percent sign: whoever wrote it did not use this template.
    return undefined;
  }
}

/** In constant time for values of one length, so that what a place holds cannot be found out by asking often. */
export function sameSecret(one: Secret, two: Secret): boolean {
  return one.bytes().length === two.bytes().length && timingSafeEqual(one.bytes(), two.bytes());
}
