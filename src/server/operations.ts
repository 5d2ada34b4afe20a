/**
 * Every operation of the API by name: method and path below the base path. Kept apart from the schemas so that a browser can call the API
 * without carrying a validator; `schema.ts` says what goes in and out, `access.ts` who may.
 */
export const operations = {
  getSession: ["GET", "/api/v1/session"],
  signIn: ["POST", "/api/v1/session"],
  signOut: ["DELETE", "/api/v1/session"],

  getOverview: ["GET", "/api/v1/overview"],
  listCredentials: ["GET", "/api/v1/credentials"],
  getCredential: ["GET", "/api/v1/credentials/{name}"],
  explainCredential: ["GET", "/api/v1/credentials/{name}/explanation"],
  getGraph: ["GET", "/api/v1/credentials/{name}/graph"],
  observeCredential: ["POST", "/api/v1/credentials/{name}/observe"],
  planRotation: ["POST", "/api/v1/credentials/{name}/plan"],

  listRotations: ["GET", "/api/v1/rotations"],
  startRotation: ["POST", "/api/v1/rotations"],
  getRotation: ["GET", "/api/v1/rotations/{id}"],
  approveRotation: ["POST", "/api/v1/rotations/{id}/approve"],
  rejectRotation: ["POST", "/api/v1/rotations/{id}/reject"],
  pauseRotation: ["POST", "/api/v1/rotations/{id}/pause"],
  resumeRotation: ["POST", "/api/v1/rotations/{id}/resume"],
  rollBackRotation: ["POST", "/api/v1/rotations/{id}/rollback"],
  cancelRotation: ["POST", "/api/v1/rotations/{id}/cancel"],

  listTasks: ["GET", "/api/v1/tasks"],
  getTask: ["GET", "/api/v1/tasks/{id}"],
  taskDone: ["POST", "/api/v1/tasks/{id}/done"],
  taskHandOver: ["POST", "/api/v1/tasks/{id}/hand-over"],
  taskRefuse: ["POST", "/api/v1/tasks/{id}/refuse"],

  listAudit: ["GET", "/api/v1/audit"],
  verifyAudit: ["GET", "/api/v1/audit/verification"],
  exportAudit: ["GET", "/api/v1/audit/export"],

  listFound: ["GET", "/api/v1/found"],

  getSettings: ["GET", "/api/v1/settings"],
  runDoctor: ["POST", "/api/v1/doctor"],

  listPeople: ["GET", "/api/v1/people"],
  addPerson: ["POST", "/api/v1/people"],
  changePerson: ["PATCH", "/api/v1/people/{person}"],
  makeSignInLink: ["POST", "/api/v1/people/{person}/sign-in-link"],
  listTokens: ["GET", "/api/v1/tokens"],
  createToken: ["POST", "/api/v1/tokens"],
  revokeToken: ["DELETE", "/api/v1/tokens/{id}"],

  streamEvents: ["GET", "/api/v1/events"],
} as const satisfies Record<string, readonly ["GET" | "POST" | "PATCH" | "DELETE", `/api/v1/${string}`]>;

export type OperationName = keyof typeof operations;
export const operationNames = Object.keys(operations) as readonly OperationName[];
