/**
 * Login roles that are taken in turn over one owner role. A PostgreSQL role has one password, so that two versions at once need two roles; both
 * become the owner when they sign in (`ALTER ROLE … SET role`), so that what one creates belongs to the other too.
 *
 * A role carries a version when its stored password fits it. Keyroll also leaves a line in the role's comment, `keyroll:<version> <digest of the
 * stored form>`, by which it knows its own work again without opening a secret. The digest says nothing about the password: the stored form has
 * a random salt that only the superuser reads.
 */
import { createHash, randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Entry, Observation } from "../../core/place.ts";
import {
  ConnectorError,
  type CallContext,
  type Place,
  type Placement,
  type Probe,
  type VersionHandle,
} from "../connector.ts";
import type { Secret } from "../secret.ts";
import type { PostgresSystem, RoleConfig } from "./schema.ts";
import { fitsPassword, saltBytes, scramVerifier } from "./scram.ts";
import { change, identifier, literal, trySignIn, withSession, type Needs, type Session } from "./session.ts";

interface RoleRow {
  readonly name: string;
  readonly login: boolean;
  readonly powerful: boolean;
  /** `null`: never. */
  readonly validUntilMs: number | null;
  readonly comment: string;
  readonly member: boolean;
  readonly becomesOwner: boolean;
  /** The stored password. `null`: has none. `undefined`: may not be read. */
  readonly stored: string | null | undefined;
}

interface Seen {
  readonly roles: readonly RoleRow[];
  readonly ownerExists: boolean;
  /** `pg_authid` could be read. */
  readonly readable: boolean;
}

const tagPattern = /^keyroll:(\S+) (\S+)$/m;
const digestOf = (stored: string): string => createHash("sha256").update(stored).digest("hex").slice(0, 32);

interface Tag {
  readonly version: string;
  readonly digest: string;
}
function tagOf(role: RoleRow): Tag | null {
  const found = tagPattern.exec(role.comment);
  return found ? { version: found[1]!, digest: found[2]! } : null;
}
/** Keeps what people wrote in the comment, and replaces our own line. */
function commentWith(role: RoleRow | undefined, tag: Tag): string {
  const kept = (role?.comment ?? "")
    .split("\n")
    .filter((line) => !tagPattern.test(line) && line !== "")
    .join("\n");
  return `${kept === "" ? "" : `${kept}\n`}keyroll:${tag.version} ${tag.digest}`;
}

/** What works in one process only for a moment: a sign-in that was accepted need not be repeated with every look. */
const signInKeptMs = 60_000;

export function openRole(config: RoleConfig, system: PostgresSystem): Place {
  const signIns = new Map<string, number>();
  const lock = config.owner ?? config.roles[0]!;
  const needs: Needs = {
    permission: "CREATEROLE",
    next:
      `As a superuser: ALTER ROLE ${identifier(system.user)} CREATEROLE; ` +
      (config.owner === undefined
        ? ""
        : `GRANT ${identifier(config.owner)} TO ${identifier(system.user)} WITH ADMIN OPTION; `) +
      `and, for roles that exist already, GRANT ${config.roles.map(identifier).join(", ")} TO ${identifier(system.user)} WITH ADMIN OPTION.`,
  };

  async function read(session: Session): Promise<Seen> {
    const rows = await session.query<{
      name: string;
      login: boolean;
      powerful: boolean;
      until: string | null;
      comment: string | null;
      member: boolean;
      settings: string[] | null;
    }>(
      "reading the roles",
      `select r.rolname::text as name, r.rolcanlogin as login, r.rolsuper or r.rolreplication as powerful,
              case when isfinite(r.rolvaliduntil) then (extract(epoch from r.rolvaliduntil) * 1000)::bigint::text end as until,
              shobj_description(r.oid, 'pg_authid') as comment,
              exists (select from pg_auth_members m join pg_roles o on o.oid = m.roleid where m.member = r.oid and o.rolname = $2) as member,
              (select s.setconfig from pg_db_role_setting s where s.setrole = r.oid and s.setdatabase = 0) as settings
         from pg_roles r where r.rolname = any($1)`,
      [config.roles, config.owner ?? ""],
    );
    const [may] = await session.query<{ readable: boolean; owner: boolean }>(
      "reading the roles",
      `select has_table_privilege('pg_catalog.pg_authid', 'select') as readable,
              exists (select from pg_roles where rolname = $1) as owner`,
      [config.owner ?? ""],
    );
    const readable = may?.readable === true;
    const stored = new Map<string, string | null>();
    if (readable) {
      const kept = await session.query<{ name: string; stored: string | null }>(
        "reading the stored passwords",
        "select rolname::text as name, rolpassword as stored from pg_catalog.pg_authid where rolname = any($1)",
        [config.roles],
      );
      for (const row of kept) stored.set(row.name, row.stored);
    }
    const roles = rows.map((row) => ({
      name: row.name,
      login: row.login,
      powerful: row.powerful,
      validUntilMs: row.until === null ? null : Number(row.until),
      comment: row.comment ?? "",
      member: row.member,
      becomesOwner: config.owner !== undefined && (row.settings ?? []).includes(`role=${config.owner}`),
      stored: readable ? (stored.get(row.name) ?? null) : undefined,
    }));
    // In the order of the config, so that a choice does not depend on the catalogue's order.
    roles.sort((a, b) => config.roles.indexOf(a.name) - config.roles.indexOf(b.name));
    return { roles, ownerExists: may?.owner === true, readable };
  }

  const isEnabled = (role: RoleRow, nowMs: number): boolean =>
    role.login && role.stored !== null && (role.validUntilMs === null || role.validUntilMs > nowMs);

  /** Which of the versions this role lets in. Disabled roles let nobody in. */
  async function recognise(
    cx: CallContext,
    role: RoleRow,
    versions: readonly VersionHandle[],
  ): Promise<VersionHandle | undefined> {
    if (!isEnabled(role, cx.now())) return undefined;
    const tag = tagOf(role);
    const tagged = tag === null ? undefined : versions.find((version) => version.id === tag.version);
    if (role.stored === undefined) {
      if (tagged) return tagged;
      // Another version of ours is written there.
      if (tag !== null) return undefined;
      for (const version of versions) {
        const user = version.placement?.slot ?? version.facts.attributes?.["user"] ?? role.name;
        if (user === role.name && version.hasMaterial && (await letsIn(cx, role.name, version)) === "accepted")
          return version;
      }
      return undefined;
    }
    if (role.stored === null) return undefined;
    if (tagged && tag?.digest === digestOf(role.stored)) return tagged;
    for (const version of versions) {
      if (version.hasMaterial && (await fitsPassword(role.stored, role.name, await passwordOf(version))))
        return version;
    }
    return undefined;
  }

  async function letsIn(cx: CallContext, role: string, version: VersionHandle): Promise<Probe["outcome"]> {
    const key = `${role} ${version.id}`;
    if (cx.now() - (signIns.get(key) ?? -Infinity) < signInKeptMs) return "accepted";
    const { outcome } = await trySignIn(cx, system, { user: role, password: (await passwordOf(version)).reveal() });
    if (outcome === "accepted") signIns.set(key, cx.now());
    return outcome;
  }

  /** Open sessions by role, our own probes left out. `null`: may not be seen. */
  async function sessions(session: Session): Promise<ReadonlyMap<string, number> | null> {
    const [may] = await session.query<{ all: boolean }>(
      "looking at open sessions",
      `select pg_has_role(current_user, 'pg_read_all_stats', 'usage') as all`,
    );
    if (may?.all !== true) return null;
    const rows = await session.query<{ name: string; count: string }>(
      "looking at open sessions",
      `select usename::text as name, count(*)::text as count from pg_stat_activity
        where usename = any($1) and backend_type = 'client backend' and application_name <> 'keyroll' group by usename`,
      [config.roles],
    );
    return new Map(rows.map((row) => [row.name, Number(row.count)]));
  }

  async function terminate(cx: CallContext, role: string): Promise<void> {
    const { user } = system;
    await withSession(cx, system, async (session) => {
      try {
        await session.query(
          `ending the sessions of ${role}`,
          "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1 and pid <> pg_backend_pid()",
          [role],
        );
      } catch (error) {
        if (!(error instanceof ConnectorError) || error.kind !== "misconfigured") throw error;
        throw new ConnectorError("misconfigured", `PostgreSQL did not let us end the sessions of ${role} (42501).`, {
          permission: "pg_signal_backend",
          next: `As a superuser: GRANT pg_signal_backend TO ${identifier(user)};`,
        });
      }
    });
  }

  /** Our choice of role for a version that has none yet; the same in every process that sees the same roles. */
  function chooseFree(seen: Seen, open: ReadonlyMap<string, number> | null, nowMs: number): string {
    if (config.roles.length === 1) return config.roles[0]!;
    const byName = new Map(seen.roles.map((role) => [role.name, role]));
    const busy: string[] = [];
    for (const name of config.roles) {
      const role = byName.get(name);
      if (role && isEnabled(role, nowMs)) continue;
      // Sessions of an earlier version still run there: they would look like sessions of this one.
      if ((open?.get(name) ?? 0) > 0) busy.push(name);
      else return name;
    }
    if (busy.length > 0) {
      throw new ConnectorError(
        "refused",
        `No role is free: sessions of an earlier version still run under ${busy.join(", ")}.`,
        {
          next: "Wait for them to end, or end them with pg_terminate_backend; `leftovers: terminate` does it at the end of each rotation.",
        },
      );
    }
    throw new ConnectorError(
      "refused",
      `The capacity of ${config.roles.length} is used up: ${config.roles.join(", ")} can all sign in, and each carries another version.`,
      {
        next: "Finish or roll back the rotation that is under way, set a role that nobody uses to NOLOGIN, or add a role to the list.",
      },
    );
  }

  async function give(
    session: Session,
    seen: Seen,
    name: string,
    verifier: string,
    version: VersionHandle,
  ): Promise<void> {
    const role = seen.roles.find((one) => one.name === name);
    const quoted = identifier(name);
    const password = `password ${literal(verifier)}`;
    if (!role) await session.query(`creating ${name}`, `create role ${quoted} login inherit ${password}`);
    // An expiry that an earlier version left behind would refuse this one.
    else await session.query(`changing ${name}`, `alter role ${quoted} login ${password} valid until 'infinity'`);
    await join(session, role, name);
    const tag = { version: version.id, digest: digestOf(verifier) };
    await session.query(`commenting ${name}`, `comment on role ${quoted} is ${literal(commentWith(role, tag))}`);
  }

  async function join(session: Session, role: RoleRow | undefined, name: string): Promise<void> {
    if (config.owner === undefined || config.owner === name) return;
    if (role?.member !== true)
      await session.query(
        `granting ${config.owner} to ${name}`,
        `grant ${identifier(config.owner)} to ${identifier(name)}`,
      );
    if (role?.becomesOwner !== true) {
      await session.query(
        `making ${name} become ${config.owner}`,
        `alter role ${identifier(name)} set role to ${literal(config.owner)}`,
      );
    }
  }

  function assertUsable(seen: Seen): void {
    if (config.owner !== undefined && !seen.ownerExists) {
      throw new ConnectorError("misconfigured", `The owner role ${config.owner} does not exist.`, {
        next: `Create it: CREATE ROLE ${identifier(config.owner)} NOLOGIN; and make it the owner of the objects.`,
      });
    }
    const powerful = seen.roles.find((role) => role.powerful);
    if (powerful) {
      throw new ConnectorError(
        "misconfigured",
        `${powerful.name} is a superuser or a replication role, which Keyroll does not take in turn.`,
        {
          next: "Name ordinary login roles.",
        },
      );
    }
  }

  const placementOf = (name: string): Placement => ({ slot: name, attributes: { user: name } });

  /** The configured roles in which the version may be: the one that it was put in, or all of them. */
  function candidates(version: VersionHandle): readonly string[] {
    const slot = version.placement?.slot ?? version.facts.attributes?.["user"];
    return slot !== undefined && config.roles.includes(slot) ? [slot] : config.roles;
  }

  return {
    async observe(cx, known): Promise<Observation> {
      const { seen, open } = await withSession(cx, system, async (session) => ({
        seen: await read(session),
        open: await sessions(session),
      }));
      const entries: Entry[] = [];
      const notes: string[] = [];
      for (const role of seen.roles) {
        const enabled = isEnabled(role, cx.now());
        const version = await recognise(cx, role, known);
        entries.push({
          mark: role.name,
          slot: role.name,
          enabled,
          ...(version ? { version: version.id, attributes: { user: role.name } } : {}),
          ...(role.validUntilMs === null ? {} : { notAfterMs: role.validUntilMs }),
        });
        const left = open?.get(role.name) ?? 0;
        if (!enabled && left > 0)
          notes.push(`${left} open sessions of ${role.name} go on, although it may no longer sign in.`);
        if (enabled && config.owner !== undefined && !(role.member && role.becomesOwner)) {
          notes.push(`${role.name} does not become ${config.owner} when it signs in: what it creates will be its own.`);
        }
      }
      if (!seen.readable) {
        notes.push(
          "pg_authid may not be read, so versions are told by Keyroll's comment and by signing in: a password that somebody else changed is " +
            `noticed only by the probe. Where it is possible: GRANT SELECT ON pg_catalog.pg_authid TO ${identifier(system.user)}.`,
        );
      }
      if (open === null) {
        notes.push(
          `Open sessions cannot be seen, so nobody is known to have moved. GRANT pg_read_all_stats TO ${identifier(system.user)}.`,
        );
      }
      return {
        entries,
        ...(open === null
          ? {}
          : { inUse: seen.roles.map((role) => role.name).filter((name) => (open.get(name) ?? 0) > 0) }),
        ...(notes.length === 0 ? {} : { notes }),
      };
    },

    async add(cx, version): Promise<Placement> {
      const password = await passwordOf(version);
      // Outside the transaction: the derivation takes milliseconds of processor time, and the lock is shared.
      const verifier = await scramVerifier(password, randomBytes(saltBytes), config.iterations);
      return change(cx, system, lock, needs, async (session) => {
        const seen = await read(session);
        assertUsable(seen);
        for (const role of seen.roles) {
          if ((await recognise(cx, role, [version])) === undefined) continue;
          await join(session, role, role.name);
          return placementOf(role.name);
        }
        const name = chooseFree(seen, await sessions(session), cx.now());
        await give(session, seen, name, verifier, version);
        signIns.clear();
        return placementOf(name);
      });
    },

    async remove(cx, version): Promise<void> {
      const closed = await change(cx, system, lock, needs, async (session) => {
        const seen = await read(session);
        for (const role of seen.roles) {
          const found = await recognise(cx, role, [version]);
          if (found === undefined) continue;
          if (!seen.readable && version.hasMaterial) {
            signIns.clear();
            const outcome = await letsIn(cx, role.name, version);
            // Our comment is there and our password is not: somebody else has changed it since, and it is theirs.
            if (outcome === "refused") continue;
            if (outcome === "unknown") {
              throw new ConnectorError(
                "unavailable",
                `It could not be seen whether ${role.name} still carries ${version.id}. Nothing was changed.`,
              );
            }
          }
          await session.query(`closing ${role.name}`, `alter role ${identifier(role.name)} nologin password null`);
          return role.name;
        }
        return null;
      });
      signIns.clear();
      // Also when an earlier call had closed the role and ended before this point.
      const role = closed ?? (await closedRole(cx, version));
      if (role === null || config.leftovers === "leave") return;
      if (await drained(cx, role)) return;
      await terminate(cx, role);
    },

    async endSessions(cx, version): Promise<void> {
      const role = await withSession(cx, system, async (session) => {
        const seen = await read(session);
        for (const one of seen.roles) if (await recognise(cx, one, [version])) return one.name;
        return closedIn(seen, version, cx.now());
      });
      if (role !== null) await terminate(cx, role);
    },

    async probe(cx, version): Promise<Probe> {
      if (!version.hasMaterial)
        return { outcome: "unknown", detail: `The password of ${version.id} is not known here.` };
      const password = (await passwordOf(version)).reveal();
      const refusals: string[] = [];
      for (const user of candidates(version)) {
        const answers: Awaited<ReturnType<typeof trySignIn>>[] = [];
        for (let turn = 0; turn < signInsPerProbe; turn++) {
          answers.push(await trySignIn(cx, system, { user, password }));
          // One refusal says enough, and more of them look like an attack.
          if (answers.at(-1)!.outcome !== "accepted") break;
        }
        const last = answers.at(-1)!;
        if (last.outcome === "accepted") {
          const as = last.currentUser === user ? "" : ` and works as ${last.currentUser}`;
          return { outcome: "accepted", detail: `${user} signed in ${answers.length} times in a row${as}.` };
        }
        if (last.outcome === "unknown" || answers.length > 1) {
          const before = answers.length > 1 ? ` after ${answers.length - 1} that were accepted` : "";
          return { outcome: "unknown", detail: `${user}: ${last.detail}${before}.` };
        }
        refusals.push(`${user}: ${last.detail}`);
      }
      return { outcome: "refused", detail: `${refusals.join("; ")}.` };
    },
  };

  /** The role that was closed for this version and has not been given to another one. */
  function closedIn(seen: Seen, version: VersionHandle, nowMs: number): string | null {
    for (const role of seen.roles) {
      if (!isEnabled(role, nowMs) && tagOf(role)?.version === version.id) return role.name;
    }
    // A version from before Keyroll has no comment of ours; then only its own placement names the role.
    const slot = version.placement?.slot;
    const placed = seen.roles.find((role) => role.name === slot);
    return placed && !isEnabled(placed, nowMs) && tagOf(placed) === null ? placed.name : null;
  }

  async function closedRole(cx: CallContext, version: VersionHandle): Promise<string | null> {
    if (config.leftovers === "leave") return null;
    return withSession(cx, system, async (session) => closedIn(await read(session), version, cx.now()));
  }

  /** Waits for open sessions to end by themselves. False: some are left, or they cannot be seen. */
  async function drained(cx: CallContext, role: string): Promise<boolean> {
    const until = cx.now() + config.waitForSessions;
    for (;;) {
      const open = await withSession(cx, system, sessions);
      if (open !== null && (open.get(role) ?? 0) === 0) return true;
      const left = until - cx.now();
      if (left <= 0 || cx.signal.aborted) return false;
      await sleep(Math.min(500, left), undefined, { signal: cx.signal }).catch(() => undefined);
    }
  }
}

/** One sign-in may meet a server that is just going away; three in a row are an answer. */
const signInsPerProbe = 3;

async function passwordOf(version: VersionHandle): Promise<Secret> {
  const material = await version.open();
  if (material.kind !== "secret") {
    throw new ConnectorError("misconfigured", `${version.id} is a key, and a PostgreSQL role has a password.`, {
      next: "Give the credential the kind password.",
    });
  }
  const bytes = material.value.bytes();
  if (bytes.length === 0 || bytes.includes(0)) {
    throw new ConnectorError(
      "misconfigured",
      `${version.id} is empty or holds a NUL byte, which PostgreSQL does not take as a password.`,
    );
  }
  return material.value;
}
