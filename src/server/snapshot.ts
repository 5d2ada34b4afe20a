/**
 * What is known of every credential, worked out once for all readers. A hundred browsers that ask at the same time cost one look into the
 * database; what they get says when it was true.
 */
import type { App, StatusItem } from "../app.ts";
import type { Plan } from "../core/plan.ts";
import type { CredentialDecl } from "../core/place.ts";
import type { ObservationRow, RotationRow, TaskRow, VersionRow } from "../store/store.ts";
import { activeStatuses } from "../store/store.ts";
import type { Searchable } from "./query.ts";

export interface Known extends Searchable {
  readonly credential: CredentialDecl;
  /** Order by urgency, the most urgent first. */
  readonly rank: number;
}
export interface Snapshot {
  readonly atMs: number;
  readonly staleAfterMs: number;
  readonly list: readonly Known[];
  readonly byName: ReadonlyMap<string, Known>;
  /** Of every credential that was ever declared: its history stays readable by its owner. */
  readonly owners: ReadonlyMap<string, string>;
  readonly observations: ReadonlyMap<string, readonly ObservationRow[]>;
  readonly active: readonly RotationRow[];
  /** Where each active rotation stands; `at` is `null` where there are too many to work it out. */
  readonly steps: ReadonlyMap<string, { readonly at: number | null; readonly of: number }>;
  readonly openTasks: readonly TaskRow[];
  /** Changes when anything but the time does. */
  readonly revision: number;
}

export interface Snapshots {
  get(): Promise<Snapshot>;
  /** After a change: the next reader gets a new one. */
  expire(): void;
}

/** What was looked at again without a record in the journal is seen this late. */
const keepMs = 1000;
/** No more than a quarter of the time goes into it, once it takes longer than this. */
const quickMs = 250;
/** The journal of each is read for it. */
const mostSteps = 100;

export function openSnapshots(app: App, monotonic: () => number = () => performance.now()): Snapshots {
  let last: Snapshot | null = null;
  let lastText = "";
  let madeMs = Number.NEGATIVE_INFINITY;
  let tookMs = 0;
  let seq = -1;
  let making: Promise<Snapshot> | null = null;
  let expiries = 0;

  async function make(): Promise<Snapshot> {
    const startedMs = monotonic();
    const before = expiries;
    const { estate } = await app.estate();
    const { store } = await app.engine();
    // Before anything is read: what is written meanwhile is found to be newer.
    const head = (await store.journal.head()).seq;
    const items = await app.status({ observe: "never" });
    const [versions, observations, rows, active, atMs] = await Promise.all([
      store.versions.listAll({ states: ["current", "compromised"] }),
      store.observations.list(),
      store.credentials.list({ includeUndeclared: true }),
      store.rotations.list({ statuses: activeStatuses, limit: 100_000 }),
      store.now(),
    ]);
    const openTasks = await store.tasks.list({ states: ["open"] });
    const steps = new Map<string, { at: number | null; of: number }>();
    for (const [i, row] of active.entries()) {
      const at = i < mostSteps ? (await app.run(row.id)).at : null;
      steps.set(row.id, { at, of: (row.plan as unknown as Plan).steps.length });
    }
    const fingerprints = new Map(
      versions.map((version: VersionRow) => [version.id, version.facts?.fingerprint ?? null]),
    );
    const declared = new Map(estate.credentials.map((credential) => [credential.name, credential]));
    const list = items.flatMap((item: StatusItem, rank): Known[] => {
      const credential = declared.get(item.credential);
      if (credential === undefined) return [];
      return [
        {
          item,
          credential,
          rank,
          places: credential.places.map((place) => place.name),
          systems: [...new Set(credential.places.flatMap((place) => place.system ?? []))],
          fingerprint: item.current === null ? null : (fingerprints.get(item.current) ?? null),
        },
      ];
    });
    const text = JSON.stringify([
      // Looking again and seeing the same is no change.
      items.map((item) => ({ ...item, seenAtMs: null })),
      active.map(({ id, updatedAtMs }) => [id, updatedAtMs]),
      [...steps],
      openTasks.map(({ id, updatedAtMs }) => [id, updatedAtMs]),
    ]);
    const grouped = new Map<string, ObservationRow[]>();
    for (const row of observations) {
      const rows = grouped.get(row.credential);
      if (rows === undefined) grouped.set(row.credential, [row]);
      else rows.push(row);
    }
    const made: Snapshot = {
      atMs,
      // As `App.status` judges it.
      staleAfterMs: Math.max(4 * (estate.settings?.observeEveryMs ?? 900_000), 3_600_000),
      list,
      byName: new Map(list.map((known) => [known.item.credential, known])),
      owners: new Map([
        ...rows.map((row) => [row.name, row.owner] as const),
        ...estate.credentials.map((credential) => [credential.name, credential.owner] as const),
      ]),
      observations: grouped,
      active,
      steps,
      openTasks,
      revision: (last?.revision ?? 0) + (text === lastText ? 0 : 1),
    };
    last = made;
    lastText = text;
    madeMs = monotonic();
    tookMs = madeMs - startedMs;
    // Something changed while it was made: good for who asked before, not for who asks now.
    seq = before === expiries ? head : -1;
    return made;
  }

  return {
    async get() {
      const ageMs = monotonic() - madeMs;
      if (last !== null && seq >= 0 && ageMs < Math.max(keepMs, 4 * tookMs)) {
        if (tookMs > quickMs && ageMs < 4 * tookMs) return last;
        const { store } = await app.openStoreOnly();
        if ((await store.journal.head()).seq === seq) return last;
      }
      making ??= make().finally(() => {
        making = null;
      });
      return await making;
    },
    expire() {
      expiries++;
      seq = -1;
    },
  };
}
