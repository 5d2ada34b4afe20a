/** Microsoft's own clients against the lab: what they accept is near enough to what the service says. */
import { createHash } from "node:crypto";
import { ClientCertificateCredential, ClientSecretCredential } from "@azure/identity";
import { CertificateClient } from "@azure/keyvault-certificates";
import { SecretClient } from "@azure/keyvault-secrets";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startTenant, type Tenant } from "../../src/lab/tenant.ts";
import { readPfx } from "../../src/lab/pki.ts";

let tenant: Tenant;
beforeAll(async () => {
  tenant = await startTenant({ seed: "sdk", speed: 1000 });
});
afterAll(async () => await tenant.stop());

const identityOptions = () => ({
  authorityHost: tenant.url,
  disableInstanceDiscovery: true,
  tlsOptions: { ca: tenant.ca },
});
const vaultOptions = () => ({
  disableChallengeResourceVerification: true,
  tlsOptions: { ca: tenant.ca },
  retryOptions: { maxRetries: 0 },
});
const credential = () =>
  new ClientSecretCredential(
    tenant.tenantId,
    tenant.operator.clientId,
    tenant.operator.clientSecret,
    identityOptions(),
  );
const spacesVault = () => tenant.vaults[tenant.cases.connectedSpaces!.vault]!;

describe("Microsoft's clients against the lab", () => {
  it("sign in with a secret and with a certificate", async () => {
    const bySecret = await credential().getToken("https://graph.microsoft.com/.default");
    expect(bySecret.token.split(".")).toHaveLength(3);
    const byCertificate = new ClientCertificateCredential(
      tenant.tenantId,
      tenant.operator.clientId,
      { certificate: `${tenant.operator.certificate}\n${tenant.operator.key}` },
      identityOptions(),
    );
    expect((await byCertificate.getToken("https://vault.azure.net/.default")).token.split(".")).toHaveLength(3);
  });

  it("are told in the service's words that a secret is wrong", async () => {
    const wrong = new ClientSecretCredential(
      tenant.tenantId,
      tenant.operator.clientId,
      "abc8Q~wrong",
      identityOptions(),
    );
    await expect(wrong.getToken("https://graph.microsoft.com/.default")).rejects.toThrow(
      /AADSTS7000215: Invalid client secret provided/,
    );
  });

  it("read, write, list and change secrets", async () => {
    const client = new SecretClient(spacesVault(), credential(), vaultOptions());
    const before = await client.getSecret("ServicePrincipalSecret");
    expect(before.properties).toMatchObject({
      name: "ServicePrincipalSecret",
      contentType: "text/plain; charset=utf-8",
      enabled: true,
    });
    const after = await client.setSecret("ServicePrincipalSecret", "another");
    // A new version inherits nothing.
    expect(after.properties.contentType).toBeUndefined();
    expect(after.properties.expiresOn).toBeUndefined();
    await client.updateSecretProperties("ServicePrincipalSecret", before.properties.version!, { enabled: false });
    const versions: (string | undefined)[] = [];
    for await (const each of client.listPropertiesOfSecretVersions("ServicePrincipalSecret"))
      versions.push(`${each.version} ${each.enabled}`);
    expect(versions.sort()).toEqual([`${before.properties.version} false`, `${after.properties.version} true`].sort());
    await expect(
      client.getSecret("ServicePrincipalSecret", { version: before.properties.version! }),
    ).rejects.toMatchObject({
      statusCode: 403,
      code: "Forbidden",
    });
    expect((await client.getSecret("ServicePrincipalSecret")).value).toBe("another");
  });

  it("create a certificate's version, wait for it, and open its PKCS#12 file", async () => {
    const client = new CertificateClient(spacesVault(), credential(), vaultOptions());
    const name = "liveaiserviceprincipalprivatekey";
    const before = await client.getCertificate(name);
    const poller = await client.beginCreateCertificate(name, before.policy as never, { intervalInMs: 2 });
    const created = await poller.pollUntilDone();
    expect(created.properties.version).not.toBe(before.properties.version);
    expect(created.properties.x509Thumbprint).not.toEqual(before.properties.x509Thumbprint);
    const secrets = new SecretClient(spacesVault(), credential(), vaultOptions());
    const pfx = await secrets.getSecret(name);
    expect(pfx.properties.contentType).toBe("application/x-pkcs12");
    const opened = readPfx(Buffer.from(pfx.value!, "base64"), undefined);
    expect(createHash("sha1").update(opened!.certificates[0]!.raw).digest("hex")).toBe(
      Buffer.from(created.properties.x509Thumbprint!).toString("hex"),
    );
    const imported = await client.importCertificate("imported", Buffer.from(pfx.value!, "base64"));
    expect(imported.properties.x509Thumbprint).toEqual(created.properties.x509Thumbprint);
  });
});
