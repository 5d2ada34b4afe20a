import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useRead } from "../api.ts";
import { rotationStatuses } from "../rotation-statuses.ts";
import { Answer, Empty, MarkTag, Time, useTitle } from "../parts.tsx";
import { count, fromTo, rotationMark } from "../words.ts";

const filters = [
  ["", "All"],
  ["active", "Under way"],
  ["ended", "Ended"],
] as const;

export function Rotations() {
  useTitle("Rotations");
  const search = useSearch({ strict: false }) as { status?: string; credential?: string };
  const navigate = useNavigate();
  const status = [...rotationStatuses, "active" as const, "ended" as const].find((each) => each === search.status);
  const query = useRead(
    "listRotations",
    {
      query: {
        limit: 200,
        ...(status === undefined ? {} : { status }),
        ...(search.credential === undefined ? {} : { credential: search.credential }),
      },
    },
    { keep: true },
  );
  return (
    <>
      <header className="hd">
        <div>
          <h1>Rotations</h1>
          <div className="meta" role="status">
            {query.data === undefined ? null : <span>{count(query.data.total, "rotation")}</span>}
          </div>
        </div>
      </header>
      <div className="filters" role="group" aria-label="Which">
        {filters.map(([value, label]) => (
          <button
            type="button"
            key={label}
            className="btn chip"
            aria-pressed={(search.status ?? "") === value}
            onClick={() =>
              void navigate({
                to: "/rotations",
                search: {
                  ...(value === "" ? {} : { status: value }),
                  ...(search.credential === undefined ? {} : { credential: search.credential }),
                },
              })
            }
          >
            {label}
          </button>
        ))}
      </div>
      <Answer query={query} what="rotations">
        {(page) =>
          page.items.length === 0 ? (
            <Empty title={status === undefined ? "Nothing was rotated yet" : "None"}>
              <p>
                <Link to="/inventory">Choose a credential</Link> and preview its plan: that changes nothing.
              </p>
            </Empty>
          ) : (
            <section className="card" aria-label="Rotations">
              <ul className="next">
                {page.items.map((row) => (
                  <li key={row.id}>
                    <div>
                      <h2>
                        <Link to="/rotations/$id" params={{ id: row.id }}>
                          {row.credential}
                        </Link>{" "}
                        <MarkTag mark={rotationMark(row)} />
                      </h2>
                      <p>
                        {row.mode === "breach" ? "Breach, " : ""}
                        {fromTo(row.from, row.to)}
                        {row.direction === "back" ? ", on the way back" : ""}.{" "}
                        {row.ended !== null
                          ? ""
                          : row.step === null
                            ? ""
                            : `Step ${row.step} of ${row.steps}${row.waitingFor === null ? "" : `: ${row.waitingFor}`}. `}
                        {row.reason ?? ""}
                      </p>
                    </div>
                    <span className="mut small">
                      <Time at={row.ended ?? row.started} /> · {row.startedBy}
                    </span>
                  </li>
                ))}
              </ul>
              {page.nextCursor === null ? null : (
                <p className="body mut">The newest {page.items.length} are shown; the audit has all.</p>
              )}
            </section>
          )
        }
      </Answer>
    </>
  );
}
