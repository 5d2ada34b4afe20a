/**
 * What goes into the API and what comes out: one source for validation, the OpenAPI document, the client and the dashboard. The words are those
 * of the command line (`src/cli/documents.ts`): times are ISO 8601 in UTC, lengths are milliseconds, and a field without a value is `null`,
 * never left out. Fields are only ever added. There is no field here that could carry a secret value, except the two that are shown once:
 * a new API token and a sign-in link.
 */
import { z } from "zod";
import type { OperationName } from "./operations.ts";

// ---------------------------------------------------------------------------------------------------------------------------------------
// Small parts

const time = z.iso.datetime();
const ms = z.number().nonnegative();
const count = z.int().nonnegative();
const phase = z.enum(["issue", "distribute", "switch", "retire"]);
const digest = z.string().regex(/^[0-9a-f]{64}$/);

/** Names and ids from outside: bounded, and nothing that cannot be stored or would deceive a reader (control and direction characters). */
const shown = /^[^\p{Cc}\p{Cs}\u2028\u2029\u202a-\u202e\u2066-\u2069]*$/u;
const givenName = z.string().min(1).max(200).regex(shown);
const givenText = z
  .string()
  .max(2000)
  // Line ends are welcome in a comment.
  .regex(/^(?:[^\p{Cc}\p{Cs}\u202a-\u202e\u2066-\u2069]|[\n\r\t])*$/u);
const cursor = z
  .string()
  .max(2000)
  .describe("`nextCursor` of the page before. It belongs to its own filter and order.");
const limit = z.coerce.number().int().min(1).max(1000);

export const dueStates = [
  "compromised",
  "expired",
  "late",
  "out-of-step",
  "due",
  "rotating",
  "unknown",
  "fine",
] as const;
export const rotationStatuses = ["running", "waiting", "paused", "halted", "done", "rolled-back", "cancelled"] as const;
export const credentialKinds = ["password", "secret", "certificate", "ca", "key", "ssh-key"] as const;
export const roles = ["viewer", "operator", "approver", "admin"] as const;
export const permissions = ["read", "plan", "operate", "approve", "administer"] as const;
export const journalKinds = [
  "intent",
  "outcome",
  "approval",
  "task",
  "note",
  "estate",
  "rotation",
  "version",
  "key",
  "person",
  "checkpoint",
] as const;

const dueState = z.enum(dueStates);
const freshness = z.object({
  at: time.describe("When this answer was true."),
  stale: z.boolean().describe("Something in it is older than it should be: never show it as fine."),
  seen: time.nullable().describe("When the oldest look that it rests on was. `null`: something was never seen."),
});
const page = {
  nextCursor: z.string().nullable().describe("`null`: this was the last page."),
  total: count.describe("How many there are under this filter."),
};

export const problem = z
  .object({
    type: z.string().describe("A URI reference that names the kind of problem."),
    title: z.string(),
    status: z.int(),
    detail: z.string().describe("What went wrong, as a sentence."),
    kind: z
      .string()
      .describe(
        "`invalid`, `not-signed-in`, `not-allowed`, `not-found`, `refused`, `waiting`, `stale`, `failed`, `conflict`, `too-large`, `too-many`, `bug`, or the kind of an outside failure.",
      ),
    where: z.string().nullable(),
    next: z.string().nullable().describe("What to do about it."),
    errors: z
      .array(z.object({ path: z.string(), detail: z.string() }))
      .optional()
      .describe("For `invalid`: each field."),
    reference: z.string().optional().describe("For `bug`: what the server's log has it under."),
  })
  .describe("RFC 9457, application/problem+json");

// ---------------------------------------------------------------------------------------------------------------------------------------
// Session

const grant = z.object({
  role: z.enum(roles),
  owner: z.string().describe("Owner of credentials; `*`: all of them, and the installation itself."),
});
const givenGrant = z.strictObject({ role: z.enum(roles), owner: givenName });
export const session = z.object({
  person: z.string().nullable().describe("`null`: nobody is signed in."),
  name: z.string().nullable(),
  via: z.enum(["session", "token"]).nullable(),
  grants: z.array(grant),
  permissions: z
    .record(z.enum(permissions), z.array(z.string()))
    .describe("Owners by permission; `*`: all, and the installation itself."),
  expires: time.nullable(),
  version: z.string(),
  live: z.boolean().describe("A worker runs: what is started goes on."),
});

// ---------------------------------------------------------------------------------------------------------------------------------------
// Credentials

const rotationMark = z.object({
  id: z.string(),
  status: z.enum(rotationStatuses),
  waitingFor: z.string().nullable(),
  reason: z.string().nullable(),
  step: z
    .int()
    .nullable()
    .describe("Number of the step that is being done or waited for. `null`: not worked out in a long list."),
  steps: z.int(),
});
export const credentialItem = z.object({
  name: z.string(),
  kind: z.enum(credentialKinds),
  owner: z.string(),
  labels: z.record(z.string(), z.string()),
  state: dueState,
  reason: z.string().describe("One sentence."),
  current: z.string().nullable().describe("Id of the version in use."),
  fingerprint: z.string().nullable(),
  expires: time.nullable(),
  lastSafeStart: time.nullable().describe("Expiry minus what the rotation needs and its margin."),
  startBy: time.nullable().describe("When policy wants it started."),
  neededMs: ms.nullable().describe("Upper estimate of a rotation."),
  seen: time.nullable(),
  stale: z.boolean(),
  places: count,
  copies: count.describe("Places that hold or pin a version."),
  inStep: count.describe("Copies that were seen with the current version. Never counts one that was not seen."),
  outOfStep: z.array(z.object({ place: z.string(), has: z.string() })),
  unseen: z.array(z.object({ place: z.string(), why: z.string() })),
  rotation: rotationMark.nullable(),
  model: z.boolean().describe("It can be planned and proved, not looked at or run."),
});

const entry = z.object({
  mark: z.string().describe("Fingerprint, key id or role name: never secret."),
  version: z.string().nullable(),
  slot: z.string().nullable(),
  enabled: z.boolean(),
  expires: time.nullable(),
});
const placeView = z.object({
  name: z.string(),
  type: z.string(),
  title: z.string().describe("The connector in words."),
  system: z.string().nullable(),
  roles: z.array(z.enum(["issuer", "verifier", "holder"])),
  presentsTo: z.array(z.string()),
  human: z.boolean().describe("Only a person can change it."),
  seen: time.nullable(),
  error: z.string().nullable().describe("Why the last look failed."),
  errorAt: time.nullable(),
  stale: z.boolean(),
  current: z.string().nullable().describe("Version in use here, or its mark where no version is known for it."),
  inStep: z.boolean().nullable().describe("`null`: it was not seen or has no copy of its own."),
  entries: z.array(entry),
  records: z.record(z.string(), z.number()).nullable().describe("Data at rest by mark."),
  notes: z.array(z.string()),
});
const versionView = z.object({
  id: z.string(),
  number: z.int(),
  state: z.enum(["pending", "current", "retiring", "retired", "compromised"]),
  material: z.enum(["none", "volatile", "sealed", "lost"]).describe("Where its secret part is; never the part itself."),
  fingerprint: z.string().nullable(),
  sha1: z.string().nullable(),
  subject: z.string().nullable(),
  issuer: z.string().nullable(),
  serial: z.string().nullable(),
  signedBy: z.string().nullable(),
  notBefore: time.nullable(),
  expires: time.nullable(),
  attributes: z.record(z.string(), z.string()),
  created: time,
  retired: time.nullable(),
});
const rotationItem = z.object({
  id: z.string(),
  credential: z.string(),
  owner: z.string(),
  mode: z.enum(["planned", "breach"]),
  strategy: z.enum(["availability-first", "contain-first"]),
  direction: z.enum(["forward", "back"]),
  from: z.string().nullable(),
  to: z.string().nullable(),
  status: z.enum(rotationStatuses),
  reason: z.string().nullable(),
  waitingFor: z.string().nullable(),
  turn: z.enum(["keyroll", "person", "world", "nobody"]).describe("Whose turn it is."),
  step: z.int().nullable(),
  steps: z.int(),
  startedBy: z.string(),
  started: time,
  updated: time,
  ended: time.nullable(),
  planDigest: digest,
});
export const credentialDetail = credentialItem.extend({
  source: z.string().describe("`file:line` of the declaration."),
  issuer: z.object({
    type: z.string(),
    title: z.string(),
    system: z.string().nullable(),
    ca: z.string().nullable(),
  }),
  policy: z.object({
    rotateBeforeMs: ms.nullable(),
    maxAgeMs: ms.nullable(),
    soakMs: ms,
    marginMs: ms,
    approvals: z.partialRecord(phase, count),
    windows: z.array(z.string()),
  }),
  data: z.array(z.object({ name: z.string(), writtenUnder: z.string(), readBy: z.array(z.string()), drainMs: ms })),
  placeList: z.array(placeView),
  versions: z.array(versionView).describe("Newest first."),
  rotations: z.array(rotationItem).describe("Newest first, at most 20."),
  can: z.array(z.enum(permissions)),
});
export const explanation = z.object({
  credential: z.string(),
  rotation: z.string().nullable(),
  state: dueState,
  reason: z.string(),
  decision: z.enum(["done", "act", "wait", "blocked"]),
  sentences: z.array(z.string()),
  places: z.array(
    z.object({
      place: z.string(),
      roles: z.array(z.string()),
      has: z.array(z.string()),
      current: z.string().nullable(),
      doubt: z
        .array(z.string())
        .describe("Versions that a consumer may still present, or some replica may still refuse."),
      seen: z.boolean(),
    }),
  ),
  notes: z.array(z.string()),
  unseenBecause: z.array(z.string()),
});

// ---------------------------------------------------------------------------------------------------------------------------------------
// Graph

const node = z.object({
  id: z.string(),
  kind: z.enum(["credential", "place", "data", "system", "issuer", "fold"]),
  label: z.string(),
  detail: z.string().nullable(),
  credential: z.string().nullable().describe("Where a click leads."),
  place: z.string().nullable(),
  state: dueState.nullable(),
  inStep: z.boolean().nullable(),
  roles: z.array(z.string()),
  members: z.array(z.string()).describe("For `fold`: what it stands for."),
});
export const graph = z.object({
  focus: z.string(),
  depth: z.int(),
  nodes: z.array(node),
  edges: z.array(
    z.object({
      from: z.string(),
      to: z.string(),
      kind: z.enum(["issues", "holds", "trusts", "encrypts", "presents", "on"]),
      label: z.string(),
    }),
  ),
  truncated: z.boolean().describe("More than 300 nodes: show the table."),
});

// ---------------------------------------------------------------------------------------------------------------------------------------
// Plans and rotations

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
const safety = z.object({
  verdict: z.enum(["proved", "proved with declared gaps", "refuted", "not proved", "blocked"]),
  states: count,
  transitions: count,
  method: z.enum(["exhaustive", "compositional"]),
  counterexample: z.array(z.string()).nullable().describe("The shortest run that would refuse somebody."),
  why: z.string().nullable(),
  limit: z.int().nullable(),
});
const gap = z.object({
  holder: z.string(),
  verifier: z.string(),
  cause: z.string(),
  kind: z.enum(["race", "unavoidable", "unknown"]),
  boundMs: ms,
});
export const plan = z.object({
  credential: z.string(),
  owner: z.string(),
  mode: z.enum(["planned", "breach"]),
  strategy: z.enum(["availability-first", "contain-first"]),
  direction: z.enum(["forward", "back"]),
  from: z.string().nullable(),
  to: z.string(),
  digest: digest.describe("SHA-256 over everything that decides the order. A start and an approval name it."),
  safety,
  gaps: z.array(gap),
  exposed: z.array(z.object({ holder: z.string(), verifier: z.string() })),
  steps: z.array(step),
  pointOfNoReturn: z.int().positive().nullable(),
  hasData: z.boolean(),
  estimateMs: ms,
  expires: time.nullable(),
  lastSafeStart: time.nullable(),
  notes: z.array(z.string()),
  unseen: z.array(z.string()),
});
const planOption = z.object({
  plan,
  exposureMs: ms
    .nullable()
    .describe("How long the old version still works. Null: no place that checks it is declared."),
  outageMs: ms.describe("How long somebody may be refused."),
  startable: z.boolean(),
  whyNot: z.string().nullable(),
});
export const planPreview = z.object({
  credential: z.string(),
  at: time,
  options: z.array(planOption).describe("One for `planned`; both strategies for `breach`, availability first."),
  unseenBecause: z.array(z.string()),
  modelled: z.boolean().describe("Some places are models: it can be proved, not run."),
  adopted: z
    .array(z.object({ version: z.string(), place: z.string() }))
    .describe("Values from before Keyroll that a start takes in."),
});

const task = z.object({
  id: z.string(),
  rotation: z.string(),
  credential: z.string(),
  owner: z.string(),
  place: z.string(),
  action: z.enum(["add", "activate", "remove"]),
  version: z.string(),
  state: z.enum(["open", "done", "refused", "handed-over"]),
  person: z.string().nullable().describe("Who it is for, or who did it. `null`: anybody."),
  note: z.string().nullable(),
  due: time.nullable(),
  created: time,
  updated: time,
  title: z.string(),
  minutes: z.number().nullable(),
  steps: z.array(z.object({ text: z.string(), copy: z.string().nullable() })),
  checked: z
    .object({ detail: z.string().nullable() })
    .nullable()
    .describe("What the machine saw after it was said to be done. `null`: not looked yet."),
});
const approval = z.object({
  phase: z.enum(["issue", "distribute", "switch", "retire", "plan"]),
  person: z.string(),
  verdict: z.enum(["approved", "rejected"]),
  at: time,
  comment: z.string().nullable(),
  expires: time.nullable(),
  revoked: time.nullable(),
});
const journalEntry = z.object({
  seq: z.int(),
  at: time,
  actor: z.string(),
  rotation: z.string().nullable(),
  credential: z.string().nullable(),
  kind: z.enum(journalKinds),
  effect: z.string().nullable(),
  text: z.string().describe("The record in words."),
  payload: z.unknown().describe("Public."),
  prev: z.string(),
  hash: z.string(),
});
export const rotationDetail = rotationItem.extend({
  plan,
  stepStates: z
    .array(
      z.object({
        n: z.int(),
        state: z.enum(["done", "doing", "waiting", "todo", "left"]),
        at: time.nullable(),
        tookMs: ms.nullable(),
        task: z.string().nullable(),
      }),
    )
    .describe("One per step of the plan."),
  safeToStop: z.boolean().describe("If everything stops now, everybody still gets in."),
  canRollBackNow: z.boolean(),
  marginMs: z.number().nullable().describe("Until the last moment at which the rest still fits before expiry."),
  waitsForApproval: z
    .object({
      phase: z.enum(["issue", "distribute", "switch", "retire", "plan"]),
      needed: count,
      given: z.array(z.string()),
      mayApprove: z.boolean(),
      whyNot: z.string().nullable(),
    })
    .nullable(),
  tasks: z.array(task),
  approvals: z.array(approval),
  log: z.array(journalEntry).describe("Oldest first, the last 1000."),
  can: z.array(z.enum(["pause", "resume", "rollback", "cancel", "approve", "reject"])),
});

// ---------------------------------------------------------------------------------------------------------------------------------------
// Overview

const timelineItem = z.object({
  credential: z.string(),
  owner: z.string(),
  state: dueState,
  lastSafeStart: time.nullable(),
  startBy: time.nullable(),
  expires: time.nullable(),
  neededMs: ms.nullable(),
  stale: z.boolean(),
});
export const overview = freshness.extend({
  verdict: z.object({
    level: z.enum(["bad", "warn", "fine", "unknown", "empty"]).describe("`fine` is never said of what is stale."),
    sentence: z.string(),
    more: z.string().describe("What is true of the rest."),
  }),
  credentials: count,
  placesTotal: count,
  counts: z
    .array(
      z.object({
        id: z.enum(["expired", "late", "out-of-step", "waiting", "rotating"]),
        label: z.string(),
        count,
        link: z.string().describe("A page of the dashboard with its filter, below the base path."),
      }),
    )
    .length(5),
  timeline: z.array(timelineItem).describe("At most 200, by last safe start."),
  timelineMore: count.describe("How many with a date are left out of it."),
  doNext: z
    .array(
      z.object({
        credential: z.string(),
        owner: z.string(),
        state: dueState,
        headline: z.string(),
        detail: z.string(),
        at: time.nullable(),
        action: z.enum(["preview", "open-task", "approve", "open-rotation", "look"]),
        link: z.string(),
      }),
    )
    .describe("At most 12, most urgent first."),
  outOfStep: z
    .array(
      z.object({
        credential: z.string(),
        owner: z.string(),
        current: z.string().nullable(),
        copies: z.array(
          z.object({
            place: z.string(),
            has: z.string().nullable(),
            fingerprint: z.string().nullable(),
            inStep: z.boolean().nullable(),
          }),
        ),
      }),
    )
    .describe("At most 20."),
  outOfStepMore: count,
  sources: z.array(
    z.object({
      name: z.string(),
      type: z.string(),
      title: z.string(),
      seen: time.nullable(),
      stale: z.boolean(),
      failing: count.describe("Places of it whose last look failed."),
      places: count,
      error: z.string().nullable(),
    }),
  ),
});

// ---------------------------------------------------------------------------------------------------------------------------------------
// The rest

const found = z.object({
  id: z.int(),
  fingerprint: z.string(),
  publicKey: z.string().nullable(),
  source: z.string(),
  path: z.string(),
  kind: z.string(),
  owner: z.string().nullable(),
  expires: time.nullable(),
  firstSeen: time,
  seen: time,
  version: z.string().nullable().describe("The version that it is, where Keyroll knows it."),
});

const finding = z.object({
  level: z.enum(["ok", "warn", "fail"]),
  what: z.string(),
  detail: z.string(),
  fix: z.string().nullable(),
});
export const settings = z.object({
  at: time,
  version: z.string(),
  estate: z.object({
    files: z.array(z.string()),
    digest: z.string(),
    revision: z.int().nullable(),
    appliedBy: z.string().nullable(),
    appliedAt: time.nullable(),
    credentials: count,
    observeEveryMs: ms,
    requestLifeMs: ms,
    notes: z.array(z.string()),
  }),
  store: z.object({ kind: z.enum(["embedded", "outside"]), where: z.string(), serverVersion: z.string() }),
  workers: z.array(z.object({ id: z.string(), host: z.string(), seen: time })),
  keys: z.object({ current: z.string(), origin: z.string(), records: count, interrupted: z.boolean() }),
  systems: z.array(
    z.object({
      name: z.string(),
      type: z.string(),
      title: z.string(),
      source: z.string(),
      seen: time.nullable(),
      stale: z.boolean(),
      places: count,
      failing: z.array(
        z.object({ credential: z.string(), place: z.string(), error: z.string(), needs: z.array(z.string()) }),
      ),
    }),
  ),
  connectors: z.array(
    z.object({
      type: z.string(),
      title: z.string(),
      family: z.enum(["place", "issuer"]),
      permissions: z.array(z.string()),
    }),
  ),
  owners: z.array(z.string()),
});
export const doctor = z.object({ ok: z.boolean(), at: time, findings: z.array(finding) });

const person = z.object({
  person: z.string(),
  name: z.string(),
  grants: z.array(grant),
  disabled: z.boolean(),
  created: time,
  lastSignIn: time.nullable(),
});
const token = z.object({
  id: z.string(),
  person: z.string(),
  label: z.string(),
  grants: z.array(grant).describe("Never more than its person has: both are asked."),
  created: time,
  expires: time,
  lastUsed: time.nullable(),
  revoked: time.nullable(),
});
const ok = z.object({ ok: z.literal(true) });

export const eventTypes = ["journal", "credentials", "resync"] as const;
/** The `data` of one server-sent event; its `id` is the journal's sequence number. */
export const serverEvent = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("journal").describe("Something was done or said: rotation, task, approval, version, estate."),
    seq: z.int(),
    at: time,
    kind: z.enum(journalKinds),
    rotation: z.string().nullable(),
    credential: z.string().nullable(),
    text: z.string(),
  }),
  z.object({ type: z.literal("credentials").describe("States or looks changed: ask again."), seq: z.int(), at: time }),
  z.object({
    type: z.literal("resync").describe("Events were missed: ask for everything again."),
    seq: z.int(),
    at: time,
  }),
]);

// ---------------------------------------------------------------------------------------------------------------------------------------
// Contracts

/** `q` of lists: words, and `key:value` with state, owner, kind, place, system, label, due (`due:<35d`). */
const query = z
  .string()
  .max(500)
  .regex(shown)
  .describe(
    "Words that must occur, and `kind:`, `owner:`, `state:`, `place:`, `system:`, `label:key=value`, `due:<35d`.",
  );
const words = z.string().max(500).regex(shown).describe("Words that must occur.");
const named = z.strictObject({ name: givenName });
const byId = z.strictObject({ id: givenName });
const byPerson = z.strictObject({ person: givenName });
const comment = z.strictObject({ comment: givenText.optional() });
const digestBound = z.strictObject({
  phase: z.enum(["issue", "distribute", "switch", "retire", "plan"]),
  planDigest: digest.describe("Of the plan that was read."),
  comment: givenText.optional(),
});

interface Contract {
  readonly summary: string;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodObject;
  readonly response: z.ZodType;
  /** Default `application/json`. */
  readonly media?: "application/x-ndjson" | "text/event-stream";
}

export const contracts = {
  getSession: { summary: "Who is signed in, and what they may do", response: session },
  signIn: {
    summary: "Exchange a one-time sign-in code for a session",
    body: z.strictObject({ code: z.string().min(1).max(200) }),
    response: session,
  },
  signOut: { summary: "End the session", response: ok },

  getOverview: { summary: "Is anything wrong, and what must be started next", response: overview },
  listCredentials: {
    summary: "Credentials, most urgent first unless asked otherwise",
    query: z.strictObject({
      q: query.optional(),
      sort: z.enum(["urgency", "name", "owner", "expires", "lastSafeStart", "state"]).default("urgency"),
      order: z.enum(["asc", "desc"]).default("asc"),
      cursor: cursor.optional(),
      limit: limit.default(200),
    }),
    response: z.object({
      ...freshness.shape,
      items: z.array(credentialItem),
      ...page,
      counts: z.record(dueState, count),
    }),
  },
  getCredential: { summary: "One credential: places, versions, history", params: named, response: credentialDetail },
  explainCredential: {
    summary: "Looks at every place now, and says why it is in its state and what holds the next step",
    params: named,
    response: explanation,
  },
  getGraph: {
    summary: "The neighbourhood of a credential: who holds it, who trusts it, what is encrypted under it",
    params: named,
    query: z.strictObject({ depth: z.coerce.number().int().min(1).max(3).default(1) }),
    response: graph,
  },
  observeCredential: {
    summary: "Looks at every place of it now",
    params: named,
    body: z.strictObject({}),
    response: z.object({
      looks: z.array(z.object({ place: z.string(), seen: z.boolean(), error: z.string().nullable() })),
      credential: credentialItem,
    }),
  },
  planRotation: {
    summary: "The plan with its proof. Changes nothing",
    params: named,
    body: z.strictObject({ mode: z.enum(["planned", "breach"]).default("planned") }),
    response: planPreview,
  },

  listRotations: {
    summary: "Rotations, newest first",
    query: z.strictObject({
      q: words.optional(),
      status: z.enum(["active", "ended", ...rotationStatuses]).optional(),
      credential: givenName.optional(),
      cursor: cursor.optional(),
      limit: limit.default(100),
    }),
    response: z.object({ items: z.array(rotationItem), ...page }),
  },
  startRotation: {
    summary: "Start exactly the plan that was seen",
    body: z.strictObject({
      credential: givenName,
      mode: z.enum(["planned", "breach"]).default("planned"),
      strategy: z.enum(["availability-first", "contain-first"]).default("availability-first"),
      planDigest: digest,
      confirm: givenName.optional().describe("For a breach: the credential's name, typed again."),
    }),
    response: rotationItem,
  },
  getRotation: { summary: "A rotation: plan, states of its steps, proof, log", params: byId, response: rotationDetail },
  approveRotation: {
    summary: "Agree to a phase of the plan that was read",
    params: byId,
    body: digestBound,
    response: rotationItem,
  },
  rejectRotation: {
    summary: "Say no: the rotation is paused with the reason",
    params: byId,
    body: digestBound,
    response: rotationItem,
  },
  pauseRotation: {
    summary: "Pause after the step that is being done",
    params: byId,
    body: comment,
    response: rotationItem,
  },
  resumeRotation: { summary: "Go on after a pause or a halt", params: byId, body: comment, response: rotationItem },
  rollBackRotation: {
    summary: "Turn the goal round, by a proved plan of its own",
    params: byId,
    body: comment,
    response: rotationItem,
  },
  cancelRotation: {
    summary: "Leave it, while no place has been changed",
    params: byId,
    body: comment,
    response: rotationItem,
  },

  listTasks: {
    summary: "What people must do by hand",
    query: z.strictObject({
      state: z.enum(["open", "all"]).default("open"),
      mine: z.enum(["true", "false"]).default("false"),
      cursor: cursor.optional(),
      limit: limit.default(100),
    }),
    response: z.object({ items: z.array(task), ...page }),
  },
  getTask: { summary: "The exact values, numbered", params: byId, response: task },
  taskDone: {
    summary: "Say that it is done; it is checked before anything goes on",
    params: byId,
    body: comment,
    response: task,
  },
  taskHandOver: {
    summary: "Give it to somebody else",
    params: byId,
    body: z.strictObject({ to: givenName, comment: givenText.optional() }),
    response: task,
  },
  taskRefuse: { summary: "Say that it cannot or must not be done", params: byId, body: comment, response: task },

  listAudit: {
    summary: "The journal, newest first",
    query: z.strictObject({
      rotation: givenName.optional(),
      credential: givenName.optional(),
      kind: z.enum(journalKinds).optional(),
      cursor: cursor.optional(),
      limit: limit.default(100),
    }),
    response: z.object({
      items: z.array(journalEntry),
      nextCursor: page.nextCursor,
      head: z.object({ seq: count, hash: z.string() }),
    }),
  },
  verifyAudit: {
    summary: "Walks the whole chain",
    response: z.object({
      ok: z.boolean(),
      records: count.nullable(),
      head: z.string().nullable(),
      problem: z.string().nullable(),
      seq: z.int().nullable(),
      detail: z.string().nullable(),
      anchor: z.unknown().describe("A signed point of the chain: keep it elsewhere."),
    }),
  },
  exportAudit: {
    summary: "The whole journal as NDJSON with a signed trailer; keyroll audit verify FILE checks it offline",
    response: z.string(),
    media: "application/x-ndjson",
  },

  listFound: {
    summary: "Copies of certificates and keys that a scan found",
    query: z.strictObject({
      fingerprint: z
        .string()
        .max(200)
        .regex(/^[0-9a-f]*$/)
        .optional(),
      source: givenName.optional(),
      cursor: cursor.optional(),
      limit: limit.default(200),
    }),
    response: z.object({ items: z.array(found), ...page }),
  },

  getSettings: { summary: "Systems with freshness, workers, keys, connectors", response: settings },
  runDoctor: {
    summary: "Looks at everything that has to be right, and changes nothing",
    body: z.strictObject({}),
    response: doctor,
  },

  listPeople: { summary: "People and what they may do", response: z.object({ items: z.array(person) }) },
  addPerson: {
    summary: "Add a person",
    body: z.strictObject({
      person: givenName,
      name: givenName.optional(),
      grants: z.array(givenGrant).min(1).max(100),
    }),
    response: person,
  },
  changePerson: {
    summary: "Change what a person may do, or lock them out",
    params: byPerson,
    body: z.strictObject({
      name: givenName.optional(),
      grants: z.array(givenGrant).max(100).optional(),
      disabled: z.boolean().optional(),
    }),
    response: person,
  },
  makeSignInLink: {
    summary: "A sign-in link for somebody: shown once, used once",
    params: byPerson,
    body: z.strictObject({}),
    response: z.object({ link: z.string(), expires: time }),
  },
  listTokens: { summary: "Your API tokens; an admin sees all", response: z.object({ items: z.array(token) }) },
  createToken: {
    summary: "An API token: shown once",
    body: z.strictObject({
      label: givenName,
      grants: z.array(givenGrant).min(1).max(100),
      days: z.int().min(1).max(366).default(90),
    }),
    response: token.extend({ secret: z.string().describe("Shown now and never again.") }),
  },
  revokeToken: { summary: "End an API token", params: byId, response: ok },

  streamEvents: {
    summary: "Server-sent events; `Last-Event-ID` or `after` goes on where it stopped",
    query: z.strictObject({ after: z.coerce.number().int().min(0).optional() }),
    response: serverEvent,
    media: "text/event-stream",
  },
} as const satisfies Record<OperationName, Contract>;

export type Contracts = typeof contracts;
export const contractOf = (name: OperationName): Contract => contracts[name];

export type ProblemDocument = z.infer<typeof problem>;
export type Session = z.infer<typeof session>;
export type Overview = z.infer<typeof overview>;
export type CredentialItem = z.infer<typeof credentialItem>;
export type CredentialDetail = z.infer<typeof credentialDetail>;
export type PlaceView = z.infer<typeof placeView>;
export type VersionView = z.infer<typeof versionView>;
export type ExplanationView = z.infer<typeof explanation>;
export type Graph = z.infer<typeof graph>;
export type GraphNode = z.infer<typeof node>;
export type PlanView = z.infer<typeof plan>;
export type PlanPreview = z.infer<typeof planPreview>;
export type RotationItem = z.infer<typeof rotationItem>;
export type RotationView = z.infer<typeof rotationDetail>;
export type TaskView = z.infer<typeof task>;
export type JournalEntry = z.infer<typeof journalEntry>;
export type FoundView = z.infer<typeof found>;
export type SettingsView = z.infer<typeof settings>;
export type DoctorView = z.infer<typeof doctor>;
export type PersonView = z.infer<typeof person>;
export type TokenView = z.infer<typeof token>;
export type ServerEvent = z.infer<typeof serverEvent>;
export type Role = (typeof roles)[number];
export type Permission = (typeof permissions)[number];
export type Grant = z.infer<typeof grant>;
