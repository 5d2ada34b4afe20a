import { describe, expect, it } from "vitest";
import { byUrgency, due, type DueInput } from "./due.ts";

const day = 86_400_000;
const now = Date.UTC(2026, 10, 21);
const input = (more: Partial<DueInput> = {}): DueInput => ({
  nowMs: now,
  policy: { rotateBeforeMs: null, maxAgeMs: null, soakMs: 0, marginMs: 0, approvals: {}, windows: [], notify: [] },
  neededMs: 2 * day,
  outOfStep: [],
  copies: 3,
  compromised: false,
  seenAgoMs: 1000,
  staleAfterMs: 60_000,
  unseen: [],
  ...more,
});
const policy = (more: object) => ({ ...input().policy, ...more });

describe("due", () => {
  it("is fine, with a reason, when nothing is asked for", () => {
    expect(due(input())).toMatchObject({ state: "fine", stale: false, lastSafeStartMs: null });
  });
  it("is late from the last safe start on, not from the expiry on", () => {
    const notAfterMs = now + 2 * day;
    expect(due(input({ notAfterMs })).state).toBe("late");
    expect(due(input({ notAfterMs: notAfterMs + 1 }))).toMatchObject({ state: "fine", lastSafeStartMs: now + 1 });
    expect(due(input({ notAfterMs, policy: policy({ marginMs: day }) })).lastSafeStartMs).toBe(now - day);
  });
  it("is expired at the very millisecond", () => {
    expect(due(input({ notAfterMs: now })).state).toBe("expired");
    expect(due(input({ notAfterMs: now + 1, neededMs: 0 })).state).not.toBe("expired");
  });
  it("follows policy: before expiry, and by age", () => {
    expect(due(input({ notAfterMs: now + 30 * day, policy: policy({ rotateBeforeMs: 30 * day }) })).state).toBe("due");
    expect(due(input({ notAfterMs: now + 31 * day, policy: policy({ rotateBeforeMs: 30 * day }) })).state).toBe("fine");
    expect(due(input({ createdMs: now - 90 * day, policy: policy({ maxAgeMs: 90 * day }) })).state).toBe("due");
    expect(due(input({ createdMs: now - 89 * day, policy: policy({ maxAgeMs: 90 * day }) }))).toMatchObject({
      state: "fine",
      startByMs: now + day,
    });
  });
  it("counts a leap day where there is one", () => {
    const created = Date.UTC(2028, 1, 28);
    expect(
      due(input({ nowMs: Date.UTC(2028, 2, 1) - 1, createdMs: created, policy: policy({ maxAgeMs: 2 * day }) })).state,
    ).toBe("fine");
    expect(
      due(input({ nowMs: Date.UTC(2028, 2, 1), createdMs: created, policy: policy({ maxAgeMs: 2 * day }) })).state,
    ).toBe("due");
  });
  it("names the copies that are out of step", () => {
    const verdict = due(input({ outOfStep: [{ place: "env", has: "app#1" }] }));
    expect(verdict.state).toBe("out-of-step");
    expect(verdict.reason).toContain("env has app#1");
  });
  it("never calls fine what was not seen", () => {
    expect(due(input({ seenAgoMs: null })).state).toBe("unknown");
    expect(due(input({ unseen: ["vault"] })).state).toBe("unknown");
    expect(due(input({ seenAgoMs: 60_001 })).stale).toBe(true);
  });
  it("puts what must be started first at the top", () => {
    const list = [
      due(input()),
      due(input({ notAfterMs: now + 10 * day })),
      due(input({ notAfterMs: now + 5 * day })),
      due(input({ notAfterMs: now - 1 })),
      due(input({ compromised: true })),
      due(input({ notAfterMs: now + day })),
    ].sort(byUrgency);
    expect(list.map((x) => x.state)).toEqual(["compromised", "expired", "late", "fine", "fine", "fine"]);
    expect(list[3]!.startByMs).toBeLessThan(list[4]!.startByMs!);
  });
});
