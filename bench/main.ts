/** `npm run bench` runs every benchmark, `npm run bench -- scan prove` the ones named. Numbers go to bench/results/, which git ignores. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { runBenchmark, type Benchmark } from "./frame.ts";

const here = import.meta.dirname;
const notBenchmarks = new Set(["frame.ts", "main.ts"]);
const available = readdirSync(here)
  .filter((file) => file.endsWith(".ts") && !notBenchmarks.has(file))
  .map((file) => file.slice(0, -".ts".length))
  .toSorted();
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !available.includes(name));
if (unknown.length > 0) {
  console.error(
    `There is no benchmark ${unknown.map((name) => `"${name}"`).join(", ")}. These exist: ${available.join(", ")}.`,
  );
  process.exitCode = 2;
} else {
  for (const name of wanted.length > 0 ? wanted : available) {
    const benchmark = (await import(`./${name}.ts`)) as Benchmark;
    console.log(`\n== ${benchmark.name}`);
    await runBenchmark(benchmark, join(here, "results"), Date.now());
  }
  console.log(`\nAll numbers: ${join("bench", "results")}`);
}
