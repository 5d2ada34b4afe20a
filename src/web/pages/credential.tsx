/** One credential beside the list: its copies, its dates, its versions and its history, and the way to a plan. */
import { useMutation } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect, useId, useRef } from "react";
import type { CredentialDetail } from "../../server/schema.ts";
import { client, queries, useRead } from "../api.ts";
import { Icon } from "../icon.tsx";
import { Answer, Fingerprint, MarkTag, Note, ProblemNote, Time } from "../parts.tsx";
import { formatDuration } from "../time.ts";
import { capital, count, dueMark, phaseWords, fromTo, rotationMark, versionName } from "../words.ts";

export function CredentialPanel({ name, onClose }: { name: string; onClose: () => void }) {
  const query = useRead("getCredential", { params: { name } });
  const title = useRef<HTMLHeadingElement>(null);
  const id = useId();
  useEffect(() => {
    title.current?.focus();
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape" && document.querySelector("dialog[open]") === null) onClose();
    };
    document.addEventListener("keydown", onKey);
    return () => {
      document.removeEventListener("keydown", onKey);
      document.getElementById(`row-${name}`)?.focus();
    };
    // Once for each credential; the handler reads what is there when it runs.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [name]);
  return (
    <section className="card panel" aria-labelledby={id}>
      <header>
        <h2 id={id} ref={title} tabIndex={-1}>
          {name}
        </h2>
        <button type="button" className="btn ghost" onClick={onClose} aria-label="Close">
          <Icon name="x" />
        </button>
      </header>
      <Answer query={query} what={name}>
        {(view) => <Detail view={view} />}
      </Answer>
    </section>
  );
}

function Detail({ view }: { view: CredentialDetail }) {
  const look = useMutation({
    mutationFn: () => client.call("observeCredential", { params: { name: view.name }, body: {} }),
    onSettled: () =>
      Promise.all([
        queries.invalidateQueries({ queryKey: ["getCredential"] }),
        queries.invalidateQueries({ queryKey: ["listCredentials"] }),
        queries.invalidateQueries({ queryKey: ["getOverview"] }),
      ]),
  });
  const running = view.rotation;
  const { policy } = view;
  return (
    <>
      <div className="body pile">
        <p>
          <MarkTag mark={dueMark(view)} /> {capital(view.reason)}.
        </p>
        <div className="go">
          {running === null ? (
            <Link to="/credentials/$name/plan" params={{ name: view.name }} className="btn pri">
              Preview plan
            </Link>
          ) : (
            <Link to="/rotations/$id" params={{ id: running.id }} className="btn pri">
              Open the rotation
            </Link>
          )}
          {view.model || !view.can.includes("plan") ? null : (
            <button type="button" className="btn" disabled={look.isPending} onClick={() => look.mutate()}>
              {look.isPending ? "Looking" : "Look now"}
            </button>
          )}
          {running === null && view.can.includes("plan") ? (
            <Link to="/credentials/$name/plan" params={{ name: view.name }} search={{ mode: "breach" }} className="btn">
              It has leaked
            </Link>
          ) : null}
        </div>
        {look.error === null ? null : <ProblemNote error={look.error} />}
        {view.stale ? (
          <Note tone="amber" icon="clock">
            <b>Last seen {view.seen === null ? "never" : <Time at={view.seen} />}.</b> What is shown may have changed.
          </Note>
        ) : null}
      </div>
      <div className="sect">
        <h3>
          Places, {view.inStep} of {view.copies} copies in step
        </h3>
        <ul className="copies">
          {view.placeList.map((place) => (
            <li key={place.name}>
              <i
                className={place.inStep === null ? "sq unseen" : place.inStep ? "sq" : "sq old"}
                title={place.inStep === null ? "not a copy, or not seen" : place.inStep ? "in step" : "out of step"}
              />
              <span>
                {place.name}
                {place.inStep === false ? <span className="c-red"> out of step</span> : null}
              </span>
              <small>
                {place.title}
                {place.system === null ? "" : `, ${place.system}`} · {place.roles.join(", ")}
                {place.current === null
                  ? ""
                  : place.current === "unknown"
                    ? " · has a value that Keyroll does not know"
                    : ` · has ${versionName(place.current)}`}{" "}
                ·{" "}
                {place.seen === null ? (
                  "never seen"
                ) : (
                  <>
                    seen <Time at={place.seen} />
                  </>
                )}
                {place.human ? " · a person does it" : ""}
              </small>
              {place.error === null ? null : <small className="c-red">{place.error}</small>}
            </li>
          ))}
        </ul>
      </div>
      <div className="sect">
        <h3>Dates and policy</h3>
        <dl className="kv">
          <dt>Expires</dt>
          <dd>{view.expires === null ? "never" : <Time at={view.expires} as="both" />}</dd>
          <dt>Last safe start</dt>
          <dd>{view.lastSafeStart === null ? "–" : <Time at={view.lastSafeStart} as="both" />}</dd>
          {view.startBy === null ? null : (
            <>
              <dt>Start by</dt>
              <dd>
                <Time at={view.startBy} as="both" />
              </dd>
            </>
          )}
          <dt>Needs</dt>
          <dd>{view.neededMs === null ? "not known" : formatDuration(view.neededMs)}</dd>
          <dt>Owner</dt>
          <dd>{view.owner}</dd>
          <dt>Issued by</dt>
          <dd>{view.issuer.title}</dd>
          <dt>Soak</dt>
          <dd>{formatDuration(policy.soakMs)}</dd>
          {Object.keys(policy.approvals).length === 0 ? null : (
            <>
              <dt>Approvals</dt>
              <dd>
                {Object.entries(policy.approvals)
                  .map(([phase, n]) => `${phaseWords[phase] ?? phase}: ${count(n ?? 0, "person", "people")}`)
                  .join(", ")}
              </dd>
            </>
          )}
          {policy.windows.length === 0 ? null : (
            <>
              <dt>Windows</dt>
              <dd>{policy.windows.join("; ")}</dd>
            </>
          )}
          <dt>Declared</dt>
          <dd className="mono">{view.source}</dd>
        </dl>
      </div>
      {view.data.length === 0 ? null : (
        <div className="sect">
          <h3>Data under it</h3>
          <ul className="small">
            {view.data.map((each) => (
              <li key={each.name}>
                {each.name}, written under it at {each.writtenUnder}, read by {each.readBy.join(", ")}
              </li>
            ))}
          </ul>
        </div>
      )}
      <div className="sect">
        <h3>Versions</h3>
        {view.versions.length === 0 ? <p className="mut small">None yet: a start takes in what is there.</p> : null}
        <ul className="copies">
          {view.versions.slice(0, 8).map((version) => (
            <li key={version.id}>
              <Icon
                name={version.state === "current" ? "check" : version.state === "compromised" ? "warn" : "clock"}
                size={13}
              />
              <span>
                {versionName(version.id)} <span className="mut">{version.state}</span>{" "}
                <Fingerprint value={version.fingerprint} />
              </span>
              <small>
                made <Time at={version.created} as="day" />
                {version.expires === null ? (
                  ""
                ) : (
                  <>
                    , expires <Time at={version.expires} as="day" />
                  </>
                )}
              </small>
            </li>
          ))}
        </ul>
        {view.versions.length > 8 ? (
          <p className="mut small">{view.versions.length - 8} older ones are in the audit.</p>
        ) : null}
      </div>
      <div className="sect">
        <h3>Rotations</h3>
        {view.rotations.length === 0 ? <p className="mut small">None yet.</p> : null}
        <ul className="copies">
          {view.rotations.slice(0, 5).map((row) => (
            <li key={row.id}>
              <Icon name={rotationMark(row).icon} size={13} />
              <Link to="/rotations/$id" params={{ id: row.id }}>
                {fromTo(row.from, row.to)}, {rotationMark(row).word.toLowerCase()}
              </Link>
              <small>
                <Time at={row.started} as="both" /> by {row.startedBy}
              </small>
            </li>
          ))}
        </ul>
        <p className="small">
          <Link to="/audit" search={{ credential: view.name }}>
            All about it in the audit
          </Link>
        </p>
      </div>
    </>
  );
}
