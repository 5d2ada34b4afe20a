/**
 * What every section of the estate is read with: the checks against schemas, the values from outside, and everything that is found to be wrong,
 * each with its place in the file.
 */
import type { z } from "zod";
import type { IssuerConnector, PlaceConnector } from "../connectors/connector.ts";
import type { Registry } from "../connectors/registry.ts";
import type { Traits } from "../core/place.ts";
import { findings, kindOf } from "./issues.ts";
import { jsonSchemaOf } from "./json-schema.ts";
import { joinPath, Problems } from "./problem.ts";
import type { EstateProblem, Position } from "./problem.ts";
import { readSettings } from "./settings.ts";
import type { ConfiguredType } from "./settings.ts";
import { isTreeMap, Positions } from "./source.ts";
import type { Files, SourceFile, Tree, TreeMap } from "./source.ts";
import { refersOutside } from "./substitute.ts";

export type Path = readonly (string | number)[];

/** A value, and where it stands: `path` leads to it from the top of the file. */
export interface Spot {
  readonly file: SourceFile;
  readonly path: Path;
}

export function below(spot: Spot, ...path: Path): Spot {
  return { file: spot.file, path: [...spot.path, ...path] };
}

export class Reading {
  readonly registry: Registry;
  readonly problems = new Problems();
  readonly positions = new Positions();
  /** Files behind `${file:…}`. */
  readonly referred = new Set<string>();
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #files: Files;
  readonly #notes = new Problems();
  /** Values that look like secrets and stand in the file itself. */
  readonly #plainSecrets = new Set<string>();

  constructor(registry: Registry, env: Readonly<Record<string, string | undefined>>, files: Files) {
    this.registry = registry;
    this.#env = env;
    this.#files = files;
  }

  /** What is allowed and probably not meant. */
  get notes(): readonly EstateProblem[] {
    return this.#notes.sorted();
  }

  /** The connector's settings, resolved and judged. `undefined`: something is wrong, and noted. */
  async config(
    connector: ConfiguredType,
    raw: TreeMap,
    commonKeys: readonly string[],
    spot: Spot,
  ): Promise<{ readonly value: unknown } | undefined> {
    const result = await readSettings(connector, raw, commonKeys, {
      env: this.#env,
      files: {
        read: async (path, maxBytes) => {
          this.referred.add(path);
          return this.#files.read(path, maxBytes);
        },
      },
      folder: spot.file.folder,
    });
    if ("value" in result) return result;
    for (const { path, text, aboutKey } of result.wrong) this.problem(spot, path, text, aboutKey ? "key" : "value");
    return undefined;
  }

  traits(connector: PlaceConnector | IssuerConnector, config: unknown, spot: Spot): Traits | undefined {
    try {
      return connector.traits(config);
    } catch {
      this.problem(
        spot,
        [],
        `the connector ${connector.type} could not tell its traits from these settings; this is a mistake in the connector: please report it`,
      );
      return undefined;
    }
  }

  /** Checks against a schema of ours. Everything it finds is noted. */
  check<T>(schema: z.ZodType<T>, value: Tree, spot: Spot, alsoKnown: readonly string[] = []): T | undefined {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    for (const finding of findings(result.error.issues, value, jsonSchemaOf(schema), alsoKnown)) {
      this.problem(spot, finding.path, finding.text, finding.aboutKey ? "key" : "value");
    }
    return undefined;
  }

  /** The same key by key, so that one wrong key does not hide what the others say. `right`: there was nothing wrong. */
  checkEach<S extends z.ZodRawShape>(
    schema: z.ZodObject<S>,
    value: TreeMap,
    spot: Spot,
  ): { readonly value: Partial<z.output<z.ZodObject<S>>>; readonly right: boolean } {
    const whole = this.check(schema, value, spot);
    if (whole !== undefined) return { value: whole, right: true };
    const usable: Record<string, unknown> = {};
    for (const [key, part] of Object.entries<z.core.$ZodType>(schema.shape)) {
      const result = (part as z.ZodType).safeParse(value[key]);
      if (result.success) usable[key] = result.data;
    }
    return { value: usable as Partial<z.output<z.ZodObject<S>>>, right: false };
  }

  isMap(raw: Tree, spot: Spot, what: string): raw is TreeMap {
    if (isTreeMap(raw)) return true;
    const is = kindOf(raw);
    this.problem(spot, [], `is ${is === "empty" ? is : `${is} where a map is expected`}; write ${what}`);
    return false;
  }

  refuseReferences(tree: Tree, spot: Spot, path: Path = []): void {
    if (typeof tree === "string") {
      if (refersOutside(tree)) {
        this.problem(
          spot,
          path,
          "cannot come from the environment or a file; only the settings of systems, places and issuers can",
        );
      }
      return;
    }
    if (typeof tree !== "object" || tree === null) return;
    for (const [key, each] of Object.entries(tree))
      this.refuseReferences(each, spot, [...path, Array.isArray(tree) ? Number(key) : key]);
  }

  /**
   * The settings as written, for records and pages. A secret that somebody wrote into the file in plain text is blotted out, and a note says so.
   * @param anyDepth also below the first level, where the settings of places have maps from the parts of a value to names of keys.
   */
  declared(tree: Tree, spot: Spot, anyDepth: boolean, path: Path = []): Tree {
    if (typeof tree === "string") {
      const key = String(path.at(-1) ?? "");
      const named =
        path.length > 0 &&
        (anyDepth || path.length === 1) &&
        /(password|passphrase|passwd|secret|token|api_?key|access_?key|private_?key|pin)$/i.test(key);
      const inUrl = /^[a-z][a-z0-9+.-]*:\/\/[^/\s:@]*:([^/\s@${}]+)@/i.exec(tree)?.[1];
      if (tree === "" || refersOutside(tree) || tree.includes("${") || !(named || inUrl !== undefined)) return tree;
      this.#plainSecrets.add(inUrl ?? tree);
      this.note(spot, path, "is a secret in plain text; put it into ${env:NAME} or ${file:path}");
      return inUrl === undefined ? "[secret]" : tree.replace(`:${inUrl}@`, ":[secret]@");
    }
    if (Array.isArray(tree)) return tree.map((each, index) => this.declared(each, spot, anyDepth, [...path, index]));
    if (isTreeMap(tree))
      return Object.fromEntries(
        Object.entries(tree).map(([key, each]) => [key, this.declared(each, spot, anyDepth, [...path, key])]),
      );
    return tree;
  }

  blot(text: string): string {
    let blotted = text;
    for (const secret of [...this.#plainSecrets].sort((a, b) => b.length - a.length))
      blotted = blotted.replaceAll(secret, "[secret]");
    return blotted;
  }

  problem(spot: Spot, path: Path, text: string, which: "key" | "value" = "value"): void {
    // The reader of the file has said what is wrong there.
    if (this.positions.wasRefused(spot.file.tree, [...spot.path, ...path])) return;
    this.problems.add(this.#position(spot, path, which), joinPath([...spot.path, ...path]), text);
  }

  note(spot: Spot, path: Path, text: string): void {
    this.#notes.add(this.#position(spot, path, "key"), joinPath([...spot.path, ...path]), text);
  }

  source(spot: Spot): string {
    const { file, line } = this.#position(spot, [], "key");
    return `${file}:${line}`;
  }

  #position(spot: Spot, path: Path, which: "key" | "value"): Position {
    const found = this.positions.locate(spot.file.tree, [...spot.path, ...path], which);
    return found.line === 0 ? { file: spot.file.shown, line: 1, col: 1 } : found;
  }
}
