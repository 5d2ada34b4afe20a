/**
 * Recipes: a few values for a system that many people have, which stand for the credentials, places and policy that such a system has. The
 * expansion is made of what a user could have written, and is read by the same rules.
 */
import { z } from "zod";
import type { Tree, TreeMap } from "../source.ts";

export interface Recipe<V = unknown> {
  /** What users write after `use:`. */
  readonly name: string;
  /** One line for lists. */
  readonly title: string;
  readonly values: z.ZodType<V>;
  /** The credentials that it makes, in order. One alone has the name under which the recipe is used; of several each has its part's name behind it. */
  readonly parts: readonly string[];
  /** @param name under which the recipe is used. */
  expand(name: string, values: V): Readonly<Record<string, TreeMap>>;
}
export function defineRecipe<V>(recipe: Recipe<V>): Recipe {
  return recipe as unknown as Recipe;
}

/** What every recipe takes beside its own values. */
export const recipeCommon = {
  use: z.string().describe("The recipe."),
  override: z
    .record(z.string(), z.unknown())
    .optional()
    .describe("By part: what is laid over its expansion, key by key. An empty value takes a key away."),
  owner: z.string().min(1).optional().describe("Who looks after its credentials. Default: defaults.owner."),
};

export const text = z.string().trim().min(1, "is empty");
export const durationText = z
  .string()
  .regex(
    /^\s*\d+(\.\d+)?\s*(ms|s|m|h|d|w)(\s*\d+\s*(s|m|h|d|w))*\s*$/,
    "is no duration; write it like 730d, 10m or 30s",
  );

/** Leaves out what was not given. */
export function given(tree: Readonly<Record<string, Tree | undefined>>): TreeMap {
  const found: TreeMap = {};
  for (const [key, value] of Object.entries(tree)) if (value !== undefined) found[key] = value;
  return found;
}

/** Which application registration: one of the two. */
export const application = {
  appId: text.optional().describe("The application (client) id."),
  namePrefix: text.optional().describe("Instead of appId: how the application's display name begins."),
};
