/**
 * An application as they are: it opens new connections at a steady rate with what its env file said when it last read it, and it reads it only
 * every so often. Counts what happened to each connection.
 */
import { readFileSync } from "node:fs";

export interface Credentials {
  readonly user: string;
  readonly password: string;
}
export interface Counts {
  /** By user. */
  readonly accepted: Map<string, number>;
  refused: number;
  /** Neither: an outage of the server or of this machine. */
  failed: number;
}

export function readEnvFile(path: string): Credentials {
  const values = Object.fromEntries(
    readFileSync(path, "utf8")
      .split("\n")
      .filter((line) => line.includes("="))
      .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
  );
  return { user: values["DB_USER"] ?? "", password: values["DB_PASSWORD"] ?? "" };
}

export function startClients(options: {
  readonly path: string;
  readonly perSecond: number;
  readonly rereadMs: number;
  /** One connection and a round trip on it. */
  attempt(credentials: Credentials): Promise<"accepted" | "refused" | "failed">;
}): { readonly counts: Counts; stop(): Promise<void> } {
  const counts: Counts = { accepted: new Map(), refused: 0, failed: 0 };
  const underWay = new Set<Promise<void>>();
  let credentials = readEnvFile(options.path);
  const reread = setInterval(() => (credentials = readEnvFile(options.path)), options.rereadMs);
  const open = setInterval(() => {
    const used = credentials;
    const attempt = options.attempt(used).then((outcome) => {
      if (outcome === "accepted") counts.accepted.set(used.user, (counts.accepted.get(used.user) ?? 0) + 1);
      else counts[outcome]++;
    });
    underWay.add(attempt);
    void attempt.finally(() => underWay.delete(attempt));
  }, 1000 / options.perSecond);
  return {
    counts,
    async stop() {
      clearInterval(open);
      clearInterval(reread);
      await Promise.all(underWay);
    },
  };
}
