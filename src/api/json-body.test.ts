import { expect, test } from "bun:test";
import { Hono } from "hono";
import { z } from "zod";
import { describeHttpError } from "./http-error.ts";
import { readBody } from "./json-body.ts";

test("a key that there is not is named, with those that there are", async () => {
  const app = new Hono();
  app.onError((error, c) => c.json(describeHttpError(error).body));
  app.post("/", async (c) =>
    c.json(await readBody(c, z.strictObject({ cwd: z.string(), box: z.strictObject({ a: z.number() }).optional() }))),
  );
  const post = async (body: unknown) => (await app.request("/", { method: "POST", body: JSON.stringify(body) })).json();
  expect(await post({ cwd: "/" })).toEqual({ cwd: "/" });
  expect(await post({ cwd: "/", timeout: 1 })).toMatchObject({
    error: { message: expect.stringContaining('"timeout"'), hint: "there are cwd, box" },
  });
  // of a nested one only the place is named
  expect(await post({ cwd: "/", box: { a: 1, b: 2 } })).toMatchObject({
    error: { message: expect.stringContaining("box:"), hint: null },
  });
});
