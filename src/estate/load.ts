/**
 * `keyroll.yaml` and what it includes, as the pure {@link Estate} of core. All that is wrong is said at once, each with its place in the file;
 * nothing else is ever thrown.
 */
import { stringify } from "yaml";
import type { Registry } from "../connectors/registry.ts";
import type { Estate, EstateSettings, SystemDecl } from "../core/place.ts";
import { credentialSection } from "./credentials.ts";
import type { CredentialDraft } from "./credentials.ts";
import { digestOf } from "./digest.ts";
import { checkLinks, checkSignIns, finishHolders } from "./links.ts";
import { quoted } from "./problem.ts";
import type { EstateProblem } from "./problem.ts";
import { Reading } from "./reading.ts";
import { expandRecipes } from "./recipes/expand.ts";
import type { Spot } from "./reading.ts";
import { fileShape, isName, nameRule, settingsOf } from "./schema.ts";
import type { DefaultsInput } from "./schema.ts";
import { withSignIns } from "./sign-in.ts";
import { isTreeMap, nodeFiles, pick, readSources } from "./source.ts";
import type { Files, SourceFile, Tree } from "./source.ts";
import { systemSection } from "./systems.ts";

export interface LoadOptions {
  readonly registry: Registry;
  /** For `${env:NAME}`; usually `process.env`. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Default: the disk. */
  readonly files?: Files;
}

export interface LoadedEstate {
  readonly estate: Estate;
  /** Absolute paths of the files it was read from, the first one first; then those behind `${file:…}`, whose texts are in no record. */
  readonly files: readonly string[];
  /** What is allowed and probably not meant, formatted like an error. */
  readonly notes: readonly EstateProblem[];
  /** All files as written, references in place and plain secrets blotted out: what may be kept as a record. */
  readonly text: string;
  /** The credentials as YAML with every recipe expanded, in the same way fit to be shown. */
  readonly expanded: string;
}

/** Reads, checks and resolves an estate. Throws {@link EstateError} with everything that is wrong, and nothing else. */
export async function loadEstate(path: string, options: LoadOptions): Promise<LoadedEstate> {
  const disk = options.files ?? nodeFiles;
  const reading = new Reading(options.registry, options.env, disk);
  const first = await readSources(path, disk, reading.problems, reading.positions);
  if (first === null) {
    reading.problems.throwIfAny();
    throw new Error("A file that could not be read must leave a problem.");
  }
  const { systems, credentials, files, settings } = gather(reading, first);
  const systemDecls = new Map<string, { readonly type: string | undefined; readonly decl: SystemDecl | undefined }>();
  for (const [name, { spot, raw }] of systems)
    systemDecls.set(name, await systemSection(reading, name, raw, spot, [...credentials.keys()]));
  const used = new Set<string>();
  const drafts: CredentialDraft[] = [];
  for (const [name, { spot, raw, defaults }] of credentials) {
    drafts.push(await credentialSection(reading, name, raw, spot, defaults, systemDecls, used));
  }
  checkLinks(reading, drafts);
  checkSignIns(
    reading,
    drafts,
    [...systems].map(([name, { spot }]) => ({ name, spot, signIn: systemDecls.get(name)?.decl?.signIn })),
  );
  for (const [name, { spot }] of systems) {
    if (!used.has(name)) reading.note(spot, [], "is used by no place and no issuer");
  }
  if (systems.size === 0 && credentials.size === 0)
    reading.note({ file: first, path: [] }, [], "declares nothing yet; add systems and credentials");
  reading.problems.throwIfAny();

  const systemList = [...systemDecls.values()].flatMap(({ decl }) => (decl === undefined ? [] : [decl]));
  const credentialList = drafts.flatMap(({ decl }) => (decl === undefined ? [] : [decl]));
  const estate = {
    systems: systemList,
    credentials: finishHolders(withSignIns(credentialList, systemList)),
    ...(settings === undefined ? {} : { settings }),
  };
  const raws = { systems, credentials };
  return {
    estate: { ...estate, digest: digestOf(estate, raws) },
    files: [...new Set([...files.map((file) => file.path), ...reading.referred])],
    notes: reading.notes,
    expanded: reading.blot(
      stringify(
        { credentials: Object.fromEntries([...credentials].map(([name, { raw }]) => [name, raw])) },
        { lineWidth: 0, aliasDuplicateObjects: false },
      ),
    ),
    text: reading.blot(files.map((file) => (file === first ? file.text : `\n# ${file.shown}\n${file.text}`)).join("")),
  };
}

interface Gathered {
  readonly systems: ReadonlyMap<string, { readonly spot: Spot; readonly raw: Tree }>;
  readonly credentials: ReadonlyMap<
    string,
    { readonly spot: Spot; readonly raw: Tree; readonly defaults: readonly DefaultsInput[] }
  >;
  readonly files: readonly SourceFile[];
  readonly settings: EstateSettings | undefined;
}

/** All systems and credentials of all files, as they are written, each credential with the defaults that reach it. */
function gather(reading: Reading, first: SourceFile): Gathered {
  const systems = new Map<string, { readonly spot: Spot; readonly raw: Tree }>();
  const credentials = new Map<
    string,
    { readonly spot: Spot; readonly raw: Tree; readonly defaults: readonly DefaultsInput[] }
  >();
  const files: SourceFile[] = [];
  let settings: EstateSettings | undefined;

  const visit = (read: SourceFile, inherited: readonly DefaultsInput[]): void => {
    files.push(read);
    const file = expandRecipes(read, reading.positions, reading.problems);
    const top: Spot = { file, path: [] };
    reading.refuseReferences(pick(file.tree, ["version", "settings", "defaults"]), top);
    const { value: parsed } = reading.checkEach(fileShape, file.tree, top);
    if (read === first) {
      if (file.tree["version"] === undefined) reading.problem(top, ["version"], "is missing; write version: 1");
      const given = settingsOf(parsed.settings);
      settings = { requestLifeMs: given.requestLife, observeEveryMs: given.observeEvery };
    } else if (file.tree["settings"] !== undefined) {
      reading.problem(top, ["settings"], `belongs into the first file; move it to ${first.shown}`, "key");
    }
    const defaults = parsed.defaults === undefined ? inherited : [...inherited, parsed.defaults];
    const collect = <T>(
      key: "systems" | "credentials",
      into: Map<string, T & { readonly spot: Spot }>,
      make: (spot: Spot, raw: Tree) => T & { readonly spot: Spot },
    ) => {
      const found = file.tree[key];
      if (!isTreeMap(found)) return;
      for (const [name, raw] of Object.entries(found)) {
        const spot: Spot = { file, path: [key, name] };
        if (!isName(name)) reading.problem(spot, [], `${quoted(name)} is not a name; ${nameRule}`, "key");
        const before = into.get(name);
        if (before === undefined) into.set(name, make(spot, raw));
        else reading.problem(spot, [], `is declared twice; the other one is at ${reading.source(before.spot)}`, "key");
      }
    };
    collect("systems", systems, (spot, raw) => ({ spot, raw }));
    collect("credentials", credentials, (spot, raw) => ({ spot, raw, defaults }));
    for (const included of file.includes) visit(included, defaults);
  };
  visit(first, []);
  return { systems, credentials, files, settings };
}

/** The estate without the connectors' resolved settings: what may be stored, sent to a browser and compared. */
export function publicEstate(estate: Estate): Estate {
  return {
    ...estate,
    systems: estate.systems.map((system) => ({ ...system, config: system.declared ?? {} })),
    credentials: estate.credentials.map((credential) => ({
      ...credential,
      issuer: { ...credential.issuer, config: credential.issuer.declared ?? {} },
      places: credential.places.map((place) => ({ ...place, config: place.declared ?? {} })),
    })),
  };
}
