/** `ale data synth`: models and sandboxes around the pipeline of `data/synth.ts`. */

import { resolve } from "node:path";
import type { Experiment } from "../config/experiment.ts";
import type { EventHub } from "../core/events.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import type { Player } from "../data/agents.ts";
import { readSourceFolder } from "../data/source-folder.ts";
import { type Budget, type SynthResult, synthesize } from "../data/synth.ts";
import type { ChatUsage } from "../policy/chat-model.ts";
import { grade } from "../sandbox/grading.ts";
import { suiteName } from "../tasks/suite.ts";
import { type LanguageModel, openLanguageModel } from "./language-model.ts";
import { agentLimits } from "./resources.ts";
import { openSandboxes } from "./sandboxes.ts";

export interface SynthOptions {
  /** A folder or the work tree of a repository. */
  readonly source: string;
  readonly outDir: string;
  readonly policy: string;
  /** In place of `policy`. */
  readonly reviewer?: string | undefined;
  readonly solver?: string | undefined;
  /** Its `rollout`, `engine`, `sandbox` and `remote` hold. */
  readonly experiment: Experiment;
  readonly temperature: number;
  readonly profile: string;
  readonly count: number;
  readonly attempts: number;
  readonly repeats: number;
  readonly revisions: number;
  readonly rounds: number;
  readonly concurrency: number;
  readonly budget: Budget;
  readonly hub: EventHub;
  readonly signal: AbortSignal;
}

const MEBIBYTE = 1 << 20;
/** Of the tasks' sandboxes. */
const TASK_LIMITS = { cpus: 1, memoryBytes: 512 * MEBIBYTE, diskBytes: 128 * MEBIBYTE, pids: 128 };
/** Seconds. */
const TIMEOUTS = { command: 60, agent: 600, verifier: 120 };

/** @throws AleError when a model or the sandboxes failed; the folder keeps what was finished. */
export async function synthesizeData(options: SynthOptions): Promise<SynthResult> {
  const { experiment, hub, signal, policy, reviewer = policy, solver = policy, profile } = options;
  const source = readSourceFolder(options.source);
  await using models = await openModels([policy, reviewer, solver], { experiment, hub });
  await using provider = await openSandboxes(options.outDir, models.hidden);
  const environment: EnvironmentSpec = { profile, workdir: "/work", ...TASK_LIMITS };
  const room = source.bytes * 4 + 256 * MEBIBYTE;
  const workshop = { ...environment, memoryBytes: 1024 * MEBIBYTE, diskBytes: room, pids: 256 };
  const { count, attempts, repeats, revisions, rounds, concurrency, budget } = options;
  return await synthesize(
    {
      ...{ folder: resolve(options.outDir), suite: suiteName(options.outDir), source, count, attempts, repeats },
      ...{ revisions, rounds, concurrency, budget, environment, workshop, timeouts: TIMEOUTS },
    },
    {
      cast: { agents: models.player(policy), reviewer: models.player(reviewer), solver: models.player(solver) },
      ...{ provider, grade, hub, signal },
      limits: agentLimits(experiment),
      sampling: { temperature: options.temperature, greedy: false, topP: experiment.rollout.topP },
      episodeMs: experiment.rollout.episodeSeconds * 1000,
      usage: models.usage,
    },
  );
}

/** Several models, each opened once however often it is named. */
export interface LanguageModels extends AsyncDisposable {
  get(policy: string): LanguageModel;
  player(policy: string): Player;
  /** Of all together. */
  usage(): ChatUsage;
  readonly hidden: readonly string[];
}

export async function openModels(
  policies: readonly string[],
  wishes: { readonly experiment: Experiment; readonly hub: EventHub },
): Promise<LanguageModels> {
  const opened = new Map<string, LanguageModel>();
  const close = async () => {
    for (const model of opened.values()) await model[Symbol.asyncDispose]();
  };
  try {
    for (const policy of new Set(policies)) opened.set(policy, await openLanguageModel(policy, wishes));
  } catch (error) {
    await close();
    throw error;
  }
  const all = [...opened.values()];
  const get = (policy: string) => opened.get(policy) as LanguageModel;
  const total = (key: keyof ChatUsage) => all.reduce((sum, { usage }) => sum + usage[key], 0);
  return {
    get,
    player: (policy) => ({ name: policy, policy: get(policy).policy, format: get(policy).format() }),
    usage: () => ({
      requests: total("requests"),
      promptTokens: total("promptTokens"),
      answerTokens: total("answerTokens"),
    }),
    hidden: all.flatMap(({ hidden }) => hidden),
    [Symbol.asyncDispose]: close,
  };
}
