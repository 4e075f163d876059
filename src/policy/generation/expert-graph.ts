/** Routed experts in graphs of generation; the same computation as `autodiff/experts.ts`. */

import type { ExpertConfig } from "../../models/config.ts";
import type { OnnxBuilder } from "../../onnx/builder.ts";

export interface ExpertInputs {
  /** [tokens, d]. */
  readonly x: string;
  /** The router's scores, [tokens, experts]. */
  readonly logits: string;
  readonly tokens: number;
  readonly experts: ExpertConfig;
  /**
   * Compute every row twice and use the first. A product of a single row differs in its last bits from the same row among
   * others, so an expert that one token alone has chosen would make results depend on the other rows of the batch. Decoding
   * waits for the weights, not for arithmetic: the second row is nearly free there.
   */
  readonly inPairs: boolean;
}

/** [tokens, d]: what `mlp` makes of each token's experts, added up by their shares. */
export function emitRoutedExperts(
  graph: OnnxBuilder,
  inputs: ExpertInputs,
  mlp: (rows: string, expert: number) => string,
): string {
  const { x, tokens, experts } = inputs;
  const { count, perToken, normalizeWeights } = experts;
  const places = tokens * perToken;
  const probabilities = graph.node("Softmax", [inputs.logits], { attributes: { axis: { int: -1 } } });
  const best = graph.nodes("TopK", [probabilities, graph.int64s([perToken])], 2, { attributes: { axis: { int: -1 } } });
  const [likely, choices] = best as readonly [string, string];
  const shares = normalizeWeights ? graph.node("Div", [likely, rowSums(graph, likely)]) : likely;
  const flat = graph.node("Reshape", [choices, graph.int64s([places])]);
  const chosen = inputs.inPairs ? graph.node("Concat", [flat, flat], { attributes: { axis: { int: 0 } } }) : flat;
  const rows = inputs.inPairs ? 2 * places : places;
  const order = argsort(graph, chosen, rows);
  const firstCopy = inputs.inPairs ? graph.node("Mod", [order, graph.scalar("int64", places)]) : order;
  const owners = graph.node("Div", [firstCopy, graph.scalar("int64", perToken)]);
  const sorted = graph.node("Gather", [x, owners]);
  const sizes = countEach(graph, chosen, rows, count);
  const slices = graph.nodes("Split", [sorted, sizes], count, { attributes: { axis: { int: 0 } } });
  const outputs = graph.node("Concat", slices.map(mlp), { attributes: { axis: { int: 0 } } });
  const position = graph.node("Slice", [argsort(graph, order, rows), graph.int64s([0]), graph.int64s([places])]);
  const byPlace = graph.node("Gather", [outputs, position]);
  const byToken = graph.node("Reshape", [byPlace, graph.int64s([tokens, perToken, -1])]);
  const weighted = graph.node("Mul", [byToken, graph.node("Reshape", [shares, graph.int64s([tokens, perToken, 1])])]);
  return graph.node("ReduceSum", [weighted, graph.int64s([1])], { attributes: { keepdims: { int: 0 } } });
}

function rowSums(graph: OnnxBuilder, x: string): string {
  return graph.node("ReduceSum", [x, graph.int64s([1])], { attributes: { keepdims: { int: 1 } } });
}

/** Indices that sort `length` int64, equal values in their order. */
function argsort(graph: OnnxBuilder, values: string, length: number): string {
  const attributes = { largest: { int: 0 }, sorted: { int: 1 } };
  const [, indices] = graph.nodes("TopK", [values, graph.int64s([length])], 2, { attributes });
  return indices as string;
}

/** How often each of 0 … count − 1 comes up in a vector of `length` int64; [count] int64. */
function countEach(graph: OnnxBuilder, values: string, length: number, count: number): string {
  const range = graph.int64s(Array.from({ length: count }, (_, value) => value));
  const isHere = graph.node("Equal", [graph.node("Reshape", [values, graph.int64s([length, 1])]), range]);
  const ones = graph.node("Cast", [isHere], { attributes: { to: { int: INT64 } } });
  return graph.node("ReduceSum", [ones, graph.int64s([0])], { attributes: { keepdims: { int: 0 } } });
}

/** TensorProto.DataType of ONNX. */
const INT64 = 7;
