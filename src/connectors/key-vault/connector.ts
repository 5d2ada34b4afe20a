import { plainTraits } from "../../core/place.ts";
import type { Traits } from "../../core/place.ts";
import { defineIssuer, definePlace } from "../connector.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { openCertificate, openCertificateIssuer } from "./certificate.ts";
import { certificateSchema, secretSchema } from "./schema.ts";
import type { CertificateConfig, SecretConfig } from "./schema.ts";
import { openSecret } from "./secret.ts";

/** Whoever reads "latest" reads the newest version: a new one cannot lie there without being used. */
const latestTraits: Traits = { ...plainTraits, roles: ["holder"], staging: false, changeMs: 2000 };

export const keyVaultSecret = definePlace<SecretConfig, MicrosoftSystem>({
  family: "place",
  type: "key-vault.secret",
  title: "A secret in an Azure Key Vault, read as its latest version",
  roles: ["holder"],
  systemType: "microsoft",
  config: secretSchema,
  permissions: [
    "Key Vault Secrets Officer (RBAC) on the vault; or, in a vault with access policies, the secret permissions get, list and set.",
  ],
  traits: () => latestTraits,
  open(config, system) {
    if (system === undefined) throw new Error("key-vault.secret was opened without its system.");
    return openSecret(config, system);
  },
});

const certificatePermissions = [
  "Key Vault Certificates Officer (RBAC) on the vault; or, in a vault with access policies, the certificate permissions get, list, import, create and update.",
  "Key Vault Secrets User (RBAC), or the secret permission get: reads the key from before Keyroll, so that it can be rolled back to.",
];

export const keyVaultCertificate = definePlace<CertificateConfig, MicrosoftSystem>({
  family: "place",
  type: "key-vault.certificate",
  title: "A certificate in an Azure Key Vault, read as its latest version",
  roles: ["holder"],
  systemType: "microsoft",
  config: certificateSchema,
  permissions: certificatePermissions,
  // The last two say what happens where it is the issuer too.
  traits: () => ({ ...latestTraits, minting: "theirs", issuingActivates: true, changeMs: 5000 }),
  open(config, system) {
    if (system === undefined) throw new Error("key-vault.certificate was opened without its system.");
    return openCertificate(config, system);
  },
});

export const keyVaultCertificateIssuer = defineIssuer<CertificateConfig, MicrosoftSystem>({
  family: "issuer",
  type: "key-vault.certificate",
  title: "New version of a Key Vault certificate, made by the vault's own policy",
  systemType: "microsoft",
  config: certificateSchema,
  permissions: certificatePermissions,
  traits: () => ({ ...latestTraits, roles: ["issuer"], minting: "theirs", issuingActivates: true, changeMs: 30_000 }),
  open(config, system) {
    if (system === undefined) throw new Error("key-vault.certificate was opened without its system.");
    return openCertificateIssuer(config, system);
  },
});
