/** Places in files on the machine where Keyroll runs: `file.value` and `file.certificate`. */
import { plainTraits } from "../../core/place.ts";
import { definePlace } from "../connector.ts";
import { openBundle } from "./bundle.ts";
import { openCertificate } from "./certificate.ts";
import { certificateSchema, valueSchema } from "./schema.ts";
import { openStaged } from "./staged.ts";
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

export const fileCertificate = definePlace({
  family: "place",
  type: "file.certificate",
  title: "A certificate with its key in files, or a trust bundle",
  roles: ["holder", "verifier"],
  config: certificateSchema,
  paths: ["certificate", "key", "keystore", "passwordFile", "stagingDir"],
  permissions: [
    "Read the files.",
    "Write to the files' folders: files are replaced, so that no reader sees half of one.",
    "Run as the files' owner, or with CAP_CHOWN, so that the owner stays.",
    "Run the precheck and reload commands, if there are any.",
  ],
  traits: (config) => {
    const changeMs = 200 + (config.precheck?.timeout ?? 0) + (config.reload?.timeout ?? 0);
    if (config.kind === "bundle") {
      // The certificates are public and come without their keys, so that there is nothing to adopt.
      return {
        ...plainTraits,
        roles: ["verifier"],
        readable: false,
        writes: "whole-set",
        admits: config.trusts,
        changeMs,
      };
    }
    if (config.stagingDir !== undefined)
      return { ...plainTraits, roles: ["holder"], storeCapacity: 16, staging: true, writes: "entries", changeMs };
    return { ...plainTraits, roles: ["holder"], storeCapacity: 1, staging: false, writes: "whole-set", changeMs };
  },
  open: (config) => {
    if (config.kind === "bundle") return openBundle(config, config.certificate ?? "");
    if (config.stagingDir !== undefined) return openStaged(config, config.stagingDir);
    return openCertificate(config);
  },
});
