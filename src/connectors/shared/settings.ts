/** Pieces of config schemas that several connectors share, so that a duration or a command is written the same way everywhere. */
import { z } from "zod";
import { parseDuration } from "../../core/time.ts";

/** A setting that users write as `90d`, `1h30m` or `P30D`, like everywhere in the estate, and code reads as milliseconds. */
export function duration(limits: { leastMs?: number; mostMs?: number } = {}): z.ZodType<number, string> {
  return z
    .string()
    .meta({ examples: ["90d", "12h", "5m", "30s"] })
    .transform((text, context) => {
      const refuse = (message: string) => {
        context.addIssue({ code: "custom", message });
        return z.NEVER;
      };
      const parsed = parseDuration(text);
      if ("problem" in parsed) return refuse(`${parsed.problem}; ${parsed.fix}`);
      if (parsed.value < (limits.leastMs ?? 0)) return refuse(`"${text}" is too short here`);
      if (parsed.value > (limits.mostMs ?? Number.MAX_SAFE_INTEGER)) return refuse(`"${text}" is too long here`);
      return parsed.value;
    });
}

/** A program and its arguments, one by one. There is no shell: quotes, `$` and `|` mean nothing. */
export const commandSchema = z.strictObject({
  argv: z
    .array(z.string().min(1))
    .min(1)
    .max(64)
    .describe("The program and its arguments, one by one. No shell reads them."),
  timeout: duration({ leastMs: 100, mostMs: 3_600_000 })
    .prefault("30s")
    .describe("How long it may take before it is ended."),
});
export type CommandConfig = z.infer<typeof commandSchema>;
