/**
 * PKCS#12 keystores (RFC 7292) for keys of any type. node-forge reads and writes RSA keys only through its own objects; the containers are built
 * here from its ASN.1 parts, with AES-256 and HMAC-SHA-256 as OpenSSL 3 and current Java write them.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import type { KeyObject } from "node:crypto";
import forge from "node-forge";
import type { Secret } from "../secret.ts";

/** Without any content of the store in the message. */
export class KeystoreError extends Error {
  override readonly name = "KeystoreError";
}

export interface Keystore {
  readonly key: KeyObject;
  /** Leaf first, where the leaf is the one that the key belongs to. */
  readonly certificates: readonly X509Certificate[];
  readonly alias: string | undefined;
}

/** More rounds are an attack: the derivation of the MAC key runs in this process. */
const mostIterations = 1_000_000;
/** As current Java; the rounds are made in JavaScript, here and whenever the place is looked at. */
const iterations = 10_000;

const { asn1, pki, pkcs12, util } = forge;
type Node = forge.asn1.Asn1;
const bytesOf = (text: string): Buffer => Buffer.from(text, "latin1");
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");

/**
 * Throws {@link KeystoreError}: damaged, another password, or without a key and its certificate.
 * @param password `undefined`: none at all, as in what Key Vault hands out; that is not the same as an empty one.
 */
export function readKeystore(bytes: Uint8Array, password: Secret | undefined): Keystore {
  let root: Node;
  try {
    root = asn1.fromDer(util.createBuffer(text(bytes)));
  } catch {
    throw new KeystoreError("this is not a PKCS#12 keystore; it is cut off or damaged");
  }
  if (macIterations(root) > mostIterations)
    throw new KeystoreError(`the keystore asks for more than ${mostIterations} rounds`);
  let store: forge.pkcs12.Pkcs12Pfx;
  try {
    store = pkcs12.pkcs12FromAsn1(root, true, password?.reveal());
  } catch {
    throw new KeystoreError("the password of the keystore is wrong, or it is damaged");
  }
  const bags = store.safeContents.flatMap((contents) => contents.safeBags);
  const keyBags = bags.filter((bag) => bag.type === pki.oids["pkcs8ShroudedKeyBag"] || bag.type === pki.oids["keyBag"]);
  const [keyBag, second] = keyBags;
  if (keyBag === undefined) throw new KeystoreError("the keystore holds no private key");
  if (second !== undefined)
    throw new KeystoreError("the keystore holds several private keys; which one is meant cannot be told");
  try {
    const key = keyOf(keyBag);
    const all = bags.filter((bag) => bag.type === pki.oids["certBag"]).map(certificateOfBag);
    const leaf = all.find((one) => one.checkPrivateKey(key));
    if (leaf === undefined) throw new KeystoreError("no certificate in the keystore belongs to its private key");
    const names: unknown = keyBag.attributes?.friendlyName;
    const alias: unknown = Array.isArray(names) ? names[0] : undefined;
    return {
      key,
      certificates: [leaf, ...all.filter((one) => one !== leaf)],
      alias: typeof alias === "string" ? alias : undefined,
    };
  } catch (error) {
    if (error instanceof KeystoreError) throw error;
    throw new KeystoreError("the keystore holds a key or a certificate that cannot be read");
  }
}

/** MacData is the third element of PFX, and its rounds the third element of that (RFC 7292, 4). */
function macIterations(root: Node): number {
  const mac = listOf(root)[2];
  const rounds = mac === undefined ? undefined : listOf(mac)[2];
  if (rounds === undefined || typeof rounds.value !== "string") return 1;
  return rounds.value.length > 4 ? Number.POSITIVE_INFINITY : Number.parseInt(util.bytesToHex(rounds.value), 16);
}
function listOf(node: Node): readonly Node[] {
  return Array.isArray(node.value) ? node.value : [];
}

function keyOf(bag: forge.pkcs12.Bag): KeyObject {
  // For types that forge does not know it leaves the PrivateKeyInfo as it was.
  const info = bag.key ? pki.wrapRsaPrivateKey(pki.privateKeyToAsn1(bag.key)) : bag.asn1;
  return createPrivateKey({ key: bytesOf(asn1.toDer(info).getBytes()), format: "der", type: "pkcs8" });
}
function certificateOfBag(bag: forge.pkcs12.Bag): X509Certificate {
  const node = bag.cert ? pki.certificateToAsn1(bag.cert) : bag.asn1;
  return new X509Certificate(bytesOf(asn1.toDer(node).getBytes()));
}

export interface KeystoreContent {
  readonly key: KeyObject;
  readonly certificates: readonly X509Certificate[];
  readonly password: Secret;
  readonly alias: string;
}

/** The certificates lie in clear, as they are public; the MAC covers them. */
export function writeKeystore(content: KeystoreContent): Buffer {
  const password = content.password.reveal();
  const [leaf, ...chain] = content.certificates;
  if (leaf === undefined) throw new KeystoreError("there is no certificate to put into the keystore");
  // localKeyID ties the key to its certificate; any bytes do, and the fingerprint says which.
  const id = bytesOf(util.hexToBytes(leaf.fingerprint.replaceAll(":", "")));
  const attributes = set([
    sequence([oid("friendlyName"), set([primitive(asn1.Type.BMPSTRING, bmp(content.alias))])]),
    sequence([oid("localKeyId"), set([octets(id)])]),
  ]);
  // Node's encrypted PKCS#8 is what a shrouded bag holds: PBES2 with AES-256, for keys of every type.
  const shrouded = content.key.export({ type: "pkcs8", format: "der", cipher: "aes-256-cbc", passphrase: password });
  const keyBag = sequence([
    oid("pkcs8ShroudedKeyBag"),
    context(0, [asn1.fromDer(util.createBuffer(text(shrouded)))]),
    attributes,
  ]);
  const certBag = (certificate: X509Certificate, more: readonly Node[]): Node =>
    sequence([
      oid("certBag"),
      context(0, [sequence([oid("x509Certificate"), context(0, [octets(certificate.raw)])])]),
      ...more,
    ]);
  const certificates = sequence([certBag(leaf, [attributes]), ...chain.map((one) => certBag(one, []))]);
  const safe = sequence([data(sequence([keyBag])), data(certificates)]);
  const der = asn1.toDer(safe).getBytes();

  const salt = util.createBuffer(forge.random.getBytesSync(16));
  const saltBytes = salt.bytes();
  const macKey = pkcs12.generateKey(password, salt, 3, iterations, 32, forge.md.sha256.create());
  const mac = forge.hmac.create();
  mac.start("sha256", macKey);
  mac.update(der);
  const macData = sequence([
    sequence([
      sequence([oid("sha256"), primitive(asn1.Type.NULL, "")]),
      primitive(asn1.Type.OCTETSTRING, mac.getMac().getBytes()),
    ]),
    primitive(asn1.Type.OCTETSTRING, saltBytes),
    primitive(asn1.Type.INTEGER, asn1.integerToDer(iterations).getBytes()),
  ]);
  const pfx = sequence([primitive(asn1.Type.INTEGER, asn1.integerToDer(3).getBytes()), data(safe), macData]);
  return bytesOf(asn1.toDer(pfx).getBytes());
}

function sequence(children: readonly Node[]): Node {
  return asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SEQUENCE, true, [...children]);
}
function set(children: readonly Node[]): Node {
  return asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SET, true, [...children]);
}
function context(tag: number, children: readonly Node[]): Node {
  return asn1.create(asn1.Class.CONTEXT_SPECIFIC, tag, true, [...children]);
}
function primitive(type: forge.asn1.Type, value: string): Node {
  return asn1.create(asn1.Class.UNIVERSAL, type, false, value);
}
function octets(bytes: Uint8Array): Node {
  return primitive(asn1.Type.OCTETSTRING, text(bytes));
}
function oid(name: string): Node {
  return primitive(asn1.Type.OID, asn1.oidToDer(pki.oids[name] ?? "").getBytes());
}
/** ContentInfo of type data. */
function data(content: Node): Node {
  return sequence([oid("data"), context(0, [primitive(asn1.Type.OCTETSTRING, asn1.toDer(content).getBytes())])]);
}
function bmp(value: string): string {
  return text(Buffer.from(value, "utf16le").swap16());
}
