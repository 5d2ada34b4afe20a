import { execFileSync } from "node:child_process";
import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { certificateVersions } from "../connector.contract.ts";
import { Secret } from "../secret.ts";
import { certify, makeKey, serialFrom } from "./certify.ts";
import { firstLine, redact } from "./redact.ts";
import { run } from "./run.ts";
import { duration } from "./settings.ts";
import {
  armourOf,
  certificateOf,
  certificatesOf,
  chainFrom,
  factsOf,
  keyMatches,
  keyStrength,
  parsePem,
  PemError,
  pemOf,
  privateKeyOf,
  publicKeySha256,
  scanPem,
} from "./x509.ts";

const folder = mkdtempSync(join(tmpdir(), "keyroll-shared-"));
afterAll(() => rmSync(folder, { recursive: true }));
const { version, caPem } = await certificateVersions("shared");
const material = await (await version(1)).open();
if (material.kind !== "key") throw new Error("no key");
const [pem = ""] = material.certificates;
const key = material.privateKey;

describe("PEM", () => {
  it("finds blocks with their place among comments, other people's line ends and headers", () => {
    const text = `Bag Attributes\r\n  friendlyName: x\r\n${pem.replaceAll("\n", "\r\n")}# between\n${caPem}`;
    const blocks = parsePem(text);
    expect(blocks.map((block) => [block.label, block.line])).toEqual([
      ["CERTIFICATE", 3],
      ["CERTIFICATE", 3 + pem.trimEnd().split("\n").length + 1],
    ]);
    expect(text.slice(blocks[1]?.start, blocks[1]?.end)).toBe(caPem.trimEnd());
    expect(blocks[0]?.der.equals(certificateOf(pem).raw)).toBe(true);
  });

  it.each([
    ["cut off", pem.slice(0, 200), 'line 1: "CERTIFICATE" begins here and never ends'],
    [
      "nested",
      `${pem.split("\n").slice(0, 2).join("\n")}\n${pem}`,
      'line 3: "CERTIFICATE" begins inside "CERTIFICATE"',
    ],
    ["without a beginning", "\n-----END CERTIFICATE-----\n", "line 2:"],
    ["with another end", pem.replace("END CERTIFICATE", "END PRIVATE KEY"), '"PRIVATE KEY" ends here'],
    ["not base64", "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n", "is not base64"],
    ["empty", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "is empty"],
    [
      "enormous",
      `-----BEGIN CERTIFICATE-----\n${"QUFB\n".repeat(300_000)}-----END CERTIFICATE-----\n`,
      "is larger than",
    ],
  ])("says what is wrong with a block that is %s", (_name, text, message) => {
    expect(() => parsePem(text)).toThrow(message);
    // One bad block does not hide the good one behind it.
    expect(scanPem(`${text}\n${caPem}`).blocks.some((block) => block.der.equals(certificateOf(caPem).raw))).toBe(true);
  });

  it("takes time in proportion to the text, whatever the text", () => {
    const hostile = [
      "-".repeat(3_000_000),
      "-----BEGIN ".repeat(200_000),
      "-----BEGIN A-----\n".repeat(100_000),
      "\n".repeat(2_000_000),
    ];
    for (const text of hostile) expect(scanPem(text).blocks).toEqual([]);
  });

  it("never throws anything but its own error, and repeats nothing of what it read", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 300 }), fc.nat(pem.length), (noise, at) => {
        const text = pem.slice(0, at) + noise + pem.slice(at);
        try {
          for (const one of certificatesOf(text)) factsOf(one);
        } catch (error) {
          expect(error).toBeInstanceOf(PemError);
          if (noise.length > 12) expect(String(error)).not.toContain(noise);
        }
      }),
    );
  });

  it("armours as RFC 7468 has it", () => {
    for (const size of [1, 47, 48, 49, 96, 1000]) {
      const text = armourOf("X", Buffer.alloc(size, 1));
      expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThanOrEqual(64);
      expect(parsePem(text)[0]?.der).toEqual(Buffer.alloc(size, 1));
    }
    expect(pemOf(pem)).toBe(new X509Certificate(pem).toString());
  });
});

describe("certificates and keys", () => {
  it("gives the facts that OpenSSL gives", () => {
    const path = join(folder, "one.pem");
    writeFileSync(path, pem);
    const openssl = (...args: string[]): string => execFileSync("openssl", args, { encoding: "utf8" });
    const facts = factsOf(pem);
    const hex = (text: string): string => text.split("=")[1]?.trim().replaceAll(":", "").toLowerCase() ?? "";
    expect(facts.fingerprint).toBe(hex(openssl("x509", "-in", path, "-noout", "-fingerprint", "-sha256")));
    expect(facts.sha1).toBe(hex(openssl("x509", "-in", path, "-noout", "-fingerprint", "-sha1")));
    expect(facts.serial).toBe(hex(openssl("x509", "-in", path, "-noout", "-serial")));
    expect(facts.notAfterMs).toBe(Date.parse(openssl("x509", "-in", path, "-noout", "-enddate").split("=")[1] ?? ""));
    const spki = execFileSync(
      "sh",
      [
        "-c",
        'openssl x509 -in "$1" -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -r',
        "sh",
        path,
      ],
      { encoding: "utf8" },
    );
    expect(facts.publicKeySha256).toBe(spki.split(" ")[0]);
    expect(publicKeySha256(createPublicKey(privateKeyOf(key)))).toBe(facts.publicKeySha256);
  });

  it("tells whether a key belongs to a certificate, and why it cannot be read", async () => {
    expect(keyMatches(pem, key)).toBe(true);
    expect(keyMatches(pem, await makeKey("ec-p256"))).toBe(false);
    const encrypted = createPrivateKey(key.reveal()).export({
      type: "pkcs8",
      format: "pem",
      cipher: "aes-256-cbc",
      passphrase: "right",
    });
    const traditional = createPrivateKey(key.reveal()).export({
      type: "sec1",
      format: "pem",
      cipher: "aes-256-cbc",
      passphrase: "right",
    });
    for (const text of [encrypted, traditional].map(String)) {
      expect(() => privateKeyOf(text)).toThrow("encrypted and no password");
      expect(() => privateKeyOf(text, new Secret("wrong"))).toThrow("password of the private key is wrong");
      expect(keyMatches(pem, privateKeyOf(text, new Secret("right")))).toBe(true);
    }
    expect(() => privateKeyOf(pem)).toThrow("no private key");
    expect(() => privateKeyOf(armourOf("PRIVATE KEY", Buffer.from("nothing")))).toThrow(
      "damaged or of an unknown type",
    );
  });

  it("says how strong a key is", async () => {
    const strength = async (algorithm: "ec-p384" | "rsa-3072"): Promise<unknown> =>
      keyStrength(createPublicKey(privateKeyOf(await makeKey(algorithm))));
    expect(await strength("ec-p384")).toEqual({ algorithm: "ec", bits: 384, curve: "secp384r1" });
    expect(await strength("rsa-3072")).toEqual({ algorithm: "rsa", bits: 3072 });
    const weak = execFileSync("openssl", ["genrsa", "1024"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    expect(keyStrength(privateKeyOf(weak)).weak).toContain("1024 bits is below 2048");
  });

  it("orders a chain, leaves out strangers and the root, and ends where two signed each other", async () => {
    const make = async (
      name: string,
      issuer?: { pem: string; key: Secret },
      secret?: Secret,
    ): Promise<{ pem: string; key: Secret }> => {
      const own = secret ?? (await makeKey("ec-p256"));
      const privateKey = privateKeyOf(own);
      const publicKey = createPublicKey(privateKey);
      const [made = ""] = await certify({
        profile: { subject: `CN=${name}`, names: [], ca: true, usages: [] },
        publicKey,
        signer:
          issuer === undefined
            ? { self: privateKey }
            : { certificate: certificateOf(issuer.pem), key: privateKeyOf(issuer.key), above: [] },
        serial: serialFrom(name, publicKey),
        notBeforeMs: 0,
        notAfterMs: Date.UTC(2049, 0, 1),
      });
      return { pem: made, key: own };
    };
    const root = await make("root");
    const middle = await make("middle", root);
    const leaf = await make("leaf", middle);
    const stranger = await make("stranger");
    const chain = chainFrom(
      certificateOf(leaf.pem),
      [root, stranger, middle].map((one) => certificateOf(one.pem)),
    );
    expect(chain.map((one) => one.subject)).toEqual(["CN=leaf", "CN=middle"]);
    const crossed = await make("root", middle, root.key);
    const circle = chainFrom(
      certificateOf(crossed.pem),
      [crossed, middle].map((one) => certificateOf(one.pem)),
    );
    expect(circle.length).toBeLessThanOrEqual(3);
  });
});

describe("run", () => {
  const never = new AbortController().signal;
  it("gives no shell, no environment of ours, and takes input", async () => {
    process.env["KEYROLL_TEST_SECRET"] = "do-not-pass";
    const ran = await run(["/bin/sh", "-c", 'cat; echo "$1"; env', "sh", "$(id); `id`"], {
      timeoutMs: 5000,
      signal: never,
      input: Buffer.from("in\n"),
      env: { ADDED: "yes" },
    });
    delete process.env["KEYROLL_TEST_SECRET"];
    const text = ran.stdout.toString();
    expect(text.startsWith("in\n$(id); `id`\n")).toBe(true);
    expect(text).toContain("ADDED=yes");
    expect(text).not.toContain("do-not-pass");
    expect(ran).toMatchObject({ code: 0, endedBy: "itself", cut: false });
  });
  it("ends a program, and what it started, when its time is over or the call is cancelled", async () => {
    const mark = join(folder, "late");
    const script = `(sleep 1; touch ${mark}) & sleep 30`;
    expect(await run(["/bin/sh", "-c", script], { timeoutMs: 100, signal: never })).toMatchObject({
      code: null,
      endedBy: "time-out",
    });
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    expect(await run(["/bin/sh", "-c", script], { timeoutMs: 20_000, signal: controller.signal })).toMatchObject({
      endedBy: "cancelled",
    });
    await sleep(1200);
    expect(existsSync(mark)).toBe(false);
  });
  it("keeps only so much output, and minds no closed input", async () => {
    const ran = await run(["/bin/sh", "-c", "exec <&-; head -c 1000000 /dev/zero; exit 3"], {
      timeoutMs: 5000,
      signal: never,
      input: Buffer.alloc(500_000),
      maxOutputBytes: 1000,
    });
    expect(ran.stdout).toHaveLength(1000);
    expect(ran).toMatchObject({ code: 3, cut: true });
  });
  it("names a program that is missing or may not be run", async () => {
    await expect(run(["/nonexistent/x"], { timeoutMs: 1000, signal: never })).rejects.toMatchObject({
      kind: "misconfigured",
    });
    const path = join(folder, "plain");
    writeFileSync(path, "x", { mode: 0o644 });
    await expect(run([path], { timeoutMs: 1000, signal: never })).rejects.toMatchObject({
      kind: "misconfigured",
      permission: `run ${path}`,
    });
    await expect(run(["/bin/true"], { timeoutMs: 1000, signal: AbortSignal.abort() })).rejects.toMatchObject({
      kind: "unavailable",
    });
  });
});

describe("redact", () => {
  it("takes out the value and its encodings, and the lines of a key", () => {
    const secret = new Secret('p"ss/w rd');
    const text = [
      secret.reveal(),
      JSON.stringify(secret.reveal()),
      encodeURIComponent(secret.reveal()),
      secret.bytes().toString("base64"),
      secret.bytes().toString("hex"),
    ].join(" ");
    expect(redact(text, [secret])).toBe('[secret] "[secret]" [secret] [secret] [secret]');
    const line = key.reveal().split("\n")[1] ?? "";
    expect(redact(`bad line ${line}`, [key])).toBe("bad line [secret]");
  });
  it("makes one harmless line of a program's output", () => {
    expect(firstLine("\n\n  \u001b[31mred\u001b[0m\u0007 text\nmore")).toBe("red text");
    expect(firstLine("x".repeat(500))).toHaveLength(200);
  });
});

describe("durations", () => {
  const read = (text: string, limits = {}): number | string => {
    const result = duration(limits).safeParse(text);
    return result.success ? result.data : result.error.issues[0]!.message;
  };
  it("are read as everywhere else in the estate", () => {
    expect(["90d", "1h 30m", "1h30m", "1.5s", "P30D", "PT1H30M", "0"].map((text) => read(text))).toEqual([
      7_776_000_000, 5_400_000, 5_400_000, 1500, 2_592_000_000, 5_400_000, 0,
    ]);
    for (const text of ["", "90", "d", "-1d", "1y", "1e9d"]) expect(read(text)).toBeTypeOf("string");
    expect(read("90")).toBe('"90" has no unit; write "90s", "90m", "90h" or "90d"');
  });
  it("are held to the limits of the setting", () => {
    expect(read("5ms", { leastMs: 100 })).toBe('"5ms" is too short here');
    expect(read("2h", { mostMs: 3_600_000 })).toBe('"2h" is too long here');
  });
});
