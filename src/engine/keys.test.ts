import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { withStore, type TestStore } from "../../test/support/store.ts";
import { Secret } from "../connectors/secret.ts";
import { kekFile, nextKekFile } from "./kek.ts";
import { kekStatus, rollKek } from "./keys.ts";
import { openSealer, type Sealer } from "./seal.ts";

const count = 25;
const label = (i: number) => ({ owner: "c", version: `c#${i}`, purpose: "material" as const });

async function fill(t: TestStore): Promise<Sealer> {
  const sealer = await openSealer(t.store, { env: {} });
  await t.store.transaction(async (tx) => {
    for (let i = 0; i < count; i++)
      await sealer.seal(tx, label(i), { kind: "secret", value: new Secret(`value ${i}`) });
  });
  return sealer;
}
async function expectWhole(t: TestStore, sealer: Sealer): Promise<void> {
  for (let i = 0; i < count; i++) {
    const material = await sealer.open(t.store, label(i));
    expect(material?.kind === "secret" && material.value.reveal()).toBe(`value ${i}`);
  }
}

describe("rolling the key-encryption key", () => {
  test("wraps everything again, under the eyes of a sealer that was open before", async () => {
    await using t = await withStore();
    const sealer = await fill(t);
    const before = await kekStatus(t.store, { env: {} });
    const oldKey = readFileSync(kekFile(t.store.dataDir), "utf8");
    const progress: number[] = [];
    const switched: string[][] = [];
    const result = await rollKek(t.store, {
      env: {},
      batch: 10,
      onProgress: ({ done, total }) => progress.push(done / total),
      onSwitch: async (_tx, from, to) => void switched.push([from, to]),
    });
    expect(result).toEqual({
      from: before.current,
      to: expect.not.stringMatching(before.current),
      rewrapped: count + 3,
      next: null,
    });
    expect(switched).toEqual([[before.current, result.to]]);
    expect(progress.at(-1)).toBe(1);
    expect(await kekStatus(t.store, { env: {} })).toEqual({
      current: result.to,
      origin: kekFile(t.store.dataDir),
      previous: null,
      recordsByKek: { [result.to]: count + 3 },
    });
    expect(readFileSync(kekFile(t.store.dataDir), "utf8")).not.toBe(oldKey);
    expect(existsSync(nextKekFile(t.store.dataDir))).toBe(false);
    await expectWhole(t, sealer);
    // It seals with the new key too, though it was opened with the old one.
    await t.store.transaction((tx) => sealer.seal(tx, label(99), { kind: "secret", value: new Secret("later") }));
    expect((await kekStatus(t.store, { env: {} })).recordsByKek).toEqual({ [result.to]: count + 4 });
  });

  test("a record that is being sealed while the key changes is not left behind", async () => {
    await using t = await withStore();
    const sealer = await fill(t);
    const sealed = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const slow = t.store.transaction(async (tx) => {
      await sealer.seal(tx, label(50), { kind: "secret", value: new Secret("slow") });
      sealed.resolve();
      await go.promise;
    });
    await sealed.promise;
    const rolling = rollKek(t.store, { env: {} });
    go.resolve();
    await slow;
    const { to } = await rolling;
    expect((await kekStatus(t.store, { env: {} })).recordsByKek).toEqual({ [to]: count + 4 });
  });

  test.each([
    ["kek.next-written"],
    ["kek.switched"],
    ["kek.batch"],
    ["kek.batch:3"],
    ["kek.rewrapped"],
    ["kek.settled"],
    ["kek.done"],
  ])("killed at %s, nothing is lost and the next run ends it", async (point) => {
    await using t = await withStore();
    await fill(t);
    const { current: old } = await kekStatus(t.store, { env: {} });
    const script = `
        const { openStore } = await import(${JSON.stringify(new URL("../store/open.ts", import.meta.url).href)});
        const { rollKek } = await import(${JSON.stringify(new URL("./keys.ts", import.meta.url).href)});
        const store = await openStore({ dataDir: process.argv[1], databaseUrl: null, database: process.argv[2] });
        await rollKek(store, { batch: 5 });
        process.exit(7);`;
    const { KEYROLL_KEK: _kek, ...env } = process.env;
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", script, t.dataDir, t.database], {
      env: { ...env, KEYROLL_CRASH_AT: point },
      encoding: "utf8",
    });
    expect([run.signal, run.stderr]).toEqual(["SIGKILL", ""]);

    // Everything opens right after the crash, and new records can be sealed.
    const sealer = await openSealer(t.store, { env: {} });
    await expectWhole(t, sealer);
    await t.store.transaction((tx) => sealer.seal(tx, label(60), { kind: "secret", value: new Secret("between") }));

    const finished =
      (await kekStatus(t.store, { env: {} })).previous === null &&
      (await kekStatus(t.store, { env: {} })).current !== old;
    if (!finished) await rollKek(t.store, { env: {} });
    const after = await kekStatus(t.store, { env: {} });
    expect(after.current).not.toBe(old);
    expect(after).toMatchObject({ previous: null, recordsByKek: { [after.current]: count + 4 } });
    expect(existsSync(nextKekFile(t.store.dataDir))).toBe(false);
    await expectWhole(t, await openSealer(t.store, { env: {} }));
  });

  test("a key from the environment is rolled with the next one beside it", async () => {
    await using t = await withStore();
    const [first, second] = [randomBytes(32).toString("base64"), randomBytes(32).toString("base64")];
    const sealer = await openSealer(t.store, { env: { KEYROLL_KEK: first } });
    await t.store.transaction((tx) => sealer.seal(tx, label(1), { kind: "secret", value: new Secret("v") }));
    await expect(rollKek(t.store, { env: { KEYROLL_KEK: first } })).rejects.toMatchObject({
      code: "misconfigured",
      next: expect.stringContaining("KEYROLL_KEK_NEXT"),
    });
    await expect(rollKek(t.store, { env: { KEYROLL_KEK: first, KEYROLL_KEK_NEXT: first } })).rejects.toMatchObject({
      code: "misconfigured",
    });
    const result = await rollKek(t.store, { env: { KEYROLL_KEK: first, KEYROLL_KEK_NEXT: second } });
    expect(result.next).toContain("set KEYROLL_KEK to the new key");
    const after = await openSealer(t.store, { env: { KEYROLL_KEK: second } });
    const material = await after.open(t.store, label(1));
    expect(material?.kind === "secret" && material.value.reveal()).toBe("v");
    await expect(openSealer(t.store, { env: { KEYROLL_KEK: first } })).rejects.toMatchObject({ code: "wrong-kek" });
  });
});
