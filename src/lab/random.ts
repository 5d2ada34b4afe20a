/** Seeded randomness: the same seed gives the same names, delays and faults in the same order of requests. Not for anything that must be secret. */
import { createHash } from "node:crypto";

export interface Random {
  /** In [0, 1). */
  next(): number;
  /** A real number in [from, to). */
  between(from: number, to: number): number;
  /** True with this probability. */
  chance(probability: number): boolean;
  bytes(count: number): Buffer;
  hex(characters: number): string;
  uuid(): string;
  text(characters: number, alphabet: string): string;
}

/** sfc32 (Chris Doty-Humphrey, PractRand), started from the SHA-256 of seed and stream, so that streams do not disturb one another. */
export function randomFrom(seed: string | number, stream: string): Random {
  const start = createHash("sha256").update(`${seed}\0${stream}`).digest();
  let a = start.readUInt32LE(0);
  let b = start.readUInt32LE(4);
  let c = start.readUInt32LE(8);
  let counter = start.readUInt32LE(12);
  const next32 = (): number => {
    const t = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return t >>> 0;
  };
  const next = (): number => next32() / 2 ** 32;
  const bytes = (count: number): Buffer => Buffer.from(Array.from({ length: count }, () => next32() & 0xff));
  return {
    next,
    between: (from, to) => from + (to - from) * next(),
    chance: (probability) => next() < probability,
    bytes,
    hex: (characters) =>
      bytes(Math.ceil(characters / 2))
        .toString("hex")
        .slice(0, characters),
    uuid() {
      const raw = bytes(16);
      raw[6] = (raw[6]! & 0x0f) | 0x40;
      raw[8] = (raw[8]! & 0x3f) | 0x80;
      const hex = raw.toString("hex");
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
    },
    text: (characters, alphabet) =>
      Array.from({ length: characters }, () => alphabet[Math.floor(next() * alphabet.length)]).join(""),
  };
}
