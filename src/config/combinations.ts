/** Settings that are sound one by one but not together. */

import { AleError } from "../core/errors.ts";
import type { Experiment } from "./experiment.ts";

interface Refusal {
  readonly when: (experiment: Experiment) => boolean;
  readonly message: string;
  readonly hint: string;
}

const REFUSALS: readonly Refusal[] = [
  {
    when: ({ deterministic, async }) => deterministic && async.ratio > 0,
    message: "deterministic = true, but async.ratio > 0: which weights answer then depends on timing",
    hint: "set async.ratio = 0, or deterministic = false",
  },
  {
    when: ({ deterministic, rollout }) => deterministic && rollout.redundancy > 0,
    message: "deterministic = true, but rollout.redundancy > 0: which episodes count then depends on timing",
    hint: "set rollout.redundancy = 0, or deterministic = false",
  },
];

/** @throws AleError("config") naming the settings that exclude each other. */
export function checkCombinations(experiment: Experiment): void {
  const refusal = REFUSALS.find(({ when }) => when(experiment));
  if (refusal !== undefined) throw new AleError("config", refusal.message, { hint: refusal.hint });
}
