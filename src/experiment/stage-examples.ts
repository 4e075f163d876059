/** What a supervised stage learns from, whatever its objective: examples of some length, and the job of a step on some of them. */

import { countOnes } from "../algorithms/levels.ts";
import type { Experiment, SftStage } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import type { EventHub } from "../core/events.ts";
import type { TokenRecord } from "../core/types.ts";
import { type PreferencePairOf, preferenceJob } from "../trainer/preference.ts";
import { supervisedJob } from "../trainer/supervised.ts";
import type { SupervisedRecord } from "../trainer/turn-masks.ts";
import type { UpdateJob } from "../trainer/update.ts";

export interface StageExamples {
  /** Tokens of each example. */
  readonly lengths: readonly number[];
  /** What they are, for every step. */
  readonly metrics: Readonly<Record<string, number>>;
  /** The job of a step on the examples of these numbers. */
  job(numbers: readonly number[], lr: number): UpdateJob;
}

export function imitationExamples(
  experiment: Experiment,
  records: readonly SupervisedRecord[],
  hub: EventHub,
): StageExamples {
  const fitting = fit(experiment, records, ({ tokens }) => [tokens], "demonstration", hub);
  const sum = (pick: (record: SupervisedRecord) => Uint8Array) =>
    fitting.reduce((total, record) => total + countOnes(pick(record)), 0);
  const own = Math.max(
    1,
    sum(({ tokens }) => tokens.mask),
  );
  return {
    lengths: fitting.map(({ tokens }) => tokens.ids.length),
    metrics: { "sft/trained_share": sum(({ trained_T }) => trained_T) / own },
    job: (numbers, lr) => supervisedJob(experiment, pick(fitting, numbers), lr),
  };
}

export function preferenceExamples(
  experiment: Experiment,
  stage: SftStage,
  pairs: readonly PreferencePairOf<TokenRecord>[],
  hub: EventHub,
): StageExamples {
  const fitting = fit(experiment, pairs, ({ chosen, rejected }) => [chosen, rejected], "pair of episodes", hub);
  return {
    lengths: fitting.map(({ chosen, rejected }) => chosen.ids.length + rejected.ids.length),
    metrics: { "dpo/pairs": fitting.length },
    job: (numbers, lr) => preferenceJob(experiment, stage, pick(fitting, numbers), lr),
  };
}

export function pick<T>(examples: readonly T[], numbers: readonly number[]): T[] {
  return numbers.map((i) => examples[i] as T);
}

/** Those examples of which every sequence fits into an episode. @throws AleError("config") when none does. */
export function fit<T>(
  { rollout }: Experiment,
  examples: readonly T[],
  sequences: (example: T) => readonly TokenRecord[],
  what: string,
  hub: EventHub,
): T[] {
  const limit = rollout.maxEpisodeTokens;
  const longest = examples.map((example) => Math.max(...sequences(example).map(({ ids }) => ids.length)));
  const fitting = examples.filter((_, i) => (longest[i] as number) <= limit);
  if (fitting.length === 0) {
    const shortest = longest.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
    throw new AleError("config", `no ${what} fits into rollout.maxEpisodeTokens = ${limit}`, {
      hint: `the shortest has ${shortest} tokens; set rollout.maxEpisodeTokens higher`,
    });
  }
  if (fitting.length < examples.length) {
    const left = examples.length - fitting.length;
    const message = `examples longer than ${limit} tokens are left out: ${left} of ${examples.length} (${what})`;
    hub.emit({ type: "log", level: "warn", message });
  }
  return fitting;
}
