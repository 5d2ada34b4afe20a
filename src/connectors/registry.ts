/**
 * Every connector that ships with Keyroll, one line each. A new connector adds its import and its line here, and nothing else anywhere.
 * The estate loader takes a registry as a parameter, so that tests and users of the package can bring their own.
 */
import type { IssuerConnector, PlaceConnector, SystemType } from "./connector.ts";
import { apiConnection } from "./api-connection/connector.ts";
import { automationVariable } from "./automation/connector.ts";
import { command } from "./command/connector.ts";
import { entraCertificate, entraPassword, entraPasswordIssuer } from "./entra/connector.ts";
import { fileCertificate, fileValue } from "./file/connector.ts";
import { keyVaultCertificate, keyVaultCertificateIssuer, keyVaultSecret } from "./key-vault/connector.ts";
import { manual } from "./manual/connector.ts";
import { microsoftSystem } from "./microsoft/connector.ts";
import { postgresRole, postgresServerTls, postgresSystem } from "./postgres/connector.ts";
import { random } from "./random/connector.ts";
import { sshCommand, sshFile, sshSystem } from "./ssh/connector.ts";
import { tlsEndpoint } from "./tls/connector.ts";
import { x509Ca, x509SelfSigned } from "./x509/connector.ts";

/** Where versions live: `type` of a place in `keyroll.yaml`. */
const places: readonly PlaceConnector[] = [
  apiConnection,
  automationVariable,
  command,
  entraCertificate,
  entraPassword,
  fileCertificate,
  fileValue,
  keyVaultCertificate,
  keyVaultSecret,
  manual,
  postgresRole,
  postgresServerTls,
  sshCommand,
  sshFile,
  tlsEndpoint,
];

/** What makes versions: `type` of an issuer. */
const issuers: readonly IssuerConnector[] = [
  entraPasswordIssuer,
  keyVaultCertificateIssuer,
  random,
  x509Ca,
  x509SelfSigned,
];

/** What is connected to: `type` of a system. */
const systems: readonly SystemType[] = [microsoftSystem, postgresSystem, sshSystem];

export interface Registry {
  readonly places: readonly PlaceConnector[];
  readonly issuers: readonly IssuerConnector[];
  readonly systems: readonly SystemType[];
  placeConnector(type: string): PlaceConnector | undefined;
  issuerConnector(type: string): IssuerConnector | undefined;
  systemType(type: string): SystemType | undefined;
}

/** Throws when two of a family share a type, or a connector needs a type of system that is not there: both are mistakes of the programmer. */
export function createRegistry(parts: Partial<Pick<Registry, "places" | "issuers" | "systems">>): Registry {
  const placeByType = byType("place", parts.places ?? []);
  const issuerByType = byType("issuer", parts.issuers ?? []);
  const systemByType = byType("system", parts.systems ?? []);
  for (const connector of [...placeByType.values(), ...issuerByType.values()]) {
    if (connector.systemType !== undefined && !systemByType.has(connector.systemType)) {
      throw new Error(
        `Connector ${connector.type} needs the system type ${connector.systemType}, which is not registered.`,
      );
    }
  }
  return {
    places: [...placeByType.values()],
    issuers: [...issuerByType.values()],
    systems: [...systemByType.values()],
    placeConnector: (type) => placeByType.get(type),
    issuerConnector: (type) => issuerByType.get(type),
    systemType: (type) => systemByType.get(type),
  };
}

function byType<T extends { readonly type: string }>(family: string, entries: readonly T[]): Map<string, T> {
  const found = new Map<string, T>();
  for (const entry of entries) {
    if (found.has(entry.type)) throw new Error(`Two ${family} connectors are called ${entry.type}.`);
    found.set(entry.type, entry);
  }
  return found;
}

/** Made on first use, so that a mistake in one connector is reported by the command that needs it, with its stack, and not while importing. */
let shipped: Registry | undefined;
export function shippedRegistry(): Registry {
  shipped ??= createRegistry({ places, issuers, systems });
  return shipped;
}

export function placeConnector(type: string): PlaceConnector | undefined {
  return shippedRegistry().placeConnector(type);
}
export function issuerConnector(type: string): IssuerConnector | undefined {
  return shippedRegistry().issuerConnector(type);
}
export function systemType(type: string): SystemType | undefined {
  return shippedRegistry().systemType(type);
}
