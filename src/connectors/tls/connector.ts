/** Places of type `tls.endpoint`: what is really served. Nothing can be changed here; it shows what a change elsewhere led to. */
import { plainTraits } from "../../core/place.ts";
import type { Entry, Observation } from "../../core/place.ts";
import { ConnectorError, definePlace } from "../connector.ts";
import type { CallContext, Place, Probe, VersionHandle } from "../connector.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { readTextFile } from "../shared/files.ts";
import { fetchPeer } from "../shared/tls.ts";
import type { TlsPeer } from "../shared/tls.ts";
import { fingerprintOf } from "../shared/x509.ts";
import { endpointSchema } from "./schema.ts";
import type { EndpointConfig } from "./schema.ts";

interface Look {
  readonly peers: readonly TlsPeer[];
  readonly failures: readonly ConnectorError[];
}

/** So many at once; more would look like an attack. */
const atOnce = 4;

/** Opens the connections. Throws only when not one of them got an answer, or our own settings are wrong. */
async function look(cx: CallContext, config: EndpointConfig): Promise<Look> {
  throwIfCancelled(cx);
  const ca = config.caFile === undefined ? undefined : await readTextFile(config.caFile);
  const peers: TlsPeer[] = [];
  const failures: ConnectorError[] = [];
  let left = config.connections;
  const worker = async (): Promise<void> => {
    while (left-- > 0) {
      await cx.throttle();
      try {
        const peer = await fetchPeer({
          host: config.host,
          port: config.port,
          startTls: config.startTls,
          timeoutMs: config.timeout,
          signal: cx.signal,
          ...(config.serverName === undefined ? {} : { serverName: config.serverName }),
          ...(ca === undefined ? {} : { ca }),
        });
        peers.push(peer);
      } catch (error) {
        if (!(error instanceof ConnectorError)) throw error;
        failures.push(error);
        // One that is down answers none of the others either, and each would wait for its time limit.
        if (peers.length === 0 && failures.length >= 2) return;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, config.connections) }, worker));
  const [first] = failures;
  if (peers.length === 0 && first !== undefined) throw first;
  return { peers, failures };
}

function leafFingerprints(peers: readonly TlsPeer[]): string[] {
  return peers.flatMap(({ chain }) => (chain[0] === undefined ? [] : [fingerprintOf(chain[0])]));
}

async function observe(cx: CallContext, config: EndpointConfig, known: readonly VersionHandle[]): Promise<Observation> {
  const { peers, failures } = await look(cx, config);
  const entries = new Map<string, Entry>();
  const notes = new Set<string>();
  for (const { chain, verified, whyNot } of peers) {
    const [leaf] = chain;
    if (leaf === undefined) continue;
    const mark = fingerprintOf(leaf);
    const version = known.find((one) => one.facts.fingerprint === mark)?.id;
    entries.set(mark, {
      mark,
      enabled: true,
      notAfterMs: leaf.validToDate.getTime(),
      ...(version === undefined ? {} : { version }),
    });
    if (config.caFile !== undefined && !verified)
      notes.add(`${version ?? mark.slice(0, 16)} is served and does not verify: ${whyNot ?? "no reason given"}.`);
  }
  const [only, ...more] = entries.keys();
  if (more.length > 0)
    notes.add(`${entries.size} different certificates are served: a replica or an old worker lags behind.`);
  if (failures[0] !== undefined)
    notes.add(`${failures.length} of ${config.connections} connections failed: ${failures[0].message}`);
  // With a connection unanswered, or two certificates, nobody can say that one is the one in use.
  const settled = only !== undefined && more.length === 0 && failures.length === 0;
  return {
    entries: [...entries.values()],
    inUse: [...entries.keys()],
    ...(settled ? { current: only } : {}),
    ...(notes.size === 0 ? {} : { notes: [...notes] }),
  };
}

async function probe(cx: CallContext, config: EndpointConfig, version: VersionHandle): Promise<Probe> {
  let seen: Look;
  try {
    seen = await look(cx, config);
  } catch (error) {
    if (error instanceof ConnectorError && error.kind === "unavailable")
      return { outcome: "unknown", detail: error.message };
    throw error;
  }
  const where = `${config.host}:${config.port}`;
  const served = leafFingerprints(seen.peers);
  const right = served.filter((fingerprint) => fingerprint === version.facts.fingerprint).length;
  if (right < served.length) {
    return { outcome: "refused", detail: `${where} served ${version.id} on ${right} of ${served.length} connections.` };
  }
  const bad = config.caFile === undefined ? undefined : seen.peers.find((peer) => !peer.verified);
  if (bad !== undefined)
    return {
      outcome: "refused",
      detail: `${where} serves ${version.id}, which does not verify: ${bad.whyNot ?? "no reason given"}.`,
    };
  if (seen.failures[0] !== undefined) {
    return {
      outcome: "unknown",
      detail: `${where} served ${version.id} on ${right} connections, and ${seen.failures.length} failed: ${seen.failures[0].message}`,
    };
  }
  const checked =
    config.caFile === undefined ? "its chain was not checked, as there is no caFile" : "and its chain verifies";
  return { outcome: "accepted", detail: `${where} served ${version.id} on all ${right} connections, ${checked}.` };
}

export const tlsEndpoint = definePlace({
  family: "place",
  type: "tls.endpoint",
  title: "What a TLS endpoint really serves (looks, changes nothing)",
  // It has no role of its own: what is seen in use here is live somewhere, and holds back the removal of what is.
  roles: [],
  config: endpointSchema,
  paths: ["caFile"],
  permissions: ["Connect to the endpoint."],
  traits: (config) => ({
    ...plainTraits,
    roles: [],
    storeCapacity: 1,
    staging: false,
    readable: false,
    restorable: false,
    writes: "whole-set",
    changeMs: config.timeout,
  }),
  open: (config): Place => ({
    observe: (cx, known) => observe(cx, config, known),
    probe: (cx, version) => probe(cx, config, version),
  }),
});
