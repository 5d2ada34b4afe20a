/** The tables as Kysely sees them. `migrations.ts` makes them; a test compares the two. */
import type { ColumnType, Generated } from "kysely";
import type { MaterialState } from "../core/model.ts";
import type { CredentialDecl, CredentialKind, Observation, VersionFacts, VersionState } from "../core/place.ts";
import type { GrantRow } from "./people.ts";
import type { Json, JournalKind, PlacementRow, RotationMode, RotationStatus, TaskState } from "./store.ts";

/** Read as milliseconds since the epoch (see `pool.ts`), written as a `Date`. */
type Time = ColumnType<number, Date, Date>;
type OptionalTime = ColumnType<number | null, Date | null | undefined, Date | null>;
type DefaultTime = ColumnType<number, Date | undefined, Date>;
/** Read parsed, written as JSON text. */
type JsonColumn<T> = ColumnType<T, string, string>;

export interface Tables {
  estate_revisions: {
    number: Generated<number>;
    digest: string;
    text: string;
    applied_by: string;
    applied_at: DefaultTime;
  };
  credentials: {
    name: string;
    owner: string;
    kind: CredentialKind;
    labels: JsonColumn<Record<string, string>>;
    declaration: JsonColumn<CredentialDecl>;
    declared: boolean;
    updated_at: DefaultTime;
    next_version: Generated<number>;
  };
  versions: {
    id: string;
    credential: string;
    number: number;
    facts: JsonColumn<VersionFacts> | null;
    fingerprint: string | null;
    state: VersionState;
    material: MaterialState;
    placements: JsonColumn<Record<string, PlacementRow>>;
    issue_tag: string | null;
    created_at: DefaultTime;
    retired_at: OptionalTime;
  };
  sealed: {
    id: string;
    owner: string;
    version: string;
    purpose: string;
    kek_id: string;
    wrapped_key: Buffer;
    blob: Buffer;
    created_at: DefaultTime;
  };
  rotations: {
    id: string;
    credential: string;
    mode: RotationMode;
    strategy: "availability-first" | "contain-first";
    direction: "forward" | "back";
    from_version: string | null;
    to_version: string | null;
    status: RotationStatus;
    plan_digest: string;
    plan: JsonColumn<Json>;
    exposed: JsonColumn<string[]>;
    started_by: string;
    lease_owner: string | null;
    lease_fence: Generated<number>;
    lease_until: OptionalTime;
    next_wake_at: OptionalTime;
    wake_requested: Generated<boolean>;
    swept_at: OptionalTime;
    reason: string | null;
    waiting_for: string | null;
    attempts: Generated<number>;
    created_at: DefaultTime;
    updated_at: DefaultTime;
    ended_at: OptionalTime;
  };
  place_memory: {
    rotation: string;
    place: string;
    memory: JsonColumn<Json>;
    updated_at: DefaultTime;
  };
  approvals: {
    id: Generated<number>;
    rotation: string;
    phase: string;
    plan_digest: string;
    nonce: string;
    person: string;
    verdict: "approved" | "rejected";
    comment: string | null;
    at: DefaultTime;
    expires_at: OptionalTime;
    revoked_at: OptionalTime;
  };
  tasks: {
    id: string;
    rotation: string;
    credential: string;
    place: string;
    action: "add" | "activate" | "remove";
    version: string;
    instructions: JsonColumn<Json>;
    state: TaskState;
    person: string | null;
    note: string | null;
    due_at: OptionalTime;
    checked: JsonColumn<Json> | null;
    created_at: DefaultTime;
    updated_at: DefaultTime;
  };
  observations: {
    credential: string;
    place: string;
    observation: JsonColumn<Observation> | null;
    at: OptionalTime;
    error: string | null;
    error_at: OptionalTime;
  };
  journal: {
    seq: number;
    at: Time;
    actor: string;
    rotation: string | null;
    credential: string | null;
    kind: JournalKind;
    effect: string | null;
    payload: JsonColumn<Json>;
    prev_hash: string;
    hash: string;
  };
  journal_head: { one: Generated<boolean>; seq: number; hash: string };
  inventory: {
    id: Generated<number>;
    copy: Buffer;
    fingerprint: string;
    public_key: string | null;
    source: string;
    path: string;
    kind: string;
    owner: string | null;
    not_after: OptionalTime;
    facts: JsonColumn<Json>;
    first_seen_at: DefaultTime;
    seen_at: DefaultTime;
  };
  settings: { name: string; value: JsonColumn<Json> };
  people: {
    person: string;
    name: string;
    grants: JsonColumn<GrantRow[]>;
    disabled: Generated<boolean>;
    created_at: DefaultTime;
    signed_in_at: OptionalTime;
  };
  sign_in_codes: {
    hash: Buffer;
    person: string;
    loopback_only: boolean;
    created_at: DefaultTime;
    expires_at: Time;
  };
  sessions: {
    hash: Buffer;
    person: string;
    created_at: DefaultTime;
    used_at: DefaultTime;
    expires_at: Time;
  };
  api_tokens: {
    id: string;
    hash: Buffer;
    person: string;
    label: string;
    grants: JsonColumn<GrantRow[]>;
    created_at: DefaultTime;
    expires_at: Time;
    used_at: OptionalTime;
    revoked_at: OptionalTime;
  };
  api_requests: {
    person: string;
    key: string;
    digest: string;
    /** Absent while it is being done. */
    answer: JsonColumn<Json> | null;
    status: number | null;
    at: DefaultTime;
  };
}
