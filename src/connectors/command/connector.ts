import { basename } from "node:path";
import { definePlace } from "../connector.ts";
import { mostOutputBytes, openProgram, programTraits, type Transport } from "../shared/program.ts";
import { run } from "../shared/run.ts";
import { commandPlaceSchema, type CommandPlaceConfig } from "./schema.ts";

export const command = definePlace<CommandPlaceConfig>({
  family: "place",
  type: "command",
  title: "A program of your own, over JSON on standard input and output",
  roles: ["verifier", "holder"],
  config: commandPlaceSchema,
  paths: ["folder"],
  permissions: ["The user that runs Keyroll may start the program; what else the program needs is its own affair."],
  traits: programTraits,
  open(config) {
    const called = basename(config.argv[0]!);
    const transport: Transport = (cx, input, timeoutMs) =>
      run(config.argv, {
        timeoutMs,
        signal: cx.signal,
        input,
        env: config.environment,
        maxOutputBytes: mostOutputBytes,
        ...(config.folder === undefined ? {} : { cwd: config.folder }),
      });
    return openProgram(config, transport, config.timeout, called);
  },
});
