/** Where caches live between answers: one row per open sequence, and what equal first contexts may be copied from. */

import { AleError } from "../../core/errors.ts";
import type { KvBlock } from "./kv-block.ts";

/** Cells at the start of a row's cache that hold a whole first context under one weight version. */
export interface SharedPrefix {
  readonly key: string;
  readonly version: number;
  readonly cells: number;
}

export interface HomeRow {
  readonly block: KvBlock;
  /** Row within the block. */
  readonly row: number;
  /** Belongs to an open sequence. */
  taken: boolean;
  prefix: SharedPrefix | undefined;
}

/** Home rows are made a block at a time, when there is none left, up to `maxBlocks` blocks. */
export class HomeRows {
  readonly #maxBlocks: number;
  readonly #rowsPerBlock: number;
  readonly #makeBlock: (rows: number) => KvBlock;
  readonly #blocks: KvBlock[] = [];
  readonly #rows: HomeRow[] = [];
  /** The row that last held a first context, by its key. */
  readonly #prefixes = new Map<string, HomeRow>();

  constructor(maxBlocks: number, rowsPerBlock: number, makeBlock: (rows: number) => KvBlock) {
    this.#maxBlocks = maxBlocks;
    this.#rowsPerBlock = rowsPerBlock;
    this.#makeBlock = makeBlock;
  }

  /**
   * The first free row; one whose cache is of no use to others, if there is a choice without more memory.
   * @param reserve may use one block more than others, so that probes work while every row is taken.
   * @throws AleError("engine") when none is free.
   */
  claim(reserve: boolean): HomeRow {
    const blocks = this.#maxBlocks + (reserve ? 1 : 0);
    const free = this.#rows.slice(0, blocks * this.#rowsPerBlock).filter(({ taken }) => !taken);
    const row = free.find(({ prefix }) => prefix === undefined) ?? free[0] ?? this.#grow(blocks);
    this.forget(row);
    row.taken = true;
    return row;
  }

  /** Gives a row back. Its first context stays available for copying until the row is claimed again. */
  release(row: HomeRow): void {
    row.taken = false;
  }

  /** Notes that a row now holds a first context. */
  remember(row: HomeRow, prefix: SharedPrefix): void {
    this.forget(row);
    row.prefix = prefix;
    this.#prefixes.set(prefix.key, row);
  }

  /** To be called before the start of a row's cache is overwritten. */
  forget(row: HomeRow): void {
    if (row.prefix !== undefined && this.#prefixes.get(row.prefix.key) === row) this.#prefixes.delete(row.prefix.key);
    row.prefix = undefined;
  }

  /** A row that holds the first context `key` as computed under `version`. */
  find(key: string, version: number): HomeRow | undefined {
    const row = this.#prefixes.get(key);
    return row?.prefix?.version === version ? row : undefined;
  }

  /** Forgets all shared contexts. */
  forgetAll(): void {
    for (const row of this.#rows) row.prefix = undefined;
    this.#prefixes.clear();
  }

  dispose(): void {
    for (const block of this.#blocks) block.release();
    this.#blocks.length = 0;
    this.#rows.length = 0;
    this.#prefixes.clear();
  }

  #grow(maxBlocks: number): HomeRow {
    if (this.#blocks.length >= maxBlocks) {
      throw new AleError(
        "engine",
        `all ${this.#maxBlocks * this.#rowsPerBlock} generation rows are taken by open sequences`,
        {
          hint: "close finished sequences, or allow fewer episodes at once",
        },
      );
    }
    const block = this.#makeBlock(this.#rowsPerBlock);
    const rows = Array.from({ length: this.#rowsPerBlock }, (_, row) => ({
      block,
      row,
      taken: false,
      prefix: undefined,
    }));
    this.#blocks.push(block);
    this.#rows.push(...rows);
    return rows[0] as HomeRow;
  }
}
