/** What was proved about a plan, how it could go wrong where it was not, and the gaps that somebody has agreed to. */
import { Icon } from "./icon.tsx";
import type { PlanView } from "../server/schema.ts";
import { formatDuration } from "./time.ts";
import { capital, gapWords, hasWayBack, safetySentence } from "./words.ts";

const heads: Readonly<Record<PlanView["safety"]["verdict"], string>> = {
  proved: "Proved safe",
  "proved with declared gaps": "Proved, with declared gaps",
  refuted: "Refuted",
  blocked: "Blocked",
  "not proved": "Not proved",
};

export function ProofPanel({ plan }: { plan: PlanView }) {
  const { safety, gaps } = plan;
  const proved = safety.verdict.startsWith("proved");
  const tone = !proved ? "red" : gaps.length > 0 ? "amber" : "green";
  return (
    <section className="card proof" aria-labelledby="proof">
      <h2 className={`big c-${tone}`} id="proof">
        <Icon name={proved ? "shield" : "warn"} size={22} />
        {heads[safety.verdict]}
      </h2>
      <p>{safetySentence(plan)}</p>
      {safety.why === null ? null : <p>{capital(safety.why)}</p>}
      {!proved ? null : (
        <>
          <h3>What was checked in each</h3>
          <ul>
            {[
              "Who signs in is let in, at every copy of every place",
              ...(plan.hasData ? ["Every stored record has a key that can open it"] : []),
              "The same step done twice does no harm",
              "From there the goal can be reached",
              ...(hasWayBack(plan) && plan.pointOfNoReturn !== null
                ? [`Until step ${plan.pointOfNoReturn} the old version can be put back`]
                : []),
            ].map((text) => (
              <li key={text}>
                <Icon name="check" size={14} />
                {text}
              </li>
            ))}
          </ul>
          <p className="mut">
            {safety.method === "exhaustive"
              ? "Every state was visited."
              : "Each part was searched whole, and the parts cannot disturb each other."}
          </p>
        </>
      )}
      {safety.counterexample === null ? null : (
        <details className="cx" open={!proved}>
          <summary>
            <b>The shortest way in which it goes wrong</b>
          </summary>
          <ol className="cex">
            {safety.counterexample.map((text, i) => (
              <li key={i}>{text}</li>
            ))}
          </ol>
        </details>
      )}
      {gaps.map((gap) => (
        <div className="cx gap" key={`${gap.holder} ${gap.verifier} ${gap.cause}`}>
          <b>Declared gap.</b> Users of {gap.holder} may be refused at {gap.verifier} for up to{" "}
          {formatDuration(gap.boundMs)} ({gapWords[gap.kind]}). {capital(gap.cause)}
        </div>
      ))}
      {plan.exposed.length === 0 ? null : (
        <div className="cx">
          <b>Still open.</b> {plan.exposed.map((each) => `${each.holder} to ${each.verifier}`).join(", ")}: the old
          version works there until it is removed.
        </div>
      )}
      {plan.notes.length + plan.unseen.length === 0 ? null : (
        <>
          <h3>Notes</h3>
          <ul>
            {[...plan.notes, ...plan.unseen.map((place) => `${place} was not seen`)].map((text) => (
              <li key={text}>
                <span aria-hidden="true">·</span>
                <span>{capital(text)}</span>
              </li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}
