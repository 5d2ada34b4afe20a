/** Where a version comes from: minted, sealed before anything outside hears of it, issued, sealed; and what becomes of one that was lost. */
import { randomUUID } from "node:crypto";
import { ConnectorError } from "../connectors/connector.ts";
import type { Issued, IssueIntent } from "../connectors/connector.ts";
import type { Material, Secret } from "../connectors/secret.ts";
import type { Effect, VersionRecord } from "../core/assemble.ts";
import type { VersionFacts } from "../core/place.ts";
import { FencedOff } from "../store/store.ts";
import type { VersionRow } from "../store/store.ts";
import { backoffMs } from "./clock.ts";
import type { CallScope } from "./connect.ts";
import type { EngineDeps } from "./deps.ts";
import { asFailure, intend, maybeLost, noFailures, outcome, switched } from "./intent.ts";
import { sentence } from "./observe.ts";
import { credentialOf, findSigner } from "./spec.ts";
import type { Turn } from "./turn.ts";

/** Where the version comes from. Its number and its tag are written down before anything is asked for. */
export async function issue(turn: Turn, effect: Effect): Promise<string | null> {
  const theirs = turn.credential.issuer.traits.minting === "theirs";
  const tag =
    turn.version(effect.version) === undefined
      ? randomUUID()
      : (turn.rows.find((row) => row.id === effect.version)?.issueTag ?? randomUUID());
  let signer: VersionRecord | null;
  try {
    signer = await signerOf(turn);
  } catch (error) {
    return sentence(error);
  }
  let row: VersionRow | undefined;
  const id = await intend(turn, effect, { tag }, async (tx, staged) => {
    row = await tx.versions.create({
      credential: turn.credential.name,
      state: "pending",
      material: "none",
      issueTag: tag,
    });
    // From here on it may exist outside without being sealed here.
    if (theirs) row = await tx.versions.update(row.id, { material: "volatile", issueTag: tag });
    staged.update({ toVersion: row.id });
  });
  const versionId = row!.id;
  const previous = turn.row.fromVersion === null ? undefined : turn.version(turn.row.fromVersion);
  const issuer = turn.open.issuer();
  const spec = {
    label: `issue ${turn.credential.name}`,
    effect: true,
    changeMs: turn.credential.issuer.traits.changeMs,
    mayStillSend: () => turn.held.fresh(),
    lastSeen: turn.credential.issuer.place === undefined ? null : (turn.seen[turn.credential.issuer.place] ?? null),
  };
  const intentIn = (scope: CallScope, minted?: Material): IssueIntent => ({
    id: versionId,
    tag,
    ...(minted === undefined ? {} : { minted }),
    ...(signer === null ? {} : { signer: scope.handle(signer, null) }),
    ...(previous === undefined ? {} : { previous: scope.handle(previous, turn.credential.issuer.place ?? null) }),
  });
  let issued: Issued | null = null;
  let error: ConnectorError | null = null;
  let minted: Material | undefined;
  try {
    if (!theirs) minted = await mintOnce(turn, versionId, (scope) => intentIn(scope));
    issued = await issuer.run(spec, (connector, scope) => connector.issue(scope.cx, intentIn(scope, minted)));
  } catch (thrown) {
    if (minted !== undefined) secretOf(minted).wipe();
    error = asFailure(thrown);
  }
  turn.deps.crashPoint("after-effect:issue");
  if (issued === null) {
    const nowMs = await turn.deps.nowMs();
    const failed = error!;
    const stop = await outcome(turn, effect, id, failed, nowMs, async () => undefined);
    await turn.write(async (tx, staged) => {
      if (failed.kind === "unknown-outcome") await maybeLost(tx, staged, versionId);
      else if (theirs) await tx.versions.update(versionId, { material: "none" });
    });
    await turn.reloadVersions();
    return stop;
  }
  const got = issued;
  const facts: VersionFacts = {
    ...got.facts,
    fingerprint: got.facts.fingerprint ?? turn.deps.sealer.fingerprint(secretOf(got.material)),
  };
  turn.deps.crashPoint("before-seal");
  // The only copy of a value that is shown once is in this variable: nothing but losing the rotation stops the attempts to seal it.
  const nowMs = await sealStubbornly(turn, async () => {
    const now = await turn.deps.nowMs();
    const place = turn.credential.issuer.place === undefined ? undefined : turn.placeOf(turn.credential.issuer.place);
    await turn.write(async (tx, staged) => {
      await turn.deps.sealer.seal(
        tx,
        { owner: turn.credential.name, version: versionId, purpose: "material" },
        got.material,
      );
      await tx.sealed.destroy(turn.credential.name, versionId, "minted");
      await tx.versions.update(versionId, { facts, material: "sealed" });
      staged.note({ version: versionId, text: `${versionId} is sealed.`, sealed: true });
      if (place !== undefined) {
        if (got.placement !== undefined) await tx.versions.place(versionId, place.name, got.placement);
        staged.remember(place.name, turn.changed(place, versionId, now, "issue"));
        if (turn.credential.issuer.traits.issuingActivates) await switched(turn, tx, staged, versionId, now);
      }
    });
    return now;
  });
  turn.deps.crashPoint("after-seal");
  secretOf(got.material).wipe();
  const stop = await outcome(turn, effect, id, null, nowMs, async (_, staged) => {
    staged.remember(effect.place, { ...turn.notesOf(effect.place), ...noFailures });
    staged.journal("version", {
      version: versionId,
      fingerprint: facts.fingerprint,
      ...(facts.notAfterMs === undefined ? {} : { notAfterMs: facts.notAfterMs }),
    });
  });
  await turn.reloadVersions();
  return stop;
}

/** The secret part that is made here: the sealed one of an earlier attempt, or a new one, sealed before anything outside hears of it. */
async function mintOnce(
  turn: Turn,
  version: string,
  intent: (scope: CallScope) => IssueIntent,
): Promise<Material | undefined> {
  const earlier = await turn.deps.store.sealed.find(turn.credential.name, version, "minted");
  if (earlier !== undefined) return await openSealed(turn.deps, version, "minted");
  const issuer = turn.open.issuer();
  if (issuer.connector.mint === undefined) return undefined;
  // Minting touches nothing outside, so that a failure is never of unknown outcome.
  const material = await issuer.run({ label: `mint ${turn.credential.name}`, effect: false }, (connector, scope) =>
    connector.mint!(scope.cx, intent(scope)),
  );
  turn.deps.crashPoint("before-seal");
  await turn.write((tx) =>
    turn.deps.sealer.seal(tx, { owner: turn.credential.name, version, purpose: "minted" }, material),
  );
  turn.deps.crashPoint("after-seal");
  return material;
}

async function sealStubbornly<T>(turn: Turn, seal: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await seal();
    } catch (error) {
      if (error instanceof FencedOff || attempt >= 30) throw error;
      turn.deps.log.warn("A new version could not be sealed yet; trying again.", { rotation: turn.row.id, attempt });
      await turn.deps.clock.sleep(backoffMs(attempt, turn.deps.random, 100, 5000));
    }
  }
}

/** The CA version that signs, where the issuer is a credential of the estate. */
async function signerOf(turn: Turn): Promise<VersionRecord | null> {
  const ca = turn.credential.issuer.ca;
  if (ca === undefined) return null;
  const signer = await findSigner(turn.deps.store, turn.credential, turn.about.signer);
  if (signer === null || !signer.hasMaterial) {
    throw new ConnectorError(
      "misconfigured",
      `${turn.credential.name} is signed by ${ca}, of which Keyroll has no usable version.`,
      {
        next: `Roll ${ca} first, or let Keyroll adopt its key.`,
      },
    );
  }
  return signer;
}

/** The secret part of a version. Throws `misconfigured` where it is not sealed here. */
export async function openSealed(deps: EngineDeps, version: string, purpose: "minted" | "material"): Promise<Material> {
  const material = await deps.sealer.open(deps.store, { owner: credentialOf(version), version, purpose });
  if (material === null) {
    throw new ConnectorError("misconfigured", `The secret part of ${version} is not sealed here any more.`, {
      next: "Roll to a new version.",
    });
  }
  return material;
}

function secretOf(material: Material): Secret {
  return material.kind === "secret" ? material.value : material.privateKey;
}
