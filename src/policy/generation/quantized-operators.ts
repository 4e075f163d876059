/**
 * How operators over quantised weights take a matrix. Products are Ale's own BlockProduct where the processor has what it needs
 * (`runtime/block-products.ts`), over packed constants, and else MatMulNBits over the codes, which it repacks when the session is
 * made. GatherBlockQuantized reads the codes as a graph input.
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/docs/ContribOperators.md
 */

import type { DecoderConfig } from "../../models/config.ts";
import { EMBEDDING } from "../../models/parameters.ts";
import { blockBytes, blocksOf, type QuantizedMatrix, SCHEMES } from "../../models/quantization.ts";
import type { QuantizedBase } from "../../models/quantized-base.ts";
import { MICROSOFT, type NodeOptions, type OnnxBuilder } from "../../onnx/builder.ts";
import { type Attributes, OWN_OPERATORS } from "../../onnx/model.ts";
import {
  type BlockProducts,
  type BlockShape,
  blockAttributes,
  blockProducts,
  type Instructions,
} from "../../runtime/block-products.ts";
import { allocateLargePages } from "../../runtime/memory.ts";
import { float32Value, Value } from "../../runtime/value.ts";

/**
 * Activations are rounded to int8 in the blocks of the weights and products summed in whole numbers. Exact float32 activations (level 1)
 * are 3 to 4 times slower and, with 8 bits, have no kernel at all; see docs/adr/0012-quantised-base.md.
 */
const ACCURACY_LEVEL = 4;

/** Names of a matrix's constants in a graph. */
function constantNames(matrix: string): { readonly codes: string; readonly scales: string; readonly packed: string } {
  return { codes: `${matrix} (codes)`, scales: `${matrix} (scales)`, packed: `${matrix} (packed)` };
}

/** Names of the graph inputs that hold the embedding table. */
export const EMBEDDING_TABLE = { codes: "embedding (codes)", scales: "embedding (scales)" } as const;

interface OperandShapes {
  readonly codesShape: readonly number[];
  readonly scalesShape: readonly number[];
}

/** As operands of MatMulNBits. */
function productShapes({ rows, columns, scheme }: QuantizedMatrix): OperandShapes {
  const blocks = blocksOf(scheme, columns);
  return { codesShape: [rows, blocks, blockBytes(scheme)], scalesShape: [rows * blocks] };
}

function shapeOf({ rows, columns, scheme }: QuantizedMatrix): BlockShape {
  const { bits, block } = SCHEMES[scheme];
  return { rows, columns, bits, block };
}

function productAttributes({ rows, columns, scheme }: QuantizedMatrix): Attributes {
  const { bits, block } = SCHEMES[scheme];
  return {
    K: { int: columns },
    N: { int: rows },
    bits: { int: bits },
    block_size: { int: block },
    accuracy_level: { int: ACCURACY_LEVEL },
  };
}

/** Ale's own products, if they can do matrices of this form. */
function ownProducts(shape: Pick<BlockShape, "bits">): BlockProducts | undefined {
  const own = blockProducts();
  return own?.instructionsFor(shape) === undefined ? undefined : own;
}

/**
 * x Wᵀ (+ bias) as a node of `graph`.
 * @param key the matrix's in `QuantizedBase.matrices`.
 */
export function emitProduct(
  graph: OnnxBuilder,
  x: string,
  key: string,
  matrix: QuantizedMatrix,
  { bias, ...options }: Pick<NodeOptions, "outputs"> & { readonly bias?: string | undefined },
): string {
  const names = constantNames(key);
  const shape = shapeOf(matrix);
  const own = ownProducts(shape);
  if (own !== undefined) {
    const packed = graph.externalConstant("uint8", [own.packedBytes(shape)], names.packed);
    const inputs = [x, packed, ...(bias === undefined ? [] : [bias])];
    const attributes = blockAttributes(shape, own.instructionsFor(shape) as Instructions);
    return graph.node("BlockProduct", inputs, { domain: OWN_OPERATORS, attributes, ...options });
  }
  const { codesShape, scalesShape } = productShapes(matrix);
  const inputs = [
    x,
    graph.externalConstant("uint8", codesShape, names.codes),
    graph.externalConstant("float32", scalesShape, names.scales),
    ...(bias === undefined ? [] : ["", "", bias]),
  ];
  const attributes = productAttributes(matrix);
  return graph.node("MatMulNBits", inputs, { domain: MICROSOFT, attributes, ...options });
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

/** The constants of a graph over `base`, by name: all matrices but an embedding table that is not the head too. */
export function quantizedConstants(config: DecoderConfig, base: QuantizedBase): Readonly<Record<string, Value>> {
  const multiplied = [...base.matrices].filter(([key]) => key !== EMBEDDING || config.tiedEmbeddings);
  const own = ownProducts(SCHEMES[base.scheme]);
  if (own !== undefined) return packedConstants(multiplied, own);
  const values: Record<string, Value> = {};
  for (const [key, matrix] of multiplied) {
    const names = constantNames(key);
    const { codesShape, scalesShape } = productShapes(matrix);
    values[names.codes] = new Value("uint8", codesShape, matrix.codes);
    values[names.scales] = float32Value(matrix.scales, scalesShape);
  }
  return values;
}

/** All in one stretch of memory. */
function packedConstants(
  multiplied: readonly (readonly [key: string, matrix: QuantizedMatrix])[],
  own: BlockProducts,
): Readonly<Record<string, Value>> {
  const matrices = multiplied.map(([key, matrix]) => ({ key, matrix, shape: shapeOf(matrix) }));
  const all = allocateLargePages(matrices.reduce((sum, { shape }) => sum + own.packedBytes(shape), 0));
  let begin = 0;
  const values = matrices.map(({ key, matrix, shape }) => {
    const packed = all.subarray(begin, begin + own.packedBytes(shape));
    begin += packed.length;
    own.pack(shape, matrix.codes, matrix.scales, packed);
    return [constantNames(key).packed, new Value("uint8", [packed.length], packed)] as const;
  });
  return Object.fromEntries(values);
}

/** What sessions over quantised weights need besides. */
export function productOperators(): number | undefined {
  return blockProducts()?.domain;
}

/** The embedding table as graph inputs. */
export function embeddingTable(matrix: QuantizedMatrix): Readonly<Record<string, Value>> {
  const { codesShape, scalesShape } = tableShapes(matrix);
  return {
    [EMBEDDING_TABLE.codes]: new Value("uint8", codesShape, matrix.codes),
    [EMBEDDING_TABLE.scales]: float32Value(matrix.scales, scalesShape),
  };
}
