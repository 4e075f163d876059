/**
 * From turns to chunks: which tokens the policy wrote, and in which turn.
 *
 * Chunked MDP of IPA, arXiv 2512.24873, section 3.2.4. Ours differs from ROLL's segments, which are runs of the (already
 * filtered) response mask: chunks are cut once, from the turns, so that neither a filter nor two turns without an
 * observation between them can split or merge one.
 */

import type { Numbers } from "./levels.ts";

/** One message of a conversation, as a number of tokens. */
export interface TurnLength {
  /** Only `assistant` is model output. */
  readonly role: string;
  readonly tokens: number;
}

export interface Segmentation {
  readonly mask_T: Uint8Array;
  /** Chunk of each token, −1 where `mask_T` is 0; dense, in order. */
  readonly turnIds_T: Int32Array;
  /** Half-open token ranges of the chunks. */
  readonly spans: readonly (readonly [begin: number, end: number])[];
  /** Chunk of each turn; `null` for a turn that has none. */
  readonly chunkOfTurn: readonly (number | null)[];
}

/**
 * Every assistant turn that keeps at least one token is one chunk. With `maxLength` the tokens after it are cut off, and a
 * turn that is cut to nothing makes no chunk.
 */
export function segmentTurns(turns: readonly TurnLength[], maxLength = Number.POSITIVE_INFINITY): Segmentation {
  const mask: number[] = [];
  const ids: number[] = [];
  const spans: [number, number][] = [];
  const chunkOfTurn = turns.map(({ role, tokens }) => {
    const begin = mask.length;
    const length = Math.max(0, Math.min(tokens, maxLength - begin));
    const isChunk = role === "assistant" && length > 0;
    const id = isChunk ? spans.length : -1;
    for (let t = 0; t < length; t++) {
      mask.push(isChunk ? 1 : 0);
      ids.push(id);
    }
    if (!isChunk) return null;
    spans.push([begin, begin + length]);
    return id;
  });
  return { mask_T: Uint8Array.from(mask), turnIds_T: Int32Array.from(ids), spans, chunkOfTurn };
}

/** Number of chunks of a sequence whose ids are dense. */
export function countChunks(turnIds_T: Numbers): number {
  let last = -1;
  for (let t = 0; t < turnIds_T.length; t++) last = Math.max(last, turnIds_T[t] as number);
  return last + 1;
}

/** The same chunks numbered 0, 1, 2, … in order of appearance: a turn without tokens leaves no gap. */
export function denseTurnIds(turnIds_T: Numbers): Int32Array {
  const dense = new Map<number, number>();
  return Int32Array.from(turnIds_T, (id) => {
    if (id < 0) return -1;
    if (!dense.has(id)) dense.set(id, dense.size);
    return dense.get(id) as number;
  });
}

/** Number of each maximal run of ones, −1 elsewhere: what ROLL calls segments, to compare with. */
export function maskRuns(mask_T: Numbers): Int32Array {
  let run = -1;
  return Int32Array.from(mask_T, (bit, t) => {
    if (bit === 1 && (t === 0 || mask_T[t - 1] !== 1)) run++;
    return bit === 1 ? run : -1;
  });
}
