import { mkdtemp, mkdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { dayMs, hourMs, minuteMs } from "../core/time.ts";
import { estateWith, loadText, modelPlaces, only, problemsOf, testRegistry, whole, wholeEnv } from "./fakes.ts";
import { loadEstate, publicEstate } from "./load.ts";
import { EstateError } from "./problem.ts";

describe("a whole estate", () => {
  test("becomes plain declarations", async () => {
    const { estate: found, files, notes } = await loadText(whole, wholeEnv);
    expect(found.systems).toMatchObject([
      {
        name: "pg",
        type: "db",
        config: { url: wholeEnv.URL, port: 5432, tls: true, keyFile: "/estate/id" },
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
    const digest = async (text: string, values: Record<string, string> = wholeEnv) =>
      (await loadText(text, values)).estate.digest;
    const first = await digest(whole);
    expect(first).toMatch(/^[0-9a-f]{64}$/);
    expect(await digest(whole.replace("# The password of the shop.", "# Another comment\n\n"))).toBe(first);
    expect(
      await digest(whole.replace("{ type: random, length: 40 }", '\n      length: 40\n      "type": random')),
    ).toBe(first);
    expect(await digest(whole.replace("1m,", "60s,").replace("tier: 1", 'tier: "1"'))).toBe(first);
    expect(await digest(whole, { ...wholeEnv, URL: "db://another", PORT: "1" })).toBe(first);
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
    const loaded = await loadText(whole, wholeEnv);
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
      estateWith(
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
      estateWith(
        "v: { type: model, verifier: true }\na: { type: model, holder: true, presentsTo: v }\nb: { type: model, holder: true, presentsTo: [] }",
      ),
    );
    expect(places.map((place) => place.presentsTo)).toEqual([[], ["v"], []]);
  });
  test("a model declares its traits", async () => {
    const { places, issuer } = await only(
      estateWith(
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
      estateWith(
        "a: { type: cloud.app, appId: abcd, verifier: true, issuer: true, drain: 0 }\nb: { type: model, holder: true }",
        "",
        "",
      ),
    );
    expect(places[0]?.traits).toMatchObject({ drain: "instant", drainMs: 0 });
  });
  test("a place that issues brings its connector's issuer", async () => {
    const short = await only(
      estateWith(
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
      estateWith(
        "a: { type: cloud.app, appId: abcd, verifier: true, issuer: true }\nb: { type: model, holder: true }",
        "",
        "issuer: { place: a, appId: abcd, days: 90 }",
      ),
    );
    expect(long.issuer).toMatchObject({ type: "cloud.app", place: "a", config: { days: 90 } });
  });
  test("a data set makes records of what its holder writes", async () => {
    const credential = await only(
      estateWith(modelPlaces, "    data: { orders: { writtenUnder: h, readBy: v, takes: 37d } }\n"),
    );
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
    const loaded = await loadText(text, wholeEnv);
    expect(loaded.notes).toEqual([]);
    expect(loaded.estate.systems[0]).toMatchObject({ signIn: "app-db-password", config: { port: 5432 } });
    expect(loaded.estate.credentials[0]?.places[2]).toMatchObject({
      name: "keyroll sign-in (pg)",
      signsInTo: "pg",
      presentsTo: ["role"],
      traits: { roles: ["holder"], storeCapacity: 1, staging: false, refreshMs: 0 },
    });
    expect(await problemsOf(text.replace("signIn: app-db", "signIn: ap-db"), wholeEnv)).toEqual([
      'keyroll.yaml:6:92  systems.pg.signIn  "ap-db-password" is not a credential of this estate; did you mean "app-db-password"?',
    ]);
  });
  test("a sign-in that would lock Keyroll out is refused", async () => {
    const signIn = (text: string) => text.replace('url: "db://h"', 'url: "db://h", signIn: c');
    expect(await problemsOf(signIn(estateWith("h: { type: model, holder: true, system: pg }")))).toEqual([
      "keyroll.yaml:2:51  systems.pg.signIn  names c, which no place accepts: after its rotation Keyroll could not sign in any more; add the place in pg that accepts it",
    ]);
    expect(
      (
        await loadText(
          signIn(estateWith("v: { type: model, verifier: true }\nw: { type: db.role, system: pg, roles: [a] }")),
        )
      ).notes,
    ).toEqual([]);
    const { notes } = await loadText(
      signIn(estateWith("v: { type: model, verifier: true }\nh: { type: model, holder: true, system: pg }")),
    );
    expect(notes.map((note) => note.text)).toEqual([
      "names c, none of whose verifiers is in pg; is it accepted there?",
    ]);
    const host = "version: 1\nsystems: { h: { type: host, address: x, signIn: c } }\n";
    expect(
      await problemsOf(`${host}${estateWith(modelPlaces).slice(estateWith(modelPlaces).indexOf("credentials"))}`),
    ).toContainEqual(
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

describe("values from outside", () => {
  const secret = "s3cr3t-Value";
  test("are in no message, and messages that do not depend on them stay", async () => {
    const text = estateWith(
      "a: { type: cloud.app, appId: '${env:ID}', verifier: true }\nh: { type: model, holder: true }",
    );
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
    const text = estateWith(
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
    estateWith(
      "v: &v { type: model, verifier: true, propagation: 5s }\nw: { <<: *v, propagation: 9s }\nh: { type: model, holder: true }",
    ),
  );
  expect(places.map((place) => place.traits.propagationMs)).toEqual([5000, 9000, 0]);
  // What is merged in stands where its anchor is; and a mistyped role is not a missing one as well.
  expect(await problemsOf(estateWith("v: &v { type: model, verifer: true }\nw: { <<: *v, holder: true }"))).toEqual([
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
