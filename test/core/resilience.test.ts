/** What may go wrong around a rotation, and what must hold all the same. The product decides; the second checker's world judges. */
import { describe, expect, it } from "vitest";
import { next } from "../../src/core/next.ts";
import type { Goal, Topology } from "../../src/core/model.ts";
import { prove } from "../../src/core/prove.ts";
import { instances, type Instance } from "./instances.ts";
import { productOffers } from "./product.ts";
import { type ExploreOptions, explore, type Finding, label, type Node, World } from "./second-checker.ts";

/** Three unrelated rotations at once multiply; for them the parts are checked by the product's own taking apart. */
const tooLarge: ReadonlySet<string> = new Set(["001-composite"]);
const manageable = instances.filter((one) => !tooLarge.has(one.name));

function worldOf(topology: Topology): World {
  return new World(topology, { grantsHold: false });
}

function follow(one: Instance, world: World, goal: Goal, options: ExploreOptions & { edits?: number } = {}): Finding {
  const start = world.read(one.start, { edits: options.edits ?? 0 });
  return explore(world, start, goal, { offers: productOffers(world, one.topology, goal), ...options });
}

describe("rollback and retargeting", () => {
  it("from every state on the way forward the way back is never stuck, and makes no violation", () => {
    for (const one of manageable) {
      const world = worldOf(one.topology);
      const forward = follow(one, world, one.forward, { crash: true });
      const from = [...new Set(forward.reached.map((node) => world.node(world.resumed(node.state))))];
      const back = follow(one, world, one.rollback, { crash: true, from });
      expect([one.name, back.verdict, back.stuck.length]).toEqual([one.name, "proved", 0]);
    }
  });

  it("rotations in a row each end, and the next may begin at any moment of the one before", () => {
    for (const one of instances) {
      if (one.rounds.length < 2) continue;
      const world = worldOf(one.topology);
      let ends: readonly Node[] = [world.read(one.start)];
      for (const [round, goal] of one.rounds.entries()) {
        const offers = productOffers(world, one.topology, goal);
        const finding = explore(world, ends[0]!, goal, { crash: true, from: ends, offers });
        expect([one.name, round, finding.verdict]).toEqual([one.name, round, "proved"]);
        ends = finding.reached.filter((node) => world.done(node, goal));
        expect(ends).toHaveLength(1);
        const later = one.rounds[round + 1];
        if (later === undefined) continue;
        const overlapping = explore(world, ends[0]!, later, {
          crash: true,
          from: [...new Set(finding.reached.map((node) => world.node(world.resumed(node.state))))],
          offers: productOffers(world, one.topology, later),
        });
        expect([one.name, round, overlapping.verdict]).toEqual([one.name, round, "proved"]);
      }
    }
  });
});

describe("what fails, runs out or is meddled with", () => {
  it("one step failing for ever makes no violation", () => {
    let pairs = 0;
    for (const one of manageable) {
      const world = worldOf(one.topology);
      const offers = productOffers(world, one.topology, one.forward);
      const steps = new Set<string>();
      const withoutUnit = (action: Parameters<typeof label>[0]): string => label({ ...action, unit: 0 });
      for (const node of follow(one, world, one.forward, { crash: true }).reached)
        for (const { action } of offers(node)) steps.add(withoutUnit(action));
      for (const failing of steps) {
        pairs++;
        const finding = follow(one, world, one.forward, {
          crash: true,
          offers: (node) => offers(node).filter((offer) => withoutUnit(offer.action) !== failing),
        });
        expect([one.name, failing, finding.violated]).toEqual([one.name, failing, null]);
      }
    }
    expect(pairs).toBeGreaterThan(196);
  });

  it("the old version may run out at any moment: nothing new is refused by us, and the goal stays as reachable as it was", () => {
    for (const one of manageable) {
      const world = worldOf(one.topology);
      const before = follow(one, world, one.forward, { crash: true });
      const finding = follow(one, world, one.forward, { crash: true, expire: one.breach.compromised });
      expect([one.name, finding.violated]).toEqual([one.name, null]);
      if (before.verdict === "proved") expect([one.name, finding.verdict]).toEqual([one.name, "proved"]);
    }
  });

  const oneEdit = (one: Instance, goal: Goal): void => {
    const world = worldOf(one.topology);
    const before = follow(one, world, goal, { crash: true });
    const finding = follow(one, world, goal, { crash: true, person: true, edits: 1, maxStates: 60_000 });
    expect([one.name, finding.violated, finding.counterexample]).toEqual([one.name, null, []]);
    expect([one.name, finding.verdict]).toEqual([one.name, before.verdict]);
  };

  it("one edit by a person, anywhere and at any moment: we add nothing to the damage, and find the way to the goal", () => {
    for (const one of manageable) oneEdit(one, one.forward);
  });

  it("one edit in the middle of a breach: the same", () => {
    for (const one of manageable) oneEdit(one, one.breach);
  });
});

describe("breach", () => {
  it("contain first: the goal is reached from everywhere, and a compromised version never comes back", () => {
    for (const one of manageable) {
      const world = worldOf(one.topology);
      const finding = follow(one, world, one.breachContainFirst, { crash: true });
      expect([one.name, finding.verdict]).toEqual([one.name, "proved"]);
      for (const node of finding.reached)
        if (world.done(node, one.breachContainFirst))
          expect(world.compromisedUsable(node, one.breachContainFirst.compromised)).toBe(false);
    }
    for (const one of instances)
      expect([one.name, prove(one.topology, one.start, one.breachContainFirst).verdict]).toEqual([one.name, "proved"]);
  });

  it("contain first: trust is taken away before anything else is done", () => {
    for (const one of instances) {
      const decision = next(one.topology, one.start, one.breachContainFirst);
      const kinds = decision.kind === "act" ? new Set(decision.actions.map((action) => action.kind)) : new Set();
      // Where the new version must exist before the old one can be swapped out or denied, making it is the first cut.
      for (const kind of kinds) expect(["distrust", "deny", "swap", "issue"]).toContain(kind);
      expect(kinds.size).toBe(1);
    }
  });
});
