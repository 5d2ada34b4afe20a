/** Sign-ins over SSH with a pinned host key, and what their errors mean. */
import { createHash } from "node:crypto";
import { Client, type ConnectConfig } from "ssh2";
import { ConnectorError, type CallContext } from "../connector.ts";
import type { SshSystem } from "./schema.ts";

/** As `ssh-keygen -lf` prints it (RFC 4648 base64 without padding). */
function hostFingerprint(key: Buffer): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

/** Signs in, runs `body`, closes. Cancelling the call cuts the connection. */
export async function withSsh<R>(cx: CallContext, system: SshSystem, body: (client: Client) => Promise<R>): Promise<R> {
  if (cx.signal.aborted) throw new ConnectorError("unavailable", "The call was cancelled before anything was sent.");
  await cx.throttle();
  const client = new Client();
  const cut = (): void => void client.destroy();
  cx.signal.addEventListener("abort", cut, { once: true });
  try {
    await connect(client, system);
    // After the sign-in an error or an end shows in whatever waits for an answer; without a listener it would end the process.
    client.on("error", () => undefined);
    const ended = new Promise<never>((_, reject) => {
      client.once("close", () => {
        // What was waiting for an answer knows better than we whether something may have been done: it is heard first.
        const lost = new ConnectorError("unavailable", `The connection to ${system.host} was lost.`);
        setTimeout(reject, 500, lost).unref();
      });
    });
    ended.catch(() => undefined);
    return await Promise.race([body(client), ended]);
  } finally {
    cx.signal.removeEventListener("abort", cut);
    client.end();
  }
}

async function connect(client: Client, system: SshSystem): Promise<void> {
  let seen: string | undefined;
  const config: ConnectConfig = {
    host: system.host,
    port: system.port,
    username: system.user,
    readyTimeout: system.connectTimeout,
    // Judged before anything of ours is sent. Nothing is trusted on first use: whoever stands between would be trusted for ever.
    hostVerifier: (key: Buffer) => {
      seen = hostFingerprint(key);
      return system.hostKey?.includes(seen) === true;
    },
    ...(system.privateKey === undefined ? {} : { privateKey: system.privateKey.bytes() }),
    ...(system.passphrase === undefined ? {} : { passphrase: system.passphrase.bytes() }),
    ...(system.password === undefined ? {} : { password: system.password.reveal() }),
    ...agentOf(system),
  };
  await new Promise<void>((resolve, reject) => {
    const fail = (error: Error): void => reject(toConnectorError(error, system, seen));
    client.once("ready", () => {
      client.removeListener("error", fail);
      resolve();
    });
    client.once("error", fail);
    client.once("close", () => fail(new Error("closed")));
    try {
      client.connect(config);
      // Requests are small and each waits for its answer: joining them would only cost 40 ms a time.
      client.setNoDelay(true);
    } catch {
      // The library parses the key here; its message may hold parts of it.
      reject(
        new ConnectorError("misconfigured", "The private key of the system cannot be read.", {
          next: "Give a PEM or OpenSSH key, and its passphrase if it has one.",
        }),
      );
    }
  });
}

function agentOf(system: SshSystem): { agent?: string } {
  if (system.agent === undefined) return {};
  const socket = system.agent === true ? process.env["SSH_AUTH_SOCK"] : system.agent;
  if (socket === undefined || socket === "") {
    throw new ConnectorError("misconfigured", "The system signs in with an agent, and SSH_AUTH_SOCK is not set.", {
      next: "Start an agent, or name its socket.",
    });
  }
  return { agent: socket };
}

function toConnectorError(error: Error, system: SshSystem, seen: string | undefined): ConnectorError {
  const { level, code } = error as Error & { level?: unknown; code?: unknown };
  const where = `${system.host}:${system.port}`;
  if (seen !== undefined && system.hostKey?.includes(seen) !== true) {
    if (system.hostKey === undefined) {
      return new ConnectorError(
        "misconfigured",
        `No host key of ${where} is pinned, so nothing was sent. It showed ${seen}.`,
        {
          next: `Compare it with \`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\` on the host, then set hostKey: ${seen}`,
        },
      );
    }
    return new ConnectorError(
      "misconfigured",
      `${where} showed the host key ${seen}, which is not the pinned one. Nothing was sent.`,
      {
        next: "Somebody may stand between. Pin the new key only when the host's owner confirms it.",
      },
    );
  }
  if (level === "client-authentication") {
    return new ConnectorError(
      "misconfigured",
      `${where} does not let ${system.user} in with the system's key or password.`,
      {
        permission: `sign in as ${system.user}`,
        next: "Check the key's line in authorized_keys on the host, and that sshd allows this way to sign in.",
      },
    );
  }
  const shown =
    typeof code === "string" && /^[A-Z_]{2,40}$/.test(code)
      ? ` (${code})`
      : level === "client-timeout"
        ? " (no answer)"
        : "";
  return new ConnectorError("unavailable", `${where} could not be reached over SSH${shown}.`);
}
