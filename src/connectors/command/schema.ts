import { z } from "zod";
import { commandSchema } from "../shared/settings.ts";
import { programShape } from "../shared/program.ts";

export const commandPlaceSchema = z.strictObject({
  ...commandSchema.shape,
  ...programShape,
  folder: z
    .string()
    .min(1)
    .optional()
    .describe("The folder that the program runs in. Default: that of the estate file's process."),
  environment: z
    .record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string())
    .default({})
    .describe(
      "Variables that the program gets beside PATH, HOME, LANG and TZ. Not for secrets: the process list shows them.",
    ),
});
export type CommandPlaceConfig = z.infer<typeof commandPlaceSchema>;
