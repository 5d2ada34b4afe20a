/** What stands around every page: navigation, search, the live mark, and who is signed in. */
import { Link, Outlet, useNavigate, useRouterState } from "@tanstack/react-router";
import { Suspense, useEffect, useRef, useState, type FormEvent } from "react";
import { client, forget, useRead } from "./api.ts";
import { Icon, Logo, type IconName } from "./icon.tsx";
import { closeLive, openLive, useLive } from "./live.ts";
import { useNow } from "./now.ts";
import { SignIn } from "./pages/sign-in.tsx";
import { Empty, Loading, problemText, ProblemNote } from "./parts.tsx";
import { keysAreOn, setPreference, usePreference } from "./preferences.ts";
import { useSession } from "./session.ts";
import { momentOf, relativeOf } from "./time.ts";
import { count } from "./words.ts";

interface Entry {
  readonly to: "/" | "/inventory" | "/rotations" | "/tasks" | "/audit" | "/settings";
  readonly label: string;
  readonly icon: IconName;
  readonly key: string;
}
const entries: readonly Entry[] = [
  { to: "/", label: "Overview", icon: "home", key: "o" },
  { to: "/inventory", label: "Inventory", icon: "list", key: "i" },
  { to: "/rotations", label: "Rotations", icon: "rot", key: "r" },
  { to: "/tasks", label: "Tasks", icon: "user", key: "t" },
  { to: "/audit", label: "Audit", icon: "audit", key: "a" },
  { to: "/settings", label: "Settings", icon: "set", key: "s" },
];

export function Shell() {
  const session = useSession();
  const path = useRouterState({ select: (state) => state.location.pathname });
  const signedIn = session.data?.person != null;
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    if (signedIn) openLive();
    else closeLive();
  }, [signedIn]);
  const first = useRef(true);
  useEffect(() => {
    // A page that was opened by a link is where reading goes on; the very first load leaves the focus where it is.
    if (!first.current) main.current?.focus({ preventScroll: true });
    first.current = false;
  }, [path]);

  if (session.data === undefined) {
    return (
      <main className="alone">
        <Logo size={36} />
        <h1 className="sr">Keyroll</h1>
        {session.error ? (
          <ProblemNote error={session.error} retry={() => void session.refetch()} />
        ) : (
          <Loading what="who is signed in" rows={1} />
        )}
      </main>
    );
  }
  if (!signedIn) return <SignIn />;
  if (path.endsWith("/sign-in")) return <Outlet />;
  return (
    <>
      <a
        className="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        Skip to content
      </a>
      <Keys />
      <div className="app">
        <Rail name={session.data.name ?? session.data.person!} version={session.data.version} />
        <div className="page">
          <header className="top">
            <Search />
            <LiveMark worker={session.data.live} />
            <Link to="/settings" className="btn ghost phone-only" aria-label="Settings">
              <Icon name="set" size={20} />
            </Link>
          </header>
          <main id="main" ref={main} tabIndex={-1}>
            <Suspense fallback={<Loading what="the page" />}>
              <Outlet />
            </Suspense>
          </main>
        </div>
        <nav className="tabbar" aria-label="Main">
          {entries.slice(0, 5).map((entry) => (
            <Link key={entry.to} to={entry.to} activeOptions={{ exact: entry.to === "/", includeSearch: false }}>
              <Icon name={entry.icon} size={20} />
              {entry.label}
              {entry.to === "/tasks" ? <Waiting as="b" /> : null}
            </Link>
          ))}
        </nav>
      </div>
    </>
  );
}

function Waiting({ as: As }: { as: "b" | "span" }) {
  const open = useRead("listTasks", { query: { state: "open", limit: 1 } }, { everyMs: 60_000 });
  if (!open.data || open.data.total === 0) return null;
  return (
    <As className="cnt">
      {open.data.total}
      <span className="sr"> waiting</span>
    </As>
  );
}

function Rail({ name, version }: { name: string; version: string }) {
  const theme = usePreference("theme");
  const dark = theme === null ? matchMedia("(prefers-color-scheme: dark)").matches : theme === "dark";
  const navigate = useNavigate();
  const signOut = async () => {
    await client.call("signOut");
    closeLive();
    forget();
    await navigate({ to: "/sign-in" });
  };
  return (
    <aside className="rail" aria-label="Keyroll">
      <div className="brand">
        <Logo />
        Keyroll
      </div>
      <nav aria-label="Main">
        {entries.map((entry) => (
          <Link key={entry.to} to={entry.to} activeOptions={{ exact: entry.to === "/", includeSearch: false }}>
            <Icon name={entry.icon} />
            {entry.label}
            {entry.to === "/tasks" ? <Waiting as="span" /> : null}
          </Link>
        ))}
      </nav>
      <div className="foot">
        <span>Signed in as {name}</span>
        <span>Keyroll {version}</span>
        <div className="foot-row">
          <button
            type="button"
            className="btn ghost"
            onClick={() => setPreference("theme", dark ? "light" : "dark")}
            aria-label={dark ? "Light theme" : "Dark theme"}
            title={dark ? "Light theme" : "Dark theme"}
          >
            <Icon name={dark ? "sun" : "moon"} />
          </button>
          <button type="button" className="btn ghost" onClick={() => void signOut()}>
            <Icon name="out" />
            Sign out
          </button>
        </div>
      </div>
    </aside>
  );
}

function Search() {
  const navigate = useNavigate();
  const shown = useRouterState({
    select: (state) =>
      state.location.pathname.endsWith("/inventory") ? ((state.location.search as { q?: string }).q ?? "") : "",
  });
  const [text, setText] = useState(shown);
  useEffect(() => setText(shown), [shown]);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    void navigate({ to: "/inventory", search: text.trim() === "" ? {} : { q: text.trim() } });
  };
  return (
    <form className="search" role="search" onSubmit={submit}>
      <Icon name="search" />
      <input
        id="search"
        type="search"
        value={text}
        onChange={(event) => setText(event.target.value)}
        placeholder="Search names, places, fingerprints"
        aria-label="Search names, places, fingerprints"
        aria-keyshortcuts="/"
        maxLength={500}
        autoComplete="off"
        spellCheck={false}
      />
      <kbd aria-hidden="true">/</kbd>
    </form>
  );
}

/** Amber as soon as anything shown may be old: the stream, a source, or a server without a worker. */
function LiveMark({ worker }: { worker: boolean }) {
  const live = useLive();
  const nowMs = useNow();
  const overview = useRead("getOverview", {}, { everyMs: live.state === "open" ? 60_000 : 15_000 });
  const sources = overview.data?.sources ?? [];
  const bad = sources.filter((source) => source.stale || source.failing > 0).length;
  const last =
    live.lastSeq === null || live.lastAtMs === null
      ? ""
      : `, last event ${live.lastSeq} at ${momentOf(live.lastAtMs, nowMs)}`;
  let amber = true;
  let text: string;
  let more = "";
  if (live.state === "lost") {
    text = "Reconnecting";
    more = last;
  } else if (overview.error) {
    text = problemText(overview.error).what;
  } else if (live.state === "connecting") {
    text = "Connecting";
  } else if (!worker) {
    text = "No worker runs";
    more = ": what is started waits for one";
  } else if (bad > 0) {
    text = `${bad} of ${count(sources.length, "source")} stale or failing`;
    more = ", the rest live";
  } else {
    amber = false;
    text = live.lastSeq === null ? "Live" : `Live, event ${live.lastSeq}`;
    more = live.lastAtMs === null ? "" : `, ${relativeOf(live.lastAtMs, nowMs)}`;
  }
  return (
    <div className="live" role="status">
      <i className={amber ? "dot am" : "dot"} aria-hidden="true" />
      <span>
        {text}
        <span className="lg">{more}</span>
      </span>
    </div>
  );
}

/** `/` searches, `g` and a letter goes to a page. No single key changes anything, and they can be turned off in Settings. */
function Keys() {
  const navigate = useNavigate();
  const waits = useRef(0);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (!keysAreOn() || event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target as HTMLElement | null;
      if (target?.closest("input, textarea, select, dialog, [contenteditable]") != null) return;
      if (event.key === "/") {
        event.preventDefault();
        document.getElementById("search")?.focus();
      } else if (event.key === "g") waits.current = event.timeStamp;
      else if (event.timeStamp - waits.current < 1500) {
        const entry = entries.find((each) => each.key === event.key);
        waits.current = 0;
        if (entry !== undefined) void navigate({ to: entry.to });
      }
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [navigate]);
  return null;
}

export function NotFound() {
  return (
    <>
      <h1 className="sr">Not found</h1>
      <Empty title="There is no such page">
        <p>
          <Link to="/">Go to the overview</Link>
        </p>
      </Empty>
    </>
  );
}

export function Crashed({ error }: { error: unknown }) {
  return (
    <main className="alone">
      <h1>This page has failed</h1>
      <ProblemNote error={error} retry={() => location.reload()} />
    </main>
  );
}
