/**
 * The plan as a document for people: every step with the exact public values, how to see that it worked and how to undo it. A secret value is
 * never in it; where one is needed it says where it lies.
 */
import type { RunStep } from "../app.ts";
import type { CredentialDecl, PlaceDecl } from "../core/place.ts";
import type { Plan, Step } from "../core/plan.ts";
import { formatDuration } from "../core/time.ts";
import type { Json, TaskRow, VersionRow } from "../store/store.ts";
import { hasWayBack, safetySentence, sortOf, stopText } from "./plan-view.ts";
import { clean } from "./text.ts";
import { dateTime } from "./when.ts";

export interface RunbookStep {
  readonly n: number;
  readonly title: string;
  readonly automatic: boolean;
  readonly done: boolean;
  /** Exact public values, name and value. */
  readonly values: readonly (readonly [string, string])[];
  readonly instructions: readonly { readonly text: string; readonly copy: string | null }[];
  readonly check: string;
  readonly undo: string;
  readonly takes: string;
  readonly ifItStops: string;
  readonly noWayBack: boolean;
}
export interface Runbook {
  readonly title: string;
  readonly credential: string;
  readonly owner: string;
  readonly run: string | null;
  readonly plan: string;
  readonly made: string;
  readonly safety: string;
  readonly before: readonly string[];
  readonly versions: readonly {
    readonly id: string;
    readonly state: string;
    readonly values: readonly (readonly [string, string])[];
  }[];
  readonly steps: readonly RunbookStep[];
  readonly after: readonly string[];
}

export interface RunbookInput {
  readonly plan: Plan;
  readonly credential: CredentialDecl;
  readonly versions: readonly VersionRow[];
  readonly tasks: readonly TaskRow[];
  /** Of a run: what is done already. */
  readonly steps: readonly RunStep[] | null;
  readonly run: string | null;
  readonly nowMs: number;
}

export function runbookOf(input: RunbookInput): Runbook {
  const { plan, credential } = input;
  const place = (name: string | null): PlaceDecl | undefined => credential.places.find((each) => each.name === name);
  return {
    title: `${plan.mode === "breach" ? "Replace the compromised" : "Rotate"} ${plan.credential}`,
    credential: plan.credential,
    owner: plan.owner,
    run: input.run,
    plan: plan.digest,
    made: new Date(input.nowMs).toISOString(),
    safety: safetySentence(plan),
    before: [
      `Takes about ${formatDuration(plan.estimateMs)}${plan.steps.some((step) => step.by === "person") ? ", and the time of people" : ""}.`,
      ...(plan.lastSafeStart === null ? [] : [`Start by ${dateTime(Date.parse(plan.lastSafeStart))}.`]),
      ...plan.gaps.map(
        (gap) =>
          `Users of ${gap.holder} may be refused at ${gap.verifier} for up to ${formatDuration(gap.boundMs)}: ${gap.cause}`,
      ),
      ...plan.notes,
      ...plan.unseen.map((name) => `${name} could not be seen when this was made: look at it before you start.`),
    ],
    versions: input.versions
      .filter((version) => version.id === plan.from || version.id === plan.to)
      .map((version) => ({ id: version.id, state: version.state, values: factsOf(version) })),
    steps: plan.steps.map((step, i): RunbookStep => {
      const at = place(step.place);
      const task = input.tasks.find(
        (each) => each.place === step.place && each.version === step.version && actionOf(step) === each.action,
      );
      return {
        n: step.n,
        title: step.text,
        automatic: step.by !== "person",
        done: input.steps?.[i]?.state === "done",
        values: valuesOf(step, at, input),
        instructions: task === undefined ? declaredInstructions(step, at) : instructionsOf(task.instructions),
        check: checkOf(step, at),
        undo: undoOf(step, plan),
        takes: step.estimateMs === 0 ? "at once" : formatDuration(step.estimateMs),
        ifItStops: stopText(plan, step),
        noWayBack: step.n === plan.pointOfNoReturn && hasWayBack(plan),
      };
    }),
    after: [
      `keyroll status ${plan.credential} shows ${plan.to} everywhere and nothing out of step.`,
      ...(plan.from === null ? [] : [`${plan.from} is refused where it was trusted.`]),
      "The journal has every step: keyroll audit log --credential " + plan.credential,
    ],
  };
}

/** What a connector keeps as its settings: only what was written in the file, with secrets blotted out, and only plain values. */
function settingsOf(declared: unknown): (readonly [string, string])[] {
  if (declared === null || typeof declared !== "object") return [];
  return Object.entries(declared).flatMap(([key, value]): (readonly [string, string])[] => {
    if (typeof value === "string" || typeof value === "number" || typeof value === "boolean")
      return [[key, String(value)]];
    if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return [[key, value.join(", ")]];
    // A map of plain values, such as the keys of a file; deeper ones (commands, texts for tasks) are no value to copy.
    if (value === null || typeof value !== "object" || Array.isArray(value)) return [];
    const parts = Object.entries(value);
    return parts.every(([, each]) => typeof each === "string")
      ? [[key, parts.map(([name, each]) => `${name}: ${String(each)}`).join(", ")]]
      : [];
  });
}

function factsOf(version: VersionRow): (readonly [string, string])[] {
  const { facts } = version;
  if (facts === null) return [];
  return [
    ["fingerprint", facts.fingerprint],
    ...(facts.sha1 === undefined ? [] : [["SHA-1 thumbprint", facts.sha1] as const]),
    ...(facts.serial === undefined ? [] : [["serial", facts.serial] as const]),
    ...(facts.subject === undefined ? [] : [["subject", facts.subject] as const]),
    ...(facts.notAfterMs === undefined ? [] : [["valid to", new Date(facts.notAfterMs).toISOString()] as const]),
    ...Object.entries(facts.attributes ?? {}),
  ];
}

function valuesOf(step: Step, place: PlaceDecl | undefined, input: RunbookInput): (readonly [string, string])[] {
  const version = input.versions.find((each) => each.id === step.version);
  const placement = place === undefined ? undefined : version?.placements[place.name];
  return [
    ...(place === undefined
      ? []
      : [
          ["place", `${place.name} (${place.type}${place.system === undefined ? "" : ` in ${place.system}`})`] as const,
        ]),
    ...(step.version === null ? [] : [["version", step.version] as const]),
    ...(placement?.slot === undefined ? [] : [["entry", placement.slot] as const]),
    ...(place === undefined ? [] : settingsOf(place.declared)),
    ...(version === undefined ? [] : factsOf(version)),
  ];
}

function actionOf(step: Step): TaskRow["action"] | null {
  if (["trust", "stage", "swap"].includes(step.action)) return "add";
  if (["activate", "set"].includes(step.action)) return "activate";
  return ["distrust", "purge"].includes(step.action) ? "remove" : null;
}

function instructionsOf(json: Json): RunbookStep["instructions"] {
  const steps = (json as { steps?: unknown } | null)?.steps;
  if (!Array.isArray(steps)) return [];
  return steps.map((each: { text?: unknown; copy?: unknown }) => ({
    text: String(each.text ?? ""),
    copy: typeof each.copy === "string" ? each.copy : null,
  }));
}

/** What the estate tells a person to do there. Values that only exist once the version is made stay as they are written. */
function declaredInstructions(step: Step, place: PlaceDecl | undefined): RunbookStep["instructions"] {
  const action = actionOf(step);
  if (step.by !== "person" || action === null || place === undefined) return [];
  const told = (place.declared as Record<string, { steps?: unknown } | undefined> | null | undefined)?.[action]?.steps;
  if (!Array.isArray(told)) return [];
  const filled = (text: string): string => text.replaceAll("${id}", step.version ?? "${id}");
  return told.map((each: string | { text?: string; copy?: string }) =>
    typeof each === "string"
      ? { text: filled(each), copy: null }
      : { text: filled(each.text ?? ""), copy: each.copy === undefined ? null : filled(each.copy) },
  );
}

function checkOf(step: Step, place: PlaceDecl | undefined): string {
  const where = place?.name ?? "the place";
  const version = step.version ?? "the new version";
  switch (step.action) {
    case "issue":
      return `keyroll get lists ${version}; nothing uses it yet.`;
    case "seal":
      return `keyroll get says that the secret part of ${version} is sealed.`;
    case "trust":
    case "swap":
      return `Sign in at ${where} with ${version}: it is accepted.`;
    case "stage":
      return `${version} lies at ${where}, and the old one is still the one in use.`;
    case "set":
    case "activate":
      return `${where} uses ${version}, and its users still get in.`;
    case "distrust":
    case "deny":
      return `Sign in at ${where} with ${version}: it is refused.`;
    case "purge":
      return `${version} is no longer at ${where}.`;
    case "end-sessions":
      return `Nothing that was granted to ${version} is still open at ${where}.`;
    case "destroy":
      return `keyroll get says that the secret part of ${version} is not here.`;
    case "approve":
      return "keyroll run show lists the approvals.";
    case "start-reencryption":
    case "wait":
      return `keyroll explain says that nothing is under ${version} any more.`;
    default:
      return "keyroll explain says what is still missing.";
  }
}

function undoOf(step: Step, plan: Plan): string {
  if (plan.mode === "breach") return "None: the compromised version must not come back.";
  if (plan.from === null) return "None: there is no old version to go back to.";
  if (!step.ifStopped.canRollBack) return "None: from here the only way is forward.";
  const where = step.place ?? "there";
  switch (sortOf(step)) {
    case "check":
    case "person":
      return "Nothing to undo.";
    case "add":
      return step.place === null
        ? `Retire ${step.version ?? "it"} unused.`
        : `Take ${step.version ?? "it"} away from ${where} again; it is the only thing that was added.`;
    case "change":
      return `Make ${plan.from ?? "the old version"} current at ${where} again; it is still there and still trusted.`;
    case "remove":
      return `Put ${step.version ?? "it"} back at ${where} from the sealed copy: keyroll run rollback.`;
  }
}

const md = (text: string): string => clean(text).replace(/([\\`*_[\]<>|])/g, "\\$1");
const code = (text: string): string => `\`${clean(text).replaceAll("`", "'")}\``;

export function runbookMarkdown(book: Runbook): string {
  const lines = [
    `# ${md(book.title)}`,
    "",
    `Owner: ${md(book.owner)}. Plan ${code(book.plan.slice(0, 8))}${book.run === null ? "" : `, run ${code(book.run)}`}, written ${book.made}.`,
    "",
    md(book.safety),
    "",
    "## Before you start",
    "",
    ...book.before.map((text) => `- ${md(text)}`),
    "",
  ];
  if (book.versions.length > 0) {
    lines.push("## Versions", "");
    for (const version of book.versions)
      lines.push(
        `- ${code(version.id)} (${version.state})`,
        ...version.values.map(([name, value]) => `  - ${md(name)}: ${code(value)}`),
      );
    lines.push("");
  }
  lines.push("## Steps", "");
  for (const step of book.steps) {
    if (step.noWayBack) lines.push("---", "", "**From here there is no way back.**", "");
    lines.push(
      `### ${step.n}. ${md(step.title)}`,
      "",
      `- [${step.done ? "x" : " "}] done${step.automatic ? " (automatic: Keyroll does it)" : " (by a person)"}, takes ${step.takes}`,
      ...step.values.map(([name, value]) => `- ${md(name)}: ${code(value)}`),
      ...step.instructions.map(
        (each, i) => `- ${i + 1}) ${md(each.text)}${each.copy === null ? "" : ` ${code(each.copy)}`}`,
      ),
      `- Check: ${md(step.check)}`,
      `- Undo: ${md(step.undo)}`,
      `- If it stops here: ${md(step.ifItStops)}`,
      "",
    );
  }
  lines.push("## Afterwards", "", ...book.after.map((text) => `- [ ] ${md(text)}`), "");
  return lines.join("\n");
}

const html = (text: string): string =>
  clean(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

const style = `body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{line-height:1.2}ol{padding-left:0;list-style:none}li.step{border:1px solid #bbb;border-radius:6px;padding:.75rem 1rem;margin:.75rem 0;break-inside:avoid}
li.step h3{margin:0 0 .25rem;font-size:1.05rem}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0}dt{color:#555}dd{margin:0}
code{font:14px/1.4 ui-monospace,monospace;overflow-wrap:anywhere;background:#f2f2f2;padding:0 .2em}.tag{font-size:.8rem;border:1px solid;border-radius:3px;padding:0 .4em;margin-left:.5em;font-weight:400}
.back{border-top:3px double #b00;color:#b00;text-align:center;font-weight:600;margin:1.5rem 0 .5rem;padding-top:.25rem}input[type=checkbox]{width:1.1em;height:1.1em;vertical-align:-.15em}
@media print{body{margin:0;max-width:none}}`;

/** One file without scripts and without anything from elsewhere: it can be printed and sent. */
export function runbookHtml(book: Runbook): string {
  const value = ([name, text]: readonly [string, string]): string =>
    `<dt>${html(name)}</dt><dd><code>${html(text)}</code></dd>`;
  const step = (
    each: RunbookStep,
  ): string => `${each.noWayBack ? '<li class="back">From here there is no way back</li>\n' : ""}<li class="step">
<h3><label><input type="checkbox"${each.done ? " checked" : ""}> ${each.n}. ${html(each.title)}</label><span class="tag">${each.automatic ? "automatic" : "by a person"}</span></h3>
<dl>${each.values.map(value).join("")}<dt>takes</dt><dd>${html(each.takes)}</dd></dl>
${each.instructions.length === 0 ? "" : `<ul>${each.instructions.map((x) => `<li>${html(x.text)}${x.copy === null ? "" : ` <code>${html(x.copy)}</code>`}</li>`).join("")}</ul>`}
<dl><dt>check</dt><dd>${html(each.check)}</dd><dt>undo</dt><dd>${html(each.undo)}</dd><dt>if it stops here</dt><dd>${html(each.ifItStops)}</dd></dl>
</li>`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>${html(book.title)}</title><style>${style}</style></head><body>
<h1>${html(book.title)}</h1>
<p>Owner: ${html(book.owner)}. Plan <code>${html(book.plan.slice(0, 8))}</code>${book.run === null ? "" : `, run <code>${html(book.run)}</code>`}, written ${html(book.made)}.</p>
<p>${html(book.safety)}</p>
<h2>Before you start</h2>
<ul>${book.before.map((text) => `<li>${html(text)}</li>`).join("")}</ul>
${book.versions.length === 0 ? "" : `<h2>Versions</h2>${book.versions.map((version) => `<h3><code>${html(version.id)}</code> (${html(version.state)})</h3><dl>${version.values.map(value).join("")}</dl>`).join("")}`}
<h2>Steps</h2>
<ol>
${book.steps.map(step).join("\n")}
</ol>
<h2>Afterwards</h2>
<ul>${book.after.map((text) => `<li><label><input type="checkbox"> ${html(text)}</label></li>`).join("")}</ul>
</body></html>
`;
}
