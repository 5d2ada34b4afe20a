import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { placeContract, secretVersions, type Fault, type PlaceWorld } from "../connector.contract.ts";
import { ConnectorError, type CallContext, type VersionHandle } from "../connector.ts";
import { command } from "./connector.ts";

const folder = mkdtempSync(join(tmpdir(), "keyroll-command-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const program = fileURLToPath(new URL("../../../test/support/program-place.ts", import.meta.url));
let worlds = 0;

function context(): CallContext {
  const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined };
  return { now: () => Date.now(), signal: new AbortController().signal, throttle: async () => {}, log: quiet };
}
const base = { verbs: ["add", "remove", "probe"], recognise: "value", traits: { capacity: 100 } };

interface Lines {
  [mark: string]: string;
}
function makeWorld(): PlaceWorld {
  const id = ++worlds;
  const path = join(folder, `lines-${id}.json`);
  const faultPath = join(folder, `fault-${id}`);
  const config = command.config.parse({
    ...base,
    argv: [process.execPath, program, path, faultPath],
    timeout: "1500ms",
  });
  const versions = secretVersions("program");
  const lines = (): Lines => (existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Lines) : {});
  const probe = async (version: VersionHandle): Promise<boolean> => {
    const { createHash } = await import("node:crypto");
    const material = await version.open();
    const value = material.kind === "secret" ? material.value.reveal() : "";
    return lines()[version.id] === createHash("sha512").update(`salt ${value}`).digest("hex");
  };
  const fault = (word: string, permission?: string) => (): Fault => {
    writeFileSync(faultPath, word);
    return { clear: () => rmSync(faultPath), ...(permission === undefined ? {} : { permission }) };
  };
  return {
    // As the estate narrows it with `verifier: true`.
    traits: { ...command.traits(config), roles: ["verifier"] },
    open: () => command.open(config, undefined),
    version: (n) => versions(n),
    async inspect(known) {
      const present: string[] = [];
      for (const version of known) if (await probe(version)) present.push(version.id);
      const foreign = Object.entries(lines()).filter(([mark]) => !mark.startsWith("program#"));
      return { present, foreign: foreign.map((entry) => entry.join(" ")) };
    },
    consumer: probe,
    meddle: {
      add: async () => writeFileSync(path, JSON.stringify({ ...lines(), theirs: "x" })),
      change: async (version) => writeFileSync(path, JSON.stringify({ ...lines(), [version.id]: "changed" })),
      async remove(version) {
        const { [version.id]: _gone, ...rest } = lines();
        writeFileSync(path, JSON.stringify(rest));
      },
    },
    faults: {
      throttled: fault("throttled"),
      "lost-request": fault("lost-request"),
      "lost-answer": fault("lost-answer"),
      down: fault("down"),
      denied: fault("denied", "lines.write"),
      garbage: fault("garbage"),
    },
  };
}

placeContract({
  runner: { describe, it },
  name: "command",
  connector: command,
  config: { ...base, argv: ["x"] },
  makeWorld,
  cannot: {
    "a change by somebody else between our read and our write is not undone":
      "reading and writing both happen inside the user's program, which has to lock for itself",
  },
});

async function failure(run: () => Promise<unknown>): Promise<ConnectorError> {
  try {
    await run();
  } catch (error) {
    if (error instanceof ConnectorError) return error;
    throw error;
  }
  throw new Error("It succeeded.");
}

describe("a program of the user's", () => {
  const versions = secretVersions("program");
  const open = (argv: readonly string[], more: object = {}) =>
    command.open(command.config.parse({ ...base, argv, timeout: "3s", ...more }), undefined);
  const node = (script: string): readonly string[] => [process.execPath, "-e", script];

  it("gets no variable of ours but those that every program needs, and those that it was given", async () => {
    process.env["KEYROLL_TEST_SECRET"] = "must not be passed on";
    const place = open(
      node(`process.stdout.write(JSON.stringify({entries: Object.keys(process.env).map((mark) => ({mark}))}))`),
      {
        environment: { MINE: "1" },
      },
    );
    const { entries } = await place.observe(context(), []);
    delete process.env["KEYROLL_TEST_SECRET"];
    const marks = entries.map((entry) => entry.mark);
    expect(marks).toContain("MINE");
    expect(marks).toContain("PATH");
    expect(marks).not.toContain("KEYROLL_TEST_SECRET");
  });

  it("gets the secret on standard input only", async () => {
    const place = open(
      node(`
      const { readFileSync } = require("node:fs");
      const asked = JSON.parse(readFileSync(0, "utf8"));
      const args = readFileSync("/proc/self/cmdline", "utf8") + readFileSync("/proc/self/environ", "utf8");
      process.stdout.write(JSON.stringify({ placement: { slot: String(args.includes(asked.version.material.value)) } }));`),
    );
    expect(await place.add?.(context(), versions(1))).toEqual({ slot: "false" });
  });

  it.each([
    ["nothing", "void 0", "unknown-outcome", /no JSON document/],
    [
      "an answer to another question",
      `process.stdout.write('{"outcome":"accepted"}')`,
      "unknown-outcome",
      /not an answer to add/,
    ],
    ["an end by a signal", `process.kill(process.pid, "SIGKILL")`, "unknown-outcome", /ended by a signal/],
    ["an exit code without a meaning", `process.exit(3)`, "unknown-outcome", /exit code 3/],
    ["more than anybody reads", `process.stdout.write("x".repeat(2e6))`, "unknown-outcome", /more than 1048576 bytes/],
    ["a conflict", `process.stdout.write('{"error":{"kind":"conflict","message":"changed"}}')`, "conflict", /changed/],
  ])("that answers %s gives one clear error", async (_name, script, kind, message) => {
    const error = await failure(async () => open(node(script)).add?.(context(), versions(1)));
    expect(error.kind).toBe(kind);
    expect(error.message).toMatch(message);
  });

  it("that cannot be started has surely done nothing", async () => {
    const error = await failure(async () => open(["/nowhere/at/all"]).add?.(context(), versions(1)));
    expect(error.kind).toBe("misconfigured");
  });

  it("cannot smuggle terminal escapes or secrets into an error", async () => {
    const place = open(
      node(`
      const asked = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
      process.stderr.write("\\u001b[31mred\\u0007 " + asked.version.material.value + " end");
      process.exit(65);`),
    );
    const error = await failure(async () => place.add?.(context(), versions(1)));
    expect(error.kind).toBe("refused");
    expect(error.message).toMatch(/It said: red {1,2}\[secret\] end$/);
  });
});

function has(name: string): boolean {
  try {
    execFileSync(name, ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

describe("the examples of the page", () => {
  const example = (name: string): string => fileURLToPath(new URL(`./examples/${name}`, import.meta.url));
  const versions = secretVersions("example");

  it.skipIf(!has("python3"))("in Python keeps a set (skipped where there is no python3)", async () => {
    const config = command.config.parse({
      ...base,
      argv: ["python3", example("set-in-a-file.py"), join(folder, "set.json")],
    });
    const place = command.open(config, undefined);
    const known = [versions(1), versions(2)];
    expect((await place.observe(context(), known)).entries).toEqual([]);
    for (const version of known) expect(await place.add?.(context(), version)).toEqual({ slot: version.id });
    await place.remove?.(context(), versions(1));
    expect((await place.observe(context(), known)).entries.map((entry) => entry.version)).toEqual(["example#2"]);
    expect((await place.probe?.(context(), versions(1)))?.outcome).toBe("refused");
    expect((await place.probe?.(context(), versions(2)))?.outcome).toBe("accepted");
  });

  it.skipIf(!has("jq"))("in shell holds one value (skipped where there is no jq)", async () => {
    const config = command.config.parse({
      argv: [example("one-value-in-a-file.sh"), join(folder, "value")],
      verbs: ["activate", "probe"],
      recognise: "value",
      traits: { storeCapacity: 1 },
    });
    const place = command.open(config, undefined);
    const known = [versions(1), versions(2)];
    expect(await place.observe(context(), known)).toEqual({ entries: [], current: null });
    for (const version of known) {
      await place.activate?.(context(), version);
      expect(await place.observe(context(), known)).toEqual({
        entries: [{ mark: "value", enabled: true, version: version.id }],
        current: "value",
      });
    }
    expect((await place.probe?.(context(), versions(1)))?.outcome).toBe("refused");
  });
});
