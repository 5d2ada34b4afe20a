import { createServer as createTcp } from "node:net";
import type { Server, Socket } from "node:net";
import { createSecureContext, createServer as createTls, TLSSocket } from "node:tls";
import type { TlsOptions } from "node:tls";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { certificateVersions, placeContract } from "../connector.contract.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { tlsEndpoint } from "./connector.ts";

const folder = mkdtempSync(join(tmpdir(), "keyroll-tls-"));
const { version, caPem } = await certificateVersions("web-tls", ["localhost", "127.0.0.1"]);
const caFile = join(folder, "ca.pem");
writeFileSync(caFile, caPem);
const other = await certificateVersions("other-tls", ["elsewhere.example.org"]);

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});
afterAll(() => rmSync(folder, { recursive: true }));

async function serve(server: Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
  });
  server.on("tlsClientError", () => {});
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  closers.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((done) => server.close(done));
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
async function identity(handle: VersionHandle): Promise<TlsOptions & { key: string; cert: string }> {
  const material = await handle.open();
  if (material.kind !== "key") throw new Error("no key");
  return { key: material.privateKey.reveal(), cert: material.certificates.join("") };
}
function context(signal = new AbortController().signal): CallContext {
  return {
    now: () => Date.now(),
    signal,
    throttle: async () => {},
    log: { debug: () => {}, info: () => {}, warn: () => {} },
  };
}
function open(config: Record<string, unknown>): Place {
  return tlsEndpoint.open(tlsEndpoint.config.parse({ host: "127.0.0.1", ...config }), undefined);
}

placeContract({
  runner: { describe, it },
  name: "tls.endpoint",
  connector: tlsEndpoint,
  config: { host: "127.0.0.1", port: 443 },
  makeWorld: async () => {
    const server = createTls(await identity(await other.version(9)));
    const port = await serve(server);
    let stopped: (() => Promise<void>) | undefined;
    return {
      open: () => open({ port, timeout: "1s" }),
      version,
      inspect: async () => ({ present: [], current: null, foreign: ["other-tls#9"] }),
      faults: {
        down: async () => {
          await closers.pop()?.();
          return { clear: () => {} };
        },
        "lost-answer": () => {
          // Accepts connections and says nothing.
          const silent = createTcp(() => {});
          stopped = async () => void silent.close();
          return { clear: () => stopped?.() };
        },
      },
    };
  },
  cannot: {
    "the verbs fit the traits":
      "it only looks; what is served is changed at the place where the server reads its files",
  },
});

describe("tls.endpoint", () => {
  it("sees the one certificate that all connections serve, and accepts it", async () => {
    const one = await version(1);
    let connections = 0;
    const server = createTls(await identity(one));
    const errors: Error[] = [];
    server.on("secureConnection", () => connections++);
    server.on("tlsClientError", (error) => errors.push(error));
    const place = open({ port: await serve(server), caFile, connections: 8 });
    const seen = await place.observe(context(), [one, await version(2)]);
    expect(seen.entries).toEqual([
      { mark: one.facts.fingerprint, version: one.id, enabled: true, notAfterMs: one.facts.notAfterMs },
    ]);
    expect(seen.current).toBe(one.facts.fingerprint);
    expect(seen.inUse).toEqual([one.facts.fingerprint]);
    expect(seen.notes).toBeUndefined();
    expect(await place.probe?.(context(), one)).toMatchObject({ outcome: "accepted" });
    expect(await place.probe?.(context(), await version(2))).toMatchObject({ outcome: "refused" });
    // Each was a whole connection, ended as TLS wants it, and no error in the server's log.
    await vi.waitFor(() => expect(connections).toBe(24));
    expect(errors).toEqual([]);
  });

  it("does not say which one is in use while an old worker serves another", async () => {
    const [one, two] = [await version(1), await version(2)];
    const contexts = [createSecureContext(await identity(one)), createSecureContext(await identity(two))];
    let n = 0;
    // The server name callback sees each connection, so that they can be answered in turn.
    const turn = createTls({ ...(await identity(one)), SNICallback: (_name, done) => done(null, contexts[n++ % 2]) });
    const place = open({ port: await serve(turn), serverName: "localhost", caFile });
    const seen = await place.observe(context(), [one, two]);
    expect(seen.entries.map((entry) => entry.version).sort()).toEqual([one.id, two.id]);
    expect(seen).not.toHaveProperty("current");
    expect(seen.notes?.[0]).toContain("2 different certificates");
    expect(await place.probe?.(context(), two)).toMatchObject({
      outcome: "refused",
      detail: expect.stringContaining("4 of 8"),
    });
  });

  it("asks for the name that it is told, and refuses a certificate without it", async () => {
    const elsewhere = await other.version(1);
    const names: string[] = [];
    const server = createTls({
      ...(await identity(elsewhere)),
      SNICallback: (name, done) => {
        names.push(name);
        done(null);
      },
    });
    const otherCa = join(folder, "other.pem");
    writeFileSync(otherCa, other.caPem);
    const port = await serve(server);
    const right = open({ port, serverName: "elsewhere.example.org", caFile: otherCa, connections: 1 });
    expect(await right.probe?.(context(), elsewhere)).toMatchObject({ outcome: "accepted" });
    expect(names).toEqual(["elsewhere.example.org"]);
    const wrong = open({ port, serverName: "localhost", caFile: otherCa, connections: 1 });
    const probe = await wrong.probe?.(context(), elsewhere);
    expect(probe).toMatchObject({
      outcome: "refused",
      detail: expect.stringContaining("does not carry the name localhost"),
    });
    const untrusted = open({ port, serverName: "elsewhere.example.org", caFile, connections: 1 });
    expect(await untrusted.probe?.(context(), elsewhere)).toMatchObject({ outcome: "refused" });
    expect((await untrusted.observe(context(), [elsewhere])).notes?.[0]).toContain("does not verify");
  });

  /** A server that talks in clear first and then, on the same connection, TLS. */
  async function talking(dialogue: (socket: Socket, upgrade: () => void) => void): Promise<number> {
    const secureContext = createSecureContext(await identity(await version(1)));
    return serve(
      createTcp((socket) => {
        dialogue(socket, () => {
          socket.removeAllListeners("data");
          const secure = new TLSSocket(socket, { isServer: true, secureContext });
          secure.on("error", () => {});
        });
      }),
    );
  }

  it.each(["postgres", "smtp", "imap"])("speaks STARTTLS to a server of kind %s", async (startTls) => {
    const dialogues: Record<string, (socket: Socket, upgrade: () => void) => void> = {
      postgres: (socket, upgrade) =>
        socket.once("data", (request) => {
          expect(request.toString("hex")).toBe("0000000804d2162f");
          upgrade();
          socket.write("S");
        }),
      smtp: (socket, upgrade) => {
        socket.write("220-welcome\r\n220 mail.example.org ESMTP\r\n");
        socket.on("data", (line) => {
          if (line.toString().startsWith("EHLO"))
            return socket.write("250-mail.example.org\r\n250-SIZE 1000\r\n250 STARTTLS\r\n");
          upgrade();
          return socket.write("220 go ahead\r\n");
        });
      },
      imap: (socket, upgrade) => {
        socket.write("* OK ready\r\n");
        socket.on("data", () => {
          upgrade();
          socket.write("* CAPABILITY IMAP4rev1\r\na1 OK begin\r\n");
        });
      },
    };
    const port = await talking(dialogues[startTls] ?? (() => {}));
    const place = open({ port, startTls, caFile, connections: 2 });
    expect(await place.probe?.(context(), await version(1))).toMatchObject({ outcome: "accepted" });
  });

  it.each([
    [
      "a PostgreSQL server without TLS",
      "postgres",
      (socket: Socket) => void socket.once("data", () => socket.write("N")),
      "TLS switched off",
    ],
    [
      "data in clear after the agreement",
      "postgres",
      (socket: Socket) => void socket.once("data", () => socket.write("SELECT")),
      "in clear after agreeing",
    ],
    ["an SMTP server that refuses", "smtp", (socket: Socket) => void socket.write("554 go away\r\n"), '"554 go away"'],
    [
      "an endless greeting",
      "imap",
      (socket: Socket) => void socket.write("* ".repeat(20_000)),
      "more than 16384 bytes",
    ],
    ["a server that hangs up", "imap", (socket: Socket) => void socket.end(), "closed the connection before TLS"],
    [
      "a web server without TLS",
      "none",
      (socket: Socket) => void socket.write("HTTP/1.1 400 Bad Request\r\n\r\n"),
      "does not speak TLS",
    ],
    ["noise", "none", (socket: Socket) => void socket.write(Buffer.alloc(100_000, 0xa5)), "TLS"],
    ["silence", "none", () => {}, "gave no answer within 300 ms"],
    ["a reset", "none", (socket: Socket) => void socket.resetAndDestroy(), "closed the connection"],
  ])("is not held up or misled by %s", async (_name, startTls, behave, message) => {
    const port = await serve(createTcp(behave));
    const place = open({ port, startTls, timeout: "300ms", connections: 8 });
    await expect(place.observe(context(), [])).rejects.toMatchObject({
      kind: "unavailable",
      message: expect.stringContaining(message),
    });
    expect(await place.probe?.(context(), await version(1))).toMatchObject({ outcome: "unknown" });
  });

  it("sees what a server serves that asks for a client certificate", async () => {
    const server = createTls({
      ...(await identity(await version(1))),
      requestCert: true,
      rejectUnauthorized: true,
      ca: caPem,
    });
    const place = open({ port: await serve(server), caFile, connections: 2 });
    expect((await place.observe(context(), [await version(1)])).entries[0]?.version).toBe("web-tls#1");
  });

  it("lets nobody say what is in use when some connections fail", async () => {
    const server = createTls(await identity(await version(1)));
    let n = 0;
    const port = await serve(
      createTcp((socket) => {
        if (n++ === 3) socket.destroy();
        else server.emit("connection", socket);
      }),
    );
    const place = open({ port, caFile, connections: 6 });
    const seen = await place.observe(context(), [await version(1)]);
    expect(seen.entries).toHaveLength(1);
    expect(seen).not.toHaveProperty("current");
    expect(seen.notes?.[0]).toContain("1 of 6 connections failed");
  });

  it("stops when it is cancelled half-way", async () => {
    const controller = new AbortController();
    const port = await serve(createTcp(() => controller.abort()));
    const place = open({ port, timeout: "60s" });
    await expect(place.observe(context(controller.signal), [])).rejects.toMatchObject({ kind: "unavailable" });
  });
});
