/**
 * Orders that people follow, as data, with where they come from; and a runner that carries a fixed order out with no guard at all, letting the
 * world do anything at any moment. It stands on the second checker's world, not on the product's.
 */
import { bit, has, type Mask, type Situation } from "../../src/core/model.ts";
import type { ScriptStep } from "../../src/core/script.ts";
import type { Instance } from "./instances.ts";
import { type Node, World } from "./second-checker.ts";

export type Step =
  | { readonly kind: "issue"; readonly version: number }
  | { readonly kind: "trust" | "distrust"; readonly item: number; readonly verifier: number }
  | { readonly kind: "write"; readonly set: Mask; readonly verifier: number }
  | { readonly kind: "stage" | "activate"; readonly version: number; readonly holder: number }
  | { readonly kind: "reencrypt"; readonly edge: number; readonly version: number }
  | { readonly kind: "await"; readonly what: "enforced everywhere"; readonly item: number }
  | { readonly kind: "await"; readonly what: "in use everywhere"; readonly version: number }
  | { readonly kind: "await"; readonly what: "nothing older under way"; readonly version: number };

export interface WrongOrder {
  readonly id: string;
  readonly instance: string;
  /** What the order does wrong; the control says that it does nothing wrong. */
  readonly mistake: string;
  readonly steps: readonly Step[];
  readonly compromised?: Mask;
  readonly expected: "lock-out" | "write refused" | "still usable" | "safe";
}

const issue = (version: number): Step => ({ kind: "issue", version });
const trust = (item: number, verifier: number): Step => ({ kind: "trust", item, verifier });
const distrust = (item: number, verifier: number): Step => ({ kind: "distrust", item, verifier });
const stage = (version: number, holder: number): Step => ({ kind: "stage", version, holder });
const activate = (version: number, holder: number): Step => ({ kind: "activate", version, holder });
const enforced = (item: number): Step => ({ kind: "await", what: "enforced everywhere", item });
const inUse = (version: number): Step => ({ kind: "await", what: "in use everywhere", version });
const drained = (version: number): Step => ({ kind: "await", what: "nothing older under way", version });

export const wrongOrders: readonly WrongOrder[] = [
  {
    id: "W1",
    instance: "001-sf-cluster",
    mistake: "The old certificate is removed first.",
    steps: [issue(1), distrust(0, 0), trust(1, 0), stage(1, 0), activate(1, 0)],
    expected: "lock-out",
  },
  {
    id: "W2",
    instance: "000-cert-as-written",
    mistake: "The vault's new version is current before the app registration trusts it.",
    steps: [issue(1), trust(1, 0), distrust(0, 0)],
    expected: "lock-out",
  },
  {
    id: "W3",
    instance: "000-secret",
    mistake: "The old secret is deleted before the vault has the new one.",
    steps: [issue(1), distrust(0, 0), stage(1, 0), activate(1, 0)],
    expected: "lock-out",
  },
  {
    id: "W4",
    instance: "001-data-encryption",
    mistake: "The old encipherment certificate is retired while data is still under it.",
    steps: [
      issue(1),
      trust(1, 0),
      enforced(1),
      stage(1, 0),
      activate(1, 0),
      { kind: "reencrypt", edge: 0, version: 1 },
      distrust(0, 0),
    ],
    expected: "lock-out",
  },
  {
    id: "W5",
    instance: "001-sf-stale-secondary",
    mistake: "Two certificates are replaced by two different ones in one write.",
    steps: [issue(1), { kind: "write", set: 0b011, verifier: 0 }, stage(1, 0), activate(1, 0)],
    expected: "write refused",
  },
  {
    id: "W6",
    instance: "004-adfs-entra",
    mistake: "The signing certificate is activated before the relying parties have polled it.",
    steps: [issue(1), trust(1, 0), trust(1, 1), stage(1, 0), activate(1, 0)],
    expected: "lock-out",
  },
  {
    id: "W7",
    instance: "jwks",
    mistake: "The old signing key is unpublished while its tokens are alive.",
    steps: [issue(1), trust(1, 0), enforced(1), stage(1, 0), activate(1, 0), inUse(1), distrust(0, 0)],
    expected: "lock-out",
  },
  {
    id: "W8",
    instance: "003-dps-individual",
    mistake: "The device is rolled before its enrollment.",
    steps: [issue(1), stage(1, 0), activate(1, 0), trust(1, 0), distrust(0, 0)],
    expected: "lock-out",
  },
  {
    id: "W9",
    instance: "mtls-ca-roll",
    mistake: "A leaf of the new authority is in use before its bundle is out.",
    steps: [issue(1), stage(1, 0), activate(1, 0), trust(1, 0), trust(1, 1)],
    expected: "lock-out",
  },
  {
    id: "W10",
    instance: "002-provision-assist",
    mistake: "The third place is forgotten.",
    steps: [issue(1), stage(1, 0), activate(1, 0), activate(1, 1), distrust(0, 0)],
    expected: "lock-out",
  },
  {
    id: "W11",
    instance: "nginx-acme",
    mistake: "The certificate file is written before the key file: a pair that does not match is in use.",
    steps: [issue(1), stage(2, 0), activate(2, 0), stage(1, 0), activate(1, 0)],
    expected: "lock-out",
  },
  {
    id: "W12",
    instance: "redis-acl",
    mistake: "The old password is dropped when the clients' configuration is written, not when they have read it.",
    steps: [
      issue(1),
      trust(1, 0),
      trust(1, 1),
      enforced(1),
      stage(1, 0),
      activate(1, 0),
      distrust(0, 0),
      distrust(0, 1),
    ],
    expected: "lock-out",
  },
  {
    id: "W13",
    instance: "004-adfs-entra",
    mistake: "None: the proper order with every wait.",
    steps: [
      issue(1),
      trust(1, 0),
      trust(1, 1),
      enforced(1),
      stage(1, 0),
      activate(1, 0),
      inUse(1),
      drained(1),
      distrust(0, 0),
      distrust(0, 1),
    ],
    expected: "safe",
  },
  {
    id: "W14",
    instance: "003-dps-individual",
    mistake: "The enrollment is disabled, and the hub registration made under the leaked certificate is left standing.",
    steps: [distrust(0, 0)],
    compromised: 0b01,
    expected: "still usable",
  },
];

/** Whether a waiting step may go on. */
export function reached(step: Extract<Step, { kind: "await" }>, seen: Situation): boolean {
  switch (step.what) {
    case "enforced everywhere":
      return seen.verifiers.every((verifier) => verifier.enforced.every((set) => has(set, step.item)));
    case "in use everywhere":
      return seen.holders.every((holder) =>
        holder.units.every((unit) => unit.processes.every((process) => process.live === step.version)),
      );
    case "nothing older under way":
      return seen.holders.every((holder) => holder.inFlight.every((versions) => (versions & ~bit(step.version)) === 0));
  }
}

/** The same list in the product's words. */
export function asScript(order: WrongOrder): readonly ScriptStep[] {
  return order.steps.map((step) =>
    step.kind === "await"
      ? { kind: "await", text: `wait: ${step.what}`, until: (situation) => reached(step, situation) }
      : step,
  );
}

export interface Run {
  readonly result: WrongOrder["expected"];
  readonly states: number;
  /** The shortest way there, in words. */
  readonly story: readonly string[];
}

/** Follows the list with every interleaving of the world's moves, breadth first. */
export function run(order: WrongOrder, instance: Instance): Run {
  const world = new World(instance.topology);
  const first = world.read(instance.start);
  const seen = new Set<Node>([first]);
  const queue: { node: Node; parent: number; words: string }[] = [{ node: first, parent: -1, words: "" }];
  const storyTo = (end: number): string[] => {
    const story: string[] = [];
    for (let at = end; queue[at]!.parent >= 0; at = queue[at]!.parent) story.push(queue[at]!.words);
    return story.reverse();
  };
  for (let at = 0; at < queue.length; at++) {
    const { node } = queue[at]!;
    if (world.refusals(node).some((versions) => versions !== 0))
      return { result: "lock-out", states: queue.length, story: storyTo(at) };
    const enter = (to: Node, words: string): void => {
      if (seen.has(to)) return;
      seen.add(to);
      queue.push({ node: to, parent: at, words });
    };
    const done = world.counter(node.state);
    for (const { move, to } of world.steps(node)) enter(to, world.describe(move));
    const step = order.steps[done];
    if (step === undefined) {
      const over = world.steps(node).length === 0;
      if (over && order.compromised !== undefined && world.compromisedUsable(node, order.compromised))
        return { result: "still usable", states: queue.length, story: storyTo(at) };
      continue;
    }
    const [to, words] = follow(world, instance, node, step);
    if (to === "later") continue;
    if (to === "refused") return { result: "write refused", states: queue.length, story: [...storyTo(at), words] };
    enter(world.node(world.withCounter(to.state, done + 1)), words);
  }
  return { result: "safe", states: queue.length, story: [] };
}

function follow(world: World, { topology }: Instance, node: Node, step: Step): [Node | "later" | "refused", string] {
  const blank = { version: null, item: null, verifier: null, holder: null, unit: null, edge: null, exposes: [] };
  const busy = (verifier: number): boolean => {
    const facts = topology.verifiers[verifier]!;
    const wish = world.configured(node.state, verifier);
    const behind = Array.from({ length: facts.replicas }, (_, replica) => replica).some(
      (replica) => world.enforced(node.state, verifier, replica) !== wish,
    );
    return facts.serial && behind;
  };
  switch (step.kind) {
    case "await":
      return [reached(step, world.situation(node.state)) ? node : "later", `waited until: ${step.what}`];
    case "issue": {
      const issued = world.perform(node, { ...blank, kind: "issue", version: step.version });
      if (issued === null) return ["refused", "issuing is refused"];
      const sealed = world.perform(issued, { ...blank, kind: "seal", version: step.version });
      return [sealed ?? issued, `issue ${topology.versions[step.version]!.name}`];
    }
    case "trust":
    case "distrust": {
      const { verifier, item } = step;
      const words = `${step.kind} ${topology.items[item]!.name} at ${topology.verifiers[verifier]!.name}`;
      if (busy(verifier)) return ["later", words];
      return [world.perform(node, { ...blank, kind: step.kind, item, verifier }) ?? "refused", words];
    }
    case "write": {
      const words = `write a new set at ${topology.verifiers[step.verifier]!.name}`;
      if (busy(step.verifier)) return ["later", words];
      const to = world.replaceSet(node, step.verifier, step.set);
      return [to ?? "refused", words];
    }
    case "stage":
    case "activate": {
      let to: Node = node;
      for (let unit = 0; unit < topology.holders[step.holder]!.units; unit++) {
        const kind = step.kind === "stage" ? "stage" : "set";
        to = world.perform(to, { ...blank, kind, version: step.version, holder: step.holder, unit }) ?? to;
      }
      const words = `${step.kind} ${topology.versions[step.version]!.name} at ${topology.holders[step.holder]!.name}`;
      return [to, words];
    }
    case "reencrypt": {
      const { edge, version } = step;
      const to = world.perform(node, { ...blank, kind: "start-reencryption", edge, version });
      return [to ?? "refused", `start re-encrypting to ${topology.versions[version]!.name}`];
    }
  }
}
