/**
 * Every operation of the OpenAPI document with what should never come: wrong types, missing and added fields, odd text, huge and deep bodies, ids
 * of nobody. The document itself says what is wrong about each, so that the two cannot drift apart. Never a 500, never a stack, never a change.
 */
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { OpenApi } from "../../src/server/openapi.ts";
import { problem } from "../../src/server/schema.ts";
import { canaries, openHarness, type Harness, type Someone } from "./harness.ts";

type Schema = Readonly<Record<string, unknown>>;
interface Operation {
  readonly operationId: string;
  readonly parameters?: readonly { name: string; in: string; required: boolean; schema: Schema }[];
  readonly requestBody?: { readonly content: { readonly "application/json": { readonly schema: Schema } } };
}

let h: Harness;
let root: Someone;
let stranger: Someone;
let document: OpenApi;
let operations: { readonly method: string; readonly path: string; readonly operation: Operation }[];
// `unicode` patterns of the schemas need the `u` flag, which ajv uses by itself.
const ajv = new Ajv2020({ strict: false, validateFormats: false, coerceTypes: true });

beforeAll(async () => {
  h = await openHarness();
  root = await h.admin();
  stranger = await h.someone("stranger", [["operator", "nobody's"]]);
  document = (await (await fetch(`${h.server.url}/api/openapi.json`)).json()) as OpenApi;
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      operation: operation as unknown as Operation,
    })),
  );
});
afterAll(() => h.stop());

const oddTexts = [
  "",
  "\u0000",
  "\ud800",
  "\u202eevil",
  "a\u2028b",
  "../../etc/passwd",
  "'; drop table keyroll.people; --",
  "%00%2e%2e",
  "${jndi:ldap://x}",
  "x".repeat(5000),
  "𝒳é\u0301\ufffd",
  "__proto__",
];
const oddValues: readonly unknown[] = [null, true, -1, 1e308, 0.5, [], {}, [[[[]]]], { $ne: null }, ...oddTexts];

function valid(schema: Schema): unknown {
  const any = schema as {
    type?: string | string[];
    enum?: unknown[];
    const?: unknown;
    properties?: Record<string, Schema>;
    required?: string[];
    items?: Schema;
    minItems?: number;
    pattern?: string;
    minimum?: number;
    default?: unknown;
  };
  if (any.default !== undefined) return any.default;
  if (any.const !== undefined) return any.const;
  if (any.enum !== undefined) return any.enum[0];
  const type = Array.isArray(any.type) ? any.type[0] : any.type;
  if (type === "object")
    return Object.fromEntries((any.required ?? []).map((key) => [key, valid(any.properties![key]!)]));
  if (type === "array") return any.items === undefined ? [] : [valid(any.items)];
  if (type === "integer" || type === "number") return Math.max(1, any.minimum ?? 1);
  if (type === "boolean") return true;
  return any.pattern?.includes("{64}") === true ? "0".repeat(64) : "nobody";
}

/** Bodies that the schema itself says are wrong. */
function wrongBodies(schema: Schema): unknown[] {
  const good = valid(schema) as Record<string, unknown>;
  const properties = Object.keys((schema as { properties?: object }).properties ?? {});
  const made: unknown[] = [
    ...oddValues.filter((value) => typeof value !== "object" || value === null || Array.isArray(value)),
    { ...good, unknownField: 1 },
    JSON.parse('{"__proto__":{"admin":true}}'),
    { ...good, constructor: { prototype: {} } },
    ...properties.flatMap((key) => oddValues.map((value) => ({ ...good, [key]: value }))),
    ...Object.keys(good).map((key) => Object.fromEntries(Object.entries(good).filter(([other]) => other !== key))),
  ];
  const strict = new Ajv2020({ strict: false, validateFormats: false });
  const check = strict.compile(schema);
  return made.filter((body) => !check(structuredClone(body)));
}

/** Everything that a request could have changed. */
async function state(): Promise<string> {
  const tables = [
    "rotations",
    "tasks",
    "approvals",
    "people",
    "api_tokens",
    "sign_in_codes",
    "journal",
    "versions",
    "settings",
  ];
  const counts = await Promise.all(
    tables.map(
      async (table) =>
        (
          await h.store.sql(
            `select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) as sum from keyroll.${table} t`,
          )
        )[0],
    ),
  );
  return JSON.stringify(counts);
}

async function refused(answer: Response, about: string, statuses: readonly number[]): Promise<void> {
  if (answer.headers.get("content-type")?.startsWith("text/event-stream") === true) {
    // It has no end.
    await answer.body?.cancel();
    throw new Error(`${about}: it was let in`);
  }
  const text = await answer.text();
  const where = `${about}: ${answer.status} ${text.slice(0, 300)}`;
  expect(statuses, where).toContain(answer.status);
  expect(answer.headers.get("content-type"), where).toContain("application/problem+json");
  problem.parse(JSON.parse(text));
  expect(text, where).not.toMatch(/node_modules|\.ts:\d|at \w+ \(|select |insert /);
  for (const canary of canaries) expect(text).not.toContain(canary);
}

describe("bad input", { timeout: 120_000 }, () => {
  test("bodies that the document forbids", async () => {
    const before = await state();
    let sent = 0;
    for (const { method, path, operation } of operations) {
      const schema = operation.requestBody?.content["application/json"].schema;
      if (schema === undefined) continue;
      const url = path.replace(/\{\w+\}/g, path.includes("credentials") ? "token" : "nobody");
      for (const body of wrongBodies(schema)) {
        const answer = await root.fetch(url, {
          method,
          headers: { "content-type": "application/json" },
          body: JSON.stringify(body),
        });
        await refused(answer, `${operation.operationId} ${JSON.stringify(body)?.slice(0, 100)}`, [400]);
        sent++;
      }
    }
    expect(sent).toBeGreaterThan(500);
    expect(await state()).toBe(before);
  });

  test("bodies that are no bodies", async () => {
    const before = await state();
    const json = { "content-type": "application/json" };
    const deep = `${'{"a":'.repeat(5000)}1${"}".repeat(5000)}`;
    const bodies: readonly [string, string | Uint8Array<ArrayBuffer>, Record<string, string>, number][] = [
      ["not JSON", "{", json, 400],
      ["not JSON either", "undefined", json, 400],
      ["deep", deep, json, 400],
      ["deep arrays", "[".repeat(500_000), json, 400],
      ["not UTF-8", new Uint8Array([0x22, 0xff, 0xfe, 0x22]), json, 400],
      ["huge", `{"comment":"${"x".repeat(2_000_000)}"}`, json, 413],
      ["a form", "comment=x", { "content-type": "application/x-www-form-urlencoded" }, 415],
      ["text", "{}", { "content-type": "text/plain" }, 415],
      ["almost JSON", "{}", { "content-type": "application/jsonp" }, 415],
    ];
    for (const { method, path, operation } of operations.filter((each) => each.operation.requestBody !== undefined)) {
      const url = path.replace(/\{\w+\}/g, "token");
      for (const [what, body, headers, status] of bodies)
        await refused(await root.fetch(url, { method, headers, body }), `${operation.operationId} ${what}`, [status]);
    }
    // Without a length, in pieces.
    const endless = new ReadableStream({
      pull(controller) {
        controller.enqueue(new TextEncoder().encode(" ".repeat(65_536)));
      },
    });
    const answer = await root
      .fetch("/api/v1/doctor", { method: "POST", headers: json, body: endless, duplex: "half" } as RequestInit & {
        headers: Record<string, string>;
      })
      .catch(() => null);
    // It may stop reading before the answer is taken; either way it does not go on for ever.
    if (answer !== null) expect(answer.status).toBe(413);
    expect(await state()).toBe(before);
  });

  test("paths and queries", async () => {
    const before = await state();
    for (const { method, path, operation } of operations) {
      if (method === "DELETE" && path === "/api/v1/session") continue;
      for (const odd of oddTexts.filter((text) => text !== "" && text.isWellFormed())) {
        if (!path.includes("{")) continue;
        const url = path.replace(/\{\w+\}/g, encodeURIComponent(odd));
        const schema = operation.requestBody?.content["application/json"].schema;
        const answer = await root.fetch(url, {
          method,
          ...(schema === undefined
            ? {}
            : { headers: { "content-type": "application/json" }, body: JSON.stringify(valid(schema)) }),
        });
        await refused(answer, `${operation.operationId} ${JSON.stringify(odd).slice(0, 40)}`, [400, 404]);
      }
      if (method !== "GET") continue;
      const url = path.replace(/\{\w+\}/g, "token");
      const queries = (operation.parameters ?? []).filter((each) => each.in === "query");
      const wrong = queries.flatMap(({ name, schema }) => {
        const check = ajv.compile({ type: "object", properties: { value: schema } });
        return [...oddTexts, "-1", "1e9", "NaN", "[]"]
          .filter((text) => text !== "" && text.isWellFormed() && !check({ value: text }))
          .map((text) => `${name}=${encodeURIComponent(text)}`);
      });
      for (const query of [
        ...wrong,
        "unknown=1",
        "limit=1&limit=2",
        "cursor=%ff%fe",
        "cursor=bm9uc2Vuc2U",
        "__proto__=1",
      ]) {
        const answer = await root.fetch(`${url}?${query}`);
        await refused(answer, `${operation.operationId} ?${query.slice(0, 80)}`, [400, 404]);
      }
    }
    for (const path of [
      "/api/v1/credentials/%",
      "/api/v1/credentials/%ff",
      "/api/v1//credentials",
      "/api/v1/credentials/a/b/c",
    ])
      await refused(await root.fetch(path, { headers: { accept: "application/json" } }), path, [400, 404]);
    expect(await state()).toBe(before);
  });

  test("well-formed requests about what belongs to others, or to nobody", async () => {
    const before = await state();
    for (const { method, path, operation } of operations) {
      if (!path.includes("{")) continue;
      const schema = operation.requestBody?.content["application/json"].schema;
      const init = {
        method,
        ...(schema === undefined
          ? {}
          : { headers: { "content-type": "application/json" }, body: JSON.stringify(valid(schema)) }),
      };
      for (const id of ["token", "nobody"]) {
        const answer = await stranger.fetch(path.replace(/\{\w+\}/g, id), init);
        await refused(answer, `${operation.operationId} ${id}`, path.includes("people") ? [403] : [404]);
      }
    }
    expect(await state()).toBe(before);
  });

  test("the document is whole: every reference leads somewhere, every schema compiles", () => {
    expect(operations.length).toBeGreaterThan(30);
    const text = JSON.stringify(document);
    for (const [, name] of text.matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g))
      expect(document.components["schemas"]).toHaveProperty(name!);
    for (const { operation } of operations) {
      const { responses } = operation as unknown as {
        responses: { "200": { content: Record<string, { schema: Schema }> } };
      };
      for (const { schema } of Object.values(responses["200"].content)) ajv.compile(schema);
    }
  });
});
