/** Rotary position embedding in the half-split form; Su et al., https://arxiv.org/abs/2104.09864. */

import { type Graph, plus, reshape, type Tensor } from "./graph.ts";

/** What all rotations of a graph share; each table is [length, headDim / 2]. */
export interface RotaryConstants {
  readonly length: number;
  readonly halfDim: number;
  readonly cos: Tensor;
  readonly sin: Tensor;
  readonly negativeSin: Tensor;
  /** [rows, length], int64: the row of the tables that each token takes; its place in its row when omitted. */
  readonly positions?: Tensor | undefined;
}

/** Puts the tables of positions 0 … length − 1 into the graph. */
export function rotaryConstants(
  graph: Graph,
  length: number,
  tables: { readonly cos: Float64Array; readonly sin: Float64Array },
  positions?: Tensor,
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
    positions,
  };
}

/**
 * Rotates each head of x [rows · length, heads · headDim] by its position. A rotation's transpose is the
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
  const positions = constants.positions ?? graph.integers([0]);
  const rotated = graph.apply("RotaryEmbedding", [threeD, positions, constants.cos, sin], threeD.shape, {
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
  const [cos, sin] = [constants.cos, sinTable].map((table) => positioned(graph, table, constants)) as [Tensor, Tensor];
  const times = (u: Tensor, v: Tensor) => graph.apply("Mul", [u, v], half);
  const first = graph.apply("Sub", [times(a, cos), times(b, sin)], half);
  const second = graph.apply("Add", [times(b, cos), times(a, sin)], half);
  return reshape(graph, graph.apply("Concat", [first, second], whole, { attributes: axis }), x.shape);
}

/** A table's rows where the tokens are: [rows or 1, length, 1, halfDim]. */
function positioned(graph: Graph, table: Tensor, { length, halfDim, positions }: RotaryConstants): Tensor {
  if (positions === undefined) return reshape(graph, table, [1, length, 1, halfDim]);
  const [rows] = positions.shape as [number, number];
  const gathered = graph.apply("Gather", [table, positions], [rows, length, halfDim]);
  return reshape(graph, gathered, [rows, length, 1, halfDim]);
}
