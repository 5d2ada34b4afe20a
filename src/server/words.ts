/** Journal records in words, for logs and live events. Payloads are public; their shapes are the engine's, so each field is asked for. */
import type { JournalRow } from "../store/store.ts";

function fieldsOf(row: JournalRow): (name: string) => string | null {
  const payload = row.payload;
  const value: Readonly<Record<string, unknown>> =
    payload !== null && typeof payload === "object" && !Array.isArray(payload)
      ? (payload as Readonly<Record<string, unknown>>)
      : {};
  return (name) => {
    const field = Object.hasOwn(value, name) ? value[name] : undefined;
    if (typeof field === "string" && field !== "") return field;
    return typeof field === "number" || typeof field === "boolean" ? String(field) : null;
  };
}

const results: Readonly<Record<string, string>> = {
  done: "done",
  failed: "failed",
  unknown: "no answer, so it is looked at before anything else",
  refused: "refused",
};

export function textOf(row: JournalRow): string {
  const get = fieldsOf(row);
  const text = get("text");
  const tail = text === null ? "" : `: ${text}`;
  const what = (): string => {
    const verb = get("action") ?? get("verb") ?? "act";
    const version = get("version");
    const place = get("place");
    return `${verb}${version === null ? "" : ` ${version}`}${place === null ? "" : ` at ${place}`}`;
  };
  switch (row.kind) {
    case "intent":
      return `Begins: ${text ?? what()}`;
    case "outcome": {
      const result = get("result") ?? get("outcome") ?? "done";
      const detail = get("detail");
      return `${what()}: ${results[result] ?? result}${detail === null ? "" : `, ${detail}`}`;
    }
    case "approval":
      return `${get("by") ?? row.actor} ${get("verdict") ?? "answered"} the ${get("phase") ?? "plan"} phase${tail}`;
    case "task":
      if (get("checked") !== null)
        return `Task ${get("task") ?? ""} ${get("checked") === "true" ? "is checked" : "is not done yet"}${tail}`;
      return `Task ${get("task") ?? ""} is ${get("state") ?? "changed"}${get("by") === null ? "" : ` by ${get("by")}`}${tail}`;
    case "rotation":
      return `Rotation ${get("status") ?? "changed"}${get("by") === null ? "" : ` by ${get("by")}`}${tail}`;
    case "version":
      return `Version ${get("version") ?? ""}${get("adoptedFrom") === null ? " is made" : ` is taken in from ${get("adoptedFrom")}`}`;
    case "estate":
      return `The estate has revision ${get("revision") ?? ""}, ${get("credentials") ?? "some"} credentials`;
    case "key":
      return "The key-encryption key was rolled";
    case "person":
      return `${row.actor.replace(/^person:/, "")}${get("person") === null || `person:${get("person")}` === row.actor ? "" : ` about ${get("person")}`}${tail}`;
    case "note":
    case "checkpoint":
      return text ?? row.kind;
  }
}
