/** `run …`: the rotations that were started. */
import type { RunView } from "../../app.ts";
import { exitCodes } from "../../core/problem.ts";
import type { RotationStatus } from "../../store/store.ts";
import type { Cli, Context } from "../command.ts";
import { runDocumentOf, runSummaryOf, taskDocumentOf } from "../documents.ts";
import { endText, exitOf, follow, needsPerson, personText, startBackgroundWorker } from "../follow.ts";
import { countOption, type Session } from "../session.ts";
import { clean, padEnd, paragraph, plain, table } from "../text.ts";
import { ago, clock, dateTime } from "../when.ts";
import { formatDuration } from "../../core/time.ts";

export function registerRun(cli: Cli): void {
  const run = cli.command("run", "the rotations that were started: watch, pause, resume, roll back");
  const list = cli
    .command("list", "runs, the newest first", run)
    .option("--active", "only those that are not over")
    .option("--credential <name>", "only those of this credential")
    .option("--limit <n>", "how many", "50");
  cli.does<{ active?: boolean; credential?: string; limit: string }>(list, showRuns);
  cli.does<{ events?: boolean }>(
    cli
      .command("show <run>", "one run: its steps, tasks and approvals", run)
      .option("--events", "also what the journal has of it"),
    showRun,
  );
  cli.does(cli.command("watch <run>", "follow a run to its end; with --json a stream of documents", run), watchRun);
  const say = "--comment <text>";
  cli.does<Comment>(cli.command("pause <run>", "stop it where it is", run).option(say, "why"), (cx, options, id) =>
    change(cx, "pause", options, id),
  );
  cli.does<Comment>(
    cli.command("resume <run>", "go on after a pause or a stop", run).option(say, "why"),
    (cx, options, id) => change(cx, "resume", options, id),
  );
  cli.does<Comment>(
    cli.command("rollback <run>", "put the old version back, on a plan of its own", run).option(say, "why"),
    (cx, options, id) => change(cx, "rollback", options, id),
  );
  cli.does<Comment>(
    cli.command("cancel <run>", "give it up, while nothing has been put anywhere", run).option(say, "why"),
    (cx, options, id) => change(cx, "cancel", options, id),
  );
}

interface Comment {
  readonly comment?: string;
}

const live: readonly RotationStatus[] = ["running", "waiting", "paused", "halted"];

async function showRuns(
  { session, app }: Context,
  options: { active?: boolean; credential?: string; limit: string },
): Promise<void> {
  const rotations = await app.rotations();
  const rows = await rotations.list({
    limit: countOption("--limit", options.limit, 100_000),
    ...(options.active === true ? { statuses: live } : {}),
    ...(options.credential === undefined ? {} : { credential: (await app.credential(options.credential)).name }),
  });
  const nowMs = app.now();
  await session.list(
    { items: rows.map(runSummaryOf) },
    rows,
    [
      { title: "RUN", value: (row) => ({ text: row.id, paint: session.out.bold }) },
      { title: "CREDENTIAL", flex: true, value: (row) => row.credential },
      { title: "STATUS", value: (row) => ({ text: row.status, paint: statusPaint(session, row.status) }) },
      { title: "STARTED", value: (row) => ago(row.createdAtMs, nowMs) },
      { title: "BY", value: (row) => row.startedBy },
      {
        title: "WHY",
        flex: true,
        value: (row) => row.waitingFor ?? row.reason ?? (row.mode === "breach" ? "breach" : ""),
      },
      {
        title: "TOOK",
        wide: true,
        value: (row) => (row.endedAtMs === null ? "" : formatDuration(row.endedAtMs - row.createdAtMs)),
      },
    ],
    { empty: "Nothing has been rotated yet. Next: keyroll plan NAME" },
  );
}

const statusPaint = (session: Session, status: RotationStatus) =>
  ({
    done: session.out.green,
    halted: session.out.red,
    "rolled-back": session.out.yellow,
    cancelled: session.out.dim,
    paused: session.out.yellow,
    waiting: session.out.cyan,
    running: session.out.cyan,
  })[status] ?? plain;

async function showRun({ session, app }: Context, options: { events?: boolean }, id = ""): Promise<void> {
  const view = await app.run(id);
  const document = options.events === true ? { ...runDocumentOf(view), events: view.events } : runDocumentOf(view);
  await session.document(document, () =>
    runText(view, session, app.now(), options.events === true || session.format === "wide"),
  );
  if (view.rotation.endedAtMs === null)
    session.say(
      needsPerson(view) ? `\n${personText(view, session.textWidth)}` : `\nNext: keyroll run watch ${view.rotation.id}`,
    );
}

export function runText(view: RunView, session: Session, nowMs: number, events: boolean): string {
  const { out, width, textWidth } = session;
  const { rotation } = view;
  const marks = { done: "ok", doing: ">", waiting: "@", todo: ".", left: "x" } as const;
  const paints = { done: out.green, doing: out.cyan, waiting: out.yellow, todo: out.dim, left: out.dim };
  const lines = [
    `${out.bold(`${rotation.direction === "back" ? "Roll back" : rotation.mode === "breach" ? "Breach of" : "Rotate"} ${clean(rotation.credential)}`)}   run ${rotation.id}, ${statusPaint(session, rotation.status)(rotation.status)}   ${out.dim(`plan ${rotation.planDigest.slice(0, 8)}`)}`,
    `${rotation.fromVersion ?? "nothing"} to ${rotation.toVersion ?? view.plan.to}, started ${dateTime(rotation.createdAtMs)} by ${clean(rotation.startedBy)}${rotation.endedAtMs === null ? "" : `, ended ${dateTime(rotation.endedAtMs)}`}`,
    ...(rotation.waitingFor === null ? [] : [paragraph(`Waits for: ${clean(rotation.waitingFor)}`, textWidth)]),
    ...(rotation.reason === null ? [] : [paragraph(clean(rotation.reason), textWidth)]),
    "",
    table(
      view.steps,
      [
        { title: "", value: (step) => ({ text: marks[step.state], paint: paints[step.state] }) },
        { title: "#", align: "right", value: (step) => String(step.n) },
        {
          title: "STEP",
          flex: true,
          value: (step) => ({ text: step.text, paint: step.state === "todo" ? out.dim : plain }),
        },
        { title: "AT", value: (step) => (step.atMs === null ? "" : clock(step.atMs)) },
        { title: "TOOK", value: (step) => (step.tookMs === null ? "" : formatDuration(step.tookMs)) },
      ],
      { width, head: out.dim, indent: " " },
    ),
  ];
  if (view.tasks.length > 0)
    lines.push(
      "",
      table(
        view.tasks,
        [
          { title: "TASK", value: (task) => task.id },
          { title: "STATE", value: (task) => task.state },
          { title: "WHERE", value: (task) => task.place },
          { title: "WHAT", flex: true, value: (task) => `${task.action} ${task.version}` },
          { title: "PERSON", value: (task) => task.person ?? "" },
        ],
        { width, head: out.dim, indent: " " },
      ),
    );
  if (view.approvals.length > 0)
    lines.push(
      "",
      table(
        view.approvals,
        [
          { title: "PHASE", value: (row) => row.phase },
          { title: "PERSON", value: (row) => row.person },
          { title: "SAYS", value: (row) => row.verdict },
          { title: "WHEN", value: (row) => ago(row.atMs, nowMs) },
          { title: "COMMENT", flex: true, value: (row) => row.comment ?? "" },
        ],
        { width, head: out.dim, indent: " " },
      ),
    );
  if (events)
    lines.push(
      "",
      ...view.events.map(
        (event) => `${clock(event.atMs)}  ${padEnd(event.kind, 9)} ${clean(eventText(event.payload))}`,
      ),
    );
  return lines.join("\n");
}

export function eventText(payload: unknown): string {
  if (payload === null || typeof payload !== "object") return String(payload);
  const { text, ...rest } = payload as Record<string, unknown>;
  const facts = Object.entries(rest).flatMap(([key, value]) =>
    value === null || value === undefined
      ? []
      : [`${key} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`],
  );
  return [...(typeof text === "string" ? [text] : []), ...facts].join(", ");
}

async function watchRun(cx: Context, _: unknown, text = ""): Promise<number> {
  const { session, app } = cx;
  const id = await app.runId(text);
  const stream = session.format === "json";
  const { rest, view } = await follow(cx, id, { stopForPeople: !session.interactive, stream });
  if (rest === "aborted") {
    session.say(`\nNobody watches any more; run ${id} goes on, at step ${view.at} of ${view.steps.length}.`);
    throw session.signal.reason;
  }
  if (!stream)
    session.print(
      view.rotation.endedAtMs === null ? personText(view, session.textWidth) : endText(view, session.textWidth),
    );
  return rest === "person" ? exitCodes.waiting : exitOf(view);
}

async function change(
  cx: Context,
  verb: "pause" | "resume" | "rollback" | "cancel",
  options: Comment,
  text = "",
): Promise<void> {
  const { session, app } = cx;
  const rotations = await app.rotations();
  const id = await app.runId(text);
  const by = { person: app.person, ...(options.comment === undefined ? {} : { comment: options.comment }) };
  await rotations[verb](id, by);
  const goesOn = verb === "resume" || verb === "rollback";
  if (goesOn && (await app.workers()).length === 0)
    session.say(`A worker goes on with it in the background; its log is ${startBackgroundWorker(cx, session.io.env)}.`);
  const view = await app.run(id);
  if (session.format === "json")
    return await session.json({ ...runDocumentOf(view), tasks: view.tasks.map(taskDocumentOf) });
  const done = { pause: "Paused", resume: "Going on", rollback: "Rolling back", cancel: "Cancelled" }[verb];
  session.print(`${done}: run ${id} of ${view.rotation.credential}, step ${view.at} of ${view.steps.length}.`);
  if (verb === "pause") session.next(`keyroll run resume ${id}, or keyroll run rollback ${id}`);
  if (goesOn) session.next(`keyroll run watch ${id}`);
}
