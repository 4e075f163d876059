/**
 * One error type with a code per boundary. A message says what happened and where; `hint` is the next step, ideally a
 * command. To add a boundary, add its code here and throw `new AleError(code, message, { hint, cause })`.
 */

import { TimeLimit } from "./time-limit.ts";
import { beginWait } from "./waits.ts";

/** Exit codes: 1 for a failure of the job, 2 for input the user can correct, 130 after an interrupt. */
export type ErrorCode =
  | "usage"
  | "config"
  | "task"
  | "model"
  | "tokenizer"
  | "store"
  | "sandbox"
  | "engine"
  | "service"
  | "remote"
  | "storage_full"
  | "interrupted"
  | "internal";

const USER_CODES: ReadonlySet<ErrorCode> = new Set([
  "usage",
  "config",
  "task",
  "model",
  "tokenizer",
  "store",
  "service",
]);

export class AleError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "AleError";
    this.code = code;
    this.hint = options.hint;
  }

  get exitCode(): number {
    if (this.code === "interrupted") return 130;
    return USER_CODES.has(this.code) ? 2 : 1;
  }
}

/** The message of anything that was thrown. */
export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Whether there was no room on a disk, by the code of our own errors or of the system's. */
export function isDiskFull(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ("code" in at && ["storage_full", "ENOSPC", "EDQUOT"].includes(at.code as string)) return true;
  }
  return false;
}

/** Runs `work`; whatever it throws that is not yet an `AleError` is attributed to the boundary `code`. */
export async function boundary<T>(code: ErrorCode, what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof AleError) throw error;
    throw new AleError(code, `${what}: ${errorMessage(error)}`, { cause: error });
  }
}

/**
 * Rejects with a named error when `work` takes longer than `ms`: no wait without an owner and a deadline. `who` waits is said
 * where waits are listed.
 */
export async function deadline<T>(
  what: string,
  ms: number,
  work: Promise<T>,
  code: ErrorCode = "internal",
  who = "control",
): Promise<T> {
  const endWait = beginWait(who, what, ms);
  const { promise: expired, reject } = Promise.withResolvers<never>();
  const limit = new TimeLimit(ms, () => reject(new AleError(code, `${what} did not finish within ${ms} ms`)));
  try {
    return await Promise.race([work, expired]);
  } finally {
    limit.stop();
    endWait();
  }
}
