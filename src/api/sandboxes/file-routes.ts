/** `/v1/sandboxes/:id/files` and `/folder`: bytes as they are, folders as tar files. */

import type { Context, Hono } from "hono";
import { z } from "zod";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { archiveToTar, tarToArchive } from "../../sandbox/tar.ts";
import { readBody, readQuery } from "../json-body.ts";
import { ChangeBody } from "./shapes.ts";

const MAX_BYTES = 256 << 20;
const OCTETS = { "Content-Type": "application/octet-stream", "Content-Disposition": "attachment" };

const path = z.string().min(1);
const ReadQuery = z.object({
  path,
  offset: z.coerce.number().int().min(0).optional(),
  bytes: z.coerce.number().int().min(1).max(MAX_BYTES).optional(),
  /** `3-7`, `3-` or `3`; lines count from 1. */
  lines: z
    .string()
    .regex(/^\d+(-\d*)?$/, "such as 3-7 or 3-")
    .optional(),
});
const WriteQuery = z.object({
  path,
  mode: z
    .string()
    .regex(/^[0-7]{3,4}$/, "octal, such as 755")
    .optional(),
});
const PathQuery = z.object({ path });
const FolderQuery = z.object({ path, replace: z.enum(["true", "false"]).default("false") });

function readWanted(sandbox: ManagedSandbox, query: z.infer<typeof ReadQuery>): Promise<Uint8Array> {
  const { path: wanted, offset, bytes, lines } = query;
  return sandbox.withFiles(async (files) => {
    if (lines !== undefined) {
      const [first, last] = lines.split("-");
      const end = last === undefined ? Number(first) : last === "" ? undefined : Number(last);
      return files.readLines(wanted, Number(first), end, bytes ?? 1 << 20);
    }
    if (offset === undefined && bytes === undefined) return files.read(wanted);
    return (await files.readPart(wanted, offset ?? 0, bytes ?? 1 << 20)).content;
  });
}

export function addFileRoutes(app: Hono, service: SandboxService): void {
  const named = (c: Context): ManagedSandbox => service.get(c.req.param("id") ?? "");
  app.get("/:id/files", async (c) => {
    const content = await readWanted(named(c), readQuery(c, ReadQuery));
    return c.body(content.slice().buffer, 200, OCTETS);
  });
  app.put("/:id/files", async (c) => {
    const { path: target, mode } = readQuery(c, WriteQuery);
    const content = new Uint8Array(await c.req.arrayBuffer());
    const bits = mode === undefined ? undefined : Number.parseInt(mode, 8);
    await named(c).withFiles((files) => files.write(target, content, bits));
    return c.body(null, 204);
  });
  app.patch("/:id/files", async (c) => {
    const { mode, ...change } = await readBody(c, ChangeBody);
    const bits = mode === undefined ? {} : { mode: Number.parseInt(mode, 8) };
    await named(c).withFiles((files) => files.change({ ...change, ...bits }));
    return c.body(null, 204);
  });
  app.get("/:id/files/attributes", async (c) => {
    const { path: wanted } = readQuery(c, PathQuery);
    const { mode, modifiedMs, ...rest } = await named(c).withFiles((files) => files.stat(wanted, false));
    return c.json({ ...rest, mode: mode.toString(8), modifiedAt: new Date(modifiedMs).toISOString() });
  });
  app.get("/:id/folder", async (c) => {
    const { path: wanted } = readQuery(c, PathQuery);
    const tar = await named(c).use(async (native) =>
      archiveToTar(await native.exportFolder(named(c).resolve(wanted), MAX_BYTES)),
    );
    return c.body(tar.slice().buffer, 200, { ...OCTETS, "Content-Type": "application/x-tar" });
  });
  app.put("/:id/folder", async (c) => {
    const { path: target, replace } = readQuery(c, FolderQuery);
    const archive = tarToArchive(new Uint8Array(await c.req.arrayBuffer()));
    await named(c).use(async (native) => {
      if (replace === "true") await native.replaceFolder(named(c).resolve(target), []);
      await native.importFolder(named(c).resolve(target), archive);
    });
    return c.body(null, 204);
  });
}
