/** A plan as people read it: what happens, how long it takes, and what holds if everything stops after each step. */
import { breachCosts, type Plan, type Step } from "../core/plan.ts";
import { formatDuration } from "../core/time.ts";
import type { Colors } from "./session.ts";
import { clean, count, listed, paragraph, plain, table, type Paint } from "./text.ts";
import { day } from "./when.ts";

export type Sort = "add" | "change" | "check" | "person" | "remove";
export const marks: Record<Sort, string> = { add: "+", change: "~", check: "?", person: "@", remove: "-" };

const removing = new Set(["distrust", "purge", "destroy", "end-sessions", "deny", "remove-orphan", "forget-orphan"]);
const adding = new Set(["issue", "seal", "trust", "stage"]);
const looking = new Set(["check", "wait", "soak", "window"]);

export function sortOf(step: Pick<Step, "action" | "by">): Sort {
  if (step.by === "person" || step.action === "approve") return "person";
  if (looking.has(step.action)) return "check";
  if (removing.has(step.action)) return "remove";
  return adding.has(step.action) ? "add" : "change";
}
export const paintOf = (sort: Sort, colors: Colors): Paint =>
  ({ add: colors.green, change: colors.yellow, check: colors.cyan, person: colors.bold, remove: colors.red })[sort];

/** Whether rolling back means anything: not in a breach, not on the way back, and not where there is no old version. */
export const hasWayBack = (plan: Pick<Plan, "mode" | "direction" | "from">): boolean =>
  plan.mode === "planned" && plan.direction === "forward" && plan.from !== null;

/** What holds if everything stops right after the step. */
export function stopText(plan: Pick<Plan, "hasData" | "mode" | "direction" | "from">, step: Step): string {
  const { ifStopped } = step;
  const bad = [
    ...(ifStopped.serviceUp ? [] : ["some are refused"]),
    ...(plan.hasData && !ifStopped.oldDataReadable ? ["old data unreadable"] : []),
    ...(plan.hasData && !ifStopped.newDataReadable ? ["new data unreadable"] : []),
  ];
  const state = bad.length === 0 ? "safe" : bad.join(", ");
  if (!ifStopped.canResume) return `${state}, cannot go on`;
  return !hasWayBack(plan) ? state : `${state}, ${ifStopped.canRollBack ? "back out" : "cannot back out"}`;
}

function takes(step: Step): string {
  if (step.action === "approve") return "person";
  if (step.action === "window") return "waits";
  if (step.by === "person") return `person, ${formatDuration(step.estimateMs)}`;
  return step.estimateMs === 0 ? "at once" : formatDuration(step.estimateMs);
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** The sentence that says what was proved, or what was not. */
export function safetySentence(plan: Plan): string {
  const { safety } = plan;
  const states = count(safety.states, "state");
  if (plan.unseen.length > 0)
    return `No verdict: ${listed(plan.unseen)} could not be seen. From what is known this order would be ${safety.verdict}.`;
  switch (safety.verdict) {
    case "proved":
      return `Proved: nobody is refused and nothing is lost in any of ${states} that this rotation can get into, whatever fails or crashes, and from each it can be finished.`;
    case "proved with declared gaps":
      return `Proved in ${states}: nobody is refused outside the declared gaps, and from each state it can be finished.`;
    case "refuted":
      return `Refuted: this rotation can go wrong (found in ${states}). It cannot be run.`;
    case "blocked":
      return "Blocked: there is no safe order, and declaring a gap does not help. It cannot be run.";
    case "not proved":
      return `Not proved within ${count(safety.limit ?? safety.states, "state")}: too large to search whole. To run it, a person must approve that.`;
  }
}

export interface PlanViewOptions {
  readonly width: number;
  readonly textWidth: number;
  readonly nowMs: number;
  readonly colors: Colors;
  /** `place: why it could not be seen`. */
  readonly unseenBecause: readonly string[];
  readonly modelled: boolean;
}

export function planText(plan: Plan, options: PlanViewOptions): string {
  const { colors, textWidth, nowMs } = options;
  const blocks: string[] = [];
  const title = `${plan.mode === "breach" ? `Breach (${strategyWords[plan.strategy]}): replace` : "Rotate"} ${clean(plan.credential)}`;
  const change = plan.from === null ? `to ${plan.to}` : `${plan.from} to ${plan.to}`;
  const head = `${title} (${clean(plan.owner)}), ${change}`;
  const number = `plan ${plan.digest.slice(0, 8)}, holds until its inputs change`;
  const fits = head.length + 3 + number.length <= options.width;
  blocks.push(`${head.replace(title, colors.bold(title))}${fits ? "   " : "\n"}${colors.dim(number)}`);
  if (plan.steps.length > 0) blocks.push(stepTable(plan, options));

  const sorts = plan.steps.map(sortOf);
  const sum = (sort: Sort): number => sorts.filter((x) => x === sort).length;
  const verdictPaint =
    plan.unseen.length === 0 && plan.safety.verdict.startsWith("proved")
      ? plan.gaps.length > 0
        ? colors.yellow
        : colors.green
      : colors.red;
  const lines: string[] = [];
  if (plan.steps.length > 0) {
    const parts = [
      `${sum("add") + sum("change")} add/change`,
      count(sum("check"), "check"),
      ...(sum("person") > 0 ? [count(sum("person"), "person", "people")] : []),
      `${sum("remove")} remove`,
    ];
    const people = plan.steps.some((step) => step.action === "approve") ? " and the time of people" : "";
    lines.push(paragraph(`${parts.join(", ")}. About ${formatDuration(plan.estimateMs)}${people}.`, textWidth));
  }
  const sentence = safetySentence(plan);
  const word = sentence.split(/[ :]/, 1)[0]!;
  lines.push(paragraph(sentence, textWidth).replace(word, verdictPaint(word)));
  if (plan.safety.why) lines.push(paragraph(capital(clean(plan.safety.why)), textWidth));
  if (plan.safety.counterexample) {
    lines.push("The shortest way in which it goes wrong:");
    plan.safety.counterexample.forEach((text, i) => {
      lines.push(paragraph(clean(text), textWidth, "     ", `${String(i + 1).padStart(3)}. `));
    });
  }
  for (const gap of plan.gaps) {
    const kind = { race: "may be lucky", unavoidable: "unavoidable", unknown: "cause not searched whole" }[gap.kind];
    const text = `users of ${gap.holder} may be refused at ${gap.verifier} for up to ${formatDuration(gap.boundMs)} (${kind}). ${capital(clean(gap.cause))}`;
    lines.push(paragraph(text, textWidth, "     ", `${colors.yellow("Gap")}  `));
  }
  if (hasWayBack(plan) && plan.steps.length > 0)
    lines.push(
      plan.pointOfNoReturn === null
        ? "It can be rolled back until its end."
        : `Point of no return: step ${plan.pointOfNoReturn} of ${plan.steps.length}.`,
    );
  else if (plan.from === null) lines.push("It makes the first version, so there is no old one to go back to.");
  blocks.push(lines.join("\n"));

  const notes: string[] = [];
  if (options.modelled)
    notes.push(
      paragraph(
        "Some places are of type model: the plan assumes that the old version is in use everywhere. It can be proved, not run.",
        textWidth,
      ),
    );
  for (const text of plan.notes) notes.push(paragraph(clean(text), textWidth, "  ", "Note: "));
  if (plan.unseen.length > 0)
    notes.push(
      paragraph(
        `Not seen: ${options.unseenBecause.length > 0 ? options.unseenBecause.map(clean).join(" ") : listed(plan.unseen)} A plan that does not see every place cannot be started.`,
        textWidth,
      ),
    );
  if (notes.length > 0) blocks.push(notes.join("\n"));

  const dates: string[] = [];
  if (plan.lastSafeStart !== null) {
    const at = Date.parse(plan.lastSafeStart);
    dates.push(
      at <= nowMs
        ? colors.red(`The last safe start was ${day(at, nowMs)}: it may not finish before expiry.`)
        : `Start by ${day(at, nowMs)}.`,
    );
  }
  if (plan.expires !== null) {
    const at = Date.parse(plan.expires);
    dates.push(at <= nowMs ? colors.red(`Expired ${day(at, nowMs)}.`) : `Expires ${day(at, nowMs)}.`);
  }
  if (dates.length > 0) blocks.push(dates.join(" "));
  return blocks.join("\n\n");
}

export function stepTable(plan: Plan, options: Pick<PlanViewOptions, "colors" | "width">): string {
  const { colors, width } = options;
  const noReturn = hasWayBack(plan) ? plan.pointOfNoReturn : null;
  const divider = " no way back from here ";
  return table(
    plan.steps,
    [
      { title: "#", align: "right", value: (step) => String(step.n) },
      {
        title: "STEP",
        flex: true,
        value: (step) => ({ text: `${marks[sortOf(step)]} ${step.text}`, paint: paintOf(sortOf(step), colors) }),
      },
      { title: "TAKES", value: (step) => takes(step) },
      {
        title: "IF IT STOPS HERE",
        flex: true,
        value: (step) => {
          const text = stopText(plan, step);
          return { text, paint: text.startsWith("safe") ? plain : colors.yellow };
        },
      },
    ],
    {
      width,
      head: colors.dim,
      indent: " ",
      before: (row, total) => {
        if (noReturn === null || row === 0 || plan.steps[row]!.n !== noReturn) return null;
        const side = Math.max(4, Math.min(total, 100) - divider.length - 1);
        return ` ${colors.red("-".repeat(Math.floor(side / 2)) + divider + "-".repeat(Math.ceil(side / 2)))}`;
      },
    },
  );
}

export const strategyWords: Record<Plan["strategy"], string> = {
  "availability-first": "availability first",
  "contain-first": "contain first",
};

export function breachTable(plans: readonly Plan[], options: Pick<PlanViewOptions, "colors" | "width">): string {
  const { colors, width } = options;
  return table(
    plans,
    [
      { title: "STRATEGY", value: (plan) => ({ text: strategyWords[plan.strategy], paint: colors.bold }) },
      {
        title: "OLD VERSION WORKS FOR",
        value: (plan) => {
          const { exposureMs } = breachCosts(plan);
          return exposureMs === null ? "not known: nobody who checks it is declared" : formatDuration(exposureMs);
        },
        flex: true,
      },
      {
        title: "SOMEBODY REFUSED FOR",
        flex: true,
        value: (plan) => {
          const { outageMs } = breachCosts(plan);
          return plan.gaps.length === 0
            ? { text: "nobody", paint: colors.green }
            : {
                text: `up to ${formatDuration(outageMs)}, ${listed(plan.gaps.map((gap) => `${gap.holder} to ${gap.verifier}`))}`,
                paint: colors.yellow,
              };
        },
      },
      { title: "STEPS", align: "right", value: (plan) => String(plan.steps.length) },
      { title: "PROOF", flex: true, value: (plan) => plan.safety.verdict },
    ],
    { width, head: colors.dim, indent: " " },
  );
}

/** For a pull request: GitHub-flavoured Markdown. */
export function planMarkdown(plan: Plan, nowMs: number): string {
  const cell = (text: string): string => clean(text).replaceAll("|", "\\|").replaceAll("<", "&lt;");
  const lines = [
    `### Rotate ${cell(plan.credential)} (${cell(plan.owner)})`,
    "",
    `Plan \`${plan.digest.slice(0, 8)}\`: **${plan.safety.verdict}**, ${count(plan.safety.states, "state")}, about ${formatDuration(plan.estimateMs)}.`,
    "",
    "| # | Step | Takes | If it stops here |",
    "|--:|---|---|---|",
    ...plan.steps.map(
      (step) =>
        `| ${step.n} | \`${marks[sortOf(step)]}\` ${cell(step.text)}${step.n === plan.pointOfNoReturn && hasWayBack(plan) ? " **(no way back from here)**" : ""} | ${takes(step)} | ${stopText(plan, step)} |`,
    ),
    "",
    safetySentence(plan),
    ...(plan.safety.why ? ["", cell(plan.safety.why)] : []),
    ...(plan.safety.counterexample ?? []).map((text, i) => `${i + 1}. ${cell(text)}`),
    ...plan.gaps.map(
      (gap) =>
        `- **Gap**: ${cell(gap.holder)} to ${cell(gap.verifier)}, up to ${formatDuration(gap.boundMs)} (${gap.kind}): ${cell(gap.cause)}`,
    ),
    ...plan.notes.map((note) => `- ${cell(note)}`),
    ...plan.unseen.map((place) => `- Not seen: ${cell(place)}`),
    ...(plan.lastSafeStart === null ? [] : ["", `Start by ${day(Date.parse(plan.lastSafeStart), nowMs)}.`]),
  ];
  return lines.join("\n");
}

export interface PlanDifference {
  readonly changed: boolean;
  readonly lines: readonly string[];
}

/** What differs between a saved plan and the one of now, in the order in which it would be asked. */
export function diffPlans(before: Plan, now: Plan): PlanDifference {
  const lines: string[] = [];
  const compare = (name: string, a: string | null, b: string | null): void => {
    if (a !== b) lines.push(`~ ${name}: ${a ?? "none"} is now ${b ?? "none"}`);
  };
  compare("from", before.from, now.from);
  compare("to", before.to, now.to);
  compare("mode", before.mode, now.mode);
  compare("strategy", before.strategy, now.strategy);
  compare("proof", before.safety.verdict, now.safety.verdict);
  compare("expires", before.expires, now.expires);
  compare("last safe start", before.lastSafeStart, now.lastSafeStart);
  const gap = (g: Plan["gaps"][number]): string => `gap from ${g.holder} to ${g.verifier}`;
  for (const g of before.gaps) if (!now.gaps.some((x) => gap(x) === gap(g))) lines.push(`- ${gap(g)}`);
  for (const g of now.gaps) if (!before.gaps.some((x) => gap(x) === gap(g))) lines.push(`+ ${gap(g)}`);
  lines.push(
    ...diffLines(
      before.steps.map((step) => step.text),
      now.steps.map((step) => step.text),
    ),
  );
  for (const note of now.notes) if (!before.notes.includes(note)) lines.push(`+ note: ${note}`);
  for (const note of before.notes) if (!now.notes.includes(note)) lines.push(`- note: ${note}`);
  if (lines.length === 0 && before.digest !== now.digest)
    lines.push("~ the declaration changed in what the order rests on (traits, policy or fingerprint)");
  return { changed: before.digest !== now.digest, lines };
}

/** Longest common subsequence: the few steps of a plan make the simple table cheap. */
function diffLines(a: readonly string[], b: readonly string[]): string[] {
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i * width + j] =
        a[i] === b[j]
          ? best[(i + 1) * width + j + 1]! + 1
          : Math.max(best[(i + 1) * width + j]!, best[i * width + j + 1]!);
  const lines: string[] = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      i++;
      j++;
    } else if (j >= b.length || (i < a.length && best[(i + 1) * width + j]! >= best[i * width + j + 1]!)) {
      lines.push(`- step: ${a[i++]!}`);
    } else lines.push(`+ step: ${b[j++]!}`);
  }
  return lines;
}
