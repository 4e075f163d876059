/** `[resampling]`: chunk-level initialised resampling of IPA (arXiv 2512.24873, section 3.2.4). */

import { z } from "zod";

const share = (value: number, description: string) => z.number().min(0).max(1).default(value).describe(description);
const count = (value: number, max: number, description: string) =>
  z.number().int().min(1).max(max).default(value).describe(description);

export const ResamplingSchema = z
  .strictObject({
    mode: z
      .enum(["parallel", "sequential"])
      .default("parallel")
      .describe("parallel: several anchors at once; sequential: from the last chunk towards the start"),
    tasks: count(4, 4096, "Hard tasks of a step that are resampled, at most"),
    episodes: count(8, 1024, "Episodes per anchor and step; they are one group"),
    anchors: count(3, 64, "parallel: anchors per task"),
    spacing: z
      .enum(["uniform", "random"])
      .default("uniform")
      .describe("parallel: where the anchors lie on the expert's trajectory"),
    window: count(16, 10_000, "Last episodes from scratch that say whether a family of tasks is hard"),
    passAtMost: share(0.3, "Share of successes among them up to which it is"),
    advanceAt: share(0.7, "sequential: share of successes at which the anchor moves towards the start"),
    drop: share(0.2, "Loss of success from one anchor to the one before that marks what lies between as crucial"),
    retreatAfter: count(
      32,
      100_000,
      "sequential: outcomes at an anchor after which, where less than a tenth succeeded, it moves back towards the end",
    ),
    imitation: z
      .number()
      .min(0)
      .max(100)
      .default(0.1)
      .describe("Weight of imitating the expert's chunks up to the last crucial one, beside reinforcement; 0 = off"),
  })
  .describe("Resampling of hard tasks from an expert's intermediate states; absent = off");

export type ResamplingConfig = z.infer<typeof ResamplingSchema>;
