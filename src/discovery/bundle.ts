/**
 * The short way for what most files are: PEM certificates, one behind the other, and nothing else. It takes only what is sound and plain, and
 * stops in front of everything else, which `parse` then reads with all its patience.
 */
import { bundledItem } from "./certificate.ts";
import { tag } from "./der.ts";
import type { Found } from "./found.ts";

const armour = Buffer.from("-----BEGIN CERTIFICATE-----");
const ending = Buffer.from("-----END CERTIFICATE-----");
const dash = 0x2d;

/** Certificates are decoded into pieces of this size, which live as long as one of their certificates is looked at. Only public bytes stay there. */
const pieceBytes = 64 * 1024;
let piece = Buffer.allocUnsafeSlow(0);
let used = 0;

/** Larger ones are rare, and read in the other way. */
const longestBody = pieceBytes / 4;

/**
 * Appends up to `most` certificates to `into`, from the offset given. Gives the offset where it stopped: the end of the file, or the first block
 * that is not a sound certificate, or the next one where there were enough.
 */
export function readBundle(
  bytes: Buffer,
  from: number,
  firstIndex: number,
  place: { readonly source: string; readonly path: string },
  into: Found[],
  most: number,
): number {
  let at = from;
  for (let taken = 0; ; taken++) {
    while (at < bytes.length && isSpace(bytes[at]!)) at++;
    if (at === bytes.length || taken === most || !startsWith(bytes, armour, at)) return at;
    const body = at + armour.length;
    // Base64 has no dash, so that the first one is the end of a sound block; looking for one byte is much the fastest search.
    const stop = bytes.indexOf(dash, body);
    if (stop === -1 || stop - body > longestBody || !isSpace(bytes[body]!) || !startsWith(bytes, ending, stop))
      return at;
    if (piece.length - used < stop - body) {
      piece = Buffer.allocUnsafeSlow(pieceBytes);
      used = 0;
    }
    const length = piece.write(bytes.toString("latin1", body, stop), used, stop - body, "base64");
    try {
      if (length === 0 || piece[used] !== tag.sequence) throw new TypeError("no certificate");
      into.push(bundledItem(piece, used, used + length, firstIndex + taken, place));
    } catch {
      // What is odd about it is said by the other way; whatever it was, it does not stay here.
      piece.fill(0, used, used + length);
      return at;
    }
    used += length;
    at = stop + ending.length;
  }
}

function isSpace(octet: number): boolean {
  return octet === 0x0a || octet === 0x0d || octet === 0x20 || octet === 0x09;
}

export function startsWith(bytes: Buffer, wanted: Buffer, at: number): boolean {
  for (let i = 0; i < wanted.length; i++) if (bytes[at + i] !== wanted[i]) return false;
  return true;
}
