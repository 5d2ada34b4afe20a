/** A rotation while it runs and after: whose turn it is, the margin left, whether it is safe to stop here. */
import { useMutation } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useState, type FormEvent } from "react";
import type { RotationView } from "../../server/schema.ts";
import { client, queries, useRead } from "../api.ts";
import { Icon, type IconName } from "../icon.tsx";
import { useLive } from "../live.ts";
import { useNow } from "../now.ts";
import { Answer, Card, Dialog, MarkTag, Note, ProblemNote, Tag, Time, useTitle } from "../parts.tsx";
import { ProofPanel } from "../proof.tsx";
import { StepTable, taskOf } from "../steps.tsx";
import { TaskCard } from "../task.tsx";
import { formatDuration, momentOf, msOf, roughly } from "../time.ts";
import { capital, fromTo, phaseWords, rotationMark, short, versionName } from "../words.ts";

export function RotationPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const live = useLive();
  const query = useRead("getRotation", { params: { id } }, { everyMs: live.state === "open" ? 15_000 : 5000 });
  useTitle(query.data === undefined ? "Rotation" : `${query.data.credential}, ${rotationMark(query.data).word}`);
  return (
    <>
      <p className="crumb">
        <Link to="/rotations">Rotations</Link> /{" "}
        {query.data === undefined ? (
          id
        ) : (
          <Link to="/inventory" search={{ item: query.data.credential }}>
            {query.data.credential}
          </Link>
        )}
      </p>
      <Answer query={query} what="the rotation" rows={7}>
        {(view) => <Run view={view} />}
      </Answer>
    </>
  );
}

type Verb = RotationView["can"][number];
const verbs: Readonly<Record<Exclude<Verb, "approve" | "reject">, { word: string; icon: IconName; says: string }>> = {
  pause: { word: "Pause", icon: "pause", says: "The step that is being done is finished, then nothing more is done." },
  resume: { word: "Resume", icon: "play", says: "It looks at every place again and goes on from there." },
  rollback: {
    word: "Roll back",
    icon: "undo",
    says: "The old version is put back everywhere, by a proved plan of its own; nobody is refused on the way.",
  },
  cancel: { word: "Cancel", icon: "x", says: "It is left. No place has been changed yet." },
};

function Run({ view }: { view: RotationView }) {
  const [asked, setAsked] = useState<keyof typeof verbs | null>(null);
  const { plan } = view;
  const ended = view.ended !== null;
  return (
    <div className="run">
      <header className="hd">
        <div>
          <h1>
            {view.mode === "breach" ? "Replace" : view.direction === "back" ? "Roll back" : "Rotate"} {view.credential}
          </h1>
          <div className="meta">
            <span role="status">
              <MarkTag mark={rotationMark(view)} />
            </span>
            {view.step === null || ended ? null : (
              <span>
                Step {view.step} of {view.steps}
              </span>
            )}
            <span>{fromTo(view.from, view.to)}</span>
            <span>
              Started <Time at={view.started} as="moment" /> by {view.startedBy}
            </span>
            {ended ? (
              <span>
                Ended <Time at={view.ended!} as="moment" />, after{" "}
                {formatDuration(msOf(view.ended!) - msOf(view.started))}
              </span>
            ) : null}
            <span>
              Plan{" "}
              <span className="mono" title={view.planDigest}>
                {short(view.planDigest)}
              </span>
            </span>
          </div>
        </div>
        <div className="act">
          {(["resume", "pause", "rollback", "cancel"] as const)
            .filter((verb) => view.can.includes(verb))
            .map((verb) => (
              <button
                key={verb}
                type="button"
                className={verb === "resume" ? "btn pri" : "btn"}
                onClick={() => setAsked(verb)}
              >
                <Icon name={verbs[verb].icon} />
                {verbs[verb].word}
              </button>
            ))}
          <Link to="/audit" search={{ rotation: view.id }} className="btn">
            <Icon name="audit" />
            Evidence
          </Link>
        </div>
      </header>
      <Situation view={view} />
      {view.waitsForApproval === null ? null : (
        <Approval key={view.planDigest + view.waitsForApproval.phase} view={view} />
      )}
      {plan.expires === null || ended ? null : <Budget view={view} />}
      <div className="grid">
        <StepTable
          plan={plan}
          states={view.stepStates}
          renderTask={(id) => {
            const task = taskOf(view.tasks, id);
            return task === null ? null : <TaskCard task={task} inRun />;
          }}
        />
        <div className="pile">
          <ProofPanel plan={plan} />
          {view.approvals.length === 0 ? null : <Approvals view={view} />}
          <Log view={view} />
        </div>
      </div>
      {asked === null ? null : <Act verb={asked} view={view} onClose={() => setAsked(null)} />}
    </div>
  );
}

function Situation({ view }: { view: RotationView }) {
  if (view.status === "halted" || view.status === "paused")
    return (
      <Note tone={view.status === "halted" ? "red" : "amber"} icon={view.status === "halted" ? "warn" : "pause"}>
        <b>
          {capital(
            view.reason ?? (view.status === "halted" ? "It has stopped and needs a decision." : "It is paused."),
          )}
        </b>
        <p>
          {view.safeToStop
            ? "Everybody still gets in, and nothing gets worse while it stands here."
            : "Somebody may be refused while it stands here."}{" "}
          {view.canRollBackNow ? "It can go on, and it can be rolled back." : "It can go on; there is no way back."}
        </p>
      </Note>
    );
  if (view.ended !== null)
    return view.status === "done" ? (
      <Note tone="green" icon="check">
        <b>
          {view.direction === "back"
            ? "Rolled back: every place has the old version again."
            : `Done: every place has ${versionName(view.to)}.`}
        </b>
      </Note>
    ) : (
      <Note tone="plain" icon={rotationMark(view).icon}>
        <b>{rotationMark(view).word}.</b> {view.reason === null ? "" : capital(view.reason)}
      </Note>
    );
  if (view.waitsForApproval !== null) return null;
  if (view.waitingFor === null) return null;
  return (
    <Note tone={view.turn === "person" ? "human" : "run"} icon={view.turn === "person" ? "user" : "clock"}>
      <b>Waiting for {view.waitingFor}.</b>{" "}
      {view.safeToStop ? "It is safe to stop here." : "Somebody may be refused while it stands here."}
    </Note>
  );
}

function Budget({ view }: { view: RotationView }) {
  const nowMs = useNow();
  const expires = msOf(view.plan.expires!);
  const margin = view.marginMs ?? 0;
  const used = Math.max(0, nowMs - msOf(view.started));
  const rest = Math.max(0, expires - nowMs - Math.max(0, margin));
  const whole = Math.max(1, used + Math.max(0, margin) + rest);
  const share = (ms: number) => ({ width: `${(100 * ms) / whole}%` });
  return (
    <section className="card budget" aria-label="Time left">
      <div className="lab">
        <span>
          {view.marginMs === null ? (
            "How long the rest takes is not known."
          ) : margin >= 0 ? (
            <>
              <b>{capital(roughly(margin))} of margin.</b> The rest still fits before the old version expires.
            </>
          ) : (
            <b className="c-red">The rest may not fit before the old version expires.</b>
          )}
        </span>
        <span className="mut">{expires > nowMs ? `${roughly(expires - nowMs)} to expiry` : "expired"}</span>
      </div>
      <div
        className="bar"
        role="img"
        aria-label={`${roughly(used)} used, ${roughly(Math.max(0, margin))} of margin, ${roughly(rest)} needed for the rest`}
      >
        <i className="used" style={share(used)} />
        {margin > 0 ? <i className="margin" style={share(margin)} /> : null}
        {rest > 0 ? <i className={margin < 0 ? "none" : "work"} style={share(rest)} /> : null}
      </div>
      <div className="ends">
        <span>Started {momentOf(msOf(view.started), nowMs)}</span>
        {margin > 0 ? <span>Must go on by {momentOf(nowMs + margin, nowMs)}</span> : null}
        <span>Expires {momentOf(expires, nowMs)}</span>
      </div>
    </section>
  );
}

function Act({ verb, view, onClose }: { verb: keyof typeof verbs; view: RotationView; onClose: () => void }) {
  const [comment, setComment] = useState("");
  const operation = {
    pause: "pauseRotation",
    resume: "resumeRotation",
    rollback: "rollBackRotation",
    cancel: "cancelRotation",
  } as const;
  const act = useMutation({
    mutationFn: () =>
      client.call(operation[verb], {
        params: { id: view.id },
        body: comment.trim() === "" ? {} : { comment: comment.trim() },
      }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ["getRotation"] });
      onClose();
    },
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    act.mutate();
  };
  return (
    <Dialog title={`${verbs[verb].word} ${view.credential}?`} onClose={onClose}>
      <form onSubmit={submit}>
        <p>{verbs[verb].says}</p>
        <label htmlFor="comment">Comment, for the audit</label>
        <textarea id="comment" value={comment} onChange={(event) => setComment(event.target.value)} maxLength={2000} />
        {act.error === null ? null : <ProblemNote error={act.error} />}
        <div className="go">
          <button type="submit" className="btn pri" disabled={act.isPending}>
            {verbs[verb].word}
          </button>
          <button type="button" className="btn" onClick={onClose}>
            Leave it
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function Approval({ view }: { view: RotationView }) {
  const waits = view.waitsForApproval!;
  const [comment, setComment] = useState("");
  const steps = view.plan.steps.filter(
    (step) => step.action !== "approve" && (waits.phase === "plan" || step.phase === waits.phase),
  );
  const answer = useMutation({
    mutationFn: (verdict: "approveRotation" | "rejectRotation") =>
      client.call(verdict, {
        params: { id: view.id },
        body: {
          phase: waits.phase,
          // Of the plan that stands on this page: if another one is there by now, the server says so.
          planDigest: view.planDigest,
          ...(comment.trim() === "" ? {} : { comment: comment.trim() }),
        },
      }),
    onSuccess: () => queries.invalidateQueries({ queryKey: ["getRotation"] }),
  });
  return (
    <section className="do approval" aria-labelledby="approval">
      <h2 id="approval">
        {waits.phase === "plan" ? "The plan" : `The ${phaseWords[waits.phase]!.toLowerCase()} phase`} waits for{" "}
        {waits.needed - waits.given.length === 1 ? "an approval" : `${waits.needed - waits.given.length} approvals`}
      </h2>
      <p className="under">
        {waits.given.length === 0 ? "Nobody has agreed yet." : `${waits.given.join(", ")} agreed.`} It is about plan{" "}
        <span className="mono" title={view.planDigest}>
          {short(view.planDigest)}
        </span>
        , and these steps of it:
      </p>
      <ol className="steps">
        {steps.slice(0, 12).map((step) => (
          <li key={step.n}>
            <div>{capital(step.text)}</div>
          </li>
        ))}
      </ol>
      {steps.length > 12 ? <p className="mut small">and {steps.length - 12} more, all in the table below</p> : null}
      {waits.mayApprove ? (
        <>
          <form onSubmit={(event) => event.preventDefault()}>
            <label htmlFor="why">Comment, for the audit</label>
            <textarea id="why" value={comment} onChange={(event) => setComment(event.target.value)} maxLength={2000} />
            {answer.error === null ? null : <ProblemNote error={answer.error} />}
            <div className="go">
              <button
                type="button"
                className="btn pri"
                disabled={answer.isPending}
                onClick={() => answer.mutate("approveRotation")}
              >
                <Icon name="check" />
                Approve
              </button>
              <button
                type="button"
                className="btn"
                disabled={answer.isPending}
                onClick={() => answer.mutate("rejectRotation")}
              >
                Reject, and pause it
              </button>
            </div>
          </form>
        </>
      ) : (
        <p className="then">{waits.whyNot ?? "Somebody else has to decide."}</p>
      )}
    </section>
  );
}

function Approvals({ view }: { view: RotationView }) {
  return (
    <Card title="Approvals">
      <ul className="rows small">
        {view.approvals.map((each) => (
          <li key={`${each.phase} ${each.person} ${each.at}`}>
            <Tag
              tone={each.verdict === "approved" ? "green" : "red"}
              icon={each.verdict === "approved" ? "check" : "x"}
            >
              {each.verdict}
            </Tag>{" "}
            {phaseWords[each.phase]} by {each.person}, <Time at={each.at} as="moment" />
            {each.comment === null ? null : <p className="mut">{each.comment}</p>}
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Log({ view }: { view: RotationView }) {
  const [all, setAll] = useState(false);
  const newest = view.log.toReversed();
  const shown = all ? newest : newest.slice(0, 10);
  return (
    <Card
      title="Log"
      side={
        newest.length <= 10 ? undefined : (
          <button type="button" className="btn ghost" aria-expanded={all} onClick={() => setAll(!all)}>
            {all ? "The newest 10" : `All ${newest.length}`}
          </button>
        )
      }
    >
      {newest.length === 0 ? <p className="body mut">Nothing was done yet.</p> : null}
      <ol className="log" aria-live="off">
        {shown.map((entry) => (
          <li key={entry.seq}>
            <Time at={entry.at} as="moment" />
            <span>{entry.text}</span>
          </li>
        ))}
      </ol>
    </Card>
  );
}
