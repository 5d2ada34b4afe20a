/** `npm run simulate -- --runs N --seed S`: simulated rotations, one per seed from S on; stops at the first that breaks a promise. */
import { parseArgs } from "node:util";
import { Broken, report, simulate } from "./run.ts";

const { values } = parseArgs({
  options: { runs: { type: "string", default: "2000" }, seed: { type: "string" } },
});
const runs = Number(values.runs);
const first = values.seed === undefined ? Date.now() % 1_000_000_000 : Number(values.seed);
if (!Number.isInteger(runs) || runs < 1 || !Number.isInteger(first)) {
  console.error("--runs takes a positive whole number and --seed a whole number.");
  process.exit(2);
}
console.log(`${runs} runs from seed ${first}`);
const ends: Record<string, number> = {};
let effects = 0;
let presentations = 0;
for (let run = 0; run < runs; run++) {
  const seed = first + run;
  try {
    const outcome = simulate(seed);
    ends[outcome.end] = (ends[outcome.end] ?? 0) + 1;
    effects += outcome.effects;
    presentations += outcome.presentations;
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    console.error(report(seed, error));
    process.exit(1);
  }
}
console.log(`${JSON.stringify(ends)}, ${effects} effects, ${presentations} presentations, no promise broken`);
