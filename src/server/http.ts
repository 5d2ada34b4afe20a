/**
 * The server: every request goes through one door. In this order: is it meant for this server, who is it, may they, is it well formed, does the
 * thing exist for them, was it done already; only then does a handler run. Each refusal changes nothing.
 */
import { createHash, randomUUID } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { BlockList, isIP, type AddressInfo } from "node:net";
import { join } from "node:path";
import { getRequestListener } from "@hono/node-server";
import { Hono, type Context } from "hono";
import { z } from "zod";
import type { App } from "../app.ts";
import { Problem } from "../core/problem.ts";
import type { Json } from "../store/store.ts";
import { access, allows, type Principal } from "./access.ts";
import { asset, loadAssets, withBase, type Asset } from "./assets.ts";
import { openEvents, type Events, type EventsOptions } from "./events.ts";
import { Fault, notFound, problemOf } from "./fault.ts";
import { findTarget, handlers, sessionOf, type Call, type Handled, type Services, type Target } from "./handlers.ts";
import { readBody } from "./body.ts";
import { openMetrics } from "./metrics.ts";
import { homeBody, openApi, page, plainCss, referencePage, signInBody, signInJs } from "./openapi.ts";
import { operationNames, operations, type OperationName } from "./operations.ts";
import { contractOf } from "./schema.ts";
import { openSignIn, RateLimit, signInLinkOf } from "./sign-in.ts";
import { openSnapshots } from "./snapshot.ts";

export interface ServerOptions {
  /** Default `127.0.0.1`. */
  readonly host?: string;
  /** Default 7490; 0: any free one. */
  readonly port?: number;
  /** Address as its users write it, where a proxy stands before it or it hangs below a path: `https://tools.example/keyroll`. */
  readonly publicUrl?: string;
  /** Files with a certificate chain and its key, read again when they change. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
  /** The built dashboard; default: where the build puts it. `null`: none. */
  readonly webDir?: string | null;
  readonly version: string;
  readonly events?: EventsOptions;
  /** Holds every answer against its schema, for tests. */
  readonly checkAnswers?: boolean;
}

export interface RunningServer {
  /** Where it listens. */
  readonly url: string;
  readonly publicUrl: string;
  readonly port: number;
  /** A link for whoever runs the server; see {@link SignIn.firstCode}. */
  signInLink(person: string, options?: { readonly anywhere: boolean }): Promise<string>;
  /** Nobody who may do everything has ever signed in. */
  isNew(): Promise<boolean>;
  stop(): Promise<void>;
}

export const defaultPort = 7490;
const bodyLimitBytes = 1024 * 1024;
const requestLostAfterMs = 60_000;
const requestKeptMs = 24 * 3_600_000;
const sweepEveryMs = 600_000;
const keyPattern = /^[\x21-\x7e]{1,200}$/;

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");
function isLoopback(address: string): boolean {
  const plain = address.replace(/^::ffff:/i, "").replace(/^\[|\]$/g, "");
  const family = isIP(plain);
  return plain === "localhost" || (family !== 0 && loopback.check(plain, family === 4 ? "ipv4" : "ipv6"));
}

interface Bound {
  readonly publicUrl: URL;
  /** `""` or `/below`. */
  readonly base: string;
  readonly secure: boolean;
  /** A proxy stands before it, and its last word about the client's address counts. */
  readonly proxied: boolean;
  readonly hosts: ReadonlySet<string>;
}

type Env = { Bindings: { incoming: IncomingMessage; outgoing: ServerResponse } };

/** Starts it. Throws a {@link Problem} where it would be open to others without being ready for them. */
export async function startServer(app: App, options: ServerOptions): Promise<RunningServer> {
  const host = options.host ?? "127.0.0.1";
  const given = options.publicUrl === undefined ? null : parsePublicUrl(options.publicUrl);
  const { store, journal } = await app.openStoreOnly();
  if (!isLoopback(host)) await refuseOpen(host, given, options, () => store.people.hasAdmin());

  const tls = options.tls === undefined ? null : openTls(options.tls, app);
  const server: Server = tls === null ? createServer(limits) : createTlsServer({ ...limits, ...tls.read() });
  await listen(server, host, options.port ?? defaultPort);
  const { port } = server.address() as AddressInfo;
  const shown = host.includes(":") ? `[${host}]` : host;
  const url = `${tls === null ? "http" : "https"}://${shown}:${port}`;
  const publicUrl = given ?? new URL(url);
  const names = isLoopback(host) ? ["127.0.0.1", "localhost", "[::1]", shown] : [shown];
  const bound: Bound = {
    publicUrl,
    base: publicUrl.pathname.replace(/\/+$/, ""),
    secure: publicUrl.protocol === "https:",
    proxied: given !== null && tls === null && given.protocol === "https:",
    hosts: new Set([publicUrl.host, ...names.map((name) => `${name}:${port}`)].map((each) => each.toLowerCase())),
  };
  const services: Services = {
    app,
    snapshots: openSnapshots(app),
    signIn: openSignIn(store, journal),
    version: options.version,
    publicUrl: `${publicUrl.origin}${bound.base}`,
  };
  const events = openEvents(app, services.snapshots, options.events);
  const door = build(services, bound, events, options);
  const listener = getRequestListener(door.fetch, { overrideGlobalObjects: false });
  server.on("request", (incoming, outgoing) => void listener(incoming, outgoing));
  const unwatch = tls?.watch((context) => (server as ReturnType<typeof createTlsServer>).setSecureContext(context));
  const sweeper = setInterval(() => {
    store.people
      .sweepPeople(requestKeptMs)
      .catch((error: unknown) => app.log.warn("old sessions could not be swept away", { error: String(error) }));
  }, sweepEveryMs);
  sweeper.unref();
  await store.settings.put("server", { url: services.publicUrl });

  return {
    url,
    publicUrl: services.publicUrl,
    port,
    async signInLink(person, more) {
      const { code } = await services.signIn.firstCode(person, more);
      return signInLinkOf(services.publicUrl, code);
    },
    isNew: async () => !(await store.people.hasAdmin({ signedIn: true })),
    async stop() {
      clearInterval(sweeper);
      unwatch?.();
      events.stop();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      // Requests that run may end; what does not end soon is not waited for.
      const hurry = setTimeout(() => server.closeAllConnections(), 2000);
      await closed;
      clearTimeout(hurry);
    },
  };
}

const limits = {
  requestTimeout: 60_000,
  headersTimeout: 20_000,
  keepAliveTimeout: 10_000,
  maxHeaderSize: 16 * 1024,
  connectionsCheckingInterval: 10_000,
};

function parsePublicUrl(text: string): URL {
  const next = "Write it as people open it: https://keyroll.example or https://tools.example/keyroll";
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== "" || url.search !== "" || url.hash !== "")
    throw new Problem("usage", `"${text}" is not an address of a server.`, { next });
  if (url.protocol === "http:" && !isLoopback(url.hostname))
    throw new Problem("usage", `${text} would carry sessions over the network unencrypted.`, { next });
  return url;
}

async function refuseOpen(
  host: string,
  publicUrl: URL | null,
  options: ServerOptions,
  hasAdmin: () => Promise<boolean>,
): Promise<void> {
  if (publicUrl === null)
    throw new Problem("refused", `To listen on ${host}, Keyroll must know the address that people open.`, {
      next: "Add --public-url https://…",
    });
  if (options.tls === undefined && publicUrl.protocol !== "https:")
    throw new Problem("refused", `On ${host} sessions would go over the network unencrypted.`, {
      next: "Add --tls-cert and --tls-key, or put a proxy with TLS before it and say so with --public-url https://…",
    });
  if (!(await hasAdmin()))
    throw new Problem("refused", `Nobody can sign in yet, so Keyroll does not listen on ${host}.`, {
      next: "Start it on this machine once and use its sign-in link, or make one for elsewhere: keyroll sign-in --anywhere",
    });
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(
        error.code === "EADDRINUSE" || error.code === "EACCES" || error.code === "EADDRNOTAVAIL"
          ? new Problem("failed", `Keyroll cannot listen on ${host}:${port} (${error.code}).`, {
              next:
                error.code === "EADDRINUSE"
                  ? "Another process does; choose another one with --port."
                  : "Choose another one with --listen.",
            })
          : error,
      );
    });
    server.listen(port, host, resolve);
  });
}

function openTls(files: NonNullable<ServerOptions["tls"]>, app: App) {
  const read = (): { cert: Buffer; key: Buffer } => {
    try {
      return { cert: readFileSync(files.certFile), key: readFileSync(files.keyFile) };
    } catch (error) {
      const { code, path } = error as NodeJS.ErrnoException;
      throw new Problem("failed", `${path ?? files.certFile} cannot be read (${code}).`, {
        next: "Name files that the account of this process can read.",
      });
    }
  };
  const timeOf = (): string =>
    [files.certFile, files.keyFile].map((path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0).join();
  return {
    read,
    /** A new certificate is used for the next connection; a wrong one is not, and the old one goes on. */
    watch(use: (context: { cert: Buffer; key: Buffer; minVersion: "TLSv1.2" }) => void): () => void {
      let last = timeOf();
      const timer = setInterval(() => {
        const now = timeOf();
        if (now === last) return;
        try {
          use({ ...read(), minVersion: "TLSv1.2" });
          last = now;
          app.log.info("the server's certificate was replaced");
        } catch (error) {
          last = now;
          app.log.warn("the server's new certificate is not used", { error: String(error) });
        }
      }, 2000);
      timer.unref();
      return () => clearInterval(timer);
    },
  };
}

const headers: Readonly<Record<string, string>> = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
};

/** Everything but listening. */
function build(services: Services, bound: Bound, events: Events, options: ServerOptions): Hono<Env> {
  const { app, snapshots, signIn } = services;
  const cookieName = bound.secure ? "__Secure-keyroll" : "keyroll";
  const metrics = openMetrics(app, snapshots, events);
  const tries = new RateLimit({ most: 10, mostInAll: 200, windowMs: 60_000, now: () => performance.now() });
  const document = openApi({ version: options.version, publicUrl: services.publicUrl });

  const hono = new Hono<Env>({
    getPath: (request) => {
      const { pathname } = new URL(request.url);
      // A proxy may or may not take the base path away.
      return bound.base !== "" && pathname.startsWith(`${bound.base}/`) ? pathname.slice(bound.base.length) : pathname;
    },
  });

  const addressOf = (c: Context<Env>): string => {
    const direct = c.env.incoming.socket.remoteAddress ?? "";
    const said = bound.proxied ? c.req.header("x-forwarded-for")?.split(",").at(-1)?.trim() : undefined;
    return said ?? direct;
  };
  const fromHere = (c: Context<Env>): boolean =>
    isLoopback(c.env.incoming.socket.remoteAddress ?? "") &&
    c.req.header("x-forwarded-for") === undefined &&
    c.req.header("forwarded") === undefined;
  const cookieOf = (c: Context<Env>): string | null => {
    for (const part of (c.req.header("cookie") ?? "").split(";")) {
      const at = part.indexOf("=");
      if (part.slice(0, at).trim() === cookieName) return part.slice(at + 1).trim();
    }
    return null;
  };
  const setCookie = (c: Context<Env>, value: string, maxAgeSeconds: number): void => {
    c.header(
      "set-cookie",
      `${cookieName}=${value}; Path=${bound.base === "" ? "/" : bound.base}; Max-Age=${maxAgeSeconds}; HttpOnly; SameSite=Strict${bound.secure ? "; Secure" : ""}`,
    );
  };

  async function principalOf(c: Context<Env>): Promise<Principal | null> {
    const bearer = c.req.header("authorization");
    if (bearer !== undefined) {
      const token = /^Bearer ([\x21-\x7e]{1,200})$/i.exec(bearer)?.[1];
      const who = token === undefined ? undefined : await signIn.byToken(token);
      // Whoever sends a token means it: a session beside it does not help.
      if (who === undefined)
        throw new Fault(401, "not-signed-in", "The API token is not known, or it is over.", wantsToken);
      return who;
    }
    const cookie = cookieOf(c);
    return cookie === null ? null : ((await signIn.bySession(cookie)) ?? null);
  }

  /** Only a page of this server may write with a cookie: others cannot send the header, and their origin is another one. */
  function refuseForeign(c: Context<Env>): void {
    if (c.req.header("authorization") !== undefined) return;
    const origin = c.req.header("origin");
    const site = c.req.header("sec-fetch-site");
    const ours =
      origin === undefined ||
      origin === bound.publicUrl.origin ||
      (URL.canParse(origin) && bound.hosts.has(new URL(origin).host));
    if (
      c.req.header("x-keyroll") === undefined ||
      !ours ||
      (site !== undefined && site !== "same-origin" && site !== "none")
    )
      throw new Fault(403, "not-allowed", "The request does not come from a page of this server.", {
        next: "Programs send an API token, or the header X-Keyroll: 1 with their session.",
      });
  }

  function checkHost(c: Context<Env>): void {
    const host = (c.req.header("host") ?? "").toLowerCase();
    // A name that somebody else's DNS points here (rebinding) is not ours.
    if (!bound.hosts.has(host))
      throw new Fault(421, "refused", "This server does not go by that name.", {
        next: "Open it by its own address; behind a proxy, start it with --public-url.",
      });
  }

  // The door itself ---------------------------------------------------------------------------------------------------------------------

  hono.use(async (c, next) => {
    const startedMs = performance.now();
    await next();
    for (const [name, value] of Object.entries(headers)) c.res.headers.set(name, value);
    if (bound.secure) c.res.headers.set("strict-transport-security", "max-age=31536000");
    if (!c.res.headers.has("cache-control")) c.res.headers.set("cache-control", "no-store");
    const operation = c.get("operation" as never) as string | undefined;
    if (operation !== undefined) metrics.request(operation, c.res.status, (performance.now() - startedMs) / 1000);
  });
  hono.onError((error) => {
    const { document: told, headers: more } = problemOf(error, app.log);
    return new Response(JSON.stringify(told), {
      status: told.status,
      headers: { "content-type": "application/problem+json; charset=utf-8", ...more },
    });
  });

  for (const name of operationNames) {
    const [method, path] = operations[name];
    const pattern = path.replaceAll(/\{(\w+)\}/g, ":$1");
    hono.on(method, pattern, async (c) => {
      c.set("operation" as never, name as never);
      checkHost(c);
      return await answer(c, name);
    });
  }
  for (const path of new Set(operationNames.map((name) => operations[name][1]))) {
    const allow = operationNames.filter((name) => operations[name][1] === path).map((name) => operations[name][0]);
    hono.all(path.replaceAll(/\{(\w+)\}/g, ":$1"), () => {
      throw new Fault(405, "invalid", `This address knows ${allow.join(" and ")}.`, {
        headers: { allow: allow.join(", ") },
      });
    });
  }

  async function answer(c: Context<Env>, name: OperationName): Promise<Response> {
    const [method] = operations[name];
    const contract = contractOf(name);
    const rule = access[name];
    const who = await principalOf(c);
    if (method !== "GET") refuseForeign(c);
    if (rule.who !== "anybody") {
      if (who === null) throw new Fault(401, "not-signed-in", "Nobody is signed in.", wantsToken);
      if (rule.session && who.token !== null)
        throw new Fault(403, "not-allowed", "This is done by people, in a browser, and not with an API token.");
    }
    if (rule.who === "permitted" && (rule.about === "installation" || rule.about === "listed"))
      refuseUnless(who!, rule.permission, rule.about === "listed" ? null : "*");

    const params = parsePart(contract.params, c.req.param(), "path");
    const query = parsePart(contract.query ?? z.strictObject({}), single(new URL(c.req.url).searchParams), "query");
    const raw = contract.body === undefined ? undefined : await readBody(c.req.raw, bodyLimitBytes);
    const body = parsePart(contract.body, raw, "body");

    let target: Target | null = null;
    if (rule.who === "permitted" && rule.about !== "installation" && rule.about !== "listed") {
      const named = params as { readonly name?: string; readonly id?: string };
      const text = named.name ?? named.id ?? (body as { readonly credential?: string }).credential ?? "";
      const found = await findTarget(services, rule.about, text);
      if (found === undefined || !allows(who!, "read", found.owner)) throw notFound(rule.about, text);
      refuseUnless(who!, rule.permission, found.owner);
      target = found;
    }

    if (name === "signIn") return await takeIn(c, (body as { readonly code: string }).code);
    if (name === "signOut") {
      const cookie = cookieOf(c);
      if (cookie !== null) await signIn.signOut(cookie);
      setCookie(c, "", 0);
      return c.json({ ok: true });
    }
    if (name === "streamEvents") return await streamTo(c, who!, (query as { readonly after?: number }).after ?? null);
    if (name === "exportAudit") return await exportTo(c);

    const call = { services, who, params, query, body, target, nonce: randomUUID() };
    const run = (nonce: string): Promise<unknown> =>
      (handlers[name as Handled] as (call: Call<never>) => Promise<unknown>)({
        ...call,
        nonce,
      } as unknown as Call<never>);
    if (method === "GET") return answerRead(c, name, await run(call.nonce));
    return await answerWrite(c, name, who!, { params, body }, run);
  }

  function refuseUnless(who: Principal, permission: Parameters<typeof allows>[1], owner: string | null): void {
    const grants = [...who.person.grants, ...(who.token?.grants ?? [])];
    const may =
      owner === null ? grants.some((grant) => allows(who, permission, grant.owner)) : allows(who, permission, owner);
    if (!may)
      throw new Fault(
        403,
        "not-allowed",
        `You may not ${permission} ${owner === null ? "anything here" : owner === "*" ? "for the whole installation" : `what belongs to ${owner}`}.`,
        { next: "Ask an admin of Keyroll for a role that may." },
      );
  }

  function answerRead(c: Context<Env>, name: OperationName, value: unknown): Response {
    checkAnswer(name, value);
    const text = JSON.stringify(value);
    // Weak: the time at which it was worked out is left out of it, so that what did not change is not sent again.
    const etag = `W/"${createHash("sha256")
      .update(text.replace(/^\{"at":"[^"]*",/, "{"))
      .digest("base64url")
      .slice(0, 22)}"`;
    c.header("etag", etag);
    c.header("cache-control", "private, no-cache");
    c.header("vary", "cookie, authorization");
    const known =
      c.req
        .header("if-none-match")
        ?.split(",")
        .map((each) => each.trim()) ?? [];
    if (known.includes(etag)) return c.body(null, 304);
    return c.body(text, 200, { "content-type": "application/json; charset=utf-8" });
  }

  async function answerWrite(
    c: Context<Env>,
    name: OperationName,
    who: Principal,
    asked: { params: unknown; body: unknown },
    run: (nonce: string) => Promise<unknown>,
  ): Promise<Response> {
    const send = (text: string): Response => c.body(text, 200, { "content-type": "application/json; charset=utf-8" });
    const key = c.req.header("idempotency-key");
    if (key === undefined) {
      const value = await run(randomUUID());
      checkAnswer(name, value);
      return send(JSON.stringify(value));
    }
    if (!keyPattern.test(key))
      throw new Fault(400, "invalid", "The idempotency key is not right.", { next: "Send 1 to 200 plain characters." });
    const { person } = who.person;
    const { people } = (await app.openStoreOnly()).store;
    const digest = createHash("sha256")
      .update(JSON.stringify([name, asked]))
      .digest("hex");
    const state = await people.request(person, key, digest, requestLostAfterMs);
    if (state.state === "other")
      throw new Fault(422, "conflict", "The idempotency key was used for another request.", {
        next: "Send a fresh key.",
      });
    if (state.state === "running")
      throw new Fault(409, "waiting", "The same request is being done just now.", { headers: { "retry-after": "1" } });
    if (state.state === "done") {
      if (shownOnce.has(name))
        throw new Fault(409, "conflict", "It was done, and what it made was shown then and is not kept.", {
          next: "Make another one, and take this one away.",
        });
      c.header("idempotency-replayed", "true");
      return send(JSON.stringify(state.answer));
    }
    try {
      const value = await run(`${person}:${key}`);
      checkAnswer(name, value);
      const text = JSON.stringify(value);
      await people.answer(person, key, 200, shownOnce.has(name) ? null : (JSON.parse(text) as Json));
      return send(text);
    } catch (error) {
      // It was refused, so nothing was done: the same key may try again.
      await people.forget(person, key).catch(() => undefined);
      throw error;
    }
  }

  function checkAnswer(name: OperationName, value: unknown): void {
    if (options.checkAnswers === true) contractOf(name).response.parse(JSON.parse(JSON.stringify(value)));
  }

  async function takeIn(c: Context<Env>, code: string): Promise<Response> {
    const address = addressOf(c);
    const waitSeconds = tries.take(address);
    if (waitSeconds > 0)
      throw new Fault(429, "too-many", `Too many tries. Wait ${waitSeconds} seconds.`, {
        headers: { "retry-after": String(waitSeconds) },
      });
    const done = await signIn.redeem(code, fromHere(c), cookieOf(c));
    if (done === undefined)
      throw new Fault(401, "not-signed-in", "The sign-in code is not known, was used already, or is over.", {
        next: "Make a new one with: keyroll sign-in",
      });
    tries.giveBack(address);
    setCookie(c, done.cookie, Math.floor((done.principal.expiresAtMs - Date.now()) / 1000));
    const value = await sessionOf(services, done.principal);
    checkAnswer("signIn", value);
    return c.json(value);
  }

  async function streamTo(c: Context<Env>, who: Principal, asked: number | null): Promise<Response> {
    // Nobody would read it.
    if (c.req.raw.method === "HEAD") return c.body(null, 200, { "content-type": "text/event-stream; charset=utf-8" });
    const said = c.req.header("last-event-id");
    // What cannot be a number of the journal is one from nowhere: the client is told to ask for everything again.
    const after = said === undefined ? asked : /^\d{1,15}$/.test(said) ? Number(said) : Number.MAX_SAFE_INTEGER;
    const cookie = cookieOf(c);
    const token = c.req.header("authorization")?.replace(/^Bearer /i, "");
    const again = async (): Promise<Principal | undefined> =>
      token !== undefined ? await signIn.byToken(token) : cookie === null ? undefined : await signIn.bySession(cookie);
    const stream = await events.stream(who, after, again, c.env.outgoing);
    return c.body(stream, 200, {
      "content-type": "text/event-stream; charset=utf-8",
      // Proxies that gather answers would hold the events back.
      "x-accel-buffering": "no",
    });
  }

  async function exportTo(c: Context<Env>): Promise<Response> {
    const lines = await app.auditExport();
    const encoder = new TextEncoder();
    const stream = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { value, done } = await lines.next();
        if (done === true) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
      async cancel() {
        await lines.return(undefined);
      },
    });
    return c.body(stream, 200, {
      "content-type": "application/x-ndjson; charset=utf-8",
      "content-disposition": 'attachment; filename="keyroll-journal.ndjson"',
    });
  }

  // Beside the API ----------------------------------------------------------------------------------------------------------------------

  hono.get("/healthz", (c) => c.text("ok\n"));
  hono.get("/readyz", async (c) => {
    try {
      await (await app.openStoreOnly()).store.now();
      await app.estate();
      return c.text("ready\n");
    } catch {
      // Why is for the log and for people who are signed in.
      return c.text("not ready\n", 503);
    }
  });
  hono.get("/metrics", async (c) => {
    const who = await principalOf(c);
    if (who === null)
      throw new Fault(401, "not-signed-in", "Metrics name credentials: send an API token of a viewer.", wantsToken);
    refuseUnless(who, "read", "*");
    return c.body(await metrics.text(), 200, { "content-type": metrics.contentType });
  });

  const html = (body: string | Buffer) => asset("page.html", Buffer.from(body));
  const openApiText = JSON.stringify(document);
  const own = new Map<string, Asset>([
    ["/sign-in", html(page("Sign in", signInBody, "plain.css", "sign-in.js"))],
    ["/sign-in.js", asset("sign-in.js", Buffer.from(signInJs))],
    ["/plain.css", asset("plain.css", Buffer.from(plainCss))],
    // Relative addresses work below any path: with a slash at the end for the first, without for the second.
    ["/api", html(referencePage(document).replaceAll('href="openapi.json"', 'href="api/openapi.json"'))],
    ["/api/openapi.json", asset("openapi.json", Buffer.from(openApiText))],
  ]);
  const webDir = options.webDir === undefined ? builtWeb() : options.webDir;
  const web = webDir === null ? null : loadAssets(webDir);
  const index = web?.get("index.html");
  const home =
    index === undefined ? html(page("Running", homeBody, "plain.css")) : html(withBase(index.body, bound.base));

  // Browsers ask for it on pages that name no icon.
  if (web?.has("favicon.ico") !== true) hono.get("/favicon.ico", (c) => c.body(null, 204));
  hono.get("*", (c) => {
    checkHost(c);
    const path = c.req.path;
    if (bound.base !== "" && path === bound.base) return c.redirect(`${bound.base}/`, 308);
    const found = own.get(path) ?? (path === "/" || path === "/index.html" ? home : web?.get(path.slice(1)));
    if (found !== undefined) return sendAsset(c, found);
    // Pages of the dashboard have no file: its own router knows them.
    const isPage = index !== undefined && !path.startsWith("/api/") && !/\.\w{1,8}$/.test(path);
    if (isPage && (c.req.header("accept") ?? "*/*").match(/text\/html|\*\/\*/) !== null) return sendAsset(c, home);
    throw new Fault(404, "not-found", "There is nothing at this address.", { next: "The API is described at /api." });
  });
  hono.all("*", () => {
    throw new Fault(404, "not-found", "There is nothing at this address.", { next: "The API is described at /api." });
  });

  function sendAsset(c: Context<Env>, found: Asset): Response {
    c.header("etag", found.etag);
    c.header("cache-control", found.immutable ? "public, max-age=31536000, immutable" : "no-cache");
    if (c.req.header("if-none-match") === found.etag) return c.body(null, 304);
    c.header("content-type", found.type);
    if (found.gzip !== null) {
      c.header("vary", "accept-encoding");
      if (/\bgzip\b/.test(c.req.header("accept-encoding") ?? "")) {
        c.header("content-encoding", "gzip");
        return c.body(new Uint8Array(found.gzip));
      }
    }
    return c.body(new Uint8Array(found.body));
  }
  return hono;
}

const wantsToken = {
  next: "Sign in, or send an API token.",
  headers: { "www-authenticate": 'Bearer realm="keyroll"' },
} as const;

/** What these give back is never written down, so it cannot be given twice. */
const shownOnce: ReadonlySet<OperationName> = new Set(["createToken", "makeSignInLink"]);

function builtWeb(): string {
  // From its sources the server is in `src/server` and the build in `dist/web`; when built itself, it is in `dist/server`.
  return import.meta.filename.endsWith(".ts")
    ? join(import.meta.dirname, "..", "..", "dist", "web")
    : join(import.meta.dirname, "..", "web");
}

function single(search: URLSearchParams): Record<string, string> {
  const found: Record<string, string> = {};
  for (const key of new Set(search.keys())) {
    const values = search.getAll(key);
    if (values.length > 1)
      throw new Fault(400, "invalid", `"${key.slice(0, 100)}" is given ${values.length} times.`, {
        errors: [{ path: `query.${key.slice(0, 100)}`, detail: "Give it once." }],
      });
    // Empty is absent: forms send fields that nobody has filled in.
    if (values[0] !== "") Object.defineProperty(found, key, { value: values[0], enumerable: true });
  }
  return found;
}

function parsePart(schema: z.ZodObject | undefined, value: unknown, where: string): unknown {
  if (schema === undefined) return {};
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const errors = parsed.error.issues.slice(0, 20).map((issue) => ({
    path: [where, ...issue.path.map(String)].join(".").slice(0, 300),
    detail: issue.message.slice(0, 300),
  }));
  throw new Fault(400, "invalid", `The ${where} is not right: ${errors[0]!.path}: ${errors[0]!.detail}.`, { errors });
}
