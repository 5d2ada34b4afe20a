/** Places of type `file.certificate` that hold one certificate with its key: two PEM files, one PEM file, or a keystore. */
import { X509Certificate } from "node:crypto";
import type { KeyObject } from "node:crypto";
import type { Entry, Observation } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Issued, Place, Probe, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import type { KeyMaterial } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { assertUnchanged, commit, readFile, readPrivateFile, stageFile } from "../shared/files.ts";
import type { FileSeen, StagedFile } from "../shared/files.ts";
import {
  chainFrom,
  certificateOf,
  factsOf,
  fingerprintOf,
  isPrivateKeyLabel,
  parsePem,
  PemError,
  pemOf,
  pkcs8Of,
  privateKeyOf,
} from "../shared/x509.ts";
import { KeystoreError, readKeystore, writeKeystore } from "../shared/pkcs12.ts";
import { clearReloadDue, isReloadDue, markReloadDue, precheck, reload } from "./reload.ts";
import type { CertificateConfig } from "./schema.ts";

/** A certificate as it lies in its files. */
export interface Held {
  readonly leaf: X509Certificate;
  readonly chain: readonly X509Certificate[];
  /** `undefined`: missing, encrypted, or unreadable; `keyProblem` says which. */
  readonly key: KeyObject | undefined;
  readonly keyProblem?: string;
}

/** What a version is here: its chain and its key. Throws `misconfigured` for versions of another kind. */
export async function pairOf(
  version: VersionHandle,
): Promise<{ material: KeyMaterial; leaf: X509Certificate; chain: readonly X509Certificate[] }> {
  const material = await version.open();
  if (material.kind !== "key" || material.certificates[0] === undefined) {
    throw new ConnectorError("misconfigured", `${version.id} is no certificate with a key, which this place holds.`, {
      next: "Use file.value for passwords and other values.",
    });
  }
  const [leaf, ...chain] = material.certificates.map((one) => certificateOf(one));
  if (leaf === undefined || !leaf.checkPrivateKey(privateKeyOf(material.privateKey))) {
    throw new ConnectorError("misconfigured", `The private key of ${version.id} does not belong to its certificate.`);
  }
  return { material, leaf, chain };
}

export function sameKey(held: Held): boolean {
  return held.key !== undefined && held.leaf.checkPrivateKey(held.key);
}

/** The entry of what is held. A certificate whose key is missing or another's is shown, and is no version: no server could use it. */
export function entryOf(held: Held, known: readonly VersionHandle[], slot?: string): Entry {
  const mark = fingerprintOf(held.leaf);
  const version = sameKey(held) ? known.find((one) => one.facts.fingerprint === mark)?.id : undefined;
  return {
    mark,
    enabled: true,
    notAfterMs: held.leaf.validToDate.getTime(),
    ...(version === undefined ? {} : { version }),
    ...(slot === undefined ? {} : { slot }),
  };
}
export function issuedOf(held: Held): Issued {
  const key = held.key;
  if (key === undefined)
    throw new ConnectorError(
      "misconfigured",
      `The key of the certificate ${fingerprintOf(held.leaf)} cannot be adopted: ${held.keyProblem ?? "it is missing"}.`,
    );
  const certificates = chainFrom(held.leaf, held.chain).map((one) => pemOf(one));
  return { facts: factsOf(held.leaf), material: { kind: "key", privateKey: pkcs8Of(key), certificates } };
}

/** Reads PEM texts that together hold one certificate with its key. `undefined`: neither is there. */
export function readPair(chainText: string | undefined, keyText: string | undefined): Held | undefined {
  const blocks = chainText === undefined ? [] : parsePem(chainText);
  const [leaf, ...chain] = blocks
    .filter((block) => block.label === "CERTIFICATE")
    .map((block) => certificateOf(block.der));
  if (leaf === undefined) return undefined;
  if (keyText === undefined) return { leaf, chain, key: undefined, keyProblem: "the key file is missing" };
  try {
    return { leaf, chain, key: privateKeyOf(keyText) };
  } catch (error) {
    if (!(error instanceof PemError)) throw error;
    return { leaf, chain, key: undefined, keyProblem: error.message };
  }
}

export function asMisconfigured<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof PemError || error instanceof KeystoreError)) throw error;
    throw new ConnectorError("misconfigured", `${path}: ${error.message}; it was not touched.`, {
      next: "Mend the file, or correct the path.",
    });
  }
}

/** Where one certificate lies, and how it is written there. */
interface Slot {
  /** The file that stands for the place in messages and marks. */
  readonly path: string;
  read(): Promise<{ held: Held | undefined; files: readonly (FileSeen | undefined)[] }>;
  /** The new content of each file, in the order in which they are put in place. */
  write(
    pair: { material: KeyMaterial; leaf: X509Certificate; chain: readonly X509Certificate[] },
    files: readonly (FileSeen | undefined)[],
  ): Promise<readonly Uint8Array[]>;
  /** Path, mode of a new file, and name in the check's arguments; in the order of `write`. */
  readonly files: readonly { readonly path: string; readonly mode: number; readonly name: "cert" | "key" | "file" }[];
}

function given(value: string | undefined): string {
  // The schema has made sure of it.
  if (value === undefined)
    throw new ConnectorError("misconfigured", "A path is missing in the settings of file.certificate.");
  return value;
}
function utf8(seen: FileSeen | undefined): string | undefined {
  return seen?.bytes.toString("utf8");
}

function pairSlot(config: CertificateConfig): Slot {
  const [certificate, key] = [given(config.certificate), given(config.key)];
  return {
    path: certificate,
    // The key first: a server that starts in between fails with a mismatch, loudly, and does not go on with the old certificate alone.
    files: [
      { path: key, mode: config.mode, name: "key" },
      { path: certificate, mode: 0o644, name: "cert" },
    ],
    read: async () => {
      const [keySeen, certificateSeen] = [await readFile(key), await readFile(certificate)];
      return {
        held: asMisconfigured(certificate, () => readPair(utf8(certificateSeen), utf8(keySeen))),
        files: [keySeen, certificateSeen],
      };
    },
    write: async ({ material }, [keySeen]) => {
      assertNotEncrypted(key, utf8(keySeen));
      return [material.privateKey.bytes(), Buffer.from(material.certificates.join(""))];
    },
  };
}

/** Replacing an encrypted key by one in clear would weaken what somebody set up on purpose. */
function assertNotEncrypted(path: string, text: string | undefined): void {
  if (text === undefined) return;
  const blocks = asMisconfigured(path, () => parsePem(text));
  if (blocks.some((block) => block.encrypted)) {
    throw new ConnectorError(
      "misconfigured",
      `${path} holds an encrypted key; Keyroll writes keys in clear, for the file's owner only.`,
      {
        next: "Remove the password from the server's settings and the key, or use a PKCS#12 keystore.",
      },
    );
  }
}

function combinedSlot(config: CertificateConfig): Slot {
  const path = given(config.certificate);
  return {
    path,
    files: [{ path, mode: config.mode, name: "file" }],
    read: async () => {
      const seen = await readFile(path);
      const text = utf8(seen);
      return { held: asMisconfigured(path, () => readPair(text, text)), files: [seen] };
    },
    write: async ({ material }, [seen]) => {
      const before = utf8(seen) ?? "";
      assertNotEncrypted(path, before);
      const blocks = asMisconfigured(path, () => parsePem(before));
      // What else servers keep there, such as Diffie-Hellman parameters, stays.
      const others = blocks.filter(
        (block) => block.label !== "CERTIFICATE" && block.label !== "EC PARAMETERS" && !isPrivateKeyLabel(block.label),
      );
      const keyFirst = blocks[0] !== undefined && isPrivateKeyLabel(blocks[0].label);
      const [chain, key] = [material.certificates.join(""), ended(material.privateKey.reveal())];
      const text = (keyFirst ? key + chain : chain + key) + others.map((block) => ended(block.text)).join("");
      return [Buffer.from(text)];
    },
  };
}
function ended(text: string): string {
  return text.endsWith("\n") ? text : `${text}\n`;
}

function keystoreSlot(config: CertificateConfig): Slot {
  const [path, passwordFile] = [given(config.keystore), given(config.passwordFile)];
  const password = async (): Promise<Secret> => {
    const secret = await readPrivateFile(passwordFile);
    return new Secret(secret.reveal().replace(/\r?\n$/, ""));
  };
  return {
    path,
    files: [{ path, mode: config.mode, name: "file" }],
    read: async () => {
      const seen = await readFile(path);
      if (seen === undefined || seen.bytes.length === 0) return { held: undefined, files: [seen] };
      const secret = await password();
      const { key, certificates } = asMisconfigured(path, () => readKeystore(seen.bytes, secret));
      const [leaf, ...chain] = certificates;
      return { held: leaf === undefined ? undefined : { leaf, chain, key }, files: [seen] };
    },
    write: async ({ material, leaf, chain }, [seen]) => {
      const secret = await password();
      const before =
        seen === undefined || seen.bytes.length === 0
          ? undefined
          : asMisconfigured(path, () => readKeystore(seen.bytes, secret));
      const alias = config.alias ?? before?.alias ?? "keyroll";
      return [
        writeKeystore({
          key: privateKeyOf(material.privateKey),
          certificates: [leaf, ...chain],
          password: secret,
          alias,
        }),
      ];
    },
  };
}

export function openCertificate(config: CertificateConfig): Place {
  const slot =
    config.kind === "pair"
      ? pairSlot(config)
      : config.kind === "combined"
        ? combinedSlot(config)
        : keystoreSlot(config);

  async function observe(cx: CallContext, known: readonly VersionHandle[]): Promise<Observation> {
    throwIfCancelled(cx);
    const { held } = await slot.read();
    if (held === undefined) return { entries: [], current: null };
    const entry = entryOf(held, known);
    const due = config.reload !== undefined && (await isReloadDue(slot.path));
    const notes: string[] = [];
    if (!sameKey(held))
      notes.push(
        `The key does not belong to the certificate in ${slot.path}: ${held.keyProblem ?? "it is another's"}.`,
      );
    if (due) notes.push(`${slot.path} was changed and the reload did not end well: what its readers use is not known.`);
    return { entries: [entry], ...(due ? {} : { current: entry.mark }), ...(notes.length === 0 ? {} : { notes }) };
  }

  async function replace(
    cx: CallContext,
    contents: readonly Uint8Array[],
    files: readonly (FileSeen | undefined)[],
    secrets: readonly Secret[],
  ): Promise<void> {
    const staged: StagedFile[] = [];
    let changed = false;
    const wasDue = config.reload !== undefined && (await isReloadDue(slot.path));
    try {
      for (const [index, file] of slot.files.entries()) {
        staged.push(
          await stageFile(file.path, contents[index] ?? Buffer.alloc(0), {
            seen: files[index],
            mode: file.mode,
            signal: cx.signal,
          }),
        );
      }
      if (config.precheck !== undefined) {
        const names = Object.fromEntries(slot.files.map((file, index) => [file.name, staged[index]?.temporary ?? ""]));
        await precheck(cx, config.precheck, names, secrets);
      }
      await cx.throttle();
      if (config.reload !== undefined && !wasDue) await markReloadDue(slot.path);
      for (const [index, file] of slot.files.entries()) await assertUnchanged(file.path, files[index]);
      throwIfCancelled(cx);
      for (const one of staged) {
        await commit(one);
        changed = true;
      }
    } catch (error) {
      for (const one of staged) await one.discard();
      if (changed) {
        const why = error instanceof ConnectorError ? error.message : "it is not known why";
        throw new ConnectorError(
          "unknown-outcome",
          `Only a part of ${slot.files.map((file) => file.path).join(" and ")} was replaced: ${why}`,
          {
            next: "The place is looked at again, and the step repeated.",
          },
        );
      }
      if (config.reload !== undefined && !wasDue) await clearReloadDue(slot.path);
      throw error;
    }
  }

  async function activate(cx: CallContext, version: VersionHandle): Promise<void> {
    throwIfCancelled(cx);
    const pair = await pairOf(version);
    const secrets = [pair.material.privateKey];
    const { held, files } = await slot.read();
    const same =
      held !== undefined &&
      sameKey(held) &&
      held.leaf.raw.equals(pair.leaf.raw) &&
      held.chain.length === pair.chain.length &&
      held.chain.every((one, index) => one.raw.equals(pair.chain[index]?.raw ?? Buffer.alloc(0)));
    if (!same) await replace(cx, await slot.write(pair, files), files, secrets);
    if (config.reload === undefined) return;
    await reload(cx, slot.path, config.reload, secrets);
    await clearReloadDue(slot.path);
  }

  async function probe(cx: CallContext, version: VersionHandle): Promise<Probe> {
    const seen = await observe(cx, [version]);
    if (seen.current === undefined) return { outcome: "unknown", detail: `A reload is due at ${slot.path}.` };
    const is = seen.entries.some((entry) => entry.version === version.id);
    return {
      outcome: is ? "accepted" : "refused",
      detail: `${slot.path} ${is ? "holds" : "does not hold"} ${version.id} with its key.`,
    };
  }

  return {
    observe,
    activate,
    probe,
    adopt: async (cx) => {
      throwIfCancelled(cx);
      const { held } = await slot.read();
      return held === undefined ? [] : [issuedOf(held)];
    },
  };
}
