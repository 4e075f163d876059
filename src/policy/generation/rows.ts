/** Rows of decode blocks: who owns them, and which first contexts their caches still hold for others to copy. */

import { AleError } from "../../core/errors.ts";
import type { DecodeBlock } from "./decoder.ts";
import type { Sequence } from "./sequence.ts";

/** Cells at the start of a row's cache that hold a whole first context under one weight version. */
export interface SharedPrefix {
  readonly key: string;
  readonly version: number;
  readonly cells: number;
}

export interface Row {
  readonly block: Block;
  /** Row within the block. */
  readonly index: number;
  sequence: Sequence | undefined;
  prefix: SharedPrefix | undefined;
}

export class Block {
  readonly index: number;
  readonly decode: DecodeBlock;
  readonly rows: readonly Row[];
  /** Decode steps of other blocks since this one last ran, while it had rows to run. */
  waited = 0;

  constructor(index: number, decode: DecodeBlock) {
    this.index = index;
    this.decode = decode;
    this.rows = Array.from({ length: decode.cache.rows }, (_, row) => ({
      block: this,
      index: row,
      sequence: undefined,
      prefix: undefined,
    }));
  }

  /** Rows whose next step samples. */
  get readyRows(): number {
    let count = 0;
    for (const { sequence } of this.rows) if (sequence?.ready) count++;
    return count;
  }
}

/** Blocks are made when rows run out, up to `maxBlocks`. */
export class RowPool {
  readonly blocks: Block[] = [];
  readonly #maxBlocks: number;
  readonly #makeBlock: () => DecodeBlock;
  /** The row that last held a first context, by its key. */
  readonly #prefixes = new Map<string, Row>();

  constructor(maxBlocks: number, makeBlock: () => DecodeBlock) {
    this.#maxBlocks = maxBlocks;
    this.#makeBlock = makeBlock;
  }

  /**
   * A row without owner in the first block that has one, so that few blocks run, and run full; one whose cache is of no
   * use to others, if there is a choice.
   * @param reserve may open one block more than others, so that probes work while every row is taken.
   * @throws AleError("engine") when none is free.
   */
  claim(reserve: boolean): Row {
    for (const block of this.blocks) {
      if (block.index >= this.#maxBlocks && !reserve) break;
      const free = block.rows.filter(({ sequence }) => sequence === undefined);
      const row = free.find(({ prefix }) => prefix === undefined) ?? free[0];
      if (row !== undefined) return row;
    }
    if (this.blocks.length < this.#maxBlocks + (reserve ? 1 : 0)) {
      const block = new Block(this.blocks.length, this.#makeBlock());
      this.blocks.push(block);
      return block.rows[0] as Row;
    }
    const rows = this.#maxBlocks * (this.blocks[0]?.rows.length ?? 0);
    throw new AleError("engine", `all ${rows} generation rows are taken by open sequences`, {
      hint: "close finished sequences, or allow fewer episodes at once",
    });
  }

  /** Gives a row back. Its first context stays available for copying until the row is claimed and written again. */
  release(row: Row): void {
    const { sequence, prefix } = row;
    if (prefix !== undefined && sequence !== undefined && sequence.cached < prefix.cells) this.forget(row);
    row.sequence = undefined;
  }

  /** Notes that a row now holds a first context. */
  remember(row: Row, prefix: SharedPrefix): void {
    this.forget(row);
    row.prefix = prefix;
    this.#prefixes.set(prefix.key, row);
  }

  /** To be called before the start of a row's cache is overwritten. */
  forget(row: Row): void {
    if (row.prefix !== undefined && this.#prefixes.get(row.prefix.key) === row) this.#prefixes.delete(row.prefix.key);
    row.prefix = undefined;
  }

  /** A row that holds the first context `key` as computed under `version`. */
  find(key: string, version: number): Row | undefined {
    const row = this.#prefixes.get(key);
    return row?.prefix?.version === version ? row : undefined;
  }

  /** Forgets all shared contexts. */
  forgetAll(): void {
    for (const row of [...this.#prefixes.values()]) this.forget(row);
    this.#prefixes.clear();
  }

  dispose(): void {
    for (const block of this.blocks) block.decode.release();
    this.blocks.length = 0;
    this.#prefixes.clear();
  }
}

/** Cell a row that does not sample may be given padding in: the first one that nobody reads. */
export function freeCell(row: Row): number {
  return row.sequence?.cached ?? row.prefix?.cells ?? 0;
}
