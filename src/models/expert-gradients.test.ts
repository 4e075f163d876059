import { expect, test } from "bun:test";
import fc from "fast-check";
import { combineExperts, dispatchTokens, routeTokens } from "../autodiff/experts.ts";
import type { Tensor } from "../autodiff/graph.ts";
import { linear } from "../autodiff/matmul.ts";
import { Rng } from "../core/rng.ts";
import { type CheckedInput, checkGradients } from "./gradient-check.ts";
import { normal, type OperatorCase, operator } from "./operator-cases.ts";

/** One weight per expert; `shy` is an expert whose logits are far below the others'. */
function routed(
  shape: { tokens: number; experts: number; perToken: number; shy: number },
  normalize: boolean,
): OperatorCase {
  const { tokens, experts, perToken, shy } = shape;
  const logits = normal("logits", tokens, experts);
  // apart enough that a step of the differences never changes the choice
  const spaced = Array.from(logits.values, (_, i) =>
    i % experts === shy ? -9 : 0.25 * ((i * 7 + Math.floor(i / experts)) % 11),
  );
  const inputs: Record<string, CheckedInput> = {
    x: normal("x", tokens, 5),
    logits: { ...logits, values: spaced },
  };
  for (let expert = 0; expert < experts; expert++) inputs[`w${expert}`] = normal(`w${expert}`, 3, 5);
  return operator((graph, tensors) => {
    const routing = routeTokens(graph, tensors.logits as Tensor, perToken, normalize);
    const rows = dispatchTokens(graph, tensors.x as Tensor, routing);
    const outputs = rows.map((slice, expert) => linear(graph, slice, tensors[`w${expert}`] as Tensor));
    return [combineExperts(graph, outputs, routing)];
  }, inputs);
}

test.each([true, false])("routed experts, shares normalised: %p", (normalize) => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const rng = new Rng(`experts ${seed}`);
      const experts = rng.int(2, 6);
      const shape = { tokens: rng.int(1, 7), experts, perToken: rng.int(1, experts - 1), shy: rng.int(0, experts - 1) };
      const { build, inputs } = routed(shape, normalize);
      const report = checkGradients(build, inputs, 2);
      expect(report.probes).toBeGreaterThan(4);
      expect(report.differenceError).toBeLessThan(1e-8);
      expect(report.float32Error).toBeLessThan(1e-5);
    }),
    { numRuns: 6 },
  );
});
