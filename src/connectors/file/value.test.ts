import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { parse as parseYaml } from "yaml";
import { placeContract, secretVersions, versionOf } from "../connector.contract.ts";
import type { PlaceWorld } from "../connector.contract.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Place, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import { fileValue } from "./connector.ts";

const folders: string[] = [];
function folder(): string {
  const made = mkdtempSync(join(tmpdir(), "keyroll-file-"));
  chmodSync(made, 0o755);
  folders.push(made);
  return made;
}
afterEach(() => {
  for (const one of folders.splice(0)) rmSync(one, { recursive: true, force: true });
});
function context(signal = new AbortController().signal): CallContext {
  return { now: () => 0, signal, throttle: async () => {}, log: { debug: () => {}, info: () => {}, warn: () => {} } };
}
function open(config: Record<string, unknown>): Place {
  return fileValue.open(fileValue.config.parse(config), undefined);
}
const isRoot = process.getuid?.() === 0;
const nobody = 65_534;
/** As root, permissions bind nobody: the call is made as another user instead. */
function asNobody(path: string): () => void {
  if (isRoot) {
    process.seteuid?.(nobody);
    return () => process.seteuid?.(0);
  }
  chmodSync(path, 0o500);
  return () => chmodSync(path, 0o755);
}
function asOurselves<T>(run: () => T): T {
  const before = process.geteuid?.() ?? 0;
  if (isRoot) process.seteuid?.(0);
  try {
    return run();
  } finally {
    if (isRoot) process.seteuid?.(before);
  }
}

interface Kind {
  readonly format: string;
  readonly start: string;
  readonly damaged: string;
  readonly config: Record<string, unknown>;
  readonly characters: "hostile" | "plain";
  /** User and password as a reader of the file gets them, and everything else. */
  read(text: string): { user: string | undefined; password: string | undefined; rest: string[] };
  add(text: string): string;
  change(text: string, password: string): string;
  remove(text: string): string;
}
function structured(parse: (text: string) => unknown): Kind["read"] {
  return (text) => {
    const all = Object(parse(text));
    const { user, password, ...rest } = all.db ?? {};
    return {
      user,
      password,
      rest: [...Object.entries(all), ...Object.entries(rest)]
        .filter(([key]) => key !== "db")
        .map((one) => JSON.stringify(one)),
    };
  };
}
const kinds: Record<string, Kind> = {
  dotenv: {
    format: "dotenv",
    start: "# shop\nexport OTHER='x'\n",
    damaged: "OTHER='x\n",
    config: { keys: { user: "DB_USER", password: "DB_PASSWORD" } },
    characters: "plain",
    read: (text) => {
      const lines = text.split("\n");
      const value = (key: string): string | undefined =>
        lines.find((line) => line.startsWith(`${key}=`))?.slice(key.length + 1);
      return {
        user: value("DB_USER"),
        password: value("DB_PASSWORD"),
        rest: lines.filter((line) => line !== "" && !line.startsWith("DB_")),
      };
    },
    add: (text) => `${text}FOREIGN=1 # theirs\n`,
    change: (text, password) => text.replace(password, "changed"),
    remove: (text) =>
      text
        .split("\n")
        .filter((line) => !line.startsWith("DB_"))
        .join("\n"),
  },
  json: {
    format: "json",
    start: '{"other": 1}\n',
    damaged: "{",
    config: { keys: { user: "db.user", password: "db.password" } },
    characters: "hostile",
    read: structured((text) => JSON.parse(text)),
    add: (text) => text.replace("{", '{"foreign": [1,  2],'),
    change: (text, password) => text.replace(JSON.stringify(password), '"changed"'),
    remove: (text) => JSON.stringify({ ...JSON.parse(text), db: {} }),
  },
  yaml: {
    format: "yaml",
    start: "# shop\nother: 1\n",
    damaged: "a: [",
    config: { keys: { user: "db.user", password: "db.password" } },
    characters: "hostile",
    read: structured((text) => parseYaml(text)),
    add: (text) => `${text}foreign: 1 # theirs\n`,
    change: (text) => text.replace(/password:.*/, "password: changed"),
    remove: (text) => text.replaceAll(/^ {2}(user|password):.*\n/gm, "").replace("db:", "db: {}"),
  },
};

for (const [name, kind] of Object.entries(kinds)) {
  const base = {
    format: kind.format,
    path: "./shop",
    ...kind.config,
    reload: { argv: ["/bin/sh", "./reload.sh"], timeout: "300ms" },
  };
  placeContract({
    runner: { describe, it },
    name: `file.value (${name})`,
    connector: fileValue,
    config: base,
    makeWorld: (): PlaceWorld => {
      const at = folder();
      const path = join(at, "shop");
      const script = join(at, "reload.sh");
      writeFileSync(path, kind.start, { mode: 0o600 });
      writeFileSync(script, "exit 0\n");
      let intact: string | undefined;
      let before: (() => Promise<void>) | undefined;
      const content = (): string => intact ?? asOurselves(() => readFileSync(path, "utf8"));
      const edit = (change: (text: string) => string): void => writeFileSync(path, change(readFileSync(path, "utf8")));
      const is = async (version: VersionHandle): Promise<boolean> => {
        const material = await version.open();
        const held = kind.read(content());
        return (
          material.kind === "secret" &&
          held.password === material.value.reveal() &&
          held.user === version.facts.attributes?.["user"]
        );
      };
      return {
        open: () => {
          const place = open({ ...base, path, reload: { argv: ["/bin/sh", script], timeout: "300ms" } });
          return {
            ...place,
            // The connector asks for its turn after reading and before writing.
            activate: async (cx, version) =>
              place.activate?.(
                {
                  ...cx,
                  throttle: async () => {
                    const action = before;
                    before = undefined;
                    await action?.();
                  },
                },
                version,
              ),
          };
        },
        version: secretVersions("shop", (n) => ({ user: `app_${n}` }), kind.characters),
        inspect: async (versions) => {
          const present: string[] = [];
          for (const version of versions) if (await is(version)) present.push(version.id);
          return { present, current: present[0] ?? null, foreign: kind.read(content()).rest };
        },
        consumer: is,
        meddle: {
          add: async () => edit((text) => kind.add(text)),
          change: async (version) => {
            const material = await version.open();
            if (material.kind === "secret") edit((text) => kind.change(text, material.value.reveal()));
          },
          remove: async () => edit((text) => kind.remove(text)),
          beforeWrite: (action) => {
            before = action;
          },
        },
        faults: {
          denied: () => ({ clear: asNobody(at), permission: "shop" }),
          "lost-answer": () => {
            writeFileSync(script, "sleep 30\n");
            return { clear: () => writeFileSync(script, "exit 0\n") };
          },
          garbage: () => {
            intact = readFileSync(path, "utf8");
            writeFileSync(path, kind.damaged);
            return {
              clear: () => {
                writeFileSync(path, intact ?? "");
                intact = undefined;
              },
            };
          },
        },
      };
    },
    cannot: {
      "throttling is reported as throttled and changes nothing": "a file system does not throttle",
      "a request without an answer has an unknown outcome":
        "writing a file always has an answer; only the reload can be left without one",
      "a system that is down is unavailable, and nothing is changed": "a file has no server",
    },
  });
}

const one = versionOf(
  "app#1",
  { kind: "secret", value: new Secret("first-secret") },
  { attributes: { user: "app_a" } },
);
const two = versionOf(
  "app#2",
  { kind: "secret", value: new Secret("second/secret") },
  { attributes: { user: "app_b" } },
);

describe("file.value", () => {
  it("keeps mode, owner and comments, and leaves nothing else in the folder", async () => {
    const at = folder();
    const path = join(at, "app.env");
    writeFileSync(path, "# keep\nDB_PASSWORD='old' # this\n", { mode: 0o640 });
    if (isRoot) execFileSync("chown", ["1234:4321", path]);
    await open({ path, format: "dotenv", keys: { password: "DB_PASSWORD" } }).activate?.(context(), one);
    expect(readFileSync(path, "utf8")).toBe("# keep\nDB_PASSWORD='first-secret' # this\n");
    const { mode, uid, gid } = statSync(path);
    expect(mode & 0o777).toBe(0o640);
    if (isRoot) expect([uid, gid]).toEqual([1234, 4321]);
    expect(readdirSync(at)).toEqual(["app.env"]);
  });

  it("follows a link of ours and leaves it a link", async () => {
    const at = folder();
    writeFileSync(join(at, "real"), "old\n", { mode: 0o600 });
    symlinkSync("real", join(at, "link"));
    await open({ path: join(at, "link") }).activate?.(context(), one);
    expect(lstatSync(join(at, "link")).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(at, "real"), "utf8")).toBe("first-secret\n");
  });

  it.runIf(isRoot)("does not follow a link that another user put there", async () => {
    const at = folder();
    writeFileSync(join(at, "real"), "old", { mode: 0o600 });
    symlinkSync("real", join(at, "link"));
    execFileSync("chown", ["-h", "1234", join(at, "link")]);
    await expect(open({ path: join(at, "link") }).activate?.(context(), one)).rejects.toThrow(
      "belongs to another user",
    );
    expect(readFileSync(join(at, "real"), "utf8")).toBe("old");
  });

  it("makes a file that is missing, for its owner only, and names a folder that is missing", async () => {
    const at = folder();
    const path = join(at, "new");
    expect(await open({ path }).observe(context(), [one])).toEqual({ entries: [], current: null });
    await open({ path }).activate?.(context(), one);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readFileSync(path, "utf8")).toBe("first-secret");
    await expect(open({ path: join(at, "none", "x") }).activate?.(context(), one)).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("folder"),
    });
  });

  it("holds a connection string made from several parts, and takes it apart again", async () => {
    const path = join(folder(), "app.yaml");
    writeFileSync(path, "url: none\n");
    const place = open({ path, format: "yaml", key: "url", template: "postgres://${user}:${password|url}@db/shop" });
    await place.activate?.(context(), two);
    expect(readFileSync(path, "utf8")).toBe('url: "postgres://app_b:second%2Fsecret@db/shop"\n');
    expect((await place.observe(context(), [one, two])).current).toBe("app#2");
    const [adopted] = (await place.adopt?.(context())) ?? [];
    expect(adopted?.facts.attributes).toEqual({ user: "app_b" });
    expect(adopted?.material.kind === "secret" && adopted.material.value.reveal()).toBe("second/secret");
    writeFileSync(path, "url: mysql://x\n");
    await expect(place.adopt?.(context())).rejects.toThrow("does not have the form of the template");
  });

  it("does not take half of one version and half of another for either", async () => {
    const path = join(folder(), "app.env");
    writeFileSync(path, "U=app_a\nP=second/secret\n");
    const seen = await open({ path, format: "dotenv", keys: { user: "U", password: "P" } }).observe(context(), [
      one,
      two,
    ]);
    expect(seen).toEqual({ entries: [{ mark: "unknown", enabled: true }], current: "unknown" });
  });

  it("names a part that the version does not have", async () => {
    const path = join(folder(), "x");
    const place = open({ path, template: "${role}:${password}" });
    await expect(place.activate?.(context(), one)).rejects.toThrow('no part "role"');
    expect(existsSync(path)).toBe(false);
  });

  it("keeps telling that a reload is due until one has succeeded", async () => {
    const at = folder();
    const [path, script] = [join(at, "x"), join(at, "reload")];
    writeFileSync(script, 'echo "cannot use first-secret" >&2; exit 3\n');
    const place = open({ path, reload: { argv: ["/bin/sh", script] } });
    const failure = await place.activate?.(context(), one).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(ConnectorError);
    expect(failure).toMatchObject({
      kind: "refused",
      message: expect.stringContaining("ended with 3: cannot use [secret]"),
    });
    const seen = await place.observe(context(), [one]);
    expect(seen.entries[0]?.version).toBe("app#1");
    expect(seen).not.toHaveProperty("current");
    writeFileSync(script, `echo run >> ${join(at, "log")}\n`);
    await place.activate?.(context(), one);
    expect((await place.observe(context(), [one])).current).toBe("app#1");
    expect(readFileSync(join(at, "log"), "utf8")).toBe("run\n");
  });

  it("does not start a program that is not there, and says which", async () => {
    const path = join(folder(), "x");
    const place = open({ path, reload: { argv: ["/nonexistent/reload"] } });
    await expect(place.activate?.(context(), one)).rejects.toMatchObject({
      kind: "misconfigured",
      message: expect.stringContaining("/nonexistent/reload"),
    });
  });

  it("sweeps the temporary file of a process that was killed while writing", async () => {
    const at = folder();
    const path = join(at, "x");
    writeFileSync(join(at, ".x.keyroll-0123456789abcdef"), "half a sec");
    writeFileSync(join(at, ".x.keyroll-notours"), "theirs");
    await open({ path }).activate?.(context(), one);
    expect(readdirSync(at).sort()).toEqual([".x.keyroll-notours", "x"]);
  });

  it("does not wait for a pipe, read a folder, or take in an enormous file", async () => {
    const at = folder();
    execFileSync("mkfifo", [join(at, "pipe")]);
    await expect(open({ path: join(at, "pipe") }).observe(context(), [])).rejects.toThrow("not a regular file");
    await expect(open({ path: at }).observe(context(), [])).rejects.toMatchObject({ kind: "misconfigured" });
    writeFileSync(join(at, "big"), Buffer.alloc(5 * 1024 * 1024, 65));
    await expect(open({ path: join(at, "big") }).observe(context(), [])).rejects.toThrow("larger than");
    writeFileSync(join(at, "latin1"), Buffer.from([0xe9, 0x0a]));
    await expect(
      open({ path: join(at, "latin1"), format: "ini", keys: { password: "p" } }).activate?.(context(), one),
    ).rejects.toThrow("not UTF-8");
    unlinkSync(join(at, "pipe"));
  });

  it("is read whole by every reader while it is replaced", async () => {
    const path = join(folder(), "x");
    const place = open({ path });
    const values = [one, two];
    await place.activate?.(context(), one);
    const seen = new Set<string>();
    const reading = { done: false };
    const reader = (async () => {
      while (!reading.done) {
        seen.add(readFileSync(path, "utf8"));
        await new Promise((next) => setImmediate(next));
      }
    })();
    for (let n = 0; n < 60; n++) await place.activate?.(context(), values[n % 2] ?? one);
    reading.done = true;
    await reader;
    expect([...seen].sort()).toEqual(["first-secret", "second/secret"]);
  });

  it.each([
    [{ path: "x", format: "dotenv" }, "either keys, or key"],
    [{ path: "x", keys: { password: "A" } }, "a whole file has no keys"],
    [{ path: "x", template: "constant" }, "names no part"],
    [{ path: "x", template: "${pass word}" }, "a part is written like"],
    [{ path: "x", format: "json", key: "a..b" }, "is no path"],
    [{ path: "x", reload: { argv: [] } }, "1"],
    [{ path: "x", mode: "rw" }, "0600"],
  ])("refuses the settings %j", (config, message) => {
    const issues = fileValue.config
      .safeParse(config)
      .error?.issues.map((issue) => issue.message)
      .join();
    expect(issues).toContain(message);
  });
});
