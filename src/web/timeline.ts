/** Where things stand on the timeline. Pure, so that it can be tested without a browser. */
import type { Overview } from "../server/schema.ts";

type Item = Overview["timeline"][number];
const dayMs = 86_400_000;

export interface Bar {
  readonly items: readonly Item[];
  /** Left end: last safe start. Equal to `x1` where nothing expires. */
  readonly x0: number;
  readonly x1: number;
  readonly labelX: number;
  readonly anchor: "start" | "end";
  readonly label: string;
  readonly lane: number;
}
export interface Row {
  readonly owner: string;
  readonly y: number;
  readonly height: number;
  readonly bars: readonly Bar[];
}
export interface Layout {
  readonly rows: readonly Row[];
  readonly ticks: readonly { readonly x: number; readonly ms: number }[];
  readonly nowX: number;
  readonly left: number;
  readonly height: number;
}

export const sizes = { head: 34, lane: 46, pad: 8 } as const;
/** A little more than the widest letters of the label's font, so that labels do not meet. */
const letter = 6.9;

const endOf = (item: Item): number => Date.parse((item.expires ?? item.startBy ?? item.lastSafeStart)!);
const startOf = (item: Item): number =>
  Math.min(endOf(item), Date.parse((item.lastSafeStart ?? item.startBy ?? item.expires)!));

const steps: readonly number[] = [1 / 24, 6 / 24, 1, 7, 30, 91, 182, 365, 730, 1825, 3650].map((days) => days * dayMs);

/**
 * Time runs as its square root from today: next week is as wide as the months after it. `dayText` writes the date that stands in a label, so
 * that the label's width is known.
 */
export function layoutTimeline(
  items: readonly Item[],
  nowMs: number,
  width: number,
  dayText: (ms: number) => string,
  left = 132,
): Layout {
  const right = 28;
  const drawn = items.filter((item) => item.expires !== null || item.startBy !== null || item.lastSafeStart !== null);
  const root = (ms: number): number => Math.sign(ms) * Math.sqrt(Math.abs(ms));
  const from = Math.min(0, ...drawn.map((item) => startOf(item) - nowMs));
  const to = Math.max(dayMs / 4, ...drawn.map((item) => endOf(item) - nowMs));
  const span = root(to) - root(from);
  const low = root(from) - span * 0.08;
  const high = root(to) + span * 0.04;
  const x = (ms: number): number => left + ((root(ms - nowMs) - low) / (high - low)) * (width - left - right);

  const nowX = x(nowMs);
  const ticks: { x: number; ms: number }[] = [];
  for (const step of steps) {
    const at = { x: x(nowMs + step), ms: nowMs + step };
    if (at.x > width - right || at.x - (ticks.at(-1)?.x ?? nowX) < 76) continue;
    ticks.push(at);
  }

  const rows: Row[] = [];
  let y: number = sizes.head;
  for (const owner of new Set(drawn.map((item) => item.owner))) {
    const mine = drawn.filter((item) => item.owner === owner).toSorted((a, b) => endOf(a) - endOf(b));
    const groups: Item[][] = [];
    let last: Item[] | undefined;
    for (const item of mine) {
      // Only what nobody must start yet is folded: trouble always stands for itself.
      const calm = item.state === "fine" || item.state === "unknown";
      const near = last !== undefined && x(endOf(item)) - x(endOf(last[0]!)) < 26;
      if (calm && near && last !== undefined) {
        last.push(item);
        continue;
      }
      const group = [item];
      groups.push(group);
      if (calm) last = group;
    }
    const lanes: number[] = [];
    const bars = groups.map((group): Bar => {
      const first = group[0]!;
      const x1 = x(endOf(group.at(-1)!));
      const x0 = Math.min(x(Math.min(...group.map(startOf))), first.expires === null ? x1 : x1 - 8);
      const label = group.length === 1 ? first.credential : `${first.credential} and ${group.length - 1} more`;
      const wide = (label.length + 1 + dayText(endOf(first)).length) * letter;
      const fits = Math.max(x0, left + 4) + wide < width - 6;
      const labelX = fits ? Math.max(x0, left + 4) : width - 8;
      const begins = Math.min(fits ? labelX : labelX - wide, x0);
      const ends = Math.max(fits ? labelX + wide : labelX, x1 + 12);
      let lane = lanes.findIndex((until) => until + 10 < begins);
      if (lane < 0) lane = lanes.push(0) - 1;
      lanes[lane] = ends;
      return { items: group, x0, x1, labelX, anchor: fits ? "start" : "end", label, lane };
    });
    const height = lanes.length * sizes.lane + sizes.pad;
    rows.push({ owner, y, height, bars });
    y += height;
  }
  return { rows, ticks, nowX, left, height: y + 2 };
}
