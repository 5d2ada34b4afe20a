/**
 * A reader for DER (X.690), just enough for certificates and their neighbours. It never recurses, never copies and checks every length
 * against the element around it, so that the worst file costs no more than its own length.
 */

/** The input is not what it claims to be. The only error that the parsers of this room throw. */
export class Malformed extends Error {
  override readonly name = "Malformed";
}

/** Tags that the formats here use (X.690 section 8, context tags as RFC 5280 numbers them). */
export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8: 0x0c,
  printable: 0x13,
  teletex: 0x14,
  ia5: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  universal: 0x1c,
  bmp: 0x1e,
  sequence: 0x30,
  set: 0x31,
  context0: 0xa0,
  context1: 0xa1,
  context3: 0xa3,
} as const;

/** Deeper nesting than this is refused before any other parser sees the bytes: real formats stay under 20. */
export const maxDepth = 64;

/**
 * Walks the elements of one buffer. `read` looks at the element under the cursor and fills `tag`, `start`, `content` and `stop`; the caller
 * then goes in (`enter`) or stays behind it, where `read` has left the cursor.
 */
export class Cursor {
  readonly bytes: Buffer;
  /** Where the next element begins. */
  at: number;
  /** Where the surrounding element ends. */
  limit: number;
  tag = 0;
  start = 0;
  content = 0;
  stop = 0;

  constructor(bytes: Buffer, at = 0, limit = bytes.length) {
    this.bytes = bytes;
    this.at = at;
    this.limit = limit;
  }

  get more(): boolean {
    return this.at < this.limit;
  }

  /** Reads one header and moves behind the element. Throws {@link Malformed} on a length that does not fit or is not definite. */
  read(): number {
    const { bytes, limit } = this;
    let at = this.at;
    if (at + 2 > limit) throw new Malformed("it ends in the middle of an element");
    this.start = at;
    const kind = bytes[at++]!;
    if ((kind & 0x1f) === 0x1f) throw new Malformed("it has a tag number that no certificate format uses");
    let length = bytes[at++]!;
    if (length >= 0x80) {
      let octets = length & 0x7f;
      if (octets === 0) throw new Malformed("it has an indefinite length, which DER forbids");
      if (octets > 4 || at + octets > limit) throw new Malformed("a length runs past its end");
      length = 0;
      for (; octets > 0; octets--) length = length * 256 + bytes[at++]!;
    }
    const stop = at + length;
    if (stop > limit) throw new Malformed("a length runs past its end");
    this.tag = kind;
    this.content = at;
    this.stop = stop;
    this.at = stop;
    return kind;
  }

  /** Reads an element that must have this tag. */
  expect(wanted: number, what: string): void {
    if (this.read() !== wanted) throw new Malformed(`${what} is missing or has another type`);
  }

  /** Goes into the element that was just read, and gives its end for a later `leave`. */
  enter(): number {
    this.at = this.content;
    const outer = this.limit;
    this.limit = this.stop;
    return outer;
  }

  /** Skips what is left of the element that was entered, given what `enter` returned. */
  leave(outer: number): void {
    this.at = this.limit;
    this.limit = outer;
  }

  /** Tag of the next element, or -1 at the end. */
  peek(): number {
    return this.at < this.limit ? this.bytes[this.at]! : -1;
  }

  /** Content of the element that was just read, not a copy. */
  slice(): Buffer {
    return this.bytes.subarray(this.content, this.stop);
  }

  /** The whole element that was just read, header included, not a copy. */
  element(): Buffer {
    return this.bytes.subarray(this.start, this.stop);
  }
}

/** Gives the length of the element at `at`, header included, or -1 when there is none that fits before `limit`. */
export function elementLength(bytes: Buffer, at = 0, limit = bytes.length): number {
  if (at + 2 > limit) return -1;
  let length = bytes[at + 1]!;
  let header = 2;
  if (length >= 0x80) {
    const octets = length & 0x7f;
    if (octets === 0 || octets > 4 || at + 2 + octets > limit) return -1;
    length = 0;
    for (let i = 0; i < octets; i++) length = length * 256 + bytes[at + 2 + i]!;
    header += octets;
  }
  return at + header + length <= limit ? header + length : -1;
}

/**
 * Refuses input that is nested deeper than {@link maxDepth}, before a library that recurses gets it. Reads BER too: indefinite lengths
 * count as one level until their end-of-contents octets. Octet strings that hold more ASN.1 are opaque here, as they are to those libraries.
 */
export function refuseDeepNesting(bytes: Uint8Array): void {
  // Ends of the open elements; -1 stands for an indefinite length.
  const open: number[] = [];
  let at = 0;
  while (at < bytes.length) {
    while (open.length > 0 && open[open.length - 1] === at) open.pop();
    if (open.length > maxDepth) throw new Malformed(`it is nested deeper than ${maxDepth} levels`);
    const kind = bytes[at]!;
    const first = bytes[at + 1];
    if (first === undefined) return;
    if (kind === 0 && first === 0) {
      if (open[open.length - 1] === -1) open.pop();
      at += 2;
      continue;
    }
    let header = 2;
    let length = first;
    let indefinite = false;
    if (first >= 0x80) {
      const octets = first & 0x7f;
      indefinite = octets === 0;
      // A nonsense length is for the real parser to name.
      if (octets > 4) return;
      length = 0;
      for (let i = 0; i < octets; i++) length = length * 256 + (bytes[at + 2 + i] ?? 0);
      header += octets;
    }
    const constructed = (kind & 0x20) !== 0;
    if (constructed) {
      open.push(indefinite ? -1 : at + header + length);
      at += header;
    } else {
      at += header + length;
    }
  }
}

/** Dotted form of the object identifier in `bytes[from, to)`. */
export function oidText(bytes: Uint8Array, from: number, to: number): string {
  const parts: number[] = [];
  let value = 0;
  for (let i = from; i < to; i++) {
    const octet = bytes[i]!;
    value = value * 128 + (octet & 0x7f);
    if (value > Number.MAX_SAFE_INTEGER / 128) throw new Malformed("an object identifier is too long");
    if (octet < 0x80) {
      if (parts.length === 0) {
        const root = value < 40 ? 0 : value < 80 ? 1 : 2;
        parts.push(root, value - root * 40);
      } else {
        parts.push(value);
      }
      value = 0;
    }
  }
  return parts.join(".");
}

/** Content octets of a dotted object identifier, as a latin1 string: a cheap key for tables. */
export function oidKey(dotted: string): string {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const octets: number[] = [];
  for (const part of [first * 40 + second, ...rest]) {
    const tail = [part % 128];
    for (let left = Math.floor(part / 128); left > 0; left = Math.floor(left / 128)) tail.unshift((left % 128) + 128);
    octets.push(...tail);
  }
  return String.fromCharCode(...octets);
}
