/**
 * A fixed order of steps, such as a guide's, checked against every move that the world may make in between. No guard is asked: this is what
 * happens to somebody who follows the list.
 */
import { bit, has, size, type Mask, type Situation, type Topology } from "./model.ts";
import { StateSet } from "./prove.ts";
import { System, sealedMaterial, type State } from "./system.ts";
import { describeEdge, describeWait } from "./words.ts";

/** One line of a list that somebody follows. Indexes are those of the topology. */
export type ScriptStep =
  | { readonly kind: "issue"; readonly version: number }
  | { readonly kind: "trust" | "distrust"; readonly item: number; readonly verifier: number }
  /** Replaces the whole set. */
  | { readonly kind: "write"; readonly set: Mask; readonly verifier: number }
  | { readonly kind: "stage" | "activate" | "purge"; readonly version: number; readonly holder: number }
  | { readonly kind: "reencrypt"; readonly edge: number; readonly version: number }
  | { readonly kind: "end-sessions"; readonly holder: number; readonly version: number }
  /** Goes on only when this holds; the words are shown. */
  | { readonly kind: "await"; readonly text: string; readonly until: (situation: Situation) => boolean };

export interface ScriptProof {
  readonly verdict: "safe" | "refuted";
  readonly violated?: "lock-out" | "capacity" | "two-to-two" | "not-restorable" | "still-usable";
  readonly states: number;
  /** The shortest run that breaks it, in words. */
  readonly counterexample: readonly string[];
  readonly why?: string;
}

/**
 * @param options.compromised after the last step, none of these versions may be of use to anybody in any reachable end
 */
export function proveScript(
  topology: Topology,
  start: Situation,
  script: readonly ScriptStep[],
  options: { readonly compromised?: Mask; readonly maxStates?: number } = {},
): ScriptProof {
  const system = new System(topology, "counter");
  const width = system.width + 1;
  const states = new StateSet(width);
  const parents: number[] = [-1];
  const labels: string[] = [""];
  const first = new Int32Array(width);
  first.set(system.encode(start));
  states.add(first);
  const storyTo = (at: number): string[] => {
    const story: string[] = [];
    for (let id = at; parents[id]! >= 0; id = parents[id]!) story.push(labels[id]!);
    return story.reverse();
  };
  const limit = options.maxStates ?? 500_000;
  for (let at = 0; at < states.size && states.size < limit; at++) {
    const full = states.get(at).slice();
    const state = full.subarray(0, system.width);
    const done = full[system.width]!;
    for (let e = 0; e < topology.edges.length; e++) {
      const refused = system.refused(state, e);
      if (refused)
        return {
          verdict: "refuted",
          violated: "lock-out",
          states: states.size,
          counterexample: storyTo(at),
          why: `${describeEdge(topology, e)}: ${topology.versions
            .filter((_, v) => has(refused, v))
            .map((v) => v.name)
            .join(", ")} is refused`,
        };
    }
    const push = (next: State, steps: number, label: string): void => {
      const to = new Int32Array(width);
      to.set(next.subarray(0, system.width));
      to[system.width] = steps;
      const before = states.size;
      if (states.add(to) === before) {
        parents.push(at);
        labels.push(label);
      }
    };
    let moved = false;
    system.eachMove(state, (place, move) => {
      moved = true;
      const to = state.slice();
      to[place] = move.to;
      push(to, done, describeWait(topology, move.wait, move.copy));
    });
    const step = script[done];
    if (!step) {
      if (!moved && options.compromised && system.usable(state, options.compromised))
        return {
          verdict: "refuted",
          violated: "still-usable",
          states: states.size,
          counterexample: storyTo(at),
          why: "the list is at its end, and a compromised version is still of use somewhere",
        };
      continue;
    }
    const result = apply(system, state, step);
    if (result === "later") continue;
    if ("refusal" in result) {
      // A write that is only early is tried again after the world has moved.
      if (result.refusal === "serial") continue;
      return {
        verdict: "refuted",
        violated: result.refusal,
        states: states.size,
        counterexample: [...storyTo(at), `${result.text}: refused`],
        why: `the system refuses the write (${result.refusal})`,
      };
    }
    push(result.to, done + 1, result.text);
  }
  return { verdict: "safe", states: states.size, counterexample: [] };
}

function apply(
  system: System,
  state: State,
  step: ScriptStep,
):
  | "later"
  | { to: State; text: string }
  | { refusal: "capacity" | "two-to-two" | "serial" | "not-restorable"; text: string } {
  const { topology } = system;
  const to = state.slice();
  const write = (verifier: number, set: Mask, text: string) => {
    const { to: id, refusal } = system.verifiers[verifier]!.write(system.verifierId(state, verifier), set);
    if (id < 0) return { refusal: refusal!, text };
    to[system.verifierAt + verifier] = id;
    return { to, text };
  };
  const configuredAt = (verifier: number): Mask =>
    system.verifiers[verifier]!.locals[system.verifierId(state, verifier)]!.configured;
  switch (step.kind) {
    case "await":
      return step.until(system.decode(state)) ? { to, text: step.text } : "later";
    case "issue": {
      const { issuer, name } = topology.versions[step.version]!;
      const at = system.issuedAt(step.version);
      if (at >= 0) to[at] = sealedMaterial;
      for (const auto of issuer?.autoTrust ?? []) {
        const written = system.verifiers[auto.verifier]!.write(
          to[system.verifierAt + auto.verifier]!,
          configuredAt(auto.verifier) | bit(auto.item),
        );
        if (written.to < 0) return { refusal: written.refusal!, text: `issue ${name}` };
        to[system.verifierAt + auto.verifier] = written.to;
      }
      for (const holder of issuer?.autoCurrent ?? [])
        changeUnits(system, to, holder, (unit) => ({
          ...unit,
          stored: unit.stored | bit(step.version),
          current: step.version,
        }));
      return { to, text: `issue ${name}` };
    }
    case "trust":
      return write(
        step.verifier,
        configuredAt(step.verifier) | bit(step.item),
        `trust ${topology.items[step.item]!.name} at ${topology.verifiers[step.verifier]!.name}`,
      );
    case "distrust":
      return write(
        step.verifier,
        configuredAt(step.verifier) & ~bit(step.item),
        `stop trusting ${topology.items[step.item]!.name} at ${topology.verifiers[step.verifier]!.name}`,
      );
    case "write":
      return write(
        step.verifier,
        step.set,
        `write a set of ${size(step.set)} at ${topology.verifiers[step.verifier]!.name}`,
      );
    case "stage":
      changeUnits(system, to, step.holder, (unit) => ({ ...unit, stored: unit.stored | bit(step.version) }));
      return { to, text: `put ${topology.versions[step.version]!.name} at ${topology.holders[step.holder]!.name}` };
    case "activate": {
      const only = topology.holders[step.holder]!.storeCapacity === 1;
      changeUnits(system, to, step.holder, (unit) => ({
        ...unit,
        stored: only ? bit(step.version) : unit.stored | bit(step.version),
        current: step.version,
      }));
      return {
        to,
        text: `make ${topology.versions[step.version]!.name} current at ${topology.holders[step.holder]!.name}`,
      };
    }
    case "purge":
      changeUnits(system, to, step.holder, (unit) => ({ ...unit, stored: unit.stored & ~bit(step.version) }));
      return {
        to,
        text: `delete ${topology.versions[step.version]!.name} from ${topology.holders[step.holder]!.name}`,
      };
    case "reencrypt": {
      const { holder } = topology.edges[step.edge]!;
      const table = system.holders[holder]!;
      const local = table.locals[system.holderId(state, holder)]!;
      to[system.holderAt + holder] = table.intern({
        ...local,
        job: local.job.map((job, i) => (table.edges[i] === step.edge ? step.version : job)),
      });
      return { to, text: `start re-encrypting the data of ${topology.holders[holder]!.name}` };
    }
    case "end-sessions":
      changeUnits(system, to, step.holder, (unit) => ({
        ...unit,
        processes: unit.processes.map((p) => (((p >>> 5) & 31) - 1 === step.version ? p & 31 : p)),
      }));
      return {
        to,
        text: `end what was granted to ${topology.versions[step.version]!.name} at ${topology.holders[step.holder]!.name}`,
      };
  }
}

function changeUnits(
  system: System,
  to: State,
  holder: number,
  change: (unit: { stored: Mask; current: number; processes: readonly number[] }) => {
    stored: Mask;
    current: number;
    processes: readonly number[];
  },
): void {
  const table = system.holders[holder]!;
  const local = table.locals[to[system.holderAt + holder]!]!;
  to[system.holderAt + holder] = table.intern({ ...local, units: local.units.map(change) });
}
