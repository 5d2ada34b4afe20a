/**
 * Azure Resource Manager: resource groups, resources, vaults, API connections and Automation variables. Reference: the OpenAPI contracts
 * Microsoft.Resources 2024-03-01, Microsoft.Web connections 2016-06-01 and Microsoft.Automation variables 2023-11-01, with their examples.
 */
import { X509Certificate } from "node:crypto";
import type { BucketLimit } from "./faults.ts";
import { replicas } from "./faults.ts";
import {
  compact,
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
import { hubHost, readCertificate } from "./iot.ts";
import { callerOf, isGranted, knownAt, lagging, remember, type Lab, type Service } from "./lab.ts";
import { thumbprint } from "./pki.ts";
import type {
  AutomationAccount,
  CaCertificate,
  Connection,
  ProvisioningService,
  ServicePrincipal,
  Variable,
} from "./state.ts";

const audience = "https://management.azure.com";
/** "Understand how Azure Resource Manager throttles requests": per principal and subscription. */
const readLimit: BucketLimit = { bucket: 250, perSecond: 25 };
const writeLimit: BucketLimit = { bucket: 200, perSecond: 10 };

/** What each managed connector must be given; what is secret is never answered. */
const apis: Readonly<Record<string, { readonly displayName: string; readonly needs: readonly string[] }>> = {
  keyvault: {
    displayName: "Azure Key Vault",
    needs: ["vaultName", "token:clientId", "token:clientSecret", "token:TenantId", "token:grantType"],
  },
  azureautomation: {
    displayName: "Azure Automation",
    needs: ["token:clientId", "token:clientSecret", "token:TenantId", "token:grantType"],
  },
};
const secretParameters = ["token:clientSecret", "token:clientId"];

export function armService(
  lab: Lab,
  limiter: { take(key: string, limit: BucketLimit, nowMs: number): number; left(key: string): number },
): Service {
  const error = (status: number, code: string, message: string, headers?: Record<string, string>): Reply => ({
    status,
    ...(headers ? { headers } : {}),
    body: { error: { code, message } },
  });
  const refuse = (status: number, code: string, message: string): never => {
    throw new Refusal(error(status, code, message));
  };
  /** Automation writes its own errors without the envelope. */
  const automationError = (status: number, code: string, message: string): never => {
    throw new Refusal({ status, body: { code, message } });
  };
  const body = (request: LabRequest): Json =>
    jsonBody(request) ??
    refuse(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized.");

  function caller(request: LabRequest): ServicePrincipal {
    const found = callerOf(lab, request, audience);
    if ("principal" in found) return found.principal;
    const [code, message] = {
      missing: ["AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."],
      unreadable: ["InvalidAuthenticationToken", "The access token is invalid."],
      expired: ["ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than current UTC time."],
      audience: [
        "InvalidAuthenticationTokenAudience",
        `The access token has been obtained for wrong audience or resource. It should exactly match with one of the allowed audiences 'https://management.core.windows.net/', 'https://management.azure.com/'.`,
      ],
    }[found.problem] as [string, string];
    throw new Refusal(
      error(401, code, message, {
        "www-authenticate": `Bearer authorization_uri="${lab.origin()}/${lab.state.tenantId}", error="invalid_token", error_description="${message}"`,
      }),
    );
  }
  function need(who: ServicePrincipal, action: string, scope: string): void {
    if (isGranted(lab, who, action, scope)) return;
    refuse(
      403,
      "AuthorizationFailed",
      `The client '${who.appId}' with object id '${who.id}' does not have authorization to perform action '${action}' over scope '${scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.`,
    );
  }
  const subscription = (): string => `/subscriptions/${lab.state.subscriptionId}`;
  const groupId = (name: string): string => `${subscription()}/resourceGroups/${name}`;
  const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();

  function listReply(request: LabRequest, all: readonly Json[]): Reply {
    const top = Number(request.query.get("$top") ?? 100);
    const plainSkip = request.query.get("$skip");
    const offset =
      plainSkip === null
        ? (readSkipToken(request.query.get("$skiptoken")) ??
          refuse(400, "InvalidSkipToken", "The provided skip token is invalid."))
        : Number(plainSkip);
    const { items, next } = page(all, offset, Number.isInteger(top) && top > 0 ? top : 100);
    const more = new URLSearchParams(request.query);
    if (next !== null) more.set("$skiptoken", skipToken(next));
    return {
      status: 200,
      body: {
        value: items,
        ...(next === null ? {} : { nextLink: `${request.origin}${request.path}?${more.toString()}` }),
      },
    };
  }

  // Resource groups and resources.

  function resourceGroups(request: LabRequest): Json[] {
    const filter = request.query.get("$filter");
    const tag = /^\s*tagName\s+eq\s+'([^']*)'(?:\s+and\s+tagValue\s+eq\s+'([^']*)')?\s*$/.exec(filter ?? "");
    // Names cannot be asked for: whoever looks for a prefix reads all of them.
    if (filter !== null && tag === null)
      refuse(400, "InvalidFilterInQueryString", `Invalid $filter '${filter}' specified in the query string.`);
    return lab.state.resourceGroups
      .filter(
        (each) =>
          tag === null ||
          (each.tags?.[tag[1]!] !== undefined && (tag[2] === undefined || each.tags[tag[1]!] === tag[2])),
      )
      .map((each) =>
        compact({
          id: groupId(each.name),
          name: each.name,
          type: "Microsoft.Resources/resourceGroups",
          location: each.location,
          managedBy: each.managedBy,
          tags: each.tags,
          properties: { provisioningState: "Succeeded" },
        }),
      );
  }
  interface Resource {
    readonly group: string;
    readonly type: string;
    readonly name: string;
    readonly location: string;
    readonly tags?: Readonly<Record<string, string>>;
  }
  const allResources = (): Resource[] => [
    ...lab.state.vaults.map((each) => ({
      group: each.resourceGroup,
      type: "Microsoft.KeyVault/vaults",
      name: each.name,
      location: each.location,
    })),
    ...lab.state.connections.map((each) => ({
      group: each.resourceGroup,
      type: "Microsoft.Web/connections",
      name: each.name,
      location: each.location,
      ...(each.tags ? { tags: each.tags } : {}),
    })),
    ...[...lab.state.provisioningServices, ...lab.state.hubs].map((each) => ({
      group: each.resourceGroup,
      type: "idScope" in each ? "Microsoft.Devices/provisioningServices" : "Microsoft.Devices/IotHubs",
      name: each.name,
      location: each.location,
    })),
    ...lab.state.automationAccounts.map((each) => ({
      group: each.resourceGroup,
      type: "Microsoft.Automation/automationAccounts",
      name: each.name,
      location: each.location,
    })),
  ];
  function resources(request: LabRequest, group: string | undefined): Json[] {
    const filter = request.query.get("$filter");
    const wanted: [field: string, value: string][] = [];
    for (const part of (filter ?? "").split(/\s+and\s+/i).filter((each) => each.trim() !== "")) {
      const match = /^\s*(resourceType|name|resourceGroup|location)\s+eq\s+'([^']*)'\s*$/i.exec(part);
      if (match === null)
        return refuse(400, "InvalidFilterInQueryString", `Invalid $filter '${filter}' specified in the query string.`);
      wanted.push([match[1]!.toLowerCase(), match[2]!]);
    }
    return allResources()
      .filter((each) => group === undefined || same(each.group, group))
      .filter((each) =>
        wanted.every(([field, value]) =>
          same(
            { resourcetype: each.type, name: each.name, resourcegroup: each.group, location: each.location }[field] ??
              "",
            value,
          ),
        ),
      )
      .map((each) =>
        compact({
          id: `${groupId(each.group)}/providers/${each.type}/${each.name}`,
          name: each.name,
          type: each.type,
          location: each.location,
          tags: each.tags,
        }),
      );
  }

  // API connections.

  const connectionId = (each: Connection): string =>
    `${groupId(each.resourceGroup)}/providers/Microsoft.Web/connections/${each.name}`;
  /** What the connection's stored credentials are worth right now, in the words that its status uses. */
  function statusOf(connection: Connection): Json {
    const problem = (code: string, message: string): Json => ({
      status: "Error",
      target: "token",
      error: { code, message },
    });
    const values = connection.parameterValues;
    if ((apis[connection.api]?.needs ?? []).some((name) => (values[name] ?? "") === ""))
      return problem("ConfigurationNeeded", "Parameter value missing.");
    const app = lab.state.applications.find((each) => each.appId === values["token:clientId"]?.toLowerCase());
    const now = lab.now();
    const replica = Math.floor(lab.dice.next() * replicas);
    const found = app?.passwords.find(
      (each) => each.secret === values["token:clientSecret"] && knownAt(each, replica, now),
    );
    if (found !== undefined && found.endMs > now) return { status: "Connected" };
    const code =
      found === undefined
        ? "AADSTS7000215: Invalid client secret provided."
        : "AADSTS7000222: The provided client secret keys are expired.";
    return problem(
      "Unauthorized",
      `Failed to refresh access token for service: ${connection.api}. Error: Failed to acquire token from AAD: ${code}`,
    );
  }
  function connectionView(request: LabRequest, connection: Connection): Json {
    const id = connectionId(connection);
    const shown = Object.entries(connection.parameterValues).filter(([name]) => !secretParameters.includes(name));
    return compact({
      properties: {
        displayName: connection.displayName,
        statuses: [statusOf(connection)],
        customParameterValues: {},
        nonSecretParameterValues: Object.fromEntries(shown),
        createdTime: new Date(connection.createdMs).toISOString(),
        changedTime: new Date(connection.changedMs).toISOString(),
        api: {
          name: connection.api,
          displayName: apis[connection.api]?.displayName ?? connection.api,
          description: "",
          iconUri: `${request.origin}/icons/${connection.api}.png`,
          brandColor: "#0079d6",
          id: `${subscription()}/providers/Microsoft.Web/locations/${connection.location}/managedApis/${connection.api}`,
          type: "Microsoft.Web/locations/managedApis",
        },
        testLinks: [
          {
            requestUri: `${request.origin}${id}/extensions/proxy/testconnection?api-version=2016-06-01`,
            method: "get",
          },
        ],
      },
      id,
      name: connection.name,
      type: "Microsoft.Web/connections",
      location: connection.location,
      tags: connection.tags,
    });
  }
  function strings(value: unknown, what: string): Record<string, string> {
    if (!isRecord(value)) return refuse(400, "InvalidRequestContent", `${what} must be an object of texts.`);
    return Object.fromEntries(
      Object.entries(value).map(([name, each]) => [
        name,
        text(each) ?? refuse(400, "InvalidRequestContent", `${what}.${name} must be a text.`),
      ]),
    );
  }

  function connections(
    request: LabRequest,
    who: ServicePrincipal,
    group: string,
    name: string | undefined,
    rest: readonly string[],
  ): Reply {
    const scope = `${groupId(group)}/providers/Microsoft.Web/connections${name === undefined ? "" : `/${name}`}`;
    const inGroup = lab.state.connections.filter((each) => same(each.resourceGroup, group));
    if (name === undefined) {
      need(who, "Microsoft.Web/connections/read", scope);
      return listReply(
        request,
        inGroup.map((each) => connectionView(request, lagging(lab, connectionId(each), each))),
      );
    }
    const found = inGroup.find((each) => same(each.name, name));
    const missing = (): never =>
      refuse(
        404,
        "ResourceNotFound",
        `The Resource 'Microsoft.Web/connections/${name}' under resource group '${group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix`,
      );
    if (rest.join("/").toLowerCase() === "extensions/proxy/testconnection") {
      need(who, "Microsoft.Web/connections/read", scope);
      const status = statusOf(found ?? missing());
      return status["status"] === "Connected"
        ? { status: 200, body: {} }
        : { status: 401, body: { error: status["error"] } };
    }
    if (rest.length > 0) return refuse(404, "NotFound", "The resource was not found.");
    switch (request.method) {
      case "GET":
        need(who, "Microsoft.Web/connections/read", scope);
        return { status: 200, body: connectionView(request, lagging(lab, scope, found ?? missing())) };
      case "DELETE":
        need(who, "Microsoft.Web/connections/delete", scope);
        lab.state.connections = lab.state.connections.filter((each) => each !== found);
        lab.changed();
        return { status: found === undefined ? 204 : 200 };
      case "PUT":
      case "PATCH": {
        need(who, "Microsoft.Web/connections/write", scope);
        if (request.method === "PATCH" && found === undefined) return missing();
        const given = body(request);
        const properties = isRecord(given["properties"]) ? given["properties"] : {};
        const apiField = properties["api"];
        const api = isRecord(apiField) ? text(apiField["id"])?.split("/").at(-1)?.toLowerCase() : undefined;
        if (request.method === "PUT" && text(given["location"]) === undefined)
          refuse(400, "LocationRequired", "The location property is required for this definition.");
        if (request.method === "PUT" && api === undefined)
          refuse(
            400,
            "ApiConnectionMissingApi",
            "The API connection must reference its managed API in properties.api.id.",
          );
        if (api !== undefined && apis[api] === undefined)
          refuse(404, "ApiResourceNotFound", `The managed API '${api}' is not found.`);
        if (api !== undefined && found !== undefined && found.api !== api)
          refuse(409, "ApiConnectionApiMismatch", "The managed API of an API connection cannot be changed.");
        if (found) remember(lab, connectionId(found), found);
        const now = lab.now();
        const connection: Connection = found ?? {
          name,
          resourceGroup: lab.state.resourceGroups.find((each) => same(each.name, group))?.name ?? group,
          location: text(given["location"]) ?? "",
          displayName: name,
          api: api ?? "",
          parameterValues: {},
          createdMs: now,
          changedMs: now,
        };
        // One slot: the values that are sent become all the values there are.
        if (properties["parameterValues"] !== undefined || request.method === "PUT")
          connection.parameterValues = strings(properties["parameterValues"] ?? {}, "properties.parameterValues");
        connection.displayName = text(properties["displayName"]) ?? connection.displayName;
        if (given["tags"] !== undefined) connection.tags = strings(given["tags"], "tags");
        connection.changedMs = now;
        if (found === undefined) lab.state.connections.push(connection);
        lab.changed();
        return { status: found === undefined ? 201 : 200, body: connectionView(request, connection) };
      }
      default:
        return refuse(405, "MethodNotAllowed", `The HTTP method '${request.method}' is not supported here.`);
    }
  }

  // Automation variables.

  /** `2017-03-28T22:59:00.937+00:00`, as this service writes times. */
  const offsetTime = (ms: number): string => new Date(ms).toISOString().replace("Z", "+00:00");
  function variableView(account: AutomationAccount, variable: Variable): Json {
    return {
      id: `${groupId(account.resourceGroup)}/providers/Microsoft.Automation/automationAccounts/${account.name}/variables/${variable.name}`,
      name: variable.name,
      type: "Microsoft.Automation/AutomationAccounts/Variables",
      properties: compact({
        creationTime: offsetTime(variable.createdMs),
        lastModifiedTime: offsetTime(variable.changedMs),
        isEncrypted: variable.isEncrypted,
        // What is encrypted is for runbooks only.
        value: variable.isEncrypted ? undefined : variable.value,
        description: variable.description,
      }),
    };
  }
  function checkValue(value: string): void {
    try {
      JSON.parse(value);
    } catch {
      automationError(400, "BadRequest", '{"Message":"Invalid JSON - Kindly check the value of the variable."}');
    }
  }
  function variables(
    request: LabRequest,
    who: ServicePrincipal,
    group: string,
    accountName: string,
    name: string | undefined,
  ): Reply {
    const account = lab.state.automationAccounts.find(
      (each) => same(each.resourceGroup, group) && same(each.name, accountName),
    );
    const scope = `${groupId(group)}/providers/Microsoft.Automation/automationAccounts/${accountName}/variables${name === undefined ? "" : `/${name}`}`;
    const may = (verb: string): void => need(who, `Microsoft.Automation/automationAccounts/variables/${verb}`, scope);
    if (account === undefined) {
      may("read");
      return refuse(
        404,
        "ResourceNotFound",
        `The Resource 'Microsoft.Automation/automationAccounts/${accountName}' under resource group '${group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix`,
      );
    }
    if (name === undefined) {
      may("read");
      return listReply(
        request,
        Object.values(account.variables).map((each) => variableView(account, each)),
      );
    }
    const key = name.toLowerCase();
    const found = account.variables[key];
    const missing = (): never => automationError(404, "NotFound", "The variable asset was not found.");
    const properties = (): Json => {
      const given = body(request)["properties"];
      return isRecord(given) ? given : automationError(400, "BadRequest", "The property 'properties' is required.");
    };
    switch (request.method) {
      case "GET":
        may("read");
        return { status: 200, body: variableView(account, lagging(lab, scope, found ?? missing())) };
      case "DELETE":
        may("delete");
        if (found === undefined) return missing();
        delete account.variables[key];
        lab.changed();
        return { status: 200 };
      case "PUT":
      case "PATCH": {
        may("write");
        if (request.method === "PATCH" && found === undefined) return missing();
        const fields = properties();
        const value = text(fields["value"]);
        if (fields["value"] !== undefined && fields["value"] !== null && value === undefined)
          automationError(400, "BadRequest", "The property 'value' must be a text that holds JSON.");
        if (value !== undefined) checkValue(value);
        const isEncrypted =
          typeof fields["isEncrypted"] === "boolean" ? fields["isEncrypted"] : (found?.isEncrypted ?? false);
        if (found !== undefined && isEncrypted !== found.isEncrypted)
          automationError(
            400,
            "BadRequest",
            '{"Message":"The encryption of a variable cannot be changed after it was created."}',
          );
        if (found) remember(lab, scope, found);
        const now = lab.now();
        const variable: Variable = {
          name: found?.name ?? name,
          value: value ?? found?.value ?? "null",
          description: text(fields["description"]) ?? found?.description ?? null,
          isEncrypted,
          createdMs: found?.createdMs ?? now,
          changedMs: now,
        };
        account.variables[key] = variable;
        lab.changed();
        return { status: found === undefined ? 201 : 200, body: variableView(account, variable) };
      }
      default:
        return refuse(405, "MethodNotAllowed", `The HTTP method '${request.method}' is not supported here.`);
    }
  }

  // Provisioning services and their CA certificates.

  const mostCertificates = 25;
  const rfc1123 = (ms: number): string => new Date(ms).toUTCString();
  /** These resources count their versions in short texts; every call that is about one makes it another, reading excepted. */
  const nextEtag = (): string => lab.ids.bytes(8).toString("base64");
  const devicesError = (status: number, code: number, message: string): never => {
    throw new Refusal({ status, body: { code, httpStatusCode: String(status), message } });
  };
  function provisioningView(service: ProvisioningService): Json {
    const host = `localhost:${lab.state.ports[`dps ${service.name}`]}`;
    return {
      id: `${groupId(service.resourceGroup)}/providers/Microsoft.Devices/provisioningServices/${service.name}`,
      name: service.name,
      type: "Microsoft.Devices/provisioningServices",
      location: service.location,
      etag: "AAAAAAAADGk=",
      tags: {},
      sku: { name: "S1", tier: "Standard", capacity: 1 },
      properties: {
        state: "Active",
        provisioningState: "Succeeded",
        iotHubs: service.hubs.map((name) => ({
          name: hubHost(lab, name),
          location: service.location,
          connectionString: "",
        })),
        allocationPolicy: "Hashed",
        serviceOperationsHostName: host,
        deviceProvisioningHostName: host,
        idScope: service.idScope,
        authorizationPolicies: [],
      },
    };
  }
  function caView(service: ProvisioningService, ca: CaCertificate, more: Json = {}): Json {
    const certificate = new X509Certificate(ca.certificate);
    return {
      properties: {
        subject: certificate.subject.split("\n").join(", "),
        expiry: rfc1123(Date.parse(certificate.validTo)),
        thumbprint: thumbprint(certificate),
        isVerified: ca.isVerified,
        created: rfc1123(ca.createdMs),
        updated: rfc1123(ca.changedMs),
        certificate: null,
        ...more,
      },
      id: `${groupId(service.resourceGroup)}/providers/Microsoft.Devices/provisioningServices/${service.name}/certificates/${ca.name}`,
      name: ca.name,
      type: "Microsoft.Devices/ProvisioningServices/Certificates",
      etag: ca.etag,
    };
  }
  function provisioning(
    request: LabRequest,
    who: ServicePrincipal,
    group: string,
    name: string | undefined,
    rest: readonly string[],
  ): Reply {
    const inGroup = lab.state.provisioningServices.filter((each) => same(each.resourceGroup, group));
    const type = "Microsoft.Devices/provisioningServices";
    const scope = `${groupId(group)}/providers/${type}${name === undefined ? "" : `/${name}`}`;
    if (name === undefined) {
      need(who, `${type}/Read`, scope);
      return listReply(request, inGroup.map(provisioningView));
    }
    const service = inGroup.find((each) => same(each.name, name));
    if (service === undefined) {
      need(who, `${type}/Read`, scope);
      return refuse(
        404,
        "ResourceNotFound",
        `The Resource '${type}/${name}' under resource group '${group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix`,
      );
    }
    const [collection, caName, verb] = rest;
    if (collection === undefined) {
      if (request.method !== "GET")
        return refuse(405, "MethodNotAllowed", `The HTTP method '${request.method}' is not supported here.`);
      need(who, `${type}/Read`, scope);
      return { status: 200, body: provisioningView(service) };
    }
    if (!same(collection, "certificates")) return refuse(404, "NotFound", "The resource was not found.");
    const writes = request.method === "PUT" || request.method === "POST";
    need(who, `${type}/certificates/${request.method === "DELETE" ? "Delete" : writes ? "Write" : "Read"}`, scope);
    if (caName === undefined)
      return { status: 200, body: { value: Object.values(service.certificates).map((each) => caView(service, each)) } };
    const found = service.certificates[caName];
    const match = request.headers["if-match"];
    const present = (): CaCertificate => {
      const ca = found ?? devicesError(404, 404_002, `The certificate ${caName} was not found.`);
      if (request.method !== "GET" && match === undefined)
        devicesError(400, 400_043, "The header If-Match is required.");
      if (request.method !== "GET" && match !== "*" && match !== ca.etag)
        devicesError(412, 412_001, "The certificate was changed since it was read: the If-Match condition failed.");
      return ca;
    };
    const touched = (ca: CaCertificate): CaCertificate => {
      ca.etag = nextEtag();
      ca.changedMs = lab.now();
      lab.changed();
      return ca;
    };
    switch (`${request.method} ${verb?.toLowerCase() ?? ""}`) {
      case "GET ":
        return { status: 200, body: caView(service, present()) };
      case "PUT ": {
        if (found !== undefined) present();
        else if (Object.keys(service.certificates).length >= mostCertificates)
          devicesError(400, 400_302, `There may be at most ${mostCertificates} certificates.`);
        const properties = body(request)["properties"];
        const fields: Json = isRecord(properties) ? properties : {};
        const certificate =
          readCertificate(text(fields["certificate"]) ?? "") ??
          devicesError(400, 400_044, "The certificate cannot be read.");
        if (!certificate.ca) devicesError(400, 400_045, "The certificate is not that of a CA.");
        const now = lab.now();
        const ca: CaCertificate = {
          name: caName,
          certificate: certificate.toString(),
          isVerified: fields["isVerified"] === true,
          etag: nextEtag(),
          createdMs: found?.createdMs ?? now,
          changedMs: now,
        };
        service.certificates[caName] = ca;
        lab.changed();
        return { status: 200, body: caView(service, ca) };
      }
      case "POST generateverificationcode": {
        const ca = present();
        ca.code = lab.ids.hex(48).toUpperCase();
        touched(ca);
        return { status: 200, body: caView(service, ca, { verificationCode: ca.code }) };
      }
      case "POST verify": {
        const ca = present();
        const proof =
          readCertificate(text(body(request)["certificate"]) ?? "") ??
          devicesError(400, 400_044, "The certificate cannot be read.");
        const signedByIt = proof.verify(new X509Certificate(ca.certificate).publicKey);
        const named = ca.code !== undefined && new RegExp(`(^|\n)CN=${ca.code}($|\n)`).test(proof.subject);
        if (!signedByIt || !named)
          devicesError(
            400,
            400_046,
            "The proof of possession failed: it must be signed by the certificate and have the verification code as its common name.",
          );
        ca.isVerified = true;
        delete ca.code;
        return { status: 200, body: caView(service, touched(ca)) };
      }
      case "DELETE ": {
        if (found === undefined) return { status: 204 };
        present();
        delete service.certificates[caName];
        lab.changed();
        return { status: 200 };
      }
      default:
        return refuse(405, "MethodNotAllowed", `The HTTP method '${request.method}' is not supported here.`);
    }
  }

  function vaultView(name: string, group: string): Json {
    const vault =
      lab.state.vaults.find((each) => same(each.name, name) && same(each.resourceGroup, group)) ??
      refuse(
        404,
        "ResourceNotFound",
        `The Resource 'Microsoft.KeyVault/vaults/${name}' under resource group '${group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix`,
      );
    return {
      id: `${groupId(vault.resourceGroup)}/providers/Microsoft.KeyVault/vaults/${vault.name}`,
      name: vault.name,
      type: "Microsoft.KeyVault/vaults",
      location: vault.location,
      tags: {},
      properties: {
        sku: { family: "A", name: "standard" },
        tenantId: lab.state.tenantId,
        accessPolicies: [],
        enabledForDeployment: false,
        enableSoftDelete: true,
        softDeleteRetentionInDays: 90,
        enableRbacAuthorization: vault.access === "rbac",
        vaultUri: `${lab.vaultUrl(vault)}/`,
        provisioningState: "Succeeded",
        publicNetworkAccess: "Enabled",
      },
    };
  }

  function route(request: LabRequest, who: ServicePrincipal): Reply {
    const [, id = "", first, ...rest] = request.segments;
    if (request.query.get("api-version") === null)
      return refuse(
        400,
        "MissingApiVersionParameter",
        "The api-version query parameter (?api-version=) is required for all requests.",
      );
    if (request.segments.length === 1) {
      return listReply(request, [
        {
          id: subscription(),
          subscriptionId: lab.state.subscriptionId,
          tenantId: lab.state.tenantId,
          displayName: "Lab",
          state: "Enabled",
        },
      ]);
    }
    if (!same(id, lab.state.subscriptionId))
      return refuse(404, "SubscriptionNotFound", `The subscription '${id}' could not be found.`);
    const get = request.method === "GET";
    if (first === undefined && get)
      return {
        status: 200,
        body: {
          id: subscription(),
          subscriptionId: id,
          tenantId: lab.state.tenantId,
          displayName: "Lab",
          state: "Enabled",
        },
      };
    const kind = first?.toLowerCase();
    if (kind === "resources" && rest.length === 0 && get) {
      need(who, "Microsoft.Resources/subscriptions/resources/read", subscription());
      return listReply(request, resources(request, undefined));
    }
    if (kind === "providers" && get) {
      const type = `${rest[0]}/${rest[1]}`;
      const known = allResources().filter((each) => same(each.type, type));
      need(who, `${type}/read`, subscription());
      if (same(type, "Microsoft.KeyVault/vaults"))
        return listReply(
          request,
          known.map((each) => vaultView(each.name, each.group)),
        );
      return refuse(404, "InvalidResourceType", `The resource type '${type}' could not be found.`);
    }
    if (kind !== "resourcegroups") return refuse(404, "NotFound", "The resource was not found.");
    const [group, ...inside] = rest;
    if (group === undefined) {
      need(who, "Microsoft.Resources/subscriptions/resourceGroups/read", subscription());
      return listReply(request, resourceGroups(request));
    }
    if (!lab.state.resourceGroups.some((each) => same(each.name, group)))
      return refuse(404, "ResourceGroupNotFound", `Resource group '${group}' could not be found.`);
    if (inside.length === 0 && get) {
      need(who, "Microsoft.Resources/subscriptions/resourceGroups/read", groupId(group));
      return { status: 200, body: resourceGroups(request).find((each) => same(String(each["name"]), group)) };
    }
    if (inside.length === 1 && inside[0]?.toLowerCase() === "resources" && get) {
      need(who, "Microsoft.Resources/subscriptions/resourceGroups/resources/read", groupId(group));
      return listReply(request, resources(request, group));
    }
    const [, provider = "", type = "", name, ...more] = inside;
    switch (`${provider}/${type}`.toLowerCase()) {
      case "microsoft.web/connections":
        return connections(request, who, group, name, more);
      case "microsoft.automation/automationaccounts":
        if (name !== undefined && more[0]?.toLowerCase() === "variables")
          return variables(request, who, group, name, more[1]);
        break;
      case "microsoft.devices/provisioningservices":
        return provisioning(request, who, group, name, more);
      case "microsoft.keyvault/vaults":
        if (get) {
          need(
            who,
            "Microsoft.KeyVault/vaults/read",
            `${groupId(group)}/providers/Microsoft.KeyVault/vaults${name === undefined ? "" : `/${name}`}`,
          );
          if (name !== undefined) return { status: 200, body: vaultView(name, group) };
          return listReply(
            request,
            allResources()
              .filter((each) => each.type === "Microsoft.KeyVault/vaults" && same(each.group, group))
              .map((each) => vaultView(each.name, each.group)),
          );
        }
        break;
    }
    return refuse(
      404,
      "InvalidResourceType",
      `The resource type could not be found in the namespace '${provider}' for api version '${request.query.get("api-version")}'.`,
    );
  }

  const bucketKey = (request: LabRequest): string => {
    const found = callerOf(lab, request, audience);
    const kind = request.method === "GET" ? "reads" : "writes";
    return `arm ${"principal" in found ? found.principal.appId : "nobody"} ${kind}`;
  };
  return {
    name: "arm",
    async handle(request) {
      const reply = route(request, caller(request));
      const kind = request.method === "GET" ? "reads" : "writes";
      if (!lab.faults().limits) return reply;
      return {
        ...reply,
        headers: {
          ...reply.headers,
          [`x-ms-ratelimit-remaining-subscription-${kind}`]: String(limiter.left(bucketKey(request))),
        },
      };
    },
    throttled: (request, retryAfterS) =>
      error(
        429,
        "SubscriptionRequestsThrottled",
        `Number of '${request.method === "GET" ? "read" : "write"}' requests for subscription '${lab.state.subscriptionId}' actor exceeded. Please try again after '${retryAfterS}' seconds after additional tokens are available.`,
        { "retry-after": String(retryAfterS) },
      ),
    unavailable: () => error(503, "ServiceUnavailable", "The service is temporarily unavailable. Please try again."),
    limit: (request) => limiter.take(bucketKey(request), request.method === "GET" ? readLimit : writeLimit, lab.now()),
  };
}
