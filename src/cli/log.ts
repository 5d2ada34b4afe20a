/** The log of long-lived commands and of what goes wrong in the others: JSON lines on standard error, chosen by `KEYROLL_LOG`. */
import { pino } from "pino";
import type { Log } from "../connectors/connector.ts";
import type { Io } from "./session.ts";

const levels = ["debug", "info", "warn", "silent"];

/** `KEYROLL_LOG`: debug, info, warn or silent; default: silent for commands that end, `usual` for those that stay. */
export function openLog(io: Io, usual: "info" | "warn" | "silent"): Log {
  const wanted = io.env["KEYROLL_LOG"] ?? "";
  const level = levels.includes(wanted) ? wanted : usual;
  const logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line) => io.stderr.write(line) },
  );
  return {
    debug: (message, fields) => logger.debug(fields ?? {}, message),
    info: (message, fields) => logger.info(fields ?? {}, message),
    warn: (message, fields) => logger.warn(fields ?? {}, message),
  };
}
