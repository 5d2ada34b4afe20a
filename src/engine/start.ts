/**
 * Before the first effect: look at everything, take in what was there before Keyroll, plan, and start only what was proved and is still what
 * the user saw.
 */
import { createHash } from "node:crypto";
import type { Issued } from "../connectors/connector.ts";
import { ConnectorError } from "../connectors/connector.ts";
import { Secret } from "../connectors/secret.ts";
import type { Material } from "../connectors/secret.ts";
import type { AssembleInput, RotationSpec, VersionRecord } from "../core/assemble.ts";
import type { CredentialDecl, Observation, SystemDecl, VersionFacts } from "../core/place.ts";
import { plan } from "../core/plan.ts";
import type { Plan } from "../core/plan.ts";
import { Problem } from "../core/problem.ts";
import type { Json, Queries, RotationRow } from "../store/store.ts";
import { openCredential } from "./connect.ts";
import type { OpenCredential } from "./connect.ts";
import type { EngineDeps } from "./deps.ts";
import type { JournalRecord } from "./journal.ts";
import { noRotationNotes, rotationNotesPlace, writeNotes } from "./memory.ts";
import { look, readBack, sentence } from "./observe.ts";
import type { Look } from "./observe.ts";
import { createSignIns } from "./sign-in.ts";
import { credentialOf, declarationDigest, findSigner, nextVersionId, recordOf } from "./spec.ts";

export interface PreviewRequest {
  readonly credential: string;
  readonly mode: "planned" | "breach";
  readonly strategy: "availability-first" | "contain-first";
  /** Give up proving after this many states. */
  readonly maxStates?: number;
  /** The version of the signing credential to sign with, where it is not the current one. */
  readonly signer?: string | null;
}

export interface StartRequest extends PreviewRequest {
  readonly startedBy: string;
  /** Digest of the plan that the user saw. `null`: started by the rotation that waits for it, which nobody previews on its own. */
  readonly planDigest: string | null;
  /** The rotation that waits for this one. */
  readonly parent?: string;
}

export interface Preview {
  readonly plan: Plan;
  readonly looks: readonly Look[];
  /** What a start would take in: values that were there before Keyroll. */
  readonly adopted: readonly { readonly version: string; readonly place: string }[];
}

const hash = (text: string): string => createHash("sha256").update(text).digest("hex");

export function declared(deps: EngineDeps, name: string): CredentialDecl {
  const found = deps.estate().credentials.find((credential) => credential.name === name);
  if (found === undefined) {
    throw new Problem("not-found", `There is no credential named ${name} in the estate.`, {
      next: "List them with: keyroll list",
    });
  }
  return found;
}

/** Opens the connectors of a credential outside a rotation. `extra`: values that are not sealed (yet). */
export function openDeclared(
  deps: EngineDeps,
  credential: CredentialDecl,
  extra: ReadonlyMap<string, Material> = new Map(),
): OpenCredential {
  const open = async (version: string): Promise<Material> => {
    const here = extra.get(version);
    return here === undefined ? await openSealed(deps, version) : copyOf(here);
  };
  return openCredential(
    credential,
    deps.estate().systems,
    deps.registry,
    open,
    { ...deps, callTimeoutMs: deps.options.callTimeoutMs, readAttempts: deps.options.readAttempts },
    createSignIns({ ...deps, open }),
  );
}

/** The settings of a system with the sign-in that is in force, and what a person should know about it. */
export async function signedInSystem(
  deps: EngineDeps,
  system: SystemDecl,
): Promise<{ readonly config: unknown; readonly note: string | null }> {
  const type = deps.registry.systemType(system.type);
  const signIns = createSignIns({ ...deps, open: (version) => openSealed(deps, version) });
  const kept = await signIns.inForce(system, type);
  if (kept === null) return { config: system.config, note: null };
  return { config: await signIns.settings(system, type, kept), note: signIns.unused(system, type, kept) };
}

async function openSealed(deps: EngineDeps, version: string): Promise<Material> {
  const material = await deps.sealer.open(deps.store, { owner: credentialOf(version), version, purpose: "material" });
  if (material === null)
    throw new ConnectorError("misconfigured", `The secret part of ${version} is not sealed here any more.`);
  return material;
}

/** Looks at all places of a credential and writes down what was seen. */
export async function observeCredential(deps: EngineDeps, name: string): Promise<readonly Look[]> {
  const credential = declared(deps, name);
  const open = openDeclared(deps, credential);
  try {
    const versions = (await deps.store.versions.list(name)).map(recordOf);
    const looks = await look(deps, open, credential.places, versions, {});
    await writeLooks(deps.store, name, looks);
    return looks;
  } finally {
    await open.close();
  }
}

async function writeLooks(queries: Queries, credential: string, looks: readonly Look[]): Promise<void> {
  for (const { place, observation, error } of looks) {
    if (observation !== null) await queries.observations.saw(credential, place, observation);
    else await queries.observations.failed(credential, place, error ?? "It was not seen.");
  }
}

/** A plan on a fresh look. Changes nothing outside, and nothing here but what was seen. */
export async function previewRotation(deps: EngineDeps, request: PreviewRequest): Promise<Preview> {
  const credential = declared(deps, request.credential);
  const survey = await surveyCredential(deps, credential);
  for (const { material } of survey.adoptions) wipe(material);
  await writeLooks(deps.store, credential.name, survey.looks);
  return {
    plan: plan(await inputOf(deps, credential, request, survey), {
      hash,
      ...(request.maxStates === undefined ? {} : { maxStates: request.maxStates }),
    }),
    looks: survey.looks,
    adopted: survey.adoptions.map(({ version, place }) => ({ version: version.id, place })),
  };
}

/**
 * Starts a rotation of exactly the plan that was seen. Throws a {@link Problem} of kind `refused` when the plan is not safe or not the same any
 * more, and of kind `stale` when something could not be seen; nothing was changed then.
 */
export async function startRotation(deps: EngineDeps, request: StartRequest): Promise<RotationRow> {
  const credential = declared(deps, request.credential);
  if ((await deps.store.credentials.get(credential.name)) === undefined) {
    throw new Problem("refused", `${credential.name} is declared, and the estate has not been applied since.`, {
      next: "Run: keyroll check",
    });
  }
  const active = await deps.store.rotations.active(credential.name);
  if (active !== undefined) {
    throw new Problem("refused", `${credential.name} is already being rotated by ${active.id}.`, {
      next: `Follow it with: keyroll run watch ${active.id}`,
    });
  }
  const survey = await surveyCredential(deps, credential);
  try {
    const input = await inputOf(deps, credential, request, survey);
    const made = plan(input, { hash, ...(request.maxStates === undefined ? {} : { maxStates: request.maxStates }) });
    refuseUnsafe(credential, made, survey.looks);
    if (request.planDigest !== null && request.planDigest !== made.digest) {
      throw new Problem(
        "refused",
        `The plan for ${credential.name} is not the one that was seen: what it rests on has changed since.`,
        {
          next: `Look at the new one with: keyroll plan ${credential.name}`,
        },
      );
    }
    return await deps.store.transaction(async (tx) => {
      // The journal comes last in a transaction, because its end is locked until then.
      const records: JournalRecord[] = [];
      const actor = `person:${request.startedBy}`;
      for (const { version, material, place, isNew } of survey.adoptions) {
        if (isNew) {
          const row = await tx.versions.create({
            credential: credential.name,
            facts: version.facts,
            state: version.id === survey.from ? "current" : "retiring",
            material: "sealed",
            placements: version.placements,
          });
          if (row.id !== version.id) {
            throw new Problem("failed", `${credential.name} got a version from somebody else at the same moment.`, {
              next: "Try again.",
            });
          }
        } else await tx.versions.update(version.id, { material: "sealed" });
        await deps.sealer.seal(tx, { owner: credential.name, version: version.id, purpose: "material" }, material);
        records.push({
          actor,
          rotation: null,
          credential: credential.name,
          kind: "version",
          payload: { version: version.id, adoptedFrom: place, fingerprint: version.facts.fingerprint },
        });
      }
      for (const row of await tx.versions.list(credential.name)) {
        if (row.id === survey.from) {
          if (request.mode === "breach") await tx.versions.update(row.id, { state: "compromised" });
          // What was compromised once stays so, whatever kind of rotation takes it away.
          else if (row.state !== "current" && row.state !== "compromised") {
            await tx.versions.update(row.id, { state: "current" });
          }
        } else if (row.state === "current") await tx.versions.update(row.id, { state: "retiring" });
      }
      const row = await tx.rotations.create({
        credential: credential.name,
        mode: request.mode,
        strategy: request.strategy,
        fromVersion: survey.from,
        toVersion: null,
        planDigest: made.digest,
        plan: made as unknown as Json,
        exposed: made.exposed.map((edge) => `${edge.holder} -> ${edge.verifier}`),
        startedBy: request.startedBy,
        nextWakeAtMs: await tx.now(),
      });
      await tx.places.put(
        row.id,
        rotationNotesPlace,
        writeNotes({
          ...noRotationNotes,
          signer: request.signer ?? null,
          parent: request.parent ?? null,
          declaration: declarationDigest(credential),
        }),
      );
      records.push({
        actor,
        rotation: row.id,
        credential: credential.name,
        kind: "rotation",
        payload: {
          status: "running",
          mode: request.mode,
          strategy: request.strategy,
          from: survey.from,
          planDigest: made.digest,
          verdict: made.safety.verdict,
          exposed: row.exposed,
        },
      });
      await writeLooks(tx, credential.name, survey.looks);
      await tx.enqueue(row.id);
      await deps.journal.append(tx, records);
      return row;
    });
  } finally {
    for (const { material } of survey.adoptions) wipe(material);
  }
}

/** A plan that is refuted, stands still or could not look everywhere is never run, by no flag. */
export function refuseUnsafe(credential: CredentialDecl, made: Plan, looks: readonly Look[]): void {
  if (made.unseen.length > 0) {
    const why = looks
      .filter((each) => made.unseen.includes(each.place))
      .map((each) => `${each.place}: ${each.error ?? "not seen"}`);
    throw new Problem(
      "stale",
      `Not all places of ${credential.name} could be seen, so nothing can be proved. ${why.join(" ")}`,
      {
        next: "Make them reachable, then try again.",
      },
    );
  }
  const { verdict, counterexample, why } = made.safety;
  if (verdict === "refuted" || verdict === "blocked") {
    const story =
      counterexample === undefined ? "" : ` The shortest run that goes wrong: ${counterexample.join("; ")}.`;
    throw new Problem(
      "refused",
      `The plan for ${credential.name} is ${verdict}${why === undefined ? "" : `: ${why}`}.${story}`,
      {
        next: `Change what stands in the way, then look again: keyroll plan ${credential.name}`,
      },
    );
  }
}

interface Adoption {
  readonly version: VersionRecord;
  readonly material: Material;
  readonly place: string;
  readonly isNew: boolean;
}

interface Survey {
  readonly versions: readonly VersionRecord[];
  readonly looks: readonly Look[];
  readonly adoptions: readonly Adoption[];
  /** The version that is in use: what holders were seen to use, else what was written down last. */
  readonly from: string | null;
}

/** Looks, and reads back what holders use and nobody knows. The values stay in memory until the caller seals or wipes them. */
async function surveyCredential(deps: EngineDeps, credential: CredentialDecl): Promise<Survey> {
  const materials = new Map<string, Material>();
  const open = openDeclared(deps, credential, materials);
  try {
    const nowMs = await deps.nowMs();
    const rows = await deps.store.versions.list(credential.name);
    let versions = rows.map(recordOf);
    let looks = await look(deps, open, credential.places, versions, {});
    const adoptions: Adoption[] = [];
    for (const place of credential.places) {
      const seen = looks.find((each) => each.place === place.name)?.observation ?? null;
      if (!place.traits.roles.includes("holder") || seen === null || seen.current === null) continue;
      const current = seen.entries.find((entry) => entry.mark === seen.current);
      if (current?.version !== undefined && versions.some((version) => version.id === current.version)) continue;
      let found: readonly Issued[];
      try {
        found = await readBack(open, place);
      } catch (error) {
        // Not being able to read the old value back costs the way back, not the way forward; the plan says so.
        deps.log.warn(`${credential.name}/${place.name} could not be read back: ${sentence(error)}`);
        continue;
      }
      for (const issued of found) {
        const facts: VersionFacts = {
          ...issued.facts,
          fingerprint:
            issued.facts.fingerprint ??
            deps.sealer.fingerprint(
              issued.material.kind === "secret" ? issued.material.value : issued.material.privateKey,
            ),
        };
        const placements = issued.placement === undefined ? {} : { [place.name]: issued.placement };
        const known = versions.find((version) => version.facts.fingerprint === facts.fingerprint);
        if (known?.hasMaterial === true) {
          wipe(issued.material);
          continue;
        }
        const version: VersionRecord = {
          id: known?.id ?? nextVersionId(credential.name, versions),
          facts: known?.facts ?? facts,
          state: known?.state ?? "current",
          material: "sealed",
          hasMaterial: true,
          placements: { ...known?.placements, ...placements },
          createdMs: known?.createdMs ?? nowMs,
        };
        versions = [...versions.filter((other) => other.id !== version.id), version];
        materials.set(version.id, issued.material);
        adoptions.push({ version, material: issued.material, place: place.name, isNew: known === undefined });
      }
    }
    // What one holder gave away may be recognised at all the others.
    if (adoptions.length > 0) looks = await look(deps, open, credential.places, versions, {});
    return { versions, looks, adoptions, from: currentVersion(credential, versions, looks) };
  } finally {
    await open.close();
  }
}

/** The version that most holders use; at a tie the one of the place that is declared first. Otherwise the one that was current last. */
function currentVersion(
  credential: CredentialDecl,
  versions: readonly VersionRecord[],
  looks: readonly Look[],
): string | null {
  const votes = new Map<string, number>();
  for (const place of credential.places) {
    if (!place.traits.roles.includes("holder")) continue;
    const seen = looks.find((each) => each.place === place.name)?.observation;
    const entry = seen?.entries.find((each) => each.mark === seen.current);
    const used = entry?.version ?? seen?.current;
    if (typeof used === "string" && versions.some((version) => version.id === used))
      votes.set(used, (votes.get(used) ?? 0) + 1);
  }
  const most = Math.max(0, ...votes.values());
  for (const [id, count] of votes) if (count === most) return id;
  return versions.findLast((version) => version.state === "current")?.id ?? null;
}

async function inputOf(
  deps: EngineDeps,
  credential: CredentialDecl,
  request: PreviewRequest,
  survey: Survey,
): Promise<AssembleInput> {
  const signer = await findSigner(deps.store, credential, request.signer ?? null);
  const rotation: RotationSpec = {
    mode: request.mode,
    strategy: request.strategy,
    direction: "forward",
    from: survey.from,
    to: nextVersionId(credential.name, survey.versions),
    exposed: [],
    ...(signer === null ? {} : { signer: signer.facts.fingerprint }),
  };
  const seen: Record<string, Observation | null> = {};
  for (const each of survey.looks) seen[each.place] = each.observation;
  return { credential, versions: survey.versions, rotation, seen, memory: {}, nowMs: await deps.nowMs() };
}

function copyOf(material: Material): Material {
  if (material.kind === "secret") return { ...material, value: new Secret(material.value.bytes()) };
  return { ...material, privateKey: new Secret(material.privateKey.bytes()) };
}

function wipe(material: Material): void {
  (material.kind === "secret" ? material.value : material.privateKey).wipe();
}
