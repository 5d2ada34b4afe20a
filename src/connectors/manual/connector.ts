import { plainTraits } from "../../core/place.ts";
import { definePlace } from "../connector.ts";
import { openManual } from "./manual.ts";
import { manualSchema, type ManualConfig } from "./schema.ts";

export const manual = definePlace<ManualConfig>({
  family: "place",
  type: "manual",
  title: "A place that only a person can change, checked by the machine",
  roles: ["verifier", "holder"],
  config: manualSchema,
  permissions: ["None for Keyroll, beside what its check needs; the person signs in with their own account."],
  traits: (config) => ({
    ...plainTraits,
    roles: ["verifier", "holder"],
    capacity: config.capacity,
    storeCapacity: config.storeCapacity,
    staging: config.storeCapacity > 1,
    readable: false,
    human: true,
    changeMs: config.minutes * 60_000,
  }),
  open: (config) => openManual(config),
});
