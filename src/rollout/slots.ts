/** What goes into the group queues (`group-queues.ts`) and comes out of them. */

/**
 * `greedy`: the batch takes whatever slot was finished first. `rounds`: every queue gives one slot before any gives its second,
 * so that a slow group can hold a batch up but none is over-represented.
 */
export type BatchPolicy = "greedy" | "rounds";

export interface GroupQueueOptions<Result> {
  readonly groups: number;
  readonly environmentsPerGroup: number;
  /** Results that complete a slot. */
  readonly groupSize: number;
  /** Environments that may work on a slot beyond `groupSize`; the first `groupSize` results count. */
  readonly redundancy: number;
  /** Slots each queue gets per training step. */
  readonly slotsPerStep: number;
  /** Async ratio ≥ 0; 0 is synchronous. */
  readonly ratio: number;
  readonly policy: BatchPolicy;
  /**
   * Queues as ROLL has them, for whole ratios: a queue gives its slots in the order they were made, those it may not give
   * included, and a complete slot is still handed to redundant environments. Otherwise, of the complete ones, the oldest is
   * given, and of equals the first to be completed.
   */
  readonly inOrder?: boolean;
  /** Slots that were dropped for their age are made up for, so that rollout keeps its lead over training. */
  readonly replace?: boolean;
  /**
   * Whether a result is of no use. Redundant environments make up for those, as far as they go; after them the slot is complete
   * with what there is.
   */
  readonly isSpoiled?: (result: Result) => boolean;
  /** Whether a completed slot is to be thrown away and replaced, e.g. because all its rewards are equal. */
  readonly reject?: (results: readonly Result[], slot: SlotKey) => boolean;
}

/** A slot's place in its queue and the training step it was made at. */
export interface SlotKey {
  readonly group: number;
  readonly episode: number;
  readonly createStep: number;
}

/** An environment that was blocked and now works on an episode. */
export interface Served {
  readonly environment: number;
  readonly episode: number;
}

/** A slot that got too old. */
export interface Dropped extends SlotKey {
  readonly results: number;
  /** Environments that still work on it, for nothing. */
  readonly working: readonly number[];
}

export interface BatchedSlot<Result> extends SlotKey {
  /** Train step − create step. */
  readonly staleness: number;
  /** The first `groupSize` useful results, and all spoiled ones before the slot was complete, in the order they came. */
  readonly results: readonly SlotResult<Result>[];
}

export interface Batch<Result> {
  readonly slots: readonly BatchedSlot<Result>[];
  /** `inOrder`: finished slots that were too old by the time they were taken. */
  readonly discarded: readonly (SlotKey & { readonly staleness: number })[];
}

/** Everything the queues know, as plain data around the results; `GroupQueues.restore` goes on from it. */
export interface GroupQueuesState<Result> {
  readonly step: number;
  readonly completions: number;
  readonly nextEpisode: readonly number[];
  readonly slots: readonly SlotState<Result>[];
  /** `rounds`: queues that owe a slot to the round, and slots that were given to it but not used yet. */
  readonly due: readonly number[];
  readonly ready: readonly SlotState<Result>[];
}

export interface SlotState<Result> extends SlotKey {
  readonly results: readonly SlotResult<Result>[];
  /** Place in the order of completion; null while results are missing. */
  readonly completion: number | null;
}

/** What a call changed for others. */
export interface Effects<Result> {
  readonly served: readonly Served[];
  /** The batch that was waited for, if this completed it. */
  readonly batch?: Batch<Result>;
}

/** `ignored`: its slot was dropped or is in a batch; `redundant`: its slot was complete without it. */
export type PutOutcome = "stored" | "completed" | "filtered" | "redundant" | "ignored";

export interface SlotResult<Result> {
  readonly environment: number;
  readonly result: Result;
}
