import { describe, expect, test } from "vitest";
import { estateWith, modelPlaces, problemsOf } from "./fakes.ts";

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
      estateWith(
        "v: { type: model, verifier: true }\nrole: { type: model, verifier: true }\nh: { type: model, holder: true, presentsTo: [v, rol] }",
      ),
      [
        'keyroll.yaml:12:55  credentials.c.places.h.presentsTo[1]  "rol" is not a place of this credential; did you mean "role"?',
      ],
    ],
    [
      "a holder that presents to a holder",
      estateWith(
        "v: { type: model, verifier: true }\na: { type: model, holder: true, presentsTo: b }\nb: { type: model, holder: true }",
      ),
      [
        'keyroll.yaml:11:51  credentials.c.places.a.presentsTo  "b" is not a verifier; write verifier: true there, or name a verifier; there is "v"',
      ],
    ],
    [
      "presentsTo at a verifier",
      estateWith("v: { type: model, verifier: true, presentsTo: v }"),
      [
        "keyroll.yaml:10:41  credentials.c.places.v.presentsTo  belongs to holders only; write holder: true, or leave it out",
      ],
    ],
    [
      "no role",
      estateWith("v: { type: model }\na: { type: cloud.app, appId: abcd }"),
      [
        "keyroll.yaml:9:5  credentials.c.places  has no place that accepts or holds it; add one with verifier: true, and one with holder: true",
        "keyroll.yaml:10:7  credentials.c.places.v  has no role; write verifier: true, holder: true or issuer: true",
        "keyroll.yaml:11:7  credentials.c.places.a  has no role; write issuer: true or verifier: true",
      ],
    ],
    [
      "nobody accepts or holds it",
      estateWith("w: { type: watch, host: x }"),
      [
        "keyroll.yaml:9:5  credentials.c.places  has no place that accepts or holds it; add one with verifier: true, and one with holder: true",
      ],
    ],
    [
      "a role that it cannot have",
      estateWith("f: { type: file, path: x, verifier: true }\nh: { type: model, holder: true }"),
      ["keyroll.yaml:10:33  credentials.c.places.f.verifier  file cannot be a verifier; write holder: true"],
    ],
    [
      "a role that its settings rule out",
      estateWith("a: { type: cloud.app, appId: abcd, holder: true }\nv: { type: model, verifier: true }"),
      [
        "keyroll.yaml:10:42  credentials.c.places.a.holder  cloud.app cannot be a holder with these settings; write issuer: true or verifier: true",
      ],
    ],
    [
      "settings without which the role is not known",
      estateWith("a: { type: cloud.app }"),
      ["keyroll.yaml:10:7  credentials.c.places.a.appId  is missing; write text"],
    ],
    [
      "a role by another word",
      estateWith("f: { type: file, path: x, holder: yes }"),
      [
        "keyroll.yaml:10:41  credentials.c.places.f.holder  is text where true or false is expected; write true or false (The version that somebody presents is kept here)",
      ],
    ],
    [
      "a window that never opens",
      estateWith(modelPlaces).replace("maxAge: 1d", "maxAge: 1d, window: Sat 02:00-02:00"),
      [
        "keyroll.yaml:7:35  credentials.c.policy.window  never opens: 02:00 to 02:00 has no length; for a whole day write 00:00-24:00",
      ],
    ],
    [
      "an unknown time zone",
      estateWith(modelPlaces).replace("maxAge: 1d", "maxAge: 1d, windows: [daily 01:00-02:00 Europe/Amsterdm]"),
      [
        'keyroll.yaml:7:37  credentials.c.policy.windows[0]  "Europe/Amsterdm" is not a time zone; did you mean "Europe/Amsterdam"?',
      ],
    ],
    [
      "a negative duration",
      estateWith("v: { type: model, verifier: true, propagation: -5s }"),
      ['keyroll.yaml:10:54  credentials.c.places.v.propagation  "-5s" is negative; a duration is zero or more'],
    ],
    [
      "a duration without a unit",
      estateWith(modelPlaces).replace("maxAge: 1d", "soak: 5"),
      ["keyroll.yaml:7:21  credentials.c.policy.soak  5 has no unit; write 5s, 5m, 5h or 5d"],
    ],
    [
      "the wrong type of system",
      estateWith("v: { type: db.role, system: hh, roles: [a] }").replace(
        "systems: {",
        "systems: { hh: { type: host, address: x },",
      ),
      [
        'keyroll.yaml:10:35  credentials.c.places.v.system  "hh" is of type host, and db.role needs one of type db; write pg',
      ],
    ],
    [
      "no system",
      estateWith("v: { type: db.role, roles: [a] }"),
      ["keyroll.yaml:10:7  credentials.c.places.v.system  is missing; db.role needs one of type db: write system: pg"],
    ],
    [
      "a system where none is needed",
      estateWith("v: { type: file, path: x, system: pg }"),
      ["keyroll.yaml:10:33  credentials.c.places.v.system  is not needed: file is in no system; leave it out"],
    ],
    [
      "an unknown system",
      estateWith("v: { type: db.role, system: pq, roles: [a] }"),
      ['keyroll.yaml:10:35  credentials.c.places.v.system  "pq" is not a system of this estate; did you mean "pg"?'],
    ],
    [
      "an unknown type",
      estateWith("v: { type: db.rol, system: pg, roles: [a] }"),
      ['keyroll.yaml:10:18  credentials.c.places.v.type  "db.rol" is not a type of place; did you mean "db.role"?'],
    ],
    [
      "an issuer as a place",
      estateWith("v: { type: random }"),
      [
        'keyroll.yaml:10:18  credentials.c.places.v.type  "random" is not a type of place; it makes versions: write it under issuer',
      ],
    ],
    [
      "a system as a place",
      estateWith("v: { type: db }"),
      [
        'keyroll.yaml:10:18  credentials.c.places.v.type  "db" is not a type of place; it is a type of system; there is "db.role"',
      ],
    ],
    [
      "an unknown key of a strict connector",
      estateWith("v: { type: db.role, system: pg, roles: [a], ownr: b }"),
      ['keyroll.yaml:10:51  credentials.c.places.v.ownr  is not a known key; did you mean "owner"?'],
    ],
    [
      "an unknown key of a connector that would drop it",
      estateWith("f: { type: file, path: a, fromat: json, reload: { argv: [x], shel: 1 } }"),
      [
        'keyroll.yaml:10:33  credentials.c.places.f.fromat  is not a known key; did you mean "format"?',
        "keyroll.yaml:10:68  credentials.c.places.f.reload.shel  is not a known key",
      ],
    ],
    [
      "a trait at a connector",
      estateWith("v: { type: db.role, system: pg, roles: [a], capacity: 4 }"),
      [
        "keyroll.yaml:10:51  credentials.c.places.v.capacity  is not a known key; db.role knows this about itself, only a place of type model declares it",
      ],
    ],
    [
      "no issuer",
      estateWith(modelPlaces, "", ""),
      [
        "keyroll.yaml:4:3  credentials.c.issuer  is missing; write issuer: { type: ... }, or issuer: true at the place that makes new versions",
      ],
    ],
    [
      "two issuers",
      estateWith("v: { type: model, verifier: true, issuer: true }"),
      [
        'keyroll.yaml:8:5  credentials.c.issuer  names another issuer than the place "v", which has issuer: true; leave one of them out',
      ],
    ],
    [
      "an issuer that signs nothing",
      estateWith(modelPlaces, "", "issuer: { type: random, ca: c }"),
      [
        "keyroll.yaml:8:29  credentials.c.issuer.ca  is not a known key; random is signed by nobody",
        'keyroll.yaml:8:33  credentials.c.issuer.ca  "c" is of kind secret, and only a ca can sign; write kind: ca there, or name a CA',
      ],
    ],
    [
      "data under nothing",
      estateWith(modelPlaces, "    data: { d: { writtenUnder: v, readBy: [h], takes: 1h } }\n"),
      [
        'keyroll.yaml:9:32  credentials.c.data.d.writtenUnder  "v" is not a holder; write holder: true there, or name a holder',
        'keyroll.yaml:9:35  credentials.c.data.d.readBy  "h" is not a verifier; write verifier: true there, or name a verifier; there is "v"',
      ],
    ],
    [
      "a reference where none may be",
      estateWith(modelPlaces).replace("owner: me", 'owner: "${env:ME}"'),
      [
        "keyroll.yaml:6:12  credentials.c.owner  cannot come from the environment or a file; only the settings of systems, places and issuers can",
      ],
    ],
    [
      "a variable that is not set",
      estateWith("f: { type: file, path: '${env:NOPE}/x' }"),
      [
        "keyroll.yaml:10:30  credentials.c.places.f.path  ${env:NOPE} is not set; set the environment variable NOPE, or write ${env:NOPE:-default}",
      ],
    ],
    [
      "a variable that is empty",
      estateWith("f: { type: file, path: '${env:EMPTY}' }"),
      [
        "keyroll.yaml:10:30  credentials.c.places.f.path  ${env:EMPTY} is empty; fill the environment variable EMPTY, or write ${env:EMPTY:-default}",
      ],
    ],
    [
      "a file that is not there",
      estateWith("f: { type: file, path: '${file:nope}' }"),
      [
        "keyroll.yaml:10:30  credentials.c.places.f.path  ${file:nope} does not exist; paths are relative to the file that names them",
      ],
    ],
    [
      "a reference without an end",
      estateWith("f: { type: file, path: '${env:HOME' }"),
      ["keyroll.yaml:10:30  credentials.c.places.f.path  ${env:HOME is not closed; write a } after the name"],
    ],
    [
      "a place that is two things",
      estateWith("f: { type: file, credential: c, path: x }"),
      [
        "keyroll.yaml:10:24  credentials.c.places.f.credential  stands beside a type; a place is either a connector's or another credential: leave one out",
        "keyroll.yaml:10:36  credentials.c.places.f.credential  credentials depend on each other in a circle: c -> c; each must come before what it signs or gives its value to",
      ],
    ],
    [
      "nothing said of what a place is",
      estateWith("f: { holder: true }"),
      [
        "keyroll.yaml:10:7  credentials.c.places.f.type  is missing; write the connector, model, or credential: NAME for a place that is another credential",
      ],
    ],
    [
      "both window and windows",
      estateWith(modelPlaces).replace("maxAge: 1d", "window: daily 01:00-02:00, windows: [daily 01:00-02:00]"),
      ["keyroll.yaml:7:15  credentials.c.policy.window  stands beside windows; put all of them into windows"],
    ],
    [
      "a mistake in a connector",
      estateWith("a: { type: broken, fail: check }\nb: { type: broken, fail: traits }"),
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
