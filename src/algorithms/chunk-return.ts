/**
 * Returns per chunk: `G_k = r_k + γ G_{k+1}`, given to every token of chunk k (`agentic_reinforce` of ROLL).
 *
 * `r_k` is the reward of the chunk's last token (`last`, as ROLL) or the sum over its tokens (`sum`, ours), which keeps
 * rewards inside a chunk, such as a KL penalty per token.
 */

import { countChunks } from "./chunks.ts";
import type { Numbers } from "./levels.ts";

/** Rewards per token → returns per token; 0 outside of the chunks. Chunk ids are dense. */
export function chunkReturns(
  rewards_T: Numbers,
  turnIds_T: Numbers,
  options: { readonly discount: number; readonly rewardOf: "last" | "sum" },
): Float64Array {
  const chunks = new Float64Array(countChunks(turnIds_T));
  for (let t = 0; t < turnIds_T.length; t++) {
    const k = turnIds_T[t] as number;
    if (k < 0) continue;
    const reward = rewards_T[t] as number;
    chunks[k] = options.rewardOf === "sum" ? (chunks[k] as number) + reward : reward;
  }
  for (let k = chunks.length - 2; k >= 0; k--)
    chunks[k] = (chunks[k] as number) + options.discount * (chunks[k + 1] as number);
  return Float64Array.from(turnIds_T, (k) => (k < 0 ? 0 : (chunks[k] as number)));
}
