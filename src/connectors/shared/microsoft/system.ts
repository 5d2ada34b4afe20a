/** What users write for a Microsoft tenant: who Keyroll is there, and where the services answer (public, sovereign, or private). */
import { z } from "zod";
import { Secret } from "../../secret.ts";
import { duration } from "../settings.ts";

/** How Keyroll itself signs in. */
export type MicrosoftAuth =
  | { readonly method: "client-secret"; readonly clientId: string; readonly clientSecret: Secret }
  | { readonly method: "client-certificate"; readonly clientId: string; readonly pem: Secret }
  | { readonly method: "managed-identity"; readonly clientId?: string | undefined }
  | {
      readonly method: "workload-identity";
      readonly clientId?: string | undefined;
      readonly tokenFile?: string | undefined;
    }
  | { readonly method: "azure-cli" };

/** Addresses without a slash at the end. */
export interface MicrosoftEndpoints {
  readonly authority: string;
  readonly graph: string;
  readonly arm: string;
  /** What follows a vault's name, such as `vault.azure.net`. */
  readonly vaultSuffix: string;
  /** What tokens are asked for. Stays the cloud's own where the addresses lead through a proxy or a private endpoint. */
  readonly graphResource: string;
  readonly armResource: string;
}

export interface MicrosoftSystem {
  readonly tenant: string;
  readonly subscription: string | undefined;
  readonly auth: MicrosoftAuth;
  readonly endpoints: MicrosoftEndpoints;
  /** PEM text of CAs that are trusted beside the public ones. */
  readonly ca: string | undefined;
  readonly requestTimeoutMs: number;
}

/** https://learn.microsoft.com/graph/deployments and https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates */
const clouds: Readonly<
  Record<"public" | "us-government" | "china", Omit<MicrosoftEndpoints, "graphResource" | "armResource">>
> = {
  public: {
    authority: "https://login.microsoftonline.com",
    graph: "https://graph.microsoft.com",
    arm: "https://management.azure.com",
    vaultSuffix: "vault.azure.net",
  },
  "us-government": {
    authority: "https://login.microsoftonline.us",
    graph: "https://graph.microsoft.us",
    arm: "https://management.usgovcloudapi.net",
    vaultSuffix: "vault.usgovcloudapi.net",
  },
  china: {
    authority: "https://login.chinacloudapi.cn",
    graph: "https://microsoftgraph.chinacloudapi.cn",
    arm: "https://management.chinacloudapi.cn",
    vaultSuffix: "vault.azure.cn",
  },
};

const https = z
  .string()
  .refine(
    (text) => URL.canParse(text) && new URL(text).protocol === "https:",
    "write an address that begins with https://",
  )
  .transform((text) => text.replace(/\/+$/, ""));

const clientId = z.string().min(1).describe("The application (client) id that Keyroll signs in as.");

const auth = z.discriminatedUnion("method", [
  z.strictObject({
    method: z.literal("client-secret"),
    clientId,
    clientSecret: z.string().min(1).describe("Its client secret, such as ${env:KEYROLL_CLIENT_SECRET}."),
  }),
  z.strictObject({
    method: z.literal("client-certificate"),
    clientId,
    privateKey: z
      .string()
      .refine(
        (text) => text.includes("PRIVATE KEY-----") && text.includes("-----BEGIN CERTIFICATE-----"),
        "write the PEM text of the certificate and its private key here, such as ${file:./keyroll.pem}",
      )
      .describe("PEM text with the private key and the certificate, such as ${file:./keyroll.pem}."),
  }),
  z.strictObject({
    method: z.literal("managed-identity"),
    clientId: clientId.optional().describe("Of a user-assigned identity. Left out: the system-assigned one."),
  }),
  z.strictObject({
    method: z.literal("workload-identity"),
    clientId: clientId.optional().describe("Left out: AZURE_CLIENT_ID, which the cluster sets."),
    tokenFile: z.string().min(1).optional().describe("Left out: AZURE_FEDERATED_TOKEN_FILE, which the cluster sets."),
  }),
  z.strictObject({ method: z.literal("azure-cli") }),
]);

export const microsoftSystemSchema = z
  .strictObject({
    tenant: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$/, "is a tenant id or a domain, such as contoso.onmicrosoft.com")
      .describe("Tenant id or domain."),
    subscription: z.string().min(1).optional().describe("Azure subscription id of places that name none."),
    auth: auth.describe(
      "How Keyroll signs in: client-secret, client-certificate, managed-identity, workload-identity or azure-cli.",
    ),
    cloud: z.enum(["public", "us-government", "china"]).default("public").describe("Which cloud the tenant is in."),
    endpoints: z
      .strictObject({
        authority: https.optional(),
        graph: https.optional(),
        arm: https.optional(),
        vaultSuffix: z
          .string()
          .regex(/^[A-Za-z0-9.:-]+$/, "is what follows a vault's name, such as vault.azure.net")
          .optional(),
      })
      .optional()
      .describe("Addresses that are not those of the cloud."),
    ca: z
      .string()
      .refine(
        (text) => text.includes("-----BEGIN CERTIFICATE-----"),
        "write the CA's PEM text here, such as ${file:./ca.pem}",
      )
      .optional()
      .describe("PEM text of CAs that are trusted beside the public ones, such as ${file:./ca.pem}."),
    requestTimeout: duration({ leastMs: 500, mostMs: 300_000 })
      .prefault("30s")
      .describe("How long one request may take."),
  })
  .transform((input): MicrosoftSystem => ({
    tenant: input.tenant,
    subscription: input.subscription,
    auth:
      input.auth.method === "client-secret"
        ? { ...input.auth, clientSecret: new Secret(input.auth.clientSecret) }
        : input.auth.method === "client-certificate"
          ? { method: input.auth.method, clientId: input.auth.clientId, pem: new Secret(input.auth.privateKey) }
          : input.auth,
    endpoints: {
      authority: input.endpoints?.authority ?? clouds[input.cloud].authority,
      graph: input.endpoints?.graph ?? clouds[input.cloud].graph,
      arm: input.endpoints?.arm ?? clouds[input.cloud].arm,
      vaultSuffix: input.endpoints?.vaultSuffix ?? clouds[input.cloud].vaultSuffix,
      graphResource: clouds[input.cloud].graph,
      armResource: clouds[input.cloud].arm,
    },
    ca: input.ca,
    requestTimeoutMs: input.requestTimeout,
  }));
