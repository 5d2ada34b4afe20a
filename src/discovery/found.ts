/** What a scan reports: public facts of what lies in files and behind endpoints. Nothing here can carry a private key. */
import type { VersionFacts } from "../core/place.ts";

export type FoundKind = "certificate" | "private-key" | "public-key" | "csr" | "crl" | "keystore";

/** In what wrapping it was found. `base64`: PEM inside a base64 value, as in Kubernetes secrets and kubeconfigs. */
export type Container = "pem" | "der" | "pkcs7" | "pkcs12" | "jks" | "openssh" | "base64" | "tls";

/** What only certificates have. */
export interface CertificateFacts {
  /** DNS names, addresses and URIs of the subject alternative name, at most {@link maxNames}. */
  readonly names: readonly string[];
  readonly isCa: boolean;
  /** Subject and issuer are the same name. */
  readonly selfIssued: boolean;
  /** `sha256WithRSAEncryption`, or the dotted identifier where the name is not known. */
  readonly signature: string;
  /** Hex of the key identifiers of RFC 5280 section 4.2.1; null where the certificate has none. */
  readonly subjectKeyId: string | null;
  readonly authorityKeyId: string | null;
}

/** What a parser makes of one object, before it is known where the object came from. */
export interface ParsedItem {
  readonly kind: FoundKind;
  readonly container: Container;
  /** Position in the file or the served chain, from 0. */
  readonly index: number;
  /** Alias in a keystore, or PEM label. Public. */
  readonly label?: string;
  /**
   * For certificates the facts of the certificate. For keys and requests the fingerprint is the SHA-256 of the public key; for encrypted keys
   * and keystores that could not be opened, and for revocation lists, it is the SHA-256 of the bytes as they lie there.
   */
  readonly facts: VersionFacts;
  /** `RSA`, `EC P-256`, `Ed25519`, `DSA`, or a dotted identifier. */
  readonly keyType?: string;
  readonly keyBits?: number;
  /** The secret part is protected by a password. */
  readonly encrypted?: boolean;
  readonly certificate?: CertificateFacts;
  /** What is odd about this one object, as sentences. */
  readonly problems: readonly string[];
}

export interface Found extends ParsedItem {
  /** What the user asked to scan. */
  readonly source: string;
  /** File path, or `host:port` with the address in brackets where a name has several. */
  readonly path: string;
}

/** A file or endpoint that could not be read or made sense of. It stops nothing; it is counted and named. */
export interface ScanProblem {
  readonly source: string;
  readonly path: string;
  /**
   * `unreadable`: the system said no. `malformed`: it looks like one of our formats and is not. `refused`: a limit that protects the scan.
   * `unreachable`: no connection. `no-tls`: something else answers there. `usage`: the source itself cannot be scanned.
   */
  readonly code: "unreadable" | "malformed" | "refused" | "unreachable" | "no-tls" | "usage";
  /** One sentence that says what is wrong, and what to do where something can be done. */
  readonly text: string;
}

export interface ScanSummary {
  /** Regular files that were opened, and what they held in total. */
  readonly files: number;
  readonly bytes: number;
  /** Files that hold nothing of ours. */
  readonly otherFiles: number;
  /** Sockets, devices, pipes and kernel file systems, which are never opened. */
  readonly skipped: number;
  readonly endpoints: number;
  readonly items: number;
  readonly byKind: Readonly<Partial<Record<FoundKind, number>>>;
  readonly problems: number;
  readonly problemsByCode: Readonly<Partial<Record<ScanProblem["code"], number>>>;
  readonly startedMs: number;
  readonly finishedMs: number;
}

export type ScanEvent =
  /** Everything that one file or endpoint held; a large bundle comes in several. */
  | { readonly type: "found"; readonly items: readonly Found[] }
  | { readonly type: "problem"; readonly problem: ScanProblem }
  /** Sent now and then. `total` is known for endpoints and for single files only. */
  | {
      readonly type: "progress";
      readonly files: number;
      readonly endpoints: number;
      readonly items: number;
      readonly at: string;
    }
  | { readonly type: "done"; readonly summary: ScanSummary };

/** More names than this are cut, because one certificate may carry thousands. */
export const maxNames = 100;
