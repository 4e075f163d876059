/** Experiments that come with Ale; the entry point hands them over, so that nothing here knows where they lie. */

import { basename } from "node:path";

let embedded: ReadonlyMap<string, string> = new Map();

/** Registers the experiments that come with Ale: file name (`shell.toml`) to TOML text. */
export function setEmbeddedExperiments(
  experiments: ReadonlyMap<string, string> | Readonly<Record<string, string>>,
): void {
  const entries = experiments instanceof Map ? [...experiments] : Object.entries(experiments);
  embedded = new Map(entries.map(([name, text]) => [basename(name), text]));
}

/** File name to TOML text, sorted by name. */
export function embeddedExperiments(): ReadonlyMap<string, string> {
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
