/** A simulated update: minibatches one after the other, the micro-batches of each shared out among the devices that train. */

import type { Device } from "./device.ts";
import type { Costs } from "./setup.ts";

export interface UpdatePlan {
  /** Tokens of the trajectories that are trained on. */
  readonly tokens: number;
  readonly minibatches: number;
}

/** Calls `done` when every device has the new weights. */
export function runUpdate(
  trainers: readonly Device[],
  all: readonly Device[],
  plan: UpdatePlan,
  costs: Costs,
  done: () => void,
): void {
  const minibatch = (index: number): void => {
    if (index === plan.minibatches || plan.tokens === 0) {
      together(all, () => [{ ms: costs.sync }], done);
      return;
    }
    const parts = microBatches(plan.tokens / plan.minibatches, costs);
    const share = { ms: costs.optimizer / trainers.length };
    together(
      trainers,
      (i) => parts.filter((_, part) => part % trainers.length === i).map((ms) => ({ ms })),
      () =>
        together(
          trainers,
          () => [share],
          () => minibatch(index + 1),
        ),
    );
  };
  minibatch(0);
}

/** Time of all micro-batches of an update without waits, on one device. */
export function updateMs({ tokens, minibatches }: UpdatePlan, costs: Costs): number {
  if (tokens === 0) return 0;
  const parts = microBatches(tokens / minibatches, costs);
  return minibatches * (parts.reduce((sum, ms) => sum + ms, 0) + costs.optimizer);
}

function microBatches(tokens: number, { microBatchTokens, train }: Costs): number[] {
  const count = Math.max(1, Math.ceil(tokens / microBatchTokens));
  return new Array<number>(count).fill(train.base + (train.perToken * tokens) / count);
}

/** Each device does its operations in order; `done` is called when all have: nobody goes on before. */
function together(
  devices: readonly Device[],
  work: (index: number) => readonly { readonly ms: number }[],
  done: () => void,
): void {
  let left = devices.length;
  const finish = () => {
    left--;
    if (left === 0) done();
  };
  for (const [i, device] of devices.entries()) {
    const operations = work(i);
    const next = (index: number): void => {
      const operation = operations[index];
      if (operation === undefined) finish();
      else device.train({ ms: operation.ms, done: () => next(index + 1) });
    };
    next(0);
  }
}
