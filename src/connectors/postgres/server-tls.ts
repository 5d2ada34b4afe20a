/**
 * The certificate that a PostgreSQL server on this machine serves: two files, and a reload. PostgreSQL reads them only when it is told to, and
 * silently keeps the old pair when the new one does not fit, so that nothing counts as done before new connections are served the new certificate.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Entry, Observation } from "../../core/place.ts";
import {
  ConnectorError,
  type CallContext,
  type Issued,
  type Place,
  type Probe,
  type VersionHandle,
} from "../connector.ts";
import { Secret, type KeyMaterial } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { assertUnchanged, commit, readFile, stageFile, type FileSeen } from "../shared/files.ts";
import { fetchPeer } from "../shared/tls.ts";
import { certificatesOf, factsOf, fingerprintOf, keyMatches, pemOf, pkcs8Of, privateKeyOf } from "../shared/x509.ts";
import type { PostgresSystem, ServerTlsConfig } from "./schema.ts";
import { identifier, withSession } from "./session.ts";

export function openServerTls(config: ServerTlsConfig, system: PostgresSystem): Place {
  /** Fingerprints served on each of so many new connections. */
  async function served(cx: CallContext, connections: number): Promise<readonly string[]> {
    const found: string[] = [];
    for (let turn = 0; turn < connections; turn++) {
      await cx.throttle();
      const peer = await fetchPeer({
        host: system.host,
        port: system.port,
        serverName: config.serverName ?? system.tls.serverName ?? system.host,
        startTls: "postgres",
        timeoutMs: system.connectTimeoutMs,
        signal: cx.signal,
      });
      found.push(fingerprintOf(peer.chain[0]!));
    }
    return found;
  }

  /** Before anything is written: the server is there, and will do as it is told. */
  async function assertReloadable(cx: CallContext): Promise<void> {
    const may = await withSession(cx, system, (session) =>
      session.query<{ may: boolean }>(
        "looking for the right to reload",
        "select has_function_privilege('pg_catalog.pg_reload_conf()', 'execute') as may",
      ),
    );
    if (may[0]?.may === true) return;
    throw new ConnectorError(
      "misconfigured",
      "The system's user may not reload the server's configuration. Nothing was written.",
      {
        permission: "EXECUTE on pg_reload_conf()",
        next: `As a superuser: GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO ${identifier(system.user)};`,
      },
    );
  }

  async function reload(cx: CallContext): Promise<void> {
    try {
      const told = await withSession(cx, system, (session) =>
        session.query<{ done: boolean }>(
          "reloading the server's configuration",
          "select pg_catalog.pg_reload_conf() as done",
        ),
      );
      if (told[0]?.done === true) return;
    } catch (error) {
      if (!(error instanceof ConnectorError) || error.kind === "misconfigured") throw error;
      // The files are in place and whether the server has read them is not known.
    }
    throw new ConnectorError(
      "unknown-outcome",
      "The files are written, and PostgreSQL did not confirm that it reads them.",
      {
        next: "What it serves is looked at before anything is repeated.",
      },
    );
  }

  /** The leaf in the file, or nothing where the file holds none that can be read. */
  function leafOf(file: FileSeen | undefined): { fingerprint: string; notAfterMs?: number } | null {
    if (file === undefined) return null;
    try {
      const [leaf] = certificatesOf(file.bytes.toString("utf8"));
      if (leaf === undefined) return null;
      const { fingerprint, notAfterMs } = factsOf(leaf);
      return { fingerprint, ...(notAfterMs === undefined ? {} : { notAfterMs }) };
    } catch {
      // Not a certificate: an entry that nobody knows, which the next activation replaces.
      return null;
    }
  }

  return {
    async observe(cx, known): Promise<Observation> {
      throwIfCancelled(cx);
      const file = leafOf(await readFile(config.certificate));
      const marks = [...new Set(await served(cx, config.connections))];
      const entry = (mark: string, slot: string, notAfterMs?: number): Entry => {
        const version = known.find((one) => one.facts.fingerprint === mark);
        return {
          mark,
          slot,
          enabled: true,
          ...(version === undefined ? {} : { version: version.id }),
          ...(notAfterMs === undefined ? {} : { notAfterMs }),
        };
      };
      const entries: Entry[] = file === null ? [] : [entry(file.fingerprint, "file", file.notAfterMs)];
      for (const mark of marks) if (mark !== file?.fingerprint) entries.push(entry(mark, "served"));
      const stale = file !== null && marks.some((mark) => mark !== file.fingerprint);
      return {
        entries,
        // What a restart would load; what is served now is in `inUse`.
        current: file?.fingerprint ?? null,
        inUse: marks,
        ...(stale
          ? {
              notes: [
                "The server still serves another certificate than the one in its file: it has not been reloaded, or refused the pair.",
              ],
            }
          : {}),
      };
    },

    async activate(cx, version): Promise<void> {
      throwIfCancelled(cx);
      const material = await keyOf(version);
      const [leaf, ...chain] = material.certificates;
      if (leaf === undefined) throw new ConnectorError("misconfigured", `${version.id} has no certificate yet.`);
      if (!keyMatches(leaf, material.privateKey)) {
        throw new ConnectorError(
          "refused",
          `The private key of ${version.id} does not belong to its certificate. Nothing was written.`,
        );
      }
      const fingerprint = fingerprintOf(leaf);
      const certificate = Buffer.from([leaf, ...chain].map((pem) => pemOf(pem).trimEnd()).join("\n") + "\n");
      const key = pkcs8Of(privateKeyOf(material.privateKey)).bytes();
      await assertReloadable(cx);
      await write(cx, certificate, key);
      await reload(cx);
      const until = cx.now() + config.servedWithin;
      for (;;) {
        const marks = await served(cx, config.connections);
        if (marks.every((mark) => mark === fingerprint)) return;
        if (cx.now() >= until) break;
        await sleep(100, undefined, { signal: cx.signal }).catch(() => undefined);
        if (cx.signal.aborted)
          throw new ConnectorError("unknown-outcome", "The call was cancelled while the server was reloading.");
      }
      throw new ConnectorError(
        "refused",
        `${version.id} is in the server's files, and the server goes on serving another certificate.`,
        {
          next:
            "Its log says why: most often ssl_cert_file or ssl_key_file name other files, or the key's owner or mode is refused. " +
            "Mend that before the server is restarted, since it would not start with a pair that it refuses.",
        },
      );
    },

    async probe(cx, version): Promise<Probe> {
      try {
        const marks = await served(cx, config.connections);
        const right = marks.filter((mark) => mark === version.facts.fingerprint).length;
        const detail = `${right} of ${marks.length} new connections were served ${version.id}.`;
        return { outcome: right === marks.length ? "accepted" : right === 0 ? "refused" : "unknown", detail };
      } catch (error) {
        if (error instanceof ConnectorError) return { outcome: "unknown", detail: error.message };
        throw error;
      }
    },

    async adopt(): Promise<readonly Issued[]> {
      const certificate = await readFile(config.certificate);
      const key = await readFile(config.key);
      if (certificate === undefined || key === undefined) return [];
      const certificates = certificatesOf(certificate.bytes.toString("utf8")).map((one) => pemOf(one));
      const [leaf] = certificates;
      const privateKey = pkcs8Of(privateKeyOf(new Secret(key.bytes)));
      if (leaf === undefined || !keyMatches(leaf, privateKey)) return [];
      return [{ facts: factsOf(leaf), material: { kind: "key", privateKey, certificates } }];
    },
  };

  /** Both files are made ready before either is put in place, so that only a moment between two renames is left in which a restart would fail. */
  async function write(cx: CallContext, certificate: Buffer, key: Buffer): Promise<void> {
    const oldKey = await readFile(config.key);
    const oldCertificate = await readFile(config.certificate);
    if (oldKey?.bytes.equals(key) && oldCertificate?.bytes.equals(certificate)) return;
    // A server that runs as another user would not start with a key that is not its own: the certificate's owner is its owner.
    const like =
      oldKey ?? (oldCertificate === undefined ? undefined : { ...oldCertificate, target: config.key, mode: 0o600 });
    const stagedKey = await stageFile(config.key, key, { seen: like, mode: 0o600, signal: cx.signal });
    try {
      const stagedCertificate = await stageFile(config.certificate, certificate, {
        seen: oldCertificate,
        mode: 0o644,
        signal: cx.signal,
      });
      try {
        await assertUnchanged(config.key, oldKey);
        await assertUnchanged(config.certificate, oldCertificate);
        throwIfCancelled(cx);
        await commit(stagedKey);
        await commit(stagedCertificate);
      } finally {
        await stagedCertificate.discard();
      }
    } finally {
      await stagedKey.discard();
    }
  }
}

async function keyOf(version: VersionHandle): Promise<KeyMaterial> {
  const material = await version.open();
  if (material.kind === "key") return material;
  throw new ConnectorError(
    "misconfigured",
    `${version.id} is a password, and a server serves a certificate with its key.`,
    {
      next: "Give the credential the kind certificate.",
    },
  );
}
