/** A low-rank correction of a product of matrices. */

import { type Graph, plus, type Tensor } from "./graph.ts";

export interface LowRankFactors {
  /** [r, in]. */
  readonly a: Tensor;
  /** [out, r]. */
  readonly b: Tensor;
  readonly scale: number;
}

/**
 * y + scale · (x Aᵀ) Bᵀ for x [N, in] and y [N, out]. The sum is done by the last Gemm. Backward, with u = scale · x Aᵀ and
 * h = g B: dy = g, dB = gᵀ u, dA = scale · hᵀ x, dx = scale · h A; nothing of size [out, in] is ever made.
 */
export function addLowRank(graph: Graph, y: Tensor, x: Tensor, { a, b, scale }: LowRankFactors): Tensor {
  const [rows, inner] = x.shape as [number, number];
  const [output, rank] = b.shape as [number, number];
  const product = (
    inputs: readonly Tensor[],
    shape: readonly number[],
    options: { readonly transA?: 1; readonly transB?: 1; readonly alpha?: number },
  ) => {
    const { transA = 0, transB = 0, alpha = 1 } = options;
    const attributes = { transA: { int: transA }, transB: { int: transB }, alpha: { float: alpha } };
    return graph.apply("Gemm", inputs, shape, { attributes });
  };
  const inside = product([x, a], [rows, rank], { transB: 1, alpha: scale });
  const result = product([inside, b, y], [rows, output], { transB: 1 });
  graph.record([result], ([gradient]) => {
    const g = gradient as Tensor;
    const added = (soFar: Tensor | undefined) => (soFar === undefined ? [] : [soFar]);
    const back = product([g, b], [rows, rank], {});
    graph.accumulate(y, (soFar) => plus(graph, soFar, g));
    graph.accumulate(b, (soFar) => product([g, inside, ...added(soFar)], [output, rank], { transA: 1 }));
    graph.accumulate(a, (soFar) => product([back, x, ...added(soFar)], [rank, inner], { transA: 1, alpha: scale }));
    graph.accumulate(x, (soFar) => product([back, a, ...added(soFar)], [rows, inner], { alpha: scale }));
  });
  return result;
}
