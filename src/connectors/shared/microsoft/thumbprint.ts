/**
 * SHA-1 thumbprints as Microsoft's services write them: hex in either case, with spaces or colons, base64, base64url, and base64 of the hex
 * text. Returns lower-case hex, or `undefined` when it is none.
 */
export function thumbprintOf(text: string | null | undefined): string | undefined {
  if (text === null || text === undefined) return undefined;
  const hex = text.replaceAll(/[\s:\u200e]/g, "").toLowerCase();
  if (/^[0-9a-f]{40}$/.test(hex)) return hex;
  if (!/^[A-Za-z0-9+/_-]+={0,2}$/.test(text)) return undefined;
  const bytes = Buffer.from(text, "base64");
  if (bytes.length === 20) return bytes.toString("hex");
  const inner = bytes.toString("latin1").toLowerCase();
  return /^[0-9a-f]{40}$/.test(inner) ? inner : undefined;
}
