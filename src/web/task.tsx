/** What a person must do by hand, with the exact values; the machine checks it before anything goes on. Made for a phone first. */
import { useMutation } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect, useState, type FormEvent } from "react";
import type { TaskView } from "../server/schema.ts";
import { client, queries } from "./api.ts";
import { Icon } from "./icon.tsx";
import { Copy, Note, ProblemNote, Tag, Time } from "./parts.tsx";
import { may, useSession } from "./session.ts";

type Verb = "taskDone" | "taskHandOver" | "taskRefuse";
const draftOf = (task: string) => `keyroll.draft.${task}`;

/** What was typed survives a lost network and a closed page. */
function useDraft(task: string): [string, (text: string) => void] {
  const [text, setText] = useState(() => {
    try {
      return localStorage.getItem(draftOf(task)) ?? "";
    } catch {
      // Storage may be forbidden; then it lasts as long as the page.
      return "";
    }
  });
  useEffect(() => {
    try {
      if (text === "") localStorage.removeItem(draftOf(task));
      else localStorage.setItem(draftOf(task), text);
    } catch {
      // As above.
    }
  }, [task, text]);
  return [text, setText];
}

export function TaskCard({ task, inRun = false }: { task: TaskView; inRun?: boolean }) {
  const session = useSession();
  const [open, setOpen] = useState<"taskHandOver" | "taskRefuse" | null>(null);
  const [comment, setComment] = useDraft(task.id);
  const [to, setTo] = useState("");
  const act = useMutation({
    mutationFn: (verb: Verb) => {
      const params = { id: task.id };
      const said = comment.trim() === "" ? {} : { comment: comment.trim() };
      if (verb === "taskHandOver") return client.call(verb, { params, body: { to: to.trim(), ...said } });
      return client.call(verb, { params, body: said });
    },
    onSuccess: async () => {
      setOpen(null);
      setComment("");
      await Promise.all(
        ["listTasks", "getTask", "getRotation", "getOverview"].map((name) =>
          queries.invalidateQueries({ queryKey: [name] }),
        ),
      );
    },
  });
  const allowed = may(session.data, "operate", task.owner);
  const mine = task.person === null || task.person === session.data?.person;
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (open !== null) act.mutate(open);
  };
  return (
    <article className="do">
      <h2>
        {inRun ? (mine ? "Your turn" : `${task.person}'s turn`) : task.title}
        {task.minutes === null ? "" : inRun ? `, about ${task.minutes} min` : ""}
      </h2>
      {inRun ? null : (
        <p className="under">
          <Link to="/rotations/$id" params={{ id: task.rotation }}>
            {task.credential}
          </Link>
          , at {task.place}
          {task.minutes === null ? "" : `, about ${task.minutes} min`}
          {task.person === null ? "" : `, for ${task.person}`}
        </p>
      )}
      {task.due === null ? null : (
        <p className="under">
          Due <Time at={task.due} as="both" />
        </p>
      )}
      <ol className="steps">
        {task.steps.map((step, i) => (
          <li key={i}>
            <div>
              {step.text}
              {step.copy === null ? null : (
                <>
                  <br />
                  <Copy value={step.copy} label={`for step ${i + 1}`} />
                </>
              )}
            </div>
          </li>
        ))}
      </ol>
      {task.note === null ? null : <p className="then">Note: {task.note}</p>}
      <TaskState task={task} />
      {task.state !== "open" && task.state !== "handed-over" ? null : allowed ? (
        <>
          <p className="then">
            When you press Done, Keyroll looks at {task.place} itself. Nothing goes on until it sees what it expects.
          </p>
          {act.error === null ? null : <ProblemNote error={act.error} />}
          {open === null ? (
            <div className="go">
              <button type="button" className="btn pri" disabled={act.isPending} onClick={() => act.mutate("taskDone")}>
                <Icon name="check" />
                {act.isPending ? "Telling" : "Done, check it"}
              </button>
              <button type="button" className="btn" onClick={() => setOpen("taskHandOver")}>
                Hand over
              </button>
              <button type="button" className="btn" onClick={() => setOpen("taskRefuse")}>
                I can't do this
              </button>
            </div>
          ) : (
            <form onSubmit={submit}>
              {open === "taskHandOver" ? (
                <>
                  <label htmlFor={`to-${task.id}`}>To whom</label>
                  <input
                    id={`to-${task.id}`}
                    value={to}
                    onChange={(event) => setTo(event.target.value)}
                    required
                    maxLength={200}
                  />
                </>
              ) : null}
              <label htmlFor={`why-${task.id}`}>{open === "taskRefuse" ? "Why not" : "What they should know"}</label>
              <textarea
                id={`why-${task.id}`}
                value={comment}
                onChange={(event) => setComment(event.target.value)}
                required={open === "taskRefuse"}
                maxLength={2000}
              />
              <div className="go">
                <button type="submit" className="btn pri" disabled={act.isPending}>
                  {open === "taskHandOver" ? "Hand it over" : "Tell, and pause the rotation"}
                </button>
                <button type="button" className="btn" onClick={() => setOpen(null)}>
                  Back
                </button>
              </div>
            </form>
          )}
        </>
      ) : (
        <p className="then">Marking it done needs the operator role for {task.owner}.</p>
      )}
    </article>
  );
}

function TaskState({ task }: { task: TaskView }) {
  if (task.state === "refused")
    return (
      <p className="then">
        <Tag tone="red" icon="x">
          Refused
        </Tag>{" "}
        <Time at={task.updated} as="moment" />
      </p>
    );
  if (task.state === "done")
    return (
      <Note tone={task.checked === null ? "run" : "green"} icon={task.checked === null ? "clock" : "check"}>
        <span role="status">
          <b>{task.checked === null ? "Told. It is being checked." : "Done and checked."}</b>{" "}
          {task.checked?.detail ?? ""}
        </span>
      </Note>
    );
  if (task.checked !== null)
    return (
      <Note tone="amber" icon="warn">
        <span role="status">
          <b>It was looked at, and it is not there yet.</b> {task.checked.detail ?? ""}
        </span>
      </Note>
    );
  return null;
}
