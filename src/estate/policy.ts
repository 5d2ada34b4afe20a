/** The policy of a credential, from what stands closer and farther. */
import type { Policy } from "../core/place.ts";
import { dayMs } from "../core/time.ts";
import type { PolicyInput } from "./schema.ts";

const builtInPolicy: Policy = {
  rotateBeforeMs: null,
  maxAgeMs: null,
  soakMs: 0,
  marginMs: dayMs,
  approvals: {},
  windows: [],
  notify: [],
};

/** Later ones win, key by key. */
export function mergePolicies(inputs: readonly (PolicyInput | undefined)[]): Policy {
  let policy = builtInPolicy;
  for (const input of inputs) {
    if (input === undefined) continue;
    const windows = input.windows ?? (input.window === undefined ? undefined : [input.window]);
    const approvals = Object.fromEntries(
      Object.entries(input.approvals ?? {}).filter(([, people]) => people !== undefined),
    );
    policy = {
      rotateBeforeMs: input.rotateBefore === undefined ? policy.rotateBeforeMs : input.rotateBefore,
      maxAgeMs: input.maxAge === undefined ? policy.maxAgeMs : input.maxAge,
      soakMs: input.soak ?? policy.soakMs,
      marginMs: input.margin ?? policy.marginMs,
      approvals: { ...policy.approvals, ...approvals },
      windows: windows ?? policy.windows,
      notify: input.notify ?? policy.notify,
    };
  }
  return policy;
}
