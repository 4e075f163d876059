/** Settings that are sound one by one but not together. */

import type { AlgorithmConfig } from "./algorithm.ts";
import { composeAlgorithm } from "./composition.ts";
import { type DistillationConfig, isAddress } from "./distillation.ts";
import { type NetworkCapSettings, networkCapProblem } from "./network-cap.ts";
import type { RewardConfig } from "./reward.ts";
import { backendProblem, isRemote, type SandboxBackend } from "./sandbox-backend.ts";

export interface ExperimentProblem {
  readonly path: readonly string[];
  /** The rest of a sentence that begins with the key. */
  readonly message: string;
}

/** The settings that the rules here are about. */
interface Settings {
  readonly deterministic: boolean;
  readonly async: { readonly ratio: number };
  readonly rollout: { readonly redundancy: number; readonly temperature: number };
  readonly algorithm: AlgorithmConfig;
  readonly kl?: { readonly in: "loss" | "reward" } | undefined;
  readonly distillation?: DistillationConfig | undefined;
  readonly reward?: RewardConfig | undefined;
  readonly sft: { readonly stages: readonly { readonly teacher?: string | undefined }[] };
  readonly sandbox: SandboxBackend & NetworkCapSettings;
  readonly resampling?: unknown;
}

export function experimentProblems(settings: Settings): ExperimentProblem[] {
  const { deterministic, async, rollout, algorithm, kl, distillation, reward, sandbox, resampling } = settings;
  const problems: ExperimentProblem[] = [];
  const refuse = (key: string, message: string) => problems.push({ path: key.split("."), message });
  if (deterministic && async.ratio > 0)
    refuse("async.ratio", "must be 0 when deterministic = true; which weights answer would depend on timing");
  if (deterministic && rollout.redundancy > 0)
    refuse("rollout.redundancy", "must be 0 when deterministic = true; which episodes count would depend on timing");
  if (deterministic && reward?.ranking?.by === "time")
    refuse("reward.ranking.by", 'must not be "time" when deterministic = true; times differ from run to run');
  for (const part of ["judge", "ranking"] as const) {
    if (deterministic && reward?.[part]?.policy?.startsWith("openai"))
      refuse(`reward.${part}.policy`, "is a server, which need not answer alike twice; deterministic must be false");
  }
  const { advantage, normMean, normStd, failure } = composeAlgorithm(algorithm);
  if (reward !== undefined && advantage === "ipa" && failure === "minus-one")
    refuse(
      "algorithm.failure",
      'is "minus-one", which keeps only the sign of a reward; with [reward] set "group-centred"',
    );
  if (kl?.in === "reward" && advantage !== "gae" && (normMean === "running" || normStd === "running"))
    refuse("kl.in", 'is "reward"; with running normalisation only advantage "gae" can take it off the rewards');
  const stages = settings.sft.stages.map(({ teacher }, s) => [`sft.stages.${s}.teacher`, teacher] as const);
  for (const [key, teacher] of [["distillation.teacher", distillation?.teacher] as const, ...stages])
    if (deterministic && teacher !== undefined && isAddress(teacher))
      refuse(key, "is a server, which need not answer alike twice; deterministic must be false");
  if (distillation !== undefined && isAddress(distillation.teacher) && rollout.temperature !== 1)
    refuse("rollout.temperature", "must be 1 with a teacher behind an address, which tells probabilities at 1");
  const backend = backendProblem(sandbox);
  if (backend !== undefined) refuse(`sandbox.${backend[0]}`, backend[1]);
  const cap = networkCapProblem(sandbox);
  if (cap !== undefined) refuse(`sandbox.${cap[0]}`, cap[1]);
  if (resampling !== undefined && isRemote(sandbox.backend))
    refuse("sandbox.backend", `is "${sandbox.backend}", whose sandboxes cannot be forked, as [resampling] does`);
  return problems;
}
