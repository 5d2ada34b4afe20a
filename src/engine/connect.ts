/**
 * The only door from the engine to the outside: opens a credential's connectors, and runs every call under a time limit, the system's rate
 * limit and circuit breaker, with version handles that work only during the call. Whatever a connector throws leaves here as one of the closed
 * family of failures, with no secret in its text.
 */
import { ConnectorError } from "../connectors/connector.ts";
import type {
  CallContext,
  Issuer,
  IssuerConnector,
  Log,
  Place,
  PlaceConnector,
  Placement,
  SystemType,
  VersionHandle,
} from "../connectors/connector.ts";
import type { Material } from "../connectors/secret.ts";
import type { CredentialDecl, Observation, PlaceDecl, SystemDecl, VersionFacts } from "../core/place.ts";
import { backoffMs } from "./clock.ts";
import type { Clock, Random } from "./clock.ts";
import type { Limits } from "./limits.ts";
import { createScrubber, learnSettings } from "./scrub.ts";
import type { SignIns } from "./sign-in.ts";

/** What the composition root hands in: the connectors that this build knows. The shipped registry has this shape. */
export interface ConnectorRegistry {
  placeConnector(type: string): PlaceConnector | undefined;
  issuerConnector(type: string): IssuerConnector | undefined;
  systemType(type: string): SystemType | undefined;
}

export interface CallOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly limits: Limits;
  readonly log: Log;
  /** How long one call may take before it is given up: an effect is then *unknown*, a read *unavailable*. */
  readonly callTimeoutMs: number;
  /** How often a read is tried before it counts as not seen. */
  readonly readAttempts: number;
}

/** What a handle is made of. `open` reads the sealed copy; it is called only while the call that got the handle runs. */
export interface HandleSource {
  readonly id: string;
  readonly facts: VersionFacts;
  readonly hasMaterial: boolean;
  readonly placements: Readonly<Record<string, Placement>>;
}

export interface CallScope {
  readonly cx: CallContext;
  /** A handle for this call only. `place` chooses which placement it carries. */
  handle(version: HandleSource, place: string | null): VersionHandle;
  /** For public texts that a connector returns: notes and details. */
  clean(text: string): string;
}

export interface CallSpec {
  /** `add at db`, for messages. */
  readonly label: string;
  /** An effect is tried once, and its silence is *unknown*; a read is tried again, and its silence is *unavailable*. */
  readonly effect: boolean;
  readonly lastSeen?: Observation | null;
  /** The longest a change there is expected to take. */
  readonly changeMs?: number;
  /** Stops waiting and reads. An effect that was sent is always waited for, up to its time limit. */
  readonly signal?: AbortSignal;
  /** Asked before each request: a process that was frozen on its way here must not send what another worker has long done or undone. */
  readonly mayStillSend?: () => boolean;
}

/** One opened place or issuer with its limits. */
export interface Opened<T> {
  readonly connector: T;
  run<R>(spec: CallSpec, body: (connector: T, scope: CallScope) => Promise<R>): Promise<R>;
}

export interface OpenCredential {
  readonly credential: CredentialDecl;
  place(name: string): Opened<Place> & { readonly decl: PlaceDecl };
  issuer(): Opened<Issuer>;
  close(): Promise<void>;
}

/** A read that must come back later than this is given up for now; the rotation rests meanwhile. */
const longestPauseMs = 2000;

export type OpenMaterial = (versionId: string) => Promise<Material>;

function failure(
  error: unknown,
  label: string,
  effect: boolean,
  timedOut: boolean,
  clean: (text: string) => string,
): ConnectorError {
  if (error instanceof ConnectorError) {
    return new ConnectorError(error.kind, clean(error.message), {
      ...(error.next === undefined ? {} : { next: clean(error.next) }),
      ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
      ...(error.permission === undefined ? {} : { permission: clean(error.permission) }),
    });
  }
  const kind = effect ? "unknown-outcome" : "unavailable";
  if (timedOut) return new ConnectorError(kind, `${label}: no answer within the time limit.`);
  // The message is dropped, not cleaned: drivers' errors carry statements and connection strings. The class name helps to find a bug.
  const name =
    error instanceof Error && /^[A-Za-z]{1,40}$/.test(error.constructor.name) ? error.constructor.name : "an error";
  return new ConnectorError(kind, `${label}: the connector failed in a way it does not know (${name}).`, {
    next: "If it happens again, report it to the maintainers of this connector.",
  });
}

/** Opens connectors on first use, keeps them for one pass, and closes them together. */
export function openCredential(
  credential: CredentialDecl,
  systems: readonly SystemDecl[],
  registry: ConnectorRegistry,
  openMaterial: OpenMaterial,
  options: CallOptions,
  signIns?: SignIns,
): OpenCredential {
  const opened = new Map<string, { close(): Promise<void>; run: unknown }>();

  function opener<T extends { close?(): Promise<void> }>(
    connect: (systemConfig: unknown) => T,
    system: SystemDecl | undefined,
    name: string,
    config: unknown,
  ): Opened<T> & { close(): Promise<void> } {
    const type = system === undefined ? undefined : registry.systemType(system.type);
    const limit = options.limits.of(system?.name ?? name, type?.limits);
    /** By the version that the system is signed in to with; "" for what its settings say. */
    const connections = new Map<string, { readonly connector: T; readonly settings: unknown }>();
    const plain = { connector: connect(system?.config), settings: system?.config };
    connections.set("", plain);

    /** Asked before each call, because a rotation may have switched the sign-in since the last one. */
    async function connection(): Promise<typeof plain & { readonly signedInAs: string | null }> {
      const kept = system === undefined ? null : await signIns?.inForce(system, type);
      if (system === undefined || signIns === undefined || kept === undefined || kept === null)
        return { ...plain, signedInAs: null };
      let found = connections.get(kept.version);
      if (found === undefined) {
        const settings = await signIns.settings(system, type, kept);
        found = { connector: connect(settings), settings };
        connections.set(kept.version, found);
      }
      return { ...found, signedInAs: kept.version };
    }

    async function once<R>(spec: CallSpec, body: (connector: T, scope: CallScope) => Promise<R>): Promise<R> {
      const { connector, settings, signedInAs } = await connection();
      spec.signal?.throwIfAborted();
      limit.breaker.enter();
      const scrubber = createScrubber();
      for (const setting of [config, settings]) learnSettings(scrubber, setting);
      const abort = new AbortController();
      const settled = new AbortController();
      const stop = (): void => abort.abort(spec.signal?.reason);
      if (!spec.effect) {
        spec.signal?.addEventListener("abort", stop, { once: true });
      }
      let alive = true;
      let timedOut = false;
      const materials: Material[] = [];
      const logTo =
        (level: "debug" | "info" | "warn"): Log["debug"] =>
        (message, fields) => {
          const cleaned: Record<string, string | number | boolean | null> = {};
          for (const [key, value] of Object.entries(fields ?? {})) {
            // Types are only a promise: a connector may still hand over an object, and an object is not printed.
            if (typeof value === "string") cleaned[key] = scrubber.clean(value);
            else if (value === null || typeof value === "number" || typeof value === "boolean") cleaned[key] = value;
          }
          options.log[level](scrubber.clean(message), cleaned);
        };
      const scope: CallScope = {
        cx: {
          now: () => options.clock.now(),
          signal: abort.signal,
          throttle: async () => {
            await limit.bucket.take(abort.signal);
            if (spec.mayStillSend?.() !== false) return;
            // Requests before this one may have been sent, so nobody knows how far it came.
            throw new ConnectorError("unknown-outcome", `${spec.label}: the lease ran out before it was sent.`);
          },
          log: { debug: logTo("debug"), info: logTo("info"), warn: logTo("warn") },
          ...(spec.lastSeen === undefined || spec.lastSeen === null ? {} : { lastSeen: spec.lastSeen }),
        },
        clean: (text) => scrubber.clean(text),
        handle(version, place) {
          // Names that one place chose (a login role) are what the templates of the others need.
          const attributes = { ...version.facts.attributes };
          for (const other of Object.values(version.placements)) Object.assign(attributes, other.attributes);
          const placement = place === null ? undefined : version.placements[place];
          return {
            id: version.id,
            facts: Object.keys(attributes).length === 0 ? version.facts : { ...version.facts, attributes },
            hasMaterial: version.hasMaterial,
            ...(placement === undefined ? {} : { placement }),
            async open() {
              if (!alive)
                throw new ConnectorError("misconfigured", `${version.id} was opened after its call had ended.`);
              if (!version.hasMaterial) {
                throw new ConnectorError("misconfigured", `The secret part of ${version.id} is not known to Keyroll.`, {
                  next: "Roll forward to a new version, or let a person set this place.",
                });
              }
              const material = await openMaterial(version.id);
              scrubber.learn(material);
              materials.push(material);
              return material;
            },
          };
        },
      };
      const work = (async () => body(connector, scope))();
      // A call that goes on after it was given up must not be able to bring the process down.
      const quiet = work.then(
        () => undefined,
        () => undefined,
      );
      // Opened secrets are wiped when the connector has really ended, not when we stopped waiting: half a secret must never be written.
      void quiet.then(() => {
        for (const material of materials) (material.kind === "secret" ? material.value : material.privateKey).wipe();
      });
      const limitMs = Math.max(options.callTimeoutMs, 4 * (spec.changeMs ?? 0));
      const timeout = options.clock.sleep(limitMs, settled.signal).then(
        () => {
          timedOut = true;
          abort.abort(new Error("time limit"));
          throw new Error("time limit");
        },
        () => new Promise<never>(() => undefined),
      );
      const aborted = new Promise<never>((_, reject) => {
        abort.signal.addEventListener("abort", () => reject(new Error("stopped")), { once: true });
      });
      try {
        const result = await Promise.race([work, timeout, aborted]);
        limit.breaker.leave(null);
        return result;
      } catch (error) {
        const mapped = failure(error, spec.label, spec.effect, timedOut, (text) => scrubber.clean(text));
        limit.breaker.leave(mapped.kind, mapped.message);
        if (mapped.kind === "misconfigured" && signedInAs !== (await connection()).signedInAs) {
          // It signed in with what was taken away meanwhile, so it was sent away at the door.
          throw new ConnectorError("unavailable", `${spec.label}: Keyroll's own sign-in was switched meanwhile.`);
        }
        if (mapped.kind === "throttled") {
          limit.bucket.pauseUntil(options.clock.now() + Math.min(mapped.retryAfterMs ?? 1000, 3_600_000));
        }
        throw mapped;
      } finally {
        alive = false;
        settled.abort();
        spec.signal?.removeEventListener("abort", stop);
      }
    }

    return {
      connector: plain.connector,
      async run(spec, body) {
        for (let attempt = 0; ; attempt++) {
          try {
            return await once(spec, body);
          } catch (error) {
            const again =
              !spec.effect &&
              error instanceof ConnectorError &&
              (error.kind === "throttled" || error.kind === "unavailable") &&
              attempt + 1 < options.readAttempts &&
              (error.retryAfterMs ?? 0) <= longestPauseMs &&
              spec.signal?.aborted !== true;
            if (!again) throw error;
            await options.clock.sleep(
              (error.retryAfterMs ?? 0) + backoffMs(attempt, options.random, 200, 5000),
              spec.signal,
            );
          }
        }
      },
      async close() {
        for (const { connector } of connections.values()) {
          try {
            await connector.close?.();
          } catch {
            // Everything that mattered has been done and written down; what is left is a connection that the other side will drop.
            options.log.debug(`${name}: the connection did not close cleanly.`);
          }
        }
      },
    };
  }

  function systemOf(name: string | undefined): SystemDecl | undefined {
    return name === undefined ? undefined : systems.find((system) => system.name === name);
  }

  function placeOpener(decl: PlaceDecl): (systemConfig: unknown) => Place {
    if (decl.signsInTo !== undefined) {
      const system = systemOf(decl.signsInTo);
      if (system === undefined || signIns === undefined)
        throw new ConnectorError("misconfigured", `${decl.name} is the sign-in to a system that is not declared.`);
      return () => signIns.place(system, registry.systemType(system.type));
    }
    const connector = registry.placeConnector(decl.type);
    if (connector === undefined) {
      throw new ConnectorError(
        "misconfigured",
        `${credential.name}/${decl.name} is of type ${decl.type}, which has no connector.`,
        {
          next: "A place of type model can be planned and proved, not run.",
        },
      );
    }
    return (settings) => connector.open(decl.config, settings);
  }

  return {
    credential,
    place(name) {
      const decl = credential.places.find((place) => place.name === name);
      if (decl === undefined)
        throw new ConnectorError("misconfigured", `${credential.name} has no place named ${name}.`);
      let entry = opened.get(`place ${name}`) as (Opened<Place> & { close(): Promise<void> }) | undefined;
      if (entry === undefined) {
        const system = systemOf(decl.system);
        entry = opener(placeOpener(decl), system, `${credential.name}/${name}`, decl.config);
        opened.set(`place ${name}`, entry);
      }
      return { connector: entry.connector, run: entry.run, decl };
    },
    issuer() {
      let entry = opened.get("issuer") as (Opened<Issuer> & { close(): Promise<void> }) | undefined;
      if (entry === undefined) {
        const connector = registry.issuerConnector(credential.issuer.type);
        if (connector === undefined) {
          throw new ConnectorError(
            "misconfigured",
            `${credential.name} has an issuer of type ${credential.issuer.type}, which has no connector.`,
          );
        }
        const system = systemOf(credential.issuer.system);
        entry = opener(
          (settings) => connector.open(credential.issuer.config, settings),
          system,
          `${credential.name}/issuer`,
          credential.issuer.config,
        );
        opened.set("issuer", entry);
      }
      return entry;
    },
    async close() {
      const all = [...opened.values()];
      opened.clear();
      await Promise.all(all.map((entry) => entry.close()));
    },
  };
}
