/**
 * Contexts on their way into the cache: requests wait here, first come, first served, until all but the last token of their
 * sequence is cached. What another sequence has computed under the same weights is copied, the rest is prefilled in chunks.
 */

import type { Publication } from "../../models/parameter-store.ts";
import type { HomeRow, HomeRows } from "./home-rows.ts";
import type { Prefiller } from "./prefiller.ts";
import type { Sequence } from "./sequence.ts";

/** What caching contexts has cost since the engine was made; tokens are cells of one sequence's cache. */
export interface ContextStats {
  prefillTokens: number;
  prefillMs: number;
  /** Part of `prefillTokens` that had been computed before and was lost: evicted, or made with weights that are gone. */
  reprefillTokens: number;
  /** Part of `prefillMs` in proportion to the tokens. */
  reprefillMs: number;
  /** Contexts that began with a copy of cells of another sequence, and their tokens. */
  copiedPrefixes: number;
  reusedTokens: number;
  reuseMs: number;
  /** Idle sequences that lost their cache to others, and their tokens. */
  evictions: number;
  evictedTokens: number;
  /** Tokens of closed sequences under the current weights that made room for others. */
  droppedTokens: number;
  /** Tokens thrown away at a turn boundary because newer weights were published. */
  outdatedTokens: number;
}

export function zeroContextStats(): ContextStats {
  return {
    prefillTokens: 0,
    prefillMs: 0,
    reprefillTokens: 0,
    reprefillMs: 0,
    copiedPrefixes: 0,
    reusedTokens: 0,
    reuseMs: 0,
    evictions: 0,
    evictedTokens: 0,
    droppedTokens: 0,
    outdatedTokens: 0,
  };
}

export class Contexts {
  readonly #homes: HomeRows;
  readonly #prefiller: Prefiller;
  readonly #stats: ContextStats;
  /** See `GenerationOptions.bitEqual`. */
  readonly #bitEqual: boolean;
  /** In the order of their requests. */
  readonly #waiting = new Set<Sequence>();
  /** A sequence waits for a row and all are in work. */
  #starved = false;

  constructor(homes: HomeRows, prefiller: Prefiller, stats: ContextStats, bitEqual: boolean) {
    this.#homes = homes;
    this.#prefiller = prefiller;
    this.#stats = stats;
    this.#bitEqual = bitEqual;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Claims a row; false when there is none. */
  house(sequence: Sequence, version: number, keep?: HomeRow): boolean {
    const claimed = this.#homes.claim(sequence, version, !this.#bitEqual, keep);
    if (claimed === undefined) return false;
    if (claimed.evicted !== undefined) this.#countEviction(claimed.evicted);
    this.#stats.droppedTokens += claimed.dropped?.cells ?? 0;
    sequence.home = claimed.row;
    return true;
  }

  /** Queues a sequence whose request has begun. */
  add(sequence: Sequence): void {
    // Who has a row goes to the end of the queue like everybody else, row and all, or the first might wait for ever.
    const { home } = sequence;
    if (this.#starved && home !== undefined && !this.#bitEqual) {
      this.#countEviction(sequence);
      this.#homes.release(home);
    }
    this.#waiting.add(sequence);
  }

  delete(sequence: Sequence): void {
    this.#waiting.delete(sequence);
  }

  /** Frees a closed sequence's row. */
  leave(sequence: Sequence): void {
    this.#waiting.delete(sequence);
    if (sequence.home !== undefined) this.#homes.release(sequence.home);
    sequence.home = undefined;
  }

  /** Throws a cache away that older weights wrote. */
  outdate(sequence: Sequence): void {
    this.#stats.outdatedTokens += sequence.cached;
    sequence.cached = 0;
  }

  /**
   * Serves waiting sequences in order until one chunk was computed. Returns the tokens computed, 0 when copies were all it
   * took, and the sequences that have their context now.
   */
  step({ slot, version }: Publication): { readonly computed: number; readonly ready: readonly Sequence[] } {
    const ready: Sequence[] = [];
    let computed = 0;
    this.#starved = false;
    for (const sequence of this.#waiting) {
      if (this.#starved && sequence.home === undefined) continue;
      if (sequence.cached === 0 && !this.#begin(sequence, version)) {
        this.#starved = true;
        continue;
      }
      if (!sequence.ready) {
        if (computed > 0) break;
        computed = this.#prefillChunk(sequence, slot, version);
        if (!sequence.ready) break;
      }
      this.#waiting.delete(sequence);
      ready.push(sequence);
    }
    return { computed, ready };
  }

  clear(): void {
    this.#waiting.clear();
  }

  /** Finds a row and what can be copied into it; false when there is no row. */
  #begin(sequence: Sequence, version: number): boolean {
    const started = performance.now();
    const match = this.#homes.findPrefix(sequence, version, this.#bitEqual);
    if (sequence.home === undefined && !this.house(sequence, version, match?.row)) return false;
    const { home } = sequence;
    if (match === undefined || home === undefined) return true;
    this.#homes.touch(match.row);
    if (match.row !== home) home.block.copyCells(0, match.row.block, 0, 0, match.cells);
    sequence.cacheCells(0, match.cells, version);
    this.#stats.copiedPrefixes++;
    this.#stats.reusedTokens += match.cells;
    this.#stats.reuseMs += performance.now() - started;
    return true;
  }

  /** The first context is computed on its own, so that its cells are the same whatever follows it. */
  #prefillChunk(sequence: Sequence, slot: Publication["slot"], version: number): number {
    const { home, cached, sharedCells, tokens, computedCells } = sequence;
    if (home === undefined) return 0;
    const started = performance.now();
    const end = cached < sharedCells ? sharedCells : sequence.length - 1;
    const taken = this.#prefiller.run(home.block, slot, tokens, cached, end);
    sequence.cacheCells(cached, cached + taken, version);
    this.#homes.touch(home);
    const ms = performance.now() - started;
    const again = Math.max(0, Math.min(cached + taken, computedCells) - cached);
    this.#stats.prefillTokens += taken;
    this.#stats.prefillMs += ms;
    this.#stats.reprefillTokens += again;
    this.#stats.reprefillMs += (ms * again) / taken;
    return taken;
  }

  #countEviction(sequence: Sequence): void {
    this.#stats.evictions++;
    this.#stats.evictedTokens += sequence.cached;
    sequence.home = undefined;
    sequence.cached = 0;
  }
}
