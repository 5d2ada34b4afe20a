/** One application registration: found, read, written. https://learn.microsoft.com/graph/api/resources/application */
import { createHash } from "node:crypto";
import { z } from "zod";
import { ConnectorError } from "../connector.ts";
import type { CallContext } from "../connector.ts";
import { ask, sessionOf } from "../shared/microsoft/session.ts";
import type { Answer, Needs } from "../shared/microsoft/session.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";

const time = z.iso.datetime({ offset: true }).nullish();

const passwordCredential = z.looseObject({
  keyId: z.string(),
  displayName: z.string().nullish(),
  hint: z.string().nullish(),
  endDateTime: time,
  startDateTime: time,
});
export type PasswordCredential = z.infer<typeof passwordCredential>;

/** Kept loose: what came is what is sent back. */
const keyCredential = z.looseObject({
  keyId: z.string(),
  displayName: z.string().nullish(),
  customKeyIdentifier: z.string().nullish(),
  key: z.string().nullish(),
  type: z.string().nullish(),
  usage: z.string().nullish(),
  endDateTime: time,
  startDateTime: time,
});
export type KeyCredential = z.infer<typeof keyCredential>;

const application = z.looseObject({
  id: z.string(),
  appId: z.string(),
  displayName: z.string().nullish(),
  passwordCredentials: z.array(passwordCredential).nullish(),
  keyCredentials: z.array(keyCredential).nullish(),
});

export interface Application {
  /** Object id. */
  readonly id: string;
  readonly appId: string;
  readonly passwords: readonly PasswordCredential[];
  readonly keys: readonly KeyCredential[];
}

const created = passwordCredential.extend({ secretText: z.string().min(1) });
export type CreatedPassword = z.infer<typeof created>;

export const reads: Needs = {
  permission: "Application.Read.All",
  next: "Grant Keyroll's application the Graph application permission Application.Read.All, or Application.ReadWrite.OwnedBy and ownership, with admin consent.",
};
export const writes: Needs = {
  permission: "Application.ReadWrite.OwnedBy",
  next: "Grant Keyroll's application the Graph application permission Application.ReadWrite.OwnedBy and make its service principal an owner of this application; or grant Application.ReadWrite.All.",
};

export interface Which {
  readonly appId?: string | undefined;
  readonly namePrefix?: string | undefined;
}

const selected = "id,appId,displayName,passwordCredentials,keyCredentials";

export interface Applications {
  /** Throws `misconfigured` when there is not exactly one. */
  find(cx: CallContext): Promise<Application>;
  addPassword(cx: CallContext, app: Application, displayName: string, endMs: number): Promise<CreatedPassword>;
  /** Already gone is success. */
  removePassword(cx: CallContext, app: Application, keyId: string): Promise<void>;
  /** Replaces the whole array. */
  putKeys(cx: CallContext, app: Application, keys: readonly object[]): Promise<void>;
}

export function applicationsOf(system: MicrosoftSystem, which: Which): Applications {
  const { graph } = system.endpoints;
  const session = sessionOf(system);
  /** Known after the first look; reading one by its id is cheaper, and shows the certificates' public keys. */
  let objectId: string | undefined;

  async function graphAsk(
    cx: CallContext,
    method: "GET" | "POST" | "PATCH",
    path: string,
    more: { body?: unknown; doing: string; needs: Needs; alsoOk?: readonly number[] },
  ): Promise<Answer> {
    return ask(cx, session, {
      method,
      url: `${graph}/v1.0${path}`,
      resource: system.endpoints.graphResource,
      effect: method !== "GET",
      ...more,
    });
  }

  async function search(cx: CallContext): Promise<string> {
    // OData doubles a quote inside a text.
    const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`;
    const filter =
      which.appId === undefined
        ? `startswith(displayName,${quoted(which.namePrefix ?? "")})`
        : `appId eq ${quoted(which.appId)}`;
    const answer = await graphAsk(
      cx,
      "GET",
      `/applications?$filter=${encodeURIComponent(filter)}&$select=${selected}`,
      {
        doing: "looking for the application",
        needs: reads,
      },
    );
    const list = parse(
      z.looseObject({ value: z.array(application) }),
      answer.json,
      "looking for the application",
      false,
    );
    const wanted = which.appId ?? `a name that begins with ${which.namePrefix}`;
    if (list.value.length === 0) {
      throw new ConnectorError(
        "misconfigured",
        `There is no application with ${which.appId === undefined ? "" : "the id "}${wanted}.`,
        {
          next: "Correct appId or namePrefix, or the system's tenant.",
        },
      );
    }
    if (list.value.length > 1) {
      throw new ConnectorError(
        "misconfigured",
        `${list.value.length} applications have ${wanted}; Keyroll changes none of them.`,
        {
          next: "Name the one that is meant by its appId.",
        },
      );
    }
    return list.value[0]!.id;
  }

  return {
    async find(cx) {
      objectId ??= await search(cx);
      const doing = "reading the application";
      const answer = await graphAsk(cx, "GET", `/applications/${encodeURIComponent(objectId)}?$select=${selected}`, {
        doing,
        needs: reads,
      });
      const app = parse(application, answer.json, doing, false);
      return { id: app.id, appId: app.appId, passwords: app.passwordCredentials ?? [], keys: app.keyCredentials ?? [] };
    },
    async addPassword(cx, app, displayName, endMs) {
      const doing = "adding a client secret";
      const answer = await graphAsk(cx, "POST", `/applications/${encodeURIComponent(app.id)}/addPassword`, {
        body: { passwordCredential: { displayName, endDateTime: new Date(endMs).toISOString() } },
        doing,
        needs: writes,
        alsoOk: [400],
      });
      if (answer.status === 400) {
        throw new ConnectorError(
          "refused",
          `Entra refused the new client secret (400 ${answer.code}).`.replace(" )", ")"),
          {
            next: "If the tenant has an application management policy, shorten validity to what it allows, or except this application from it.",
          },
        );
      }
      return parse(created, answer.json, doing, true);
    },
    async removePassword(cx, app, keyId) {
      const answer = await graphAsk(cx, "POST", `/applications/${encodeURIComponent(app.id)}/removePassword`, {
        body: { keyId },
        doing: "removing a client secret",
        needs: writes,
        alsoOk: [400, 404],
      });
      if (answer.status < 300) return;
      const now = await this.find(cx);
      if (!now.passwords.some((one) => one.keyId === keyId)) return;
      // Reads lag behind writes: what was removed a moment ago may still be listed, and the next look tells.
      throw new ConnectorError(
        "conflict",
        `Entra does not remove the client secret ${keyId} and still lists it (${answer.status} ${answer.code}).`,
      );
    },
    async putKeys(cx, app, keys) {
      await graphAsk(cx, "PATCH", `/applications/${encodeURIComponent(app.id)}`, {
        body: { keyCredentials: keys },
        doing: "writing the application's certificates",
        needs: writes,
      });
    },
  };
}

function parse<T>(schema: z.ZodType<T>, json: unknown, doing: string, effect: boolean): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  throw new ConnectorError(
    effect ? "unknown-outcome" : "unavailable",
    `The answer was not what Graph promises, while ${doing}.`,
  );
}

/**
 * What Keyroll writes where people see it: the version's id, and enough of the tag to find an attempt whose answer was lost. Graph takes about
 * ninety characters.
 */
export function labelOf(id: string, tag: string): string {
  return `keyroll:${shortId(id)} ${createHash("sha256").update(tag).digest("hex").slice(0, 16)}`;
}
function shortId(id: string): string {
  return id.length <= 60 ? id : `${createHash("sha256").update(id).digest("hex").slice(0, 16)}${id.slice(-40)}`;
}
/** Whether Keyroll made this entry for the version. */
export function isLabelOf(displayName: string | null | undefined, id: string): boolean {
  return (displayName ?? "").startsWith(`keyroll:${shortId(id)} `);
}
