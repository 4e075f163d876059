/**
 * How ONNX Runtime's operators over quantised weights take a matrix. Both read the same memory: MatMulNBits as a constant,
 * which it repacks when the session is made, GatherBlockQuantized as a graph input.
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/docs/ContribOperators.md
 */

import { blockBytes, blocksOf, type QuantizedMatrix, SCHEMES } from "../../models/quantization.ts";
import type { QuantizedBase } from "../../models/quantized-base.ts";
import type { Attributes } from "../../onnx/model.ts";
import { float32Value, Value } from "../../runtime/value.ts";

/**
 * Activations are rounded to int8 in the blocks of the weights and products summed in whole numbers. Exact float32 activations (level 1)
 * are 3 to 4 times slower and, with 8 bits, have no kernel at all; see docs/adr/0012-quantised-base.md.
 */
const ACCURACY_LEVEL = 4;

/** Names of a matrix's constants in a graph. */
export function constantNames(matrix: string): { readonly codes: string; readonly scales: string } {
  return { codes: `${matrix} (codes)`, scales: `${matrix} (scales)` };
}

/** Names of the graph inputs that hold the embedding table. */
export const EMBEDDING_TABLE = { codes: "embedding (codes)", scales: "embedding (scales)" } as const;

interface OperandShapes {
  readonly codesShape: readonly number[];
  readonly scalesShape: readonly number[];
}

/** As operands of MatMulNBits. */
export function productShapes({ rows, columns, scheme }: QuantizedMatrix): OperandShapes {
  const blocks = blocksOf(scheme, columns);
  return { codesShape: [rows, blocks, blockBytes(scheme)], scalesShape: [rows * blocks] };
}

export function productAttributes({ rows, columns, scheme }: QuantizedMatrix): Attributes {
  return {
    K: { int: columns },
    N: { int: rows },
    bits: { int: SCHEMES[scheme].bits },
    block_size: { int: SCHEMES[scheme].block },
    accuracy_level: { int: ACCURACY_LEVEL },
  };
}

/** As operands of GatherBlockQuantized; `columns` is a multiple of the block. */
export function tableShapes({ rows, columns, scheme }: QuantizedMatrix): OperandShapes {
  const blocks = blocksOf(scheme, columns);
  return { codesShape: [rows, blocks * blockBytes(scheme)], scalesShape: [rows, blocks] };
}

export function tableAttributes({ scheme }: QuantizedMatrix): Attributes {
  return {
    bits: { int: SCHEMES[scheme].bits },
    block_size: { int: SCHEMES[scheme].block },
    gather_axis: { int: 0 },
    quantize_axis: { int: 1 },
  };
}

/** The constants of a graph over `base`, by name. */
export function quantizedConstants(base: QuantizedBase): Readonly<Record<string, Value>> {
  const values: Record<string, Value> = {};
  for (const [key, matrix] of base.matrices) {
    const names = constantNames(key);
    const { codesShape, scalesShape } = productShapes(matrix);
    values[names.codes] = new Value("uint8", codesShape, matrix.codes);
    values[names.scales] = float32Value(matrix.scales, scalesShape);
  }
  return values;
}

/** The embedding table as graph inputs. */
export function embeddingTable(matrix: QuantizedMatrix): Readonly<Record<string, Value>> {
  const { codesShape, scalesShape } = tableShapes(matrix);
  return {
    [EMBEDDING_TABLE.codes]: new Value("uint8", codesShape, matrix.codes),
    [EMBEDDING_TABLE.scales]: float32Value(matrix.scales, scalesShape),
  };
}
