/**
 * `keyroll.yaml` and what it includes, as the pure {@link Estate} of core. All that is wrong is said at once, each with its place in the file;
 * nothing else is ever thrown.
 */
import type { z } from "zod";
import type { IssuerConnector, PlaceConnector } from "../connectors/connector.ts";
import type { Registry } from "../connectors/registry.ts";
import { plainTraits } from "../core/place.ts";
import type {
  CredentialDecl,
  DataDecl,
  Estate,
  EstateSettings,
  IssuerDecl,
  PlaceDecl,
  Policy,
  Role,
  SystemDecl,
  Traits,
} from "../core/place.ts";
import { dayMs, minuteMs } from "../core/time.ts";
import { digestOf } from "./digest.ts";
import { findings, kindOf } from "./issues.ts";
import { joinPath, Problems, quoted, suggestion } from "./problem.ts";
import type { EstateProblem, Position } from "./problem.ts";
import {
  credentialShape,
  fileShape,
  isName,
  issuerCommon,
  jsonSchemaOf,
  modelPlace,
  modelType,
  nameRule,
  placeCommon,
  properties,
  settingsOf,
  systemCommon,
  traitsOfModel,
} from "./schema.ts";
import type { DefaultsInput, PolicyInput } from "./schema.ts";
import { readSettings } from "./settings.ts";
import { withSignIns } from "./sign-in.ts";
import type { ConfiguredType } from "./settings.ts";
import { isTreeMap, nodeFiles, omit, pick, Positions, readSources } from "./source.ts";
import type { Files, SourceFile, Tree, TreeMap } from "./source.ts";
import { refersOutside } from "./substitute.ts";

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
}

/** The type of the place that stands for another credential. */
const credentialType = "credential";

/** CAs above each other, or credentials that hold each other: three or four in life. */
const maxChain = 50;

type Path = readonly (string | number)[];

/** A value, and where it stands: `path` leads to it from the top of the file. */
interface Spot {
  readonly file: SourceFile;
  readonly path: Path;
}

const roleNames: readonly Role[] = ["issuer", "verifier", "holder"];

/** Reads, checks and resolves an estate. Throws {@link EstateError} with everything that is wrong, and nothing else. */
export async function loadEstate(path: string, options: LoadOptions): Promise<LoadedEstate> {
  const loader = new Loader(options);
  return loader.load(path);
}

/** What is known of a place before it is sure that all of it is right: enough to judge what refers to it. */
interface Draft {
  readonly name: string;
  readonly spot: Spot;
  readonly roles: readonly Role[];
  /** Some of its keys could not be read, so silence about roles proves nothing. */
  readonly broken: boolean;
  readonly raw: TreeMap;
  readonly common: z.output<typeof placeCommon> | undefined;
  readonly decl: Omit<PlaceDecl, "presentsTo"> | undefined;
}

interface CredentialDraft {
  readonly name: string;
  readonly spot: Spot;
  readonly kind: string | undefined;
  readonly ca: { readonly name: string; readonly spot: Spot } | undefined;
  readonly holds: readonly { readonly name: string; readonly spot: Spot }[];
  readonly decl: CredentialDecl | undefined;
}

class Loader {
  readonly #options: LoadOptions;
  readonly #files: Files;
  readonly #problems = new Problems();
  readonly #notes = new Problems();
  readonly #positions = new Positions();
  /** Values that look like secrets and stand in the file itself. */
  readonly #plainSecrets = new Set<string>();
  /** Files behind `${file:…}`. */
  readonly #referred = new Set<string>();

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#files = options.files ?? nodeFiles;
  }

  async load(path: string): Promise<LoadedEstate> {
    const first = await readSources(path, this.#files, this.#problems, this.#positions);
    if (first === null) {
      this.#problems.throwIfAny();
      throw new Error("A file that could not be read must leave a problem.");
    }
    const systems = new Map<string, { readonly spot: Spot; readonly raw: Tree }>();
    const credentials = new Map<
      string,
      { readonly spot: Spot; readonly raw: Tree; readonly defaults: readonly DefaultsInput[] }
    >();
    const files: SourceFile[] = [];
    let settings: EstateSettings | undefined;

    const gather = (file: SourceFile, inherited: readonly DefaultsInput[]): void => {
      files.push(file);
      const top: Spot = { file, path: [] };
      this.#refuseReferences(pick(file.tree, ["version", "settings", "defaults"]), top);
      const { value: parsed } = this.#checkEach(fileShape, file.tree, top);
      if (file === first) {
        if (file.tree["version"] === undefined) this.#problem(top, ["version"], "is missing; write version: 1");
        const given = settingsOf(parsed.settings);
        settings = { requestLifeMs: given.requestLife, observeEveryMs: given.observeEvery };
      } else if (file.tree["settings"] !== undefined) {
        this.#problem(top, ["settings"], `belongs into the first file; move it to ${first.shown}`, "key");
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
          if (!isName(name)) this.#problem(spot, [], `${quoted(name)} is not a name; ${nameRule}`, "key");
          const before = into.get(name);
          if (before === undefined) into.set(name, make(spot, raw));
          else this.#problem(spot, [], `is declared twice; the other one is at ${this.#source(before.spot)}`, "key");
        }
      };
      collect("systems", systems, (spot, raw) => ({ spot, raw }));
      collect("credentials", credentials, (spot, raw) => ({ spot, raw, defaults }));
      for (const included of file.includes) gather(included, defaults);
    };
    gather(first, []);

    const systemDecls = new Map<string, { readonly type: string | undefined; readonly decl: SystemDecl | undefined }>();
    for (const [name, { spot, raw }] of systems)
      systemDecls.set(name, await this.#system(name, raw, spot, [...credentials.keys()]));
    const used = new Set<string>();
    const drafts: CredentialDraft[] = [];
    for (const [name, { spot, raw, defaults }] of credentials) {
      drafts.push(await this.#credential(name, raw, spot, defaults, systemDecls, used));
    }
    this.#checkCredentialLinks(drafts);
    this.#checkSignIns(
      drafts,
      [...systems].map(([name, { spot }]) => ({ name, spot, signIn: systemDecls.get(name)?.decl?.signIn })),
    );
    for (const [name, { spot }] of systems) {
      if (!used.has(name)) this.#note(spot, [], "is used by no place and no issuer");
    }
    if (systems.size === 0 && credentials.size === 0)
      this.#note({ file: first, path: [] }, [], "declares nothing yet; add systems and credentials");
    this.#problems.throwIfAny();

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
      files: [...new Set([...files.map((file) => file.path), ...this.#referred])],
      notes: this.#notes.sorted(),
      text: this.#blot(files.map((file) => (file === first ? file.text : `\n# ${file.shown}\n${file.text}`)).join("")),
    };
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Systems

  async #system(
    name: string,
    raw: Tree,
    spot: Spot,
    credentialNames: readonly string[],
  ): Promise<{ type: string | undefined; decl: SystemDecl | undefined }> {
    const nothing = { type: undefined, decl: undefined };
    if (!this.#isMap(raw, spot, "type: and its settings")) return nothing;
    const commonKeys = Object.keys(systemCommon.shape);
    const own = pick(raw, commonKeys);
    this.#refuseReferences(own, spot);
    const { value: common } = this.#checkEach(systemCommon, own, spot);
    const type = typeof raw["type"] === "string" ? raw["type"] : undefined;
    if (common.signIn !== undefined && !credentialNames.includes(common.signIn)) {
      this.#problem(
        spot,
        ["signIn"],
        `${quoted(common.signIn)} is not a credential of this estate${suggestion(common.signIn, credentialNames, "credential")}`,
      );
    }
    if (type === undefined) return nothing;
    const signIn = common.signIn === undefined ? {} : { signIn: common.signIn };
    const declared = this.#declared(omit(raw, commonKeys), spot, true);
    const base = { name, type, declared, ...signIn, source: this.#source(spot) };
    const { registry } = this.#options;
    if (type === modelType) {
      for (const key of Object.keys(raw)) {
        if (!commonKeys.includes(key))
          this.#problem(spot, [key], "is not a known key; a system of type model has none of its own", "key");
      }
      return { type, decl: { ...base, config: {} } };
    }
    const connector = registry.systemType(type);
    if (connector === undefined) {
      this.#problem(
        spot,
        ["type"],
        `${quoted(type)} is not a type of system${suggestion(type, [...registry.systems.map((each) => each.type), modelType], "type of system")}`,
      );
      return nothing;
    }
    if (common.signIn !== undefined && connector.withSignIn === undefined) {
      this.#problem(
        spot,
        ["signIn"],
        `is not possible: Keyroll cannot change its own sign-in to a system of type ${type}; leave it out`,
        "key",
      );
    }
    const config = await this.#config(connector, raw, commonKeys, spot);
    return { type, decl: config === undefined ? undefined : { ...base, config: config.value } };
  }

  /** Checks that a named system is there and of the right type. Returns its name where it is. */
  #systemOf(
    given: string | undefined,
    wanted: string | undefined,
    owner: string,
    spot: Spot,
    systems: ReadonlyMap<string, { readonly type: string | undefined }>,
    used: Set<string>,
  ): string | undefined {
    const fitting = [...systems].flatMap(([name, { type }]) => (wanted === undefined || type === wanted ? [name] : []));
    if (given === undefined) {
      if (wanted !== undefined) {
        const advice =
          fitting.length > 0
            ? `write system: ${fitting.slice(0, 5).join(" or ")}`
            : `declare a system of type ${wanted} under systems, and name it here`;
        this.#problem(spot, ["system"], `is missing; ${owner} needs one of type ${wanted}: ${advice}`);
      }
      return undefined;
    }
    used.add(given);
    const found = systems.get(given);
    if (found === undefined) {
      this.#problem(
        spot,
        ["system"],
        `${quoted(given)} is not a system of this estate${suggestion(given, fitting.length > 0 ? fitting : [...systems.keys()], "system")}`,
      );
      return undefined;
    }
    if (wanted === undefined && owner !== modelType) {
      this.#problem(spot, ["system"], `is not needed: ${owner} is in no system; leave it out`, "key");
      return undefined;
    }
    if (wanted !== undefined && found.type !== undefined && found.type !== wanted) {
      this.#problem(
        spot,
        ["system"],
        `${quoted(given)} is of type ${found.type}, and ${owner} needs one of type ${wanted}${fitting.length > 0 ? `; write ${fitting.slice(0, 5).join(" or ")}` : ""}`,
      );
      return undefined;
    }
    return given;
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Credentials

  async #credential(
    name: string,
    raw: Tree,
    spot: Spot,
    defaults: readonly DefaultsInput[],
    systems: ReadonlyMap<string, { readonly type: string | undefined }>,
    used: Set<string>,
  ): Promise<CredentialDraft> {
    if (!this.#isMap(raw, spot, "kind, owner, issuer and places")) {
      return { name, spot, kind: undefined, ca: undefined, holds: [], decl: undefined };
    }
    this.#refuseReferences(omit(raw, ["issuer", "places"]), spot);
    const before = this.#problems.count;
    const { value: parsed, right } = this.#checkEach(credentialShape, raw, spot);
    const owner = parsed.owner ?? defaults.findLast((each) => each.owner !== undefined)?.owner;
    if (owner === undefined && raw["owner"] === undefined) {
      this.#problem(spot, ["owner"], "is missing; write who looks after it, here or under defaults");
    }
    const drafts: Draft[] = [];
    if (isTreeMap(raw["places"])) {
      for (const [placeName, place] of Object.entries(raw["places"])) {
        drafts.push(await this.#place(placeName, place, below(spot, "places", placeName), systems, used));
      }
    }
    this.#checkRoles(drafts, raw, spot);
    const presentsTo = this.#checkPresentsTo(drafts);
    const data = this.#checkData(parsed.data, drafts, spot);
    const issuer = await this.#issuer(raw["issuer"], drafts, spot, systems, used);
    const holds = drafts.flatMap((draft) =>
      draft.common?.credential === undefined
        ? []
        : [{ name: draft.common.credential, spot: below(draft.spot, "credential") }],
    );
    const caName =
      isTreeMap(raw["issuer"]) && typeof raw["issuer"]["ca"] === "string" ? raw["issuer"]["ca"] : undefined;
    const policy = mergePolicies([...defaults.map((each) => each.policy), parsed.policy]);
    if (parsed.policy?.window !== undefined && parsed.policy.windows !== undefined) {
      this.#problem(spot, ["policy", "window"], "stands beside windows; put all of them into windows", "key");
    }
    const draft = {
      name,
      spot,
      kind: typeof raw["kind"] === "string" ? raw["kind"] : undefined,
      ca: caName === undefined ? undefined : { name: caName, spot: below(spot, "issuer", "ca") },
      holds,
    };
    if (
      !right ||
      parsed.kind === undefined ||
      issuer === undefined ||
      owner === undefined ||
      this.#problems.count > before
    ) {
      return { ...draft, decl: undefined };
    }
    if (policy.rotateBeforeMs === null && policy.maxAgeMs === null) {
      this.#note(
        spot,
        ["policy"],
        "names neither rotateBefore nor maxAge, so it is rotated only when somebody asks, or before it expires",
      );
    }
    const places = drafts.flatMap((each): PlaceDecl[] => {
      if (each.decl === undefined) return [];
      return [{ ...each.decl, presentsTo: presentsTo.get(each.name) ?? [] }];
    });
    const decl: CredentialDecl = {
      name,
      kind: parsed.kind,
      owner,
      labels: Object.assign({}, ...defaults.map((each) => each.labels ?? {}), parsed.labels ?? {}),
      issuer,
      places: places.map((place) => ({
        ...place,
        presentsTo: [
          ...new Set([
            ...place.presentsTo,
            ...data.flatMap((set) => (set.writtenUnder === place.name ? set.readBy : [])),
          ]),
        ],
      })),
      ...(data.length > 0 ? { data } : {}),
      policy,
      source: this.#source(spot),
    };
    return { ...draft, decl };
  }

  async #place(
    name: string,
    raw: Tree,
    spot: Spot,
    systems: ReadonlyMap<string, { readonly type: string | undefined }>,
    used: Set<string>,
  ): Promise<Draft> {
    const broken = (more: Partial<Draft> = {}): Draft => ({
      name,
      spot,
      roles: [],
      broken: true,
      raw: {},
      common: undefined,
      decl: undefined,
      ...more,
    });
    if (!isName(name)) this.#problem(spot, [], `${quoted(name)} is not a name; ${nameRule}`, "key");
    if (!this.#isMap(raw, spot, "type, its roles and its settings")) return broken();
    const commonKeys = Object.keys(placeCommon.shape);
    const own = pick(raw, commonKeys);
    this.#refuseReferences(own, spot);
    const { value: common, right: commonRight } = this.#checkEach(placeCommon, own, spot);
    const flagged = roleNames.filter((role) => raw[role] === true);
    const base = { name, spot, raw, common };
    if (common.credential !== undefined && common.type === undefined) {
      for (const key of Object.keys(raw)) {
        if (!["credential", "holder", "presentsTo", "refresh", "drain"].includes(key)) {
          this.#problem(
            spot,
            [key],
            "is not a known key; a place that is another credential takes holder, presentsTo, refresh and drain",
            "key",
          );
        }
      }
      // Its change is a whole rotation of the other one, whose length is filled in when all are known.
      const traits: Traits = { ...plainTraits, roles: ["holder"], storeCapacity: 1, staging: false, readable: false };
      const decl = {
        name,
        type: credentialType,
        traits: withTimes(traits, common),
        config: {},
        declared: {},
        credential: common.credential,
        source: this.#source(spot),
      };
      return { ...base, roles: ["holder"], broken: !commonRight, decl };
    }
    if (common.credential !== undefined) {
      this.#problem(
        spot,
        ["credential"],
        "stands beside a type; a place is either a connector's or another credential: leave one out",
        "key",
      );
      return broken({ ...base, roles: flagged });
    }
    const { type } = common;
    if (type === undefined) {
      const advice = "write the connector, model, or credential: NAME for a place that is another credential";
      if (commonRight) this.#problem(spot, ["type"], `is missing; ${advice}`);
      return broken({ ...base, roles: flagged });
    }
    const { registry } = this.#options;
    const connector = registry.placeConnector(type);
    let traits: Traits | undefined;
    let config: unknown;
    let roles: readonly Role[];
    let declared: unknown = {};
    let system: string | undefined;
    let right = commonRight;
    if (type === modelType) {
      const rest = omit(raw, commonKeys);
      this.#refuseReferences(rest, spot);
      const model = this.#check(modelPlace, rest, spot, commonKeys);
      roles = flagged;
      system = this.#systemOf(common.system, undefined, modelType, spot, systems, used);
      if (model !== undefined) traits = traitsOfModel(model);
      config = model;
      declared = rest;
    } else if (connector === undefined) {
      this.#unknownPlaceType(type, spot);
      return broken({ ...base, roles: flagged });
    } else {
      declared = this.#declared(omit(raw, commonKeys), spot, false);
      const problemsBefore = this.#problems.count;
      system = this.#systemOf(common.system, connector.systemType, connector.type, spot, systems, used);
      const found = await this.#config(connector, raw, commonKeys, spot);
      if (found !== undefined) {
        config = found.value;
        traits = this.#traits(connector, found.value, spot);
      }
      // Its settings may leave a place fewer roles than its type has: a file is a holder, and a trust bundle is not.
      roles = this.#roles(connector, traits?.roles, raw, flagged, spot);
      right &&= this.#problems.count === problemsBefore;
    }
    const unsure = !commonRight || (traits === undefined && roles.length === 0);
    if (traits === undefined || !right) return { ...base, roles, broken: unsure, decl: undefined };
    const decl = {
      name,
      type,
      ...(system === undefined ? {} : { system }),
      traits: withTimes({ ...traits, roles }, common),
      config,
      declared,
      source: this.#source(spot),
    };
    return { ...base, roles, broken: false, decl };
  }

  #unknownPlaceType(type: string, spot: Spot): void {
    const { registry } = this.#options;
    const known = [...registry.places.map((each) => each.type), modelType];
    const elsewhere =
      registry.issuerConnector(type) !== undefined
        ? "; it makes versions: write it under issuer"
        : registry.systemType(type) !== undefined
          ? `; it is a type of system${suggestion(
              `${type}.`,
              known.filter((each) => each.startsWith(`${type}.`)),
              "place in it",
            )}`
          : suggestion(type, known, "type of place");
    this.#problem(spot, ["type"], `${quoted(type)} is not a type of place${elsewhere}`);
  }

  #roles(
    connector: PlaceConnector,
    settled: readonly Role[] | undefined,
    raw: TreeMap,
    flagged: readonly Role[],
    spot: Spot,
  ): readonly Role[] {
    const { registry } = this.#options;
    const possible = settled ?? connector.roles;
    const able = (role: Role) =>
      possible.includes(role) || (role === "issuer" && registry.issuerConnector(connector.type) !== undefined);
    for (const role of flagged) {
      if (able(role)) continue;
      const can = roleNames.filter(able);
      this.#problem(
        spot,
        [role],
        `${connector.type} cannot be ${article(role)}${connector.roles.includes(role) ? " with these settings" : ""}; ${can.length > 0 ? `write ${can.map((each) => `${each}: true`).join(" or ")}` : "it only watches: leave this out"}`,
        "key",
      );
    }
    if (flagged.length > 0) return flagged.filter(able);
    // Where there is only one thing that it can be, it goes without saying.
    const left = roleNames.filter((role) => able(role) && raw[role] !== false);
    const [only] = left;
    if (only !== undefined && left.length === 1) return [only];
    // With settings that could not be read, more than one role is no mistake of its own.
    if (possible.length === 0 || settled === undefined) return [];
    const can = roleNames.filter(able).map((role) => `${role}: true`);
    this.#problem(spot, [], `has no role; write ${can.join(" or ")}`, "key");
    return [];
  }

  #checkRoles(drafts: readonly Draft[], raw: TreeMap, spot: Spot): void {
    for (const draft of drafts) {
      if (!draft.broken && draft.raw["type"] === modelType && draft.roles.length === 0) {
        this.#problem(draft.spot, [], "has no role; write verifier: true, holder: true or issuer: true", "key");
      }
    }
    const sure = drafts.every((draft) => !draft.broken);
    if (raw["places"] !== undefined && !isTreeMap(raw["places"])) return;
    if (sure && !drafts.some((draft) => draft.roles.includes("verifier") || draft.roles.includes("holder"))) {
      const what = drafts.length === 0 ? "has no places" : "has no place that accepts or holds it";
      this.#problem(
        spot,
        drafts.length === 0 ? [] : ["places"],
        `${what}; add one with verifier: true, and one with holder: true`,
        "key",
      );
    }
    const issuers = drafts.filter((draft) => draft.roles.includes("issuer"));
    for (const draft of issuers.slice(1)) {
      this.#problem(
        draft.spot,
        ["issuer"],
        `${quoted(issuers[0]?.name ?? "")} is the issuer already; a credential has one`,
        "key",
      );
    }
  }

  #checkPresentsTo(drafts: readonly Draft[]): Map<string, readonly string[]> {
    const found = new Map<string, readonly string[]>();
    const verifiers = drafts.filter((draft) => draft.roles.includes("verifier")).map((draft) => draft.name);
    for (const draft of drafts) {
      const given = draft.common?.presentsTo;
      const isHolder = draft.roles.includes("holder");
      if (given === undefined) {
        // Naming nobody must not mean that nobody minds: then the proof would be about nothing.
        found.set(draft.name, isHolder ? verifiers : []);
        continue;
      }
      if (!isHolder && !draft.broken) {
        this.#problem(
          draft.spot,
          ["presentsTo"],
          "belongs to holders only; write holder: true, or leave it out",
          "key",
        );
      }
      const list = Array.isArray(draft.raw["presentsTo"]);
      for (const [index, target] of given.entries())
        this.#verifier(target, drafts, below(draft.spot, "presentsTo", ...(list ? [index] : [])));
      found.set(draft.name, [...new Set(given)]);
    }
    return found;
  }

  /** Checks that a name is a verifier of the same credential. */
  #verifier(target: string, drafts: readonly Draft[], spot: Spot): void {
    const other = drafts.find((each) => each.name === target);
    const verifiers = drafts.filter((each) => each.roles.includes("verifier")).map((each) => each.name);
    if (other === undefined) {
      this.#problem(
        spot,
        [],
        `${quoted(target)} is not a place of this credential${suggestion(target, verifiers.length > 0 ? verifiers : drafts.map((each) => each.name), "verifier")}`,
      );
    } else if (!other.roles.includes("verifier") && !other.broken) {
      this.#problem(
        spot,
        [],
        `${quoted(target)} is not a verifier; write verifier: true there, or name a verifier${suggestion(target, verifiers, "verifier").replace(/; did you mean/, ": did you mean")}`,
      );
    }
  }

  #checkData(data: z.output<typeof credentialShape>["data"], drafts: readonly Draft[], spot: Spot): DataDecl[] {
    const found: DataDecl[] = [];
    for (const [name, set] of Object.entries(data ?? {})) {
      const at = below(spot, "data", name);
      if (!isName(name)) this.#problem(at, [], `${quoted(name)} is not a name; ${nameRule}`, "key");
      const holders = drafts.filter((draft) => draft.roles.includes("holder")).map((draft) => draft.name);
      const holder = drafts.find((draft) => draft.name === set.writtenUnder);
      if (holder === undefined) {
        this.#problem(
          at,
          ["writtenUnder"],
          `${quoted(set.writtenUnder)} is not a place of this credential${suggestion(set.writtenUnder, holders, "holder")}`,
        );
      } else if (!holder.roles.includes("holder") && !holder.broken) {
        this.#problem(
          at,
          ["writtenUnder"],
          `${quoted(set.writtenUnder)} is not a holder; write holder: true there, or name a holder`,
        );
      }
      for (const target of set.readBy) this.#verifier(target, drafts, below(at, "readBy"));
      if (set.readBy.length === 0)
        this.#problem(at, ["readBy"], "is empty; name the verifiers that must read the records");
      found.push({
        name,
        writtenUnder: set.writtenUnder,
        readBy: [...new Set(set.readBy)],
        drainMs: set.takes,
        source: this.#source(at),
      });
    }
    return found;
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Issuers

  async #issuer(
    raw: Tree | undefined,
    drafts: readonly Draft[],
    credential: Spot,
    systems: ReadonlyMap<string, { readonly type: string | undefined }>,
    used: Set<string>,
  ): Promise<IssuerDecl | undefined> {
    const spot = below(credential, "issuer");
    const issuing = drafts.find((draft) => draft.roles.includes("issuer"));
    if (raw === undefined || raw === null) {
      if (issuing === undefined) {
        if (drafts.every((draft) => !draft.broken)) {
          this.#problem(
            spot,
            [],
            "is missing; write issuer: { type: ... }, or issuer: true at the place that makes new versions",
          );
        }
        return undefined;
      }
      return this.#issuerOfPlace(issuing, undefined, spot);
    }
    // Whatever else it is was said when the credential was checked.
    if (!isTreeMap(raw)) return undefined;
    const commonKeys = Object.keys(issuerCommon.shape);
    const own = pick(raw, commonKeys);
    this.#refuseReferences(own, spot);
    const { value: common, right } = this.#checkEach(issuerCommon, own, spot);
    if (!right) return undefined;
    const place = common.place === undefined ? undefined : drafts.find((draft) => draft.name === common.place);
    if (common.place !== undefined && place === undefined) {
      this.#problem(
        spot,
        ["place"],
        `${quoted(common.place)} is not a place of this credential${suggestion(
          common.place,
          drafts.map((draft) => draft.name),
          "place",
        )}`,
      );
      return undefined;
    }
    if (place !== undefined && !place.roles.includes("issuer") && !place.broken) {
      this.#problem(spot, ["place"], `${quoted(place.name)} is not an issuer; write issuer: true there`);
      return undefined;
    }
    if (issuing !== undefined && place === undefined && common.type !== issuing.common?.type) {
      this.#problem(
        spot,
        [],
        `names another issuer than the place ${quoted(issuing.name)}, which has issuer: true; leave one of them out`,
        "key",
      );
      return undefined;
    }
    const at = place ?? issuing;
    const type = common.type ?? at?.common?.type;
    if (type === undefined) {
      this.#problem(spot, ["type"], "is missing; write what makes new versions, such as type: random");
      return undefined;
    }
    if (at?.common?.type !== undefined && type !== at.common.type) {
      this.#problem(
        spot,
        ["type"],
        `${quoted(type)} is not the type of the place ${quoted(at.name)}, which is ${at.common.type}; leave the type out`,
      );
      return undefined;
    }
    const ownKeys = Object.keys(raw).filter((key) => !commonKeys.includes(key));
    if (at !== undefined && ownKeys.length === 0) return this.#issuerOfPlace(at, common.system, spot);
    return this.#issuerOf(type, raw, commonKeys, common, at, spot, systems, used);
  }

  /** The settings of the issuer are those of the place. */
  async #issuerOfPlace(place: Draft, system: string | undefined, spot: Spot): Promise<IssuerDecl | undefined> {
    // The place's own mistakes have been told.
    if (place.decl === undefined) return undefined;
    const { type } = place.decl;
    const at = system ?? place.decl.system;
    const base = {
      type,
      place: place.name,
      ...(at === undefined ? {} : { system: at }),
      declared: place.decl.declared,
      source: this.#source(spot),
    };
    if (type === modelType) return { ...base, traits: place.decl.traits, config: place.decl.config };
    const connector = this.#options.registry.issuerConnector(type);
    if (connector === undefined) return undefined;
    const config = await this.#config(connector, place.raw, Object.keys(placeCommon.shape), place.spot);
    const traits = config === undefined ? undefined : this.#traits(connector, config.value, place.spot);
    return config === undefined || traits === undefined ? undefined : { ...base, traits, config: config.value };
  }

  async #issuerOf(
    type: string,
    raw: TreeMap,
    commonKeys: readonly string[],
    common: z.output<typeof issuerCommon>,
    place: Draft | undefined,
    spot: Spot,
    systems: ReadonlyMap<string, { readonly type: string | undefined }>,
    used: Set<string>,
  ): Promise<IssuerDecl | undefined> {
    const { registry } = this.#options;
    const before = this.#problems.count;
    const base = {
      type,
      ...(common.ca === undefined ? {} : { ca: common.ca }),
      ...(place === undefined ? {} : { place: place.name }),
      source: this.#source(spot),
    };
    if (type === modelType) {
      const rest = omit(raw, commonKeys);
      this.#refuseReferences(rest, spot);
      const model = this.#check(modelPlace, rest, spot, commonKeys);
      const system = this.#systemOf(common.system, undefined, modelType, spot, systems, used);
      if (model === undefined || this.#problems.count > before) return undefined;
      return {
        ...base,
        ...(system === undefined ? {} : { system }),
        traits: { ...traitsOfModel(model), roles: ["issuer"] },
        config: model,
        declared: rest,
      };
    }
    const connector = registry.issuerConnector(type);
    if (connector === undefined) {
      const known = [...registry.issuers.map((each) => each.type), modelType];
      const hint =
        registry.placeConnector(type) === undefined
          ? suggestion(type, known, "issuer")
          : `; it is a type of place, and makes no versions${suggestion(type, known, "issuer")}`;
      this.#problem(spot, ["type"], `${quoted(type)} is not an issuer${hint}`);
      return undefined;
    }
    if (common.ca !== undefined && !Object.hasOwn(properties(jsonSchemaOf(connector.config)), "ca")) {
      this.#problem(spot, ["ca"], `is not a known key; ${type} is signed by nobody`, "key");
    }
    const system = this.#systemOf(
      common.system ?? (connector.systemType === undefined ? undefined : place?.decl?.system),
      connector.systemType,
      connector.type,
      spot,
      systems,
      used,
    );
    const declared = this.#declared(omit(raw, commonKeys), spot, false);
    const config = await this.#config(connector, raw, commonKeys, spot);
    const traits = config === undefined ? undefined : this.#traits(connector, config.value, spot);
    if (config === undefined || traits === undefined || this.#problems.count > before) return undefined;
    return { ...base, ...(system === undefined ? {} : { system }), traits, config: config.value, declared };
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Links between credentials

  #checkCredentialLinks(drafts: readonly CredentialDraft[]): void {
    const byName = new Map(drafts.map((draft) => [draft.name, draft]));
    const names = [...byName.keys()];
    /** From what must be rotated first, or with it, to what follows. */
    const next = new Map<string, { readonly to: string; readonly spot: Spot }[]>();
    const link = (from: string, to: string, spot: Spot) => next.set(from, [...(next.get(from) ?? []), { to, spot }]);
    for (const draft of drafts) {
      if (draft.ca !== undefined) {
        const ca = byName.get(draft.ca.name);
        const cas = drafts.filter((each) => each.kind === "ca").map((each) => each.name);
        if (ca === undefined) {
          this.#problem(
            draft.ca.spot,
            [],
            `${quoted(draft.ca.name)} is not a credential of this estate${suggestion(draft.ca.name, cas.length > 0 ? cas : names, "credential")}`,
          );
        } else if (ca.kind !== undefined && ca.kind !== "ca") {
          this.#problem(
            draft.ca.spot,
            [],
            `${quoted(draft.ca.name)} is of kind ${ca.kind}, and only a ca can sign; write kind: ca there, or name a CA`,
          );
        } else link(draft.ca.name, draft.name, draft.ca.spot);
      }
      for (const held of draft.holds) {
        const other = byName.get(held.name);
        if (other === undefined) {
          this.#problem(
            held.spot,
            [],
            `${quoted(held.name)} is not a credential of this estate${suggestion(held.name, names, "credential")}`,
          );
          continue;
        }
        if (draft.kind === "ca" && other.decl !== undefined && other.ca?.name !== draft.name) {
          this.#problem(
            held.spot,
            [],
            `${quoted(held.name)} is not signed by this CA; write ca: ${draft.name} in its issuer`,
          );
        }
        link(draft.name, held.name, held.spot);
      }
    }
    this.#checkCircles(names, next);
  }

  /** Keyroll's sign-in must be trusted somewhere, or switching it would lock Keyroll out. */
  #checkSignIns(
    drafts: readonly CredentialDraft[],
    systems: readonly { readonly name: string; readonly spot: Spot; readonly signIn: string | undefined }[],
  ): void {
    for (const { name, spot, signIn } of systems) {
      const places = drafts.find((draft) => draft.name === signIn)?.decl?.places;
      if (places === undefined) continue;
      const verifiers = places.filter((place) => place.traits.roles.includes("verifier"));
      if (verifiers.length === 0) {
        this.#problem(
          spot,
          ["signIn"],
          `names ${signIn}, which no place accepts: after its rotation Keyroll could not sign in any more; add the place in ${name} that accepts it`,
        );
      } else if (!verifiers.some((place) => place.system === name)) {
        this.#note(spot, ["signIn"], `names ${signIn}, none of whose verifiers is in ${name}; is it accepted there?`);
      }
    }
  }

  #checkCircles(
    names: readonly string[],
    next: ReadonlyMap<string, readonly { readonly to: string; readonly spot: Spot }[]>,
  ): void {
    const done = new Set<string>();
    for (const start of names) {
      // Depth first with a stack of its own: a chain of a hundred thousand must not end in a stack overflow.
      const path: { readonly name: string; index: number }[] = [];
      const onPath = new Set<string>();
      const enter = (name: string) => {
        path.push({ name, index: 0 });
        onPath.add(name);
      };
      if (!done.has(start)) enter(start);
      for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
        const edge = next.get(top.name)?.[top.index++];
        if (edge === undefined) {
          done.add(top.name);
          onPath.delete(top.name);
          path.pop();
        } else if (onPath.has(edge.to)) {
          const circle = [
            ...path.slice(path.findIndex((each) => each.name === edge.to)).map((each) => each.name),
            edge.to,
          ];
          this.#problem(
            edge.spot,
            [],
            `credentials depend on each other in a circle: ${circle.join(" -> ")}; each must come before what it signs or gives its value to`,
          );
        } else if (path.length >= maxChain) {
          this.#problem(
            edge.spot,
            [],
            `is the end of a chain of more than ${maxChain} credentials; no such chain is known`,
          );
          return;
        } else if (!done.has(edge.to)) enter(edge.to);
      }
    }
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Connectors' settings

  /** The connector's settings, resolved and judged. `undefined`: something is wrong, and noted. */
  async #config(
    connector: ConfiguredType,
    raw: TreeMap,
    commonKeys: readonly string[],
    spot: Spot,
  ): Promise<{ readonly value: unknown } | undefined> {
    const result = await readSettings(connector, raw, commonKeys, {
      env: this.#options.env,
      files: {
        read: async (path, maxBytes) => {
          this.#referred.add(path);
          return this.#files.read(path, maxBytes);
        },
      },
      folder: spot.file.folder,
    });
    if ("value" in result) return result;
    for (const { path, text, aboutKey } of result.wrong) this.#problem(spot, path, text, aboutKey ? "key" : "value");
    return undefined;
  }

  #traits(connector: PlaceConnector | IssuerConnector, config: unknown, spot: Spot): Traits | undefined {
    try {
      return connector.traits(config);
    } catch {
      this.#problem(
        spot,
        [],
        `the connector ${connector.type} could not tell its traits from these settings; this is a mistake in the connector: please report it`,
      );
      return undefined;
    }
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Small things

  /** Checks against a schema of ours. Everything it finds is noted. */
  #check<T>(schema: z.ZodType<T>, value: Tree, spot: Spot, alsoKnown: readonly string[] = []): T | undefined {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    for (const finding of findings(result.error.issues, value, jsonSchemaOf(schema), alsoKnown)) {
      this.#problem(spot, finding.path, finding.text, finding.aboutKey ? "key" : "value");
    }
    return undefined;
  }

  /** The same key by key, so that one wrong key does not hide what the others say. `right`: there was nothing wrong. */
  #checkEach<S extends z.ZodRawShape>(
    schema: z.ZodObject<S>,
    value: TreeMap,
    spot: Spot,
  ): { readonly value: Partial<z.output<z.ZodObject<S>>>; readonly right: boolean } {
    const whole = this.#check(schema, value, spot);
    if (whole !== undefined) return { value: whole, right: true };
    const usable: Record<string, unknown> = {};
    for (const [key, part] of Object.entries<z.core.$ZodType>(schema.shape)) {
      const result = (part as z.ZodType).safeParse(value[key]);
      if (result.success) usable[key] = result.data;
    }
    return { value: usable as Partial<z.output<z.ZodObject<S>>>, right: false };
  }

  #isMap(raw: Tree, spot: Spot, what: string): raw is TreeMap {
    if (isTreeMap(raw)) return true;
    const is = kindOf(raw);
    this.#problem(spot, [], `is ${is === "empty" ? is : `${is} where a map is expected`}; write ${what}`);
    return false;
  }

  #refuseReferences(tree: Tree, spot: Spot, path: Path = []): void {
    if (typeof tree === "string") {
      if (refersOutside(tree)) {
        this.#problem(
          spot,
          path,
          "cannot come from the environment or a file; only the settings of systems, places and issuers can",
        );
      }
      return;
    }
    if (typeof tree !== "object" || tree === null) return;
    for (const [key, each] of Object.entries(tree))
      this.#refuseReferences(each, spot, [...path, Array.isArray(tree) ? Number(key) : key]);
  }

  /**
   * The settings as written, for records and pages. A secret that somebody wrote into the file in plain text is blotted out, and a note says so.
   * @param anyDepth also below the first level, where the settings of places have maps from the parts of a value to names of keys.
   */
  #declared(tree: Tree, spot: Spot, anyDepth: boolean, path: Path = []): Tree {
    if (typeof tree === "string") {
      const key = String(path.at(-1) ?? "");
      const named =
        path.length > 0 &&
        (anyDepth || path.length === 1) &&
        /(password|passphrase|passwd|secret|token|api_?key|access_?key|private_?key|pin)$/i.test(key);
      const inUrl = /^[a-z][a-z0-9+.-]*:\/\/[^/\s:@]*:([^/\s@${}]+)@/i.exec(tree)?.[1];
      if (tree === "" || refersOutside(tree) || tree.includes("${") || !(named || inUrl !== undefined)) return tree;
      this.#plainSecrets.add(inUrl ?? tree);
      this.#note(spot, path, "is a secret in plain text; put it into ${env:NAME} or ${file:path}");
      return inUrl === undefined ? "[secret]" : tree.replace(`:${inUrl}@`, ":[secret]@");
    }
    if (Array.isArray(tree)) return tree.map((each, index) => this.#declared(each, spot, anyDepth, [...path, index]));
    if (isTreeMap(tree))
      return Object.fromEntries(
        Object.entries(tree).map(([key, each]) => [key, this.#declared(each, spot, anyDepth, [...path, key])]),
      );
    return tree;
  }

  #blot(text: string): string {
    let blotted = text;
    for (const secret of [...this.#plainSecrets].sort((a, b) => b.length - a.length))
      blotted = blotted.replaceAll(secret, "[secret]");
    return blotted;
  }

  #position(spot: Spot, path: Path, which: "key" | "value"): Position {
    const found = this.#positions.locate(spot.file.tree, [...spot.path, ...path], which);
    return found.line === 0 ? { file: spot.file.shown, line: 1, col: 1 } : found;
  }
  #problem(spot: Spot, path: Path, text: string, which: "key" | "value" = "value"): void {
    // The reader of the file has said what is wrong there.
    if (this.#positions.wasRefused(spot.file.tree, [...spot.path, ...path])) return;
    this.#problems.add(this.#position(spot, path, which), joinPath([...spot.path, ...path]), text);
  }
  #note(spot: Spot, path: Path, text: string): void {
    this.#notes.add(this.#position(spot, path, "key"), joinPath([...spot.path, ...path]), text);
  }
  #source(spot: Spot): string {
    const { file, line } = this.#position(spot, [], "key");
    return `${file}:${line}`;
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------
// Pure helpers

function below(spot: Spot, ...path: Path): Spot {
  return { file: spot.file, path: [...spot.path, ...path] };
}
function article(role: Role): string {
  return role === "issuer" ? "an issuer" : `a ${role}`;
}

function withTimes(traits: Traits, common: z.output<typeof placeCommon>): Traits {
  const { refresh, propagation, drain } = common;
  return {
    ...traits,
    ...(refresh === undefined ? {} : { refreshMs: refresh }),
    ...(propagation === undefined ? {} : { propagationMs: propagation }),
    // A job stays a job; the declared time is then how long it takes.
    ...(drain === undefined
      ? {}
      : { drainMs: drain, drain: traits.drain === "job" ? "job" : drain === 0 ? "instant" : "timed" }),
  };
}

const builtInPolicy: Policy = {
  rotateBeforeMs: null,
  maxAgeMs: null,
  soakMs: 0,
  marginMs: dayMs,
  approvals: {},
  windows: [],
  notify: [],
};

/** Later ones win, key by key. */
function mergePolicies(inputs: readonly (PolicyInput | undefined)[]): Policy {
  let policy = builtInPolicy;
  for (const input of inputs) {
    if (input === undefined) continue;
    const windows = input.windows ?? (input.window === undefined ? undefined : [input.window]);
    const approvals = Object.fromEntries(
      Object.entries(input.approvals ?? {}).filter(([, people]) => people !== undefined),
    );
    policy = {
      rotateBeforeMs: input.rotateBefore === undefined ? policy.rotateBeforeMs : input.rotateBefore,
      maxAgeMs: input.maxAge === undefined ? policy.maxAgeMs : input.maxAge,
      soakMs: input.soak ?? policy.soakMs,
      marginMs: input.margin ?? policy.marginMs,
      approvals: { ...policy.approvals, ...approvals },
      windows: windows ?? policy.windows,
      notify: input.notify ?? policy.notify,
    };
  }
  return policy;
}

/** A holder that is another credential takes as long as a rotation of that one: its changes, its longest waits, its soak. */
function finishHolders(credentials: readonly CredentialDecl[]): CredentialDecl[] {
  const byName = new Map(credentials.map((credential) => [credential.name, credential]));
  const lengths = new Map<string, number>();
  function lengthOf(name: string): number {
    const known = lengths.get(name);
    const credential = byName.get(name);
    if (known !== undefined || credential === undefined) return known ?? minuteMs;
    let changes = credential.issuer.traits.changeMs;
    let wait = 0;
    for (const place of credential.places) {
      // Adding and removing are a change each.
      changes += place.credential === undefined ? 2 * place.traits.changeMs : lengthOf(place.credential);
      wait = Math.max(wait, place.traits.refreshMs + place.traits.propagationMs + place.traits.drainMs);
    }
    wait = Math.max(wait, ...(credential.data ?? []).map((set) => set.drainMs));
    const length = changes + wait + credential.policy.soakMs;
    lengths.set(name, length);
    return length;
  }
  return credentials.map((credential) => ({
    ...credential,
    places: credential.places.map((place) =>
      place.credential === undefined
        ? place
        : { ...place, traits: { ...place.traits, changeMs: lengthOf(place.credential) } },
    ),
  }));
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
