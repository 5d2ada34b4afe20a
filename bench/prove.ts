/**
 * The proof: the founding topologies, topologies of 16, 32 and 64 places that hang together, and the flat set of state vectors against the plain
 * one, a `Set` of strings, in the same search.
 */
import { bit, type Goal, type Situation, type Topology } from "../src/core/model.ts";
import { Planner } from "../src/core/next.ts";
import { prove, StateSet } from "../src/core/prove.ts";
import { System, type State } from "../src/core/system.ts";
import { foundingInstances, minute, resting, second } from "../test/core/instances.ts";
import type { Frame, Sample } from "./frame.ts";

export const name = "prove";

interface Case {
  readonly topology: Topology;
  readonly start: Situation;
  readonly goal: Goal;
}

export async function run(frame: Frame): Promise<void> {
  await frame.compare({
    title: "the founding topologies, each proved (goal: each under 100 ms)",
    metric: "wallMs",
    contenders: foundingInstances.map((one) => ({
      name: one.name,
      run: () => proved({ topology: one.topology, start: one.start, goal: one.forward }, one.expected),
    })),
    notes: ["The last one is only the yardstick of the last column; what counts is wallMs."],
  });
  await frame.compare({
    title: "places that hang together (goal: 64 under 1 s)",
    metric: "wallMs",
    contenders: [64, 32, 16].map((places) => ({ name: `${places} places`, run: () => proved(wide(places), "proved") })),
    notes: [
      "A quarter verifiers with two replicas each, three quarters holders with two processes each; every holder presents to two verifiers, in a ring.",
    ],
  });
  const cases = foundingInstances.map((one) => ({ topology: one.topology, start: one.start, goal: one.forward }));
  const all = (search: (one: Case) => number) => (): Sample => {
    const began = performance.now();
    const states = cases.reduce((sum, one) => sum + search(one), 0);
    const wallMs = performance.now() - began;
    return { statesPerSecond: states / (wallMs / 1000), states, wallMs };
  };
  await frame.compare({
    title: "states a second, all founding topologies searched whole",
    metric: "statesPerSecond",
    better: "larger",
    contenders: [
      { name: "flat integer set", run: all((one) => search(one, flatSet)) },
      { name: "Set of strings", run: all((one) => search(one, stringSet)) },
    ],
    notes: ["The same moves, the same order, no check of the states: only how a state is remembered differs."],
  });
}

function proved({ topology, start, goal }: Case, expected: string): Sample {
  const began = performance.now();
  const proof = prove(topology, start, goal);
  const wallMs = performance.now() - began;
  if (proof.verdict !== expected) throw new Error(`${topology.name} is ${proof.verdict}, not ${expected}`);
  return { wallMs, states: proof.states, transitions: proof.transitions };
}

function wide(places: number): Case {
  const verifiers = places / 4;
  const holders = places - verifiers;
  const topology: Topology = {
    name: `${places} places`,
    versions: [
      { name: "old", issuer: null },
      {
        name: "new",
        issuer: { place: "authority", oneTime: true, autoTrust: [], autoCurrent: [], durationMs: 5 * second },
      },
    ],
    items: ["old", "new"].map((item, index) => ({ name: item, admits: bit(index), denies: 0, version: index })),
    verifiers: Array.from({ length: verifiers }, (_, n) => ({
      name: `verifier-${n}`,
      capacity: 8,
      replicas: 2,
      serial: false,
      noTwoToTwo: false,
      restorable: true,
      changeMs: 2 * second,
      propagationMs: 10 * minute,
      human: false,
    })),
    holders: Array.from({ length: holders }, (_, n) => ({
      name: `holder-${n}`,
      units: 1,
      processes: 2,
      storeCapacity: 8,
      staging: true,
      session: false,
      restorable: true,
      changeMs: 2 * second,
      refreshMs: 30 * minute,
      human: false,
    })),
    edges: Array.from({ length: holders }, (_, holder) =>
      [0, 1].map((next) => ({ holder, verifier: (holder + next) % verifiers, drain: "instant" as const, drainMs: 0 })),
    ).flat(),
  };
  return {
    topology,
    start: resting(
      topology,
      topology.verifiers.map(() => bit(0)),
      topology.holders.map(() => 0),
    ),
    goal: {
      target: topology.holders.map(() => 1),
      final: topology.verifiers.map(() => bit(1)),
      compromised: 0,
      exposed: [],
      containFirst: false,
    },
  };
}

/** Remembers states: `add` gives the state's number, and a new one gets `size` before the call. */
interface Memory {
  readonly size: number;
  add(state: State): number;
  get(id: number): State;
}
const flatSet = (width: number): Memory => new StateSet(width);
function stringSet(): Memory {
  const known = new Set<string>();
  const list: State[] = [];
  return {
    get size() {
      return list.length;
    },
    add(state) {
      const key = state.join(",");
      if (known.has(key)) return -1;
      known.add(key);
      return list.push(state.slice()) - 1;
    },
    get: (id) => list[id]!,
  };
}

/** Breadth first over everything that we and the world may do; returns the number of states. */
function search({ topology, start, goal }: Case, memoryOf: (width: number) => Memory): number {
  const system = new System(topology, "auto");
  const planner = new Planner(system, goal);
  const memory = memoryOf(system.width);
  memory.add(system.encode(start, 0));
  for (let at = 0; at < memory.size && memory.size <= 20_000; at++) {
    const state = memory.get(at).slice();
    for (const offer of planner.offers(state)) memory.add(offer.to);
    system.eachMove(state, (place, move) => {
      const to = state.slice();
      to[place] = move.to;
      memory.add(to);
    });
  }
  return memory.size;
}
