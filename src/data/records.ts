/** What a data set says about its tasks beside the tasks themselves. */

import { z } from "zod";
import type { Trajectory } from "../core/types.ts";

/** Why something did not get into a data set, or was taken out of it. */
export interface Rejection {
  readonly kind: "idea" | "task" | "trajectory";
  /** Name of the task; for ideas without one, what they were called. */
  readonly name: string;
  /** Of a trajectory: which. */
  readonly member?: number | undefined;
  /** The stage or filter that said no. */
  readonly stage: string;
  readonly reason: string;
}

const TurnSchema = z.object({ command: z.string(), observation: z.string(), exitCode: z.number().nullable() });

export const AttemptSchema = z.object({
  task: z.string(),
  policy: z.string(),
  /** Of the instance, where the task is a family. */
  seed: z.number().int().min(0).default(0),
  member: z.number().int().min(0),
  reward: z.number(),
  stopReason: z.string(),
  error: z.string().optional(),
  turns: z.array(TurnSchema),
});

/**
 * One attempt at a task, as text. It holds no tokens: those of a model elsewhere are not ours, so it can be imitated as a
 * demonstration, but never be trained on as something that a policy of ours sampled.
 */
export type Attempt = z.infer<typeof AttemptSchema>;

export function attemptOf(task: string, policy: string, trajectory: Trajectory): Attempt {
  const { member, reward, stopReason, error, turns, seed } = trajectory;
  return {
    task,
    policy,
    seed,
    member,
    reward,
    stopReason,
    ...(error === undefined ? {} : { error }),
    turns: turns.map(({ command, observation, exitCode }) => ({ command, observation, exitCode })),
  };
}

/** Share of attempts with full reward; `undefined` without any. */
export function passRate(attempts: readonly Attempt[]): number | undefined {
  return attempts.length === 0 ? undefined : attempts.filter(isSolution).length / attempts.length;
}

export function isSolution({ reward, stopReason }: Attempt): boolean {
  return reward >= 1 && stopReason === "done";
}
