/**
 * The scan against the tools that operators use today, whole processes from cold: `openssl x509` and `ssl-cert-check` per file, `openssl storeutl`
 * on a bundle, `nmap --script ssl-cert` on endpoints. The scan's numbers include the correlation of what was found.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { generateKeyPairSync, X509Certificate, type KeyObject } from "node:crypto";
import { certify, serialFrom, type Signer } from "../src/connectors/shared/certify.ts";
import type { Frame, Sample } from "./frame.ts";

export const name = "scan";

const files = 5000;
const inBundle = 20_000;
const endpoints = 500;
const dayMs = 86_400_000;

export async function run(frame: Frame): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "keyroll-bench-"));
  // Inside the tree, so that the built program finds the installed packages.
  const built = join(import.meta.dirname, "results", "build");
  try {
    frame.say("building, and making certificates");
    await build(frame, built);
    const pems = await certificates(inBundle);
    mkdirSync(join(folder, "files"));
    for (const [i, pem] of pems.slice(0, files).entries()) writeFileSync(join(folder, "files", `${i}.pem`), pem);
    const bundle = join(folder, "bundle.pem");
    writeFileSync(bundle, pems.join(""));
    await benchFiles(frame, built, join(folder, "files"));
    await benchBundle(frame, built, bundle);
    await benchMemory(frame, built, folder, pems);
    await benchEndpoints(frame, built, folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const driver = `
import { openCorrelator } from "./discovery/correlate.js";
import { scan } from "./discovery/scan.js";
const sources = process.argv[2] === "@" ? (await import("node:fs")).readFileSync(process.argv[3], "utf8").trim().split("\\n") : process.argv.slice(2);
const correlator = openCorrelator();
let problems = 0;
for await (const event of scan(sources, { now: Date.now, connections: 1, endpointConcurrency: 64 })) {
  if (event.type === "found") correlator.add(event.items);
  else if (event.type === "problem") problems++;
}
const { certificates, findings } = correlator.finish({ nowMs: Date.now() });
console.log(JSON.stringify({ certificates: certificates.length, findings: findings.length, problems, maxRssMiB: process.resourceUsage().maxRSS / 1024 }));
`;

const servers = `
import { readFileSync } from "node:fs";
import { createServer, createSecureContext } from "node:tls";
const pairs = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ports = [];
for (let i = 0; i < Number(process.argv[3]); i++) {
  const server = createServer(pairs[i % pairs.length], (socket) => socket.end());
  server.on("tlsClientError", () => undefined);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  ports.push(server.address().port);
}
console.log(ports.join(","));
`;

/** What is published is JavaScript, so that is what is measured. Type errors elsewhere in the tree do not stop the build from being written. */
async function build(frame: Frame, built: string): Promise<void> {
  rmSync(built, { recursive: true, force: true });
  const root = join(import.meta.dirname, "..");
  const compiler = join(root, "node_modules", ".bin", "tsc");
  await frame.program(
    [compiler, "-p", join(root, "tsconfig.build.json"), "--outDir", built, "--noEmitOnError", "false"],
    { cwd: root },
  );
  writeFileSync(join(built, "bench-scan.js"), driver);
  writeFileSync(join(built, "bench-servers.js"), servers);
}

interface Result {
  readonly certificates: number;
  readonly problems: number;
  readonly maxRssMiB: number;
}
async function keyroll(frame: Frame, built: string, sources: readonly string[], expected: number): Promise<Sample> {
  const done = await frame.program([process.execPath, join(built, "bench-scan.js"), ...sources]);
  if (done.status !== 0) throw new Error(`the scan failed: ${done.stderr}`);
  const result = JSON.parse(done.stdout) as Result;
  // A benchmark of wrong answers is worth nothing.
  if (result.certificates !== expected || result.problems !== 0)
    throw new Error(
      `the scan found ${result.certificates} of ${expected} certificates, with ${result.problems} problems`,
    );
  return { wallMs: done.wallMs, cpuMs: done.cpuMs, maxRssMiB: result.maxRssMiB };
}

/** A CA and leaves, half of them RSA with 2048 bits and half EC P-256. Keys repeat, certificates do not. */
async function certificates(count: number): Promise<string[]> {
  const nowMs = Date.now();
  const pair = (kind: "rsa" | "ec"): { privateKey: KeyObject; publicKey: KeyObject } =>
    kind === "rsa"
      ? generateKeyPairSync("rsa", { modulusLength: 2048 })
      : generateKeyPairSync("ec", { namedCurve: "P-256" });
  const caKeys = pair("ec");
  const [caPem = ""] = await certify({
    profile: { subject: "CN=Benchmark CA, O=Example", names: [], ca: true, usages: [] },
    publicKey: caKeys.publicKey,
    signer: { self: caKeys.privateKey },
    serial: serialFrom("ca", caKeys.publicKey),
    notBeforeMs: nowMs - dayMs,
    notAfterMs: nowMs + 3650 * dayMs,
  });
  const signer: Signer = { certificate: new X509Certificate(caPem), key: caKeys.privateKey, above: [] };
  const keys = Array.from({ length: 40 }, (_, i) => pair(i % 2 === 0 ? "rsa" : "ec"));
  const pems: string[] = [];
  for (let i = 0; i < count; i++) {
    const { publicKey } = keys[i % keys.length]!;
    const host = `host-${i}.example.test`;
    const [pem = ""] = await certify({
      profile: { subject: `CN=${host}, O=Example`, names: [host, `www.${host}`], ca: false, usages: ["server"] },
      publicKey,
      signer,
      serial: serialFrom(String(i), publicKey),
      notBeforeMs: nowMs - dayMs,
      notAfterMs: nowMs + 90 * dayMs,
    });
    pems.push(pem);
  }
  return pems;
}

async function benchFiles(frame: Frame, built: string, folder: string): Promise<void> {
  const perFile = (sample: { wallMs: number; cpuMs: number }, count: number): Sample => ({
    wallMsPerFile: sample.wallMs / count,
    cpuMsPerFile: sample.cpuMs / count,
  });
  const ours = {
    name: "keyroll scan",
    run: async (): Promise<Sample> => {
      const { wallMs = 0, cpuMs = 0 } = await keyroll(frame, built, [folder], files);
      return perFile({ wallMs, cpuMs }, files);
    },
  };
  const loop = (command: string, count: number) => async (): Promise<Sample> => {
    const script = `for i in $(seq 0 ${count - 1}); do ${command} >/dev/null || exit 1; done`;
    const done = await frame.program(["bash", "-c", script], { cwd: folder });
    if (done.status !== 0) throw new Error(`${command} failed: ${done.stderr}`);
    return perFile(done, count);
  };
  if (await frame.has("ssl-cert-check")) {
    await frame.compare({
      title: `${files} PEM files against ssl-cert-check`,
      metric: "wallMsPerFile",
      goal: 100,
      contenders: [ours, { name: "ssl-cert-check", run: loop("ssl-cert-check -b -c $i.pem", 20) }],
      notes: ["ssl-cert-check is run on 20 of the files, one process each, as its manual shows."],
    });
  } else {
    frame.skip(
      `${files} PEM files against ssl-cert-check`,
      "ssl-cert-check is not installed (apt-get install ssl-cert-check)",
    );
  }
  if (await frame.has("openssl")) {
    await frame.compare({
      title: `${files} PEM files against openssl x509`,
      metric: "wallMsPerFile",
      contenders: [
        ours,
        {
          name: "openssl x509",
          run: loop("openssl x509 -noout -subject -issuer -enddate -fingerprint -sha256 -in $i.pem", 200),
        },
      ],
      notes: ["openssl is run on 200 of the files, one process each."],
    });
  } else {
    frame.skip(`${files} PEM files against openssl x509`, "openssl is not installed");
  }
}

async function benchBundle(frame: Frame, built: string, bundle: string): Promise<void> {
  const title = `a bundle of ${inBundle} certificates against openssl storeutl`;
  if (!(await frame.has("openssl"))) {
    frame.skip(title, "openssl is not installed");
    return;
  }
  await frame.compare({
    title,
    metric: "cpuMs",
    goal: 10,
    contenders: [
      { name: "keyroll scan", run: () => keyroll(frame, built, [bundle], inBundle) },
      {
        name: "openssl storeutl",
        run: async () => {
          const done = await frame.program(["openssl", "storeutl", "-noout", "-certs", bundle]);
          if (!done.stdout.includes(`Total found: ${inBundle}`))
            throw new Error("openssl storeutl did not find all certificates");
          return { wallMs: done.wallMs, cpuMs: done.cpuMs };
        },
      },
    ],
    notes: [
      "storeutl -noout prints nothing of the certificates; the scan checks their whole form, hashes certificate and key, reads what decides (dates, issuer, key, signature), and correlates them. Names become text when they are shown, which neither does here.",
    ],
  });
}

/** The same ten certificates over and over, so that only the number of files grows. */
async function benchMemory(frame: Frame, built: string, folder: string, pems: readonly string[]): Promise<void> {
  const sizes = [1000, 50_000];
  for (const size of sizes) {
    for (let i = 0; i < size; i++) {
      const part = join(folder, `many-${size}`, String(i % 50));
      if (i < 50) mkdirSync(part, { recursive: true });
      writeFileSync(join(part, `${i}.pem`), pems[i % 10]!);
    }
  }
  await frame.compare({
    title: "memory against the number of files",
    metric: "maxRssMiB",
    contenders: sizes
      .toReversed()
      .map((size) => ({ name: `${size} files`, run: () => keyroll(frame, built, [join(folder, `many-${size}`)], 10) })),
  });
}

async function benchEndpoints(frame: Frame, built: string, folder: string): Promise<void> {
  const title = `${endpoints} TLS endpoints against nmap --script ssl-cert`;
  if (!(await frame.has("nmap"))) {
    frame.skip(title, "nmap is not installed (apt-get install nmap)");
    return;
  }
  const pairs = await servedPairs(50);
  const pairsFile = join(folder, "pairs.json");
  writeFileSync(pairsFile, JSON.stringify(pairs));
  const server = spawn(process.execPath, [join(built, "bench-servers.js"), pairsFile, String(endpoints)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const [ports] = (await once(createInterface({ input: server.stdout }), "line")) as [string];
    const sources = join(folder, "sources");
    writeFileSync(
      sources,
      ports
        .split(",")
        .map((port) => `127.0.0.1:${port}`)
        .join("\n"),
    );
    await frame.compare({
      title,
      metric: "wallMs",
      goal: 2.5,
      contenders: [
        { name: "keyroll scan", run: () => keyroll(frame, built, ["@", sources], pairs.length) },
        {
          name: "nmap",
          run: async () => {
            const done = await frame.program([
              "nmap",
              "-n",
              "-Pn",
              "-T4",
              "-p",
              ports,
              "--script",
              "+ssl-cert",
              "127.0.0.1",
            ]);
            const seen = done.stdout.match(/ssl-cert: Subject/g)?.length ?? 0;
            if (seen !== endpoints) throw new Error(`nmap reported ${seen} of ${endpoints} certificates`);
            return { wallMs: done.wallMs, cpuMs: done.cpuMs };
          },
        },
      ],
      notes: [
        `One process on this machine serves all ${endpoints} ports with ${pairs.length} certificates (EC P-256). One connection per endpoint; nmap with -T4 and without name look-ups.`,
      ],
    });
  } finally {
    server.kill();
    await once(server, "close");
  }
}

async function servedPairs(count: number): Promise<{ key: string; cert: string }[]> {
  const nowMs = Date.now();
  const pairs: { key: string; cert: string }[] = [];
  for (let i = 0; i < count; i++) {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const [cert = ""] = await certify({
      profile: {
        subject: `CN=served-${i}.example.test`,
        names: [`served-${i}.example.test`],
        ca: false,
        usages: ["server"],
      },
      publicKey,
      signer: { self: privateKey },
      serial: serialFrom(String(i), publicKey),
      notBeforeMs: nowMs - dayMs,
      notAfterMs: nowMs + 90 * dayMs,
    });
    pairs.push({ cert, key: privateKey.export({ type: "pkcs8", format: "pem" }).toString() });
  }
  return pairs;
}
