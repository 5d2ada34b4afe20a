/**
 * The embedded PostgreSQL: one server per data folder, shared by every Keyroll process that uses the folder.
 *
 * No process owns the server. A small shell supervisor, in a session of its own so that Ctrl-C does not reach it, starts PostgreSQL and reads
 * from a named pipe. Every user process keeps that pipe open for writing. The kernel closes it however the process ends, kill -9 included, so
 * the supervisor reads end-of-file exactly when the last user is gone, and stops the server. Nothing polls, and no lock file can go stale.
 *
 * Two processes that start at once need no lock either: the data is made in a draft folder and renamed into place, and PostgreSQL's own
 * postmaster.pid lets only one server run. Whoever loses connects to the winner's.
 *
 * The server listens on a unix socket only, never on the network, and asks for a random password that lies in a 0600 file.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  chownSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { findBinaries, serverEnvironment, serverUser, type Binaries, type ServerUser } from "./binaries.ts";
import { codeOf, diskFull, isConnectionLoss } from "./errors.ts";
import { folderError, writeOnce } from "./files.ts";
import { StoreError } from "./store.ts";

export interface EmbeddedServer {
  readonly dataDir: string;
  /** `18.4`. */
  readonly version: string;
  /** How to connect to a database of this server. */
  connection(database: string): pg.ClientConfig;
  /** Makes sure that it accepts connections: starts it where it is not running, and waits for a start or a recovery under way. */
  ensure(): Promise<void>;
  /** Signs off. The last user waits until the server has stopped. */
  close(): Promise<void>;
}

export interface EmbeddedOptions {
  readonly dataDir: string;
  /** How long a start, with crash recovery, may take. */
  readonly startTimeoutMs?: number;
}

const superuser = "keyroll";
const port = 5432;
/** `sun_path` holds 108 bytes on Linux and 104 on macOS, the final zero included. */
const longestSocketPath = 103;

const supervisor = `
fifo=$1; shift
# Ends when the last user is gone. Opened for both ways first, so that it does not wait for a writer: the process that started us may be dead
# before it joins. It gets 90 s, which covers crash recovery. A user who leaves may be followed by another within the short pause, and the
# read then blocks again, without polling, until that one has left too. Only this shell holds the pipe, so that its end is seen at once.
watch_users() {
  [ -p "$fifo" ] || mkfifo -m 600 "$fifo" 2>/dev/null
  exec 4<>"$fifo" || exit 1
  exec 3<"$fifo" 4>&-
  left=900
  while :; do
    if read -r _ <&3; then left=3; continue; fi
    left=$((left - 1))
    if [ "$left" -gt 0 ]; then sleep 0.1 3<&-; continue; fi
    # The pipe is taken out of sight before the last look: whoever had opened it by then is seen by it, and whoever comes later finds none and
    # waits. Otherwise one who came in between would work on a server that is being stopped.
    mv -f "$fifo" "$fifo.closing" || exit 1
    if read -r _ <&3; then mv -f "$fifo.closing" "$fifo"; left=3; continue; fi
    break
  done
  exec 3<&-
  mv -f "$fifo.closing" "$fifo"
  kill -INT "$1"
}
if [ "$1" = adopt ]; then watch_users "$2"; exit; fi
"$@" & server=$!
watch_users "$server" & watcher=$!
wait "$server"; code=$?
kill "$watcher" 2>/dev/null
[ -z "$KEYROLL_SOCKET_DIR" ] || rmdir "$KEYROLL_SOCKET_DIR" 2>/dev/null
exit "$code"
`;

/** Users of one server inside this process, by its pipe: the last one to leave need not wait for a stop that will not come. */
const usersHere = new Map<string, number>();

export async function openEmbedded(options: EmbeddedOptions): Promise<EmbeddedServer> {
  const server = new Embedded(resolve(options.dataDir), options.startTimeoutMs ?? 60_000);
  await server.open();
  return server;
}

class Embedded implements EmbeddedServer {
  readonly dataDir: string;
  readonly #startTimeoutMs: number;
  readonly #cluster: string;
  readonly #data: string;
  readonly #fifo: string;
  #user: ServerUser | null = null;
  #binaries: Binaries | null = null;
  #password = "";
  #socketDir = "";
  #membership: number | null = null;
  #ensuring: Promise<void> | null = null;
  #closed = false;

  constructor(dataDir: string, startTimeoutMs: number) {
    this.dataDir = dataDir;
    this.#startTimeoutMs = startTimeoutMs;
    this.#cluster = join(dataDir, "postgres");
    this.#data = join(this.#cluster, "data");
    this.#fifo = join(this.#cluster, "users");
  }

  get version(): string {
    return this.#binaries?.version ?? "";
  }

  connection(database: string): pg.ClientConfig {
    return { host: this.#socketDir, port, user: superuser, password: this.#password, database };
  }

  async open(): Promise<void> {
    try {
      mkdirSync(this.dataDir, { recursive: true, mode: 0o700 });
      this.#user = serverUser(this.#cluster);
      this.#prepareCluster();
    } catch (error) {
      throw folderError(error, this.dataDir);
    }
    this.#binaries = await findBinaries(this.#user);
    this.#checkDataVersion();
    this.#password = this.#readOrMakePassword();
    if (!existsSync(join(this.#data, "PG_VERSION"))) this.#initialise();
    this.#socketDir = this.#prepareSocketDir();
    usersHere.set(this.#fifo, (usersHere.get(this.#fifo) ?? 0) + 1);
    try {
      await this.ensure();
    } catch (error) {
      usersHere.set(this.#fifo, (usersHere.get(this.#fifo) ?? 1) - 1);
      // A server that we started and cannot use must not stay for want of a user who leaves.
      await this.#join().catch(() => undefined);
      if (this.#membership !== null) closeSync(this.#membership);
      throw error;
    }
  }

  ensure(): Promise<void> {
    this.#ensuring ??= this.#ensure().finally(() => {
      this.#ensuring = null;
    });
    return this.#ensuring;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    usersHere.set(this.#fifo, (usersHere.get(this.#fifo) ?? 1) - 1);
    const pid = this.#postmaster();
    const alone = pid !== null && (await this.#otherClients()) === 0;
    if (this.#membership !== null) closeSync(this.#membership);
    this.#membership = null;
    if (!alone || (usersHere.get(this.#fifo) ?? 0) > 0) return;
    // The supervisor decides within 0.3 s; 10 s covers a slow last checkpoint. A server that still lets clients in after a second has
    // another user, who holds the pipe without a connection.
    for (let waitedMs = 0; waitedMs < 10_000 && this.#postmaster() === pid; waitedMs += 25) {
      if (waitedMs === 1_000 && (await this.#knock()) === "ready") return;
      await sleep(25);
    }
  }

  // -- Folder ------------------------------------------------------------------------------------------------------------------------

  #prepareCluster(): void {
    mkdirSync(this.#cluster, { recursive: true, mode: 0o700 });
    this.#own(this.#cluster);
    if (!existsSync(this.#fifo)) {
      const made = spawnSync("mkfifo", ["-m", "600", this.#fifo], { encoding: "utf8" });
      if (made.status !== 0 && !existsSync(this.#fifo)) {
        throw new StoreError(
          "cannot-start",
          `mkfifo could not create ${this.#fifo}: ${made.error?.message ?? made.stderr.trim()}`,
        );
      }
    }
    if (!lstatSync(this.#fifo).isFIFO()) {
      throw new StoreError(
        "cannot-start",
        `${this.#fifo} is not the named pipe that it should be`,
        "remove it and start again",
      );
    }
    this.#own(this.#fifo);
  }

  #own(path: string): void {
    if (this.#user !== null && statSync(path).uid !== this.#user.uid) chownSync(path, this.#user.uid, this.#user.gid);
  }

  #checkDataVersion(): void {
    const file = join(this.#data, "PG_VERSION");
    if (!existsSync(file)) return;
    const data = readFileSync(file, "utf8").trim();
    const ours = this.version.split(".")[0]!;
    if (data === ours) return;
    if (Number(data) > Number(ours)) {
      throw new StoreError(
        "newer-data",
        `the data in ${this.#data} was written by PostgreSQL ${data}, and this Keyroll brings PostgreSQL ${ours}`,
        "use the newer Keyroll that wrote it; nothing was changed",
      );
    }
    throw new StoreError(
      "cannot-start",
      `the data in ${this.#data} was written by PostgreSQL ${data}, and this Keyroll brings PostgreSQL ${ours}`,
      `move it with pg_dump from the Keyroll version that wrote it, or with pg_upgrade; nothing was changed`,
    );
  }

  #readOrMakePassword(): string {
    const file = join(this.dataDir, "postgres.password");
    if (!existsSync(file)) {
      if (existsSync(join(this.#data, "PG_VERSION"))) {
        throw new StoreError(
          "permission",
          `${file} is missing, so nobody can sign in to the database in ${this.#data}`,
          "restore the file",
        );
      }
      writeOnce(file, `${randomBytes(24).toString("base64url")}\n`);
    }
    try {
      return readFileSync(file, "utf8").trim();
    } catch (error) {
      throw folderError(error, file);
    }
  }

  #initialise(): void {
    for (const name of readdirSync(this.#cluster)) {
      // Drafts of a process that was killed. A live one of another process is minutes younger.
      const path = join(this.#cluster, name);
      if (name.startsWith("draft-") && ageMs(path) > 600_000) rmSync(path, { recursive: true, force: true });
    }
    const tag = randomBytes(4).toString("hex");
    const draft = join(this.#cluster, `draft-${tag}`);
    const passwordFile = join(this.#cluster, `draft-${tag}.password`);
    try {
      mkdirSync(draft, { mode: 0o700 });
      this.#own(draft);
      writeFileSync(passwordFile, `${this.#password}\n`, { mode: 0o600 });
      this.#own(passwordFile);
      const run = spawnSync(
        this.#binaries!.initdb,
        [
          `--pgdata=${this.#folderArgument(draft)}`,
          `--username=${superuser}`,
          `--pwfile=../draft-${tag}.password`,
          "--auth=scram-sha-256",
          "--encoding=UTF8",
          "--locale-provider=builtin",
          "--locale=C.UTF-8",
          "--data-checksums",
        ],
        { cwd: draft, encoding: "utf8", env: serverEnvironment(), ...this.#asUser() },
      );
      if (run.status !== 0) {
        const output = `${run.stdout ?? ""}${run.stderr ?? ""}`;
        if (/No space left on device/.test(output)) throw diskFull(this.dataDir);
        throw new StoreError(
          "cannot-start",
          `initdb failed in ${this.#cluster}: ${lastLine(output, run.error?.message ?? "no output")}`,
        );
      }
      renameSync(draft, this.#data);
    } catch (error) {
      const code = codeOf(error);
      // Another process was faster: its data is in place.
      if ((code === "ENOTEMPTY" || code === "EEXIST") && existsSync(join(this.#data, "PG_VERSION"))) return;
      throw folderError(error, this.dataDir);
    } finally {
      rmSync(draft, { recursive: true, force: true });
      rmSync(passwordFile, { force: true });
    }
  }

  /**
   * The folder as the server's user can name it. Below root's private home it cannot walk the path, but it is started inside the folder, and
   * /proc/self/cwd leads there without the walk; PostgreSQL stays in that folder for life.
   */
  #folderArgument(folder: string): string {
    if (this.#user === null) return folder;
    if (existsSync("/proc/self/cwd")) return "/proc/self/cwd";
    return folder;
  }

  #asUser(): { uid?: number; gid?: number } {
    return this.#user === null ? {} : { uid: this.#user.uid, gid: this.#user.gid };
  }

  #prepareSocketDir(): string {
    if (Buffer.byteLength(join(this.#data, `.s.PGSQL.${port}`)) <= longestSocketPath) return this.#data;
    // /tmp and not $TMPDIR: processes with another environment must find the same folder, and $TMPDIR is long on macOS.
    const owner = this.#user?.uid ?? process.getuid!();
    const short = `/tmp/keyroll-${owner}-${createHash("sha256").update(realpathSync(this.#data)).digest("hex").slice(0, 16)}`;
    try {
      mkdirSync(short, { mode: 0o700 });
      this.#own(short);
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw folderError(error, short);
    }
    const found = lstatSync(short);
    if (!found.isDirectory() || found.uid !== owner || (found.mode & 0o077) !== 0) {
      throw new StoreError(
        "permission",
        `${short} is not a private folder of the database's user`,
        "remove it, or choose a shorter data folder",
      );
    }
    return short;
  }

  // -- Server ------------------------------------------------------------------------------------------------------------------------

  async #ensure(): Promise<void> {
    const deadline = performance.now() + this.#startTimeoutMs;
    let attempt: StartAttempt | null = null;
    let failures = 0;
    for (;;) {
      const answer = await this.#knock();
      if (answer === "ready" && (await this.#join())) return;
      if (answer === "down" && this.#postmaster() === null) {
        if (attempt === null) {
          this.#clearStaleLocks();
          attempt = this.#start();
        } else if (attempt.ended()) {
          const reason = attempt.output();
          if (/No space left on device/.test(reason)) throw diskFull(this.dataDir);
          failures++;
          if (failures >= 3) {
            throw new StoreError(
              "cannot-start",
              `PostgreSQL did not start in ${this.#data}: ${lastLine(reason, "it gave no reason")}`,
              `its log is in ${join(this.#data, "log")} and ${join(this.#cluster, "start.log")}`,
            );
          }
          // A killed postmaster's last children may hold its shared memory for a moment.
          await sleep(500);
          attempt = null;
          continue;
        }
      }
      if (performance.now() > deadline) {
        throw new StoreError(
          "unavailable",
          `PostgreSQL in ${this.#data} did not become ready within ${Math.round(this.#startTimeoutMs / 1000)} s`,
          `its log is in ${join(this.#data, "log")}`,
        );
      }
      await sleep(20);
    }
  }

  /** `starting` also stands for stopping and for crash recovery: ask again. */
  async #knock(): Promise<"ready" | "starting" | "down"> {
    // The socket of a dead server is never tried: only a live postmaster on this very folder is given the password.
    if (this.#postmaster() === null) return "down";
    const client = new pg.Client({ ...this.connection("postgres"), connectionTimeoutMillis: 5_000 });
    client.on("error", () => undefined); // The connection ends below in any case, and `connect` reports what matters.
    try {
      await client.connect();
      return "ready";
    } catch (error) {
      if (codeOf(error) === "28P01") {
        throw new StoreError(
          "permission",
          `the password in ${join(this.dataDir, "postgres.password")} is not the one of the database in ${this.#data}`,
          "restore the file that belongs to this folder",
        );
      }
      if (isConnectionLoss(error) || codeOf(error) === "53300") return "starting";
      throw error;
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  /** Opens the pipe. False: the server is about to stop, or its supervisor is gone and a new one was started; look again. */
  async #join(): Promise<boolean> {
    if (this.#closed) return true;
    for (let tries = 0; tries < 20; tries++) {
      try {
        this.#membership ??= openSync(this.#fifo, constants.O_WRONLY | constants.O_NONBLOCK);
        // EPIPE tells that the reader left after all, between its last look and this line.
        writeSync(this.#membership, "\n");
        return true;
      } catch (error) {
        if (!["ENXIO", "EPIPE", "ENOENT"].includes(codeOf(error))) throw folderError(error, this.#fifo);
        await sleep(25);
      }
    }
    const pid = this.#postmaster();
    if (pid !== null) this.#supervise(["adopt", String(pid)]);
    return false;
  }

  #start(): StartAttempt {
    this.#socketDir = this.#prepareSocketDir();
    const settings: Readonly<Record<string, string>> = {
      listen_addresses: "",
      unix_socket_directories: this.#socketDir === this.#data ? this.#folderArgument(this.#data) : this.#socketDir,
      unix_socket_permissions: "0700",
      cluster_name: "keyroll",
      // A control plane that forgets what it did is worse than a slow one.
      fsync: "on",
      synchronous_commit: "on",
      // Statements and their parameters are never logged, whatever fails.
      log_statement: "none",
      log_min_error_statement: "panic",
      log_parameter_max_length: "0",
      log_parameter_max_length_on_error: "0",
      logging_collector: "on",
      log_directory: "log",
      log_filename: "postgres-%u.log",
      log_rotation_age: "1d",
      log_truncate_on_rotation: "on",
      log_file_mode: "0600",
      timezone: "UTC",
      shared_buffers: "256MB",
      max_connections: "100",
      // Less waking while nothing happens.
      bgwriter_delay: "1000ms",
      wal_writer_delay: "1000ms",
      autovacuum_naptime: "60s",
    };
    const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    return this.#supervise([
      this.#binaries!.postgres,
      "-D",
      this.#folderArgument(this.#data),
      "-p",
      String(port),
      ...args,
    ]);
  }

  #supervise(args: readonly string[]): StartAttempt {
    const path = join(this.#cluster, "start.log");
    const log = openSync(path, "a", 0o600);
    const before = fstatSync(log).size;
    let ended = false;
    try {
      const child = spawn("/bin/sh", ["-c", supervisor, "keyroll-postgres", "../users", ...args], {
        cwd: this.#data,
        detached: true,
        stdio: ["ignore", log, log],
        env: {
          ...serverEnvironment(),
          // A folder made for the socket alone goes with the server.
          ...(this.#socketDir === this.#data ? {} : { KEYROLL_SOCKET_DIR: this.#socketDir }),
        },
        ...this.#asUser(),
      });
      child.on("exit", () => (ended = true));
      child.on("error", () => (ended = true));
      child.unref();
    } finally {
      closeSync(log);
    }
    return { ended: () => ended, output: () => readFileSync(path).subarray(before).toString("utf8") };
  }

  /** The process that serves this very folder, or `null`. A pid file alone proves nothing: the number may have a new owner. */
  #postmaster(): number | null {
    const pid = readPid(join(this.#data, "postmaster.pid"));
    return pid !== null && servesFolder(pid, this.#data) ? pid : null;
  }

  /** After a power cut a lock file may name a process that is somebody else's now, and PostgreSQL would refuse to start. */
  #clearStaleLocks(): void {
    for (const file of [join(this.#data, "postmaster.pid"), join(this.#socketDir, `.s.PGSQL.${port}.lock`)]) {
      const pid = readPid(file);
      if (pid === null || servesFolder(pid, this.#data)) continue;
      const aside = `${file}.stale`;
      try {
        renameSync(file, aside);
        const moved = readPid(aside);
        // Another process may have started a server in between: then it was a fresh file, and goes back.
        if (moved !== null && moved !== pid && servesFolder(moved, this.#data)) linkSync(aside, file);
        unlinkSync(aside);
      } catch (error) {
        if (codeOf(error) !== "ENOENT") throw folderError(error, file);
      }
    }
  }

  async #otherClients(): Promise<number> {
    const client = new pg.Client({ ...this.connection("postgres"), connectionTimeoutMillis: 2_000 });
    client.on("error", () => undefined); // As in #knock.
    try {
      await client.connect();
      const { rows } = await client.query<{ n: number }>(
        "select count(*)::int as n from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
      );
      return rows[0]?.n ?? 0;
    } catch {
      // It is stopping or gone already: there is nobody to wait for.
      return 1;
    } finally {
      await client.end().catch(() => undefined);
    }
  }
}

interface StartAttempt {
  ended(): boolean;
  output(): string;
}

function readPid(file: string): number | null {
  try {
    const pid = Number.parseInt(readFileSync(file, "utf8").split("\n")[0]!, 10);
    return Number.isInteger(pid) && pid > 0 ? pid : null;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw folderError(error, file);
  }
}

function servesFolder(pid: number, folder: string): boolean {
  if (existsSync("/proc/self/cwd")) {
    try {
      return (
        readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "postgres" &&
        readlinkSync(`/proc/${pid}/cwd`) === realpathSync(folder)
      );
    } catch {
      // No such process, or one of another user: not our server either way.
      return false;
    }
  }
  const ps = spawnSync("ps", ["-p", String(pid), "-o", "command="], { encoding: "utf8" });
  return (ps.stdout ?? "").includes("postgres") && (ps.stdout ?? "").includes(folder);
}

function ageMs(path: string): number {
  try {
    return Date.now() - statSync(path).mtimeMs;
  } catch {
    // Its owner has just removed it.
    return 0;
  }
}

function lastLine(text: string, fallback: string): string {
  const lines = text.split("\n").filter((line) => line.trim() !== "" && !/^HINT|^DETAIL/.test(line));
  const fatal = lines.findLast((line) => /FATAL|PANIC|error:/i.test(line));
  return (fatal ?? lines.at(-1) ?? fallback).trim();
}
