/** Places in files on the machine where Keyroll runs: `file.value` and `file.certificate`. */
import { plainTraits } from "../../core/place.ts";
import { definePlace } from "../connector.ts";
import { valueSchema } from "./schema.ts";
import { openValue } from "./value.ts";

export const fileValue = definePlace({
  family: "place",
  type: "file.value",
  title: "A value in a configuration file",
  roles: ["holder"],
  config: valueSchema,
  paths: ["path"],
  permissions: [
    "Read the file.",
    "Write to the file's folder: the file is replaced, so that no reader sees half of it.",
    "Run as the file's owner, or with CAP_CHOWN, so that the owner stays.",
    "Run the reload command, if there is one.",
  ],
  traits: (config) => ({
    ...plainTraits,
    roles: ["holder"],
    storeCapacity: 1,
    staging: false,
    writes: "whole-set",
    // Compared again right before the file is replaced; no file system can make the two one step.
    conditional: false,
    changeMs: 100 + (config.reload?.timeout ?? 0),
  }),
  open: (config) => openValue(config),
});
