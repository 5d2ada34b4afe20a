/**
 * The client secrets of an application: Entra makes them, shows each once, and trusts it at once. An entry is known by its key id. One whose key
 * id is not known (adopted from a vault, or made by an attempt whose answer was lost) is known by Keyroll's label, or by its first three
 * characters together with a sign-in that works: neither alone would be enough to remove it.
 */
import type { Entry, Observation } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Issued, Issuer, Place, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import type { Material } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { probeSignIn, signInAs } from "../shared/microsoft/token.ts";
import { applicationsOf, isLabelOf, labelOf } from "./application.ts";
import type { Application, PasswordCredential } from "./application.ts";
import type { PasswordConfig } from "./schema.ts";

export function openPassword(config: PasswordConfig, system: MicrosoftSystem): Place {
  const applications = applicationsOf(system, config);
  /** Sign-ins that named an entry are not repeated with every look: version id -> key id. */
  const named = new Map<string, string>();

  /** The entry that is this version, if it is there. */
  async function entryOf(
    cx: CallContext,
    app: Application,
    version: VersionHandle,
    known: readonly VersionHandle[],
  ): Promise<PasswordCredential | undefined> {
    const slot = version.placement?.slot ?? named.get(version.id);
    if (slot !== undefined) return app.passwords.find((one) => one.keyId === slot);
    const labelled = app.passwords.find((one) => isLabelOf(one.displayName, version.id));
    if (labelled !== undefined) return labelled;
    if (!version.hasMaterial) return undefined;
    const taken = new Set(known.flatMap((one) => (one.placement?.slot === undefined ? [] : [one.placement.slot])));
    const material = await version.open();
    const hint = hintOf(material);
    const alike = app.passwords.filter(
      (one) =>
        hint !== undefined &&
        one.hint === hint &&
        !taken.has(one.keyId) &&
        !(one.displayName ?? "").startsWith("keyroll:"),
    );
    const [only, second] = alike;
    if (only === undefined || second !== undefined) return undefined;
    const answer = await signInAs(cx, system, app.appId, material);
    if (answer.outcome === "refused") return undefined;
    if (answer.outcome === "unknown") {
      // Saying "not there" on a guess could end a rotation with the old secret alive.
      throw new ConnectorError("unavailable", `Entra gave no verdict on ${version.id} (${answer.detail}).`);
    }
    named.set(version.id, only.keyId);
    return only;
  }

  return {
    async observe(cx, known): Promise<Observation> {
      throwIfCancelled(cx);
      const app = await applications.find(cx);
      const versionOf = new Map<string, string>();
      for (const version of known) {
        const found = await entryOf(cx, app, version, known);
        if (found !== undefined && !versionOf.has(found.keyId)) versionOf.set(found.keyId, version.id);
      }
      const entries = app.passwords.map((one): Entry => {
        const version = versionOf.get(one.keyId);
        const endMs = timeOf(one.endDateTime);
        return {
          mark: one.keyId,
          slot: one.keyId,
          enabled: true,
          ...(version === undefined ? {} : { version }),
          ...(endMs === undefined ? {} : { notAfterMs: endMs }),
        };
      });
      const ended = entries.filter((one) => one.notAfterMs !== undefined && one.notAfterMs <= cx.now()).length;
      return {
        entries,
        ...(ended === 0
          ? {}
          : {
              notes: [
                `${ended} client ${ended === 1 ? "secret has" : "secrets have"} expired and ${ended === 1 ? "is" : "are"} still listed.`,
              ],
            }),
      };
    },

    async add(cx, version) {
      throwIfCancelled(cx);
      const app = await applications.find(cx);
      const found = await entryOf(cx, app, version, [version]);
      if (found !== undefined) return { slot: found.keyId };
      if (version.placement?.slot !== undefined) {
        // Reads of Entra lag behind its writes; a secret that was removed cannot come back, and a later look will say so.
        throw new ConnectorError("unavailable", `Entra does not show the client secret of ${version.id} (yet).`);
      }
      throw new ConnectorError(
        "refused",
        `${version.id} is not on the application, and Entra takes no secret that was made elsewhere.`,
        {
          next: "Let Entra make a new one: roll forward.",
        },
      );
    },

    async remove(cx, version) {
      throwIfCancelled(cx);
      const app = await applications.find(cx);
      const found = await entryOf(cx, app, version, [version]);
      if (found !== undefined) await applications.removePassword(cx, app, found.keyId);
    },

    async probe(cx, version) {
      const app = await applications.find(cx);
      return probeSignIn(cx, system, app.appId, await secretOf(version));
    },
  };
}

export function openPasswordIssuer(config: PasswordConfig, system: MicrosoftSystem): Issuer {
  const applications = applicationsOf(system, config);
  return {
    async issue(cx, intent): Promise<Issued> {
      throwIfCancelled(cx);
      const app = await applications.find(cx);
      const label = labelOf(intent.id, intent.tag);
      // An earlier attempt whose answer was lost left a secret that nobody can ever read: it is taken away, so that one intent leaves one.
      for (const orphan of app.passwords.filter((one) => one.displayName === label)) {
        cx.log.info("Removing a client secret of an attempt whose answer was lost.", { keyId: orphan.keyId });
        await applications.removePassword(cx, app, orphan.keyId);
      }
      const made = await applications.addPassword(cx, app, label, cx.now() + config.validity);
      const startMs = timeOf(made.startDateTime);
      const endMs = timeOf(made.endDateTime);
      return {
        facts: {
          ...(startMs === undefined ? {} : { notBeforeMs: startMs }),
          ...(endMs === undefined ? {} : { notAfterMs: endMs }),
          attributes: { appId: app.appId, keyId: made.keyId },
        },
        material: { kind: "secret", value: new Secret(made.secretText) },
        placement: { slot: made.keyId, attributes: { appId: app.appId, keyId: made.keyId } },
      };
    },
  };
}

/** Entra keeps the first three characters in clear, so that people can tell their secrets apart. */
function hintOf(material: Material): string | undefined {
  return material.kind === "secret" ? material.value.reveal().slice(0, 3) : undefined;
}

function timeOf(text: string | null | undefined): number | undefined {
  const time = text === null || text === undefined ? Number.NaN : Date.parse(text);
  return Number.isNaN(time) ? undefined : time;
}

async function secretOf(version: VersionHandle): Promise<Material> {
  const material = await version.open();
  if (material.kind === "secret") return material;
  throw new ConnectorError("misconfigured", `${version.id} is a key, and this place holds client secrets.`, {
    next: "Use entra.certificate for certificates.",
  });
}
