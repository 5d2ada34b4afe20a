/**
 * `/metrics` for Prometheus. The names follow cert-manager (`…_expiration_timestamp_seconds`) and x509-certificate-exporter (one series per
 * certificate, times as Unix seconds), so that rules and dashboards written for those need little change.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";
import { rotationStatuses } from "./schema.ts";
import type { App } from "../app.ts";
import type { Events } from "./events.ts";
import { needsPerson } from "./overview.ts";
import type { Snapshots } from "./snapshot.ts";

export interface Metrics {
  text(): Promise<string>;
  readonly contentType: string;
  request(operation: string, status: number, seconds: number): void;
}

export function openMetrics(app: App, snapshots: Snapshots, events: Events): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const gauge = (name: string, help: string, labelNames: readonly string[] = []): Gauge =>
    new Gauge({ name: `keyroll_${name}`, help, labelNames: [...labelNames], registers: [registry] });
  const per = ["credential", "owner", "kind"] as const;
  const expiration = gauge("credential_expiration_timestamp_seconds", "When the version in use expires.", per);
  const lastStart = gauge(
    "credential_last_safe_start_timestamp_seconds",
    "The last moment at which a rotation still ends before the expiry.",
    per,
  );
  const startBy = gauge("credential_start_by_timestamp_seconds", "When policy wants a rotation started.", per);
  const seen = gauge("credential_last_seen_timestamp_seconds", "The oldest look at any of its places; 0: never.", per);
  const apart = gauge("credential_copies_out_of_step", "Copies that differ from the version in use.", per);
  const unseen = gauge("credential_places_unseen", "Places whose last look failed or that were never seen.", per);
  const state = gauge("credential_state", "1 for the state that it is in.", [...per, "state"]);
  const rotations = gauge("rotations", "Rotations that are not over, by status.", ["status"]);
  const waiting = gauge("rotations_waiting_for_person", "Rotations that wait for an approval or a decision.");
  const tasks = gauge("tasks_open", "Tasks that wait for a person.");
  const oldestTask = gauge("task_oldest_open_timestamp_seconds", "When the oldest open task was opened; 0: none.");
  const workers = gauge("workers", "Workers that were alive a moment ago.");
  const records = gauge("journal_records", "Records of the journal.");
  const streams = gauge("event_streams", "Open event streams.");
  const droppedStreams = gauge("event_streams_dropped", "Event streams that were let go because nobody read them.");
  const snapshotAt = gauge("snapshot_timestamp_seconds", "When these numbers were true.");
  const requests = new Counter({
    name: "keyroll_http_requests_total",
    help: "Requests by operation and status.",
    labelNames: ["operation", "status"],
    registers: [registry],
  });
  const durations = new Histogram({
    name: "keyroll_http_request_duration_seconds",
    help: "How long they took.",
    labelNames: ["operation"],
    buckets: [0.005, 0.02, 0.1, 0.5, 2, 10],
    registers: [registry],
  });

  return {
    contentType: registry.contentType,
    request(operation, status, seconds) {
      requests.inc({ operation, status: String(status) });
      durations.observe({ operation }, seconds);
    },
    async text() {
      const snapshot = await snapshots.get();
      const { store } = await app.openStoreOnly();
      // What is gone from the estate must not stay.
      for (const each of [expiration, lastStart, startBy, seen, apart, unseen, state]) each.reset();
      for (const { item } of snapshot.list) {
        if (item.model) continue;
        const labels = { credential: item.credential, owner: item.owner, kind: item.kind };
        if (item.notAfterMs !== null) expiration.set(labels, item.notAfterMs / 1000);
        if (item.due.lastSafeStartMs !== null) lastStart.set(labels, item.due.lastSafeStartMs / 1000);
        if (item.due.startByMs !== null) startBy.set(labels, item.due.startByMs / 1000);
        seen.set(labels, (item.seenAtMs ?? 0) / 1000);
        apart.set(labels, item.outOfStep.length);
        unseen.set(labels, item.unseen.length);
        state.set({ ...labels, state: item.due.state }, 1);
      }
      for (const status of rotationStatuses.slice(0, 4))
        rotations.set({ status }, snapshot.active.filter((row) => row.status === status).length);
      waiting.set(snapshot.active.filter(needsPerson).length);
      tasks.set(snapshot.openTasks.length);
      oldestTask.set(
        snapshot.openTasks.length === 0 ? 0 : Math.min(...snapshot.openTasks.map((task) => task.createdAtMs)) / 1000,
      );
      workers.set((await app.workers()).length);
      records.set((await store.journal.head()).seq);
      streams.set(events.clients);
      droppedStreams.set(events.dropped);
      snapshotAt.set(snapshot.atMs / 1000);
      return await registry.metrics();
    },
  };
}
