/** Does the proof bite? Every deliberate fault of the guard must be refuted, on at least as many founding instances as in docs/safety.md. */
import { expect, it } from "vitest";
import { prove } from "../../src/core/prove.ts";
import type { Mutant } from "../../src/core/system.ts";
import { foundingInstances } from "./instances.ts";

const atLeast: Readonly<Record<Mutant, number>> = {
  "ignore in-flight": 5,
  "ignore running processes": 12,
  "ignore what a restart loads": 20,
  "look at enforced only": 18,
  "look at configured only": 18,
  "ask one replica": 15,
  "use before seal": 20,
};

it("the founding instances are the 23 of the table", () => {
  expect(foundingInstances).toHaveLength(23);
});

for (const [mutant, expected] of Object.entries(atLeast) as [Mutant, number][])
  it(`a guard with the fault "${mutant}" is refuted on at least ${expected} of 23`, () => {
    const refuted = foundingInstances.flatMap((one) => {
      const proof = prove(one.topology, one.start, one.forward, { abstraction: "full", mutant });
      if (proof.verdict !== "refuted") return [];
      // A refutation without a way to see it is of no use.
      expect(proof.counterexample?.length).toBeGreaterThan(0);
      return [one.name];
    });
    expect(refuted.length).toBeGreaterThanOrEqual(expected);
  });

it("the guard itself is refuted on none", () => {
  for (const one of foundingInstances)
    for (const abstraction of ["full", "counter", "presence"] as const)
      expect([one.name, prove(one.topology, one.start, one.forward, { abstraction }).verdict]).toEqual([
        one.name,
        one.expected,
      ]);
});
