/**
 * The key-encryption key: where it comes from, and which one the database was sealed under.
 *
 * `KEYROLL_KEK` (base64 of 32 bytes) or `KEYROLL_KEK_FILE` (a file with the same) win over the file `kek` in the data folder, which is made on
 * first use. While a roll is under way a second key is there too: `KEYROLL_KEK_NEXT`, `KEYROLL_KEK_NEXT_FILE` or the file `kek.next`. The
 * database keeps only the identity of the current one.
 */
import { createHmac, randomBytes } from "node:crypto";
import { readFileSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { folderError, writeOnce } from "../store/files.ts";
import { StoreError, type Queries } from "../store/store.ts";

export interface Kek {
  /** 32 hex digits: an HMAC under the key, so that it says nothing about it. */
  readonly id: string;
  readonly key: Buffer;
  /** `KEYROLL_KEK`, or the file's path. */
  readonly origin: string;
}

/** What the database remembers. `previous` is there while a roll is under way. */
export interface KekSetting {
  readonly current: string;
  readonly previous?: string;
}

/** The setting that names the current KEK. Whoever seals reads it with a lock, so that a roll never misses a record. */
export const kekSettingName = "kek";

export interface KekOptions {
  readonly dataDir: string;
  readonly env?: NodeJS.ProcessEnv;
}

const keyBytes = 32;

export const kekFile = (dataDir: string): string => join(dataDir, "kek");
export const nextKekFile = (dataDir: string): string => join(dataDir, "kek.next");

function kekOf(key: Buffer, origin: string): Kek {
  return {
    id: createHmac("sha256", key).update("keyroll key-encryption key id").digest("hex").slice(0, 32),
    key,
    origin,
  };
}

export async function readKekSetting(from: Queries, lock?: "share" | "update"): Promise<KekSetting | undefined> {
  const value =
    lock === undefined ? await from.settings.get(kekSettingName) : await from.settings.getLocked(kekSettingName, lock);
  return value as KekSetting | undefined;
}

/** Every KEK that this process can reach. */
export class Keks {
  readonly #options: KekOptions;
  #found: ReadonlyMap<string, Kek>;

  constructor(options: KekOptions) {
    this.#options = options;
    this.#found = this.#read();
  }

  get dataDir(): string {
    return this.#options.dataDir;
  }

  #read(): ReadonlyMap<string, Kek> {
    const found = [
      this.fromEnvironment("KEYROLL_KEK"),
      this.file(),
      this.fromEnvironment("KEYROLL_KEK_NEXT"),
      this.nextFile(),
    ];
    return new Map(found.filter((kek) => kek !== null).map((kek) => [kek.id, kek]));
  }

  /** From the variable, or from the file that the variable with `_FILE` names. */
  fromEnvironment(name: "KEYROLL_KEK" | "KEYROLL_KEK_NEXT"): Kek | null {
    const env = this.#options.env ?? process.env;
    const value = env[name];
    if (value !== undefined && value !== "") return parseKek(value, name);
    const path = env[`${name}_FILE`];
    if (path === undefined || path === "") return null;
    const kek = readKekFile(path);
    if (kek === null)
      throw new StoreError("misconfigured", `${name}_FILE names ${path}, which does not exist`, "correct the path");
    return kek;
  }

  file(): Kek | null {
    return readKekFile(kekFile(this.#options.dataDir));
  }
  nextFile(): Kek | null {
    return readKekFile(nextKekFile(this.#options.dataDir));
  }

  /** Looks at the sources again and gives the key, or throws `wrong-kek`. */
  get(id: string): Kek {
    const known = this.#found.get(id);
    if (known !== undefined) return known;
    this.#found = this.#read();
    const found = this.#found.get(id);
    if (found !== undefined) return found;
    const have = [...this.#found.values()].map((kek) => `${kek.id} (${kek.origin})`);
    throw new StoreError(
      "wrong-kek",
      `this database is sealed with key-encryption key ${id}, ${have.length === 0 ? "and there is none here" : `and the one here is ${have.join(", ")}`}`,
      `bring the right one: the file ${kekFile(this.#options.dataDir)} of the machine that made the database, or KEYROLL_KEK`,
    );
  }
}

/** Finds the KEK of this database, or makes the first one. `wrong-kek` where the database was sealed under another. */
export async function openKeks(store: Queries, options: KekOptions): Promise<Keks> {
  const keks = new Keks(options);
  let setting = await readKekSetting(store);
  if (setting === undefined) {
    // Only an empty database gets a new key: a second machine on an old database must be given the old one.
    const first = keks.fromEnvironment("KEYROLL_KEK") ?? keks.file() ?? createKekFile(kekFile(options.dataDir));
    setting = (await store.settings.putIfAbsent(kekSettingName, { current: first.id })) as unknown as KekSetting;
  }
  const current = keks.get(setting.current);
  if (setting.previous === undefined) finishFileRoll(options.dataDir, current.id);
  return keks;
}

/** The last step of a roll, which may have been cut off: the new file takes the old one's place, and the old key is gone. */
export function finishFileRoll(dataDir: string, currentId: string): void {
  if (readKekFile(nextKekFile(dataDir))?.id !== currentId) return;
  try {
    renameSync(nextKekFile(dataDir), kekFile(dataDir));
  } catch (error) {
    // Another process did it at the same moment.
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw folderError(error, nextKekFile(dataDir));
  }
}

/** Makes a new key in a 0600 file; where one is there already, gives that one. */
export function createKekFile(path: string): Kek {
  writeOnce(path, `${randomBytes(keyBytes).toString("base64")}\n`);
  const kek = readKekFile(path);
  if (kek === null) throw new StoreError("permission", `${path} vanished while it was made`);
  return kek;
}

function readKekFile(path: string): Kek | null {
  try {
    const { mode, uid } = statSync(path);
    if ((mode & 0o077) !== 0) {
      throw new StoreError(
        "permission",
        `${path} holds the key-encryption key and is open to others (mode ${(mode & 0o777).toString(8).padStart(4, "0")})`,
        `run: chmod 600 ${path} — and roll the key if somebody may have read it: keyroll keys roll`,
      );
    }
    const self = process.getuid?.();
    if (self !== undefined && uid !== self && uid !== 0) {
      throw new StoreError(
        "permission",
        `${path} holds the key-encryption key and belongs to another user (uid ${uid})`,
        `run: chown ${self} ${path}`,
      );
    }
    return parseKek(readFileSync(path, "utf8"), path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw folderError(error, path);
  }
}

function parseKek(text: string, origin: string): Kek {
  const trimmed = text.trim();
  const key = Buffer.from(trimmed, "base64");
  // Node skips what is not base64, so the way back is compared too.
  if (key.length !== keyBytes || key.toString("base64").replace(/=+$/, "") !== trimmed.replace(/=+$/, "")) {
    throw new StoreError(
      "misconfigured",
      `${origin} is not a key-encryption key`,
      "it must be 32 random bytes in base64: openssl rand -base64 32",
    );
  }
  return kekOf(key, origin);
}
