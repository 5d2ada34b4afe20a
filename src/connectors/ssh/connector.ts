import { plainTraits } from "../../core/place.ts";
import { definePlace, defineSystem } from "../connector.ts";
import { openProgram, programTraits } from "../shared/program.ts";
import { execTransport } from "./command.ts";
import { openKeysFile, openValueFile } from "./file.ts";
import {
  sshCommandSchema,
  sshFileSchema,
  sshSystemSchema,
  type SshCommandConfig,
  type SshFileConfig,
  type SshSystem,
} from "./schema.ts";
import { withSsh } from "./session.ts";

export const sshSystem = defineSystem<SshSystem>({
  type: "ssh",
  title: "A host reached over SSH, with its host key pinned",
  config: sshSystemSchema,
  // OpenSSH drops sign-ins at random when ten of them are under way (MaxStartups 10:30:100).
  limits: { perSecond: 4, burst: 4 },
  async check(cx, system) {
    await withSsh(cx, system, async () => undefined);
  },
});

export const sshFile = definePlace<SshFileConfig, SshSystem>({
  family: "place",
  type: "ssh.file",
  title: "A file on a host: one value, or the public keys that sshd accepts",
  roles: ["verifier", "holder"],
  systemType: "ssh",
  config: sshFileSchema,
  permissions: [
    "The sftp subsystem for the sign-in.",
    "Reading the file and writing in its folder; CAP_CHOWN where the file belongs to another user.",
  ],
  traits: (config) =>
    config.format === "value"
      ? { ...plainTraits, roles: ["holder"], storeCapacity: 1, staging: false, writes: "whole-set", changeMs: 3000 }
      : // sshd reads the file at every sign-in. SFTP knows no conditional rename.
        { ...plainTraits, roles: ["verifier"], capacity: 1000, readable: false, writes: "whole-set", changeMs: 3000 },
  open(config, system) {
    if (system === undefined) throw new Error("ssh.file was opened without its system.");
    return config.format === "value" ? openValueFile(config, system) : openKeysFile(config, system);
  },
});

export const sshCommand = definePlace<SshCommandConfig, SshSystem>({
  family: "place",
  type: "ssh.command",
  title: "A program of your own on a host, over JSON on standard input and output",
  roles: ["verifier", "holder"],
  systemType: "ssh",
  config: sshCommandSchema,
  permissions: [
    "Running the command as the sign-in's user. A `command=` in authorized_keys may confine the key to it.",
  ],
  traits: programTraits,
  open(config, system) {
    if (system === undefined) throw new Error("ssh.command was opened without its system.");
    return openProgram(config, execTransport(config, system), config.timeout, `the command on ${system.host}`);
  },
});
