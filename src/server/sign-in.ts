/**
 * How people get in: one-time codes, sessions, API tokens. Everything secret here is 256 random bits, is shown once, and is kept as its SHA-256
 * only. There is no password, so there is none to guess, to reuse or to default.
 */
import { createHash, randomBytes } from "node:crypto";
import type { Journal } from "../engine/journal.ts";
import type { GrantRow, PersonRow, TokenRow } from "../store/people.ts";
import type { Json, Store, Tx } from "../store/store.ts";
import type { Principal } from "./access.ts";
import { Fault } from "./fault.ts";

const hourMs = 3_600_000;
export const lifetimes = {
  /** A code for oneself is used at once; one for somebody else has to reach them. */
  firstCodeMs: hourMs,
  invitationMs: 24 * hourMs,
  sessionMs: 7 * 24 * hourMs,
  sessionIdleMs: 12 * hourMs,
} as const;

const tokenPrefix = "keyroll_";
const secretPattern = /^[A-Za-z0-9_-]{43}$/;
const hashOf = (secret: string): Buffer => createHash("sha256").update(secret).digest();
const fresh = (): string => randomBytes(32).toString("base64url");

export interface SignIn {
  /**
   * A code for whoever runs the server, who could read its data folder anyway: good for one sign-in, from this machine unless `anywhere`. Makes
   * them an admin while no admin has signed in yet.
   */
  firstCode(
    person: string,
    options?: { readonly anywhere: boolean },
  ): Promise<{ readonly code: string; readonly expiresAtMs: number }>;
  invitation(person: string, by: Principal): Promise<{ readonly code: string; readonly expiresAtMs: number }>;
  /** `undefined`: the code is not known, used up or over; which of them is not told. */
  redeem(
    code: string,
    fromLoopback: boolean,
    before: string | null,
  ): Promise<{ readonly cookie: string; readonly principal: Principal } | undefined>;
  bySession(cookie: string): Promise<Principal | undefined>;
  byToken(token: string): Promise<Principal | undefined>;
  signOut(cookie: string): Promise<void>;
  createToken(
    request: { readonly label: string; readonly grants: readonly GrantRow[]; readonly days: number },
    by: Principal,
  ): Promise<{ readonly token: TokenRow; readonly secret: string }>;
  revokeToken(token: TokenRow, by: Principal): Promise<void>;
  addPerson(
    person: { readonly person: string; readonly name: string; readonly grants: readonly GrantRow[] },
    by: Principal,
  ): Promise<PersonRow>;
  changePerson(
    person: string,
    patch: { readonly name?: string; readonly grants?: readonly GrantRow[]; readonly disabled?: boolean },
    by: Principal,
  ): Promise<PersonRow>;
}

export function openSignIn(store: Store, journal: Journal): SignIn {
  const tell = async (tx: Tx, actor: string, payload: Json): Promise<void> => {
    await journal.append(tx, [{ actor: `person:${actor}`, kind: "person", payload }]);
  };
  const grantsOf = (grants: readonly GrantRow[]): Json => grants.map(({ role, owner }) => ({ role, owner }));
  const gone = (person: string): Fault => new Fault(404, "not-found", `There is nobody called "${person}".`);

  return {
    async firstCode(person, options) {
      const code = fresh();
      const expiresAtMs = await store.transaction(async (tx) => {
        const first = !(await tx.people.hasAdmin({ signedIn: true }));
        const grants: readonly GrantRow[] = first ? [{ role: "admin", owner: "*" }] : [];
        const added = await tx.people.add({ person, name: person, grants });
        if (!added && first) await tx.people.update(person, { grants, disabled: false });
        const expires = await tx.people.addCode({
          hash: hashOf(code),
          person,
          loopbackOnly: options?.anywhere !== true,
          lifeMs: lifetimes.firstCodeMs,
        });
        await tell(tx, person, { person, text: "a sign-in link was printed on the server's terminal", first });
        return expires;
      });
      return { code, expiresAtMs };
    },
    async invitation(person, by) {
      const code = fresh();
      const expiresAtMs = await store.transaction(async (tx) => {
        const found = await tx.people.get(person);
        if (found === undefined) throw gone(person);
        if (found.disabled) throw new Fault(409, "refused", `${person} is locked out.`, { next: "Let them in first." });
        const expires = await tx.people.addCode({
          hash: hashOf(code),
          person,
          loopbackOnly: false,
          lifeMs: lifetimes.invitationMs,
        });
        await tell(tx, by.person.person, { person, text: "made a sign-in link" });
        return expires;
      });
      return { code, expiresAtMs };
    },
    async redeem(code, fromLoopback, before) {
      if (!secretPattern.test(code)) return undefined;
      const cookie = fresh();
      const principal = await store.transaction(async (tx): Promise<Principal | undefined> => {
        const person = await tx.people.takeCode(hashOf(code), fromLoopback);
        if (person === undefined) return undefined;
        // A session that was there before is never carried over (fixation).
        if (before !== null) await tx.people.endSession(hashOf(before));
        const expiresAtMs = await tx.people.addSession({
          hash: hashOf(cookie),
          person: person.person,
          lifeMs: lifetimes.sessionMs,
        });
        await tell(tx, person.person, { person: person.person, text: "signed in" });
        return { person, token: null, expiresAtMs };
      });
      return principal === undefined ? undefined : { cookie, principal };
    },
    async bySession(cookie) {
      if (!secretPattern.test(cookie)) return undefined;
      const found = await store.people.useSession(hashOf(cookie), lifetimes.sessionIdleMs);
      return found === undefined ? undefined : { person: found.person, token: null, expiresAtMs: found.expiresAtMs };
    },
    async byToken(token) {
      if (!token.startsWith(tokenPrefix) || !secretPattern.test(token.slice(tokenPrefix.length))) return undefined;
      const found = await store.people.useToken(hashOf(token));
      return found === undefined ? undefined : { ...found, expiresAtMs: found.token.expiresAtMs };
    },
    async signOut(cookie) {
      if (secretPattern.test(cookie)) await store.people.endSession(hashOf(cookie));
    },
    async createToken({ label, grants, days }, by) {
      const secret = `${tokenPrefix}${fresh()}`;
      const token = await store.transaction(async (tx) => {
        const row = await tx.people.addToken({
          id: `token-${randomBytes(6).toString("hex")}`,
          hash: hashOf(secret),
          person: by.person.person,
          label,
          grants,
          lifeMs: days * 24 * hourMs,
        });
        await tell(tx, by.person.person, {
          token: row.id,
          text: `made the API token ${label}`,
          grants: grantsOf(grants),
        });
        return row;
      });
      return { token, secret };
    },
    async revokeToken(token, by) {
      await store.transaction(async (tx) => {
        await tx.people.revokeToken(token.id);
        await tell(tx, by.person.person, { token: token.id, text: `ended the API token ${token.label}` });
      });
    },
    async addPerson(person, by) {
      return await store.transaction(async (tx) => {
        if (!(await tx.people.add(person)))
          throw new Fault(409, "conflict", `There is somebody called "${person.person}" already.`);
        await tell(tx, by.person.person, { person: person.person, text: "added", grants: grantsOf(person.grants) });
        return (await tx.people.get(person.person))!;
      });
    },
    async changePerson(person, patch, by) {
      if (person === by.person.person && (patch.disabled === true || patch.grants !== undefined)) {
        throw new Fault(409, "refused", "Nobody changes what they themselves may do.", {
          next: "Another admin can; so nobody locks out the last one by mistake.",
        });
      }
      return await store.transaction(async (tx) => {
        const row = await tx.people.update(person, patch);
        if (row === undefined) throw gone(person);
        await tell(tx, by.person.person, {
          person,
          text: patch.disabled === true ? "locked out" : "changed",
          ...(patch.grants === undefined ? {} : { grants: grantsOf(patch.grants) }),
        });
        return row;
      });
    },
  };
}

/** The code is behind `#`: browsers never send it, so it stands in no log. */
export const signInLinkOf = (publicUrl: string, code: string): string => `${publicUrl}/sign-in#${code}`;

/** Tries per address and in all, in a window: what is tried too often waits. */
export class RateLimit {
  readonly #most: number;
  readonly #mostInAll: number;
  readonly #windowMs: number;
  readonly #now: () => number;
  readonly #tries = new Map<string, number>();
  #all = 0;
  #startedMs = Number.NEGATIVE_INFINITY;
  constructor(options: { most: number; mostInAll: number; windowMs: number; now: () => number }) {
    this.#most = options.most;
    this.#mostInAll = options.mostInAll;
    this.#windowMs = options.windowMs;
    this.#now = options.now;
  }
  /** Counts a try. Returns 0, or after how many seconds it may be repeated. */
  take(key: string): number {
    const now = this.#now();
    if (now - this.#startedMs >= this.#windowMs) {
      this.#startedMs = now;
      this.#tries.clear();
      this.#all = 0;
    }
    const tries = (this.#tries.get(key) ?? 0) + 1;
    this.#all++;
    if (tries > this.#most || this.#all > this.#mostInAll)
      return Math.max(1, Math.ceil((this.#startedMs + this.#windowMs - now) / 1000));
    this.#tries.set(key, tries);
    return 0;
  }
  /** It was no mistake: many people may sign in from behind one address. */
  giveBack(key: string): void {
    const tries = this.#tries.get(key) ?? 0;
    if (tries > 0) this.#tries.set(key, tries - 1);
    if (this.#all > 0) this.#all--;
  }
}
