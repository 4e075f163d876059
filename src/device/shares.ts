/** How work is cut among the engines of a pool; a function of its arguments alone, so that all engines cut alike. */

import type { Stretch } from "../trainer/store-optimizer.ts";

/** Floats in a cache line: two engines never write to the same one. */
const LINE = 16;

/**
 * Shares out sequences so that all engines get about as many tokens: the longest first, each to whoever has least.
 * @returns per engine the indices of its sequences, in order. Graham 1969, https://doi.org/10.1137/0117039.
 */
export function cutByTokens(lengths: readonly number[], engines: number): readonly number[][] {
  const order = [...lengths.keys()].sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b);
  const shares = Array.from({ length: engines }, () => ({ tokens: 0, members: [] as number[] }));
  for (const index of order) {
    const least = shares.reduce((best, share) => (share.tokens < best.tokens ? share : best));
    least.tokens += lengths[index] as number;
    least.members.push(index);
  }
  return shares.map(({ members }) => members.sort((a, b) => a - b));
}

/** The stretch of a flat array of `length` elements that engine `rank` owns. */
export function ownStretch(length: number, rank: number, engines: number): Stretch {
  const lines = Math.ceil(length / LINE);
  const cut = (n: number) => Math.min(length, Math.floor((lines * n) / engines) * LINE);
  return { begin: cut(rank), end: cut(rank + 1) };
}
