/** `/v1/sandboxes`: which there are, and what becomes of them. */

import type { Context, Hono } from "hono";
import type { ImageStore } from "../../images/image-store.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { readBody } from "../json-body.ts";
import { findImage, workdirOf } from "./image-routes.ts";
import { CreateBody, describeSandbox, ForkBody, toCreateRequest } from "./shapes.ts";

export function addLifeRoutes(app: Hono, service: SandboxService, images: ImageStore | undefined): void {
  const shown = (c: Context, sandbox: ReturnType<SandboxService["get"]>, status: 200 | 201 | 202 = 200) =>
    c.json(describeSandbox(service, sandbox), status);
  app.get("/", (c) => {
    const { capacity, used, waiting } = service.admission;
    const sandboxes = service.list().map((sandbox) => describeSandbox(service, sandbox));
    const { pausing, warmPools: warm } = service.provider;
    return c.json({ sandboxes, capacity, used, waiting, pausing, warm });
  });
  app.post("/", async (c) => {
    const body = await readBody(c, CreateBody);
    // Who does not wait may leave; who waits and leaves does not want it any more.
    const signal = body.wait ? c.req.raw.signal : undefined;
    const image = body.image === undefined ? undefined : await findImage(images, body.image);
    const { sandbox, ready } = service.start({ ...toCreateRequest(body, workdirOf(image)), signal });
    if (!body.wait) return shown(c, sandbox, 202);
    await ready;
    return shown(c, sandbox, 201);
  });
  app.get("/:id", (c) => shown(c, service.get(c.req.param("id"))));
  app.delete("/:id", async (c) => {
    await service.delete(c.req.param("id"));
    return c.body(null, 204);
  });
  app.post("/:id/pause", async (c) => shown(c, await service.pause(c.req.param("id"))));
  app.post("/:id/resume", async (c) => shown(c, await service.resume(c.req.param("id"))));
  app.post("/:id/stop", async (c) => shown(c, await service.stop(c.req.param("id"))));
  app.post("/:id/restart", async (c) => shown(c, await service.restart(c.req.param("id"))));
  app.post("/:id/archive", async (c) => shown(c, await service.archive(c.req.param("id"))));
  app.post("/:id/restore", async (c) => shown(c, await service.restore(c.req.param("id"))));
  app.post("/:id/fork", async (c) => {
    const { id } = await readBody(c, ForkBody);
    const { sandbox, lostProcesses, freshShells } = await service.fork(c.req.param("id"), { id });
    return c.json({ sandbox: describeSandbox(service, sandbox), lostProcesses, freshShells }, 201);
  });
  app.get("/:id/statistics", async (c) => c.json(await service.get(c.req.param("id")).statistics()));
  app.get("/:id/alerts", (c) => {
    const { alerts } = findSandbox(service, c.req.param("id")).guard;
    return c.json({
      alerts: alerts.map(({ kind, action, at, evidence }) => ({
        kind,
        action,
        at: new Date(at).toISOString(),
        evidence,
      })),
    });
  });
  app.get("/:id/log", (c) => {
    const entries = service.get(c.req.param("id")).log.entries;
    return c.json({ entries: entries.map(({ at, ...entry }) => ({ at: new Date(at).toISOString(), ...entry })) });
  });
}

/** Also one that was deleted, as long as it is remembered: a guard may have been why. */
function findSandbox(service: SandboxService, id: string) {
  return service.find(id) ?? service.get(id);
}
