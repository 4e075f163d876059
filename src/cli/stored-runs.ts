/** Finding runs in the store, by id, unique prefix or run directory. */

import { statSync } from "node:fs";
import { defaultStorePath, storeFile } from "../config/paths.ts";
import { AleError } from "../core/errors.ts";
import type { RunRecord } from "../store/records.ts";
import { openStore, type Store, storeExists } from "../store/store.ts";
import type { CommandLine } from "./command-line.ts";

export function storePathOf(cli: CommandLine, flag: string | undefined): string {
  return storeFile(flag ?? defaultStorePath(cli.env));
}

/** Opens the store for reading, calls `use`, closes it; `undefined` where no run was ever made. */
export async function readStore<T>(path: string, use: (store: Store) => Promise<T>): Promise<T | undefined> {
  if (!storeExists(path)) return undefined;
  await using store = await openStore(path, { mode: "read" });
  return await use(store);
}

/**
 * The run that a person means: an id, the unique beginning of one, or its run directory.
 * @throws AleError("store") when there is none.
 */
export async function findRun(path: string, name: string): Promise<RunRecord> {
  const run = await readStore(path, async (store) => {
    const isFolder = statSync(name, { throwIfNoEntry: false })?.isDirectory() ?? false;
    return (isFolder ? await store.findRunByFolder(name) : undefined) ?? (await store.getRun(name));
  });
  if (run !== undefined) return run;
  throw noStore(path);
}

export function noStore(path: string): AleError {
  return new AleError("store", `there is no store at ${path}`, {
    hint: "nothing has been run yet (ale run experiments/shell.toml), or it is elsewhere: --store FILE",
  });
}
