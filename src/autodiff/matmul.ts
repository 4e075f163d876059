/** Products of matrices. */

import { matrixBlocks } from "./bfloat16.ts";
import { type Graph, reshape, type Tensor, transpose } from "./graph.ts";

/**
 * y = x · Wᵀ (+ b) for x [N, in], W [out, in] and b [out], as Hugging Face stores them. All products (y, dx = dy · W,
 * dW = dyᵀ · x, db = 1ᵀ · dy) are single Gemms, which add gradients to what was there. W may be kept in bfloat16.
 */
export function linear(graph: Graph, x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const rows = x.shape[0] as number;
  const output = weight.shape[0] as number;
  const y = timesTransposed(graph, x, weight, bias);
  graph.record([y], ([gradient]) => {
    const g = gradient as Tensor;
    graph.accumulate(x, (soFar) => timesMatrix(graph, g, weight, soFar));
    graph.accumulate(weight, (soFar) => transposedProduct(graph, g, x, soFar));
    if (bias === undefined) return;
    graph.accumulate(bias, (soFar) => {
      const ones = graph.shared(`ones ${rows}`, () => graph.constant([1, rows], new Float64Array(rows).fill(1)));
      return reshape(graph, gemm(graph, ones, g, [1, output], {}, soFar), bias.shape);
    });
  });
  return y;
}

/** x · Wᵀ (+ b) for W [out, in], which may be kept in bfloat16; no backward rule. */
export function timesTransposed(graph: Graph, x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const rows = x.shape[0] as number;
  const blocks = matrixBlocks(graph, weight);
  const whole = blocks.length === 1;
  const parts = blocks.map(({ first, last, values }) => {
    const operands = [x, values, ...(bias === undefined || !whole ? [] : [bias])];
    return graph.apply("Gemm", operands, [rows, last - first + 1], { attributes: { transB: { int: 1 } } });
  });
  if (whole) return parts[0] as Tensor;
  const shape = [rows, weight.shape[0] as number];
  const y = graph.apply("Concat", parts, shape, { attributes: { axis: { int: 1 } } });
  return bias === undefined ? y : graph.apply("Add", [y, bias], shape);
}

/** g · W (+ `addend`) for W [out, in], which may be kept in bfloat16; no backward rule. */
export function timesMatrix(graph: Graph, g: Tensor, weight: Tensor, addend?: Tensor): Tensor {
  const rows = g.shape[0] as number;
  const shape = [rows, weight.shape[1] as number];
  const blocks = matrixBlocks(graph, weight);
  return blocks.reduce<Tensor | undefined>((soFar, { first, last, values }) => {
    const bounds = [[first], [last + 1], [1]].map((numbers) => graph.integers(numbers));
    const columns = blocks.length === 1 ? g : graph.apply("Slice", [g, ...bounds], [rows, last - first + 1]);
    return gemm(graph, columns, values, shape, {}, soFar);
  }, addend) as Tensor;
}

/**
 * Columns of b from which on `transposedProduct` transposes `a` itself. ONNX Runtime's library does it once per 128 columns
 * (MLAS_SGEMM_STRIDEN), which takes longer than a copy from four times on (docs/adr/0032).
 */
const COPIED_FROM = 512;

/** aᵀ · b (+ `addend`) for a [N, m] and b [N, n]; no backward rule. */
function transposedProduct(graph: Graph, a: Tensor, b: Tensor, addend?: Tensor): Tensor {
  const shape = [a.shape[1] as number, b.shape[1] as number];
  const copies = graph.profile === "cpu" && (shape[1] as number) >= COPIED_FROM;
  return copies
    ? gemm(graph, transpose(graph, a, [1, 0]), b, shape, {}, addend)
    : gemm(graph, a, b, shape, { transposeA: true }, addend);
}

/** a · b (+ `addend`), optionally with `a` transposed; no backward rule. */
export function gemm(
  graph: Graph,
  a: Tensor,
  b: Tensor,
  shape: readonly number[],
  options: { readonly transposeA?: boolean },
  addend?: Tensor,
): Tensor {
  const inputs = addend === undefined ? [a, b] : [a, b, addend];
  return graph.apply("Gemm", inputs, shape, { attributes: { transA: { int: options.transposeA ? 1 : 0 } } });
}

/** How `batchedProduct` reads its operands. */
export interface ProductOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly scale?: number;
}

/** scale · a · b over the last two axes, either operand transposed; no backward rule. */
export function batchedProduct(graph: Graph, a: Tensor, b: Tensor, options: ProductOptions = {}): Tensor {
  const { transposeA = false, transposeB = false, scale = 1 } = options;
  const rank = a.shape.length;
  const rows = a.shape[transposeA ? rank - 1 : rank - 2] as number;
  const columns = b.shape[transposeB ? rank - 2 : rank - 1] as number;
  const shape = [...a.shape.slice(0, -2), rows, columns];
  if (!graph.fused) {
    const swapped = [...a.shape.keys()];
    swapped.splice(rank - 2, 2, rank - 1, rank - 2);
    const left = transposeA ? transpose(graph, a, swapped) : a;
    const right = transposeB ? transpose(graph, b, swapped) : b;
    const product = graph.apply("MatMul", [left, right], shape);
    return scale === 1 ? product : graph.apply("Mul", [product, graph.scalar(scale)], shape);
  }
  return graph.apply("FusedMatMul", [a, b], shape, {
    domain: "com.microsoft",
    attributes: {
      transA: { int: transposeA ? 1 : 0 },
      transB: { int: transposeB ? 1 : 0 },
      alpha: { float: scale },
    },
  });
}
