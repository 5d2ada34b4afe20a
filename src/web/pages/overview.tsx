/** Is anything wrong, and what must be started next? */
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useLayoutEffect, useMemo, useRef, useState } from "react";
import type { Overview as View } from "../../server/schema.ts";
import { useRead } from "../api.ts";
import { Icon, type IconName } from "../icon.tsx";
import { useLive } from "../live.ts";
import { useNow } from "../now.ts";
import { Answer, Card, Fingerprint, MarkTag, Note, PathLink, Tag, Time, useTitle } from "../parts.tsx";
import { layoutTimeline, type Bar } from "../timeline.ts";
import { dayOf, exactOf, momentOf, msOf, relativeOf, roughly } from "../time.ts";
import { count, dueMark, dueMarks, versionName, type Tone } from "../words.ts";

const countMarks: Readonly<Record<View["counts"][number]["id"], { icon: IconName; tone: Tone }>> = {
  expired: { icon: "x", tone: "red" },
  late: { icon: "clock", tone: "amber" },
  "out-of-step": { icon: "diff", tone: "red" },
  waiting: { icon: "user", tone: "human" },
  rotating: { icon: "rot", tone: "run" },
};

export function Overview() {
  useTitle("Overview");
  const query = useRead("getOverview", {});
  return (
    <Answer query={query} what="the overview" rows={5}>
      {(view) => <Shown view={view} failed={query.error !== null} atMs={query.dataUpdatedAt} />}
    </Answer>
  );
}

function Shown({ view, failed, atMs }: { view: View; failed: boolean; atMs: number }) {
  const nowMs = useNow();
  const live = useLive();
  const old = failed || (live.state === "lost" && nowMs - atMs > 10_000);
  if (view.verdict.level === "empty") return <Nothing view={view} />;
  return (
    <div className="over">
      <section className="verdict">
        <h1>
          {/* What may have changed since is said as what was. */}
          {old && view.verdict.level === "fine"
            ? `At ${momentOf(msOf(view.at), nowMs)} nothing had to be started. It is not known how it is now.`
            : view.verdict.sentence}
        </h1>
        <p>{view.verdict.more}</p>
      </section>
      {old ? (
        <Note tone="amber" icon="clock">
          <b>This is what was true at {momentOf(msOf(view.at), nowMs)}.</b>
          <p>No newer answer has come since. It is asked for again by itself.</p>
        </Note>
      ) : null}
      <nav className="card stats" aria-label="Summary, each opens a list">
        {view.counts.map((each) => (
          <PathLink key={each.id} to={each.link}>
            <b className={each.count === 0 ? "zero" : `c-${countMarks[each.id].tone}`}>
              <Icon name={countMarks[each.id].icon} size={17} />
              {each.count}
            </b>
            <span>{each.label}</span>
          </PathLink>
        ))}
      </nav>
      <Timeline view={view} />
      <div className="cols">
        <DoNext view={view} />
        <div className="pile">
          <OutOfStep view={view} />
          <Fresh view={view} />
        </div>
      </div>
    </div>
  );
}

function Nothing({ view }: { view: View }) {
  return (
    <>
      <section className="verdict">
        <h1>{view.verdict.sentence}</h1>
        <p>{view.verdict.more}</p>
      </section>
      <div className="starts">
        <section className="card">
          <h2>Declare a credential</h2>
          <p className="mut">
            Name it in <code className="mono">keyroll.yaml</code> with the places that hold it and the places that trust
            it. <code className="mono">keyroll init</code> writes a first one.
          </p>
        </section>
        <section className="card">
          <h2>Look for certificates</h2>
          <p className="mut">
            <code className="mono">keyroll scan</code> reads files and endpoints, and proposes what to declare.
          </p>
        </section>
        <section className="card">
          <h2>Try it first</h2>
          <p className="mut">
            <code className="mono">keyroll demo</code> rolls two real credentials on a small estate of its own.
          </p>
        </section>
      </div>
    </>
  );
}

function useWidth(): [React.RefObject<HTMLDivElement | null>, number] {
  const ref = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(1100);
  useLayoutEffect(() => {
    const element = ref.current;
    if (element === null) return;
    const observer = new ResizeObserver(([entry]) => {
      const wide = Math.round(entry?.contentRect.width ?? 0);
      if (wide > 0) setWidth(wide);
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

function Timeline({ view }: { view: View }) {
  const { view: shown } = useSearch({ strict: false }) as { view?: string };
  const navigate = useNavigate();
  const asTable = shown === "table";
  const nowMs = useNow();
  const toggle = (
    <button
      type="button"
      className="btn ghost tlink"
      onClick={() => void navigate({ to: "/", search: asTable ? {} : { view: "table" }, replace: true })}
    >
      {asTable ? "View as timeline" : "View as table"}
    </button>
  );
  if (view.timeline.length === 0)
    return (
      <Card title="What must start, and when" className="tl">
        <p className="body mut">No credential has an expiry or a greatest age, so nothing has to start by itself.</p>
      </Card>
    );
  return (
    <Card
      title="What must start, and when"
      note={asTable ? undefined : "Each bar runs from the last safe start to the expiry"}
      side={toggle}
      className="tl"
    >
      {asTable ? (
        <TimelineTable view={view} />
      ) : (
        <>
          <Chart view={view} nowMs={nowMs} />
          <div className="m-tl">
            <ol>
              {view.timeline.slice(0, 6).map((item) => {
                const start = item.lastSafeStart ?? item.startBy;
                return (
                  <li key={item.credential}>
                    <b className={dueMark(item).tone === "green" ? "mut" : `c-${dueMark(item).tone}`}>
                      {start === null ? "" : <Time at={start} as="day" />}
                    </b>
                    <span>
                      <Link to="/inventory" search={{ item: item.credential }}>
                        <b>{item.credential}</b>
                      </Link>
                      <br />
                      <span className="mut">
                        {item.owner} · {dueMark(item).word.toLowerCase()}
                        {start === null || msOf(start) < nowMs ? "" : `, start ${relativeOf(msOf(start), nowMs)}`}
                      </span>
                    </span>
                  </li>
                );
              })}
            </ol>
          </div>
          <div className="legend" aria-hidden="true">
            <span>
              <i className="k-bar" />
              Time the rotation needs
            </span>
            <span>
              <i className="k-bar k-late" />
              Late to start
            </span>
            <span>
              <i className="k-bar k-run" />
              Rotation running
            </span>
            <span>
              <i className="k-dot" />
              Expires
            </span>
            <span>
              <i className="k-diamond" />
              Start by, without an expiry
            </span>
            <span>
              <i className="k-group" />
              Group of many
            </span>
          </div>
        </>
      )}
      {view.timelineMore === 0 ? null : (
        <p className="body mut">
          {count(view.timelineMore, "later date")} not drawn: <Link to="/inventory">see the inventory</Link>.
        </p>
      )}
    </Card>
  );
}

function Chart({ view, nowMs }: { view: View; nowMs: number }) {
  const [ref, width] = useWidth();
  // The lines move by less than a pixel in a minute.
  const atMs = Math.floor(nowMs / 60_000) * 60_000;
  const layout = useMemo(
    () => layoutTimeline(view.timeline, atMs, width, (ms) => dayOf(ms, atMs)),
    [view.timeline, atMs, width],
  );
  const { height, left, nowX } = layout;
  return (
    <div className="d-tl" ref={ref}>
      <svg
        className="chart"
        viewBox={`0 0 ${width} ${height}`}
        height={height}
        role="group"
        aria-label={`Timeline of ${count(view.timeline.length, "credential")}; the same is in the table view`}
      >
        <defs>
          <pattern id="stripes" width="7" height="8" patternUnits="userSpaceOnUse">
            <rect width="4" height="8" fill="var(--runf)" />
          </pattern>
        </defs>
        <rect x={left} y={28} width={Math.max(0, nowX - left)} height={height - 34} fill="var(--s2)" />
        {layout.ticks.map((tick) => (
          <g key={tick.ms}>
            <line x1={tick.x} x2={tick.x} y1={28} y2={height - 6} stroke="var(--line)" />
            <text className="ax" x={tick.x} y={18} textAnchor="middle">
              {tick.ms - atMs < 86_400_000 ? momentOf(tick.ms, atMs) : dayOf(tick.ms, atMs)}
            </text>
          </g>
        ))}
        <line x1={nowX} x2={nowX} y1={24} y2={height - 6} stroke="var(--acc)" strokeWidth="2" />
        <text x={nowX} y={18} textAnchor="middle" className="l-run">
          Today
        </text>
        {layout.rows.map((row, i) => (
          <g key={row.owner}>
            {i === 0 ? null : <line x1={0} x2={width} y1={row.y - 6} y2={row.y - 6} stroke="var(--line)" />}
            <text className="ln" x={16} y={row.y + row.height / 2 - 2}>
              {row.owner.length > 16 ? `${row.owner.slice(0, 15)}…` : row.owner}
              <title>{row.owner}</title>
            </text>
            {row.bars.map((bar) => (
              <BarMark key={bar.items[0]!.credential} bar={bar} y={row.y + bar.lane * 46} nowMs={atMs} />
            ))}
          </g>
        ))}
      </svg>
    </div>
  );
}

function BarMark({ bar, y, nowMs }: { bar: Bar; y: number; nowMs: number }) {
  const first = bar.items[0]!;
  const mark = dueMark(first);
  const tone = bar.items.length > 1 ? "plain" : mark.tone;
  const at = (first.expires ?? first.startBy ?? first.lastSafeStart)!;
  const cy = y + 29;
  const many = bar.items.length > 1;
  const said = [
    bar.label,
    many ? "" : mark.word,
    first.lastSafeStart === null ? "" : `last safe start ${exactOf(msOf(first.lastSafeStart))}`,
    first.expires === null ? `start by ${exactOf(msOf(at))}` : `expires ${exactOf(msOf(at))}`,
  ];
  const drawn = (
    <>
      <title>{said.filter((each) => each !== "").join(", ")}</title>
      {bar.x1 - bar.x0 < 1 ? null : (
        <rect
          x={bar.x0}
          y={cy - 4}
          width={bar.x1 - bar.x0}
          height={8}
          rx={4}
          className={tone === "run" ? undefined : `b-${tone}`}
          {...(tone === "run" ? { fill: "url(#stripes)" } : {})}
        />
      )}
      {many ? (
        <>
          <circle cx={bar.x1} cy={cy} r={11} fill="var(--s1)" stroke="var(--ink)" strokeWidth={1.6} />
          <text className="in" x={bar.x1} y={cy + 4} textAnchor="middle">
            {bar.items.length}
          </text>
        </>
      ) : first.expires === null ? (
        <rect
          x={bar.x1 - 4.5}
          y={cy - 4.5}
          width={9}
          height={9}
          transform={`rotate(45 ${bar.x1} ${cy})`}
          className={`d-${tone}`}
          stroke="var(--s1)"
          strokeWidth={1.5}
        />
      ) : (
        <circle cx={bar.x1} cy={cy} r={5.5} className={`d-${tone}`} stroke="var(--s1)" strokeWidth={2} />
      )}
      <text
        x={bar.labelX}
        y={cy - (many ? 16 : 12)}
        textAnchor={bar.anchor}
        className={tone === "plain" || tone === "green" ? undefined : `l-${tone}`}
      >
        {bar.label} <tspan className="ax">{dayOf(msOf(at), nowMs)}</tspan>
      </text>
    </>
  );
  return many ? (
    <Link
      to="/inventory"
      search={{ q: `owner:${/\s/.test(first.owner) ? `"${first.owner}"` : first.owner}`, sort: "lastSafeStart" }}
    >
      {drawn}
    </Link>
  ) : (
    <Link to="/inventory" search={{ item: first.credential }}>
      {drawn}
    </Link>
  );
}

function TimelineTable({ view }: { view: View }) {
  const nowMs = useNow();
  return (
    <div className="scroll-x" role="region" aria-label="What must start, as a table" tabIndex={0}>
      <table className="plain">
        <thead>
          <tr>
            <th scope="col">Credential</th>
            <th scope="col">State</th>
            <th scope="col">Last safe start</th>
            <th scope="col">Needs</th>
            <th scope="col">Expires</th>
          </tr>
        </thead>
        <tbody>
          {view.timeline.map((item) => {
            const start = item.lastSafeStart ?? item.startBy;
            return (
              <tr key={item.credential}>
                <th scope="row">
                  <Link to="/inventory" search={{ item: item.credential }}>
                    {item.credential}
                  </Link>{" "}
                  <span className="mut">{item.owner}</span>
                </th>
                <td>
                  <MarkTag mark={dueMark(item)} />
                </td>
                <td>{start === null ? "–" : <Time at={start} as="both" />}</td>
                <td>{item.neededMs === null ? "not known" : roughly(item.neededMs)}</td>
                <td>
                  {item.expires === null
                    ? "never"
                    : `${dayOf(msOf(item.expires), nowMs)}, ${relativeOf(msOf(item.expires), nowMs)}`}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

type Next = View["doNext"][number];
const nextMarks: Readonly<Record<Next["action"], { word: string; tone: Tone | null; icon: IconName | null }>> = {
  preview: { word: "Preview plan", tone: null, icon: null },
  "open-task": { word: "Open task", tone: "human", icon: "user" },
  approve: { word: "Review", tone: "human", icon: "user" },
  "open-rotation": { word: "Open", tone: null, icon: null },
  look: { word: "Look", tone: null, icon: null },
};

function DoNext({ view }: { view: View }) {
  return (
    <Card title="Do next" note="by last safe start" className="next">
      {view.doNext.length === 0 ? (
        <p className="body mut">
          {view.stale || view.verdict.level === "unknown"
            ? "Nothing that is known of. Some of what is known is old."
            : "Nothing."}
        </p>
      ) : (
        <ol>
          {view.doNext.map((each, i) => {
            const mark = nextMarks[each.action];
            const due = dueMarks[each.state];
            return (
              <li key={`${each.credential} ${each.action}`}>
                <div>
                  <h3>
                    {each.credential}{" "}
                    <Tag
                      tone={each.headline === "Stopped" ? "red" : (mark.tone ?? due.tone)}
                      icon={mark.icon ?? due.icon}
                    >
                      {each.headline}
                    </Tag>
                  </h3>
                  <p>{each.detail}</p>
                </div>
                {each.action === "preview" ? (
                  <Link
                    to="/credentials/$name/plan"
                    params={{ name: each.credential }}
                    search={each.state === "compromised" ? { mode: "breach" } : {}}
                    className={i === 0 ? "btn pri" : "btn"}
                  >
                    {mark.word}
                    <span className="sr"> of {each.credential}</span>
                  </Link>
                ) : (
                  <PathLink to={each.link} className={i === 0 ? "btn pri" : "btn"}>
                    {mark.word}
                    <span className="sr"> for {each.credential}</span>
                  </PathLink>
                )}
              </li>
            );
          })}
        </ol>
      )}
    </Card>
  );
}

function OutOfStep({ view }: { view: View }) {
  if (view.outOfStep.length === 0) return null;
  const total = view.outOfStep.length + view.outOfStepMore;
  return (
    <Card title="Copies out of step" note={count(total, "credential")}>
      {view.outOfStep.map((each) => (
        <table className="plain" key={each.credential}>
          <thead>
            <tr>
              <th scope="col">
                <Link to="/inventory" search={{ item: each.credential }}>
                  {each.credential}
                </Link>
              </th>
              <th scope="col">Holds</th>
            </tr>
          </thead>
          <tbody>
            {each.copies.map((copy) => (
              <tr key={copy.place}>
                <th scope="row">
                  <span className="cp">
                    <i className={copy.inStep === null ? "sq unseen" : copy.inStep ? "sq" : "sq old"} />
                    {copy.place}
                  </span>
                </th>
                <td className={copy.inStep === false ? "c-red" : ""}>
                  {copy.has === null ? "not known" : versionName(copy.has)}{" "}
                  {copy.fingerprint === copy.has || copy.fingerprint === "unknown" ? null : (
                    <Fingerprint value={copy.fingerprint} />
                  )}
                  {copy.inStep === null ? ", not seen lately" : copy.inStep ? " current" : ""}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ))}
      {view.outOfStepMore === 0 ? null : (
        <p className="body">
          <Link to="/inventory" search={{ q: "state:out-of-step" }}>
            {count(view.outOfStepMore, "more")}
          </Link>
        </p>
      )}
    </Card>
  );
}

function Fresh({ view }: { view: View }) {
  const nowMs = useNow();
  return (
    <Card
      title="How fresh this is"
      note={
        view.seen === null ? undefined : (
          <>
            oldest look <Time at={view.seen} />
          </>
        )
      }
    >
      <ul className="fresh">
        {view.sources.map((source) => {
          const age = source.seen === null ? "never seen" : roughly(Math.max(0, nowMs - msOf(source.seen)));
          const bad = source.stale || source.failing > 0;
          return (
            <li key={source.name}>
              <span className={`tag t-${bad ? "amber" : "green"}`} title={source.error ?? source.title}>
                <Icon name={bad ? "warn" : "check"} size={12} />
                {source.name} {age}
                {source.failing > 0 ? `, ${source.failing} of ${source.places} failing` : ""}
              </span>
            </li>
          );
        })}
        {view.sources.length === 0 ? <li className="mut">No place is looked at.</li> : null}
      </ul>
    </Card>
  );
}
