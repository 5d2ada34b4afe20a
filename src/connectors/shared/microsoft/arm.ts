/** Azure Resource Manager, and how a value that cannot be read back is known again. */
import { z } from "zod";
import { ConnectorError } from "../../connector.ts";
import type { CallContext, VersionHandle } from "../../connector.ts";
import { ask, sessionOf } from "./session.ts";
import type { Answer, Needs } from "./session.ts";
import type { MicrosoftSystem } from "./system.ts";

/** https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules */
export const resourceGroup = z
  .string()
  .regex(/^[-\w.()]{1,90}$/, "is a resource group: letters, digits and -_.()")
  .describe("The resource group.");
export const resourceName = z
  .string()
  .regex(/^[^<>%&\\?/]{1,128}$/, "has none of < > % & \\ ? / and at most 128 characters");
export const subscription = z
  .string()
  .min(1)
  .optional()
  .describe("The Azure subscription id. Left out: that of the system.");

export interface ArmAsk {
  readonly method: "GET" | "PUT" | "PATCH";
  /** Parts of the path below the resource group, each as it is. */
  readonly path: readonly string[];
  readonly apiVersion: string;
  readonly body?: unknown;
  readonly doing: string;
  readonly needs: Needs;
  readonly alsoOk?: readonly number[];
}

export interface Arm {
  ask(cx: CallContext, what: ArmAsk): Promise<Answer>;
}

export function armOf(
  system: MicrosoftSystem,
  where: { subscription?: string | undefined; resourceGroup: string },
): Arm {
  const session = sessionOf(system);
  return {
    async ask(cx, what) {
      const subscriptionId = where.subscription ?? system.subscription;
      if (subscriptionId === undefined) {
        throw new ConnectorError("misconfigured", "No Azure subscription is named.", {
          next: "Write subscription in the system or in the place.",
        });
      }
      const parts = ["subscriptions", subscriptionId, "resourceGroups", where.resourceGroup, "providers", ...what.path];
      const { path: _, apiVersion, ...more } = what;
      return ask(cx, session, {
        ...more,
        url: `${system.endpoints.arm}/${parts.map((part) => encodeURIComponent(part)).join("/")}?api-version=${apiVersion}`,
        resource: system.endpoints.armResource,
        effect: what.method !== "GET",
      });
    },
  };
}

/**
 * What Keyroll writes beside a value that nobody can read back: the version, and when. The time on our clock and the service's time of the last
 * change lie close together as long as nobody else has changed it since.
 */
export function stampOf(version: VersionHandle, nowMs: number): string {
  return `keyroll:${version.id} ${new Date(nowMs).toISOString()}`;
}
const stampPattern = /keyroll:(\S+) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)/;
/** Clocks differ, and a request may be under way for a while. */
const stampToleranceMs = 120_000;

export interface Stamped {
  /** The version that is there, where it is certain. */
  readonly version: VersionHandle | undefined;
  /** Keyroll wrote there before, so that it can be told whether that is still what is there. */
  readonly told: boolean;
}
/**
 * Reads a stamp. `changed` is the service's own time of the last change. Where our own write was confirmed, exactly that time must still be
 * there; where the answer was lost, it must lie close to the stamp.
 */
export function readStamp(text: string, changed: string | undefined, known: readonly VersionHandle[]): Stamped {
  const found = stampPattern.exec(text);
  if (found === null || changed === undefined) return { version: undefined, told: false };
  const version = known.find((one) => one.id === found[1]);
  if (version === undefined) return { version: undefined, told: true };
  const confirmed = version.placement?.attributes?.["changed"];
  const same =
    confirmed === undefined
      ? Math.abs(Date.parse(changed) - Date.parse(found[2] ?? "")) <= stampToleranceMs
      : confirmed === changed;
  return { version: same ? version : undefined, told: true };
}
/** The text with our stamp in place of an earlier one; what people wrote stays. */
export function withStamp(text: string, stamp: string): string {
  const kept = text.replace(stampPattern, "").trim();
  return kept === "" ? stamp : `${kept} ${stamp}`;
}

/** Reads an answer by its shape. After a write (`effect`) a strange answer leaves open whether it was done. */
export function readAnswer<T>(shape: z.ZodType<T>, json: unknown, doing: string, effect: boolean): T {
  const result = shape.safeParse(json);
  if (result.success) return result.data;
  throw new ConnectorError(
    effect ? "unknown-outcome" : "unavailable",
    `The answer was not what Azure promises, while ${doing}.`,
  );
}

/** The text of a version; `holds` ends the error for a key, such as "an API connection holds a client secret". */
export async function textOf(version: VersionHandle, holds: string): Promise<string> {
  const material = await version.open();
  if (material.kind === "secret") return material.value.reveal();
  throw new ConnectorError("misconfigured", `${version.id} is a key, and ${holds}.`);
}
