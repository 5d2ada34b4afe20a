/** Drives the product's decision function from the states of the second checker, so that each judges the other. */
import type { Decision, Goal, Topology } from "../../src/core/model.ts";
import { Planner, decide } from "../../src/core/next.ts";
import { System } from "../../src/core/system.ts";
import { label, type Node, type Offer, type World } from "./second-checker.ts";

/** The product's decision in any state, with every copy told apart. */
export function decider(world: World, topology: Topology, goal: Goal): (node: Node) => Decision {
  const planner = new Planner(new System(topology, "full"), goal);
  return (node) => decide(planner, planner.system.encode(world.situation(node.state)));
}

/** What the product offers, carried out by the second checker's own idea of the outside. */
export function productOffers(world: World, topology: Topology, goal: Goal): (node: Node) => readonly Offer[] {
  const ask = decider(world, topology, goal);
  return (node) => {
    const decision = ask(node);
    if (decision.kind !== "act") return [];
    return decision.actions.map((action) => {
      const to = world.perform(node, action);
      if (to === null)
        throw new Error(`${topology.name}: ${world.name(action)} was offered, and the outside refuses it.`);
      return { action, to };
    });
  };
}

/** Actions as sorted text, with the exposures that each declares. */
export function actionList(actions: readonly Offer["action"][]): string {
  return actions
    .map((action) => label(action) + (action.exposes.length > 0 ? ` exposing ${action.exposes.join("+")}` : ""))
    .sort()
    .join(", ");
}
