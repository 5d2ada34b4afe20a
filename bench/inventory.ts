/** An inventory of 1,000,000 versions in the embedded store: how fast it is taken in, and how long the two questions take that it is there for. */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore } from "../src/store/open.ts";
import type { InventoryItem } from "../src/store/store.ts";
import type { Frame } from "./frame.ts";

export const name = "inventory";

const total = 1_000_000;
const part = 100_000;
const rounds = 6;
const dayMs = 86_400_000;
const nowMs = Date.UTC(2027, 0, 15);
const owners = 200;

const fingerprintOf = (n: number): string => createHash("sha256").update(`version ${n}`).digest("hex");

/** Ten copies of every version on average, over 500 machines; ends of life spread over two years. */
function* items(from: number, count: number): Generator<InventoryItem> {
  for (let n = from; n < from + count; n++) {
    const version = Math.floor(n / 10);
    const fingerprint = fingerprintOf(version);
    yield {
      fingerprint,
      publicKey: fingerprint,
      source: `host-${n % 500}`,
      path: `/etc/ssl/private/${n}.pem`,
      kind: "certificate",
      owner: `team-${version % owners}`,
      notAfterMs: nowMs + (version % 730) * dayMs,
      facts: { subject: `CN=service-${version}.example.test`, issuer: "CN=Example CA", algorithm: "EC P-256" },
    };
  }
}

export async function run(frame: Frame): Promise<void> {
  const dataDir = mkdtempSync(join(tmpdir(), "keyroll-bench-"));
  try {
    const store = await openStore({ dataDir, databaseUrl: null });
    try {
      frame.say(`importing the first ${total - rounds * part} rows`);
      await store.inventory.import(items(0, total - rounds * part));
      let at = total - rounds * part;
      await frame.compare({
        title: `import into an inventory that grows to ${total} rows`,
        metric: "rowsPerSecond",
        better: "larger",
        contenders: [
          {
            name: `${part} new rows`,
            async run() {
              const began = performance.now();
              const { added } = await store.inventory.import(items(at, part));
              const wallMs = performance.now() - began;
              if (added !== part) throw new Error(`${added} of ${part} rows were new`);
              at += part;
              return { rowsPerSecond: part / (wallMs / 1000), wallMs };
            },
          },
        ],
        notes: ["On one connection, each row with its index entries, made durable by the database."],
      });
      const count = await store.inventory.count();
      if (count !== total) throw new Error(`the inventory has ${count} rows, not ${total}`);
      let turn = 0;
      await frame.compare({
        title: `questions to ${total} rows`,
        metric: "wallMs",
        repeats: 25,
        contenders: [
          {
            name: "what expires in 35 days, by owner",
            async run() {
              const began = performance.now();
              const rows = await store.inventory.expiring({
                afterMs: nowMs,
                beforeMs: nowMs + 35 * dayMs,
                owner: `team-${turn++ % owners}`,
              });
              const wallMs = performance.now() - began;
              if (rows.length === 0) throw new Error("nothing expires, which cannot be");
              return { wallMs, rows: rows.length };
            },
          },
          {
            name: "copies of one fingerprint",
            async run() {
              const fingerprint = fingerprintOf((turn++ * 7919) % (total / 10));
              const began = performance.now();
              const rows = await store.inventory.copies(fingerprint);
              const wallMs = performance.now() - began;
              if (rows.length !== 10) throw new Error(`${rows.length} copies, not 10`);
              return { wallMs, rows: rows.length };
            },
          },
        ],
        notes: ["Each time another owner and another fingerprint. The ratio only says how the two compare."],
      });
    } finally {
      await store.close();
    }
  } finally {
    rmSync(dataDir, { recursive: true, force: true });
  }
}
