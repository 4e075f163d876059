/** From hidden states to log-probabilities of given tokens, the entropy of the distribution, and its divergence from another. */

import { type Graph, reshape, type Tensor } from "./graph.ts";
import { gemm, timesMatrix, timesTransposed } from "./matmul.ts";

export interface TokenDistribution {
  /** log p(label) per row, [N, 1]. */
  readonly logprobs: Tensor;
  /** −Σ p log p per row in nats, [N, 1]. */
  readonly entropy: Tensor;
  /** log p(candidate), [N, K]. */
  readonly candidateLogprobs: Tensor | undefined;
  /** KL(p ‖ q) = Σ p (log p − log q) over the vocabulary, q being the reference's, [N, 1]. */
  readonly divergence: Tensor | undefined;
  /** log p over the vocabulary, [N, V]; no gradients flow through it. */
  readonly logSoftmax: Tensor;
}

export interface TokenDistributionInputs {
  /** Final hidden states [N, d]. */
  readonly hidden: Tensor;
  /** Output projection [V, d], which may be kept in bfloat16. */
  readonly table: Tensor;
  /** Tokens whose probability is asked for, [N] of type `graph.integer`. */
  readonly labels: Tensor;
  /** More tokens whose probability is asked for, [N, K]; those of a row differ from each other. */
  readonly candidates?: Tensor | undefined;
  /** What the divergence is measured from: its final hidden states [N, e] and its output projection [V, e]; constants. */
  readonly reference?: { readonly hidden: Tensor; readonly table: Tensor } | undefined;
  /** 1 / temperature, a scalar; the reference's too. */
  readonly inverseTemperature: Tensor;
}

/**
 * log p, entropy and divergence under softmax(hidden · tableᵀ / temperature).
 *
 * Backward, for logits z, p = softmax(z), and gradients a of log p(label), c_k of log p(candidate k), b of the entropy H and
 * e of the divergence D from q: dz = a · onehot + Σ_k c_k · onehot_k − p · (a + Σ_k c_k + b · (log p + H) + e · (D − log p + log q)).
 * With a alone, the row factor is applied to the [N, d] side of both products instead of the [N, V] matrix.
 */
export function tokenDistribution(graph: Graph, inputs: TokenDistributionInputs): TokenDistribution {
  const { hidden, table, labels, candidates, reference, inverseTemperature } = inputs;
  const [rows, width] = hidden.shape as [number, number];
  const vocabulary = table.shape[0] as number;
  const full = [rows, vocabulary];
  const column = [rows, 1];

  const scaled = graph.apply("Mul", [hidden, inverseTemperature], hidden.shape);
  const logits = timesTransposed(graph, scaled, table);
  const logSoftmax = logSoftmaxOf(graph, logits);
  const indices = reshape(graph, labels, column);
  const logprobs = graph.apply("GatherElements", [logSoftmax, indices], column, { attributes: { axis: { int: 1 } } });
  const probabilities = graph.apply("Exp", [logSoftmax], full);
  const entropy = graph.apply("Neg", [rowDot(graph, probabilities, logSoftmax)], column);
  const candidateLogprobs =
    candidates &&
    graph.apply("GatherElements", [logSoftmax, candidates], candidates.shape, { attributes: { axis: { int: 1 } } });
  const difference = reference && referenceDifference(graph, logSoftmax, reference, inverseTemperature);
  const divergence = difference && rowDot(graph, probabilities, difference);

  const outputs = [logprobs, entropy, candidateLogprobs, divergence];
  const recorded = outputs.filter((output) => output !== undefined);
  graph.record(recorded, (gradients) => {
    const towards = outputs.map((output) => (output === undefined ? undefined : gradients[recorded.indexOf(output)]));
    const [towardsLogprobs, towardsEntropy, towardsCandidates, towardsDivergence] = towards;
    const minusOnes = graph.constant(column, new Float64Array(rows).fill(-1));
    if (towardsLogprobs !== undefined && towards.every((gradient, i) => i === 0 || gradient === undefined)) {
      const residual = addAt(graph, probabilities, indices, minusOnes);
      pullThroughHead(residual, graph.apply("Neg", [towardsLogprobs], column));
      return;
    }
    const times = (matrix: Tensor, towards: Tensor) => graph.apply("Mul", [matrix, towards], full);
    const factor = sumOf(graph, full, [
      towardsEntropy && times(graph.apply("Add", [logSoftmax, entropy], full), towardsEntropy),
      towardsDivergence &&
        times(graph.apply("Sub", [divergence as Tensor, difference as Tensor], full), towardsDivergence),
      sumOf(graph, column, [towardsLogprobs, towardsCandidates && rowSum(graph, towardsCandidates)]),
    ]);
    let matrix = graph.apply("Mul", [probabilities, factor as Tensor], full);
    const minus = (towards: Tensor) => graph.apply("Neg", [towards], towards.shape);
    if (towardsLogprobs !== undefined) matrix = addAt(graph, matrix, indices, minus(towardsLogprobs));
    if (towardsCandidates !== undefined) matrix = addAt(graph, matrix, candidates as Tensor, minus(towardsCandidates));
    pullThroughHead(matrix, minusOnes);
  });
  return { logprobs, entropy, candidateLogprobs, divergence, logSoftmax };

  /** Accumulates the gradients for dz = rowFactor · matrix. */
  function pullThroughHead(matrix: Tensor, rowFactor: Tensor): void {
    graph.accumulate(hidden, (soFar) => {
      const factor = graph.apply("Mul", [rowFactor, inverseTemperature], column);
      const towards = graph.apply("Mul", [timesMatrix(graph, matrix, table), factor], hidden.shape);
      return soFar === undefined ? towards : graph.apply("Add", [soFar, towards], hidden.shape);
    });
    graph.accumulate(table, (soFar) => {
      const weighted = graph.apply("Mul", [scaled, rowFactor], hidden.shape);
      return gemm(graph, matrix, weighted, [vocabulary, width], { transposeA: true }, soFar);
    });
  }
}

/** `matrix` with `updates` added in the columns `at` of each row. */
function addAt(graph: Graph, matrix: Tensor, at: Tensor, updates: Tensor): Tensor {
  return graph.apply("ScatterElements", [matrix, at, updates], matrix.shape, {
    attributes: { axis: { int: 1 }, reduction: { string: "add" } },
  });
}

/** The sum of those that there are, of the given shape where it is one of several. */
function sumOf(graph: Graph, shape: readonly number[], terms: readonly (Tensor | undefined)[]): Tensor | undefined {
  const present = terms.filter((term) => term !== undefined);
  return present.slice(1).reduce((sum, term) => graph.apply("Add", [sum as Tensor, term], shape), present[0]);
}

/** log p − log q over the vocabulary, [N, V]. */
function referenceDifference(
  graph: Graph,
  logSoftmax: Tensor,
  { hidden, table }: { readonly hidden: Tensor; readonly table: Tensor },
  inverseTemperature: Tensor,
): Tensor {
  const scaled = graph.apply("Mul", [hidden, inverseTemperature], hidden.shape);
  const reference = logSoftmaxOf(graph, timesTransposed(graph, scaled, table));
  return graph.apply("Sub", [logSoftmax, reference], logSoftmax.shape);
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
  return rowSum(graph, graph.apply("Mul", [a, b], a.shape));
}

/** Σ_j a_ij per row. */
function rowSum(graph: Graph, a: Tensor): Tensor {
  return graph.apply("ReduceSum", [a, graph.integers([1])], [a.shape[0] as number, 1], {
    attributes: { keepdims: { int: 1 } },
  });
}
