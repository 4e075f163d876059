/** Bodies and queries of the native surface, checked. */

import type { Context } from "hono";
import type { z } from "zod";
import { HttpError } from "./http-error.ts";

/** @throws HttpError 400 naming the field. */
export async function readBody<T>(c: Context, schema: z.ZodType<T>): Promise<T> {
  const text = await c.req.text();
  let value: unknown;
  try {
    value = text === "" ? {} : JSON.parse(text);
  } catch {
    throw new HttpError(400, "bad_request", "the body is not JSON");
  }
  return check(schema, value, "body");
}

/** @throws HttpError 400 naming the parameter. */
export function readQuery<T>(c: Context, schema: z.ZodType<T>): T {
  return check(schema, c.req.query(), "query");
}

function check<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new HttpError(400, "bad_request", `${issue?.path.join(".") || where}: ${issue?.message ?? "not valid"}`);
}
