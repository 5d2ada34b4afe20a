/** The `credentials` section: a credential with its places, issuer, data sets and policy. */
import type { z } from "zod";
import type { CredentialDecl, DataDecl, PlaceDecl } from "../core/place.ts";
import { issuerSection } from "./issuers.ts";
import { checkPresentsTo, checkRoles, checkVerifier, placeSection } from "./places.ts";
import type { PlaceDraft } from "./places.ts";
import { mergePolicies } from "./policy.ts";
import { quoted, suggestion } from "./problem.ts";
import { below } from "./reading.ts";
import type { Reading, Spot } from "./reading.ts";
import { credentialShape, isName, nameRule } from "./schema.ts";
import type { DefaultsInput } from "./schema.ts";
import { isTreeMap, omit } from "./source.ts";
import type { Tree } from "./source.ts";

export interface CredentialDraft {
  readonly name: string;
  readonly spot: Spot;
  readonly kind: string | undefined;
  readonly ca: { readonly name: string; readonly spot: Spot } | undefined;
  readonly holds: readonly { readonly name: string; readonly spot: Spot }[];
  readonly decl: CredentialDecl | undefined;
}

export async function credentialSection(
  reading: Reading,
  name: string,
  raw: Tree,
  spot: Spot,
  defaults: readonly DefaultsInput[],
  systems: ReadonlyMap<string, { readonly type: string | undefined }>,
  used: Set<string>,
): Promise<CredentialDraft> {
  if (!reading.isMap(raw, spot, "kind, owner, issuer and places")) {
    return { name, spot, kind: undefined, ca: undefined, holds: [], decl: undefined };
  }
  reading.refuseReferences(omit(raw, ["issuer", "places"]), spot);
  const before = reading.problems.count;
  const { value: parsed, right } = reading.checkEach(credentialShape, raw, spot);
  const owner = parsed.owner ?? defaults.findLast((each) => each.owner !== undefined)?.owner;
  if (owner === undefined && raw["owner"] === undefined) {
    reading.problem(spot, ["owner"], "is missing; write who looks after it, here or under defaults");
  }
  const drafts: PlaceDraft[] = [];
  if (isTreeMap(raw["places"])) {
    for (const [placeName, place] of Object.entries(raw["places"])) {
      drafts.push(await placeSection(reading, placeName, place, below(spot, "places", placeName), systems, used));
    }
  }
  checkRoles(reading, drafts, raw, spot);
  const presentsTo = checkPresentsTo(reading, drafts);
  const data = dataSets(reading, parsed.data, drafts, spot);
  const issuer = await issuerSection(reading, raw["issuer"], drafts, spot, systems, used);
  const holds = drafts.flatMap((draft) =>
    draft.common?.credential === undefined
      ? []
      : [{ name: draft.common.credential, spot: below(draft.spot, "credential") }],
  );
  const caName = isTreeMap(raw["issuer"]) && typeof raw["issuer"]["ca"] === "string" ? raw["issuer"]["ca"] : undefined;
  const policy = mergePolicies([...defaults.map((each) => each.policy), parsed.policy]);
  if (parsed.policy?.window !== undefined && parsed.policy.windows !== undefined) {
    reading.problem(spot, ["policy", "window"], "stands beside windows; put all of them into windows", "key");
  }
  const draft = {
    name,
    spot,
    kind: typeof raw["kind"] === "string" ? raw["kind"] : undefined,
    ca: caName === undefined ? undefined : { name: caName, spot: below(spot, "issuer", "ca") },
    holds,
  };
  if (
    !right ||
    parsed.kind === undefined ||
    issuer === undefined ||
    owner === undefined ||
    reading.problems.count > before
  ) {
    return { ...draft, decl: undefined };
  }
  if (policy.rotateBeforeMs === null && policy.maxAgeMs === null) {
    reading.note(
      spot,
      ["policy"],
      "names neither rotateBefore nor maxAge, so it is rotated only when somebody asks, or before it expires",
    );
  }
  const places = drafts.flatMap((each): PlaceDecl[] => {
    if (each.decl === undefined) return [];
    return [{ ...each.decl, presentsTo: presentsTo.get(each.name) ?? [] }];
  });
  const decl: CredentialDecl = {
    name,
    kind: parsed.kind,
    owner,
    labels: Object.assign({}, ...defaults.map((each) => each.labels ?? {}), parsed.labels ?? {}),
    issuer,
    places: places.map((place) => ({
      ...place,
      presentsTo: [
        ...new Set([
          ...place.presentsTo,
          ...data.flatMap((set) => (set.writtenUnder === place.name ? set.readBy : [])),
        ]),
      ],
    })),
    ...(data.length > 0 ? { data } : {}),
    policy,
    source: reading.source(spot),
  };
  return { ...draft, decl };
}

function dataSets(
  reading: Reading,
  data: z.output<typeof credentialShape>["data"],
  drafts: readonly PlaceDraft[],
  spot: Spot,
): DataDecl[] {
  const found: DataDecl[] = [];
  for (const [name, set] of Object.entries(data ?? {})) {
    const at = below(spot, "data", name);
    if (!isName(name)) reading.problem(at, [], `${quoted(name)} is not a name; ${nameRule}`, "key");
    const holders = drafts.filter((draft) => draft.roles.includes("holder")).map((draft) => draft.name);
    const holder = drafts.find((draft) => draft.name === set.writtenUnder);
    if (holder === undefined) {
      reading.problem(
        at,
        ["writtenUnder"],
        `${quoted(set.writtenUnder)} is not a place of this credential${suggestion(set.writtenUnder, holders, "holder")}`,
      );
    } else if (!holder.roles.includes("holder") && !holder.broken) {
      reading.problem(
        at,
        ["writtenUnder"],
        `${quoted(set.writtenUnder)} is not a holder; write holder: true there, or name a holder`,
      );
    }
    for (const target of set.readBy) checkVerifier(reading, target, drafts, below(at, "readBy"));
    if (set.readBy.length === 0)
      reading.problem(at, ["readBy"], "is empty; name the verifiers that must read the records");
    found.push({
      name,
      writtenUnder: set.writtenUnder,
      readBy: [...new Set(set.readBy)],
      drainMs: set.takes,
      source: reading.source(at),
    });
  }
  return found;
}
