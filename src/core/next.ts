/**
 * The one decision function. `next` sees what was observed and what is wanted, and says which actions are safe now. It has no memory: a crash,
 * a person's edit or a late answer only changes what is observed. The plan that a user previews, the proof and the engine all call it.
 *
 * The rule (docs/safety.md): with `May(edge)` = what a presenter may show, whatever the world does next, and `Must(verifier)` = what is
 * accepted, whatever the world does next, an action is safe iff `May \ Must` grows on no edge that was not declared exposed.
 */
import {
  bit,
  has,
  type Action,
  type ActionKind,
  type Blocked,
  type Decision,
  type Goal,
  type Mask,
  type Situation,
  type Topology,
  type Wait,
} from "./model.ts";
import {
  System,
  lostMaterial,
  noMaterial,
  sealedMaterial,
  volatileMaterial,
  actionOf,
  type Candidate,
  type State,
} from "./system.ts";

/** An action with the state that it leads to. */
export interface Offer {
  readonly action: Action;
  readonly to: State;
}

/** Taking trust or grants away. */
const cuts: ReadonlySet<ActionKind> = new Set(["distrust", "deny", "swap", "end-sessions"]);

/** `next` for one topology and goal, with everything that does not depend on the whole state worked out once. */
export class Planner {
  readonly system: System;
  readonly goal: Goal;
  readonly #needed: Mask;
  readonly #exposed: Uint8Array;
  readonly #verifierCandidates: Candidate[][][];
  readonly #holderCandidates: Candidate[][][];

  /** @param alsoNeeded versions that must exist although no holder of this topology ends with them (the rest of it was cut away) */
  constructor(system: System, goal: Goal, alsoNeeded: Mask = 0) {
    this.system = system;
    this.goal = goal;
    this.#needed = goal.target.reduce((mask, version) => mask | bit(version), alsoNeeded);
    this.#exposed = new Uint8Array(system.topology.edges.length);
    for (const edge of goal.exposed) this.#exposed[edge] = 1;
    this.#verifierCandidates = system.verifiers.map(() => []);
    this.#holderCandidates = system.holders.map(() => []);
  }

  /** The actions that are safe in this state. Empty: wait, done or blocked. */
  offers(state: State): Offer[] {
    const all = this.guarded(state);
    if (this.goal.containFirst) {
      const first = all.filter((offer) => cuts.has(offer.action.kind));
      if (first.length > 0) return first;
    }
    // A declared exposure is a last resort: as long as anything can be done without it, or the world is still moving, it is not used.
    if (this.goal.exposed.length === 0 || !all.some((offer) => offer.action.exposes.length > 0)) return all;
    const harmless = all.filter((offer) => offer.action.exposes.length === 0);
    if (harmless.length > 0) return harmless;
    return this.goal.containFirst || !this.moving(state) ? all : [];
  }

  /** Every action that the guard allows, without the order of preference among them. */
  guarded(state: State): Offer[] {
    const result: Offer[] = [];
    this.#each(state, (candidate, to) => {
      if (!to || this.#readmits(state, to, candidate.action)) return;
      const exposes = this.#exposes(state, to);
      if (exposes === null) return;
      result.push({ action: exposes.length === 0 ? candidate.action : { ...candidate.action, exposes }, to });
    });
    return result;
  }

  /** Why nothing more is offered: every needed action with what forbids it. */
  refusals(state: State): Blocked[] {
    const result: Blocked[] = [];
    this.#each(state, (candidate, to, refusal) => {
      if (refusal) result.push({ action: candidate.action, cause: refusal, edges: [], versions: 0 });
      if (!to) return;
      const readmitted = this.#readmits(state, to, candidate.action);
      if (readmitted)
        result.push({ action: candidate.action, cause: "would-readmit", edges: [], versions: readmitted });
      const edges: number[] = [];
      let versions = 0;
      for (let e = 0; e < this.#exposed.length; e++) {
        const grown = this.system.guardViolation(to, e) & ~this.system.guardViolation(state, e);
        if (grown && !this.#exposed[e]) {
          edges.push(e);
          versions |= grown;
        }
      }
      if (edges.length > 0) result.push({ action: candidate.action, cause: "would-refuse", edges, versions });
    });
    return result;
  }

  /** The world still has something under way that will end by itself. */
  moving(state: State): boolean {
    let found = false;
    this.system.eachMove(state, () => {
      found = true;
    });
    return found;
  }

  waits(state: State): Wait[] {
    const seen = new Map<string, Wait>();
    this.system.eachMove(state, (_, { wait }) => {
      seen.set(`${wait.kind},${wait.verifier},${wait.holder},${wait.edge},${wait.version}`, wait);
    });
    return [...seen.values()];
  }

  /** Exactly the new versions, everywhere, and nothing left behind; in a breach, the compromised ones of no use to anybody. */
  done(state: State): boolean {
    const { system, goal } = this;
    for (let a = 0; a < system.verifiers.length; a++) {
      const local = system.verifiers[a]!.locals[system.verifierId(state, a)]!;
      const final = goal.final[a]!;
      if (local.configured !== final || local.enforced.some((set) => set !== final)) return false;
    }
    for (let h = 0; h < system.holders.length; h++) {
      const target = goal.target[h]!;
      const session = system.topology.holders[h]!.session;
      const table = system.holders[h]!;
      const id = system.holderId(state, h);
      const local = table.locals[id]!;
      for (const unit of local.units) if (unit.stored !== bit(target) || unit.current !== target) return false;
      if (table.lives[id]! !== bit(target)) return false;
      if (session && (table.grants[id]! !== bit(target) || table.ungranted[id]! !== 0)) return false;
      for (const mask of local.inFlight) if (mask & ~bit(target)) return false;
    }
    for (const version of system.issued) {
      const material = system.material(state, version);
      if (material === volatileMaterial || material === lostMaterial) return false;
      if (material === noMaterial && has(this.#needed, version)) return false;
    }
    return goal.compromised === 0 || !system.usable(state, goal.compromised);
  }

  /** Compromised versions that a write would let in again: a trust line that somebody took out goes back only behind its denial. */
  #readmits(state: State, to: State, action: Action): Mask {
    if (this.goal.compromised === 0 || action.verifier === null) return 0;
    const table = this.system.verifiers[action.verifier]!;
    const accepted = (at: State): Mask =>
      this.system.accepts(table.locals[this.system.verifierId(at, action.verifier!)]!.configured);
    return accepted(to) & ~accepted(state) & this.goal.compromised;
  }

  /** Edges on which the action newly makes a refusal possible; `null` where one of them was not declared. */
  #exposes(state: State, to: State): number[] | null {
    let exposes: number[] = [];
    for (let e = 0; e < this.#exposed.length; e++) {
      if ((this.system.guardViolation(to, e) & ~this.system.guardViolation(state, e)) === 0) continue;
      if (!this.#exposed[e]) return null;
      exposes = [...exposes, e];
    }
    return exposes;
  }

  /** Every candidate, before the guard: each is a step towards the goal. `to` is null where the site itself refuses the write. */
  #each(state: State, visit: (candidate: Candidate, to: State | null, refusal: Candidate["refusal"]) => void): void {
    const { system, goal } = this;
    const sealFirst = system.mutant !== "use before seal";
    const make = (action: Action, change: (to: State) => boolean): void => {
      const to = state.slice();
      const fine = change(to);
      visit(
        { action, to: -1, refusal: fine ? null : "capacity", needs: -1, keeps: -1 },
        fine ? to : null,
        fine ? null : "capacity",
      );
    };
    // A value that was shown once is sealed before anything else happens.
    let unsealed = false;
    for (const version of system.issued) {
      if (system.material(state, version) !== volatileMaterial) continue;
      unsealed = true;
      make(actionOf("seal", version, null, null), (to) => {
        to[system.issuedAt(version)] = sealedMaterial;
        return true;
      });
    }
    if (unsealed && sealFirst) return;
    const usable = (version: number): boolean => {
      if (version < 0) return true;
      if (system.topology.versions[version]!.unavailable) return false;
      const material = system.material(state, version);
      return material === sealedMaterial || (!sealFirst && material === volatileMaterial);
    };

    for (const version of system.issued) {
      const material = system.material(state, version);
      const at = system.issuedAt(version);
      const { issuer } = system.topology.versions[version]!;
      if (material === lostMaterial) {
        // An orphan: out of every trust set and store first, and forgotten only when no copy enforces it any more.
        let left = false;
        for (let a = 0; a < system.verifiers.length; a++) {
          const table = system.verifiers[a]!;
          const id = system.verifierId(state, a);
          const local = table.locals[id]!;
          system.topology.items.forEach((item, t) => {
            if (item.version !== version) return;
            if (local.enforced.some((set) => has(set, t))) left = true;
            if (!has(local.configured, t)) return;
            left = true;
            const written = table.write(id, local.configured & ~bit(t));
            const action = actionOf("remove-orphan", version, a, t);
            if (written.to < 0) {
              visit({ action, to: -1, refusal: written.refusal, needs: -1, keeps: -1 }, null, written.refusal);
              return;
            }
            make(action, (to) => {
              to[system.verifierAt + a] = written.to;
              return true;
            });
          });
        }
        for (let h = 0; h < system.holders.length; h++)
          if (has(system.holders[h]!.holds[system.holderId(state, h)]!, version)) left = true;
        if (!left)
          make(actionOf("forget-orphan", version, null, null), (to) => {
            to[at] = noMaterial;
            // What is issued in its place is another secret, so that "cannot be put back" was said of the lost one only.
            const items = system.topology.items.reduce(
              (mask, item, t) => (item.version === version ? mask | bit(t) : mask),
              0,
            );
            for (let a = 0; a < system.verifiers.length; a++) {
              const place = system.verifierAt + a;
              const local = system.verifiers[a]!.locals[to[place]!]!;
              if (local.gone & items) to[place] = system.verifiers[a]!.intern({ ...local, gone: local.gone & ~items });
            }
            return true;
          });
      } else if (material === noMaterial && has(this.#needed, version) && issuer) {
        make(actionOf("issue", version, null, null), (to) => {
          to[at] = issuer.oneTime ? volatileMaterial : sealedMaterial;
          for (const { verifier, item } of issuer.autoTrust) {
            const place = system.verifierAt + verifier;
            const { configured } = system.verifiers[verifier]!.locals[to[place]!]!;
            if (has(configured, item)) continue;
            const written = system.verifiers[verifier]!.write(to[place]!, configured | bit(item));
            if (written.to < 0) return false;
            to[place] = written.to;
          }
          for (const holder of issuer.autoCurrent) {
            const place = system.holderAt + holder;
            const local = system.holders[holder]!.locals[to[place]!]!;
            to[place] = system.holders[holder]!.intern({
              ...local,
              units: local.units.map((unit) => ({ ...unit, stored: unit.stored | bit(version), current: version })),
            });
          }
          return true;
        });
      }
    }

    const consider = (candidate: Candidate, at: number): void => {
      if (!usable(candidate.needs)) return;
      if (candidate.keeps >= 0 && system.material(state, candidate.keeps) !== sealedMaterial) return;
      if (candidate.to < 0) {
        visit(candidate, null, candidate.refusal);
        return;
      }
      const to = state.slice();
      to[at] = candidate.to;
      visit(candidate, to, null);
    };
    for (let a = 0; a < system.verifiers.length; a++) {
      const id = system.verifierId(state, a);
      const known = (this.#verifierCandidates[a]![id] ??= system.verifiers[a]!.candidates(
        id,
        goal.final[a]!,
        goal.containFirst && goal.compromised !== 0,
      ));
      for (const candidate of known) consider(candidate, system.verifierAt + a);
    }
    for (let h = 0; h < system.holders.length; h++) {
      const id = system.holderId(state, h);
      const known = (this.#holderCandidates[h]![id] ??= system.holders[h]!.candidates(
        id,
        goal.target[h]!,
        goal.compromised,
      ));
      for (const candidate of known) {
        if (candidate.action.kind === "end-sessions" && this.#stillAccepted(state, h, candidate.action.version!))
          continue;
        consider(candidate, system.holderAt + h);
      }
    }
  }

  /** Ending a grant is of no use while its version would be let in again. */
  #stillAccepted(state: State, holder: number, version: number): boolean {
    const { system } = this;
    return system.holders[holder]!.edges.some((edge) => {
      const verifier = system.topology.edges[edge]!.verifier;
      const anywhere = system.verifiers[verifier]!.anywhere[system.verifierId(state, verifier)]!;
      return has(anywhere & ~state[system.expiredAt]!, version);
    });
  }
}

/** Decides from a state vector. */
export function decide(planner: Planner, state: State): Decision {
  if (planner.done(state)) return { kind: "done" };
  const offers = planner.offers(state);
  if (offers.length > 0) return { kind: "act", actions: offers.map((offer) => offer.action) };
  const waits = planner.waits(state);
  if (waits.length > 0) return { kind: "wait", waits };
  return { kind: "blocked", reasons: planner.refusals(state) };
}

/**
 * Which actions are safe now. Pure, deterministic, total.
 * @throws RangeError if the topology has more than 30 versions or items, or the situation does not fit it.
 */
export function next(topology: Topology, situation: Situation, goal: Goal): Decision {
  // Nothing is merged or sorted here: the units in the answer are those of the question.
  const system = new System(topology, "full");
  return decide(new Planner(system, goal), system.encode(situation));
}
