/** The lab's own certificates and PKCS#12 files, written without the product's code so that one mistake cannot cancel itself. */
import "reflect-metadata";
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  randomBytes,
  X509Certificate,
} from "node:crypto";
import type { KeyObject } from "node:crypto";
import { isIP } from "node:net";
import { promisify } from "node:util";
import * as x509 from "@peculiar/x509";
import forge from "node-forge";

const generate = promisify(generateKeyPair);

export async function makeRsaKey(bits = 2048): Promise<KeyObject> {
  return (await generate("rsa", { modulusLength: bits })).privateKey;
}
export async function makeEcKey(namedCurve: "P-256" | "P-384" | "P-521" = "P-256"): Promise<KeyObject> {
  return (await generate("ec", { namedCurve })).privateKey;
}

export const pkcs8 = (key: KeyObject): string => key.export({ type: "pkcs8", format: "pem" }).toString();

export interface CertificateWish {
  readonly subject: string;
  readonly names?: readonly string[];
  readonly key: KeyObject;
  /** Absent: the key signs itself. */
  readonly signer?: { readonly certificate: string; readonly key: string };
  readonly ca?: boolean;
  readonly extendedKeyUsages?: readonly string[];
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** PEM. */
export async function makeCertificate(wish: CertificateWish): Promise<string> {
  const signingKey = wish.signer ? createPrivateKey(wish.signer.key) : wish.key;
  const ec = signingKey.asymmetricKeyType === "ec";
  const curve = { prime256v1: "P-256", secp384r1: "P-384", secp521r1: "P-521" }[
    signingKey.asymmetricKeyDetails?.namedCurve ?? "prime256v1"
  ];
  const algorithm = ec
    ? { name: "ECDSA", namedCurve: curve ?? "P-256" }
    : { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
  const issuer = wish.signer ? new x509.X509Certificate(wish.signer.certificate) : undefined;
  const publicKey = new x509.PublicKey(createPublicKey(wish.key).export({ type: "spki", format: "der" }));
  const serial = randomBytes(16);
  serial[0] = (serial[0]! & 0x7f) | 0x01;
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial.toString("hex"),
    subject: wish.subject,
    issuer: issuer ? issuer.subjectName : wish.subject,
    notBefore: new Date(Math.floor(wish.notBeforeMs / 1000) * 1000),
    notAfter: new Date(Math.floor(wish.notAfterMs / 1000) * 1000),
    publicKey,
    signingKey: signingKey.toCryptoKey(algorithm, true, ["sign"]),
    signingAlgorithm: ec ? { name: "ECDSA", hash: "SHA-256" } : algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(wish.ca === true, undefined, true),
      new x509.KeyUsagesExtension(
        wish.ca === true
          ? x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign
          : x509.KeyUsageFlags.digitalSignature |
              (wish.key.asymmetricKeyType === "rsa" ? x509.KeyUsageFlags.keyEncipherment : 0),
        true,
      ),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      ...(issuer ? [await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey)] : []),
      ...(wish.extendedKeyUsages?.length ? [new x509.ExtendedKeyUsageExtension([...wish.extendedKeyUsages])] : []),
      ...(wish.names?.length
        ? [
            new x509.SubjectAlternativeNameExtension(
              wish.names.map((value) => ({ type: isIP(value) ? ("ip" as const) : ("dns" as const), value })),
            ),
          ]
        : []),
    ],
  });
  return new X509Certificate(Buffer.from(certificate.rawData)).toString();
}

/** Base64 of the DER of a certificate signing request for this key. */
export async function makeRequest(subject: string, key: KeyObject): Promise<string> {
  const ec = key.asymmetricKeyType === "ec";
  const algorithm = ec ? { name: "ECDSA", namedCurve: "P-256" } : { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: subject,
    keys: {
      privateKey: key.toCryptoKey(algorithm, true, ["sign"]),
      publicKey: createPublicKey(key).toCryptoKey(algorithm, true, ["verify"]),
    },
    signingAlgorithm: ec ? { name: "ECDSA", hash: "SHA-256" } : algorithm,
  });
  return Buffer.from(request.rawData).toString("base64");
}

/** Hex, upper case: as Entra and the portal write thumbprints. */
export const thumbprint = (certificate: X509Certificate): string =>
  createHash("sha1").update(certificate.raw).digest("hex").toUpperCase();

const { asn1, pki, util } = forge;
type Node = forge.asn1.Asn1;
const latin = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");
const sequence = (...nodes: Node[]): Node => asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SEQUENCE, true, nodes);
const set = (...nodes: Node[]): Node => asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SET, true, nodes);
const octets = (text: string): Node => asn1.create(asn1.Class.UNIVERSAL, asn1.Type.OCTETSTRING, false, text);
const oid = (name: string): Node =>
  asn1.create(asn1.Class.UNIVERSAL, asn1.Type.OID, false, asn1.oidToDer(pki.oids[name] ?? name).getBytes());
const explicit = (node: Node): Node => asn1.create(asn1.Class.CONTEXT_SPECIFIC, 0, true, [node]);
const integer = (value: number): Node =>
  asn1.create(asn1.Class.UNIVERSAL, asn1.Type.INTEGER, false, asn1.integerToDer(value).getBytes());
const der = (node: Node): string => asn1.toDer(node).getBytes();

/**
 * A PKCS#12 file as Key Vault hands it out: no password at all (not an empty one), 3DES for the key, HMAC-SHA-1. RSA and EC keys.
 */
export function writePfx(key: KeyObject, certificates: readonly X509Certificate[]): Buffer {
  const id = createHash("sha1").update(certificates[0]!.raw).digest();
  const attributes = set(sequence(oid("localKeyId"), set(octets(latin(id)))));
  const certBags = certificates.map((certificate, index) =>
    sequence(
      oid("certBag"),
      explicit(sequence(oid("x509Certificate"), explicit(octets(latin(certificate.raw))))),
      ...(index === 0 ? [attributes] : []),
    ),
  );
  const plain = asn1.fromDer(util.createBuffer(latin(key.export({ type: "pkcs8", format: "der" }))));
  // The typings know only a string; without one the key is derived from no password, as the service does.
  const none = undefined as unknown as string;
  const shrouded = pki.encryptPrivateKeyInfo(plain, none, { algorithm: "3des", count: 2000 });
  const keyBag = sequence(oid("pkcs8ShroudedKeyBag"), explicit(shrouded), attributes);
  const data = (content: Node): Node => sequence(oid("data"), explicit(octets(der(content))));
  const safe = der(sequence(data(sequence(keyBag)), data(sequence(...certBags))));
  const salt = latin(randomBytes(20));
  const macKey = forge.pkcs12.generateKey(none, util.createBuffer(salt), 3, 2000, 20, forge.md.sha1.create());
  const mac = forge.hmac.create();
  mac.start(forge.md.sha1.create(), macKey as unknown as forge.util.ByteStringBuffer);
  mac.update(safe);
  const macData = sequence(
    sequence(
      sequence(oid("sha1"), asn1.create(asn1.Class.UNIVERSAL, asn1.Type.NULL, false, "")),
      octets(mac.getMac().getBytes()),
    ),
    octets(salt),
    integer(2000),
  );
  return Buffer.from(der(sequence(integer(3), sequence(oid("data"), explicit(octets(safe))), macData)), "latin1");
}

export interface Parsed {
  readonly key: KeyObject;
  /** Leaf first. */
  readonly certificates: readonly X509Certificate[];
}

/** `null`: not a PKCS#12 file, another password, or without a key that belongs to one of its certificates. */
export function readPfx(bytes: Buffer, password: string | undefined): Parsed | null {
  // A missing and an empty password are the same to the service, though they derive different keys.
  for (const attempt of password === undefined || password === "" ? [undefined, ""] : [password]) {
    try {
      const store = forge.pkcs12.pkcs12FromAsn1(
        asn1.fromDer(util.createBuffer(latin(bytes))),
        true,
        attempt as unknown as string,
      );
      const bags = store.safeContents.flatMap((contents) => contents.safeBags);
      const keyBag = bags.find(
        (bag) => bag.type === pki.oids["pkcs8ShroudedKeyBag"] || bag.type === pki.oids["keyBag"],
      );
      if (!keyBag) return null;
      // forge gives RSA keys as its own objects, and others as ASN.1.
      const info = keyBag.key ? pki.wrapRsaPrivateKey(pki.privateKeyToAsn1(keyBag.key)) : keyBag.asn1;
      const key = createPrivateKey({ key: Buffer.from(der(info), "latin1"), format: "der", type: "pkcs8" });
      const all = bags
        .filter((bag) => bag.type === pki.oids["certBag"])
        .map(
          (bag) =>
            new X509Certificate(Buffer.from(der(bag.cert ? pki.certificateToAsn1(bag.cert) : bag.asn1), "latin1")),
        );
      const leaf = all.find((one) => one.checkPrivateKey(key));
      return leaf ? { key, certificates: [leaf, ...all.filter((one) => one !== leaf)] } : null;
    } catch {
      // Another password, or no PKCS#12 at all: the caller answers both in the same words.
    }
  }
  return null;
}

/** Certificate and PKCS#8 key in one PEM text, in any order. */
export function readPem(text: string): Parsed | null {
  try {
    const keyText = /-----BEGIN (?:RSA |EC )?PRIVATE KEY-----[\s\S]+?-----END (?:RSA |EC )?PRIVATE KEY-----/.exec(
      text,
    )?.[0];
    const all = [...text.matchAll(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g)].map(
      ([each]) => new X509Certificate(each),
    );
    if (keyText === undefined) return null;
    const key = createPrivateKey(keyText);
    const leaf = all.find((one) => one.checkPrivateKey(key));
    return leaf ? { key, certificates: [leaf, ...all.filter((one) => one !== leaf)] } : null;
  } catch {
    return null;
  }
}
