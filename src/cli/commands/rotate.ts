/** `rotate`: plans, asks, starts, and follows the run to its end. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import type { EngineWorker } from "../../engine/worker.ts";
import type { PlanResult } from "../../app.ts";
import type { Plan } from "../../core/plan.ts";
import { exitCodes, Problem } from "../../core/problem.ts";
import { formatDuration } from "../../core/time.ts";
import type { Cli, Context } from "../command.ts";
import { planDocumentOf, runDocumentOf } from "../documents.ts";
import { endText, exitOf, follow, personText, startBackgroundWorker } from "../follow.ts";
import { breachTable } from "../plan-view.ts";
import { busyLine } from "../progress.ts";
import { countOption } from "../session.ts";
import { isUnsafe, modeOf, planView, readPlan, strategies, strategyOf } from "./plan.ts";

interface RotateOptions {
  readonly plan?: string;
  readonly mode?: string;
  readonly strategy?: string;
  readonly yes?: boolean;
  readonly detach?: boolean;
  readonly dryRun?: boolean;
  readonly until?: string;
  readonly maxStates?: string;
}

export function registerRotate(cli: Cli): void {
  const rotate = cli
    .command("rotate [name]", "rotate a credential along its plan")
    .option("--plan <plan>", "exactly this plan: a file of keyroll plan -o FILE, or the first digits of its number")
    .option("--mode <mode>", "planned, or breach: the old version is known to others")
    .option("--strategy <strategy>", `in a breach: ${strategies.join(" or ")}`)
    .option("-y, --yes", "do not ask; approvals of the policy are waited for all the same")
    .option("--detach", "start it and come back at once")
    .option("--dry-run", "look and plan, and change nothing")
    .option("--until <step>", "pause after this step of the plan")
    .option("--max-states <n>", "give up proving after this many states");
  cli.does<RotateOptions>(rotate, doRotate);
}

async function doRotate(cx: Context, options: RotateOptions, name?: string): Promise<number> {
  const { session, app } = cx;
  const saved =
    options.plan !== undefined && (name === undefined || existsSync(resolve(session.io.cwd, options.plan)))
      ? await readPlan(options.plan, session.io.cwd)
      : null;
  const credential = name ?? saved?.credential;
  if (credential === undefined)
    throw new Problem("usage", "keyroll rotate takes the name of a credential, or --plan FILE.", {
      next: "List the names with: keyroll list",
    });
  if (saved !== null && saved.credential !== credential)
    throw new Problem("usage", `${options.plan!} is a plan for ${saved.credential}, not for ${credential}.`);
  const mode = options.mode === undefined && saved !== null ? saved.mode : modeOf(options.mode);
  let strategy = strategyOf(options.strategy) ?? saved?.strategy;
  if (mode === "planned" && options.strategy !== undefined)
    throw new Problem("usage", "--strategy is for a breach.", { next: "Add --mode breach, or leave it out." });
  const more =
    options.maxStates === undefined ? {} : { maxStates: countOption("--max-states", options.maxStates, 100_000_000) };

  const line = busyLine(session);
  const make = async (chosen: Plan["strategy"] | undefined): Promise<PlanResult> => {
    line.show(`looking at the places of ${credential}, and proving`);
    return await app
      .plan({ credential, mode, ...(chosen === undefined ? {} : { strategy: chosen }), ...more })
      .finally(() => line.clear());
  };
  if (mode === "breach" && strategy === undefined) strategy = await chooseStrategy(cx, credential, make);
  const result = await make(strategy);
  const { plan } = result;

  if (options.plan !== undefined) {
    const wanted = saved?.digest ?? options.plan.toLowerCase();
    if (!/^[0-9a-f]{6,64}$/.test(wanted))
      throw new Problem(
        "usage",
        `--plan ${options.plan} is neither a file nor at least six digits of a plan's number.`,
        {
          next: `Look at it with: keyroll plan ${credential}`,
        },
      );
    if (!plan.digest.startsWith(wanted))
      throw new Problem(
        "refused",
        `The plan for ${credential} is not ${wanted.slice(0, 8)} any more, it is ${plan.digest.slice(0, 8)}: what it rests on has changed.`,
        {
          next:
            saved === null
              ? `Look at the new one with: keyroll plan ${credential}`
              : `See what changed with: keyroll plan ${credential} --diff ${options.plan}`,
        },
      );
  }
  const until =
    options.until === undefined ? null : countOption("--until", options.until, Math.max(1, plan.steps.length));
  const dry = options.dryRun === true;
  // Who names the plan has seen it.
  if (session.format !== "json" && (dry || options.plan === undefined)) {
    const view = planView(session, result, app.now());
    if (dry) session.print(view);
    else session.say(view);
  }
  if (isUnsafe(plan) || plan.unseen.length > 0) {
    if (session.format === "json") await session.json(planDocumentOf(result));
    const stale = plan.unseen.length > 0;
    throw new Problem(
      stale ? "stale" : "refused",
      stale
        ? `Not every place of ${credential} could be seen, so nothing can be proved.`
        : `The plan for ${credential} is not safe and cannot be run, by no flag.`,
      {
        next: stale ? "keyroll doctor" : `Change what stands in the way, then: keyroll plan ${credential}`,
      },
    );
  }
  if (dry) {
    if (session.format === "json") await session.json(planDocumentOf(result));
    else session.say("\nDry run: nothing was changed.");
    return 0;
  }
  if (result.modelled) {
    // Says which place it is, and where it is declared.
    await app.start(plan, more);
  }
  await confirm(cx, plan, options);

  const others = await app.workers();
  if (until !== null && others.length > 0)
    throw new Problem(
      "usage",
      `--until is kept to the step only where no other worker runs, and ${others[0]!.id} does.`,
      {
        next: "Stop it first, or use keyroll run pause.",
      },
    );
  const row = await app.start(plan, more);
  session.say(
    `Run ${row.id} has started.${others.length > 0 ? ` It is done by the worker on ${others[0]!.host}.` : ""}`,
  );

  if (options.detach === true) {
    if (others.length === 0)
      session.say(
        `A worker goes on with it in the background; its log is ${startBackgroundWorker(cx, session.io.env)}.`,
      );
    if (session.format === "json") await session.json(runDocumentOf(await app.run(row.id)));
    session.next(`keyroll run watch ${row.id}`);
    return 0;
  }
  if (until !== null) {
    const view = await app.runUntil(row.id, until, session.signal);
    if (session.format === "json") await session.json(runDocumentOf(view));
    else
      session.print(
        view.rotation.endedAtMs === null ? `${personText(view, session.textWidth)}` : endText(view, session.textWidth),
      );
    return exitOf(view);
  }
  let worker: EngineWorker | null = others.length > 0 ? null : await app.startWorker();
  try {
    const { rest, view } = await follow(cx, row.id, { stopForPeople: true });
    if (rest === "aborted") {
      await worker?.stop();
      const background = worker !== null;
      worker = null;
      if (session.io.endsWithCaller === true) {
        session.say(`\nStopped at step ${view.at} of ${view.steps.length}; a worker would go on from there.`);
        throw session.signal.reason;
      }
      const log = background ? startBackgroundWorker(cx, session.io.env) : null;
      session.say(
        `\nDetached at step ${view.at} of ${view.steps.length}. The run goes on by itself${log === null ? "" : `; its log is ${log}`}.`,
      );
      session.next(`keyroll run watch ${row.id}, or keyroll run pause ${row.id}`);
      if (session.format === "json") await session.json(runDocumentOf(view));
      // The code for the time limit or for Ctrl-C is chosen where both are known.
      throw session.signal.reason;
    }
    if (session.format === "json") await session.json(runDocumentOf(view));
    else session.print(rest === "person" ? personText(view, session.textWidth) : endText(view, session.textWidth));
    return rest === "person" ? exitCodes.waiting : exitOf(view);
  } finally {
    await worker?.stop();
  }
}

async function chooseStrategy(
  { session }: Context,
  credential: string,
  make: (strategy: Plan["strategy"]) => Promise<PlanResult>,
): Promise<Plan["strategy"]> {
  if (!session.interactive)
    throw new Problem(
      "usage",
      "In a breach somebody must choose: take trust away first, or keep everybody working first.",
      {
        next: `See what both cost with: keyroll plan ${credential} --mode breach. Then add --strategy ${strategies.join(" or ")}.`,
      },
    );
  const plans: Plan[] = [];
  for (const each of strategies) plans.push((await make(each)).plan);
  session.say(`${breachTable(plans, { colors: session.err, width: session.width })}\n`);
  const answer = await session.ask("Which one? [a]vailability first, [c]ontain first: ");
  const found = strategies.find((each) => answer !== "" && each.startsWith(answer.toLowerCase()));
  if (found === undefined) throw new Problem("usage", "Nothing was chosen, and nothing was changed.");
  return found;
}

/** A plan from whose middle there is no way back is confirmed by the name, so that a habit of typing y does not do it. */
async function confirm({ session }: Context, plan: Plan, options: RotateOptions): Promise<void> {
  if (options.yes === true) return;
  if (!session.interactive) {
    // Whoever names the plan has seen it.
    if (options.plan !== undefined) return;
    throw new Problem("usage", "There is nobody to ask here.", {
      next: `Add --yes, or name the plan that was reviewed: --plan ${plan.digest.slice(0, 8)}`,
    });
  }
  session.say("");
  const noReturn = plan.mode === "breach" || (plan.from !== null && plan.pointOfNoReturn !== null);
  const gap =
    plan.gaps.length === 0
      ? ""
      : ` Some users may be refused for up to ${formatDuration(Math.max(...plan.gaps.map((each) => each.boundMs)))}.`;
  if (noReturn) {
    const why =
      plan.mode === "breach"
        ? "A breach has no way back."
        : `From step ${plan.pointOfNoReturn!} on there is no way back.`;
    const answer = await session.ask(`${why}${gap} Type the name to start: `);
    if (answer === plan.credential) return;
  } else if (/^y(es)?$/i.test(await session.ask(`Start it?${gap} [y/N] `))) return;
  throw new Problem("failed", "Not started; nothing was changed.");
}
