/** `status`, `list`, `get` and `explain`: what there is, what is due, and why. */
import { withoutConfig, type StatusItem } from "../../app.ts";
import type { Observation } from "../../core/place.ts";
import { Problem } from "../../core/problem.ts";
import type { Cli, Context } from "../command.ts";
import { iso, runSummaryOf, statusDocumentOf, statusItemOf } from "../documents.ts";
import { countOption, durationOption } from "../session.ts";
import { clean, listed, paragraph, table } from "../text.ts";
import { busyLine } from "../progress.ts";
import { broken, reasonOf, statusColumns, statusTable } from "../status-view.ts";
import { ago, day, expiry, roughly } from "../when.ts";

const conditions = ["due", "drift", "stale"] as const;
type Condition = (typeof conditions)[number];

export function registerLook(cli: Cli): void {
  const status = cli
    .command("status [name]", "what expires, what is out of step, and what to do first")
    .option("--due <time>", "only what must be started or expires within this time, such as 35d")
    .option("--out-of-sync", "only credentials whose copies differ")
    .option(
      "--fail-on <conditions>",
      `exit 3 when something is ${conditions.slice(0, 2).join(" or ")}, 7 when stale; several with commas`,
    )
    .option("--all", "also what is fine")
    .option("--refresh", "look at every place now")
    .option("--cached", "look at nothing, say what is known");
  cli.does<StatusOptions>(status, showStatus);

  const list = cli
    .command("list", "all credentials, or with --inventory all that scans have found")
    .option("--owner <name>", "only those of this owner")
    .option("--kind <kind>", "only this kind: password, certificate, ca, …")
    .option("--inventory", "what scans have found, soonest expiry first")
    .option("--expires <time>", "with --inventory: only what expires within this time")
    .option("--limit <n>", "how many rows", "200");
  cli.does<ListOptions>(list, showList);

  cli.does(cli.command("get <name>", "one credential: where it is held and trusted, and its versions"), showOne);
  cli.does(cli.command("explain <name>", "why it is in its state, and what holds the next step"), showWhy);
}

interface StatusOptions {
  readonly due?: string;
  readonly outOfSync?: boolean;
  readonly failOn?: string;
  readonly all?: boolean;
  readonly refresh?: boolean;
  readonly cached?: boolean;
}

async function showStatus({ session, app }: Context, options: StatusOptions, name?: string): Promise<number> {
  const failOn = conditionsOf(options.failOn);
  const dueMs = options.due === undefined ? null : durationOption("--due", options.due);
  const line = busyLine(session);
  const all = await app
    .status({
      observe: options.refresh ? "always" : options.cached ? "never" : "auto",
      ...(name === undefined ? {} : { only: name }),
      onLook: (done, total) => line.show(`looking at credential ${done} of ${total}`),
    })
    .finally(() => line.clear());
  const nowMs = app.now();
  const chosen = all.filter(
    (item) =>
      (dueMs === null || isDueWithin(item, nowMs, dueMs)) &&
      (options.outOfSync !== true || item.due.state === "out-of-step" || item.outOfStep.length > 0),
  );
  const exitCode = verdict(chosen, failOn);
  if (session.format === "json") {
    await session.json(statusDocumentOf(chosen, nowMs));
    return exitCode;
  }
  const columns = statusColumns(session, nowMs);
  if (session.format === "csv" || session.format === "md") {
    await session.list({ items: [] }, chosen, columns);
    return exitCode;
  }
  const filtered = dueMs !== null || options.outOfSync === true || name !== undefined;
  const showAll = options.all === true || filtered || session.format === "wide" || all.length <= 20;
  const shown = showAll ? chosen : chosen.filter((item) => item.due.state !== "fine" && !item.model);
  if (shown.length > 0) session.print(statusTable(shown, session, nowMs));
  else if (filtered) session.say("Nothing of that kind.");
  const rest = chosen.length - shown.length;
  const next = all
    .filter((item) => item.due.state === "fine" && item.due.startByMs !== null)
    .toSorted((a, b) => a.due.startByMs! - b.due.startByMs!)[0];
  const lines: string[] = [];
  if (all.length === 0) lines.push("The estate declares no credential yet.");
  if (rest > 0) lines.push(`${rest.toLocaleString("en-US")} more are fine.`);
  if (next !== undefined && !filtered)
    lines.push(`Next start: ${next.credential} by ${day(next.due.startByMs!, nowMs)}.`);
  if (lines.length > 0) session.say(`   ${lines.join(" ")}`);
  for (const item of shown.filter((each) => each.due.stale && each.seenAtMs !== null).slice(0, 5))
    session.say(
      `   ${clean(item.credential)} was last seen whole ${ago(item.seenAtMs!, nowMs)}, so its line may be old.`,
    );
  const running = all.find((item) => item.rotation?.status === "running" || item.rotation?.status === "waiting");
  if (running !== undefined && (await app.workers()).length === 0)
    session.say(`   No worker is running, so nothing goes on by itself. Start one with: keyroll serve`);
  session.next(whatNext(all, shown));
  return exitCode;
}

function conditionsOf(text: string | undefined): readonly Condition[] {
  if (text === undefined) return [];
  return text.split(",").map((each) => {
    const found = conditions.find((condition) => condition === each.trim());
    if (found === undefined)
      throw new Problem("usage", `--fail-on ${each} is not known.`, {
        next: `Write ${listed(conditions)}, several with commas.`,
      });
    return found;
  });
}

const isDue = (item: StatusItem): boolean => broken.includes(item.due.state) || item.due.state === "due";
function isDueWithin(item: StatusItem, nowMs: number, withinMs: number): boolean {
  if (isDue(item)) return true;
  const dates = [item.due.startByMs, item.notAfterMs].filter((at) => at !== null);
  return dates.some((at) => at <= nowMs + withinMs);
}

/** 3: found. 7: nothing was found, and too little was seen to say that there is nothing. */
export function verdict(items: readonly StatusItem[], failOn: readonly Condition[]): number {
  if (failOn.length === 0) return 0;
  const real = items.filter((item) => !item.model);
  if (failOn.includes("due") && real.some(isDue)) return 3;
  if (failOn.includes("drift") && real.some((item) => item.due.state === "out-of-step" || item.outOfStep.length > 0))
    return 3;
  if (real.some((item) => item.due.state === "unknown" || item.unseen.length > 0)) return 7;
  return failOn.includes("stale") && real.some((item) => item.due.stale) ? 7 : 0;
}

function whatNext(all: readonly StatusItem[], shown: readonly StatusItem[]): string {
  const first =
    shown.find((item) => !item.model && item.due.state !== "fine") ??
    all.find((item) => !item.model && item.due.state !== "fine");
  if (first === undefined) {
    const any = all.find((item) => item.model) ?? all[0];
    return any === undefined
      ? "describe your first credential in keyroll.yaml"
      : `nothing to do. Look ahead with: keyroll plan ${any.credential}`;
  }
  if (first.rotation !== null) {
    if (first.rotation.status === "halted" || first.rotation.status === "paused")
      return `keyroll run show ${first.rotation.id}`;
    return /approve/.test(first.rotation.waitingFor ?? "")
      ? `keyroll approve ${first.rotation.id} (by somebody else than the starter)`
      : `keyroll run watch ${first.rotation.id}`;
  }
  if (first.due.state === "unknown" && first.unseen.length > 0)
    return first.unseen.every((each) => each.why === "never looked at") ? "keyroll status --refresh" : "keyroll doctor";
  if (first.due.state === "compromised") return `keyroll plan ${first.credential} --mode breach`;
  return first.due.state === "out-of-step" ? `keyroll explain ${first.credential}` : `keyroll plan ${first.credential}`;
}

// ---------------------------------------------------------------------------------------------------------------------------------------

interface ListOptions {
  readonly owner?: string;
  readonly kind?: string;
  readonly inventory?: boolean;
  readonly expires?: string;
  readonly limit: string;
}

async function showList({ session, app }: Context, options: ListOptions): Promise<number | void> {
  const limit = countOption("--limit", options.limit, 1_000_000);
  const nowMs = app.now();
  if (options.inventory || options.expires !== undefined) {
    const beforeMs = options.expires === undefined ? undefined : nowMs + durationOption("--expires", options.expires);
    const { rows, total } = await app.inventory({
      limit,
      ...(beforeMs === undefined ? {} : { beforeMs }),
      ...(options.owner === undefined ? {} : { owner: options.owner }),
    });
    const items = rows.map(({ notAfterMs, seenAtMs, firstSeenAtMs, id, ...row }) => ({
      id,
      ...row,
      expires: iso(notAfterMs),
      firstSeen: iso(firstSeenAtMs),
      seen: iso(seenAtMs),
    }));
    return await session.list(
      { items },
      rows,
      [
        { title: "EXPIRES", value: (row) => (row.notAfterMs === null ? "" : expiry(row.notAfterMs, nowMs)) },
        { title: "KIND", value: (row) => row.kind },
        { title: "WHERE", flex: true, value: (row) => row.path },
        { title: "SUBJECT", flex: true, value: (row) => subjectOf(row.facts) },
        { title: "FINGERPRINT", value: (row) => row.fingerprint.slice(0, session.format === "csv" ? 64 : 12) },
        { title: "SOURCE", wide: true, value: (row) => row.source },
        { title: "SEEN", wide: true, value: (row) => ago(row.seenAtMs, nowMs) },
      ],
      {
        empty: total === 0 ? "Nothing has been scanned yet. Next: keyroll scan PATH --save" : "Nothing of that kind.",
        after: () =>
          rows.length < total
            ? `${rows.length.toLocaleString("en-US")} of ${total.toLocaleString("en-US")} shown; --limit shows more.`
            : "",
      },
    );
  }
  const { estate } = await app.estate();
  const found = estate.credentials.filter(
    (each) =>
      (options.owner === undefined || each.owner === options.owner) &&
      (options.kind === undefined || each.kind === options.kind),
  );
  await session.list(
    {
      items: found.map((each) => ({
        credential: each.name,
        kind: each.kind,
        owner: each.owner,
        labels: each.labels,
        issuer: each.issuer.type,
        places: each.places.map((place) => ({ place: place.name, type: place.type, roles: place.traits.roles })),
        source: each.source,
      })),
    },
    found.slice(0, limit),
    [
      { title: "CREDENTIAL", flex: true, value: (each) => ({ text: each.name, paint: session.out.bold }) },
      { title: "KIND", value: (each) => each.kind },
      { title: "OWNER", value: (each) => each.owner },
      { title: "ISSUER", value: (each) => each.issuer.type },
      {
        title: "PLACES",
        flex: true,
        value: (each) =>
          listed(
            each.places.map((place) => place.name),
            6,
          ),
      },
      { title: "DECLARED", wide: true, value: (each) => each.source },
    ],
    { empty: "No credential of that kind. keyroll.yaml declares them." },
  );
}

function subjectOf(facts: unknown): string {
  const subject = (facts as { subject?: unknown } | null)?.subject;
  return typeof subject === "string" ? subject : "";
}

async function showOne({ session, app }: Context, _: unknown, name = ""): Promise<void> {
  const found = await app.detail(name);
  const nowMs = app.now();
  const credential = withoutConfig(found.credential);
  const observationOf = (place: string) => found.observations.find((row) => row.place === place);
  const document = {
    ...statusItemOf(found.status),
    declared: credential,
    versions: found.versions.map((row) => ({
      id: row.id,
      state: row.state,
      material: row.material,
      facts: row.facts,
      placements: row.placements,
      created: iso(row.createdAtMs),
      retired: iso(row.retiredAtMs),
    })),
    observations: found.observations.map((row) => ({
      place: row.place,
      observation: row.observation,
      seen: iso(row.atMs),
      error: row.error,
      failed: iso(row.errorAtMs),
    })),
    runs: found.rotations.map(runSummaryOf),
  };
  await session.document(document, () => {
    const { out, width, textWidth } = session;
    const lines = [
      `${out.bold(clean(credential.name))}   ${credential.kind} of ${clean(credential.owner)}, made by ${credential.issuer.type}, declared at ${credential.source}`,
      paragraph(`${found.status.due.state}: ${reasonOf(found.status, nowMs)}`, textWidth),
      "",
      table(
        credential.places,
        [
          { title: "PLACE", value: (place) => ({ text: place.name, paint: out.bold }) },
          { title: "TYPE", value: (place) => place.type },
          { title: "ROLE", value: (place) => place.traits.roles.join(", ") || "watches" },
          { title: "PRESENTS TO", flex: true, value: (place) => place.presentsTo.join(", ") },
          { title: "HAS", flex: true, value: (place) => hasText(observationOf(place.name)?.observation ?? null) },
          {
            title: "SEEN",
            flex: true,
            value: (place) => {
              const row = observationOf(place.name);
              if (found.status.model) return "a model";
              if (row?.error) return { text: row.error, paint: out.red };
              return row?.atMs ? ago(row.atMs, nowMs) : "never";
            },
          },
        ],
        { width, head: out.dim, indent: " " },
      ),
    ];
    if (found.versions.length > 0)
      lines.push(
        "",
        table(
          found.versions,
          [
            { title: "VERSION", value: (row) => row.id },
            { title: "STATE", value: (row) => row.state },
            { title: "FINGERPRINT", value: (row) => row.facts?.fingerprint.slice(0, 16) ?? "" },
            { title: "EXPIRES", value: (row) => expiry(row.facts?.notAfterMs ?? null, nowMs) },
            { title: "MADE", value: (row) => `${roughly(nowMs - row.createdAtMs)} ago` },
            { title: "SECRET PART", value: (row) => (row.material === "sealed" ? "sealed here" : "not here") },
          ],
          { width, head: out.dim, indent: " " },
        ),
      );
    if (found.rotations.length > 0)
      lines.push(
        "",
        table(
          found.rotations,
          [
            { title: "RUN", value: (row) => row.id },
            { title: "STATUS", value: (row) => row.status },
            { title: "STARTED", value: (row) => `${day(row.createdAtMs, nowMs)} by ${row.startedBy}` },
            { title: "WHY", flex: true, value: (row) => row.waitingFor ?? row.reason ?? "" },
          ],
          { width, head: out.dim, indent: " " },
        ),
      );
    return lines.join("\n");
  });
  session.next(`keyroll plan ${name}, or keyroll explain ${name}`);
}

function hasText(observation: Observation | null): string {
  if (observation === null) return "";
  const marks = observation.entries.map((entry) => {
    const name = entry.version ?? (entry.mark.length > 16 ? `${entry.mark.slice(0, 12)}…` : entry.mark);
    const used = observation.current === entry.mark ? " (in use)" : "";
    return `${name}${entry.enabled ? "" : " (off)"}${used}`;
  });
  return listed(marks, 6);
}

async function showWhy({ session, app }: Context, _: unknown, name = ""): Promise<void> {
  const { status, explanation, rotation, unseenBecause } = await app.explain(name);
  const nowMs = app.now();
  await session.document({ ...statusItemOf(status), explanation, unseenBecause }, () => {
    const { out, width, textWidth } = session;
    const bullet = (text: string): string => paragraph(clean(text), textWidth, "    ", "  - ");
    const lines = [
      `${out.bold(clean(name))}   ${status.due.state}: ${reasonOf(status, nowMs)}`,
      "",
      table(
        explanation.places,
        [
          { title: "PLACE", value: (place) => ({ text: place.place, paint: out.bold }) },
          { title: "ROLE", value: (place) => place.roles.join(", ") || "watches" },
          { title: "HAS", flex: true, value: (place) => listed(place.has, 6) },
          { title: "USES", value: (place) => place.current ?? "" },
          { title: "IN DOUBT", flex: true, value: (place) => place.doubt.join(", ") },
          { title: "SEEN", value: (place) => (place.seen ? "yes" : { text: "no", paint: out.red }) },
        ],
        { width, head: out.dim, indent: " " },
      ),
      "",
    ];
    if (rotation !== null) {
      lines.push(
        `Run ${rotation.id}, ${rotation.status}${rotation.waitingFor === null ? "" : `, waits for ${clean(rotation.waitingFor)}`}.`,
      );
      if (rotation.reason !== null) lines.push(paragraph(clean(rotation.reason), textWidth));
      lines.push("What can come next:");
    } else
      lines.push(
        status.model
          ? "If it were rotated now, from an old version that is in use everywhere:"
          : "If it were rotated now:",
      );
    lines.push(...explanation.sentences.map(bullet));
    if (explanation.notes.length > 0) lines.push("Notes:", ...explanation.notes.map(bullet));
    if (unseenBecause.length > 0) lines.push("Not seen:", ...unseenBecause.map(bullet));
    return lines.join("\n");
  });
  session.next(rotation === null ? `keyroll plan ${name}` : `keyroll run show ${rotation.id}`);
}
