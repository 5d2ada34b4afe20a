/** Federated domains in the lab: the farm's metadata, the two certificates that Entra knows of a domain, and sign-ins that depend on both. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { request } from "node:https";
import { afterEach, describe, expect, it } from "vitest";
import { startTenant, type Tenant } from "../../src/lab/tenant.ts";
import { makeCertificate, makeRsaKey, pkcs8, thumbprint } from "../../src/lab/pki.ts";
import type { AdfsFarm } from "../../src/lab/state.ts";
import { call, tokenFor, type Answer } from "./client.ts";
import { graphContradictions, haveSpecs } from "./contract.ts";

const open: Tenant[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map(async (each) => await each.stop()));
});
async function start(presenters = false) {
  const tenant = await startTenant({ seed: "adfs", faults: "none", cases: ["adfs"], speed: 1500, presenters });
  open.push(tenant);
  const token = await tokenFor(tenant, "https://graph.microsoft.com");
  const ask = async (method: string, where: string, body?: unknown): Promise<Answer> =>
    await call(tenant, method, `${tenant.url}/v1.0${where}`, { token, ...(body === undefined ? {} : { body }) });
  let farm!: AdfsFarm;
  tenant.meddle((state) => void (farm = state.farms[0]!));
  return { tenant, ask, farm };
}
async function metadataOf(tenant: Tenant): Promise<{ status: number; type: string; xml: string }> {
  return await new Promise((resolve, reject) => {
    request(
      `${tenant.farms["fs"]}/federationmetadata/2007-06/federationmetadata.xml`,
      { agent: false, ca: tenant.ca },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.on("end", () =>
          resolve({
            status: incoming.statusCode ?? 0,
            type: incoming.headers["content-type"] ?? "",
            xml: Buffer.concat(chunks).toString(),
          }),
        );
      },
    )
      .on("error", reject)
      .end();
  });
}
async function newSigning(): Promise<AdfsFarm["signing"][number]> {
  const key = await makeRsaKey();
  const certificate = await makeCertificate({
    subject: "CN=ADFS Signing - next",
    key,
    notBeforeMs: Date.now() - 60_000,
    notAfterMs: Date.now() + 86_400_000,
  });
  return { certificate, key: pkcs8(createPrivateKey(pkcs8(key))), primary: false };
}
const raw = (pem: string): string => new X509Certificate(pem).raw.toString("base64");

describe("federated domains", () => {
  it("have metadata that repeats every signing certificate per role, with the encryption certificate beside", async () => {
    const { tenant, farm } = await start();
    farm.signing.push(await newSigning());
    const { status, type, xml } = await metadataOf(tenant);
    expect([status, type]).toEqual([200, "application/samlmetadata+xml"]);
    const uses = [...xml.matchAll(/<KeyDescriptor use="(\w+)">.*?<X509Certificate>([^<]+)</g)].map(
      ([, use, value]) => `${use} ${value}`,
    );
    const signing = farm.signing.map((each) => `signing ${raw(each.certificate)}`);
    expect(uses.filter((each) => each.startsWith("signing"))).toEqual([...signing, ...signing, ...signing, ...signing]);
    expect(new Set(uses).size).toBe(3);
  });

  it("keep a current and a next certificate each, which only the caller changes", async () => {
    const { tenant, ask, farm } = await start();
    const domains = (await ask("GET", "/domains")).body.value;
    expect(
      domains.map((each: { id: string; authenticationType: string }) => `${each.id} ${each.authenticationType}`),
    ).toEqual(["contoso.onmicrosoft.com Managed", "contoso.com Federated", "fabrikam.com Federated"]);
    const before = (await ask("GET", "/domains/contoso.com/federationConfiguration")).body.value[0];
    if (haveSpecs) {
      expect(graphContradictions("domain", domains[1])).toEqual([]);
      expect(graphContradictions("internalDomainFederation", before)).toEqual([]);
    }
    expect(before.signingCertificate).toBe(raw(farm.signing[0]!.certificate));
    const next = await newSigning();
    const where = `/domains/contoso.com/federationConfiguration/${before.id}`;
    expect((await ask("PATCH", where, { nextSigningCertificate: raw(next.certificate) })).status).toBe(204);
    expect((await ask("GET", where)).body).toMatchObject({
      signingCertificate: before.signingCertificate,
      nextSigningCertificate: raw(next.certificate),
      signingCertificateUpdateStatus: { certificateUpdateResult: "Success" },
    });
    expect(
      (await ask("GET", "/domains/fabrikam.com/federationConfiguration")).body.value[0].nextSigningCertificate,
    ).toBeNull();
    expect((await ask("PATCH", where, { signingCertificate: "bm90IGEgY2VydGlmaWNhdGU=" })).status).toBe(400);
    tenant.deny(["Domain-InternalFederation.ReadWrite.All"]);
    expect((await ask("PATCH", where, {})).body.error.code).toBe("Authorization_RequestDenied");
  });

  it("refuse sign-ins where the farm signs with what Entra does not know", async () => {
    const { tenant, ask, farm } = await start(true);
    const counts = (id: string, version: string) => tenant.inspect().presenters[`sign-in ${id}`]?.versions[version];
    const first = thumbprint(new X509Certificate(farm.signing[0]!.certificate));
    await expect.poll(() => counts("fabrikam.com", first)?.accepted ?? 0, { timeout: 10_000 }).toBeGreaterThan(0);
    const next = await newSigning();
    const { id } = (await ask("GET", "/domains/contoso.com/federationConfiguration")).body.value[0];
    await ask("PATCH", `/domains/contoso.com/federationConfiguration/${id}`, {
      nextSigningCertificate: raw(next.certificate),
    });
    farm.signing[0]!.primary = false;
    farm.signing.push({ ...next, primary: true });
    const second = thumbprint(new X509Certificate(next.certificate));
    await expect.poll(() => counts("contoso.com", second)?.accepted ?? 0, { timeout: 10_000 }).toBeGreaterThan(0);
    // The other domain of the same farm was forgotten.
    await expect.poll(() => counts("fabrikam.com", second)?.refused ?? 0, { timeout: 10_000 }).toBeGreaterThan(0);
    expect(counts("contoso.com", second)!.refused).toBe(0);
  });
});
