/** `lab`: the emulated Microsoft tenant, until Ctrl-C. */
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { Problem } from "../../core/problem.ts";
import type { Tenant } from "../../lab/tenant.ts";
import type { Cli, Context } from "../command.ts";
import { countOption } from "../session.ts";
import { listed } from "../text.ts";

interface LabOptions {
  readonly seed?: string;
  readonly speed: string;
  readonly faults: string;
  readonly deny?: string;
  readonly folder?: string;
  readonly presenters: boolean;
}

export function registerLab(cli: Cli): void {
  const lab = cli
    .command("lab", "an emulated Microsoft tenant on this machine, to try the Microsoft connectors against")
    .option("--seed <text>", "names, delays and faults follow from it (default: a random one, printed)")
    .option("--speed <n>", "seconds of the lab in one second: 60 makes ten minutes ten seconds", "1")
    .option("--faults <profile>", "none, usual (delays and limits as published) or heavy", "usual")
    .option("--deny <permissions>", "permissions that the lab's operator lacks, separated by commas")
    .option("--folder <path>", "keep the tenant here and go on with it next time (holds its secrets in clear)")
    .option("--no-presenters", "without the systems that use the credentials and count");
  cli.does<LabOptions>(lab, runLab);
}

async function runLab({ session, app }: Context, options: LabOptions): Promise<void> {
  const { faultProfiles } = await import("../../lab/faults.ts");
  const { foundingCases } = await import("../../lab/founding.ts");
  const { startTenant } = await import("../../lab/tenant.ts");
  const profiles = Object.keys(faultProfiles) as (keyof typeof faultProfiles)[];
  const faults = profiles.find((each) => each === options.faults);
  if (faults === undefined)
    throw new Problem("usage", `--faults ${options.faults} is not a profile.`, {
      next: `Write one of ${listed(profiles)}.`,
    });
  const folder = options.folder === undefined ? undefined : path.resolve(session.io.cwd, options.folder);
  const tenant = await startTenant({
    seed: options.seed ?? crypto.randomUUID().slice(0, 8),
    speed: countOption("--speed", options.speed, 100_000),
    faults,
    deny: options.deny?.split(",").map((each) => each.trim()) ?? [],
    presenters: options.presenters,
    cases: foundingCases,
    now: () => app.now(),
    ...(folder === undefined ? {} : { folder }),
  });
  try {
    if (folder !== undefined) await writeFiles(tenant, folder);
    const document = describe(tenant);
    await session.document(document, () => text(tenant, folder));
    session.say("Ctrl-C ends it.");
    if (!session.signal.aborted) await once(session.signal, "abort");
  } finally {
    const { presenters } = tenant.inspect();
    await tenant.stop();
    for (const [name, { versions }] of Object.entries(presenters))
      for (const [version, each] of Object.entries(versions))
        session.say(
          `${name}, version ${version}: ${each.accepted} accepted, ${each.refused} refused, ${each.failed} failed`,
        );
  }
}

/** What a shell needs to sign in, in files that only their owner reads; the secret stands in no argument and on no screen. */
async function writeFiles(tenant: Tenant, folder: string): Promise<void> {
  const files = {
    "ca.pem": tenant.ca,
    "operator-secret.txt": tenant.operator.clientSecret,
    "operator.pem": `${tenant.operator.certificate}${tenant.operator.key}`,
  };
  for (const [name, content] of Object.entries(files))
    await writeFile(path.join(folder, name), content, { mode: 0o600 });
}

function describe(tenant: Tenant) {
  return {
    url: tenant.url,
    vaults: tenant.vaults,
    provisioning: tenant.provisioning,
    hubs: tenant.hubs,
    clusters: tenant.clusters,
    farms: tenant.farms,
    tenantId: tenant.tenantId,
    subscriptionId: tenant.subscriptionId,
    clientId: tenant.operator.clientId,
    connectedSpaces: tenant.cases.connectedSpaces && {
      vault: tenant.cases.connectedSpaces.vault,
      appId: tenant.cases.connectedSpaces.appId,
    },
    provisionAssist: tenant.cases.provisionAssist,
    seed: tenant.seed,
    ca: tenant.ca,
  };
}

function text(tenant: Tenant, folder: string | undefined): string {
  const { connectedSpaces, provisionAssist } = tenant.cases;
  const lines: [string, string][] = [
    ["Sign-in, Graph, Resource Manager", tenant.url],
    ...Object.entries(tenant.vaults).map(([name, url]): [string, string] => [`Vault ${name}`, url]),
    ...Object.entries(tenant.provisioning).map(([name, url]): [string, string] => [`Device provisioning ${name}`, url]),
    ...Object.entries(tenant.hubs).map(([name, url]): [string, string] => [`IoT hub ${name}`, url]),
    ...Object.entries(tenant.clusters).map(([name, url]): [string, string] => [`Service Fabric cluster ${name}`, url]),
    ...Object.entries(tenant.farms).map(([name, url]): [string, string] => [`AD FS farm ${name}`, url]),
    ["Tenant", tenant.tenantId],
    ["Subscription", tenant.subscriptionId],
    ["Operator (client id)", tenant.operator.clientId],
    ...(connectedSpaces ? [["Connected Spaces (application id)", connectedSpaces.appId] as [string, string]] : []),
    ...(provisionAssist ? [["Provision Assist (application id)", provisionAssist.appId] as [string, string]] : []),
    ["Seed", tenant.seed],
    ...(folder === undefined
      ? [["CA and the operator's secret", "in files, with --folder"] as [string, string]]
      : [
          ["CA", path.join(folder, "ca.pem")] as [string, string],
          ["Operator's secret", path.join(folder, "operator-secret.txt")] as [string, string],
          ["Operator's certificate and key", path.join(folder, "operator.pem")] as [string, string],
        ]),
  ];
  const width = Math.max(...lines.map(([name]) => name.length));
  return lines.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}
