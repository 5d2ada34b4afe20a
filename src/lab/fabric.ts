/**
 * A standalone Service Fabric cluster, secured by thumbprints. Reference: Service Fabric client REST API 8.2; the rules of certificate upgrades are those
 * that the service's own validation holds a new configuration to.
 */
import { X509Certificate } from "node:crypto";
import { isRecord, jsonBody, Refusal, text, type Json, type LabRequest, type Reply } from "./http.ts";
import type { Lab, Service } from "./lab.ts";
import { thumbprint } from "./pki.ts";
import type { Cluster, ClusterNode, ClusterUpgrade } from "./state.ts";

/** In the lab's time: a domain's own upgrade, and the safety check of a domain that waits for replicas. */
const domainMs = 60_000;
const stuckCheckMs = 900_000;
/** What the service waits by default for a safety check: practically for ever. */
export const endlessCheckMs = 42_949_672_925_000;

const part = (value: Json | undefined, name: string): Json | undefined => {
  const found = value?.[name];
  return isRecord(found) ? found : undefined;
};
/** Spaced, in lower case, with an invisible mark in front as Windows' dialog copies it: one form for all. */
export const plainThumbprint = (value: string): string => value.replace(/[^0-9A-Fa-f]/g, "").toUpperCase();
const securityOf = (config: Json): Json | undefined =>
  part(part(part(config, "properties"), "security"), "CertificateInformation");

/** Primary first. */
export function thumbprintsOf(config: Json, which: "ClusterCertificate" | "ServerCertificate"): string[] {
  const fields = part(securityOf(config), which);
  return ["Thumbprint", "ThumbprintSecondary"].flatMap((name) => {
    const value = plainThumbprint(text(fields?.[name]) ?? "");
    return value === "" ? [] : [value];
  });
}
function clientsOf(config: Json): { thumbprint: string; admin: boolean }[] {
  const list = securityOf(config)?.["ClientCertificateThumbprints"];
  return (Array.isArray(list) ? list : []).flatMap((each: unknown) => {
    const value = isRecord(each) ? plainThumbprint(text(each["CertificateThumbprint"]) ?? "") : "";
    return value === "" ? [] : [{ thumbprint: value, admin: isRecord(each) && each["IsAdmin"] === true }];
  });
}

/** Installed on that node and valid now. */
function usable(node: ClusterNode, print: string, nowMs: number): boolean {
  const pem = node.certificates.find((each) => thumbprint(new X509Certificate(each)) === print);
  if (pem === undefined) return false;
  const certificate = new X509Certificate(pem);
  return Date.parse(certificate.validFrom) <= nowMs && nowMs < Date.parse(certificate.validTo);
}

/** Why a configuration may not follow another one; `null`: it may. */
export function transitionProblem(cluster: Cluster, next: Json, nowMs: number): string | null {
  const version = text(next["clusterConfigurationVersion"]);
  if (version === undefined) return "clusterConfigurationVersion is missing.";
  if (version === cluster.config["clusterConfigurationVersion"])
    return "The clusterConfigurationVersion of the new configuration must differ from the current one.";
  if (next["name"] !== cluster.config["name"]) return "The cluster's name cannot be changed.";
  const [validating] = cluster.nodes;
  for (const which of ["ClusterCertificate", "ServerCertificate"] as const) {
    const from = thumbprintsOf(cluster.config, which);
    const to = thumbprintsOf(next, which);
    if (to.length === 0) return `${which} has no thumbprint.`;
    if (to.length === 2 && to[0] === to[1]) return `${which}: primary and secondary thumbprint are the same.`;
    const unchanged = from.join() === to.join();
    if (unchanged) continue;
    // TwoCertificatesToTwoCertificatesNotAllowed, in the service's words. A swap is one as well.
    if (from.length === 2 && to.length === 2)
      return "Upgrading from 2 different certificates to 2 different certificates is not allowed.";
    const common = to.some((each) => from.includes(each));
    if (!common && (from.length !== 1 || to.length !== 1))
      return `Upgrading from ${from.length} to ${to.length} certificates with no certificate in common is not allowed.`;
    if (validating === undefined) return "The cluster has no node.";
    if (!from.some((each) => usable(validating, each, nowMs)))
      return `None of the current certificates of ${which} is installed and valid on node ${validating.name}.`;
    const absent = to.filter((each) => !from.includes(each)).find((each) => !usable(validating, each, nowMs));
    if (absent !== undefined)
      return `The certificate ${absent} of ${which} is not installed, or not valid, on node ${validating.name}.`;
  }
  return null;
}

const domainsOf = (cluster: Cluster): string[] => [...new Set(cluster.nodes.map((each) => each.upgradeDomain))].sort();

/** Lets the time that has passed act on the upgrade. Called before every answer and every handshake. */
export function advance(lab: Lab, cluster: Cluster): void {
  const upgrade = cluster.upgrade;
  if (upgrade === undefined || !upgrade.state.endsWith("InProgress")) return;
  const domains = domainsOf(cluster);
  const now = lab.now();
  while (upgrade.state.endsWith("InProgress") && upgrade.domain < domains.length) {
    const name = domains[upgrade.domain]!;
    const forward = upgrade.state === "RollingForwardInProgress";
    const checkMs = cluster.stuckDomains.includes(name) && forward ? Math.min(stuckCheckMs, upgrade.checkTimeoutMs) : 0;
    const doneMs = upgrade.domainStartMs + lab.span(checkMs + domainMs);
    if (now < doneMs) return;
    const unfit = cluster.nodes.find(
      (node) =>
        node.upgradeDomain === name &&
        (["ClusterCertificate", "ServerCertificate"] as const).some(
          (which) => !thumbprintsOf(upgrade.config, which).some((print) => usable(node, print, doneMs)),
        ),
    );
    if (forward && unfit !== undefined) {
      upgrade.state = "RollingBackInProgress";
      upgrade.failure = { reason: "HealthCheck", atMs: doneMs, domain: name, node: unfit.name };
      upgrade.domain = 0;
    } else upgrade.domain++;
    upgrade.domainStartMs = doneMs;
    // The timeout that was set holds for the domain that was under way.
    upgrade.checkTimeoutMs = endlessCheckMs;
    const last = upgrade.failure === undefined ? domains.length : domains.indexOf(upgrade.failure.domain) + 1;
    if (upgrade.domain >= last) {
      if (upgrade.state === "RollingForwardInProgress") {
        upgrade.state = "RollingForwardCompleted";
        cluster.config = upgrade.config;
      } else upgrade.state = "RollingBackCompleted";
      upgrade.endMs = doneMs;
    }
    lab.changed();
  }
}

/** The certificate that the cluster's endpoint shows: the one of its server certificates that ends last, as far as its key is there. */
export function serverIdentity(cluster: Cluster, nowMs: number): { certificate: string; key: string } | undefined {
  const wanted = thumbprintsOf(cluster.config, "ServerCertificate");
  return cluster.identities
    .filter((each) => {
      const certificate = new X509Certificate(each.certificate);
      return wanted.includes(thumbprint(certificate)) && Date.parse(certificate.validFrom) <= nowMs;
    })
    .sort(
      (a, b) =>
        Date.parse(new X509Certificate(b.certificate).validTo) - Date.parse(new X509Certificate(a.certificate).validTo),
    )[0];
}

export function fabricService(lab: Lab): Service {
  const error = (status: number, code: string, message: string): Reply => ({
    status,
    body: { Error: { Code: code, Message: message } },
  });
  const refuse = (status: number, code: string, message: string): never => {
    throw new Refusal(error(status, code, message));
  };
  /** A stranger gets no words. */
  function need(request: LabRequest, cluster: Cluster, admin: boolean): void {
    const print = request.peer[0] === undefined ? "" : thumbprint(request.peer[0]);
    const own = [
      ...thumbprintsOf(cluster.config, "ClusterCertificate"),
      ...thumbprintsOf(cluster.config, "ServerCertificate"),
    ];
    const client = clientsOf(cluster.config).find((each) => each.thumbprint === print);
    if (own.includes(print) || (client !== undefined && (client.admin || !admin))) return;
    throw new Refusal({ status: 403 });
  }

  function progress(cluster: Cluster): Json {
    const { upgrade } = cluster;
    const domains = domainsOf(cluster);
    const state = upgrade?.state ?? "RollingForwardCompleted";
    const running = upgrade?.state.endsWith("InProgress") === true;
    const stateOf = (index: number): string =>
      !running || index < upgrade.domain ? "Completed" : index === upgrade.domain ? "InProgress" : "Pending";
    const current = running ? domains[upgrade.domain] : undefined;
    const nodes = cluster.nodes.filter((each) => each.upgradeDomain === current);
    const blocked =
      running &&
      upgrade.state === "RollingForwardInProgress" &&
      cluster.stuckDomains.includes(current ?? "") &&
      lab.now() < upgrade.domainStartMs + lab.span(Math.min(stuckCheckMs, upgrade.checkTimeoutMs));
    return {
      CodeVersion: cluster.codeVersion,
      ConfigVersion: versionOf(running ? upgrade.config : cluster.config),
      UpgradeDomains: domains.map((name, index) => ({ Name: name, State: stateOf(index) })),
      UpgradeState: state,
      NextUpgradeDomain: running ? (domains[upgrade.domain + 1] ?? "") : "",
      RollingUpgradeMode: upgrade?.mode ?? "Monitored",
      UpgradeDurationInMilliseconds:
        upgrade === undefined ? "PT0S" : `PT${Math.round(((upgrade.endMs ?? lab.now()) - upgrade.startMs) / 1000)}S`,
      UpgradeDomainDurationInMilliseconds: running
        ? `PT${Math.round((lab.now() - upgrade.domainStartMs) / 1000)}S`
        : "PT0S",
      UnhealthyEvaluations: [],
      CurrentUpgradeDomainProgress: {
        DomainName: current ?? "",
        NodeUpgradeProgressList: nodes.map((each) => ({
          NodeName: each.name,
          UpgradePhase: blocked ? "PreUpgradeSafetyCheck" : "Upgrading",
          PendingSafetyChecks: [],
        })),
      },
      StartTimestampUtc: new Date(upgrade?.startMs ?? 0).toISOString(),
      FailureTimestampUtc: new Date(upgrade?.failure?.atMs ?? 0).toISOString(),
      FailureReason: upgrade?.failure?.reason ?? "None",
      UpgradeDomainProgressAtFailure: {
        DomainName: upgrade?.failure?.domain ?? "",
        NodeUpgradeProgressList:
          upgrade?.failure?.node === undefined
            ? []
            : [{ NodeName: upgrade.failure.node, UpgradePhase: "Upgrading", PendingSafetyChecks: [] }],
      },
    };
  }

  function start(request: LabRequest, cluster: Cluster): Reply {
    if (cluster.upgrade?.state.endsWith("InProgress") === true)
      return refuse(409, "FABRIC_E_FABRIC_UPGRADE_IN_PROGRESS", "A cluster upgrade is in progress.");
    const given = jsonBody(request) ?? refuse(400, "E_INVALIDARG", "The body is not valid JSON.");
    let next: unknown;
    try {
      next = JSON.parse(text(given["ClusterConfig"]) ?? "");
    } catch {
      next = undefined;
    }
    if (!isRecord(next))
      return refuse(400, "FABRIC_E_INVALID_CONFIGURATION", "ClusterConfig is not the text of a JSON object.");
    const problem = transitionProblem(cluster, next, lab.now());
    if (problem !== null) return refuse(400, "FABRIC_E_FABRIC_UPGRADE_VALIDATION_ERROR", problem);
    const upgrade: ClusterUpgrade = {
      config: structuredClone(next),
      state: "RollingForwardInProgress",
      mode: "Monitored",
      domain: 0,
      startMs: lab.now(),
      domainStartMs: lab.now(),
      checkTimeoutMs: endlessCheckMs,
    };
    cluster.upgrade = upgrade;
    lab.changed();
    return { status: 202 };
  }

  function route(request: LabRequest, cluster: Cluster): Reply {
    advance(lab, cluster);
    const key = `${request.method} ${request.path}`;
    const reads = key === "GET /$/GetUpgradeProgress" || key === "GET /$/GetClusterConfigurationUpgradeStatus";
    need(request, cluster, !reads);
    if (!/^\d+\.\d+$/.test(request.query.get("api-version") ?? ""))
      return refuse(400, "E_INVALIDARG", "The api-version query parameter is required.");
    const upgrade = cluster.upgrade;
    const running = upgrade?.state.endsWith("InProgress") === true ? upgrade : undefined;
    switch (key) {
      case "GET /$/GetClusterConfiguration":
        if (request.query.get("ConfigurationApiVersion") === null)
          return refuse(400, "E_INVALIDARG", "ConfigurationApiVersion is required.");
        return { status: 200, body: { ClusterConfiguration: JSON.stringify(cluster.config) } };
      case "GET /$/GetUpgradeProgress":
        return { status: 200, body: progress(cluster) };
      case "GET /$/GetClusterConfigurationUpgradeStatus":
        return {
          status: 200,
          body: {
            UpgradeState: upgrade?.state ?? "RollingForwardCompleted",
            ProgressStatus: 0,
            ConfigVersion: versionOf(running?.config ?? cluster.config),
            Details:
              upgrade?.failure === undefined
                ? ""
                : `Rolled back: node ${upgrade.failure.node ?? ""} of ${upgrade.failure.domain} did not become healthy.`,
          },
        };
      case "POST /$/StartClusterConfigurationUpgrade":
        return start(request, cluster);
      case "POST /$/UpdateUpgrade": {
        if (running === undefined)
          return refuse(400, "FABRIC_E_FABRIC_NOT_UPGRADING", "No cluster upgrade is in progress.");
        const given = jsonBody(request) ?? refuse(400, "E_INVALIDARG", "The body is not valid JSON.");
        const description = part(given, "UpdateDescription");
        const mode = text(description?.["RollingUpgradeMode"]);
        if (mode === undefined) return refuse(400, "E_INVALIDARG", "UpdateDescription.RollingUpgradeMode is required.");
        running.mode = mode;
        const timeout = description?.["ReplicaSetCheckTimeoutInMilliseconds"];
        if (typeof timeout === "number") running.checkTimeoutMs = timeout;
        lab.changed();
        return { status: 200 };
      }
      case "POST /$/RollbackUpgrade": {
        if (running === undefined)
          return refuse(400, "FABRIC_E_FABRIC_NOT_UPGRADING", "No cluster upgrade is in progress.");
        running.failure = { reason: "Interrupted", atMs: lab.now(), domain: domainsOf(cluster)[running.domain] ?? "" };
        running.state = "RollingBackInProgress";
        running.domain = 0;
        running.domainStartMs = lab.now();
        lab.changed();
        return { status: 202 };
      }
      default:
        return refuse(404, "FABRIC_E_INVALID_ADDRESS", `There is nothing at ${request.path}.`);
    }
  }
  const versionOf = (config: Json): string => text(config["clusterConfigurationVersion"]) ?? "";

  return {
    name: "fabric",
    async handle(request) {
      const cluster = lab.state.clusters.find(
        (each) => each.name === lab.listenerAt(request.port)?.replace(/^fabric /, ""),
      );
      return cluster === undefined
        ? error(404, "FABRIC_E_INVALID_ADDRESS", "There is no cluster at this address.")
        : route(request, cluster);
    },
    throttled: (_, retryAfterS) => ({ status: 429, headers: { "retry-after": String(retryAfterS) } }),
    unavailable: () => error(503, "FABRIC_E_GATEWAY_NOT_REACHABLE", "The gateway is not reachable."),
    limit: () => 0,
  };
}
