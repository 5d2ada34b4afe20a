/**
 * The journal: what Keyroll meant to do, what came of it, and who said so. Append-only, numbered without gaps, and chained: every record's hash
 * is an HMAC-SHA-256 over its canonical JSON and the hash before it, under a key that is sealed in the store. Whoever can write to the database
 * but does not hold the key-encryption key cannot change, insert, reorder or drop a record unseen. Cutting off the end is seen by a signed
 * checkpoint that lies outside the database, and by any anchor that was exported before.
 */
import {
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  randomUUID,
  sign,
  timingSafeEqual,
  verify as verifySignature,
} from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  StoreError,
  type Json,
  type JournalKind,
  type JournalRow,
  type Queries,
  type Store,
  type Tx,
} from "../store/store.ts";
import type { Sealer } from "./seal.ts";

export interface JournalRecord {
  readonly kind: JournalKind;
  /** `person:alice`, `worker:host-1234`, `keyroll`. */
  readonly actor: string;
  readonly rotation?: string | null;
  readonly credential?: string | null;
  /** Shared by an intent and its outcome. */
  readonly effect?: string | null;
  /** Public only. */
  readonly payload: Json;
}

interface EffectRecord {
  readonly actor: string;
  readonly rotation: string;
  readonly credential: string;
  readonly payload: Json;
}

type EffectOutcome = "done" | "failed" | "unknown";

/** A point that the chain must still go through. Keep it elsewhere; it holds nothing secret. */
export interface Anchor {
  readonly keyroll: "journal-anchor-1";
  readonly seq: number;
  readonly hash: string;
  readonly atMs: number;
  /** SPKI DER of the Ed25519 key, base64. */
  readonly publicKey: string;
  /** Ed25519 over the canonical JSON of the fields above, base64. */
  readonly signature: string;
}

type Tampering =
  /** The record's content is not what was hashed, or it was inserted by somebody without the key. */
  | "changed"
  /** A number is missing. */
  | "missing"
  /** The record does not follow the one before it. */
  | "out-of-order"
  /** The end was cut off. */
  | "truncated"
  /** The chain is whole, but it is not the one that a checkpoint or an anchor saw. */
  | "replaced"
  /** The checkpoint or anchor itself is not signed by this installation. */
  | "bad-anchor";

export type Verification =
  | { readonly ok: true; readonly records: number; readonly head: string }
  | { readonly ok: false; readonly seq: number; readonly problem: Tampering; readonly detail: string };

export interface Journal {
  /**
   * Appends in the transaction. Holds the chain's end until it commits, so call it last, and once with many records rather than often.
   */
  append(tx: Tx, records: readonly JournalRecord[]): Promise<readonly JournalRow[]>;
  /** Appends in a transaction of its own. */
  note(record: JournalRecord): Promise<JournalRow>;
  /** Before an effect. Gives the effect's id for its outcome. */
  intent(tx: Tx, record: EffectRecord): Promise<string>;
  /** After it. Each effect has one outcome. */
  outcome(tx: Tx, effect: string, outcome: EffectOutcome, record: EffectRecord): Promise<void>;
  /** Intents without an outcome, oldest first: after a crash their outcome is unknown. */
  openIntents(from: Queries, rotation: string): Promise<readonly JournalRow[]>;
  /** Walks the whole chain and compares it with the head, the checkpoint and the anchors. Gives the first thing that is wrong. */
  verify(anchors?: readonly Anchor[]): Promise<Verification>;
  anchor(): Promise<Anchor>;
  /** NDJSON: a header, one line per record, a signed trailer. */
  export(): AsyncGenerator<string>;
  /** Writes the checkpoint now; `append` does it by itself every few seconds. */
  checkpoint(): Promise<void>;
}

const zeros = "0".repeat(64);
const checkpointEveryMs = 5_000;
export const checkpointFile = (dataDir: string): string => join(dataDir, "journal.checkpoint");

export interface JournalOptions {
  /** Told when the checkpoint could not be written; the journal itself goes on. */
  readonly onWarning?: (message: string) => void;
}

/** Keys in order, no blanks: one text for one value. */
export function canonical(value: Json | undefined): string {
  if (value === undefined) return "null";
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item: Json) => canonical(item)).join(",")}]`;
  const entries = Object.entries(value as { readonly [key: string]: Json | undefined }).filter(
    ([, item]) => item !== undefined,
  );
  // By code units, as RFC 8785 does.
  entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(",")}}`;
}

/** The value as jsonb gives it back: what it cannot store (NUL, half surrogates, undefined) is replaced before it is hashed. */
function storable(value: Json): Json {
  const text =
    JSON.stringify(value, (_key, item: unknown) => (typeof item === "string" ? clean(item) : item)) ?? "null";
  return JSON.parse(text, (_key, item: unknown) => (isRecord(item) ? cleanKeys(item) : item)) as Json;
}
const clean = (text: string): string => text.toWellFormed().replaceAll("\u0000", "\ufffd");
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const cleanKeys = (value: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(value).map(([key, item]) => [clean(key), item]));

type Hashed = Omit<JournalRow, "hash">;

function hashOf(key: Buffer, row: Hashed): string {
  const text = canonical({
    v: 1,
    seq: row.seq,
    at: row.atMs,
    actor: row.actor,
    rotation: row.rotation,
    credential: row.credential,
    kind: row.kind,
    effect: row.effect,
    payload: row.payload,
    prev: row.prevHash,
  });
  return createHmac("sha256", key).update(text).digest("hex");
}

function sameHash(a: string, b: string): boolean {
  return a.length === b.length && timingSafeEqual(Buffer.from(a, "utf8"), Buffer.from(b, "utf8"));
}

/** One step of the walk: what is wrong with `row` after a record with this number and hash, if anything. */
function fault(
  key: Buffer,
  row: JournalRow,
  before: { readonly seq: number; readonly hash: string },
): { problem: Tampering; detail: string } | null {
  if (row.seq !== before.seq + 1) {
    return row.seq <= before.seq
      ? { problem: "out-of-order", detail: `record ${row.seq} comes after record ${before.seq}` }
      : { problem: "missing", detail: `record ${before.seq + 1} is missing` };
  }
  if (!sameHash(row.hash, hashOf(key, row)))
    return { problem: "changed", detail: `record ${row.seq} is not what was written` };
  if (row.prevHash !== before.hash)
    return { problem: "out-of-order", detail: `record ${row.seq} does not follow record ${before.seq}` };
  return null;
}

export function openJournal(store: Store, sealer: Sealer, options: JournalOptions = {}): Journal {
  const key = sealer.journalKey();
  const privateKey = createPrivateKey({ key: sealer.signingKey(), format: "der", type: "pkcs8" });
  const publicKey = createPublicKey(privateKey).export({ format: "der", type: "spki" }).toString("base64");
  let lastCheckpointMs = -Infinity;
  let checkpointing: Promise<void> = Promise.resolve();

  function signed(seq: number, hash: string, atMs: number): Anchor {
    const body = { keyroll: "journal-anchor-1" as const, seq, hash, atMs, publicKey };
    return { ...body, signature: sign(null, Buffer.from(canonical(body)), privateKey).toString("base64") };
  }

  async function append(tx: Tx, records: readonly JournalRecord[]): Promise<readonly JournalRow[]> {
    if (records.length === 0) return [];
    const clear = records.map((record) => ({
      ...record,
      actor: clean(record.actor),
      payload: storable(record.payload),
    }));
    const head = await tx.journal.lockHead();
    let before = { seq: head.seq, hash: head.hash };
    const rows = clear.map((record): JournalRow => {
      const row: Hashed = {
        seq: before.seq + 1,
        atMs: head.nowMs,
        actor: record.actor,
        rotation: record.rotation ?? null,
        credential: record.credential ?? null,
        kind: record.kind,
        effect: record.effect ?? null,
        payload: record.payload,
        prevHash: before.hash,
      };
      before = { seq: row.seq, hash: hashOf(key, row) };
      return { ...row, hash: before.hash };
    });
    await tx.journal.insert(rows);
    // The checkpoint reads what is committed, so it may trail this record; it only ever has to be true, not fresh.
    if (performance.now() - lastCheckpointMs > checkpointEveryMs) {
      void checkpoint().catch((error: unknown) =>
        options.onWarning?.(`the journal's checkpoint was not written: ${String(error)}`),
      );
    }
    return rows;
  }

  function checkpoint(): Promise<void> {
    lastCheckpointMs = performance.now();
    checkpointing = checkpointing
      // Whoever asked for the one before has its error; this one tries anew.
      .catch(() => undefined)
      .then(async () => {
        const anchor = await currentAnchor();
        const path = checkpointFile(store.dataDir);
        const old = readAnchor(path);
        // A cut-off chain must not overwrite the proof of what was there.
        if (old !== null && old.seq >= anchor.seq) return;
        if (old !== null && (await recordAt(old.seq))?.hash !== old.hash) return;
        const draft = `${path}.${process.pid}`;
        writeFileSync(draft, `${JSON.stringify(anchor)}\n`, { mode: 0o600 });
        renameSync(draft, path);
      });
    return checkpointing;
  }

  async function currentAnchor(): Promise<Anchor> {
    const head = await store.journal.head();
    return signed(head.seq, head.hash, await store.now());
  }

  async function recordAt(seq: number): Promise<JournalRow | undefined> {
    return (await store.journal.page(seq - 1, 1))[0];
  }

  async function* walk(): AsyncGenerator<JournalRow> {
    for (let after = 0; ;) {
      const rows = await store.journal.page(after, 1_000);
      yield* rows;
      const last = rows.at(-1);
      if (last === undefined) return;
      after = last.seq;
    }
  }

  async function verify(anchors: readonly Anchor[] = []): Promise<Verification> {
    // The head first: records that come while we walk are beyond it, and are checked too.
    const head = await store.journal.head();
    const points = new Map<number, { hash: string; what: string }>();
    const file = readAnchor(checkpointFile(store.dataDir));
    for (const [anchor, what] of [
      ...anchors.map((a) => [a, "an exported anchor"] as const),
      ...(file === null ? [] : [[file, "the checkpoint file"] as const]),
    ]) {
      if (!anchorIsGenuine(anchor) || anchor.publicKey !== publicKey) {
        return {
          ok: false,
          seq: anchor.seq,
          problem: "bad-anchor",
          detail: `${what} is not signed by this installation`,
        };
      }
      const known = points.get(anchor.seq);
      if (known !== undefined && known.hash !== anchor.hash) {
        return {
          ok: false,
          seq: anchor.seq,
          problem: "replaced",
          detail: `${what} and ${known.what} saw different records ${anchor.seq}`,
        };
      }
      if (anchor.seq > 0) points.set(anchor.seq, { hash: anchor.hash, what });
    }
    points.set(head.seq, points.get(head.seq) ?? { hash: head.hash, what: "the journal's head" });

    let before = { seq: 0, hash: zeros };
    for await (const row of walk()) {
      const wrong = fault(key, row, before);
      if (wrong !== null) return { ok: false, seq: before.seq + 1, ...wrong };
      const point = points.get(row.seq);
      if (point !== undefined && point.hash !== row.hash) {
        return { ok: false, seq: row.seq, problem: "replaced", detail: `${point.what} saw another record ${row.seq}` };
      }
      before = { seq: row.seq, hash: row.hash };
    }
    const beyond = [...points].filter(([seq]) => seq > before.seq).sort(([a], [b]) => b - a)[0];
    if (beyond !== undefined) {
      return {
        ok: false,
        seq: before.seq + 1,
        problem: "truncated",
        detail: `the journal ends with record ${before.seq}, and ${beyond[1].what} has seen record ${beyond[0]}`,
      };
    }
    const now = await store.journal.head();
    if (now.seq < before.seq || (now.seq === before.seq && now.hash !== before.hash)) {
      return {
        ok: false,
        seq: now.seq,
        problem: "replaced",
        detail: `the journal's head says record ${now.seq}, and there is a record ${before.seq}`,
      };
    }
    return { ok: true, records: before.seq, head: before.hash };
  }

  return {
    append,
    note: async (record) => (await store.transaction((tx) => append(tx, [record])))[0]!,
    async intent(tx, record) {
      const effect = randomUUID();
      await append(tx, [{ ...record, kind: "intent", effect }]);
      return effect;
    },
    async outcome(tx, effect, outcome, record) {
      await append(tx, [{ ...record, kind: "outcome", effect, payload: { outcome, detail: record.payload } }]);
    },
    openIntents: (from, rotation) => from.journal.openIntents(rotation),
    verify,
    anchor: currentAnchor,
    checkpoint,
    async *export() {
      const digest = createHash("sha256");
      const line = (value: Json): string => {
        const text = `${canonical(value)}\n`;
        digest.update(text);
        return text;
      };
      yield line({ keyroll: "journal-export-1", publicKey });
      let before = { seq: 0, hash: zeros };
      for await (const row of walk()) {
        yield line(exported(row));
        before = { seq: row.seq, hash: row.hash };
      }
      const body = {
        keyroll: "journal-export-end-1",
        ...before,
        atMs: await store.now(),
        sha256: digest.digest("hex"),
        publicKey,
      };
      yield `${canonical({ ...body, signature: sign(null, Buffer.from(canonical(body)), privateKey).toString("base64") })}\n`;
    },
  };
}

function exported(row: JournalRow): Json {
  return {
    seq: row.seq,
    at: new Date(row.atMs).toISOString(),
    actor: row.actor,
    rotation: row.rotation,
    credential: row.credential,
    kind: row.kind,
    effect: row.effect,
    payload: row.payload,
    prev: row.prevHash,
    hash: row.hash,
  };
}

function anchorIsGenuine(anchor: Anchor): boolean {
  const { signature, ...body } = anchor;
  return signatureHolds(body as unknown as Json, anchor.publicKey, signature);
}

function signatureHolds(body: Json, publicKey: string, signature: string): boolean {
  try {
    const key = createPublicKey({ key: Buffer.from(publicKey, "base64"), format: "der", type: "spki" });
    return verifySignature(null, Buffer.from(canonical(body)), key, Buffer.from(signature, "base64"));
  } catch {
    // Not even a key or a signature in form: not genuine, which is all that is asked.
    return false;
  }
}

function readAnchor(path: string): Anchor | null {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new StoreError(
      "permission",
      `${path} cannot be read (${(error as NodeJS.ErrnoException).code})`,
      "run as the user that owns the data folder",
    );
  }
  return parseAnchor(text, path);
}

/** Reads an anchor that `keyroll audit` exported. Throws with a clear text; whether it is genuine is for `verify` to say. */
export function parseAnchor(text: string, where: string): Anchor {
  try {
    const value = JSON.parse(text) as Anchor;
    const whole =
      value.keyroll === "journal-anchor-1" &&
      Number.isSafeInteger(value.seq) &&
      [value.hash, value.publicKey, value.signature].every((field) => typeof field === "string");
    if (whole) return value;
  } catch {
    // Said below, for every kind of damage.
  }
  throw new StoreError("tampered", `${where} is not a journal anchor`, "use the file as Keyroll wrote it");
}

export type ExportCheck =
  | {
      readonly ok: true;
      readonly records: number;
      readonly head: string;
      readonly publicKey: string;
      readonly atMs: number;
    }
  | { readonly ok: false; readonly line: number; readonly detail: string };

/**
 * Verifies an exported journal without the database and without any secret: every line is covered by the trailer's signature, numbers have no
 * gap, every record names the hash before it. `publicKey` (base64 SPKI, noted when an earlier export or anchor was taken) ties it to the
 * installation; without it the answer's own `publicKey` must be compared by a person. `anchors`: points that it must go through.
 */
export async function verifyExport(
  lines: Iterable<string> | AsyncIterable<string>,
  options: { readonly publicKey?: string; readonly anchors?: readonly Anchor[] } = {},
): Promise<ExportCheck> {
  const digest = createHash("sha256");
  const hashes = new Map<number, string>();
  const wanted = new Set((options.anchors ?? []).map((anchor) => anchor.seq));
  let before = { seq: 0, hash: zeros };
  let number = 0;
  let held: string | null = null;
  for await (const raw of lines) {
    const line = raw.replace(/\r?\n$/, "");
    if (line === "") continue;
    // The trailer is the last line, so every line waits for the next one.
    if (held !== null) {
      number++;
      const wrong = takeLine(held);
      if (wrong !== null) return { ok: false, line: number, detail: wrong };
    }
    held = line;
  }
  number++;
  const end = held === null ? null : parseObject(held);
  if (end === null || end["keyroll"] !== "journal-export-end-1")
    return { ok: false, line: number, detail: "the signed last line is missing" };
  const { signature, ...body } = end;
  const publicKey = String(end["publicKey"]);
  if (!signatureHolds(body as Json, publicKey, String(signature)))
    return { ok: false, line: number, detail: "the signature does not hold" };
  if (options.publicKey !== undefined && options.publicKey !== publicKey) {
    return { ok: false, line: number, detail: "it is signed by another installation's key" };
  }
  if (end["sha256"] !== digest.digest("hex"))
    return { ok: false, line: number, detail: "a line was changed after the export" };
  if (end["seq"] !== before.seq || end["hash"] !== before.hash)
    return { ok: false, line: number, detail: "records are missing at the end" };
  for (const anchor of options.anchors ?? []) {
    if (!anchorIsGenuine(anchor) || anchor.publicKey !== publicKey)
      return { ok: false, line: number, detail: `the anchor at ${anchor.seq} is not genuine` };
    if (anchor.seq > before.seq)
      return { ok: false, line: number, detail: `the anchor has seen record ${anchor.seq}, which is not here` };
    if (anchor.seq > 0 && hashes.get(anchor.seq) !== anchor.hash)
      return { ok: false, line: anchor.seq + 1, detail: `the anchor saw another record ${anchor.seq}` };
  }
  return { ok: true, records: before.seq, head: before.hash, publicKey, atMs: Number(end["atMs"]) };

  function takeLine(line: string): string | null {
    digest.update(`${line}\n`);
    const value = parseObject(line);
    if (value === null) return "it is not a JSON object";
    if (number === 1) return value["keyroll"] === "journal-export-1" ? null : "it is not a journal export";
    if (value["seq"] !== before.seq + 1) return `record ${before.seq + 1} is missing`;
    if (value["prev"] !== before.hash) return `record ${String(value["seq"])} does not follow the one before it`;
    before = { seq: value["seq"] as number, hash: String(value["hash"]) };
    if (wanted.has(before.seq)) hashes.set(before.seq, before.hash);
    return null;
  }
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return isRecord(value) ? value : null;
  } catch {
    // The caller says which line.
    return null;
  }
}
