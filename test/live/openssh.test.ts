/**
 * Debian's OpenSSH on a free port: keys rolled in authorized_keys by `ssh.file` while somebody signs in about three times a second, a value
 * written over SFTP, and the command protocol over exec.
 */
import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import ssh2 from "ssh2";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { secretVersions, versionOf } from "../../src/connectors/connector.contract.ts";
import { ConnectorError, type CallContext, type VersionHandle } from "../../src/connectors/connector.ts";
import { Secret } from "../../src/connectors/secret.ts";
import { sshCommand, sshFile, sshSystem } from "../../src/connectors/ssh/connector.ts";
import { publicLine } from "../../src/connectors/ssh/keys.ts";
import { freePort } from "../../src/demo/postgres-server.ts";

const sshd = "/usr/sbin/sshd";
const isRoot = process.getuid?.() === 0;

function context(): CallContext {
  const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined };
  return { now: () => Date.now(), signal: new AbortController().signal, throttle: async () => {}, log: quiet };
}
function newKey(): { pem: string; forClient: string } {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  return {
    pem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    forClient: privateKey.export({ type: "sec1", format: "pem" }).toString(),
  };
}

describe.skipIf(!existsSync(sshd) || !isRoot)(
  "OpenSSH of Debian (skipped where openssh-server is not installed, or without root)",
  () => {
    const folder = mkdtempSync(join(tmpdir(), "keyroll-live-ssh-"));
    const keysFile = join(folder, "authorized_keys");
    const keyrollKey = newKey();
    let daemon: ChildProcess;
    let port = 0;
    let hostKey = "";
    const user = userInfo().username;
    const system = (more: object = {}) =>
      sshSystem.config.parse({ host: "127.0.0.1", port, user, hostKey, privateKey: keyrollKey.forClient, ...more });

    beforeAll(async () => {
      chmodSync(folder, 0o755);
      mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
      port = await freePort();
      const hostKeyFile = join(folder, "host_key");
      execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", hostKeyFile]);
      hostKey = execFileSync("ssh-keygen", ["-lf", `${hostKeyFile}.pub`])
        .toString()
        .split(" ")[1]!;
      // Keyroll's own key has a file of its own: what is rolled is the application's.
      writeFileSync(join(folder, "keyroll_keys"), `${publicLine(new Secret(keyrollKey.pem))} keyroll\n`);
      writeFileSync(keysFile, "# people\n", { mode: 0o640 });
      writeFileSync(
        join(folder, "sshd_config"),
        [
          `Port ${port}`,
          "ListenAddress 127.0.0.1",
          `HostKey ${hostKeyFile}`,
          `PidFile ${join(folder, "pid")}`,
          `AuthorizedKeysFile ${join(folder, "keyroll_keys")} ${keysFile}`,
          "StrictModes no",
          "PasswordAuthentication no",
          "UsePAM no",
          "PermitRootLogin prohibit-password",
          "Subsystem sftp internal-sftp",
          "",
        ].join("\n"),
      );
      daemon = spawn(sshd, ["-D", "-e", "-f", join(folder, "sshd_config")], { stdio: "ignore" });
      for (let tries = 0; tries < 100; tries++) {
        try {
          await sshSystem.check?.(context(), system());
          return;
        } catch (error) {
          if (!(error instanceof ConnectorError) || error.kind !== "unavailable") throw error;
          await sleep(50);
        }
      }
      throw new Error("sshd did not start.");
    });
    afterAll(async () => {
      const ended = new Promise((resolve) => daemon.once("exit", resolve));
      daemon.kill("SIGTERM");
      await ended;
      rmSync(folder, { recursive: true, force: true });
    });

    async function signIn(privateKey: string): Promise<"accepted" | "refused" | "failed"> {
      const client = new ssh2.Client();
      return new Promise((resolve) => {
        client.once("ready", () => (client.end(), resolve("accepted")));
        client.once("error", (error) =>
          resolve((error as { level?: string }).level === "client-authentication" ? "refused" : "failed"),
        );
        client.connect({ host: "127.0.0.1", port, username: user, privateKey });
      });
    }

    it("tells the host key that ssh-keygen tells, and sends nothing before it is pinned", async () => {
      await expect(sshSystem.check?.(context(), system({ hostKey: undefined }))).rejects.toThrow(hostKey);
    });

    it("rolls a key in authorized_keys with nobody refused, and the old one refused at the end", async () => {
      const keys = [newKey(), newKey()];
      const [old, fresh] = keys.map((key, i): VersionHandle =>
        versionOf(`login#${i + 1}`, { kind: "key", privateKey: new Secret(key.pem), certificates: [] }),
      );
      const place = sshFile.open(
        sshFile.config.parse({ path: keysFile, format: "authorized_keys", options: "restrict" }),
        system(),
      );
      await place.add?.(context(), old!);
      const counts = { accepted: [0, 0], refused: 0, failed: 0 };
      let inUse = 0;
      const ended = new AbortController();
      const clients = (async () => {
        // The consumer reads its key only every second.
        let cached = inUse;
        let readAt = Date.now();
        while (!ended.signal.aborted) {
          if (Date.now() - readAt > 1000) [cached, readAt] = [inUse, Date.now()];
          const outcome = await signIn(keys[cached]!.forClient);
          if (outcome === "accepted") counts.accepted[cached]!++;
          else counts[outcome]++;
          await sleep(250);
        }
      })();
      await sleep(1000);
      await place.add?.(context(), fresh!);
      inUse = 1;
      await sleep(2500);
      await place.remove?.(context(), old!);
      await sleep(1500);
      ended.abort();
      await clients;
      console.log(
        `openssh: ${counts.accepted.join(" and ")} accepted, ${counts.refused} refused, ${counts.failed} failed`,
      );
      expect(counts).toMatchObject({ refused: 0, failed: 0 });
      expect(Math.min(...counts.accepted)).toBeGreaterThan(0);
      expect(await signIn(keys[0]!.forClient)).toBe("refused");
      expect(readFileSync(keysFile, "utf8").startsWith("# people\nrestrict ecdsa-sha2-nistp256 AAAA")).toBe(true);
      expect(statSync(keysFile).mode & 0o777).toBe(0o640);
    });

    it("writes a value over SFTP and reads it back", async () => {
      const versions = secretVersions("value");
      const path = join(folder, "secret.txt");
      const place = sshFile.open(sshFile.config.parse({ path }), system());
      await place.activate?.(context(), versions(1));
      expect((await place.observe(context(), [versions(1), versions(2)])).entries).toEqual([
        { mark: "value", enabled: true, version: "value#1" },
      ]);
      expect(statSync(path).mode & 0o777).toBe(0o600);
    });

    it("names the folder that may not be written", async () => {
      const place = sshFile.open(sshFile.config.parse({ path: "/proc/keyroll/x" }), system());
      await expect(place.activate?.(context(), secretVersions("value")(1))).rejects.toThrow(/folder/);
    });

    it("carries the command protocol", async () => {
      const versions = secretVersions("remote");
      const program = fileURLToPath(new URL("../support/program-place.ts", import.meta.url));
      const place = sshCommand.open(
        sshCommand.config.parse({
          command: `${process.execPath} ${program} ${join(folder, "lines.json")}`,
          verbs: ["add", "remove", "probe"],
          recognise: "value",
        }),
        system(),
      );
      await place.add?.(context(), versions(1));
      expect((await place.observe(context(), [versions(1)])).entries[0]?.version).toBe("remote#1");
      await place.remove?.(context(), versions(1));
      expect((await place.probe?.(context(), versions(1)))?.outcome).toBe("refused");
      const missing = sshCommand.open(sshCommand.config.parse({ command: "/nowhere/at/all" }), system());
      await expect(missing.observe(context(), [])).rejects.toMatchObject({ kind: "misconfigured" });
    });
  },
);
