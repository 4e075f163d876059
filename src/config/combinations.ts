/** Settings that are sound one by one but not together. */

import type { AlgorithmConfig } from "./algorithm.ts";
import { composeAlgorithm } from "./composition.ts";

export interface ExperimentProblem {
  readonly path: readonly string[];
  /** The rest of a sentence that begins with the key. */
  readonly message: string;
}

/** The settings that the rules here are about. */
interface Settings {
  readonly deterministic: boolean;
  readonly async: { readonly ratio: number };
  readonly rollout: { readonly redundancy: number };
  readonly algorithm: AlgorithmConfig;
  readonly kl?: { readonly in: "loss" | "reward" } | undefined;
}

export function experimentProblems({ deterministic, async, rollout, algorithm, kl }: Settings): ExperimentProblem[] {
  const problems: ExperimentProblem[] = [];
  const refuse = (key: string, message: string) => problems.push({ path: key.split("."), message });
  if (deterministic && async.ratio > 0)
    refuse("async.ratio", "must be 0 when deterministic = true; which weights answer would depend on timing");
  if (deterministic && rollout.redundancy > 0)
    refuse("rollout.redundancy", "must be 0 when deterministic = true; which episodes count would depend on timing");
  const { advantage, normMean, normStd } = composeAlgorithm(algorithm);
  if (kl?.in === "reward" && advantage !== "gae" && (normMean === "running" || normStd === "running"))
    refuse("kl.in", 'is "reward"; with running normalisation only advantage "gae" can take it off the rewards');
  return problems;
}
