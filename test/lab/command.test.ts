/** `keyroll lab` itself, and the dice and limits below it. */
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { main } from "../../src/cli/main.ts";
import type { Io } from "../../src/cli/session.ts";
import { Limiter, faultProfiles, mishapOf } from "../../src/lab/faults.ts";
import { matches } from "../../src/lab/lab.ts";
import { randomFrom } from "../../src/lab/random.ts";

function ioOf(folder: string) {
  const out: string[] = [];
  const err: string[] = [];
  const io: Io = {
    stdout: { write: (text: string) => out.push(text) },
    stderr: { write: (text: string) => err.push(text) },
    stdin: process.stdin,
    env: { KEYROLL_DATA: path.join(folder, "data"), NO_COLOR: "1" },
    cwd: folder,
    now: Date.now,
  };
  return { io, out, err };
}

describe("keyroll lab", () => {
  it("prints where everything is, keeps secrets in files of their owner, and ends when it is interrupted", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "keyroll-lab-"));
    try {
      const { io, out, err } = ioOf(folder);
      const interrupt = new AbortController();
      const ended = main(
        ["lab", "--json", "--seed", "cli", "--speed", "600", "--folder", "kept", "--no-presenters"],
        io,
        interrupt.signal,
      );
      await expect.poll(() => err.join(""), { timeout: 20_000 }).toContain("Ctrl-C ends it.");
      const told = JSON.parse(out.join("")) as { url: string; vaults: Record<string, string>; seed: string };
      expect(told.seed).toBe("cli");
      expect([told.url, ...Object.values(told.vaults)].every((each) => /^https:\/\/localhost:\d+$/.test(each))).toBe(
        true,
      );
      interrupt.abort();
      expect(await ended).toBe(0);
      const secret = await readFile(path.join(folder, "kept", "operator-secret.txt"), "utf8");
      expect(secret).toHaveLength(40);
      expect(out.join("") + err.join("")).not.toContain(secret);
      for (const name of ["ca.pem", "operator-secret.txt", "operator.pem", "tenant.json"])
        expect((await stat(path.join(folder, "kept", name))).mode & 0o077).toBe(0);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("says which profiles there are", async () => {
    const { io, err } = ioOf(tmpdir());
    expect(await main(["lab", "--faults", "some"], io, new AbortController().signal)).toBe(2);
    expect(err.join("")).toMatch(/--faults some is not a profile\.\nNext: Write one of none, usual and heavy\./);
  });
});

describe("limits and dice", () => {
  it("let as many calls in as is published, in the lab's time", () => {
    const limiter = new Limiter(10);
    const window = { calls: 20, windowMs: 10_000 };
    const waits = Array.from({ length: 22 }, (_, index) => limiter.take("create", window, 1_000 + index));
    expect(waits.slice(0, 20).every((each) => each === 0)).toBe(true);
    expect(waits.slice(20)).toEqual([980, 979]);
    expect(limiter.take("create", window, 2_000)).toBe(0);
    const bucket = { bucket: 2, perSecond: 1 };
    expect([1, 1, 1].map(() => limiter.take("reads", bucket, 0))).toEqual([0, 0, 100]);
    expect(limiter.take("reads", bucket, 100)).toBe(0);
  });

  it("draw mishaps as often as the profile says", () => {
    const random = randomFrom("mishaps", "test");
    const counts: Record<string, number> = {};
    for (let index = 0; index < 20_000; index++) {
      const name = mishapOf(faultProfiles.heavy, random) ?? "none";
      counts[name] = (counts[name] ?? 0) + 1;
    }
    for (const [name, share] of [
      ["throttled", 0.03],
      ["unavailable", 0.03],
      ["dropped-before", 0.02],
      ["dropped-after", 0.02],
    ] as const)
      expect(Math.abs(counts[name]! / 20_000 - share)).toBeLessThan(0.005);
    expect(
      Array.from({ length: 100 }, () => mishapOf(faultProfiles.usual, random)).every((each) => each === null),
    ).toBe(true);
  });

  it("compare permissions with wildcards, without regard to case", () => {
    expect(matches("Microsoft.Web/*", "microsoft.web/connections/write")).toBe(true);
    expect(matches("secrets *", "secrets set")).toBe(true);
    expect(matches("Microsoft.Web/connections/read", "Microsoft.Web/connections/write")).toBe(false);
    expect(matches("a.b", "aXb")).toBe(false);
  });
});
