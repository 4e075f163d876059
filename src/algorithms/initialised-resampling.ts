/**
 * Which state an episode starts from, in IPA's chunk-level initialised resampling: the first chunks of an expert's
 * trajectory are replayed and the policy goes on from there (arXiv 2512.24873, section 3.2.4).
 *
 * Chunks and anchors count from 1. *Anchor* k of an expert of K chunks means: chunks 1 … k − 1 are the expert's, the policy
 * samples from chunk k on; anchor 1 is an episode from scratch. The paper gives no thresholds, so all of them are settings.
 */

import { mean } from "./statistics.ts";

export interface RollbackSettings {
  /** Outcomes at an anchor before anything is decided, and how many of the last ones count. */
  readonly window: number;
  /** Share of successes at which the anchor moves one chunk towards the start. */
  readonly advanceAt: number;
  /** A chunk is crucial when success falls by more than this as the policy has to write it itself. */
  readonly drop: number;
  /** Not in the paper; the anchor never moves towards the end when omitted. */
  readonly retreat?: RetreatSettings;
}

/**
 * What an anchor nearer to the end had taught may be lost while nothing succeeds at this one: its chunks are neither imitated nor,
 * without a success, reinforced. Then the anchor goes back one chunk towards the end, and comes again once that is mastered.
 */
export interface RetreatSettings {
  /** Outcomes at an anchor before it may go back. */
  readonly after: number;
  /** Share of successes among the last of these below which it does. */
  readonly below: number;
  /** Chunks of the expert: beyond its last one there is nothing to go back to. */
  readonly chunks: number;
}

/** `solved`: the policy succeeds from scratch, nothing is left to do. */
export type RollbackAction = "collect" | "advance" | "solved" | "crucial" | "stay" | "retreat";

export interface RollbackStep {
  /** Anchor the outcomes belong to. Imitation covers the expert's chunks 1 … anchor, reinforcement what was sampled. */
  readonly anchor: number;
  readonly windowMean: number;
  readonly windowSize: number;
  readonly action: RollbackAction;
  /** Chunks found crucial so far, in the order in which they were found. */
  readonly crucial: readonly number[];
}

/** What is kept between steps. */
export interface RollbackState {
  readonly anchor: number;
  readonly outcomes: readonly number[];
  /** Success at the anchor after this one when it was left. */
  readonly reference: number;
  readonly crucial: readonly number[];
}

/** Before the first step: the policy has only the last chunk to write, and the whole expert succeeds by construction. */
export function startRollback(chunks: number): RollbackState {
  return { anchor: chunks, outcomes: [], reference: 1, crucial: [] };
}

/**
 * Sequential rollback, a curriculum from the end: adds the outcomes (1 or 0) of a step's episodes at the current anchor and
 * decides what comes next.
 */
export function rollBack(
  state: RollbackState,
  outcomes: readonly number[],
  settings: RollbackSettings,
): { readonly state: RollbackState; readonly step: RollbackStep } {
  const kept = [...state.outcomes, ...outcomes].slice(-Math.max(settings.window, settings.retreat?.after ?? 0));
  const window = kept.slice(-settings.window);
  const windowMean = mean(window);
  const action = mustRetreat(state, kept, settings) ? "retreat" : decide(state, window, settings);
  const isNew = (action === "crucial" || action === "retreat") && !state.crucial.includes(state.anchor);
  const crucial = isNew ? [...state.crucial, state.anchor] : state.crucial;
  const step = { anchor: state.anchor, windowMean, windowSize: window.length, action, crucial };
  if (action === "advance")
    return { state: { anchor: state.anchor - 1, outcomes: [], reference: windowMean, crucial }, step };
  if (action === "retreat") return { state: { anchor: state.anchor + 1, outcomes: [], reference: 1, crucial }, step };
  return { state: { ...state, outcomes: kept, crucial }, step };
}

function decide(state: RollbackState, window: readonly number[], settings: RollbackSettings): RollbackAction {
  if (window.length < settings.window) return "collect";
  const success = mean(window);
  if (success >= settings.advanceAt) return state.anchor > 1 ? "advance" : "solved";
  return state.reference - success > settings.drop ? "crucial" : "stay";
}

function mustRetreat(state: RollbackState, kept: readonly number[], { retreat }: RollbackSettings): boolean {
  if (retreat === undefined || state.anchor >= retreat.chunks || kept.length < retreat.after) return false;
  return mean(kept.slice(-retreat.after)) < retreat.below;
}

/**
 * Anchors for parallelised initialisation, ascending and distinct: evenly spread (anchor 1 is always among them), or drawn
 * without replacement by Fisher and Yates when `uniforms` gives `count` numbers in [0, 1). As many as there are chunks at most.
 */
export function chooseAnchors(chunks: number, count: number, uniforms?: readonly number[]): number[] {
  const all = Array.from({ length: chunks }, (_, i) => i + 1);
  if (count >= chunks) return all;
  if (uniforms === undefined) return Array.from({ length: count }, (_, i) => 1 + Math.floor((i * chunks) / count));
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor((uniforms[i] as number) * (chunks - i));
    [all[i], all[j]] = [all[j] as number, all[i] as number];
  }
  return all.slice(0, count).sort((a, b) => a - b);
}

export interface AnchorReport {
  /** Share of successes per anchor. */
  readonly success: readonly number[];
  /** Chunks [first, last] among which at least one is crucial. */
  readonly crucialIntervals: readonly (readonly [first: number, last: number])[];
  /** Outcomes minus their anchor's mean: episodes from one anchor are one group. */
  readonly centred: readonly (readonly number[])[];
}

/**
 * What the outcomes per anchor say. Success that grows by more than `drop` from one anchor to the next means that the policy
 * cannot yet write something between the two; after the last anchor stands the whole expert, which succeeds.
 */
export function reportAnchors(
  anchors: readonly number[],
  outcomes: readonly (readonly number[])[],
  chunks: number,
  drop: number,
): AnchorReport {
  const success = outcomes.map(mean);
  const crucialIntervals: [number, number][] = [];
  for (const [i, anchor] of anchors.entries()) {
    const next = anchors[i + 1] ?? chunks + 1;
    if ((success[i + 1] ?? 1) - (success[i] as number) > drop) crucialIntervals.push([anchor, next - 1]);
  }
  const centred = outcomes.map((row, i) => row.map((outcome) => outcome - (success[i] as number)));
  return { success, crucialIntervals, centred };
}

/** Whether a task needs an expert's help: tried from scratch at least `window` times, and of the last ones few succeeded. */
export function isHardTask(outcomes: readonly number[], window: number, passAtMost: number): boolean {
  return outcomes.length >= window && mean(outcomes.slice(-window)) <= passAtMost;
}
