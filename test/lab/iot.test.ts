/** Device provisioning, the hub's registry and CA certificates in the lab. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { request } from "node:https";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { startTenant, type Tenant, type TenantOptions } from "../../src/lab/tenant.ts";
import { makeCertificate, makeEcKey, pkcs8, thumbprint } from "../../src/lab/pki.ts";
import { call, tokenFor, type Answer } from "./client.ts";
import { contradictions, exampleOf, fieldsMissing, haveSpecs } from "./contract.ts";

const open: Tenant[] = [];
async function start(options: TenantOptions = {}): Promise<Tenant> {
  const tenant = await startTenant({ seed: "iot", faults: "none", speed: 10_000, cases: ["iot"], ...options });
  open.push(tenant);
  return tenant;
}
afterEach(async () => {
  await Promise.all(open.splice(0).map(async (each) => await each.stop()));
});

type Ask = (method: string, where: string, body?: unknown, headers?: Record<string, string>) => Promise<Answer>;
/** Where the contracts are there, every answer is held against them. */
async function dpsOf(tenant: Tenant): Promise<Ask> {
  const token = await tokenFor(tenant, "https://azure-devices-provisioning.net");
  const base = tenant.provisioning[tenant.cases.iot!.service]!;
  return async (method, where, body, headers = {}) => {
    const answer = await call(tenant, method, `${base}${where}?api-version=2021-10-01`, {
      token,
      headers,
      ...(body === undefined ? {} : { body }),
    });
    if (haveSpecs)
      expect({ [where]: contradictions("provisioning", method, where, answer.status, answer.body) }).toEqual({
        [where]: [],
      });
    return answer;
  };
}
async function hubOf(tenant: Tenant): Promise<Ask> {
  const token = await tokenFor(tenant, "https://iothubs.azure.net");
  const base = tenant.hubs[tenant.cases.iot!.hub]!;
  return async (method, where, body, headers = {}) =>
    await call(tenant, method, `${base}${where}?api-version=2021-04-12`, {
      token,
      headers,
      ...(body === undefined ? {} : { body }),
    });
}
interface Identity {
  readonly key: string;
  readonly chain: readonly string[];
}
async function newLeaf(tenant: Tenant, name: string, signer = tenant.cases.iot!.intermediate): Promise<Identity> {
  const key = await makeEcKey();
  const leaf = await makeCertificate({
    subject: `CN=${name}`,
    key,
    signer,
    notBeforeMs: Date.now() - 60_000,
    notAfterMs: Date.now() + 86_400_000,
  });
  return { key: pkcs8(key), chain: [leaf, signer.certificate] };
}
async function asDevice(
  tenant: Tenant,
  identity: Identity,
  method: string,
  url: string,
): Promise<{ status: number; body: Record<string, unknown> }> {
  return await new Promise((resolve, reject) => {
    const sent = request(
      url,
      {
        method,
        agent: false,
        ca: tenant.ca,
        key: identity.key,
        cert: identity.chain.join(""),
        headers: { "content-type": "application/json" },
      },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.on("end", () => {
          const raw = Buffer.concat(chunks).toString();
          resolve({
            status: incoming.statusCode ?? 0,
            body: raw === "" ? {} : (JSON.parse(raw) as Record<string, unknown>),
          });
        });
      },
    );
    sent.on("error", reject);
    sent.end(method === "GET" ? undefined : "{}");
  });
}
/** Registers as a device does, to the end. */
async function provision(tenant: Tenant, id: string, identity: Identity): Promise<string> {
  const scope = tenant.inspectDevices().idScope;
  const base = `${tenant.provisioning[tenant.cases.iot!.service]}/${scope}/registrations/${id}`;
  const begun = await asDevice(tenant, identity, "PUT", `${base}/register?api-version=2021-06-01`);
  if (begun.status !== 202) return `refused ${begun.status}`;
  for (;;) {
    const polled = await asDevice(
      tenant,
      identity,
      "GET",
      `${base}/operations/${String(begun.body["operationId"])}?api-version=2021-06-01`,
    );
    if (polled.status === 200) return String(polled.body["status"]);
  }
}
const connect = async (tenant: Tenant, id: string, identity: Identity): Promise<number> =>
  (
    await asDevice(
      tenant,
      identity,
      "POST",
      `${tenant.hubs[tenant.cases.iot!.hub]}/devices/${id}/messages/events?api-version=2020-03-13`,
    )
  ).status;

describe("device provisioning", () => {
  it("replaces an enrollment as a whole, and only the one that was read where an ETag says so", async () => {
    const tenant = await start();
    const dps = await dpsOf(tenant);
    const before = (await dps("GET", "/enrollments/press-01")).body;
    expect(before.attestation.x509.clientCertificates.primary).toEqual({
      info: expect.objectContaining({ subjectName: "CN=press-01" }),
    });
    const leaf = await newLeaf(tenant, "press-01");
    const both = {
      ...before,
      attestation: {
        type: "x509",
        x509: {
          clientCertificates: {
            ...before.attestation.x509.clientCertificates,
            secondary: { certificate: leaf.chain[0] },
          },
        },
      },
    };
    const put = await dps("PUT", "/enrollments/press-01", both, { "if-match": before.etag });
    expect(put.status).toBe(200);
    expect(put.body.initialTwin).toEqual(before.initialTwin);
    expect(put.body.attestation.x509.clientCertificates.primary).toEqual(
      before.attestation.x509.clientCertificates.primary,
    );
    expect(put.body.attestation.x509.clientCertificates.secondary.info.sha1Thumbprint).toBe(
      thumbprint(new X509Certificate(leaf.chain[0]!)),
    );
    expect((await dps("PUT", "/enrollments/press-01", both, { "if-match": before.etag })).status).toBe(412);
    const { initialTwin: _, ...without } = put.body;
    const blind = await dps("PUT", "/enrollments/press-01", without);
    expect(blind.body.initialTwin).toBeUndefined();
    const other = await newLeaf(tenant, "press-99");
    const wrongName = {
      ...without,
      attestation: { type: "x509", x509: { clientCertificates: { primary: { certificate: other.chain[0] } } } },
    };
    expect((await dps("PUT", "/enrollments/press-01", wrongName)).status).toBe(400);
    const bulk = await dps("POST", "/enrollments", {
      mode: "updateIfMatchETag",
      enrollments: [{ ...without, etag: "stale" }],
    });
    expect([bulk.status, bulk.body.isSuccessful, bulk.body.errors[0].registrationId]).toEqual([200, false, "press-01"]);
    const listed = await dps(
      "POST",
      "/enrollments/query",
      { query: "SELECT * FROM enrollments" },
      { "x-ms-max-item-count": "1" },
    );
    expect([listed.body.length, typeof listed.headers["x-ms-continuation"]]).toEqual([1, "string"]);
    expect((await dps("DELETE", "/enrollments/press-01")).status).toBe(204);
    expect((await dps("GET", "/enrollments/press-01")).body.errorCode).toBe(404201);
    tenant.deny(["Microsoft.Devices/provisioningServices/enrollments/write"]);
    expect((await dps("PUT", "/enrollments/press-02", {})).status).toBe(403);
  });

  it("lets devices in by their own entry or their group's, and a disabled entry of their own wins", async () => {
    const tenant = await start();
    const dps = await dpsOf(tenant);
    const { devices } = tenant.inspectDevices();
    const held = (id: string): Identity => devices.find((each) => each.registrationId === id)!;
    expect(await provision(tenant, "press-01", held("press-01"))).toBe("assigned");
    expect(await provision(tenant, "device-01", held("device-01"))).toBe("assigned");
    expect(await connect(tenant, "press-01", held("press-01"))).toBe(204);
    // A new leaf under the same chain: the group lets it in, the entry of its own does not, and the hub neither before it is told.
    const [press, device] = [await newLeaf(tenant, "press-01"), await newLeaf(tenant, "device-01")];
    expect(await connect(tenant, "device-01", device)).toBe(401);
    expect(await provision(tenant, "device-01", device)).toBe("assigned");
    expect(await connect(tenant, "device-01", device)).toBe(204);
    expect(await connect(tenant, "device-01", held("device-01"))).toBe(401);
    expect(await provision(tenant, "press-01", press)).toBe("refused 401");
    expect(await provision(tenant, "device-02", await newLeaf(tenant, "somebody"))).toBe("refused 401");
    const shut = {
      registrationId: "device-01",
      provisioningStatus: "disabled",
      attestation: { type: "x509", x509: { clientCertificates: { primary: { certificate: device.chain[0] } } } },
    };
    await dps("PUT", "/enrollments/device-01", shut);
    expect(await provision(tenant, "device-01", device)).toBe("disabled");
    expect((await dps("POST", "/registrations/fleet/query")).body).toMatchObject([
      { registrationId: "device-01", status: "assigned" },
    ]);
    expect((await dps("DELETE", "/registrations/device-01")).status).toBe(204);
  });

  it("does not tell the hub of a new certificate where the policy is never to provision anew", async () => {
    const tenant = await start();
    const dps = await dpsOf(tenant);
    const { devices } = tenant.inspectDevices();
    const first = devices.find((each) => each.registrationId === "device-01")!;
    const group = (await dps("GET", "/enrollmentGroups/fleet")).body;
    await dps(
      "PUT",
      "/enrollmentGroups/fleet",
      { ...group, reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: false } },
      { "if-match": group.etag },
    );
    expect(await provision(tenant, "device-01", first)).toBe("assigned");
    const next = await newLeaf(tenant, "device-01");
    expect(await provision(tenant, "device-01", next)).toBe("assigned");
    expect(await connect(tenant, "device-01", next)).toBe(401);
    expect(await connect(tenant, "device-01", first)).toBe(204);
  });

  it("keeps device identities with two thumbprints and a version", async () => {
    const tenant = await start();
    const hub = await hubOf(tenant);
    const one = "a".repeat(40);
    const device = {
      deviceId: "manual",
      authentication: { type: "selfSigned", x509Thumbprint: { primaryThumbprint: one, secondaryThumbprint: null } },
    };
    const made = await hub("PUT", "/devices/manual", device);
    expect(made.body.authentication.x509Thumbprint).toEqual({
      primaryThumbprint: one.toUpperCase(),
      secondaryThumbprint: null,
    });
    expect((await hub("PUT", "/devices/manual", device)).status).toBe(409);
    expect((await hub("PUT", "/devices/manual", device, { "if-match": '"stale"' })).status).toBe(412);
    expect((await hub("PUT", "/devices/manual", device, { "if-match": `"${made.body.etag}"` })).status).toBe(200);
    expect((await hub("DELETE", "/devices/manual", undefined, { "if-match": "*" })).status).toBe(204);
    expect((await hub("GET", "/devices/manual")).body.Message).toContain("DeviceNotFound");
  });

  it("takes CA certificates against proof of possession, and changes their ETag at every step", async () => {
    const tenant = await start();
    const token = await tokenFor(tenant, "https://management.azure.com");
    const where = `/subscriptions/${tenant.subscriptionId}/resourceGroups/rg-iot/providers/Microsoft.Devices/provisioningServices/${tenant.cases.iot!.service}/certificates`;
    const ask = async (method: string, end: string, body?: unknown, match?: string): Promise<Answer> => {
      const answer = await call(tenant, method, `${tenant.url}${where}${end}?api-version=2022-12-12`, {
        token,
        ...(body === undefined ? {} : { body }),
        ...(match === undefined ? {} : { headers: { "if-match": match } }),
      });
      if (haveSpecs)
        expect({
          [end]: contradictions("provisioningArm", method, `${where}${end}`, answer.status, answer.body),
        }).toEqual({ [end]: [] });
      return answer;
    };
    const key = await makeEcKey();
    const times = { notBeforeMs: Date.now() - 60_000, notAfterMs: Date.now() + 86_400_000 };
    const ca = {
      certificate: await makeCertificate({ subject: "CN=Next Root", key, ca: true, ...times }),
      key: pkcs8(key),
    };
    const put = await ask("PUT", "/next", {
      properties: { certificate: Buffer.from(ca.certificate).toString("base64") },
    });
    expect(put.body.properties).toMatchObject({
      isVerified: false,
      certificate: null,
      thumbprint: thumbprint(new X509Certificate(ca.certificate)),
    });
    if (haveSpecs)
      expect(
        fieldsMissing(exampleOf("provisioningArm", "DPSGetCertificate.json").responses["200"]!.body, put.body),
      ).toEqual([]);
    expect((await ask("POST", "/next/generateVerificationCode")).status).toBe(400);
    const code = await ask("POST", "/next/generateVerificationCode", undefined, put.body.etag);
    expect(code.body.properties.verificationCode).toMatch(/^[0-9A-F]{48}$/);
    expect(code.body.etag).not.toBe(put.body.etag);
    const proofOf = async (name: string): Promise<string> =>
      Buffer.from(
        await makeCertificate({ subject: `CN=${name}`, key: createPrivateKey(ca.key), signer: ca, ...times }),
      ).toString("base64");
    expect((await ask("POST", "/next/verify", { certificate: await proofOf("wrong") }, code.body.etag)).status).toBe(
      400,
    );
    expect(
      (
        await ask(
          "POST",
          "/next/verify",
          { certificate: await proofOf(code.body.properties.verificationCode) },
          put.body.etag,
        )
      ).status,
    ).toBe(412);
    const verified = await ask(
      "POST",
      "/next/verify",
      { certificate: await proofOf(code.body.properties.verificationCode) },
      code.body.etag,
    );
    expect(verified.body.properties.isVerified).toBe(true);
    expect((await ask("GET", "")).body.value).toHaveLength(2);
    expect((await ask("DELETE", "/next", undefined, verified.body.etag)).status).toBe(200);
  });

  it("has devices that read their files, and provision themselves anew when the hub refuses them", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "keyroll-lab-"));
    try {
      const tenant = await start({ folder, presenters: true });
      const versions = () => tenant.inspect().presenters["thing device-01"]?.versions ?? {};
      const accepted = (version: string): number => versions()[version]?.accepted ?? 0;
      const first = thumbprint(new X509Certificate(tenant.inspectDevices().devices[0]!.chain[0]!));
      await expect.poll(() => accepted(first), { timeout: 10_000 }).toBeGreaterThan(0);
      const next = await newLeaf(tenant, "device-01");
      const file = path.join(folder, "devices", "device-01.pem");
      expect(await readFile(file, "utf8")).toContain("BEGIN CERTIFICATE");
      await writeFile(file, `${next.key}${next.chain.join("")}`);
      await expect
        .poll(() => accepted(thumbprint(new X509Certificate(next.chain[0]!))), { timeout: 10_000 })
        .toBeGreaterThan(0);
      expect(versions()[first]!.refused).toBe(0);
    } finally {
      await Promise.all(open.splice(0).map(async (each) => await each.stop()));
      await rm(folder, { recursive: true });
    }
  });
});
