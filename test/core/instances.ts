/**
 * The topologies on which the heart is judged: the five founding runbooks, the general cases (databases, key servers, certificate
 * authorities, fleets), and the shapes that a rotation engine meets later (several rotations in a row, a chain of authorities, our own
 * sign-in among the credentials). All are plain data in the words of src/core/model.ts; nothing here decides anything.
 */
import {
  bit,
  type Edge,
  type EdgeDrain,
  type Goal,
  type Holder,
  type Item,
  type IssuerSpec,
  type Mask,
  type Situation,
  type Topology,
  type Verifier,
} from "../../src/core/model.ts";

export interface Instance {
  readonly name: string;
  readonly topology: Topology;
  readonly start: Situation;
  /** The planned rotation: overlap, no gap. */
  readonly forward: Goal;
  /** The same, turned round. */
  readonly rollback: Goal;
  /** The old versions are compromised; still no gap allowed. */
  readonly breach: Goal;
  /** The old versions are compromised; every edge is declared exposed and trust is taken away first. */
  readonly breachContainFirst: Goal;
  /** Further rotations, each starting where the one before ended; the first is {@link forward}. */
  readonly rounds: readonly Goal[];
  readonly expected: "proved" | "blocked";
  readonly note?: string;
}

export const second = 1000;
export const minute = 60 * second;
export const hour = 60 * minute;
export const day = 24 * hour;

/** The set of these indexes. */
export function set(...indexes: number[]): Mask {
  return indexes.reduce((mask, index) => mask | bit(index), 0);
}

type Issuing = Partial<IssuerSpec> & { readonly version: number };
interface VerifierDraft extends Partial<Verifier> {
  readonly name: string;
  readonly start: Mask;
  readonly final: Mask;
  /** What the set must be after a breach, where it differs. */
  readonly breachFinal?: Mask;
  /** Items that are there at the start and that nobody presents: a rollback clears them too. */
  readonly junk?: Mask;
}
interface HolderDraft extends Partial<Holder> {
  readonly name: string;
  readonly starts?: number;
  readonly target?: number;
  /** Versions lying in the store beside the one in use. */
  readonly leftovers?: Mask;
}
interface Draft {
  readonly name: string;
  readonly versions: readonly string[];
  readonly items?: readonly (Pick<Item, "name" | "admits"> & Partial<Item>)[];
  readonly verifiers: readonly VerifierDraft[];
  readonly holders: readonly HolderDraft[];
  /** Holder, verifier, how messages leave, and how long the last one takes. */
  readonly edges: readonly (readonly [number, number, EdgeDrain?, number?])[];
  readonly issuers?: readonly Issuing[];
  /** Later targets of all holders, with the final sets of all verifiers. */
  readonly later?: readonly { readonly target: readonly number[]; readonly final: readonly Mask[] }[];
  readonly expected?: "proved" | "blocked";
  readonly note?: string;
}

function verifierOf(draft: VerifierDraft): Verifier {
  return {
    name: draft.name,
    capacity: draft.capacity ?? 8,
    replicas: draft.replicas ?? 1,
    serial: draft.serial ?? false,
    noTwoToTwo: draft.noTwoToTwo ?? false,
    restorable: draft.restorable ?? true,
    changeMs: draft.changeMs ?? 2 * second,
    propagationMs: draft.propagationMs ?? 10 * minute,
    human: draft.human ?? false,
  };
}

function holderOf(draft: HolderDraft): Holder {
  return {
    name: draft.name,
    units: draft.units ?? 1,
    processes: draft.processes ?? 1,
    storeCapacity: draft.storeCapacity ?? 8,
    staging: draft.staging ?? true,
    session: draft.session ?? false,
    restorable: draft.restorable ?? true,
    changeMs: draft.changeMs ?? 2 * second,
    refreshMs: draft.refreshMs ?? 30 * minute,
    human: draft.human ?? false,
  };
}

/** Builds the resting state: every replica enforces what is configured, every process uses what is current. */
export function resting(
  topology: Topology,
  trusted: readonly Mask[],
  held: readonly number[],
  leftovers: readonly Mask[] = [],
): Situation {
  return {
    material: topology.versions.map((version) => (version.issuer === null ? "sealed" : "none")),
    verifiers: topology.verifiers.map((verifier, index) => ({
      configured: trusted[index]!,
      enforced: Array.from({ length: verifier.replicas }, () => trusted[index]!),
      gone: 0,
    })),
    holders: topology.holders.map((holder, index) => {
      const version = held[index]!;
      const outgoing = topology.edges.filter((edge) => edge.holder === index);
      return {
        units: Array.from({ length: holder.units }, () => ({
          stored: bit(version) | (leftovers[index] ?? 0),
          current: version,
          processes: Array.from({ length: holder.processes }, () => ({
            live: version,
            granted: holder.session ? version : null,
          })),
        })),
        inFlight: outgoing.map((edge) => (edge.drain === "instant" ? 0 : bit(version))),
        job: outgoing.map(() => null),
      };
    }),
    expired: 0,
  };
}

const drainMs: Readonly<Record<EdgeDrain, number>> = { instant: 0, timed: hour, job: 8 * hour };

function build(draft: Draft): Instance {
  const issuers = draft.issuers ?? [{ version: 1 }];
  const listed: Draft["items"] = draft.items;
  const items: Item[] = (
    listed ?? draft.versions.map((name, index): Item => ({ name, admits: bit(index), denies: 0, version: index }))
  ).map((item) => ({ name: item.name, admits: item.admits, denies: item.denies ?? 0, version: item.version ?? null }));
  const topology: Topology = {
    name: draft.name,
    versions: draft.versions.map((name, index) => {
      const issuing = issuers.find((one) => one.version === index);
      if (issuing === undefined) return { name, issuer: null };
      return {
        name,
        issuer: {
          place: issuing.place ?? "authority",
          oneTime: issuing.oneTime ?? true,
          autoTrust: issuing.autoTrust ?? [],
          autoCurrent: issuing.autoCurrent ?? [],
          durationMs: issuing.durationMs ?? 5 * second,
        },
      };
    }),
    items,
    verifiers: draft.verifiers.map(verifierOf),
    holders: draft.holders.map(holderOf),
    edges: draft.edges.map(([holder, verifier, drain = "instant", ms]): Edge => {
      return { holder, verifier, drain, drainMs: ms ?? drainMs[drain] };
    }),
  };
  const held = draft.holders.map((holder) => holder.starts ?? 0);
  const target = draft.holders.map((holder) => holder.target ?? 1);
  const forward: Goal = {
    target,
    final: draft.verifiers.map((verifier) => verifier.final),
    compromised: 0,
    exposed: [],
    containFirst: false,
  };
  const compromised = held.reduce(
    (mask, version, index) => (version === target[index] ? mask : mask | bit(version)),
    0,
  );
  const breach: Goal = {
    ...forward,
    final: draft.verifiers.map((verifier) => verifier.breachFinal ?? verifier.final),
    compromised,
  };
  return {
    name: draft.name,
    topology,
    start: resting(
      topology,
      draft.verifiers.map((verifier) => verifier.start),
      held,
      draft.holders.map((holder) => holder.leftovers ?? 0),
    ),
    forward,
    rollback: {
      ...forward,
      target: held,
      final: draft.verifiers.map((verifier) => verifier.start & ~(verifier.junk ?? 0)),
    },
    breach,
    breachContainFirst: { ...breach, exposed: topology.edges.map((_, index) => index), containFirst: true },
    rounds: [forward, ...(draft.later ?? []).map((round) => ({ ...forward, ...round }))],
    expected: draft.expected ?? "proved",
    ...(draft.note === undefined ? {} : { note: draft.note }),
  };
}

const pair = ["old", "new"];
/** A new secret of an app registration is trusted by it the moment it exists. */
const selfTrusting: Issuing = { version: 1, place: "app-registration", autoTrust: [{ verifier: 0, item: 1 }] };

/** The five founding runbooks. */
const founding: readonly Draft[] = [
  {
    name: "000-secret",
    versions: pair,
    verifiers: [{ name: "app-registration", start: set(0), final: set(1), replicas: 2 }],
    holders: [{ name: "key-vault-secret", processes: 2, refreshMs: 10 * minute }],
    edges: [[0, 0]],
    issuers: [selfTrusting],
  },
  {
    name: "000-cert-as-written",
    versions: pair,
    verifiers: [{ name: "app-registration", start: set(0), final: set(1), replicas: 2 }],
    holders: [{ name: "key-vault-cert", processes: 2, refreshMs: 10 * minute }],
    edges: [[0, 0]],
    issuers: [{ version: 1, place: "key-vault-cert", oneTime: false, autoCurrent: [0] }],
    expected: "blocked",
    note: "Key Vault makes the new version current when it creates it.",
  },
  {
    name: "000-cert-staged",
    versions: pair,
    verifiers: [{ name: "app-registration", start: set(0), final: set(1), replicas: 2 }],
    holders: [{ name: "key-vault-cert", processes: 2, staging: false, refreshMs: 10 * minute }],
    edges: [[0, 0]],
    note: "Made outside the vault, imported after it is trusted.",
  },
  {
    name: "001-sf-cluster",
    versions: pair,
    verifiers: [
      {
        name: "cluster-config",
        start: set(0),
        final: set(1),
        capacity: 2,
        replicas: 3,
        serial: true,
        noTwoToTwo: true,
      },
      { name: "local-agent-pin", start: set(0), final: set(1), capacity: 2, propagationMs: 0 },
    ],
    holders: [{ name: "sf-nodes", processes: 3, refreshMs: 2 * hour }],
    edges: [
      [0, 0],
      [0, 1],
    ],
  },
  {
    name: "001-sf-stale-secondary",
    versions: ["old", "new", "stale"],
    verifiers: [
      {
        name: "cluster-config",
        start: set(0, 2),
        final: set(1),
        capacity: 2,
        replicas: 3,
        serial: true,
        noTwoToTwo: true,
        junk: set(2),
      },
    ],
    holders: [{ name: "sf-nodes", processes: 3, refreshMs: 2 * hour }],
    edges: [[0, 0]],
  },
  {
    name: "001-data-encryption",
    versions: pair,
    verifiers: [{ name: "aos-decrypt-keys", start: set(0), final: set(1), replicas: 2 }],
    holders: [{ name: "aos-encrypt-key", processes: 2 }],
    edges: [[0, 0, "job", 3 * day]],
  },
  {
    name: "001-composite",
    versions: ["sfOld", "sfNew", "encOld", "encNew", "spOld", "spNew"],
    verifiers: [
      {
        name: "cluster-config",
        start: set(0),
        final: set(1),
        capacity: 2,
        replicas: 3,
        serial: true,
        noTwoToTwo: true,
      },
      { name: "aos-decrypt-keys", start: set(2), final: set(3), replicas: 2 },
      { name: "sp-app-registration", start: set(4), final: set(5) },
    ],
    holders: [
      { name: "sf-nodes", processes: 3, starts: 0, target: 1 },
      { name: "aos-encrypt-key", processes: 2, starts: 2, target: 3 },
      { name: "local-agent", starts: 4, target: 5 },
    ],
    edges: [
      [0, 0],
      [1, 1, "job", 3 * day],
      [2, 2],
    ],
    issuers: [{ version: 1 }, { version: 3 }, { version: 5 }],
  },
  {
    name: "002-provision-assist",
    versions: pair,
    verifiers: [{ name: "app-registration", start: set(0), final: set(1), replicas: 2 }],
    holders: [
      { name: "key-vault", processes: 2 },
      { name: "api-connection", storeCapacity: 1, human: true },
      { name: "automation-variable", storeCapacity: 1 },
    ],
    edges: [
      [0, 0],
      [1, 0],
      [2, 0],
    ],
    issuers: [selfTrusting],
  },
  {
    name: "003-dps-individual",
    versions: pair,
    verifiers: [{ name: "enrollment", start: set(0), final: set(1), capacity: 2, propagationMs: minute }],
    holders: [{ name: "device", session: true, storeCapacity: 2, refreshMs: day }],
    edges: [[0, 0]],
  },
  {
    name: "003-dps-group-ca",
    versions: pair,
    items: [
      { name: "caOld", admits: set(0) },
      { name: "caNew", admits: set(1) },
    ],
    verifiers: [{ name: "enrollment-group", start: set(0), final: set(1), capacity: 2, propagationMs: minute }],
    holders: [{ name: "devices", units: 3, session: true, storeCapacity: 2, refreshMs: day }],
    edges: [[0, 0]],
  },
  {
    name: "003-dps-group-leaf",
    versions: pair,
    items: [
      { name: "ca", admits: set(0, 1) },
      { name: "blacklist-old", admits: 0, denies: set(0) },
    ],
    verifiers: [{ name: "enrollment-group", start: set(0), final: set(0, 1), capacity: 2, propagationMs: minute }],
    holders: [{ name: "devices", units: 3, session: true, storeCapacity: 2, refreshMs: day }],
    edges: [[0, 0]],
    note: "A leaf leaked, its CA is kept: disable the leaf.",
  },
  {
    name: "004-adfs-entra",
    versions: pair,
    verifiers: [
      { name: "entra-trust", start: set(0), final: set(1), capacity: 2, propagationMs: day },
      { name: "other-relying-party", start: set(0), final: set(1), capacity: 2, replicas: 2, human: true },
    ],
    holders: [{ name: "adfs-primary", processes: 2, refreshMs: 5 * minute }],
    edges: [
      [0, 0, "timed", hour],
      [0, 1, "timed", hour],
    ],
  },
];

/** Databases, brokers, web servers, authorities, fleets, token signers. */
const general: readonly Draft[] = [
  {
    name: "pg-two-roles",
    versions: ["roleA", "roleB-new", "roleB-old"],
    verifiers: [{ name: "postgres", start: set(0, 2), final: set(1), capacity: 2, junk: set(2), propagationMs: 0 }],
    holders: [{ name: "app-pool", processes: 3 }],
    edges: [[0, 0]],
  },
  {
    name: "pg-one-role-cap1",
    versions: pair,
    verifiers: [{ name: "postgres", start: set(0), final: set(1), capacity: 1, propagationMs: 0 }],
    holders: [{ name: "app-pool", processes: 2 }],
    edges: [[0, 0]],
    expected: "blocked",
  },
  {
    name: "redis-acl",
    versions: pair,
    verifiers: [
      { name: "redis-primary", start: set(0), final: set(1), propagationMs: 0 },
      { name: "redis-replica", start: set(0), final: set(1), replicas: 2, propagationMs: second },
    ],
    holders: [{ name: "clients", processes: 3 }],
    edges: [
      [0, 0],
      [0, 1],
    ],
  },
  {
    name: "nginx-acme",
    versions: ["old", "new", "newcert+oldkey"],
    items: [
      { name: "public-root", admits: set(0, 1) },
      { name: "crl-old", admits: 0, denies: set(0) },
    ],
    verifiers: [{ name: "browsers", start: set(0), final: set(0), breachFinal: set(0, 1) }],
    holders: [{ name: "nginx", processes: 2, refreshMs: 5 * second }],
    edges: [[0, 0]],
  },
  {
    name: "mtls-ca-roll",
    versions: ["leafOld", "leafNew"],
    items: [
      { name: "caOld", admits: set(0) },
      { name: "caNew", admits: set(1) },
    ],
    verifiers: [
      { name: "svcA-bundle", start: set(0), final: set(1), replicas: 2 },
      { name: "svcB-bundle", start: set(0), final: set(1), replicas: 2 },
    ],
    holders: [
      { name: "svcA-id", processes: 2 },
      { name: "svcB-id", processes: 2 },
    ],
    edges: [
      [0, 1],
      [1, 0],
    ],
  },
  {
    name: "ssh-user-ca",
    versions: ["userCertOld", "userCertNew"],
    items: [
      { name: "sshCaOld", admits: set(0) },
      { name: "sshCaNew", admits: set(1) },
    ],
    verifiers: [{ name: "hosts", start: set(0), final: set(1), replicas: 4 }],
    holders: [{ name: "users", units: 3, storeCapacity: 2 }],
    edges: [[0, 0]],
  },
  {
    name: "jwks",
    versions: pair,
    verifiers: [{ name: "jwks-subscribers", start: set(0), final: set(1), replicas: 3, propagationMs: hour }],
    holders: [{ name: "signers", processes: 2 }],
    edges: [[0, 0, "timed", hour]],
  },
  {
    name: "dek-reencrypt",
    versions: pair,
    verifiers: [{ name: "decryptors", start: set(0), final: set(1), replicas: 3 }],
    holders: [{ name: "writers", processes: 3 }],
    edges: [[0, 0, "job", 12 * hour]],
  },
  {
    name: "api-key-cap1",
    versions: pair,
    verifiers: [{ name: "api", start: set(0), final: set(1), capacity: 1 }],
    holders: [{ name: "api-connection", storeCapacity: 1 }],
    edges: [[0, 0]],
    expected: "blocked",
  },
  {
    name: "app-registration",
    versions: pair,
    verifiers: [{ name: "app-registration", start: set(0), final: set(1), capacity: 2, replicas: 2 }],
    holders: [{ name: "app", processes: 3 }],
    edges: [[0, 0]],
    issuers: [selfTrusting],
    note: "Capacity 2: an orphan would fill it.",
  },
  {
    name: "key-vault-versions",
    versions: pair,
    verifiers: [{ name: "backend", start: set(0), final: set(1), replicas: 2 }],
    holders: [{ name: "vault-latest", processes: 3, staging: false }],
    edges: [[0, 0]],
  },
];

/** Shapes beyond the founding ones. */
const further: readonly Draft[] = [
  {
    name: "kubernetes-encryption-config",
    versions: ["key1", "key2"],
    verifiers: [
      {
        name: "apiserver-providers",
        start: set(0),
        final: set(1),
        replicas: 3,
        changeMs: minute,
        propagationMs: 5 * minute,
      },
      { name: "backup-restore-keys", start: set(0), final: set(1), capacity: 2 },
    ],
    holders: [{ name: "apiserver-first-key", processes: 3, staging: false, refreshMs: 5 * minute }],
    edges: [
      [0, 0, "job", 2 * hour],
      [0, 1, "job", 2 * hour],
    ],
    note: "Every API server must read a key before any of them writes with it; objects stay under the old key until they are rewritten.",
  },
  {
    name: "primary-secondary-three-rounds",
    versions: ["key1-a", "key2-a", "key1-b", "key2-b"],
    verifiers: [{ name: "account", start: set(0), final: set(1), capacity: 2, replicas: 2, noTwoToTwo: true }],
    holders: [{ name: "clients", processes: 2 }],
    edges: [[0, 0]],
    issuers: [{ version: 1 }, { version: 2 }, { version: 3 }],
    later: [
      { target: [2], final: [set(2)] },
      { target: [3], final: [set(3)] },
    ],
    note: "Two slots used in turn; each round begins where the last one ended.",
  },
  {
    name: "primary-secondary-stale-start",
    versions: ["key1-a", "key2-a", "key1-b", "stale"],
    verifiers: [
      { name: "account", start: set(0, 3), final: set(1), capacity: 2, serial: true, replicas: 2, junk: set(3) },
    ],
    holders: [{ name: "clients", processes: 2, storeCapacity: 2 }],
    edges: [[0, 0]],
    issuers: [{ version: 1 }, { version: 2 }],
    later: [{ target: [2], final: [set(2)] }],
  },
  {
    name: "chain-root-intermediate-leaf",
    versions: ["rootOld", "rootNew", "intermediateOld", "intermediateNew", "leafOld", "leafNew"],
    items: [
      { name: "anchorOld", admits: set(0, 2, 4), version: 0 },
      { name: "anchorNew", admits: set(1, 3, 5), version: 1 },
    ],
    verifiers: [{ name: "relying-parties", start: set(0), final: set(1), replicas: 2, propagationMs: day }],
    holders: [
      { name: "root-signer", starts: 0, target: 1 },
      { name: "intermediate-signer", starts: 2, target: 3 },
      { name: "server", starts: 4, target: 5, refreshMs: minute },
    ],
    edges: [
      [0, 0, "timed", 90 * day],
      [1, 0, "timed", 30 * day],
      [2, 0],
    ],
    issuers: [{ version: 1 }, { version: 3 }, { version: 5 }],
    note: "What an authority signed stays out there until it expires: its signatures are messages in flight.",
  },
  {
    name: "chain-cross-signed",
    versions: ["leaf under the old root", "leaf under the new intermediate", "leaf under the new root"],
    items: [
      { name: "rootOld", admits: set(0, 1) },
      { name: "rootNew", admits: set(1, 2) },
      { name: "crl-leafOld", admits: 0, denies: set(0) },
    ],
    verifiers: [{ name: "trust-stores", start: set(0), final: set(0, 1), breachFinal: set(0, 1, 2), replicas: 2 }],
    holders: [{ name: "server", processes: 2 }],
    edges: [[0, 0]],
    issuers: [{ version: 1 }, { version: 2 }],
    later: [{ target: [2], final: [set(1)] }],
    note: "The intermediate is signed by both roots, so the leaf moves before the root does.",
  },
  {
    name: "own-sign-in",
    versions: pair,
    verifiers: [{ name: "keyroll-app-registration", start: set(0), final: set(1), capacity: 2, replicas: 2 }],
    holders: [
      { name: "keyroll itself", storeCapacity: 2, refreshMs: second },
      { name: "standby worker", storeCapacity: 1 },
    ],
    edges: [
      [0, 0],
      [1, 0],
    ],
    issuers: [{ ...selfTrusting, place: "keyroll-app-registration" }],
    note: "The sign-in with which the rotation is carried out is the one that is rotated.",
  },
  {
    name: "overlapping-rotations",
    versions: ["v1", "v2", "v3"],
    verifiers: [{ name: "gateway", start: set(0), final: set(1), capacity: 3, replicas: 2 }],
    holders: [{ name: "service", processes: 2, storeCapacity: 3 }],
    edges: [[0, 0, "timed", hour]],
    issuers: [{ version: 1 }, { version: 2 }],
    later: [{ target: [2], final: [set(2)] }],
    note: "The second rotation may start at any moment of the first.",
  },
  {
    name: "two-credentials-one-place",
    versions: ["aOld", "aNew", "bOld", "bNew"],
    verifiers: [{ name: "shared-trust-list", start: set(0, 2), final: set(1, 3), capacity: 3, serial: true }],
    holders: [
      { name: "team-a", starts: 0, target: 1 },
      { name: "team-b", starts: 2, target: 3 },
    ],
    edges: [
      [0, 0],
      [1, 0],
    ],
    issuers: [{ version: 1 }, { version: 3 }],
    note: "Two rotations at once share one spare slot.",
  },
];

export const foundingInstances: readonly Instance[] = [...founding, ...general].map(build);
export const furtherInstances: readonly Instance[] = further.map(build);
export const instances: readonly Instance[] = [...foundingInstances, ...furtherInstances];

export function instance(name: string): Instance {
  const found = instances.find((one) => one.name === name);
  if (found === undefined) throw new Error(`There is no instance named ${name}.`);
  return found;
}
