import { afterAll, beforeAll, describe, expect, test } from "vitest";
import pg from "pg";
import { declare, withStore, type TestStore } from "../../test/support/store.ts";
import { migrate, migrations } from "./migrations.ts";
import { openStore } from "./open.ts";
import { AlreadyRotating, FencedOff, StoreError, type InventoryItem, type NewRotation, type Store } from "./store.ts";

const rotation = (credential: string): NewRotation => ({
  credential,
  mode: "planned",
  strategy: "availability-first",
  fromVersion: `${credential}#1`,
  planDigest: "sha256:plan",
  plan: { steps: ["one"] },
  exposed: [],
  startedBy: "alice",
});

describe("the store", () => {
  let t: TestStore;
  let store: Store;
  beforeAll(async () => {
    t = await withStore({ idleTransactionMs: 600 });
    store = t.store;
  });
  afterAll(() => t[Symbol.asyncDispose]());

  describe("migrations", () => {
    async function scratch(): Promise<{ client: () => Promise<pg.Client>; drop: () => Promise<void> }> {
      const name = `scratch_${Math.trunc(performance.now() * 1000)}`;
      await t.sql(`create database ${name}`);
      const [where] = await t.sql<{ host: string }>(
        "select split_part(setting, ',', 1) as host from pg_settings where name = 'unix_socket_directories'",
      );
      expect(where).toBeDefined();
      const clients: pg.Client[] = [];
      return {
        client: async () => {
          const client = new pg.Client({ ...(await connectionOf(t)), database: name });
          await client.connect();
          clients.push(client);
          return client;
        },
        drop: async () => {
          await Promise.all(clients.map((client) => client.end()));
          await t.sql(`drop database ${name}`);
        },
      };
    }

    test("run once, however many processes start at once", async () => {
      const db = await scratch();
      const clients = await Promise.all([db.client(), db.client(), db.client(), db.client()]);
      await Promise.all(clients.map((client) => migrate(client)));
      await migrate(clients[0]!);
      const { rows } = await clients[0]!.query("select number, name from keyroll.migrations");
      expect(rows).toEqual(migrations.map(({ number, name }) => ({ number, name })));
      await db.drop();
    });

    test("a failing one leaves nothing behind", async () => {
      const db = await scratch();
      const client = await db.client();
      const bad = [
        ...migrations,
        { number: migrations.length + 1, name: "bad", sql: "create table keyroll.half (a int); select 1 / 0" },
      ];
      await expect(migrate(client, bad)).rejects.toThrow("division by zero");
      const { rows } = await client.query("select to_regnamespace('keyroll') as schema");
      expect(rows).toEqual([{ schema: null }]);
      await migrate(client);
      await db.drop();
    });

    test("a newer schema is refused and untouched", async () => {
      const db = await scratch();
      const client = await db.client();
      await migrate(client, [
        ...migrations,
        { number: 99, name: "from the future", sql: "create table keyroll.future (a int)" },
      ]);
      const refused = migrate(client);
      await expect(refused).rejects.toMatchObject({
        code: "newer-schema",
        message: expect.stringContaining(`schema 99, and this Keyroll knows schemas up to ${migrations.length}`),
      });
      expect((await client.query("select count(*)::int as n from keyroll.migrations")).rows).toEqual([
        { n: migrations.length + 1 },
      ]);
      await db.drop();
    });

    test("another build's migration is refused", async () => {
      const db = await scratch();
      const client = await db.client();
      await migrate(client);
      await client.query("update keyroll.migrations set digest = 'other' where number = 1");
      await expect(migrate(client)).rejects.toMatchObject({ code: "newer-schema" });
      await db.drop();
    });
  });

  describe("estate and versions", () => {
    test("an estate is applied once, and what it no longer declares keeps its history", async () => {
      await declare(store, "a", "b");
      const before = await store.estate.latest();
      await declare(store, "a", "b");
      expect((await store.estate.latest())?.number).toBe(before?.number);
      await declare(store, "b", "c");
      expect((await store.credentials.list()).map((row) => row.name)).toEqual(["b", "c"]);
      expect((await store.credentials.list({ includeUndeclared: true })).map((row) => row.name)).toContain("a");
      expect(await store.credentials.get("a")).toMatchObject({ declared: false, owner: "tests" });
    });

    test("numbers are gapless, and a tag makes one version however often it is asked", async () => {
      await declare(store, "numbered");
      const made = await Promise.all(
        Array.from({ length: 12 }, (_, i) =>
          store.versions.create({
            credential: "numbered",
            state: "pending",
            material: "none",
            issueTag: `tag-${i % 4}`,
          }),
        ),
      );
      expect(new Set(made.map((row) => row.id)).size).toBe(4);
      expect((await store.versions.list("numbered")).map((row) => row.id)).toEqual([
        "numbered#1",
        "numbered#2",
        "numbered#3",
        "numbered#4",
      ]);
      await expect(
        store.versions.create({ credential: "nobody", state: "pending", material: "none" }),
      ).rejects.toMatchObject({ code: "not-found" });
    });

    test("facts, states and placements come back as they were", async () => {
      await declare(store, "facts");
      const { id } = await store.versions.create({ credential: "facts", state: "pending", material: "volatile" });
      const facts = { fingerprint: "ab".repeat(32), notAfterMs: 1_900_000_000_123, attributes: { user: "app_a" } };
      await store.versions.update(id, { facts, material: "sealed", state: "current" });
      await store.versions.place(id, "role", { slot: "app_a", attributes: { user: "app_a" } });
      await store.versions.place(id, 'it\'s "quoted"', { slot: "x" });
      await store.versions.place(id, "gone", {});
      await store.versions.place(id, "gone", null);
      expect(await store.versions.get(id)).toMatchObject({
        facts,
        material: "sealed",
        state: "current",
        placements: { role: { slot: "app_a", attributes: { user: "app_a" } }, 'it\'s "quoted"': { slot: "x" } },
        retiredAtMs: null,
      });
      expect((await store.versions.byFingerprint(facts.fingerprint)).map((row) => row.id)).toEqual([id]);
      const retired = await store.versions.update(id, { state: "retired" });
      expect(retired.retiredAtMs).not.toBeNull();
      expect((await store.versions.update(id, { state: "retired" })).retiredAtMs).toBe(retired.retiredAtMs);
    });
  });

  describe("rotations", () => {
    test("one active rotation per credential, however many start at once", async () => {
      await declare(store, "single");
      const results = await Promise.allSettled(
        Array.from({ length: 8 }, () => store.rotations.create(rotation("single"))),
      );
      const made = results.filter((result) => result.status === "fulfilled");
      const refused = results.filter((result) => result.status === "rejected");
      expect(made).toHaveLength(1);
      const id = made[0]!.value.id;
      expect(id).toMatch(/^r-[0-9a-z]{8}$/);
      for (const result of refused) {
        expect(result.reason).toBeInstanceOf(AlreadyRotating);
        expect(result.reason).toMatchObject({ rotation: id, next: `follow it with: keyroll run watch ${id}` });
      }
      await store.rotations.update(id, { status: "done" });
      expect((await store.rotations.create(rotation("single"))).id).not.toBe(id);
    });

    test("the refusal does not spoil the caller's transaction", async () => {
      await declare(store, "kept");
      await store.rotations.create(rotation("kept"));
      await store.transaction(async (tx) => {
        await expect(tx.rotations.create(rotation("kept"))).rejects.toBeInstanceOf(AlreadyRotating);
        await tx.settings.put("still", "works");
      });
      expect(await store.settings.get("still")).toBe("works");
    });

    test("plan, exposure and patches come back; ending frees the lease", async () => {
      await declare(store, "patched");
      const { id } = await store.rotations.create({ ...rotation("patched"), mode: "breach", exposed: ["app -> db"] });
      const lease = await store.acquireLease(id, "w", 60_000);
      const row = await store.rotations.update(id, {
        status: "halted",
        reason: "asked three times",
        attempts: 3,
        toVersion: "patched#2",
      });
      expect(row).toMatchObject({
        plan: { steps: ["one"] },
        exposed: ["app -> db"],
        reason: "asked three times",
        attempts: 3,
        leaseOwner: "w",
      });
      const ended = await store.rotations.update(id, { status: "cancelled" });
      expect(ended).toMatchObject({ leaseOwner: null, leaseFence: lease!.fence, nextWakeAtMs: null });
      expect(ended.endedAtMs).not.toBeNull();
      expect(await store.rotations.active("patched")).toBeUndefined();
    });
  });

  describe("leases", () => {
    async function leased(name: string, ttlMs: number) {
      await declare(store, name);
      const { id } = await store.rotations.create(rotation(name));
      const lease = await store.acquireLease(id, "first", ttlMs);
      if (lease === null) throw new Error("a fresh rotation must be free");
      return { id, lease };
    }

    test("of many who ask at once, one gets it", async () => {
      await declare(store, "race");
      const { id } = await store.rotations.create(rotation("race"));
      const got = await Promise.all(Array.from({ length: 10 }, (_, i) => store.acquireLease(id, `w${i}`, 60_000)));
      expect(got.filter((lease) => lease !== null)).toHaveLength(1);
    });

    test("a take-over raises the fence, and the former holder can write nothing", async () => {
      const { id, lease } = await leased("fenced", 0);
      const second = await store.acquireLease(id, "second", 60_000);
      expect(second?.fence).toBe(lease.fence + 1);
      await expect(store.fenced(lease, (tx) => tx.rotations.update(id, { reason: "late" }))).rejects.toBeInstanceOf(
        FencedOff,
      );
      await expect(store.renewLease(lease, 1_000)).rejects.toBeInstanceOf(FencedOff);
      await store.releaseLease(lease);
      expect(await store.rotations.get(id)).toMatchObject({ leaseOwner: "second", reason: null });
      await store.fenced(second!, (tx) => tx.rotations.update(id, { reason: "in time" }));
      expect((await store.rotations.get(id))?.reason).toBe("in time");
    });

    test("nobody takes over while the holder writes, even when its time is up", async () => {
      const { id, lease } = await leased("writing", 0);
      await store.fenced(lease, async (tx) => {
        expect(await store.acquireLease(id, "second", 60_000)).toBeNull();
        await tx.rotations.update(id, { reason: "whole" });
      });
      expect(await store.acquireLease(id, "second", 60_000)).not.toBeNull();
      expect((await store.rotations.get(id))?.reason).toBe("whole");
    });

    test("many writers and take-overs at random: every write that counted was the newest holder's", async () => {
      await declare(store, "storm");
      const { id } = await store.rotations.create(rotation("storm"));
      await t.sql("create table if not exists public.writes (n serial, fence int)");
      const other = await t.again();
      await Promise.all(
        [store, other].flatMap((from, s) =>
          [0, 1, 2].map(async (w) => {
            for (let i = 0; i < 8; i++) {
              const lease = await from.acquireLease(id, `w${s}${w}`, 1);
              if (lease === null) continue;
              await from
                .fenced(lease, async (tx) => {
                  await tx.settings.put(`storm-${lease.fence}`, 1);
                  await tx.places.put(id, "p", { fence: lease.fence });
                })
                .catch((error: unknown) => expect(error).toBeInstanceOf(FencedOff));
              const memory = await from.places.get(id, "p");
              // Whatever is there was written under a fence that is not older than any write before it.
              if (memory !== undefined)
                expect((memory.memory as { fence: number }).fence).toBeLessThanOrEqual(
                  (await from.rotations.get(id))!.leaseFence,
                );
            }
          }),
        ),
      );
      await other.close();
    });

    test("a holder that freezes inside a transaction loses it, and another goes on", { timeout: 20_000 }, async () => {
      const { id, lease } = await leased("frozen", 0);
      const inside = Promise.withResolvers<void>();
      const frozen = store.fenced(lease, async (tx) => {
        inside.resolve();
        await tx.rotations.update(id, { reason: "from the frozen one" });
        await new Promise((resolve) => setTimeout(resolve, 1_200));
        await tx.rotations.update(id, { reason: "late" });
      });
      const outcome = frozen.then(
        () => "committed",
        (error: unknown) => (error as StoreError).code,
      );
      await inside.promise;
      let second = null;
      while (second === null) {
        second = await store.acquireLease(id, "second", 60_000);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      expect(await outcome).toBe("unavailable");
      expect((await store.rotations.get(id))?.reason).toBeNull();
    });
  });

  describe("waking", () => {
    async function working(handler: (id: string) => Promise<void>, from: Store = store) {
      const errors: unknown[] = [];
      const worker = await from.work(handler, {
        sweepMs: 100,
        retryMs: 100,
        onError: (_rotation, error) => errors.push(error),
      });
      return { worker, errors };
    }
    const gone = async (id: string) => (await store.rotations.get(id))?.status === "done";

    test("a wake-up is sent if and only if the transaction commits", async () => {
      await declare(store, "tx");
      const { id } = await store.rotations.create({ ...rotation("tx"), nextWakeAtMs: null });
      await store.rotations.update(id, { status: "waiting" });
      await expect(
        store.transaction(async (tx) => {
          await tx.enqueue(id);
          throw new Error("changed my mind");
        }),
      ).rejects.toThrow("changed my mind");
      expect((await store.rotations.get(id))?.nextWakeAtMs).toBeNull();
      expect(await t.sql("select 1 from pgboss.job where data->>'rotation' = $1", [id])).toEqual([]);
      await store.enqueue(id);
      expect(await t.sql("select 1 from pgboss.job where data->>'rotation' = $1", [id])).toHaveLength(1);
      await store.rotations.update(id, { status: "done" });
    });

    test("a pass that makes its next appointment is called again, until it ends", async () => {
      await declare(store, "passes");
      const { id } = await store.rotations.create(rotation("passes"));
      let passes = 0;
      const ended = Promise.withResolvers<void>();
      const { worker, errors } = await working(async (woken) => {
        if (woken !== id) return;
        const lease = await store.acquireLease(id, "w", 60_000);
        if (lease === null) return;
        passes++;
        await store.fenced(lease, async (tx) => {
          if (passes < 5) await tx.enqueue(id);
          else await tx.rotations.update(id, { status: "done" });
        });
        await store.releaseLease(lease);
        if (passes === 5) ended.resolve();
      });
      await store.enqueue(id);
      await ended.promise;
      await worker.stop();
      expect(errors).toEqual([]);
      expect(passes).toBe(5);
    });

    test("an appointment in the future is kept, and a replaced one is dropped", async () => {
      await declare(store, "future");
      const { id } = await store.rotations.create({ ...rotation("future"), nextWakeAtMs: null });
      const lease = (await store.acquireLease(id, "w", 60_000))!;
      const now = await store.now();
      await store.fenced(lease, (tx) => tx.enqueue(id, now + 300));
      await store.fenced(lease, (tx) => tx.enqueue(id, now + 1_200));
      await store.releaseLease(lease);
      const wokenAt = Promise.withResolvers<number>();
      const { worker } = await working(async (woken) => {
        if (woken === id) wokenAt.resolve(await store.now());
      });
      expect(await wokenAt.promise).toBeGreaterThanOrEqual(now + 1_200);
      await worker.stop();
      await store.rotations.update(id, { status: "done" });
    });

    test("what comes while a pass runs leads to another pass", async () => {
      await declare(store, "meanwhile");
      const { id } = await store.rotations.create(rotation("meanwhile"));
      let seen: string | null | undefined;
      let passes = 0;
      const ended = Promise.withResolvers<void>();
      const { worker } = await working(async (woken) => {
        if (woken !== id) return;
        const lease = await store.acquireLease(id, "w", 60_000);
        if (lease === null) return;
        passes++;
        seen = (await store.rotations.get(id))?.waitingFor;
        if (passes === 1) {
          // Somebody approves after this pass has looked.
          await store.transaction(async (tx) => {
            await tx.rotations.update(id, { waitingFor: "approved" });
            await tx.enqueue(id);
          });
          await store.fenced(lease, (tx) => tx.enqueue(id, 4_000_000_000_000));
        } else {
          await store.fenced(lease, (tx) => tx.rotations.update(id, { status: "done" }));
          ended.resolve();
        }
        await store.releaseLease(lease);
      });
      await store.enqueue(id);
      await ended.promise;
      await worker.stop();
      expect(seen).toBe("approved");
    });

    test("lost jobs and dead workers lose nothing: the sweep finds them", async () => {
      await declare(store, "lost-job", "dead-worker", "failed-pass");
      const lost = await store.rotations.create(rotation("lost-job"));
      const dead = await store.rotations.create({ ...rotation("dead-worker"), nextWakeAtMs: null });
      await store.acquireLease(dead.id, "killed", 1);
      const failed = await store.rotations.create({ ...rotation("failed-pass"), nextWakeAtMs: null });
      await t.sql("delete from pgboss.job");
      const woken = new Set<string>();
      let failures = 0;
      const all = Promise.withResolvers<void>();
      const { worker, errors } = await working(async (id) => {
        if (id === failed.id && failures++ === 0) {
          const lease = await store.acquireLease(id, "w", 60_000);
          if (lease !== null) await store.releaseLease(lease);
          throw new Error("the pass failed");
        }
        await store.rotations.update(id, { status: "done" });
        woken.add(id);
        if ([lost.id, dead.id, failed.id].every((each) => woken.has(each))) all.resolve();
      });
      await store.enqueue(failed.id);
      await all.promise;
      await worker.stop();
      expect(errors).toEqual([new Error("the pass failed")]);
      expect(await gone(dead.id)).toBe(true);
    });

    test("two workers share the work, and each rotation is handled under one lease at a time", async () => {
      const names = Array.from({ length: 30 }, (_, i) => `many-${i}`);
      await declare(store, ...names);
      const ids = new Set<string>();
      for (const name of names) ids.add((await store.rotations.create(rotation(name))).id);
      const other = await t.again();
      const holding = new Map<string, string>();
      const doneIds = new Set<string>();
      const all = Promise.withResolvers<void>();
      const handler = (from: Store, owner: string) => async (id: string) => {
        if (!ids.has(id)) return;
        const lease = await from.acquireLease(id, owner, 60_000);
        if (lease === null) return;
        expect(holding.get(id)).toBeUndefined();
        holding.set(id, owner);
        await from.fenced(lease, async (tx) => {
          await tx.rotations.update(id, { status: "done" });
          holding.delete(id);
        });
        doneIds.add(id);
        if (doneIds.size === ids.size) all.resolve();
      };
      const a = await working(handler(store, "a"));
      const b = await working(handler(other, "b"), other);
      for (const id of ids) await store.enqueue(id);
      await all.promise;
      await Promise.all([a.worker.stop(), b.worker.stop()]);
      expect([...a.errors, ...b.errors]).toEqual([]);
      await other.close();
    });
  });

  describe("people", () => {
    test("approvals count for one digest, until they are revoked, expire, or the person says no", async () => {
      await declare(store, "approved");
      const { id } = await store.rotations.create(rotation("approved"));
      const base = { rotation: id, phase: "retire" as const, planDigest: "d1", verdict: "approved" as const };
      const first = await store.approvals.add({ ...base, nonce: "n1", person: "alice" });
      expect(await store.approvals.add({ ...base, nonce: "n1", person: "alice" })).toEqual(first);
      await store.approvals.add({ ...base, nonce: "n2", person: "bob" });
      await store.approvals.add({ ...base, nonce: "n3", person: "carol", expiresAtMs: 1 });
      await store.approvals.add({ ...base, nonce: "n4", person: "dave", planDigest: "d2" });
      const people = async () => (await store.approvals.valid(id, "retire", "d1")).map((row) => row.person);
      expect(await people()).toEqual(["alice", "bob"]);
      await store.approvals.add({ ...base, nonce: "n5", person: "bob", verdict: "rejected" });
      expect(await people()).toEqual(["alice"]);
      expect(await store.approvals.revoke(id, { person: "alice" })).toBe(1);
      expect(await people()).toEqual([]);
      expect(await store.approvals.list(id)).toHaveLength(5);
    });

    test("a task is opened once, keeps what the machine saw, and follows a refused one", async () => {
      await declare(store, "tasks");
      const { id } = await store.rotations.create(rotation("tasks"));
      const task = {
        rotation: id,
        credential: "tasks",
        place: "switch",
        action: "activate" as const,
        version: "tasks#2",
        instructions: { title: "Do it" },
      };
      const [one, two] = await Promise.all([store.tasks.open(task), store.tasks.open(task)]);
      expect(one.id).toBe(two.id);
      await store.tasks.update(one.id, { state: "done", person: "alice", checked: { seen: true } });
      expect(await store.tasks.get(one.id)).toMatchObject({ state: "done", checked: { seen: true }, person: "alice" });
      await store.tasks.update(one.id, { state: "refused", note: "wrong device" });
      expect((await store.tasks.open(task)).id).not.toBe(one.id);
      expect((await store.tasks.list({ rotation: id, states: ["refused"] })).map((row) => row.note)).toEqual([
        "wrong device",
      ]);
    });

    test("a failed look keeps the last observation", async () => {
      await store.observations.saw("seen", "p", { entries: [{ mark: "m", enabled: true }] });
      await store.observations.failed("seen", "p", "does not answer");
      expect(await store.observations.get("seen", "p")).toMatchObject({
        observation: { entries: [{ mark: "m" }] },
        error: "does not answer",
      });
      await store.observations.saw("seen", "p", { entries: [] });
      expect(await store.observations.get("seen", "p")).toMatchObject({ observation: { entries: [] }, error: null });
    });
  });

  describe("inventory", () => {
    const item = (i: number, more: Partial<InventoryItem> = {}): InventoryItem => ({
      fingerprint: `f${i % 100}`,
      publicKey: i % 2 === 0 ? `k${i % 50}` : null,
      source: "host",
      path: `/etc/ssl/${i}.pem`,
      kind: "certificate",
      owner: i % 3 === 0 ? "payments" : null,
      notAfterMs: i % 5 === 0 ? null : 1_800_000_000_000 + i * 86_400_000,
      facts: { n: i, subject: `CN=${i}, O="quoted, {braces}", NULL` },
      ...more,
    });

    test("imports in bulk, refreshes, and answers by expiry and by fingerprint", async () => {
      const items = Array.from({ length: 12_000 }, (_, i) => item(i));
      expect(await store.inventory.import(items)).toEqual({ rows: 12_000, added: 12_000 });
      expect(await store.inventory.import([item(7, { owner: "it" }), item(7, { owner: "sre" }), item(20_000)])).toEqual(
        { rows: 3, added: 1 },
      );
      expect(await store.inventory.count()).toBe(12_001);
      const copies = await store.inventory.copies("f7");
      expect(copies).toHaveLength(120);
      expect(copies.find((row) => row.path === "/etc/ssl/7.pem")).toMatchObject({ owner: "sre", facts: { n: 7 } });
      expect(await store.inventory.sharingKey("k8")).toHaveLength(240);
      const soon = await store.inventory.expiring({ beforeMs: 1_800_000_000_000 + 35 * 86_400_000, owner: "payments" });
      expect(soon.map((row) => (row.facts as { n: number }).n)).toEqual([3, 6, 9, 12, 18, 21, 24, 27, 33]);
    });

    test("both questions are answered from an index", async () => {
      await t.sql("analyze keyroll.inventory");
      const plan = async (text: string) => JSON.stringify(await t.sql(`explain (format json) ${text}`));
      expect(
        await plan(
          "select * from keyroll.inventory where owner = 'payments' and not_after < '2100-01-01' order by not_after, id limit 100",
        ),
      ).toContain("inventory_owner_expiry");
      expect(await plan("select * from keyroll.inventory where fingerprint = 'f7'")).toContain("inventory_fingerprint");
    });

    test("what a source no longer shows is forgotten", async () => {
      const since = await store.now();
      await store.inventory.import([item(1, { source: "other" }), item(1)]);
      expect(await store.inventory.forgetUnseen("host", since)).toBe(12_000);
      expect((await store.inventory.list({ source: "host" })).map((row) => row.path)).toEqual(["/etc/ssl/1.pem"]);
    });
  });

  test("the types of schema.ts have the columns of the migrations", async () => {
    const { readFileSync } = await import("node:fs");
    const text = readFileSync(new URL("./schema.ts", import.meta.url), "utf8");
    const inTypes = new Set<string>();
    for (const [, table, body] of text.matchAll(/^ {2}(\w+): \{([\s\S]*?)\}/gm)) {
      for (const [, column] of body!.matchAll(/(?:^|[{;])\s*(\w+):/gm)) inTypes.add(`${table}.${column}`);
    }
    const rows = await t.sql<{ name: string }>(
      "select table_name || '.' || column_name as name from information_schema.columns where table_schema = 'keyroll' and table_name <> 'migrations'",
    );
    expect([...inTypes].sort()).toEqual(rows.map((row) => row.name).sort());
  });

  test("an outside server serves as well, and its key lies in a folder of its own", async () => {
    const { host, user, password } = await connectionOf(t);
    const url = `postgresql://${user}:${String(password)}@localhost/${t.database}?host=${encodeURIComponent(host!)}`;
    const outside = await openStore({ dataDir: t.dataDir, databaseUrl: url });
    await store.settings.put("shared", "yes");
    expect(await outside.settings.get("shared")).toBe("yes");
    expect(outside.where).toMatchObject({ kind: "outside", text: `localhost:5432/${t.database}` });
    expect(JSON.stringify(outside.where)).not.toContain(password);
    expect(outside.dataDir).toBe(`${t.dataDir}/outside-localhost-5432-${t.database}`);
    await outside.close();
  });

  test("an outside server is refused readably", async () => {
    await expect(openStore({ dataDir: t.dataDir, databaseUrl: "mysql://x" })).rejects.toMatchObject({
      code: "misconfigured",
    });
    const closed = openStore({
      dataDir: t.dataDir,
      databaseUrl: "postgres://u:canary-password@127.0.0.1:1/db",
      patienceMs: 200,
    });
    await expect(closed).rejects.toMatchObject({
      code: "unavailable",
      message: expect.stringContaining("127.0.0.1:1/db"),
    });
    await expect(closed).rejects.not.toMatchObject({ message: expect.stringContaining("canary") });
  });
});

async function connectionOf(t: TestStore): Promise<pg.ClientConfig> {
  const { openEmbedded } = await import("./embedded.ts");
  const server = await openEmbedded({ dataDir: t.dataDir });
  const config = server.connection("postgres");
  await server.close();
  return config;
}
