/** What users write for a PostgreSQL server and for the places on it. */
import { z } from "zod";
import { Secret } from "../secret.ts";
import { duration } from "../shared/settings.ts";
import { defaultIterations } from "./scram.ts";

export interface PostgresSystem {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: Secret;
  readonly tls: PostgresTls;
  readonly connectTimeoutMs: number;
  readonly statementTimeoutMs: number;
}

/** `off`: plain text. `require`: encrypted, and nobody is authenticated. `verify-full`: the certificate must be trusted and name the host. */
interface PostgresTls {
  readonly mode: "off" | "require" | "verify-full";
  readonly ca?: string | undefined;
  readonly serverName?: string | undefined;
}

const loopback = /^(localhost|127\.\d+\.\d+\.\d+|::1)$/;

const tls = z.union([
  z.enum(["off", "require", "verify-full"]),
  z.strictObject({
    mode: z.enum(["require", "verify-full"]).default("verify-full"),
    ca: z
      .string()
      .refine(
        (text) => text.includes("-----BEGIN CERTIFICATE-----"),
        "write the CA's PEM text here, such as ${file:./ca.pem}",
      )
      .optional()
      .describe("PEM text of the CAs to trust, such as ${file:./ca.pem}. Default: those that Node trusts."),
    serverName: z
      .string()
      .min(1)
      .optional()
      .describe("The name that the certificate must carry, where it is not the host of the url."),
  }),
]);

interface ParsedUrl {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: string;
  readonly sslmode: string | null;
}

/** Says what is wrong without repeating any of it: the whole text is a secret. */
function parseUrl(text: string): ParsedUrl | string {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return "is not a URL; write postgres://USER:PASSWORD@HOST:5432/DATABASE, with special characters percent-encoded";
  }
  if (url.protocol !== "postgres:" && url.protocol !== "postgresql:") return "must begin with postgres://";
  if (url.hostname === "") return "names no host";
  if (url.username === "") return "names no user";
  for (const name of url.searchParams.keys()) {
    if (name !== "sslmode")
      return "has a parameter that is not known; only sslmode is read, the rest are settings of the system beside the url";
  }
  try {
    return {
      host: url.hostname.replace(/^\[(.*)\]$/, "$1"),
      port: url.port === "" ? 5432 : Number(url.port),
      database: decodeURIComponent(url.pathname.slice(1)) || decodeURIComponent(url.username),
      user: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      sslmode: url.searchParams.get("sslmode"),
    };
  } catch {
    return "has a percent sign that is not followed by two hexadecimal digits";
  }
}

const sslmodes: Readonly<Record<string, PostgresTls["mode"]>> = {
  disable: "off",
  require: "require",
  "verify-full": "verify-full",
};

export const postgresSystemSchema = z
  .strictObject({
    url: z
      .string()
      .describe("postgres://USER:PASSWORD@HOST:PORT/DATABASE of a role that may manage the roles. Use ${env:NAME}."),
    password: z.string().min(1).optional().describe("The password, where the url has none."),
    tls: tls
      .optional()
      .describe(
        "off, require, verify-full, or an object with ca and serverName. Default: verify-full, and off for a server on this machine.",
      ),
    connectTimeout: duration({ leastMs: 100, mostMs: 120_000 })
      .default(10_000)
      .describe("How long a sign-in may take."),
    statementTimeout: duration({ leastMs: 100, mostMs: 600_000 })
      .default(15_000)
      .describe("How long one statement may take."),
  })
  .transform((input, context): PostgresSystem => {
    const parsed = parseUrl(input.url);
    if (typeof parsed === "string") {
      context.addIssue({ code: "custom", path: ["url"], message: parsed });
      return z.NEVER;
    }
    if (parsed.sslmode !== null && !(parsed.sslmode in sslmodes)) {
      context.addIssue({
        code: "custom",
        path: ["url"],
        message: "has an sslmode that is not disable, require or verify-full",
      });
      return z.NEVER;
    }
    const fallback =
      parsed.sslmode !== null ? sslmodes[parsed.sslmode]! : loopback.test(parsed.host) ? "off" : "verify-full";
    const chosen =
      input.tls === undefined ? { mode: fallback } : typeof input.tls === "string" ? { mode: input.tls } : input.tls;
    return {
      host: parsed.host,
      port: parsed.port,
      database: parsed.database,
      user: parsed.user,
      password: new Secret(input.password ?? parsed.password),
      tls: chosen,
      connectTimeoutMs: input.connectTimeout,
      statementTimeoutMs: input.statementTimeout,
    };
  });

/** PostgreSQL cuts longer names off without an error (NAMEDATALEN), so that two names could become one role. */
const roleName = z
  .string()
  .min(1)
  .refine(
    (name) => Buffer.byteLength(name, "utf8") <= 63,
    "is longer than the 63 bytes that PostgreSQL keeps of a name",
  )
  .refine((name) => !name.includes("\0"), "holds a NUL character")
  .refine((name) => !/^pg_/i.test(name), "begins with pg_, which PostgreSQL keeps for itself");

export const roleSchema = z
  .strictObject({
    roles: z
      .array(roleName)
      .min(1)
      .max(16)
      .describe("The login roles, taken in turn. Two give a rotation without a gap; one is changed in place."),
    owner: roleName
      .optional()
      .describe("The role that owns the objects and that every login role becomes. Needed with two or more roles."),
    iterations: z
      .int()
      .min(4096)
      .max(1_000_000)
      .default(defaultIterations)
      .describe("PBKDF2 rounds of the stored form."),
    leftovers: z
      .enum(["leave", "terminate"])
      .default("leave")
      .describe(
        "What happens to sessions that are still open when a version has been removed and `waitForSessions` is over.",
      ),
    waitForSessions: duration({ mostMs: 600_000 })
      .default(0)
      .describe("How long a removal waits for open sessions to end by themselves."),
  })
  .refine((config) => new Set(config.roles).size === config.roles.length, {
    path: ["roles"],
    message: "names one role twice",
  })
  .refine((config) => config.roles.length === 1 || config.owner !== undefined, {
    path: ["owner"],
    message: "is needed with two or more roles: what one role creates would not belong to the other",
  })
  .refine((config) => config.owner === undefined || config.roles.length === 1 || !config.roles.includes(config.owner), {
    path: ["roles"],
    message: "must not include the owner: it owns the objects and nobody signs in as it",
  });
export type RoleConfig = z.infer<typeof roleSchema>;

export const serverTlsSchema = z.strictObject({
  certificate: z.string().min(1).describe("Path of the server's ssl_cert_file."),
  key: z.string().min(1).describe("Path of the server's ssl_key_file."),
  serverName: z
    .string()
    .min(1)
    .optional()
    .describe("Name to ask for while looking at what is served. Default: the host of the system's url."),
  connections: z
    .int()
    .min(1)
    .max(32)
    .default(4)
    .describe("How many new connections must be served the new certificate."),
  servedWithin: duration({ leastMs: 500, mostMs: 120_000 })
    .default(10_000)
    .describe("How long the server may take to serve it after the reload."),
});
export type ServerTlsConfig = z.infer<typeof serverTlsSchema>;
