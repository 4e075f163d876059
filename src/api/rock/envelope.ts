/**
 * How ROCK's service answers (rl-rock 1.11, `rock/actions/response.py`, `rock/_codes.py`, `rock/common/exception.py`): HTTP 200
 * with an envelope, whose `status` says how it went.
 */

import type { Context } from "hono";
import { z } from "zod";
import { AleError, errorMessage } from "../../core/errors.ts";

export const Code = { ok: 2000, badRequest: 4000, internal: 5000, command: 6000 } as const;
type CodeNumber = (typeof Code)[keyof typeof Code];

/** An error with ROCK's code; SDKs raise for 4xxx and 5xxx, and hand 6xxx to the model. */
export class RockError extends Error {
  readonly code: CodeNumber;

  constructor(code: CodeNumber, message: string) {
    super(message);
    this.name = "RockError";
    this.code = code;
  }
}

export interface Envelope {
  readonly status: "Success" | "Failed";
  readonly message: string | null;
  readonly error: string | null;
  readonly result: unknown;
}

export function success(result: unknown, message: string | null = null): Envelope {
  return { status: "Success", message, error: null, result };
}

/** As ROCK's proxy answers when a command in a session went wrong: without a result. */
export function sessionFailure(error: string): Envelope {
  return { status: "Failed", message: null, error, result: null };
}

/** Bodies and queries that are not right: names of the fields and what is wrong with them. */
class InvalidParameter extends Error {}

export function parse<T>(schema: z.ZodType<T>, value: unknown, where: "body" | "query"): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const all = result.error.issues.map((issue) => `${[where, ...issue.path].join(".")}: ${issue.message}`);
  throw new InvalidParameter(all.join("; "));
}

export async function parseBody<T>(c: Context, schema: z.ZodType<T>): Promise<T> {
  const value: unknown = await c.req.json().catch(() => {
    throw new InvalidParameter("body: JSON decode error");
  });
  return parse(schema, value, "body");
}

/** What was thrown, in the envelope. */
export function failedEnvelope(error: unknown, message: string): Envelope {
  if (error instanceof InvalidParameter)
    return { status: "Failed", message: "invalid parameter", error: error.message, result: null };
  const text = errorMessage(error);
  const result = (code: CodeNumber, exitCode: number | null = null) => ({
    ...{ code, exit_code: exitCode, failure_reason: text },
  });
  const failed = (value: unknown): Envelope => ({ status: "Failed", message, error: text, result: value });
  if (error instanceof RockError) return failed(result(error.code, error.code === Code.command ? -1 : null));
  if (error instanceof AleError) return failed(result(error.code === "usage" ? Code.badRequest : Code.internal));
  return failed(null);
}

/** Answers with what `work` returns, or with why it failed; `message` is ROCK's for that route. */
export async function answer(c: Context, message: string, work: () => Promise<Envelope>): Promise<Response> {
  try {
    return c.json(await work());
  } catch (error) {
    return c.json(failedEnvelope(error, message));
  }
}

/** Fields that ROCK's Python models call `NonBlankStr`. */
export const nonBlank = z.string().trim().min(1, "String should have at least 1 character");
