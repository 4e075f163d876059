/**
 * Routed experts: each token is worked on by the few experts its router likes best, and an expert sees only the tokens that
 * chose it. Shazeer et al., https://arxiv.org/abs/1701.06538; without capacity limits, so no token is dropped.
 *
 * The (token, choice) places are sorted by expert, which turns the work into one slice of rows per expert: no expert
 * computes anything for the others' tokens, and one nobody chose gets zero rows.
 */

import { AleError } from "../core/errors.ts";
import { type Graph, plus, reshape, type Tensor } from "./graph.ts";
import { batchedProduct } from "./matmul.ts";

/** Rows of an expert's slice: known only when the graph runs. */
const DYNAMIC = -1;

/** Where N tokens with k choices each go. A place is token · k + choice. */
export interface Routing {
  readonly experts: number;
  /** Share of each choice in its token's result, [N, k]. */
  readonly weights: Tensor;
  /** Places in the order of their experts, [N · k] int64. */
  readonly order: Tensor;
  /** Position of each place in `order`, [N · k] int64. */
  readonly position: Tensor;
  /** Places per expert, [experts] int64. */
  readonly counts: Tensor;
}

/**
 * The `perToken` most likely experts under softmax(logits), logits [N, experts]. Shares are their probabilities, divided by
 * their sum when `normalize` is set.
 *
 * Backward, for the chosen p_j and g = dweights: with s = Σ p_j, dp_j = (g_j − Σ g · w) / s when normalised, else g_j;
 * dlogits = p · (dp − Σ_j dp_j · p_j). The choice itself has no gradient.
 *
 * @throws AleError("model") on profiles whose integers are too short to sort and count places with.
 */
export function routeTokens(graph: Graph, logits: Tensor, perToken: number, normalize: boolean): Routing {
  if (graph.integer !== "int64") {
    throw new AleError("model", `a model with routed experts is not computed on ${graph.profile}`, {
      hint: "use the device cpu for this model",
    });
  }
  const [tokens, experts] = logits.shape as [number, number];
  const chosen = [tokens, perToken];
  const column = [tokens, 1];
  const rowSum = (x: Tensor) =>
    graph.apply("ReduceSum", [x, graph.integers([1])], column, { attributes: { keepdims: { int: 1 } } });
  const probabilities = graph.apply("Softmax", [logits], logits.shape, { attributes: { axis: { int: -1 } } });
  const [best, choices] = graph.applyMany(
    "TopK",
    [probabilities, graph.integers([perToken])],
    [{ shape: chosen }, { shape: chosen, type: "int64" }],
    { attributes: { axis: { int: -1 } } },
  ) as readonly [Tensor, Tensor];
  const sum = normalize ? rowSum(best) : undefined;
  const weights = sum === undefined ? best : graph.apply("Div", [best, sum], chosen);
  graph.record([weights], ([gradient]) => {
    let towards = gradient as Tensor;
    if (sum !== undefined) {
      const shared = rowSum(graph.apply("Mul", [towards, weights], chosen));
      towards = graph.apply("Div", [graph.apply("Sub", [towards, shared], chosen), sum], chosen);
    }
    graph.accumulate(logits, (soFar) => {
      const zeros = graph.apply("Expand", [graph.scalar(0), graph.integers(logits.shape)], logits.shape);
      const spread = graph.apply("ScatterElements", [zeros, choices, towards], logits.shape, {
        attributes: { axis: { int: 1 } },
      });
      const centre = rowSum(graph.apply("Mul", [towards, best], chosen));
      const centred = graph.apply("Sub", [spread, centre], logits.shape);
      const contribution = graph.apply("Mul", [probabilities, centred], logits.shape);
      return plus(graph, soFar, contribution);
    });
  });
  return { experts, weights, ...sortPlaces(graph, choices, experts) };
}

/** Sorts the places of `choices` [N, k] by expert, in the order of tokens where they share one. */
function sortPlaces(graph: Graph, choices: Tensor, experts: number): Pick<Routing, "order" | "position" | "counts"> {
  const places = (choices.shape[0] as number) * (choices.shape[1] as number);
  const flat = reshape(graph, choices, [places]);
  const order = argsort(graph, flat);
  const position = argsort(graph, order);
  const range = graph.integers(Array.from({ length: experts }, (_, expert) => expert));
  const table = [places, experts];
  const isHere = graph.apply("Equal", [reshape(graph, flat, [places, 1]), range], table, { type: "bool" });
  const ones = graph.apply("Cast", [isHere], table, { type: "int64", attributes: { to: { int: ONNX_INT64 } } });
  const counts = graph.apply("ReduceSum", [ones, graph.integers([0])], [experts], {
    type: "int64",
    attributes: { keepdims: { int: 0 } },
  });
  return { order, position, counts };
}

/** TensorProto.DataType of ONNX. */
const ONNX_INT64 = 7;

/** Indices that sort a vector of int64, equal values in their order. */
function argsort(graph: Graph, values: Tensor): Tensor {
  const { shape } = values;
  const [, indices] = graph.applyMany(
    "TopK",
    [values, graph.integers(shape)],
    [
      { shape, type: "int64" },
      { shape, type: "int64" },
    ],
    { attributes: { largest: { int: 0 }, sorted: { int: 1 } } },
  );
  return indices as Tensor;
}

/** The rows of x [N, d] each expert works on, one tensor [?, d] per expert. Backward: a token's gradients are added. */
export function dispatchTokens(graph: Graph, x: Tensor, routing: Routing): readonly Tensor[] {
  const [tokens, width] = x.shape as [number, number];
  const [places, perToken] = [routing.order.shape[0] as number, routing.weights.shape[1] as number];
  const owners = graph.apply("Div", [routing.order, graph.integers([perToken])], [places], { type: "int64" });
  const rows = graph.apply("Gather", [x, owners], [places, width]);
  const slices = split(graph, rows, routing);
  graph.record(slices, (gradients) => {
    graph.accumulate(x, (soFar) => {
      const byPlace = unsort(graph, gradients as readonly Tensor[], routing, width);
      const summed = graph.apply("ReduceSum", [byPlace, graph.integers([1])], [tokens, width], {
        attributes: { keepdims: { int: 0 } },
      });
      return plus(graph, soFar, summed);
    });
  });
  return slices;
}

/**
 * Each token's result [N, d]: the sum of what its experts made of it, weighted by its shares.
 *
 * Backward: dweights = dy · outputᵀ, doutput = weightsᵀ · dy.
 */
export function combineExperts(graph: Graph, outputs: readonly Tensor[], routing: Routing): Tensor {
  const [tokens, perToken] = routing.weights.shape as [number, number];
  const width = outputs[0]?.shape[1] as number;
  const byPlace = unsort(graph, outputs, routing, width);
  const shares = reshape(graph, routing.weights, [tokens, 1, perToken]);
  const output = reshape(graph, batchedProduct(graph, shares, byPlace), [tokens, width]);
  graph.record([output], ([gradient]) => {
    const towards = reshape(graph, gradient as Tensor, [tokens, 1, width]);
    graph.accumulate(routing.weights, (soFar) => {
      const agreement = batchedProduct(graph, towards, byPlace, { transposeB: true });
      return plus(graph, soFar, reshape(graph, agreement, [tokens, perToken]));
    });
    const spread = batchedProduct(graph, shares, towards, { transposeA: true });
    const places = tokens * perToken;
    const rows = graph.apply("Gather", [reshape(graph, spread, [places, width]), routing.order], [places, width]);
    const slices = split(graph, rows, routing);
    for (const [expert, part] of outputs.entries()) {
      graph.accumulate(part, (soFar) => plus(graph, soFar, slices[expert] as Tensor));
    }
  });
  return output;
}

/** Rows in the order of experts as one slice per expert. */
function split(graph: Graph, rows: Tensor, { counts, experts }: Routing): readonly Tensor[] {
  const shape = [DYNAMIC, rows.shape[1] as number];
  const slices = Array.from({ length: experts }, () => ({ shape }));
  return graph.applyMany("Split", [rows, counts], slices, { attributes: { axis: { int: 0 } } });
}

/** Slices of experts as [N, k, d], by token and choice. */
function unsort(graph: Graph, slices: readonly Tensor[], { position, weights }: Routing, width: number): Tensor {
  const places = position.shape[0] as number;
  const sorted = graph.apply("Concat", slices, [places, width], { attributes: { axis: { int: 0 } } });
  return reshape(graph, graph.apply("Gather", [sorted, position], [places, width]), [...weights.shape, width]);
}
