/**
 * The composition root: the one place that knows estate, store, connectors and engine together. The command line and the server ask it for use
 * cases; neither builds anything itself. Everything is opened when first needed, so that what can be done without a database is.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import { dirname, join, resolve } from "node:path";
import { ConnectorError, type Log } from "./connectors/connector.ts";
import { shippedRegistry, type Registry } from "./connectors/registry.ts";
import { type AssembleInput, type RotationSpec, type VersionRecord } from "./core/assemble.ts";
import { due, type Due } from "./core/due.ts";
import { explain, type Explanation } from "./core/explain.ts";
import type { CredentialDecl, Estate, Observation, PlaceDecl } from "./core/place.ts";
import { plan as makePlan, type Plan } from "./core/plan.ts";
import { exitCodes, Problem, problemText } from "./core/problem.ts";
import { systemClock } from "./engine/clock.ts";
import { crashPoint } from "./engine/crash.ts";
import { defaultEngineOptions, inParallel, type EngineDeps } from "./engine/deps.ts";
import {
  openJournal,
  parseAnchor,
  verifyExport,
  type Anchor,
  type Journal,
  type Verification,
} from "./engine/journal.ts";
import { kekStatus, rollKek, type KekStatus, type RollProgress, type RollResult } from "./engine/keys.ts";
import { createLimits } from "./engine/limits.ts";
import { noPlaceNotes, readNotes } from "./engine/memory.ts";
import type { Look } from "./engine/observe.ts";
import { createRotations, type RotationDetail, type Rotations } from "./engine/rotations.ts";
import { openSealer, type Sealer } from "./engine/seal.ts";
import { findSigner, memoryFor, nextVersionId, recordOf, specOf } from "./engine/spec.ts";
import { signedInSystem, type Preview } from "./engine/start.ts";
import { startWorker, workOn, type EngineWorker } from "./engine/worker.ts";
import { loadEstate, type LoadedEstate } from "./estate/load.ts";
import { EstateError, formatProblem, nearest } from "./estate/problem.ts";
import { modelType } from "./estate/schema.ts";
import { dataFolder, openStore, type StoreOptions } from "./store/open.ts";
import {
  activeStatuses,
  StoreError,
  type InventoryItem,
  type InventoryRow,
  type JournalKind,
  type JournalRow,
  type Json,
  type ObservationRow,
  type RotationRow,
  type Store,
  type TaskRow,
  type VersionRow,
} from "./store/store.ts";

export interface AppOptions {
  readonly env: NodeJS.ProcessEnv;
  /** Where the search for the estate begins, and what relative names start from. */
  readonly cwd: string;
  /** Overrides `KEYROLL_FILE` and the search. */
  readonly file?: string | undefined;
  /** Overrides `KEYROLL_DATA`. */
  readonly dataDir?: string | undefined;
  /** Overrides `DATABASE_URL`; `null`: the embedded one. */
  readonly databaseUrl?: string | null;
  /** Database on the embedded server. */
  readonly database?: string;
  /** Who acts; default: the account that the process runs under. */
  readonly person?: string;
  readonly log?: Log;
  readonly registry?: Registry;
  readonly now?: () => number;
}

/** A plan, and what the look that it rests on could not see. */
export interface PlanResult {
  readonly plan: Plan;
  /** One sentence per place that was not seen. */
  readonly unseenBecause: readonly string[];
  /** Some of its places are of type `model`: it can be proved, not run. */
  readonly modelled: boolean;
  /** Values from before Keyroll that a start would take in. */
  readonly adopted: readonly { readonly version: string; readonly place: string }[];
}

export interface PlanRequest {
  readonly credential: string;
  readonly mode?: "planned" | "breach";
  readonly strategy?: Plan["strategy"];
  readonly maxStates?: number;
}

export interface StatusItem {
  readonly credential: string;
  readonly kind: CredentialDecl["kind"];
  readonly owner: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly due: Due;
  readonly current: string | null;
  readonly notAfterMs: number | null;
  /** When the oldest look at any of its places was; `null`: some place was never seen. */
  readonly seenAtMs: number | null;
  readonly unseen: readonly { readonly place: string; readonly why: string }[];
  readonly outOfStep: readonly { readonly place: string; readonly has: string }[];
  readonly places: number;
  /** Places that hold or pin a version of their own, and those of them that were seen with the current one. */
  readonly copies: number;
  readonly inStep: number;
  /** Upper estimate of a rotation; `null` for models. */
  readonly neededMs: number | null;
  readonly rotation: {
    readonly id: string;
    readonly status: string;
    readonly waitingFor: string | null;
    readonly reason: string | null;
  } | null;
  /** All its places are of type `model`: there is nothing to look at. */
  readonly model: boolean;
}

export interface CredentialDetail {
  readonly credential: CredentialDecl;
  readonly status: StatusItem;
  readonly versions: readonly VersionRow[];
  readonly observations: readonly ObservationRow[];
  readonly rotations: readonly RotationRow[];
}

export type StepState = "done" | "doing" | "waiting" | "todo" | "left";
export interface RunStep {
  readonly n: number;
  readonly action: string;
  readonly text: string;
  readonly by: string;
  readonly place: string | null;
  readonly state: StepState;
  readonly atMs: number | null;
  readonly tookMs: number | null;
}
export interface RunView extends RotationDetail {
  readonly plan: Plan;
  readonly steps: readonly RunStep[];
  /** Number of the step that is being done or waited for; the last one at the end. */
  readonly at: number;
}

export interface Finding {
  readonly level: "ok" | "warn" | "fail";
  readonly what: string;
  readonly detail: string;
  readonly fix: string | null;
}

/** A worker that was alive a moment ago. */
export interface WorkerPresence {
  readonly id: string;
  readonly host: string;
  readonly pid: number;
  readonly atMs: number;
}

const hash = (text: string): string => createHash("sha256").update(text).digest("hex");
const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined };
const estateName = "keyroll.yaml";
const presenceSetting = "workers";
const presenceBeatMs = 4000;
const presenceLifeMs = 15_000;

/** The account behind the process. With `sudo` it is the person who called it, because approvals count people. */
export function personOf(env: NodeJS.ProcessEnv): string {
  const named = env["KEYROLL_USER"];
  if (named !== undefined && named !== "") return named;
  const sudo = env["SUDO_USER"];
  if (sudo !== undefined && sudo !== "") return sudo;
  try {
    return userInfo().username;
  } catch {
    // Containers may run under a number that has no name.
    return `uid-${process.getuid?.() ?? "unknown"}`;
  }
}

/** The estate file: `--file`, `KEYROLL_FILE`, or `keyroll.yaml` here or in a folder above. */
export function findEstate(options: Pick<AppOptions, "file" | "env" | "cwd">): string {
  const given = options.file ?? (options.env["KEYROLL_FILE"] || undefined);
  if (given !== undefined) {
    const path = resolve(options.cwd, given);
    return existsSync(path) && statSync(path).isDirectory() ? join(path, estateName) : path;
  }
  for (let folder = resolve(options.cwd); ; folder = dirname(folder)) {
    const path = join(folder, estateName);
    if (existsSync(path)) return path;
    if (dirname(folder) === folder) break;
  }
  throw new Problem("usage", `There is no ${estateName} in ${options.cwd} or in a folder above it.`, {
    next: "Make one with: keyroll init. Or name one with --file or KEYROLL_FILE.",
  });
}

const isModel = (place: PlaceDecl): boolean => place.type === modelType;

export class App {
  readonly #options: AppOptions;
  readonly registry: Registry;
  readonly person: string;
  readonly log: Log;
  #loaded: Promise<LoadedEstate> | null = null;
  #engine: Promise<Engine> | null = null;
  #changes = new Map<string, string>();
  /** What is wrong with the estate since it was changed. */
  #wrong: string | null = null;

  constructor(options: AppOptions) {
    this.#options = options;
    this.registry = options.registry ?? shippedRegistry();
    this.person = options.person ?? personOf(options.env);
    this.log = options.log ?? silent;
  }

  now(): number {
    return this.#options.now?.() ?? Date.now();
  }
  get dataDir(): string {
    return dataFolder({
      env: this.#options.env,
      ...(this.#options.dataDir === undefined ? {} : { dataDir: this.#options.dataDir }),
    });
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // The estate

  estatePath(): string {
    return findEstate(this.#options);
  }

  estate(): Promise<LoadedEstate> {
    this.#loaded ??= this.#load();
    return this.#loaded;
  }

  async #load(): Promise<LoadedEstate> {
    const loaded = await loadEstate(this.estatePath(), { registry: this.registry, env: this.#options.env });
    this.#changes = changeTimes(loaded.files);
    return loaded;
  }

  async credential(name: string): Promise<CredentialDecl> {
    const { estate } = await this.estate();
    const found = estate.credentials.find((each) => each.name === name);
    if (found !== undefined) return found;
    const names = estate.credentials.map((each) => each.name);
    const near = nearest(name, names);
    throw new Problem("not-found", `There is no credential "${name}" in the estate.`, {
      next: near === undefined ? "List them with: keyroll list" : `Did you mean ${near}? List all with: keyroll list`,
    });
  }

  /**
   * Loads the files again where one of them changed, those behind `${file:…}` included, and all are right; a worker calls it now and then.
   * Returns what is wrong, once per change.
   */
  async reload(): Promise<"same" | "changed" | EstateError> {
    const before = await this.estate();
    const times = changeTimes(before.files);
    // What mends a wrong one may be a file that none of these is.
    if (this.#wrong === null && [...times].every(([path, time]) => this.#changes.get(path) === time)) return "same";
    this.#changes = times;
    try {
      const loaded = await loadEstate(this.estatePath(), { registry: this.registry, env: this.#options.env });
      this.#wrong = null;
      // What was looked at before it was read wins: a change in between is then seen the next time.
      this.#changes = new Map([...changeTimes(loaded.files), ...times]);
      // The digest knows no value from outside, so an equal one does not say that nothing changed.
      this.#loaded = Promise.resolve(loaded);
      const engine = await this.#engine;
      if (engine !== null) {
        engine.current = loaded.estate;
        await apply(engine, loaded, this.person);
      }
      return "changed";
    } catch (error) {
      if (!(error instanceof EstateError)) throw error;
      if (this.#wrong === error.message) return "same";
      this.#wrong = error.message;
      return error;
    }
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Store and engine

  /** Opens the store (starting the embedded server where needed), the keys and the journal, and applies the estate. */
  engine(): Promise<Engine> {
    this.#engine ??= this.#open();
    return this.#engine;
  }

  async #open(): Promise<Engine> {
    const loaded = await this.estate();
    const parts = await this.openStoreOnly();
    const engine: Engine = { ...parts, current: loaded.estate, ...({} as { deps: EngineDeps; rotations: Rotations }) };
    const deps: EngineDeps = {
      store: parts.store,
      journal: parts.journal,
      sealer: parts.sealer,
      registry: this.registry,
      estate: () => engine.current,
      clock: systemClock,
      random: Math.random,
      limits: createLimits(systemClock),
      log: this.log,
      options: {
        ...defaultEngineOptions,
        requestLifeMs: loaded.estate.settings?.requestLifeMs ?? defaultEngineOptions.requestLifeMs,
      },
      nowMs: () => parts.store.now(),
      crashPoint,
    };
    engine.deps = deps;
    engine.rotations = createRotations(deps);
    await apply(engine, loaded, this.person);
    return engine;
  }

  #parts: Promise<StoreParts> | null = null;
  /** For what needs no estate: the journal, the keys, the runs. */
  openStoreOnly(): Promise<StoreParts> {
    this.#parts ??= (async () => {
      const store = await openPatiently({
        env: this.#options.env,
        ...(this.#options.dataDir === undefined ? {} : { dataDir: this.#options.dataDir }),
        ...(this.#options.databaseUrl === undefined ? {} : { databaseUrl: this.#options.databaseUrl }),
        ...(this.#options.database === undefined ? {} : { database: this.#options.database }),
      });
      store.onState((state, detail) => {
        if (state === "lost") this.log.warn("The database is lost; work waits until it is back.", { detail });
        else this.log.info("The database is back; work goes on.", { detail });
      });
      try {
        const sealer = await openSealer(store, { env: this.#options.env });
        const journal = openJournal(store, sealer, { onWarning: (message) => this.log.warn(message) });
        return { store, sealer, journal };
      } catch (error) {
        await store.close();
        throw error;
      }
    })();
    return this.#parts;
  }

  async close(): Promise<void> {
    const parts = await this.#parts?.catch(() => null);
    if (parts === null || parts === undefined) return;
    await parts.journal
      .checkpoint()
      .catch((error: unknown) => this.log.warn(`The journal's checkpoint was not written: ${String(error)}`));
    await parts.store.close();
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Plans

  /** Looks at every place of the credential and plans. Credentials whose places are all models need neither store nor server. */
  async plan(request: PlanRequest): Promise<PlanResult> {
    const credential = await this.credential(request.credential);
    const mode = request.mode ?? "planned";
    const strategy = request.strategy ?? "availability-first";
    const limits = request.maxStates === undefined ? {} : { maxStates: request.maxStates };
    if (credential.places.some(isModel)) {
      const input = modelled(credential, { mode, strategy }, this.now());
      return { plan: makePlan(input, { hash, ...limits }), unseenBecause: [], modelled: true, adopted: [] };
    }
    const { rotations } = await this.engine();
    const preview = await rotations.preview({ credential: credential.name, mode, strategy, ...limits });
    return fromPreview(preview);
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Status

  /**
   * What must be started, most urgent first. `observe`: `auto` looks at what was not looked at for the time that the estate says; `always`
   * looks at everything; `never` says what is known.
   */
  async status(
    options: { observe: "auto" | "always" | "never"; only?: string; onLook?: (done: number, total: number) => void } = {
      observe: "auto",
    },
  ): Promise<readonly StatusItem[]> {
    const { estate } = await this.estate();
    const only = options.only === undefined ? null : await this.credential(options.only);
    const chosen = only === null ? estate.credentials : [only];
    const real = chosen.filter((credential) => !credential.places.every(isModel));
    const items = chosen
      .filter((credential) => credential.places.every(isModel))
      .map((credential) => modelItem(credential));
    if (real.length > 0) {
      const engine = await this.engine();
      const everyMs = estate.settings?.observeEveryMs ?? 900_000;
      await this.#observe(engine, real, options, everyMs);
      const nowMs = await engine.store.now();
      const observations = groupBy(await engine.store.observations.list(only?.name), (row) => row.credential);
      const versions = groupBy(
        only === null ? await engine.store.versions.listAll() : await engine.store.versions.list(only.name),
        (row) => row.credential,
      );
      const running = new Map(
        (await engine.store.rotations.list({ statuses: activeStatuses, limit: 100_000 })).map((row) => [
          row.credential,
          row,
        ]),
      );
      for (const credential of real) {
        items.push(
          statusOf(
            credential,
            observations.get(credential.name) ?? [],
            versions.get(credential.name) ?? [],
            running.get(credential.name),
            nowMs,
            Math.max(4 * everyMs, 3_600_000),
          ),
        );
      }
    }
    return items.sort(byUrgencyThenName);
  }

  async #observe(
    engine: Engine,
    credentials: readonly CredentialDecl[],
    options: { observe: "auto" | "always" | "never"; onLook?: (done: number, total: number) => void },
    everyMs: number,
  ): Promise<void> {
    if (options.observe === "never") return;
    const nowMs = await engine.store.now();
    const rows = groupBy(await engine.store.observations.list(), (row) => row.credential);
    const running = new Set(
      (await engine.store.rotations.list({ statuses: activeStatuses, limit: 100_000 })).map((row) => row.credential),
    );
    const stale = credentials.filter((credential) => {
      // Whoever rotates it looks at it all the time.
      if (running.has(credential.name)) return false;
      if (options.observe === "always") return true;
      const seen = rows.get(credential.name) ?? [];
      return credential.places.some((place) => {
        const row = seen.find((each) => each.place === place.name);
        return row === undefined || nowMs - Math.max(row.atMs ?? 0, row.errorAtMs ?? 0) > everyMs;
      });
    });
    let done = 0;
    await inParallel(stale, 4, async (credential) => {
      await engine.rotations.observe(credential.name);
      options.onLook?.(++done, stale.length);
    });
  }

  async detail(name: string, observe: "auto" | "always" | "never" = "auto"): Promise<CredentialDetail> {
    const credential = await this.credential(name);
    const [status] = await this.status({ observe, only: name });
    if (credential.places.every(isModel))
      return { credential, status: status!, versions: [], observations: [], rotations: [] };
    const { store } = await this.engine();
    return {
      credential,
      status: status!,
      versions: await store.versions.list(name),
      observations: await store.observations.list(name),
      rotations: await store.rotations.list({ credential: name, limit: 20 }),
    };
  }

  /** Why the credential is in its state, and what holds the next step of its rotation. */
  async explain(name: string): Promise<{
    readonly status: StatusItem;
    readonly explanation: Explanation;
    readonly rotation: RotationRow | null;
    readonly unseenBecause: readonly string[];
  }> {
    const credential = await this.credential(name);
    if (credential.places.some(isModel)) {
      const input = modelled(credential, { mode: "planned", strategy: "availability-first" }, this.now());
      return { status: modelItem(credential), explanation: explain(input), rotation: null, unseenBecause: [] };
    }
    const engine = await this.engine();
    const { store, rotations } = engine;
    const active = (await store.rotations.active(name)) ?? null;
    const looks = await rotations.observe(name);
    const rows = await store.versions.list(name);
    const versions = rows.map(recordOf);
    const seen: Record<string, Observation | null> = {};
    for (const look of looks) seen[look.place] = look.observation;
    const signer = await findSigner(store, credential, null);
    const rotation: RotationSpec =
      active !== null
        ? specOf(active, versions, signer?.facts.fingerprint)
        : {
            mode: "planned",
            strategy: "availability-first",
            direction: "forward",
            from: versions.findLast((version) => version.state === "current")?.id ?? null,
            to: nextVersionId(name, versions),
            exposed: [],
            ...(signer === null ? {} : { signer: signer.facts.fingerprint }),
          };
    const stored = active === null ? [] : await store.places.list(active.id);
    const memory = Object.fromEntries(
      credential.places.map((place) => [
        place.name,
        memoryFor(
          readNotes(stored.find((row) => row.place === place.name)?.memory, noPlaceNotes),
          false,
          seen[place.name] ?? undefined,
        ),
      ]),
    );
    const [status] = await this.status({ observe: "never", only: name });
    return {
      status: status!,
      explanation: explain({ credential, versions, rotation, seen, memory, nowMs: await store.now() }),
      rotation: active,
      unseenBecause: sentencesOf(looks),
    };
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Rotations

  /** Starts exactly the plan that was seen. Throws a {@link Problem} and changes nothing where it is not safe or not the same any more. */
  async start(
    seen: Pick<Plan, "credential" | "mode" | "strategy" | "digest">,
    more: { maxStates?: number; by?: string } = {},
  ): Promise<RotationRow> {
    const credential = await this.credential(seen.credential);
    const model =
      credential.places.find(isModel) ?? (credential.issuer.type === modelType ? credential.issuer : undefined);
    if (model !== undefined) {
      throw new Problem(
        "refused",
        `${credential.name} has ${"name" in model ? `a place of type model, ${model.name}` : "an issuer of type model"}: it can be planned and proved, not run.`,
        {
          where: model.source ?? credential.source,
          next: "Give it the type of a connector; keyroll schema has them all.",
        },
      );
    }
    const { rotations } = await this.engine();
    return await rotations.start({
      credential: seen.credential,
      mode: seen.mode,
      strategy: seen.strategy,
      startedBy: more.by ?? this.person,
      planDigest: seen.digest,
      ...(more.maxStates === undefined ? {} : { maxStates: more.maxStates }),
    });
  }

  async rotations(): Promise<Rotations> {
    return (await this.engine()).rotations;
  }

  async run(id: string): Promise<RunView> {
    return viewOf(await (await this.rotations()).show(await this.runId(id)));
  }

  /**
   * Works on the run here, and pauses it right after this step of its plan. Exact as long as no other worker takes the run, so the caller looks
   * first. Comes back earlier where the run ends, a person is needed or `signal` is aborted.
   */
  async runUntil(id: string, step: number, signal: AbortSignal): Promise<RunView> {
    const { deps, rotations, store } = await this.engine();
    const { plan } = await this.run(id);
    const wanted = plan.steps.slice(0, step).filter((each) => !waits.includes(each.action)).length;
    const reached = new AbortController();
    let effects = 0;
    const limited: EngineDeps = {
      ...deps,
      crashPoint: (name) => {
        deps.crashPoint(name);
        if (name.startsWith("after-outcome:") && ++effects >= wanted) reached.abort(new Error("the step is reached"));
      },
    };
    if (wanted === 0) reached.abort();
    const stop = AbortSignal.any([signal, reached.signal]);
    while (!stop.aborted) {
      await workOn(limited, `${hostname()}-${process.pid}-until`, id, stop);
      const row = await store.rotations.get(id);
      if (row === undefined || row.endedAtMs !== null || row.status === "paused" || row.status === "halted")
        return await this.run(id);
      if (stop.aborted) break;
      const dueMs = (row.nextWakeAtMs ?? 0) - (await store.now());
      // Woken at least every second, because approvals and tasks come from other processes.
      await systemClock.sleep(Math.min(1000, Math.max(50, dueMs)), stop).catch(() => undefined);
    }
    try {
      await rotations.pause(id, {
        person: this.person,
        comment: reached.signal.aborted ? `step ${step} is done` : "stopped on the way",
      });
    } catch (error) {
      // Somebody else brought it to its end meanwhile: then there is nothing to pause, and the view says so.
      if ((await store.rotations.get(id))?.endedAtMs === null) throw error;
    }
    return await this.run(id);
  }

  /** The whole id from its beginning, or from the name of a credential that is being rotated. */
  async runId(text: string): Promise<string> {
    const { store } = await this.engine();
    const exact = await store.rotations.get(text);
    if (exact !== undefined) return exact.id;
    const rows = await store.rotations.list({ limit: 10_000 });
    const byName = rows.filter((row) => row.credential === text);
    if (byName.length > 0) return (byName.find((row) => row.endedAtMs === null) ?? byName[0]!).id;
    const byStart = rows.filter((row) => row.id.startsWith(text));
    if (byStart.length === 1) return byStart[0]!.id;
    throw new Problem(
      "not-found",
      byStart.length === 0 ? `There is no run "${text}".` : `${byStart.length} runs begin with "${text}".`,
      {
        next: "List them with: keyroll run list",
      },
    );
  }

  async taskId(text: string): Promise<string> {
    const tasks = await (await this.rotations()).tasks();
    const found = tasks.filter((task) => task.id === text || task.id.startsWith(text));
    if (found.length === 1) return found[0]!.id;
    throw new Problem(
      "not-found",
      found.length === 0 ? `There is no task "${text}".` : `${found.length} tasks begin with "${text}".`,
      {
        next: "List them with: keyroll task list",
      },
    );
  }

  async tasks(filter?: {
    rotation?: string;
    states?: readonly TaskRow["state"][];
    person?: string;
  }): Promise<readonly TaskRow[]> {
    return await (await this.rotations()).tasks(filter);
  }

  async approve(
    id: string,
    phase: Plan["steps"][number]["phase"] | "plan",
    verdict: "approved" | "rejected",
    comment?: string,
  ): Promise<RunView> {
    const rotations = await this.rotations();
    const view = await this.run(id);
    const request = {
      rotation: view.rotation.id,
      phase,
      planDigest: view.rotation.planDigest,
      person: this.person,
      nonce: randomUUID(),
      ...(comment === undefined ? {} : { comment }),
    };
    await (verdict === "approved" ? rotations.approve(request) : rotations.reject(request));
    return await this.run(view.rotation.id);
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Workers

  /** A worker in this process that others can see. */
  async startWorker(options: { concurrency?: number } = {}): Promise<EngineWorker> {
    const { deps, store } = await this.engine();
    const id = `${hostname()}-${process.pid}-${randomBytes(3).toString("hex")}`;
    const over = new AbortController();
    const tell = async (alive: boolean): Promise<void> => {
      await store.settings.putIfAbsent(presenceSetting, {});
      await store.transaction(async (tx) => {
        const all = presences(await tx.settings.getLocked(presenceSetting, "update"));
        const nowMs = await tx.now();
        const rest = all.filter((each) => each.id !== id && nowMs - each.atMs < presenceLifeMs);
        const me: WorkerPresence = { id, host: hostname(), pid: process.pid, atMs: nowMs };
        const now = alive ? [...rest, me] : rest;
        await tx.settings.put(
          presenceSetting,
          Object.fromEntries(now.map(({ id: name, ...each }) => [name, { ...each }])),
        );
      });
    };
    const leave = (): Promise<void> =>
      // It runs out by itself, so that a database which is away just now must not keep the process from ending.
      tell(false).catch((error: unknown) =>
        this.log.debug(`The worker's presence was not taken back: ${String(error)}`),
      );
    // Seen before it takes anything: whoever asks whether somebody works must not be told no a moment too early.
    await tell(true);
    let worker: EngineWorker;
    try {
      worker = await startWorker(deps, { ...options, id });
    } catch (error) {
      await leave();
      throw error;
    }
    const beating = (async () => {
      while (!over.signal.aborted) {
        try {
          await systemClock.sleep(presenceBeatMs, over.signal);
          await tell(true);
        } catch {
          // Stopped, or the database is away for a moment: being invisible for one beat harms nobody, leases are what counts.
        }
      }
    })();
    return {
      id,
      async stop() {
        over.abort();
        await beating;
        await worker.stop();
        await leave();
      },
    };
  }

  /** Workers that were alive within the last seconds. */
  async workers(): Promise<readonly WorkerPresence[]> {
    const { store } = await this.openStoreOnly();
    const nowMs = await store.now();
    return presences(await store.settings.get(presenceSetting)).filter((each) => nowMs - each.atMs < presenceLifeMs);
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Journal, keys, inventory

  async auditLog(filter: {
    rotation?: string;
    credential?: string;
    kinds?: readonly JournalKind[];
    limit?: number;
  }): Promise<readonly JournalRow[]> {
    const { store } = await this.openStoreOnly();
    return [...(await store.journal.list(filter))].toReversed();
  }
  async auditVerify(
    anchors: readonly { readonly text: string; readonly where: string }[],
  ): Promise<{ readonly verification: Verification; readonly anchor: Anchor | null }> {
    const { journal } = await this.openStoreOnly();
    const verification = await journal.verify(anchors.map(({ text, where }) => parseAnchor(text, where)));
    return { verification, anchor: verification.ok ? await journal.anchor() : null };
  }
  async auditExport(): Promise<AsyncGenerator<string>> {
    return (await this.openStoreOnly()).journal.export();
  }
  async keys(): Promise<KekStatus> {
    const { store } = await this.openStoreOnly();
    return await kekStatus(store, { env: this.#options.env });
  }
  async rollKeys(onProgress: (progress: RollProgress) => void): Promise<RollResult> {
    const { store, journal } = await this.openStoreOnly();
    const actor = `person:${this.person}`;
    return await rollKek(store, {
      env: this.#options.env,
      onProgress,
      onSwitch: async (tx, from, to) => {
        await journal.append(tx, [{ actor, kind: "key", payload: { keyEncryptionKey: "rolled", from, to } }]);
      },
    });
  }
  async importInventory(
    items: Iterable<InventoryItem> | AsyncIterable<InventoryItem>,
  ): Promise<{ readonly rows: number; readonly added: number }> {
    const { store } = await this.openStoreOnly();
    return await store.inventory.import(items);
  }
  async inventory(filter: {
    beforeMs?: number;
    owner?: string;
    limit: number;
  }): Promise<{ readonly rows: readonly InventoryRow[]; readonly total: number }> {
    const { store } = await this.openStoreOnly();
    const rows =
      filter.beforeMs === undefined
        ? await store.inventory.list({ limit: filter.limit })
        : await store.inventory.expiring({
            beforeMs: filter.beforeMs,
            limit: filter.limit,
            ...(filter.owner === undefined ? {} : { owner: filter.owner }),
          });
    return { rows, total: await store.inventory.count() };
  }

  // -------------------------------------------------------------------------------------------------------------------------------------
  // Doctor

  /** Looks at everything that has to be right, changing nothing outside; goes on after every finding. */
  async *doctor(): AsyncGenerator<Finding> {
    const ok = (what: string, detail: string): Finding => ({ level: "ok", what, detail, fix: null });
    const bad = (level: "warn" | "fail", what: string, error: unknown): Finding => {
      const told = describeError(error);
      return { level, what, detail: told.message, fix: told.next };
    };
    yield ok("node", `Node.js ${process.versions.node} on ${process.platform} ${process.arch}`);

    let parts: StoreParts | null = null;
    try {
      parts = await this.openStoreOnly();
      const { where } = parts.store;
      yield ok(
        "store",
        `${where.kind === "embedded" ? "embedded PostgreSQL" : "PostgreSQL"} ${where.serverVersion} at ${where.text}`,
      );
    } catch (error) {
      yield bad("fail", "store", error);
    }
    if (parts !== null) {
      const offMs = Math.abs((await parts.store.now()) - Date.now());
      yield offMs < 2000
        ? ok("clock", "this machine and the database agree")
        : {
            level: "warn",
            what: "clock",
            detail: `this machine and the database differ by ${Math.round(offMs / 1000)} s`,
            fix: "Let both follow a time server (chrony, systemd-timesyncd).",
          };
      try {
        const keys = await kekStatus(parts.store, { env: this.#options.env });
        const records = Object.values(keys.recordsByKek).reduce((sum, n) => sum + n, 0);
        yield keys.previous === null
          ? ok("key", `key-encryption key ${keys.current.slice(0, 8)} from ${keys.origin}, ${records} sealed records`)
          : {
              level: "warn",
              what: "key",
              detail: "a roll of the key-encryption key was interrupted",
              fix: "keyroll keys roll",
            };
        yield* keyFile(keys.origin);
      } catch (error) {
        yield bad("fail", "key", error);
      }
      const workers = await this.workers();
      yield workers.length > 0
        ? ok(
            "worker",
            workers
              .map((worker) => `${worker.id} alive ${Math.max(0, Math.round((this.now() - worker.atMs) / 1000))} s ago`)
              .join(", "),
          )
        : ok("worker", "none is running; keyroll rotate brings its own, keyroll serve or keyroll worker stay");
    }

    let estate: Estate | null = null;
    try {
      const loaded = await this.estate();
      estate = loaded.estate;
      yield ok(
        "estate",
        `${loaded.files[0]!}: ${estate.credentials.length} credentials, ${estate.systems.length} systems`,
      );
      for (const note of loaded.notes) yield { level: "warn", what: "estate", detail: formatProblem(note), fix: null };
    } catch (error) {
      yield bad("fail", "estate", error);
    }
    if (estate === null) return;

    for (const system of estate.systems) {
      const type = this.registry.systemType(system.type);
      if (type?.check === undefined) {
        yield ok(`system ${system.name}`, `${system.type}, nothing to try`);
        continue;
      }
      const abort = AbortSignal.timeout(20_000);
      try {
        const { config, note } =
          system.signIn === undefined || parts === null
            ? { config: system.config, note: null }
            : await signedInSystem((await this.engine()).deps, system);
        await type.check(
          { now: () => Date.now(), signal: abort, throttle: async () => undefined, log: silent },
          config,
        );
        yield ok(`system ${system.name}`, `${type.title} answers`);
        if (note !== null)
          yield {
            level: "warn",
            what: `system ${system.name}`,
            detail: note,
            fix: `Take the password out of the settings of ${system.name}; one that is put there later is used again.`,
          };
      } catch (error) {
        yield bad("fail", `system ${system.name}`, error);
      }
    }
    if (parts === null) return;
    for (const credential of estate.credentials) {
      if (credential.places.every(isModel)) continue;
      try {
        const { rotations } = await this.engine();
        const looks = await rotations.observe(credential.name);
        for (const look of looks) {
          const place = credential.places.find((each) => each.name === look.place)!;
          if (isModel(place)) continue;
          if (look.error !== null) {
            const needs = this.registry.placeConnector(place.type)?.permissions ?? [];
            yield {
              level: "fail",
              what: `place ${credential.name}/${look.place}`,
              detail: look.error,
              fix: needs.length === 0 ? null : `It needs: ${needs.map((each) => each.replace(/\.$/, "")).join("; ")}`,
            };
          }
          for (const note of look.observation?.notes ?? [])
            yield { level: "warn", what: `place ${credential.name}/${look.place}`, detail: note, fix: null };
        }
        if (looks.every((look) => look.error === null))
          yield ok(`credential ${credential.name}`, `${looks.length} ${looks.length === 1 ? "place" : "places"} seen`);
      } catch (error) {
        yield bad("fail", `credential ${credential.name}`, error);
      }
    }
  }
}

/**
 * The embedded server ends with its last user. Whoever comes at that very moment finds it going down, which is no failure: it is started anew.
 * Opening changes nothing but the schema, so that it can be tried again.
 */
async function openPatiently(options: StoreOptions): Promise<Store> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await openStore(options);
    } catch (error) {
      const outside = (options.databaseUrl ?? options.env?.["DATABASE_URL"] ?? "") !== "";
      if (!(error instanceof StoreError) || error.code !== "unavailable" || outside || attempt === 5) throw error;
      await systemClock.sleep(300 * attempt);
    }
  }
}

interface StoreParts {
  readonly store: Store;
  readonly sealer: Sealer;
  readonly journal: Journal;
}
export interface Engine extends StoreParts {
  /** The estate in force; replaced when its files change. */
  current: Estate;
  deps: EngineDeps;
  rotations: Rotations;
}

/** What tells a changed file from the one before: also one that was put in its place with the old time. */
function changeTimes(files: readonly string[]): Map<string, string> {
  return new Map(
    files.map((path) => {
      const found = statSync(path, { throwIfNoEntry: false });
      return [path, found === undefined ? "" : `${found.ino} ${found.size} ${found.mtimeMs}`];
    }),
  );
}

/** Writes the estate down where it changed. What is kept has no resolved secret in it. */
async function apply(engine: Engine, loaded: LoadedEstate, person: string): Promise<void> {
  const { estate, text } = loaded;
  if ((await engine.store.estate.latest())?.digest === estate.digest) return;
  const credentials = estate.credentials.map((credential) => ({
    name: credential.name,
    owner: credential.owner,
    kind: credential.kind,
    labels: credential.labels,
    declaration: withoutConfig(credential),
  }));
  await engine.store.transaction(async (tx) => {
    const { number, changed } = await tx.estate.apply({ digest: estate.digest, text, appliedBy: person, credentials });
    if (!changed) return;
    await engine.journal.append(tx, [
      {
        actor: `person:${person}`,
        kind: "estate",
        payload: { revision: number, digest: estate.digest, credentials: credentials.length },
      },
    ]);
  });
}

/** The declaration as it may be stored and shown: settings as written instead of resolved. */
export function withoutConfig(credential: CredentialDecl): CredentialDecl {
  return {
    ...credential,
    issuer: { ...credential.issuer, config: credential.issuer.declared ?? null },
    places: credential.places.map((place) => ({ ...place, config: place.declared ?? null })),
  };
}

function presences(value: Json | undefined): WorkerPresence[] {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [];
  return Object.entries(value as Readonly<Record<string, Omit<WorkerPresence, "id">>>).map(([id, each]) => ({
    id,
    ...each,
  }));
}

function groupBy<T>(rows: readonly T[], key: (row: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const row of rows) {
    const found = groups.get(key(row));
    if (found === undefined) groups.set(key(row), [row]);
    else found.push(row);
  }
  return groups;
}

function fromPreview(preview: Preview): PlanResult {
  return { plan: preview.plan, unseenBecause: sentencesOf(preview.looks), modelled: false, adopted: preview.adopted };
}
function sentencesOf(looks: readonly Look[]): string[] {
  return looks.flatMap((look) =>
    look.observation === null ? [`${look.place}: ${look.error ?? "It was not seen."}`] : [],
  );
}

/**
 * The situation in which a modelled credential is thought to be: one old version, trusted by every verifier and in use at every holder. It is
 * stated in the plan, because nobody looked.
 */
function modelled(
  credential: CredentialDecl,
  how: Pick<RotationSpec, "mode" | "strategy">,
  nowMs: number,
): AssembleInput {
  const from = `${credential.name}#1`;
  const authority = "the CA";
  const byIssuer = credential.places.some((place) => place.traits.admits === "issuer");
  const readable = credential.places.some((place) => place.traits.roles.includes("holder") && place.traits.readable);
  const version: VersionRecord = {
    id: from,
    facts: { fingerprint: hash(from), ...(byIssuer ? { signedBy: authority } : {}) },
    state: "current",
    material: "sealed",
    hasMaterial: readable,
    placements: {},
    createdMs: nowMs,
  };
  const seen: Record<string, Observation> = {};
  for (const place of credential.places) {
    const entry =
      place.traits.admits === "issuer" && place.traits.roles.includes("verifier")
        ? { mark: authority, enabled: true, admits: [from] }
        : { mark: from, version: from, enabled: true };
    seen[place.name] = {
      entries: [entry],
      settled: true,
      ...(place.traits.roles.includes("holder") ? { current: from } : {}),
    };
  }
  return {
    credential,
    versions: [version],
    rotation: {
      ...how,
      direction: "forward",
      from,
      to: `${credential.name}#2`,
      exposed: [],
      ...(byIssuer ? { signer: authority } : {}),
    },
    seen,
    memory: {},
    nowMs,
  };
}

function modelItem(credential: CredentialDecl): StatusItem {
  return {
    credential: credential.name,
    kind: credential.kind,
    owner: credential.owner,
    labels: credential.labels,
    due: {
      state: "unknown",
      reason: "a model: it can be planned and proved, not looked at",
      lastSafeStartMs: null,
      startByMs: null,
      stale: false,
    },
    current: null,
    notAfterMs: null,
    seenAtMs: null,
    unseen: [],
    outOfStep: [],
    places: credential.places.length,
    copies: 0,
    inStep: 0,
    neededMs: null,
    rotation: null,
    model: true,
  };
}

/** An upper estimate without planning: every change and the longest wait. The plan says it exactly. */
function neededMs(credential: CredentialDecl): number {
  const changes = credential.places.reduce(
    (sum, place) => sum + 2 * place.traits.changeMs,
    credential.issuer.traits.changeMs,
  );
  const wait = Math.max(
    0,
    ...credential.places.map((place) => place.traits.refreshMs + place.traits.propagationMs + place.traits.drainMs),
    ...(credential.data ?? []).map((set) => set.drainMs),
  );
  return changes + wait + credential.policy.soakMs;
}

/** A place that has a version of its own: a holder, or a verifier that pins one. */
function isCopy(place: PlaceDecl): boolean {
  const { roles, admits } = place.traits;
  return roles.includes("holder") || (roles.includes("verifier") && admits === "version");
}

function statusOf(
  credential: CredentialDecl,
  observations: readonly ObservationRow[],
  versions: readonly VersionRow[],
  running: RotationRow | undefined,
  nowMs: number,
  staleAfterMs: number,
): StatusItem {
  const rowOf = (place: string): ObservationRow | undefined => observations.find((row) => row.place === place);
  const looked = credential.places.filter((place) => !isModel(place));
  const current = versions.findLast((version) => version.state === "current" || version.state === "compromised");
  const unseen = looked.flatMap((place) => {
    const row = rowOf(place.name);
    if (row?.error) return [{ place: place.name, why: row.error }];
    return row === undefined || row.atMs === null ? [{ place: place.name, why: "never looked at" }] : [];
  });
  const outOfStep: { place: string; has: string }[] = [];
  let copies = 0;
  let inStep = 0;
  /** A copy whose last look failed is not in step: what it had before may be gone. */
  const counts = (place: PlaceDecl): number => (unseen.some((each) => each.place === place.name) ? 0 : 1);
  const ends: number[] = [];
  for (const place of looked) {
    const seen = rowOf(place.name)?.observation;
    if (seen === undefined || seen === null) continue;
    const { roles } = place.traits;
    if (roles.includes("holder") && seen.current !== undefined) {
      copies++;
      const entry = seen.entries.find((each) => each.mark === seen.current);
      if (entry?.notAfterMs !== undefined) ends.push(entry.notAfterMs);
      const has = entry?.version ?? seen.current;
      if (current !== undefined && has !== current.id) {
        const known = versions.some((version) => version.id === has);
        outOfStep.push({
          place: place.name,
          has: has === null ? "nothing" : known ? has : "a value that Keyroll does not know",
        });
      } else if (current !== undefined) inStep += counts(place);
    } else if (roles.includes("verifier") && place.traits.admits === "version") {
      copies++;
      if (current !== undefined && !seen.entries.some((entry) => entry.enabled && entry.version === current.id))
        outOfStep.push({ place: place.name, has: "no trust in it" });
      else if (current !== undefined) inStep += counts(place);
    }
  }
  const notAfterMs = current?.facts?.notAfterMs ?? (ends.length > 0 ? Math.min(...ends) : undefined);
  const times = looked.map((place) => rowOf(place.name)?.atMs ?? null);
  const seenAtMs = times.some((time) => time === null) ? null : Math.min(...(times as number[]));
  const steps = running === undefined ? null : planOf(running).steps.length;
  const verdict = due({
    nowMs,
    policy: credential.policy,
    ...(notAfterMs === undefined ? {} : { notAfterMs }),
    ...(current === undefined ? {} : { createdMs: current.createdAtMs }),
    neededMs: neededMs(credential),
    // While it is being rotated its places differ on purpose.
    outOfStep: running === undefined ? outOfStep : [],
    copies,
    compromised: current?.state === "compromised",
    seenAgoMs: seenAtMs === null ? null : Math.max(0, nowMs - seenAtMs),
    staleAfterMs,
    unseen: unseen.map((each) => each.place),
  });
  const found = observations.some((row) => (row.observation?.entries.length ?? 0) > 0);
  const first: Due | null =
    verdict.state !== "fine" || current !== undefined
      ? null
      : !found
        ? { ...verdict, state: "due", reason: "there is no version yet" }
        : credential.policy.maxAgeMs !== null
          ? { ...verdict, state: "unknown", reason: "it was there before Keyroll, so its age is not known" }
          : null;
  const rotating: Due | null =
    running === undefined
      ? null
      : {
          ...verdict,
          state: "rotating",
          reason: `rotating ${running.id}${running.status === "running" ? `, ${steps} steps` : `, ${running.status}`}${running.waitingFor === null ? "" : `: ${running.waitingFor}`}${running.reason === null ? "" : `: ${running.reason}`}`,
        };
  return {
    credential: credential.name,
    kind: credential.kind,
    owner: credential.owner,
    labels: credential.labels,
    due: rotating ?? first ?? verdict,
    current: current?.id ?? null,
    notAfterMs: notAfterMs ?? null,
    seenAtMs,
    unseen,
    outOfStep,
    places: credential.places.length,
    copies: looked.filter(isCopy).length,
    inStep,
    neededMs: neededMs(credential),
    rotation:
      running === undefined
        ? null
        : { id: running.id, status: running.status, waitingFor: running.waitingFor, reason: running.reason },
    model: false,
  };
}

const urgency: readonly Due["state"][] = [
  "compromised",
  "expired",
  "late",
  "out-of-step",
  "due",
  "rotating",
  "unknown",
  "fine",
];
function byUrgencyThenName(a: StatusItem, b: StatusItem): number {
  const rank = (item: StatusItem): number =>
    item.model ? urgency.length : item.rotation?.status === "halted" ? 0 : urgency.indexOf(item.due.state);
  return (
    rank(a) - rank(b) ||
    (a.due.startByMs ?? Number.MAX_SAFE_INTEGER) - (b.due.startByMs ?? Number.MAX_SAFE_INTEGER) ||
    (a.credential < b.credential ? -1 : 1)
  );
}

// ---------------------------------------------------------------------------------------------------------------------------------------
// A run as its plan sees it

export function planOf(row: RotationRow): Plan {
  return row.plan as unknown as Plan;
}

/** Steps in which Keyroll changes nothing outside: they are over when something after them has happened. */
const waits: readonly string[] = ["seal", "check", "wait", "soak", "window", "approve", "destroy"];

interface Happened {
  readonly action: string;
  readonly place: string;
  readonly version: string;
  readonly fromMs: number;
  toMs: number | null;
  outcome: string | null;
}

/** The effects of a run, oldest first, from intents and outcomes. */
export function effectsOf(events: readonly JournalRow[]): readonly Happened[] {
  const byEffect = new Map<string, Happened>();
  const list: Happened[] = [];
  for (const event of events) {
    if (event.effect === null) continue;
    const payload = event.payload as { action?: string; place?: string; version?: string; result?: string };
    if (event.kind === "intent" && payload.action !== undefined) {
      const effect: Happened = {
        action: payload.action,
        place: payload.place ?? "",
        version: payload.version ?? "",
        fromMs: event.atMs,
        toMs: null,
        outcome: null,
      };
      byEffect.set(event.effect, effect);
      list.push(effect);
    } else if (event.kind === "outcome") {
      const effect = byEffect.get(event.effect);
      if (effect !== undefined) {
        effect.toMs = event.atMs;
        effect.outcome = payload.result ?? null;
      }
    }
  }
  return list;
}

export function viewOf(detail: RotationDetail): RunView {
  const { rotation, events } = detail;
  const plan = planOf(rotation);
  const used = new Set<Happened>();
  const happened = effectsOf(events);
  // The version got its number when it was made; a lost one is replaced by another.
  const same = (planned: string | null, done: string): boolean =>
    planned === done || (planned === plan.to && (done === rotation.toVersion || done !== rotation.fromVersion));
  const matched = plan.steps.map((step) => {
    if (waits.includes(step.action)) return null;
    const found = happened.find(
      (effect) =>
        !used.has(effect) &&
        effect.action === step.action &&
        same(step.version, effect.version) &&
        (step.place === null || effect.place === step.place || step.action === "issue") &&
        effect.outcome !== "failed" &&
        effect.outcome !== "unknown",
    );
    if (found !== undefined) used.add(found);
    return found ?? null;
  });
  const finished = rotation.status === "done" || rotation.status === "rolled-back";
  const over = rotation.endedAtMs !== null;
  const lastDone = matched.findLastIndex((effect) => effect?.outcome === "done");
  const steps: RunStep[] = plan.steps.map((step, i) => {
    const effect = matched[i]!;
    const waiting = waits.includes(step.action);
    const passed =
      finished ||
      effect?.outcome === "done" ||
      (waiting && i < lastDone) ||
      (step.action === "seal" && i - 1 <= lastDone);
    return {
      n: step.n,
      action: step.action,
      text: step.text,
      by: step.by,
      place: step.place,
      state: passed ? "done" : effect !== null ? "doing" : over ? "left" : "todo",
      atMs: effect?.toMs ?? effect?.fromMs ?? null,
      tookMs: effect?.toMs ? effect.toMs - effect.fromMs : null,
    };
  });
  const next = steps.findIndex((step) => step.state !== "done");
  if (next >= 0 && !over && steps[next]!.state === "todo")
    steps[next] = { ...steps[next]!, state: rotation.status === "running" ? "doing" : "waiting" };
  return { ...detail, plan, steps, at: next < 0 ? steps.length : steps[next]!.n };
}

// ---------------------------------------------------------------------------------------------------------------------------------------
// Errors

export interface Described {
  readonly exitCode: number;
  readonly kind: string;
  readonly message: string;
  readonly where: string | null;
  readonly next: string | null;
  /** All of it for a person. */
  readonly text: string;
  /** A mistake in Keyroll, not of the user or of a system. */
  readonly bug: boolean;
}

/** The one place that knows what every error means for a person and for the exit code. */
export function describeError(error: unknown): Described {
  if (error instanceof Problem) {
    return {
      exitCode: exitCodes[error.kind],
      kind: error.kind,
      message: error.message,
      where: error.where ?? null,
      next: error.next ?? null,
      text: problemText(error),
      bug: false,
    };
  }
  if (error instanceof EstateError) {
    const n = error.problems.length;
    const message = error.problems.map(formatProblem).join("\n");
    const next = `Mend ${n === 1 ? "it" : `these ${n}`}, then look again with: keyroll check`;
    return {
      exitCode: 1,
      kind: "estate",
      message,
      where: error.problems[0]?.file ?? null,
      next,
      text: `${message}\nNext: ${next}`,
      bug: false,
    };
  }
  if (error instanceof ConnectorError || error instanceof StoreError) {
    const kind = error instanceof ConnectorError ? error.kind : error.code;
    const exitCode = kind === "already-rotating" ? exitCodes.refused : exitCodes.failed;
    const message = sentenceOf(error.message);
    const permission =
      error instanceof ConnectorError && error.permission !== undefined
        ? ` Missing permission: ${error.permission}.`
        : "";
    const next = error.next === undefined ? null : sentenceOf(error.next);
    return {
      exitCode,
      kind,
      message: message + permission,
      where: null,
      next,
      text: `${message}${permission}${next === null ? "" : `\nNext: ${next}`}`,
      bug: false,
    };
  }
  const message = error instanceof Error ? `${error.name}: ${error.message}` : "something that is no error was thrown";
  const next = "Report it with what you did; KEYROLL_DEBUG=1 shows where it happened.";
  return {
    exitCode: 1,
    kind: "bug",
    message,
    where: null,
    next,
    text: `This is a mistake in Keyroll: ${message}\nNext: ${next}`,
    bug: true,
  };
}

function sentenceOf(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

function* keyFile(origin: string): Generator<Finding> {
  const found = statSync(origin, { throwIfNoEntry: false });
  if (found === undefined || process.platform === "win32") return;
  if ((found.mode & 0o077) !== 0)
    yield {
      level: "fail",
      what: "key",
      detail: `${origin} can be read by others (mode ${(found.mode & 0o777).toString(8)})`,
      fix: `chmod 600 ${origin}`,
    };
}

/** Checks an exported journal; needs neither the database nor a secret. */
export const checkExport = verifyExport;
