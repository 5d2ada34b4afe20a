import { describe, expect, test } from "vitest";
import { credential } from "../../test/support/declare.ts";
import { VirtualClock } from "../../test/support/engine.ts";
import { ConnectorError, definePlace } from "../connectors/connector.ts";
import type { Place, VersionHandle } from "../connectors/connector.ts";
import { createRegistry } from "../connectors/registry.ts";
import { Secret } from "../connectors/secret.ts";
import { plainTraits } from "../core/place.ts";
import { z } from "zod";
import { backoffMs, seededRandom } from "./clock.ts";
import { openCredential } from "./connect.ts";
import type { OpenCredential } from "./connect.ts";
import { circuitBreaker, createLimits, tokenBucket } from "./limits.ts";
import { createScrubber, learnSettings } from "./scrub.ts";

const canary = "correct-horse-battery/staple";
const version = {
  id: "app#1",
  facts: { fingerprint: "f1" },
  hasMaterial: true,
  placements: { db: { slot: "a", attributes: { user: "app_a" } } },
};

function opened(
  place: Partial<Place>,
  clock = new VirtualClock(0),
): { open: OpenCredential; logged: string[]; clock: VirtualClock } {
  const logged: string[] = [];
  const log = (message: string, fields?: object): void =>
    void logged.push(`${message} ${JSON.stringify(fields ?? {})}`);
  const type = definePlace({
    type: "t",
    family: "place",
    title: "t",
    config: z.object({}),
    roles: ["verifier"],
    permissions: [],
    traits: () => plainTraits,
    open: () => ({ observe: async () => ({ entries: [] }), ...place }),
  });
  const open = openCredential(
    credential("app", [
      { name: "db", type: "t", traits: plainTraits, presentsTo: [], config: { password: "system-password" } },
    ]),
    [],
    createRegistry({ places: [type] }),
    async () => ({ kind: "secret", value: new Secret(canary) }),
    {
      clock,
      random: seededRandom(1),
      limits: createLimits(clock),
      log: { debug: log, info: log, warn: log },
      callTimeoutMs: 60_000,
      readAttempts: 3,
    },
  );
  return { open, logged, clock };
}

async function failureOf(work: Promise<unknown>): Promise<ConnectorError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ConnectorError);
  return error as ConnectorError;
}

describe("a call", () => {
  test("hands out handles that open during the call only, and wipes what was opened", async () => {
    const { open } = opened({});
    let kept: VersionHandle | undefined;
    let secret: Secret | undefined;
    const text = await open.place("db").run({ label: "add db", effect: true }, async (_, scope) => {
      kept = scope.handle(version, "db");
      const material = await kept.open();
      if (material.kind !== "secret") throw new Error("unexpected kind");
      secret = material.value;
      return secret.reveal();
    });
    expect(text).toBe(canary);
    expect(kept!.placement).toEqual({ slot: "a", attributes: { user: "app_a" } });
    expect(kept!.facts.attributes).toEqual({ user: "app_a" });
    expect((await failureOf(kept!.open())).message).toContain("after its call had ended");
    expect(secret!.bytes().every((byte) => byte === 0)).toBe(true);
  });

  test("sends nothing more once the lease has run out, as after a freeze, and says that nobody knows how far it came", async () => {
    const { open } = opened({});
    const sent: string[] = [];
    let fresh = true;
    const error = await failureOf(
      open.place("db").run({ label: "add db", effect: true, mayStillSend: () => fresh }, async (_, scope) => {
        await scope.cx.throttle();
        sent.push("first");
        fresh = false;
        await scope.cx.throttle();
        sent.push("second");
      }),
    );
    expect(error.kind).toBe("unknown-outcome");
    expect(sent).toEqual(["first"]);
  });

  test("an error that no connector should throw is unknown for an effect and unavailable for a read, and its text is dropped", async () => {
    const { open } = opened({});
    const fails = async (): Promise<never> => {
      throw new RangeError(`bad value ${canary}`);
    };
    const effect = await failureOf(open.place("db").run({ label: "add db", effect: true }, fails));
    expect(effect.kind).toBe("unknown-outcome");
    expect(effect.message).toBe("add db: the connector failed in a way it does not know (RangeError).");
    const read = await failureOf(open.place("db").run({ label: "observe db", effect: false }, fails));
    expect(read.kind).toBe("unavailable");
  });

  test("what was opened, and what the settings hide, is printed nowhere", async () => {
    const { open, logged } = opened({});
    const error = await failureOf(
      open.place("db").run({ label: "add db", effect: true }, async (_, scope) => {
        await scope.handle(version, "db").open();
        scope.cx.log.warn(`sent ${canary}`, { body: Buffer.from(canary).toString("base64"), list: [canary] as never });
        throw new ConnectorError("refused", `they said: ${encodeURIComponent(canary)} and system-password`, {
          next: `look at ${canary}`,
        });
      }),
    );
    expect(error.message).toBe("they said: [secret] and [secret]");
    expect(error.next).toBe("look at [secret]");
    expect(logged).toHaveLength(1);
    expect(logged[0]).toContain("sent [secret]");
    expect(logged[0]).not.toContain("list");
    expect(logged[0]).not.toContain(Buffer.from(canary).toString("base64").slice(0, 8));
  });

  test("an effect is tried once; a read again, and not after a refusal", async () => {
    const { open } = opened({});
    const counts = { effect: 0, read: 0, refused: 0 };
    const fail = (what: keyof typeof counts, kind: "unavailable" | "refused") => async (): Promise<never> => {
      counts[what]++;
      throw new ConnectorError(kind, "no");
    };
    await failureOf(open.place("db").run({ label: "x", effect: true }, fail("effect", "unavailable")));
    await failureOf(open.place("db").run({ label: "x", effect: false }, fail("refused", "refused")));
    await failureOf(open.place("db").run({ label: "x", effect: false }, fail("read", "unavailable")));
    expect(counts).toEqual({ effect: 1, read: 3, refused: 1 });
  });

  test("silence ends at the time limit: unknown for an effect; the connector is told to stop", async () => {
    const { open, clock } = opened({});
    let told = false;
    const work = open.place("db").run({ label: "add db", effect: true }, async (_, scope) => {
      scope.cx.signal.addEventListener("abort", () => (told = true));
      return await new Promise<never>(() => undefined);
    });
    const failed = failureOf(work);
    await new Promise((resolve) => setImmediate(resolve));
    clock.moveTo(60_000);
    expect((await failed).kind).toBe("unknown-outcome");
    expect(told).toBe(true);
  });
});

describe("limits", () => {
  test("a bucket lets a burst through and then spaces requests", async () => {
    const clock = new VirtualClock(0);
    const bucket = tokenBucket("pg", { perSecond: 10, burst: 3 }, clock);
    const times: number[] = [];
    for (let i = 0; i < 6; i++) {
      await bucket.take(new AbortController().signal);
      times.push(clock.now());
    }
    expect(times).toEqual([0, 0, 0, 100, 200, 300]);
  });

  test("Retry-After is not sat out within a call", async () => {
    const clock = new VirtualClock(0);
    const bucket = tokenBucket("pg", { perSecond: 10, burst: 3 }, clock);
    bucket.pauseUntil(90_000);
    const error = await failureOf(bucket.take(new AbortController().signal));
    expect(error.kind).toBe("throttled");
    expect(error.retryAfterMs).toBe(90_000);
    clock.moveTo(90_000);
    await bucket.take(new AbortController().signal);
    expect(clock.now()).toBe(90_000);
  });

  test("a breaker opens on silence, lets one trial through, and closes on any answer", async () => {
    const clock = new VirtualClock(0);
    const breaker = circuitBreaker("pg", clock, { failures: 2, openMs: 10_000, maxOpenMs: 40_000 });
    const enter = (): string | null => {
      try {
        breaker.enter();
        return null;
      } catch (error) {
        return (error as ConnectorError).kind;
      }
    };
    expect(enter()).toBeNull();
    breaker.leave("unavailable", "no route");
    expect(enter()).toBeNull();
    breaker.leave("unavailable", "no route");
    expect(enter()).toBe("unavailable");
    clock.moveTo(10_000);
    expect(enter()).toBeNull();
    // Only one trial at a time.
    expect(enter()).toBe("unavailable");
    breaker.leave("unavailable", "no route");
    clock.moveTo(29_999);
    expect(enter()).toBe("unavailable");
    clock.moveTo(30_000);
    expect(enter()).toBeNull();
    breaker.leave("refused");
    expect(enter()).toBeNull();
    expect(breaker.openUntilMs).toBeNull();
  });

  test("back-off has full jitter below a growing bound", () => {
    const random = seededRandom(42);
    for (let attempt = 0; attempt < 12; attempt++) {
      const bound = Math.min(60_000, 500 * 2 ** attempt);
      const waits = Array.from({ length: 200 }, () => backoffMs(attempt, random));
      expect(Math.max(...waits)).toBeLessThan(bound);
      expect(Math.min(...waits)).toBeLessThan(bound * 0.1);
    }
  });
});

test("a scrubber learns keys line by line and settings by their names", () => {
  const scrubber = createScrubber();
  const body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7";
  scrubber.learn({
    kind: "key",
    privateKey: new Secret(`-----BEGIN PRIVATE KEY-----\n${body}\n-----END PRIVATE KEY-----\n`),
    certificates: [],
  });
  learnSettings(scrubber, {
    url: "postgres://keyroll:p%40ssword@db/x",
    nested: { clientSecret: new Secret("wrapped-secret"), token: "tok-123456" },
  });
  expect(scrubber.clean(`openssl: cannot read ${body}`)).toBe("openssl: cannot read [secret]");
  expect(scrubber.clean("p@ssword wrapped-secret tok-123456")).toBe("[secret] [secret] [secret]");
  expect(scrubber.clean("connect to postgres://me:unknown@host/db")).toBe("connect to postgres://me:[secret]@host/db");
});
