/**
 * The parity probe (DESIGN D4): the same sequences through generation's graphs and through training's graph, under the
 * same weights, must have the same log-probabilities. A cache that is permuted, shifted or stale does not fail, it only
 * makes the policy worse, so this is measured in every way in which generation lays out its work.
 */

import { AleError } from "../../core/errors.ts";
import type { SamplingOptions } from "../../core/ports.ts";
import type { Slot } from "../../models/parameter-store.ts";
import { type DifferenceSummary, Differences, mergeSummaries } from "./differences.ts";
import type { GenerationEngine } from "./engine.ts";

/** Largest |Δ log p| allowed in float32. */
export const PARITY_LIMIT = 1e-4;

/** The training side: log p(token t | tokens < t) per sequence under the weights of `slot`; element 0 is 0. */
export interface TeacherForcing {
  logprobs(sequences: readonly Int32Array[], slot: Slot, temperature: number): readonly Float32Array[];
}

/** A sequence cut into turns: the tokens of each are given up to `context` and scored from there to `end`. */
interface Turn {
  readonly start: number;
  readonly context: number;
  readonly end: number;
}

/** The probe's ways of laying out the work; each stands for a shape that generation uses. */
export const LAYOUTS = [
  "batch_1",
  "padded_batch",
  "full_batch",
  "chunked_prefill",
  "slot_swap",
  "copied_prefix",
  "common_prefix",
] as const;
export type LayoutName = (typeof LAYOUTS)[number];

/** Differences by layout; what the probe compared is what all of them found together. */
export interface ParityReport extends DifferenceSummary {
  readonly layouts: Readonly<Record<LayoutName, DifferenceSummary>>;
}

/** One way of laying out the work. */
interface Layout {
  /** Most sequences open at once; a finished one makes room for the next, in its row. */
  readonly window: number;
  /** Sequences it takes; all unless given. */
  readonly most?: number;
  /** Order in which sequences are opened. */
  order?(indices: readonly number[]): number[];
  /** `nth` counts the sequences opened so far. */
  turns(length: number, index: number, nth: number): Turn[];
  /** Sequences with equal beginnings may copy instead of compute. */
  readonly shared?: boolean;
}

/** The first turn gives `first` tokens; then `scored` and `given` tokens take turns to the end. */
function cut(length: number, first: number, scored: number, given: number): Turn[] {
  const turns: Turn[] = [];
  let start = 0;
  let context = Math.min(Math.max(1, first), length - 1);
  while (context < length) {
    const end = Math.min(length, context + scored);
    turns.push({ start, context, end });
    start = end;
    context = end + given;
  }
  return turns;
}

function layouts(slots: number): Record<LayoutName, Layout> {
  const twice = (indices: readonly number[]) => indices.flatMap((i) => [i, i]);
  const third = (length: number) => Math.floor(length / 3);
  return {
    // Alone: padded to the smallest batch there is.
    batch_1: { window: 1, most: 2, turns: (length) => cut(length, length >> 1, length, 0) },
    // Three sequences never fill a batch, and end one after the other.
    padded_batch: { window: Math.min(3, slots), most: 3, turns: (length, i) => cut(length, 1 + i, length, 0) },
    full_batch: { window: slots, turns: (length) => cut(length, 1, length, 0) },
    chunked_prefill: { window: slots, turns: (length, i) => cut(length, length >> 1, 3 + (i % 5), 2 + (i % 9)) },
    slot_swap: {
      window: Math.max(2, Math.min(5, slots)),
      order: (indices) => [...indices].reverse(),
      turns: (length, i) => cut(length, 1 + ((i * 7) % 23), 4 + ((i * 3) % 11), 1 + (i % 4)),
    },
    copied_prefix: {
      window: slots,
      order: twice,
      turns: (length) => cut(length, 2 * third(length), length, 0),
      shared: true,
    },
    // The second of each pair begins with more of the sequence than the first one was given.
    common_prefix: {
      window: 2,
      most: 4,
      order: twice,
      turns: (length, _, nth) => cut(length, (1 + (nth % 2)) * third(length), length, 0),
      shared: true,
    },
  };
}

const FORCED: SamplingOptions = { temperature: 1, greedy: false, maxTokens: 1, stopIds: [] };

/**
 * Teacher-forces `sequences` through generation in every layout, in fresh rows, and compares with training's
 * log-probabilities under the weights of `slot`, which must be the published ones. Sequences are cut to the engine's context;
 * those of one token have nothing to compare and are left out. Sequences that are open meanwhile go on and lose nothing.
 * @throws AleError("engine") when there is nothing to compare or when a log-probability is not a number.
 */
export function probeParity(
  engine: GenerationEngine,
  learner: TeacherForcing,
  sequences: readonly Int32Array[],
  slot: Slot,
): ParityReport {
  const usable = probedSequences(sequences, engine.options.context);
  if (usable.length === 0) {
    throw new AleError("engine", "the parity probe needs at least one sequence of two tokens");
  }
  const expected = learner.logprobs(usable, slot, 1);
  const found = Object.entries(layouts(engine.options.slots)).map(([name, layout]) => {
    const differences = new Differences();
    for (const { index, start, logprobs } of teacherForce(engine, usable, layout)) {
      const reference = expected[index] as Float32Array;
      for (const [i, logprob] of logprobs.entries()) {
        const training = reference[start + i] as number;
        if (Number.isNaN(logprob) || Number.isNaN(training) || training === undefined) {
          throw new AleError("engine", `parity probe (${name}): sequence ${index}, token ${start + i} is NaN`);
        }
        differences.add(training, logprob);
      }
    }
    return [name, differences.summary()] as const;
  });
  return {
    ...mergeSummaries(found.map(([, summary]) => summary)),
    layouts: Object.fromEntries(found) as Record<LayoutName, DifferenceSummary>,
  };
}

/** What of `sequences` is compared: what fits into the context, of those that have at least two tokens. */
export function probedSequences(sequences: readonly Int32Array[], context: number): Int32Array[] {
  return sequences.filter(({ length }) => length > 1).map((ids) => ids.slice(0, context));
}

/** One report of several engines. */
export function mergeReports(reports: readonly ParityReport[]): ParityReport {
  const byLayout = LAYOUTS.map((name) => [name, mergeSummaries(reports.map(({ layouts }) => layouts[name]))] as const);
  return { ...mergeSummaries(reports), layouts: Object.fromEntries(byLayout) as ParityReport["layouts"] };
}

/** Log-probabilities of the tokens of sequence `index` from `start` on. */
interface Scored {
  readonly index: number;
  readonly start: number;
  readonly logprobs: Float32Array;
}

function teacherForce(engine: GenerationEngine, sequences: readonly Int32Array[], layout: Layout): Scored[] {
  const indices = [...sequences.keys()].slice(0, layout.most);
  const queue = layout.order?.(indices) ?? indices;
  const total = queue.length;
  const open = new Map<number, { readonly index: number; readonly turns: Turn[]; turn: number }>();
  const pending = new Set<number>();
  const scored: Scored[] = [];
  let nextId = -1;
  const submit = (id: number) => {
    const job = open.get(id);
    const turn = job?.turns[job.turn];
    if (job === undefined || turn === undefined) return false;
    const ids = sequences[job.index] as Int32Array;
    engine.submit({
      sequenceId: id,
      context: ids.subarray(turn.start, turn.context),
      forced: ids.subarray(turn.context, turn.end),
      sampling: FORCED,
    });
    pending.add(id);
    return true;
  };
  const openNext = () => {
    const index = queue.shift();
    if (index === undefined) return;
    const id = nextId--;
    const nth = total - queue.length - 1;
    engine.open(id, "parity", { shares: layout.shared ?? false });
    open.set(id, { index, turns: layout.turns((sequences[index] as Int32Array).length, index, nth), turn: 0 });
    submit(id);
  };
  try {
    for (let i = 0; i < layout.window; i++) openNext();
    engine.drain(pending, ({ sequenceId, generation }) => {
      const job = open.get(sequenceId);
      const turn = job?.turns[job.turn];
      if (job === undefined || turn === undefined) return;
      scored.push({ index: job.index, start: turn.context, logprobs: generation.logprobsT1 });
      job.turn++;
      if (submit(sequenceId)) return;
      engine.close(sequenceId);
      open.delete(sequenceId);
      openNext();
    });
  } finally {
    for (const id of open.keys()) engine.close(id);
  }
  return scored;
}
