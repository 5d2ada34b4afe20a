import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer } from "node:tls";
import type { AddressInfo } from "node:net";
import { afterAll, describe, expect, it } from "vitest";
import { selfSigned } from "../../../test/support/self-signed.ts";
import { factsOf } from "../shared/x509.ts";
import { placeContract, secretVersions, versionOf, type PlaceWorld } from "../connector.contract.ts";
import type { CallContext, VersionHandle } from "../connector.ts";
import { manual } from "./connector.ts";

const folder = mkdtempSync(join(tmpdir(), "keyroll-manual-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
function context(): CallContext {
  const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined };
  return { now: () => Date.now(), signal: new AbortController().signal, throttle: async () => {}, log: quiet };
}

/** What the check program sees is what the person has typed into this file. */
const looker = `
  const { existsSync, readFileSync } = require("node:fs");
  const ids = existsSync(process.argv[1]) ? readFileSync(process.argv[1], "utf8").split("\\n").filter(Boolean) : [];
  if (ids.includes("DOWN")) process.exit(69);
  process.stdout.write(JSON.stringify({ entries: ids.map((mark) => ({ mark, version: mark })) }));`;
let worlds = 0;

placeContract({
  runner: { describe, it },
  name: "manual",
  connector: manual,
  config: { title: "The console", check: { argv: ["x"] } },
  cannot: { "trait capacity 1: the new version replaces the old one": "only a person changes it" },
  makeWorld(): PlaceWorld {
    const path = join(folder, `console-${++worlds}`);
    const versions = secretVersions("by-hand");
    const config = manual.config.parse({
      title: "The console",
      check: { argv: [process.execPath, "-e", looker, path], timeout: "5s" },
    });
    return {
      open: () => manual.open(config, undefined),
      version: (n) => versions(n),
      inspect: async () => ({ present: [], foreign: [] }),
      meddle: { add: async () => writeFileSync(path, "theirs\n") },
      faults: {
        down() {
          writeFileSync(path, "DOWN");
          return { clear: () => rmSync(path) };
        },
      },
    };
  },
});

describe("instructions", () => {
  const place = manual.open(
    manual.config.parse({
      title: "Mail service",
      check: { argv: ["x"] },
      minutes: 5,
      activate: {
        title: "Upload ${id}",
        steps: [
          "Open the console.",
          { text: "Check that it is ${subject} and lasts until ${notAfter}.", copy: "${sha1}" },
          "User ${attribute:user}, ${serial}.",
        ],
      },
    }),
    undefined,
  );
  const version: VersionHandle = {
    id: "mail#4",
    hasMaterial: false,
    facts: { fingerprint: "ab12", sha1: "cd34", subject: "CN=mail.example.org", notAfterMs: Date.UTC(2027, 0, 2) },
    placement: { attributes: { user: "app_b" } },
    open: async () => {
      throw new Error("instructions need no secret");
    },
  };
  it("show exact public values, and say where there is none", () => {
    expect(place.instructions?.("activate", version)).toEqual({
      title: "Mail service: Upload mail#4",
      minutes: 5,
      steps: [
        { text: "Open the console." },
        { text: "Check that it is CN=mail.example.org and lasts until 2027-01-02T00:00:00.000Z.", copy: "cd34" },
        { text: "User app_b, (this version has no serial)." },
      ],
    });
  });
  it("have a plain form where none were written", () => {
    expect(place.instructions?.("remove", version).steps[0]?.text).toBe("Remove mail#4, and only that one.");
  });
  it("cannot ask for a secret", () => {
    const parsed = manual.config.safeParse({
      title: "x",
      check: { argv: ["x"] },
      add: { steps: ["Type ${password}."] },
    });
    expect(parsed.success).toBe(false);
    expect(JSON.stringify(parsed.error?.issues)).toContain("no public value");
  });
});

describe("a TLS check", () => {
  it("sees what is served, on every connection", async () => {
    const made = async (name: string) => {
      const { privateKey, pem } = await selfSigned(name);
      return {
        privateKey,
        pem,
        version: versionOf(`site#${name.length}`, { kind: "key", privateKey, certificates: [pem] }, factsOf(pem)),
      };
    };
    const one = await made("a.test");
    const two = await made("bb.test");
    const server = createServer({ key: one.privateKey.reveal(), cert: one.pem }, (socket) => socket.end());
    server.on("tlsClientError", () => undefined);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    const place = manual.open(
      manual.config.parse({ title: "Proxy", check: { tls: { host: "127.0.0.1", port } } }),
      undefined,
    );
    const known = [one.version, two.version];
    expect(await place.observe(context(), known)).toMatchObject({
      current: one.version.facts.fingerprint,
      entries: [{ version: one.version.id }],
    });
    expect((await place.probe?.(context(), one.version))?.outcome).toBe("accepted");
    expect((await place.probe?.(context(), two.version))?.outcome).toBe("refused");
    server.setSecureContext({ key: two.privateKey.reveal(), cert: two.pem });
    expect((await place.observe(context(), known)).current).toBe(two.version.facts.fingerprint);
    await new Promise((resolve) => server.close(resolve));
    expect((await place.probe?.(context(), two.version))?.outcome).toBe("unknown");
  });
});
