/**
 * What every command that runs episodes needs: suite, sandboxes, tokenizer, engine. Opened in order, closed in reverse by
 * `await using`, whatever happens in between.
 */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { TranscriptFormat } from "../agent/format.ts";
import type { AgentLimits } from "../agent/loop.ts";
import { composeAlgorithm, hasCritic } from "../config/composition.ts";
import type { Experiment } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import type { EventHub } from "../core/events.ts";
import type { Policy, SandboxProvider } from "../core/ports.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import { EnginePool, type PoolOptions } from "../device/engine-pool.ts";
import type { EngineOptions } from "../device/protocol.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { Limiter } from "../rollout/limiter.ts";
import { planEngines, poolPlacement } from "./engine-plan.ts";
import type { PolicySource } from "./policy-source.ts";

/** Starts the engines of a run; the files they map lie in the run directory. */
export async function startEngines(
  experiment: Experiment,
  source: Pick<PolicySource, "modelConfig" | "weights" | "folder" | "lora" | "frozen">,
  runDir: string,
  hub: EventHub,
): Promise<EnginePool> {
  const { model } = experiment;
  if (model.quantization !== "none" && source.lora === undefined && source.frozen === undefined) {
    throw new AleError("config", `model.quantization is "${model.quantization}", but this run trains all weights`, {
      hint: 'train adapters (add a [lora] table), or set model.quantization = "none"',
    });
  }
  const plan = planEngines(experiment);
  const folder = join(runDir, "state");
  mkdirSync(folder, { recursive: true });
  const pool = await EnginePool.start(
    {
      devices: plan.map(({ device }) => device),
      folder,
      sequences: experiment.rollout.concurrency,
      placement: poolPlacement(experiment),
      engine: engineSettings(experiment, source),
    },
    (restart) => hub.emit({ type: "engine.restarted", ...restart }),
  );
  for (const [rank, { fallback }] of pool.infos.entries()) {
    if (fallback === undefined) continue;
    const message = `engine ${rank} computes on cpu instead of ${plan[rank]?.device}: ${fallback}`;
    hub.emit({ type: "log", level: "warn", message });
  }
  return pool;
}

/** What training needs besides the policy. */
function learning(
  { algorithm, kl, optimizer, sft }: Experiment,
  { folder, lora }: Pick<PolicySource, "folder" | "lora">,
): Pick<EngineOptions, "valueHead" | "reference" | "divergence" | "noDecay"> {
  const isCompared = kl !== undefined || sft.stages.some(({ objective }) => objective === "dpo" || objective === "ipo");
  return {
    ...(hasCritic(composeAlgorithm(algorithm)) && { valueHead: true }),
    ...(isCompared && lora === undefined && folder !== undefined && { reference: folder }),
    ...(kl?.estimator === "full" && { divergence: true }),
    ...(optimizer.noDecay && { noDecay: optimizer.noDecay }),
  };
}

/** What all engines of a run have in common. */
export function engineSettings(
  experiment: Experiment,
  source: Pick<PolicySource, "modelConfig" | "weights" | "folder" | "lora" | "frozen">,
): PoolOptions["engine"] {
  const { engine, model, rollout, trainer, deterministic } = experiment;
  return {
    modelConfig: source.modelConfig,
    weights: source.weights,
    ...(source.lora === undefined ? {} : { lora: source.lora }),
    ...learning(experiment, source),
    ...(source.frozen === undefined ? {} : { frozen: source.frozen }),
    ...(model.quantization === "none" ? {} : { quantization: model.quantization }),
    storage: engine.storage,
    threads: planEngines(experiment)[0]?.threads ?? 1,
    slots: engine.slots,
    fallback: engine.fallback,
    cacheBytes: engine.cacheGb * 1e9,
    afterSync: engine.afterSync,
    prefillTokens: engine.prefillTokens,
    trainShare: engine.trainShare,
    context: rollout.maxEpisodeTokens,
    microBatchTokens: trainer.microBatchTokens,
    executor: trainer.executor,
    packing: trainer.packing,
    updatesPerStep: trainer.minibatches * trainer.epochs,
    deterministic,
    timeline: experiment.timeline.enabled,
  };
}

/** The parts of a run that an episode touches. */
export interface EpisodeParts {
  readonly options: { readonly experiment: Experiment; readonly hub: EventHub; readonly signal: AbortSignal };
  readonly source: { readonly format: TranscriptFormat };
  readonly provider: SandboxProvider;
  readonly engine: Policy;
}

/** What an episode of this experiment is run with. */
export function episodeContext(
  { options, source, provider, engine }: EpisodeParts,
  sampling: EpisodeContext["sampling"],
): EpisodeContext {
  const { rollout, sandbox, reward } = options.experiment;
  return {
    policy: engine,
    provider,
    format: source.format,
    hub: options.hub,
    signal: options.signal,
    limits: agentLimits(options.experiment),
    sampling,
    grading: sandbox.grading,
    withTests: reward?.outcome === "pass-rate" || reward?.function !== undefined,
    episodeMs: rollout.episodeSeconds * 1000,
    sandboxes: new Limiter(sandbox.concurrency),
    ...(rollout.latency && { latency: { law: rollout.latency, members: rollout.groupSize } }),
  };
}

export function agentLimits({ rollout }: Experiment): AgentLimits {
  const { maxTurns, maxCommandTokens, maxEpisodeTokens, maxObservationChars, commandSeconds } = rollout;
  const limits = { maxTurns, maxCommandTokens, maxEpisodeTokens, maxObservationChars };
  return commandSeconds === undefined ? limits : { ...limits, commandSeconds };
}

/** Keeps `count` sandboxes ready, spread over the environments in use. */
export function warmUp(provider: SandboxProvider, environments: readonly EnvironmentSpec[], count: number): void {
  for (const environment of environments) provider.warm(environment, Math.ceil(count / environments.length));
}
