/** Dynamics 365 Connected Spaces: the certificate and the client secret that devices read from a Key Vault. docs/recipes/connected-spaces.md */
import { z } from "zod";
import { application, defineRecipe, durationText, given, text } from "./recipe.ts";

const values = z.strictObject({
  system: text.describe("The system of type microsoft."),
  ...application,
  vault: text.describe("The vault of the managed application: its name, or its address."),
  secret: text.default("ServicePrincipalSecret").describe("The vault's secret that holds the client secret."),
  certificate: text
    .default("liveaiserviceprincipalprivatekey")
    .describe("The vault's certificate that devices sign in with."),
  subject: text.default("CN=liveaiserviceprincipal").describe("Subject of new certificates."),
  validity: durationText.default("730d").describe("How long new versions are valid."),
  refresh: durationText.default("10m").describe("How long devices take to read the vault again."),
  soak: durationText
    .default("30m")
    .describe("How long the old version stays trusted after the last device has read the new one."),
});

export const connectedSpaces = defineRecipe({
  name: "connected-spaces",
  title: "Dynamics 365 Connected Spaces: certificate and client secret of its service principal",
  values,
  parts: ["secret", "certificate"],
  expand(_, given_) {
    const { system, vault, validity, refresh, soak } = given_;
    // The deployment calls its application cs-dbe and something.
    const app = given({
      appId: given_.appId,
      namePrefix: given_.appId === undefined ? (given_.namePrefix ?? "cs-dbe") : undefined,
    });
    const policy = () => ({ rotateBefore: "180d", soak });
    return {
      secret: {
        kind: "secret",
        places: {
          application: { type: "entra.password", system, issuer: true, verifier: true, ...app, validity },
          vault: {
            type: "key-vault.secret",
            system,
            holder: true,
            presentsTo: "application",
            vault,
            name: given_.secret,
            refresh,
          },
        },
        policy: policy(),
      },
      certificate: {
        kind: "certificate",
        // Made here, so that it is trusted before the vault has it: the vault makes what it creates current at once.
        issuer: { type: "x509.self-signed", subject: given_.subject, key: "rsa-3072", usages: ["client"], validity },
        places: {
          application: { type: "entra.certificate", system, verifier: true, ...app },
          vault: {
            type: "key-vault.certificate",
            system,
            holder: true,
            presentsTo: "application",
            vault,
            name: given_.certificate,
            refresh,
          },
        },
        policy: policy(),
      },
    };
  },
});
