/** `token create`, `list` and `revoke`: API tokens of the person who calls, made where the store is. */
import { Problem } from "../../core/problem.ts";
import type { Principal } from "../../server/access.ts";
import type { PersonRow, TokenRow } from "../../store/people.ts";
import type { Cli, Context } from "../command.ts";
import { iso } from "../documents.ts";
import { countOption } from "../session.ts";
import { listed } from "../text.ts";
import { ago, dateTime } from "../when.ts";

const roles = ["viewer", "operator", "approver", "admin"] as const;

export function registerToken(cli: Cli): void {
  const token = cli.command("token", "API tokens of yours for the server: create, list, revoke");
  cli.does<{ role: string; owner: string; days: string }>(
    cli
      .command("create <label>", "make one; it is printed once and kept as its hash", token)
      .requiredOption("--role <role>", listed(roles, 9))
      .option("--owner <owner>", "owner of credentials; *: all, and the installation", "*")
      .option("--days <n>", "how long it lasts", "90"),
    create,
  );
  cli.does(cli.command("list", "what there is, and when it was used last", token), list);
  cli.does(cli.command("revoke <token>", "end one", token), revoke);
}

async function me({ app }: Context): Promise<{ who: Principal; person: PersonRow }> {
  const { store } = await app.openStoreOnly();
  const person = await store.people.get(app.person);
  if (person === undefined || person.disabled)
    throw new Problem(
      "not-allowed",
      `The server does not know ${app.person}${person === undefined ? "" : " any more"}.`,
      {
        next: "Sign in once: keyroll sign-in",
      },
    );
  return { who: { person, token: null, expiresAtMs: 0 }, person };
}

function documentOf(row: TokenRow) {
  return {
    id: row.id,
    person: row.person,
    label: row.label,
    grants: row.grants.map(({ role, owner }) => ({ role, owner })),
    created: iso(row.createdAtMs),
    expires: iso(row.expiresAtMs),
    lastUsed: iso(row.usedAtMs),
    revoked: iso(row.revokedAtMs),
  };
}

async function create(cx: Context, options: { role: string; owner: string; days: string }, label = ""): Promise<void> {
  const { session, app } = cx;
  const role = roles.find((each) => each === options.role);
  if (role === undefined)
    throw new Problem("usage", `--role ${options.role} is not known.`, { next: `Write ${listed(roles, 9)}.` });
  const days = countOption("--days", options.days, 366);
  const { who } = await me(cx);
  const { within } = await import("../../server/access.ts");
  const { openSignIn } = await import("../../server/sign-in.ts");
  const grants = [{ role, owner: options.owner }];
  if (!within(grants, who))
    throw new Problem("not-allowed", `${app.person} is not ${role} for ${options.owner}, so no token can be.`);
  const { store, journal } = await app.openStoreOnly();
  const { token, secret } = await openSignIn(store, journal).createToken({ label, grants, days }, who);
  await session.document({ ...documentOf(token), secret }, () => secret);
  session.say(
    `Token ${token.id}, ${role} for ${options.owner}, until ${dateTime(token.expiresAtMs)}. It is not shown again.`,
  );
}

async function list(cx: Context): Promise<void> {
  const { session, app } = cx;
  const { person } = await me(cx);
  const { store } = await app.openStoreOnly();
  const rows = await store.people.tokens(person.person);
  const nowMs = app.now();
  await session.list(
    { items: rows.map(documentOf) },
    rows,
    [
      { title: "TOKEN", value: (row) => ({ text: row.id, paint: session.out.bold }) },
      { title: "LABEL", flex: true, value: (row) => row.label },
      {
        title: "MAY",
        flex: true,
        value: (row) => row.grants.map((grant) => `${grant.role} ${grant.owner}`).join(", "),
      },
      {
        title: "STATE",
        value: (row) => (row.revokedAtMs !== null ? "revoked" : row.expiresAtMs <= nowMs ? "over" : "good"),
      },
      { title: "UNTIL", value: (row) => dateTime(row.expiresAtMs) },
      { title: "USED", value: (row) => (row.usedAtMs === null ? "never" : ago(row.usedAtMs, nowMs)) },
    ],
    { empty: "There are no tokens." },
  );
}

async function revoke(cx: Context, _: unknown, id = ""): Promise<void> {
  const { session, app } = cx;
  const { who, person } = await me(cx);
  const { store, journal } = await app.openStoreOnly();
  const token = await store.people.getToken(id);
  if (token === undefined || token.person !== person.person)
    throw new Problem("not-found", `You have no token "${id}".`, { next: "List them with: keyroll token list" });
  const { openSignIn } = await import("../../server/sign-in.ts");
  if (token.revokedAtMs === null) await openSignIn(store, journal).revokeToken(token, who);
  await session.document(documentOf((await store.people.getToken(id))!), () => `Token ${id} is over.`);
}
