/**
 * Building certificates: keys, profiles, and the signature of a CA or of the key itself. Follows RFC 5280; what a profile leaves out is chosen
 * so that OpenSSL, browsers and Go accept it.
 */
import "reflect-metadata";
import { createHash, createPrivateKey, createPublicKey, generateKeyPair, X509Certificate } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { isIP } from "node:net";
import { promisify } from "node:util";
import * as x509 from "@peculiar/x509";
import { Secret } from "../secret.ts";
import { chainFrom, PemError, pemOf } from "./x509.ts";

export const keyAlgorithms = ["ec-p256", "ec-p384", "rsa-3072", "rsa-4096"] as const;
export type KeyAlgorithm = (typeof keyAlgorithms)[number];

const generate = promisify(generateKeyPair);

/** A new private key as PKCS#8 PEM. RSA keys take up to a few seconds. */
export async function makeKey(algorithm: KeyAlgorithm): Promise<Secret> {
  const { privateKey } =
    algorithm === "ec-p256" || algorithm === "ec-p384"
      ? await generate("ec", { namedCurve: algorithm === "ec-p256" ? "P-256" : "P-384" })
      : await generate("rsa", { modulusLength: algorithm === "rsa-3072" ? 3072 : 4096 });
  return new Secret(privateKey.export({ type: "pkcs8", format: "pem" }));
}

/** What a certificate may be used for, in the words of the config. */
export const usages = ["server", "client", "code-signing", "email", "time-stamping", "ocsp-signing"] as const;
type Usage = (typeof usages)[number];
const usageOids: Readonly<Record<Usage, string>> = {
  server: x509.ExtendedKeyUsage.serverAuth,
  client: x509.ExtendedKeyUsage.clientAuth,
  "code-signing": x509.ExtendedKeyUsage.codeSigning,
  email: x509.ExtendedKeyUsage.emailProtection,
  "time-stamping": x509.ExtendedKeyUsage.timeStamping,
  "ocsp-signing": x509.ExtendedKeyUsage.ocspSigning,
};

export interface Profile {
  /** In RFC 4514 form, such as `CN=app, O=Example`. Empty is legal when there are names. */
  readonly subject: string;
  /** Subject alternative names: DNS names, IP addresses, e-mail addresses and URIs, told apart by their form. */
  readonly names: readonly string[];
  readonly ca: boolean;
  /** How many CAs may stand below this one. Only for CAs; absent: any number. */
  readonly pathLength?: number;
  /** Extended key usages of a leaf. */
  readonly usages: readonly Usage[];
}

/** Who signs: certificate, key, and the certificates above it that are handed out with what it signs (without the root). */
export interface Signer {
  readonly certificate: X509Certificate;
  readonly key: KeyObject;
  readonly above: readonly X509Certificate[];
}

export interface CertifyRequest {
  readonly profile: Profile;
  /** The key that is certified. */
  readonly publicKey: KeyObject;
  /** `self`: the key signs itself; its private half must be given. */
  readonly signer: Signer | { readonly self: KeyObject };
  /** Positive, at most 20 bytes, hex. See {@link serialFrom}. */
  readonly serial: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/**
 * 127 random bits and a leading zero bit, so that it is positive (RFC 5280, 4.1.2.2; the CA/Browser Forum asks for 64). Taken from the tag of the
 * intent, which is random and unique: the same intent twice then has one serial number, so that whichever copy got out can be revoked.
 */
export function serialFrom(tag: string, publicKey: KeyObject): string {
  const spki = publicKey.export({ type: "spki", format: "der" });
  const bytes = createHash("sha256")
    .update("keyroll serial\0")
    .update(tag)
    .update("\0")
    .update(spki)
    .digest()
    .subarray(0, 16);
  bytes[0] = (bytes[0] ?? 0) & 0x7f;
  // A serial number of zero bytes in front would be encoded shorter, and zero itself is forbidden.
  if (bytes[0] === 0) bytes[0] = 1;
  return bytes.toString("hex");
}

/** Signs. The result is leaf first, followed by the CAs up to, but without, the root. Throws {@link PemError} for input that cannot be certified. */
export async function certify(request: CertifyRequest): Promise<readonly string[]> {
  const { profile } = request;
  const self = "self" in request.signer;
  const signingKey = "self" in request.signer ? request.signer.self : request.signer.key;
  const issuer = "self" in request.signer ? undefined : request.signer;
  const subject = subjectName(profile.subject);
  const spki = new x509.PublicKey(request.publicKey.export({ type: "spki", format: "der" }));
  const subjectKeyId = keyId(spki.rawData);
  const authority = issuer === undefined ? undefined : new x509.X509Certificate(issuer.certificate.raw);
  // The identifier that the CA's own certificate carries, whatever way it was computed; path builders compare the bytes.
  const authorityKeyId =
    authority === undefined
      ? subjectKeyId
      : (authority.getExtension(x509.SubjectKeyIdentifierExtension)?.keyId ?? keyId(authority.publicKey.rawData));

  const extensions: x509.Extension[] = [
    profile.ca
      ? new x509.BasicConstraintsExtension(true, profile.pathLength, true)
      : new x509.BasicConstraintsExtension(false, undefined, true),
    new x509.KeyUsagesExtension(keyUsage(profile, request.publicKey), true),
    new x509.SubjectKeyIdentifierExtension(subjectKeyId),
    new x509.AuthorityKeyIdentifierExtension(authorityKeyId),
  ];
  if (!profile.ca && profile.usages.length > 0) {
    extensions.push(new x509.ExtendedKeyUsageExtension(profile.usages.map((usage) => usageOids[usage])));
  }
  if (profile.names.length > 0) {
    // Critical when it is the only name (RFC 5280, 4.2.1.6).
    extensions.push(new x509.SubjectAlternativeNameExtension(profile.names.map(generalName), profile.subject === ""));
  }
  const algorithm = signatureAlgorithm(signingKey);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: request.serial,
    subject,
    issuer: authority === undefined ? subject : authority.subjectName,
    notBefore: wholeSeconds(request.notBeforeMs),
    notAfter: wholeSeconds(request.notAfterMs),
    publicKey: spki,
    signingKey: signingKey.toCryptoKey(algorithm.key, true, ["sign"]),
    signingAlgorithm: algorithm.sign,
    extensions,
  });
  const leaf = new X509Certificate(Buffer.from(certificate.rawData));
  if (self || issuer === undefined) return [pemOf(leaf)];
  return chainFrom(leaf, [issuer.certificate, ...issuer.above]).map((one) => pemOf(one));
}

/** Certificates count in whole seconds; rounding down keeps the end within that of the CA. */
function wholeSeconds(ms: number): Date {
  return new Date(Math.floor(ms / 1000) * 1000);
}

/** RFC 5280, 4.2.1.2, method 1 has SHA-1 here, which is an identifier only; RFC 7093 method 1 gives the same length without it. */
function keyId(spki: ArrayBuffer): string {
  return createHash("sha256").update(Buffer.from(spki)).digest().subarray(0, 20).toString("hex");
}

function subjectName(text: string): x509.Name {
  try {
    return new x509.Name(text);
  } catch {
    throw new PemError(`"${text}" is no subject; write it like "CN=app.example.org, O=Example"`);
  }
}
/** Whether the text can be a subject; for config schemas. */
export function isSubject(text: string): boolean {
  try {
    return new x509.Name(text).toString() !== "" || text === "";
  } catch {
    return false;
  }
}

function generalName(name: string): { type: "dns" | "ip" | "email" | "url"; value: string } {
  if (isIP(name) !== 0) return { type: "ip", value: name };
  if (/^[a-z][a-z0-9+.-]*:/i.test(name)) return { type: "url", value: name };
  if (name.includes("@")) return { type: "email", value: name };
  return { type: "dns", value: name };
}

function keyUsage(profile: Profile, publicKey: KeyObject): number {
  if (profile.ca) return x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign;
  // keyEncipherment is for TLS 1.2's RSA key exchange, which EC keys have no part in (RFC 5480, 3).
  const rsa = publicKey.asymmetricKeyType === "rsa" ? x509.KeyUsageFlags.keyEncipherment : 0;
  return x509.KeyUsageFlags.digitalSignature | rsa;
}

interface SignatureAlgorithm {
  readonly key: { name: string; hash?: string; namedCurve?: string };
  readonly sign: { name: string; hash: string };
}
/** The hash is as strong as the key (NIST SP 800-57, table 3). Throws {@link PemError} for keys that CAs of this kind do not have. */
function signatureAlgorithm(key: KeyObject): SignatureAlgorithm {
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (key.asymmetricKeyType === "rsa") {
    const name = "RSASSA-PKCS1-v1_5";
    if ((key.asymmetricKeyDetails?.modulusLength ?? 0) < 2048)
      throw new PemError("the CA's RSA key has fewer than 2048 bits");
    return { key: { name, hash: "SHA-256" }, sign: { name, hash: "SHA-256" } };
  }
  if (curve === "prime256v1")
    return { key: { name: "ECDSA", namedCurve: "P-256" }, sign: { name: "ECDSA", hash: "SHA-256" } };
  if (curve === "secp384r1")
    return { key: { name: "ECDSA", namedCurve: "P-384" }, sign: { name: "ECDSA", hash: "SHA-384" } };
  if (curve === "secp521r1")
    return { key: { name: "ECDSA", namedCurve: "P-521" }, sign: { name: "ECDSA", hash: "SHA-512" } };
  throw new PemError(
    `a CA key of type ${key.asymmetricKeyType ?? "unknown"}${curve === undefined ? "" : ` (${curve})`} cannot sign here`,
  );
}

/** What a certificate may not do below this CA: sign at all, live longer, or stand deeper. Returns the reason, or `undefined` when it may. */
export function whyNotSigner(signer: Signer, profile: Profile, nowMs: number): string | undefined {
  const { certificate } = signer;
  if (!certificate.ca) return "the signing certificate is no CA";
  if (!certificate.checkPrivateKey(signer.key)) return "the CA's private key does not belong to its certificate";
  if (certificate.validToDate.getTime() <= nowMs) return "the CA's certificate has expired";
  if (certificate.validFromDate.getTime() > nowMs) return "the CA's certificate is not valid yet";
  const parsed = new x509.X509Certificate(certificate.raw);
  const keyUsage = parsed.getExtension(x509.KeyUsagesExtension);
  if (keyUsage !== null && (keyUsage.usages & x509.KeyUsageFlags.keyCertSign) === 0)
    return "the CA's certificate may not sign certificates";
  const depth = parsed.getExtension(x509.BasicConstraintsExtension)?.pathLength;
  if (profile.ca && depth !== undefined) {
    if (depth === 0) return "the CA may only sign leaves (its path length is 0)";
    if (profile.pathLength === undefined || profile.pathLength >= depth) {
      return `the path length must be below the CA's, which is ${depth}`;
    }
  }
  return undefined;
}

export interface CertificateRequest {
  readonly publicKey: KeyObject;
  readonly subject: string;
  /** DNS names, addresses and URIs that it asks for. */
  readonly names: readonly string[];
}

/** Reads a PKCS#10 request (PEM) and checks that the sender has the key. Throws {@link PemError}. */
export async function readRequest(pem: string): Promise<CertificateRequest> {
  let request: x509.Pkcs10CertificateRequest;
  try {
    request = new x509.Pkcs10CertificateRequest(pem);
  } catch {
    throw new PemError("this is not a certificate request (PKCS#10); it is cut off or damaged");
  }
  if (!(await request.verify())) throw new PemError("the certificate request is not signed by its own key");
  const names = request.extensions
    .filter((extension) => extension instanceof x509.SubjectAlternativeNameExtension)
    .flatMap((extension) => extension.names.items.map((name) => name.value));
  const publicKey = createPublicKey({ key: Buffer.from(request.publicKey.rawData), format: "der", type: "spki" });
  return { publicKey, subject: request.subject, names };
}

/** A PKCS#10 request for a key, for CAs that are elsewhere. */
export async function makeRequest(privateKey: Secret, profile: Pick<Profile, "subject" | "names">): Promise<string> {
  const key = createPrivateKey(privateKey.reveal());
  const algorithm = signatureAlgorithm(key);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: subjectName(profile.subject),
    keys: {
      privateKey: key.toCryptoKey(algorithm.key, true, ["sign"]),
      publicKey: createPublicKey(key).toCryptoKey(algorithm.key, true, ["verify"]),
    },
    signingAlgorithm: algorithm.sign,
    extensions:
      profile.names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(profile.names.map(generalName))],
  });
  return request.toString("pem");
}
