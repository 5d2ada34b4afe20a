/** The command protocol over SSH: the same documents, with an exec channel in place of a pipe. */
import type { ClientChannel } from "ssh2";
import { ConnectorError, type CallContext } from "../connector.ts";
import { mostOutputBytes, type Transport } from "../shared/program.ts";
import type { Ran } from "../shared/run.ts";
import type { SshCommandConfig, SshSystem } from "./schema.ts";
import { withSsh } from "./session.ts";

export function execTransport(config: SshCommandConfig, system: SshSystem): Transport {
  return async (cx: CallContext, input: Buffer, timeoutMs: number): Promise<Ran> => {
    let sent = false;
    try {
      return await withSsh(cx, system, async (client) => {
        const channel = await new Promise<ClientChannel>((resolve, reject) => {
          client.exec(config.command, { pty: false }, (error, opened) => {
            if (!error) return resolve(opened);
            reject(
              new ConnectorError("misconfigured", `${system.host} runs no commands for ${system.user}.`, {
                permission: "exec over SSH",
              }),
            );
          });
        });
        sent = true;
        return collect(cx, channel, input, timeoutMs);
      });
    } catch (error) {
      if (!sent || !(error instanceof ConnectorError) || error.kind !== "unavailable") throw error;
      // The connection went away while the command ran: as with a program that was ended, nobody knows what it had done.
      return {
        code: null,
        endedBy: cx.signal.aborted ? "cancelled" : "itself",
        stdout: Buffer.alloc(0),
        stderr: Buffer.from("the connection was lost"),
        cut: false,
      };
    }
  };
}

async function collect(cx: CallContext, channel: ClientChannel, input: Buffer, timeoutMs: number): Promise<Ran> {
  return new Promise((resolve) => {
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let room = mostOutputBytes;
    let errRoom = 64 * 1024;
    let cut = false;
    let code: number | null = null;
    const done = (endedBy: Ran["endedBy"]): void => {
      clearTimeout(timer);
      cx.signal.removeEventListener("abort", cancelled);
      resolve({ code, endedBy, stdout: Buffer.concat(out), stderr: Buffer.concat(err), cut });
    };
    const end = (why: Ran["endedBy"]): void => {
      // OpenSSH passes the signal on; closing the channel is what a command notices in any case.
      channel.signal("KILL");
      channel.close();
      done(why);
    };
    const timer = setTimeout(() => end("time-out"), timeoutMs);
    const cancelled = (): void => end("cancelled");
    cx.signal.addEventListener("abort", cancelled, { once: true });
    channel.on("data", (chunk: Buffer) => {
      if (chunk.length > room) cut = true;
      out.push(chunk.subarray(0, room));
      room -= Math.min(room, chunk.length);
    });
    channel.stderr.on("data", (chunk: Buffer) => {
      err.push(chunk.subarray(0, errRoom));
      errRoom -= Math.min(errRoom, chunk.length);
    });
    channel.on("exit", (exitCode: number | null) => {
      code = exitCode;
    });
    channel.on("close", () => done("itself"));
    channel.on("error", () => undefined);
    channel.end(Buffer.from(input));
  });
}
