/** Where caches live between answers: a bounded number of rows, of which the least recently used is given up first. */

import type { KvCache } from "./kv-block.ts";
import type { Sequence } from "./sequence.ts";

/** What the first `cells` cells of a row hold: keys and values of `tokens`, all computed under one weight version. */
export interface CachedPrefix {
  readonly tokens: Int32Array;
  readonly cells: number;
  readonly version: number;
  /** How many of them are all but the last token of a first context. */
  readonly sharedCells: number;
}

export interface HomeRow {
  /** A block of one row. */
  readonly block: KvCache;
  owner: Sequence | undefined;
  /** What the last owner left, as long as there is no other. */
  retained: CachedPrefix | undefined;
  lastUsed: number;
}

export interface PrefixMatch {
  readonly row: HomeRow;
  /** How many cells can be taken from it. */
  readonly cells: number;
}

/** A row for a new owner, and what was given up for it. */
export interface ClaimedRow {
  readonly row: HomeRow;
  /** An idle sequence that lost its cache. */
  readonly evicted: Sequence | undefined;
  /** What a closed sequence had left, if it was of the current version. */
  readonly dropped: CachedPrefix | undefined;
}

/** Fewer equal tokens than this are computed anew, unless they are all there is: the chunk costs the same. */
const FEWEST_REUSED = 16;

export class HomeRows {
  readonly #limit: number;
  readonly #reserve: number;
  readonly #makeBlock: () => KvCache;
  readonly #rows: HomeRow[] = [];
  #clock = 0;

  /**
   * @param limit rows for ordinary sequences, made when they are first needed.
   * @param reserve rows for probes beyond that, which are freed when they are released.
   */
  constructor(limit: number, reserve: number, makeBlock: () => KvCache) {
    this.#limit = limit;
    this.#reserve = reserve;
    this.#makeBlock = makeBlock;
  }

  get limit(): number {
    return this.#limit;
  }

  /**
   * A row for `owner`: one of no use under `version`, else a new one within the limit, else what a closed sequence left, else,
   * with `mayEvict`, that of an idle sequence. `undefined` when every row is in work. `keep` is taken only if there is no other.
   */
  claim(owner: Sequence, version: number, mayEvict: boolean, keep?: HomeRow): ClaimedRow | undefined {
    const byAge = this.#rows.toSorted((a, b) => a.lastUsed - b.lastUsed);
    const free = byAge.filter((row) => row.owner === undefined && row !== keep);
    const limit = this.#limit + (owner.isProbe ? this.#reserve : 0);
    const row =
      free.find(({ retained }) => retained?.version !== version) ??
      (this.#rows.length < limit ? this.#grow() : undefined) ??
      free[0] ??
      (keep?.owner === undefined ? keep : undefined) ??
      (mayEvict ? byAge.find((each) => each.owner?.isIdle) : undefined);
    if (row === undefined) return undefined;
    const evicted = row.owner;
    const dropped = row.retained?.version === version ? row.retained : undefined;
    row.owner = owner;
    row.retained = undefined;
    this.touch(row);
    return { row, evicted, dropped };
  }

  /** Takes a row back from its owner. What it holds stays available until the row is claimed again. */
  release(row: HomeRow): void {
    const { owner } = row;
    row.owner = undefined;
    this.touch(row);
    if (owner === undefined) return;
    if (owner.shares && !owner.isProbe) row.retained = owner.cachedPrefix();
    if (this.#rows.length > this.#limit) this.#free(row);
  }

  /** Marks a row as just used. */
  touch(row: HomeRow): void {
    row.lastUsed = ++this.#clock;
  }

  /**
   * The row that has the most cells a sequence can take over under `version`. With `whole` only first contexts equal to the
   * sequence's own count: cells of other origin differ from computed ones in the last bits.
   */
  findPrefix(sequence: Sequence, version: number, whole: boolean): PrefixMatch | undefined {
    const wanted = whole ? sequence.sharedCells : sequence.length - 1;
    if (!sequence.shares || wanted === 0) return undefined;
    let best: PrefixMatch | undefined;
    for (const row of this.#rows) {
      const prefix = row.owner === undefined ? row.retained : row.owner.cachedPrefix();
      if (prefix?.version !== version || row.owner?.shares === false || row.owner === sequence) continue;
      if (whole && (prefix.sharedCells !== wanted || prefix.cells < wanted)) continue;
      const cells = commonLength(prefix.tokens, sequence.tokens, Math.min(prefix.cells, wanted));
      if (cells > (best?.cells ?? 0)) best = { row, cells };
    }
    const enough = best !== undefined && (best.cells === wanted || (!whole && best.cells >= FEWEST_REUSED));
    return enough ? best : undefined;
  }

  dispose(): void {
    for (const { block } of this.#rows) block.release();
    this.#rows.length = 0;
  }

  #grow(): HomeRow {
    const row = { block: this.#makeBlock(), owner: undefined, retained: undefined, lastUsed: 0 };
    this.#rows.push(row);
    return row;
  }

  #free(row: HomeRow): void {
    this.#rows.splice(this.#rows.indexOf(row), 1);
    row.block.release();
  }
}

function commonLength(a: Int32Array, b: Int32Array, limit: number): number {
  let length = 0;
  while (length < limit && a[length] === b[length]) length++;
  return length;
}
