/** What the lab does, beyond the form of its answers: delays, refusals, faults, persistence, presenters. */
import { createHash, createPrivateKey, randomUUID, sign, X509Certificate } from "node:crypto";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { startTenant, type Tenant, type TenantOptions } from "../../src/lab/tenant.ts";
import { makeCertificate, makeRsaKey, pkcs8, thumbprint } from "../../src/lab/pki.ts";
import { call, signIn, tokenFor, type Answer } from "./client.ts";
import { contradictions, haveSpecs, whySkipped } from "./contract.ts";

const graph = "https://graph.microsoft.com";
const vault = "https://vault.azure.net";
const arm = "https://management.azure.com";
const open: Tenant[] = [];
async function start(options: TenantOptions = {}): Promise<Tenant> {
  const tenant = await startTenant({ seed: "tenant test", faults: "none", ...options });
  open.push(tenant);
  return tenant;
}
afterEach(async () => {
  await Promise.all(open.splice(0).map(async (each) => await each.stop()));
});

interface Known {
  readonly token: string;
  readonly id: string;
  readonly appId: string;
}
async function spaces(tenant: Tenant): Promise<Known> {
  const token = await tokenFor(tenant, graph);
  const { appId } = tenant.cases.connectedSpaces!;
  const found = await call(tenant, "GET", `${tenant.url}/v1.0/applications(appId='${appId}')?$select=id`, { token });
  return { token, id: found.body.id, appId };
}
const onApp = async (tenant: Tenant, known: Known, method: string, verb: string, body?: unknown): Promise<Answer> =>
  await call(tenant, method, `${tenant.url}/v1.0/applications/${known.id}${verb}`, {
    token: known.token,
    ...(body === undefined ? {} : { body }),
  });
const codeOf = (answer: Answer): number => answer.body.error_codes[0];

interface Signer {
  readonly certificate: string;
  readonly key: string;
}
async function newSigner(notAfterMs = Date.now() + 86_400_000): Promise<Signer> {
  const key = await makeRsaKey();
  return {
    certificate: await makeCertificate({
      subject: "CN=new",
      key,
      notBeforeMs: Date.now() - 2 * 86_400_000,
      notAfterMs,
    }),
    key: pkcs8(key),
  };
}
function byCertificate(
  tenant: Tenant,
  clientId: string,
  signer: Signer,
  claims: Record<string, unknown> = {},
): Record<string, string> {
  const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const sha1 = createHash("sha1").update(new X509Certificate(signer.certificate).raw).digest("base64url");
  const text = `${encode({ alg: "RS256", typ: "JWT", x5t: sha1 })}.${encode({
    aud: `${tenant.url}/${tenant.tenantId}/oauth2/v2.0/token`,
    iss: clientId,
    sub: clientId,
    jti: randomUUID(),
    nbf: now,
    exp: now + 300,
    ...claims,
  })}`;
  return {
    client_id: clientId,
    client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    client_assertion: `${text}.${sign("RSA-SHA256", Buffer.from(text), createPrivateKey(signer.key)).toString("base64url")}`,
  };
}
const keyEntry = (signer: Signer): Record<string, unknown> => ({
  type: "AsymmetricX509Cert",
  usage: "Verify",
  displayName: "CN=new",
  key: new X509Certificate(signer.certificate).raw.toString("base64"),
});

describe("sign-in", () => {
  it("names what is wrong by the service's codes", async () => {
    const tenant = await start();
    const { clientId, clientSecret } = tenant.operator;
    const ask = async (fields: Record<string, string>): Promise<Answer> => await signIn(tenant, graph, fields);
    const wrong = await ask({ client_id: clientId, client_secret: "wrong" });
    expect(wrong.status).toBe(401);
    expect(wrong.body).toMatchObject({ error: "invalid_client", error_codes: [7000215] });
    expect(wrong.body.error_description).toMatch(
      /^AADSTS7000215: Invalid client secret provided\. .* Trace ID: \S+ Correlation ID: \S+ Timestamp: \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$/,
    );
    expect(codeOf(await ask({ client_id: randomUUID(), client_secret: "x" }))).toBe(700016);
    expect(codeOf(await ask({ client_id: clientId }))).toBe(7000216);
    expect(codeOf(await ask({ client_id: clientId, client_secret: clientSecret, scope: graph }))).toBe(1002012);
    expect(
      codeOf(await ask({ client_id: clientId, client_secret: clientSecret, scope: "https://nobody.example/.default" })),
    ).toBe(500011);
    expect(codeOf(await ask({ client_id: clientId, client_secret: clientSecret, grant_type: "password" }))).toBe(70003);
    const elsewhere = await call(tenant, "POST", `${tenant.url}/${randomUUID()}/oauth2/v2.0/token`, {
      form: { grant_type: "client_credentials" },
    });
    expect([elsewhere.status, codeOf(elsewhere)]).toEqual([400, 90002]);
    tenant.meddle((state) => {
      for (const app of state.applications) for (const each of app.passwords) each.endMs = Date.now() - 1;
    });
    expect(codeOf(await ask({ client_id: clientId, client_secret: clientSecret }))).toBe(7000222);
  });

  it("verifies a certificate's assertion: registered, in time, meant for this tenant, signed with the key", async () => {
    const tenant = await start();
    const { clientId } = tenant.operator;
    const good: Signer = tenant.operator;
    expect((await signIn(tenant, graph, byCertificate(tenant, clientId, good))).status).toBe(200);
    const stranger = await newSigner();
    const unknown = await signIn(tenant, graph, byCertificate(tenant, clientId, stranger));
    expect([unknown.status, codeOf(unknown)]).toEqual([401, 700027]);
    expect(unknown.body.error_description).toContain(
      `Thumbprint of key used by client: '${thumbprint(new X509Certificate(stranger.certificate))}'`,
    );
    const forged = await signIn(
      tenant,
      graph,
      byCertificate(tenant, clientId, { certificate: good.certificate, key: stranger.key }),
    );
    expect(forged.body.error_description).toContain("The provided signature value did not match");
    const past = Math.floor(Date.now() / 1000) - 3600;
    expect(
      codeOf(await signIn(tenant, graph, byCertificate(tenant, clientId, good, { nbf: past, exp: past + 60 }))),
    ).toBe(700024);
    expect(
      codeOf(
        await signIn(tenant, graph, byCertificate(tenant, clientId, good, { aud: "https://elsewhere.example/token" })),
      ),
    ).toBe(700023);
    expect(
      codeOf(await signIn(tenant, graph, { ...byCertificate(tenant, clientId, good), client_assertion: "a.b.c" })),
    ).toBe(50027);
  });

  it("lets a new secret in after 4 to 18 s, replica by replica, and a removed one linger", async () => {
    let nowMs = Date.now();
    const tenant = await start({ faults: { propagation: true }, now: () => nowMs });
    const known = await spaces(tenant);
    const added = await onApp(tenant, known, "POST", "/addPassword", { passwordCredential: {} });
    const attempt = async (): Promise<string> => {
      let answers = "";
      for (let index = 0; index < 12; index++)
        answers +=
          (await signIn(tenant, graph, { client_id: known.appId, client_secret: added.body.secretText })).status === 200
            ? "+"
            : "-";
      return answers;
    };
    nowMs += 3_999;
    expect(await attempt()).toMatch(/^-+$/);
    const seen: string[] = [];
    for (let second = 4; second < 18; second++) {
      nowMs += 1_000;
      seen.push(await attempt());
    }
    // In between some replicas know it and others do not: one success proves little.
    expect(seen.some((each) => each.includes("+") && each.includes("-"))).toBe(true);
    nowMs += 1_000;
    expect(await attempt()).toMatch(/^\++$/);
    expect((await onApp(tenant, known, "POST", "/removePassword", { keyId: added.body.keyId })).status).toBe(204);
    expect(await attempt()).toMatch(/^\++$/);
    nowMs += 18_000;
    expect(await attempt()).toMatch(/^-+$/);
  });
});

describe("Graph", () => {
  it("shows a secret once, and knows it later by key id and hint", async () => {
    const tenant = await start();
    const known = await spaces(tenant);
    const added = await onApp(tenant, known, "POST", "/addPassword", {
      passwordCredential: { displayName: "rolled", endDateTime: "2099-01-01T00:00:00Z" },
    });
    expect(added.body).toMatchObject({
      displayName: "rolled",
      endDateTime: "2099-01-01T00:00:00Z",
      hint: added.body.secretText.slice(0, 3),
    });
    expect(added.body.secretText).toHaveLength(40);
    const after = await onApp(tenant, known, "GET", "");
    const entry = after.body.passwordCredentials.find((each: { keyId: string }) => each.keyId === added.body.keyId);
    expect(entry).toMatchObject({ hint: added.body.hint, secretText: null });
    expect(JSON.stringify(after.body)).not.toContain(added.body.secretText);
    const unknown = await onApp(tenant, known, "POST", "/removePassword", { keyId: randomUUID() });
    expect([unknown.status, unknown.body.error.code]).toEqual([400, "Request_BadRequest"]);
    tenant.meddle((state) => {
      state.passwordLifetimeMs = 180 * 86_400_000;
    });
    const capped = await onApp(tenant, known, "POST", "/addPassword", {
      passwordCredential: { endDateTime: "2099-01-01T00:00:00Z" },
    });
    expect([capped.status, capped.body.error.code]).toEqual([400, "CredentialInvalidLifetimeAsPerAppPolicy"]);
  });

  it("replaces the whole array of certificates, and changes none of those that stay", async () => {
    const tenant = await start();
    const known = await spaces(tenant);
    const [old] = (await onApp(tenant, known, "GET", "")).body.keyCredentials;
    expect(old.key).toBeNull();
    const signer = await newSigner();
    expect((await onApp(tenant, known, "PATCH", "", { keyCredentials: [old, keyEntry(signer)] })).status).toBe(204);
    const both = (await onApp(tenant, known, "GET", "")).body.keyCredentials;
    expect(both[0]).toEqual(old);
    expect(both[1].customKeyIdentifier).toBe(thumbprint(new X509Certificate(signer.certificate)));
    expect((await signIn(tenant, graph, byCertificate(tenant, known.appId, signer))).status).toBe(200);
    const edited = await onApp(tenant, known, "PATCH", "", {
      keyCredentials: [{ ...old, key: keyEntry(signer)["key"] }, both[1]],
    });
    expect(edited.body.error.message).toBe(`Update to existing credential with KeyId '${old.keyId}' is not allowed.`);
    // Whoever sends only the new one loses the others.
    await onApp(tenant, known, "PATCH", "", { keyCredentials: [both[1]] });
    expect((await onApp(tenant, known, "GET", "")).body.keyCredentials).toEqual([both[1]]);
    const late = await onApp(tenant, known, "PATCH", "", {
      keyCredentials: [both[1], { ...keyEntry(await newSigner()), endDateTime: "2099-01-01T00:00:00Z" }],
    });
    expect(late.body.error.code).toBe("KeyCredentialsInvalidEndDate");
  });

  it("lets an application roll its own keys against a proof", async () => {
    const tenant = await start();
    const known = await spaces(tenant);
    const own = {
      ...known,
      id: (
        await call(tenant, "GET", `${tenant.url}/v1.0/applications(appId='${tenant.operator.clientId}')`, {
          token: known.token,
        })
      ).body.id,
    };
    const now = Math.floor(Date.now() / 1000);
    const proof = (claims: Record<string, unknown> = {}): string =>
      byCertificate(tenant, own.id, tenant.operator, {
        aud: "00000002-0000-0000-c000-000000000000",
        nbf: now,
        exp: now + 600,
        ...claims,
      })["client_assertion"]!;
    const keyCredential = keyEntry(await newSigner());
    expect(
      (await onApp(tenant, own, "POST", "/addKey", { keyCredential, proof: proof({ exp: now + 3600 }) })).status,
    ).toBe(400);
    const added = await onApp(tenant, own, "POST", "/addKey", {
      keyCredential,
      passwordCredential: null,
      proof: proof(),
    });
    expect(added.status).toBe(200);
    expect((await onApp(tenant, own, "POST", "/removeKey", { keyId: added.body.keyId, proof: proof() })).status).toBe(
      204,
    );
  });

  it("holds callers to roles and ownership, and tells of sign-ins an hour later", async () => {
    let nowMs = Date.now();
    const tenant = await start({ now: () => nowMs });
    const known = await spaces(tenant);
    const activities = async (): Promise<Answer> =>
      await call(tenant, "GET", `${tenant.url}/beta/reports/appCredentialSignInActivities`, { token: known.token });
    expect((await activities()).body.value).toEqual([]);
    nowMs += 3_500_000;
    const stillGood = await call(tenant, "GET", `${tenant.url}/v1.0/applications`, { token: known.token });
    expect(stillGood.status).toBe(200);
    nowMs += 100_000;
    expect((await activities()).body.error.code).toBe("InvalidAuthenticationToken");
    const token = await tokenFor(tenant, graph);
    nowMs += 3_590_000;
    const told = await call(tenant, "GET", `${tenant.url}/beta/reports/appCredentialSignInActivities`, { token });
    expect(told.body.value).toEqual([]);
    nowMs += 8_000;
    tenant.meddle((state) => void state.signIns.forEach((each) => (each.atMs -= 3_600_000)));
    const later = await call(tenant, "GET", `${tenant.url}/beta/reports/appCredentialSignInActivities`, { token });
    expect(later.body.value).toMatchObject([{ appId: tenant.operator.clientId, keyType: "clientSecret" }]);
    tenant.deny(["AuditLog.Read.All"]);
    const denied = await call(tenant, "GET", `${tenant.url}/beta/reports/appCredentialSignInActivities`, { token });
    expect([denied.status, denied.body.error.code]).toEqual([403, "Authorization_RequestDenied"]);
    tenant.deny([]);
    tenant.meddle((state) => {
      for (const app of state.applications) app.owners = [];
    });
    const notOwner = await onApp(tenant, { ...known, token }, "POST", "/addPassword", {});
    expect([notOwner.status, notOwner.body.error.code]).toEqual([403, "Authorization_RequestDenied"]);
  });

  it("may refuse a write that follows another one closely, and read what was", async () => {
    let nowMs = Date.now();
    const tenant = await start({ faults: { conflicts: 1, readLagMs: 5_000 }, now: () => nowMs });
    const known = await spaces(tenant);
    const count = async (): Promise<number> => (await onApp(tenant, known, "GET", "")).body.passwordCredentials.length;
    expect((await onApp(tenant, known, "POST", "/addPassword", {})).status).toBe(200);
    const conflict = await onApp(tenant, known, "POST", "/addPassword", {});
    expect([conflict.status, conflict.body.error.code]).toEqual([409, "Directory_ConcurrencyViolation"]);
    const seen = new Set<number>();
    for (let index = 0; index < 10; index++) {
      seen.add(await count());
      nowMs += 200;
    }
    expect([...seen].sort()).toEqual([1, 2]);
    nowMs += 10_000;
    expect(await count()).toBe(2);
    expect((await onApp(tenant, known, "POST", "/addPassword", {})).status).toBe(200);
  });
});

describe("Key Vault", () => {
  it("challenges first, and looks at the token before anything else", async () => {
    const tenant = await start();
    const url = `${Object.values(tenant.vaults)[0]}/secrets/nothing/?api-version=7.5`;
    const challenge = await call(tenant, "GET", url);
    expect(challenge.status).toBe(401);
    expect(challenge.headers["www-authenticate"]).toBe(
      `Bearer authorization="${tenant.url}/${tenant.tenantId}", resource="https://vault.azure.net"`,
    );
    const wrongAudience = await call(tenant, "GET", url, { token: await tokenFor(tenant, graph) });
    expect([wrongAudience.status, wrongAudience.body.error.message]).toEqual([
      401,
      expect.stringContaining("AKV10022: Invalid audience"),
    ]);
    const token = await tokenFor(tenant, vault);
    expect((await call(tenant, "GET", url, { token })).status).toBe(404);
    const tampered = `${token.slice(0, -8)}AAAAAAAA`;
    expect((await call(tenant, "GET", url, { token: tampered })).status).toBe(401);
    expect((await call(tenant, "GET", url.replace("7.5", "1.0"), { token })).body.error.code).toBe("BadParameter");
  });

  it("names the missing permission in the words of the vault's own model", async () => {
    const tenant = await start({ deny: ["Microsoft.KeyVault/vaults/secrets/setSecret/action"] });
    const token = await tokenFor(tenant, vault);
    const put = async (name: string): Promise<Answer> =>
      await call(tenant, "PUT", `${tenant.vaults[name]}/secrets/x?api-version=7.5`, { token, body: { value: "1" } });
    const byRole = await put(tenant.cases.provisionAssist!.vault);
    expect([byRole.status, byRole.body.error.innererror.code]).toEqual([403, "ForbiddenByRbac"]);
    expect(byRole.body.error.message).toContain("Action: 'Microsoft.KeyVault/vaults/secrets/setSecret/action'");
    const byPolicy = await put(tenant.cases.connectedSpaces!.vault);
    expect([byPolicy.status, byPolicy.body.error.innererror.code]).toEqual([403, "AccessDenied"]);
    expect(byPolicy.body.error.message).toContain("does not have secrets set permission on key vault");
    tenant.deny(["secrets *"]);
    const read = await call(
      tenant,
      "GET",
      `${tenant.vaults[tenant.cases.provisionAssist!.vault]}/secrets/appSecret/?api-version=7.5`,
      { token },
    );
    expect(read.body.error.innererror.code).toBe("ForbiddenByRbac");
    tenant.deny([]);
    expect((await put(tenant.cases.provisionAssist!.vault)).status).toBe(200);
  });

  it("keeps the old key where the policy says so", async () => {
    const tenant = await start({ speed: 100_000 });
    const token = await tokenFor(tenant, vault);
    const base = `${tenant.vaults[tenant.cases.connectedSpaces!.vault]}/certificates/liveaiserviceprincipalprivatekey`;
    const at = async (method: string, end: string, body?: unknown): Promise<Answer> =>
      await call(tenant, method, `${base}${end}?api-version=7.5`, { token, ...(body === undefined ? {} : { body }) });
    const spki = (answer: Answer): string =>
      new X509Certificate(Buffer.from(answer.body.cer, "base64")).publicKey
        .export({ type: "spki", format: "der" })
        .toString("hex");
    const before = await at("GET", "/");
    expect((await at("POST", "/create", {})).status).toBe(202);
    await expect.poll(async () => (await at("GET", "/pending")).body.status).toBe("completed");
    const renewed = await at("GET", "/");
    expect(spki(renewed)).not.toBe(spki(before));
    await at("PATCH", "/policy", { key_props: { reuse_key: true } });
    await at("POST", "/create", {});
    await expect.poll(async () => (await at("GET", "/pending")).body.status).toBe("completed");
    const reused = await at("GET", "/");
    expect(spki(reused)).toBe(spki(renewed));
    expect(reused.body.x5t).not.toBe(renewed.body.x5t);
    expect((await at("GET", "/versions")).body.value).toHaveLength(3);
  });
});

describe("Resource Manager", () => {
  it("holds one write-only set of values in an API connection and says when they are worth nothing", async () => {
    const tenant = await start();
    const token = await tokenFor(tenant, arm);
    const url = `${tenant.url}/subscriptions/${tenant.subscriptionId}/resourceGroups/rg-provision-assist/providers/Microsoft.Web/connections/provisionassist-kv?api-version=2016-06-01`;
    const status = async (): Promise<string> => {
      const [first] = (await call(tenant, "GET", url, { token })).body.properties.statuses;
      return first.error?.code ?? first.status;
    };
    expect(await status()).toBe("Connected");
    const values = {
      vaultName: tenant.cases.provisionAssist!.vault,
      "token:clientId": tenant.cases.provisionAssist!.appId,
      "token:TenantId": tenant.tenantId,
      "token:grantType": "client_credentials",
    };
    await call(tenant, "PATCH", url, { token, body: { properties: { parameterValues: values } } });
    expect(await status()).toBe("ConfigurationNeeded");
    await call(tenant, "PATCH", url, {
      token,
      body: { properties: { parameterValues: { ...values, "token:clientSecret": "wrong" } } },
    });
    expect(await status()).toBe("Unauthorized");
    const { testLinks } = (await call(tenant, "GET", url, { token })).body.properties;
    expect((await call(tenant, "GET", testLinks[0].requestUri, { token })).status).toBe(401);
    tenant.deny(["Microsoft.Web/connections/write"]);
    const denied = await call(tenant, "PATCH", url, { token, body: {} });
    expect([denied.status, denied.body.error.code]).toEqual([403, "AuthorizationFailed"]);
    expect(denied.body.error.message).toContain(
      "does not have authorization to perform action 'Microsoft.Web/connections/write' over scope",
    );
  });

  it("lets 250 reads in at once, and then asks for patience", async () => {
    let nowMs = Date.now();
    const tenant = await start({ faults: { limits: true }, now: () => nowMs });
    const token = await tokenFor(tenant, arm);
    const url = `${tenant.url}/subscriptions/${tenant.subscriptionId}/resourcegroups?api-version=2021-04-01`;
    const statuses = (
      await Promise.all(Array.from({ length: 252 }, async () => await call(tenant, "GET", url, { token })))
    ).map((each) => each.status);
    expect(statuses.filter((each) => each === 200)).toHaveLength(250);
    const refused = await call(tenant, "GET", url, { token });
    expect([refused.status, refused.headers["retry-after"], refused.body.error.code]).toEqual([
      429,
      "1",
      "SubscriptionRequestsThrottled",
    ]);
    nowMs += 1_000;
    const later = await call(tenant, "GET", url, { token });
    expect([later.status, later.headers["x-ms-ratelimit-remaining-subscription-reads"]]).toEqual([200, "24"]);
  });
});

describe("the lab", () => {
  it("cuts connections before and after the effect", async () => {
    const tenant = await start();
    const known = await spaces(tenant);
    const count = async (): Promise<number> => (await onApp(tenant, known, "GET", "")).body.passwordCredentials.length;
    tenant.setFaults({ droppedBefore: 1 });
    await expect(onApp(tenant, known, "POST", "/addPassword", {})).rejects.toThrow(/socket hang up|ECONNRESET/);
    tenant.setFaults({ droppedAfter: 1 });
    await expect(onApp(tenant, known, "POST", "/addPassword", {})).rejects.toThrow(/socket hang up|ECONNRESET/);
    tenant.setFaults("none");
    expect(await count()).toBe(2);
    expect(tenant.inspect().requests).toMatchObject({ "graph dropped-before": 1, "graph dropped-after": 1 });
    tenant.setFaults({ throttled: 1 });
    expect((await onApp(tenant, known, "GET", "")).body.error.code).toBe("TooManyRequests");
    tenant.setFaults({ unavailable: 1 });
    expect((await onApp(tenant, known, "GET", "")).status).toBe(503);
  });

  it("goes on in its folder where it was, at the same addresses, and shows no secret", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "keyroll-lab-"));
    try {
      const first = await start({ folder });
      const known = await spaces(first);
      const added = await onApp(first, known, "POST", "/addPassword", {});
      const shown = JSON.stringify(first.inspect());
      expect(shown).not.toContain(added.body.secretText);
      expect(shown).not.toContain(first.operator.clientSecret);
      const before = first.inspect().applications;
      await open.pop()!.stop();
      expect((await stat(path.join(folder, "tenant.json"))).mode & 0o077).toBe(0);
      const second = await start({ folder });
      expect([second.url, second.ca, second.vaults]).toEqual([first.url, first.ca, first.vaults]);
      expect(second.inspect().applications).toEqual(before);
      expect(
        (await signIn(second, graph, { client_id: known.appId, client_secret: added.body.secretText })).status,
      ).toBe(200);
    } finally {
      await Promise.all(open.splice(0).map(async (each) => await each.stop()));
      await rm(folder, { recursive: true });
    }
  });

  it("has presenters that count by version, and see a version that is taken away too early", async () => {
    const tenant = await start({ speed: 20_000, presenters: true });
    const names = [
      "device secret",
      "device certificate",
      "logic app provisionassist-kv",
      "logic app provisionassist-automation",
      "runbook",
    ];
    await expect
      .poll(
        () =>
          names.every((name) =>
            Object.values(tenant.inspect().presenters[name]?.versions ?? {}).some((each) => each.accepted > 1),
          ),
        { timeout: 10_000 },
      )
      .toBe(true);
    const seen = tenant.inspect();
    const app = seen.applications.find((each) => each.appId === tenant.cases.provisionAssist!.appId)!;
    const { version } = app.passwords[0]!;
    for (const name of names.slice(2)) expect(seen.presenters[name]!.versions[version]!.refused).toBe(0);
    tenant.meddle((state) => {
      state.applications.find((each) => each.appId === app.appId)!.passwords = [];
    });
    await expect
      .poll(() => names.slice(2).every((name) => tenant.inspect().presenters[name]!.versions[version]!.refused > 0), {
        timeout: 10_000,
      })
      .toBe(true);
    const [count] = Object.values(tenant.inspect().presenters["device certificate"]!.versions);
    expect(count!.refused).toBe(0);
    expect(tenant.inspect().presenters["runbook"]!.versions[version]!.why).toBe("AADSTS7000215");
  });

  it("does the same under the same seed", async () => {
    const run = async (seed: string): Promise<unknown> => {
      const tenant = await start({ seed, faults: { unavailable: 0.5 } });
      const statuses: number[] = [];
      for (let index = 0; index < 12; index++) statuses.push((await signIn(tenant, graph)).status);
      return { statuses, tenantId: tenant.tenantId, vaults: Object.keys(tenant.vaults) };
    };
    const once = await run("a");
    expect(await run("a")).toEqual(once);
    expect(await run("b")).not.toEqual(once);
  });
});

describe.skipIf(!haveSpecs)(`the check against the contracts${haveSpecs ? "" : ` (skipped: ${whySkipped})`}`, () => {
  it("finds a lie", () => {
    const check = (body: unknown, status = 200): string[] =>
      contradictions("secrets", "GET", "/secrets/x/", status, body);
    expect(check({ value: "1", attributes: { enabled: true } })).toEqual([]);
    expect(check({ value: 1, invented: true, attributes: { enabled: "yes", created: 1.5 } })).toEqual([
      "body.value is no text",
      "body.invented is not in the contract",
      "body.attributes.enabled is neither true nor false",
      "body.attributes.created is no whole number",
    ]);
    expect(check({}, 202)).toEqual(["GET /secrets/{secret-name}/{secret-version} never answers 202"]);
    expect(contradictions("secrets", "POST", "/nowhere", 200, {})).toEqual([
      "POST /nowhere is no operation of the contract",
    ]);
  });
});
