/**
 * ROCK's REST surface (rl-rock 1.11, `rock/admin/entrypoints/`), as far as one machine has what it is about: its SDK works
 * against this as it is. What is not there is refused with a code, never answered as if it were.
 */

import { type Context, Hono } from "hono";
import { z } from "zod";
import type { ImageStore } from "../../images/image-store.ts";
import type { SandboxStatistics } from "../../sandbox/requests.ts";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import * as commands from "./commands.ts";
import { answer, Code, type Envelope, nonBlank, parse, parseBody, RockError, success } from "./envelope.ts";
import { addKept, archivesDisabled } from "./kept.ts";
import { addOperations } from "./operations.ts";
import { addProxies } from "./proxies.ts";
import { defaultEnvironment, type ImageNames, StartRequest, toCreateRequest } from "./start-request.ts";
import { isShownByDefault, NO_FAILURE, rockState, startResult, statusResult } from "./status.ts";

const MAX_LIST = 2000;
const DEFAULT_LIST = 500;
const READY_MS = 500;

const ById = z.object({ sandbox_id: nonBlank });
const StatusQuery = z.object({
  sandbox_id: nonBlank,
  include_all_states: z
    .string()
    .default("false")
    .transform((text) => /^(true|1|yes|on)$/i.test(text)),
});
const Batch = z.object({ sandbox_ids: z.array(z.string()) });
const Warmup = z.object({ image: z.string().default("python:3.11") });

export interface RockOptions {
  readonly service: SandboxService;
  readonly images: ImageNames;
  /** What sandboxes are committed to. */
  readonly imageStore: ImageStore | undefined;
}

/** Routes below `/apis/envs/sandbox/v1`. */
export function rockRoutes({ service, images, imageStore }: RockOptions): Hono {
  const app = new Hono();
  addLife(app, service, images);
  addQueries(app, service);
  addCommands(app, service);
  addKept(app, service, imageStore);
  addProxies(app, (id) => find(service, id));
  addOperations(app);
  return app;
}

/** A sandbox that is there, used by asking. */
function find(service: SandboxService, id: string): ManagedSandbox {
  const sandbox = service.find(id);
  if (sandbox === undefined) throw new RockError(Code.badRequest, `Sandbox ${id} not found`);
  return sandbox;
}

function addLife(app: Hono, service: SandboxService, images: ImageNames): void {
  const start = async (c: Context) => {
    const request = await parseBody(c, StartRequest);
    if (request.auto_archive_seconds != null && !service.canArchive) throw archivesDisabled();
    return service.start(toCreateRequest(request, await images.find(request.image), (name) => c.req.header(name)));
  };
  app.post("/start", (c) =>
    answer(c, "start sandbox failed", async () => {
      const { sandbox, ready } = await start(c);
      await ready;
      return success(startResult(sandbox));
    }),
  );
  app.post("/start_async", (c) =>
    answer(c, "async start sandbox failed", async () => {
      const { sandbox, ready } = await start(c);
      // Usually a matter of milliseconds, and whoever sees it pending looks again only after seconds.
      await Promise.race([ready.catch(() => {}), Bun.sleep(READY_MS)]);
      return success(startResult(sandbox));
    }),
  );
  app.post("/stop", (c) =>
    answer(c, "stop sandbox failed", async () => {
      const { sandbox_id: id } = await parseBody(c, ById);
      const sandbox = service.find(id);
      // What is not there, or ended already, is stopped.
      if (sandbox !== undefined && ["pending", "running", "paused"].includes(sandbox.state)) await service.stop(id);
      if (sandbox?.state === "stopped" && sandbox.spec.ttl.stoppedMs === 0) await service.delete(id);
      return success(`${id} stopped`);
    }),
  );
  app.post("/delete", (c) =>
    answer(c, "delete sandbox failed", async () => {
      const { sandbox_id: id } = await parseBody(c, ById);
      const sandbox = service.find(id);
      if (sandbox !== undefined && ["pending", "running", "paused"].includes(sandbox.state))
        throw new RockError(
          Code.badRequest,
          `Sandbox ${id} cannot be deleted: current state is '${rockState(sandbox)}', must be stopped or archived first`,
        );
      if (sandbox !== undefined) await service.delete(id);
      return success(`${id} deleted`);
    }),
  );
  const restart = async (id: string): Promise<Envelope> => {
    const sandbox = find(service, id);
    if (sandbox.state === "archived") return success(startResult(await service.restore(id)));
    if (sandbox.state !== "stopped")
      throw new RockError(
        Code.badRequest,
        `Sandbox ${id} cannot be restarted: current state is '${rockState(sandbox)}'`,
      );
    return success(startResult(await service.restart(id)));
  };
  const failed = "restart sandbox failed";
  app.post("/restart", (c) => answer(c, failed, async () => restart((await parseBody(c, ById)).sandbox_id)));
  app.post("/sandboxes/:id/restart", (c) => answer(c, failed, () => restart(c.req.param("id"))));
  app.post("/warmup/tasks", (c) =>
    answer(c, "start warmup failed", async () => {
      const { image } = await parseBody(c, Warmup);
      service.warm.note(defaultEnvironment(image, await images.find(image))); // there is nothing to pull
      return success(null, "warmup task started");
    }),
  );
}

function addQueries(app: Hono, service: SandboxService): void {
  app.get("/is_alive", (c) =>
    answer(c, "get sandbox is alive failed", async () => {
      const { sandbox_id: id } = parse(StatusQuery, c.req.query(), "query");
      const sandbox = service.find(id);
      if (sandbox === undefined || !isShownByDefault(sandbox))
        return success({ is_alive: false, message: `sandbox ${id} is alive failed` });
      sandbox.touch();
      const status = statusResult(service, sandbox);
      return success({ is_alive: status.is_alive, message: status.host_name });
    }),
  );
  app.get("/get_status", (c) =>
    answer(c, "get sandbox status failed", async () => {
      const query = parse(StatusQuery, c.req.query(), "query");
      const sandbox = find(service, query.sandbox_id);
      if (!query.include_all_states && !isShownByDefault(sandbox))
        throw new RockError(Code.badRequest, `Sandbox ${query.sandbox_id} not found`);
      if (isShownByDefault(sandbox)) sandbox.touch();
      return success(statusResult(service, sandbox));
    }),
  );
  const percents = new CpuPercents();
  app.get("/get_sandbox_statistics", (c) =>
    answer(c, "get sandbox statistics failed", async () => {
      const sandbox = find(service, parse(StatusQuery, c.req.query(), "query").sandbox_id);
      const found = await sandbox.statistics();
      const share = (part: number | null, whole: number) => (part === null || whole <= 0 ? 0 : (100 * part) / whole);
      const { memoryBytes, diskBytes } = sandbox.spec.environment;
      return success({
        cpu: percents.of(sandbox, found),
        mem: share(found.memoryBytes, memoryBytes + diskBytes),
        disk: share(found.diskBytes, found.diskLimitBytes ?? 0),
        disk_log_percent: 0,
        disk_dind_percent: 0,
        net: found.bytesIn + found.bytesOut,
      });
    }),
  );
  app.get("/sandboxes", (c) => answer(c, "list sandboxes failed", async () => list(service, c.req.query())));
  app.post("/sandboxes/batch", (c) =>
    answer(c, "batch get sandbox status failed", async () => {
      const { sandbox_ids: ids } = await parseBody(c, Batch);
      if (ids.length > MAX_LIST)
        throw new RockError(Code.badRequest, `sandbox_ids count too large, max count is ${MAX_LIST}`);
      const known = ids.flatMap((id) => service.find(id) ?? []).filter(isShownByDefault);
      return success({ ...NO_FAILURE, statuses: known.map((sandbox) => statusResult(service, sandbox)) });
    }),
  );
  app.get("/sandboxes/:id/mount-infos", (c) =>
    answer(c, "get mount failed", async () => {
      find(service, c.req.param("id"));
      return success([]);
    }),
  );
  // What ROCK answers where no object storage is set up; its SDK then uploads through the service.
  app.get("/get_token", (c) => c.json(success(null)));
  app.get("/get_nacos_config", (c) => c.json(success({})));
}

function list(service: SandboxService, query: Record<string, string>): Envelope {
  const { page: pageText = "1", page_size: sizeText = String(DEFAULT_LIST), ...filters } = query;
  const [page, size] = [Number(pageText), Number(sizeText)];
  if (!(Number.isInteger(page) && Number.isInteger(size) && page >= 1 && size >= 1))
    throw new RockError(Code.badRequest, `page parameter invalid, page is ${pageText}, page_size is ${sizeText}`);
  if (size > MAX_LIST) throw new RockError(Code.badRequest, `page_size exceeds maximum ${MAX_LIST}`);
  const all = service
    .list()
    .map((sandbox) => ({ ...statusResult(service, sandbox), rock_authorization_encrypted: null }))
    .filter((status) =>
      Object.entries(filters).every(([key, value]) => String(status[key as keyof typeof status]) === value),
    );
  const items = all.slice((page - 1) * size, page * size);
  return success({ ...NO_FAILURE, items, total: all.length, has_more: page * size < all.length });
}

/** Processor time between two looks, in percent of what the sandbox may use; 0 at the first. */
class CpuPercents {
  readonly #seen = new WeakMap<ManagedSandbox, { readonly at: number; readonly cpuSeconds: number }>();

  of(sandbox: ManagedSandbox, { cpuSeconds }: SandboxStatistics): number {
    const now = performance.now() / 1000;
    if (cpuSeconds === null) return 0;
    const before = this.#seen.get(sandbox);
    this.#seen.set(sandbox, { at: now, cpuSeconds });
    if (before === undefined || now <= before.at) return 0;
    return (100 * (cpuSeconds - before.cpuSeconds)) / (now - before.at) / sandbox.spec.environment.cpus;
  }
}

function addCommands(app: Hono, service: SandboxService): void {
  /** The body, and the sandbox it names. */
  const route = <T extends { readonly sandbox_id: string }>(
    path: string,
    message: string,
    schema: z.ZodType<T>,
    work: (sandbox: ManagedSandbox, request: T, signal: AbortSignal) => Promise<Envelope>,
  ) =>
    app.post(path, (c) =>
      answer(c, message, async () => {
        const request = await parseBody(c, schema);
        return work(find(service, request.sandbox_id), request, c.req.raw.signal);
      }),
    );
  route("/execute", "execute command failed", commands.ExecuteRequest, commands.execute);
  route("/create_session", "create session failed", commands.CreateSessionRequest, commands.createSession);
  route("/run_in_session", "run in session failed", commands.RunRequest, commands.runInSession);
  route("/close_session", "close session failed", commands.CloseSessionRequest, (sandbox, { session }) =>
    commands.closeSession(sandbox, session),
  );
  route("/read_file", "read file failed", commands.ReadFileRequest, commands.readFile);
  route("/write_file", "write file failed", commands.WriteFileRequest, (sandbox, { path, content }) =>
    commands.writeFile(sandbox, path, content),
  );
  const Upload = z.object({ sandbox_id: nonBlank, target_path: z.string().min(1), file: z.instanceof(File) });
  app.post("/upload", (c) =>
    answer(c, "upload file failed", async () => {
      const { sandbox_id: id, target_path: target, file } = parse(Upload, await c.req.parseBody(), "body");
      return commands.upload(find(service, id), target, file);
    }),
  );
}
