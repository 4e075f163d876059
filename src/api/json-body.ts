/** Bodies and queries of the native surface, checked. */

import type { Context } from "hono";
import { z } from "zod";
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
  const message = `${issue?.path.join(".") || where}: ${issue?.message ?? "not valid"}`;
  const isUnknown = issue?.code === "unrecognized_keys" && issue.path.length === 0 && schema instanceof z.ZodObject;
  throw new HttpError(
    400,
    "bad_request",
    message,
    isUnknown ? `there are ${Object.keys(schema.shape).join(", ")}` : undefined,
  );
}
