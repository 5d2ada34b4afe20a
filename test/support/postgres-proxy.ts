/**
 * Stands between a client and a PostgreSQL server, without TLS, and understands just enough of the protocol (frontend messages of version 3) to
 * act on a statement: hold it, swallow it, swallow its answer, or answer with rubbish.
 */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/**
 * `pass`: as if nobody stood between. `lose-request`: the server never sees it. `lose-answer`: the server sees it, its answer is dropped.
 * `garble`: the server sees it, and the client gets bytes that are no answer. In the last three the connection is cut a moment later.
 */
export type Treatment = "pass" | "lose-request" | "lose-answer" | "garble";

export interface PostgresProxy {
  readonly port: number;
  /** Asked for every statement, which waits for the answer. */
  onStatement: (text: string) => Treatment | Promise<Treatment>;
  /** Cuts connections as they come, as a host with nothing behind the port would. */
  down: boolean;
  close(): Promise<void>;
}

const silenceMs = 200;
const startupTypes = new Set([196608, 80877102]);
const sslRequest = 80877103;

export async function startPostgresProxy(target: { host: string; port: number }): Promise<PostgresProxy> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    if (proxy.down) return void client.destroy();
    const upstream = connect(target.port, target.host);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      // Messages are passed on one by one: waiting to join them would cost 40 ms each.
      socket.setNoDelay(true);
      socket.on("error", () => undefined);
    }
    const cut = (): void => {
      client.destroy();
      upstream.destroy();
      sockets.delete(client);
      sockets.delete(upstream);
    };
    client.on("close", cut);
    upstream.on("close", cut);
    let deaf = false;
    upstream.on("data", (chunk: Buffer) => void (deaf || client.write(chunk)));
    let pending = Buffer.alloc(0);
    let started = false;
    /** What is encrypted is passed on unread. */
    let blind = false;
    let work: Promise<void> = Promise.resolve();
    client.on("data", (chunk: Buffer) => {
      work = work.then(() => take(chunk)).catch(cut);
    });
    async function take(chunk: Buffer): Promise<void> {
      if (blind) return void upstream.write(chunk);
      pending = Buffer.concat([pending, chunk]);
      for (;;) {
        const header = started ? 1 : 0;
        if (pending.length < header + 4) return;
        const length = header + pending.readUInt32BE(header);
        if (pending.length < length) return;
        const message = pending.subarray(0, length);
        pending = pending.subarray(length);
        if (!started) {
          started = startupTypes.has(message.readUInt32BE(4));
          blind = message.readUInt32BE(4) === sslRequest;
          upstream.write(message);
          continue;
        }
        const kind = String.fromCharCode(message[0]!);
        const body = message.subarray(5).toString("utf8");
        const text = kind === "Q" ? body.slice(0, -1) : kind === "P" ? (body.split("\0")[1] ?? "") : null;
        const treatment = text === null || deaf ? "pass" : await proxy.onStatement(text);
        if (treatment !== "pass") {
          deaf = true;
          if (treatment === "garble") client.write(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n\0\0\0\0\0\0\0\0"));
          setTimeout(cut, silenceMs);
          if (treatment === "lose-request") {
            pending = Buffer.alloc(0);
            upstream.destroy();
            return;
          }
        }
        if (!upstream.destroyed) upstream.write(message);
      }
    }
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const proxy: PostgresProxy = {
    port: (server.address() as AddressInfo).port,
    onStatement: () => "pass",
    down: false,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}
