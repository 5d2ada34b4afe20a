/**
 * Secrets put through whole rotations, looked for afterwards wherever they must not be: an old password and an old key that were adopted, and the new
 * ones that were made. They may be in the application's own files, and nowhere else: not in a table, a journal row, a log, the output of a
 * command, the arguments or the environment of a process, a file left behind, or the store's files on disk.
 */
import { spawn } from "node:child_process";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseEnv } from "node:util";
import pg from "pg";
import { expect, test } from "vitest";
import { startWorld } from "../../src/demo/world.ts";
import { openEmbedded } from "../../src/store/embedded.ts";

/** Every shape in which a value could lie about. */
function formsOf(name: string, bytes: Buffer): Map<string, Buffer> {
  const text = bytes.toString("utf8");
  const forms = new Map<string, Buffer>([
    [`${name} as it is`, bytes],
    [`${name} in hex`, Buffer.from(bytes.toString("hex"))],
    [`${name} in upper-case hex`, Buffer.from(bytes.toString("hex").toUpperCase())],
    [`${name} URL-encoded`, Buffer.from(encodeURIComponent(text))],
    [`${name} in JSON`, Buffer.from(JSON.stringify(text).slice(1, -1))],
    [`${name} in JSON in JSON`, Buffer.from(JSON.stringify(JSON.stringify(text)).slice(3, -3))],
  ]);
  // Inside a longer text, base64 begins at one of three offsets; the characters that depend on the neighbours are left out.
  for (const offset of [0, 1, 2]) {
    const padded = Buffer.concat([Buffer.alloc(offset), bytes]);
    const whole = Math.floor(padded.length / 3) * 3;
    const inner = padded
      .subarray(0, whole)
      .toString("base64")
      .slice(offset === 0 ? 0 : 4);
    forms.set(`${name} in base64 at ${offset}`, Buffer.from(inner));
    forms.set(`${name} in base64url at ${offset}`, Buffer.from(inner.replaceAll("+", "-").replaceAll("/", "_")));
  }
  return forms;
}

/** A private key is found by its secret number, in whatever file format, and by the lines of its PEM. */
function formsOfKey(name: string, pem: string): Map<string, Buffer> {
  const key = createPrivateKey(pem);
  const { d = "" } = key.export({ format: "jwk" });
  const forms = formsOf(`${name}'s secret number`, Buffer.from(d, "base64url"));
  for (const [n, line] of pem.split("\n").entries()) {
    if (line.length >= 40 && !line.startsWith("-----")) forms.set(`${name}'s PEM, line ${n}`, Buffer.from(line));
  }
  return forms;
}

function found(where: string, bytes: Buffer, forms: ReadonlyMap<string, Buffer>): string[] {
  return [...forms].filter(([, form]) => bytes.includes(form)).map(([name]) => `${name}, in ${where}`);
}

function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Arguments and environment of every process that descends from `root`, as they are just now. */
function lookAtProcesses(root: number, kept: Map<string, Buffer>): void {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // It has ended meanwhile.
    }
  }
  for (const pid of parents.keys()) {
    let up: number | undefined = pid;
    while (up !== undefined && up !== root && up > 1) up = parents.get(up);
    if (up !== root) continue;
    for (const what of ["cmdline", "environ"]) {
      try {
        const bytes = readFileSync(`/proc/${pid}/${what}`);
        kept.set(`${what} of a process: ${bytes.toString("base64").slice(0, 2000)}`, bytes);
      } catch {
        // It has ended meanwhile, or is somebody else's.
      }
    }
  }
}

test.skipIf(process.platform !== "linux")(
  "secrets are where they belong, and nowhere else (processes are read from Linux's /proc)",
  async () => {
    const folder = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-canary-")));
    const temporary = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-canary-tmp-")));
    const world = await startWorld({ folder, rereadMs: 500, perSecond: 5, soak: "0s" });
    try {
      // A value that looks different in every form. The file is what an operator would have written by hand.
      const oldPassword = 'c4naRy/+ "dove" 100% \\sparrow& é';
      await world.database.sql(`alter role shop_a password '${oldPassword}'`);
      writeFileSync(join(folder, "shop.env"), `DB_USER=shop_a\nDB_PASSWORD='${oldPassword}'\n`, { mode: 0o600 });
      expect(parseEnv(readFileSync(join(folder, "shop.env"), "utf8"))["DB_PASSWORD"]).toBe(oldPassword);
      const forms = formsOf("the old password", Buffer.from(oldPassword));
      const take = (more: ReadonlyMap<string, Buffer>): void => more.forEach((bytes, name) => forms.set(name, bytes));
      take(formsOfKey("the old key", readFileSync(join(folder, "shop.key"), "utf8")));
      take(formsOfKey("the CA's key", readFileSync(join(folder, "ca.key"), "utf8")));

      const processes = new Map<string, Buffer>();
      const outputs = new Map<string, Buffer>();
      const keyroll = async (...argv: string[]): Promise<string> => {
        const child = spawn(process.execPath, [join(import.meta.dirname, "..", "..", "bin", "keyroll.js"), ...argv], {
          cwd: folder,
          env: {
            ...process.env,
            ...world.env,
            KEYROLL_DATA: join(folder, "data"),
            KEYROLL_LOG: "debug",
            TMPDIR: temporary,
          },
          stdio: ["ignore", "pipe", "pipe"],
        });
        const out: Buffer[] = [];
        const err: Buffer[] = [];
        child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
        child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
        const sampling = setInterval(() => lookAtProcesses(child.pid!, processes), 15);
        const code = await new Promise((resolve) => child.once("close", resolve));
        clearInterval(sampling);
        const name = `keyroll ${argv.join(" ")}`;
        outputs.set(`the output of ${name}`, Buffer.concat(out));
        outputs.set(`the log of ${name}`, Buffer.concat(err));
        expect(code, `${name}\n${Buffer.concat(err).toString()}`).toBe(0);
        return Buffer.concat(out).toString();
      };

      await keyroll("status", "--json");
      for (const name of ["shop-db-password", "shop-web"]) {
        await keyroll("plan", name, "--json");
        await keyroll("rotate", name, "--yes", "--json");
        await keyroll("explain", name, "--json");
      }
      take(
        formsOf(
          "the new password",
          Buffer.from(parseEnv(readFileSync(join(folder, "shop.env"), "utf8"))["DB_PASSWORD"]!),
        ),
      );
      take(formsOfKey("the new key", readFileSync(join(folder, "shop.key"), "utf8")));
      expect(
        new X509Certificate(readFileSync(join(folder, "shop.pem"))).checkPrivateKey(
          createPrivateKey(readFileSync(join(folder, "shop.key"))),
        ),
      ).toBe(true);
      const runs = JSON.parse(await keyroll("run", "list", "--json")) as unknown;
      const ids = [...new Set(JSON.stringify(runs).match(/r-[a-z0-9]{8}/g) ?? [])];
      expect(ids.length).toBe(2);
      for (const id of ids) await keyroll("run", "show", id, "--json");
      await keyroll("status", "--json");
      await keyroll("audit", "log", "--json");
      await keyroll("audit", "export");
      await keyroll("runbook", "shop-db-password");

      // The old password is no longer accepted: what was looked for was really rolled.
      const client = new pg.Client({
        host: "127.0.0.1",
        port: world.database.port,
        user: "shop_a",
        password: oldPassword,
        database: "shop",
      });
      await expect(client.connect()).rejects.toThrow();

      const hits: string[] = [];
      for (const [where, bytes] of [...outputs, ...processes]) hits.push(...found(where, bytes, forms));
      expect(processes.size).toBeGreaterThan(10);

      // Every table of every schema of the store, as text; bytes show as hex there.
      const server = await openEmbedded({ dataDir: join(folder, "data") });
      let tables = 0;
      try {
        const db = new pg.Client(server.connection("keyroll"));
        await db.connect();
        const { rows } = await db.query<{ name: string }>(
          "select format('%I.%I', table_schema, table_name) as name from information_schema.tables where table_type = 'BASE TABLE' and table_schema not in ('information_schema', 'pg_catalog')",
        );
        for (const { name } of rows) {
          const dump = await db.query<{ row: string }>(`select t::text as row from ${name} t`);
          tables += dump.rows.length > 0 ? 1 : 0;
          hits.push(...found(`table ${name}`, Buffer.from(dump.rows.map(({ row }) => row).join("\n")), forms));
        }
        await db.query("checkpoint");
        await db.end();
      } finally {
        await server.close();
      }
      expect(tables).toBeGreaterThan(8);

      // Everything that lies about afterwards: the store with its log and its write-ahead log, and temporary files.
      const own = new Set(["shop.env", "shop.key", "ca.key"].map((name) => join(folder, name)));
      const files = [...filesIn(folder), ...filesIn(temporary)].filter(
        (path) => !own.has(path) && statSync(path).size > 0,
      );
      for (const path of files) hits.push(...found(`file ${path}`, readFileSync(path), forms));
      expect(hits).toEqual([]);

      // The search itself: it finds each of them where it does belong.
      const there = [...own].flatMap((path) => found(path, readFileSync(path), forms));
      for (const what of ["the new password as it is", "the new key's PEM, line 1", "the CA's key's PEM, line 1"]) {
        expect(
          there.some((hit) => hit.startsWith(what)),
          what,
        ).toBe(true);
      }
      expect(
        found("", Buffer.from(`x${Buffer.from(`ab${oldPassword}cd`).toString("base64")}y`), forms).length,
      ).toBeGreaterThan(0);
    } finally {
      await world.stop();
      rmSync(folder, { recursive: true, force: true });
      rmSync(temporary, { recursive: true, force: true });
    }
  },
  240_000,
);
