import { z } from "zod";
import { programShape } from "../shared/program.ts";
import { commandSchema } from "../shared/settings.ts";
import { startTlsKinds } from "../shared/tls.ts";

/** Public names of a version that instructions may show. Secrets are not among them. */
const placeholders = [
  "id",
  "fingerprint",
  "sha1",
  "publicKeySha256",
  "subject",
  "issuer",
  "serial",
  "notBefore",
  "notAfter",
  "slot",
] as const;
export const placeholderPattern = /\$\{([^}]*)\}/g;

const template = z
  .string()
  .min(1)
  .max(2000)
  .superRefine((text, context) => {
    for (const [, name = ""] of text.matchAll(placeholderPattern)) {
      if ((placeholders as readonly string[]).includes(name) || /^attribute:[A-Za-z][A-Za-z0-9_.-]*$/.test(name))
        continue;
      context.addIssue({
        code: "custom",
        message: `has \${${name}}, which is no public value of a version; there are ${placeholders.map((one) => `\${${one}}`).join(", ")} and \${attribute:NAME}`,
      });
    }
  });

const step = z.union([
  template.transform((text) => ({ text })),
  z.strictObject({ text: template, copy: template.describe("A value to be copied as it is.") }),
]);
const work = z.strictObject({
  title: template.optional(),
  steps: z.array(step).min(1).max(50),
});

export const manualSchema = z.strictObject({
  title: z.string().min(1).max(200).describe("What and where, for a person: Mailgun, domain example.org."),
  minutes: z.int().min(1).max(10_000).default(15).describe("How long one change takes a person."),
  add: work.optional().describe("What to do so that the new version is there beside the old one."),
  activate: work.optional().describe("What to do so that the new version is the one in use."),
  remove: work.optional().describe("What to do so that the old version is no longer there."),
  check: z
    .union([
      z.strictObject({ ...commandSchema.shape, recognise: programShape.recognise }),
      z.strictObject({
        tls: z.strictObject({
          host: z.string().min(1),
          port: z.int().min(1).max(65_535).default(443),
          serverName: z.string().min(1).optional(),
          startTls: z.enum(startTlsKinds).default("none"),
          connections: z.int().min(1).max(32).default(4),
        }),
      }),
    ])
    .describe(
      "How Keyroll sees what the person did: a program that speaks the command protocol's observe, or a TLS endpoint to look at.",
    ),
  capacity: z.int().min(1).max(30).default(1).describe("Verifier: how many versions fit at once."),
  storeCapacity: z.int().min(1).max(30).default(1).describe("Holder: how many versions can be stored at once."),
});
export type ManualConfig = z.infer<typeof manualSchema>;
