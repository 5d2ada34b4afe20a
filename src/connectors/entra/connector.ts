import { plainTraits } from "../../core/place.ts";
import type { Traits } from "../../core/place.ts";
import { defineIssuer, definePlace } from "../connector.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { openCertificate } from "./certificate.ts";
import { openPassword, openPasswordIssuer } from "./password.ts";
import { certificateSchema, passwordSchema } from "./schema.ts";
import type { CertificateConfig, PasswordConfig } from "./schema.ts";

const permissions = [
  "Graph application permission Application.ReadWrite.OwnedBy, and Keyroll's service principal among the owners of the application; or Application.ReadWrite.All.",
];

/** Measured: a fresh credential is refused for 4 to 18 seconds. */
const propagationMs = 20_000;

const passwordTraits: Traits = {
  ...plainTraits,
  roles: ["verifier"],
  readable: false,
  minting: "theirs",
  issuingTrusts: true,
  propagationMs,
  // A secret that was removed is gone for good: it was shown once.
  restorable: false,
  changeMs: 2000,
};

export const entraPassword = definePlace<PasswordConfig, MicrosoftSystem>({
  family: "place",
  type: "entra.password",
  title: "Client secrets of an Entra application",
  roles: ["verifier"],
  systemType: "microsoft",
  config: passwordSchema,
  permissions,
  traits: () => passwordTraits,
  open(config, system) {
    if (system === undefined) throw new Error("entra.password was opened without its system.");
    return openPassword(config, system);
  },
});

export const entraPasswordIssuer = defineIssuer<PasswordConfig, MicrosoftSystem>({
  family: "issuer",
  type: "entra.password",
  title: "New client secret of an Entra application, made by Entra and shown once",
  systemType: "microsoft",
  config: passwordSchema,
  permissions,
  traits: () => ({ ...passwordTraits, roles: ["issuer"] }),
  open(config, system) {
    if (system === undefined) throw new Error("entra.password was opened without its system.");
    return openPasswordIssuer(config, system);
  },
});

export const entraCertificate = definePlace<CertificateConfig, MicrosoftSystem>({
  family: "place",
  type: "entra.certificate",
  title: "Certificates that an Entra application may sign in with",
  roles: ["verifier"],
  systemType: "microsoft",
  config: certificateSchema,
  permissions,
  traits: () => ({
    ...plainTraits,
    roles: ["verifier"],
    // Entra does not hand private keys out, because it has none.
    readable: false,
    writes: "whole-set",
    propagationMs,
    changeMs: 2000,
  }),
  open(config, system) {
    if (system === undefined) throw new Error("entra.certificate was opened without its system.");
    return openCertificate(config, system);
  },
});
