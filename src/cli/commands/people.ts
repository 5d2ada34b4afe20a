/** `task …`, `approve` and `reject`: what only people can do. The machine checks after every "done". */
import type { Phase } from "../../core/place.ts";
import { Problem } from "../../core/problem.ts";
import type { TaskRow } from "../../store/store.ts";
import type { Cli, Context } from "../command.ts";
import { runDocumentOf, taskDocumentOf } from "../documents.ts";
import { startBackgroundWorker } from "../follow.ts";
import { clean, listed, paragraph } from "../text.ts";
import { ago, dateTime } from "../when.ts";

interface Comment {
  readonly comment?: string;
}
const phases: readonly (Phase | "plan")[] = ["issue", "distribute", "switch", "retire", "plan"];

export function registerPeople(cli: Cli): void {
  const task = cli.command("task", "what a person must do by hand: list, show, done, hand over, refuse");
  cli.does<{ all?: boolean; mine?: boolean }>(
    cli.command("list", "open tasks", task).option("--all", "also what is over").option("--mine", "only mine"),
    showTasks,
  );
  cli.does(cli.command("show <task>", "the exact values, numbered", task), showTask);
  const say = "--comment <text>";
  cli.does<Comment>(
    cli
      .command("done <task>", "say that it is done; it is checked before anything goes on", task)
      .option(say, "what is worth knowing"),
    (cx, options, id) => answer(cx, "taskDone", options, id),
  );
  cli.does<Comment & { to: string }>(
    cli
      .command("handover <task>", "give it to somebody else", task)
      .requiredOption("--to <person>", "who does it")
      .option(say, "why"),
    (cx, options, id) => answer(cx, "taskHandover", options, id),
  );
  cli.does<Comment>(
    cli.command("refuse <task>", "say that it cannot or must not be done", task).option(say, "why"),
    (cx, options, id) => answer(cx, "taskRefuse", options, id),
  );

  for (const verb of ["approve", "reject"] as const) {
    const command = cli
      .command(
        `${verb} <run>`,
        verb === "approve"
          ? "agree to what a run waits for; never by who started it"
          : "say no; the run is paused with the reason",
      )
      .option("--phase <phase>", `${phases.join(", ")}; default: what it waits for`)
      .option(say, "why");
    cli.does<Comment & { phase?: string }>(command, (cx, options, id) => judge(cx, verb, options, id));
  }
}

async function showTasks({ session, app }: Context, options: { all?: boolean; mine?: boolean }): Promise<void> {
  const rows = await app.tasks({
    ...(options.all === true ? {} : { states: ["open", "handed-over"] as const }),
    ...(options.mine === true ? { person: app.person } : {}),
  });
  const nowMs = app.now();
  await session.list(
    { items: rows.map(taskDocumentOf) },
    rows,
    [
      { title: "TASK", value: (row) => ({ text: row.id, paint: session.out.bold }) },
      { title: "CREDENTIAL", flex: true, value: (row) => row.credential },
      { title: "WHAT", flex: true, value: (row) => titleOf(row) },
      { title: "STATE", value: (row) => row.state },
      { title: "FOR", value: (row) => row.person ?? "anybody" },
      { title: "SINCE", value: (row) => ago(row.createdAtMs, nowMs) },
      { title: "RUN", wide: true, value: (row) => row.rotation },
    ],
    { empty: "Nobody has to do anything." },
  );
  const open = rows.find((row) => row.state === "open");
  if (open !== undefined) session.next(`keyroll task show ${open.id}`);
}

interface Instructions {
  readonly title?: string;
  readonly minutes?: number;
  readonly steps?: readonly { readonly text: string; readonly copy?: string }[];
}
const titleOf = (row: TaskRow): string =>
  (row.instructions as Instructions | null)?.title ?? `${row.action} ${row.version} at ${row.place}`;

async function showTask({ session, app }: Context, _: unknown, text = ""): Promise<void> {
  const id = await app.taskId(text);
  const row = (await app.tasks()).find((each) => each.id === id)!;
  await session.document(taskDocumentOf(row), () => {
    const { out, textWidth } = session;
    const instructions = (row.instructions ?? {}) as Instructions;
    const lines = [
      `${out.bold(clean(titleOf(row)))}   task ${row.id}, ${row.state}, run ${row.rotation}`,
      `${row.version} at ${row.place} of ${row.credential}${instructions.minutes === undefined ? "" : `, about ${instructions.minutes} min`}${row.person === null ? "" : `, for ${row.person}`}${row.dueAtMs === null ? "" : `, by ${dateTime(row.dueAtMs)}`}`,
      "",
    ];
    (instructions.steps ?? []).forEach((step, i) => {
      lines.push(paragraph(clean(step.text), textWidth, "     ", `${String(i + 1).padStart(3)}. `));
      if (step.copy !== undefined) lines.push(`       ${out.cyan(clean(step.copy))}`);
    });
    const checked = (row.checked as { detail?: unknown } | null)?.detail;
    if (typeof checked === "string") lines.push("", paragraph(`Checked: ${clean(checked)}`, textWidth));
    if (row.note !== null) lines.push("", paragraph(`Note: ${clean(row.note)}`, textWidth));
    return lines.join("\n");
  });
  if (row.state === "open") session.next(`keyroll task done ${row.id}, or keyroll task refuse ${row.id} --comment WHY`);
}

async function answer(
  cx: Context,
  verb: "taskDone" | "taskRefuse" | "taskHandover",
  options: Comment & { to?: string },
  text = "",
): Promise<void> {
  const { session, app } = cx;
  const rotations = await app.rotations();
  const id = await app.taskId(text);
  const by = { person: app.person, ...(options.comment === undefined ? {} : { comment: options.comment }) };
  const row =
    verb === "taskHandover"
      ? await rotations.taskHandover(id, { ...by, to: options.to! })
      : await rotations[verb](id, by);
  await wake(cx);
  await session.document(taskDocumentOf(row), () => {
    if (verb === "taskDone") return `Task ${id} is said to be done. Keyroll looks for itself before it goes on.`;
    return verb === "taskRefuse" ? `Task ${id} is refused.` : `Task ${id} is for ${clean(options.to!)} now.`;
  });
  session.next(`keyroll run watch ${row.rotation}`);
}

/** Where no worker stays, somebody must go on with the run. */
async function wake(cx: Context): Promise<void> {
  if ((await cx.app.workers()).length > 0) return;
  cx.session.say(
    `A worker goes on with it in the background; its log is ${startBackgroundWorker(cx, cx.session.io.env)}.`,
  );
}

async function judge(
  cx: Context,
  verb: "approve" | "reject",
  options: Comment & { phase?: string },
  text = "",
): Promise<void> {
  const { session, app } = cx;
  const view = await app.run(text);
  let phase = phases.find((each) => each === options.phase);
  if (options.phase !== undefined && phase === undefined)
    throw new Problem("usage", `--phase ${options.phase} is not known.`, { next: `Write ${listed(phases, 9)}.` });
  // The engine says in words which phase it waits for.
  phase ??= phases.find((each) => new RegExp(`\\b${each} phase\\b`).test(view.rotation.waitingFor ?? ""));
  if (phase === undefined && /\bplan\b/.test(view.rotation.waitingFor ?? "")) phase = "plan";
  if (phase === undefined)
    throw new Problem(
      "refused",
      `Run ${view.rotation.id} waits for no approval now${view.rotation.waitingFor === null ? "" : `, but for: ${view.rotation.waitingFor}`}.`,
      {
        next: `To agree beforehand, name the phase: keyroll ${verb} ${view.rotation.id} --phase ${listed(phases, 9)}`,
      },
    );
  const after = await app.approve(
    view.rotation.id,
    phase,
    verb === "approve" ? "approved" : "rejected",
    options.comment,
  );
  if (verb === "approve") await wake(cx);
  await session.document(runDocumentOf(after), () =>
    verb === "approve"
      ? `${app.person} approves the ${phase} phase of run ${view.rotation.id} (plan ${view.rotation.planDigest.slice(0, 8)}).`
      : `${app.person} rejects the ${phase} phase of run ${view.rotation.id}. It is paused.`,
  );
  session.next(
    verb === "approve" ? `keyroll run watch ${view.rotation.id}` : `keyroll run rollback ${view.rotation.id}`,
  );
}
