/** A supervised stage that learns from a teacher: what it finds likely is asked once and kept for the stage. */

import { DEFAULT_TOP_K, STAGE_DIVERGENCE } from "../config/distillation.ts";
import type { Experiment, SftStage } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import type { Teacher, TopTokens } from "../core/teacher.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { amongTop, type DistillationJob, divergenceOf } from "../trainer/distillation.ts";
import { tokenShares } from "../trainer/supervised.ts";
import type { SupervisedRecord } from "../trainer/turn-masks.ts";
import type { RunParts } from "./run-parts.ts";
import { fit, pick, type StageExamples } from "./stage-examples.ts";
import { openTeacher } from "./teacher.ts";

/** Examples between two progress reports. */
const EXAMPLES_PER_REPORT = 512;

/** @throws AleError as `openTeacher`. */
export async function distillationExamples(
  { options, source }: Pick<RunParts, "options" | "source">,
  stage: SftStage,
  records: readonly SupervisedRecord[],
): Promise<StageExamples> {
  const { experiment, hub } = options;
  const fitting = fit(experiment, records, ({ tokens }) => [tokens], "sequence", hub);
  const place = { teacher: stage.teacher as string, server: stage.server };
  const teacher = await openTeacher(place, source, options);
  try {
    const { vocabularySize } = configFromHuggingFace(source.modelConfig, "config.json");
    const top = await likeliest(teacher, fitting, { top: stage.topK ?? DEFAULT_TOP_K, vocabularySize }, options);
    return examplesOf(experiment, stage, fitting, top);
  } finally {
    await teacher.stop();
  }
}

function examplesOf(
  experiment: Experiment,
  stage: SftStage,
  records: readonly SupervisedRecord[],
  asked: TopTokens,
): StageExamples {
  const { divergence = STAGE_DIVERGENCE, mix, weight = 0.5, temperature = 1 } = stage;
  const top = { ...asked, logprobs: amongTop(asked, temperature) };
  const { betas, eps, weightDecay, clip } = experiment.optimizer;
  return {
    lengths: records.map(({ tokens }) => tokens.ids.length),
    metrics: { "distill/top_mass": topMass(records, asked) },
    job: (numbers, lr): DistillationJob => {
      const chosen = pick(records, numbers);
      return {
        kind: "distillation",
        sequences: chosen.map(({ tokens }) => tokens.ids),
        shares: tokenShares(experiment, chosen),
        top: { count: top.count, ids: pick(top.ids, numbers), logprobs: pick(top.logprobs, numbers) },
        ...{ divergence: divergenceOf(divergence, mix), weight, temperature },
        optimizer: { betas, eps, weightDecay, clip, lr },
      };
    },
  };
}

async function likeliest(
  teacher: Teacher,
  records: readonly SupervisedRecord[],
  asked: { readonly top: number; readonly vocabularySize: number },
  { hub, signal, stop }: RunParts["options"],
): Promise<TopTokens> {
  const parts: TopTokens[] = [];
  for (let begin = 0; begin < records.length; begin += EXAMPLES_PER_REPORT) {
    const some = records.slice(begin, begin + EXAMPLES_PER_REPORT).map(({ tokens }) => tokens.ids);
    const { top } = await teacher.score(some, { temperature: 1, ...asked }, AbortSignal.any([signal, stop]));
    if (top === undefined) throw new AleError("internal", `${teacher.name} named no likely tokens`);
    parts.push(top);
    const done = begin + some.length;
    hub.emit({ type: "progress", stage: "asking the teacher", done, total: records.length, unit: "sequences" });
  }
  return {
    count: parts[0]?.count ?? asked.top,
    ids: parts.flatMap(({ ids }) => ids),
    logprobs: parts.flatMap(({ logprobs }) => logprobs),
  };
}

/** Mean probability that the teacher gives to all of the tokens that are compared, over the policy's tokens. */
function topMass(records: readonly SupervisedRecord[], { count, logprobs }: TopTokens): number {
  let mass = 0;
  let tokens = 0;
  for (const [i, { trained_T }] of records.entries()) {
    for (let t = 1; t < trained_T.length; t++) {
      if (trained_T[t] !== 1) continue;
      const row = logprobs[i]?.subarray(t * count, (t + 1) * count);
      mass += row?.reduce((sum, logprob) => sum + Math.exp(logprob), 0) ?? 0;
      tokens++;
    }
  }
  return mass / Math.max(1, tokens);
}
