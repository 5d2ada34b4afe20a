import { createHash, createHmac, pbkdf2Sync } from "node:crypto";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startPostgres, type PostgresServer } from "../../../test/support/postgres-server.ts";
import { startPostgresProxy, type PostgresProxy, type Treatment } from "../../../test/support/postgres-proxy.ts";
import { placeContract, secretVersions, versionOf, type Fault, type PlaceWorld } from "../connector.contract.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import { postgresRole, postgresSystem } from "./connector.ts";

let server: PostgresServer;
/** One connection for everything that the tests look up: signing in is what takes the time. */
let superuser: pg.Client;
beforeAll(async () => {
  server = await startPostgres();
  superuser = new pg.Client({ connectionString: server.url });
  await superuser.connect();
});
afterAll(async () => {
  await superuser.end();
  await server.stop();
});

/** SCRAM by hand (RFC 5802 section 3), so that the connector's own reading is not what judges it. The tests' passwords need no SASLprep. */
function fits(stored: string | null, password: string): boolean {
  const [, rounds, salt, storedKey] = /^SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):/.exec(stored ?? "") ?? [];
  if (rounds === undefined || salt === undefined) return false;
  const salted = pbkdf2Sync(password, Buffer.from(salt, "base64"), Number(rounds), 32, "sha256");
  const clientKey = createHmac("sha256", salted).update("Client Key").digest();
  return createHash("sha256").update(clientKey).digest("base64") === storedKey;
}

const adminPassword = "adminPassword-9d1f";
let worlds = 0;

function context(more: Partial<CallContext> = {}): CallContext {
  const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined };
  return { now: () => Date.now(), signal: new AbortController().signal, throttle: async () => {}, log: quiet, ...more };
}

async function query(url: string, text: string): Promise<pg.QueryResult> {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await client.query(text);
  } finally {
    await client.end();
  }
}

interface World extends PlaceWorld {
  readonly names: { readonly admin: string; readonly owner: string; readonly roles: readonly string[] };
  readonly proxy: PostgresProxy;
}

/** Roles are shared by all databases of a server, so that each world has names of its own. */
async function makeWorld(options: { count: number; superuser?: boolean; grantsAuthid?: boolean }): Promise<World> {
  const id = `w${++worlds}`;
  const names = {
    admin: `${id}_admin`,
    // Every character that quoting trips over.
    owner: `${id} owner"; drop role x; --'\\`,
    roles: Array.from({ length: options.count }, (_, i) => `${id}_app_${i}"'\\ é`),
  };
  const q = pg.escapeIdentifier;
  await superuser.query(
    `create role ${q(names.owner)} nologin;
     create role ${q(names.admin)} login ${options.superuser ? "superuser" : "createrole"} password '${adminPassword}';
     grant ${q(names.owner)} to ${q(names.admin)} with admin option;
     grant pg_read_all_stats, pg_signal_backend to ${q(names.admin)};`,
  );
  if (options.grantsAuthid) await superuser.query(`grant select on pg_catalog.pg_authid to ${q(names.admin)}`);
  const proxy = await startPostgresProxy(server);
  const versions = secretVersions(`db-${id}`);
  const config = postgresRole.config.parse({
    roles: names.roles,
    ...(options.count > 1 ? { owner: names.owner } : {}),
  });
  const system = postgresSystem.config.parse({
    url: `postgres://${encodeURIComponent(names.admin)}:${adminPassword}@127.0.0.1:${proxy.port}/postgres`,
    statementTimeout: "3s",
  });

  const works = async (user: string, version: VersionHandle): Promise<boolean> => {
    const material = await version.open();
    if (material.kind !== "secret") throw new Error("not a password");
    try {
      await query(server.urlFor(user, material.value.reveal()), "select current_user");
      return true;
    } catch (error) {
      if (["28P01", "28000"].includes((error as { code?: string }).code ?? "")) return false;
      throw error;
    }
  };
  const rolesOf = async (versions: readonly VersionHandle[]): Promise<Map<string, string>> => {
    const { rows } = await superuser.query<{ name: string; stored: string | null }>(
      "select rolname as name, rolpassword as stored from pg_authid where rolcanlogin and rolname = any($1)",
      [names.roles],
    );
    const found = new Map<string, string>();
    for (const version of versions) {
      const material = await version.open();
      const row = rows.find((one) => material.kind === "secret" && fits(one.stored, material.value.reveal()));
      if (row) found.set(version.id, row.name);
    }
    return found;
  };
  const roleOf = async (version: VersionHandle): Promise<string> => {
    const role = (await rolesOf([version])).get(version.id);
    if (role === undefined) throw new Error(`${version.id} is in no role.`);
    return role;
  };
  const onStatement = (pattern: RegExp, treatment: Treatment): Fault => {
    proxy.onStatement = (text) => (pattern.test(text) ? treatment : "pass");
    return { clear: () => void (proxy.onStatement = () => "pass") };
  };
  const target = (verb: string): RegExp => (verb === "observe" ? /pg_roles/ : /^commit/i);

  return {
    names,
    proxy,
    open: () => postgresRole.open(config, system),
    version: (n) => versions(n),
    canaries: [adminPassword],
    async inspect(known) {
      const present = [...(await rolesOf(known)).keys()];
      const { rows } = await superuser.query(
        `select rolname, rolpassword, rolcanlogin, shobj_description(oid, 'pg_authid') as said from pg_authid
          where rolname like $1 and rolname <> all($2) order by 1`,
        [`${id}\\_other%`, names.roles],
      );
      return { present, foreign: rows.map((row) => JSON.stringify(row)) };
    },
    async consumer(version) {
      for (const role of names.roles) if (await works(role, version)) return true;
      return false;
    },
    meddle: {
      async add() {
        await superuser.query(
          `create role ${id}_other login password 'theirs' in role ${q(names.owner)}; comment on role ${id}_other is 'ours'`,
        );
      },
      async change(version) {
        const role = await roleOf(version);
        await superuser.query(`alter role ${q(role)} password 'somebody elses'`);
      },
      async remove(version) {
        const role = await roleOf(version);
        await superuser.query(`alter role ${q(role)} nologin`);
      },
      beforeWrite(action) {
        let done = false;
        proxy.onStatement = async (text) => {
          if (!done && /^(create|alter|grant|comment)/i.test(text)) {
            done = true;
            await action();
          }
          return "pass";
        };
      },
    },
    faults: {
      down() {
        proxy.down = true;
        return { clear: () => void (proxy.down = false) };
      },
      "lost-request": (verb) => onStatement(target(verb), "lose-request"),
      "lost-answer": (verb) => onStatement(target(verb), "lose-answer"),
      garbage: (verb) => onStatement(target(verb), "garble"),
      async denied() {
        await superuser.query(`alter role ${q(names.admin)} nocreaterole nosuperuser`);
        return {
          permission: "CREATEROLE",
          clear: async () => void (await superuser.query(`alter role ${q(names.admin)} createrole ${options.superuser ? "superuser" : ""}`)),
        };
      },
    },
    async close() {
      await proxy.close();
    },
  };
}

const cannot = {
  "throttling is reported as throttled and changes nothing": "PostgreSQL has no rate limit: a server without free connections is unavailable",
} as const;

for (const [name, options] of [
  ["postgres.role with two roles and a superuser", { count: 2, superuser: true }],
  ["postgres.role with two roles and CREATEROLE only, as managed services give", { count: 2 }],
  ["postgres.role with one role", { count: 1, superuser: true }],
] as const) {
  placeContract({
    runner: { describe, it },
    name,
    connector: postgresRole,
    config: { roles: ["a", "b"].slice(0, options.count), owner: "o" },
    makeWorld: () => makeWorld(options),
    cannot: {
      ...cannot,
      ...("superuser" in options || "grantsAuthid" in options
        ? {}
        : {
            "a value that somebody else changed is no longer taken for ours":
              "without pg_authid only the comment can be read; the probe finds it, and the observation has a note that says so",
          }),
    },
  });
}
