/**
 * What people may do with rotations: start, look, pause, resume, cancel, roll back, approve, do tasks. Every command is one transaction that
 * locks the rotation, so that it falls either before or after an effect's permission, never in between.
 */
import { createHash } from "node:crypto";
import { plan } from "../core/plan.ts";
import type { Plan } from "../core/plan.ts";
import { Problem } from "../core/problem.ts";
import type { Observation, Phase } from "../core/place.ts";
import type {
  ApprovalRow,
  JournalRow,
  Json,
  PlaceMemoryRow,
  RotationRow,
  RotationStatus,
  TaskRow,
  Tx,
} from "../store/store.ts";
import type { EngineDeps } from "./deps.ts";
import type { JournalRecord } from "./journal.ts";
import { noPlaceNotes, noRotationNotes, readNotes, rotationNotesPlace, writeNotes } from "./memory.ts";
import type { PlaceNotes, RotationNotes } from "./memory.ts";
import { look } from "./observe.ts";
import { declarationDigest, findSigner, memoryFor, recordOf, specOf } from "./spec.ts";
import { declared, observeCredential, openDeclared, previewRotation, refuseUnsafe, startRotation } from "./start.ts";
import type { Preview, PreviewRequest, StartRequest } from "./start.ts";
import type { Look } from "./observe.ts";

export interface Person {
  readonly person: string;
  readonly comment?: string;
}

export interface ApproveRequest extends Person {
  readonly rotation: string;
  /** `plan`: "this plan was not proved within its bound, and may be run all the same". */
  readonly phase: Phase | "plan";
  /** Of the plan that the person read. Must be the rotation's. */
  readonly planDigest: string;
  /** The same request twice is one approval. */
  readonly nonce: string;
  readonly expiresAtMs?: number;
}

export interface RotationDetail {
  readonly rotation: RotationRow;
  readonly tasks: readonly TaskRow[];
  readonly approvals: readonly ApprovalRow[];
  /** Oldest first. */
  readonly events: readonly JournalRow[];
}

export interface Rotations {
  /** Looks at every place and writes down what was seen. */
  observe(credential: string): Promise<readonly Look[]>;
  preview(request: PreviewRequest): Promise<Preview>;
  start(request: StartRequest): Promise<RotationRow>;
  list(filter?: {
    credential?: string;
    statuses?: readonly RotationStatus[];
    limit?: number;
  }): Promise<readonly RotationRow[]>;
  show(rotation: string): Promise<RotationDetail>;
  pause(rotation: string, by: Person): Promise<RotationRow>;
  /** Goes on after a pause or a halt; failures are counted anew. */
  resume(rotation: string, by: Person): Promise<RotationRow>;
  /** Only while nothing has been put anywhere; afterwards it must be rolled back. */
  cancel(rotation: string, by: Person): Promise<RotationRow>;
  /** Turns the goal round, on a fresh look and a plan of its own. */
  rollback(rotation: string, by: Person): Promise<RotationRow>;
  approve(request: ApproveRequest): Promise<ApprovalRow>;
  /** Says no: the rotation is paused with the reason. */
  reject(request: ApproveRequest): Promise<ApprovalRow>;
  tasks(filter?: {
    rotation?: string;
    states?: readonly TaskRow["state"][];
    person?: string;
  }): Promise<readonly TaskRow[]>;
  /** The person says that it is done; the machine checks before it goes on. */
  taskDone(task: string, by: Person): Promise<TaskRow>;
  taskRefuse(task: string, by: Person): Promise<TaskRow>;
  taskHandover(task: string, by: Person & { readonly to: string }): Promise<TaskRow>;
  /** Journal records of a rotation as they are written, until it has ended or the signal is aborted. */
  watch(
    rotation: string,
    options?: { afterSeq?: number; pollMs?: number; signal?: AbortSignal },
  ): AsyncGenerator<JournalRow>;
}

const hash = (text: string): string => createHash("sha256").update(text).digest("hex");

export function createRotations(deps: EngineDeps): Rotations {
  const { store } = deps;

  async function found(id: string): Promise<RotationRow> {
    const row = await store.rotations.get(id);
    if (row === undefined)
      throw new Problem("not-found", `There is no rotation ${id}.`, { next: "List them with: keyroll run list" });
    return row;
  }

  /** Locks the rotation, does the work, writes the journal, and wakes whoever works on it. */
  async function command<T>(
    id: string,
    work: (tx: Tx, row: RotationRow, tell: (record: Pick<JournalRecord, "kind" | "payload">) => void) => Promise<T>,
    actor: string,
  ): Promise<T> {
    await found(id);
    return await store.transaction(async (tx) => {
      const row = await tx.rotations.lock(id);
      if (row === undefined) throw new Problem("not-found", `There is no rotation ${id}.`);
      if (row.endedAtMs !== null) throw new Problem("refused", `Rotation ${id} is over: ${row.status}.`);
      const records: JournalRecord[] = [];
      const result = await work(tx, row, (record) =>
        records.push({ actor: `person:${actor}`, rotation: id, credential: row.credential, ...record }),
      );
      const after = await tx.rotations.get(id);
      if (after !== undefined && after.endedAtMs === null && after.status !== "paused" && after.status !== "halted") {
        await tx.rotations.update(id, { nextWakeAtMs: await tx.now() });
        await tx.enqueue(id);
      }
      await deps.journal.append(tx, records);
      return result;
    });
  }

  const status = (to: string, by: Person): { kind: "rotation"; payload: Json } => ({
    kind: "rotation",
    payload: { status: to, by: by.person, ...(by.comment === undefined ? {} : { text: by.comment }) },
  });

  async function task(id: string): Promise<TaskRow> {
    const row = await store.tasks.get(id);
    if (row === undefined)
      throw new Problem("not-found", `There is no task ${id}.`, { next: "List them with: keyroll task list" });
    return row;
  }

  async function taskCommand(id: string, by: Person, patch: Parameters<Tx["tasks"]["update"]>[1]): Promise<TaskRow> {
    const known = await task(id);
    return await command(
      known.rotation,
      async (tx, _, tell) => {
        const now = await tx.tasks.get(id);
        if (now === undefined || (now.state !== "open" && now.state !== "handed-over")) {
          throw new Problem("refused", `Task ${id} is not open any more: ${now?.state ?? "gone"}.`);
        }
        const row = await tx.tasks.update(id, { ...patch, ...(by.comment === undefined ? {} : { note: by.comment }) });
        tell({
          kind: "task",
          payload: {
            task: id,
            state: row.state,
            place: row.place,
            by: by.person,
            ...(by.comment === undefined ? {} : { text: by.comment }),
          },
        });
        return row;
      },
      by.person,
    );
  }

  /** Failures, doubts of probes and refused tasks are forgotten: a person has said that they are settled. */
  async function freshStart(tx: Tx, row: RotationRow): Promise<void> {
    for (const stored of await tx.places.list(row.id)) {
      if (stored.place === rotationNotesPlace) continue;
      const notes = placeNotes(stored);
      await tx.places.put(
        row.id,
        stored.place,
        writeNotes({
          ...notes,
          failures: 0,
          retryAtMs: null,
          lastFailure: null,
          repeated: null,
          probes: {},
          refused: [],
        }),
      );
    }
    for (const refused of await tx.tasks.list({ rotation: row.id, states: ["refused"] })) {
      if (refused.checked === null)
        await tx.tasks.update(refused.id, { checked: { detail: "The rotation was resumed after it." } });
    }
  }

  /** Another plan from here on. Approvals are of the plan that was read, so those of the old one count no more. */
  async function follow(tx: Tx, row: RotationRow, made: Plan): Promise<void> {
    await tx.rotations.update(row.id, {
      planDigest: made.digest,
      plan: made as unknown as Json,
      exposed: made.exposed.map((edge) => `${edge.holder} -> ${edge.verifier}`),
    });
    const stored = (await tx.places.list(row.id)).find((each) => each.place === rotationNotesPlace);
    const about: RotationNotes = {
      ...readNotes(stored?.memory, noRotationNotes),
      declaration: declarationDigest(declared(deps, row.credential)),
    };
    await tx.places.put(row.id, rotationNotesPlace, writeNotes(about));
  }

  /** The plan from here on, where the declaration has changed since the last one was made. `null`: it has not. */
  async function newPlan(row: RotationRow): Promise<Plan | null> {
    if (row.status !== "paused" && row.status !== "halted") return null;
    const stored = (await store.places.list(row.id)).find((each) => each.place === rotationNotesPlace);
    const { declaration } = readNotes(stored?.memory, noRotationNotes);
    if (declaration === null || declaration === declarationDigest(declared(deps, row.credential))) return null;
    return await planFromHere(deps, row, row.direction);
  }

  async function verdict(request: ApproveRequest, says: "approved" | "rejected"): Promise<ApprovalRow> {
    return await command(
      request.rotation,
      async (tx, row, tell) => {
        if (row.planDigest !== request.planDigest) {
          throw new Problem("refused", `Rotation ${row.id} follows another plan than the one that was read.`, {
            next: `Read it with: keyroll run show ${row.id}`,
          });
        }
        if (says === "approved" && request.person === row.startedBy) {
          throw new Problem(
            "not-allowed",
            `${request.person} started rotation ${row.id}, so somebody else must approve it.`,
          );
        }
        const approval = await tx.approvals.add({
          rotation: row.id,
          phase: request.phase,
          planDigest: request.planDigest,
          nonce: request.nonce,
          person: request.person,
          verdict: says,
          comment: request.comment ?? null,
          expiresAtMs: request.expiresAtMs ?? null,
        });
        tell({
          kind: "approval",
          payload: {
            phase: request.phase,
            verdict: says,
            by: request.person,
            ...(request.comment === undefined ? {} : { text: request.comment }),
          },
        });
        if (says === "rejected") {
          await tx.rotations.update(row.id, {
            status: "paused",
            waitingFor: null,
            nextWakeAtMs: null,
            reason: `${request.person} rejected the ${request.phase} phase${request.comment === undefined ? "" : `: ${request.comment}`}. Resume, roll back or cancel.`,
          });
        }
        return approval;
      },
      request.person,
    );
  }

  return {
    observe: (credential) => observeCredential(deps, credential),
    preview: (request) => previewRotation(deps, request),
    start: (request) => startRotation(deps, request),
    list: (filter) => store.rotations.list(filter),
    async show(id) {
      const rotation = await found(id);
      const [tasks, approvals, events] = await Promise.all([
        store.tasks.list({ rotation: id }),
        store.approvals.list(id),
        store.journal.list({ rotation: id, limit: 1000 }),
      ]);
      return { rotation, tasks, approvals, events: [...events].toReversed() };
    },
    pause: (id, by) =>
      command(
        id,
        async (tx, row, tell) => {
          if (row.status === "paused") return row;
          tell(status("paused", by));
          return await tx.rotations.update(id, {
            status: "paused",
            waitingFor: null,
            nextWakeAtMs: null,
            reason: `${by.person} paused it${by.comment === undefined ? "" : `: ${by.comment}`}.`,
          });
        },
        by.person,
      ),
    async resume(id, by) {
      const made = await newPlan(await found(id));
      return await command(
        id,
        async (tx, row, tell) => {
          if (row.status !== "paused" && row.status !== "halted") return row;
          await freshStart(tx, row);
          if (made !== null) await follow(tx, row, made);
          tell(status("running", by));
          return await tx.rotations.update(id, {
            status: "waiting",
            reason: null,
            waitingFor: "a worker",
            attempts: 0,
          });
        },
        by.person,
      );
    },
    cancel: (id, by) =>
      command(
        id,
        async (tx, row, tell) => {
          const events = await tx.journal.list({ rotation: id, kinds: ["intent"], limit: 1000 });
          const open = await tx.journal.openIntents(id);
          const verbs = new Set(events.map((event) => (event.payload as { verb?: string }).verb));
          const { issuingTrusts, issuingActivates, minting } = declared(deps, row.credential).issuer.traits;
          const left = [...verbs].filter((verb) => verb !== "issue" || issuingTrusts || issuingActivates);
          if (open.length > 0) {
            throw new Problem(
              "refused",
              `Rotation ${id} is in the middle of an effect whose answer is not known yet.`,
              { next: "Try again in a moment." },
            );
          }
          if (left.length > 0 || row.direction === "back") {
            throw new Problem(
              "refused",
              `Rotation ${id} has already changed places, so leaving it now would leave them out of step.`,
              {
                next:
                  row.mode === "breach"
                    ? `Let it go on: keyroll run resume ${id}`
                    : `Roll it back with: keyroll run rollback ${id}`,
              },
            );
          }
          for (const version of await tx.versions.list(row.credential)) {
            if (version.id === row.toVersion) {
              await tx.sealed.destroy(row.credential, version.id);
              await tx.versions.update(version.id, { state: "retired", material: "none" });
              if (minting === "theirs" && version.material === "sealed") {
                tell({
                  kind: "note",
                  payload: {
                    version: version.id,
                    text: `${version.id} was made and is used nowhere; take it away where it was made.`,
                  },
                });
              }
            }
          }
          tell(status("cancelled", by));
          return await tx.rotations.update(id, {
            status: "cancelled",
            waitingFor: null,
            nextWakeAtMs: null,
            reason: `${by.person} cancelled it${by.comment === undefined ? "" : `: ${by.comment}`}.`,
          });
        },
        by.person,
      ),
    async rollback(id, by) {
      const row = await found(id);
      if (row.endedAtMs !== null)
        throw new Problem("refused", `Rotation ${id} is over: ${row.status}.`, {
          next: `Rotate ${row.credential} again.`,
        });
      if (row.mode === "breach") {
        throw new Problem("refused", "A breach is never rolled back: the compromised version must not come back.", {
          next: "Start another rotation afterwards if the new version is wrong.",
        });
      }
      if (row.fromVersion === null) {
        throw new Problem("refused", `Rotation ${id} makes the first version, so there is nothing to go back to.`, {
          next: `Cancel it with: keyroll run cancel ${id}`,
        });
      }
      if (row.direction === "back") return row;
      const made = await planFromHere(deps, row, "back");
      return await command(
        id,
        async (tx, now, tell) => {
          if (now.updatedAtMs !== row.updatedAtMs && now.direction === "back") return now;
          await freshStart(tx, now);
          await follow(tx, now, made);
          tell(status("rolling back", by));
          return await tx.rotations.update(id, {
            direction: "back",
            status: "waiting",
            waitingFor: "a worker",
            attempts: 0,
            reason: `${by.person} rolled it back${by.comment === undefined ? "" : `: ${by.comment}`}.`,
          });
        },
        by.person,
      );
    },
    approve: (request) => verdict(request, "approved"),
    reject: (request) => verdict(request, "rejected"),
    tasks: (filter) => store.tasks.list(filter),
    taskDone: (id, by) => taskCommand(id, by, { state: "done", person: by.person, checked: null }),
    taskRefuse: (id, by) => taskCommand(id, by, { state: "refused", person: by.person, checked: null }),
    taskHandover: (id, by) => taskCommand(id, by, { state: "open", person: by.to }),
    async *watch(id, options = {}) {
      let last = options.afterSeq ?? 0;
      for (;;) {
        options.signal?.throwIfAborted();
        // The state is read before the records, so that the last records of an ended rotation are still seen.
        const row = await found(id);
        const fresh: JournalRow[] = [];
        for (let before: number | undefined; ;) {
          const page = await store.journal.list({
            rotation: id,
            limit: 200,
            ...(before === undefined ? {} : { beforeSeq: before }),
          });
          const newer = page.filter((event) => event.seq > last);
          fresh.push(...newer);
          if (newer.length < page.length || page.length < 200) break;
          before = page.at(-1)!.seq;
        }
        for (const event of fresh.toReversed()) {
          last = event.seq;
          yield event;
        }
        if (row.endedAtMs !== null) return;
        await deps.clock.sleep(options.pollMs ?? 500, options.signal);
      }
    },
  };
}

function placeNotes(stored: PlaceMemoryRow): PlaceNotes {
  return readNotes(stored.memory, noPlaceNotes);
}

/** The plan of the rest of the way, or of the way back, on a fresh look. Throws a {@link Problem} where it is not safe. */
async function planFromHere(deps: EngineDeps, row: RotationRow, direction: RotationRow["direction"]): Promise<Plan> {
  const credential = declared(deps, row.credential);
  const open = openDeclared(deps, credential);
  try {
    const versions = (await deps.store.versions.list(credential.name)).map(recordOf);
    const looks = await look(deps, open, credential.places, versions, {});
    const seen: Record<string, Observation | null> = {};
    for (const each of looks) seen[each.place] = each.observation;
    const stored = await deps.store.places.list(row.id);
    const about: RotationNotes = readNotes(
      stored.find((each) => each.place === rotationNotesPlace)?.memory,
      noRotationNotes,
    );
    const signer = await findSigner(deps.store, credential, about.signer);
    const memory = Object.fromEntries(
      credential.places.map((place) => {
        const notes = readNotes(stored.find((each) => each.place === place.name)?.memory, noPlaceNotes);
        return [place.name, memoryFor(notes, false, seen[place.name] ?? undefined)];
      }),
    );
    const made = plan(
      {
        credential,
        versions,
        rotation: specOf({ ...row, direction, exposed: [] }, versions, signer?.facts.fingerprint),
        seen,
        memory,
        nowMs: await deps.nowMs(),
      },
      { hash },
    );
    refuseUnsafe(credential, made, looks);
    return made;
  } finally {
    await open.close();
  }
}
