/**
 * Durations and maintenance windows as people write them. Pure: the time is always a parameter, and the only thing that is borrowed is the
 * language's own `Intl`, which carries the IANA time zone database.
 */
import type { Window } from "./place.ts";

/** Either a value, or what is wrong and what would be right, each half a sentence. */
export type Parsed<T> = { readonly value: T } | { readonly problem: string; readonly fix: string };

const secondMs = 1000;
export const minuteMs = 60 * secondMs;
export const hourMs = 60 * minuteMs;
export const dayMs = 24 * hourMs;
export const weekMs = 7 * dayMs;

/** No duration is longer: 1,000 years of 366 days. Longer ones are slips of the finger, and sums of two still fit any date. */
const maxDurationMs = 366_000 * dayMs;
/** ECMA-262, "Time Values and Time Range". */
const maxTimeMs = 8.64e15;

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: secondMs,
  sec: secondMs,
  second: secondMs,
  seconds: secondMs,
  m: minuteMs,
  min: minuteMs,
  minute: minuteMs,
  minutes: minuteMs,
  h: hourMs,
  hour: hourMs,
  hours: hourMs,
  d: dayMs,
  day: dayMs,
  days: dayMs,
  w: weekMs,
  week: weekMs,
  weeks: weekMs,
};

const durationFix = 'write a number and a unit, such as "30s", "5m", "2h", "30d", "1w" or "1h30m"';

/**
 * `30d`, `5s`, `1m` (a minute), `2h`, `1w`, `500ms`, `1h30m`, `1.5h`, and ISO 8601 durations without years and months (`P30D`, `PT1H30M`).
 * A day is 24 hours and a week 7 days: calendar days belong to windows, not to durations.
 */
export function parseDuration(text: string): Parsed<number> {
  const trimmed = text.trim();
  if (trimmed === "") return { problem: "is an empty duration", fix: durationFix };
  if (trimmed.startsWith("-")) return { problem: `"${short(trimmed)}" is negative`, fix: "a duration is zero or more" };
  if (trimmed.length > 64) return { problem: `"${short(trimmed)}" is not a duration`, fix: durationFix };
  if (/^p/i.test(trimmed)) return parseIsoDuration(trimmed);
  if (/^[0-9.]+$/.test(trimmed)) {
    if (Number(trimmed) === 0) return { value: 0 };
    return {
      problem: `"${trimmed}" has no unit`,
      fix: `write "${trimmed}s", "${trimmed}m", "${trimmed}h" or "${trimmed}d"`,
    };
  }
  let rest = trimmed.toLowerCase();
  let sum = 0;
  let last = Number.POSITIVE_INFINITY;
  while (rest !== "") {
    const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)\s*/.exec(rest);
    const each = match === null ? undefined : own(unitMs, match[2] ?? "");
    if (match === null || each === undefined) {
      const calendar = match !== null && /^(mo|month|months|y|yr|year|years)$/.test(match[2] ?? "");
      if (calendar) return { problem: `"${trimmed}" has no fixed length`, fix: 'write days, such as "90d"' };
      return { problem: `"${trimmed}" is not a duration`, fix: durationFix };
    }
    // Units must fall, so that a doubled or swapped unit (`5m5m`, `30m1h`) is a question to the writer and not a sum.
    if (each >= last)
      return { problem: `"${trimmed}" is not a duration`, fix: "write each unit once, the longest first" };
    last = each;
    sum += Number(match[1]) * each;
    rest = rest.slice(match[0].length);
  }
  return bounded(trimmed, sum);
}

function parseIsoDuration(text: string): Parsed<number> {
  const match =
    /^P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+(?:[.,]\d+)?)W)?(?:(\d+(?:[.,]\d+)?)D)?(?:T(?:(\d+(?:[.,]\d+)?)H)?(?:(\d+(?:[.,]\d+)?)M)?(?:(\d+(?:[.,]\d+)?)S)?)?$/i.exec(
      text,
    );
  if (match === null || /[PT]$/i.test(text)) {
    return {
      problem: `"${text}" is not an ISO 8601 duration`,
      fix: 'write "P30D" or "PT1H30M", or short: "30d", "1h30m"',
    };
  }
  if (Number(match[1] ?? 0) > 0 || Number(match[2] ?? 0) > 0) {
    return {
      problem: `"${text}" has no fixed length`,
      fix: 'years and months differ in length: write days, such as "P90D"',
    };
  }
  const units = [weekMs, dayMs, hourMs, minuteMs, secondMs];
  let sum = 0;
  for (const [index, each] of units.entries()) sum += Number((match[index + 3] ?? "0").replace(",", ".")) * each;
  return bounded(text, sum);
}

function bounded(text: string, sum: number): Parsed<number> {
  if (sum > maxDurationMs) return { problem: `"${text}" is longer than 1,000 years`, fix: "write a shorter duration" };
  return { value: Math.round(sum) };
}

/**
 * For people, in at most two units: `5 s`, `2 h 30 min`, `90 d`. Rounded to the smaller of the two units shown. Negative ones get a minus sign.
 */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return "unknown";
  if (ms < 0) return `-${formatDuration(-ms)}`;
  if (Math.round(ms) < secondMs) return `${Math.round(ms)} ms`;
  const scale: readonly [number, string][] = [
    [dayMs, "d"],
    [hourMs, "h"],
    [minuteMs, "min"],
    [secondMs, "s"],
  ];
  for (const [index, [size, name]] of scale.entries()) {
    const below = scale[index + 1];
    if (ms < size && below !== undefined) continue;
    // From 14 days on the hours are noise.
    const step = below === undefined || ms >= 14 * dayMs ? size : below[0];
    const rounded = Math.round(ms / step) * step;
    // 59.7 s is 60 s here, which is written as the larger unit.
    const above = scale[index - 1];
    if (above !== undefined && rounded >= above[0]) return `1 ${above[1]}`;
    const whole = Math.floor(rounded / size);
    const part = Math.round((rounded - whole * size) / step);
    return part === 0 || below === undefined ? `${whole} ${name}` : `${whole} ${name} ${part} ${below[1]}`;
  }
  return "0 s";
}

/** Exact and readable by {@link parseDuration}: `1h30m`. For files and diffs. */
export function writeDuration(ms: number): string {
  if (ms === 0) return "0s";
  let rest = ms;
  let text = "";
  for (const [size, name] of [
    [dayMs, "d"],
    [hourMs, "h"],
    [minuteMs, "m"],
    [secondMs, "s"],
    [1, "ms"],
  ] as const) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) text += `${count}${name}`;
  }
  return text;
}

const dayNames = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"] as const;
const longDayNames = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"] as const;
const dayGroups: Readonly<Record<string, readonly number[]>> = {
  daily: [0, 1, 2, 3, 4, 5, 6],
  everyday: [0, 1, 2, 3, 4, 5, 6],
  weekdays: [1, 2, 3, 4, 5],
  weekends: [0, 6],
};

const windowFix =
  'write days, hours and a time zone, such as "Sat 02:00-06:00 Europe/Amsterdam", "Mon-Fri 22:00-04:00 UTC" or "daily 01:00-03:00"';

/**
 * `Sat 02:00-06:00 Europe/Amsterdam`, `Mon-Fri 22:00-04:00 UTC`, `Sat,Sun 00:00-24:00`, `daily 01:00-03:00` (UTC, where no zone is given).
 * The days are those on which the window opens; one that crosses midnight closes on the next day.
 */
export function parseWindow(text: string): Parsed<Window> & { readonly badTimeZone?: string } {
  const trimmed = text.trim().replace(/\s+/g, " ");
  const match = /^([A-Za-z][A-Za-z, -]*?) (\d{1,2}:\d{2}) ?[-–] ?(\d{1,2}:\d{2})(?: (\S+))?$/.exec(trimmed);
  if (match === null || trimmed.length > 200) return { problem: `"${short(trimmed)}" is not a window`, fix: windowFix };
  const [, daysText = "", fromText = "", toText = "", zone = "UTC"] = match;
  const days = parseDays(daysText);
  if (days === null) {
    return {
      problem: `"${daysText}" is not a list of days`,
      fix: 'write "Sat", "Mon-Fri", "Tue,Thu", "weekdays", "weekends" or "daily"',
    };
  }
  const fromMinute = parseClock(fromText);
  const toMinute = parseClock(toText);
  if (fromMinute === null || fromMinute === 1440) {
    return { problem: `"${fromText}" is not a time of day`, fix: "write 00:00 to 23:59" };
  }
  if (toMinute === null) return { problem: `"${toText}" is not a time of day`, fix: "write 00:00 to 24:00" };
  if (fromMinute === toMinute) {
    return { problem: `never opens: ${fromText} to ${toText} has no length`, fix: "for a whole day write 00:00-24:00" };
  }
  if (!isTimeZone(zone)) {
    return {
      problem: `"${zone}" is not a time zone`,
      fix: 'write an IANA name, such as "Europe/Amsterdam" or "UTC"',
      badTimeZone: zone,
    };
  }
  return { value: { days, fromMinute, toMinute, timeZone: zone, text: trimmed } };
}

function parseDays(text: string): readonly number[] | null {
  const lower = text.toLowerCase().replace(/ /g, "");
  const group = own(dayGroups, lower);
  if (group !== undefined) return group;
  const found = new Set<number>();
  for (const part of lower.split(",")) {
    const [first = "", last, ...more] = part.split("-");
    const from = parseDay(first);
    const to = last === undefined ? from : parseDay(last);
    if (from === -1 || to === -1 || more.length > 0) return null;
    for (let day = from; ; day = (day + 1) % 7) {
      found.add(day);
      if (day === to) break;
    }
  }
  return [...found].sort((a, b) => a - b);
}

function parseDay(text: string): number {
  const index = dayNames.findIndex((name) => name === text);
  return index === -1 ? longDayNames.findIndex((name) => name === text) : index;
}

function parseClock(text: string): number | null {
  const [hour = 99, minute = 99] = text.split(":").map(Number);
  if (hour === 24 && minute === 0) return 1440;
  return hour < 24 && minute < 60 ? hour * 60 + minute : null;
}

/** Making a formatter costs a thousand times what using it costs. The set of time zones in an estate is small. */
const formatters = new Map<string, Intl.DateTimeFormat>();

function formatter(timeZone: string): Intl.DateTimeFormat {
  let found = formatters.get(timeZone);
  if (found === undefined) {
    found = new Intl.DateTimeFormat("en-US", { timeZone, timeZoneName: "longOffset" });
    formatters.set(timeZone, found);
  }
  return found;
}

/** Whether the IANA database of this runtime has it. Offsets such as `+02:00` count. */
export function isTimeZone(name: string): boolean {
  try {
    formatter(name);
    return true;
  } catch {
    return false;
  }
}

/**
 * How far local time is ahead of UTC at that instant, in milliseconds. Zones of before 1972 may have seconds in it (Monrovia: -00:44:30).
 */
export function utcOffsetMs(timeZone: string, timeMs: number): number {
  const match = /GMT(?:([+-])(\d{2}):(\d{2})(?::(\d{2}))?)?$/.exec(formatter(timeZone).format(timeMs));
  if (match?.[1] === undefined) return 0;
  const ms = Number(match[2]) * hourMs + Number(match[3]) * minuteMs + Number(match[4] ?? 0) * secondMs;
  return match[1] === "-" ? -ms : ms;
}

/**
 * Whether the clock on the wall in that time zone shows a time inside the window. So an hour that is skipped in spring opens nothing, and an
 * hour that comes twice in autumn is open twice.
 */
export function isOpen(window: Window, nowMs: number): boolean {
  return shows(window, nowMs + utcOffsetMs(window.timeZone, nowMs));
}

/** `localMs`: the time on the wall, written as if it were UTC. */
function shows(window: Window, localMs: number): boolean {
  const dayNumber = Math.floor(localMs / dayMs);
  // Day 0, 1 January 1970, was a Thursday.
  const day = (((dayNumber + 4) % 7) + 7) % 7;
  const minute = (localMs - dayNumber * dayMs) / minuteMs;
  const { fromMinute, toMinute, days } = window;
  if (fromMinute < toMinute) return minute >= fromMinute && minute < toMinute && days.includes(day);
  return (minute >= fromMinute && days.includes(day)) || (minute < toMinute && days.includes((day + 6) % 7));
}

/** The first instant, now or later, at which the window is open. `null`: it never opens again. */
export function nextOpen(window: Window, nowMs: number): number | null {
  return next([window], nowMs, true);
}

/** The first instant, now or later, at which the window is closed. `null`: it never closes. */
export function nextClose(window: Window, nowMs: number): number | null {
  return next([window], nowMs, false);
}

/** Several windows are open when one of them is. No window at all means always. */
export function anyOpen(windows: readonly Window[], nowMs: number): boolean {
  return windows.length === 0 || windows.some((window) => isOpen(window, nowMs));
}

/** {@link nextOpen} for a list, in the sense of {@link anyOpen}. */
export function nextAnyOpen(windows: readonly Window[], nowMs: number): number | null {
  return windows.length === 0 ? nowMs : next(windows, nowMs, true);
}

/** {@link nextClose} for a list, in the sense of {@link anyOpen}. */
export function nextAllClosed(windows: readonly Window[], nowMs: number): number | null {
  return windows.length === 0 ? null : next(windows, nowMs, false);
}

/** A week has every boundary once; the rest is room for weeks in which a boundary fell into a skipped hour, or a zone skipped a whole day. */
const horizonMs = 5 * weekMs;

function next(windows: readonly Window[], nowMs: number, open: boolean): number | null {
  // Times are whole milliseconds; an instant between two of them is judged as the later one.
  const startMs = Math.ceil(nowMs);
  for (let atMs = startMs; atMs <= startMs + horizonMs && Math.abs(atMs) <= maxTimeMs;) {
    if (anyOpen(windows, atMs) === open) return atMs;
    let soonest = Number.POSITIVE_INFINITY;
    for (const window of windows) soonest = Math.min(soonest, nextBoundary(window, atMs));
    atMs = soonest;
  }
  return null;
}

/** The next instant at which the answer of {@link isOpen} may change: a side of the window, a midnight, or a change of the zone's offset. */
function nextBoundary(window: Window, atMs: number): number {
  const offset = utcOffsetMs(window.timeZone, atMs);
  const localMs = atMs + offset;
  const midnightMs = Math.floor(localMs / dayMs) * dayMs;
  let nextLocalMs = midnightMs + dayMs;
  for (const minute of [window.fromMinute, window.toMinute]) {
    const side = midnightMs + minute * minuteMs;
    if (side > localMs && side < nextLocalMs) nextLocalMs = side;
  }
  const boundaryMs = nextLocalMs - offset;
  if (boundaryMs > maxTimeMs) return Number.POSITIVE_INFINITY;
  if (utcOffsetMs(window.timeZone, boundaryMs) === offset) return boundaryMs;
  // The offset changes on the way (daylight saving): stop at the first instant of the new one and look again from there.
  let before = atMs;
  let after = boundaryMs;
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2);
    if (utcOffsetMs(window.timeZone, middle) === offset) before = middle;
    else after = middle;
  }
  return after;
}

/** Enough of what was written to recognise it. */
function short(text: string): string {
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** A table made of an object literal also answers to `constructor`; this asks for its own entries only. */
function own<T>(table: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined;
}
