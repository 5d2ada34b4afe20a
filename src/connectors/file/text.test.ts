import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatOf, FormatError, formats, pathOf } from "./text.ts";

const dotenv = formatOf("dotenv");
const ini = formatOf("ini");
const json = formatOf("json");
const yaml = formatOf("yaml");

describe("dotenv", () => {
  const file = [
    "# The database of the shop",
    "export DB_USER='app_a' # who",
    'DB_PASSWORD="old"',
    "PLAIN = bare # comment",
    "URL=http://x/#fragment",
    'LONG="one',
    'DB_HOST=not an assignment"',
    "",
  ].join("\n");

  it("changes the value and leaves comments, export, quotes and order", () => {
    const changed = dotenv.write(dotenv.write(file, "DB_PASSWORD", "new-1"), "DB_USER", "app_b");
    expect(changed).toBe(file.replace("'app_a'", "'app_b'").replace('"old"', '"new-1"'));
    expect(dotenv.write(file, "PLAIN", "other")).toBe(file.replace("bare", "other"));
  });
  it("reads as shells and libraries do", () => {
    expect(dotenv.read(file, "DB_USER")).toBe("app_a");
    expect(dotenv.read(file, "PLAIN")).toBe("bare");
    expect(dotenv.read(file, "URL")).toBe("http://x/#fragment");
    expect(dotenv.read(file, "LONG")).toBe("one\nDB_HOST=not an assignment");
    expect(dotenv.read(file, "DB_HOST")).toBeUndefined();
    expect(dotenv.read("A=\n", "A")).toBe("");
  });
  it("adds a key that is missing, with the file's own line ends", () => {
    expect(dotenv.write("A=1", "B", "2")).toBe("A=1\nB=2\n");
    expect(dotenv.write("A=1\r\n", "B", "2")).toBe("A=1\r\nB=2\r\n");
    expect(dotenv.write("A=1\r\nB=2\r\n", "A", "3")).toBe("A=3\r\nB=2\r\n");
    expect(dotenv.write("", "B", "2")).toBe("B=2\n");
  });
  it("takes other quotes where the value needs them, and refuses what readers take apart differently", () => {
    expect(dotenv.write("A=1\n", "A", "a b#c")).toBe("A='a b#c'\n");
    expect(dotenv.write("A='1'\n", "A", "it's")).toBe('A="it\'s"\n');
    expect(() => dotenv.write("A=1\n", "A", "it's $5")).toThrow(FormatError);
  });
  it("names the line of what it cannot decide", () => {
    expect(() => dotenv.read("A=1\nB=2\nA=3\n", "A")).toThrow("line 3: A is set a second time (first in line 1)");
    expect(() => dotenv.read("\nA='1\n", "A")).toThrow("line 2: a quote is opened here");
  });
});

describe("ini", () => {
  const file = '; top\nname = shop\n\n[database]\nuser = app_a ; who\npassword = "old"\n\n[other]\npassword=x\n';
  it("changes the value of one section and leaves the rest", () => {
    expect(ini.read(file, "database.password")).toBe("old");
    expect(ini.write(file, "database.password", "new")).toBe(file.replace('"old"', '"new"'));
    expect(ini.write(file, "database.user", "app_b")).toBe(file.replace("app_a ;", "app_b ;"));
    expect(ini.write(file, "name", "store")).toBe(file.replace("shop", "store"));
  });
  it("adds keys and sections", () => {
    expect(ini.write(file, "database.port", "1")).toBe(file.replace('"old"\n', '"old"\nport = 1\n'));
    expect(ini.write("a=1", "new.key", "2")).toBe("a=1\n[new]\nkey = 2\n");
    expect(ini.read(ini.write("", "a.b.c", "2"), "a.b.c")).toBe("2");
  });
  it("refuses what has two meanings", () => {
    expect(() => ini.write(file, "name", "a;b")).toThrow(FormatError);
    expect(() => ini.write(file, "name", "a\nb")).toThrow("several lines");
    expect(() => ini.read("a=1\na=2\n", "a")).toThrow("second time");
  });
});

describe("json", () => {
  const file = '{\n\t"db" : { "user":"app_a" , "password" : "old", "ports": [1, {"name": "x,]}"}] },\n\t"n": 1.0\n}\n';
  it("replaces the characters of one value and no others", () => {
    expect(json.read(file, "db.password")).toBe("old");
    expect(json.write(file, "db.password", 'a"b\\')).toBe(file.replace('"old"', '"a\\"b\\\\"'));
    expect(json.write(file, "db.ports.1.name", "y")).toBe(file.replace('"x,]}"', '"y"'));
  });
  it("adds what is missing", () => {
    expect(JSON.parse(json.write(file, "db.new.key", "v"))).toMatchObject({
      db: { user: "app_a", new: { key: "v" } },
      n: 1,
    });
    expect(json.write("", "a", "b")).toBe('{\n  "a": "b"\n}\n');
  });
  it("names the line, and quotes nothing of the file", () => {
    expect(() => json.read('{\n"password": "hunter2",,\n}', "password")).toThrow(/^line 2: this is not JSON$/);
    expect(() => json.read(file, "n")).toThrow("is not text");
    expect(() => pathOf("a.__proto__.b")).toThrow("is no path");
    expect(pathOf("/a.b/c~1d")).toEqual(["a.b", "c/d"]);
  });
});

describe("yaml", () => {
  const file = [
    "# settings",
    "database:   # the shop's",
    "  user: app_a  # who",
    "  password:   'old'",
    "  key: |",
    "    line one",
    "    line two",
    "  ports: [ 1,   2 ]",
    "shared: &x same",
    "alias: *x",
    "",
  ].join("\n");
  it("replaces the characters of one value and no others", () => {
    expect(yaml.read(file, "database.password")).toBe("old");
    expect(yaml.write(file, "database.password", "it's")).toBe(file.replace("'old'", "'it''s'"));
    expect(yaml.write(file, "database.user", "app_b")).toBe(file.replace("app_a", "app_b"));
    expect(yaml.write(file, "database.user", "no")).toBe(file.replace("app_a", '"no"'));
    const key = yaml.write(file, "database.key", "a\nb\n");
    expect(yaml.read(key, "database.key")).toBe("a\nb\n");
    expect(yaml.read(key, "database.password")).toBe("old");
    expect(key).toContain("  ports: [ 1,   2 ]");
  });
  it("adds what is missing and keeps the comments", () => {
    const changed = yaml.write(file, "database.new", "v");
    expect(yaml.read(changed, "database.new")).toBe("v");
    for (const comment of ["# settings", "# the shop's", "# who"]) expect(changed).toContain(comment);
    expect(yaml.read(yaml.write("", "a.b", "v"), "a.b")).toBe("v");
  });
  it("refuses what would change something else too", () => {
    expect(() => yaml.write(file, "shared", "v")).toThrow("line 9: shared has an anchor");
    expect(() => yaml.write(file, "alias", "v")).toThrow("is an alias");
    expect(() => yaml.read("a: 1\n---\na: 2\n", "a")).toThrow("several YAML documents");
    expect(() => yaml.read("a: [\n", "a")).toThrow("this is not YAML");
    expect(() => yaml.read("a: !vault x\n", "a")).toThrow("tag");
    expect(() => yaml.read("a: 5\n", "a")).toThrow("is not text");
  });
});

describe("every format", () => {
  const plain = fc.stringMatching(/^[A-Za-z0-9_.~-]{1,60}$/);
  const hostile = fc.string({ minLength: 1, maxLength: 40, unit: "binary" });
  const samples: Record<string, { file: string; key: string; other: string }> = {
    dotenv: { file: "# c\nA='x'\nB=y # z\n", key: "A", other: "B" },
    ini: { file: "[s]\na = x\nb = y\n", key: "s.a", other: "s.b" },
    json: { file: '{"a":"x","b":"y"}', key: "a", other: "b" },
    yaml: { file: "a: x\nb: y # z\n", key: "a", other: "b" },
  };
  it.each(Object.entries(samples))(
    "reads back what it writes, and the neighbours stay: %s",
    (name, { file, key, other }) => {
      const format = formatOf(formats.find((one) => one === name) ?? "text");
      const before = format.read(file, other);
      fc.assert(
        fc.property(plain, (value) => {
          const changed = format.write(file, key, value);
          expect(format.read(changed, key)).toBe(value);
          expect(format.read(changed, other)).toBe(before);
        }),
      );
      fc.assert(
        fc.property(hostile, (value) => {
          try {
            const changed = format.write(file, key, value);
            expect(format.read(changed, key)).toBe(value);
            expect(format.read(changed, other)).toBe(before);
          } catch (error) {
            // Refusing is right where the format cannot hold the value; anything else is a mistake of ours.
            expect(error).toBeInstanceOf(FormatError);
          }
        }),
        { numRuns: 1000 },
      );
    },
  );
  it.each(formats)("answers any text at all with a value or a FormatError: %s", (name) => {
    const format = formatOf(name);
    fc.assert(
      fc.property(
        fc.oneof(fc.string({ maxLength: 200 }), fc.stringMatching(/^[-{}[\]:,"'#=\\ \na*&!|>ab]{0,60}$/)),
        (content) => {
          try {
            format.read(content, "a");
            format.write(content, "a", "value");
          } catch (error) {
            expect(error).toBeInstanceOf(FormatError);
          }
        },
      ),
      { numRuns: 1500 },
    );
  });
});
