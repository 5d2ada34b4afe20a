import { readFileSync, rmSync, writeFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withStore, type TestStore } from "../../test/support/store.ts";
import type { Json } from "../store/store.ts";
import {
  canonical,
  checkpointFile,
  openJournal,
  parseAnchor,
  verifyExport,
  type Anchor,
  type Journal,
  type JournalRecord,
} from "./journal.ts";
import { openSealer } from "./seal.ts";

const note = (text: string): JournalRecord => ({ kind: "note", actor: "person:alice", payload: { text } });

async function fresh(records = 0): Promise<{ t: TestStore; journal: Journal }> {
  const t = await withStore();
  const journal = openJournal(t.store, await openSealer(t.store, { env: {} }));
  for (let i = 1; i <= records; i++) await journal.note(note(`record ${i}`));
  return { t, journal };
}
/** As a person with every right on the database, and without the key. */
const behindItsBack = (t: TestStore, ...statements: readonly string[]) =>
  t.sql(["set session_replication_role = replica", ...statements].join("; "));

describe("the journal", () => {
  let t: TestStore;
  let journal: Journal;
  beforeAll(async () => {
    ({ t, journal } = await fresh());
  });
  afterAll(() => t[Symbol.asyncDispose]());

  test("an empty one is whole", async () => {
    expect(await journal.verify()).toEqual({ ok: true, records: 0, head: "0".repeat(64) });
  });

  test("numbers have no gaps, and the chain is one line, with several writers at once", async () => {
    const other = await t.again();
    const second = openJournal(other, await openSealer(other, { env: {} }));
    await Promise.all(
      Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? journal : second).note(note(`at once ${i}`))),
    );
    // A transaction that fails takes its number back.
    await expect(
      t.store.transaction(async (tx) => {
        await journal.append(tx, [note("never was")]);
        throw new Error("crash");
      }),
    ).rejects.toThrow("crash");
    await t.store.transaction((tx) => journal.append(tx, [note("one"), note("two"), note("three")]));
    expect((await t.store.journal.page(0, 100)).map((row) => row.seq)).toEqual(
      Array.from({ length: 43 }, (_, i) => i + 1),
    );
    expect(await journal.verify()).toMatchObject({ ok: true, records: 43 });
  });

  test("the table refuses to be changed", async () => {
    await expect(t.sql("update keyroll.journal set actor = 'person:mallory'")).rejects.toThrow("append-only");
    await expect(t.sql("delete from keyroll.journal where seq = 1")).rejects.toThrow("append-only");
    await expect(t.sql("truncate keyroll.journal")).rejects.toThrow("append-only");
  });

  test("an effect has an intent and one outcome; intents without one are found", async () => {
    const record = { actor: "worker:1", rotation: "r-effects", credential: "c", payload: { action: "trust" } };
    const [first, second] = await t.store.transaction(
      async (tx) => [await journal.intent(tx, record), await journal.intent(tx, record)] as const,
    );
    expect((await journal.openIntents(t.store, "r-effects")).map((row) => row.effect)).toEqual([first, second]);
    await t.store.transaction((tx) => journal.outcome(tx, first, "done", record));
    expect((await journal.openIntents(t.store, "r-effects")).map((row) => row.effect)).toEqual([second]);
    await expect(t.store.transaction((tx) => journal.outcome(tx, first, "failed", record))).rejects.toThrow(
      /journal_outcome/,
    );
    expect(await t.store.journal.list({ rotation: "r-effects", kinds: ["outcome"] })).toMatchObject([
      { effect: first, payload: { outcome: "done", detail: { action: "trust" } } },
    ]);
    expect(await journal.verify()).toMatchObject({ ok: true });
  });

  test("every payload that can be written verifies", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.jsonValue({ stringUnit: "binary" }), { minLength: 1, maxLength: 20 }),
        async (payloads) => {
          await t.store.transaction((tx) =>
            journal.append(
              tx,
              payloads.map((payload) => ({ ...note(""), payload: payload as Json })),
            ),
          );
        },
      ),
      { numRuns: 20 },
    );
    await journal.note({
      ...note(""),
      payload: { "nul \u0000": "\ud800", big: 1e300, tiny: 5e-324, gone: undefined, "": [null, -0] },
    });
    expect(await journal.verify()).toMatchObject({ ok: true });
  });

  test("canonical JSON does not depend on the order of keys", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
        const turned = Object.fromEntries(Object.entries(value).reverse());
        expect(canonical(turned as Json)).toBe(canonical(value as Json));
        expect(JSON.parse(canonical(value as Json))).toEqual(JSON.parse(JSON.stringify(value)));
      }),
    );
  });
});

describe("tampering is found, and where", () => {
  const cases: readonly [string, readonly string[], object][] = [
    [
      "a payload is changed",
      [`update keyroll.journal set payload = '{"text": "nothing"}' where seq = 5`],
      { seq: 5, problem: "changed" },
    ],
    [
      "an actor is changed",
      ["update keyroll.journal set actor = 'person:bob' where seq = 5"],
      { seq: 5, problem: "changed" },
    ],
    [
      "a time is changed",
      ["update keyroll.journal set at = at - interval '1 day' where seq = 5"],
      { seq: 5, problem: "changed" },
    ],
    [
      "an effect is added to it",
      ["update keyroll.journal set effect = 'x' where seq = 5"],
      { seq: 5, problem: "changed" },
    ],
    ["a record is deleted", ["delete from keyroll.journal where seq = 4"], { seq: 4, problem: "missing" }],
    [
      "a record is deleted and the rest moved up",
      [
        "delete from keyroll.journal where seq = 4",
        "update keyroll.journal set seq = seq - 1000 where seq > 4",
        "update keyroll.journal set seq = seq + 999 where seq < 0",
      ],
      { seq: 4, problem: "changed" },
    ],
    [
      "two records change places",
      [
        "update keyroll.journal set seq = -1 where seq = 6",
        "update keyroll.journal set seq = 6 where seq = 7",
        "update keyroll.journal set seq = 7 where seq = -1",
      ],
      { seq: 6, problem: "changed" },
    ],
    [
      "a record is inserted",
      [
        "update keyroll.journal set seq = seq + 1000 where seq >= 8",
        "update keyroll.journal set seq = seq - 999 where seq >= 1000",
        "insert into keyroll.journal select 8, at, actor, rotation, credential, kind, effect, payload, hash, prev_hash from keyroll.journal where seq = 7",
      ],
      { seq: 8, problem: "changed" },
    ],
    [
      "a copy is appended",
      [
        "insert into keyroll.journal select 11, at, actor, rotation, credential, kind, effect, payload, hash, hash from keyroll.journal where seq = 10",
        "update keyroll.journal_head set seq = 11",
      ],
      { seq: 11, problem: "changed" },
    ],
    ["the end is cut off", ["delete from keyroll.journal where seq > 7"], { seq: 8, problem: "truncated" }],
    ["everything is cut off", ["delete from keyroll.journal"], { seq: 1, problem: "truncated" }],
    [
      "the end is cut off, and the head set back to fit",
      [
        "delete from keyroll.journal where seq > 7",
        "update keyroll.journal_head set (seq, hash) = (select seq, hash from keyroll.journal where seq = 7)",
      ],
      { seq: 8, problem: "truncated", detail: expect.stringContaining("checkpoint") },
    ],
    [
      "the head is set back",
      ["update keyroll.journal_head set (seq, hash) = (select seq, hash from keyroll.journal where seq = 7)"],
      { seq: 7, problem: "replaced" },
    ],
  ];

  test.each(cases)("%s", async (_name, statements, found) => {
    const { t, journal } = await fresh(10);
    await journal.checkpoint();
    await behindItsBack(t, ...statements);
    expect(await journal.verify()).toMatchObject({ ok: false, ...found });
    await t[Symbol.asyncDispose]();
  });

  test("a journal that was cut off and written on is not the one that the checkpoint saw, and the checkpoint stays", async () => {
    const { t, journal } = await fresh(10);
    await journal.checkpoint();
    await behindItsBack(
      t,
      "delete from keyroll.journal where seq > 7",
      "update keyroll.journal_head set (seq, hash) = (select seq, hash from keyroll.journal where seq = 7)",
    );
    for (let i = 0; i < 6; i++) await journal.note(note(`after the cut ${i}`));
    await journal.checkpoint();
    expect(await journal.verify()).toMatchObject({ ok: false, seq: 10, problem: "replaced" });
    await t[Symbol.asyncDispose]();
  });

  test("an exported anchor sees a cut that the checkpoint file no longer shows", async () => {
    const { t, journal } = await fresh(10);
    const anchor = parseAnchor(JSON.stringify(await journal.anchor()), "anchor.json");
    await behindItsBack(
      t,
      "delete from keyroll.journal where seq > 7",
      "update keyroll.journal_head set (seq, hash) = (select seq, hash from keyroll.journal where seq = 7)",
    );
    rmSync(checkpointFile(t.store.dataDir), { force: true });
    expect(await journal.verify()).toMatchObject({ ok: true, records: 7 });
    expect(await journal.verify([anchor])).toMatchObject({
      ok: false,
      seq: 8,
      problem: "truncated",
      detail: expect.stringContaining("anchor"),
    });
    await t[Symbol.asyncDispose]();
  });

  test("a forged anchor or checkpoint is named", async () => {
    const { t, journal } = await fresh(3);
    const anchor = await journal.anchor();
    const forged: Anchor = { ...anchor, seq: 2 };
    expect(await journal.verify([anchor])).toMatchObject({ ok: true });
    expect(await journal.verify([forged])).toMatchObject({ ok: false, problem: "bad-anchor" });
    const other = await fresh(3);
    expect(await journal.verify([await other.journal.anchor()])).toMatchObject({ ok: false, problem: "bad-anchor" });
    await other.t[Symbol.asyncDispose]();
    writeFileSync(checkpointFile(t.store.dataDir), JSON.stringify(forged));
    expect(await journal.verify()).toMatchObject({ ok: false, problem: "bad-anchor" });
    writeFileSync(checkpointFile(t.store.dataDir), "{");
    await expect(journal.verify()).rejects.toMatchObject({
      code: "tampered",
      message: expect.stringContaining("journal.checkpoint"),
    });
    await t[Symbol.asyncDispose]();
  });
});

describe("an export", () => {
  let t: TestStore;
  let journal: Journal;
  let lines: string[];
  beforeAll(async () => {
    ({ t, journal } = await fresh(10));
    lines = [];
    for await (const line of journal.export()) lines.push(line);
  });
  afterAll(() => t[Symbol.asyncDispose]());

  test("verifies without the database and without a secret", async () => {
    const anchor = await journal.anchor();
    expect(lines).toHaveLength(12);
    const text = lines.join("");
    const checked = await verifyExport(text.split("\n"), { publicKey: anchor.publicKey, anchors: [anchor] });
    expect(checked).toMatchObject({ ok: true, records: 10, head: anchor.hash, publicKey: anchor.publicKey });
    expect(text).not.toContain(readFileSync(`${t.store.dataDir}/kek`, "utf8").trim());
  });

  test.each<[string, (all: string[]) => string[]]>([
    ["a line is changed", (all) => all.with(5, all[5]!.replace("record 5", "record X"))],
    ["a line is missing", (all) => all.toSpliced(5, 1)],
    ["lines change places", (all) => all.with(5, all[6]!).with(6, all[5]!)],
    ["a line is doubled", (all) => all.toSpliced(5, 0, all[5]!)],
    ["the last record is missing", (all) => all.toSpliced(10, 1)],
    ["the end is missing", (all) => all.slice(0, 8)],
    ["the trailer is changed", (all) => all.with(11, all[11]!.replace('"seq":10', '"seq":9'))],
    ["it is empty", () => []],
    ["it is something else", () => ["{}", "[]", "hello"]],
  ])("%s: refused", async (_name, change) => {
    expect(await verifyExport(change(lines))).toMatchObject({ ok: false, line: expect.any(Number) });
  });

  test("of another installation, or from before an anchor: refused", async () => {
    const other = await fresh(1);
    const theirs = await other.journal.anchor();
    expect(await verifyExport(lines, { publicKey: theirs.publicKey })).toMatchObject({
      ok: false,
      detail: expect.stringContaining("another installation"),
    });
    await journal.note(note("later"));
    expect(await verifyExport(lines, { anchors: [await journal.anchor()] })).toMatchObject({
      ok: false,
      detail: expect.stringContaining("record 11"),
    });
    await other.t[Symbol.asyncDispose]();
  });
});
