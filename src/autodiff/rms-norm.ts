/** Root-mean-square normalisation; Zhang and Sennrich, https://arxiv.org/abs/1910.07467. */

import { elementCount, type Graph, plus, reshape, type Tensor } from "./graph.ts";

/**
 * y = x · r · w with r = 1 / √(mean(x²) + eps) per row, for x [N, d] and w [d]. A wider x [N, h · d] is normalised head by
 * head: as if it had N · h rows.
 *
 * Backward, with g = dy: dx = r · (g · w) − x · c where c = r³ · rowsum(g · x · w) / d, and dw = Σ_rows r · (g · x). The
 * row sum is a product with w and the column sum a product with r, so g · x is the only extra matrix.
 */
export function rmsNorm(graph: Graph, x: Tensor, weight: Tensor, eps: number): Tensor {
  const width = weight.shape[0] as number;
  const rows = elementCount(x.shape) / width;
  const split = (tensor: Tensor) => (tensor.shape[1] === width ? tensor : reshape(graph, tensor, [rows, width]));
  const merge = (tensor: Tensor) => (x.shape[1] === width ? tensor : reshape(graph, tensor, x.shape));
  const heads = split(x);
  const normalized = forward(graph, heads, weight, eps);
  const { scale } = normalized;
  const output = merge(normalized.output);
  const column = [rows, 1];
  graph.record([output], ([gradient]) => {
    const g = split(gradient as Tensor);
    const product = graph.apply("Mul", [g, heads], heads.shape);
    graph.accumulate(weight, (soFar) => {
      const summed = graph.apply("MatMul", [reshape(graph, scale, [1, rows]), product], [1, width]);
      return plus(graph, soFar, reshape(graph, summed, weight.shape));
    });
    graph.accumulate(x, (soFar) => {
      const rowSum = graph.apply("MatMul", [product, reshape(graph, weight, [width, 1])], column);
      const squared = graph.apply("Mul", [scale, scale], column);
      const cubed = graph.apply("Mul", [squared, graph.apply("Mul", [scale, graph.scalar(1 / width)], column)], column);
      const radial = graph.apply("Mul", [heads, graph.apply("Mul", [rowSum, cubed], column)], heads.shape);
      const weighted = graph.apply("Mul", [graph.apply("Mul", [g, weight], heads.shape), scale], heads.shape);
      return plus(graph, soFar, merge(graph.apply("Sub", [weighted, radial], heads.shape)));
    });
  });
  return output;
}

/** The normalised rows and r [N, 1]. */
function forward(graph: Graph, x: Tensor, weight: Tensor, eps: number): { output: Tensor; scale: Tensor } {
  const column = [x.shape[0] as number, 1];
  if (!graph.fused) {
    const square = graph.apply("Mul", [x, x], x.shape);
    const mean = graph.apply("ReduceMean", [square, graph.integers([1])], column, {
      attributes: { keepdims: { int: 1 } },
    });
    const root = graph.apply("Sqrt", [graph.apply("Add", [mean, graph.scalar(eps)], column)], column);
    const scale = graph.apply("Reciprocal", [root], column);
    const output = graph.apply("Mul", [graph.apply("Mul", [x, scale], x.shape), weight], x.shape);
    return { output, scale };
  }
  const [output, scale] = graph.applyMany(
    "SimplifiedLayerNormalization",
    [x, weight],
    [{ shape: x.shape }, { shape: column }],
    {
      attributes: { axis: { int: -1 }, epsilon: { float: eps }, stash_type: { int: 1 } },
    },
  );
  return { output: output as Tensor, scale: scale as Tensor };
}
