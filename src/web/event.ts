/** Events come from our own server; one that cannot be read is left out, because the next answer of a query says what is true. */
import type { eventTypes as types, ServerEvent } from "../server/schema.ts";

export const eventTypes: typeof types = ["journal", "credentials", "resync"];

export function parseEvent(data: string): ServerEvent | null {
  try {
    const value: unknown = JSON.parse(data);
    if (value === null || typeof value !== "object") return null;
    const { type, seq, at } = value as Readonly<Record<string, unknown>>;
    if (!(eventTypes as readonly unknown[]).includes(type) || typeof seq !== "number" || typeof at !== "string")
      return null;
    return value as ServerEvent;
  } catch {
    return null;
  }
}
