/** `[async]` and `[rollout.filter]`: how far rollout runs ahead of training, and which groups are trained on. */

import { z } from "zod";

export const AsyncSchema = z
  .strictObject({
    ratio: z
      .number()
      .min(0)
      .max(1000)
      .default(0)
      .describe(
        "Training steps that rollout may be ahead; 0 = they take turns. A fraction f allows f of a batch to be one step older",
      ),
    batch: z
      .enum(["greedy", "rounds"])
      .default("greedy")
      .describe(
        "greedy: a batch takes whatever groups are finished; rounds: every queue gives one before any gives its second",
      ),
  })
  .describe("Rollout and training at the same time, with a bound on staleness");

export const FilterSchema = z
  .strictObject({
    equal: z.boolean().default(true).describe("Reject groups whose rewards are all equal"),
    minMean: z.number().optional().describe("Reject groups with a lower mean reward"),
    maxMean: z.number().optional().describe("Reject groups with a higher mean reward"),
    minStd: z.number().min(0).default(0).describe("Reject groups with a lower standard deviation of rewards"),
    module: z
      .string()
      .optional()
      .describe(
        "TypeScript file whose export `keep(rewards: number[], family: string): boolean` decides about the others",
      ),
    sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/, "64 hexadecimal digits")
      .optional()
      .describe("Hash of that file: says that you know what is in it; `ale run --trust` fills it in"),
    attempts: z
      .number()
      .int()
      .min(1)
      .max(1000)
      .default(5)
      .describe("Groups in a row that one queue may lose before its next is taken as it is"),
  })
  .superRefine(({ module, sha256 }, context) => {
    const message = "is the hash of a module, and rollout.filter.module is not set";
    if (module === undefined && sha256 !== undefined) context.addIssue({ code: "custom", path: ["sha256"], message });
  })
  .describe("Finished groups that are thrown away and replaced at once by another task's; absent = none");

export type FilterConfig = z.infer<typeof FilterSchema>;
