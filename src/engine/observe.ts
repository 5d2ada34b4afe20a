/**
 * Looking: all places at once, each answer as it is, and `null` for a place that did not answer. Nothing is written here but what was seen.
 */
import { ConnectorError } from "../connectors/connector.ts";
import type { Issued } from "../connectors/connector.ts";
import type { Probe } from "../connectors/connector.ts";
import type { VersionRecord } from "../core/assemble.ts";
import type { CredentialDecl, Entry, Observation, PlaceDecl } from "../core/place.ts";
import type { Queries, VersionRow } from "../store/store.ts";
import type { OpenCredential } from "./connect.ts";
import { inParallel } from "./deps.ts";
import type { EngineDeps } from "./deps.ts";

export interface Look {
  readonly place: string;
  /** `null`: not seen. */
  readonly observation: Observation | null;
  /** Public sentence, where it was not seen. */
  readonly error: string | null;
  /** Where it was not seen: not to be asked again before this long. */
  readonly retryAfterMs?: number;
}

/** One public sentence of a failure, with what to do. */
export function sentence(error: unknown): string {
  if (!(error instanceof ConnectorError)) return "The connector failed in a way it does not know.";
  const permission = error.permission === undefined ? "" : ` Missing permission: ${error.permission}.`;
  return `${error.message}${permission}${error.next === undefined ? "" : ` ${error.next}`}`;
}

/**
 * A holder that is another credential, such as the leaves under a CA: which version of this credential signed what the other one holds
 * everywhere. Told from the other credential's own observations; a place of it that was never seen leaves the answer open.
 */
export async function observeChild(
  queries: Queries,
  child: CredentialDecl,
  versions: readonly VersionRecord[],
): Promise<Observation> {
  const [rows, seen] = await Promise.all([queries.versions.list(child.name), queries.observations.list(child.name)]);
  const signerOf = (row: VersionRow): VersionRecord | undefined =>
    versions.find((version) => version.facts.fingerprint !== "" && version.facts.fingerprint === row.facts?.signedBy);
  const entries = new Map<string, Entry>();
  const notes: string[] = [];
  let complete = true;
  const used = new Set<string>();
  for (const place of child.places) {
    if (!place.traits.roles.includes("holder")) continue;
    const observation = seen.find((row) => row.place === place.name)?.observation ?? null;
    const current = observation?.entries.find((entry) => entry.mark === observation.current);
    if (observation === null || current === undefined) {
      complete = false;
      notes.push(`What ${child.name} holds at ${place.name} was not seen.`);
      continue;
    }
    for (const entry of observation.entries) {
      const row = rows.find((version) => version.id === entry.version);
      const signer = row === undefined ? undefined : signerOf(row);
      const inUse = entry.mark === observation.current;
      const mark = signer?.facts.fingerprint ?? `not signed by a known version: ${entry.mark}`;
      // What lies there unused and was signed by something else does not present this CA's versions.
      if (signer === undefined && !inUse) continue;
      if (signer !== undefined && !inUse) continue;
      if (inUse) used.add(mark);
      entries.set(mark, {
        mark,
        ...(signer === undefined ? {} : { version: signer.id }),
        slot: child.name,
        enabled: true,
      });
    }
  }
  return {
    entries: [...entries.values()],
    // Several at once are all in use: that is not one current version, and the reader must count each of them.
    ...(complete && used.size <= 1 ? { current: [...used][0] ?? null } : {}),
    ...(notes.length === 0 ? {} : { notes }),
  };
}

/** Looks at the given places, at most a few at a time. Never throws for a place that cannot be seen. */
export async function look(
  deps: EngineDeps,
  open: OpenCredential,
  places: readonly PlaceDecl[],
  versions: readonly VersionRecord[],
  lastSeen: Readonly<Record<string, Observation | null>>,
  signal?: AbortSignal,
): Promise<readonly Look[]> {
  return await inParallel(places, deps.options.observeAtOnce, async (place) => {
    try {
      if (place.credential !== undefined) {
        const child = deps.estate().credentials.find((credential) => credential.name === place.credential);
        if (child === undefined) {
          throw new ConnectorError(
            "misconfigured",
            `${place.name} stands for the credential ${place.credential}, which the estate does not declare.`,
          );
        }
        return { place: place.name, observation: await observeChild(deps.store, child, versions), error: null };
      }
      const observation = await open.place(place.name).run(
        {
          label: `observe ${open.credential.name}/${place.name}`,
          effect: false,
          lastSeen: lastSeen[place.name] ?? null,
          changeMs: place.traits.changeMs,
          ...(signal === undefined ? {} : { signal }),
        },
        async (connector, scope) => {
          // A version without facts cannot be recognised by anything but its tag, which is its id.
          const known = versions.map((version) => scope.handle(version, place.name));
          const seen = await connector.observe(scope.cx, known);
          return seen.notes === undefined ? seen : { ...seen, notes: seen.notes.map((note) => scope.clean(note)) };
        },
      );
      return { place: place.name, observation, error: null };
    } catch (error) {
      signal?.throwIfAborted();
      const retryAfterMs = error instanceof ConnectorError ? error.retryAfterMs : undefined;
      return {
        place: place.name,
        observation: null,
        error: sentence(error),
        ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      };
    }
  });
}

/** Asks the system itself whether the version works. Anything but its own answer is `unknown`. */
export async function probe(
  open: OpenCredential,
  place: PlaceDecl,
  version: VersionRecord,
  lastSeen: Observation | null,
  signal?: AbortSignal,
): Promise<Probe> {
  try {
    return await open.place(place.name).run(
      {
        label: `probe ${open.credential.name}/${place.name}`,
        effect: false,
        lastSeen,
        ...(signal === undefined ? {} : { signal }),
      },
      async (connector, scope) => {
        if (connector.probe === undefined) return { outcome: "unknown", detail: "This place cannot be probed." };
        const answer = await connector.probe(scope.cx, scope.handle(version, place.name));
        return { outcome: answer.outcome, detail: scope.clean(answer.detail) };
      },
    );
  } catch (error) {
    signal?.throwIfAborted();
    return { outcome: "unknown", detail: sentence(error) };
  }
}

/** Reads what a holder from before Keyroll holds, secret part included. Empty where it cannot be read back. */
export async function readBack(open: OpenCredential, place: PlaceDecl): Promise<readonly Issued[]> {
  if (!place.traits.readable || place.credential !== undefined) return [];
  return await open
    .place(place.name)
    .run(
      { label: `adopt ${open.credential.name}/${place.name}`, effect: false },
      async (connector, scope) => (await connector.adopt?.(scope.cx)) ?? [],
    );
}
