/**
 * Keyroll's own sign-in to a system, where it is a credential of the estate. The place is built in: it holds the one version that Keyroll signs
 * in with, its store is a setting here, and switching it is an effect like every other, under the fence of the rotation. The old version is
 * removed at the system only after that, so that Keyroll never locks itself out.
 *
 * Until the first switch the system's own settings are used, and what they have is adopted as the version from before Keyroll. After that their
 * password is ignored. One that somebody puts there later, and that is none of the known versions, is used again: this is the way back in when
 * the sign-in was changed behind Keyroll's back.
 */
import { ConnectorError } from "../connectors/connector.ts";
import type { Place, SystemType, VersionHandle } from "../connectors/connector.ts";
import type { Material, Secret } from "../connectors/secret.ts";
import type { SystemDecl } from "../core/place.ts";
import type { Json, Queries, Tx } from "../store/store.ts";
import type { Sealer } from "./seal.ts";

/** What is kept in the store. All of it is public. */
export interface KeptSignIn {
  readonly version: string;
  /** Names that belong to the version, such as `user`. */
  readonly attributes: Readonly<Record<string, string>>;
  /** Fingerprints of the passwords that the system's own settings had when they were set aside. */
  readonly ignored: readonly string[];
}

export interface SignIns {
  /** What the system is signed in to with. `null`: what its settings say. */
  inForce(system: SystemDecl, type: SystemType | undefined): Promise<KeptSignIn | null>;
  /** The system's settings with that sign-in. Throws a {@link ConnectorError} where its sealed copy is gone. */
  settings(system: SystemDecl, type: SystemType | undefined, kept: KeptSignIn): Promise<unknown>;
  /** What a person should know of a password in the settings that is not used. `null`: there is none. */
  unused(system: SystemDecl, type: SystemType | undefined, kept: KeptSignIn): string | null;
  /** The built-in place of this system. */
  place(system: SystemDecl, type: SystemType | undefined): Place;
}

export interface SignInOptions {
  readonly store: Pick<Queries, "settings" | "versions">;
  readonly sealer: Pick<Sealer, "fingerprint">;
  open(version: string): Promise<Material>;
  /** Runs a write under the fence of the rotation. Left out where nothing is rotated. */
  fenced?(work: (tx: Tx) => Promise<void>): Promise<void>;
}

const settingOf = (system: string): string => `sign-in ${system}`;

export function createSignIns(options: SignInOptions): SignIns {
  return {
    async inForce(system, type) {
      return (await look(options, system, type)).version;
    },
    async settings(system, type, kept) {
      if (type?.withSignIn === undefined) return system.config;
      const material = await options.open(kept.version);
      try {
        return type.withSignIn(system.config, { attributes: kept.attributes, material });
      } finally {
        wipe(material);
      }
    },
    unused(system, type, kept) {
      if (ownOf(options, system, type).fingerprint === null) return null;
      return `the password in its settings is no longer used: Keyroll signs in with ${kept.version}`;
    },
    place: (system, type) => signInPlace(options, system, type),
  };
}

function signInPlace(options: SignInOptions, system: SystemDecl, type: SystemType | undefined): Place {
  return {
    async observe(_, known) {
      const { version, fingerprint, attributes } = await look(options, system, type);
      if (version !== null) {
        const found = known.find((each) => each.id === version.version);
        const entry = {
          mark: found?.facts.fingerprint ?? version.version,
          enabled: true,
          ...(found === undefined ? {} : { version: found.id }),
          ...(version.attributes["user"] === undefined ? {} : { slot: version.attributes["user"] }),
        };
        return { entries: [entry], current: entry.mark };
      }
      if (fingerprint === null) return { entries: [], current: null };
      const found = known.find((each) => each.facts.fingerprint === fingerprint);
      const user = attributes["user"];
      return {
        entries: [
          {
            mark: fingerprint,
            enabled: true,
            ...(found === undefined ? {} : { version: found.id }),
            ...(user === undefined ? {} : { slot: user }),
          },
        ],
        current: fingerprint,
      };
    },

    async adopt() {
      const { version } = await look(options, system, type);
      // A version of Keyroll's own is sealed already.
      const own = version === null ? (type?.signInOf?.(system.config) ?? null) : null;
      if (own === null) return [];
      return [
        {
          facts: { attributes: own.attributes },
          material: own.material,
          placement: { attributes: own.attributes },
        },
      ];
    },

    async activate(_, handle: VersionHandle) {
      const { fenced } = options;
      if (fenced === undefined)
        throw new ConnectorError("misconfigured", "Keyroll's own sign-in is switched by a rotation only.");
      // Opened first: what cannot be opened must never become the only way in.
      await handle.open();
      const { fingerprint } = ownOf(options, system, type);
      await fenced(async (tx) => {
        const name = settingOf(system.name);
        const before = readKept(await tx.settings.getLocked(name, "update"));
        const ignored = new Set(before?.ignored ?? []);
        if (fingerprint !== null) ignored.add(fingerprint);
        const kept: KeptSignIn = {
          version: handle.id,
          attributes: { ...handle.facts.attributes },
          ignored: [...ignored],
        };
        await tx.settings.put(name, kept as unknown as Json);
      });
    },
  };
}

interface Own {
  /** `null`: the settings have no sign-in of their own. */
  readonly fingerprint: string | null;
  readonly attributes: Readonly<Record<string, string>>;
}

/** What the settings themselves sign in with, without the secret. */
function ownOf(options: SignInOptions, system: SystemDecl, type: SystemType | undefined): Own {
  const own = type?.signInOf?.(system.config) ?? null;
  if (own === null) return { fingerprint: null, attributes: {} };
  const fingerprint = options.sealer.fingerprint(secretOf(own.material));
  wipe(own.material);
  return { fingerprint, attributes: own.attributes };
}

/** The version that is in force. `null`: the settings' own sign-in is. */
async function look(
  options: SignInOptions,
  system: SystemDecl,
  type: SystemType | undefined,
): Promise<Own & { readonly version: KeptSignIn | null }> {
  if (system.signIn === undefined) return { fingerprint: null, attributes: {}, version: null };
  const own = ownOf(options, system, type);
  const kept = readKept(await options.store.settings.get(settingOf(system.name)));
  // Another credential was named since: what the setting says belongs to the one before.
  if (kept === null || !kept.version.startsWith(`${system.signIn}#`)) return { ...own, version: null };
  if (own.fingerprint === null || kept.ignored.includes(own.fingerprint)) return { ...own, version: kept };
  const versions = await options.store.versions.list(system.signIn);
  const found = versions.find((version) => version.facts?.fingerprint === own.fingerprint);
  // Known since Keyroll took it in from these settings, as what is in use, or known from before: then it is out of date.
  const takenIn =
    found !== undefined &&
    numberOf(found.id) > numberOf(kept.version) &&
    (found.state === "current" || found.state === "compromised");
  return { ...own, version: found === undefined || takenIn ? null : kept };
}

function numberOf(version: string): number {
  return Number(version.slice(version.lastIndexOf("#") + 1));
}

function readKept(json: Json | undefined): KeptSignIn | null {
  if (json === undefined || json === null || typeof json !== "object" || Array.isArray(json)) return null;
  return json as unknown as KeptSignIn;
}

function secretOf(material: Material): Secret {
  return material.kind === "secret" ? material.value : material.privateKey;
}
function wipe(material: Material): void {
  secretOf(material).wipe();
}
