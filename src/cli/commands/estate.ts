/** `init`, `check` and `schema`: the files of the estate. */
import { link, rm, writeFile } from "node:fs/promises";
import { relative, resolve } from "node:path";
import { z } from "zod";
import { Problem } from "../../core/problem.ts";
import { formatProblem } from "../../estate/problem.ts";
import { jsonSchema } from "../../estate/json-schema.ts";
import { starterEstate } from "../../estate/starter.ts";
import type { Cli, Context } from "../command.ts";
import { documents } from "../documents.ts";
import { count, listed } from "../text.ts";

export function registerEstate(cli: Cli): void {
  cli.does<{ stdout?: boolean }>(
    cli
      .command("init", "write a commented keyroll.yaml to begin with; overwrites nothing")
      .option("--stdout", "print it instead"),
    init,
  );
  cli.does<{ expand?: boolean }>(
    cli
      .command("check", "read the estate and say all that is wrong with it, at once")
      .option("--expand", "print the credentials as YAML, with every recipe expanded"),
    check,
  );
  cli.does(
    cli.command(
      "schema [document]",
      `the JSON Schema of keyroll.yaml, or of a document: ${listed(Object.keys(documents), 9)}`,
    ),
    schema,
  );
}

async function init({ session }: Context, options: { stdout?: boolean }): Promise<void> {
  if (options.stdout === true) return session.print(starterEstate);
  const path = resolve(session.io.cwd, session.outFile ?? session.options.file ?? "keyroll.yaml");
  const shown = relative(session.io.cwd, path) || path;
  const draft = `${path}.${process.pid}.part`;
  try {
    await writeFile(draft, starterEstate, { flag: "wx" });
    // A link is made or refused as one act, so that a file which appears meanwhile is never overwritten.
    await link(draft, path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown";
    if (code === "EEXIST")
      throw new Problem("failed", `${shown} is there already; nothing was changed.`, { next: "keyroll check" });
    throw new Problem("failed", `${shown} cannot be written (${code}).`);
  } finally {
    await rm(draft, { force: true });
  }
  await session.document(
    { file: path },
    () => `Wrote ${shown}: an estate that works as it is, with real systems to uncomment.`,
  );
  session.next("keyroll plan example. It is a model, so nothing is touched.");
}

async function check({ session, app }: Context, options: { expand?: boolean }): Promise<void> {
  const { estate, files, notes, expanded } = await app.estate();
  if (options.expand === true) return await session.document({ expanded }, () => expanded.trimEnd());
  const places = estate.credentials.reduce((sum, each) => sum + each.places.length, 0);
  await session.document(
    {
      ok: true,
      files,
      digest: estate.digest,
      systems: estate.systems.length,
      credentials: estate.credentials.length,
      places,
      notes: notes.map(({ file, line, col, path, text }) => ({ file, line, col, path, text })),
    },
    () =>
      `${relative(session.io.cwd, files[0]!) || files[0]!} is right: ${count(estate.credentials.length, "credential")} in ${count(places, "place")}, ${count(estate.systems.length, "system")}${files.length > 1 ? `, ${count(files.length, "file")}` : ""}.`,
  );
  for (const note of notes) session.say(`note: ${formatProblem(note)}`);
  session.next(
    estate.credentials.length === 0 ? "describe your first credential" : "keyroll status, or keyroll plan NAME",
  );
}

async function schema({ session, app }: Context, _: unknown, name?: string): Promise<void> {
  if (name === undefined || name === "estate") return await session.json(jsonSchema(app.registry));
  const document = documents[name];
  if (document === undefined)
    throw new Problem("usage", `There is no document "${name}".`, {
      next: `Write estate, ${Object.keys(documents).join(", ")}.`,
    });
  await session.json({ title: document.title, ...z.toJSONSchema(document.schema, { target: "draft-7" }) });
}
