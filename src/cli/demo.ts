/**
 * `keyroll demo`, and what `npm start` runs: two real rotations on a small real estate, with clients in a process of their own that count whether
 * anybody was refused. What it shows are the commands that a user would type, run here one after the other.
 */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, realpath, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { App } from "../app.ts";
import { Problem } from "../core/problem.ts";
import { formatDuration } from "../core/time.ts";
import type { Counts } from "../demo/presenters.ts";
import { removeWorld, startWorld, type DemoWorld } from "../demo/world.ts";
import { main } from "./main.ts";
import { busyLine } from "./progress.ts";
import type { Io, Session, Terminal } from "./session.ts";
import { paragraph, table } from "./text.ts";

const rereadMs = 2000;
const perSecond = 20;
const soak = "2s";
/** How long the clients go on after the last step, so that what they would be refused afterwards is counted as well. */
const afterwardsMs = 3000;

/** Where distributions keep the CA certificates that the machine trusts. */
const systemBundles = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

export async function runDemo(session: Session, dataDir: string): Promise<number> {
  const beganMs = session.io.now();
  const { bold, dim } = session.out;
  const say = (text = ""): void => session.print(text);
  const signal = session.signal;
  const parent = join(dataDir, "demo");
  await sweep(parent);
  await mkdir(parent, { recursive: true, mode: 0o700 });
  const folder = await realpath(await mkdtemp(join(parent, "run-")));
  const estate = join(folder, "estate");
  await writeFile(join(folder, "owner.pid"), `${process.pid}\n`);

  say(bold("Keyroll demo: a password and a certificate are rolled while clients keep connecting."));
  say(
    paragraph(
      `It starts a PostgreSQL server with an application (${perSecond} new connections a second, its env file read again every ${formatDuration(rereadMs)}) and a TLS endpoint under a private CA with clients that check it. All of it is real, on 127.0.0.1, in ${folder}.`,
      session.textWidth,
    ),
  );
  const line = busyLine(session);
  line.show("starting two PostgreSQL servers (the application's, and Keyroll's own), the endpoint and the clients");
  let world: DemoWorld | null = null;
  let app: App | null = null;
  try {
    world = await startWorld({ folder: estate, rereadMs, perSecond, soak });
    const io: Io = {
      ...session.io,
      cwd: estate,
      endsWithCaller: true,
      env: { ...session.io.env, ...world.env, KEYROLL_DATA: join(folder, "store") },
    };
    delete (io.env as Record<string, string | undefined>)["DATABASE_URL"];
    delete (io.env as Record<string, string | undefined>)["KEYROLL_FILE"];
    // Kept open from the first command to the last, so that the embedded server stays between them.
    app = new App({ env: io.env, cwd: estate });
    await app.engine();
    line.clear();
    say(dim(`Up after ${formatDuration(session.io.now() - beganMs)}.`));

    const keyroll = async (...argv: string[]): Promise<void> => {
      if (signal.aborted) throw signal.reason;
      say(`\n${bold(`$ keyroll ${argv.join(" ")}`)}`);
      const short = argv[0] === "scan" ? beginning(session, 8) : null;
      const code = await main(argv, short === null ? io : { ...io, stdout: short.terminal }, signal);
      short?.end();
      if (signal.aborted) throw signal.reason;
      if (code !== 0 && argv[0] !== "scan")
        throw new Problem("failed", `keyroll ${argv.join(" ")} ended with ${code}.`);
    };
    const bundle = systemBundles.find((path) => existsSync(path));
    await keyroll("scan", estate, ...(bundle === undefined ? [] : [bundle]));
    await keyroll("status");
    for (const name of ["shop-db-password", "shop-web"]) {
      await keyroll("plan", name);
      const { plan } = await app.plan({ credential: name });
      await keyroll("rotate", name, "--plan", plan.digest.slice(0, 8), "--yes");
    }
    await keyroll("status");
    await keyroll("audit", "verify");

    line.show("the clients go on for a moment");
    await sleep(afterwardsMs, undefined, { signal });
    line.clear();
    const counts = world.counts();
    const oldPassword = await world.oldPassword();
    const oldServed = await world.oldCertificateServed();
    say(`\n${bold("What the clients saw")}`);
    say(summary(session, world, counts, oldPassword, oldServed));
    const refused = counts.databaseRefused + counts.tlsRefused;
    const good =
      refused === 0 &&
      counts.databaseFailed === 0 &&
      counts.tlsFailed === 0 &&
      oldPassword === "refused" &&
      counts.reasons.length === 0;
    if (!good && counts.reasons.length > 0) say(`Last reasons: ${counts.reasons.join("; ")}`);
    say(
      `\nThat took ${formatDuration(session.io.now() - beganMs)}. The files, the journal and the store are in ${folder}; the next demo removes them.`,
    );
    say(`\n${bold("Try next, on your own systems:")}`);
    say("  npx keyroll scan /etc HOST:443      what expires where, and which copies belong together");
    say("  npx keyroll init                    a commented keyroll.yaml to start from");
    say("  npx keyroll plan NAME               the order of the steps and its proof; it changes nothing");
    return good ? 0 : 1;
  } finally {
    line.clear();
    await world?.stop();
    await app?.close();
  }
}

/** Shows the first lines only, and says how many more there were. */
function beginning(session: Session, most: number): { readonly terminal: Terminal; end(): void } {
  let shown = 0;
  let left = 0;
  const { stdout } = session.io;
  return {
    terminal: {
      write(text: string) {
        for (const line of text.split("\n").slice(0, -1)) {
          if (shown < most) session.print(line);
          else left++;
          shown++;
        }
      },
      isTTY: stdout.isTTY === true,
      ...(stdout.columns === undefined ? {} : { columns: stdout.columns }),
    },
    end: () => {
      if (left > 0) session.print(session.out.dim(`   (${left} more lines)`));
    },
  };
}

function summary(
  session: Session,
  world: DemoWorld,
  counts: Counts,
  oldPassword: "accepted" | "refused" | "unknown",
  oldServed: boolean,
): string {
  const oldTls = counts.tls[world.firstFingerprint] ?? 0;
  const newTls = Object.values(counts.tls).reduce((sum, count) => sum + count, 0) - oldTls;
  const yes = (is: boolean): string => (is ? "yes" : "NO");
  const rows = [
    [
      "PostgreSQL logins",
      `${counts.database["shop_a"] ?? 0}`,
      `${counts.database["shop_b"] ?? 0}`,
      `${counts.databaseRefused}`,
      `${counts.databaseFailed}`,
      yes(oldPassword === "refused"),
    ],
    [
      "TLS connections",
      `${oldTls}`,
      `${newTls}`,
      `${counts.tlsRefused}`,
      `${counts.tlsFailed}`,
      oldServed ? "NO, still served" : "no longer served",
    ],
  ];
  const titles = ["", "WITH THE OLD", "WITH THE NEW", "REFUSED", "OTHER FAILURES", "OLD ONE REFUSED AT THE END"];
  return table(
    rows,
    titles.map((title, c) => ({
      title,
      value: (row: readonly string[]) => row[c]!,
      ...(c > 0 && c < 5 ? { align: "right" as const } : {}),
    })),
    { width: session.width },
  );
}

/** Folders of demos that have ended. */
async function sweep(parent: string): Promise<void> {
  if (!existsSync(parent)) return;
  for (const name of await readdir(parent)) {
    const folder = join(parent, name);
    if (!name.startsWith("run-") || (await isAlive(folder))) continue;
    await removeWorld(folder);
  }
}

async function isAlive(folder: string): Promise<boolean> {
  const pid = Number.parseInt(await readFile(join(folder, "owner.pid"), "utf8").catch(() => ""), 10);
  if (!Number.isInteger(pid)) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
