import { afterEach, describe, expect, test } from "bun:test";
import type { Generation, SamplingOptions } from "../../core/ports.ts";
import { Rng } from "../../core/rng.ts";
import { OnnxBuilder } from "../../onnx/builder.ts";
import { allocateFloat32 } from "../../runtime/memory.ts";
import { Session } from "../../runtime/session.ts";
import { float32Value } from "../../runtime/value.ts";
import { referenceLogits } from "./reference-forward.ts";
import { planSampling } from "./sampling.ts";
import { blockCount, candidateCount, emitSampling, type SamplingVariant } from "./sampling-graph.ts";
import { SamplingRows } from "./sampling-rows.ts";
import { Answer } from "./sequence.ts";
import {
  answerOf,
  answersOf,
  CONFIG,
  disposeEngines,
  episode,
  ids,
  LAYOUT,
  makeEngine,
  STORE,
  sampling,
} from "./test-model.ts";

afterEach(disposeEngines);

/**
 * The distribution that `options` sample from, in float64, written as Hugging Face's processors are: each takes scores and
 * sets those it refuses to −∞.
 */
function distribution(
  logits: ArrayLike<number>,
  seen: ReadonlySet<number>,
  options: Partial<SamplingOptions>,
): Float64Array {
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  const scores = Float64Array.from(logits, (logit, id) => {
    const penalized = logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty;
    return (seen.has(id) ? penalized : logit) / temperature;
  });
  const softmax = () => {
    const most = scores.reduce((a, b) => Math.max(a, b));
    const weights = scores.map((score) => Math.exp(score - most));
    const total = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / total);
  };
  const ascending = () => [...scores.keys()].sort((a, b) => (scores[a] as number) - (scores[b] as number) || b - a);
  if (topK > 0) for (const id of ascending().slice(0, -topK)) scores[id] = Number.NEGATIVE_INFINITY;
  if (topP < 1) {
    const p = softmax();
    let mass = 0;
    for (const id of ascending().slice(0, -1)) {
      mass += p[id] as number;
      if (mass <= 1 - topP) scores[id] = Number.NEGATIVE_INFINITY;
    }
  }
  const p = softmax();
  const least = minP * p.reduce((a, b) => Math.max(a, b));
  for (const [id, value] of p.entries()) if (value < least) scores[id] = Number.NEGATIVE_INFINITY;
  return softmax();
}

const SETTINGS: readonly Partial<SamplingOptions>[] = [
  { temperature: 0.8 },
  { topK: 5 },
  { topK: 1, temperature: 2 },
  { topP: 0.9 },
  { topP: 0.3, temperature: 1.7 },
  { minP: 0.2, temperature: 1.5 },
  { topK: 12, topP: 0.8, minP: 0.05, temperature: 1.3 },
  { repetitionPenalty: 1.4 },
  { repetitionPenalty: 0.7, topK: 9, topP: 0.95 },
];

/** Settings whose support has more tokens than the graph ranks. */
const WIDE: readonly Partial<SamplingOptions>[] = [
  { topP: 0.9 },
  { topK: 380, topP: 0.9, temperature: 1.2 },
  { minP: 0.05, temperature: 2 },
  { topK: 350, repetitionPenalty: 1.5 },
];

const ROWS = 64;

/** The sampling graph on given logits, with the rows' uniforms spread evenly over (0, 1). */
class SamplingBench {
  readonly rows: SamplingRows;
  readonly #vocabulary: number;
  readonly #variant: SamplingVariant;
  readonly #logits: Float32Array;
  readonly #session: Session;
  readonly #run: () => void;

  constructor(vocabulary: number, variant: SamplingVariant) {
    const graph = new OnnxBuilder("sampling");
    graph.input("logits", "float32", [ROWS, vocabulary]);
    emitSampling(graph, "logits", ROWS, vocabulary, variant);
    this.#vocabulary = vocabulary;
    this.#variant = variant;
    this.#session = new Session(graph.encode(), { threads: 1 });
    this.#logits = allocateFloat32(ROWS * vocabulary);
    this.rows = new SamplingRows(ROWS, vocabulary);
    const { feeds, fetches } = this.rows.values(ROWS, variant);
    this.#run = this.#session.prepare({ logits: float32Value(this.#logits, [ROWS, vocabulary]), ...feeds }, fetches);
  }

  /** Samples `ROWS` times for a sequence that holds `seen`. */
  sample(logits_V: Float32Array, seen: Int32Array, options: Partial<SamplingOptions>): void {
    const plan = planSampling(sampling(options), this.#vocabulary);
    const request = { sequenceId: 1, context: seen, sampling: sampling(options) };
    for (let row = 0; row < ROWS; row++) {
      this.#logits.set(logits_V, row * this.#vocabulary);
      const answer = new Answer(request, plan, seen.length, 1);
      const uniform = () => (row + 0.5) / ROWS;
      this.rows.fill(row, { answer, tokens: seen, length: seen.length, uniform }, this.#variant);
    }
    this.#run();
    if (this.#variant === "plain") return;
    for (let row = 0; row < ROWS; row++) this.rows.settle(row, plan, logits_V);
  }

  [Symbol.dispose](): void {
    this.#session.release();
  }
}

function randomLogits(label: string, vocabulary: number, scale: number): Float32Array {
  const rng = new Rng(label);
  return Float32Array.from({ length: vocabulary }, () => scale * (rng.next() + rng.next() + rng.next() - 1.5));
}

/** Every token has its share of evenly spread noise, one row more or less, and nothing refused is ever sampled. */
function expectShares(rows: SamplingRows, expected_V: Float64Array, raw_V: Float64Array): void {
  const counts = new Array(expected_V.length).fill(0);
  let largest = 0;
  for (let row = 0; row < ROWS; row++) {
    const token = rows.tokens[row] as number;
    counts[token]++;
    // A refused token has log-probability −∞ and makes the difference infinite.
    const difference = Math.abs((rows.logprobs[row] as number) - Math.log(expected_V[token] as number));
    const differenceT1 = Math.abs((rows.logprobsT1[row] as number) - Math.log(raw_V[token] as number));
    largest = Math.max(largest, difference, differenceT1);
  }
  expect(largest).toBeLessThan(1e-5);
  const misses = counts.map((count, id) => Math.abs(count - (expected_V[id] as number) * ROWS));
  expect(Math.max(...misses)).toBeLessThanOrEqual(1.001);
}

describe("the sampling graph", () => {
  const seen = Int32Array.of(3, 3, 7, 11, 20);

  test("samples exactly the distribution of each setting, and nothing outside of it", () => {
    for (const [vocabulary, scale] of [
      [40, 6],
      [400, 3],
    ] as const) {
      using bench = new SamplingBench(vocabulary, "penalized");
      for (const [i, options] of SETTINGS.entries()) {
        const logits_V = randomLogits(`setting ${i}`, vocabulary, scale);
        bench.sample(logits_V, seen, options);
        const raw_V = distribution(logits_V, new Set(), {});
        expectShares(bench.rows, distribution(logits_V, new Set(seen), options), raw_V);
      }
    }
  });

  test("a vocabulary that is looked at in blocks: the same distribution, never a token without weight", () => {
    const vocabulary = 9216;
    expect(blockCount(vocabulary)).toBe(96);
    using bench = new SamplingBench(vocabulary, "plain");
    for (const holders of [[0, 95, 96, 191, 4000, 4001, 9119, 9120, 9215], [0, 1, 95], [9215], [95, 191, 287, 9215]]) {
      // A weight of e⁻²⁰⁰ is 0 in float32.
      const logits_V = new Float32Array(vocabulary).fill(-200);
      for (const [i, id] of holders.entries()) logits_V[id] = Math.sin(i);
      bench.sample(logits_V, new Int32Array(), {});
      const exact_V = distribution(logits_V, new Set(), {});
      expectShares(bench.rows, exact_V, exact_V);
      expect([...bench.rows.tokens].every((id) => holders.includes(id))).toBe(true);
    }
    const flat = randomLogits("flat", vocabulary, 0.2);
    bench.sample(flat, new Int32Array(), {});
    const exact_V = distribution(flat, new Set(), {});
    let reached = 0;
    const ends = exact_V.map((p) => {
      reached += p;
      return reached;
    });
    for (let row = 0; row < ROWS; row++) {
      const id = bench.rows.tokens[row] as number;
      const uniform = (row + 0.5) / ROWS;
      // Within a few roundings of float32 of where the exact inversion falls.
      expect(uniform).toBeGreaterThan((ends[id - 1] ?? 0) - 2e-6);
      expect(uniform).toBeLessThan((ends[id] as number) + 2e-6);
    }
  });

  test("of equal maxima in several blocks, greedy takes the first", () => {
    using bench = new SamplingBench(9216, "plain");
    const logits_V = new Float32Array(9216).fill(-1);
    for (const id of [300, 301, 5000]) logits_V[id] = 2;
    bench.sample(logits_V, new Int32Array(), { greedy: true });
    expect([...bench.rows.tokens].every((id) => id === 300)).toBe(true);
  });

  test("published vocabularies fall into blocks, primes do not", () => {
    expect([32_000, 128_256, 151_936, 152_064].map(blockCount)).toEqual([160, 334, 128, 384]);
    expect([512, 9221].map(blockCount)).toEqual([1, 1]);
  });

  test("rows that allow more tokens than the graph ranks are sampled over the whole vocabulary", () => {
    using bench = new SamplingBench(400, "penalized");
    for (const [i, options] of WIDE.entries()) {
      const logits_V = randomLogits(`wide ${i}`, 400, 0.5);
      bench.sample(logits_V, seen, options);
      const expected_V = distribution(logits_V, new Set(seen), options);
      expect(expected_V.filter((p) => p > 0).length).toBeGreaterThan(candidateCount(400));
      expectShares(bench.rows, expected_V, distribution(logits_V, new Set(), {}));
    }
  });

  test("a row gets the same bits from every variant that can serve it", () => {
    using plain = new SamplingBench(300, "plain");
    using truncated = new SamplingBench(300, "truncated");
    using penalized = new SamplingBench(300, "penalized");
    for (const options of [{}, { temperature: 0.6 }, { greedy: true }, { topK: 20, topP: 0.9 }]) {
      const logits_V = randomLogits("variants", 300, 4);
      const able = "topK" in options ? [truncated, penalized] : [plain, truncated, penalized];
      for (const bench of able) bench.sample(logits_V, seen, options);
      const [first, ...others] = able.map(({ rows: { tokens, logprobs, logprobsT1 } }) => [
        tokens,
        logprobs,
        logprobsT1,
      ]);
      for (const other of others) expect(other).toEqual(first as Float32Array[]);
    }
  });

  test("top log-probabilities are those of the sampled distribution", () => {
    using bench = new SamplingBench(300, "penalized");
    for (const options of [{}, { topK: 4 }, { repetitionPenalty: 1.3, topP: 0.9 }, { topP: 0.999, temperature: 20 }]) {
      const logits_V = randomLogits("top", 300, 5);
      bench.sample(logits_V, seen, { ...options, topLogprobs: 20 });
      const expected_V = distribution(logits_V, new Set(seen), options);
      const { ids: best, logprobs } = bench.rows.top(5, 20);
      const order = [...expected_V.keys()].sort((a, b) => (expected_V[b] as number) - (expected_V[a] as number));
      for (const [i, logprob] of logprobs.entries()) {
        const wanted = Math.log(expected_V[order[i] as number] as number);
        if (wanted === Number.NEGATIVE_INFINITY) expect(logprob).toBe(wanted);
        else expect([best[i], Math.abs(logprob - wanted) < 1e-5]).toEqual([order[i], true]);
      }
    }
  });
});

describe("requests", () => {
  /** Draws of the first token after `context`, each under noise of its own. */
  function draw(options: Partial<SamplingOptions>, context: Int32Array, rounds: number): number[] {
    const engine = makeEngine({ slots: 64, rows: 64 });
    const counts = new Array(CONFIG.vocabularySize).fill(0);
    for (let round = 0; round < rounds; round++) {
      const members = Array.from({ length: 64 }, (_, i) => i);
      for (const i of members) {
        engine.open(i, `draw ${round} ${i}`);
        engine.submit({ sequenceId: i, context, sampling: sampling({ ...options, maxTokens: 1 }) });
      }
      for (const { ids: sampled } of answersOf(engine, members).values()) counts[sampled[0] as number]++;
      for (const i of members) engine.close(i);
    }
    return counts;
  }

  test("frequencies follow the distribution, and nothing outside of its support is ever sampled", () => {
    const context = ids("frequencies", 6);
    const logits = referenceLogits(CONFIG, LAYOUT, STORE.parameters(0), context).at(-1) as Float64Array;
    for (const options of [{ temperature: 1.5 }, { temperature: 2, topK: 11, topP: 0.9, repetitionPenalty: 1.3 }]) {
      const counts = draw(options, context, 12);
      const expected_V = distribution(logits, new Set(context), options);
      expect(counts.every((count, id) => count === 0 || (expected_V[id] as number) > 0)).toBe(true);
      const { statistic, limit } = chiSquare(counts, expected_V);
      expect(statistic).toBeLessThan(limit);
    }
  });

  test("a seed names the noise whatever the session's key; log-probabilities follow the penalized sequence", () => {
    const options = { seed: 5, topK: 9, repetitionPenalty: 1.2, temperature: 1.4, topLogprobs: 3, maxTokens: 30 };
    const context = ids("seeded", 8);
    const engine = makeEngine();
    const [first, again, other] = [5, 5, 6].map((seed, id) => {
      engine.open(id, `key ${id}`);
      engine.submit({ sequenceId: id, context, sampling: sampling({ ...options, seed }) });
      return answerOf(engine, id);
    }) as [Generation, Generation, Generation];
    expect(again).toEqual(first);
    expect(other.ids).not.toEqual(first.ids);
    const sequence = [...context, ...first.ids];
    const logits = referenceLogits(CONFIG, LAYOUT, STORE.parameters(0), sequence);
    for (const [t, id] of first.ids.entries()) {
      const at = context.length + t;
      const expected_V = distribution(logits[at - 1] as Float64Array, new Set(sequence.slice(0, at)), options);
      expect(Math.abs((first.logprobs[t] as number) - Math.log(expected_V[id] as number))).toBeLessThan(2e-5);
      const most = Math.max(...expected_V);
      expect(first.topLogprobs?.ids[3 * t]).toBe(expected_V.indexOf(most));
      expect(Math.abs((first.topLogprobs?.logprobs[3 * t] as number) - Math.log(most))).toBeLessThan(2e-5);
    }
  });

  test("what a row asks for changes nothing for the others", () => {
    const alone = episode(makeEngine(), 1, "plain");
    const engine = makeEngine();
    engine.open(9, "fancy");
    const fancy = sampling({ topP: 0.8, repetitionPenalty: 1.5, topLogprobs: 5, maxTokens: 40 });
    engine.submit({ sequenceId: 9, context: ids("fancy", 5), sampling: fancy });
    expect(episode(engine, 1, "plain")).toEqual(alone);
  });

  test("options out of bounds are refused by name", () => {
    const wrong: [Partial<SamplingOptions>, string][] = [
      [{ topK: -1 }, "topK is -1"],
      [{ topP: 0 }, "topP is 0"],
      [{ minP: 1.5 }, "minP is 1.5"],
      [{ repetitionPenalty: 0 }, "repetitionPenalty is 0"],
      [{ seed: 0.5 }, "seed is 0.5"],
      [{ topLogprobs: 21 }, "topLogprobs is 21"],
    ];
    for (const [options, message] of wrong) expect(() => planSampling(sampling(options), 40)).toThrow(message);
  });
});

/** χ² of the counts, and the 99.99 % quantile by Wilson and Hilferty; cells with few expected draws are pooled. */
function chiSquare(counts: readonly number[], p_V: Float64Array): { statistic: number; limit: number } {
  const draws = counts.reduce((a, b) => a + b, 0);
  const cells: [number, number][] = [];
  const pool: [number, number] = [0, 0];
  for (const [id, p] of p_V.entries()) {
    if (p * draws >= 5) cells.push([p * draws, counts[id] as number]);
    else {
      pool[0] += p * draws;
      pool[1] += counts[id] as number;
    }
  }
  if (pool[0] > 0) cells.push(pool);
  const statistic = cells.reduce((sum, [wanted, count]) => sum + (count - wanted) ** 2 / wanted, 0);
  const freedom = cells.length - 1;
  return { statistic, limit: freedom * (1 - 2 / (9 * freedom) + 3.72 * Math.sqrt(2 / (9 * freedom))) ** 3 };
}
