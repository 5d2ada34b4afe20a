/** The lines of `status`: one per credential, what is most urgent first. */
import type { StatusItem } from "../app.ts";
import type { DueState } from "../core/due.ts";
import type { Session } from "./session.ts";
import { plain, table, type Cell, type Column, type Paint } from "./text.ts";
import { ago, day, expiry } from "./when.ts";

export const broken: readonly DueState[] = ["compromised", "expired", "late"];

function markOf(item: StatusItem, session: Session): Cell {
  const { out } = session;
  if (item.model) return { text: "-", paint: out.dim };
  if (item.rotation?.status === "halted") return { text: "x", paint: out.red };
  const { state } = item.due;
  if (broken.includes(state)) return { text: "x", paint: out.red };
  if (state === "out-of-step" || state === "due") return { text: "!", paint: out.yellow };
  if (state === "rotating") return { text: "o", paint: out.cyan };
  return state === "unknown" ? { text: "?", paint: out.yellow } : { text: "ok", paint: out.green };
}

export function reasonOf(item: StatusItem, nowMs: number): string {
  const { due } = item;
  const start =
    due.startByMs === null
      ? null
      : `${due.startByMs <= nowMs ? "start was due" : "start by"} ${day(due.startByMs, nowMs)}`;
  switch (due.state) {
    case "expired":
    case "compromised":
      return item.outOfStep.length > 0
        ? `${due.reason}; ${item.outOfStep.length} of ${item.places} copies differ`
        : due.reason;
    case "late":
    case "due":
      return start === null ? due.reason : `${due.reason}; ${start}`;
    case "fine":
      return start ?? "nothing to do";
    case "unknown": {
      const first = item.unseen[0];
      if (first === undefined || item.model) return due.reason;
      return item.unseen.every((each) => each.why === "never looked at")
        ? "never looked at"
        : `${first.place} could not be seen: ${first.why}`;
    }
    case "out-of-step":
    case "rotating":
      return due.reason;
  }
}

export function statusColumns(session: Session, nowMs: number): readonly Column<StatusItem>[] {
  const { out } = session;
  const soon: Record<string, Paint> = { expired: out.red, late: out.red, due: out.yellow };
  return [
    { title: "MARK", value: (item) => markOf(item, session) },
    {
      title: "CREDENTIAL",
      flex: true,
      value: (item) => ({ text: `${item.credential} (${item.owner})`, paint: out.bold }),
    },
    { title: "STATE", wide: true, value: (item) => item.due.state },
    {
      title: "EXPIRES",
      value: (item) => ({
        text: item.model || (item.current === null && item.notAfterMs === null) ? "" : expiry(item.notAfterMs, nowMs),
        paint: soon[item.due.state] ?? plain,
      }),
    },
    { title: "WHY", flex: true, value: (item) => reasonOf(item, nowMs) },
    { title: "CURRENT", wide: true, value: (item) => item.current ?? "" },
    { title: "SEEN", wide: true, value: (item) => (item.seenAtMs === null ? "never" : ago(item.seenAtMs, nowMs)) },
  ];
}

export function statusTable(items: readonly StatusItem[], session: Session, nowMs: number): string {
  const columns = statusColumns(session, nowMs).filter((column) => column.wide !== true || session.format === "wide");
  return table(items, columns, { width: session.width, head: null });
}
