/** Layers between memory and disk: what was frozen is kept in folders, and what lies in folders is stood on again. */

import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import type { SandboxSnapshot } from "../core/ports.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import { Carrier, pack } from "./carrier.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import { loadProfile } from "./profiles.ts";
import { removeTree } from "./remove-tree.ts";
import { BARE, type Roots, type SandboxRoot, type StoredLayer, type StoredRoot } from "./roots.ts";
import { type Layer, NativeSnapshot, type ShellState } from "./snapshots.ts";

/** What a sandbox that moves files is made with. */
const CARRIER: EnvironmentSpec = {
  ...{ profile: "host", workdir: "/work", cpus: 2, pids: 8 },
  ...{ memoryBytes: 512 << 20, diskBytes: 64 << 20 },
};

export interface MakeOptions {
  readonly session: boolean;
  readonly root: SandboxRoot;
  /** A folder of the host that the sandbox may write to; `store`: it has nothing else but its layers. */
  readonly target?: { readonly folder: string; readonly store: boolean } | undefined;
}

export interface KeepOptions {
  /** Return when the disk has it. */
  readonly sync?: boolean;
  /** Number of the first folder. Default 0. */
  readonly first?: number;
  /** Whether a layer that lies in a folder of the host may stay there. */
  readonly stays: (path: string) => boolean;
}

/** The part of the provider that is needed here. */
export interface SandboxMaker {
  make(environment: EnvironmentSpec, options: MakeOptions): Promise<NativeSandbox>;
  /** Of the launcher in use. */
  roots(): Promise<Roots>;
}

export class LayerStore {
  readonly #maker: SandboxMaker;

  constructor(maker: SandboxMaker) {
    this.#maker = maker;
  }

  /** A sandbox that moves files between `layers` and a folder of the host. */
  async carrier(folder: string, layers: readonly Layer[] = []): Promise<Carrier> {
    const root = { base: "", layers, env: {} };
    return new Carrier(await this.#maker.make(CARRIER, { session: false, root, target: { folder, store: true } }));
  }

  /**
   * Copies the layers of a snapshot into folders `NUMBER` of `folder`, but for those that may stay where they are.
   * @throws AleError("sandbox") when the disk is full; the folders that were begun are removed.
   */
  async keep(snapshot: SandboxSnapshot, folder: string, options: KeepOptions): Promise<StoredRoot> {
    if (!(snapshot instanceof NativeSnapshot)) throw new AleError("internal", "the snapshot is of another provider");
    const { sync = false, first = 0, stays } = options;
    const { base, layers, env } = snapshot.contents;
    const moving = layers.filter((layer) => layer.path === undefined || !stays(layer.path));
    const made: string[] = [];
    const stored: StoredLayer[] = [];
    try {
      await using carrier = moving.length > 0 ? await this.carrier(folder, moving) : undefined;
      let number = first;
      for (const layer of layers) {
        if (carrier === undefined || !moving.includes(layer)) {
          stored.push({ path: layer.path ?? "", bytes: layer.bytes, given: layer.given });
          continue;
        }
        const path = join(resolve(folder), String(number));
        made.push(path);
        const entries = await copyParts(carrier, moving.indexOf(layer), String(number++), base, sync);
        stored.push({ path, bytes: layer.bytes, entries });
      }
    } catch (error) {
      for (const path of made) await removeTree(path);
      throw error;
    }
    return { base, layers: stored, env };
  }

  /** Which folders are shown as layers, so that they must stay. */
  async placed(): Promise<(path: string) => boolean> {
    const roots = await this.#maker.roots().catch(() => undefined);
    return (path) => roots?.isPlaced(path) ?? false;
  }

  /** A snapshot of what lies on disk, for `fork`. */
  async open(root: StoredRoot, environment: EnvironmentSpec, shell?: ShellState): Promise<NativeSnapshot> {
    const roots = await this.#maker.roots();
    const layers = await Promise.all(root.layers.map((layer) => roots.place(layer)));
    const bytes = root.layers.reduce((sum, layer) => sum + layer.bytes, 0);
    return new NativeSnapshot(roots.client, {
      ...{ base: root.base, layers, env: root.env, environment, shell, bytes, lostProcesses: 0 },
    });
  }

  /**
   * Writes the files of a root file system as entries (`protocol.ts`) into `folder/file`. Of one that stands on this
   * machine's programs, those are left out, and what was removed of them is not told.
   */
  async pack(source: SandboxSnapshot | StoredRoot, folder: string, file: string, maxBytes: number): Promise<void> {
    const snapshot = source instanceof NativeSnapshot ? source : await this.open(source as StoredRoot, CARRIER);
    try {
      const { base, layers } = snapshot.contents;
      const root = { base: isHost(base) ? BARE : base, layers, env: {} };
      await using sandbox = await this.#maker.make(CARRIER, { session: false, root, target: { folder, store: false } });
      await pack(sandbox, file, maxBytes);
    } finally {
      if (snapshot !== source) await snapshot[Symbol.asyncDispose]();
    }
  }

  /** Moves a layer from memory to a folder, unless a sandbox has come to stand on it meanwhile. */
  async spill(layer: Layer, base: string, folder: string): Promise<void> {
    const roots = await this.#maker.roots();
    const name = `layer-${layer.id}`;
    const path = join(folder, name);
    await mkdir(folder, { recursive: true });
    try {
      layer.retain(); // not dropped while it is copied
      try {
        await using carrier = await this.carrier(folder, [layer]);
        await copyParts(carrier, 0, name, base, false);
      } finally {
        layer.release();
      }
      if (layer.live || layer.dropped) return await removeTree(path);
      const id = await roots.placeFolder(path);
      if (layer.live || layer.dropped) {
        roots.client.dropLayer(id);
        return await removeTree(path);
      }
      roots.client.dropLayer(layer.moveTo(id, path));
    } catch (error) {
      await removeTree(path);
      throw error;
    }
  }
}

/** @throws AleError("sandbox") where sandboxes stand on no layers. */
export function needStore({ store }: { readonly store?: LayerStore }): LayerStore {
  if (store !== undefined) return store;
  throw new AleError("sandbox", "sandboxes of this backend can neither be archived nor become images", {
    hint: "use the backend native",
  });
}

/** Whether a base is made of this machine's programs, and keeps changes of /usr apart. */
export function isHost(base: string): boolean {
  if (!base.startsWith("profile:")) return base === BARE;
  return loadProfile(base.slice("profile:".length)).kind === "host";
}

/** Returns how many entries there were. */
async function copyParts(carrier: Carrier, index: number, to: string, base: string, sync: boolean): Promise<number> {
  const root = await carrier.copyLayer(index, "root.up", `${to}/root.up`, sync);
  if (!isHost(base)) return root.entries;
  try {
    return root.entries + (await carrier.copyLayer(index, "usr.up", `${to}/usr.up`, sync)).entries;
  } catch (error) {
    // Systems without a common /usr have no such part.
    if (!/usr\.up: No such file or directory/.test(errorMessage(error))) throw error;
    return root.entries;
  }
}
