/** Where a rotation cannot be done without a refusal: which edges must be declared exposed, whether that is a race or unavoidable. */
import { size, type Goal, type Situation, type Topology } from "./model.ts";
import { Planner } from "./next.ts";
import { prove, type ProveOptions, type Proof } from "./prove.ts";
import { System, type State } from "./system.ts";

export interface Waiver {
  /** Indexes of the edges to declare. */
  readonly edges: readonly number[];
  /** The proof under that declaration. */
  readonly proof: Proof;
  /** No smaller set does. False where there were too many edges to try every set: then no edge of it can be left out. */
  readonly least: boolean;
  /**
   * `race`: with luck in the timing nobody is refused. `unavoidable`: every order refuses somebody for a while. `unknown`: too large to tell.
   */
  readonly kind: "race" | "unavoidable" | "unknown";
}

/** Above this many edges only minimality (no edge can be left out) is looked for, not the smallest number. */
const tryAllUpTo = 10;

/** The edges that may be declared exposed at all. */
export function exposable(topology: Topology): readonly number[] {
  return topology.edges.flatMap((edge, e) => (topology.holders[edge.holder]!.essential === true ? [] : [e]));
}

/** The least set of edges that must be declared exposed so that the goal is reached from everywhere. `null`: no declaration helps. */
export function leastWaiver(
  topology: Topology,
  start: Situation,
  goal: Goal,
  options: ProveOptions = {},
): Waiver | null {
  const attempt = (edges: readonly number[]): Proof => prove(topology, start, { ...goal, exposed: edges }, options);
  const all = exposable(topology);
  const kindOf = (edges: readonly number[]): Waiver["kind"] => {
    if (edges.length === 0) return "race";
    const cost = leastExposure(topology, start, { ...goal, exposed: edges });
    return cost === null ? "unknown" : cost === 0 ? "race" : "unavoidable";
  };
  if (all.length <= tryAllUpTo) {
    const sets = Array.from({ length: 1 << all.length }, (_, mask) => mask).sort((a, b) => size(a) - size(b));
    for (const mask of sets) {
      const edges = all.filter((_, i) => mask & (1 << i));
      const proof = attempt(edges);
      if (proof.verdict === "proved") return { edges, proof, least: true, kind: kindOf(edges) };
    }
    return null;
  }
  let edges = all;
  let proof = attempt(edges);
  if (proof.verdict !== "proved") return null;
  for (const edge of all) {
    const fewer = edges.filter((e) => e !== edge);
    const tried = attempt(fewer);
    if (tried.verdict === "proved") {
      edges = fewer;
      proof = tried;
    }
  }
  return { edges, proof, least: false, kind: kindOf(edges) };
}

/**
 * Over all runs to the goal, the least number of world moves during which some edge refuses somebody. 0: a run without a refusal exists.
 * `null`: no run, or more than `maxStates` states.
 */
export function leastExposure(topology: Topology, start: Situation, goal: Goal, maxStates = 50_000): number | null {
  const system = new System(topology);
  const planner = new Planner(system, goal);
  const first = system.encode(start);
  const best = new Map<string, number>([[first.join(), 0]]);
  const buckets: State[][] = [[first]];
  for (let cost = 0; cost < buckets.length; cost++) {
    const bucket = (buckets[cost] ??= []);
    for (let i = 0; i < bucket.length; i++) {
      const state = bucket[i]!;
      if (best.get(state.join())! < cost) continue;
      if (planner.done(state)) return cost;
      let refused = 0;
      for (let e = 0; e < topology.edges.length; e++) if (system.refused(state, e)) refused++;
      const visit = (to: State, more: number): void => {
        const key = to.join();
        const total = cost + more;
        if (total >= (best.get(key) ?? Number.POSITIVE_INFINITY)) return;
        best.set(key, total);
        (buckets[total] ??= []).push(to);
      };
      // Our own actions take no time in this count; what the world does between them does. Any guarded action may be tried, so that the
      // best order is found and not only the preferred one.
      for (const offer of planner.guarded(state)) visit(offer.to, 0);
      system.eachMove(state, (at, move) => {
        const to = state.slice();
        to[at] = move.to;
        visit(to, refused);
      });
      if (best.size > maxStates) return null;
    }
    for (let c = 0; c < buckets.length; c++) buckets[c] ??= [];
  }
  return null;
}
