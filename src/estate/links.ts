/** What credentials and systems are to each other: who signs whom, who holds whom, who signs in with whom; and that none of it is a circle. */
import type { CredentialDecl } from "../core/place.ts";
import { minuteMs } from "../core/time.ts";
import type { CredentialDraft } from "./credentials.ts";
import { quoted, suggestion } from "./problem.ts";
import type { Reading, Spot } from "./reading.ts";

/** CAs above each other, or credentials that hold each other: three or four in life. */
const maxChain = 50;

export function checkLinks(reading: Reading, drafts: readonly CredentialDraft[]): void {
  const byName = new Map(drafts.map((draft) => [draft.name, draft]));
  const names = [...byName.keys()];
  /** From what must be rotated first, or with it, to what follows. */
  const next = new Map<string, { readonly to: string; readonly spot: Spot }[]>();
  const link = (from: string, to: string, spot: Spot) => next.set(from, [...(next.get(from) ?? []), { to, spot }]);
  for (const draft of drafts) {
    if (draft.ca !== undefined) {
      const ca = byName.get(draft.ca.name);
      const cas = drafts.filter((each) => each.kind === "ca").map((each) => each.name);
      if (ca === undefined) {
        reading.problem(
          draft.ca.spot,
          [],
          `${quoted(draft.ca.name)} is not a credential of this estate${suggestion(draft.ca.name, cas.length > 0 ? cas : names, "credential")}`,
        );
      } else if (ca.kind !== undefined && ca.kind !== "ca") {
        reading.problem(
          draft.ca.spot,
          [],
          `${quoted(draft.ca.name)} is of kind ${ca.kind}, and only a ca can sign; write kind: ca there, or name a CA`,
        );
      } else link(draft.ca.name, draft.name, draft.ca.spot);
    }
    for (const held of draft.holds) {
      const other = byName.get(held.name);
      if (other === undefined) {
        reading.problem(
          held.spot,
          [],
          `${quoted(held.name)} is not a credential of this estate${suggestion(held.name, names, "credential")}`,
        );
        continue;
      }
      if (draft.kind === "ca" && other.decl !== undefined && other.ca?.name !== draft.name) {
        reading.problem(
          held.spot,
          [],
          `${quoted(held.name)} is not signed by this CA; write ca: ${draft.name} in its issuer`,
        );
      }
      link(draft.name, held.name, held.spot);
    }
  }
  checkCircles(reading, names, next);
}

/** Keyroll's sign-in must be trusted somewhere, or switching it would lock Keyroll out. */
export function checkSignIns(
  reading: Reading,
  drafts: readonly CredentialDraft[],
  systems: readonly { readonly name: string; readonly spot: Spot; readonly signIn: string | undefined }[],
): void {
  for (const { name, spot, signIn } of systems) {
    const places = drafts.find((draft) => draft.name === signIn)?.decl?.places;
    if (places === undefined) continue;
    const verifiers = places.filter((place) => place.traits.roles.includes("verifier"));
    if (verifiers.length === 0) {
      reading.problem(
        spot,
        ["signIn"],
        `names ${signIn}, which no place accepts: after its rotation Keyroll could not sign in any more; add the place in ${name} that accepts it`,
      );
    } else if (!verifiers.some((place) => place.system === name)) {
      reading.note(spot, ["signIn"], `names ${signIn}, none of whose verifiers is in ${name}; is it accepted there?`);
    }
  }
}

function checkCircles(
  reading: Reading,
  names: readonly string[],
  next: ReadonlyMap<string, readonly { readonly to: string; readonly spot: Spot }[]>,
): void {
  const done = new Set<string>();
  for (const start of names) {
    // Depth first with a stack of its own: a chain of a hundred thousand must not end in a stack overflow.
    const path: { readonly name: string; index: number }[] = [];
    const onPath = new Set<string>();
    const enter = (name: string) => {
      path.push({ name, index: 0 });
      onPath.add(name);
    };
    if (!done.has(start)) enter(start);
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const edge = next.get(top.name)?.[top.index++];
      if (edge === undefined) {
        done.add(top.name);
        onPath.delete(top.name);
        path.pop();
      } else if (onPath.has(edge.to)) {
        const circle = [
          ...path.slice(path.findIndex((each) => each.name === edge.to)).map((each) => each.name),
          edge.to,
        ];
        reading.problem(
          edge.spot,
          [],
          `credentials depend on each other in a circle: ${circle.join(" -> ")}; each must come before what it signs or gives its value to`,
        );
      } else if (path.length >= maxChain) {
        reading.problem(
          edge.spot,
          [],
          `is the end of a chain of more than ${maxChain} credentials; no such chain is known`,
        );
        return;
      } else if (!done.has(edge.to)) enter(edge.to);
    }
  }
}

/** A holder that is another credential takes as long as a rotation of that one: its changes, its longest waits, its soak. */
export function finishHolders(credentials: readonly CredentialDecl[]): CredentialDecl[] {
  const byName = new Map(credentials.map((credential) => [credential.name, credential]));
  const lengths = new Map<string, number>();
  function lengthOf(name: string): number {
    const known = lengths.get(name);
    const credential = byName.get(name);
    if (known !== undefined || credential === undefined) return known ?? minuteMs;
    let changes = credential.issuer.traits.changeMs;
    let wait = 0;
    for (const place of credential.places) {
      // Adding and removing are a change each.
      changes += place.credential === undefined ? 2 * place.traits.changeMs : lengthOf(place.credential);
      wait = Math.max(wait, place.traits.refreshMs + place.traits.propagationMs + place.traits.drainMs);
    }
    wait = Math.max(wait, ...(credential.data ?? []).map((set) => set.drainMs));
    const length = changes + wait + credential.policy.soakMs;
    lengths.set(name, length);
    return length;
  }
  return credentials.map((credential) => ({
    ...credential,
    places: credential.places.map((place) =>
      place.credential === undefined
        ? place
        : { ...place, traits: { ...place.traits, changeMs: lengthOf(place.credential) } },
    ),
  }));
}
