/**
 * IoT Hub Device Provisioning Service, as its administrators and as devices see it, and the identity registry of an IoT hub. Reference: the OpenAPI
 * contract of the provisioning service 2021-10-01; "Device registration"; "IoT Hub service REST API, devices" 2021-04-12.
 */
import { X509Certificate } from "node:crypto";
import type { WindowLimit } from "./faults.ts";
import { compact, isRecord, jsonBody, Refusal, text, type Json, type LabRequest, type Reply } from "./http.ts";
import { callerOf, isGranted, type Lab, type Service } from "./lab.ts";
import { thumbprint } from "./pki.ts";
import type { Enrollment, HubDevice, IotHub, ProvisioningService, Registration } from "./state.ts";

const provisioningAudience = "https://azure-devices-provisioning.net";
const hubAudience = "https://iothubs.azure.net";
/** "IoT Hub Device Provisioning Service quotas and limits". */
const serviceLimit: WindowLimit = { calls: 1000, windowMs: 60_000 };
const registrationLimit: WindowLimit = { calls: 1000, windowMs: 60_000 };
const mostX509Groups = 100;
const mostBulk = 10;
/** How long an assignment takes, in the lab's time. */
const assignment = { fromMs: 1_500, toMs: 4_000 };

interface Taker {
  take(key: string, limit: WindowLimit, nowMs: number): number;
}
type Kind = "enrollments" | "enrollmentGroups";

export const newEtag = (lab: Lab): string => `"${lab.ids.hex(8)}-0000-0700-0000-${lab.ids.hex(12)}"`;
const bare = (etag: string): string => etag.replace(/^W\//, "").replaceAll('"', "");
const part = (value: Json | undefined, name: string): Json | undefined => {
  const found = value?.[name];
  return isRecord(found) ? found : undefined;
};

/** PEM, base64 of PEM, or base64 of DER: administrators send any of them. */
export function readCertificate(value: string): X509Certificate | null {
  const decoded = Buffer.from(value, "base64");
  for (const attempt of value.includes("-----BEGIN") ? [value] : [decoded, decoded.toString("latin1")]) {
    try {
      return new X509Certificate(attempt);
    } catch {
      // The next form.
    }
  }
  return null;
}
/** The leaf is signed by the next, and so on, up to the one that is trusted; all of them valid now. */
function leadsTo(peer: readonly X509Certificate[], trusted: X509Certificate, nowMs: number): boolean {
  const valid = (each: X509Certificate): boolean =>
    Date.parse(each.validFrom) <= nowMs && nowMs < Date.parse(each.validTo);
  if (!valid(trusted)) return false;
  for (const each of peer) {
    if (!valid(each)) return false;
    if (each.issuer === trusted.subject && each.verify(trusted.publicKey)) return true;
    const above = peer.find((one) => one !== each && one.subject === each.issuer && each.verify(one.publicKey));
    if (above === undefined) return false;
  }
  return false;
}
const commonName = (certificate: X509Certificate): string => /(?:^|\n)CN=([^\n]*)/.exec(certificate.subject)?.[1] ?? "";

/** What the service tells of a certificate in place of it. */
export function infoOf(certificate: X509Certificate): Json {
  return {
    subjectName: certificate.subject.split("\n").join(", "),
    sha1Thumbprint: certificate.fingerprint.replaceAll(":", ""),
    sha256Thumbprint: certificate.fingerprint256.replaceAll(":", ""),
    issuerName: certificate.issuer.split("\n").join(", "),
    notBeforeUtc: new Date(certificate.validFrom).toISOString(),
    notAfterUtc: new Date(certificate.validTo).toISOString(),
    serialNumber: certificate.serialNumber,
    version: 3,
  };
}

export function provisioningService(lab: Lab, limiter: Taker): Service {
  interface Operation {
    readonly id: string;
    readonly registrationId: string;
    readonly service: string;
    readonly readyMs: number;
    readonly peer: readonly X509Certificate[];
    done?: Json;
  }
  const operations = new Map<string, Operation>();

  const error = (
    request: LabRequest,
    status: number,
    code: number,
    message: string,
    headers?: Record<string, string>,
  ): Reply => ({
    status,
    ...(headers ? { headers } : {}),
    body: { errorCode: code, trackingId: request.requestId, message, timestampUtc: new Date(lab.now()).toISOString() },
  });
  const refuse = (request: LabRequest, status: number, code: number, message: string): never => {
    throw new Refusal(error(request, status, code, message));
  };
  const bad = (request: LabRequest, message: string): never => refuse(request, 400, 400_004, message);

  const serviceId = (service: ProvisioningService): string =>
    `/subscriptions/${lab.state.subscriptionId}/resourceGroups/${service.resourceGroup}/providers/Microsoft.Devices/provisioningServices/${service.name}`;
  function need(request: LabRequest, service: ProvisioningService, action: string): void {
    const found = callerOf(lab, request, provisioningAudience);
    if (!("principal" in found)) return refuse(request, 401, 401_002, "Unauthorized");
    const name = `Microsoft.Devices/provisioningServices/${action}`;
    if (!isGranted(lab, found.principal, name, serviceId(service)))
      refuse(
        request,
        403,
        403_001,
        `Principal ${found.principal.id} is not authorized for ${name} on ${serviceId(service)}.`,
      );
  }

  // Enrollments.

  const nounOf = (kind: Kind): string => (kind === "enrollments" ? "Enrollment" : "Enrollment group");
  const idField = (kind: Kind): string => (kind === "enrollments" ? "registrationId" : "enrollmentGroupId");
  const storeOf = (service: ProvisioningService, kind: Kind): Record<string, Enrollment> =>
    kind === "enrollments" ? service.enrollments : service.groups;

  function view(service: ProvisioningService, kind: Kind, entry: Enrollment): Json {
    const registration = kind === "enrollments" ? service.registrations[entry.id] : undefined;
    return compact({
      ...entry.body,
      attestation: shown(entry.body["attestation"]),
      registrationState: registration && stateView(registration),
      etag: entry.etag,
      createdDateTimeUtc: new Date(entry.createdMs).toISOString(),
      lastUpdatedDateTimeUtc: new Date(entry.changedMs).toISOString(),
    });
  }
  /** Certificates are answered by what is known of them, and not themselves. */
  function shown(attestation: unknown): unknown {
    if (!isRecord(attestation) || !isRecord(attestation["x509"])) return attestation;
    const x509 = Object.fromEntries(
      Object.entries(attestation["x509"]).map(([group, value]) => [
        group,
        group === "caReferences" || !isRecord(value)
          ? value
          : Object.fromEntries(
              Object.entries(value).map(([slot, each]) => [slot, isRecord(each) ? { info: each["info"] } : each]),
            ),
      ]),
    );
    return { ...attestation, x509 };
  }

  type Outcome =
    | { readonly entry: Enrollment }
    | { readonly status: number; readonly code: number; readonly message: string };
  const wrong = (message: string): Outcome => ({ status: 400, code: 400_004, message });

  /** The whole object is replaced; what is left out is gone. `match`: the ETag that must still stand; absent: whatever is there is overwritten. */
  function put(service: ProvisioningService, kind: Kind, id: string, given: Json, match: string | undefined): Outcome {
    const store = storeOf(service, kind);
    const before = store[id];
    if (match !== undefined && match !== "*" && (before === undefined || bare(match) !== bare(before.etag)))
      return {
        status: 412,
        code: 412_002,
        message: "Precondition failed: the enrollment was changed since it was read.",
      };
    if (text(given[idField(kind)]) !== id) return wrong(`Property ${idField(kind)} must be ${id}.`);
    const attestation = part(given, "attestation");
    if (attestation === undefined || text(attestation["type"]) === undefined)
      return wrong("Property attestation is required.");
    let stored: Json = attestation;
    if (attestation["type"] === "x509") {
      const x509 = part(attestation, "x509");
      const slots =
        kind === "enrollments" ? ["clientCertificates", "caReferences"] : ["signingCertificates", "caReferences"];
      const used = slots.filter((each) => part(x509, each) !== undefined);
      if (x509 === undefined || used.length !== 1)
        return wrong(`Attestation x509 must have exactly one of ${slots.join(", ")}.`);
      const field = used[0]!;
      const pair = part(x509, field)!;
      if (pair["primary"] === undefined || pair["primary"] === null) {
        if (pair["secondary"] === undefined || pair["secondary"] === null)
          return wrong(`Attestation x509.${field} has no certificate.`);
      }
      const next: Record<string, unknown> = {};
      for (const slot of ["primary", "secondary"] as const) {
        const wish = pair[slot];
        if (wish === undefined || wish === null) continue;
        if (field === "caReferences") {
          const name = text(wish);
          if (name === undefined || service.certificates[name] === undefined)
            return wrong(`CA certificate ${String(wish)} is not found.`);
          next[slot] = name;
          continue;
        }
        const wished = isRecord(wish) ? wish : {};
        const sent = text(wished["certificate"]);
        if (sent === undefined) {
          // What was read comes back as it was answered: by its info alone. It stands for the certificate that is there.
          const known = certificatesOf(before, field).find(
            (each) => infoOf(each)["sha256Thumbprint"] === part(wished, "info")?.["sha256Thumbprint"],
          );
          if (known === undefined) return wrong(`Attestation x509.${field}.${slot} has no certificate.`);
          next[slot] = { certificate: known.toString(), info: infoOf(known) };
          continue;
        }
        const certificate = readCertificate(sent);
        if (certificate === null) return wrong(`Attestation x509.${field}.${slot} is not a certificate.`);
        if (kind === "enrollments" && commonName(certificate) !== id)
          return wrong(`The certificate's common name must be the registration id ${id}.`);
        if (kind === "enrollmentGroups" && !certificate.ca)
          return wrong(`Attestation x509.${field}.${slot} is not a CA certificate.`);
        next[slot] = { certificate: certificate.toString(), info: infoOf(certificate) };
      }
      stored = { type: "x509", x509: { [field]: next } };
      const groups = Object.values(service.groups).filter(
        (each) => each.id !== id && part(each.body, "attestation")?.["type"] === "x509",
      );
      if (kind === "enrollmentGroups" && groups.length >= mostX509Groups)
        return {
          status: 400,
          code: 400_005,
          message: `There may be at most ${mostX509Groups} groups with X.509 attestation.`,
        };
    }
    const {
      etag: _,
      registrationState: _state,
      createdDateTimeUtc: _created,
      lastUpdatedDateTimeUtc: _updated,
      ...rest
    } = given;
    const now = lab.now();
    const entry: Enrollment = {
      id,
      body: {
        capabilities: { iotEdge: false },
        provisioningStatus: "enabled",
        reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true },
        allocationPolicy: "hashed",
        ...rest,
        attestation: stored,
      },
      etag: newEtag(lab),
      createdMs: before?.createdMs ?? now,
      changedMs: now,
    };
    store[id] = entry;
    lab.changed();
    return { entry };
  }
  function certificatesOf(entry: Enrollment | undefined, field: string): X509Certificate[] {
    const pair = part(part(part(entry?.body, "attestation"), "x509"), field);
    return ["primary", "secondary"].flatMap((slot) => {
      const pem = text(part(pair, slot)?.["certificate"]);
      return pem === undefined ? [] : [new X509Certificate(pem)];
    });
  }
  function remove(service: ProvisioningService, kind: Kind, id: string, match: string | undefined): Outcome | null {
    const store = storeOf(service, kind);
    const before = store[id];
    if (before === undefined) return { status: 404, code: 404_201, message: `${nounOf(kind)} not found.` };
    if (match !== undefined && match !== "*" && bare(match) !== bare(before.etag))
      return {
        status: 412,
        code: 412_002,
        message: "Precondition failed: the enrollment was changed since it was read.",
      };
    delete store[id];
    lab.changed();
    return null;
  }

  function bulk(request: LabRequest, service: ProvisioningService, kind: Kind): Reply {
    const given = jsonBody(request) ?? bad(request, "The body is not valid JSON.");
    const list = given[kind === "enrollments" ? "enrollments" : "enrollmentGroups"];
    const mode = text(given["mode"]);
    if (!Array.isArray(list) || list.length === 0 || list.length > mostBulk)
      return bad(request, `Between 1 and ${mostBulk} enrollments may be sent at once.`);
    if (mode === undefined || !["create", "update", "updateIfMatchETag", "delete"].includes(mode))
      return bad(request, `Mode ${String(mode)} is not known.`);
    const errors = list.flatMap((each: unknown): Json[] => {
      const fields = isRecord(each) ? each : {};
      const id = text(fields[idField(kind)]) ?? "";
      const there = storeOf(service, kind)[id] !== undefined;
      let outcome: Outcome | null;
      if (mode === "create" && there)
        outcome = { status: 409, code: 409_201, message: `${nounOf(kind)} already exists.` };
      else if ((mode === "update" || mode === "updateIfMatchETag") && !there)
        outcome = { status: 404, code: 404_201, message: `${nounOf(kind)} not found.` };
      else if (mode === "delete") outcome = remove(service, kind, id, text(fields["etag"]));
      else
        outcome = put(
          service,
          kind,
          id,
          fields,
          mode === "updateIfMatchETag" ? (text(fields["etag"]) ?? "none") : undefined,
        );
      if (outcome === null || "entry" in outcome) return [];
      return [{ [idField(kind)]: id, errorCode: outcome.code, errorStatus: outcome.message }];
    });
    // Part of it may have been done: the status says nothing.
    return { status: 200, body: { errors, isSuccessful: errors.length === 0 } };
  }

  function pageReply(request: LabRequest, type: string, all: readonly Json[]): Reply {
    const asked = Number(request.headers["x-ms-max-item-count"] ?? 100);
    const size = Number.isInteger(asked) && asked > 0 ? Math.min(asked, 1000) : 100;
    const from = Number(Buffer.from(String(request.headers["x-ms-continuation"] ?? ""), "base64").toString() || 0);
    const more = from + size < all.length;
    return {
      status: 200,
      headers: {
        "x-ms-item-type": type,
        "x-ms-max-item-count": String(size),
        ...(more ? { "x-ms-continuation": Buffer.from(String(from + size)).toString("base64") } : {}),
      },
      body: all.slice(from, from + size),
    };
  }

  function enrollments(request: LabRequest, service: ProvisioningService, kind: Kind): Reply {
    const [, id, verb] = request.segments;
    const match = request.headers["if-match"];
    const key =
      id === undefined || id === "query"
        ? `${request.method} ${id ?? ""}`
        : `${request.method} one ${verb ?? ""}`.trim();
    switch (key) {
      case "POST ":
        need(request, service, `${kind}/write`);
        return bulk(request, service, kind);
      case "POST query": {
        need(request, service, `${kind}/read`);
        const query = text(jsonBody(request)?.["query"]) ?? bad(request, "Property query is required.");
        if (!/^\s*select\s+\*\s+from\s+\w+\s*;?\s*$/i.test(query))
          bad(request, `The query ${query} is not supported; write SELECT * FROM ${kind}.`);
        const all = Object.values(storeOf(service, kind)).map((each) => view(service, kind, each));
        return pageReply(request, kind === "enrollments" ? "enrollment" : "enrollmentGroup", all);
      }
      case "GET one": {
        need(request, service, `${kind}/read`);
        const entry = storeOf(service, kind)[id!] ?? refuse(request, 404, 404_201, `${nounOf(kind)} not found.`);
        return { status: 200, headers: { etag: entry.etag }, body: view(service, kind, entry) };
      }
      case "PUT one": {
        need(request, service, `${kind}/write`);
        const outcome = put(
          service,
          kind,
          id!,
          jsonBody(request) ?? bad(request, "The body is not valid JSON."),
          match,
        );
        if (!("entry" in outcome)) return refuse(request, outcome.status, outcome.code, outcome.message);
        return { status: 200, headers: { etag: outcome.entry.etag }, body: view(service, kind, outcome.entry) };
      }
      case "DELETE one": {
        need(request, service, `${kind}/delete`);
        const outcome = remove(service, kind, id!, match);
        if (outcome !== null && !("entry" in outcome))
          return refuse(request, outcome.status, outcome.code, outcome.message);
        return { status: 204 };
      }
      case "POST one attestationmechanism": {
        need(request, service, "attestationmechanism/details/action");
        const entry = storeOf(service, kind)[id!] ?? refuse(request, 404, 404_201, `${nounOf(kind)} not found.`);
        return { status: 200, body: shown(entry.body["attestation"]) };
      }
      default:
        return refuse(request, 405, 405_000, `${request.method} is not allowed here.`);
    }
  }

  // Registrations.

  function stateView(registration: Registration): Json {
    return {
      registrationId: registration.id,
      createdDateTimeUtc: new Date(registration.createdMs).toISOString(),
      assignedHub: hubHost(lab, registration.hub),
      deviceId: registration.id,
      status: "assigned",
      substatus: registration.substatus,
      lastUpdatedDateTimeUtc: new Date(registration.changedMs).toISOString(),
      etag: registration.etag,
    };
  }
  function registrations(request: LabRequest, service: ProvisioningService): Reply {
    const [, id = "", verb] = request.segments;
    if (request.method === "POST" && verb === "query") {
      need(request, service, "registrationStates/read");
      const all = Object.values(service.registrations).filter((each) => each.group === id);
      return pageReply(request, "deviceRegistration", all.map(stateView));
    }
    const found = service.registrations[id] ?? null;
    if (request.method === "GET") {
      need(request, service, "registrationStates/read");
      if (found === null) return refuse(request, 404, 404_203, "Registration not found.");
      return { status: 200, headers: { etag: found.etag }, body: stateView(found) };
    }
    if (request.method === "DELETE") {
      need(request, service, "registrationStates/delete");
      if (found === null) return refuse(request, 404, 404_203, "Registration not found.");
      const match = request.headers["if-match"];
      if (match !== undefined && match !== "*" && bare(match) !== bare(found.etag))
        return refuse(request, 412, 412_002, "Precondition failed.");
      delete service.registrations[id];
      lab.changed();
      return { status: 204 };
    }
    return refuse(request, 405, 405_000, `${request.method} is not allowed here.`);
  }

  /** Which entry lets this device in. An individual one decides alone, also when it is disabled; several groups never help each other. */
  function admits(
    service: ProvisioningService,
    id: string,
    peer: readonly X509Certificate[],
  ): Enrollment | "disabled" | null {
    const [leaf] = peer;
    const now = lab.now();
    if (leaf === undefined || commonName(leaf) !== id || Date.parse(leaf.validTo) <= now) return null;
    const trustedOf = (entry: Enrollment): X509Certificate[] => {
      const references = part(part(part(entry.body, "attestation"), "x509"), "caReferences");
      return ["primary", "secondary"].flatMap((slot) => {
        const ca = service.certificates[text(references?.[slot]) ?? ""];
        return ca?.isVerified === true ? [new X509Certificate(ca.certificate)] : [];
      });
    };
    const own = service.enrollments[id];
    if (own !== undefined) {
      if (own.body["provisioningStatus"] === "disabled") return "disabled";
      const direct = certificatesOf(own, "clientCertificates").some((each) => each.raw.equals(leaf.raw));
      return direct || trustedOf(own).some((each) => leadsTo(peer, each, now)) ? own : null;
    }
    const groups = Object.values(service.groups).filter((entry) =>
      [...certificatesOf(entry, "signingCertificates"), ...trustedOf(entry)].some((each) => leadsTo(peer, each, now)),
    );
    if (groups.some((each) => each.body["provisioningStatus"] === "disabled")) return "disabled";
    return groups[0] ?? null;
  }

  function assign(service: ProvisioningService, operation: Operation): Json {
    const id = operation.registrationId;
    const entry = admits(service, id, operation.peer);
    if (entry === null)
      return {
        operationId: operation.id,
        status: "failed",
        registrationState: { registrationId: id, status: "failed", errorCode: 401_002, errorMessage: "Unauthorized" },
      };
    if (entry === "disabled")
      return {
        operationId: operation.id,
        status: "disabled",
        registrationState: { registrationId: id, status: "disabled" },
      };
    const before = service.registrations[id];
    const group = service.groups[entry.id] === entry ? entry.id : undefined;
    const policy = part(entry.body, "reprovisionPolicy");
    // "Never re-provision": the device hears again where it was assigned, and the hub is not told of its new certificate.
    const frozen = before !== undefined && policy?.["updateHubAssignment"] === false;
    const now = lab.now();
    const registration: Registration = frozen
      ? before
      : {
          id,
          ...(group === undefined ? {} : { group }),
          hub: service.hubs[0] ?? "",
          substatus: before === undefined ? "initialAssignment" : "reprovisionedToInitialAssignment",
          etag: newEtag(lab),
          createdMs: before?.createdMs ?? now,
          changedMs: now,
        };
    service.registrations[id] = registration;
    const hub = lab.state.hubs.find((each) => each.name === registration.hub);
    if (!frozen && hub) {
      const own = group === undefined ? certificatesOf(entry, "clientCertificates") : [];
      const [primary, secondary] = own.length > 0 ? own.map(thumbprint) : [thumbprint(operation.peer[0]!)];
      const device = hub.devices[id];
      hub.devices[id] = {
        ...(device ?? newDevice(lab, id)),
        primary: primary ?? null,
        // With one certificate both are the same, so that nothing stale is let in.
        secondary: secondary ?? primary ?? null,
        etag: newEtag(lab),
      };
    }
    lab.changed();
    return {
      operationId: operation.id,
      status: "assigned",
      registrationState: { ...stateView(registration), x509: {} },
    };
  }

  /** `/{idScope}/registrations/{id}/register`, and the operation's state: what devices call. */
  function device(request: LabRequest, service: ProvisioningService): Reply {
    const [, , id = "", verb, operationId] = request.segments;
    if (verb === "register" && request.method === "PUT") {
      const entry = admits(service, id, request.peer);
      if (entry === null) return refuse(request, 401, 401_002, "Unauthorized");
      const operation: Operation = {
        id: `4.${lab.ids.hex(16)}.${lab.ids.uuid()}`,
        registrationId: id,
        service: service.name,
        readyMs: lab.now() + lab.span(lab.ids.between(assignment.fromMs, assignment.toMs)),
        peer: request.peer,
      };
      operations.set(operation.id, operation);
      return {
        status: 202,
        headers: { "retry-after": String(Math.round(lab.span(3_000) / 1000)) },
        body: { operationId: operation.id, status: "assigning" },
      };
    }
    if (verb === "operations" && request.method === "GET") {
      const operation = operations.get(operationId ?? "");
      if (operation === undefined || operation.registrationId !== id)
        return refuse(request, 404, 404_204, "Operation not found.");
      // Whoever asks must hold the certificate that the operation was begun with.
      if (request.peer[0] === undefined || !operation.peer[0]!.raw.equals(request.peer[0].raw))
        return refuse(request, 401, 401_002, "Unauthorized");
      if (operation.done === undefined && lab.now() < operation.readyMs)
        return {
          status: 202,
          headers: { "retry-after": String(Math.round(lab.span(3_000) / 1000)) },
          body: { operationId: operation.id, status: "assigning" },
        };
      operation.done ??= assign(service, operation);
      return { status: 200, body: operation.done };
    }
    return refuse(request, 404, 404_000, "Not found.");
  }

  return {
    name: "dps",
    async handle(request) {
      const service = lab.state.provisioningServices.find(
        (each) => each.name === lab.listenerAt(request.port)?.replace(/^dps /, ""),
      );
      if (service === undefined) return error(request, 404, 404_000, "Not found.");
      if (request.query.get("api-version") === null)
        return error(request, 400, 400_001, "The api-version query parameter is required.");
      const [first = ""] = request.segments;
      if (first === "enrollments" || first === "enrollmentGroups") return enrollments(request, service, first);
      if (first === "registrations") return registrations(request, service);
      if (first === service.idScope) return device(request, service);
      return error(request, 404, 404_000, "Not found.");
    },
    throttled: (request, retryAfterS) =>
      error(request, 429, 429_001, "Too many requests.", { "retry-after": String(retryAfterS) }),
    unavailable: (request) => error(request, 503, 503_001, "Service unavailable."),
    limit(request) {
      const registers = request.segments[3] === "register";
      return limiter.take(`dps ${request.port} ${registers}`, registers ? registrationLimit : serviceLimit, lab.now());
    },
  };
}

export const hubHost = (lab: Lab, name: string): string => `localhost:${lab.state.ports[`hub ${name}`]}`;

function newDevice(lab: Lab, deviceId: string): HubDevice {
  return {
    deviceId,
    generationId: String(Math.floor(lab.ids.between(6e17, 7e17))),
    etag: newEtag(lab),
    status: "enabled",
    statusReason: null,
    primary: null,
    secondary: null,
    lastActivityMs: 0,
  };
}

export function hubService(lab: Lab, limiter: Taker): Service {
  const error = (
    request: LabRequest,
    status: number,
    code: string,
    message: string,
    headers?: Record<string, string>,
  ): Reply => ({
    status,
    headers: { "iothub-errorcode": code, ...headers },
    body: {
      Message: `ErrorCode:${code};${message}`,
      ExceptionMessage: `Tracking ID:${request.requestId}-TimeStamp:${new Date(lab.now()).toISOString()}`,
    },
  });
  const refuse = (request: LabRequest, status: number, code: string, message: string): never => {
    throw new Refusal(error(request, status, code, message));
  };
  const time = (ms: number): string => (ms === 0 ? "0001-01-01T00:00:00Z" : new Date(ms).toISOString());
  function view(device: HubDevice): Json {
    return {
      deviceId: device.deviceId,
      generationId: device.generationId,
      etag: device.etag.replaceAll('"', ""),
      connectionState: "Disconnected",
      status: device.status,
      statusReason: device.statusReason,
      connectionStateUpdatedTime: time(device.lastActivityMs),
      statusUpdatedTime: time(0),
      lastActivityTime: time(device.lastActivityMs),
      cloudToDeviceMessageCount: 0,
      authentication: {
        symmetricKey: { primaryKey: null, secondaryKey: null },
        x509Thumbprint: { primaryThumbprint: device.primary, secondaryThumbprint: device.secondary },
        type: "selfSigned",
      },
      capabilities: { iotEdge: false },
    };
  }
  function need(request: LabRequest, hub: IotHub, verb: string): void {
    const found = callerOf(lab, request, hubAudience);
    if (!("principal" in found)) return refuse(request, 401, "IotHubUnauthorizedAccess", "Unauthorized");
    const scope = `/subscriptions/${lab.state.subscriptionId}/resourceGroups/${hub.resourceGroup}/providers/Microsoft.Devices/IotHubs/${hub.name}`;
    const action = `Microsoft.Devices/IotHubs/devices/${verb}`;
    if (!isGranted(lab, found.principal, action, scope))
      refuse(
        request,
        403,
        "IotHubForbidden",
        `Principal ${found.principal.id} is not authorized for ${action} on ${scope} due to no assigned permissions`,
      );
  }
  function thumbprintField(request: LabRequest, value: unknown): string | null {
    if (value === null || value === undefined) return null;
    const hex = (text(value) ?? "").replace(/[\s:]/g, "").toUpperCase();
    if (!/^([0-9A-F]{40}|[0-9A-F]{64})$/.test(hex))
      refuse(request, 400, "ArgumentInvalid", "A thumbprint is 40 or 64 hexadecimal digits.");
    return hex;
  }

  function one(request: LabRequest, hub: IotHub, id: string): Reply {
    const found = hub.devices[id];
    const missing = (): never => refuse(request, 404, "DeviceNotFound", `The device ${id} is not registered`);
    const match = request.headers["if-match"];
    const stale = (): boolean => match !== undefined && match !== "*" && bare(match) !== bare(found?.etag ?? "");
    if (request.method === "GET") {
      need(request, hub, "read");
      const device = found ?? missing();
      return { status: 200, headers: { etag: device.etag }, body: view(device) };
    }
    if (request.method === "DELETE") {
      need(request, hub, "delete");
      if (found === undefined) return missing();
      if (match === undefined)
        refuse(request, 400, "InvalidOperation", "If-Match is required; * stands for any version.");
      if (stale()) refuse(request, 412, "PreconditionFailed", "Precondition failed: Device version did not match");
      delete hub.devices[id];
      lab.changed();
      return { status: 204 };
    }
    if (request.method !== "PUT")
      return refuse(request, 405, "InvalidOperation", `${request.method} is not allowed here.`);
    need(request, hub, "write");
    // Without If-Match it is a creation.
    if (found !== undefined && match === undefined)
      refuse(request, 409, "DeviceAlreadyExists", `A device with ID '${id}' is already registered.`);
    if (stale()) refuse(request, 412, "PreconditionFailed", "Precondition failed: Device version did not match");
    const given = jsonBody(request) ?? refuse(request, 400, "ArgumentInvalid", "The body is not valid JSON.");
    if (text(given["deviceId"]) !== id)
      refuse(request, 400, "ArgumentInvalid", "deviceId must be the one in the address.");
    const prints = part(part(given, "authentication"), "x509Thumbprint");
    const device: HubDevice = {
      ...(found ?? newDevice(lab, id)),
      status: given["status"] === "disabled" ? "disabled" : "enabled",
      statusReason: text(given["statusReason"]) ?? null,
      primary: thumbprintField(request, prints?.["primaryThumbprint"]),
      secondary: thumbprintField(request, prints?.["secondaryThumbprint"]),
      etag: newEtag(lab),
    };
    hub.devices[id] = device;
    lab.changed();
    return { status: 200, headers: { etag: device.etag }, body: view(device) };
  }

  /** A device sends a message: the hub knows it by its certificate's thumbprint. */
  function telemetry(request: LabRequest, hub: IotHub, id: string): Reply {
    const device = hub.devices[id];
    const [leaf] = request.peer;
    const print = leaf === undefined ? undefined : [thumbprint(leaf), leaf.fingerprint256.replaceAll(":", "")];
    const known =
      device !== undefined &&
      print !== undefined &&
      [device.primary, device.secondary].some((each) => each !== null && print.includes(each));
    if (!known || device.status === "disabled") return refuse(request, 401, "IotHubUnauthorizedAccess", "Unauthorized");
    device.lastActivityMs = lab.now();
    return { status: 204 };
  }

  return {
    name: "hub",
    async handle(request) {
      const hub = lab.state.hubs.find((each) => each.name === lab.listenerAt(request.port)?.replace(/^hub /, ""));
      const [first, id, ...rest] = request.segments;
      if (hub === undefined || first !== "devices") return error(request, 404, "NotFound", "Not found");
      if (request.query.get("api-version") === null)
        return error(request, 400, "InvalidProtocolVersion", "api-version is required");
      if (id === undefined) {
        need(request, hub, "read");
        return { status: 200, body: Object.values(hub.devices).map(view) };
      }
      if (rest.join("/") === "messages/events" && request.method === "POST") return telemetry(request, hub, id);
      return rest.length === 0 ? one(request, hub, id) : error(request, 404, "NotFound", "Not found");
    },
    throttled: (request, retryAfterS) =>
      error(request, 429, "ThrottlingException", "Throttled", { "retry-after": String(retryAfterS) }),
    unavailable: (request) => error(request, 503, "ServiceUnavailable", "Service unavailable"),
    // "IoT Hub quotas and throttling", S1: 100 identity operations a minute and unit.
    limit: (request) =>
      request.segments.length === 2
        ? limiter.take(`hub ${request.port}`, { calls: 100, windowMs: 60_000 }, lab.now())
        : 0,
  };
}
