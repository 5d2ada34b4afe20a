/** Does the suite bite? A correct place in memory passes; each of many small lies is found, by the check that is named for it. */
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { plainTraits } from "../core/place.ts";
import type { Entry, Observation, Traits } from "../core/place.ts";
import { placeContract, secretVersions } from "./connector.contract.ts";
import type { Fault, FaultName, PlaceCheck, PlaceWorld } from "./connector.contract.ts";
import { ConnectorError, definePlace } from "./connector.ts";
import type { CallContext, Place, VersionHandle } from "./connector.ts";

/** A remote system with one set of entries, its faults, and a person who meddles. */
class MemorySystem {
  readonly entries = new Map<string, string>();
  current: string | null = null;
  revision = 0;
  fault: FaultName | undefined;
  beforeWrite: (() => Promise<void>) | undefined;
  async read(cx: CallContext): Promise<void> {
    this.#assertGoingOn(cx);
    if (this.fault === "down" || this.fault === "garbage")
      throw new ConnectorError("unavailable", "The system does not answer.");
    if (this.fault === "denied") throw new ConnectorError("misconfigured", "May not list.", { permission: "LIST" });
    if (this.fault === "throttled") throw new ConnectorError("throttled", "Too many requests.");
    if (this.fault === "lost-request" && this.#readsAreLost) throw new ConnectorError("unavailable", "No answer.");
  }
  #readsAreLost = false;
  loseReads(): void {
    this.#readsAreLost = true;
  }
  async write(cx: CallContext, apply: () => void): Promise<void> {
    const action = this.beforeWrite;
    this.beforeWrite = undefined;
    await action?.();
    if (this.fault === "lost-answer") apply();
    if (this.fault === "lost-answer" || this.fault === "lost-request") {
      await sleep(20);
      throw new ConnectorError("unknown-outcome", "The request was sent and no answer came.");
    }
    this.#assertGoingOn(cx);
    apply();
    this.revision++;
  }
  #assertGoingOn(cx: CallContext): void {
    if (cx.signal.aborted) throw new ConnectorError("unavailable", "Cancelled.");
  }
}

/** What a lying connector does otherwise. */
interface Lies {
  readonly place?: (honest: Place, system: MemorySystem) => Partial<Place>;
  readonly traits?: Partial<Traits>;
}

function honestPlace(system: MemorySystem, traits: Traits): Place {
  const markOf = (version: VersionHandle): string => version.id;
  const put = async (cx: CallContext, version: VersionHandle): Promise<void> => {
    const material = await version.open();
    if (material.kind !== "secret" || system.entries.get(markOf(version)) === material.value.reveal()) return;
    const own = [...system.entries.keys()].filter((one) => !one.startsWith("foreign"));
    if (own.length >= (traits.roles.includes("holder") ? traits.storeCapacity : traits.capacity))
      throw new ConnectorError("refused", "There is no room for another one.");
    await system.write(cx, () => void system.entries.set(markOf(version), material.value.reveal()));
  };
  const observe = async (cx: CallContext, known: readonly VersionHandle[]): Promise<Observation> => {
    await system.read(cx);
    const entries: Entry[] = [];
    for (const [mark, value] of system.entries) {
      let version: string | undefined;
      for (const one of known) {
        if (!one.hasMaterial) continue;
        const material = await one.open();
        if (material.kind === "secret" && material.value.reveal() === value) version = one.id;
      }
      entries.push({ mark, enabled: true, ...(version === undefined ? {} : { version }) });
    }
    return {
      entries,
      etag: String(system.revision),
      ...(traits.roles.includes("holder") ? { current: system.current } : {}),
    };
  };
  return {
    observe,
    add: async (cx, version) => {
      await system.read(cx);
      await put(cx, version);
      return { slot: markOf(version) };
    },
    ...(traits.roles.includes("holder")
      ? {
          activate: async (cx: CallContext, version: VersionHandle) => {
            await system.read(cx);
            await put(cx, version);
            if (system.current !== markOf(version))
              await system.write(cx, () => void (system.current = markOf(version)));
          },
        }
      : {}),
    remove: async (cx, version) => {
      await system.read(cx);
      if (system.entries.has(markOf(version)))
        await system.write(cx, () => void system.entries.delete(markOf(version)));
    },
    adopt: async (cx) => {
      await system.read(cx);
      const versions = [...system.entries].filter(([mark]) => !mark.startsWith("foreign"));
      const { Secret } = await import("./secret.ts");
      return versions.map(([, value]) => ({ facts: {}, material: { kind: "secret", value: new Secret(value) } }));
    },
    probe: async (cx, version) => {
      await system.read(cx);
      const there = system.entries.has(markOf(version));
      return { outcome: there ? "accepted" : "refused", detail: "Looked." };
    },
  };
}

function makeWorld(traits: Traits, lies: Lies): PlaceWorld {
  const system = new MemorySystem();
  const version = secretVersions("app");
  const truth = async (handle: VersionHandle): Promise<boolean> => {
    const material = await handle.open();
    return material.kind === "secret" && [...system.entries.values()].includes(material.value.reveal());
  };
  const inject = (name: FaultName) => (): Fault => {
    system.fault = name;
    return { clear: () => void (system.fault = undefined), ...(name === "denied" ? { permission: "LIST" } : {}) };
  };
  let added = 0;
  return {
    open: () => {
      const honest = honestPlace(system, traits);
      return { ...honest, ...lies.place?.(honest, system) };
    },
    version,
    inspect: async (versions) => {
      const present: string[] = [];
      for (const one of versions) if (await truth(one)) present.push(one.id);
      const foreign = [...system.entries].filter(([mark]) => mark.startsWith("foreign")).map((one) => one.join("="));
      const current = system.current !== null && present.includes(system.current) ? system.current : null;
      return { present, foreign, ...(traits.roles.includes("holder") ? { current } : {}) };
    },
    consumer: truth,
    meddle: {
      add: async () => {
        system.entries.set(`foreign-${++added}`, "theirs");
        system.revision++;
      },
      change: async (handle) => void system.entries.set(handle.id, "changed"),
      remove: async (handle) => {
        system.entries.delete(handle.id);
        if (system.current === handle.id) system.current = null;
      },
      beforeWrite: (action) => {
        system.beforeWrite = action;
      },
    },
    faults: {
      throttled: inject("throttled"),
      "lost-request": inject("lost-request"),
      "lost-answer": inject("lost-answer"),
      down: inject("down"),
      denied: inject("denied"),
      garbage: inject("garbage"),
    },
  };
}

/** Runs the whole suite without a test runner, and says what failed. */
async function verdict(
  role: "verifier" | "holder",
  lies: Lies = {},
  only?: PlaceCheck,
): Promise<{ failed: string[]; ran: number; messages: string[] }> {
  const honest: Traits = { ...plainTraits, roles: [role], capacity: 3, storeCapacity: 3, conditional: true };
  const declared: Traits = { ...honest, ...lies.traits };
  const connector = definePlace({
    family: "place",
    type: "memory",
    title: "In memory",
    roles: ["verifier", "holder"],
    config: z.strictObject({}),
    permissions: ["LIST"],
    traits: () => declared,
    open: () => {
      throw new Error("The world opens it.");
    },
  });
  const tests: [string, (context: { skip(): void }) => Promise<void>][] = [];
  placeContract({
    runner: { describe: (_name, body) => body(), it: (name, body) => tests.push([name, body]) },
    name: "memory",
    connector,
    config: {},
    makeWorld: () => makeWorld(honest, lies),
    patienceMs: 300,
  });
  const failed: string[] = [];
  const messages: string[] = [];
  let ran = 0;
  for (const [name, body] of tests) {
    if (only !== undefined && name !== only) continue;
    let skipped = false;
    try {
      await body({ skip: () => void (skipped = true) });
      if (!skipped) ran++;
    } catch (error) {
      failed.push(name);
      messages.push(error instanceof Error ? error.message : String(error));
    }
  }
  return { failed, ran, messages };
}

const valueOf = async (version: VersionHandle): Promise<string> => {
  const material = await version.open();
  return material.kind === "secret" ? material.value.reveal() : "";
};

describe("the contract suite", () => {
  it.each(["verifier", "holder"] as const)("passes an honest %s, and really runs", async (role) => {
    const { failed, ran, messages } = await verdict(role);
    expect(messages).toEqual([]);
    expect(failed).toEqual([]);
    expect(ran).toBeGreaterThan(24);
  });

  const lies: readonly [string, "verifier" | "holder", PlaceCheck, Lies][] = [
    [
      "observe claims what is not there",
      "verifier",
      "observe recognises the versions that are there, and no others",
      {
        place: () => ({
          observe: async (_cx, known) => ({
            entries: known.map((one) => ({ mark: one.id, version: one.id, enabled: true })),
          }),
        }),
      },
    ],
    [
      "an outage reads as empty",
      "verifier",
      "an outage is never read as gone",
      {
        place: (honest) => ({ observe: async (cx, known) => honest.observe(cx, known).catch(() => ({ entries: [] })) }),
      },
    ],
    [
      "observe writes",
      "verifier",
      "observe changes nothing and says the same twice",
      {
        place: (honest, system) => ({
          observe: async (cx, known) => (system.entries.delete("foreign-1"), honest.observe(cx, known)),
        }),
      },
    ],
    [
      "marks change from call to call",
      "verifier",
      "observe changes nothing and says the same twice",
      {
        place: (honest) => ({
          observe: async (cx, known) => {
            const seen = await honest.observe(cx, known);
            return { ...seen, entries: seen.entries.map((one) => ({ ...one, mark: `${one.mark}-${Math.random()}` })) };
          },
        }),
      },
    ],
    [
      "add replaces the whole set",
      "verifier",
      "other versions and other people's entries are left alone",
      {
        place: (honest, system) => ({
          add: async (cx, version) => {
            for (const mark of system.entries.keys()) if (mark !== version.id) system.entries.delete(mark);
            return honest.add?.(cx, version);
          },
        }),
      },
    ],
    [
      "a stale write undoes a meddler",
      "verifier",
      "a change by somebody else between our read and our write is not undone",
      {
        place: (honest, system) => ({
          add: async (cx, version) => {
            const before = new Map(system.entries);
            const placed = await honest.add?.(cx, version);
            for (const mark of system.entries.keys())
              if (!before.has(mark) && mark !== version.id) system.entries.delete(mark);
            return placed;
          },
        }),
      },
    ],
    [
      "adding twice makes two",
      "verifier",
      "adding what is already there is success with the same placement",
      {
        place: (_honest, system) => ({
          add: async (cx, version) => {
            const slot = `${version.id}-${system.revision}`;
            const value = await valueOf(version);
            await system.write(cx, () => void system.entries.set(slot, value));
            return { slot };
          },
        }),
      },
    ],
    [
      "removing what is gone fails",
      "verifier",
      "removing what is already gone, or never was there, is success",
      {
        place: (honest, system) => ({
          remove: async (cx, version) => {
            if (!system.entries.has(version.id)) throw new ConnectorError("refused", "Not there.");
            await honest.remove?.(cx, version);
          },
        }),
      },
    ],
    [
      "a lost answer reads as nothing done",
      "verifier",
      "an effect whose answer is lost has an unknown outcome",
      {
        place: (honest) => ({
          add: async (cx, version) => {
            try {
              return await honest.add?.(cx, version);
            } catch {
              throw new ConnectorError("unavailable", "It failed.");
            }
          },
        }),
      },
    ],
    [
      "a lost answer reads as success",
      "verifier",
      "a request without an answer has an unknown outcome",
      {
        place: (honest) => ({
          add: async (cx, version) => {
            await honest.add?.(cx, version).catch(() => undefined);
          },
        }),
      },
    ],
    [
      "a permission is not named",
      "verifier",
      "a missing permission is named",
      {
        place: (honest) => ({
          add: async (cx, version) => {
            try {
              return await honest.add?.(cx, version);
            } catch {
              throw new ConnectorError("misconfigured", "It failed.");
            }
          },
        }),
      },
    ],
    [
      "an error of a library gets out",
      "verifier",
      "throttling is reported as throttled and changes nothing",
      {
        place: (honest) => ({
          add: async (cx, version) => {
            try {
              return await honest.add?.(cx, version);
            } catch {
              throw new Error("429");
            }
          },
        }),
      },
    ],
    [
      "an error quotes the secret",
      "verifier",
      "a system that is down is unavailable, and nothing is changed",
      {
        place: (honest) => ({
          add: async (cx, version) => {
            try {
              return await honest.add?.(cx, version);
            } catch {
              throw new ConnectorError("unavailable", `Could not store ${await valueOf(version)}.`);
            }
          },
        }),
      },
    ],
    [
      "a log line has the secret in base64",
      "verifier",
      "a consumer gets in with what is there and not with what is gone",
      {
        place: (honest) => ({
          add: async (cx, version) => {
            cx.log.debug("adding", { value: Buffer.from(await valueOf(version)).toString("base64") });
            return honest.add?.(cx, version);
          },
        }),
      },
    ],
    [
      "a cancelled call goes on",
      "verifier",
      "a cancelled call does not start",
      {
        place: (honest) => ({
          add: async (cx, version) => honest.add?.({ ...cx, signal: new AbortController().signal }, version),
        }),
      },
    ],
    [
      "a call hangs for ever",
      "verifier",
      "a consumer gets in with what is there and not with what is gone",
      { place: () => ({ add: () => new Promise(() => {}) }) },
    ],
    [
      "the probe always accepts",
      "verifier",
      "probe accepts what works and nothing else",
      { place: () => ({ probe: async () => ({ outcome: "accepted", detail: "Fine." }) }) },
    ],
    [
      "an outage is a refusal to the probe",
      "verifier",
      "probe accepts what works and nothing else",
      {
        place: (honest) => ({
          probe: async (cx, version) =>
            (await honest.probe?.(cx, version).catch(() => undefined)) ?? { outcome: "refused", detail: "No." },
        }),
      },
    ],
    [
      "the capacity is smaller than declared",
      "verifier",
      "trait capacity: a verifier holds that many at once, and one more pushes nothing out",
      { traits: { capacity: 4 } },
    ],
    [
      "the capacity is larger than declared",
      "verifier",
      "trait capacity: a verifier holds that many at once, and one more pushes nothing out",
      { traits: { capacity: 2 } },
    ],
    [
      "there is no etag",
      "verifier",
      "trait conditional: what was seen has a version that changes with every change",
      {
        place: (honest) => ({
          observe: async (cx, known) => {
            const { etag: _etag, ...seen } = await honest.observe(cx, known);
            return seen;
          },
        }),
      },
    ],
    [
      "nothing is adopted",
      "verifier",
      "trait readable: what is there can be adopted, and is the same version",
      { place: () => ({ adopt: async () => [] }) },
    ],
    ["readable and without adopt", "verifier", "the verbs fit the traits", { traits: { readable: false } }],
    [
      "what was removed stays away",
      "verifier",
      "trait restorable: what was removed can be put back from the sealed copy",
      {
        place: (honest, system) => ({
          add: async (cx, version) => {
            if (Reflect.get(system, version.id) === true) return undefined;
            return honest.add?.(cx, version);
          },
          remove: async (cx, version) => {
            if (system.entries.has(version.id)) Reflect.set(system, version.id, true);
            await honest.remove?.(cx, version);
          },
        }),
      },
    ],
    [
      "staging makes it current",
      "holder",
      "trait staging: adding at a holder does not change what is in use",
      {
        place: (honest) => ({
          add: async (cx, version) => {
            await honest.activate?.(cx, version);
            return { slot: version.id };
          },
        }),
      },
    ],
    [
      "a store of one keeps more",
      "holder",
      "trait storeCapacity: a holder of one overwrites, a holder of more keeps",
      { traits: { storeCapacity: 1 } },
    ],
    [
      "the wrong one is in use",
      "holder",
      "observe tells which version is in use",
      {
        place: (honest) => ({
          observe: async (cx, known) => {
            const seen = await honest.observe(cx, known);
            return { ...seen, current: seen.entries[0]?.mark ?? null };
          },
        }),
      },
    ],
    [
      "a removal takes the neighbour too",
      "holder",
      "other versions and other people's entries are left alone",
      {
        place: (_honest, system) => ({
          remove: async (cx) => {
            await system.read(cx);
            await system.write(cx, () => system.entries.clear());
          },
        }),
      },
    ],
  ];
  it.each(lies)("finds out when %s", async (_lie, role, check, lie) => {
    expect((await verdict(role, lie, check)).failed).toEqual([check]);
  });

  it("fails a check whose world has no hook for it, and skips it with a reason", async () => {
    const run = async (cannot: Partial<Record<PlaceCheck, string>>): Promise<string[]> => {
      const tests: [string, (context: { skip(): void }) => Promise<void>][] = [];
      const traits: Traits = { ...plainTraits, roles: ["verifier"], capacity: 3, conditional: true };
      const connector = definePlace({
        family: "place",
        type: "memory",
        title: "In memory",
        roles: ["verifier"],
        config: z.strictObject({}),
        permissions: ["LIST"],
        traits: () => traits,
        open: () => honestPlace(new MemorySystem(), traits),
      });
      placeContract({
        runner: { describe: (_name, body) => body(), it: (name, body) => tests.push([name, body]) },
        name: "memory",
        connector,
        config: {},
        makeWorld: () => {
          const { consumer: _consumer, ...world } = makeWorld(traits, {});
          return world;
        },
        cannot,
      });
      const wanted = tests.find(([name]) => name.startsWith("a consumer gets in"));
      if (wanted === undefined) throw new Error("The check is gone.");
      const outcome: string[] = [wanted[0]];
      await wanted[1]({ skip: () => void outcome.push("skipped") }).catch((error: unknown) =>
        outcome.push(error instanceof Error ? error.message : ""),
      );
      return outcome;
    };
    expect((await run({}))[1]).toContain("This world cannot ask a consumer");
    const excused = await run({
      "a consumer gets in with what is there and not with what is gone": "nobody signs in here",
    });
    expect(excused).toEqual([
      "a consumer gets in with what is there and not with what is gone (cannot: nobody signs in here)",
      "skipped",
    ]);
  });
});
