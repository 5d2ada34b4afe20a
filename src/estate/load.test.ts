import { mkdtemp, mkdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { CredentialDecl } from "../core/place.ts";
import { dayMs, hourMs, minuteMs } from "../core/time.ts";
import { loadText, problemsOf, testRegistry } from "./fakes.ts";
import { loadEstate, publicEstate } from "./load.ts";
import { EstateError } from "./problem.ts";

const whole = `
version: 1
defaults: { owner: platform, labels: { team: core }, policy: { soak: 1m, maxAge: 90d, approvals: { switch: 1 } } }
settings: { requestLife: 90s }
systems:
  pg: { type: db, url: "\${env:URL}", port: "\${env:PORT}", tls: "\${env:TLS:-true}", keyFile: ./id }
credentials:
  # The password of the shop.
  app-db-password:
    kind: password
    owner: payments
    labels: { tier: 1 }
    issuer: { type: random, length: 40 }
    places:
      role: { type: db.role, system: pg, verifier: true, owner: app, roles: [app_a, app_b], propagation: 2s }
      env: { type: file, holder: true, presentsTo: [role], path: ./app.env, keys: { password: DB }, refresh: 5s }
    policy: { rotateBefore: 30d, maxAge: never, approvals: { retire: 1 }, window: "Sat 02:00-06:00 Europe/Amsterdam" }
`;
const env = { URL: "db://u:s3cr3t-value@h/d", PORT: "5432" };

/** A credential with these places, in one line each. */
function estate(places: string, more = "", issuer = "issuer: { type: random }"): string {
  return `version: 1\nsystems: { pg: { type: db, url: "db://h" } }\ncredentials:\n  c:\n    kind: secret\n    owner: me\n    policy: { maxAge: 1d }\n    ${issuer}\n${more}    places:\n${places
    .trim()
    .split("\n")
    .map((line) => `      ${line.trim()}`)
    .join("\n")}\n`;
}
const model = "v: { type: model, verifier: true }\nh: { type: model, holder: true }";
async function only(text: string): Promise<CredentialDecl> {
  const [credential] = (await loadText(text)).estate.credentials;
  if (credential === undefined) throw new Error("There is no credential.");
  return credential;
}

describe("a whole estate", () => {
  test("becomes plain declarations", async () => {
    const { estate: found, files, notes } = await loadText(whole, env);
    expect(found.systems).toMatchObject([
      {
        name: "pg",
        type: "db",
        config: { url: env.URL, port: 5432, tls: true, keyFile: "/estate/id" },
        declared: { url: "${env:URL}", port: "${env:PORT}", keyFile: "./id" },
        source: "/estate/keyroll.yaml:6",
      },
    ]);
    expect(found.settings).toEqual({ requestLifeMs: 90_000, observeEveryMs: 15 * minuteMs });
    expect(found.credentials).toHaveLength(1);
    expect(found.credentials[0]).toMatchObject({
      name: "app-db-password",
      kind: "password",
      owner: "payments",
      labels: { team: "core", tier: "1" },
      source: "/estate/keyroll.yaml:9",
      issuer: { type: "random", config: { length: 40 }, traits: { roles: ["issuer"], changeMs: 1 } },
      policy: {
        rotateBeforeMs: 30 * dayMs,
        maxAgeMs: null,
        soakMs: minuteMs,
        marginMs: dayMs,
        approvals: { switch: 1, retire: 1 },
        windows: [{ days: [6], timeZone: "Europe/Amsterdam" }],
        notify: [],
      },
      places: [
        {
          name: "role",
          type: "db.role",
          system: "pg",
          presentsTo: [],
          config: { roles: ["app_a", "app_b"], owner: "app" },
          traits: { roles: ["verifier"], capacity: 2, propagationMs: 2000 },
        },
        {
          name: "env",
          type: "file",
          presentsTo: ["role"],
          config: { path: "/estate/app.env", format: "dotenv" },
          traits: { roles: ["holder"], storeCapacity: 1, refreshMs: 5000 },
        },
      ],
    });
    expect([files, notes]).toEqual([["/estate/keyroll.yaml"], []]);
  });

  test("its digest counts what is declared, not how, and no secret", async () => {
    const digest = async (text: string, values: Record<string, string> = env) =>
      (await loadText(text, values)).estate.digest;
    const first = await digest(whole);
    expect(first).toMatch(/^[0-9a-f]{64}$/);
    expect(await digest(whole.replace("# The password of the shop.", "# Another comment\n\n"))).toBe(first);
    expect(
      await digest(whole.replace("{ type: random, length: 40 }", '\n      length: 40\n      "type": random')),
    ).toBe(first);
    expect(await digest(whole.replace("1m,", "60s,").replace("tier: 1", 'tier: "1"'))).toBe(first);
    expect(await digest(whole, { ...env, URL: "db://another", PORT: "1" })).toBe(first);
    for (const change of [
      ["length: 40", "length: 41"],
      ["refresh: 5s", "refresh: 6s"],
      ["env:PORT}", "env:PORT2:-1}"],
      ["owner: payments", "owner: sales"],
      ["Sat 02", "Sun 02"],
      ["./app.env", "./b.env"],
    ] as const) {
      expect(await digest(whole.replace(change[0], change[1])), change.join(" -> ")).not.toBe(first);
    }
  });

  test("its public form and its text have no resolved secret", async () => {
    const loaded = await loadText(whole, env);
    expect(JSON.stringify(loaded.estate)).toContain("s3cr3t");
    expect(JSON.stringify(publicEstate(loaded.estate))).not.toContain("s3cr3t");
    expect(publicEstate(loaded.estate).systems[0]?.config).toMatchObject({ url: "${env:URL}" });
    expect(loaded.text).toBe(whole);
  });

  test("a secret in plain text is allowed, noted, and blotted out of records", async () => {
    const text = `version: 1\nsystems:\n  a: { type: db, url: "db://u:hunter22@h", password: "correct horse" }\n`;
    const { notes, estate: found, text: kept } = await loadText(text);
    expect(notes.map((note) => `${note.line} ${note.path} ${note.text}`)).toEqual([
      "3 systems.a is used by no place and no issuer",
      "3 systems.a.url is a secret in plain text; put it into ${env:NAME} or ${file:path}",
      "3 systems.a.password is a secret in plain text; put it into ${env:NAME} or ${file:path}",
    ]);
    expect(found.systems[0]?.config).toMatchObject({ password: "correct horse" });
    expect(JSON.stringify(publicEstate(found)) + kept).not.toMatch(/hunter22|correct horse/);
    expect(found.systems[0]?.declared).toEqual({ url: "db://u:[secret]@h", password: "[secret]" });
  });
});

describe("places", () => {
  test("a role goes without saying where there is only one, and naming no verifier means all", async () => {
    const { places } = await only(
      estate(
        "a: { type: db.role, system: pg, roles: [x] }\nb: { type: model, verifier: true }\nf: { type: file, path: f }\nw: { type: watch, host: x }",
      ),
    );
    expect(places.map((place) => [place.name, place.traits.roles, place.presentsTo])).toEqual([
      ["a", ["verifier"], []],
      ["b", ["verifier"], []],
      ["f", ["holder"], ["a", "b"]],
      ["w", [], []],
    ]);
  });
  test("presentsTo may be one name, or explicitly nobody", async () => {
    const { places } = await only(
      estate(
        "v: { type: model, verifier: true }\na: { type: model, holder: true, presentsTo: v }\nb: { type: model, holder: true, presentsTo: [] }",
      ),
    );
    expect(places.map((place) => place.presentsTo)).toEqual([[], ["v"], []]);
  });
  test("a model declares its traits", async () => {
    const { places, issuer } = await only(
      estate(
        "v: { type: model, verifier: true, issuer: true, capacity: 2, minting: theirs, issuingTrusts: true, transitions: [no-two-to-two], propagation: 5m, human: true, change: 10m }\nh: { type: model, holder: true, staging: false, storeCapacity: 1, refresh: 1h, drain: 90m }",
        "",
        "",
      ),
    );
    expect(places[0]?.traits).toMatchObject({
      roles: ["issuer", "verifier"],
      capacity: 2,
      minting: "theirs",
      issuingTrusts: true,
      transitions: ["no-two-to-two"],
      propagationMs: 5 * minuteMs,
      human: true,
      changeMs: 10 * minuteMs,
    });
    expect(places[1]?.traits).toMatchObject({
      staging: false,
      storeCapacity: 1,
      refreshMs: hourMs,
      drain: "timed",
      drainMs: 90 * minuteMs,
    });
    expect(issuer).toMatchObject({ type: "model", place: "v", traits: { minting: "theirs" } });
  });
  test("a declared time changes a trait, and a drain of zero ends it", async () => {
    const { places } = await only(
      estate(
        "a: { type: cloud.app, appId: abcd, verifier: true, issuer: true, drain: 0 }\nb: { type: model, holder: true }",
        "",
        "",
      ),
    );
    expect(places[0]?.traits).toMatchObject({ drain: "instant", drainMs: 0 });
  });
  test("a place that issues brings its connector's issuer", async () => {
    const short = await only(
      estate(
        "a: { type: cloud.app, appId: abcd, verifier: true, issuer: true }\nb: { type: model, holder: true }",
        "",
        "",
      ),
    );
    expect(short.issuer).toMatchObject({
      type: "cloud.app",
      place: "a",
      config: { appId: "abcd", days: 180 },
      traits: { issuingTrusts: true },
    });
    const long = await only(
      estate(
        "a: { type: cloud.app, appId: abcd, verifier: true, issuer: true }\nb: { type: model, holder: true }",
        "",
        "issuer: { place: a, appId: abcd, days: 90 }",
      ),
    );
    expect(long.issuer).toMatchObject({ type: "cloud.app", place: "a", config: { days: 90 } });
  });
  test("a data set makes records of what its holder writes", async () => {
    const credential = await only(estate(model, "    data: { orders: { writtenUnder: h, readBy: v, takes: 37d } }\n"));
    expect(credential.data).toEqual([
      { name: "orders", writtenUnder: "h", readBy: ["v"], drainMs: 37 * dayMs, source: "/estate/keyroll.yaml:9" },
    ]);
    // Its place is what it was: the records lie between the two, and say nothing of what else it presents to.
    expect(credential.places[1]).toMatchObject({ presentsTo: ["v"], traits: { drain: "instant" } });
  });
  test("a holder may be another credential, and takes as long as its rotation", async () => {
    const text = `version: 1
defaults: { owner: me, policy: { maxAge: 1d } }
credentials:
  root:
    kind: ca
    issuer: { type: ca }
    places:
      bundle: { type: model, verifier: true, admits: issuer }
      web: { credential: leaf, presentsTo: bundle }
  leaf:
    kind: certificate
    issuer: { type: ca, ca: root, subject: CN=leaf }
    places:
      disk: { type: model, holder: true, change: 3s, refresh: 10s }
    policy: { soak: 1m }
`;
    const { estate: found } = await loadText(text);
    expect(found.credentials[0]?.places[1]).toMatchObject({
      type: "credential",
      credential: "leaf",
      presentsTo: ["bundle"],
      // Issuing, two changes of three seconds, the slowest reader, the soak.
      traits: { roles: ["holder"], staging: false, changeMs: 5 + 6000 + 10_000 + minuteMs },
    });
    expect(found.credentials[1]?.issuer).toMatchObject({ ca: "root", config: { ca: "root", subject: "CN=leaf" } });
  });
  test("a system's sign-in may be a credential: Keyroll is then a holder of it", async () => {
    const text = whole.replace("keyFile: ./id }", "signIn: app-db-password }");
    const loaded = await loadText(text, env);
    expect(loaded.notes).toEqual([]);
    expect(loaded.estate.systems[0]).toMatchObject({ signIn: "app-db-password", config: { port: 5432 } });
    expect(loaded.estate.credentials[0]?.places[2]).toMatchObject({
      name: "keyroll sign-in (pg)",
      signsInTo: "pg",
      presentsTo: ["role"],
      traits: { roles: ["holder"], storeCapacity: 1, staging: false, refreshMs: 0 },
    });
    expect(await problemsOf(text.replace("signIn: app-db", "signIn: ap-db"), env)).toEqual([
      'keyroll.yaml:6:92  systems.pg.signIn  "ap-db-password" is not a credential of this estate; did you mean "app-db-password"?',
    ]);
  });
  test("a sign-in that would lock Keyroll out is refused", async () => {
    const signIn = (text: string) => text.replace('url: "db://h"', 'url: "db://h", signIn: c');
    expect(await problemsOf(signIn(estate("h: { type: model, holder: true, system: pg }")))).toEqual([
      "keyroll.yaml:2:51  systems.pg.signIn  names c, which no place accepts: after its rotation Keyroll could not sign in any more; add the place in pg that accepts it",
    ]);
    expect(
      (
        await loadText(
          signIn(estate("v: { type: model, verifier: true }\nw: { type: db.role, system: pg, roles: [a] }")),
        )
      ).notes,
    ).toEqual([]);
    const { notes } = await loadText(
      signIn(estate("v: { type: model, verifier: true }\nh: { type: model, holder: true, system: pg }")),
    );
    expect(notes.map((note) => note.text)).toEqual([
      "names c, none of whose verifiers is in pg; is it accepted there?",
    ]);
    const host = "version: 1\nsystems: { h: { type: host, address: x, signIn: c } }\n";
    expect(await problemsOf(`${host}${estate(model).slice(estate(model).indexOf("credentials"))}`)).toContainEqual(
      "keyroll.yaml:2:41  systems.h.signIn  is not possible: Keyroll cannot change its own sign-in to a system of type host; leave it out",
    );
  });
});

describe("includes", () => {
  const root =
    "version: 1\ninclude: [teams/a.yaml, teams/b.yaml]\ndefaults: { owner: platform, policy: { maxAge: 1d, soak: 1m } }\n";
  const a =
    "include: ../shared.yaml\ndefaults: { owner: team-a, policy: { soak: 2m } }\ncredentials:\n  one: { kind: key, issuer: { type: random }, places: { v: { type: file, path: x } } }\n";
  const b =
    "include: ../shared.yaml\ncredentials:\n  two: { kind: key, issuer: { type: random }, places: { v: { type: db.role, system: pg, roles: [x] } } }\n";
  const shared = 'systems: { pg: { type: db, url: "${file:secrets/url}" } }\n';
  const contents = {
    "keyroll.yaml": root,
    "teams/a.yaml": a,
    "teams/b.yaml": b,
    "shared.yaml": shared,
    "secrets/url": "db://from-file\n",
  };

  test("are read once, with paths relative to each, and defaults that reach down", async () => {
    const { estate: found, files, text } = await loadText(contents);
    expect(
      found.credentials.map((each) => [each.name, each.owner, each.policy.soakMs, each.policy.maxAgeMs, each.source]),
    ).toEqual([
      ["one", "team-a", 2 * minuteMs, dayMs, "/estate/teams/a.yaml:4"],
      ["two", "platform", minuteMs, dayMs, "/estate/teams/b.yaml:3"],
    ]);
    expect(found.credentials[0]?.places[0]?.config).toMatchObject({ path: "/estate/teams/x" });
    expect(found.systems[0]).toMatchObject({ config: { url: "db://from-file" }, source: "/estate/shared.yaml:1" });
    expect(files).toEqual([
      "/estate/keyroll.yaml",
      "/estate/teams/a.yaml",
      "/estate/shared.yaml",
      "/estate/teams/b.yaml",
      "/estate/secrets/url",
    ]);
    expect(text).not.toContain("from-file");
    expect(text).toContain("# /estate/teams/b.yaml\n");
  });
  test("split or not, the digest is the same", async () => {
    const one = `version: 1\ndefaults: { owner: platform, policy: { maxAge: 1d, soak: 1m } }\nsystems: { pg: { type: db, url: "\${file:secrets/url}" } }\ncredentials:\n${b.split("\n")[2]}\n`;
    const split = {
      "keyroll.yaml": root.replace("teams/a.yaml, ", ""),
      "teams/b.yaml": b,
      "shared.yaml": shared,
      "secrets/url": "db://x",
    };
    expect((await loadText({ "keyroll.yaml": one, "secrets/url": "db://y" })).estate.digest).toBe(
      (await loadText(split)).estate.digest,
    );
  });
  test("in a circle, missing, or declaring twice, are errors that name both ends", async () => {
    expect(
      await problemsOf({
        "keyroll.yaml": "version: 1\ninclude: [a.yaml, gone.yaml, 5]\nsystems: { pg: { type: host, address: x } }\n",
        "a.yaml": "include: b.yaml\nsystems:\n  pg: { type: host, address: y }\nsettings: {}\n",
        "b.yaml": "version: 1\ninclude: keyroll.yaml\n",
      }),
    ).toEqual(
      [
        "b.yaml:2:10  include  includes go in a circle: keyroll.yaml -> a.yaml -> b.yaml -> keyroll.yaml; take one of these includes out",
        "keyroll.yaml:2:1  include  is neither a name nor a list of names; write one name, or [first, second]",
        'keyroll.yaml:2:19  include[1]  "gone.yaml" does not exist; paths are relative to the file that includes',
        "a.yaml:3:3  systems.pg  is declared twice; the other one is at keyroll.yaml:3",
        "a.yaml:4:1  settings  belongs into the first file; move it to keyroll.yaml",
      ].sort(byFile(["b.yaml", "keyroll.yaml", "a.yaml"])),
    );
  });
  function byFile(order: readonly string[]) {
    return (x: string, y: string) =>
      order.findIndex((each) => x.startsWith(each)) - order.findIndex((each) => y.startsWith(each));
  }
});

describe("what is wrong is said, with its place and what would be right", () => {
  const cases: readonly (readonly [name: string, text: string, expected: readonly string[]])[] = [
    [
      "an empty file",
      "",
      ['keyroll.yaml:1:1  is empty; an estate begins with "version: 1" and has systems and credentials'],
    ],
    [
      "a list",
      "- a",
      [
        'keyroll.yaml:1:1  holds a list where a map is expected; an estate begins with "version: 1" and has systems and credentials',
      ],
    ],
    ["no version", "systems: {}", ["keyroll.yaml:1:1  version  is missing; write version: 1"]],
    [
      "a key twice",
      "version: 1\nsystems: {}\nsystems: {}",
      ["keyroll.yaml:3:1  systems  is written twice; it is already on line 2"],
    ],
    [
      "a tab",
      "version: 1\nsystems:\n\tpg: 1",
      ["keyroll.yaml:3:1  this is not valid YAML: is indented with a tab; use spaces"],
    ],
    [
      "an open quote",
      'version: 1\nsystems: "a',
      [
        "keyroll.yaml:2:12  this is not valid YAML: something is missing here, such as a closing quote or bracket, or a comma",
      ],
    ],
    [
      "two documents",
      "version: 1\n---\nversion: 1",
      [
        "keyroll.yaml:2:1  this is not valid YAML: a second document begins here; an estate is one document, other files come in with include",
      ],
    ],
    [
      "a prototype",
      "version: 1\nsystems: { __proto__: { type: db } }",
      ['keyroll.yaml:2:12  systems.__proto__  the key "__proto__" is not allowed; choose another name'],
    ],
    [
      "a tag",
      "version: 1\nsystems: !!js/function x",
      ['keyroll.yaml:2:24  systems  the tag "tag:yaml.org,2002:js/function" means nothing here; leave it out'],
    ],
    [
      "an alias to nothing",
      "version: 1\nsystems: *x",
      ["keyroll.yaml:2:10  systems  *x refers to nothing above it; write &x where the value is"],
    ],
    [
      "a value within itself",
      "version: 1\nsystems: &x { a: *x }",
      ["keyroll.yaml:2:18  systems.a  *x contains itself; write the value out"],
    ],
    [
      "a number that would change",
      "version: 1\nsystems: { a: { type: db, url: 12345678901234567890 } }",
      [
        "keyroll.yaml:2:32  systems.a.url  the number is too large to be kept exactly; if it is text, write it in quotes",
      ],
    ],
    [
      "a place to nothing",
      estate(
        "v: { type: model, verifier: true }\nrole: { type: model, verifier: true }\nh: { type: model, holder: true, presentsTo: [v, rol] }",
      ),
      [
        'keyroll.yaml:12:55  credentials.c.places.h.presentsTo[1]  "rol" is not a place of this credential; did you mean "role"?',
      ],
    ],
    [
      "a holder that presents to a holder",
      estate(
        "v: { type: model, verifier: true }\na: { type: model, holder: true, presentsTo: b }\nb: { type: model, holder: true }",
      ),
      [
        'keyroll.yaml:11:51  credentials.c.places.a.presentsTo  "b" is not a verifier; write verifier: true there, or name a verifier; there is "v"',
      ],
    ],
    [
      "presentsTo at a verifier",
      estate("v: { type: model, verifier: true, presentsTo: v }"),
      [
        "keyroll.yaml:10:41  credentials.c.places.v.presentsTo  belongs to holders only; write holder: true, or leave it out",
      ],
    ],
    [
      "no role",
      estate("v: { type: model }\na: { type: cloud.app, appId: abcd }"),
      [
        "keyroll.yaml:9:5  credentials.c.places  has no place that accepts or holds it; add one with verifier: true, and one with holder: true",
        "keyroll.yaml:10:7  credentials.c.places.v  has no role; write verifier: true, holder: true or issuer: true",
        "keyroll.yaml:11:7  credentials.c.places.a  has no role; write issuer: true or verifier: true",
      ],
    ],
    [
      "nobody accepts or holds it",
      estate("w: { type: watch, host: x }"),
      [
        "keyroll.yaml:9:5  credentials.c.places  has no place that accepts or holds it; add one with verifier: true, and one with holder: true",
      ],
    ],
    [
      "a role that it cannot have",
      estate("f: { type: file, path: x, verifier: true }\nh: { type: model, holder: true }"),
      ["keyroll.yaml:10:33  credentials.c.places.f.verifier  file cannot be a verifier; write holder: true"],
    ],
    [
      "a role that its settings rule out",
      estate("a: { type: cloud.app, appId: abcd, holder: true }\nv: { type: model, verifier: true }"),
      [
        "keyroll.yaml:10:42  credentials.c.places.a.holder  cloud.app cannot be a holder with these settings; write issuer: true or verifier: true",
      ],
    ],
    [
      "settings without which the role is not known",
      estate("a: { type: cloud.app }"),
      ["keyroll.yaml:10:7  credentials.c.places.a.appId  is missing; write text"],
    ],
    [
      "a role by another word",
      estate("f: { type: file, path: x, holder: yes }"),
      [
        "keyroll.yaml:10:41  credentials.c.places.f.holder  is text where true or false is expected; write true or false (The version that somebody presents is kept here)",
      ],
    ],
    [
      "a window that never opens",
      estate(model).replace("maxAge: 1d", "maxAge: 1d, window: Sat 02:00-02:00"),
      [
        "keyroll.yaml:7:35  credentials.c.policy.window  never opens: 02:00 to 02:00 has no length; for a whole day write 00:00-24:00",
      ],
    ],
    [
      "an unknown time zone",
      estate(model).replace("maxAge: 1d", "maxAge: 1d, windows: [daily 01:00-02:00 Europe/Amsterdm]"),
      [
        'keyroll.yaml:7:37  credentials.c.policy.windows[0]  "Europe/Amsterdm" is not a time zone; did you mean "Europe/Amsterdam"?',
      ],
    ],
    [
      "a negative duration",
      estate("v: { type: model, verifier: true, propagation: -5s }"),
      ['keyroll.yaml:10:54  credentials.c.places.v.propagation  "-5s" is negative; a duration is zero or more'],
    ],
    [
      "a duration without a unit",
      estate(model).replace("maxAge: 1d", "soak: 5"),
      ["keyroll.yaml:7:21  credentials.c.policy.soak  5 has no unit; write 5s, 5m, 5h or 5d"],
    ],
    [
      "the wrong type of system",
      estate("v: { type: db.role, system: hh, roles: [a] }").replace(
        "systems: {",
        "systems: { hh: { type: host, address: x },",
      ),
      [
        'keyroll.yaml:10:35  credentials.c.places.v.system  "hh" is of type host, and db.role needs one of type db; write pg',
      ],
    ],
    [
      "no system",
      estate("v: { type: db.role, roles: [a] }"),
      ["keyroll.yaml:10:7  credentials.c.places.v.system  is missing; db.role needs one of type db: write system: pg"],
    ],
    [
      "a system where none is needed",
      estate("v: { type: file, path: x, system: pg }"),
      ["keyroll.yaml:10:33  credentials.c.places.v.system  is not needed: file is in no system; leave it out"],
    ],
    [
      "an unknown system",
      estate("v: { type: db.role, system: pq, roles: [a] }"),
      ['keyroll.yaml:10:35  credentials.c.places.v.system  "pq" is not a system of this estate; did you mean "pg"?'],
    ],
    [
      "an unknown type",
      estate("v: { type: db.rol, system: pg, roles: [a] }"),
      ['keyroll.yaml:10:18  credentials.c.places.v.type  "db.rol" is not a type of place; did you mean "db.role"?'],
    ],
    [
      "an issuer as a place",
      estate("v: { type: random }"),
      [
        'keyroll.yaml:10:18  credentials.c.places.v.type  "random" is not a type of place; it makes versions: write it under issuer',
      ],
    ],
    [
      "a system as a place",
      estate("v: { type: db }"),
      [
        'keyroll.yaml:10:18  credentials.c.places.v.type  "db" is not a type of place; it is a type of system; there is "db.role"',
      ],
    ],
    [
      "an unknown key of a strict connector",
      estate("v: { type: db.role, system: pg, roles: [a], ownr: b }"),
      ['keyroll.yaml:10:51  credentials.c.places.v.ownr  is not a known key; did you mean "owner"?'],
    ],
    [
      "an unknown key of a connector that would drop it",
      estate("f: { type: file, path: a, fromat: json, reload: { argv: [x], shel: 1 } }"),
      [
        'keyroll.yaml:10:33  credentials.c.places.f.fromat  is not a known key; did you mean "format"?',
        "keyroll.yaml:10:68  credentials.c.places.f.reload.shel  is not a known key",
      ],
    ],
    [
      "a trait at a connector",
      estate("v: { type: db.role, system: pg, roles: [a], capacity: 4 }"),
      [
        "keyroll.yaml:10:51  credentials.c.places.v.capacity  is not a known key; db.role knows this about itself, only a place of type model declares it",
      ],
    ],
    [
      "no issuer",
      estate(model, "", ""),
      [
        "keyroll.yaml:4:3  credentials.c.issuer  is missing; write issuer: { type: ... }, or issuer: true at the place that makes new versions",
      ],
    ],
    [
      "two issuers",
      estate("v: { type: model, verifier: true, issuer: true }"),
      [
        'keyroll.yaml:8:5  credentials.c.issuer  names another issuer than the place "v", which has issuer: true; leave one of them out',
      ],
    ],
    [
      "an issuer that signs nothing",
      estate(model, "", "issuer: { type: random, ca: c }"),
      [
        "keyroll.yaml:8:29  credentials.c.issuer.ca  is not a known key; random is signed by nobody",
        'keyroll.yaml:8:33  credentials.c.issuer.ca  "c" is of kind secret, and only a ca can sign; write kind: ca there, or name a CA',
      ],
    ],
    [
      "data under nothing",
      estate(model, "    data: { d: { writtenUnder: v, readBy: [h], takes: 1h } }\n"),
      [
        'keyroll.yaml:9:32  credentials.c.data.d.writtenUnder  "v" is not a holder; write holder: true there, or name a holder',
        'keyroll.yaml:9:35  credentials.c.data.d.readBy  "h" is not a verifier; write verifier: true there, or name a verifier; there is "v"',
      ],
    ],
    [
      "a reference where none may be",
      estate(model).replace("owner: me", 'owner: "${env:ME}"'),
      [
        "keyroll.yaml:6:12  credentials.c.owner  cannot come from the environment or a file; only the settings of systems, places and issuers can",
      ],
    ],
    [
      "a variable that is not set",
      estate("f: { type: file, path: '${env:NOPE}/x' }"),
      [
        "keyroll.yaml:10:30  credentials.c.places.f.path  ${env:NOPE} is not set; set the environment variable NOPE, or write ${env:NOPE:-default}",
      ],
    ],
    [
      "a variable that is empty",
      estate("f: { type: file, path: '${env:EMPTY}' }"),
      [
        "keyroll.yaml:10:30  credentials.c.places.f.path  ${env:EMPTY} is empty; fill the environment variable EMPTY, or write ${env:EMPTY:-default}",
      ],
    ],
    [
      "a file that is not there",
      estate("f: { type: file, path: '${file:nope}' }"),
      [
        "keyroll.yaml:10:30  credentials.c.places.f.path  ${file:nope} does not exist; paths are relative to the file that names them",
      ],
    ],
    [
      "a reference without an end",
      estate("f: { type: file, path: '${env:HOME' }"),
      ["keyroll.yaml:10:30  credentials.c.places.f.path  ${env:HOME is not closed; write a } after the name"],
    ],
    [
      "a place that is two things",
      estate("f: { type: file, credential: c, path: x }"),
      [
        "keyroll.yaml:10:24  credentials.c.places.f.credential  stands beside a type; a place is either a connector's or another credential: leave one out",
        "keyroll.yaml:10:36  credentials.c.places.f.credential  credentials depend on each other in a circle: c -> c; each must come before what it signs or gives its value to",
      ],
    ],
    [
      "nothing said of what a place is",
      estate("f: { holder: true }"),
      [
        "keyroll.yaml:10:7  credentials.c.places.f.type  is missing; write the connector, model, or credential: NAME for a place that is another credential",
      ],
    ],
    [
      "both window and windows",
      estate(model).replace("maxAge: 1d", "window: daily 01:00-02:00, windows: [daily 01:00-02:00]"),
      ["keyroll.yaml:7:15  credentials.c.policy.window  stands beside windows; put all of them into windows"],
    ],
    [
      "a mistake in a connector",
      estate("a: { type: broken, fail: check }\nb: { type: broken, fail: traits }"),
      [
        "keyroll.yaml:10:7  credentials.c.places.a  the connector broken failed while it checked these settings; this is a mistake in the connector: please report it",
        "keyroll.yaml:11:7  credentials.c.places.b  the connector broken could not tell its traits from these settings; this is a mistake in the connector: please report it",
      ],
    ],
    [
      "a name that cannot be one",
      'version: 1\nsystems: { "a#1": { type: host, address: x } }',
      [
        'keyroll.yaml:2:12  systems."a#1"  "a#1" is not a name; write letters, digits, dots, dashes and underscores, beginning with a letter or digit',
      ],
    ],
  ];
  test.each(cases)("%s", async (_, text, expected) => {
    expect(await problemsOf(text, { EMPTY: "" })).toEqual(expected);
  });

  test("circles of credentials", async () => {
    const text = `version: 1
defaults: { owner: me, policy: { maxAge: 1d } }
credentials:
  a: { kind: ca, issuer: { type: ca, ca: b }, places: { v: { type: model, verifier: true } } }
  b: { kind: ca, issuer: { type: ca, ca: c }, places: { v: { type: model, verifier: true } } }
  c: { kind: ca, issuer: { type: ca, ca: a }, places: { v: { type: model, verifier: true } } }
  d: { kind: secret, issuer: { type: random }, places: { h: { credential: e } } }
  e: { kind: secret, issuer: { type: random }, places: { h: { credential: d } } }
  f: { kind: ca, issuer: { type: ca }, places: { h: { credential: d } } }
`;
    expect(await problemsOf(text)).toEqual([
      expect.stringContaining(
        "credentials.a.issuer.ca  credentials depend on each other in a circle: a -> c -> b -> a;",
      ),
      expect.stringContaining(
        "credentials.e.places.h.credential  credentials depend on each other in a circle: d -> e -> d;",
      ),
      expect.stringContaining(
        'credentials.f.places.h.credential  "d" is not signed by this CA; write ca: f in its issuer',
      ),
    ]);
  });

  test("all of it at once, in the order of the file", async () => {
    const found = await problemsOf(`version: 2
systms: {}
systems: { pg: { type: db, url: nope, port: seven, tsl: true } }
credentials:
  a b: {}
  c:
    kind: pasword
    issuer: { type: randm }
    places:
      env: { type: file, presentsTo: [rol], pth: x, refresh: -5s }
      role: { type: db.role, system: pg, holder: true, roles: [] }
    policy: { rotateBefore: 30, approvals: { retyre: 1 } }
`);
    expect(found.map((line) => line.split("  ").slice(0, 2).join(" "))).toEqual([
      "keyroll.yaml:1:10 version",
      "keyroll.yaml:2:1 systms",
      "keyroll.yaml:3:33 systems.pg.url",
      "keyroll.yaml:3:45 systems.pg.port",
      "keyroll.yaml:3:52 systems.pg.tsl",
      'keyroll.yaml:5:3 credentials."a b"',
      'keyroll.yaml:5:3 credentials."a b".kind',
      'keyroll.yaml:5:3 credentials."a b".owner',
      'keyroll.yaml:5:3 credentials."a b"',
      'keyroll.yaml:5:3 credentials."a b".issuer',
      "keyroll.yaml:6:3 credentials.c.owner",
      "keyroll.yaml:7:11 credentials.c.kind",
      "keyroll.yaml:8:21 credentials.c.issuer.type",
      "keyroll.yaml:10:7 credentials.c.places.env.path",
      "keyroll.yaml:10:39 credentials.c.places.env.presentsTo[0]",
      "keyroll.yaml:10:45 credentials.c.places.env.pth",
      "keyroll.yaml:10:62 credentials.c.places.env.refresh",
      "keyroll.yaml:11:42 credentials.c.places.role.holder",
      "keyroll.yaml:11:56 credentials.c.places.role.roles",
      "keyroll.yaml:12:29 credentials.c.policy.rotateBefore",
      "keyroll.yaml:12:46 credentials.c.policy.approvals.retyre",
    ]);
    expect(found[13]).toContain("is missing; write text");
    expect(found[15]).toContain('did you mean "path"?');
  });

  test("aliases that multiply, nesting, size: refused before they hurt", async () => {
    const bomb = `version: 1\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n${Array.from({ length: 12 }, (_, i) => `a${i + 1}: &a${i + 1} [${Array(10).fill(`*a${i}`).join(", ")}]`).join("\n")}`;
    expect(await problemsOf(bomb)).toEqual([
      expect.stringMatching(/there are more than 100000 values, counting those that aliases repeat/),
    ]);
    expect(await problemsOf(`version: 1\nsystems: ${"[".repeat(200)}${"]".repeat(200)}`)).toEqual([
      expect.stringContaining("is nested more than 40 levels deep"),
    ]);
    expect(await problemsOf("[".repeat(50_000))).toEqual(
      expect.arrayContaining([expect.stringContaining("is nested far too deep")]),
    );
    expect(await problemsOf(`version: 1 # ${"x".repeat(1024 * 1024)}`)).toEqual([
      "keyroll.yaml  is larger than 1024 KiB",
    ]);
    expect(await problemsOf({ "keyroll.yaml": new Uint8Array([0x76, 0xff, 0xfe]) })).toEqual([
      "keyroll.yaml  is not UTF-8 text",
    ]);
    expect(await problemsOf({})).toEqual([
      "keyroll.yaml  does not exist; write it, or let `keyroll init` write one to begin with",
    ]);
  });

  test("no more than a hundred at a time", async () => {
    const found = await problemsOf(
      `version: 1\nsystems:\n${Array.from({ length: 500 }, (_, i) => `  s${i}: {}`).join("\n")}`,
    );
    expect(found).toHaveLength(101);
    expect(found.at(-1)).toContain("and 400 more problems; mend these first");
  });
});

describe("values from outside", () => {
  const secret = "s3cr3t-Value";
  test("are in no message, and messages that do not depend on them stay", async () => {
    const text = estate("a: { type: cloud.app, appId: '${env:ID}', verifier: true }\nh: { type: model, holder: true }");
    const found = await problemsOf(text, { ID: "xyz" });
    expect(found).toEqual([
      "keyroll.yaml:10:36  credentials.c.places.a.appId  is not right; what is wrong cannot be said without showing a value that came from the environment or a file",
    ]);
    expect(await problemsOf(text, { ID: "long enough" })).toEqual([]);
    expect(await problemsOf(text.replace("'${env:ID}'", "abc"))).toEqual([
      expect.stringContaining('"abc" is not an app id'),
    ]);
    expect(
      await problemsOf(`version: 1\nsystems: { a: { type: db, url: "\${env:U}", port: "\${env:U}" } }`, { U: secret }),
    ).toEqual([
      "keyroll.yaml:2:32  systems.a.url  must begin with db://",
      "keyroll.yaml:2:50  systems.a.port  is text where a number is expected; write a number (TCP port)",
    ]);
  });
  test("an error never carries them, whatever is wrong beside", async () => {
    const text = `version: 1\nsystems: { a: { type: db, url: "\${env:U}", port: 0, prt: 1, tls: "\${env:U}" }, b: { type: host, address: ["\${env:U}"] } }\n`;
    try {
      await loadText(text, { U: secret });
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(EstateError);
      expect(`${(error as Error).message} ${(error as Error).stack} ${JSON.stringify(error)}`).not.toContain(secret);
    }
  });
  test("defaults, escapes, numbers, several in one text, line ends of files", async () => {
    const text = estate(
      "a: { type: file, path: '${env:A:-x}-${env:B}', template: '$${env:KEEP} ${value} $$x', keys: { k: '${file:k}' } }",
    );
    const { estate: found } = await loadText({ "keyroll.yaml": text, k: "line\r\n" }, { B: "b$&${env:A}" });
    expect(found.credentials[0]?.places[0]?.config).toMatchObject({
      // What comes from outside is not looked at again.
      path: "/estate/x-b$&${env:A}",
      template: "${env:KEEP} ${value} $$x",
      keys: { k: "line" },
    });
  });
});

test("merge keys and anchors, for what several places have in common", async () => {
  const { places } = await only(
    estate(
      "v: &v { type: model, verifier: true, propagation: 5s }\nw: { <<: *v, propagation: 9s }\nh: { type: model, holder: true }",
    ),
  );
  expect(places.map((place) => place.traits.propagationMs)).toEqual([5000, 9000, 0]);
  // What is merged in stands where its anchor is; and a mistyped role is not a missing one as well.
  expect(await problemsOf(estate("v: &v { type: model, verifer: true }\nw: { <<: *v, holder: true }"))).toEqual([
    'keyroll.yaml:10:28  credentials.c.places.v.verifer  is not a known key; did you mean "verifier"?',
    'keyroll.yaml:10:28  credentials.c.places.w.verifer  is not a known key; did you mean "verifier"?',
  ]);
});

test("the disk: real files, folders, what may not be read", async () => {
  const folder = await mkdtemp(join(tmpdir(), "keyroll-estate-"));
  try {
    await mkdir(join(folder, "sub"));
    await writeFile(join(folder, "keyroll.yaml"), "version: 1\ninclude: [sub/a.yaml, sub]\n");
    await writeFile(join(folder, "sub", "a.yaml"), 'systems: { h: { type: host, address: "${file:../address}" } }\n');
    await writeFile(join(folder, "address"), "10.0.0.1\n");
    const options = { registry: testRegistry, env: {} };
    await expect(loadEstate(join(folder, "keyroll.yaml"), options)).rejects.toThrow(
      /include\[1\] {2}".*sub" is a folder, not a file/,
    );
    await writeFile(join(folder, "keyroll.yaml"), "version: 1\ninclude: sub/a.yaml\n");
    const { estate: found } = await loadEstate(join(folder, "keyroll.yaml"), options);
    expect(found.systems[0]?.config).toEqual({ address: "10.0.0.1" });
    // A device would never end.
    await expect(loadEstate("/dev/zero", options)).rejects.toThrow("is not a plain file");
  } finally {
    await rm(folder, { recursive: true });
  }
});
