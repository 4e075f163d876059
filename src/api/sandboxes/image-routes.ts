/** `/v1/images`, `/v1/snapshots`, and how sandboxes become either. Files of either leave as tar files. */

import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { type Context, Hono } from "hono";
import { z } from "zod";
import { AleError } from "../../core/errors.ts";
import type { SandboxSnapshot } from "../../core/ports.ts";
import { commitImage } from "../../images/commit-image.ts";
import { exportTar } from "../../images/export-image.ts";
import type { ImageStore } from "../../images/image-store.ts";
import { importImage } from "../../images/import-image.ts";
import type { ImageManifest } from "../../images/manifest.ts";
import { removeTree } from "../../sandbox/remove-tree.ts";
import type { StoredRoot } from "../../sandbox/roots.ts";
import type { NamedSnapshot } from "../../sandbox/service/named-snapshots.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { readBody, readQuery } from "../json-body.ts";

const SnapshotBody = z.strictObject({ name: z.string() });
const CommitBody = z.strictObject({ image: z.string() });
const ImportQuery = z.object({ base: z.string().optional() });

/** @throws AleError("usage") when there is none of that name. */
export async function findImage(images: ImageStore | undefined, name: string): Promise<ImageManifest> {
  return needImages(images).get(name);
}

function needImages(images: ImageStore | undefined): ImageStore {
  if (images !== undefined) return images;
  throw new AleError("usage", "this service has no place for images", { hint: "ale serve has one, in ALE_HOME" });
}

/** Where commands begin as the image says; its root is no place for that. */
export function workdirOf(image: ImageManifest | undefined): string | undefined {
  return image?.workdir == null || image.workdir === "/" ? undefined : image.workdir;
}

function describeImage({ name, base, layers, workdir, bytes, entries, createdAt, source }: ImageManifest) {
  return { name, base, layers: layers.length, workdir, bytes, entries, source, createdAt: iso(createdAt) };
}

function describeSnapshot({ name, sandbox, createdAt, environment, files, lostProcesses, freshShells }: NamedSnapshot) {
  const { profile, image } = environment;
  const { bytes } = files;
  return { name, sandbox, profile, image: image ?? null, bytes, lostProcesses, freshShells, createdAt: iso(createdAt) };
}

const iso = (at: number) => new Date(at).toISOString();

/** What goes wrong before the first byte is told with a status; later the connection breaks off. */
async function sendTar(
  c: Context,
  service: SandboxService,
  images: ImageStore,
  source: SandboxSnapshot | StoredRoot,
): Promise<Response> {
  const tar = exportTar(images, service.provider, source);
  let next = await tar.next();
  const stream = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (next.done) return controller.close();
      controller.enqueue(next.value);
      next = await tar.next();
    },
    cancel: async () => void (await tar.return(undefined)),
  });
  return c.body(stream, 200, { "Content-Type": "application/x-tar", "Content-Disposition": "attachment" });
}

/** Below `/v1/sandboxes`. */
export function addSnapshotRoutes(app: Hono, service: SandboxService, images: ImageStore | undefined): void {
  app.post("/:id/snapshots", async (c) => {
    const { name } = await readBody(c, SnapshotBody);
    return c.json(describeSnapshot(await service.takeSnapshot(c.req.param("id"), name)), 201);
  });
  app.get("/:id/snapshots", (c) => {
    const { id } = service.get(c.req.param("id"));
    const own = service.snapshots.list().filter(({ sandbox }) => sandbox === id);
    return c.json({ snapshots: own.map(describeSnapshot) });
  });
  app.post("/:id/commit", async (c) => {
    const { image } = await readBody(c, CommitBody);
    const store = needImages(images);
    const { id, spec } = service.get(c.req.param("id"));
    const { workdir } = spec.environment;
    const manifest = await service.withFiles(id, (files) =>
      commitImage(store, service.provider, files, { name: image, source: id, workdir }),
    );
    return c.json(describeImage(manifest), 201);
  });
  app.get("/:id/tar", async (c) => {
    const store = needImages(images);
    // Packed before the answer begins, so the files need not be kept until its end.
    return service.withFiles(c.req.param("id"), (files) => sendTar(c, service, store, files));
  });
}

export function snapshotRoutes(service: SandboxService, images: ImageStore | undefined): Hono {
  const app = new Hono();
  app.get("/", (c) => {
    const { bytes = 0, limitBytes = 0 } = service.provider.frozen ?? {};
    const snapshots = service.snapshots.list().map(describeSnapshot);
    return c.json({ snapshots, frozenBytes: bytes, frozenLimitBytes: limitBytes });
  });
  app.get("/:name", (c) => c.json(describeSnapshot(service.snapshots.get(c.req.param("name")))));
  app.delete("/:name", async (c) => {
    await service.snapshots.delete(c.req.param("name"));
    return c.body(null, 204);
  });
  app.post("/:name/commit", async (c) => {
    const { image } = await readBody(c, CommitBody);
    const { name, files, environment } = service.snapshots.get(c.req.param("name"));
    const { workdir } = environment;
    const request = { name: image, source: name, workdir };
    return c.json(describeImage(await commitImage(needImages(images), service.provider, files, request)), 201);
  });
  app.get("/:name/tar", (c) =>
    sendTar(c, service, needImages(images), service.snapshots.get(c.req.param("name")).files),
  );
  return app;
}

export function imageRoutes(service: SandboxService, images: ImageStore): Hono {
  const app = new Hono();
  app.get("/", async (c) => c.json({ images: (await images.list()).map(describeImage) }));
  app.get("/:name", async (c) => c.json(describeImage(await images.get(c.req.param("name")))));
  app.delete("/:name", async (c) => {
    await images.remove(c.req.param("name"));
    return c.body(null, 204);
  });
  app.get("/:name/tar", async (c) => sendTar(c, service, images, await images.resolve(c.req.param("name"))));
  app.put("/:name", async (c) => {
    const { base } = readQuery(c, ImportQuery);
    const folder = await images.newFolder();
    try {
      const path = join(folder, "upload.tar");
      const body = c.req.raw.body ?? new Response("").body;
      await pipeline(Readable.fromWeb(body as never), createWriteStream(path, { mode: 0o600 }));
      const signal = c.req.raw.signal;
      const result = await importImage(images, service.provider, path, c.req.param("name"), { base, signal });
      const { unpacked, leftOut } = result;
      return c.json({ ...describeImage(result.image), unpacked, leftOut }, 201);
    } finally {
      await removeTree(folder);
    }
  });
  return app;
}
