/** People who sign in to the server, with their sessions and API tokens, and the writes that were asked for under an idempotency key. */
import { sql, type Kysely, type Selectable } from "kysely";
import type { Tables } from "./schema.ts";
import type { Json } from "./store.ts";

/** `owner`: of credentials; `*`: all of them, and the installation itself. */
export interface GrantRow {
  readonly role: "viewer" | "operator" | "approver" | "admin";
  readonly owner: string;
}
export interface PersonRow {
  readonly person: string;
  readonly name: string;
  readonly grants: readonly GrantRow[];
  readonly disabled: boolean;
  readonly createdAtMs: number;
  readonly signedInAtMs: number | null;
}
export interface SessionRow {
  readonly person: PersonRow;
  readonly expiresAtMs: number;
}
export interface TokenRow {
  readonly id: string;
  readonly person: string;
  readonly label: string;
  readonly grants: readonly GrantRow[];
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
  readonly usedAtMs: number | null;
  readonly revokedAtMs: number | null;
}
export type RequestState =
  /** Nobody asked for it under this key: it is yours now. */
  | { readonly state: "new" }
  /** It is being done. */
  | { readonly state: "running" }
  | { readonly state: "done"; readonly status: number; readonly answer: Json }
  /** The key was used for another request. */
  | { readonly state: "other" };

/** Every secret comes as its SHA-256. Expiry is judged by the database's clock. */
export interface PeopleQueries {
  get(person: string): Promise<PersonRow | undefined>;
  list(): Promise<readonly PersonRow[]>;
  /** Adds; somebody of that name is left as they are, and `false` returned. */
  add(person: { person: string; name: string; grants: readonly GrantRow[] }): Promise<boolean>;
  /** Locking somebody out ends their sessions and sign-in codes; their tokens are refused while it lasts. */
  update(
    person: string,
    patch: Partial<Pick<PersonRow, "name" | "grants" | "disabled">>,
  ): Promise<PersonRow | undefined>;
  /** Somebody who is not locked out has the role of an admin over everything. `signedIn`: and has signed in once. */
  hasAdmin(options?: { readonly signedIn: boolean }): Promise<boolean>;

  addCode(code: { hash: Buffer; person: string; loopbackOnly: boolean; lifeMs: number }): Promise<number>;
  /** Uses it up. `undefined`: there is none, it is over, its person is locked out, or it is bound to loopback and the caller is not. */
  takeCode(hash: Buffer, fromLoopback: boolean): Promise<PersonRow | undefined>;

  /** Returns when it ends. */
  addSession(session: { hash: Buffer; person: string; lifeMs: number }): Promise<number>;
  /** Also notes the use, at most every minute. `undefined`: unknown, over, idle for too long, or its person is locked out. */
  useSession(hash: Buffer, idleMs: number): Promise<SessionRow | undefined>;
  endSession(hash: Buffer): Promise<void>;

  addToken(token: {
    id: string;
    hash: Buffer;
    person: string;
    label: string;
    grants: readonly GrantRow[];
    lifeMs: number;
  }): Promise<TokenRow>;
  useToken(hash: Buffer): Promise<{ readonly token: TokenRow; readonly person: PersonRow } | undefined>;
  getToken(id: string): Promise<TokenRow | undefined>;
  /** Newest first. */
  tokens(person?: string): Promise<readonly TokenRow[]>;
  revokeToken(id: string): Promise<void>;

  /**
   * The first caller gets `new`, and must call {@link answer} or {@link forget}. One that was not answered within `lostAfterMs` may be tried
   * again: its process has died.
   */
  request(person: string, key: string, digest: string, lostAfterMs: number): Promise<RequestState>;
  answer(person: string, key: string, status: number, answer: Json): Promise<void>;
  forget(person: string, key: string): Promise<void>;
  /** Deletes what is over: codes, sessions, and requests older than this. */
  sweepPeople(requestsOlderThanMs: number): Promise<void>;
}

type Db = Kysely<Tables>;
const after = (lifeMs: number) => sql<Date>`clock_timestamp() + ${lifeMs} * interval '1 millisecond'`;
const now = sql<number>`clock_timestamp()`;
const nowDate = sql<Date>`clock_timestamp()`;
const json = (value: unknown): string => JSON.stringify(value);

const personOf = (row: Selectable<Tables["people"]>): PersonRow => ({
  person: row.person,
  name: row.name,
  grants: row.grants,
  disabled: row.disabled,
  createdAtMs: row.created_at,
  signedInAtMs: row.signed_in_at,
});
const tokenOf = (row: Omit<Selectable<Tables["api_tokens"]>, "hash">): TokenRow => ({
  id: row.id,
  person: row.person,
  label: row.label,
  grants: row.grants,
  createdAtMs: row.created_at,
  expiresAtMs: row.expires_at,
  usedAtMs: row.used_at,
  revokedAtMs: row.revoked_at,
});
const everything: readonly GrantRow[] = [{ role: "admin", owner: "*" }];

export function peopleQueries(db: Db): PeopleQueries {
  const get = async (person: string): Promise<PersonRow | undefined> => {
    const row = await db.selectFrom("people").selectAll().where("person", "=", person).executeTakeFirst();
    return row === undefined ? undefined : personOf(row);
  };
  return {
    get,
    list: async () => (await db.selectFrom("people").selectAll().orderBy("person").execute()).map(personOf),
    async add({ person, name, grants }) {
      const { numInsertedOrUpdatedRows } = await db
        .insertInto("people")
        .values({ person, name, grants: json(grants) })
        .onConflict((conflict) => conflict.column("person").doNothing())
        .executeTakeFirstOrThrow();
      return numInsertedOrUpdatedRows === 1n;
    },
    async update(person, { name, grants, disabled }) {
      const row = await db
        .updateTable("people")
        .set({
          // Named again, because an update of nothing is no statement.
          person,
          ...(name === undefined ? {} : { name }),
          ...(grants === undefined ? {} : { grants: json(grants) }),
          ...(disabled === undefined ? {} : { disabled }),
        })
        .where("person", "=", person)
        .returningAll()
        .executeTakeFirst();
      if (row === undefined) return undefined;
      if (row.disabled) {
        await db.deleteFrom("sessions").where("person", "=", person).execute();
        await db.deleteFrom("sign_in_codes").where("person", "=", person).execute();
      }
      return personOf(row);
    },
    async hasAdmin(options) {
      const row = await db
        .selectFrom("people")
        .select("person")
        .where("disabled", "=", false)
        .$if(options?.signedIn === true, (query) => query.where("signed_in_at", "is not", null))
        .where(sql<boolean>`grants @> ${json(everything)}::jsonb`)
        .limit(1)
        .executeTakeFirst();
      return row !== undefined;
    },

    async addCode({ hash, person, loopbackOnly, lifeMs }) {
      const row = await db
        .insertInto("sign_in_codes")
        .values({ hash, person, loopback_only: loopbackOnly, expires_at: after(lifeMs) })
        .returning("expires_at")
        .executeTakeFirstOrThrow();
      return row.expires_at;
    },
    async takeCode(hash, fromLoopback) {
      // Deleted as it is read: of two browsers with one code, one gets in.
      const code = await db
        .deleteFrom("sign_in_codes")
        .where("hash", "=", hash)
        .where("expires_at", ">", now)
        .$if(!fromLoopback, (query) => query.where("loopback_only", "=", false))
        .returning("person")
        .executeTakeFirst();
      if (code === undefined) return undefined;
      const row = await db
        .updateTable("people")
        .set({ signed_in_at: nowDate })
        .where("person", "=", code.person)
        .where("disabled", "=", false)
        .returningAll()
        .executeTakeFirst();
      return row === undefined ? undefined : personOf(row);
    },

    async addSession({ hash, person, lifeMs }) {
      const row = await db
        .insertInto("sessions")
        .values({ hash, person, expires_at: after(lifeMs) })
        .returning("expires_at")
        .executeTakeFirstOrThrow();
      return row.expires_at;
    },
    async useSession(hash, idleMs) {
      const row = await db
        .selectFrom("sessions")
        .innerJoin("people", "people.person", "sessions.person")
        .selectAll("people")
        .select("sessions.expires_at")
        .select(sql<boolean>`sessions.used_at < clock_timestamp() - interval '1 minute'`.as("note"))
        .where("sessions.hash", "=", hash)
        .where("sessions.expires_at", ">", now)
        .where(sql<boolean>`sessions.used_at > clock_timestamp() - ${idleMs} * interval '1 millisecond'`)
        .where("people.disabled", "=", false)
        .executeTakeFirst();
      if (row === undefined) return undefined;
      if (row.note) await db.updateTable("sessions").set({ used_at: nowDate }).where("hash", "=", hash).execute();
      return { person: personOf(row), expiresAtMs: row.expires_at };
    },
    async endSession(hash) {
      await db.deleteFrom("sessions").where("hash", "=", hash).execute();
    },

    async addToken({ id, hash, person, label, grants, lifeMs }) {
      const row = await db
        .insertInto("api_tokens")
        .values({ id, hash, person, label, grants: json(grants), expires_at: after(lifeMs) })
        .returningAll()
        .executeTakeFirstOrThrow();
      return tokenOf(row);
    },
    async useToken(hash) {
      const row = await db
        .selectFrom("api_tokens")
        .selectAll()
        .where("hash", "=", hash)
        .where("expires_at", ">", now)
        .where("revoked_at", "is", null)
        .executeTakeFirst();
      const person = row === undefined ? undefined : await get(row.person);
      if (row === undefined || person === undefined || person.disabled) return undefined;
      await db
        .updateTable("api_tokens")
        .set({ used_at: nowDate })
        .where("id", "=", row.id)
        .where(sql<boolean>`used_at is null or used_at < clock_timestamp() - interval '1 minute'`)
        .execute();
      return { token: tokenOf(row), person };
    },
    async getToken(id) {
      const row = await db.selectFrom("api_tokens").selectAll().where("id", "=", id).executeTakeFirst();
      return row === undefined ? undefined : tokenOf(row);
    },
    async tokens(person) {
      const rows = await db
        .selectFrom("api_tokens")
        .selectAll()
        .$if(person !== undefined, (query) => query.where("person", "=", person!))
        .orderBy("created_at", "desc")
        .limit(10_000)
        .execute();
      return rows.map(tokenOf);
    },
    async revokeToken(id) {
      await db
        .updateTable("api_tokens")
        .set({ revoked_at: nowDate })
        .where("id", "=", id)
        .where("revoked_at", "is", null)
        .execute();
    },

    async request(person, key, digest, lostAfterMs) {
      const taken = await db
        .insertInto("api_requests")
        .values({ person, key, digest })
        .onConflict((conflict) =>
          conflict
            .columns(["person", "key"])
            .doUpdateSet({ at: nowDate })
            .where("api_requests.status", "is", null)
            .where("api_requests.digest", "=", digest)
            .where(sql<boolean>`api_requests.at < clock_timestamp() - ${lostAfterMs} * interval '1 millisecond'`),
        )
        .returning("key")
        .executeTakeFirst();
      if (taken !== undefined) return { state: "new" };
      const row = await db
        .selectFrom("api_requests")
        .selectAll()
        .where("person", "=", person)
        .where("key", "=", key)
        .executeTakeFirst();
      // Forgotten in between: whoever had it failed, and this one may be sent again.
      if (row === undefined) return { state: "running" };
      if (row.digest !== digest) return { state: "other" };
      return row.status === null
        ? { state: "running" }
        : { state: "done", status: row.status, answer: row.answer ?? null };
    },
    async answer(person, key, status, answer) {
      await db
        .updateTable("api_requests")
        .set({ status, answer: json(answer) })
        .where("person", "=", person)
        .where("key", "=", key)
        .execute();
    },
    async forget(person, key) {
      await db
        .deleteFrom("api_requests")
        .where("person", "=", person)
        .where("key", "=", key)
        .where("status", "is", null)
        .execute();
    },
    async sweepPeople(requestsOlderThanMs) {
      await db.deleteFrom("sign_in_codes").where("expires_at", "<", now).execute();
      await db.deleteFrom("sessions").where("expires_at", "<", now).execute();
      await db
        .deleteFrom("api_requests")
        .where(sql<boolean>`at < clock_timestamp() - ${requestsOlderThanMs} * interval '1 millisecond'`)
        .execute();
    },
  };
}
