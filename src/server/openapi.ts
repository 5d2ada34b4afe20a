/** The OpenAPI 3.1 document, made of the same schemas that validate, and a page that shows it without any script. */
import { z } from "zod";
import { access } from "./access.ts";
import { operationNames, operations } from "./operations.ts";
import { contractOf, problem } from "./schema.ts";

type JsonObject = { readonly [key: string]: unknown };

export interface OpenApi {
  readonly openapi: string;
  readonly info: JsonObject;
  readonly servers: readonly JsonObject[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, JsonObject>>>>;
  readonly components: JsonObject;
  readonly security: readonly JsonObject[];
}

const schemaOf = (schema: z.ZodType, io: "input" | "output"): JsonObject => {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { target: "draft-2020-12", io, unrepresentable: "any" });
  return rest;
};

const codes: Readonly<Record<string, string>> = {
  "400": "Not as the schema says.",
  "401": "Not signed in.",
  "403": "Signed in, and not permitted.",
  "404": "Not there, or not readable for this person.",
  "409": "Not now: the detail says why.",
  "413": "More than 1 MB.",
  "429": "Too often.",
  "503": "The store or a system is away for now.",
};

export function openApi(options: { readonly version: string; readonly publicUrl: string }): OpenApi {
  const paths: Record<string, Record<string, JsonObject>> = {};
  for (const name of operationNames) {
    const [method, path] = operations[name];
    const contract = contractOf(name);
    const rule = access[name];
    const parameters = (["params", "query"] as const).flatMap((part) => {
      const schema = contract[part] === undefined ? null : schemaOf(contract[part], "input");
      const required = (schema?.["required"] ?? []) as readonly string[];
      return Object.entries((schema?.["properties"] ?? {}) as JsonObject).map(([key, value]) => ({
        name: key,
        in: part === "params" ? "path" : "query",
        required: part === "params" || required.includes(key),
        schema: value,
      }));
    });
    if (method !== "GET")
      parameters.push({
        name: "Idempotency-Key",
        in: "header",
        required: false,
        schema: { type: "string", maxLength: 200, description: "The same key is done once, for a day." },
      });
    const refusals = Object.entries(codes).filter(
      ([code]) => !(rule.who === "anybody" && (code === "401" || code === "403")),
    );
    (paths[path] ??= {})[method.toLowerCase()] = {
      operationId: name,
      summary: contract.summary,
      description:
        rule.who === "anybody"
          ? "Open to anybody."
          : rule.who === "signed-in"
            ? `For whoever is signed in${rule.session ? " in a browser" : ""}.`
            : `Needs \`${rule.permission}\` ${rule.about === "installation" ? "for all owners" : rule.about === "listed" ? "; what may not be read is left out" : "for the owner of the credential"}.`,
      ...(rule.who === "anybody" ? { security: [] } : {}),
      ...(parameters.length === 0 ? {} : { parameters }),
      ...(contract.body === undefined
        ? {}
        : {
            requestBody: {
              required: true,
              content: { "application/json": { schema: schemaOf(contract.body, "input") } },
            },
          }),
      responses: {
        "200": {
          description: "Done.",
          content: { [contract.media ?? "application/json"]: { schema: schemaOf(contract.response, "output") } },
        },
        ...Object.fromEntries(
          refusals.map(([code, description]) => [
            code,
            {
              description,
              content: { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } },
            },
          ]),
        ),
      },
    };
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Keyroll",
      version: options.version,
      description:
        "Rolls any credential everywhere it is held and trusted, in an order that is proved safe before the first step runs. Times are ISO 8601 in UTC, lengths are milliseconds. No secret value is in any answer.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: options.publicUrl }],
    paths,
    components: {
      schemas: { Problem: schemaOf(problem, "output") },
      securitySchemes: {
        token: { type: "http", scheme: "bearer", description: "An API token." },
        session: {
          type: "apiKey",
          in: "cookie",
          name: "keyroll",
          description: "A browser's session. Writes also need the header `X-Keyroll: 1`.",
        },
      },
    },
    security: [{ token: [] }, { session: [] }],
  };
}

const escape = (text: string): string => text.replace(/[&<>"']/g, (char) => `&#${char.codePointAt(0)};`);
const prose = (text: string): string => escape(text).replaceAll(/`([^`]*)`/g, "<code>$1</code>");

export function referencePage(document: OpenApi): string {
  const rows = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => {
      const parameters = (operation["parameters"] ?? []) as readonly { name: string; in: string; required: boolean }[];
      const body = operation["requestBody"] as { content: { "application/json": { schema: JsonObject } } } | undefined;
      const answer = (operation["responses"] as { "200": { content: Readonly<Record<string, { schema: unknown }>> } })[
        "200"
      ];
      const [media, { schema }] = Object.entries(answer.content)[0]!;
      return `<section id="${escape(String(operation["operationId"]))}"><h2><b>${method.toUpperCase()}</b> ${escape(path)}</h2>
<p>${prose(String(operation["summary"]))}. ${prose(String(operation["description"]))}</p>
${parameters.length === 0 ? "" : `<p>Parameters: ${parameters.map((each) => `<code>${escape(each.name)}</code> (${each.in}${each.required ? ", required" : ""})`).join(", ")}</p>`}
${body === undefined ? "" : `<details><summary>Body</summary><pre>${escape(JSON.stringify(body.content["application/json"].schema, null, 2))}</pre></details>`}
<details><summary>Answer, ${escape(media)}</summary><pre>${escape(JSON.stringify(schema, null, 2))}</pre></details></section>`;
    }),
  );
  return page(
    "API",
    `<h1>Keyroll API ${escape(String(document.info["version"]))}</h1>
<p>${prose(String(document.info["description"]))} The document for machines is <a href="openapi.json">openapi.json</a>. Errors are RFC 9457 problems. Send an API token as <code>Authorization: Bearer</code>.</p>
${rows.join("\n")}`,
    "plain.css",
  );
}

/** A page of the server's own; `style` and `script` are addresses relative to it. */
export function page(title: string, body: string, style: string, script?: string): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${escape(title)} – Keyroll</title><link rel="stylesheet" href="${style}">${script === undefined ? "" : `<script src="${script}" defer></script>`}</head>
<body><main>${body}</main></body></html>
`;
}

export const plainCss = `:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{margin:0}main{max-width:52rem;margin:0 auto;padding:2rem 1rem}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1rem;font-family:ui-monospace,monospace;overflow-wrap:anywhere;margin:2rem 0 .25rem}p{margin:.25rem 0 .75rem}
pre{overflow:auto;padding:.75rem;border:1px solid color-mix(in srgb,currentColor 25%,transparent);border-radius:.5rem;font-size:.8rem}code{font-family:ui-monospace,monospace}
button,input{font:inherit;padding:.6rem .9rem;min-height:2.75rem;box-sizing:border-box}input{width:100%;max-width:30rem;display:block;margin:.25rem 0 .75rem}summary{cursor:pointer;padding:.25rem 0}
[role=alert]:not(:empty){border-left:.25rem solid #c0362c;padding:.5rem .75rem;margin:1rem 0}`;

/** The code is behind `#`, which browsers never send: it stands in no log of a server or proxy. */
export const signInJs = `const form = document.querySelector("form");
const code = document.querySelector("#code");
const told = document.querySelector("[role=alert]");
const given = location.hash.slice(1);
if (given !== "") {
  history.replaceState(null, "", location.pathname + location.search);
  code.value = given;
}
async function signIn() {
  told.textContent = "";
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const response = await fetch("api/v1/session", {
      method: "POST",
      headers: { "content-type": "application/json", "x-keyroll": "1" },
      body: JSON.stringify({ code: code.value.trim().replace(/^.*#/, "") }),
    });
    if (response.ok) {
      const next = new URLSearchParams(location.search).get("next") ?? "";
      // Only a path of this server: never another site.
      const home = new URL("./", location.href);
      const target = new URL(next.replace(/^\\/+/, ""), home);
      location.replace(target.origin === home.origin && target.pathname.startsWith(home.pathname) ? target : home);
      return;
    }
    const problem = await response.json();
    told.textContent = problem.detail + (problem.next ? " " + problem.next : "");
  } catch {
    told.textContent = "The server does not answer. Try again in a moment.";
  }
  button.disabled = false;
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  void signIn();
});
if (given !== "") void signIn();
`;

export const signInBody = `<h1>Sign in to Keyroll</h1>
<p>Open the sign-in link that you were given, or paste it or its code here. A link works once.</p>
<form><label for="code">Link or code</label><input id="code" name="code" autocomplete="one-time-code" spellcheck="false" required>
<button>Sign in</button></form><p role="alert"></p>
<p>No link? On the server's machine: <code>keyroll sign-in</code>. Otherwise ask an admin of Keyroll for one.</p>`;
export const homeBody = `<h1>Keyroll is running</h1>
<p>The dashboard is not part of this build. The command line has everything, and so has <a href="api">the API</a>.</p>
<p><a href="sign-in">Sign in</a></p>`;
