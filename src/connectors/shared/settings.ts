/** Pieces of config schemas that several connectors share, so that a duration or a command is written the same way everywhere. */
import { z } from "zod";

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** `90d`, `1h 30m`, `500ms`. `undefined` when it is no duration. A day is 24 hours. */
export function durationMs(text: string): number | undefined {
  const parts = text.trim().split(/\s+/);
  let sum = 0;
  for (const part of parts) {
    const [, amount, unit = ""] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d|w)$/.exec(part) ?? [];
    const factor = unitMs[unit];
    if (amount === undefined || factor === undefined) return undefined;
    sum += Number(amount) * factor;
  }
  return Math.round(sum);
}

/** A setting that users write as `90d` and code reads as milliseconds. */
export function duration(limits: { leastMs?: number; mostMs?: number } = {}): z.ZodType<number, string> {
  return z
    .string()
    .meta({ examples: ["90d", "12h", "5m", "30s"] })
    .transform((text, context) => {
      const value = durationMs(text);
      if (value === undefined) {
        context.addIssue({ code: "custom", message: `"${text}" is no duration; write it like 90d, 12h, 5m or 30s` });
        return z.NEVER;
      }
      if (value < (limits.leastMs ?? 0) || value > (limits.mostMs ?? Number.MAX_SAFE_INTEGER)) {
        context.addIssue({
          code: "custom",
          message: `"${text}" is too ${value < (limits.leastMs ?? 0) ? "short" : "long"} here`,
        });
        return z.NEVER;
      }
      return value;
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
