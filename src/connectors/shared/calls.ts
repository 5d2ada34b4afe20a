/** Small things that every call of a connector does. */
import { ConnectorError } from "../connector.ts";
import type { CallContext } from "../connector.ts";

/** Call it before the first effect. Nothing was sent yet, so the outcome is known. */
export function throwIfCancelled(cx: Pick<CallContext, "signal">): void {
  if (cx.signal.aborted) throw new ConnectorError("unavailable", "The call was cancelled before anything was done.");
}

/** The code of a Node error (`ENOENT`), and nothing else of it: messages may hold paths, which are public, or values, which are not. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
