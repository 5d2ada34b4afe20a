/**
 * The protocol by which a program of the user's is a place: one JSON document on its standard input, one on its standard output. It carries
 * secrets on standard input only, so that they show up in no process list, no environment and no shell history. How the program is started (here,
 * or over SSH) is the transport's business.
 *
 * The words are those of the connector contract; src/connectors/command/README.md is the page that people write programs from.
 */
import { z } from "zod";
import { plainTraits, type Observation, type Traits } from "../../core/place.ts";
import {
  ConnectorError,
  type CallContext,
  type FailureKind,
  type Issued,
  type Place,
  type Placement,
  type VersionHandle,
} from "../connector.ts";
import { Secret, type Material } from "../secret.ts";
import { redact } from "./redact.ts";
import type { Ran } from "./run.ts";
import { duration } from "./settings.ts";
import { factsOf } from "./x509.ts";

const protocolVersion = 1;
/** More than a thousand entries with long marks; a program that says more has lost its way. */
export const mostOutputBytes = 1024 * 1024;
const mostTextChars = 500;

/** Throws a `ConnectorError` where the program could not be started at all, so that it surely did nothing. */
export type Transport = (cx: CallContext, input: Buffer, timeoutMs: number) => Promise<Ran>;

const optionalVerbs = ["add", "activate", "remove", "probe", "adopt", "endSessions"] as const;
type OptionalVerb = (typeof optionalVerbs)[number];
type Verb = OptionalVerb | "observe";
const effects: ReadonlySet<Verb> = new Set<Verb>(["add", "activate", "remove", "endSessions"]);

const traitsSchema = z
  .strictObject({
    capacity: z.int().min(1).max(1000),
    storeCapacity: z.int().min(1).max(1000),
    staging: z.boolean(),
    admits: z.enum(["version", "issuer"]),
    writes: z.enum(["entries", "whole-set"]),
    conditional: z.boolean(),
    restorable: z.boolean(),
    change: duration(),
  })
  .partial();

/** The settings that every program place has, beside how the program is started. */
export const programShape = {
  verbs: z
    .array(z.enum(optionalVerbs))
    .default(["add", "activate", "remove", "probe"])
    .describe("What the program can do beside observe, which it must."),
  recognise: z
    .enum(["mark", "value"])
    .default("mark")
    .describe(
      "How observe tells versions: mark: the program keeps Keyroll's ids. value: it is given the known versions' secrets to compare with.",
    ),
  traits: traitsSchema
    .default({})
    .describe("Facts about the place that the proof rests on. See the page of this connector."),
};
export interface ProgramConfig {
  readonly verbs: readonly OptionalVerb[];
  readonly recognise: "mark" | "value";
  readonly traits: z.infer<typeof traitsSchema>;
}

export function programTraits(config: ProgramConfig): Traits {
  const { change, ...same } = config.traits;
  return {
    ...plainTraits,
    ...Object.fromEntries(Object.entries(same).filter(([, value]) => value !== undefined)),
    // What the estate says of the place (`verifier: true`) narrows it.
    roles: ["verifier", "holder"],
    readable: config.verbs.includes("adopt"),
    session: config.verbs.includes("endSessions"),
    changeMs: change ?? 1000,
    // A holder without `add` has nowhere to put a version before it is used.
    staging: config.verbs.includes("add") && (config.traits.staging ?? true),
  };
}

const placementSchema = z.strictObject({
  slot: z.string().max(300).optional(),
  attributes: z.record(z.string().max(100), z.string().max(1000)).optional(),
});
const observationSchema = z.strictObject({
  entries: z
    .array(
      z.strictObject({
        mark: z.string().min(1).max(300),
        version: z.string().max(300).optional(),
        slot: z.string().max(300).optional(),
        attributes: placementSchema.shape.attributes,
        enabled: z.boolean().default(true),
        notAfterMs: z.number().optional(),
      }),
    )
    .max(100_000),
  current: z.string().nullable().optional(),
  inUse: z.array(z.string()).optional(),
  settled: z.boolean().optional(),
  etag: z.string().max(300).optional(),
  notes: z.array(z.string().max(mostTextChars)).max(50).optional(),
});
const changedSchema = z.strictObject({ placement: placementSchema.optional() });
const probeSchema = z.strictObject({
  outcome: z.enum(["accepted", "refused", "unknown"]),
  detail: z.string().max(mostTextChars).default(""),
});
const materialSchema = z.union([
  z.strictObject({ kind: z.literal("secret"), value: z.string() }),
  z.strictObject({ kind: z.literal("secret"), valueBase64: z.base64() }),
  z.strictObject({ kind: z.literal("key"), privateKey: z.string(), certificates: z.array(z.string()).default([]) }),
]);
const adoptSchema = z.strictObject({
  versions: z.array(z.strictObject({ material: materialSchema, placement: placementSchema.optional() })).max(100),
});
const failureKinds = ["refused", "throttled", "unavailable", "conflict", "unknown-outcome", "misconfigured"] as const;
const errorSchema = z.strictObject({
  error: z.strictObject({
    kind: z.enum(failureKinds),
    message: z.string().min(1),
    next: z.string().optional(),
    permission: z.string().optional(),
    retryAfterMs: z.number().min(0).optional(),
  }),
});

/** Exit codes with a meaning (BSD sysexits.h where it has one). Every other code but 0 says nothing about what was done. */
const exitKinds: Readonly<Record<number, FailureKind>> = {
  65: "refused", // EX_DATAERR
  69: "unavailable", // EX_UNAVAILABLE
  73: "conflict", // EX_CANTCREAT
  75: "throttled", // EX_TEMPFAIL
  77: "misconfigured", // EX_NOPERM
  78: "misconfigured", // EX_CONFIG
  126: "misconfigured", // a shell's "not executable"
  127: "misconfigured", // a shell's "not found"
};

/** Foreign text made fit to be shown: secrets replaced, control characters (terminal escapes) dropped, the end of it kept, where the reason is. */
function clean(text: string, secrets: readonly Secret[]): string {
  const shown = redact(text, secrets)
    .replaceAll(/\p{Cc}\[[0-9;?]*[ -/]*[@-~]/gu, "")
    .replaceAll(/[^\P{Cc}\n]+/gu, " ")
    .trim();
  return shown.length > mostTextChars ? `…${shown.slice(-mostTextChars)}` : shown;
}
function cleanAll<T>(value: T, secrets: readonly Secret[]): T {
  const walk = (one: unknown): unknown => {
    if (typeof one === "string") return redact(one, secrets);
    if (Array.isArray(one)) return one.map(walk);
    if (one !== null && typeof one === "object")
      return Object.fromEntries(Object.entries(one).map(([key, inner]) => [key, walk(inner)]));
    return one;
  };
  return walk(value) as T;
}

interface WireVersion {
  readonly id: string;
  readonly facts: VersionHandle["facts"];
  readonly placement?: Placement;
  readonly material?: unknown;
}
function wireMaterial(material: Material): unknown {
  if (material.kind === "key")
    return { kind: "key", privateKey: material.privateKey.reveal(), certificates: material.certificates };
  const bytes = material.value.bytes();
  const text = material.value.reveal();
  // Bytes that are no UTF-8 would come out of a string as others.
  return Buffer.from(text, "utf8").equals(bytes)
    ? { kind: "secret", value: text }
    : { kind: "secret", valueBase64: bytes.toString("base64") };
}

export function openProgram(config: ProgramConfig, run: Transport, timeoutMs: number, called: string): Place {
  async function wire(version: VersionHandle, withMaterial: boolean, secrets: Secret[]): Promise<WireVersion> {
    let material: unknown;
    if (withMaterial && version.hasMaterial) {
      const opened = await version.open();
      secrets.push(opened.kind === "secret" ? opened.value : opened.privateKey);
      material = wireMaterial(opened);
    }
    return {
      id: version.id,
      facts: version.facts,
      ...(version.placement === undefined ? {} : { placement: version.placement }),
      ...(material === undefined ? {} : { material }),
    };
  }

  async function ask<T>(
    cx: CallContext,
    verb: Verb,
    schema: z.ZodType<T>,
    more: { version?: VersionHandle; known?: readonly VersionHandle[]; withMaterial?: boolean },
    secretAnswer = false,
  ): Promise<T> {
    if (cx.signal.aborted)
      throw new ConnectorError("unavailable", `The call was cancelled before ${called} was started.`);
    const secrets: Secret[] = [];
    const version =
      more.version === undefined ? undefined : await wire(more.version, more.withMaterial === true, secrets);
    const known: WireVersion[] = [];
    for (const one of more.known ?? []) known.push(await wire(one, config.recognise === "value", secrets));
    const request = Buffer.from(
      `${JSON.stringify({
        protocol: protocolVersion,
        verb,
        ...(version === undefined ? {} : { version }),
        ...(more.known === undefined ? {} : { known }),
        ...(cx.lastSeen?.etag === undefined ? {} : { etag: cx.lastSeen.etag }),
      })}\n`,
    );
    await cx.throttle();
    let result: Ran;
    try {
      result = await run(cx, request, timeoutMs);
    } finally {
      request.fill(0);
    }
    return judge(verb, schema, result, secrets, secretAnswer);
  }

  function judge<T>(
    verb: Verb,
    schema: z.ZodType<T>,
    result: Ran,
    secrets: readonly Secret[],
    secretAnswer: boolean,
  ): T {
    // What a program that died half-way had done is not known; a program that only looks has done nothing.
    const silent: FailureKind = effects.has(verb) ? "unknown-outcome" : "unavailable";
    const said = clean(result.stderr.toString("utf8"), secrets);
    const also = said === "" ? "" : ` It said: ${said}`;
    if (result.endedBy === "time-out") {
      throw new ConnectorError(
        silent,
        `${called} gave no answer to ${verb} within ${Math.round(timeoutMs / 1000)} s and was ended.${also}`,
      );
    }
    if (result.endedBy === "cancelled")
      throw new ConnectorError(silent, `${called} was ended in the middle of ${verb}, because the call was cancelled.`);
    if (result.cut && result.stdout.length >= mostOutputBytes) {
      throw new ConnectorError(silent, `${called} answered ${verb} with more than ${mostOutputBytes} bytes.`, {
        next: "Let it print one JSON document and nothing else on standard output; everything for people goes to standard error.",
      });
    }
    const text = result.stdout.toString("utf8");
    let answer: unknown;
    try {
      answer = text.trim() === "" ? undefined : JSON.parse(text);
    } catch {
      answer = undefined;
    }
    const failed = errorSchema.safeParse(answer);
    if (failed.success) {
      const { kind, message, next, permission, retryAfterMs } = failed.data.error;
      throw new ConnectorError(
        kind === "unknown-outcome" ? silent : kind,
        `${called}, asked to ${verb}: ${clean(message, secrets)}`,
        {
          ...(next === undefined ? {} : { next: clean(next, secrets) }),
          ...(permission === undefined ? {} : { permission: clean(permission, secrets) }),
          ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
        },
      );
    }
    if (result.code !== 0) {
      const how = result.code === null ? "was ended by a signal" : `ended with exit code ${result.code}`;
      const kind = (result.code === null ? undefined : exitKinds[result.code]) ?? silent;
      const permission = result.code === 77 && said !== "" ? { permission: said } : {};
      throw new ConnectorError(kind, `${called} ${how} when asked to ${verb}.${also}`, {
        next: 'Run it by hand with the same input, or let it print {"error": {"kind": …, "message": …}}.',
        ...permission,
      });
    }
    const parsed = schema.safeParse(answer);
    if (!parsed.success) {
      const where = parsed.error.issues[0]?.path.join(".") ?? "";
      const what =
        answer === undefined
          ? "no JSON document"
          : `a JSON document that is not an answer to ${verb}${where === "" ? "" : ` (at ${clean(where, secrets)})`}`;
      throw new ConnectorError(
        effects.has(verb) ? "unknown-outcome" : "misconfigured",
        `${called} printed ${what}.${also}`,
        {
          next: "Standard output must hold exactly one JSON document as the connector's page describes it.",
        },
      );
    }
    return secretAnswer ? parsed.data : cleanAll(parsed.data, secrets);
  }

  const changed = async (
    cx: CallContext,
    verb: "add" | "activate",
    version: VersionHandle,
  ): Promise<Placement | void> => {
    if (!version.hasMaterial) await version.open();
    const { placement } = await ask(cx, verb, changedSchema, { version, withMaterial: true });
    return placement === undefined ? undefined : placementOf(placement);
  };
  const can = (verb: OptionalVerb): boolean => config.verbs.includes(verb);

  return {
    async observe(cx, known): Promise<Observation> {
      const seen = await ask(cx, "observe", observationSchema, { known });
      const ids = new Set(known.map((version) => version.id));
      const marks = new Set<string>();
      const entries = seen.entries.map(({ version, slot, attributes, notAfterMs, mark, enabled }) => {
        if (marks.has(mark)) throw new ConnectorError("misconfigured", `${called} showed two entries with one mark.`);
        marks.add(mark);
        return {
          mark,
          enabled,
          // A version that Keyroll did not ask about is somebody else's to know.
          ...(version !== undefined && ids.has(version) ? { version } : {}),
          ...(slot === undefined ? {} : { slot }),
          ...(attributes === undefined ? {} : { attributes }),
          ...(notAfterMs === undefined ? {} : { notAfterMs }),
        };
      });
      if (typeof seen.current === "string" && !marks.has(seen.current)) {
        throw new ConnectorError("misconfigured", `${called} named a current entry that is not among its entries.`);
      }
      const { current, inUse, settled, etag, notes } = seen;
      return {
        entries,
        ...(current === undefined ? {} : { current }),
        ...(inUse === undefined ? {} : { inUse }),
        ...(settled === undefined ? {} : { settled }),
        ...(etag === undefined ? {} : { etag }),
        ...(notes === undefined ? {} : { notes: notes.map((note) => clean(note, [])) }),
      };
    },
    ...(can("add") ? { add: async (cx, version) => changed(cx, "add", version) } : {}),
    ...(can("activate") ? { activate: async (cx, version) => changed(cx, "activate", version) } : {}),
    ...(can("remove")
      ? {
          remove: async (cx, version) =>
            void (await ask(cx, "remove", changedSchema, { version, withMaterial: config.recognise === "value" })),
        }
      : {}),
    ...(can("endSessions")
      ? { endSessions: async (cx, version) => void (await ask(cx, "endSessions", changedSchema, { version })) }
      : {}),
    ...(can("probe")
      ? {
          async probe(cx, version) {
            if (!version.hasMaterial)
              return { outcome: "unknown", detail: `The secret part of ${version.id} is not known here.` };
            const { outcome, detail } = await ask(cx, "probe", probeSchema, { version, withMaterial: true });
            return { outcome, detail: detail === "" ? `${called} says ${outcome}.` : clean(detail, []) };
          },
        }
      : {}),
    ...(can("adopt")
      ? {
          async adopt(cx) {
            const { versions } = await ask(cx, "adopt", adoptSchema, {}, true);
            return versions.map(({ material, placement }): Issued => {
              const taken = takeMaterial(material);
              const leaf = taken.kind === "key" ? taken.certificates[0] : undefined;
              return {
                material: taken,
                facts: leaf === undefined ? {} : factsOf(leaf),
                ...(placement === undefined ? {} : { placement: placementOf(placement) }),
              };
            });
          },
        }
      : {}),
  };
}

function placementOf(placement: z.infer<typeof placementSchema>): Placement {
  return {
    ...(placement.slot === undefined ? {} : { slot: placement.slot }),
    ...(placement.attributes === undefined ? {} : { attributes: placement.attributes }),
  };
}
function takeMaterial(material: z.infer<typeof materialSchema>): Material {
  if (material.kind === "key")
    return { kind: "key", privateKey: new Secret(material.privateKey), certificates: material.certificates };
  return {
    kind: "secret",
    value: new Secret("value" in material ? material.value : Buffer.from(material.valueBase64, "base64")),
  };
}
