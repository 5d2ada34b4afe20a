/** House rules as an ordinary test: who may import whom, and what may stand nowhere. docs/architecture.md explains the table. */
import { readdirSync, readFileSync, statSync, existsSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { shippedRegistry } from "../src/connectors/registry.ts";

const root = path.resolve(import.meta.dirname, "..");
const source = path.join(root, "src");

function filesBelow(folder: string, keep: (name: string) => boolean): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder).flatMap((name) => {
    if (name === "node_modules" || name === "dist") return [];
    const full = path.join(folder, name);
    return statSync(full).isDirectory() ? filesBelow(full, keep) : keep(full) ? [full] : [];
  });
}
const allTypes = (): string[] => {
  const registry = shippedRegistry();
  return [...registry.places, ...registry.issuers].map((connector) => connector.type);
};
const isSource = (file: string) => /\.tsx?$/.test(file);
const isTest = (file: string) => /\.test\.tsx?$/.test(file);
const relative = (file: string) => path.relative(source, file).split(path.sep).join("/");

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}
function importsOf(file: string): Import[] {
  const text = readFileSync(file, "utf8");
  const found: Import[] = [];
  const pattern =
    /(?:^|\n)\s*(?:import|export)\s+(type\s+)?[^;"']*?from\s+["']([^"']+)["']|import\(\s*["']([^"']+)["']\s*\)|(?:^|\n)\s*import\s+["']([^"']+)["']/g;
  for (const match of text.matchAll(pattern)) {
    const to = match[2] ?? match[3] ?? match[4]!;
    found.push({ from: file, to, typeOnly: match[1] !== undefined });
  }
  return found;
}

/** Room of a file below src: its first folder, with connectors told apart. */
function roomOf(file: string): string {
  const parts = relative(file).split("/");
  if (parts.length === 1) return parts[0]!;
  if (parts[0] === "connectors" && parts.length > 2) return `connectors/${parts[1]}`;
  if (parts[0] === "connectors") return `connectors/${parts[1]}`;
  return parts[0]!;
}

const contract = ["connectors/connector.ts", "connectors/secret.ts"];
/** Which rooms each room may import, beside itself. */
const allowed: Record<string, readonly string[]> = {
  core: [],
  estate: ["core", ...contract, "connectors/registry.ts", "connectors/shared"],
  store: ["core"],
  engine: ["core", "store", ...contract],
  discovery: ["core", "store", ...contract, "connectors/shared"],
  server: ["core", "estate", "store", "engine", "discovery", "app.ts", "connectors/connector.ts"],
  // A browser gets shapes and words, and nothing that could carry a secret or a driver.
  web: [],
  cli: [
    "core",
    "app.ts",
    "server",
    "estate",
    "engine",
    "store",
    "discovery",
    "connectors/registry.ts",
    "connectors/shared",
    "demo",
    "lab",
    ...contract,
  ],
  demo: ["core", "app.ts", "engine", "store", "estate", "connectors/shared", "connectors/x509", ...contract],
  // The emulation shares nothing with the connectors that are tried against it: one mistake must not cancel itself.
  lab: ["core"],
  "app.ts": ["core", "estate", "store", "engine", "discovery", "connectors/registry.ts", "server", ...contract],
  "connectors/connector.ts": ["core", "connectors/secret.ts"],
  "connectors/secret.ts": [],
  "connectors/shared": ["core", ...contract],
  "connectors/connector.contract.ts": ["core", "connectors/shared", ...contract],
};
/** Single files that a room may import of rooms that are otherwise closed to it. */
const allowedFiles: Record<string, readonly string[]> = {
  web: [
    "server/schema.ts",
    "server/client.ts",
    "server/operations.ts",
    "core/explain.ts",
    "core/words.ts",
    "core/time.ts",
  ],
};
function allowedFor(room: string): readonly string[] | null {
  if (room === "connectors/registry.ts") return null;
  if (allowed[room]) return allowed[room];
  if (room.startsWith("connectors/")) return ["core", "connectors/shared", ...contract];
  return [];
}

const sources = filesBelow(source, isSource).filter((file) => !isTest(file));

describe("the house", () => {
  it("has imports only along the table", () => {
    const wrong: string[] = [];
    for (const file of sources) {
      const room = roomOf(file);
      const may = allowedFor(room);
      for (const { to } of importsOf(file)) {
        if (!to.startsWith(".")) continue;
        const resolved = path.resolve(path.dirname(file), to);
        const target = roomOf(resolved);
        if (target === room || may === null || may.includes(target)) continue;
        if (allowedFiles[room]?.includes(relative(resolved))) continue;
        wrong.push(`${relative(file)} imports ${to} (${room} may not import ${target})`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it("keeps core free of packages, of Node and of the clock", () => {
    const wrong: string[] = [];
    for (const file of sources.filter((x) => roomOf(x) === "core")) {
      for (const { to } of importsOf(file)) if (!to.startsWith("./")) wrong.push(`${relative(file)} imports ${to}`);
      const text = readFileSync(file, "utf8");
      for (const banned of [
        /\bDate\.now\b/,
        /new Date\(\)/,
        /\bMath\.random\b/,
        /\bprocess\.(env|argv|exit|hrtime|stdout|stderr|on|cwd)\b/,
        /\bSecret\b/,
      ])
        if (banned.test(text)) wrong.push(`${relative(file)} uses ${banned.source}`);
    }
    expect(wrong).toEqual([]);
  });

  it("never decides by the name of a connector's type outside its folder", () => {
    const types = allTypes().filter((type) => type.includes("."));
    const wrong: string[] = [];
    for (const file of sources) {
      const room = roomOf(file);
      if (room.startsWith("connectors/") || room === "discovery" || room === "estate" || room === "demo") continue;
      const text = readFileSync(file, "utf8");
      for (const type of types)
        if (new RegExp(`[=!]==\\s*["']${type.replace(".", "\\.")}["']`).test(text))
          wrong.push(`${relative(file)} asks for ${type}`);
    }
    expect(wrong).toEqual([]);
  });

  it("has a page for every connector", () => {
    const missing = allTypes().filter((type) => {
      const folders = readdirSync(path.join(source, "connectors")).filter((name) =>
        existsSync(path.join(source, "connectors", name, "README.md")),
      );
      return !folders.some((name) =>
        readFileSync(path.join(source, "connectors", name, "README.md"), "utf8").includes(`\`${type}\``),
      );
    });
    expect(missing).toEqual([]);
  });

  it("hides no secret in a log call", () => {
    const wrong: string[] = [];
    for (const file of sources) {
      const text = readFileSync(file, "utf8");
      for (const match of text.matchAll(/\blog\.(?:debug|info|warn|error)\(([^;]*)\);/g))
        if (/\.reveal\(|\.bytes\(\)|password|privateKey/.test(match[1]!.replace(/"[^"]*"|`[^`$]*`/g, "")))
          wrong.push(`${relative(file)}: ${match[0].slice(0, 80)}`);
    }
    expect(wrong).toEqual([]);
  });

  it("names no machine's own folders", () => {
    const wrong: string[] = [];
    const everywhere = ["src", "test", "bench", "docs", "bin", ".ci"].flatMap((folder) =>
      filesBelow(path.join(root, folder), (file) => /\.(ts|tsx|js|md|json|css|html|sh)$|run$/.test(file)),
    );
    for (const file of everywhere) {
      if (file === import.meta.filename) continue;
      const text = readFileSync(file, "utf8");
      for (const banned of [/(?<![\w.])\/work\/(main|shared)/, /\/root\/\.(npm|pyenv)/])
        if (banned.test(text)) wrong.push(path.relative(root, file));
    }
    expect(wrong).toEqual([]);
  });
});
