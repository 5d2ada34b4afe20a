import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse as parseYaml } from "yaml";
import { shippedRegistry } from "../../src/connectors/registry.ts";
import {
  correlate,
  nameOf,
  openCorrelator,
  type Correlation,
  type FindingCode,
} from "../../src/discovery/correlate.ts";
import type { Found } from "../../src/discovery/found.ts";
import { propose } from "../../src/discovery/propose.ts";
import { scan } from "../../src/discovery/scan.ts";
import { loadEstate } from "../../src/estate/load.ts";
import { certificateItem } from "../../src/discovery/certificate.ts";
import { ecKey, make, nowMs, pkcs12, rsaKey, type Made } from "./corpus.ts";

const folder = mkdtempSync(join(tmpdir(), "keyroll-correlate-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const dayMs = 86_400_000;
let ca: Made;
let issuing: Made;
let leaf: Made;
beforeAll(async () => {
  ca = await make({ subject: "CN=Root", ca: true, days: 3650 });
  issuing = await make({ subject: "CN=Issuing", ca: true, days: 1825 }, ca);
  leaf = await make({ subject: "CN=app.example.test", names: ["app.example.test"] }, issuing);
});

let folders = 0;
/** Writes the files into a folder of their own and scans it. Paths in the result are relative to it. */
async function scanned(files: Readonly<Record<string, string | Buffer>>): Promise<Found[]> {
  const root = join(folder, String(folders++));
  mkdirSync(root);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(root, name, ".."), { recursive: true });
    writeFileSync(join(root, name), content);
  }
  const items: Found[] = [];
  for await (const event of scan([root], { now: () => nowMs, parseTimeoutMs: 20_000 }))
    if (event.type === "found") items.push(...event.items);
  return items
    .map((item) => ({ ...item, path: item.path.slice(root.length + 1) }))
    .toSorted((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : a.index - b.index));
}
async function correlated(
  files: Readonly<Record<string, string | Buffer>>,
  extra: readonly Found[] = [],
): Promise<Correlation> {
  return correlate([...(await scanned(files)), ...extra], { nowMs });
}
function served(path: string, ...chain: readonly Made[]): Found[] {
  return chain.map((one, index) => ({
    ...certificateItem(one.der, 0, one.der.length, "tls", index),
    source: path,
    path,
  }));
}
function codes(correlation: Correlation): FindingCode[] {
  return correlation.findings.map((finding) => finding.code);
}
function only(
  correlation: Correlation,
  code: FindingCode,
): { text: string; paths: readonly string[]; severity: string } {
  const found = correlation.findings.filter((finding) => finding.code === code);
  expect(found).toHaveLength(1);
  return found[0]!;
}

describe("what belongs together", () => {
  it("copies of one certificate, its keys, its issuer up to the root", async () => {
    const result = await correlated({
      "a.pem": leaf.pem,
      "b/a.der": leaf.der,
      "b/a.key": leaf.keyPem,
      "ca.pem": ca.pem + issuing.pem,
    });
    const one = result.certificates.find((certificate) => nameOf(certificate.facts) === "app.example.test")!;
    expect(one.copies).toBe(2);
    expect(one.places.map((place) => place.path)).toEqual(["a.pem", "b/a.der"]);
    expect(one.privateKeys.map((place) => place.path)).toEqual(["b/a.key"]);
    expect(one.chain).toBe("complete");
    expect(codes(result)).toEqual([]);
    expect(result.keys).toMatchObject([{ certificates: [one.facts.fingerprint], keyType: "EC P-256", keyBits: 256 }]);
  });
  it("an issuer that was not found leaves the chain open", async () => {
    const result = await correlated({ "a.pem": leaf.pem });
    expect(result.certificates).toMatchObject([{ chain: "open", issuerFingerprint: null }]);
  });
  it("another CA of the same name is not taken for the issuer", async () => {
    const impostor = await make({ subject: "CN=Issuing", ca: true, days: 1825 }, ca);
    const result = await correlated({ "a.pem": leaf.pem, "ca.pem": impostor.pem + ca.pem });
    expect(result.certificates.find((one) => nameOf(one.facts) === "app.example.test")!.issuerFingerprint).toBeNull();
  });
  it("two CAs that signed each other end no chain and no program", async () => {
    const one = await make({ subject: "CN=One", ca: true });
    const two = await make({ subject: "CN=Two", ca: true });
    const oneByTwo = await make({ subject: "CN=One", ca: true, key: one.key }, two);
    const twoByOne = await make({ subject: "CN=Two", ca: true, key: two.key }, one);
    const result = await correlated({ "x.pem": oneByTwo.pem + twoByOne.pem });
    expect(result.certificates.map((certificate) => certificate.chain)).toEqual(["open", "open"]);
    expect(codes(result)).toEqual([]);
  });
  it("memory keeps a bounded number of places", () => {
    const correlator = openCorrelator();
    for (let i = 0; i < 1000; i++) correlator.add(served(`10.0.0.1:${i + 1}`, leaf));
    const [one] = correlator.finish({ nowMs }).certificates;
    expect(one).toMatchObject({ copies: 1000 });
    expect(one!.places).toHaveLength(100);
  });
});

describe("what is wrong", () => {
  it("expired, expiring, not yet valid", async () => {
    const old = await make({ subject: "CN=old", days: 5 }, ca);
    const used = await make({ subject: "CN=used", days: 5 }, ca);
    const soon = await make({ subject: "CN=soon", days: 20 }, ca);
    const later = await make({ subject: "CN=later", fromMs: nowMs + dayMs }, ca);
    const result = await correlated({
      "1.pem": old.pem,
      "2.pem": used.pem + used.keyPem,
      "3.pem": soon.pem,
      "4.pem": later.pem,
      "ca.pem": ca.pem,
    });
    expect(result.findings.map((finding) => [finding.severity, finding.code, finding.paths[0]])).toEqual([
      ["error", "expired", "2.pem"],
      ["warning", "expired", "1.pem"],
      ["warning", "expiring", "3.pem"],
      ["info", "not-yet-valid", "4.pem"],
    ]);
    expect(only(result, "expiring").text).toBe('"soon" expires on 2026-06-11, in 10 days.');
  });
  it("a key that does not fit the certificate beside it, in two files, in one, and under the names of Let's Encrypt", async () => {
    const other = await make({ subject: "CN=other" }, ca);
    const files = { "s/server.crt": leaf.pem, "s/server.key": other.keyPem };
    expect(only(await correlated(files), "mismatched-pair")).toMatchObject({
      severity: "error",
      paths: ["s/server.key", "s/server.crt"],
    });
    expect(codes(await correlated({ "both.pem": leaf.pem + other.keyPem }))).toContain("mismatched-pair");
    expect(
      codes(await correlated({ "l/fullchain.pem": leaf.pem + issuing.pem, "l/privkey.pem": other.keyPem })),
    ).toContain("mismatched-pair");
    expect(
      codes(
        await correlated({
          "l/fullchain.pem": leaf.pem + issuing.pem,
          "l/privkey.pem": leaf.keyPem,
          "m/server.pem": other.pem,
        }),
      ),
    ).not.toContain("mismatched-pair");
  });
  it("a chain in the wrong order, with a stranger in it, or with the leaf last; a bundle of authorities is none", async () => {
    expect(only(await correlated({ "a.pem": leaf.pem + ca.pem + issuing.pem }), "chain-order").text).toMatch(
      /does not issue the one before it; the right one comes later/,
    );
    expect(only(await correlated({ "a.pem": issuing.pem + leaf.pem }), "chain-order").text).toMatch(
      /must come first, and stands at position 2 of 2/,
    );
    const stranger = await make({ subject: "CN=Stranger", ca: true });
    expect(only(await correlated({ "a.pem": leaf.pem + stranger.pem }), "chain-order").severity).toBe("info");
    expect(codes(await correlated({ "a.pem": ca.pem + stranger.pem + issuing.pem }))).toEqual([]);
    expect(codes(await correlated({ "a.pem": leaf.pem + issuing.pem + ca.pem }))).toEqual([]);
  });
  it("an endpoint that leaves out the intermediate, with where it lies", async () => {
    const without = await correlated({ "ca.pem": ca.pem, "issuing.pem": issuing.pem }, served("127.0.0.1:443", leaf));
    expect(only(without, "chain-incomplete").text).toBe(
      '"app.example.test" is served without its issuer, "Issuing", which lies in issuing.pem. Clients that do not know it refuse the connection.',
    );
    expect(codes(await correlated({ "ca.pem": ca.pem }, served("127.0.0.1:443", leaf, issuing)))).toEqual([]);
    const direct = await make({ subject: "CN=direct" }, ca);
    expect(codes(await correlated({ "ca.pem": ca.pem }, served("127.0.0.1:443", direct)))).toEqual([]);
  });
  it("an endpoint that serves an older certificate than the file beside it", async () => {
    const newer = await make(
      { subject: "CN=app.example.test", names: ["app.example.test"], fromMs: nowMs - dayMs },
      issuing,
    );
    const result = await correlated({ "new.pem": newer.pem, "ca.pem": ca.pem }, served("127.0.0.1:443", leaf, issuing));
    expect(only(result, "not-reloaded").text).toMatch(
      /^127\.0\.0\.1:443 serves .* of 2026-05-22, and new\.pem holds a newer one of 2026-05-31/,
    );
  });
  it("weak keys, one key under two certificates, one key in two places, long lives", async () => {
    const weak = await make({ subject: "CN=weak", key: rsaKey(1024) }, ca);
    const again = await make({ subject: "CN=again", key: leaf.key }, ca);
    const long = await make({ subject: "CN=long", names: ["www.keyroll-example.org"], days: 500 }, ca);
    const result = await correlated({
      "w.pem": weak.pem,
      "a.pem": leaf.pem,
      "b.pem": again.pem,
      "k/a.key": leaf.keyPem,
      "l/a.key": leaf.keyPem,
      "long.pem": long.pem,
    });
    expect(codes(result).toSorted()).toEqual(["key-copies", "long-validity", "shared-key", "weak-key"]);
    expect(only(result, "weak-key").text).toBe('"weak" has a weak key: RSA with 1024 bits, less than 2048.');
    expect(
      correlate([{ ...served("x:1", leaf)[0]!, keyType: "EC P-192", keyBits: 192 }], { nowMs }).findings.map(
        (one) => one.code,
      ),
    ).toContain("weak-key");
  });
  it("signatures that can be forged, but not those of roots over themselves", () => {
    const [item] = served("x.pem", leaf);
    const forged = {
      ...item!,
      container: "pem" as const,
      certificate: { ...item!.certificate!, signature: "sha1WithRSAEncryption" },
    };
    expect(codes(correlate([forged], { nowMs }))).toEqual(["weak-signature"]);
    expect(
      codes(correlate([{ ...forged, certificate: { ...forged.certificate, selfIssued: true } }], { nowMs })),
    ).toEqual([]);
  });
  it("a keystore that stays shut", async () => {
    const rsa = await make({ subject: "CN=rsa", key: rsaKey(2048) }, ca);
    expect(only(await correlated({ "a.p12": pkcs12(rsa, "unknown") }), "locked").text).toMatch(
      /^a\.p12 is a keystore that stays shut\. .* Give its password/,
    );
  });
});

describe("proposals", () => {
  const registry = shippedRegistry();
  async function load(text: string): Promise<Awaited<ReturnType<typeof loadEstate>>> {
    const path = join(folder, `proposal-${folders++}.yaml`);
    writeFileSync(path, `version: 1\n${text}`);
    return loadEstate(path, { registry, env: {} });
  }

  it("name nothing where nothing is held", async () => {
    expect(propose(await correlated({ "ca.pem": ca.pem }))).toBeUndefined();
  });

  it("are an estate that loads: CA, leaf, pair, bundle, endpoint", async () => {
    const result = await correlated(
      {
        "tls/app.crt": leaf.pem + issuing.pem,
        "tls/app.key": leaf.keyPem,
        "ca/issuing.pem": issuing.pem,
        "ca/issuing.key": issuing.keyPem,
        "trust/bundle.pem": ca.pem + issuing.pem,
      },
      served("127.0.0.1:8443", leaf, issuing),
    );
    const text = propose(result)!;
    const read = parseYaml(text) as {
      credentials: Record<
        string,
        { kind: string; issuer: { type: string; ca?: string }; places: Record<string, Record<string, unknown>> }
      >;
    };
    expect(Object.keys(read.credentials)).toEqual(["issuing", "app.example.test"]);
    const app = read.credentials["app.example.test"]!;
    expect(app.issuer).toMatchObject({
      type: "x509.ca",
      ca: "issuing",
      key: "ec-p256",
      names: ["app.example.test"],
      validity: "90d",
    });
    expect(app.places).toMatchObject({
      "trust-bundle": { type: "file.certificate", kind: "bundle", verifier: true, certificate: "trust/bundle.pem" },
      app: {
        type: "file.certificate",
        kind: "pair",
        holder: true,
        certificate: "tls/app.crt",
        key: "tls/app.key",
        presentsTo: ["trust-bundle"],
      },
      "served-127.0.0.1-8443": { type: "tls.endpoint", host: "127.0.0.1", port: 8443, serverName: "app.example.test" },
    });
    expect(read.credentials["issuing"]).toMatchObject({ kind: "ca", issuer: { type: "model" } });
    const { estate } = await load(text);
    expect(estate.credentials.map((one) => one.name).toSorted()).toEqual(["app.example.test", "issuing"]);
  });

  it("are the same text for the same findings, and no subject breaks out of its line", async () => {
    const evil = await make({ subject: "CN=a: [b]  # c", names: ["evil.example.test"], key: ecKey("P-384") });
    const files = { "e.pem": evil.pem + evil.keyPem };
    const text = propose(await correlated(files))!;
    expect(propose(await correlated(files))).toBe(text);
    const { estate } = await load(text);
    expect(estate.credentials).toMatchObject([{ kind: "certificate", issuer: { type: "x509.self-signed" } }]);
  });

  it("take the newest of several renewals", async () => {
    const newer = await make(
      { subject: "CN=app.example.test", names: ["app.example.test"], fromMs: nowMs - dayMs },
      issuing,
    );
    const text = propose(await correlated({ "old.pem": leaf.pem + leaf.keyPem, "new.pem": newer.pem + newer.keyPem }))!;
    expect(text).toContain("2 versions were found; the newest was taken.");
    expect(text).toContain("certificate: new.pem");
    expect(text).not.toContain("certificate: old.pem");
  });
});
