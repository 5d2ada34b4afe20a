/** `scan`: what certificates and keys there are, in folders and behind addresses. */
import { readFile, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { resolve } from "node:path";
import { Secret } from "../../connectors/secret.ts";
import { Problem } from "../../core/problem.ts";
import { formatDuration } from "../../core/time.ts";
import { openCorrelator, type Correlation, type CorrelatedCertificate } from "../../discovery/correlate.ts";
import type { Found, ScanProblem, ScanSummary } from "../../discovery/found.ts";
import { propose } from "../../discovery/propose.ts";
import { scan } from "../../discovery/scan.ts";
import type { InventoryItem, Json } from "../../store/store.ts";
import type { Cli, Context } from "../command.ts";
import { iso } from "../documents.ts";
import { busyLine } from "../progress.ts";
import { countOption, durationOption } from "../session.ts";
import { clean, count, listed, paragraph } from "../text.ts";
import { expiry } from "../when.ts";

interface ScanCommandOptions {
  readonly estate?: string | true;
  readonly save?: boolean;
  readonly source?: string;
  readonly passwordFile?: string;
  readonly serverName?: string;
  readonly due?: string;
  readonly connectTimeout?: string;
  readonly concurrency?: string;
  readonly maxAddresses?: string;
  readonly all?: boolean;
  readonly failOnFindings?: boolean;
}

export function registerScan(cli: Cli): void {
  const command = cli
    .command("scan <source...>", "find certificates and keys in PATHs, behind HOST:PORT and in a CIDR; changes nothing")
    .option("--estate [file]", "propose entries for keyroll.yaml, to standard output or a new file")
    .option("--save", "keep what was found in the inventory (keyroll list --inventory)")
    .option("--source <name>", "under which name to keep it; default: this host")
    .option("--due <time>", "what expires within this time is worth a word", "30d")
    .option("--password-file <file>", "passwords to try on PKCS#12 files and encrypted keys, one a line")
    .option("--server-name <name>", "the name to ask TLS endpoints for")
    .option("--connect-timeout <time>", "per connection", "5s")
    .option("--concurrency <n>", "endpoints asked at once", "64")
    .option("--max-addresses <n>", "the largest range that is taken", "4096")
    .option("--all", "list everything, not the first 20")
    .option("--fail-on-findings", "exit 3 when something is wrong");
  cli.does<ScanCommandOptions>(command, doScan);
}

const mostShown = 20;
const mostProblems = 1000;

async function doScan({ session, app }: Context, options: ScanCommandOptions, ...sources: string[]): Promise<number> {
  const soonMs = durationOption("--due", options.due ?? "30d");
  const passwords =
    options.passwordFile === undefined ? [] : await passwordsIn(resolve(session.io.cwd, options.passwordFile));
  const correlator = openCorrelator();
  const problems: ScanProblem[] = [];
  let summary: ScanSummary | null = null;
  const line = busyLine(session);
  const source = options.source ?? hostname();
  const save = options.save === true ? saver(app, source) : null;
  // A relative name means the same whoever runs the process.
  const targets = sources.map((each) => (/^\.{0,2}\//.test(each) ? resolve(session.io.cwd, each) : each));
  try {
    for await (const event of scan(targets, {
      now: () => app.now(),
      passwords,
      signal: session.signal,
      timeoutMs: durationOption("--connect-timeout", options.connectTimeout ?? "5s"),
      endpointConcurrency: countOption("--concurrency", options.concurrency ?? "64", 1024),
      maxAddresses: countOption("--max-addresses", options.maxAddresses ?? "4096", 1 << 24),
      ...(options.serverName === undefined ? {} : { serverName: options.serverName }),
    })) {
      if (event.type === "found") {
        correlator.add(event.items);
        await save?.add(event.items);
      } else if (event.type === "problem") {
        // Named up to a bound, counted beyond it.
        if (problems.length < mostProblems) problems.push(event.problem);
      } else if (event.type === "progress") {
        line.show(
          `${count(event.files, "file")}, ${count(event.endpoints, "endpoint")}, ${count(event.items, "object")} found, at ${event.at}`,
        );
      } else summary = event.summary;
    }
  } finally {
    line.clear();
  }
  const saved = await save?.finish();
  if (summary === null) throw new Error("a scan must end with its summary");
  session.signal.throwIfAborted();
  const nowMs = app.now();
  const correlation = correlator.finish({ nowMs, soonMs });
  const usage = problems.filter((problem) => problem.code === "usage");
  const failed = usage.length === sources.length;
  const exitCode = failed
    ? 2
    : options.failOnFindings === true && correlation.findings.some((finding) => finding.severity === "error")
      ? 3
      : 0;

  if (options.estate !== undefined) {
    const text = propose(correlation);
    if (text === undefined)
      session.say(
        "Nothing that could be an entry of an estate was found: no certificate is served here and none has its key here.",
      );
    else if (options.estate === true) session.print(text);
    else {
      await writeFile(resolve(session.io.cwd, options.estate), text, { flag: "wx" }).catch(
        (error: NodeJS.ErrnoException) => {
          throw new Problem(
            "failed",
            error.code === "EEXIST"
              ? `${String(options.estate)} is there already; nothing was changed.`
              : `${String(options.estate)} cannot be written (${error.code ?? "unknown"}).`,
          );
        },
      );
      session.say(`Wrote ${options.estate}.`);
      session.next(`keyroll check --file ${options.estate}`);
    }
    return exitCode;
  }
  if (session.format === "json") {
    await session.json({
      summary: {
        ...summary,
        startedMs: undefined,
        finishedMs: undefined,
        started: iso(summary.startedMs),
        finished: iso(summary.finishedMs),
      },
      certificates: correlation.certificates,
      keys: correlation.keys,
      findings: correlation.findings,
      problems,
      saved: saved ?? null,
    });
    return exitCode;
  }
  const { out } = session;
  const whole = session.format === "csv" || session.format === "wide";
  const all = correlation.certificates;
  const shown = options.all === true || session.format === "csv" ? all : all.slice(0, mostShown);
  await session.list(
    { items: [] },
    shown,
    [
      {
        title: "EXPIRES",
        value: (one) => {
          const end = one.facts.notAfterMs ?? null;
          return {
            text: expiry(end, nowMs),
            paint: end === null || end - nowMs > soonMs ? out.dim : end <= nowMs ? out.red : out.yellow,
          };
        },
      },
      {
        title: "NAME",
        flex: true,
        value: (one) =>
          whole
            ? (one.facts.subject ?? "")
            : (commonName(one.facts.subject) ?? one.certificate?.names[0] ?? one.facts.subject ?? ""),
      },
      {
        title: "ISSUER",
        flex: true,
        value: (one) =>
          one.certificate?.selfIssued === true
            ? "itself"
            : ((whole ? undefined : commonName(one.facts.issuer)) ?? one.facts.issuer ?? ""),
      },
      { title: "KEY", value: (one) => keyText(one) },
      { title: "COPIES", align: "right", value: (one) => String(one.copies) },
      { title: "PRIVATE KEY", value: (one) => (one.privateKeys.length === 0 ? "" : String(one.privateKeys.length)) },
      {
        title: "WHERE",
        flex: true,
        value: (one) =>
          listed(
            one.places.map((place) => place.path),
            3,
          ),
      },
      { title: "FINGERPRINT", wide: true, value: (one) => one.facts.fingerprint },
    ],
    { empty: "No certificate was found." },
  );
  if (session.format === "csv") return exitCode;
  if (shown.length < all.length)
    session.say(`${(all.length - shown.length).toLocaleString("en-US")} more; --all shows them.`);
  if (correlation.findings.length > 0)
    session.print(`\n${findingsText(correlation, session.textWidth, out.red, out.yellow)}`);
  for (const problem of problems.slice(0, options.all === true ? mostProblems : 20))
    session.say(paragraph(problemText(problem), session.textWidth, "  ", ""));
  if (problems.length > 20 && options.all !== true)
    session.say(`${problems.length - 20} more of these; --all shows them.`);
  const took = formatDuration(summary.finishedMs - summary.startedMs);
  session.say(
    `\n${count(summary.files, "file")}, ${count(summary.endpoints, "endpoint")}: ${count(all.length, "certificate")}, ${count(correlation.findings.length, "finding")}, ${count(summary.problems, "thing")} that could not be read, in ${took}.${saved === undefined ? "" : ` Kept ${count(saved.rows, "row")}, ${saved.added} of them new.`}`,
  );
  if (!failed)
    session.next(
      `keyroll scan ${sources.map((each) => (/[^\w./:@-]/.test(each) ? JSON.stringify(each) : each)).join(" ")} --estate proposes entries for keyroll.yaml`,
    );
  return exitCode;
}

/** Distinguished names are long; the last part that people would say is enough to recognise one. */
function commonName(name: string | undefined): string | undefined {
  if (name === undefined) return undefined;
  for (const key of ["CN", "OU", "O"]) {
    const found = new RegExp(`(?:^|, ?)${key}=((?:\\\\.|[^,\\\\])*)`).exec(name)?.[1];
    if (found !== undefined && found !== "") return found.replaceAll(/\\(.)/g, "$1");
  }
  return undefined;
}

function keyText(one: CorrelatedCertificate): string {
  return [one.keyType ?? "", one.keyType?.startsWith("RSA") === true ? String(one.keyBits ?? "") : ""].join(" ").trim();
}

/** Texts of endpoints name the address already. */
function problemText({ path, text }: ScanProblem): string {
  return clean(text.startsWith(path) || text.includes(`"${path}"`) ? text : `${path}: ${text}`);
}

function findingsText(
  correlation: Correlation,
  width: number,
  red: (text: string) => string,
  yellow: (text: string) => string,
): string {
  const paints = { error: red, warning: yellow, info: (text: string) => text };
  const marks = { error: "x", warning: "!", info: "-" };
  const shown = correlation.findings.slice(0, 40);
  const lines = shown.map((finding) => {
    const where = finding.paths.length === 0 ? "" : ` (${listed(finding.paths, 3)})`;
    return paragraph(clean(finding.text + where), width, "  ", `${paints[finding.severity](marks[finding.severity])} `);
  });
  if (correlation.findings.length > shown.length)
    lines.push(`  ${correlation.findings.length - shown.length} more; --json has them all.`);
  return lines.join("\n");
}

async function passwordsIn(path: string): Promise<Secret[]> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new Problem("usage", `The password file ${path} cannot be read (${error.code ?? "unknown"}).`);
  });
  return text
    .split(/\r?\n/)
    .filter((each) => each !== "")
    .map((each) => new Secret(each));
}

interface Saver {
  add(items: readonly Found[]): Promise<void>;
  finish(): Promise<{ rows: number; added: number }>;
}
function saver(app: Context["app"], source: string): Saver {
  let batch: InventoryItem[] = [];
  let rows = 0;
  let added = 0;
  const flush = async (): Promise<void> => {
    if (batch.length === 0) return;
    const result = await app.importInventory(batch);
    rows += result.rows;
    added += result.added;
    batch = [];
  };
  return {
    async add(items) {
      for (const item of items)
        batch.push({
          fingerprint: item.facts.fingerprint,
          publicKey: item.facts.publicKeySha256 ?? null,
          source,
          path: `${item.path}${item.index > 0 ? `#${item.index}` : ""}`,
          kind: item.kind,
          owner: null,
          notAfterMs: item.facts.notAfterMs ?? null,
          facts: item.facts as unknown as Json,
        });
      if (batch.length >= 1000) await flush();
    },
    async finish() {
      await flush();
      return { rows, added };
    },
  };
}
