/**
 * One stream of events for the whole page. An event says what changed, and the queries about it are asked again; how the stream stands is told
 * to the reader, with the last event that came.
 */
import { useSyncExternalStore } from "react";
import { client, queries } from "./api.ts";
import { eventTypes, parseEvent } from "./event.ts";

export interface Live {
  readonly state: "connecting" | "open" | "lost";
  readonly lastSeq: number | null;
  readonly lastAtMs: number | null;
}

let current: Live = { state: "connecting", lastSeq: null, lastAtMs: null };
const listeners = new Set<() => void>();
let source: EventSource | null = null;
let again: ReturnType<typeof setTimeout> | undefined;
let retryMs = 1000;

function set(patch: Partial<Live>): void {
  current = { ...current, ...patch };
  for (const listener of listeners) listener();
}

/** Pages of a list that are asked for again by themselves; of a longer one its reader is told that there is something newer. */
const mostPages = 5;
export function isLong(data: unknown): boolean {
  const pages = (data as { readonly pages?: unknown } | null | undefined)?.pages;
  return Array.isArray(pages) && pages.length > mostPages;
}

const wanted = new Set<string>();
let flushing: ReturnType<typeof setTimeout> | undefined;
/** Many events in a moment are one question. */
function ask(...names: readonly string[]): void {
  for (const name of names) wanted.add(name);
  flushing ??= setTimeout(() => {
    flushing = undefined;
    const names = [...wanted];
    wanted.clear();
    for (const name of names)
      void queries.invalidateQueries({
        ...(name === "*" ? {} : { queryKey: [name] }),
        predicate: (query) => !isLong(query.state.data),
      });
  }, 400);
}

function take(data: string): void {
  const event = parseEvent(data);
  if (event === null) return;
  set({ state: "open", lastSeq: event.seq, lastAtMs: Date.parse(event.at) });
  if (event.type === "resync") ask("*");
  else if (event.type === "credentials") ask("getOverview", "listCredentials", "getCredential", "getSettings");
  else {
    ask("getOverview", "listCredentials", "getCredential", "listRotations", "listAudit");
    if (event.rotation !== null) ask("getRotation", "listTasks", "getTask");
    if (event.kind === "estate") ask("getSettings", "planRotation");
    if (event.kind === "person") ask("getSession", "listPeople", "listTokens");
  }
}

export function openLive(): void {
  if (source !== null) return;
  clearTimeout(again);
  const query = current.lastSeq === null ? {} : { query: { after: current.lastSeq } };
  const opened = new EventSource(client.url("streamEvents", query));
  source = opened;
  opened.addEventListener("open", () => {
    retryMs = 1000;
    const wasLost = current.state === "lost";
    set({ state: "open" });
    // What happened meanwhile comes as events; looks that make none do not.
    if (wasLost) ask("*");
  });
  for (const type of ["message", ...eventTypes])
    opened.addEventListener(type, (event) => take(String((event as MessageEvent).data)));
  opened.addEventListener("error", () => {
    set({ state: "lost" });
    if (opened.readyState !== EventSource.CLOSED) return;
    // The browser has given up: the server refused, or a proxy answered for it.
    source = null;
    void queries.invalidateQueries({ queryKey: ["getSession"] });
    again = setTimeout(openLive, retryMs);
    retryMs = Math.min(2 * retryMs, 30_000);
  });
}

export function closeLive(): void {
  clearTimeout(again);
  source?.close();
  source = null;
  current = { state: "connecting", lastSeq: null, lastAtMs: null };
}

export function useLive(): Live {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => current,
  );
}
