/** What stands between the network and the API: sign-in, sessions, foreign pages and names, live events, metrics, the pages themselves. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RateLimit } from "../../src/server/sign-in.ts";
import { startServer } from "../../src/server/http.ts";
import { serverEvent, type ServerEvent } from "../../src/server/schema.ts";
import { selfSigned } from "../support/self-signed.ts";
import { openHarness, until, type Harness, type Someone } from "./harness.ts";

let h: Harness;
let root: Someone;
const web = mkdtempSync(join(tmpdir(), "keyroll-web-"));
beforeAll(async () => {
  mkdirSync(join(web, "assets"));
  writeFileSync(join(web, "index.html"), "<!doctype html><html><head><title>K</title></head><body></body></html>");
  writeFileSync(join(web, "assets", "index-4f2c91ab.js"), `/* ${"x".repeat(2000)} */`);
  h = await openHarness({ webDir: web, events: { pollMs: 20, heartbeatMs: 50, bufferBytes: 64 * 1024 } });
  root = await h.admin();
});
afterAll(async () => {
  await h.stop();
  rmSync(web, { recursive: true, force: true });
});

const signIn = (code: string, headers: Record<string, string> = {}, url = h.server.url): Promise<Response> =>
  fetch(`${url}/api/v1/session`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-keyroll": "1", ...headers },
    body: JSON.stringify({ code }),
  });
const codeOf = (link: string): string => link.split("#")[1]!;
/** `fetch` chooses some headers itself; this one sends what it is told. */
function raw(url: string, headers: Record<string, string>): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    httpRequest(url, { headers }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => (text += part));
      answer.on("end", () => resolve({ status: answer.statusCode!, text }));
    })
      .on("error", reject)
      .end();
  });
}

describe("signing in", () => {
  test("a link works once, and gives a session that a script cannot read and another site cannot use", async () => {
    const code = codeOf(await h.server.signInLink("root"));
    const both = await Promise.all([signIn(code), signIn(code)]);
    expect(both.map((answer) => answer.status).toSorted()).toEqual([200, 401]);
    const cookie = both.find((answer) => answer.ok)!.headers.get("set-cookie")!;
    expect(cookie).toMatch(/^keyroll=[A-Za-z0-9_-]{43}; Path=\/; Max-Age=\d+; HttpOnly; SameSite=Strict$/);
    const rows = await h.store.sql("select encode(hash, 'base64') as hash from keyroll.sessions");
    expect(JSON.stringify(rows)).not.toContain(cookie.slice(8, 51));
  });

  test("a session from before is not carried over, and one that ended is over", async () => {
    const first = await signIn(codeOf(await h.server.signInLink("root")));
    const old = first.headers.get("set-cookie")!.split(";")[0]!;
    const second = await signIn(codeOf(await h.server.signInLink("root")), { cookie: old });
    const fresh = second.headers.get("set-cookie")!.split(";")[0]!;
    const overview = (cookie: string) => fetch(`${h.server.url}/api/v1/overview`, { headers: { cookie } });
    expect((await overview(old)).status).toBe(401);
    expect((await overview(fresh)).status).toBe(200);
    await fetch(`${h.server.url}/api/v1/session`, { method: "DELETE", headers: { cookie: fresh, "x-keyroll": "1" } });
    expect((await overview(fresh)).status).toBe(401);
  });

  test("it ends by the clock of the database, and when nobody uses it", async () => {
    const answer = await signIn(codeOf(await h.server.signInLink("root")));
    const cookie = answer.headers.get("set-cookie")!.split(";")[0]!;
    const status = async () => (await fetch(`${h.server.url}/api/v1/overview`, { headers: { cookie } })).status;
    await h.store.sql("update keyroll.sessions set used_at = clock_timestamp() - interval '13 hours'");
    expect(await status()).toBe(401);
    await h.store.sql("update keyroll.sessions set used_at = clock_timestamp()");
    expect(await status()).toBe(200);
    await h.store.sql(
      "update keyroll.sessions set expires_at = clock_timestamp() where created_at = (select max(created_at) from keyroll.sessions)",
    );
    expect(await status()).toBe(401);
  });

  test("a link of the terminal is for this machine only, and one that is over is over", async () => {
    const code = codeOf(await h.server.signInLink("root"));
    expect((await signIn(code, { "x-forwarded-for": "203.0.113.7" })).status).toBe(401);
    expect((await signIn(code)).status).toBe(200);
    const late = codeOf(await h.server.signInLink("root"));
    await h.store.sql("update keyroll.sign_in_codes set expires_at = clock_timestamp()");
    expect((await signIn(late)).status).toBe(401);
  });

  test("tries are counted, by address and in all", () => {
    let nowMs = 0;
    const limit = new RateLimit({ most: 2, mostInAll: 3, windowMs: 60_000, now: () => nowMs });
    expect([limit.take("a"), limit.take("a"), limit.take("a")]).toEqual([0, 0, 60]);
    expect(limit.take("b")).toBeGreaterThan(0);
    nowMs = 60_000;
    expect([limit.take("a"), limit.take("b")]).toEqual([0, 0]);
  });
});

describe("foreign pages and names", () => {
  const write = (headers: Record<string, string>): Promise<Response> =>
    fetch(`${h.server.url}/api/v1/doctor`, {
      method: "POST",
      headers: { cookie: root.cookie, "content-type": "application/json", ...headers },
      body: "{}",
    });
  test("a page of another origin cannot write with somebody's session", async () => {
    expect((await write({})).status).toBe(403);
    expect((await write({ "x-keyroll": "1", origin: "https://evil.example" })).status).toBe(403);
    expect((await write({ "x-keyroll": "1", origin: "null" })).status).toBe(403);
    expect((await write({ "x-keyroll": "1", "sec-fetch-site": "cross-site" })).status).toBe(403);
    expect((await write({ "x-keyroll": "1", origin: h.server.url, "sec-fetch-site": "same-origin" })).status).toBe(200);
  });

  test("a name that points here by somebody else's DNS gets nothing", async () => {
    for (const path of ["/", "/api/v1/session", "/sign-in"])
      expect((await raw(`${h.server.url}${path}`, { host: "rebound.example" })).status).toBe(421);
    expect((await raw(`${h.server.url}/`, { host: `localhost:${h.server.port}` })).status).toBe(200);
  });

  test("nothing is framed, sniffed or run inline, on any answer", async () => {
    for (const path of ["/", "/sign-in", "/api", "/api/openapi.json", "/nothing.js", "/api/v1/overview"]) {
      const { headers } = await fetch(`${h.server.url}${path}`);
      const policy = headers.get("content-security-policy")!;
      expect(policy).toContain("default-src 'none'");
      expect(policy).toContain("frame-ancestors 'none'");
      expect(policy).not.toContain("unsafe");
      expect(headers.get("x-content-type-options")).toBe("nosniff");
      expect(headers.get("referrer-policy")).toBe("no-referrer");
    }
    for (const path of ["/sign-in", "/api"])
      expect(await (await fetch(`${h.server.url}${path}`)).text()).not.toMatch(/<script>|style="|onclick/);
  });
});

describe("pages", () => {
  test("pages of the dashboard have one file, with the base path in it; hashed files are kept for ever", async () => {
    const page = await fetch(`${h.server.url}/rotations/r-1234`);
    expect(await page.text()).toContain('<base href="/">');
    expect(page.headers.get("cache-control")).toBe("no-cache");
    const file = await fetch(`${h.server.url}/assets/index-4f2c91ab.js`);
    expect(file.headers.get("cache-control")).toContain("immutable");
    expect(file.headers.get("content-encoding")).toBe("gzip");
    expect((await file.text()).length).toBeGreaterThan(2000);
    for (const path of [
      "/assets/gone-4f2c91ab.js",
      "/../package.json",
      "/%2e%2e/package.json",
      "/api/v1/nothing",
      "/assets",
    ]) {
      const answer = await fetch(`${h.server.url}${path}`, { headers: { accept: "application/json" } });
      expect(answer.status, path).toBe(404);
      expect(answer.headers.get("content-type")).toContain("application/problem+json");
    }
    const method = await fetch(`${h.server.url}/api/v1/overview`, { method: "PUT", headers: { "x-keyroll": "1" } });
    expect([method.status, method.headers.get("allow")]).toEqual([405, "GET"]);
  });

  test("below a path, with and without a proxy that takes the path away", async () => {
    const below = await startServer(h.app, {
      port: 0,
      webDir: web,
      version: "test",
      publicUrl: "https://tools.example/keyroll/",
    });
    try {
      expect(below.publicUrl).toBe("https://tools.example/keyroll");
      const at = (path: string) =>
        raw(`${below.url}${path}`, { host: "tools.example", "x-forwarded-for": "203.0.113.7" });
      expect((await at("/keyroll/inventory")).text).toContain('<base href="/keyroll/">');
      expect((await at("/inventory")).text).toContain('<base href="/keyroll/">');
      expect((await at("/keyroll")).status).toBe(308);
      expect(JSON.parse((await at("/keyroll/api/v1/session")).text)).toMatchObject({ person: null });
      const { link } = await root.client.call("makeSignInLink", { params: { person: "root" }, body: {} });
      const answer = await new Promise<string>((resolve, reject) => {
        httpRequest(
          `${below.url}/keyroll/api/v1/session`,
          { method: "POST", headers: { host: "tools.example", "x-keyroll": "1", "content-type": "application/json" } },
          (response) => resolve(String(response.headers["set-cookie"])),
        )
          .on("error", reject)
          .end(JSON.stringify({ code: codeOf(link) }));
      });
      expect(answer).toMatch(/^__Secure-keyroll=.*; Path=\/keyroll; .*; Secure$/);
    } finally {
      await below.stop();
    }
  });

  test("it is open to others only when it is ready for them", async () => {
    const open = (options: object) =>
      startServer(h.app, { port: 0, webDir: null, version: "test", host: "0.0.0.0", ...options }).then(
        async (server) => {
          await server.stop();
          return "open";
        },
        (error: Error) => error.message,
      );
    expect(await open({})).toMatch(/must know the address/);
    expect(await open({ publicUrl: "http://keyroll.example" })).toMatch(/unencrypted/);
    expect(await open({ publicUrl: "http://127.0.0.1" })).toMatch(/unencrypted/);
    expect(await open({ publicUrl: "https://keyroll.example" })).toBe("open");
    await h.store.sql("update keyroll.people set disabled = true");
    try {
      expect(await open({ publicUrl: "https://keyroll.example" })).toMatch(/Nobody can sign in yet/);
    } finally {
      await h.store.sql("update keyroll.people set disabled = false");
    }
  });

  test("health says nothing, metrics need a viewer of everything", async () => {
    expect(await (await fetch(`${h.server.url}/healthz`)).text()).toBe("ok\n");
    expect(await (await fetch(`${h.server.url}/readyz`)).text()).toBe("ready\n");
    expect((await fetch(`${h.server.url}/metrics`)).status).toBe(401);
    const one = await h.someone("viewer-of-one", [["viewer", "payments"]]);
    expect((await one.fetch("/metrics")).status).toBe(403);
    const text = await (await root.fetch("/metrics")).text();
    expect(text).toMatch(
      /^keyroll_credential_state\{credential="token",owner="platform",kind="secret",state="\w+"\} 1$/m,
    );
    for (const name of [
      "keyroll_credential_last_seen_timestamp_seconds",
      "keyroll_credential_copies_out_of_step",
      'keyroll_rotations{status="running"} 0',
      "keyroll_tasks_open 0",
      "keyroll_journal_records",
      "keyroll_http_requests_total{",
    ])
      expect(text).toContain(name);
  });
});

describe("live events", () => {
  interface Stream {
    readonly events: ServerEvent[];
    readonly ended: Promise<void>;
    close(): void;
  }
  async function listen(someone: Someone, after?: number): Promise<Stream> {
    const abort = new AbortController();
    const answer = await someone.fetch("/api/v1/events", {
      signal: abort.signal,
      ...(after === undefined ? {} : { headers: { "last-event-id": String(after) } }),
    });
    expect(answer.headers.get("content-type")).toContain("text/event-stream");
    const events: ServerEvent[] = [];
    const ended = (async () => {
      let rest = "";
      for await (const part of answer.body!.pipeThrough(new TextDecoderStream())) {
        rest += part;
        const blocks = rest.split("\n\n");
        rest = blocks.pop()!;
        for (const block of blocks) {
          const data = /^data: (.*)$/m.exec(block)?.[1];
          if (data !== undefined) events.push(serverEvent.parse(JSON.parse(data)));
        }
      }
    })().catch(() => undefined);
    return { events, ended, close: () => abort.abort() };
  }
  const note = async (text: string, credential: string | null = null): Promise<number> =>
    (
      await (
        await h.app.openStoreOnly()
      ).journal.note({ kind: "note", actor: "keyroll", credential, payload: { text } })
    ).seq;
  const seen = (stream: Stream, seq: number) =>
    until(
      async () => stream.events,
      (events) => events.some((event) => event.type === "journal" && event.seq === seq),
    );

  test("everything that was written is told once, in order, and told on from where it stopped", async () => {
    const stream = await listen(root);
    const first = await note("one");
    const last = await note("two", "token");
    await seen(stream, last);
    stream.close();
    await stream.ended;
    const third = await note("three");
    const again = await listen(root, first);
    await seen(again, third);
    const numbers = again.events.filter((event) => event.type === "journal").map((event) => event.seq);
    expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
    expect(numbers[0]).toBe(first + 1);
    expect(new Set(numbers).size).toBe(numbers.length);
    expect(again.events.find((event) => event.type === "journal" && event.seq === third)).toMatchObject({
      text: "three",
    });
    again.close();
  });

  test("what somebody may not read is not told, and who is locked out hears no more", async () => {
    const one = await h.someone("listener", [["viewer", "payments"]]);
    const stream = await listen(one);
    await note("not for them", "token");
    await note("nor this");
    await seen(stream, await note("for them", "other"));
    expect(JSON.stringify(stream.events)).not.toMatch(/not for them|nor this/);
    await root.client.call("changePerson", { params: { person: "listener" }, body: { disabled: true } });
    await stream.ended;
  });

  test("a number from nowhere means: ask for everything again", async () => {
    const stream = await listen(root, 999_999_999);
    await until(
      async () => stream.events,
      (events) => events.length > 0,
    );
    expect(stream.events[0]!.type).toBe("resync");
    stream.close();
  });

  test("a client that does not read is let go, and the others lose nothing", async () => {
    const good = await listen(root);
    const socket = connect(h.server.port, "127.0.0.1");
    socket.write(`GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:${h.server.port}\r\nCookie: ${root.cookie}\r\n\r\n`);
    socket.pause();
    socket.on("error", () => undefined);
    await until(
      async () => (await (await root.fetch("/metrics")).text()).match(/keyroll_event_streams (\d+)/)![1],
      (count) => Number(count) >= 2,
    );
    // More than the sockets of both sides hold, so that it has to wait in the server.
    const text = "x".repeat(200_000);
    let last = 0;
    await until(
      async () => {
        last = await note(text);
        return (await (await root.fetch("/metrics")).text()).match(/keyroll_event_streams_dropped (\d+)/)![1];
      },
      (count) => Number(count) >= 1,
      25_000,
    );
    await seen(good, last);
    const numbers = good.events.filter((event) => event.type === "journal").map((event) => event.seq);
    expect(numbers).toEqual(Array.from({ length: numbers.length }, (_, i) => numbers[0]! + i));
    good.close();
    socket.destroy();
  });
});

describe("a certificate of its own", () => {
  test("is served, and replaced without a restart; a wrong one is not used", async () => {
    const folder = mkdtempSync(join(tmpdir(), "keyroll-tls-"));
    const certFile = join(folder, "cert.pem");
    const keyFile = join(folder, "key.pem");
    const write = async (name: string): Promise<void> => {
      const { privateKey, pem } = await selfSigned(name);
      writeFileSync(keyFile, privateKey.reveal());
      writeFileSync(certFile, pem);
    };
    const served = (port: number): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = tlsConnect({ port, host: "127.0.0.1", rejectUnauthorized: false }, () => {
          resolve(socket.getPeerX509Certificate()!.subject);
          socket.destroy();
        });
        socket.on("error", reject);
      });
    await write("first.example");
    const server = await startServer(h.app, { port: 0, webDir: null, version: "test", tls: { certFile, keyFile } });
    try {
      expect(server.url).toMatch(/^https:/);
      expect(await served(server.port)).toBe("CN=first.example");
      await write("second.example");
      await until(
        () => served(server.port),
        (subject) => subject === "CN=second.example",
      );
      writeFileSync(certFile, "nothing");
      await new Promise((resolve) => setTimeout(resolve, 2500));
      expect(await served(server.port)).toBe("CN=second.example");
    } finally {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    }
    await expect(
      startServer(h.app, { port: 0, webDir: null, version: "test", tls: { certFile, keyFile } }),
    ).rejects.toThrow(/cannot be read/);
  });
});
