/** From rows and notes to the input of the decision. Shared by what previews a rotation, what starts it and what runs it. */
import { createHash } from "node:crypto";
import type { PlaceMemory, RotationSpec, VersionRecord } from "../core/assemble.ts";
import type { CredentialDecl, Observation } from "../core/place.ts";
import { restsOn } from "../core/plan.ts";
import type { Queries, RotationRow, VersionRow } from "../store/store.ts";
import type { PlaceNotes } from "./memory.ts";

export function recordOf(row: VersionRow): VersionRecord {
  return {
    id: row.id,
    // A version whose issuing has begun and not ended has no facts yet; its id is all that is known of it.
    facts: row.facts ?? { fingerprint: "" },
    state: row.state,
    material: row.material,
    hasMaterial: row.material === "sealed",
    placements: row.placements,
    createdMs: row.createdAtMs,
  };
}

export function specOf(row: RotationRow, versions: readonly VersionRecord[], signer?: string): RotationSpec {
  return {
    mode: row.mode,
    strategy: row.strategy,
    direction: row.direction,
    from: row.fromVersion,
    to: row.toVersion ?? nextVersionId(row.credential, versions),
    exposed: row.exposed.map((edge) => {
      const [holder = "", verifier = ""] = edge.split(" -> ");
      return { holder, verifier };
    }),
    ...(signer === undefined ? {} : { signer }),
  };
}

/** The id that the next version of this credential will get. */
export function nextVersionId(credential: string, versions: readonly { readonly id: string }[]): string {
  const numbers = versions.map((version) => Number(version.id.slice(version.id.lastIndexOf("#") + 1)));
  return `${credential}#${Math.max(0, ...numbers) + 1}`;
}

export function credentialOf(version: string): string {
  return version.slice(0, version.lastIndexOf("#"));
}

/** The version of the signing credential that is current, or the one that its own rotation asked for. `null`: nothing signs, or none is known. */
export async function findSigner(
  queries: Pick<Queries, "versions">,
  credential: CredentialDecl,
  wanted: string | null,
): Promise<VersionRecord | null> {
  const ca = credential.issuer.ca;
  if (ca === undefined) return null;
  const versions = (await queries.versions.list(ca)).map(recordOf);
  const found =
    wanted === null
      ? versions.findLast((version) => version.state === "current")
      : versions.find((version) => version.id === wanted);
  return found ?? null;
}

/** Digest of what a plan rests on in this declaration: when it changes, the plan and its approvals are void. */
export function declarationDigest(credential: CredentialDecl): string {
  return createHash("sha256")
    .update(JSON.stringify(restsOn(credential, credential.policy)))
    .digest("hex");
}

/** What `assemble` needs of the engine's notes. */
export function memoryFor(notes: PlaceNotes, canProbe: boolean, lastSeen: Observation | undefined): PlaceMemory {
  const { changedMs, beforeAll, beforeAny, presented, accepted, refused, wrote, job, maybeJobs, maybe, ended } = notes;
  return {
    changedMs,
    beforeAll,
    beforeAny,
    presented,
    accepted,
    refused,
    canProbe,
    ...(lastSeen === undefined ? {} : { lastSeen }),
    ...(wrote === undefined ? {} : { wrote }),
    ...(job === undefined ? {} : { job }),
    ...(maybeJobs === undefined ? {} : { maybeJobs }),
    maybe,
    ...(ended === undefined ? {} : { ended }),
  };
}
