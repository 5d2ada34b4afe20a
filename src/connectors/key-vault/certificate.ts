/**
 * A certificate whose users read the latest version: as a holder it is imported, so that it can be trusted elsewhere before it becomes current
 * here. As an issuer the vault makes it by its own policy, and then it is current before anybody trusts it.
 */
import { randomBytes } from "node:crypto";
import type { X509Certificate } from "node:crypto";
import type {
  CertificatePolicy,
  CertificateProperties,
  KeyVaultCertificateWithPolicy,
} from "@azure/keyvault-certificates";
import type { Entry } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Issued, Issuer, Place, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import type { KeyMaterial } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { askVault, isVaultCode, openVault, promised, vaultNeeds } from "../shared/microsoft/vault.ts";
import type { Vault } from "../shared/microsoft/vault.ts";
import { KeystoreError, readKeystore, writeKeystore } from "../shared/pkcs12.ts";
import {
  certificateOf,
  certificatesOf,
  factsOf,
  keyMatches,
  pemOf,
  PemError,
  pkcs8Of,
  privateKeyOf,
} from "../shared/x509.ts";
import type { CertificateConfig } from "./schema.ts";

const tag = "keyroll";
const tagOfIntent = "keyroll-intent";

const readNeeds = vaultNeeds("Key Vault Certificates Officer", "certificates", ["get", "list"]);
const writeNeeds = vaultNeeds("Key Vault Certificates Officer", "certificates", [
  "get",
  "list",
  "import",
  "create",
  "update",
]);
const secretNeeds = vaultNeeds("Key Vault Secrets User", "secrets", ["get"]);

interface Reader {
  latest(cx: CallContext): Promise<KeyVaultCertificateWithPolicy | null>;
  versions(cx: CallContext): Promise<readonly CertificateProperties[]>;
  /** Key and certificate of one version, read as the secret that lies behind it. */
  material(cx: CallContext, version: string): Promise<KeyMaterial>;
}

function readerOf(vault: Vault, config: CertificateConfig): Reader {
  const reading = { doing: `reading the certificate ${config.name}`, effect: false, needs: readNeeds };
  return {
    async latest(cx) {
      const found = await askVault(cx, vault, reading, async (options) =>
        (await vault.certificates()).getCertificate(config.name, options),
      );
      if (found === null) return null;
      promised(found.properties?.version, reading);
      return found;
    },
    async versions(cx) {
      const found = await askVault(cx, vault, reading, async (options) => {
        const list: CertificateProperties[] = [];
        for await (const one of (await vault.certificates()).listPropertiesOfCertificateVersions(
          config.name,
          options,
        )) {
          promised(one.version, reading);
          list.push(one);
        }
        return list;
      });
      return found ?? [];
    },
    async material(cx, version) {
      const doing = { doing: `reading the key of the certificate ${config.name}`, effect: false, needs: secretNeeds };
      const found = await askVault(cx, vault, doing, async (options) => {
        try {
          return await (await vault.secrets()).getSecret(config.name, { ...options, version });
        } catch (error) {
          if (isVaultCode(error, "SecretDisabled")) return null;
          throw error;
        }
      });
      if (found === null)
        throw new ConnectorError(
          "unavailable",
          `The version ${version} of ${config.name} cannot be read: it is disabled or gone.`,
        );
      return keyMaterialOf(promised(found.value, doing), found.properties?.contentType);
    },
  };
}

const thumbprint = (one: CertificateProperties): string | undefined => {
  const bytes = one.x509Thumbprint;
  return bytes === undefined ? undefined : Buffer.from(bytes).toString("hex");
};
const isEnabled = (one: CertificateProperties): boolean => one.enabled !== false;

export function openCertificate(config: CertificateConfig, system: MicrosoftSystem): Place {
  const vault = openVault(system, config.vault);
  const reader = readerOf(vault, config);
  const writing = { doing: `importing the certificate ${config.name}`, effect: true, needs: writeNeeds };

  return {
    async observe(cx, known) {
      throwIfCancelled(cx);
      const list = await reader.versions(cx);
      const latest = await reader.latest(cx);
      const all = [...list];
      if (latest !== null && !list.some((one) => one.version === latest.properties.version))
        all.push(latest.properties);
      const entries = all.filter(isEnabled).map((one): Entry => {
        const sha1 = thumbprint(one);
        const version = known.find((each) => sha1 !== undefined && each.facts.sha1 === sha1);
        const endMs = one.expiresOn?.getTime();
        return {
          mark: one.version ?? "",
          slot: one.version ?? "",
          enabled: true,
          ...(version === undefined ? {} : { version: version.id }),
          ...(endMs === undefined ? {} : { notAfterMs: endMs }),
        };
      });
      const notes = notesOf(config.name, latest?.policy);
      const current = latest !== null && isEnabled(latest.properties) ? (latest.properties.version ?? null) : null;
      return { entries, current, ...(notes.length === 0 ? {} : { notes }) };
    },

    async activate(cx, version) {
      throwIfCancelled(cx);
      const material = await keyOf(version);
      const latest = await reader.latest(cx);
      if (latest !== null && isEnabled(latest.properties) && thumbprint(latest.properties) === version.facts.sha1)
        return { slot: latest.properties.version ?? "" };
      const password = new Secret(randomBytes(24).toString("base64url"));
      const pfx = writeKeystore({
        key: privateKeyOf(material.privateKey),
        certificates: material.certificates.map((one) => certificateOf(one)),
        password,
        alias: config.name,
      });
      const imported = await askVault(cx, vault, writing, async (options) =>
        (await vault.certificates()).importCertificate(config.name, pfx, {
          ...options,
          enabled: true,
          password: password.reveal(),
          policy: importPolicy(latest?.policy, material),
          tags: { ...latest?.properties.tags, [tag]: version.id },
        }),
      );
      password.wipe();
      return { slot: promised(imported?.properties?.version, writing) };
    },

    async remove(cx, version) {
      throwIfCancelled(cx);
      const list = (await reader.versions(cx)).filter(isEnabled);
      const copies = list.filter((one) => version.facts.sha1 !== undefined && thumbprint(one) === version.facts.sha1);
      if (copies.length === 0) return;
      const latest = await reader.latest(cx);
      if (copies.some((one) => one.version === latest?.properties.version)) {
        throw new ConnectorError(
          "refused",
          `${version.id} is the latest version of the certificate ${config.name}, which its users read.`,
          {
            next: "Give the certificate another version first.",
          },
        );
      }
      const disabling = { ...writing, doing: `disabling an old version of the certificate ${config.name}` };
      for (const one of copies) {
        await askVault(cx, vault, disabling, async (options) =>
          (await vault.certificates()).updateCertificateProperties(config.name, one.version ?? "", {
            ...options,
            enabled: false,
          }),
        );
      }
    },

    async adopt(cx) {
      throwIfCancelled(cx);
      const latest = await reader.latest(cx);
      const version = latest?.properties.version;
      if (latest === null || version === undefined || !isEnabled(latest.properties)) return [];
      const material = await reader.material(cx, version);
      return [{ facts: factsOf(material.certificates[0] ?? ""), material, placement: { slot: version } }];
    },
  };
}

/** How often the vault is asked whether it is finished. */
const pollMs = 1000;

async function finished<T>(
  poller: { pollUntilDone(): Promise<T>; stopPolling(): void },
  signal: AbortSignal,
): Promise<T> {
  const stop = (): void => poller.stopPolling();
  signal.addEventListener("abort", stop, { once: true });
  try {
    return await poller.pollUntilDone();
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

export function openCertificateIssuer(config: CertificateConfig, system: MicrosoftSystem): Issuer {
  const vault = openVault(system, config.vault);
  const reader = readerOf(vault, config);
  const making = { doing: `making a new version of the certificate ${config.name}`, effect: true, needs: writeNeeds };

  /** The version that an attempt before this one made and whose answer was lost. It can be read again, so nothing is lost with the answer. */
  async function madeBefore(cx: CallContext, intentTag: string): Promise<string | undefined> {
    return (await reader.versions(cx)).find((one) => isEnabled(one) && one.tags?.[tagOfIntent] === intentTag)?.version;
  }

  /** Waits for an order that is under way: it may be that of an attempt whose answer was lost, and the vault takes one at a time. */
  async function pending(cx: CallContext): Promise<void> {
    const looking = {
      ...making,
      doing: `waiting for the certificate ${config.name} that is being made`,
      effect: false,
    };
    await askVault(cx, vault, looking, async (options) => {
      const poller = await (
        await vault.certificates()
      ).getCertificateOperation(config.name, {
        ...options,
        intervalInMs: pollMs,
      });
      if (poller.getOperationState().certificateOperation?.status === "inProgress")
        await finished(poller, options.abortSignal);
    });
  }

  async function make(
    cx: CallContext,
    policy: CertificatePolicy,
    tags: Readonly<Record<string, string>>,
  ): Promise<string> {
    const made = await askVault(cx, vault, making, async (options) => {
      const poller = await (
        await vault.certificates()
      ).beginCreateCertificate(config.name, policy, {
        ...options,
        enabled: true,
        tags: { ...tags },
        intervalInMs: pollMs,
      });
      return finished(poller, options.abortSignal);
    });
    return promised(made?.properties?.version, making);
  }

  return {
    async issue(cx, intent): Promise<Issued> {
      throwIfCancelled(cx);
      const latest = await reader.latest(cx);
      const policy = latest?.policy;
      if (policy === undefined) {
        throw new ConnectorError(
          "misconfigured",
          `The vault has no certificate ${config.name} whose policy could be followed.`,
          {
            next: "Make it once in the vault, or let Keyroll make the certificate (x509.self-signed, x509.ca) and import it.",
          },
        );
      }
      if (policy.reuseKey === true) {
        throw new ConnectorError(
          "misconfigured",
          `The policy of ${config.name} reuses the key, so that a new version would rotate nothing.`,
          {
            next: "Turn off reuse of the key in the certificate's issuance policy.",
          },
        );
      }
      if ((await madeBefore(cx, intent.tag)) === undefined) await pending(cx);
      const version =
        (await madeBefore(cx, intent.tag)) ??
        (await make(cx, policy, { ...latest?.properties.tags, [tag]: intent.id, [tagOfIntent]: intent.tag }));
      const material = await reader.material(cx, version);
      return { facts: factsOf(material.certificates[0] ?? ""), material, placement: { slot: version } };
    },
  };
}

/** What a person should know about how the vault itself renews this certificate. */
function notesOf(name: string, policy: CertificatePolicy | undefined): string[] {
  const notes: string[] = [];
  if (policy?.reuseKey === true)
    notes.push(`The policy of ${name} reuses the key: a version that the vault makes by itself keeps the old key.`);
  const renews = policy?.lifetimeActions?.some((one) => one.action === "AutoRenew") ?? false;
  if (renews && policy?.issuerName !== "Unknown") {
    notes.push(
      `The policy of ${name} renews by itself (AutoRenew): such a version is current in the vault before anybody trusts it. Set it to EmailContacts.`,
    );
  }
  return notes;
}

/** What carries over to an import: how the key is handed out. Its renewal stays with Keyroll. */
function importPolicy(before: CertificatePolicy | undefined, material: KeyMaterial): CertificatePolicy {
  const key = privateKeyOf(material.privateKey);
  const details = key.asymmetricKeyDetails ?? {};
  const curves: Readonly<Record<string, "P-256" | "P-384" | "P-521">> = {
    prime256v1: "P-256",
    secp384r1: "P-384",
    secp521r1: "P-521",
  };
  const curve = curves[details.namedCurve ?? ""];
  const leaf = certificateOf(material.certificates[0] ?? "");
  return {
    issuerName: "Unknown",
    subject: leaf.subject.split("\n").toReversed().join(", "),
    contentType: before?.contentType ?? "application/x-pkcs12",
    exportable: before?.exportable ?? true,
    reuseKey: false,
    ...(key.asymmetricKeyType === "rsa"
      ? { keyType: "RSA", ...(details.modulusLength === undefined ? {} : { keySize: details.modulusLength }) }
      : { keyType: "EC", ...(curve === undefined ? {} : { keyCurveName: curve }) }),
  };
}

/** The secret behind a certificate: a PFX without a password, in base64, or PEM. */
function keyMaterialOf(value: string, contentType: string | undefined): KeyMaterial {
  try {
    if (contentType === "application/x-pem-file" || value.includes("-----BEGIN")) {
      const key = privateKeyOf(value);
      const all = certificatesOf(value);
      const leaf = all.find((one) => keyMatches(one, key));
      if (leaf === undefined) throw new PemError("no certificate belongs to the key");
      return {
        kind: "key",
        privateKey: pkcs8Of(key),
        certificates: [leaf, ...all.filter((one) => one !== leaf)].map((one) => pemOf(one)),
      };
    }
    // OpenSSL takes an empty password and none for the same, and forge does not: the vault writes none.
    const store = readKeystore(Buffer.from(value, "base64"), undefined);
    return {
      kind: "key",
      privateKey: pkcs8Of(store.key),
      certificates: store.certificates.map((one: X509Certificate) => pemOf(one)),
    };
  } catch (error) {
    if (!(error instanceof KeystoreError || error instanceof PemError)) throw error;
    throw new ConnectorError(
      "unavailable",
      `What the vault holds for the certificate cannot be read: ${error.message}.`,
    );
  }
}

async function keyOf(version: VersionHandle): Promise<KeyMaterial> {
  const material = await version.open();
  if (material.kind !== "key" || material.certificates.length === 0) {
    throw new ConnectorError(
      "misconfigured",
      `${version.id} is no certificate with its key, and this place holds one.`,
      {
        next: "Use key-vault.secret for texts.",
      },
    );
  }
  return material;
}
