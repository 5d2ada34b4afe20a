/**
 * A second, independent judge of the heart. It knows nothing of the product's guard: no "may present", no "must accept". It is written from the
 * definition alone:
 *
 *   An action is safe when the refusals that the world can bring about by itself afterwards are all refusals that the world could have
 *   brought about by itself before. To know that, walk every path of the world's own moves from both states and look.
 *
 * A refusal is the plain fact: somebody presents a version now (a process, a token, a ciphertext) and a replica does not accept it now.
 * It is slower than the product's closed form by design. States are flat lists of small numbers; equal lists are one node.
 */
import type { Action, ActionKind, Goal, MaterialState, Situation, Topology } from "../../src/core/model.ts";

/** A flat list: see {@link World} for the layout. */
export type State = readonly number[];

/** Stands for "no version" in a state. */
export const nothing = 31;
const materialNames: readonly MaterialState[] = ["none", "volatile", "sealed", "lost"];
const none = 0;
const fresh = 1;
const sealed = 2;
const lost = 3;

const in_ = (collection: number, index: number): boolean => ((collection >> index) & 1) === 1;
const one = (index: number): number => (index === nothing ? 0 : 1 << index);
function count(collection: number): number {
  let left = collection;
  let total = 0;
  for (; left !== 0; left &= left - 1) total++;
  return total;
}

export type WorldMoveKind =
  | "propagate"
  | "refresh"
  | "re-register"
  | "messages-gone"
  | "first-record"
  | "rewritten"
  | "crash"
  | "expiry"
  | "person-toggles"
  | "person-activates"
  | "person-deletes";
export interface WorldMove {
  readonly kind: WorldMoveKind;
  /** Meaning depends on the kind: verifier, holder, edge or version. */
  readonly site: number;
  readonly part: number;
  readonly version: number;
}
export interface Step {
  readonly move: WorldMove;
  readonly to: Node;
}
export interface Offer {
  readonly action: Action;
  readonly to: Node;
}
/** One state, and what has been worked out about it. */
export interface Node {
  readonly state: State;
  readonly key: string;
  steps: readonly Step[] | null;
  refusals: readonly number[] | null;
  reachable: readonly number[] | null;
}

export interface Mishaps {
  readonly crash?: boolean;
  /** Versions that may expire at any moment. */
  readonly expire?: number;
  readonly person?: boolean;
}

const cutKinds: ReadonlySet<ActionKind> = new Set(["distrust", "deny", "swap", "end-sessions"]);

function draft(kind: ActionKind, fields: Partial<Action>): Action {
  return {
    kind,
    version: null,
    item: null,
    verifier: null,
    holder: null,
    unit: null,
    edge: null,
    exposes: [],
    ...fields,
  };
}

export class World {
  readonly topology: Topology;
  readonly #nodes = new Map<string, Node>();
  readonly #accepts: number[] = [];
  readonly #length: number;
  // Where each part of the state begins.
  readonly #configured: number;
  readonly #gone: number;
  readonly #enforced: readonly number[];
  /** Per holder and unit: stored, current, then live and granted of each process. */
  readonly #units: readonly (readonly number[])[];
  readonly #inFlight: number;
  readonly #job: number;
  readonly #expired: number;
  readonly #edits: number;
  readonly #counter: number;
  readonly #outgoing: readonly (readonly number[])[];

  readonly #grantsHold: boolean;

  /**
   * @param options.grantsHold true (the default): whoever was let in under its version stays in, whatever is distrusted. false: a grant may end at
   * any moment, so a process counts as knocking again with what it has. The two differ only on holders with sessions.
   */
  constructor(topology: Topology, options: { readonly grantsHold?: boolean } = {}) {
    this.topology = topology;
    this.#grantsHold = options.grantsHold ?? true;
    let at = topology.versions.length;
    this.#configured = at;
    at += topology.verifiers.length;
    this.#gone = at;
    at += topology.verifiers.length;
    this.#enforced = topology.verifiers.map((verifier) => {
      const begin = at;
      at += verifier.replicas;
      return begin;
    });
    this.#units = topology.holders.map((holder) =>
      Array.from({ length: holder.units }, () => {
        const begin = at;
        at += 2 + 2 * holder.processes;
        return begin;
      }),
    );
    this.#inFlight = at;
    at += topology.edges.length;
    this.#job = at;
    at += topology.edges.length;
    this.#expired = at++;
    this.#edits = at++;
    this.#counter = at++;
    this.#length = at;
    this.#outgoing = topology.holders.map((_, index) =>
      topology.edges.flatMap((edge, number) => (edge.holder === index ? [number] : [])),
    );
  }

  get size(): number {
    return this.#nodes.size;
  }

  /** The node of a state; equal states are one node. */
  node(state: State): Node {
    const key = String.fromCharCode(...state);
    let found = this.#nodes.get(key);
    if (found === undefined) {
      found = { state, key, steps: null, refusals: null, reachable: null };
      this.#nodes.set(key, found);
    }
    return found;
  }

  read(situation: Situation, options: { edits?: number } = {}): Node {
    const state: number[] = Array.from({ length: this.#length }, () => 0);
    situation.material.forEach((material, version) => (state[version] = materialNames.indexOf(material)));
    situation.verifiers.forEach((verifier, index) => {
      state[this.#configured + index] = verifier.configured;
      state[this.#gone + index] = verifier.gone;
      verifier.enforced.forEach((items, replica) => (state[this.#enforced[index]! + replica] = items));
    });
    situation.holders.forEach((holder, index) => {
      holder.units.forEach((unit, number) => {
        const begin = this.#units[index]![number]!;
        state[begin] = unit.stored;
        state[begin + 1] = unit.current ?? nothing;
        unit.processes.forEach((process, place) => {
          state[begin + 2 + 2 * place] = process.live ?? nothing;
          state[begin + 3 + 2 * place] = process.granted ?? nothing;
        });
      });
      this.#outgoing[index]!.forEach((edge, order) => {
        state[this.#inFlight + edge] = holder.inFlight[order]!;
        state[this.#job + edge] = holder.job[order] ?? nothing;
      });
    });
    state[this.#expired] = situation.expired;
    state[this.#edits] = options.edits ?? 0;
    return this.node(this.#send(state));
  }

  situation(state: State): Situation {
    const orNull = (version: number): number | null => (version === nothing ? null : version);
    return {
      material: this.topology.versions.map((_, version) => materialNames[state[version]!]!),
      verifiers: this.topology.verifiers.map((verifier, index) => ({
        configured: this.configured(state, index),
        enforced: Array.from({ length: verifier.replicas }, (_, replica) => this.enforced(state, index, replica)),
        gone: state[this.#gone + index]!,
      })),
      holders: this.topology.holders.map((holder, index) => ({
        units: this.#units[index]!.map((begin) => ({
          stored: state[begin]!,
          current: orNull(state[begin + 1]!),
          processes: Array.from({ length: holder.processes }, (_, process) => ({
            live: orNull(state[begin + 2 + 2 * process]!),
            granted: orNull(state[begin + 3 + 2 * process]!),
          })),
        })),
        inFlight: this.#outgoing[index]!.map((edge) => state[this.#inFlight + edge]!),
        job: this.#outgoing[index]!.map((edge) => orNull(state[this.#job + edge]!)),
      })),
      expired: state[this.#expired]!,
    };
  }

  configured(state: State, verifier: number): number {
    return state[this.#configured + verifier]!;
  }
  enforced(state: State, verifier: number, replica: number): number {
    return state[this.#enforced[verifier]! + replica]!;
  }
  inFlight(state: State, edge: number): number {
    return state[this.#inFlight + edge]!;
  }
  /** Every version that a process of the holder presents now. */
  liveVersions(state: State, holder: number): number {
    let all = 0;
    const processes = this.topology.holders[holder]!.processes;
    for (const begin of this.#units[holder]!)
      for (let process = 0; process < processes; process++) all |= one(state[begin + 2 + 2 * process]!);
    return all;
  }
  counter(state: State): number {
    return state[this.#counter]!;
  }
  withCounter(state: State, value: number): State {
    const copy = state.slice();
    copy[this.#counter] = value;
    return copy;
  }
  material(state: State, version: number): MaterialState {
    return materialNames[state[version]!]!;
  }
  /** The same state with the number of human edits forgotten, and unsealed material gone: what a later run finds. */
  resumed(state: State): State {
    const copy = state.slice();
    for (let version = 0; version < this.topology.versions.length; version++)
      if (copy[version] === fresh) copy[version] = lost;
    return copy;
  }

  /** Which versions a replica with these items lets in. */
  accepted(items: number, expired: number): number {
    let answer = this.#accepts[items];
    if (answer === undefined) {
      let admits = 0;
      let denies = 0;
      this.topology.items.forEach((item, index) => {
        if (!in_(items, index)) return;
        admits |= item.admits;
        denies |= item.denies;
      });
      answer = admits & ~denies;
      this.#accepts[items] = answer;
    }
    return answer & ~expired;
  }

  /** A process that uses a version on an edge with slow messages has always just sent one. */
  #send(state: number[]): number[] {
    this.topology.edges.forEach((edge, index) => {
      if (edge.drain !== "instant") state[this.#inFlight + index]! |= this.liveVersions(state, edge.holder);
    });
    return state;
  }

  #enforcedByAll(state: State, verifier: number): number {
    let all = ~0;
    const replicas = this.topology.verifiers[verifier]!.replicas;
    const begin = this.#enforced[verifier]!;
    for (let replica = 0; replica < replicas; replica++)
      all &= this.accepted(state[begin + replica]!, state[this.#expired]!);
    return all;
  }

  /** Per edge: versions that somebody presents now and that some replica refuses now. */
  refusals(node: Node): readonly number[] {
    node.refusals ??= this.topology.edges.map((edge, index) => {
      const state = node.state;
      const holder = this.topology.holders[edge.holder]!;
      let presented = state[this.#inFlight + index]!;
      for (const begin of this.#units[edge.holder]!)
        for (let process = 0; process < holder.processes; process++) {
          const live = state[begin + 2 + 2 * process]!;
          // Whoever was let in under this very version is not asked again.
          const letIn = this.#grantsHold && state[begin + 3 + 2 * process] === live;
          if (live !== nothing && !letIn) presented |= one(live);
        }
      return presented & ~this.#enforcedByAll(state, edge.verifier);
    });
    return node.refusals;
  }

  /** Per edge: versions that are refused in some state that the world reaches by itself from here. */
  reachableRefusals(node: Node): readonly number[] {
    if (node.reachable === null) {
      const all = [...this.refusals(node)];
      for (const step of this.steps(node))
        this.reachableRefusals(step.to).forEach((versions, edge) => (all[edge]! |= versions));
      node.reachable = all;
    }
    return node.reachable;
  }

  /** Everything that the world may do by itself and in any order: catch up, restart, register, forget, rewrite. */
  steps(node: Node): readonly Step[] {
    if (node.steps !== null) return node.steps;
    const { state } = node;
    const steps: Step[] = [];
    const push = (move: WorldMove, edit: (copy: number[]) => void): void => {
      const copy = state.slice();
      edit(copy);
      steps.push({ move, to: this.node(this.#send(copy)) });
    };
    this.topology.verifiers.forEach((verifier, index) => {
      const wish = this.configured(state, index);
      for (let replica = 0; replica < verifier.replicas; replica++) {
        const at = this.#enforced[index]! + replica;
        if (state[at] !== wish)
          push({ kind: "propagate", site: index, part: replica, version: nothing }, (copy) => (copy[at] = wish));
      }
    });
    this.topology.holders.forEach((holder, index) => {
      let part = 0;
      for (const begin of this.#units[index]!)
        for (let process = 0; process < holder.processes; process++, part++) {
          const at = begin + 2 + 2 * process;
          const current = state[begin + 1]!;
          const live = state[at]!;
          if (live !== current)
            push({ kind: "refresh", site: index, part, version: current }, (copy) => (copy[at] = current));
          const welcome = this.#outgoing[index]!.every((edge) =>
            in_(this.#enforcedByAll(state, this.topology.edges[edge]!.verifier), live),
          );
          if (holder.session && live !== nothing && state[at + 1] !== live && welcome)
            push({ kind: "re-register", site: index, part, version: live }, (copy) => (copy[at + 1] = live));
        }
    });
    this.topology.edges.forEach((edge, index) => {
      if (edge.drain === "instant") return;
      const underWay = state[this.#inFlight + index]!;
      const writes = state[this.#job + index]!;
      if (writes !== nothing && underWay !== 0 && !in_(underWay, writes))
        push({ kind: "first-record", site: index, part: 0, version: writes }, (copy) => {
          copy[this.#inFlight + index]! |= one(writes);
        });
      const idle = underWay & ~this.liveVersions(state, edge.holder);
      for (let version = 0; version < this.topology.versions.length; version++) {
        if (!in_(idle, version)) continue;
        if (edge.drain === "timed")
          push({ kind: "messages-gone", site: index, part: 0, version }, (copy) => {
            copy[this.#inFlight + index]! &= ~one(version);
          });
        else if (writes !== nothing && writes !== version)
          push({ kind: "rewritten", site: index, part: 0, version }, (copy) => {
            copy[this.#inFlight + index] = (underWay & ~one(version)) | one(writes);
          });
      }
    });
    node.steps = steps;
    return steps;
  }

  /** What may also happen, though nobody can rely on it and nobody should cause it. */
  mishaps(node: Node, allowed: Mishaps): readonly Step[] {
    const { state } = node;
    const steps: Step[] = [];
    const push = (move: WorldMove, edit: (copy: number[]) => void): void => {
      const copy = state.slice();
      edit(copy);
      steps.push({ move, to: this.node(this.#send(copy)) });
    };
    if (allowed.crash === true)
      this.topology.versions.forEach((_, version) => {
        if (state[version] === fresh)
          push({ kind: "crash", site: 0, part: 0, version }, (copy) => (copy[version] = lost));
      });
    this.topology.versions.forEach((_, version) => {
      if (in_(allowed.expire ?? 0, version) && !in_(state[this.#expired]!, version))
        push({ kind: "expiry", site: 0, part: 0, version }, (copy) => (copy[this.#expired]! |= one(version)));
    });
    if (allowed.person === true && state[this.#edits]! > 0) {
      this.topology.verifiers.forEach((_, verifier) =>
        this.topology.items.forEach((item, index) => {
          const there = in_(this.configured(state, verifier), index);
          if (!there && item.version !== null && state[item.version] !== sealed) return;
          const written = this.#write(state, verifier, this.configured(state, verifier) ^ one(index));
          if (written === null) return;
          written[this.#edits]!--;
          const move: WorldMove = { kind: "person-toggles", site: verifier, part: index, version: nothing };
          steps.push({ move, to: this.node(written) });
        }),
      );
      this.topology.holders.forEach((_, holder) =>
        this.#units[holder]!.forEach((begin, unit) =>
          this.topology.versions.forEach((_, version) => {
            if (!in_(state[begin]!, version)) return;
            if (state[begin + 1] !== version)
              push({ kind: "person-activates", site: holder, part: unit, version }, (copy) => {
                copy[begin + 1] = version;
                copy[this.#edits]!--;
              });
            push({ kind: "person-deletes", site: holder, part: unit, version }, (copy) => {
              copy[begin]! &= ~one(version);
              if (copy[begin + 1] === version) copy[begin + 1] = nothing;
              copy[this.#edits]!--;
            });
          }),
        ),
      );
    }
    return steps;
  }

  /** Asks the system to replace its set. `null`: it refuses (no room, the last write is still spreading, two for two, gone for good). */
  #write(state: State, verifier: number, items: number): number[] | null {
    const facts = this.topology.verifiers[verifier]!;
    const before = this.configured(state, verifier);
    if (before === items) return null;
    const admitting = this.topology.items.filter((item, index) => item.admits !== 0 && in_(items, index)).length;
    if (admitting > facts.capacity) return null;
    if (facts.serial)
      for (let replica = 0; replica < facts.replicas; replica++)
        if (this.enforced(state, verifier, replica) !== before) return null;
    if (facts.noTwoToTwo && count(before) === 2 && count(items) === 2) return null;
    if ((items & ~before & state[this.#gone + verifier]!) !== 0) return null;
    const copy = state.slice();
    copy[this.#configured + verifier] = items;
    if (!facts.restorable) copy[this.#gone + verifier]! |= before & ~items;
    return copy;
  }

  /** One write of a whole set. `null`: refused. */
  replaceSet(node: Node, verifier: number, items: number): Node | null {
    const written = this.#write(node.state, verifier, items);
    return written === null ? null : this.node(written);
  }

  /** Does what an action says, as the outside would. `null`: the outside refuses, or there is nothing to do. */
  perform(node: Node, action: Action): Node | null {
    const { state } = node;
    const after = this.#perform(state, action);
    return after === null ? null : this.node(this.#send(after));
  }

  #perform(state: State, action: Action): number[] | null {
    const copy = state.slice();
    const version = action.version ?? nothing;
    switch (action.kind) {
      case "issue": {
        const issuer = this.topology.versions[version]?.issuer;
        if (issuer === undefined || issuer === null || state[version] !== none) return null;
        copy[version] = issuer.oneTime ? fresh : sealed;
        let result: number[] = copy;
        for (const { verifier, item } of issuer.autoTrust) {
          const items = this.configured(result, verifier) | one(item);
          if (items === this.configured(result, verifier)) continue;
          const written = this.#write(result, verifier, items);
          if (written === null) return null;
          result = written;
        }
        for (const holder of issuer.autoCurrent)
          for (const begin of this.#units[holder]!) {
            result[begin] = (this.topology.holders[holder]!.storeCapacity === 1 ? 0 : result[begin]!) | one(version);
            result[begin + 1] = version;
          }
        return result;
      }
      case "seal":
        if (state[version] !== fresh) return null;
        copy[version] = sealed;
        return copy;
      case "forget-orphan":
        if (state[version] !== lost) return null;
        copy[version] = none;
        // The next one under this name is another secret, of which nobody has said yet that it is gone for good.
        for (let verifier = 0; verifier < this.topology.verifiers.length; verifier++)
          this.topology.items.forEach((item, index) => {
            if (item.version === version) copy[this.#gone + verifier]! &= ~one(index);
          });
        return copy;
      case "trust":
      case "deny":
        return this.#write(state, action.verifier!, this.configured(state, action.verifier!) | one(action.item!));
      case "swap": {
        let denying = 0;
        this.topology.items.forEach((item, index) => (denying |= item.admits === 0 ? one(index) : 0));
        const kept = this.configured(state, action.verifier!) & denying;
        return this.#write(state, action.verifier!, kept | one(action.item!));
      }
      case "distrust":
      case "remove-orphan":
        return this.#write(state, action.verifier!, this.configured(state, action.verifier!) & ~one(action.item!));
      case "start-reencryption":
      case "stop-reencryption":
        copy[this.#job + action.edge!] = action.kind === "start-reencryption" ? version : nothing;
        return copy;
      case "stage":
      case "activate":
      case "set":
      case "purge":
      case "end-sessions": {
        const holder = this.topology.holders[action.holder!]!;
        const begin = this.#units[action.holder!]![action.unit!]!;
        const stored = state[begin]!;
        if (action.kind === "stage") {
          if (in_(stored, version) || count(stored) >= holder.storeCapacity) return null;
          copy[begin] = stored | one(version);
        } else if (action.kind === "activate") {
          if (!in_(stored, version)) return null;
          copy[begin + 1] = version;
        } else if (action.kind === "set") {
          copy[begin] = (holder.storeCapacity === 1 ? 0 : stored) | one(version);
          copy[begin + 1] = version;
        } else if (action.kind === "purge") {
          if (!in_(stored, version)) return null;
          copy[begin] = stored & ~one(version);
          if (copy[begin + 1] === version) copy[begin + 1] = nothing;
        } else {
          for (let process = 0; process < holder.processes; process++)
            if (copy[begin + 3 + 2 * process] === version) copy[begin + 3 + 2 * process] = nothing;
        }
        return copy;
      }
    }
  }

  /** Every elementary operation that moves towards the goal, whether it is safe or not. */
  candidates(node: Node, goal: Goal): readonly Action[] {
    const { state } = node;
    const all: Action[] = [];
    const usable = (version: number | null): boolean => version === null || state[version] === sealed;
    this.topology.versions.forEach(({ issuer }, version) => {
      if (issuer === null) return;
      if (state[version] === fresh) all.push(draft("seal", { version }));
      if (state[version] === none && goal.target.includes(version)) all.push(draft("issue", { version }));
      if (state[version] === lost) {
        let left = this.#units.some((units) => units.some((begin) => in_(state[begin]!, version)));
        this.topology.verifiers.forEach((_, verifier) =>
          this.topology.items.forEach((item, index) => {
            if (item.version !== version) return;
            // Forgotten only when no copy knows it any more: until then its name is still needed.
            for (let replica = 0; replica < this.topology.verifiers[verifier]!.replicas; replica++)
              left ||= in_(this.enforced(state, verifier, replica), index);
            if (!in_(this.configured(state, verifier), index)) return;
            left = true;
            all.push(draft("remove-orphan", { version, item: index, verifier }));
          }),
        );
        if (!left) all.push(draft("forget-orphan", { version }));
      }
    });
    this.topology.verifiers.forEach((facts, verifier) => {
      const now = this.configured(state, verifier);
      const wanted = goal.final[verifier]!;
      this.topology.items.forEach((item, index) => {
        if (!usable(item.version)) return;
        if (in_(wanted, index) && !in_(now, index)) {
          const occupied = this.topology.items.some((other, at) => other.admits !== 0 && in_(now, at));
          const kind = item.admits === 0 ? "deny" : facts.capacity === 1 && occupied ? "swap" : "trust";
          all.push(draft(kind, { item: index, verifier }));
        }
        if (in_(now, index) && !in_(wanted, index)) {
          // Where one item fits, putting the new one in is what takes the old one out; cutting first is for a breach only.
          const successor = this.topology.items.some((other, at) => other.admits !== 0 && in_(wanted & ~now, at));
          const replacedLater =
            facts.capacity === 1 && successor && item.admits !== 0 && !(goal.containFirst && goal.compromised !== 0);
          if (!replacedLater) all.push(draft("distrust", { item: index, verifier }));
        }
      });
    });
    this.topology.holders.forEach((facts, holder) => {
      const target = goal.target[holder]!;
      this.#units[holder]!.forEach((begin, unit) => {
        const stored = state[begin]!;
        const current = state[begin + 1]!;
        let live = 0;
        for (let process = 0; process < facts.processes; process++) live |= one(state[begin + 2 + 2 * process]!);
        if (state[target] === sealed) {
          if (facts.storeCapacity === 1 || !facts.staging) {
            if (current !== target) all.push(draft("set", { version: target, holder, unit }));
          } else if (!in_(stored, target)) all.push(draft("stage", { version: target, holder, unit }));
          else if (current !== target) all.push(draft("activate", { version: target, holder, unit }));
        }
        for (let version = 0; version < this.topology.versions.length; version++)
          if (version !== target && version !== current && in_(stored & ~live, version))
            all.push(draft("purge", { version, holder, unit }));
        if (facts.session)
          for (let version = 0; version < this.topology.versions.length; version++) {
            if (!in_(goal.compromised, version)) continue;
            let granted = false;
            for (let process = 0; process < facts.processes; process++)
              granted ||= state[begin + 3 + 2 * process] === version;
            // A door that still lets the version in would only hand out the next grant.
            const shut = this.#outgoing[holder]!.every((edge) => {
              const { verifier } = this.topology.edges[edge]!;
              const set = this.accepted(this.configured(state, verifier), state[this.#expired]!);
              let somewhere = set;
              for (let replica = 0; replica < this.topology.verifiers[verifier]!.replicas; replica++)
                somewhere |= this.accepted(this.enforced(state, verifier, replica), state[this.#expired]!);
              return !in_(somewhere, version);
            });
            if (granted && shut) all.push(draft("end-sessions", { version, holder, unit }));
          }
      });
    });
    this.topology.edges.forEach((edge, index) => {
      if (edge.drain !== "job") return;
      const target = goal.target[edge.holder]!;
      const writes = state[this.#job + index]!;
      if (writes !== nothing && writes !== target)
        all.push(draft("stop-reencryption", { edge: index, holder: edge.holder, version: writes }));
      if (writes !== target && state[target] === sealed && (this.inFlight(state, index) & ~one(target)) !== 0)
        all.push(draft("start-reencryption", { edge: index, holder: edge.holder, version: target }));
    });
    return all;
  }

  /** A compromised version gets into a configured set in which it was not. */
  readmits(before: Node, after: Node, goal: Goal): boolean {
    return this.topology.verifiers.some((_, verifier) => {
      const was = this.accepted(this.configured(before.state, verifier), 0);
      const is = this.accepted(this.configured(after.state, verifier), 0);
      return (is & ~was & goal.compromised) !== 0;
    });
  }

  /** Per edge: refusals that the world can reach after and could not reach before. */
  growth(before: Node, after: Node): readonly number[] {
    const was = this.reachableRefusals(before);
    return this.reachableRefusals(after).map((versions, edge) => versions & ~was[edge]!);
  }

  /** The safe actions, in the order of preference that a goal asks for. */
  offers(node: Node, goal: Goal): readonly Offer[] {
    return this.#inOrder(node, goal, this.safe(node, goal));
  }

  /** The safe actions, by definition. */
  safe(node: Node, goal: Goal): readonly Offer[] {
    const candidates = this.candidates(node, goal);
    const unsealed = this.topology.versions.some((_, version) => node.state[version] === fresh);
    const safe: Offer[] = [];
    for (const action of candidates) {
      if (unsealed && action.kind !== "seal") continue;
      const to = this.perform(node, action);
      if (to === null || this.readmits(node, to, goal)) continue;
      const exposes = this.growth(node, to).flatMap((versions, edge) => (versions === 0 ? [] : [edge]));
      if (exposes.some((edge) => !goal.exposed.includes(edge))) continue;
      safe.push({ action: { ...action, exposes }, to });
    }
    return safe;
  }

  /**
   * Which of the safe actions are offered first. Contain first: whatever takes trust or grants away. And a declared exposure is a last resort:
   * it is not used while anything harmless can be done or, but for a breach, while the world is still moving.
   */
  #inOrder(node: Node, goal: Goal, safe: readonly Offer[]): readonly Offer[] {
    const cuts = goal.containFirst ? safe.filter((offer) => cutKinds.has(offer.action.kind)) : [];
    if (cuts.length > 0) return cuts;
    const harmless = safe.filter((offer) => offer.action.exposes.length === 0);
    if (harmless.length > 0 || safe.length === 0) return harmless;
    return goal.containFirst || this.steps(node).length === 0 ? safe : [];
  }

  /** A version that was never sealed is held or presented somewhere. */
  orphanInUse(node: Node): boolean {
    const { state } = node;
    return this.topology.versions.some(
      (_, version) =>
        (state[version] === fresh || state[version] === lost) &&
        this.topology.holders.some(
          (_, holder) =>
            in_(this.liveVersions(state, holder), version) ||
            this.#units[holder]!.some((begin) => in_(state[begin]!, version) || state[begin + 1] === version),
        ),
    );
  }

  /** Somebody who has a compromised version still gets in somewhere. */
  compromisedUsable(node: Node, compromised: number): boolean {
    const { state } = node;
    const expired = state[this.#expired]!;
    const admitted = this.topology.verifiers.some((facts, verifier) => {
      let somewhere = this.accepted(this.configured(state, verifier), expired);
      for (let replica = 0; replica < facts.replicas; replica++)
        somewhere |= this.accepted(this.enforced(state, verifier, replica), expired);
      return (somewhere & compromised) !== 0;
    });
    const granted = this.topology.holders.some((facts, holder) =>
      this.#units[holder]!.some((begin) => {
        for (let process = 0; process < facts.processes; process++)
          if ((one(state[begin + 3 + 2 * process]!) & compromised) !== 0) return true;
        return false;
      }),
    );
    return admitted || granted;
  }

  done(node: Node, goal: Goal): boolean {
    const { state } = node;
    const verifiers = this.topology.verifiers.every((facts, verifier) => {
      if (this.configured(state, verifier) !== goal.final[verifier]) return false;
      for (let replica = 0; replica < facts.replicas; replica++)
        if (this.enforced(state, verifier, replica) !== goal.final[verifier]) return false;
      return true;
    });
    const holders = this.topology.holders.every((facts, holder) => {
      const target = goal.target[holder]!;
      return this.#units[holder]!.every((begin) => {
        if (state[begin] !== one(target) || state[begin + 1] !== target) return false;
        for (let process = 0; process < facts.processes; process++) {
          if (state[begin + 2 + 2 * process] !== target) return false;
          if (facts.session && state[begin + 3 + 2 * process] !== target) return false;
        }
        return true;
      });
    });
    const messages = this.topology.edges.every(
      (edge, index) => (this.inFlight(state, index) & ~one(goal.target[edge.holder]!)) === 0,
    );
    const material = this.topology.versions.every(
      ({ issuer }, version) =>
        issuer === null ||
        (state[version] !== fresh &&
          state[version] !== lost &&
          !(state[version] === none && goal.target.includes(version))),
    );
    const contained = goal.compromised === 0 || !this.compromisedUsable(node, goal.compromised);
    return verifiers && holders && messages && material && contained;
  }

  describe(move: WorldMove): string {
    const version = this.topology.versions[move.version]?.name ?? "nothing";
    const edge = this.topology.edges[move.site];
    const between = edge
      ? `${this.topology.holders[edge.holder]!.name} to ${this.topology.verifiers[edge.verifier]!.name}`
      : "";
    switch (move.kind) {
      case "propagate":
        return `replica ${move.part} of ${this.topology.verifiers[move.site]!.name} catches up`;
      case "refresh":
        return `process ${move.part} of ${this.topology.holders[move.site]!.name} restarts and loads ${version}`;
      case "re-register":
        return `process ${move.part} of ${this.topology.holders[move.site]!.name} registers under ${version}`;
      case "messages-gone":
        return `the last message under ${version} from ${between} is gone`;
      case "first-record":
        return `the re-encryption writes its first record under ${version}, ${between}`;
      case "rewritten":
        return `the re-encryption of ${version} ends, ${between}`;
      case "crash":
        return `Keyroll crashes, ${version} is lost unsealed`;
      case "expiry":
        return `${version} expires`;
      case "person-toggles":
        return `a person toggles ${this.topology.items[move.part]!.name} at ${this.topology.verifiers[move.site]!.name}`;
      case "person-activates":
        return `a person makes ${version} current at ${this.topology.holders[move.site]!.name}`;
      case "person-deletes":
        return `a person deletes ${version} from ${this.topology.holders[move.site]!.name}`;
    }
  }

  name(action: Action): string {
    const version = action.version === null ? "" : ` ${this.topology.versions[action.version]!.name}`;
    const item = action.item === null ? "" : ` ${this.topology.items[action.item]!.name}`;
    const verifier = action.verifier === null ? "" : ` at ${this.topology.verifiers[action.verifier]!.name}`;
    const holder = action.holder === null ? "" : ` at ${this.topology.holders[action.holder]!.name}`;
    const unit = (action.unit ?? 0) > 0 ? ` unit ${action.unit}` : "";
    return `${action.kind}${item === "" ? version : item}${verifier}${holder}${unit}`;
  }
}

/** The fields that say which action it is, in one fixed spelling: two deciders name the same act the same way. */
export function label(action: Action): string {
  switch (action.kind) {
    case "issue":
    case "seal":
    case "forget-orphan":
      return `${action.kind} v${action.version}`;
    case "trust":
    case "deny":
    case "swap":
    case "distrust":
    case "remove-orphan":
      return `${action.kind} t${action.item} a${action.verifier}`;
    case "stage":
    case "activate":
    case "set":
    case "purge":
    case "end-sessions":
      return `${action.kind} v${action.version} h${action.holder} u${action.unit ?? 0}`;
    case "start-reencryption":
      return `${action.kind} v${action.version} e${action.edge}`;
    case "stop-reencryption":
      return `${action.kind} e${action.edge}`;
  }
}

export type Violation = "lock-out-or-data-loss" | "orphan" | "breach" | "liveness";
export interface Finding {
  /** `blocked`: no violation, and some state from which the goal cannot be reached. */
  readonly verdict: "proved" | "refuted" | "blocked" | "not-proved";
  readonly states: number;
  readonly transitions: number;
  readonly violated: Violation | null;
  readonly counterexample: readonly string[];
  /** Every state that was reached, in breadth-first order. */
  readonly reached: readonly Node[];
  /** States from which the goal cannot be reached. */
  readonly stuck: readonly Node[];
}
export interface ExploreOptions extends Mishaps {
  readonly maxStates?: number;
  /** Who decides: by default the definition itself. */
  readonly offers?: (node: Node) => readonly Offer[];
  readonly from?: readonly Node[];
}

/** Walks every interleaving of what is offered, the world, and the mishaps allowed; breadth first, so that a counterexample is a shortest one. */
export function explore(world: World, start: Node, goal: Goal, options: ExploreOptions = {}): Finding {
  const offers = options.offers ?? ((node: Node) => world.offers(node, goal));
  const limit = options.maxStates ?? 1_000_000;
  const numbers = new Map<Node, number>();
  const reached: Node[] = [];
  const parents: number[] = [];
  const labels: (() => string)[] = [];
  const back: number[][] = [];
  const ahead: number[] = [];
  const forwardEdges: number[][] = [];
  let transitions = 0;
  let broken: { at: number; what: Violation } | null = null;
  const enter = (node: Node, parent: number, why: () => string): number => {
    let number = numbers.get(node);
    if (number === undefined) {
      number = reached.length;
      numbers.set(node, number);
      reached.push(node);
      parents.push(parent);
      labels.push(why);
      back.push([]);
      forwardEdges.push([]);
      ahead.push(0);
    }
    return number;
  };
  for (const node of options.from ?? [start]) enter(node, -1, () => "");
  const exempt = (edge: number): boolean => goal.exposed.includes(edge);
  for (let at = 0; at < reached.length && reached.length <= limit; at++) {
    const node = reached[at]!;
    const was = world.refusals(node);
    const visit = (to: Node, why: () => string, by: "us" | "world" | "mishap"): void => {
      const number = enter(to, at, why);
      transitions++;
      if (by !== "mishap" && number !== at) {
        forwardEdges[at]!.push(number);
        back[number]!.push(at);
      }
      // A person's edit and an early expiry are not ours; what the world makes of them is not either. Ours is never to add to it.
      const refused = world.refusals(to).some((versions, edge) => !exempt(edge) && (versions & ~was[edge]!) !== 0);
      const attributable = by === "us" || (by === "world" && options.person !== true && (options.expire ?? 0) === 0);
      if (refused && attributable) broken ??= { at: number, what: "lock-out-or-data-loss" };
      if (by === "us" && world.orphanInUse(to) && !world.orphanInUse(node)) broken ??= { at: number, what: "orphan" };
      if (by === "us" && world.readmits(node, to, goal)) broken ??= { at: number, what: "breach" };
    };
    for (const { action, to } of offers(node)) visit(to, () => world.name(action), "us");
    for (const { move, to } of world.steps(node)) visit(to, () => world.describe(move), "world");
    for (const { move, to } of world.mishaps(node, options)) visit(to, () => world.describe(move), "mishap");
  }
  const trace = (end: number): string[] => {
    const words: string[] = [];
    for (let at = end; parents[at]! >= 0; at = parents[at]!) words.push(labels[at]!());
    return words.reverse();
  };
  const base = { states: reached.length, transitions, reached };
  if (reached.length > limit) return { ...base, verdict: "not-proved", violated: null, counterexample: [], stuck: [] };
  const good = new Uint8Array(reached.length);
  const queue = reached.flatMap((node, at) => (world.done(node, goal) ? [at] : []));
  for (const at of queue) good[at] = 1;
  for (const at of queue)
    for (const parent of back[at]!)
      if (good[parent] === 0) {
        good[parent] = 1;
        queue.push(parent);
      }
  const stuck = reached.filter((_, at) => good[at] === 0);
  // Without mishaps the graph must have no cycle, so that every fair run ends; an end that is not the goal was found above.
  for (const edges of forwardEdges) for (const to of edges) ahead[to]!++;
  const free = ahead.flatMap((entering, at) => (entering === 0 ? [at] : []));
  for (const at of free) for (const to of forwardEdges[at]!) if (--ahead[to]! === 0) free.push(to);
  const cyclic = free.length !== reached.length;
  const found = broken as { at: number; what: Violation } | null;
  if (found !== null)
    return { ...base, verdict: "refuted", violated: found.what, counterexample: trace(found.at), stuck };
  if (cyclic) {
    const at = ahead.findIndex((entering) => entering > 0);
    return { ...base, verdict: "refuted", violated: "liveness", counterexample: trace(at), stuck };
  }
  if (stuck.length > 0)
    return {
      ...base,
      verdict: "blocked",
      violated: null,
      counterexample: trace(numbers.get(stuck[0]!)!),
      stuck,
    };
  return { ...base, verdict: "proved", violated: null, counterexample: [], stuck };
}
