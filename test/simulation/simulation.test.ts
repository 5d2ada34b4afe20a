import { describe, expect, it } from "vitest";
import { allTroubles, Broken, report, simulate } from "./run.ts";

const seed = Number(process.env.KEYROLL_TEST_SEED ?? 1);
const runs = Number(process.env.KEYROLL_SIMULATION_RUNS ?? 2000);

describe("simulated rotations", () => {
  it(`${runs} estates from seed ${seed}: at no moment is anybody refused, and every rotation comes to its end`, () => {
    const ends = { done: 0, blocked: 0 };
    const met = { effects: 0, presentations: 0, crashes: 0, meddled: 0, turnedRound: 0 };
    for (let run = 0; run < runs; run++) {
      try {
        const outcome = simulate(seed + run);
        ends[outcome.end]++;
        met.effects += outcome.effects;
        met.presentations += outcome.presentations;
        met.crashes += outcome.crashes;
        met.meddled += outcome.meddled ? 1 : 0;
        met.turnedRound += outcome.turnedRound ? 1 : 0;
      } catch (error) {
        if (!(error instanceof Broken)) throw error;
        throw new Error(report(seed + run, error), { cause: error });
      }
    }
    console.log(`simulation: seed ${seed}, ${JSON.stringify({ ...ends, ...met })}`);
    // The troubles must keep happening, or their absence proves nothing.
    expect(ends.done).toBeGreaterThan(runs / 2);
    expect(met.effects).toBeGreaterThan(runs * 4);
    expect(met.presentations).toBeGreaterThan(runs * 10);
    expect(met.crashes).toBeGreaterThan(runs / 10);
    expect(met.meddled).toBeGreaterThan(runs / 50);
    expect(met.turnedRound).toBeGreaterThan(runs / 50);
  });

  it("a seed replays to the very same outcome", () => {
    for (let run = 0; run < 20; run++) expect(simulate(seed + run)).toEqual(simulate(seed + run));
  });

  it("leaving one trouble out leaves the estate as it was", () => {
    const calm = { ...allTroubles, faults: false, crashes: false, blindSpots: false, rollback: false, meddling: false };
    for (let run = 0; run < 50; run++) {
      const outcome = simulate(seed + run, calm);
      expect([outcome.crashes, outcome.meddled, outcome.turnedRound]).toEqual([0, false, false]);
    }
  });
});
