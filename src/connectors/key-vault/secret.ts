/**
 * A secret whose users read the latest version. A version is immutable, so that what was seen in it once stays true: its value is compared with
 * the known ones and then remembered by its version id. Setting a value takes over neither content type nor tags nor expiry, so they are carried
 * over here.
 */
import { createHmac, randomBytes } from "node:crypto";
import type { SecretProperties } from "@azure/keyvault-secrets";
import type { Entry } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { askVault, isVaultCode, openVault, promised, vaultNeeds } from "../shared/microsoft/vault.ts";
import type { SecretConfig } from "./schema.ts";

const tag = "keyroll";
/** Older versions than these are of no use to anybody who is still to be found; each costs a request when it is first seen. */
const mostRead = 24;

const readNeeds = vaultNeeds("Key Vault Secrets Officer", "secrets", ["get", "list"]);
const writeNeeds = vaultNeeds("Key Vault Secrets Officer", "secrets", ["get", "list", "set"]);

interface Latest {
  readonly version: string;
  readonly value: string;
  readonly properties: SecretProperties;
}

export function openSecret(config: SecretConfig, system: MicrosoftSystem): Place {
  const vault = openVault(system, config.vault);
  // Keyed and for this process only: good for comparing, and for nothing else.
  const key = randomBytes(32);
  const digestOf = (value: string): string => createHmac("sha256", key).update(value).digest("base64");
  const digests = new Map<string, string>();
  const reading = { doing: `reading the secret ${config.name}`, effect: false, needs: readNeeds };
  const writing = { doing: `setting the secret ${config.name}`, effect: true, needs: writeNeeds };

  /** `null`: there is none that can be read; the latest may be disabled. */
  async function latest(cx: CallContext): Promise<Latest | null> {
    const found = await askVault(cx, vault, reading, async (options) => {
      try {
        return await (await vault.secrets()).getSecret(config.name, options);
      } catch (error) {
        if (isVaultCode(error, "SecretDisabled")) return "disabled";
        throw error;
      }
    });
    if (found === null || found === "disabled") return null;
    const version = promised(found.properties?.version, reading);
    const value = promised(found.value, reading);
    digests.set(version, digestOf(value));
    return { version, value, properties: found.properties };
  }

  /** Newest first. */
  async function versions(cx: CallContext): Promise<readonly SecretProperties[]> {
    const found = await askVault(cx, vault, reading, async (options) => {
      const list: SecretProperties[] = [];
      for await (const one of (await vault.secrets()).listPropertiesOfSecretVersions(config.name, options)) {
        promised(one.version, reading);
        list.push(one);
      }
      return list;
    });
    const time = (one: SecretProperties): number => one.createdOn?.getTime() ?? 0;
    return (found ?? []).toSorted((a, b) => time(b) - time(a));
  }

  /** Learns the values of enabled versions that were not seen yet. */
  async function learn(cx: CallContext, list: readonly SecretProperties[]): Promise<void> {
    for (const one of list.slice(0, mostRead)) {
      const version = one.version ?? "";
      if (digests.has(version)) continue;
      const found = await askVault(cx, vault, reading, async (options) => {
        try {
          return await (await vault.secrets()).getSecret(config.name, { ...options, version });
        } catch (error) {
          // Disabled since it was listed.
          if (isVaultCode(error, "SecretDisabled")) return null;
          throw error;
        }
      });
      if (found !== null) digests.set(version, digestOf(promised(found.value, reading)));
    }
  }

  const enabledOf = (list: readonly SecretProperties[]): readonly SecretProperties[] =>
    list.filter((one) => one.enabled !== false);

  /** Ids of the vault's enabled versions that hold this one. */
  async function copiesOf(list: readonly SecretProperties[], version: VersionHandle): Promise<readonly string[]> {
    const digest = version.hasMaterial ? digestOf(await valueOf(version)) : undefined;
    return list.flatMap((one) => {
      const id = one.version ?? "";
      const seen = digests.get(id);
      const same = digest !== undefined && seen !== undefined ? seen === digest : id === version.placement?.slot;
      return same ? [id] : [];
    });
  }

  return {
    async observe(cx, known) {
      throwIfCancelled(cx);
      const list = await versions(cx);
      const now = await latest(cx);
      const enabled = enabledOf(list);
      await learn(cx, enabled);
      const owner = new Map<string, string>();
      for (const version of known) for (const id of await copiesOf(enabled, version)) owner.set(id, version.id);
      const entries = enabled.map((one): Entry => {
        const id = one.version ?? "";
        const version = owner.get(id);
        const endMs = one.expiresOn?.getTime();
        return {
          mark: id,
          slot: id,
          enabled: true,
          ...(version === undefined ? {} : { version }),
          ...(endMs === undefined ? {} : { notAfterMs: endMs }),
        };
      });
      // A list that lags behind the latest version: it is there, whatever the list says.
      if (now !== null && !entries.some((one) => one.mark === now.version)) {
        const found: string[] = [];
        for (const version of known) if ((await copiesOf([now.properties], version)).length > 0) found.push(version.id);
        entries.push({
          mark: now.version,
          slot: now.version,
          enabled: true,
          ...(found[0] === undefined ? {} : { version: found[0] }),
        });
      }
      const notes: string[] = [];
      if (now === null && list.length > 0)
        notes.push(`The latest version of ${config.name} is disabled: whoever reads it gets nothing.`);
      if (now?.properties.expiresOn !== undefined && now.properties.expiresOn.getTime() <= cx.now())
        notes.push(`The latest version of ${config.name} has expired.`);
      return { entries, current: now?.version ?? null, ...(notes.length === 0 ? {} : { notes }) };
    },

    async activate(cx, version) {
      throwIfCancelled(cx);
      const value = await valueOf(version);
      const now = await latest(cx);
      if (now !== null && now.value === value) return { slot: now.version };
      // A disabled latest version still says what it was.
      const before = now?.properties ?? (await versions(cx))[0];
      const expires = expiryOf(config, version, before, cx.now());
      const contentType = config.contentType ?? before?.contentType;
      const set = await askVault(cx, vault, writing, async (options) =>
        (await vault.secrets()).setSecret(config.name, value, {
          ...options,
          enabled: true,
          tags: { ...before?.tags, [tag]: version.id },
          ...(contentType === undefined ? {} : { contentType }),
          ...(expires === undefined ? {} : { expiresOn: expires }),
        }),
      );
      const id = promised(set?.properties?.version, writing);
      digests.set(id, digestOf(value));
      return { slot: id };
    },

    async remove(cx, version) {
      throwIfCancelled(cx);
      const enabled = enabledOf(await versions(cx));
      await learn(cx, enabled);
      const copies = await copiesOf(enabled, version);
      if (copies.length === 0) return;
      const now = await latest(cx);
      if (now !== null && copies.includes(now.version)) {
        throw new ConnectorError(
          "refused",
          `${version.id} is the latest version of the secret ${config.name}, which its users read.`,
          {
            next: "Give the secret another version first.",
          },
        );
      }
      const disabling = { ...writing, doing: `disabling an old version of the secret ${config.name}` };
      for (const id of copies) {
        await askVault(cx, vault, disabling, async (options) =>
          (await vault.secrets()).updateSecretProperties(config.name, id, { ...options, enabled: false }),
        );
      }
    },

    async adopt(cx) {
      throwIfCancelled(cx);
      const now = await latest(cx);
      if (now === null) return [];
      const { createdOn, expiresOn } = now.properties;
      return [
        {
          facts: {
            ...(createdOn === undefined ? {} : { notBeforeMs: createdOn.getTime() }),
            ...(expiresOn === undefined ? {} : { notAfterMs: expiresOn.getTime() }),
          },
          material: { kind: "secret", value: new Secret(now.value) },
          placement: { slot: now.version },
        },
      ];
    },
  };
}

function expiryOf(
  config: SecretConfig,
  version: VersionHandle,
  before: SecretProperties | undefined,
  nowMs: number,
): Date | undefined {
  const ends = version.facts.notAfterMs;
  if (config.validity !== undefined)
    return new Date(Math.min(nowMs + config.validity, ends ?? Number.POSITIVE_INFINITY));
  if (ends !== undefined) return new Date(ends);
  const { createdOn, expiresOn } = before ?? {};
  if (createdOn === undefined || expiresOn === undefined) return undefined;
  return new Date(nowMs + Math.max(0, expiresOn.getTime() - createdOn.getTime()));
}

async function valueOf(version: VersionHandle): Promise<string> {
  const material = await version.open();
  if (material.kind !== "secret") {
    throw new ConnectorError("misconfigured", `${version.id} is a key, and this place holds a text.`, {
      next: "Use key-vault.certificate for certificates.",
    });
  }
  const value = material.value.reveal();
  if (!material.value.bytes().equals(Buffer.from(value, "utf8")) || Buffer.byteLength(value) > 25_600) {
    throw new ConnectorError(
      "misconfigured",
      `${version.id} is longer than 25 KiB or no UTF-8 text, which Key Vault cannot hold.`,
    );
  }
  return value;
}
