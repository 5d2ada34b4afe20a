/** Seeded randomness, and small topologies made with it. The same seed gives the same topology on every machine. */
import {
  bit,
  type Edge,
  type EdgeDrain,
  type Goal,
  type Holder,
  type Item,
  type Mask,
  type Situation,
  type Topology,
  type Verifier,
  type VersionSpec,
} from "../../src/core/model.ts";
import { resting } from "./instances.ts";

/** A small generator of even numbers in [0, 1): mulberry32. Good enough to choose shapes, and it replays from one integer. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0;
  }
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  }
  below(count: number): number {
    return Math.floor(this.next() * count);
  }
  chance(probability: number): boolean {
    return this.next() < probability;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
  /** One of these values, the first ones more often. */
  weighted<T>(...choices: readonly (readonly [T, number])[]): T {
    let left = this.next() * choices.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [value, weight] of choices) {
      left -= weight;
      if (left < 0) return value;
    }
    return choices.at(-1)![0];
  }
}

export interface RandomCase {
  readonly seed: number;
  readonly topology: Topology;
  readonly start: Situation;
  readonly goal: Goal;
  /** No version is refused at the start, by anybody. */
  readonly sound: boolean;
}

/** Which versions a set of items lets in. */
function admitted(items: readonly Item[], set: Mask): Mask {
  let admits = 0;
  let denies = 0;
  items.forEach((item, index) => {
    if ((set & bit(index)) === 0) return;
    admits |= item.admits;
    denies |= item.denies;
  });
  return admits & ~denies;
}

/** At least one admitting item for each of these versions, within the capacity if that can be had. */
function setFor(random: Random, items: readonly Item[], versions: readonly number[], capacity: number): Mask {
  let set = 0;
  for (const version of versions) {
    if ((admitted(items, set) & bit(version)) !== 0) continue;
    const choices = items.flatMap((item, index) => ((item.admits & bit(version)) !== 0 ? [index] : []));
    if (choices.length > 0) set |= bit(random.pick(choices));
  }
  let count = 0;
  let kept = 0;
  items.forEach((item, index) => {
    if ((set & bit(index)) === 0) return;
    if (item.admits !== 0 && count++ >= capacity) return;
    kept |= bit(index);
  });
  return kept;
}

export interface RandomOptions {
  /** Holders with sessions may occur. Default true. */
  readonly sessions?: boolean;
  /** Copies of a verifier or of a process: at most this many. Default 2. */
  readonly copies?: number;
  /** Breaches and declared exposures may occur. Default true. */
  readonly breaches?: boolean;
}

export function randomCase(seed: number, options: RandomOptions = {}): RandomCase {
  const random = new Random(seed);
  const copies = options.copies ?? 2;
  const holderCount = random.weighted([1, 6], [2, 3]);
  const verifierCount = random.weighted([1, 6], [2, 3]);
  const versionCount = random.weighted([2, 6], [3, 3]);

  const held = Array.from({ length: holderCount }, () => (random.chance(0.8) ? 0 : random.below(versionCount)));
  const target = held.map((version) => {
    if (random.chance(0.05)) return version;
    return random.chance(0.8) ? versionCount - 1 : random.below(versionCount);
  });

  const items: Item[] = [];
  const ownItem: number[] = [];
  for (let version = 0; version < versionCount; version++) {
    ownItem.push(items.length);
    items.push({
      name: `only v${version}`,
      admits: bit(version),
      denies: 0,
      version: random.chance(0.8) ? version : null,
    });
  }
  if (random.chance(0.35)) {
    const admits = random.below((1 << versionCount) - 1) + 1;
    items.push({ name: "authority", admits, denies: 0, version: null });
  }
  if (random.chance(0.3)) {
    const version = random.below(versionCount);
    items.push({ name: `revoked v${version}`, admits: 0, denies: bit(version), version: null });
  }

  const verifiers = Array.from({ length: verifierCount }, (_, index): Verifier => ({
    name: `verifier ${index}`,
    capacity: random.weighted([8, 4], [2, 4], [1, 1]),
    replicas: 1 + random.below(copies),
    serial: random.chance(0.25),
    noTwoToTwo: random.chance(0.2),
    restorable: random.chance(0.85),
    changeMs: 1000,
    propagationMs: 60_000,
    human: false,
  }));
  const holders = Array.from({ length: holderCount }, (_, index): Holder => {
    const fleet = random.chance(0.25);
    return {
      name: `holder ${index}`,
      units: fleet ? copies : 1,
      processes: fleet ? 1 : 1 + random.below(copies),
      storeCapacity: random.weighted([8, 4], [2, 3], [1, 2]),
      staging: random.chance(0.8),
      session: (options.sessions ?? true) && random.chance(0.2),
      restorable: true,
      changeMs: 1000,
      refreshMs: 60_000,
      human: false,
    };
  });
  const edges: Edge[] = [];
  for (let holder = 0; holder < holderCount; holder++)
    for (let verifier = 0; verifier < verifierCount; verifier++) {
      if (verifierCount > 1 && random.chance(0.4) && !(verifier === verifierCount - 1 && edges.length === 0)) continue;
      const drain: EdgeDrain = random.weighted(["instant", 6], ["timed", 2], ["job", 2]);
      edges.push({ holder, verifier, drain, drainMs: drain === "instant" ? 0 : 3_600_000 });
    }

  const alreadyThere = new Set(held);
  const versions = Array.from({ length: versionCount }, (_, version): VersionSpec => {
    const name = `v${version}`;
    if (alreadyThere.has(version) || random.chance(0.1)) return { name, issuer: null };
    const verifier = random.below(verifierCount);
    const autoTrust = random.chance(0.3) ? [{ verifier, item: ownItem[version]! }] : [];
    // What is shown once cannot also be put in use by the issuer: it would be in use before it is sealed.
    const holder = random.below(holderCount);
    const autoCurrent = random.chance(0.08) && holders[holder]!.storeCapacity === 8 ? [holder] : [];
    const oneTime = autoCurrent.length === 0 && random.chance(0.7);
    return { name, issuer: { place: "issuer", oneTime, autoTrust, autoCurrent, durationMs: 1000 } };
  });

  const presentedAt = (verifier: number, by: readonly number[]): number[] =>
    edges.flatMap((edge) => (edge.verifier === verifier ? [by[edge.holder]!] : []));
  const initial = verifiers.map((facts, index) => {
    let set = setFor(random, items, presentedAt(index, held), facts.capacity);
    // Junk: an item that nobody needs, where there is room.
    const extra = random.below(items.length);
    const extraItem = items[extra]!;
    const madeLater = extraItem.version !== null && versions[extraItem.version]!.issuer !== null;
    const room = items.filter((item, at) => item.admits !== 0 && (set & bit(at)) !== 0).length < facts.capacity;
    const harmless = (extraItem.denies & presentedAt(index, held).reduce((mask, v) => mask | bit(v), 0)) === 0;
    if (random.chance(0.3) && room && harmless && !madeLater) set |= bit(extra);
    return set;
  });
  const breach = (options.breaches ?? true) && random.chance(0.3);
  const compromised = breach
    ? held.reduce((mask, version) => (target.includes(version) ? mask : mask | bit(version)), 0)
    : 0;
  const exposed =
    (options.breaches ?? true) && random.chance(breach ? 0.6 : 0.1)
      ? edges.flatMap((_, index) => (random.chance(0.7) ? [index] : []))
      : [];
  const final = verifiers.map((facts, index) => {
    const wanted = presentedAt(index, target);
    let set = setFor(random, items, wanted, facts.capacity);
    items.forEach((item, at) => {
      if (item.denies === 0) return;
      const hurts = wanted.some((version) => (item.denies & bit(version)) !== 0);
      if (!hurts && (random.chance(0.4) || (item.denies & compromised) !== 0)) set |= bit(at);
    });
    return set;
  });
  const topology: Topology = { name: `random ${seed}`, versions, items, verifiers, holders, edges };
  const start = resting(topology, initial, held);
  const sound = edges.every((edge) => (admitted(items, initial[edge.verifier]!) & bit(held[edge.holder]!)) !== 0);
  return {
    seed,
    topology,
    start,
    goal: { target, final, compromised, exposed, containFirst: breach && random.chance(0.5) },
    sound,
  };
}
