import { execFileSync } from "node:child_process";
import { createPrivateKey, X509Certificate } from "node:crypto";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { afterAll, describe, expect, it } from "vitest";
import { certificateVersions, placeContract } from "../connector.contract.ts";
import type { PlaceCheck, PlaceWorld } from "../connector.contract.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import type { KeyMaterial } from "../secret.ts";
import { makeKey } from "../shared/certify.ts";
import { factsOf } from "../shared/x509.ts";
import { fileCertificate } from "./connector.ts";
import { readKeystore, writeKeystore } from "../shared/pkcs12.ts";

const scratch = mkdtempSync(join(tmpdir(), "keyroll-cert-"));
chmodSync(scratch, 0o755);
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let folders = 0;
function folder(): string {
  const made = join(scratch, String(++folders));
  mkdirSync(made, { mode: 0o755 });
  return made;
}
const { version } = await certificateVersions("app-tls");
const other = await certificateVersions("their-tls");
async function keyOf(handle: VersionHandle): Promise<KeyMaterial> {
  const material = await handle.open();
  if (material.kind !== "key") throw new Error("no key");
  return material;
}
const theirs = await keyOf(await other.version(1));
const theirPem = theirs.certificates.join("");
const isRoot = process.getuid?.() === 0;

function context(signal = new AbortController().signal): CallContext {
  return { now: () => 0, signal, throttle: async () => {}, log: { debug: () => {}, info: () => {}, warn: () => {} } };
}
function open(config: Record<string, unknown>): Place {
  return fileCertificate.open(fileCertificate.config.parse(config), undefined);
}

/** One kind of place in one folder, and how a person sees and changes it without Keyroll. */
interface Kind {
  readonly config: (at: string) => Record<string, unknown>;
  prepare(at: string): void;
  /** Fingerprints of the whole pairs that are there, and of the one in use. */
  see(at: string): { present: string[]; current?: string | null; foreign: string[] };
  add?(at: string): void;
  change(at: string): void;
  remove(at: string, handle: VersionHandle): void;
  damage(at: string): string;
  readonly cannot?: Partial<Record<PlaceCheck, string>>;
}
function pairIn(certificatePath: string, keyPath: string): string | undefined {
  if (!existsSync(certificatePath) || !existsSync(keyPath)) return undefined;
  const [certificate, key] = [readFileSync(certificatePath, "utf8"), readFileSync(keyPath, "utf8")];
  try {
    createSecureContext({ cert: certificate, key });
    return factsOf(certificate).fingerprint;
  } catch {
    return undefined;
  }
}
const single = (fingerprint: string | undefined): { present: string[]; current: string | null } => ({
  present: fingerprint === undefined ? [] : [fingerprint],
  current: fingerprint ?? null,
});
const alone =
  "these files hold one certificate and nothing of anybody else's; that a change in between is found is tested below";
const oneSlot: Partial<Record<PlaceCheck, string>> = {
  "other versions and other people's entries are left alone": alone,
  "a change by somebody else since the last observation is not undone": alone,
  "a change by somebody else between our read and our write is not undone": alone,
};

const kinds: Record<string, Kind> = {
  pair: {
    config: (at) => ({ kind: "pair", certificate: join(at, "tls.crt"), key: join(at, "tls.key") }),
    prepare: () => {},
    see: (at) => ({ ...single(pairIn(join(at, "tls.crt"), join(at, "tls.key"))), foreign: [] }),
    change: (at) => {
      writeFileSync(join(at, "tls.crt"), theirPem);
      writeFileSync(join(at, "tls.key"), theirs.privateKey.bytes());
    },
    remove: (at) => {
      unlinkSync(join(at, "tls.crt"));
      unlinkSync(join(at, "tls.key"));
    },
    damage: (at) => join(at, "tls.crt"),
    cannot: oneSlot,
  },
  combined: {
    config: (at) => ({ kind: "combined", certificate: join(at, "all.pem") }),
    prepare: () => {},
    see: (at) => {
      const text = existsSync(join(at, "all.pem")) ? readFileSync(join(at, "all.pem"), "utf8") : "";
      return {
        ...single(pairIn(join(at, "all.pem"), join(at, "all.pem"))),
        foreign: text.match(/-----BEGIN DH PARAMETERS-----[^-]+/g) ?? [],
      };
    },
    add: (at) => {
      const before = existsSync(join(at, "all.pem")) ? readFileSync(join(at, "all.pem"), "utf8") : "";
      writeFileSync(
        join(at, "all.pem"),
        `${before}-----BEGIN DH PARAMETERS-----\nMAYCAQICAQI=\n-----END DH PARAMETERS-----\n`,
        { mode: 0o600 },
      );
    },
    change: (at) => writeFileSync(join(at, "all.pem"), theirs.privateKey.reveal() + theirPem),
    remove: (at) => writeFileSync(join(at, "all.pem"), ""),
    damage: (at) => join(at, "all.pem"),
  },
  pkcs12: {
    config: (at) => ({ kind: "pkcs12", keystore: join(at, "app.p12"), passwordFile: join(at, "password") }),
    prepare: (at) => writeFileSync(join(at, "password"), "store-pass\n", { mode: 0o600 }),
    see: (at) => {
      if (!existsSync(join(at, "app.p12"))) return { present: [], current: null, foreign: [] };
      const store = execFileSync(
        "openssl",
        ["pkcs12", "-in", join(at, "app.p12"), "-passin", `file:${join(at, "password")}`, "-nodes"],
        { stdio: "pipe" },
      ).toString();
      createSecureContext({ cert: store, key: store });
      return { ...single(factsOf(store).fingerprint), foreign: [] };
    },
    change: (at) => {
      const certificates = theirs.certificates.map((one) => new X509Certificate(one));
      const key = createPrivateKey(theirs.privateKey.reveal());
      writeFileSync(
        join(at, "app.p12"),
        writeKeystore({ key, certificates, password: new Secret("store-pass"), alias: "x" }),
      );
    },
    remove: (at) => unlinkSync(join(at, "app.p12")),
    damage: (at) => join(at, "app.p12"),
    cannot: oneSlot,
  },
  staged: {
    config: (at) => ({ kind: "pair", stagingDir: at }),
    prepare: () => {},
    see: (at) => {
      const names = readdirSync(at, { withFileTypes: true })
        .filter((one) => one.isDirectory())
        .map((one) => one.name);
      const found = names.flatMap((name) => {
        const fingerprint = pairIn(join(at, name, "certificate.pem"), join(at, name, "key.pem"));
        return fingerprint === undefined ? [] : [{ name, fingerprint }];
      });
      const target = existsSync(join(at, "current")) ? readlinkSync(join(at, "current")) : undefined;
      return {
        present: found.map((one) => one.fingerprint),
        current: found.find((one) => one.name === target)?.fingerprint ?? null,
        foreign: names.filter((name) => !/^[0-9a-f]{32}$/.test(name)),
      };
    },
    add: (at) => {
      mkdirSync(join(at, "manual"));
      writeFileSync(join(at, "manual", "certificate.pem"), theirPem);
      writeFileSync(join(at, "manual", "key.pem"), theirs.privateKey.bytes());
    },
    change: (at) => {
      const name = readlinkSync(join(at, "current"));
      writeFileSync(join(at, name, "certificate.pem"), theirPem);
      writeFileSync(join(at, name, "key.pem"), theirs.privateKey.bytes());
    },
    remove: (at, handle) => rmSync(join(at, handle.facts.fingerprint.slice(0, 32)), { recursive: true }),
    damage: (at) => join(at, readdirSync(at).find((name) => /^[0-9a-f]{32}$/.test(name)) ?? "", "certificate.pem"),
    cannot: {
      "a garbled answer is never taken for success or refusal":
        "a damaged version is written anew, and the others are not read",
    },
  },
  bundle: {
    config: (at) => ({ kind: "bundle", certificate: join(at, "ca.pem") }),
    prepare: (at) => writeFileSync(join(at, "ca.pem"), "# ours and theirs, é\n"),
    see: (at) => {
      const text = readFileSync(join(at, "ca.pem"), "utf8");
      const found = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
      const fingerprints = found.map((pem) =>
        new X509Certificate(pem).fingerprint256.replaceAll(":", "").toLowerCase(),
      );
      const comments = text.split("\n").filter((line) => line.startsWith("#"));
      const own = factsOf(theirPem).fingerprint;
      return { present: fingerprints, foreign: [...comments, ...fingerprints.filter((one) => one === own)] };
    },
    add: (at) =>
      writeFileSync(join(at, "ca.pem"), `${readFileSync(join(at, "ca.pem"), "utf8")}# their CA\n${theirPem}`),
    change: (at) => writeFileSync(join(at, "ca.pem"), `# ours and theirs\n${theirPem}`),
    remove: (at) => writeFileSync(join(at, "ca.pem"), "# ours and theirs\n"),
    damage: (at) => join(at, "ca.pem"),
  },
};

for (const [name, kind] of Object.entries(kinds)) {
  placeContract({
    runner: { describe, it },
    name: `file.certificate (${name})`,
    connector: fileCertificate,
    config: { ...kind.config("."), reload: { argv: ["/bin/sh", "./reload"], timeout: "300ms" } },
    makeWorld: (): PlaceWorld => {
      const base = folder();
      const at = join(base, "files");
      mkdirSync(at, { mode: 0o755 });
      const script = join(base, "reload");
      writeFileSync(script, "exit 0\n");
      kind.prepare(at);
      let before: (() => Promise<void>) | undefined;
      let seenBefore: ReturnType<Kind["see"]> | undefined;
      const asOurselves = <T>(look: () => T): T => {
        const user = process.geteuid?.() ?? 0;
        if (isRoot) process.seteuid?.(0);
        try {
          return look();
        } finally {
          if (isRoot) process.seteuid?.(user);
        }
      };
      const hooked = (cx: CallContext): CallContext => ({
        ...cx,
        throttle: async () => {
          const action = before;
          before = undefined;
          await action?.();
        },
      });
      const { add } = kind;
      const see = (): ReturnType<Kind["see"]> => seenBefore ?? asOurselves(() => kind.see(at));
      return {
        open: () => {
          const place = open({ ...kind.config(at), reload: { argv: ["/bin/sh", script], timeout: "300ms" } });
          const wrapped: Place = { ...place };
          for (const verb of ["add", "activate"] as const) {
            const run = place[verb];
            if (run !== undefined) wrapped[verb] = async (cx, handle) => run(hooked(cx), handle);
          }
          const { remove } = place;
          if (remove !== undefined) wrapped.remove = async (cx, handle) => remove(hooked(cx), handle);
          return wrapped;
        },
        version,
        inspect: async (versions) => {
          const seen = see();
          const idOf = (fingerprint: string): string | undefined =>
            versions.find((one) => one.facts.fingerprint === fingerprint)?.id;
          const { current } = seen;
          return {
            present: versions.filter((one) => seen.present.includes(one.facts.fingerprint)).map((one) => one.id),
            ...(current === undefined ? {} : { current: current === null ? null : (idOf(current) ?? null) }),
            foreign: seen.foreign,
          };
        },
        consumer: async (handle) => {
          const seen = see();
          return seen.current === undefined
            ? seen.present.includes(handle.facts.fingerprint)
            : seen.current === handle.facts.fingerprint;
        },
        canaries: ["store-pass"],
        meddle: {
          ...(add === undefined ? {} : { add: async () => add(at) }),
          change: async () => kind.change(at),
          remove: async (handle) => kind.remove(at, handle),
          beforeWrite: (action) => {
            before = action;
          },
        },
        faults: {
          denied: () => {
            if (isRoot) {
              process.seteuid?.(65_534);
              return { clear: () => void process.seteuid?.(0), permission: at };
            }
            chmodSync(at, 0o500);
            return { clear: () => chmodSync(at, 0o755), permission: at };
          },
          "lost-answer": () => {
            writeFileSync(script, "sleep 30\n");
            return { clear: () => writeFileSync(script, "exit 0\n") };
          },
          garbage: () => {
            seenBefore = kind.see(at);
            const path = kind.damage(at);
            const content = existsSync(path) ? readFileSync(path) : undefined;
            writeFileSync(
              path,
              content === undefined ? "-----BEGIN CERTIFICATE-----\nMIIB" : content.subarray(0, content.length - 100),
            );
            if (content !== undefined && content.length < 200) writeFileSync(path, "-----BEGIN CERTIFICATE-----\nMIIB");
            return {
              clear: () => {
                if (content === undefined) unlinkSync(path);
                else writeFileSync(path, content);
                seenBefore = undefined;
              },
            };
          },
        },
      };
    },
    cannot: {
      "throttling is reported as throttled and changes nothing": "a file system does not throttle",
      "a request without an answer has an unknown outcome":
        "writing a file always has an answer; only the reload can be left without one",
      "a system that is down is unavailable, and nothing is changed": "a file has no server",
      ...kind.cannot,
    },
  });
}

const first = await version(1);
const second = await version(2);

describe("file.certificate", () => {
  it("changes nothing when the check finds the new pair wanting, and gives it the new files", async () => {
    const at = folder();
    const config = kinds["pair"]?.config(at) ?? {};
    await open(config).activate?.(context(), first);
    const wrong = { argv: ["/bin/sh", "-c", 'echo "no good: $1" >&2; exit 1', "sh", "{cert}"] };
    await expect(open({ ...config, precheck: wrong }).activate?.(context(), second)).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("nothing was changed: no good: "),
    });
    expect(kinds["pair"]?.see(at).present).toEqual([first.facts.fingerprint]);
    expect(readdirSync(at).sort()).toEqual(["tls.crt", "tls.key"]);
    // The check sees a whole pair: OpenSSL compares the public keys.
    const right = {
      argv: [
        "/bin/sh",
        "-c",
        '[ "$(openssl x509 -in "$1" -noout -pubkey)" = "$(openssl pkey -in "$2" -pubout)" ]',
        "sh",
        "{cert}",
        "{key}",
      ],
    };
    await open({ ...config, precheck: right }).activate?.(context(), second);
    expect(kinds["pair"]?.see(at).present).toEqual([second.facts.fingerprint]);
  });

  it("sees a pair whose key is another's, claims no version, and mends it", async () => {
    const at = folder();
    const config = kinds["pair"]?.config(at) ?? {};
    await open(config).activate?.(context(), first);
    writeFileSync(join(at, "tls.key"), (await keyOf(second)).privateKey.bytes());
    const seen = await open(config).observe(context(), [first, second]);
    expect(seen.entries).toMatchObject([{ mark: first.facts.fingerprint }]);
    expect(seen.entries[0]).not.toHaveProperty("version");
    expect(seen.notes?.[0]).toContain("does not belong");
    await open(config).activate?.(context(), first);
    expect(kinds["pair"]?.see(at).present).toEqual([first.facts.fingerprint]);
  });

  it("finds that somebody else changed a file between its reading and its writing", async () => {
    const at = folder();
    const config = kinds["pair"]?.config(at) ?? {};
    await open(config).activate?.(context(), first);
    const meddling: CallContext = { ...context(), throttle: async () => kinds["pair"]?.change(at) };
    await expect(open(config).activate?.(meddling, second)).rejects.toMatchObject({ kind: "conflict" });
    expect(kinds["pair"]?.see(at).present).toEqual([factsOf(theirPem).fingerprint]);
    expect(readdirSync(at).sort()).toEqual(["tls.crt", "tls.key"]);
  });

  it("keeps modes, and makes keys for their owner only", async () => {
    const at = folder();
    const config = kinds["pair"]?.config(at) ?? {};
    await open(config).activate?.(context(), first);
    expect(statSync(join(at, "tls.key")).mode & 0o777).toBe(0o600);
    chmodSync(join(at, "tls.key"), 0o640);
    await open(config).activate?.(context(), second);
    expect(statSync(join(at, "tls.key")).mode & 0o777).toBe(0o640);
    expect(statSync(join(at, "tls.crt")).mode & 0o777).toBe(0o644);
  });

  it("does not put a key in clear where an encrypted one was", async () => {
    const at = folder();
    const config = kinds["pair"]?.config(at) ?? {};
    const { certificates, privateKey } = await keyOf(first);
    writeFileSync(join(at, "tls.crt"), certificates.join(""));
    writeFileSync(
      join(at, "tls.key"),
      createPrivateKey(privateKey.reveal()).export({
        type: "pkcs8",
        format: "pem",
        cipher: "aes-256-cbc",
        passphrase: "unknown",
      }),
    );
    const seen = await open(config).observe(context(), [first]);
    expect(seen.entries[0]).not.toHaveProperty("version");
    expect(seen.notes?.[0]).toContain("encrypted");
    await expect(open(config).activate?.(context(), second)).rejects.toThrow("encrypted key");
    await expect(open(config).adopt?.(context())).rejects.toThrow("encrypted");
  });

  it("changes certificate and key in one step through the link", async () => {
    const at = folder();
    const place = open({ stagingDir: at });
    await place.add?.(context(), first);
    expect(existsSync(join(at, "current"))).toBe(false);
    await place.activate?.(context(), first);
    const seen = new Set<string>();
    const reading = { done: false };
    const reader = (async () => {
      while (!reading.done) {
        // The folder is resolved once, as a server does that opens both files below it.
        const now = join(at, readlinkSync(join(at, "current")));
        seen.add(pairIn(join(now, "certificate.pem"), join(now, "key.pem")) ?? "mismatch");
        await new Promise((next) => setImmediate(next));
      }
    })();
    for (let n = 0; n < 20; n++) await place.activate?.(context(), n % 2 === 0 ? second : first);
    reading.done = true;
    await reader;
    expect([...seen].sort()).toEqual([first.facts.fingerprint, second.facts.fingerprint].sort());
    await expect(place.remove?.(context(), first)).rejects.toMatchObject({ kind: "refused" });
    expect(lstatSync(join(at, "current")).isSymbolicLink()).toBe(true);
    rmSync(join(at, "current"));
    symlinkSync("nowhere", join(at, "current"));
    const lost = await place.observe(context(), [first, second]);
    expect(lost.current).toBeNull();
    expect(lost.notes?.[0]).toContain("there is no certificate");
  });

  it("takes a certificate out of a bundle wherever it stands, and every other byte stays", async () => {
    const at = folder();
    const path = join(at, "ca.pem");
    const pem = (await keyOf(first)).certificates[0] ?? "";
    const text = `# top\r\n${pem.replaceAll("\n", "\r\n")}# middle\r\n${theirPem}${pem}\n# end, no line end`;
    writeFileSync(path, text);
    const place = open({ kind: "bundle", certificate: path });
    expect((await place.observe(context(), [first])).entries).toHaveLength(2);
    await place.remove?.(context(), first);
    expect(readFileSync(path, "utf8")).toBe(`# top\r\n# middle\r\n${theirPem}\n# end, no line end`);
    await place.add?.(context(), first);
    expect(execFileSync("openssl", ["storeutl", "-noout", "-certs", path], { encoding: "utf8" })).toContain(
      "Total found: 2",
    );
  });

  it("says which versions a CA in the bundle lets in, and changes no CA for a leaf", async () => {
    const path = join(folder(), "ca.pem");
    const ours = await certificateVersions("with-ca");
    const leaf = await ours.version(1);
    writeFileSync(path, `${ours.caPem}${other.caPem}`);
    const place = open({ kind: "bundle", certificate: path, trusts: "issuer" });
    const seen = await place.observe(context(), [leaf, first]);
    expect(seen.entries.map((entry) => [entry.mark, entry.admits])).toEqual([
      [factsOf(ours.caPem).fingerprint, [leaf.id]],
      [factsOf(other.caPem).fingerprint, []],
    ]);
    expect(place.add).toBeUndefined();
    expect(place.remove).toBeUndefined();
  });

  it("refuses a bundle that is damaged, and names the line", async () => {
    const path = join(folder(), "ca.pem");
    const damaged = `# one\n${theirPem}-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nAAAA\n`;
    writeFileSync(path, damaged);
    const place = open({ kind: "bundle", certificate: path });
    await expect(place.add?.(context(), first)).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringMatching(/ca\.pem: line \d+: .*begins inside/),
    });
    expect(readFileSync(path, "utf8")).toBe(damaged);
  });

  it.each(["ec-p256", "rsa-3072"] as const)(
    "writes keystores of %s keys that OpenSSL opens, and opens those of OpenSSL",
    async (algorithm) => {
      const at = folder();
      const key = createPrivateKey((await makeKey(algorithm)).reveal());
      writeFileSync(join(at, "key.pem"), key.export({ type: "pkcs8", format: "pem" }));
      const openssl = (...args: string[]): string =>
        execFileSync("openssl", args, { cwd: at, encoding: "utf8", stdio: "pipe" });
      openssl("req", "-x509", "-new", "-key", "key.pem", "-subj", "/CN=store", "-days", "3", "-out", "cert.pem");
      const certificate = new X509Certificate(readFileSync(join(at, "cert.pem")));
      writeFileSync(
        join(at, "ours.p12"),
        writeKeystore({ key, certificates: [certificate], password: new Secret("pass-1"), alias: "app é" }),
      );
      const shown = openssl("pkcs12", "-in", "ours.p12", "-passin", "pass:pass-1", "-nodes", "-info");
      expect(shown).toContain("BEGIN PRIVATE KEY");
      expect(shown).toContain("CN = store");
      openssl(
        "pkcs12",
        "-export",
        "-inkey",
        "key.pem",
        "-in",
        "cert.pem",
        "-name",
        "theirs",
        "-passout",
        "pass:pass-2",
        "-out",
        "theirs.p12",
      );
      const bytes = readFileSync(join(at, "theirs.p12"));
      const read = readKeystore(bytes, new Secret("pass-2"));
      expect(read.certificates.map((one) => one.fingerprint256)).toEqual([certificate.fingerprint256]);
      expect(read.key.equals(key)).toBe(true);
      expect(read.alias).toBe("theirs");
      expect(() => readKeystore(bytes, new Secret("wrong"))).toThrow("password of the keystore is wrong");
      expect(() => readKeystore(bytes.subarray(0, 500), new Secret("pass-2"))).toThrow("cut off or damaged");
      expect(() => readKeystore(Buffer.from("not a keystore"), new Secret("pass-2"))).toThrow("cut off or damaged");
    },
  );

  it("refuses a version that is no certificate, or whose key is another's", async () => {
    const place = open(kinds["pair"]?.config(folder()) ?? {});
    const wrong: VersionHandle = {
      ...first,
      open: async () => ({ ...(await keyOf(first)), privateKey: (await keyOf(second)).privateKey }),
    };
    await expect(place.activate?.(context(), wrong)).rejects.toThrow("does not belong to its certificate");
    const password: VersionHandle = { ...first, open: async () => ({ kind: "secret", value: new Secret("x") }) };
    await expect(place.activate?.(context(), password)).rejects.toThrow("no certificate with a key");
  });

  it.each([
    [{ certificate: "a" }, "is missing for kind pair"],
    [{ kind: "bundle", certificate: "a", key: "b" }, "has no meaning for kind bundle"],
    [{ stagingDir: "a", key: "b" }, "has no meaning for kind pair with stagingDir"],
    [{ kind: "pkcs12", keystore: "a" }, "is missing for kind pkcs12"],
  ])("refuses the settings %j", (config, message) => {
    expect(
      fileCertificate.config
        .safeParse(config)
        .error?.issues.map((issue) => issue.message)
        .join(),
    ).toContain(message);
  });
});
