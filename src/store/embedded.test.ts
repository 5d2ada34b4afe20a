import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openEmbedded } from "./embedded.ts";
import { openStore } from "./open.ts";

function canMount(): boolean {
  const probe = mkdtempSync(join(tmpdir(), "keyroll-mount-"));
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", probe]).status === 0;
  if (mounted) spawnSync("umount", [probe]);
  rmSync(probe, { recursive: true, force: true });
  return mounted;
}

/** A process of its own that opens the store, says so, and closes it when its standard input ends. */
const user = `
const { openStore } = await import(${JSON.stringify(new URL("./open.ts", import.meta.url).href)});
const store = await openStore({ dataDir: process.argv[1], databaseUrl: null });
await store.settings.put("user-" + process.pid, process.pid);
process.stdout.write("open\\n");
process.stdin.resume();
await new Promise((resolve) => process.stdin.on("end", resolve));
await store.close();
`;

describe("the embedded server", () => {
  let root: string;
  let dataDir: string;
  const children: ChildProcess[] = [];

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "keyroll-embedded-"));
    dataDir = join(root, "data");
  });
  afterEach(async () => {
    for (const child of children.splice(0)) child.kill("SIGKILL");
    await until(() => postmaster() === null);
    rmSync(root, { recursive: true, force: true });
  });

  function postmaster(): number | null {
    try {
      const pid = Number.parseInt(readFileSync(join(dataDir, "postgres", "data", "postmaster.pid"), "utf8"), 10);
      process.kill(pid, 0);
      return pid;
    } catch {
      return null;
    }
  }
  async function until(condition: () => boolean): Promise<void> {
    for (let tries = 0; tries < 600; tries++) {
      if (condition()) return;
      await sleep(25);
    }
    throw new Error("what was waited for did not come");
  }
  async function openInAnotherProcess(): Promise<ChildProcess> {
    const child = spawn(process.execPath, ["--input-type=module", "-e", user, dataDir], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    children.push(child);
    await new Promise<void>((resolve, reject) => {
      child.stdout!.on("data", () => resolve());
      child.on("exit", (code) => reject(new Error(`the process ended with ${code}`)));
    });
    return child;
  }

  test("what was written is there after a restart; files and server are private", async () => {
    const first = await openStore({ dataDir, databaseUrl: null });
    await first.settings.put("kept", { a: [1, "two"] });
    expect(first.where).toMatchObject({
      kind: "embedded",
      text: dataDir,
      serverVersion: expect.stringMatching(/^\d+\.\d+/),
    });
    await first.close();
    expect(postmaster()).toBeNull();

    const second = await openStore({ dataDir, databaseUrl: null });
    expect(await second.settings.get("kept")).toEqual({ a: [1, "two"] });
    expect(statSync(dataDir).mode & 0o777).toBe(0o700);
    expect(statSync(join(dataDir, "postgres.password")).mode & 0o777).toBe(0o600);
    const settings = readFileSync(join(dataDir, "postgres", "data", "postmaster.opts"), "utf8");
    expect(settings).toContain("listen_addresses=");
    expect(settings).toContain('"fsync=on"');
    expect(settings).not.toContain(readFileSync(join(dataDir, "postgres.password"), "utf8").trim());
    await second.close();
  });

  test(
    "as root it runs as somebody else, also below a folder that nobody else may enter",
    { skip: process.getuid?.() !== 0 },
    async () => {
      mkdirSync(dataDir, { mode: 0o700 });
      const store = await openStore({ dataDir, databaseUrl: null });
      expect(statSync(`/proc/${postmaster()}`).uid).not.toBe(0);
      await store.close();
    },
  );

  test("several processes that start at once share one server, and the last one out stops it", async () => {
    const users = await Promise.all([openInAnotherProcess(), openInAnotherProcess(), openInAnotherProcess()]);
    const pid = postmaster();
    expect(pid).not.toBeNull();
    const here = await openStore({ dataDir, databaseUrl: null });
    for (const child of users) expect(await here.settings.get(`user-${child.pid}`)).toBe(child.pid);
    // One leaves in order, one is killed, the one that started the server among them.
    users[0]!.kill("SIGKILL");
    users[1]!.stdin!.end();
    await until(() => users[0]!.signalCode !== null && users[1]!.exitCode !== null);
    expect(await here.settings.get(`user-${users[2]!.pid}`)).toBe(users[2]!.pid);
    await here.close();
    expect(postmaster()).toBe(pid);
    users[2]!.kill("SIGKILL");
    await until(() => postmaster() === null);
  });

  test("after kill -9 of PostgreSQL the next query starts it again, and nothing that was committed is lost", async () => {
    const store = await openStore({ dataDir, databaseUrl: null });
    const states: string[] = [];
    store.onState((state) => states.push(state));
    for (let round = 0; round < 2; round++) {
      await store.settings.put("round", round);
      const pid = postmaster()!;
      process.kill(pid, "SIGKILL");
      // Its children answer for a moment longer.
      await until(() => states.length === 2 * round + 1);
      expect(await store.settings.get("round")).toBe(round);
      expect(postmaster()).not.toBe(pid);
    }
    expect(states).toEqual(["lost", "back", "lost", "back"]);
    await store.close();
    expect(postmaster()).toBeNull();
  });

  test("a transaction that was under way at that moment fails readably and leaves nothing", async () => {
    const store = await openStore({ dataDir, databaseUrl: null });
    const half = store.transaction(async (tx) => {
      await tx.settings.put("half", true);
      process.kill(postmaster()!, "SIGKILL");
      // Its children notice within a moment.
      for (;;) {
        await tx.settings.put("other half", true);
        await sleep(10);
      }
    });
    await expect(half).rejects.toMatchObject({ code: "unavailable" });
    expect(await store.settings.get("half")).toBeUndefined();
    await store.close();
  });

  test("a server whose supervisor was killed is adopted, and still stops with its last user", async () => {
    const first = await openEmbedded({ dataDir });
    const pid = postmaster()!;
    const supervisors = readFileSync(`/proc/${pid}/stat`, "utf8").split(" ")[3]!;
    const siblings = readFileSync(`/proc/${supervisors}/task/${supervisors}/children`, "utf8")
      .trim()
      .split(" ")
      .map(Number);
    process.kill(Number(supervisors), "SIGKILL");
    for (const sibling of siblings) if (sibling !== pid) process.kill(sibling, "SIGKILL");
    const second = await openEmbedded({ dataDir });
    expect(postmaster()).toBe(pid);
    await first.close();
    await second.close();
    await until(() => postmaster() === null);
  }, 20_000);

  test("a lock file left by a power cut, with a number that is somebody else's now, is no obstacle", async () => {
    await (await openEmbedded({ dataDir })).close();
    const stranger = spawn("sleep", ["60"], { uid: statSync(join(dataDir, "postgres", "data")).uid });
    children.push(stranger);
    writeFileSync(join(dataDir, "postgres", "data", "postmaster.pid"), `${stranger.pid}\n/elsewhere\n1\n5432\n\n\n`);
    const again = await openEmbedded({ dataDir });
    expect(postmaster()).not.toBe(stranger.pid);
    await again.close();
  });

  test("a folder whose path is too long for a socket works", async () => {
    dataDir = join(root, "long".repeat(30));
    const store = await openStore({ dataDir, databaseUrl: null });
    const again = await openStore({ dataDir, databaseUrl: null });
    expect(await again.settings.get("nothing")).toBeUndefined();
    await again.close();
    await store.close();
  });

  describe("on a full disk", { skip: process.platform !== "linux" || process.getuid?.() !== 0 || !canMount() }, () => {
    afterEach(async () => {
      await until(() => postmaster() === null);
      spawnSync("umount", [dataDir]);
    });
    function mount(size: string): void {
      mkdirSync(dataDir);
      expect(spawnSync("mount", ["-t", "tmpfs", "-o", `size=${size},mode=0700`, "tmpfs", dataDir]).status).toBe(0);
    }

    test("it does not begin, and says so", async () => {
      mount("8m");
      await expect(openStore({ dataDir, databaseUrl: null })).rejects.toMatchObject({
        code: "disk-full",
        next: expect.stringContaining("free some space"),
      });
      expect(readdirSync(join(dataDir, "postgres")).filter((name) => name !== "users")).toEqual([]);
    });

    test("a write fails readably, and it goes on once there is space", async () => {
      mount("110m");
      const store = await openStore({ dataDir, databaseUrl: null, patienceMs: 2_000 });
      await store.settings.put("before", 1);
      const filler = join(dataDir, "filler");
      expect(spawnSync("sh", ["-c", `cat /dev/zero > ${filler}`]).status).not.toBe(0);
      const text = randomBytes(200_000).toString("base64");
      const failure = await (async () => {
        for (let i = 0; i < 2_000; i++) {
          try {
            await store.settings.put(`big-${i}`, text);
          } catch (error) {
            return error;
          }
        }
        return null;
      })();
      expect(failure).toMatchObject({ code: expect.stringMatching(/disk-full|unavailable/) });
      rmSync(filler);
      expect(await store.settings.get("before")).toBe(1);
      await store.settings.put("after", 2);
      expect(await store.settings.get("after")).toBe(2);
      await store.close();
    }, 60_000);
  });

  describe("says clearly what is wrong", () => {
    test("data of a newer PostgreSQL", async () => {
      await (await openEmbedded({ dataDir })).close();
      const file = join(dataDir, "postgres", "data", "PG_VERSION");
      writeFileSync(file, "99\n");
      await expect(openEmbedded({ dataDir })).rejects.toMatchObject({
        code: "newer-data",
        message: expect.stringContaining("PostgreSQL 99"),
      });
      expect(readFileSync(file, "utf8")).toBe("99\n");
    });

    test("a data folder that is a file", async () => {
      writeFileSync(dataDir, "");
      await expect(openStore({ dataDir, databaseUrl: null })).rejects.toMatchObject({
        code: "misconfigured",
        message: expect.stringContaining(dataDir),
      });
    });

    test("another password", async () => {
      await (await openEmbedded({ dataDir })).close();
      writeFileSync(join(dataDir, "postgres.password"), "another\n");
      await expect(openEmbedded({ dataDir })).rejects.toMatchObject({
        code: "permission",
        message: expect.stringContaining("postgres.password"),
      });
    });

    test("a broken configuration, with PostgreSQL's own reason", async () => {
      await (await openEmbedded({ dataDir })).close();
      writeFileSync(join(dataDir, "postgres", "data", "postgresql.auto.conf"), "shared_buffers = 'plenty'\n");
      await expect(openEmbedded({ dataDir })).rejects.toMatchObject({
        code: "cannot-start",
        message: expect.stringMatching(/did not start.*FATAL/s),
      });
      expect(existsSync(join(dataDir, "postgres", "data", "PG_VERSION"))).toBe(true);
    });
  });
});
