/** Why a credential is in the state it is in: what each place has, what holds the next step, in sentences that every surface shows. */
import { assemble, effectOf, type AssembleInput, type Assembled } from "./assemble.ts";
import { members, type Decision } from "./model.ts";
import { decide, Planner } from "./next.ts";
import { System } from "./system.ts";
import { describeBlocked, describeWait } from "./words.ts";

export interface PlaceLine {
  readonly place: string;
  readonly roles: readonly string[];
  /** What it trusts or holds: version ids. */
  readonly has: readonly string[];
  readonly current: string | null;
  /** Versions that a consumer of it may still present, or that some replica may still refuse. */
  readonly doubt: readonly string[];
  readonly seen: boolean;
}
export interface Explanation {
  readonly places: readonly PlaceLine[];
  readonly decision: Decision["kind"];
  /** The safe steps, the waits, or the reasons why nothing is safe. */
  readonly sentences: readonly string[];
  readonly notes: readonly string[];
}

export function explain(input: AssembleInput): Explanation {
  const assembled = assemble(input);
  const { topology, situation } = assembled;
  const system = new System(topology);
  const decision = decide(new Planner(system, assembled.goal), system.encode(situation));
  const names = (mask: number): string[] => [...members(mask)].map((v) => topology.versions[v]!.name);
  const lines: PlaceLine[] = input.credential.places.map((place) => {
    const verifier = assembled.verifierPlaces.indexOf(place.name);
    const holder = assembled.holderPlaces.indexOf(place.name);
    const trusted = verifier < 0 ? null : situation.verifiers[verifier]!;
    const held = holder < 0 ? null : situation.holders[holder]!.units[0]!;
    const accepts = trusted ? system.accepts(trusted.configured) : 0;
    const lagging = trusted ? trusted.enforced.reduce((mask, set) => mask | (accepts ^ system.accepts(set)), 0) : 0;
    const lives = held
      ? held.processes.reduce(
          (mask, p) => (p.live === null || p.live === held.current ? mask : mask | (1 << p.live)),
          0,
        )
      : 0;
    return {
      place: place.name,
      roles: place.traits.roles,
      has: names(accepts | (held?.stored ?? 0)),
      current: held?.current === null || held?.current === undefined ? null : topology.versions[held.current]!.name,
      doubt: names(lagging | lives),
      seen: !assembled.unseen.includes(place.name),
    };
  });
  return {
    places: lines,
    decision: decision.kind,
    sentences: sentencesOf(assembled, decision),
    notes: assembled.notes,
  };
}

export function sentencesOf(assembled: Assembled, decision: Decision): string[] {
  const { topology } = assembled;
  switch (decision.kind) {
    case "done":
      return ["Every place has exactly the wanted version."];
    case "act":
      return decision.actions.map((action) => `Safe now: ${effectOf(assembled, action).text}.`);
    case "wait":
      return decision.waits.map((wait) => `Waiting until ${describeWait(topology, wait)}.`);
    case "blocked":
      return decision.reasons.length === 0
        ? ["Nothing is left to do, and the goal is not reached."]
        : decision.reasons.map((reason) => describeBlocked(topology, reason));
  }
}
