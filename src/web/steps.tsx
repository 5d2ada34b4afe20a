/** The steps of a plan and of its run: one table in two states, with what holds if everything stops straight after each step. */
import { Fragment, useState, type ReactNode } from "react";
import type { PlanView, RotationView, TaskView } from "../server/schema.ts";
import { Icon } from "./icon.tsx";
import { Tag, Time } from "./parts.tsx";
import { formatDuration } from "./time.ts";
import { capital, hasWayBack, phaseWords, stopText, takes } from "./words.ts";

type Step = PlanView["steps"][number];
type State = RotationView["stepStates"][number];
type Fact = keyof Step["ifStopped"];

interface Column {
  readonly fact: Fact;
  readonly head: readonly [string, string];
}
function columnsOf(plan: PlanView): readonly Column[] {
  return [
    { fact: "serviceUp", head: ["Service", "up"] },
    ...(plan.hasData
      ? ([
          { fact: "oldDataReadable", head: ["Old data", "readable"] },
          { fact: "newDataReadable", head: ["New data", "readable"] },
        ] as const)
      : []),
    { fact: "canResume", head: ["Can", "resume"] },
    ...(hasWayBack(plan) ? ([{ fact: "canRollBack", head: ["Can roll", "back"] }] as const) : []),
  ];
}

/** Losing the way back is what a plan decides to do; losing anything else is harm. */
function Cell({ fact, holds }: { fact: Fact; holds: boolean }) {
  if (holds)
    return (
      <span className="cell y">
        <Icon name="check" />
        <span className="sr">holds</span>
      </span>
    );
  return (
    <span className={fact === "canRollBack" ? "cell no" : "cell bad"}>
      <Icon name="x" />
      <span className="sr">{fact === "canRollBack" ? "not possible any more" : "does not hold"}</span>
    </span>
  );
}

export function StepTable({
  plan,
  states,
  renderTask,
}: {
  plan: PlanView;
  states: readonly State[] | null;
  renderTask?: (task: string) => ReactNode;
}) {
  const columns = columnsOf(plan);
  const [open, setOpen] = useState(false);
  const stateOf = (step: Step): State | null => states?.find((each) => each.n === step.n) ?? null;
  const firstOpen = plan.steps.findIndex((step) => (stateOf(step)?.state ?? "todo") !== "done");
  const doneUntil = states === null ? 0 : firstOpen < 0 ? plan.steps.length : firstOpen;
  // What is over is folded while something is still to come; the last done step stays in sight.
  const folded = doneUntil >= 4 && firstOpen >= 0 ? doneUntil - 1 : 0;
  const noReturn = hasWayBack(plan) ? plan.pointOfNoReturn : null;
  const width = columns.length + 2;
  let phase = "";
  return (
    <section className="card" aria-label="Steps, and what holds if it stops">
      <table className="st">
        <caption className="sr">
          Steps of the rotation. The columns on the right say what holds if everything stops straight after that step.
        </caption>
        <thead>
          <tr>
            <th scope="col">Step</th>
            <th scope="col">When</th>
            {columns.map((column) => (
              <th scope="col" className="c" key={column.fact}>
                {column.head[0]}
                <br />
                {column.head[1]}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {folded === 0 ? null : (
            <tr className="fold">
              <th scope="row" colSpan={width}>
                <button type="button" aria-expanded={open} onClick={() => setOpen(!open)}>
                  <span className="nm">
                    <span className="ico i-ok">
                      <Icon name="check" />
                    </span>
                  </span>
                  {folded} steps done
                  <Icon name="right" size={14} />
                </button>
              </th>
            </tr>
          )}
          {plan.steps.map((step, i) => {
            if (i < folded && !open) return null;
            const header = step.phase === phase ? null : step.phase;
            phase = step.phase;
            const state = stateOf(step);
            return (
              <Fragment key={step.n}>
                {header === null ? null : (
                  <tr className="ph">
                    <th colSpan={width} scope="rowgroup">
                      {phaseWords[header]}
                    </th>
                  </tr>
                )}
                {noReturn !== step.n ? null : (
                  <tr className="ponr">
                    <td colSpan={width}>
                      <div>No way back from here</div>
                    </td>
                  </tr>
                )}
                <Row step={step} state={state} columns={columns} stop={stopText(plan, step)} />
                {/* A task may stand for its check as well; it is shown once. */}
                {state?.task == null ||
                state.state === "done" ||
                renderTask === undefined ||
                states?.find((each) => each.task === state.task && each.state !== "done") !== state ? null : (
                  <tr className="task">
                    <td colSpan={width}>{renderTask(state.task)}</td>
                  </tr>
                )}
              </Fragment>
            );
          })}
        </tbody>
      </table>
      <div className="legend2" aria-hidden="true">
        <span>If it stops straight after a step:</span>
        <span>
          <i className="cell y">
            <Icon name="check" />
          </i>
          holds
        </span>
        {noReturn === null ? null : (
          <span>
            <i className="cell no">
              <Icon name="x" />
            </i>
            not possible any more
          </span>
        )}
        {plan.gaps.length === 0 && plan.safety.verdict.startsWith("proved") ? null : (
          <span>
            <i className="cell bad">
              <Icon name="x" />
            </i>
            does not hold
          </span>
        )}
      </div>
    </section>
  );
}

const stateWords = {
  done: "done",
  doing: "being done",
  waiting: "waiting",
  todo: "not started",
  left: "left out",
} as const;

function Row({
  step,
  state,
  columns,
  stop,
}: {
  step: Step;
  state: State | null;
  columns: readonly Column[];
  stop: string;
}) {
  const now = state?.state ?? "todo";
  const current = now === "doing" || now === "waiting";
  const person = step.by === "person" || step.action === "approve";
  const kind = now === "done" ? "i-ok" : current ? (person ? "i-human" : "i-run") : "i-wait";
  const under = [
    step.by === "person" ? "a person does it" : "",
    ...step.opensGap.map((gap) => `may refuse ${gap}`),
  ].filter((each) => each !== "");
  const safe = columns.every(({ fact }) => fact === "canRollBack" || step.ifStopped[fact]);
  return (
    <tr
      className={current ? `s cur${person ? " human" : ""}` : `s ${now}`}
      {...(current ? { "aria-current": "step" as const } : {})}
    >
      <th scope="row">
        <span className="nm">
          <span className={`ico ${kind}${now === "doing" ? " pulse" : ""}`}>
            {now === "done" ? (
              <Icon name="check" />
            ) : current ? (
              <Icon name={person ? "user" : now === "doing" ? "rot" : "clock"} />
            ) : (
              <span>{step.n}</span>
            )}
          </span>
          <span>
            {state === null ? null : <span className="sr">{stateWords[now]}: </span>}
            <b>{capital(step.text)}</b>
            {under.length === 0 ? null : <small>{capital(under.join(", "))}</small>}
            {/* Where there is no room for the columns. */}
            {now === "done" || now === "left" ? null : <small className="pho">If it stops here: {stop}</small>}
            {!current ? null : safe ? (
              <span className="stopchip">
                <Tag tone="green" icon="check">
                  Safe to stop here
                </Tag>
              </span>
            ) : null}
          </span>
        </span>
      </th>
      <td className="when">
        {state === null || now === "todo" || state.at === null ? (
          now === "left" ? (
            "left out"
          ) : (
            takes(step)
          )
        ) : now === "done" ? (
          <>
            <Time at={state.at} as="moment" />
            {state.tookMs === null || state.tookMs < 1000 ? "" : `, ${formatDuration(state.tookMs)}`}
          </>
        ) : (
          <>
            since <Time at={state.at} as="moment" />
          </>
        )}
      </td>
      {columns.map(({ fact }) => (
        <td className="c" key={fact}>
          <Cell fact={fact} holds={step.ifStopped[fact]} />
        </td>
      ))}
    </tr>
  );
}

export const taskOf = (tasks: readonly TaskView[], id: string): TaskView | null =>
  tasks.find((task) => task.id === id) ?? null;
