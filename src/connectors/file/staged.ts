/**
 * The kind of `file.certificate` with a folder per version: `<stagingDir>/<name>/certificate.pem` and `key.pem`, and a link `current` to one of
 * them. Moving the link changes certificate and key at once: no reader can see one without the other.
 */
import { randomBytes } from "node:crypto";
import { lstat, mkdir, readdir, readlink, rename, rmdir, symlink, unlink } from "node:fs/promises";
import { join } from "node:path";
import type { Observation } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { codeOf, throwIfCancelled } from "../shared/calls.ts";
import { fileError, readFile, replaceFile, syncFolder } from "../shared/files.ts";
import { asMisconfigured, entryOf, issuedOf, pairOf, readPair, sameKey } from "./certificate.ts";
import type { Held } from "./certificate.ts";
import { clearReloadDue, isReloadDue, markReloadDue, precheck, reload } from "./reload.ts";
import type { CertificateConfig } from "./schema.ts";

const certificateName = "certificate.pem";
const keyName = "key.pem";
const linkName = "current";

/** Folders that Keyroll makes are called by the fingerprint, so that each version has one and the same wherever it is put. */
function folderName(version: VersionHandle): string {
  return version.facts.fingerprint.slice(0, 32);
}

interface Stored {
  readonly name: string;
  readonly held: Held;
}

export function openStaged(config: CertificateConfig, root: string): Place {
  const link = join(root, linkName);

  async function stored(): Promise<readonly Stored[]> {
    let names: string[];
    try {
      const found = await readdir(root, { withFileTypes: true });
      names = found.filter((one) => one.isDirectory()).map((one) => one.name);
    } catch (error) {
      if (codeOf(error) === "ENOENT") return [];
      throw fileError(error, root, "read");
    }
    const all: Stored[] = [];
    for (const name of names.sort()) {
      const path = join(root, name, certificateName);
      const [certificate, key] = [await readFile(path), await readFile(join(root, name, keyName))];
      const held = asMisconfigured(path, () =>
        readPair(certificate?.bytes.toString("utf8"), key?.bytes.toString("utf8")),
      );
      if (held !== undefined) all.push({ name, held });
    }
    return all;
  }

  /** Name of the folder that the link leads to. `undefined`: there is no link. */
  async function current(): Promise<string | undefined> {
    try {
      if (!(await lstat(link)).isSymbolicLink()) {
        throw new ConnectorError("misconfigured", `${link} is not a link.`, {
          next: "Let the server read its files through this link, and remove what is there.",
        });
      }
      return (await readlink(link)).replace(/^\.\//, "").replace(/\/$/, "");
    } catch (error) {
      if (codeOf(error) === "ENOENT") return undefined;
      throw error instanceof ConnectorError ? error : fileError(error, link, "read");
    }
  }

  async function put(cx: CallContext, version: VersionHandle): Promise<string> {
    const { material } = await pairOf(version);
    const name = folderName(version);
    const folder = join(root, name);
    try {
      // Others may pass through to the certificate; the key has its own mode.
      await mkdir(folder, { recursive: true, mode: 0o755 });
    } catch (error) {
      throw fileError(error, folder, "write", root);
    }
    const files = [
      [keyName, material.privateKey.bytes(), config.mode],
      [certificateName, Buffer.from(material.certificates.join("")), 0o644],
    ] as const;
    for (const [file, content, mode] of files) {
      const path = join(folder, file);
      const seen = await readFile(path);
      if (seen?.bytes.equals(content) !== true) await replaceFile(path, content, { seen, mode, signal: cx.signal });
    }
    await syncFolder(root, folder);
    return name;
  }

  async function flip(cx: CallContext, name: string, before: string | undefined): Promise<void> {
    const temporary = join(root, `.${linkName}.keyroll-${randomBytes(8).toString("hex")}`);
    try {
      await symlink(name, temporary);
      if ((await current()) !== before)
        throw new ConnectorError("conflict", `${link} was changed by somebody else; nothing was changed.`);
      throwIfCancelled(cx);
      await rename(temporary, link);
    } catch (error) {
      await unlink(temporary).catch((missing: unknown) => {
        if (codeOf(missing) !== "ENOENT") throw fileError(missing, temporary, "remove");
      });
      throw error instanceof ConnectorError ? error : fileError(error, link, "write", root);
    }
    await syncFolder(root, link);
  }

  async function observe(cx: CallContext, known: readonly VersionHandle[]): Promise<Observation> {
    throwIfCancelled(cx);
    const [all, name] = [await stored(), await current()];
    const entries = all.map((one) => entryOf(one.held, known, one.name));
    // One certificate in two folders is one version in two slots; the mark then has to name the slot.
    const marked = entries.map((entry) =>
      entries.filter((other) => other.mark === entry.mark).length === 1
        ? entry
        : { ...entry, mark: `${entry.mark}@${entry.slot ?? ""}` },
    );
    const notes = all
      .filter((one) => !sameKey(one.held))
      .map(
        (one) =>
          `The key in ${join(root, one.name)} does not belong to the certificate: ${one.held.keyProblem ?? "it is another's"}.`,
      );
    const due = config.reload !== undefined && (await isReloadDue(link));
    if (due) notes.push(`${link} was changed and the reload did not end well: what its readers use is not known.`);
    const inUse = name === undefined ? null : (marked.find((entry) => entry.slot === name)?.mark ?? null);
    if (name !== undefined && inUse === null) notes.push(`${link} leads to ${name}, where there is no certificate.`);
    return { entries: marked, ...(due ? {} : { current: inUse }), ...(notes.length === 0 ? {} : { notes }) };
  }

  return {
    observe,
    add: async (cx, version) => {
      throwIfCancelled(cx);
      await cx.throttle();
      return { slot: await put(cx, version) };
    },
    activate: async (cx, version) => {
      throwIfCancelled(cx);
      const { material } = await pairOf(version);
      const before = await current();
      await cx.throttle();
      const name = await put(cx, version);
      if (before !== name) {
        if (config.precheck !== undefined) {
          await precheck(
            cx,
            config.precheck,
            { cert: join(root, name, certificateName), key: join(root, name, keyName) },
            [material.privateKey],
          );
        }
        const wasDue = config.reload !== undefined && (await isReloadDue(link));
        if (config.reload !== undefined && !wasDue) await markReloadDue(link);
        try {
          await flip(cx, name, before);
        } catch (error) {
          const changedNothing = error instanceof ConnectorError && error.kind !== "unknown-outcome";
          if (config.reload !== undefined && !wasDue && changedNothing) await clearReloadDue(link);
          throw error;
        }
      }
      if (config.reload !== undefined) {
        await reload(cx, link, config.reload, [material.privateKey]);
        await clearReloadDue(link);
      }
      return { slot: name };
    },
    remove: async (cx, version) => {
      throwIfCancelled(cx);
      const name = folderName(version);
      const isThere = (await readFile(join(root, name, certificateName))) !== undefined;
      if (isThere && (await current()) === name) {
        throw new ConnectorError("refused", `${version.id} is in use at ${link}; it was not removed.`, {
          next: "Make another version current first.",
        });
      }
      await cx.throttle();
      // Only what Keyroll put there: the folder goes when nothing else is in it. The key first, so that half a removal is no usable pair.
      for (const file of [keyName, certificateName]) {
        await unlink(join(root, name, file)).catch((error: unknown) => {
          if (codeOf(error) !== "ENOENT") throw fileError(error, join(root, name, file), "remove", join(root, name));
        });
      }
      await rmdir(join(root, name)).catch((error: unknown) => {
        if (!["ENOENT", "ENOTEMPTY", "EEXIST"].includes(codeOf(error) ?? ""))
          throw fileError(error, join(root, name), "remove", root);
      });
    },
    adopt: async (cx) => {
      throwIfCancelled(cx);
      return (await stored()).map((one) => issuedOf(one.held));
    },
    probe: async (cx, version) => {
      const seen = await observe(cx, [version]);
      if (seen.current === undefined) return { outcome: "unknown", detail: `A reload is due at ${link}.` };
      const is = seen.entries.some((entry) => entry.version === version.id && entry.mark === seen.current);
      return {
        outcome: is ? "accepted" : "refused",
        detail: `${link} ${is ? "leads" : "does not lead"} to ${version.id}.`,
      };
    },
  };
}
