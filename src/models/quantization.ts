/**
 * Block-wise quantisation of weight matrices, in the layout that ONNX Runtime's MatMulNBits and GatherBlockQuantized take.
 * Each row is cut into blocks of neighbours with one float32 scale; a weight is stored as a whole number of scales.
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/docs/ContribOperators.md#com.microsoft.MatMulNBits
 *
 * All schemes put zero into the middle of the code range and give the largest weight of a block a code of its own, which
 * makes quantisation idempotent: quantising the values that `dequantizeRows` gives returns the same codes and scales. So weights
 * that came from a Q4_0 or Q8_0 file, or that were quantised once before, lose nothing more.
 */

import { AleError } from "../core/errors.ts";
import type { Quantization } from "../core/quantization.ts";
import { allocateBytes, allocateFloat32 } from "../runtime/memory.ts";

/**
 * - `int8`: scale = max |w| / 127, codes −127 … 127. Without −128 no sum of two products of codes overflows the 16 bits in
 *   which processors without VNNI add them. As Q8_0 of llama.cpp.
 * - `int4`: scale = (the w of largest magnitude) / −8, codes −8 … 7. As Q4_0 of llama.cpp.
 * - `int4-128`: as `int4`, with a scale for 128 weights: less to read and to multiply, and less exact.
 *
 * https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c
 */
export type QuantizationScheme = Exclude<Quantization, "none">;

interface SchemeConstants {
  readonly bits: 4 | 8;
  /** Weights that share a scale. */
  readonly block: number;
  /** What is added to a code to store it without a sign; the operators assume it where no zero points are given. */
  readonly offset: number;
}

export const SCHEMES: Readonly<Record<QuantizationScheme, SchemeConstants>> = {
  int8: { bits: 8, block: 32, offset: 128 },
  int4: { bits: 4, block: 32, offset: 8 },
  "int4-128": { bits: 4, block: 128, offset: 8 },
};

export interface QuantizedMatrix {
  readonly scheme: QuantizationScheme;
  readonly rows: number;
  readonly columns: number;
  /** [rows, blocks, block · bits / 8], codes plus `offset`; with 4 bits the even element is the low half of a byte. */
  readonly codes: Uint8Array<ArrayBuffer>;
  /** [rows, blocks]. */
  readonly scales: Float32Array<ArrayBuffer>;
}

/** Blocks of a row; the last one is padded with zeros. */
export function blocksOf(scheme: QuantizationScheme, columns: number): number {
  return Math.ceil(columns / SCHEMES[scheme].block);
}

/** Bytes of a block of codes. */
export function blockBytes(scheme: QuantizationScheme): number {
  const { block, bits } = SCHEMES[scheme];
  return (block * bits) / 8;
}

/** A matrix of zeros, to be filled by `quantizeRows`. */
export function emptyMatrix(scheme: QuantizationScheme, rows: number, columns: number): QuantizedMatrix {
  const blocks = rows * blocksOf(scheme, columns);
  return {
    scheme,
    rows,
    columns,
    codes: allocateBytes(blocks * blockBytes(scheme)),
    scales: allocateFloat32(blocks),
  };
}

/**
 * Quantises `weights`, whole rows in row-major order, into `matrix` from row `firstRow` on.
 * @throws AleError("model") when a weight is not finite.
 */
export function quantizeRows(matrix: QuantizedMatrix, weights: Float32Array, firstRow = 0): void {
  const { columns, scheme, codes, scales } = matrix;
  const bytes = blockBytes(scheme);
  const { bits, block: size } = SCHEMES[scheme];
  const quantizeBlock = bits === 4 ? quantizeBlock4 : quantizeBlock8;
  const padded = new Float32Array(size);
  let block = firstRow * blocksOf(scheme, columns);
  for (let start = 0; start < weights.length; start += columns) {
    const end = start + columns;
    let at = start;
    for (; at + size <= end; at += size, block++) {
      scales[block] = quantizeBlock(weights, at, size, codes, block * bytes);
    }
    if (at < end) {
      padded.fill(0);
      padded.set(weights.subarray(at, end));
      scales[block] = quantizeBlock(padded, 0, size, codes, block * bytes);
      block++;
    }
  }
}

/** Writes the float32 values that whole rows of the matrix stand for, from row `firstRow` on, to `target`. */
export function dequantizeRows(matrix: QuantizedMatrix, target: Float32Array, firstRow = 0): void {
  const { columns, scheme, codes, scales } = matrix;
  const { bits, block: size, offset } = SCHEMES[scheme];
  const bytes = blockBytes(scheme);
  let block = firstRow * blocksOf(scheme, columns);
  for (let start = 0; start < target.length; start += columns) {
    const end = start + columns;
    for (let at = start; at < end; at += size, block++) {
      const scale = scales[block] as number;
      const count = Math.min(size, end - at);
      for (let i = 0; i < count; i++) {
        const code =
          bits === 8
            ? (codes[block * bytes + i] as number)
            : ((codes[block * bytes + (i >> 1)] as number) >> ((i & 1) << 2)) & 15;
        target[at + i] = scale * (code - offset);
      }
    }
  }
}

/** A block whose weights are all smaller counts as zeros: its scale would be too small for float32's full precision. */
const SMALLEST = 2 ** -116;

/** The weight of largest magnitude among the `size` from `at` on. Called for every block of a model: kept free of calls. */
function largestOf(weights: Float32Array, at: number, size: number): number {
  let largest = 0;
  let magnitude = 0;
  for (let i = at; i < at + size; i++) {
    const weight = weights[i] as number;
    const absolute = weight < 0 ? -weight : weight;
    if (!(absolute <= magnitude)) {
      if (!(absolute < Number.POSITIVE_INFINITY)) throw notFinite(); // NaN comes here too.
      magnitude = absolute;
      largest = weight;
    }
  }
  return magnitude < SMALLEST ? 0 : largest;
}

function notFinite(): AleError {
  return new AleError("model", "weights that are not finite cannot be quantised", {
    hint: "the weights hold NaN or infinity: take another checkpoint",
  });
}

/** Writes the codes of `size` weights and returns their scale. Adding offset + ½ before cutting off rounds to nearest. */
function quantizeBlock4(weights: Float32Array, at: number, size: number, codes: Uint8Array, to: number): number {
  const largest = largestOf(weights, at, size);
  const scale = largest === 0 ? 0 : Math.fround(largest / -8);
  const inverse = scale === 0 ? 0 : 1 / scale;
  for (let i = 0; i < size / 2; i++) {
    const low = ((weights[at + 2 * i] as number) * inverse + 8.5) | 0;
    const high = ((weights[at + 2 * i + 1] as number) * inverse + 8.5) | 0;
    codes[to + i] = Math.min(low, 15) | (Math.min(high, 15) << 4);
  }
  return scale;
}

function quantizeBlock8(weights: Float32Array, at: number, size: number, codes: Uint8Array, to: number): number {
  const scale = Math.fround(Math.abs(largestOf(weights, at, size)) / 127);
  const inverse = scale === 0 ? 0 : 1 / scale;
  for (let i = 0; i < size; i++) codes[to + i] = ((weights[at + i] as number) * inverse + 128.5) | 0;
  return scale;
}
