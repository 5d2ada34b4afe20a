import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { issuerContract, placeContract, secretVersions, versionOf } from "../connector.contract.ts";
import type { CallContext, IssueIntent, VersionHandle } from "../connector.ts";
import { certificateOf, factsOf, keyMatches } from "../shared/x509.ts";
import { rsaVersion, startLabBench } from "../../../test/support/microsoft.ts";
import type { LabBench } from "../../../test/support/microsoft.ts";
import type { VaultCertificate, VaultSecret } from "../../lab/state.ts";
import { keyVaultCertificate, keyVaultCertificateIssuer, keyVaultSecret } from "./connector.ts";

let bench: LabBench;
beforeAll(async () => {
  bench = await startLabBench({ speed: 100 });
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
let worlds = 0;
const vaultName = () => Object.keys(bench.tenant.vaults)[0] ?? "";
const vaultUrl = () => bench.vaults[vaultName()]?.url ?? "";
const canaries = () => [bench.tenant.operator.clientSecret];
const beforeWrite = (action: () => Promise<void>): void => bench.vaults[vaultName()]?.beforeNextWrite(action);
const seconds = () => Math.floor(Date.now() / 1000);

const secretIn = (name: string): VaultSecret | undefined =>
  bench.state((state) => state.vaults.find((one) => one.name === vaultName())?.secrets[name]);
const certificateIn = (name: string): VaultCertificate | undefined =>
  bench.state((state) => state.vaults.find((one) => one.name === vaultName())?.certificates[name]);
function secretVersion(name: string, value: string, more: object = {}): void {
  bench.state((state) => {
    const vault = state.vaults.find((one) => one.name === vaultName());
    if (vault === undefined) throw new Error("no vault");
    vault.secrets[name] ??= { name, versions: [] };
    vault.secrets[name].versions.push({
      version: randomBytes(16).toString("hex"),
      value,
      attributes: { enabled: true, created: seconds(), updated: seconds() },
      ...more,
    });
  });
}

placeContract({
  runner: { describe, it },
  name: "key-vault.secret",
  connector: keyVaultSecret,
  config: { vault: "some-vault", name: "any" },
  makeWorld: () => {
    const name = `world-${++worlds}`;
    const config = keyVaultSecret.config.parse({ vault: vaultUrl(), name });
    const valueOf = async (version: VersionHandle): Promise<string> => {
      const material = await version.open();
      return material.kind === "secret" ? material.value.reveal() : "";
    };
    return {
      open: () => keyVaultSecret.open(config, bench.system()),
      version: secretVersions("vault-secret"),
      async inspect(versions) {
        const all = secretIn(name)?.versions ?? [];
        const values = new Map<string, string>();
        for (const one of versions) values.set(await valueOf(one), one.id);
        const last = all.at(-1);
        return {
          present: [...new Set(all.flatMap((one) => (one.attributes.enabled ? (values.get(one.value) ?? []) : [])))],
          current: last?.attributes.enabled === true ? (values.get(last.value) ?? null) : null,
          foreign: all.filter((one) => !values.has(one.value)).map((one) => JSON.stringify(one)),
        };
      },
      consumer: async (version) => {
        const last = secretIn(name)?.versions.at(-1);
        return last?.attributes.enabled === true && last.value === (await valueOf(version));
      },
      meddle: {
        add: async () =>
          secretVersion(name, `theirs-${randomBytes(8).toString("hex")}`, { contentType: "text/x-theirs" }),
        remove: async (version) => {
          const value = await valueOf(version);
          for (const one of secretIn(name)?.versions ?? []) if (one.value === value) one.attributes.enabled = false;
        },
        beforeWrite,
      },
      faults: bench.faults({
        observe: { deny: "secrets list", permission: "list" },
        add: { deny: "secrets set", permission: "set" },
        activate: { deny: "secrets set", permission: "set" },
        remove: { deny: "secrets update", permission: "set" },
      }),
      canaries: canaries(),
    };
  },
  cannot: {
    "a value that somebody else changed is no longer taken for ours": "a version of a secret in a vault is immutable",
  },
});

placeContract({
  runner: { describe, it },
  name: "key-vault.certificate",
  connector: keyVaultCertificate,
  config: { vault: "some-vault", name: "any" },
  makeWorld: () => {
    const name = `world-${++worlds}`;
    const config = keyVaultCertificate.config.parse({ vault: vaultUrl(), name });
    const sha1 = (chain: readonly string[]): string => factsOf(Buffer.from(chain[0] ?? "", "base64")).sha1 ?? "";
    return {
      open: () => keyVaultCertificate.open(config, bench.system()),
      version: rsaVersion,
      inspect: async (versions) => {
        const all = certificateIn(name)?.versions ?? [];
        const ids = new Map(versions.map((one) => [one.facts.sha1 ?? "", one.id]));
        const last = all.at(-1);
        return {
          present: [...new Set(all.flatMap((one) => (one.attributes.enabled ? (ids.get(sha1(one.chain)) ?? []) : [])))],
          current: last?.attributes.enabled === true ? (ids.get(sha1(last.chain)) ?? null) : null,
          foreign: all.filter((one) => !ids.has(sha1(one.chain))).map((one) => JSON.stringify(one)),
        };
      },
      consumer: async (version) => {
        const last = certificateIn(name)?.versions.at(-1);
        return last?.attributes.enabled === true && sha1(last.chain) === version.facts.sha1;
      },
      meddle: {
        add: async () => importTheirs(name),
        remove: async (version) => {
          for (const one of certificateIn(name)?.versions ?? [])
            if (sha1(one.chain) === version.facts.sha1) one.attributes.enabled = false;
        },
        beforeWrite,
      },
      faults: bench.faults({
        observe: { deny: "certificates list", permission: "list" },
        activate: { deny: "certificates import", permission: "import" },
        remove: { deny: "certificates update", permission: "update" },
      }),
      canaries: canaries(),
    };
  },
  cannot: {
    "a value that somebody else changed is no longer taken for ours":
      "a version of a certificate in a vault is immutable",
  },
});

async function importTheirs(name: string): Promise<void> {
  const material = await (await rsaVersion(100)).open();
  if (material.kind !== "key") throw new Error("not a key");
  const certificate = certificateOf(material.certificates[0] ?? "");
  bench.state((state) => {
    const vault = state.vaults.find((one) => one.name === vaultName());
    if (vault === undefined) throw new Error("no vault");
    vault.certificates[name] ??= {
      name,
      policy: {
        key_props: { exportable: true, kty: "RSA", key_size: 2048, reuse_key: false },
        issuer: { name: "Unknown" },
      },
      versions: [],
    };
    vault.certificates[name].versions.push({
      version: randomBytes(16).toString("hex"),
      chain: [certificate.raw.toString("base64")],
      key: material.privateKey.reveal(),
      attributes: { enabled: true, created: seconds(), updated: seconds() },
    });
  });
}

const selfPolicy = {
  key_props: { exportable: true, kty: "RSA", key_size: 2048, reuse_key: false },
  secret_props: { contentType: "application/x-pkcs12" },
  x509_props: { subject: "CN=made by the vault", validity_months: 12 },
  lifetime_actions: [{ trigger: { days_before_expiry: 30 }, action: { action_type: "EmailContacts" } }],
  issuer: { name: "Self" },
};
function emptyCertificate(name: string, policy: object): void {
  bench.state((state) => {
    const vault = state.vaults.find((one) => one.name === vaultName());
    const model = vault?.certificates["liveaiserviceprincipalprivatekey"];
    if (vault === undefined || model === undefined) throw new Error("no vault");
    vault.certificates[name] = { ...structuredClone(model), name, policy: { ...policy } };
  });
}

issuerContract({
  runner: { describe, it },
  name: "key-vault.certificate as issuer",
  connector: keyVaultCertificateIssuer,
  config: { vault: "some-vault", name: "any" },
  makeWorld: () => {
    const name = `world-${++worlds}`;
    emptyCertificate(name, selfPolicy);
    const config = keyVaultCertificate.config.parse({ vault: vaultUrl(), name });
    const faults = bench.faults({ write: { deny: "certificates create", permission: "create" } });
    return {
      open: () => keyVaultCertificateIssuer.open(config, bench.system()),
      intent: (n: number): IssueIntent => ({ id: `vault-cert#${n}`, tag: `tag-${n}` }),
      outside: async () => (certificateIn(name)?.versions ?? []).map((one) => one.version),
      place: () => keyVaultCertificate.open(config, bench.system()),
      assertIssued: ({ material }) => {
        if (material.kind !== "key") throw new Error("no key");
        expect(keyMatches(material.certificates[0] ?? "", material.privateKey)).toBe(true);
        expect(certificateOf(material.certificates[0] ?? "").subject).toBe("CN=made by the vault");
      },
      faults: {
        throttled: () => faults.throttled("write"),
        "lost-answer": () => faults["lost-answer"]("write"),
        down: () => faults.down("write"),
        denied: () => faults.denied("write"),
        garbage: () => faults.garbage("write"),
      },
      canaries: canaries(),
    };
  },
});

describe("key-vault.secret", () => {
  const opened = (name: string, more: object = {}) =>
    keyVaultSecret.open(keyVaultSecret.config.parse({ vault: vaultUrl(), name, ...more }), bench.system());

  it("carries content type and tags over, and ends when the credential ends", async () => {
    const name = `carry-${++worlds}`;
    secretVersion(name, "before", { contentType: "text/plain; charset=utf-8", tags: { deployment: "a1" } });
    const ends = Math.floor(Date.now() / 1000) * 1000 + 730 * 86_400_000;
    const one = secretVersions("carry")(1);
    const version = { ...one, facts: { ...one.facts, notAfterMs: ends }, open: () => one.open() };
    await opened(name).activate?.(cx(), version);
    const last = secretIn(name)?.versions.at(-1);
    expect(last).toMatchObject({
      contentType: "text/plain; charset=utf-8",
      tags: { deployment: "a1", keyroll: "carry#1" },
    });
    expect(last?.attributes.exp).toBe(ends / 1000);
  });

  it("keeps the length of the expiry where the credential has none", async () => {
    const name = `length-${++worlds}`;
    secretVersion(name, "before", {
      attributes: { enabled: true, created: seconds() - 50, updated: seconds() - 50, exp: seconds() + 950 },
    });
    await opened(name).activate?.(cx(), secretVersions("length")(1));
    const exp = secretIn(name)?.versions.at(-1)?.attributes.exp ?? 0;
    expect(Math.abs(exp - seconds() - 1000)).toBeLessThan(30);
  });

  it("takes over from a latest version that is disabled", async () => {
    const name = `disabled-${++worlds}`;
    secretVersion(name, "before", {
      contentType: "text/kept",
      attributes: { enabled: false, created: seconds(), updated: seconds() },
    });
    const place = opened(name);
    const seen = await place.observe(cx(), []);
    expect(seen.current).toBeNull();
    expect(seen.notes?.[0]).toContain("disabled");
    await place.activate?.(cx(), secretVersions("disabled")(1));
    expect(secretIn(name)?.versions.at(-1)?.contentType).toBe("text/kept");
  });

  it("never disables what its users read", async () => {
    const name = `last-${++worlds}`;
    const place = opened(name);
    const one = secretVersions("last")(1);
    await place.activate?.(cx(), one);
    await expect(place.remove?.(cx(), one)).rejects.toMatchObject({ kind: "refused" });
    expect(secretIn(name)?.versions.at(-1)?.attributes.enabled).toBe(true);
  });

  it("says how to go on where the secret is deleted and recoverable", async () => {
    const name = `deleted-${++worlds}`;
    secretVersion(name, "before");
    bench.state(() => {
      const secret = secretIn(name);
      if (secret !== undefined) secret.deletedMs = Date.now();
    });
    await expect(opened(name).activate?.(cx(), secretVersions("deleted")(1))).rejects.toMatchObject({
      kind: "misconfigured",
      next: expect.stringContaining("Recover"),
    });
  });

  it("says when nobody listens, or when the certificate is not trusted", async () => {
    const closed = keyVaultSecret.open(
      keyVaultSecret.config.parse({ vault: "https://localhost:1", name: "a" }),
      bench.system(),
    );
    await expect(closed.observe(cx(), [])).rejects.toMatchObject({ kind: "unavailable" });
    const untrusting = keyVaultSecret.open(
      keyVaultSecret.config.parse({ vault: vaultUrl(), name: "a" }),
      bench.system({ ca: undefined }),
    );
    await expect(untrusting.observe(cx(), [])).rejects.toMatchObject({
      kind: expect.stringMatching(/misconfigured|unavailable/),
    });
  });
});

describe("key-vault.certificate", () => {
  it("tells of a policy that reuses the key and renews by itself, and does not issue with it", async () => {
    const name = `policy-${++worlds}`;
    emptyCertificate(name, {
      ...selfPolicy,
      key_props: { ...selfPolicy.key_props, reuse_key: true },
      lifetime_actions: [{ trigger: { days_before_expiry: 30 }, action: { action_type: "AutoRenew" } }],
    });
    const config = keyVaultCertificate.config.parse({ vault: vaultUrl(), name });
    const seen = await keyVaultCertificate.open(config, bench.system()).observe(cx(), []);
    expect(seen.notes?.join(" ")).toMatch(/reuses the key.*renews by itself/);
    const issuer = keyVaultCertificateIssuer.open(config, bench.system());
    await expect(issuer.issue(cx(), { id: "a#1", tag: "t" })).rejects.toMatchObject({ kind: "misconfigured" });
  });

  it("adopts what the vault holds as a PFX without a password", async () => {
    const name = `adopt-${++worlds}`;
    emptyCertificate(name, selfPolicy);
    const config = keyVaultCertificate.config.parse({ vault: vaultUrl(), name });
    const place = keyVaultCertificate.open(config, bench.system());
    const [found] = (await place.adopt?.(cx())) ?? [];
    expect(found?.material.kind).toBe("key");
    if (found === undefined) return;
    const version = versionOf("adopted#1", found.material, found.facts, found.placement);
    const seen = await place.observe(cx(), [version]);
    expect(seen.entries.find((one) => one.mark === seen.current)?.version).toBe("adopted#1");
  });
});
