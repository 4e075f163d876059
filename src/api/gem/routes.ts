/** GEM's calls as ROCK serves them (rl-rock 1.11, `rock/admin/gem/api.py`): plain results, errors by HTTP status. */

import { Hono } from "hono";
import { z } from "zod";
import { readBody } from "../json-body.ts";
import type { GemEnvironments } from "./environments.ts";

const id = z.string().trim().min(1);
const Make = z.object({ env_id: z.string().min(1) });
const Reset = z.object({
  sandbox_id: id,
  seed: z
    .number()
    .int()
    .min(0)
    .max(2 ** 31 - 1)
    .nullish(),
});
const Step = z.object({ sandbox_id: id, action: z.string() });
const Named = z.object({ sandbox_id: id });

/** Routes below `/apis/v1/envs/gem`. */
export function gemRoutes(environments: GemEnvironments): Hono {
  const app = new Hono();
  app.post("/make", async (c) => c.json({ sandbox_id: await environments.make((await readBody(c, Make)).env_id) }));
  app.post("/reset", async (c) => {
    const { sandbox_id: name, seed } = await readBody(c, Reset);
    return c.json(await environments.reset(name, seed ?? undefined));
  });
  app.post("/step", async (c) => {
    const { sandbox_id: name, action } = await readBody(c, Step);
    return c.json(await environments.step(name, action));
  });
  app.post("/close", async (c) => {
    const { sandbox_id: name } = await readBody(c, Named);
    await environments.close(name);
    return c.json({ sandbox_id: name });
  });
  app.post("/list", async (c) => {
    await readBody(c, Named);
    return c.json({ env_id: environments.list() });
  });
  return app;
}
