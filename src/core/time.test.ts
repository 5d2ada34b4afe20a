import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Window } from "./place.ts";
import {
  anyOpen,
  dayMs,
  formatDuration,
  hourMs,
  isOpen,
  isTimeZone,
  minuteMs,
  nextAllClosed,
  nextAnyOpen,
  nextClose,
  nextOpen,
  parseDuration,
  parseWindow,
  utcOffsetMs,
  weekMs,
  writeDuration,
} from "./time.ts";

function ms(text: string): number {
  const parsed = parseDuration(text);
  if ("problem" in parsed) throw new Error(`${text}: ${parsed.problem}`);
  return parsed.value;
}
function window(text: string): Window {
  const parsed = parseWindow(text);
  if ("problem" in parsed) throw new Error(`${text}: ${parsed.problem}`);
  return parsed.value;
}
function problem(text: string): string {
  const parsed = parseWindow(text);
  return "problem" in parsed ? `${parsed.problem}; ${parsed.fix}` : "no problem";
}
const at = (iso: string) => Date.parse(iso);
const iso = (time: number | null) => (time === null ? null : new Date(time).toISOString());

describe("durations", () => {
  test.each([
    ["30d", 30 * dayMs],
    ["5s", 5000],
    ["1m", minuteMs],
    ["2h", 2 * hourMs],
    ["1w", weekMs],
    ["500ms", 500],
    ["1h30m", 90 * minuteMs],
    ["1 h 30 min", 90 * minuteMs],
    ["1.5h", 90 * minuteMs],
    ["2 days", 2 * dayMs],
    ["0", 0],
    ["0s", 0],
    ["P30D", 30 * dayMs],
    ["PT1H30M", 90 * minuteMs],
    ["P1W", weekMs],
    ["P1DT0.5S", dayMs + 500],
    ["pt5m", 5 * minuteMs],
  ])("%s", (text, expected) => expect(ms(text)).toBe(expected));

  test.each([
    ["", "empty"],
    ["5", 'has no unit; write "5s"'],
    ["-5s", "negative"],
    ["-P1D", "negative"],
    ["3 months", "no fixed length"],
    ["1y", "no fixed length"],
    ["P1M", "no fixed length"],
    ["P1Y2D", "no fixed length"],
    ["P", "ISO 8601"],
    ["PT", "ISO 8601"],
    ["P1DT", "ISO 8601"],
    ["5x", "not a duration"],
    ["constructor", "not a duration"],
    ["5constructor", "not a duration"],
    ["5m5m", "each unit once"],
    ["30m1h", "longest first"],
    ["999999999d", "longer than 1,000 years"],
    ["9".repeat(400) + "d", "not a duration"],
  ])("%s is refused", (text, expected) => {
    const parsed = parseDuration(text);
    expect("problem" in parsed ? `${parsed.problem}; ${parsed.fix}` : parsed).toContain(expected);
  });

  test.each([
    [0, "0 ms"],
    [999, "999 ms"],
    [1000, "1 s"],
    [59_700, "1 min"],
    [90_000, "1 min 30 s"],
    [2 * hourMs + 30 * minuteMs, "2 h 30 min"],
    [hourMs - 1, "1 h"],
    [dayMs - 1, "1 d"],
    [dayMs + 2 * hourMs, "1 d 2 h"],
    [90 * dayMs + hourMs, "90 d"],
    [-5000, "-5 s"],
    [Number.POSITIVE_INFINITY, "unknown"],
  ])("%d ms is shown as %s", (value, expected) => expect(formatDuration(value)).toBe(expected));

  test("what is written can be read back exactly", () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 1e13 }), (value) => ms(writeDuration(value)) === value));
  });
  test("what is shown is within half of its smaller unit", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1000, max: 1e12 }), (value) => {
        const shown = formatDuration(value);
        const read = ms(shown);
        const unit = ms(`1${shown.split(" ").at(-1)}`);
        return Math.abs(read - value) <= Math.max(unit / 2, 30 * minuteMs);
      }),
    );
  });
  test("no text makes the parser throw", () => {
    fc.assert(fc.property(fc.string(), (text) => typeof parseDuration(text) === "object"));
    fc.assert(
      fc.property(
        fc.stringMatching(/^[0-9PTDHMSWYpm.,a-z -]{0,30}$/),
        (text) => typeof parseDuration(text) === "object",
      ),
    );
  });
});

describe("windows as written", () => {
  test("the parts", () => {
    expect(window("Sat 02:00-06:00 Europe/Amsterdam")).toEqual({
      days: [6],
      fromMinute: 120,
      toMinute: 360,
      timeZone: "Europe/Amsterdam",
      text: "Sat 02:00-06:00 Europe/Amsterdam",
    });
    expect(window("daily 01:00-03:00")).toMatchObject({ days: [0, 1, 2, 3, 4, 5, 6], timeZone: "UTC" });
    expect(window("Fri-Mon 1:00 - 3:00").days).toEqual([0, 1, 5, 6]);
    expect(window("tuesday, Thu 00:00-24:00 +02:00")).toMatchObject({ days: [2, 4], toMinute: 1440 });
    expect(window("weekdays 22:00-04:00 UTC").days).toEqual([1, 2, 3, 4, 5]);
  });
  test.each([
    ["", "is not a window"],
    ["Sat", "is not a window"],
    ["Sat 02:00", "is not a window"],
    ["Caturday 02:00-06:00", "not a list of days"],
    ["Mon-Tue-Wed 02:00-06:00", "not a list of days"],
    ["constructor 02:00-06:00", "not a list of days"],
    ["Sat 25:00-26:00", "not a time of day"],
    ["Sat 24:00-03:00", "not a time of day"],
    ["Sat 02:61-06:00", "not a time of day"],
    ["Sat 02:00-02:00 UTC", "never opens"],
    ["Sat 02:00-06:00 Europe/Amsterdm", "is not a time zone"],
  ])("%s is refused", (text, expected) => expect(problem(text)).toContain(expected));
  test("no text makes the parser throw", () => {
    fc.assert(fc.property(fc.string(), (text) => typeof parseWindow(text) === "object"));
  });
});

describe("open and closed", () => {
  const amsterdam = window("Sun 02:00-03:00 Europe/Amsterdam");
  test("the missing hour opens nothing, and the next opening is a week later", () => {
    // In 2026 the clocks go forward on 29 March at 01:00 UTC.
    expect(iso(nextOpen(amsterdam, at("2026-03-23T00:00:00Z")))).toBe("2026-04-05T00:00:00.000Z");
  });
  test("a window around the missing hour is an hour shorter", () => {
    const around = window("Sun 01:30-03:30 Europe/Amsterdam");
    expect(iso(nextOpen(around, at("2026-03-28T12:00:00Z")))).toBe("2026-03-29T00:30:00.000Z");
    expect(iso(nextClose(around, at("2026-03-29T00:30:00Z")))).toBe("2026-03-29T01:30:00.000Z");
  });
  test("a window that begins in the missing hour opens when the clock has jumped into it", () => {
    const late = window("Sun 02:30-04:00 Europe/Amsterdam");
    expect(iso(nextOpen(late, at("2026-03-28T12:00:00Z")))).toBe("2026-03-29T01:00:00.000Z");
  });
  test("the doubled hour is open all through, and a part of it twice", () => {
    // In 2026 the clocks go back on 25 October at 01:00 UTC.
    expect(iso(nextOpen(amsterdam, at("2026-10-24T12:00:00Z")))).toBe("2026-10-25T00:00:00.000Z");
    expect(iso(nextClose(amsterdam, at("2026-10-25T00:00:00Z")))).toBe("2026-10-25T02:00:00.000Z");
    const half = window("Sun 02:00-02:30 Europe/Amsterdam");
    expect(iso(nextClose(half, at("2026-10-25T00:00:00Z")))).toBe("2026-10-25T00:30:00.000Z");
    expect(iso(nextOpen(half, at("2026-10-25T00:30:00Z")))).toBe("2026-10-25T01:00:00.000Z");
    expect(iso(nextClose(half, at("2026-10-25T01:00:00Z")))).toBe("2026-10-25T01:30:00.000Z");
  });
  test("a night that crosses midnight belongs to the day on which it began", () => {
    const nights = window("Mon-Fri 22:00-04:00 UTC");
    expect(isOpen(nights, at("2026-01-10T03:59:00Z"))).toBe(true); // Saturday morning, Friday's night
    expect(isOpen(nights, at("2026-01-10T22:30:00Z"))).toBe(false); // Saturday night
    expect(isOpen(nights, at("2026-01-12T03:00:00Z"))).toBe(false); // Monday morning, Sunday's night
    expect(iso(nextOpen(nights, at("2026-01-10T04:00:00Z")))).toBe("2026-01-12T22:00:00.000Z");
  });
  test("open days in a row close at their end, and a window that is always open never", () => {
    expect(iso(nextClose(window("weekdays 00:00-24:00 UTC"), at("2026-01-07T12:00:00Z")))).toBe(
      "2026-01-10T00:00:00.000Z",
    );
    expect(nextClose(window("daily 00:00-24:00 Europe/Amsterdam"), at("2026-01-07T12:00:00Z"))).toBeNull();
  });
  test("leap days, the far ends of the world, 2038 and 9999", () => {
    expect(iso(nextOpen(window("Thu 10:00-11:00 UTC"), at("2024-02-28T12:00:00Z")))).toBe("2024-02-29T10:00:00.000Z");
    expect(iso(nextOpen(window("Sat 00:00-01:00 Pacific/Kiritimati"), at("2026-01-08T00:00:00Z")))).toBe(
      "2026-01-09T10:00:00.000Z",
    );
    expect(iso(nextOpen(window("Sat 00:00-01:00 Etc/GMT+12"), at("2026-01-08T00:00:00Z")))).toBe(
      "2026-01-10T12:00:00.000Z",
    );
    expect(iso(nextOpen(window("Tue 03:14-03:15 UTC"), at("2038-01-19T03:14:07.999Z")))).toBe(
      "2038-01-19T03:14:07.999Z",
    );
    expect(iso(nextOpen(window("Fri 23:00-24:00 UTC"), at("9999-12-31T00:00:00Z")))).toBe("9999-12-31T23:00:00.000Z");
    expect(iso(nextOpen(window("Sat 00:00-01:00 UTC"), at("9999-12-31T12:00:00Z")))).toBe(
      "+010000-01-01T00:00:00.000Z",
    );
  });
  test("a day that was skipped altogether (Samoa, 30 December 2011)", () => {
    const friday = window("Fri 10:00-11:00 Pacific/Apia");
    expect(iso(nextOpen(friday, at("2011-12-29T12:00:00Z")))).toBe("2012-01-05T20:00:00.000Z");
  });
  test("the end of time is an answer and not a crash", () => {
    expect(nextOpen(window("Mon 10:00-11:00 UTC"), 8.64e15)).toBeNull();
    expect(nextOpen({ ...amsterdam, days: [] }, 0)).toBeNull();
  });
  test("a clock that steps back gets the answer of the time it shows", () => {
    const before = nextOpen(amsterdam, at("2026-01-01T00:00:00Z"));
    nextOpen(amsterdam, at("2031-01-01T00:00:00Z"));
    expect(nextOpen(amsterdam, at("2026-01-01T00:00:00Z"))).toBe(before);
  });
  test("of several windows the first that opens counts, and none means always", () => {
    const both = [window("Sat 02:00-06:00 UTC"), window("Sat 05:00-08:00 UTC")];
    expect(iso(nextAnyOpen(both, at("2026-01-09T00:00:00Z")))).toBe("2026-01-10T02:00:00.000Z");
    expect(iso(nextAllClosed(both, at("2026-01-10T03:00:00Z")))).toBe("2026-01-10T08:00:00.000Z");
    expect([anyOpen([], 5), nextAnyOpen([], 5), nextAllClosed([], 5)]).toEqual([true, 5, null]);
  });

  const zones = [
    "UTC",
    "Europe/Amsterdam",
    "America/New_York",
    "Australia/Lord_Howe", // Half an hour of daylight saving.
    "America/St_Johns",
    "Asia/Kathmandu",
    "Pacific/Kiritimati",
    "Etc/GMT+12",
    "America/Sao_Paulo", // Changed at midnight, until 2019.
    "Africa/Casablanca",
    "Asia/Tehran",
    "Pacific/Apia",
  ];
  const windows = fc.record({
    days: fc.uniqueArray(fc.integer({ min: 0, max: 6 }), { minLength: 1, maxLength: 7 }),
    fromMinute: fc.integer({ min: 0, max: 1439 }),
    toMinute: fc.integer({ min: 0, max: 1440 }),
    timeZone: fc.constantFrom(...zones),
    text: fc.constant(""),
  });
  // Near a change of the clocks half of the time, since a random moment hardly ever is.
  const changes = [
    "2026-03-29T01:00:00Z",
    "2026-10-25T01:00:00Z",
    "2026-03-08T07:00:00Z",
    "2026-11-01T06:00:00Z",
    "2026-04-04T15:00:00Z",
    "2018-11-04T03:00:00Z",
    "2018-02-18T02:00:00Z",
    "2011-12-30T10:00:00Z",
    "2022-03-21T20:30:00Z",
    "2024-02-29T00:00:00Z",
    "2038-01-19T03:14:00Z",
  ].map(at);
  const moments = fc.oneof(
    fc
      .integer({ min: at("1973-01-01T00:00:00Z") / minuteMs, max: at("2100-01-01T00:00:00Z") / minuteMs })
      .map((minute) => minute * minuteMs),
    fc
      .tuple(fc.constantFrom(...changes), fc.integer({ min: -2880, max: 2880 }))
      .map(([change, by]) => change + by * minuteMs),
  );

  /** The definition, from the parts of a formatted date: nothing in common with the arithmetic under test. */
  const walls = new Map<string, Intl.DateTimeFormat>();
  function byTheWall(w: Window, time: number): boolean {
    let wall = walls.get(w.timeZone);
    if (wall === undefined) {
      wall = new Intl.DateTimeFormat("en-GB", {
        timeZone: w.timeZone,
        weekday: "short",
        hour: "2-digit",
        minute: "2-digit",
        hourCycle: "h23",
      });
      walls.set(w.timeZone, wall);
    }
    const [, dayText = "", hour = "", minute = ""] = /^(\w{3}),? (\d\d):(\d\d)$/.exec(wall.format(time)) ?? [];
    const day = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"].indexOf(dayText);
    expect(day).toBeGreaterThanOrEqual(0);
    const now = Number(hour) * 60 + Number(minute);
    if (w.fromMinute < w.toMinute) return w.days.includes(day) && now >= w.fromMinute && now < w.toMinute;
    return (w.days.includes(day) && now >= w.fromMinute) || (w.days.includes((day + 6) % 7) && now < w.toMinute);
  }

  test("agrees with stepping through the minutes, and with the wall", () => {
    fc.assert(
      fc.property(windows, moments, (w, now) => {
        const open = isOpen(w, now);
        expect(open).toBe(byTheWall(w, now));
        const change = open ? nextClose(w, now) : nextOpen(w, now);
        // Two days of minutes, and then a bound only: stepping through a week of minutes for every case would take too long.
        const limit = Math.min(change ?? Number.POSITIVE_INFINITY, now + 2 * dayMs);
        for (let time = now; time < limit; time += minuteMs) {
          if (byTheWall(w, time) !== open) throw new Error(`missed a change at ${iso(time)}`);
        }
        if (change === null) expect(w).toMatchObject({ days: { length: 7 } });
        else {
          expect(isOpen(w, change)).toBe(!open);
          expect(isOpen(w, change - 1)).toBe(open);
          expect(byTheWall(w, change)).toBe(!open);
        }
      }),
      { numRuns: 150 },
    );
  });
  test("agrees with stepping through the minutes to the very change, for short waits", () => {
    fc.assert(
      fc.property(windows, moments, (w, now) => {
        const opens = nextOpen(w, now);
        if (opens === null || opens - now > 2 * dayMs) return;
        let time = now;
        while (!byTheWall(w, time)) time += minuteMs;
        expect(iso(opens)).toBe(iso(time));
      }),
      { numRuns: 150 },
    );
  });
});

test("time zones and their offsets", () => {
  expect([isTimeZone("Europe/Amsterdam"), isTimeZone("Nowhere/Land"), isTimeZone("+14:00"), isTimeZone("")]).toEqual([
    true,
    false,
    true,
    false,
  ]);
  expect(utcOffsetMs("Africa/Monrovia", 0)).toBe(-(44 * 60 + 30) * 1000);
  expect(utcOffsetMs("Asia/Kathmandu", at("2026-01-01T00:00:00Z"))).toBe(5.75 * hourMs);
});
