/** Seeded shapes of one credential's estate, within what the connectors' traits can say. */
import { plainTraits, type CredentialDecl, type PlaceDecl, type Traits } from "../../src/core/place.ts";
import type { Random } from "../core/random.ts";
import type { Edge, PlaceShape } from "./world.ts";

export interface Shape {
  readonly credential: CredentialDecl;
  readonly places: readonly PlaceShape[];
  readonly edges: readonly Edge[];
  readonly mode: "planned" | "breach";
  readonly strategy: "availability-first" | "contain-first";
  /** Every edge is declared exposed. */
  readonly exposed: boolean;
  /** Entries that are nobody's business. */
  readonly foreign: readonly string[];
}

const minute = 60_000;

export function randomShape(random: Random): Shape {
  const verifierCount = random.weighted([1, 5], [2, 3], [3, 1]);
  const holderCount = random.weighted([1, 5], [2, 3], [3, 1]);
  const verifiers = Array.from({ length: verifierCount }, (_, index): PlaceDecl => {
    const drain = random.weighted<Traits["drain"]>(["instant", 5], ["timed", 2], ["job", 2]);
    return {
      name: `verifier-${index}`,
      type: "simulated",
      presentsTo: [],
      config: {},
      traits: {
        ...plainTraits,
        roles: ["verifier"],
        capacity: random.weighted([16, 5], [2, 4], [1, 1]),
        propagationMs: random.weighted([0, 3], [10 * minute, 4], [24 * 60 * minute, 1]),
        drain,
        drainMs: drain === "instant" ? 0 : 60 * minute,
        writes: random.chance(0.3) ? "whole-set" : "entries",
        conditional: random.chance(0.4),
        transitions: random.chance(0.2) ? ["serial"] : [],
      },
    };
  });
  const holders = Array.from({ length: holderCount }, (_, index): PlaceDecl => {
    const presentsTo = verifiers.map((place) => place.name).filter(() => random.chance(0.6));
    if (presentsTo.length === 0) presentsTo.push(random.pick(verifiers).name);
    const storeCapacity = random.weighted([16, 4], [2, 2], [1, 2]);
    return {
      name: `holder-${index}`,
      type: "simulated",
      presentsTo,
      config: {},
      traits: {
        ...plainTraits,
        roles: ["holder"],
        storeCapacity,
        staging: storeCapacity > 1 && random.chance(0.7),
        refreshMs: random.weighted([0, 3], [30 * minute, 4], [24 * 60 * minute, 1]),
        session: random.chance(0.2),
      },
    };
  });
  const theirs = random.chance(0.4);
  const trusting = theirs && random.chance(0.5) ? verifiers[0]! : null;
  const places = [...verifiers, ...holders];
  const copies = places.map((place) => {
    const lags = place.traits.propagationMs + place.traits.refreshMs > 0;
    return { decl: place, copies: lags ? 1 + random.below(4) : 1 };
  });
  const edges = holders.flatMap((holder) =>
    holder.presentsTo.map((name): Edge => {
      const { traits } = verifiers.find((place) => place.name === name)!;
      return { holder: holder.name, verifier: name, drain: traits.drain, drainMs: traits.drainMs };
    }),
  );
  const mode = random.chance(0.3) ? "breach" : "planned";
  const strategy = mode === "breach" && random.chance(0.5) ? "contain-first" : "availability-first";
  return {
    credential: {
      name: "app",
      kind: "secret",
      owner: "payments",
      labels: {},
      issuer: {
        type: "simulated",
        ...(trusting === null ? {} : { place: trusting.name }),
        traits: {
          ...plainTraits,
          roles: ["issuer"],
          minting: theirs ? "theirs" : "ours",
          issuingTrusts: trusting !== null,
        },
        config: {},
      },
      places:
        trusting === null
          ? places
          : places.map((place) =>
              place === trusting
                ? {
                    ...place,
                    traits: { ...place.traits, roles: ["verifier", "issuer"], minting: "theirs", issuingTrusts: true },
                  }
                : place,
            ),
      policy: {
        rotateBeforeMs: null,
        maxAgeMs: null,
        soakMs: 0,
        marginMs: 0,
        approvals: {},
        windows: [],
        notify: [],
      },
      source: "keyroll.yaml:1",
    },
    places: copies,
    edges,
    mode,
    strategy,
    // Two writers of one data set cannot be told apart by its records, and a declared exposure waits until nothing moves any more.
    exposed: strategy === "contain-first" || (random.chance(0.05) && !edges.some((edge) => edge.drain === "job")),
    foreign: random.chance(0.3) ? ["foreign-1"] : [],
  };
}
