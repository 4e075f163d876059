/** Sampled answers as values. */

import type { Generation } from "./ports.ts";

/** An answer that ended with its first `count` tokens because a listener said so. */
export function firstTokens(generation: Generation, count: number): Generation {
  const { topLogprobs: top } = generation;
  const first = {
    ids: generation.ids.slice(0, count),
    logprobs: generation.logprobs.slice(0, count),
    logprobsT1: generation.logprobsT1.slice(0, count),
    versions: generation.versions.slice(0, count),
    kvOldest: generation.kvOldest.slice(0, count),
    stop: "stop" as const,
  };
  if (top === undefined) return first;
  const length = count * top.count;
  const shown = { count: top.count, ids: top.ids.slice(0, length), logprobs: top.logprobs.slice(0, length) };
  return { ...first, topLogprobs: shown };
}

/** Number of tokens after which `listener` ends the answer, of which it has heard `heard` already; `undefined` if it does not. */
export function listen(
  listener: (id: number, logprob: number) => boolean,
  ids: ArrayLike<number>,
  logprobs: ArrayLike<number>,
  heard = 0,
): number | undefined {
  for (let t = heard; t < ids.length; t++) {
    if (listener(ids[t] as number, logprobs[t] as number)) return t + 1;
  }
  return undefined;
}
