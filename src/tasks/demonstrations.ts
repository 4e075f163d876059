/** Choosing among a task's demonstrations. */

import type { Rng } from "../core/rng.ts";
import type { Demonstration, Task } from "../core/types.ts";

/**
 * One demonstration of a task: with probability `mistakes` a typical mistake, otherwise an expert solution, each kind by
 * weight. `undefined` when the task has none of the kind that was drawn and none of the other.
 */
export function chooseDemonstration(task: Task, mistakes: number, rng: Rng): Demonstration | undefined {
  const wanted = rng.next() < mistakes ? "mistake" : "expert";
  const ofKind = task.demonstrations.filter(({ kind }) => kind === wanted);
  return pickByWeight(ofKind.length > 0 ? ofKind : task.demonstrations, rng);
}

function pickByWeight(demonstrations: readonly Demonstration[], rng: Rng): Demonstration | undefined {
  const total = demonstrations.reduce((sum, { weight }) => sum + weight, 0);
  let left = rng.next() * total;
  for (const demonstration of demonstrations) {
    left -= demonstration.weight;
    if (left < 0) return demonstration;
  }
  return demonstrations.at(-1);
}
