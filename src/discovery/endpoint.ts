/**
 * Asks an endpoint for the certificates that it serves. Nothing is verified and nothing is sent beyond the greeting: the connection ends with the
 * handshake. Time and bytes are bounded, whoever answers.
 */
import { lookup } from "node:dns/promises";
import { connect, isIP, type Socket } from "node:net";
import { connect as connectTls, createSecureContext, type TLSSocket } from "node:tls";
import type { X509Certificate } from "node:crypto";
import { refusal, type EndpointTarget, type Reach, type Starter } from "./targets.ts";

export class EndpointError extends Error {
  override readonly name = "EndpointError";
  readonly code: "refused" | "unreachable" | "no-tls";
  constructor(code: EndpointError["code"], message: string) {
    super(message);
    this.code = code;
  }
}

export interface Served {
  readonly address: string;
  /** DER, leaf first, then each certificate that issued the one before, as far as the server sent them. */
  readonly chain: readonly Buffer[];
}

export interface EndpointOptions {
  /** For everything from the look-up to the end of the handshake, per connection. */
  readonly timeoutMs: number;
  /** Connections per address: several show a balancer whose backends serve different certificates. */
  readonly connections: number;
  /** Name sent in the handshake instead of the host's. */
  readonly serverName?: string | undefined;
  readonly reach: Reach;
  readonly signal?: AbortSignal | undefined;
}

/** A handshake with the largest sensible chain takes 64 KiB; a greeting takes a few lines. */
const maxGreetingBytes = 16 * 1024;
const maxHandshakeBytes = 1024 * 1024;
const maxAddresses = 8;
const longestChain = 20;

/**
 * Old versions and weak ciphers are offered on purpose, because it is the old servers that have to be found. An empty list of authorities keeps
 * OpenSSL from completing the chain from its own store: what was not sent must not be reported as served.
 */
let sharedContext: ReturnType<typeof createSecureContext> | undefined;
function context(): ReturnType<typeof createSecureContext> {
  sharedContext ??= createSecureContext({ ca: [], minVersion: "TLSv1", ciphers: "DEFAULT:@SECLEVEL=0" });
  return sharedContext;
}

/** Every address of the host is asked. Throws {@link EndpointError} when none answers with a certificate. */
export async function* probe(
  target: EndpointTarget,
  options: EndpointOptions,
): AsyncGenerator<Served | EndpointError, void, void> {
  let addresses: string[];
  try {
    addresses = await resolve(target.host, options.timeoutMs);
  } catch {
    yield new EndpointError("unreachable", `the name ${target.host} does not resolve`);
    return;
  }
  for (const address of addresses.slice(0, maxAddresses)) {
    const no = refusal(address, options.reach);
    if (no !== undefined) {
      yield new EndpointError("refused", no);
      continue;
    }
    try {
      const chains = await Promise.all(
        Array.from({ length: options.connections }, () => handshake(target, address, options)),
      );
      for (const chain of distinct(chains)) yield { address, chain };
    } catch (error) {
      yield error instanceof EndpointError ? error : new EndpointError("unreachable", "the connection failed");
    }
  }
}

function distinct(chains: readonly (readonly Buffer[])[]): readonly (readonly Buffer[])[] {
  return chains.filter((chain, i) => !chains.slice(0, i).some((other) => same(chain, other)));
}
function same(one: readonly Buffer[], other: readonly Buffer[]): boolean {
  return one.length === other.length && one.every((der, i) => der.equals(other[i]!));
}

async function resolve(host: string, timeoutMs: number): Promise<string[]> {
  if (isIP(host) !== 0) return [host];
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("late")), timeoutMs);
  });
  try {
    const found = await Promise.race([lookup(host, { all: true, verbatim: true }), late]);
    return [...new Set(found.map((one) => one.address))];
  } finally {
    clearTimeout(timer);
  }
}

/** One connection. The address was resolved and judged before, so that the name cannot be rebound in between. */
function handshake(target: EndpointTarget, address: string, options: EndpointOptions): Promise<readonly Buffer[]> {
  return new Promise((resolve, reject) => {
    let tls: TLSSocket | undefined;
    const socket = connect({ host: address, port: target.port, noDelay: true });
    const timer = setTimeout(
      () =>
        fail(
          new EndpointError(
            connected ? "no-tls" : "unreachable",
            `no ${connected ? "handshake" : "answer"} within ${options.timeoutMs} ms`,
          ),
        ),
      options.timeoutMs,
    );
    let connected = false;
    let settled = false;
    function end(): boolean {
      if (settled) return false;
      settled = true;
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", aborted);
      tls?.destroy();
      socket.destroy();
      return true;
    }
    function fail(error: EndpointError): void {
      if (end()) reject(error);
    }
    function aborted(): void {
      fail(new EndpointError("unreachable", "the scan was stopped"));
    }
    function succeed(): boolean {
      const chain = tls === undefined ? [] : chainOf(tls);
      if (chain.length === 0) return false;
      if (end()) resolve(chain);
      return true;
    }
    options.signal?.addEventListener("abort", aborted);
    if (options.signal?.aborted) aborted();
    socket.on("error", (error: NodeJS.ErrnoException) =>
      fail(
        new EndpointError(connected ? "no-tls" : "unreachable", connected ? "the connection broke off" : whyNot(error)),
      ),
    );
    socket.on("close", () => fail(new EndpointError("no-tls", "the server closed the connection without a handshake")));
    socket.on("connect", () => {
      connected = true;
      greet(socket, target.starter).then(
        () => {
          if (settled) return;
          const serverName = options.serverName ?? (isIP(target.host) === 0 ? target.host : undefined);
          tls = connectTls({
            socket,
            secureContext: context(),
            rejectUnauthorized: false,
            checkServerIdentity: () => undefined,
            ...(serverName === undefined ? {} : { servername: serverName }),
          });
          tls.on("secureConnect", () => {
            if (!succeed()) fail(new EndpointError("no-tls", "the handshake ended without a certificate"));
          });
          // A server that asks for a client certificate has shown its own before it hangs up.
          tls.on("error", () => {
            if (!succeed())
              fail(
                new EndpointError("no-tls", "something answers, and it is not TLS or no version that is known here"),
              );
          });
          const watch = setInterval(() => {
            if (settled) clearInterval(watch);
            else if (socket.bytesRead > maxHandshakeBytes)
              fail(
                new EndpointError(
                  "refused",
                  `it sent more than ${maxHandshakeBytes} bytes without ending the handshake`,
                ),
              );
          }, 50);
          watch.unref();
          tls.on("close", () => clearInterval(watch));
        },
        (error: unknown) =>
          fail(error instanceof EndpointError ? error : new EndpointError("no-tls", "the greeting failed")),
      );
    });
  });
}

function whyNot(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case "ECONNREFUSED":
      return "nothing listens there";
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return "there is no route to it";
    case "ECONNRESET":
      return "it resets the connection";
    default:
      return `the connection failed (${error.code ?? "no reason given"})`;
  }
}

function chainOf(socket: TLSSocket): Buffer[] {
  const chain: Buffer[] = [];
  let certificate: X509Certificate | undefined = socket.getPeerX509Certificate();
  while (certificate !== undefined && chain.length < longestChain) {
    const { raw } = certificate;
    // A root names itself as its issuer.
    if (chain.some((earlier) => earlier.equals(raw))) break;
    chain.push(raw);
    certificate = certificate.issuerCertificate;
  }
  return chain;
}

const postgresSslRequest = Buffer.from([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
/** ExtendedRequest of RFC 4511 section 4.14, message 1. */
const ldapStartTls = Buffer.from("301d02010177188016312e332e362e312e342e312e313436362e3230303337", "hex");

/** Speaks the few words that lead to TLS. Afterwards the socket is quiet and no byte of the server's is lost. */
async function greet(socket: Socket, starter: Starter): Promise<void> {
  if (starter === "tls") return;
  const talk = openTalk(socket);
  try {
    switch (starter) {
      case "postgres": {
        socket.write(postgresSslRequest);
        const answer = await talk.bytes(1);
        if (answer[0] !== 0x53)
          throw new EndpointError(
            "no-tls",
            answer[0] === 0x4e ? "this PostgreSQL server does not offer TLS" : "something else than PostgreSQL answers",
          );
        break;
      }
      case "smtp":
        await reply(talk, /^220 /, /^220-/, "SMTP");
        socket.write("EHLO localhost\r\n");
        await reply(talk, /^250 /, /^250-/, "SMTP");
        socket.write("STARTTLS\r\n");
        await reply(talk, /^220 /, /^220-/, "SMTP");
        break;
      case "imap":
        await reply(talk, /^\* OK/, /^$/, "IMAP");
        socket.write("a1 STARTTLS\r\n");
        await reply(talk, /^a1 OK/, /^\* /, "IMAP");
        break;
      case "pop3":
        await reply(talk, /^\+OK/, /^$/, "POP3");
        socket.write("STLS\r\n");
        await reply(talk, /^\+OK/, /^$/, "POP3");
        break;
      case "ldap": {
        socket.write(ldapStartTls);
        const head = await talk.bytes(2);
        if (head[0] !== 0x30 || head[1]! >= 0x80) throw new EndpointError("no-tls", "something else than LDAP answers");
        const body = await talk.bytes(head[1]!);
        // messageID, then ExtendedResponse [APPLICATION 24] whose first field is the result code; 0 is success.
        if (body.indexOf(Buffer.from([0x0a, 1, 0])) === -1)
          throw new EndpointError("no-tls", "this LDAP server does not offer TLS");
        break;
      }
    }
    // Bytes sent in clear behind the last answer would be taken for the handshake (CVE-2021-23222): somebody is in between.
    if (talk.left() > 0) throw new EndpointError("no-tls", "it sent more in clear after agreeing to TLS");
  } finally {
    talk.close();
  }
}

interface Talk {
  bytes(count: number): Promise<Buffer>;
  line(): Promise<string>;
  left(): number;
  close(): void;
}

async function reply(talk: Talk, last: RegExp, more: RegExp, protocol: string): Promise<void> {
  for (;;) {
    const line = await talk.line();
    if (last.test(line)) return;
    if (!more.test(line))
      throw new EndpointError("no-tls", `it does not offer STARTTLS, or something else than ${protocol} answers`);
  }
}

function openTalk(socket: Socket): Talk {
  let held = Buffer.alloc(0);
  let total = 0;
  let wake: (() => void) | undefined;
  let over = false;
  const onData = (chunk: Buffer): void => {
    total += chunk.length;
    held = Buffer.concat([held, chunk]);
    if (total > maxGreetingBytes) over = true;
    wake?.();
  };
  const onEnd = (): void => {
    over = true;
    wake?.();
  };
  socket.on("data", onData);
  socket.on("close", onEnd);
  socket.on("end", onEnd);
  async function until<T>(take: () => T | undefined): Promise<T> {
    for (;;) {
      const taken = take();
      if (taken !== undefined) return taken;
      if (over) {
        throw new EndpointError(
          total > maxGreetingBytes ? "refused" : "no-tls",
          total > maxGreetingBytes
            ? `its greeting has more than ${maxGreetingBytes} bytes`
            : "it hung up during the greeting",
        );
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
  return {
    bytes: (count) =>
      until(() => {
        if (held.length < count) return undefined;
        const part = held.subarray(0, count);
        held = held.subarray(count);
        return part;
      }),
    line: () =>
      until(() => {
        const at = held.indexOf(0x0a);
        if (at === -1) return undefined;
        const text = held.toString("latin1", 0, at).trimEnd();
        held = held.subarray(at + 1);
        return text;
      }),
    left: () => held.length,
    close() {
      socket.off("data", onData);
      socket.off("close", onEnd);
      socket.off("end", onEnd);
      socket.pause();
    },
  };
}
