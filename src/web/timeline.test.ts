import { describe, expect, it } from "vitest";
import type { Overview } from "../server/schema.ts";
import { layoutTimeline } from "./timeline.ts";

type Item = Overview["timeline"][number];
const dayMs = 86_400_000;
const nowMs = Date.UTC(2026, 10, 21);
const iso = (days: number): string => new Date(nowMs + days * dayMs).toISOString();
const item = (
  credential: string,
  owner: string,
  start: number,
  end: number | null,
  state: Item["state"] = "fine",
): Item => ({
  credential,
  owner,
  state,
  lastSafeStart: end === null ? null : iso(start),
  startBy: iso(start),
  expires: end === null ? null : iso(end),
  neededMs: dayMs,
  stale: false,
});
const layout = (items: readonly Item[], width = 1200) => layoutTimeline(items, nowMs, width, () => "21 Nov");

describe("the timeline", () => {
  it("puts what is over to the left of today, and a bar from its last safe start to its expiry", () => {
    const { rows, nowX } = layout([item("old", "a", -20, -3, "expired"), item("new", "b", 10, 40)]);
    const [old, fresh] = rows.map((row) => row.bars[0]!);
    expect(old!.x0).toBeLessThan(old!.x1);
    expect(old!.x1).toBeLessThan(nowX);
    expect(fresh!.x0).toBeGreaterThan(nowX);
  });

  it("never draws two labels of a row over each other, nor one outside the picture", () => {
    const items = Array.from({ length: 40 }, (_, i) => item(`credential-${i}`, "a", i * 9 - 30, i * 9 - 20, "due"));
    for (const width of [700, 1000, 1400]) {
      const { rows, height } = layout(items, width);
      for (const row of rows)
        for (const lane of new Set(row.bars.map((bar) => bar.lane))) {
          const spans = row.bars
            .filter((bar) => bar.lane === lane)
            .map((bar) => {
              const wide = (bar.label.length + 7) * 6.5;
              return bar.anchor === "start" ? [bar.labelX, bar.labelX + wide] : [bar.labelX - wide, bar.labelX];
            })
            .toSorted((a, b) => a[0]! - b[0]!);
          for (const [i, span] of spans.entries()) {
            expect(span[1]!).toBeLessThanOrEqual(width);
            if (i > 0) expect(span[0]!).toBeGreaterThanOrEqual(spans[i - 1]![1]!);
          }
        }
      expect(height).toBeGreaterThan(0);
    }
  });

  it("folds calm neighbours into one mark and never what is in trouble", () => {
    const calm = Array.from({ length: 30 }, (_, i) => item(`leaf-${i}`, "a", 99, 100 + i / 100));
    const { rows } = layout([...calm, item("late", "a", -5, 100, "late")]);
    const bars = rows[0]!.bars;
    expect(bars.some((bar) => bar.items.length === 30)).toBe(true);
    expect(bars.find((bar) => bar.items[0]!.credential === "late")!.items.length).toBe(1);
  });

  it("has a mark, and no bar, for what never expires", () => {
    const bar = layout([item("token", "a", 30, null)]).rows[0]!.bars[0]!;
    expect(bar.x0).toBe(bar.x1);
  });
});
