/** Runs a plan of micro-batches through an executor, as many at a time as it has lanes. */

import type { RecordSpan } from "../core/timeline.ts";
import { REFERENCE_STATES, STATES } from "../models/decoder-head.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { BatchRunner, Executor, LaidOut, RunnerMode, WeightColumns } from "./executor.ts";
import { countTokens, type MicroBatch } from "./micro-batches.ts";
import { type MicroOperations, paced } from "./micro-operations.ts";

/** What micro-batches are made of, and how they are computed. */
export interface BatchWork {
  readonly plan: readonly MicroBatch[];
  readonly executor: Executor;
  /** Computes the states that a divergence is measured from. */
  readonly reference?: { readonly executor: Executor; readonly width: number } | undefined;
  readonly mode: RunnerMode;
  readonly sequences: readonly Int32Array[];
  readonly slot: Slot;
  readonly temperature: number;
  readonly record: RecordSpan | undefined;
}

/** What is done with each micro-batch before and after it runs; `finish` is called in the order of the plan. */
export interface BatchSteps {
  /** @param fixed weights that are the same for all terms. */
  load(runner: BatchRunner, laidOut: LaidOut, pick: <T>(items: readonly T[]) => T[], fixed: WeightColumns): void;
  finish(runner: BatchRunner, batch: MicroBatch): void;
}

export function* runMicroBatches(work: BatchWork, steps: BatchSteps): MicroOperations<void> {
  const { plan, executor, mode, sequences, slot, temperature, record } = work;
  const span = mode.gradients ? "backward" : "forward";
  for (let begin = 0; begin < plan.length; begin += executor.lanes) {
    const batches = plan.slice(begin, begin + executor.lanes);
    const states = yield* referenceStates(work, batches);
    const started = performance.now();
    const group = batches.map((batch, lane) => {
      const runner = executor.get(mode, batch, lane);
      const pick = <T>(items: readonly T[]): T[] => batch.members.map((index) => items[index] as T);
      const fixed: WeightColumns = states === undefined ? {} : { [REFERENCE_STATES]: states[lane] ?? [] };
      steps.load(runner, laidOut(batch, sequences), pick, fixed);
      return { batch, runner };
    });
    const runners = group.map(({ runner }) => runner);
    const calls = executor.calls(runners, slot, temperature);
    const began = yield* paced(calls, (from) => record?.(span, from), started);
    for (const { runner, batch } of group) steps.finish(runner, batch);
    record?.(span, began, countTokens(batches, sequences));
    yield;
  }
}

/** Of each micro-batch its sequences' states under the reference; none where no divergence is asked for. */
function* referenceStates(
  { reference, mode, sequences, record }: BatchWork,
  batches: readonly MicroBatch[],
): MicroOperations<readonly Float32Array[][] | undefined> {
  if (mode.terms.divergence !== true || reference === undefined) return undefined;
  const { executor, width } = reference;
  const states: Float32Array[][] = [];
  for (let begin = 0; begin < batches.length; begin += executor.lanes) {
    const group = batches.slice(begin, begin + executor.lanes);
    const started = performance.now();
    const runners = group.map((batch, lane) => {
      const runner = executor.get({ gradients: false, terms: { states: true } }, batch, lane);
      runner.load(laidOut(batch, sequences));
      return runner;
    });
    const began = yield* paced(executor.calls(runners, 0, 1), (from) => record?.("forward", from), started);
    states.push(
      ...group.map(({ members }, i) =>
        members.map((index, k) => {
          const rows = new Float32Array((sequences[index]?.length ?? 0) * width);
          runners[i]?.copyOutput(STATES, k, rows);
          return rows;
        }),
      ),
    );
    record?.("forward", began, countTokens(group, sequences));
    yield;
  }
  return states;
}

function laidOut({ members, starts }: MicroBatch, sequences: readonly Int32Array[]): LaidOut {
  return { sequences: members.map((index) => sequences[index] as Int32Array), starts };
}

/** The part of an output that belongs to each member's sequence, to where its sequence stands in `results`. */
export function copyOutputs(
  runner: BatchRunner,
  batch: MicroBatch,
  name: string,
  results: readonly Float32Array[],
): void {
  for (const [i, index] of batch.members.entries()) runner.copyOutput(name, i, results[index] as Float32Array);
}
