/**
 * One simulated rotation: a controller that knows only what it looked at, some time ago and perhaps in part, and decides with the product's own
 * `assemble` and `next`, remembering with the engine's own notes; against a true world that goes on all the time. Requests are throttled, get no
 * answer, arrive late; the controller dies between any two lines; a person meddles; and at times the rotation is turned round.
 *
 * Unlike the engine it takes any of the actions offered, not the preferred one: whatever is offered must be safe.
 */
import { assemble, effectOf, type AssembleInput, type Effect, type VersionRecord } from "../../src/core/assemble.ts";
import { next } from "../../src/core/next.ts";
import type { Observation, PlaceDecl } from "../../src/core/place.ts";
import { prove } from "../../src/core/prove.ts";
import { afterChange, afterLook, noPlaceNotes, type PlaceNotes } from "../../src/engine/memory.ts";
import { memoryFor } from "../../src/engine/spec.ts";
import { Random } from "../core/random.ts";
import { randomShape, type Shape } from "./estate.ts";
import { type Pair, TrueWorld } from "./world.ts";

/** What may happen beside the plain course. Each has its own stream of chance, so that leaving one out does not change the others. */
export interface Troubles {
  readonly faults: boolean;
  readonly crashes: boolean;
  readonly restarts: boolean;
  readonly blindSpots: boolean;
  readonly rollback: boolean;
  readonly meddling: boolean;
}
export const allTroubles: Troubles = {
  faults: true,
  crashes: true,
  restarts: true,
  blindSpots: true,
  rollback: true,
  meddling: true,
};

export interface Outcome {
  readonly seed: number;
  readonly end: "done" | "blocked";
  readonly effects: number;
  readonly events: number;
  readonly presentations: number;
  readonly meddled: boolean;
  readonly turnedRound: boolean;
  readonly crashes: number;
}

/** A run that broke a promise, with everything that led there. */
export class Broken extends Error {
  readonly story: readonly string[];
  constructor(message: string, story: readonly string[]) {
    super(message);
    this.story = story;
  }
}

/** Stands for the end of the process. */
class Crash extends Error {}

const startMs = Date.UTC(2027, 0, 15, 12);
const requestLifeMs = 60_000;
const day = 86_400_000;

/** What survives a crash: what the engine keeps in its database. */
interface Kept {
  versions: VersionRecord[];
  readonly notes: Map<string, PlaceNotes>;
  readonly lastSeen: Map<string, Observation>;
  intent: Effect | null;
  uncertainUntilMs: number;
  direction: "forward" | "back";
}

export function simulate(seed: number, troubles: Troubles = allTroubles): Outcome {
  const stream = (name: number): Random => new Random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(name + 1, 0x85ebca6b));
  const shape = randomShape(stream(0));
  const run = new Run(seed, shape, troubles, stream);
  return run.play();
}

class Run {
  readonly seed: number;
  readonly shape: Shape;
  readonly troubles: Troubles;
  readonly world: TrueWorld;
  readonly story: string[] = [];
  readonly kept: Kept;
  readonly places: readonly PlaceDecl[];
  readonly choices: Random;
  readonly faults: Random;
  readonly crashing: Random;
  readonly person: Random;
  readonly sight: Random;
  seen: Record<string, Observation | null> = {};
  effects = 0;
  /** Waits in a row. */
  idleTurns = 0;
  events = 0;
  crashes = 0;
  meddledAtMs: number | null = null;
  turned = false;
  /** Turned round, or a value lost: `to` may be replaced. */
  readonly to = "app#2";

  constructor(seed: number, shape: Shape, troubles: Troubles, stream: (name: number) => Random) {
    this.seed = seed;
    this.shape = shape;
    this.troubles = troubles;
    this.places = shape.credential.places;
    this.choices = stream(1);
    this.faults = stream(2);
    this.crashing = stream(3);
    this.person = stream(4);
    this.sight = stream(5);
    this.world = new TrueWorld(shape.places, shape.edges, "app#1", shape.foreign, stream(6), startMs);
    this.world.onEvent = (what) => this.check(what);
    this.kept = {
      versions: [record("app#1", "sealed")],
      notes: new Map(),
      lastSeen: new Map(),
      intent: null,
      uncertainUntilMs: 0,
      direction: "forward",
    };
    const restarts = stream(7);
    if (troubles.restarts)
      for (const [name, holder] of this.world.holders)
        for (let count = restarts.below(6); count > 0; count--) {
          const index = restarts.below(holder.consumers.length);
          this.world.at(startMs + restarts.below(2 * day), () => this.world.restart(name, index));
        }
  }

  say(words: string): void {
    this.story.push(`+${((this.world.nowMs - startMs) / 1000).toFixed(1)}s ${words}`);
  }
  fail(what: string): never {
    throw new Broken(`seed ${this.seed}: ${what}`, this.story);
  }

  /** The promises, at this very moment of the true world. */
  check(what: string): void {
    this.events++;
    this.say(what);
    if (this.meddledAtMs === null && !this.shape.exposed) {
      const refused = this.world.refused();
      if (refused.length > 0) this.fail(`refused: ${refused.join("; ")}`);
    }
    for (const version of this.kept.versions)
      if ((version.material === "volatile" || version.material === "lost") && this.world.heldAnywhere(version.id))
        this.fail(`${version.id} is in use and was never sealed`);
  }

  input(): AssembleInput {
    return {
      credential: this.shape.credential,
      versions: this.kept.versions,
      rotation: {
        mode: this.shape.mode,
        strategy: this.shape.strategy,
        direction: this.kept.direction,
        from: "app#1",
        to: this.to,
        exposed: this.shape.exposed ? this.shape.edges.map(({ holder, verifier }) => ({ holder, verifier })) : [],
      },
      seen: this.seen,
      memory: Object.fromEntries(
        this.places.map((place) => [
          place.name,
          memoryFor(this.notesOf(place.name), false, this.kept.lastSeen.get(place.name)),
        ]),
      ),
      nowMs: this.world.nowMs,
    };
  }
  notesOf(name: string): PlaceNotes {
    return this.kept.notes.get(name) ?? noPlaceNotes;
  }
  placeOf(name: string): PlaceDecl {
    return this.places.find((place) => place.name === name)!;
  }

  play(): Outcome {
    const meddleAt = this.troubles.meddling && this.person.chance(0.12) ? this.person.below(day) : null;
    if (meddleAt !== null) this.world.at(startMs + meddleAt, () => this.meddle());
    const turnAfter =
      this.troubles.rollback && this.shape.mode === "planned" && this.person.chance(0.25)
        ? 1 + this.person.below(10)
        : null;
    for (let turn = 0; turn < 3000; turn++) {
      // It waits for something that never comes: no better than blocked, and judged as such.
      if (this.idleTurns > 150) return this.finish("blocked");
      if (turnAfter !== null && this.effects >= turnAfter && !this.turned) {
        this.turned = true;
        this.kept.direction = "back";
        this.say("the rotation is turned round");
      }
      try {
        const end = this.turn();
        if (end !== null) return this.finish(end);
      } catch (error) {
        if (!(error instanceof Crash)) throw error;
        this.crashes++;
        this.say("the controller dies; another takes over");
        this.seen = {};
        this.pass(1000 + this.crashing.below(20_000));
        this.resume();
      }
    }
    return this.fail("the rotation does not come to an end");
  }

  pass(ms: number): void {
    this.world.advanceTo(this.world.nowMs + ms);
  }
  maybeCrash(): void {
    if (this.troubles.crashes && this.crashing.chance(0.02)) throw new Crash();
  }

  /** Looks, decides, does one thing or waits. */
  turn(): "done" | "blocked" | null {
    for (const place of this.places) {
      this.pass(10 + this.choices.below(500));
      const blind = this.troubles.blindSpots && this.sight.chance(0.04);
      const observation = blind ? null : this.world.observe(place.name);
      this.seen[place.name] = observation;
      if (observation === null) {
        this.say(`${place.name} could not be seen`);
        continue;
      }
      this.kept.lastSeen.set(place.name, observation);
      const { notes } = afterLook(place, this.notesOf(place.name), observation, this.world.nowMs);
      // Once no request can arrive any more, what is seen is all there is.
      const late = this.world.nowMs < this.kept.uncertainUntilMs;
      this.kept.notes.set(place.name, late ? notes : { ...notes, maybe: [] });
    }
    this.maybeCrash();
    const assembled = assemble(this.input());
    const decision = next(assembled.topology, assembled.situation, assembled.goal);
    const unsure = this.world.nowMs < this.kept.uncertainUntilMs;
    const unseen = assembled.unseen.length > 0;
    if (decision.kind === "done") {
      if (!unsure && !unseen) return "done";
      this.pass(5000);
      return null;
    }
    if (decision.kind === "blocked") {
      if (!unsure && !unseen) return "blocked";
      this.pass(5000);
      return null;
    }
    if (decision.kind === "wait") {
      this.idleTurns++;
      const longest = Math.max(
        ...this.places.map(({ traits }) => traits.propagationMs + traits.refreshMs + traits.drainMs),
        1000,
      );
      this.pass(1 + this.choices.below(Math.ceil(longest / 2)));
      return null;
    }
    const possible = decision.actions
      .map((action) => effectOf(assembled, action))
      .filter((effect) => !this.inTheDark(effect, assembled.unseen));
    if (unsure || possible.length === 0) {
      this.pass(unsure ? 5000 : 5000 + this.choices.below(3_600_000));
      return null;
    }
    this.perform(this.choices.pick(possible));
    return null;
  }

  /** As the engine holds back: what cannot be seen is not changed, and nothing is switched whose other end cannot be seen. */
  inTheDark(effect: Effect, unseen: readonly string[]): boolean {
    if (unseen.includes(effect.place)) return true;
    const presentsTo = this.places.find((place) => place.name === effect.place)?.presentsTo ?? [];
    if (effect.phase !== "switch") return false;
    return this.places.some(
      (at) => (at.presentsTo.includes(effect.place) || presentsTo.includes(at.name)) && unseen.includes(at.name),
    );
  }

  // Doing ---------------------------------------------------------------------------------------------------------------------------------

  perform(effect: Effect): void {
    this.effects++;
    this.idleTurns = 0;
    this.kept.intent = effect;
    this.maybeCrash();
    const fault = this.troubles.faults && this.faults.chance(0.15) ? this.faults.pick(faultKinds) : "none";
    this.pass(this.choices.below(2000));
    const applied = (): void => {
      const before = this.world.endangered();
      const answer = this.apply(effect);
      // The declared traits are true here, so nothing that is offered may be refused.
      if (answer === "refused" && this.meddledAtMs === null)
        this.fail(`"${effect.text}" is refused by ${effect.place}`);
      if (answer !== "done") return;
      this.check(`${effect.text}`);
      // A person who edits between our look and our write is found by the next look; what we did not see we cannot answer for.
      if (this.shape.exposed || this.meddledAtMs !== null) return;
      const grown = [...this.world.endangered()].filter((pair: Pair) => !before.has(pair));
      if (grown.length > 0) this.fail(`"${effect.text}" endangers ${grown.join("; ")}`);
    };
    switch (fault) {
      case "none":
        applied();
        this.maybeCrash();
        this.confirmed(effect);
        break;
      case "throttled":
        this.say(`${effect.text}: throttled`);
        this.kept.intent = null;
        this.pass(2000);
        return;
      case "no answer, done":
        this.say(`${effect.text}: no answer`);
        applied();
        this.maybeCrash();
        this.unknown(effect);
        break;
      case "no answer, not done":
        this.say(`${effect.text}: no answer`);
        this.maybeCrash();
        this.unknown(effect);
        break;
      case "no answer, late":
        this.say(`${effect.text}: no answer`);
        this.world.at(this.world.nowMs + this.faults.below(requestLifeMs - 5000), applied);
        this.maybeCrash();
        this.unknown(effect);
        break;
    }
    this.kept.intent = null;
  }

  /** What the outside makes of a request. */
  apply(effect: Effect): "done" | "already" | "refused" {
    const { world } = this;
    const { version, place: name } = effect;
    const verifier = world.verifiers.get(name);
    const holder = world.holders.get(name);
    switch (effect.verb) {
      case "issue": {
        // The same intent twice gives one version.
        if (this.kept.versions.some((known) => known.id === version && known.material === "sealed")) return "already";
        const theirs = this.shape.credential.issuer.traits.minting === "theirs";
        this.setMaterial(version, theirs ? "volatile" : "sealed");
        const trusting = this.shape.credential.issuer.place;
        if (trusting !== undefined) {
          const place = world.verifiers.get(trusting)!;
          if (place.configured.size >= place.decl.traits.capacity && !place.configured.has(version)) {
            this.setMaterial(version, "none");
            return "refused";
          }
          world.writeSet(trusting, new Set([...place.configured, version]));
        }
        return "done";
      }
      case "seal":
        this.setMaterial(version, "sealed");
        return "done";
      case "forget":
        this.kept.versions = this.kept.versions.filter((known) => known.id !== version);
        return "done";
      case "add":
        if (verifier !== undefined) {
          if (verifier.configured.has(version)) return "already";
          if (verifier.decl.traits.transitions.includes("serial") && world.settling(name)) return "refused";
          if (verifier.decl.traits.capacity === 1) world.writeSet(name, new Set([version]));
          else if (verifier.configured.size >= verifier.decl.traits.capacity) return "refused";
          else world.writeSet(name, new Set([...verifier.configured, version]));
        } else {
          if (holder!.stored.has(version)) return "already";
          if (holder!.stored.size >= holder!.decl.traits.storeCapacity) return "refused";
          holder!.stored.add(version);
        }
        return "done";
      case "activate":
        if (holder!.decl.traits.storeCapacity === 1) holder!.stored.clear();
        holder!.stored.add(version);
        world.setCurrent(name, version);
        return "done";
      case "remove":
        if (verifier !== undefined) {
          if (!verifier.configured.has(version)) return "already";
          if (verifier.decl.traits.transitions.includes("serial") && world.settling(name)) return "refused";
          world.writeSet(name, new Set([...verifier.configured].filter((other) => other !== version)));
        } else holder!.stored.delete(version);
        return "done";
      case "reencrypt":
        world.reencrypt(name, version);
        return "done";
      case "stopReencrypt":
        if (this.stopsJobs()) world.stopReencrypt(name, version);
        return "done";
      case "endSessions":
        world.endSessions(name, version);
        return "done";
    }
  }
  setMaterial(id: string, material: VersionRecord["material"]): void {
    const rest = this.kept.versions.filter((known) => known.id !== id);
    this.kept.versions = material === "none" ? rest : [...rest, record(id, material)];
  }

  confirmed(effect: Effect): void {
    this.remember(effect, true);
  }
  /** No answer: it may have happened, and until the longest life of a request has passed it may still happen. */
  unknown(effect: Effect): void {
    this.kept.uncertainUntilMs = this.world.nowMs + requestLifeMs;
    this.remember(effect, false);
  }
  /** As the engine remembers it. */
  remember(effect: Effect, answered: boolean): void {
    const name = effect.verb === "issue" ? this.issuedAt() : effect.place;
    if (!this.isPlace(name)) return;
    const notes = this.notesOf(name);
    const last = this.kept.lastSeen.get(name) ?? null;
    const { nowMs } = this.world;
    // Where nobody can be asked to stop a job, it goes on until the next start.
    const sure = answered && (effect.verb !== "stopReencrypt" || this.stopsJobs());
    const changed = afterChange(this.placeOf(name), notes, last, nowMs, effect.version, "app#1", effect.verb, sure);
    const wrote =
      effect.verb !== "activate"
        ? {}
        : answered
          ? { wrote: effect.version, maybe: [] }
          : { maybe: [...changed.maybe, effect.version] };
    this.kept.notes.set(name, { ...changed, ...wrote });
  }
  /** Connectors may have the verb or not. */
  stopsJobs(): boolean {
    return this.seed % 2 === 0;
  }
  isPlace(name: string): boolean {
    return this.places.some((place) => place.name === name);
  }
  issuedAt(): string {
    return this.shape.credential.issuer.place ?? "issuer";
  }
  /** After a crash: what was begun may have happened; what was shown once and not sealed is lost. */
  resume(): void {
    const { intent } = this.kept;
    if (intent !== null) this.unknown(intent);
    this.kept.intent = null;
    this.kept.versions = this.kept.versions.map((known) =>
      known.material === "volatile" ? { ...known, material: "lost", hasMaterial: false } : known,
    );
  }

  // A person ------------------------------------------------------------------------------------------------------------------------------

  meddle(): void {
    this.meddledAtMs = this.world.nowMs;
    if (this.person.chance(0.5)) {
      const name = this.person.pick([...this.world.verifiers.keys()]);
      const { configured, decl } = this.world.verifiers.get(name)!;
      const id = this.person.pick(["app#1", "app#2", "foreign-2"]);
      const there = configured.has(id);
      if (!there && (configured.size >= decl.traits.capacity || (id === "app#2" && !this.isSealed(id)))) return;
      this.world.writeSet(name, new Set(there ? [...configured].filter((other) => other !== id) : [...configured, id]));
      this.say(`a person ${there ? "removes" : "adds"} ${id} at ${name}`);
    } else {
      const name = this.person.pick([...this.world.holders.keys()]);
      const holder = this.world.holders.get(name)!;
      const id = this.person.pick([...holder.stored]);
      if (this.person.chance(0.5)) {
        this.world.setCurrent(name, id);
        this.say(`a person makes ${id} current at ${name}`);
      } else {
        holder.stored.delete(id);
        if (holder.current === id) this.world.setCurrent(name, null);
        this.say(`a person deletes ${id} at ${name}`);
      }
    }
  }
  isSealed(id: string): boolean {
    return this.kept.versions.some((known) => known.id === id && known.material === "sealed");
  }

  // The end -------------------------------------------------------------------------------------------------------------------------------

  finish(end: "done" | "blocked"): Outcome {
    const turned = this.turned ? " after it was turned round" : "";
    this.say(`${end}${turned}`);
    const breached = end === "done" && this.shape.mode === "breach" && this.meddledAtMs === null;
    if (breached && this.world.usable("app#1")) this.fail("it says done, and the compromised version is still of use");
    this.pass(3 * day);
    const target = this.kept.direction === "forward" ? this.to : "app#1";
    if (end === "blocked") {
      // Stopping is right only where the start says that no order is safe. A person's edit may put a place beyond our means.
      const first = new Run(this.seed, this.shape, { ...this.troubles, restarts: false }, () => new Random(1));
      first.kept.direction = this.kept.direction;
      for (const place of this.places) first.seen[place.name] = first.world.observe(place.name);
      const assembled = assemble(first.input());
      const { verdict } = prove(assembled.topology, assembled.situation, assembled.goal);
      if (verdict === "proved" && this.meddledAtMs === null && !this.turned)
        this.fail("it is blocked, and was proved not to be");
    } else if (this.meddledAtMs === null) {
      for (const [name, { configured, replicas }] of this.world.verifiers)
        for (const set of [configured, ...replicas.map((replica) => replica.set)]) {
          const ours = [...set].filter((id) => !id.startsWith("foreign"));
          if (ours.join() !== target) this.fail(`at the end ${name} trusts ${ours.join(", ")}, not ${target} alone`);
          for (const id of this.shape.foreign)
            if (this.shape.places.find((place) => place.decl.name === name)!.decl.traits.capacity > 2 && !set.has(id))
              this.fail(`${name} lost ${id}, which is not ours`);
        }
      for (const [name, { stored, current, consumers }] of this.world.holders) {
        if (current !== target || [...stored].join() !== target)
          this.fail(`at the end ${name} holds ${[...stored].join(", ")} and uses ${current}`);
        for (const consumer of consumers)
          if (consumer.live !== target) this.fail(`at the end a consumer of ${name} uses ${consumer.live}`);
      }
      for (const edge of this.world.edges)
        for (const id of edge.records)
          if (id !== target) this.fail(`at the end data of ${edge.holder} is still under ${id}`);
      if (this.world.refused().length > 0) this.fail(`at the end somebody is refused`);
    }
    return {
      seed: this.seed,
      end,
      effects: this.effects,
      events: this.events,
      presentations: this.world.presentations,
      meddled: this.meddledAtMs !== null,
      turnedRound: this.turned,
      crashes: this.crashes,
    };
  }
}

const faultKinds = ["throttled", "no answer, done", "no answer, not done", "no answer, late"] as const;

function record(id: string, material: VersionRecord["material"]): VersionRecord {
  return {
    id,
    facts: { fingerprint: id },
    state: id === "app#1" ? "current" : "pending",
    material,
    hasMaterial: material === "sealed",
    placements: {},
    createdMs: 0,
  };
}

/** Leaves out one trouble after another as long as the run still breaks, so that the story is about what matters. */
export function shrink(seed: number, broken: Broken): { troubles: Troubles; broken: Broken } {
  let troubles = allTroubles;
  let smallest = broken;
  for (const name of Object.keys(allTroubles) as (keyof Troubles)[]) {
    const fewer = { ...troubles, [name]: false };
    try {
      simulate(seed, fewer);
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      troubles = fewer;
      smallest = error;
    }
  }
  return { troubles, broken: smallest };
}

/** The seed, what is needed to see it, and the story. */
export function report(seed: number, broken: Broken): string {
  const shrunk = shrink(seed, broken);
  const needed = Object.entries(shrunk.troubles).flatMap(([name, on]) => (on ? [name] : []));
  return [
    shrunk.broken.message,
    `troubles needed: ${needed.join(", ") || "none"}`,
    `replay: npm run simulate -- --runs 1 --seed ${seed}`,
    ...shrunk.broken.story.map((line) => `  ${line}`),
  ].join("\n");
}
