/**
 * What the command line calls. The implementations live in `run.ts`, `sft.ts`, `evaluate.ts` and `check.ts` and are
 * imported only when a command needs them, so that `ale --help` loads neither the engine nor the sandboxes.
 */

import type { Experiment } from "../config/experiment.ts";
import type { EventHub } from "../core/events.ts";
import type { Quantization } from "../core/quantization.ts";
import type { Split } from "../core/types.ts";

export interface RunOptions {
  readonly experiment: Experiment;
  /** The resolved experiment, written to the run directory as `config.toml`. */
  readonly toml: string;
  readonly configHash: string;
  /** Absolute path of the run directory; it exists and is empty, except when a run is resumed. */
  readonly outDir: string;
  readonly storePath: string;
  readonly resumeRunId?: string;
  readonly hub: EventHub;
  /** Aborted by the first interrupt: finish the step, save, clean up and return `interrupted`. */
  readonly stop: AbortSignal;
  /** Aborted by the second: save, clean up and return `interrupted` at once. */
  readonly signal: AbortSignal;
  readonly serve: boolean;
  /** Id or directory of a run whose recorded batches are trained on, in place of a rollout. */
  readonly replay?: string;
}

export interface RunResult {
  readonly runId: string;
  readonly outDir: string;
  readonly status: "finished" | "interrupted" | "failed";
  readonly summaryPath: string;
}

export type RunExperiment = (options: RunOptions) => Promise<RunResult>;

export interface EvaluateOptions {
  readonly suite: string;
  /** Folder of a policy, or `oracle`, `noop`, `random`. */
  readonly policy: string;
  /** PEFT folder to put on the policy. */
  readonly adapter?: string | undefined;
  /** In place of the experiment's. */
  readonly quantization?: Quantization | undefined;
  /** Its `rollout`, `engine` and `sandbox` hold. */
  readonly experiment: Experiment;
  readonly samples: number;
  readonly split: Split;
  readonly greedy: boolean;
  readonly temperature: number;
  readonly seed: number;
  readonly families?: readonly string[];
  readonly hub: EventHub;
  readonly signal: AbortSignal;
}

export interface EvaluationResult {
  readonly policy: string;
  readonly suite: string;
  readonly split: Split;
  /** Share of episodes with reward 1. */
  readonly rate: number;
  readonly n: number;
  /** Wilson 95 % interval of `rate`. */
  readonly low: number;
  readonly high: number;
  readonly greedy: boolean;
  readonly perFamily: Readonly<Record<string, { readonly rate: number; readonly n: number }>>;
  readonly stopReasons: Readonly<Record<string, number>>;
  /** Why the first episode that could not be judged failed. */
  readonly error?: string;
  readonly isolation: string;
  readonly ms: number;
}

export type EvaluatePolicy = (options: EvaluateOptions) => Promise<EvaluationResult>;

export interface CheckTasksOptions {
  readonly suite: string;
  readonly samples: number;
  readonly families?: readonly string[];
  readonly hub: EventHub;
  readonly signal: AbortSignal;
}

/** One instance of a task: the rewards of its oracle (must be 1) and of doing nothing (must be 0). */
export interface TaskCheck {
  readonly task: string;
  readonly seed: number;
  readonly oracle: number;
  readonly noop: number;
  readonly ms: number;
  /** Why the oracle or the grader failed, when it is known. */
  readonly error?: string;
}

export type CheckTasks = (options: CheckTasksOptions) => AsyncIterable<TaskCheck>;

/** What `ale generate` continues. */
export type GenerateInput =
  | { readonly kind: "ids"; readonly ids: readonly number[] }
  /** Continued as it is; special tokens may be written out in it. */
  | { readonly kind: "text"; readonly text: string }
  /** Said to the model as a user, through its chat template. */
  | { readonly kind: "chat"; readonly text: string; readonly system?: string };

/** As `SamplingOptions`; what is left out is as the model's authors sample. */
export interface SamplingWishes {
  readonly greedy: boolean;
  readonly maxTokens: number;
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly minP?: number | undefined;
  readonly repetitionPenalty?: number | undefined;
  readonly topLogprobs?: number | undefined;
}

export interface GenerateOptions {
  /** Policy folder, or the name of an embedded one. */
  readonly model: string;
  /** PEFT folder to put on it. */
  readonly adapter?: string | undefined;
  readonly quantization: Quantization;
  readonly input: GenerateInput;
  readonly sampling: SamplingWishes;
  readonly stopStrings: readonly string[];
  readonly stopIds: readonly number[];
  /** Go on behind the model's end tokens. */
  readonly ignoreEnd: boolean;
  readonly seed: number;
  readonly threads: number;
  readonly signal: AbortSignal;
  /** Called with the answer's text as it grows. */
  readonly onText?: (piece: string) => void;
}

export interface GenerateResult {
  readonly ids: readonly number[];
  /** `null` without a tokenizer. */
  readonly text: string | null;
  /** Log-probability of each id under the distribution it was sampled from; at temperature 1 when greedy. */
  readonly logprobs: readonly number[];
  /** An end token or a stop string, the limit of tokens, or the end of the context. */
  readonly stop: "stop" | "length" | "context";
  readonly stopString?: string;
  /** For each id, the most likely tokens of its distribution, the likeliest first. */
  readonly topLogprobs?: readonly (readonly { readonly id: number; readonly logprob: number }[])[];
  readonly promptIds: readonly number[];
  readonly seed: number;
}
