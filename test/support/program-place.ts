/**
 * A program that speaks the command protocol, for tests: a set of versions in a JSON file (argument 1), with faults on demand (argument 2 names a
 * file with one word). It shares no code with the connector, so that one mistake cannot cancel itself.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

interface Wire {
  readonly id: string;
  readonly material?: { readonly kind: string; readonly value?: string };
}
const [, , path = "", faultPath = ""] = process.argv;
const request = JSON.parse(readFileSync(0, "utf8")) as { verb: string; version?: Wire; known?: Wire[] };
const fault = existsSync(faultPath) ? readFileSync(faultPath, "utf8") : "";
const lines = (existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : {}) as Record<string, string>;
const hash = (wire: Wire): string =>
  createHash("sha512")
    .update(`salt ${wire.material?.value ?? ""}`)
    .digest("hex");
const fits = (wire: Wire): boolean => wire.material !== undefined && lines[wire.id] === hash(wire);
const save = (): void => {
  writeFileSync(`${path}.new`, JSON.stringify(lines));
  renameSync(`${path}.new`, path);
};
const hang = (): void => {
  process.stderr.write(`I hang with ${request.version?.material?.value ?? "nothing"} in my hands\n`);
  setInterval(() => undefined, 1000);
};

function answer(): unknown {
  const { version } = request;
  switch (request.verb) {
    case "observe":
      return {
        entries: Object.keys(lines).map((mark) => {
          const known = (request.known ?? []).find((one) => one.id === mark && fits(one));
          return { mark, ...(known ? { version: known.id } : {}) };
        }),
      };
    case "add":
      lines[version!.id] = hash(version!);
      save();
      return { placement: { slot: version!.id } };
    case "remove":
      if (version && fits(version)) {
        delete lines[version.id];
        save();
      }
      return {};
    case "probe":
      return {
        outcome: fits(version!) ? "accepted" : "refused",
        detail: `looked for ${version!.material?.value ?? ""}`,
      };
    default:
      return { error: { kind: "misconfigured", message: `unknown verb ${request.verb}` } };
  }
}

if (fault === "lost-request") hang();
else if (fault === "down") process.exit(69);
else if (fault === "throttled") {
  process.stdout.write(JSON.stringify({ error: { kind: "throttled", message: "slow down", retryAfterMs: 1000 } }));
} else if (fault === "denied") {
  process.stderr.write("the permission lines.write is missing\n");
  process.exit(77);
} else {
  const text = JSON.stringify(answer());
  if (fault === "lost-answer") hang();
  else if (fault === "garbage")
    process.stdout.write(`${text.slice(0, 7)} and so on ${request.version?.material?.value ?? ""}`);
  else if (fault === "flood") for (let n = 0; n < 40; n++) process.stdout.write("x".repeat(65_536));
  else process.stdout.write(text);
}
