/**
 * The schema `keyroll`, as an ordered list that only ever grows. Each migration runs once, in a transaction, under an advisory lock, so that
 * any number of processes may start at once. A released migration is never edited: its digest is compared.
 */
import { createHash } from "node:crypto";
import type pg from "pg";
import { StoreError } from "./store.ts";

interface Migration {
  readonly number: number;
  readonly name: string;
  readonly sql: string;
}

/** Any number that is ours: "keyroll" has no meaning to PostgreSQL. */
const lockKey = 0x6b65_7972;

export const migrations: readonly Migration[] = [
  {
    number: 1,
    name: "the first schema",
    sql: `
create table keyroll.estate_revisions (
  number integer generated always as identity primary key,
  digest text not null,
  text text not null,
  applied_by text not null,
  applied_at timestamptz not null default clock_timestamp()
);

create table keyroll.credentials (
  name text primary key,
  owner text not null,
  kind text not null,
  labels jsonb not null,
  declaration jsonb not null,
  declared boolean not null,
  updated_at timestamptz not null default clock_timestamp(),
  next_version integer not null default 1
);

create table keyroll.versions (
  id text primary key,
  credential text not null references keyroll.credentials (name),
  number integer not null,
  facts jsonb,
  fingerprint text,
  state text not null check (state in ('pending', 'current', 'retiring', 'retired', 'compromised')),
  material text not null check (material in ('none', 'volatile', 'sealed', 'lost')),
  placements jsonb not null,
  issue_tag text,
  created_at timestamptz not null default clock_timestamp(),
  retired_at timestamptz,
  unique (credential, number)
);
create unique index versions_tag on keyroll.versions (credential, issue_tag) where issue_tag is not null;
create index versions_fingerprint on keyroll.versions (fingerprint);
create index versions_state on keyroll.versions (state) where state <> 'retired';

create table keyroll.sealed (
  id text primary key,
  owner text not null,
  version text not null,
  purpose text not null,
  kek_id text not null,
  wrapped_key bytea not null,
  blob bytea not null,
  created_at timestamptz not null default clock_timestamp(),
  unique (owner, version, purpose)
);
create index sealed_kek on keyroll.sealed (kek_id);

create table keyroll.rotations (
  id text primary key,
  credential text not null references keyroll.credentials (name),
  mode text not null check (mode in ('planned', 'breach')),
  strategy text not null check (strategy in ('availability-first', 'contain-first')),
  direction text not null check (direction in ('forward', 'back')),
  from_version text,
  to_version text,
  status text not null check (status in ('running', 'waiting', 'paused', 'halted', 'done', 'rolled-back', 'cancelled')),
  plan_digest text not null,
  plan jsonb not null,
  exposed jsonb not null,
  started_by text not null,
  lease_owner text,
  lease_fence bigint not null default 0,
  lease_until timestamptz,
  next_wake_at timestamptz,
  -- Somebody asked for another look while a worker held the lease.
  wake_requested boolean not null default false,
  swept_at timestamptz,
  reason text,
  waiting_for text,
  attempts integer not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz
);
create unique index rotations_one_active on keyroll.rotations (credential)
  where status in ('running', 'waiting', 'paused', 'halted');
create index rotations_wake on keyroll.rotations (next_wake_at) where status in ('running', 'waiting');
create index rotations_lease on keyroll.rotations (lease_until) where status in ('running', 'waiting') and lease_owner is not null;
create index rotations_requested on keyroll.rotations (id) where wake_requested;
create index rotations_asleep on keyroll.rotations (updated_at) where status = 'running' and next_wake_at is null;
create index rotations_newest on keyroll.rotations (created_at desc);
create index rotations_of_credential on keyroll.rotations (credential, created_at desc);

create table keyroll.place_memory (
  rotation text not null references keyroll.rotations (id),
  place text not null,
  memory jsonb not null,
  updated_at timestamptz not null default clock_timestamp(),
  primary key (rotation, place)
);

create table keyroll.approvals (
  id bigint generated always as identity primary key,
  rotation text not null references keyroll.rotations (id),
  phase text not null,
  plan_digest text not null,
  nonce text not null,
  person text not null,
  verdict text not null check (verdict in ('approved', 'rejected')),
  comment text,
  at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  unique (rotation, person, nonce)
);

create table keyroll.tasks (
  id text primary key,
  rotation text not null references keyroll.rotations (id),
  credential text not null,
  place text not null,
  action text not null check (action in ('add', 'activate', 'remove')),
  version text not null,
  instructions jsonb not null,
  state text not null check (state in ('open', 'done', 'refused', 'handed-over')),
  person text,
  note text,
  due_at timestamptz,
  checked jsonb,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp()
);
-- A refused task may be followed by a new one for the same action.
create unique index tasks_one_live on keyroll.tasks (rotation, place, action, version) where state <> 'refused';
create index tasks_state on keyroll.tasks (state, due_at);

create table keyroll.observations (
  credential text not null,
  place text not null,
  observation jsonb,
  at timestamptz,
  error text,
  error_at timestamptz,
  primary key (credential, place)
);

create table keyroll.journal (
  seq bigint primary key,
  at timestamptz not null,
  actor text not null,
  rotation text,
  credential text,
  kind text not null,
  effect text,
  payload jsonb not null,
  prev_hash text not null,
  hash text not null
);
create index journal_rotation on keyroll.journal (rotation, seq) where rotation is not null;
create index journal_credential on keyroll.journal (credential, seq) where credential is not null;
create unique index journal_intent on keyroll.journal (effect) where kind = 'intent';
-- An effect has one outcome: a worker that was fenced off cannot add a second one.
create unique index journal_outcome on keyroll.journal (effect) where kind = 'outcome';

create table keyroll.journal_head (
  one boolean primary key default true check (one),
  seq bigint not null,
  hash text not null
);
insert into keyroll.journal_head (seq, hash) values (0, repeat('0', 64));

create function keyroll.journal_is_append_only() returns trigger language plpgsql as $$
begin
  raise exception 'the journal is append-only' using errcode = 'restrict_violation';
end $$;
create trigger journal_no_change before update or delete on keyroll.journal
  for each row execute function keyroll.journal_is_append_only();
create trigger journal_no_truncate before truncate on keyroll.journal
  for each statement execute function keyroll.journal_is_append_only();

create table keyroll.inventory (
  id bigint generated always as identity primary key,
  -- First half of SHA-256 over source, path, fingerprint and kind: a narrow unique key for a wide identity.
  copy bytea not null unique,
  fingerprint text not null,
  public_key text,
  source text not null,
  path text not null,
  kind text not null,
  owner text,
  not_after timestamptz,
  facts jsonb not null,
  first_seen_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp()
);
create index inventory_fingerprint on keyroll.inventory (fingerprint);
create index inventory_public_key on keyroll.inventory (public_key) where public_key is not null;
create index inventory_owner_expiry on keyroll.inventory (owner, not_after, id) where not_after is not null;
create index inventory_expiry on keyroll.inventory (not_after, id) where not_after is not null;
create index inventory_source on keyroll.inventory (source, seen_at);

create table keyroll.settings (
  name text primary key,
  value jsonb not null
);
`,
  },
  {
    number: 2,
    name: "people, sessions and API tokens",
    sql: `
create table keyroll.people (
  person text primary key,
  name text not null,
  grants jsonb not null,
  disabled boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  signed_in_at timestamptz
);

-- Of codes, sessions and tokens only SHA-256 is kept: they are random, so that nothing can be guessed from it.
create table keyroll.sign_in_codes (
  hash bytea primary key,
  person text not null references keyroll.people (person),
  loopback_only boolean not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null
);
create index sign_in_codes_person on keyroll.sign_in_codes (person);

create table keyroll.sessions (
  hash bytea primary key,
  person text not null references keyroll.people (person),
  created_at timestamptz not null default clock_timestamp(),
  used_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null
);
create index sessions_person on keyroll.sessions (person);

create table keyroll.api_tokens (
  id text primary key,
  hash bytea not null unique,
  person text not null references keyroll.people (person),
  label text not null,
  grants jsonb not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  used_at timestamptz,
  revoked_at timestamptz
);
create index api_tokens_person on keyroll.api_tokens (person, created_at);

create table keyroll.api_requests (
  person text not null,
  key text not null,
  digest text not null,
  status integer,
  answer jsonb,
  at timestamptz not null default clock_timestamp(),
  primary key (person, key)
);
create index api_requests_at on keyroll.api_requests (at);
`,
  },
];

const digestOf = (migration: Migration): string => createHash("sha256").update(migration.sql).digest("hex");

/** Brings the database up to this program's schema. Does nothing where it is there already; refuses a newer or a foreign one. */
export async function migrate(client: pg.ClientBase, list: readonly Migration[] = migrations): Promise<void> {
  const newest = list.at(-1)!.number;
  // The usual start changes nothing, and then needs neither the lock nor the right to create schemas.
  if ((await applied(client, list)) === newest) return;
  await client.query("begin");
  try {
    await client.query("select pg_advisory_xact_lock($1)", [lockKey]);
    await client.query("create schema if not exists keyroll");
    await client.query(
      "create table if not exists keyroll.migrations " +
        "(number integer primary key, name text not null, digest text not null, at timestamptz not null default clock_timestamp())",
    );
    const have = await applied(client, list);
    for (const migration of list) {
      if (migration.number <= have) continue;
      await client.query(migration.sql);
      await client.query("insert into keyroll.migrations (number, name, digest) values ($1, $2, $3)", [
        migration.number,
        migration.name,
        digestOf(migration),
      ]);
    }
    await client.query("commit");
  } catch (error) {
    // The error that led here says more than one from a rollback on a dead connection.
    await client.query("rollback").catch(() => undefined);
    throw error;
  }
}

/** The number of the last migration that was applied, 0 for an empty database. */
async function applied(client: pg.ClientBase, list: readonly Migration[]): Promise<number> {
  const table = await client.query<{ there: boolean }>("select to_regclass('keyroll.migrations') is not null as there");
  if (table.rows[0]?.there !== true) return 0;
  const { rows } = await client.query<{ number: number; digest: string }>(
    "select number, digest from keyroll.migrations order by number",
  );
  const newest = list.at(-1)!.number;
  const last = rows.at(-1)?.number ?? 0;
  if (last > newest) {
    throw new StoreError(
      "newer-schema",
      `the database has schema ${last}, and this Keyroll knows schemas up to ${newest}`,
      "use the Keyroll version that made it, or a later one; nothing was changed",
    );
  }
  for (const row of rows) {
    const ours = list.find((migration) => migration.number === row.number);
    if (ours === undefined || digestOf(ours) !== row.digest) {
      throw new StoreError(
        "newer-schema",
        `migration ${row.number} of the database is not the one that this Keyroll knows`,
        "the database belongs to another build of Keyroll; use that one",
      );
    }
  }
  return last;
}
