/** Issuers `x509.ca` (a private CA) and `x509.self-signed`. Keys are made in `mint` and sealed before anything is signed. */
import { plainTraits } from "../../core/place.ts";
import type { Traits } from "../../core/place.ts";
import { defineIssuer } from "../connector.ts";
import type { CallContext } from "../connector.ts";
import type { KeyMaterial } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { makeKey } from "../shared/certify.ts";
import { signerFromEstate, signerFromFiles } from "./ca.ts";
import { issueFor } from "./issue.ts";
import { caSchema, selfSignedSchema } from "./schema.ts";
import type { SelfSignedConfig } from "./schema.ts";

const traits: Traits = { ...plainTraits, roles: ["issuer"], minting: "ours", changeMs: 500 };

async function mint(cx: CallContext, config: SelfSignedConfig): Promise<KeyMaterial> {
  throwIfCancelled(cx);
  return { kind: "key", privateKey: await makeKey(config.key), certificates: [] };
}

export const x509Ca = defineIssuer({
  family: "issuer",
  type: "x509.ca",
  title: "Certificates signed by a private CA",
  config: caSchema,
  paths: ["certificateFile", "keyFile"],
  permissions: [
    "Read the CA's certificate and key, where they are files. The key file must be readable by its owner only (0600).",
  ],
  traits: () => traits,
  open: (config) => ({
    mint: (cx) => mint(cx, config),
    issue: async (cx, intent) => {
      throwIfCancelled(cx);
      const signer =
        intent.signer === undefined ? await signerFromFiles(config) : await signerFromEstate(intent.signer);
      return issueFor(cx, intent, config, signer);
    },
  }),
});

export const x509SelfSigned = defineIssuer({
  family: "issuer",
  type: "x509.self-signed",
  title: "Self-signed certificates, and root CAs",
  config: selfSignedSchema,
  permissions: ["None: nothing outside is asked."],
  traits: () => traits,
  open: (config) => ({
    mint: (cx) => mint(cx, config),
    issue: (cx, intent) => issueFor(cx, intent, config, undefined),
  }),
});
