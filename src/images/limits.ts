/** What an archive may become, whatever it says of itself. */

import { AleError } from "../core/errors.ts";

export interface ImageLimits {
  /** Of all files together, holes included. */
  readonly bytes: number;
  /** Files, folders and links. */
  readonly entries: number;
}

export const DEFAULT_LIMITS: ImageLimits = { bytes: 32 * 2 ** 30, entries: 2_000_000 };

/** The longest path in an image, as the launcher takes it. */
export const MAX_PATH_BYTES = 1000;

/** Counts what an archive turns into. */
export class Allowance {
  readonly #limits: ImageLimits;
  #bytes = 0;
  #entries = 0;

  constructor(limits: ImageLimits) {
    this.#limits = limits;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get entries(): number {
    return this.#entries;
  }

  /** @throws AleError("usage") when it becomes too much. */
  take(bytes: number, entries = 0): void {
    this.#bytes += bytes;
    this.#entries += entries;
    if (this.#bytes > this.#limits.bytes) throw tooLarge(`more than ${this.#limits.bytes} bytes`, "--max-bytes");
    if (this.#entries > this.#limits.entries)
      throw tooLarge(`more than ${this.#limits.entries} files`, "--max-entries");
  }
}

function tooLarge(what: string, option: string): AleError {
  return new AleError("usage", `the archive holds ${what}`, {
    hint: `when it is not made to fill the disk, allow more: ${option} N`,
  });
}
