/**
 * The sign-in service: the OAuth 2.0 client credentials flow of Microsoft Entra with a client secret or a certificate's assertion, and the documents
 * that clients read first. Error codes and their words: "Microsoft Entra authentication and authorization error codes".
 */
import { createPublicKey, verify, constants, X509Certificate, createHash } from "node:crypto";
import { isRecord, isoSeconds, seconds, type LabRequest, type Reply } from "./http.ts";
import { audienceOf, issueToken, knownAt, tokenKeyId, tokenLifetimeS, type Lab, type Service } from "./lab.ts";
import { replicas } from "./faults.ts";
import { thumbprint } from "./pki.ts";
import type { Application, Key } from "./state.ts";

/** Error code of the service: OAuth's word for it, and the HTTP status it comes with. */
const errors = {
  50027: ["invalid_request", 400],
  70003: ["unsupported_grant_type", 400],
  90002: ["invalid_request", 400],
  500011: ["invalid_resource", 400],
  700016: ["unauthorized_client", 400],
  700023: ["invalid_client", 401],
  700024: ["invalid_client", 401],
  700027: ["invalid_client", 401],
  900144: ["invalid_request", 400],
  1002012: ["invalid_scope", 400],
  7000215: ["invalid_client", 401],
  7000216: ["invalid_client", 401],
  7000222: ["invalid_client", 401],
} as const;
type Code = keyof typeof errors;

export function loginService(lab: Lab): Service {
  function refuse(request: LabRequest, code: Code, words: string): Reply {
    const [error, status] = errors[code];
    const timestamp = isoSeconds(lab.now()).replace("T", " ");
    const given = request.headers["client-request-id"];
    const correlation = typeof given === "string" && given !== "" ? given : lab.ids.uuid();
    const trace = request.requestId;
    return {
      status,
      headers: { "cache-control": "no-store, no-cache" },
      body: {
        error,
        error_description: `AADSTS${code}: ${words} Trace ID: ${trace} Correlation ID: ${correlation} Timestamp: ${timestamp}`,
        error_codes: [code],
        timestamp,
        trace_id: trace,
        correlation_id: correlation,
        error_uri: `${lab.origin()}/error?code=${code}`,
      },
    };
  }
  const knows = (tenant: string): boolean => [lab.state.tenantId, lab.state.domain].includes(tenant.toLowerCase());
  const noTenant = (request: LabRequest, tenant: string): Reply =>
    refuse(
      request,
      90002,
      `Tenant '${tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.`,
    );

  function openidConfiguration(request: LabRequest, version: "v1" | "v2"): Reply {
    const base = `${request.origin}/${lab.state.tenantId}`;
    const v2 = version === "v2" ? "/v2.0" : "";
    return {
      status: 200,
      body: {
        token_endpoint: `${base}/oauth2${v2}/token`,
        token_endpoint_auth_methods_supported: ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        jwks_uri: `${base}/discovery${v2}/keys`,
        response_modes_supported: ["query", "fragment", "form_post"],
        subject_types_supported: ["pairwise"],
        id_token_signing_alg_values_supported: ["RS256"],
        response_types_supported: ["code", "id_token", "code id_token", "id_token token"],
        scopes_supported: ["openid", "profile", "email", "offline_access"],
        issuer: version === "v2" ? `${base}/v2.0` : `https://sts.windows.net/${lab.state.tenantId}/`,
        request_uri_parameter_supported: false,
        authorization_endpoint: `${base}/oauth2${v2}/authorize`,
        device_authorization_endpoint: `${base}/oauth2${v2}/devicecode`,
        http_logout_supported: true,
        frontchannel_logout_supported: true,
        end_session_endpoint: `${base}/oauth2${v2}/logout`,
        claims_supported: ["sub", "iss", "aud", "exp", "iat", "nonce", "tid", "ver"],
        tenant_region_scope: "EU",
        cloud_instance_name: new URL(request.origin).host,
        cloud_graph_host_name: new URL(request.origin).host,
        msgraph_host: new URL(request.origin).host,
      },
    };
  }

  function token(request: LabRequest, tenant: string, version: "v1" | "v2"): Reply {
    if (!knows(tenant)) return noTenant(request, tenant);
    const form = new URLSearchParams(request.body);
    const need = (name: string): Reply =>
      refuse(request, 900144, `The request body must contain the following parameter: '${name}'.`);
    const grant = form.get("grant_type");
    if (grant === null) return need("grant_type");
    if (grant !== "client_credentials")
      return refuse(request, 70003, `The app requested an unsupported grant type '${grant}'.`);
    const clientId = form.get("client_id");
    if (clientId === null) return need("client_id");
    const resourceText = version === "v2" ? form.get("scope") : form.get("resource");
    if (resourceText === null) return need(version === "v2" ? "scope" : "resource");
    const app = lab.state.applications.find((each) => each.appId === clientId.toLowerCase());
    const principal = lab.state.servicePrincipals.find((each) => each.appId === clientId.toLowerCase());
    if (app === undefined || principal === undefined)
      return refuse(
        request,
        700016,
        `Application with identifier '${clientId}' was not found in the directory '${lab.state.tenantName}'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.`,
      );

    // Any one of the machines behind the address answers, and each hears of new credentials in its own time.
    const replica = Math.floor(lab.dice.next() * replicas);
    const secret = form.get("client_secret");
    const assertion = form.get("client_assertion");
    const outcome =
      secret !== null
        ? bySecret(request, app, secret, replica)
        : assertion !== null
          ? byAssertion(request, app, assertion, replica)
          : refuse(
              request,
              7000216,
              "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
            );
    if (!("keyId" in outcome)) return outcome;

    const resource = version === "v2" ? /^(.*)\/\.default$/.exec(resourceText.trim())?.[1] : resourceText;
    if (resource === undefined)
      return refuse(
        request,
        1002012,
        `The provided value for scope ${resourceText} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).`,
      );
    const audience = audienceOf(resource);
    if (audience === undefined)
      return refuse(
        request,
        500011,
        `The resource principal named ${resource} was not found in the tenant named ${lab.state.tenantName}. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant.`,
      );
    const keyType = secret === null ? "certificate" : "clientSecret";
    const others = lab.state.signIns.filter((each) => each.keyId !== outcome.keyId);
    lab.state.signIns = [
      ...others,
      {
        keyId: outcome.keyId,
        keyType,
        appId: app.appId,
        resource: audience,
        atMs: lab.now(),
        requestId: request.requestId,
      },
    ];
    lab.changed();
    const access = issueToken(lab, principal, audience, secret === null ? "2" : "1");
    return {
      status: 200,
      headers: { "cache-control": "no-store, no-cache", pragma: "no-cache" },
      body:
        version === "v2"
          ? { token_type: "Bearer", expires_in: tokenLifetimeS, ext_expires_in: tokenLifetimeS, access_token: access }
          : {
              token_type: "Bearer",
              expires_in: String(tokenLifetimeS),
              ext_expires_in: String(tokenLifetimeS),
              expires_on: String(seconds(lab.now()) + tokenLifetimeS),
              not_before: String(seconds(lab.now())),
              resource: audience,
              access_token: access,
            },
    };
  }

  function bySecret(request: LabRequest, app: Application, secret: string, replica: number): Reply | { keyId: string } {
    const now = lab.now();
    const found = [...app.passwords, ...app.gone.passwords].find(
      (each) => each.secret === secret && knownAt(each, replica, now),
    );
    if (found === undefined || found.startMs > now)
      return refuse(
        request,
        7000215,
        `Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '${app.appId}'.`,
      );
    if (found.endMs <= now)
      return refuse(
        request,
        7000222,
        `The provided client secret keys for app '${app.appId}' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds.`,
      );
    return { keyId: found.keyId };
  }

  function byAssertion(
    request: LabRequest,
    app: Application,
    assertion: string,
    replica: number,
  ): Reply | { keyId: string } {
    const now = lab.now();
    const malformed = (): Reply => refuse(request, 50027, "JWT token is invalid or malformed.");
    const [head = "", body = "", signature = ""] = assertion.split(".");
    let header: unknown;
    let claims: unknown;
    try {
      header = JSON.parse(Buffer.from(head, "base64url").toString());
      claims = JSON.parse(Buffer.from(body, "base64url").toString());
    } catch {
      return malformed();
    }
    if (!isRecord(header) || !isRecord(claims)) return malformed();
    const used = claimedCertificate(header);
    if (used === undefined)
      return refuse(
        request,
        50027,
        "JWT token is invalid or malformed. No certificate thumbprint specified in token header.",
      );
    const bad = (reason: string): Reply =>
      refuse(
        request,
        700027,
        `The certificate with identifier used to sign the client assertion is not registered on application. [Reason - ${reason}, Thumbprint of key used by client: '${used}', Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id '${app.appId}'. Review the documentation at https://docs.microsoft.com/en-us/graph/deployments to determine the corresponding service endpoint and https://docs.microsoft.com/en-us/graph/api/application-get?view=graph-rest-1.0&tabs=http to build a query request URL, such as 'https://graph.microsoft.com/beta/applications/${app.appId}'].`,
      );
    const found = [...app.keys, ...app.gone.keys].find(
      (each) => knownAt(each, replica, now) && identifiers(each).includes(used),
    );
    if (found === undefined) return bad("The key was not found.");
    const certificate = new X509Certificate(Buffer.from(found.certificate, "base64"));
    if (found.endMs <= now || Date.parse(certificate.validTo) <= now)
      return bad(
        `The key used is expired., Found key 'Start=${isoSeconds(found.startMs)}, End=${isoSeconds(found.endMs)}'`,
      );
    if (!verifies(header["alg"], `${head}.${body}`, signature, certificate))
      return bad("The provided signature value did not match the expected signature value.");
    const { aud, iss, sub, exp, nbf } = claims;
    const realms = [
      `${lab.state.tenantId}/oauth2/v2.0/token`,
      `${lab.state.tenantId}/oauth2/token`,
      `${lab.state.tenantId}/v2.0`,
    ].flatMap((end) => [
      `${request.origin}/${end}`,
      `${request.origin}/${end.replace(lab.state.tenantId, lab.state.domain)}`,
    ]);
    if (typeof aud !== "string" || !realms.includes(aud))
      return refuse(
        request,
        700023,
        `Client assertion audience claim does not match Realm issuer. Review the documentation at https://docs.microsoft.com/azure/active-directory/develop/active-directory-certificate-credentials.`,
      );
    if (iss !== app.appId || sub !== app.appId)
      return refuse(
        request,
        50027,
        "JWT token is invalid or malformed. Issuer and subject must be the client's identifier.",
      );
    // Clocks may differ by five minutes.
    const skewS = 300;
    const nowS = seconds(now);
    if (typeof exp !== "number" || exp + skewS <= nowS || (typeof nbf === "number" && nbf - skewS > nowS))
      return refuse(
        request,
        700024,
        `Client assertion is not within its valid time range. Current time: ${isoSeconds(now)}, assertion valid from ${typeof nbf === "number" ? isoSeconds(nbf * 1000) : "-"}, expiry time of assertion ${typeof exp === "number" ? isoSeconds(exp * 1000) : "-"}. Review the documentation at https://docs.microsoft.com/azure/active-directory/develop/active-directory-certificate-credentials .`,
      );
    return { keyId: found.keyId };
  }

  return {
    name: "login",
    // Asynchronous for the contract's sake: a key could lie elsewhere.
    async handle(request) {
      const [tenant = "", ...rest] = request.segments;
      const path = rest.join("/").toLowerCase();
      if (path === "oauth2/v2.0/token" || path === "oauth2/token") {
        if (request.method !== "POST")
          return refuse(request, 900144, "The request body must contain the following parameter: 'grant_type'.");
        return token(request, tenant, path.includes("v2.0") ? "v2" : "v1");
      }
      if (tenant === "common" && path === "discovery/instance")
        return {
          status: 200,
          body: {
            tenant_discovery_endpoint: `${request.origin}/${lab.state.tenantId}/v2.0/.well-known/openid-configuration`,
            "api-version": "1.1",
            metadata: [
              {
                preferred_network: new URL(request.origin).host,
                preferred_cache: new URL(request.origin).host,
                aliases: [new URL(request.origin).host],
              },
            ],
          },
        };
      if (!knows(tenant)) return noTenant(request, tenant);
      if (path === "v2.0/.well-known/openid-configuration") return openidConfiguration(request, "v2");
      if (path === ".well-known/openid-configuration") return openidConfiguration(request, "v1");
      if (path === "discovery/v2.0/keys" || path === "discovery/keys") {
        const jwk = createPublicKey(lab.state.tokenKey).export({ format: "jwk" });
        return { status: 200, body: { keys: [{ ...jwk, use: "sig", kid: tokenKeyId(lab) }] } };
      }
      return { status: 404 };
    },
    throttled: (request, retryAfterS) => ({
      status: 429,
      headers: { "retry-after": String(retryAfterS) },
      body: {
        error: "temporarily_unavailable",
        error_description: `AADSTS90055: Error processing request due to excessive request rate. Trace ID: ${request.requestId}`,
        error_codes: [90_055],
        trace_id: request.requestId,
      },
    }),
    unavailable: (request) => ({
      status: 503,
      body: {
        error: "temporarily_unavailable",
        error_description: `AADSTS90033: A transient error has occurred. Please try again. Trace ID: ${request.requestId}`,
        error_codes: [90_033],
        trace_id: request.requestId,
      },
    }),
    // No number is published for app-only sign-ins.
    limit: () => 0,
  };
}

/** The thumbprint in the header, in upper-case hex: of SHA-256 where that is given (RFC 7515, 4.1.7 and 4.1.8). */
function claimedCertificate(header: Readonly<Record<string, unknown>>): string | undefined {
  const value = header["x5t#S256"] ?? header["x5t"] ?? header["kid"];
  if (typeof value !== "string") return undefined;
  if (header["x5t#S256"] === undefined && header["x5t"] === undefined) return value.toUpperCase();
  return Buffer.from(value, "base64url").toString("hex").toUpperCase();
}
function identifiers(key: Key): string[] {
  const certificate = new X509Certificate(Buffer.from(key.certificate, "base64"));
  return [thumbprint(certificate), createHash("sha256").update(certificate.raw).digest("hex").toUpperCase()];
}
function verifies(alg: unknown, signed: string, signature: string, certificate: X509Certificate): boolean {
  if (certificate.publicKey.asymmetricKeyType !== "rsa" || (alg !== "RS256" && alg !== "PS256")) return false;
  return verify(
    "RSA-SHA256",
    Buffer.from(signed),
    alg === "PS256"
      ? {
          key: certificate.publicKey,
          padding: constants.RSA_PKCS1_PSS_PADDING,
          saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
        }
      : certificate.publicKey,
    Buffer.from(signature, "base64url"),
  );
}
