/** Settings of places of type `tls.endpoint`. */
import { z } from "zod";
import { duration } from "../shared/settings.ts";
import { startTlsKinds } from "../shared/tls.ts";

export const endpointSchema = z.strictObject({
  host: z.string().min(1).max(253).describe("Name or address to connect to."),
  port: z.int().min(1).max(65_535).default(443),
  serverName: z
    .string()
    .min(1)
    .max(253)
    .optional()
    .describe("SNI, and the name that the certificate must carry. Default: host."),
  startTls: z.enum(startTlsKinds).default("none").describe("The dialogue that comes before TLS."),
  caFile: z
    .string()
    .min(1)
    .optional()
    .describe("PEM bundle that the served chain must lead to. Absent: only the certificate itself is compared."),
  connections: z
    .int()
    .min(1)
    .max(64)
    .default(8)
    .describe("How many connections one look opens: replicas and old workers answer differently."),
  timeout: duration({ leastMs: 100, mostMs: 120_000 })
    .prefault("5s")
    .describe("For one connection, handshake included."),
});
export type EndpointConfig = z.infer<typeof endpointSchema>;
