/** What the tenant holds when it is new: Keyroll's own principal, and the systems of the founding cases some weeks before their credentials expire. */
import { X509Certificate, createPrivateKey } from "node:crypto";
import { seconds } from "./http.ts";
import { infoOf } from "./iot.ts";
import { makeCertificate, makeEcKey, makeRsaKey, pkcs8, thumbprint } from "./pki.ts";
import { randomFrom, type Random } from "./random.ts";
import type {
  Application,
  AutomationAccount,
  Connection,
  Key,
  Password,
  ProvisioningService,
  ServicePrincipal,
  TenantState,
  Vault,
} from "./state.ts";

export const foundingCases = ["connected-spaces", "provision-assist", "iot", "finance-operations", "adfs"] as const;
export type FoundingCase = (typeof foundingCases)[number];
export const usualCases: readonly FoundingCase[] = ["connected-spaces", "provision-assist"];

const dayMs = 86_400_000;
const yearMs = 365 * dayMs;
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const location = "westeurope";

/** Names that the listeners' certificate is valid for. */
export const hostNames = ["localhost", "127.0.0.1"];

const newSecret = (random: Random): string => `${random.text(3, letters)}8Q~${random.text(34, `${letters}._~-`)}`;

function password(random: Random, displayName: string, startMs: number, endMs: number): Password {
  const secret = newSecret(random);
  return { keyId: random.uuid(), displayName, hint: secret.slice(0, 3), startMs, endMs, secret, knownFromMs: [] };
}
function keyOf(random: Random, pem: string): Key {
  const certificate = new X509Certificate(pem);
  return {
    keyId: random.uuid(),
    displayName: certificate.subject,
    customKeyIdentifier: thumbprint(certificate),
    startMs: Date.parse(certificate.validFrom),
    endMs: Date.parse(certificate.validTo),
    certificate: certificate.raw.toString("base64"),
    knownFromMs: [],
  };
}

export async function newState(seed: string, cases: readonly FoundingCase[], nowMs: number): Promise<TenantState> {
  const random = randomFrom(seed, "founding");
  const [caKey, serverKey, tokenKey, operatorKey, spacesKey] = await Promise.all([
    makeEcKey(),
    makeEcKey(),
    makeRsaKey(),
    makeRsaKey(),
    makeRsaKey(),
  ]);
  const caPem = await makeCertificate({
    subject: "CN=Keyroll lab CA",
    key: caKey,
    ca: true,
    notBeforeMs: nowMs - dayMs,
    notAfterMs: nowMs + 10 * yearMs,
  });
  const ca = { certificate: caPem, key: pkcs8(caKey) };
  const server = await makeCertificate({
    subject: "CN=Keyroll lab",
    names: hostNames,
    key: serverKey,
    signer: ca,
    extendedKeyUsages: ["1.3.6.1.5.5.7.3.1"],
    notBeforeMs: nowMs - dayMs,
    notAfterMs: nowMs + 2 * yearMs,
  });
  const operatorCertificate = await makeCertificate({
    subject: "CN=keyroll-operator",
    key: operatorKey,
    extendedKeyUsages: ["1.3.6.1.5.5.7.3.2"],
    notBeforeMs: nowMs - dayMs,
    notAfterMs: nowMs + yearMs,
  });

  const applications: Application[] = [];
  const servicePrincipals: ServicePrincipal[] = [];
  const subscriptionId = random.uuid();
  function register(
    displayName: string,
    more: { graphRoles?: string[]; grants?: ServicePrincipal["grants"] },
  ): { app: Application; principal: ServicePrincipal } {
    const app: Application = {
      id: random.uuid(),
      appId: random.uuid(),
      displayName,
      createdMs: nowMs - 2 * yearMs,
      changedMs: nowMs - 2 * yearMs,
      owners: [],
      passwords: [],
      keys: [],
      gone: { passwords: [], keys: [] },
    };
    const principal = {
      id: random.uuid(),
      appId: app.appId,
      displayName,
      graphRoles: more.graphRoles ?? [],
      grants: more.grants ?? [],
    };
    applications.push(app);
    servicePrincipals.push(principal);
    return { app, principal };
  }

  const operator = register("keyroll-operator", {
    graphRoles: [
      "Application.Read.All",
      "Application.ReadWrite.OwnedBy",
      "AuditLog.Read.All",
      "Policy.Read.All",
      "Domain.Read.All",
      "Domain-InternalFederation.ReadWrite.All",
    ],
    grants: [{ action: "*", scope: `/subscriptions/${subscriptionId}` }],
  });
  const operatorPassword = password(random, "keyroll", nowMs - 30 * dayMs, nowMs + yearMs);
  operator.app.passwords.push(operatorPassword);
  operator.app.keys.push(keyOf(random, operatorCertificate));

  const state: TenantState = {
    format: 1,
    seed,
    tenantId: random.uuid(),
    tenantName: "Contoso",
    domain: "contoso.onmicrosoft.com",
    subscriptionId,
    ca,
    server: { certificate: server, key: pkcs8(serverKey) },
    tokenKey: pkcs8(tokenKey),
    ports: {},
    operator: {
      clientId: operator.app.appId,
      clientSecret: operatorPassword.secret,
      certificate: operatorCertificate,
      key: pkcs8(operatorKey),
    },
    applications,
    servicePrincipals,
    signIns: [],
    passwordLifetimeMs: null,
    // Groups that no case is about, so that a search has something to pass over.
    resourceGroups: [{ name: "rg-network", location }],
    vaults: [],
    connections: [],
    automationAccounts: [],
    provisioningServices: [],
    hubs: [],
    devices: [],
    clusters: [],
    farms: [],
    domains: [{ id: "contoso.onmicrosoft.com" }],
    cases: {},
  };
  const own = (app: Application): void => void app.owners.push(operator.principal.id);

  if (cases.includes("connected-spaces")) {
    const suffix = random.hex(6);
    const resourceGroup = `mrg-connected-spaces-${suffix}`;
    const vaultName = `cs-kv-${suffix}`;
    const scope = `/subscriptions/${subscriptionId}/resourceGroups/${resourceGroup}/providers/Microsoft.KeyVault/vaults/${vaultName}`;
    const issuedMs = nowMs - 2 * yearMs + 25 * dayMs;
    const { app } = register(`cs-dbe-${suffix}`, {});
    own(app);
    const secret = password(random, "connected spaces", issuedMs, nowMs + 25 * dayMs);
    const certificate = await makeCertificate({
      subject: "CN=liveaiserviceprincipal",
      key: spacesKey,
      extendedKeyUsages: ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"],
      notBeforeMs: issuedMs - 600_000,
      notAfterMs: nowMs + 20 * dayMs,
    });
    app.passwords.push(secret);
    app.keys.push(keyOf(random, certificate));
    // The device reads the vault with an identity that is not the one being rolled.
    const device = register(`cs-device-${suffix}`, {
      grants: [
        { action: "Microsoft.KeyVault/vaults/secrets/getSecret/action", scope },
        { action: "Microsoft.KeyVault/vaults/certificates/read", scope },
      ],
    });
    const deviceSecret = password(random, "device", nowMs - 30 * dayMs, nowMs + 2 * yearMs);
    device.app.passwords.push(deviceSecret);
    const at = seconds(issuedMs);
    const vault: Vault = {
      name: vaultName,
      resourceGroup,
      location,
      access: "policies",
      secrets: {
        serviceprincipalid: {
          name: "ServicePrincipalId",
          versions: [
            {
              version: random.hex(32),
              value: app.appId,
              contentType: "text/plain",
              attributes: { enabled: true, created: at, updated: at },
            },
          ],
        },
        serviceprincipalsecret: {
          name: "ServicePrincipalSecret",
          versions: [
            {
              version: random.hex(32),
              value: secret.secret,
              contentType: "text/plain; charset=utf-8",
              tags: { deployment: suffix },
              attributes: { enabled: true, exp: seconds(secret.endMs), created: at, updated: at },
            },
          ],
        },
      },
      certificates: {
        liveaiserviceprincipalprivatekey: {
          name: "liveaiserviceprincipalprivatekey",
          policy: {
            key_props: { exportable: true, kty: "RSA", key_size: 2048, reuse_key: false },
            secret_props: { contentType: "application/x-pkcs12" },
            x509_props: {
              subject: "CN=liveaiserviceprincipal",
              ekus: ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"],
              key_usage: ["digitalSignature", "keyEncipherment"],
              validity_months: 24,
            },
            lifetime_actions: [{ trigger: { days_before_expiry: 180 }, action: { action_type: "EmailContacts" } }],
            issuer: { name: "Self" },
            attributes: { enabled: true, created: at, updated: at },
          },
          versions: [
            {
              version: random.hex(32),
              chain: [new X509Certificate(certificate).raw.toString("base64")],
              key: pkcs8(createPrivateKey(pkcs8(spacesKey))),
              attributes: { enabled: true, nbf: at - 600, exp: seconds(nowMs + 20 * dayMs), created: at, updated: at },
            },
          ],
        },
      },
    };
    state.resourceGroups.push({
      name: resourceGroup,
      location,
      managedBy: `/subscriptions/${subscriptionId}/resourceGroups/rg-network`,
    });
    state.vaults.push(vault);
    state.cases.connectedSpaces = {
      vault: vaultName,
      appId: app.appId,
      deviceAppId: device.app.appId,
      deviceSecret: deviceSecret.secret,
    };
  }

  if (cases.includes("provision-assist")) {
    const resourceGroup = "rg-provision-assist";
    const suffix = random.hex(6);
    const vaultName = `pa-kv-${suffix}`;
    const group = `/subscriptions/${subscriptionId}/resourceGroups/${resourceGroup}`;
    const { app, principal } = register("Provision Assist", {
      graphRoles: [],
      grants: [
        {
          action: "Microsoft.KeyVault/vaults/secrets/getSecret/action",
          scope: `${group}/providers/Microsoft.KeyVault/vaults/${vaultName}`,
        },
        { action: "Microsoft.Automation/automationAccounts/*", scope: group },
      ],
    });
    own(app);
    const secret = password(random, "deployment", nowMs - yearMs + 14 * dayMs, nowMs + 14 * dayMs);
    app.passwords.push(secret);
    const at = seconds(secret.startMs);
    state.resourceGroups.push({ name: resourceGroup, location, tags: { solution: "provision-assist" } });
    state.vaults.push({
      name: vaultName,
      resourceGroup,
      location,
      access: "rbac",
      secrets: {
        appsecret: {
          name: "appSecret",
          versions: [
            {
              version: random.hex(32),
              value: secret.secret,
              attributes: { enabled: true, exp: seconds(secret.endMs), created: at, updated: at },
            },
          ],
        },
        appid: {
          name: "appId",
          versions: [
            { version: random.hex(32), value: app.appId, attributes: { enabled: true, created: at, updated: at } },
          ],
        },
      },
      certificates: {},
    });
    const values = {
      "token:clientId": app.appId,
      "token:clientSecret": secret.secret,
      "token:TenantId": state.tenantId,
      "token:grantType": "client_credentials",
    };
    const connection = (name: string, api: string, parameterValues: Record<string, string>): Connection => ({
      name,
      resourceGroup,
      location,
      displayName: name,
      api,
      parameterValues,
      createdMs: secret.startMs,
      changedMs: secret.startMs,
    });
    state.connections.push(
      connection("provisionassist-kv", "keyvault", { vaultName, ...values }),
      connection("provisionassist-automation", "azureautomation", values),
    );
    const account: AutomationAccount = {
      name: "provisionassist-auto",
      resourceGroup,
      location,
      variables: {
        appsecret: {
          name: "appSecret",
          value: JSON.stringify(secret.secret),
          description: "Client secret of the application",
          isEncrypted: true,
          createdMs: secret.startMs,
          changedMs: secret.startMs,
        },
        appclientid: {
          name: "appClientId",
          value: JSON.stringify(app.appId),
          description: null,
          isEncrypted: false,
          createdMs: secret.startMs,
          changedMs: secret.startMs,
        },
      },
    };
    state.automationAccounts.push(account);
    state.cases.provisionAssist = {
      vault: vaultName,
      appId: principal.appId,
      automationAccount: account.name,
      connections: state.connections.map((each) => each.name),
    };
  }
  if (cases.includes("iot")) await addDevices(state, random, nowMs);
  if (cases.includes("adfs")) await addFarm(state, random, nowMs);
  if (cases.includes("finance-operations")) await addCluster(state, nowMs);
  return state;
}

/** A root, an intermediate below it whose devices are let in as a group, and two devices with entries of their own. */
async function addDevices(state: TenantState, random: Random, nowMs: number): Promise<void> {
  const resourceGroup = "rg-iot";
  const suffix = random.hex(6);
  const [rootKey, intermediateKey] = await Promise.all([makeEcKey(), makeEcKey()]);
  const root = {
    certificate: await makeCertificate({
      subject: "CN=Contoso Device Root",
      key: rootKey,
      ca: true,
      notBeforeMs: nowMs - yearMs,
      notAfterMs: nowMs + 60 * dayMs,
    }),
    key: pkcs8(rootKey),
  };
  const intermediate = {
    certificate: await makeCertificate({
      subject: "CN=Contoso Device Intermediate",
      key: intermediateKey,
      ca: true,
      signer: root,
      notBeforeMs: nowMs - yearMs,
      notAfterMs: nowMs + 45 * dayMs,
    }),
    key: pkcs8(intermediateKey),
  };
  const etag = (): string => `"${random.hex(8)}-0000-0700-0000-${random.hex(12)}"`;
  const kept = { etag: etag(), createdMs: nowMs - yearMs, changedMs: nowMs - yearMs };
  const defaults = {
    capabilities: { iotEdge: false },
    provisioningStatus: "enabled",
    reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true },
    allocationPolicy: "hashed",
  };
  const service: ProvisioningService = {
    name: `dps-${suffix}`,
    resourceGroup,
    location,
    idScope: `0ne${random.text(8, "0123456789ABCDEF")}`,
    enrollments: {},
    groups: {
      fleet: {
        id: "fleet",
        body: {
          ...defaults,
          enrollmentGroupId: "fleet",
          attestation: { type: "x509", x509: { signingCertificates: { primary: withInfo(intermediate.certificate) } } },
          initialTwin: { tags: { site: "utrecht" }, properties: { desired: { interval: 60 } } },
        },
        ...kept,
      },
    },
    registrations: {},
    certificates: {
      root: {
        name: "root",
        certificate: root.certificate,
        isVerified: true,
        ...kept,
        etag: random.bytes(8).toString("base64"),
      },
    },
    hubs: [`hub-${suffix}`],
  };
  for (const [index, registrationId] of ["device-01", "device-02", "press-01", "press-02"].entries()) {
    const key = await makeEcKey();
    const grouped = index < 2;
    const leaf = await makeCertificate({
      subject: `CN=${registrationId}`,
      key,
      signer: intermediate,
      extendedKeyUsages: ["1.3.6.1.5.5.7.3.2"],
      notBeforeMs: nowMs - 30 * dayMs,
      notAfterMs: nowMs + 30 * dayMs,
    });
    state.devices.push({
      registrationId,
      service: service.name,
      key: pkcs8(key),
      chain: [leaf, intermediate.certificate],
    });
    if (grouped) continue;
    service.enrollments[registrationId] = {
      id: registrationId,
      body: {
        ...defaults,
        registrationId,
        attestation: { type: "x509", x509: { clientCertificates: { primary: withInfo(leaf) } } },
        initialTwin: { tags: { line: index }, properties: { desired: { interval: 60 } } },
      },
      ...kept,
      etag: etag(),
    };
  }
  state.resourceGroups.push({ name: resourceGroup, location });
  state.provisioningServices.push(service);
  state.hubs.push({ name: service.hubs[0]!, resourceGroup, location, devices: {} });
  state.cases.iot = { service: service.name, hub: service.hubs[0]!, root, intermediate };
}
function withInfo(pem: string): { certificate: string; info: ReturnType<typeof infoOf> } {
  return { certificate: pem, info: infoOf(new X509Certificate(pem)) };
}

/** Three nodes in three upgrade domains, one server certificate for cluster and server, and one client with admin rights. */
async function addCluster(state: TenantState, nowMs: number): Promise<void> {
  const identity = async (subject: string): Promise<{ certificate: string; key: string }> => {
    const key = await makeEcKey();
    const times = { notBeforeMs: nowMs - yearMs, notAfterMs: nowMs + 30 * dayMs };
    // The names let clients reach it here; they pin its thumbprint anyway.
    return {
      certificate: await makeCertificate({ subject, names: hostNames, key, signer: state.ca, ...times }),
      key: pkcs8(key),
    };
  };
  const [server, client] = [
    await identity("CN=star.onprem.contoso.com"),
    await identity("CN=client.onprem.contoso.com"),
  ];
  const print = (each: { certificate: string }): string => thumbprint(new X509Certificate(each.certificate));
  // As the management console copies it: in lower case, with spaces.
  const spaced = print(server)
    .toLowerCase()
    .replace(/(..)(?!$)/g, "$1 ");
  const certificate = { X509StoreName: "My", Thumbprint: spaced };
  state.clusters.push({
    name: "Dynamics365Operations",
    codeVersion: "8.2.1571.9590",
    config: {
      name: "Dynamics365Operations",
      clusterConfigurationVersion: "1.0.0",
      apiVersion: "10-2017",
      properties: {
        reliabilityLevel: "Bronze",
        security: {
          metadata: "The Credential type X509 indicates this cluster is secured using X509 Certificates.",
          ClusterCredentialType: "X509",
          ServerCredentialType: "X509",
          CertificateInformation: {
            ClusterCertificate: certificate,
            ServerCertificate: { ...certificate },
            ClientCertificateThumbprints: [{ CertificateThumbprint: print(client), IsAdmin: true }],
          },
        },
      },
    },
    nodes: ["AOS1", "ORCH1", "ORCH2"].map((name, index) => ({
      name,
      upgradeDomain: `UD${index}`,
      certificates: [server.certificate, client.certificate],
    })),
    stuckDomains: ["UD1"],
    identities: [server, client],
    agent: { serverThumbprint: print(server), clientThumbprint: print(client) },
  });
}

/** A farm that signs for two federated domains, thirty days before its certificate ends. */
async function addFarm(state: TenantState, random: Random, nowMs: number): Promise<void> {
  const [signingKey, encryptionKey] = await Promise.all([makeRsaKey(), makeRsaKey()]);
  const times = { notBeforeMs: nowMs - yearMs + 30 * dayMs, notAfterMs: nowMs + 30 * dayMs };
  const certificate = await makeCertificate({ subject: "CN=ADFS Signing - fs.contoso.com", key: signingKey, ...times });
  const encryption = await makeCertificate({
    subject: "CN=ADFS Encryption - fs.contoso.com",
    key: encryptionKey,
    ...times,
  });
  state.farms.push({
    name: "fs",
    host: "fs.contoso.com",
    metadataId: random.uuid(),
    published: true,
    signing: [{ certificate, key: pkcs8(signingKey), primary: true }],
    encryption,
  });
  for (const id of ["contoso.com", "fabrikam.com"])
    state.domains.push({
      id,
      federation: {
        id: random.uuid(),
        farm: "fs",
        displayName: `Federation of ${id}`,
        signingCertificate: new X509Certificate(certificate).raw.toString("base64"),
        nextSigningCertificate: null,
        updateResult: null,
        updatedMs: nowMs - 30 * dayMs,
      },
    });
}
