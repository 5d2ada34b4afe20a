import { describe, expect, it } from "vitest";
import * as schema from "../server/schema.ts";
import { eventTypes, parseEvent } from "./event.ts";
import { rotationStatuses } from "./rotation-statuses.ts";

describe("events from the server", () => {
  it("are read when they are whole, and left out when they are not", () => {
    const event = { type: "credentials", seq: 3, at: "2026-11-21T09:00:00.000Z" };
    expect(parseEvent(JSON.stringify(event))).toEqual(event);
    for (const bad of [
      "",
      "null",
      "3",
      "{",
      '{"type":"other","seq":1,"at":"x"}',
      '{"type":"resync","seq":"1","at":"x"}',
    ])
      expect(parseEvent(bad)).toBeNull();
  });

  it("and statuses are those of the API", () => {
    expect(eventTypes).toEqual(schema.eventTypes);
    expect(rotationStatuses).toEqual(schema.rotationStatuses);
  });
});
