import { z } from "zod";
import { Secret } from "../secret.ts";
import { programShape } from "../shared/program.ts";
import { duration } from "../shared/settings.ts";

const secretText = z
  .string()
  .min(1)
  .transform((text) => new Secret(text));

export const sshSystemSchema = z
  .strictObject({
    host: z.string().min(1),
    port: z.int().min(1).max(65_535).default(22),
    user: z.string().min(1),
    hostKey: z
      .union([z.string(), z.array(z.string()).min(1)])
      .transform((keys) => (typeof keys === "string" ? [keys] : keys))
      .refine(
        (keys) => keys.every((key) => /^SHA256:[A-Za-z0-9+/]{43}=?$/.test(key)),
        "is not a fingerprint as `ssh-keygen -lf` prints it: SHA256:…",
      )
      .transform((keys) => keys.map((key) => key.replace(/=$/, "")))
      .optional()
      .describe(
        "Fingerprints of the host keys to accept, as `ssh-keygen -lf` prints them. Without one nothing is sent, and the message tells the one seen.",
      ),
    privateKey: secretText
      .optional()
      .describe("PEM or OpenSSH text of the key to sign in with, such as ${file:~/.ssh/keyroll}."),
    passphrase: secretText.optional().describe("Of the private key."),
    password: secretText.optional().describe("Where no key is used. Use ${env:NAME}."),
    agent: z
      .union([z.literal(true), z.string().min(1)])
      .optional()
      .describe("true: the agent of SSH_AUTH_SOCK. Or the path of an agent's socket."),
    connectTimeout: duration({ leastMs: 100, mostMs: 120_000 })
      .default(15_000)
      .describe("How long a sign-in may take."),
  })
  .refine((config) => config.privateKey !== undefined || config.password !== undefined || config.agent !== undefined, {
    message: "says no way to sign in: give privateKey, agent or password",
  });
export type SshSystem = z.infer<typeof sshSystemSchema>;

const remotePath = z
  .string()
  .min(2)
  .refine(
    (path) => path.startsWith("/") && !path.includes("\0") && !path.endsWith("/"),
    "must be the full path of a file on the host",
  );

export const sshFileSchema = z.strictObject({
  path: remotePath.describe("Full path on the host."),
  format: z
    .enum(["value", "authorized_keys"])
    .default("value")
    .describe(
      "value: the whole file is the secret. authorized_keys: one public key per line (also TrustedUserCAKeys).",
    ),
  options: z
    .string()
    .regex(/^[^\r\n]*$/)
    .default("")
    .describe(
      "For authorized_keys: what stands before the key on lines that Keyroll writes, such as restrict or cert-authority.",
    ),
  newline: z
    .boolean()
    .default(false)
    .describe("For value: the file ends with a line break that is not part of the secret."),
  mode: z
    .string()
    .regex(/^0?[0-7]{3}$/)
    .default("0600")
    .describe("For a new file. A file that is there keeps its mode and owner."),
});
export type SshFileConfig = z.infer<typeof sshFileSchema>;

export const sshCommandSchema = z.strictObject({
  command: z
    .string()
    .min(1)
    .refine((text) => !/[\r\n\0]/.test(text), "must be one line")
    .describe(
      "The command line on the host. The sign-in's own shell reads it, as SSH always does, so keep it a fixed word or path.",
    ),
  timeout: duration({ leastMs: 100, mostMs: 3_600_000 }).default(30_000).describe("How long it may take."),
  ...programShape,
});
export type SshCommandConfig = z.infer<typeof sshCommandSchema>;
