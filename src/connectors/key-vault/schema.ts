/** What users write for a secret and a certificate of a Key Vault. */
import { z } from "zod";
import { objectName, vaultSchema } from "../shared/microsoft/vault.ts";
import { duration } from "../shared/settings.ts";

export const secretSchema = z.strictObject({
  vault: vaultSchema,
  name: objectName.describe("The secret's name."),
  contentType: z
    .string()
    .max(255)
    .optional()
    .describe("Of new versions. Left out: that of the version before, which the vault itself does not carry over."),
  validity: duration({ leastMs: 3_600_000, mostMs: 40 * 366 * 86_400_000 })
    .optional()
    .describe(
      "The expiry of new versions. Left out: when the credential itself expires, else as long as the version before had.",
    ),
});
export type SecretConfig = z.infer<typeof secretSchema>;

export const certificateSchema = z.strictObject({
  vault: vaultSchema,
  name: objectName.describe("The certificate's name."),
});
export type CertificateConfig = z.infer<typeof certificateSchema>;
