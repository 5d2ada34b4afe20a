/** From a profile, a key and a signer to a finished version. Used for leaves and for CAs, by the two issuers of this folder. */
import { createPublicKey } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Issued, IssueIntent } from "../connector.ts";
import type { KeyMaterial } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { certify, readRequest, serialFrom, whyNotSigner } from "../shared/certify.ts";
import type { Profile, Signer } from "../shared/certify.ts";
import { factsOf, fingerprintOf, PemError, privateKeyOf } from "../shared/x509.ts";
import type { SelfSignedConfig } from "./schema.ts";

function profileOf(config: SelfSignedConfig): Profile {
  return {
    subject: config.subject,
    names: config.names,
    ca: config.kind === "ca",
    usages: config.usages,
    ...(config.pathLength === undefined ? {} : { pathLength: config.pathLength }),
  };
}

/** The key that was minted and sealed. Making another one here would leave the sealed one without a certificate. */
function mintedKey(intent: IssueIntent): KeyMaterial {
  if (intent.minted?.kind === "key") return intent.minted;
  throw new ConnectorError(
    "misconfigured",
    `${intent.id} was to be issued without a key that was minted and sealed before.`,
    {
      next: "This is a mistake in Keyroll: please report it.",
    },
  );
}

/** Signs the minted key. `signer` is `undefined` for self-signed certificates. */
export async function issueFor(
  cx: CallContext,
  intent: IssueIntent,
  config: SelfSignedConfig,
  signer: Signer | undefined,
): Promise<Issued> {
  throwIfCancelled(cx);
  const minted = mintedKey(intent);
  const key = guarded(`the key of ${intent.id}`, () => privateKeyOf(minted.privateKey));
  const publicKey = createPublicKey(key);
  const certificates = await sign(cx, {
    profile: profileOf(config),
    publicKey,
    signer: signer ?? { self: key },
    tag: intent.tag,
    validityMs: config.validity,
    backdateMs: config.backdate,
    what: intent.id,
  });
  const leaf = certificates[0] ?? "";
  return {
    facts: { ...factsOf(leaf), ...(signer === undefined ? {} : { signedBy: fingerprintOf(signer.certificate) }) },
    material: { kind: "key", privateKey: minted.privateKey, certificates },
  };
}

export interface SignOptions {
  readonly profile: Profile;
  readonly publicKey: KeyObject;
  readonly signer: Signer | { readonly self: KeyObject };
  /** Random and unique to the order; the serial number is taken from it. */
  readonly tag: string;
  readonly validityMs: number;
  readonly backdateMs: number;
  /** The order's name in messages. */
  readonly what: string;
}

async function sign(cx: Pick<CallContext, "now" | "log">, order: SignOptions): Promise<readonly string[]> {
  const now = cx.now();
  let notBeforeMs = now - order.backdateMs;
  let notAfterMs = now + order.validityMs;
  if (!("self" in order.signer)) {
    const { signer } = order;
    const why = guarded("the CA's certificate", () => whyNotSigner(signer, order.profile, now));
    if (why !== undefined) {
      throw new ConnectorError("misconfigured", `${order.what} cannot be signed: ${why}.`, {
        next: "Rotate the CA, or name another one.",
      });
    }
    // Validators that nest the periods (the "shell model") refuse what lies outside the CA's.
    const end = signer.certificate.validToDate.getTime();
    notBeforeMs = Math.max(notBeforeMs, signer.certificate.validFromDate.getTime());
    if (notAfterMs > end) {
      cx.log.warn("The CA ends earlier than the certificate should; it ends with the CA.", {
        version: order.what,
        notAfter: new Date(end).toISOString(),
      });
      notAfterMs = end;
    }
  }
  try {
    return await certify({
      profile: order.profile,
      publicKey: order.publicKey,
      signer: order.signer,
      serial: serialFrom(order.tag, order.publicKey),
      notBeforeMs,
      notAfterMs,
    });
  } catch (error) {
    throw asMisconfigured(`${order.what} cannot be signed`, error);
  }
}

/**
 * CSR in, chain out (PEM, leaf first). Subject and names are those of the request where the profile leaves them open; what the profile sets is
 * never widened by a request. Throws `misconfigured`.
 */
export async function signRequest(
  cx: Pick<CallContext, "now" | "log">,
  csr: string,
  order: Omit<SignOptions, "publicKey" | "signer"> & { readonly signer: Signer },
): Promise<readonly string[]> {
  let request: Awaited<ReturnType<typeof readRequest>>;
  try {
    request = await readRequest(csr);
  } catch (error) {
    throw asMisconfigured(`${order.what} cannot be signed`, error);
  }
  const profile: Profile = {
    ...order.profile,
    subject: order.profile.subject === "" ? request.subject : order.profile.subject,
    names: order.profile.names.length === 0 ? request.names : order.profile.names,
  };
  return sign(cx, { ...order, profile, publicKey: request.publicKey });
}

/** Runs something that reads PEM, and says whose it was when it cannot be read. */
export function guarded<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw asMisconfigured(`${what[0]?.toUpperCase() ?? ""}${what.slice(1)} cannot be used`, error);
  }
}
function asMisconfigured(what: string, error: unknown): ConnectorError {
  if (error instanceof ConnectorError) return error;
  // Only our own messages are passed on: those of a library may hold a piece of its input.
  const why = error instanceof PemError ? error.message : "the cryptographic library refused it";
  return new ConnectorError("misconfigured", `${what}: ${why}.`);
}
