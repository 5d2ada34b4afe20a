/** Settings of the issuers `x509.ca` and `x509.self-signed`. */
import { z } from "zod";
import { isSubject, keyAlgorithms, usages } from "../shared/certify.ts";
import { duration } from "../shared/settings.ts";

const dayMs = 86_400_000;

const profile = {
  kind: z.enum(["leaf", "ca"]).default("leaf").describe("What is made: a leaf for servers and clients, or a CA."),
  key: z.enum(keyAlgorithms).default("ec-p256").describe("The kind of key."),
  subject: z
    .string()
    .default("")
    .refine(isSubject, 'is no subject; write it like "CN=app.example.org, O=Example"')
    .describe('Like "CN=app.example.org, O=Example". May be empty when there are names.'),
  names: z
    .array(z.string().min(1).max(253))
    .max(200)
    .default([])
    .describe("Subject alternative names: DNS names, IP addresses, e-mail addresses, URIs."),
  usages: z.array(z.enum(usages)).default(["server"]).describe("leaf: what it may be used for."),
  pathLength: z.int().min(0).max(16).optional().describe("ca: how many CAs may stand below it. Absent: any number."),
  validity: duration({ leastMs: 60_000, mostMs: 40 * 366 * dayMs })
    .prefault("90d")
    .describe("How long it is valid, like 90d. Never longer than its CA."),
  backdate: duration({ mostMs: 7 * dayMs })
    .prefault("5m")
    .describe("How far back the validity begins, for clocks that are behind."),
};

interface Checked {
  readonly kind: "leaf" | "ca";
  readonly subject: string;
  readonly names: readonly string[];
  readonly pathLength?: number | undefined;
}
/** What a profile must have beyond its single settings. Returns path and message, or nothing. */
function wrongProfile(config: Checked): { path: string; message: string } | undefined {
  if (config.subject === "" && config.kind === "ca")
    return { path: "subject", message: "a CA needs a subject (RFC 5280, 4.1.2.6)" };
  if (config.subject === "" && config.names.length === 0)
    return { path: "names", message: "give a subject, names, or both" };
  if (config.kind === "leaf" && config.pathLength !== undefined)
    return { path: "pathLength", message: "only a CA has a path length" };
  return undefined;
}

export const selfSignedSchema = z.strictObject(profile).check((context) => {
  const wrong = wrongProfile(context.value);
  if (wrong !== undefined)
    context.issues.push({ code: "custom", path: [wrong.path], input: context.value, message: wrong.message });
});
export type SelfSignedConfig = z.infer<typeof selfSignedSchema>;

export const caSchema = z
  .strictObject({
    ...profile,
    ca: z
      .string()
      .min(1)
      .optional()
      .describe("The credential of the estate that signs. Or give certificateFile and keyFile."),
    certificateFile: z.string().min(1).optional().describe("PEM file with the CA's certificate, and those above it."),
    keyFile: z.string().min(1).optional().describe("PEM file with the CA's private key, readable by its owner only."),
    keyPassword: z.string().min(1).optional().describe("Password of keyFile. Use ${env:NAME} or ${file:path}."),
  })
  .check((context) => {
    const config = context.value;
    const wrong = wrongProfile(config);
    if (wrong !== undefined)
      context.issues.push({ code: "custom", path: [wrong.path], input: config, message: wrong.message });
    const files = [config.certificateFile, config.keyFile].filter((file) => file !== undefined).length;
    if (files === 1)
      context.issues.push({
        code: "custom",
        path: ["keyFile"],
        input: config,
        message: "certificateFile and keyFile go together",
      });
    if (files > 0 && config.ca !== undefined) {
      context.issues.push({
        code: "custom",
        path: ["ca"],
        input: config,
        message: "give either ca, or certificateFile and keyFile",
      });
    }
  });
export type CaConfig = z.infer<typeof caSchema>;
