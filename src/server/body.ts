/** Bodies from outside: bounded in size and depth before anything is built from them. */
import { Fault } from "./fault.ts";

const mostDepth = 32;

/** Reads JSON. Throws a {@link Fault}: too large, not UTF-8, not JSON, too deep. No body counts as `{}`. */
export async function readBody(request: Request, limitBytes: number): Promise<unknown> {
  const tooLarge = (): Fault =>
    new Fault(413, "too-large", `The body is larger than ${Math.floor(limitBytes / 1024)} kB.`);
  const length = Number(request.headers.get("content-length") ?? 0);
  if (length > limitBytes) throw tooLarge();
  const chunks: Uint8Array[] = [];
  let size = 0;
  if (request.body !== null) {
    for await (const chunk of request.body as unknown as AsyncIterable<Uint8Array>) {
      size += chunk.byteLength;
      if (size > limitBytes) throw tooLarge();
      chunks.push(chunk);
    }
  }
  if (size === 0) return {};
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json(?:\s*;|$)/i.test(type))
    throw new Fault(415, "invalid", "The body must be JSON.", { next: "Send it with Content-Type: application/json." });
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new Fault(400, "invalid", "The body is not UTF-8.");
  }
  refuseDeep(text);
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // The parser's own message quotes the body, which may be a secret that somebody sent to the wrong place.
    throw new Fault(400, "invalid", "The body is not JSON.");
  }
}

/** Counts brackets outside strings, without building anything. */
function refuseDeep(text: string): void {
  let depth = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (quoted) {
      if (char === 0x5c) i++;
      else if (char === 0x22) quoted = false;
    } else if (char === 0x22) quoted = true;
    else if (char === 0x7b || char === 0x5b) {
      if (++depth > mostDepth) throw new Fault(400, "invalid", `The body is nested deeper than ${mostDepth} levels.`);
    } else if (char === 0x7d || char === 0x5d) depth--;
  }
}
