/**
 * Rolling the key-encryption key. Every data key is wrapped again; the sealed values themselves are not opened. Both keys are kept until no
 * record needs the old one. It may be killed at any point and run again: what is written tells where it was.
 */
import { StoreError, type Store, type Tx } from "../store/store.ts";
import { crashPoint } from "./crash.ts";
import {
  createKekFile,
  finishFileRoll,
  Keks,
  kekSettingName,
  nextKekFile,
  openKeks,
  readKekSetting,
  type Kek,
  type KekOptions,
} from "./kek.ts";
import { rewrapRecord } from "./seal.ts";

export interface RollProgress {
  readonly done: number;
  readonly total: number;
}

export interface RollResult {
  readonly from: string;
  readonly to: string;
  /** Records that this run wrapped again; an interrupted run before it may have done others. */
  readonly rewrapped: number;
  /** What the operator must do now, where the key does not lie in Keyroll's own file. */
  readonly next: string | null;
}

export interface RollOptions extends Partial<KekOptions> {
  readonly onProgress?: (progress: RollProgress) => void;
  /** Called in the transaction that makes the new key the current one, for the journal. Not called again when a roll is resumed. */
  readonly onSwitch?: (tx: Tx, from: string, to: string) => Promise<void>;
  /** Records per transaction; default 200. */
  readonly batch?: number;
}

export interface KekStatus {
  readonly current: string;
  readonly origin: string;
  /** The key that is being replaced, while a roll is under way. */
  readonly previous: string | null;
  readonly recordsByKek: Readonly<Record<string, number>>;
}

export async function kekStatus(store: Store, options: Partial<KekOptions> = {}): Promise<KekStatus> {
  const keks = await openKeks(store, { dataDir: store.dataDir, ...options });
  const setting = await readKekSetting(store);
  if (setting === undefined) throw new Error("openKeks writes the setting");
  return {
    current: setting.current,
    origin: keks.get(setting.current).origin,
    previous: setting.previous ?? null,
    recordsByKek: await store.sealed.countByKek(),
  };
}

export async function rollKek(store: Store, options: RollOptions = {}): Promise<RollResult> {
  const dataDir = options.dataDir ?? store.dataDir;
  const keks = await openKeks(store, { dataDir, ...options });
  const before = await readKekSetting(store);
  if (before === undefined) throw new Error("openKeks writes the setting");

  const to = before.previous === undefined ? nextKek(keks, dataDir, before.current) : keks.get(before.current);
  crashPoint("kek.next-written");
  const from = before.previous ?? before.current;
  if (before.previous === undefined) await switchTo(store, from, to, options);
  crashPoint("kek.switched");

  const total = Object.values(await store.sealed.countByKek()).reduce((sum, count) => sum + count, 0);
  let rewrapped = 0;
  for (;;) {
    const count = await store.transaction(async (tx) => {
      const rows = await tx.sealed.notWrappedBy(to.id, options.batch ?? 200);
      for (const row of rows)
        await tx.sealed.rewrap(row.id, row.kekId, to.id, rewrapRecord(keks.get(row.kekId), to, row));
      return rows.length;
    });
    if (count === 0) break;
    rewrapped += count;
    crashPoint("kek.batch");
    const left = Object.entries(await store.sealed.countByKek()).reduce(
      (sum, [id, n]) => (id === to.id ? sum : sum + n),
      0,
    );
    options.onProgress?.({ done: total - left, total });
  }

  crashPoint("kek.rewrapped");
  await store.transaction(async (tx) => {
    const setting = await readKekSetting(tx, "update");
    if (setting?.current !== to.id) throw busy();
    await tx.settings.put(kekSettingName, { current: to.id });
  });
  crashPoint("kek.settled");
  finishFileRoll(dataDir, to.id);
  crashPoint("kek.done");
  return { from, to: to.id, rewrapped, next: advice(to) };
}

/** The key to roll to: given by the operator where the current one is, else made in a file beside the old one. */
function nextKek(keks: Keks, dataDir: string, current: string): Kek {
  const given = keks.fromEnvironment("KEYROLL_KEK_NEXT");
  if (given !== null) {
    if (given.id === current) {
      throw new StoreError(
        "misconfigured",
        "KEYROLL_KEK_NEXT is the key that is in use already",
        "make a new one: openssl rand -base64 32",
      );
    }
    return given;
  }
  if (keks.fromEnvironment("KEYROLL_KEK")?.id === current) {
    throw new StoreError(
      "misconfigured",
      "the key-encryption key comes from the environment, so Keyroll cannot store a new one",
      "give the new key to every worker as KEYROLL_KEK_NEXT or KEYROLL_KEK_NEXT_FILE, restart them, and run this again",
    );
  }
  // An interrupted run may have left one: it is used, and not replaced.
  return createKekFile(nextKekFile(dataDir));
}

/** Waits for everybody who is sealing at this moment; from here on everything is sealed with the new key. */
async function switchTo(store: Store, from: string, to: Kek, options: RollOptions): Promise<void> {
  await store.transaction(async (tx) => {
    const setting = await readKekSetting(tx, "update");
    if (setting?.current !== from || setting.previous !== undefined) throw busy();
    await tx.settings.put(kekSettingName, { current: to.id, previous: from });
    await options.onSwitch?.(tx, from, to.id);
  });
}

const busy = (): StoreError =>
  new StoreError(
    "unavailable",
    "somebody else is rolling the key-encryption key just now",
    "run it again to see whether it is done",
  );

function advice(to: Kek): string | null {
  if (to.origin.startsWith("KEYROLL_KEK_NEXT"))
    return "set KEYROLL_KEK to the new key on every worker, and remove KEYROLL_KEK_NEXT";
  return null;
}
