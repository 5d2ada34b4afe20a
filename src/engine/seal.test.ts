import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withStore, type TestStore } from "../../test/support/store.ts";
import { Secret, type Material } from "../connectors/secret.ts";
import { kekFile } from "./kek.ts";
import { decodeMaterial, encodeMaterial, openSealer, type Sealer } from "./seal.ts";

const canary = "CANARY-7f3e9a-päßwörd";
const secret = (value: string): Material => ({ kind: "secret", value: new Secret(value) });
function plain(material: Material | null): unknown {
  if (material === null) return null;
  return material.kind === "secret"
    ? material.value.reveal()
    : [material.privateKey.reveal(), ...material.certificates];
}

describe("sealing", () => {
  let t: TestStore;
  let sealer: Sealer;
  beforeAll(async () => {
    t = await withStore();
    sealer = await openSealer(t.store, { env: {} });
  });
  afterAll(() => t[Symbol.asyncDispose]());

  const seal = (version: string, material: Material, purpose: "minted" | "material" = "material") =>
    t.store.transaction((tx) => sealer.seal(tx, { owner: "db", version, purpose }, material));
  const open = (version: string, from = sealer) => from.open(t.store, { owner: "db", version, purpose: "material" });

  test("what goes in comes out, in another process too; what is destroyed is gone", async () => {
    await seal("db#1", secret(canary));
    await seal("db#2", {
      kind: "key",
      privateKey: new Secret(randomBytes(100)),
      certificates: ["-----A-----\n", "-----B-----\n"],
    });
    expect(plain(await open("db#1"))).toBe(canary);
    const other = await openSealer(await t.again(), { env: {} });
    expect(plain(await open("db#1", other))).toBe(canary);
    expect(plain(await open("db#2", other))).toEqual(plain(await open("db#2")));
    expect(await open("db#3")).toBeNull();
    expect(await t.store.transaction((tx) => sealer.destroy(tx, { owner: "db", version: "db#2" }))).toBe(1);
    expect(await open("db#2")).toBeNull();
  });

  test("sealing again is nothing new, and sealed material is never overwritten", async () => {
    await seal("db#10", secret("first"));
    await seal("db#10", secret("first"));
    await expect(seal("db#10", secret("other"))).rejects.toMatchObject({ code: "tampered" });
    await seal("db#10", secret("other"), "minted");
    expect(plain(await open("db#10"))).toBe("first");
  });

  test("a transaction that fails seals nothing", async () => {
    const failed = t.store.transaction(async (tx) => {
      await sealer.seal(tx, { owner: "db", version: "db#11", purpose: "material" }, secret("never"));
      throw new Error("crash");
    });
    await expect(failed).rejects.toThrow("crash");
    expect(await open("db#11")).toBeNull();
  });

  test("no table holds the canary, in any encoding", async () => {
    await seal("db#12", secret(canary));
    const tables = await t.sql<{ name: string }>(
      "select table_schema || '.' || table_name as name from information_schema.tables where table_schema in ('keyroll', 'pgboss')",
    );
    expect(tables.length).toBeGreaterThan(15);
    const bytes = Buffer.from(canary, "utf8");
    const shapes = [
      canary,
      bytes.toString("hex"),
      bytes.toString("base64").slice(0, 20),
      JSON.stringify(canary).slice(1, -1),
    ];
    for (const { name } of tables) {
      const dump = (await t.sql<{ row: string }>(`select t::text as row from ${name} t`))
        .map((row) => row.row)
        .join("\n");
      for (const shape of shapes) expect(dump.includes(shape), `${name} holds the canary`).toBe(false);
    }
  });

  test("a single changed bit, or a record moved to another row, does not open", async () => {
    await seal("db#20", secret("a"));
    await seal("db#21", secret("b"));
    const tamper = async (change: string) => {
      await t.sql("create table if not exists public.kept as select * from keyroll.sealed");
      await t.sql(`update keyroll.sealed s set ${change} where version = 'db#20'`);
      const opened = open("db#20");
      await expect(opened, change).rejects.toMatchObject({ code: expect.stringMatching(/tampered|newer-schema/) });
      await expect(opened).rejects.toMatchObject({ message: expect.stringContaining("db#20") });
      await t.sql(
        "update keyroll.sealed s set id = k.id, blob = k.blob, wrapped_key = k.wrapped_key from public.kept k where s.version = 'db#20' and k.version = 'db#20'",
      );
      expect(plain(await open("db#20"))).toBe("a");
    };
    for (const column of ["blob", "wrapped_key"]) {
      for (const at of [0, 1, 13, 29, 30])
        await tamper(`${column} = set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`);
    }
    await tamper("blob = substring(blob for 28)");
    await tamper("blob = ''");
    await tamper("id = id || 'x'");
    await tamper("(blob, wrapped_key) = (select blob, wrapped_key from keyroll.sealed where version = 'db#21')");
  });

  test("equal secrets have equal fingerprints, which another installation does not share", async () => {
    const a = sealer.fingerprint(new Secret("same"));
    expect(a).toMatch(/^[0-9a-f]{64}$/);
    expect(sealer.fingerprint(new Secret("same"))).toBe(a);
    expect(sealer.fingerprint(new Secret("other"))).not.toBe(a);
    await using elsewhere = await withStore();
    expect((await openSealer(elsewhere.store, { env: {} })).fingerprint(new Secret("same"))).not.toBe(a);
  });

  test("material of every size and content survives its bytes", () => {
    const bytes = fc.uint8Array({ minLength: 0, maxLength: 300 });
    fc.assert(
      fc.property(bytes, fc.array(fc.string({ unit: "binary" }), { maxLength: 4 }), (value, certificates) => {
        const one = decodeMaterial(encodeMaterial({ kind: "secret", value: new Secret(value) }));
        expect(one.kind === "secret" && one.value.bytes().equals(Buffer.from(value))).toBe(true);
        const wellFormed = certificates.map((text) => text.toWellFormed());
        const two = decodeMaterial(
          encodeMaterial({ kind: "key", privateKey: new Secret(value), certificates: wellFormed }),
        );
        expect(two.kind === "key" && two.privateKey.bytes().equals(Buffer.from(value))).toBe(true);
        expect(two.kind === "key" && two.certificates).toEqual(wellFormed);
      }),
    );
  });
});

describe("the key-encryption key", () => {
  test("is made once, in a file that nobody else can read, by however many processes", async () => {
    await using t = await withStore();
    const others = [await t.again(), await t.again()];
    await Promise.all([t.store, ...others].map((store) => openSealer(store, { env: {} })));
    const file = kekFile(t.store.dataDir);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const key = readFileSync(file, "utf8").trim();
    const dump = await t.sql<{ row: string }>(
      "select t::text as row from keyroll.settings t union all select s::text from keyroll.sealed s",
    );
    expect(dump.map((row) => row.row).join("\n")).not.toContain(key);
  });

  test("a file that others can read is refused", async () => {
    await using t = await withStore();
    await openSealer(t.store, { env: {} });
    chmodSync(kekFile(t.store.dataDir), 0o640);
    await expect(openSealer(t.store, { env: {} })).rejects.toMatchObject({
      code: "permission",
      message: expect.stringContaining("mode 0640"),
      next: expect.stringContaining("chmod 600"),
    });
  });

  test("from the environment it needs no file, and a wrong one is named", async () => {
    await using t = await withStore();
    const env = { KEYROLL_KEK: randomBytes(32).toString("base64") };
    const sealer = await openSealer(t.store, { env });
    await t.store.transaction((tx) =>
      sealer.seal(tx, { owner: "a", version: "a#1", purpose: "material" }, secret("x")),
    );
    expect(existsSync(kekFile(t.store.dataDir))).toBe(false);

    await expect(
      openSealer(t.store, { env: { KEYROLL_KEK: randomBytes(32).toString("base64") } }),
    ).rejects.toMatchObject({
      code: "wrong-kek",
      message: expect.stringContaining("KEYROLL_KEK"),
    });
    // A second machine without a key must not make one of its own.
    await expect(openSealer(t.store, { env: {} })).rejects.toMatchObject({
      code: "wrong-kek",
      message: expect.stringContaining("there is none"),
    });
    expect(existsSync(kekFile(t.store.dataDir))).toBe(false);

    const file = `${t.store.dataDir}/given`;
    writeFileSync(file, env.KEYROLL_KEK, { mode: 0o600 });
    const byFile = await openSealer(t.store, { env: { KEYROLL_KEK_FILE: file } });
    expect(plain(await byFile.open(t.store, { owner: "a", version: "a#1", purpose: "material" }))).toBe("x");
    rmSync(file);
    await expect(openSealer(t.store, { env: { KEYROLL_KEK_FILE: file } })).rejects.toMatchObject({
      code: "misconfigured",
    });
  });

  test.each([
    "",
    "short",
    `${randomBytes(32).toString("base64")}!`,
    randomBytes(31).toString("base64"),
    randomBytes(33).toString("base64"),
  ])("%j is not a key", async (value) => {
    await using t = await withStore();
    const file = `${t.store.dataDir}/given`;
    writeFileSync(file, value, { mode: 0o600 });
    await expect(openSealer(t.store, { env: { KEYROLL_KEK_FILE: file } })).rejects.toMatchObject({
      code: "misconfigured",
    });
  });
});
