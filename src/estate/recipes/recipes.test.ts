import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { shippedRegistry } from "../../connectors/registry.ts";
import { EstateError } from "../problem.ts";
import { loadEstate } from "../load.ts";
import { jsonSchema, jsonSchemaOf } from "../json-schema.ts";
import { recipes } from "./all.ts";

const system = `
systems:
  tenant:
    type: microsoft
    tenant: contoso.onmicrosoft.com
    subscription: 11111111-2222-3333-4444-555555555555
    auth: { method: client-secret, clientId: 11111111-2222-3333-4444-555555555555, clientSecret: "\${env:SECRET}" }
`;
async function load(credentials: string) {
  const text = `version: 1\ndefaults: { owner: team }\n${system}\ncredentials:\n${credentials}`;
  return loadEstate("/estate/keyroll.yaml", {
    registry: shippedRegistry(),
    env: { SECRET: "a-client-secret-of-the-test" },
    files: {
      read: async (path) => {
        if (path !== "/estate/keyroll.yaml") throw Object.assign(new Error("none"), { code: "ENOENT" });
        return new TextEncoder().encode(text);
      },
    },
  });
}
async function problems(credentials: string): Promise<string[]> {
  const error = await load(credentials).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(EstateError);
  return error instanceof EstateError ? error.problems.map((one) => `${one.line} ${one.path} ${one.text}`) : [];
}
const appId = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
const assist = `  pa: { use: provision-assist, system: tenant, appId: ${appId}, resourceGroup: rg-pa, vault: pa-kv }\n`;

describe("recipes", () => {
  it("provision-assist is one credential with every consumer, the second API connection included", async () => {
    const { estate } = await load(assist);
    expect(estate.credentials.map((one) => one.name)).toEqual(["pa"]);
    const [credential] = estate.credentials;
    expect(credential?.issuer).toMatchObject({
      type: "entra.password",
      place: "application",
      traits: { minting: "theirs", issuingTrusts: true },
    });
    expect(credential?.places.map((one) => [one.name, one.type, one.presentsTo])).toEqual([
      ["application", "entra.password", []],
      ["vault", "key-vault.secret", ["application"]],
      ["provisionassist-kv", "api-connection", ["application"]],
      ["provisionassist-automation", "api-connection", ["application"]],
      ["runbooks", "automation.variable", ["application"]],
    ]);
    expect(credential?.places.at(-1)?.traits.refreshMs).toBe(3 * 3_600_000);
  });

  it("connected-spaces is a secret and a certificate", async () => {
    const { estate } = await load(
      `  spaces: { use: connected-spaces, system: tenant, vault: cs-kv, owner: facilities }\n`,
    );
    expect(estate.credentials.map((one) => [one.name, one.kind, one.owner])).toEqual([
      ["spaces-secret", "secret", "facilities"],
      ["spaces-certificate", "certificate", "facilities"],
    ]);
    for (const credential of estate.credentials) expect(credential.policy.rotateBeforeMs).toBe(180 * 86_400_000);
  });

  it("what it expands to, written out, is the same estate", async () => {
    const used = await load(assist + `  spaces: { use: connected-spaces, system: tenant, vault: cs-kv }\n`);
    const body = used.expanded.replace(/^credentials:\n/, "");
    const written = await load(body);
    expect(written.estate.digest).toBe(used.estate.digest);
    expect(used.expanded).not.toContain("a-client-secret-of-the-test");
  });

  it("every part can be overridden: a setting, a place more, a place less, the policy", async () => {
    const { estate } = await load(`  pa:
    use: provision-assist
    system: tenant
    appId: ${appId}
    resourceGroup: rg-pa
    vault: pa-kv
    override:
      secret:
        policy: { soak: 0, approvals: { retire: 1 } }
        places:
          vault: { refresh: 1m }
          provisionassist-automation:
          script: { type: file.value, holder: true, presentsTo: [application], path: ./script.env, format: dotenv, keys: { secret: SECRET } }
`);
    const places = new Map(estate.credentials[0]?.places.map((one) => [one.name, one]));
    expect([...places.keys()]).toEqual(["application", "vault", "provisionassist-kv", "runbooks", "script"]);
    expect(places.get("vault")?.traits.refreshMs).toBe(60_000);
    expect(estate.credentials[0]?.policy).toMatchObject({
      soakMs: 0,
      approvals: { retire: 1 },
      rotateBeforeMs: 30 * 86_400_000,
    });
  });

  it("says what is wrong, where it is", async () => {
    expect(await problems(`  pa: { use: provision-asist }\n`)).toEqual([
      `12 credentials.pa.use "provision-asist" is not a recipe; did you mean "provision-assist"?`,
    ]);
    const missing = await problems(`  pa: { use: provision-assist, system: tenant, valut: x }\n`);
    expect(missing.join("\n")).toMatch(/credentials\.pa\.resourceGroup/);
    expect(missing.join("\n")).toMatch(/credentials\.pa\.valut.*did you mean "vault"/);
    expect(await problems(assist.replace("tenant,", "tennant,"))).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/^12 credentials\.pa\.places\.application\.system "tennant" is not a system.*"tenant"/),
      ]),
    );
    expect((await problems(assist.replace(" }", ", override: { certificate: {} } }"))).join()).toContain(
      `is not a part of provision-assist`,
    );
    expect(
      (
        await problems(
          `  spaces: { use: connected-spaces, system: tenant, vault: cs-kv }\n  spaces-secret: { kind: secret, issuer: { type: random }, places: {} }\n`,
        )
      ).join(),
    ).toContain("is what the recipe under");
  });

  it("the schema for editors knows them", () => {
    const schema = jsonSchema(shippedRegistry()) as { definitions: Record<string, { required?: string[] }> };
    expect(schema.definitions["recipe.provision-assist"]?.required).toEqual(
      expect.arrayContaining(["use", "system", "resourceGroup", "vault"]),
    );
  });

  it.each(["connected-spaces", "provision-assist"])("the example on the page of %s is an estate", async (name) => {
    const page = readFileSync(join(import.meta.dirname, "../../../docs/recipes", `${name}.md`), "utf8");
    const example = /```yaml\n([\s\S]*?)```/.exec(page)?.[1] ?? "";
    const { estate } = await loadEstate("/estate/keyroll.yaml", {
      registry: shippedRegistry(),
      env: { KEYROLL_CLIENT_SECRET: "a-client-secret-of-the-test" },
      files: { read: async () => new TextEncoder().encode(`version: 1\ndefaults: { owner: team }\n${example}`) },
    });
    expect(estate.credentials.length).toBeGreaterThan(0);
    // Every value of the recipe is in the table.
    const values = Object.keys(jsonSchemaOf(recipes.find((one) => one.name === name)!.values)["properties"] as object);
    for (const value of values) expect(page, value).toContain(`\`${value}\``);
  });

  it("the expansion is YAML", async () => {
    const { expanded } = await load(assist);
    expect(Object.keys((parse(expanded) as { credentials: object }).credentials)).toEqual(["pa"]);
  });
});
