/** What users write for the credentials of an Entra application. */
import { z } from "zod";
import { duration } from "../shared/settings.ts";

const application = {
  appId: z
    .string()
    .regex(/^[0-9a-fA-F-]{36}$/, "is an application (client) id, such as 00000000-0000-0000-0000-000000000000")
    .optional()
    .describe("The application (client) id."),
  namePrefix: z
    .string()
    .min(2)
    .max(120)
    .optional()
    .describe("Instead of appId: how its display name begins. Exactly one application may match."),
};
interface WithApplication {
  readonly appId?: string | undefined;
  readonly namePrefix?: string | undefined;
}
const oneOfBoth = (config: WithApplication): boolean =>
  (config.appId === undefined) !== (config.namePrefix === undefined);
const oneOfBothText = { path: ["appId"], message: "give either appId or namePrefix" };

export const passwordSchema = z
  .strictObject({
    ...application,
    validity: duration({ leastMs: 3_600_000, mostMs: 40 * 366 * 86_400_000 })
      .prefault("365d")
      .describe("How long a new client secret is valid. The tenant's application management policy may cap it."),
  })
  .refine(oneOfBoth, oneOfBothText);
export type PasswordConfig = z.infer<typeof passwordSchema>;

export const certificateSchema = z.strictObject(application).refine(oneOfBoth, oneOfBothText);
export type CertificateConfig = z.infer<typeof certificateSchema>;
