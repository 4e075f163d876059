/** The `sft` table of an experiment: supervised stages, on demonstrations or on the episodes of a run. */

import { z } from "zod";
import { TEACHER_KEYS, teacherProblems } from "./distillation.ts";
import { RevisitSchema } from "./revisit.ts";

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
      .enum(["sft", "dpo", "ipo", "distill"])
      .optional()
      .describe(
        "Imitate, prefer the solved episodes of a group to its failures, or learn from a teacher; sft when omitted",
      ),
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
    ...TEACHER_KEYS,
    weight: z
      .number()
      .min(0)
      .max(1)
      .optional()
      .describe("distill: share of the divergence in the loss, beside imitation; 0.5 when omitted"),
    temperature: z
      .number()
      .min(0.01)
      .max(100)
      .optional()
      .describe("distill: temperature at which student and teacher are compared; 1 when omitted"),
    episodes: z
      .enum(["solved", "all"])
      .optional()
      .describe("distill: which episodes of the run; all only with weight 1; solved when omitted"),
    revisit: RevisitSchema.optional(),
  })
  .superRefine((stage, context) => {
    const { objective = "sft", trajectories, perGroup, beta, labelSmoothing } = stage;
    const refuse = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
    if (trajectories === undefined && (objective === "dpo" || objective === "ipo"))
      refuse("objective", `is "${objective}", which needs the run whose groups are compared: set trajectories`);
    if (trajectories === undefined && perGroup !== undefined)
      refuse("perGroup", "is about the groups of a run: set trajectories");
    if (objective !== "dpo" && objective !== "ipo" && beta !== undefined)
      refuse("beta", 'belongs to objective "dpo" and "ipo"');
    if (objective !== "dpo" && labelSmoothing !== undefined) refuse("labelSmoothing", 'belongs to objective "dpo"');
    for (const { key, message } of distillProblems(stage)) refuse(key, message);
    if (stage.revisit !== undefined && trajectories !== undefined)
      refuse("revisit", "collects episodes of its own: leave trajectories out");
    if (stage.revisit !== undefined && (objective === "dpo" || objective === "ipo"))
      refuse("revisit", `has solutions to imitate and no pairs for objective "${objective}"`);
  });

type Stage = Partial<z.output<z.ZodObject<typeof TEACHER_KEYS>>> & {
  readonly objective?: string | undefined;
  readonly trajectories?: string | undefined;
  readonly weight?: number | undefined;
  readonly temperature?: number | undefined;
  readonly episodes?: "solved" | "all" | undefined;
};

function distillProblems(stage: Stage): { readonly key: string; readonly message: string }[] {
  const { objective = "sft", teacher, trajectories, weight = 0.5, episodes } = stage;
  if (objective !== "distill") {
    const keys = [...Object.keys(TEACHER_KEYS), "weight", "temperature", "episodes"] as const;
    const own = keys.filter((key) => stage[key as keyof Stage] !== undefined);
    return own.map((key) => ({ key, message: 'belongs to objective "distill"' }));
  }
  const problems = [...teacherProblems(stage)];
  if (teacher === undefined)
    problems.push({ key: "teacher", message: 'is missing, and objective "distill" needs one' });
  if (episodes !== undefined && trajectories === undefined)
    problems.push({ key: "episodes", message: "is about the episodes of a run: set trajectories" });
  if (episodes === "all" && weight < 1)
    problems.push({ key: "episodes", message: 'is "all", and failures are not to be imitated: set weight = 1' });
  return problems;
}

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
