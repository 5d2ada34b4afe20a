/** The trust bundle of `file.certificate`: a PEM file with the CA certificates that a server or client trusts. A verifier. */
import { X509Certificate } from "node:crypto";
import type { Entry, Observation } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { assertUnchanged, commit, readFile, stageFile } from "../shared/files.ts";
import type { FileSeen } from "../shared/files.ts";
import { certificateLabels, certificateOf, fingerprintOf, parsePem } from "../shared/x509.ts";
import type { PemBlock } from "../shared/x509.ts";
import { asMisconfigured } from "./certificate.ts";
import { clearReloadDue, isReloadDue, markReloadDue, precheck, reload } from "./reload.ts";
import type { CertificateConfig } from "./schema.ts";

interface Trusted {
  readonly block: PemBlock;
  readonly certificate: X509Certificate;
  readonly mark: string;
}
interface Bundle {
  readonly seen: FileSeen | undefined;
  readonly text: string;
  readonly trusted: readonly Trusted[];
}

async function certificateIn(version: VersionHandle): Promise<X509Certificate> {
  const material = await version.open();
  const pem = material.kind === "key" ? material.certificates[0] : undefined;
  if (pem === undefined)
    throw new ConnectorError("misconfigured", `${version.id} has no certificate, which a trust bundle could hold.`);
  return certificateOf(pem);
}

export function openBundle(config: CertificateConfig, path: string): Place {
  async function read(): Promise<Bundle> {
    const seen = await readFile(path);
    // Comments may be in any encoding; latin1 keeps every byte as it is.
    const text = seen?.bytes.toString("latin1") ?? "";
    const trusted = asMisconfigured(path, () =>
      parsePem(text)
        .filter((block) => certificateLabels.includes(block.label))
        .map((block) => {
          const certificate = certificateOf(block.der);
          return { block, certificate, mark: fingerprintOf(certificate) };
        }),
    );
    return { seen, text, trusted };
  }

  async function replace(cx: CallContext, bundle: Bundle, text: string): Promise<void> {
    const wasDue = config.reload !== undefined && (await isReloadDue(path));
    const staged = await stageFile(path, Buffer.from(text, "latin1"), {
      seen: bundle.seen,
      mode: 0o644,
      signal: cx.signal,
    });
    try {
      if (config.precheck !== undefined)
        await precheck(cx, config.precheck, { file: staged.temporary, cert: staged.temporary }, []);
      await cx.throttle();
      if (config.reload !== undefined && !wasDue) await markReloadDue(path);
      await assertUnchanged(path, bundle.seen);
      throwIfCancelled(cx);
      await commit(staged);
    } catch (error) {
      await staged.discard();
      const changedNothing = error instanceof ConnectorError && error.kind !== "unknown-outcome";
      if (config.reload !== undefined && !wasDue && changedNothing) await clearReloadDue(path);
      throw error;
    }
  }
  async function reloadIfDue(cx: CallContext): Promise<void> {
    if (config.reload === undefined || !(await isReloadDue(path))) return;
    await reload(cx, path, config.reload, []);
    await clearReloadDue(path);
  }

  return {
    observe: async (cx, known): Promise<Observation> => {
      throwIfCancelled(cx);
      const { trusted } = await read();
      const leaves = config.trusts === "issuer" ? await leavesOf(known) : [];
      const entries = new Map<string, Entry>();
      for (const { certificate, mark } of trusted) {
        const version = known.find((one) => one.facts.fingerprint === mark)?.id;
        entries.set(mark, {
          mark,
          enabled: true,
          notAfterMs: certificate.validToDate.getTime(),
          ...(version === undefined ? {} : { version }),
          ...(config.trusts === "issuer"
            ? { admits: leaves.flatMap((leaf) => (leadsTo(leaf.chain, certificate) ? [leaf.id] : [])) }
            : {}),
        });
      }
      const due = config.reload !== undefined && (await isReloadDue(path));
      return {
        entries: [...entries.values()],
        ...(due
          ? {
              settled: false,
              notes: [`${path} was changed and the reload did not end well: what its readers trust is not known.`],
            }
          : {}),
      };
    },
    // Where the CA is what is trusted, its certificates come and go with the rotation of the CA's own credential.
    ...(config.trusts === "issuer" ? {} : { add, remove }),
  };

  async function add(cx: CallContext, version: VersionHandle): Promise<void> {
    throwIfCancelled(cx);
    const certificate = await certificateIn(version);
    const bundle = await read();
    const mark = fingerprintOf(certificate);
    if (!bundle.trusted.some((one) => one.mark === mark)) {
      const newline = bundle.text.includes("\r\n") ? "\r\n" : "\n";
      const gap = bundle.text === "" || bundle.text.endsWith("\n") ? "" : newline;
      await replace(
        cx,
        bundle,
        `${bundle.text}${gap}${certificate.toString().trimEnd().replaceAll("\n", newline)}${newline}`,
      );
    }
    await reloadIfDue(cx);
  }
  async function remove(cx: CallContext, version: VersionHandle): Promise<void> {
    throwIfCancelled(cx);
    const bundle = await read();
    let { text } = bundle;
    // From the end, so that what lies before keeps its place. A certificate may be there twice.
    for (const { block, mark } of bundle.trusted.toReversed()) {
      if (mark !== version.facts.fingerprint) continue;
      const rest = text.slice(block.end).replace(/^[ \t]*\r?\n/, "");
      text = text.slice(0, block.start) + rest;
    }
    if (text !== bundle.text) await replace(cx, bundle, text);
    await reloadIfDue(cx);
  }
}

interface Leaf {
  readonly id: string;
  /** Leaf first. */
  readonly chain: readonly X509Certificate[];
}
/** The certificates of the known versions. One whose certificate is not here is left out: then nobody can say that it is let in. */
async function leavesOf(known: readonly VersionHandle[]): Promise<readonly Leaf[]> {
  const leaves: Leaf[] = [];
  for (const version of known) {
    if (!version.hasMaterial) continue;
    const material = await version.open();
    if (material.kind === "key" && material.certificates.length > 0)
      leaves.push({ id: version.id, chain: material.certificates.map(certificateOf) });
  }
  return leaves;
}
/** Whether one of the chain was signed by this CA: name and signature both, because names alone may be anybody's. */
function leadsTo(chain: readonly X509Certificate[], ca: X509Certificate): boolean {
  return chain.some((certificate) => certificate.checkIssued(ca) && certificate.verify(ca.publicKey));
}
