/** `serve`, `worker`, `demo` and `completion`. */
import { setTimeout as sleep } from "node:timers/promises";
import { Problem } from "../../core/problem.ts";
import { formatProblem } from "../../estate/problem.ts";
import type { Cli, Context } from "../command.ts";
import { completionScript, shells } from "../completion.ts";
import { needsPerson } from "../follow.ts";
import { countOption } from "../session.ts";
import { listed } from "../text.ts";

export function registerServe(cli: Cli): void {
  cli.does<WorkerOptions>(
    cli
      .command("serve", "stay: run rotations, look at every place now and then, reload the estate when it changes")
      .option("--concurrency <n>", "rotations at once", "8"),
    (cx, options) => stay(cx, options, true),
  );
  cli.does<WorkerOptions>(
    cli
      .command("worker", "stay, and run rotations only; as many as wanted, on as many hosts as wanted")
      .option("--concurrency <n>", "rotations at once", "8")
      .option("--until-idle", "end when nothing is left that can be done without a person"),
    (cx, options) => stay(cx, options, false),
  );
  const demo = cli.command("demo", "two real rotations on a small real estate, in a minute; touches nothing of yours");
  cli.does(demo, demonstrate);
  const completion = cli.command("completion <shell>", `completions for ${listed(shells)}`);
  cli.does(completion, async ({ session }, _, shell = "") => {
    session.print(completionScript(shell, cli.program));
  });
  // The scripts call it while somebody types; it must be quick and never fail.
  cli.does(cli.program.command("complete-names <what>", { hidden: true }), completeNames);
}

interface WorkerOptions {
  readonly concurrency: string;
  readonly untilIdle?: boolean;
}

async function stay({ session, app }: Context, options: WorkerOptions, serves: boolean): Promise<void> {
  const concurrency = countOption("--concurrency", options.concurrency, 1000);
  const { store, rotations, deps } = await app.engine();
  const worker = await app.startWorker({ concurrency });
  const { where } = store;
  app.log.info("ready", { worker: worker.id, store: where.text, estate: app.estatePath() });
  session.say(
    `Worker ${worker.id} is ready. Store: ${where.text}. Ctrl-C ends it; rotations go on with the next worker.`,
  );
  let lookedMs = 0;
  let idle = 0;
  try {
    while (!session.signal.aborted) {
      const changed = await app.reload();
      if (changed === "changed") app.log.info("the estate has changed", { digest: deps.estate().digest });
      else if (changed !== "same")
        app.log.warn("the changed estate is wrong and is not used", {
          problems: changed.problems.map(formatProblem).join("; "),
        });
      if (serves && app.now() - lookedMs > 60_000) {
        lookedMs = app.now();
        await app.status({ observe: "auto" });
      }
      if (options.untilIdle === true) {
        idle = (await isIdle()) ? idle + 1 : 0;
        // Seen twice, because a rotation that was just woken still looks as it did.
        if (idle > 2) break;
      }
      await sleep(1000, undefined, { signal: session.signal }).catch(() => undefined);
    }
  } finally {
    await worker.stop();
    app.log.info("stopped", { worker: worker.id });
  }

  async function isIdle(): Promise<boolean> {
    const rows = await rotations.list({ statuses: ["running", "waiting"], limit: 10_000 });
    for (const row of rows) if (row.status === "running" || !needsPerson(await app.run(row.id))) return false;
    return true;
  }
}

async function demonstrate({ session, app }: Context): Promise<number> {
  const { runDemo } = await import("../demo.ts");
  return await runDemo(session, app.dataDir);
}

async function completeNames({ session, app }: Context, _: unknown, what = ""): Promise<void> {
  try {
    if (what === "credentials")
      session.print((await app.estate()).estate.credentials.map((each) => each.name).join("\n"));
    else throw new Problem("usage", `There is nothing to complete for ${what}.`);
  } catch {
    // Somebody is typing: no names are better than an error in the middle of the line.
  }
}
