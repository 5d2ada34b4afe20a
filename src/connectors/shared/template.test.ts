import { inspect } from "node:util";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import { matchTemplate, parseTemplate, partsOf, renderTemplate, TemplateError } from "./template.ts";
import type { Parts } from "./template.ts";

function parts(values: Readonly<Record<string, string>>): Parts {
  return new Map(Object.entries(values).map(([name, value]) => [name, new Secret(value)]));
}
function render(text: string, values: Readonly<Record<string, string>>): string {
  const result = renderTemplate(parseTemplate(text), parts(values));
  if (!(result instanceof Secret)) throw new Error(`missing ${result.missing}`);
  return result.reveal();
}
function match(template: string, text: string): Record<string, string> | undefined {
  const found = matchTemplate(parseTemplate(template), text);
  return found && Object.fromEntries([...found].map(([name, value]) => [name, value.reveal()]));
}

describe("a value from its parts", () => {
  test.each([
    ["${value}", "s3cret"],
    ["postgres://${user}:${password}@db/app", "postgres://app_a:s3cret@db/app"],
    ["x$${value}${value}", "x${value}s3cret"],
    ["$value $ $$ {value}", "$value $ $$ {value}"],
    ["", ""],
  ])("%s", (template, expected) =>
    expect(render(template, { value: "s3cret", password: "s3cret", user: "app_a" })).toBe(expected),
  );
  test("filters", () => {
    const value = `a:/?#[]@ %é"\\'!*()\n`;
    expect(render("${v|url}", { v: value })).toBe("a%3A%2F%3F%23%5B%5D%40%20%25%C3%A9%22%5C%27%21%2A%28%29%0A");
    expect(JSON.parse(`{"k":"${render("${v|json}", { v: value })}"}`)).toEqual({ k: value });
    expect(Buffer.from(render("${v|base64}", { v: value }), "base64").toString()).toBe(value);
  });
  test("a missing part is named, and the result does not print", () => {
    expect(renderTemplate(parseTemplate("${a}${b}"), parts({ a: "x" }))).toEqual({ missing: "b" });
    expect(inspect(renderTemplate(parseTemplate("x${a}"), parts({ a: "topsecret" })))).not.toContain("topsecret");
  });
  test.each(["${", "${}", "${a", "${a b}", "${1}", "${a|}", "${a|rot13}", "${a|url|url}"])("%s is refused", (text) => {
    expect(() => parseTemplate(`hidden${text}`)).toThrow(TemplateError);
    expect(() => parseTemplate(`hidden${text}`)).not.toThrow(/hidden/);
  });
});

describe("the parts from a value", () => {
  test.each([
    ["postgres://${user}:${password}@db/app", "postgres://u:p@ss@db/app", { user: "u", password: "p@ss" }],
    ["postgres://${user}:${password|url}@db/app", "postgres://u:p%40%3a@db/app", { user: "u", password: "p@:" }],
    ["postgres://${user|url}:${password}@db/app", "postgres://u:p:q@db/app", { user: "u", password: "p:q" }],
    ["${value}", "", { value: "" }],
    ["${a}-${a}", "x-x", { a: "x" }],
    ["fixed", "fixed", {}],
    ['{"p":"${p|json}"}', '{"p":"a\\"b"}', { p: 'a"b' }],
    ['{"p":"${p|json}"}', '{"p":"a"b"}', undefined],
    ["k=${p|base64};", "k=czNjcmV0;", { p: "s3cret" }],
    ["$${x}${value}", "${x}v", { value: "v" }],
  ])("%s from %s", (template, text, expected) => expect(match(template, text)).toEqual(expected));
  test.each([
    ["${user}:${password}", "a:b:c", "two readings"],
    ["${a}${b}", "ab", "nothing between"],
    ["${a}-${a}", "x-y", "not the same"],
    ["x${a}", "ya", "another beginning"],
    ["${a}x", "ay", "another end"],
    ["${a|url}", "%", "a stray percent sign"],
    ["${a|url}", "a@b", "not encoded"],
    ["${a|base64}", "YQ", "not padded"],
    ["fixed", "fixed ", "more text"],
    ["aba${x}aba", "abab", "overlapping ends"],
  ])("%s from %s: %s", (template, text) => expect(match(template, text)).toBeUndefined());

  const literal = fc.string({ unit: fc.constantFrom("a", "b", ":", "@", "/", "$$", " "), maxLength: 3 });
  const filter = fc.constantFrom("", "|url", "|json", "|base64");
  const value = fc.oneof(
    fc.string({ unit: fc.constantFrom("a", "b", ":", "@", "/", '"', "%", "é"), maxLength: 4 }),
    fc.string({ maxLength: 6 }),
  );
  test("what was rendered is read back as it was, or not at all; and there is no other reading", () => {
    fc.assert(
      fc.property(
        literal,
        fc.array(fc.tuple(filter, literal), { maxLength: 3 }),
        fc.array(value, { minLength: 3, maxLength: 3 }),
        (first, uses, values) => {
          const names = ["p", "q", "r"];
          const template = first + uses.map(([each, after], index) => `\${${names[index]}${each}}${after}`).join("");
          const given = Object.fromEntries(uses.map((_, index) => [names[index], values[index] ?? ""]));
          let text: string;
          try {
            text = render(template, given);
          } catch (error) {
            // A lone surrogate has no percent-encoding, and `$$` before a part is an escape.
            if (error instanceof URIError || /missing/.test(String(error))) return;
            throw error;
          }
          const parsed = parseTemplate(template);
          if (parsed.uses.length !== uses.length) return;
          const found = match(template, text);
          const readings = allReadings(parsed.literals, text).filter((cuts) =>
            cuts.every((cut, index) => plausible(cut, parsed.uses[index]?.filter ?? "none")),
          );
          if (found === undefined) expect(readings.length === 1 && uses.every(([each]) => each === "")).toBe(false);
          else {
            expect(render(template, found)).toBe(text);
            if (uses.every(([each]) => each === "")) expect(readings).toHaveLength(1);
            expect(found).toEqual(given);
          }
        },
      ),
      { numRuns: 500 },
    );
  });
  /** Every way to cut the text, tried one by one. */
  function allReadings(literals: readonly string[], text: string): string[][] {
    const [first = "", ...rest] = literals;
    const go = (at: number, index: number): string[][] => {
      const after = rest[index];
      if (after === undefined) return at === text.length ? [[]] : [];
      const found: string[][] = [];
      for (let end = at; end <= text.length; end++) {
        if (text.startsWith(after, end))
          for (const more of go(end + after.length, index + 1)) found.push([text.slice(at, end), ...more]);
      }
      return found;
    };
    return text.startsWith(first) ? go(first.length, 0) : [];
  }
  function plausible(cut: string, filter: string): boolean {
    return filter === "none" || !/[:/@]/.test(cut);
  }

  test("hostile text takes no longer than its length", () => {
    const text = "a".repeat(60_000);
    expect(match("${p}a${q}a${r}a${s}b", text)).toBeUndefined();
    expect(match("${p}a${q}a${r}", text)).toBeUndefined();
    expect(match("${p}", "x".repeat(70_000))).toBeUndefined();
  });
});

test("the parts that a version offers", async () => {
  const handle = (material: Awaited<ReturnType<VersionHandle["open"]>>): VersionHandle => ({
    id: "app#3",
    facts: { fingerprint: "aa", attributes: { user: "old", password: "not this", id: "nor this" } },
    placement: { attributes: { user: "app_b" } },
    hasMaterial: true,
    open: async () => material,
  });
  const shown = async (version: VersionHandle) =>
    Object.fromEntries([...(await partsOf(version))].map(([name, each]) => [name, each.reveal()]));
  expect(await shown(handle({ kind: "secret", value: new Secret("s") }))).toEqual({
    user: "app_b",
    id: "app#3",
    value: "s",
    password: "s",
    secret: "s",
  });
  expect(
    await shown(handle({ kind: "key", privateKey: new Secret("k"), certificates: ["leaf\n", "ca\n"] })),
  ).toMatchObject({ privateKey: "k", certificate: "leaf\n", chain: "leaf\nca\n" });
});
