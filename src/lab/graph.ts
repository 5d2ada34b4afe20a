/** Microsoft Graph, as far as applications, their credentials and their sign-ins go. Reference: Microsoft Graph v1.0, "application". */
import { createHash, X509Certificate } from "node:crypto";
import { conflictWindowMs, type WindowLimit } from "./faults.ts";
import {
  isoSeconds,
  isRecord,
  jsonBody,
  page,
  readSkipToken,
  Refusal,
  skipToken,
  text,
  type Json,
  type LabRequest,
  type Reply,
} from "./http.ts";
import { callerOf, hasRole, lagging, remember, spread, type Lab, type Service } from "./lab.ts";
import { readPfx, thumbprint } from "./pki.ts";
import type { Application, Domain, Key, Password, ServicePrincipal } from "./state.ts";
import { provenBy } from "./proof.ts";

const audience = "https://graph.microsoft.com";
/** "Microsoft Graph service-specific throttling limits", identity and access: writes of one application in one tenant. */
const writeLimit: WindowLimit = { calls: 3000, windowMs: 150_000 };
const readers = [
  "Application.Read.All",
  "Application.ReadWrite.All",
  "Application.ReadWrite.OwnedBy",
  "Directory.Read.All",
];
const twoYearsMs = 2 * 365.25 * 86_400_000;
/** How old a sign-in must be before the report tells of it, in the lab's time. */
const reportDelayMs = 3_600_000;

export function graphService(
  lab: Lab,
  limiter: { take(key: string, limit: WindowLimit, nowMs: number): number },
): Service {
  const inner = (request: LabRequest): Json => ({
    date: new Date(lab.now()).toISOString().slice(0, 19),
    "request-id": request.requestId,
    "client-request-id": request.headers["client-request-id"] ?? request.requestId,
  });
  const error = (
    request: LabRequest,
    status: number,
    code: string,
    message: string,
    headers?: Record<string, string>,
  ): Reply => ({
    status,
    ...(headers ? { headers } : {}),
    body: { error: { code, message, innerError: inner(request) } },
  });
  const refuse = (request: LabRequest, status: number, code: string, message: string): never => {
    throw new Refusal(error(request, status, code, message));
  };
  const bad = (request: LabRequest, message: string): never => refuse(request, 400, "Request_BadRequest", message);
  const missing = (request: LabRequest, id: string): never =>
    refuse(
      request,
      404,
      "Request_ResourceNotFound",
      `Resource '${id}' does not exist or one of its queried reference-property objects are not present.`,
    );
  const forbidden = (request: LabRequest): never =>
    refuse(request, 403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.");

  function caller(request: LabRequest): ServicePrincipal {
    const found = callerOf(lab, request, audience);
    if ("principal" in found) return found.principal;
    const messages = {
      missing: "Access token is empty.",
      unreadable: "IDX10511: Signature validation failed.",
      expired: "Lifetime validation failed, the token is expired.",
      audience: "Access token validation failure. Invalid audience.",
    };
    return refuse(request, 401, "InvalidAuthenticationToken", messages[found.problem]);
  }
  function mayRead(request: LabRequest, who: ServicePrincipal): void {
    if (!readers.some((role) => hasRole(lab, who, role))) forbidden(request);
  }
  function mayWrite(request: LabRequest, who: ServicePrincipal, app: Application): void {
    const owns = app.owners.includes(who.id) || app.appId === who.appId;
    if (hasRole(lab, who, "Application.ReadWrite.All")) return;
    if (!owns || !hasRole(lab, who, "Application.ReadWrite.OwnedBy")) forbidden(request);
  }
  const body = (request: LabRequest): Json =>
    jsonBody(request) ??
    refuse(
      request,
      400,
      "BadRequest",
      "Unable to read JSON request payload. Please ensure Content-Type header is set and payload is of valid JSON format.",
    );

  /** `/applications/{id}`, `/applications(appId='{appId}')`. */
  function find<T extends { id: string; appId: string }>(
    request: LabRequest,
    all: readonly T[],
    part: string,
    id: string | undefined,
  ): T {
    const alternate = /\(appId='([^']*)'\)$/i.exec(part)?.[1];
    const wanted = (alternate ?? id ?? "").toLowerCase();
    const found = all.find((each) => (alternate === undefined ? each.id : each.appId) === wanted);
    return found ?? missing(request, wanted);
  }

  /** A directory that was written a moment ago by another request may refuse the next one. */
  function beforeWrite(request: LabRequest, app: Application): void {
    const recent = lab.now() - app.changedMs < lab.span(conflictWindowMs);
    if (recent && lab.dice.chance(lab.faults().conflicts))
      refuse(
        request,
        409,
        "Directory_ConcurrencyViolation",
        "Error due to concurrent requests being made to the tenant. Please wait briefly and retry.",
      );
    remember(lab, app.id, app);
  }
  function written(app: Application): void {
    const now = lab.now();
    app.changedMs = now;
    const still = (item: { knownUntilMs?: number[] }): boolean => Math.max(...(item.knownUntilMs ?? [0])) > now;
    app.gone = { passwords: app.gone.passwords.filter(still), keys: app.gone.keys.filter(still) };
    lab.changed();
  }

  function selected(request: LabRequest, full: Json): Json {
    const select = request.query.get("$select");
    if (select === null) return full;
    const names = select.split(",").map((each) => each.trim());
    return Object.fromEntries(Object.entries(full).filter(([name]) => names.includes(name)));
  }
  const context = (request: LabRequest, what: string): string =>
    `${request.origin}/${request.segments[0]}/$metadata#${what}`;

  function passwordView(password: Password): Json {
    return {
      customKeyIdentifier: null,
      displayName: password.displayName,
      endDateTime: isoSeconds(password.endMs),
      hint: password.hint,
      keyId: password.keyId,
      secretText: null,
      startDateTime: isoSeconds(password.startMs),
    };
  }
  function keyView(key: Key, withKey: boolean): Json {
    return {
      customKeyIdentifier: key.customKeyIdentifier,
      displayName: key.displayName,
      endDateTime: isoSeconds(key.endMs),
      key: withKey ? key.certificate : null,
      keyId: key.keyId,
      startDateTime: isoSeconds(key.startMs),
      type: "AsymmetricX509Cert",
      usage: "Verify",
    };
  }
  function applicationView(app: Application, withKeys: boolean): Json {
    return {
      id: app.id,
      deletedDateTime: null,
      appId: app.appId,
      applicationTemplateId: null,
      createdDateTime: isoSeconds(app.createdMs),
      displayName: app.displayName,
      description: null,
      groupMembershipClaims: null,
      identifierUris: [],
      isFallbackPublicClient: null,
      notes: null,
      publisherDomain: lab.state.domain,
      serviceManagementReference: null,
      signInAudience: "AzureADMyOrg",
      tags: [],
      tokenEncryptionKeyId: null,
      uniqueName: null,
      keyCredentials: app.keys.map((key) => keyView(key, withKeys)),
      passwordCredentials: app.passwords.map(passwordView),
    };
  }
  function principalView(principal: ServicePrincipal): Json {
    return {
      id: principal.id,
      deletedDateTime: null,
      accountEnabled: true,
      appDisplayName: principal.displayName,
      appId: principal.appId,
      appOwnerOrganizationId: lab.state.tenantId,
      displayName: principal.displayName,
      servicePrincipalNames: [principal.appId],
      servicePrincipalType: "Application",
      signInAudience: "AzureADMyOrg",
      tags: [],
      keyCredentials: [],
      passwordCredentials: [],
    };
  }

  function filtered<T extends { id: string; appId: string; displayName: string }>(
    request: LabRequest,
    all: readonly T[],
  ): readonly T[] {
    const filter = request.query.get("$filter");
    if (filter === null) return all;
    const equals = /^\s*(appId|id|displayName)\s+eq\s+'((?:[^']|'')*)'\s*$/.exec(filter);
    const starts = /^\s*startswith\(\s*(displayName|appId)\s*,\s*'((?:[^']|'')*)'\s*\)\s*$/i.exec(filter);
    const [, field = "", quoted = ""] = equals ?? starts ?? [];
    if (field === "")
      return refuse(
        request,
        400,
        "Request_UnsupportedQuery",
        `Unsupported or invalid query filter clause specified for property.`,
      );
    const value = quoted.replaceAll("''", "'").toLowerCase();
    const read = (each: T): string => each[field as "id" | "appId" | "displayName"].toLowerCase();
    return all.filter((each) => (equals ? read(each) === value : read(each).startsWith(value)));
  }
  function listReply<T>(request: LabRequest, what: string, all: readonly T[], view: (each: T) => Json): Reply {
    const top = Number(request.query.get("$top") ?? 100);
    if (!Number.isInteger(top) || top < 1 || top > 999)
      bad(request, "Invalid page size specified. Must be between 1 and 999 inclusive.");
    const offset =
      readSkipToken(request.query.get("$skiptoken")) ?? bad(request, "The specified skip token is invalid.");
    const { items, next } = page(all, offset, top);
    const more = new URLSearchParams(request.query);
    if (next !== null) more.set("$skiptoken", skipToken(next));
    return {
      status: 200,
      body: {
        "@odata.context": context(request, what),
        ...(request.query.get("$count") === "true" ? { "@odata.count": all.length } : {}),
        ...(next === null ? {} : { "@odata.nextLink": `${request.origin}${request.path}?${more.toString()}` }),
        value: items.map((each) => selected(request, view(each))),
      },
    };
  }

  function readTime(request: LabRequest, value: unknown, name: string): number | undefined {
    if (value === undefined || value === null) return undefined;
    const ms = typeof value === "string" ? Date.parse(value) : Number.NaN;
    return Number.isNaN(ms)
      ? bad(request, `A value for property '${name}' is invalid; Edm.DateTimeOffset was expected.`)
      : ms;
  }

  function addPassword(request: LabRequest, app: Application): Reply {
    const wish = body(request)["passwordCredential"];
    const fields = isRecord(wish) ? wish : {};
    const startMs = readTime(request, fields["startDateTime"], "startDateTime") ?? lab.now();
    const endMs = readTime(request, fields["endDateTime"], "endDateTime") ?? startMs + twoYearsMs;
    if (endMs <= lab.now() || endMs <= startMs)
      bad(request, "Password credential end date is invalid. It must be later than its start date and than now.");
    const cap = lab.state.passwordLifetimeMs;
    if (cap !== null && endMs - startMs > cap)
      refuse(
        request,
        400,
        "CredentialInvalidLifetimeAsPerAppPolicy",
        "Credential lifetime exceeds the max value allowed as per assigned policy.",
      );
    beforeWrite(request, app);
    // The form of the real service's values: three characters, a mark of the generation, and the rest.
    const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const secret = `${lab.ids.text(3, letters)}8Q~${lab.ids.text(34, `${letters}._~-`)}`;
    const password: Password = {
      keyId: lab.ids.uuid(),
      displayName: text(fields["displayName"]) ?? null,
      hint: secret.slice(0, 3),
      startMs,
      endMs,
      secret,
      knownFromMs: spread(lab),
    };
    app.passwords.unshift(password);
    written(app);
    return {
      status: 200,
      body: {
        "@odata.context": context(request, "microsoft.graph.passwordCredential"),
        ...passwordView(password),
        secretText: secret,
      },
    };
  }
  function removePassword(request: LabRequest, app: Application): Reply {
    const keyId = text(body(request)["keyId"]) ?? bad(request, "Invalid value specified for property 'keyId'.");
    const found = app.passwords.find((each) => each.keyId === keyId.toLowerCase());
    if (found === undefined) return bad(request, `No password credential found with keyId '${keyId}'.`);
    beforeWrite(request, app);
    app.passwords = app.passwords.filter((each) => each !== found);
    app.gone.passwords.push({ ...found, knownUntilMs: spread(lab) });
    written(app);
    return { status: 204 };
  }

  function newKey(request: LabRequest, entry: Json): Key {
    if (entry["type"] !== "AsymmetricX509Cert" || entry["usage"] !== "Verify")
      bad(
        request,
        "Key credential type or usage is invalid. A certificate has the type AsymmetricX509Cert and the usage Verify.",
      );
    const base64 = text(entry["key"]) ?? bad(request, "New key credential must carry its key.");
    const raw = Buffer.from(base64, "base64");
    let certificate: X509Certificate;
    try {
      certificate = new X509Certificate(raw);
    } catch {
      // A PFX holds the private half, which the directory does not take.
      return bad(
        request,
        readPfx(raw, undefined)
          ? "Key value must be a public certificate, not a PKCS#12 file."
          : "Key credential value is invalid.",
      );
    }
    const now = lab.now();
    const endOfCertificate = Date.parse(certificate.validTo);
    const startMs = readTime(request, entry["startDateTime"], "startDateTime") ?? Date.parse(certificate.validFrom);
    const endMs = readTime(request, entry["endDateTime"], "endDateTime") ?? endOfCertificate;
    if (endMs > endOfCertificate || endMs <= now)
      refuse(request, 400, "KeyCredentialsInvalidEndDate", "Key credential end date is invalid.");
    if (startMs >= endMs)
      refuse(request, 400, "KeyCredentialsInvalidStartDate", "Key credential start date is invalid.");
    return {
      keyId: text(entry["keyId"])?.toLowerCase() ?? lab.ids.uuid(),
      displayName: text(entry["displayName"]) ?? certificate.subject.split("\n").join(", "),
      customKeyIdentifier: text(entry["customKeyIdentifier"]) ?? thumbprint(certificate),
      startMs,
      endMs,
      certificate: certificate.raw.toString("base64"),
      knownFromMs: spread(lab),
    };
  }

  /** The array in the request becomes the array of the application: what is left out is gone. */
  function patch(request: LabRequest, app: Application): Reply {
    const fields = body(request);
    const allowed = ["keyCredentials", "displayName"];
    const unknown = Object.keys(fields).filter((each) => !allowed.includes(each) && !each.startsWith("@odata"));
    if (fields["passwordCredentials"] !== undefined)
      bad(
        request,
        "Property 'passwordCredentials' is read-only and cannot be set. Use addPassword and removePassword.",
      );
    if (unknown.length > 0) bad(request, `Property '${unknown[0]}' is not supported by this emulation.`);
    let keys: Key[] = app.keys;
    const wished = fields["keyCredentials"];
    if (wished !== undefined) {
      if (!Array.isArray(wished)) return bad(request, "Property 'keyCredentials' must be an array.");
      keys = wished.map((entry: unknown) => {
        if (!isRecord(entry)) return bad(request, "An entry of 'keyCredentials' is not an object.");
        const keyId = text(entry["keyId"])?.toLowerCase();
        const known = app.keys.find((each) => each.keyId === keyId);
        if (known === undefined) return newKey(request, entry);
        const same =
          (entry["key"] === null || entry["key"] === undefined || entry["key"] === known.certificate) &&
          ["displayName", "startDateTime", "endDateTime", "customKeyIdentifier", "type", "usage"].every((name) => {
            const given = entry[name];
            const has = keyView(known, false)[name];
            if (given === undefined || given === null || given === has) return true;
            return name.endsWith("DateTime") && typeof given === "string" && typeof has === "string"
              ? Math.abs(Date.parse(given) - Date.parse(has)) < 1000
              : false;
          });
        return same ? known : bad(request, `Update to existing credential with KeyId '${known.keyId}' is not allowed.`);
      });
      if (new Set(keys.map((each) => each.keyId)).size !== keys.length)
        bad(request, "Two entries of 'keyCredentials' have one keyId.");
    }
    beforeWrite(request, app);
    const until = spread(lab);
    app.gone.keys.push(
      ...app.keys.filter((each) => !keys.includes(each)).map((each) => ({ ...each, knownUntilMs: until })),
    );
    app.keys = keys;
    app.displayName = text(fields["displayName"]) ?? app.displayName;
    written(app);
    return { status: 204 };
  }

  function addKey(request: LabRequest, app: Application): Reply {
    const fields = body(request);
    if (!provenBy(lab, app, fields["proof"])) bad(request, "The proof of possession is invalid.");
    const entry = fields["keyCredential"];
    if (!isRecord(entry)) return bad(request, "Property 'keyCredential' is missing.");
    const key = newKey(request, entry);
    beforeWrite(request, app);
    app.keys.push(key);
    written(app);
    return {
      status: 200,
      body: { "@odata.context": context(request, "microsoft.graph.keyCredential"), ...keyView(key, true) },
    };
  }
  function removeKey(request: LabRequest, app: Application): Reply {
    const fields = body(request);
    const keyId = text(fields["keyId"])?.toLowerCase();
    const found = app.keys.find((each) => each.keyId === keyId);
    if (found === undefined) return bad(request, `No key credential found with keyId '${String(keyId)}'.`);
    if (!provenBy(lab, app, fields["proof"])) bad(request, "The proof of possession is invalid.");
    beforeWrite(request, app);
    app.keys = app.keys.filter((each) => each !== found);
    app.gone.keys.push({ ...found, knownUntilMs: spread(lab) });
    written(app);
    return { status: 204 };
  }

  function signInActivities(request: LabRequest, who: ServicePrincipal): Reply {
    if (!hasRole(lab, who, "AuditLog.Read.All") && !hasRole(lab, who, "Directory.Read.All")) forbidden(request);
    const seen = lab.state.signIns.filter((each) => each.atMs <= lab.now() - lab.span(reportDelayMs));
    const all = seen.flatMap((each): Json[] => {
      const app = lab.state.applications.find((one) => one.appId === each.appId);
      const credential = [...(app?.passwords ?? []), ...(app?.keys ?? [])].find((one) => one.keyId === each.keyId);
      const principal = lab.state.servicePrincipals.find((one) => one.appId === each.appId);
      if (app === undefined || credential === undefined || principal === undefined) return [];
      return [
        {
          id: Buffer.from(`${each.appId}|${each.keyId}`).toString("base64url"),
          keyId: each.keyId,
          keyType: each.keyType,
          keyUsage: each.keyType === "certificate" ? "verify" : "sign",
          appId: app.appId,
          appObjectId: app.id,
          servicePrincipalObjectId: principal.id,
          resourceId: each.resource,
          credentialOrigin: "application",
          expirationDateTime: isoSeconds(credential.endMs),
          createdDateTime: isoSeconds(credential.startMs),
          signInActivity: { lastSignInDateTime: isoSeconds(each.atMs), lastSignInRequestId: each.requestId },
        },
      ];
    });
    const filter = request.query.get("$filter");
    const [, field = "", value = ""] = /^\s*(keyId|appId|appObjectId)\s+eq\s+'([^']*)'\s*$/.exec(filter ?? "") ?? [];
    if (filter !== null && field === "")
      refuse(
        request,
        400,
        "Request_UnsupportedQuery",
        "Unsupported or invalid query filter clause specified for property.",
      );
    return listReply(
      request,
      "reports/appCredentialSignInActivities",
      field === "" ? all : all.filter((each) => each[field] === value.toLowerCase()),
      (each) => each,
    );
  }

  function applications(request: LabRequest, who: ServicePrincipal): Reply {
    const [, collection = "", ...rest] = request.segments;
    const alternate = collection.includes("(");
    if (!alternate && rest.length === 0) {
      if (request.method !== "GET")
        return refuse(
          request,
          405,
          "Request_BadRequest",
          "Specified HTTP method is not allowed for the request target.",
        );
      mayRead(request, who);
      const all = lab.state.applications.map((each) => lagging(lab, each.id, each));
      return listReply(request, "applications", filtered(request, all), (each) => applicationView(each, false));
    }
    const app = find(request, lab.state.applications, collection, rest[0]);
    const verb = (alternate ? rest[0] : rest[1])?.replace(/^microsoft\.graph\./, "");
    const key = `${request.method} ${verb ?? ""}`;
    if (request.method === "GET") mayRead(request, who);
    // The owner's right to roll the application's own keys needs no permission but the proof.
    else if (key !== "POST addKey" && key !== "POST removeKey") mayWrite(request, who, app);
    switch (key) {
      case "GET ": {
        const withKeys = (request.query.get("$select") ?? "")
          .split(",")
          .some((each) => each.trim() === "keyCredentials");
        const view = selected(request, applicationView(lagging(lab, app.id, app), withKeys));
        return { status: 200, body: { "@odata.context": context(request, "applications/$entity"), ...view } };
      }
      case "PATCH ":
        return patch(request, app);
      case "POST addPassword":
        return addPassword(request, app);
      case "POST removePassword":
        return removePassword(request, app);
      case "POST addKey":
        return addKey(request, app);
      case "POST removeKey":
        return removeKey(request, app);
      case "GET owners":
        return listReply(request, "directoryObjects", app.owners, (id): Json => {
          const principal = lab.state.servicePrincipals.find((each) => each.id === id);
          return principal
            ? { "@odata.type": "#microsoft.graph.servicePrincipal", ...principalView(principal) }
            : { "@odata.type": "#microsoft.graph.user", id, displayName: "Lab Owner" };
        });
      default:
        return bad(request, `Resource not found for the segment '${verb ?? collection}'.`);
    }
  }

  function servicePrincipals(request: LabRequest, who: ServicePrincipal): Reply {
    const [, collection = "", ...rest] = request.segments;
    if (request.method !== "GET")
      return refuse(request, 405, "Request_BadRequest", "Specified HTTP method is not allowed for the request target.");
    mayRead(request, who);
    if (!collection.includes("(") && rest.length === 0)
      return listReply(request, "servicePrincipals", filtered(request, lab.state.servicePrincipals), principalView);
    const found = find(request, lab.state.servicePrincipals, collection, rest[0]);
    const verb = collection.includes("(") ? rest[0] : rest[1];
    if (verb === "owners") {
      const owners = lab.state.applications.find((each) => each.appId === found.appId)?.owners ?? [];
      return listReply(request, "directoryObjects", owners, (id): Json => ({
        "@odata.type": "#microsoft.graph.servicePrincipal",
        id,
      }));
    }
    if (verb !== undefined) return bad(request, `Resource not found for the segment '${verb}'.`);
    return {
      status: 200,
      body: {
        "@odata.context": context(request, "servicePrincipals/$entity"),
        ...selected(request, principalView(found)),
      },
    };
  }

  function defaultPolicy(request: LabRequest, who: ServicePrincipal): Reply {
    if (!hasRole(lab, who, "Policy.Read.All")) forbidden(request);
    const cap = lab.state.passwordLifetimeMs;
    return {
      status: 200,
      body: {
        "@odata.context": context(request, "policies/defaultAppManagementPolicy/$entity"),
        id: "00000000-0000-0000-0000-000000000000",
        displayName: "Default app management tenant policy",
        description:
          "Default tenant policy that enforces app management restrictions on applications and service principals.",
        isEnabled: cap !== null,
        applicationRestrictions: {
          passwordCredentials:
            cap === null
              ? []
              : [
                  {
                    restrictionType: "passwordLifetime",
                    state: "enabled",
                    maxLifetime: `P${Math.round(cap / 86_400_000)}D`,
                    restrictForAppsCreatedAfterDateTime: "2000-01-01T00:00:00Z",
                  },
                ],
          keyCredentials: [],
        },
        servicePrincipalRestrictions: { passwordCredentials: [], keyCredentials: [] },
      },
    };
  }

  // Domains and their federation.

  function domainView(domain: Domain): Json {
    return {
      id: domain.id,
      authenticationType: domain.federation === undefined ? "Managed" : "Federated",
      availabilityStatus: null,
      isAdminManaged: true,
      isDefault: domain.id === lab.state.domain,
      isInitial: domain.id === lab.state.domain,
      isRoot: true,
      isVerified: true,
      passwordNotificationWindowInDays: 14,
      passwordValidityPeriodInDays: 90,
      state: null,
      supportedServices: [],
    };
  }
  function federationView(domain: Domain): Json {
    const { federation } = domain;
    if (federation === undefined) return {};
    const host = lab.state.farms.find((each) => each.name === federation.farm)?.host ?? "";
    return {
      id: federation.id,
      displayName: federation.displayName,
      issuerUri: `http://${host}/adfs/services/trust/${domain.id}`,
      metadataExchangeUri: `https://${host}/adfs/services/trust/mex`,
      signingCertificate: federation.signingCertificate,
      passiveSignInUri: `https://${host}/adfs/ls/`,
      preferredAuthenticationProtocol: "wsFed",
      activeSignInUri: `https://${host}/adfs/services/trust/2005/usernamemixed`,
      signOutUri: `https://${host}/adfs/ls/`,
      promptLoginBehavior: "nativeSupport",
      isSignedAuthenticationRequestRequired: false,
      nextSigningCertificate: federation.nextSigningCertificate,
      federatedIdpMfaBehavior: "acceptIfMfaDoneByFederatedIdp",
      signingCertificateUpdateStatus: {
        certificateUpdateResult: federation.updateResult,
        lastRunDateTime: isoSeconds(federation.updatedMs),
      },
    };
  }
  function domains(request: LabRequest, who: ServicePrincipal): Reply {
    const [, , id, part, federationId] = request.segments;
    const read = [
      "Domain.Read.All",
      "Domain.ReadWrite.All",
      "Directory.Read.All",
      "Domain-InternalFederation.ReadWrite.All",
    ];
    const write = ["Domain-InternalFederation.ReadWrite.All", "Domain.ReadWrite.All"];
    if (!(request.method === "GET" ? read : write).some((role) => hasRole(lab, who, role))) forbidden(request);
    if (id === undefined) {
      // authenticationType cannot be asked for here.
      if (request.query.has("$filter"))
        bad(request, "Unsupported or invalid query filter clause specified for property.");
      return listReply(request, "domains", lab.state.domains, domainView);
    }
    const domain = lab.state.domains.find((each) => each.id === id.toLowerCase()) ?? missing(request, id);
    const key = `domain ${domain.id}`;
    if (part === undefined && request.method === "GET")
      return {
        status: 200,
        body: { "@odata.context": context(request, "domains/$entity"), ...selected(request, domainView(domain)) },
      };
    if (part !== "federationConfiguration")
      return bad(request, `Resource not found for the segment '${String(part)}'.`);
    const seen = request.method === "GET" ? lagging(lab, key, domain) : domain;
    if (federationId === undefined && request.method === "GET")
      return listReply(
        request,
        `domains('${domain.id}')/federationConfiguration`,
        seen.federation === undefined ? [] : [seen],
        federationView,
      );
    const { federation } = domain;
    if (federation === undefined || federation.id !== federationId) return missing(request, federationId ?? domain.id);
    if (request.method === "GET")
      return {
        status: 200,
        body: {
          "@odata.context": context(request, `domains('${domain.id}')/federationConfiguration/$entity`),
          ...selected(request, federationView(seen)),
        },
      };
    if (request.method !== "PATCH") return bad(request, "Specified HTTP method is not allowed for the request target.");
    const fields = body(request);
    const certificate = (name: string): string | undefined => {
      const value = text(fields[name]);
      if (value === undefined) return undefined;
      try {
        return new X509Certificate(Buffer.from(value, "base64")).raw.toString("base64");
      } catch {
        return bad(request, `Invalid value specified for property '${name}' of resource 'InternalDomainFederation'.`);
      }
    };
    const [current, next] = [certificate("signingCertificate"), certificate("nextSigningCertificate")];
    remember(lab, key, domain);
    federation.signingCertificate = current ?? federation.signingCertificate;
    if (fields["nextSigningCertificate"] === null) federation.nextSigningCertificate = null;
    federation.nextSigningCertificate = next ?? federation.nextSigningCertificate;
    federation.displayName = text(fields["displayName"]) ?? federation.displayName;
    federation.updateResult = "Success";
    federation.updatedMs = lab.now();
    lab.changed();
    return { status: 204 };
  }

  return {
    name: "graph",
    async handle(request) {
      const who = caller(request);
      const [version, collection = "", third = ""] = request.segments;
      if (/^applications(\(|$)/i.test(collection)) return applications(request, who);
      if (/^servicePrincipals(\(|$)/i.test(collection)) return servicePrincipals(request, who);
      if (/^domains$/i.test(collection)) return domains(request, who);
      // Published below /beta only.
      if (
        version === "beta" &&
        collection === "reports" &&
        third === "appCredentialSignInActivities" &&
        request.method === "GET"
      )
        return signInActivities(request, who);
      if (collection === "policies" && third === "defaultAppManagementPolicy" && request.method === "GET")
        return defaultPolicy(request, who);
      return error(request, 400, "BadRequest", `Resource not found for the segment '${collection}'.`);
    },
    throttled: (request, retryAfterS) =>
      error(request, 429, "TooManyRequests", "Too Many Requests", { "retry-after": String(retryAfterS) }),
    unavailable: (request) =>
      error(
        request,
        503,
        "Service_Unavailable",
        "Service is temporarily unavailable. Please wait and retry again.",
        {},
      ),
    limit(request) {
      if (request.method === "GET") return 0;
      const found = callerOf(lab, request, audience);
      return "principal" in found ? limiter.take(`graph ${found.principal.appId}`, writeLimit, lab.now()) : 0;
    },
  };
}

/** For tests and the table of versions: which certificate an entry stands for. */
export const keyThumbprint = (key: Key): string =>
  createHash("sha1").update(Buffer.from(key.certificate, "base64")).digest("hex").toUpperCase();
