/** `serve`, `sign-in`, `worker`, `demo` and `completion`. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Problem } from "../../core/problem.ts";
import { formatProblem } from "../../estate/problem.ts";
import type { RunningServer } from "../../server/http.ts";
import type { Cli, Context } from "../command.ts";
import { completionScript, shells } from "../completion.ts";
import { needsPerson } from "../follow.ts";
import { countOption } from "../session.ts";
import { listed } from "../text.ts";
import { registerToken } from "./token.ts";

export function registerServe(cli: Cli): void {
  cli.does<ServeOptions>(
    cli
      .command("serve", "stay: the dashboard and the API, run rotations, look at every place now and then")
      .option("--concurrency <n>", "rotations at once", "8")
      .option("--listen <address>", "address to listen on", "127.0.0.1")
      .option("--port <n>", "port to listen on; 0: any free one", "7490")
      .option(
        "--public-url <url>",
        "the address that people open, where a proxy stands before it or it hangs below a path",
      )
      .option("--tls-cert <file>", "certificate chain of the server itself; read again when it changes")
      .option("--tls-key <file>", "its private key"),
    (cx, options) => stay(cx, options, options),
  );
  cli.does<{ anywhere?: boolean }>(
    cli
      .command("sign-in", "a link with which you sign in to the server; good for once and an hour")
      .option("--anywhere", "not only from this machine"),
    signIn,
  );
  registerToken(cli);
  cli.does<WorkerOptions>(
    cli
      .command("worker", "stay, and run rotations only; as many as wanted, on as many hosts as wanted")
      .option("--concurrency <n>", "rotations at once", "8")
      .option("--until-idle", "end when nothing is left that can be done without a person"),
    (cx, options) => stay(cx, options, null),
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
interface ServeOptions extends WorkerOptions {
  readonly listen: string;
  readonly port: string;
  readonly publicUrl?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

async function serve({ session, app }: Context, options: ServeOptions): Promise<RunningServer> {
  const { tlsCert, tlsKey, publicUrl } = options;
  if ((tlsCert === undefined) !== (tlsKey === undefined))
    throw new Problem("usage", "--tls-cert and --tls-key belong together.", { next: "Give both or none." });
  const port = /^\d{1,5}$/.test(options.port) ? Number(options.port) : Number.NaN;
  if (!(port <= 65_535))
    throw new Problem("usage", `--port ${options.port} is not a port.`, { next: "Write a number from 0 to 65535." });
  // Only here, so that the other commands start without a web server.
  const { startServer } = await import("../../server/http.ts");
  const manifest: unknown = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8"));
  const server = await startServer(app, {
    host: options.listen,
    port,
    version: (manifest as { version: string }).version,
    ...(publicUrl === undefined ? {} : { publicUrl }),
    ...(tlsCert === undefined || tlsKey === undefined
      ? {}
      : { tls: { certFile: resolve(session.io.cwd, tlsCert), keyFile: resolve(session.io.cwd, tlsKey) } }),
  });
  session.say(`Dashboard and API: ${server.publicUrl}`);
  if (await server.isNew()) {
    // A log is read by more people than a terminal, and kept.
    if (session.io.stderr.isTTY === true)
      session.say(`Sign in, once and within an hour, on this machine: ${await server.signInLink(app.person)}`);
    else session.say("Nobody has signed in yet. On this machine: keyroll sign-in");
  }
  return server;
}

/** Whoever can open the data folder could read everything anyway: no secret is needed to let them in. */
async function signIn({ session, app }: Context, options: { anywhere?: boolean }): Promise<void> {
  const { store, journal } = await app.openStoreOnly();
  const where = (await store.settings.get("server")) as { readonly url?: string } | undefined;
  if (where?.url === undefined)
    throw new Problem("refused", "No server has run on this data yet.", { next: "Start one with: keyroll serve" });
  const { openSignIn, signInLinkOf } = await import("../../server/sign-in.ts");
  const { code, expiresAtMs } = await openSignIn(store, journal).firstCode(app.person, {
    anywhere: options.anywhere === true,
  });
  const link = signInLinkOf(where.url, code);
  const expires = new Date(expiresAtMs).toISOString();
  await session.document({ person: app.person, link, expires }, () => link);
  session.next(
    `Open it within an hour${options.anywhere === true ? "" : " on this machine"}; it signs in ${app.person}, once`,
  );
}

async function stay(cx: Context, options: WorkerOptions, serves: ServeOptions | null): Promise<void> {
  const { session, app } = cx;
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
  let server: RunningServer | null = null;
  try {
    server = serves === null ? null : await serve(cx, serves);
    while (!session.signal.aborted) {
      const changed = await app.reload();
      if (changed === "changed") app.log.info("the estate has changed", { digest: deps.estate().digest });
      else if (changed !== "same")
        app.log.warn("the changed estate is wrong and is not used", {
          problems: changed.problems.map(formatProblem).join("; "),
        });
      if (serves !== null && app.now() - lookedMs > 60_000) {
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
    await server?.stop();
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
