/** The words and marks of states: always an icon, a word and a colour, so that none of the three has to be seen. */
import type { CredentialItem, PlanView, RotationItem } from "../server/schema.ts";
import type { IconName } from "./icon.tsx";
import { formatDuration } from "./time.ts";

export type Tone = "red" | "amber" | "green" | "human" | "run" | "plain";
export interface Mark {
  readonly tone: Tone;
  readonly icon: IconName;
  readonly word: string;
}

export const dueMarks: Readonly<Record<CredentialItem["state"], Mark>> = {
  compromised: { tone: "red", icon: "warn", word: "Compromised" },
  expired: { tone: "red", icon: "x", word: "Expired" },
  late: { tone: "amber", icon: "clock", word: "Late to start" },
  "out-of-step": { tone: "red", icon: "diff", word: "Out of step" },
  due: { tone: "amber", icon: "clock", word: "Start now" },
  rotating: { tone: "run", icon: "rot", word: "Rotating" },
  unknown: { tone: "plain", icon: "help", word: "Not known" },
  fine: { tone: "green", icon: "check", word: "Fine" },
};

/** What is stale is never shown as fine. */
export function dueMark(item: { readonly state: CredentialItem["state"]; readonly stale: boolean }): Mark {
  return item.stale && item.state === "fine"
    ? { tone: "plain", icon: "clock", word: "Was fine" }
    : dueMarks[item.state];
}

export function rotationMark(row: Pick<RotationItem, "status" | "turn">): Mark {
  if (row.turn === "person" && (row.status === "running" || row.status === "waiting"))
    return { tone: "human", icon: "user", word: "Waiting for a person" };
  switch (row.status) {
    case "running":
      return { tone: "run", icon: "rot", word: "Running" };
    case "waiting":
      return { tone: "run", icon: "clock", word: "Waiting" };
    case "paused":
      return { tone: "amber", icon: "pause", word: "Paused" };
    case "halted":
      return { tone: "red", icon: "warn", word: "Stopped" };
    case "done":
      return { tone: "green", icon: "check", word: "Done" };
    case "rolled-back":
      return { tone: "plain", icon: "undo", word: "Rolled back" };
    case "cancelled":
      return { tone: "plain", icon: "x", word: "Cancelled" };
  }
}

export const phaseWords: Readonly<Record<string, string>> = {
  issue: "Issue",
  distribute: "Distribute",
  switch: "Switch",
  retire: "Retire",
  plan: "Plan",
};

/** Rolling back means nothing in a breach, on the way back, and where there is no old version. */
export const hasWayBack = (plan: Pick<PlanView, "mode" | "direction" | "from">): boolean =>
  plan.mode === "planned" && plan.direction === "forward" && plan.from !== null;

const number = new Intl.NumberFormat("en");
export const count = (n: number, one: string, many = `${one}s`): string =>
  `${number.format(n)} ${n === 1 ? one : many}`;
export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
export const short = (digest: string): string => digest.slice(0, 8);
/** Enough of a fingerprint to tell two apart; the whole of it is in the title. */
export const brief = (mark: string): string => (mark.length <= 14 ? mark : `${mark.slice(0, 4)}…${mark.slice(-2)}`);

/** The sentence that says what was proved, or what was not: the command line's own. */
export function safetySentence(plan: Pick<PlanView, "safety">): string {
  const { safety } = plan;
  const states = count(safety.states, "state");
  switch (safety.verdict) {
    case "proved":
      return `Nobody is refused and nothing is lost in any of ${states} that this rotation can get into, whatever fails or crashes, and from each it can be finished.`;
    case "proved with declared gaps":
      return `In ${states}, nobody is refused outside the declared gaps, and from each state it can be finished.`;
    case "refuted":
      return `This rotation can go wrong (found in ${states}). It cannot be run.`;
    case "blocked":
      return "There is no safe order, and declaring a gap does not help. It cannot be run.";
    case "not proved":
      return `Not proved within ${count(safety.limit ?? safety.states, "state")}: too large to search whole. To run it, a person must approve that.`;
  }
}

/** What holds if everything stops right after the step: the command line's own words. */
export function stopText(plan: PlanView, { ifStopped }: PlanView["steps"][number]): string {
  const bad = [
    ...(ifStopped.serviceUp ? [] : ["some are refused"]),
    ...(plan.hasData && !ifStopped.oldDataReadable ? ["old data unreadable"] : []),
    ...(plan.hasData && !ifStopped.newDataReadable ? ["new data unreadable"] : []),
  ];
  const state = bad.length === 0 ? "safe" : bad.join(", ");
  if (!ifStopped.canResume) return `${state}, cannot go on`;
  return !hasWayBack(plan) ? state : `${state}, ${ifStopped.canRollBack ? "back out" : "cannot back out"}`;
}

export const gapWords = {
  race: "may be lucky",
  unavoidable: "unavoidable",
  unknown: "cause not searched whole",
} as const;

/** `v1 to v2` of versions that carry their credential's name. */
export function versionName(id: string | null): string {
  if (id === null) return "none";
  const at = Math.max(id.lastIndexOf("@"), id.lastIndexOf("#"), id.lastIndexOf("/"));
  return at < 0 ? id : `v${id.slice(at + 1)}`;
}
export const fromTo = (from: string | null, to: string | null): string =>
  from === null ? `first version, ${versionName(to)}` : `${versionName(from)} to ${versionName(to)}`;
export const takes = (step: PlanView["steps"][number]): string => {
  if (step.action === "approve") return "a person decides";
  if (step.action === "window") return "waits for its window";
  return step.estimateMs === 0 ? "at once" : `about ${formatDuration(step.estimateMs)}`;
};
