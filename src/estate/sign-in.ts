/** Keyroll's own sign-in as a place of the credential that it signs in with. */
import { plainTraits } from "../core/place.ts";
import type { CredentialDecl, PlaceDecl, SystemDecl, Traits } from "../core/place.ts";

/** A setting in the store: one version at a time, and what is written is what the next call uses. */
const signInTraits: Traits = {
  ...plainTraits,
  roles: ["holder"],
  storeCapacity: 1,
  staging: false,
  conditional: true,
  changeMs: 50,
};

/**
 * Where Keyroll signs in with a credential, Keyroll is a user of it like every other: a built-in holder stands for it, so that the proof covers
 * Keyroll locking itself out.
 */
export function withSignIns(credentials: readonly CredentialDecl[], systems: readonly SystemDecl[]): CredentialDecl[] {
  return credentials.map((credential) => {
    const verifiers = credential.places.filter((place) => place.traits.roles.includes("verifier"));
    const own = systems.flatMap((system): PlaceDecl[] =>
      system.signIn !== credential.name
        ? []
        : [
            {
              name: `keyroll sign-in (${system.name})`,
              type: "keyroll.sign-in",
              signsInTo: system.name,
              traits: signInTraits,
              presentsTo: verifiers.map((place) => place.name),
              config: {},
              declared: {},
              source: system.source,
            },
          ],
    );
    return own.length === 0 ? credential : { ...credential, places: [...credential.places, ...own] };
  });
}
