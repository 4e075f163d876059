/** Matrices that a graph keeps in bfloat16 and computes with in float32. */

import { bfloat16Form, emitWiden, type NodeEmitter, rowBlocks, storedAs } from "../onnx/bfloat16.ts";
import type { Graph, Tensor } from "./graph.ts";

/** Rows `first` … `last` of a matrix, in the graph's float type. */
export interface MatrixBlock {
  readonly first: number;
  readonly last: number;
  readonly values: Tensor;
}

/**
 * The values of a matrix, row block by row block; a matrix that is not short is one block. Widened anew at each use: what is
 * kept from the forward to the backward pass would be the float32 copy that the short form is there to avoid (sessions must
 * not merge equal nodes).
 */
export function matrixBlocks(graph: Graph, matrix: Tensor): readonly MatrixBlock[] {
  const [rows, columns] = matrix.shape as [number, number];
  if (matrix.type !== "bfloat16") return [{ first: 0, last: rows - 1, values: matrix }];
  const blocks = rowBlocks(matrix.shape, graph.widenedAtOnce);
  if (blocks.length === 1) return [{ first: 0, last: rows - 1, values: widen(graph, matrix, [rows, columns]) }];
  return blocks.map((numbers) => {
    const ids = graph.shared(`rows ${numbers[0]} ${numbers.length}`, () =>
      graph.typedConstant("int32", [numbers.length], numbers),
    );
    return { first: numbers[0] as number, last: numbers.at(-1) as number, values: gatherRows(graph, matrix, ids) };
  });
}

/** Rows `ids` of a matrix, widened: the table as a whole stays short. */
export function gatherRows(graph: Graph, table: Tensor, ids: Tensor): Tensor {
  const shape = [ids.shape[0] as number, table.shape[1] as number] as const;
  if (table.type !== "bfloat16") return graph.apply("Gather", [table, ids], shape);
  const stored = storedAs(bfloat16Form(graph.profile), shape);
  const rows = graph.apply("Gather", [table, ids], stored.shape, { type: stored.type });
  return widen(graph, rows, shape);
}

function widen(graph: Graph, stored: Tensor, shape: readonly [number, number]): Tensor {
  const emit: NodeEmitter<Tensor> = {
    node: (operator, inputs, result, attributes = {}) =>
      graph.apply(operator, inputs, result.shape, { type: result.type, attributes }),
    constant: (key, type, dims, make) => graph.shared(key, () => graph.typedConstant(type, dims, make())),
  };
  return emitWiden(emit, bfloat16Form(graph.profile), stored, shape);
}
