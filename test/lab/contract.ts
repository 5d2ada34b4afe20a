/**
 * Holds an answer against the vendor's published contract: the operation exists, the status is one of its own, every field is one that the contract knows,
 * and has its type. The contracts (OpenAPI 2.0, and Graph's CSDL) are not part of the project; tests that need them are skipped where they are missing.
 */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

export const specsFolder = path.resolve(import.meta.dirname, "../../../shared/specs");
export const haveSpecs = existsSync(path.join(specsFolder, "arm-and-dataplane"));
export const whySkipped = "the published contracts are not in ../shared/specs beside the repository";

type Node = Record<string, unknown>;
const isNode = (value: unknown): value is Node => value !== null && typeof value === "object" && !Array.isArray(value);
const nodeOf = (value: unknown): Node => (isNode(value) ? value : {});

const root = path.join(specsFolder, "arm-and-dataplane/specification");
export const contractFiles = {
  secrets: "keyvault/data-plane/Microsoft.KeyVault/stable/7.5/secrets.json",
  certificates: "keyvault/data-plane/Microsoft.KeyVault/stable/7.5/certificates.json",
  connections: "web/resource-manager/Microsoft.Web/stable/2016-06-01/logicAppsManagementClient.json",
  variables: "automation/resource-manager/Microsoft.Automation/stable/2023-11-01/variable.json",
  resources: "resources/resource-manager/Microsoft.Resources/stable/2024-03-01/resources.json",
  provisioning: "deviceprovisioningservices/data-plane/Microsoft.Devices/stable/2021-10-01/service.json",
  provisioningArm: "deviceprovisioningservices/resource-manager/Microsoft.Devices/stable/2022-12-12/iotdps.json",
  fabric: "servicefabric/data-plane/Microsoft.ServiceFabric/stable/8.2/servicefabric.json",
} as const;
export type ContractName = keyof typeof contractFiles;

interface Place {
  readonly file: string;
  readonly node: Node;
}
const loaded = new Map<string, Node | null>();
function load(file: string): Node | null {
  if (!loaded.has(file)) loaded.set(file, existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Node) : null);
  return loaded.get(file) ?? null;
}
/** `null`: it points into a file that was not saved, which then says nothing. */
function resolve(place: Place): Place | null {
  const ref = place.node["$ref"];
  if (typeof ref !== "string") return place;
  const [file = "", pointer = ""] = ref.split("#");
  const target = file === "" ? place.file : path.resolve(path.dirname(place.file), file);
  let node: unknown = load(target);
  for (const part of pointer.split("/").filter((each) => each !== "")) node = nodeOf(node)[part];
  return isNode(node) ? resolve({ file: target, node }) : null;
}

/** All properties of a schema with those it is made of; `null`: part of it is not known here, so that any field may be one of them. */
function propertiesOf(place: Place): { all: Map<string, Place>; whole: boolean; free: Place | boolean } {
  const all = new Map<string, Place>();
  let whole = true;
  let free: Place | boolean = false;
  for (const part of (place.node["allOf"] as Node[] | undefined) ?? []) {
    const target = resolve({ file: place.file, node: part });
    if (target === null) {
      whole = false;
      continue;
    }
    const inner = propertiesOf(target);
    whole &&= inner.whole;
    free ||= inner.free;
    for (const [name, each] of inner.all) all.set(name, each);
  }
  for (const [name, node] of Object.entries(nodeOf(place.node["properties"])))
    all.set(name, { file: place.file, node: nodeOf(node) });
  const extra = place.node["additionalProperties"];
  if (isNode(extra)) free = { file: place.file, node: extra };
  else if (extra === true) free = true;
  return { all, whole, free };
}

function check(value: unknown, schema: Place, at: string, wrong: string[]): void {
  const place = resolve(schema);
  if (place === null) return;
  const { node } = place;
  // The contracts say nothing of null; their examples use it for what is not there.
  if (value === null) return;
  const type = node["type"];
  if (type === "array" || node["items"] !== undefined) {
    if (!Array.isArray(value)) wrong.push(`${at} is no array`);
    else
      value.forEach((each, index) =>
        check(each, { file: place.file, node: nodeOf(node["items"]) }, `${at}[${index}]`, wrong),
      );
    return;
  }
  const { all, whole, free } = propertiesOf(place);
  // An object of which nothing is said stands for any value in these contracts, such as what a device's twin holds.
  if (type === "object" && all.size === 0 && whole && free === false) return;
  if (type === "object" || all.size > 0 || !whole) {
    if (!isNode(value)) {
      wrong.push(`${at} is no object`);
      return;
    }
    for (const [name, each] of Object.entries(value)) {
      const known = all.get(name);
      if (known) check(each, known, `${at}.${name}`, wrong);
      else if (typeof free === "object") check(each, free, `${at}.${name}`, wrong);
      else if (free === false && whole && all.size > 0) wrong.push(`${at}.${name} is not in the contract`);
    }
    for (const name of (node["required"] as string[] | undefined) ?? [])
      if (value[name] === undefined) wrong.push(`${at}.${name} is missing`);
    return;
  }
  if (type === "string") {
    if (typeof value !== "string") wrong.push(`${at} is no text`);
    else if (node["format"] === "date-time" && Number.isNaN(Date.parse(value)))
      wrong.push(`${at} is no date: ${value}`);
    else if (
      Array.isArray(node["enum"]) &&
      nodeOf(node["x-ms-enum"])["modelAsString"] !== true &&
      !node["enum"].includes(value)
    )
      wrong.push(`${at} is none of ${node["enum"].join(", ")}: ${value}`);
  }
  if (type === "integer" && !Number.isInteger(value)) wrong.push(`${at} is no whole number`);
  if (type === "boolean" && typeof value !== "boolean") wrong.push(`${at} is neither true nor false`);
}

function operationOf(file: string, method: string, where: string): { operation: Node; template: string } | null {
  const paths = nodeOf(load(file)?.["paths"]);
  const candidates = Object.keys(paths).filter((template) =>
    new RegExp(`^${template.replace(/[.$]/g, "\\$&").replace(/\{[^}]+\}/g, "[^/]*")}$`, "i").test(where),
  );
  // The one with the fewest placeholders is the one that is meant.
  const template = candidates.sort((a, b) => a.split("{").length - b.split("{").length)[0];
  const operation = template === undefined ? undefined : nodeOf(paths[template])[method.toLowerCase()];
  return isNode(operation) ? { operation, template: template! } : null;
}

/** What is wrong with this answer, one line each. `where`: the path of the request, without its query. */
export function contradictions(
  contract: ContractName,
  method: string,
  where: string,
  status: number,
  body: unknown,
): string[] {
  const file = path.join(root, contractFiles[contract]);
  const found = operationOf(file, method, where);
  if (found === null) return [`${method} ${where} is no operation of the contract`];
  const responses = nodeOf(found.operation["responses"]);
  const response = responses[String(status)] ?? (status >= 400 ? responses["default"] : undefined);
  // Some contracts leave errors out altogether.
  if (response === undefined && status >= 400 && responses["default"] === undefined) return [];
  if (response === undefined) return [`${method} ${found.template} never answers ${status}`];
  const schema = nodeOf(response)["schema"];
  const wrong: string[] = [];
  if (isNode(schema)) check(body, { file, node: schema }, "body", wrong);
  return wrong;
}

export interface Example {
  readonly parameters: Node;
  readonly responses: Readonly<Record<string, { readonly body?: unknown; readonly headers?: unknown }>>;
}
export function exampleOf(contract: ContractName, name: string): Example {
  return JSON.parse(
    readFileSync(path.join(root, path.dirname(contractFiles[contract]), "examples", name), "utf8"),
  ) as Example;
}

/** Every field that the example has and the answer does not, as a path. Lists are compared by their first entries. */
export function fieldsMissing(example: unknown, answer: unknown, at = "body"): string[] {
  if (Array.isArray(example)) {
    if (!Array.isArray(answer)) return [`${at} is no array`];
    return example.length === 0 || answer.length === 0 ? [] : fieldsMissing(example[0], answer[0], `${at}[0]`);
  }
  if (!isNode(example)) return [];
  if (!isNode(answer)) return [`${at} is no object`];
  return Object.entries(example).flatMap(([name, value]) =>
    answer[name] === undefined ? [`${at}.${name}`] : fieldsMissing(value, answer[name], `${at}.${name}`),
  );
}

// Graph: CSDL.

let csdl: string | undefined;
function csdlProperties(type: string): Map<string, string> {
  csdl ??= readFileSync(path.join(specsFolder, "msgraph/cleanMetadata.v1.0.xml"), "utf8");
  const found = new RegExp(`<(EntityType|ComplexType) Name="${type}"([^>]*)>([\\s\\S]*?)</\\1>`).exec(csdl);
  if (found === null) throw new Error(`${type} is not in the metadata`);
  const base = /BaseType="(?:microsoft\.)?graph\.(\w+)"/.exec(found[2]!)?.[1];
  const all = base === undefined ? new Map<string, string>() : csdlProperties(base);
  for (const [, name, of] of found[3]!.matchAll(/<(?:Navigation)?Property Name="(\w+)" Type="([^"]+)"/g))
    all.set(name!, of!);
  return all;
}
/** What is wrong with an object of Graph, by its type's name in the metadata. Annotations (`@odata…`) are left out. */
export function graphContradictions(type: string, value: unknown, at = type): string[] {
  if (!isNode(value)) return [`${at} is no object`];
  const properties = csdlProperties(type);
  return Object.entries(value).flatMap(([name, each]) => {
    if (name.includes("@")) return [];
    const of = properties.get(name);
    if (of === undefined) return [`${at}.${name} is not in the metadata`];
    return graphValue(of, each, `${at}.${name}`);
  });
}
function graphValue(of: string, value: unknown, at: string): string[] {
  if (value === null) return [];
  const list = /^Collection\((.+)\)$/.exec(of)?.[1];
  if (list !== undefined)
    return Array.isArray(value)
      ? value.flatMap((each, index) => graphValue(list, each, `${at}[${index}]`))
      : [`${at} is no collection`];
  if (/^(?:microsoft\.)?graph\./.test(of))
    return isNode(value) ? graphContradictions(of.split(".").at(-1)!, value, at) : [];
  const good = {
    "Edm.String": typeof value === "string",
    "Edm.Binary": typeof value === "string" && /^[A-Za-z0-9+/=_-]*$/.test(value),
    "Edm.Guid": typeof value === "string" && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value),
    "Edm.DateTimeOffset": typeof value === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(value),
    "Edm.Boolean": typeof value === "boolean",
    "Edm.Int32": Number.isInteger(value),
  }[of];
  return good === false ? [`${at} is no ${of}: ${String(value)}`] : [];
}
