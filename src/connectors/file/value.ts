/** Places of type `file.value`: a secret, and what belongs to it, in a configuration file. */
import type { Observation } from "../../core/place.ts";
import { ConnectorError } from "../connector.ts";
import type { CallContext, Issued, Place, Probe, VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { readFile, replaceFile } from "../shared/files.ts";
import type { FileSeen } from "../shared/files.ts";
import { matchTemplate, parseTemplate, partsOf, renderTemplate, sameSecret } from "../shared/template.ts";
import type { Parts, Template } from "../shared/template.ts";
import { clearReloadDue, isReloadDue, markReloadDue, reload } from "./reload.ts";
import type { ValueConfig } from "./schema.ts";
import { FormatError, formatOf } from "./text.ts";

/**
 * The name of a value that is no known version. There is one slot, so the name need not tell values apart; anything computed from the value (a
 * digest, salted or not) would help to guess a weak one, and a salt per process would give each worker another name for the same thing.
 */
const unknownMark = "unknown";

/** What the secret part is called in templates and keys. */
const secretNames = ["password", "secret", "value"] as const;

interface Target {
  readonly key: string;
  readonly template: Template;
}
function targetsOf(config: ValueConfig): readonly Target[] {
  if (config.keys !== undefined) {
    return Object.entries(config.keys).map(([part, key]) => ({ key, template: parseTemplate(`\${${part}}`) }));
  }
  return [{ key: config.key ?? "", template: parseTemplate(config.template ?? "${value}") }];
}

/** What each target must hold for this version, or the part that is missing. */
function rendered(
  targets: readonly Target[],
  parts: Parts,
): { readonly values: readonly Secret[] } | { readonly missing: string } {
  const values: Secret[] = [];
  for (const { template } of targets) {
    const value = renderTemplate(template, parts);
    if (!(value instanceof Secret)) return value;
    values.push(value);
  }
  return { values };
}

interface Held {
  readonly file: FileSeen | undefined;
  readonly text: string;
  /** One per target; `undefined` where the key is not there. */
  readonly values: readonly (Secret | undefined)[];
}

/** A configuration file of more than a few megabytes is a mistake in the path. */
const maxConfigBytes = 4 * 1024 * 1024;

async function readHeld(config: ValueConfig, targets: readonly Target[]): Promise<Held> {
  const file = await readFile(config.path, maxConfigBytes);
  if (file === undefined) return { file, text: "", values: targets.map(() => undefined) };
  let text: string;
  try {
    // Strict: a file in another encoding would come back damaged. The byte order mark stays.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(file.bytes);
  } catch {
    throw new ConnectorError("misconfigured", `${config.path} is not UTF-8 text; it was not touched.`, {
      next: "Convert it to UTF-8, or correct the path.",
    });
  }
  const format = formatOf(config.format);
  return {
    file,
    text,
    values: targets.map(({ key }) => {
      const value = asMisconfigured(config.path, () => format.read(text, key));
      // An empty value is how files are shipped before anybody filled them in.
      return value === undefined || value === "" ? undefined : new Secret(value);
    }),
  };
}

function asMisconfigured<T>(path: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new ConnectorError("misconfigured", `${path}: ${error.message}; it was not touched.`, {
      next: "Mend the file, or correct the settings of the place.",
    });
  }
}

function holds(held: Held, values: readonly Secret[]): boolean {
  // Every target is compared, so that the time taken does not tell which one differs.
  const same = held.values.map((value, index) => {
    const wanted = values[index];
    return value !== undefined && wanted !== undefined && sameSecret(value, wanted);
  });
  return same.every(Boolean);
}

async function recognise(
  held: Held,
  targets: readonly Target[],
  known: readonly VersionHandle[],
): Promise<string | undefined> {
  for (const version of known) {
    if (!version.hasMaterial) continue;
    const wanted = rendered(targets, await partsOf(version));
    if ("values" in wanted && holds(held, wanted.values)) return version.id;
  }
  return undefined;
}

export function openValue(config: ValueConfig): Place {
  const targets = targetsOf(config);

  async function observe(cx: CallContext, known: readonly VersionHandle[]): Promise<Observation> {
    throwIfCancelled(cx);
    const held = await readHeld(config, targets);
    const missing = targets.filter((_, index) => held.values[index] === undefined);
    if (missing.length === targets.length) return { entries: [], current: null };
    const version = await recognise(held, targets, known);
    const mark = version ?? unknownMark;
    const due = config.reload !== undefined && (await isReloadDue(config.path));
    const notes: string[] = [];
    if (missing.length > 0) notes.push(`${missing.map(({ key }) => key).join(", ")} is not set in ${config.path}.`);
    if (due)
      notes.push(`${config.path} was changed and the reload did not end well: what its readers use is not known.`);
    return {
      entries: [{ mark, enabled: true, ...(version === undefined ? {} : { version }) }],
      ...(due ? {} : { current: mark }),
      ...(notes.length === 0 ? {} : { notes }),
    };
  }

  async function activate(cx: CallContext, version: VersionHandle): Promise<void> {
    throwIfCancelled(cx);
    const wanted = rendered(targets, await partsOf(version));
    if ("missing" in wanted) {
      throw new ConnectorError(
        "misconfigured",
        `${version.id} has no part "${wanted.missing}", which ${config.path} is to hold.`,
        {
          next: "Name a part that the credential's other places give, or password.",
        },
      );
    }
    const held = await readHeld(config, targets);
    if (!holds(held, wanted.values)) {
      const format = formatOf(config.format);
      let { text } = held;
      for (const [index, { key }] of targets.entries()) {
        const value = wanted.values[index];
        if (value !== undefined) text = asMisconfigured(config.path, () => format.write(text, key, value.reveal()));
      }
      await cx.throttle();
      const wasDue = config.reload !== undefined && (await isReloadDue(config.path));
      if (config.reload !== undefined && !wasDue) await markReloadDue(config.path);
      try {
        await replaceFile(config.path, Buffer.from(text, "utf8"), {
          seen: held.file,
          mode: config.mode,
          signal: cx.signal,
        });
      } catch (error) {
        const changedNothing = error instanceof ConnectorError && error.kind !== "unknown-outcome";
        if (config.reload !== undefined && !wasDue && changedNothing) await clearReloadDue(config.path);
        throw error;
      }
    }
    if (config.reload === undefined) return;
    // Also when the file was right already: a process that was killed before the reload left it so.
    await reload(cx, config.path, config.reload, wanted.values);
    await clearReloadDue(config.path);
  }

  async function probe(cx: CallContext, version: VersionHandle): Promise<Probe> {
    const seen = await observe(cx, [version]);
    if (seen.current === undefined) return { outcome: "unknown", detail: `A reload is due at ${config.path}.` };
    return seen.current === version.id
      ? { outcome: "accepted", detail: `${config.path} holds ${version.id}.` }
      : { outcome: "refused", detail: `${config.path} does not hold ${version.id}.` };
  }

  async function adopt(cx: CallContext): Promise<readonly Issued[]> {
    throwIfCancelled(cx);
    const held = await readHeld(config, targets);
    const parts = new Map<string, Secret>();
    for (const [index, { key, template }] of targets.entries()) {
      const value = held.values[index];
      if (value === undefined) return [];
      const found = matchTemplate(template, value.reveal());
      if (found === undefined) {
        throw new ConnectorError(
          "misconfigured",
          `The value${key === "" ? "" : ` of ${key}`} in ${config.path} does not have the form of the template.`,
          {
            next: "Correct the template, or the file.",
          },
        );
      }
      for (const [name, part] of found) {
        const before = parts.get(name);
        if (before !== undefined && !sameSecret(before, part)) {
          throw new ConnectorError("misconfigured", `${config.path} holds two different values for "${name}".`, {
            next: "Make them the same.",
          });
        }
        parts.set(name, part);
      }
    }
    const secret = secretNames.map((name) => parts.get(name)).find((one) => one !== undefined);
    // Keys with certificates are adopted where they are kept as files.
    if (secret === undefined) return [];
    const attributes = Object.fromEntries(
      [...parts]
        .filter(([name]) => name !== "id" && !secretNames.some((one) => one === name))
        .map(([name, part]) => [name, part.reveal()]),
    );
    const facts = Object.keys(attributes).length === 0 ? {} : { attributes };
    return [{ facts, material: { kind: "secret", value: secret } }];
  }

  return { observe, activate, probe, adopt };
}
