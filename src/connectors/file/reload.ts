/**
 * The two commands around a change: the check before it and the reload after it. A mark beside the file says that a reload is due, so that a
 * process that is killed between the change and the reload does not leave consumers with the old version while the file shows the new one.
 */
import { open, stat, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { ConnectorError } from "../connector.ts";
import type { CallContext } from "../connector.ts";
import type { Secret } from "../secret.ts";
import { codeOf } from "../shared/calls.ts";
import { fileError, syncFolder } from "../shared/files.ts";
import { firstLine, redact } from "../shared/redact.ts";
import { run } from "../shared/run.ts";
import type { Ran } from "../shared/run.ts";
import type { CommandConfig } from "../shared/settings.ts";

function pendingMark(path: string): string {
  return join(dirname(path), `.${basename(path)}.keyroll-reload-due`);
}
export async function isReloadDue(path: string): Promise<boolean> {
  try {
    await stat(pendingMark(path));
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return false;
    throw fileError(error, pendingMark(path), "read");
  }
}
/** Before the change. Empty: it holds nothing that could be read. */
export async function markReloadDue(path: string): Promise<void> {
  const mark = pendingMark(path);
  try {
    const handle = await open(mark, "w", 0o600);
    await handle.sync();
    await handle.close();
  } catch (error) {
    throw fileError(error, mark, "write", dirname(mark));
  }
  await syncFolder(dirname(mark), mark);
}
export async function clearReloadDue(path: string): Promise<void> {
  try {
    await unlink(pendingMark(path));
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw fileError(error, pendingMark(path), "remove");
  }
}

/** Runs the reload. The file is changed already, so that a command that never ends leaves the outcome unknown. */
export async function reload(
  cx: CallContext,
  path: string,
  command: CommandConfig,
  secrets: readonly Secret[],
): Promise<void> {
  const ran = await run(command.argv, { timeoutMs: command.timeout, signal: cx.signal }).catch((error: unknown) => {
    if (error instanceof ConnectorError && cx.signal.aborted)
      throw new ConnectorError("unknown-outcome", `${path} was changed, and the reload was cancelled.`);
    throw error;
  });
  const program = command.argv[0] ?? "";
  if (ran.endedBy === "time-out") {
    throw new ConnectorError(
      "unknown-outcome",
      `${path} was changed, and ${program} did not end within ${command.timeout} ms.`,
      {
        next: "The place is looked at again; check what holds the command up.",
      },
    );
  }
  if (ran.endedBy === "cancelled")
    throw new ConnectorError("unknown-outcome", `${path} was changed, and the reload was cancelled.`);
  if (ran.code !== 0) {
    throw new ConnectorError(
      "refused",
      `${path} was changed, and ${program} ended with ${ran.code ?? "a signal"}${says(ran, secrets)}`,
      {
        next: "Mend the cause; the reload is tried again with the next step.",
      },
    );
  }
}

/** Runs the check with the new files' names in its arguments. Nothing is changed yet. */
export async function precheck(
  cx: CallContext,
  command: CommandConfig,
  names: Readonly<Record<string, string>>,
  secrets: readonly Secret[],
): Promise<void> {
  const argv = command.argv.map((argument) =>
    argument.replaceAll(/\{(cert|key|file)\}/g, (whole, name: string) => names[name] ?? whole),
  );
  const ran = await run(argv, { timeoutMs: command.timeout, signal: cx.signal });
  const program = argv[0] ?? "";
  if (ran.endedBy !== "itself") {
    const why = ran.endedBy === "cancelled" ? "was cancelled" : `did not end within ${command.timeout} ms`;
    throw new ConnectorError("unavailable", `The check ${program} ${why}; nothing was changed.`);
  }
  if (ran.code !== 0) {
    throw new ConnectorError(
      "refused",
      `The check ${program} ended with ${ran.code ?? "a signal"}; nothing was changed${says(ran, secrets)}`,
      {
        next: "Mend what the check found.",
      },
    );
  }
}

function says(ran: Ran, secrets: readonly Secret[]): string {
  const clean = (bytes: Buffer): string => firstLine(redact(bytes.toString("utf8"), secrets));
  const line = clean(ran.stderr) || clean(ran.stdout);
  return line === "" ? "." : `: ${line}`;
}
