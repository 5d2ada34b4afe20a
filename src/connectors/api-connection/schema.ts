/** What users write for an API connection of Azure Logic Apps. */
import { z } from "zod";
import { resourceGroup, resourceName, subscription } from "../shared/microsoft/arm.ts";

export const apiConnectionSchema = z.strictObject({
  subscription,
  resourceGroup,
  name: resourceName.describe("The connection's name."),
  secretParameter: z
    .string()
    .min(1)
    .default("token:clientSecret")
    .describe("Which of its parameters holds the secret."),
  parameters: z
    .record(z.string().min(1), z.string())
    .default({})
    .describe(
      "All its other parameters, such as vaultName, token:clientId, token:TenantId and token:grantType. Azure replaces all of them with each change, and shows only some.",
    ),
});
export type ApiConnectionConfig = z.infer<typeof apiConnectionSchema>;
