/** An AD FS farm as the outside sees it: its federation metadata. Reference: "Federation metadata", WS-Federation 1.2 and SAML 2.0 metadata. */
import { X509Certificate } from "node:crypto";
import type { Reply } from "./http.ts";
import type { Lab, Service } from "./lab.ts";
import type { AdfsFarm } from "./state.ts";

const base64 = (pem: string): string => new X509Certificate(pem).raw.toString("base64");

/** One entity with several roles: each repeats every signing certificate, the primary one first, and the encryption certificate stands beside. */
export function federationMetadata(farm: AdfsFarm): string {
  const signing = [...farm.signing].sort((a, b) => Number(b.primary) - Number(a.primary));
  const descriptor = (use: string, pem: string): string =>
    `<KeyDescriptor use="${use}"><KeyInfo xmlns="http://www.w3.org/2000/09/xmldsig#"><X509Data><X509Certificate>${base64(pem)}</X509Certificate></X509Data></KeyInfo></KeyDescriptor>`;
  const signers = signing.map((each) => descriptor("signing", each.certificate)).join("");
  const encryption = descriptor("encryption", farm.encryption);
  const address = (path: string): string => `https://${farm.host}${path}`;
  const reference = `<wsa:EndpointReference xmlns:wsa="http://www.w3.org/2005/08/addressing"><wsa:Address>${address("/adfs/ls/")}</wsa:Address></wsa:EndpointReference>`;
  const federationRole = (type: string, content: string): string =>
    `<RoleDescriptor xsi:type="fed:${type}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:fed="http://docs.oasis-open.org/wsfed/federation/200706" protocolSupportEnumeration="http://docs.oasis-open.org/ws-sx/ws-trust/200512 http://docs.oasis-open.org/wsfed/federation/200706" ServiceDisplayName="${farm.host}">${content}</RoleDescriptor>`;
  const samlRole = (name: string, content: string): string =>
    `<${name} protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">${content}</${name}>`;
  return [
    '<?xml version="1.0" encoding="utf-8"?>',
    `<EntityDescriptor ID="_${farm.metadataId}" entityID="http://${farm.host}/adfs/services/trust" xmlns="urn:oasis:names:tc:SAML:2.0:metadata">`,
    federationRole(
      "ApplicationServiceType",
      // What applications encrypt to, and what this farm signs with towards them.
      `${encryption}${signers}<fed:TargetScopes>${reference}</fed:TargetScopes><fed:PassiveRequestorEndpoint>${reference}</fed:PassiveRequestorEndpoint>`,
    ),
    federationRole(
      "SecurityTokenServiceType",
      `${signers}<fed:SecurityTokenServiceEndpoint>${reference}</fed:SecurityTokenServiceEndpoint><fed:PassiveRequestorEndpoint>${reference}</fed:PassiveRequestorEndpoint>`,
    ),
    samlRole(
      "SPSSODescriptor",
      `${encryption}${signers}<AssertionConsumerService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="${address("/adfs/ls/")}" index="0" isDefault="true"/>`,
    ),
    samlRole(
      "IDPSSODescriptor",
      `${encryption}${signers}<SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="${address("/adfs/ls/")}"/>`,
    ),
    "</EntityDescriptor>",
  ].join("");
}

export function adfsService(lab: Lab): Service {
  return {
    name: "adfs",
    async handle(request): Promise<Reply> {
      const farm = lab.state.farms.find((each) => each.name === lab.listenerAt(request.port)?.replace(/^adfs /, ""));
      if (farm === undefined || request.path.toLowerCase() !== "/federationmetadata/2007-06/federationmetadata.xml")
        return { status: 404 };
      return { status: 200, text: { type: "application/samlmetadata+xml", content: federationMetadata(farm) } };
    },
    throttled: (_, retryAfterS) => ({ status: 429, headers: { "retry-after": String(retryAfterS) } }),
    unavailable: () => ({ status: 503 }),
    limit: () => 0,
  };
}
