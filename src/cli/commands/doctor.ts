/** `doctor`: is everything right that has to be right, and what to do where it is not. */
import type { Finding } from "../../app.ts";
import type { Cli, Context } from "../command.ts";
import { busyLine } from "../progress.ts";
import { clean, count, padEnd, paragraph } from "../text.ts";

export function registerDoctor(cli: Cli): void {
  cli.does(cli.command("doctor", "check Node.js, store, keys, clock, estate, systems and permissions"), examine);
}

async function examine({ session, app }: Context): Promise<number> {
  const findings: Finding[] = [];
  const line = busyLine(session);
  const { out } = session;
  const paints = { ok: out.green, warn: out.yellow, fail: out.red };
  line.show("looking");
  for await (const finding of app.doctor()) {
    findings.push(finding);
    if (session.format === "json") continue;
    line.clear();
    const lead = `${padEnd(finding.level, 5)} `;
    const [first = "", ...rest] = finding.detail.split("\n");
    const text = [
      paragraph(`${clean(finding.what)}: ${clean(first)}`, session.textWidth, "      ", lead),
      ...rest.map((each) => paragraph(clean(each), session.textWidth, "        ", "      ")),
      ...(finding.fix === null
        ? []
        : [paragraph(`fix: ${clean(finding.fix)}`, session.textWidth, "           ", "      ")]),
    ].join("\n");
    session.print(paints[finding.level](finding.level) + text.slice(finding.level.length));
    line.show("looking on");
  }
  line.clear();
  const failed = findings.filter((each) => each.level === "fail").length;
  const warned = findings.filter((each) => each.level === "warn").length;
  if (session.format === "json") await session.json({ ok: failed === 0, findings });
  else
    session.print(failed + warned === 0 ? "All is well." : `${count(failed, "problem")}, ${count(warned, "warning")}.`);
  return failed > 0 ? 1 : 0;
}
