/** Settings of the issuer `random`. */
import { z } from "zod";

const classes = ["lower", "upper", "digits", "symbols"] as const;
export type CharacterClass = (typeof classes)[number];

/** Below this an online guess has a chance within a rotation's life (NIST SP 800-63B asks for throttling instead, which we cannot see). */
const leastBits = 64;

export const randomSchema = z
  .strictObject({
    kind: z
      .enum(["password", "hex", "base64", "base64url"])
      .default("password")
      .describe("A password of characters, or a key of random bytes in this encoding."),
    length: z.int().min(1).max(4096).default(40).describe("password: how many characters."),
    bytes: z.int().min(8).max(1024).default(32).describe("hex, base64, base64url: how many random bytes."),
    classes: z
      .array(z.enum(classes))
      .min(1)
      .default(["lower", "upper", "digits"])
      .describe("password: which characters; each class occurs at least once."),
    symbols: z
      .string()
      .regex(/^[!-/:-@[-`{-~]+$/, "only printable ASCII characters that are no letters, digits or spaces")
      .default("-_.~")
      .describe(
        "password: which symbols. The default ones need no quoting in shells, URLs, dotenv, INI, YAML and SQL.",
      ),
    lookAlikes: z
      .boolean()
      .default(true)
      .describe("password: false leaves out 0 O o 1 l I and | for values that people type."),
  })
  .check((context) => {
    const config = context.value;
    if (config.kind !== "password") return;
    if (config.length < config.classes.length) {
      context.issues.push({
        code: "custom",
        path: ["length"],
        input: config.length,
        message: `is shorter than the ${config.classes.length} classes that must occur`,
      });
      return;
    }
    const bits = config.length * Math.log2(alphabetOf(config).length);
    if (bits < leastBits) {
      const enough = Math.ceil(leastBits / Math.log2(alphabetOf(config).length));
      context.issues.push({
        code: "custom",
        path: ["length"],
        input: config.length,
        message: `gives ${Math.floor(bits)} bits, which can be guessed; take at least ${enough} characters of this alphabet`,
      });
    }
  });
export type RandomConfig = z.infer<typeof randomSchema>;

const letters = "abcdefghijklmnopqrstuvwxyz";
const lookAlikes = "0Oo1lI|";

/** The characters of one class under these settings. */
export function charactersOf(one: CharacterClass, config: Pick<RandomConfig, "symbols" | "lookAlikes">): string {
  const all: Record<CharacterClass, string> = {
    lower: letters,
    upper: letters.toUpperCase(),
    digits: "0123456789",
    symbols: config.symbols,
  };
  const unique = [...new Set(all[one])];
  return unique.filter((character) => config.lookAlikes || !lookAlikes.includes(character)).join("");
}
export function alphabetOf(config: Pick<RandomConfig, "classes" | "symbols" | "lookAlikes">): string {
  return [...new Set(config.classes)].map((one) => charactersOf(one, config)).join("");
}
