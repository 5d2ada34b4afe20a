/**
 * The systems that hold the credentials and use them, on plain HTTPS: they know nothing of Keyroll, and only count. A credential's version is named by
 * the first 8 hex digits of a secret's SHA-256, or by a certificate's thumbprint.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import type { TLSSocket } from "node:tls";
import { setTimeout as sleep } from "node:timers/promises";
import { createHash, createPrivateKey, randomUUID, sign, verify, X509Certificate } from "node:crypto";
import { Agent, request } from "node:https";
import { fingerprint, type Lab } from "./lab.ts";
import { readPem, readPfx, thumbprint, type Parsed } from "./pki.ts";
import { isRecord, seconds, text } from "./http.ts";
import type { Cluster, Device } from "./state.ts";

export interface VersionCounts {
  accepted: number;
  /** The service said that this credential is not good: 400, 401 and 403. */
  refused: number;
  /** No verdict: throttled, unavailable, cut off. */
  failed: number;
  firstMs: number;
  /** Of the last success; 0: none. */
  lastAcceptedMs: number;
  lastRefusedMs: number;
  /** The last refusal's code. */
  why?: string;
}
export interface PresenterCounts {
  readonly what: string;
  readonly versions: Readonly<Record<string, VersionCounts>>;
  /** Times at which it could not read what it should use, by reason. */
  readonly unread: Readonly<Record<string, number>>;
}
export interface Presenters {
  counts(): Readonly<Record<string, PresenterCounts>>;
  stop(): Promise<void>;
}

/** Devices read the vault this often; "the device will update within 10 minutes". */
const rereadMs = 600_000;
/** How often each presenter signs in, in the lab's time. */
const useMs = 60_000;
/** A real clock cannot do better, whatever the speed. */
const shortestMs = 40;

interface Answer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

/** `folder`: devices keep key and certificates in `devices/ID.pem` below it, and read them before each use. Absent: they keep them in memory. */
export function startPresenters(lab: Lab, folder: string | undefined): Presenters {
  const agent = new Agent({ ca: lab.state.ca.certificate, keepAlive: true });
  const counters = new Map<
    string,
    { what: string; versions: Record<string, VersionCounts>; unread: Record<string, number> }
  >();
  const timers: NodeJS.Timeout[] = [];
  const running = new Set<Promise<void>>();
  const over = new AbortController();

  function counter(
    name: string,
    what: string,
  ): { versions: Record<string, VersionCounts>; unread: Record<string, number> } {
    const found = counters.get(name) ?? { what, versions: {}, unread: {} };
    counters.set(name, found);
    return found;
  }
  /** Runs now and then; never twice at once, as a system that is slow is not asked again meanwhile. */
  function every(name: string, ms: number, work: () => Promise<void>): void {
    let busy = false;
    const once = (): void => {
      if (busy || over.signal.aborted) return;
      busy = true;
      const run = work()
        // A system that stumbles goes on at its next turn; what it stumbled over is told with its counts.
        .catch((error: unknown) => unread(name, name, error instanceof Error ? error.message : String(error)))
        .finally(() => {
          busy = false;
          running.delete(run);
        });
      running.add(run);
    };
    once();
    timers.push(setInterval(once, Math.max(shortestMs, lab.span(ms))));
  }
  async function call(
    method: string,
    url: string,
    headers: Record<string, string>,
    body?: string,
    identity?: { readonly key: string; readonly cert: string; readonly pinned?: string },
  ): Promise<Answer | null> {
    // A certificate of the client's own belongs to one connection.
    const how =
      identity === undefined ? { agent } : { agent: false as const, ca: lab.state.ca.certificate, ...identity };
    return await new Promise((resolve) => {
      const sent = request(url, { method, headers, ...how, signal: over.signal, timeout: 10_000 }, (incoming) => {
        const shown = (incoming.socket as TLSSocket).getPeerX509Certificate();
        if (identity?.pinned !== undefined && (shown === undefined || thumbprint(shown) !== identity.pinned)) {
          incoming.resume();
          // To one who pins, a stranger's certificate is a refusal.
          return resolve({ status: 403, body: {} });
        }
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.on("error", () => resolve(null));
        incoming.on("end", () => {
          let parsed: unknown;
          try {
            parsed = JSON.parse(Buffer.concat(chunks).toString("utf8"));
          } catch {
            parsed = {};
          }
          resolve({ status: incoming.statusCode ?? 0, body: isRecord(parsed) ? parsed : {} });
        });
      });
      sent.on("timeout", () => sent.destroy());
      // Cut off, or ended with the lab: no verdict either way.
      sent.on("error", () => resolve(null));
      sent.end(body);
    });
  }
  /** Ends early, and quietly, with the lab. */
  const pause = async (ms: number): Promise<void> => {
    await sleep(ms, undefined, { signal: over.signal }).catch(() => undefined);
  };
  async function heldIn(file: string, device: Device): Promise<string> {
    try {
      return await readFile(file, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    const first = `${device.key}${device.chain.join("")}`;
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    await writeFile(file, first, { mode: 0o600, flag: "wx" });
    return first;
  }
  const tokenUrl = (): string => `${lab.origin()}/${lab.state.tenantId}/oauth2/v2.0/token`;
  async function tokenWith(fields: Record<string, string>, resource: string): Promise<Answer | null> {
    const form = new URLSearchParams({ grant_type: "client_credentials", scope: `${resource}/.default`, ...fields });
    return await call("POST", tokenUrl(), { "content-type": "application/x-www-form-urlencoded" }, form.toString());
  }
  function count(name: string, what: string, version: string, answer: Answer | null): void {
    const { versions } = counter(name, what);
    const now = lab.now();
    const entry = (versions[version] ??= {
      accepted: 0,
      refused: 0,
      failed: 0,
      firstMs: now,
      lastAcceptedMs: 0,
      lastRefusedMs: 0,
    });
    if (answer?.status === 200) {
      entry.accepted++;
      entry.lastAcceptedMs = now;
    } else if (answer !== null && [400, 401, 403].includes(answer.status)) {
      entry.refused++;
      entry.lastRefusedMs = now;
      const codes = answer.body["error_codes"];
      entry.why = Array.isArray(codes) ? `AADSTS${String(codes[0])}` : `HTTP ${answer.status}`;
    } else entry.failed++;
  }
  const unread = (name: string, what: string, reason: string): void => {
    const { unread: reasons } = counter(name, what);
    reasons[reason] = (reasons[reason] ?? 0) + 1;
  };

  function assertion(clientId: string, credential: Parsed): string {
    const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const now = seconds(lab.now());
    const head = encode({
      alg: "RS256",
      typ: "JWT",
      x5t: createHash("sha1").update(credential.certificates[0]!.raw).digest("base64url"),
    });
    const body = encode({
      aud: tokenUrl(),
      iss: clientId,
      sub: clientId,
      jti: randomUUID(),
      nbf: now - 5,
      exp: now + 300,
    });
    const key = createPrivateKey(credential.key.export({ type: "pkcs8", format: "pem" }));
    return `${head}.${body}.${sign("RSA-SHA256", Buffer.from(`${head}.${body}`), key).toString("base64url")}`;
  }
  const byAssertion = (clientId: string, credential: Parsed): Record<string, string> => ({
    client_id: clientId,
    client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    client_assertion: assertion(clientId, credential),
  });

  /** A Connected Spaces device: holds what it read last, and reads again every ten minutes. */
  function startDevice(spaces: NonNullable<typeof lab.state.cases.connectedSpaces>): void {
    const vault = lab.state.vaults.find((each) => each.name === spaces.vault);
    if (vault === undefined) return;
    const what = "Connected Spaces device, signs in with what it read from the vault";
    let held: { clientId: string; secret: string; certificate: Parsed } | null = null;
    every("device", rereadMs, async () => {
      const token = text(
        (
          await tokenWith(
            { client_id: spaces.deviceAppId, client_secret: spaces.deviceSecret },
            "https://vault.azure.net",
          )
        )?.body["access_token"],
      );
      if (token === undefined) return unread("device", what, "no token for the vault");
      const read = async (name: string): Promise<string | undefined> => {
        const answer = await call("GET", `${lab.vaultUrl(vault)}/secrets/${name}/?api-version=7.5`, {
          authorization: `Bearer ${token}`,
        });
        return text(answer?.body["value"]);
      };
      const [clientId, secret, pfx] = [
        await read("ServicePrincipalId"),
        await read("ServicePrincipalSecret"),
        await read("liveaiserviceprincipalprivatekey"),
      ];
      if (clientId === undefined || secret === undefined || pfx === undefined)
        return unread("device", what, "a secret could not be read");
      const certificate = pfx.includes("-----BEGIN") ? readPem(pfx) : readPfx(Buffer.from(pfx, "base64"), undefined);
      if (certificate === null) return unread("device", what, "the certificate's file could not be opened");
      held = { clientId, secret, certificate };
    });
    every("device", useMs, async () => {
      if (held === null) return;
      const { clientId, secret, certificate } = held;
      const graph = "https://graph.microsoft.com";
      count(
        "device secret",
        `${what}: the secret`,
        fingerprint(secret),
        await tokenWith({ client_id: clientId, client_secret: secret }, graph),
      );
      count(
        "device certificate",
        `${what}: the certificate`,
        thumbprint(new X509Certificate(certificate.certificates[0]!.raw)),
        await tokenWith(byAssertion(clientId, certificate), graph),
      );
    });
  }

  /** Logic Apps that call through an API connection: the platform holds the values, and signs in with them. */
  function startLogicApp(name: string): void {
    every(`logic app ${name}`, useMs, async () => {
      const connection = lab.state.connections.find((each) => each.name === name);
      const what = `Logic App on the API connection ${name}`;
      if (connection === undefined) return unread(`logic app ${name}`, what, "the connection is gone");
      const values = connection.parameterValues;
      const secret = values["token:clientSecret"] ?? "";
      const isVault = connection.api === "keyvault";
      const signIn = await tokenWith(
        { client_id: values["token:clientId"] ?? "", client_secret: secret },
        isVault ? "https://vault.azure.net" : "https://management.azure.com",
      );
      const token = text(signIn?.body["access_token"]);
      const vault = lab.state.vaults.find((each) => each.name === values["vaultName"]);
      const account = lab.state.automationAccounts[0];
      const target =
        isVault && vault
          ? `${lab.vaultUrl(vault)}/secrets/appId/?api-version=7.5`
          : account
            ? `${lab.origin()}/subscriptions/${lab.state.subscriptionId}/resourceGroups/${account.resourceGroup}/providers/Microsoft.Automation/automationAccounts/${account.name}/variables?api-version=2023-11-01`
            : undefined;
      const answer =
        token === undefined || target === undefined
          ? signIn
          : await call("GET", target, { authorization: `Bearer ${token}` });
      count(`logic app ${name}`, what, fingerprint(secret), answer);
    });
  }

  /** A runbook: Automation hands it the decrypted variable, as Get-AutomationVariable does. */
  function startRunbook(accountName: string): void {
    every("runbook", useMs, async () => {
      const account = lab.state.automationAccounts.find((each) => each.name === accountName);
      const what = `Runbook in ${accountName}, reads the variables appClientId and appSecret`;
      const read = (name: string): string | undefined => {
        try {
          return text(JSON.parse(account?.variables[name.toLowerCase()]?.value ?? "null"));
        } catch {
          return undefined;
        }
      };
      const clientId = read("appClientId");
      const secret = read("appSecret");
      if (clientId === undefined || secret === undefined) return unread("runbook", what, "the variable holds no text");
      count(
        "runbook",
        what,
        fingerprint(secret),
        await tokenWith({ client_id: clientId, client_secret: secret }, "https://graph.microsoft.com"),
      );
    });
  }

  /** A thing with a certificate: connects to its hub each minute, and provisions itself anew when it is refused there. */
  function startThing(device: Device): void {
    const { registrationId } = device;
    const service = lab.state.provisioningServices.find((each) => each.name === device.service);
    if (service === undefined) return;
    const what = `Device ${registrationId}, connects to its hub and provisions itself anew when refused`;
    const name = `thing ${registrationId}`;
    const file = folder === undefined ? undefined : path.join(folder, "devices", `${registrationId}.pem`);
    let hub: string | undefined;
    every(name, useMs, async () => {
      const identity = file === undefined ? `${device.key}${device.chain.join("")}` : await heldIn(file, device);
      const parsed = readPem(identity);
      if (parsed === null) return unread(name, what, "key and certificate do not fit");
      const credentials = {
        key: parsed.key.export({ type: "pkcs8", format: "pem" }).toString(),
        cert: parsed.certificates.map(String).join(""),
      };
      const version = thumbprint(parsed.certificates[0]!);
      const send = async (): Promise<Answer | null> =>
        hub === undefined
          ? null
          : await call(
              "POST",
              `https://${hub}/devices/${registrationId}/messages/events?api-version=2020-03-13`,
              {},
              "{}",
              credentials,
            );
      const accepted = async (): Promise<boolean> => {
        const answer = await send();
        const done = answer?.status === 204;
        if (answer?.status === 401) unread(name, what, "refused by the hub, provisions itself anew");
        if (done) count(name, what, version, { status: 200, body: {} });
        return done;
      };
      if (await accepted()) return;
      const base = `https://localhost:${lab.state.ports[`dps ${service.name}`]}/${service.idScope}/registrations/${registrationId}`;
      const query = "api-version=2021-06-01";
      const begun = await call(
        "PUT",
        `${base}/register?${query}`,
        { "content-type": "application/json" },
        JSON.stringify({ registrationId }),
        credentials,
      );
      if (begun?.status !== 202) return count(name, what, version, begun);
      for (let attempt = 0; attempt < 20 && !over.signal.aborted; attempt++) {
        await pause(Math.max(shortestMs, lab.span(3_000)));
        const polled = await call(
          "GET",
          `${base}/operations/${text(begun.body["operationId"])}?${query}`,
          {},
          undefined,
          credentials,
        );
        if (polled === null || polled.status === 202) continue;
        const state = polled.body["registrationState"];
        if (polled.body["status"] !== "assigned") return count(name, what, version, { status: 401, body: polled.body });
        hub = isRecord(state) ? text(state["assignedHub"]) : undefined;
        break;
      }
      // Refused although it was assigned: the hub was not told of the certificate.
      if (!(await accepted())) count(name, what, version, { status: 401, body: {} });
    });
  }

  /** The agent of Lifecycle Services: presents its client certificate, and pins the cluster's. */
  function startAgent(cluster: Cluster): void {
    const what = `Local agent at ${cluster.name}, pins the server's thumbprint and presents its own`;
    every("agent", useMs, async () => {
      const { serverThumbprint, clientThumbprint } = cluster.agent;
      const own = cluster.identities.find(
        (each) => thumbprint(new X509Certificate(each.certificate)) === clientThumbprint,
      );
      if (own === undefined) return unread("agent", what, "its certificate is not installed");
      const url = `https://localhost:${lab.state.ports[`fabric ${cluster.name}`]}/$/GetUpgradeProgress?api-version=6.0`;
      const answer = await call("GET", url, {}, undefined, {
        key: own.key,
        cert: own.certificate,
        pinned: serverThumbprint,
      });
      count("agent", what, `${clientThumbprint.slice(0, 8)} at ${serverThumbprint.slice(0, 8)}`, answer);
    });
  }

  /** People who sign in at a federated domain: the farm signs their token with its primary certificate, and Entra knows two for the domain. */
  function startRelyingParty(id: string): void {
    every(`sign-in ${id}`, useMs, async () => {
      const federation = lab.state.domains.find((each) => each.id === id)?.federation;
      const signer = lab.state.farms
        .find((each) => each.name === federation?.farm)
        ?.signing.find((each) => each.primary);
      const what = `Sign-ins at ${id}, whose tokens the farm signs and Entra verifies`;
      if (federation === undefined || signer === undefined)
        return unread(`sign-in ${id}`, what, "not federated, or the farm has no primary certificate");
      const token = Buffer.from(`${id} ${lab.now()}`);
      const signature = sign("RSA-SHA256", token, createPrivateKey(signer.key));
      const good = [federation.signingCertificate, federation.nextSigningCertificate].some((each) => {
        if (each === null) return false;
        const certificate = new X509Certificate(Buffer.from(each, "base64"));
        return (
          Date.parse(certificate.validTo) > lab.now() && verify("RSA-SHA256", token, certificate.publicKey, signature)
        );
      });
      count(`sign-in ${id}`, what, thumbprint(new X509Certificate(signer.certificate)), {
        status: good ? 200 : 401,
        body: {},
      });
    });
  }

  const { connectedSpaces, provisionAssist } = lab.state.cases;
  for (const { id, federation } of lab.state.domains) if (federation !== undefined) startRelyingParty(id);
  for (const cluster of lab.state.clusters) startAgent(cluster);
  for (const device of lab.state.devices) startThing(device);
  if (connectedSpaces) startDevice(connectedSpaces);
  if (provisionAssist) {
    for (const name of provisionAssist.connections) startLogicApp(name);
    startRunbook(provisionAssist.automationAccount);
  }
  return {
    counts: () => structuredClone(Object.fromEntries(counters)),
    async stop() {
      for (const timer of timers) clearInterval(timer);
      over.abort();
      await Promise.all(running);
      agent.destroy();
    },
  };
}
