/**
 * Token arrays of an episode as one compressed block.
 *
 * Format 1: zstd over the little-endian arrays, one after the other: ids (int32), logprobs (float32), logprobsT1
 * (float32), versions (int32), turnIds (int32), mask (uint8); each has `count` elements, so 21 bytes per token. Format 0
 * is the same without compression, for blocks that would not shrink.
 */

import { AleError } from "../core/errors.ts";
import type { TokenRecord } from "../core/types.ts";

export interface PackedTokens {
  readonly format: number;
  readonly count: number;
  readonly data: Buffer;
}

const RAW = 0;
const ZSTD = 1;
const BYTES_PER_TOKEN = 21;
/** Below this size the frame costs more than it saves. */
const SMALL = 64;

/** Size of the uncompressed block of `count` tokens. */
export function plainBytes(count: number): number {
  return count * BYTES_PER_TOKEN;
}

/**
 * Writes the six arrays to `target` from `offset` on and returns where they end.
 * @throws AleError("store") when their lengths differ.
 */
export function layOutTokens(record: TokenRecord, target: Uint8Array, offset: number): number {
  const count = record.ids.length;
  const arrays = [record.ids, record.logprobs, record.logprobsT1, record.versions, record.turnIds, record.mask];
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
  if (format !== RAW && format !== ZSTD) {
    throw new AleError("store", `token block of unknown format ${format}`, {
      hint: "it was written by a newer version of ale: use that version",
    });
  }
  let bytes: Uint8Array;
  try {
    bytes = format === ZSTD ? Bun.zstdDecompressSync(packed.data) : packed.data;
  } catch (cause) {
    throw new AleError("store", "a token block is damaged", { hint: "restore the store from a copy", cause });
  }
  if (bytes.length !== count * BYTES_PER_TOKEN) {
    throw new AleError("store", `a token block has ${bytes.length} bytes, not ${count * BYTES_PER_TOKEN}`, {
      hint: "restore the store from a copy",
    });
  }
  // A copy of its own: `bytes` may begin anywhere in a larger buffer, and the arrays need alignment.
  const buffer = new Uint8Array(bytes).buffer;
  const at = (index: number) => index * 4 * count;
  return {
    ids: new Int32Array(buffer, at(0), count),
    logprobs: new Float32Array(buffer, at(1), count),
    logprobsT1: new Float32Array(buffer, at(2), count),
    versions: new Int32Array(buffer, at(3), count),
    turnIds: new Int32Array(buffer, at(4), count),
    mask: new Uint8Array(buffer, at(5), count),
  };
}
