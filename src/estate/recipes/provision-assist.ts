/** Provision Assist for Teams: one client secret in a Key Vault, two API connections and an Automation variable. docs/recipes/provision-assist.md */
import { z } from "zod";
import type { TreeMap } from "../source.ts";
import { application, defineRecipe, durationText, given, text } from "./recipe.ts";

const values = z.strictObject({
  system: text.describe("The system of type microsoft."),
  ...application,
  resourceGroup: text.describe("The resource group that the solution was deployed to."),
  subscription: text.optional().describe("The Azure subscription. Default: that of the system."),
  tenantId: text
    .optional()
    .describe("For API connections that do not show the tenant that they sign in at. Default: what they show."),
  vault: text.describe("The solution's Key Vault: its name, or its address."),
  secret: text.default("appSecret").describe("The vault's secret."),
  connections: z
    .array(text)
    .default(["provisionassist-kv", "provisionassist-automation"])
    .describe("Its API connections that hold the secret. The deployment makes two, of which the guide names one."),
  automationAccount: text.default("provisionassist-auto").describe("The Automation account."),
  variable: text.default("appSecret").describe("The Automation account's variable."),
  validity: durationText.default("365d").describe("How long a new client secret is valid."),
  runs: durationText
    .default("3h")
    .describe(
      "The longest run of a runbook, which reads the variable once. Azure ends jobs of its own workers after three hours.",
    ),
  soak: durationText
    .default("30m")
    .describe("How long the old secret stays trusted after the last reader has the new one."),
});

export const provisionAssist = defineRecipe({
  name: "provision-assist",
  title: "Provision Assist: the client secret of its application, everywhere it is held",
  values,
  parts: ["secret"],
  expand(_, { system, appId, namePrefix, resourceGroup, subscription, tenantId, vault, ...rest }) {
    const where = given({ subscription, resourceGroup });
    // Azure shows most of a connection's parameters, and never whose secret it holds. All of them are sent with each change.
    const known = given({ "token:clientId": appId, "token:TenantId": tenantId });
    const parameters = Object.keys(known).length === 0 ? {} : { parameters: known };
    const connections = Object.fromEntries(
      rest.connections.map((name): [string, TreeMap] => [
        name,
        // A run that has begun may still use what it got; a run of the solution is done within minutes.
        {
          type: "api-connection",
          system,
          holder: true,
          presentsTo: "application",
          ...where,
          name,
          ...parameters,
          refresh: "5m",
        },
      ]),
    );
    return {
      secret: {
        kind: "secret",
        places: {
          application: {
            type: "entra.password",
            system,
            issuer: true,
            verifier: true,
            ...given({ appId, namePrefix: appId === undefined ? (namePrefix ?? "Provision Assist") : undefined }),
            validity: rest.validity,
          },
          vault: {
            type: "key-vault.secret",
            system,
            holder: true,
            presentsTo: "application",
            vault,
            name: rest.secret,
            refresh: "5m",
          },
          ...connections,
          runbooks: {
            type: "automation.variable",
            system,
            holder: true,
            presentsTo: "application",
            ...where,
            account: rest.automationAccount,
            name: rest.variable,
            refresh: rest.runs,
          },
        },
        policy: { rotateBefore: "30d", soak: rest.soak },
      },
    };
  },
});
