/** Reading and replacing one file over SFTP, so that no reader ever sees half of it. */
import { createHash, randomBytes } from "node:crypto";
import { posix } from "node:path";
import type { Attributes, FileEntry, SFTPWrapper } from "ssh2";
import { ConnectorError, type CallContext } from "../connector.ts";
import type { SshSystem } from "./schema.ts";
import { withSsh } from "./session.ts";

const maxRemoteFileBytes = 1024 * 1024;

export interface RemoteFile {
  /** Links followed, so that a rename replaces the file and not the link to it. */
  readonly path: string;
  readonly bytes: Buffer;
  readonly attributes: Attributes;
}

/** The status codes of SFTP (draft-ietf-secsh-filexfer-02, section 7) that have a meaning of their own. */
const noSuchFile = 2;
const permissionDenied = 3;

type Callback<T> = (error: Error | null | undefined, value: T) => void;

/** A call of the library as a promise, with its error in our words. `afterWrite`: the effect may have happened without an answer. */
async function ask<T>(doing: string, path: string, start: (done: Callback<T>) => void, afterWrite = false): Promise<T> {
  return new Promise((resolve, reject) => {
    try {
      start((error, value) => (error ? reject(toConnectorError(error, doing, path, afterWrite)) : resolve(value)));
    } catch (error) {
      reject(toConnectorError(error, doing, path, afterWrite));
    }
  });
}

class NotThere extends Error {}

function toConnectorError(error: unknown, doing: string, path: string, afterWrite: boolean): Error {
  const code = (error as { code?: unknown }).code;
  if (code === noSuchFile) return new NotThere(path);
  if (code === permissionDenied) {
    const right = doing === "read" ? `read ${path}` : `write in the folder ${posix.dirname(path)}`;
    return new ConnectorError("misconfigured", `The host does not let us ${doing} ${path}.`, {
      permission: right,
      next: `Give the sign-in the right to ${right}.`,
    });
  }
  if (typeof code === "number") {
    return new ConnectorError("refused", `The host refused to ${doing} ${path} (SFTP status ${code}).`);
  }
  if (error instanceof Error && /not support|unsupported/i.test(error.message)) {
    return new ConnectorError(
      "misconfigured",
      "The host's SFTP server cannot replace a file in one step (posix-rename@openssh.com).",
      {
        next: "Use OpenSSH's own SFTP server, or ssh.command.",
      },
    );
  }
  return new ConnectorError(
    afterWrite ? "unknown-outcome" : "unavailable",
    `The connection was lost while ${path} was being ${doing === "read" ? "read" : "written"}.`,
  );
}

export async function withSftp<R>(
  cx: CallContext,
  system: SshSystem,
  body: (sftp: SFTPWrapper) => Promise<R>,
): Promise<R> {
  return withSsh(cx, system, async (client) => {
    const sftp = await new Promise<SFTPWrapper>((resolve, reject) => {
      client.sftp((error, opened) => {
        if (!error) return resolve(opened);
        reject(
          new ConnectorError("misconfigured", `${system.host} offers no SFTP to ${system.user}.`, {
            permission: "the sftp subsystem",
            next: "Allow it in sshd_config (Subsystem sftp), or use ssh.command.",
          }),
        );
      });
    });
    sftp.on("error", () => undefined);
    return body(sftp);
  });
}

/** `undefined`: there is no such file, in a folder that is there. */
export async function readRemote(sftp: SFTPWrapper, path: string): Promise<RemoteFile | undefined> {
  let real: string;
  try {
    real = await ask<string>("read", path, (done) => sftp.realpath(path, done as Callback<string | undefined>));
    // OpenSSH answers with the path itself for what is not there.
    const attributes = await ask<Attributes>("read", path, (done) =>
      sftp.stat(real, done as Callback<Attributes | undefined>),
    );
    if ((attributes.mode & 0o170_000) !== 0o100_000)
      throw new ConnectorError("misconfigured", `${path} is not a regular file.`);
    if (attributes.size > maxRemoteFileBytes) {
      throw new ConnectorError("misconfigured", `${path} is larger than ${maxRemoteFileBytes} bytes.`, {
        next: "Check the path.",
      });
    }
    const bytes = await ask<Buffer>("read", path, (done) => sftp.readFile(real, done as Callback<Buffer | undefined>));
    return { path: real, bytes, attributes };
  } catch (error) {
    if (!(error instanceof NotThere)) throw error;
  }
  try {
    await ask("read", path, (done: Callback<unknown>) =>
      sftp.stat(posix.dirname(path), done as Callback<Attributes | undefined>),
    );
    return undefined;
  } catch (error) {
    if (!(error instanceof NotThere)) throw error;
    throw new ConnectorError("misconfigured", `The folder of ${path} does not exist on the host.`, {
      next: "Create it, or correct the path.",
    });
  }
}

export const etagOf = (file: RemoteFile | undefined): string =>
  file === undefined ? "none" : createHash("sha256").update("etag").update(file.bytes).digest("hex").slice(0, 32);

/**
 * Writes beside the file, makes it durable, and renames it over the old one. SFTP has no conditional rename: the file is read again right before,
 * and somebody who writes in the moment between would be overwritten.
 */
export async function replaceRemote(
  cx: CallContext,
  sftp: SFTPWrapper,
  path: string,
  seen: RemoteFile | undefined,
  content: Buffer,
  newMode: number,
): Promise<void> {
  const target = seen?.path ?? path;
  const folder = posix.dirname(target);
  const temporary = posix.join(folder, `.${posix.basename(target)}.keyroll-${randomBytes(8).toString("hex")}`);
  await sweep(sftp, folder, posix.basename(target));
  const mode = seen === undefined ? newMode : seen.attributes.mode & 0o7777;
  try {
    const handle = await ask<Buffer>("write", target, (done) =>
      sftp.open(temporary, "wx", { mode: 0o600 }, done as Callback<Buffer | undefined>),
    );
    // Owner before mode: changing the owner clears set-id bits.
    if (seen !== undefined) {
      const own = await ask<Attributes>("write", target, (done) =>
        sftp.fstat(handle, done as Callback<Attributes | undefined>),
      );
      if (own.uid !== seen.attributes.uid || own.gid !== seen.attributes.gid) {
        await ask("write", target, (done: Callback<unknown>) =>
          sftp.fchown(handle, seen.attributes.uid, seen.attributes.gid, done as (e?: Error | null) => void),
        );
      }
    }
    if (content.length > 0) {
      await ask("write", target, (done: Callback<unknown>) =>
        sftp.write(handle, content, 0, content.length, 0, done as (e?: Error | null) => void),
      );
    }
    await ask("write", target, (done: Callback<unknown>) =>
      sftp.fchmod(handle, mode, done as (e?: Error | null) => void),
    );
    try {
      await ask("write", target, (done: Callback<unknown>) =>
        sftp.ext_openssh_fsync(handle, done as (e?: Error | null) => void),
      );
    } catch (error) {
      // Not every server can; the rename is as atomic without it, only less durable.
      if (!(error instanceof ConnectorError) || error.kind !== "misconfigured") throw error;
    }
    await ask("write", target, (done: Callback<unknown>) => sftp.close(handle, done as (e?: Error | null) => void));
    const now = await readRemote(sftp, path);
    if (etagOf(now) !== etagOf(seen)) {
      throw new ConnectorError("conflict", `${path} was changed by somebody else; nothing was written.`, {
        next: "It is read again by itself.",
      });
    }
    if (cx.signal.aborted) throw new ConnectorError("unavailable", `The call was cancelled; ${path} was not changed.`);
  } catch (error) {
    await ask("write", temporary, (done: Callback<unknown>) =>
      sftp.unlink(temporary, done as (e?: Error | null) => void),
    ).catch(() => undefined);
    throw error instanceof NotThere
      ? new ConnectorError("misconfigured", `The folder of ${path} does not exist on the host.`)
      : error;
  }
  await ask(
    "write",
    target,
    (done: Callback<unknown>) => sftp.ext_openssh_rename(temporary, target, done as (e?: Error | null) => void),
    true,
  );
}

/** What a cut connection left behind holds secrets. The lease on a credential lets nobody else write it meanwhile. */
async function sweep(sftp: SFTPWrapper, folder: string, name: string): Promise<void> {
  const prefix = `.${name}.keyroll-`;
  // A folder that may be written and not listed: what cannot be found cannot be swept, and the write itself will tell.
  const list = await ask<readonly FileEntry[] | undefined>("read", folder, (done) => sftp.readdir(folder, done)).catch(
    () => [],
  );
  for (const { filename } of list ?? []) {
    if (!filename.startsWith(prefix) || !/^[0-9a-f]{16}$/.test(filename.slice(prefix.length))) continue;
    await ask("write", folder, (done: Callback<unknown>) =>
      sftp.unlink(posix.join(folder, filename), done as (e?: Error | null) => void),
    ).catch(() => undefined);
  }
}
