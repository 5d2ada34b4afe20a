/** Small connectors and files in memory, for tests of the estate. */
import { z } from "zod";
import { defineIssuer, definePlace, defineSystem } from "../connectors/connector.ts";
import { createRegistry } from "../connectors/registry.ts";
import { plainTraits } from "../core/place.ts";
import type { CredentialDecl } from "../core/place.ts";
import { loadEstate } from "./load.ts";
import type { LoadedEstate } from "./load.ts";
import { EstateError, formatProblem } from "./problem.ts";
import { TooLarge } from "./source.ts";
import type { Files } from "./source.ts";

function unused(): never {
  throw new Error("The loader opens no place.");
}

const database = defineSystem({
  type: "db",
  title: "A database",
  config: z.strictObject({
    url: z.string().refine((text) => text.startsWith("db://"), "must begin with db://"),
    port: z.int().min(1).max(65_535).optional().describe("TCP port."),
    tls: z.boolean().optional(),
    keyFile: z.string().optional(),
    password: z.string().optional(),
  }),
  paths: ["keyFile"],
  limits: { perSecond: 10, burst: 5 },
  signInOf: () => null,
  withSignIn: (config) => config,
});
const host = defineSystem({
  type: "host",
  title: "A host",
  config: z.strictObject({ address: z.string() }),
  limits: { perSecond: 1, burst: 1 },
});

const role = definePlace({
  family: "place",
  type: "db.role",
  title: "Login roles",
  roles: ["verifier"],
  systemType: "db",
  config: z.strictObject({
    roles: z.array(z.string().min(1)).min(1).max(3).describe("The login roles."),
    owner: z.string().optional(),
  }),
  permissions: [],
  traits: (config) => ({ ...plainTraits, roles: ["verifier"], capacity: config.roles.length, readable: false }),
  open: unused,
});
const file = definePlace({
  family: "place",
  type: "file",
  title: "A file",
  roles: ["holder"],
  // Deliberately not strict: a mistyped key must be an error all the same.
  config: z.object({
    path: z.string(),
    format: z.enum(["dotenv", "json", "yaml"]).default("dotenv"),
    keys: z.record(z.string(), z.string()).optional(),
    template: z.string().optional(),
    reload: z.object({ argv: z.array(z.string()) }).optional(),
  }),
  paths: ["path"],
  permissions: [],
  traits: () => ({ ...plainTraits, roles: ["holder"], storeCapacity: 1, staging: false }),
  open: unused,
});
const app = definePlace({
  family: "place",
  type: "cloud.app",
  title: "An app registration, which makes, shows once and trusts",
  roles: ["issuer", "verifier", "holder"],
  config: z.strictObject({
    appId: z.string().check((context) => {
      if (context.value.length < 4)
        context.issues.push({ code: "custom", input: context.value, message: `"${context.value}" is not an app id` });
    }),
  }),
  permissions: [],
  traits: () => ({
    ...plainTraits,
    roles: ["issuer", "verifier"],
    minting: "theirs",
    issuingTrusts: true,
    drain: "timed",
    drainMs: 1000,
  }),
  open: unused,
});
const watcher = definePlace({
  family: "place",
  type: "watch",
  title: "Only looks",
  roles: [],
  config: z.union([z.strictObject({ host: z.string() }), z.strictObject({ socket: z.string() })]),
  permissions: [],
  traits: () => plainTraits,
  open: unused,
});
const broken = definePlace({
  family: "place",
  type: "broken",
  title: "A connector with a mistake",
  roles: ["holder"],
  config: z.looseObject({ fail: z.enum(["check", "traits"]) }).refine((config) => {
    if (config.fail === "check") throw new Error(JSON.stringify(config));
    return true;
  }),
  permissions: [],
  traits: () => unused(),
  open: unused,
});
const random = defineIssuer({
  family: "issuer",
  type: "random",
  title: "Random text",
  config: z.strictObject({ length: z.int().min(8).max(100).default(40) }),
  permissions: [],
  traits: () => ({ ...plainTraits, roles: ["issuer"], changeMs: 1 }),
  open: unused,
});
const ca = defineIssuer({
  family: "issuer",
  type: "ca",
  title: "A private CA",
  config: z.strictObject({
    ca: z.string().optional(),
    subject: z.string().default("CN=x"),
    keyFile: z.string().optional(),
  }),
  paths: ["keyFile"],
  permissions: [],
  traits: () => ({ ...plainTraits, roles: ["issuer"], changeMs: 5 }),
  open: unused,
});
const appIssuer = defineIssuer({
  family: "issuer",
  type: "cloud.app",
  title: "Secrets of an app registration",
  config: z.strictObject({ appId: z.string(), days: z.int().default(180) }),
  permissions: [],
  traits: () => ({ ...plainTraits, roles: ["issuer"], minting: "theirs", issuingTrusts: true }),
  open: unused,
});

export const testRegistry = createRegistry({
  systems: [database, host],
  places: [role, file, app, watcher, broken],
  issuers: [random, ca, appIssuer],
});

/** Files by absolute path, below `/estate`. */
export function memoryFiles(contents: Readonly<Record<string, string | Uint8Array>>): Files {
  return {
    async read(path, maxBytes) {
      const found = contents[path.replace(/^\/estate\//, "")];
      if (found === undefined) throw Object.assign(new Error(`ENOENT ${path}`), { code: "ENOENT" });
      const bytes = typeof found === "string" ? new TextEncoder().encode(found) : found;
      if (bytes.length > maxBytes) throw new TooLarge();
      return bytes;
    },
  };
}

/** Loads `/estate/keyroll.yaml` with the test connectors. */
export async function loadText(
  contents: string | Readonly<Record<string, string | Uint8Array>>,
  env: Readonly<Record<string, string>> = {},
): Promise<LoadedEstate> {
  const files = memoryFiles(typeof contents === "string" ? { "keyroll.yaml": contents } : contents);
  return loadEstate("/estate/keyroll.yaml", { registry: testRegistry, env, files });
}

/** The formatted problems, without the folder. */
export async function problemsOf(
  contents: Parameters<typeof loadText>[0],
  env: Readonly<Record<string, string>> = {},
): Promise<string[]> {
  try {
    await loadText(contents, env);
    return [];
  } catch (error) {
    if (!(error instanceof EstateError)) throw error;
    return error.problems.map((problem) => formatProblem(problem).replaceAll("/estate/", ""));
  }
}

/** An estate with something of everything. It needs {@link wholeEnv}. */
export const whole = `
version: 1
defaults: { owner: platform, labels: { team: core }, policy: { soak: 1m, maxAge: 90d, approvals: { switch: 1 } } }
settings: { requestLife: 90s }
systems:
  pg: { type: db, url: "\${env:URL}", port: "\${env:PORT}", tls: "\${env:TLS:-true}", keyFile: ./id }
credentials:
  # The password of the shop.
  app-db-password:
    kind: password
    owner: payments
    labels: { tier: 1 }
    issuer: { type: random, length: 40 }
    places:
      role: { type: db.role, system: pg, verifier: true, owner: app, roles: [app_a, app_b], propagation: 2s }
      env: { type: file, holder: true, presentsTo: [role], path: ./app.env, keys: { password: DB }, refresh: 5s }
    policy: { rotateBefore: 30d, maxAge: never, approvals: { retire: 1 }, window: "Sat 02:00-06:00 Europe/Amsterdam" }
`;
export const wholeEnv = { URL: "db://u:s3cr3t-value@h/d", PORT: "5432" };

/** A credential with these places, in one line each. */
export function estateWith(places: string, more = "", issuer = "issuer: { type: random }"): string {
  return `version: 1\nsystems: { pg: { type: db, url: "db://h" } }\ncredentials:\n  c:\n    kind: secret\n    owner: me\n    policy: { maxAge: 1d }\n    ${issuer}\n${more}    places:\n${places
    .trim()
    .split("\n")
    .map((line) => `      ${line.trim()}`)
    .join("\n")}\n`;
}
/** The least that a credential needs. */
export const modelPlaces = "v: { type: model, verifier: true }\nh: { type: model, holder: true }";
/** The one credential of this text. */
export async function only(text: string): Promise<CredentialDecl> {
  const [credential] = (await loadText(text)).estate.credentials;
  if (credential === undefined) throw new Error("There is no credential.");
  return credential;
}
