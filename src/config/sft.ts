/** The `sft` table of an experiment: supervised stages, on demonstrations or on the episodes of a run. */

import { z } from "zod";

const fraction = (description: string, value: number) => z.number().min(0).max(1).default(value).describe(description);
const count = (description: string, value: number, max = 1_000_000) =>
  z.number().int().min(1).max(max).default(value).describe(description);

const SftStageSchema = z
  .strictObject({
    steps: count("Optimizer steps of the stage", 1000),
    lr: z.number().min(0).max(10).default(2e-3).describe("Peak learning rate of the stage"),
    mistakes: fraction("Share of demonstrations that are typical mistakes instead of expert solutions", 0),
    decayFrom: fraction("Share of the stage after which the learning rate falls linearly to `minRatio`", 0.7),
    minRatio: fraction("Final learning rate of the stage as a share of its peak", 0.03),
    objective: z
      .enum(["sft", "dpo", "ipo"])
      .optional()
      .describe("Imitate, or prefer the solved episodes of a group to its failures; sft when omitted"),
    trajectories: z
      .string()
      .min(1)
      .optional()
      .describe("Learn from the training episodes of this run (id or directory) instead of demonstrations"),
    perGroup: z
      .number()
      .int()
      .min(1)
      .max(1024)
      .optional()
      .describe("Of these, at most this many of each group, the shortest first; all when omitted"),
    beta: z.number().min(1e-4).max(100).optional().describe("dpo, ipo: β, how near the reference; 0.1 when omitted"),
    labelSmoothing: z
      .number()
      .min(0)
      .max(0.5)
      .optional()
      .describe("dpo: probability that a preference is the wrong way round (cDPO); 0 when omitted"),
  })
  .superRefine(({ objective = "sft", trajectories, perGroup, beta, labelSmoothing }, context) => {
    const refuse = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
    if (trajectories === undefined && objective !== "sft")
      refuse("objective", `is "${objective}", which needs the run whose groups are compared: set trajectories`);
    if (trajectories === undefined && perGroup !== undefined)
      refuse("perGroup", "is about the groups of a run: set trajectories");
    if (objective === "sft" && beta !== undefined) refuse("beta", 'belongs to objective "dpo" and "ipo"');
    if (objective !== "dpo" && labelSmoothing !== undefined) refuse("labelSmoothing", 'belongs to objective "dpo"');
  });

export const SftSchema = z
  .strictObject({
    demonstrations: count("Demonstrations recorded in sandboxes per stage", 6000),
    batch: count("Demonstrations, or pairs of episodes, per optimizer step", 64, 65_536),
    vocabulary: count("Size of the tokenizer learned on the demonstrations", 512, 1_000_000),
    contextWeight: fraction("Loss weight of prompt and observation tokens, beside 1 for action tokens", 0.1),
    every: z.number().int().min(0).max(1_000_000).default(200).describe("Steps between evaluations; 0 = last only"),
    maskErrors: z.boolean().optional().describe("Do not imitate turns whose command failed; off when omitted"),
    maskIrrelevant: z
      .boolean()
      .optional()
      .describe("Do not imitate turns without a command, nor repetitions that showed the same; off when omitted"),
    stages: z.array(SftStageSchema).min(1).max(16).prefault([{}]).describe("Stages, one after the other"),
  })
  .describe("Supervised training on recorded demonstrations, or on the episodes of a run");
