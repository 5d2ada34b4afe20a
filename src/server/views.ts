/** Rows of the heart as documents of the API. Field by field: what is not named here does not leave. */
import type { RunView, StatusItem } from "../app.ts";
import type { CredentialDecl, PlaceDecl } from "../core/place.ts";
import type { Plan } from "../core/plan.ts";
import type { Explanation } from "../core/explain.ts";
import type { PersonRow, TokenRow } from "../store/people.ts";
import type { InventoryRow, JournalRow, ObservationRow, RotationRow, TaskRow, VersionRow } from "../store/store.ts";
import type {
  CredentialItem,
  ExplanationView,
  FoundView,
  JournalEntry,
  PersonView,
  PlaceView,
  PlanView,
  RotationItem,
  TaskView,
  TokenView,
  VersionView,
} from "./schema.ts";
import type { Known, Snapshot } from "./snapshot.ts";
import { textOf } from "./words.ts";

export function iso(ms: number): string;
export function iso(ms: number | null | undefined): string | null;
export function iso(ms: number | null | undefined): string | null {
  return ms === null || ms === undefined ? null : new Date(ms).toISOString();
}

export function stepsOf(row: RotationRow): number {
  const { steps } = row.plan as unknown as Plan;
  return Array.isArray(steps) ? steps.length : 0;
}

export function credentialItemOf(known: Known, snapshot: Snapshot): CredentialItem {
  const { item, fingerprint } = known;
  return {
    name: item.credential,
    kind: item.kind,
    owner: item.owner,
    labels: { ...item.labels },
    state: item.due.state,
    reason: item.due.reason,
    current: item.current,
    fingerprint,
    expires: iso(item.notAfterMs),
    lastSafeStart: iso(item.due.lastSafeStartMs),
    startBy: iso(item.due.startByMs),
    neededMs: item.neededMs,
    seen: iso(item.seenAtMs),
    stale: item.due.stale,
    places: item.places,
    copies: item.copies,
    inStep: item.inStep,
    outOfStep: item.outOfStep.map(({ place, has }) => ({ place, has })),
    unseen: item.unseen.map(({ place, why }) => ({ place, why })),
    rotation: markOf(item, snapshot),
    model: item.model,
  };
}
function markOf(item: StatusItem, snapshot: Snapshot): CredentialItem["rotation"] {
  if (item.rotation === null) return null;
  const { id, waitingFor, reason } = item.rotation;
  return {
    id,
    status: item.rotation.status as RotationRow["status"],
    waitingFor,
    reason,
    step: snapshot.steps.get(id)?.at ?? null,
    steps: snapshot.steps.get(id)?.of ?? 0,
  };
}

export function turnOf(row: RotationRow, openTasks: number): RotationItem["turn"] {
  if (row.endedAtMs !== null) return "nobody";
  if (row.status === "paused" || row.status === "halted") return "person";
  if (openTasks > 0 || /\b(approve|approval|task)\b/i.test(row.waitingFor ?? "")) return "person";
  return row.status === "running" ? "keyroll" : row.waitingFor === "a worker" ? "keyroll" : "world";
}

/** `step`: of an active rotation, where it was worked out. */
export function rotationItemOf(row: RotationRow, owner: string, openTasks: number, step: number | null): RotationItem {
  return {
    id: row.id,
    credential: row.credential,
    owner,
    mode: row.mode,
    strategy: row.strategy,
    direction: row.direction,
    from: row.fromVersion,
    to: row.toVersion,
    status: row.status,
    reason: row.reason,
    waitingFor: row.waitingFor,
    turn: turnOf(row, openTasks),
    step: row.status === "done" || row.status === "rolled-back" ? stepsOf(row) : step,
    steps: stepsOf(row),
    startedBy: row.startedBy,
    started: iso(row.createdAtMs),
    updated: iso(row.updatedAtMs),
    ended: iso(row.endedAtMs),
    planDigest: row.planDigest,
  };
}

export function planOf(plan: Plan): PlanView {
  const { safety } = plan;
  return {
    credential: plan.credential,
    owner: plan.owner,
    mode: plan.mode,
    strategy: plan.strategy,
    direction: plan.direction,
    from: plan.from,
    to: plan.to,
    digest: plan.digest,
    safety: {
      verdict: safety.verdict,
      states: safety.states,
      transitions: safety.transitions,
      method: safety.method,
      counterexample: safety.counterexample === undefined ? null : [...safety.counterexample],
      why: safety.why ?? null,
      limit: safety.limit ?? null,
    },
    gaps: plan.gaps.map(({ holder, verifier, cause, kind, boundMs }) => ({ holder, verifier, cause, kind, boundMs })),
    exposed: plan.exposed.map(({ holder, verifier }) => ({ holder, verifier })),
    steps: plan.steps.map((step) => ({
      n: step.n,
      action: step.action,
      phase: step.phase,
      place: step.place,
      version: step.version,
      text: step.text,
      by: step.by,
      estimateMs: step.estimateMs,
      ifStopped: {
        serviceUp: step.ifStopped.serviceUp,
        oldDataReadable: step.ifStopped.oldDataReadable,
        newDataReadable: step.ifStopped.newDataReadable,
        canResume: step.ifStopped.canResume,
        canRollBack: step.ifStopped.canRollBack,
      },
      opensGap: [...step.opensGap],
    })),
    pointOfNoReturn: plan.pointOfNoReturn,
    hasData: plan.hasData,
    estimateMs: plan.estimateMs,
    expires: plan.expires,
    lastSafeStart: plan.lastSafeStart,
    notes: [...plan.notes],
    unseen: [...plan.unseen],
  };
}

export function versionOf(row: VersionRow): VersionView {
  const facts = row.facts;
  return {
    id: row.id,
    number: row.number,
    state: row.state,
    material: row.material,
    fingerprint: facts?.fingerprint ?? null,
    sha1: facts?.sha1 ?? null,
    subject: facts?.subject ?? null,
    issuer: facts?.issuer ?? null,
    serial: facts?.serial ?? null,
    signedBy: facts?.signedBy ?? null,
    notBefore: iso(facts?.notBeforeMs),
    expires: iso(facts?.notAfterMs),
    attributes: { ...facts?.attributes },
    created: iso(row.createdAtMs),
    retired: iso(row.retiredAtMs),
  };
}

export function placeOf(
  place: PlaceDecl,
  row: ObservationRow | undefined,
  context: {
    readonly title: string;
    readonly item: StatusItem;
    readonly nowMs: number;
    readonly staleAfterMs: number;
  },
): PlaceView {
  const seen = row?.observation ?? null;
  const entry = seen?.entries.find((each) => each.mark === seen.current);
  const { roles, admits } = place.traits;
  const copy = roles.includes("holder") || (roles.includes("verifier") && admits === "version");
  const differs = context.item.outOfStep.some((each) => each.place === place.name);
  const tells = roles.includes("holder") ? seen?.current !== undefined : seen !== null;
  const known = copy && tells && row?.error === null && context.item.current !== null;
  const system = place.system ?? null;
  return {
    name: place.name,
    type: place.type,
    title: context.title,
    system,
    roles: [...roles],
    presentsTo: [...place.presentsTo],
    human: place.traits.human,
    seen: iso(row?.atMs),
    error: row?.error ?? null,
    errorAt: iso(row?.errorAtMs),
    stale: row === undefined || row.atMs === null || context.nowMs - row.atMs > context.staleAfterMs,
    current: entry?.version ?? seen?.current ?? null,
    inStep: known ? !differs : null,
    entries: (seen?.entries ?? []).map((each) => ({
      mark: each.mark,
      version: each.version ?? null,
      slot: each.slot ?? null,
      enabled: each.enabled,
      expires: iso(each.notAfterMs),
    })),
    records: seen?.records === undefined ? null : { ...seen.records },
    notes: [...(seen?.notes ?? [])],
  };
}

interface Instructions {
  readonly title?: unknown;
  readonly minutes?: unknown;
  readonly steps?: readonly { readonly text?: unknown; readonly copy?: unknown }[];
}
export function taskOf(row: TaskRow, owner: string): TaskView {
  const instructions = (row.instructions ?? {}) as Instructions;
  const detail = (row.checked as { readonly detail?: unknown } | null)?.detail;
  return {
    id: row.id,
    rotation: row.rotation,
    credential: row.credential,
    owner,
    place: row.place,
    action: row.action,
    version: row.version,
    state: row.state,
    person: row.person,
    note: row.note,
    due: iso(row.dueAtMs),
    created: iso(row.createdAtMs),
    updated: iso(row.updatedAtMs),
    title: typeof instructions.title === "string" ? instructions.title : `${row.action} ${row.version} at ${row.place}`,
    minutes: typeof instructions.minutes === "number" ? instructions.minutes : null,
    steps: (Array.isArray(instructions.steps) ? instructions.steps : []).map((step) => ({
      text: String(step.text),
      copy: typeof step.copy === "string" ? step.copy : null,
    })),
    checked: row.checked === null ? null : { detail: typeof detail === "string" ? detail : null },
  };
}

export function journalOf(row: JournalRow): JournalEntry {
  return {
    seq: row.seq,
    at: iso(row.atMs),
    actor: row.actor,
    rotation: row.rotation,
    credential: row.credential,
    kind: row.kind,
    effect: row.effect,
    text: textOf(row),
    payload: row.payload,
    prev: row.prevHash,
    hash: row.hash,
  };
}

export function approvalOf(row: RunView["approvals"][number]) {
  return {
    phase: row.phase,
    person: row.person,
    verdict: row.verdict,
    at: iso(row.atMs),
    comment: row.comment,
    expires: iso(row.expiresAtMs),
    revoked: iso(row.revokedAtMs),
  };
}

export function explanationOf(
  name: string,
  told: {
    readonly status: StatusItem;
    readonly explanation: Explanation;
    readonly rotation: RotationRow | null;
    readonly unseenBecause: readonly string[];
  },
): ExplanationView {
  const { explanation, status } = told;
  return {
    credential: name,
    rotation: told.rotation?.id ?? null,
    state: status.due.state,
    reason: status.due.reason,
    decision: explanation.decision,
    sentences: [...explanation.sentences],
    places: explanation.places.map((line) => ({
      place: line.place,
      roles: [...line.roles],
      has: [...line.has],
      current: line.current,
      doubt: [...line.doubt],
      seen: line.seen,
    })),
    notes: [...explanation.notes],
    unseenBecause: [...told.unseenBecause],
  };
}

export function foundOf(row: InventoryRow, version: string | null): FoundView {
  return {
    id: row.id,
    fingerprint: row.fingerprint,
    publicKey: row.publicKey,
    source: row.source,
    path: row.path,
    kind: row.kind,
    owner: row.owner,
    expires: iso(row.notAfterMs),
    firstSeen: iso(row.firstSeenAtMs),
    seen: iso(row.seenAtMs),
    version,
  };
}

export function personOf(row: PersonRow): PersonView {
  return {
    person: row.person,
    name: row.name,
    grants: row.grants.map(({ role, owner }) => ({ role, owner })),
    disabled: row.disabled,
    created: iso(row.createdAtMs),
    lastSignIn: iso(row.signedInAtMs),
  };
}
export function tokenOf(row: TokenRow): TokenView {
  return {
    id: row.id,
    person: row.person,
    label: row.label,
    grants: row.grants.map(({ role, owner }) => ({ role, owner })),
    created: iso(row.createdAtMs),
    expires: iso(row.expiresAtMs),
    lastUsed: iso(row.usedAtMs),
    revoked: iso(row.revokedAtMs),
  };
}

export function policyOf(credential: CredentialDecl) {
  const { policy } = credential;
  return {
    rotateBeforeMs: policy.rotateBeforeMs,
    maxAgeMs: policy.maxAgeMs,
    soakMs: policy.soakMs,
    marginMs: policy.marginMs,
    approvals: { ...policy.approvals } as Partial<Record<"issue" | "distribute" | "switch" | "retire", number>>,
    windows: policy.windows.map((window) => window.text),
  };
}
