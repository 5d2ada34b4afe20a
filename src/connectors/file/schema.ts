/** Settings of places of type `file.value` and `file.certificate`. */
import { z } from "zod";
import { commandSchema } from "../shared/settings.ts";
import { parseTemplate, TemplateError } from "../shared/template.ts";
import { formats, FormatError, pathOf } from "./text.ts";

const mode = z
  .string()
  .regex(/^0?[0-7]{3}$/, "write it like 0600")
  .transform((text) => Number.parseInt(text, 8))
  .meta({ examples: ["0600", "0640"] });

const template = z
  .string()
  .min(1)
  .max(10_000)
  .check((context) => {
    try {
      if (parseTemplate(context.value).parts.length === 0)
        throw new TemplateError("names no part, so that every version would look the same");
    } catch (error) {
      if (!(error instanceof TemplateError)) throw error;
      context.issues.push({ code: "custom", input: context.value, message: error.message });
    }
  });

export const valueSchema = z
  .strictObject({
    path: z.string().min(1).describe("The file."),
    format: z
      .enum(formats)
      .default("text")
      .describe("How values are written in it. text: the whole file is the value."),
    keys: z
      .record(z.string().min(1), z.string().min(1))
      .optional()
      .describe("Which part of a version goes under which key, like { user: DB_USER, password: DB_PASSWORD }."),
    key: z.string().min(1).optional().describe("The one key that the template goes under."),
    template: template.optional().describe('The value, like "postgres://${user}:${password|url}@db/shop".'),
    mode: mode.prefault("0600").describe("Of the file, if it has to be made. One that is there keeps its own."),
    reload: commandSchema.optional().describe("Run after a change, so that what reads the file reads it again."),
  })
  .check((context) => {
    const config = context.value;
    const issue = (path: string, message: string): void =>
      void context.issues.push({ code: "custom", path: [path], input: config, message });
    if (config.format === "text") {
      if (config.keys !== undefined || config.key !== undefined)
        issue("keys", "a whole file has no keys; give a template, or another format");
      return;
    }
    if ((config.keys === undefined) === (config.key === undefined))
      issue("keys", "give either keys, or key and template");
    if (config.keys !== undefined && config.template !== undefined) issue("template", "goes with key, not with keys");
    if (config.keys !== undefined && Object.keys(config.keys).length === 0) issue("keys", "name at least one");
    if (config.format === "json" || config.format === "yaml") {
      for (const key of [...Object.values(config.keys ?? {}), ...(config.key === undefined ? [] : [config.key])]) {
        try {
          pathOf(key);
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
          issue("keys", error.message);
        }
      }
    }
  });
export type ValueConfig = z.infer<typeof valueSchema>;

export const certificateSchema = z
  .strictObject({
    kind: z
      .enum(["pair", "combined", "pkcs12", "bundle"])
      .default("pair")
      .describe(
        "pair: chain and key in two files. combined: both in one PEM file. pkcs12: a keystore. bundle: the CA certificates that are trusted.",
      ),
    certificate: z.string().min(1).optional().describe("pair: the chain. combined, bundle: the file."),
    key: z.string().min(1).optional().describe("pair: the private key."),
    keystore: z.string().min(1).optional().describe("pkcs12: the file."),
    passwordFile: z
      .string()
      .min(1)
      .optional()
      .describe("pkcs12: a file with the keystore's password, readable by its owner only."),
    alias: z.string().min(1).optional().describe("pkcs12: the friendly name of the key."),
    stagingDir: z
      .string()
      .min(1)
      .optional()
      .describe(
        "pair: a folder for versions; certificate and key are then read through its link `current`, which changes both at once.",
      ),
    trusts: z
      .enum(["version", "issuer"])
      .default("version")
      .describe(
        "bundle: version, where the certificates of this credential stand in it themselves (a CA); issuer, where their CA does and stays.",
      ),
    mode: mode.prefault("0600").describe("Of a key, combined or keystore file that has to be made."),
    precheck: commandSchema
      .optional()
      .describe(
        "Run before the change, with {cert} and {key} (or {file}) replaced by the new files. It must end with 0.",
      ),
    reload: commandSchema.optional().describe("Run after a change, so that the server reads the files again."),
  })
  .check((context) => {
    const config = context.value;
    const need: Record<typeof config.kind, readonly (keyof typeof config)[]> = {
      pair: config.stagingDir === undefined ? ["certificate", "key"] : ["stagingDir"],
      combined: ["certificate"],
      pkcs12: ["keystore", "passwordFile"],
      bundle: ["certificate"],
    };
    if (config.trusts === "issuer" && config.kind !== "bundle")
      context.issues.push({
        code: "custom",
        path: ["trusts"],
        input: config,
        message: "is for kind bundle: the others hold a certificate, they trust none",
      });
    const may: readonly (keyof typeof config)[] = [
      "kind",
      "mode",
      "trusts",
      "precheck",
      "reload",
      ...need[config.kind],
      ...(config.kind === "pkcs12" ? (["alias"] as const) : []),
    ];
    for (const name of need[config.kind]) {
      if (config[name] === undefined)
        context.issues.push({
          code: "custom",
          path: [name],
          input: config,
          message: `is missing for kind ${config.kind}`,
        });
    }
    for (const name of ["certificate", "key", "keystore", "passwordFile", "alias", "stagingDir"] as const) {
      if (config[name] !== undefined && !may.includes(name)) {
        context.issues.push({
          code: "custom",
          path: [name],
          input: config,
          message: `has no meaning for kind ${config.kind}${name !== "stagingDir" && config.stagingDir !== undefined ? " with stagingDir" : ""}`,
        });
      }
    }
  });
export type CertificateConfig = z.infer<typeof certificateSchema>;
