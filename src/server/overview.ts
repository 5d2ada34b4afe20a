/** The first page: the worst fact first, in one sentence, and never a good word about what is stale. Pure: a snapshot in, a document out. */
import { formatDuration } from "../core/time.ts";
import type { RotationRow, TaskRow } from "../store/store.ts";
import type { Overview } from "./schema.ts";
import type { Known, Snapshot } from "./snapshot.ts";
import { iso } from "./views.ts";

type DoNext = Overview["doNext"][number];
type Source = Overview["sources"][number];

const mostTimeline = 200;
const mostNext = 12;
const mostApart = 20;

const list = (names: readonly string[]): string =>
  names.length <= 2 ? names.join(" and ") : `${names.slice(0, 2).join(", ")} and ${names.length - 2} more`;
const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
const days = (ms: number): string => {
  const whole = Math.floor(Math.abs(ms) / 86_400_000);
  return whole >= 2 ? `${whole} days` : formatDuration(Math.max(0, Math.round(Math.abs(ms) / 60_000) * 60_000));
};
const linkOf = (name: string): string => `/inventory?item=${encodeURIComponent(name)}`;

export interface OverviewContext {
  readonly mayRead: (owner: string) => boolean;
  readonly titleOf: (type: string) => string;
}

export function overviewOf(snapshot: Snapshot, context: OverviewContext): Overview {
  const known = snapshot.list.filter(({ item }) => context.mayRead(item.owner));
  const names = new Set(known.map(({ item }) => item.credential));
  const active = snapshot.active.filter((row) => names.has(row.credential));
  const tasks = snapshot.openTasks.filter((task) => names.has(task.credential));
  const real = known.filter(({ item }) => !item.model);
  const of = (...states: readonly string[]): Known[] => real.filter(({ item }) => states.includes(item.due.state));

  const broken = of("compromised", "expired");
  const late = of("late");
  const apart = real.filter(({ item }) => item.outOfStep.length > 0 && item.rotation === null);
  const halted = active.filter((row) => row.status === "halted");
  const waiting = new Set([...tasks.map((task) => task.rotation), ...active.filter(needsPerson).map((row) => row.id)]);
  const unknown = of("unknown");
  const staleOnes = real.filter(({ item }) => item.due.stale);
  const due = of("due");

  const sources = sourcesOf(snapshot, known, context);
  const seen = real.map(({ item }) => item.seenAtMs);
  const oldest = seen.length === 0 || seen.includes(null) ? null : Math.min(...(seen as number[]));

  const timeline = known
    .filter(({ item }) => item.notAfterMs !== null || item.due.startByMs !== null)
    .toSorted((a, b) => startOf(a) - startOf(b));
  const next = doNext(snapshot, { known: real, active, tasks });

  return {
    at: iso(snapshot.atMs),
    stale: staleOnes.length > 0,
    seen: iso(oldest),
    verdict: {
      ...verdict(snapshot.atMs, { all: known, real, broken, late, apart, halted, waiting, unknown, staleOnes, due }),
      more: more(snapshot.atMs, known, sources),
    },
    credentials: known.length,
    placesTotal: known.reduce((sum, { item }) => sum + item.places, 0),
    counts: [
      { id: "expired", label: "expired", count: broken.length, link: "/inventory?q=state:expired,compromised" },
      { id: "late", label: "late to start", count: late.length, link: "/inventory?q=state:late" },
      { id: "out-of-step", label: "out of step", count: apart.length, link: "/inventory?q=state:out-of-step" },
      { id: "waiting", label: "waiting for a person", count: waiting.size, link: "/tasks" },
      { id: "rotating", label: "rotations running", count: active.length, link: "/rotations?status=active" },
    ],
    timeline: timeline.slice(0, mostTimeline).map(({ item }) => ({
      credential: item.credential,
      owner: item.owner,
      state: item.due.state,
      lastSafeStart: iso(item.due.lastSafeStartMs),
      startBy: iso(item.due.startByMs),
      expires: iso(item.notAfterMs),
      neededMs: item.neededMs,
      stale: item.due.stale,
    })),
    timelineMore: Math.max(0, timeline.length - mostTimeline),
    doNext: next,
    outOfStep: apart.slice(0, mostApart).map((each) => apartOf(snapshot, each)),
    outOfStepMore: Math.max(0, apart.length - mostApart),
    sources,
  };
}

export function needsPerson(row: RotationRow): boolean {
  return row.status === "halted" || row.status === "paused" || /\bapprov/i.test(row.waitingFor ?? "");
}

const startOf = ({ item }: Known): number =>
  item.due.lastSafeStartMs ?? item.due.startByMs ?? item.notAfterMs ?? Number.POSITIVE_INFINITY;

interface Facts {
  readonly all: readonly Known[];
  readonly real: readonly Known[];
  readonly broken: readonly Known[];
  readonly late: readonly Known[];
  readonly apart: readonly Known[];
  readonly halted: readonly RotationRow[];
  readonly waiting: ReadonlySet<string>;
  readonly unknown: readonly Known[];
  readonly staleOnes: readonly Known[];
  readonly due: readonly Known[];
}
type Verdict = Pick<Overview["verdict"], "level" | "sentence">;
/** In falling order of how bad it is; the first two that hold make the sentence. */
const facts: readonly ((facts: Facts, nowMs: number) => Verdict | null)[] = [
  ({ broken }) =>
    broken.length === 0
      ? null
      : {
          level: "bad",
          sentence: `${namesOf(broken)} ${is(broken)} ${broken.some(isCompromised) ? "known to others or expired" : "expired"}.`,
        },
  ({ halted }) =>
    halted.length === 0
      ? null
      : {
          level: "bad",
          sentence: `The rotation of ${list(halted.map((row) => row.credential))} has stopped and needs a decision.`,
        },
  ({ late }) => (late.length === 0 ? null : { level: "bad", sentence: `${namesOf(late)} ${is(late)} late to start.` }),
  ({ apart }) => (apart.length === 0 ? null : { level: "warn", sentence: `The copies of ${namesOf(apart)} differ.` }),
  ({ due }) => (due.length === 0 ? null : { level: "warn", sentence: `${namesOf(due)} should be started now.` }),
  ({ waiting }) =>
    waiting.size === 0
      ? null
      : {
          level: "warn",
          sentence: `${waiting.size === 1 ? "One rotation waits" : `${waiting.size} rotations wait`} for a person.`,
        },
  ({ unknown }) =>
    unknown.length === 0
      ? null
      : {
          level: "unknown",
          sentence: `It is not known how ${namesOf(unknown)} ${unknown.length === 1 ? "stands" : "stand"}.`,
        },
  ({ staleOnes }) =>
    staleOnes.length === 0 ? null : { level: "unknown", sentence: `What is known of ${namesOf(staleOnes)} is old.` },
];
const namesOf = (rows: readonly Known[]): string => list(rows.map(({ item }) => item.credential));
const is = (rows: readonly Known[]): string => (rows.length === 1 ? "is" : "are");
const isCompromised = ({ item }: Known): boolean => item.due.state === "compromised";

function verdict(nowMs: number, about: Facts): Verdict {
  if (about.all.length === 0) return { level: "empty", sentence: "Nothing is watched yet." };
  const found = facts.flatMap((fact) => fact(about, nowMs) ?? []);
  if (found.length > 0) {
    return {
      level: found[0]!.level,
      sentence: found
        .slice(0, 2)
        .map(({ sentence }) => sentence)
        .join(" "),
    };
  }
  if (about.real.length === 0)
    return { level: "unknown", sentence: "There are only models, which nobody can look at." };
  return { level: "fine", sentence: "Every credential is in step, and none has to be started now." };
}

function more(nowMs: number, known: readonly Known[], sources: readonly Source[]): string {
  if (known.length === 0) return "Declare a credential in keyroll.yaml, or look for some with: keyroll scan";
  const places = known.reduce((sum, { item }) => sum + item.places, 0);
  const parts = [
    `${known.length} ${known.length === 1 ? "credential" : "credentials"} in ${places} ${places === 1 ? "place" : "places"}.`,
  ];
  const ahead = known.map(startOf).filter((at) => Number.isFinite(at) && at > nowMs);
  if (ahead.length > 0) parts.push(`The next of the others must start in ${days(Math.min(...ahead) - nowMs)}.`);
  const failing = sources.filter((source) => source.failing > 0 || source.stale).length;
  if (failing > 0)
    parts.push(
      `${failing} of ${sources.length} ${sources.length === 1 ? "source is" : "sources are"} stale or failing.`,
    );
  return parts.join(" ");
}

function doNext(
  snapshot: Snapshot,
  about: { known: readonly Known[]; active: readonly RotationRow[]; tasks: readonly TaskRow[] },
): DoNext[] {
  const nowMs = snapshot.atMs;
  const rows: { readonly order: number; readonly atMs: number; readonly entry: DoNext }[] = [];
  for (const each of about.known) {
    const { item } = each;
    const base = { credential: item.credential, owner: item.owner, state: item.due.state, at: iso(startOrNull(each)) };
    const atMs = startOf(each);
    const run = item.rotation === null ? undefined : about.active.find((row) => row.id === item.rotation!.id);
    if (run !== undefined) {
      const task = about.tasks.find((one) => one.rotation === run.id);
      const step = snapshot.steps.get(run.id);
      const where = step?.at == null ? "" : `Step ${step.at} of ${step.of}: `;
      if (task !== undefined) {
        const title = (task.instructions as { readonly title?: unknown } | null)?.title;
        rows.push({
          order: 2,
          atMs,
          entry: {
            ...base,
            headline: "Waiting for you",
            detail: `${where}${typeof title === "string" ? title : `${task.action} ${task.version} at ${task.place}`}.`,
            action: "open-task",
            link: `/tasks/${encodeURIComponent(task.id)}`,
          },
        });
      } else if (needsPerson(run)) {
        const approve = run.status === "waiting";
        rows.push({
          order: run.status === "halted" ? 0 : 2,
          atMs,
          entry: {
            ...base,
            headline: run.status === "halted" ? "Stopped" : approve ? "Waiting for approval" : "Paused",
            detail: `${where}${run.waitingFor ?? run.reason ?? run.status}`,
            action: approve ? "approve" : "open-rotation",
            link: `/rotations/${encodeURIComponent(run.id)}`,
          },
        });
      }
      continue;
    }
    const order = { compromised: 0, expired: 0, late: 1, "out-of-step": 2, due: 3, unknown: 4 }[
      item.due.state as string
    ];
    if (order === undefined) continue;
    const looks = item.due.state === "unknown" && (item.seenAtMs === null || item.unseen.length > 0);
    rows.push({
      order,
      atMs,
      entry: {
        ...base,
        headline: headlineOf(each, nowMs),
        detail: capital(item.due.reason).replace(/[^.]$/, "$&."),
        action: looks ? "look" : "preview",
        link: linkOf(item.credential),
      },
    });
  }
  return rows
    .toSorted((a, b) => a.order - b.order || a.atMs - b.atMs || (a.entry.credential < b.entry.credential ? -1 : 1))
    .slice(0, mostNext)
    .map(({ entry }) => entry);
}
const startOrNull = (known: Known): number | null => {
  const at = startOf(known);
  return Number.isFinite(at) ? at : null;
};

function headlineOf({ item }: Known, nowMs: number): string {
  const { due, notAfterMs } = item;
  switch (due.state) {
    case "compromised":
      return "Known to others";
    case "expired":
      return notAfterMs === null ? "Expired" : `Expired ${days(nowMs - notAfterMs)} ago`;
    case "late":
      return due.lastSafeStartMs === null ? "Late to start" : `Start was due ${days(nowMs - due.lastSafeStartMs)} ago`;
    case "out-of-step":
      return "Copies differ";
    case "due":
      return "Start now";
    default:
      return "Not known";
  }
}

function apartOf(snapshot: Snapshot, { item, credential }: Known): Overview["outOfStep"][number] {
  const rows = snapshot.observations.get(item.credential) ?? [];
  return {
    credential: item.credential,
    owner: item.owner,
    current: item.current,
    copies: credential.places
      .filter((place) => place.traits.roles.includes("holder") || place.traits.admits === "version")
      .map((place) => {
        const row = rows.find((each) => each.place === place.name);
        const seen = row?.observation ?? null;
        const entry = seen?.entries.find((each) => each.mark === seen.current);
        const differs = item.outOfStep.find((each) => each.place === place.name);
        const looked = seen !== null && row?.error === null;
        return {
          place: place.name,
          has:
            differs?.has ?? entry?.version ?? (looked && !place.traits.roles.includes("holder") ? item.current : null),
          fingerprint: entry?.mark ?? null,
          inStep: looked ? differs === undefined : null,
        };
      }),
  };
}

/** Systems, and for places without one the kind of place: what can be fresh or stale together. */
export function sourcesOf(
  snapshot: Snapshot,
  known: readonly Known[],
  context: Pick<OverviewContext, "titleOf">,
): Source[] {
  const found = new Map<string, { source: Source; oldestMs: number | null | undefined }>();
  for (const { credential, item } of known) {
    if (item.model) continue;
    const rows = snapshot.observations.get(credential.name) ?? [];
    for (const place of credential.places) {
      const name = place.system ?? place.type;
      const row = rows.find((each) => each.place === place.name);
      const old = found.get(name);
      const atMs = row?.atMs ?? null;
      const before = old?.oldestMs;
      const oldestMs = before === undefined ? atMs : before === null || atMs === null ? null : Math.min(before, atMs);
      const failing = row?.error === null || row === undefined ? 0 : 1;
      found.set(name, {
        oldestMs,
        source: {
          name,
          type: place.type,
          title: context.titleOf(place.type),
          seen: iso(oldestMs),
          stale: oldestMs === null || snapshot.atMs - oldestMs > snapshot.staleAfterMs,
          failing: (old?.source.failing ?? 0) + failing,
          places: (old?.source.places ?? 0) + 1,
          error: old?.source.error ?? row?.error ?? null,
        },
      });
    }
  }
  return [...found.values()].map(({ source }) => source).toSorted((a, b) => (a.name < b.name ? -1 : 1));
}
