/** `audit …` and `keys …`: the journal, and the key that everything is sealed under. */
import { createReadStream } from "node:fs";
import { open, readFile, rename, rm } from "node:fs/promises";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { checkExport } from "../../app.ts";
import { Problem } from "../../core/problem.ts";
import type { JournalKind } from "../../store/store.ts";
import type { Cli, Context } from "../command.ts";
import { iso } from "../documents.ts";
import { bar, busyLine } from "../progress.ts";
import { countOption } from "../session.ts";
import { clean, count, listed } from "../text.ts";
import { dateTime } from "../when.ts";
import { eventText } from "./run.ts";

const kinds: readonly JournalKind[] = [
  "intent",
  "outcome",
  "approval",
  "task",
  "note",
  "estate",
  "rotation",
  "version",
  "key",
  "person",
  "checkpoint",
];

export function registerAudit(cli: Cli): void {
  const audit = cli.command("audit", "the journal of everything that was done: log, verify, export");
  cli.does<{ run?: string; credential?: string; kind?: string; limit: string }>(
    cli
      .command("log", "who did what when", audit)
      .option("--run <run>", "only of this run")
      .option("--credential <name>", "only of this credential")
      .option("--kind <kinds>", `only ${listed(kinds, 20)}; several with commas`)
      .option("--limit <n>", "how many of the last records", "100"),
    showLog,
  );
  cli.does<{ anchor?: string[]; export?: string; publicKey?: string }>(
    cli
      .command("verify", "walk the chain and say whether a record was changed, inserted or dropped", audit)
      .option("--anchor <files...>", "points that it must go through, as written by an earlier verify --json or export")
      .option("--export <file>", "check an exported journal instead; needs neither database nor secret")
      .option("--public-key <key>", "with --export: the installation's key, noted earlier"),
    verify,
  );
  cli.does(cli.command("export", "the journal as signed NDJSON, to standard output or -o FILE", audit), exportJournal);

  const keys = cli.command("keys", "the key-encryption key, under which every secret is sealed: status, roll");
  cli.does(cli.command("status", "which key, from where, and how much is sealed under it", keys), showKeys);
  cli.does(cli.command("roll", "wrap everything again under a new key; may be stopped and run again", keys), rollKeys);
}

async function showLog(
  { session, app }: Context,
  options: { run?: string; credential?: string; kind?: string; limit: string },
): Promise<void> {
  const wanted = options.kind?.split(",").map((each) => {
    const found = kinds.find((kind) => kind === each.trim());
    if (found === undefined)
      throw new Problem("usage", `--kind ${each} is not known.`, { next: `Write ${listed(kinds, 20)}.` });
    return found;
  });
  const rows = await app.auditLog({
    limit: countOption("--limit", options.limit, 1_000_000),
    ...(options.run === undefined ? {} : { rotation: await app.runId(options.run) }),
    ...(options.credential === undefined ? {} : { credential: options.credential }),
    ...(wanted === undefined ? {} : { kinds: wanted }),
  });
  await session.list(
    { items: rows.map(({ atMs, ...row }) => ({ ...row, at: iso(atMs) })) },
    rows,
    [
      { title: "#", align: "right", value: (row) => String(row.seq) },
      { title: "WHEN", value: (row) => (session.format === "csv" ? iso(row.atMs)! : dateTime(row.atMs)) },
      { title: "WHO", flex: true, value: (row) => row.actor },
      { title: "KIND", value: (row) => row.kind },
      { title: "RUN", value: (row) => row.rotation ?? "" },
      { title: "WHAT", flex: true, value: (row) => eventText(row.payload) },
      { title: "HASH", wide: true, value: (row) => row.hash.slice(0, 16) },
    ],
    { empty: "The journal has nothing of that kind." },
  );
}

async function verify(
  { session, app }: Context,
  options: { anchor?: string[]; export?: string; publicKey?: string },
): Promise<number> {
  const anchors: { text: string; where: string }[] = [];
  for (const file of options.anchor ?? []) {
    const path = resolve(session.io.cwd, file);
    anchors.push({
      where: file,
      text: await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
        throw new Problem("usage", `The anchor ${file} cannot be read (${error.code ?? "unknown"}).`);
      }),
    });
  }
  if (options.export !== undefined) {
    const stream = createReadStream(resolve(session.io.cwd, options.export), "utf8");
    const opened = new Promise<void>((done, fail) => {
      stream.once("open", () => done());
      stream.once("error", (error: NodeJS.ErrnoException) =>
        fail(new Problem("usage", `${options.export!} cannot be read (${error.code ?? "unknown"}).`)),
      );
    });
    await opened;
    const result = await checkExport(
      createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY }),
      options.publicKey === undefined ? {} : { publicKey: options.publicKey },
    );
    await session.document(result, () =>
      result.ok
        ? `The export is whole: ${count(result.records, "record")}, taken ${dateTime(result.atMs)}.\nSigned by ${result.publicKey}${options.publicKey === undefined ? "; compare it with the key that you noted" : ""}.`
        : `The export is not as it was written: line ${result.line}, ${clean(result.detail)}.`,
    );
    return result.ok ? 0 : 1;
  }
  const { verification, anchor } = await app.auditVerify(anchors);
  await session.document({ ...verification, anchor }, () =>
    verification.ok
      ? `The journal is whole: ${count(verification.records, "record")}, up to ${verification.head.slice(0, 16)}.`
      : `The journal has been tampered with at record ${verification.seq}: ${clean(verification.detail)}.`,
  );
  if (verification.ok)
    session.next(
      "keep what `keyroll audit verify --jq .anchor` prints elsewhere; --anchor FILE then also sees a cut-off end",
    );
  return verification.ok ? 0 : 1;
}

async function exportJournal({ session, app }: Context): Promise<void> {
  const lines = await app.auditExport();
  if (session.outFile === null) {
    for await (const line of lines) session.io.stdout.write(line);
    return;
  }
  const path = resolve(session.io.cwd, session.outFile);
  const draft = `${path}.part`;
  const file = await open(draft, "wx", 0o600).catch((error: NodeJS.ErrnoException) => {
    throw new Problem("failed", `${draft} cannot be written (${error.code ?? "unknown"}).`);
  });
  let records = 0;
  try {
    for await (const line of lines) {
      await file.write(line);
      records++;
    }
    await file.sync();
    await file.close();
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
  session.say(`Wrote ${count(Math.max(0, records - 2), "record")} to ${session.outFile}.`);
  session.next(`keyroll audit verify --export ${session.outFile}`);
}

async function showKeys({ session, app }: Context): Promise<void> {
  const status = await app.keys();
  await session.document(status, () => {
    const total = Object.values(status.recordsByKek).reduce((sum, n) => sum + n, 0);
    const rest = total - (status.recordsByKek[status.current] ?? 0);
    return [
      `Key-encryption key ${status.current.slice(0, 8)} from ${status.origin}.`,
      `${count(total, "sealed record")}${rest === 0 ? ", all under it" : `, ${rest} of them still under another key`}.`,
      ...(status.previous === null ? [] : [`A roll from ${status.previous.slice(0, 8)} is under way.`]),
    ].join("\n");
  });
  if (status.previous !== null) session.next("keyroll keys roll goes on with it");
}

async function rollKeys({ session, app }: Context): Promise<void> {
  const line = busyLine(session);
  const result = await app
    .rollKeys(({ done, total }) => line.show(`${bar(done, total)} ${done} of ${total} records`))
    .finally(() => line.clear());
  await session.document(
    result,
    () =>
      `Rolled from ${result.from.slice(0, 8)} to ${result.to.slice(0, 8)}: ${count(result.rewrapped, "record")} wrapped again.`,
  );
  if (result.next !== null) session.next(result.next);
}
