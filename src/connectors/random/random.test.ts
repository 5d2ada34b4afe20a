import { describe, expect, it } from "vitest";
import { issuerContract, localIssuerCannot } from "../connector.contract.ts";
import { random } from "./connector.ts";
import { generate } from "./generate.ts";
import type { Source } from "./generate.ts";
import { alphabetOf, randomSchema } from "./schema.ts";

issuerContract({
  runner: { describe, it },
  name: "random",
  connector: random,
  config: { length: 40, classes: ["lower", "upper", "digits", "symbols"] },
  makeWorld: () => ({
    open: () =>
      random.open(random.config.parse({ length: 40, classes: ["lower", "upper", "digits", "symbols"] }), undefined),
    intent: (n) => ({ id: `app-password#${n}`, tag: `tag-${n}` }),
    assertIssued: ({ material }) => {
      const text = material.kind === "secret" ? material.value.reveal() : "";
      expect(text).toMatch(/^[A-Za-z0-9_.~-]{40}$/);
      for (const one of [/[a-z]/, /[A-Z]/, /[0-9]/, /[-_.~]/]) expect(one.test(text)).toBe(true);
    },
  }),
  cannot: localIssuerCannot,
});

/** A source whose numbers are counted out, so that bias would show exactly. */
function counting(): Source {
  let n = 0;
  return { integer: (below) => n++ % below, bytes: (count) => Buffer.alloc(count, 7) };
}

describe("random", () => {
  it("uses every character of the alphabet equally often", () => {
    const config = randomSchema.parse({ length: 62, classes: ["lower", "upper", "digits"] });
    const text = String(generate(config, counting()));
    expect(new Set(text).size).toBe(62);
  });

  it("draws again until each class occurs, and changes no single character", () => {
    const config = randomSchema.parse({ length: 30, classes: ["lower", "digits"] });
    // The first draw is all "a", the second counts through the alphabet.
    let n = 0;
    const source: Source = { integer: (below) => (n++ < 30 ? 0 : n % below), bytes: () => Buffer.alloc(0) };
    const text = String(generate(config, source));
    expect(text).toHaveLength(30);
    expect(text).toMatch(/[0-9]/);
    expect(n).toBeGreaterThanOrEqual(60);
  });

  it("leaves out what people mistake for each other", () => {
    const config = randomSchema.parse({
      classes: ["lower", "upper", "digits", "symbols"],
      symbols: "|!",
      lookAlikes: false,
    });
    expect(alphabetOf(config)).not.toMatch(/[0Oo1lI|]/);
    expect(alphabetOf(config)).toContain("!");
  });

  it("makes keys of whole bytes", () => {
    const hex = generate(randomSchema.parse({ kind: "hex", bytes: 32 }), counting());
    expect(String(hex)).toBe("07".repeat(32));
    const base64 = generate(randomSchema.parse({ kind: "base64", bytes: 16 }), counting());
    expect(Buffer.from(String(base64), "base64")).toHaveLength(16);
  });

  it("refuses settings that can be guessed, and says how long would do", () => {
    const result = randomSchema.safeParse({ length: 8, classes: ["digits"] });
    expect(result.success).toBe(false);
    expect(result.error?.issues[0]?.message).toContain("at least 20 characters");
    expect(randomSchema.safeParse({ length: 2, classes: ["lower", "upper", "digits"] }).error?.issues[0]?.path).toEqual(
      ["length"],
    );
    expect(randomSchema.safeParse({ symbols: "é" }).success).toBe(false);
  });
});
