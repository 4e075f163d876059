/** Archives and folders become images. */

import { createWriteStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AleError, errorMessage } from "../core/errors.ts";
import { explainFull } from "../sandbox/carrier.ts";
import { removeTree } from "../sandbox/remove-tree.ts";
import { SCRATCH } from "../sandbox/roots.ts";
import type { NativeSandboxProvider } from "../sandbox/supervisor.ts";
import { compressionOf, type FilePart, openPart } from "./byte-source.ts";
import { type ContainerImage, readContainerImage } from "./container-archive.ts";
import type { ImageStore } from "./image-store.ts";
import type { LeftOut } from "./layer-entries.ts";
import { Allowance, DEFAULT_LIMITS, type ImageLimits } from "./limits.ts";
import { checkImageName, type ImageManifest } from "./manifest.ts";
import { unpackTar } from "./unpack.ts";

/** Beyond these, sandboxes on the image could not be snapshotted often enough; of 64 in all. */
const MAX_IMAGE_LAYERS = 40;

export interface ImportOptions {
  readonly limits?: ImageLimits | undefined;
  /** The profile on whose programs a plain tar file stands; omitted: it is a whole root file system. */
  readonly base?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ImportResult {
  readonly image: ImageManifest;
  /** Layers that had to be unpacked; the others were there. */
  readonly unpacked: number;
  readonly leftOut: LeftOut;
}

/**
 * Makes an image of a tar file (plain, gzip or zstd), of what `docker save` wrote, of an OCI image layout, or of a folder,
 * which is used where it lies.
 * @throws AleError("usage") for what cannot be imported, with why; nothing is kept of it then.
 */
export async function importImage(
  store: ImageStore,
  provider: NativeSandboxProvider,
  path: string,
  name: string,
  options: ImportOptions = {},
): Promise<ImportResult> {
  checkImageName(name);
  const status = await stat(path).catch((cause: unknown) => {
    throw new AleError("usage", `${path} cannot be read: ${errorMessage(cause)}`, {
      hint: "give the path of a tar file, of what docker save writes, or of a folder",
      cause,
    });
  });
  await store.sweep();
  const work = await store.newFolder();
  try {
    const importer = new Importer(store, provider, work, options);
    if (status.isDirectory()) return await importer.folder(resolve(path), name);
    if (status.isFile()) return await importer.file({ path: resolve(path), start: 0, length: status.size }, name);
    throw new AleError("usage", `${path} is neither a file nor a folder`);
  } catch (error) {
    throw explainFull(error);
  } finally {
    await removeTree(work);
  }
}

class Importer {
  readonly #store: ImageStore;
  readonly #provider: NativeSandboxProvider;
  readonly #work: string;
  readonly #options: ImportOptions;
  readonly #limits: ImageLimits;
  readonly #total: Allowance;
  readonly #leftOut: LeftOut = { special: 0, attributes: 0 };
  #unpacked = 0;

  constructor(store: ImageStore, provider: NativeSandboxProvider, work: string, options: ImportOptions) {
    this.#store = store;
    this.#provider = provider;
    this.#work = work;
    this.#options = options;
    this.#limits = options.limits ?? DEFAULT_LIMITS;
    this.#total = new Allowance(this.#limits);
  }

  async folder(path: string, name: string): Promise<ImportResult> {
    const image = await readContainerImage(path);
    if (image !== undefined) return this.#container(image, path, name);
    if (this.#options.base !== undefined) throw baseOfTar();
    const base = `directory:${path}`;
    const manifest = { name, base, layers: [], env: {}, workdir: null, bytes: 0, entries: 0, source: path };
    return this.#result(await this.#store.add(manifest));
  }

  async file(part: FilePart, name: string): Promise<ImportResult> {
    const { base } = this.#options;
    const plain = (await compressionOf(part)) === "none" ? part : await this.#spoolContainer(part);
    const image = await readContainerImage(plain.path);
    if (image !== undefined) return this.#container(image, part.path, name);
    const layer = await this.#layer(plain, undefined, false);
    const { bytes, entries } = this.#total;
    const root = base === undefined ? SCRATCH : `profile:${base}`;
    const manifest = { name, base: root, layers: [layer], env: {}, workdir: null, bytes, entries, source: part.path };
    return this.#result(await this.#store.add(manifest));
  }

  /** Uncompressed, so that it can be looked into: which files there are is told all over the archive. */
  async #spoolContainer(part: FilePart): Promise<FilePart> {
    const path = join(this.#work, "archive.tar");
    const allowance = new Allowance({ ...this.#limits, entries: Number.POSITIVE_INFINITY });
    const count = new Transform({
      transform(chunk: Uint8Array, _encoding, done) {
        try {
          allowance.take(chunk.length);
          done(null, chunk);
        } catch (error) {
          done(error as Error);
        }
      },
    });
    await pipeline(Readable.from(await openPart(part)), count, createWriteStream(path, { mode: 0o600 })).catch(
      (cause: unknown) => {
        const full = explainFull(cause);
        if (full instanceof AleError) throw full;
        throw new AleError("usage", `${part.path} cannot be read: ${errorMessage(cause)}`, { cause });
      },
    );
    return { path, start: 0, length: (await stat(path)).size };
  }

  async #container(image: ContainerImage, source: string, name: string): Promise<ImportResult> {
    if (this.#options.base !== undefined) throw baseOfTar();
    if (image.layers.length > MAX_IMAGE_LAYERS)
      throw new AleError("usage", `${source} has ${image.layers.length} layers, more than ${MAX_IMAGE_LAYERS}`, {
        hint: "flatten it: docker export of a container made from it is one tar file",
      });
    const layers: string[] = [];
    for (const { part, diffId } of image.layers) layers.unshift(await this.#layer(part, diffId, true));
    const { bytes, entries } = this.#total;
    const { env, workdir } = image;
    return this.#result(await this.#store.add({ name, base: SCRATCH, layers, env, workdir, bytes, entries, source }));
  }

  /** Unpacks one tar file, unless that was done before. Returns the name of the layer. */
  async #layer(part: FilePart, diffId: string | undefined, isLayer: boolean): Promise<string> {
    const known = diffId === undefined ? undefined : await this.#store.hasLayer(diffId);
    if (diffId !== undefined && known !== undefined) {
      this.#total.take(known.bytes, known.entries);
      return diffId;
    }
    const folder = await this.#store.newFolder();
    try {
      const splitUsr = this.#options.base !== undefined;
      const { signal } = this.#options;
      const { bytes: before, entries: entriesBefore } = this.#total;
      const limits = { bytes: this.#limits.bytes - before, entries: this.#limits.entries - entriesBefore };
      const { digest, bytes, entries, leftOut } = await unpackTar(this.#provider, part, folder, {
        ...{ limits, isLayer, splitUsr, signal },
      });
      if (diffId !== undefined && digest !== diffId)
        throw new AleError("usage", `a layer of ${part.path} is not what its digest says: sha256:${diffId}`, {
          hint: "the archive is damaged, or was changed; save it again",
        });
      this.#total.take(bytes, entries);
      this.#leftOut.special += leftOut.special;
      this.#leftOut.attributes += leftOut.attributes;
      this.#unpacked++;
      return await this.#store.addLayer(folder, { bytes, entries }, nameOfLayer(digest, splitUsr, isLayer));
    } catch (error) {
      await removeTree(folder);
      throw error;
    }
  }

  #result(image: ImageManifest): ImportResult {
    return { image, unpacked: this.#unpacked, leftOut: this.#leftOut };
  }
}

/** The file's own digest for a layer of a container image; what is unpacked in another way has another name. */
function nameOfLayer(digest: string, splitUsr: boolean, isLayer: boolean): string {
  if (isLayer) return digest;
  const way = splitUsr ? "over programs of the machine" : "a root file system";
  return new Bun.CryptoHasher("sha256").update(`${digest} ${way}`).digest("hex");
}

function baseOfTar(): AleError {
  return new AleError("usage", "--base is for plain tar files", { hint: "images and folders are whole without it" });
}
