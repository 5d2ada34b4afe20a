/**
 * Values put together from parts: `postgres://${user}:${password|url}@db/shop`. Pure; secrets go in and come out wrapped. Taking a value apart
 * again never guesses: what could be read in two ways is not read at all, since a wrongly adopted password locks out at the first rotation.
 */
import { timingSafeEqual } from "node:crypto";
import type { VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";

export class TemplateError extends Error {
  override readonly name = "TemplateError";
}

/** `url`: percent-encoded (RFC 3986), for connection strings. `json`: as inside a JSON string, without the quotes. */
const filters = ["url", "json", "base64"] as const;
type Filter = "none" | (typeof filters)[number];

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

/** The parts of one version, by name. */
export type Parts = ReadonlyMap<string, Secret>;

/** `$${` stands for `${`. Throws {@link TemplateError}, whose message repeats nothing of the text. */
export function parseTemplate(text: string): Template {
  const literals: string[] = [""];
  const uses: PartUse[] = [];
  const add = (literal: string): void => void literals.push((literals.pop() ?? "") + literal);
  for (let at = 0; at < text.length;) {
    const next = text.indexOf("${", at);
    if (next < 0) {
      add(text.slice(at));
      break;
    }
    if (next > at && text[next - 1] === "$") {
      add(`${text.slice(at, next - 1)}\${`);
      at = next + 2;
      continue;
    }
    add(text.slice(at, next));
    const found = /^\$\{([A-Za-z][A-Za-z0-9_]*)(?:\|([a-z0-9]+))?\}/.exec(text.slice(next, next + 200));
    if (found === null) {
      throw new TemplateError('a part is written like ${password} or ${password|url}; for the text itself write "$${"');
    }
    const filter = found[2] === undefined ? "none" : filters.find((each) => each === found[2]);
    if (filter === undefined)
      throw new TemplateError(`a part may end in ${filters.map((each) => `|${each}`).join(", ")}, and in nothing else`);
    uses.push({ name: found[1] ?? "", filter });
    literals.push("");
    at = next + found[0].length;
  }
  return { literals, uses, parts: [...new Set(uses.map((use) => use.name))] };
}

/** The value, or the name of the first part that is missing. */
export function renderTemplate(template: Template, parts: Parts): Secret | { readonly missing: string } {
  let text = template.literals[0] ?? "";
  for (const [index, use] of template.uses.entries()) {
    const part = parts.get(use.name);
    if (part === undefined) return { missing: use.name };
    text += encode(part.reveal(), use.filter) + (template.literals[index + 1] ?? "");
  }
  return new Secret(text);
}

/** Longer values are files that were named by mistake. */
const maxMatched = 64 * 1024;

/**
 * Takes a value apart: the parts with which the template gives this text. `undefined` where there are none, or where there are several
 * (`${user}:${password}` and two colons: `|url` tells them apart, since an encoded part has none).
 *
 * Linear in the length of the text for each part. All readings lie between the one whose parts end as early as possible and the one whose parts
 * end as late as possible, so there is exactly one reading when these two are the same.
 */
export function matchTemplate(template: Template, text: string): Parts | undefined {
  const { literals, uses } = template;
  const first = literals[0] ?? "";
  if (text.length > maxMatched || !text.startsWith(first)) return undefined;
  if (uses.length === 0) return text === first ? new Map() : undefined;
  const length = text.length;

  // fits[i][at]: the text from `at` on can be read as part i and all that follows it. ends[i]: where part i may end so that the rest can be read.
  let rest = new Uint8Array(length + 1);
  rest[length] = 1;
  const ends: Uint8Array[] = [];
  for (let index = uses.length - 1; index >= 0; index--) {
    const literal = literals[index + 1] ?? "";
    const may = new Uint8Array(length + 1);
    for (let end = 0; end + literal.length <= length; end++) {
      if (rest[end + literal.length] === 1 && text.startsWith(literal, end)) may[end] = 1;
    }
    ends[index] = may;
    const use = uses[index];
    const fits = new Uint8Array(length + 1);
    // From right to left: is there an allowed end ahead, before a character that this part cannot have?
    let ahead = false;
    for (let at = length; at >= 0; at--) {
      if (at < length && !allowed(text.charCodeAt(at), use?.filter ?? "none")) ahead = false;
      if (may[at] === 1) ahead = true;
      if (ahead) fits[at] = 1;
    }
    rest = fits;
  }

  const read = (late: boolean): string[] | undefined => {
    const found: string[] = [];
    let at = first.length;
    for (const [index, use] of uses.entries()) {
      let chosen = -1;
      for (let end = at; end <= length; end++) {
        if (ends[index]?.[end] === 1) {
          chosen = end;
          if (!late) break;
        }
        if (end < length && !allowed(text.charCodeAt(end), use.filter)) break;
      }
      if (chosen < 0) return undefined;
      found.push(text.slice(at, chosen));
      at = chosen + (literals[index + 1] ?? "").length;
    }
    return found;
  };
  const early = read(false);
  const late = read(true);
  if (early === undefined || late === undefined || early.some((each, index) => each !== late[index])) return undefined;

  const parts = new Map<string, Secret>();
  for (const [index, use] of uses.entries()) {
    const value = decode(early[index] ?? "", use.filter);
    if (value === undefined) return undefined;
    const secret = new Secret(value);
    const before = parts.get(use.name);
    if (before !== undefined && !sameSecret(before, secret)) return undefined;
    parts.set(use.name, secret);
  }
  return parts;
}

/** Characters that an encoded part can have. Generous: others encode less than we do. */
function allowed(code: number, filter: Filter): boolean {
  if (filter === "none") return true;
  const character = String.fromCharCode(code);
  if (filter === "url") return !/[:/?#[\]@&=\s"]/.test(character);
  if (filter === "base64") return /[A-Za-z0-9+/=]/.test(character);
  // A quotation mark stands behind a backslash there (RFC 8259, section 7), which one character alone cannot tell: decoding does.
  return code >= 0x20;
}

function encode(value: string, filter: Filter): string {
  if (filter === "url") {
    // encodeURIComponent leaves the sub-delimiters of RFC 3986 alone that some readers take for more than text.
    return encodeURIComponent(value).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
  }
  if (filter === "json") return JSON.stringify(value).slice(1, -1);
  return filter === "base64" ? Buffer.from(value, "utf8").toString("base64") : value;
}

function decode(text: string, filter: Filter): string | undefined {
  if (filter === "none") return text;
  try {
    if (filter === "url") return decodeURIComponent(text);
    if (filter === "json") return String(JSON.parse(`"${text}"`));
    const value = Buffer.from(text, "base64");
    return value.toString("base64") === text ? new TextDecoder("utf-8", { fatal: true }).decode(value) : undefined;
  } catch {
    // A stray percent sign or backslash: whoever wrote it did not use this template.
    return undefined;
  }
}

/** In constant time for values of one length, so that what a place holds cannot be found out by asking often. */
export function sameSecret(one: Secret, two: Secret): boolean {
  return one.bytes().length === two.bytes().length && timingSafeEqual(one.bytes(), two.bytes());
}

/**
 * What a version offers to templates: `value`, `password` and `secret` for an opaque one; `privateKey`, `certificate` (the leaf) and `chain` for
 * a key; `id`; and its public attributes, such as `user`. An attribute never takes the place of a secret part.
 */
export async function partsOf(version: VersionHandle): Promise<Parts> {
  const parts = new Map<string, Secret>();
  for (const [name, value] of Object.entries({ ...version.facts.attributes, ...version.placement?.attributes })) {
    parts.set(name, new Secret(value));
  }
  parts.set("id", new Secret(version.id));
  const material = await version.open();
  if (material.kind === "secret") {
    for (const name of ["value", "password", "secret"]) parts.set(name, material.value);
  } else {
    parts.set("privateKey", material.privateKey);
    parts.set("certificate", new Secret(material.certificates[0] ?? ""));
    parts.set("chain", new Secret(material.certificates.join("")));
  }
  return parts;
}
