import { spawn } from "node:child_process";
import { createHash, createPrivateKey, generateKeyPairSync } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ssh2 from "ssh2";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { startSshServer, type SftpTreatment, type TestSshServer } from "../../../test/support/ssh-server.ts";
import { placeContract, secretVersions, versionOf, type Fault, type PlaceWorld } from "../connector.contract.ts";
import { ConnectorError, type CallContext, type VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import { sshCommand, sshFile, sshSystem } from "./connector.ts";
import { keyOfLine, publicLine } from "./keys.ts";

let server: TestSshServer;
const folder = mkdtempSync(join(tmpdir(), "keyroll-ssh-"));
beforeAll(async () => {
  server = await startSshServer();
});
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  server.down = false;
  server.onRequest = () => "pass";
});
let worlds = 0;

function context(): CallContext {
  const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined };
  return { now: () => Date.now(), signal: new AbortController().signal, throttle: async () => {}, log: quiet };
}
const systemOf = (more: object = {}) =>
  sshSystem.config.parse({
    host: "127.0.0.1",
    port: server.port,
    user: server.user,
    password: server.password,
    hostKey: server.hostKey,
    connectTimeout: "5s",
    ...more,
  });

async function failure(run: () => Promise<unknown>): Promise<ConnectorError> {
  try {
    await run();
  } catch (error) {
    if (error instanceof ConnectorError) return error;
    throw error;
  }
  throw new Error("It succeeded.");
}

/** Faults of the file place: a write is lost at its rename, a read at its first request. */
function faults(): NonNullable<PlaceWorld["faults"]> {
  const on = (pattern: RegExp, treatment: SftpTreatment, permission?: string): Fault => {
    server.onRequest = (name) => (pattern.test(name) ? treatment : "pass");
    return { clear: () => void (server.onRequest = () => "pass"), ...(permission === undefined ? {} : { permission }) };
  };
  const target = (verb: string): RegExp => (verb === "observe" ? /^REALPATH$/ : /^posix-rename/);
  return {
    down() {
      server.down = true;
      return { clear: () => void (server.down = false) };
    },
    "lost-request": (verb) => on(target(verb), "lose-request"),
    "lost-answer": (verb) => on(target(verb), "lose-answer"),
    garbage: (verb) => on(target(verb), "garble"),
    denied: (verb) =>
      on(verb === "observe" ? /^REALPATH$/ : /^CREATE$/, "deny", verb === "observe" ? "read" : "write in the folder"),
  };
}
const cannot = {
  "throttling is reported as throttled and changes nothing":
    "SSH has no such answer: a server with too many sign-ins closes the connection",
} as const;

function valueWorld(): PlaceWorld {
  const path = join(folder, `value-${++worlds}`);
  const config = sshFile.config.parse({ path });
  const versions = secretVersions("remote");
  const holds = async (version: VersionHandle): Promise<boolean> => {
    const material = await version.open();
    return existsSync(path) && material.kind === "secret" && readFileSync(path).equals(material.value.bytes());
  };
  return {
    open: () => sshFile.open(config, systemOf()),
    version: (n) => versions(n),
    canaries: [server.password],
    async inspect(known) {
      const present: string[] = [];
      for (const version of known) if (await holds(version)) present.push(version.id);
      const foreign = readdirSync(folder).filter((name) => name.startsWith(`value-${path.split("-").at(-1)}.`));
      return {
        present,
        current: present[0] ?? null,
        foreign: foreign.map((name) => name + readFileSync(join(folder, name), "utf8")),
      };
    },
    consumer: holds,
    meddle: {
      add: async () => writeFileSync(`${path}.bak`, "theirs"),
      change: async () => writeFileSync(path, "changed"),
      remove: async () => rmSync(path),
    },
    faults: faults(),
  };
}
placeContract({
  runner: { describe, it },
  name: "ssh.file with a value",
  connector: sshFile,
  config: { path: "/x/y" },
  makeWorld: valueWorld,
  cannot,
});

function keysWorld(): PlaceWorld {
  const path = join(folder, `keys-${++worlds}`);
  const config = sshFile.config.parse({
    path,
    format: "authorized_keys",
    options: 'restrict,command="echo ssh-rsa AAAA"',
  });
  const made = new Map<number, VersionHandle>();
  const theirs = `from="10.0.0.0/8" ${publicLine(new Secret(pemOf()))} theirs`;
  const lines = (): string[] =>
    existsSync(path)
      ? readFileSync(path, "utf8")
          .split("\n")
          .filter((line) => line !== "")
      : [];
  const write = (all: readonly string[]): void => writeFileSync(path, all.map((line) => `${line}\n`).join(""));
  const blobOf = async (version: VersionHandle): Promise<string> => {
    const material = await version.open();
    const parsed = ssh2.utils.parseKey(ssh1(material.kind === "key" ? material.privateKey.reveal() : ""));
    if (parsed instanceof Error || Array.isArray(parsed)) throw new Error("no key");
    return (parsed as { getPublicSSH(): Buffer }).getPublicSSH().toString("base64");
  };
  const holds = async (version: VersionHandle): Promise<boolean> => {
    const blob = await blobOf(version);
    return lines().some((line) => line.includes(` ${blob} keyroll:`));
  };
  return {
    open: () => sshFile.open(config, systemOf()),
    version(n) {
      const kept =
        made.get(n) ?? versionOf(`login-key#${n}`, { kind: "key", privateKey: new Secret(pemOf()), certificates: [] });
      made.set(n, kept);
      return kept;
    },
    canaries: [server.password],
    async inspect(known) {
      const present: string[] = [];
      for (const version of known) if (await holds(version)) present.push(version.id);
      return { present, foreign: lines().filter((line) => !line.includes("keyroll:")) };
    },
    consumer: holds,
    meddle: {
      add: async () => write(["# theirs too", ...lines(), theirs]),
      async change(version) {
        const blob = await blobOf(version);
        write(lines().map((line) => line.replace(blob, theirs.split(" ")[2]!)));
      },
      async remove(version) {
        const blob = await blobOf(version);
        write(lines().filter((line) => !line.includes(blob)));
      },
    },
    faults: faults(),
  };
}
/** RSA keys are slow to make, and elliptic ones are what the independent reader here also takes. */
function pemOf(): string {
  return generateKeyPairSync("ec", { namedCurve: "prime256v1" })
    .privateKey.export({ type: "pkcs8", format: "pem" })
    .toString();
}
/** The SSH library reads SEC1 and not PKCS#8. */
function ssh1(pem: string): string {
  return createPrivateKey(pem).export({ type: "sec1", format: "pem" }).toString();
}
placeContract({
  runner: { describe, it },
  name: "ssh.file with authorized keys",
  connector: sshFile,
  config: { path: "/x/y", format: "authorized_keys" },
  makeWorld: keysWorld,
  cannot,
});

describe("publicLine", () => {
  it.each([
    ["rsa", () => generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey, "pkcs1"],
    ["P-256", () => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey, "sec1"],
    ["P-384", () => generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey, "sec1"],
    ["P-521", () => generateKeyPairSync("ec", { namedCurve: "secp521r1" }).privateKey, "sec1"],
  ] as const)("of %s is what another implementation makes", (_name, make, type) => {
    const key = make();
    const parsed = ssh2.utils.parseKey(key.export({ type, format: "pem" } as never) as string);
    if (parsed instanceof Error || Array.isArray(parsed)) throw new Error("no key");
    const line = publicLine(new Secret(key.export({ type: "pkcs8", format: "pem" }).toString()));
    expect(line.split(" ")[1]).toBe((parsed as { getPublicSSH(): Buffer }).getPublicSSH().toString("base64"));
  });
  it("of Ed25519 is the type and the 32 bytes of RFC 8709", () => {
    const { privateKey, publicKey } = generateKeyPairSync("ed25519");
    const raw = publicKey.export({ type: "spki", format: "der" }).subarray(-32);
    const expected = Buffer.concat([
      Buffer.from([0, 0, 0, 11]),
      Buffer.from("ssh-ed25519"),
      Buffer.from([0, 0, 0, 32]),
      raw,
    ]);
    expect(publicLine(new Secret(privateKey.export({ type: "pkcs8", format: "pem" }).toString()))).toBe(
      `ssh-ed25519 ${expected.toString("base64")}`,
    );
  });
  it("is found again behind options that look like keys, and in no comment", () => {
    expect(keyOfLine('command="ssh-rsa x",restrict ssh-ed25519 AAAAC3Nz someone else')).toEqual({
      key: "ssh-ed25519 AAAAC3Nz",
      comment: "someone else",
    });
    expect(keyOfLine("ecdsa-sha2-nistp256 AAAAE2Vj")).toEqual({ key: "ecdsa-sha2-nistp256 AAAAE2Vj", comment: "" });
    for (const line of ["", "  ", "# ssh-rsa AAAAB3", "nonsense"]) expect(keyOfLine(line)).toBeNull();
  });
});

describe("the sign-in", () => {
  const check = async (more: object): Promise<ConnectorError> =>
    failure(async () => sshSystem.check?.(context(), systemOf(more)));
  it("sends nothing without a pinned host key, and tells the one that it saw", async () => {
    let attempts = 0;
    const before = server.onRequest;
    server.onRequest = () => (attempts++, "pass");
    const error = await check({ hostKey: undefined });
    server.onRequest = before;
    expect(error.kind).toBe("misconfigured");
    expect(error.message).toContain(server.hostKey);
    expect(error.next).toContain(`hostKey: ${server.hostKey}`);
    expect(attempts).toBe(0);
  });
  it("refuses another host key than the pinned one", async () => {
    const error = await check({ hostKey: `SHA256:${createHash("sha256").update("another").digest("base64")}` });
    expect(error.kind).toBe("misconfigured");
    expect(error.message).toContain("not the pinned one");
  });
  it("takes one of several pinned keys, so that a host key can be rolled", async () => {
    const other = `SHA256:${createHash("sha256").update("another").digest("base64")}`;
    await sshSystem.check?.(context(), systemOf({ hostKey: [other, server.hostKey] }));
  });
  it("says that the password is wrong, and not which", async () => {
    const error = await check({ password: "wrong-password-123" });
    expect(error.kind).toBe("misconfigured");
    expect(JSON.stringify({ ...error, message: error.message })).not.toContain("wrong-password");
  });
  it("says that a private key cannot be read", async () => {
    const error = await check({ privateKey: "-----BEGIN NOTHING-----" });
    expect(error.kind).toBe("misconfigured");
    expect(error.message).toContain("cannot be read");
  });
});

describe("ssh.file", () => {
  const versions = secretVersions("remote");
  it("keeps the mode of the file and follows a link to it", async () => {
    const path = join(folder, "kept");
    writeFileSync(path, "old");
    chmodSync(path, 0o640);
    symlinkSync(path, join(folder, "link"));
    const place = sshFile.open(sshFile.config.parse({ path: join(folder, "link") }), systemOf());
    await place.activate?.(context(), versions(1));
    expect(statSync(path).mode & 0o777).toBe(0o640);
    expect(readFileSync(path).equals(await bytes(versions(1)))).toBe(true);
  });
  it("makes a new file that nobody else reads, and leaves no half of one behind", async () => {
    const path = join(folder, "new");
    const place = sshFile.open(sshFile.config.parse({ path, newline: true }), systemOf());
    server.onRequest = (name) => (name === "WRITE" ? "lose-answer" : "pass");
    await failure(async () => place.activate?.(context(), versions(1)));
    server.onRequest = () => "pass";
    expect(existsSync(path)).toBe(false);
    await place.activate?.(context(), versions(1));
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readFileSync(path).at(-1)).toBe(0x0a);
    expect(readdirSync(folder).filter((name) => name.startsWith(".new"))).toEqual([]);
    expect((await place.adopt?.(context()))?.[0]?.material.kind).toBe("secret");
  });
  async function bytes(version: VersionHandle): Promise<Buffer> {
    const material = await version.open();
    return material.kind === "secret" ? material.value.bytes() : Buffer.alloc(0);
  }
});

const program = fileURLToPath(new URL("../../../test/support/program-place.ts", import.meta.url));
const programConfig = {
  command: "keyroll-place",
  timeout: "1500ms",
  verbs: ["add", "remove", "probe"],
  recognise: "value",
  traits: { capacity: 100 },
};

describe("ssh.command", () => {
  it("carries the protocol: the secret on standard input, the answer back, a lost connection as an unknown outcome", async () => {
    const versions = secretVersions("over-ssh");
    const path = join(folder, "lines.json");
    const faultPath = join(folder, "fault");
    const commands: string[] = [];
    server.onExec = (command, channel) => {
      commands.push(command);
      const child = spawn(process.execPath, [program, path, faultPath], { stdio: "pipe" });
      channel.pipe(child.stdin);
      child.stdin.on("error", () => undefined);
      child.stdout.on("data", (chunk) => void channel.write(chunk));
      child.stderr.on("data", (chunk) => void channel.stderr.write(chunk));
      child.on("close", (code) => {
        channel.exit(code ?? 1);
        channel.end();
      });
      channel.on("close", () => child.kill("SIGKILL"));
    };
    const place = sshCommand.open(sshCommand.config.parse(programConfig), systemOf());
    const known = [versions(1), versions(2)];
    expect((await place.observe(context(), known)).entries).toEqual([]);
    expect(await place.add?.(context(), versions(1))).toEqual({ slot: "over-ssh#1" });
    expect((await place.observe(context(), known)).entries).toEqual([
      { mark: "over-ssh#1", enabled: true, version: "over-ssh#1" },
    ]);
    expect((await place.probe?.(context(), versions(1)))?.outcome).toBe("accepted");
    expect((await place.probe?.(context(), versions(2)))?.outcome).toBe("refused");
    for (const [fault, kind] of [
      ["lost-answer", "unknown-outcome"],
      ["denied", "misconfigured"],
      ["throttled", "throttled"],
      ["flood", "unknown-outcome"],
    ] as const) {
      writeFileSync(faultPath, fault);
      const error = await failure(async () => place.add?.(context(), versions(2)));
      expect([fault, error.kind]).toEqual([fault, kind]);
      expect(error.message).not.toContain("cAnArY");
    }
    rmSync(faultPath);
    server.onExec = (_command, channel) => void setTimeout(() => channel.close(), 50);
    expect((await failure(async () => place.add?.(context(), versions(2)))).kind).toBe("unknown-outcome");
    expect(new Set(commands)).toEqual(new Set(["keyroll-place"]));
  });
});
