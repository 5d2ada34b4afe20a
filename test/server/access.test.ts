/** Who may do what: every route with every role and owner, against a table that is written down here a second time, by hand. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { access, permissionsOf } from "../../src/server/access.ts";
import { operationNames, operations, type OperationName } from "../../src/server/operations.ts";
import { permissions, roles, type Role } from "../../src/server/schema.ts";
import { canaries, openHarness, type Harness, type Someone } from "./harness.ts";

type Answer = "yes" | "no" | "hidden" | "only-here";
/**
 * For somebody who has the role for `platform` only. About something of that owner; what belongs to `payments` is hidden from all of them.
 * `only-here`: an answer without what may not be read.
 */
const wanted: Record<OperationName, Record<Role, Answer>> = {
  getSession: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  signIn: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  signOut: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  getOverview: { viewer: "only-here", operator: "only-here", approver: "only-here", admin: "only-here" },
  listCredentials: { viewer: "only-here", operator: "only-here", approver: "only-here", admin: "only-here" },
  getCredential: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  explainCredential: { viewer: "no", operator: "yes", approver: "yes", admin: "yes" },
  getGraph: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  observeCredential: { viewer: "no", operator: "yes", approver: "yes", admin: "yes" },
  planRotation: { viewer: "no", operator: "yes", approver: "yes", admin: "yes" },
  listRotations: { viewer: "only-here", operator: "only-here", approver: "only-here", admin: "only-here" },
  startRotation: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  getRotation: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  approveRotation: { viewer: "no", operator: "no", approver: "yes", admin: "yes" },
  rejectRotation: { viewer: "no", operator: "no", approver: "yes", admin: "yes" },
  pauseRotation: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  resumeRotation: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  rollBackRotation: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  cancelRotation: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  listTasks: { viewer: "only-here", operator: "only-here", approver: "only-here", admin: "only-here" },
  getTask: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  taskDone: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  taskHandOver: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  taskRefuse: { viewer: "no", operator: "yes", approver: "no", admin: "yes" },
  listAudit: { viewer: "only-here", operator: "only-here", approver: "only-here", admin: "only-here" },
  verifyAudit: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  exportAudit: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  listFound: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  getSettings: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  runDoctor: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  listPeople: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  addPerson: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  changePerson: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  makeSignInLink: { viewer: "no", operator: "no", approver: "no", admin: "no" },
  listTokens: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  createToken: { viewer: "yes", operator: "yes", approver: "yes", admin: "yes" },
  revokeToken: { viewer: "hidden", operator: "hidden", approver: "hidden", admin: "hidden" },
  streamEvents: { viewer: "only-here", operator: "only-here", approver: "only-here", admin: "only-here" },
};

let h: Harness;
let root: Someone;
const people = new Map<Role, Someone>();
/** One rotation and one task for each owner, which no worker touches. */
const known: Record<string, { credential: string; rotation: string; task: string }> = {};
let rootToken = "";

beforeAll(async () => {
  h = await openHarness();
  root = await h.admin();
  for (const role of roles) people.set(role, await h.someone(`${role}-of-platform`, [[role, "platform"]]));
  const { store } = await h.app.engine();
  for (const [owner, credential] of [
    ["platform", "gated"],
    ["payments", "other"],
  ] as const) {
    const preview = await root.client.call("planRotation", { params: { name: credential }, body: {} });
    const { id } = await root.client.call("startRotation", {
      body: { credential, planDigest: preview.options[0]!.plan.digest },
    });
    const task = await store.tasks.open({
      rotation: id,
      credential,
      place: "file",
      action: "add",
      version: `${credential}#2`,
      instructions: { title: "Do it", steps: [], minutes: 1 },
    });
    known[owner] = { credential, rotation: id, task: task.id };
  }
  rootToken = (
    await root.client.call("createToken", { body: { label: "root's", grants: [{ role: "viewer", owner: "*" }] } })
  ).id;
});
afterAll(() => h.stop());

function requestOf(name: OperationName, owner: string): { method: string; path: string; body: unknown } {
  const [method, path] = operations[name];
  const { credential, rotation, task } = known[owner]!;
  const id = path.startsWith("/api/v1/tasks") ? task : path.startsWith("/api/v1/tokens") ? rootToken : rotation;
  const bodies: Partial<Record<OperationName, unknown>> = {
    signIn: { code: "x".repeat(43) },
    startRotation: { credential, planDigest: "0".repeat(64) },
    approveRotation: { phase: "switch", planDigest: "0".repeat(64) },
    rejectRotation: { phase: "switch", planDigest: "0".repeat(64) },
    taskHandOver: { to: "somebody" },
    addPerson: { person: "mallory", grants: [{ role: "admin", owner: "*" }] },
    changePerson: { grants: [{ role: "admin", owner: "*" }] },
    createToken: { label: "mine", grants: [{ role: "viewer", owner }] },
  };
  return {
    method,
    path: path.replace("{name}", credential).replace("{id}", id).replace("{person}", "root"),
    body: bodies[name] ?? {},
  };
}
const sessions = new Set<OperationName>(["signIn", "signOut"]);
const init = (method: string, body: unknown): RequestInit =>
  method === "GET" || method === "DELETE"
    ? { method }
    : { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };

/** Reads a little and lets go, because a stream has no end. */
async function textOf(answer: Response): Promise<string> {
  if (answer.headers.get("content-type")?.startsWith("text/event-stream") !== true) return await answer.text();
  const reader = answer.body!.getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return new TextDecoder().decode(value);
}

describe("every route, every role", () => {
  test("the table has exactly the operations that there are", () => {
    expect(Object.keys(wanted).toSorted()).toEqual([...operationNames].toSorted());
    expect(Object.keys(access).toSorted()).toEqual([...operationNames].toSorted());
  });

  for (const role of roles) {
    test(`${role} of one owner`, async () => {
      const someone = people.get(role)!;
      for (const name of operationNames.filter((each) => !sessions.has(each))) {
        for (const owner of ["platform", "payments"]) {
          const { method, path, body } = requestOf(name, owner);
          const { headers, ...rest } = init(method, body) as RequestInit & { headers?: Record<string, string> };
          const answer = await someone.fetch(path, { ...rest, ...(headers === undefined ? {} : { headers }) });
          const text = await textOf(answer);
          const about = `${name} by ${role} about ${owner}: ${answer.status} ${text.slice(0, 200)}`;
          expect(answer.status, about).toBeLessThan(500);
          for (const canary of canaries) expect(text, about).not.toContain(canary);
          const rule = access[name];
          const scoped = rule.who === "permitted" && !["installation", "listed"].includes(rule.about);
          const want = scoped && owner === "payments" ? "hidden" : wanted[name][role];
          if (name === "createToken" && owner === "payments") expect(answer.status, about).toBe(403);
          else if (want === "no") expect(answer.status, about).toBe(403);
          else if (want === "hidden") {
            expect(answer.status, about).toBe(404);
            expect(text, about).toContain("or you may not see it");
          } else {
            // Allowed: it may still be refused for its own reasons, such as a digest of nothing.
            expect([200, 409], about).toContain(answer.status);
            if (want === "only-here") expect(text, about).not.toMatch(/"other|payments/);
          }
        }
      }
    });
  }

  test("nobody who is not signed in gets anything, and nothing has changed", async () => {
    const before = (await (await h.app.openStoreOnly()).store.journal.head()).seq;
    for (const name of operationNames) {
      const rule = access[name];
      for (const headers of [{}, { authorization: "Bearer keyroll_nothing" }, { cookie: "keyroll=nothing" }]) {
        const { method, path, body } = requestOf(name, "platform");
        const options = init(method, body);
        const answer = await fetch(`${h.server.url}${path}`, {
          ...options,
          headers: { "x-keyroll": "1", ...(options.headers as Record<string, string>), ...headers },
        });
        await answer.text();
        if (rule.who === "anybody" && !("authorization" in headers)) expect([200, 401, 429]).toContain(answer.status);
        else expect(answer.status, name).toBe(401);
      }
    }
    expect((await (await h.app.openStoreOnly()).store.journal.head()).seq).toBe(before);
  });

  test("a token does no more than it was given and its person may, and makes no other", async () => {
    const operator = people.get("operator")!;
    const made = await operator.client.call("createToken", {
      body: { label: "read", grants: [{ role: "viewer", owner: "platform" }], days: 1 },
    });
    const send = (name: OperationName, owner = "platform"): Promise<Response> => {
      const { method, path, body } = requestOf(name, owner);
      const options = init(method, body);
      return fetch(`${h.server.url}${path}`, {
        ...options,
        headers: { ...(options.headers as Record<string, string>), authorization: `Bearer ${made.secret}` },
      });
    };
    expect((await send("getCredential")).status).toBe(200);
    expect((await send("getCredential", "payments")).status).toBe(404);
    expect((await send("pauseRotation")).status).toBe(403);
    expect((await send("createToken")).status).toBe(403);
    const { items } = await operator.client.call("listTokens");
    expect(items.find((token) => token.id === made.id)!.lastUsed).not.toBeNull();
    expect(JSON.stringify(items)).not.toContain(made.secret.slice(8));
    // It ends with its person's rights, and with itself.
    await root.client.call("changePerson", { params: { person: operator.person }, body: { disabled: true } });
    expect((await send("getCredential")).status).toBe(401);
    expect((await operator.fetch("/api/v1/overview")).status).toBe(401);
    await root.client.call("changePerson", { params: { person: operator.person }, body: { disabled: false } });
    expect((await send("getCredential")).status).toBe(200);
    await root.client.call("revokeToken", { params: { id: made.id } });
    expect((await send("getCredential")).status).toBe(401);
  });

  test("nobody approves what they started, whatever they may do, and nobody raises themselves", async () => {
    const show = await root.client.call("getRotation", { params: { id: known["platform"]!.rotation } });
    expect(show.can).not.toContain("approve");
    const answer = await root.fetch(`/api/v1/rotations/${show.id}/approve`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ phase: "switch", planDigest: show.planDigest }),
    });
    expect(answer.status).toBe(403);
    expect(await answer.text()).toContain("somebody else must approve");
    const self = await root.fetch("/api/v1/people/root", {
      method: "PATCH",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ disabled: true }),
    });
    expect(self.status).toBe(409);
  });
});

test("the table in the documentation is this one", () => {
  const text = readFileSync(join(import.meta.dirname, "..", "..", "docs", "api.md"), "utf8");
  for (const name of operationNames) {
    const rule = access[name];
    const [method, path] = operations[name];
    const row = text.split("\n").find((line) => line.startsWith(`| \`${name}\` `));
    expect(row, name).toContain(`\`${method} ${path.replace("/api/v1", "")}\``);
    if (rule.who === "permitted") expect(row, name).toContain(`\`${rule.permission}\``);
    else expect(row, name).toContain(rule.who === "anybody" ? "anybody" : "signed in");
  }
  for (const role of roles) {
    const row = text.split("\n").find((line) => line.startsWith(`| ${role} |`))!;
    const cells = row.split("|").slice(2, -1);
    expect(cells.map((cell) => cell.trim() === "yes")).toEqual(
      permissions.map((permission) => permissionsOf[role].includes(permission)),
    );
  }
});
