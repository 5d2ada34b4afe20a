/**
 * Java keystores (JKS, JCEKS): the certificates lie in clear, so no password is asked and no key is opened. The installed library reads them
 * only with the password and decrypts the keys on the way, which a scan must not do; the format is a flat list (`sun.security.provider.JavaKeyStore`).
 */
import { certificateItem, printable } from "./certificate.ts";
import { Malformed } from "./der.ts";
import type { ParsedItem } from "./found.ts";
import { lockedKeyItem } from "./keys.ts";

const jks = 0xfeedfeed;
const jceks = 0xcececece;

export function isJavaKeystore(bytes: Buffer): boolean {
  if (bytes.length < 12) return false;
  const magic = bytes.readUInt32BE(0);
  return magic === jks || magic === jceks;
}

class Reader {
  readonly bytes: Buffer;
  at = 4;
  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
  take(length: number): Buffer {
    if (this.at + length > this.bytes.length) throw new Malformed("the keystore is cut off");
    const part = this.bytes.subarray(this.at, this.at + length);
    this.at += length;
    return part;
  }
  uint16(): number {
    return this.take(2).readUInt16BE(0);
  }
  uint32(): number {
    return this.take(4).readUInt32BE(0);
  }
  text(): string {
    return printable(this.take(this.uint16()).toString("utf8").slice(0, 200));
  }
}

type Entry = ParsedItem | { readonly kind: "problem"; readonly code: "malformed"; readonly text: string };

/** Gives the certificates and, shut, the keys of a keystore. Problems are outcomes; it does not throw. */
export function* parseJavaKeystore(bytes: Buffer): Generator<Entry, void, void> {
  const reader = new Reader(bytes);
  let index = 0;
  try {
    const version = reader.uint32();
    if (version !== 1 && version !== 2)
      throw new Malformed(`version ${version} of the Java keystore format is not known`);
    const count = reader.uint32();
    for (let entry = 0; entry < count; entry++) {
      const kind = reader.uint32();
      const alias = reader.text();
      reader.take(8);
      if (kind === 1) {
        yield lockedKeyItem(reader.take(reader.uint32()), "jks", index++, alias);
        const length = reader.uint32();
        for (let i = 0; i < length; i++) yield* certificate(reader, version, index++, alias);
      } else if (kind === 2) {
        yield* certificate(reader, version, index++, alias);
      } else if (kind === 3) {
        // A sealed Java object of no stated length: nothing behind it can be found without reading Java's serialisation.
        throw new Malformed(
          `entry "${alias}" is a secret key; it and the ${count - entry - 1} entries behind it are not read`,
        );
      } else {
        throw new Malformed(`entry ${entry + 1} of the keystore has an unknown type`);
      }
    }
  } catch (error) {
    yield {
      kind: "problem",
      code: "malformed",
      text: error instanceof Malformed ? error.message : "the keystore cannot be read",
    };
  }
}

function* certificate(reader: Reader, version: number, index: number, alias: string): Generator<Entry, void, void> {
  if (version === 2) reader.text();
  const der = reader.take(reader.uint32());
  try {
    yield { ...certificateItem(der, 0, der.length, "jks", index), label: alias };
  } catch (error) {
    // The entry's length was sound, so the next one can still be read.
    yield {
      kind: "problem",
      code: "malformed",
      text: `entry "${alias}": ${error instanceof Malformed ? error.message : "it cannot be read"}`,
    };
  }
}
