/**
 * Every parser against mutated input: it answers, with items or with its one kind of error, and never with anything else. The worker is tested
 * where it matters, which is that it can be killed; here the same code runs in this thread, so that a stray exception is seen.
 */
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { performance } from "node:perf_hooks";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { factsOf } from "../../src/connectors/shared/x509.ts";
import { readBundle } from "../../src/discovery/bundle.ts";
import { bundledItem, certificateItem } from "../../src/discovery/certificate.ts";
import { Malformed, oidKey, oidText, refuseDeepNesting } from "../../src/discovery/der.ts";
import { parseHeavy } from "../../src/discovery/heavy.ts";
import { parse, type Outcome } from "../../src/discovery/parse.ts";
import type { Found } from "../../src/discovery/found.ts";
import { openParsePool } from "../../src/discovery/pool.ts";
import { ecKey, make, makeCorpus, password, pkcs12, rsaKey, type Corpus } from "./corpus.ts";

const seed = Number(process.env["SEED"] ?? Math.floor(performance.now() * 1e6) % 2 ** 31);
const runs = Number(process.env["RUNS"] ?? 1500);

let corpus: Corpus;
let samples: readonly (readonly [string, Buffer])[];
beforeAll(async () => {
  corpus = await makeCorpus();
  samples = [...corpus.files];
});

const kinds = new Set(["certificate", "private-key", "public-key", "csr", "crl", "keystore", "problem", "heavy"]);

/** Parses as the scan does, the heavy part included. Throws only when a parser does. */
function parseAll(name: string, bytes: Buffer, passwords: readonly string[]): Outcome[] {
  const outcomes: Outcome[] = [];
  for (const outcome of parse(bytes, { name, hasPasswords: passwords.length > 0 })) {
    if (outcome.kind === "heavy") {
      const result = parseHeavy(outcome.job, passwords);
      expect(result.items.length + result.problems.length).toBeGreaterThan(0);
      outcomes.push(
        ...result.items,
        ...result.problems.map((text) => ({ kind: "problem", code: "malformed", text }) as const),
      );
    } else {
      outcomes.push(outcome);
    }
  }
  return outcomes;
}

interface Mutation {
  readonly kind: "flip" | "cut" | "drop" | "repeat" | "length" | "insert" | "swap";
  readonly at: number;
  readonly size: number;
  readonly value: number;
}
const mutation: fc.Arbitrary<Mutation> = fc.record({
  kind: fc.constantFrom("flip", "cut", "drop", "repeat", "length", "insert", "swap"),
  at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
  size: fc.integer({ min: 1, max: 64 }),
  value: fc.integer({ min: 0, max: 255 }),
});
function mutate(bytes: Buffer, { kind, at, size, value }: Mutation): Buffer {
  const spot = Math.floor(at * bytes.length);
  const [before, after] = [bytes.subarray(0, spot), bytes.subarray(spot)];
  switch (kind) {
    case "flip": {
      const out = Buffer.from(bytes);
      if (out.length > 0) out[spot] = out[spot]! ^ (value === 0 ? 1 : value);
      return out;
    }
    case "cut":
      return Buffer.from(before);
    case "drop":
      return Buffer.concat([before, after.subarray(size)]);
    case "repeat":
      return Buffer.concat([before, ...Array.from({ length: size }, () => after.subarray(0, size)), after]);
    case "length": {
      // Lengths are where parsers break: a long form, an endless one, or a huge one.
      const out = Buffer.from(bytes);
      const choices = [0x80, 0x81, 0x82, 0x84, 0xff, 0x7f, 0x00];
      if (out.length > spot + 1) out[spot + 1] = choices[value % choices.length]!;
      return out;
    }
    case "insert":
      return Buffer.concat([before, Buffer.alloc(size, value), after]);
    case "swap":
      return Buffer.concat([after, before]);
  }
}

describe("mutated input", () => {
  it("never makes a parser throw, whatever the file", () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.array(mutation, { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        (which, mutations, withPassword) => {
          const [name, original] = samples[which % samples.length]!;
          const bytes = mutations.reduce(mutate, original);
          for (const outcome of parseAll(name, bytes, withPassword ? [password] : [])) {
            expect(kinds.has(outcome.kind)).toBe(true);
            if (outcome.kind === "problem") expect(outcome.text).not.toContain("it cannot be read");
          }
        },
      ),
      { seed, numRuns: runs },
    );
  });

  it("inside the armour of PEM is as harmless", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(
          "leaf.crt",
          "chain.pem",
          "leaf.key",
          "wanted.csr",
          "root-crl.pem",
          "leaf.pub",
          "id_ed25519",
          "both-pem.p7b",
        ),
        fc.array(mutation, { minLength: 1, maxLength: 3 }),
        (name, mutations) => {
          const text = corpus.files.get(name)!.toString("latin1");
          const label = /BEGIN ([^-]+)-----/.exec(text)![1]!;
          const body = Buffer.from(text.split("-----")[2]!, "base64");
          const mutated = mutations.reduce(mutate, body).toString("base64");
          const outcomes = parseAll(
            name,
            Buffer.from(`-----BEGIN ${label}-----\n${mutated}\n-----END ${label}-----\n`),
            [],
          );
          expect(outcomes.length).toBeGreaterThan(0);
        },
      ),
      { seed, numRuns: runs },
    );
  });

  it("of pure chance gives nothing or a problem", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 400 }),
        fc.constantFrom("x.pem", "x.der", "x.p12", "x.jks", "x"),
        fc.constantFrom("", "30", "feedfeed00000002", "3082", "3080", "cececece00000001"),
        (random, name, prefix) => {
          const outcomes = parseAll(name, Buffer.concat([Buffer.from(prefix, "hex"), random]), []);
          for (const outcome of outcomes) expect(kinds.has(outcome.kind)).toBe(true);
        },
      ),
      { seed, numRuns: runs },
    );
  });

  it("makes the short way through a bundle give what the long way gives, or nothing", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom("leaf.crt", "chain.pem", "leaf.key", "wanted.csr"), { minLength: 1, maxLength: 4 }),
        fc.array(mutation, { maxLength: 3 }),
        (names, mutations) => {
          const file = Buffer.concat(names.map((name) => Buffer.from(corpus.files.get(name)!)));
          const bytes = mutations.reduce(mutate, file);
          const place = { source: "", path: "x.pem" };
          const items: Found[] = [];
          const offset = readBundle(bytes, 0, 0, place, items, 512);
          const options = { name: place.path, hasPasswords: false };
          const long = [...parse(Buffer.from(bytes), options)].map((one) => ({ ...one, ...place }));
          const after = { items: items.length, offset };
          const rest = offset === bytes.length ? [] : [...parse(bytes, { ...options, after })];
          const short = [...items, ...rest.map((one) => ({ ...one, ...place }))];
          const plain = (all: readonly object[]): unknown => JSON.parse(JSON.stringify(all));
          expect(plain(short)).toEqual(plain(long));
        },
      ),
      { seed, numRuns: runs },
    );
  });

  it("makes the reader of bundles refuse what the reader of certificates refuses, and give the same facts otherwise", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("leaf", "rsa", "intermediate"),
        fc.array(mutation, { maxLength: 2 }),
        (name, mutations) => {
          const bytes = mutations.reduce(mutate, corpus[name as "leaf" | "rsa" | "intermediate"].der);
          const outcome = (read: () => object): unknown => {
            try {
              return JSON.parse(JSON.stringify(read()));
            } catch (error) {
              expect(error).toBeInstanceOf(Malformed);
              return (error as Malformed).message;
            }
          };
          expect(outcome(() => bundledItem(bytes, 0, bytes.length, 0, { source: "", path: "" }))).toEqual(
            outcome(() => certificateItem(bytes, 0, bytes.length, "pem", 0)),
          );
        },
      ),
      { seed, numRuns: runs },
    );
  });

  it("never makes the certificate reader say other facts than node:crypto", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("leaf", "rsa", "intermediate"),
        fc.array(mutation, { minLength: 1, maxLength: 2 }),
        (name, mutations) => {
          const bytes = mutations.reduce(mutate, corpus[name as "leaf" | "rsa" | "intermediate"].der);
          let item: ReturnType<typeof certificateItem>;
          try {
            item = certificateItem(bytes, 0, bytes.length, "der", 0);
          } catch (error) {
            expect(error).toBeInstanceOf(Malformed);
            return;
          }
          let facts: ReturnType<typeof factsOf>;
          try {
            facts = factsOf(bytes);
          } catch {
            // OpenSSL checks more than is read here, such as the signature's encoding.
            return;
          }
          // It hashes its own re-encoding where lengths are not minimal, and prints odd strings in its own way; the rest must agree.
          expect(item.facts.notBeforeMs).toBe(facts.notBeforeMs);
          expect(item.facts.notAfterMs).toBe(facts.notAfterMs);
          if (item.problems.length === 0 && item.facts.fingerprint === facts.fingerprint)
            expect(item.facts.publicKeySha256).toBe(facts.publicKeySha256);
        },
      ),
      { seed, numRuns: runs },
    );
  });
});

describe("the certificate reader agrees with node:crypto", () => {
  function agree(der: Buffer): void {
    const item = certificateItem(der, 0, der.length, "der", 0);
    const node = new X509Certificate(der);
    expect(item.facts).toEqual(factsOf(node));
    const bundled = bundledItem(Buffer.from(der), 0, der.length, 0, { source: "", path: "" });
    expect(JSON.parse(JSON.stringify(bundled))).toEqual({ ...item, container: "pem" });
    expect(bundled.certificate).toMatchObject({ ...item.certificate });
    expect(item.certificate!.isCa).toBe(node.ca);
    const names = (node.subjectAltName ?? "")
      .split(", ")
      .filter((name) => name.startsWith("DNS:"))
      .map((name) => name.slice(4));
    expect(item.certificate!.names.filter((name) => isIP(name) === 0 && !/[:@]/.test(name))).toEqual(
      names.slice(0, 100),
    );
    const details = node.publicKey.asymmetricKeyDetails;
    if (item.keyType === "RSA") expect(item.keyBits).toBe(details?.modulusLength);
    if (item.keyType === "EC P-256") expect(details?.namedCurve).toBe("prime256v1");
  }

  it("on everything in the machine's bundle of authorities", () => {
    let text = "";
    try {
      text = readFileSync("/etc/ssl/certs/ca-certificates.crt", "utf8");
    } catch {
      // Machines without the package have the generated ones below.
    }
    for (const block of text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []) {
      const node = new X509Certificate(block);
      // OpenSSL writes characters beyond Latin-1 of old string types in its own way.
      agree(node.raw);
    }
  });

  it("on generated ones of many shapes", async () => {
    const word = fc.stringMatching(/^[A-Za-z0-9 .'()-]{1,20}$/).map((text) => text.trim() || "x");
    const name = fc.stringMatching(/^[a-z0-9]{1,12}(\.[a-z0-9]{1,12}){1,4}$/);
    const keys = [ecKey(), ecKey("P-384"), rsaKey(2048)];
    await fc.assert(
      fc.asyncProperty(
        word,
        word,
        fc.array(name, { maxLength: 8 }),
        fc.boolean(),
        fc.nat(2),
        fc.integer({ min: Date.UTC(1970, 0, 2) / 1000, max: Date.UTC(2200, 0, 1) / 1000 }),
        fc.integer({ min: 1, max: 20_000 }),
        async (common, organisation, names, isCa, which, from, days) => {
          const made = await make({
            subject: `CN=${common}, O=${organisation}`,
            names,
            ca: isCa,
            key: keys[which]!,
            fromMs: from * 1000,
            days,
          });
          agree(made.der);
        },
      ),
      { seed, numRuns: 60 },
    );
  });
});

describe("limits", () => {
  it("deep nesting is refused, and 64 levels are not", () => {
    const nest = (levels: number): Buffer => {
      let bytes: Buffer = Buffer.from([0x05, 0x00]);
      for (let i = 0; i < levels; i++) {
        const length = bytes.length < 128 ? [bytes.length] : [0x82, bytes.length >> 8, bytes.length & 0xff];
        bytes = Buffer.concat([Buffer.from([0x30, ...length]), bytes]);
      }
      return bytes;
    };
    expect(() => refuseDeepNesting(nest(64))).not.toThrow();
    expect(() => refuseDeepNesting(nest(65))).toThrow(Malformed);
    expect(() => refuseDeepNesting(Buffer.from("3080".repeat(100_000), "hex"))).toThrow(/deeper than 64/);
  });

  it("object identifiers keep their value through both directions", () => {
    for (const oid of [
      "1.2.840.113549.1.1.11",
      "2.5.4.3",
      "0.9.2342.19200300.100.1.25",
      "1.3.6.1.4.1.311.60.2.1.3",
      "2.16.840.1.101.3.4.2.1",
    ]) {
      const bytes = Buffer.from(oidKey(oid), "latin1");
      expect(oidText(bytes, 0, bytes.length)).toBe(oid);
    }
  });

  it("a thread that is stuck is killed, and the next job gets another one", async () => {
    const pool = openParsePool(20, 1);
    try {
      const job = (bytes: Buffer): Parameters<typeof pool.run>[0] => ({
        form: "pkcs12",
        bytes: new Uint8Array(bytes),
        index: 0,
      });
      const slow = pool.run(job(pkcs12(corpus.rsa, "unknown", 60_000, "3des")), []);
      expect(await slow).toMatchObject({ items: [], refused: true });
    } finally {
      await pool.close();
    }
    const next = openParsePool(20_000, 1);
    try {
      const both = await Promise.all(
        [0, 1].map(() => next.run({ form: "pkcs12", bytes: new Uint8Array(pkcs12(corpus.rsa, "", 10)), index: 0 }, [])),
      );
      expect(both.map((result) => result.items.length)).toEqual([2, 2]);
    } finally {
      await next.close();
    }
    expect(await next.run({ form: "pkcs12", bytes: new Uint8Array(1), index: 0 }, [])).toMatchObject({
      problems: ["the scan has ended"],
    });
  });
});
