/**
 * Two founding cases from end to end: the recipes, the connectors, the engine and a real store against the emulated tenant, while the systems that
 * use the credentials go on and count. Nothing below looks at what Keyroll believes: the counters belong to the lab.
 */
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import type { Log } from "../../src/connectors/connector.ts";
import { shippedRegistry } from "../../src/connectors/registry.ts";
import type { Plan } from "../../src/core/plan.ts";
import { seededRandom, systemClock } from "../../src/engine/clock.ts";
import { defaultEngineOptions, type EngineDeps } from "../../src/engine/deps.ts";
import { openJournal } from "../../src/engine/journal.ts";
import { createLimits } from "../../src/engine/limits.ts";
import { createRotations, type Rotations } from "../../src/engine/rotations.ts";
import { openSealer } from "../../src/engine/seal.ts";
import { workOn } from "../../src/engine/worker.ts";
import { loadEstate } from "../../src/estate/load.ts";
import { startTenant, type Tenant } from "../../src/lab/tenant.ts";
import type { FoundingCase } from "../../src/lab/founding.ts";
import type { PresenterCounts } from "../../src/lab/presenters.ts";
import type { RotationRow } from "../../src/store/store.ts";
import { withStore, type TestStore } from "../support/store.ts";

const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined };
/** On a machine with two busy cores a rotation takes several times as long as on a quiet one. */
const patienceMs = 180_000;
/** A device reads the vault every second, and signs in ten times a second. */
const speed = 600;

interface Stage {
  readonly tenant: Tenant;
  readonly deps: EngineDeps;
  readonly rotations: Rotations;
  preview(credential: string, mode: "planned" | "breach", strategy?: Plan["strategy"]): Promise<Plan>;
  /** Rolls to the end and returns what it was. */
  roll(
    credential: string,
    mode: "planned" | "breach",
    strategy?: Plan["strategy"],
  ): Promise<{ plan: Plan; row: RotationRow }>;
  /** Works until it is over or a person is asked. */
  goOn(id: string): Promise<RotationRow>;
  close(): Promise<void>;
}
let stage: Stage | undefined;
let db: TestStore | undefined;
afterEach(async () => {
  await stage?.close();
  stage = undefined;
});

async function setUp(
  founding: FoundingCase,
  recipe: (tenant: Tenant) => string,
  faults: "usual" | "heavy" = "usual",
): Promise<Stage> {
  const tenant = await startTenant({ seed: "cases", speed, faults, cases: [founding], presenters: true });
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-cases-")));
  const file = join(folder, "keyroll.yaml");
  writeFileSync(join(folder, "ca.pem"), tenant.ca);
  writeFileSync(
    file,
    `version: 1
defaults: { owner: platform }
systems:
  tenant:
    type: microsoft
    tenant: ${tenant.tenantId}
    subscription: ${tenant.subscriptionId}
    auth: { method: client-secret, clientId: ${tenant.operator.clientId}, clientSecret: "\${env:OPERATOR_SECRET}" }
    endpoints: { authority: "${tenant.url}", graph: "${tenant.url}", arm: "${tenant.url}" }
    ca: "\${file:./ca.pem}"
credentials:
${recipe(tenant)}`,
  );
  const registry = shippedRegistry();
  const { estate, text } = await loadEstate(file, { registry, env: { OPERATOR_SECRET: tenant.operator.clientSecret } });
  db = await withStore();
  const store = db;
  await store.store.estate.apply({
    digest: estate.digest,
    text,
    appliedBy: "test",
    credentials: estate.credentials.map((declaration) => ({
      name: declaration.name,
      owner: declaration.owner,
      kind: declaration.kind,
      labels: {},
      declaration: { ...declaration, places: declaration.places.map((place) => ({ ...place, config: null })) },
    })),
  });
  const sealer = await openSealer(store.store);
  const deps: EngineDeps = {
    store: store.store,
    journal: openJournal(store.store, sealer),
    sealer,
    registry,
    estate: () => estate,
    clock: systemClock,
    random: seededRandom(1),
    limits: createLimits(systemClock),
    log: silent,
    // The lab's Retry-After is a second at least; its time runs faster than that.
    options: { ...defaultEngineOptions, requestLifeMs: 1000, maxAttempts: 12 },
    nowMs: () => store.store.now(),
    crashPoint: () => undefined,
  };
  const rotations = createRotations(deps);
  const made: Stage = {
    tenant,
    deps,
    rotations,
    async preview(credential, mode, strategy = "availability-first") {
      return (await rotations.preview({ credential, mode, strategy })).plan;
    },
    async roll(credential, mode, strategy = "availability-first") {
      const plan = await made.preview(credential, mode, strategy);
      const started = await rotations.start({
        credential,
        mode,
        strategy,
        startedBy: "starter",
        planDigest: plan.digest,
      });
      return { plan, row: await made.goOn(started.id) };
    },
    async goOn(id) {
      for (let turn = 0; turn < 1500; turn++) {
        await workOn(deps, "w1", id);
        const row = (await store.store.rotations.get(id))!;
        if (row.endedAtMs !== null || row.status === "halted") return row;
        await sleep(20);
      }
      throw new Error(`${id} is not over: ${(await store.store.rotations.get(id))?.waitingFor}`);
    },
    async close() {
      await tenant.stop();
      await store[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
  stage = made;
  return made;
}

const provisionAssist = (tenant: Tenant): string => {
  const pa = tenant.cases.provisionAssist!;
  return `  assist:
    use: provision-assist
    system: tenant
    appId: ${pa.appId}
    resourceGroup: rg-provision-assist
    vault: "${tenant.vaults[pa.vault]}"
    soak: 500ms
    runs: 500ms
    override:
      secret:
        places: { application: { propagation: 500ms }, vault: { refresh: 500ms }, provisionassist-kv: { refresh: 500ms }, provisionassist-automation: { refresh: 500ms } }
`;
};
const connectedSpaces = (tenant: Tenant): string => {
  const cs = tenant.cases.connectedSpaces!;
  return `  spaces:
    use: connected-spaces
    system: tenant
    appId: ${cs.appId}
    vault: "${tenant.vaults[cs.vault]}"
    soak: 500ms
    refresh: 2500ms
    override:
      secret: { places: { application: { propagation: 500ms } } }
      certificate: { places: { application: { propagation: 500ms } } }
`;
};

const refused = (counts: Readonly<Record<string, PresenterCounts>>, names = Object.keys(counts)): number =>
  names.reduce(
    (sum, name) => sum + Object.values(counts[name]?.versions ?? {}).reduce((all, one) => all + one.refused, 0),
    0,
  );
/** Versions that were accepted at this presenter, in the order of their first success. */
const used = (counts: Readonly<Record<string, PresenterCounts>>, name: string): string[] =>
  Object.entries(counts[name]?.versions ?? {})
    .filter(([, one]) => one.accepted > 0)
    .sort(([, a], [, b]) => a.firstMs - b.firstMs)
    .map(([version]) => version);
async function until(what: string, holds: () => boolean): Promise<void> {
  for (let n = 0; n < 600; n++) {
    if (holds()) return;
    await sleep(50);
  }
  throw new Error(`It never came about: ${what}`);
}
const assistPresenters = ["logic app provisionassist-kv", "logic app provisionassist-automation", "runbook"];

describe("Provision Assist", { timeout: patienceMs }, () => {
  test("planned: nobody is refused, everybody ends with the new secret, and the old one is refused", async () => {
    const { tenant, preview, roll } = await setUp("provision-assist", provisionAssist);
    await until("everybody uses the first secret", () =>
      assistPresenters.every((name) => used(tenant.inspect().presenters, name).length === 1),
    );
    const plan = await preview("assist", "planned");
    expect(plan.safety.verdict).toBe("proved");
    expect(plan.gaps).toEqual([]);
    const old = tenant.inspect().connections["provisionassist-kv"]!;
    const { row } = await roll("assist", "planned");
    expect(row.status, row.reason ?? "").toBe("done");
    await sleep(500);
    const seen = tenant.inspect();
    expect(refused(seen.presenters)).toBe(0);
    for (const name of assistPresenters) expect(used(seen.presenters, name), name).toHaveLength(2);
    const fresh = seen.connections["provisionassist-kv"];
    expect(fresh).not.toBe(old);
    expect(seen.connections["provisionassist-automation"]).toBe(fresh);
    expect(seen.variables["provisionassist-auto/appSecret"]).toBe(fresh);
    const vault = seen.vaults.find((one) => one.secrets["appSecret"] !== undefined)?.secrets["appSecret"] ?? [];
    expect(vault.map((one) => [one.version, one.enabled])).toEqual([
      [old, false],
      [fresh, true],
    ]);
    const app = seen.applications.find((one) => one.appId === tenant.cases.provisionAssist!.appId);
    expect(app?.passwords.map((one) => one.version)).toEqual([fresh]);
  });

  test("planned, while requests are throttled, refused for now, cut off before and after their effect, and reads lag behind", async () => {
    const { tenant, roll, goOn, rotations } = await setUp("provision-assist", provisionAssist, "heavy");
    await until("everybody uses the first secret", () =>
      assistPresenters.every((name) => used(tenant.inspect().presenters, name).length === 1),
    );
    let { row } = await roll("assist", "planned");
    // Halting is an answer as well: then a person looks, and says that it may go on.
    for (let n = 0; row.status === "halted" && n < 5; n++) {
      await rotations.resume(row.id, { person: "operator" });
      row = await goOn(row.id);
    }
    expect(row.status, row.reason ?? "").toBe("done");
    await sleep(500);
    const seen = tenant.inspect();
    expect(refused(seen.presenters)).toBe(0);
    const fresh = seen.connections["provisionassist-kv"];
    for (const name of assistPresenters) expect(used(seen.presenters, name).at(-1), name).toBe(fresh);
    const app = seen.applications.find((one) => one.appId === tenant.cases.provisionAssist!.appId);
    expect(app?.passwords.map((one) => one.version)).toEqual([fresh]);
  });

  test("breach: the old secret is out, and whoever was refused had been told of in the plan", async () => {
    const { tenant, roll } = await setUp("provision-assist", provisionAssist);
    await until("everybody uses the first secret", () =>
      assistPresenters.every((name) => used(tenant.inspect().presenters, name).length === 1),
    );
    const { plan, row } = await roll("assist", "breach", "contain-first");
    expect(row.status, row.reason ?? "").toBe("done");
    await sleep(500);
    const counts = tenant.inspect().presenters;
    const declared = new Set(plan.exposed.map((one) => one.holder));
    const placeOf: Readonly<Record<string, string>> = {
      "logic app provisionassist-kv": "provisionassist-kv",
      "logic app provisionassist-automation": "provisionassist-automation",
      runbook: "runbooks",
    };
    for (const name of assistPresenters) {
      if (refused(counts, [name]) > 0) expect(declared.has(placeOf[name]!), name).toBe(true);
    }
    expect(declared.size).toBeGreaterThan(0);
    const app = tenant.inspect().applications.find((one) => one.appId === tenant.cases.provisionAssist!.appId);
    expect(app?.passwords).toHaveLength(1);
  });

  test("a deployment whose secret has expired is repaired by the same function", async () => {
    const { tenant, roll } = await setUp("provision-assist", provisionAssist);
    tenant.meddle((state) => {
      for (const app of state.applications)
        if (app.appId === tenant.cases.provisionAssist!.appId)
          for (const one of app.passwords) one.endMs = Date.now() - 1000;
    });
    await until("everybody is refused", () =>
      assistPresenters.every((name) => refused(tenant.inspect().presenters, [name]) > 0),
    );
    const { row } = await roll("assist", "planned");
    expect(row.status, row.reason ?? "").toBe("done");
    const before = refused(tenant.inspect().presenters);
    await sleep(500);
    expect(refused(tenant.inspect().presenters)).toBe(before);
    const fresh = tenant.inspect().connections["provisionassist-kv"];
    for (const name of assistPresenters) expect(used(tenant.inspect().presenters, name).at(-1), name).toBe(fresh);
  });

  test("the guide's own order, with the old secret deleted as soon as the vault has the new one, shows refusals", async () => {
    const { tenant } = await setUp("provision-assist", provisionAssist);
    await until("everybody uses the first secret", () =>
      assistPresenters.every((name) => used(tenant.inspect().presenters, name).length === 1),
    );
    // The guide names the vault, one connection and the variable. The other connection keeps what it has.
    tenant.meddle((state) => {
      const app = state.applications.find((one) => one.appId === tenant.cases.provisionAssist!.appId)!;
      const secret = "new~by-hand-as-the-guide-says";
      app.passwords = [
        {
          keyId: crypto.randomUUID(),
          displayName: "new",
          hint: "new",
          startMs: Date.now(),
          endMs: Date.now() + 86_400_000,
          secret,
          knownFromMs: [0, 0, 0],
        },
      ];
      state.connections.find((one) => one.name === "provisionassist-kv")!.parameterValues["token:clientSecret"] =
        secret;
      state.automationAccounts[0]!.variables["appsecret"]!.value = JSON.stringify(secret);
    });
    await until(
      "the forgotten connection is refused",
      () => refused(tenant.inspect().presenters, ["logic app provisionassist-automation"]) > 3,
    );
    expect(refused(tenant.inspect().presenters, ["runbook"])).toBe(0);
  });
});

describe("Connected Spaces", { timeout: patienceMs }, () => {
  const devices = ["device secret", "device certificate"];
  test("planned: the device is never refused, neither with the secret nor with the certificate", async () => {
    const { tenant, preview, roll } = await setUp("connected-spaces", connectedSpaces);
    await until("the device uses both", () =>
      devices.every((name) => used(tenant.inspect().presenters, name).length === 1),
    );
    for (const name of ["spaces-secret", "spaces-certificate"]) {
      const plan = await preview(name, "planned");
      expect(plan.safety.verdict, name).toBe("proved");
      const { row } = await roll(name, "planned");
      expect(row.status, `${name}: ${row.reason}`).toBe("done");
    }
    await sleep(500);
    const seen = tenant.inspect();
    expect(refused(seen.presenters)).toBe(0);
    for (const name of devices) expect(used(seen.presenters, name), name).toHaveLength(2);
    const app = seen.applications.find((one) => one.appId === tenant.cases.connectedSpaces!.appId);
    expect(app?.passwords).toHaveLength(1);
    expect(app?.keys).toHaveLength(1);
    const vault = seen.vaults[0]!;
    expect(vault.certificates["liveaiserviceprincipalprivatekey"]?.at(-1)?.thumbprint).toBe(app?.keys[0]?.thumbprint);
    expect(vault.secrets["ServicePrincipalSecret"]?.at(-1)?.version).toBe(app?.passwords[0]?.version);
    tenant.meddle((state) => {
      const secret = state.vaults[0]!.secrets["serviceprincipalsecret"]!.versions.at(-1)!;
      expect(secret.contentType).toBe("text/plain; charset=utf-8");
      expect(secret.attributes.exp! * 1000).toBeGreaterThan(Date.now() + 729 * 86_400_000);
    });
  });

  test("the guide's own order shows refusals: the vault has the new certificate before Entra trusts it", async () => {
    const { tenant } = await setUp("connected-spaces", connectedSpaces);
    await until("the device uses both", () =>
      devices.every((name) => used(tenant.inspect().presenters, name).length === 1),
    );
    const { ClientSecretCredential } = await import("@azure/identity");
    const { CertificateClient } = await import("@azure/keyvault-certificates");
    const tls = { ca: tenant.ca };
    const credential = new ClientSecretCredential(
      tenant.tenantId,
      tenant.operator.clientId,
      tenant.operator.clientSecret,
      {
        authorityHost: tenant.url,
        disableInstanceDiscovery: true,
        tlsOptions: tls,
      },
    );
    const client = new CertificateClient(Object.values(tenant.vaults)[0]!, credential, {
      disableChallengeResourceVerification: true,
      tlsOptions: tls,
    });
    const policy = (await client.getCertificate("liveaiserviceprincipalprivatekey")).policy!;
    const poller = await client.beginCreateCertificate("liveaiserviceprincipalprivatekey", policy, {
      intervalInMs: 50,
    });
    await poller.pollUntilDone();
    await until("the device is refused", () => refused(tenant.inspect().presenters, ["device certificate"]) > 0);
  });
});
