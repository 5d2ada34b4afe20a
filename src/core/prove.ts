/**
 * The proof: every interleaving of what `next` offers with what the world may do by itself, including our own crash at any moment and, on
 * request, expiry and a person's edits. Each state is checked against the definition (is anybody refused now?), not against the guard.
 *
 * Small topologies are explored whole. Larger ones are taken apart: safety edge by edge (a part of the topology has every behaviour of the
 * whole and more, because fewer edges guard it), and the absence of dead ends on runs in which the world always moves first and independent
 * actions are taken in one order only (ADR 0005). What fits neither is *not proved*, never *proved*.
 */
import { bit, has, members, size, type Action, type Goal, type Mask, type Situation, type Topology } from "./model.ts";
import { Planner } from "./next.ts";
import {
  System,
  lostMaterial,
  volatileMaterial,
  type Abstraction,
  type LocalMove,
  type Mutant,
  type State,
} from "./system.ts";
import { describeAction, describeBlocked, describeWait } from "./words.ts";

export interface ProveOptions {
  readonly abstraction?: Abstraction;
  /** `auto`: explore whole up to `maxStates`, and take apart what is larger. */
  readonly method?: "auto" | "exhaustive" | "compositional";
  /** Our own crash between making a one-time value and sealing it. Default true. */
  readonly crash?: boolean;
  /** How many edits by a person, anywhere and at any moment. Default 0. */
  readonly humanEdits?: number;
  /** Versions that may run out at any moment. */
  readonly expire?: Mask;
  /** Per component. Default 200,000. */
  readonly maxStates?: number;
  /** Actions that fail for ever. */
  readonly fails?: (action: Action) => boolean;
  /** A deliberate fault of the guard, for tests of the proof itself. */
  readonly mutant?: Mutant;
}

export type Verdict = "proved" | "refuted" | "blocked" | "not-proved";

export interface Proof {
  readonly verdict: Verdict;
  readonly method: "exhaustive" | "compositional";
  readonly states: number;
  readonly transitions: number;
  /** What was broken. `liveness`: a dead end, from which the goal cannot be reached. */
  readonly violated?: "lock-out" | "orphan" | "breach" | "liveness";
  /** The shortest run that breaks it, in words. */
  readonly counterexample?: readonly string[];
  /** What exactly went wrong at the end of the counterexample, in a sentence. */
  readonly why?: string;
  /** Every run ends: the moves of a run without crashes and edits never repeat a state. */
  readonly terminates: boolean;
}

type Label = { readonly action: Action } | { readonly move: LocalMove } | { readonly text: string };

/** A set of state vectors, numbered as they come: open addressing over one flat array. */
export class StateSet {
  readonly #width: number;
  #data: Int32Array;
  #slots: Int32Array;
  size = 0;
  constructor(width: number) {
    this.#width = width;
    this.#data = new Int32Array(width * 1024);
    this.#slots = new Int32Array(4096).fill(-1);
  }
  #hash(state: State): number {
    let hash = 0x811c9dc5;
    for (let i = 0; i < this.#width; i++) {
      hash = Math.imul(hash ^ state[i]!, 0x01000193);
      hash ^= hash >>> 15;
    }
    return hash >>> 0;
  }
  /** The number of the state; a new one gets `size` before the call. */
  add(state: State): number {
    const mask = this.#slots.length - 1;
    let slot = this.#hash(state) & mask;
    for (;;) {
      const id = this.#slots[slot]!;
      if (id < 0) break;
      const at = id * this.#width;
      let same = true;
      for (let i = 0; i < this.#width; i++)
        if (this.#data[at + i] !== state[i]) {
          same = false;
          break;
        }
      if (same) return id;
      slot = (slot + 1) & mask;
    }
    const id = this.size++;
    this.#slots[slot] = id;
    if ((id + 1) * this.#width > this.#data.length) {
      const grown = new Int32Array(this.#data.length * 2);
      grown.set(this.#data);
      this.#data = grown;
    }
    this.#data.set(state, id * this.#width);
    if (this.size * 2 > this.#slots.length) this.#rehash();
    return id;
  }
  #rehash(): void {
    this.#slots = new Int32Array(this.#slots.length * 4).fill(-1);
    const mask = this.#slots.length - 1;
    for (let id = 0; id < this.size; id++) {
      let slot = this.#hash(this.get(id)) & mask;
      while (this.#slots[slot]! >= 0) slot = (slot + 1) & mask;
      this.#slots[slot] = id;
    }
  }
  /** A view, not a copy: valid until the next `add`. */
  get(id: number): State {
    return this.#data.subarray(id * this.#width, (id + 1) * this.#width);
  }
}

interface Explored {
  readonly states: StateSet;
  readonly transitions: number;
  readonly complete: boolean;
  readonly violation: {
    readonly kind: "lock-out" | "orphan" | "breach";
    readonly at: number;
    readonly why: string;
  } | null;
  readonly parents: readonly number[];
  readonly labels: readonly Label[];
  /** Successors by moves of a fair run (neither crash, expiry nor a person), flat, with the start of each state's list. */
  readonly next: readonly number[];
  readonly nextStart: readonly number[];
}

function expiryText(topology: Topology, version: number): string {
  return `${topology.versions[version]!.name} expires`;
}

/** All states that can be reached, each checked. With `raw`, preferences among safe actions are ignored (a superset of behaviours). */
export function explore(
  planner: Planner,
  starts: readonly State[],
  options: ProveOptions & { readonly raw?: boolean; readonly keepGoing?: boolean } = {},
): Explored {
  const { system, goal } = planner;
  const { topology } = system;
  const crash = options.crash ?? true;
  const disturbed = (options.humanEdits ?? 0) > 0 || (options.expire ?? 0) !== 0;
  const limit = options.maxStates ?? 200_000;
  const states = new StateSet(system.width);
  const parents: number[] = [];
  const labels: Label[] = [];
  const next: number[] = [];
  const nextStart: number[] = [];
  let transitions = 0;
  let violation: Explored["violation"] = null;
  const exposed = new Uint8Array(topology.edges.length);
  for (const edge of goal.exposed) exposed[edge] = 1;
  for (const start of starts) {
    const before = states.size;
    if (states.add(start) === before) {
      parents.push(-1);
      labels.push({ text: "start" });
    }
  }

  for (let at = 0; at < states.size && states.size <= limit; at++) {
    nextStart.push(next.length);
    const state = states.get(at).slice();
    const visit = (to: State, label: Label, by: "us" | "world" | "other"): void => {
      transitions++;
      const before = states.size;
      const id = states.add(to);
      if (id === before) {
        parents.push(at);
        labels.push(label);
      }
      if (id !== at && by !== "other") next.push(id);
      if (violation && !options.keepGoing) return;
      const found = by === "other" ? null : check(state, to, by);
      if (found && !violation) violation = { ...found, at: id };
    };
    const check = (
      from: State,
      to: State,
      by: "us" | "world",
    ): { kind: "lock-out" | "orphan" | "breach"; why: string } | null => {
      for (let e = 0; e < exposed.length; e++) {
        if (exposed[e]) continue;
        // With edits and expiry about, a refusal may be theirs: then only what we ourselves newly make possible counts.
        const grown = disturbed
          ? by === "us"
            ? system.violation(to, e) & ~system.violation(from, e)
            : 0
          : system.refused(to, e) & ~system.refused(from, e);
        if (grown) {
          const versions = [...members(grown)].map((v) => topology.versions[v]!.name).join(", ");
          const { holder, verifier } = topology.edges[e]!;
          return {
            kind: "lock-out",
            why: `${topology.holders[holder]!.name} ${topology.edges[e]!.drain === "job" ? "has data under" : "presents"} ${versions}, and ${topology.verifiers[verifier]!.name} does not accept it`,
          };
        }
      }
      if (by !== "us") return null;
      if (system.orphaned(to) && !system.orphaned(from))
        return { kind: "orphan", why: "a version is in use that was never sealed: a crash now would lose it" };
      if (goal.compromised)
        for (let a = 0; a < system.verifiers.length; a++) {
          const table = system.verifiers[a]!;
          const gained =
            system.accepts(table.locals[system.verifierId(to, a)]!.configured) &
            ~system.accepts(table.locals[system.verifierId(from, a)]!.configured) &
            goal.compromised;
          if (gained)
            return {
              kind: "breach",
              why: `${topology.verifiers[a]!.name} trusts a compromised version again`,
            };
        }
      return null;
    };

    for (const offer of options.raw ? planner.guarded(state) : planner.offers(state))
      if (!options.fails?.(offer.action)) visit(offer.to, { action: offer.action }, "us");
    system.eachMove(state, (place, move) => {
      const to = state.slice();
      to[place] = move.to;
      visit(to, { move }, "world");
    });
    if (crash)
      for (const version of system.issued)
        if (system.material(state, version) === volatileMaterial) {
          const to = state.slice();
          to[system.issuedAt(version)] = lostMaterial;
          visit(
            to,
            { text: `we crash, and ${topology.versions[version]!.name} is lost before it was sealed` },
            "other",
          );
        }
    if (options.expire)
      for (const version of members(options.expire & ~state[system.expiredAt]!)) {
        const to = state.slice();
        to[system.expiredAt] = to[system.expiredAt]! | bit(version);
        visit(to, { text: expiryText(topology, version) }, "other");
      }
    if (state[system.budgetAt]! > 0) humanEdits(system, state, (to, text) => visit(to, { text }, "other"));
    if (violation && !options.keepGoing) break;
  }
  return {
    states,
    transitions,
    complete: states.size <= limit && (violation === null || options.keepGoing === true),
    violation,
    parents,
    labels,
    next,
    nextStart,
  };
}

/** What one person may do behind our back: toggle a trust line, point a holder at another stored version, delete one. */
function humanEdits(system: System, state: State, visit: (to: State, text: string) => void): void {
  const { topology } = system;
  const emit = (at: number, id: number, text: string): void => {
    const to = state.slice();
    to[at] = id;
    to[system.budgetAt] = to[system.budgetAt]! - 1;
    visit(to, `somebody ${text}`);
  };
  system.verifiers.forEach((table, a) => {
    const id = system.verifierId(state, a);
    const { configured } = table.locals[id]!;
    topology.items.forEach((item, t) => {
      if (item.version !== null && system.materialName(state, item.version) !== "sealed" && !has(configured, t)) return;
      const { to } = table.write(id, configured ^ bit(t));
      if (to >= 0)
        emit(
          system.verifierAt + a,
          to,
          `${has(configured, t) ? "removes" : "adds"} ${item.name} at ${topology.verifiers[a]!.name}`,
        );
    });
  });
  system.holders.forEach((table, h) => {
    const local = table.locals[system.holderId(state, h)]!;
    local.units.forEach((unit, at) => {
      const put = (changed: typeof unit, text: string): void =>
        emit(
          system.holderAt + h,
          table.intern({ ...local, units: local.units.map((x, i) => (i === at ? changed : x)) }),
          text,
        );
      for (const version of members(unit.stored)) {
        const name = topology.versions[version]!.name;
        if (unit.current !== version)
          put({ ...unit, current: version }, `points ${topology.holders[h]!.name} at ${name}`);
        put(
          { ...unit, stored: unit.stored & ~bit(version), current: unit.current === version ? -1 : unit.current },
          `deletes ${name} from ${topology.holders[h]!.name}`,
        );
      }
    });
  });
}

function storyTo(planner: Planner, explored: Explored, at: number): string[] {
  const { topology } = planner.system;
  const story: string[] = [];
  for (let id = at; id >= 0 && explored.parents[id]! >= 0; id = explored.parents[id]!) {
    const label = explored.labels[id]!;
    story.push(
      "action" in label
        ? describeAction(topology, label.action)
        : "move" in label
          ? describeWait(topology, label.move.wait, label.move.copy)
          : label.text,
    );
  }
  return story.reverse();
}

/** Whether every state can still reach the goal by fair moves, and whether fair runs end. */
function liveness(planner: Planner, explored: Explored): { deadEnd: number; stuck: number; terminates: boolean } {
  const count = explored.states.size;
  const { next, nextStart } = explored;
  const end = (id: number): number => (id + 1 < nextStart.length ? nextStart[id + 1]! : next.length);
  const inDegree = new Int32Array(count);
  for (const to of next) inDegree[to]!++;
  const backStart = new Int32Array(count + 1);
  for (let id = 0; id < count; id++) backStart[id + 1] = backStart[id]! + inDegree[id]!;
  const fill = backStart.slice();
  const back = new Int32Array(next.length);
  for (let id = 0; id < count; id++) for (let k = nextStart[id]!; k < end(id); k++) back[fill[next[k]!]!++] = id;

  const reaches = new Uint8Array(count);
  const queue: number[] = [];
  for (let id = 0; id < count; id++)
    if (planner.done(explored.states.get(id))) {
      reaches[id] = 1;
      queue.push(id);
    }
  for (let q = 0; q < queue.length; q++)
    for (let k = backStart[queue[q]!]!; k < backStart[queue[q]! + 1]!; k++)
      if (!reaches[back[k]!]) {
        reaches[back[k]!] = 1;
        queue.push(back[k]!);
      }
  let stuck = 0;
  let deadEnd = -1;
  for (let id = 0; id < count; id++)
    if (!reaches[id]) {
      stuck++;
      if (deadEnd < 0 && end(id) === nextStart[id]) deadEnd = id;
    }
  return { deadEnd, stuck, terminates: acyclic(explored) };
}

function acyclic(explored: Explored): boolean {
  const count = explored.states.size;
  const { next, nextStart } = explored;
  const end = (id: number): number => (id + 1 < nextStart.length ? nextStart[id + 1]! : next.length);
  const left = new Int32Array(count);
  for (const to of next) left[to]!++;
  const order: number[] = [];
  for (let id = 0; id < count; id++) if (left[id] === 0) order.push(id);
  for (let i = 0; i < order.length; i++)
    for (let k = nextStart[order[i]!]!; k < end(order[i]!); k++) if (--left[next[k]!]! === 0) order.push(next[k]!);
  return order.length === count;
}

/** A part of a topology: some sites, the edges among them, all versions and items. */
interface Part {
  readonly topology: Topology;
  readonly start: Situation;
  readonly goal: Goal;
}

function restrict(
  part: Part,
  verifiers: readonly number[],
  holders: readonly number[],
  keepEdge: (edge: number) => boolean,
): Part {
  const { topology, start, goal } = part;
  const newVerifier = new Map(verifiers.map((a, i) => [a, i]));
  const newHolder = new Map(holders.map((h, i) => [h, i]));
  const edges = topology.edges.flatMap((edge, e) =>
    newVerifier.has(edge.verifier) && newHolder.has(edge.holder) && keepEdge(e) ? [e] : [],
  );
  return {
    topology: {
      ...topology,
      versions: topology.versions.map((version) => ({
        ...version,
        issuer: version.issuer && {
          ...version.issuer,
          autoTrust: version.issuer.autoTrust.flatMap((x) =>
            newVerifier.has(x.verifier) ? [{ ...x, verifier: newVerifier.get(x.verifier)! }] : [],
          ),
          autoCurrent: version.issuer.autoCurrent.flatMap((h) => (newHolder.has(h) ? [newHolder.get(h)!] : [])),
        },
      })),
      verifiers: verifiers.map((a) => topology.verifiers[a]!),
      holders: holders.map((h) => topology.holders[h]!),
      edges: edges.map((e) => ({
        ...topology.edges[e]!,
        verifier: newVerifier.get(topology.edges[e]!.verifier)!,
        holder: newHolder.get(topology.edges[e]!.holder)!,
      })),
    },
    start: {
      ...start,
      verifiers: verifiers.map((a) => start.verifiers[a]!),
      holders: holders.map((h) => {
        const state = start.holders[h]!;
        const kept = topology.edges
          .flatMap((edge, e) => (edge.holder === h ? [e] : []))
          .flatMap((e, i) => (edges.includes(e) ? [i] : []));
        return { ...state, inFlight: kept.map((i) => state.inFlight[i]!), job: kept.map((i) => state.job[i]!) };
      }),
    },
    goal: {
      ...goal,
      target: holders.map((h) => goal.target[h]!),
      final: verifiers.map((a) => goal.final[a]!),
      exposed: edges.flatMap((e, i) => (goal.exposed.includes(e) ? [i] : [])),
    },
  };
}

const maskOf = (version: number | null): Mask => (version === null ? 0 : bit(version));

/** Sites that share no edge and no issued version do not interact and are proved apart. */
function components(part: Part): Part[] {
  const { topology, goal } = part;
  const verifierCount = topology.verifiers.length;
  const parent = Array.from(
    { length: verifierCount + topology.holders.length + topology.versions.length },
    (_, i) => i,
  );
  const find = (i: number): number => (parent[i] === i ? i : (parent[i] = find(parent[i]!)));
  const join = (a: number, b: number): void => {
    parent[find(a)] = find(b);
  };
  const versionAt = verifierCount + topology.holders.length;
  for (const edge of topology.edges) join(edge.verifier, verifierCount + edge.holder);
  topology.versions.forEach((version, v) => {
    if (!version.issuer) return;
    goal.target.forEach((target, h) => {
      if (target === v) join(versionAt + v, verifierCount + h);
    });
    topology.items.forEach((item, t) => {
      if (item.version !== v) return;
      topology.verifiers.forEach((_, a) => {
        if (has(goal.final[a]! | part.start.verifiers[a]!.configured, t)) join(versionAt + v, a);
      });
    });
    for (const x of version.issuer.autoTrust) join(versionAt + v, x.verifier);
    for (const h of version.issuer.autoCurrent) join(versionAt + v, verifierCount + h);
  });
  const groups = new Map<number, { verifiers: number[]; holders: number[] }>();
  const group = (i: number) => {
    const root = find(i);
    let found = groups.get(root);
    if (!found) groups.set(root, (found = { verifiers: [], holders: [] }));
    return found;
  };
  topology.verifiers.forEach((_, a) => group(a).verifiers.push(a));
  topology.holders.forEach((_, h) => group(verifierCount + h).holders.push(h));
  return [...groups.values()].map(({ verifiers, holders }) => {
    const result = restrict(part, verifiers, holders, () => true);
    // Versions that nobody here ends with, trusts or holds are not this component's business.
    const placed =
      result.goal.target.reduce((mask, v) => mask | bit(v), 0) |
      result.start.holders.reduce(
        (mask, holder) =>
          holder.units.reduce(
            (all, unit) =>
              unit.processes.reduce(
                (some, process) => some | maskOf(process.live) | maskOf(process.granted),
                all | unit.stored | maskOf(unit.current),
              ),
            mask,
          ),
        0,
      );
    const items = result.start.verifiers.reduce(
      (mask, verifier, a) =>
        verifier.enforced.reduce((all, set) => all | set, mask | verifier.configured | result.goal.final[a]!),
      0,
    );
    const touched = topology.versions.reduce(
      (mask, version, v) =>
        version.issuer &&
        (topology.items.some((item, t) => item.version === v && has(items, t)) ||
          version.issuer.autoTrust.some((x) => verifiers.includes(x.verifier)) ||
          version.issuer.autoCurrent.some((h) => holders.includes(h)))
          ? mask | bit(v)
          : mask,
      placed,
    );
    return {
      ...result,
      start: {
        ...result.start,
        // An orphan belongs to the component whose sites it touches; elsewhere it is as if it had never been made.
        material: result.start.material.map((material, v) =>
          has(touched, v) || !topology.versions[v]!.issuer ? material : "none",
        ),
      },
    };
  });
}

/** Proves one goal from one situation. Pure; the same input gives the same answer and the same counts. */
export function prove(topology: Topology, start: Situation, goal: Goal, options: ProveOptions = {}): Proof {
  const whole: Part = { topology, start, goal };
  // A person's edits may touch any site, but each edit only one: with a budget of one, components may still be proved apart.
  const parts = (options.humanEdits ?? 0) > 1 ? [whole] : components(whole);
  let states = 0;
  let transitions = 0;
  let terminates = true;
  let method: Proof["method"] = "exhaustive";
  let worst: Proof | null = null;
  const rank: Record<Verdict, number> = { refuted: 3, blocked: 2, "not-proved": 1, proved: 0 };
  for (const part of parts) {
    const proof = provePart(part, options);
    states += proof.states;
    transitions += proof.transitions;
    terminates &&= proof.terminates;
    if (proof.method === "compositional") method = "compositional";
    if (!worst || rank[proof.verdict] > rank[worst.verdict]) worst = proof;
  }
  if (!worst) return { verdict: "proved", method, states: 1, transitions: 0, terminates: true };
  return { ...worst, method, states, transitions, terminates };
}

function provePart(part: Part, options: ProveOptions): Proof {
  const method = options.method ?? "auto";
  if (method !== "compositional") {
    const disturbed = (options.humanEdits ?? 0) > 0 || (options.expire ?? 0) !== 0 || options.fails !== undefined;
    const mayTakeApart = method === "auto" && !disturbed;
    // Past a few thousand states taking apart is the quicker way, and the whole search is kept for where it is not possible.
    const whole = proveWhole(
      part,
      mayTakeApart ? { ...options, maxStates: Math.min(options.maxStates ?? 200_000, 20_000) } : options,
    );
    if (whole.verdict !== "not-proved" || !mayTakeApart) return whole;
    const apart = proveApart(part, options);
    if (apart.verdict !== "not-proved") return apart;
    return proveWhole(part, options);
  }
  return proveApart(part, options);
}

function proveWhole(part: Part, options: ProveOptions): Proof {
  const system = new System(part.topology, options.abstraction, options.mutant);
  const planner = new Planner(system, part.goal);
  const explored = explore(planner, [system.encode(part.start, options.humanEdits ?? 0)], options);
  const base = { method: "exhaustive" as const, states: explored.states.size, transitions: explored.transitions };
  if (explored.violation)
    return {
      ...base,
      verdict: "refuted",
      violated: explored.violation.kind,
      counterexample: storyTo(planner, explored, explored.violation.at),
      why: explored.violation.why,
      terminates: false,
    };
  if (!explored.complete) return { ...base, verdict: "not-proved", terminates: false };
  const live = liveness(planner, explored);
  if (live.stuck > 0)
    return {
      ...base,
      verdict: "blocked",
      violated: "liveness",
      counterexample: live.deadEnd >= 0 ? storyTo(planner, explored, live.deadEnd) : [],
      why:
        live.deadEnd >= 0 ? whyBlocked(planner, explored.states.get(live.deadEnd)) : "The run can go round for ever.",
      terminates: live.terminates,
    };
  return { ...base, verdict: "proved", terminates: live.terminates };
}

/** In a sentence: what is needed and what forbids it. */
export function whyBlocked(planner: Planner, state: State): string {
  const { topology } = planner.system;
  const reasons = planner.refusals(state);
  if (reasons.length === 0) return "Nothing is left to do, and the goal is not reached.";
  return reasons.map((reason) => describeBlocked(topology, reason)).join(" ");
}

/** Safety edge by edge, termination from the same parts, dead ends on reduced runs. */
function proveApart(part: Part, options: ProveOptions): Proof {
  const { topology, goal } = part;
  const needed = goal.target.reduce((mask, v) => mask | bit(v), 0);
  let states = 0;
  let transitions = 0;
  const notProved = (): Proof => ({
    verdict: "not-proved",
    method: "compositional",
    states,
    transitions,
    terminates: false,
  });
  // A grant that an exposed edge refuses can be lost and won in either order, so the world's moves are not confluent there.
  if (goal.exposed.some((e) => topology.holders[topology.edges[e]!.holder]!.session)) return notProved();
  const pieces: { verifiers: number[]; holders: number[]; edge: number }[] = topology.edges.map((edge, e) => ({
    verifiers: [edge.verifier],
    holders: [edge.holder],
    edge: e,
  }));
  topology.verifiers.forEach((_, a) => {
    if (!topology.edges.some((edge) => edge.verifier === a)) pieces.push({ verifiers: [a], holders: [], edge: -1 });
  });
  topology.holders.forEach((_, h) => {
    if (!topology.edges.some((edge) => edge.holder === h)) pieces.push({ verifiers: [], holders: [h], edge: -1 });
  });
  // Parts that are alike but for names have the same states: each shape is explored once.
  const shapes = new Map<string, { states: number; transitions: number }>();
  for (const piece of pieces) {
    const small = restrict(part, piece.verifiers, piece.holders, (e) => e === piece.edge);
    const shape = shapeOf(small);
    const known = shapes.get(shape);
    if (known) continue;
    const system = new System(small.topology, options.abstraction, options.mutant);
    const planner = new Planner(system, small.goal, needed);
    const explored = explore(planner, [system.encode(small.start)], {
      ...options,
      raw: true,
      maxStates: options.maxStates ?? 200_000,
    });
    states += explored.states.size;
    transitions += explored.transitions;
    shapes.set(shape, { states: explored.states.size, transitions: explored.transitions });
    // A violation in a part may be one that the rest of the topology forbids: only the whole can refute.
    if (explored.violation || !explored.complete || !acyclic(explored)) return notProved();
  }
  const system = new System(topology, options.abstraction, options.mutant);
  const planner = new Planner(system, goal);
  const reduced = reducedRuns(planner, system.encode(part.start), options);
  states += reduced.states;
  transitions += reduced.transitions;
  if (!reduced.complete) return notProved();
  if (reduced.deadEnd)
    return {
      verdict: "blocked",
      method: "compositional",
      states,
      transitions,
      violated: "liveness",
      counterexample: reduced.story,
      why: reduced.deadEnd,
      terminates: true,
    };
  return { verdict: "proved", method: "compositional", states, transitions, terminates: true };
}

/** A key that two parts share exactly when they differ in names, places and durations only. */
function shapeOf(part: Part): string {
  return JSON.stringify([
    part.topology.versions.map((v) => v.issuer && [v.issuer.oneTime, v.issuer.autoTrust, v.issuer.autoCurrent]),
    part.topology.items.map((t) => [t.admits, t.denies, t.version]),
    part.topology.verifiers.map((a) => [a.capacity, a.replicas, a.serial, a.noTwoToTwo, a.restorable]),
    part.topology.holders.map((h) => [h.units, h.processes, h.storeCapacity, h.staging, h.session]),
    part.topology.edges.map((e) => [e.holder, e.verifier, e.drain]),
    part.start,
    part.goal,
  ]);
}

/**
 * Dead ends only. The world's moves shrink what may be presented and grow what is accepted, so they never forbid a later action and commute
 * with each other: letting them go first loses no dead end. Actions at sites whose writes can never be refused neither disable nor are
 * disabled by anything that leads to the goal: one order stands for all. Everything else branches.
 */
function reducedRuns(
  planner: Planner,
  start: State,
  options: ProveOptions,
): { states: number; transitions: number; complete: boolean; deadEnd: string | null; story: string[] } {
  const { system, goal } = planner;
  const { topology } = system;
  const roomy = topology.verifiers.map((verifier, a) => {
    const local = system.verifiers[a]!.locals[system.verifierId(start, a)]!;
    // What issuing puts there takes up room as well, wanted or not.
    const issued = topology.versions.reduce(
      (mask, { issuer }) =>
        (issuer?.autoTrust ?? []).reduce((all, auto) => (auto.verifier === a ? all | bit(auto.item) : all), mask),
      0,
    );
    const union = local.configured | goal.final[a]! | issued;
    const denials = topology.items.some((item, t) => item.denies !== 0 && has(union, t));
    const replaces = verifier.capacity === 1 && size(union & system.admitting) > 1;
    return !denials && !replaces && size(union & system.admitting) <= verifier.capacity && verifier.restorable;
  });
  const independent = (action: Action): boolean => {
    if (action.exposes.length > 0) return false;
    if (action.kind === "seal" || action.kind === "forget-orphan") return true;
    if (action.kind === "issue") {
      const { issuer } = topology.versions[action.version!]!;
      return issuer!.autoCurrent.length === 0 && issuer!.autoTrust.every((x) => roomy[x.verifier]);
    }
    if (action.verifier !== null) return roomy[action.verifier]!;
    const holder = action.holder!;
    const shape = topology.holders[holder]!;
    if (shape.storeCapacity < 2 && shape.units > 1) return false;
    return system.holders[holder]!.edges.every((edge) => {
      const { verifier } = topology.edges[edge]!;
      return roomy[verifier]! && has(system.accepts(goal.final[verifier]!), goal.target[holder]!);
    });
  };
  const limit = options.maxStates ?? 200_000;
  const states = new StateSet(system.width);
  const parents: number[] = [-1];
  const labels: string[] = [""];
  let transitions = 0;
  states.add(start);
  for (let at = 0; at < states.size && states.size <= limit; at++) {
    const state = states.get(at).slice();
    const visit = (to: State, text: () => string): void => {
      transitions++;
      const before = states.size;
      if (states.add(to) === before) {
        parents.push(at);
        labels.push(text());
      }
    };
    if (options.crash ?? true)
      for (const version of system.issued)
        if (system.material(state, version) === volatileMaterial) {
          const to = state.slice();
          to[system.issuedAt(version)] = lostMaterial;
          visit(to, () => `we crash, and ${topology.versions[version]!.name} is lost before it was sealed`);
        }
    let moved = false;
    system.eachMove(state, (place, move) => {
      if (moved) return;
      moved = true;
      const to = state.slice();
      to[place] = move.to;
      visit(to, () => describeWait(topology, move.wait, move.copy));
    });
    if (moved) continue;
    const offers = planner.offers(state);
    const single = offers.find((offer) => independent(offer.action));
    for (const offer of single ? [single] : offers) visit(offer.to, () => describeAction(topology, offer.action));
    if (offers.length === 0 && !planner.done(state)) {
      const story: string[] = [];
      for (let id = at; parents[id]! >= 0; id = parents[id]!) story.push(labels[id]!);
      return {
        states: states.size,
        transitions,
        complete: true,
        deadEnd: whyBlocked(planner, state),
        story: story.reverse(),
      };
    }
  }
  return { states: states.size, transitions, complete: states.size <= limit, deadEnd: null, story: [] };
}
