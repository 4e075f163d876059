/**
 * The experiment file: the single declaration of every setting, with type, default, bounds and description. The command
 * line, `ale config schema`, `--dry-run` and the docs are all derived from it.
 *
 * Defaults are the recipe that was measured on the shell suite.
 */

import { z } from "zod";
import { DEVICE_PATTERN } from "../core/device.ts";
import { MATRIX_STORAGES } from "../core/matrix-storage.ts";
import { QUANTIZATIONS } from "../core/quantization.ts";
import { AlgorithmSchema, KlSchema } from "./algorithm.ts";
import { AsyncSchema, FilterSchema } from "./async.ts";
import { experimentProblems } from "./combinations.ts";
import { DistillationSchema } from "./distillation.ts";
import { GuardedSchema } from "./guards.ts";
import { LatencySchema } from "./latency.ts";
import { LoraSchema } from "./lora.ts";
import { networkCapFields } from "./network-cap.ts";
import { RemoteSchema } from "./remote.ts";
import { ResamplingSchema } from "./resampling.ts";
import { RewardSchema } from "./reward.ts";
import { sandboxBackendFields } from "./sandbox-backend.ts";
import { SftSchema } from "./sft.ts";
import { TasksSchema } from "./tasks.ts";

const fraction = (description: string, value: number) => z.number().min(0).max(1).default(value).describe(description);
const count = (description: string, value: number, max = 1_000_000) =>
  z.number().int().min(1).max(max).default(value).describe(description);

const ModelSchema = z
  .strictObject({
    preset: z.string().default("shell").describe("Architecture in models/<preset>.toml, for training from scratch"),
    path: z
      .string()
      .optional()
      .describe("Hugging Face folder or GGUF file to start from; omit to start from random weights"),
    quantization: z
      .enum(QUANTIZATIONS)
      .default("none")
      .describe(
        "Form of the frozen weights under adapters: as they are, or rounded to 8 or 4 bits in blocks of 32, or 4 bits in blocks of 128",
      ),
  })
  .describe("The policy's architecture and starting weights");

const RolloutSchema = z
  .strictObject({
    groups: count("Tasks per training step", 32, 4096),
    groupSize: count("Episodes per task", 8, 1024),
    redundancy: z
      .number()
      .int()
      .min(0)
      .max(1024)
      .default(0)
      .describe("Episodes per task beyond groupSize; the first groupSize to end count, the others are cancelled"),
    filter: FilterSchema.optional(),
    retries: z
      .number()
      .int()
      .min(0)
      .max(100)
      .default(3)
      .describe(
        "Times an episode is tried again, with growing pauses, after sandbox, grader or engine failed under it",
      ),
    temperature: z.number().min(0.01).max(10).default(1).describe("Sampling temperature"),
    topK: z.number().int().min(0).max(1_000_000).default(0).describe("Sample among the k most likely tokens; 0 = all"),
    topP: z
      .number()
      .min(0.01)
      .max(1)
      .default(1)
      .describe("Sample among the most likely tokens that together reach this probability; 1 = all"),
    minP: fraction("Sample among tokens at least this share as likely as the most likely one; 0 = all", 0),
    repetitionPenalty: z
      .number()
      .min(0.1)
      .max(10)
      .default(1)
      .describe("Divides (negative logits: multiplies) the logits of all tokens in the context; 1 = off"),
    systemPrompt: z
      .string()
      .max(100_000)
      .optional()
      .describe("System message for chat models; when omitted, one that says how commands are written"),
    maxTurns: count(
      "Commands per episode; after the last one nothing more is asked, so a solved episode has one less",
      6,
      1000,
    ),
    maxCommandTokens: count("Tokens per answer: a command, and what a chat model says around it", 36, 100_000),
    maxEpisodeTokens: count("Tokens per episode, prompt and observations included", 208, 1_000_000),
    maxObservationChars: count("Characters of an observation shown to the policy", 64, 1_000_000),
    concurrency: count("Episodes in flight at once", 256, 100_000),
    episodeSeconds: z.number().min(0.1).max(86_400).default(30).describe("Wall-clock limit of an episode, in seconds"),
    commandSeconds: z
      .number()
      .min(0.05)
      .max(86_400)
      .optional()
      .describe("Wall-clock limit of a command, in seconds; the task's own limit when omitted"),
    latency: LatencySchema.optional(),
  })
  .describe("How episodes are collected");

const OptimizerSchema = z
  .strictObject({
    lr: z.number().min(0).max(10).default(3e-4).describe("Peak learning rate of AdamW"),
    betas: z
      .tuple([z.number().min(0).max(0.9999999), z.number().min(0).max(0.9999999)])
      .default([0.9, 0.95])
      .describe("AdamW moment decays"),
    eps: z.number().min(1e-16).max(1).default(1e-8).describe("AdamW ε"),
    weightDecay: z.number().min(0).max(10).default(0).describe("Decoupled weight decay"),
    noDecay: z
      .array(z.enum(["norms", "biases", "embeddings"]))
      .optional()
      .describe("What weight decay leaves alone; nothing when omitted"),
    clip: z.number().min(0).max(1e6).default(1).describe("Global gradient-norm clip; 0 turns it off"),
    schedule: z.enum(["constant", "linear", "cosine"]).default("linear").describe("Learning rate after warm-up"),
    warmupSteps: z.number().int().min(0).max(1_000_000).default(5).describe("Steps of linear warm-up"),
    minRatio: fraction("Final learning rate as a share of the peak", 0.1),
  })
  .describe("AdamW and its schedule; the schedule counts steps, never seconds");

const TrainerSchema = z
  .strictObject({
    steps: z.number().int().min(0).max(10_000_000).default(100).describe("Training steps"),
    minibatches: count("Optimizer updates per step", 2, 1024),
    epochs: count("Passes over a step's trajectories", 1, 100),
    microBatchTokens: count("Tokens per forward/backward pass", 2048, 10_000_000),
    executor: z
      .enum(["auto", "graph", "layers"])
      .default("auto")
      .describe(
        "Gradients from one graph of the whole model, or layer by layer in less memory; auto: by the model's size",
      ),
    packing: z
      .enum(["auto", "on", "off"])
      .default("auto")
      .describe(
        "Several sequences per row of a training batch, on processors; auto: where that saves enough padding. GPUs: one per row",
      ),
    parityLimit: z
      .number()
      .min(0)
      .default(1e-4)
      .describe(
        "Largest |logprob(training) − logprob(generation)| / max(1, |logprob|) of the same weights before the run stops; 0 = any",
      ),
    parityMeanLimit: z
      .number()
      .min(0)
      .default(0)
      .describe("Largest mean of the same, for reduced precision, where single tokens may be far off; 0 = any"),
    parityKlLimit: z
      .number()
      .min(0)
      .default(0)
      .describe("Largest estimate of KL(generation ‖ training) of the same weights; 0 = any"),
  })
  .describe("The training loop");

const EvaluationSchema = z
  .strictObject({
    every: z
      .number()
      .int()
      .min(0)
      .max(1_000_000)
      .default(20)
      .describe("Steps between evaluations; 0 = first and last only"),
    dev: z
      .number()
      .int()
      .min(0)
      .max(1_000_000)
      .default(210)
      .describe("Development instances per evaluation; they choose the best step"),
    heldout: z
      .number()
      .int()
      .min(0)
      .max(1_000_000)
      .default(420)
      .describe("Held-out instances per evaluation; only reported"),
    greedy: z.boolean().default(true).describe("Also evaluate the held-out instances with greedy decoding"),
  })
  .describe("Evaluation on instances that are never trained on");

const EngineSchema = z
  .strictObject({
    devices: z
      .array(z.string().regex(DEVICE_PATTERN, 'a device such as "cpu", "webgpu" or "cuda:1"'))
      .min(1)
      .max(64)
      .default(["cpu"])
      .describe("One engine process per entry, e.g. cpu, webgpu, cuda:0; an entry may occur several times"),
    fit: z
      .enum(["refuse", "auto"])
      .default("refuse")
      .describe(
        "A run that needs more memory than there is: refused with settings that would fit, or started with those settings",
      ),
    fallback: z
      .enum(["none", "cpu"])
      .default("none")
      .describe(
        "Where to compute when a device cannot be used: nowhere, or on cpu; an operator is never moved by itself",
      ),
    storage: z
      .enum(MATRIX_STORAGES)
      .default("float32")
      .describe("How GPUs keep weight matrices; what is trained has float32 masters in any case"),
    threads: z
      .number()
      .int()
      .min(1)
      .max(1024)
      .optional()
      .describe("Threads of each engine on a cpu; all cores shared out among those engines when omitted"),
    slots: z.number().int().min(2).max(4096).default(32).describe("Sequences per decode batch"),
    cacheGb: z
      .number()
      .min(0.000001)
      .max(100_000)
      .default(4)
      .describe("Memory for the caches of open sequences, in gigabytes; those that do not fit are computed again"),
    afterSync: z
      .enum(["recompute", "keep"])
      .default("recompute")
      .describe("What happens at a turn boundary to a cache that older weights wrote; `kvOldest` tells which did"),
    placement: z
      .enum(["shared", "split", "elastic"])
      .default("shared")
      .describe(
        "Who trains and who generates: all engines both, the first `trainers` only train, or as many train as the work asks for",
      ),
    trainers: z
      .number()
      .int()
      .min(1)
      .max(63)
      .optional()
      .describe("Engines that train with placement `split`, the first of `devices`; 1 when omitted"),
    trainShare: z
      .number()
      .min(0.05)
      .max(0.95)
      .default(0.5)
      .describe(
        "Share of an engine's time that training gets while sequences wait for tokens; alone it gets all of it",
      ),
    prefillTokens: count("Tokens of context computed between two decode steps, in chunks of up to 512", 512),
  })
  .describe("The processes that generate and train");

const SandboxSchema = z
  .strictObject({
    ...sandboxBackendFields,
    ...networkCapFields,
    warm: z.number().int().min(0).max(100_000).default(64).describe("Sandboxes kept ready"),
    concurrency: count("Sandboxes graded or started at once", 16, 10_000),
    grading: z.enum(["clean", "stopped", "live"]).default("clean").describe("How episodes are graded"),
  })
  .describe("Isolation and grading");

const CheckpointSchema = z
  .strictObject({
    every: count("Steps between checkpoints", 1),
    keep: count("Checkpoints kept besides the best", 2, 10_000),
    waitForRoom: z
      .number()
      .min(0)
      .max(1_000_000)
      .default(60)
      .describe("Minutes that a run waits for room on a full disk before it fails; 0 = none"),
  })
  .describe("What `ale resume` continues from");

const ServiceSchema = z
  .strictObject({
    enabled: z.boolean().default(true).describe("Serve the dashboard and API while the run lasts"),
    port: z.number().int().min(0).max(65_535).default(4242).describe("Port on 127.0.0.1; 0 picks a free one"),
  })
  .describe("Local dashboard and API");

const TimelineSchema = z
  .strictObject({
    enabled: z.boolean().default(true).describe("Record when engines and episodes did what, for traces and the report"),
    keep: count("Newest steps whose timeline stays in the store", 20, 1_000_000),
  })
  .describe("What happened when");

export const ExperimentSchema = z
  .strictObject({
    name: z
      .string()
      .regex(/^[a-z0-9][a-z0-9-]{0,63}$/, "lower-case letters, digits and dashes")
      .default("experiment")
      .describe("Name of the experiment; run ids start with it"),
    seed: z
      .number()
      .int()
      .min(0)
      .max(2 ** 31 - 1)
      .default(1)
      .describe("Seed of everything random in the run"),
    deterministic: z
      .boolean()
      .default(false)
      .describe("Bit-equal re-runs: fixed threads, fixed decode shapes, canonical order, self-tested at the start"),
    model: ModelSchema.prefault({}),
    lora: LoraSchema,
    tasks: TasksSchema.prefault({}),
    rollout: RolloutSchema.prefault({}),
    async: AsyncSchema.prefault({}),
    algorithm: AlgorithmSchema,
    kl: KlSchema,
    distillation: DistillationSchema,
    resampling: ResamplingSchema.optional(),
    remote: RemoteSchema.optional(),
    reward: RewardSchema.optional(),
    optimizer: OptimizerSchema.prefault({}),
    trainer: TrainerSchema.prefault({}),
    evaluation: EvaluationSchema.prefault({}),
    engine: EngineSchema.prefault({}),
    sandbox: SandboxSchema.prefault({}),
    guards: GuardedSchema.prefault({}),
    checkpoint: CheckpointSchema.prefault({}),
    service: ServiceSchema.prefault({}),
    timeline: TimelineSchema.prefault({}),
    sft: SftSchema.prefault({}),
  })
  .superRefine((experiment, context) => {
    for (const { path, message } of experimentProblems(experiment)) {
      context.addIssue({ code: "custom", path: [...path], message });
    }
  });

/** A fully resolved experiment: every default filled in. */
export type Experiment = z.infer<typeof ExperimentSchema>;
export type SftStage = Experiment["sft"]["stages"][number];
