/** Passwords and keys from a source of random numbers, without bias. */
import { alphabetOf, charactersOf } from "./schema.ts";
import type { RandomConfig } from "./schema.ts";

/** Where randomness comes from; node:crypto in earnest, a seeded source in tests. */
export interface Source {
  /** Uniform over 0 … below-1. */
  integer(below: number): number;
  bytes(count: number): Buffer;
}

export function generate(config: RandomConfig, source: Source): string | Buffer {
  if (config.kind === "password") return password(config, source);
  return Buffer.from(source.bytes(config.bytes).toString(config.kind), "latin1");
}

/**
 * Draws whole passwords until each class occurs. Putting one character of each class at drawn positions instead would favour some passwords;
 * drawing again leaves all that are allowed equally likely.
 */
function password(config: RandomConfig, source: Source): string {
  const alphabet = alphabetOf(config);
  const wanted = [...new Set(config.classes)].map((one) => charactersOf(one, config)).filter((set) => set.length > 0);
  for (;;) {
    let drawn = "";
    for (let n = 0; n < config.length; n++) drawn += alphabet[source.integer(alphabet.length)] ?? "";
    if (wanted.every((set) => [...set].some((character) => drawn.includes(character)))) return drawn;
  }
}
