import {
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { App } from "./app.ts";
import { EstateError } from "./estate/problem.ts";

let folder: string;
let app: App;
const at = (name: string): string => join(folder, name);
const passwordInUse = async (): Promise<string> =>
  ((await app.estate()).estate.systems[0]!.config as { password: { reveal(): string } }).password.reveal();

beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), "keyroll-app-")));
  writeFileSync(
    at("keyroll.yaml"),
    'version: 1\nsystems: { pg: { type: postgres, url: "postgres://keyroll@127.0.0.1/x", password: "${file:secret}" } }\n',
  );
  writeFileSync(at("secret"), "the first one\n");
  app = new App({ env: {}, cwd: folder, person: "tester", dataDir: at("data") });
});
afterEach(async () => {
  await app.close();
  rmSync(folder, { recursive: true, force: true });
});

describe("an estate that is loaded again", () => {
  test("is the same as long as no file changed, and needs no store", async () => {
    expect(await passwordInUse()).toBe("the first one");
    expect(await app.reload()).toBe("same");
    expect(statSync(at("data"), { throwIfNoEntry: false })).toBeUndefined();
  });

  test("follows a secret file, of which the digest knows nothing", async () => {
    const { digest } = (await app.estate()).estate;
    writeFileSync(at("secret"), "another one\n");
    expect(await app.reload()).toBe("changed");
    expect(await passwordInUse()).toBe("another one");
    expect((await app.estate()).estate.digest).toBe(digest);
    expect(await app.reload()).toBe("same");
  });

  test("follows one that was put in its place with the same length and time", async () => {
    expect(await passwordInUse()).toBe("the first one");
    const { atime, mtime } = statSync(at("secret"));
    writeFileSync(at("new"), "the other one\n");
    utimesSync(at("new"), atime, mtime);
    renameSync(at("new"), at("secret"));
    expect(await app.reload()).toBe("changed");
    expect(await passwordInUse()).toBe("the other one");
  });

  test("stays in force while a secret file is missing, and says so once", async () => {
    expect(await passwordInUse()).toBe("the first one");
    rmSync(at("secret"));
    expect(await app.reload()).toBeInstanceOf(EstateError);
    expect(await app.reload()).toBe("same");
    expect(await passwordInUse()).toBe("the first one");
    writeFileSync(at("secret"), "back again\n");
    expect(await app.reload()).toBe("changed");
    expect(await passwordInUse()).toBe("back again");
  });

  test("is taken when what was missing is there, although no known file changed", async () => {
    await app.estate();
    writeFileSync(at("keyroll.yaml"), readFileSync(at("keyroll.yaml"), "utf8").replace("file:secret", "file:later"));
    expect(await app.reload()).toBeInstanceOf(EstateError);
    expect(await app.reload()).toBe("same");
    writeFileSync(at("later"), "from later\n");
    expect(await app.reload()).toBe("changed");
    expect(await passwordInUse()).toBe("from later");
    expect(await app.reload()).toBe("same");
  });

  test("follows the estate itself", async () => {
    await app.estate();
    writeFileSync(at("keyroll.yaml"), readFileSync(at("keyroll.yaml"), "utf8").replace("127.0.0.1", "127.0.0.2"));
    expect(await app.reload()).toBe("changed");
    expect((await app.estate()).estate.systems[0]!.config).toMatchObject({ host: "127.0.0.2" });
  });
});
