/** Issuer `random`: passwords and symmetric keys, made here. */
import { randomBytes, randomInt } from "node:crypto";
import { plainTraits } from "../../core/place.ts";
import { ConnectorError, defineIssuer } from "../connector.ts";
import { Secret } from "../secret.ts";
import { throwIfCancelled } from "../shared/calls.ts";
import { generate } from "./generate.ts";
import type { Source } from "./generate.ts";
import { randomSchema } from "./schema.ts";

const system: Source = { integer: (below) => randomInt(below), bytes: (count) => randomBytes(count) };

export const random = defineIssuer({
  family: "issuer",
  type: "random",
  title: "Random password or key, made by Keyroll",
  config: randomSchema,
  permissions: ["None: nothing outside is asked."],
  traits: () => ({ ...plainTraits, roles: ["issuer"], minting: "ours", changeMs: 1 }),
  open: (config) => ({
    mint: async (cx) => {
      throwIfCancelled(cx);
      return { kind: "secret", value: new Secret(generate(config, system)) };
    },
    issue: async (cx, intent) => {
      throwIfCancelled(cx);
      if (intent.minted?.kind !== "secret") {
        throw new ConnectorError(
          "misconfigured",
          `${intent.id} was to be issued without a secret that was minted and sealed before.`,
          {
            next: "This is a mistake in Keyroll: please report it.",
          },
        );
      }
      // The fingerprint of an opaque secret is a hash under the store's own key, which connectors do not have.
      return { facts: {}, material: intent.minted };
    },
  }),
});
