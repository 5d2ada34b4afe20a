/**
 * A topology made ready for search. The state of the whole is a vector of small integers, one per site: each verifier and each holder keeps a
 * table of the local states that it was ever seen in, with everything that can be said of such a state computed once. A search over millions
 * of states then compares and copies integers only.
 *
 * `next`, `plan` and `prove` all stand on this file, so that they cannot disagree on what a move does.
 */
import {
  bit,
  has,
  maxVersions,
  members,
  size,
  type Action,
  type ActionKind,
  type Edge,
  type HolderState,
  type Mask,
  type MaterialState,
  type Situation,
  type Topology,
  type UnitState,
  type VerifierState,
  type Wait,
} from "./model.ts";

/**
 * How interchangeable copies are told apart. `full`: each by its position. `counter`: sorted (exact, by symmetry). `presence`: only which local
 * states occur, so that one proof holds for any number of copies (an over-approximation). `auto`: counter for up to three copies, else presence.
 */
export type Abstraction = "full" | "counter" | "presence" | "auto";

/** Deliberate faults of the guard, so that tests can show that the proof bites. */
export type Mutant =
  | "ignore in-flight"
  | "ignore running processes"
  | "ignore what a restart loads"
  | "look at enforced only"
  | "look at configured only"
  | "ask one replica"
  | "use before seal";

export const materialCodes: readonly MaterialState[] = ["none", "volatile", "sealed", "lost"];
export const noMaterial = 0;
export const volatileMaterial = 1;
export const sealedMaterial = 2;
export const lostMaterial = 3;

/** The state of the whole: materials of issued versions, verifiers, holders, expired versions, human edits left. */
export type State = Int32Array;

export interface LocalMove {
  readonly to: number;
  readonly wait: Wait;
  /** Which copy moved; only for the words of a counterexample. */
  readonly copy: number;
  /** For re-registration: the version that every verifier of the holder must enforce first. -1: no condition. */
  readonly needs: number;
}

/** A write that a goal asks for at a site. `to` is -1 where the site itself refuses it, with `refusal` naming the rule. */
export interface Candidate {
  readonly action: Action;
  readonly to: number;
  readonly refusal: "capacity" | "two-to-two" | "serial" | "not-restorable" | null;
  /** The version whose material must be sealed first. -1: none. */
  readonly needs: number;
  /** The version whose material must not be volatile or lost. -1: none. */
  readonly keeps: number;
}

export interface VerifierLocal {
  readonly configured: Mask;
  readonly gone: Mask;
  readonly enforced: readonly number[];
}
export interface UnitLocal {
  readonly stored: Mask;
  readonly current: number;
  /** `live + 1 | (granted + 1) << 5` per process. */
  readonly processes: readonly number[];
}
export interface HolderLocal {
  readonly units: readonly UnitLocal[];
  readonly inFlight: readonly Mask[];
  readonly job: readonly number[];
}

const processCode = (live: number, granted: number): number => (live + 1) | ((granted + 1) << 5);
export const liveOf = (process: number): number => (process & 31) - 1;
export const grantedOf = (process: number): number => ((process >>> 5) & 31) - 1;

function canonical<T>(items: T[], keyOf: (item: T) => number | string, mode: "full" | "counter" | "presence"): T[] {
  if (mode === "full") return items;
  const sorted = items
    .map((item) => ({ item, key: keyOf(item) }))
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  return sorted.filter((x, i) => mode !== "presence" || i === 0 || x.key !== sorted[i - 1]!.key).map((x) => x.item);
}

/** Every result of moving one of several interchangeable copies: all of its kind, or (for presence) some of its kind. */
function* moveOne<T>(
  items: readonly T[],
  keyOf: (item: T) => number | string,
  mode: "full" | "counter" | "presence",
  pick: (item: T) => T | null,
): Generator<{ items: T[]; copy: number }> {
  const seen = new Set<number | string>();
  for (let i = 0; i < items.length; i++) {
    const item = items[i]!;
    if (mode !== "full") {
      const key = keyOf(item);
      if (seen.has(key)) continue;
      seen.add(key);
    }
    const moved = pick(item);
    if (moved === null || keyOf(moved) === keyOf(item)) continue;
    const result = items.slice();
    result[i] = moved;
    yield { items: canonical(result, keyOf, mode), copy: i };
    if (mode === "presence") yield { items: canonical([...items, moved], keyOf, mode), copy: i };
  }
}

const noWait = { verifier: null, holder: null, edge: null, version: null };
const noTarget = {
  version: null,
  item: null,
  verifier: null,
  holder: null,
  unit: null,
  edge: null,
  exposes: [] as readonly number[],
};

/** The local states of one verifier. */
export class VerifierTable {
  readonly #system: System;
  readonly index: number;
  readonly #mode: "full" | "counter" | "presence";
  readonly #ids = new Map<string, number>();
  readonly locals: VerifierLocal[] = [];
  /** What stays accepted whatever the world does next. */
  readonly must: Mask[] = [];
  /** What the guard believes `must` to be: the same, unless a mutant is at work. */
  readonly guardMust: Mask[] = [];
  /** What every copy accepts now. */
  readonly accepted: Mask[] = [];
  /** What some copy or the configuration accepts: a compromised version must be in none of it at the end. */
  readonly anywhere: Mask[] = [];
  readonly #moves: (LocalMove[] | undefined)[] = [];

  constructor(system: System, index: number, mode: "full" | "counter" | "presence") {
    this.#system = system;
    this.index = index;
    this.#mode = mode;
  }

  intern(local: VerifierLocal): number {
    const enforced = canonical([...local.enforced], (x) => x, this.#mode);
    const key = `${local.configured},${local.gone}|${enforced.join(",")}`;
    let id = this.#ids.get(key);
    if (id !== undefined) return id;
    id = this.locals.length;
    this.#ids.set(key, id);
    this.locals.push({ ...local, enforced });
    const configured = this.#system.accepts(local.configured);
    let accepted = -1;
    let anywhere = configured;
    for (const set of enforced) {
      accepted &= this.#system.accepts(set);
      anywhere |= this.#system.accepts(set);
    }
    this.must.push(configured & accepted);
    this.accepted.push(accepted);
    this.anywhere.push(anywhere);
    const mutant = this.#system.mutant;
    this.guardMust.push(
      mutant === "look at enforced only"
        ? accepted
        : mutant === "look at configured only"
          ? configured
          : mutant === "ask one replica"
            ? configured & this.#system.accepts(enforced[0] ?? 0)
            : configured & accepted,
    );
    return id;
  }

  moves(id: number): readonly LocalMove[] {
    const known = this.#moves[id];
    if (known) return known;
    const local = this.locals[id]!;
    const moves: LocalMove[] = [];
    const wait: Wait = { ...noWait, kind: "propagate", verifier: this.index };
    for (const { items, copy } of moveOne(
      local.enforced,
      (x) => x,
      this.#mode,
      () => local.configured,
    ))
      moves.push({ to: this.intern({ ...local, enforced: items }), wait, copy, needs: -1 });
    this.#moves[id] = moves;
    return moves;
  }

  /** Writes a whole set, as the system outside would take or refuse it. */
  write(id: number, set: Mask): { to: number; refusal: Candidate["refusal"] } {
    const local = this.locals[id]!;
    const verifier = this.#system.topology.verifiers[this.index]!;
    const refuse = (refusal: Candidate["refusal"]) => ({ to: -1, refusal });
    if (set & ~local.configured & local.gone) return refuse("not-restorable");
    if (size(set & this.#system.admitting) > verifier.capacity) return refuse("capacity");
    if (verifier.serial && local.enforced.some((x) => x !== local.configured)) return refuse("serial");
    if (verifier.noTwoToTwo && size(local.configured) === 2 && size(set) === 2) return refuse("two-to-two");
    const gone = verifier.restorable ? 0 : local.gone | (local.configured & ~set);
    return { to: this.intern({ configured: set, gone, enforced: local.enforced }), refusal: null };
  }

  /** What a final set asks for in this local state. */
  candidates(id: number, final: Mask, cutsAllowedAtOne: boolean): Candidate[] {
    const { topology } = this.#system;
    const verifier = topology.verifiers[this.index]!;
    const configured = this.locals[id]!.configured;
    const replaces = verifier.capacity === 1;
    const result: Candidate[] = [];
    for (let item = 0; item < topology.items.length; item++) {
      const spec = topology.items[item]!;
      const wanted = has(final, item);
      if (wanted === has(configured, item)) continue;
      const denies = spec.denies !== 0;
      if (wanted) {
        const replace = replaces && !denies && (configured & this.#system.admitting) !== 0;
        const kind: ActionKind = denies ? "deny" : replace ? "swap" : "trust";
        const set = replace ? (configured & ~this.#system.admitting) | bit(item) : configured | bit(item);
        result.push({
          action: { ...noTarget, kind, item, version: spec.version, verifier: this.index },
          ...this.write(id, set),
          needs: spec.version ?? -1,
          keeps: -1,
        });
      } else {
        // A verifier with one slot is changed by a swap; emptying it first would only lengthen the gap, except in a contain-first breach.
        if (replaces && !denies && !cutsAllowedAtOne && (final & this.#system.admitting) !== 0) continue;
        result.push({
          action: { ...noTarget, kind: "distrust", item, version: spec.version, verifier: this.index },
          ...this.write(id, configured & ~bit(item)),
          needs: -1,
          keeps: spec.version ?? -1,
        });
      }
    }
    return result;
  }
}

/** The local states of one holder: its stores, the processes behind them, and what is under way on its edges. */
export class HolderTable {
  readonly #system: System;
  readonly index: number;
  readonly #unitMode: "full" | "counter" | "presence";
  readonly #processMode: "full" | "counter" | "presence";
  /** Indexes of the outgoing edges. */
  readonly edges: readonly number[];
  readonly #drains: readonly Edge["drain"][];
  readonly #ids = new Map<string, number>();
  readonly locals: HolderLocal[] = [];
  /** Per local state and outgoing edge: what may be presented, whatever the world does next. */
  readonly may: Mask[][] = [];
  readonly guardMay: Mask[][] = [];
  /** Per local state and outgoing edge: what is presented now without a standing grant. */
  readonly presented: Mask[][] = [];
  /** Versions that are stored, current or live somewhere. */
  readonly holds: Mask[] = [];
  readonly lives: Mask[] = [];
  readonly grants: Mask[] = [];
  /** Live versions of processes that hold no grant under them. */
  readonly ungranted: Mask[] = [];
  readonly #moves: (LocalMove[] | undefined)[] = [];

  constructor(
    system: System,
    index: number,
    unitMode: "full" | "counter" | "presence",
    processMode: "full" | "counter" | "presence",
  ) {
    this.#system = system;
    this.index = index;
    this.#unitMode = unitMode;
    this.#processMode = processMode;
    const edges: number[] = [];
    system.topology.edges.forEach((edge, e) => {
      if (edge.holder === index) edges.push(e);
    });
    this.edges = edges;
    this.#drains = edges.map((e) => system.topology.edges[e]!.drain);
  }

  #unitKey = (unit: UnitLocal): string => `${unit.stored},${unit.current},${unit.processes.join(".")}`;

  intern(local: HolderLocal): number {
    const units = canonical(
      local.units.map((unit) => ({ ...unit, processes: canonical([...unit.processes], (x) => x, this.#processMode) })),
      this.#unitKey,
      this.#unitMode,
    );
    let lives = 0;
    let currents = 0;
    let holds = 0;
    let grants = 0;
    let ungranted = 0;
    for (const unit of units) {
      holds |= unit.stored;
      if (unit.current >= 0) currents |= bit(unit.current);
      for (const process of unit.processes) {
        const live = liveOf(process);
        const granted = grantedOf(process);
        if (live >= 0) {
          lives |= bit(live);
          if (granted !== live) ungranted |= bit(live);
        }
        if (granted >= 0) grants |= bit(granted);
      }
    }
    // Whatever is live keeps sending messages, so it is under way on every edge that does not drain at once.
    const inFlight = local.inFlight.map((mask, i) => (this.#drains[i] === "instant" ? 0 : mask | lives));
    const key = `${units.map(this.#unitKey).join(";")}|${inFlight.join(",")}|${local.job.join(",")}`;
    let id = this.#ids.get(key);
    if (id !== undefined) return id;
    id = this.locals.length;
    this.#ids.set(key, id);
    this.locals.push({ units, inFlight, job: local.job });
    this.lives.push(lives);
    this.grants.push(grants);
    this.ungranted.push(ungranted);
    this.holds.push(holds | currents | lives);
    const jobs = local.job.map((version) => (version >= 0 ? bit(version) : 0));
    this.may.push(inFlight.map((mask, i) => mask | lives | currents | jobs[i]!));
    const mutant = this.#system.mutant;
    this.guardMay.push(
      inFlight.map(
        (mask, i) =>
          (mutant === "ignore in-flight" ? 0 : mask) |
          (mutant === "ignore running processes" ? 0 : lives) |
          (mutant === "ignore what a restart loads" ? 0 : currents) |
          jobs[i]!,
      ),
    );
    this.presented.push(inFlight.map((mask) => mask | ungranted));
    return id;
  }

  *#moveUnits(local: HolderLocal, pick: (unit: UnitLocal) => UnitLocal | null): Generator<[HolderLocal, number]> {
    for (const { items, copy } of moveOne(local.units, this.#unitKey, this.#unitMode, pick))
      yield [{ ...local, units: items }, copy];
  }

  moves(id: number): readonly LocalMove[] {
    const known = this.#moves[id];
    if (known) return known;
    const local = this.locals[id]!;
    const moves: LocalMove[] = [];
    const session = this.#system.topology.holders[this.index]!.session;
    const push = (next: HolderLocal, wait: Wait, copy: number, needs: number): void => {
      const to = this.intern(next);
      if (to !== id) moves.push({ to, wait, copy, needs });
    };
    const keys = new Set<string>();
    local.units.forEach((unit, at) => {
      const key = this.#unitKey(unit);
      if (this.#unitMode !== "full" && keys.has(key)) return;
      keys.add(key);
      const replaceUnit = (processes: number[]): HolderLocal[] => {
        const moved = { ...unit, processes };
        const replaced = { ...local, units: local.units.map((x, i) => (i === at ? moved : x)) };
        return this.#unitMode === "presence" ? [replaced, { ...local, units: [...local.units, moved] }] : [replaced];
      };
      for (const { items, copy } of moveOne(
        unit.processes,
        (x) => x,
        this.#processMode,
        (process) => (liveOf(process) === unit.current ? null : processCode(unit.current, grantedOf(process))),
      ))
        for (const next of replaceUnit(items))
          push(
            next,
            { ...noWait, kind: "refresh", holder: this.index, version: unit.current < 0 ? null : unit.current },
            at + copy,
            -1,
          );
      if (!session) return;
      for (let p = 0; p < unit.processes.length; p++) {
        const process = unit.processes[p]!;
        const live = liveOf(process);
        if (live < 0 || grantedOf(process) === live) continue;
        const granted = processCode(live, live);
        for (const { items } of moveOne(
          unit.processes,
          (x) => x,
          this.#processMode,
          (x) => (x === process ? granted : null),
        ))
          for (const next of replaceUnit(items))
            push(next, { ...noWait, kind: "re-register", holder: this.index, version: live }, at + p, live);
      }
    });
    const lives = this.lives[id]!;
    this.edges.forEach((edge, i) => {
      const drain = this.#drains[i]!;
      if (drain === "instant") return;
      const inFlight = local.inFlight[i]!;
      const job = local.job[i]!;
      const withInFlight = (mask: Mask): HolderLocal => ({
        ...local,
        inFlight: local.inFlight.map((x, k) => (k === i ? mask : x)),
      });
      if (job >= 0 && inFlight !== 0 && !has(inFlight, job))
        push(
          withInFlight(inFlight | bit(job)),
          { ...noWait, kind: "reencrypt", holder: this.index, edge, version: job },
          0,
          -1,
        );
      for (const version of members(inFlight & ~lives)) {
        if (drain === "timed")
          push(
            withInFlight(inFlight & ~bit(version)),
            { ...noWait, kind: "drain", holder: this.index, edge, version },
            0,
            -1,
          );
        else if (job >= 0 && version !== job)
          push(
            withInFlight((inFlight & ~bit(version)) | bit(job)),
            { ...noWait, kind: "reencrypt", holder: this.index, edge, version },
            0,
            -1,
          );
      }
    });
    this.#moves[id] = moves;
    return moves;
  }

  /** What a target version asks for in this local state. */
  candidates(id: number, target: number, compromised: Mask): Candidate[] {
    const local = this.locals[id]!;
    const holder = this.#system.topology.holders[this.index]!;
    const result: Candidate[] = [];
    const push = (
      kind: ActionKind,
      version: number | null,
      unit: number | null,
      edge: number | null,
      to: HolderLocal | null,
      needs: number,
      refusal: Candidate["refusal"] = null,
    ): void => {
      result.push({
        action: { ...noTarget, kind, version, holder: this.index, unit, edge },
        to: to === null ? -1 : this.intern(to),
        refusal,
        needs,
        keeps: -1,
      });
    };
    const give = (unit: UnitLocal): UnitLocal | null => {
      if (unit.current === target) return null;
      if (holder.storeCapacity === 1) return { ...unit, stored: bit(target), current: target };
      if (!holder.staging) return { ...unit, stored: unit.stored | bit(target), current: target };
      if (has(unit.stored, target)) return { ...unit, current: target };
      return size(unit.stored) < holder.storeCapacity ? { ...unit, stored: unit.stored | bit(target) } : null;
    };
    const verbOf = (unit: UnitLocal): ActionKind =>
      holder.storeCapacity === 1 || !holder.staging ? "set" : has(unit.stored, target) ? "activate" : "stage";
    for (const [next, at] of this.#moveUnits(local, give))
      push(verbOf(local.units[at]!), target, at, null, next, target);
    local.units.forEach((unit, at) => {
      if (unit.current !== target && give(unit) === null) push("stage", target, at, null, null, target, "capacity");
    });
    const others = this.#system.all & ~bit(target);
    for (const version of members(others))
      for (const [next, at] of this.#moveUnits(local, (unit) =>
        has(unit.stored, version) &&
        unit.current !== version &&
        !unit.processes.some((process) => liveOf(process) === version)
          ? { ...unit, stored: unit.stored & ~bit(version) }
          : null,
      ))
        push("purge", version, at, null, next, -1);
    if (holder.session && compromised)
      for (const version of members(compromised & this.grants[id]!))
        for (const [next, at] of this.#moveUnits(local, (unit) =>
          unit.processes.some((process) => grantedOf(process) === version)
            ? {
                ...unit,
                processes: unit.processes.map((process) =>
                  grantedOf(process) === version ? processCode(liveOf(process), -1) : process,
                ),
              }
            : null,
        ))
          push("end-sessions", version, at, null, next, -1);
    this.edges.forEach((edge, i) => {
      if (this.#drains[i] !== "job") return;
      const job = local.job[i]!;
      const withJob = (version: number): HolderLocal => ({
        ...local,
        job: local.job.map((x, k) => (k === i ? version : x)),
      });
      if (job >= 0 && job !== target) push("stop-reencryption", job, null, edge, withJob(-1), -1);
      if (job !== target && (local.inFlight[i]! & ~bit(target)) !== 0)
        push("start-reencryption", target, null, edge, withJob(target), target);
    });
    return result;
  }
}

export class System {
  readonly topology: Topology;
  readonly mutant: Mutant | undefined;
  readonly verifiers: readonly VerifierTable[];
  readonly holders: readonly HolderTable[];
  /** Versions that Keyroll issues: index of the version by its place in the state vector. */
  readonly issued: readonly number[];
  readonly #issuedAt: readonly number[];
  readonly verifierAt: number;
  readonly holderAt: number;
  readonly expiredAt: number;
  readonly budgetAt: number;
  readonly width: number;
  /** All versions. */
  readonly all: Mask;
  /** Items that let somebody in, as against pure denials. */
  readonly admitting: Mask;
  /** Index of an edge among its holder's outgoing edges. */
  readonly edgeAt: readonly number[];
  /** Edges by verifier. */
  readonly edgesInto: readonly (readonly number[])[];
  readonly #accepts = new Map<Mask, Mask>();

  constructor(topology: Topology, abstraction: Abstraction = "auto", mutant?: Mutant) {
    if (topology.versions.length > maxVersions || topology.items.length > maxVersions)
      throw new RangeError(
        `${topology.name}: ${Math.max(topology.versions.length, topology.items.length)} versions or trust items in one topology; at most ${maxVersions} can be reasoned about together.`,
      );
    this.topology = topology;
    this.mutant = mutant;
    this.all = topology.versions.reduce((mask, _, v) => mask | bit(v), 0);
    this.admitting = topology.items.reduce((mask, item, t) => (item.denies === 0 ? mask | bit(t) : mask), 0);
    this.issued = topology.versions.flatMap((version, v) => (version.issuer ? [v] : []));
    this.#issuedAt = topology.versions.map((_, v) => this.issued.indexOf(v));
    this.verifierAt = this.issued.length;
    this.holderAt = this.verifierAt + topology.verifiers.length;
    this.expiredAt = this.holderAt + topology.holders.length;
    this.budgetAt = this.expiredAt + 1;
    this.width = this.budgetAt + 1;
    const mode = (copies: number) => (abstraction === "auto" ? (copies > 3 ? "presence" : "counter") : abstraction);
    // A single store is one store, and a device is one process: standing for any number of them would only make the proof harder.
    const exactOne = (count: number) => (count === 1 && abstraction === "presence" ? "counter" : mode(count));
    this.verifiers = topology.verifiers.map((x, i) => new VerifierTable(this, i, mode(x.replicas)));
    this.holders = topology.holders.map(
      (x, i) => new HolderTable(this, i, exactOne(x.units), x.units > 1 ? exactOne(x.processes) : mode(x.processes)),
    );
    this.edgeAt = topology.edges.map((edge, e) => this.holders[edge.holder]!.edges.indexOf(e));
    this.edgesInto = topology.verifiers.map((_, a) =>
      topology.edges.flatMap((edge, e) => (edge.verifier === a ? [e] : [])),
    );
  }

  /** The versions that a set of items lets in: what some item admits and none denies. */
  accepts(set: Mask): Mask {
    const known = this.#accepts.get(set);
    if (known !== undefined) return known;
    let admitted = 0;
    let denied = 0;
    for (const item of members(set)) {
      admitted |= this.topology.items[item]!.admits;
      denied |= this.topology.items[item]!.denies;
    }
    const result = admitted & ~denied;
    this.#accepts.set(set, result);
    return result;
  }

  /** The state vector of what was seen. */
  encode(situation: Situation, humanEdits = 0): State {
    const state = new Int32Array(this.width);
    this.issued.forEach((version, i) => {
      state[i] = materialCodes.indexOf(situation.material[version]!);
    });
    this.verifiers.forEach((table, a) => {
      const seen = situation.verifiers[a]!;
      state[this.verifierAt + a] = table.intern({
        configured: seen.configured,
        gone: this.topology.verifiers[a]!.restorable ? 0 : seen.gone,
        enforced: seen.enforced,
      });
    });
    this.holders.forEach((table, h) => {
      const seen = situation.holders[h]!;
      state[this.holderAt + h] = table.intern({
        units: seen.units.map((unit) => ({
          stored: unit.stored,
          current: unit.current ?? -1,
          processes: unit.processes.map((process) => processCode(process.live ?? -1, process.granted ?? -1)),
        })),
        inFlight: seen.inFlight,
        job: seen.job.map((version) => version ?? -1),
      });
    });
    state[this.expiredAt] = situation.expired;
    state[this.budgetAt] = humanEdits;
    return state;
  }

  /** The reverse of {@link encode}; copies that an abstraction merged stay merged. */
  decode(state: State): Situation {
    const orNull = (version: number): number | null => (version < 0 ? null : version);
    return {
      material: this.topology.versions.map((_, v) => this.materialName(state, v)),
      verifiers: this.verifiers.map((table, a): VerifierState => {
        const local = table.locals[state[this.verifierAt + a]!]!;
        return { configured: local.configured, enforced: local.enforced, gone: local.gone };
      }),
      holders: this.holders.map((table, h): HolderState => {
        const local = table.locals[state[this.holderAt + h]!]!;
        return {
          units: local.units.map((unit): UnitState => ({
            stored: unit.stored,
            current: orNull(unit.current),
            processes: unit.processes.map((process) => ({
              live: orNull(liveOf(process)),
              granted: orNull(grantedOf(process)),
            })),
          })),
          inFlight: local.inFlight,
          job: local.job.map(orNull),
        };
      }),
      expired: state[this.expiredAt]!,
    };
  }

  /** Material code of a version; versions that exist already count as sealed. */
  material(state: State, version: number): number {
    const at = this.#issuedAt[version]!;
    return at < 0 ? sealedMaterial : state[at]!;
  }
  materialName(state: State, version: number): MaterialState {
    return materialCodes[this.material(state, version)]!;
  }
  issuedAt(version: number): number {
    return this.#issuedAt[version]!;
  }

  verifierId(state: State, verifier: number): number {
    return state[this.verifierAt + verifier]!;
  }
  holderId(state: State, holder: number): number {
    return state[this.holderAt + holder]!;
  }

  /** What may be presented on an edge and is not certain to be accepted: `May \ Must`. */
  violation(state: State, edge: number): Mask {
    const { holder, verifier } = this.topology.edges[edge]!;
    const may = this.holders[holder]!.may[state[this.holderAt + holder]!]![this.edgeAt[edge]!]!;
    const must = this.verifiers[verifier]!.must[state[this.verifierAt + verifier]!]! & ~state[this.expiredAt]!;
    return may & ~must;
  }
  /** The same in the guard's eyes. */
  guardViolation(state: State, edge: number): Mask {
    const { holder, verifier } = this.topology.edges[edge]!;
    const may = this.holders[holder]!.guardMay[state[this.holderAt + holder]!]![this.edgeAt[edge]!]!;
    const must = this.verifiers[verifier]!.guardMust[state[this.verifierAt + verifier]!]! & ~state[this.expiredAt]!;
    return may & ~must;
  }
  /** What is presented on an edge right now and refused by some copy. */
  refused(state: State, edge: number): Mask {
    const { holder, verifier } = this.topology.edges[edge]!;
    const presented = this.holders[holder]!.presented[state[this.holderAt + holder]!]![this.edgeAt[edge]!]!;
    const accepted = this.verifiers[verifier]!.accepted[state[this.verifierAt + verifier]!]! & ~state[this.expiredAt]!;
    return presented & ~accepted;
  }
  /** A version that was never sealed is held or presented somewhere. */
  orphaned(state: State): boolean {
    for (let i = 0; i < this.issued.length; i++) {
      const material = state[i]!;
      if (material !== volatileMaterial && material !== lostMaterial) continue;
      for (let h = 0; h < this.holders.length; h++)
        if (has(this.holders[h]!.holds[state[this.holderAt + h]!]!, this.issued[i]!)) return true;
    }
    return false;
  }
  /** One of these versions is still of use to somebody: accepted somewhere, or a grant under it stands. */
  usable(state: State, versions: Mask): boolean {
    const expired = state[this.expiredAt]!;
    for (let a = 0; a < this.verifiers.length; a++)
      if (this.verifiers[a]!.anywhere[state[this.verifierAt + a]!]! & ~expired & versions) return true;
    for (let h = 0; h < this.holders.length; h++)
      if (this.holders[h]!.grants[state[this.holderAt + h]!]! & versions) return true;
    return false;
  }

  /** Calls back with every move that the world can make by itself. `at` is the place in the state vector that changes. */
  eachMove(state: State, visit: (at: number, move: LocalMove) => void): void {
    for (let a = 0; a < this.verifiers.length; a++)
      for (const move of this.verifiers[a]!.moves(state[this.verifierAt + a]!)) visit(this.verifierAt + a, move);
    for (let h = 0; h < this.holders.length; h++) {
      const table = this.holders[h]!;
      for (const move of table.moves(state[this.holderAt + h]!))
        if (move.needs < 0 || this.#enforcedEverywhere(state, table, move.needs)) visit(this.holderAt + h, move);
    }
  }
  #enforcedEverywhere(state: State, table: HolderTable, version: number): boolean {
    const expired = state[this.expiredAt]!;
    for (const edge of table.edges) {
      const verifier = this.topology.edges[edge]!.verifier;
      if (!has(this.verifiers[verifier]!.accepted[state[this.verifierAt + verifier]!]! & ~expired, version))
        return false;
    }
    return true;
  }
}

export function actionOf(
  kind: ActionKind,
  version: number | null,
  verifier: number | null,
  item: number | null,
): Action {
  return { ...noTarget, kind, version, verifier, item };
}
