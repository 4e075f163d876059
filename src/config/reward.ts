/** `[reward]`: what training makes of an episode's outcome. docs/rewards.md has the formulas. */

import { z } from "zod";

const weight = (description: string) => z.number().min(-1000).max(1000).default(1).describe(description);
const penalty = (value: number, description: string) =>
  z.number().min(0).max(1000).default(value).describe(description);
const policy = z.string().min(1).describe("Who judges: openai:URL#MODEL, openai as [remote] says, or scripted:FILE");
const votes = (description: string) => z.number().int().min(1).max(64).default(1).describe(description);
const rubric = z.string().min(1).max(20_000).describe("What is judged, in words");

const LengthSchema = z
  .strictObject({
    maxTokens: z
      .number()
      .int()
      .min(1)
      .max(10_000_000)
      .describe("Sampled tokens from which on the whole penalty is taken off"),
    buffer: z.number().int().min(1).max(10_000_000).describe("Tokens before that over which it grows"),
    penalty: penalty(1, "Taken off at most"),
  })
  .describe("Soft punishment of long episodes, as in DAPO; absent = none");

const JudgeSchema = z
  .strictObject({
    policy,
    rubric,
    votes: votes("Times that it is asked about each episode; their mean counts"),
    weight: weight("Weight of its score, which is from 0 to 1"),
    of: z.enum(["all", "solved"]).default("all").describe("Which episodes are judged; the others get 0"),
  })
  .describe("A model that gives a score by a rubric; absent = none");

const RankingSchema = z
  .strictObject({
    by: z
      .enum(["judge", "tokens", "turns", "time"])
      .describe("What decides: a judge's comparisons in pairs, or fewer tokens, turns or milliseconds"),
    among: z.enum(["all", "solved"]).default("solved").describe("Members of a group that are ranked; the others get 0"),
    weight: weight("Weight of the place, from 0.5 for the first to −0.5 for the last"),
    policy: policy.optional(),
    rubric: rubric.optional(),
    opponents: z.number().int().min(1).max(1000).default(3).describe("judge: members that each is compared with"),
  })
  .describe("Places within a group; absent = none");

export const RewardSchema = z
  .strictObject({
    outcome: z
      .enum(["score", "binary", "pass-rate"])
      .default("score")
      .describe("What the tests wrote; 1 where that is at least 1 and 0 elsewhere; or the share of tests that passed"),
    outcomeWeight: weight("Weight of the outcome"),
    formatPenalty: penalty(
      0,
      "Taken off an episode that ended by a malformed answer; else times its share of such answers",
    ),
    length: LengthSchema.optional(),
    judge: JudgeSchema.optional(),
    ranking: RankingSchema.optional(),
    function: z
      .string()
      .min(1)
      .optional()
      .describe("TypeScript file with a function of yours: `export function reward(episode): number`"),
    sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/, "64 hexadecimal digits")
      .optional()
      .describe("Hash of that file: says that you know what is in it; `ale run --trust` fills it in"),
    functionWeight: weight("Weight of what it returns"),
    functionSeconds: z.number().min(0.01).max(3600).default(10).describe("Longest that one call of it may take"),
  })
  .superRefine((reward, context) => {
    const refuse = (path: string[], message: string) => context.addIssue({ code: "custom", path, message });
    const { ranking, length } = reward;
    if (ranking?.by === "judge" && (ranking.policy === undefined || ranking.rubric === undefined))
      refuse(["ranking", "by"], 'is "judge", which needs policy and rubric');
    if (ranking !== undefined && ranking.by !== "judge" && (ranking.policy ?? ranking.rubric) !== undefined)
      refuse(["ranking", "policy"], 'and rubric belong to by = "judge"');
    if (length !== undefined && length.buffer > length.maxTokens)
      refuse(["length", "buffer"], `is ${length.buffer}, more than maxTokens, ${length.maxTokens}`);
    if (reward.function === undefined && reward.sha256 !== undefined)
      refuse(["sha256"], "is the hash of a function, and reward.function is not set");
  })
  .describe("What training makes of an episode's outcome; absent = the outcome itself. Evaluations count outcomes");

export type RewardConfig = z.infer<typeof RewardSchema>;
