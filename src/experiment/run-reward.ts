/** The reward of a run: judges and the user's function around `reward/shaping.ts`. */

import type { RewardConfig } from "../config/reward.ts";
import { AleError } from "../core/errors.ts";
import type { Trajectory } from "../core/types.ts";
import { type ShapingParts, shapeRewards } from "../reward/shaping.ts";
import type { Collected } from "../trainer/batch.ts";
import { type LanguageModels, openModels } from "./data-synth.ts";
import { isElsewhere } from "./language-model.ts";
import { RewardFunction } from "./reward-function.ts";
import type { RunParts } from "./run-parts.ts";

export class RunReward implements AsyncDisposable {
  readonly #config: RewardConfig | undefined;
  readonly #parts: ShapingParts;
  readonly #opened: readonly AsyncDisposable[];

  private constructor(config: RewardConfig | undefined, parts: ShapingParts, opened: readonly AsyncDisposable[]) {
    this.#config = config;
    this.#parts = parts;
    this.#opened = opened;
  }

  /**
   * @param isReplay the episodes come from the store, which has no counts of tests.
   * @throws AleError("config" | "remote") when a judge or the function cannot be used
   */
  static async open(parts: RunParts, isReplay: boolean): Promise<RunReward> {
    const { options, suite } = parts;
    const config = options.experiment.reward;
    const instructionOf = ({ family, split, seed }: Trajectory) => suite.render(family, split, seed).instruction;
    const { guards } = options.experiment;
    const isPunished = ({ alerts }: Trajectory) => guards.trajectories === "punish" && (alerts?.length ?? 0) > 0;
    const shaping = { instructionOf, isPunished, signal: options.signal };
    if (config === undefined) return new RunReward(config, shaping, []);
    if (isReplay && (config.outcome === "pass-rate" || config.function !== undefined)) {
      throw new AleError("config", "a replay cannot count tests again, which [reward] needs", {
        hint: 'set reward.outcome = "binary" and leave reward.function out',
      });
    }
    const models = await openJudges(config, options);
    try {
      const own = await RewardFunction.start(config, options.outDir);
      const judges = {
        judge: config.judge && models.get(config.judge.policy).chat,
        rankingJudge: config.ranking?.policy === undefined ? undefined : models.get(config.ranking.policy).chat,
        call: own && ((episode: Parameters<RewardFunction["call"]>[0]) => own.call(episode)),
      };
      return new RunReward(config, { ...shaping, ...judges }, own === undefined ? [models] : [models, own]);
    } catch (error) {
      await models[Symbol.asyncDispose]();
      throw error;
    }
  }

  shape(collected: Collected): Promise<Collected> {
    return shapeRewards(collected, this.#config, this.#parts);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const part of this.#opened) await part[Symbol.asyncDispose]();
  }
}

function openJudges(
  { judge, ranking }: RewardConfig,
  { experiment, hub }: Pick<RunParts["options"], "experiment" | "hub">,
): Promise<LanguageModels> {
  const policies = [judge?.policy, ranking?.policy].filter((policy) => policy !== undefined);
  const folder = policies.find((policy) => !isElsewhere(policy));
  if (folder !== undefined) {
    throw new AleError("config", `reward: ${folder} cannot judge: the engines of a run hold one model`, {
      hint: "name a server, openai:URL#MODEL",
    });
  }
  return openModels(policies, { experiment, hub });
}
