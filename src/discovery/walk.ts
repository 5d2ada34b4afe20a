/**
 * Walks folders one entry at a time, so that a folder with millions of files costs no memory. Symbolic links to what lies inside the walked
 * tree are skipped, because it is found anyway; links that leave the tree are followed once.
 */
import type { Dirent } from "node:fs";
import { lstat, opendir, realpath, stat, statfs } from "node:fs/promises";
import { join, sep } from "node:path";

export type Walked =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "skipped"; readonly path: string }
  | { readonly kind: "unreadable"; readonly path: string; readonly why: string };

/** File systems of the kernel (`linux/magic.h`): their files have no end, or do something when they are read. */
const kernelFileSystems = new Set([
  0x9fa0, 0x62656572, 0x1cd1, 0x27e0eb, 0x63677270, 0x64626720, 0x74726163, 0x73636673, 0xcafe4a11, 0x6e736673,
]);

/** What the system says, in words. */
export function reasonOf(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  switch (code) {
    case "EACCES":
    case "EPERM":
      return "permission denied";
    case "ENOENT":
      return "it is not there (any more)";
    case "ELOOP":
      return "its symbolic links go round in a circle";
    case "ENAMETOOLONG":
      return "its name is too long";
    case "EIO":
      return "the disk reports an error";
    case undefined:
      return "it cannot be read";
    default:
      return `the system says ${code}`;
  }
}

export async function* walk(root: string): AsyncGenerator<Walked, void, void> {
  let first;
  try {
    first = await stat(root);
  } catch (error) {
    yield { kind: "unreadable", path: root, why: reasonOf(error) };
    return;
  }
  if (first.isFile()) {
    yield { kind: "file", path: root };
    return;
  }
  if (!first.isDirectory()) {
    yield { kind: "skipped", path: root };
    return;
  }
  // Real paths of the trees that are walked: the root, and each folder outside it that a link leads to.
  const trees: string[] = [];
  const pending: { folder: string; device: number }[] = [];
  try {
    trees.push(await realpath(root));
  } catch (error) {
    yield { kind: "unreadable", path: root, why: reasonOf(error) };
    return;
  }
  pending.push({ folder: root, device: -1 });
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { folder } = next;
    try {
      const { dev } = await stat(folder);
      if (dev !== next.device) {
        if (kernelFileSystems.has((await statfs(folder)).type)) {
          yield { kind: "skipped", path: folder };
          continue;
        }
        next.device = dev;
      }
      for await (const entry of await opendir(folder, { bufferSize: 256 })) {
        const path = join(folder, entry.name);
        const kind = await kindOf(entry, path);
        if (kind === "folder") pending.push({ folder: path, device: next.device });
        else if (kind === "link") yield* follow(path, trees, pending);
        else yield { kind, path };
      }
    } catch (error) {
      yield { kind: "unreadable", path: folder, why: reasonOf(error) };
    }
  }
}

async function kindOf(entry: Dirent, path: string): Promise<"file" | "folder" | "link" | "skipped"> {
  if (entry.isFile()) return "file";
  if (entry.isDirectory()) return "folder";
  if (entry.isSymbolicLink()) return "link";
  if (entry.isFIFO() || entry.isSocket() || entry.isBlockDevice() || entry.isCharacterDevice()) return "skipped";
  // Some file systems do not tell the kind in the listing.
  const found = await lstat(path);
  return found.isFile() ? "file" : found.isDirectory() ? "folder" : found.isSymbolicLink() ? "link" : "skipped";
}

async function* follow(
  path: string,
  trees: string[],
  pending: { folder: string; device: number }[],
): AsyncGenerator<Walked, void, void> {
  try {
    const real = await realpath(path);
    if (trees.some((tree) => real === tree || real.startsWith(tree === sep ? sep : tree + sep))) return;
    const found = await stat(real);
    if (found.isFile()) {
      yield { kind: "file", path };
    } else if (found.isDirectory()) {
      trees.push(real);
      pending.push({ folder: path, device: -1 });
    } else {
      yield { kind: "skipped", path };
    }
  } catch (error) {
    yield { kind: "unreadable", path, why: `symbolic link: ${reasonOf(error)}` };
  }
}
