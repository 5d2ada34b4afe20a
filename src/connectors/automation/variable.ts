/**
 * An encrypted variable of an Automation account: one slot, which only runbooks can read. What is there is told by a line of Keyroll's in the
 * description and the time of the last change. A variable that is not encrypted is readable, and is said to be.
 */
import { z } from "zod";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { armOf, readAnswer, readStamp, stampOf, textOf, withStamp } from "../shared/microsoft/arm.ts";
import type { Needs } from "../shared/microsoft/session.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import type { VariableConfig } from "./schema.ts";

const apiVersion = "2023-11-01";

const variable = z.looseObject({
  properties: z.looseObject({
    isEncrypted: z.boolean().nullish(),
    lastModifiedTime: z.string().nullish(),
    description: z.string().nullish(),
  }),
});
type Variable = z.infer<typeof variable>;

const reads: Needs = {
  permission: "Microsoft.Automation/automationAccounts/variables/read",
  next: "Give Keyroll's application the role Automation Contributor on the account, or one with Microsoft.Automation/automationAccounts/variables/*.",
};
const writes: Needs = { ...reads, permission: "Microsoft.Automation/automationAccounts/variables/write" };

export function openVariable(config: VariableConfig, system: MicrosoftSystem): Place {
  const arm = armOf(system, config);
  const path = ["Microsoft.Automation", "automationAccounts", config.account, "variables", config.name];

  /** `null`: there is none yet. */
  async function read(cx: CallContext): Promise<Variable | null> {
    const doing = `reading the Automation variable ${config.name}`;
    const answer = await arm.ask(cx, { method: "GET", path, apiVersion, doing, needs: reads, alsoOk: [404] });
    if (answer.status === 404) {
      // The account itself not being there is a mistake in the settings, and no empty variable.
      if (
        ["ResourceGroupNotFound", "ResourceNotFound", "SubscriptionNotFound", "ParentResourceNotFound"].includes(
          answer.code,
        )
      ) {
        throw new ConnectorError(
          "misconfigured",
          `The Automation account ${config.account} was not found (${answer.code}).`,
          {
            next: "Check subscription, resourceGroup and account.",
          },
        );
      }
      return null;
    }
    return readAnswer(variable, answer.json, doing, false);
  }

  function recognise(seen: Variable, known: readonly VersionHandle[]) {
    return readStamp(seen.properties.description ?? "", seen.properties.lastModifiedTime ?? undefined, known);
  }

  return {
    async observe(cx, known) {
      throwIfCancelled(cx);
      const seen = await read(cx);
      if (seen === null) return { entries: [], current: null };
      const { version, told } = recognise(seen, known);
      const mark = `changed ${seen.properties.lastModifiedTime ?? "at an unknown time"}`;
      const open = seen.properties.isEncrypted === false;
      return {
        entries: [
          { mark, slot: config.name, enabled: true, ...(version === undefined ? {} : { version: version.id }) },
        ],
        ...(told ? { current: mark } : {}),
        ...(open
          ? {
              notes: [
                `The Automation variable ${config.name} is not encrypted, and Azure cannot encrypt it afterwards: make it anew as an encrypted one.`,
              ],
            }
          : {}),
      };
    },

    async activate(cx, version) {
      throwIfCancelled(cx);
      // Automation keeps values as JSON: a text is written with its quotes.
      const value = JSON.stringify(await textOf(version, "an Automation variable holds a text"));
      const before = await read(cx);
      if (before !== null && recognise(before, [version]).version !== undefined) return placed(before);
      const description = withStamp(before?.properties.description ?? "", stampOf(version, cx.now()));
      const doing = `writing the Automation variable ${config.name}`;
      const answer = await arm.ask(cx, {
        method: before === null ? "PUT" : "PATCH",
        path,
        apiVersion,
        doing,
        needs: writes,
        body: {
          name: config.name,
          properties: { value, description, ...(before === null ? { isEncrypted: true } : {}) },
        },
      });
      return placed(readAnswer(variable, answer.json, doing, true));
    },
  };

  function placed(seen: Variable): { slot: string; attributes?: Readonly<Record<string, string>> } {
    const changed = seen.properties.lastModifiedTime;
    return { slot: config.name, ...(changed === undefined || changed === null ? {} : { attributes: { changed } }) };
  }
}
