/** The short cuts of the proof (presence, taking apart) against the long way, and that the order in which an estate is written says nothing. */
import { describe, expect, it } from "vitest";
import { bit, has, type Goal, type Mask, type Situation, type Topology } from "../../src/core/model.ts";
import { next, Planner } from "../../src/core/next.ts";
import { explore as exploreProduct, prove } from "../../src/core/prove.ts";
import { System } from "../../src/core/system.ts";
import { instances } from "./instances.ts";
import { decider } from "./product.ts";
import { Random, randomCase } from "./random.ts";
import { explore, World } from "./second-checker.ts";

const seed = Number(process.env.KEYROLL_TEST_SEED ?? 20_260_101);

interface Case {
  readonly topology: Topology;
  readonly start: Situation;
  readonly goal: Goal;
}

/** Reached by the definition, state by state, and not in the presence set: must be none. */
function outsidePresence({ topology, start, goal }: Case, maxStates: number): { outside: number; looked: number } {
  const planner = new Planner(new System(topology, "presence"), goal);
  const all = exploreProduct(planner, [planner.system.encode(start)], { crash: true, maxStates: 100_000 });
  const world = new World(topology, { grantsHold: false });
  const finding = explore(world, world.read(start), goal, { crash: true, maxStates });
  let outside = 0;
  const reached = finding.reached.slice(0, maxStates);
  if (!all.complete) return { outside: 0, looked: 0 };
  for (const node of reached) {
    const before = all.states.size;
    if (all.states.add(planner.system.encode(world.situation(node.state))) === before) outside++;
  }
  return { outside, looked: reached.length };
}

describe("presence", () => {
  it("holds every state that is reached with the copies told apart, on the instances", () => {
    for (const one of instances) {
      for (const goal of [one.forward, one.breachContainFirst]) {
        const { outside, looked } = outsidePresence({ topology: one.topology, start: one.start, goal }, 8000);
        expect([one.name, outside]).toEqual([one.name, 0]);
        if (one.name !== "001-composite") expect(looked).toBeGreaterThan(0);
      }
      expect([one.name, prove(one.topology, one.start, one.forward, { abstraction: "presence" }).verdict]).toEqual([
        one.name,
        one.expected,
      ]);
    }
  });

  it("and on random topologies with up to three copies of everything", () => {
    let looked = 0;
    let compared = 0;
    for (let run = 0; run < 200; run++) {
      const one = randomCase(seed + 50_000 + run, { copies: 3 });
      const found = outsidePresence(one, 2000);
      expect([one.topology.name, found.outside]).toEqual([one.topology.name, 0]);
      looked += found.looked;
      if (!one.sound) continue;
      // Whatever presence proves, the copies told apart prove too.
      const wide = prove(one.topology, one.start, one.goal, { abstraction: "presence", method: "exhaustive" });
      const exact = prove(one.topology, one.start, one.goal, { abstraction: "counter", method: "exhaustive" });
      if (wide.verdict === "proved") {
        compared++;
        expect([one.topology.name, exact.verdict]).toEqual([one.topology.name, "proved"]);
      }
    }
    expect(looked).toBeGreaterThan(10_000);
    expect(compared).toBeGreaterThan(50);
  });
});

describe("taking apart", () => {
  it("says the same as the whole on the instances", () => {
    for (const one of instances)
      for (const goal of [one.forward, one.rollback, one.breach]) {
        const apart = prove(one.topology, one.start, goal, { method: "compositional" });
        const whole = prove(one.topology, one.start, goal, { method: "exhaustive" });
        expect([one.name, apart.verdict]).toEqual([one.name, whole.verdict]);
      }
  });

  it("never proves what the whole does not, on random topologies, and seldom gives up", () => {
    let proved = 0;
    let gaveUp = 0;
    for (let run = 0; run < 1500; run++) {
      const { topology, start, goal, sound } = randomCase(seed + 100_000 + run);
      if (!sound) continue;
      const whole = prove(topology, start, goal, { method: "exhaustive", maxStates: 5000 });
      if (whole.verdict === "not-proved") continue;
      const apart = prove(topology, start, goal, { method: "compositional" });
      if (apart.verdict === "not-proved") {
        gaveUp++;
        continue;
      }
      expect([topology.name, apart.verdict]).toEqual([topology.name, whole.verdict]);
      if (whole.verdict === "proved") proved++;
    }
    console.log(`taking apart: ${proved} proved alike, ${gaveUp} given up`);
    expect(proved).toBeGreaterThan(700);
    expect(gaveUp).toBeLessThan(proved / 4);
  });
});

describe("determinism", () => {
  it("equal input gives equal output", () => {
    for (const one of instances) {
      const copy = structuredClone(one);
      expect(next(one.topology, one.start, one.forward)).toEqual(next(copy.topology, copy.start, copy.forward));
      if (one.name === "001-composite") continue;
      expect(prove(one.topology, one.start, one.forward)).toEqual(prove(copy.topology, copy.start, copy.forward));
    }
  });

  it("the order in which places, items and versions are listed changes nothing but the order of the answer", () => {
    let compared = 0;
    for (let run = 0; run < 300; run++) {
      const one = randomCase(seed + 200_000 + run);
      const shuffled = shuffle(one, new Random(seed + run));
      const world = new World(one.topology, { grantsHold: false });
      const other = new World(shuffled.topology, { grantsHold: false });
      const ask = decider(world, one.topology, one.goal);
      const askOther = decider(other, shuffled.topology, shuffled.goal);
      const reached = explore(world, world.read(one.start), one.goal, { crash: true, maxStates: 60 }).reached;
      for (const node of reached.slice(0, 60)) {
        const mirrored = shuffled.map(world.situation(node.state));
        const mine = ask(node);
        const theirs = askOther(other.read(mirrored));
        expect(theirs.kind).toBe(mine.kind);
        compared++;
        const names = (decision: typeof mine, by: World): string[] =>
          decision.kind === "act" ? decision.actions.map((action) => by.name(action)).sort() : [];
        expect(names(theirs, other)).toEqual(names(mine, world));
      }
    }
    expect(compared).toBeGreaterThan(5000);
  });
});

/** The same estate, listed in another order; `map` carries a situation over. */
function shuffle(one: Case, random: Random): Case & { map(situation: Situation): Situation } {
  const { topology } = one;
  /** New position of each old index. */
  const order = (length: number): number[] => {
    const places = Array.from({ length }, (_, index) => index);
    for (let at = length - 1; at > 0; at--) {
      const with_ = random.below(at + 1);
      [places[at], places[with_]] = [places[with_]!, places[at]!];
    }
    return places;
  };
  const versionAt = order(topology.versions.length);
  const itemAt = order(topology.items.length);
  const verifierAt = order(topology.verifiers.length);
  const holderAt = order(topology.holders.length);
  const edgeAt = order(topology.edges.length);
  const move = <T, U>(list: readonly T[], at: readonly number[], change: (value: T) => U): U[] => {
    const moved: U[] = [];
    list.forEach((value, index) => (moved[at[index]!] = change(value)));
    return moved;
  };
  const mask = (set: Mask, at: readonly number[]): Mask =>
    at.reduce((result, to, index) => (has(set, index) ? result | bit(to) : result), 0);
  const version = <T extends number | null>(index: T): T => (index === null ? index : versionAt[index]!) as T;

  const shuffledEdges = move(topology.edges, edgeAt, (edge) => ({
    ...edge,
    holder: holderAt[edge.holder]!,
    verifier: verifierAt[edge.verifier]!,
  }));
  const map = (situation: Situation): Situation => ({
    material: move(situation.material, versionAt, (value) => value),
    verifiers: move(situation.verifiers, verifierAt, (seen) => ({
      configured: mask(seen.configured, itemAt),
      enforced: seen.enforced.map((set) => mask(set, itemAt)),
      gone: mask(seen.gone, itemAt),
    })),
    holders: situation.holders.reduce<Situation["holders"][number][]>((all, seen, index) => {
      const outgoing = topology.edges.flatMap((edge, number) => (edge.holder === index ? [number] : []));
      const byNewEdge = [...outgoing].sort((a, b) => edgeAt[a]! - edgeAt[b]!);
      all[holderAt[index]!] = {
        units: seen.units.map((unit) => ({
          stored: mask(unit.stored, versionAt),
          current: version(unit.current),
          processes: unit.processes.map((process) => ({
            live: version(process.live),
            granted: version(process.granted),
          })),
        })),
        inFlight: byNewEdge.map((edge) => mask(seen.inFlight[outgoing.indexOf(edge)]!, versionAt)),
        job: byNewEdge.map((edge) => version(seen.job[outgoing.indexOf(edge)]!)),
      };
      return all;
    }, []),
    expired: mask(situation.expired, versionAt),
  });
  return {
    topology: {
      name: topology.name,
      versions: move(topology.versions, versionAt, (spec) => ({
        ...spec,
        issuer:
          spec.issuer === null
            ? null
            : {
                ...spec.issuer,
                autoTrust: spec.issuer.autoTrust.map((auto) => ({
                  verifier: verifierAt[auto.verifier]!,
                  item: itemAt[auto.item]!,
                })),
                autoCurrent: spec.issuer.autoCurrent.map((holder) => holderAt[holder]!),
              },
      })),
      items: move(topology.items, itemAt, (item) => ({
        ...item,
        admits: mask(item.admits, versionAt),
        denies: mask(item.denies, versionAt),
        version: version(item.version),
      })),
      verifiers: move(topology.verifiers, verifierAt, (verifier) => verifier),
      holders: move(topology.holders, holderAt, (holder) => holder),
      edges: shuffledEdges,
    },
    start: map(one.start),
    goal: {
      target: move(one.goal.target, holderAt, (target) => version(target)),
      final: move(one.goal.final, verifierAt, (set) => mask(set, itemAt)),
      compromised: mask(one.goal.compromised, versionAt),
      exposed: one.goal.exposed.map((edge) => edgeAt[edge]!),
      containFirst: one.goal.containFirst,
    },
    map,
  };
}
