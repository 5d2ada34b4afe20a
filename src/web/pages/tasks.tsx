/** What needs me? */
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useRead } from "../api.ts";
import { Answer, Empty, useTitle } from "../parts.tsx";
import { TaskCard } from "../task.tsx";

export function Tasks() {
  useTitle("Tasks");
  const search = useSearch({ strict: false }) as { state?: string };
  const navigate = useNavigate();
  const state = search.state === "all" ? "all" : "open";
  const query = useRead("listTasks", { query: { state } }, { keep: true });
  return (
    <>
      <header className="hd">
        <div>
          <h1>Tasks</h1>
          <div className="meta">
            What only a person can do, with the exact values. It is checked before anything goes on.
          </div>
        </div>
      </header>
      <div className="filters" role="group" aria-label="Which">
        {(["open", "all"] as const).map((each) => (
          <button
            type="button"
            key={each}
            className="btn chip"
            aria-pressed={state === each}
            onClick={() => void navigate({ to: "/tasks", search: each === "open" ? {} : { state: each } })}
          >
            {each === "open" ? "Open" : "All"}
          </button>
        ))}
      </div>
      <Answer query={query} what="tasks">
        {(page) =>
          page.items.length === 0 ? (
            <Empty title={state === "open" ? "Nothing waits for a person" : "There was no task yet"}>
              <p>A rotation that needs a hand opens one here, and on its own page.</p>
            </Empty>
          ) : (
            <div className="tasks">
              {page.items.map((task) => (
                <TaskCard key={task.id} task={task} />
              ))}
            </div>
          )
        }
      </Answer>
    </>
  );
}

export function TaskPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const query = useRead("getTask", { params: { id } }, { everyMs: 15_000 });
  useTitle(query.data?.title ?? "Task");
  return (
    <div className="one">
      <p className="crumb">
        <Link to="/tasks">Tasks</Link> / {query.data?.credential ?? id}
      </p>
      <h1 className="sr">{query.data?.title ?? "Task"}</h1>
      <Answer query={query} what="the task">
        {(task) => <TaskCard task={task} />}
      </Answer>
    </div>
  );
}
