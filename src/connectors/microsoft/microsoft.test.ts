import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CallContext } from "../connector.ts";
import { microsoftSystemSchema } from "../shared/microsoft/system.ts";
import { retryAfterMs } from "../shared/microsoft/session.ts";
import { thumbprintOf } from "../shared/microsoft/thumbprint.ts";
import { startLabBench } from "../../../test/support/microsoft.ts";
import type { LabBench } from "../../../test/support/microsoft.ts";
import { microsoftSystem } from "./connector.ts";

let bench: LabBench;
beforeAll(async () => {
  bench = await startLabBench();
});
afterAll(async () => {
  await bench?.stop();
});
const cx = (signal = new AbortController().signal): CallContext => ({
  now: () => Date.now(),
  signal,
  throttle: async () => {},
  log: { debug: () => {}, info: () => {}, warn: () => {} },
});
const check = async (more: Readonly<Record<string, unknown>> = {}): Promise<void> =>
  microsoftSystem.check?.(cx(), bench.system(more));

describe("the system microsoft", () => {
  it("signs in with a client secret and with a certificate", async () => {
    await check();
    const { clientId, certificate, key } = bench.tenant.operator;
    await check({ auth: { method: "client-certificate", clientId, privateKey: `${key}\n${certificate}` } });
  });

  it("says which part of the sign-in is wrong, and none of its values", async () => {
    const { clientId, clientSecret } = bench.tenant.operator;
    const wrong = { method: "client-secret", clientId, clientSecret: "not-the-secret-of-the-operator" };
    await expect(check({ auth: wrong })).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("AADSTS7000215"),
      next: expect.stringContaining("its value, not its id"),
    });
    const error = await check({ auth: wrong }).catch((thrown: unknown) => thrown);
    expect(`${JSON.stringify(error)} ${String(error)}`).not.toContain("not-the-secret-of-the-operator");
    await expect(
      check({ auth: { method: "client-secret", clientId: "00000000-0000-0000-0000-000000000000", clientSecret } }),
    ).rejects.toMatchObject({ kind: "misconfigured", next: expect.stringContaining("clientId") });
    await expect(check({ tenant: "nobody.example.org" })).rejects.toMatchObject({ kind: "misconfigured" });
  });

  it("says that an expired secret has expired", async () => {
    const { clientId, clientSecret } = bench.tenant.operator;
    const operator = bench.state((state) => state.applications.find((one) => one.appId === clientId)?.passwords[0]);
    if (operator === undefined) throw new Error("no operator");
    const { endMs } = operator;
    operator.endMs = Date.now() - 1000;
    try {
      await expect(check({ auth: { method: "client-secret", clientId, clientSecret } })).rejects.toMatchObject({
        kind: "misconfigured",
        next: expect.stringContaining("expired"),
      });
    } finally {
      operator.endMs = endMs;
    }
  });

  it("tells an outage and an untrusted certificate from a wrong sign-in", async () => {
    await expect(check({ endpoints: { authority: "https://localhost:1" } })).rejects.toMatchObject({
      kind: "unavailable",
    });
    const open = { endpoints: { authority: bench.tenant.url, graph: "https://localhost:1" } };
    await expect(check(open)).rejects.toMatchObject({ kind: "unavailable" });
    const untrusted = await check({ ca: undefined }).catch((thrown: unknown) => thrown);
    expect(untrusted).toMatchObject({ kind: expect.stringMatching(/unavailable|misconfigured/) });
  });

  it("names the permission that is missing", async () => {
    bench.tenant.deny(["Application.*"]);
    try {
      await expect(check()).rejects.toMatchObject({ kind: "misconfigured", permission: "Application.Read.All" });
    } finally {
      bench.tenant.deny([]);
    }
  });

  it("can be rolled as a credential of the estate: its secret is read, and replaced", async () => {
    const system = bench.system();
    const own = microsoftSystem.signInOf?.(system);
    expect(own?.attributes["appId"]).toBe(bench.tenant.operator.clientId);
    if (own === null || own === undefined) throw new Error("no sign-in");
    const again = microsoftSystem.withSignIn?.(bench.system({ auth: { method: "managed-identity" } }), own);
    await microsoftSystem.check?.(cx(), again);
    expect(microsoftSystem.signInOf?.(bench.system({ auth: { method: "azure-cli" } }))).toBeNull();
  });

  it("knows the clouds, and asks tokens for the cloud's own resources whatever the addresses", () => {
    const base = { tenant: "contoso.cn", auth: { method: "managed-identity" } };
    const china = microsoftSystemSchema.parse({ ...base, cloud: "china" });
    expect(china.endpoints).toMatchObject({
      graph: "https://microsoftgraph.chinacloudapi.cn",
      vaultSuffix: "vault.azure.cn",
    });
    const proxied = microsoftSystemSchema.parse({ ...base, endpoints: { graph: "https://proxy.example.org/" } });
    expect(proxied.endpoints).toMatchObject({
      graph: "https://proxy.example.org",
      graphResource: "https://graph.microsoft.com",
    });
  });

  it.each([
    [{ tenant: "a b" }, "tenant"],
    [{ endpoints: { graph: "http://plain.example.org" } }, "endpoints.graph"],
    [{ auth: { method: "client-secret", clientId: "c" } }, "auth.clientSecret"],
    [{ auth: { method: "password" } }, "auth.method"],
    [{ auth: { method: "client-certificate", clientId: "c", privateKey: "./keyroll.pem" } }, "auth.privateKey"],
    [{ ca: "./ca.pem" }, "ca"],
  ])("refuses %j", (more, path) => {
    const result = microsoftSystemSchema.safeParse({ tenant: "contoso.com", auth: { method: "azure-cli" }, ...more });
    expect(result.error?.issues.map((issue) => issue.path.join("."))).toEqual([path]);
  });
});

describe("small things", () => {
  it("reads thumbprints in all the forms that Microsoft writes", () => {
    const hex = "0123456789abcdef0123456789abcdef01234567";
    const bytes = Buffer.from(hex, "hex");
    const forms = [
      hex,
      hex.toUpperCase(),
      hex.replaceAll(/../g, "$& ").trim(),
      `\u200e${hex}`,
      hex.replaceAll(/..(?=.)/g, "$&:"),
      bytes.toString("base64"),
      bytes.toString("base64url"),
      Buffer.from(hex.toUpperCase()).toString("base64"),
    ];
    for (const form of forms) expect(thumbprintOf(form), form).toBe(hex);
    for (const none of [undefined, null, "", "no thumbprint", "abcd", `${hex}00`])
      expect(thumbprintOf(none)).toBeUndefined();
  });

  it("reads Retry-After in seconds and as a date", () => {
    const now = Date.UTC(2027, 0, 1);
    expect(retryAfterMs("7", now)).toBe(7000);
    expect(retryAfterMs(new Date(now + 5000).toUTCString(), now)).toBe(5000);
    expect(retryAfterMs(new Date(now - 5000).toUTCString(), now)).toBe(0);
    expect(retryAfterMs("soon", now)).toBeUndefined();
    expect(retryAfterMs(undefined, now)).toBeUndefined();
  });
});
