/** A place that only a person can change. Keyroll tells what to do with exact values, and then looks for itself. */
import type { Observation } from "../../core/place.ts";
import {
  ConnectorError,
  type CallContext,
  type Instructions,
  type Place,
  type Probe,
  type VersionHandle,
} from "../connector.ts";
import { openProgram, type Transport } from "../shared/program.ts";
import { mostOutputBytes } from "../shared/program.ts";
import { run } from "../shared/run.ts";
import { fetchPeer } from "../shared/tls.ts";
import { factsOf } from "../shared/x509.ts";
import { placeholderPattern, type ManualConfig } from "./schema.ts";

type Work = "add" | "activate" | "remove";

const fallbacks: Readonly<Record<Work, { title: string; text: string }>> = {
  add: { title: "Add ${id}", text: "Add ${id} beside what is there. Remove nothing." },
  activate: { title: "Put ${id} into use", text: "Make ${id} the one that is in use." },
  remove: { title: "Remove ${id}", text: "Remove ${id}, and only that one." },
};

export function openManual(config: ManualConfig): Place {
  return {
    ...checkOf(config),
    instructions(action, version): Instructions {
      const own = config[action];
      const fallback = fallbacks[action];
      const steps = own?.steps ?? [
        { text: fallback.text },
        { text: "It is fingerprint ${fingerprint}.", copy: "${fingerprint}" },
      ];
      return {
        title: `${config.title}: ${fill(own?.title ?? fallback.title, version)}`,
        steps: steps.map((step) => ({
          text: fill(step.text, version),
          ...("copy" in step ? { copy: fill(step.copy, version) } : {}),
        })),
        minutes: config.minutes,
      };
    },
  };
}

/** Public values only. What a version does not have is said, so that nobody types an empty field. */
function fill(template: string, version: VersionHandle): string {
  const { facts, placement } = version;
  const dateOf = (timeMs: number | undefined): string | undefined =>
    timeMs === undefined ? undefined : new Date(timeMs).toISOString();
  const values: Readonly<Record<string, string | undefined>> = {
    id: version.id,
    fingerprint: facts.fingerprint,
    sha1: facts.sha1,
    publicKeySha256: facts.publicKeySha256,
    subject: facts.subject,
    issuer: facts.issuer,
    serial: facts.serial,
    notBefore: dateOf(facts.notBeforeMs),
    notAfter: dateOf(facts.notAfterMs),
    slot: placement?.slot,
  };
  return template.replaceAll(placeholderPattern, (_whole, name: string) => {
    const attribute = name.startsWith("attribute:") ? name.slice("attribute:".length) : undefined;
    const value =
      attribute === undefined
        ? Object.hasOwn(values, name)
          ? values[name]
          : undefined
        : (placement?.attributes?.[attribute] ?? facts.attributes?.[attribute]);
    return value ?? `(this version has no ${attribute ?? name})`;
  });
}

function checkOf(config: ManualConfig): Pick<Place, "observe" | "probe"> {
  const { check } = config;
  if ("tls" in check) return tlsCheck(config, check.tls);
  const transport: Transport = (cx, input, timeoutMs) =>
    run(check.argv, { timeoutMs, signal: cx.signal, input, maxOutputBytes: mostOutputBytes });
  const program = openProgram(
    { verbs: [], recognise: check.recognise, traits: {} },
    transport,
    check.timeout,
    check.argv[0]!,
  );
  return { observe: (cx, known) => program.observe(cx, known) };
}

function tlsCheck(
  config: ManualConfig,
  target: Extract<ManualConfig["check"], { tls: unknown }>["tls"],
): Pick<Place, "observe" | "probe"> {
  async function look(cx: CallContext): Promise<{ served: ReadonlyMap<string, number | undefined>; looks: number }> {
    const served = new Map<string, number | undefined>();
    // Old workers behind one address go on serving the old certificate for a while: one look proves nothing.
    for (let turn = 0; turn < target.connections; turn++) {
      await cx.throttle();
      const peer = await fetchPeer({
        host: target.host,
        port: target.port,
        startTls: target.startTls,
        timeoutMs: 10_000,
        signal: cx.signal,
        ...(target.serverName === undefined ? {} : { serverName: target.serverName }),
      });
      const facts = factsOf(peer.chain[0]!);
      served.set(facts.fingerprint, facts.notAfterMs);
    }
    return { served, looks: target.connections };
  }
  return {
    async observe(cx, known): Promise<Observation> {
      const { served } = await look(cx);
      const marks = [...served.keys()];
      return {
        entries: marks.map((mark) => {
          const version = known.find((one) => one.facts.fingerprint === mark);
          const notAfterMs = served.get(mark);
          return {
            mark,
            enabled: true,
            ...(version === undefined ? {} : { version: version.id }),
            ...(notAfterMs === undefined ? {} : { notAfterMs }),
          };
        }),
        // While several are served, none of them is *the* one.
        ...(marks.length === 1 ? { current: marks[0]! } : {}),
        inUse: marks,
      };
    },
    async probe(cx, version): Promise<Probe> {
      try {
        const { served, looks } = await look(cx);
        if (!served.has(version.facts.fingerprint))
          return { outcome: "refused", detail: `${config.title} serves another certificate.` };
        if (served.size > 1)
          return { outcome: "unknown", detail: `${config.title} serves ${served.size} certificates in turn.` };
        return { outcome: "accepted", detail: `${config.title} served it on ${looks} connections.` };
      } catch (error) {
        if (error instanceof ConnectorError) return { outcome: "unknown", detail: error.message };
        throw error;
      }
    },
  };
}
