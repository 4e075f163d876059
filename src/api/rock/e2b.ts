/**
 * The part of E2B's control plane that ROCK's service has beside its own (rl-rock 1.11, `rock/admin/entrypoints/e2b_api.py`,
 * `e2b_proxy_api.py`): make, find, list and delete. Errors are `{code, message}` with the HTTP status that `code` is.
 */

import { type Context, Hono } from "hono";
import { z } from "zod";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { describeHttpError, HttpError } from "../http-error.ts";
import { readBody } from "../json-body.ts";
import { nonBlank, RockError } from "./envelope.ts";
import { type ImageNames, StartRequest, toCreateRequest } from "./start-request.ts";
import { statusResult } from "./status.ts";

const CLIENT_ID = "rock";
const ENVD_VERSION = "0.1.0";
/** Metadata that names the sandbox, and that which tells its address. */
const ID_KEY = "ap-sandbox-id";
const ADDRESS_KEY = "e2b.agents.kruise.io/sandbox-ip";
/** Labels that hold metadata; the others are ROCK's own. */
const PREFIX = "metadata.";
const MIB = 2 ** 20;
const STATES: Readonly<Record<string, "running" | "paused">> = { running: "running", archived: "paused" };

const CreateBody = z.strictObject({
  templateID: nonBlank,
  /** Seconds; whole minutes are kept, never fewer. */
  timeout: z.number().int().positive(),
  metadata: z.record(z.string(), z.string()),
  secure: z.boolean().nullish(),
  /** Not looked at, as in ROCK: what a sandbox may reach is said by `PUT /v1/sandboxes/ID/network`. */
  allow_internet_access: z.boolean().nullish(),
  envVars: z.record(z.string(), z.string()).default({}),
  autoPause: z.boolean().nullish(),
  autoResume: z.record(z.string(), z.unknown()).nullish(),
});

export interface E2bOptions {
  readonly service: SandboxService;
  readonly images: ImageNames;
}

/** Routes at the root: `/sandboxes`, `/sandboxes/:id`, `/v2/sandboxes`. */
export function e2bRoutes({ service, images }: E2bOptions): Hono {
  const app = new Hono();
  app.onError((error, c) => {
    const rock = error instanceof RockError;
    const { status, body } = describeHttpError(rock ? new HttpError(400, "bad_request", error.message) : error);
    return c.json({ code: status, message: body.error.message }, status as 500);
  });
  app.post("/sandboxes", async (c) => {
    const { templateID, timeout, metadata, envVars } = await readBody(c, CreateBody);
    if (Object.keys(envVars).length > 0)
      throw new HttpError(400, "bad_request", "envVars: sandboxes keep no variables; give them with each command");
    const start = StartRequest.parse({
      image: templateID,
      sandbox_id: metadata[ID_KEY],
      auto_clear_time_minutes: Math.ceil(timeout / 60),
    });
    const request = toCreateRequest(start, await images.find(templateID), (name) => c.req.header(name));
    const labels = Object.fromEntries(Object.entries(metadata).map(([key, value]) => [PREFIX + key, value]));
    const sandbox = await service.create({ ...request, labels: { ...request.labels, ...labels } });
    return c.json({ sandboxID: sandbox.id, envdVersion: ENVD_VERSION, clientID: CLIENT_ID, templateID }, 201);
  });
  app.get("/v2/sandboxes", (c) => {
    const wanted = parseMetadata(c.req.query("metadata") ?? "");
    const found = service.list().filter((sandbox) => {
      const { labels } = sandbox.spec;
      return (
        infoOf(service, sandbox)?.state === "running" && wanted.every(([key, value]) => labels[PREFIX + key] === value)
      );
    });
    return c.json(found.map((sandbox) => infoOf(service, sandbox)));
  });
  app.get("/sandboxes/:id", (c) => {
    const sandbox = service.find(c.req.param("id"));
    const info = sandbox && infoOf(service, sandbox);
    if (info === undefined) throw notFound(c);
    return c.json(info);
  });
  app.delete("/sandboxes/:id", async (c) => {
    const sandbox = service.find(c.req.param("id"));
    if (sandbox === undefined || sandbox.state === "deleted") throw notFound(c);
    await service.delete(sandbox.id);
    return c.body(null, 204);
  });
  return app;
}

function notFound(c: Context): HttpError {
  return new HttpError(404, "not_found", `Sandbox ${c.req.param("id")} not found`);
}

/** As E2B describes a sandbox; `undefined` for one in a state that E2B has no name for. */
function infoOf(service: SandboxService, sandbox: ManagedSandbox) {
  const status = statusResult(service, sandbox);
  const state = STATES[status.state];
  if (state === undefined) return undefined;
  const { environment, labels } = sandbox.spec;
  const metadata = Object.entries(labels).flatMap(([key, value]) =>
    key.startsWith(PREFIX) ? [[key.slice(PREFIX.length), value] as const] : [],
  );
  return {
    sandboxID: sandbox.id,
    metadata: { ...Object.fromEntries(metadata), [ADDRESS_KEY]: status.host_ip },
    state,
    clientID: CLIENT_ID,
    templateID: status.image,
    envdVersion: ENVD_VERSION,
    cpuCount: Math.max(1, Math.ceil(environment.cpus)),
    memoryMB: Math.floor(environment.memoryBytes / MIB),
    diskSizeMB: Math.floor(environment.diskBytes / MIB),
    startedAt: status.start_time ?? status.create_time,
    endAt: (state === "running" ? status.auto_stop_time : status.auto_delete_time) ?? status.archive_time,
  };
}

/** `a=1&b=2`, or `a:1,b:2`, percent-encoded. @throws HttpError 400 */
function parseMetadata(text: string): (readonly [string, string])[] {
  const refuse = (why: string) => new HttpError(400, "bad_request", why);
  const [equals, colon] = [text.indexOf("="), text.indexOf(":")];
  const isForm = equals >= 0 && (colon < 0 || equals < colon);
  const pairs = text.split(isForm ? "&" : ",").map((pair) => {
    const at = pair.indexOf(isForm ? "=" : ":");
    if (at < 0) throw refuse("metadata must contain key=value or key:value pairs");
    return [decode(pair.slice(0, at), isForm), decode(pair.slice(at + 1), isForm)] as const;
  });
  if (pairs.some(([key, value]) => key === "" || value === ""))
    throw refuse("metadata keys and values must not be empty");
  const twice = pairs.find(([key], index) => pairs.findIndex(([other]) => other === key) < index);
  if (twice !== undefined) throw refuse(`duplicate metadata key: ${twice[0]}`);
  return pairs;
}

function decode(text: string, isForm: boolean): string {
  try {
    return decodeURIComponent(isForm ? text.replaceAll("+", " ") : text);
  } catch {
    throw new HttpError(400, "bad_request", "metadata contains invalid URL encoding");
  }
}
