/**
 * The images of this user: manifests in `images/`, unpacked layers in `layers/`, both in Ale's home. A layer of an archive
 * is named by the SHA-256 of its tar file, so that images share it; one that was committed has a random name. Whatever is
 * made lies under a name of its process until it is whole, and is renamed then; what a killed process leaves is removed by
 * the next one that makes or removes images.
 */

import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import { isAlive, ownMark } from "../sandbox/registry.ts";
import { removeTree } from "../sandbox/remove-tree.ts";
import type { StoredLayer, StoredRoot } from "../sandbox/roots.ts";
import { archivedLayerPaths } from "../sandbox/service/archives.ts";
import { checkImageName, ImageManifest, LayerRecord, manifestFile } from "./manifest.ts";

/** `.partial-PID-START-…` and `user-PID-START`: of a process, told apart by its start. */
const OWNED = /^(?:\.partial|user)-(\d+)-(\d+)/;

export class UnknownImage extends AleError {
  constructor(name: string, others: readonly string[]) {
    const known = others.slice(0, 10).join(", ");
    super("usage", `there is no image ${JSON.stringify(name)}`, {
      hint: others.length === 0 ? "ale images import FILE NAME makes one" : `there are: ${known}`,
    });
    this.name = "UnknownImage";
  }
}

export class ImageStore {
  readonly home: string;
  readonly #images: string;
  readonly #layers: string;
  readonly #used = new Map<string, Promise<StoredLayer>>();

  /** `home`: Ale's. */
  constructor(home: string) {
    this.home = resolve(home);
    this.#images = join(this.home, "images");
    this.#layers = join(this.home, "layers");
  }

  /** By name. */
  async list(): Promise<ImageManifest[]> {
    const found: ImageManifest[] = [];
    for (const file of (await readdir(this.#images).catch(() => [])).sort()) {
      const manifest = file.endsWith(".json") ? await this.#read(file) : undefined;
      if (manifest !== undefined) found.push(manifest);
    }
    return found;
  }

  async find(name: string): Promise<ImageManifest | undefined> {
    return this.#read(manifestFile(name));
  }

  /** @throws AleError("usage") when there is none of that name. */
  async get(name: string): Promise<ImageManifest> {
    const manifest = await this.find(name);
    if (manifest !== undefined) return manifest;
    const others = (await this.list()).map((image) => image.name);
    throw new UnknownImage(name, others);
  }

  async #read(file: string): Promise<ImageManifest | undefined> {
    try {
      return ImageManifest.parse(JSON.parse(await readFile(join(this.#images, file), "utf8")));
    } catch {
      return undefined;
    }
  }

  /** The root file system of an image, for sandboxes of this process, which keeps its layers from being removed. */
  readonly resolve = async (name: string): Promise<StoredRoot> => {
    const { base, layers, env, level } = await this.get(name);
    if (level !== ownLevel())
      throw new AleError("sandbox", `image ${name} was unpacked by ${level === "root" ? "root" : "an ordinary user"}`, {
        hint: "import it again as this user",
      });
    const stored = await Promise.all(layers.map((layer) => this.#use(layer, name)));
    return { base, layers: stored, env };
  };

  /** A layer that this process uses stays, so what is known of it does. */
  #use(layer: string, image: string): Promise<StoredLayer> {
    let used = this.#used.get(layer);
    if (used === undefined) {
      used = this.#open(layer, image);
      this.#used.set(layer, used);
      used.catch(() => this.#used.delete(layer));
    }
    return used;
  }

  async #open(layer: string, image: string): Promise<StoredLayer> {
    const path = join(this.#layers, layer);
    try {
      await this.#mark(path);
      const { bytes } = LayerRecord.parse(JSON.parse(await readFile(join(path, "layer.json"), "utf8")));
      return { path, bytes, given: true };
    } catch (cause) {
      throw new AleError("sandbox", `layer ${layer} of image ${image} cannot be used: ${errorMessage(cause)}`, {
        hint: "import the image again",
        cause,
      });
    }
  }

  /** Says that this process uses a layer. */
  async #mark(path: string): Promise<void> {
    const { pid, start } = await ownMark();
    await writeFile(join(path, `user-${pid}-${start}`), "");
  }

  /** A folder for what is being made; it is removed by others when this process has ended without doing so. */
  async newFolder(): Promise<string> {
    const { pid, start } = await ownMark();
    const path = join(this.#layers, `.partial-${pid}-${start}-${randomBytes(4).toString("hex")}`);
    try {
      await mkdir(this.#images, { recursive: true, mode: 0o700 });
      // Images hold programs that run with other ids when somebody else gets at them.
      await mkdir(this.#layers, { recursive: true, mode: 0o700 });
      await mkdir(path);
    } catch (cause) {
      throw new AleError("usage", `the folder of images, ${this.#layers}, cannot be written: ${errorMessage(cause)}`, {
        hint: "set ALE_HOME to a folder you may write to",
        cause,
      });
    }
    return path;
  }

  /** Whether a layer of that name is there, unpacked as this user would; this process uses it then. */
  async hasLayer(name: string): Promise<LayerRecord | undefined> {
    const path = join(this.#layers, name);
    try {
      const record = LayerRecord.parse(JSON.parse(await readFile(join(path, "layer.json"), "utf8")));
      if (record.level !== ownLevel()) return undefined;
      await this.#mark(path);
      return record;
    } catch {
      return undefined;
    }
  }

  /** Makes a folder that is whole a layer. `name` omitted: a random one. Returns its name. */
  async addLayer(folder: string, record: Omit<LayerRecord, "level">, name?: string): Promise<string> {
    const layer = name ?? randomBytes(32).toString("hex");
    const target = join(this.#layers, layer);
    await writeFile(join(folder, "layer.json"), JSON.stringify({ ...record, level: ownLevel() }));
    await this.#mark(folder);
    if ((await this.hasLayer(layer)) !== undefined) {
      await removeTree(folder);
      return layer;
    }
    await removeTree(target); // of another level, or broken
    await rename(folder, target);
    return layer;
  }

  /** The name of a layer by its folder; `undefined` when it is none of an image. */
  layerOf(path: string): string | undefined {
    return dirname(resolve(path)) === this.#layers ? basename(path) : undefined;
  }

  /** Gives an image its name, which another one may have had. */
  async add(manifest: Omit<ImageManifest, "createdAt" | "level">): Promise<ImageManifest> {
    const whole: ImageManifest = { ...manifest, createdAt: Date.now(), level: ownLevel() };
    const file = join(this.#images, manifestFile(checkImageName(manifest.name)));
    await mkdir(this.#images, { recursive: true, mode: 0o700 });
    const partial = `${file}.${process.pid}`;
    await writeFile(partial, JSON.stringify(whole, null, 2));
    await rename(partial, file);
    return whole;
  }

  /** Takes the name away, and removes what nothing needs any more. @throws AleError("usage") when there is none. */
  async remove(name: string): Promise<void> {
    await this.get(name);
    await removeTree(join(this.#images, manifestFile(name)));
    await this.sweep();
  }

  /** Removes layers that no image and no archive has and no process uses, and what killed processes left. */
  async sweep(): Promise<number> {
    const needed = new Set((await this.list()).flatMap(({ layers }) => layers));
    for (const path of await archivedLayerPaths(this.home)) needed.add(this.layerOf(path) ?? "");
    let count = 0;
    for (const layer of await readdir(this.#layers).catch(() => [])) {
      const path = join(this.#layers, layer);
      if (needed.has(layer) || (await isOwned(layer)) || (await this.#isUsed(path))) continue;
      await removeTree(path);
      count++;
    }
    return count;
  }

  async #isUsed(path: string): Promise<boolean> {
    for (const name of await readdir(path).catch(() => [])) if (await isOwned(name)) return true;
    return false;
  }
}

/** Whether a name is of a process that lives. */
async function isOwned(name: string): Promise<boolean> {
  const [, pid, start] = OWNED.exec(name) ?? [];
  return pid !== undefined && start !== undefined && (await isAlive({ pid: Number(pid), start }));
}

function ownLevel(): "root" | "user" {
  return process.getuid?.() === 0 ? "root" : "user";
}
