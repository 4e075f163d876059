/** `[tasks]`: where tasks come from, and which of them a run meets how often. */

import { z } from "zod";

const SuitePartSchema = z.strictObject({
  suite: z.string().describe("Task suite: a folder, or the name of an embedded suite"),
  families: z.array(z.string()).optional().describe("Use only these families of it"),
  weight: z.number().min(0.000001).max(1_000_000).default(1).describe("Tasks from it, relative to the other suites"),
  concurrency: z
    .number()
    .int()
    .min(1)
    .max(100_000)
    .optional()
    .describe("Training episodes of it in flight at once; rollout.concurrency bounds all together"),
});

const CurriculumSchema = z
  .strictObject({
    window: z
      .number()
      .int()
      .min(1)
      .max(100_000)
      .default(64)
      .describe("Last episodes of a family that make its pass rate"),
    low: z.number().min(0).max(1).default(0.05).describe("Families that pass less often are too hard for now"),
    high: z.number().min(0).max(1).default(0.95).describe("Families that pass more often have been learned"),
    floor: z
      .number()
      .min(0.001)
      .max(1)
      .default(0.1)
      .describe("How often either kind is met all the same, relative to the others"),
  })
  .describe("Families are met more often where there is something to learn; absent = all alike");

export const TasksSchema = z
  .strictObject({
    suite: z.string().default("tasks/shell").describe("Task suite: a folder, or the name of an embedded suite"),
    families: z.array(z.string()).optional().describe("Use only these families of the suite"),
    mix: z.array(SuitePartSchema).min(1).max(64).optional().describe("Several suites, in place of `suite`"),
    curriculum: CurriculumSchema.optional(),
  })
  .describe("Where tasks come from");

export type TasksConfig = z.infer<typeof TasksSchema>;
export type CurriculumConfig = z.infer<typeof CurriculumSchema>;
