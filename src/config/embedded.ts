/**
 * Experiments that come with Ale. In the executable the entry point hands over the embedded files; in a checkout they
 * are read from `experiments/`.
 */

import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

let embedded: ReadonlyMap<string, string> | undefined;

/** Registers the experiments of the executable: file name (`shell.toml`) to TOML text. */
export function setEmbeddedExperiments(
  experiments: ReadonlyMap<string, string> | Readonly<Record<string, string>>,
): void {
  const entries = experiments instanceof Map ? [...experiments] : Object.entries(experiments);
  embedded = new Map(entries.map(([name, text]) => [basename(name), text]));
}

/** File name to TOML text, sorted by name. */
export function embeddedExperiments(): ReadonlyMap<string, string> {
  embedded ??= new Map(readCheckout());
  return embedded;
}

/** The embedded experiment that `path` may mean: `experiments/shell.toml`, `shell.toml` or `shell`. */
export function findEmbedded(path: string): { readonly name: string; readonly text: string } | undefined {
  const plain = path.replace(/^\.\//, "").replace(/^experiments\//, "");
  for (const name of [plain, `${plain}.toml`]) {
    const text = embeddedExperiments().get(name);
    if (text !== undefined) return { name: `experiments/${name}`, text };
  }
  return undefined;
}

function readCheckout(): [string, string][] {
  const folder = join(import.meta.dir, "..", "..", "experiments");
  try {
    return readdirSync(folder)
      .filter((name) => name.endsWith(".toml"))
      .sort()
      .map((name) => [name, readFileSync(join(folder, name), "utf8")]);
  } catch {
    return []; // No checkout around the code: the executable registers its own.
  }
}
