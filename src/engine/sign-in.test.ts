import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { openBench, simple, SimulatedCrash } from "../../test/support/engine.ts";
import type { Bench } from "../../test/support/engine.ts";
import { withStore } from "../../test/support/store.ts";
import type { TestStore } from "../../test/support/store.ts";
import { ConnectorError } from "../connectors/connector.ts";
import type { Place, SystemType } from "../connectors/connector.ts";
import { Secret } from "../connectors/secret.ts";
import type { CredentialDecl, SystemDecl } from "../core/place.ts";
import { withSignIns } from "../estate/sign-in.ts";
import type { MemoryWorld } from "../../test/support/memory-places.ts";
import type { ConnectorRegistry } from "./connect.ts";
import { signedInSystem } from "./start.ts";

interface Config {
  readonly password: Secret;
}
const ownPlace = "keyroll sign-in (pg)";

let db: TestStore;
let bench: Bench;
let admin: CredentialDecl;
/** Every time that the system did not let Keyroll in. */
let turnedAway: string[];
/** What the settings of the system say; a test may change it. */
let config: Config;

beforeAll(async () => {
  db = await withStore();
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

const type: SystemType<Config> = {
  type: "memory",
  title: "A system in memory",
  config: undefined as never,
  limits: { perSecond: 1000, burst: 1000 },
  signInOf: ({ password }) =>
    password.bytes().length === 0
      ? null
      : { attributes: { user: "first" }, material: { kind: "secret", value: new Secret(password.bytes()) } },
  withSignIn(_, { material }) {
    if (material.kind !== "secret") throw new Error("a key");
    return { password: new Secret(material.value.bytes()) };
  },
};

/** Every verb at a place of the system signs in first, with what the connector was opened with. */
function guarded(world: MemoryWorld, place: Place, system: Config): Place {
  return Object.fromEntries(
    Object.entries(place).map(([name, verb]) => [
      name,
      async (...args: unknown[]) => {
        world.settle();
        const { copies } = world.place("db");
        const value = system.password.reveal();
        if (!copies.every((copy) => copy.set.some((stored) => stored.enabled && stored.value === value))) {
          turnedAway.push(name);
          throw new ConnectorError("misconfigured", "The system does not let Keyroll in.");
        }
        return await (verb as (...all: unknown[]) => unknown).apply(place, args);
      },
    ]),
  ) as unknown as Place;
}

function registry(world: MemoryWorld): ConnectorRegistry {
  return {
    placeConnector(name) {
      const found = world.registry.placeConnector(name);
      if (found === undefined) return undefined;
      return {
        ...found,
        open: (settings, system) =>
          system === undefined
            ? found.open(settings, undefined)
            : guarded(world, found.open(settings, undefined), system as Config),
      };
    },
    issuerConnector: (name) => world.registry.issuerConnector(name),
    systemType: () => type as unknown as SystemType,
  };
}

beforeEach(async () => {
  turnedAway = [];
  config = { password: new Secret("old-password") };
  const system: SystemDecl = {
    name: "pg",
    type: "memory",
    get config() {
      return config;
    },
    signIn: "",
    source: "keyroll.yaml:2",
  };
  bench = await openBench({
    db,
    systems: [system],
    registry,
  });
  Object.assign(system, { signIn: bench.name });
  const plain = simple(bench, {
    places: [{ ...bench.world.verifier("db", { values: ["old-password"], traits: { capacity: 2 } }), system: "pg" }],
  });
  admin = withSignIns([plain], [system])[0]!;
  await bench.db.store.settings.delete("sign-in pg");
});

const used = async (): Promise<string> => {
  const system = bench.deps.estate().systems[0]!;
  return ((await signedInSystem(bench.deps, system)).config as Config).password.reveal();
};

describe("Keyroll's own sign-in", () => {
  test("is adopted, switched between trust and removal, and never turned away", async () => {
    await bench.apply(admin);
    const { plan, adopted } = await bench.rotations.preview({
      credential: bench.name,
      mode: "planned",
      strategy: "availability-first",
    });
    expect(adopted).toEqual([{ version: `${bench.name}#1`, place: ownPlace }]);
    expect(plan.safety.verdict).toBe("proved");
    expect(
      plan.steps
        .filter((step) => ["trust", "set", "distrust"].includes(step.action))
        .map((step) => `${step.action} ${step.place}`),
    ).toEqual(["trust db", `set ${ownPlace}`, "distrust db"]);
    expect(await used()).toBe("old-password");

    const started = await bench.start(bench.name);
    expect((await bench.run(started.id)).status).toBe("done");
    expect(turnedAway).toEqual([]);
    const [now] = bench.world.place("db").values();
    expect(now).not.toBe("old-password");
    expect(await used()).toBe(now);
    const { note } = await signedInSystem(bench.deps, bench.deps.estate().systems[0]!);
    expect(note).toContain("no longer used");

    // A second one starts from the sealed version, whatever the settings still say.
    config = { password: new Secret("") };
    const second = await bench.start(bench.name);
    expect((await bench.run(second.id)).status).toBe("done");
    expect(turnedAway).toEqual([]);
    expect(bench.world.place("db").values()).toEqual([await used()]);
    expect(await used()).not.toBe(now);
    expect((await signedInSystem(bench.deps, bench.deps.estate().systems[0]!)).note).toBe(null);
    expect((await bench.deps.journal.verify()).ok).toBe(true);
  });

  for (const name of [
    "after-intent:activate",
    "after-effect:activate",
    "after-outcome:activate",
    "after-intent:remove",
    "after-effect:remove",
  ])
    test(`a worker that dies at ${name} leaves a sign-in that works`, async () => {
      await bench.apply(admin);
      const started = await bench.start(bench.name);
      bench.crashAt = { name, pass: 1 };
      await expect(bench.run(started.id)).rejects.toThrow(SimulatedCrash);
      expect(bench.world.place("db").values()).toContain(await used());
      await bench.expireLease(started.id);
      expect((await bench.run(started.id, { worker: "w2" })).status).toBe("done");
      expect(turnedAway).toEqual([]);
      expect(bench.world.place("db").values()).toEqual([await used()]);
    });

  test("is rolled back, and the old value is used again", async () => {
    await bench.apply(admin);
    const started = await bench.start(bench.name);
    bench.crashAt = { name: "before-intent:remove", pass: 1 };
    await expect(bench.run(started.id)).rejects.toThrow(SimulatedCrash);
    await bench.expireLease(started.id);
    expect(await used()).not.toBe("old-password");
    await bench.rotations.rollback(started.id, { person: "starter" });
    expect((await bench.run(started.id, { worker: "w2" })).status).toBe("rolled-back");
    expect(await used()).toBe("old-password");
    expect(bench.world.place("db").values()).toEqual(["old-password"]);
    expect(turnedAway).toEqual([]);
  });

  test("a breach is not contained by locking Keyroll out", async () => {
    await bench.apply(admin);
    const request = { credential: bench.name, mode: "breach", strategy: "contain-first" } as const;
    const { plan } = await bench.rotations.preview(request);
    expect(plan.exposed).toEqual([]);
    expect(plan.safety.verdict).toBe("proved");
    const started = await bench.start(bench.name, request);
    expect((await bench.run(started.id)).status).toBe("done");
    expect(turnedAway).toEqual([]);
  });

  test("a place for one version only is refused, because Keyroll would lock itself out", async () => {
    await bench.apply(admin);
    const one = simple(bench, {
      places: [{ ...bench.world.verifier("db", { values: ["old-password"], traits: { capacity: 1 } }), system: "pg" }],
    });
    await bench.apply(withSignIns([one], bench.deps.estate().systems)[0]!);
    const { plan } = await bench.rotations.preview({
      credential: bench.name,
      mode: "planned",
      strategy: "availability-first",
    });
    expect(plan.safety.verdict).toBe("blocked");
    expect(plan.exposed).toEqual([]);
    await expect(bench.start(bench.name)).rejects.toMatchObject({ kind: "refused" });
  });

  test("a password that somebody puts into the settings later is used again, and one from before is not", async () => {
    await bench.apply(admin);
    await bench.run((await bench.start(bench.name)).id);
    // Somebody changed it behind Keyroll's back.
    bench.world.place("db").write([], null);
    bench.world.place("db").meddle("by hand");
    config = { password: new Secret("by hand") };
    expect(await used()).toBe("by hand");
    const started = await bench.start(bench.name);
    expect((await bench.run(started.id)).status).toBe("done");
    const now = await used();
    expect(bench.world.place("db").values()).toEqual([now]);
    for (const earlier of ["old-password", "by hand"]) {
      config = { password: new Secret(earlier) };
      expect(await used()).toBe(now);
    }
  });

  test("a call that meets the switch is tried again with the new one", async () => {
    await bench.apply(admin);
    const started = await bench.start(bench.name);
    let looked = false;
    bench.world.onCall = async (call) => {
      if (call.verb !== "remove" || looked) return;
      looked = true;
      // Another worker looks at the same system while the old version is being removed.
      await bench.rotations.observe(bench.name);
    };
    expect((await bench.run(started.id)).status).toBe("done");
    expect(looked).toBe(true);
    expect(turnedAway).toEqual([]);
  });
});
