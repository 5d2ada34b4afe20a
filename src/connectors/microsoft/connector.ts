import { ConnectorError, defineSystem } from "../connector.ts";
import { Secret } from "../secret.ts";
import { ask, sessionOf } from "../shared/microsoft/session.ts";
import { microsoftSystemSchema } from "../shared/microsoft/system.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";

export const microsoftSystem = defineSystem<MicrosoftSystem>({
  type: "microsoft",
  title: "A Microsoft tenant: Entra, Graph, Azure Resource Manager and Key Vault",
  config: microsoftSystemSchema,
  // The least of what is published: 3,000 writes of an application in 150 seconds (Graph), 200 at once and ten a second more (Azure Resource
  // Manager's writes; most requests are reads), 4,000 in ten seconds (a vault).
  limits: { perSecond: 20, burst: 100 },
  signInOf(system) {
    if (system.auth.method !== "client-secret") return null;
    return {
      attributes: { user: system.auth.clientId, appId: system.auth.clientId },
      material: { kind: "secret", value: new Secret(system.auth.clientSecret.bytes()) },
    };
  },
  withSignIn(system, { attributes, material }) {
    const clientId = attributes["appId"] ?? ("clientId" in system.auth ? system.auth.clientId : undefined);
    if (material.kind !== "secret" || clientId === undefined) {
      throw new ConnectorError(
        "misconfigured",
        "Keyroll's own sign-in at Microsoft can be rolled as a client secret only.",
        {
          next: "Name a credential with an entra.password issuer in the system's signIn, and auth with method client-secret.",
        },
      );
    }
    return {
      ...system,
      auth: { method: "client-secret", clientId, clientSecret: new Secret(material.value.bytes()) },
    };
  },
  async check(cx, system) {
    await ask(cx, sessionOf(system), {
      method: "GET",
      url: `${system.endpoints.graph}/v1.0/applications?$top=1&$select=id`,
      resource: system.endpoints.graphResource,
      doing: "looking at the tenant",
      effect: false,
      needs: {
        permission: "Application.Read.All",
        next: "Grant Keyroll's application the Graph application permission Application.ReadWrite.OwnedBy (or Application.Read.All to look only), with admin consent.",
      },
    });
  },
});
