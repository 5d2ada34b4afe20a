/**
 * An emulated tenant for tests of the Microsoft connectors, behind a proxy that can lose, garble and hold back what goes through it. One tenant
 * serves a whole test file, and each world makes things of its own in it.
 */
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer, request as httpsRequest } from "node:https";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createPublicKey } from "node:crypto";
import type { Fault, FaultName } from "../../src/connectors/connector.contract.ts";
import { versionOf } from "../../src/connectors/connector.contract.ts";
import type { VersionHandle } from "../../src/connectors/connector.ts";
import { microsoftSystemSchema } from "../../src/connectors/shared/microsoft/system.ts";
import type { MicrosoftSystem } from "../../src/connectors/shared/microsoft/system.ts";
import { certify, serialFrom } from "../../src/connectors/shared/certify.ts";
import { factsOf } from "../../src/connectors/shared/x509.ts";
import { Secret } from "../../src/connectors/secret.ts";
import { startTenant } from "../../src/lab/tenant.ts";
import type { Tenant, TenantOptions } from "../../src/lab/tenant.ts";
import type { Application, TenantState } from "../../src/lab/state.ts";

/** What the proxy does with a request that carries a token. */
type Treatment = "pass" | "cut-before" | "cut-after" | "down" | "throttle" | "garble";

/** A request as the connectors sent it. */
export interface Sent {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  /** Parsed JSON; `undefined`: none. */
  readonly body: unknown;
}

export interface Proxied {
  /** What came through with a token. */
  readonly sent: readonly Sent[];
  /** Where clients connect. */
  readonly url: string;
  treat(how: (method: string) => Treatment): void;
  /** Runs once, when the next change has arrived and before it takes effect. */
  beforeNextWrite(action: () => Promise<void>): void;
  stop(): Promise<void>;
}

export interface LabBench {
  readonly tenant: Tenant;
  readonly main: Proxied;
  readonly vaults: Readonly<Record<string, Proxied>>;
  /** A system of its own: nothing is remembered from an earlier one. */
  system(more?: Readonly<Record<string, unknown>>): MicrosoftSystem;
  state<T>(read: (state: TenantState) => T): T;
  /** The faults that the contract suite asks for. */
  faults(
    denied: Readonly<Record<string, { deny: string; permission: string }>>,
  ): Readonly<Record<FaultName, (verb: string) => Fault>>;
  stop(): Promise<void>;
}

export async function startLabBench(options: TenantOptions = {}): Promise<LabBench> {
  const tenant = await startTenant({ seed: "connectors", faults: "none", ...options });
  const identity = read(tenant, (state) => state.server);
  const main = await startProxy(tenant.url, identity, tenant.ca);
  const vaults: Record<string, Proxied> = {};
  for (const [name, url] of Object.entries(tenant.vaults)) vaults[name] = await startProxy(url, identity, tenant.ca);
  const all = [main, ...Object.values(vaults)];
  const treatAll = (how: (method: string) => Treatment): void => {
    for (const each of all) each.treat(how);
  };
  return {
    tenant,
    main,
    vaults,
    system: (more = {}) =>
      microsoftSystemSchema.parse({
        tenant: tenant.tenantId,
        subscription: tenant.subscriptionId,
        auth: {
          method: "client-secret",
          clientId: tenant.operator.clientId,
          clientSecret: tenant.operator.clientSecret,
        },
        // Sign-in goes past the proxy: a token is no effect.
        endpoints: { authority: tenant.url, graph: main.url, arm: main.url },
        ca: tenant.ca,
        requestTimeout: "5s",
        ...more,
      }),
    state: (look) => read(tenant, look),
    faults(denied) {
      const only = (verb: string, how: Treatment): Fault => {
        treatAll((method) => (verb === "observe" || method !== "GET" ? how : "pass"));
        return { clear: () => treatAll(() => "pass") };
      };
      return {
        throttled: (verb) => only(verb, "throttle"),
        "lost-request": (verb) => only(verb, "cut-before"),
        "lost-answer": (verb) => only(verb, "cut-after"),
        down: () => {
          treatAll(() => "down");
          return { clear: () => treatAll(() => "pass") };
        },
        garbage: (verb) => only(verb, "garble"),
        denied: (verb) => {
          const { deny, permission } = denied[verb] ?? denied["write"]!;
          tenant.deny([deny]);
          return { clear: () => tenant.deny([]), permission };
        },
      };
    },
    async stop() {
      for (const each of all) await each.stop();
      await tenant.stop();
    },
  };
}

function read<T>(tenant: Tenant, look: (state: TenantState) => T): T {
  const box: { value?: T } = {};
  tenant.meddle((state) => {
    box.value = look(state);
  });
  return box.value as T;
}

async function startProxy(
  target: string,
  identity: { certificate: string; key: string },
  ca: string,
): Promise<Proxied> {
  let treatment: (method: string) => Treatment = () => "pass";
  let before: (() => Promise<void>) | undefined;
  const sent: Sent[] = [];
  const to = new URL(target);
  const server: Server = createServer({ key: identity.key, cert: identity.certificate });
  server.on("request", (incoming: IncomingMessage, outgoing: ServerResponse) => {
    void forward(incoming, outgoing).catch(() => incoming.socket.destroy());
  });
  server.on("clientError", (_, socket) => socket.destroy());

  async function forward(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const method = incoming.method ?? "GET";
    // The first words of Key Vault's clients carry no token and have no effect: they only ask who must be asked for one.
    const authorised = incoming.headers.authorization !== undefined || (incoming.url ?? "").includes("/token");
    const how = authorised ? treatment(method) : treatment("GET") === "down" ? "down" : "pass";
    if (authorised) {
      const url = new URL(incoming.url ?? "/", target);
      const text = Buffer.concat(chunks).toString("utf8");
      sent.push({
        method,
        path: url.pathname,
        query: url.searchParams,
        body: text === "" ? undefined : (JSON.parse(text) as unknown),
      });
    }
    if (how === "down" || how === "cut-before") {
      if (how === "down")
        outgoing.writeHead(503, { "content-type": "application/json" }).end(`{"error":{"code":"ServiceUnavailable"}}`);
      else incoming.socket.destroy();
      return;
    }
    if (how === "throttle") {
      outgoing
        .writeHead(429, { "content-type": "application/json", "retry-after": "1" })
        .end(`{"error":{"code":"TooManyRequests"}}`);
      return;
    }
    if (authorised && method !== "GET" && before !== undefined) {
      const action = before;
      before = undefined;
      await action();
    }
    const answer = await new Promise<{ status: number; headers: Record<string, string>; body: Buffer }>(
      (resolve, reject) => {
        const out = httpsRequest(
          {
            host: to.hostname,
            port: to.port,
            method,
            path: incoming.url ?? "/",
            // The Host header stays, so that links in answers lead back through here.
            headers: incoming.headers,
            ca,
            agent: false,
          },
          (response) => {
            const parts: Buffer[] = [];
            response.on("data", (part: Buffer) => parts.push(part));
            response.on("end", () => {
              const headers = Object.fromEntries(
                Object.entries(response.headers).flatMap(([name, value]) =>
                  value === undefined ||
                  name === "content-length" ||
                  name === "transfer-encoding" ||
                  name === "connection"
                    ? []
                    : [[name, String(value)]],
                ),
              );
              resolve({ status: response.statusCode ?? 500, headers, body: Buffer.concat(parts) });
            });
            response.on("error", reject);
          },
        );
        out.on("error", reject);
        out.end(Buffer.concat(chunks));
      },
    );
    if (how === "cut-after") {
      incoming.socket.destroy();
      return;
    }
    if (how === "garble") {
      outgoing.writeHead(200, { "content-type": "text/html" }).end("<html>Please sign in to the network</html>");
      return;
    }
    outgoing
      .writeHead(answer.status, { ...answer.headers, "content-length": String(answer.body.length) })
      .end(answer.body);
  }

  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `https://localhost:${port}`,
    sent,
    treat(how) {
      treatment = how;
    },
    beforeNextWrite(action) {
      before = action;
    },
    stop: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        (server as Server & { closeAllConnections(): void }).closeAllConnections();
      }),
  };
}

/** A new application registration that Keyroll's principal owns, with a service principal to sign in as. */
export function registerApplication(bench: LabBench, displayName: string): Application {
  return bench.state((state) => {
    const appId = randomUUID();
    const operator = state.servicePrincipals.find((one) => one.appId === bench.tenant.operator.clientId);
    const app: Application = {
      id: randomUUID(),
      appId,
      displayName,
      createdMs: Date.now(),
      changedMs: Date.now(),
      owners: operator === undefined ? [] : [operator.id],
      passwords: [],
      keys: [],
      gone: { passwords: [], keys: [] },
    };
    state.applications.push(app);
    state.servicePrincipals.push({ id: randomUUID(), appId, displayName, graphRoles: [], grants: [] });
    return app;
  });
}

const rsa = new Map<number, VersionHandle>();
/** Self-signed RSA certificates, made once: their keys take long. */
export async function rsaVersion(n: number): Promise<VersionHandle> {
  const kept = rsa.get(n);
  if (kept !== undefined) return kept;
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const publicKey = createPublicKey(privateKey);
  const now = Date.now();
  const certificates = await certify({
    profile: { subject: `CN=spaces ${n}`, names: [], ca: false, usages: ["client"] },
    publicKey,
    signer: { self: privateKey },
    serial: serialFrom(`rsa ${n}`, publicKey),
    notBeforeMs: now - 600_000,
    notAfterMs: now + 86_400_000 * 30,
  });
  const key = new Secret(privateKey.export({ type: "pkcs8", format: "pem" }));
  const made = versionOf(`spaces#${n}`, { kind: "key", privateKey: key, certificates }, factsOf(certificates[0] ?? ""));
  rsa.set(n, made);
  return made;
}
