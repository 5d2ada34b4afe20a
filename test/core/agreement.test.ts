/**
 * Two judges, one law. The second checker (written from the definition, slow, without the product's closed form) and the product must offer the
 * same actions in every reachable state and come to the same verdict: on every instance, and on 10,000 random topologies.
 *
 * Holders with sessions are the one place where they may differ: a standing grant shields its process, which the product deliberately does not
 * count on. There the product must offer a subset; with grants that may end at any moment, the two are equal again.
 */
import { describe, expect, it } from "vitest";
import { next } from "../../src/core/next.ts";
import { prove } from "../../src/core/prove.ts";
import type { Goal, Situation, Topology } from "../../src/core/model.ts";
import { Planner } from "../../src/core/next.ts";
import { System } from "../../src/core/system.ts";
import { instances } from "./instances.ts";
import { actionList, decider, productOffers } from "./product.ts";
import { randomCase } from "./random.ts";
import { explore, label, type Finding, World } from "./second-checker.ts";

const seed = Number(process.env.KEYROLL_TEST_SEED ?? 20_260_101);
const runs = Number(process.env.KEYROLL_TEST_RUNS ?? 10_000);

interface Comparison {
  readonly finding: Finding;
  readonly states: number;
}

/** Compares the offers in every state that the second checker reaches, and throws with both lists at the first difference. */
function compare(topology: Topology, start: Situation, goal: Goal, maxStates: number): Comparison {
  const sessions = topology.holders.some((holder) => holder.session);
  const world = new World(topology, { grantsHold: !sessions });
  const finding = explore(world, world.read(start), goal, { crash: true, maxStates });
  const ask = decider(world, topology, goal);
  for (const node of finding.reached.slice(0, maxStates)) {
    const decision = ask(node);
    const done = world.done(node, goal);
    const mine = done ? [] : world.offers(node, goal).map((offer) => offer.action);
    const kind = done ? "done" : mine.length > 0 ? "act" : world.steps(node).length > 0 ? "wait" : "blocked";
    const definition = `${kind} ${actionList(mine)}`;
    const product = `${decision.kind} ${actionList(decision.kind === "act" ? decision.actions : [])}`;
    if (definition !== product)
      throw new Error(
        `${topology.name}: the judges differ in ${JSON.stringify(world.situation(node.state))}\n` +
          `definition: ${definition}\nproduct:    ${product}\ngoal:       ${JSON.stringify(goal)}`,
      );
  }
  return { finding, states: Math.min(finding.states, maxStates) };
}

const takenApart: ReadonlySet<string> = new Set(["001-composite", "mtls-ca-roll"]);

const goals = (one: (typeof instances)[number]): readonly (readonly [string, Goal])[] => [
  ["forward", one.forward],
  ["rollback", one.rollback],
  ["breach, available first", one.breach],
  ["breach, contained first", one.breachContainFirst],
];

describe("the product against the definition", () => {
  for (const one of instances)
    it(`${one.name}: same offers in every reachable state, same verdict`, () => {
      for (const [name, goal] of goals(one)) {
        const { finding } = compare(one.topology, one.start, goal, 12_000);
        const proof = prove(one.topology, one.start, goal, { abstraction: "full", method: "exhaustive" });
        if (finding.verdict === "not-proved") {
          // Three unrelated rotations as one product: only the product takes them apart.
          expect(one.name).toBe("001-composite");
          continue;
        }
        expect([name, proof.verdict]).toEqual([name, finding.verdict]);
        // Parts that share no site are proved apart: their states add up instead of multiplying.
        if (!takenApart.has(one.name)) expect([name, proof.states]).toEqual([name, finding.states]);
        expect(proof.terminates).toBe(true);
      }
      expect(prove(one.topology, one.start, one.forward).verdict).toBe(one.expected);
    });

  it(
    `${runs} random topologies from seed ${seed}: same offers in every reachable state, same verdict`,
    { timeout: 120_000 },
    () => {
      console.log(`agreement: KEYROLL_TEST_SEED=${seed} KEYROLL_TEST_RUNS=${runs}`);
      const tally: Record<string, number> = {};
      let states = 0;
      for (let run = 0; run < runs; run++) {
        const { topology, start, goal, sound } = randomCase(seed + run);
        const { finding, states: compared } = compare(topology, start, goal, 250);
        states += compared;
        const proof = prove(topology, start, goal, { abstraction: "full", method: "exhaustive", maxStates: 2000 });
        tally[finding.verdict] = (tally[finding.verdict] ?? 0) + 1;
        if (!sound || finding.verdict === "not-proved" || proof.verdict === "not-proved") continue;
        const ends = finding.violated !== "liveness";
        expect([topology.name, proof.terminates]).toEqual([topology.name, ends]);
        if (ends) expect([topology.name, proof.verdict]).toEqual([topology.name, finding.verdict]);
      }
      console.log(`agreement: ${states} states compared, ${JSON.stringify(tally)}`);
      // The generator must keep making both kinds, or the comparison says little.
      expect(tally.proved).toBeGreaterThan(runs / 4);
      expect(tally.blocked).toBeGreaterThan(runs / 50);
    },
  );

  it("holders with sessions: the product offers a subset of what standing grants would allow", () => {
    // The states are those that the product reaches: where it never goes, it promises nothing.
    let fewer = 0;
    let states = 0;
    const check = (topology: Topology, start: Situation, goal: Goal): void => {
      const world = new World(topology);
      const planner = new Planner(new System(topology, "full"), goal);
      const finding = explore(world, world.read(start), goal, {
        crash: true,
        maxStates: 300,
        offers: productOffers(world, topology, goal),
      });
      for (const node of finding.reached.slice(0, 300)) {
        states++;
        const safe = new Set(world.safe(node, goal).map((offer) => label(offer.action)));
        const theirs = planner
          .guarded(planner.system.encode(world.situation(node.state)))
          .map((offer) => label(offer.action));
        const excess = theirs.filter((action) => !safe.has(action));
        expect([topology.name, excess]).toEqual([topology.name, []]);
        if (theirs.length < safe.size) fewer++;
      }
    };
    for (const one of instances)
      if (one.topology.holders.some((holder) => holder.session))
        for (const [, goal] of goals(one)) check(one.topology, one.start, goal);
    for (let run = 0; run < 400; run++) {
      const { topology, start, goal, sound } = randomCase(seed + run);
      if (sound && topology.holders.some((holder) => holder.session)) check(topology, start, goal);
    }
    console.log(`sessions: stricter than needed in ${fewer} of ${states} states`);
    expect(states).toBeGreaterThan(1000);
    expect(fewer).toBeGreaterThan(0);
  });

  it("next itself names the units of a fleet as they were handed in, in whatever order they are", () => {
    for (const one of instances) {
      if (!one.topology.holders.some((holder) => holder.units > 1)) continue;
      const world = new World(one.topology, { grantsHold: false });
      const finding = explore(world, world.read(one.start), one.forward, { crash: true });
      for (const node of finding.reached) {
        const decision = next(one.topology, world.situation(node.state), one.forward);
        for (const action of decision.kind === "act" ? decision.actions : [])
          expect([
            JSON.stringify(world.situation(node.state)),
            label(action),
            world.perform(node, action) !== null,
          ]).toEqual([JSON.stringify(world.situation(node.state)), label(action), true]);
      }
    }
  });
});
