import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { publicKeySha256, factsOf } from "../../src/connectors/shared/x509.ts";
import { Secret } from "../../src/connectors/secret.ts";
import type { Found, ScanEvent, ScanProblem, ScanSummary } from "../../src/discovery/found.ts";
import { scan, type ScanOptions } from "../../src/discovery/scan.ts";
import { refusal, readTarget, endpointsOf } from "../../src/discovery/targets.ts";
import { make, makeCorpus, nowMs, password, pkcs12, rsaKey, type Corpus } from "./corpus.ts";

const folder = mkdtempSync(join(tmpdir(), "keyroll-scan-"));
let corpus: Corpus;
const servers: Server[] = [];

beforeAll(async () => {
  corpus = await makeCorpus();
  mkdirSync(join(folder, "corpus"));
  for (const [name, content] of corpus.files) writeFileSync(join(folder, "corpus", name), content);
});
afterAll(() => {
  for (const server of servers) server.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Result {
  readonly items: readonly Found[];
  readonly problems: readonly ScanProblem[];
  readonly summary: ScanSummary;
  readonly events: readonly ScanEvent[];
}
async function run(sources: readonly string[], options: Partial<ScanOptions> = {}): Promise<Result> {
  const events: ScanEvent[] = [];
  for await (const event of scan(sources, { now: () => nowMs, parseTimeoutMs: 20_000, ...options })) events.push(event);
  const last = events.at(-1);
  if (last?.type !== "done") throw new Error("the scan did not end with a summary");
  return {
    events,
    items: events.flatMap((event) => (event.type === "found" ? event.items : [])),
    problems: events.flatMap((event) => (event.type === "problem" ? [event.problem] : [])),
    summary: last.summary,
  };
}
function write(path: string, content: string | Buffer): string {
  const whole = join(folder, path);
  mkdirSync(join(whole, ".."), { recursive: true });
  writeFileSync(whole, content);
  return whole;
}
/** `kind container encrypted` of every item of a file, in the order of the file. */
function brief(items: readonly Found[]): string[] {
  return items
    .toSorted((a, b) => a.index - b.index)
    .map((item) => `${item.kind} ${item.container}${item.encrypted === true ? " encrypted" : ""}`);
}

describe("files", () => {
  const certificate = "certificate pem";
  const expected: [string, string[]][] = [
    ["leaf.crt", [certificate]],
    ["leaf.key", ["private-key pem"]],
    ["chain.pem", [certificate, certificate, certificate]],
    ["ca.der", ["certificate der"]],
    ["no-extension", ["certificate der"]],
    ["rsa-pkcs1.key", ["private-key pem"]],
    ["leaf-sec1.key", ["private-key pem"]],
    ["rsa-pkcs1-der.key", ["private-key der"]],
    ["leaf-sec1-der.key", ["private-key der"]],
    ["leaf-pkcs8-der.key", ["private-key der"]],
    ["ed25519.key", ["private-key pem"]],
    ["locked-pkcs8.key", ["private-key pem encrypted"]],
    ["locked-sec1.key", ["private-key pem encrypted"]],
    ["leaf.pub", ["public-key pem"]],
    ["leaf-pub.der", ["public-key der"]],
    ["rsa-pkcs1.pub", ["public-key pem"]],
    ["wanted.csr", ["csr pem"]],
    ["root.crl", ["crl der"]],
    ["root-crl.pem", ["crl pem"]],
    ["id_ed25519", ["private-key openssh"]],
    ["id_ed25519.pub", ["public-key openssh"]],
    ["id_ecdsa_locked", ["private-key openssh encrypted"]],
    ["both.p7b", ["certificate pkcs7", "certificate pkcs7"]],
    ["both-ber.p7b", ["certificate pkcs7", "certificate pkcs7"]],
    ["both-pem.p7b", ["certificate pkcs7", "certificate pkcs7"]],
    ["blank.p12", ["certificate pkcs12", "private-key pkcs12 encrypted"]],
    ["given.p12", ["keystore pkcs12 encrypted"]],
    ["java.jks", ["private-key jks encrypted", "certificate jks", "certificate jks"]],
    ["java.jceks", ["private-key jks encrypted", "certificate jks"]],
    ["java.p12", ["keystore pkcs12 encrypted"]],
    ["secret.yaml", ["certificate base64", "private-key base64"]],
    ["account.json", ["private-key pem"]],
  ];

  it("are recognised by their content, each kind", async () => {
    const { items, problems, summary } = await run([join(folder, "corpus")]);
    expect(problems).toEqual([]);
    const seen = Object.fromEntries(
      expected.map(([name]) => [name, brief(items.filter((item) => item.path.endsWith(`/corpus/${name}`))).toSorted()]),
    );
    expect(seen).toEqual(Object.fromEntries(expected.map(([name, kinds]) => [name, kinds.toSorted()])));
    expect(summary).toMatchObject({ files: expected.length, items: items.length, problems: 0, otherFiles: 0 });
  });

  it("give the facts that the connectors give, and one public key for every form of a key", async () => {
    const { items } = await run([join(folder, "corpus")]);
    const of = (name: string): Found[] => items.filter((item) => item.path.endsWith(`/corpus/${name}`));
    // Facts of a bundle are made when they are looked at; JSON looks at all.
    expect(JSON.parse(JSON.stringify(of("leaf.crt")[0]!.facts))).toEqual(factsOf(corpus.leaf.der));
    expect(of("leaf.crt")[0]!.facts).toMatchObject({ subject: factsOf(corpus.leaf.der).subject });
    expect(of("both-ber.p7b").map((item) => item.facts)).toContainEqual(factsOf(corpus.leaf.der));
    expect(of("leaf.crt")[0]!.certificate).toMatchObject({
      names: ["app.example.test", "10.1.2.3", "2001:db8:0:0:0:0:0:1"],
      isCa: false,
      selfIssued: false,
    });
    const key = publicKeySha256(corpus.leaf.certificate);
    for (const name of [
      "leaf.key",
      "leaf-sec1.key",
      "leaf-sec1-der.key",
      "leaf-pkcs8-der.key",
      "leaf.pub",
      "leaf-pub.der",
    ]) {
      expect([name, of(name)[0]!.facts.publicKeySha256]).toEqual([name, key]);
    }
    const rsa = publicKeySha256(corpus.rsa.certificate);
    for (const name of ["rsa-pkcs1.key", "rsa-pkcs1-der.key", "rsa-pkcs1.pub", "account.json", "blank.p12"]) {
      expect([name, of(name).find((item) => item.kind !== "certificate")!.facts.publicKeySha256]).toEqual([name, rsa]);
    }
    expect(of("id_ed25519")[0]!.facts).toEqual(of("id_ed25519.pub")[0]!.facts);
    expect(of("root.crl")[0]!.facts).toMatchObject({ notBeforeMs: nowMs, notAfterMs: nowMs + 7 * 86_400_000 });
  });

  it("open with the passwords given, and the password is in no event", async () => {
    const { items, events, problems } = await run([join(folder, "corpus")], {
      passwords: [new Secret("wrong"), new Secret(password), new Secret("changeit")],
    });
    expect(problems).toEqual([]);
    const of = (name: string): Found[] => items.filter((item) => item.path.endsWith(`/corpus/${name}`));
    const key = publicKeySha256(corpus.leaf.certificate);
    expect(of("locked-pkcs8.key")[0]).toMatchObject({ encrypted: true, facts: { publicKeySha256: key } });
    expect(of("locked-sec1.key")[0]).toMatchObject({ encrypted: true, facts: { publicKeySha256: key } });
    expect(brief(of("given.p12")).toSorted()).toEqual(["certificate pkcs12", "private-key pkcs12 encrypted"]);
    expect(of("java.p12").find((item) => item.kind === "certificate")!.facts.subject).toBe("CN=java-p12.example.test");
    const [certificate] = of("java.p12").filter((item) => item.kind === "certificate");
    expect(of("java.p12").find((item) => item.kind === "private-key")!.facts.publicKeySha256).toBe(
      certificate!.facts.publicKeySha256,
    );
    const text = JSON.stringify(events);
    expect(text).not.toContain(password);
    for (const line of corpus.leaf.keyPem.split("\n").slice(1, -2)) expect(text).not.toContain(line);
  });

  it("that cannot be read are counted and named, and the rest is found", async () => {
    write("hard/good.pem", corpus.leaf.pem);
    write("hard/cut.pem", corpus.leaf.pem.slice(0, 300));
    write("hard/cut.der", corpus.leaf.der.subarray(0, 200));
    write("hard/junk.crt", "hello");
    write(
      "hard/half.pem",
      `${corpus.leaf.pem}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n${corpus.ca.pem}`,
    );
    write("hard/prose.txt", 'Paste it between "-----BEGIN CERTIFICATE-----" and "-----END CERTIFICATE-----".');
    write("hard/empty.pem", "");
    write("hard/large.pem", corpus.leaf.pem.repeat(200));
    const nested = Buffer.concat([Buffer.from("3080".repeat(5000), "hex"), corpus.leaf.der]);
    write("hard/nested.der", nested);
    symlinkSync("loop", join(folder, "hard/loop"));
    symlinkSync("..", join(folder, "hard/up"));
    symlinkSync("nowhere", join(folder, "hard/dangling"));
    execFileSync("mkfifo", [join(folder, "hard/pipe")]);
    const { items, problems, summary } = await run([join(folder, "hard")], { maxSizeBytes: 100_000 });
    expect(
      items
        .filter((item) => !item.path.includes("/up/"))
        .map((item) => item.path.slice(folder.length + 6))
        .toSorted(),
    ).toEqual(["good.pem", "half.pem", "half.pem"]);
    const named = Object.fromEntries(
      problems
        .filter((problem) => !problem.path.includes("/up/"))
        .map((problem) => [problem.path.slice(folder.length + 6), `${problem.code}: ${problem.text}`]),
    );
    expect(named).toEqual({
      "cut.pem": 'malformed: Line 1: "CERTIFICATE" begins and never ends: it is cut off.',
      "cut.der": "malformed: It ends before its own length says: it is cut off.",
      "junk.crt": "malformed: It is named like a certificate or key, and holds neither.",
      "half.pem": expect.stringMatching(/^malformed: Line \d+: "CERTIFICATE": .*\.$/) as unknown,
      "large.pem": expect.stringMatching(/^refused: It has \d+ bytes, more than the 100000 /) as unknown,
      "nested.der": "malformed: It is nested deeper than 64 levels.",
      loop: "unreadable: It cannot be read: symbolic link: its symbolic links go round in a circle.",
      dangling: "unreadable: It cannot be read: symbolic link: it is not there (any more).",
    });
    expect(summary.skipped).toBeGreaterThanOrEqual(1);
    expect(summary.problemsByCode).toMatchObject({ malformed: expect.any(Number) as unknown });
  });

  it.skipIf(process.getuid?.() === 0)("without permission are named", async () => {
    const path = write("closed/secret.pem", corpus.leaf.pem);
    chmodSync(path, 0);
    expect((await run([path])).problems).toMatchObject([
      { code: "unreadable", text: "It cannot be read: permission denied." },
    ]);
  });

  it("outside are reached through a link once, and inside only once", async () => {
    write("outside/deep/a.pem", corpus.leaf.pem);
    write("tree/b.pem", corpus.ca.pem);
    mkdirSync(join(folder, "tree/sub"), { recursive: true });
    symlinkSync(join(folder, "outside"), join(folder, "tree/one"));
    symlinkSync(join(folder, "outside/deep"), join(folder, "tree/sub/two"));
    symlinkSync(join(folder, "tree/b.pem"), join(folder, "tree/sub/again.pem"));
    symlinkSync(join(folder, "tree"), join(folder, "outside/back"));
    const { items } = await run([join(folder, "tree")]);
    expect(items.filter((item) => item.facts.fingerprint === factsOf(corpus.ca.der).fingerprint)).toHaveLength(1);
    expect(items.filter((item) => item.facts.fingerprint === factsOf(corpus.leaf.der).fingerprint)).toHaveLength(1);
  });

  it("with an iteration bomb are refused before any work is done", async () => {
    const bomb = pkcs12(corpus.rsa, "", 1);
    // The count of the integrity check is the last INTEGER of the file: three octets in place of one, all lengths around it grown by two.
    const tree = Buffer.from(bomb);
    const at = tree.lastIndexOf(Buffer.from([0x02, 0x01, 0x01]));
    const grown =
      at === -1
        ? Buffer.concat([tree, Buffer.alloc(0)])
        : Buffer.concat([tree.subarray(0, at), Buffer.from([0x02, 0x03, 0x7f, 0xff, 0xff]), tree.subarray(at + 3)]);
    const path = write("bomb/mac.p12", at === -1 ? grown : relength(grown, tree.length, at));
    const shrouded = write("bomb/pbes2.key", hugeRounds());
    const { problems } = await run([path, shrouded], { passwords: [new Secret(password)] });
    expect(problems.map((problem) => [problem.path, problem.code])).toEqual(
      expect.arrayContaining([
        [path, "refused"],
        [shrouded, "refused"],
      ]),
    );
    for (const problem of problems) expect(problem.text).toMatch(/rounds, more than the 1000000 that are allowed/);
  });

  it("that take too long to open are stopped, and the scan goes on", async () => {
    const slow = write("slow/slow.p12", pkcs12(corpus.rsa, "unknown", 60_000, "3des"));
    const good = write("slow/good.pem", corpus.leaf.pem);
    const { items, problems } = await run([slow, good], { parseTimeoutMs: 20 });
    expect(items.map((item) => item.path)).toEqual([good]);
    expect(problems).toMatchObject([
      { path: slow, code: "refused", text: "Reading it took more than 20 ms or too much memory, and was stopped." },
    ]);
  });

  it("in large numbers of blocks stay linear: a million BEGINs and one END", async () => {
    const path = write(
      "many/begins.pem",
      `${"-----BEGIN CERTIFICATE-----\n".repeat(300_000)}-----END CERTIFICATE-----\n`,
    );
    const { problems } = await run([path]);
    expect(problems.length).toBe(21);
    expect(problems.at(-1)!.text).toMatch(/^It has \d+ more problems of this kind\.$/);
  });

  it("can be left in the middle: all threads and files are closed", async () => {
    let seen = 0;
    for await (const event of scan([join(folder, "corpus")], { now: () => nowMs })) {
      if (event.type === "found" && ++seen === 2) break;
    }
    expect(seen).toBe(2);
  });
});

/** Writes the length of the outermost elements again after `grown` grew by two octets at `at`. Only the two that enclose the count. */
function relength(grown: Buffer, before: number, at: number): Buffer {
  const by = grown.length - before;
  const out = Buffer.from(grown);
  out.writeUInt16BE(out.readUInt16BE(2) + by, 2);
  // MacData is the last element: its header is the closest SEQUENCE whose content ends where the file did.
  for (let i = at - 1; i > 4; i--) {
    if (out[i] === 0x30 && out[i + 1]! < 0x80 && before === i + 2 + out[i + 1]!) {
      out[i + 1] = out[i + 1]! + by;
      break;
    }
  }
  return out;
}

/** An encrypted PKCS#8 key whose PBKDF2 asks for 16,777,215 rounds. */
function hugeRounds(): string {
  const der = Buffer.from(
    "3081a0305d06092a864886f70d01050d3050302f06092a864886f70d01050c3022041000112233445566778899aabbccddeeff020300ffffff".replace(
      "020300ffffff",
      "020400ffffff",
    ) +
      "300a06082a864886f70d0209301d060960864801650304012a0410000102030405060708090a0b0c0d0e0f043f" +
      "00".repeat(63),
    "hex",
  );
  return `-----BEGIN ENCRYPTED PRIVATE KEY-----\n${der.toString("base64")}\n-----END ENCRYPTED PRIVATE KEY-----\n`;
}

describe("sources", () => {
  it("are told apart, and a wrong one is one clear problem", async () => {
    const { problems, summary } = await run([
      "/nowhere/at/all",
      "example.test",
      "10.0.0.0/8",
      "127.0.0.1:70000",
      "gopher://x",
    ]);
    expect(problems.map((problem) => problem.code)).toEqual(["usage", "usage", "usage", "usage", "usage"]);
    expect(problems.map((problem) => problem.text)).toEqual([
      expect.stringMatching(/^"\/nowhere\/at\/all" is no file or folder here/),
      expect.stringMatching(/To connect to it, write "example.test:443"\.$/),
      expect.stringMatching(/^"10.0.0.0\/8" stands for 16777216 connections, more than the 4096 allowed/),
      expect.stringMatching(/port outside 1 to 65535/),
      expect.stringMatching(/^"gopher:\/\/" is not scanned/),
    ]);
    expect(summary).toMatchObject({ items: 0, problems: 5 });
  });

  it("expand ranges and ports", async () => {
    const [range] = await readTarget("10.0.0.5/30:443,8443", 100);
    if (range?.kind !== "range") throw new Error("not a range");
    expect([...endpointsOf(range)].map((one) => `${one.host}:${one.port}`)).toEqual(
      ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"].flatMap((host) => [`${host}:443`, `${host}:8443`]),
    );
    const [six] = await readTarget("2001:db8::/127", 100);
    if (six?.kind !== "range") throw new Error("not a range");
    expect([...endpointsOf(six)].map((one) => one.host)).toEqual(["2001:db8:0:0:0:0:0:0", "2001:db8:0:0:0:0:0:1"]);
    expect(await readTarget("[::1]:5432", 1)).toEqual([
      { kind: "endpoint", host: "::1", port: 5432, starter: "postgres" },
    ]);
    expect(await readTarget("smtp://user:pass@mail.example.test/x", 1)).toEqual([
      { kind: "endpoint", host: "mail.example.test", port: 25, starter: "smtp" },
    ]);
  });

  it.each([
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "255.255.255.255",
  ])("never reach %s unless asked", (address) => {
    expect(refusal(address, "operator")).toMatch(/not connected to/);
    expect(refusal(address, "anywhere")).toBeUndefined();
  });
  it.each(["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd12::1", "::ffff:127.0.0.1"])(
    "reach %s for an operator and not for a service",
    (address) => {
      expect(refusal(address, "operator")).toBeUndefined();
      expect(refusal(address, "service")).toMatch(/private/);
    },
  );
  it("refuse a metadata address without a connection", async () => {
    expect((await run(["169.254.169.254:80"])).problems).toMatchObject([{ code: "refused" }]);
  });
});

async function listen(server: Server): Promise<number> {
  servers.push(server);
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** A server that says a few words before TLS: for each chunk received it answers the next of `lines`, and goes on in TLS after the last. */
function talker(hello: string | undefined, lines: readonly (readonly [RegExp, string])[]): Promise<number> {
  return listen(
    createServer((socket) => {
      socket.on("error", () => socket.destroy());
      if (hello !== undefined) socket.write(hello);
      let step = 0;
      const onData = (chunk: Buffer): void => {
        const [wanted, answer] = lines[step++]!;
        if (!wanted.test(chunk.toString("latin1"))) {
          socket.destroy();
          return;
        }
        if (step === lines.length) {
          socket.off("data", onData);
          socket.pause();
          socket.write(answer, () => tlsServer.emit("connection", socket));
          return;
        }
        socket.write(answer);
      };
      socket.on("data", onData);
    }),
  );
}
let tlsServer: Server;

describe("endpoints", () => {
  let port: number;
  beforeAll(async () => {
    const server = createTlsServer({
      cert: corpus.leaf.pem + corpus.intermediate.pem,
      key: corpus.leaf.keyPem,
      SNICallback: (name, done) => done(null, name === "rsa.example.test" ? rsaContext : undefined),
    });
    const { createSecureContext } = await import("node:tls");
    const rsaContext = createSecureContext({ cert: corpus.rsa.pem, key: corpus.rsa.keyPem });
    server.on("tlsClientError", () => undefined);
    tlsServer = server;
    port = await listen(server);
  });

  it("give what is served and nothing more: no root that was not sent", async () => {
    const { items, problems, summary } = await run([`127.0.0.1:${port}`]);
    expect(problems).toEqual([]);
    expect(items.map((item) => [item.path, item.index, item.container, item.facts.fingerprint])).toEqual([
      [`127.0.0.1:${port}`, 0, "tls", factsOf(corpus.leaf.der).fingerprint],
      [`127.0.0.1:${port}`, 1, "tls", factsOf(corpus.intermediate.der).fingerprint],
    ]);
    expect(summary.endpoints).toBe(1);
  });
  it("are asked by server name", async () => {
    const { items } = await run([`127.0.0.1:${port}`], { serverName: "rsa.example.test" });
    expect(items.map((item) => item.facts.fingerprint)).toEqual([factsOf(corpus.rsa.der).fingerprint]);
  });
  it("in a range are found, and the silent ones are no problem", async () => {
    const { items, problems, summary } = await run([`127.0.0.0/30:${port}`], { timeoutMs: 2000 });
    expect(items.filter((item) => item.index === 0).map((item) => item.path)).toEqual([`127.0.0.1:${port}`]);
    expect(problems.filter((problem) => problem.code !== "unreachable")).toEqual([]);
    expect(summary.endpoints).toBe(1);
  });
  // oxlint-disable no-control-regex -- protocols are made of them.
  it.each([
    ["postgres", undefined, [[/\u00d2\u0016\/$/, "S"]]],
    [
      "smtp",
      "220-hello\r\n220 mail\r\n",
      [
        [/^EHLO /, "250-mail\r\n250-SIZE\r\n250 STARTTLS\r\n"],
        [/^STARTTLS/, "220 go\r\n"],
      ],
    ],
    ["imap", "* OK ready\r\n", [[/^a1 STARTTLS/, "* note\r\na1 OK go\r\n"]]],
    ["pop3", "+OK ready\r\n", [[/^STLS/, "+OK go\r\n"]]],
    ["ldap", undefined, [[/1466\.20037/, "\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"]]],
  ] as [string, string | undefined, [RegExp, string][]][])("begin TLS in %s", async (scheme, hello, lines) => {
    const talking = await talker(hello, lines);
    const { items, problems } = await run([`${scheme}://127.0.0.1:${talking}`], { connections: 2 });
    expect(problems).toEqual([]);
    expect(items[0]?.facts.fingerprint).toBe(factsOf(corpus.leaf.der).fingerprint);
  });
  it("that refuse, hang up, stall, flood or speak something else are named, within their bounds", async () => {
    const closed = await listen(createServer());
    await new Promise<void>((resolve) => {
      servers.pop()!.close(() => resolve());
    });
    const quiet = (socket: import("node:net").Socket): void => {
      socket.on("error", () => socket.destroy());
      socket.resume();
    };
    const silent = await listen(createServer(quiet));
    const hangsUp = await listen(createServer((socket) => socket.end()));
    const plain = await listen(
      createServer((socket) => {
        quiet(socket);
        socket.write("HTTP/1.1 400 Bad Request\r\n\r\n");
      }),
    );
    const noTls = await listen(
      createServer((socket) => {
        quiet(socket);
        socket.once("data", () => socket.write("N"));
      }),
    );
    const injects = await listen(
      createServer((socket) => {
        quiet(socket);
        socket.once("data", () => socket.write("Sextra"));
      }),
    );
    const floods = await listen(
      createServer((socket) => {
        quiet(socket);
        socket.write("220-".padEnd(100, "x"));
        socket.write("x".repeat(100_000));
      }),
    );
    const { problems } = await run(
      [
        `127.0.0.1:${closed}`,
        `127.0.0.1:${silent}`,
        `127.0.0.1:${hangsUp}`,
        `127.0.0.1:${plain}`,
        `postgres://127.0.0.1:${noTls}`,
        `postgres://127.0.0.1:${injects}`,
        `smtp://127.0.0.1:${floods}`,
      ],
      { timeoutMs: 1500, connections: 1 },
    );
    const by = new Map(
      problems.map((problem) => [Number(problem.path.split(":")[1]), `${problem.code} ${problem.text}`]),
    );
    expect(by.get(closed)).toMatch(/^unreachable .*nothing listens there/);
    expect(by.get(silent)).toMatch(/^no-tls .*no handshake within 1500 ms/);
    expect(by.get(hangsUp)).toMatch(/^no-tls /);
    expect(by.get(plain)).toMatch(/^no-tls .*not TLS/);
    expect(by.get(noTls)).toMatch(/^no-tls .*does not offer TLS/);
    expect(by.get(injects)).toMatch(/^no-tls .*more in clear/);
    expect(by.get(floods)).toMatch(/^refused .*greeting has more than/);
  });
});

describe("the machine's own bundle", () => {
  const bundle = "/etc/ssl/certs/ca-certificates.crt";
  let text: string | undefined;
  try {
    text = readFileSync(bundle, "utf8");
  } catch {
    text = undefined;
  }
  it.skipIf(text === undefined)("is read whole (skipped where the package ca-certificates is missing)", async () => {
    const { items, problems } = await run([bundle]);
    expect(problems).toEqual([]);
    expect(items).toHaveLength(text!.split("-----BEGIN CERTIFICATE-----").length - 1);
  });
});

it("a weak RSA key and an odd name survive the way through", async () => {
  const odd = await make({ subject: "CN=\u202Eevil", key: rsaKey(1024) }, corpus.ca);
  const { items } = await run([write("odd/odd.pem", odd.pem)]);
  expect(items[0]).toMatchObject({ keyType: "RSA", keyBits: 1024 });
  expect(items[0]!.facts.subject).not.toContain("\u202E");
});
