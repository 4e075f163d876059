/** One idea on its way to a task: build → look → run → review → attempts, with a reason wherever it ends. */

import { AleError, errorMessage } from "../core/errors.ts";
import type { EnvironmentSpec, SandboxFile, Task } from "../core/types.ts";
import { MACHINE_FAULTS, type Trajectory } from "../core/types.ts";
import { collectEpisodes } from "../rollout/collect.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { Limiter } from "../rollout/limiter.ts";
import { readFolder } from "../sandbox/archive-files.ts";
import type { GradeFunction } from "../tasks/check.ts";
import { type AgentParts, type Player, runJob } from "./agents.ts";
import { taskOf } from "./built-task.ts";
import { executionFault, trialFault } from "./execution.ts";
import { HEURISTIC_LIMITS, taskFaults } from "./heuristics.ts";
import type { TaskIdea } from "./ideas.ts";
import { buildPrompt, TASK_FOLDER } from "./prompts/build.ts";
import { REVIEW_FOLDER, REVIEWED_FOLDER, reviewPrompt } from "./prompts/review.ts";
import { trajectoryPrompt } from "./prompts/trajectory.ts";
import { readReview, reviewedFiles } from "./review.ts";

/** Who plays which role; they may be the same. */
export interface Cast {
  /** Explores and builds. */
  readonly agents: Player;
  readonly reviewer: Player;
  readonly solver: Player;
}

export interface MakeParts extends AgentParts {
  readonly cast: Cast;
  readonly grade: GradeFunction;
  readonly hub: EpisodeContext["hub"];
  /** Asked before every agent; throws when no more may be spent. */
  readonly spend: () => void;
}

export interface MakeSettings {
  /** Name of the suite. */
  readonly suite: string;
  readonly source: readonly SandboxFile[];
  /** Of the agents that explore, build and review. */
  readonly workshop: EnvironmentSpec;
  /** Of the tasks. */
  readonly environment: EnvironmentSpec;
  readonly timeouts: Task["timeouts"];
  /** Times that a task is built again after a fault. */
  readonly revisions: number;
  /** Runs of oracle and of nothing that must agree. */
  readonly repeats: number;
  /** Attempts at a finished task. */
  readonly attempts: number;
}

export type Made =
  | {
      readonly status: "accepted";
      readonly task: Task;
      readonly trajectories: readonly Trajectory[];
      readonly builds: number;
    }
  | { readonly status: "rejected"; readonly stage: string; readonly reason: string; readonly builds: number };

/** Folder of the project in the sandboxes of agents. */
export const REPOSITORY_FOLDER = "/work/repo";

interface Fault {
  readonly stage: string;
  readonly reason: string;
}

/**
 * Makes a task out of an idea. What an agent did wrong is in the result.
 * @throws AleError when a policy or a sandbox failed: then nothing is known about the idea
 */
export async function makeTask(idea: TaskIdea, settings: MakeSettings, parts: MakeParts): Promise<Made> {
  let files: readonly SandboxFile[] = [];
  let fault: Fault | undefined;
  for (let build = 0; build <= settings.revisions; build++) {
    const key = `build/${idea.name}/${build}`;
    const left = await buildOnce(idea, key, files, fault?.reason, settings, parts);
    if ("reason" in left) {
      fault = left;
      continue;
    }
    files = left.files;
    const judged = await judgeTask(idea, files, build, settings, parts);
    if ("reason" in judged) {
      fault = judged;
      continue;
    }
    const trajectories = await attempt(judged.task, settings, parts);
    return { status: "accepted", ...judged, trajectories, builds: build + 1 };
  }
  const { stage, reason } = fault ?? { stage: "build", reason: "it was never built" };
  return { status: "rejected", stage, reason, builds: settings.revisions + 1 };
}

async function buildOnce(
  idea: TaskIdea,
  key: string,
  before: readonly SandboxFile[],
  problem: string | undefined,
  { source, workshop }: MakeSettings,
  parts: MakeParts,
): Promise<{ readonly files: readonly SandboxFile[] } | Fault> {
  parts.spend();
  const prompt = buildPrompt({ idea, problem });
  const folders = { [REPOSITORY_FOLDER]: source, [TASK_FOLDER]: before };
  const job = { key, prompt, environment: workshop, folders };
  const { maxFiles, maxBytes } = HEURISTIC_LIMITS;
  return asFault("build", async () => {
    const { left, stopReason } = await runJob(parts.cast.agents, job, parts, (sandbox) =>
      readFolder(sandbox, TASK_FOLDER, { maxFiles, maxBytes }),
    );
    if (left.length === 0)
      throw new AleError("task", `the agent ended by ${stopReason} and left nothing in ${TASK_FOLDER}`);
    return { files: left };
  });
}

/** Turns what is wrong with an agent's work into a fault; what failed under it goes on as an exception. */
async function asFault<T>(stage: string, work: () => Promise<T> | T): Promise<T | Fault> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AleError) || error.code !== "task") throw error;
    return { stage, reason: errorMessage(error) };
  }
}

/** The filters that a built task has to pass, the cheap ones first. */
async function judgeTask(
  idea: TaskIdea,
  files: readonly SandboxFile[],
  build: number,
  settings: MakeSettings,
  parts: MakeParts,
): Promise<{ readonly task: Task } | Fault> {
  const { suite, environment, timeouts, repeats } = settings;
  const task = await asFault("structure", () => taskOf(files, { suite, name: idea.name, environment, timeouts }));
  if ("reason" in task) return task;
  const [seen] = taskFaults(task);
  if (seen !== undefined) return { stage: "heuristic", reason: seen };
  const ran = await executionFault(task, repeats, parts);
  if (ran !== undefined) return { stage: "execution", reason: ran };
  const fault = await reviewTask(task, `review/${idea.name}/${build}`, settings, parts);
  return fault ?? { task };
}

async function reviewTask(
  task: Task,
  key: string,
  { workshop }: MakeSettings,
  parts: MakeParts,
): Promise<Fault | undefined> {
  parts.spend();
  const folders = { [REVIEWED_FOLDER]: reviewedFiles(task), [REVIEW_FOLDER]: [] };
  const job = { key, prompt: reviewPrompt(), environment: workshop, folders };
  const report = await asFault("review", () => runJob(parts.cast.reviewer, job, parts, readReview));
  if ("reason" in report) return report;
  const { left: review, stopReason } = report;
  if (review === undefined) return { stage: "review", reason: `the reviewer ended by ${stopReason} without a verdict` };
  if (!review.accept) return { stage: "review", reason: review.reasons.join(" ") || "the reviewer gave no reason" };
  const fault = await trialFault(task, review.trials, parts);
  return fault === undefined ? undefined : { stage: "review", reason: fault };
}

async function attempt(task: Task, { attempts }: MakeSettings, parts: MakeParts): Promise<readonly Trajectory[]> {
  if (attempts === 0) return [];
  parts.spend();
  const { policy, format } = parts.cast.solver;
  const { provider, limits, sampling, episodeMs, hub, signal } = parts;
  const context: EpisodeContext = {
    ...{ policy, format, provider, limits, sampling, episodeMs, hub, signal },
    grading: "clean",
    sandboxes: new Limiter(attempts),
  };
  const key = `trajectory/${task.family}`;
  const prompted = { ...task, instruction: trajectoryPrompt(task) };
  const how = { limiter: new Limiter(attempts), retries: 2 };
  const { trajectories } = await collectEpisodes({ episodes: key, noise: key }, prompted, attempts, context, how);
  const failed = trajectories.find(({ stopReason }) => MACHINE_FAULTS.has(stopReason));
  if (failed !== undefined) {
    throw new AleError(
      "remote",
      `an attempt at ${task.id} ended by ${failed.stopReason}: ${failed.error ?? "no reason"}`,
      {
        hint: "run the command again: it goes on with this task",
      },
    );
  }
  return trajectories;
}
