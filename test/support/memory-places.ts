/**
 * A world in memory for the engine: verifiers with replicas that lag, holders with consumers that refresh late, issuers, and every way in which
 * they can fail. It keeps the truth apart from what connectors are told: tests ask the world who was refused, never the engine.
 *
 * Time comes from the given clock and chance from the given generator, so that a run can be replayed from its seed.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { ConnectorError, defineIssuer, definePlace } from "../../src/connectors/connector.ts";
import type {
  CallContext,
  FailureKind,
  Issued,
  Issuer,
  Place,
  Placement,
  VersionHandle,
} from "../../src/connectors/connector.ts";
import { createRegistry } from "../../src/connectors/registry.ts";
import type { Registry } from "../../src/connectors/registry.ts";
import { Secret } from "../../src/connectors/secret.ts";
import type { Material } from "../../src/connectors/secret.ts";
import { plainTraits } from "../../src/core/place.ts";
import type { Entry, IssuerDecl, Observation, PlaceDecl, Traits } from "../../src/core/place.ts";

export type FaultKind =
  | "throttled"
  | "unavailable"
  | "conflict"
  | "refused"
  | "misconfigured"
  /** It has its effect, and no answer comes. */
  | "unknown-applied"
  /** It has no effect, and no answer comes. */
  | "unknown-not-applied"
  /** It has its effect `lateMs` after it was given up. */
  | "unknown-late"
  /** An error that no connector should throw, with the secret in its text. */
  | "bug"
  /** No answer at all; the effect happens at once. */
  | "hang";

export interface Fault {
  readonly kind: FaultKind;
  /** How many calls it hits. Default 1. */
  times?: number;
  readonly retryAfterMs?: number;
  readonly lateMs?: number;
}

type Verb =
  | "observe"
  | "add"
  | "activate"
  | "remove"
  | "probe"
  | "adopt"
  | "issue"
  | "mint"
  | "reencrypt"
  | "stopReencrypt"
  | "endSessions";

export interface MemoryPlaceOptions {
  readonly traits?: Partial<Traits>;
  /** Copies that enforce a verifier's set, or consumers that read a holder. */
  readonly copies?: number;
  /** Values that are there before Keyroll. A holder uses the last. */
  readonly values?: readonly string[];
  /** The holder cannot tell what it holds. */
  readonly blind?: boolean;
  /** The verifier says which marks are being used just now. */
  readonly seesUse?: boolean;
  /** No `probe`. */
  readonly mute?: boolean;
  /** Only values that carry Keyroll's tag are recognised. */
  readonly tagOnly?: boolean;
  /** The verifier keeps data: how many records there are under each value, and how a job moves them. */
  readonly data?: {
    readonly records: Readonly<Record<string, number>>;
    /** A job moves so many records after every so many milliseconds. */
    readonly batch: number;
    readonly everyMs: number;
    /** A running job can be stopped. */
    readonly stops?: boolean;
  };
}

interface Stored {
  readonly mark: string;
  readonly value: string;
  readonly tag: string | null;
  readonly enabled: boolean;
}

/** What one copy will enforce or use, and from when. */
interface Copy {
  set: readonly Stored[];
  current: string | null;
  readonly coming: { readonly atMs: number; readonly set: readonly Stored[]; readonly current: string | null }[];
}

export interface Refusal {
  readonly holder: string;
  readonly consumer: number;
  readonly verifier: string;
  readonly replica: number;
  readonly mark: string;
}

export interface Call {
  readonly place: string;
  readonly verb: Verb;
  readonly version: string | null;
  readonly atMs: number;
}

export function markOf(value: string): string {
  return createHash("sha256").update(value).digest("hex").slice(0, 12);
}

const empty: Traits = { ...plainTraits, changeMs: 10 };

export interface MemoryWorldOptions {
  now(): number;
  random(): number;
}

export class MemoryWorld {
  readonly now: () => number;
  readonly random: () => number;
  readonly places = new Map<string, MemoryPlace>();
  readonly calls: Call[] = [];
  readonly registry: Registry;
  readonly #faults = new Map<string, Fault[]>();
  readonly #later: { readonly atMs: number; readonly run: () => void }[] = [];
  /** Everything that was ever issued, by tag. */
  readonly issued = new Map<string, string>();
  readonly #presents = new Map<string, readonly string[]>();
  /** Issued versions say which version signed them. */
  signLeaves = false;
  /** Values that somebody has who should not: wherever one of them gets in, a grant is made under it. */
  readonly stolen = new Set<string>();
  /** Called before every verb, for tests that act in between. */
  onCall: ((call: Call) => void | Promise<void>) | null = null;

  constructor(options: MemoryWorldOptions) {
    this.now = options.now;
    this.random = options.random;
    const config = z.object({ name: z.string() });
    const open = (value: unknown): MemoryPlace => this.place((value as { name: string }).name);
    this.registry = createRegistry({
      places: [
        definePlace({
          type: "memory",
          family: "place",
          title: "A place in memory",
          config,
          roles: ["verifier", "holder", "issuer"],
          permissions: [],
          traits: (value) => open(value).traits,
          open: (value) => open(value).connector(),
        }),
      ],
      issuers: [
        defineIssuer({
          type: "memory",
          family: "issuer",
          title: "Makes values here",
          config: z.object({}),
          permissions: [],
          traits: () => ({ ...empty, roles: ["issuer"] }),
          open: () => this.#oursIssuer(),
        }),
        defineIssuer({
          type: "memory.one-time",
          family: "issuer",
          title: "The remote side makes the value and shows it once",
          config: z.object({ place: z.string().nullable() }),
          permissions: [],
          traits: () => ({ ...empty, roles: ["issuer"], minting: "theirs" }),
          open: (value) => this.#oneTimeIssuer(value.place),
        }),
      ],
      systems: [],
    });
  }

  // Declaring -----------------------------------------------------------------------------------------------------------------------------

  verifier(name: string, options: MemoryPlaceOptions = {}): PlaceDecl {
    return this.declare(name, [], { ...options, traits: { roles: ["verifier"], ...options.traits } });
  }

  holder(name: string, presentsTo: readonly string[], options: MemoryPlaceOptions = {}): PlaceDecl {
    return this.declare(name, presentsTo, { ...options, traits: { roles: ["holder"], ...options.traits } });
  }

  declare(name: string, presentsTo: readonly string[], options: MemoryPlaceOptions): PlaceDecl {
    const place = new MemoryPlace(this, name, options);
    this.places.set(name, place);
    this.#presents.set(name, presentsTo);
    return { name, type: "memory", traits: place.traits, presentsTo, config: { name } };
  }

  issuer(traits: Partial<Traits> = {}): IssuerDecl {
    return { type: "memory", traits: { ...empty, roles: ["issuer"], ...traits }, config: {} };
  }

  /** `place`: the verifier at which issuing trusts the new version at once. */
  oneTimeIssuer(place: string | null = null, traits: Partial<Traits> = {}): IssuerDecl {
    return {
      type: "memory.one-time",
      ...(place === null ? {} : { place }),
      traits: { ...empty, roles: ["issuer"], minting: "theirs", issuingTrusts: place !== null, ...traits },
      config: { place },
    };
  }

  place(name: string): MemoryPlace {
    const place = this.places.get(name);
    if (place === undefined) throw new Error(`no place named ${name} in this world`);
    return place;
  }

  // The truth -----------------------------------------------------------------------------------------------------------------------------

  /** Lets everything happen that is due by the clock. */
  settle(): void {
    const now = this.now();
    for (let i = this.#later.length - 1; i >= 0; i--) {
      const later = this.#later[i]!;
      if (later.atMs > now) continue;
      this.#later.splice(i, 1);
      later.run();
    }
    for (const place of this.places.values()) place.settle();
    this.#grant();
  }

  /** Whoever has a value, ours or stolen, signs in with it wherever a copy lets it in. The grant stands until it is ended. */
  #grant(): void {
    for (const [name, presentsTo] of this.#presents) {
      const place = this.place(name);
      if (!place.traits.session) continue;
      const used = place.copies.flatMap((copy) => place.valueOf(copy.current) ?? []);
      const doors = place.traits.roles.includes("verifier") ? [name] : presentsTo;
      for (const value of [...used, ...this.stolen])
        if (doors.some((verifier) => this.place(verifier).letsIn(value))) place.grants.add(markOf(value));
    }
  }

  /** Whether somebody who has the value gets in, or still is in. */
  usable(value: string): boolean {
    this.settle();
    return [...this.places.values()].some(
      (place) => (place.traits.roles.includes("verifier") && place.letsIn(value)) || place.grants.has(markOf(value)),
    );
  }

  /** Every consumer of the holders before this verifier writes a record under what it uses. */
  writeRecords(verifier: string): void {
    for (const [holder, presentsTo] of this.#presents) {
      if (!presentsTo.includes(verifier)) continue;
      for (const { current } of this.place(holder).copies)
        if (current !== null) this.place(verifier).addRecords(current, 1);
    }
  }

  /** Every consumer presents what it uses to every copy of every verifier: who is refused now? */
  refusals(): Refusal[] {
    this.settle();
    const found: Refusal[] = [];
    for (const [holder, presentsTo] of this.#presents) {
      this.place(holder).copies.forEach((copy, consumer) => {
        const value =
          copy.set.find((stored) => stored.mark === copy.current)?.value ?? this.place(holder).valueOf(copy.current);
        if (value === null) return;
        for (const verifier of presentsTo) {
          this.place(verifier).copies.forEach((replica, index) => {
            const ok = replica.set.some((stored) => stored.enabled && stored.value === value);
            if (!ok) found.push({ holder, consumer, verifier, replica: index, mark: markOf(value) });
          });
        }
      });
    }
    for (const [name, place] of this.places)
      for (const mark of place.records.keys())
        place.copies.forEach((replica, index) => {
          const readable = replica.set.some((stored) => stored.enabled && stored.mark === mark);
          if (!readable) found.push({ holder: "data", consumer: 0, verifier: name, replica: index, mark });
        });
    return found;
  }

  /** The earliest time after now at which something happens by itself. `null`: nothing is under way. */
  nextMoveMs(): number | null {
    const times = [
      ...this.#later.map((later) => later.atMs),
      ...[...this.places.values()].flatMap((place) =>
        place.copies.flatMap((copy) => copy.coming.map((change) => change.atMs)),
      ),
    ].filter((atMs) => atMs > this.now());
    return times.length === 0 ? null : Math.min(...times);
  }

  /** Marks that consumers of holders before this verifier use now. */
  usedAt(verifier: string): string[] {
    this.settle();
    const marks = new Set<string>();
    for (const [holder, presentsTo] of this.#presents) {
      if (!presentsTo.includes(verifier)) continue;
      for (const copy of this.place(holder).copies) if (copy.current !== null) marks.add(copy.current);
    }
    return [...marks];
  }

  // Faults --------------------------------------------------------------------------------------------------------------------------------

  fail(place: string, verb: Verb, fault: FaultKind | Fault): void {
    const key = `${place} ${verb}`;
    const list = this.#faults.get(key) ?? [];
    list.push(typeof fault === "string" ? { kind: fault } : fault);
    this.#faults.set(key, list);
  }

  at(atMs: number, run: () => void): void {
    this.#later.push({ atMs, run });
  }

  /** Runs one verb under whatever fault is due. `apply` is the effect; `answer` reads. */
  async call<T>(
    cx: CallContext,
    place: string,
    verb: Verb,
    version: VersionHandle | null,
    secret: string | null,
    apply: () => T,
  ): Promise<T> {
    await cx.throttle();
    const call: Call = { place, verb, version: version?.id ?? null, atMs: this.now() };
    this.calls.push(call);
    await this.onCall?.(call);
    this.settle();
    const list = this.#faults.get(`${place} ${verb}`);
    const fault = list?.[0];
    if (fault === undefined) return apply();
    const left = (fault.times ?? 1) - 1;
    if (left <= 0) list!.shift();
    else fault.times = left;
    const fails = (kind: FailureKind, message: string): ConnectorError =>
      new ConnectorError(
        kind,
        `${place}: ${message}${secret === null ? "" : ` (${secret})`}`,
        fault.retryAfterMs === undefined ? {} : { retryAfterMs: fault.retryAfterMs },
      );
    switch (fault.kind) {
      case "throttled":
        throw fails("throttled", "too many requests.");
      case "unavailable":
        throw fails("unavailable", "nobody listens.");
      case "conflict":
        throw fails("conflict", "somebody else changed it.");
      case "refused":
        throw fails("refused", "their answer is no.");
      case "misconfigured":
        throw new ConnectorError("misconfigured", `${place}: not allowed.`, { permission: `write on ${place}` });
      case "unknown-applied":
        apply();
        throw fails("unknown-outcome", "the request was sent and no answer came.");
      case "unknown-not-applied":
        throw fails("unknown-outcome", "the request was sent and no answer came.");
      case "unknown-late":
        this.at(this.now() + (fault.lateMs ?? 1000), () => {
          try {
            apply();
          } catch {
            // The late request is refused by the place; nobody listens for that answer any more.
          }
        });
        throw fails("unknown-outcome", "the request was sent and no answer came.");
      case "bug":
        throw new TypeError(`cannot read properties of ${secret ?? "undefined"}`);
      case "hang":
        apply();
        return await new Promise<never>(() => undefined);
    }
  }

  // Issuers -------------------------------------------------------------------------------------------------------------------------------

  #newValue(): string {
    return `value-${Math.floor(this.random() * 2 ** 48).toString(36)}-${Math.floor(this.random() * 2 ** 48).toString(36)}`;
  }

  #oursIssuer(): Issuer {
    return {
      mint: async (cx) =>
        await this.call(cx, "issuer", "mint", null, null, (): Material => ({
          kind: "secret",
          value: new Secret(this.#newValue()),
        })),
      issue: async (cx, intent) =>
        await this.call(cx, "issuer", "issue", null, null, (): Issued => {
          if (intent.minted === undefined) throw new ConnectorError("misconfigured", "Nothing was minted.");
          this.issued.set(intent.tag, intent.id);
          const signedBy = this.signLeaves ? intent.signer?.facts.fingerprint : undefined;
          return { facts: signedBy === undefined ? {} : { signedBy }, material: intent.minted };
        }),
    };
  }

  #oneTimeIssuer(place: string | null): Issuer {
    return {
      issue: async (cx, intent) => {
        const value = this.#newValue();
        return await this.call(cx, "issuer", "issue", null, value, (): Issued => {
          if (this.issued.has(intent.tag)) {
            throw new ConnectorError("refused", "This request has been answered before, and the value is shown once.");
          }
          this.issued.set(intent.tag, intent.id);
          if (place !== null) this.place(place).put({ mark: markOf(value), value, tag: intent.id, enabled: true });
          return { facts: {}, material: { kind: "secret", value: new Secret(value) } };
        });
      },
    };
  }
}

export class MemoryPlace {
  readonly world: MemoryWorld;
  readonly name: string;
  readonly traits: Traits;
  readonly options: MemoryPlaceOptions;
  configured: readonly Stored[];
  current: string | null;
  readonly copies: Copy[];
  etag = 0;
  /** Records by mark; none of them 0. */
  readonly records = new Map<string, number>();
  /** Marks under which somebody is signed in. */
  readonly grants = new Set<string>();
  /** The mark to which a job moves the records. */
  job: string | null = null;
  /** Values that were ever here, by mark: a consumer goes on using what was deleted after it had read it. */
  readonly #ever = new Map<string, string>();

  constructor(world: MemoryWorld, name: string, options: MemoryPlaceOptions) {
    this.world = world;
    this.name = name;
    this.options = options;
    this.traits = { ...empty, ...options.traits };
    this.configured = (options.values ?? []).map((value) => ({ mark: markOf(value), value, tag: null, enabled: true }));
    const holder = this.traits.roles.includes("holder");
    this.current = holder ? (this.configured.at(-1)?.mark ?? null) : null;
    for (const stored of this.configured) this.#ever.set(stored.mark, stored.value);
    for (const [value, count] of Object.entries(options.data?.records ?? {})) this.addRecords(markOf(value), count);
    this.copies = Array.from({ length: options.copies ?? 1 }, () => ({
      set: this.configured,
      current: this.current,
      coming: [],
    }));
  }

  valueOf(mark: string | null): string | null {
    return mark === null ? null : (this.#ever.get(mark) ?? null);
  }

  values(): string[] {
    return this.configured.map((stored) => stored.value);
  }

  currentValue(): string | null {
    return this.valueOf(this.current);
  }

  settle(): void {
    for (const copy of this.copies) {
      while (copy.coming[0] !== undefined && copy.coming[0].atMs <= this.world.now()) {
        const change = copy.coming.shift()!;
        copy.set = change.set;
        copy.current = change.current;
      }
    }
  }

  letsIn(value: string): boolean {
    return this.copies.some((replica) => replica.set.some((stored) => stored.enabled && stored.value === value));
  }

  addRecords(mark: string, count: number): void {
    const sum = (this.records.get(mark) ?? 0) + count;
    if (sum > 0) this.records.set(mark, sum);
    else this.records.delete(mark);
  }

  /** Starts a job in place of the one that runs. Its users write on meanwhile. */
  startJob(target: string): void {
    if (this.job === target) return;
    this.job = target;
    const { batch, everyMs } = this.options.data!;
    const step = (): void => {
      if (this.job !== target) return;
      this.world.writeRecords(this.name);
      let room = batch;
      for (const [mark, count] of this.records) {
        if (mark === target) continue;
        const moved = Math.min(room, count);
        room -= moved;
        this.addRecords(mark, -moved);
        this.addRecords(target, moved);
      }
      if ([...this.records.keys()].some((mark) => mark !== target)) this.world.at(this.world.now() + everyMs, step);
    };
    this.world.at(this.world.now() + everyMs, step);
  }

  /** Writes, by whomever: every copy takes it over in its own time, in order. */
  write(set: readonly Stored[], current: string | null): void {
    this.configured = set;
    this.current = current;
    this.etag++;
    for (const stored of set) this.#ever.set(stored.mark, stored.value);
    const lagMs = Math.max(this.traits.propagationMs, this.traits.refreshMs);
    for (const copy of this.copies) {
      const last = copy.coming.at(-1)?.atMs ?? 0;
      const atMs = Math.max(last, this.world.now() + Math.floor(this.world.random() * lagMs));
      copy.coming.push({ atMs, set, current });
    }
    this.settle();
  }

  put(stored: Stored): void {
    const rest = this.configured.filter((other) => other.mark !== stored.mark);
    this.write([...rest, stored], this.current);
  }

  drop(mark: string): void {
    if (!this.configured.some((stored) => stored.mark === mark)) return;
    this.write(
      this.configured.filter((stored) => stored.mark !== mark),
      this.current === mark ? null : this.current,
    );
  }

  /** Somebody else at work: puts a value there, and makes a holder use it. */
  meddle(value: string): void {
    this.put({ mark: markOf(value), value, tag: null, enabled: true });
    if (this.traits.roles.includes("holder")) this.write(this.configured, markOf(value));
  }

  /** A person does a task by hand. */
  byHand(action: "add" | "activate" | "remove", value: string): void {
    const mark = markOf(value);
    if (action === "remove") this.drop(mark);
    else {
      const rest =
        this.traits.storeCapacity === 1 && action === "activate"
          ? []
          : this.configured.filter((stored) => stored.mark !== mark);
      this.write([...rest, { mark, value, tag: null, enabled: true }], action === "activate" ? mark : this.current);
    }
  }

  connector(): Place {
    const { world, name } = this;
    const place: Place = {
      observe: async (cx, known) => {
        const ids = await this.#recognise(known);
        return await world.call(cx, name, "observe", null, null, () => this.#observation(ids));
      },
      add: async (cx, version) => {
        const stored = await this.#stored(version);
        return await world.call(cx, name, "add", version, stored.value, (): Placement => this.#add(cx, stored));
      },
      activate: async (cx, version) => {
        const stored = await this.#stored(version);
        return await world.call(cx, name, "activate", version, stored.value, (): Placement => {
          this.#condition(cx);
          const same = (other: Stored): boolean => other.mark === stored.mark;
          const set =
            this.traits.storeCapacity === 1
              ? [stored]
              : this.configured.some(same)
                ? this.configured
                : [...this.configured, stored];
          if (this.current !== stored.mark) this.write(set, stored.mark);
          return { slot: stored.mark };
        });
      },
      remove: async (cx, version) => {
        const mark = version.hasMaterial ? (await this.#stored(version)).mark : (version.placement?.slot ?? null);
        await world.call(cx, name, "remove", version, null, () => {
          this.#condition(cx);
          const found = this.configured.find((stored) => stored.mark === mark || stored.tag === version.id);
          if (found === undefined) return;
          this.#transition(this.configured.length, this.configured.length - 1);
          this.drop(found.mark);
        });
      },
      instructions: (action, version) => ({
        title: `${action} ${version.id} at ${name}`,
        steps: [{ text: `Go to ${name} and ${action} the version.`, copy: version.id }],
        minutes: 5,
      }),
    };
    if (this.options.mute !== true && this.traits.roles.includes("verifier")) {
      place.probe = async (cx, version) => {
        const { value } = await this.#stored(version);
        return await world.call(cx, name, "probe", version, value, () => {
          const replica = this.copies[Math.floor(world.random() * this.copies.length)]!;
          const ok = replica.set.some((stored) => stored.enabled && stored.value === value);
          return {
            outcome: ok ? ("accepted" as const) : ("refused" as const),
            detail: `${name} says ${ok ? "yes" : "no"}.`,
          };
        });
      };
    }
    if (this.options.data !== undefined) {
      place.reencrypt = async (cx, target) => {
        const { mark } = await this.#stored(target);
        await world.call(cx, name, "reencrypt", target, null, () => this.startJob(mark));
      };
      if (this.options.data.stops === true)
        place.stopReencrypt = async (cx, target) => {
          const { mark } = await this.#stored(target);
          await world.call(cx, name, "stopReencrypt", target, null, () => {
            if (this.job === mark) this.job = null;
          });
        };
    }
    if (this.traits.session)
      place.endSessions = async (cx, version) => {
        const { mark } = await this.#stored(version);
        await world.call(cx, name, "endSessions", version, null, () => void this.grants.delete(mark));
      };
    if (this.traits.readable) {
      place.adopt = async (cx) =>
        await world.call(cx, name, "adopt", null, null, () =>
          this.configured
            .filter((stored) => this.current === null || stored.mark === this.current)
            .map((stored): Issued => ({
              facts: {},
              material: { kind: "secret", value: new Secret(stored.value) },
              placement: { slot: stored.mark },
            })),
        );
    }
    return place;
  }

  async #stored(version: VersionHandle): Promise<Stored> {
    const material = await version.open();
    if (material.kind !== "secret") throw new ConnectorError("misconfigured", `${this.name} takes opaque values only.`);
    const value = material.value.reveal();
    return { mark: markOf(value), value, tag: version.id, enabled: true };
  }

  async #recognise(known: readonly VersionHandle[]): Promise<Map<string, string>> {
    const ids = new Map<string, string>();
    for (const version of known) {
      for (const stored of this.configured) if (stored.tag === version.id) ids.set(stored.mark, version.id);
      if (version.placement?.slot !== undefined) ids.set(version.placement.slot, version.id);
      if (version.hasMaterial && this.options.tagOnly !== true) ids.set((await this.#stored(version)).mark, version.id);
    }
    return ids;
  }

  #observation(ids: ReadonlyMap<string, string>): Observation {
    if (this.options.blind === true) return { entries: [], etag: String(this.etag) };
    const entries = this.configured.map((stored): Entry => {
      const version = ids.get(stored.mark);
      return {
        mark: stored.mark,
        slot: stored.mark,
        enabled: stored.enabled,
        ...(version === undefined ? {} : { version, slot: stored.mark }),
      };
    });
    return {
      entries,
      ...(this.traits.roles.includes("holder") ? { current: this.current } : {}),
      ...(this.options.data === undefined ? {} : { records: Object.fromEntries(this.records) }),
      ...(this.options.seesUse === true ? { inUse: this.world.usedAt(this.name) } : {}),
      etag: String(this.etag),
    };
  }

  /** The traits are held: what a place declares is what it refuses. */
  #condition(cx: CallContext): void {
    if (this.traits.conditional && cx.lastSeen !== undefined && cx.lastSeen.etag !== String(this.etag)) {
      throw new ConnectorError("conflict", `${this.name}: it was changed since it was read.`);
    }
  }

  #transition(from: number, to: number): void {
    const travelling = this.copies.some((copy) => copy.coming.length > 0);
    if (this.traits.transitions.includes("serial") && travelling) {
      throw new ConnectorError("refused", `${this.name}: the last change is still under way.`);
    }
    if (this.traits.transitions.includes("no-two-to-two") && from === 2 && to === 2) {
      throw new ConnectorError("refused", `${this.name}: a set of two may only become a set of one.`);
    }
  }

  #add(cx: CallContext, stored: Stored): Placement {
    this.#condition(cx);
    if (this.configured.some((other) => other.mark === stored.mark && other.enabled)) return { slot: stored.mark };
    const holder = this.traits.roles.includes("holder") && !this.traits.roles.includes("verifier");
    const capacity = holder ? this.traits.storeCapacity : this.traits.capacity;
    if (capacity === 1 && !holder) {
      this.#transition(this.configured.length, 1);
      this.write([stored], this.current);
      return { slot: stored.mark };
    }
    if (this.configured.length >= capacity) throw new ConnectorError("refused", `${this.name} is full.`);
    this.#transition(this.configured.length, this.configured.length + 1);
    this.put(stored);
    return { slot: stored.mark };
  }
}
