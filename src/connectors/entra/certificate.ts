/**
 * The certificates of an application. Graph replaces the whole list with every write and knows no conditional write for it, so each write begins
 * with a fresh look, sends back everything that was there as it came, and changes one entry. Only the public certificate goes there.
 */
import { createHash } from "node:crypto";
import type { Entry, VersionFacts } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { Place, VersionHandle } from "../connector.ts";
import type { KeyMaterial } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import type { MicrosoftSystem } from "../shared/microsoft/system.ts";
import { thumbprintOf } from "../shared/microsoft/thumbprint.ts";
import { isRsa, probeSignIn } from "../shared/microsoft/token.ts";
import { certificateOf, fingerprintOf } from "../shared/x509.ts";
import { applicationsOf, isLabelOf, labelOf } from "./application.ts";
import type { Application, KeyCredential } from "./application.ts";
import type { CertificateConfig } from "./schema.ts";

/** Another writer can come between a look and a write; then the entry is missing from the next look. */
const looksAfterWrite = 3;

export function openCertificate(config: CertificateConfig, system: MicrosoftSystem): Place {
  const applications = applicationsOf(system, config);

  const find = (app: Application, version: VersionHandle): KeyCredential | undefined =>
    app.keys.find((one) => isVersion(one, version.facts));

  /** What is there, as Graph wants it back: the same key id, and no key. */
  const kept = (app: Application, without?: string): object[] =>
    app.keys.filter((one) => one.keyId !== without).map((one) => ({ ...one, key: null }));

  return {
    async observe(cx, known) {
      throwIfCancelled(cx);
      const app = await applications.find(cx);
      const notes: string[] = [];
      const entries = app.keys.map((one): Entry => {
        const version = known.find((each) => isVersion(one, each.facts));
        const endMs = timeOf(one.endDateTime);
        return {
          mark: one.keyId,
          slot: one.keyId,
          // Entra also lists keys that encrypt tokens or sign for the application; only `Verify` lets it in.
          enabled: one.usage === undefined || one.usage === null || one.usage === "Verify",
          ...(version === undefined ? {} : { version: version.id }),
          ...(endMs === undefined ? {} : { notAfterMs: endMs }),
        };
      });
      const expired = entries.filter((one) => one.notAfterMs !== undefined && one.notAfterMs <= cx.now()).length;
      if (expired > 0)
        notes.push(
          `${expired} certificate${expired === 1 ? "" : "s"} of the application ${expired === 1 ? "has" : "have"} expired and ${expired === 1 ? "is" : "are"} still listed.`,
        );
      return { entries, ...(notes.length === 0 ? {} : { notes }) };
    },

    async add(cx, version) {
      throwIfCancelled(cx);
      const der = await leafOf(version);
      const app = await applications.find(cx);
      const found = find(app, version);
      if (found !== undefined) return slotOf(app, found);
      const certificate = certificateOf(der);
      await applications.putKeys(cx, app, [
        ...kept(app),
        {
          type: "AsymmetricX509Cert",
          usage: "Verify",
          displayName: labelOf(version.id, version.facts.fingerprint),
          key: der.toString("base64"),
          startDateTime: certificate.validFromDate.toISOString(),
          endDateTime: certificate.validToDate.toISOString(),
        },
      ]);
      for (let look = 0; look < looksAfterWrite; look++) {
        const after = await applications.find(cx);
        const mine = find(after, version);
        if (mine !== undefined) return slotOf(after, mine);
      }
      throw new ConnectorError(
        "unknown-outcome",
        `Entra took the certificate of ${version.id} and does not show it (yet).`,
        {
          next: "Look before anything is repeated.",
        },
      );
    },

    async remove(cx, version) {
      throwIfCancelled(cx);
      const app = await applications.find(cx);
      const found = find(app, version) ?? lost(app, version);
      if (found === undefined) return;
      await applications.putKeys(cx, app, kept(app, found.keyId));
    },

    async probe(cx, version) {
      const material = await keyOf(version);
      const app = await applications.find(cx);
      return probeSignIn(cx, system, app.appId, material);
    },
  };

  /** A version without facts (made, and lost before it was sealed) has nothing but its label. */
  function lost(app: Application, version: VersionHandle): KeyCredential | undefined {
    return version.facts.sha1 === undefined && version.facts.publicKeySha256 === undefined
      ? app.keys.find((one) => isLabelOf(one.displayName, version.id))
      : undefined;
  }
}

const slotOf = (app: Application, one: KeyCredential) => ({ slot: one.keyId, attributes: { appId: app.appId } });

/** By the certificate itself where Graph shows it, else by its SHA-1 thumbprint. */
function isVersion(entry: KeyCredential, facts: VersionFacts): boolean {
  if (typeof entry.key === "string" && entry.key !== "") {
    try {
      return fingerprintOf(Buffer.from(entry.key, "base64")) === facts.fingerprint;
    } catch {
      // Not a certificate: somebody put a bare public key there.
      return createHash("sha256").update(Buffer.from(entry.key, "base64")).digest("hex") === facts.publicKeySha256;
    }
  }
  return facts.sha1 !== undefined && thumbprintOf(entry.customKeyIdentifier) === facts.sha1;
}

function timeOf(text: string | null | undefined): number | undefined {
  const time = text === null || text === undefined ? Number.NaN : Date.parse(text);
  return Number.isNaN(time) ? undefined : time;
}

async function keyOf(version: VersionHandle): Promise<KeyMaterial> {
  const material = await version.open();
  if (material.kind !== "key" || material.certificates.length === 0) {
    throw new ConnectorError("misconfigured", `${version.id} is no certificate, and this place trusts certificates.`, {
      next: "Use entra.password for client secrets.",
    });
  }
  if (!isRsa(material.privateKey)) {
    throw new ConnectorError(
      "misconfigured",
      `${version.id} has no RSA key, and Entra takes signatures of RSA keys only.`,
      {
        next: "Write key: rsa-3072 in the credential's issuer.",
      },
    );
  }
  return material;
}
async function leafOf(version: VersionHandle): Promise<Buffer> {
  return certificateOf((await keyOf(version)).certificates[0] ?? "").raw;
}
