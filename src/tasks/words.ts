/**
 * Content of task instances: pseudo-words and numbers from pools that differ per split, so that what a policy is measured
 * on was never in what it trained on.
 *
 * A word or number belongs to the split that its CRC-32 modulo 8 falls to: 0–5 train, 6 dev, 7 heldout.
 */

import { AleError } from "../core/errors.ts";
import type { Rng } from "../core/rng.ts";
import type { Split } from "../core/types.ts";

const CONSONANTS = "bdfgklmnprstvz";
const VOWELS = "aeiou";
const FINALS = "nrsl";
const SYLLABLES = CONSONANTS.length * VOWELS.length;
const BUCKETS = 8;
const MAX_TRIES = 20_000;
/** Ranges up to this size are searched exhaustively when chance finds nothing. */
const MAX_SCAN = 100_000;

/** Which split a content word or number belongs to. */
export function splitOf(content: string): Split {
  const bucket = Bun.hash.crc32(content) % BUCKETS;
  return bucket === 7 ? "heldout" : bucket === 6 ? "dev" : "train";
}

/** Draws the content of one instance. No two of its words contain each other, so that `grep` finds one of them alone. */
export class ContentPool {
  readonly #split: Split;
  readonly #rng: Rng;
  readonly #used: string[] = [];

  constructor(split: Split, rng: Rng) {
    this.#split = split;
    this.#rng = rng;
  }

  /** A pronounceable word of `syllables` syllables; by default two (60 %, of which 30 % end in n, r, s or l) or three. */
  word(syllables?: number): string {
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const word = this.#spell(syllables);
      if (splitOf(word) !== this.#split) continue;
      if (this.#used.some((other) => other.includes(word) || word.includes(other))) continue;
      this.#used.push(word);
      return word;
    }
    throw new AleError(
      "task",
      `no unused word of ${syllables ?? "two or three"} syllables is left in split ${this.#split}`,
      {
        hint: "ask for fewer words per instance or for more syllables",
      },
    );
  }

  /** An integer of this split in [min, max]; numbers may repeat within an instance. */
  number(min: number, max: number): number {
    for (let tries = 0; tries < MAX_TRIES / 20; tries++) {
      const number = this.#rng.int(min, max);
      if (splitOf(String(number)) === this.#split) return number;
    }
    const all = Array.from({ length: Math.min(MAX_SCAN, max - min + 1) }, (_, i) => min + i);
    const own = all.filter((number) => splitOf(String(number)) === this.#split);
    if (own.length > 0) return this.#rng.pick(own);
    throw new AleError("task", `no number between ${min} and ${max} belongs to split ${this.#split}`, {
      hint: "widen the range: one number in eight belongs to dev and one in eight to heldout",
    });
  }

  #spell(wanted: number | undefined): string {
    const rng = this.#rng;
    const syllables = wanted ?? (rng.next() < 0.6 ? 2 : 3);
    // one draw per word: its digits in base 70 are the syllables
    let code = Math.floor(rng.next() * SYLLABLES ** syllables);
    let word = "";
    for (let i = 0; i < syllables; i++) {
      const syllable = code % SYLLABLES;
      code = (code - syllable) / SYLLABLES;
      word += `${CONSONANTS[Math.floor(syllable / VOWELS.length)]}${VOWELS[syllable % VOWELS.length]}`;
    }
    if (wanted !== undefined || syllables !== 2) return word;
    const ending = rng.next() / 0.3;
    return ending < 1 ? word + FINALS[Math.floor(ending * FINALS.length)] : word;
  }
}
