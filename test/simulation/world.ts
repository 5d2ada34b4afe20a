/**
 * A true world on a virtual clock: verifiers whose replicas lag, holders whose consumers refresh late, tokens that live on, data that waits for
 * its re-encryption, sessions that outlive their version. Consumers present all the time, so the truth is checked at every event: who is
 * refused now? What the controller is told (late, in parts, or not at all) is another matter.
 */
import type { Observation, PlaceDecl } from "../../src/core/place.ts";
import type { Random } from "../core/random.ts";

export interface Edge {
  readonly holder: string;
  readonly verifier: string;
  readonly drain: "instant" | "timed" | "job";
  readonly drainMs: number;
}
export interface PlaceShape {
  readonly decl: PlaceDecl;
  /** Replicas of a verifier, consumers of a holder. */
  readonly copies: number;
}
interface VerifierTruth {
  readonly decl: PlaceDecl;
  configured: ReadonlySet<string>;
  readonly replicas: { set: ReadonlySet<string>; readonly coming: ReadonlySet<string>[] }[];
}
interface Consumer {
  live: string | null;
  granted: string | null;
}
interface HolderTruth {
  readonly decl: PlaceDecl;
  readonly stored: Set<string>;
  current: string | null;
  readonly consumers: Consumer[];
}
interface EdgeTruth extends Edge {
  /** Until when the last token under a version is alive, once nobody uses it any more. */
  readonly aliveUntilMs: Map<string, number>;
  readonly records: Set<string>;
  job: string | null;
}
interface Pending {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

/** One presenter that is, or may come to be, refused. */
export type Pair = `${string} -> ${string}: ${string}`;

export class TrueWorld {
  nowMs: number;
  readonly verifiers = new Map<string, VerifierTruth>();
  readonly holders = new Map<string, HolderTruth>();
  readonly edges: EdgeTruth[];
  readonly #random: Random;
  #pending: Pending[] = [];
  #order = 0;
  /** Called after every event, at the time of the event. */
  onEvent: (what: string) => void = () => undefined;
  presentations = 0;

  constructor(
    places: readonly PlaceShape[],
    edges: readonly Edge[],
    old: string,
    foreign: readonly string[],
    random: Random,
    nowMs: number,
  ) {
    this.nowMs = nowMs;
    this.#random = random;
    for (const { decl, copies } of places) {
      if (decl.traits.roles.includes("verifier")) {
        const room = decl.traits.capacity > 2;
        const configured: ReadonlySet<string> = new Set([old, ...(room ? foreign : [])]);
        const replicas = Array.from({ length: copies }, () => ({ set: configured, coming: [] }));
        this.verifiers.set(decl.name, { decl, configured, replicas });
      } else {
        const consumers = Array.from({ length: copies }, () => ({
          live: old,
          granted: decl.traits.session ? old : null,
        }));
        this.holders.set(decl.name, { decl, stored: new Set([old]), current: old, consumers });
      }
    }
    this.edges = edges.map((edge) => ({ ...edge, aliveUntilMs: new Map(), records: new Set(), job: null }));
    this.#keepRecords();
  }

  // Time ----------------------------------------------------------------------------------------------------------------------------------

  at(atMs: number, run: () => void): void {
    this.#pending.push({ atMs: Math.max(atMs, this.nowMs), order: this.#order++, run });
  }
  nextEventMs(): number | null {
    return this.#pending.length === 0 ? null : Math.min(...this.#pending.map((pending) => pending.atMs));
  }
  /** Lets everything happen that is due until then, each thing at its own time. */
  advanceTo(untilMs: number): void {
    for (;;) {
      let first: Pending | null = null;
      for (const pending of this.#pending)
        if (
          pending.atMs <= untilMs &&
          (first === null || pending.atMs < first.atMs || (pending.atMs === first.atMs && pending.order < first.order))
        )
          first = pending;
      if (first === null) break;
      this.#pending = this.#pending.filter((pending) => pending !== first);
      this.nowMs = Math.max(this.nowMs, first.atMs);
      first.run();
    }
    this.nowMs = Math.max(this.nowMs, untilMs);
  }
  #lag(boundMs: number): number {
    return boundMs === 0 ? 0 : Math.floor(this.#random.next() * boundMs);
  }

  // What others do ------------------------------------------------------------------------------------------------------------------------

  /** A verifier's set is replaced; each replica takes it over in its own time, in order. */
  writeSet(name: string, set: ReadonlySet<string>): void {
    const place = this.verifiers.get(name)!;
    place.configured = set;
    place.replicas.forEach((replica, index) => {
      const lagMs = this.#lag(place.decl.traits.propagationMs);
      if (lagMs === 0 && replica.coming.length === 0) {
        replica.set = set;
        return;
      }
      replica.coming.push(set);
      this.at(this.nowMs + lagMs, () => {
        const at = replica.coming.indexOf(set);
        if (at < 0) return;
        // A later write overtakes those before it; an earlier one never comes back.
        replica.coming.splice(0, at + 1);
        replica.set = set;
        this.onEvent(`replica ${index} of ${name} enforces ${[...set].join(", ") || "nothing"}`);
      });
    });
  }
  settling(name: string): boolean {
    return this.verifiers.get(name)!.replicas.some((replica) => replica.coming.length > 0);
  }

  setCurrent(name: string, version: string | null): void {
    const place = this.holders.get(name)!;
    place.current = version;
    for (let index = 0; index < place.consumers.length; index++) {
      const lagMs = this.#lag(place.decl.traits.refreshMs);
      if (lagMs === 0) this.restart(name, index, true);
      else this.at(this.nowMs + lagMs, () => this.restart(name, index));
    }
  }
  /** A consumer reads its holder again: on schedule, or because it fell over. */
  restart(name: string, index: number, quiet = false): void {
    const place = this.holders.get(name)!;
    const consumer = place.consumers[index]!;
    if (consumer.live === place.current) return;
    const left = consumer.live;
    consumer.live = place.current;
    if (left !== null && place.consumers.every((other) => other.live !== left))
      for (const edge of this.edges)
        if (edge.holder === name && edge.drain === "timed") {
          edge.aliveUntilMs.set(left, this.nowMs + edge.drainMs);
          this.at(this.nowMs + edge.drainMs, () => this.onEvent(`tokens of ${name} under ${left} are gone`));
        }
    this.#register(name, consumer);
    this.#keepRecords();
    if (!quiet) this.onEvent(`consumer ${index} of ${name} uses ${place.current ?? "nothing"}`);
  }
  #register(name: string, consumer: Consumer): void {
    const { live } = consumer;
    if (!this.holders.get(name)!.decl.traits.session || live === null) return;
    const welcome = this.edges.every(
      (edge) =>
        edge.holder !== name || this.verifiers.get(edge.verifier)!.replicas.every((replica) => replica.set.has(live)),
    );
    if (welcome) consumer.granted = live;
    // Refused for now: it knocks again.
    else if (consumer.granted !== live) this.at(this.nowMs + 60_000, () => this.#register(name, consumer));
  }
  #keepRecords(): void {
    for (const edge of this.edges) {
      if (edge.drain !== "job") continue;
      for (const consumer of this.holders.get(edge.holder)!.consumers)
        if (consumer.live !== null) edge.records.add(consumer.live);
    }
  }
  reencrypt(verifier: string, target: string): void {
    for (const edge of this.edges) {
      if (edge.verifier !== verifier || edge.drain !== "job" || edge.job === target) continue;
      edge.job = target;
      const step = (): void => {
        if (edge.job !== target) return;
        const live = new Set(this.holders.get(edge.holder)!.consumers.map((consumer) => consumer.live));
        const movable = [...edge.records].filter((version) => version !== target && !live.has(version));
        if (edge.records.size > 0) edge.records.add(target);
        for (const version of movable) edge.records.delete(version);
        this.onEvent(`re-encryption of ${edge.holder} at ${verifier} moved ${movable.join(", ") || "nothing yet"}`);
        if ([...edge.records].some((version) => version !== target))
          this.at(this.nowMs + 1000 + this.#lag(edge.drainMs), step);
      };
      this.at(this.nowMs + 1000 + this.#lag(edge.drainMs), step);
    }
  }
  stopReencrypt(verifier: string, target: string): void {
    for (const edge of this.edges) if (edge.verifier === verifier && edge.job === target) edge.job = null;
  }
  endSessions(name: string, version: string): void {
    for (const consumer of this.holders.get(name)!.consumers)
      if (consumer.granted === version) {
        consumer.granted = null;
        this.#register(name, consumer);
      }
  }

  // What a look shows ---------------------------------------------------------------------------------------------------------------------

  observe(name: string): Observation {
    const verifier = this.verifiers.get(name);
    const entry = (mark: string) => ({ mark, enabled: true, ...(mark.startsWith("foreign") ? {} : { version: mark }) });
    if (verifier !== undefined) {
      const records: Record<string, number> = {};
      const jobs = this.edges.filter((edge) => edge.verifier === name && edge.drain === "job");
      for (const edge of jobs) for (const version of edge.records) records[version] = (records[version] ?? 0) + 1;
      return { entries: [...verifier.configured].map(entry), ...(jobs.length > 0 ? { records } : {}) };
    }
    const holder = this.holders.get(name)!;
    return { entries: [...holder.stored].map(entry), current: holder.current };
  }

  // The truth -----------------------------------------------------------------------------------------------------------------------------

  #accepts(verifier: string, version: string, ever: boolean): boolean {
    const place = this.verifiers.get(verifier)!;
    const now = place.replicas.every((replica) => replica.set.has(version));
    if (!ever) return now;
    const coming = place.replicas.every((replica) => replica.coming.every((set) => set.has(version)));
    return now && coming && place.configured.has(version);
  }
  #underWay(edge: EdgeTruth): Set<string> {
    const versions = new Set<string>(edge.records);
    for (const [version, untilMs] of edge.aliveUntilMs) if (untilMs > this.nowMs) versions.add(version);
    return versions;
  }

  /** Everybody presents what they have to every replica: who is refused at this moment? */
  refused(): Pair[] {
    const pairs = new Set<Pair>();
    for (const edge of this.edges) {
      const messages = this.#underWay(edge);
      for (const { live, granted } of this.holders.get(edge.holder)!.consumers)
        if (live !== null && granted !== live) messages.add(live);
      for (const version of messages) {
        this.presentations++;
        if (!this.#accepts(edge.verifier, version, false)) pairs.add(`${edge.holder} -> ${edge.verifier}: ${version}`);
      }
    }
    return [...pairs];
  }

  /** Who may be refused before anybody does anything more: by a replica that is still to come, after a restart, by a late token. */
  endangered(): Set<Pair> {
    const pairs = new Set<Pair>();
    for (const edge of this.edges) {
      const holder = this.holders.get(edge.holder)!;
      const versions = this.#underWay(edge);
      for (const { live } of holder.consumers) if (live !== null) versions.add(live);
      if (holder.current !== null) versions.add(holder.current);
      if (edge.job !== null && edge.records.size > 0) versions.add(edge.job);
      for (const version of versions)
        if (!this.#accepts(edge.verifier, version, true)) pairs.add(`${edge.holder} -> ${edge.verifier}: ${version}`);
    }
    return pairs;
  }

  /** A version gets in somewhere, or a grant under it stands. */
  usable(version: string): boolean {
    const admitted = [...this.verifiers.values()].some(
      (place) => place.configured.has(version) || place.replicas.some((replica) => replica.set.has(version)),
    );
    const granted = [...this.holders.values()].some((place) =>
      place.consumers.some((consumer) => consumer.granted === version),
    );
    return admitted || granted;
  }
  heldAnywhere(version: string): boolean {
    return [...this.holders.values()].some(
      (place) => place.stored.has(version) || place.consumers.some((consumer) => consumer.live === version),
    );
  }
}
