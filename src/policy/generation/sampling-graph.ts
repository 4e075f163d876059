/** The part of the decode graph that turns logits into one token per row. */

import type { OnnxBuilder } from "../../onnx/builder.ts";
import { ELEMENT_CODES } from "../../onnx/model.ts";

/**
 * Sampling by inversion: the smallest token whose cumulative probability reaches uniform · total. Comparing with the total
 * instead of 1 keeps rounding from ever choosing a token past the last one with weight.
 */
export function emitSampling(graph: OnnxBuilder, logits: string, rows: number, vocabulary: number): void {
  const perRow = [rows, 1];
  graph.input("uniform", "float32", perRow);
  graph.input("inverse_temperature", "float32", perRow);
  graph.input("greedy", "bool", perRow);
  graph.input("forced", "int32", perRow);
  const last = { attributes: { axis: { int: 1 } } };
  const toInt32 = { attributes: { to: { int: ELEMENT_CODES.int32 } } };
  const logprobsT1 = graph.node("LogSoftmax", [logits], last);
  const logprobs = graph.node("LogSoftmax", [graph.node("Mul", [logits, "inverse_temperature"])], last);
  const cumulative = graph.node("CumSum", [graph.node("Exp", [logprobs]), graph.scalar("int64", 1)]);
  const ends = [graph.int64s([vocabulary - 1]), graph.int64s([vocabulary]), graph.int64s([1])];
  const threshold = graph.node("Mul", ["uniform", graph.node("Slice", [cumulative, ...ends])]);
  const below = graph.node("Cast", [graph.node("Less", [cumulative, threshold])], toInt32);
  const sampled = graph.node("ReduceSum", [below, graph.int64s([1])], { attributes: { keepdims: { int: 1 } } });
  const mostLikely = graph.node("Cast", [graph.node("ArgMax", [logits], last)], toInt32);
  const chosen = graph.node("Where", ["greedy", mostLikely, sampled]);
  const isForced = graph.node("GreaterOrEqual", ["forced", graph.scalar("int32", 0)]);
  graph.node("Where", [isForced, "forced", chosen], { outputs: ["token"] });
  graph.output("token", "int32", perRow);
  for (const [name, from] of [
    ["logprob", logprobs],
    ["logprob_t1", logprobsT1],
  ] as const) {
    graph.node("GatherElements", [from, "token"], { ...last, outputs: [name] });
    graph.output(name, "float32", perRow);
  }
}
