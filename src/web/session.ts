import { useRead } from "./api.ts";
import type { Permission, Session } from "../server/schema.ts";

export const useSession = () => useRead("getSession", {}, { everyMs: 60_000 });

/** What to offer; the server asks again at every call. */
export function may(session: Session | undefined, permission: Permission, owner: string): boolean {
  const owners = session?.permissions[permission] ?? [];
  return owners.includes("*") || owners.includes(owner);
}
