/** The command line without any server: an estate of models. Every call is a process of its own, as a user's is. */
import { afterAll, describe, expect, it } from "vitest";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { documents, planDocument } from "../../src/cli/documents.ts";
import { openHome } from "./keyroll.ts";

const estate = `
version: 1
defaults: { owner: payments }
credentials:
  app:
    kind: password
    issuer: { type: model }
    places:
      db: { type: model, verifier: true, capacity: 2, propagation: 5s }
      env: { type: model, holder: true, presentsTo: [db], refresh: 30s }
    policy: { soak: 10m, maxAge: 90d, approvals: { retire: 1 } }
  one-slot:
    kind: password
    issuer: { type: model }
    places:
      db: { type: model, verifier: true, capacity: 1 }
      env: { type: model, holder: true, presentsTo: [db], refresh: 30s }
    policy: { maxAge: 90d }
`;
const home = openHome(estate);
const empty = openHome();
afterAll(() => {
  home.remove();
  empty.remove();
});
// oxlint-disable-next-line no-control-regex -- finding escape sequences is the point
const escape = /\u001b/;

describe("plan", () => {
  it("prints the steps, the proof, the point of no return and what comes next, without colours in a pipe", async () => {
    const { code, stdout, stderr } = await home.run(["plan", "app"]);
    expect(code).toBe(0);
    expect(stdout).not.toMatch(escape);
    expect(stderr).not.toMatch(escape);
    const lines = stdout.split("\n");
    const at = (text: string): number => lines.findIndex((line) => line.includes(text));
    expect(at("+ issue app#2")).toBeGreaterThan(0);
    expect(at("+ trust app#2 at db")).toBeGreaterThan(at("+ issue app#2"));
    expect(at("~ make app#2 current at env")).toBeGreaterThan(at("every copy of db enforces"));
    expect(at("- stop trusting app#1 at db")).toBeGreaterThan(at("approval: removal (1 person"));
    expect(lines[at("no way back") + 1]).toContain("cannot back out");
    expect(lines[at("no way back") - 1]).toContain("safe, back out");
    expect(stdout).toMatch(/Proved: nobody is refused .* in any of \d+ states/);
    expect(stdout.replaceAll("\n", " ")).toContain("It can be proved, not run.");
    expect(stderr).toMatch(/^Next: /m);
  });

  it("gives JSON that its published schema accepts, the same digest every time", async () => {
    const { code, stdout } = await home.run(["plan", "app", "--json"]);
    expect(code).toBe(0);
    const plan = planDocument.parse(JSON.parse(stdout));
    expect(plan).toMatchObject({
      credential: "app",
      mode: "planned",
      safety: { verdict: "proved" },
      gaps: [],
      modelled: true,
    });
    expect(plan.steps.map((step) => step.n)).toEqual(plan.steps.map((_, i) => i + 1));
    for (const step of plan.steps) expect(step.ifStopped.serviceUp).toBe(true);
    expect(plan.steps[plan.pointOfNoReturn! - 1]!.ifStopped.canRollBack).toBe(false);
    expect(plan.steps[plan.pointOfNoReturn! - 2]!.ifStopped.canRollBack).toBe(true);
    const again = await home.run(["plan", "app", "--jq", ".digest"]);
    expect(again.stdout).toBe(`${plan.digest}\n`);
    const schema = JSON.parse((await home.run(["schema", "plan"])).stdout) as { required: string[] };
    for (const field of [
      "credential",
      "mode",
      "digest",
      "safety",
      "gaps",
      "steps",
      "pointOfNoReturn",
      "expires",
      "lastSafeStart",
    ])
      expect(schema.required).toContain(field);
  });

  it("declares a gap with its cause and bound where a place has one slot", async () => {
    const plan = planDocument.parse(JSON.parse((await home.run(["plan", "one-slot", "--json"])).stdout));
    expect(plan.safety.verdict).toBe("proved with declared gaps");
    expect(plan.gaps).toHaveLength(1);
    expect(plan.gaps[0]).toMatchObject({ holder: "env", verifier: "db" });
    expect(plan.gaps[0]!.boundMs).toBeGreaterThanOrEqual(30_000);
    const text = (await home.run(["plan", "one-slot"])).stdout;
    expect(text).toMatch(/Gap +users of env may be refused at db for up to/);
    expect(text).toContain("some are refused");
  });

  it("shows both ways out of a breach with what they cost", async () => {
    const text = (await home.run(["plan", "app", "--mode", "breach"])).stdout;
    expect(text).toMatch(/availability first +\S.* +nobody/);
    expect(text).toMatch(/contain first +\S.* +up to/);
    const plan = planDocument.parse(JSON.parse((await home.run(["plan", "app", "--mode", "breach", "--json"])).stdout));
    const [available, contain] = plan.breach!;
    expect(available).toMatchObject({ strategy: "availability-first", outageMs: 0 });
    expect(contain!.strategy).toBe("contain-first");
    expect(contain!.exposureMs).toBeLessThan(available!.exposureMs!);
    expect(contain!.outageMs).toBeGreaterThan(0);
  });

  it("saves a plan, and says what differs when the declaration changed", async () => {
    expect((await home.run(["plan", "app", "-o", "plan.json"])).code).toBe(0);
    planDocument.parse(JSON.parse(readFileSync(join(home.folder, "plan.json"), "utf8")));
    const same = await home.run(["plan", "app", "--diff", "plan.json"]);
    expect(same.stdout).toBe("The plan is the same.\n");
    home.write("keyroll.yaml", estate.replace("approvals: { retire: 1 }", "approvals: { switch: 1 }"));
    const changed = await home.run(["plan", "app", "--diff", "plan.json", "--exit-code"]);
    home.write("keyroll.yaml", estate);
    expect(changed.code).toBe(4);
    expect(changed.stdout).toMatch(/^\+ step: approval: switch/m);
    expect(changed.stdout).toMatch(/^- step: approval: removal/m);
  });

  it("fits the width of the terminal, and is Markdown where that is asked for", async () => {
    const narrow = await home.run(["plan", "app"], { env: { COLUMNS: "60" } });
    for (const line of narrow.stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(60);
    const markdown = await home.run(["plan", "app", "-o", "md"]);
    expect(markdown.stdout).toMatch(/^\| # \| Step \| Takes \| If it stops here \|$/m);
    expect((await home.run(["plan", "app", "--exit-code", "-q"])).code).toBe(3);
  });
});

describe.concurrent("wrong use", () => {
  const cases: readonly [string, readonly string[], number, RegExp][] = [
    [
      "a command that is not there",
      ["plam"],
      2,
      /^keyroll: Unknown command 'plam'\. Did you mean plan\?\nNext: keyroll --help\n$/,
    ],
    [
      "an option that is not there",
      ["plan", "app", "--jsn"],
      2,
      /^keyroll: Unknown option '--jsn'\. Did you mean --json\?\n/,
    ],
    [
      "a credential that is not there",
      ["plan", "ap"],
      1,
      /^keyroll: There is no credential "ap" in the estate\.\nNext: Did you mean app\?/,
    ],
    ["a format that is not there", ["status", "-o", "jsn"], 2, /^keyroll: -o jsn is not a format\.\nNext: /],
    ["a mode that is not there", ["plan", "app", "--mode", "fast"], 2, /^keyroll: --mode fast is not known\.\nNext: /],
    ["a strategy without a breach", ["plan", "app", "--strategy", "contain-first"], 2, /--strategy is for a breach/],
    ["no name", ["plan"], 2, /takes the name of one credential, or --all/],
    [
      "a plan file that is none",
      ["rotate", "--plan", "keyroll.yaml"],
      2,
      /keyroll\.yaml is not a plan that Keyroll wrote/,
    ],
    ["a time that is none", ["status", "--due", "soon"], 2, /^keyroll: --due: /],
    ["a condition that is not there", ["status", "--fail-on", "dew"], 2, /--fail-on dew is not known/],
    ["a breach that nobody chose a way for", ["rotate", "app", "--mode", "breach"], 2, /somebody must choose/],
    ["a jq expression that is none", ["plan", "app", "--jq", ".["], 2, /^keyroll: --jq: /],
  ];
  it.each(cases)("%s is one clear message", async (_, args, exitCode, message) => {
    const { code, stdout, stderr } = await home.run(args);
    expect(stderr).toMatch(message);
    expect(stdout).toBe("");
    expect(stderr).not.toMatch(/\bat .*\.ts:\d+/);
    expect(code).toBe(exitCode);
  });

  it("never runs a model", async () => {
    const { code, stderr } = await home.run(["rotate", "app", "--yes"]);
    expect(code).toBe(4);
    expect(stderr).toMatch(/app has a place of type model, db: it can be planned and proved, not run\./);
  });

  it("says in JSON what went wrong when JSON was asked for, and leaves standard output empty", async () => {
    const { code, stdout, stderr } = await home.run(["plan", "nothing", "--json"]);
    expect(code).toBe(1);
    expect(stdout).toBe("");
    expect(JSON.parse(stderr)).toMatchObject({ error: { kind: "not-found", exitCode: 1 } });
  });

  it("names everything that is wrong with an estate, with line and path", async () => {
    home.write(
      "bad.yaml",
      "version: 1\ncredentials:\n  a:\n    kind: pasword\n    places: { db: { type: modle, verifier: true } }\n",
    );
    const { code, stdout, stderr } = await home.run(["check", "--file", "bad.yaml"]);
    expect(code).toBe(1);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/bad\.yaml:4:\d+ {2}credentials\.a\.kind .*password/);
    expect(stderr).toMatch(/bad\.yaml:5:\d+ {2}credentials\.a\.places\.db\.type .*did you mean "model"/);
    expect(stderr).toMatch(/Next: Mend these \d+/);
  });

  it("says where it looked when there is no estate", async () => {
    const { code, stderr } = await empty.run(["status"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/There is no keyroll\.yaml in .*\nNext: Make one with: keyroll init/);
  });
});

describe("the rest", () => {
  it("init writes an estate that checks and plans at once, and overwrites nothing", async () => {
    expect((await empty.run(["init"])).stdout).toMatch(/Wrote keyroll\.yaml/);
    expect((await empty.run(["check", "--jq", ".ok"])).stdout).toBe("true\n");
    expect((await empty.run(["plan", "example", "--jq", ".safety.verdict"])).stdout).toBe("proved\n");
    const before = readFileSync(join(empty.folder, "keyroll.yaml"), "utf8");
    const again = await empty.run(["init"]);
    expect(again.code).toBe(1);
    expect(again.stderr).toMatch(/is there already; nothing was changed/);
    expect(readFileSync(join(empty.folder, "keyroll.yaml"), "utf8")).toBe(before);
  });

  it("status and explain work on models, and publish their schema", async () => {
    const { code, stdout } = await home.run(["status", "--json"]);
    expect(code).toBe(0);
    const status = documents["status"]!.schema.parse(JSON.parse(stdout)) as {
      items: { credential: string; model: boolean }[];
    };
    expect(status.items.map((item) => item.credential).toSorted()).toEqual(["app", "one-slot"]);
    const why = await home.run(["explain", "app"]);
    expect(why.stdout).toMatch(/Safe now: issue app#2/);
    for (const name of Object.keys(documents))
      expect(JSON.parse((await home.run(["schema", name])).stdout)).toHaveProperty("properties");
  });

  it("writes a runbook whose every step has a check, an undo and a tick box", async () => {
    const markdown = (await home.run(["runbook", "app"])).stdout;
    const steps = markdown.match(/^### \d+\. /gm)!.length;
    expect(markdown.match(/^- \[ \] done \((automatic|by a person)/gm)).toHaveLength(steps);
    expect(markdown.match(/^- Check: \S/gm)).toHaveLength(steps);
    expect(markdown.match(/^- Undo: \S/gm)).toHaveLength(steps);
    expect(markdown).toContain("**From here there is no way back.**");
    const html = (await home.run(["runbook", "app", "--format", "html"])).stdout;
    expect(html.match(/<input type="checkbox">/g)!.length).toBeGreaterThanOrEqual(steps);
    expect(html).not.toMatch(/<script|https?:\/\//);
  });

  it("completes its own commands in three shells", async () => {
    for (const shell of ["bash", "zsh", "fish"]) {
      const { code, stdout } = await home.run(["completion", shell]);
      expect(code).toBe(0);
      for (const word of ["rotate", "rollback", "--strategy"])
        expect(stdout).toContain(shell === "fish" ? word.replace(/^--/, "-l ") : word);
      expect(stdout).not.toContain("complete-names <");
    }
    expect((await home.run(["complete-names", "credentials"])).stdout).toBe("app\none-slot\n");
    expect((await home.run(["completion", "csh"])).code).toBe(2);
  });

  it("lists as table, CSV and Markdown; help goes to standard output", async () => {
    expect((await home.run(["list"])).stdout).toMatch(/^CREDENTIAL +KIND +OWNER/);
    const csv = (await home.run(["list", "-o", "csv"])).stdout;
    expect(csv.split("\r\n")[0]).toBe("credential,kind,owner,issuer,places,declared");
    expect((await home.run(["list", "-o", "md"])).stdout).toMatch(/^\| CREDENTIAL \|/);
    const help = await home.run(["rotate", "--help"]);
    expect(help.code).toBe(0);
    expect(help.stdout).toMatch(/--dry-run/);
    expect(help.stderr).toBe("");
  });

  it("colours what it is forced to colour, and obeys NO_COLOR first", async () => {
    expect((await home.run(["plan", "app"], { env: { FORCE_COLOR: "1" } })).stdout).toMatch(escape);
    expect((await home.run(["plan", "app"], { env: { FORCE_COLOR: "1", NO_COLOR: "1" } })).stdout).not.toMatch(escape);
    expect((await home.run(["plan", "app", "--color", "always"])).stdout).toMatch(escape);
  });
});
