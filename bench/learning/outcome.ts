/** What a finished run came to, from its store, in a form that fits one line of the results file. */

import { mean } from "../../src/algorithms/statistics.ts";
import type { EvaluationRecord, MetricsRow } from "../../src/store/records.ts";

/** Sampled success on held-out instances at one evaluation. */
export interface CurvePoint {
  readonly step: number;
  /** Commands executed in training up to here. */
  readonly envSteps: number;
  /** Turns that forked episodes did not have to execute, up to here. */
  readonly prefixTurns: number;
  readonly rate: number;
  readonly n: number;
  readonly greedy: number | null;
  /** Success of the worst family. */
  readonly minimum: number;
}

/** Metrics whose means over training steps a result has. */
const MEASURES = [
  "perf/episodes_per_second",
  "perf/kv/reprefill_tokens",
  "rollout_corr/cache_mix/tokens",
  "rollout_corr/cache_mix/kl",
  "async/staleness/mean",
] as const;
export type Measure = (typeof MEASURES)[number];

export interface Outcome {
  readonly curve: readonly CurvePoint[];
  readonly wallSeconds: number;
  readonly gradNorm: { readonly median: number; readonly max: number };
  /** Norm of the gradient before clipping, of the training steps that had one. */
  readonly gradNorms?: readonly { readonly step: number; readonly norm: number }[];
  /** Mean chunks of an expert before its anchors, per step; empty without resampling. */
  readonly expertChunks: readonly number[];
  /** Means over the training steps that have the metric. */
  readonly means?: Partial<Record<Measure, number>>;
}

export function readOutcome(
  metrics: readonly MetricsRow[],
  evaluations: readonly EvaluationRecord[],
  wallSeconds: number,
): Outcome {
  const heldOut = evaluations.filter(({ split }) => split === "heldout");
  const total = (name: string, step: number) =>
    metrics.reduce((sum, row) => sum + (row.step <= step ? (row.metrics[name] ?? 0) : 0), 0);
  const curve = heldOut
    .filter(({ greedy }) => !greedy)
    .map(({ step, rate, n, perFamily }) => ({
      step,
      envSteps: total("rollout/env_steps", step),
      prefixTurns: total("rollout/forked_prefix_turns", step),
      rate,
      n,
      greedy: heldOut.find((row) => row.greedy && row.step === step)?.rate ?? null,
      minimum: Math.min(...Object.values(perFamily).map((family) => family.rate)),
    }));
  if (curve.length === 0) throw new Error("the run was never evaluated on held-out instances");
  const column = (name: string) => metrics.flatMap((row) => row.metrics[name] ?? []);
  const trained = metrics.filter((row) => row.step > 0);
  const gradNorms = metrics.flatMap(({ step, metrics: { "actor/grad_norm": norm } }) => (norm ? [{ step, norm }] : []));
  const norms = gradNorms.map(({ norm }) => norm).sort((a, b) => a - b);
  return {
    curve,
    wallSeconds,
    gradNorm: { median: norms[Math.floor(norms.length / 2)] ?? 0, max: norms.at(-1) ?? 0 },
    gradNorms,
    expertChunks: column("resampling/expert_chunks"),
    means: Object.fromEntries(
      MEASURES.map((name) => [name, trained.flatMap((row) => row.metrics[name] ?? [])] as const)
        .filter(([, values]) => values.length > 0)
        .map(([name, values]) => [name, mean(values)]),
    ),
  };
}

/**
 * The curve at `envSteps` commands, linear between the evaluations around it: two runs are compared at equal cost, whatever they
 * do in a step. The last evaluation without a budget, or when the run ended before.
 */
export function pointAt({ curve }: Outcome, envSteps: number | undefined): CurvePoint {
  const last = curve.at(-1) as CurvePoint;
  if (envSteps === undefined || last.envSteps <= envSteps) return last;
  const next = curve.findIndex((point) => point.envSteps > envSteps);
  const [before, after] = [curve[next - 1], curve[next]];
  if (before === undefined || after === undefined)
    throw new Error(`no evaluation within ${envSteps} environment steps`);
  const part = (envSteps - before.envSteps) / (after.envSteps - before.envSteps);
  const between = (pick: (point: CurvePoint) => number) => pick(before) + part * (pick(after) - pick(before));
  return {
    ...before,
    step: between(({ step }) => step),
    envSteps,
    prefixTurns: between(({ prefixTurns }) => prefixTurns),
    rate: between(({ rate }) => rate),
    minimum: between(({ minimum }) => minimum),
    greedy:
      before.greedy === null || after.greedy === null ? null : before.greedy + part * (after.greedy - before.greedy),
  };
}
