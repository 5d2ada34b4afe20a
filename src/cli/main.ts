/** The command line: reads the arguments, does one thing, and says in its exit code how it went. docs/cli.md is the contract. */
import { readFileSync } from "node:fs";
import { Command, CommanderError, Option } from "commander";
import { App, describeError, type AppOptions } from "../app.ts";
import { Problem } from "../core/problem.ts";
import { formatDuration } from "../core/time.ts";
import { registerAudit } from "./commands/audit.ts";
import { registerDoctor } from "./commands/doctor.ts";
import { registerEstate } from "./commands/estate.ts";
import { registerLab } from "./commands/lab.ts";
import { registerLook } from "./commands/look.ts";
import { registerPeople } from "./commands/people.ts";
import { registerPlan } from "./commands/plan.ts";
import { registerRotate } from "./commands/rotate.ts";
import { registerRun } from "./commands/run.ts";
import { registerScan } from "./commands/scan.ts";
import { registerServe } from "./commands/serve.ts";
import type { Action, Cli, Context } from "./command.ts";
import { openLog } from "./log.ts";
import { formats, Session, type GlobalOptions, type Io } from "./session.ts";

export const exitInterrupted = 130;
export const exitTimeout = 124;

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  return (manifest as { version: string }).version;
}

export function buildProgram(
  run: (command: Command, work: (cx: Context) => Promise<number | void>) => Promise<void>,
): Command {
  const program = new Command("keyroll");
  program
    .description("Rolls any credential everywhere it is held and trusted, in an order that is proved safe.")
    .version(version(), "-V, --version", "print the version")
    .helpOption("-h, --help", "print help")
    .helpCommand("help [command]", "print help of a command")
    .showHelpAfterError(false)
    .showSuggestionAfterError(true)
    .configureHelp({ showGlobalOptions: true, sortSubcommands: false })
    .optionsGroup("Options everywhere:")
    .option("--file <path>", "the estate (default: KEYROLL_FILE, or keyroll.yaml here or above)")
    .option("--data <folder>", "where Keyroll keeps its data (default: KEYROLL_DATA, or ~/.keyroll)")
    .option("--json", "print one JSON document (a stream of them for watch)")
    .option("--jq <expression>", "print what this jq expression makes of the JSON")
    .option("-o, --output <format>", `${formats.join(", ")}; for plan and runbook also the name of a file`)
    .option("--no-input", "never ask; same as KEYROLL_NO_INPUT=1")
    .addOption(new Option("--color <when>", "auto, always, never; NO_COLOR and FORCE_COLOR are obeyed").default("auto"))
    .option("-q, --quiet", "print data and errors only")
    .option("--timeout <time>", "give up waiting after this long, such as 30m; what runs goes on (exit 124)");
  const cli: Cli = {
    program,
    command(usage, summary, parent = program) {
      return parent
        .command(usage)
        .summary(summary)
        .description(`${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`)
        .optionsGroup("Options:");
    },
    does<O>(command: Command, action: Action<O>): Command {
      return command.action(async (...params: unknown[]) => {
        const options = params.at(-2) as O;
        const args = params
          .slice(0, -2)
          .flat()
          .filter((each): each is string => typeof each === "string");
        await run(command, (cx) => action(cx, options, ...args));
      });
    },
  };
  program.commandsGroup("Look:");
  registerLook(cli);
  registerScan(cli);
  program.commandsGroup("Plan and rotate:");
  registerPlan(cli);
  registerRotate(cli);
  registerRun(cli);
  program.commandsGroup("People:");
  registerPeople(cli);
  program.commandsGroup("The estate:");
  registerEstate(cli);
  program.commandsGroup("Run and look after Keyroll:");
  registerServe(cli);
  registerDoctor(cli);
  registerAudit(cli);
  registerLab(cli);
  program.addHelpText(
    "after",
    "\nNew here?  keyroll init, then keyroll plan NAME. It changes nothing.\nExit codes: 0 ok, 1 failed, 2 wrong use, 3 found, 4 refused, 5 waits for a person, 6 rolled back, 7 not enough seen, 8 not allowed.",
  );
  return program;
}

/** Runs one command line and returns its exit code; `process` is touched by {@link start} only. */
export async function main(
  argv: readonly string[],
  io: Io,
  interrupt: AbortSignal,
  appOptions: Partial<AppOptions> = {},
): Promise<number> {
  let exitCode = 0;
  let jsonErrors = argv.includes("--json");
  const over = new AbortController();
  let timedOut = false;
  const onInterrupt = (): void => over.abort(new Error("interrupted"));
  if (interrupt.aborted) onInterrupt();
  interrupt.addEventListener("abort", onInterrupt, { once: true });
  let timer: NodeJS.Timeout | undefined;

  const program = buildProgram(async (command, work) => {
    const globals: GlobalOptions = command.optsWithGlobals();
    jsonErrors = globals.json === true || globals.output === "json";
    const session = new Session(io, globals, over.signal);
    if (session.outFile !== null && !takesFile.has(command.name())) {
      throw new Problem("usage", `-o ${session.outFile} is not a format.`, {
        next: `Write -o ${formats.slice(0, -1).join(", ")} or ${formats.at(-1)!}.`,
      });
    }
    if (session.timeoutMs !== null) {
      timer = setTimeout(() => {
        timedOut = true;
        over.abort(new Error("time limit"));
      }, session.timeoutMs);
    }
    const app = new App({
      env: io.env,
      cwd: io.cwd,
      file: globals.file,
      dataDir: globals.data,
      now: io.now,
      log: openLog(io, stays.has(command.name()) ? "info" : "silent"),
      ...appOptions,
    });
    try {
      exitCode = (await work({ session, app })) ?? 0;
    } catch (error) {
      // Whatever an aborted command throws says only that it was aborted.
      if (!over.signal.aborted || error instanceof Problem) throw error;
      exitCode = timedOut ? exitTimeout : exitInterrupted;
      if (timedOut) session.say(`The time limit of ${formatDuration(session.timeoutMs!)} passed.`);
    } finally {
      clearTimeout(timer);
      await app.close();
    }
  });
  configure(program, io);
  try {
    if (argv.length === 0) {
      io.stdout.write(program.helpInformation());
      return 0;
    }
    await program.parseAsync([...argv], { from: "user" });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    const told = describeError(error);
    if (told.bug && io.env["KEYROLL_DEBUG"] && error instanceof Error) io.stderr.write(`${error.stack ?? ""}\n`);
    io.stderr.write(
      jsonErrors
        ? `${JSON.stringify({ error: { kind: told.kind, message: told.message, where: told.where, next: told.next, exitCode: told.exitCode } })}\n`
        : `keyroll: ${told.text}\n`,
    );
    return told.exitCode;
  } finally {
    clearTimeout(timer);
    interrupt.removeEventListener("abort", onInterrupt);
  }
}

/** Commands that stay until they are stopped: what they do can be followed in their log. */
const stays = new Set(["serve", "worker"]);
/** Commands whose `-o` may name a file. */
const takesFile = new Set(["plan", "runbook", "export", "init"]);

function configure(command: Command, io: Io): void {
  command.exitOverride().configureOutput({
    writeOut: (text) => io.stdout.write(text),
    writeErr: (text) => io.stderr.write(text),
    getOutHelpWidth: () => Math.min(io.stdout.columns ?? 100, 110),
    getErrHelpWidth: () => Math.min(io.stderr.columns ?? 100, 110),
    outputError: (text, write) => {
      const what = text.replace(/^error: /, "").trimEnd();
      const [first = "", ...rest] = what.split("\n");
      const hint = rest.join(" ").replace(/^\(|\)$/g, "");
      write(
        `keyroll: ${first.charAt(0).toUpperCase()}${first.slice(1)}.${hint === "" ? "" : ` ${hint}`}\nNext: keyroll ${helpFor(command)}--help\n`,
      );
    },
  });
  for (const each of command.commands) configure(each, io);
}

function helpFor(command: Command): string {
  const names: string[] = [];
  for (let at: Command | null = command; at?.parent; at = at.parent) names.unshift(at.name());
  return names.length === 0 ? "" : `${names.join(" ")} `;
}

/** The real process: signals, pipes that close early, exit code. */
export async function start(): Promise<void> {
  const interrupt = new AbortController();
  let asked = 0;
  const stop = (): void => {
    asked++;
    // The second Ctrl-C means it: whatever was sent is observed by the next worker.
    if (asked > 1) process.exit(exitInterrupted);
    interrupt.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  process.on("SIGHUP", stop);
  // `keyroll list | head` closes the pipe; that is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
  const code = await main(
    process.argv.slice(2),
    {
      stdout: process.stdout,
      stderr: process.stderr,
      stdin: process.stdin,
      env: process.env,
      cwd: process.cwd(),
      now: Date.now,
    },
    interrupt.signal,
  );
  process.exitCode = code;
}
