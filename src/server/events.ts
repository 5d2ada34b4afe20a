/**
 * One stream of server-sent events for all browsers, fed by the journal. The journal is numbered without gaps and in the order of its commits,
 * so that a number is all a client needs to go on where it stopped. A client that does not read is let go; it costs the others nothing.
 */
import type { ServerResponse } from "node:http";
import type { App } from "../app.ts";
import type { JournalRow } from "../store/store.ts";
import { allows, type Principal } from "./access.ts";
import { Fault } from "./fault.ts";
import { mayReadRecord } from "./handlers.ts";
import type { ServerEvent } from "./schema.ts";
import type { Snapshots } from "./snapshot.ts";
import { iso } from "./views.ts";
import { textOf } from "./words.ts";

export interface EventsOptions {
  readonly pollMs?: number;
  readonly heartbeatMs?: number;
  /** Bytes that may wait for a slow client. */
  readonly bufferBytes?: number;
  readonly mostClients?: number;
  readonly mostPerPerson?: number;
}
export interface Events {
  /** `after`: the last number that the client has; `null`: from now on. `again`: whether it may still read, asked with every heartbeat. */
  stream(
    who: Principal,
    after: number | null,
    again: () => Promise<Principal | undefined>,
    outgoing: ServerResponse | null,
  ): Promise<ReadableStream<Uint8Array>>;
  readonly clients: number;
  readonly dropped: number;
  stop(): void;
}

interface Client {
  who: Principal;
  /** Everything up to this number was sent or is not for it. */
  seq: number;
  readonly again: () => Promise<Principal | undefined>;
  send(bytes: Uint8Array): void;
  close(): void;
}

/** A client that missed more than this asks for everything again instead. */
const mostMissed = 1000;
const encoder = new TextEncoder();

export function openEvents(app: App, snapshots: Snapshots, options: EventsOptions = {}): Events {
  const {
    pollMs = 300,
    heartbeatMs = 15_000,
    bufferBytes = 256 * 1024,
    mostClients = 1000,
    mostPerPerson = 50,
  } = options;
  const clients = new Set<Client>();
  let timer: NodeJS.Timeout | null = null;
  let heart: NodeJS.Timeout | null = null;
  let stopped = false;
  let revision = -1;
  let dropped = 0;

  const bytesOf = (event: ServerEvent): Uint8Array =>
    encoder.encode(`id: ${event.seq}\ndata: ${JSON.stringify(event)}\n\n`);
  const eventOf = (row: JournalRow): ServerEvent => ({
    type: "journal",
    seq: row.seq,
    at: iso(row.atMs),
    kind: row.kind,
    rotation: row.rotation,
    credential: row.credential,
    text: textOf(row),
  });
  const readable = (who: Principal) => (owner: string) => allows(who, "read", owner);

  async function tick(): Promise<void> {
    const { store } = await app.openStoreOnly();
    const from = Math.min(...[...clients].map((client) => client.seq));
    const rows = await store.journal.page(from, 500);
    if (rows.length > 0) snapshots.expire();
    const snapshot = await snapshots.get();
    // Made once, however many read it.
    const made = new Map<number, Uint8Array>();
    for (const client of clients) {
      const may = readable(client.who);
      for (const row of rows) {
        if (row.seq <= client.seq) continue;
        client.seq = row.seq;
        if (!mayReadRecord(row, snapshot.owners, may)) continue;
        let bytes = made.get(row.seq);
        if (bytes === undefined) made.set(row.seq, (bytes = bytesOf(eventOf(row))));
        client.send(bytes);
      }
    }
    if (snapshot.revision !== revision) {
      revision = snapshot.revision;
      for (const client of clients)
        client.send(bytesOf({ type: "credentials", seq: client.seq, at: iso(snapshot.atMs) }));
    }
  }

  function schedule(): void {
    if (stopped || clients.size === 0 || timer !== null) return;
    timer = setTimeout(() => {
      void tick()
        .catch((error: unknown) => app.log.warn("live events wait for the database", { error: String(error) }))
        .finally(() => {
          timer = null;
          schedule();
        });
    }, pollMs);
    heart ??= setInterval(beat, heartbeatMs);
  }

  function beat(): void {
    if (clients.size === 0 && heart !== null) {
      clearInterval(heart);
      heart = null;
      return;
    }
    const bytes = encoder.encode(": alive\n\n");
    for (const client of clients) {
      client.send(bytes);
      void client
        .again()
        .then((who) => {
          // Signed out, locked out or over: nothing more goes out.
          if (who === undefined) client.close();
          else client.who = who;
        })
        .catch(() => {
          // The database is away for a moment: nothing is read from it either, so nothing can leak.
        });
    }
  }

  return {
    get clients() {
      return clients.size;
    },
    get dropped() {
      return dropped;
    },
    async stream(who, after, again, outgoing) {
      const mine = [...clients].filter((client) => client.who.person.person === who.person.person).length;
      if (stopped || clients.size >= mostClients || mine >= mostPerPerson)
        throw new Fault(429, "too-many", "Too many event streams are open.", { headers: { "retry-after": "10" } });
      const { store } = await app.openStoreOnly();
      const head = (await store.journal.head()).seq;
      const missed = after === null ? 0 : head - after;
      // From the future: it was another journal, restored from a backup since.
      const resync = missed < 0 || missed > mostMissed;
      let client: Client;
      return new ReadableStream<Uint8Array>(
        {
          start(controller) {
            client = {
              who,
              seq: after === null || resync ? head : after,
              again,
              send(bytes) {
                if (!clients.has(client)) return;
                if ((controller.desiredSize ?? 0) > 0) controller.enqueue(bytes);
                else {
                  dropped++;
                  client.close();
                  // It does not read, so it would not notice the end of the stream either.
                  outgoing?.destroy();
                }
              },
              close() {
                if (!clients.delete(client)) return;
                try {
                  controller.close();
                } catch {
                  // The other side has closed it already.
                }
              },
            };
            clients.add(client);
            const at = new Date(app.now()).toISOString();
            controller.enqueue(encoder.encode("retry: 3000\n\n"));
            // Closes the gap between what the page has read and the first event.
            client.send(
              bytesOf(resync ? { type: "resync", seq: head, at } : { type: "credentials", seq: client.seq, at }),
            );
            schedule();
          },
          cancel() {
            clients.delete(client);
          },
        },
        new ByteLengthQueuingStrategy({ highWaterMark: bufferBytes }),
      );
    },
    stop() {
      stopped = true;
      if (timer !== null) clearTimeout(timer);
      if (heart !== null) clearInterval(heart);
      for (const client of clients) client.close();
    },
  };
}
