import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { placeContract, secretVersions } from "../connector.contract.ts";
import type { CallContext, VersionHandle } from "../connector.ts";
import { startLabBench } from "../../../test/support/microsoft.ts";
import type { LabBench } from "../../../test/support/microsoft.ts";
import type { Connection } from "../../lab/state.ts";
import { apiConnection } from "./connector.ts";

let bench: LabBench;
beforeAll(async () => {
  bench = await startLabBench({ cases: ["provision-assist"] });
});
afterAll(async () => {
  await bench?.stop();
});

const cx = (): CallContext => ({
  now: () => Date.now(),
  signal: new AbortController().signal,
  throttle: async () => {},
  log: { debug: () => {}, info: () => {}, warn: () => {} },
});
const resourceGroup = "rg-provision-assist";
let worlds = 0;
/** A copy of the solution's own connection, with a secret from before Keyroll. */
function newConnection(): Connection {
  return bench.state((state) => {
    const model = state.connections.find((one) => one.name === "provisionassist-kv");
    if (model === undefined) throw new Error("no connection");
    const made: Connection = { ...structuredClone(model), name: `world-${++worlds}`, tags: { team: "assist" } };
    state.connections.push(made);
    return made;
  });
}
/** Azure shows neither the secret nor whose it is. */
const configOf = (connection: Connection) =>
  apiConnection.config.parse({
    resourceGroup,
    name: connection.name,
    parameters: { "token:clientId": connection.parameterValues["token:clientId"] },
  });
const secretOf = (connection: Connection): string => connection.parameterValues["token:clientSecret"] ?? "";
const valueOf = async (version: VersionHandle): Promise<string> => {
  const material = await version.open();
  return material.kind === "secret" ? material.value.reveal() : "";
};

placeContract({
  runner: { describe, it },
  name: "api-connection",
  connector: apiConnection,
  config: { resourceGroup: "any", name: "any" },
  makeWorld: () => {
    const connection = newConnection();
    const config = configOf(connection);
    const version = secretVersions("connection-secret");
    const holds = async (one: VersionHandle): Promise<boolean> => secretOf(connection) === (await valueOf(one));
    const replace = async (value: string): Promise<void> => {
      connection.parameterValues["token:clientSecret"] = value;
      connection.changedMs = Date.now() + 5;
    };
    return {
      open: () => apiConnection.open(config, bench.system()),
      version,
      async inspect(versions) {
        const here: string[] = [];
        for (const one of versions) if (await holds(one)) here.push(one.id);
        const { "token:clientSecret": _, ...others } = connection.parameterValues;
        const { keyroll: _ours, ...tags } = connection.tags ?? {};
        return {
          present: here,
          current: here[0] ?? null,
          foreign: [
            JSON.stringify(Object.entries(others).sort()),
            JSON.stringify(tags),
            connection.displayName,
            connection.location,
          ],
        };
      },
      consumer: holds,
      meddle: {
        add: async () => {
          connection.tags = { ...connection.tags, somebody: `else ${Object.keys(connection.tags ?? {}).length}` };
          connection.parameterValues["somebodys"] = "parameter";
        },
        change: async () => replace("changed by a person"),
        remove: async () => replace("taken away"),
      },
      faults: bench.faults({
        observe: { deny: "Microsoft.Web/connections/read", permission: "Microsoft.Web/connections/read" },
        write: { deny: "Microsoft.Web/connections/write", permission: "Microsoft.Web/connections/write" },
      }),
      canaries: [bench.tenant.operator.clientSecret],
    };
  },
  cannot: {
    "probe accepts what works and nothing else":
      "the connection's own test signs in at the tenant, which the versions of these worlds cannot; tried below",
  },
});

describe("api-connection", () => {
  it("probes with the connection's own test", async () => {
    const connection = newConnection();
    const config = configOf(connection);
    const place = apiConnection.open(config, bench.system());
    const secret = secretOf(connection);
    const works = { ...secretVersions("probe")(1) };
    const real: VersionHandle = {
      ...works,
      open: async () => {
        const { Secret } = await import("../secret.ts");
        return { kind: "secret", value: new Secret(secret) };
      },
    };
    expect((await place.probe?.(cx(), real))?.outcome).toBe("unknown");
    const placement = await place.activate?.(cx(), real);
    expect(await place.probe?.(cx(), { ...real, ...(placement ? { placement } : {}) })).toMatchObject({
      outcome: "accepted",
    });
    const wrong = secretVersions("probe")(2);
    const second = await place.activate?.(cx(), wrong);
    const handle = { ...wrong, open: () => wrong.open(), ...(second ? { placement: second } : {}) };
    expect(await place.probe?.(cx(), handle)).toMatchObject({ outcome: "refused" });
    const seen = await place.observe(cx(), [handle]);
    expect(seen.notes?.[0]).toContain("Error");
  });

  it("does not write where it would wipe parameters that it does not know", async () => {
    const connection = newConnection();
    const bare = apiConnection.open(
      apiConnection.config.parse({ resourceGroup, name: connection.name }),
      bench.system(),
    );
    const before = structuredClone(connection.parameterValues);
    await expect(bare.activate?.(cx(), secretVersions("bare")(1))).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("token:clientId"),
    });
    expect(connection.parameterValues).toEqual(before);
    // The issuer of a client secret says whose it is.
    const one = secretVersions("bare")(2);
    const told = {
      ...one,
      facts: { ...one.facts, attributes: { appId: before["token:clientId"] ?? "" } },
      open: () => one.open(),
    };
    await bare.activate?.(cx(), told);
    expect(connection.parameterValues).toEqual({ ...before, "token:clientSecret": await valueOf(one) });
  });

  it("says when there is no subscription, and no such connection", async () => {
    const place = (system: Parameters<typeof bench.system>[0]) =>
      apiConnection.open(apiConnection.config.parse({ resourceGroup, name: "nobody" }), bench.system(system));
    await expect(place({ subscription: undefined }).observe(cx(), [])).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("subscription"),
    });
    await expect(place({}).observe(cx(), [])).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("not found"),
    });
  });
});
