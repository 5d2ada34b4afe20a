/** Small parts that every page is made of. */
import { useRouter } from "@tanstack/react-router";
import { useEffect, useId, useRef, useState, type ComponentProps, type ReactNode } from "react";
import { ApiProblem } from "../server/client.ts";
import { basePath } from "./api.ts";
import { Icon, type IconName } from "./icon.tsx";
import { useNow } from "./now.ts";
import { dayOf, exactOf, momentOf, msOf, relativeOf } from "./time.ts";
import { brief, type Mark, type Tone } from "./words.ts";

export function Tag({ tone, icon, children }: { tone: Tone; icon?: IconName; children: ReactNode }) {
  return (
    <span className={`tag t-${tone}`}>
      {icon === undefined ? null : <Icon name={icon} size={12} />}
      {children}
    </span>
  );
}
export const MarkTag = ({ mark }: { mark: Mark }) => (
  <Tag tone={mark.tone} icon={mark.icon}>
    {mark.word}
  </Tag>
);

/** `relative` for what is near and matters now, `day` for dates, `moment` for what happened. */
export function Time({ at, as = "relative" }: { at: string; as?: "relative" | "day" | "moment" | "both" }) {
  const nowMs = useNow();
  const ms = msOf(at);
  const text =
    as === "relative"
      ? relativeOf(ms, nowMs)
      : as === "day"
        ? dayOf(ms, nowMs)
        : as === "both"
          ? `${dayOf(ms, nowMs)}, ${relativeOf(ms, nowMs)}`
          : momentOf(ms, nowMs);
  return (
    <time dateTime={at} title={exactOf(ms)}>
      {text}
    </time>
  );
}

export const Fingerprint = ({ value }: { value: string | null }) =>
  value === null ? null : (
    <span className="mono" title={value}>
      {brief(value)}
    </span>
  );

/** A link to an address that the server names: below the base path, opened without loading the page anew. */
export function PathLink({ to, ...rest }: { to: string } & Omit<ComponentProps<"a">, "href">) {
  const router = useRouter();
  const href = `${basePath}${to}`;
  return (
    <a
      {...rest}
      href={href}
      onClick={(event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || event.button !== 0) return;
        event.preventDefault();
        router.history.push(href);
      }}
    />
  );
}

export function Card({
  title,
  note,
  side,
  children,
  className = "",
}: {
  title: string;
  note?: ReactNode;
  side?: ReactNode;
  children: ReactNode;
  className?: string;
}) {
  const id = useId();
  return (
    <section className={`card ${className}`} aria-labelledby={id}>
      <header>
        <h2 id={id}>{title}</h2>
        {note === undefined ? null : <span className="mut">{note}</span>}
        {side === undefined ? null : <span className="r">{side}</span>}
      </header>
      {children}
    </section>
  );
}

export function Copy({ value, label }: { value: string; label: string }) {
  const [told, setTold] = useState<string | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async () => {
    let text = "Copied";
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      // Over plain HTTP from another host a browser keeps its clipboard to itself.
      text = "Select it and copy";
    }
    setTold(text);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setTold(null), 2500);
  };
  return (
    <span className="val">
      <code className="mono">{value}</code>
      <button type="button" className="btn" onClick={() => void copy()}>
        <Icon name={told === "Copied" ? "check" : "copy"} />
        <span role="status">{told ?? "Copy"}</span>
        <span className="sr"> {label}</span>
      </button>
    </span>
  );
}

export function problemText(error: unknown): { readonly what: string; readonly next: string | null } {
  if (error instanceof ApiProblem) {
    const { problem } = error;
    const more = (problem.errors ?? []).map((each) => each.detail).filter((each) => each !== problem.next);
    const reference = problem.reference === undefined ? "" : ` The server's log has it under ${problem.reference}.`;
    return { what: [problem.detail, ...more].join(" ") + reference, next: problem.next };
  }
  if (error instanceof TypeError)
    return {
      what: "The server cannot be reached.",
      next: "What is shown is what was last known. It is tried again by itself.",
    };
  return { what: error instanceof Error ? error.message : String(error), next: null };
}

export function ProblemNote({ error, retry }: { error: unknown; retry?: () => void }) {
  const { what, next } = problemText(error);
  return (
    <div className="note n-red" role="alert">
      <Icon name="warn" />
      <div>
        <b>{what}</b>
        {next === null ? null : <p>{next}</p>}
      </div>
      {retry === undefined ? null : (
        <button type="button" className="btn" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Note({ tone, icon, children }: { tone: Tone; icon: IconName; children: ReactNode }) {
  return (
    <div className={`note n-${tone}`}>
      <Icon name={icon} />
      <div>{children}</div>
    </div>
  );
}

export const Loading = ({ what, rows = 4 }: { what: string; rows?: number }) => (
  <div className="skeleton" role="status">
    <span className="sr">Loading {what}</span>
    {Array.from({ length: rows }, (_, i) => (
      <i key={i} />
    ))}
  </div>
);

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

/** What a query says: its data, also when the newest try failed; an error or a wait where there is nothing yet. */
export function Answer<T>({
  query,
  what,
  rows,
  children,
}: {
  query: { data: T | undefined; error: unknown; isFetching: boolean; refetch: () => unknown };
  what: string;
  rows?: number;
  children: (data: T) => ReactNode;
}) {
  const failed = query.error === null || query.error === undefined ? null : query.error;
  return (
    <>
      {failed === null ? null : <ProblemNote error={failed} retry={() => void query.refetch()} />}
      {query.data === undefined ? (
        failed === null ? (
          <Loading what={what} {...(rows === undefined ? {} : { rows })} />
        ) : null
      ) : (
        children(query.data)
      )}
    </>
  );
}

/** The browser's own modal: it keeps the focus, closes with Escape, and gives the focus back. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = ref.current;
    // It leaves the top layer with its element; closing it here would tell its owner that the reader had closed it.
    if (dialog !== null && !dialog.open) dialog.showModal();
  }, []);
  return (
    <dialog ref={ref} aria-labelledby={id} onClose={onClose}>
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
}

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} – Keyroll`;
  }, [title]);
}
