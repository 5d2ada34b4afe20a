import { createHash, createHmac, pbkdf2Sync } from "node:crypto";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startPostgres, type PostgresServer } from "../../demo/postgres-server.ts";
import { startPostgresProxy, type PostgresProxy, type Treatment } from "../../../test/support/postgres-proxy.ts";
import { placeContract, secretVersions, versionOf, type Fault, type PlaceWorld } from "../connector.contract.ts";
import { ConnectorError, type CallContext, type VersionHandle } from "../connector.ts";
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
  readonly id: string;
  readonly names: { readonly admin: string; readonly owner: string; readonly roles: readonly string[] };
  readonly proxy: PostgresProxy;
}

/** Roles are shared by all databases of a server, so that each world has names of its own. */
async function makeWorld(options: {
  count: number;
  superuser?: boolean;
  grantsAuthid?: boolean;
  more?: object;
}): Promise<World> {
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
    ...options.more,
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
    id,
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
        proxy.onStatement = async (text): Promise<Treatment> => {
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
          clear: async () =>
            void (await superuser.query(
              `alter role ${q(names.admin)} createrole ${options.superuser ? "superuser" : ""}`,
            )),
        };
      },
    },
    async close() {
      await proxy.close();
    },
  };
}

const cannot = {
  "throttling is reported as throttled and changes nothing":
    "PostgreSQL has no rate limit: a server without free connections is unavailable",
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

async function failure(run: () => Promise<unknown>): Promise<ConnectorError> {
  try {
    await run();
  } catch (error) {
    if (error instanceof ConnectorError) return error;
    throw error;
  }
  throw new Error("It succeeded.");
}

/** An open session of this version, as a pool holds it. */
async function signedIn(
  role: string,
  version: VersionHandle,
): Promise<pg.Client & { readonly ended: Promise<unknown> }> {
  const material = await version.open();
  const client = new pg.Client({
    connectionString: server.urlFor(role, material.kind === "secret" ? material.value.reveal() : ""),
  });
  client.on("error", () => undefined);
  const ended = new Promise((resolve) => client.once("end", resolve));
  await client.connect();
  return Object.assign(client, { ended });
}

async function withWorld(
  options: Parameters<typeof makeWorld>[0],
  body: (world: World) => Promise<void>,
): Promise<void> {
  const world = await makeWorld(options);
  try {
    await body(world);
  } finally {
    await world.close?.();
  }
}

describe("postgres.role", () => {
  it("makes what one role creates belong to the other too", () =>
    withWorld({ count: 2 }, async (world) => {
      const place = await world.open();
      const [one, two] = [await world.version(1), await world.version(2)];
      await superuser.query(`create schema ${world.id} authorization ${pg.escapeIdentifier(world.names.owner)}`);
      const first = await signedIn((await place.add?.(context(), one))?.slot ?? "", one);
      await first.query(`create table ${world.id}.t (n int)`);
      await first.end();
      const second = await signedIn((await place.add?.(context(), two))?.slot ?? "", two);
      await second.query(`alter table ${world.id}.t add column m int`);
      const { rows } = await second.query("select current_user::text as now, session_user::text as as_role");
      expect(rows).toEqual([{ now: world.names.owner, as_role: world.names.roles[1] }]);
      await second.end();
    }));

  it("never sends the password to the server", () =>
    withWorld({ count: 2 }, async (world) => {
      const said: string[] = [];
      world.proxy.onStatement = (text) => (said.push(text), "pass");
      const place = await world.open();
      const one = await world.version(1);
      await place.add?.(context(), one);
      await place.observe(context(), [one]);
      await place.probe?.(context(), one);
      await place.remove?.(context(), one);
      const material = await one.open();
      const value = material.kind === "secret" ? material.value.reveal() : "";
      expect(said.some((text) => text.includes("SCRAM-SHA-256$4096:"))).toBe(true);
      for (const text of said) expect(text).not.toContain(value.slice(0, 8));
    }));

  it("recognises a role from before Keyroll by its password, and takes the other one for the new version", () =>
    withWorld({ count: 2, superuser: true }, async (world) => {
      const [old, other] = world.names.roles.map((role) => pg.escapeIdentifier(role));
      await superuser.query(
        `create role ${old} login password 'from before'; comment on role ${old} is 'the app'; create role ${other} nologin`,
      );
      const adopted = versionOf("db#1", { kind: "secret", value: new Secret("from before") });
      const place = await world.open();
      const seen = await place.observe(context(), [adopted]);
      expect(seen.entries.find((entry) => entry.version === "db#1")?.slot).toBe(world.names.roles[0]);
      const fresh = await world.version(2);
      expect((await place.add?.(context(), fresh))?.slot).toBe(world.names.roles[1]);
      // The contract lets an added version be one that is there: it stays where it is, with its comment.
      expect((await place.add?.(context(), adopted))?.slot).toBe(world.names.roles[0]);
      await place.remove?.(context(), adopted);
      expect((await place.observe(context(), [adopted, fresh])).entries.map((entry) => entry.version)).toEqual([
        undefined,
        fresh.id,
      ]);
      const { rows } = await superuser.query(
        "select shobj_description(oid, 'pg_authid') as said from pg_authid where rolname = $1",
        [world.names.roles[0]],
      );
      expect(rows).toEqual([{ said: "the app" }]);
    }));

  it("recognises a role from before Keyroll by signing in where pg_authid is closed", () =>
    withWorld({ count: 2 }, async (world) => {
      const [old] = world.names.roles.map((role) => pg.escapeIdentifier(role));
      await superuser.query(
        `create role ${old} login password 'from before'; grant ${old} to ${pg.escapeIdentifier(world.names.admin)} with admin option`,
      );
      const adopted = versionOf("db#1", { kind: "secret", value: new Secret("from before") });
      const wrong = versionOf("db#0", { kind: "secret", value: new Secret("never was") });
      const place = await world.open();
      const seen = await place.observe(context(), [wrong, adopted]);
      expect(seen.entries).toEqual([
        {
          mark: world.names.roles[0],
          slot: world.names.roles[0],
          attributes: { user: world.names.roles[0] },
          enabled: true,
          version: "db#1",
        },
      ]);
      expect(seen.notes?.join(" ")).toContain("GRANT SELECT ON pg_catalog.pg_authid");
      await place.remove?.(context(), adopted);
      expect((await place.probe?.(context(), adopted))?.outcome).toBe("refused");
    }));

  it("shows who is still connected, leaves them alone when it removes, and ends them when told", () =>
    withWorld({ count: 2 }, async (world) => {
      const place = await world.open();
      const [one, two] = [await world.version(1), await world.version(2)];
      const [slot = ""] = [(await place.add?.(context(), one))?.slot];
      const session = await signedIn(slot, one);
      expect((await place.observe(context(), [one])).inUse).toEqual([slot]);
      await place.remove?.(context(), one);
      expect((await session.query("select 1 as n")).rows).toEqual([{ n: 1 }]);
      const seen = await place.observe(context(), [one]);
      expect(seen.entries).toEqual([{ mark: slot, slot, enabled: false }]);
      expect(seen.notes?.join(" ")).toContain("1 open sessions");
      // The role that is still in use is not given to the next version.
      expect((await place.add?.(context(), two))?.slot).toBe(world.names.roles[1]);
      const refused = await failure(async () => place.add?.(context(), await world.version(3)));
      expect(refused.kind).toBe("refused");
      expect(refused.message).toContain("still run under");
      await place.endSessions?.(context(), { ...one, placement: { slot } });
      await session.ended;
      expect((await place.observe(context(), [one])).inUse).toEqual([]);
      expect((await place.add?.(context(), await world.version(3)))?.slot).toBe(slot);
      // Ending sessions of a version whose role has gone to another one touches nobody.
      const third = await signedIn(slot, await world.version(3));
      await place.endSessions?.(context(), { ...one, placement: { slot } });
      expect((await third.query("select 1 as n")).rows).toEqual([{ n: 1 }]);
      await third.end();
    }));

  it("ends what is left over after the removal where it is told to", () =>
    withWorld({ count: 2, more: { leftovers: "terminate", waitForSessions: "1ms" } }, async (world) => {
      const place = await world.open();
      const one = await world.version(1);
      const session = await signedIn((await place.add?.(context(), one))?.slot ?? "", one);
      await place.remove?.(context(), one);
      await session.ended;
    }));

  it("says which permission is missing to see and to end sessions, and never takes silence for nobody", () =>
    withWorld({ count: 2 }, async (world) => {
      await superuser.query(
        `revoke pg_read_all_stats, pg_signal_backend from ${pg.escapeIdentifier(world.names.admin)}`,
      );
      const place = await world.open();
      const one = await world.version(1);
      const slot = (await place.add?.(context(), one))?.slot ?? "";
      // A role that creates another is its administrator, and may end its sessions: the right is taken away with the membership.
      const seen = await place.observe(context(), [one]);
      expect(seen.inUse).toBeUndefined();
      expect(seen.notes?.join(" ")).toContain("GRANT pg_read_all_stats");
      const session = await signedIn(slot, one);
      const refused = await failure(async () => place.endSessions?.(context(), one));
      expect(refused.permission).toBe("pg_signal_backend");
      await session.end();
    }));

  it("does not choose superusers, and asks for an owner that is there", () =>
    withWorld({ count: 2 }, async (world) => {
      const [first] = world.names.roles.map((role) => pg.escapeIdentifier(role));
      await superuser.query(`create role ${first} superuser nologin`);
      const place = await world.open();
      expect((await failure(async () => place.add?.(context(), await world.version(1)))).message).toContain(
        "superuser",
      );
      await superuser.query(`drop role ${first}`);
      await superuser.query(`drop role ${pg.escapeIdentifier(world.names.owner)}`);
      const missing = await failure(async () => place.add?.(context(), await world.version(1)));
      expect(missing.message).toContain("does not exist");
      expect(missing.next).toContain("NOLOGIN");
    }));

  it("gives two that add at once two roles, and one that adds twice one", () =>
    withWorld({ count: 2 }, async (world) => {
      const versions = [await world.version(1), await world.version(2), await world.version(1), await world.version(2)];
      const slots = await Promise.all(
        versions.map(async (version) => (await (await world.open()).add?.(context(), version))?.slot),
      );
      expect(slots[0]).toBe(slots[2]);
      expect(slots[1]).toBe(slots[3]);
      expect(new Set(slots).size).toBe(2);
    }));

  it("tells a wrong sign-in of the system from an outage, and says neither password nor host", async () => {
    const check = async (url: string): Promise<ConnectorError> =>
      failure(async () =>
        postgresSystem.check?.(context(), postgresSystem.config.parse({ url, connectTimeout: "2s" })),
      );
    const wrong = await check(server.urlFor("postgres", "wrong-password-55"));
    expect(wrong.kind).toBe("misconfigured");
    expect(JSON.stringify({ ...wrong, message: wrong.message })).not.toMatch(/wrong-password|127\.0/);
    expect((await check(server.url.replace(/postgres$/, "nowhere"))).message).toContain("3D000");
    expect((await check(`${server.url}?sslmode=require`)).message).toContain("does not offer TLS");
    expect((await check("postgres://u:p@127.0.0.1:1/x")).kind).toBe("unavailable");
  });

  it.each([
    ["not a url", "is not a URL"],
    ["mysql://u:topsecret@h/d", "must begin with postgres://"],
    ["postgres://:topsecret@h/d", "names no user"],
    ["postgres://u:topsecret@h/d?sslmode=prefer", "sslmode"],
    ["postgres://u:topsecret@h/d?options=x", "parameter that is not known"],
  ])("refuses the url %s without repeating it", (url, message) => {
    const parsed = postgresSystem.config.safeParse({ url });
    expect(parsed.success).toBe(false);
    const text = JSON.stringify(parsed.error?.issues);
    expect(text).toContain(message);
    expect(text).not.toContain("topsecret");
  });

  it.each([
    [{ roles: ["a", "b"] }, "is needed with two or more roles"],
    [{ roles: ["a", "a"], owner: "o" }, "names one role twice"],
    [{ roles: ["a", "o"], owner: "o" }, "must not include the owner"],
    [{ roles: ["x".repeat(64)] }, "63 bytes"],
    [{ roles: ["pg_x"] }, "pg_"],
  ])("refuses the settings %j", (config, message) => {
    const parsed = postgresRole.config.safeParse(config);
    expect(JSON.stringify(parsed.error?.issues)).toContain(message);
  });
});
