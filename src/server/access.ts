/**
 * Who may do what, as a table that can be enumerated: every operation stands in it, and what does not stand in it does not exist. Roles are
 * held per owner of credentials; `*` stands for all owners and for the installation itself. Default is no.
 */
import type { GrantRow, PersonRow, TokenRow } from "../store/people.ts";
import type { OperationName } from "./operations.ts";
import { permissions, type Permission, type Role } from "./schema.ts";

/** Approving and operating are apart, so that two people can be made to be needed. Nobody, whatever their role, approves their own start. */
export const permissionsOf: Readonly<Record<Role, readonly Permission[]>> = {
  viewer: ["read"],
  operator: ["read", "plan", "operate"],
  approver: ["read", "plan", "approve"],
  admin: ["read", "plan", "operate", "approve", "administer"],
};

/** What an operation is about; it decides whose permission is asked. */
export type About =
  /** `params.name`, or `credential` of the body. */
  | "credential"
  /** `params.id`, through its credential. */
  | "rotation"
  | "task"
  /** Asked for every item: what may not be read is left out, and not counted. */
  | "listed"
  | "installation";

export type Access =
  | { readonly who: "anybody" }
  /** `session`: only from a browser's session, so that a token cannot make another one. */
  | { readonly who: "signed-in"; readonly session: boolean }
  | { readonly who: "permitted"; readonly permission: Permission; readonly about: About; readonly session: boolean };

const anybody: Access = { who: "anybody" };
const may = (permission: Permission, about: About): Access => ({ who: "permitted", permission, about, session: false });
const administer: Access = { who: "permitted", permission: "administer", about: "installation", session: true };

export const access: Readonly<Record<OperationName, Access>> = {
  getSession: anybody,
  signIn: anybody,
  signOut: anybody,

  getOverview: may("read", "listed"),
  listCredentials: may("read", "listed"),
  getCredential: may("read", "credential"),
  explainCredential: may("plan", "credential"),
  getGraph: may("read", "credential"),
  observeCredential: may("plan", "credential"),
  planRotation: may("plan", "credential"),

  listRotations: may("read", "listed"),
  startRotation: may("operate", "credential"),
  getRotation: may("read", "rotation"),
  approveRotation: may("approve", "rotation"),
  rejectRotation: may("approve", "rotation"),
  pauseRotation: may("operate", "rotation"),
  resumeRotation: may("operate", "rotation"),
  rollBackRotation: may("operate", "rotation"),
  cancelRotation: may("operate", "rotation"),

  listTasks: may("read", "listed"),
  getTask: may("read", "task"),
  taskDone: may("operate", "task"),
  taskHandOver: may("operate", "task"),
  taskRefuse: may("operate", "task"),

  listAudit: may("read", "listed"),
  verifyAudit: may("read", "installation"),
  exportAudit: may("read", "installation"),

  listFound: may("read", "installation"),

  getSettings: may("read", "installation"),
  runDoctor: may("administer", "installation"),

  listPeople: may("administer", "installation"),
  addPerson: administer,
  changePerson: administer,
  makeSignInLink: administer,
  listTokens: { who: "signed-in", session: false },
  createToken: { who: "signed-in", session: true },
  revokeToken: { who: "signed-in", session: true },

  streamEvents: may("read", "listed"),
};

/** Somebody who is signed in. */
export interface Principal {
  readonly person: PersonRow;
  /** `null`: a browser's session. */
  readonly token: TokenRow | null;
  readonly expiresAtMs: number;
}

function granted(grants: readonly GrantRow[], permission: Permission, owner: string): boolean {
  return grants.some(
    (grant) => (grant.owner === "*" || grant.owner === owner) && permissionsOf[grant.role].includes(permission),
  );
}

/** `owner`: `*` for the installation. A token can do what it was given and its person still may. */
export function allows(who: Principal, permission: Permission, owner: string): boolean {
  return (
    granted(who.person.grants, permission, owner) &&
    (who.token === null || granted(who.token.grants, permission, owner))
  );
}

/** Owners by permission, for the dashboard: what to offer. The server asks again at every call. */
export function ownersByPermission(who: Principal): Record<Permission, string[]> {
  const owners = [...new Set([...who.person.grants, ...(who.token?.grants ?? [])].map((grant) => grant.owner))];
  const of = (permission: Permission): string[] => {
    if (allows(who, permission, "*")) return ["*"];
    return owners.filter((owner) => owner !== "*" && allows(who, permission, owner)).toSorted();
  };
  return Object.fromEntries(permissions.map((permission) => [permission, of(permission)])) as Record<
    Permission,
    string[]
  >;
}

/** Every grant gives no more than somebody has: for tokens, and for admins of one owner. */
export function within(grants: readonly GrantRow[], who: Principal): boolean {
  return grants.every((grant) =>
    permissionsOf[grant.role].every((permission) => granted(who.person.grants, permission, grant.owner)),
  );
}
