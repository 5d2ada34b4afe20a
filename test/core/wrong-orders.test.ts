import { describe, expect, it } from "vitest";
import { proveScript } from "../../src/core/script.ts";
import { instance } from "./instances.ts";
import { asScript, run, wrongOrders, type WrongOrder } from "./wrong-orders.ts";

/** The product's answer in the runner's words. */
function productResult(order: WrongOrder): { result: string; story: readonly string[] } {
  const { topology, start } = instance(order.instance);
  const proof = proveScript(
    topology,
    start,
    asScript(order),
    order.compromised === undefined ? {} : { compromised: order.compromised },
  );
  const words: Readonly<Record<NonNullable<typeof proof.violated>, WrongOrder["expected"]>> = {
    "lock-out": "lock-out",
    "still-usable": "still usable",
    capacity: "write refused",
    "two-to-two": "write refused",
    "not-restorable": "write refused",
  };
  return {
    result: proof.violated === undefined ? proof.verdict : words[proof.violated],
    story: proof.counterexample,
  };
}

describe("orders that people follow", () => {
  for (const order of wrongOrders)
    it(`${order.id} on ${order.instance}: ${order.mistake}`, () => {
      const mine = run(order, instance(order.instance));
      const theirs = productResult(order);
      expect(mine.result).toBe(order.expected);
      expect(theirs.result).toBe(order.expected);
      if (order.expected === "safe") return;
      // Both search breadth first, so both found a shortest way; and a counterexample is words, not indexes.
      expect(theirs.story.length).toBe(mine.story.length);
      expect(mine.story.length).toBeGreaterThan(0);
      for (const line of [...theirs.story, ...mine.story]) expect(line).toMatch(/[a-z]{3}/);
    });
});
