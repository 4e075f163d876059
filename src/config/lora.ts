/** The `lora` table of an experiment: low-rank adapters on a frozen model. */

import { z } from "zod";

/** Projections that adapters may be put on, by the last part of their module's name. */
export const LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const;
export type LoraTarget = (typeof LORA_TARGETS)[number];

export const LoraSchema = z
  .strictObject({
    rank: z.number().int().min(1).max(4096).default(16).describe("Rank of the adapters"),
    alpha: z.number().min(1e-6).max(1e6).default(32).describe("Adapters are scaled by alpha / rank"),
    rslora: z.boolean().default(false).describe("Scale by alpha / √rank instead"),
    targets: z
      .array(z.enum(LORA_TARGETS))
      .min(1)
      .optional()
      .describe("Projections with an adapter; all of attention and MLP when omitted"),
    seed: z
      .number()
      .int()
      .min(0)
      .max(2 ** 31 - 1)
      .default(0)
      .describe("Seed of the adapters' first values"),
    adapter: z.string().optional().describe("PEFT folder to start from instead; it sets rank, alpha and targets"),
  })
  .optional()
  .describe("Train low-rank adapters and leave the model as it is; all parameters are trained when omitted");
