/** Errors of the HTTP service: always `{"error": {"code", "message", "hint"}}`. */

import { AleError, errorMessage } from "../core/errors.ts";
import { UnknownRun } from "../store/read-runs.ts";

export interface ErrorBody {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string | null };
}

/** An error with the HTTP status it is answered with. */
export class HttpError extends Error {
  readonly status: 400 | 401 | 403 | 404 | 405 | 409 | 426 | 502 | 503;
  readonly code: string;
  readonly hint: string | null;

  constructor(status: HttpError["status"], code: string, message: string, hint?: string) {
    super(message);
    this.name = "HttpError";
    this.status = status;
    this.code = code;
    this.hint = hint ?? null;
  }
}

export function errorBody(code: string, message: string, hint: string | null = null): ErrorBody {
  return { error: { code, message, hint } };
}

/** Errors of the sandboxes that say more than their code, by name: their modules are loaded only where there are sandboxes. */
const STATUS_BY_NAME: Readonly<Record<string, number>> = {
  UnknownSandbox: 404,
  UnknownSnapshot: 404,
  UnknownImage: 404,
  FileMissing: 404,
  PartMissing: 404,
  IllegalTransition: 409,
  WrongState: 409,
  NotAdmitted: 503,
  ProgramMissing: 400,
};
/** `sandbox`: what was asked for cannot be done in it. */
const STATUS_BY_CODE: Partial<Readonly<Record<AleError["code"], number>>> = {
  usage: 400,
  task: 400,
  store: 409,
  sandbox: 422,
};

/** Status and body for anything that was thrown. */
export function describeHttpError(error: unknown): { readonly status: number; readonly body: ErrorBody } {
  if (error instanceof HttpError) {
    return { status: error.status, body: errorBody(error.code, error.message, error.hint) };
  }
  if (error instanceof UnknownRun) {
    return { status: 404, body: errorBody("not_found", error.message, "list them with: GET /v1/runs") };
  }
  if (error instanceof AleError) {
    const status = STATUS_BY_NAME[error.name] ?? STATUS_BY_CODE[error.code] ?? 500;
    return { status, body: errorBody(error.code, error.message, error.hint ?? null) };
  }
  return { status: 500, body: errorBody("internal", errorMessage(error)) };
}
