import type { rotationStatuses as statuses } from "../server/schema.ts";

/** The API's own list, held to it by its type: its module carries a validator that a browser does not need. */
export const rotationStatuses: typeof statuses = [
  "running",
  "waiting",
  "paused",
  "halted",
  "done",
  "rolled-back",
  "cancelled",
];
