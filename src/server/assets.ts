/** The built dashboard, kept in memory: what is served is what was there at the start, found by exact name, so that no path can leave it. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createHash } from "node:crypto";
import { extname, join, relative, sep } from "node:path";
import { gzipSync } from "node:zlib";

export interface Asset {
  readonly type: string;
  readonly body: Buffer;
  /** Where it is worth it. */
  readonly gzip: Buffer | null;
  readonly etag: string;
  /** Its name has a hash of its content. */
  readonly immutable: boolean;
}

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json; charset=utf-8",
  ".webmanifest": "application/manifest+json; charset=utf-8",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
  ".txt": "text/plain; charset=utf-8",
  ".wasm": "application/wasm",
};

export function asset(name: string, body: Buffer): Asset {
  const type = types[extname(name)] ?? "application/octet-stream";
  const gzip = /text|json|svg|javascript|manifest/.test(type) && body.length > 1024 ? gzipSync(body) : null;
  return {
    type,
    body,
    gzip,
    etag: `"${createHash("sha256").update(body).digest("base64url").slice(0, 22)}"`,
    immutable: /^assets\/.*[-.][A-Za-z0-9_-]{8,}\.\w+$/.test(name),
  };
}

/** By name with slashes, such as `assets/index-4f2c91ab.js`. `null`: there is no dashboard in this build. */
export function loadAssets(folder: string): ReadonlyMap<string, Asset> | null {
  if (statSync(join(folder, "index.html"), { throwIfNoEntry: false })?.isFile() !== true) return null;
  const found = new Map<string, Asset>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || entry.name.endsWith(".map")) continue;
    const path = join(entry.parentPath, entry.name);
    const name = relative(folder, path).split(sep).join("/");
    found.set(name, asset(name, readFileSync(path)));
  }
  return found;
}

/** The page with the base path in it, so that one build works wherever it is hung. */
export function withBase(html: Buffer, base: string): Buffer {
  const text = html.toString("utf8");
  const tag = `<base href="${base}/">`;
  return Buffer.from(/<base\s/i.test(text) ? text : text.replace(/<head[^>]*>/i, (head) => `${head}${tag}`));
}
