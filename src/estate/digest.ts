/** What an estate declares, as one hash, so that an approval can say what it was given for. */
import { createHash } from "node:crypto";
import type { Estate } from "../core/place.ts";
import { placeCommon, systemCommon } from "./schema.ts";
import { isTreeMap, omit } from "./source.ts";
import type { Tree } from "./source.ts";

/** JSON with sorted keys: the same declarations give the same text, however they are laid out. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).filter(([, each]) => each !== undefined);
    return `{${entries
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, each]) => `${JSON.stringify(key)}:${canonical(each)}`)
      .join(",")}}`;
  }
  return JSON.stringify(value) ?? "null";
}

/**
 * SHA-256, lower-case hex, of what is declared, with references in place of what they stand for: comments, layout, the order of keys and the split into files do not
 * count, and neither do the secrets.
 */
export function digestOf(
  estate: Omit<Estate, "digest">,
  written: {
    readonly systems: ReadonlyMap<string, { readonly raw: Tree }>;
    readonly credentials: ReadonlyMap<string, { readonly raw: Tree }>;
  },
): string {
  const own = (raw: Tree | undefined, keys: readonly string[]) => (isTreeMap(raw) ? omit(raw, keys) : {});
  const declared = {
    format: 1,
    settings: estate.settings,
    systems: estate.systems.map((system) => [
      system.name,
      {
        type: system.type,
        signIn: system.signIn,
        config: own(written.systems.get(system.name)?.raw, Object.keys(systemCommon.shape)),
      },
    ]),
    credentials: estate.credentials.map((credential) => {
      const raw = written.credentials.get(credential.name)?.raw;
      const places = isTreeMap(raw) && isTreeMap(raw["places"]) ? raw["places"] : {};
      return [
        credential.name,
        {
          kind: credential.kind,
          owner: credential.owner,
          labels: credential.labels,
          policy: {
            ...credential.policy,
            windows: credential.policy.windows.map((window) => ({ ...window, text: undefined })),
          },
          data: credential.data?.map((set) => ({ ...set, source: undefined })),
          issuer: {
            ...credential.issuer,
            source: undefined,
            declared: undefined,
            traits: undefined,
            config: own(isTreeMap(raw) ? raw["issuer"] : undefined, []),
          },
          places: Object.fromEntries(
            credential.places.map((place) => [
              place.name,
              {
                type: place.type,
                system: place.system,
                credential: place.credential,
                roles: place.traits.roles,
                presentsTo: [...place.presentsTo].sort(),
                times: [place.traits.refreshMs, place.traits.propagationMs, place.traits.drainMs],
                config: own(places[place.name], Object.keys(placeCommon.shape)),
              },
            ]),
          ),
        },
      ];
    }),
  };
  const sorted = {
    ...declared,
    systems: Object.fromEntries(declared.systems as [string, unknown][]),
    credentials: Object.fromEntries(declared.credentials as [string, unknown][]),
  };
  return createHash("sha256").update(canonical(sorted)).digest("hex");
}
