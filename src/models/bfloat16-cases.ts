/** The operators that read matrices kept in bfloat16, for gradient tests on each form of them. */

import { embedding } from "../autodiff/embedding.ts";
import { tokenDistribution } from "../autodiff/log-probability.ts";
import { linear } from "../autodiff/matmul.ts";
import { Rng } from "../core/rng.ts";
import { narrow, widen } from "./float-types.ts";
import type { CheckedInput } from "./gradient-check.ts";
import { integers, normal, type OperatorCase, operator } from "./operator-cases.ts";

/** Values as bfloat16 holds them. */
export function roundedToBfloat16(values: ArrayLike<number>): Float32Array {
  const rounded = Float32Array.from(values);
  const bytes = new Uint8Array(2 * rounded.length);
  narrow("BF16", rounded, bytes);
  widen("BF16", bytes, rounded);
  return rounded;
}

/** A matrix of normally distributed bfloat16 values. */
function matrix(label: string, rows: number, columns: number): CheckedInput {
  return { shape: [rows, columns], values: roundedToBfloat16(normal(label, rows, columns).values), short: true };
}

/** Of random shapes; the matrices have an even number of columns. */
export const BFLOAT16_CASES: Readonly<Record<string, (seed: number) => OperatorCase>> = {
  linear: (seed) => {
    const rng = new Rng(`linear ${seed}`);
    const [rows, inner, output] = [rng.int(1, 6), 2 * rng.int(1, 6), rng.int(1, 9)];
    return operator(
      (graph, { x, w, b }) => {
        graph.widenedAtOnce = rng.int(1, 60);
        return [linear(graph, x, w, b)];
      },
      {
        x: normal("x", rows, inner),
        w: matrix("w", output, inner),
        b: normal("b", output),
      },
    );
  },
  embedding: (seed) => {
    const rng = new Rng(`embedding ${seed}`);
    const [count, vocabulary, width] = [rng.int(1, 8), rng.int(1, 9), 2 * rng.int(1, 5)];
    const ids = Array.from({ length: count }, () => rng.int(0, vocabulary - 1));
    return operator((graph, { table, at }) => [embedding(graph, table, at)], {
      table: matrix("table", vocabulary, width),
      at: integers([count], ids),
    });
  },
  tokenDistribution: (seed) => {
    const rng = new Rng(`distribution ${seed}`);
    const [rows, width, vocabulary] = [rng.int(1, 6), 2 * rng.int(1, 5), rng.int(2, 9)];
    const labels = Array.from({ length: rows }, () => rng.int(0, vocabulary - 1));
    return operator(
      (graph, { hidden, table, labels, inverseTemperature }) => {
        graph.widenedAtOnce = rng.int(1, 40);
        const { logprobs, entropy } = tokenDistribution(graph, { hidden, table, labels, inverseTemperature });
        return [logprobs, entropy];
      },
      {
        hidden: normal("h", rows, width),
        table: matrix("t", vocabulary, width),
        labels: integers([rows], labels),
        // Logits of about size one: a distribution with one sure token has a gradient that is all cancellation.
        inverseTemperature: { shape: [], values: [Math.fround((0.5 + rng.next()) / Math.sqrt(width))], constant: true },
      },
    );
  },
};
