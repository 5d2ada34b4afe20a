/** Secret values outside `core`: a wrapper that no log, JSON or template string can print, and the material that connectors exchange. */
import { inspect } from "node:util";

const shown = "[secret]";

/** Holds bytes. The only way to the value is `reveal` or `bytes`, which reviewers can search for. */
export class Secret {
  readonly #bytes: Buffer;
  constructor(value: string | Uint8Array) {
    this.#bytes = typeof value === "string" ? Buffer.from(value, "utf8") : Buffer.from(value);
  }
  /** The value as UTF-8 text. JavaScript strings cannot be wiped: keep it short-lived. */
  reveal(): string {
    return this.#bytes.toString("utf8");
  }
  /** The bytes themselves, not a copy. */
  bytes(): Buffer {
    return this.#bytes;
  }
  wipe(): void {
    this.#bytes.fill(0);
  }
  toString(): string {
    return shown;
  }
  toJSON(): string {
    return shown;
  }
  [inspect.custom](): string {
    return shown;
  }
}

/** An opaque value: password, client secret, API key, symmetric key. */
export interface SecretMaterial {
  readonly kind: "secret";
  readonly value: Secret;
}

/** A private key, with its certificate once there is one. PEM, PKCS#8 for the key, leaf first in the chain. */
export interface KeyMaterial {
  readonly kind: "key";
  readonly privateKey: Secret;
  /** Public: the leaf and its chain, without the root unless the root is all there is. Empty for bare keys and before a CA has signed. */
  readonly certificates: readonly string[];
}

export type Material = SecretMaterial | KeyMaterial;
