/** Causal grouped-query attention; Ainslie et al., https://arxiv.org/abs/2305.13245. */

import { type Graph, plus, reshape, type Tensor, transpose } from "./graph.ts";
import { batchedProduct } from "./matmul.ts";

export interface AttentionShape {
  readonly rows: number;
  readonly length: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Added to the scores of later positions; large enough that their probability is exactly 0 in float32. */
const MASKED = -1e30;

/** The additive mask [1, 1, 1, length, length]: 0 up to the own position, then `MASKED`. */
export function causalMask(graph: Graph, length: number): Tensor {
  const mask = new Float64Array(length * length);
  for (let query = 0; query < length; query++) mask.fill(MASKED, query * length + query + 1, (query + 1) * length);
  return graph.constant([1, 1, 1, length, length], mask);
}

/**
 * softmax(q · kᵀ / √headDim + mask) · v for q [N, heads · headDim] and k, v [N, kvHeads · headDim], N = rows · length.
 * Keys and values are never repeated: the query heads that share one are stacked into a taller matrix.
 *
 * Backward: dV = Pᵀ · dO, dS = P · (dO · Vᵀ − rowsum(dO · O)), dQ = dS · K, dK = dSᵀ · Q. The row sum of dO · O equals that
 * of dP · P (Dao et al., https://arxiv.org/abs/2205.14135), which saves a pass over the scores.
 */
export function causalAttention(
  graph: Graph,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  shape: AttentionShape,
  mask: Tensor,
): Tensor {
  const { rows, length, kvHeads, headDim } = shape;
  const groups = shape.heads / kvHeads;
  const scale = 1 / Math.sqrt(headDim);
  const scoresShape = [rows, kvHeads, groups * length, length];
  const split = [rows, kvHeads, groups, length, length];

  const query = stackQueries(graph, q, shape);
  const key = stackKeys(graph, k, shape);
  const value = stackKeys(graph, v, shape);
  const scores = batchedProduct(graph, query, key, { transposeB: true, scale });
  const masked = graph.apply("Add", [reshape(graph, scores, split), mask], split);
  const softmax = graph.apply("Softmax", [masked], split, { attributes: { axis: { int: -1 } } });
  const probabilities = reshape(graph, softmax, scoresShape);
  const mixed = batchedProduct(graph, probabilities, value);
  const output = unstackQueries(graph, mixed, shape);

  graph.record([output], ([gradient]) => {
    const towardsMixed = stackQueries(graph, gradient as Tensor, shape);
    const towardsProbabilities = batchedProduct(graph, towardsMixed, value, { transposeB: true });
    const product = graph.apply("Mul", [towardsMixed, mixed], mixed.shape);
    const rowSum = graph.apply("ReduceSum", [product, graph.integers([3])], [rows, kvHeads, groups * length, 1], {
      attributes: { keepdims: { int: 1 } },
    });
    const centred = graph.apply("Sub", [towardsProbabilities, rowSum], scoresShape);
    const towardsScores = graph.apply("Mul", [probabilities, centred], scoresShape);
    graph.accumulate(q, (soFar) =>
      plus(graph, soFar, unstackQueries(graph, batchedProduct(graph, towardsScores, key, { scale }), shape)),
    );
    graph.accumulate(k, (soFar) => {
      const towardsKey = batchedProduct(graph, towardsScores, query, { transposeA: true, scale });
      return plus(graph, soFar, unstackKeys(graph, towardsKey, shape));
    });
    graph.accumulate(v, (soFar) => {
      const towardsValue = batchedProduct(graph, probabilities, towardsMixed, { transposeA: true });
      return plus(graph, soFar, unstackKeys(graph, towardsValue, shape));
    });
  });
  return output;
}

/** [N, heads · headDim] → [rows, kvHeads, groups · length, headDim]. */
function stackQueries(graph: Graph, q: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, heads, kvHeads, headDim } = shape;
  const groups = heads / kvHeads;
  const split = reshape(graph, q, [rows, length, kvHeads, groups, headDim]);
  return reshape(graph, transpose(graph, split, [0, 2, 3, 1, 4]), [rows, kvHeads, groups * length, headDim]);
}

function unstackQueries(graph: Graph, stacked: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, heads, kvHeads, headDim } = shape;
  const split = reshape(graph, stacked, [rows, kvHeads, heads / kvHeads, length, headDim]);
  return reshape(graph, transpose(graph, split, [0, 3, 1, 2, 4]), [rows * length, heads * headDim]);
}

/** [N, kvHeads · headDim] → [rows, kvHeads, length, headDim]. */
function stackKeys(graph: Graph, k: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, kvHeads, headDim } = shape;
  return transpose(graph, reshape(graph, k, [rows, length, kvHeads, headDim]), [0, 2, 1, 3]);
}

function unstackKeys(graph: Graph, stacked: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, kvHeads, headDim } = shape;
  return reshape(graph, transpose(graph, stacked, [0, 2, 1, 3]), [rows * length, kvHeads * headDim]);
}
