import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

function run(env: NodeJS.ProcessEnv): { signal: NodeJS.Signals | null; out: string } {
  const script = `
    const { crashPoint } = await import(${JSON.stringify(new URL("./crash.ts", import.meta.url).href)});
    for (const name of ["a", "b:c", "a", "b:c", "a"]) { process.stdout.write(name + " "); crashPoint(name); }`;
  const { signal, stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    env: { PATH: process.env["PATH"], ...env },
    encoding: "utf8",
  });
  return { signal, out: stdout.trim() };
}

test("without a variable nothing happens", () => {
  expect(run({})).toEqual({ signal: null, out: "a b:c a b:c a" });
});

test.each([
  ["a", "a"],
  ["a:3", "a b:c a b:c a"],
  ["b:c", "a b:c"],
  ["b:c:2", "a b:c a b:c"],
])("%s kills at that pass", (target, out) => {
  expect(run({ KEYROLL_CRASH_AT: target })).toEqual({ signal: "SIGKILL", out });
});

test("a point that is never passed kills nobody", () => {
  expect(run({ KEYROLL_CRASH_AT: "a:4" }).signal).toBeNull();
});

test("a trace names every pass, the fatal one included", () => {
  const folder = mkdtempSync(join(tmpdir(), "keyroll-trace-"));
  const file = join(folder, "trace");
  run({ KEYROLL_CRASH_TRACE: file, KEYROLL_CRASH_AT: "a:2" });
  expect(readFileSync(file, "utf8")).toBe("a\nb:c\na\n");
  rmSync(folder, { recursive: true });
});
