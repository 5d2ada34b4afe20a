/** Puts the expansion of each recipe in the place of its use, and keeps for every message where in the file it comes from. */
import { findings } from "../issues.ts";
import { jsonSchemaOf } from "../json-schema.ts";
import { joinPath, quoted, suggestion } from "../problem.ts";
import type { Problems } from "../problem.ts";
import { isName } from "../schema.ts";
import { isTreeMap } from "../source.ts";
import type { Positions, SourceFile, TreeMap } from "../source.ts";
import { recipes } from "./all.ts";
import { recipeCommon } from "./recipe.ts";

/** The file with all recipes expanded, its includes untouched. The same file where it uses none. */
export function expandRecipes(file: SourceFile, positions: Positions, problems: Problems): SourceFile {
  const credentials = file.tree["credentials"];
  if (!isTreeMap(credentials)) return file;
  const uses = Object.entries(credentials).filter(([, raw]) => isTreeMap(raw) && raw["use"] !== undefined);
  if (uses.length === 0) return file;

  const expanded: TreeMap = {};
  const tree: TreeMap = { ...file.tree, credentials: expanded };
  positions.copy(file.tree, tree);
  positions.copy(credentials, expanded);
  for (const [name, raw] of Object.entries(credentials)) {
    if (!isTreeMap(raw) || raw["use"] === undefined) {
      expanded[name] = raw;
      continue;
    }
    const found = expansionOf(name, raw, (path, text, which) => {
      problems.add(
        positions.locate(file.tree, ["credentials", name, ...path], which),
        joinPath(["credentials", name, ...path]),
        text,
      );
    });
    for (const [made, credential] of Object.entries(found)) {
      if (made !== name && Object.hasOwn(credentials, made)) {
        problems.add(
          positions.locate(file.tree, ["credentials", made], "key"),
          joinPath(["credentials", made]),
          `is what the recipe under ${quoted(name)} makes; change it there in override, or give one of them another name`,
        );
        continue;
      }
      expanded[made] = credential;
      // What the recipe wrote stands where the recipe is used; what the user laid over it keeps its own place.
      const at = positions.locate(file.tree, ["credentials", name], "key");
      positions.standIn(expanded, made, credential, at);
    }
  }
  return { ...file, tree };
}

type Say = (path: readonly (string | number)[], text: string, which: "key" | "value") => void;

function expansionOf(name: string, raw: TreeMap, say: Say): Readonly<Record<string, TreeMap>> {
  const { use, override, owner, ...values } = raw;
  const recipe = recipes.find((one) => one.name === use);
  if (recipe === undefined) {
    const known = recipes.map((one) => one.name);
    const shown = typeof use === "string" ? quoted(use) : "this";
    say(["use"], `${shown} is not a recipe${suggestion(typeof use === "string" ? use : "", known, "recipe")}`, "value");
    return {};
  }
  const result = recipe.values.safeParse(values);
  if (!result.success) {
    const known = Object.keys(recipeCommon);
    for (const one of findings(result.error.issues, values, jsonSchemaOf(recipe.values), known))
      say(one.path, one.text, one.aboutKey ? "key" : "value");
    return {};
  }
  if (values["appId"] !== undefined && values["namePrefix"] !== undefined) {
    say(["namePrefix"], "stands beside appId; leave one of them out", "key");
    return {};
  }
  const overrides: TreeMap = isTreeMap(override) ? override : {};
  if (override !== undefined && !isTreeMap(override))
    say(["override"], `is not a map; write one of ${recipe.parts.join(", ")} and what is laid over it`, "value");
  for (const part of Object.keys(overrides)) {
    if (!recipe.parts.includes(part))
      say(["override", part], `is not a part of ${recipe.name}${suggestion(part, recipe.parts, "part")}`, "key");
  }
  const found: Record<string, TreeMap> = {};
  for (const [part, tree] of Object.entries(recipe.expand(name, result.data))) {
    const made = recipe.parts.length === 1 ? name : `${name}-${part}`;
    if (!isName(made)) say([], `${quoted(made)} is not a name`, "key");
    const base = owner === undefined ? tree : { ...tree, owner };
    const over = overrides[part];
    if (over !== undefined && !isTreeMap(over)) {
      say(["override", part], "is not a map; write what is laid over this credential", "value");
      continue;
    }
    found[made] = over === undefined ? base : layOver(base, over);
  }
  return found;
}

/** Key by key; a list or a single value is replaced, and an empty value takes the key away. */
function layOver(base: TreeMap, over: TreeMap): TreeMap {
  const found: TreeMap = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const before = found[key];
    if (value === null) delete found[key];
    else
      found[key] =
        isTreeMap(value) && isTreeMap(before) && !changesType(before, value) ? layOver(before, value) : value;
  }
  return found;
}
/** Settings of one connector mean nothing to another. */
function changesType(before: TreeMap, over: TreeMap): boolean {
  return over["type"] !== undefined && over["type"] !== before["type"];
}
