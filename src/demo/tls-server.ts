/**
 * The TLS endpoint of the demo, in a process of its own: serves a certificate from two files and loads them again on SIGHUP, as nginx does. A pair that
 * does not fit is refused and the old one stays, as nginx does too.
 *
 * Run as `node tls-server.ts <port> <certificate file> <key file> <pid file>`; says `{ port }` to the parent when it listens.
 */
import { X509Certificate, createPrivateKey } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:tls";

function main(portText: string, certificateFile: string, keyFile: string, pidFile: string): void {
  const load = () => {
    const cert = readFileSync(certificateFile);
    const key = readFileSync(keyFile);
    if (!new X509Certificate(cert).checkPrivateKey(createPrivateKey(key)))
      throw new Error("the key does not fit the certificate");
    return { cert, key };
  };
  const server = createServer({ ...load(), sessionTimeout: 1 }, (socket) => {
    socket.on("error", () => socket.destroy());
    socket.on("data", () => socket.end("!"));
  });
  process.on("SIGHUP", () => {
    try {
      server.setSecureContext(load());
    } catch (error) {
      process.stderr.write(`reload refused: ${(error as Error).message}\n`);
    }
  });
  process.on("SIGINT", () => {});
  process.once("SIGTERM", () => process.exit(0));
  process.once("disconnect", () => process.exit(0));
  server.listen(Number(portText), "127.0.0.1", () => {
    writeFileSync(pidFile, `${process.pid}\n`);
    process.send?.({ port: (server.address() as { port: number }).port });
  });
}

if (process.argv[1] === import.meta.filename)
  main(process.argv[2]!, process.argv[3]!, process.argv[4]!, process.argv[5]!);
