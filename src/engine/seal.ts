/**
 * Sealing: how secret material lies in the database. Envelope encryption with AES-256-GCM (NIST SP 800-38D): every record has a data key of
 * its own, and the data key is wrapped by the key-encryption key (KEK), which never enters the database. Owner, version, record id and purpose
 * are associated data, so that a record copied onto another row does not open.
 *
 * Format of `blob` and of `wrappedKey`: one version byte (1), 12 bytes nonce, 16 bytes tag, ciphertext.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  generateKeyPairSync,
  randomBytes,
  timingSafeEqual,
} from "node:crypto";
import { Secret, type Material } from "../connectors/secret.ts";
import { StoreError, type Queries, type SealedRow, type Store, type Tx } from "../store/store.ts";
import { openKeks, readKekSetting, type Kek, type KekOptions, type Keks } from "./kek.ts";

/** What a sealed record belongs to. */
interface SealLabel {
  /** Credential. */
  readonly owner: string;
  /** Version id, `<credential>#<number>`. */
  readonly version: string;
  /** `minted`: the secret part before the issuer has answered. `material`: the finished version. */
  readonly purpose: "minted" | "material";
}

export interface Sealer {
  /**
   * Seals in the transaction. Sealing the same material again does nothing; other material under the same label throws, because a sealed value
   * may be the only copy.
   */
  seal(tx: Tx, label: SealLabel, material: Material): Promise<void>;
  /** `null`: there is none. Throws `tampered` or `wrong-kek`. The caller wipes the secrets it gets. */
  open(from: Queries, label: SealLabel): Promise<Material | null>;
  /** Deletes every record of the version (or of one purpose). Returns how many. Backups of the database may still hold them. */
  destroy(
    tx: Tx,
    version: { readonly owner: string; readonly version: string },
    purpose?: SealLabel["purpose"],
  ): Promise<number>;
  /** Keyed hash of an opaque secret: tells equal from different, and nothing else, to whoever reads the database. Lower-case hex. */
  fingerprint(secret: Secret): string;
  /** The HMAC key of the journal. */
  journalKey(): Buffer;
  /** PKCS#8 DER of the Ed25519 key that signs journal exports. */
  signingKey(): Buffer;
}

const formatVersion = 1;
const nonceBytes = 12;
const tagBytes = 16;
const keyBytes = 32;
/** Names are length-prefixed, so that no two labels give the same bytes. */
function associatedData(parts: readonly string[]): Buffer {
  return Buffer.concat(
    parts.flatMap((part) => {
      const bytes = Buffer.from(part, "utf8");
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      return [length, bytes];
    }),
  );
}
const recordData = (row: Pick<SealedRow, "id" | "owner" | "version" | "purpose">): Buffer =>
  associatedData(["keyroll-seal-1", row.owner, row.version, row.id, row.purpose]);
const wrapData = (row: Pick<SealedRow, "id" | "owner" | "version" | "purpose">, kek: string): Buffer =>
  associatedData(["keyroll-wrap-1", row.owner, row.version, row.id, row.purpose, kek]);

function encrypt(key: Buffer, plain: Buffer, aad: Buffer): Buffer {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  cipher.setAAD(aad);
  const body = Buffer.concat([cipher.update(plain), cipher.final()]);
  return Buffer.concat([Buffer.of(formatVersion), nonce, cipher.getAuthTag(), body]);
}

/** Throws when a single bit is not as it was written. */
function decrypt(key: Buffer, sealed: Buffer, aad: Buffer): Buffer {
  if (sealed[0] !== formatVersion) throw new RangeError(`format ${String(sealed[0])}`);
  const nonce = sealed.subarray(1, 1 + nonceBytes);
  const tag = sealed.subarray(1 + nonceBytes, 1 + nonceBytes + tagBytes);
  const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: tagBytes });
  decipher.setAAD(aad);
  decipher.setAuthTag(tag);
  return Buffer.concat([decipher.update(sealed.subarray(1 + nonceBytes + tagBytes)), decipher.final()]);
}

function sealRecord(
  kek: Kek,
  row: Pick<SealedRow, "owner" | "version" | "purpose">,
  plain: Buffer,
): Omit<SealedRow, "createdAtMs"> {
  const labelled = { ...row, id: randomBytes(16).toString("hex") };
  const dataKey = randomBytes(keyBytes);
  try {
    return {
      ...labelled,
      kekId: kek.id,
      wrappedKey: encrypt(kek.key, dataKey, wrapData(labelled, kek.id)),
      blob: encrypt(dataKey, plain, recordData(labelled)),
    };
  } finally {
    dataKey.fill(0);
  }
}

function openRecord(kek: Kek, row: SealedRow): Buffer {
  const dataKey = unwrap(kek, row);
  try {
    return decrypt(dataKey, row.blob, recordData(row));
  } catch (error) {
    throw damaged(row, error);
  } finally {
    dataKey.fill(0);
  }
}

/** The same data key under another KEK. The secret itself is not opened. */
export function rewrapRecord(from: Kek, to: Kek, row: SealedRow): Buffer {
  const dataKey = unwrap(from, row);
  try {
    return encrypt(to.key, dataKey, wrapData(row, to.id));
  } finally {
    dataKey.fill(0);
  }
}

function unwrap(kek: Kek, row: SealedRow): Buffer {
  try {
    return decrypt(kek.key, row.wrappedKey, wrapData(row, kek.id));
  } catch (error) {
    throw damaged(row, error);
  }
}

function damaged(row: SealedRow, error: unknown): StoreError {
  const what = `the sealed record ${row.id} (${row.purpose} of ${row.version})`;
  if (error instanceof RangeError) {
    return new StoreError(
      "newer-schema",
      `${what} has ${error.message}, which this Keyroll does not know`,
      "use the version that wrote it",
    );
  }
  return new StoreError(
    "tampered",
    `${what} was changed after it was sealed, or moved from another record`,
    "restore the database from a backup; run: keyroll audit verify",
  );
}

// ---------------------------------------------------------------------------------------------------------------------------------------
// Material as bytes: a kind byte, then parts with their lengths. JSON would leave copies of the secret in strings, which cannot be wiped.

const kindSecret = 1;
const kindKey = 2;

export function encodeMaterial(material: Material): Buffer {
  if (material.kind === "secret") return Buffer.concat([Buffer.of(kindSecret), lengthAndBytes(material.value.bytes())]);
  const certificates = material.certificates.map((pem) => lengthAndBytes(Buffer.from(pem, "utf8")));
  return Buffer.concat([Buffer.of(kindKey), lengthAndBytes(material.privateKey.bytes()), ...certificates]);
}

function lengthAndBytes(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

export function decodeMaterial(bytes: Buffer): Material {
  const parts: Buffer[] = [];
  for (let at = 1; at < bytes.length;) {
    const length = bytes.readUInt32BE(at);
    parts.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  const [first, ...rest] = parts;
  if (first === undefined || (bytes[0] !== kindSecret && bytes[0] !== kindKey)) {
    throw new StoreError(
      "newer-schema",
      "a sealed record holds a kind of material that this Keyroll does not know",
      "use the version that wrote it",
    );
  }
  // `Secret` copies the bytes, so that the caller can wipe the whole buffer.
  if (bytes[0] === kindSecret) return { kind: "secret", value: new Secret(first) };
  return { kind: "key", privateKey: new Secret(first), certificates: rest.map((part) => part.toString("utf8")) };
}

// ---------------------------------------------------------------------------------------------------------------------------------------

/** Records of the installation itself. They are sealed like every other one, and re-wrapped with them. */
const system = { owner: "keyroll", version: "keyroll#0" };

/** Finds or makes the KEK and the installation's own keys. `wrong-kek` where the database was sealed under another one. */
export async function openSealer(store: Store, options: Partial<KekOptions> = {}): Promise<Sealer> {
  const keks = await openKeks(store, { dataDir: store.dataDir, ...options });
  const fingerprintKey = await systemKey(store, keks, "fingerprint-key", () => randomBytes(keyBytes));
  const journalKey = await systemKey(store, keks, "journal-key", () => randomBytes(keyBytes));
  const signingKey = await systemKey(
    store,
    keks,
    "signing-key",
    () =>
      generateKeyPairSync("ed25519", {
        privateKeyEncoding: { type: "pkcs8", format: "der" },
        publicKeyEncoding: { type: "spki", format: "der" },
      }).privateKey,
  );

  return {
    async seal(tx, label, material) {
      const plain = encodeMaterial(material);
      try {
        if (await tx.sealed.insert(sealRecord(await currentKek(tx, keks), label, plain))) return;
        const there = await tx.sealed.find(label.owner, label.version, label.purpose);
        if (there === undefined) throw new Error("a sealed record vanished while it was compared");
        const old = openRecord(keks.get(there.kekId), there);
        const same = old.length === plain.length && timingSafeEqual(old, plain);
        old.fill(0);
        if (!same) {
          throw new StoreError(
            "tampered",
            `${label.version} already has other sealed material (${label.purpose}), which is never overwritten`,
            "destroy it first if it is not in use anywhere",
          );
        }
      } finally {
        plain.fill(0);
      }
    },
    async open(from, label) {
      const row = await from.sealed.find(label.owner, label.version, label.purpose);
      if (row === undefined) return null;
      const plain = openRecord(keks.get(row.kekId), row);
      try {
        return decodeMaterial(plain);
      } finally {
        plain.fill(0);
      }
    },
    destroy: (tx, { owner, version }, purpose) => tx.sealed.destroy(owner, version, purpose),
    fingerprint: (secret) => createHmac("sha256", fingerprintKey).update(secret.bytes()).digest("hex"),
    journalKey: () => journalKey,
    signingKey: () => signingKey,
  };
}

/** Locks the setting for the transaction: a roll that names another KEK waits for this record, or this record uses the new KEK. */
async function currentKek(tx: Queries, keks: Keks): Promise<Kek> {
  return keks.get((await readKekSetting(tx, "share"))?.current ?? "(none)");
}

async function systemKey(store: Store, keks: Keks, purpose: string, make: () => Buffer): Promise<Buffer> {
  const find = async (): Promise<Buffer | null> => {
    const row = await store.sealed.find(system.owner, system.version, purpose);
    return row === undefined ? null : openRecord(keks.get(row.kekId), row);
  };
  const there = await find();
  if (there !== null) return there;
  // Two processes may both make one: the second insert does nothing, and both read the first.
  await store.transaction(async (tx) =>
    tx.sealed.insert(sealRecord(await currentKek(tx, keks), { ...system, purpose }, make())),
  );
  const made = await find();
  if (made === null) throw new Error(`the installation's ${purpose} vanished while it was made`);
  return made;
}
