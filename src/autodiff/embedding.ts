/** Looking rows up in a table. */

import { type Graph, plus, reshape, type Tensor } from "./graph.ts";

/**
 * Rows `ids` [N] (int64) of a table [V, d].
 *
 * The backward pass is a ScatterND with addition. On the CPU provider that operator loses updates when two threads meet
 * at one row (https://github.com/microsoft/onnxruntime/issues/18048), so a graph that differentiates through this
 * operator must run on one thread. Training does not: it takes the gradient of the rows out of the graph
 * (`Graph.leaf`) and adds them up outside.
 */
export function embedding(graph: Graph, table: Tensor, ids: Tensor): Tensor {
  const count = ids.shape[0] as number;
  const output = graph.apply("Gather", [table, ids], [count, table.shape[1] as number]);
  graph.record([output], ([gradient]) => {
    graph.accumulate(table, (soFar) => {
      const zeros = graph.apply("Expand", [graph.scalar(0), graph.integers(table.shape)], table.shape);
      const indices = reshape(graph, ids, [count, 1]);
      const scattered = graph.apply("ScatterND", [zeros, indices, gradient as Tensor], table.shape, {
        attributes: { reduction: { string: "add" } },
      });
      return plus(graph, soFar, scattered);
    });
  });
  return output;
}
