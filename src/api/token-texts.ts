/** The text of each token of an episode, where the run's directory still holds its tokenizer. */

import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Tokenizer } from "../core/ports.ts";
import type { Store } from "../store/store.ts";
import { parseTokenizer } from "../tokens/tokenizer.ts";

const MAX_BYTES = 64 << 20;
/** Tokenizers kept: one per run that was looked at. */
const KEPT = 8;

export class TokenTexts {
  readonly #store: Store;
  readonly #tokenizers = new Map<string, Tokenizer>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** Undefined where the tokenizer is not there or does not fit: the page then shows the ids. */
  async read(runId: string, ids: Int32Array): Promise<string[] | undefined> {
    const tokenizer = this.#tokenizers.get(runId) ?? (await this.#load(runId));
    if (tokenizer === undefined) return undefined;
    try {
      return Array.from(ids, (id) => tokenizer.decode(Int32Array.of(id)));
    } catch {
      return undefined;
    }
  }

  async #load(runId: string): Promise<Tokenizer | undefined> {
    const { outDir } = await this.#store.getRun(runId);
    const checkpoints = await this.#store.readCheckpoints(runId);
    const folders = [join(outDir, "policy"), ...checkpoints.map((checkpoint) => checkpoint.path).reverse()];
    for (const folder of folders) {
      const path = join(folder, "tokenizer.json");
      try {
        const status = statSync(path, { throwIfNoEntry: false });
        if (!status?.isFile() || status.size > MAX_BYTES) continue;
        const tokenizer = parseTokenizer(readFileSync(path), path);
        if (this.#tokenizers.size >= KEPT) this.#tokenizers.clear();
        this.#tokenizers.set(runId, tokenizer);
        return tokenizer;
      } catch {
        // Half-written or foreign: the next folder may do.
      }
    }
    return undefined;
  }
}
