/** One file on a host: a value that programs there read, or a list of public keys that sshd accepts. */
import type { Entry, Observation } from "../../core/place.ts";
import { ConnectorError, type CallContext, type Place, type Placement, type VersionHandle } from "../connector.ts";
import { Secret, type Material } from "../secret.ts";
import { keyOfLine, publicLine } from "./keys.ts";
import type { SshFileConfig, SshSystem } from "./schema.ts";
import { etagOf, readRemote, replaceRemote, withSftp, type RemoteFile } from "./sftp.ts";

export function openValueFile(config: SshFileConfig, system: SshSystem): Place {
  const strip = (bytes: Buffer): Buffer => (config.newline && bytes.at(-1) === 0x0a ? bytes.subarray(0, -1) : bytes);
  return {
    async observe(cx, known): Promise<Observation> {
      const file = await withSftp(cx, system, (sftp) => readRemote(sftp, config.path));
      if (file === undefined) return { entries: [], current: null, etag: etagOf(file) };
      let version: string | undefined;
      for (const one of known) {
        if (one.hasMaterial && bytesOf(await one.open()).equals(strip(file.bytes))) version = one.id;
      }
      return {
        entries: [{ mark: "value", enabled: true, ...(version === undefined ? {} : { version }) }],
        current: "value",
        etag: etagOf(file),
      };
    },
    async activate(cx, version): Promise<void> {
      const value = bytesOf(await version.open());
      const content = config.newline ? Buffer.concat([value, Buffer.from("\n")]) : value;
      await withSftp(cx, system, async (sftp) => {
        const file = await readRemote(sftp, config.path);
        if (file?.bytes.equals(content)) return;
        await replaceRemote(cx, sftp, config.path, file, content, Number.parseInt(config.mode, 8));
      });
    },
    async adopt(cx) {
      const file = await withSftp(cx, system, (sftp) => readRemote(sftp, config.path));
      if (file === undefined || file.bytes.length === 0) return [];
      const text = strip(file.bytes);
      const isKey = text.includes("PRIVATE KEY-----");
      const material: Material = isKey
        ? { kind: "key", privateKey: new Secret(text), certificates: [] }
        : { kind: "secret", value: new Secret(text) };
      return [{ facts: {}, material }];
    },
  };
}

function bytesOf(material: Material): Buffer {
  return material.kind === "secret" ? material.value.bytes() : material.privateKey.bytes();
}

export function openKeysFile(config: SshFileConfig, system: SshSystem): Place {
  async function lineOf(version: VersionHandle): Promise<string> {
    const material = await version.open();
    if (material.kind !== "key") {
      throw new ConnectorError(
        "misconfigured",
        `${version.id} is no key, and ${config.path} is a list of public keys.`,
        {
          next: "Give the credential the kind ssh-key.",
        },
      );
    }
    return publicLine(material.privateKey);
  }
  const linesOf = (file: RemoteFile | undefined): string[] => {
    const text = file?.bytes.toString("utf8") ?? "";
    if (file !== undefined && !Buffer.from(text, "utf8").equals(file.bytes)) {
      throw new ConnectorError("misconfigured", `${config.path} is not a text file in UTF-8.`, {
        next: "Check the path.",
      });
    }
    return text === "" ? [] : text.replace(/\n$/, "").split("\n");
  };
  /** Rewrites the file with other lines. Lines of other people stay, byte for byte. */
  async function edit(cx: CallContext, change: (lines: readonly string[]) => readonly string[] | null): Promise<void> {
    await withSftp(cx, system, async (sftp) => {
      const file = await readRemote(sftp, config.path);
      const lines = change(linesOf(file));
      if (lines === null) return;
      const content = Buffer.from(lines.length === 0 ? "" : `${lines.join("\n")}\n`);
      await replaceRemote(cx, sftp, config.path, file, content, Number.parseInt(config.mode, 8));
    });
  }
  const markOf = (key: string): string => key.split(" ")[1]!.slice(-32);
  const placement = (key: string): Placement => ({ slot: markOf(key), attributes: { publicKey: key } });

  return {
    async observe(cx, known): Promise<Observation> {
      const file = await withSftp(cx, system, (sftp) => readRemote(sftp, config.path));
      const ids = new Map<string, string>();
      for (const one of known) {
        const remembered = one.placement?.attributes?.["publicKey"] ?? one.facts.attributes?.["publicKey"];
        if (remembered !== undefined) ids.set(remembered, one.id);
        else if (one.hasMaterial) {
          const material = await one.open();
          if (material.kind === "key") ids.set(publicLine(material.privateKey), one.id);
        }
      }
      const entries = new Map<string, Entry>();
      for (const line of linesOf(file)) {
        const found = keyOfLine(line);
        if (found === null) continue;
        const version = ids.get(found.key);
        entries.set(found.key, {
          mark: markOf(found.key),
          enabled: true,
          ...(version === undefined ? {} : { version, ...placement(found.key) }),
        });
      }
      return { entries: [...entries.values()], etag: etagOf(file) };
    },
    async add(cx, version): Promise<Placement> {
      const key = await lineOf(version);
      await edit(cx, (lines) => {
        if (lines.some((line) => keyOfLine(line)?.key === key)) return null;
        return [...lines, `${config.options === "" ? "" : `${config.options} `}${key} keyroll:${version.id}`];
      });
      return placement(key);
    },
    async remove(cx, version): Promise<void> {
      // Without the secret part the public half still tells which line it is.
      const remembered = version.placement?.attributes?.["publicKey"];
      const key = remembered ?? (await lineOf(version));
      await edit(cx, (lines) => {
        const kept = lines.filter((line) => keyOfLine(line)?.key !== key);
        return kept.length === lines.length ? null : kept;
      });
    },
  };
}
