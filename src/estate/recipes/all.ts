/** Every recipe that ships, one line each. */
import { connectedSpaces } from "./connected-spaces.ts";
import { provisionAssist } from "./provision-assist.ts";
import type { Recipe } from "./recipe.ts";

export const recipes: readonly Recipe[] = [connectedSpaces, provisionAssist];
