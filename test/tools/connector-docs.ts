/**
 * Writes docs/connectors.md from the registry: `node test/tools/connector-docs.ts`. With `--check` it writes nothing and fails where the file is stale,
 * so that the list can never say something else than the code.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import type { IssuerConnector, PlaceConnector } from "../../src/connectors/connector.ts";
import { shippedRegistry } from "../../src/connectors/registry.ts";

const root = path.resolve(import.meta.dirname, "../..");
const target = path.join(root, "docs/connectors.md");
const folder = path.join(root, "src/connectors");

/** The page that names the type. */
function pageOf(type: string): string | null {
  const own = type.split(".")[0]!;
  // A folder of its own name first: other pages may mention the type in passing.
  for (const name of [own, ...readdirSync(folder).toSorted()]) {
    const page = path.join(folder, name, "README.md");
    if (existsSync(page) && readFileSync(page, "utf8").includes(`\`${type}\``))
      return `../src/connectors/${name}/README.md`;
  }
  return null;
}

interface Property {
  readonly description?: string;
  readonly default?: unknown;
}
/** The settings, from the schema that also checks them. */
function settings(connector: Pick<PlaceConnector | IssuerConnector, "config">): string[] {
  const schema = z.toJSONSchema(connector.config, { io: "input", unrepresentable: "any" }) as {
    properties?: Record<string, Property>;
    required?: string[];
  };
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const fallback = property.default === undefined ? "" : ` Default: \`${JSON.stringify(property.default)}\`.`;
    return `| \`${name}\`${schema.required?.includes(name) ? " *" : ""} | ${(property.description ?? "").replaceAll("|", "\\|").replaceAll("\n", " ")}${fallback} |`;
  });
  return rows.length === 0 ? [] : ["", "| setting | meaning |", "|---|---|", ...rows];
}

function section(connector: PlaceConnector | IssuerConnector): string[] {
  const page = pageOf(connector.type);
  const roles =
    connector.family === "issuer" ? "issuer" : connector.roles.length === 0 ? "watches" : connector.roles.join(", ");
  return [
    `### \`${connector.type}\``,
    "",
    `${connector.title}. **${roles}**${connector.systemType ? `, on a system of type \`${connector.systemType}\`` : ""}.${page ? ` [Its page](${page}).` : ""}`,
    ...(connector.permissions.length > 0
      ? ["", "Needs:", ...connector.permissions.map((permission) => `- ${permission}`)]
      : []),
    ...settings(connector),
    "",
  ];
}

const registry = shippedRegistry();
const text = `${[
  "# Connectors",
  "",
  "Generated from the registry by `npm run docs`; `npm run check` fails when it is stale. A star marks a setting that is needed. What every place has besides (`verifier`, `holder`, `presentsTo`, `refresh`, …) is in [estate.md](estate.md).",
  "",
  "## Issuers",
  "",
  ...registry.issuers.flatMap(section),
  "## Places",
  "",
  ...registry.places.flatMap(section),
  "## Systems",
  "",
  ...registry.systems.flatMap((system) => [`### \`${system.type}\``, "", `${system.title}.`, ...settings(system), ""]),
]
  .join("\n")
  .trimEnd()}\n`;

if (process.argv.includes("--check")) {
  if (!existsSync(target) || readFileSync(target, "utf8") !== text) {
    process.stderr.write("docs/connectors.md is stale. Next: npm run docs\n");
    process.exit(1);
  }
} else writeFileSync(target, text);
