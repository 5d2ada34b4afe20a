/** What the user asked to scan, told apart: a path, a host and port, or a range of addresses. Also which addresses are never connected to. */
import { lstat } from "node:fs/promises";
import { BlockList, isIP, isIPv6 } from "node:net";

/** How TLS is begun at an endpoint: at once, or after a few words of another protocol. */
export type Starter = "tls" | "postgres" | "smtp" | "imap" | "pop3" | "ldap";

export interface EndpointTarget {
  readonly kind: "endpoint";
  readonly host: string;
  readonly port: number;
  readonly starter: Starter;
}
export interface RangeTarget {
  readonly kind: "range";
  /** First address and how many follow it. */
  readonly first: bigint;
  readonly count: number;
  readonly version: 4 | 6;
  readonly ports: readonly number[];
  readonly starter: Starter | undefined;
}
export interface PathTarget {
  readonly kind: "path";
  readonly path: string;
}
export type Target = EndpointTarget | RangeTarget | PathTarget;

/** A source that cannot be scanned. The message says what would be right. */
export class TargetError extends Error {
  override readonly name = "TargetError";
}

const startersByPort: Readonly<Record<number, Starter>> = {
  25: "smtp",
  587: "smtp",
  110: "pop3",
  143: "imap",
  389: "ldap",
  5432: "postgres",
};
export function starterOf(port: number): Starter {
  return startersByPort[port] ?? "tls";
}

const schemes: Readonly<Record<string, { starter: Starter; port: number }>> = {
  tls: { starter: "tls", port: 443 },
  https: { starter: "tls", port: 443 },
  ldaps: { starter: "tls", port: 636 },
  postgres: { starter: "postgres", port: 5432 },
  postgresql: { starter: "postgres", port: 5432 },
  smtp: { starter: "smtp", port: 25 },
  imap: { starter: "imap", port: 143 },
  pop3: { starter: "pop3", port: 110 },
  ldap: { starter: "ldap", port: 389 },
};

/**
 * Tells one source apart: an existing path wins over everything but a URL. `HOST:PORT` and `CIDR` may name several ports (`:443,8443`), and a
 * bare address or a range means port 443. Throws {@link TargetError}. `maxAddresses` bounds a range.
 */
export async function readTarget(source: string, maxAddresses: number): Promise<readonly Target[]> {
  const url = /^([a-z][a-z0-9+]*):\/\/(.*)$/i.exec(source);
  if (url !== null) return fromUrl(source, url[1]!.toLowerCase(), url[2]!);
  if (source !== "" && (await exists(source))) return [{ kind: "path", path: source }];
  const range = /^(\[?[0-9a-f.:]+)\/(\d{1,3})\]?(?::([\d,]+))?$/i.exec(source);
  if (range !== null)
    return [fromRange(source, range[1]!.replace("[", ""), Number(range[2]), ports(source, range[3]), maxAddresses)];
  if (isIP(source) !== 0) return [endpoint(source, 443)];
  const pair = /^(\[[0-9a-f.:]+\]|[a-z0-9_](?:[a-z0-9._-]{0,252}))\.?:([\d,]+)$/i.exec(source);
  if (pair !== null) return ports(source, pair[2]).map((port) => endpoint(pair[1]!.replaceAll(/[[\]]/g, ""), port));
  const hint = /^[a-z0-9-]+(\.[a-z0-9-]+)+$/i.test(source) ? ` To connect to it, write "${source}:443".` : "";
  throw new TargetError(
    `"${source}" is no file or folder here, and not HOST:PORT or a range such as 10.0.0.0/28:443.${hint}`,
  );
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    // A path that may not be looked at is there; the walk names it with the system's reason.
    return (error as NodeJS.ErrnoException).code === "EACCES";
  }
}

function endpoint(host: string, port: number): EndpointTarget {
  return { kind: "endpoint", host, port, starter: starterOf(port) };
}

function fromUrl(source: string, scheme: string, rest: string): readonly Target[] {
  const known = schemes[scheme];
  if (known === undefined) {
    throw new TargetError(`"${scheme}://" is not scanned; these are: ${Object.keys(schemes).join(", ")}.`);
  }
  // Sign-in data and paths of a URL are of no use here, and are not repeated in any message.
  const place = /^(?:[^/@]*@)?(\[[0-9a-f.:]+\]|[^/:?#]+)(?::(\d+))?(?:[/?#].*)?$/i.exec(rest);
  if (place === null) throw new TargetError(`The ${scheme} address has no host; write ${scheme}://HOST:PORT.`);
  const port = place[2] === undefined ? known.port : ports(source, place[2])[0]!;
  return [{ kind: "endpoint", host: place[1]!.replaceAll(/[[\]]/g, ""), port, starter: known.starter }];
}

function ports(source: string, text: string | undefined): readonly number[] {
  if (text === undefined) return [443];
  const list = text.split(",").map(Number);
  if (list.some((port) => !Number.isInteger(port) || port < 1 || port > 65_535)) {
    throw new TargetError(`"${source.replace(/\/\/[^@/]*@/, "//")}" has a port outside 1 to 65535.`);
  }
  return [...new Set(list)];
}

function fromRange(
  source: string,
  address: string,
  prefix: number,
  ports: readonly number[],
  maxAddresses: number,
): RangeTarget {
  const version = isIP(address);
  const bits = version === 4 ? 32 : 128;
  if (version === 0 || prefix > bits) {
    throw new TargetError(`"${source}" is no file or folder here, and no range of addresses such as 10.0.0.0/28.`);
  }
  const free = bits - prefix;
  if (free > 40 || 2 ** free * ports.length > maxAddresses) {
    throw new TargetError(
      `"${source}" stands for ${free > 40 ? `2^${free}` : 2 ** free * ports.length} connections, more than the ${maxAddresses} allowed; scan a smaller range or raise the limit.`,
    );
  }
  const mask = ((1n << BigInt(free)) - 1n) ^ ((1n << BigInt(bits)) - 1n);
  return {
    kind: "range",
    first: toNumber(address) & mask,
    count: 2 ** free,
    version: version as 4 | 6,
    ports,
    starter: undefined,
  };
}

function toNumber(address: string): bigint {
  if (!isIPv6(address)) return address.split(".").reduce((sum, part) => sum * 256n + BigInt(part), 0n);
  let text = address;
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (dotted !== null) {
    const low = toNumber(dotted[2]!);
    text = `${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`;
  }
  const [head = "", tail] = text.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const middle = tail === undefined ? [] : Array.from({ length: 8 - left.length - right.length }, () => "0");
  return [...left, ...middle, ...right].reduce((sum, part) => sum * 65_536n + BigInt(`0x${part}`), 0n);
}

function toAddress(value: bigint, version: 4 | 6): string {
  if (version === 4) return [24n, 16n, 8n, 0n].map((shift) => String((value >> shift) & 255n)).join(".");
  return Array.from({ length: 8 }, (_, i) => ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16)).join(":");
}

/** The endpoints of a range, one by one, so that a large one is never a list. */
export function* endpointsOf(range: RangeTarget): Generator<EndpointTarget> {
  for (let i = 0; i < range.count; i++) {
    const host = toAddress(range.first + BigInt(i), range.version);
    for (const port of range.ports) yield { kind: "endpoint", host, port, starter: range.starter ?? starterOf(port) };
  }
}

/** Where a cloud keeps its machines' credentials, and addresses that stand for nobody. */
const never = new BlockList();
never.addSubnet("0.0.0.0", 8, "ipv4");
never.addSubnet("169.254.0.0", 16, "ipv4");
never.addAddress("100.100.100.200", "ipv4");
never.addAddress("168.63.129.16", "ipv4");
never.addAddress("192.0.0.192", "ipv4");
never.addSubnet("224.0.0.0", 3, "ipv4");
never.addAddress("::", "ipv6");
never.addSubnet("fe80::", 10, "ipv6");
never.addSubnet("ff00::", 8, "ipv6");
never.addAddress("fd00:ec2::254", "ipv6");
never.addAddress("fd20:ce::254", "ipv6");
// The same addresses inside NAT64 (RFC 6052) and 6to4 (RFC 3056) ones.
never.addSubnet("64:ff9b::a9fe:0", 112, "ipv6");
never.addSubnet("2002:a9fe::", 32, "ipv6");

const local = new BlockList();
for (const [net, bits] of [
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["172.16.0.0", 12],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
] as const) {
  local.addSubnet(net, bits, "ipv4");
}
local.addAddress("::1", "ipv6");
local.addSubnet("fc00::", 7, "ipv6");
local.addSubnet("64:ff9b::", 96, "ipv6");
local.addSubnet("2002::", 16, "ipv6");

/**
 * Who the scan works for. `operator`: somebody at a terminal, who may look at loopback and private networks. `service`: a request over the
 * network, which may not. `anywhere`: the operator asked for link-local and metadata addresses too.
 */
export type Reach = "operator" | "service" | "anywhere";

/** Why this address may not be connected to, or `undefined` when it may. Judge the resolved address, never the name. */
export function refusal(address: string, reach: Reach): string | undefined {
  if (reach === "anywhere") return undefined;
  const family = isIPv6(address) ? "ipv6" : "ipv4";
  if (never.check(address, family)) {
    return `${address} is a link-local, metadata or reserved address, which is not connected to unless private addresses are allowed explicitly`;
  }
  if (reach === "service" && local.check(address, family)) return `${address} is a loopback or private address`;
  return undefined;
}
