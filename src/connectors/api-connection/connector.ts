import { plainTraits } from "../../core/place.ts";
import { definePlace } from "../connector.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { openApiConnection } from "./connection.ts";
import { apiConnectionSchema } from "./schema.ts";
import type { ApiConnectionConfig } from "./schema.ts";

export const apiConnection = definePlace<ApiConnectionConfig, MicrosoftSystem>({
  family: "place",
  type: "api-connection",
  title: "The secret of an API connection of Azure Logic Apps",
  roles: ["holder"],
  systemType: "microsoft",
  config: apiConnectionSchema,
  permissions: [
    "Microsoft.Web/connections/read and Microsoft.Web/connections/write on the connection, such as by the role Logic App Contributor.",
    "Microsoft.Web/locations/managedApis/join/action, which the same role has: writing a connection uses its API.",
  ],
  traits: () => ({
    ...plainTraits,
    roles: ["holder"],
    storeCapacity: 1,
    staging: false,
    readable: false,
    // All parameters are sent, and Azure knows no conditional write here.
    writes: "whole-set",
    changeMs: 3000,
  }),
  open(config, system) {
    if (system === undefined) throw new Error("api-connection was opened without its system.");
    return openApiConnection(config, system);
  },
});
