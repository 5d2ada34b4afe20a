import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { issuerContract, placeContract, versionOf } from "../connector.contract.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, IssueIntent, Place, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import type { Material } from "../secret.ts";
import { probeSignIn, signInAs } from "../shared/microsoft/token.ts";
import { registerApplication, rsaVersion, startLabBench } from "../../../test/support/microsoft.ts";
import type { LabBench } from "../../../test/support/microsoft.ts";
import type { Application } from "../../lab/state.ts";
import { entraCertificate, entraPassword, entraPasswordIssuer } from "./connector.ts";

let bench: LabBench;
beforeAll(async () => {
  bench = await startLabBench();
});
afterAll(async () => {
  await bench?.stop();
});

const cx = (): CallContext => ({
  now: () => Date.now(),
  signal: new AbortController().signal,
  throttle: async () => {},
  log: { debug: () => {}, info: () => {}, warn: () => {} },
});
let worlds = 0;
const canaries = () => [bench.tenant.operator.clientSecret];
const graphFaults = () =>
  bench.faults({
    observe: { deny: "Application.*", permission: "Application.Read" },
    write: { deny: "Application.ReadWrite.*", permission: "Application.ReadWrite.OwnedBy" },
  });

/** Says what the tenant itself knows of a sign-in, without the connector. */
async function signsIn(app: Application, material: Material): Promise<boolean> {
  const answer = await signInAs(cx(), bench.system(), app.appId, material);
  return answer.outcome === "accepted";
}

/**
 * Entra makes its secrets itself, so that "add" of a version that is not there yet is the issuer's work here, as it is in the engine. The version's
 * secret part is known from then on.
 */
function passwordWorld() {
  const app = registerApplication(bench, `world ${++worlds}`);
  const config = entraPassword.config.parse({ appId: app.appId });
  const materials = new Map<string, { material: Material; keyId: string }>();
  const neverIssued = (id: string): Material => ({ kind: "secret", value: new Secret(`not-issued-${id}-${worlds}`) });
  const version = (n: number): VersionHandle => {
    const id = `app-secret#${n}`;
    return {
      ...versionOf(id, neverIssued(id)),
      open: async () => materials.get(id)?.material ?? neverIssued(id),
    };
  };
  return {
    version,
    async open(): Promise<Place> {
      const system = bench.system();
      const place = entraPassword.open(config, system);
      const issuer = entraPasswordIssuer.open(config, system);
      return {
        ...place,
        async add(context, handle) {
          const there = materials.get(handle.id);
          if (there !== undefined && bench.state(() => app.passwords.some((one) => one.keyId === there.keyId)))
            return place.add?.(context, handle);
          const issued = await issuer.issue(context, { id: handle.id, tag: `tag of ${handle.id}` });
          materials.set(handle.id, { material: issued.material, keyId: issued.placement?.slot ?? "" });
          return { slot: issued.placement?.slot ?? "" };
        },
      };
    },
    async inspect(versions: readonly VersionHandle[]) {
      return bench.state(() => {
        const ours = new Map(versions.map((one) => [`keyroll:${one.id} `, one.id]));
        const idOf = (name: string | null) => [...ours].find(([prefix]) => (name ?? "").startsWith(prefix))?.[1];
        return {
          present: app.passwords.flatMap((one) => idOf(one.displayName) ?? []),
          foreign: app.passwords
            .filter((one) => idOf(one.displayName) === undefined)
            .map((one) => `${one.keyId} ${one.displayName} ${one.secret}`),
        };
      });
    },
    consumer: async (handle: VersionHandle) => signsIn(app, await handle.open()),
    meddle: {
      add: async () => void addPassword(app, "theirs"),
      remove: async (handle: VersionHandle) =>
        bench.state(() => {
          app.passwords = app.passwords.filter((one) => one.keyId !== materials.get(handle.id)?.keyId);
        }),
      beforeWrite: (action: () => Promise<void>): void => bench.main.beforeNextWrite(action),
    },
    faults: graphFaults(),
    canaries: canaries(),
  };
}
function addPassword(app: Application, displayName: string, endMs = Date.now() + 86_400_000, secret?: string): string {
  const value = secret ?? `${randomBytes(2).toString("hex")}8Q~${randomBytes(16).toString("base64url")}`;
  bench.state(() =>
    app.passwords.push({
      keyId: crypto.randomUUID(),
      displayName,
      hint: value.slice(0, 3),
      startMs: Date.now() - 1000,
      endMs,
      secret: value,
      knownFromMs: [0, 0, 0],
    }),
  );
  return value;
}

placeContract({
  runner: { describe, it },
  name: "entra.password",
  connector: entraPassword,
  config: { namePrefix: "any" },
  makeWorld: passwordWorld,
  cannot: {
    "a value that somebody else changed is no longer taken for ours":
      "Entra can make and remove a client secret, and never change one",
    "a version that somebody else removed is seen as gone and can be put back":
      "a client secret that was removed cannot come back",
  },
});

issuerContract({
  runner: { describe, it },
  name: "entra.password as issuer",
  connector: entraPasswordIssuer,
  config: { namePrefix: "any" },
  makeWorld: () => {
    const app = registerApplication(bench, `world ${++worlds}`);
    const config = entraPassword.config.parse({ appId: app.appId, validity: "90d" });
    const faults = graphFaults();
    return {
      open: () => entraPasswordIssuer.open(config, bench.system()),
      intent: (n: number): IssueIntent => ({ id: `app-secret#${n}`, tag: `tag-${n}` }),
      outside: async () => bench.state(() => app.passwords.map((one) => one.keyId)),
      place: () => entraPassword.open(config, bench.system()),
      assertIssued: async ({ material, facts }) => {
        expect(await signsIn(app, material)).toBe(true);
        expect(Math.abs((facts.notAfterMs ?? 0) - Date.now() - 90 * 86_400_000)).toBeLessThan(120_000);
      },
      faults: {
        throttled: () => faults.throttled("write"),
        "lost-answer": () => faults["lost-answer"]("write"),
        down: () => faults.down("write"),
        denied: () => faults.denied("write"),
        garbage: () => faults.garbage("write"),
      },
      canaries: canaries(),
    };
  },
});

placeContract({
  runner: { describe, it },
  name: "entra.certificate",
  connector: entraCertificate,
  config: { namePrefix: "any" },
  makeWorld: () => {
    const app = registerApplication(bench, `world ${++worlds}`);
    const config = entraCertificate.config.parse({ appId: app.appId });
    const derOf = (handle: VersionHandle) => handle.facts.fingerprint;
    const fingerprintOf = async (certificate: string) => {
      const { fingerprintOf: of } = await import("../shared/x509.ts");
      return of(Buffer.from(certificate, "base64"));
    };
    return {
      open: () => entraCertificate.open(config, bench.system()),
      version: rsaVersion,
      async inspect(versions) {
        const keys = bench.state(() => [...app.keys]);
        const marks = await Promise.all(
          keys.map(async (one) => ({ one, print: await fingerprintOf(one.certificate) })),
        );
        return {
          present: versions.filter((each) => marks.some(({ print }) => print === derOf(each))).map((each) => each.id),
          foreign: marks
            .filter(({ print }) => !versions.some((each) => derOf(each) === print))
            .map(({ one }) => `${one.keyId} ${one.displayName} ${one.certificate}`),
        };
      },
      consumer: async (handle) => signsIn(app, await handle.open()),
      meddle: {
        add: async () => addKey(app, await rsaVersion(100)),
        change: async (handle) => {
          const other = await rsaVersion(101);
          bench.state(() => {
            app.keys = app.keys.filter((one) => one.displayName?.startsWith(`keyroll:${handle.id} `) !== true);
          });
          await addKey(app, other);
        },
        remove: async (handle) =>
          bench.state(() => {
            app.keys = app.keys.filter((one) => one.displayName?.startsWith(`keyroll:${handle.id} `) !== true);
          }),
      },
      faults: graphFaults(),
      canaries: canaries(),
    };
  },
});

async function addKey(app: Application, version: VersionHandle): Promise<void> {
  const material = await version.open();
  if (material.kind !== "key") throw new Error("not a key");
  const { certificateOf } = await import("../shared/x509.ts");
  const certificate = certificateOf(material.certificates[0] ?? "");
  bench.state(() =>
    app.keys.push({
      keyId: crypto.randomUUID(),
      displayName: "CN=theirs",
      customKeyIdentifier: certificate.fingerprint.replaceAll(":", ""),
      startMs: certificate.validFromDate.getTime(),
      endMs: certificate.validToDate.getTime(),
      certificate: certificate.raw.toString("base64"),
      knownFromMs: [0, 0, 0],
    }),
  );
}

describe("entra.password", () => {
  const adopted = (secret: string): VersionHandle =>
    versionOf("app-secret#1", { kind: "secret", value: new Secret(secret) });

  it("finds the entry of a secret that was read from a vault, by its hint and a sign-in", async () => {
    const app = registerApplication(bench, "adopted");
    const secret = addPassword(app, "made by a person");
    addPassword(app, "another one");
    const place = entraPassword.open(entraPassword.config.parse({ appId: app.appId }), bench.system());
    const seen = await place.observe(cx(), [adopted(secret)]);
    expect(seen.entries.filter((one) => one.version === "app-secret#1")).toHaveLength(1);
    await place.remove?.(cx(), adopted(secret));
    expect(bench.state(() => app.passwords.map((one) => one.displayName))).toEqual(["another one"]);
  });

  it("claims and removes nothing when two entries have the hint, or when the hint fits and the secret does not", async () => {
    const app = registerApplication(bench, "alike");
    const secret = addPassword(app, "one");
    addPassword(app, "two", undefined, `${secret.slice(0, 3)}-something-else`);
    const place = entraPassword.open(entraPassword.config.parse({ appId: app.appId }), bench.system());
    expect((await place.observe(cx(), [adopted(secret)])).entries.some((one) => one.version !== undefined)).toBe(false);
    await place.remove?.(cx(), adopted(secret));
    expect(bench.state(() => app.passwords.length)).toBe(2);
    bench.state(() => {
      app.passwords = app.passwords.filter((one) => one.displayName === "two");
    });
    await place.remove?.(cx(), adopted(secret));
    expect(bench.state(() => app.passwords.length)).toBe(1);
  });

  it("knows an expired secret as the one it is, so that a broken deployment can be repaired", async () => {
    const app = registerApplication(bench, "expired");
    const secret = addPassword(app, "old", Date.now() - 1000);
    const place = entraPassword.open(entraPassword.config.parse({ appId: app.appId }), bench.system());
    const seen = await place.observe(cx(), [adopted(secret)]);
    expect(seen.entries[0]?.version).toBe("app-secret#1");
    expect(seen.notes?.[0]).toContain("expired");
  });

  it("refuses to choose between two applications, and names what is missing", async () => {
    registerApplication(bench, "twin one");
    registerApplication(bench, "twin two");
    const open = (config: unknown) => entraPassword.open(entraPassword.config.parse(config), bench.system());
    await expect(open({ namePrefix: "twin" }).observe(cx(), [])).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("2 applications"),
    });
    await expect(open({ namePrefix: "nobody" }).observe(cx(), [])).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("no application"),
    });
  });

  it("says what an application management policy refuses", async () => {
    const app = registerApplication(bench, "capped");
    bench.state((state) => {
      state.passwordLifetimeMs = 86_400_000;
    });
    try {
      const issuer = entraPasswordIssuer.open(entraPassword.config.parse({ appId: app.appId }), bench.system());
      const error = await issuer.issue(cx(), { id: "app-secret#2", tag: "t" }).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(ConnectorError);
      expect((error as ConnectorError).next).toContain("application management policy");
    } finally {
      bench.state((state) => {
        state.passwordLifetimeMs = null;
      });
    }
  });

  it("takes a secret that only some of Entra's servers know for neither accepted nor refused", async () => {
    const app = registerApplication(bench, "spreading");
    const secret = addPassword(app, "fresh");
    bench.state(() => {
      const fresh = app.passwords[0];
      if (fresh !== undefined) fresh.knownFromMs = [0, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
    });
    const material: Material = { kind: "secret", value: new Secret(secret) };
    const outcomes = new Set<string>();
    for (let n = 0; n < 10; n++) outcomes.add((await probeSignIn(cx(), bench.system(), app.appId, material)).outcome);
    expect(outcomes.has("accepted")).toBe(false);
    expect(outcomes.has("unknown")).toBe(true);
  });
});

describe("entra.certificate", () => {
  it("refuses a key that Entra cannot use before anything is sent", async () => {
    const { certificateVersions } = await import("../connector.contract.ts");
    const ec = await (await certificateVersions("ec")).version(1);
    const app = registerApplication(bench, "ec");
    const place = entraCertificate.open(entraCertificate.config.parse({ appId: app.appId }), bench.system());
    await expect(place.add?.(cx(), ec)).rejects.toMatchObject({
      kind: "misconfigured",
      next: expect.stringContaining("rsa-3072"),
    });
    expect(bench.state(() => app.keys)).toEqual([]);
  });
});
