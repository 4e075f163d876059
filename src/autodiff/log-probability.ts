/** From hidden states to log-probabilities of given tokens, and the entropy of the distribution. */

import { type Graph, reshape, type Tensor } from "./graph.ts";
import { gemm } from "./matmul.ts";

export interface TokenDistribution {
  /** log p(label) per row, [N, 1]. */
  readonly logprobs: Tensor;
  /** −Σ p log p per row in nats, [N, 1]. */
  readonly entropy: Tensor;
}

export interface TokenDistributionInputs {
  /** Final hidden states [N, d]. */
  readonly hidden: Tensor;
  /** Output projection [V, d]. */
  readonly table: Tensor;
  /** Tokens whose probability is asked for, [N] of type `graph.integer`. */
  readonly labels: Tensor;
  /** 1 / temperature, a scalar. */
  readonly inverseTemperature: Tensor;
}

/**
 * log p and entropy under softmax(hidden · tableᵀ / temperature).
 *
 * Backward, for logits z, p = softmax(z), and gradients a of log p(label) and b of the entropy H:
 * dz = a · (onehot − p) − b · p · (log p + H). With a alone, the row factor is applied to the [N, d] side of both products
 * instead of the [N, V] matrix.
 */
export function tokenDistribution(graph: Graph, inputs: TokenDistributionInputs): TokenDistribution {
  const { hidden, table, labels, inverseTemperature } = inputs;
  const [rows, width] = hidden.shape as [number, number];
  const vocabulary = table.shape[0] as number;
  const full = [rows, vocabulary];
  const column = [rows, 1];

  const scaled = graph.apply("Mul", [hidden, inverseTemperature], hidden.shape);
  const logits = graph.apply("Gemm", [scaled, table], full, { attributes: { transB: { int: 1 } } });
  const logSoftmax = logSoftmaxOf(graph, logits);
  const indices = reshape(graph, labels, column);
  const logprobs = graph.apply("GatherElements", [logSoftmax, indices], column, { attributes: { axis: { int: 1 } } });
  const probabilities = graph.apply("Exp", [logSoftmax], full);
  const entropy = graph.apply("Neg", [rowDot(graph, probabilities, logSoftmax)], column);

  graph.record([logprobs, entropy], ([towardsLogprobs, towardsEntropy]) => {
    const minusOnes = graph.constant(column, new Float64Array(rows).fill(-1));
    const residual = graph.apply("ScatterElements", [probabilities, indices, minusOnes], full, {
      attributes: { axis: { int: 1 }, reduction: { string: "add" } },
    });
    if (towardsEntropy === undefined) {
      const rowFactor = graph.apply("Neg", [towardsLogprobs as Tensor], column);
      pullThroughHead(residual, rowFactor);
      return;
    }
    const surprise = graph.apply("Add", [logSoftmax, entropy], full);
    const weighted = graph.apply("Mul", [graph.apply("Mul", [probabilities, surprise], full), towardsEntropy], full);
    const towardsLogits =
      towardsLogprobs === undefined
        ? weighted
        : graph.apply("Add", [weighted, graph.apply("Mul", [residual, towardsLogprobs], full)], full);
    pullThroughHead(towardsLogits, graph.constant(column, new Float64Array(rows).fill(-1)));
  });
  return { logprobs, entropy };

  /** Accumulates the gradients for dz = rowFactor · matrix. */
  function pullThroughHead(matrix: Tensor, rowFactor: Tensor): void {
    graph.accumulate(hidden, (soFar) => {
      const factor = graph.apply("Mul", [rowFactor, inverseTemperature], column);
      const towards = graph.apply("Mul", [gemm(graph, matrix, table, [rows, width], {}), factor], hidden.shape);
      return soFar === undefined ? towards : graph.apply("Add", [soFar, towards], hidden.shape);
    });
    graph.accumulate(table, (soFar) => {
      const weighted = graph.apply("Mul", [scaled, rowFactor], hidden.shape);
      return gemm(graph, matrix, weighted, [vocabulary, width], { transposeA: true }, soFar);
    });
  }
}

/** z − max z − log Σ exp(z − max z) per row of a matrix. */
function logSoftmaxOf(graph: Graph, logits: Tensor): Tensor {
  const { shape } = logits;
  if (graph.fused || graph.profile === "ref64") {
    return graph.apply("LogSoftmax", [logits], shape, { attributes: { axis: { int: -1 } } });
  }
  const column = [shape[0] as number, 1];
  const reduce = (operator: "ReduceMax" | "ReduceSum", x: Tensor) =>
    graph.apply(operator, [x, graph.integers([1])], column, { attributes: { keepdims: { int: 1 } } });
  const shifted = graph.apply("Sub", [logits, reduce("ReduceMax", logits)], shape);
  const sum = reduce("ReduceSum", graph.apply("Exp", [shifted], shape));
  return graph.apply("Sub", [shifted, graph.apply("Log", [sum], column)], shape);
}

/** Σ_j a_ij · b_ij per row. */
function rowDot(graph: Graph, a: Tensor, b: Tensor): Tensor {
  const product = graph.apply("Mul", [a, b], a.shape);
  return graph.apply("ReduceSum", [product, graph.integers([1])], [a.shape[0] as number, 1], {
    attributes: { keepdims: { int: 1 } },
  });
}
