/** Key Vault through its official SDK, with the retries left to Keyroll, and what its answers mean. */
import type { CertificateClient } from "@azure/keyvault-certificates";
import type { SecretClient } from "@azure/keyvault-secrets";
import { z } from "zod";
import { ConnectorError } from "../../connector.ts";
import type { CallContext } from "../../connector.ts";
import { throwIfCancelled } from "../calls.ts";
import { field, networkFailure, retryAfterMs, sessionOf, signInCode, signInFailure, statusFailure } from "./session.ts";
import type { Needs } from "./session.ts";
import type { MicrosoftSystem } from "./system.ts";

/** A vault's name, or its whole address where it is a private one. */
export const vaultSchema = z
  .string()
  .refine(
    (text) =>
      /^[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9]$/.test(text) ||
      (URL.canParse(text) && new URL(text).protocol === "https:"),
    "is a vault's name, or its address that begins with https://",
  )
  .describe("The vault's name, or its address.");
/** https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#object-identifiers */
export const objectName = z
  .string()
  .regex(/^[A-Za-z0-9-]{1,127}$/, "has letters, digits and hyphens, and at most 127 of them");

export interface Vault {
  secrets(): Promise<SecretClient>;
  certificates(): Promise<CertificateClient>;
  readonly system: MicrosoftSystem;
}

export function openVault(system: MicrosoftSystem, vault: string): Vault {
  const session = sessionOf(system);
  const { vaultSuffix } = system.endpoints;
  const url = vault.startsWith("https://") ? vault.replace(/\/+$/, "") : `https://${vault}.${vaultSuffix}`;
  const options = {
    // Each request and each repetition must be seen by the engine: it counts, waits and looks before it repeats.
    retryOptions: { maxRetries: 0 },
    tlsOptions: session.tls,
    serviceVersion: "7.5",
    // The check holds the token's audience against the vault's domain. A vault at an address of its own has no such domain, and is one the
    // user wrote down.
    disableChallengeResourceVerification: !new URL(url).hostname.endsWith(`.${vaultSuffix}`),
  } as const;
  let secrets: Promise<SecretClient> | undefined;
  let certificates: Promise<CertificateClient> | undefined;
  return {
    system,
    secrets() {
      secrets ??= import("@azure/keyvault-secrets").then(
        (sdk) => new sdk.SecretClient(url, session.credential, options),
      );
      return secrets;
    },
    certificates() {
      certificates ??= import("@azure/keyvault-certificates").then(
        (sdk) => new sdk.CertificateClient(url, session.credential, options),
      );
      return certificates;
    },
  };
}

export interface VaultAsk {
  /** Completes "while …" in messages. */
  readonly doing: string;
  readonly effect: boolean;
  readonly needs: Needs;
}

/** What every call of the SDK is given. */
export interface SdkOptions {
  readonly abortSignal: AbortSignal;
  readonly requestOptions: { readonly timeout: number };
}

/** Runs one call of the SDK. `null` stands for 404. Every failure is a {@link ConnectorError}. */
export async function askVault<T>(
  cx: CallContext,
  vault: Vault,
  what: VaultAsk,
  body: (options: SdkOptions) => Promise<T>,
): Promise<T | null> {
  throwIfCancelled(cx);
  await cx.throttle();
  throwIfCancelled(cx);
  try {
    return await body({ abortSignal: cx.signal, requestOptions: { timeout: vault.system.requestTimeoutMs } });
  } catch (error) {
    if (statusOf(error) === 404 && codesOf(error).length > 0) return null;
    throw vaultFailure(error, vault.system, what, cx.now());
  }
}

function statusOf(error: unknown): number {
  const status = field(error, "statusCode");
  return typeof status === "number" ? status : 0;
}
/** Outer and inner error codes, such as `Forbidden` and `ForbiddenByRbac`. */
function codesOf(error: unknown): readonly string[] {
  const found: string[] = [];
  const add = (code: unknown): void => {
    if (typeof code === "string" && /^[A-Za-z][A-Za-z0-9]{2,60}$/.test(code)) found.push(code);
  };
  const details = field(error, "details");
  const inner = field(details, "error") ?? details;
  add(field(inner, "code") ?? field(error, "code"));
  add(field(field(inner, "innererror") ?? field(inner, "innerError"), "code"));
  return found;
}
/** Whether the error is this one; the version in question is disabled, for instance. */
export function isVaultCode(error: unknown, code: string): boolean {
  return codesOf(error).includes(code);
}

function vaultFailure(error: unknown, system: MicrosoftSystem, what: VaultAsk, nowMs: number): ConnectorError {
  if (error instanceof ConnectorError) return error;
  const { doing, effect } = what;
  const name = error instanceof Error ? error.name : "";
  if (name === "AuthenticationError" || name === "CredentialUnavailableError" || signInCode(error) !== "")
    return signInFailure(error, system);
  const codes = codesOf(error);
  const status = statusOf(error);
  if (codes.includes("ObjectIsDeletedButRecoverable")) {
    return new ConnectorError("misconfigured", `The vault has it as deleted and recoverable, while ${doing}.`, {
      next: "Recover it in the vault, or purge it, and try again.",
    });
  }
  if (codes.includes("ForbiddenByFirewall") || codes.includes("ForbiddenByConnection")) {
    return new ConnectorError("misconfigured", `The vault's firewall does not let Keyroll in, while ${doing}.`, {
      permission: "network access to the vault",
      next: "Add Keyroll's address or network to the vault's networking settings.",
    });
  }
  if (name === "RestError" && status >= 300) {
    return statusFailure({
      status,
      code: codes.at(-1) ?? "",
      retryAfterMs: retryAfterMs(headerOf(error, "retry-after"), nowMs),
      doing,
      effect,
      needs: what.needs,
    });
  }
  if (status >= 200) {
    return new ConnectorError(
      effect ? "unknown-outcome" : "unavailable",
      `The vault's answer was not what it promises, while ${doing}.`,
    );
  }
  return networkFailure(error, doing, effect);
}
function headerOf(error: unknown, name: string): string | undefined {
  const headers = field(field(error, "response"), "headers") as { get?(name: string): unknown } | undefined;
  const value = headers?.get?.(name);
  return typeof value === "string" ? value : undefined;
}

/** What the vault's answers must have; an answer without it came from somewhere else. */
export function promised<T>(value: T | null | undefined, what: VaultAsk): T {
  if (value !== null && value !== undefined) return value;
  throw new ConnectorError(
    what.effect ? "unknown-outcome" : "unavailable",
    `The vault's answer was not what it promises, while ${what.doing}.`,
  );
}

/** Names which of the two permission models would do. */
export function vaultNeeds(role: string, kind: "secrets" | "certificates", actions: readonly string[]): Needs {
  return {
    permission: `${role} (RBAC), or the access policy ${kind}: ${actions.join(", ")}`,
    next: `Give Keyroll's application the role ${role} on the vault; or, in a vault with access policies, the ${kind} permissions ${actions.join(", ")}.`,
  };
}
