/** Floating-point operations that a decoder's training needs, as papers count them (PaLM, arXiv 2204.02311, appendix B). */

import { type DecoderConfig, hasExperts } from "./config.ts";

/**
 * Of forward and backward over sequences of these lengths: a multiplication and an addition for each weight a token meets and
 * each pair of positions in causal attention; twice that again for the gradients of weights and inputs. What is computed a second
 * time to save memory, norms and the optimizer do not count.
 * @param frozen the weights themselves have no gradients (adapters; theirs are not counted).
 */
export function trainingFlops(config: DecoderConfig, lengths: readonly number[], frozen: boolean): number {
  const pairs = lengths.reduce((sum, length) => sum + (length * (length + 1)) / 2, 0);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const weights = 2 * weightsPerToken(config) * tokens;
  const attention = 4 * config.layers * config.heads * config.headDim * pairs;
  return (frozen ? 2 : 3) * weights + 3 * attention;
}

/** Weights of the matrices that one token is multiplied with; the embedding is looked up. */
function weightsPerToken(config: DecoderConfig): number {
  const { hiddenSize, headDim, heads, kvHeads, vocabularySize, intermediateSize, experts } = config;
  let weights = vocabularySize * hiddenSize;
  for (let layer = 0; layer < config.layers; layer++) {
    weights += 2 * hiddenSize * headDim * (heads + kvHeads);
    if (experts === null || !hasExperts(config, layer)) weights += 3 * hiddenSize * intermediateSize;
    else weights += hiddenSize * (experts.count + 3 * experts.perToken * experts.intermediateSize);
  }
  return weights;
}
