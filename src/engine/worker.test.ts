import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { CredentialDecl } from "../core/place.ts";
import { plainTraits } from "../core/place.ts";
import type { RotationRow } from "../store/store.ts";
import { credential } from "../../test/support/declare.ts";
import { openBench, simple, SimulatedCrash } from "../../test/support/engine.ts";
import type { Bench } from "../../test/support/engine.ts";
import { withStore } from "../../test/support/store.ts";
import type { TestStore } from "../../test/support/store.ts";
import { startWorker, workOn } from "./worker.ts";

let db: TestStore;
let bench: Bench;
beforeAll(async () => {
  db = await withStore();
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

/** Resolves with the row when it has ended or asks a person. The queue runs by real time, so this is a poll with a bound in tries. */
async function ended(id: string): Promise<RotationRow> {
  for (let i = 0; i < 400; i++) {
    const row = (await db.store.rotations.get(id))!;
    if (row.endedAtMs !== null || row.status === "halted") return row;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`rotation ${id} did not end`);
}

describe("workers", () => {
  test("a rotation that is started is found by a worker and worked on to its end; watching shows it", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const worker = await startWorker(bench.deps, { concurrency: 2, sweepMs: 200 });
    try {
      const started = await bench.start(bench.name);
      const row = await ended(started.id);
      expect(row.status, row.reason ?? "").toBe("done");
      const seen: string[] = [];
      for await (const event of bench.rotations.watch(started.id, { pollMs: 10 })) seen.push(event.kind);
      expect(seen.filter((kind) => kind === "intent")).toHaveLength(6);
      expect(seen.at(-1)).toBe("rotation");
      const { events } = await bench.rotations.show(started.id);
      expect(seen).toEqual(events.map((event) => event.kind));
    } finally {
      await worker.stop();
    }
    expect(bench.refused).toEqual([]);
  });

  test("a rotation that a dead worker left is taken over when its lease has run out", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    bench.crashAt = { name: "after-effect:activate", pass: 1 };
    await expect(bench.run(started.id)).rejects.toThrow(SimulatedCrash);
    expect(await workOn(bench.deps, "too-early", started.id)).toBe("busy");
    await bench.expireLease(started.id);
    const worker = await startWorker(bench.deps, { sweepMs: 100 });
    try {
      expect((await ended(started.id)).status).toBe("done");
    } finally {
      await worker.stop();
    }
    expect(bench.refused).toEqual([]);
  });

  test("stopping lets the effect that was sent come to its end, writes it down, and gives the lease back", async () => {
    bench = await openBench({ db });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const stopping = new AbortController();
    const check = bench.world.onCall;
    bench.world.onCall = (call) => {
      void check?.(call);
      if (call.verb === "activate") stopping.abort(new Error("stop"));
    };
    expect(await workOn(bench.deps, "w1", started.id, stopping.signal)).toBe("yield");
    expect(await db.store.journal.openIntents(started.id)).toEqual([]);
    expect(bench.world.place("env").currentValue()).not.toBe("old-password");
    const row = (await db.store.rotations.get(started.id))!;
    expect(row.leaseOwner).toBeNull();
    expect(row.nextWakeAtMs).not.toBeNull();
    expect((await bench.run(started.id, { worker: "w2" })).status).toBe("done");
  });

  test("a mistake in Keyroll itself is tried a bounded number of times, then a person is asked", async () => {
    bench = await openBench({ db, options: { maxAttempts: 1 } });
    await bench.apply(simple(bench));
    const started = await bench.start(bench.name);
    const broken = {
      ...bench.deps,
      nowMs: () => db.store.now(),
      crashPoint: () => {
        throw new TypeError("a secret could stand here");
      },
    };
    const worker = await startWorker(broken, { sweepMs: 100 });
    try {
      const row = await ended(started.id);
      expect(row.status).toBe("halted");
      expect(row.reason).toContain("TypeError");
      expect(row.reason).not.toContain("secret");
    } finally {
      await worker.stop();
    }
  });
});

describe("a holder that is another credential", () => {
  test("rolling the CA rolls what it signed, before the old one is distrusted", async () => {
    bench = await openBench({ db });
    const ca = `${bench.name}-ca`;
    const leaf = `${bench.name}-leaf`;
    const caDecl: CredentialDecl = credential(
      ca,
      [
        bench.world.verifier("bundle", { values: ["old-ca"] }),
        bench.world.holder("vault", [], { values: ["old-ca"] }),
        {
          name: "leaves",
          type: "credential",
          credential: leaf,
          traits: { ...plainTraits, roles: ["holder"], storeCapacity: 1, staging: false, readable: false },
          presentsTo: ["bundle"],
          config: {},
        },
      ],
      { issuer: bench.world.issuer() },
    );
    const leafDecl: CredentialDecl = credential(leaf, [bench.world.holder("server", [], { values: ["old-leaf"] })], {
      issuer: { ...bench.world.issuer(), ca },
    });
    await bench.apply(caDecl, leafDecl);
    // The estate as it was found: a CA, and a leaf that it signed.
    const found = async (name: string, value: string, signedBy?: string): Promise<string> => {
      const { Secret } = await import("../connectors/secret.ts");
      const secret = new Secret(value);
      const fingerprint = bench.deps.sealer.fingerprint(secret);
      return await db.store.transaction(async (tx) => {
        const row = await tx.versions.create({
          credential: name,
          facts: { fingerprint, ...(signedBy === undefined ? {} : { signedBy }) },
          state: "current",
          material: "sealed",
        });
        await bench.deps.sealer.seal(
          tx,
          { owner: name, version: row.id, purpose: "material" },
          { kind: "secret", value: secret },
        );
        return fingerprint;
      });
    };
    const oldCa = await found(ca, "old-ca");
    await found(leaf, "old-leaf", oldCa);
    await bench.rotations.observe(leaf);
    bench.world.signLeaves = true;

    const started = await bench.start(ca);
    const order: string[] = [];
    const check = bench.world.onCall;
    bench.world.onCall = (call) => {
      void check?.(call);
      if (call.verb === "activate" || call.verb === "remove" || call.verb === "add")
        order.push(`${call.verb} ${call.place}`);
    };
    let row = started;
    for (let i = 0; i < 20 && row.endedAtMs === null; i++) {
      row = await bench.run(started.id, { turns: 1 }).catch(async () => (await db.store.rotations.get(started.id))!);
      const child = await db.store.rotations.active(leaf);
      if (child !== undefined) await bench.run(child.id);
    }
    expect(row.status, row.reason ?? row.waitingFor ?? "").toBe("done");
    expect(order.indexOf("add bundle")).toBeLessThan(order.indexOf("activate server"));
    expect(order.indexOf("activate server")).toBeLessThan(order.indexOf("remove bundle"));
    const leaves = await db.store.versions.list(leaf);
    const cas = await db.store.versions.list(ca);
    expect(leaves.at(-1)!.facts!.signedBy).toBe(cas.at(-1)!.facts!.fingerprint);
    const children = await db.store.rotations.list({ credential: leaf });
    expect(children.map(({ status }) => status)).toEqual(["done"]);
  });
});
