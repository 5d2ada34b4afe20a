import { ConnectorError, definePlace, defineSystem } from "../connector.ts";
import { plainTraits } from "../../core/place.ts";
import { Secret } from "../secret.ts";
import { openRole } from "./role.ts";
import {
  postgresSystemSchema,
  roleSchema,
  serverTlsSchema,
  type PostgresSystem,
  type RoleConfig,
  type ServerTlsConfig,
} from "./schema.ts";
import { openServerTls } from "./server-tls.ts";
import { withSession } from "./session.ts";

export const postgresSystem = defineSystem<PostgresSystem>({
  type: "postgres",
  title: "A PostgreSQL server, version 12 or newer",
  config: postgresSystemSchema,
  limits: { perSecond: 50, burst: 20 },
  signInOf(system) {
    if (system.password.bytes().length === 0) return null;
    return {
      attributes: { user: system.user },
      material: { kind: "secret", value: new Secret(system.password.bytes()) },
    };
  },
  withSignIn(system, { attributes, material }) {
    if (material.kind !== "secret") {
      throw new ConnectorError("misconfigured", "Keyroll signs in to PostgreSQL with a password, and this is a key.", {
        next: "Name a credential of kind password in the system's signIn.",
      });
    }
    return { ...system, user: attributes["user"] ?? system.user, password: new Secret(material.value.bytes()) };
  },
  async check(cx, system) {
    await withSession(cx, system, async (session) => session.query("looking at the server", "select 1"));
  },
});

export const postgresRole = definePlace<RoleConfig, PostgresSystem>({
  family: "place",
  type: "postgres.role",
  title: "Password of PostgreSQL login roles, two of them in turn over one owner",
  roles: ["verifier"],
  systemType: "postgres",
  config: roleSchema,
  permissions: [
    "CREATEROLE: creates the login roles and changes their passwords.",
    "ADMIN OPTION on the owner role, and on login roles that Keyroll did not create (PostgreSQL 16 and newer).",
    "pg_read_all_stats: sees who is still connected under which role.",
    "pg_signal_backend: ends sessions, for a breach and for `leftovers: terminate`.",
    "SELECT on pg_catalog.pg_authid (optional): recognises versions by their stored form instead of by signing in.",
  ],
  traits: (config) => ({
    ...plainTraits,
    roles: ["verifier"],
    // One password per role.
    capacity: config.roles.length,
    // Only a salted hash is stored.
    readable: false,
    // NOLOGIN does not end what is connected.
    session: true,
    changeMs: 1000 + (config.leftovers === "terminate" ? config.waitForSessions : 0),
  }),
  open(config, system) {
    if (system === undefined) throw new Error("postgres.role was opened without its system.");
    return openRole(config, system);
  },
});

export const postgresServerTls = definePlace<ServerTlsConfig, PostgresSystem>({
  family: "place",
  type: "postgres.server-tls",
  title: "Certificate and key of a PostgreSQL server on this machine",
  roles: ["holder"],
  systemType: "postgres",
  config: serverTlsSchema,
  paths: ["certificate", "key"],
  permissions: [
    "EXECUTE on pg_reload_conf(): makes the server read its files again.",
    "Writing the files and their folder, as the server's user or with CAP_CHOWN: PostgreSQL takes a key only from its own user or from root.",
  ],
  traits: (config) => ({
    ...plainTraits,
    roles: ["holder"],
    storeCapacity: 1,
    staging: false,
    writes: "whole-set",
    changeMs: 1000 + config.servedWithin,
  }),
  open(config, system) {
    if (system === undefined) throw new Error("postgres.server-tls was opened without its system.");
    return openServerTls(config, system);
  },
});
