/**
 * The clients of the demo, in a process of their own, so that a pause of Keyroll's own process can neither hide nor cause a refusal. An application
 * opens new connections to PostgreSQL with what its env file says, and re-reads that file only every few seconds, as real ones do. Another
 * client opens TLS connections and checks the certificate against its CA bundle.
 *
 * Run as `node presenters.ts <settings as JSON>`; counts go to the parent over IPC. No secret is in the settings.
 */
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect } from "node:tls";
import pg from "pg";
import { parseEnv } from "node:util";

export interface PresenterSettings {
  readonly database: {
    readonly port: number;
    readonly database: string;
    readonly envFile: string;
    readonly perSecond: number;
    readonly rereadMs: number;
  };
  readonly tls: {
    readonly port: number;
    readonly serverName: string;
    readonly bundle: string;
    readonly perSecond: number;
    readonly rereadMs: number;
  };
}

export interface Counts {
  /** Connections that worked, by login role. */
  readonly database: Readonly<Record<string, number>>;
  /** Refused by the server's own answer: wrong password, login not allowed. */
  readonly databaseRefused: number;
  /** Everything else that kept a connection from working. */
  readonly databaseFailed: number;
  /** Handshakes that verified, by SHA-256 of the certificate served. */
  readonly tls: Readonly<Record<string, number>>;
  readonly tlsRefused: number;
  readonly tlsFailed: number;
  /** The last few reasons, public words only. */
  readonly reasons: readonly string[];
}

/** SQLSTATE class 28: invalid authorization (PostgreSQL, appendix A). */
const refusedClass = "28";

function main(settings: PresenterSettings): void {
  const counts = {
    database: {} as Record<string, number>,
    databaseRefused: 0,
    databaseFailed: 0,
    tls: {} as Record<string, number>,
    tlsRefused: 0,
    tlsFailed: 0,
    reasons: [] as string[],
  };
  const because = (reason: string): void => {
    counts.reasons = [...counts.reasons, reason].slice(-5);
  };

  let sign = { user: "", password: "" };
  const rereadEnv = (): void => {
    try {
      const env = parseEnv(readFileSync(settings.database.envFile, "utf8"));
      sign = { user: env["DB_USER"] ?? "", password: env["DB_PASSWORD"] ?? "" };
    } catch (error) {
      because(`env file: ${(error as NodeJS.ErrnoException).code ?? "unreadable"}`);
    }
  };
  const openDatabase = async (): Promise<void> => {
    const { user, password } = sign;
    const client = new pg.Client({
      host: "127.0.0.1",
      port: settings.database.port,
      database: settings.database.database,
      user,
      password,
      connectionTimeoutMillis: 10_000,
    });
    try {
      await client.connect();
      await client.query("select current_user");
      counts.database[user] = (counts.database[user] ?? 0) + 1;
    } catch (error) {
      const code = (error as { code?: string }).code ?? "";
      if (code.startsWith(refusedClass)) counts.databaseRefused++;
      else counts.databaseFailed++;
      because(`database as ${user}: ${code || "no answer"}`);
    } finally {
      await client.end().catch(() => {
        // A connection that never came about has nothing to end.
      });
    }
  };

  let bundle = "";
  const rereadBundle = (): void => {
    try {
      bundle = readFileSync(settings.tls.bundle, "utf8");
    } catch (error) {
      because(`bundle: ${(error as NodeJS.ErrnoException).code ?? "unreadable"}`);
    }
  };
  const openTls = (): void => {
    const socket = connect({
      host: "127.0.0.1",
      port: settings.tls.port,
      servername: settings.tls.serverName,
      ca: bundle,
      timeout: 10_000,
      // Each one is a new handshake: a resumed session would not look at the certificate.
      session: undefined,
    });
    let settled = false;
    const end = (what: () => void): void => {
      if (!settled) what();
      settled = true;
      socket.destroy();
    };
    socket.once("secureConnect", () => {
      // Only a round trip shows that the connection is of use: the server answers one byte.
      const raw = socket.getPeerX509Certificate() as X509Certificate | undefined;
      const fingerprint = (raw?.fingerprint256 ?? "").replaceAll(":", "").toLowerCase();
      socket.once("data", () =>
        end(() => {
          counts.tls[fingerprint] = (counts.tls[fingerprint] ?? 0) + 1;
        }),
      );
      socket.write("?");
    });
    socket.once("timeout", () => end(() => counts.tlsFailed++));
    socket.once("close", () => end(() => counts.tlsFailed++));
    socket.once("error", (error: NodeJS.ErrnoException) =>
      end(() => {
        const code = error.code ?? "";
        if (/CERT|SELF_SIGNED|UNABLE_TO|ALTNAME/.test(code)) counts.tlsRefused++;
        else counts.tlsFailed++;
        because(`tls: ${code}`);
      }),
    );
  };

  rereadEnv();
  rereadBundle();
  const timers = [
    setInterval(rereadEnv, settings.database.rereadMs),
    setInterval(rereadBundle, settings.tls.rereadMs),
    setInterval(() => void openDatabase(), 1000 / settings.database.perSecond),
    setInterval(openTls, 1000 / settings.tls.perSecond),
    setInterval(() => process.send?.(counts), 200),
  ];
  const stop = (): void => {
    for (const timer of timers) clearInterval(timer);
    process.disconnect?.();
    process.exit(0);
  };
  process.once("disconnect", stop);
  process.once("SIGTERM", stop);
  // Ctrl-C reaches the whole group; the parent decides when its clients stop.
  process.on("SIGINT", () => {});
}

if (process.argv[1] === import.meta.filename) main(JSON.parse(process.argv[2]!) as PresenterSettings);
