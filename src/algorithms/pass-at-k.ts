/** Success of a policy that may try k times, and of the average of its tries. */

import { AleError } from "../core/errors.ts";
import { mean } from "./statistics.ts";

/**
 * Unbiased estimate of the chance that at least one of k tries succeeds, from c successes in n tries:
 * `1 − C(n − c, k) / C(n, k)` (Chen et al., arXiv 2107.03374, equation 1), as a product that does not overflow.
 * @throws AleError("usage") for k > n, where there is no unbiased estimate.
 */
export function passAtK(n: number, c: number, k: number): number {
  if (k > n || k < 1) throw new AleError("usage", `pass@${k} needs at least ${k} tries per task, not ${n}`);
  let allFail = 1;
  // C(n − c, k) / C(n, k), factor by factor; 0 as soon as there are fewer failures than tries.
  for (let i = 0; i < k; i++) allFail *= Math.max(0, n - c - i) / (n - i);
  return 1 - allFail;
}

/** avg@k: mean over tasks of the mean of the first k outcomes. */
export function averageAtK(outcomes: readonly (readonly number[])[], k: number): number {
  return mean(outcomes.map((tries) => mean(tries.slice(0, k))));
}
