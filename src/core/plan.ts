/**
 * The plan that a user previews: the unrolling of `next` against the model of the places. Nothing here decides an order; it only follows what
 * `next` offers, lets the world answer, and says of each step what holds if everything stops right after it.
 */
import { assemble, effectOf, phaseOf, type Assembled, type AssembleInput, type RotationSpec } from "./assemble.ts";
import { bit, type Goal, type Mask, type Topology, type Wait } from "./model.ts";
import { exposable, leastWaiver, type Waiver } from "./gaps.ts";
import { Planner, type Offer } from "./next.ts";
import type { CredentialDecl, Phase, Policy } from "./place.ts";
import { prove, type Proof, type ProveOptions } from "./prove.ts";
import { System, type LocalMove, type State } from "./system.ts";
import { describeAction } from "./words.ts";

export interface IfStopped {
  /** Everybody who signs in still gets in, whatever the world does next. */
  readonly serviceUp: boolean;
  readonly oldDataReadable: boolean;
  readonly newDataReadable: boolean;
  /** From here the goal is still reached. */
  readonly canResume: boolean;
  /** From here the old version can be put back everywhere without refusing anybody. */
  readonly canRollBack: boolean;
}

export interface Step {
  /** From 1. */
  readonly n: number;
  /** The model's action, or `check`, `wait`, `approve`, `soak`, `window`. */
  readonly action: string;
  readonly phase: Phase;
  /** `null` where a step is not at one place. */
  readonly place: string | null;
  readonly version: string | null;
  readonly text: string;
  readonly by: "keyroll" | "person" | "world";
  readonly estimateMs: number;
  readonly ifStopped: IfStopped;
  /** Edges on which somebody may be refused from here on, until the gap closes: `holder to verifier`. */
  readonly opensGap: readonly string[];
}

export interface Gap {
  readonly holder: string;
  readonly verifier: string;
  /** Why it cannot be done without. */
  readonly cause: string;
  readonly kind: Waiver["kind"];
  /** Upper estimate of how long presenters may be refused. */
  readonly boundMs: number;
}

export type SafetyVerdict = "proved" | "proved with declared gaps" | "refuted" | "not proved" | "blocked";

export interface Safety {
  readonly verdict: SafetyVerdict;
  readonly states: number;
  readonly transitions: number;
  readonly method: Proof["method"];
  /** In words: the shortest run that would refuse somebody, or end where nothing is safe. */
  readonly counterexample?: readonly string[];
  readonly why?: string;
  /** For `not proved`: after how many states the search was given up. */
  readonly limit?: number;
}

export interface Plan {
  readonly credential: string;
  readonly owner: string;
  readonly mode: "planned" | "breach";
  readonly strategy: RotationSpec["strategy"];
  readonly direction: RotationSpec["direction"];
  readonly from: string | null;
  readonly to: string;
  /** SHA-256 over everything that decides the order: approvals bind to it. Estimates and dates are not in it. */
  readonly digest: string;
  readonly safety: Safety;
  readonly gaps: readonly Gap[];
  /** Every edge that the run may expose: those of the gaps, and those that only another order would open. */
  readonly exposed: RotationSpec["exposed"];
  readonly steps: readonly Step[];
  /** `n` of the first step after which rolling back is not possible any more; `null`: always possible. */
  readonly pointOfNoReturn: number | null;
  /** Whether there is data under the credential, so that the two data columns mean something. */
  readonly hasData: boolean;
  readonly estimateMs: number;
  /** ISO 8601, UTC; `null` where the current version does not expire. */
  readonly expires: string | null;
  readonly lastSafeStart: string | null;
  /** What the plan relies on and what it leaves alone. */
  readonly notes: readonly string[];
  /** Places that could not be seen; a plan with any of them cannot be started. */
  readonly unseen: readonly string[];
}

export interface PlanOptions extends Pick<ProveOptions, "maxStates"> {
  /** SHA-256 as lower-case hex: the caller's, because core has no packages. */
  readonly hash: (text: string) => string;
  /** Leave the proof out: for recomputing steps of a plan that was proved already. */
  readonly policy?: Policy;
}

/** The order in which a plan prefers to show what `next` offers at the same time. */
const preference: readonly string[] = [
  "end-sessions",
  "remove-orphan",
  "forget-orphan",
  "issue",
  "seal",
  "deny",
  "trust",
  "stage",
  "start-reencryption",
  "swap",
  "activate",
  "set",
  "stop-reencryption",
  "distrust",
  "purge",
];
export function preferred(offers: readonly Offer[]): Offer {
  return offers.reduce((best, offer) =>
    preference.indexOf(offer.action.kind) < preference.indexOf(best.action.kind) ? offer : best,
  );
}

/** Lets the world finish what it has under way, one site at a time. Returns each stage with what was waited for. */
function* settle(system: System, start: State): Generator<{ state: State; wait: Wait }> {
  let state = start;
  for (;;) {
    let first: { at: number; move: LocalMove } | null = null;
    system.eachMove(state, (at, move) => {
      first ??= { at, move };
    });
    const found = first as { at: number; move: LocalMove } | null;
    if (found === null) return;
    // All copies of one site, before the next site begins.
    let moved = state;
    for (;;) {
      let again: LocalMove | null = null;
      system.eachMove(moved, (at, move) => {
        if (at === found.at && move.wait.kind === found.move.wait.kind && again === null) again = move;
      });
      const next = again as LocalMove | null;
      if (next === null) break;
      moved = moved.slice();
      moved[found.at] = next.to;
    }
    state = moved;
    yield { state, wait: found.move.wait };
  }
}

/** Follows `next` to its end, letting the world answer in between. `null`: it never gets there. */
function runToEnd(planner: Planner, start: State): State | null {
  let state = start;
  const most = 64 * (planner.system.width + 8);
  for (let i = 0; i < most; i++) {
    if (planner.done(state)) return state;
    const offers = planner.offers(state);
    if (offers.length > 0) {
      state = preferred(offers).to;
      continue;
    }
    let moved = false;
    for (const stage of settle(planner.system, state)) {
      state = stage.state;
      moved = true;
    }
    if (!moved) return null;
  }
  return null;
}

export function backGoal(assembled: Assembled, from: string): Goal {
  const version = assembled.versionIds.indexOf(from);
  const { goal, topology, situation } = assembled;
  const item = topology.items.findIndex((x) => x.name === from && x.admits === bit(version));
  return {
    target: goal.target.map(() => version),
    final: goal.final.map((set, a) =>
      topology.items.some((x, t) => set & bit(t) && x.version !== null)
        ? bit(item)
        : situation.verifiers[a]!.configured,
    ),
    compromised: 0,
    exposed: goal.exposed,
    containFirst: false,
  };
}

interface Unrolled {
  readonly steps: readonly Omit<Step, "n">[];
  readonly finished: boolean;
  readonly state: State;
}

function unroll(input: AssembleInput, assembled: Assembled, policy: Policy, proved: boolean): Unrolled {
  const { topology, goal } = assembled;
  const system = new System(topology);
  const planner = new Planner(system, goal);
  const { from } = input.rotation;
  const back =
    from !== null && input.rotation.mode === "planned" && input.rotation.direction === "forward"
      ? new Planner(system, backGoal(assembled, from))
      : null;
  const steps: Omit<Step, "n">[] = [];
  let state = system.encode(assembled.situation);
  const dataEdges = topology.edges.flatMap((edge, e) => (edge.drain === "job" ? [e] : []));

  // Once rolling back has become impossible it stays so; asking again at every later step would cost a run each.
  let rollable = back !== null;
  const judge = (at: State): IfStopped => {
    if (rollable && back) rollable = runToEnd(back, at) !== null;
    const newest = goal.target.reduce((mask, v) => mask | bit(v), 0);
    const readable = (of: (versions: Mask) => Mask): boolean =>
      dataEdges.every((e) => {
        const edge = topology.edges[e]!;
        const must =
          system.verifiers[edge.verifier]!.must[system.verifierId(at, edge.verifier)]! & ~at[system.expiredAt]!;
        const may = system.holders[edge.holder]!.may[system.holderId(at, edge.holder)]![system.edgeAt[e]!]!;
        return (of(may) & ~must) === 0;
      });
    return {
      serviceUp: topology.edges.every((edge, e) => edge.drain === "job" || system.violation(at, e) === 0),
      oldDataReadable: readable((may) => may & ~newest),
      newDataReadable: readable((may) => may & newest),
      canResume: proved || runToEnd(planner, at) !== null,
      canRollBack: rollable,
    };
  };
  let ifStopped = judge(state);
  const push = (step: Omit<Step, "n" | "ifStopped" | "opensGap"> & { opensGap?: readonly string[] }): void => {
    steps.push({ opensGap: [], ...step, ifStopped });
  };

  // Waits for people and hours stand before the first step of their phase. They only hold back; they never allow.
  const opened = new Set<Phase>();
  const open = (phase: Phase): void => {
    if (opened.has(phase)) return;
    opened.add(phase);
    const breach = input.rotation.mode === "breach";
    if (phase === "retire" && policy.soakMs > 0 && !breach)
      push({
        action: "soak",
        phase,
        place: null,
        version: null,
        text: "let the new version prove itself before anything is removed",
        by: "world",
        estimateMs: policy.soakMs,
      });
    const people = policy.approvals[phase] ?? 0;
    if (people > 0)
      push({
        action: "approve",
        phase,
        place: null,
        version: null,
        text: `approval: ${phaseWords[phase]} (${people} ${people === 1 ? "person" : "people"}, not the starter)`,
        by: "person",
        estimateMs: 0,
      });
    if (policy.windows.length > 0 && phase !== "issue" && !breach)
      push({
        action: "window",
        phase,
        place: null,
        version: null,
        text: `wait for the window: ${policy.windows.map((w) => w.text).join(" or ")}`,
        by: "world",
        estimateMs: 0,
      });
  };

  const most = 64 * (system.width + 8);
  for (let i = 0; i < most && !planner.done(state); i++) {
    const offers = planner.offers(state);
    if (offers.length > 0) {
      const { action, to } = preferred(offers);
      const effect = effectOf(assembled, action);
      if (input.rotation.direction === "forward") open(phaseOf(action));
      state = to;
      ifStopped = judge(state);
      push({
        action: action.kind,
        phase: effect.phase,
        place: action.verifier === null && action.holder === null ? null : effect.place,
        version: effect.version,
        text: describeAction(topology, action),
        by: effect.human ? "person" : "keyroll",
        estimateMs: durationOf(topology, action.verifier, action.holder, action.kind, action.version),
        opensGap: action.exposes.map(
          (e) =>
            `${assembled.holderPlaces[topology.edges[e]!.holder]!} to ${assembled.verifierPlaces[topology.edges[e]!.verifier]!}`,
        ),
      });
      continue;
    }
    let moved = false;
    for (const stage of settle(system, state)) {
      moved = true;
      state = stage.state;
      ifStopped = judge(state);
      push({ phase: steps.at(-1)?.phase ?? "distribute", ...waitStep(assembled, stage.wait) });
      // Something may be safe already before everything has settled.
      if (planner.offers(state).length > 0 || planner.done(state)) break;
    }
    if (!moved) break;
  }
  const finished = planner.done(state);
  // The rotation ends by forgetting the old version: until then its sealed copy is what rolling back would use.
  const old = input.versions.find(
    (version) => version.id === (input.rotation.direction === "forward" ? from : input.rotation.to),
  );
  if (finished && old?.hasMaterial) {
    ifStopped = { ...ifStopped, canRollBack: false };
    push({
      action: "destroy",
      phase: "retire",
      place: null,
      version: old.id,
      text: `destroy the sealed copy of ${old.id}`,
      by: "keyroll",
      estimateMs: 100,
    });
  }
  return { steps, finished, state };
}

const phaseWords: Record<Phase, string> = {
  issue: "issue",
  distribute: "distribution",
  switch: "switch",
  retire: "removal",
};

function durationOf(
  topology: Topology,
  verifier: number | null,
  holder: number | null,
  kind: string,
  version: number | null,
): number {
  if (kind === "seal" || kind === "forget-orphan") return 100;
  if (kind === "issue") return topology.versions[version!]!.issuer!.durationMs;
  return verifier !== null ? topology.verifiers[verifier]!.changeMs : topology.holders[holder!]!.changeMs;
}

function waitStep(assembled: Assembled, wait: Wait): Omit<Step, "n" | "ifStopped" | "opensGap" | "phase"> {
  const { topology } = assembled;
  const version = wait.version === null ? null : (assembled.versionIds[wait.version] ?? null);
  switch (wait.kind) {
    case "propagate": {
      const verifier = topology.verifiers[wait.verifier!]!;
      return {
        action: "check",
        place: verifier.name,
        version,
        text: `check that every copy of ${verifier.name} enforces the change`,
        by: "world",
        estimateMs: verifier.propagationMs,
      };
    }
    case "refresh": {
      const holder = topology.holders[wait.holder!]!;
      return {
        action: "check",
        place: holder.name,
        version,
        text: `check that every consumer of ${holder.name} uses ${version ?? "it"}`,
        by: "world",
        estimateMs: holder.refreshMs,
      };
    }
    case "re-register": {
      const holder = topology.holders[wait.holder!]!;
      return {
        action: "wait",
        place: holder.name,
        version,
        text: `wait until every consumer of ${holder.name} has signed in anew`,
        by: "world",
        estimateMs: holder.refreshMs,
      };
    }
    case "drain": {
      const edge = topology.edges[wait.edge!]!;
      return {
        action: "wait",
        place: topology.verifiers[edge.verifier]!.name,
        version,
        text: `wait until nothing from ${topology.holders[edge.holder]!.name} is under way under ${version ?? "the old version"}`,
        by: "world",
        estimateMs: edge.drainMs,
      };
    }
    case "reencrypt": {
      const edge = topology.edges[wait.edge!]!;
      return {
        action: "wait",
        place: topology.verifiers[edge.verifier]!.name,
        version,
        text: `re-encrypt what ${topology.holders[edge.holder]!.name} wrote under ${version ?? "the old version"}`,
        by: "world",
        estimateMs: edge.drainMs,
      };
    }
  }
}

/** Plans one rotation from what is declared, known and seen. Pure; the digest function is the caller's. */
export function plan(input: AssembleInput, options: PlanOptions): Plan {
  const policy = options.policy ?? input.credential.policy;
  const proving: ProveOptions = options.maxStates === undefined ? {} : { maxStates: options.maxStates };
  let rotation = input.rotation;
  let assembled = assemble({ ...input, rotation });
  let proof = prove(assembled.topology, assembled.situation, assembled.goal, proving);
  let waiver: Waiver | null = null;
  let blockedWhy: string | undefined;
  // Contain first declares every edge that carries the compromised version: that is its meaning.
  if (rotation.mode === "breach" && rotation.strategy === "contain-first" && rotation.exposed.length === 0) {
    rotation = {
      ...rotation,
      exposed: edgeNames(assembled, exposable(assembled.topology)),
    };
    assembled = assemble({ ...input, rotation });
    proof = prove(assembled.topology, assembled.situation, assembled.goal, proving);
    waiver = { edges: assembled.goal.exposed, proof, least: false, kind: "unavoidable" };
  } else if (proof.verdict === "blocked") {
    blockedWhy = proof.why;
    waiver = leastWaiver(assembled.topology, assembled.situation, assembled.goal, proving);
    if (waiver) {
      rotation = { ...rotation, exposed: edgeNames(assembled, waiver.edges) };
      assembled = assemble({ ...input, rotation });
      proof = waiver.proof;
    }
  }

  const { steps: raw, finished } = unroll({ ...input, rotation }, assembled, policy, proof.verdict === "proved");
  const steps: Step[] = raw.map((step, i) => ({ ...step, n: i + 1 }));
  const gaps = gapsOf(assembled, steps, waiver, blockedWhy ?? proof.why);
  const used = gaps.length > 0;
  const verdict: SafetyVerdict =
    proof.verdict === "proved"
      ? used
        ? "proved with declared gaps"
        : "proved"
      : proof.verdict === "refuted"
        ? "refuted"
        : proof.verdict === "not-proved"
          ? "not proved"
          : "blocked";
  const safety: Safety = {
    verdict,
    states: proof.states,
    transitions: proof.transitions,
    method: proof.method,
    ...(proof.counterexample ? { counterexample: proof.counterexample } : {}),
    ...(proof.why ? { why: proof.why } : {}),
    ...(verdict === "not proved" ? { limit: options.maxStates ?? 200_000 } : {}),
  };

  const estimateMs = steps.reduce((sum, step) => sum + step.estimateMs, 0);
  const firstRemoval = steps.findIndex((step) => step.phase === "retire");
  const neededMs = steps
    .slice(0, firstRemoval < 0 ? steps.length : firstRemoval)
    .reduce((sum, step) => sum + step.estimateMs, 0);
  const from = input.versions.find((version) => version.id === input.rotation.from);
  const notAfterMs = from?.facts.notAfterMs;
  const iso = (ms: number): string => new Date(ms).toISOString();
  const noReturn =
    input.rotation.mode === "planned" && rotation.direction === "forward"
      ? steps.find((step) => !step.ifStopped.canRollBack)
      : steps[0];
  const notes = [...assembled.notes];
  if (!finished && proof.verdict === "proved")
    notes.push("The unrolled steps do not reach the goal; the proof does by other orders.");
  const digest = options.hash(
    JSON.stringify({
      ...restsOn(input.credential, policy),
      from: from ? [from.id, from.facts.fingerprint] : null,
      rotation: [rotation.mode, rotation.strategy, rotation.direction, rotation.exposed, rotation.signer ?? null],
      steps: steps.map((step) => [step.action, step.place, step.version]),
    }),
  );
  return {
    credential: input.credential.name,
    owner: input.credential.owner,
    mode: rotation.mode,
    strategy: rotation.strategy,
    direction: rotation.direction,
    from: rotation.from,
    to: rotation.to,
    digest,
    safety,
    gaps,
    exposed: rotation.exposed,
    steps,
    pointOfNoReturn: noReturn?.n ?? null,
    hasData: assembled.topology.edges.some((edge) => edge.drain === "job"),
    estimateMs,
    expires: notAfterMs === undefined ? null : iso(notAfterMs),
    lastSafeStart: notAfterMs === undefined ? null : iso(notAfterMs - neededMs - policy.marginMs),
    notes,
    unseen: assembled.unseen,
  };
}

/** What of a declaration a plan rests on, as plain JSON: when any of it changes, the plan and what was approved with it are void. */
export function restsOn(credential: CredentialDecl, policy: Policy): object {
  return {
    credential: credential.name,
    places: credential.places.map((place) => [
      place.name,
      place.type,
      place.system ?? null,
      place.presentsTo,
      place.traits,
    ]),
    issuer: [credential.issuer.type, credential.issuer.place ?? null, credential.issuer.ca ?? null],
    data: credential.data?.map(({ writtenUnder, readBy, drainMs }) => [writtenUnder, readBy, drainMs]),
    policy: { soakMs: policy.soakMs, approvals: policy.approvals, windows: policy.windows.map((w) => w.text) },
  };
}

function edgeNames(assembled: Assembled, edges: readonly number[]): { holder: string; verifier: string }[] {
  return edges.map((e) => {
    const edge = assembled.topology.edges[e]!;
    return { holder: assembled.holderPlaces[edge.holder]!, verifier: assembled.verifierPlaces[edge.verifier]! };
  });
}

/** The declared gaps with their bounds: from the step that opens one until the first step after which the service is up again. */
function gapsOf(assembled: Assembled, steps: readonly Step[], waiver: Waiver | null, why: string | undefined): Gap[] {
  if (!waiver) return [];
  return edgeNames(assembled, waiver.edges).flatMap(({ holder, verifier }) => {
    const name = `${holder} to ${verifier}`;
    const first = steps.findIndex((step) => step.opensGap.includes(name));
    if (first < 0) return [];
    let boundMs = 0;
    for (let i = first; i < steps.length; i++) {
      boundMs += steps[i]!.estimateMs;
      if (i > first && steps[i]!.ifStopped.serviceUp && steps[i]!.ifStopped.oldDataReadable) break;
    }
    return [
      { holder, verifier, cause: why ?? "the compromised version is taken out first", kind: waiver.kind, boundMs },
    ];
  });
}

/** What ends a version's usefulness somewhere. */
const endings: ReadonlySet<string> = new Set(["distrust", "deny", "swap", "end-sessions"]);

/**
 * What a breach plan costs: how long the old version still works (`null`: no place that checks it is declared, so nobody here can say), and how
 * long somebody may be refused, both in milliseconds.
 */
export function breachCosts(plan: Plan): { readonly exposureMs: number | null; readonly outageMs: number } {
  let until = plan.steps.findLastIndex((step) => endings.has(step.action));
  const outageMs = Math.max(0, ...plan.gaps.map((gap) => gap.boundMs));
  if (until < 0) return { exposureMs: null, outageMs };
  // A verifier with lagging copies still accepts it until the check that follows.
  while (until + 1 < plan.steps.length && ["check", "wait"].includes(plan.steps[until + 1]!.action)) until++;
  return { exposureMs: plan.steps.slice(0, until + 1).reduce((sum, step) => sum + step.estimateMs, 0), outageMs };
}
