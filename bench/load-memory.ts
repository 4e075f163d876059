/** Resident memory of a process, step by step, and whether it grows. */

import { readFileSync } from "node:fs";
import { median } from "../src/cli/benches/bench.ts";

const INTERVAL_MS = 250;
const PAGE_BYTES = 4096;

/**
 * Looks at a process four times a second. Of each step it keeps the least: above that is what waits to be collected, which
 * goes up and down by a fifth.
 */
export class MemoryWatch implements Disposable {
  readonly #pid: number;
  readonly #timer: Timer;
  #least = Number.POSITIVE_INFINITY;

  constructor(pid: number) {
    this.#pid = pid;
    this.#timer = setInterval(() => this.#look(), INTERVAL_MS);
  }

  /** The least since the last call, in bytes; NaN where the process was not seen. */
  take(): number {
    this.#look();
    const least = this.#least;
    this.#least = Number.POSITIVE_INFINITY;
    return Number.isFinite(least) ? least : Number.NaN;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    try {
      const pages = Number(readFileSync(`/proc/${this.#pid}/statm`, "utf8").split(" ")[1]);
      if (pages > 0) this.#least = Math.min(this.#least, pages * PAGE_BYTES);
    } catch {
      // it has ended
    }
  }
}

export interface Growth {
  /** Median of the second half of the steps. */
  readonly median: number;
  /** What is added from the middle of the run to its end, by the median of the slopes between any two steps (Theil and Sen). */
  readonly added: number;
}

/**
 * Whether what a run keeps goes on growing: of its second half, as caches fill and the collector finds its pace in the first.
 * A single step that had much to hold does not move it.
 * @param leasts of each step, in order; those that are NaN do not count.
 */
export function growthOf(leasts: readonly number[]): Growth {
  const half = leasts.slice(Math.floor(leasts.length / 2)).filter((value) => !Number.isNaN(value));
  const slopes = half.flatMap((from, i) => half.slice(i + 1).map((to, k) => (to - from) / (k + 1)));
  return { median: median(half), added: slopes.length === 0 ? 0 : median(slopes) * (half.length - 1) };
}
