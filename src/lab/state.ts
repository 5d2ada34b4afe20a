/** Everything the emulated tenant knows, as plain data: what is kept in its folder, and what a test may change behind everybody's back. */

/** A credential becomes known to, and forgotten by, each replica of the sign-in service at a time of its own. */
export interface Spread {
  /** One per replica, in milliseconds of the epoch. */
  knownFromMs: number[];
  /** Set when it was removed. */
  knownUntilMs?: number[];
}

export interface Password extends Spread {
  keyId: string;
  displayName: string | null;
  hint: string;
  startMs: number;
  endMs: number;
  /** The service keeps a hash; the lab keeps the value so that it can be told apart in tests. Never answered. */
  secret: string;
}
export interface Key extends Spread {
  keyId: string;
  displayName: string | null;
  customKeyIdentifier: string;
  startMs: number;
  endMs: number;
  /** Base64 of the DER. */
  certificate: string;
}
export interface Application {
  id: string;
  appId: string;
  displayName: string;
  createdMs: number;
  changedMs: number;
  /** Object ids of service principals and people. */
  owners: string[];
  passwords: Password[];
  keys: Key[];
  /** Removed, but not yet forgotten everywhere. */
  gone: { passwords: Password[]; keys: Key[] };
}
export interface ServicePrincipal {
  id: string;
  appId: string;
  displayName: string;
  /** Application permissions on Microsoft Graph, by their published names. */
  graphRoles: string[];
  /** Azure role-based access: an action with `*`, on a resource and everything below it. */
  grants: { action: string; scope: string }[];
}
export interface SignIn {
  keyId: string;
  keyType: "clientSecret" | "certificate";
  appId: string;
  resource: string;
  atMs: number;
  requestId: string;
}

export interface Attributes {
  enabled: boolean;
  /** Seconds of the epoch, as Key Vault counts. */
  nbf?: number;
  exp?: number;
  created: number;
  updated: number;
}
export interface SecretVersion {
  version: string;
  value: string;
  contentType?: string;
  tags?: Record<string, string>;
  attributes: Attributes;
}
export interface VaultSecret {
  name: string;
  versions: SecretVersion[];
  deletedMs?: number;
}
/** As it goes over the wire, kept whole: fields that the lab does not act on come back as they were sent. */
export type Policy = Record<string, unknown>;
export interface CertificateVersion {
  version: string;
  /** Base64 of the DER, leaf first. */
  chain: string[];
  /** PKCS#8 PEM. */
  key: string;
  tags?: Record<string, string>;
  attributes: Attributes;
}
export interface PendingCertificate {
  requestId: string;
  csr: string;
  readyMs: number;
  key: string;
  policy: Policy;
  tags?: Record<string, string>;
  enabled: boolean;
  cancelled: boolean;
  /** Set when it is done. */
  version?: string;
}
export interface VaultCertificate {
  name: string;
  policy: Policy;
  versions: CertificateVersion[];
  pending?: PendingCertificate;
  deletedMs?: number;
}
export interface Vault {
  name: string;
  resourceGroup: string;
  location: string;
  /** Which of the two permission models the vault is set to. */
  access: "rbac" | "policies";
  secrets: Record<string, VaultSecret>;
  certificates: Record<string, VaultCertificate>;
}

export interface Connection {
  name: string;
  resourceGroup: string;
  location: string;
  displayName: string;
  /** `keyvault`, `azureautomation`. */
  api: string;
  parameterValues: Record<string, string>;
  tags?: Record<string, string>;
  createdMs: number;
  changedMs: number;
}
export interface Variable {
  name: string;
  /** JSON text, as the service stores it. */
  value: string;
  description: string | null;
  isEncrypted: boolean;
  createdMs: number;
  changedMs: number;
}
export interface AutomationAccount {
  name: string;
  resourceGroup: string;
  location: string;
  variables: Record<string, Variable>;
}
/** An entry of the provisioning service, individual or group: the object as it was put, and what the service keeps beside it. */
export interface Enrollment {
  id: string;
  body: Record<string, unknown>;
  etag: string;
  createdMs: number;
  changedMs: number;
}
export interface Registration {
  id: string;
  group?: string;
  hub: string;
  substatus: "initialAssignment" | "reprovisionedToInitialAssignment";
  etag: string;
  createdMs: number;
  changedMs: number;
}
export interface CaCertificate {
  name: string;
  /** PEM. */
  certificate: string;
  isVerified: boolean;
  code?: string;
  etag: string;
  createdMs: number;
  changedMs: number;
}
export interface ProvisioningService {
  name: string;
  resourceGroup: string;
  location: string;
  idScope: string;
  enrollments: Record<string, Enrollment>;
  groups: Record<string, Enrollment>;
  registrations: Record<string, Registration>;
  certificates: Record<string, CaCertificate>;
  /** Names of the hubs that devices are assigned to. */
  hubs: string[];
}
export interface HubDevice {
  deviceId: string;
  generationId: string;
  etag: string;
  status: "enabled" | "disabled";
  statusReason: string | null;
  /** SHA-1, upper-case hex; null: none. */
  primary: string | null;
  secondary: string | null;
  lastActivityMs: number;
}
export interface IotHub {
  name: string;
  resourceGroup: string;
  location: string;
  devices: Record<string, HubDevice>;
}
/** A thing out there: its key and its certificate with what stands above it, in PEM. */
export interface Device {
  registrationId: string;
  service: string;
  key: string;
  chain: string[];
}

export interface ClusterNode {
  name: string;
  upgradeDomain: string;
  /** What is installed in its store, PEM. */
  certificates: string[];
}
export interface ClusterUpgrade {
  config: Record<string, unknown>;
  state: "RollingForwardInProgress" | "RollingForwardCompleted" | "RollingBackInProgress" | "RollingBackCompleted";
  mode: string;
  /** Index of the upgrade domain under way. */
  domain: number;
  startMs: number;
  domainStartMs: number;
  endMs?: number;
  /** For the domain under way, in the lab's milliseconds. */
  checkTimeoutMs: number;
  failure?: { reason: "HealthCheck" | "Interrupted"; atMs: number; domain: string; node?: string };
}
export interface Cluster {
  name: string;
  codeVersion: string;
  config: Record<string, unknown>;
  nodes: ClusterNode[];
  /** Upgrade domains whose safety check waits for replicas. */
  stuckDomains: string[];
  /** Certificates of the endpoint and of its clients, with their keys. */
  identities: { certificate: string; key: string }[];
  /** The local agent: what its configuration pins and presents. */
  agent: { serverThumbprint: string; clientThumbprint: string };
  upgrade?: ClusterUpgrade;
}

export interface AdfsFarm {
  name: string;
  host: string;
  metadataId: string;
  /** Whether its metadata can be reached from outside. */
  published: boolean;
  /** One is primary; the secondary is announced in the metadata before it signs anything. */
  signing: { certificate: string; key: string; primary: boolean }[];
  encryption: string;
}
export interface Domain {
  id: string;
  /** Absent: managed. */
  federation?: {
    id: string;
    farm: string;
    displayName: string;
    /** Base64 of the DER. */
    signingCertificate: string;
    nextSigningCertificate: string | null;
    updateResult: string | null;
    updatedMs: number;
  };
}

export interface ResourceGroup {
  name: string;
  location: string;
  tags?: Record<string, string>;
  managedBy?: string;
}

export interface TenantState {
  format: 1;
  seed: string;
  tenantId: string;
  tenantName: string;
  domain: string;
  subscriptionId: string;
  /** PEM texts. */
  ca: { certificate: string; key: string };
  server: { certificate: string; key: string };
  tokenKey: string;
  /** Where each listener was the last time, so that a restart is found at the same address. */
  ports: Record<string, number>;
  operator: { clientId: string; clientSecret: string; certificate: string; key: string };
  applications: Application[];
  servicePrincipals: ServicePrincipal[];
  signIns: SignIn[];
  /** The longest lifetime of a new client secret, in milliseconds, that the app management policy allows. */
  passwordLifetimeMs: number | null;
  resourceGroups: ResourceGroup[];
  vaults: Vault[];
  connections: Connection[];
  automationAccounts: AutomationAccount[];
  provisioningServices: ProvisioningService[];
  hubs: IotHub[];
  devices: Device[];
  clusters: Cluster[];
  farms: AdfsFarm[];
  domains: Domain[];
  /** Who stands in for the systems of the founding cases. */
  cases: {
    connectedSpaces?: { vault: string; appId: string; deviceAppId: string; deviceSecret: string };
    iot?: {
      service: string;
      hub: string;
      root: { certificate: string; key: string };
      intermediate: { certificate: string; key: string };
    };
    provisionAssist?: { vault: string; appId: string; automationAccount: string; connections: string[] };
  };
}
