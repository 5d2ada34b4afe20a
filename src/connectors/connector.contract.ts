/**
 * The contract suite, published as `keyroll/testing`: what {@link Place} and {@link Issuer} promise in their doc comments, as tests that every
 * connector runs against its emulator or its real server. A false trait defeats the proof, so declared traits are held against behaviour.
 *
 * It needs no particular runner: give it `describe` and `it` of vitest, node:test or any other of that shape.
 *
 *     placeContract({ runner: { describe, it }, name: "postgres.role", connector: postgresRole, config: example, makeWorld });
 *
 * Every check starts with a fresh world. What a connector or its system cannot do is declared in `cannot`, with the reason; it then shows up
 * as a skipped test that carries the reason. A check whose world lacks a hook and that no reason excuses fails.
 */
import assert from "node:assert/strict";
import { createHash, createHmac, createPublicKey } from "node:crypto";
import { inspect } from "node:util";
import type { Entry, Observation, Traits, VersionFacts } from "../core/place.ts";
import { ConnectorError } from "./connector.ts";
import type {
  CallContext,
  FailureKind,
  Issued,
  IssueIntent,
  Issuer,
  IssuerConnector,
  Log,
  Place,
  PlaceConnector,
  Placement,
  VersionHandle,
} from "./connector.ts";
import { Secret } from "./secret.ts";
import type { Material } from "./secret.ts";

/** What the suite needs of a test runner: the common part of vitest and node:test. */
export interface Runner {
  describe(name: string, body: () => void): unknown;
  it(name: string, body: (context: TestContext) => Promise<void>): unknown;
}
/** Both runners hand this to a test; vitest's `skip` throws, node:test's returns. */
export interface TestContext {
  skip(reason?: string): unknown;
}

/** What is really there, found out without the connector. Must work while a fault is injected. */
export interface TrueState {
  /** Ids of the given versions that are there: trusted by a verifier, stored by a holder. */
  readonly present: readonly string[];
  /** Holder: id of the given version that is in use; `null` when none of them is. Leave out for verifiers. */
  readonly current?: string | null;
  /** Everything else that is there, one text per entry with its content, so that any change to it shows. */
  readonly foreign: readonly string[];
}

export type Effect = "add" | "activate" | "remove";
export type FaultName =
  /** The system answers that there were too many requests. */
  | "throttled"
  /** The request goes out, has no effect, and no answer comes. */
  | "lost-request"
  /** The request has its effect, and no answer comes. */
  | "lost-answer"
  /** Nobody listens. */
  | "down"
  /** The sign-in lacks a permission. */
  | "denied"
  /** The answer is not what the protocol allows. */
  | "garbage";

export interface Fault {
  clear(): Promise<void> | void;
  /** For `denied`: the word that the error must name, such as `CREATEROLE`. */
  readonly permission?: string;
}

/** Somebody else at work in the same system, behind the connector's back. */
export interface Meddling {
  /** Puts an entry of their own there. */
  add?(): Promise<void>;
  /** Changes the value of the entry that holds this version, in place, so that it is no longer this version. */
  change?(version: VersionHandle): Promise<void>;
  /** Takes this version away. */
  remove?(version: VersionHandle): Promise<void>;
  /** Runs the action once, after the connector's last read and before its next write takes effect. */
  beforeWrite?(action: () => Promise<void>): Promise<void> | void;
}

/** One fresh system with one place in it. Nothing of the versions is there at the start. */
export interface PlaceWorld {
  /** Opens the place anew, as another process would: nothing is remembered from an earlier one. The suite closes what it opens. */
  open(): Promise<Place> | Place;
  /** The version with this number, from 1. The same number gives the same version for as long as the world lives. */
  version(n: number): Promise<VersionHandle> | VersionHandle;
  inspect(versions: readonly VersionHandle[]): Promise<TrueState>;
  /** Seen as a consumer (sign in, connect, read): does this version work? */
  consumer?(version: VersionHandle): Promise<boolean>;
  readonly meddle?: Meddling;
  readonly faults?: Partial<Record<FaultName, (verb: Effect | "observe") => Promise<Fault> | Fault>>;
  /** More strings that must not show up anywhere: sign-in passwords of the system and the like. */
  readonly canaries?: readonly string[];
  /** Other traits than those of the example config never apply; given where the world's own config differs. */
  readonly traits?: Traits;
  close?(): Promise<void> | void;
}

export interface PlaceContract {
  readonly runner: Runner;
  readonly name: string;
  readonly connector: PlaceConnector;
  /** A config as a user writes it (before the schema), whose traits are those of every world. */
  readonly config: unknown;
  makeWorld(): Promise<PlaceWorld> | PlaceWorld;
  /** Deviations: the check's name and, in a sentence, why this connector or system cannot. */
  readonly cannot?: Partial<Record<PlaceCheck, string>>;
  /** How long one call may take before it counts as hanging. */
  readonly patienceMs?: number;
}

/** Registers the tests of one kind of place. */
export function placeContract(contract: PlaceContract): void {
  const { runner, connector } = contract;
  const config = connector.config.parse(contract.config);
  const traits = connector.traits(config);
  runner.describe(`contract of ${contract.name}`, () => {
    for (const [name, check] of placeChecks) {
      const excuse = contract.cannot?.[name];
      if (excuse !== undefined) {
        runner.it(`${name} (cannot: ${excuse})`, async (context) => void context.skip(excuse));
        continue;
      }
      runner.it(name, async (context) => {
        const benches: PlaceBench[] = [];
        const fresh = async (): Promise<PlaceBench> => {
          const world = await contract.makeWorld();
          const bench = new PlaceBench(world, world.traits ?? traits, contract.patienceMs ?? 20_000);
          benches.push(bench);
          return bench;
        };
        let skip: NotApplicable | undefined;
        try {
          await check(fresh, connector);
          for (const bench of benches) await bench.assertNothingLeaked();
        } catch (error) {
          if (!(error instanceof NotApplicable)) throw error;
          skip = error;
        } finally {
          for (const bench of benches) await bench.close();
        }
        if (skip !== undefined) context.skip(skip.message);
      });
    }
  });
}

/** Thrown by a check that has no meaning for these traits or verbs. Not a deviation: nothing is promised there. */
class NotApplicable extends Error {}
function onlyIf(condition: boolean, otherwise: string): void {
  if (!condition) throw new NotApplicable(otherwise);
}
function hook<T>(value: T | undefined, what: string): T {
  assert.ok(
    value !== undefined,
    `This world cannot ${what}: give it the hook, or declare in \`cannot\` why there is none.`,
  );
  return value;
}

interface Recorded {
  readonly what: string;
  readonly value: unknown;
}

/** What both families share: contexts that record, calls that may not hang, and the search for leaked secrets. */
class Bench {
  readonly recorded: Recorded[] = [];
  readonly patienceMs: number;
  constructor(patienceMs: number) {
    this.patienceMs = patienceMs;
  }
  context(more: { signal?: AbortSignal; lastSeen?: Observation } = {}): CallContext {
    const line =
      (level: string): Log["info"] =>
      (message, fields) =>
        void this.recorded.push({ what: `${level} line`, value: { message, fields } });
    return {
      now: () => Date.now(),
      signal: more.signal ?? new AbortController().signal,
      throttle: async () => {},
      log: { debug: line("debug"), info: line("info"), warn: line("warn") },
      ...(more.lastSeen === undefined ? {} : { lastSeen: more.lastSeen }),
    };
  }
  /** Runs one call, records what it gave or threw, and fails when it never ends. */
  async call<T>(what: string, run: () => Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const tooLong = new Promise<never>((_, reject) => {
      const fail = (): void => reject(new assert.AssertionError({ message: `${what} did not end by itself` }));
      timer = setTimeout(fail, this.patienceMs);
    });
    try {
      const value = await Promise.race([run(), tooLong]);
      this.recorded.push({ what: `result of ${what}`, value });
      return value;
    } catch (error) {
      this.recorded.push({ what: `error of ${what}`, value: error });
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
  /** The failure of a call that must fail, which is always one of the closed family. */
  async failure(what: string, run: () => Promise<unknown>): Promise<ConnectorError | "succeeded"> {
    try {
      await this.call(what, run);
      return "succeeded";
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      assert.ok(error instanceof ConnectorError, `${what} threw ${inspect(error)}, which is no ConnectorError`);
      return error;
    }
  }
  searchFor(canaries: readonly string[]): void {
    for (const { what, value } of this.recorded) {
      const text = textOf(value);
      for (const canary of canaries) {
        assert.ok(
          !text.includes(canary),
          `A secret shows up in the ${what}: ${text.replaceAll(canary, "<THE SECRET>")}`,
        );
      }
    }
  }
}

/** Everything that a logger, a JSON column or a terminal could print of a value. */
function textOf(value: unknown): string {
  const inspected = inspect(value, { depth: 20, showHidden: true, maxArrayLength: null, maxStringLength: null });
  if (!(value instanceof Error)) return `${inspected}\n${JSON.stringify(value)}`;
  const own = Object.fromEntries(Object.getOwnPropertyNames(value).map((key) => [key, Reflect.get(value, key)]));
  return `${inspected}\n${JSON.stringify(own)}\n${value.message}\n${value.stack ?? ""}`;
}

/** What of a secret must never be printed: itself, its common encodings, and unsalted digests, which give a weak password away. */
function canariesOf(material: Material): string[] {
  if (material.kind === "key") {
    // Any line of the PEM's body is recognisable; the armour is not secret.
    const lines = material.privateKey.reveal().split(/\r?\n/);
    return lines.filter((line) => line.length >= 32 && !line.includes("-----"));
  }
  const bytes = material.value.bytes();
  const text = material.value.reveal();
  const digests = ["md5", "sha1", "sha256", "sha512"].map((name) => createHash(name).update(bytes).digest());
  return [
    text,
    JSON.stringify(text).slice(1, -1),
    encodeURIComponent(text),
    bytes.toString("base64"),
    bytes.toString("base64url"),
    bytes.toString("hex"),
    ...digests.flatMap((digest) => [digest.toString("hex"), digest.toString("base64")]),
  ];
}

class PlaceBench extends Bench {
  readonly world: PlaceWorld;
  readonly traits: Traits;
  readonly #handles = new Map<number, VersionHandle>();
  readonly #opened: Place[] = [];
  #place: Place | undefined;
  constructor(world: PlaceWorld, traits: Traits, patienceMs: number) {
    super(patienceMs);
    this.world = world;
    this.traits = traits;
  }
  get holds(): boolean {
    return this.traits.roles.includes("holder");
  }
  get verifies(): boolean {
    return this.traits.roles.includes("verifier");
  }
  async place(): Promise<Place> {
    this.#place ??= await this.another();
    return this.#place;
  }
  async another(): Promise<Place> {
    const place = await this.world.open();
    this.#opened.push(place);
    return place;
  }
  async version(n: number): Promise<VersionHandle> {
    const kept = this.#handles.get(n);
    if (kept !== undefined) return kept;
    const made = await this.world.version(n);
    this.#handles.set(n, made);
    return made;
  }
  /** As the engine does: what a place decided is kept with the version and handed back to it. */
  #keep(n: number, version: VersionHandle, placement: Placement | undefined): void {
    if (placement === undefined) return;
    const attributes = { ...version.facts.attributes, ...placement.attributes };
    this.#handles.set(n, { ...plain(version), facts: { ...version.facts, attributes }, placement });
  }
  get known(): readonly VersionHandle[] {
    return [...this.#handles.values()];
  }
  async observe(more: { known?: readonly VersionHandle[]; place?: Place } = {}): Promise<Observation> {
    const place = more.place ?? (await this.place());
    return this.call("observe", () => place.observe(this.context(), more.known ?? this.known));
  }
  async effect(
    verb: Effect,
    n: number,
    more: { signal?: AbortSignal; lastSeen?: Observation; place?: Place; forgetPlacement?: boolean } = {},
  ): Promise<Placement | undefined> {
    const place = more.place ?? (await this.place());
    const run = place[verb]?.bind(place);
    assert.ok(run !== undefined, `The place has no verb ${verb}.`);
    const version = await this.version(n);
    const given = more.forgetPlacement === true ? await this.world.version(n) : version;
    const placement = (await this.call(verb, async () => run(this.context(more), given))) ?? undefined;
    this.#keep(n, version, placement);
    return placement;
  }
  has(place: Place, verb: keyof Place): boolean {
    return place[verb] !== undefined;
  }
  async verbs(): Promise<readonly Effect[]> {
    const place = await this.place();
    return (["add", "activate", "remove"] as const).filter((verb) => this.has(place, verb));
  }
  /** Puts the version in force by the shortest way: trusted by a verifier, in use at a holder. */
  async put(n: number): Promise<void> {
    const place = await this.place();
    if (this.verifies || !this.has(place, "activate")) {
      await this.effect("add", n);
      if (!this.holds || !this.has(place, "activate")) return;
    }
    await this.effect("activate", n);
  }
  /** Brings everything to where this verb on version 1 is the next thing to do. */
  async prepare(verb: Effect): Promise<void> {
    const place = await this.place();
    if (verb === "activate" && this.traits.staging && this.has(place, "add")) await this.effect("add", 1);
    if (verb === "remove") {
      await this.put(1);
      // A holder's version in use is never taken away: another one is in use first.
      if (this.holds) await this.put(2);
    }
  }
  async state(): Promise<TrueState> {
    const state = await this.world.inspect(this.known);
    return { ...state, present: [...state.present].sort(), foreign: [...state.foreign].sort() };
  }
  async isPresent(n: number): Promise<boolean> {
    return (await this.state()).present.includes((await this.version(n)).id);
  }
  /** Whether what this verb promises for version 1 is true. */
  async achieved(verb: Effect): Promise<boolean> {
    const state = await this.state();
    const id = (await this.version(1)).id;
    if (verb === "add") return state.present.includes(id);
    if (verb === "remove") return !state.present.includes(id);
    return state.current === undefined ? state.present.includes(id) : state.current === id;
  }
  async inject(name: FaultName, verb: Effect | "observe"): Promise<Fault> {
    return hook(this.world.faults?.[name], `inject the fault "${name}"`)(verb);
  }
  async assertNothingLeaked(): Promise<void> {
    const canaries = [...(this.world.canaries ?? [])];
    for (const version of this.known) if (version.hasMaterial) canaries.push(...canariesOf(await version.open()));
    // What `adopt` gives is secret by its nature and wrapped in Secret, which prints as nothing.
    this.searchFor(canaries);
  }
  async close(): Promise<void> {
    for (const place of this.#opened) await place.close?.();
    await this.world.close?.();
  }
}

function plain(version: VersionHandle): VersionHandle {
  return {
    id: version.id,
    facts: version.facts,
    hasMaterial: version.hasMaterial,
    ...(version.placement === undefined ? {} : { placement: version.placement }),
    open: () => version.open(),
  };
}

function entryOf(seen: Observation, version: VersionHandle): Entry | undefined {
  return seen.entries.find((entry) => entry.version === version.id);
}
/** The version that the observation says is in use; `undefined` where it does not say. */
function inUse(seen: Observation): string | null | undefined {
  if (seen.current === undefined || seen.current === null) return seen.current;
  const entry = seen.entries.find((one) => one.mark === seen.current);
  assert.ok(entry !== undefined, `"current" names the mark ${seen.current}, which is no entry`);
  return entry.version ?? null;
}

/** Whether an observation says exactly what is true about the known versions. */
async function assertTruthful(bench: PlaceBench, seen: Observation, what: string): Promise<void> {
  const state = await bench.state();
  const claimed = [
    ...new Set(seen.entries.flatMap((entry) => (entry.version === undefined ? [] : [entry.version]))),
  ].sort();
  assert.deepEqual(claimed, state.present, `${what}: the versions that were seen are not those that are there`);
  const current = inUse(seen);
  if (current !== undefined && state.current !== undefined) {
    assert.equal(current, state.current, `${what}: the version seen in use is not the one that is`);
  }
}

type Check = (fresh: () => Promise<PlaceBench>, connector: PlaceConnector) => Promise<void>;

/** How many versions are put into one place when a capacity is tried. */
const capacityTried = 6;

const faultKinds: Record<FaultName, readonly FailureKind[]> = {
  throttled: ["throttled"],
  // Where nothing was sent, `unavailable` is the better answer; where it may have been, only the other is honest.
  "lost-request": ["unknown-outcome", "unavailable"],
  "lost-answer": ["unknown-outcome"],
  down: ["unavailable"],
  denied: ["misconfigured"],
  garbage: ["unknown-outcome", "unavailable", "misconfigured"],
};

/** A verb under a fault: fails in the right way, harms nothing, tells the truth afterwards, and succeeds when it is repeated. */
function faultCheck(name: FaultName): Check {
  return async (fresh) => {
    const verbs = await (await fresh()).verbs();
    onlyIf(verbs.length > 0, "the place has no verb with an effect");
    let bitten = 0;
    for (const verb of verbs) {
      const bench = await fresh();
      await bench.world.meddle?.add?.();
      await bench.prepare(verb);
      await bench.version(1);
      const before = await bench.state();
      const fault = await bench.inject(name, verb);
      let failure: ConnectorError | "succeeded";
      let during: TrueState;
      try {
        failure = await bench.failure(`${verb} under ${name}`, () => bench.effect(verb, 1));
        during = await bench.state();
      } finally {
        await fault.clear();
      }
      if (failure === "succeeded") {
        assert.ok(await bench.achieved(verb), `${verb} under ${name} said it succeeded, and did not`);
      } else {
        bitten++;
        assert.ok(
          faultKinds[name].includes(failure.kind),
          `${verb} under ${name} must fail as ${faultKinds[name].join(" or ")}, and failed as ${failure.kind}: ${failure.message}`,
        );
        assert.ok(failure.message.length > 0, "an error says what happened");
        if (name === "denied") {
          const named = `${failure.permission ?? ""} ${failure.message} ${failure.next ?? ""}`;
          assert.ok(failure.permission !== undefined, `${verb}: the error must carry the missing permission`);
          if (fault.permission !== undefined) {
            assert.ok(named.includes(fault.permission), `${verb}: "${named}" does not name ${fault.permission}`);
          }
        }
        if (name === "throttled" || name === "denied" || name === "down") {
          assert.deepEqual(during, before, `${verb} under ${name} must change nothing`);
        }
      }
      assert.deepEqual(during.foreign, before.foreign, `${verb} under ${name} touched what is not ours`);
      const again = await bench.another();
      await assertTruthful(bench, await bench.observe({ place: again }), `after ${verb} under ${name}`);
      await bench.effect(verb, 1, { place: again, forgetPlacement: true });
      assert.ok(await bench.achieved(verb), `${verb} repeated after ${name} did not succeed`);
      assert.deepEqual(
        (await bench.state()).foreign,
        before.foreign,
        `${verb} repeated after ${name} touched what is not ours`,
      );
    }
    assert.ok(
      bitten > 0,
      `The fault "${name}" never showed: the world's hook does nothing, or the connector hides it.`,
    );
  };
}

const placeChecks = [
  [
    "the verbs fit the traits",
    async (fresh, connector) => {
      const bench = await fresh();
      const place = await bench.place();
      const { traits } = bench;
      assert.ok(connector.permissions.length > 0, "a connector names the permissions that it needs");
      for (const role of traits.roles) {
        assert.ok(
          connector.roles.includes(role),
          `the traits have the role ${role}, which the connector does not offer`,
        );
      }
      if (traits.human) {
        assert.ok(bench.has(place, "instructions"), "a place that only a person can change has instructions");
        return;
      }
      // Where the CA is what is trusted, its certificates come and go with the CA's own rotation.
      if (bench.verifies && traits.admits === "version")
        assert.ok(bench.has(place, "add") && bench.has(place, "remove"), "a verifier adds and removes");
      if (bench.holds) assert.ok(bench.has(place, "activate"), "a holder activates");
      if (bench.holds && traits.staging) assert.ok(bench.has(place, "add"), "a holder that stages adds");
      if (bench.holds && traits.storeCapacity > 1) assert.ok(bench.has(place, "remove"), "a holder of several removes");
      assert.equal(bench.has(place, "adopt"), traits.readable, "a place adopts exactly when it is readable");
      if (traits.drain === "job") assert.ok(bench.has(place, "reencrypt"), "data at rest is re-encrypted");
      if (traits.session) assert.ok(bench.has(place, "endSessions"), "sessions that outlive a version can be ended");
    },
  ],
  [
    "observe of nothing is an empty answer",
    async (fresh) => {
      const bench = await fresh();
      await bench.version(1);
      const seen = await bench.observe();
      assert.deepEqual(
        seen.entries.filter((entry) => entry.version !== undefined),
        [],
      );
      assert.ok(inUse(seen) === undefined || inUse(seen) === null, "nothing of ours is in use");
    },
  ],
  [
    "observe changes nothing and says the same twice",
    async (fresh) => {
      const bench = await fresh();
      await bench.world.meddle?.add?.();
      if ((await bench.verbs()).length > 0) await bench.put(1);
      const before = await bench.state();
      const one = await bench.observe();
      const two = await bench.observe({ place: await bench.another() });
      assert.deepEqual(await bench.state(), before, "observe is read-only");
      const marks = (seen: Observation): string[] => seen.entries.map((entry) => entry.mark).sort();
      assert.deepEqual(marks(two), marks(one), "marks are stable names");
      assert.equal(two.current, one.current);
      assert.equal(new Set(marks(one)).size, one.entries.length, "each entry has a mark of its own");
    },
  ],
  [
    "observe recognises the versions that are there, and no others",
    async (fresh) => {
      const bench = await fresh();
      onlyIf((await bench.verbs()).length > 0, "nothing can be put there");
      await bench.version(3);
      await bench.put(1);
      await assertTruthful(bench, await bench.observe(), "after the first");
      await bench.put(2);
      await assertTruthful(bench, await bench.observe(), "after the second");
    },
  ],
  [
    "observe without known versions shows entries and names no version",
    async (fresh) => {
      const bench = await fresh();
      onlyIf((await bench.verbs()).length > 0, "nothing can be put there");
      await bench.put(1);
      const seen = await bench.observe({ known: [] });
      assert.ok(seen.entries.length > 0, "what is there is shown, whoever put it there");
      assert.deepEqual(
        seen.entries.filter((entry) => entry.version !== undefined),
        [],
      );
    },
  ],
  [
    "observe never claims a version by its number when its secret is not at hand",
    async (fresh) => {
      const bench = await fresh();
      onlyIf((await bench.verbs()).length > 0, "nothing can be put there");
      await bench.put(1);
      const absent = await bench.version(2);
      const closed: VersionHandle = {
        ...plain(absent),
        hasMaterial: false,
        open: async () => {
          throw new ConnectorError("misconfigured", "This version has no secret part here.");
        },
      };
      const seen = await bench.observe({ known: [await bench.version(1), closed] });
      assert.equal(entryOf(seen, absent), undefined, "a version that is not there is not claimed");
      assert.ok(entryOf(seen, await bench.version(1)) !== undefined, "the other one is still recognised");
    },
  ],
  [
    "observe tells which version is in use",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.holds && (await bench.verbs()).includes("activate"), "not a holder that can be changed");
      await bench.put(1);
      assert.equal(inUse(await bench.observe()), (await bench.version(1)).id);
      await bench.put(2);
      assert.equal(inUse(await bench.observe()), (await bench.version(2)).id);
    },
  ],
  [
    "an outage is never read as gone",
    async (fresh) => {
      const names: readonly FaultName[] = ["down", "denied", "garbage", "lost-request", "lost-answer", "throttled"];
      let tried = 0;
      for (const name of names) {
        const bench = await fresh();
        if ((await bench.verbs()).length > 0) await bench.put(1);
        if (bench.world.faults?.[name] === undefined) continue;
        tried++;
        const fault = await bench.inject(name, "observe");
        try {
          let seen: Observation | undefined;
          const failure = await bench.failure(`observe under ${name}`, async () => {
            seen = await bench.observe();
          });
          if (failure === "succeeded") {
            assert.ok(seen !== undefined);
            await assertTruthful(bench, seen, `observe under ${name}`);
          } else {
            assert.ok(
              ["unavailable", "throttled", "misconfigured"].includes(failure.kind),
              `observe has no effect, so under ${name} it cannot fail as ${failure.kind}: ${failure.message}`,
            );
          }
        } finally {
          await fault.clear();
        }
      }
      assert.ok(
        tried > 0,
        "This world injects no fault at all: give it one, or declare in `cannot` why there is none.",
      );
    },
  ],
  [
    "adding what is already there is success with the same placement",
    async (fresh) => {
      const bench = await fresh();
      onlyIf((await bench.verbs()).includes("add"), "the place has no add");
      const first = await bench.effect("add", 1);
      const before = await bench.state();
      const second = await bench.effect("add", 1);
      assert.deepEqual(second ?? null, first ?? null);
      // After a crash nobody knows what the first call returned.
      const third = await bench.effect("add", 1, { place: await bench.another(), forgetPlacement: true });
      assert.deepEqual(third ?? null, first ?? null, "another process gets the same placement");
      assert.deepEqual(await bench.state(), before);
      assert.ok(before.present.includes((await bench.version(1)).id), "it is really there");
    },
  ],
  [
    "activating what is already in use is success",
    async (fresh) => {
      const bench = await fresh();
      onlyIf((await bench.verbs()).includes("activate"), "the place has no activate");
      await bench.put(1);
      const before = await bench.state();
      await bench.effect("activate", 1);
      await bench.effect("activate", 1, { place: await bench.another(), forgetPlacement: true });
      assert.deepEqual(await bench.state(), before);
      assert.ok(await bench.achieved("activate"), "it is really in use");
    },
  ],
  [
    "removing what is already gone, or never was there, is success",
    async (fresh) => {
      const bench = await fresh();
      onlyIf((await bench.verbs()).includes("remove"), "the place has no remove");
      await bench.world.meddle?.add?.();
      await bench.effect("remove", 1);
      await bench.prepare("remove");
      await bench.effect("remove", 1);
      const before = await bench.state();
      await bench.effect("remove", 1);
      await bench.effect("remove", 1, { place: await bench.another(), forgetPlacement: true });
      await bench.effect("remove", 3);
      assert.deepEqual(await bench.state(), before);
      assert.ok(await bench.achieved("remove"), "it is really gone");
    },
  ],
  [
    "other versions and other people's entries are left alone",
    async (fresh) => {
      const bench = await fresh();
      const verbs = await bench.verbs();
      onlyIf(verbs.length > 0, "the place has no verb with an effect");
      const meddle = hook(bench.world.meddle?.add, "let somebody else add an entry");
      await meddle.call(bench.world.meddle);
      const { foreign } = await bench.state();
      assert.ok(foreign.length > 0, "the world shows the foreign entry");
      await bench.put(1);
      assert.deepEqual((await bench.state()).foreign, foreign, "putting the first one there");
      await bench.put(2);
      assert.deepEqual((await bench.state()).foreign, foreign, "putting the second one there");
      const room = bench.verifies ? bench.traits.capacity : bench.traits.storeCapacity;
      if (room > 1) assert.ok(await bench.isPresent(1), "the second does not push the first out");
      if (!verbs.includes("remove")) return;
      await bench.effect("remove", 1);
      const after = await bench.state();
      assert.deepEqual(after.foreign, foreign, "removing the first one");
      assert.deepEqual(after.present, [(await bench.version(2)).id]);
      if (after.current !== undefined) assert.equal(after.current, (await bench.version(2)).id);
    },
  ],
  [
    "a change by somebody else since the last observation is not undone",
    async (fresh) => {
      const verbs = await (await fresh()).verbs();
      onlyIf(verbs.length > 0, "the place has no verb with an effect");
      for (const verb of verbs) {
        const bench = await fresh();
        const meddle = hook(bench.world.meddle?.add, "let somebody else add an entry");
        await bench.prepare(verb);
        await bench.version(1);
        const lastSeen = await bench.observe();
        await meddle.call(bench.world.meddle);
        const { foreign } = await bench.state();
        const failure = await bench.failure(verb, () => bench.effect(verb, 1, { lastSeen }));
        if (failure !== "succeeded") assert.equal(failure.kind, "conflict", `${verb}: ${failure.message}`);
        assert.deepEqual((await bench.state()).foreign, foreign, `${verb} undid somebody else's change`);
        await bench.effect(verb, 1, { lastSeen: await bench.observe() });
        assert.ok(await bench.achieved(verb), `${verb} after observing again did not succeed`);
        assert.deepEqual((await bench.state()).foreign, foreign, `${verb} undid somebody else's change`);
      }
    },
  ],
  [
    "a change by somebody else between our read and our write is not undone",
    async (fresh) => {
      const verbs = await (await fresh()).verbs();
      onlyIf(verbs.length > 0, "the place has no verb with an effect");
      let acted = 0;
      for (const verb of verbs) {
        const bench = await fresh();
        const { meddle } = bench.world;
        onlyIf(
          bench.traits.writes === "entries" || bench.traits.conditional || meddle?.beforeWrite !== undefined,
          "declared: a write replaces the whole set and cannot be made conditional, so the engine observes again",
        );
        const add = hook(meddle?.add, "let somebody else add an entry");
        const beforeWrite = hook(meddle?.beforeWrite, "let somebody else act between read and write");
        await bench.prepare(verb);
        await bench.version(1);
        // What was there right after the meddling must be there at the end. A verb that had nothing to write gave nobody an opening.
        let foreign: readonly string[] | undefined;
        await beforeWrite.call(meddle, async () => {
          await add.call(meddle);
          foreign = (await bench.state()).foreign;
        });
        const failure = await bench.failure(verb, () => bench.effect(verb, 1));
        if (failure !== "succeeded") assert.equal(failure.kind, "conflict", `${verb}: ${failure.message}`);
        if (foreign === undefined) continue;
        acted++;
        assert.deepEqual((await bench.state()).foreign, foreign, `${verb} undid somebody else's change`);
        await bench.effect(verb, 1);
        assert.ok(await bench.achieved(verb), `${verb} repeated did not succeed`);
        assert.deepEqual((await bench.state()).foreign, foreign, `${verb} undid somebody else's change`);
      }
      assert.ok(acted > 0, "The hook `beforeWrite` never ran its action.");
    },
  ],
  [
    "a version that somebody else removed is seen as gone and can be put back",
    async (fresh) => {
      const bench = await fresh();
      const verbs = await bench.verbs();
      onlyIf(verbs.length > 0, "the place has no verb with an effect");
      const take = hook(bench.world.meddle?.remove, "let somebody else remove a version");
      await bench.put(1);
      await take.call(bench.world.meddle, await bench.version(1));
      await assertTruthful(bench, await bench.observe(), "after somebody else removed it");
      if (verbs.includes("remove")) await bench.effect("remove", 1);
      await bench.put(1);
      assert.ok(await bench.isPresent(1), "it is back");
      await assertTruthful(bench, await bench.observe(), "after it was put back");
    },
  ],
  [
    "a value that somebody else changed is no longer taken for ours",
    async (fresh) => {
      const bench = await fresh();
      const verbs = await bench.verbs();
      onlyIf(verbs.length > 0, "the place has no verb with an effect");
      const change = hook(bench.world.meddle?.change, "let somebody else change a value");
      await bench.put(1);
      await change.call(bench.world.meddle, await bench.version(1));
      const changed = await bench.state();
      assert.ok(!changed.present.includes((await bench.version(1)).id), "the world shows the change");
      await assertTruthful(bench, await bench.observe(), "after somebody else changed it");
    },
  ],
  ["throttling is reported as throttled and changes nothing", faultCheck("throttled")],
  ["a request without an answer has an unknown outcome", faultCheck("lost-request")],
  ["an effect whose answer is lost has an unknown outcome", faultCheck("lost-answer")],
  ["a system that is down is unavailable, and nothing is changed", faultCheck("down")],
  ["a missing permission is named", faultCheck("denied")],
  ["a garbled answer is never taken for success or refusal", faultCheck("garbage")],
  [
    "a cancelled call does not start",
    async (fresh) => {
      const verbs = await (await fresh()).verbs();
      for (const verb of ["observe", ...verbs] as const) {
        const bench = await fresh();
        if (verb !== "observe") await bench.prepare(verb);
        await bench.version(1);
        const before = await bench.state();
        const place = await bench.place();
        const signal = AbortSignal.abort();
        let rejected = false;
        try {
          if (verb === "observe") await bench.call(verb, () => place.observe(bench.context({ signal }), bench.known));
          else await bench.effect(verb, 1, { signal });
        } catch (error) {
          if (error instanceof assert.AssertionError) throw error;
          rejected = true;
        }
        assert.ok(rejected, `${verb} went on although its signal was aborted`);
        assert.deepEqual(await bench.state(), before, `${verb} had an effect although its signal was aborted`);
      }
    },
  ],
  [
    "a call that is cancelled half-way ends and does not hide that it may have had its effect",
    async (fresh) => {
      const verbs = await (await fresh()).verbs();
      onlyIf(verbs.length > 0, "the place has no verb with an effect");
      for (const verb of verbs) {
        const bench = await fresh();
        await bench.prepare(verb);
        await bench.version(1);
        const name = bench.world.faults?.["lost-answer"] === undefined ? "lost-request" : "lost-answer";
        const fault = await bench.inject(name, verb);
        const controller = new AbortController();
        const timer = setTimeout(() => controller.abort(), 150);
        try {
          const failure = await bench.failure(`${verb}, cancelled half-way`, () =>
            bench.effect(verb, 1, { signal: controller.signal }),
          );
          const achieved = await bench.achieved(verb);
          if (failure === "succeeded") assert.ok(achieved, `${verb} said it succeeded, and did not`);
          else if (achieved) {
            assert.equal(failure.kind, "unknown-outcome", `${verb} had its effect and said: ${failure.message}`);
          }
        } finally {
          clearTimeout(timer);
          await fault.clear();
        }
      }
    },
  ],
  [
    "trait capacity: a verifier holds that many at once, and one more pushes nothing out",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.verifies && (await bench.verbs()).includes("add"), "not a verifier that can be changed");
      const { capacity } = bench.traits;
      const tried = Math.min(capacity, capacityTried);
      for (let n = 1; n <= tried; n++) await bench.effect("add", n);
      assert.equal((await bench.state()).present.length, tried);
      if (capacity > tried || capacity === 1) return;
      const before = await bench.state();
      const failure = await bench.failure("add beyond the capacity", () => bench.effect("add", tried + 1));
      const after = await bench.state();
      if (failure === "succeeded") {
        assert.fail(`The capacity is said to be ${capacity}, and ${after.present.length} of ${tried + 1} are there.`);
      }
      assert.deepEqual(after.present, before.present, "the refused one changed something");
    },
  ],
  [
    "trait capacity 1: the new version replaces the old one",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.verifies && bench.traits.capacity === 1, "the capacity is not 1");
      await bench.effect("add", 1);
      await bench.effect("add", 2);
      assert.deepEqual((await bench.state()).present, [(await bench.version(2)).id]);
    },
  ],
  [
    "trait staging: adding at a holder does not change what is in use",
    async (fresh) => {
      const bench = await fresh();
      const verbs = await bench.verbs();
      onlyIf(bench.holds && bench.traits.staging && verbs.includes("add"), "not a holder that stages");
      await bench.put(1);
      await bench.effect("add", 2);
      const state = await bench.state();
      assert.equal(state.current, (await bench.version(1)).id);
      assert.ok(state.present.includes((await bench.version(2)).id), "the second one is stored");
      await assertTruthful(bench, await bench.observe(), "with the second one staged");
      await bench.effect("activate", 2);
      assert.equal((await bench.state()).current, (await bench.version(2)).id);
    },
  ],
  [
    "trait storeCapacity: a holder of one overwrites, a holder of more keeps",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.holds && (await bench.verbs()).includes("activate"), "not a holder that can be changed");
      const tried = Math.min(bench.traits.storeCapacity, capacityTried);
      for (let n = 1; n <= tried; n++) await bench.put(n);
      assert.equal((await bench.state()).present.length, tried, "as many as the trait says are stored");
      if (bench.traits.storeCapacity !== 1) return;
      await bench.put(2);
      assert.deepEqual((await bench.state()).present, [(await bench.version(2)).id]);
    },
  ],
  [
    "trait conditional: what was seen has a version that changes with every change",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.traits.conditional, "writes are not conditional");
      const meddle = hook(bench.world.meddle?.add, "let somebody else add an entry");
      const before = await bench.observe();
      assert.ok(before.etag !== undefined, "observe gives an etag");
      assert.equal((await bench.observe()).etag, before.etag, "the etag is stable while nothing changes");
      await meddle.call(bench.world.meddle);
      assert.notEqual((await bench.observe()).etag, before.etag, "the etag changes");
    },
  ],
  [
    "trait readable: what is there can be adopted, and is the same version",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.traits.readable && (await bench.verbs()).length > 0, "the value cannot be read back");
      await bench.put(1);
      const place = await bench.another();
      const adopted = await bench.call("adopt", async () => (await place.adopt?.(bench.context())) ?? []);
      const again = await bench.call("adopt", async () => (await place.adopt?.(bench.context())) ?? []);
      const version = await bench.version(1);
      const material = await version.open();
      const same = adopted.filter((one) => sameMaterial(one.material, material));
      assert.equal(same.length, 1, "the version is adopted, once, with its secret part");
      const fingerprint = same[0]?.facts.fingerprint;
      if (fingerprint !== undefined) assert.equal(fingerprint, version.facts.fingerprint);
      assert.deepEqual(
        again.map((one) => one.facts),
        adopted.map((one) => one.facts),
        "adopting again gives the same",
      );
    },
  ],
  [
    "trait restorable: what was removed can be put back from the sealed copy",
    async (fresh) => {
      const bench = await fresh();
      const verbs = await bench.verbs();
      onlyIf(bench.traits.restorable && verbs.includes("remove"), "not restorable, or nothing can be removed");
      await bench.prepare("remove");
      await bench.effect("remove", 1);
      assert.ok(!(await bench.isPresent(1)), "it is gone");
      await bench.put(1);
      assert.ok(await bench.isPresent(1), "it is back");
      await assertTruthful(bench, await bench.observe(), "after it was put back");
    },
  ],
  [
    "a consumer gets in with what is there and not with what is gone",
    async (fresh) => {
      const bench = await fresh();
      const verbs = await bench.verbs();
      onlyIf(verbs.length > 0, "nothing can be put there");
      const consumer = hook(bench.world.consumer?.bind(bench.world), "ask a consumer");
      assert.equal(await consumer(await bench.version(1)), false, "before it is there");
      await bench.put(1);
      assert.equal(await consumer(await bench.version(1)), true, "once it is there");
      if (!verbs.includes("remove")) return;
      if (bench.holds) await bench.put(2);
      await bench.effect("remove", 1);
      assert.equal(await consumer(await bench.version(1)), false, "after it was removed");
    },
  ],
  [
    "probe accepts what works and nothing else",
    async (fresh) => {
      const bench = await fresh();
      const place = await bench.place();
      onlyIf(bench.has(place, "probe"), "the place has no probe");
      onlyIf((await bench.verbs()).length > 0, "nothing can be put there");
      await bench.put(1);
      const [one, two] = [await bench.version(1), await bench.version(2)];
      const yes = await bench.call("probe", async () => place.probe?.(bench.context(), one));
      assert.equal(yes?.outcome, "accepted", yes?.detail);
      const no = await bench.call("probe", async () => place.probe?.(bench.context(), two));
      assert.notEqual(no?.outcome, "accepted", no?.detail);
      if (bench.world.faults?.down === undefined) return;
      const fault = await bench.inject("down", "observe");
      try {
        const failure = await bench.failure("probe while down", async () => {
          const probe = await place.probe?.(bench.context(), one);
          assert.equal(probe?.outcome, "unknown", "an outage is never a refusal");
        });
        if (failure !== "succeeded") assert.equal(failure.kind, "unavailable");
      } finally {
        await fault.clear();
      }
    },
  ],
  [
    "ending sessions when there are none is success",
    async (fresh) => {
      const bench = await fresh();
      const place = await bench.place();
      onlyIf(bench.has(place, "endSessions"), "the place has no endSessions");
      if ((await bench.verbs()).length > 0) await bench.put(1);
      const before = await bench.state();
      const version = await bench.version(1);
      await bench.call("endSessions", async () => place.endSessions?.(bench.context(), version));
      assert.deepEqual(await bench.state(), before);
    },
  ],
  [
    "stopping a re-encryption that does not run is success",
    async (fresh) => {
      const bench = await fresh();
      const place = await bench.place();
      onlyIf(bench.has(place, "stopReencrypt"), "the place has no stopReencrypt");
      assert.ok(bench.has(place, "reencrypt"), "what can be stopped can be started");
      if ((await bench.verbs()).length > 0) await bench.put(1);
      const before = await bench.state();
      const version = await bench.version(1);
      for (let times = 0; times < 2; times++) {
        await bench.call("stopReencrypt", async () => place.stopReencrypt?.(bench.context(), version));
        assert.deepEqual(await bench.state(), before);
      }
    },
  ],
  [
    "instructions are numbered steps with exact public values",
    async (fresh) => {
      const bench = await fresh();
      const place = await bench.place();
      onlyIf(bench.has(place, "instructions"), "the place has no instructions");
      for (const action of ["add", "activate", "remove"] as const) {
        const told = place.instructions?.(action, await bench.version(1));
        bench.recorded.push({ what: `instructions for ${action}`, value: told });
        assert.ok(told !== undefined && told.title.length > 0 && told.steps.length > 0 && told.minutes > 0);
      }
    },
  ],
] as const satisfies readonly (readonly [string, Check])[];

export type PlaceCheck = (typeof placeChecks)[number][0];

function sameMaterial(one: Material, two: Material): boolean {
  if (one.kind === "secret") return two.kind === "secret" && one.value.bytes().equals(two.value.bytes());
  if (two.kind !== "key") return false;
  const der = (pem: string): string => pem.replaceAll(/-----[^-]+-----|\s/g, "");
  return (
    der(one.privateKey.reveal()) === der(two.privateKey.reveal()) &&
    der(one.certificates[0] ?? "") === der(two.certificates[0] ?? "")
  );
}

/** One fresh system with an issuer in it. */
export interface IssuerWorld {
  open(): Promise<Issuer> | Issuer;
  /** The intent with this number, from 1; the same number gives the same id and tag. `minted` is added by the suite. */
  intent(n: number): Promise<IssueIntent> | IssueIntent;
  /** Names of everything that exists outside on account of issuing, found out without the connector. Leave out for issuers that are purely local. */
  outside?(): Promise<readonly string[]>;
  /** Asserts what the config asks of a version: length, names, validity. */
  assertIssued?(issued: Issued, intent: IssueIntent): Promise<void> | void;
  /** The place that issues, where issuing has an effect at one. */
  place?(): Promise<Place> | Place;
  readonly faults?: Partial<Record<FaultName, () => Promise<Fault> | Fault>>;
  readonly canaries?: readonly string[];
  close?(): Promise<void> | void;
}

export interface IssuerContract {
  readonly runner: Runner;
  readonly name: string;
  readonly connector: IssuerConnector;
  readonly config: unknown;
  makeWorld(): Promise<IssuerWorld> | IssuerWorld;
  readonly cannot?: Partial<Record<IssuerCheck, string>>;
  readonly patienceMs?: number;
}

/** Registers the tests of one kind of issuer. */
export function issuerContract(contract: IssuerContract): void {
  const { runner, connector } = contract;
  const traits = connector.traits(connector.config.parse(contract.config));
  runner.describe(`contract of ${contract.name}`, () => {
    for (const [name, check] of issuerChecks) {
      const excuse = contract.cannot?.[name];
      if (excuse !== undefined) {
        runner.it(`${name} (cannot: ${excuse})`, async (context) => void context.skip(excuse));
        continue;
      }
      runner.it(name, async (context) => {
        const benches: IssuerBench[] = [];
        const fresh = async (): Promise<IssuerBench> => {
          const bench = new IssuerBench(await contract.makeWorld(), traits, contract.patienceMs ?? 20_000);
          benches.push(bench);
          return bench;
        };
        let skip: NotApplicable | undefined;
        try {
          await check(fresh, connector);
          for (const bench of benches) bench.assertNothingLeaked();
        } catch (error) {
          if (!(error instanceof NotApplicable)) throw error;
          skip = error;
        } finally {
          for (const bench of benches) await bench.close();
        }
        if (skip !== undefined) context.skip(skip.message);
      });
    }
  });
}

class IssuerBench extends Bench {
  readonly world: IssuerWorld;
  readonly traits: Traits;
  readonly #secrets: Material[] = [];
  readonly #opened: Issuer[] = [];
  constructor(world: IssuerWorld, traits: Traits, patienceMs: number) {
    super(patienceMs);
    this.world = world;
    this.traits = traits;
  }
  async another(): Promise<Issuer> {
    const issuer = await this.world.open();
    this.#opened.push(issuer);
    return issuer;
  }
  async mint(intent: IssueIntent, more: { signal?: AbortSignal } = {}): Promise<Material> {
    const issuer = await this.another();
    const minted = await this.call("mint", async () => issuer.mint?.(this.context(more), intent));
    assert.ok(minted !== undefined, "an issuer that mints here has the verb mint");
    this.#secrets.push(minted);
    return minted;
  }
  async issue(intent: IssueIntent, more: { signal?: AbortSignal } = {}): Promise<Issued> {
    const issuer = await this.another();
    const issued = await this.call("issue", () => issuer.issue(this.context(more), intent));
    this.#secrets.push(issued.material);
    return issued;
  }
  /** The intent as the engine gives it to `issue`: with the secret part made and sealed, where it is made here. */
  async ready(n: number): Promise<IssueIntent> {
    const intent = await this.world.intent(n);
    return this.traits.minting === "ours" ? { ...intent, minted: await this.mint(intent) } : intent;
  }
  async outside(): Promise<readonly string[]> {
    return [...((await this.world.outside?.()) ?? [])].sort();
  }
  assertNothingLeaked(): void {
    this.searchFor([...(this.world.canaries ?? []), ...this.#secrets.flatMap(canariesOf)]);
  }
  async close(): Promise<void> {
    for (const issuer of this.#opened) await issuer.close?.();
    await this.world.close?.();
  }
}

type IssuerCheckBody = (fresh: () => Promise<IssuerBench>, connector: IssuerConnector) => Promise<void>;

function issuerFault(name: FaultName): IssuerCheckBody {
  return async (fresh) => {
    const bench = await fresh();
    const intent = await bench.ready(1);
    const before = await bench.outside();
    const fault = await hook(bench.world.faults?.[name], `inject the fault "${name}"`)();
    let failure: ConnectorError | "succeeded";
    try {
      failure = await bench.failure(`issue under ${name}`, () => bench.issue(intent));
    } finally {
      await fault.clear();
    }
    assert.ok(failure !== "succeeded", `issue under ${name} said it succeeded`);
    assert.ok(
      faultKinds[name].includes(failure.kind),
      `issue under ${name} failed as ${failure.kind}: ${failure.message}`,
    );
    if (name === "denied") assert.ok(failure.permission !== undefined, "the missing permission is named");
    await bench.issue(intent);
    const made = (await bench.outside()).length - before.length;
    assert.ok(bench.world.outside === undefined || made <= 1, `one intent left ${made} versions behind`);
  };
}

const issuerChecks = [
  [
    "mint touches nothing and makes something new each time",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.traits.minting === "ours", "the remote side mints");
      const before = await bench.outside();
      const one = await bench.mint(await bench.world.intent(1));
      const two = await bench.mint(await bench.world.intent(2));
      assert.deepEqual(await bench.outside(), before);
      assert.ok(!sameMaterial(one, two), "two secrets are the same");
    },
  ],
  [
    "issue uses what was minted and sealed, and nothing else",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.traits.minting === "ours", "the remote side mints");
      const intent = await bench.ready(1);
      const issued = await bench.issue(intent);
      const { minted } = intent;
      assert.ok(minted !== undefined);
      assert.equal(issued.material.kind, minted.kind);
      const bytes = (material: Material): Buffer =>
        material.kind === "secret" ? material.value.bytes() : material.privateKey.bytes();
      assert.ok(bytes(issued.material).equals(bytes(minted)), "the secret part is another one");
    },
  ],
  [
    "what is issued is what the config asks for",
    async (fresh) => {
      const bench = await fresh();
      const assertIssued = hook(
        bench.world.assertIssued?.bind(bench.world),
        "say what an issued version must look like",
      );
      for (const n of [1, 2]) {
        const intent = await bench.ready(n);
        await assertIssued(await bench.issue(intent), intent);
      }
    },
  ],
  [
    "the facts are those of the material",
    async (fresh) => {
      const bench = await fresh();
      const { facts, material } = await bench.issue(await bench.ready(1));
      if (material.kind === "secret") {
        const digest = createHash("sha256").update(material.value.bytes()).digest("hex");
        assert.notEqual(facts.fingerprint, digest, "an unsalted digest is no fingerprint for an opaque secret");
        return;
      }
      const { factsOf, keyMatches } = await import("./shared/x509.ts");
      const leaf = material.certificates[0];
      onlyIf(leaf !== undefined, "a bare key has no certificate");
      assert.ok(leaf !== undefined);
      const own = factsOf(leaf);
      for (const [key, value] of Object.entries(own)) assert.deepEqual(Reflect.get(facts, key), value, `facts.${key}`);
      assert.ok(keyMatches(leaf, material.privateKey), "the private key is not the certificate's");
    },
  ],
  [
    "the same intent twice gives one version",
    async (fresh) => {
      const bench = await fresh();
      const intent = await bench.ready(1);
      const before = await bench.outside();
      const one = await bench.issue(intent);
      const two = await bench.issue(intent);
      assert.equal(two.facts.serial, one.facts.serial, "one intent, one serial number");
      assert.equal(two.facts.publicKeySha256, one.facts.publicKeySha256, "one intent, one key");
      if (bench.world.outside !== undefined) {
        assert.ok((await bench.outside()).length - before.length <= 1, "one intent left more than one version behind");
      }
      const other = await bench.issue(await bench.ready(2));
      assert.ok(!sameMaterial(other.material, one.material), "another intent gives another version");
    },
  ],
  [
    "trait issuingTrusts and issuingActivates: the place shows what issuing did",
    async (fresh) => {
      const bench = await fresh();
      onlyIf(bench.world.place !== undefined, "issuing has no place of its own");
      const place = await bench.world.place?.();
      assert.ok(place !== undefined);
      const intent = await bench.ready(1);
      const issued = await bench.issue(intent);
      const version = versionOf(intent.id, issued.material, issued.facts, issued.placement);
      const seen = await bench.call("observe", () => place.observe(bench.context(), [version]));
      assert.equal(entryOf(seen, version) !== undefined, bench.traits.issuingTrusts || bench.traits.issuingActivates);
      if (seen.current !== undefined) assert.equal(inUse(seen) === version.id, bench.traits.issuingActivates);
      await place.close?.();
    },
  ],
  [
    "a cancelled call does not start",
    async (fresh) => {
      const bench = await fresh();
      const intent = await bench.ready(1);
      const before = await bench.outside();
      await assert.rejects(
        () => bench.issue(intent, { signal: AbortSignal.abort() }),
        "issue went on although it was aborted",
      );
      assert.deepEqual(await bench.outside(), before);
    },
  ],
  ["throttling is reported as throttled", issuerFault("throttled")],
  ["an order whose answer is lost has an unknown outcome and is found again", issuerFault("lost-answer")],
  ["a system that is down is unavailable", issuerFault("down")],
  ["a missing permission is named", issuerFault("denied")],
  ["a garbled answer is never taken for success or refusal", issuerFault("garbage")],
] as const satisfies readonly (readonly [string, IssuerCheckBody])[];

export type IssuerCheck = (typeof issuerChecks)[number][0];

/** The reasons of an issuer that speaks to nobody, ready to spread into `cannot`. */
export const localIssuerCannot = {
  "throttling is reported as throttled": "nothing outside is asked",
  "an order whose answer is lost has an unknown outcome and is found again": "nothing outside is asked",
  "a system that is down is unavailable": "nothing outside is asked",
  "a missing permission is named": "nothing outside is asked",
  "a garbled answer is never taken for success or refusal": "nothing outside is asked",
} as const satisfies Partial<Record<IssuerCheck, string>>;

/** The key that stands for the store's own in tests: fingerprints of opaque secrets are keyed hashes. */
const fingerprintKey = "the contract suite's own fingerprint key";

/** A handle as the engine makes it, for worlds. */
export function versionOf(
  id: string,
  material: Material,
  facts: Omit<VersionFacts, "fingerprint"> & { readonly fingerprint?: string } = {},
  placement?: Placement,
): VersionHandle {
  const secret = material.kind === "secret" ? material.value : material.privateKey;
  const fingerprint = facts.fingerprint ?? createHmac("sha256", fingerprintKey).update(secret.bytes()).digest("hex");
  return {
    id,
    facts: { ...facts, fingerprint },
    ...(placement === undefined ? {} : { placement }),
    hasMaterial: true,
    open: async () => material,
  };
}

/** A factory of opaque versions for worlds: recognisable values that no other text contains. */
export function secretVersions(
  credential = "app-password",
  attributes?: (n: number) => Readonly<Record<string, string>>,
  characters: "hostile" | "plain" = "hostile",
): (n: number) => VersionHandle {
  const made = new Map<number, VersionHandle>();
  return (n) => {
    const kept = made.get(n);
    if (kept !== undefined) return kept;
    // Every character that quoting, URLs and JSON trip over is in the hostile ones; some formats can hold plain ones only.
    const middle = characters === "hostile" ? `"'\\ $#%&=+/:@{}é-` : "";
    const value = `cAnArY-${n}-${middle}${createHash("sha256").update(`${credential}${n}`).digest("base64url")}`;
    const facts = attributes === undefined ? {} : { attributes: attributes(n) };
    const version = versionOf(`${credential}#${n}`, { kind: "secret", value: new Secret(value) }, facts);
    made.set(n, version);
    return version;
  };
}

/** A factory of certificates with their keys for worlds, all signed by one CA of their own and valid now. */
export async function certificateVersions(
  credential = "app-tls",
  names: readonly string[] = ["localhost", "127.0.0.1"],
): Promise<{ readonly version: (n: number) => Promise<VersionHandle>; readonly caPem: string }> {
  const { certify, makeKey, serialFrom } = await import("./shared/certify.ts");
  const { certificateOf, factsOf, privateKeyOf } = await import("./shared/x509.ts");
  const now = Date.now();
  const period = { notBeforeMs: now - 60_000, notAfterMs: now + 30 * 86_400_000 };
  const caSecret = await makeKey("ec-p256");
  const caKey = privateKeyOf(caSecret);
  const ca = { subject: `CN=CA of ${credential}`, names: [], ca: true, usages: [] };
  const caPublic = createPublicKey(caKey);
  const [caPem = ""] = await certify({
    profile: ca,
    publicKey: caPublic,
    signer: { self: caKey },
    serial: "01",
    ...period,
  });
  const signer = { certificate: certificateOf(caPem), key: caKey, above: [] };
  const made = new Map<number, Promise<VersionHandle>>();
  const make = async (n: number): Promise<VersionHandle> => {
    const privateKey = await makeKey("ec-p256");
    const publicKey = createPublicKey(privateKeyOf(privateKey));
    const profile = { subject: `CN=${credential} ${n}`, names, ca: false, usages: ["server", "client"] as const };
    const serial = serialFrom(`${credential}#${n}`, publicKey);
    const certificates = await certify({ profile, publicKey, signer, serial, ...period });
    return versionOf(`${credential}#${n}`, { kind: "key", privateKey, certificates }, factsOf(certificates[0] ?? ""));
  };
  return {
    caPem,
    version: (n) => {
      const kept = made.get(n) ?? make(n);
      made.set(n, kept);
      return kept;
    },
  };
}
