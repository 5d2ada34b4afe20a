/**
 * Reading and replacing files so that no reader ever sees half of one, and so that what was there (mode, owner, link) stays. Every failure is a
 * {@link ConnectorError} that names the path and never the content.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { lstat, open, readdir, readlink, realpath, rename, stat, unlink } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { ConnectorError } from "../connector.ts";
import { Secret } from "../secret.ts";
import { codeOf } from "./calls.ts";

/** Configuration files, bundles and stores are smaller; the system's bundle of all CAs has a quarter of a megabyte. */
const maxFileBytes = 16 * 1024 * 1024;

/** What a file held, and what must stay when it is replaced. */
export interface FileSeen {
  /** The path itself, links followed. */
  readonly target: string;
  readonly bytes: Buffer;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** Reads a file, links followed. `undefined`: there is none. Throws `misconfigured` (not a file, no permission, too large) or `unavailable`. */
export async function readFile(path: string, limitBytes: number = maxFileBytes): Promise<FileSeen | undefined> {
  const target = await followLink(path);
  if (target === undefined) return undefined;
  let handle: FileHandle;
  try {
    // Without O_NONBLOCK, opening a pipe that nobody writes to would hang for ever.
    handle = await open(target, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw fileError(error, path, "read");
  }
  try {
    const { mode, uid, gid, size, isFile } = await handle
      .stat()
      .then((found) => ({ ...found, isFile: found.isFile() }));
    if (!isFile) throw new ConnectorError("misconfigured", `${path} is not a regular file.`, { next: "Name a file." });
    if (size > limitBytes) throw tooLarge(path, limitBytes);
    const bytes = Buffer.alloc(size + 1);
    let length = 0;
    for (;;) {
      if (length === bytes.length) {
        // It grew while it was read: what was read is not what is there.
        throw new ConnectorError("conflict", `${path} was changed by somebody else while it was read.`, {
          next: "It is read again by itself.",
        });
      }
      const { bytesRead } = await handle.read(bytes, length, bytes.length - length, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return { target, bytes: bytes.subarray(0, length), mode: mode & 0o7777, uid, gid };
  } catch (error) {
    throw error instanceof ConnectorError ? error : fileError(error, path, "read");
  } finally {
    await handle.close();
  }
}

function tooLarge(path: string, limitBytes: number): ConnectorError {
  return new ConnectorError(
    "misconfigured",
    `${path} is larger than ${limitBytes} bytes, which no file of this kind is.`,
    { next: "Check the path." },
  );
}

/** Reads a text file that must be there. */
export async function readTextFile(path: string): Promise<string> {
  const seen = await readFile(path);
  if (seen === undefined)
    throw new ConnectorError("misconfigured", `${path} does not exist.`, { next: "Create it, or correct the path." });
  return seen.bytes.toString("utf8");
}

/** Reads a file with a secret. Throws `misconfigured` when others than its owner could read it. */
export async function readPrivateFile(path: string): Promise<Secret> {
  const seen = await readFile(path);
  if (seen === undefined)
    throw new ConnectorError("misconfigured", `${path} does not exist.`, { next: "Create it, or correct the path." });
  if ((seen.mode & 0o077) !== 0) {
    throw new ConnectorError(
      "misconfigured",
      `${path} can be read by others than its owner (mode ${octal(seen.mode)}).`,
      { next: `Run: chmod 600 ${path}` },
    );
  }
  return new Secret(seen.bytes);
}
function octal(mode: number): string {
  return `0${mode.toString(8)}`;
}

/**
 * Where a path leads. A symbolic link is followed only when it belongs to us, to root, or to the owner of what it points to: otherwise
 * somebody else could have us write where they may not (the rule of Linux' `protected_symlinks`). `undefined`: nothing is there.
 */
async function followLink(path: string): Promise<string | undefined> {
  try {
    const link = await lstat(path);
    if (!link.isSymbolicLink()) return resolve(path);
    const target = await realpath(path);
    const owner = (await stat(target)).uid;
    if (![process.getuid?.() ?? link.uid, 0, owner].includes(link.uid)) {
      throw new ConnectorError("misconfigured", `${path} is a link that belongs to another user; it is not followed.`, {
        next: `Name the file itself: ${target}`,
      });
    }
    return target;
  } catch (error) {
    if (error instanceof ConnectorError) throw error;
    if (codeOf(error) !== "ENOENT") throw fileError(error, path, "read");
    if (await isDangling(path)) {
      throw new ConnectorError("misconfigured", `${path} is a link to something that does not exist.`, {
        next: "Create what it points to, or remove the link.",
      });
    }
    return undefined;
  }
}
async function isDangling(path: string): Promise<boolean> {
  try {
    await readlink(path);
    return true;
  } catch {
    // Not a link, or not there at all: both mean that a file can be made there.
    return false;
  }
}

export interface ReplaceOptions {
  /** What was read before, whose mode and owner stay; `undefined`: there was none. The file is compared again right before it is replaced. */
  readonly seen: FileSeen | undefined;
  /** For a new file. */
  readonly mode?: number;
  readonly signal: AbortSignal;
}

/** Temporary files of this process that are being written now. */
const inFlight = new Set<string>();

/**
 * Writes beside the file, makes it durable, and renames it over the old one, so that every reader sees the old or the new content, also after
 * a power cut. Throws `conflict` when the file changed since it was read, `misconfigured` naming the permission, `unavailable` when nothing
 * was done, and `unknown-outcome` when the rename may not survive a power cut.
 */
export async function replaceFile(path: string, content: Uint8Array, options: ReplaceOptions): Promise<void> {
  const { seen } = options;
  const staged = await stageFile(path, content, options);
  try {
    await assertUnchanged(path, seen);
    if (options.signal.aborted)
      throw new ConnectorError("unavailable", `${path} was not changed: the call was cancelled.`);
    await commit(staged);
  } catch (error) {
    await staged.discard();
    throw error;
  }
}

/** A complete and durable file beside the one it is to replace. */
export interface StagedFile {
  readonly path: string;
  readonly temporary: string;
  readonly target: string;
  discard(): Promise<void>;
}

/** Writes the file that {@link commit} puts in place. The caller discards it when it does not. */
export async function stageFile(path: string, content: Uint8Array, options: ReplaceOptions): Promise<StagedFile> {
  const { seen } = options;
  const target = seen?.target ?? resolve(path);
  const folder = dirname(target);
  await sweep(target);
  const temporary = join(folder, `.${basename(target)}.keyroll-${randomBytes(8).toString("hex")}`);
  const discard = async (): Promise<void> => {
    inFlight.delete(temporary);
    await unlink(temporary).catch((error: unknown) => {
      if (codeOf(error) !== "ENOENT") throw fileError(error, temporary, "remove");
    });
  };
  inFlight.add(temporary);
  let handle: FileHandle;
  try {
    // Nobody else may read it before it has its mode; "wx" follows no link that somebody put there.
    handle = await open(temporary, "wx", 0o600);
  } catch (error) {
    inFlight.delete(temporary);
    throw fileError(error, path, "write", folder);
  }
  try {
    await handle.writeFile(content);
    if (seen !== undefined) await keepOwner(handle, seen, path);
    await handle.chmod(seen?.mode ?? options.mode ?? 0o600);
    await handle.sync();
  } catch (error) {
    await handle.close();
    await discard();
    throw error instanceof ConnectorError ? error : fileError(error, path, "write", folder);
  }
  await handle.close();
  return { path, temporary, target, discard };
}

/** Puts a staged file in place. */
export async function commit(staged: StagedFile): Promise<void> {
  try {
    await rename(staged.temporary, staged.target);
  } catch (error) {
    throw fileError(error, staged.path, "write", dirname(staged.target));
  }
  inFlight.delete(staged.temporary);
  await syncFolder(dirname(staged.target), staged.path);
}

export async function syncFolder(folder: string, path: string): Promise<void> {
  try {
    const handle = await open(folder, constants.O_RDONLY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    // Some file systems have no fsync of folders; there is then nothing more that could be done.
    if (["EINVAL", "ENOTSUP", "EISDIR", "EPERM"].includes(codeOf(error) ?? "")) return;
    throw new ConnectorError(
      "unknown-outcome",
      `${path} was replaced, but the disk did not confirm it (${codeOf(error) ?? "error"}).`,
      { next: "Check the disk; the file is read again." },
    );
  }
}

/** Throws `conflict` when the file is no longer what was read. */
export async function assertUnchanged(path: string, seen: FileSeen | undefined): Promise<void> {
  const now = await readFile(path);
  const same =
    now === undefined || seen === undefined ? now === seen : now.bytes.equals(seen.bytes) && now.target === seen.target;
  if (!same)
    throw new ConnectorError("conflict", `${path} was changed by somebody else; nothing was written.`, {
      next: "It is read again by itself.",
    });
}

async function keepOwner(handle: FileHandle, seen: FileSeen, path: string): Promise<void> {
  const own = await handle.stat();
  if (own.uid === seen.uid && own.gid === seen.gid) return;
  try {
    await handle.chown(seen.uid, seen.gid);
  } catch {
    throw new ConnectorError(
      "misconfigured",
      `${path} belongs to user ${seen.uid} and group ${seen.gid}, which Keyroll may not give a new file.`,
      {
        permission: `run as user ${seen.uid} or with CAP_CHOWN`,
        next: `Run Keyroll as user ${seen.uid}, or let it change owners.`,
      },
    );
  }
}

/** A killed process leaves its temporary file, which holds secrets. The lease on a credential lets nobody else write it meanwhile. */
async function sweep(target: string): Promise<void> {
  const folder = dirname(target);
  const prefix = `.${basename(target)}.keyroll-`;
  const isOurs = (name: string): boolean => name.startsWith(prefix) && /^[0-9a-f]{16}$/.test(name.slice(prefix.length));
  let names: readonly string[];
  try {
    names = await readdir(folder);
  } catch {
    // A folder that may be written and not listed: what cannot be found cannot be swept, and the write itself will tell.
    return;
  }
  for (const name of names) {
    const path = join(folder, name);
    if (isOurs(name) && !inFlight.has(path)) {
      await unlink(path).catch((error: unknown) => {
        if (codeOf(error) !== "ENOENT") throw fileError(error, path, "remove");
      });
    }
  }
}

/** A file system error in Keyroll's words. `folder`: where a write needs its permission. */
export function fileError(
  error: unknown,
  path: string,
  doing: "read" | "write" | "remove",
  folder?: string,
): ConnectorError {
  const code = codeOf(error) ?? "error";
  const where = folder === undefined ? path : `${path} (in the folder ${folder})`;
  switch (code) {
    case "EACCES":
    case "EPERM":
    case "EROFS": {
      const permission = doing === "read" ? `read ${path}` : `write to the folder ${folder ?? dirname(path)}`;
      return new ConnectorError("misconfigured", `Keyroll may not ${doing} ${where} (${code}).`, {
        permission,
        next: `Give Keyroll's user the permission to ${permission}.`,
      });
    }
    case "ENOENT":
    case "ENOTDIR":
      return new ConnectorError("misconfigured", `The folder of ${path} does not exist.`, {
        next: "Create it, or correct the path.",
      });
    case "EISDIR":
      return new ConnectorError("misconfigured", `${path} is a folder.`, { next: "Name a file." });
    case "ELOOP":
      return new ConnectorError("misconfigured", `${path} leads through too many links.`, {
        next: "Name the file itself.",
      });
    case "ENOSPC":
    case "EDQUOT":
      return new ConnectorError(
        "unavailable",
        `There is no room on the disk to ${doing} ${where}; nothing was changed.`,
        { next: "Make room." },
      );
    default:
      return new ConnectorError(
        "unavailable",
        `${where} could not be ${doing === "write" ? "written" : doing === "read" ? "read" : "removed"} (${code}).`,
      );
  }
}
