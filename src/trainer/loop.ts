/** The whole training loop: collect → advantages → update → evaluate → commit. */

import { adaptKlCoefficient } from "../algorithms/kl.ts";
import type { RunningMoments } from "../algorithms/normalization.ts";
import type { Experiment } from "../config/experiment.ts";
import { buildBatch, type Collected, optimizerAt } from "./batch.ts";
import { otherTimeMetrics, rolloutMetrics, timeMetrics, tokensOf, updateMetrics } from "./metrics.ts";
import type { PolicyJob, SupervisedJob, UpdateResult } from "./update.ts";

/** What the loop drives; `experiment/run.ts` provides it. */
export interface TrainingParts {
  /** The episodes of a step, in canonical order. */
  collect(step: number): Promise<Collected>;
  /** The job with what a teacher says about its sequences; absent without a teacher. */
  readonly teach?: ((job: PolicyJob, step: number) => Promise<PolicyJob>) | undefined;
  /** Trains on the job and publishes the result as weight version `step`. */
  update(job: PolicyJob | SupervisedJob, step: number): Promise<UpdateResult>;
  /** Evaluates the published weights. */
  evaluate(step: number): Promise<Record<string, number>>;
  /** Makes the step permanent, with everything `resume` needs to go on from it. */
  commit(step: number, metrics: Readonly<Record<string, number>>, state: TrainingState): Promise<void>;
  /** Floating-point operations of training once on sequences of these lengths. */
  flops?(lengths: readonly number[]): number;
  /** Metrics of the last step that is permanent. */
  readonly lastMetrics?: Readonly<Record<string, number | null>> | undefined;
  /** What that step was committed with. */
  readonly lastState?: TrainingState | undefined;
}

/** What a step leaves to the next one; plain JSON. */
export interface TrainingState {
  readonly rewardMoments?: RunningMoments;
}

/** Where β of an adaptive divergence is kept from step to step. */
const NEXT_COEFFICIENT = "actor/kl_coef_next";

/** Is the policy evaluated after `step`? Always before the first and after the last step. */
export function evaluationDue(experiment: Experiment, step: number): boolean {
  const { every } = experiment.evaluation;
  return step === 0 || step === experiment.trainer.steps || (every > 0 && step % every === 0);
}

/** Trains from step `first` (1-based) to the end, or until `signal` aborts; a step that is not committed is as if it never was. */
export async function train(
  experiment: Experiment,
  first: number,
  parts: TrainingParts,
  signal: AbortSignal,
): Promise<void> {
  let coefficient = parts.lastMetrics?.[NEXT_COEFFICIENT] ?? experiment.kl?.coefficient;
  let moments = parts.lastState?.rewardMoments;
  let tokens = parts.lastMetrics?.num_tokens ?? 0;
  for (let step = first; step <= experiment.trainer.steps; step++) {
    signal.throwIfAborted();
    const started = performance.now();
    const episodes = await parts.collect(step);
    const collected = performance.now();
    const { job, imitation, rewardMoments } = buildBatch(experiment, episodes, step, coefficient, moments);
    moments = rewardMoments;
    const taught = job && parts.teach ? await parts.teach(job, step) : job;
    const scored = performance.now();
    const wanted = taught ?? imitation;
    const update = wanted === undefined ? undefined : await parts.update(wanted, step);
    const updated = performance.now();
    coefficient = nextCoefficient(experiment, coefficient, job, update);
    tokens += tokensOf(episodes.groups);
    const times = {
      gen: (collected - started) / 1000,
      update: (updated - scored) / 1000,
      step: (updated - started) / 1000,
    };
    const teaching: Record<string, number> = parts.teach ? { "timing_s/teacher": (scored - collected) / 1000 } : {};
    const evaluation = evaluationDue(experiment, step) ? await parts.evaluate(step) : {};
    const metrics = {
      ...rolloutMetrics(episodes.groups),
      ...episodes.metrics,
      ...updateMetrics(update, optimizerAt(experiment, step).lr),
      ...(experiment.kl?.target !== undefined && coefficient !== undefined && { [NEXT_COEFFICIENT]: coefficient }),
      num_tokens: tokens,
      ...timeMetrics(episodes.groups, times),
      ...(wanted && parts.flops && { "perf/tflops/actor": parts.flops(lengthsOf(wanted)) / times.update / 1e12 }),
      ...(!experiment.deterministic && otherTimeMetrics(episodes.groups, times)),
      // A measured time outside of `perf/`, because verl has it there; deterministic runs are synchronous.
      ...(experiment.async.ratio > 0 && { "fully_async/trainer/idle_ratio": times.gen / times.step }),
      ...teaching,
      ...evaluation,
    };
    await parts.commit(step, metrics, rewardMoments === undefined ? {} : { rewardMoments });
  }
}

/** Lengths of the sequences of a job, as often as it trains on them. */
function lengthsOf(job: PolicyJob | SupervisedJob): number[] {
  const epochs = job.kind === "policy" ? job.epochs : 1;
  return Array.from({ length: epochs }, () => job.sequences.map(({ length }) => length)).flat();
}

/** β of the next step: steered towards the target by what this step's update saw. */
function nextCoefficient(
  { kl }: Experiment,
  coefficient: number | undefined,
  job: PolicyJob | undefined,
  update: UpdateResult | undefined,
): number | undefined {
  if (kl?.target === undefined || coefficient === undefined || job === undefined) return coefficient;
  const observed = update?.metrics[kl.in === "reward" ? "actor/reward_kl_penalty" : "actor/kl_loss"];
  if (observed === undefined) return coefficient;
  const { target, horizon } = kl;
  return adaptKlCoefficient(coefficient, { kl: observed, samples: job.sequences.length }, { target, horizon });
}
