/** Times as people read them: near ones relative, far ones as a day; the exact moment is always beside it. */
import { formatDuration } from "../core/time.ts";

export { formatDuration };

const dayMs = 86_400_000;
const zone = new Intl.DateTimeFormat().resolvedOptions().timeZone;
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayOnly = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const dayYear = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export const msOf = (time: string): number => Date.parse(time);

/** `21 Nov`, with the year when it is not this one. */
export function dayOf(ms: number, nowMs: number): string {
  const sameYear = new Date(ms).getFullYear() === new Date(nowMs).getFullYear();
  return (sameYear || Math.abs(ms - nowMs) < 300 * dayMs ? dayOnly : dayYear).format(ms);
}

/** `09:41` today, `20 Nov 09:41` on other days. */
export function momentOf(ms: number, nowMs: number, seconds = false): string {
  const time = (seconds ? clockSeconds : clock).format(ms);
  return new Date(ms).toDateString() === new Date(nowMs).toDateString() ? time : `${dayOf(ms, nowMs)} ${time}`;
}

/** The moment in full, in UTC and with the reader's own clock. */
export function exactOf(ms: number): string {
  const utc = `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  return zone === "UTC" ? utc : `${utc} (${dayYear.format(ms)} ${clockSeconds.format(ms)} here)`;
}

/** A length without false precision: `3 min`, `4 h`, `28 d`. */
export function roughly(ms: number): string {
  const size = Math.abs(ms);
  if (size < 60_000) return `${Math.max(0, Math.round(size / 1000))} s`;
  if (size < 3_600_000) return `${Math.round(size / 60_000)} min`;
  if (size < 2 * dayMs) return `${Math.round(size / 3_600_000)} h`;
  return `${Math.floor(size / dayMs)} days`;
}

/** `in 28 days`, `4 days ago`, `now`. */
export function relativeOf(ms: number, nowMs: number): string {
  const away = ms - nowMs;
  if (Math.abs(away) < 1500) return "now";
  return away > 0 ? `in ${roughly(away)}` : `${roughly(away)} ago`;
}
