/** Certificates, keys and containers of every kind that the scan reads, made afresh for each run by other code than that which reads them. */
import { createPublicKey, generateKeyPairSync, X509Certificate, type KeyObject } from "node:crypto";
import "reflect-metadata";
import * as x509 from "@peculiar/x509";
import forge from "node-forge";
import ssh2 from "ssh2";
import { certify, serialFrom } from "../../src/connectors/shared/certify.ts";
import { javaJceks, javaKeystore, javaPkcs12 } from "./keystores.ts";

export const nowMs = Date.UTC(2026, 5, 1);
const dayMs = 86_400_000;
export const password = "correct horse";

export interface Made {
  readonly pem: string;
  readonly der: Buffer;
  readonly key: KeyObject;
  readonly keyPem: string;
  readonly certificate: X509Certificate;
}

export interface Wish {
  readonly subject: string;
  readonly names?: readonly string[];
  readonly ca?: boolean;
  readonly key?: KeyObject;
  readonly days?: number;
  readonly fromMs?: number;
}

export function ecKey(curve = "P-256"): KeyObject {
  return generateKeyPairSync("ec", { namedCurve: curve }).privateKey;
}
export function rsaKey(bits: number): KeyObject {
  return generateKeyPairSync("rsa", { modulusLength: bits }).privateKey;
}

let counter = 0;
export async function make(wish: Wish, signer?: Made): Promise<Made> {
  const key = wish.key ?? ecKey();
  const publicKey = createPublicKey(key);
  const notBeforeMs = wish.fromMs ?? nowMs - 10 * dayMs;
  const [pem = ""] = await certify({
    profile: {
      subject: wish.subject,
      names: wish.names ?? [],
      ca: wish.ca ?? false,
      usages: wish.ca === true ? [] : ["server"],
    },
    publicKey,
    signer: signer === undefined ? { self: key } : { certificate: signer.certificate, key: signer.key, above: [] },
    serial: serialFrom(String(counter++), publicKey),
    notBeforeMs,
    notAfterMs: notBeforeMs + (wish.days ?? 90) * dayMs,
  });
  const certificate = new X509Certificate(pem);
  return {
    pem,
    der: certificate.raw,
    key,
    keyPem: key.export({ type: "pkcs8", format: "pem" }).toString(),
    certificate,
  };
}

function forgeKey(key: KeyObject): forge.pki.rsa.PrivateKey {
  return forge.pki.privateKeyFromPem(key.export({ type: "pkcs1", format: "pem" }).toString());
}

/** Node-forge writes PKCS#12 for RSA only. `rounds` is the number of iterations. */
export function pkcs12(made: Made, secret: string, rounds = 2048, algorithm: "3des" | "aes256" = "aes256"): Buffer {
  const store = forge.pkcs12.toPkcs12Asn1(forgeKey(made.key), forge.pki.certificateFromPem(made.pem), secret, {
    algorithm,
    count: rounds,
    friendlyName: "web",
  });
  return Buffer.from(forge.asn1.toDer(store).getBytes(), "latin1");
}

export function pkcs7(all: readonly Made[]): Buffer {
  const element = (tagByte: number, ...parts: Buffer[]): Buffer => {
    const body = Buffer.concat(parts);
    const length =
      body.length < 128 ? Buffer.from([body.length]) : Buffer.from([0x82, body.length >> 8, body.length & 0xff]);
    return Buffer.concat([Buffer.from([tagByte]), length, body]);
  };
  // RFC 2315 section 9.1, the degenerate form without signers that carries certificates only.
  const signed = element(
    0x30,
    element(0x02, Buffer.from([1])),
    element(0x31),
    element(0x30, Buffer.from("06092a864886f70d010701", "hex")),
    element(0xa0, ...all.map((one) => one.der)),
    element(0x31),
  );
  return element(0x30, Buffer.from("06092a864886f70d010702", "hex"), element(0xa0, signed));
}

/** The same message with indefinite lengths outside, as Windows writes it. */
export function berPkcs7(all: readonly Made[]): Buffer {
  const der = pkcs7(all);
  return Buffer.concat([Buffer.from([0x30, 0x80]), der.subarray(4), Buffer.from([0, 0])]);
}

function armoured(label: string, der: Buffer): string {
  return `-----BEGIN ${label}-----\n${der.toString("base64").replaceAll(/.{64}/g, "$&\n").trimEnd()}\n-----END ${label}-----\n`;
}

export interface Corpus {
  readonly ca: Made;
  readonly intermediate: Made;
  readonly leaf: Made;
  readonly rsa: Made;
  /** File name to content. */
  readonly files: ReadonlyMap<string, Buffer>;
}

export async function makeCorpus(): Promise<Corpus> {
  const ca = await make({ subject: "CN=Test Root, O=Example", ca: true, days: 3650 });
  const intermediate = await make({ subject: "CN=Test Issuing CA, O=Example", ca: true, days: 1825 }, ca);
  const leaf = await make(
    { subject: "CN=app.example.test", names: ["app.example.test", "10.1.2.3", "2001:db8::1"] },
    intermediate,
  );
  const rsa = await make(
    { subject: 'CN=rsa.example.test, O="Bits, Bytes & Sons"', names: ["rsa.example.test"], key: rsaKey(2048) },
    intermediate,
  );
  const csr = await request();
  const ssh = ed25519Ssh();
  const sshLocked = ssh2.utils.generateKeyPairSync("ecdsa", {
    bits: 256,
    passphrase: password,
    cipher: "aes256-ctr",
    rounds: 4,
  });
  const crl = await x509.X509CrlGenerator.create({
    issuer: ca.certificate.subject.replaceAll("\n", ", "),
    thisUpdate: new Date(nowMs),
    nextUpdate: new Date(nowMs + 7 * dayMs),
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    signingKey: await crypto.subtle.importKey(
      "pkcs8",
      ca.key.export({ type: "pkcs8", format: "der" }),
      { name: "ECDSA", namedCurve: "P-256" },
      false,
      ["sign"],
    ),
    entries: [],
  });
  const ed25519 = generateKeyPairSync("ed25519").privateKey;
  const encrypted = (key: KeyObject, type: "pkcs8" | "sec1"): string =>
    key
      .export({
        type,
        format: "pem",
        cipher: type === "pkcs8" ? "aes-256-cbc" : "aes-128-cbc",
        passphrase: password,
      } as never)
      .toString();
  const files: [string, string | Buffer][] = [
    ["leaf.crt", leaf.pem],
    ["leaf.key", leaf.keyPem],
    ["chain.pem", leaf.pem + intermediate.pem + ca.pem],
    ["ca.der", ca.der],
    ["no-extension", leaf.der],
    ["rsa-pkcs1.key", rsa.key.export({ type: "pkcs1", format: "pem" })],
    ["leaf-sec1.key", leaf.key.export({ type: "sec1", format: "pem" })],
    ["rsa-pkcs1-der.key", rsa.key.export({ type: "pkcs1", format: "der" })],
    ["leaf-sec1-der.key", leaf.key.export({ type: "sec1", format: "der" })],
    ["leaf-pkcs8-der.key", leaf.key.export({ type: "pkcs8", format: "der" })],
    ["ed25519.key", ed25519.export({ type: "pkcs8", format: "pem" })],
    ["locked-pkcs8.key", encrypted(leaf.key, "pkcs8")],
    ["locked-sec1.key", encrypted(leaf.key, "sec1")],
    ["leaf.pub", createPublicKey(leaf.key).export({ type: "spki", format: "pem" })],
    ["leaf-pub.der", createPublicKey(leaf.key).export({ type: "spki", format: "der" })],
    ["rsa-pkcs1.pub", createPublicKey(rsa.key).export({ type: "pkcs1", format: "pem" })],
    ["wanted.csr", csr],
    ["root.crl", Buffer.from(crl.rawData)],
    ["root-crl.pem", armoured("X509 CRL", Buffer.from(crl.rawData))],
    ["id_ed25519", ssh.private],
    ["id_ed25519.pub", ssh.public],
    ["id_ecdsa_locked", sshLocked.private],
    ["both.p7b", pkcs7([leaf, intermediate])],
    ["both-ber.p7b", berPkcs7([leaf, intermediate])],
    ["both-pem.p7b", armoured("PKCS7", pkcs7([leaf, intermediate]))],
    ["blank.p12", pkcs12(rsa, "")],
    ["given.p12", pkcs12(rsa, password, 2048, "3des")],
    ["java.jks", javaKeystore],
    ["java.jceks", javaJceks],
    ["java.p12", javaPkcs12],
    [
      "secret.yaml",
      `kind: Secret\ntype: kubernetes.io/tls\ndata:\n  tls.crt: ${Buffer.from(leaf.pem).toString("base64")}\n  tls.key: ${Buffer.from(leaf.keyPem).toString("base64")}\n`,
    ],
    ["account.json", JSON.stringify({ type: "service_account", private_key: rsa.keyPem })],
  ];
  return { ca, intermediate, leaf, rsa, files: new Map(files.map(([name, content]) => [name, Buffer.from(content)])) };
}

async function request(): Promise<Buffer> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const made = await x509.Pkcs10CertificateRequestGenerator.create({
    name: "CN=wanted.example.test",
    keys,
    signingAlgorithm: algorithm,
  });
  return Buffer.from(made.toString("pem"));
}

/** The library drops a leading zero of about every 256th key, which OpenSSH itself refuses; such a one is thrown away. */
function ed25519Ssh(): { private: string; public: string } {
  for (;;) {
    const pair = ssh2.utils.generateKeyPairSync("ed25519", { comment: "somebody@example.test" });
    if (Buffer.from(pair.public.split(" ")[1] ?? "", "base64").length === 51) return pair;
  }
}
