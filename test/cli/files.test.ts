/** The command line on real places: files, an embedded store, runs that are followed, paused, rolled back and approved. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { documents, planDocument } from "../../src/cli/documents.ts";
import { openHome } from "./keyroll.ts";

const canary = "canary-0a1b2c3d4e5f-old-value";
const estate = `
version: 1
defaults: { owner: platform }
credentials:
  token:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      server: { type: file.value, holder: true, path: ./server.env, format: dotenv, keys: { password: API_TOKEN } }
      client: { type: file.value, holder: true, path: ./client.json, format: json, keys: { password: token } }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s }
  gated:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      file: { type: file.value, holder: true, path: ./gated.txt, format: text }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s, approvals: { switch: 1 } }
  slow:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      file: { type: file.value, holder: true, path: ./slow.txt, format: text, refresh: 1h }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s }
  by-hand:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      console:
        type: manual
        holder: true
        title: Console
        activate: { steps: [{ text: "Paste the name.", copy: "\${id}" }] }
        check: { argv: [cat, ./console.json] }
    policy: { maxAge: 90d, rotateBefore: never, soak: 0s }
  away:
    kind: secret
    issuer: { type: random, length: 32 }
    places:
      file: { type: file.value, holder: true, path: ./folder/away.txt, format: text }
    policy: { maxAge: 90d, rotateBefore: never }
`;
const home = openHome(estate);
const valueOf = (): string => /^API_TOKEN=(.*)$/m.exec(readFileSync(join(home.folder, "server.env"), "utf8"))![1]!;
const outputs: string[] = [];
async function keyroll(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const result = await home.run(args, { env });
  outputs.push(result.stdout, result.stderr);
  // A failure that nobody expected is told with its reason.
  if (result.code === 1) console.error(`keyroll ${args.join(" ")} ended with 1: ${result.stderr}`);
  return result;
}
const seen = async (args: readonly string[], text: RegExp, env: NodeJS.ProcessEnv = {}) => {
  const { child, ended, text: sofar } = home.start(args, env);
  while (!text.test(sofar())) {
    if (child.exitCode !== null) throw new Error(`it ended without ${String(text)}:\n${sofar()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return { child, ended };
};

beforeAll(() => {
  home.write("server.env", `OTHER=1\nAPI_TOKEN=${canary}\n`);
  home.write("client.json", JSON.stringify({ token: canary, other: 1 }));
  home.write("gated.txt", "gated-old-value");
  home.write("slow.txt", "slow-old-value");
});
afterAll(() => home.remove());

describe("files", { timeout: 120_000 }, () => {
  it("shows what it saw, and says that a place is not there", async () => {
    const { code, stdout } = await keyroll(["status", "--json"]);
    expect(code).toBe(0);
    const status = documents["status"]!.schema.parse(JSON.parse(stdout)) as {
      items: { credential: string; state: string; seen: string | null }[];
    };
    expect(status.items).toHaveLength(5);
    expect(status.items.find((item) => item.credential === "token")!.seen).not.toBeNull();
  });

  it("changes nothing on a dry run", async () => {
    const { code, stdout, stderr } = await keyroll(["rotate", "token", "--dry-run"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/give token#2 to server/);
    expect(stderr).toMatch(/nothing was changed/);
    expect(valueOf()).toBe(canary);
    expect((await keyroll(["run", "list", "--json"])).stdout).toMatch(/"items": \[\]/);
  });

  it("does not start without a yes, and not along another plan than the one that was seen", async () => {
    const nobody = await keyroll(["rotate", "token"]);
    expect(nobody.code).toBe(2);
    expect(nobody.stderr).toMatch(/There is nobody to ask here\.\nNext: Add --yes, or name the plan/);
    expect((await keyroll(["plan", "token", "-o", "token.plan.json"])).code).toBe(0);
    const saved = planDocument.parse(JSON.parse(readFileSync(join(home.folder, "token.plan.json"), "utf8")));
    writeFileSync(join(home.folder, "other.plan.json"), JSON.stringify({ ...saved, digest: "0".repeat(64) }));
    const other = await keyroll(["rotate", "--plan", "other.plan.json"]);
    expect(other.code).toBe(4);
    expect(other.stderr).toMatch(/is not 00000000 any more/);
    expect(valueOf()).toBe(canary);
  });

  it("rotates along a saved plan, one line per change, and ends with what was seen", async () => {
    const { code, stdout, stderr } = await keyroll(["rotate", "--plan", "token.plan.json"]);
    expect(stderr).toMatch(/^\d\d:\d\d:\d\d {2}1\/\d+ +done +issue token#2/m);
    expect(stderr).toMatch(/^\d\d:\d\d:\d\d {2}3\/\d+ +done +give token#2 to client/m);
    expect(stdout).toMatch(/^Done in .*: token is token#2 everywhere\./);
    expect(code).toBe(0);
    const value = valueOf();
    expect(value).not.toBe(canary);
    expect(JSON.parse(readFileSync(join(home.folder, "client.json"), "utf8"))).toEqual({ token: value, other: 1 });
    outputs.push(`now:${value}`);
  });

  it("shows the run whole, as text and as a document", async () => {
    const { stdout } = await keyroll(["run", "show", "token", "--json"]);
    const run = documents["run"]!.schema.parse(JSON.parse(stdout)) as {
      id: string;
      status: string;
      steps: { state: string }[];
    };
    expect(run.status).toBe("done");
    expect(run.steps.every((step) => step.state === "done")).toBe(true);
    expect((await keyroll(["run", "show", run.id.slice(0, 6)])).stdout).toMatch(/^ ok +1 +issue token#2/m);
    expect((await keyroll(["status", "token", "--fail-on", "due,drift,stale"])).code).toBe(0);
  });

  it("sees that somebody changed a copy: exit 3, and what differs", async () => {
    const before = readFileSync(join(home.folder, "client.json"), "utf8");
    home.write("client.json", JSON.stringify({ token: "edited-by-somebody", other: 1 }));
    const { code, stdout } = await keyroll(["status", "--refresh", "--fail-on", "drift"]);
    expect(code).toBe(3);
    expect(stdout).toMatch(/^! +token .*client has a value that Keyroll does not know/m);
    expect((await keyroll(["status", "--cached", "--out-of-sync", "--jq", ".items[].credential"])).stdout).toBe(
      "token\n",
    );
    home.write("client.json", before);
    expect((await keyroll(["status", "token", "--refresh", "--fail-on", "drift"])).code).toBe(0);
  });

  it("waits for somebody else's approval with exit 5, and goes on when it has it", async () => {
    const waits = await keyroll(["rotate", "gated", "--yes"]);
    expect(waits.code, waits.stderr).toBe(5);
    expect(waits.stdout).toMatch(/Waiting at step 2 of \d+: .*1 more person must approve the switch phase/s);
    expect(readFileSync(join(home.folder, "gated.txt"), "utf8")).toBe("gated-old-value");
    const own = await keyroll(["approve", "gated"]);
    expect(own.code, own.stderr).toBe(8);
    expect(own.stderr).toMatch(/alice started rotation/);
    const other = await keyroll(["approve", "gated", "--comment", "looks right"], { KEYROLL_USER: "bob" });
    expect(other.code, other.stderr).toBe(0);
    const watched = await keyroll(["run", "watch", "gated"]);
    expect(watched.code, watched.stderr).toBe(0);
    expect(watched.stdout).toMatch(/gated is gated#2 everywhere/);
  });

  it("gives a task to a person, and does not take their word for it", async () => {
    home.write("console.json", JSON.stringify({ entries: [], current: null }));
    const waits = await keyroll(["rotate", "by-hand", "--yes"]);
    expect(waits.code, waits.stderr).toBe(5);
    const task = /keyroll task show (t-\S+)/.exec(waits.stdout)![1]!;
    expect((await keyroll(["task", "show", task])).stdout).toMatch(/1\. Paste the name\.\n +by-hand#1/);
    expect((await keyroll(["task", "done", task])).code).toBe(0);
    const told = await keyroll(["run", "watch", "by-hand"]);
    expect(told.code).toBe(5);
    home.write(
      "console.json",
      JSON.stringify({ entries: [{ mark: "by-hand#1", version: "by-hand#1" }], current: "by-hand#1" }),
    );
    const open = JSON.parse((await keyroll(["task", "list", "--json"])).stdout) as {
      items: { id: string; credential: string }[];
    };
    for (const item of open.items) documents["task"]!.schema.parse(item);
    await keyroll(["task", "done", open.items.find((item) => item.credential === "by-hand")?.id ?? task]);
    const watched = await keyroll(["run", "watch", "by-hand", "--timeout", "20s"]);
    expect(watched.stdout).toMatch(/by-hand is by-hand#1 everywhere/);
    expect(watched.code, watched.stderr).toBe(0);
  });

  it("detaches on Ctrl-C, exit 130: the run goes on by itself and can be paused; --timeout comes back with exit 124", async () => {
    const { child, ended } = await seen(["rotate", "slow", "--yes"], /3\/\d+ +waiting/);
    child.kill("SIGINT");
    const { code, stderr } = await ended;
    expect(code).toBe(130);
    expect(stderr).toMatch(/Detached at step 3 of \d+\. The run goes on by itself/);
    expect(stderr).not.toMatch(/\bat .*\.ts:\d+/);
    expect((await keyroll(["run", "pause", "slow", "--comment", "lunch"])).stdout).toMatch(/^Paused: run r-/);
    expect((await keyroll(["run", "watch", "slow"])).code).toBe(5);
    expect((await keyroll(["run", "resume", "slow"])).code).toBe(0);
    // Whoever reads the file may take an hour; the run waits for them.
    const still = await keyroll(["run", "watch", "slow", "--timeout", "2s"]);
    expect(still.code).toBe(124);
    expect(still.stderr).toMatch(/The time limit of 2 s passed/);
    await keyroll(["run", "pause", "slow"]);
  });

  it("rolls back with exit 6, and everything is as before", async () => {
    expect((await keyroll(["rotate", "gated", "--yes"])).code).toBe(5);
    const value = readFileSync(join(home.folder, "gated.txt"), "utf8");
    expect((await keyroll(["run", "rollback", "gated", "--comment", "not today"])).code).toBe(0);
    const back = await keyroll(["run", "watch", "gated"]);
    expect(back.stdout, back.stderr).toMatch(/^Rolled back in .*: gated is gated#2 everywhere, as before/);
    expect(back.code).toBe(6);
    expect(readFileSync(join(home.folder, "gated.txt"), "utf8")).toBe(value);
  });

  it("streams documents for watch --json", async () => {
    const { code, stdout } = await keyroll(["run", "watch", "token", "--json"]);
    expect(code).toBe(0);
    const lines = stdout.trim().split("\n");
    for (const line of lines) documents["run"]!.schema.parse(JSON.parse(line));
  });

  it("pauses right after the step of --until, which doctor, audit and keys then stand by", async () => {
    // The worker that an earlier case left in the background ends when nothing is left to do; until then --until is refused.
    let paused = await keyroll(["rotate", "token", "--yes", "--until", "2"]);
    while (paused.code === 2) {
      expect(paused.stderr).toMatch(/--until is kept to the step only where no other worker runs/);
      await new Promise((resolve) => setTimeout(resolve, 500));
      paused = await keyroll(["rotate", "token", "--yes", "--until", "2"]);
    }
    const { code, stdout, stderr } = paused;
    expect(stdout, stderr).toMatch(/Paused at step 3/);
    expect(code).toBe(5);
    const [server, client] = [
      valueOf(),
      (JSON.parse(readFileSync(join(home.folder, "client.json"), "utf8")) as { token: string }).token,
    ];
    expect(server).not.toBe(client);
    expect((await keyroll(["run", "resume", "token"])).code).toBe(0);
    expect((await keyroll(["run", "watch", "token"])).code).toBe(0);
  });

  it("tells what is wrong with the installation, and exports a journal that verifies by itself", async () => {
    const doctor = await keyroll(["doctor", "--json"]);
    const found = documents["doctor"]!.schema.parse(JSON.parse(doctor.stdout)) as {
      ok: boolean;
      findings: { what: string }[];
    };
    expect(found.findings.map((each) => each.what)).toEqual(
      expect.arrayContaining(["node", "store", "clock", "key", "estate"]),
    );
    expect(doctor.code).toBe(found.ok ? 0 : 1);
    expect((await keyroll(["audit", "export", "-o", "journal.ndjson"])).code).toBe(0);
    expect(await keyroll(["audit", "verify"])).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^The journal is whole/) as string,
    });
    expect((await keyroll(["audit", "verify", "--export", "journal.ndjson"])).stdout).toMatch(/^The export is whole/);
    const path = join(home.folder, "journal.ndjson");
    writeFileSync(path, readFileSync(path, "utf8").replace('"alice"', '"mallory"'));
    const forged = await keyroll(["audit", "verify", "--export", "journal.ndjson"]);
    expect(forged.code).toBe(1);
    expect((await keyroll(["keys", "roll"])).code).toBe(0);
    expect((await keyroll(["keys", "status"])).stdout).toMatch(/all under it/);
  });

  it("gives no verdict where a place could not be seen: exit 7, and nothing is started", async () => {
    mkdirSync(join(home.folder, "folder"));
    mkdirSync(join(home.folder, "folder/away.txt"));
    const plan = await keyroll(["plan", "away", "--exit-code"]);
    expect(plan.code).toBe(7);
    expect(plan.stdout).toMatch(/^No verdict: file could not be seen\./m);
    const rotate = await keyroll(["rotate", "away", "--yes"]);
    expect(rotate.code).toBe(7);
    expect(rotate.stderr).toMatch(
      /Not every place of away could be seen, so nothing can be proved\.\nNext: keyroll doctor/,
    );
    expect((await keyroll(["status", "away", "--refresh", "--fail-on", "due"])).code).toBe(7);
  });

  it("prints no secret anywhere, old or new", () => {
    const everything = outputs.filter((each) => !each.startsWith("now:")).join("\n");
    const now = outputs.find((each) => each.startsWith("now:"))!.slice(4);
    expect(now.length).toBeGreaterThan(10);
    for (const secret of [canary, now, valueOf(), "gated-old-value", "slow-old-value"]) {
      expect(everything).not.toContain(secret);
      const log = join(home.folder, "data", "worker.log");
      if (existsSync(log)) expect(readFileSync(log, "utf8")).not.toContain(secret);
    }
  });
});
