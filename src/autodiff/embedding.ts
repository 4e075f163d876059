/** Looking rows up in a table. */

import { gatherRows } from "./bfloat16.ts";
import { type Graph, plus, reshape, type Tensor } from "./graph.ts";

/**
 * Rows `ids` [N] (of type `graph.integer`) of a table [V, d], which may be kept in bfloat16.
 *
 * The backward pass is a ScatterND with addition. On the CPU provider that operator loses updates when two threads meet
 * at one row (https://github.com/microsoft/onnxruntime/issues/18048), so a graph that differentiates through this
 * operator must run on one thread. Training does not: it takes the gradient of the rows out of the graph
 * (`Graph.leaf`) and adds them up outside.
 */
export function embedding(graph: Graph, table: Tensor, ids: Tensor): Tensor {
  const count = ids.shape[0] as number;
  const output = gatherRows(graph, table, ids);
  graph.record([output], ([gradient]) => {
    graph.accumulate(table, (soFar) => {
      return plus(graph, soFar, scatterRows(graph, table.shape, reshape(graph, ids, [count, 1]), gradient as Tensor));
    });
  });
  return output;
}

/** A table of zeros with row i of `rows` [N, d] added to row `indices`[i] [N, 1]. */
function scatterRows(graph: Graph, shape: readonly number[], indices: Tensor, rows: Tensor): Tensor {
  const zeros = graph.apply("Expand", [graph.scalar(0), graph.integers(shape)], shape);
  const add = { reduction: { string: "add" } };
  if (indices.type === "int64") return graph.apply("ScatterND", [zeros, indices, rows], shape, { attributes: add });
  // ScatterND takes int64 indices only.
  const spread = graph.apply("Expand", [indices, graph.integers(rows.shape)], rows.shape, { type: indices.type });
  const attributes = { ...add, axis: { int: 0 } };
  return graph.apply("ScatterElements", [zeros, spread, rows], shape, { attributes });
}
