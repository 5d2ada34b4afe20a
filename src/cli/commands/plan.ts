/** `plan` and `runbook`: what a rotation would do, before anything is done. */
import { readFile, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { PlanResult } from "../../app.ts";
import type { Plan } from "../../core/plan.ts";
import { Problem } from "../../core/problem.ts";
import type { Cli, Context } from "../command.ts";
import { planDocument, planDocumentOf } from "../documents.ts";
import { breachTable, diffPlans, planMarkdown, planText } from "../plan-view.ts";
import { busyLine } from "../progress.ts";
import { runbookHtml, runbookMarkdown, runbookOf } from "../runbook.ts";
import { countOption, type Session } from "../session.ts";
import { count } from "../text.ts";
import { day } from "../when.ts";

export interface PlanOptions {
  readonly mode?: string;
  readonly strategy?: string;
  readonly all?: boolean;
  readonly diff?: string;
  readonly exitCode?: boolean;
  readonly maxStates?: string;
}

export const strategies: readonly Plan["strategy"][] = ["availability-first", "contain-first"];

export function registerPlan(cli: Cli): void {
  const plan = cli
    .command(
      "plan [name]",
      "the steps of a rotation, what holds if it stops after each, and the proof; changes nothing",
    )
    .option("--mode <mode>", "planned, or breach: the old version is known to others", "planned")
    .option("--strategy <strategy>", `in a breach: ${strategies.join(" or ")}; default: both side by side`)
    .option("--all", "every credential that must be rotated by its policy, or is out of step")
    .option("--diff <file>", "what has changed since this plan was saved with -o FILE")
    .option("--exit-code", "exit 3 when there is something to do, 4 when a plan is unsafe")
    .option("--max-states <n>", "give up proving after this many states");
  cli.does<PlanOptions>(plan, showPlan);

  const runbook = cli
    .command("runbook <name>", "the plan of a credential or run as a document that a person can follow")
    .option("--format <format>", "md or html")
    .option("--mode <mode>", "planned or breach", "planned")
    .option("--strategy <strategy>", strategies.join(" or "));
  cli.does<{ format?: string; mode: string; strategy?: string }>(runbook, showRunbook);
}

export function modeOf(text: string | undefined): Plan["mode"] {
  if (text === undefined || text === "planned") return "planned";
  if (text === "breach") return "breach";
  throw new Problem("usage", `--mode ${text} is not known.`, { next: "Write --mode planned or --mode breach." });
}
export function strategyOf(text: string | undefined): Plan["strategy"] | undefined {
  if (text === undefined) return undefined;
  const found = strategies.find((each) => each === text);
  if (found === undefined)
    throw new Problem("usage", `--strategy ${text} is not known.`, {
      next: `Write --strategy ${strategies.join(" or ")}.`,
    });
  return found;
}

/** A plan that `plan -o FILE` wrote. */
export async function readPlan(path: string, cwd: string): Promise<Plan> {
  let text: string;
  try {
    text = await readFile(resolve(cwd, path), "utf8");
  } catch (error) {
    throw new Problem(
      "usage",
      `The plan ${path} cannot be read (${(error as NodeJS.ErrnoException).code ?? "unknown"}).`,
      {
        next: "Save one with: keyroll plan NAME -o plan.json",
      },
    );
  }
  try {
    return planDocument.parse(JSON.parse(text)) as unknown as Plan;
  } catch {
    throw new Problem("usage", `${path} is not a plan that Keyroll wrote.`, {
      next: "Save one with: keyroll plan NAME -o plan.json",
    });
  }
}

export const isUnsafe = (plan: Plan): boolean => plan.safety.verdict === "refuted" || plan.safety.verdict === "blocked";

/** 4: unsafe. 7: not everything was seen. 3: there is something to do. The worst of several. */
function exitOf(plans: readonly Plan[], wanted: boolean | undefined): number {
  if (wanted !== true) return 0;
  if (plans.some((plan) => plan.unseen.length === 0 && isUnsafe(plan))) return 4;
  if (plans.some((plan) => plan.unseen.length > 0)) return 7;
  return plans.some((plan) => plan.steps.length > 0) ? 3 : 0;
}

async function showPlan(cx: Context, options: PlanOptions, name?: string): Promise<number> {
  const { session, app } = cx;
  const mode = modeOf(options.mode);
  const strategy = strategyOf(options.strategy);
  if (strategy !== undefined && mode === "planned")
    throw new Problem("usage", "--strategy is for a breach.", { next: "Add --mode breach, or leave it out." });
  if (options.all === true ? name !== undefined : name === undefined)
    throw new Problem("usage", "keyroll plan takes the name of one credential, or --all.", {
      next: "List the names with: keyroll list",
    });
  const more =
    options.maxStates === undefined ? {} : { maxStates: countOption("--max-states", options.maxStates, 100_000_000) };
  if (options.all === true)
    return await planAll(cx, options, { mode, ...(strategy === undefined ? {} : { strategy }), ...more });

  const line = busyLine(session);
  line.show(`looking at the places of ${name!}, and proving`);
  const results: PlanResult[] = [];
  try {
    const wanted = mode === "planned" ? [undefined] : strategy === undefined ? strategies : [strategy];
    for (const each of wanted)
      results.push(
        await app.plan({ credential: name!, mode, ...(each === undefined ? {} : { strategy: each }), ...more }),
      );
  } finally {
    line.clear();
  }
  const first = results[0]!;
  const exitCode = exitOf([first.plan], options.exitCode);
  const document = planDocumentOf(first, mode === "breach" ? results : undefined);

  if (options.diff !== undefined) {
    const before = await readPlan(options.diff, session.io.cwd);
    if (before.credential !== first.plan.credential)
      throw new Problem(
        "usage",
        `${options.diff} is a plan for ${before.credential}, not for ${first.plan.credential}.`,
      );
    const difference = diffPlans(before, first.plan);
    if (session.format === "json") await session.json(difference);
    else if (difference.lines.length === 0) session.print("The plan is the same.");
    else {
      session.print(
        `${difference.changed ? "The plan has changed, so the saved one cannot be run any more:" : "The order is the same; this differs:"}\n${difference.lines.join("\n")}`,
      );
    }
    return options.exitCode === true && difference.changed ? 4 : exitCode;
  }
  if (session.outFile !== null) {
    await writeFile(resolve(session.io.cwd, session.outFile), `${JSON.stringify(document, null, 2)}\n`);
    session.say(`Saved plan ${first.plan.digest.slice(0, 8)} (${first.plan.safety.verdict}) to ${session.outFile}.`);
    session.next(
      first.modelled ? `keyroll plan ${name!} --diff ${session.outFile}` : `keyroll rotate --plan ${session.outFile}`,
    );
    return exitCode;
  }
  if (session.format === "json") {
    await session.json(document);
    return exitCode;
  }
  if (session.format === "md" || session.format === "html") {
    session.print(results.map((result) => planMarkdown(result.plan, app.now())).join("\n\n"));
    return exitCode;
  }
  const blocks: string[] = [];
  if (results.length > 1)
    blocks.push(
      `${session.out.bold(`Breach of ${name!}: two ways out`)}\n\n${breachTable(
        results.map((result) => result.plan),
        { colors: session.out, width: session.width },
      )}`,
    );
  blocks.push(...results.map((result) => planView(session, result, app.now())));
  session.print(blocks.join("\n\n"));
  session.say("");
  session.next(nextOf(first, results.length > 1));
  return exitCode;
}

export function planView(session: Session, result: PlanResult, nowMs: number): string {
  return planText(result.plan, {
    width: session.width,
    textWidth: session.textWidth,
    nowMs,
    colors: session.out,
    unseenBecause: result.unseenBecause,
    modelled: result.modelled,
  });
}

function nextOf({ plan, modelled }: PlanResult, both: boolean): string {
  if (plan.unseen.length > 0) return "keyroll doctor";
  if (isUnsafe(plan)) return `change what stands in the way, then keyroll plan ${plan.credential}`;
  if (modelled) return "give its places the type of a connector, and this rotation can be run";
  if (both) return `keyroll rotate ${plan.credential} --mode breach --strategy ${strategies.join(" or ")}`;
  const breach = plan.mode === "breach" ? ` --mode breach --strategy ${plan.strategy}` : "";
  return `keyroll rotate ${plan.credential}${breach} --plan ${plan.digest.slice(0, 8)}`;
}

async function planAll(
  { session, app }: Context,
  options: PlanOptions,
  request: { mode: Plan["mode"]; strategy?: Plan["strategy"]; maxStates?: number },
): Promise<number> {
  const line = busyLine(session);
  const items = await app.status({
    observe: "auto",
    onLook: (done, total) => line.show(`looking at credential ${done} of ${total}`),
  });
  const wanted = items.filter((item) => !item.model && !["fine", "rotating"].includes(item.due.state));
  const results: PlanResult[] = [];
  try {
    for (const [i, item] of wanted.entries()) {
      line.show(`planning ${item.credential}, ${i + 1} of ${wanted.length}`);
      results.push(await app.plan({ credential: item.credential, ...request }));
    }
  } finally {
    line.clear();
  }
  const plans = results.map((result) => result.plan);
  const exitCode = exitOf(plans, options.exitCode);
  if (session.format === "json") {
    await session.json({ items: results.map((result) => planDocumentOf(result)) });
    return exitCode;
  }
  const nowMs = app.now();
  if (session.format === "md") {
    session.print(
      [
        `## Keyroll: ${count(plans.length, "rotation")} to start`,
        ...plans.map((plan) => planMarkdown(plan, nowMs)),
      ].join("\n\n"),
    );
    return exitCode;
  }
  await session.list(
    { items: [] },
    results,
    [
      { title: "CREDENTIAL", flex: true, value: ({ plan }) => ({ text: plan.credential, paint: session.out.bold }) },
      { title: "PLAN", value: ({ plan }) => plan.digest.slice(0, 8) },
      {
        title: "PROOF",
        flex: true,
        value: ({ plan }) => ({
          text: plan.unseen.length > 0 ? `not seen: ${plan.unseen.join(", ")}` : plan.safety.verdict,
          paint: isUnsafe(plan) || plan.unseen.length > 0 ? session.out.red : session.out.green,
        }),
      },
      { title: "STEPS", align: "right", value: ({ plan }) => String(plan.steps.length) },
      { title: "GAPS", align: "right", value: ({ plan }) => String(plan.gaps.length) },
      {
        title: "START BY",
        value: ({ plan }) => (plan.lastSafeStart === null ? "" : day(Date.parse(plan.lastSafeStart), nowMs)),
      },
    ],
    { empty: "Nothing must be rotated now." },
  );
  if (plans[0] !== undefined) session.next(`keyroll plan ${plans[0].credential}`);
  return exitCode;
}

// ---------------------------------------------------------------------------------------------------------------------------------------

async function showRunbook(
  { session, app }: Context,
  options: { format?: string; mode: string; strategy?: string },
  name = "",
): Promise<void> {
  const wanted =
    options.format ?? (session.format === "html" ? "html" : session.outFile?.endsWith(".html") ? "html" : "md");
  if (wanted !== "md" && wanted !== "html")
    throw new Problem("usage", `--format ${wanted} is not known.`, { next: "Write --format md or --format html." });
  const { estate } = await app.estate();
  const isCredential = estate.credentials.some((credential) => credential.name === name);
  const strategy = strategyOf(options.strategy);
  let plan: Plan;
  let view = null;
  if (isCredential)
    plan = (
      await app.plan({ credential: name, mode: modeOf(options.mode), ...(strategy === undefined ? {} : { strategy }) })
    ).plan;
  else {
    view = await app.run(name).catch((error: unknown) => {
      if (error instanceof Problem && error.kind === "not-found")
        throw new Problem("not-found", `There is no credential and no run "${name}".`, {
          next: "List them with: keyroll list, or keyroll run list",
        });
      throw error;
    });
    plan = view.plan;
  }
  const credential = await app.credential(plan.credential);
  const detail = await app.detail(plan.credential, "never");
  const book = runbookOf({
    plan,
    credential,
    versions: detail.versions,
    tasks: view?.tasks ?? [],
    steps: view?.steps ?? null,
    run: view?.rotation.id ?? null,
    nowMs: app.now(),
  });
  if (session.format === "json") return await session.json(book);
  const text = wanted === "md" ? runbookMarkdown(book) : runbookHtml(book);
  if (session.outFile === null) return session.print(text);
  await writeFile(resolve(session.io.cwd, session.outFile), text);
  session.say(`Wrote ${session.outFile}.`);
}
