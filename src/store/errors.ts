/** Turns the driver's and the server's errors into sentences that say what, where and what next. Drivers' own texts may hold statements. */
import { StoreError } from "./store.ts";

interface DriverError {
  readonly code?: unknown;
  readonly message?: unknown;
  readonly constraint?: unknown;
}

/** SQLSTATE (PostgreSQL manual, appendix A) or Node's errno name. */
export function codeOf(error: unknown): string {
  const code = (error as DriverError | null)?.code;
  return typeof code === "string" ? code : "";
}
export function constraintOf(error: unknown): string {
  const constraint = (error as DriverError | null)?.constraint;
  return typeof constraint === "string" ? constraint : "";
}
function messageOf(error: unknown): string {
  const message = (error as DriverError | null)?.message;
  return typeof message === "string" ? message : String(error);
}

/** The connection is gone or never was: the statement may or may not have happened. */
export function isConnectionLoss(error: unknown): boolean {
  const code = codeOf(error);
  if (code.startsWith("08") || ["57P01", "57P02", "57P03", "57P05", "25P03"].includes(code)) return true;
  if (
    ["ECONNREFUSED", "ECONNRESET", "ENOENT", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ENOTFOUND", "EAI_AGAIN"].includes(
      code,
    )
  )
    return true;
  return /Connection terminated|Client has encountered a connection error|timeout exceeded when trying to connect|not queryable/i.test(
    messageOf(error),
  );
}

/** 40P01 deadlock, 40001 serialization failure: the whole transaction may be tried again. */
export function isRepeatable(error: unknown): boolean {
  return codeOf(error) === "40P01" || codeOf(error) === "40001";
}

/** Known failures get a sentence; everything else is a fault of ours and passes as it is. */
export function readable(error: unknown, where: string): unknown {
  if (error instanceof StoreError) return error;
  const code = codeOf(error);
  if (code === "53100" || code === "ENOSPC" || /No space left on device/.test(messageOf(error))) return diskFull(where);
  if (code === "28P01" || code === "28000") {
    return new StoreError(
      "permission",
      `the database at ${where} refused the sign-in`,
      "check user and password in DATABASE_URL",
    );
  }
  if (code === "42501") {
    return new StoreError(
      "permission",
      `the database user at ${where} lacks a permission: ${messageOf(error)}`,
      "Keyroll needs to own its schemas: GRANT CREATE ON DATABASE … TO the user in DATABASE_URL",
    );
  }
  if (code === "3D000") {
    return new StoreError(
      "misconfigured",
      `the database named in DATABASE_URL does not exist at ${where}`,
      "create it, or correct the name",
    );
  }
  if (code === "53300")
    return new StoreError(
      "unavailable",
      `the database at ${where} has no free connections`,
      "raise its max_connections",
    );
  if (isConnectionLoss(error)) {
    return new StoreError(
      "unavailable",
      `the database at ${where} does not answer (${code === "" ? messageOf(error) : code})`,
    );
  }
  return error;
}

export function diskFull(where: string): StoreError {
  return new StoreError(
    "disk-full",
    `the disk that holds the database at ${where} is full`,
    "free some space; Keyroll goes on where it was",
  );
}
