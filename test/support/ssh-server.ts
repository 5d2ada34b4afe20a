/**
 * An SSH server in this process, on 127.0.0.1 and a free port, with a small SFTP server (draft-ietf-secsh-filexfer-02, with OpenSSH's
 * posix-rename and fsync) over a real folder, and `exec` as the test says. The client's library cannot announce extensions in its own server
 * mode, so the wire code here is ours; it shares nothing with the connector.
 */
import { createHash, generateKeyPairSync } from "node:crypto";
import * as fs from "node:fs";
import { type AddressInfo } from "node:net";
import ssh2, { type Connection, type ServerChannel } from "ssh2";

export type SftpTreatment = "pass" | "lose-request" | "lose-answer" | "garble" | "deny";
export interface TestSshServer {
  readonly port: number;
  /** `SHA256:…` of its host key. */
  readonly hostKey: string;
  readonly user: string;
  readonly password: string;
  down: boolean;
  /** Asked for each SFTP request, by its name in the draft (`OPEN` with writing is `CREATE`). */
  onRequest: (name: string) => SftpTreatment | Promise<SftpTreatment>;
  onExec: (command: string, channel: ServerChannel) => void;
  close(): Promise<void>;
}

const names: Readonly<Record<number, string>> = {
  1: "INIT",
  3: "OPEN",
  4: "CLOSE",
  5: "READ",
  6: "WRITE",
  7: "LSTAT",
  8: "FSTAT",
  10: "FSETSTAT",
  11: "OPENDIR",
  12: "READDIR",
  13: "REMOVE",
  16: "REALPATH",
  17: "STAT",
  200: "EXTENDED",
};
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};
const str = (value: string | Buffer): Buffer => {
  const bytes = Buffer.from(value);
  return Buffer.concat([u32(bytes.length), bytes]);
};
const packet = (type: number, ...parts: readonly Buffer[]): Buffer =>
  str(Buffer.concat([Buffer.from([type]), ...parts]));
const attributes = (stat: fs.Stats): Buffer =>
  Buffer.concat([
    u32(0b1111),
    u32(Math.floor(stat.size / 2 ** 32)),
    u32(stat.size),
    u32(stat.uid),
    u32(stat.gid),
    u32(stat.mode),
    u32(stat.atimeMs / 1000),
    u32(stat.mtimeMs / 1000),
  ]);

class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }
  u8(): number {
    return this.#bytes[this.#at++]!;
  }
  u32(): number {
    this.#at += 4;
    return this.#bytes.readUInt32BE(this.#at - 4);
  }
  u64(): number {
    return this.u32() * 2 ** 32 + this.u32();
  }
  bytes(): Buffer {
    const length = this.u32();
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
  text(): string {
    return this.bytes().toString("utf8");
  }
}

export async function startSshServer(): Promise<TestSshServer> {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const pem = privateKey.export({ type: "pkcs1", format: "pem" });
  const parsed = ssh2.utils.parseKey(pem);
  if (parsed instanceof Error || Array.isArray(parsed)) throw new Error("The host key cannot be read.");
  const blob = (parsed as { getPublicSSH(): Buffer }).getPublicSSH();
  const connections = new Set<Connection>();
  const server = new ssh2.Server({ hostKeys: [pem] }, (connection) => {
    connections.add(connection);
    (connection as unknown as { _sock?: { setNoDelay(on: boolean): void } })._sock?.setNoDelay(true);
    connection.on("error", () => undefined);
    connection.on("close", () => connections.delete(connection));
    if (self.down) return void connection.end();
    connection.on("authentication", (attempt) => {
      if (attempt.method === "password" && attempt.username === self.user && attempt.password === self.password)
        attempt.accept();
      else attempt.reject(["password"]);
    });
    connection.on("session", (accept) => {
      const session = accept();
      session.on("exec", (acceptExec, _reject, info) => {
        const channel = acceptExec();
        channel.on("error", () => undefined);
        self.onExec(info.command, channel);
      });
      (
        session as unknown as {
          on(
            name: string,
            listener: (accept: () => ServerChannel, reject: () => void, info: { name: string }) => void,
          ): void;
        }
      ).on("subsystem", (acceptSubsystem, reject, info) =>
        info.name === "sftp" ? serveSftp(acceptSubsystem(), connection) : reject(),
      );
    });
  });
  function serveSftp(channel: ServerChannel, connection: Connection): void {
    const handles = new Map<string, { fd?: number; list?: string[] }>();
    let next = 0;
    let pending = Buffer.alloc(0);
    let work = Promise.resolve();
    let deaf = false;
    channel.on("error", () => undefined);
    channel.on("close", () => handles.forEach(({ fd }) => fd !== undefined && fs.closeSync(fd)));
    channel.on("data", (chunk: Buffer) => {
      work = work.then(() => take(chunk)).catch(() => void connection.end());
    });
    async function take(chunk: Buffer): Promise<void> {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32BE(0)) {
        const length = 4 + pending.readUInt32BE(0);
        const message = pending.subarray(4, length);
        pending = pending.subarray(length);
        if (deaf) continue;
        const type = message[0]!;
        let name = names[type] ?? "?";
        if (name === "OPEN" && (message.readUInt32BE(9 + message.readUInt32BE(5)) & 2) !== 0) name = "CREATE";
        if (name === "EXTENDED") name = new Reader(message.subarray(5)).text();
        const treatment = type === 1 ? "pass" : await self.onRequest(name);
        if (treatment === "deny") {
          channel.write(packet(101, message.subarray(1, 5), u32(3), str("Permission denied"), str("")));
          continue;
        }
        if (treatment !== "lose-request") {
          const answer = handle(type, message);
          if (treatment === "pass") channel.write(answer);
        }
        if (treatment !== "pass") {
          deaf = true;
          if (treatment === "garble") channel.write(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"));
          setTimeout(() => connection.end(), 200);
        }
      }
    }
    function handle(type: number, message: Buffer): Buffer {
      if (type === 1) {
        return packet(2, u32(3), str("posix-rename@openssh.com"), str("1"), str("fsync@openssh.com"), str("1"));
      }
      const read = new Reader(message.subarray(1));
      const id = u32(read.u32());
      const status = (code: number): Buffer => packet(101, id, u32(code), str("as the code says"), str(""));
      const open = (entry: { fd?: number; list?: string[] }): Buffer => {
        const key = String(next++);
        handles.set(key, entry);
        return packet(102, id, str(key));
      };
      const fd = (): number => handles.get(read.text())!.fd!;
      try {
        switch (names[type]) {
          case "OPEN": {
            const path = read.text();
            const flags = read.u32();
            const wanted = read.u32() & 4 ? read.u32() & 0o777 : 0o644;
            return open({
              fd:
                (flags & 2) === 0 ? fs.openSync(path, "r") : fs.openSync(path, (flags & 32) === 0 ? "w" : "wx", wanted),
            });
          }
          case "CLOSE": {
            const key = read.text();
            const entry = handles.get(key);
            handles.delete(key);
            if (entry?.fd !== undefined) fs.closeSync(entry.fd);
            return status(0);
          }
          case "READ": {
            const file = fd();
            const at = read.u64();
            const bytes = Buffer.alloc(read.u32());
            const got = fs.readSync(file, bytes, 0, bytes.length, at);
            return got === 0 ? status(1) : packet(103, id, str(bytes.subarray(0, got)));
          }
          case "WRITE": {
            const file = fd();
            const at = read.u64();
            fs.writeSync(file, read.bytes(), 0, undefined, at);
            return status(0);
          }
          case "STAT":
            return packet(105, id, attributes(fs.statSync(read.text())));
          case "LSTAT":
            return packet(105, id, attributes(fs.lstatSync(read.text())));
          case "FSTAT":
            return packet(105, id, attributes(fs.fstatSync(fd())));
          case "FSETSTAT": {
            const file = fd();
            const flags = read.u32();
            if (flags & 1) read.u64();
            if (flags & 2) fs.fchownSync(file, read.u32(), read.u32());
            if (flags & 4) fs.fchmodSync(file, read.u32() & 0o7777);
            return status(0);
          }
          case "OPENDIR":
            return open({ list: fs.readdirSync(read.text()) });
          case "READDIR": {
            const entry = handles.get(read.text());
            const list = entry?.list?.splice(0) ?? [];
            if (list.length === 0) return status(1);
            return packet(104, id, u32(list.length), ...list.flatMap((name) => [str(name), str(name), u32(0)]));
          }
          case "REMOVE":
            fs.unlinkSync(read.text());
            return status(0);
          case "REALPATH": {
            const path = read.text();
            return packet(104, id, u32(1), str(fs.existsSync(path) ? fs.realpathSync(path) : path), str(path), u32(0));
          }
          case "EXTENDED": {
            const which = read.text();
            if (which === "posix-rename@openssh.com") fs.renameSync(read.text(), read.text());
            else if (which === "fsync@openssh.com") fs.fsyncSync(fd());
            else return status(8);
            return status(0);
          }
          default:
            return status(8);
        }
      } catch (error) {
        const { code } = error as { code?: string };
        return status(code === "ENOENT" ? 2 : code === "EACCES" ? 3 : 4);
      }
    }
  }
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const self: TestSshServer = {
    port: (server.address() as AddressInfo).port,
    hostKey: `SHA256:${createHash("sha256").update(blob).digest("base64").replace(/=+$/, "")}`,
    user: "deploy",
    password: "ssh-password-71c",
    down: false,
    onRequest: () => "pass",
    onExec: (_command, channel) => void channel.exit(127),
    async close() {
      for (const connection of connections) connection.end();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  return self;
}
