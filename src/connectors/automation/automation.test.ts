import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { placeContract, secretVersions } from "../connector.contract.ts";
import type { CallContext, VersionHandle } from "../connector.ts";
import { startLabBench } from "../../../test/support/microsoft.ts";
import type { LabBench } from "../../../test/support/microsoft.ts";
import type { Variable } from "../../lab/state.ts";
import { automationVariable } from "./connector.ts";

let bench: LabBench;
beforeAll(async () => {
  bench = await startLabBench({ cases: ["provision-assist"] });
});
afterAll(async () => {
  await bench?.stop();
});

const cx = (): CallContext => ({
  now: () => Date.now(),
  signal: new AbortController().signal,
  throttle: async () => {},
  log: { debug: () => {}, info: () => {}, warn: () => {} },
});
const where = { resourceGroup: "rg-provision-assist", account: "provisionassist-auto" };
let worlds = 0;
const variablesOf = () =>
  bench.state((state) => state.automationAccounts.find((one) => one.name === where.account)?.variables ?? {});
function newVariable(more: Partial<Variable> = {}): Variable {
  const name = `world-${++worlds}`;
  const made: Variable = {
    name,
    value: JSON.stringify("before Keyroll"),
    description: "Client secret of the application",
    isEncrypted: true,
    createdMs: Date.now() - 1000,
    changedMs: Date.now() - 1000,
    ...more,
  };
  variablesOf()[name] = made;
  return made;
}
const valueOf = async (version: VersionHandle): Promise<string> => {
  const material = await version.open();
  return material.kind === "secret" ? material.value.reveal() : "";
};

placeContract({
  runner: { describe, it },
  name: "automation.variable",
  connector: automationVariable,
  config: { ...where, name: "any" },
  makeWorld: () => {
    const { name } = newVariable();
    const variable = (): Variable => variablesOf()[name]!;
    const config = automationVariable.config.parse({ ...where, name });
    const holds = async (one: VersionHandle): Promise<boolean> => JSON.parse(variable().value) === (await valueOf(one));
    const replace = async (value: string): Promise<void> => {
      variable().value = JSON.stringify(value);
      variable().changedMs = Date.now() + 5;
    };
    return {
      open: () => automationVariable.open(config, bench.system()),
      version: secretVersions("variable-secret"),
      async inspect(versions) {
        const here: string[] = [];
        for (const one of versions) if (await holds(one)) here.push(one.id);
        const words = (variable().description ?? "").replace(/ ?keyroll:\S+ \S+/, "");
        return { present: here, current: here[0] ?? null, foreign: [words, String(variable().isEncrypted)] };
      },
      consumer: holds,
      meddle: {
        add: async () => {
          variable().description = `${variable().description ?? ""} and a note`;
        },
        change: async () => replace("changed by a person"),
        remove: async () => replace("taken away"),
      },
      faults: bench.faults({
        observe: {
          deny: "Microsoft.Automation/automationAccounts/variables/read",
          permission: "Microsoft.Automation/automationAccounts/variables/read",
        },
        write: {
          deny: "Microsoft.Automation/automationAccounts/variables/write",
          permission: "Microsoft.Automation/automationAccounts/variables/write",
        },
      }),
      canaries: [bench.tenant.operator.clientSecret],
    };
  },
});

describe("automation.variable", () => {
  const opened = (name: string) =>
    automationVariable.open(automationVariable.config.parse({ ...where, name }), bench.system());

  it("writes a text as JSON inside JSON, and makes an encrypted variable where there is none", async () => {
    const name = `new-${++worlds}`;
    const version = secretVersions("made")(1);
    await opened(name).activate?.(cx(), version);
    const made = variablesOf()[name];
    expect(made?.value).toBe(JSON.stringify(await valueOf(version)));
    expect(made?.isEncrypted).toBe(true);
  });

  it("says that a variable is not encrypted", async () => {
    const { name } = newVariable({ isEncrypted: false });
    expect((await opened(name).observe(cx(), [])).notes?.[0]).toContain("not encrypted");
  });

  it("takes an account that is not there for a mistake and no empty variable", async () => {
    const place = automationVariable.open(
      automationVariable.config.parse({ ...where, account: "nobody", name: "a" }),
      bench.system(),
    );
    await expect(place.observe(cx(), [])).rejects.toMatchObject({ kind: "misconfigured" });
  });
});
