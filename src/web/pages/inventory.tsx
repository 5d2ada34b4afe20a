/** Find it; who owns it; what holds it? The server filters and sorts; only rows that can be seen are in the page. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useRef } from "react";
import type { CredentialItem } from "../../server/schema.ts";
import { read } from "../api.ts";
import { Icon } from "../icon.tsx";
import { isLong, useLive } from "../live.ts";
import { useNow } from "../now.ts";
import { Empty, Loading, MarkTag, ProblemNote, Tag, Time, useTitle } from "../parts.tsx";
import { msOf, relativeOf } from "../time.ts";
import { count, dueMark, dueMarks } from "../words.ts";
import { CredentialPanel } from "./credential.tsx";

interface Search {
  readonly q?: string;
  readonly sort?: string;
  readonly order?: string;
  readonly item?: string;
}
const sorts = ["urgency", "name", "owner", "expires", "lastSafeStart", "state"] as const;
type Sort = (typeof sorts)[number];
const states = ["compromised", "expired", "late", "out-of-step", "due", "rotating", "unknown", "fine"] as const;

export function Inventory() {
  useTitle("Inventory");
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const sort = sorts.find((each) => each === search.sort) ?? "urgency";
  const order = search.order === "desc" ? "desc" : "asc";
  const q = search.q;
  const query = useInfiniteQuery({
    // Another filter is another list: its cursor and its count begin anew.
    queryKey: ["listCredentials", { q, sort, order }],
    queryFn: ({ pageParam, signal }) =>
      read(
        "listCredentials",
        {
          query: {
            sort,
            order,
            limit: 200,
            ...(q === undefined ? {} : { q }),
            ...(pageParam === "" ? {} : { cursor: pageParam }),
          },
        },
        signal,
      ),
    initialPageParam: "",
    getNextPageParam: (last) => last.nextCursor,
  });
  const live = useLive();
  const newer = isLong(query.data) && (live.lastAtMs ?? 0) > query.dataUpdatedAt;
  const items = query.data?.pages.flatMap((page) => page.items) ?? [];
  const last = query.data?.pages.at(-1);
  const total = last?.total ?? 0;
  const open = search.item;
  const chosen = /(?:^|\s)state:([a-z,-]+)/.exec(q ?? "")?.[1]?.split(",") ?? [];
  const toggleState = (state: string) => {
    const rest = (q ?? "").replace(/(?:^|\s)state:[a-z,-]+/, "").trim();
    const next = chosen.includes(state) ? chosen.filter((each) => each !== state) : [...chosen, state];
    const text = [rest, next.length === 0 ? "" : `state:${next.join(",")}`].filter((each) => each !== "").join(" ");
    go({ q: text });
  };
  const go = (patch: { [Key in keyof Search]?: string }) => {
    const next: Record<string, string> = {};
    for (const [key, value] of Object.entries({ ...search, ...patch })) if (value) next[key] = value;
    void navigate({ to: "/inventory", search: next });
  };
  return (
    <>
      <header className="hd">
        <div>
          <h1>Inventory</h1>
          <div className="meta" role="status">
            {query.data === undefined ? null : (
              <span>
                {count(total, "credential")}
                {q === undefined ? "" : ` for ${q}`}
              </span>
            )}
            {last?.stale === true ? (
              <Tag tone="amber" icon="clock">
                Some of this is old
              </Tag>
            ) : null}
          </div>
        </div>
      </header>
      <div className="filters" role="group" aria-label="States">
        {states.map((state) => {
          const n = last?.counts[state] ?? 0;
          if (n === 0 && !chosen.includes(state)) return null;
          return (
            <button
              type="button"
              key={state}
              className="btn chip"
              aria-pressed={chosen.includes(state)}
              onClick={() => toggleState(state)}
            >
              <Icon name={dueMarks[state].icon} size={13} />
              {dueMarks[state].word} {n}
            </button>
          );
        })}
        {newer ? (
          <button type="button" className="btn chip" onClick={() => void query.refetch()} disabled={query.isFetching}>
            <Icon name="rot" size={13} />
            Something has changed: load again
          </button>
        ) : null}
        {q === undefined ? null : (
          <button type="button" className="btn chip" onClick={() => go({ q: "" })}>
            <Icon name="x" size={13} />
            Remove the filter
          </button>
        )}
      </div>
      {query.error === null ? null : <ProblemNote error={query.error} retry={() => void query.refetch()} />}
      {query.data === undefined ? (
        query.error === null ? (
          <Loading what="the inventory" rows={8} />
        ) : null
      ) : (
        <div className={open === undefined ? "inv" : "inv open"}>
          <div className="list card">
            {items.length === 0 ? (
              <Empty title={q === undefined ? "Nothing is declared yet" : `No match for ${q}`}>
                <p>
                  {q === undefined
                    ? "Declare a credential in keyroll.yaml."
                    : "Words must occur in a name, place or fingerprint; also kind:, owner:, state:, place:, system:, label:key=value and due:<35d."}
                </p>
              </Empty>
            ) : (
              <Rows
                items={items}
                total={total}
                sort={sort}
                order={order}
                open={open}
                more={query.hasNextPage && !query.isFetchingNextPage ? () => void query.fetchNextPage() : null}
                onSort={(next) =>
                  go({ sort: next === "urgency" ? "" : next, order: next === sort && order === "asc" ? "desc" : "" })
                }
              />
            )}
          </div>
          {open === undefined ? null : <CredentialPanel key={open} name={open} onClose={() => go({ item: "" })} />}
        </div>
      )}
    </>
  );
}

const columns: readonly { readonly id: Sort | null; readonly label: string; readonly wide: boolean }[] = [
  { id: "name", label: "Name", wide: false },
  { id: "owner", label: "Owner", wide: true },
  { id: "expires", label: "Expires", wide: true },
  { id: "lastSafeStart", label: "Last safe start", wide: false },
  { id: null, label: "Copies", wide: true },
  { id: "urgency", label: "State", wide: false },
];

function Rows({
  items,
  total,
  sort,
  order,
  open,
  more,
  onSort,
}: {
  items: readonly CredentialItem[];
  total: number;
  sort: Sort;
  order: "asc" | "desc";
  open: string | undefined;
  more: (() => void) | null;
  onSort: (sort: Sort) => void;
}) {
  const scroller = useRef<HTMLDivElement>(null);
  const phone = matchMedia("(max-width: 760px)").matches;
  const rows = useVirtualizer({
    count: items.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => (phone ? 68 : 52),
    overscan: 8,
    getItemKey: (i) => items[i]!.name,
  });
  const shown = rows.getVirtualItems();
  const lastShown = shown.at(-1)?.index ?? 0;
  useEffect(() => {
    if (more !== null && lastShown >= items.length - 30) more();
  }, [more, lastShown, items.length]);
  return (
    <div role="table" aria-label="Credentials" aria-rowcount={total + 1}>
      <div role="rowgroup">
        <div role="row" className="vt-head" aria-rowindex={1}>
          {columns.map((column) => (
            <div
              role="columnheader"
              key={column.label}
              className={column.wide ? "w" : ""}
              {...(column.id === null
                ? {}
                : { "aria-sort": column.id !== sort ? "none" : order === "asc" ? "ascending" : "descending" })}
            >
              {column.id === null ? (
                column.label
              ) : (
                <button type="button" onClick={() => onSort(column.id!)}>
                  {column.label}
                  {column.id === sort ? <span aria-hidden="true">{order === "asc" ? "↑" : "↓"}</span> : null}
                </button>
              )}
            </div>
          ))}
        </div>
      </div>
      <div className="vt-scroll" role="rowgroup" ref={scroller} tabIndex={-1}>
        <div className="vt-body" role="presentation" style={{ height: rows.getTotalSize() }}>
          {shown.map((row) => {
            const item = items[row.index]!;
            return (
              <div
                role="row"
                key={row.key}
                aria-rowindex={row.index + 2}
                className={item.name === open ? "vt-row sel" : "vt-row"}
                style={{ transform: `translateY(${row.start}px)` }}
              >
                <Cells item={item} />
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

function Cells({ item }: { item: CredentialItem }) {
  const nowMs = useNow();
  const start = item.lastSafeStart ?? item.startBy;
  return (
    <>
      <div role="cell" className="name">
        <Link to="/inventory" search={(before) => ({ ...before, item: item.name })} id={`row-${item.name}`}>
          {item.name}
        </Link>
        <small>
          {item.kind}
          {item.model ? ", model" : ""}
        </small>
      </div>
      <div role="cell" className="w">
        {item.owner}
      </div>
      <div role="cell" className="w">
        {item.expires === null ? <span className="mut">never</span> : <Time at={item.expires} as="day" />}
        {item.expires === null ? null : <small>{relativeOf(msOf(item.expires), nowMs)}</small>}
      </div>
      <div role="cell" className="m">
        {start === null ? (
          <span className="mut">–</span>
        ) : (
          <>
            <Time at={start} as="day" />
            <small className={msOf(start) < nowMs ? "c-amber" : ""}>{relativeOf(msOf(start), nowMs)}</small>
          </>
        )}
      </div>
      <div role="cell" className="w">
        {item.copies === 0 ? (
          <span className="mut">–</span>
        ) : (
          <span className={item.outOfStep.length > 0 ? "c-red" : ""}>
            {item.inStep}/{item.copies} {item.outOfStep.length > 0 ? "≠" : item.inStep === item.copies ? "=" : "?"}
            <span className="sr"> in step</span>
          </span>
        )}
      </div>
      <div role="cell">
        <MarkTag mark={dueMark(item)} />
      </div>
    </>
  );
}
