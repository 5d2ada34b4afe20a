/** Key Vault's data plane: secrets and certificates. Reference: the service's OpenAPI contract 7.5 and its examples. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import type { WindowLimit } from "./faults.ts";
import {
  compact,
  isRecord,
  jsonBody,
  page,
  readSkipToken,
  Refusal,
  seconds,
  skipToken,
  text,
  type Json,
  type LabRequest,
  type Reply,
} from "./http.ts";
import { callerOf, isGranted, type Lab, type Service } from "./lab.ts";
import {
  makeCertificate,
  makeEcKey,
  makeRequest,
  makeRsaKey,
  pkcs8,
  readPem,
  readPfx,
  thumbprint,
  writePfx,
} from "./pki.ts";
import type {
  Attributes,
  CertificateVersion,
  Policy,
  SecretVersion,
  ServicePrincipal,
  Vault,
  VaultCertificate,
  VaultSecret,
} from "./state.ts";

const audience = "https://vault.azure.net";
/** "Azure Key Vault service limits": per vault, in ten seconds. */
const limits = {
  any: { calls: 4000, windowMs: 10_000 },
  createKey: { calls: 20, windowMs: 10_000 },
} as const satisfies Record<string, WindowLimit>;
const purgeAfterDays = 90;
const mostSecretBytes = 25_600;
/** A certificate that the vault signs itself takes this long, in the lab's time. */
const issuance = { fromMs: 2_000, toMs: 8_000 };
/** The service dates new certificates back, against clocks that are behind. */
const backdateS = 600;

/** An operation: its name in role-based access control, and the words of an access policy. */
const actions = {
  "secrets get": "secrets/getSecret/action",
  "secrets list": "secrets/readMetadata/action",
  "secrets set": "secrets/setSecret/action",
  "secrets update": "secrets/update/action",
  "secrets delete": "secrets/delete",
  "secrets recover": "secrets/recover/action",
  "secrets purge": "secrets/purge/action",
  "certificates get": "certificates/read",
  "certificates list": "certificates/read",
  "certificates create": "certificates/create/action",
  "certificates import": "certificates/import/action",
  "certificates update": "certificates/update/action",
  "certificates delete": "certificates/delete",
  "certificates recover": "certificates/recover/action",
  "certificates purge": "certificates/purge/action",
} as const;
type Operation = keyof typeof actions;

export const vaultResourceId = (lab: Lab, vault: Vault): string =>
  `/subscriptions/${lab.state.subscriptionId}/resourceGroups/${vault.resourceGroup}/providers/Microsoft.KeyVault/vaults/${vault.name}`;

const keyedBy = (name: string): string => name.toLowerCase();
export const leafOf = (version: CertificateVersion): X509Certificate =>
  new X509Certificate(Buffer.from(version.chain[0]!, "base64"));
/** The version that answers where none is named: the one created last, disabled or not. */
export const latest = <T>(versions: readonly T[]): T | undefined => versions.at(-1);

export function vaultService(
  lab: Lab,
  limiter: { take(key: string, limit: WindowLimit, nowMs: number): number },
): Service {
  const error = (
    status: number,
    code: string,
    message: string,
    inner?: string,
    headers?: Record<string, string>,
  ): Reply => ({
    status,
    headers: { "x-ms-keyvault-region": "westeurope", ...headers },
    body: { error: compact({ code, message, innererror: inner === undefined ? undefined : { code: inner } }) },
  });
  const refuse = (
    status: number,
    code: string,
    message: string,
    inner?: string,
    headers?: Record<string, string>,
  ): never => {
    throw new Refusal(error(status, code, message, inner, headers));
  };
  const bad = (message: string): never => refuse(400, "BadParameter", message);
  const noSecret = (what: string): never =>
    refuse(
      404,
      "SecretNotFound",
      `A secret with (name/id) ${what} was not found in this key vault. If you recently deleted this secret you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182`,
    );
  const noCertificate = (what: string): never =>
    refuse(
      404,
      "CertificateNotFound",
      `A certificate with (name/id) ${what} was not found in this key vault. If you recently deleted this certificate you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182`,
    );

  function caller(request: LabRequest): ServicePrincipal {
    const found = callerOf(lab, request, audience);
    if ("principal" in found) return found.principal;
    // The client is told where to sign in and for which resource; the SDKs begin with a request without a token to hear it.
    const challenge = `Bearer authorization="${lab.origin()}/${lab.state.tenantId}", resource="${audience}"`;
    const words = {
      missing: "AKV10000: Request is missing a Bearer or PoP token.",
      unreadable: "AKV10022: Unable to validate the token's signature.",
      expired: "AKV10047: The token is expired.",
      audience: `AKV10022: Invalid audience. Expected ${audience}, found: ${"found" in found ? found.found : ""}.`,
    };
    return refuse(401, "Unauthorized", words[found.problem], undefined, {
      "www-authenticate":
        found.problem === "missing"
          ? challenge
          : `${challenge}, error="invalid_token", error_description="${words[found.problem]}"`,
    });
  }

  function need(vault: Vault, who: ServicePrincipal, operation: Operation, object: string): void {
    const action = `Microsoft.KeyVault/vaults/${actions[operation]}`;
    const scope = vaultResourceId(lab, vault);
    const taken = who.appId === lab.state.operator.clientId && lab.denied(operation);
    if (!taken && isGranted(lab, who, action, scope)) return;
    const issuer = `https://sts.windows.net/${lab.state.tenantId}/`;
    if (vault.access === "policies")
      refuse(
        403,
        "Forbidden",
        `The user, group or application 'appid=${who.appId};oid=${who.id};iss=${issuer}' does not have ${operation} permission on key vault '${vault.name};location=${vault.location}'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287`,
        "AccessDenied",
      );
    refuse(
      403,
      "Forbidden",
      `Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\nCaller: appid=${who.appId};oid=${who.id};iss=${issuer}\r\nAction: '${action}'\r\nResource: '${scope.toLowerCase()}${object}'\r\nAssignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: null \r\nVault: ${vault.name};location=${vault.location}\r\n`,
      "ForbiddenByRbac",
    );
  }

  const wireAttributes = (attributes: Attributes): Json =>
    compact({
      enabled: attributes.enabled,
      nbf: attributes.nbf,
      exp: attributes.exp,
      created: attributes.created,
      updated: attributes.updated,
      recoveryLevel: "Recoverable+Purgeable",
      recoverableDays: purgeAfterDays,
    });
  function readAttributes(value: unknown, before: Attributes | undefined): Attributes {
    const fields = isRecord(value) ? value : {};
    const now = seconds(lab.now());
    const number = (name: "nbf" | "exp"): number | undefined => {
      const given = fields[name];
      if (given === undefined) return before?.[name];
      if (given === null) return undefined;
      return typeof given === "number" && Number.isInteger(given)
        ? given
        : bad(`Property ${name} must be a whole number of seconds.`);
    };
    const nbf = number("nbf");
    const exp = number("exp");
    if (nbf !== undefined && exp !== undefined && exp <= nbf) bad("Property exp must be later than nbf.");
    const enabled = fields["enabled"];
    return {
      enabled: typeof enabled === "boolean" ? enabled : (before?.enabled ?? true),
      ...(nbf === undefined ? {} : { nbf }),
      ...(exp === undefined ? {} : { exp }),
      created: before?.created ?? now,
      updated: now,
    };
  }
  function readTags(value: unknown): Record<string, string> | undefined {
    if (value === undefined || value === null) return undefined;
    if (!isRecord(value)) return bad("Property tags must be an object.");
    const entries = Object.entries(value).map(
      ([name, each]) => [name, text(each) ?? bad(`Tag ${name} must be a text.`)] as const,
    );
    if (entries.length > 15) bad("There may be at most 15 tags.");
    return Object.fromEntries(entries);
  }
  const body = (request: LabRequest): Json => jsonBody(request) ?? bad("Request body is not valid JSON.");
  /** The service says 10 seconds. */
  const pollAfterS = (): string => String(Math.round(lab.span(10_000) / 1000));
  const newVersion = (): string => lab.ids.hex(32);

  function listReply(request: LabRequest, items: readonly Json[]): Reply {
    const most = Number(request.query.get("maxresults") ?? 25);
    if (!Number.isInteger(most) || most < 1 || most > 25) bad("Invalid maxresults: it must be between 1 and 25.");
    const offset = readSkipToken(request.query.get("$skiptoken")) ?? bad("The skip token is not valid.");
    const { items: value, next } = page(items, offset, most);
    const more = new URLSearchParams(request.query);
    if (next !== null) more.set("$skiptoken", skipToken(next));
    return {
      status: 200,
      body: { value, nextLink: next === null ? null : `${request.origin}${request.path}?${more.toString()}` },
    };
  }
  /** The service lists versions in no useful order; theirs are random, so their names give one. */
  const unsorted = <T extends { readonly version: string }>(versions: readonly T[]): T[] =>
    [...versions].sort((a, b) => (a.version < b.version ? -1 : 1));

  // Secrets. A certificate's own secret is one of them, under its name, and follows it.

  function managedSecret(vault: Vault, name: string): VaultSecret | undefined {
    const certificate = vault.certificates[keyedBy(name)];
    if (certificate === undefined || certificate.deletedMs !== undefined || certificate.versions.length === 0)
      return undefined;
    return {
      name: certificate.name,
      versions: certificate.versions.map((each) => certificateSecret(certificate, each)),
    };
  }
  function certificateSecret(certificate: VaultCertificate, version: CertificateVersion): SecretVersion {
    const contentType = contentTypeOf(certificate.policy);
    const exportable = fieldsOf(certificate.policy, "key_props")["exportable"] !== false;
    const chain = version.chain.map((each) => new X509Certificate(Buffer.from(each, "base64")));
    const key = exportable ? version.key : "";
    return {
      version: version.version,
      contentType,
      value:
        contentType === "application/x-pem-file" || !exportable
          ? `${key}${chain.map(String).join("")}`
          : writePfx(createPrivateKey(key), chain).toString("base64"),
      attributes: version.attributes,
      ...(version.tags ? { tags: version.tags } : {}),
    };
  }
  function secretView(
    request: LabRequest,
    name: string,
    secret: SecretVersion,
    managed: boolean,
    withValue: boolean,
  ): Json {
    return compact({
      value: withValue ? secret.value : undefined,
      contentType: secret.contentType,
      id: `${request.origin}/secrets/${name}/${secret.version}`,
      managed: managed ? true : undefined,
      kid: managed && withValue ? `${request.origin}/keys/${name}/${secret.version}` : undefined,
      attributes: wireAttributes(secret.attributes),
      tags: secret.tags,
    });
  }

  function findSecret(vault: Vault, name: string): { secret: VaultSecret; managed: boolean } {
    const own = vault.secrets[keyedBy(name)];
    if (own !== undefined && own.deletedMs === undefined) return { secret: own, managed: false };
    const managed = managedSecret(vault, name);
    return managed === undefined ? noSecret(name) : { secret: managed, managed: true };
  }

  function setSecret(request: LabRequest, vault: Vault, name: string): Reply {
    const fields = body(request);
    const value = text(fields["value"]) ?? bad("Property value is required and must be a text.");
    if (Buffer.byteLength(value) > mostSecretBytes) bad(`The secret is longer than ${mostSecretBytes} bytes.`);
    const before = vault.secrets[keyedBy(name)];
    if (before?.deletedMs !== undefined)
      refuse(
        409,
        "Conflict",
        `Secret ${name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the secret can only be recovered or purged.`,
        "ObjectIsDeletedButRecoverable",
      );
    if (managedSecret(vault, name) !== undefined)
      refuse(
        403,
        "Forbidden",
        "Operation is not allowed on a secret that belongs to a certificate.",
        "SecretManagedByKeyVault",
      );
    // Nothing is taken over from the version before: neither content type, nor expiry, nor tags.
    const contentType = text(fields["contentType"]);
    const tags = readTags(fields["tags"]);
    const version: SecretVersion = {
      version: newVersion(),
      value,
      ...(contentType === undefined ? {} : { contentType }),
      ...(tags === undefined ? {} : { tags }),
      attributes: readAttributes(fields["attributes"], undefined),
    };
    if (before) before.versions.push(version);
    else vault.secrets[keyedBy(name)] = { name, versions: [version] };
    lab.changed();
    return { status: 200, body: secretView(request, before?.name ?? name, version, false, true) };
  }

  function updateSecret(request: LabRequest, vault: Vault, name: string, id: string): Reply {
    const { secret, managed } = findSecret(vault, name);
    const version = secret.versions.find((each) => each.version === id) ?? noSecret(`${name}/${id}`);
    const fields = body(request);
    if (managed)
      refuse(
        403,
        "Forbidden",
        "Operation is not allowed on a secret that belongs to a certificate.",
        "SecretManagedByKeyVault",
      );
    const contentType = text(fields["contentType"]);
    const tags = readTags(fields["tags"]);
    version.attributes = readAttributes(fields["attributes"], version.attributes);
    if (contentType !== undefined) version.contentType = contentType;
    if (tags !== undefined) version.tags = tags;
    lab.changed();
    return { status: 200, body: secretView(request, secret.name, version, false, false) };
  }

  const deletion = (request: LabRequest, kind: "secrets" | "certificates", name: string, deletedMs: number): Json => ({
    recoveryId: `${request.origin}/deleted${kind}/${name}`,
    deletedDate: seconds(deletedMs),
    scheduledPurgeDate: seconds(deletedMs) + purgeAfterDays * 86_400,
  });

  function secrets(request: LabRequest, vault: Vault, who: ServicePrincipal): Reply {
    const [, name, part] = request.segments;
    const may = (operation: Operation): void =>
      need(vault, who, operation, name === undefined ? "" : `/secrets/${name.toLowerCase()}`);
    if (name === undefined) {
      may("secrets list");
      const own = Object.values(vault.secrets).filter((each) => each.deletedMs === undefined);
      const managed = Object.values(vault.certificates).flatMap((each) => managedSecret(vault, each.name) ?? []);
      const items = [...own, ...managed]
        .sort((a, b) => (a.name < b.name ? -1 : 1))
        .flatMap((each) => {
          const version = latest(each.versions);
          if (version === undefined) return [];
          return [
            {
              ...secretView(request, each.name, version, managed.includes(each), false),
              id: `${request.origin}/secrets/${each.name}`,
            },
          ];
        });
      return listReply(request, items);
    }
    checkName(name);
    switch (`${request.method} ${part === "versions" ? "versions" : ""}`) {
      case "GET versions": {
        may("secrets list");
        const { secret, managed } = findSecret(vault, name);
        return listReply(
          request,
          unsorted(secret.versions).map((each) => secretView(request, secret.name, each, managed, false)),
        );
      }
      case "GET ": {
        may("secrets get");
        const { secret, managed } = findSecret(vault, name);
        const version =
          part === undefined ? latest(secret.versions) : secret.versions.find((each) => each.version === part);
        if (version === undefined) return noSecret(part === undefined ? name : `${name}/${part}`);
        if (!version.attributes.enabled)
          refuse(403, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled");
        return { status: 200, body: secretView(request, secret.name, version, managed, true) };
      }
      case "PUT ":
        may("secrets set");
        return part === undefined
          ? setSecret(request, vault, name)
          : refuse(405, "BadParameter", "Method PUT does not allow a version.");
      case "PATCH ":
        may("secrets update");
        return updateSecret(request, vault, name, part ?? bad("A secret's version is missing."));
      case "DELETE ": {
        may("secrets delete");
        const { secret, managed } = findSecret(vault, name);
        if (managed)
          refuse(
            403,
            "Forbidden",
            "Operation is not allowed on a secret that belongs to a certificate.",
            "SecretManagedByKeyVault",
          );
        secret.deletedMs = lab.now();
        lab.changed();
        return {
          status: 200,
          body: {
            ...deletion(request, "secrets", secret.name, secret.deletedMs),
            ...secretView(request, secret.name, latest(secret.versions)!, false, false),
          },
        };
      }
      default:
        return refuse(405, "BadParameter", `Method ${request.method} is not allowed here.`);
    }
  }

  /** `/deletedsecrets` and `/deletedcertificates`. */
  function deleted(request: LabRequest, vault: Vault, who: ServicePrincipal, kind: "secrets" | "certificates"): Reply {
    const [, name, verb] = request.segments;
    const all: Record<string, VaultSecret | VaultCertificate> = vault[kind];
    const view = (each: VaultSecret | VaultCertificate): Json => {
      const version = latest<SecretVersion | CertificateVersion>(each.versions);
      return {
        ...deletion(request, kind, each.name, each.deletedMs ?? lab.now()),
        id: `${request.origin}/${kind}/${each.name}/${version?.version ?? ""}`,
        attributes: version ? wireAttributes(version.attributes) : {},
      };
    };
    if (name === undefined) {
      need(vault, who, `${kind} list`, "");
      return listReply(
        request,
        Object.values(all)
          .filter((each) => each.deletedMs !== undefined)
          .map(view),
      );
    }
    const found = all[keyedBy(name)];
    if (found?.deletedMs === undefined) return kind === "secrets" ? noSecret(name) : noCertificate(name);
    if (request.method === "POST" && verb === "recover") {
      need(vault, who, `${kind} recover`, `/${kind}/${name}`);
      const answer = view(found);
      delete found.deletedMs;
      lab.changed();
      return { status: 200, body: { id: answer["id"], attributes: answer["attributes"] } };
    }
    if (request.method === "DELETE") {
      need(vault, who, `${kind} purge`, `/${kind}/${name}`);
      delete all[keyedBy(name)];
      lab.changed();
      return { status: 204 };
    }
    need(vault, who, `${kind} get`, `/${kind}/${name}`);
    return { status: 200, body: view(found) };
  }

  // Certificates.

  function policyView(request: LabRequest, certificate: VaultCertificate): Json {
    return { id: `${request.origin}/certificates/${certificate.name}/policy`, ...certificate.policy };
  }
  function certificateView(
    request: LabRequest,
    certificate: VaultCertificate,
    version: CertificateVersion,
    withPolicy: boolean,
  ): Json {
    const ends = `${certificate.name}/${version.version}`;
    return compact({
      id: `${request.origin}/certificates/${ends}`,
      kid: `${request.origin}/keys/${ends}`,
      sid: `${request.origin}/secrets/${ends}`,
      x5t: Buffer.from(thumbprint(leafOf(version)), "hex").toString("base64url"),
      cer: version.chain[0],
      attributes: wireAttributes(version.attributes),
      policy: withPolicy ? policyView(request, certificate) : undefined,
      tags: version.tags,
    });
  }
  function certificateItem(
    request: LabRequest,
    certificate: VaultCertificate,
    version: CertificateVersion,
    id: string,
  ): Json {
    return compact({
      id: `${request.origin}/certificates/${certificate.name}${id}`,
      x5t: Buffer.from(thumbprint(leafOf(version)), "hex").toString("base64url"),
      attributes: wireAttributes(version.attributes),
      tags: version.tags,
    });
  }
  const findCertificate = (vault: Vault, name: string): VaultCertificate => {
    const found = vault.certificates[keyedBy(name)];
    return found === undefined || found.deletedMs !== undefined ? noCertificate(name) : found;
  };

  function mergedPolicy(given: unknown, before: Policy | undefined, issuer: "Self" | "Unknown"): Policy {
    const fields = isRecord(given) ? given : {};
    const now = seconds(lab.now());
    const base = before ?? {};
    const part = (name: string, defaults: Json): Json => ({
      ...defaults,
      ...fieldsOf(base, name),
      ...fieldsOf(fields, name),
    });
    const issued = part("issuer", { name: issuer });
    return {
      key_props: part("key_props", { exportable: true, kty: "RSA", key_size: 2048, reuse_key: false }),
      secret_props: part("secret_props", { contentType: "application/x-pkcs12" }),
      x509_props: part("x509_props", {
        ekus: ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"],
        key_usage: ["digitalSignature", "keyEncipherment"],
        validity_months: 12,
      }),
      lifetime_actions: fields["lifetime_actions"] ??
        base["lifetime_actions"] ?? [
          {
            trigger: { lifetime_percentage: 80 },
            action: { action_type: issued["name"] === "Self" ? "AutoRenew" : "EmailContacts" },
          },
        ],
      issuer: issued,
      attributes: { enabled: true, created: numberOf(fieldsOf(base, "attributes")["created"]) ?? now, updated: now },
    };
  }

  async function createCertificate(request: LabRequest, vault: Vault, name: string): Promise<Reply> {
    const fields = body(request);
    const before = vault.certificates[keyedBy(name)];
    if (before?.deletedMs !== undefined)
      refuse(
        409,
        "Conflict",
        `Certificate ${name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the certificate can only be recovered or purged.`,
        "ObjectIsDeletedButRecoverable",
      );
    if (before?.pending && before.pending.version === undefined && !before.pending.cancelled)
      refuse(
        409,
        "Conflict",
        "The certificate already has a pending operation. Wait until it completes or cancel it.",
        "CertificateOperationPending",
      );
    if (vault.secrets[keyedBy(name)]?.deletedMs === undefined && vault.secrets[keyedBy(name)] !== undefined)
      refuse(409, "Conflict", `A secret with the name ${name} already exists.`);
    // A policy in the request is the new policy of the certificate; what it leaves out is not taken from the old one.
    const policy = mergedPolicy(fields["policy"], isRecord(fields["policy"]) ? undefined : before?.policy, "Self");
    const x509 = fieldsOf(policy, "x509_props");
    const subject = text(x509["subject"]) ?? bad("Property x509_props.subject is required.");
    const issuer = text(fieldsOf(policy, "issuer")["name"]) ?? "Self";
    if (issuer !== "Self" && issuer !== "Unknown") bad(`Issuer ${issuer} is not set up in this vault.`);
    const keyProps = fieldsOf(policy, "key_props");
    const previous = before && latest(before.versions);
    const key = keyProps["reuse_key"] === true && previous ? createPrivateKey(previous.key) : await newKey(keyProps);
    const tags = readTags(fields["tags"]);
    const attributes = readAttributes(fields["attributes"], undefined);
    const certificate = before ?? { name, policy, versions: [] };
    certificate.policy = policy;
    certificate.pending = {
      requestId: lab.ids.hex(32),
      csr: await makeRequest(subject, key),
      readyMs:
        issuer === "Self"
          ? lab.now() + lab.span(lab.ids.between(issuance.fromMs, issuance.toMs))
          : Number.MAX_SAFE_INTEGER,
      key: pkcs8(key),
      policy,
      ...(tags ? { tags } : {}),
      enabled: attributes.enabled,
      cancelled: false,
    };
    vault.certificates[keyedBy(name)] = certificate;
    lab.changed();
    return {
      status: 202,
      headers: {
        location: `${request.origin}/certificates/${certificate.name}/pending?api-version=${request.query.get("api-version")}&request_id=${certificate.pending.requestId}`,
        "retry-after": pollAfterS(),
      },
      body: pendingView(request, certificate),
    };
  }
  async function newKey(props: Json): Promise<ReturnType<typeof createPrivateKey>> {
    const kty = text(props["kty"]) ?? "RSA";
    if (kty.startsWith("EC")) {
      const curve = text(props["crv"]) ?? "P-256";
      return curve === "P-256" || curve === "P-384" || curve === "P-521"
        ? await makeEcKey(curve)
        : bad(`Curve ${curve} is not supported.`);
    }
    const size = numberOf(props["key_size"]) ?? 2048;
    return [2048, 3072, 4096].includes(size) ? await makeRsaKey(size) : bad(`Key size ${size} is not supported.`);
  }

  function pendingView(request: LabRequest, certificate: VaultCertificate): Json {
    const pending = certificate.pending!;
    const done = pending.version !== undefined;
    return compact({
      id: `${request.origin}/certificates/${certificate.name}/pending`,
      issuer: { name: fieldsOf(pending.policy, "issuer")["name"] ?? "Self" },
      csr: pending.csr,
      cancellation_requested: pending.cancelled,
      status: done ? "completed" : pending.cancelled ? "cancelled" : "inProgress",
      status_details: done
        ? undefined
        : "Pending certificate created. Certificate request is in progress. This may take some time based on the issuer provider. Please check again later.",
      target: done ? `${request.origin}/certificates/${certificate.name}` : undefined,
      request_id: pending.requestId,
    });
  }

  /** A pending operation whose time has come becomes a version. */
  async function settle(certificate: VaultCertificate): Promise<void> {
    const { pending } = certificate;
    if (pending === undefined || pending.version !== undefined || pending.cancelled || pending.readyMs > lab.now())
      return;
    const id = newVersion();
    // Taken at once, so that two requests do not both issue it.
    pending.version = id;
    const x509 = fieldsOf(pending.policy, "x509_props");
    const sans = fieldsOf(x509, "sans")["dns_names"];
    const createdS = seconds(pending.readyMs);
    const months = numberOf(x509["validity_months"]) ?? 12;
    const end = new Date(createdS * 1000);
    end.setUTCMonth(end.getUTCMonth() + months);
    const key = createPrivateKey(pending.key);
    const pem = await makeCertificate({
      subject: text(x509["subject"]) ?? `CN=${certificate.name}`,
      ...(Array.isArray(sans) ? { names: sans.map(String) } : {}),
      key,
      extendedKeyUsages: Array.isArray(x509["ekus"]) ? x509["ekus"].map(String) : [],
      notBeforeMs: (createdS - backdateS) * 1000,
      notAfterMs: end.getTime(),
    });
    certificate.versions.push(
      versionOf(id, [new X509Certificate(pem)], pending.key, createdS, pending.enabled, pending.tags),
    );
    lab.changed();
  }
  function versionOf(
    id: string,
    chain: readonly X509Certificate[],
    key: string,
    createdS: number,
    enabled: boolean,
    tags?: Record<string, string>,
  ): CertificateVersion {
    const leaf = chain[0]!;
    return {
      version: id,
      chain: chain.map((each) => each.raw.toString("base64")),
      key,
      ...(tags ? { tags } : {}),
      attributes: {
        enabled,
        nbf: seconds(Date.parse(leaf.validFrom)),
        exp: seconds(Date.parse(leaf.validTo)),
        created: createdS,
        updated: createdS,
      },
    };
  }

  function importCertificate(request: LabRequest, vault: Vault, name: string): Reply {
    const fields = body(request);
    const value = text(fields["value"]) ?? bad("Property value is required.");
    const before = vault.certificates[keyedBy(name)];
    if (before?.deletedMs !== undefined)
      refuse(
        409,
        "Conflict",
        `Certificate ${name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the certificate can only be recovered or purged.`,
        "ObjectIsDeletedButRecoverable",
      );
    const pem = value.includes("-----BEGIN");
    const parsed = pem ? readPem(value) : readPfx(Buffer.from(value, "base64"), text(fields["pwd"]));
    if (parsed === null)
      return bad(
        pem
          ? "The specified PEM X.509 certificate content is in an unexpected format. Please check if certificate is in valid PEM format."
          : "The specified PKCS#12 X.509 certificate content can not be read. Please check if certificate is in valid PKCS#12 format.",
      );
    const [leaf] = parsed.certificates;
    const policy = mergedPolicy(fields["policy"], undefined, "Unknown");
    const detail = parsed.key.asymmetricKeyDetails;
    const rsa = parsed.key.asymmetricKeyType === "rsa";
    const whole: Policy = {
      ...policy,
      key_props: compact({
        ...fieldsOf(policy, "key_props"),
        kty: rsa ? "RSA" : "EC",
        key_size: rsa ? detail?.modulusLength : undefined,
        crv: rsa
          ? undefined
          : { prime256v1: "P-256", secp384r1: "P-384", secp521r1: "P-521" }[detail?.namedCurve ?? ""],
      }),
      ...(pem ? { secret_props: { contentType: "application/x-pem-file" } } : {}),
      x509_props: {
        ...fieldsOf(policy, "x509_props"),
        subject: leaf!.subject.split("\n").reverse().join(", "),
        validity_months: Math.max(
          1,
          Math.round((Date.parse(leaf!.validTo) - Date.parse(leaf!.validFrom)) / (30.44 * 86_400_000)),
        ),
      },
    };
    const tags = readTags(fields["tags"]);
    const attributes = readAttributes(fields["attributes"], undefined);
    const version = versionOf(
      newVersion(),
      parsed.certificates,
      pkcs8(parsed.key),
      seconds(lab.now()),
      attributes.enabled,
      tags,
    );
    const certificate = before ?? { name, policy: whole, versions: [] };
    certificate.policy = whole;
    certificate.versions.push(version);
    vault.certificates[keyedBy(name)] = certificate;
    lab.changed();
    return { status: 200, body: certificateView(request, certificate, version, true) };
  }

  function mergeCertificate(request: LabRequest, vault: Vault, name: string): Reply {
    const certificate = findCertificate(vault, name);
    const { pending } = certificate;
    if (pending === undefined || pending.version !== undefined)
      return refuse(404, "PendingCertificateNotFound", `Pending certificate not found: ${name}`);
    const x5c = body(request)["x5c"];
    if (!Array.isArray(x5c) || x5c.length === 0) return bad("Property x5c is required.");
    let chain: X509Certificate[];
    try {
      chain = x5c.map((each) => new X509Certificate(Buffer.from(String(each), "base64")));
    } catch {
      return bad("Property x5c has an entry that is not a certificate.");
    }
    if (!chain[0]!.checkPrivateKey(createPrivateKey(pending.key)))
      bad(
        "The public key of the end-entity certificate in the specified X.509 certificate content does not match the public part of the specified private key. Please check if certificate is valid.",
      );
    pending.version = newVersion();
    const version = versionOf(pending.version, chain, pending.key, seconds(lab.now()), pending.enabled, pending.tags);
    certificate.versions.push(version);
    lab.changed();
    return { status: 201, body: certificateView(request, certificate, version, true) };
  }

  async function certificates(request: LabRequest, vault: Vault, who: ServicePrincipal): Promise<Reply> {
    const [, name, part, more] = request.segments;
    const may = (operation: Operation): void =>
      need(vault, who, operation, name === undefined ? "" : `/certificates/${name.toLowerCase()}`);
    const known = name === undefined ? undefined : vault.certificates[keyedBy(name)];
    if (known && known.deletedMs === undefined) await settle(known);
    if (name === undefined) {
      may("certificates list");
      const all = Object.values(vault.certificates).filter((each) => each.deletedMs === undefined);
      const items = all.flatMap((each) => {
        const version = latest(each.versions);
        return version ? [certificateItem(request, each, version, "")] : [];
      });
      return listReply(request, items);
    }
    checkName(name);
    const verb = ["create", "import", "versions", "policy", "pending"].includes(part ?? "") ? part! : "";
    switch (`${request.method} ${verb}`) {
      case "POST create":
        may("certificates create");
        return await createCertificate(request, vault, name);
      case "POST import":
        may("certificates import");
        return importCertificate(request, vault, name);
      case "POST pending":
        may("certificates create");
        return more === "merge"
          ? mergeCertificate(request, vault, name)
          : refuse(404, "NotFound", "The resource was not found.");
      case "GET pending":
      case "PATCH pending":
      case "DELETE pending": {
        may(request.method === "GET" ? "certificates get" : "certificates update");
        const certificate = findCertificate(vault, name);
        if (certificate.pending === undefined)
          return refuse(404, "PendingCertificateNotFound", `Pending certificate not found: ${name}`);
        if (request.method === "PATCH")
          certificate.pending.cancelled = body(request)["cancellation_requested"] === true;
        const view = pendingView(request, certificate);
        if (request.method === "DELETE") delete certificate.pending;
        if (request.method !== "GET") lab.changed();
        return {
          status: 200,
          ...(view["status"] === "inProgress" ? { headers: { "retry-after": pollAfterS() } } : {}),
          body: view,
        };
      }
      case "GET policy":
        may("certificates get");
        return { status: 200, body: policyView(request, findCertificate(vault, name)) };
      case "PATCH policy": {
        may("certificates update");
        const certificate = findCertificate(vault, name);
        certificate.policy = mergedPolicy(body(request), certificate.policy, "Self");
        lab.changed();
        return { status: 200, body: policyView(request, certificate) };
      }
      case "GET versions": {
        may("certificates list");
        const certificate = findCertificate(vault, name);
        return listReply(
          request,
          unsorted(certificate.versions).map((each) => certificateItem(request, certificate, each, `/${each.version}`)),
        );
      }
      case "GET ": {
        may("certificates get");
        const certificate = findCertificate(vault, name);
        const version =
          part === undefined
            ? latest(certificate.versions)
            : certificate.versions.find((each) => each.version === part);
        return version === undefined
          ? noCertificate(part === undefined ? name : `${name}/${part}`)
          : {
              status: 200,
              body: certificateView(
                request,
                certificate,
                version,
                part === undefined || version === latest(certificate.versions),
              ),
            };
      }
      case "PATCH ": {
        may("certificates update");
        const certificate = findCertificate(vault, name);
        const version =
          part === undefined
            ? latest(certificate.versions)
            : certificate.versions.find((each) => each.version === part);
        if (version === undefined) return noCertificate(`${name}/${part ?? ""}`);
        const fields = body(request);
        const tags = readTags(fields["tags"]);
        // A certificate's dates are its own; only whether it may be used is up to the vault.
        const { enabled, updated } = readAttributes(fields["attributes"], version.attributes);
        version.attributes = { ...version.attributes, enabled, updated };
        if (tags !== undefined) version.tags = tags;
        lab.changed();
        return { status: 200, body: certificateView(request, certificate, version, false) };
      }
      case "DELETE ": {
        may("certificates delete");
        const certificate = findCertificate(vault, name);
        const version = latest(certificate.versions);
        if (version === undefined) return noCertificate(name);
        certificate.deletedMs = lab.now();
        lab.changed();
        return {
          status: 200,
          body: {
            ...deletion(request, "certificates", certificate.name, certificate.deletedMs),
            ...certificateView(request, certificate, version, true),
          },
        };
      }
      default:
        return refuse(405, "BadParameter", `Method ${request.method} is not allowed here.`);
    }
  }

  const checkName = (name: string): void => {
    if (!/^[0-9a-zA-Z-]{1,127}$/.test(name)) bad(`The request URI contains an invalid name: ${name}`);
  };

  return {
    name: "vault",
    async handle(request) {
      const vault = lab.vaultAt(request.port) ?? refuse(404, "NotFound", "There is no vault at this address.");
      // Before anything is looked at: a stranger learns nothing about what is in the vault.
      const who = caller(request);
      const version = request.query.get("api-version");
      if (version === null) bad("api-version must be specified");
      else if (!/^(7\.[0-9]+|2016-10-01|202[5-9]-\d\d-\d\d)(-preview[.\d]*)?$/.test(version))
        bad(
          `The specified version (${version}) is not recognized. Consider using the latest supported version (2025-07-01).`,
        );
      switch (request.segments[0]?.toLowerCase()) {
        case "secrets": {
          const managed =
            request.segments[1] === undefined ? undefined : vault.certificates[keyedBy(request.segments[1])];
          if (managed && managed.deletedMs === undefined) await settle(managed);
          return secrets(request, vault, who);
        }
        case "certificates":
          return await certificates(request, vault, who);
        case "deletedsecrets":
          return deleted(request, vault, who, "secrets");
        case "deletedcertificates":
          return deleted(request, vault, who, "certificates");
        default:
          return refuse(404, "NotFound", "The resource was not found.");
      }
    },
    throttled: (_, retryAfterS) =>
      error(
        429,
        "Throttled",
        "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached",
        undefined,
        { "retry-after": String(retryAfterS) },
      ),
    unavailable: () => error(503, "ServiceUnavailable", "The service is temporarily unavailable."),
    limit(request) {
      const creates = request.method === "POST" && request.segments[2] === "create";
      const wait = limiter.take(`vault ${request.port}`, limits.any, lab.now());
      return wait > 0 || !creates ? wait : limiter.take(`vault create ${request.port}`, limits.createKey, lab.now());
    },
  };
}

const fieldsOf = (value: Json, name: string): Json => {
  const part = value[name];
  return isRecord(part) ? part : {};
};
const numberOf = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined);
const contentTypeOf = (policy: Policy): string =>
  text(fieldsOf(policy, "secret_props")["contentType"]) ?? "application/x-pkcs12";
