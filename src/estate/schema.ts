/**
 * The shape of `keyroll.yaml`: the one source of what the loader accepts and of the JSON Schema that editors complete from. What belongs to a
 * connector comes from the connector's own schema.
 */
import { z } from "zod";
import { plainTraits } from "../core/place.ts";
import type { Traits, Window } from "../core/place.ts";
import { parseDuration, parseWindow } from "../core/time.ts";
import { nearest } from "./problem.ts";

/** The type of a place, issuer or system that has declared traits and no connector. */
export const modelType = "model";

/** Names appear in paths, in URLs, in version ids (`name#3`) and in remote tags. */
export const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;
export function isName(text: string): boolean {
  return namePattern.test(text);
}
export const nameRule = "write letters, digits, dots, dashes and underscores, beginning with a letter or digit";

const durationPattern =
  "^\\s*(0|[0-9.]+\\s*(ms|s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)(\\s*[0-9.]+\\s*[a-z]+)*|[Pp].+)\\s*$";

/** Milliseconds, or half a sentence on what is wrong. */
function readDuration(value: unknown): ReturnType<typeof parseDuration> {
  // `0` is the one number that needs no unit.
  if (typeof value === "string" || value === 0) return parseDuration(String(value));
  if (typeof value !== "number") {
    return { problem: "is not a duration", fix: 'write a number and a unit, such as "30d"' };
  }
  if (value < 0) return { problem: "is negative", fix: "a duration is zero or more" };
  return { problem: `${value} has no unit`, fix: `write ${value}s, ${value}m, ${value}h or ${value}d` };
}

/** Text such as `30d`; milliseconds afterwards. */
function duration(description: string) {
  return z
    .unknown()
    .transform((value, context): number => {
      const parsed = readDuration(value);
      if ("value" in parsed) return parsed.value;
      context.addIssue({ code: "custom", message: `${parsed.problem}; ${parsed.fix}` });
      return z.NEVER;
    })
    .meta({
      description,
      anyOf: [{ type: "string", pattern: durationPattern }, { const: 0 }],
      examples: ["5s", "10m", "2h", "30d"],
    });
}

function durationOrNever(description: string) {
  return z
    .unknown()
    .transform((value, context): number | null => {
      if (value === "never") return null;
      const parsed = readDuration(value);
      if ("value" in parsed) return parsed.value;
      context.addIssue({ code: "custom", message: `${parsed.problem}; ${parsed.fix}, or "never"` });
      return z.NEVER;
    })
    .meta({
      description,
      anyOf: [{ type: "string", pattern: durationPattern }, { const: "never" }, { const: 0 }],
      examples: ["30d", "90d", "never"],
    });
}

function windowText() {
  return z.unknown().transform((value, context): Window => {
    const parsed = parseWindow(typeof value === "string" ? value : "");
    if ("value" in parsed) return parsed.value;
    let fix = parsed.fix;
    if (parsed.badTimeZone !== undefined) {
      const near = nearest(parsed.badTimeZone, [...Intl.supportedValuesOf("timeZone"), "UTC"]);
      if (near !== undefined) fix = `did you mean "${near}"?`;
    }
    context.addIssue({ code: "custom", message: `${parsed.problem}; ${fix}` });
    return z.NEVER;
  });
}
const windowMeta = {
  type: "string",
  examples: ["Sat 02:00-06:00 Europe/Amsterdam", "Mon-Fri 22:00-04:00 UTC", "daily 01:00-03:00"],
};

const words = z.string().trim().min(1, "is empty; write a name");

/** One name or a list of names. */
function oneOrMany(description: string) {
  return z
    .union([words.transform((one) => [one]), z.array(words)], {
      error: "is neither a name nor a list of names; write one name, or [first, second]",
    })
    .describe(description);
}

const count = z.int().min(0).max(20);

/** What holds for every place, whatever its type. */
export const placeCommon = z.strictObject({
  type: words.optional().describe("The connector, or model for a place that Keyroll does not know."),
  credential: words
    .optional()
    .describe(
      "Instead of a type: another credential of the estate. Giving it the new version is a rotation of that credential.",
    ),
  system: words.optional().describe("The system that the place is in."),
  issuer: z.boolean().optional().describe("Versions are made here."),
  verifier: z.boolean().optional().describe("Versions are accepted here."),
  holder: z.boolean().optional().describe("The version that somebody presents is kept here."),
  presentsTo: oneOrMany(
    "Holder: the verifier places that its users present the version to. Default: all verifiers of the credential.",
  ).optional(),
  refresh: duration("Holder: how long until every consumer has re-read it.").optional(),
  propagation: duration("Verifier: how long until a change is enforced everywhere.").optional(),
  drain: duration(
    "How long until the last message that was sent under a version is gone, such as the life of a token.",
  ).optional(),
});

/** What only a place or issuer of type `model` declares: connectors know it of themselves. */
const modelTraits = {
  capacity: z
    .int()
    .min(1)
    .max(30)
    .optional()
    .describe("Verifier: how many versions it can trust at once. Default: 16."),
  storeCapacity: z
    .int()
    .min(1)
    .max(30)
    .optional()
    .describe("Holder: how many versions it can store at once. Default: 16."),
  staging: z.boolean().optional().describe("Holder: a version can be put in place without being used. Default: true."),
  admits: z
    .enum(["version", "issuer"])
    .optional()
    .describe("Verifier: trusts single versions, or all that an issuer signed."),
  readable: z.boolean().optional().describe("The value can be read back. Default: true."),
  minting: z.enum(["ours", "theirs"]).optional().describe("Issuer: who makes the secret part."),
  issuingTrusts: z.boolean().optional().describe("Issuer: the new version is trusted here at once."),
  issuingActivates: z.boolean().optional().describe("Issuer: the new version is in use here at once."),
  session: z.boolean().optional().describe("A grant outlives the version that it was made under."),
  writes: z.enum(["entries", "whole-set"]).optional().describe("A write changes one entry, or replaces all."),
  conditional: z.boolean().optional().describe("Writes can be made conditional on what was read."),
  transitions: z
    .array(z.enum(["serial", "no-two-to-two"]))
    .optional()
    .describe("Rules about which set may follow which."),
  restorable: z.boolean().optional().describe("What was removed can be put back. Default: true."),
  human: z.boolean().optional().describe("Only a person can do it."),
  change: duration("How long one change takes. Default: 1s.").optional(),
};
export const modelPlace = z.strictObject(modelTraits);
export const modelKeys: readonly string[] = Object.keys(modelTraits);

/** The traits of a `model`, without the times that every place may declare. */
export function traitsOfModel(config: z.output<typeof modelPlace>): Traits {
  const { change, ...rest } = config;
  const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  return { ...plainTraits, ...given, ...(change === undefined ? {} : { changeMs: change }) };
}

export const issuerCommon = z.strictObject({
  type: words.optional().describe("What makes the versions."),
  system: words.optional().describe("The system that makes them."),
  ca: words.optional().describe("The credential of the estate that signs."),
  place: words.optional().describe("The place of this credential that issues, where the remote side mints."),
});

export const systemCommon = z.strictObject({
  type: words.describe("What is connected to."),
  signIn: words.optional().describe("The credential of the estate that Keyroll itself signs in with."),
});

const policyShape = z.strictObject({
  rotateBefore: durationOrNever("Rotate this long before expiry.").optional(),
  maxAge: durationOrNever("Rotate when the current version is older than this.").optional(),
  soak: duration("Wait this long between the last switch and the first removal.").optional(),
  margin: duration("Added to the estimate when the last safe start is computed. Default: 1d.").optional(),
  window: windowText()
    .meta({ ...windowMeta, description: "When changes may be made." })
    .optional(),
  windows: z.array(windowText().meta(windowMeta)).min(1).optional().describe("When changes may be made: any of these."),
  approvals: z
    .strictObject({
      issue: count.optional(),
      distribute: count.optional(),
      switch: count.optional(),
      retire: count.optional(),
    })
    .optional()
    .describe("How many people other than the starter must agree before a phase begins."),
  notify: oneOrMany("Who is told.").optional(),
});
export type PolicyInput = z.output<typeof policyShape>;

const labels = z
  .record(
    z.string(),
    z
      .union([z.string(), z.number(), z.boolean()], { error: "is not a single value; write text" })
      .transform((value) => String(value)),
  )
  .describe("Free names and values, to filter by.");

const dataShape = z.strictObject({
  writtenUnder: words.describe("The holder place under whose version new records are written."),
  readBy: oneOrMany("The verifier places that must be able to read them."),
  takes: duration("How long moving all records to a new version takes."),
});

const credentialKinds = ["password", "secret", "certificate", "ca", "key", "ssh-key"] as const;

/** A map of named things; each is looked at by itself, so that a mistake in one hides none in the others. */
function named(description: string) {
  return z.record(z.string(), z.unknown()).describe(description);
}

export const credentialShape = z.strictObject({
  kind: z.enum(credentialKinds).describe("What it is."),
  owner: words.optional().describe("Who looks after it. Default: defaults.owner."),
  labels: labels.optional(),
  issuer: z
    .record(z.string(), z.unknown())
    .optional()
    .describe("What makes new versions. Left out where a place has issuer: true."),
  places: named("Where its versions are held and trusted.").optional(),
  data: z
    .record(z.string(), dataShape)
    .optional()
    .describe("Data sets that were encrypted or signed under its versions."),
  policy: policyShape.optional().describe("When it is rotated, and who must agree."),
});

const defaultsShape = z.strictObject({
  owner: words.optional().describe("Who looks after credentials that name nobody."),
  labels: labels.optional(),
  policy: policyShape.optional().describe("What credentials do not say of themselves."),
});
export type DefaultsInput = z.output<typeof defaultsShape>;

const settingsShape = z.strictObject({
  requestLife: duration("No request that was sent is alive after this time. Default: 2m.").default(120_000),
  observeEvery: duration("How often every place is looked at when nothing is being rotated. Default: 15m.").default(
    900_000,
  ),
});

export const fileShape = z.strictObject({
  version: z
    .literal(1, { error: "is not a version of this file that is known; write version: 1" })
    .optional()
    .describe("Always 1."),
  include: oneOrMany("Other files of the estate, relative to this one.").optional(),
  settings: settingsShape.optional().describe("What holds for the estate as a whole. In the first file only."),
  defaults: defaultsShape.optional().describe("For the credentials of this file and of the files it includes."),
  systems: named("What Keyroll connects to.").optional(),
  credentials: named("What Keyroll rolls.").optional(),
});
export const settingsOf = (input: z.output<typeof settingsShape> | undefined) => input ?? settingsShape.parse({});
