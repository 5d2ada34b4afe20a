/**
 * Every kind of request that the Microsoft connectors send, against the contracts that Microsoft publishes: the operation exists, its parameters are
 * there and known, and the body has the contract's fields and types and no others.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { apiConnection } from "../../src/connectors/api-connection/connector.ts";
import { automationVariable } from "../../src/connectors/automation/connector.ts";
import { secretVersions, versionOf } from "../../src/connectors/connector.contract.ts";
import type { CallContext } from "../../src/connectors/connector.ts";
import { entraCertificate, entraPassword, entraPasswordIssuer } from "../../src/connectors/entra/connector.ts";
import {
  keyVaultCertificate,
  keyVaultCertificateIssuer,
  keyVaultSecret,
} from "../../src/connectors/key-vault/connector.ts";
import { rsaVersion, startLabBench } from "../support/microsoft.ts";
import type { LabBench, Sent } from "../support/microsoft.ts";
import { contractFiles, haveSpecs, specsFolder, whySkipped } from "./contract.ts";
import type { ContractName } from "./contract.ts";

type Node = Record<string, unknown>;
const nodeOf = (value: unknown): Node => (typeof value === "object" && value !== null ? (value as Node) : {});
const root = path.join(specsFolder, "arm-and-dataplane/specification");
const files = new Map<string, Node>();
function load(file: string): Node {
  const kept = files.get(file) ?? (JSON.parse(readFileSync(file, "utf8")) as Node);
  files.set(file, kept);
  return kept;
}
/** `null`: in a file that was not saved. */
function follow(file: string, node: Node): { file: string; node: Node } | null {
  const ref = node["$ref"];
  if (typeof ref !== "string") return { file, node };
  const [other = "", pointer = ""] = ref.split("#");
  const target = other === "" ? file : path.resolve(path.dirname(file), other);
  try {
    const found = pointer
      .split("/")
      .filter((part) => part !== "")
      .reduce<unknown>((at, part) => nodeOf(at)[part], load(target));
    return follow(target, nodeOf(found));
  } catch {
    return null;
  }
}
function unknownFields(file: string, schema: Node, value: unknown, at: string): string[] {
  const place = follow(file, schema);
  if (place === null || value === null) return [];
  const { node } = place;
  const type = node["type"];
  if (type === "array") {
    if (!Array.isArray(value)) return [`${at} is no array`];
    return value.flatMap((each, n) => unknownFields(place.file, nodeOf(node["items"]), each, `${at}[${n}]`));
  }
  if (type === "string" || type === "boolean") return typeof value === type ? [] : [`${at} is no ${type}`];
  if (type === "integer") return Number.isInteger(value) ? [] : [`${at} is no whole number`];
  const known = new Map<string, { file: string; node: Node }>();
  let open = false;
  const gather = (from: { file: string; node: Node } | null): void => {
    if (from === null) {
      open = true;
      return;
    }
    for (const part of (from.node["allOf"] as Node[] | undefined) ?? []) gather(follow(from.file, part));
    for (const [name, each] of Object.entries(nodeOf(from.node["properties"])))
      known.set(name, { file: from.file, node: nodeOf(each) });
  };
  gather(place);
  const extra = node["additionalProperties"];
  const wrong = ((node["required"] as string[] | undefined) ?? []).flatMap((name) =>
    nodeOf(value)[name] === undefined ? [`${at}.${name} is missing`] : [],
  );
  for (const [name, each] of Object.entries(nodeOf(value))) {
    const field = known.get(name);
    if (field !== undefined) wrong.push(...unknownFields(field.file, field.node, each, `${at}.${name}`));
    else if (typeof extra === "object") wrong.push(...unknownFields(place.file, nodeOf(extra), each, `${at}.${name}`));
    else if (!open && known.size > 0) wrong.push(`${at}.${name} is not in the contract`);
  }
  return wrong;
}
function wrongIn(contract: ContractName, sent: Sent): string[] {
  const file = path.join(root, contractFiles[contract]);
  const paths = nodeOf(load(file)["paths"]);
  const fits = (template: string): boolean =>
    new RegExp(`^${template.replaceAll(".", "\\.").replaceAll(/\{[^}]+\}/g, "[^/]*")}$`, "i").test(sent.path);
  const template = Object.keys(paths)
    .filter(fits)
    .sort((a, b) => a.split("{").length - b.split("{").length)[0];
  const operation = template === undefined ? undefined : nodeOf(paths[template])[sent.method.toLowerCase()];
  const name = `${sent.method} ${sent.path}`;
  if (template === undefined || operation === undefined) return [`${name} is no operation of the contract`];
  const parameters = [
    ...((nodeOf(operation)["parameters"] as Node[] | undefined) ?? []),
    ...((nodeOf(paths[template])["parameters"] as Node[] | undefined) ?? []),
  ].flatMap((each) => follow(file, each) ?? []);
  const wrong: string[] = [];
  const queries = new Set(
    parameters.filter((each) => each.node["in"] === "query").map((each) => String(each.node["name"])),
  );
  for (const key of sent.query.keys())
    if (key !== "api-version" && !queries.has(key) && !/skiptoken/i.test(key))
      wrong.push(`${name}: ?${key} is not in the contract`);
  if (!sent.query.has("api-version")) wrong.push(`${name}: api-version is missing`);
  const body = parameters.find((each) => each.node["in"] === "body");
  if (body === undefined) return sent.body === undefined ? wrong : [...wrong, `${name} takes no body`];
  return [...wrong, ...unknownFields(body.file, nodeOf(body.node["schema"]), sent.body, name)];
}

const cx = (): CallContext => ({
  now: () => Date.now(),
  signal: new AbortController().signal,
  throttle: async () => {},
  log: { debug: () => {}, info: () => {}, warn: () => {} },
});

describe.skipIf(!haveSpecs)(
  `requests of the Microsoft connectors${haveSpecs ? "" : ` (skipped: ${whySkipped})`}`,
  () => {
    let bench: LabBench;
    beforeAll(async () => {
      bench = await startLabBench({ speed: 2000 });
    });
    afterAll(async () => {
      await bench?.stop();
    });

    it("would be found out with a field, a type, a parameter or an address that the contract does not have", () => {
      const where = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Automation/automationAccounts/a/variables/v";
      const good: Sent = {
        method: "PATCH",
        path: where,
        query: new URLSearchParams({ "api-version": "2023-11-01" }),
        body: { name: "v", properties: { value: "1" } },
      };
      expect(wrongIn("variables", good)).toEqual([]);
      expect(wrongIn("variables", { ...good, body: { name: "v", properties: { value: 1 } } })).toHaveLength(1);
      expect(wrongIn("variables", { ...good, body: { name: "v", properties: { valeu: "1" } } })).toHaveLength(1);
      expect(wrongIn("variables", { ...good, query: new URLSearchParams({ version: "1" }) })).toHaveLength(2);
      expect(wrongIn("variables", { ...good, path: `${where}/more` })).toHaveLength(1);
    });

    it("to Azure Resource Manager are in the contracts", async () => {
      const system = bench.system();
      const resourceGroup = "rg-provision-assist";
      const { appId } = bench.tenant.cases.provisionAssist!;
      const connection = apiConnection.open(
        apiConnection.config.parse({
          resourceGroup,
          name: "provisionassist-kv",
          parameters: { "token:clientId": appId },
        }),
        system,
      );
      const version = secretVersions("requests")(1);
      await connection.observe(cx(), []);
      await connection.activate?.(cx(), version);
      for (const name of ["appSecret", "made-anew"]) {
        const config = automationVariable.config.parse({ resourceGroup, account: "provisionassist-auto", name });
        const variable = automationVariable.open(config, system);
        await variable.activate?.(cx(), version);
      }
      const sent = bench.main.sent.filter((one) => one.path.startsWith("/subscriptions/"));
      expect(new Set(sent.map((one) => one.method))).toEqual(new Set(["GET", "PUT", "PATCH"]));
      expect(
        sent.flatMap((one) => wrongIn(one.path.includes("Microsoft.Web") ? "connections" : "variables", one)),
      ).toEqual([]);
    });

    it("to Key Vault are in the contracts", async () => {
      const system = bench.system();
      const { vault: name } = bench.tenant.cases.connectedSpaces!;
      const proxied = bench.vaults[name]!;
      const where = { vault: proxied.url };
      const secret = keyVaultSecret.open(
        keyVaultSecret.config.parse({ ...where, name: "ServicePrincipalSecret" }),
        system,
      );
      const versions = secretVersions("requests");
      await secret.adopt?.(cx());
      await secret.activate?.(cx(), versions(1));
      await secret.activate?.(cx(), versions(2));
      await secret.observe(cx(), [versions(1)]);
      await secret.remove?.(cx(), versions(1));
      const config = keyVaultCertificate.config.parse({ ...where, name: "liveaiserviceprincipalprivatekey" });
      const certificate = keyVaultCertificate.open(config, system);
      await certificate.adopt?.(cx());
      await certificate.activate?.(cx(), await rsaVersion(1));
      await certificate.activate?.(cx(), await rsaVersion(2));
      await certificate.observe(cx(), []);
      await certificate.remove?.(cx(), await rsaVersion(1));
      bench.state((state) => {
        const policy = state.vaults.find((one) => one.name === name)?.certificates["liveaiserviceprincipalprivatekey"]
          ?.policy;
        if (policy !== undefined) policy["issuer"] = { name: "Self" };
      });
      const issuer = keyVaultCertificateIssuer.open(config, system);
      await issuer.issue(cx(), { id: "requests#3", tag: "a tag" });
      // The first request of a client carries no body, to ask who must be asked for a token.
      const sent = proxied.sent.filter((one) => one.method === "GET" || one.body !== undefined);
      expect(new Set(sent.map((one) => one.method))).toEqual(new Set(["GET", "PUT", "POST", "PATCH"]));
      expect(sent.flatMap((one) => wrongIn(one.path.startsWith("/secrets") ? "secrets" : "certificates", one))).toEqual(
        [],
      );
    });

    it("to Graph have the actions, parameters and properties of its metadata", async () => {
      const metadata = readFileSync(path.join(specsFolder, "msgraph/cleanMetadata.v1.0.xml"), "utf8");
      const namesIn = (pattern: RegExp): Set<string> =>
        new Set(
          [...(pattern.exec(metadata)?.[0] ?? "").matchAll(/<(?:Property|Parameter) Name="([^"]+)"/g)].map(
            (match) => match[1] ?? "",
          ),
        );
      const { appId } = bench.tenant.cases.provisionAssist!;
      const system = bench.system();
      const config = entraPassword.config.parse({ appId });
      const issued = await entraPasswordIssuer.open(config, system).issue(cx(), { id: "requests#1", tag: "tag" });
      await entraPassword
        .open(config, system)
        .remove?.(cx(), versionOf("requests#1", issued.material, issued.facts, issued.placement));
      await entraCertificate.open(entraCertificate.config.parse({ appId }), system).add?.(cx(), await rsaVersion(1));
      const sent = bench.main.sent.filter((one) => one.path.startsWith("/v1.0/"));
      const body = (part: string): Node => nodeOf(sent.find((one) => one.path.endsWith(part))?.body);
      const addPassword = namesIn(
        /<Action Name="addPassword" IsBound="true">\s*<Parameter Name="bindingParameter" Type="graph\.application"[\s\S]*?<\/Action>/,
      );
      expect(addPassword.has("passwordCredential")).toBe(true);
      expect(Object.keys(body("/addPassword"))).toEqual(["passwordCredential"]);
      const passwordFields = namesIn(/<ComplexType Name="passwordCredential"[\s\S]*?<\/ComplexType>/);
      for (const name of Object.keys(nodeOf(body("/addPassword")["passwordCredential"])))
        expect(passwordFields.has(name), name).toBe(true);
      expect(
        namesIn(
          /<Action Name="removePassword" IsBound="true">\s*<Parameter Name="bindingParameter" Type="graph\.application"[\s\S]*?<\/Action>/,
        ).has("keyId"),
      ).toBe(true);
      expect(Object.keys(body("/removePassword"))).toEqual(["keyId"]);
      const patched = nodeOf(sent.find((one) => one.method === "PATCH")?.body);
      expect(Object.keys(patched)).toEqual(["keyCredentials"]);
      const keyFields = namesIn(/<ComplexType Name="keyCredential"[\s\S]*?<\/ComplexType>/);
      for (const one of patched["keyCredentials"] as Node[])
        for (const name of Object.keys(one)) expect(keyFields.has(name), name).toBe(true);
      const application = namesIn(/<EntityType Name="application"[\s\S]*?<\/EntityType>/);
      for (const one of sent)
        for (const name of (one.query.get("$select") ?? "id").split(","))
          if (name !== "id") expect(application.has(name), name).toBe(true);
    });
  },
);
