/** What each operation does, by use cases of the heart. Who may was asked before; what comes in has been validated; what goes out is a document. */
import type { z } from "zod";
import type { App } from "../app.ts";
import type { Phase } from "../core/place.ts";
import { breachCosts, type Plan } from "../core/plan.ts";
import { Problem } from "../core/problem.ts";
import { formatProblem } from "../estate/problem.ts";
import type { JournalKind, JournalRow, RotationRow, RotationStatus, TaskRow } from "../store/store.ts";
import { activeStatuses } from "../store/store.ts";
import { allows, ownersByPermission, within, type Principal } from "./access.ts";
import { Fault, notFound } from "./fault.ts";
import { graphOf } from "./graph.ts";
import type { OperationName } from "./operations.ts";
import { overviewOf } from "./overview.ts";
import { compareKeys, pageOf, parseQuery, readCursor, writeCursor, type Key1 } from "./query.ts";
import { dueStates, type Contracts, type RotationItem, type Session } from "./schema.ts";
import { signInLinkOf, type SignIn } from "./sign-in.ts";
import type { Known, Snapshot, Snapshots } from "./snapshot.ts";
import * as view from "./views.ts";

export interface Services {
  readonly app: App;
  readonly snapshots: Snapshots;
  readonly signIn: SignIn;
  readonly version: string;
  /** Address of the server as its users write it, with the base path and without a slash at the end. */
  readonly publicUrl: string;
}

/** The thing that a path or body names, found and found readable before the handler runs. */
export interface Target {
  readonly credential: string;
  readonly owner: string;
  readonly rotation: RotationRow | null;
  readonly task: TaskRow | null;
}

export interface Call<K extends OperationName> {
  readonly services: Services;
  /** Anonymous only where `access` says `anybody`. */
  readonly who: Principal | null;
  readonly params: PartOf<K, "params">;
  readonly query: PartOf<K, "query">;
  readonly body: PartOf<K, "body">;
  readonly target: Target | null;
  /** Names this request among its repetitions. */
  readonly nonce: string;
}
type PartOf<K extends OperationName, P extends string> =
  Contracts[K] extends Readonly<Record<P, infer S>> ? (S extends z.ZodType ? z.output<S> : never) : never;

/** Streams, sign-in and sign-out are the HTTP side's own. */
export type Handled = Exclude<OperationName, "signIn" | "signOut" | "streamEvents" | "exportAudit">;
export type Handler<K extends OperationName> = (call: Call<K>) => Promise<z.input<Contracts[K]["response"]>>;

const by = (call: { readonly who: Principal | null }): string => call.who!.person.person;
const readable =
  (who: Principal | null) =>
  (owner: string): boolean =>
    who !== null && allows(who, "read", owner);

export async function sessionOf(services: Services, who: Principal | null): Promise<Session> {
  return {
    person: who?.person.person ?? null,
    name: who?.person.name ?? null,
    via: who === null ? null : who.token === null ? "session" : "token",
    grants: (who?.token?.grants ?? who?.person.grants ?? []).map(({ role, owner }) => ({ role, owner })),
    permissions:
      who === null ? { read: [], plan: [], operate: [], approve: [], administer: [] } : ownersByPermission(who),
    expires: view.iso(who?.expiresAtMs),
    version: services.version,
    live: (await services.app.workers()).length > 0,
  };
}

async function knownOf(services: Services, name: string): Promise<{ snapshot: Snapshot; known: Known }> {
  const snapshot = await services.snapshots.get();
  const known = snapshot.byName.get(name);
  // It was declared once and is not any more: its rotations and its journal can be read, it cannot.
  if (known === undefined) throw notFound("credential", name);
  return { snapshot, known };
}

function itemOf(snapshot: Snapshot, row: RotationRow): RotationItem {
  const open = snapshot.openTasks.filter((task) => task.rotation === row.id).length;
  return view.rotationItemOf(
    row,
    snapshot.owners.get(row.credential) ?? "",
    open,
    snapshot.steps.get(row.id)?.at ?? null,
  );
}

/** After a change by a person: the next reader sees it. */
async function changed(services: Services, row: RotationRow): Promise<RotationItem> {
  services.snapshots.expire();
  return itemOf(await services.snapshots.get(), row);
}

async function verdict(
  call: Call<"approveRotation"> | Call<"rejectRotation">,
  verb: "approve" | "reject",
): Promise<RotationItem> {
  const { services, body, target } = call;
  const rotations = await services.app.rotations();
  await rotations[verb]({
    rotation: target!.rotation!.id,
    phase: body.phase,
    planDigest: body.planDigest,
    person: by(call),
    nonce: call.nonce,
    ...(body.comment === undefined ? {} : { comment: body.comment }),
  });
  return await changed(services, (await rotations.show(target!.rotation!.id)).rotation);
}

function command(verb: "pause" | "resume" | "rollback" | "cancel") {
  return async (call: Call<"pauseRotation">): Promise<RotationItem> => {
    const { services, body, target } = call;
    const rotations = await services.app.rotations();
    const row = await rotations[verb](target!.rotation!.id, {
      person: by(call),
      ...(body.comment === undefined ? {} : { comment: body.comment }),
    });
    return await changed(services, row);
  };
}

async function taskAnswer(
  call: Call<"taskDone"> | Call<"taskRefuse"> | Call<"taskHandOver">,
  act: (by: { person: string; comment?: string }) => Promise<TaskRow>,
) {
  const { comment } = call.body as { readonly comment?: string };
  const row = await act({ person: by(call), ...(comment === undefined ? {} : { comment }) });
  call.services.snapshots.expire();
  return view.taskOf(row, call.target!.owner);
}

const phases: readonly (Phase | "plan")[] = ["issue", "distribute", "switch", "retire", "plan"];
/** The engine says in words which phase it waits for. */
function phaseWaitedFor(row: RotationRow): Phase | "plan" | null {
  const text = row.waitingFor ?? "";
  return (
    phases.find((phase) => new RegExp(`\\b${phase} phase\\b`).test(text)) ??
    (/\bapproval of a plan\b/.test(text) ? "plan" : null)
  );
}

export const handlers: { readonly [K in Handled]: Handler<K> } = {
  getSession: ({ services, who }) => sessionOf(services, who),

  async getOverview({ services, who }) {
    return overviewOf(await services.snapshots.get(), {
      mayRead: readable(who),
      titleOf: (type) => services.app.registry.placeConnector(type)?.title ?? type,
    });
  },

  async listCredentials({ services, who, query }) {
    const snapshot = await services.snapshots.get();
    const tests = parseQuery(query.q ?? "");
    const may = readable(who);
    const rows = snapshot.list.filter(
      (known) => may(known.item.owner) && tests.every((test) => test(known, snapshot.atMs)),
    );
    const sorts: Record<typeof query.sort, (known: Known) => Key1> = {
      urgency: (known) => known.rank,
      name: (known) => known.item.credential,
      owner: (known) => known.item.owner,
      expires: (known) => known.item.notAfterMs,
      lastSafeStart: (known) => known.item.due.lastSafeStartMs,
      state: (known) => dueStates.indexOf(known.item.due.state),
    };
    const keyOf = (known: Known): readonly Key1[] => [sorts[query.sort](known), known.item.credential];
    const descending = query.order === "desc";
    const sorted = rows.toSorted((a, b) => compareKeys(keyOf(a), keyOf(b), descending));
    const page = pageOf(sorted, keyOf, {
      about: ["credentials", query.q ?? "", query.sort, query.order],
      cursor: query.cursor,
      limit: query.limit,
      descending,
      keyLength: 2,
    });
    const seen = rows.filter(({ item }) => !item.model).map(({ item }) => item.seenAtMs);
    return {
      at: view.iso(snapshot.atMs),
      stale: rows.some(({ item }) => item.due.stale && !item.model),
      seen: seen.length === 0 || seen.includes(null) ? null : view.iso(Math.min(...(seen as number[]))),
      items: page.items.map((known) => view.credentialItemOf(known, snapshot)),
      nextCursor: page.nextCursor,
      total: page.total,
      counts: Object.fromEntries(
        dueStates.map((state) => [state, rows.filter(({ item }) => item.due.state === state).length]),
      ) as Record<(typeof dueStates)[number], number>,
    };
  },

  async getCredential({ services, who, target }) {
    const { app } = services;
    const { snapshot, known } = await knownOf(services, target!.credential);
    const { credential, item } = known;
    const { store } = await app.engine();
    const [versions, rotations] = await Promise.all([
      store.versions.list(credential.name),
      store.rotations.list({ credential: credential.name, limit: 20 }),
    ]);
    const rows = snapshot.observations.get(credential.name) ?? [];
    const { issuer } = credential;
    return {
      ...view.credentialItemOf(known, snapshot),
      source: credential.source,
      issuer: {
        type: issuer.type,
        title:
          app.registry.issuerConnector(issuer.type)?.title ??
          app.registry.placeConnector(issuer.type)?.title ??
          issuer.type,
        system: issuer.system ?? null,
        ca: issuer.ca ?? null,
      },
      policy: view.policyOf(credential),
      data: (credential.data ?? []).map(({ name, writtenUnder, readBy, drainMs }) => ({
        name,
        writtenUnder,
        readBy: [...readBy],
        drainMs,
      })),
      placeList: credential.places.map((place) =>
        view.placeOf(
          place,
          rows.find((row) => row.place === place.name),
          {
            title: app.registry.placeConnector(place.type)?.title ?? place.type,
            item,
            nowMs: snapshot.atMs,
            staleAfterMs: snapshot.staleAfterMs,
          },
        ),
      ),
      versions: versions.map(view.versionOf).toReversed(),
      rotations: rotations.map((row) => itemOf(snapshot, row)),
      can: (["read", "plan", "operate", "approve", "administer"] as const).filter((permission) =>
        allows(who!, permission, item.owner),
      ),
    };
  },

  async explainCredential({ services, target }) {
    await knownOf(services, target!.credential);
    return view.explanationOf(target!.credential, await services.app.explain(target!.credential));
  },

  async getGraph({ services, who, query, target }) {
    const { snapshot, known } = await knownOf(services, target!.credential);
    return graphOf(snapshot, known, query.depth, readable(who));
  },

  async observeCredential({ services, target }) {
    const name = target!.credential;
    const { known } = await knownOf(services, name);
    const looks = known.item.model ? [] : await (await services.app.rotations()).observe(name);
    services.snapshots.expire();
    const after = await knownOf(services, name);
    return {
      looks: looks.map((look) => ({
        place: look.place,
        seen: look.observation !== null,
        error: look.observation === null ? (look.error ?? "It was not seen.") : null,
      })),
      credential: view.credentialItemOf(after.known, after.snapshot),
    };
  },

  async planRotation({ services, body, target }) {
    const { app } = services;
    const name = target!.credential;
    await knownOf(services, name);
    const strategies: readonly Plan["strategy"][] =
      body.mode === "breach" ? ["availability-first", "contain-first"] : ["availability-first"];
    const results = [];
    // One after the other: both look at the same places.
    for (const strategy of strategies) results.push(await app.plan({ credential: name, mode: body.mode, strategy }));
    return {
      credential: name,
      at: view.iso(app.now()),
      options: results.map((result) => {
        const whyNot = whyNotStartable(result);
        return { plan: view.planOf(result.plan), ...breachCosts(result.plan), startable: whyNot === null, whyNot };
      }),
      unseenBecause: [...results[0]!.unseenBecause],
      modelled: results[0]!.modelled,
      adopted: results[0]!.adopted.map(({ version, place }) => ({ version, place })),
    };
  },

  async listRotations({ services, who, query }) {
    const snapshot = await services.snapshots.get();
    const { store } = await services.app.engine();
    const statuses: readonly RotationStatus[] | null =
      query.status === undefined
        ? null
        : query.status === "active"
          ? activeStatuses
          : query.status === "ended"
            ? ["done", "rolled-back", "cancelled"]
            : [query.status];
    const about = ["rotations", query.q ?? "", query.status ?? "", query.credential ?? ""];
    const after = readCursor(about, query.cursor, 2);
    const owners = ownersByPermission(who!).read;
    const { rows, total } = await store.rotations.page({
      limit: query.limit + 1,
      words: (query.q ?? "").split(/\s+/).filter(Boolean),
      ...(owners.includes("*") ? {} : { owners }),
      ...(query.credential === undefined ? {} : { credential: query.credential }),
      ...(statuses === null ? {} : { statuses }),
      ...(after === null ? {} : { before: { createdAtMs: Number(after[0]), id: String(after[1]) } }),
    });
    const items = rows.slice(0, query.limit);
    const last = items.at(-1);
    return {
      items: items.map((row) => itemOf(snapshot, row)),
      nextCursor:
        rows.length > query.limit && last !== undefined ? writeCursor(about, [last.createdAtMs, last.id]) : null,
      total,
    };
  },

  async startRotation(call) {
    const { services, body } = call;
    await knownOf(services, body.credential);
    if (body.mode === "breach" && body.confirm !== body.credential) {
      throw new Fault(400, "invalid", "A breach rotation is started by typing the credential's name again.", {
        errors: [{ path: "body.confirm", detail: `Write ${body.credential}.` }],
      });
    }
    const row = await services.app.start(
      { credential: body.credential, mode: body.mode, strategy: body.strategy, digest: body.planDigest },
      { by: by(call) },
    );
    return await changed(services, row);
  },

  async getRotation({ services, who, target }) {
    const { app } = services;
    const [snapshot, run] = [await services.snapshots.get(), await app.run(target!.rotation!.id)];
    const { rotation, plan, steps } = run;
    const owner = target!.owner;
    const active = rotation.endedAtMs === null;
    const done = steps.findLastIndex((step) => step.state === "done");
    const doing = steps.some((step) => step.state === "doing");
    // While a step is being done it may stop before or after it.
    const here = [plan.steps[done], ...(doing ? [plan.steps[done + 1]] : [])].filter((step) => step !== undefined);
    const holds = (of: "serviceUp" | "canRollBack"): boolean => here.every((step) => step.ifStopped[of]);
    const restMs = plan.steps.slice(done + 1).reduce((sum, step) => sum + step.estimateMs, 0);
    const phase = active ? phaseWaitedFor(rotation) : null;
    const given = run.approvals.filter(
      (each) =>
        each.phase === phase &&
        each.planDigest === rotation.planDigest &&
        each.verdict === "approved" &&
        each.revokedAtMs === null,
    );
    const declared = snapshot.byName.get(rotation.credential)?.credential;
    const permitted = allows(who!, "approve", owner);
    const own = rotation.startedBy === by({ who });
    const operates = allows(who!, "operate", owner);
    const open = run.tasks.filter((task) => task.state === "open");
    return {
      ...view.rotationItemOf(rotation, owner, open.length, run.at),
      plan: view.planOf(plan),
      stepStates: steps.map((step, i) => ({
        n: step.n,
        state: step.state,
        at: view.iso(step.atMs),
        tookMs: step.tookMs,
        task:
          step.state === "done"
            ? null
            : (open.find((task) => task.place === step.place && task.version === plan.steps[i]?.version)?.id ?? null),
      })),
      safeToStop: holds("serviceUp"),
      canRollBackNow: active && rotation.mode === "planned" && rotation.fromVersion !== null && holds("canRollBack"),
      marginMs: plan.expires === null ? null : Date.parse(plan.expires) - snapshot.atMs - restMs,
      waitsForApproval:
        phase === null
          ? null
          : {
              phase,
              needed: phase === "plan" ? 1 : (declared?.policy.approvals[phase] ?? 1),
              given: [...new Set(given.map((each) => each.person))],
              mayApprove: permitted && !own,
              whyNot: own
                ? "You started it, so somebody else must approve it."
                : permitted
                  ? null
                  : `You are not an approver for ${owner}.`,
            },
      tasks: run.tasks.map((task) => view.taskOf(task, owner)),
      approvals: run.approvals.map(view.approvalOf),
      log: run.events.map(view.journalOf),
      can: [
        ...(active && operates && rotation.status !== "paused" && rotation.status !== "halted"
          ? (["pause"] as const)
          : []),
        ...(active && operates && (rotation.status === "paused" || rotation.status === "halted")
          ? (["resume"] as const)
          : []),
        ...(active &&
        operates &&
        rotation.mode === "planned" &&
        rotation.fromVersion !== null &&
        rotation.direction === "forward"
          ? (["rollback"] as const)
          : []),
        ...(active &&
        operates &&
        rotation.direction === "forward" &&
        !run.events.some((event) => event.kind === "intent")
          ? (["cancel"] as const)
          : []),
        ...(active && permitted && !own ? (["approve"] as const) : []),
        ...(active && permitted ? (["reject"] as const) : []),
      ],
    };
  },
  approveRotation: (call) => verdict(call, "approve"),
  rejectRotation: (call) => verdict(call, "reject"),
  pauseRotation: command("pause"),
  resumeRotation: command("resume"),
  rollBackRotation: command("rollback"),
  cancelRotation: command("cancel"),

  async listTasks({ services, who, query }) {
    const snapshot = await services.snapshots.get();
    const may = readable(who);
    const rows = await services.app.tasks({
      ...(query.state === "open" ? { states: ["open"] as const } : {}),
      ...(query.mine === "true" ? { person: by({ who }) } : {}),
    });
    const shown = rows.filter((row) => may(snapshot.owners.get(row.credential) ?? ""));
    const keyOf = (row: TaskRow): readonly Key1[] => [row.createdAtMs, row.id];
    const page = pageOf(
      shown.toSorted((a, b) => compareKeys(keyOf(a), keyOf(b), false)),
      keyOf,
      {
        about: ["tasks", query.state, query.mine],
        cursor: query.cursor,
        limit: query.limit,
        descending: false,
        keyLength: 2,
      },
    );
    return {
      items: page.items.map((row) => view.taskOf(row, snapshot.owners.get(row.credential) ?? "")),
      nextCursor: page.nextCursor,
      total: page.total,
    };
  },
  getTask: async ({ target }) => view.taskOf(target!.task!, target!.owner),
  taskDone: (call) =>
    taskAnswer(call, async (person) => (await call.services.app.rotations()).taskDone(call.target!.task!.id, person)),
  taskRefuse: (call) =>
    taskAnswer(call, async (person) => (await call.services.app.rotations()).taskRefuse(call.target!.task!.id, person)),
  taskHandOver: (call) =>
    taskAnswer(call, async (person) =>
      (await call.services.app.rotations()).taskHandover(call.target!.task!.id, { ...person, to: call.body.to }),
    ),

  async listAudit({ services, who, query }) {
    const { store } = await services.app.openStoreOnly();
    const { owners } = await services.snapshots.get();
    const about = ["audit", query.rotation ?? "", query.credential ?? "", query.kind ?? ""];
    const after = readCursor(about, query.cursor, 1);
    let beforeSeq = after === null ? undefined : Number(after[0]);
    const may = readable(who);
    const items: JournalRow[] = [];
    let more = true;
    // What may not be read is left out, so a page may take several looks; bounded, so that nobody can make it walk the whole journal.
    for (let looks = 0; looks < 20 && more && items.length < query.limit; looks++) {
      const rows = await store.journal.list({
        ...(query.rotation === undefined ? {} : { rotation: query.rotation }),
        ...(query.credential === undefined ? {} : { credential: query.credential }),
        ...(query.kind === undefined ? {} : { kinds: [query.kind satisfies JournalKind] }),
        ...(beforeSeq === undefined ? {} : { beforeSeq }),
        limit: query.limit,
      });
      more = rows.length === query.limit;
      for (const row of rows) {
        if (items.length === query.limit) {
          more = true;
          break;
        }
        beforeSeq = row.seq;
        if (mayReadRecord(row, owners, may)) items.push(row);
      }
    }
    const { seq, hash } = await store.journal.head();
    return {
      items: items.map(view.journalOf),
      nextCursor: more && beforeSeq !== undefined ? writeCursor(about, [beforeSeq]) : null,
      head: { seq, hash },
    };
  },
  async verifyAudit({ services }) {
    const { verification, anchor } = await services.app.auditVerify([]);
    return verification.ok
      ? {
          ok: true,
          records: verification.records,
          head: verification.head,
          problem: null,
          seq: null,
          detail: null,
          anchor,
        }
      : {
          ok: false,
          records: null,
          head: null,
          problem: verification.problem,
          seq: verification.seq,
          detail: verification.detail,
          anchor: null,
        };
  },

  async listFound({ services, query }) {
    const { store } = await services.app.openStoreOnly();
    const about = ["found", query.fingerprint ?? "", query.source ?? ""];
    const after = readCursor(about, query.cursor, 1);
    const rows =
      query.fingerprint === undefined
        ? await store.inventory.list({
            limit: query.limit,
            ...(query.source === undefined ? {} : { source: query.source }),
            ...(after === null ? {} : { afterId: Number(after[0]) }),
          })
        : await store.inventory.copies(query.fingerprint);
    const versions = new Map<string, string>();
    for (const fingerprint of new Set(rows.map((row) => row.fingerprint))) {
      const [version] = await store.versions.byFingerprint(fingerprint);
      if (version !== undefined) versions.set(fingerprint, version.id);
    }
    const last = rows.at(-1);
    return {
      items: rows.map((row) => view.foundOf(row, versions.get(row.fingerprint) ?? null)),
      nextCursor:
        query.fingerprint === undefined && rows.length === query.limit && last !== undefined
          ? writeCursor(about, [last.id])
          : null,
      total: query.fingerprint === undefined ? await store.inventory.count() : rows.length,
    };
  },

  async getSettings({ services }) {
    const { app, snapshots, version } = services;
    const [loaded, snapshot] = [await app.estate(), await snapshots.get()];
    const { store } = await app.engine();
    const [revision, workers, keys] = await Promise.all([store.estate.latest(), app.workers(), app.keys()]);
    const { estate } = loaded;
    return {
      at: view.iso(snapshot.atMs),
      version,
      estate: {
        files: [...loaded.files],
        digest: estate.digest,
        revision: revision?.number ?? null,
        appliedBy: revision?.appliedBy ?? null,
        appliedAt: view.iso(revision?.appliedAtMs),
        credentials: estate.credentials.length,
        observeEveryMs: estate.settings?.observeEveryMs ?? 900_000,
        requestLifeMs: estate.settings?.requestLifeMs ?? 300_000,
        notes: loaded.notes.map((note) => formatProblem(note)),
      },
      store: { kind: store.where.kind, where: store.where.text, serverVersion: store.where.serverVersion },
      workers: workers.map((worker) => ({ id: worker.id, host: worker.host, seen: view.iso(worker.atMs) })),
      keys: {
        current: keys.current.slice(0, 8),
        origin: keys.origin,
        records: Object.values(keys.recordsByKek).reduce((sum, n) => sum + n, 0),
        interrupted: keys.previous !== null,
      },
      systems: estate.systems.map((system) => {
        const there = snapshot.list.flatMap(({ credential }) =>
          credential.places
            .filter((place) => place.system === system.name)
            .map((place) => ({
              credential,
              place,
              row: (snapshot.observations.get(credential.name) ?? []).find((row) => row.place === place.name),
            })),
        );
        const times = there.map(({ row }) => row?.atMs ?? null);
        const seenMs = times.length === 0 || times.includes(null) ? null : Math.min(...(times as number[]));
        return {
          name: system.name,
          type: system.type,
          title: app.registry.systemType(system.type)?.title ?? system.type,
          source: system.source,
          seen: view.iso(seenMs),
          stale: times.length > 0 && (seenMs === null || snapshot.atMs - seenMs > snapshot.staleAfterMs),
          places: there.length,
          failing: there.flatMap(({ credential, place, row }) =>
            row === undefined || row.error === null
              ? []
              : [
                  {
                    credential: credential.name,
                    place: place.name,
                    error: row.error,
                    needs: [...(app.registry.placeConnector(place.type)?.permissions ?? [])],
                  },
                ],
          ),
        };
      }),
      connectors: [...app.registry.places, ...app.registry.issuers].map((connector) => ({
        type: connector.type,
        title: connector.title,
        family: connector.family,
        permissions: [...connector.permissions],
      })),
      owners: [...new Set(snapshot.owners.values())].toSorted(),
    };
  },
  async runDoctor({ services }) {
    const findings = [];
    for await (const { level, what, detail, fix } of services.app.doctor()) findings.push({ level, what, detail, fix });
    services.snapshots.expire();
    return { ok: findings.every((each) => each.level !== "fail"), at: view.iso(services.app.now()), findings };
  },

  async listPeople({ services }) {
    const { store } = await services.app.openStoreOnly();
    return { items: (await store.people.list()).map(view.personOf) };
  },
  async addPerson({ services, who, body }) {
    return view.personOf(
      await services.signIn.addPerson(
        { person: body.person, name: body.name ?? body.person, grants: body.grants },
        who!,
      ),
    );
  },
  async changePerson({ services, who, params, body }) {
    return view.personOf(
      await services.signIn.changePerson(
        params.person,
        {
          ...(body.name === undefined ? {} : { name: body.name }),
          ...(body.grants === undefined ? {} : { grants: body.grants }),
          ...(body.disabled === undefined ? {} : { disabled: body.disabled }),
        },
        who!,
      ),
    );
  },
  async makeSignInLink({ services, who, params }) {
    const { code, expiresAtMs } = await services.signIn.invitation(params.person, who!);
    return { link: signInLinkOf(services.publicUrl, code), expires: view.iso(expiresAtMs) };
  },
  async listTokens({ services, who }) {
    const { store } = await services.app.openStoreOnly();
    const all = allows(who!, "administer", "*");
    return { items: (await store.people.tokens(all ? undefined : by({ who }))).map(view.tokenOf) };
  },
  async createToken({ services, who, body }) {
    if (!within(body.grants, who!)) {
      throw new Problem("not-allowed", "A token cannot be given more than you have.", {
        next: "Leave out the roles or owners that you do not have yourself.",
      });
    }
    const { token, secret } = await services.signIn.createToken(body, who!);
    return { ...view.tokenOf(token), secret };
  },
  async revokeToken({ services, who, params }) {
    const { store } = await services.app.openStoreOnly();
    const token = await store.people.getToken(params.id);
    if (token === undefined || (token.person !== by({ who }) && !allows(who!, "administer", "*")))
      throw notFound("token", params.id);
    if (token.revokedAtMs === null) await services.signIn.revokeToken(token, who!);
    return { ok: true };
  },
};

/** What is about no credential is about the installation. */
export function mayReadRecord(
  row: JournalRow,
  owners: ReadonlyMap<string, string>,
  mayRead: (owner: string) => boolean,
): boolean {
  return mayRead(row.credential === null ? "*" : (owners.get(row.credential) ?? "*"));
}

function whyNotStartable(result: {
  readonly plan: Plan;
  readonly modelled: boolean;
  readonly unseenBecause: readonly string[];
}): string | null {
  if (result.modelled) return "It is a model: it can be planned and proved, not run.";
  if (result.plan.unseen.length > 0)
    return result.unseenBecause[0] ?? `${result.plan.unseen.join(", ")} could not be seen.`;
  const { verdict: word, why } = result.plan.safety;
  if (word === "refuted" || word === "blocked") return why ?? `The plan is ${word}.`;
  return null;
}

/** Finds what is meant before anybody is told whether they may. */
export async function findTarget(
  services: Services,
  about: "credential" | "rotation" | "task",
  name: string,
): Promise<Target | undefined> {
  const { store } = await services.app.engine();
  const rotation = about === "rotation" ? ((await store.rotations.get(name)) ?? null) : null;
  const task = about === "task" ? ((await store.tasks.get(name)) ?? null) : null;
  const credential = about === "credential" ? name : (rotation?.credential ?? task?.credential);
  if (credential === undefined) return undefined;
  const { owners } = await services.snapshots.get();
  const owner = owners.get(credential) ?? (await store.credentials.get(credential))?.owner;
  return owner === undefined ? undefined : { credential, owner, rotation, task };
}
