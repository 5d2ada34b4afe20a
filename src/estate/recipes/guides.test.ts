/**
 * The orders of the guides, carried out on the topologies that the recipes make. What the proof says of them is printed on the recipes' pages, and
 * held here to be still what it says.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { shippedRegistry } from "../../connectors/registry.ts";
import { assemble } from "../../core/assemble.ts";
import type { Assembled, VersionRecord } from "../../core/assemble.ts";
import { has } from "../../core/model.ts";
import type { Situation } from "../../core/model.ts";
import type { CredentialDecl, Observation } from "../../core/place.ts";
import { plan as makePlan } from "../../core/plan.ts";
import { proveScript } from "../../core/script.ts";
import type { ScriptProof, ScriptStep } from "../../core/script.ts";
import { loadEstate } from "../load.ts";

const appId = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
async function credentialOf(name: string, recipe: string): Promise<CredentialDecl> {
  const text = `version: 1
defaults: { owner: team }
systems: { tenant: { type: microsoft, tenant: contoso.onmicrosoft.com, subscription: s, auth: { method: azure-cli } } }
credentials:
${recipe}`;
  const { estate } = await loadEstate("/estate/keyroll.yaml", {
    registry: shippedRegistry(),
    env: {},
    files: { read: async () => new TextEncoder().encode(text) },
  });
  const found = estate.credentials.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
}

/** Everything holds and trusts the first version, as before any rotation. */
function before(credential: CredentialDecl) {
  const id = `${credential.name}#1`;
  const first: VersionRecord = {
    id,
    facts: { fingerprint: "f1" },
    state: "current",
    material: "sealed",
    hasMaterial: true,
    placements: {},
    createdMs: 0,
  };
  const entry = { mark: "m1", version: id, enabled: true };
  const seen: Record<string, Observation> = {};
  for (const place of credential.places)
    seen[place.name] = place.traits.roles.includes("holder")
      ? { entries: [entry], current: "m1" }
      : { entries: [entry] };
  const rotation = {
    mode: "planned",
    strategy: "availability-first",
    direction: "forward",
    from: id,
    to: `${credential.name}#2`,
    exposed: [],
  } as const;
  return { credential, versions: [first], rotation, seen, memory: {}, nowMs: 0 };
}

/** Steps by the names of places: what a person reads in a guide. */
function follow(
  assembled: Assembled,
  steps: readonly (readonly [kind: "issue" | "trust" | "distrust" | "activate" | "wait", place?: string])[],
): ScriptProof {
  const { topology, situation } = assembled;
  const [old, fresh] = [
    assembled.versionIds.findIndex((one) => one.endsWith("#1")),
    assembled.versionIds.findIndex((one) => one.endsWith("#2")),
  ];
  const itemOf = (version: number): number =>
    topology.items.findIndex((item) => item.name === assembled.versionIds[version]);
  const script = steps.map(([kind, place]): ScriptStep => {
    const verifier = assembled.verifierPlaces.indexOf(place ?? "");
    const holder = assembled.holderPlaces.indexOf(place ?? "");
    if (kind === "issue") return { kind, version: fresh };
    if (kind === "trust") return { kind, item: itemOf(fresh), verifier };
    if (kind === "distrust") return { kind, item: itemOf(old), verifier };
    if (kind === "activate") return { kind, version: fresh, holder };
    return {
      kind: "await",
      text: "wait until the new one works everywhere and is used by everybody who has it",
      until: (now: Situation) =>
        now.verifiers.every((one) => one.enforced.every((set) => has(set, itemOf(fresh)))) &&
        now.holders.every((one) =>
          one.units.every(
            (unit) => unit.current !== fresh || unit.processes.every((process) => process.live === fresh),
          ),
        ),
    };
  });
  return proveScript(topology, situation, script);
}

const page = (name: string): string =>
  readFileSync(join(import.meta.dirname, "../../../docs/recipes", `${name}.md`), "utf8");
/** As it is printed on the page. */
function printed(proof: ScriptProof): string {
  return [...proof.counterexample.map((line, n) => `${n + 1}. ${line}`), `=> ${proof.why}`].join("\n");
}
const spaces = `  spaces: { use: connected-spaces, system: tenant, appId: ${appId}, vault: cs-kv }\n`;
const byTheVault = `  spaces:
    use: connected-spaces
    system: tenant
    appId: ${appId}
    vault: cs-kv
    override:
      certificate: { issuer: null, places: { vault: { issuer: true } } }
`;
const assist = `  assist: { use: provision-assist, system: tenant, appId: ${appId}, resourceGroup: rg, vault: pa-kv }\n`;

describe("the guides' own orders", () => {
  it("Connected Spaces, the certificate: current in the vault before Entra trusts it", async () => {
    const assembled = assemble(before(await credentialOf("spaces-certificate", byTheVault)));
    const proof = follow(assembled, [["issue"], ["trust", "application"], ["distrust", "application"]]);
    expect(proof).toMatchObject({ verdict: "refuted", violated: "lock-out" });
    expect(page("connected-spaces")).toContain(printed(proof));
  });

  it("Connected Spaces, the secret: deleted in Entra before the vault has the new one", async () => {
    const assembled = assemble(before(await credentialOf("spaces-secret", spaces)));
    const proof = follow(assembled, [["issue"], ["distrust", "application"], ["activate", "vault"]]);
    expect(proof).toMatchObject({ verdict: "refuted", violated: "lock-out" });
    expect(page("connected-spaces")).toContain(printed(proof));
  });

  it("Provision Assist: the second API connection is not named, and the old secret goes some day", async () => {
    const assembled = assemble(before(await credentialOf("assist", assist)));
    const proof = follow(assembled, [
      ["issue"],
      ["activate", "vault"],
      ["activate", "provisionassist-kv"],
      ["activate", "runbooks"],
      ["distrust", "application"],
    ]);
    expect(proof).toMatchObject({ verdict: "refuted", violated: "lock-out" });
    expect(page("provision-assist")).toContain(printed(proof));
    // Even somebody who waits after each step, and deletes the old one last, meets the connection that the guide does not name.
    const patient = follow(assembled, [
      ["issue"],
      ["wait"],
      ["activate", "vault"],
      ["activate", "provisionassist-kv"],
      ["activate", "runbooks"],
      ["wait"],
      ["distrust", "application"],
    ]);
    expect(patient).toMatchObject({ verdict: "refuted", violated: "lock-out" });
    expect(page("provision-assist")).toContain(printed(patient));
    const complete = follow(assembled, [
      ["issue"],
      ["wait"],
      ["activate", "vault"],
      ["activate", "provisionassist-kv"],
      ["activate", "provisionassist-automation"],
      ["activate", "runbooks"],
      ["wait"],
      ["distrust", "application"],
    ]);
    expect(complete.verdict).toBe("safe");
  });
});

describe("the recipes' own plans", () => {
  const hash = (text: string): string => String(text.length);
  for (const [name, recipe] of [
    ["spaces-secret", spaces],
    ["spaces-certificate", spaces],
    ["assist", assist],
  ] as const) {
    it(`${name} is proved, with no gap`, async () => {
      const plan = makePlan(before(await credentialOf(name, recipe)), { hash });
      expect(plan.safety.verdict).toBe("proved");
      expect(plan.gaps).toEqual([]);
    });
  }
  it("a certificate that the vault makes by itself is refused as a plan, or says which gap it has", async () => {
    const plan = makePlan(before(await credentialOf("spaces-certificate", byTheVault)), { hash });
    expect(plan.safety.verdict).not.toBe("proved");
  });
});
