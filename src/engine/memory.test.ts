import { expect, test } from "vitest";
import { holder, verifier } from "../../test/support/declare.ts";
import type { Observation } from "../core/place.ts";
import { afterChange, afterLook, noPlaceNotes, readNotes } from "./memory.ts";

const sees = (versions: readonly string[], current?: string | null): Observation => ({
  entries: versions.map((id) => ({ mark: `mark of ${id}`, version: id, enabled: true })),
  ...(current === undefined ? {} : { current: current === null ? null : `mark of ${current}` }),
});

test("a verifier with two changes under way counts as accepting only what every state of it accepts", () => {
  const db = verifier("db", { propagationMs: 1000 });
  const added = afterChange(db, noPlaceNotes, sees(["a#1"]), 0, "a#2", null);
  expect(added).toMatchObject({ beforeAll: ["a#1"], beforeAny: ["a#1"], presented: [] });
  const again = afterChange(db, added, sees(["a#1", "a#2"]), 500, "a#3", null);
  expect(again).toMatchObject({ beforeAll: ["a#1"], beforeAny: ["a#1", "a#2"] });
  // When the first has settled, both that were there count.
  const settled = afterChange(db, added, sees(["a#1", "a#2"]), 1000, "a#3", null);
  expect(settled).toMatchObject({ beforeAll: ["a#1", "a#2"], beforeAny: ["a#1", "a#2"] });
});

test("what was removed a moment before another change may still be accepted by a copy, and counts for nobody", () => {
  const db = verifier("db", { propagationMs: 1000 });
  const removed = afterChange(db, noPlaceNotes, sees(["a#1"]), 0, "a#1", null, "remove");
  const added = afterChange(db, removed, sees([]), 10, "a#2", null, "add");
  expect(added).toMatchObject({ beforeAll: [], beforeAny: ["a#1"] });
  // A change later, when the removal has had its time, it is forgotten.
  expect(afterChange(db, added, sees(["a#2"]), 1010, "a#3", null)).toMatchObject({ beforeAny: ["a#2"] });
});

test("a place that verifies and holds remembers what it trusted apart from what it used", () => {
  const both = verifier("both", { roles: ["verifier", "holder"], propagationMs: 1000, refreshMs: 1000 });
  const first = afterChange(both, noPlaceNotes, sees(["a#1", "a#2"], "a#1"), 0, "a#2", null);
  expect(first).toMatchObject({ beforeAll: ["a#1", "a#2"], beforeAny: ["a#1", "a#2"], presented: ["a#1"] });
  const second = afterChange(both, first, sees(["a#2"], "a#2"), 500, "a#3", null, "add");
  expect(second).toMatchObject({ beforeAll: ["a#2"], beforeAny: ["a#1", "a#2"], presented: ["a#1", "a#2"] });
});

test("the users of a holder with two changes under way count as presenting any of them", () => {
  const env = holder("env", ["db"], { refreshMs: 1000 });
  const first = afterChange(env, noPlaceNotes, sees(["a#1", "a#2"], "a#1"), 0, "a#2", null);
  expect(first).toMatchObject({ beforeAll: [], beforeAny: [], presented: ["a#1"] });
  expect(afterChange(env, first, sees(["a#1", "a#2"], "a#2"), 500, "a#1", null).presented).toEqual(["a#1", "a#2"]);
});

test("a holder that cannot be read used what was written last, or what was there before us", () => {
  const env = holder("env", ["db"]);
  expect(afterChange(env, noPlaceNotes, { entries: [] }, 0, "a#2", "a#1").presented).toEqual(["a#1"]);
  expect(afterChange(env, { ...noPlaceNotes, wrote: "a#2" }, { entries: [] }, 0, "a#3", "a#1").presented).toEqual([
    "a#2",
  ]);
});

test("our own change, seen late, is not somebody else's edit; anything else is", () => {
  const db = verifier("db", { propagationMs: 1000 });
  const first = afterLook(db, noPlaceNotes, sees(["a#1"]), 0);
  expect(first.edits).toEqual([]);
  const written = afterChange(db, first.notes, sees(["a#1"]), 0, "a#2", null);
  const late = afterLook(db, afterLook(db, written, sees(["a#1"]), 10).notes, sees(["a#1", "a#2"]), 900);
  expect(late.edits).toEqual([]);
  const edited = afterLook(db, late.notes, sees(["a#2"]), 2000);
  expect(edited.edits).toEqual(["mark of a#1 was removed by somebody else."]);
  expect(edited.notes.changedMs).toBe(2000);
  expect(edited.notes).toMatchObject({ beforeAll: ["a#1", "a#2"], beforeAny: ["a#1", "a#2"] });
});

test("notes of an older release get the defaults of new fields", () => {
  expect(readNotes({ changedMs: 5 }, noPlaceNotes)).toEqual({ ...noPlaceNotes, changedMs: 5 });
  expect(readNotes(undefined, noPlaceNotes)).toEqual(noPlaceNotes);
});
