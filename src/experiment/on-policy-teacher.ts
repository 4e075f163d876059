/** The teacher of a run: it judges the episodes of each step (`[distillation]`). */

import { DEFAULT_TOP_K, type DistillationConfig, ON_POLICY_DIVERGENCE } from "../config/distillation.ts";
import type { Teacher } from "../core/teacher.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { amongTop, divergenceOf } from "../trainer/distillation.ts";
import type { PolicyJob } from "../trainer/update.ts";
import type { RunOptions } from "./api.ts";
import type { PolicySource } from "./policy-source.ts";
import { openTeacher } from "./teacher.ts";

export class OnPolicyTeacher {
  readonly #settings: DistillationConfig;
  readonly #teacher: Teacher;
  readonly #vocabularySize: number;
  readonly #signal: AbortSignal;

  private constructor(settings: DistillationConfig, teacher: Teacher, vocabularySize: number, signal: AbortSignal) {
    this.#settings = settings;
    this.#teacher = teacher;
    this.#vocabularySize = vocabularySize;
    this.#signal = signal;
  }

  /** @throws AleError as `openTeacher`. */
  static async open(settings: DistillationConfig, source: PolicySource, options: RunOptions): Promise<OnPolicyTeacher> {
    const { vocabularySize } = configFromHuggingFace(source.modelConfig, "config.json");
    const teacher = await openTeacher(settings, source, options);
    return new OnPolicyTeacher(settings, teacher, vocabularySize, options.signal);
  }

  /** The job with what the teacher says about its sequences, at the rollout's temperature. */
  async teach(job: PolicyJob): Promise<PolicyJob> {
    const { in: place, weight, rl, divergence = ON_POLICY_DIVERGENCE, topK = DEFAULT_TOP_K, mix } = this.#settings;
    const top = place === "loss" ? topK : 0;
    const asked = { temperature: job.temperature, top, vocabularySize: this.#vocabularySize };
    const scores = await this.#teacher.score(job.sequences, asked, this.#signal);
    const teacher = {
      ...{ in: place, weight, rl, logprobs: scores.logprobs, divergence: divergenceOf(divergence, mix) },
      ...(scores.top && { top: { ...scores.top, logprobs: amongTop(scores.top, 1) } }),
    };
    return { ...job, teacher };
  }

  stop(): Promise<void> {
    return this.#teacher.stop();
  }
}
