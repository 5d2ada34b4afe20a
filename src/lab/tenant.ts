/**
 * An emulated Microsoft tenant on 127.0.0.1, over TLS with a CA of its own: sign-in, Microsoft Graph, Azure Resource Manager and Key Vault. The first
 * listener serves sign-in, Graph and Resource Manager, told apart by their paths; each vault has a listener to itself, because a vault is a host to its
 * clients. docs/lab.md says where the emulation is known to differ from the service.
 */
import { randomUUID, X509Certificate } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:https";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import type { DetailedPeerCertificate, TLSSocket } from "node:tls";
import { adfsService } from "./adfs.ts";
import { armService } from "./arm.ts";
import { advance, fabricService, serverIdentity } from "./fabric.ts";
import { faultsOf, Limiter, mishapOf, type FaultProfile, type Faults, type Mishap } from "./faults.ts";
import { newState, usualCases, type FoundingCase } from "./founding.ts";
import { graphService, keyThumbprint } from "./graph.ts";
import { isoSeconds, Refusal, type LabRequest, type Reply } from "./http.ts";
import { fingerprint, matches, type Lab, type Service } from "./lab.ts";
import { hubHost, hubService, provisioningService } from "./iot.ts";
import { loginService } from "./login.ts";
import { thumbprint } from "./pki.ts";
import { startPresenters, type PresenterCounts, type Presenters } from "./presenters.ts";
import { randomFrom } from "./random.ts";
import type { Cluster, Device, TenantState } from "./state.ts";
import { latest, leafOf, vaultService } from "./vault.ts";

export interface TenantOptions {
  /** Names, delays and faults follow from it. Printed by whoever picks one at random. */
  readonly seed?: string | number;
  /** How many seconds of the lab pass in one of ours: delays, limits and the presenters' intervals are that much shorter. Dates are not touched. */
  readonly speed?: number;
  readonly faults?: FaultProfile | Partial<Faults>;
  /**
   * Permissions that Keyroll's own principal lacks, by their published names: a Graph role (`Application.ReadWrite.OwnedBy`), an Azure action
   * (`Microsoft.Web/connections/write`), or an operation of a vault (`secrets set`). `*` stands for any text.
   */
  readonly deny?: readonly string[];
  /** Keeps the state in `tenant.json` below it, readable by its owner only; a tenant that is there already goes on. Absent: in memory. */
  readonly folder?: string;
  /** Default: Connected Spaces and Provision Assist. */
  readonly cases?: readonly FoundingCase[];
  /** Start the systems that use the credentials and count. */
  readonly presenters?: boolean;
  readonly now?: () => number;
}

/** What there is, without any secret: a secret is named by the first 8 hex digits of its SHA-256, a certificate by its SHA-1 thumbprint. */
export interface Inspection {
  readonly applications: readonly {
    readonly appId: string;
    readonly displayName: string;
    readonly passwords: readonly { readonly keyId: string; readonly version: string; readonly end: string }[];
    readonly keys: readonly { readonly keyId: string; readonly thumbprint: string; readonly end: string }[];
  }[];
  readonly vaults: readonly {
    readonly name: string;
    /** Oldest first. */
    readonly secrets: Readonly<
      Record<string, readonly { readonly id: string; readonly version: string; readonly enabled: boolean }[]>
    >;
    readonly certificates: Readonly<
      Record<string, readonly { readonly id: string; readonly thumbprint: string; readonly enabled: boolean }[]>
    >;
  }[];
  readonly connections: Readonly<Record<string, string>>;
  readonly variables: Readonly<Record<string, string>>;
  readonly presenters: Readonly<Record<string, PresenterCounts>>;
  /** Requests by service and status; those whose connection was cut count as `dropped-before` and `dropped-after`. */
  readonly requests: Readonly<Record<string, number>>;
}

export interface Served {
  readonly atMs: number;
  readonly service: string;
  readonly method: string;
  /** Without its query. */
  readonly path: string;
  readonly status: number;
  readonly mishap: Mishap | null;
}

export interface Tenant {
  /** PEM: what clients must trust. */
  readonly ca: string;
  /** `https://localhost:PORT`: authority host, and the origin of Graph (`/v1.0`) and Resource Manager (`/subscriptions`). */
  readonly url: string;
  /** Vault name to its URL. */
  readonly vaults: Readonly<Record<string, string>>;
  /** Name to URL: of provisioning services (for administrators and for devices), and of IoT hubs. */
  readonly provisioning: Readonly<Record<string, string>>;
  readonly hubs: Readonly<Record<string, string>>;
  /** Name to URL of Service Fabric clusters; the certificate there is the cluster's own. */
  readonly clusters: Readonly<Record<string, string>>;
  /** Name to URL of the AD FS farms that can be reached from here. */
  readonly farms: Readonly<Record<string, string>>;
  readonly tenantId: string;
  readonly subscriptionId: string;
  /** The principal that Keyroll signs in as. */
  readonly operator: {
    readonly clientId: string;
    readonly clientSecret: string;
    readonly certificate: string;
    readonly key: string;
  };
  readonly cases: TenantState["cases"];
  readonly seed: string;
  inspect(): Inspection;
  /** What the devices hold in memory, keys included; with a folder they hold what is in their files. */
  inspectDevices(): { readonly idScope: string | undefined; readonly devices: readonly Device[] };
  /** The requests so far, the oldest first; a few thousand at most. */
  served(): readonly Served[];
  /** Changes the state behind everybody's back, as another administrator would. */
  meddle(change: (state: TenantState) => void): void;
  /** Replaces the list of permissions that were taken away. */
  deny(permissions: readonly string[]): void;
  setFaults(faults: FaultProfile | Partial<Faults>): void;
  /** Ends the presenters, closes the listeners and keeps the state. */
  stop(): Promise<void>;
}

const stateFile = "tenant.json";
const mostServed = 5_000;
const mostBodyBytes = 1_048_576;

export async function startTenant(options: TenantOptions = {}): Promise<Tenant> {
  const now = options.now ?? Date.now;
  const speed = options.speed ?? 1;
  if (!(speed >= 1 && speed <= 100_000)) throw new RangeError(`speed must be between 1 and 100000, and is ${speed}`);
  const state =
    (await readState(options.folder)) ??
    (await newState(String(options.seed ?? 1), options.cases ?? usualCases, now()));
  // Each start goes on with dice of its own, so that a restart does not hand out the same identifiers again.
  const startMs = options.folder === undefined ? 0 : now();
  let faults = faultsOf(options.faults);
  let denied = options.deny ?? [];
  const servers = new Map<number, Server>();
  const portNames = new Map<number, string>();
  const dice = randomFrom(state.seed, `dice ${startMs}`);
  let dirty = false;
  let saving: Promise<void> = Promise.resolve();
  let unkept: unknown;

  const lab: Lab = {
    state,
    now,
    span: (ms) => ms / speed,
    faults: () => faults,
    ids: randomFrom(state.seed, `ids ${startMs}`),
    dice: randomFrom(state.seed, `replicas ${startMs}`),
    origin: () => `https://localhost:${state.ports["main"]}`,
    vaultUrl: (vault) => `https://localhost:${state.ports[`vault ${vault.name}`]}`,
    vaultAt: (port) => state.vaults.find((each) => portNames.get(port) === `vault ${each.name}`),
    listenerAt: (port) => portNames.get(port),
    denied: (permission) => denied.some((each) => matches(each, permission)),
    changed() {
      if (dirty || options.folder === undefined) return;
      dirty = true;
      // What could not be kept is said when the lab ends; nobody waits for it before.
      saving = saving.then(save).catch((error: unknown) => {
        unkept ??= error;
      });
    },
    past: new Map(),
  };
  async function save(): Promise<void> {
    if (options.folder === undefined) return;
    dirty = false;
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    const file = path.join(options.folder, stateFile);
    await writeFile(`${file}.new`, JSON.stringify(state), { mode: 0o600 });
    await rename(`${file}.new`, file);
  }

  const limiter = new Limiter(speed);
  const login = loginService(lab);
  const graph = graphService(lab, limiter);
  const arm = armService(lab, limiter);
  const vault = vaultService(lab, limiter);
  const dps = provisioningService(lab, limiter);
  const hub = hubService(lab, limiter);
  const fabric = fabricService(lab);
  const adfs = adfsService(lab);
  const counts = new Map<string, number>();
  const served: Served[] = [];

  function serviceOf(request: LabRequest): Service {
    const kind = portNames.get(request.port)?.split(" ")[0];
    const own = { vault, dps, hub, fabric, adfs }[kind ?? ""];
    if (own !== undefined) return own;
    const first = request.segments[0]?.toLowerCase();
    if (first === "v1.0" || first === "beta") return graph;
    if (first === "subscriptions" || first === "providers") return arm;
    return login;
  }

  async function answer(incoming: IncomingMessage, outgoing: ServerResponse, port: number): Promise<void> {
    const request = await readRequest(incoming, port);
    if (request === null) {
      outgoing.writeHead(413).end();
      return;
    }
    const service = serviceOf(request);
    const mishap = mishapOf(faults, dice);
    const record = (status: number): void => {
      const key = mishap?.startsWith("dropped") ? `${service.name} ${mishap}` : `${service.name} ${status}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
      served.push({ atMs: now(), service: service.name, method: request.method, path: request.path, status, mishap });
      if (served.length > mostServed) served.shift();
    };
    if (mishap === "dropped-before") {
      record(0);
      incoming.socket.destroy();
      return;
    }
    const waitMs = faults.limits ? service.limit(request) : 0;
    let reply: Reply;
    if (waitMs > 0) reply = service.throttled(request, Math.max(1, Math.ceil(waitMs / 1000)));
    else if (mishap === "throttled") reply = service.throttled(request, 1);
    else if (mishap === "unavailable") reply = service.unavailable(request);
    else {
      try {
        reply = await service.handle(request);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        reply = error.reply;
      }
    }
    record(reply.status);
    if (mishap === "dropped-after") {
      incoming.socket.destroy();
      return;
    }
    const text = reply.text?.content ?? (reply.body === undefined ? "" : JSON.stringify(reply.body));
    const type = reply.text?.type ?? (reply.body === undefined ? undefined : "application/json; charset=utf-8");
    outgoing.writeHead(reply.status, {
      ...(type === undefined ? {} : { "content-type": type }),
      "content-length": Buffer.byteLength(text),
      "request-id": request.requestId,
      "x-ms-request-id": request.requestId,
      ...reply.headers,
    });
    outgoing.end(text);
  }

  async function listen(name: string): Promise<void> {
    const server = createServer({
      key: state.server.key,
      cert: state.server.certificate,
      minVersion: "TLSv1.2",
      // Devices show certificates of their own makers; whether one is good is for the service to say, in its own words.
      ...(/^(dps|hub|fabric) /.test(name) ? { requestCert: true, rejectUnauthorized: false } : {}),
    });
    let port = await openPort(server, state.ports[name] ?? 0).catch(() => openPort(server, 0));
    server.on("request", (incoming, outgoing) => {
      answer(incoming, outgoing, port).catch((error: unknown) => {
        // The client went away in the middle, or heard half of the answer: there is nobody to tell.
        if (incoming.socket.destroyed || outgoing.headersSent) return void incoming.socket.destroy();
        // A mistake of the lab's own: said in the answer, so that whoever tests against it sees it.
        outgoing
          .writeHead(500, { "content-type": "text/plain" })
          .end(`lab: ${error instanceof Error ? error.stack : String(error)}`);
      });
    });
    // Clients that go away in the middle are no concern of ours.
    server.on("clientError", (_, socket) => socket.destroy());
    servers.set(port, server);
    portNames.set(port, name);
    state.ports[name] = port;
  }

  const shown = new Map<string, string>();
  function present(cluster: Cluster): void {
    advance(lab, cluster);
    const identity = serverIdentity(cluster, now());
    if (identity === undefined || shown.get(cluster.name) === identity.certificate) return;
    shown.set(cluster.name, identity.certificate);
    servers.get(state.ports[`fabric ${cluster.name}`] ?? 0)?.setSecureContext({
      key: identity.key,
      cert: identity.certificate,
      minVersion: "TLSv1.2",
    });
  }

  await listen("main");
  for (const each of state.vaults) await listen(`vault ${each.name}`);
  for (const each of state.provisioningServices) await listen(`dps ${each.name}`);
  for (const each of state.hubs) await listen(`hub ${each.name}`);
  for (const each of state.farms) if (each.published) await listen(`adfs ${each.name}`);
  for (const each of state.clusters) await listen(`fabric ${each.name}`);
  for (const each of state.clusters) present(each);
  // A handshake comes before any request, so the endpoint follows its configuration by itself.
  const follow = setInterval(() => {
    for (const each of state.clusters) present(each);
  }, 50);
  follow.unref();
  lab.changed();
  const presenters: Presenters | null = options.presenters === true ? startPresenters(lab, options.folder) : null;

  return {
    ca: state.ca.certificate,
    url: lab.origin(),
    vaults: Object.fromEntries(state.vaults.map((each) => [each.name, lab.vaultUrl(each)])),
    provisioning: Object.fromEntries(
      state.provisioningServices.map((each) => [each.name, `https://localhost:${state.ports[`dps ${each.name}`]}`]),
    ),
    farms: Object.fromEntries(
      state.farms
        .filter((each) => each.published)
        .map((each) => [each.name, `https://localhost:${state.ports[`adfs ${each.name}`]}`]),
    ),
    clusters: Object.fromEntries(
      state.clusters.map((each) => [each.name, `https://localhost:${state.ports[`fabric ${each.name}`]}`]),
    ),
    hubs: Object.fromEntries(state.hubs.map((each) => [each.name, `https://${hubHost(lab, each.name)}`])),
    tenantId: state.tenantId,
    subscriptionId: state.subscriptionId,
    operator: state.operator,
    cases: state.cases,
    seed: state.seed,
    inspect: () => ({
      applications: state.applications.map((app) => ({
        appId: app.appId,
        displayName: app.displayName,
        passwords: app.passwords.map((each) => ({
          keyId: each.keyId,
          version: fingerprint(each.secret),
          end: isoSeconds(each.endMs),
        })),
        keys: app.keys.map((each) => ({
          keyId: each.keyId,
          thumbprint: keyThumbprint(each),
          end: isoSeconds(each.endMs),
        })),
      })),
      vaults: state.vaults.map((each) => ({
        name: each.name,
        secrets: Object.fromEntries(
          Object.values(each.secrets)
            .filter((secret) => secret.deletedMs === undefined)
            .map((secret) => [
              secret.name,
              secret.versions.map((one) => ({
                id: one.version,
                version: fingerprint(one.value),
                enabled: one.attributes.enabled,
              })),
            ]),
        ),
        certificates: Object.fromEntries(
          Object.values(each.certificates)
            .filter((certificate) => certificate.deletedMs === undefined && latest(certificate.versions) !== undefined)
            .map((certificate) => [
              certificate.name,
              certificate.versions.map((one) => ({
                id: one.version,
                thumbprint: thumbprint(leafOf(one)),
                enabled: one.attributes.enabled,
              })),
            ]),
        ),
      })),
      connections: Object.fromEntries(
        state.connections.map((each) => [each.name, fingerprint(each.parameterValues["token:clientSecret"] ?? "")]),
      ),
      variables: Object.fromEntries(
        state.automationAccounts.flatMap((account) =>
          Object.values(account.variables).map((each) => [
            `${account.name}/${each.name}`,
            fingerprint(decoded(each.value)),
          ]),
        ),
      ),
      presenters: presenters?.counts() ?? {},
      requests: Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1))),
    }),
    inspectDevices: () => ({
      idScope: state.provisioningServices[0]?.idScope,
      devices: structuredClone(state.devices),
    }),
    served: () => [...served],
    meddle(change) {
      change(state);
      lab.changed();
    },
    deny(permissions) {
      denied = permissions;
    },
    setFaults(wish) {
      faults = faultsOf(wish);
    },
    async stop() {
      clearInterval(follow);
      await presenters?.stop();
      await Promise.all(
        [...servers.values()].map(
          (server) =>
            new Promise<void>((resolve) => {
              server.close(() => resolve());
              server.closeAllConnections();
            }),
        ),
      );
      await saving;
      await save();
      if (unkept !== undefined) throw unkept;
    },
  };
}

/** A variable's value is JSON text; what is not stands for itself. */
function decoded(value: string): string {
  try {
    return String(JSON.parse(value));
  } catch {
    return value;
  }
}

async function readState(folder: string | undefined): Promise<TenantState | null> {
  if (folder === undefined) return null;
  const file = path.join(folder, stateFile);
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  const state = JSON.parse(text) as TenantState;
  if (state.format !== 1)
    throw new Error(`${file} was written by another version of the lab; start with an empty folder`);
  return state;
}

function openPort(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      server.off("error", reject);
      resolve((server.address() as AddressInfo).port);
    });
  });
}

/** What is not well encoded stands for itself, and names nothing that exists. */
function decodedSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** `null`: longer than any request that a client has reason to send. */
async function readRequest(incoming: IncomingMessage, port: number): Promise<LabRequest | null> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > mostBodyBytes) return null;
    chunks.push(chunk);
  }
  const origin = `https://${incoming.headers.host ?? `localhost:${port}`}`;
  const url = new URL(incoming.url ?? "/", origin);
  return {
    method: incoming.method ?? "GET",
    origin,
    port,
    path: url.pathname,
    segments: url.pathname
      .split("/")
      .filter((each) => each !== "")
      .map(decodedSegment),
    query: url.searchParams,
    headers: incoming.headers,
    body: Buffer.concat(chunks).toString("utf8"),
    requestId: randomUUID(),
    peer: peerOf(incoming.socket as TLSSocket),
  };
}

function peerOf(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  let next: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  // A root is its own issuer.
  while (next?.raw !== undefined && !chain.some((each) => each.raw.equals(next!.raw))) {
    chain.push(new X509Certificate(next.raw));
    next = next.issuerCertificate;
  }
  return chain;
}
