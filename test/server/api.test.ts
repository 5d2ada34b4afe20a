/** The API as its users see it: from the first sign-in to a rotation that a second person approves. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ApiProblem } from "../../src/server/client.ts";
import { canaries, openHarness, until, type Harness, type Someone } from "./harness.ts";

let h: Harness;
let root: Someone;
beforeAll(async () => {
  h = await openHarness();
  root = await h.admin();
  await h.app.status({ observe: "always" });
});
afterAll(() => h.stop());

const refused = async (call: Promise<unknown>): Promise<ApiProblem> => {
  const error: unknown = await call.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ApiProblem);
  return error as ApiProblem;
};

describe("reading", () => {
  test("the session says who is signed in and what they may do", async () => {
    expect(await root.client.call("getSession")).toMatchObject({
      person: "root",
      via: "session",
      permissions: { administer: ["*"], operate: ["*"] },
      live: false,
    });
    const nobody = await fetch(`${h.server.url}/api/v1/session`);
    expect(await nobody.json()).toMatchObject({ person: null, grants: [] });
  });

  test("the overview states the worst fact, and never a good one about what was not seen", async () => {
    const overview = await root.client.call("getOverview");
    expect(overview.credentials).toBe(4);
    expect(overview.counts.map((each) => each.id)).toEqual(["expired", "late", "out-of-step", "waiting", "rotating"]);
    expect(overview.verdict.level).not.toBe("fine");
    expect(overview.sources.map((source) => source.name)).toEqual(["file.value", "manual"]);
  });

  test("the list is sorted and filtered by the server, and its pages join without a gap", async () => {
    const names: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await root.client.call("listCredentials", {
        query: { sort: "name", limit: 2, ...(cursor === undefined ? {} : { cursor }) },
      });
      expect(page.total).toBe(4);
      names.push(...page.items.map((item) => item.name));
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
    expect(names).toEqual(["by-hand", "gated", "other", "token"]);
    const of = async (q: string) =>
      (await root.client.call("listCredentials", { query: { q, sort: "name" } })).items.map((item) => item.name);
    expect(await of("owner:payments")).toEqual(["other"]);
    expect(await of("label:tier=gold")).toEqual(["token"]);
    expect(await of("place:console")).toEqual(["by-hand"]);
    expect(await of("gat")).toEqual(["gated"]);
    expect(await of("owner:payments gat")).toEqual([]);
    const down = await root.client.call("listCredentials", { query: { sort: "name", order: "desc" } });
    expect(down.items.map((item) => item.name)).toEqual(["token", "other", "gated", "by-hand"]);
  });

  test("a filter that is not understood, and a cursor of another list, are told", async () => {
    expect((await refused(root.client.call("listCredentials", { query: { q: "colour:red" } }))).problem).toMatchObject({
      status: 400,
      kind: "invalid",
      errors: [{ path: "query.q" }],
    });
    const page = await root.client.call("listCredentials", { query: { sort: "name", limit: 1 } });
    const wrong = refused(
      root.client.call("listCredentials", { query: { sort: "owner", limit: 1, cursor: page.nextCursor! } }),
    );
    expect((await wrong).problem).toMatchObject({ status: 400, errors: [{ path: "query.cursor" }] });
  });

  test("nothing is sent again that did not change", async () => {
    const first = await root.client.read("getCredential", { params: { name: "token" } });
    expect(first!.etag).toMatch(/^W\//);
    expect(await root.client.read("getCredential", { params: { name: "token" } }, { etag: first!.etag! })).toBeNull();
  });

  test("a credential has its places, and a graph around it", async () => {
    const detail = await root.client.call("getCredential", { params: { name: "token" } });
    expect(detail.placeList.map((place) => place.name).toSorted()).toEqual(["client", "server"]);
    expect(detail.can).toEqual(["read", "plan", "operate", "approve", "administer"]);
    const graph = await root.client.call("getGraph", { params: { name: "token" }, query: { depth: 2 } });
    expect(graph.nodes.map((node) => node.id)).toContain("place:token/server");
    expect(graph.edges).toContainEqual(
      expect.objectContaining({ from: "credential:token", to: "place:token/client", kind: "holds" }),
    );
  });

  test("settings, doctor and the journal answer", async () => {
    const settings = await root.client.call("getSettings");
    expect(settings.owners).toEqual(["payments", "platform"]);
    expect(settings.connectors.map((connector) => connector.type)).toContain("file.value");
    const doctor = await root.client.call("runDoctor", { body: {} });
    expect(doctor.findings.map((finding) => finding.what)).toContain("store");
    expect(await root.client.call("verifyAudit")).toMatchObject({ ok: true, problem: null });
    const audit = await root.client.call("listAudit", { query: { limit: 2 } });
    expect(audit.items).toHaveLength(2);
    const next = await root.client.call("listAudit", { query: { limit: 2, cursor: audit.nextCursor! } });
    expect(next.items[0]!.seq).toBe(audit.items[1]!.seq - 1);
    const exported = await root.client.call("exportAudit");
    expect(exported.trim().split("\n").at(-1)).toContain("journal-export-end-1");
  });
});

describe("acting", { timeout: 60_000 }, () => {
  test("starts exactly the plan that was seen, and once for one key", async () => {
    const worker = await h.worker();
    const preview = await root.client.call("planRotation", { params: { name: "token" }, body: {} });
    expect(preview.options).toHaveLength(1);
    const [option] = preview.options;
    expect(option).toMatchObject({ startable: true, plan: { safety: { verdict: expect.stringMatching(/^proved/) } } });
    const other = refused(
      root.client.call("startRotation", { body: { credential: "token", planDigest: "0".repeat(64) } }),
    );
    expect((await other).problem).toMatchObject({ status: 409, kind: expect.any(String) });

    const start = () =>
      root.client.call(
        "startRotation",
        { body: { credential: "token", planDigest: option!.plan.digest } },
        { idempotencyKey: "start-once" },
      );
    const rotation = await start();
    expect(await start()).toEqual(rotation);
    const done = await until(
      () => root.client.call("getRotation", { params: { id: rotation.id } }),
      (run) => run.status === "done" || run.status === "halted",
    );
    expect(done).toMatchObject({ status: "done", turn: "nobody", startedBy: "root", can: [] });
    expect(done.stepStates.every((step) => step.state === "done")).toBe(true);
    expect(readFileSync(join(h.folder, "server.env"), "utf8")).not.toContain(canaries[0]);
    expect(worker.id).toBeTruthy();
    const used = refused(
      root.client.call(
        "startRotation",
        { body: { credential: "gated", planDigest: option!.plan.digest } },
        { idempotencyKey: "start-once" },
      ),
    );
    expect((await used).status).toBe(422);
    const after = await until(
      () => root.client.call("getCredential", { params: { name: "token" } }),
      (seen) => seen.rotation === null,
    );
    expect(after).toMatchObject({ current: done.to, copies: 2, inStep: 2 });
    expect(after.versions[0]!.fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  test("waits for somebody else, who reads the plan and agrees to it", async () => {
    await h.worker();
    const bob = await h.someone("bob", [["approver", "platform"]]);
    const preview = await root.client.call("planRotation", { params: { name: "gated" }, body: {} });
    const { id, planDigest } = await root.client.call("startRotation", {
      body: { credential: "gated", planDigest: preview.options[0]!.plan.digest },
    });
    const show = (someone: Someone) => someone.client.call("getRotation", { params: { id } });
    const waiting = await until(
      () => show(root),
      (run) => run.waitsForApproval !== null,
    );
    expect(waiting).toMatchObject({
      turn: "person",
      waitsForApproval: { phase: "switch", needed: 1, given: [], mayApprove: false },
    });
    expect(await show(bob)).toMatchObject({ waitsForApproval: { mayApprove: true, whyNot: null } });
    await until(
      () => root.client.call("getOverview"),
      ({ doNext }) => doNext.some((each) => each.credential === "gated" && each.action === "approve"),
    );

    const own = refused(root.client.call("approveRotation", { params: { id }, body: { phase: "switch", planDigest } }));
    expect((await own).problem).toMatchObject({ status: 403, kind: "not-allowed" });
    const stale = refused(
      bob.client.call("approveRotation", { params: { id }, body: { phase: "switch", planDigest: "1".repeat(64) } }),
    );
    expect((await stale).status).toBe(409);
    expect(readFileSync(join(h.folder, "gated.txt"), "utf8")).toBe(canaries[1]);

    const yes = { params: { id }, body: { phase: "switch" as const, planDigest } };
    await Promise.all([
      bob.client.call("approveRotation", yes, { idempotencyKey: "yes" }),
      bob.client.call("approveRotation", yes, { idempotencyKey: "yes" }).catch((error: unknown) => error),
    ]);
    const done = await until(
      () => show(root),
      (run) => run.ended !== null || run.status === "halted",
    );
    expect(done.status).toBe("done");
    expect(done.approvals).toEqual([expect.objectContaining({ person: "bob", verdict: "approved" })]);
  });

  test("a task is shown with its values, and done by a person", async () => {
    await h.worker();
    const preview = await root.client.call("planRotation", { params: { name: "by-hand" }, body: {} });
    expect(preview.options[0]!.whyNot).toBeNull();
    const { id } = await root.client.call("startRotation", {
      body: { credential: "by-hand", planDigest: preview.options[0]!.plan.digest },
    });
    const tasks = await until(
      () => root.client.call("listTasks"),
      (list) => list.items.length > 0,
    );
    const [task] = tasks.items;
    expect(task).toMatchObject({ rotation: id, credential: "by-hand", owner: "platform", state: "open" });
    const handed = await root.client.call("taskHandOver", {
      params: { id: task!.id },
      body: { to: "carol", comment: "she has the console" },
    });
    expect(handed).toMatchObject({ person: "carol", note: "she has the console" });
    expect(await root.client.call("getRotation", { params: { id } })).toMatchObject({ turn: "person" });
    await root.client.call("taskDone", { params: { id: task!.id }, body: {} });
    // It was not done: the machine looked, and says so.
    const again = await until(
      () => root.client.call("getTask", { params: { id: task!.id } }),
      (seen) => seen.state === "open" && seen.checked !== null,
    );
    expect(again.checked!.detail).toBeTruthy();
    const paused = await root.client.call("pauseRotation", { params: { id }, body: { comment: "later" } });
    expect(paused).toMatchObject({ status: "paused", reason: expect.stringContaining("later") });
    expect((await root.client.call("resumeRotation", { params: { id }, body: {} })).status).not.toBe("paused");
  });

  test("a breach shows both strategies with their price, and wants the name typed", async () => {
    const preview = await root.client.call("planRotation", { params: { name: "other" }, body: { mode: "breach" } });
    expect(preview.options.map((option) => option.plan.strategy)).toEqual(["availability-first", "contain-first"]);
    for (const option of preview.options) expect(option.exposureMs ?? 0).toBeGreaterThanOrEqual(0);
    const untyped = refused(
      root.client.call("startRotation", {
        body: { credential: "other", mode: "breach", planDigest: preview.options[0]!.plan.digest },
      }),
    );
    expect((await untyped).problem.errors).toEqual([{ path: "body.confirm", detail: "Write other." }]);
  });
});

test("rotations come in pages, newest first, found by words", async () => {
  const all = (await root.client.call("listRotations")).items.map((item) => item.id);
  expect(all.length).toBeGreaterThanOrEqual(3);
  const paged: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await root.client.call("listRotations", {
      query: { limit: 1, ...(cursor === undefined ? {} : { cursor }) },
    });
    expect(page.total).toBe(all.length);
    paged.push(...page.items.map((item) => item.id));
    cursor = page.nextCursor ?? undefined;
  } while (cursor !== undefined);
  expect(paged).toEqual(all);
  const found = await root.client.call("listRotations", { query: { q: "GATED done" } });
  expect(found).toMatchObject({ total: 1, items: [{ credential: "gated", status: "done" }] });
  expect(await root.client.call("listRotations", { query: { status: "active", credential: "token" } })).toMatchObject({
    total: 0,
  });
  const payments = await h.someone("reader", [["viewer", "payments"]]);
  expect(await payments.client.call("listRotations")).toMatchObject({ total: 0, items: [] });
});

test("no value of a secret was in any answer, in any form", () => {
  const now = ["server.env", "client.json", "gated.txt", "other.txt"].map((name) =>
    readFileSync(join(h.folder, name), "utf8").trim(),
  );
  const fresh = [/^API_TOKEN=(.*)$/m.exec(now[0]!)![1]!, now[2]!, now[3]!];
  expect(fresh[0]).not.toBe(canaries[0]);
  expect(h.said.length).toBeGreaterThan(50);
  for (const value of [...canaries, ...fresh]) {
    const bytes = Buffer.from(value);
    for (const form of [
      value,
      encodeURIComponent(value),
      bytes.toString("base64").replace(/=+$/, ""),
      bytes.toString("base64url"),
      bytes.toString("hex"),
    ])
      for (const text of h.said) expect(text.includes(form), `a value in ${text.slice(0, 60)}`).toBe(false);
  }
});
