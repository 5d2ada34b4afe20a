/** Every question of {@link Queries}, over a Kysely handle that is either the whole database or one transaction. */
import { createHash, randomBytes } from "node:crypto";
import { sql, type Kysely, type Selectable } from "kysely";
import type { Json, PlacementRow } from "./store.ts";
import {
  activeStatuses,
  AlreadyRotating,
  StoreError,
  type ApprovalRow,
  type CredentialRow,
  type InventoryItem,
  type InventoryRow,
  type JournalRow,
  type ObservationRow,
  type PlaceMemoryRow,
  type Queries,
  type RotationRow,
  type SealedRow,
  type TaskRow,
  type VersionRow,
} from "./store.ts";
import { codeOf, constraintOf } from "./errors.ts";
import { peopleQueries } from "./people.ts";
import type { Tables } from "./schema.ts";

type Db = Kysely<Tables>;
type Row<T extends keyof Tables> = Selectable<Tables[T]>;

const json = (value: unknown): string => JSON.stringify(value);
const dateOrNull = (ms: number | null | undefined): Date | null =>
  ms === null || ms === undefined ? null : new Date(ms);
const dbNow = sql<Date>`clock_timestamp()`;
const notFound = (what: string, id: string): StoreError => new StoreError("not-found", `there is no ${what} ${id}`);

/** Crockford's base 32 without vowels' look-alikes: fit to be read aloud and typed. */
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz";
function shortId(prefix: string): string {
  return `${prefix}-${[...randomBytes(8)].map((byte) => alphabet[byte & 31]).join("")}`;
}

export function queries(db: Db): Queries {
  return {
    async now() {
      const { rows } = await sql<{ now: number }>`select clock_timestamp() as now`.execute(db);
      return rows[0]!.now;
    },
    estate: estateQueries(db),
    credentials: credentialQueries(db),
    versions: versionQueries(db),
    sealed: sealedQueries(db),
    rotations: rotationQueries(db),
    places: placeQueries(db),
    approvals: approvalQueries(db),
    tasks: taskQueries(db),
    observations: observationQueries(db),
    journal: journalQueries(db),
    inventory: inventoryQueries(db),
    settings: settingQueries(db),
    people: peopleQueries(db),
  };
}

/** Runs several statements as one: in a transaction of its own, unless it is in one already. */
function together<T>(db: Db, work: (tx: Db) => Promise<T>): Promise<T> {
  return db.isTransaction ? work(db) : db.transaction().execute(work);
}

function estateQueries(db: Db): Queries["estate"] {
  const toRow = (row: Row<"estate_revisions">) => ({
    number: row.number,
    digest: row.digest,
    text: row.text,
    appliedBy: row.applied_by,
    appliedAtMs: row.applied_at,
  });
  const newest = (limit: number, tx: Db = db) =>
    tx.selectFrom("estate_revisions").selectAll().orderBy("number", "desc").limit(limit).execute();
  return {
    apply: (revision) =>
      together(db, async (tx) => {
        // Two applies at once would both see the old latest revision.
        await sql`lock table keyroll.estate_revisions in share row exclusive mode`.execute(tx);
        const latest = (await newest(1, tx))[0];
        if (latest !== undefined && latest.digest === revision.digest) return { number: latest.number, changed: false };
        const { number } = await tx
          .insertInto("estate_revisions")
          .values({ digest: revision.digest, text: revision.text, applied_by: revision.appliedBy })
          .returning("number")
          .executeTakeFirstOrThrow();
        await tx.updateTable("credentials").set({ declared: false }).where("declared", "=", true).execute();
        for (let start = 0; start < revision.credentials.length; start += 1_000) {
          const part = revision.credentials.slice(start, start + 1_000);
          await tx
            .insertInto("credentials")
            .values(
              part.map((credential) => ({
                name: credential.name,
                owner: credential.owner,
                kind: credential.kind,
                labels: json(credential.labels),
                declaration: json(credential.declaration),
                declared: true,
              })),
            )
            .onConflict((conflict) =>
              conflict.column("name").doUpdateSet((eb) => ({
                owner: eb.ref("excluded.owner"),
                kind: eb.ref("excluded.kind"),
                labels: eb.ref("excluded.labels"),
                declaration: eb.ref("excluded.declaration"),
                declared: eb.ref("excluded.declared"),
                updated_at: dbNow,
              })),
            )
            .execute();
        }
        return { number, changed: true };
      }),
    async latest() {
      const row = (await newest(1))[0];
      return row === undefined ? undefined : toRow(row);
    },
    list: async (limit = 50) => (await newest(limit)).map(toRow),
  };
}

function credentialQueries(db: Db): Queries["credentials"] {
  const toRow = (row: Row<"credentials">): CredentialRow => ({
    name: row.name,
    owner: row.owner,
    kind: row.kind,
    labels: row.labels,
    declaration: row.declaration,
    declared: row.declared,
    updatedAtMs: row.updated_at,
  });
  return {
    async get(name) {
      const row = await db.selectFrom("credentials").selectAll().where("name", "=", name).executeTakeFirst();
      return row === undefined ? undefined : toRow(row);
    },
    async list(options = {}) {
      let query = db.selectFrom("credentials").selectAll().orderBy("name");
      if (options.includeUndeclared !== true) query = query.where("declared", "=", true);
      return (await query.execute()).map(toRow);
    },
  };
}

function versionQueries(db: Db): Queries["versions"] {
  const toRow = (row: Row<"versions">): VersionRow => ({
    id: row.id,
    credential: row.credential,
    number: row.number,
    facts: row.facts,
    state: row.state,
    material: row.material,
    placements: row.placements,
    issueTag: row.issue_tag,
    createdAtMs: row.created_at,
    retiredAtMs: row.retired_at,
  });
  const byTag = (tx: Db, credential: string, tag: string) =>
    tx
      .selectFrom("versions")
      .selectAll()
      .where("credential", "=", credential)
      .where("issue_tag", "=", tag)
      .executeTakeFirst();
  return {
    create: (version) =>
      together(db, async (tx) => {
        // The row lock makes numbers gapless and the look for an earlier tag sure.
        const credential = await tx
          .updateTable("credentials")
          .set((eb) => ({ next_version: eb("next_version", "+", 0) }))
          .where("name", "=", version.credential)
          .returning("next_version")
          .executeTakeFirst();
        if (credential === undefined) throw notFound("credential", version.credential);
        const tag = version.issueTag ?? null;
        if (tag !== null) {
          const earlier = await byTag(tx, version.credential, tag);
          if (earlier !== undefined) return toRow(earlier);
        }
        const number = credential.next_version;
        await tx
          .updateTable("credentials")
          .set({ next_version: number + 1 })
          .where("name", "=", version.credential)
          .execute();
        const facts = version.facts ?? null;
        const row = await tx
          .insertInto("versions")
          .values({
            id: `${version.credential}#${number}`,
            credential: version.credential,
            number,
            facts: facts === null ? null : json(facts),
            fingerprint: facts?.fingerprint ?? null,
            state: version.state,
            material: version.material,
            placements: json(version.placements ?? {}),
            issue_tag: tag,
            ...(version.state === "retired" ? { retired_at: new Date() } : {}),
          })
          .returningAll()
          .executeTakeFirstOrThrow();
        return toRow(row);
      }),
    async get(id) {
      const row = await db.selectFrom("versions").selectAll().where("id", "=", id).executeTakeFirst();
      return row === undefined ? undefined : toRow(row);
    },
    list: async (credential) =>
      (
        await db.selectFrom("versions").selectAll().where("credential", "=", credential).orderBy("number").execute()
      ).map(toRow),
    async listAll(filter = {}) {
      let query = db.selectFrom("versions").selectAll().orderBy("credential").orderBy("number");
      if (filter.states !== undefined) query = query.where("state", "in", filter.states);
      return (await query.execute()).map(toRow);
    },
    byFingerprint: async (fingerprint) =>
      (await db.selectFrom("versions").selectAll().where("fingerprint", "=", fingerprint).orderBy("id").execute()).map(
        toRow,
      ),
    async update(id, patch) {
      const row = await db
        .updateTable("versions")
        .set({
          id,
          ...(patch.facts === undefined
            ? {}
            : {
                facts: patch.facts === null ? null : json(patch.facts),
                fingerprint: patch.facts?.fingerprint ?? null,
              }),
          ...(patch.state === undefined
            ? {}
            : {
                state: patch.state,
                // The first retirement counts: saying it twice does not move it.
                retired_at:
                  patch.state === "retired"
                    ? sql<Date>`coalesce(retired_at, clock_timestamp())`
                    : sql<Date>`retired_at`,
              }),
          ...(patch.material === undefined ? {} : { material: patch.material }),
          ...(patch.issueTag === undefined ? {} : { issue_tag: patch.issueTag }),
        })
        .where("id", "=", id)
        .returningAll()
        .executeTakeFirst();
      if (row === undefined) throw notFound("version", id);
      return toRow(row);
    },
    async place(id, place, placement) {
      const next =
        placement === null
          ? sql<string>`placements - ${place}::text`
          : sql<string>`placements || jsonb_build_object(${place}::text, ${json(placement satisfies PlacementRow)}::jsonb)`;
      const done = await db.updateTable("versions").set({ placements: next }).where("id", "=", id).executeTakeFirst();
      if (done.numUpdatedRows === 0n) throw notFound("version", id);
    },
  };
}

function sealedQueries(db: Db): Queries["sealed"] {
  const toRow = (row: Row<"sealed">): SealedRow => ({
    id: row.id,
    owner: row.owner,
    version: row.version,
    purpose: row.purpose,
    kekId: row.kek_id,
    wrappedKey: row.wrapped_key,
    blob: row.blob,
    createdAtMs: row.created_at,
  });
  return {
    async insert(row) {
      const done = await db
        .insertInto("sealed")
        .values({
          id: row.id,
          owner: row.owner,
          version: row.version,
          purpose: row.purpose,
          kek_id: row.kekId,
          wrapped_key: row.wrappedKey,
          blob: row.blob,
        })
        .onConflict((conflict) => conflict.columns(["owner", "version", "purpose"]).doNothing())
        .executeTakeFirst();
      return done.numInsertedOrUpdatedRows === 1n;
    },
    async find(owner, version, purpose) {
      const row = await db
        .selectFrom("sealed")
        .selectAll()
        .where("owner", "=", owner)
        .where("version", "=", version)
        .where("purpose", "=", purpose)
        .executeTakeFirst();
      return row === undefined ? undefined : toRow(row);
    },
    async destroy(owner, version, purpose) {
      let query = db.deleteFrom("sealed").where("owner", "=", owner).where("version", "=", version);
      if (purpose !== undefined) query = query.where("purpose", "=", purpose);
      return Number((await query.executeTakeFirst()).numDeletedRows);
    },
    notWrappedBy: async (kekId, limit) =>
      (
        await db
          .selectFrom("sealed")
          .selectAll()
          .where("kek_id", "<>", kekId)
          .orderBy("id")
          .limit(limit)
          .$if(db.isTransaction, (query) => query.forUpdate())
          .execute()
      ).map(toRow),
    async rewrap(id, from, to, wrappedKey) {
      const done = await db
        .updateTable("sealed")
        .set({ kek_id: to, wrapped_key: wrappedKey })
        .where("id", "=", id)
        .where("kek_id", "=", from)
        .executeTakeFirst();
      return done.numUpdatedRows === 1n;
    },
    async countByKek() {
      const rows = await db
        .selectFrom("sealed")
        .select((eb) => ["kek_id", eb.fn.countAll<number>().as("count")])
        .groupBy("kek_id")
        .execute();
      return Object.fromEntries(rows.map((row) => [row.kek_id, row.count]));
    },
  };
}

function rotationRow(row: Row<"rotations">): RotationRow {
  return {
    id: row.id,
    credential: row.credential,
    mode: row.mode,
    strategy: row.strategy,
    direction: row.direction,
    fromVersion: row.from_version,
    toVersion: row.to_version,
    status: row.status,
    planDigest: row.plan_digest,
    plan: row.plan,
    exposed: row.exposed,
    startedBy: row.started_by,
    leaseOwner: row.lease_owner,
    leaseFence: row.lease_fence,
    leaseUntilMs: row.lease_until,
    nextWakeAtMs: row.next_wake_at,
    reason: row.reason,
    waitingFor: row.waiting_for,
    attempts: row.attempts,
    createdAtMs: row.created_at,
    updatedAtMs: row.updated_at,
    endedAtMs: row.ended_at,
  };
}

function rotationQueries(db: Db): Queries["rotations"] {
  const activeOf = (credential: string) =>
    db
      .selectFrom("rotations")
      .selectAll()
      .where("credential", "=", credential)
      .where("status", "in", activeStatuses)
      .executeTakeFirst();
  return {
    async create(rotation) {
      const row = await db
        .insertInto("rotations")
        .values({
          id: rotation.id ?? shortId("r"),
          credential: rotation.credential,
          mode: rotation.mode,
          strategy: rotation.strategy,
          direction: rotation.direction ?? "forward",
          from_version: rotation.fromVersion,
          to_version: rotation.toVersion ?? null,
          status: "running",
          plan_digest: rotation.planDigest,
          plan: json(rotation.plan),
          exposed: json(rotation.exposed),
          started_by: rotation.startedBy,
          // Due at once unless said otherwise: even if nobody enqueues it, the sweep finds it.
          next_wake_at: rotation.nextWakeAtMs === undefined ? dbNow : dateOrNull(rotation.nextWakeAtMs),
        })
        // No error on the double, because an error would end the caller's transaction.
        .onConflict((conflict) =>
          conflict
            .column("credential")
            .where("status", "in", sql<RotationRow["status"]>`('running', 'waiting', 'paused', 'halted')`)
            .doNothing(),
        )
        .returningAll()
        .executeTakeFirst()
        .catch((error: unknown) => {
          if (codeOf(error) === "23503") throw notFound("credential", rotation.credential);
          if (constraintOf(error) === "rotations_pkey")
            throw new StoreError("misconfigured", `there is a rotation ${rotation.id} already`);
          throw error;
        });
      if (row === undefined)
        throw new AlreadyRotating(rotation.credential, (await activeOf(rotation.credential))?.id ?? null);
      return rotationRow(row);
    },
    async get(id) {
      const row = await db.selectFrom("rotations").selectAll().where("id", "=", id).executeTakeFirst();
      return row === undefined ? undefined : rotationRow(row);
    },
    async active(credential) {
      const row = await activeOf(credential);
      return row === undefined ? undefined : rotationRow(row);
    },
    async page({ credential, statuses, owners, words = [], before, limit }) {
      const wanted = () =>
        db
          .selectFrom("rotations")
          .$if(credential !== undefined, (query) => query.where("rotations.credential", "=", credential!))
          .$if(statuses !== undefined, (query) => query.where("rotations.status", "in", [...statuses!]))
          .$if(owners !== undefined, (query) =>
            query.where("rotations.credential", "in", (from) =>
              from
                .selectFrom("credentials")
                .select("credentials.name")
                .where(sql<boolean>`credentials.owner = any(${[...owners!]}::text[])`),
            ),
          )
          .where(({ and }) =>
            and(
              words.map(
                (word) =>
                  sql<boolean>`position(lower(${word}) in lower(concat_ws(' ', rotations.id, rotations.credential, rotations.started_by, rotations.status))) > 0`,
              ),
            ),
          );
      // What leaves here has milliseconds, so that is what a page can go on from.
      const createdAt = sql<number>`date_trunc('milliseconds', rotations.created_at)`;
      const rows = await wanted()
        .selectAll()
        .$if(before !== undefined, (query) => {
          const at = new Date(before!.createdAtMs);
          return query.where(
            sql<boolean>`(${createdAt} < ${at} or (${createdAt} = ${at} and rotations.id > ${before!.id}))`,
          );
        })
        .orderBy(createdAt, "desc")
        .orderBy("rotations.id")
        .limit(limit)
        .execute();
      const { total } = await wanted()
        .select((eb) => eb.fn.countAll<number>().as("total"))
        .executeTakeFirstOrThrow();
      return { rows: rows.map(rotationRow), total };
    },
    async list(filter = {}) {
      let query = db
        .selectFrom("rotations")
        .selectAll()
        .orderBy("created_at", "desc")
        .orderBy("id")
        .limit(filter.limit ?? 200);
      if (filter.credential !== undefined) query = query.where("credential", "=", filter.credential);
      if (filter.statuses !== undefined) query = query.where("status", "in", filter.statuses);
      return (await query.execute()).map(rotationRow);
    },
    async update(id, patch) {
      const ends = patch.status !== undefined && !activeStatuses.includes(patch.status);
      const row = await db
        .updateTable("rotations")
        .set({
          updated_at: dbNow,
          ...(patch.direction === undefined ? {} : { direction: patch.direction }),
          ...(patch.fromVersion === undefined ? {} : { from_version: patch.fromVersion }),
          ...(patch.toVersion === undefined ? {} : { to_version: patch.toVersion }),
          ...(patch.status === undefined ? {} : { status: patch.status }),
          ...(patch.planDigest === undefined ? {} : { plan_digest: patch.planDigest }),
          ...(patch.plan === undefined ? {} : { plan: json(patch.plan) }),
          ...(patch.exposed === undefined ? {} : { exposed: json(patch.exposed) }),
          ...(patch.nextWakeAtMs === undefined ? {} : { next_wake_at: dateOrNull(patch.nextWakeAtMs) }),
          ...(patch.reason === undefined ? {} : { reason: patch.reason }),
          ...(patch.waitingFor === undefined ? {} : { waiting_for: patch.waitingFor }),
          ...(patch.attempts === undefined ? {} : { attempts: patch.attempts }),
          ...(ends
            ? { ended_at: dbNow, next_wake_at: null, lease_owner: null, lease_until: null, wake_requested: false }
            : {}),
        })
        .where("id", "=", id)
        .returningAll()
        .executeTakeFirst();
      if (row === undefined) throw notFound("rotation", id);
      return rotationRow(row);
    },
    async lock(id) {
      const row = await db.selectFrom("rotations").selectAll().where("id", "=", id).forUpdate().executeTakeFirst();
      return row === undefined ? undefined : rotationRow(row);
    },
  };
}

function placeQueries(db: Db): Queries["places"] {
  const toRow = (row: Row<"place_memory">): PlaceMemoryRow => ({
    rotation: row.rotation,
    place: row.place,
    memory: row.memory,
    updatedAtMs: row.updated_at,
  });
  return {
    async get(rotation, place) {
      const row = await db
        .selectFrom("place_memory")
        .selectAll()
        .where("rotation", "=", rotation)
        .where("place", "=", place)
        .executeTakeFirst();
      return row === undefined ? undefined : toRow(row);
    },
    list: async (rotation) =>
      (await db.selectFrom("place_memory").selectAll().where("rotation", "=", rotation).orderBy("place").execute()).map(
        toRow,
      ),
    async put(rotation, place, memory) {
      await db
        .insertInto("place_memory")
        .values({ rotation, place, memory: json(memory) })
        .onConflict((conflict) =>
          conflict
            .columns(["rotation", "place"])
            .doUpdateSet((eb) => ({ memory: eb.ref("excluded.memory"), updated_at: dbNow })),
        )
        .execute();
    },
  };
}

function approvalQueries(db: Db): Queries["approvals"] {
  const toRow = (row: Row<"approvals">): ApprovalRow => ({
    id: row.id,
    rotation: row.rotation,
    phase: row.phase as ApprovalRow["phase"],
    planDigest: row.plan_digest,
    nonce: row.nonce,
    person: row.person,
    verdict: row.verdict,
    comment: row.comment,
    atMs: row.at,
    expiresAtMs: row.expires_at,
    revokedAtMs: row.revoked_at,
  });
  return {
    async add(approval) {
      await db
        .insertInto("approvals")
        .values({
          rotation: approval.rotation,
          phase: approval.phase,
          plan_digest: approval.planDigest,
          nonce: approval.nonce,
          person: approval.person,
          verdict: approval.verdict,
          comment: approval.comment ?? null,
          expires_at: dateOrNull(approval.expiresAtMs),
        })
        .onConflict((conflict) => conflict.columns(["rotation", "person", "nonce"]).doNothing())
        .execute();
      const row = await db
        .selectFrom("approvals")
        .selectAll()
        .where("rotation", "=", approval.rotation)
        .where("person", "=", approval.person)
        .where("nonce", "=", approval.nonce)
        .executeTakeFirstOrThrow();
      return toRow(row);
    },
    list: async (rotation) =>
      (await db.selectFrom("approvals").selectAll().where("rotation", "=", rotation).orderBy("id").execute()).map(
        toRow,
      ),
    async valid(rotation, phase, planDigest) {
      const { rows } = await sql<Row<"approvals">>`
        select * from (
          select distinct on (person) * from keyroll.approvals
          where rotation = ${rotation} and phase = ${phase} and plan_digest = ${planDigest} and revoked_at is null
          order by person, id desc
        ) latest
        where verdict = 'approved' and (expires_at is null or expires_at > clock_timestamp())
        order by id`.execute(db);
      return rows.map(toRow);
    },
    async revoke(rotation, options = {}) {
      let query = db
        .updateTable("approvals")
        .set({ revoked_at: dbNow })
        .where("rotation", "=", rotation)
        .where("revoked_at", "is", null);
      if (options.phase !== undefined) query = query.where("phase", "=", options.phase);
      if (options.person !== undefined) query = query.where("person", "=", options.person);
      return Number((await query.executeTakeFirst()).numUpdatedRows);
    },
  };
}

function taskQueries(db: Db): Queries["tasks"] {
  const toRow = (row: Row<"tasks">): TaskRow => ({
    id: row.id,
    rotation: row.rotation,
    credential: row.credential,
    place: row.place,
    action: row.action,
    version: row.version,
    instructions: row.instructions,
    state: row.state,
    person: row.person,
    note: row.note,
    dueAtMs: row.due_at,
    checked: row.checked,
    createdAtMs: row.created_at,
    updatedAtMs: row.updated_at,
  });
  return {
    async open(task) {
      await db
        .insertInto("tasks")
        .values({
          id: shortId("t"),
          rotation: task.rotation,
          credential: task.credential,
          place: task.place,
          action: task.action,
          version: task.version,
          instructions: json(task.instructions),
          state: "open",
          person: task.person ?? null,
          due_at: dateOrNull(task.dueAtMs),
        })
        .onConflict((conflict) =>
          conflict
            .columns(["rotation", "place", "action", "version"])
            .where("state", "<>", sql<"refused">`'refused'`)
            .doNothing(),
        )
        .execute();
      const row = await db
        .selectFrom("tasks")
        .selectAll()
        .where("rotation", "=", task.rotation)
        .where("place", "=", task.place)
        .where("action", "=", task.action)
        .where("version", "=", task.version)
        .where("state", "<>", "refused")
        .executeTakeFirstOrThrow();
      return toRow(row);
    },
    async get(id) {
      const row = await db.selectFrom("tasks").selectAll().where("id", "=", id).executeTakeFirst();
      return row === undefined ? undefined : toRow(row);
    },
    async list(filter = {}) {
      let query = db.selectFrom("tasks").selectAll().orderBy("created_at").orderBy("id");
      if (filter.rotation !== undefined) query = query.where("rotation", "=", filter.rotation);
      if (filter.states !== undefined) query = query.where("state", "in", filter.states);
      if (filter.person !== undefined) query = query.where("person", "=", filter.person);
      return (await query.execute()).map(toRow);
    },
    async update(id, patch) {
      const row = await db
        .updateTable("tasks")
        .set({
          updated_at: dbNow,
          ...(patch.state === undefined ? {} : { state: patch.state }),
          ...(patch.person === undefined ? {} : { person: patch.person }),
          ...(patch.note === undefined ? {} : { note: patch.note }),
          ...(patch.dueAtMs === undefined ? {} : { due_at: dateOrNull(patch.dueAtMs) }),
          ...(patch.checked === undefined ? {} : { checked: json(patch.checked) }),
        })
        .where("id", "=", id)
        .returningAll()
        .executeTakeFirst();
      if (row === undefined) throw notFound("task", id);
      return toRow(row);
    },
  };
}

function observationQueries(db: Db): Queries["observations"] {
  const toRow = (row: Row<"observations">): ObservationRow => ({
    credential: row.credential,
    place: row.place,
    observation: row.observation,
    atMs: row.at,
    error: row.error,
    errorAtMs: row.error_at,
  });
  return {
    async saw(credential, place, observation) {
      await db
        .insertInto("observations")
        .values({ credential, place, observation: json(observation), at: dbNow, error: null, error_at: null })
        .onConflict((conflict) =>
          conflict.columns(["credential", "place"]).doUpdateSet((eb) => ({
            observation: eb.ref("excluded.observation"),
            at: dbNow,
            error: null,
            error_at: null,
          })),
        )
        .execute();
    },
    async failed(credential, place, error) {
      await db
        .insertInto("observations")
        .values({ credential, place, observation: null, at: null, error, error_at: dbNow })
        .onConflict((conflict) => conflict.columns(["credential", "place"]).doUpdateSet({ error, error_at: dbNow }))
        .execute();
    },
    async get(credential, place) {
      const row = await db
        .selectFrom("observations")
        .selectAll()
        .where("credential", "=", credential)
        .where("place", "=", place)
        .executeTakeFirst();
      return row === undefined ? undefined : toRow(row);
    },
    async list(credential) {
      let query = db.selectFrom("observations").selectAll().orderBy("credential").orderBy("place");
      if (credential !== undefined) query = query.where("credential", "=", credential);
      return (await query.execute()).map(toRow);
    },
  };
}

function journalQueries(db: Db): Queries["journal"] {
  const toRow = (row: Row<"journal">): JournalRow => ({
    seq: row.seq,
    atMs: row.at,
    actor: row.actor,
    rotation: row.rotation,
    credential: row.credential,
    kind: row.kind,
    effect: row.effect,
    payload: row.payload,
    prevHash: row.prev_hash,
    hash: row.hash,
  });
  return {
    async lockHead() {
      if (!db.isTransaction) throw new Error("the journal's end can only be locked inside a transaction");
      const { rows } = await sql<{ seq: number; hash: string; now: number }>`
        select seq, hash, date_trunc('milliseconds', clock_timestamp()) as now from keyroll.journal_head for update`.execute(
        db,
      );
      const head = rows[0];
      if (head === undefined)
        throw new StoreError("tampered", "the journal's head is missing", "run: keyroll audit verify");
      return { seq: head.seq, hash: head.hash, nowMs: head.now };
    },
    async insert(rows) {
      const last = rows.at(-1);
      if (last === undefined) return;
      await db
        .with("added", (cte) =>
          cte
            .insertInto("journal")
            .values(
              rows.map((row) => ({
                seq: row.seq,
                at: new Date(row.atMs),
                actor: row.actor,
                rotation: row.rotation,
                credential: row.credential,
                kind: row.kind,
                effect: row.effect,
                payload: json(row.payload),
                prev_hash: row.prevHash,
                hash: row.hash,
              })),
            )
            .returning("seq"),
        )
        .updateTable("journal_head")
        .set({ seq: last.seq, hash: last.hash })
        .execute();
    },
    async head() {
      const row = await db.selectFrom("journal_head").select(["seq", "hash"]).executeTakeFirst();
      if (row === undefined)
        throw new StoreError("tampered", "the journal's head is missing", "run: keyroll audit verify");
      return row;
    },
    page: async (afterSeq, limit) =>
      (
        await db.selectFrom("journal").selectAll().where("seq", ">", afterSeq).orderBy("seq").limit(limit).execute()
      ).map(toRow),
    async list(filter = {}) {
      let query = db
        .selectFrom("journal")
        .selectAll()
        .orderBy("seq", "desc")
        .limit(filter.limit ?? 200);
      if (filter.rotation !== undefined) query = query.where("rotation", "=", filter.rotation);
      if (filter.credential !== undefined) query = query.where("credential", "=", filter.credential);
      if (filter.kinds !== undefined) query = query.where("kind", "in", filter.kinds);
      if (filter.beforeSeq !== undefined) query = query.where("seq", "<", filter.beforeSeq);
      return (await query.execute()).map(toRow);
    },
    openIntents: async (rotation) =>
      (
        await db
          .selectFrom("journal as intent")
          .selectAll("intent")
          .where("intent.rotation", "=", rotation)
          .where("intent.kind", "=", "intent")
          .where(({ not, exists, selectFrom }) =>
            not(
              exists(
                selectFrom("journal as outcome")
                  .select("outcome.seq")
                  .whereRef("outcome.effect", "=", "intent.effect")
                  .where("outcome.kind", "=", "outcome"),
              ),
            ),
          )
          .orderBy("intent.seq")
          .execute()
      ).map(toRow),
  };
}

const importBatch = 5_000;

function copyKey(item: InventoryItem): Buffer {
  const hash = createHash("sha256");
  // Lengths first, so that no two identities run together.
  for (const part of [item.source, item.path, item.fingerprint, item.kind]) hash.update(`${part.length}:${part}`);
  return hash.digest().subarray(0, 16);
}

function inventoryQueries(db: Db): Queries["inventory"] {
  const toRow = (row: Row<"inventory">): InventoryRow => ({
    id: row.id,
    fingerprint: row.fingerprint,
    publicKey: row.public_key,
    source: row.source,
    path: row.path,
    kind: row.kind,
    owner: row.owner,
    notAfterMs: row.not_after,
    facts: row.facts,
    firstSeenAtMs: row.first_seen_at,
    seenAtMs: row.seen_at,
  });
  /** Arrays instead of rows of parameters: one statement of ten parameters however many items there are. */
  async function importBatchOf(items: ReadonlyMap<string, InventoryItem>): Promise<number> {
    const all = [...items.values()];
    const { rows } = await sql<{ added: number }>`
      with put as (
        insert into keyroll.inventory (copy, fingerprint, public_key, source, path, kind, owner, not_after, facts)
        select * from unnest(
          ${[...items.keys()].map((key) => `\\x${key}`)}::bytea[],
          ${all.map((item) => item.fingerprint)}::text[],
          ${all.map((item) => item.publicKey)}::text[],
          ${all.map((item) => item.source)}::text[],
          ${all.map((item) => item.path)}::text[],
          ${all.map((item) => item.kind)}::text[],
          ${all.map((item) => item.owner)}::text[],
          ${all.map((item) => (item.notAfterMs === null ? null : new Date(item.notAfterMs).toISOString()))}::timestamptz[],
          ${all.map((item) => json(item.facts))}::jsonb[]
        )
        on conflict (copy) do update set
          public_key = excluded.public_key, owner = excluded.owner, not_after = excluded.not_after, facts = excluded.facts,
          seen_at = clock_timestamp()
        returning xmax = 0 as fresh
      )
      select count(*) filter (where fresh) as added from put`.execute(db);
    return rows[0]!.added;
  }
  return {
    async import(items) {
      let rows = 0;
      let added = 0;
      // One statement cannot touch a row twice: the last one of equal items in a batch wins.
      let batch = new Map<string, InventoryItem>();
      for await (const item of items) {
        batch.set(copyKey(item).toString("hex"), item);
        rows++;
        if (batch.size < importBatch) continue;
        added += await importBatchOf(batch);
        batch = new Map();
      }
      if (batch.size > 0) added += await importBatchOf(batch);
      return { rows, added };
    },
    async forgetUnseen(source, beforeMs) {
      const done = await db
        .deleteFrom("inventory")
        .where("source", "=", source)
        .where("seen_at", "<", sql<number>`${new Date(beforeMs)}`)
        .executeTakeFirst();
      return Number(done.numDeletedRows);
    },
    async expiring(filter) {
      let query = db
        .selectFrom("inventory")
        .selectAll()
        .where("not_after", "<", sql<number>`${new Date(filter.beforeMs)}`)
        .orderBy("not_after")
        .orderBy("id")
        .limit(filter.limit ?? 1_000);
      if (filter.afterMs !== undefined)
        query = query.where("not_after", ">=", sql<number>`${new Date(filter.afterMs)}`);
      if (filter.owner !== undefined) query = query.where("owner", "=", filter.owner);
      return (await query.execute()).map(toRow);
    },
    copies: async (fingerprint) =>
      (await db.selectFrom("inventory").selectAll().where("fingerprint", "=", fingerprint).orderBy("id").execute()).map(
        toRow,
      ),
    sharingKey: async (publicKey) =>
      (await db.selectFrom("inventory").selectAll().where("public_key", "=", publicKey).orderBy("id").execute()).map(
        toRow,
      ),
    async list(filter = {}) {
      let query = db
        .selectFrom("inventory")
        .selectAll()
        .orderBy("id")
        .limit(filter.limit ?? 1_000);
      if (filter.source !== undefined) query = query.where("source", "=", filter.source);
      if (filter.afterId !== undefined) query = query.where("id", ">", filter.afterId);
      return (await query.execute()).map(toRow);
    },
    async count() {
      const row = await db
        .selectFrom("inventory")
        .select((eb) => eb.fn.countAll<number>().as("count"))
        .executeTakeFirstOrThrow();
      return row.count;
    },
  };
}

function settingQueries(db: Db): Queries["settings"] {
  const get = async (name: string, lock?: "share" | "update"): Promise<Json | undefined> =>
    (
      await db
        .selectFrom("settings")
        .select("value")
        .where("name", "=", name)
        .$if(lock === "share", (query) => query.forShare())
        .$if(lock === "update", (query) => query.forUpdate())
        .executeTakeFirst()
    )?.value;
  return {
    get: (name) => get(name),
    getLocked: (name, mode) => get(name, mode),
    async put(name, value) {
      await db
        .insertInto("settings")
        .values({ name, value: json(value) })
        .onConflict((conflict) => conflict.column("name").doUpdateSet((eb) => ({ value: eb.ref("excluded.value") })))
        .execute();
    },
    async putIfAbsent(name, value) {
      await db
        .insertInto("settings")
        .values({ name, value: json(value) })
        .onConflict((conflict) => conflict.column("name").doNothing())
        .execute();
      const there = await get(name);
      if (there === undefined) throw new Error(`the setting ${name} vanished while it was written`);
      return there;
    },
    async delete(name) {
      await db.deleteFrom("settings").where("name", "=", name).execute();
    },
  };
}
