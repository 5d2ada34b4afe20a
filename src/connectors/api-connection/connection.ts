/**
 * An API connection: one slot for the secret, which nobody can read back, and a write that replaces all parameters. What is there is told by a tag
 * of Keyroll's and the time of the last change: a change by somebody else moves that time.
 */
import { z } from "zod";
import type { Observation } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { armOf, readAnswer, readStamp, stampOf, textOf } from "../shared/microsoft/arm.ts";
import { ask, sessionOf } from "../shared/microsoft/session.ts";
import type { Needs } from "../shared/microsoft/session.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import type { ApiConnectionConfig } from "./schema.ts";

const apiVersion = "2016-06-01";
const tag = "keyroll";

/** What a sign-in with a client secret needs beside it. Some of it is not shown, and leaving it out would take it away. */
const signInParameters = ["token:clientId", "token:TenantId", "token:grantType"];

const text = z.string().nullish();
const connection = z.looseObject({
  location: z.string(),
  tags: z.record(z.string(), z.string()).nullish(),
  kind: text,
  properties: z.looseObject({
    displayName: text,
    changedTime: text,
    api: z.looseObject({ id: z.string() }),
    parameterValues: z.record(z.string(), z.unknown()).nullish(),
    nonSecretParameterValues: z.record(z.string(), z.unknown()).nullish(),
    customParameterValues: z.record(z.string(), z.unknown()).nullish(),
    statuses: z.array(z.looseObject({ status: text, error: z.looseObject({ code: text }).nullish() })).nullish(),
    testLinks: z.array(z.looseObject({ requestUri: text, method: text })).nullish(),
  }),
});
type Connection = z.infer<typeof connection>;

const reads: Needs = {
  permission: "Microsoft.Web/connections/read",
  next: "Give Keyroll's application a role with Microsoft.Web/connections/* on the resource group, such as Logic App Contributor.",
};
const writes: Needs = { ...reads, permission: "Microsoft.Web/connections/write" };

export function openApiConnection(config: ApiConnectionConfig, system: MicrosoftSystem): Place {
  const arm = armOf(system, config);
  const path = ["Microsoft.Web", "connections", config.name];

  async function read(cx: CallContext): Promise<Connection> {
    const doing = `reading the API connection ${config.name}`;
    const answer = await arm.ask(cx, { method: "GET", path, apiVersion, doing, needs: reads });
    return readAnswer(connection, answer.json, doing, false);
  }

  function look(seen: Connection, known: readonly VersionHandle[]): Observation & { readonly version?: string } {
    const changed = seen.properties.changedTime ?? undefined;
    const { version, told } = readStamp(seen.tags?.[tag] ?? "", changed, known);
    const status = seen.properties.statuses?.find((one) => one.status !== "Connected");
    const notes =
      status === undefined
        ? []
        : [
            `The API connection ${config.name} says "${wordOf(status.status)}"${status.error?.code === undefined ? "" : ` (${wordOf(status.error?.code)})`}.`,
          ];
    const mark = `changed ${changed ?? "at an unknown time"}`;
    return {
      entries: [
        {
          mark,
          slot: config.secretParameter,
          enabled: true,
          ...(version === undefined ? {} : { version: version.id }),
        },
      ],
      // Before Keyroll has written there, nobody can say what it is.
      ...(told ? { current: mark } : {}),
      ...(notes.length === 0 ? {} : { notes }),
      ...(version === undefined ? {} : { version: version.id }),
    };
  }

  /** Every parameter but the secret: what Azure shows, what the issuer says of the version, and what the settings say, which wins. */
  function othersOf(seen: Connection, version: VersionHandle): Record<string, string> {
    const appId = version.facts.attributes?.["appId"];
    const found: Record<string, string> = {
      ...(appId === undefined ? {} : { "token:clientId": appId }),
      ...strings(seen.properties.parameterValues),
      ...strings(seen.properties.nonSecretParameterValues),
      ...config.parameters,
    };
    delete found[config.secretParameter];
    return found;
  }

  return {
    async observe(cx, known) {
      throwIfCancelled(cx);
      const { version: _, ...seen } = look(await read(cx), known);
      return seen;
    },

    async activate(cx, version) {
      throwIfCancelled(cx);
      const value = await textOf(version, "an API connection holds a client secret");
      const before = await read(cx);
      if (look(before, [version]).version === version.id)
        return { slot: config.secretParameter, attributes: { changed: before.properties.changedTime ?? "" } };
      const others = othersOf(before, version);
      const missing = signInParameters.filter(
        (name) => config.secretParameter === "token:clientSecret" && others[name] === undefined,
      );
      if (missing.length > 0 || Object.keys(others).length === 0) {
        throw new ConnectorError(
          "misconfigured",
          `Azure does not show all parameters of the API connection ${config.name} (${missing.join(", ") || "none at all"}), and a change replaces all of them.`,
          { next: "Write them under parameters in the place's settings." },
        );
      }
      const { displayName, api, customParameterValues } = before.properties;
      const doing = `writing the API connection ${config.name}`;
      const answer = await arm.ask(cx, {
        method: "PUT",
        path,
        apiVersion,
        doing,
        needs: writes,
        body: {
          location: before.location,
          ...(before.kind === undefined || before.kind === null ? {} : { kind: before.kind }),
          tags: { ...before.tags, [tag]: stampOf(version, cx.now()) },
          properties: {
            ...(displayName === undefined || displayName === null ? {} : { displayName }),
            api: { id: api.id },
            parameterValues: { ...others, [config.secretParameter]: value },
            ...(customParameterValues === undefined || customParameterValues === null ? {} : { customParameterValues }),
          },
        },
      });
      const changed = readAnswer(connection, answer.json, doing, true).properties.changedTime;
      return {
        slot: config.secretParameter,
        ...(changed === undefined || changed === null ? {} : { attributes: { changed } }),
      };
    },

    async probe(cx, version) {
      const seen = await read(cx);
      if (look(seen, [version]).version !== version.id)
        return {
          outcome: "unknown",
          detail: `What the API connection holds cannot be read back, and it was not seen to be ${version.id}.`,
        };
      const link = seen.properties.testLinks?.[0]?.requestUri;
      const own = link !== undefined && link !== null && URL.canParse(link) && isOwn(link, system);
      if (own) {
        const answer = await ask(cx, sessionOf(system), {
          method: "GET",
          url: link,
          resource: system.endpoints.armResource,
          doing: "testing the API connection",
          effect: false,
          needs: reads,
          alsoOk: [400, 401, 403],
        });
        return answer.status < 300
          ? { outcome: "accepted", detail: "The connection's own test passed." }
          : { outcome: "refused", detail: `The connection's own test failed (${answer.status} ${answer.code}).` };
      }
      const states = (seen.properties.statuses ?? []).map((one) => one.status);
      if (states.length > 0 && states.every((one) => one === "Connected"))
        return { outcome: "accepted", detail: "The connection says that it is connected." };
      return { outcome: "unknown", detail: "The connection does not say that it is connected." };
    },
  };
}

/** A token for Azure goes to Azure only, whatever address an answer names. */
function isOwn(link: string, system: MicrosoftSystem): boolean {
  const { origin } = new URL(link);
  return origin === new URL(system.endpoints.arm).origin || origin === new URL(system.endpoints.armResource).origin;
}

/** Of the parameters that Azure shows, the readable ones. */
function strings(values: Readonly<Record<string, unknown>> | null | undefined): Record<string, string> {
  return Object.fromEntries(
    Object.entries(values ?? {}).flatMap(([name, value]) =>
      typeof value === "string" && value !== "" ? [[name, value]] : [],
    ),
  );
}
function wordOf(value: string | null | undefined): string {
  return /^[A-Za-z0-9 _.-]{1,60}$/.test(value ?? "") ? (value ?? "") : "something else";
}
