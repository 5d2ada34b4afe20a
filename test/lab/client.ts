/** A plain HTTPS client for tests of the lab: no SDK, none of the product's code. */
import { Agent, request } from "node:https";
import type { Tenant } from "../../src/lab/tenant.ts";

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  // A test reads what it expects; what is not there fails the comparison.
  // oxlint-disable-next-line typescript/no-explicit-any
  readonly body: any;
}

/** One per tenant: a handshake for each request would be most of the tests' time. The tenant closes the connections when it stops. */
const agents = new WeakMap<Tenant, Agent>();
function agentOf(tenant: Tenant): Agent {
  const agent = agents.get(tenant) ?? new Agent({ keepAlive: true, ca: tenant.ca, maxSockets: 8 });
  agents.set(tenant, agent);
  return agent;
}

export async function call(
  tenant: Tenant,
  method: string,
  url: string,
  more: { token?: string; body?: unknown; form?: Record<string, string>; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const text = more.form
    ? new URLSearchParams(more.form).toString()
    : more.body === undefined
      ? undefined
      : JSON.stringify(more.body);
  return await new Promise((resolve, reject) => {
    const sent = request(
      url,
      {
        method,
        agent: agentOf(tenant),
        headers: {
          "content-type": more.form ? "application/x-www-form-urlencoded" : "application/json",
          ...(more.token === undefined ? {} : { authorization: `Bearer ${more.token}` }),
          ...more.headers,
        },
      },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.on("error", reject);
        incoming.on("end", () => {
          const raw = Buffer.concat(chunks).toString();
          resolve({
            status: incoming.statusCode ?? 0,
            headers: incoming.headers,
            body: raw === "" ? undefined : JSON.parse(raw),
          });
        });
      },
    );
    sent.on("error", reject);
    sent.end(text);
  });
}

export async function signIn(
  tenant: Tenant,
  resource: string,
  fields: Record<string, string> = { client_id: tenant.operator.clientId, client_secret: tenant.operator.clientSecret },
): Promise<Answer> {
  return await call(tenant, "POST", `${tenant.url}/${tenant.tenantId}/oauth2/v2.0/token`, {
    form: { grant_type: "client_credentials", scope: `${resource}/.default`, ...fields },
  });
}

export async function tokenFor(tenant: Tenant, resource: string): Promise<string> {
  const answer = await signIn(tenant, resource);
  if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
  return answer.body.access_token;
}
