/** Dates and ages for people, in the time zone of the machine (`TZ`). Documents for programs always carry ISO 8601 in UTC. */
import { dayMs, formatDuration, hourMs, minuteMs } from "../core/time.ts";

/** In one unit, because an age is read at a glance: `3 min`, `4 h`, `28 d`. */
export function roughly(ms: number): string {
  const abs = Math.abs(ms);
  if (abs < minuteMs) return formatDuration(Math.max(1000, Math.floor(abs / 1000) * 1000));
  if (abs < 2 * hourMs) return `${Math.floor(abs / minuteMs)} min`;
  if (abs < 2 * dayMs) return `${Math.floor(abs / hourMs)} h`;
  return `${Math.floor(abs / dayMs).toLocaleString("en-US")} d`;
}

export function ago(atMs: number, nowMs: number): string {
  return nowMs - atMs < 2000 ? "just now" : `${roughly(nowMs - atMs)} ago`;
}

const part = (ms: number, options: Intl.DateTimeFormatOptions): string =>
  new Intl.DateTimeFormat("en-GB", options).format(ms);

/** `19 Dec`, with the year where it is not this one, and the time of day where it is within two days. */
export function day(ms: number, nowMs: number): string {
  const sameYear = part(ms, { year: "numeric" }) === part(nowMs, { year: "numeric" });
  const date = part(ms, { day: "numeric", month: "short", ...(sameYear ? {} : { year: "numeric" }) });
  return Math.abs(ms - nowMs) < 2 * dayMs ? `${date} ${clock(ms, false)}` : date;
}

export function clock(ms: number, seconds = true): string {
  return part(ms, { hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}), hour12: false });
}

export function dateTime(ms: number): string {
  return `${part(ms, { day: "numeric", month: "short", year: "numeric" })} ${clock(ms)}`;
}

/** `in 28 d, 19 Dec` or `expired 4 d ago`. */
export function expiry(notAfterMs: number | null, nowMs: number): string {
  if (notAfterMs === null) return "does not expire";
  return notAfterMs <= nowMs
    ? `expired ${roughly(nowMs - notAfterMs)} ago`
    : `${roughly(notAfterMs - nowMs)}, ${day(notAfterMs, nowMs)}`;
}
