/** Rotary position embedding in the half-split form; Su et al., https://arxiv.org/abs/2104.09864. */

import { type Graph, plus, reshape, type Tensor } from "./graph.ts";

/** Constants shared by all rotations of a graph; each table is [length, headDim / 2]. */
export interface RotaryConstants {
  readonly length: number;
  readonly halfDim: number;
  readonly cos: Tensor;
  readonly sin: Tensor;
  readonly negativeSin: Tensor;
}

/** Puts the tables of positions 0 … length − 1 into the graph. */
export function rotaryConstants(
  graph: Graph,
  length: number,
  tables: { readonly cos: Float64Array; readonly sin: Float64Array },
): RotaryConstants {
  const halfDim = tables.cos.length / length;
  const shape = [length, halfDim];
  return {
    length,
    halfDim,
    cos: graph.constant(shape, tables.cos),
    sin: graph.constant(shape, tables.sin),
    negativeSin: graph.constant(
      shape,
      tables.sin.map((value) => -value),
    ),
  };
}

/**
 * Rotates each head of x [rows · length, heads · headDim] by its position in the row. A rotation's transpose is the
 * rotation by the opposite angle, so the backward pass is the same operator with −sin.
 */
export function rotary(graph: Graph, x: Tensor, constants: RotaryConstants): Tensor {
  const output = rotate(graph, x, constants, constants.sin);
  graph.record([output], ([gradient]) => {
    graph.accumulate(x, (soFar) =>
      plus(graph, soFar, rotate(graph, gradient as Tensor, constants, constants.negativeSin)),
    );
  });
  return output;
}

function rotate(graph: Graph, x: Tensor, constants: RotaryConstants, sin: Tensor): Tensor {
  const [tokens, width] = x.shape as [number, number];
  const rows = tokens / constants.length;
  if (graph.profile === "ref64") return rotatePlainly(graph, x, rows, constants, sin);
  const threeD = reshape(graph, x, [rows, constants.length, width]);
  // A position of shape [1] is an offset: every row counts from 0
  const rotated = graph.apply("RotaryEmbedding", [threeD, graph.integers([0]), constants.cos, sin], threeD.shape, {
    domain: "com.microsoft",
  });
  return reshape(graph, rotated, x.shape);
}

/** (a, b) → (a cos − b sin, b cos + a sin) on the two halves of every head. */
function rotatePlainly(graph: Graph, x: Tensor, rows: number, constants: RotaryConstants, sinTable: Tensor): Tensor {
  const { length, halfDim } = constants;
  const heads = (x.shape[1] as number) / (2 * halfDim);
  const half = [rows, length, heads, halfDim];
  const whole = [rows, length, heads, 2 * halfDim];
  const axis = { axis: { int: 3 } };
  const [a, b] = graph.applyMany("Split", [reshape(graph, x, whole)], [{ shape: half }, { shape: half }], {
    attributes: { ...axis, num_outputs: { int: 2 } },
  }) as readonly [Tensor, Tensor];
  const cos = reshape(graph, constants.cos, [1, length, 1, halfDim]);
  const sin = reshape(graph, sinTable, [1, length, 1, halfDim]);
  const times = (u: Tensor, v: Tensor) => graph.apply("Mul", [u, v], half);
  const first = graph.apply("Sub", [times(a, cos), times(b, sin)], half);
  const second = graph.apply("Add", [times(b, cos), times(a, sin)], half);
  return reshape(graph, graph.apply("Concat", [first, second], whole, { attributes: axis }), x.shape);
}
