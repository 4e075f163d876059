/**
 * ROCK's EnvHub (rl-rock 1.11, `rock/envhub/server.py`): a list of environments by name, with the image each stands for. Kept
 * in one file, which is written anew with each change.
 */

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { type Context, Hono } from "hono";
import { z } from "zod";
import { AleError, errorMessage } from "../../core/errors.ts";

/** Of all together; a list of names, not a store. */
const MAX_ENVIRONMENTS = 10_000;

const RegisterRequest = z.object({
  env_name: z.string(),
  image: z.string(),
  owner: z.string().default(""),
  description: z.string().default(""),
  tags: z.array(z.string()).default([]),
  extra_spec: z.record(z.string(), z.unknown()).nullish().default(null),
});
const ByName = z.object({ env_name: z.string() });
const ListRequest = z.object({ owner: z.string().nullish(), tags: z.array(z.string()).nullish() });
const EnvInfo = RegisterRequest.extend({ create_at: z.string(), update_at: z.string() });
type EnvInfo = z.infer<typeof EnvInfo>;

export class EnvHub {
  readonly #file: string;
  #known: Map<string, EnvInfo>;

  /** @throws AleError("store") when the file is there and cannot be read */
  constructor(file: string) {
    this.#file = file;
    this.#known = new Map(readEnvironments(file).map((one) => [one.env_name, one]));
  }

  get size(): number {
    return this.#known.size;
  }

  register(request: z.infer<typeof RegisterRequest>): EnvInfo {
    const now = new Date().toISOString();
    const info = { ...request, create_at: this.#known.get(request.env_name)?.create_at ?? now, update_at: now };
    this.#write(new Map(this.#known).set(info.env_name, info));
    return info;
  }

  get(name: string): EnvInfo | undefined {
    return this.#known.get(name);
  }

  /** Those of an owner, with any of the tags. */
  list({ owner, tags }: z.infer<typeof ListRequest>): EnvInfo[] {
    return [...this.#known.values()].filter(
      (one) => (!owner || one.owner === owner) && (!tags?.length || tags.some((tag) => one.tags.includes(tag))),
    );
  }

  /** Whether there was one. */
  delete(name: string): boolean {
    const rest = new Map(this.#known);
    if (!rest.delete(name)) return false;
    this.#write(rest);
    return true;
  }

  /** What could not be written is not known afterwards either. */
  #write(known: Map<string, EnvInfo>): void {
    writeFileSync(`${this.#file}.new`, JSON.stringify([...known.values()], null, 1), { mode: 0o600 });
    renameSync(`${this.#file}.new`, this.#file);
    this.#known = known;
  }
}

function readEnvironments(file: string): EnvInfo[] {
  try {
    return z.array(EnvInfo).parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (error) {
    if ((error as { readonly code?: string }).code === "ENOENT") return [];
    throw new AleError("store", `${file} cannot be read: ${errorMessage(error)}`, {
      hint: "correct it, or move it away",
    });
  }
}

/** Routes `/env/…` and `/health`, without an envelope, as ROCK has them; errors are `{detail}`. */
export function envHubRoutes(hub: EnvHub): Hono {
  const app = new Hono();
  const route = <T>(path: string, schema: z.ZodType<T>, work: (request: T, c: Context) => Response) =>
    app.post(path, async (c) => {
      const parsed = schema.safeParse(await c.req.json().catch(() => undefined));
      if (parsed.success) return work(parsed.data, c);
      const detail = parsed.error.issues.map(({ path, message }) => ({ loc: ["body", ...path], msg: message }));
      return c.json({ detail }, 422);
    });
  route("/env/register", RegisterRequest, (request, c) => {
    if (hub.size >= MAX_ENVIRONMENTS && hub.get(request.env_name) === undefined)
      return c.json({ detail: `there are ${MAX_ENVIRONMENTS} environments; delete some` }, 500);
    return c.json(hub.register(request));
  });
  route("/env/get", ByName, ({ env_name: name }, c) => {
    const found = hub.get(name);
    return found === undefined ? c.json({ detail: `Environment ${name} not found` }, 404) : c.json(found);
  });
  route("/env/list", ListRequest, (request, c) => c.json({ envs: hub.list(request) }));
  route("/env/delete", ByName, ({ env_name: name }, c) =>
    hub.delete(name) ? c.json(true) : c.json({ detail: `Environment ${name} not found or already deleted` }, 404),
  );
  app.get("/health", (c) => c.json({ status: "ok" }));
  return app;
}
