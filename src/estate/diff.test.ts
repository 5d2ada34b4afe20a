import { expect, test } from "vitest";
import { diffEstates, formatDiff } from "./diff.ts";
import { loadText } from "./fakes.ts";
import { publicEstate } from "./load.ts";

const before = `version: 1
systems:
  pg: { type: db, url: "\${env:URL}" }
  old: { type: host, address: a }
credentials:
  app:
    kind: password
    owner: me
    issuer: { type: random }
    places:
      role: { type: db.role, system: pg, roles: [a, b] }
      env: { type: file, path: a.env, refresh: 5s }
      gone: { type: model, holder: true }
    policy: { maxAge: 90d, approvals: { retire: 1 } }
  leaves: { kind: key, owner: me, issuer: { type: random }, places: { h: { type: model, holder: true } } }
`;
const after = `version: 1
settings: { observeEvery: 1h }
systems: { pg: { type: db, url: "\${env:URL}", port: 5 } }
credentials:
  app:
    kind: password
    owner: you
    labels: { tier: 1 }
    issuer: { type: random, length: 50 }
    places:
      role: { type: db.role, system: pg, roles: [a] }
      env: { type: file, path: b.env, refresh: 1m }
      new: { type: model, holder: true }
    data: { rows: { writtenUnder: new, readBy: role, takes: 3d } }
    policy: { rotateBefore: 30d, maxAge: 90d, window: "daily 01:00-02:00" }
  comes: { kind: key, owner: me, issuer: { type: random }, places: { h: { type: model, holder: true } } }
`;

test("the difference of two estates, in words", async () => {
  const [old, now] = [
    (await loadText(before, { URL: "db://secret-one" })).estate,
    (await loadText(after, { URL: "db://secret-two" })).estate,
  ];
  const text = formatDiff(diffEstates(old, now));
  expect(text).toBe(`~ settings: observeEveryMs changed
~ system pg: settings changed: port
- system old
~ credential app: owner me -> you
~ credential app: labels changed: tier
~ credential app: issuer: settings changed: length
~ credential app: place role: traits changed: capacity
~ credential app: place role: settings changed: roles
~ credential app: place env: refresh 5 s -> 1 min
~ credential app: place env: settings changed: path
~ credential app: place new added
~ credential app: place gone removed
~ credential app: data rows added
~ credential app: policy: rotateBefore never -> 30 d
~ credential app: policy: windows none -> daily 01:00-02:00
~ credential app: policy: approvals retire 1 -> none
+ credential comes
- credential leaves`);
  expect(text).not.toContain("secret");
  // What is stored has no resolved settings, and gives the same.
  expect(formatDiff(diffEstates(publicEstate(old), now))).toBe(text);
});

test("the same estate written otherwise is no difference", async () => {
  const one = (await loadText(before, { URL: "db://a" })).estate;
  const two = (await loadText(`# moved\n\n${before.replace("90d", "P90D")}`, { URL: "db://b" })).estate;
  expect(diffEstates(one, two)).toEqual([]);
  expect(two.digest).toBe(one.digest);
});
