import { execFileSync } from "node:child_process";
import { createPublicKey, X509Certificate } from "node:crypto";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { issuerContract, localIssuerCannot, versionOf } from "../connector.contract.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Issued, IssueIntent, VersionHandle } from "../connector.ts";
import { makeKey, makeRequest, serialFrom } from "../shared/certify.ts";
import { certificateOf, factsOf, keyMatches, privateKeyOf } from "../shared/x509.ts";
import { signerFromEstate } from "./ca.ts";
import { x509Ca, x509SelfSigned } from "./connector.ts";
import { signRequest } from "./issue.ts";

const folder = mkdtempSync(join(tmpdir(), "keyroll-x509-"));
afterAll(() => rmSync(folder, { recursive: true }));

const start = Date.UTC(2026, 2, 1);
function context(nowMs = start): CallContext {
  return {
    now: () => nowMs,
    signal: new AbortController().signal,
    throttle: async () => {},
    log: { debug: () => {}, info: () => {}, warn: () => {} },
  };
}

let tags = 0;
async function issue(
  connector: typeof x509Ca,
  config: Record<string, unknown>,
  more: { signer?: VersionHandle; nowMs?: number } = {},
): Promise<Issued> {
  const issuer = connector.open(connector.config.parse(config), undefined);
  const cx = context(more.nowMs);
  const intent: IssueIntent = {
    id: `made#${++tags}`,
    tag: `tag-${tags}`,
    ...(more.signer === undefined ? {} : { signer: more.signer }),
  };
  const minted = await issuer.mint?.(cx, intent);
  if (minted === undefined) throw new Error("nothing was minted");
  return issuer.issue(cx, { ...intent, minted });
}
const leafOf = (issued: Issued): X509Certificate =>
  certificateOf(issued.material.kind === "key" ? (issued.material.certificates[0] ?? "") : "");
const handle = (issued: Issued): VersionHandle => versionOf("ca#1", issued.material, issued.facts);

async function rootAnd(key: string): Promise<{ root: Issued; intermediate: Issued }> {
  const root = await issue(x509SelfSigned, { kind: "ca", key, subject: "CN=Test root, O=Example", validity: "3650d" });
  const intermediate = await issue(
    x509Ca,
    { kind: "ca", key, subject: "CN=Test issuing CA, O=Example", validity: "1825d", pathLength: 0 },
    { signer: handle(root) },
  );
  return { root, intermediate };
}

describe.each(["ec-p256", "ec-p384", "rsa-3072"])("a chain of %s keys", (key) => {
  it("is accepted by OpenSSL, root to leaf, for its names and its purpose only", async () => {
    const { root, intermediate } = await rootAnd(key);
    const leaf = await issue(
      x509Ca,
      {
        key,
        subject: "CN=app",
        names: ["app.example.org", "127.0.0.1", "ops@example.org", "spiffe://example.org/app"],
        validity: "30d",
      },
      { signer: handle(intermediate) },
    );
    if (leaf.material.kind !== "key") throw new Error("no key");
    // Leaf and intermediate travel; the root does not.
    expect(leaf.material.certificates).toHaveLength(2);
    writeFileSync(join(folder, "root.pem"), leafOf(root).toString());
    writeFileSync(join(folder, "chain.pem"), leaf.material.certificates[1] ?? "");
    writeFileSync(join(folder, "leaf.pem"), leaf.material.certificates[0] ?? "");
    const verify = (...args: string[]): string =>
      execFileSync(
        "openssl",
        [
          "verify",
          "-x509_strict",
          "-attime",
          String(start / 1000 + 60),
          "-CAfile",
          "root.pem",
          "-untrusted",
          "chain.pem",
          ...args,
          "leaf.pem",
        ],
        { cwd: folder, encoding: "utf8", stdio: "pipe" },
      );
    expect(verify("-purpose", "sslserver", "-verify_hostname", "app.example.org")).toContain("OK");
    expect(verify("-verify_ip", "127.0.0.1")).toContain("OK");
    expect(() => verify("-purpose", "sslclient")).toThrow();
    expect(() => verify("-verify_hostname", "other.example.org")).toThrow();
    expect(keyMatches(leaf.material.certificates[0] ?? "", leaf.material.privateKey)).toBe(true);
    expect(leaf.facts.signedBy).toBe(intermediate.facts.fingerprint);
    expect(leafOf(leaf).ca).toBe(false);
    expect(leafOf(leaf).infoAccess).toBeUndefined();
  }, 60_000);
});

const shared = await rootAnd("ec-p256");
const signer = handle(shared.intermediate);

for (const [name, connector, config] of [
  ["x509.ca", x509Ca, { subject: "CN=app", names: ["app.example.org"], validity: "30d" }],
  ["x509.self-signed", x509SelfSigned, { subject: "CN=app", names: ["app.example.org"], validity: "30d" }],
] as const) {
  issuerContract({
    runner: { describe, it },
    name,
    connector,
    config,
    makeWorld: () => ({
      open: () => connector.open(connector.config.parse(config), undefined),
      intent: (n) => ({ id: `app#${n}`, tag: `tag-${n}`, ...(name === "x509.ca" ? { signer } : {}) }),
      assertIssued: (issued) => {
        const leaf = leafOf(issued);
        expect(leaf.subject).toBe("CN=app");
        expect(leaf.subjectAltName).toBe("DNS:app.example.org");
        expect(leaf.ca).toBe(false);
        const days = ((issued.facts.notAfterMs ?? 0) - (issued.facts.notBeforeMs ?? 0)) / 86_400_000;
        expect(days).toBeGreaterThanOrEqual(30);
        expect(days).toBeLessThan(30.01);
      },
    }),
    cannot: localIssuerCannot,
  });
}

describe("x509.ca", () => {
  it("never outlives its CA, and begins earlier than now for clocks that are behind", async () => {
    const leaf = await issue(
      x509Ca,
      { subject: "CN=app", validity: "3000d", backdate: "10m" },
      { signer, nowMs: start + 86_400_000 },
    );
    expect(leaf.facts.notAfterMs).toBe(shared.intermediate.facts.notAfterMs);
    expect(leaf.facts.notBeforeMs).toBe(start + 86_400_000 - 600_000);
  });

  it("takes the serial number from the intent: positive, 128 bits, one per intent", async () => {
    const key = createPublicKey(privateKeyOf(await makeKey("ec-p256")));
    expect(serialFrom("a", key)).toBe(serialFrom("a", key));
    expect(serialFrom("a", key)).not.toBe(serialFrom("b", key));
    for (let n = 0; n < 500; n++) expect(serialFrom(`tag-${n}`, key)).toMatch(/^[0-7][0-9a-f]{31}$/);
  });

  it("signs what its path length allows, and no more", async () => {
    await expect(issue(x509Ca, { kind: "ca", subject: "CN=below" }, { signer })).rejects.toThrow("path length is 0");
  });

  it.each([
    ["an expired CA", { nowMs: start + 1826 * 86_400_000 }, "has expired"],
    ["a CA that is not valid yet", { nowMs: start - 86_400_000 }, "not valid yet"],
  ])("refuses %s", async (_name, more, message) => {
    await expect(issue(x509Ca, { subject: "CN=app" }, { signer, ...more })).rejects.toThrow(message);
  });

  it("refuses a leaf as its CA", async () => {
    const leaf = await issue(x509Ca, { subject: "CN=app" }, { signer });
    await expect(issue(x509Ca, { subject: "CN=app" }, { signer: handle(leaf) })).rejects.toThrow("is no CA");
  });

  it("signs with a CA from files, whose key only its owner may read", async () => {
    const { material } = shared.intermediate;
    if (material.kind !== "key") throw new Error("no key");
    const [certificateFile, keyFile] = [join(folder, "ca.pem"), join(folder, "ca.key")];
    writeFileSync(certificateFile, material.certificates.join(""));
    writeFileSync(keyFile, material.privateKey.bytes(), { mode: 0o644 });
    const config = { subject: "CN=app", certificateFile, keyFile };
    await expect(issue(x509Ca, config)).rejects.toMatchObject({
      kind: "misconfigured",
      next: `Run: chmod 600 ${keyFile}`,
    });
    chmodSync(keyFile, 0o600);
    const leaf = await issue(x509Ca, config);
    expect(leafOf(leaf).checkIssued(leafOf(shared.intermediate))).toBe(true);
    // A key that does not fit.
    writeFileSync(keyFile, (await makeKey("ec-p256")).bytes());
    await expect(issue(x509Ca, config)).rejects.toThrow("does not belong to the first certificate");
    writeFileSync(certificateFile, material.certificates.join("").slice(0, 300));
    await expect(issue(x509Ca, config)).rejects.toThrow(/ca\.pem cannot be used: line 1: .*cut off/);
  });

  it("opens an encrypted key with its password, and says so when it cannot", async () => {
    const { material } = shared.root;
    if (material.kind !== "key") throw new Error("no key");
    const [certificateFile, keyFile] = [join(folder, "root-ca.pem"), join(folder, "root-ca.key")];
    writeFileSync(certificateFile, material.certificates.join(""));
    const encrypted = privateKeyOf(material.privateKey).export({
      type: "pkcs8",
      format: "pem",
      cipher: "aes-256-cbc",
      passphrase: "right-horse",
    });
    writeFileSync(keyFile, encrypted, { mode: 0o600 });
    const config = { subject: "CN=app", certificateFile, keyFile };
    await expect(issue(x509Ca, config)).rejects.toThrow("encrypted and no password was given");
    await expect(issue(x509Ca, { ...config, keyPassword: "wrong-horse" })).rejects.toThrow(
      "password of the private key is wrong",
    );
    expect(leafOf(await issue(x509Ca, { ...config, keyPassword: "right-horse" })).issuer).toContain("Test root");
  });

  it("turns a request into a chain, and refuses one that its key did not sign", async () => {
    const privateKey = await makeKey("rsa-3072");
    const csr = await makeRequest(privateKey, { subject: "CN=device-7", names: ["device-7.example.org"] });
    const order = {
      profile: { subject: "", names: [], ca: false, usages: ["client"] as const },
      signer: await signerFromEstate(signer),
      tag: "device-7",
      validityMs: 86_400_000,
      backdateMs: 0,
      what: "device-7",
    };
    const chain = await signRequest(context(), csr, order);
    expect(chain).toHaveLength(2);
    expect(factsOf(chain[0] ?? "").subject).toBe("CN=device-7");
    expect(certificateOf(chain[0] ?? "").subjectAltName).toBe("DNS:device-7.example.org");
    expect(keyMatches(chain[0] ?? "", privateKey)).toBe(true);
    const der = Buffer.from(csr.replaceAll(/-----[^-]+-----|\s/g, ""), "base64");
    const last = der.length - 20;
    der[last] = (der[last] ?? 0) ^ 1;
    const forged = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;
    await expect(signRequest(context(), forged, order)).rejects.toThrow(ConnectorError);
    await expect(signRequest(context(), "no request", order)).rejects.toThrow("not a certificate request");
  });

  it.each([
    [{ kind: "ca" }, "a CA needs a subject"],
    [{}, "give a subject, names, or both"],
    [{ subject: "not a name" }, "is no subject"],
    [{ subject: "CN=a", pathLength: 1 }, "only a CA has a path length"],
    [{ subject: "CN=a", validity: "90" }, "has no unit"],
    [{ subject: "CN=a", keyFile: "ca.key" }, "go together"],
    [{ subject: "CN=a", ca: "x", keyFile: "ca.key", certificateFile: "ca.pem" }, "either ca, or"],
  ])("refuses the settings %j", (config, message) => {
    const result = x509Ca.config.safeParse(config);
    expect(result.error?.issues.map((one) => one.message).join()).toContain(message);
  });
});
