/** Moves and actions in words, for plans, counterexamples and logs. Names are the topology's own. */
import { members, type Action, type Blocked, type Topology, type Wait } from "./model.ts";

const copyOf = (count: number, copy: number | null): string =>
  count > 1 && copy !== null ? ` (copy ${copy + 1})` : "";

export function describeAction(topology: Topology, action: Action): string {
  const version = action.version === null ? "" : topology.versions[action.version]!.name;
  const item = action.item === null ? version : topology.items[action.item]!.name;
  const verifier = action.verifier === null ? "" : topology.verifiers[action.verifier]!.name;
  const holder = action.holder === null ? "" : topology.holders[action.holder]!.name;
  const at = action.holder === null ? "" : holder + copyOf(topology.holders[action.holder]!.units, action.unit);
  switch (action.kind) {
    case "issue":
      return `issue ${version}`;
    case "seal":
      return `seal ${version}`;
    case "trust":
      return `trust ${item} at ${verifier}`;
    case "deny":
      return `deny ${item} at ${verifier}`;
    case "swap":
      return `replace what ${verifier} trusts by ${item}`;
    case "distrust":
      return `stop trusting ${item} at ${verifier}`;
    case "stage":
      return `put ${version} beside the old one at ${at}`;
    case "activate":
      return `make ${version} current at ${at}`;
    case "set":
      return `give ${version} to ${at}`;
    case "purge":
      return `delete ${version} from ${at}`;
    case "start-reencryption":
      return `start re-encrypting the data of ${holder} under ${version}`;
    case "stop-reencryption":
      return `stop re-encrypting the data of ${holder}`;
    case "end-sessions":
      return `end what was granted to ${version} at ${at}`;
    case "remove-orphan":
      return `take the lost ${version} out of ${verifier}`;
    case "forget-orphan":
      return `forget the lost ${version}`;
  }
}

export function describeWait(topology: Topology, wait: Wait, copy: number | null = null): string {
  const version = wait.version === null ? "nothing" : topology.versions[wait.version]!.name;
  switch (wait.kind) {
    case "propagate": {
      const verifier = topology.verifiers[wait.verifier!]!;
      return `the change reaches ${verifier.name}${copyOf(verifier.replicas, copy)}`;
    }
    case "refresh": {
      const holder = topology.holders[wait.holder!]!;
      return `a consumer of ${holder.name} loads ${version}`;
    }
    case "re-register":
      return `a consumer of ${topology.holders[wait.holder!]!.name} signs in anew with ${version}`;
    case "drain":
      return `the last message under ${version} from ${topology.holders[wait.holder!]!.name} to ${topology.verifiers[topology.edges[wait.edge!]!.verifier]!.name} runs out`;
    case "reencrypt":
      return `re-encryption at ${topology.holders[wait.holder!]!.name} works on ${version}`;
  }
}

export function describeEdge(topology: Topology, edge: number): string {
  const { holder, verifier } = topology.edges[edge]!;
  return `${topology.holders[holder]!.name} to ${topology.verifiers[verifier]!.name}`;
}

/** Why a needed action is not offered, as a sentence. */
export function describeBlocked(topology: Topology, reason: Blocked): string {
  const action = describeAction(topology, reason.action);
  switch (reason.cause) {
    case "capacity":
      return `Cannot ${action}: there is no room left.`;
    case "two-to-two":
      return `Cannot ${action}: two entries may not become two others; remove one first.`;
    case "serial":
      return `Cannot ${action} yet: the last change has not reached every copy.`;
    case "not-restorable":
      return `Cannot ${action}: what was removed here cannot be put back.`;
    case "would-readmit":
      return `Cannot ${action}: the compromised ${[...members(reason.versions)].map((v) => topology.versions[v]!.name).join(", ")} would be let in again.`;
    case "no-material":
      return `Cannot ${action}: its secret part is not with Keyroll.`;
    case "would-refuse":
      return `Cannot ${action}: ${[...members(reason.versions)].map((v) => topology.versions[v]!.name).join(", ")} would be refused from ${reason.edges.map((e) => describeEdge(topology, e)).join(" and ")}.`;
  }
}
