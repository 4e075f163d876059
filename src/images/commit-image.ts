/** Files of a sandbox become an image: its layers are kept on disk, over what it was made from. */

import type { SandboxSnapshot } from "../core/ports.ts";
import { explainFull } from "../sandbox/carrier.ts";
import { needStore } from "../sandbox/layer-store.ts";
import { removeTree } from "../sandbox/remove-tree.ts";
import type { NativeSandboxProvider } from "../sandbox/supervisor.ts";
import type { ImageStore } from "./image-store.ts";
import { checkImageName, type ImageManifest } from "./manifest.ts";

export interface CommitRequest {
  /** Of the image; one that has it loses it. */
  readonly name: string;
  /** Name of the sandbox or snapshot. */
  readonly source: string;
  /** Where commands begin. */
  readonly workdir: string;
}

/** @throws AleError("usage") for a name that is none; AleError("sandbox") when the disk is full: nothing is changed then. */
export async function commitImage(
  store: ImageStore,
  provider: NativeSandboxProvider,
  files: SandboxSnapshot,
  { name, source, workdir }: CommitRequest,
): Promise<ImageManifest> {
  checkImageName(name);
  await store.sweep();
  const folder = await store.newFolder();
  try {
    const root = await needStore(provider).keep(files, folder, { stays: (path) => store.layerOf(path) !== undefined });
    const layers: string[] = [];
    for (const { path, bytes, entries = 0 } of root.layers) {
      const known = store.layerOf(path);
      layers.push(known ?? (await store.addLayer(path, { bytes, entries })));
    }
    const records = await Promise.all(layers.map((layer) => store.hasLayer(layer)));
    const sum = (key: "bytes" | "entries") => records.reduce((total, record) => total + (record?.[key] ?? 0), 0);
    const { base, env } = root;
    const manifest = { name, base, layers, env: { ...env }, workdir, bytes: sum("bytes"), entries: sum("entries") };
    return await store.add({ ...manifest, source });
  } catch (error) {
    throw explainFull(error);
  } finally {
    await removeTree(folder);
  }
}
