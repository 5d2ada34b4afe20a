/** Prove it: the journal, its chain, and the way to take it along. */
import { useInfiniteQuery, useMutation } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import type { JournalEntry } from "../../server/schema.ts";
import { client, read } from "../api.ts";
import { Icon } from "../icon.tsx";
import { Empty, Loading, Note, ProblemNote, Time, useTitle } from "../parts.tsx";
import { count } from "../words.ts";

const kinds: readonly JournalEntry["kind"][] = [
  "rotation",
  "intent",
  "outcome",
  "approval",
  "task",
  "version",
  "estate",
  "key",
  "person",
  "note",
  "checkpoint",
];
interface Search {
  readonly rotation?: string;
  readonly credential?: string;
  readonly kind?: string;
}

export function Audit() {
  useTitle("Audit");
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const kind = kinds.find((each) => each === search.kind);
  const filter = {
    ...(search.rotation === undefined ? {} : { rotation: search.rotation }),
    ...(search.credential === undefined ? {} : { credential: search.credential }),
    ...(kind === undefined ? {} : { kind }),
  };
  const query = useInfiniteQuery({
    queryKey: ["listAudit", filter],
    queryFn: ({ pageParam, signal }) =>
      read(
        "listAudit",
        { query: { ...filter, limit: 100, ...(pageParam === "" ? {} : { cursor: pageParam }) } },
        signal,
      ),
    initialPageParam: "",
    getNextPageParam: (last) => last.nextCursor,
  });
  const verify = useMutation({ mutationFn: () => client.call("verifyAudit") });
  const entries = query.data?.pages.flatMap((page) => page.items) ?? [];
  const head = query.data?.pages[0]?.head;
  const go = (next: Search) => void navigate({ to: "/audit", search: next });
  return (
    <>
      <header className="hd">
        <div>
          <h1>Audit</h1>
          <div className="meta">
            {head === undefined ? null : (
              <span>
                {count(head.seq, "record")}, the last is{" "}
                <span className="mono" title={head.hash}>
                  {head.hash.slice(0, 12)}
                </span>
              </span>
            )}
          </div>
        </div>
        <div className="act">
          <button type="button" className="btn pri" disabled={verify.isPending} onClick={() => verify.mutate()}>
            <Icon name="shield" />
            {verify.isPending ? "Walking the chain" : "Verify the chain"}
          </button>
          <a className="btn" href={client.url("exportAudit", {})} download="keyroll-audit.ndjson">
            <Icon name="audit" />
            Export for an auditor
          </a>
        </div>
      </header>
      <div role="status">
        {verify.data === undefined ? null : verify.data.ok ? (
          <Note tone="green" icon="shield">
            <b>The chain is whole: {count(verify.data.records ?? 0, "record")}.</b> The file of the export is checked
            without this server by <code className="mono">keyroll audit verify FILE</code>.
          </Note>
        ) : (
          <Note tone="red" icon="warn">
            <b>
              The chain is broken{verify.data.seq === null ? "" : ` at record ${verify.data.seq}`}:{" "}
              {verify.data.problem}.
            </b>{" "}
            {verify.data.detail}
          </Note>
        )}
      </div>
      {verify.error === null ? null : <ProblemNote error={verify.error} />}
      <div className="filters">
        <label htmlFor="kind" className="sr">
          Kind of record
        </label>
        <select
          id="kind"
          value={kind ?? ""}
          onChange={(event) => {
            const { kind: _, ...rest } = search;
            go(event.target.value === "" ? rest : { ...rest, kind: event.target.value });
          }}
        >
          <option value="">Every kind</option>
          {kinds.map((each) => (
            <option key={each}>{each}</option>
          ))}
        </select>
        {(["rotation", "credential"] as const).map((name) =>
          search[name] === undefined ? null : (
            <button
              type="button"
              key={name}
              className="btn chip active"
              onClick={() => {
                const { [name]: _, ...rest } = search;
                go(rest);
              }}
            >
              <Icon name="x" size={13} />
              {name} {search[name]}
              <span className="sr">, remove this filter</span>
            </button>
          ),
        )}
      </div>
      {query.error === null ? null : <ProblemNote error={query.error} retry={() => void query.refetch()} />}
      {query.data === undefined ? (
        query.error === null ? (
          <Loading what="the journal" rows={8} />
        ) : null
      ) : entries.length === 0 ? (
        <Empty title="No record matches" />
      ) : (
        <section className="card" aria-label="Records, newest first">
          <ol className="entries">
            {entries.map((entry) => (
              <li key={entry.seq}>
                <Time at={entry.at} as="moment" />
                <span className="mut">{entry.kind}</span>
                <span className="text">
                  {entry.text}
                  <br />
                  <span className="mut">
                    {entry.actor}
                    {entry.credential === null ? null : (
                      <>
                        ,{" "}
                        <Link to="/audit" search={{ credential: entry.credential }}>
                          {entry.credential}
                        </Link>
                      </>
                    )}
                    {entry.rotation === null ? null : (
                      <>
                        ,{" "}
                        <Link to="/rotations/$id" params={{ id: entry.rotation }}>
                          rotation {entry.rotation}
                        </Link>
                      </>
                    )}
                  </span>
                </span>
                <span className="mono hash" title={entry.hash}>
                  #{entry.seq} {entry.hash.slice(0, 8)}
                </span>
              </li>
            ))}
          </ol>
          {query.hasNextPage ? (
            <p className="body">
              <button
                type="button"
                className="btn"
                disabled={query.isFetchingNextPage}
                onClick={() => void query.fetchNextPage()}
              >
                {query.isFetchingNextPage ? "Loading" : "Older records"}
              </button>
            </p>
          ) : null}
        </section>
      )}
    </>
  );
}
