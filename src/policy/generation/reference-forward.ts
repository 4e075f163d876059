/**
 * A decoder's forward pass in plain float64 loops, for tests: slow, and sharing nothing with the graphs but the names of
 * parameters and the frequency table.
 */

import { type DecoderConfig, type ExpertConfig, hasExperts } from "../../models/config.ts";
import {
  biasName,
  EMBEDDING,
  expertNames,
  FINAL_NORM,
  headName,
  layerNames,
  type ParameterLayout,
  parameterView,
} from "../../models/parameters.ts";
import { ropeFrequencies } from "../../models/rope.ts";

type Vector = Float64Array;

/**
 * Logits [vocabulary] after each token of `ids`.
 * @param flat parameters, or those that token t is computed with: it attends to keys and values of tokens before it that
 * theirs made.
 */
export function referenceLogits(
  config: DecoderConfig,
  layout: ParameterLayout,
  flat: Float32Array | ((t: number) => Float32Array),
  ids: ArrayLike<number>,
): Vector[] {
  const weight = (name: string, t: number) => parameterView(layout, typeof flat === "function" ? flat(t) : flat, name);
  const rows = (matrix: Float32Array, row: number) =>
    Float64Array.from(matrix.subarray(row * config.hiddenSize, (row + 1) * config.hiddenSize));
  let xs: Vector[] = Array.from({ length: ids.length }, (_, t) => rows(weight(EMBEDDING, t), ids[t] as number));
  for (let layer = 0; layer < config.layers; layer++) {
    const names = layerNames(layer);
    const normed = xs.map((x, t) => rmsNorm(x, weight(names.attentionNorm, t), config.normEps));
    const project = (name: string) => {
      const bias = biasName(config, name);
      return normed.map((x, t) => {
        const product = multiply(weight(name, t), x);
        return bias === null ? product : add(product, Float64Array.from(weight(bias, t)));
      });
    };
    const heads = (name: string, norm: string) =>
      config.queryKeyNorm ? project(name).map((x, t) => normHeads(x, weight(norm, t), config.normEps)) : project(name);
    const attended = attention(
      config,
      heads(names.query, names.queryNorm),
      heads(names.key, names.keyNorm),
      project(names.value),
    );
    xs = xs.map((x, t) => add(x, multiply(weight(names.output, t), attended[t] as Vector)));
    const mlp = ({ gate, up, down }: { gate: string; up: string; down: string }, x: Vector, t: number): Vector => {
      const wide = multiply(weight(up, t), x);
      const gated = multiply(weight(gate, t), x).map((g, i) => (g / (1 + Math.exp(-g))) * (wide[i] as number));
      return multiply(weight(down, t), gated);
    };
    const feedForward = (x: Vector, t: number): Vector => {
      if (!hasExperts(config, layer)) return mlp(names, x, t);
      const shares = routerShares(config.experts as ExpertConfig, multiply(weight(names.router, t), x));
      const outputs: Vector[] = [...shares].map(([expert, share]) =>
        mlp(expertNames(layer, expert), x, t).map((value) => share * value),
      );
      return outputs.reduce(add);
    };
    xs = xs.map((x, t) => add(x, feedForward(rmsNorm(x, weight(names.mlpNorm, t), config.normEps), t)));
  }
  return xs.map((x, t) => multiply(weight(headName(config), t), rmsNorm(x, weight(FINAL_NORM, t), config.normEps)));
}

/** Share of each expert that works on a token. */
function routerShares({ perToken, normalizeWeights }: ExpertConfig, logits: Vector): ReadonlyMap<number, number> {
  const most = Math.max(...logits);
  const weights = [...logits].map((z, expert) => [expert, Math.exp(z - most)] as const);
  const total = weights.reduce((sum, [, weight]) => sum + weight, 0);
  const best = weights.sort(([, a], [, b]) => b - a).slice(0, perToken);
  const norm = normalizeWeights ? best.reduce((sum, [, weight]) => sum + weight, 0) : total;
  return new Map(best.map(([expert, weight]) => [expert, weight / norm]));
}

/** log softmax(logits / temperature) at `id`. */
export function referenceLogprob(logits: Vector, id: number, temperature = 1): number {
  const scaled = logits.map((z) => z / temperature);
  const most = scaled.reduce((a, b) => Math.max(a, b));
  return (scaled[id] as number) - most - Math.log(scaled.reduce((sum, z) => sum + Math.exp(z - most), 0));
}

function attention(config: DecoderConfig, queries: Vector[], keys: Vector[], values: Vector[]): Vector[] {
  const { heads, kvHeads, headDim } = config;
  const frequencies = ropeFrequencies(config);
  const turned = (xs: Vector[], head: number) => xs.map((x, t) => rotate(part(x, head, headDim), t, frequencies));
  const outputs = queries.map(() => new Float64Array(heads * headDim));
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor((head * kvHeads) / heads);
    const q = turned(queries, head);
    const k = turned(keys, kvHead);
    for (const [t, query] of q.entries()) {
      const scores = k.slice(0, t + 1).map((key) => dot(query, key) / Math.sqrt(headDim));
      const most = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - most));
      const total = weights.reduce((a, b) => a + b);
      for (const [s, weight] of weights.entries()) {
        const value = part(values[s] as Vector, kvHead, headDim);
        for (let i = 0; i < headDim; i++) {
          const output = outputs[t] as Vector;
          output[head * headDim + i] = (output[head * headDim + i] as number) + (weight / total) * (value[i] as number);
        }
      }
    }
  }
  return outputs;
}

/** Rotates pairs (i, i + half) by position · frequency. */
function rotate(x: Vector, position: number, frequencies: Vector): Vector {
  const half = x.length / 2;
  return x.map((_, i) => {
    const angle = position * (frequencies[i % half] as number);
    const [low, high] = [x[i % half] as number, x[(i % half) + half] as number];
    return i < half ? low * Math.cos(angle) - high * Math.sin(angle) : high * Math.cos(angle) + low * Math.sin(angle);
  });
}

function part(x: Vector, head: number, headDim: number): Vector {
  return x.subarray(head * headDim, (head + 1) * headDim);
}

function rmsNorm(x: Vector, gain: Float32Array, eps: number): Vector {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps);
  return x.map((value, i) => value * scale * (gain[i] as number));
}

function normHeads(x: Vector, gain: Float32Array, eps: number): Vector {
  const output = new Float64Array(x.length);
  for (let begin = 0; begin < x.length; begin += gain.length) {
    output.set(rmsNorm(x.subarray(begin, begin + gain.length), gain, eps), begin);
  }
  return output;
}

/** W x for W in [out, in]. */
function multiply(weight: Float32Array, x: Vector): Vector {
  return Float64Array.from({ length: weight.length / x.length }, (_, row) => {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += (weight[row * x.length + i] as number) * (x[i] as number);
    return sum;
  });
}

function add(a: Vector, b: Vector): Vector {
  return a.map((value, i) => value + (b[i] as number));
}

function dot(a: Vector, b: Vector): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}
