/** `summary.json`: what a run came to, for scripts. */

import type { RunStatus } from "../core/events.ts";
import type { EvaluationRecord, RunRecord } from "../store/records.ts";
import type { EngineMemory } from "./engine-memory.ts";

/** Success on held-out instances. */
export interface HeldOutSummary {
  readonly step: number;
  /** Share of solved instances, sampled at temperature 1, of `n`, with its Wilson 95 % interval. */
  readonly rate: number;
  readonly n: number;
  readonly low: number;
  readonly high: number;
  /** The same with greedy decoding; null where that was not evaluated. */
  readonly greedy: number | null;
}

export interface RunSummary {
  readonly runId: string;
  readonly name: string;
  readonly status: RunStatus;
  readonly algorithm: string;
  readonly seed: number;
  /** Committed training steps. */
  readonly steps: number;
  readonly episodes: number;
  readonly wallSeconds: number;
  readonly isolation: string;
  readonly configHash: string;
  readonly aleVersion: string;
  /** One entry per engine. */
  readonly memory: readonly EngineMemory[];
  /** Step with the highest development success, whose weights are in `policy/`. */
  readonly bestStep: number | null;
  /** Each is null where the split was not evaluated at that step. */
  readonly heldOut: {
    readonly initial: HeldOutSummary | null;
    readonly final: HeldOutSummary | null;
    /** At `bestStep`: chosen on the development split, never on this one. */
    readonly best: HeldOutSummary | null;
  };
}

/** The step with the highest sampled development success, the earlier one of equals; null without evaluations. */
export function bestStep(evaluations: readonly EvaluationRecord[]): number | null {
  let best: EvaluationRecord | undefined;
  for (const row of evaluations) {
    if (row.split === "dev" && !row.greedy && (best === undefined || row.rate > best.rate)) best = row;
  }
  return best?.step ?? null;
}

/** Held-out success at a step, sampled and greedy together. */
export function heldOutAt(evaluations: readonly EvaluationRecord[], step: number): HeldOutSummary | null {
  const rows = evaluations.filter((row) => row.split === "heldout" && row.step === step);
  const sampled = rows.find((row) => !row.greedy);
  if (sampled === undefined) return null;
  const { rate, n, low, high } = sampled;
  return { step, rate, n, low, high, greedy: rows.find((row) => row.greedy)?.rate ?? null };
}

/** `best` overrides the step chosen on the development split, for callers that kept another one. */
export function summarizeRun(
  run: RunRecord,
  evaluations: readonly EvaluationRecord[],
  options: { readonly status?: RunStatus; readonly best?: number; readonly memory?: readonly EngineMemory[] } = {},
): RunSummary {
  const steps = evaluations.filter((row) => row.split === "heldout" && !row.greedy).map((row) => row.step);
  const at = (step: number | null | undefined) =>
    step === null || step === undefined ? null : heldOutAt(evaluations, step);
  // Without a development split the last step is as good as any.
  const chosen = options.best ?? bestStep(evaluations) ?? run.committedStep ?? -1;
  const best = chosen >= 0 ? chosen : null;
  return {
    runId: run.id,
    name: run.name,
    status: options.status ?? run.status,
    algorithm: run.algorithm,
    seed: run.seed,
    steps: Math.max(0, run.committedStep ?? 0),
    episodes: run.episodes,
    wallSeconds: Math.round(run.wallSeconds * 1000) / 1000,
    isolation: run.isolation,
    configHash: run.configHash,
    aleVersion: run.aleVersion,
    memory: options.memory ?? [],
    bestStep: best,
    heldOut: {
      initial: at(steps.length === 0 ? null : Math.min(...steps)),
      final: at(steps.length === 0 ? null : Math.max(...steps)),
      best: at(best),
    },
  };
}
