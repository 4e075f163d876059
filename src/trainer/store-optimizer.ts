/** AdamW with global-norm clipping on the flat arrays of a parameter store, or on one stretch of them. */

import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import type { PreparedCall } from "../runtime/session.ts";
import {
  AdamW,
  type AdamWSettings,
  clipScale,
  GlobalNorm,
  type NoDecay,
  type OptimizerRange,
  optimizerGroup,
} from "./optimizer.ts";

export interface StepSettings extends AdamWSettings {
  /** Global gradient-norm clip; 0 = off. */
  readonly clip: number;
}

/** What an AdamW step tells. */
export interface StepResult {
  /** Before clipping; not finite when nothing was updated. */
  readonly gradNorm: number;
}

/** Elements `begin` to `end` (exclusive) of the flat arrays. */
export interface Stretch {
  readonly begin: number;
  readonly end: number;
}

export interface StoreOptimizerOptions {
  readonly threads: number;
  /** What weight decay leaves alone besides the value head; default nothing. */
  readonly noDecay?: readonly NoDecay[] | undefined;
  /** What this optimizer updates; everything by default. */
  readonly stretch?: Stretch;
}

export class StoreOptimizer {
  readonly #store: ParameterStore;
  readonly #adamW: AdamW;
  readonly #norm: GlobalNorm;

  /** @param gradients flat, in the store's layout; read by every call. */
  constructor(store: ParameterStore, gradients: Float32Array, options: StoreOptimizerOptions) {
    const { threads, noDecay = [], stretch = { begin: 0, end: store.layout.length } } = options;
    this.#store = store;
    this.#adamW = new AdamW(gradients, within(stretch, optimizerRanges(store, noDecay)), threads);
    this.#norm = new GlobalNorm(gradients.subarray(stretch.begin, stretch.end), threads);
  }

  /** Euclidean norm of the gradients of the stretch: what to call, and where the result is afterwards. */
  get norm(): Pick<GlobalNorm, "calls" | "result"> {
    return this.#norm;
  }

  /**
   * One AdamW step from slot `from` to the unpublished slot `to`, with gradients clipped as those of a vector of norm
   * `gradNorm`, in calls that are to be made in their order. The optimizer step in the store's header is the caller's to set.
   */
  updateCalls(settings: StepSettings, gradNorm: number, from: Slot, to: Slot): readonly PreparedCall[] {
    this.#store.assertWritable(to);
    const step = this.#store.step(from) + 1;
    const arrays = (slot: Slot) => ({
      parameters: this.#store.parameters(slot),
      firstMoment: this.#store.firstMoment(slot),
      secondMoment: this.#store.secondMoment(slot),
    });
    return this.#adamW.calls(arrays(from), arrays(to), settings, step, clipScale(gradNorm, settings.clip));
  }

  release(): void {
    this.#adamW.release();
    this.#norm.release();
  }
}

/** Neighbouring tensors of one group as one range; padding between tensors is updated too and stays 0. */
function optimizerRanges(store: ParameterStore, noDecay: readonly NoDecay[]): OptimizerRange[] {
  const ranges: OptimizerRange[] = [];
  const { entries, length } = store.layout;
  for (const [i, entry] of entries.entries()) {
    const group = optimizerGroup(entry.kind, noDecay);
    const end = entries[i + 1]?.offset ?? length;
    const last = ranges.at(-1);
    if (last?.group === group) ranges[ranges.length - 1] = { ...last, end };
    else ranges.push({ begin: entry.offset, end, group });
  }
  return ranges;
}

/** The parts of `ranges` that lie in the stretch. */
function within(stretch: Stretch, ranges: readonly OptimizerRange[]): OptimizerRange[] {
  return ranges.flatMap(({ begin, end, group }) => {
    const part = { begin: Math.max(begin, stretch.begin), end: Math.min(end, stretch.end), group };
    return part.begin < part.end ? [part] : [];
  });
}
