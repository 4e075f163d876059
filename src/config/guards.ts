/** `[guards]`: what becomes of trajectories for which the sandbox guards raised an alert. */

import { z } from "zod";

export const GuardedSchema = z
  .strictObject({
    trajectories: z
      .enum(["drop", "punish", "keep"])
      .default("drop")
      .describe(
        "Trajectories with an alert: left out of training, trained on with `reward`, or trained on as they are",
      ),
    reward: z.number().min(-1000).max(1000).default(-1).describe("Reward of a trajectory with an alert, with `punish`"),
  })
  .describe("What the sandbox guards' alerts mean for training; what they look for is in sandboxes/*.toml");

export type GuardedConfig = z.infer<typeof GuardedSchema>;
