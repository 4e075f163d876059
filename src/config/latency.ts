/** `[rollout.latency]`: environments that answer late, for measurements of asynchronous training (`docs/throughput.md`). */

import { z } from "zod";

const TAIL = {
  stragglers: z.number().min(0).max(1).default(0).describe("Share of episodes all of whose turns are slower by factor"),
  stragglersPerGroup: z
    .number()
    .int()
    .min(0)
    .max(1024)
    .default(0)
    .describe("Episodes of every group that are, exactly so many"),
  factor: z.number().min(1).max(10_000).default(20).describe("How many times slower a straggler's turns are"),
};
const milliseconds = (description: string) => z.number().min(0).max(3_600_000).default(100).describe(description);

const LognormalSchema = z.strictObject({
  type: z.literal("lognormal"),
  medianMs: milliseconds("Median latency of a turn, in milliseconds"),
  sigma: z.number().min(0).max(5).default(1).describe("Standard deviation of its logarithm"),
  ...TAIL,
});

const ParetoSchema = z.strictObject({
  type: z.literal("pareto"),
  fromMs: milliseconds("Least latency of a turn, in milliseconds"),
  alpha: z.number().min(0.1).max(100).default(1.5).describe("P(latency > x) = (fromMs / x)^alpha"),
  ...TAIL,
});

const ConstantSchema = z.strictObject({
  type: z.literal("constant"),
  ms: milliseconds("Latency of every turn, in milliseconds"),
  ...TAIL,
});

export const LatencySchema = z
  .discriminatedUnion("type", [LognormalSchema, ParetoSchema, ConstantSchema])
  .describe("Simulated latency of the environment before every command, slept in the sandbox; none when omitted");

export type LatencyLaw = z.infer<typeof LatencySchema>;
