/** Rotary position tables in float64; Su et al., "RoFormer", https://arxiv.org/abs/2104.09864. */

import type { DecoderConfig } from "./config.ts";

/**
 * Angle per position of each of the `headDim / 2` pairs. With scaling, as in Llama 3.1: wavelengths longer than
 * L / lowFrequencyFactor are slowed by `factor`, those shorter than L / highFrequencyFactor are kept, those between
 * are interpolated (L the original context length).
 */
export function ropeFrequencies(config: DecoderConfig): Float64Array {
  const half = config.headDim / 2;
  const scaling = config.ropeScaling;
  return Float64Array.from({ length: half }, (_, i) => {
    const frequency = config.ropeTheta ** (-i / half);
    if (scaling === null) return frequency;
    const turns = (scaling.originalContextLength * frequency) / (2 * Math.PI);
    if (turns < scaling.lowFrequencyFactor) return frequency / scaling.factor;
    if (turns > scaling.highFrequencyFactor) return frequency;
    const smooth = (turns - scaling.lowFrequencyFactor) / (scaling.highFrequencyFactor - scaling.lowFrequencyFactor);
    return ((1 - smooth) * frequency) / scaling.factor + smooth * frequency;
  });
}

export interface RopeTables {
  /** [length, headDim / 2] row-major; entry (t, i) is the cosine of t · frequency i. */
  readonly cos: Float64Array;
  readonly sin: Float64Array;
}

/** Tables for positions 0 … length − 1. */
export function ropeTables(config: DecoderConfig, length: number): RopeTables {
  const frequencies = ropeFrequencies(config);
  const half = frequencies.length;
  const cos = new Float64Array(length * half);
  const sin = new Float64Array(length * half);
  for (let t = 0; t < length; t++) {
    for (let i = 0; i < half; i++) {
      const angle = t * (frequencies[i] as number);
      cos[t * half + i] = Math.cos(angle);
      sin[t * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}
