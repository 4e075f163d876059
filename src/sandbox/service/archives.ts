/**
 * Archived sandboxes on disk, `archives/ID` in Ale's home: `record.json`, and the layers that were in memory. The record is
 * replaced by a rename once the layers are on disk, so what is there is always either the old archive or the new one;
 * layers that no record names are what was interrupted, and are removed by the next service. `owner.json` says which
 * service has it.
 */

import { mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { AleError, errorMessage } from "../../core/errors.ts";
import type { SandboxSnapshot } from "../../core/ports.ts";
import { explainFull } from "../carrier.ts";
import type { LayerStore } from "../layer-store.ts";
import { isAlive, ownMark } from "../registry.ts";
import { removeTree } from "../remove-tree.ts";
import type { StoredRoot } from "../roots.ts";
import { MAX_HISTORY, SANDBOX_EVENTS, SANDBOX_STATES } from "./lifecycle.ts";

const duration = z.number().nullable(); // null: no limit
const Network = z.object({
  mode: z.enum(["none", "allowlist", "public"]),
  allow: z.array(z.string()).readonly(),
  limits: z
    .object({ connections: z.number(), totalConnections: z.number(), bytesOut: z.number() })
    .partial()
    .catchall(z.number())
    .optional(),
});
const Record = z.object({
  version: z.literal(1),
  id: z.string(),
  environment: z.object({
    ...{ profile: z.string(), image: z.string().optional(), workdir: z.string(), cpus: z.number() },
    ...{ memoryBytes: z.number(), diskBytes: z.number(), pids: z.number(), network: Network.optional() },
  }),
  isGraded: z.boolean(),
  labels: z.record(z.string(), z.string()),
  ttl: z.object({
    ...{ idleMs: duration, totalMs: duration, stoppedMs: duration },
    ...{ archiveMs: duration.optional(), archivedMs: duration.optional() },
  }),
  root: z.object({
    base: z.string(),
    layers: z.array(z.object({ path: z.string(), bytes: z.number(), given: z.boolean().optional() })).readonly(),
    env: z.record(z.string(), z.string()),
  }),
  history: z
    .array(
      z.object({
        ...{ from: z.enum(SANDBOX_STATES), to: z.enum(SANDBOX_STATES), event: z.enum(SANDBOX_EVENTS) },
        ...{ at: z.number(), reason: z.string() },
      }),
    )
    .max(MAX_HISTORY),
  /** Milliseconds since 1970, as the next. */
  createdAt: z.number(),
  archivedAt: z.number(),
});
export type ArchiveRecord = z.infer<typeof Record>;

const Owner = z.object({ pid: z.number(), start: z.string() });
/** As the names of sandboxes; other folders are not looked at. */
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

export class ArchiveStore {
  readonly #home: string;
  readonly #folder: string;

  /** `home`: Ale's. */
  constructor(home: string) {
    this.#home = resolve(home);
    this.#folder = join(this.#home, "archives");
  }

  /** What there is and no other service has. Removes what was interrupted. */
  async load(): Promise<ArchiveRecord[]> {
    const found: ArchiveRecord[] = [];
    for (const id of (await readdir(this.#folder).catch(() => [])).sort()) {
      if (!ID.test(id) || !(await this.#claim(id).catch(() => false))) continue;
      const record = await readRecord(join(this.#folder, id));
      if (record?.id === id) {
        await this.#removeUnnamed(record, () => false);
        found.push(record);
      } else if (record === undefined) await removeTree(join(this.#folder, id));
    }
    return found;
  }

  /** False when another service that lives has it. */
  async #claim(id: string): Promise<boolean> {
    const file = join(this.#folder, id, "owner.json");
    const own = await ownMark();
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        await writeFile(file, JSON.stringify(own), { flag: "wx" });
        return true;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const owner = await readOwner(file);
      if (owner?.pid === own.pid && owner.start === own.start) return true;
      if (owner !== undefined && (await isAlive(owner))) return false;
      await rm(file, { force: true });
    }
    return false;
  }

  /**
   * Writes an archive, or a newer one in the place of one that is there. `snapshot` may stand on the layers of the latter,
   * which stay where they are, as do those of images.
   * @throws AleError("sandbox") when it cannot be written; what was there before still is.
   */
  async save(
    store: LayerStore,
    snapshot: SandboxSnapshot,
    record: Omit<ArchiveRecord, "root" | "version">,
  ): Promise<StoredRoot> {
    const folder = join(this.#folder, record.id);
    const layers = join(folder, "layers");
    const before = await readRecord(folder);
    try {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
      await mkdir(layers, { recursive: true });
      if (!(await this.#claim(record.id)))
        throw new AleError("sandbox", `another service has an archive of the name ${record.id}`);
      const numbers = (await readdir(layers)).map(Number).filter(Number.isInteger);
      const stays = [`${layers}/`, `${join(this.#home, "layers")}/`];
      const root = await store.keep(snapshot, layers, {
        ...{ sync: true, first: Math.max(0, ...numbers) + 1 },
        stays: (path) => stays.some((prefix) => path.startsWith(prefix)),
      });
      await replaceFile(join(folder, "record.json"), JSON.stringify({ version: 1, ...record, root }));
      await this.#removeUnnamed({ ...record, root }, await store.placed());
      return root;
    } catch (error) {
      if (before === undefined) await removeTree(folder).catch(() => {});
      const why = explainFull(error);
      throw new AleError("sandbox", `sandbox ${record.id} could not be archived: ${errorMessage(why)}`, {
        hint: (why instanceof AleError ? why.hint : undefined) ?? `look at ${this.#folder}; the sandbox is as it was`,
        cause: error,
      });
    }
  }

  /** Layers of earlier archives, and of interrupted ones. */
  async #removeUnnamed(
    { id, root }: Pick<ArchiveRecord, "id" | "root">,
    isUsed: (path: string) => boolean,
  ): Promise<void> {
    const layers = join(this.#folder, id, "layers");
    const named = new Set(root.layers.map(({ path }) => path));
    for (const name of await readdir(layers).catch(() => [])) {
      const path = join(layers, name);
      if (!named.has(path) && !isUsed(path)) await removeTree(path);
    }
  }

  /** Layers that other sandboxes stand on, as forks of the one that was archived do, stay until the next service starts. */
  async remove(id: string, store: LayerStore): Promise<void> {
    const folder = join(this.#folder, id);
    // Without its record it is no archive, however far the rest comes.
    await rm(join(folder, "record.json"), { force: true });
    const isUsed = await store.placed();
    const layers = await readdir(join(folder, "layers")).catch(() => []);
    if (!layers.some((name) => isUsed(join(folder, "layers", name)))) await removeTree(folder);
  }

  /** Leaves what this service has to others. */
  async release(id: string): Promise<void> {
    await rm(join(this.#folder, id, "owner.json"), { force: true }).catch(() => {});
  }
}

/** Folders of the layers that archives stand on, below Ale's home. */
export async function archivedLayerPaths(home: string): Promise<string[]> {
  const folder = join(resolve(home), "archives");
  const ids = await readdir(folder).catch(() => []);
  const records = await Promise.all(ids.map((id) => readRecord(join(folder, id))));
  return records.flatMap((record) => record?.root.layers.map(({ path }) => path) ?? []);
}

async function readRecord(folder: string): Promise<ArchiveRecord | undefined> {
  try {
    return Record.parse(JSON.parse(await readFile(join(folder, "record.json"), "utf8")));
  } catch {
    return undefined;
  }
}

async function readOwner(file: string): Promise<z.infer<typeof Owner> | undefined> {
  try {
    return Owner.parse(JSON.parse(await readFile(file, "utf8")));
  } catch {
    return undefined;
  }
}

/** The file holds either what it held or all of the new text, whatever happens. */
async function replaceFile(path: string, text: string): Promise<void> {
  const partial = `${path}.partial`;
  await using file = await open(partial, "w", 0o600);
  await file.writeFile(text);
  await file.sync();
  await rename(partial, path);
}
