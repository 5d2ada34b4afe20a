/** The neighbourhood of one credential. Pure: an estate and a snapshot in, nodes and edges out. Never everything: what is far is left out. */
import type { CredentialDecl } from "../core/place.ts";
import type { Graph, GraphNode } from "./schema.ts";
import type { Known, Snapshot } from "./snapshot.ts";

const mostNodes = 300;
const foldFrom = 8;

export function graphOf(snapshot: Snapshot, focus: Known, depth: number, mayRead: (owner: string) => boolean): Graph {
  const nodes = new Map<string, GraphNode>();
  const edges = new Map<string, Graph["edges"][number]>();
  const link = (from: string, to: string, kind: Graph["edges"][number]["kind"], label: string): void => {
    edges.set(JSON.stringify([from, to, kind]), { from, to, kind, label });
  };
  const bare = { detail: null, credential: null, place: null, state: null, inStep: null, roles: [], members: [] };

  const near = neighbours(snapshot, mayRead);
  const chosen = new Set([focus.item.credential]);
  let ring = [focus.item.credential];
  let truncated = false;
  for (let far = 1; far < depth; far++) {
    const wider = ring.flatMap((name) => [...(near.get(name) ?? [])]).filter((name) => !chosen.has(name));
    for (const name of wider) {
      if (chosen.size * 3 > mostNodes) truncated = true;
      else chosen.add(name);
    }
    ring = wider;
  }

  for (const name of chosen) {
    const known = snapshot.byName.get(name);
    if (known === undefined) continue;
    const { credential, item } = known;
    const id = `credential:${name}`;
    nodes.set(id, {
      ...bare,
      id,
      kind: "credential",
      label: name,
      detail: item.current,
      credential: name,
      state: item.due.state,
    });
    const { issuer } = credential;
    if (issuer.ca === undefined) {
      const issuerId = `issuer:${issuer.place === undefined ? "" : `${name}/${issuer.place}/`}${issuer.system ?? issuer.type}`;
      nodes.set(issuerId, {
        ...bare,
        id: issuerId,
        kind: "issuer",
        label: issuer.system ?? issuer.type,
        detail: issuer.type,
      });
      link(issuerId, id, "issues", "issues");
    } else {
      const caId = `credential:${issuer.ca}`;
      const ca = snapshot.byName.get(issuer.ca);
      if (!nodes.has(caId))
        nodes.set(caId, {
          ...bare,
          id: caId,
          kind: "credential",
          label: issuer.ca,
          credential: ca !== undefined && mayRead(ca.item.owner) ? issuer.ca : null,
          state: ca !== undefined && mayRead(ca.item.owner) ? ca.item.due.state : null,
        });
      link(caId, id, "issues", "signs");
    }
    addPlaces(known);
    for (const data of credential.data ?? []) {
      const dataId = `data:${name}/${data.name}`;
      nodes.set(dataId, { ...bare, id: dataId, kind: "data", label: data.name, credential: name });
      link(id, dataId, "encrypts", `written under ${data.writtenUnder}`);
    }
  }
  const all = [...nodes.values()];
  const kept = all.slice(0, mostNodes);
  const ids = new Set(kept.map((node) => node.id));
  return {
    focus: `credential:${focus.item.credential}`,
    depth,
    nodes: kept,
    edges: [...edges.values()].filter((edge) => ids.has(edge.from) && ids.has(edge.to)),
    truncated: truncated || kept.length < all.length,
  };

  function addPlaces({ credential, item }: Known): void {
    const id = `credential:${credential.name}`;
    const rows = snapshot.observations.get(credential.name) ?? [];
    // Places of one type and role that are many stand for each other, unless one of them is out of step or was not seen.
    const groups = Map.groupBy(credential.places, (place) => `${place.type} ${place.traits.roles.join("+")}`);
    for (const places of groups.values()) {
      const odd = (name: string): boolean =>
        item.outOfStep.some((each) => each.place === name) || item.unseen.some((each) => each.place === name);
      const folded = places.length > foldFrom ? places.filter((place) => !odd(place.name)) : [];
      for (const place of places) {
        if (folded.length > 1 && folded.includes(place)) continue;
        const placeId = `place:${credential.name}/${place.name}`;
        const seen = rows.find((row) => row.place === place.name);
        const looked = seen !== undefined && seen.observation !== null && seen.error === null;
        nodes.set(placeId, {
          ...bare,
          id: placeId,
          kind: "place",
          label: place.name,
          detail: place.type,
          credential: place.credential ?? credential.name,
          place: place.name,
          inStep: looked ? !odd(place.name) : null,
          roles: [...place.traits.roles],
        });
        connect(credential, placeId, place.traits.roles);
        if (place.system !== undefined) {
          const systemId = `system:${place.system}`;
          nodes.set(systemId, { ...bare, id: systemId, kind: "system", label: place.system });
          link(placeId, systemId, "on", "is on");
        }
        for (const verifier of place.presentsTo)
          link(placeId, `place:${credential.name}/${verifier}`, "presents", "presents it to");
        if (place.credential !== undefined) link(placeId, `credential:${place.credential}`, "holds", "is");
      }
      if (folded.length > 1) {
        const { type, traits } = folded[0]!;
        const foldId = `fold:${credential.name}/${type}/${traits.roles.join("+")}`;
        nodes.set(foldId, {
          ...bare,
          id: foldId,
          kind: "fold",
          label: `${folded.length} × ${type}`,
          credential: credential.name,
          inStep: folded.every((place) => rows.some((row) => row.place === place.name && row.observation !== null))
            ? true
            : null,
          roles: [...traits.roles],
          members: folded.map((place) => place.name),
        });
        connect(credential, foldId, traits.roles);
      }
    }

    function connect(_: CredentialDecl, placeId: string, roles: readonly string[]): void {
      if (roles.includes("holder")) link(id, placeId, "holds", "is held by");
      if (roles.includes("verifier")) link(id, placeId, "trusts", "is trusted by");
      if (roles.includes("issuer")) link(placeId, id, "issues", "issues");
    }
  }
}

/** Credentials that touch: signed by each other, inside each other, or on one system. */
function neighbours(snapshot: Snapshot, mayRead: (owner: string) => boolean): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>();
  const join = (a: string, b: string): void => {
    if (a === b) return;
    for (const [x, y] of [
      [a, b],
      [b, a],
    ] as const) {
      const set = found.get(x) ?? new Set();
      set.add(y);
      found.set(x, set);
    }
  };
  const readable = (name: string): boolean => {
    const known = snapshot.byName.get(name);
    return known !== undefined && mayRead(known.item.owner);
  };
  const bySystem = new Map<string, string[]>();
  for (const { credential, item, systems } of snapshot.list) {
    if (!mayRead(item.owner)) continue;
    const { ca } = credential.issuer;
    if (ca !== undefined && readable(ca)) join(credential.name, ca);
    for (const place of credential.places)
      if (place.credential !== undefined && readable(place.credential)) join(credential.name, place.credential);
    for (const system of systems) {
      const there = bySystem.get(system) ?? [];
      // Through a system with very many credentials nothing is near.
      if (there.length < 20) for (const other of there) join(credential.name, other);
      bySystem.set(system, [...there, credential.name]);
    }
  }
  return found;
}
