/**
 * The loader against files that nobody would write: whatever the bytes, it returns an estate or throws an {@link EstateError} with at least one
 * problem, never lets a value from the environment out, and ends. The seed is printed by fast-check when it fails.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadText } from "./fakes.ts";
import { publicEstate } from "./load.ts";
import { EstateError, formatProblem } from "./problem.ts";
import { wholeStarterEstate } from "./starter.ts";

/** More for a night: KEYROLL_FUZZ_RUNS=5000. */
const runs = Number(process.env["KEYROLL_FUZZ_RUNS"] ?? 60);

const secret = "Zq7#pW!v9kLmN2x";
const env = { URL: `db://u:${secret}@h`, ID: secret, PORT: "5432" };

const corpus = [
  wholeStarterEstate,
  `version: 1
include: [a.yaml]
defaults: { owner: me, labels: { x: 1 }, policy: { soak: 1m, windows: ["Sat 02:00-06:00 Europe/Amsterdam"] } }
systems:
  pg: &pg { type: db, url: "\${env:URL}", port: "\${env:PORT}", tls: true, signIn: c }
  pg2: { <<: *pg, port: 1 }
credentials:
  c:
    kind: password
    issuer: { type: random, length: 40 }
    places:
      role: { type: db.role, system: pg, verifier: true, roles: [a, b] }
      env: { type: file, presentsTo: [role], path: "\${env:ID}", keys: { k: "\${file:k}" }, refresh: 5s }
      app: { type: cloud.app, appId: "\${env:ID}", verifier: true }
      m: { type: model, holder: true, capacity: 2, drain: P1D }
    data: { rows: { writtenUnder: env, readBy: role, takes: 3d } }
    policy: { rotateBefore: 30d, approvals: { retire: 1 } }
  root: { kind: ca, issuer: { type: ca }, places: { v: { type: model, verifier: true }, l: { credential: leaf } } }
  leaf: { kind: certificate, issuer: { type: ca, ca: root }, places: { h: { type: model, holder: true } } }
`,
];
const pieces = [
  "\n",
  "  ",
  ": ",
  "- ",
  "[",
  "]",
  "{",
  "}",
  '"',
  "'",
  "|\n",
  ">-\n",
  "&a ",
  "*a",
  "<<: *pg",
  "!!str ",
  "!x ",
  "%YAML 1.1\n---\n",
  "...\n",
  "---\n",
  "\t",
  "#",
  "? ",
  ", ",
  "${env:ID}",
  "${env:NOPE}",
  "${env:",
  "${file:k}",
  "${file:../../etc/passwd}",
  "$${env:ID}",
  "${value}",
  "__proto__",
  "constructor: ",
  "toString",
  "null",
  "~",
  "true",
  "-1",
  "1e999",
  ".nan",
  "0x10",
  "99999999999999999999",
  "include: keyroll.yaml\n",
  "type: model",
  "type: broken, fail: check",
  "credential: c",
  "issuer: true",
  "presentsTo: []",
  "-5s",
  "Sat 99:99-00:00",
  "\u0000",
  "\ufeff",
  "\u2028",
  "é",
  "\ud83d\ude00",
  "a".repeat(2000),
];

async function survives(bytes: string | Uint8Array): Promise<void> {
  try {
    const { estate, notes } = await loadText({ "keyroll.yaml": bytes, "a.yaml": "version: 1\n", k: secret }, env);
    expect(estate.digest).toMatch(/^[0-9a-f]{64}$/);
    expect(JSON.stringify([publicEstate(estate), notes])).not.toContain(secret);
  } catch (error) {
    if (!(error instanceof EstateError)) throw error;
    expect(error.problems.length).toBeGreaterThan(0);
    expect(error.message).not.toContain(secret);
    for (const problem of error.problems) {
      expect(formatProblem(problem)).not.toContain("undefined");
      expect(problem.line >= 0 && problem.col >= 0).toBe(true);
    }
  }
}

type Edit = { readonly at: number; readonly remove: number; readonly insert: string };
function apply(text: string, edits: readonly Edit[]): string {
  return edits.reduce((now, { at, remove, insert }) => {
    const start = Math.floor(at * now.length);
    return now.slice(0, start) + insert + now.slice(start + remove);
  }, text);
}
const edit: fc.Arbitrary<Edit> = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  remove: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 60 })),
  insert: fc.oneof(fc.constant(""), fc.constantFrom(...pieces), fc.string({ maxLength: 5 })),
});

describe("the loader survives", { timeout: 30_000 + runs * 200 }, () => {
  test("and takes the file that most of the edits begin with", async () => {
    const { estate } = await loadText({ "keyroll.yaml": corpus[1] ?? "", "a.yaml": "version: 1\n", k: secret }, env);
    expect(estate.credentials).toHaveLength(3);
  });
  test("edits of a good file", async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...corpus), fc.array(edit, { minLength: 1, maxLength: 6 }), (text, edits) =>
        survives(apply(text, edits)),
      ),
      { numRuns: 2 * runs },
    );
  });
  test("lines moved, doubled and lost", async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...corpus), fc.array(fc.nat(60), { maxLength: 60 }), (text, order) => {
        const lines = text.split("\n");
        return survives(order.map((index) => lines[index % lines.length]).join("\n"));
      }),
      { numRuns: runs },
    );
  });
  test("any value in the place of any other", async () => {
    const value = fc.oneof(
      fc.jsonValue({ maxDepth: 3 }).map((each) => JSON.stringify(each)),
      fc.constantFrom(...pieces),
    );
    await fc.assert(
      fc.asyncProperty(fc.nat(200), value, (index, replacement) => {
        const text = corpus[1] ?? "";
        const spots = [...text.matchAll(/: (\{[^{}]*\}|\[[^[\]]*\]|[^\s,{}[\]]+)/g)];
        const spot = spots[index % spots.length];
        const at = spot?.index ?? 0;
        return survives(text.slice(0, at) + `: ${replacement}` + text.slice(at + (spot?.[0].length ?? 0)));
      }),
      { numRuns: runs },
    );
  });
  test("bytes of any kind, and pieces in any order", async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), survives), { numRuns: runs });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom(...pieces), { maxLength: 30 }), (parts) =>
        survives(`version: 1\n${parts.join("")}`),
      ),
      { numRuns: runs },
    );
  });
  // Each would take a careless reader minutes, or its stack: the runner's own limit of time is the assertion.
  test.each([
    ["brackets", "[".repeat(20_000)],
    ["braces", "{a: ".repeat(10_000)],
    ["dashes", "- ".repeat(20_000)],
    ["question marks", "? ".repeat(20_000)],
    ["indents", Array.from({ length: 700 }, (_, depth) => `${" ".repeat(depth)}a:`).join("\n")],
    [
      "keys of one map",
      `version: 1\nsystems:\n${Array.from({ length: 5000 }, (_, index) => `  s${index}: 1`).join("\n")}`,
    ],
    ["one key again and again", "version: 1\n".repeat(10_000)],
    [
      "anchors and aliases",
      Array.from({ length: 8000 }, (_, index) => `k${index}: &a${index} [*a${index - 1}]`).join("\n"),
    ],
    ["references", `version: 1\nsystems: { a: { type: host, address: "${"${env:ID}".repeat(20_000)}" } }`],
    [
      "references to many files",
      `version: 1\nsystems: { a: { type: host, address: "${Array.from({ length: 5000 }, (_, index) => `\${file:f${index}}`).join("")}" } }`,
    ],
    [
      "a chain of CAs",
      `version: 1\ndefaults: { owner: me }\ncredentials:\n${Array.from({ length: 500 }, (_, index) => `  c${index}: { kind: ca, issuer: { type: ca, ca: c${index + 1} }, places: { v: { type: model, verifier: true } } }`).join("\n")}`,
    ],
    ["open quotes", `version: 1\n${"'\n".repeat(8000)}`],
    ["a long duration", `version: 1\ndefaults: { policy: { soak: "${"1h".repeat(20_000)}" } }`],
    ["a long window", `version: 1\ndefaults: { policy: { window: "${"a, ".repeat(20_000)}" } }`],
  ])("%s by the thousand", async (_, text) => survives(text), 20_000);
});
