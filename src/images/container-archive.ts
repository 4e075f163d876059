/**
 * What container tools save: archives of `docker save`, and the OCI image layout, as a tar file or a folder (OCI image
 * specification 1.1, "Image Layout", "Manifest", "Config"; Docker image specification 1.2, "Combined Image JSON").
 */

import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import { BLOCK, checkSum, nameOf, number } from "../sandbox/tar.ts";
import { type FilePart, readAt } from "./byte-source.ts";

const MAX_JSON_BYTES = 8 << 20;
/** Files in an archive; layers, their notes and a few more. */
const MAX_FILES = 10_000;
const MAX_NESTING = 3;
const DIGEST = /^sha256:([0-9a-f]{64})$/;

const Descriptor = z.object({
  digest: z.string().regex(DIGEST, "must be a digest such as sha256:…"),
  platform: z.object({ architecture: z.string(), os: z.string() }).optional(),
});
/** An index, or a manifest: both are found by digest. */
const OciDocument = z.object({
  manifests: z.array(Descriptor).optional(),
  config: Descriptor.optional(),
  layers: z.array(Descriptor).optional(),
});
const DockerManifest = z
  .array(z.object({ Config: z.string(), RepoTags: z.array(z.string()).nullish(), Layers: z.array(z.string()) }))
  .min(1);
const ConfigDocument = z.object({
  architecture: z.string().default("amd64"),
  os: z.string().default("linux"),
  config: z.object({ Env: z.array(z.string()).nullish(), WorkingDir: z.string().nullish() }).nullish(),
  rootfs: z.object({ diff_ids: z.array(z.string()) }).nullish(),
});

export interface ContainerLayer {
  readonly part: FilePart;
  /** SHA-256 of the uncompressed tar file, in hexadecimal digits; `undefined` where it is not said. */
  readonly diffId: string | undefined;
}

export interface ContainerImage {
  /** Oldest first. */
  readonly layers: readonly ContainerLayer[];
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string | null;
}

/** Where the file of a name lies, in a folder or in a tar file. */
type Find = (name: string) => Promise<FilePart | undefined>;

/**
 * The image in an uncompressed archive or a folder; `undefined` when it is no such thing.
 * @throws AleError("usage") when it is one, but not right, of another machine, or holds several.
 */
export async function readContainerImage(path: string): Promise<ContainerImage | undefined> {
  const find = (await stat(path)).isDirectory() ? inFolder(path) : await inTar(path);
  if ((await find("oci-layout")) !== undefined) return readOci(path, find);
  const manifest = await find("manifest.json");
  return manifest === undefined ? undefined : readDocker(path, find, manifest);
}

function inFolder(folder: string): Find {
  return async (name) => {
    const path = join(folder, name);
    const status = await stat(path).catch(() => undefined);
    return status?.isFile() ? { path, start: 0, length: status.size } : undefined;
  };
}

/** Reads the headers only. A file that is no tar file has nothing in it. */
async function inTar(path: string): Promise<Find> {
  const parts = new Map<string, FilePart>();
  const { size } = await stat(path);
  await using file = await open(path, "r");
  for (let at = 0; at + BLOCK <= size && parts.size < MAX_FILES; ) {
    const block = await readAt(file, at, BLOCK);
    if (block.every((byte) => byte === 0)) break;
    try {
      checkSum(block);
    } catch {
      break;
    }
    const length = number(block, 124, 12);
    const name = new TextDecoder().decode(nameOf(block)).replace(/^\.\//, "");
    if (block[156] === 0x30 || block[156] === 0) parts.set(name, { path, start: at + BLOCK, length });
    at += BLOCK + Math.ceil(length / BLOCK) * BLOCK;
  }
  return async (name) => parts.get(name);
}

async function readJson<T>(part: FilePart, schema: z.ZodType<T>, what: string, digest?: string): Promise<T> {
  if (part.length > MAX_JSON_BYTES) throw notRight(part.path, `${what} is too large`);
  await using file = await open(part.path, "r");
  const bytes = await readAt(file, part.start, part.length);
  const found = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
  if (digest !== undefined && found !== digest) throw notRight(part.path, `${what} is not what its digest says`);
  try {
    return schema.parse(JSON.parse(new TextDecoder().decode(bytes)));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : errorMessage(error);
    throw notRight(part.path, `${what}: ${why}`);
  }
}

async function readDocker(path: string, find: Find, manifest: FilePart): Promise<ContainerImage> {
  const images = await readJson(manifest, DockerManifest, "manifest.json");
  const [image, ...others] = images;
  if (image === undefined || others.length > 0)
    throw notRight(
      path,
      `it holds ${images.length} images: ${images.flatMap((each) => each.RepoTags ?? []).join(", ")}`,
    );
  const need = async (name: string) => {
    const part = await find(name);
    if (part !== undefined) return part;
    throw notRight(path, `${name} is missing`);
  };
  const config = await readJson(await need(image.Config), ConfigDocument, image.Config);
  return describe(path, config, await Promise.all(image.Layers.map(need)));
}

async function readOci(path: string, find: Find): Promise<ContainerImage> {
  const need = async (name: string) => {
    const part = await find(name);
    if (part !== undefined) return part;
    throw notRight(path, `${name} is missing`);
  };
  const blob = (digest: string) => need(`blobs/sha256/${hexOf(digest)}`);
  let document = await readJson(await need("index.json"), OciDocument, "index.json");
  for (let depth = 0; document.manifests !== undefined; depth++) {
    const fitting = document.manifests.filter(
      ({ platform }) => platform === undefined || (platform.os === "linux" && platform.architecture === "amd64"),
    );
    const [only, ...others] = fitting;
    if (only === undefined) throw notRight(path, "it holds no image for linux on amd64");
    if (others.length > 0 || depth >= MAX_NESTING) throw notRight(path, `it holds ${fitting.length} images`);
    document = await readJson(await blob(only.digest), OciDocument, "the manifest", hexOf(only.digest));
  }
  const { config, layers } = document;
  if (config === undefined || layers === undefined) throw notRight(path, "the manifest has no layers");
  const read = await readJson(await blob(config.digest), ConfigDocument, "the configuration", hexOf(config.digest));
  return describe(path, read, await Promise.all(layers.map(({ digest }) => blob(digest))));
}

function describe(path: string, config: z.infer<typeof ConfigDocument>, parts: readonly FilePart[]): ContainerImage {
  if (config.os !== "linux" || config.architecture !== "amd64")
    throw notRight(path, `it is for ${config.os} on ${config.architecture}; this is linux on amd64`);
  const ids = config.rootfs?.diff_ids;
  if (ids !== undefined && ids.length !== parts.length)
    throw notRight(path, `it has ${parts.length} layers, and the configuration tells of ${ids.length}`);
  const env = (config.config?.Env ?? []).flatMap((text): [string, string][] => {
    const [, name, value] = /^([A-Za-z_][A-Za-z0-9_]*)=([^\0]*)$/s.exec(text) ?? [];
    return name === undefined || value === undefined ? [] : [[name, value]];
  });
  return {
    layers: parts.map((part, index) => ({ part, diffId: DIGEST.exec(ids?.[index] ?? "")?.[1] })),
    env: Object.fromEntries(env),
    workdir: config.config?.WorkingDir || null,
  };
}

function hexOf(digest: string): string {
  return DIGEST.exec(digest)?.[1] ?? "";
}

function notRight(path: string, why: string): AleError {
  return new AleError("usage", `${path} cannot be imported: ${why}`, {
    hint: "save one image for linux/amd64, with docker save, podman save or skopeo copy",
  });
}
