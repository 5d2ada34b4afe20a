/**
 * Changing single values in a configuration file while every other byte stays: comments, order, quoting, line ends. One function pair per format;
 * all are pure. Messages name the line and never a value.
 */
import { isAlias, isCollection, isScalar, isSeq, parseAllDocuments, parseDocument } from "yaml";
import type { Document, Scalar } from "yaml";

export const formats = ["dotenv", "json", "yaml", "ini", "text"] as const;
export type FormatName = (typeof formats)[number];

/** What is wrong with a file or a value, for `misconfigured`. */
export class FormatError extends Error {
  override readonly name = "FormatError";
  readonly line: number | undefined;
  constructor(message: string, line?: number) {
    super(line === undefined ? message : `line ${line}: ${message}`);
    this.line = line;
  }
}

export interface Format {
  /** The value under the key, as a reader of the file gets it; `undefined` when it is not there. Throws {@link FormatError}. */
  read(text: string, key: string): string | undefined;
  /** The text with the value under the key. Throws {@link FormatError} when the format has no way to write it that all its readers understand. */
  write(text: string, key: string, value: string): string;
}

/** Where a value lies in the text. */
interface Found {
  readonly start: number;
  readonly end: number;
  readonly value: string;
  readonly quote: "" | "'" | '"';
  readonly line: number;
}

// --- dotenv -----------------------------------------------------------------------------------------------------------------------------

const dotenvName = /^[A-Za-z_][A-Za-z0-9_.-]*$/;
const dotenvStart = /^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*/;

/**
 * There is no standard. What is written here is read alike by shells, Docker Compose, systemd and the dotenv libraries: plain words bare, the rest
 * in quotes whose content needs no escape. A value that would need one is refused, because each reader undoes escapes in its own way.
 */
function findDotenv(text: string, key: string): Found | undefined {
  if (!dotenvName.test(key)) throw new FormatError(`"${key}" is no name for a variable`);
  let found: Found | undefined;
  let line = 0;
  for (let at = 0; at < text.length;) {
    line++;
    const lineEnd = endOfLine(text, at);
    const match = dotenvStart.exec(text.slice(at, lineEnd));
    let next = lineEnd + 1;
    if (match !== null) {
      const start = at + match[0].length;
      const one = dotenvValue(text, start, lineEnd, line);
      // A quoted value may run over several lines, whose "=" are not assignments.
      next = endOfLine(text, one.end) + 1;
      if (match[1] === key) {
        if (found !== undefined)
          throw new FormatError(
            `${key} is set a second time (first in line ${found.line}); readers differ in which one they take`,
            line,
          );
        found = one;
      }
      line += countLines(text, at, next) - 1;
    }
    at = next;
  }
  return found;
}
function dotenvValue(text: string, start: number, lineEnd: number, line: number): Found {
  const quote = text[start];
  if (quote === "'" || quote === '"') {
    for (let at = start + 1; at < text.length; at++) {
      if (quote === '"' && text[at] === "\\") at++;
      else if (text[at] === quote) {
        const raw = text.slice(start + 1, at);
        return { start, end: at + 1, value: quote === '"' ? unescapeDotenv(raw) : raw, quote, line };
      }
    }
    throw new FormatError("a quote is opened here and never closed", line);
  }
  const rest = text.slice(start, lineEnd).replace(/\r$/, "");
  // A "#" begins a comment only after white space.
  const comment = /(^|[ \t])#/.exec(rest);
  const value = (comment === null ? rest : rest.slice(0, comment.index)).trimEnd();
  return { start, end: start + value.length, value, quote: "", line };
}
function unescapeDotenv(raw: string): string {
  return raw.replaceAll(/\\([nrt"\\$`])/g, (_all, one: string) => ({ n: "\n", r: "\r", t: "\t" })[one] ?? one);
}
function quoteDotenv(value: string, before: Found["quote"]): string {
  const bare = /^[A-Za-z0-9_./:@%+,=~^-]+$/.test(value);
  const single = !/['\r]/.test(value) && !value.includes("\n");
  const double = !/["\\$`\r]/.test(value);
  if (before === "" && bare) return value;
  if (before === '"' && double) return `"${value}"`;
  if (before === "'" && single) return `'${value}'`;
  if (single) return `'${value}'`;
  if (double) return `"${value}"`;
  throw new FormatError(
    "the value has characters that dotenv readers take apart in different ways; take another alphabet, such as that of the issuer random",
  );
}
const dotenv: Format = {
  read: (text, key) => findDotenv(text, key)?.value,
  write: (text, key, value) => {
    const found = findDotenv(text, key);
    if (found !== undefined) return splice(text, found, quoteDotenv(value, found.quote));
    const [ending, newline] = endings(text);
    return `${text}${ending}${key}=${quoteDotenv(value, "")}${newline}`;
  },
};

// --- INI --------------------------------------------------------------------------------------------------------------------------------

/** `section.key`; without a dot the key stands before the first section. The section is everything up to the last dot. */
function iniKey(key: string): { section: string; name: string } {
  const dot = key.lastIndexOf(".");
  return { section: dot === -1 ? "" : key.slice(0, dot), name: key.slice(dot + 1) };
}
function findIni(text: string, key: string): { found: Found | undefined; sectionEnd: number | undefined } {
  const wanted = iniKey(key);
  let section = "";
  let found: Found | undefined;
  let sectionEnd: number | undefined = wanted.section === "" ? 0 : undefined;
  let line = 0;
  for (let at = 0; at < text.length;) {
    line++;
    const lineEnd = endOfLine(text, at);
    const content = text.slice(at, lineEnd).replace(/\r$/, "");
    const header = /^[ \t]*\[([^\]]*)\]/.exec(content);
    const pair = /^[ \t]*([^=:;#[\]]+?)[ \t]*[=:][ \t]*/.exec(content);
    if (header !== null) section = (header[1] ?? "").trim();
    else if (pair !== null && section === wanted.section && pair[1] === wanted.name) {
      if (found !== undefined) throw new FormatError(`${key} is set a second time (first in line ${found.line})`, line);
      found = iniValue(content, pair[0].length, at, line);
    }
    if (section === wanted.section && (header !== null || content.trim() !== ""))
      sectionEnd = Math.min(lineEnd + 1, text.length);
    at = lineEnd + 1;
  }
  return { found, sectionEnd };
}
function iniValue(content: string, offset: number, at: number, line: number): Found {
  const rest = content.slice(offset);
  const quoted = /^(["'])(.*?)\1[ \t]*([;#].*)?$/.exec(rest);
  if (quoted !== null) {
    const quote = quoted[1] === '"' ? '"' : "'";
    const value = quoted[2] ?? "";
    return { start: at + offset, end: at + offset + value.length + 2, value, quote, line };
  }
  const comment = /[ \t][;#]/.exec(rest);
  const value = (comment === null ? rest : rest.slice(0, comment.index)).trimEnd();
  return { start: at + offset, end: at + offset + value.length, value, quote: "", line };
}
function quoteIni(value: string, before: Found["quote"]): string {
  if (/[\r\n]/.test(value)) throw new FormatError("INI files cannot hold a value of several lines");
  if (before !== "" && !value.includes(before) && !value.includes("\\")) return before + value + before;
  if (value === "" || value !== value.trim() || /[;#\\]/.test(value) || /^["']/.test(value)) {
    throw new FormatError(
      "the value has characters that INI readers take apart in different ways; take another alphabet, such as that of the issuer random",
    );
  }
  return value;
}
const ini: Format = {
  read: (text, key) => findIni(text, key).found?.value,
  write: (text, key, value) => {
    const { found, sectionEnd } = findIni(text, key);
    if (found !== undefined) return splice(text, found, quoteIni(value, found.quote));
    const { section, name } = iniKey(key);
    const [ending, newline] = endings(text);
    const pair = `${name} = ${quoteIni(value, "")}${newline}`;
    if (sectionEnd === undefined) return `${text}${ending}[${section}]${newline}${pair}`;
    const gap = sectionEnd > 0 && text[sectionEnd - 1] !== "\n" ? newline : "";
    return `${text.slice(0, sectionEnd)}${gap}${pair}${text.slice(sectionEnd)}`;
  },
};

// --- JSON and YAML ----------------------------------------------------------------------------------------------------------------------

/** `a.b.0` or, for names with dots, a JSON pointer (RFC 6901) such as `/a.b/c`. */
export function pathOf(key: string): readonly string[] {
  const path = key.startsWith("/")
    ? key
        .slice(1)
        .split("/")
        .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"))
    : key.split(".");
  if (path.some((part) => part === "" || part === "__proto__"))
    throw new FormatError(`"${key}" is no path; write it like a.b.c or /a/b/c`);
  return path;
}

function parseYaml(text: string): Document.Parsed {
  const documents = parseAllDocuments(text, { uniqueKeys: true, keepSourceTokens: false });
  const [document, second] = documents;
  if (document === undefined) return parseDocument("{}\n");
  if (second !== undefined)
    throw new FormatError(
      "the file holds several YAML documents; which one is meant cannot be told",
      second.range[0] === undefined ? undefined : lineAt(text, second.range[0]),
    );
  const [error] = document.errors;
  if (error !== undefined) throw new FormatError(`this is not YAML (${error.code})`, lineAt(text, error.pos[0]));
  return document;
}
/** The scalar at the path. Throws where there is something that cannot be changed without changing something else. */
function scalarAt(text: string, document: Document.Parsed, key: string): Scalar | undefined {
  const path = pathOf(key);
  let node: unknown = document.contents;
  for (const part of path) {
    if (node === null || node === undefined) return undefined;
    if (isAlias(node)) throw new FormatError(`${key} leads through an alias; give it a value of its own`);
    if (!isCollection(node)) throw new FormatError(`${key} leads through a value that is no mapping or list`);
    if (isSeq(node) && !/^\d+$/.test(part)) throw new FormatError(`${key} needs a number where the list is`);
    node = node.get(/^\d+$/.test(part) && "items" in node && !node.has(part) ? Number(part) : part, true);
  }
  if (node === null || node === undefined) return undefined;
  if (isAlias(node)) throw new FormatError(`${key} is an alias; give it a value of its own`);
  if (!isScalar(node)) throw new FormatError(`${key} is a mapping or a list, not a value`);
  const line = node.range ? lineAt(text, node.range[0]) : undefined;
  if (node.anchor !== undefined)
    throw new FormatError(`${key} has an anchor, so that changing it would change its aliases too`, line);
  if (node.tag !== undefined && node.tag !== "tag:yaml.org,2002:str")
    throw new FormatError(`${key} has the tag ${node.tag}, which Keyroll does not know`, line);
  if (node.value !== null && typeof node.value !== "string")
    throw new FormatError(`${key} is not text; put it in quotes`, line);
  return node;
}
const yaml: Format = {
  read: (text, key) => {
    const value = scalarAt(text, parseYaml(text), key)?.value;
    return typeof value === "string" ? value : undefined;
  },
  write: (text, key, value) => {
    const document = parseYaml(text);
    const node = scalarAt(text, document, key);
    let changed: string | undefined;
    const range = node?.range;
    if (range && node?.value !== null) {
      // Only the scalar's own characters are replaced, so that layout and comments stay to the byte.
      const block = node?.type === "BLOCK_LITERAL" || node?.type === "BLOCK_FOLDED";
      const keepsSingle = node?.type === "QUOTE_SINGLE" && !/[\r\n]/.test(value);
      const written = keepsSingle
        ? `'${value.replaceAll("'", "''")}'`
        : plainYaml(value, node?.type === "PLAIN")
          ? value
          : JSON.stringify(value);
      changed = text.slice(0, range[0]) + written + (block ? "\n" : "") + text.slice(range[1]);
    }
    if (changed === undefined) {
      try {
        document.setIn(
          pathOf(key).map((part) => (/^\d+$/.test(part) ? Number(part) : part)),
          value,
        );
        changed = document.toString({ lineWidth: 0 });
      } catch (error) {
        if (error instanceof FormatError) throw error;
        // The library's message may quote the document.
        throw new FormatError(`${key} cannot be added: what is there is no mapping, or has an alias without an anchor`);
      }
    }
    return changed;
  },
};
function plainYaml(value: string, wasPlain: boolean): boolean {
  if (!wasPlain || !/^[A-Za-z_][A-Za-z0-9_./+~^-]*$/.test(value)) return false;
  // `yes`, `null` and their kind are text only in quotes, and to YAML 1.1 readers more words are.
  return !/^(y|n|yes|no|true|false|on|off|null|nan|inf)$/i.test(value);
}

/** Finds a value's own characters in text that JSON.parse has accepted. */
function jsonRange(text: string, path: readonly string[]): { start: number; end: number } | undefined {
  let at = 0;
  const space = (): void => {
    while (/[\s\uFEFF]/.test(text[at] ?? "")) at++;
  };
  const stringEnd = (): number => {
    let end = at + 1;
    while (text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
    return end + 1;
  };
  /** Moves past one value without looking into it. */
  const skip = (): void => {
    let depth = 0;
    do {
      space();
      const one = text[at] ?? "";
      if (one === '"') at = stringEnd();
      else if (/[{}[\],:]/.test(one)) {
        depth += "{[".includes(one) ? 1 : "}]".includes(one) ? -1 : 0;
        at++;
      } else while (at < text.length && !/[\s,\]}]/.test(text[at] ?? "")) at++;
    } while (depth > 0 && at < text.length);
  };
  for (const part of path) {
    space();
    const open = text[at];
    if (open !== "{" && open !== "[") return undefined;
    at++;
    let reached = false;
    for (let index = 0; !reached; index++) {
      space();
      if (text[at] === "}" || text[at] === "]") return undefined;
      let name = String(index);
      if (open === "{") {
        const end = stringEnd();
        name = String(JSON.parse(text.slice(at, end)));
        at = end;
        space();
        at++;
        space();
      }
      if (name === part) reached = true;
      else {
        skip();
        space();
        if (text[at] === ",") at++;
      }
    }
  }
  space();
  const start = at;
  skip();
  return { start, end: at };
}
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ""));
  } catch (error) {
    // Node's message quotes the text around the mistake, which may be a secret; only the position is taken from it.
    const position = /position (\d+)/.exec(error instanceof Error ? error.message : "")?.[1];
    throw new FormatError("this is not JSON", position === undefined ? undefined : lineAt(text, Number(position)));
  }
}
const json: Format = {
  read: (text, key) => {
    if (text.trim() === "") return undefined;
    let node: unknown = parseJson(text);
    for (const part of pathOf(key)) {
      if (typeof node !== "object" || node === null)
        throw new FormatError(`${key} leads through a value that is no object or list`);
      if (!Object.hasOwn(node, part)) return undefined;
      node = Reflect.get(node, part);
    }
    if (node === null) return undefined;
    if (typeof node !== "string") throw new FormatError(`${key} is not text; put it in quotes`);
    return node;
  },
  write: (text, key, value) => {
    const path = pathOf(key);
    const root = text.trim() === "" ? {} : parseJson(text);
    const range = text.trim() === "" ? undefined : jsonRange(text, path);
    if (range !== undefined) return text.slice(0, range.start) + JSON.stringify(value) + text.slice(range.end);
    let node: unknown = root;
    for (const [index, part] of path.entries()) {
      if (typeof node !== "object" || node === null)
        throw new FormatError(`${key} leads through a value that is no object or list`);
      if (Array.isArray(node) && !/^\d+$/.test(part)) throw new FormatError(`${key} needs a number where the list is`);
      if (index === path.length - 1) Reflect.set(node, part, value);
      else if (!Object.hasOwn(node, part)) Reflect.set(node, part, {});
      node = Reflect.get(node, part);
    }
    const indent = /\n([ \t]+)"/.exec(text)?.[1] ?? "  ";
    return `${JSON.stringify(root, null, indent)}\n`;
  },
};

/** The whole file is the value. One line end at the end is not part of it, as editors and `echo` add it. */
const text: Format = {
  read: (content) => (content === "" ? undefined : content.replace(/\r?\n$/, "")),
  write: (content, _key, value) => value + (/\r?\n$/.exec(content)?.[0] ?? ""),
};

const all: Readonly<Record<FormatName, Format>> = { dotenv, ini, json, yaml, text };

/** The format, with a net under it: what was written is read back, for this key and for all the others, before anybody uses it. */
export function formatOf(name: FormatName): Format {
  const format = all[name];
  return {
    read: (content, key) => format.read(content, key),
    write: (content, key, value) => {
      const changed = format.write(content, key, value);
      const back = format.read(changed, key);
      if (back !== value) throw new FormatError(`${key} cannot be written so that it is read back the same`);
      return changed;
    },
  };
}

function endOfLine(content: string, at: number): number {
  const end = content.indexOf("\n", at);
  return end === -1 ? content.length : end;
}
function countLines(content: string, from: number, to: number): number {
  let count = 0;
  for (let at = content.indexOf("\n", from); at !== -1 && at < to; at = content.indexOf("\n", at + 1)) count++;
  return Math.max(count, 1);
}
function lineAt(content: string, offset: number): number {
  return content.slice(0, offset).split("\n").length;
}
function splice(content: string, found: Found, written: string): string {
  return content.slice(0, found.start) + written + content.slice(found.end);
}
/** What must come before an appended line, and the file's own line end. */
function endings(content: string): [string, string] {
  const newline = content.includes("\r\n") ? "\r\n" : "\n";
  return [content === "" || content.endsWith("\n") ? "" : newline, newline];
}
