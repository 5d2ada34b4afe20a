/** The Service Fabric cluster of the lab: legal transitions, rolling upgrades, roll back, and what its endpoint shows. */
import { X509Certificate } from "node:crypto";
import { request } from "node:https";
import type { TLSSocket } from "node:tls";
import { afterEach, describe, expect, it } from "vitest";
import { startTenant, type Tenant } from "../../src/lab/tenant.ts";
import { makeCertificate, makeEcKey, pkcs8, thumbprint } from "../../src/lab/pki.ts";
import type { Cluster, TenantState } from "../../src/lab/state.ts";
import { contradictions, exampleOf, haveSpecs } from "./contract.ts";

const open: Tenant[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map(async (each) => await each.stop()));
});
interface Identity {
  readonly certificate: string;
  readonly key: string;
}
const printOf = (each: { readonly certificate: string }): string => thumbprint(new X509Certificate(each.certificate));

async function start(clock: { nowMs: number }, presenters = false) {
  const tenant = await startTenant({
    seed: "fabric",
    faults: "none",
    cases: ["finance-operations"],
    now: () => clock.nowMs,
    presenters,
    speed: presenters ? 1000 : 1,
  });
  open.push(tenant);
  let state!: TenantState;
  tenant.meddle((each) => void (state = each));
  const cluster = state.clusters[0]!;
  const [server, client] = cluster.identities as [Identity, Identity];
  const url = tenant.clusters[cluster.name]!;
  const ask = async (method: string, where: string, body?: unknown, as: Identity = client) => {
    const answer = await new Promise<{ status: number; body: Record<string, unknown>; shown: string }>(
      (resolve, reject) => {
        const sent = request(
          `${url}${where}${where.includes("?") ? "&" : "?"}api-version=6.0`,
          { method, agent: false, ca: tenant.ca, key: as.key, cert: as.certificate },
          (incoming) => {
            const shown = thumbprint((incoming.socket as TLSSocket).getPeerX509Certificate()!);
            const chunks: Buffer[] = [];
            incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
            incoming.on("end", () => {
              const raw = Buffer.concat(chunks).toString();
              resolve({
                status: incoming.statusCode ?? 0,
                body: raw === "" ? {} : (JSON.parse(raw) as Record<string, unknown>),
                shown,
              });
            });
          },
        );
        sent.on("error", reject);
        sent.end(body === undefined ? undefined : JSON.stringify(body));
      },
    );
    const path = where.split("?")[0]!;
    if (haveSpecs && answer.status !== 403)
      expect({ [path]: contradictions("fabric", method, path, answer.status, answer.body) }).toEqual({ [path]: [] });
    return answer;
  };
  return { tenant, cluster, server, client, ask };
}
async function newIdentity(
  subject: string,
  state: TenantState,
  notAfterMs = Date.now() + 90 * 86_400_000,
): Promise<Identity> {
  const key = await makeEcKey();
  return {
    certificate: await makeCertificate({
      subject,
      names: ["localhost"],
      key,
      signer: state.ca,
      notBeforeMs: Date.now() - 86_400_000,
      notAfterMs,
    }),
    key: pkcs8(key),
  };
}
function configWith(
  cluster: Cluster,
  version: string,
  prints: readonly string[],
  clients?: readonly { CertificateThumbprint: string; IsAdmin: boolean }[],
) {
  const config = structuredClone(cluster.config) as {
    clusterConfigurationVersion: string;
    properties: { security: { CertificateInformation: Record<string, unknown> } };
  };
  config.clusterConfigurationVersion = version;
  const fields = {
    X509StoreName: "My",
    Thumbprint: prints[0],
    ...(prints[1] === undefined ? {} : { ThumbprintSecondary: prints[1] }),
  };
  const information = config.properties.security.CertificateInformation;
  information["ClusterCertificate"] = fields;
  information["ServerCertificate"] = { ...fields };
  if (clients) information["ClientCertificateThumbprints"] = clients;
  return { ClusterConfig: JSON.stringify(config) };
}

describe("the cluster", () => {
  it("rolls a second certificate in, domain by domain, waits for a safety check until it is told not to, and shows the new one", async () => {
    const clock = { nowMs: Date.now() };
    const { tenant, cluster, server, client, ask } = await start(clock);
    const read = await ask("GET", "/$/GetClusterConfiguration?ConfigurationApiVersion=10-2017");
    expect(JSON.parse(String(read.body["ClusterConfiguration"]))).toEqual(cluster.config);
    let state!: TenantState;
    tenant.meddle((each) => void (state = each));
    const next = await newIdentity("CN=star.onprem.contoso.com", state);
    tenant.meddle(() => {
      for (const node of cluster.nodes) node.certificates.push(next.certificate);
      cluster.identities.push(next);
    });
    const both = configWith(cluster, "2.0.0", [printOf(next).toLowerCase(), printOf(server)]);
    expect((await ask("POST", "/$/StartClusterConfigurationUpgrade", both)).status).toBe(202);
    expect((await ask("POST", "/$/StartClusterConfigurationUpgrade", both)).status).toBe(409);
    clock.nowMs += 60_000;
    const blocked = (await ask("GET", "/$/GetUpgradeProgress")).body;
    expect(blocked["UpgradeDomains"]).toEqual([
      { Name: "UD0", State: "Completed" },
      { Name: "UD1", State: "InProgress" },
      { Name: "UD2", State: "Pending" },
    ]);
    expect(blocked["CurrentUpgradeDomainProgress"]).toMatchObject({
      NodeUpgradeProgressList: [{ UpgradePhase: "PreUpgradeSafetyCheck" }],
    });
    clock.nowMs += 300_000;
    expect((await ask("GET", "/$/GetClusterConfigurationUpgradeStatus")).body["UpgradeState"]).toBe(
      "RollingForwardInProgress",
    );
    const update = {
      UpgradeKind: "Rolling",
      UpdateDescription: { RollingUpgradeMode: "Monitored", ReplicaSetCheckTimeoutInMilliseconds: 1000 },
    };
    expect((await ask("POST", "/$/UpdateUpgrade", update)).status).toBe(200);
    clock.nowMs += 120_000;
    expect((await ask("GET", "/$/GetClusterConfigurationUpgradeStatus")).body).toMatchObject({
      UpgradeState: "RollingForwardCompleted",
      ConfigVersion: "2.0.0",
    });
    await expect.poll(async () => (await ask("GET", "/$/GetUpgradeProgress")).shown).toBe(printOf(next));
    const alone = configWith(
      cluster,
      "3.0.0",
      [printOf(next)],
      [{ CertificateThumbprint: printOf(client), IsAdmin: false }],
    );
    expect((await ask("POST", "/$/StartClusterConfigurationUpgrade", alone)).status).toBe(202);
    clock.nowMs += 2_000_000;
    expect((await ask("GET", "/$/GetUpgradeProgress")).body["UpgradeState"]).toBe("RollingForwardCompleted");
    // Without admin rights it may look, and no more.
    expect((await ask("POST", "/$/RollbackUpgrade")).status).toBe(403);
  });

  it("refuses what its rules forbid, in its words", async () => {
    const clock = { nowMs: Date.now() };
    const { tenant, cluster, server, ask } = await start(clock);
    let state!: TenantState;
    tenant.meddle((each) => void (state = each));
    const [a, b, old] = [
      await newIdentity("CN=a", state),
      await newIdentity("CN=b", state),
      await newIdentity("CN=old", state, Date.now() - 1000),
    ];
    const why = async (version: string, prints: string[]): Promise<unknown> => {
      const answer = await ask("POST", "/$/StartClusterConfigurationUpgrade", configWith(cluster, version, prints));
      return answer.status === 202 ? "accepted" : (answer.body["Error"] as { Message: string }).Message;
    };
    expect(await why("1.0.0", [printOf(server)])).toMatch(/must differ/);
    expect(await why("2.0.0", [printOf(a), printOf(server)])).toMatch(/is not installed, or not valid, on node AOS1/);
    tenant.meddle(() =>
      cluster.nodes.forEach((node) => node.certificates.push(a.certificate, b.certificate, old.certificate)),
    );
    expect(await why("2.0.0", [printOf(old), printOf(server)])).toMatch(/is not installed, or not valid/);
    expect(await why("2.0.0", [printOf(a), printOf(b)])).toBe(
      "Upgrading from 1 to 2 certificates with no certificate in common is not allowed.",
    );
    tenant.meddle(
      () => (cluster.config = JSON.parse(configWith(cluster, "1.0.0", [printOf(a), printOf(server)]).ClusterConfig)),
    );
    expect(await why("2.0.0", [printOf(server), printOf(a)])).toBe(
      "Upgrading from 2 different certificates to 2 different certificates is not allowed.",
    );
    expect(await why("2.0.0", [printOf(b)])).toBe(
      "Upgrading from 2 to 1 certificates with no certificate in common is not allowed.",
    );
    expect(await why("2.0.0", [printOf(a)])).toBe("accepted");
    const stranger = await newIdentity("CN=stranger", state);
    expect((await ask("GET", "/$/GetUpgradeProgress", undefined, stranger)).status).toBe(403);
  });

  it("rolls back where a node lacks the certificate, and when it is told to", async () => {
    const clock = { nowMs: Date.now() };
    const { tenant, cluster, server, ask } = await start(clock);
    let state!: TenantState;
    tenant.meddle((each) => void (state = each));
    const next = await newIdentity("CN=next", state);
    // The validating node has it, the last one does not.
    tenant.meddle(() => {
      cluster.nodes[0]!.certificates.push(next.certificate);
      cluster.nodes[1]!.certificates.push(next.certificate);
      cluster.stuckDomains = [];
    });
    await ask("POST", "/$/StartClusterConfigurationUpgrade", configWith(cluster, "2.0.0", [printOf(next)]));
    clock.nowMs += 600_000;
    const failed = (await ask("GET", "/$/GetUpgradeProgress")).body;
    expect(failed).toMatchObject({
      UpgradeState: "RollingBackCompleted",
      FailureReason: "HealthCheck",
      ConfigVersion: "1.0.0",
      UpgradeDomainProgressAtFailure: { DomainName: "UD2" },
    });
    await ask(
      "POST",
      "/$/StartClusterConfigurationUpgrade",
      configWith(cluster, "2.0.1", [printOf(next), printOf(server)]),
    );
    expect((await ask("POST", "/$/RollbackUpgrade")).status).toBe(202);
    clock.nowMs += 600_000;
    expect((await ask("GET", "/$/GetUpgradeProgress")).body).toMatchObject({
      UpgradeState: "RollingBackCompleted",
      FailureReason: "Interrupted",
    });
    if (haveSpecs)
      expect(exampleOf("fabric", "StartClusterConfigurationUpgrade-1.json").responses["202"]).toBeDefined();
  });

  it("has an agent that is refused when what it pins is gone", async () => {
    const clock = { nowMs: Date.now() };
    const { tenant, cluster } = await start(clock, true);
    const counts = () => Object.values(tenant.inspect().presenters["agent"]?.versions ?? {});
    await expect.poll(() => counts()[0]?.accepted ?? 0, { timeout: 10_000 }).toBeGreaterThan(0);
    expect(counts()[0]!.refused).toBe(0);
    tenant.meddle(() => (cluster.agent.serverThumbprint = "0".repeat(40)));
    await expect.poll(() => counts().some((each) => each.refused > 0), { timeout: 10_000 }).toBe(true);
  });
});
