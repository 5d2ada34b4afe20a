/**
 * What `--json` prints, as schemas that `keyroll schema` publishes. Fields are only ever added. Times are ISO 8601 in UTC, lengths are
 * milliseconds, and a field that has no value is `null`, never left out.
 */
import { z } from "zod";
import type { PlanResult, RunView, StatusItem } from "../app.ts";
import { breachCosts, type Plan } from "../core/plan.ts";
import type { TaskRow } from "../store/store.ts";

export const iso = (ms: number | null | undefined): string | null =>
  ms === null || ms === undefined ? null : new Date(ms).toISOString();

const time = z.iso.datetime();
const ms = z.number().nonnegative();
const phase = z.enum(["issue", "distribute", "switch", "retire"]);

const ifStopped = z.object({
  serviceUp: z.boolean().describe("Everybody who signs in still gets in, whatever the world does next."),
  oldDataReadable: z.boolean(),
  newDataReadable: z.boolean(),
  canResume: z.boolean().describe("From here the goal is still reached."),
  canRollBack: z.boolean().describe("From here the old version can be put back everywhere without refusing anybody."),
});
const step = z.object({
  n: z.int().positive(),
  action: z.string().describe("The model's action, or check, wait, approve, soak, window, destroy."),
  phase,
  place: z.string().nullable(),
  version: z.string().nullable(),
  text: z.string(),
  by: z.enum(["keyroll", "person", "world"]),
  estimateMs: ms,
  ifStopped,
  opensGap: z.array(z.string()).describe("Edges on which somebody may be refused from here on, until the gap closes."),
});
const gap = z.object({
  holder: z.string(),
  verifier: z.string(),
  cause: z.string(),
  kind: z.enum(["race", "unavoidable", "unknown"]),
  boundMs: ms,
});
const edge = z.object({ holder: z.string(), verifier: z.string() });
const planBody = z.object({
  credential: z.string(),
  owner: z.string(),
  mode: z.enum(["planned", "breach"]),
  strategy: z.enum(["availability-first", "contain-first"]),
  direction: z.enum(["forward", "back"]),
  from: z.string().nullable(),
  to: z.string(),
  digest: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .describe("SHA-256 over everything that decides the order."),
  safety: z.object({
    verdict: z.enum(["proved", "proved with declared gaps", "refuted", "not proved", "blocked"]),
    states: z.int().nonnegative(),
    transitions: z.int().nonnegative(),
    method: z.enum(["exhaustive", "compositional"]),
    counterexample: z.array(z.string()).optional(),
    why: z.string().optional(),
    limit: z.int().optional(),
  }),
  gaps: z.array(gap),
  exposed: z.array(edge),
  steps: z.array(step),
  pointOfNoReturn: z.int().positive().nullable(),
  hasData: z.boolean(),
  estimateMs: ms,
  expires: time.nullable(),
  lastSafeStart: time.nullable(),
  notes: z.array(z.string()),
  unseen: z.array(z.string()),
});
const costs = { exposureMs: ms.nullable(), outageMs: ms };
export const planDocument = planBody.extend({
  keyroll: z.literal("plan-1").describe("What this document is."),
  unseenBecause: z.array(z.string()),
  modelled: z.boolean().describe("Some places are models: it can be proved, not run."),
  adopted: z
    .array(z.object({ version: z.string(), place: z.string() }))
    .describe("Values from before Keyroll that a start takes in."),
  breach: z
    .array(z.object({ strategy: planBody.shape.strategy, ...costs, plan: planBody }))
    .optional()
    .describe("With --mode breach: both strategies with what they cost."),
});
export type PlanDocument = z.infer<typeof planDocument>;

/** Also checks in the compiler that the published schema and core's type say the same. */
export function planDocumentOf(result: PlanResult, breach?: readonly PlanResult[]): PlanDocument {
  return {
    keyroll: "plan-1",
    ...bodyOf(result.plan),
    unseenBecause: [...result.unseenBecause],
    modelled: result.modelled,
    adopted: result.adopted.map((each) => ({ ...each })),
    ...(breach === undefined
      ? {}
      : {
          breach: breach.map(({ plan }) => ({ strategy: plan.strategy, ...breachCosts(plan), plan: bodyOf(plan) })),
        }),
  };
}
function bodyOf(plan: Plan): z.infer<typeof planBody> {
  return structuredClone(plan) as z.infer<typeof planBody>;
}

const dueStates = ["compromised", "expired", "late", "due", "out-of-step", "rotating", "unknown", "fine"] as const;
const statusItem = z.object({
  credential: z.string(),
  kind: z.string(),
  owner: z.string(),
  labels: z.record(z.string(), z.string()),
  state: z.enum(dueStates),
  reason: z.string(),
  current: z.string().nullable(),
  expires: time.nullable(),
  lastSafeStart: time.nullable(),
  startBy: time.nullable(),
  stale: z.boolean(),
  seen: time.nullable().describe("When the oldest look at any of its places was."),
  places: z.int(),
  copies: z.int().describe("Places that hold or pin a version of their own."),
  inStep: z.int().describe("Copies that were seen with the current version."),
  neededMs: ms.nullable().describe("Upper estimate of a rotation."),
  unseen: z.array(z.object({ place: z.string(), why: z.string() })),
  outOfStep: z.array(z.object({ place: z.string(), has: z.string() })),
  run: z
    .object({ id: z.string(), status: z.string(), waitingFor: z.string().nullable(), reason: z.string().nullable() })
    .nullable(),
  model: z.boolean(),
});
export const statusDocument = z.object({
  at: time,
  counts: z.record(z.enum(dueStates), z.int()),
  items: z.array(statusItem).describe("Most urgent first."),
});
export function statusItemOf(item: StatusItem): z.infer<typeof statusItem> {
  const { due, rotation, notAfterMs, seenAtMs, unseen, outOfStep, ...rest } = item;
  return {
    ...rest,
    labels: { ...rest.labels },
    state: due.state,
    reason: due.reason,
    expires: iso(notAfterMs),
    lastSafeStart: iso(due.lastSafeStartMs),
    startBy: iso(due.startByMs),
    stale: due.stale,
    seen: iso(seenAtMs),
    unseen: unseen.map((each) => ({ ...each })),
    outOfStep: outOfStep.map((each) => ({ ...each })),
    run: rotation === null ? null : { ...rotation },
  };
}
export function statusDocumentOf(items: readonly StatusItem[], nowMs: number): z.infer<typeof statusDocument> {
  const counts = Object.fromEntries(
    dueStates.map((state) => [state, items.filter((item) => item.due.state === state).length]),
  );
  return {
    at: iso(nowMs)!,
    counts: counts as Record<(typeof dueStates)[number], number>,
    items: items.map(statusItemOf),
  };
}

const runSummary = z.object({
  id: z.string(),
  credential: z.string(),
  mode: z.enum(["planned", "breach"]),
  strategy: z.enum(["availability-first", "contain-first"]),
  direction: z.enum(["forward", "back"]),
  from: z.string().nullable(),
  to: z.string().nullable(),
  status: z.enum(["running", "waiting", "paused", "halted", "done", "rolled-back", "cancelled"]),
  reason: z.string().nullable(),
  waitingFor: z.string().nullable(),
  startedBy: z.string(),
  started: time,
  ended: time.nullable(),
  planDigest: z.string(),
});
const task = z.object({
  id: z.string(),
  run: z.string(),
  credential: z.string(),
  place: z.string(),
  action: z.enum(["add", "activate", "remove"]),
  version: z.string(),
  state: z.enum(["open", "done", "refused", "handed-over"]),
  person: z.string().nullable(),
  note: z.string().nullable(),
  due: time.nullable(),
  created: time,
  instructions: z.unknown(),
  checked: z.unknown().describe("What the machine saw after it was said to be done."),
});
export const taskDocument = task;
export const runDocument = runSummary.extend({
  step: z.int(),
  steps: z.array(
    z.object({
      n: z.int(),
      action: z.string(),
      text: z.string(),
      by: z.string(),
      place: z.string().nullable(),
      state: z.enum(["done", "doing", "waiting", "todo", "left"]),
      at: time.nullable(),
      tookMs: ms.nullable(),
    }),
  ),
  tasks: z.array(task),
  approvals: z.array(
    z.object({
      phase: z.string(),
      person: z.string(),
      verdict: z.enum(["approved", "rejected"]),
      at: time,
      comment: z.string().nullable(),
    }),
  ),
});

export function runSummaryOf(row: RunView["rotation"]): z.infer<typeof runSummary> {
  return {
    id: row.id,
    credential: row.credential,
    mode: row.mode,
    strategy: row.strategy,
    direction: row.direction,
    from: row.fromVersion,
    to: row.toVersion,
    status: row.status,
    reason: row.reason,
    waitingFor: row.waitingFor,
    startedBy: row.startedBy,
    started: iso(row.createdAtMs)!,
    ended: iso(row.endedAtMs),
    planDigest: row.planDigest,
  };
}
export function taskDocumentOf(row: TaskRow): z.infer<typeof task> {
  return {
    id: row.id,
    run: row.rotation,
    credential: row.credential,
    place: row.place,
    action: row.action,
    version: row.version,
    state: row.state,
    person: row.person,
    note: row.note,
    due: iso(row.dueAtMs),
    created: iso(row.createdAtMs)!,
    instructions: row.instructions,
    checked: row.checked,
  };
}
export function runDocumentOf(view: RunView): z.infer<typeof runDocument> {
  return {
    ...runSummaryOf(view.rotation),
    step: view.at,
    steps: view.steps.map(({ atMs, ...each }) => ({ ...each, at: iso(atMs) })),
    tasks: view.tasks.map(taskDocumentOf),
    approvals: view.approvals.map((row) => ({
      phase: row.phase,
      person: row.person,
      verdict: row.verdict,
      at: iso(row.atMs)!,
      comment: row.comment,
    })),
  };
}

export const doctorDocument = z.object({
  ok: z.boolean(),
  findings: z.array(
    z.object({
      level: z.enum(["ok", "warn", "fail"]),
      what: z.string(),
      detail: z.string(),
      fix: z.string().nullable(),
    }),
  ),
});

export const documents: Readonly<Record<string, { readonly title: string; readonly schema: z.ZodType }>> = {
  plan: { title: "keyroll plan NAME --json", schema: planDocument },
  status: { title: "keyroll status --json", schema: statusDocument },
  run: { title: "keyroll run show RUN --json", schema: runDocument },
  task: { title: "one item of keyroll task list --json", schema: taskDocument },
  doctor: { title: "keyroll doctor --json", schema: doctorDocument },
};
