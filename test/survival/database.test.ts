/** The database dies in the middle and comes back; the host's clock jumps by years; the disk is full for a while. Work waits, says so, and goes on. */
import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, realpathSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { App } from "../../src/app.ts";
import type { Log } from "../../src/connectors/connector.ts";
import { StoreError } from "../../src/store/store.ts";
import { startWorker } from "../../src/engine/worker.ts";
import { MemoryWorld } from "../support/memory-places.ts";
import { finished, openTableWorld, startAll } from "./workers-suite.ts";

test("the database is killed and restarted in the middle: the worker says so, waits, and goes on", async () => {
  const count = 8;
  await using world = await openTableWorld(count, { durable: true });
  const worker = world.worker({ concurrency: 4 });
  await worker.ready;
  await startAll(world);
  worker.go();
  await expect
    .poll(async () => (await world.sql<{ n: number }>("select count(*)::int as n from survival.effects"))[0]!.n, {
      timeout: 30_000,
    })
    .toBeGreaterThan(4);
  await world.server.halt("SIGKILL");
  await expect.poll(() => worker.said.some((line) => /database.*lost/i.test(line)), { timeout: 20_000 }).toBe(true);
  // Long enough for renewals of leases to fail as well.
  await sleep(1500);
  await restart(() => world.server.start());
  await finished(world, count, 90_000);
  expect(worker.said.some((line) => /answers again/.test(line))).toBe(true);
  await worker.rest();

  const [{ open } = { open: -1 }] = await world.sql<{ open: number }>(`
    select count(*)::int as open from keyroll.journal i where kind = 'intent'
      and not exists (select from keyroll.journal o where o.kind = 'outcome' and o.effect = i.effect)`);
  expect(open).toBe(0);
  expect(await world.app.auditVerify([])).toMatchObject({ verification: { ok: true } });
  const [{ right } = { right: -1 }] = await world.sql<{ right: number }>(`
    select count(*)::int as right from (
      select split_part(place, '/', 1), count(*) as rows, count(distinct value) as different, bool_or(value like 'old-password%') as old
      from survival.stored group by 1
    ) as each where rows = 2 and different = 1 and not old`);
  expect(right).toBe(count);
}, 180_000);

/** Processes of the killed server may still be on their way out, and then a new one refuses to start beside them. */
async function restart(start: () => Promise<void>): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      await start();
      return;
    } catch (error) {
      if (tries >= 50) throw error;
      await sleep(200);
    }
  }
}

const decadeMs = 10 * 365.25 * 86_400_000;

test("a clock that jumps by ten years, there and back: waits and leases are judged by the database's clock", async () => {
  const soakMs = 3000;
  await using world = await openTableWorld(2, { soak: "3s" });
  const worker = world.worker({ concurrency: 4 });
  await worker.ready;
  await startAll(world);
  worker.setClock(decadeMs);
  worker.go();
  const done = async (verb: string): Promise<number> =>
    (await world.sql<{ n: number }>(`select count(*)::int as n from survival.effects where verb = '${verb}'`))[0]!.n;
  const leases: number[] = [];
  const watch = setInterval(() => {
    void world
      .sql<{ left: number }>(
        "select extract(epoch from lease_until - clock_timestamp())::float8 * 1000 as left from keyroll.rotations where lease_owner is not null",
      )
      .then(
        (rows) => leases.push(...rows.map(({ left }) => left)),
        () => undefined,
      );
  }, 50);
  try {
    await expect.poll(() => done("activate"), { timeout: 30_000 }).toBe(2);
    worker.setClock(-decadeMs);
    await sleep(700);
    worker.setClock(decadeMs);
    await finished(world, 2, 60_000);
  } finally {
    clearInterval(watch);
  }
  const waited = await world.sql<{ ms: number }>(`
    select extract(epoch from gone.at - used.at)::float8 * 1000 as ms from survival.effects used
    join survival.effects gone on gone.verb = 'remove' and gone.rotation = used.rotation where used.verb = 'activate'`);
  expect(waited.length).toBe(2);
  for (const { ms } of waited) {
    expect(ms).toBeGreaterThanOrEqual(soakMs);
    // Neither ten years early nor ten years late: this bound only has to tell hours from years.
    expect(ms).toBeLessThan(3_600_000);
  }
  // No lease was ever longer than leases are, and nobody had to take over.
  for (const left of leases) expect(left).toBeLessThanOrEqual(world.leaseMs);
  const [{ actors } = { actors: -1 }] = await world.sql<{ actors: number }>(
    "select count(distinct actor)::int as actors from keyroll.journal where kind = 'intent'",
  );
  expect(actors).toBe(1);
  expect(await world.app.auditVerify([])).toMatchObject({ verification: { ok: true } });
}, 120_000);

/** A file system of its own that can be filled, or why there is none. */
function smallDisk(): { readonly path: string; free(): void } | string {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return "only root on Linux may mount a tmpfs";
  const path = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-disk-")));
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", path], { encoding: "utf8" });
  if (mounted.status !== 0) {
    rmSync(path, { recursive: true });
    return `a tmpfs could not be mounted: ${(mounted.stderr ?? "").trim()}`;
  }
  return {
    path,
    free() {
      spawnSync("umount", ["-l", path]);
      rmSync(path, { recursive: true, force: true });
    },
  };
}

function fill(path: string): void {
  const file = openSync(path, "w");
  try {
    for (const size of [1 << 20, 4096]) {
      try {
        for (;;) writeSync(file, Buffer.alloc(size, 1));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
      }
    }
  } finally {
    closeSync(file);
  }
}

test("disk full under the embedded store: it says so, loses nothing, and goes on when there is space", async ({
  skip,
}) => {
  const disk = smallDisk();
  if (typeof disk === "string") return skip(disk);
  const ballast = join(disk.path, "ballast");
  const world = new MemoryWorld({ now: Date.now, random: Math.random });
  world.verifier("db", { values: ["old-password"] });
  world.holder("env", ["db"], { values: ["old-password"] });
  const refused: unknown[] = [];
  world.onCall = () => void refused.push(...world.refusals());
  const estateFile = join(disk.path, "keyroll.yaml");
  writeFileSync(
    estateFile,
    `version: 1
credentials:
  app:
    kind: password
    owner: tests
    issuer: { type: memory }
    places:
      db: { type: memory, verifier: true, name: db }
      env: { type: memory, holder: true, presentsTo: [db], name: env }
`,
  );
  const said: string[] = [];
  const line: Log["info"] = (message, fields) => void said.push(`${message} ${JSON.stringify(fields ?? {})}`);
  const app = new App({
    env: process.env,
    cwd: disk.path,
    file: estateFile,
    dataDir: join(disk.path, "data"),
    databaseUrl: null,
    person: "tester",
    registry: world.registry,
    log: { debug: line, info: line, warn: line },
  });
  try {
    const { deps, store } = await app.engine();
    let full = false;
    const worker = await startWorker(
      {
        ...deps,
        options: { ...deps.options, leaseMs: 2000 },
        crashPoint(name) {
          if (full || name !== "after-intent:activate") return;
          full = true;
          fill(ballast);
        },
      },
      { sweepMs: 250 },
    );
    try {
      const { plan } = await app.plan({ credential: "app" });
      const { id } = await app.start(plan);
      await expect.poll(() => full, { timeout: 60_000 }).toBe(true);
      // Pages that have room left take a little more; this uses it up and sees the error that everybody sees.
      const rows = Array.from({ length: 5000 }, (_, n) => ({
        fingerprint: String(n).padStart(64, "0"),
        publicKey: null,
        source: "disk",
        path: `/some/where/${n}`,
        kind: "certificate",
        owner: null,
        notAfterMs: null,
        facts: { filler: "x".repeat(400) },
      }));
      const press = async (): Promise<unknown> => {
        for (let n = 0; n < 40; n++) {
          try {
            await store.inventory.import(rows.map((row) => ({ ...row, source: `disk ${n}` })));
          } catch (error) {
            return error;
          }
        }
        return null;
      };
      const error = await press();
      expect(error).toBeInstanceOf(StoreError);
      expect((error as StoreError).code).toBe("disk-full");
      expect((error as StoreError).next).toContain("free some space");
      // Whether the worker met it as well depends on the room that was left in pages that exist; if it did, it said the same.
      const failed = said.filter((text) => text.startsWith("A turn failed"));
      expect(failed.filter((text) => !/disk-full|unavailable/.test(text))).toEqual([]);

      rmSync(ballast);
      await expect
        .poll(async () => (await store.rotations.get(id).catch(() => undefined))?.status, { timeout: 90_000 })
        .toBe("done");
      expect(refused).toEqual([]);
      expect(world.place("db").values()).toEqual([world.place("env").currentValue()]);
      expect(await store.journal.openIntents(id)).toEqual([]);
      expect(await app.auditVerify([])).toMatchObject({ verification: { ok: true } });
    } finally {
      rmSync(ballast, { force: true });
      await worker.stop();
    }
  } finally {
    await app.close();
    disk.free();
  }
}, 240_000);
