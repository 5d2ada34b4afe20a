/** The plan before it runs: the same page as the run, with estimates instead of times, and a start that names exactly this plan. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useRef, useState, type FormEvent } from "react";
import type { PlanPreview } from "../../server/schema.ts";
import { client, queries } from "../api.ts";
import { Icon } from "../icon.tsx";
import { Answer, Dialog, Note, ProblemNote, Tag, Time, useTitle } from "../parts.tsx";
import { ProofPanel } from "../proof.tsx";
import { may, useSession } from "../session.ts";
import { StepTable } from "../steps.tsx";
import { formatDuration, msOf } from "../time.ts";
import { count, fromTo, hasWayBack, short, versionName } from "../words.ts";

type Option = PlanPreview["options"][number];
const strategies = {
  "availability-first": {
    name: "Availability first",
    says: "Everybody gets the new version, then the old one is refused.",
  },
  "contain-first": {
    name: "Contain first",
    says: "The old version is refused at once; who still uses it is refused too.",
  },
} as const;

export function PlanPage() {
  const { name } = useParams({ strict: false }) as { name: string };
  const search = useSearch({ strict: false }) as { mode?: string; strategy?: string };
  const mode = search.mode === "breach" ? "breach" : "planned";
  useTitle(mode === "breach" ? `Replace ${name}` : `Rotate ${name}`);
  const query = useQuery({
    queryKey: ["planRotation", name, mode],
    queryFn: ({ signal }) => client.call("planRotation", { params: { name }, body: { mode } }, { signal }),
    // It looks at every place: asked for when it is opened, not at every change of window.
    staleTime: 60_000,
    refetchOnWindowFocus: false,
    gcTime: 0,
  });
  return (
    <>
      <p className="crumb">
        <Link to="/inventory" search={{ item: name }}>
          {name}
        </Link>{" "}
        / plan
      </p>
      <Answer query={query} what={`the plan for ${name}; every place is looked at`} rows={7}>
        {(preview) => (
          <Preview
            preview={preview}
            breach={mode === "breach"}
            strategy={search.strategy}
            again={() => void query.refetch()}
            busy={query.isFetching}
          />
        )}
      </Answer>
    </>
  );
}

function Preview({
  preview,
  breach,
  strategy,
  again,
  busy,
}: {
  preview: PlanPreview;
  breach: boolean;
  strategy: string | undefined;
  again: () => void;
  busy: boolean;
}) {
  const navigate = useNavigate();
  const session = useSession();
  const [asking, setAsking] = useState(false);
  const option = preview.options.find((each) => each.plan.strategy === strategy) ?? preview.options[0];
  const first = useRef(option?.plan.digest);
  if (option === undefined)
    return (
      <Note tone="plain" icon="help">
        There is nothing to plan.
      </Note>
    );
  const { plan } = option;
  const allowed = may(session.data, "operate", plan.owner);
  const changed = first.current !== plan.digest && !breach;
  return (
    <div className="run">
      <header className="hd">
        <div>
          <h1>{breach ? `Replace ${plan.credential}, which has leaked` : `Rotate ${plan.credential}`}</h1>
          <div className="meta">
            <Tag tone={option.startable ? "run" : "plain"} icon={option.startable ? "play" : "lock"}>
              {option.startable ? "Not started" : "Cannot be started"}
            </Tag>
            <span>{fromTo(plan.from, plan.to)}</span>
            <span>{count(plan.steps.length, "step")}</span>
            <span>About {formatDuration(plan.estimateMs)}</span>
            <span>
              Plan{" "}
              <span className="mono" title={plan.digest}>
                {short(plan.digest)}
              </span>
            </span>
            <span>
              seen <Time at={preview.at} />
            </span>
          </div>
        </div>
        <div className="act">
          <button type="button" className="btn" onClick={again} disabled={busy}>
            <Icon name="rot" />
            {busy ? "Looking" : "Plan again"}
          </button>
          {allowed ? (
            <button
              type="button"
              className={breach ? "btn danger" : "btn pri"}
              disabled={!option.startable}
              onClick={() => setAsking(true)}
            >
              <Icon name="play" />
              Start
            </button>
          ) : null}
        </div>
      </header>
      {changed ? (
        <Note tone="amber" icon="warn">
          <b>The plan has changed since you opened this page.</b> It was {short(first.current!)}; read it again before
          you start it.
        </Note>
      ) : null}
      {option.startable || option.whyNot === null ? null : (
        <Note tone="amber" icon="lock">
          <b>{option.whyNot}</b>
        </Note>
      )}
      {allowed ? null : (
        <Note tone="plain" icon="lock">
          You may read this plan. Starting it needs the operator role for {plan.owner}.
        </Note>
      )}
      {preview.unseenBecause.length === 0 ? null : (
        <Note tone="amber" icon="warn">
          <b>Not every place was seen.</b>
          {preview.unseenBecause.map((text) => (
            <p key={text}>{text}</p>
          ))}
        </Note>
      )}
      {preview.adopted.length === 0 ? null : (
        <Note tone="run" icon="help">
          <b>A start takes in what is already there:</b>{" "}
          {preview.adopted.map((each) => `${versionName(each.version)} from ${each.place}`).join(", ")}.
        </Note>
      )}
      {preview.options.length < 2 ? null : (
        <fieldset className="choice">
          <legend>What matters more?</legend>
          {preview.options.map((each) => (
            <label className="card" key={each.plan.strategy}>
              <input
                type="radio"
                name="strategy"
                value={each.plan.strategy}
                checked={each === option}
                onChange={() =>
                  void navigate({
                    to: "/credentials/$name/plan",
                    params: { name: plan.credential },
                    search: { mode: "breach", strategy: each.plan.strategy },
                    replace: true,
                  })
                }
              />
              <span>
                {strategies[each.plan.strategy].name}
                <br />
                <span className="mut small">{strategies[each.plan.strategy].says}</span>
              </span>
              <dl className="kv">
                <dt>Old one works for</dt>
                <dd>
                  {each.exposureMs === null
                    ? "not known: nobody who checks it is declared"
                    : `about ${formatDuration(each.exposureMs)}`}
                </dd>
                <dt>May be refused for</dt>
                <dd>{each.outageMs === 0 ? "nobody is refused" : `up to ${formatDuration(each.outageMs)}`}</dd>
              </dl>
            </label>
          ))}
        </fieldset>
      )}
      {plan.expires === null && plan.lastSafeStart === null ? null : <Deadline option={option} at={preview.at} />}
      <div className="grid">
        <StepTable plan={plan} states={null} />
        <div className="pile">
          <ProofPanel plan={plan} />
        </div>
      </div>
      {asking ? <Start option={option} onClose={() => setAsking(false)} /> : null}
    </div>
  );
}

function Deadline({ option, at }: { option: Option; at: string }) {
  const { plan } = option;
  const late = plan.lastSafeStart !== null && msOf(plan.lastSafeStart) <= msOf(at);
  return (
    <section className="card budget" aria-label="Dates">
      <div className="lab">
        <span>
          {plan.lastSafeStart === null ? null : late ? (
            <b className="c-red">
              The last safe start was <Time at={plan.lastSafeStart} as="both" />: it may not finish before expiry.
            </b>
          ) : (
            <b>
              Start by <Time at={plan.lastSafeStart} as="both" />.
            </b>
          )}
        </span>
        <span className="mut">
          {plan.expires === null ? null : (
            <>
              Expires <Time at={plan.expires} as="both" />
            </>
          )}
        </span>
      </div>
    </section>
  );
}

function Start({ option, onClose }: { option: Option; onClose: () => void }) {
  const { plan } = option;
  const navigate = useNavigate();
  const [typed, setTyped] = useState("");
  const noReturn = plan.mode === "breach" || (plan.from !== null && plan.pointOfNoReturn !== null);
  const worst = Math.max(0, ...plan.gaps.map((gap) => gap.boundMs));
  const start = useMutation({
    mutationFn: () =>
      client.call("startRotation", {
        body: {
          credential: plan.credential,
          mode: plan.mode,
          strategy: plan.strategy,
          planDigest: plan.digest,
          ...(plan.mode === "breach" ? { confirm: typed } : {}),
        },
      }),
    onSuccess: async (row) => {
      await queries.invalidateQueries({ queryKey: ["listRotations"] });
      await navigate({ to: "/rotations/$id", params: { id: row.id } });
    },
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    start.mutate();
  };
  return (
    <Dialog title={`Start ${plan.mode === "breach" ? "replacing" : "rotating"} ${plan.credential}?`} onClose={onClose}>
      <form onSubmit={submit}>
        <p>
          {plan.mode === "breach"
            ? "A breach has no way back."
            : hasWayBack(plan) && plan.pointOfNoReturn !== null
              ? `From step ${plan.pointOfNoReturn} of ${plan.steps.length} on there is no way back; until then it can be rolled back.`
              : "It can be rolled back until its end."}
          {worst === 0 ? "" : ` Some users may be refused for up to ${formatDuration(worst)}.`}
        </p>
        {noReturn ? (
          <>
            <label htmlFor="confirm">
              Type <span className="mono">{plan.credential}</span> to start
            </label>
            <input
              id="confirm"
              value={typed}
              onChange={(event) => setTyped(event.target.value)}
              autoComplete="off"
              autoCapitalize="off"
              spellCheck={false}
              required
            />
          </>
        ) : null}
        {start.error === null ? null : <ProblemNote error={start.error} />}
        <div className="go">
          <button
            type="submit"
            className={plan.mode === "breach" ? "btn danger" : "btn pri"}
            disabled={start.isPending || (noReturn && typed !== plan.credential)}
          >
            {start.isPending ? "Starting" : "Start this plan"}
          </button>
          <button type="button" className="btn" onClick={onClose}>
            Not now
          </button>
        </div>
      </form>
    </Dialog>
  );
}
