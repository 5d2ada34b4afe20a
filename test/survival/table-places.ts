/**
 * Places that are rows of a database, so that several worker processes share one world and every effect leaves a line that says which process did it
 * and who held the rotation at that very moment: both are read in the statement that makes the change.
 */
import { createHash, randomBytes } from "node:crypto";
import pg from "pg";
import { z } from "zod";
import { defineIssuer, definePlace, type Place, type VersionHandle } from "../../src/connectors/connector.ts";
import { createRegistry, type Registry } from "../../src/connectors/registry.ts";
import { Secret } from "../../src/connectors/secret.ts";
import { plainTraits, type Observation, type Traits } from "../../src/core/place.ts";

export const tableSchema = `
  create schema survival;
  create table survival.stored (place text, mark text, value text, primary key (place, mark));
  create table survival.effects (
    seq bigserial primary key, at timestamptz not null default clock_timestamp(), pid int not null,
    verb text not null, place text not null, version text not null, rotation text, owner text, fence bigint, live boolean
  );
`;

/** One statement: who holds the rotation is read in the snapshot in which the change is made. */
const note = `
  insert into survival.effects (pid, verb, place, version, rotation, owner, fence, live)
  select $1, $2, $3, $4, r.id, r.lease_owner, r.lease_fence, r.lease_until > clock_timestamp()
  from (select 1) one left join keyroll.rotations r
    on r.credential = split_part($4, '#', 1) and r.status in ('running', 'waiting', 'paused', 'halted')`;

const settings = z.object({ name: z.string(), role: z.enum(["verifier", "holder"]) });
type Settings = z.infer<typeof settings>;

const traits = (role: Settings["role"]): Traits => ({
  ...plainTraits,
  roles: [role],
  staging: false,
  storeCapacity: role === "holder" ? 1 : 16,
  changeMs: 20,
});

const markOf = (value: string): string => createHash("sha256").update(value).digest("hex").slice(0, 16);
async function valueOf(version: VersionHandle): Promise<string> {
  const material = await version.open();
  if (material.kind !== "secret") throw new Error("a table holds plain secrets only");
  return material.value.reveal();
}

export interface TableRegistry {
  readonly registry: Registry;
  close(): Promise<void>;
}

export function tableRegistry(url: string): TableRegistry {
  const pool = new pg.Pool({ connectionString: url, max: 4 });
  // A database that is being restarted ends idle connections; the next query says what there is to say.
  pool.on("error", () => undefined);

  const open = ({ name, role }: Settings): Place => ({
    async observe(cx, known) {
      await cx.throttle();
      const { rows } = await pool.query<{ mark: string }>("select mark from survival.stored where place = $1", [name]);
      const names = new Map<string, string>();
      for (const version of known) if (version.hasMaterial) names.set(markOf(await valueOf(version)), version.id);
      const entries = rows.map(({ mark }) => {
        const version = names.get(mark);
        return { mark, enabled: true, ...(version === undefined ? {} : { version }) };
      });
      const seen: Observation = { entries };
      return role === "holder" ? { ...seen, current: rows[0]?.mark ?? null } : seen;
    },
    async add(cx, version) {
      await cx.throttle();
      const value = await valueOf(version);
      await pool.query(
        `with done as (${note}) insert into survival.stored (place, mark, value) values ($3, $5, $6) on conflict do nothing`,
        [process.pid, "add", name, version.id, markOf(value), value],
      );
    },
    async activate(cx, version) {
      await cx.throttle();
      const value = await valueOf(version);
      await pool.query(
        `with done as (${note}), gone as (delete from survival.stored where place = $3 and mark <> $5)
         insert into survival.stored (place, mark, value) values ($3, $5, $6) on conflict do nothing`,
        [process.pid, "activate", name, version.id, markOf(value), value],
      );
    },
    async remove(cx, version) {
      await cx.throttle();
      const value = await valueOf(version);
      await pool.query(`with done as (${note}) delete from survival.stored where place = $3 and mark = $5`, [
        process.pid,
        "remove",
        name,
        version.id,
        markOf(value),
      ]);
    },
    async adopt() {
      const { rows } = await pool.query<{ value: string }>("select value from survival.stored where place = $1", [
        name,
      ]);
      return rows.map(({ value }) => ({ facts: {}, material: { kind: "secret" as const, value: new Secret(value) } }));
    },
  });

  const registry = createRegistry({
    places: [
      definePlace<Settings>({
        type: "table",
        family: "place",
        title: "Rows of a table",
        config: settings,
        roles: ["verifier", "holder"],
        permissions: [],
        traits: ({ role }) => traits(role),
        open,
      }),
    ],
    issuers: [
      defineIssuer({
        type: "table.random",
        family: "issuer",
        title: "Makes values here",
        config: z.object({}),
        permissions: [],
        traits: () => ({ ...plainTraits, roles: ["issuer"], changeMs: 1 }),
        open: () => ({
          mint: async () => ({ kind: "secret", value: new Secret(randomBytes(18).toString("base64url")) }),
          issue: async (_, { minted }) => ({ facts: {}, material: minted! }),
        }),
      }),
    ],
    systems: [],
  });
  return { registry, close: () => pool.end() };
}

/** An estate of `count` credentials, each with a verifier and a holder, and the rows that stand for what they were before Keyroll. */
export function tableEstate(
  count: number,
  soak = "0s",
): {
  readonly yaml: string;
  readonly rows: string;
  readonly names: readonly string[];
} {
  const names = Array.from({ length: count }, (_, n) => `app-${n}`);
  const credentials = names.map(
    (name) => `  ${name}:
    kind: password
    issuer: { type: table.random }
    places:
      db: { type: table, verifier: true, name: ${name}/db, role: verifier }
      env: { type: table, holder: true, presentsTo: [db], name: ${name}/env, role: holder }
`,
  );
  const values = names.flatMap((name) => {
    const value = `old-password-of-${name}`;
    return [`${name}/db`, `${name}/env`].map((place) => `('${place}', '${markOf(value)}', '${value}')`);
  });
  return {
    yaml: `version: 1\ndefaults:\n  owner: tests\n  policy: { soak: ${soak} }\ncredentials:\n${credentials.join("")}`,
    rows: `insert into survival.stored values ${values.join(", ")}`,
    names,
  };
}
