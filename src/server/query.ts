/** `q` of lists, and cursors: both come from outside, and a wrong one is told rather than guessed at. */
import { createHash } from "node:crypto";
import type { StatusItem } from "../app.ts";
import { parseDuration } from "../core/time.ts";
import { Fault } from "./fault.ts";
import { dueStates } from "./schema.ts";

/** What a filter looks at. */
export interface Searchable {
  readonly item: StatusItem;
  readonly places: readonly string[];
  readonly systems: readonly string[];
  readonly fingerprint: string | null;
}
export type Test = (row: Searchable, nowMs: number) => boolean;

const keys = ["kind", "owner", "state", "place", "system", "label", "due"] as const;
type Key = (typeof keys)[number];

const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();
const holds = (text: string, part: string): boolean => text.toLowerCase().includes(part.toLowerCase());

function wrong(part: string, next: string): Fault {
  return new Fault(400, "invalid", `"${part}" in the filter is not understood.`, {
    next,
    errors: [{ path: "query.q", detail: next }],
  });
}

const tests: Readonly<Record<Key, (value: string, part: string) => Test>> = {
  kind: (value) => {
    const kind = value === "cert" ? "certificate" : value;
    return ({ item }) => same(item.kind, kind);
  },
  owner:
    (value) =>
    ({ item }) =>
      same(item.owner, value),
  state: (value, part) => {
    const wanted = value.split(",");
    for (const each of wanted)
      if (!(dueStates as readonly string[]).includes(each))
        throw wrong(part, `Write state: with ${dueStates.join(", ")}.`);
    return ({ item }) => wanted.includes(item.due.state);
  },
  place:
    (value) =>
    ({ places }) =>
      places.some((place) => holds(place, value)),
  system:
    (value) =>
    ({ systems }) =>
      systems.some((system) => same(system, value)),
  label: (value) => {
    const at = value.indexOf("=");
    const name = at < 0 ? value : value.slice(0, at);
    return ({ item }) => {
      const found = Object.hasOwn(item.labels, name) ? item.labels[name] : undefined;
      return found !== undefined && (at < 0 || found === value.slice(at + 1));
    };
  },
  due: (value, part) => {
    const match = /^([<>])(.+)$/.exec(value);
    const parsed = match === null ? null : parseDuration(match[2]!);
    if (match === null || parsed === null || !("value" in parsed))
      throw wrong(part, "Write due: with < or > and a length, as in due:<35d.");
    const within = parsed.value;
    return ({ item }, nowMs) => {
      const at = item.due.startByMs ?? item.due.lastSafeStartMs ?? item.notAfterMs;
      if (at === null) return false;
      return match[1] === "<" ? at - nowMs < within : at - nowMs > within;
    };
  },
};

/** All parts must hold. `"two words"` and `owner:"two words"` keep blanks. */
export function parseQuery(q: string): readonly Test[] {
  const parts = q.match(/(?:[^\s"]+|"[^"]*")+/g) ?? [];
  return parts.map((part) => {
    const plain = part.replaceAll('"', "");
    const at = plain.indexOf(":");
    const key = plain.slice(0, at);
    if (at > 0 && (keys as readonly string[]).includes(key)) return tests[key as Key](plain.slice(at + 1), part);
    if (at > 0 && /^[a-z]+$/.test(key) && !part.startsWith('"'))
      throw wrong(part, `Filters are ${keys.map((each) => `${each}:`).join(", ")}; put other text into quotes.`);
    return ({ item, places, fingerprint }) =>
      holds(item.credential, plain) ||
      holds(item.owner, plain) ||
      places.some((place) => holds(place, plain)) ||
      (fingerprint !== null && plain.length >= 4 && fingerprint.startsWith(plain.toLowerCase()));
  });
}

// ---------------------------------------------------------------------------------------------------------------------------------------
// Cursors

export type Key1 = string | number | null;

const digestOf = (about: unknown): string =>
  createHash("sha256").update(JSON.stringify(about)).digest("base64url").slice(0, 12);

/** Where a page ended: the sort key and the name of its last row. Bound to its filter and order, so that it cannot be used with others. */
export function writeCursor(about: unknown, key: readonly Key1[]): string {
  return Buffer.from(JSON.stringify([digestOf(about), ...key])).toString("base64url");
}
export function readCursor(about: unknown, text: string | undefined, length: number): readonly Key1[] | null {
  if (text === undefined) return null;
  let value: unknown = null;
  try {
    value = JSON.parse(Buffer.from(text, "base64url").toString("utf8"));
  } catch {
    // Said below.
  }
  const fits =
    Array.isArray(value) &&
    value.length === length + 1 &&
    value.every((each) => each === null || typeof each === "string" || Number.isSafeInteger(each));
  if (!fits || (value as Key1[])[0] !== digestOf(about))
    throw new Fault(400, "invalid", "The cursor does not belong to this list, filter and order.", {
      next: "Begin with the first page: leave cursor out.",
      errors: [{ path: "query.cursor", detail: "not of this list, filter and order" }],
    });
  return (value as Key1[]).slice(1);
}

/** Nothing sorts last, whatever the direction: what has no date is never the most urgent. */
export function compareKeys(a: readonly Key1[], b: readonly Key1[], descending: boolean): number {
  for (let i = 0; i < a.length; i++) {
    const x = a[i] ?? null;
    const y = b[i] ?? null;
    if (x === y) continue;
    if (x === null) return 1;
    if (y === null) return -1;
    const order = x < y ? -1 : 1;
    // The name at the end always ascends.
    return descending && i < a.length - 1 ? -order : order;
  }
  return 0;
}

/** One page of rows that are sorted already. */
export function pageOf<T>(
  rows: readonly T[],
  keyOf: (row: T) => readonly Key1[],
  options: { about: unknown; cursor: string | undefined; limit: number; descending: boolean; keyLength: number },
): { readonly items: readonly T[]; readonly nextCursor: string | null; readonly total: number } {
  const after = readCursor(options.about, options.cursor, options.keyLength);
  let from = 0;
  if (after !== null) {
    // The row itself may be gone by now; the page begins behind where it stood.
    let high = rows.length;
    while (from < high) {
      const middle = (from + high) >> 1;
      if (compareKeys(keyOf(rows[middle]!), after, options.descending) <= 0) from = middle + 1;
      else high = middle;
    }
  }
  const items = rows.slice(from, from + options.limit);
  const last = items.at(-1);
  const more = from + items.length < rows.length;
  return {
    items,
    nextCursor: more && last !== undefined ? writeCursor(options.about, keyOf(last)) : null,
    total: rows.length,
  };
}
