/**
 * Token arrays of an episode as one compressed block.
 *
 * Format 3: zstd over the little-endian arrays, one after the other: ids (int32), logprobs (float32), logprobsT1
 * (float32), versions (int32), turnIds (int32), kvOldest (int32), mask (uint8); each has `count` elements, so 25 bytes per
 * token. Format 2 is the same without compression, for blocks that would not shrink. Formats 1 and 0 are those without
 * kvOldest, from before it was recorded: their caches were always computed by the weights that sampled.
 */

import { AleError } from "../core/errors.ts";
import type { TokenRecord } from "../core/types.ts";

export interface PackedTokens {
  readonly format: number;
  readonly count: number;
  readonly data: Buffer;
}

const RAW = 2;
const ZSTD = 3;
const RAW_WITHOUT_OLDEST = 0;
const ZSTD_WITHOUT_OLDEST = 1;
const BYTES_PER_TOKEN = 25;
const BYTES_PER_TOKEN_WITHOUT_OLDEST = 21;
/** Below this size the frame costs more than it saves. */
const SMALL = 64;

/** Size of the uncompressed block of `count` tokens. */
export function plainBytes(count: number): number {
  return count * BYTES_PER_TOKEN;
}

/**
 * Writes the seven arrays to `target` from `offset` on and returns where they end.
 * @throws AleError("store") when their lengths differ.
 */
export function layOutTokens(record: TokenRecord, target: Uint8Array, offset: number): number {
  const count = record.ids.length;
  const { ids, logprobs, logprobsT1, versions, turnIds, kvOldest, mask } = record;
  const arrays = [ids, logprobs, logprobsT1, versions, turnIds, kvOldest, mask];
  let end = offset;
  for (const array of arrays) {
    if (array.length !== count) {
      throw new AleError("store", `token arrays of different lengths: ${arrays.map((a) => a.length).join(", ")}`);
    }
    target.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), end);
    end += array.byteLength;
  }
  return end;
}

/** Compresses what `layOutTokens` wrote for `count` tokens. */
export function packTokens(plain: Uint8Array, count: number): PackedTokens {
  if (plain.length >= SMALL) {
    const packed = Bun.zstdCompressSync(plain, { level: 1 });
    if (packed.length < plain.length) return { format: ZSTD, count, data: packed };
  }
  return { format: RAW, count, data: Buffer.from(plain) };
}

/** The arrays again; throws `AleError("store")` when the block is not what its format says. */
export function unpackTokens(packed: PackedTokens): TokenRecord {
  const { format, count } = packed;
  if (format < RAW_WITHOUT_OLDEST || format > ZSTD) {
    throw new AleError("store", `token block of unknown format ${format}`, {
      hint: "it was written by a newer version of ale: use that version",
    });
  }
  let bytes: Uint8Array;
  try {
    bytes = format === ZSTD || format === ZSTD_WITHOUT_OLDEST ? Bun.zstdDecompressSync(packed.data) : packed.data;
  } catch (cause) {
    throw new AleError("store", "a token block is damaged", { hint: "restore the store from a copy", cause });
  }
  const hasOldest = format >= RAW;
  const expected = count * (hasOldest ? BYTES_PER_TOKEN : BYTES_PER_TOKEN_WITHOUT_OLDEST);
  if (bytes.length !== expected) {
    throw new AleError("store", `a token block has ${bytes.length} bytes, not ${expected}`, {
      hint: "restore the store from a copy",
    });
  }
  // A copy of its own: `bytes` may begin anywhere in a larger buffer, and the arrays need alignment.
  const buffer = new Uint8Array(bytes).buffer;
  const at = (index: number) => index * 4 * count;
  const versions = new Int32Array(buffer, at(3), count);
  return {
    ids: new Int32Array(buffer, at(0), count),
    logprobs: new Float32Array(buffer, at(1), count),
    logprobsT1: new Float32Array(buffer, at(2), count),
    versions,
    turnIds: new Int32Array(buffer, at(4), count),
    kvOldest: hasOldest ? new Int32Array(buffer, at(5), count) : versions,
    mask: new Uint8Array(buffer, at(hasOldest ? 6 : 5), count),
  };
}
