import { plainTraits } from "../../core/place.ts";
import { definePlace } from "../connector.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { variableSchema } from "./schema.ts";
import type { VariableConfig } from "./schema.ts";
import { openVariable } from "./variable.ts";

export const automationVariable = definePlace<VariableConfig, MicrosoftSystem>({
  family: "place",
  type: "automation.variable",
  title: "An encrypted variable of an Azure Automation account",
  roles: ["holder"],
  systemType: "microsoft",
  config: variableSchema,
  permissions: [
    "Microsoft.Automation/automationAccounts/variables/read and Microsoft.Automation/automationAccounts/variables/write, such as by the role Automation Contributor.",
  ],
  traits: () => ({
    ...plainTraits,
    roles: ["holder"],
    storeCapacity: 1,
    staging: false,
    readable: false,
    writes: "whole-set",
    changeMs: 3000,
  }),
  open(config, system) {
    if (system === undefined) throw new Error("automation.variable was opened without its system.");
    return openVariable(config, system);
  },
});
