/**
 * One look at what a TLS endpoint serves: connect, STARTTLS where asked, shake hands, take the certificates, hang up. Bounded in time and bytes;
 * every failure is a {@link ConnectorError} of kind `unavailable`, since looking changes nothing and an outage is no verdict.
 */
import { X509Certificate } from "node:crypto";
import { connect as connectTcp, isIP } from "node:net";
import type { Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { DetailedPeerCertificate, TLSSocket } from "node:tls";
import { ConnectorError } from "../connector.ts";
import { codeOf } from "./calls.ts";
import { firstLine } from "./redact.ts";

export const startTlsKinds = ["none", "postgres", "smtp", "imap"] as const;
type StartTls = (typeof startTlsKinds)[number];

export interface TlsTarget {
  readonly host: string;
  readonly port: number;
  /** SNI, and the name that the certificate must carry. Default: the host. */
  readonly serverName?: string;
  readonly startTls?: StartTls;
  /** PEM of the CAs that are trusted. Absent: those of Node.js. */
  readonly ca?: string;
  /** For the whole look. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

export interface TlsPeer {
  /** As served, leaf first. Never empty. */
  readonly chain: readonly X509Certificate[];
  /** The chain leads to a trusted CA and the leaf carries the name. */
  readonly verified: boolean;
  /** OpenSSL's reason when it does not, such as `CERT_HAS_EXPIRED`. */
  readonly whyNot?: string;
  /** `TLSv1.3` */
  readonly protocol: string;
}

/** What a server may say before TLS begins. */
const maxPlainBytes = 16 * 1024;
/** More certificates than any chain has; the walk also ends at a certificate that signed itself. */
const maxChain = 32;

export async function fetchPeer(target: TlsTarget): Promise<TlsPeer> {
  const where = `${target.host}:${target.port}`;
  if (target.signal.aborted) throw new ConnectorError("unavailable", `${where} was not asked: the call was cancelled.`);
  const socket = connectTcp({ host: target.host, port: target.port });
  // One controller for everything that ends the look early.
  const ended = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => ended.reject(unavailable(where, `gave no answer within ${target.timeoutMs} ms`)),
    target.timeoutMs,
  );
  const cancel = (): void => ended.reject(new ConnectorError("unavailable", `The look at ${where} was cancelled.`));
  target.signal.addEventListener("abort", cancel, { once: true });
  socket.on("error", (error) => ended.reject(connectError(where, codeOf(error))));
  let secure: TLSSocket | undefined;
  let shaken = false;
  try {
    return await Promise.race([
      ended.promise,
      (async () => {
        await prepare(socket, target, where);
        const opened = connectTls({
          socket,
          host: target.host,
          ...serverName(target),
          ...(target.ca === undefined ? {} : { ca: target.ca }),
          // Looking is the point: a bad certificate is reported, not refused. Nothing is sent after the handshake.
          rejectUnauthorized: false,
        });
        secure = opened;
        const peer = await shakeHands(opened, target, where);
        shaken = true;
        return peer;
      })(),
    ]);
  } finally {
    clearTimeout(timer);
    target.signal.removeEventListener("abort", cancel);
    // A late rejection has no listener any more.
    ended.promise.catch(() => {});
    if (shaken) hangUp(secure, socket);
    else socket.destroy();
  }
}

/** How long a server may take to hang up, and how much it may say meanwhile. */
const goodbyeMs = 500;
const maxGoodbyeBytes = 64 * 1024;

/** Ends the connection as TLS wants it, in the background: cut off at once, every look would be an error in the server's log. */
function hangUp(secure: TLSSocket | undefined, socket: Socket): void {
  const cut = (): void => {
    clearTimeout(timer);
    secure?.destroy();
    socket.destroy();
  };
  const timer = setTimeout(cut, goodbyeMs).unref();
  if (secure === undefined) return cut();
  // Nobody waits for this connection any more; what goes wrong now is no news.
  secure.removeAllListeners("error").on("error", cut).once("close", cut);
  secure.on("data", () => {
    if (socket.bytesRead > maxGoodbyeBytes) cut();
  });
  secure.end();
}

/** RFC 6066, 3: an address is never sent as a server name. */
function serverName(target: TlsTarget): { servername?: string } {
  const name = target.serverName ?? target.host;
  return isIP(name) === 0 ? { servername: name } : {};
}

function shakeHands(secure: TLSSocket, target: TlsTarget, where: string): Promise<TlsPeer> {
  return new Promise((done, fail) => {
    secure.on("error", (error) => fail(handshakeError(where, codeOf(error))));
    secure.on("close", () => fail(unavailable(where, "closed the connection during the TLS handshake")));
    secure.once("secureConnect", () => {
      const chain = chainOf(secure.getPeerCertificate(true));
      if (chain.length === 0) return fail(unavailable(where, "served no certificate"));
      const whyNot = secure.authorized ? undefined : reasonOf(secure.authorizationError, target);
      done({
        chain,
        verified: secure.authorized,
        ...(whyNot === undefined ? {} : { whyNot }),
        protocol: secure.getProtocol() ?? "unknown",
      });
    });
  });
}

function reasonOf(error: Error | string | null | undefined, target: TlsTarget): string {
  const code = typeof error === "string" ? error : codeOf(error);
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID")
    return `the certificate does not carry the name ${target.serverName ?? target.host}`;
  return code ?? "it could not be verified";
}

function chainOf(peer: DetailedPeerCertificate): X509Certificate[] {
  const chain: X509Certificate[] = [];
  const seen = new Set<string>();
  for (
    let one: DetailedPeerCertificate | undefined = peer;
    one !== undefined && chain.length < maxChain;
    one = one.issuerCertificate
  ) {
    // Node gives an empty object where there is no certificate, whatever its type says.
    const raw: Buffer | undefined = one.raw;
    if (raw === undefined || seen.has(one.fingerprint256)) break;
    seen.add(one.fingerprint256);
    chain.push(new X509Certificate(raw));
  }
  return chain;
}

/** Brings the plain connection to where the TLS handshake begins. */
async function prepare(socket: Socket, target: TlsTarget, where: string): Promise<void> {
  await new Promise<void>((done) => socket.once("connect", () => done()));
  const kind = target.startTls ?? "none";
  if (kind === "none") return;
  const reader = new PlainReader(socket, where);
  try {
    if (kind === "postgres") {
      // SSLRequest: length 8, code 80877103 (PostgreSQL documentation, "Message Formats").
      socket.write(Buffer.from([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]));
      const answer = String.fromCharCode((await reader.bytes(1))[0] ?? 0);
      if (answer === "N") throw unavailable(where, "is a PostgreSQL server with TLS switched off");
      if (answer !== "S") throw unavailable(where, "is no PostgreSQL server");
    } else if (kind === "smtp") {
      await reader.expect(/^220[ -]/, "the SMTP greeting", (line) => line[3] !== "-");
      socket.write("EHLO keyroll.invalid\r\n");
      await reader.expect(/^250[ -]/, "the answer to EHLO", (line) => line[3] !== "-");
      socket.write("STARTTLS\r\n");
      await reader.expect(/^220[ -]/, "the answer to STARTTLS", (line) => line[3] !== "-");
    } else {
      await reader.expect(/^\* /, "the IMAP greeting", () => true);
      socket.write("a1 STARTTLS\r\n");
      await reader.expect(/^(\* |a1 OK)/, "the answer to STARTTLS", (line) => line.startsWith("a1 OK"));
    }
    // Anything more was sent in clear and would be taken for part of the encrypted stream (CVE-2011-0411 and its kind).
    if (reader.rest() > 0) throw unavailable(where, "sent data in clear after agreeing to TLS");
  } finally {
    reader.stop();
  }
}

/** Reads the few plain bytes of a STARTTLS dialogue, and not one more. */
class PlainReader {
  readonly #socket: Socket;
  readonly #where: string;
  #buffer: Buffer = Buffer.alloc(0);
  #total = 0;
  #wake: () => void = () => {};
  #closed = false;
  readonly #onData = (chunk: Buffer): void => {
    this.#total += chunk.length;
    // Past the limit nothing is kept; the next read fails.
    if (this.#total <= maxPlainBytes) this.#buffer = Buffer.concat([this.#buffer, chunk]);
    else this.#socket.pause();
    this.#wake();
  };
  readonly #onClose = (): void => {
    this.#closed = true;
    this.#wake();
  };
  constructor(socket: Socket, where: string) {
    this.#socket = socket;
    this.#where = where;
    socket.on("data", this.#onData);
    socket.on("close", this.#onClose);
  }
  async bytes(count: number): Promise<Buffer> {
    while (this.#buffer.length < count) await this.#more();
    const taken = this.#buffer.subarray(0, count);
    this.#buffer = this.#buffer.subarray(count);
    return taken;
  }
  /** Reads lines, each of which must match, until the last one. */
  async expect(pattern: RegExp, what: string, isLast: (line: string) => boolean): Promise<void> {
    for (;;) {
      const end = this.#buffer.indexOf(0x0a);
      if (end === -1) {
        await this.#more();
        continue;
      }
      const line = this.#buffer.subarray(0, end).toString("latin1").trimEnd();
      this.#buffer = this.#buffer.subarray(end + 1);
      if (!pattern.test(line)) throw unavailable(this.#where, `gave "${firstLine(line, 80)}" as ${what}`);
      if (isLast(line)) return;
    }
  }
  rest(): number {
    return this.#buffer.length;
  }
  stop(): void {
    this.#socket.pause();
    this.#socket.off("data", this.#onData);
    this.#socket.off("close", this.#onClose);
  }
  async #more(): Promise<void> {
    if (this.#total > maxPlainBytes) throw unavailable(this.#where, `sent more than ${maxPlainBytes} bytes before TLS`);
    if (this.#closed) throw unavailable(this.#where, "closed the connection before TLS");
    await new Promise<void>((done) => {
      this.#wake = done;
    });
  }
}

function unavailable(where: string, what: string): ConnectorError {
  return new ConnectorError("unavailable", `${where} ${what}.`, {
    next: "Check the address, and that the service runs.",
  });
}
function connectError(where: string, code: string | undefined): ConnectorError {
  if (code === "ECONNREFUSED") return unavailable(where, "refused the connection: nobody listens there");
  if (code === "ECONNRESET" || code === "EPIPE") return unavailable(where, "closed the connection");
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return unavailable(where, "has a name that cannot be resolved");
  return unavailable(where, `could not be reached (${code ?? "error"})`);
}
function handshakeError(where: string, code: string | undefined): ConnectorError {
  if (
    code === "ERR_SSL_WRONG_VERSION_NUMBER" ||
    code === "ERR_SSL_PACKET_LENGTH_TOO_LONG" ||
    code === "ERR_SSL_HTTP_REQUEST"
  ) {
    return unavailable(where, "does not speak TLS");
  }
  if (code === "ECONNRESET") return unavailable(where, "closed the connection during the TLS handshake");
  return unavailable(where, `failed the TLS handshake (${code ?? "error"})`);
}
