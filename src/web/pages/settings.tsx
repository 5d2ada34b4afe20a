/** Is the tool itself healthy? */
import { useMutation } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { DoctorView, SettingsView } from "../../server/schema.ts";
import { client, forget, useRead } from "../api.ts";
import { Icon } from "../icon.tsx";
import { closeLive } from "../live.ts";
import { Answer, Card, Note, ProblemNote, Tag, Time, useTitle } from "../parts.tsx";
import { setPreference, usePreference } from "../preferences.ts";
import { may, useSession } from "../session.ts";
import { formatDuration } from "../time.ts";
import { count } from "../words.ts";

export function Settings() {
  useTitle("Settings");
  const query = useRead("getSettings", {}, { everyMs: 60_000 });
  return (
    <>
      <header className="hd">
        <div>
          <h1>Settings</h1>
        </div>
      </header>
      <div className="two">
        <div className="pile">
          <Answer query={query} what="settings">
            {(view) => <Systems view={view} />}
          </Answer>
          <Doctor />
        </div>
        <div className="pile">
          {query.data === undefined ? null : <Installation view={query.data} />}
          <Browser />
        </div>
      </div>
    </>
  );
}

function Systems({ view }: { view: SettingsView }) {
  const overview = useRead("getOverview", {});
  const others = (overview.data?.sources ?? []).filter(
    (source) => !view.systems.some((system) => system.name === source.name),
  );
  return (
    <Card title="Systems" note="how fresh, and what they do not let Keyroll do">
      <ul className="rows">
        {others.map((source) => (
          <li key={source.name}>
            <b>{source.title}</b>{" "}
            <Tag
              tone={source.stale || source.failing > 0 ? "amber" : "green"}
              icon={source.stale || source.failing > 0 ? "warn" : "check"}
            >
              {source.failing > 0 ? `${source.failing} of ${source.places} failing` : source.stale ? "Stale" : "Seen"}
            </Tag>
            <p className="mut small">
              {count(source.places, "place")} without a system of their own,{" "}
              {source.seen === null ? (
                "never seen"
              ) : (
                <>
                  oldest look <Time at={source.seen} />
                </>
              )}
            </p>
            {source.error === null ? null : <div className="cx">{source.error}</div>}
          </li>
        ))}
        {view.systems.map((system) => (
          <li key={system.name}>
            <b>{system.name}</b>{" "}
            <Tag
              tone={system.stale || system.failing.length > 0 ? "amber" : "green"}
              icon={system.stale || system.failing.length > 0 ? "warn" : "check"}
            >
              {system.failing.length > 0
                ? `${system.failing.length} of ${system.places} failing`
                : system.stale
                  ? "Stale"
                  : "Seen"}
            </Tag>
            <p className="mut small">
              {system.title}, {count(system.places, "place")},{" "}
              {system.seen === null ? (
                "never seen"
              ) : (
                <>
                  seen <Time at={system.seen} />
                </>
              )}
            </p>
            {system.failing.map((each) => (
              <div className="cx" key={`${each.credential} ${each.place}`}>
                <b>{each.place}</b> of{" "}
                <Link to="/inventory" search={{ item: each.credential }}>
                  {each.credential}
                </Link>
                : {each.error}
                {each.needs.length === 0 ? null : <p>It needs: {each.needs.join("; ")}</p>}
              </div>
            ))}
          </li>
        ))}
      </ul>
    </Card>
  );
}

const levels = {
  ok: { icon: "check", tone: "c-green", word: "Right" },
  warn: { icon: "warn", tone: "c-amber", word: "Look at it" },
  fail: { icon: "x", tone: "c-red", word: "Wrong" },
} as const;

function Finding({ finding }: { finding: DoctorView["findings"][number] }) {
  const { icon, tone, word } = levels[finding.level];
  return (
    <li>
      <span className={tone}>
        <Icon name={icon} />
        <span className="sr">{word}: </span>
      </span>
      <b>{finding.what}</b>
      <p>{finding.detail}</p>
      {finding.fix === null ? null : <p>{finding.fix}</p>}
    </li>
  );
}

function Doctor() {
  const session = useSession();
  const run = useMutation({ mutationFn: () => client.call("runDoctor", { body: {} }) });
  if (!may(session.data, "administer", "*")) return null;
  return (
    <Card
      title="Doctor"
      note="changes nothing"
      side={
        <button type="button" className="btn" disabled={run.isPending} onClick={() => run.mutate()}>
          {run.isPending ? "Looking" : "Look at everything"}
        </button>
      }
    >
      {run.error === null ? null : <ProblemNote error={run.error} />}
      {run.data === undefined ? (
        <p className="body mut">
          Looks at everything that has to be right: the database, keys, clocks, permissions, every place.
        </p>
      ) : (
        <>
          <div className="body" role="status">
            <Note tone={run.data.ok ? "green" : "red"} icon={run.data.ok ? "check" : "warn"}>
              <b>{run.data.ok ? "Nothing is wrong." : "Something is wrong."}</b> Looked <Time at={run.data.at} />.
            </Note>
          </div>
          <ul className="findings">
            {run.data.findings.map((finding, i) => (
              <Finding key={i} finding={finding} />
            ))}
          </ul>
        </>
      )}
    </Card>
  );
}

function Installation({ view }: { view: SettingsView }) {
  const { estate, store, keys } = view;
  return (
    <>
      <Card title="Estate" note={count(estate.credentials, "credential")}>
        <dl className="kv body">
          <dt>Files</dt>
          <dd className="mono">{estate.files.join(", ")}</dd>
          <dt>Revision</dt>
          <dd>
            {estate.revision ?? "–"} <span className="mono mut">{estate.digest.slice(0, 12)}</span>
          </dd>
          <dt>Applied</dt>
          <dd>
            {estate.appliedAt === null ? "–" : <Time at={estate.appliedAt} as="both" />}
            {estate.appliedBy === null ? "" : ` by ${estate.appliedBy}`}
          </dd>
          <dt>Looks every</dt>
          <dd>{formatDuration(estate.observeEveryMs)}</dd>
          {estate.notes.map((note) => (
            <dd key={note} className="mut">
              {note}
            </dd>
          ))}
        </dl>
      </Card>
      <Card title="Workers, store and keys">
        <dl className="kv body">
          <dt>Workers</dt>
          <dd>
            {view.workers.length === 0 ? <span className="c-amber">none: nothing goes on</span> : null}
            {view.workers.map((worker) => (
              <div key={worker.id}>
                {worker.id} on {worker.host}, seen <Time at={worker.seen} />
              </div>
            ))}
          </dd>
          <dt>Store</dt>
          <dd>
            {store.where}, PostgreSQL {store.serverVersion}
            {store.kind === "embedded" ? ", started by Keyroll" : ""}
          </dd>
          <dt>Key</dt>
          <dd>
            <span className="mono">{keys.current}</span>, {keys.origin}, seals {count(keys.records, "record")}
            {keys.interrupted ? <span className="c-amber">, a change of key was interrupted</span> : null}
          </dd>
          <dt>Version</dt>
          <dd>Keyroll {view.version}</dd>
        </dl>
      </Card>
      <Card title="Connectors" note={String(view.connectors.length)}>
        <details className="body">
          <summary>What each needs to be allowed</summary>
          <ul className="small stack">
            {view.connectors.map((connector) => (
              <li key={`${connector.family} ${connector.type}`}>
                <b>{connector.title}</b> <span className="mono mut">{connector.type}</span>
                <br />
                <span className="mut">
                  {connector.permissions.length === 0 ? "nothing more" : connector.permissions.join("; ")}
                </span>
              </li>
            ))}
          </ul>
        </details>
      </Card>
    </>
  );
}

function Browser() {
  const theme = usePreference("theme");
  const keys = usePreference("keys");
  const session = useSession();
  const signOut = async () => {
    await client.call("signOut");
    closeLive();
    forget();
    location.reload();
  };
  return (
    <Card title="This browser">
      <div className="body stack">
        <label htmlFor="theme">Theme</label>
        <select
          id="theme"
          value={theme ?? ""}
          onChange={(event) => setPreference("theme", event.target.value === "" ? null : event.target.value)}
        >
          <option value="">As the system</option>
          <option value="light">Light</option>
          <option value="dark">Dark</option>
        </select>
        <label htmlFor="keys">Keyboard shortcuts</label>
        <select
          id="keys"
          value={keys ?? "on"}
          onChange={(event) => setPreference("keys", event.target.value === "off" ? "off" : null)}
        >
          <option value="on">On: / searches; g then o, i, r, t, a or s opens a page</option>
          <option value="off">Off</option>
        </select>
        <p className="mut small">
          Signed in as {session.data?.name ?? session.data?.person}
          {session.data?.expires == null ? null : (
            <>
              , until <Time at={session.data.expires} as="moment" />
            </>
          )}
          .
        </p>
        <button type="button" className="btn" onClick={() => void signOut()}>
          <Icon name="out" />
          Sign out
        </button>
      </div>
    </Card>
  );
}
