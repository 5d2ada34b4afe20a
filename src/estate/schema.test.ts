import { readFile } from "node:fs/promises";
import { Ajv } from "ajv";
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { definePlace } from "../connectors/connector.ts";
import {
  createRegistry,
  issuerConnector,
  placeConnector,
  shippedRegistry,
  systemType,
} from "../connectors/registry.ts";
import { plainTraits } from "../core/place.ts";
import { parse } from "yaml";
import { loadText, problemsOf, testRegistry } from "./fakes.ts";
import { jsonSchema, jsonSchemaOf, properties } from "./json-schema.ts";
import { issuerCommon, placeCommon, systemCommon } from "./schema.ts";
import { starterEstate, wholeStarterEstate } from "./starter.ts";
import { loadEstate } from "./load.ts";
import { memoryFiles } from "./fakes.ts";

function validator(registry = testRegistry) {
  const ajv = new Ajv({ allErrors: true, strict: false });
  const schema = jsonSchema(registry);
  expect(ajv.validateSchema(schema)).toBe(true);
  const validate = ajv.compile(schema);
  return (text: string): string[] => {
    validate(parse(text));
    return (validate.errors ?? []).map((error) => `${error.instancePath} ${error.message}`);
  };
}

const good = `
version: 1
include: a.yaml
defaults: { owner: me, labels: { a: 1 }, policy: { soak: 1h30m, maxAge: never } }
settings: { requestLife: 1m }
systems:
  pg: { type: db, url: "\${env:U:-db://x}", port: "\${env:P:-1}", tls: false, signIn: c }
  m: { type: model }
credentials:
  c:
    kind: password
    issuer: { type: random, length: "\${env:L:-40}" }
    places:
      role: { type: db.role, system: pg, verifier: true, owner: app, roles: [a], propagation: 0 }
      env: { type: file, holder: true, presentsTo: role, path: x, format: "\${env:F:-json}", refresh: P1D }
      w: { type: watch, socket: /run/x }
      m: { type: model, verifier: true, capacity: 2, change: 10m, transitions: [serial] }
      k: { credential: d, presentsTo: [role] }
    data: { rows: { writtenUnder: env, readBy: [role, m], takes: 3d } }
    policy: { rotateBefore: 30d, windows: [daily 01:00-02:00], approvals: { retire: 2 }, notify: [a, b] }
  d: { kind: key, issuer: { type: random }, places: { h: { type: model, holder: true } }, policy: { maxAge: 90d } }
`;

describe("the JSON Schema", () => {
  const errors = validator();
  test("takes what the loader takes", async () => {
    expect(errors(good)).toEqual([]);
    expect(await problemsOf({ "keyroll.yaml": good, "a.yaml": "version: 1\n" })).toEqual([]);
    for (const starter of [starterEstate]) expect(errors(starter)).toEqual([]);
  });
  test.each([
    ["an unknown key", good.replace("include:", "inclde:"), "must NOT have additional properties"],
    [
      "a connector's unknown key",
      good.replace("owner: app", "ownr: app"),
      "/credentials/c/places/role must NOT have additional properties",
    ],
    [
      "a dropping connector's unknown key",
      good.replace("path: x", "path: x, pth: y"),
      "/credentials/c/places/env must NOT have additional properties",
    ],
    [
      "a branch's unknown key",
      good.replace("socket:", "sockt:"),
      "/credentials/c/places/w must NOT have additional properties",
    ],
    [
      "an unknown type",
      good.replace("type: random,", "type: randm,"),
      "/credentials/c/issuer/type must be equal to constant",
    ],
    [
      "no type for a system",
      good.replace("m: { type: model }", "m: {}"),
      "/systems/m must have required property 'type'",
    ],
    [
      "a connector's missing key",
      good.replace("path: x, ", ""),
      "/credentials/c/places/env must have required property 'path'",
    ],
    [
      "a number without a unit",
      good.replace("refresh: P1D", "refresh: 5"),
      "/credentials/c/places/env/refresh must match a schema in anyOf",
    ],
    ["a wrong number", good.replace('"${env:P:-1}"', '"1"'), "/systems/pg/port must match pattern"],
    [
      "a trait at a connector",
      good.replace("owner: app", "capacity: 3"),
      "/credentials/c/places/role must NOT have additional properties",
    ],
    [
      "a wrong kind",
      good.replace("kind: key", "kind: kee"),
      "/credentials/d/kind must be equal to one of the allowed values",
    ],
    ["a bad name", good.replace("  d: {", '  "d#1": {'), "/credentials property name must be valid"],
    [
      "a place that is another credential, with settings",
      good.replace("credential: d,", "credential: d, path: x,"),
      "/credentials/c/places/k must NOT have additional properties",
    ],
  ])("refuses %s, as the loader does", async (_, text, expected) => {
    expect(errors(text).join("\n")).toContain(expected);
    expect(await problemsOf({ "keyroll.yaml": text, "a.yaml": "version: 1\n" })).not.toEqual([]);
  });
  test("says what editors show: descriptions, choices, defaults", () => {
    const schema = jsonSchema(testRegistry) as {
      definitions: Record<string, { allOf: { then: { properties: Record<string, unknown> } }[]; properties: unknown }>;
    };
    expect(schema.definitions["place"]?.properties).toMatchObject({
      type: { anyOf: [{ const: "db.role", description: "Login roles" }, {}, {}, {}, {}, { const: "model" }] },
    });
    expect(schema.definitions["place"]?.allOf[0]?.then.properties).toMatchObject({
      roles: { description: "The login roles." },
      refresh: { description: expect.stringContaining("re-read") as string },
    });
    expect(schema.definitions["system"]?.allOf[0]?.then.properties["port"]).toMatchObject({
      description: "TCP port.",
      anyOf: [{ type: "integer" }, { type: "string" }],
    });
  });
  test("a connector whose settings contain themselves keeps its references", () => {
    interface Rule {
      name: string;
      also?: Rule[] | undefined;
    }
    const rule: z.ZodType<Rule> = z.lazy(() => z.strictObject({ name: z.string(), also: z.array(rule).optional() }));
    const nested = definePlace({
      family: "place",
      type: "nested",
      title: "Nested",
      roles: ["holder"],
      config: z.strictObject({ rule }),
      permissions: [],
      traits: () => plainTraits,
      open: () => ({ observe: () => Promise.reject(new Error("unused")) }),
    });
    const check = validator(createRegistry({ places: [nested] }));
    const text = (inner: string) =>
      `version: 1\ncredentials: { c: { kind: key, owner: me, issuer: { type: model }, places: { p: { type: nested, rule: ${inner} } } } }`;
    expect(check(text("{ name: a, also: [{ name: b }] }"))).toEqual([]);
    expect(check(text("{ name: a, also: [{ nme: b }] }")).join()).toContain("must have required property 'name'");
  });
});

describe("the registry", () => {
  test("finds by type, refuses doubles and systems that are not there", () => {
    expect(testRegistry.placeConnector("db.role")?.title).toBe("Login roles");
    expect([
      testRegistry.placeConnector("random"),
      testRegistry.issuerConnector("random")?.type,
      testRegistry.systemType("toString"),
    ]).toEqual([undefined, "random", undefined]);
    const [first] = testRegistry.places;
    expect(first).toBeDefined();
    if (first === undefined) return;
    expect(() => createRegistry({ places: [first, first], systems: testRegistry.systems })).toThrow(
      "Two place connectors are called db.role.",
    );
    expect(() => createRegistry({ places: [first] })).toThrow("needs the system type db");
  });
  test("what ships has whole schemas, and no setting that the estate takes for itself", () => {
    const registry = shippedRegistry();
    expect(new Ajv({ strict: false }).validateSchema(jsonSchema(registry))).toBe(true);
    const reserved = (common: z.ZodObject, allowed: readonly string[] = []) =>
      Object.keys(common.shape).filter((key) => !allowed.includes(key));
    for (const [connectors, keys] of [
      [registry.places, reserved(placeCommon)],
      // A CA connector must be able to tell a signer in the estate from one in a file.
      [registry.issuers, reserved(issuerCommon, ["ca"])],
      [registry.systems, reserved(systemCommon)],
    ] as const) {
      for (const connector of connectors) {
        const own = Object.keys(properties(jsonSchemaOf(connector.config)));
        expect([connector.type, own.filter((key) => keys.includes(key))]).toEqual([connector.type, []]);
        if ("paths" in connector)
          for (const path of connector.paths ?? [])
            expect(own, `${connector.type} ${path}`).toContain(path.split(".")[0]);
      }
    }
    for (const each of registry.places) expect(placeConnector(each.type)).toBe(each);
    for (const each of registry.issuers) expect(issuerConnector(each.type)).toBe(each);
    for (const each of registry.systems) expect(systemType(each.type)).toBe(each);
  });
});

describe("the starter", () => {
  test("loads as it is, without any connector, and has nothing to say against itself", async () => {
    const { estate, notes } = await loadEstate("/estate/keyroll.yaml", {
      registry: createRegistry({}),
      env: {},
      files: memoryFiles({ "keyroll.yaml": starterEstate }),
    });
    expect(estate.credentials.map((each) => each.name)).toEqual(["example"]);
    expect(notes).toEqual([]);
  });
  test("loads with everything uncommented", async (context) => {
    const registry = shippedRegistry();
    const missing = ["postgres.role", "file.value", "file.certificate", "tls.endpoint"].filter(
      (type) => registry.placeConnector(type) === undefined,
    );
    if (missing.length > 0) context.skip(`not registered yet: ${missing.join(", ")}`);
    const { estate, notes } = await loadEstate("/estate/keyroll.yaml", {
      registry,
      env: { APP_DATABASE_ADMIN_URL: "postgres://admin:x@localhost/app" },
      files: memoryFiles({ "keyroll.yaml": wholeStarterEstate }),
    });
    expect(estate.credentials.map((each) => each.name)).toEqual(["example", "app-db-password", "web-ca", "web"]);
    expect(notes).toEqual([]);
    expect(validator(registry)(wholeStarterEstate)).toEqual([]);
  });
});

test("loading is what the schema says: the example of a whole estate", async () => {
  const { estate } = await loadText({ "keyroll.yaml": good, "a.yaml": "version: 1\n" });
  expect(estate.credentials[0]?.issuer.config).toEqual({ length: 40 });
});

test("the examples of the reference are true", async (context) => {
  const registry = shippedRegistry();
  const missing = ["postgres.role", "file.value", "file.certificate"].filter(
    (type) => registry.placeConnector(type) === undefined,
  );
  if (missing.length > 0) context.skip(`not registered yet: ${missing.join(", ")}`);
  const page = await readFile(new URL("../../docs/estate.md", import.meta.url), "utf8");
  const blocks = [...page.matchAll(/```yaml\n(.*?)```/gs)].map((match) => match[1] ?? "");
  const whole = blocks.filter((block) => block.includes("version: 1") || block.startsWith("credentials:"));
  expect(whole).toHaveLength(3);
  for (const block of whole) {
    const text = block.startsWith("version") ? block : `version: 1\ndefaults: { owner: me }\n${block}`;
    const files = memoryFiles({ "keyroll.yaml": text });
    const env = { APP_DATABASE_ADMIN_URL: "postgres://a:b@localhost/c" };
    const { estate } = await loadEstate("/estate/keyroll.yaml", { registry, env, files });
    expect(estate.credentials.length).toBeGreaterThan(0);
    expect(validator(registry)(text)).toEqual([]);
  }
});
