/** Private files in the data folder, and what to say when they cannot be had. */
import { randomBytes } from "node:crypto";
import { linkSync, rmSync, writeFileSync } from "node:fs";
import { codeOf, diskFull } from "./errors.ts";
import { StoreError } from "./store.ts";

/** Creates a 0600 file with this content, whole or not at all; an existing one stays. Returns whether it was created. */
export function writeOnce(file: string, content: string): boolean {
  const draft = `${file}.${randomBytes(4).toString("hex")}`;
  try {
    writeFileSync(draft, content, { mode: 0o600, flush: true });
    linkSync(draft, file);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw folderError(error, file);
  } finally {
    rmSync(draft, { force: true });
  }
}

/** Readable, for the failures that a reader can mend; every other error as it is. */
export function folderError(error: unknown, path: string): unknown {
  if (error instanceof StoreError) return error;
  const code = codeOf(error);
  if (code === "ENOSPC" || code === "EDQUOT") return diskFull(path);
  if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
    return new StoreError(
      "permission",
      `no permission for ${path} (${code})`,
      "give this user the folder, or set KEYROLL_DATA to another one",
    );
  }
  if (code === "ENOTDIR" || code === "EEXIST") {
    return new StoreError(
      "misconfigured",
      `${path} cannot be used: something on the way to it is not a folder`,
      "set KEYROLL_DATA to another one",
    );
  }
  return error;
}
