/** What users write for a variable of an Azure Automation account. */
import { z } from "zod";
import { resourceGroup, resourceName, subscription } from "../shared/microsoft/arm.ts";

export const variableSchema = z.strictObject({
  subscription,
  resourceGroup,
  account: resourceName.describe("The Automation account."),
  name: resourceName.describe("The variable's name."),
});
export type VariableConfig = z.infer<typeof variableSchema>;
