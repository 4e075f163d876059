/** `revisit` of a supervised stage: what the policy solves by itself, and more of what it fails. */

import { z } from "zod";

export const RevisitSchema = z
  .strictObject({
    tasks: z
      .number()
      .int()
      .min(1)
      .max(1_000_000)
      .default(256)
      .describe("Training tasks that the policy tries before the stage"),
    samples: z
      .number()
      .int()
      .min(1)
      .max(1024)
      .default(8)
      .describe("Attempts at each; the shortest that solves it is kept"),
    share: z
      .number()
      .min(0)
      .max(1)
      .default(0.5)
      .describe("Share of the stage's examples that are its own solutions, at most; the others are demonstrations"),
    floor: z
      .number()
      .min(0.001)
      .max(1)
      .default(0.1)
      .describe("Weight of a family without failures, beside 1 for one without successes"),
    temperature: z
      .number()
      .min(0.01)
      .max(10)
      .optional()
      .describe("Sampling temperature; rollout.temperature when omitted"),
  })
  .describe("Adaptive revisiting: sample solutions, verify them, and weigh families by what still fails");

export type RevisitConfig = z.infer<typeof RevisitSchema>;
