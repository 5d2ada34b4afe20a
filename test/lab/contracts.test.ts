/** Every kind of answer of the lab against the contracts that Microsoft publishes. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startTenant, type Tenant } from "../../src/lab/tenant.ts";
import { call, tokenFor, type Answer } from "./client.ts";
import {
  contradictions,
  exampleOf,
  fieldsMissing,
  graphContradictions,
  haveSpecs,
  whySkipped,
  type ContractName,
} from "./contract.ts";

let tenant: Tenant;
let vaultToken: string;
let armToken: string;
let graphToken: string;
beforeAll(async () => {
  tenant = await startTenant({ seed: "contracts", speed: 2000, faults: "none" });
  [vaultToken, armToken, graphToken] = await Promise.all([
    tokenFor(tenant, "https://vault.azure.net"),
    tokenFor(tenant, "https://management.azure.com"),
    tokenFor(tenant, "https://graph.microsoft.com"),
  ]);
});
afterAll(async () => await tenant.stop());

const spacesVault = () => tenant.vaults[tenant.cases.connectedSpaces!.vault]!;

/** Asks, and expects the contract to agree with the answer. */
async function held(
  contract: ContractName,
  method: string,
  base: string,
  path: string,
  token: string,
  version: string,
  body?: unknown,
): Promise<Answer> {
  const [where = "", query = ""] = path.split("?");
  const answer = await call(
    tenant,
    method,
    `${base}${where}?api-version=${version}${query === "" ? "" : `&${query}`}`,
    {
      token,
      ...(body === undefined ? {} : { body }),
    },
  );
  expect({
    [`${method} ${where} ${answer.status}`]: contradictions(contract, method, where, answer.status, answer.body),
  }).toEqual({
    [`${method} ${where} ${answer.status}`]: [],
  });
  return answer;
}
const secrets = async (method: string, path: string, body?: unknown): Promise<Answer> =>
  await held("secrets", method, spacesVault(), path, vaultToken, "7.5", body);
const certificates = async (method: string, path: string, body?: unknown): Promise<Answer> =>
  await held("certificates", method, spacesVault(), path, vaultToken, "7.5", body);

describe.skipIf(!haveSpecs)(
  `the lab and the published contracts${haveSpecs ? "" : ` (skipped: ${whySkipped})`}`,
  () => {
    it("agrees on Key Vault's secrets", async () => {
      const set = await secrets(
        "PUT",
        "/secrets/crpsecret",
        exampleOf("secrets", "SetSecret-example.json").parameters["parameters"],
      );
      expect(fieldsMissing(exampleOf("secrets", "SetSecret-example.json").responses["200"]!.body, set.body)).toEqual(
        [],
      );
      const version = String(set.body.id).split("/").at(-1);
      const got = await secrets("GET", `/secrets/crpsecret/${version}`);
      expect(fieldsMissing(exampleOf("secrets", "GetSecret-example.json").responses["200"]!.body, got.body)).toEqual(
        [],
      );
      expect((await secrets("GET", "/secrets/crpsecret/")).body).toEqual(got.body);
      const update = exampleOf("secrets", "UpdateSecret-example.json");
      const updated = await secrets("PATCH", `/secrets/crpsecret/${version}`, update.parameters["parameters"]);
      expect(fieldsMissing(update.responses["200"]!.body, updated.body)).toEqual([]);
      expect(updated.body).toMatchObject({ contentType: "myContentType", tags: { mytag: "myvalue" } });
      expect(updated.body.value).toBeUndefined();
      await secrets("PUT", "/secrets/crpsecret", { value: "2" });
      const first = await secrets("GET", "/secrets/crpsecret/versions?maxresults=1");
      expect(
        fieldsMissing(exampleOf("secrets", "GetSecretVersions-example.json").responses["200"]!.body, first.body),
      ).toEqual([]);
      const next = await call(tenant, "GET", first.body.nextLink, { token: vaultToken });
      expect(next.body.value).toHaveLength(1);
      expect(next.body.nextLink).toBeNull();
      expect(next.body.value[0].id).not.toBe(first.body.value[0].id);
      const listed = await secrets("GET", "/secrets");
      expect(
        listed.body.value.find((each: { id: string }) => each.id.endsWith("/liveaiserviceprincipalprivatekey")).managed,
      ).toBe(true);
      expect((await secrets("PUT", "/secrets/crpsecret", {})).status).toBe(400);
      expect((await secrets("GET", "/secrets/nothing/")).body.error.code).toBe("SecretNotFound");
    });

    it("agrees on secrets that were deleted", async () => {
      await secrets("PUT", "/secrets/GetDeletedSecretTest", { value: "1" });
      const gone = await secrets("DELETE", "/secrets/GetDeletedSecretTest");
      expect(
        fieldsMissing(exampleOf("secrets", "DeleteSecret-example.json").responses["200"]!.body, gone.body),
      ).toEqual([]);
      const conflict = await secrets("PUT", "/secrets/GetDeletedSecretTest", { value: "2" });
      expect([conflict.status, conflict.body.error.innererror.code]).toEqual([409, "ObjectIsDeletedButRecoverable"]);
      await secrets("GET", "/deletedsecrets");
      await secrets("GET", "/deletedsecrets/GetDeletedSecretTest");
      await secrets("POST", "/deletedsecrets/GetDeletedSecretTest/recover");
      expect((await secrets("GET", "/secrets/GetDeletedSecretTest/")).body.value).toBe("1");
      await secrets("DELETE", "/secrets/GetDeletedSecretTest");
      expect((await secrets("DELETE", "/deletedsecrets/GetDeletedSecretTest")).status).toBe(204);
    });

    it("agrees on Key Vault's certificates", async () => {
      const create = exampleOf("certificates", "CreateCertificate-example.json");
      const pending = await certificates(
        "POST",
        "/certificates/selfSignedCert01/create",
        create.parameters["parameters"],
      );
      expect(fieldsMissing(create.responses["202"]!.body, pending.body)).toEqual([]);
      expect(pending.headers["location"]).toMatch(
        /\/certificates\/selfSignedCert01\/pending\?api-version=7\.5&request_id=[0-9a-f]{32}$/,
      );
      expect(pending.body.status).toBe("inProgress");
      await expect
        .poll(async () => (await certificates("GET", "/certificates/selfSignedCert01/pending")).body.status)
        .toBe("completed");
      const got = await certificates("GET", "/certificates/selfSignedCert01/");
      expect(
        fieldsMissing(exampleOf("certificates", "GetCertificate-example.json").responses["200"]!.body, got.body),
      ).toEqual([]);
      expect(got.body.attributes.created - got.body.attributes.nbf).toBe(600);
      const policy = await certificates("GET", "/certificates/selfSignedCert01/policy");
      expect(
        fieldsMissing(
          exampleOf("certificates", "GetCertificatePolicy-example.json").responses["200"]!.body,
          policy.body,
        ),
      ).toEqual([]);
      const versions = await certificates("GET", "/certificates/selfSignedCert01/versions");
      expect(
        fieldsMissing(
          exampleOf("certificates", "GetCertificateVersions-example.json").responses["200"]!.body,
          versions.body,
        ),
      ).toEqual([]);
      const version = String(got.body.id).split("/").at(-1);
      const updated = await certificates("PATCH", `/certificates/selfSignedCert01/${version}`, {
        attributes: { enabled: false },
        tags: { department: "x" },
      });
      expect(
        fieldsMissing(exampleOf("certificates", "UpdateCertificate-example.json").responses["200"]!.body, updated.body),
      ).toEqual([]);
      const disabled = await secrets("GET", "/secrets/selfSignedCert01/");
      expect([disabled.status, disabled.body.error.innererror.code]).toEqual([403, "SecretDisabled"]);
      const changed = await certificates("PATCH", "/certificates/selfSignedCert01/policy", {
        key_props: { reuse_key: true },
      });
      expect(changed.body.key_props).toEqual({ exportable: true, kty: "RSA", key_size: 2048, reuse_key: true });
      await certificates("GET", "/certificates");
      const pfx = (await secrets("GET", "/secrets/liveaiserviceprincipalprivatekey/")).body;
      expect(pfx).toMatchObject({ managed: true, contentType: "application/x-pkcs12" });
      const imported = await certificates("POST", "/certificates/importCert01/import", { value: pfx.value });
      expect(
        fieldsMissing(
          exampleOf("certificates", "ImportCertificate-example.json").responses["200"]!.body,
          imported.body,
        ),
      ).toEqual([]);
      expect(imported.body.policy.issuer).toEqual({ name: "Unknown" });
      expect((await certificates("POST", "/certificates/importCert02/import", { value: "AAAA" })).body.error.code).toBe(
        "BadParameter",
      );
      const gone = await certificates("DELETE", "/certificates/importCert01");
      expect(
        fieldsMissing(exampleOf("certificates", "DeleteCertificate-example.json").responses["200"]!.body, gone.body),
      ).toEqual([]);
      expect((await certificates("GET", "/certificates/importCert01/")).body.error.code).toBe("CertificateNotFound");
    });

    it("agrees on API connections, except for the error inside a status", async () => {
      const group = `/subscriptions/${tenant.subscriptionId}/resourceGroups/rg-provision-assist/providers/Microsoft.Web/connections`;
      const ask = async (method: string, path: string, body?: unknown): Promise<Answer> =>
        await held("connections", method, tenant.url, path, armToken, "2016-06-01", body);
      const example = exampleOf("connections", "connectionsGet.json").responses["200"]!.body;
      const got = await ask("GET", `${group}/provisionassist-kv`);
      // That example's connection is to an integration account; what a connection has there depends on its API.
      expect(fieldsMissing(example, got.body).filter((each) => !each.includes("integrationAccountId"))).toEqual([]);
      expect(got.body.properties.statuses).toEqual([{ status: "Connected" }]);
      expect(JSON.stringify(got.body)).not.toContain("clientSecret");
      await ask("GET", group);
      await ask("PATCH", `${group}/provisionassist-kv`, { tags: { sampleTag: "SampleValue" } });
      const api = {
        id: `/subscriptions/${tenant.subscriptionId}/providers/Microsoft.Web/locations/westeurope/managedApis/keyvault`,
      };
      const created = await call(tenant, "PUT", `${tenant.url}${group}/another?api-version=2016-06-01`, {
        token: armToken,
        body: {
          location: "westeurope",
          properties: { displayName: "another", api, parameterValues: { vaultName: "x" } },
        },
      });
      expect(created.status).toBe(201);
      // The contract nests code and message in `properties`; recorded traffic of the service does not, and the lab follows the traffic.
      expect(contradictions("connections", "PUT", `${group}/another`, 201, created.body)).toEqual([
        "body.properties.statuses[0].error.code is not in the contract",
        "body.properties.statuses[0].error.message is not in the contract",
      ]);
      expect(created.body.properties.statuses[0].error.code).toBe("ConfigurationNeeded");
      expect((await ask("DELETE", `${group}/another`)).status).toBe(200);
      expect((await ask("DELETE", `${group}/another`)).status).toBe(204);
    });

    it("agrees on Automation's variables", async () => {
      const variables = `/subscriptions/${tenant.subscriptionId}/resourceGroups/rg-provision-assist/providers/Microsoft.Automation/automationAccounts/provisionassist-auto/variables`;
      const ask = async (method: string, path: string, body?: unknown): Promise<Answer> =>
        await held("variables", method, tenant.url, path, armToken, "2023-11-01", body);
      const create = exampleOf("variables", "createOrUpdateVariable.json");
      const created = await ask("PUT", `${variables}/sampleVariable`, create.parameters["parameters"]);
      expect(created.status).toBe(201);
      expect(fieldsMissing(create.responses["201"]!.body, created.body)).toEqual([]);
      expect((await ask("PUT", `${variables}/sampleVariable`, create.parameters["parameters"])).status).toBe(200);
      const patch = exampleOf("variables", "updateVariable_patch.json");
      const patched = await ask("PATCH", `${variables}/sampleVariable`, patch.parameters["parameters"]);
      expect(fieldsMissing(patch.responses["200"]!.body, patched.body)).toEqual([]);
      expect(patched.body.properties.value).toBe('"ComputerName3.domain.com"');
      await ask("GET", variables);
      const encrypted = await ask("GET", `${variables}/appSecret`);
      expect(encrypted.body.properties).toMatchObject({ isEncrypted: true });
      expect(encrypted.body.properties.value).toBeUndefined();
      expect((await ask("PATCH", `${variables}/appSecret`, { properties: { value: "not JSON" } })).status).toBe(400);
      expect(
        (
          await ask("PUT", `${variables}/appSecret`, {
            name: "appSecret",
            properties: { value: '"x"', isEncrypted: false },
          })
        ).status,
      ).toBe(400);
      expect((await ask("DELETE", `${variables}/sampleVariable`)).status).toBe(200);
    });

    it("agrees on resource groups and resources", async () => {
      const ask = async (path: string): Promise<Answer> =>
        await held("resources", "GET", tenant.url, path, armToken, "2021-04-01");
      const groups = await ask(`/subscriptions/${tenant.subscriptionId}/resourcegroups`);
      expect(
        groups.body.value.filter((each: { name: string }) => each.name.startsWith("mrg-connected-spaces-")),
      ).toHaveLength(1);
      const filter = encodeURIComponent("resourceType eq 'Microsoft.Web/connections'");
      const found = await ask(`/subscriptions/${tenant.subscriptionId}/resources?$filter=${filter}`);
      expect(found.body.value.map((each: { name: string }) => each.name)).toEqual([
        "provisionassist-kv",
        "provisionassist-automation",
      ]);
      await ask(`/subscriptions/${tenant.subscriptionId}/resourceGroups/rg-provision-assist/resources`);
      await ask(`/subscriptions/${tenant.subscriptionId}/resourcegroups/rg-provision-assist`);
      expect(
        (
          await ask(
            `/subscriptions/${tenant.subscriptionId}/resourcegroups?$filter=${encodeURIComponent("name eq 'x'")}`,
          )
        ).status,
      ).toBe(400);
    });

    it("agrees on Graph's applications and credentials", async () => {
      const ask = async (method: string, path: string, body?: unknown): Promise<Answer> =>
        await call(tenant, method, `${tenant.url}/v1.0${path}`, {
          token: graphToken,
          ...(body === undefined ? {} : { body }),
        });
      const list = await ask("GET", `/applications?$filter=${encodeURIComponent("startswith(displayName,'cs-dbe')")}`);
      expect(list.body.value).toHaveLength(1);
      expect(graphContradictions("application", list.body.value[0])).toEqual([]);
      const { id } = list.body.value[0];
      const added = await ask("POST", `/applications/${id}/addPassword`, {
        passwordCredential: { displayName: "new" },
      });
      expect(graphContradictions("passwordCredential", added.body)).toEqual([]);
      const one = await ask("GET", `/applications/${id}?$select=id,keyCredentials`);
      expect(Object.keys(one.body).sort()).toEqual(["@odata.context", "id", "keyCredentials"]);
      expect(graphContradictions("application", one.body)).toEqual([]);
      expect(one.body.keyCredentials[0].key).toMatch(/^MII/);
      const principals = await ask(
        "GET",
        `/servicePrincipals?$filter=${encodeURIComponent(`appId eq '${tenant.operator.clientId}'`)}`,
      );
      expect(graphContradictions("servicePrincipal", principals.body.value[0])).toEqual([]);
      const owners = await ask("GET", `/applications/${id}/owners`);
      expect(graphContradictions("servicePrincipal", owners.body.value[0])).toEqual([]);
      const policy = await ask("GET", "/policies/defaultAppManagementPolicy");
      expect(graphContradictions("tenantAppManagementPolicy", policy.body)).toEqual([]);
    });
  },
);
