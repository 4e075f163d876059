/**
 * What the root file system of a sandbox is made of: a base, which the launcher registers once, and layers over it. Bases
 * are named by texts that outlive a launcher: `profile:NAME`, `directory:PATH`, `scratch:` (nothing at all) and `bare:`
 * (the folders of profile `host` without the host's programs).
 */

import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import type { LauncherClient } from "./launcher-client.ts";
import { type MaskedRoot, masksFor } from "./masks.ts";
import { loadProfile } from "./profiles.ts";
import { encodeSettings, Op } from "./protocol.ts";
import { Layer } from "./snapshots.ts";

export const SCRATCH = "scratch:";
export const BARE = "bare:";
const REGISTER_MS = 10_000;
/** As `STORED_LAYER` in `launcher/launcher.h`. */
const STORED = 0x80000000;

/** A layer that lies in a folder of the host, and outlives launchers. */
export interface StoredLayer {
  readonly path: string;
  /** Of its files. */
  readonly bytes: number;
  /** Files, folders and links, where they were counted. */
  readonly entries?: number | undefined;
  /** It is part of an image, and does not count against the disk of whoever stands on it. */
  readonly given?: boolean | undefined;
}

/** A root file system that lies on disk. */
export interface StoredRoot {
  /** Name of its base, as above. */
  readonly base: string;
  /** Newest first. */
  readonly layers: readonly StoredLayer[];
  /** Variables for every program. */
  readonly env: Readonly<Record<string, string>>;
}

/** A root file system as a launcher has it. */
export interface SandboxRoot {
  readonly base: string;
  /** Newest first. */
  readonly layers: readonly Layer[];
  readonly env: Readonly<Record<string, string>>;
}

/** The root file system of an image; rejects with `AleError("sandbox")` when there is none of that name. */
export type ResolveImage = (image: string) => Promise<StoredRoot>;

export interface RootOptions {
  /** Host paths that no sandbox may see. */
  readonly maskPaths: readonly string[];
  readonly stateDir: string;
  readonly resolveImage?: ResolveImage | undefined;
}

/** Bases and layers of one launcher. */
export class Roots {
  readonly client: LauncherClient;
  readonly #options: RootOptions;
  readonly #bases = new Map<string, Promise<number>>();
  /** Of images, by folder: placed once, for as long as the launcher lives. */
  readonly #images = new Map<string, Promise<Layer>>();
  readonly #placed = new Set<Layer>();
  /** By profile, the image it stands for; empty: none. */
  readonly #profiles = new Map<string, string>();
  #nextLayer = 1;
  #nextStored = STORED + 1;

  constructor(client: LauncherClient, options: RootOptions) {
    this.client = client;
    this.#options = options;
  }

  /** A number for a layer in memory. */
  nextLayer(): number {
    return this.#nextLayer++;
  }

  /** The root file system that an environment asks for. */
  async of(environment: EnvironmentSpec): Promise<SandboxRoot> {
    const image = environment.image ?? this.#imageOf(environment.profile);
    if (image === undefined) return { base: `profile:${environment.profile}`, layers: [], env: {} };
    const { resolveImage } = this.#options;
    if (resolveImage === undefined)
      throw new AleError("sandbox", `image ${JSON.stringify(image)} cannot be had: there are no images here`);
    const { base, layers, env } = await resolveImage(image);
    return { base, env, layers: await Promise.all(layers.map((layer) => this.#image(layer))) };
  }

  /** Whether an environment still asks for `root`: the name of an image may mean another one by now, or none. */
  async isCurrent(root: SandboxRoot, environment: EnvironmentSpec): Promise<boolean> {
    const now = await this.of(environment).catch(() => undefined); // told by whoever makes one
    const same = now?.layers.length === root.layers.length && now.layers.every((layer, i) => layer === root.layers[i]);
    return same && now.base === root.base && Bun.deepEquals(now.env, root.env);
  }

  /** The image that a profile stands for. Looked up once: sandboxes are made in a few milliseconds. */
  #imageOf(profile: string): string | undefined {
    let image = this.#profiles.get(profile);
    if (image === undefined) {
      const loaded = loadProfile(profile);
      image = loaded.kind === "image" ? loaded.image : "";
      this.#profiles.set(profile, image);
    }
    return image === "" ? undefined : image;
  }

  #image(stored: StoredLayer): Promise<Layer> {
    let placed = this.#images.get(stored.path);
    if (placed === undefined) {
      placed = this.place(stored, true).then((layer) => {
        layer.retain();
        return layer;
      });
      this.#images.set(stored.path, placed);
      placed.catch(() => this.#images.delete(stored.path));
    }
    return placed;
  }

  /** Has the launcher show a stored layer. It is forgotten when nothing stands on it any more. */
  async place(stored: StoredLayer, given = false): Promise<Layer> {
    const id = await this.placeFolder(stored.path);
    const drop = (layer: Layer) => {
      this.#placed.delete(layer);
      this.client.dropLayer(layer.id);
    };
    const layer = new Layer(id, stored.bytes, drop, stored.path, given || stored.given);
    this.#placed.add(layer);
    return layer;
  }

  /** Whether a folder is shown as a layer. */
  isPlaced(path: string): boolean {
    return [...this.#placed].some((layer) => layer.path === path);
  }

  /** The launcher's number for a folder as a layer. */
  async placeFolder(path: string): Promise<number> {
    const id = this.#nextStored++;
    const settings = encodeSettings([
      ["layer", id],
      ["path", resolve(path)],
    ]);
    await this.client.request(Op.stored, 0, settings, `the layer in ${path}`, REGISTER_MS);
    return id;
  }

  /** The launcher's number for a base; registered on first use. */
  base(name: string): Promise<number> {
    let base = this.#bases.get(name);
    if (base === undefined) {
      base = this.#register(name, this.#bases.size);
      this.#bases.set(name, base);
    }
    return base;
  }

  async #register(name: string, id: number): Promise<number> {
    const settings = await this.#settingsOf(name);
    const shown = name.startsWith("profile:") ? `sandbox profile "${name.slice(8)}"` : `root file system ${name}`;
    try {
      const encoded = encodeSettings([["id", id], ...settings]);
      await this.client.request(Op.base, 0, encoded, `registering ${shown}`, REGISTER_MS);
    } catch (error) {
      const hint = name.startsWith("profile:")
        ? `look at sandboxes/${name.slice(8)}.toml, and at what \`ale doctor\` says`
        : "look whether the folder is there, and at what `ale doctor` says";
      throw new AleError("sandbox", `${shown} cannot be used: ${errorMessage(error)}`, { hint, cause: error });
    }
    return id;
  }

  async #settingsOf(name: string): Promise<[string, string | number][]> {
    const [kind, rest] = [name.slice(0, name.indexOf(":") + 1), name.slice(name.indexOf(":") + 1)];
    if (kind === BARE) return [["bare", 1]];
    if (kind === SCRATCH) {
      const empty = join(resolve(this.#options.stateDir), "empty");
      await mkdir(empty, { recursive: true });
      return [["root", empty]];
    }
    const profile: MaskedRoot =
      kind === "directory:" ? { kind: "directory", root: rest, binds: [], masks: [] } : loadProfile(rest);
    const settings: [string, string | number][] = [];
    if (profile.root !== undefined) settings.push(["root", profile.root]);
    for (const bind of profile.binds) settings.push(["bind", bind]);
    for (const mask of masksFor(profile, this.#options.maskPaths)) settings.push(["mask", mask]);
    return settings;
  }
}
