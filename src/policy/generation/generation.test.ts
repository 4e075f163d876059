import { afterEach, describe, expect, test } from "bun:test";
import type { Generation, SamplingOptions } from "../../core/ports.ts";
import { Rng } from "../../core/rng.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../models/parameters.ts";
import { GenerationEngine, type GenerationOptions } from "./engine.ts";
import { probeParity } from "./parity.ts";
import { cellsFor, chunkSizes, nextChunk } from "./prefiller.ts";
import { referenceLogits, referenceLogprob } from "./reference-forward.ts";

const CONFIG: DecoderConfig = {
  vocabularySize: 40,
  hiddenSize: 32,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  intermediateSize: 48,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 64,
};
const LAYOUT = parameterLayout(CONFIG);

/** Three slots of different random weights, large enough for distributions far from uniform; slot 0 is published. */
const STORE = ParameterStore.inMemory(LAYOUT);
for (const slot of [0, 1, 2] as const) {
  initializeParameters(CONFIG, LAYOUT, STORE.parameters(slot), slot + 1);
  const embedding = STORE.parameters(slot).subarray(0, CONFIG.vocabularySize * CONFIG.hiddenSize);
  for (let i = 0; i < embedding.length; i++) embedding[i] = 20 * (embedding[i] as number);
}

const engines: GenerationEngine[] = [];
afterEach(() => {
  for (const engine of engines.splice(0)) engine.dispose();
});

function makeEngine(options: Partial<GenerationOptions> = {}): GenerationEngine {
  STORE.publish(0, 7);
  const engine = new GenerationEngine(CONFIG, STORE, { threads: 1, slots: 6, maxBlocks: 2, context: 64, ...options });
  engines.push(engine);
  return engine;
}

function sampling(options: Partial<SamplingOptions> = {}): SamplingOptions {
  return { temperature: 1, greedy: false, maxTokens: 10, stopIds: [], ...options };
}

function ids(label: string, length: number): Int32Array {
  const rng = new Rng(label);
  return Int32Array.from({ length }, () => rng.int(0, CONFIG.vocabularySize - 1));
}

function answerOf(engine: GenerationEngine, sequenceId: number): Generation {
  return answersOf(engine, [sequenceId]).get(sequenceId) as Generation;
}

function answersOf(engine: GenerationEngine, sequenceIds: readonly number[]): Map<number, Generation> {
  const answers = new Map<number, Generation>();
  engine.drain(new Set(sequenceIds), ({ sequenceId, generation }) => answers.set(sequenceId, generation));
  return answers;
}

/** Two turns of the sequence `noiseKey`, from opening to closing. */
function episode(engine: GenerationEngine, id: number, noiseKey: string): Generation[] {
  engine.open(id, noiseKey);
  const turns = [ids(`prompt ${noiseKey}`, 13), ids(`observation ${noiseKey}`, 6)].map((context, turn) => {
    engine.submit({ sequenceId: id, context, sampling: sampling({ temperature: turn === 0 ? 1 : 0.7 }) });
    return answerOf(engine, id);
  });
  engine.close(id);
  return turns;
}

/** Log-probabilities of `sequence` from position `start` on, in float64. */
function reference(sequence: readonly number[], start: number, temperature = 1, slot: 0 | 1 | 2 = 0): number[] {
  const logits = referenceLogits(CONFIG, LAYOUT, STORE.parameters(slot), sequence);
  return sequence.slice(start).map((id, i) => referenceLogprob(logits[start + i - 1] as Float64Array, id, temperature));
}

function expectClose(actual: Iterable<number>, expected: readonly number[], limit: number): void {
  const values = [...actual];
  expect(values.length).toBe(expected.length);
  for (const [i, value] of values.entries()) expect(Math.abs(value - (expected[i] as number))).toBeLessThan(limit);
}

describe("what is sampled", () => {
  test("log-probabilities over two turns equal one forward pass in float64, after temperature and at T = 1", () => {
    const engine = makeEngine();
    engine.open(1, "a");
    const sequence: number[] = [];
    for (const [turn, temperature] of [1, 0.6].entries()) {
      const context = ids(`context ${turn}`, 17 - turn * 8);
      sequence.push(...context);
      const start = sequence.length;
      engine.submit({ sequenceId: 1, context, sampling: sampling({ temperature }) });
      const answer = answerOf(engine, 1);
      expect(answer.ids.length).toBe(10);
      expect(answer.stop).toBe("length");
      sequence.push(...answer.ids);
      expectClose(answer.logprobs, reference(sequence, start, temperature), 2e-5);
      expectClose(answer.logprobsT1, reference(sequence, start), 2e-5);
      expect([...answer.versions]).toEqual(new Array(10).fill(7));
    }
  });

  test("greedy takes the most likely token and reports temperature 1", () => {
    const engine = makeEngine();
    const sequence = [...ids("greedy", 9)];
    engine.open(1, "g");
    engine.submit({
      sequenceId: 1,
      context: Int32Array.from(sequence),
      sampling: sampling({ greedy: true, temperature: 0 }),
    });
    const answer = answerOf(engine, 1);
    for (const id of answer.ids) {
      const logits = referenceLogits(CONFIG, LAYOUT, STORE.parameters(0), sequence).at(-1) as Float64Array;
      expect(id).toBe(logits.indexOf(logits.reduce((a, b) => Math.max(a, b))));
      sequence.push(id);
    }
    expect(answer.logprobs).toEqual(answer.logprobsT1);
    expectClose(answer.logprobs, reference(sequence, 9), 2e-5);
  });

  test("frequencies follow the distribution", () => {
    const engine = makeEngine({ slots: 64, maxBlocks: 1 });
    const context = ids("frequencies", 3);
    const temperature = 1.5;
    const logits = referenceLogits(CONFIG, LAYOUT, STORE.parameters(0), context).at(-1) as Float64Array;
    const expected = Array.from({ length: 40 }, (_, id) => Math.exp(referenceLogprob(logits, id, temperature)));
    const counts = new Array(40).fill(0);
    const draws = 64 * 60;
    for (let round = 0; round < 60; round++) {
      const members = Array.from({ length: 64 }, (_, i) => i);
      for (const i of members) {
        engine.open(i, `draw ${round} ${i}`);
        engine.submit({ sequenceId: i, context, sampling: sampling({ temperature, maxTokens: 1 }) });
      }
      for (const { ids: sampled } of answersOf(engine, members).values()) counts[sampled[0] as number]++;
      for (const i of members) engine.close(i);
    }
    // Cells with few expected draws are pooled; 99.99 % quantile of χ² by Wilson and Hilferty.
    let statistic = 0;
    let cells = 0;
    const pool = { expected: 0, count: 0 };
    const cell = (wanted: number, seen: number) => {
      statistic += (seen - wanted) ** 2 / wanted;
      cells++;
    };
    for (const [id, p] of expected.entries()) {
      if (p * draws >= 5) {
        cell(p * draws, counts[id]);
      } else {
        pool.expected += p * draws;
        pool.count += counts[id];
      }
    }
    if (pool.expected > 0) cell(pool.expected, pool.count);
    const freedom = cells - 1;
    expect(freedom).toBeGreaterThan(5);
    expect(statistic).toBeLessThan(freedom * (1 - 2 / (9 * freedom) + 3.72 * Math.sqrt(2 / (9 * freedom))) ** 3);
  });

  test("forced tokens are scored, not sampled, and the cache goes on from them", () => {
    const engine = makeEngine();
    const sequence = [...ids("forced", 24)];
    engine.open(1, "f");
    const forced = Int32Array.from(sequence.slice(5));
    engine.submit({
      sequenceId: 1,
      context: Int32Array.from(sequence.slice(0, 5)),
      forced,
      sampling: sampling({ stopIds: [forced[3] as number] }),
    });
    const answer = answerOf(engine, 1);
    expect(answer.ids).toEqual(forced);
    expectClose(answer.logprobsT1, reference(sequence, 5), 2e-5);
  });
});

describe("independence of the batch", () => {
  test("alone, among others and in another order: the same tokens, log-probabilities and cache, to the bit", () => {
    const keys = Array.from({ length: 11 }, (_, i) => `episode ${i}`);
    const single = makeEngine();
    const alone = keys.map((key, i) => episode(single, i, key));
    for (const order of [keys.map((_, i) => i), [7, 3, 10, 0, 5, 9, 1, 8, 2, 6, 4]]) {
      const engine = makeEngine();
      const turns = new Map<number, Generation[]>();
      for (const i of order) {
        engine.open(i, keys[i] as string);
        engine.submit({ sequenceId: i, context: ids(`prompt ${keys[i]}`, 13), sampling: sampling() });
      }
      const pending = new Set(order);
      engine.drain(pending, ({ sequenceId: i, generation }) => {
        turns.set(i, [...(turns.get(i) ?? []), generation]);
        if (turns.get(i)?.length === 2) return;
        engine.submit({
          sequenceId: i,
          context: ids(`observation ${keys[i]}`, 6),
          sampling: sampling({ temperature: 0.7 }),
        });
        pending.add(i);
      });
      for (const i of order) expect(turns.get(i)).toEqual(alone[i] as Generation[]);
    }
  });

  test("noise is named by key and position: the same key replays, another one does not", () => {
    const engine = makeEngine();
    const context = ids("prompt", 8);
    const [first, again, other] = ["x", "x", "y"].map((key, i) => {
      engine.open(i, key);
      engine.submit({ sequenceId: i, context, sampling: sampling({ maxTokens: 30 }) });
      return answerOf(engine, i);
    });
    expect(again).toEqual(first as Generation);
    expect(other?.ids).not.toEqual(first?.ids as Int32Array);
  });

  test("an equal first context is copied, bit-equal to computing it, also after its owner has gone", () => {
    const engine = makeEngine();
    const context = ids("shared", 23);
    const run = (id: number) => {
      engine.open(id, "same noise");
      engine.submit({ sequenceId: id, context, sampling: sampling() });
      const answer = answerOf(engine, id);
      return { answer, cache: engine.readCache(id) };
    };
    const computed = run(1);
    const copied = run(2);
    expect(engine.stats.copiedPrefixes).toBe(1);
    expect(engine.stats.prefillTokens).toBe(22);
    engine.close(1);
    engine.close(2);
    // other rows decode meanwhile, which feeds padding to the closed ones
    engine.open(3, "other");
    engine.submit({ sequenceId: 3, context: ids("else", 30), sampling: sampling() });
    answerOf(engine, 3);
    const fromClosed = run(4);
    expect(engine.stats.copiedPrefixes).toBe(2);
    engine.forgetPrefixes();
    const recomputed = run(5);
    expect(engine.stats.copiedPrefixes).toBe(2);
    for (const other of [copied, fromClosed, recomputed]) expect(other).toEqual(computed);
  });

  test("the self-test says so for one and two threads", () => {
    for (const threads of [1, 2]) {
      const report = makeEngine({ threads }).selfTestDeterminism();
      expect(report.detail).toContain("bit-equal");
      expect(report.ok).toBe(true);
    }
  });
});

describe("where an answer ends", () => {
  test("with a stop token, which is part of it; the next turn goes on behind it", () => {
    const engine = makeEngine();
    const context = ids("stop", 5);
    engine.open(1, "s");
    engine.submit({ sequenceId: 1, context, sampling: sampling({ maxTokens: 12 }) });
    const free = answerOf(engine, 1);
    const stopId = free.ids[6] as number;
    const end = free.ids.indexOf(stopId);
    engine.open(2, "s");
    engine.submit({ sequenceId: 2, context, sampling: sampling({ maxTokens: 12, stopIds: [stopId] }) });
    const stopped = answerOf(engine, 2);
    expect(stopped.stop).toBe("stop");
    expect(stopped.ids).toEqual(free.ids.slice(0, end + 1));
    engine.submit({ sequenceId: 2, context: new Int32Array(0), sampling: sampling({ maxTokens: 11 - end }) });
    expect(answerOf(engine, 2).ids).toEqual(free.ids.slice(end + 1));
  });

  test("at the end of the context, with every token of it used", () => {
    const engine = makeEngine();
    engine.open(1, "c");
    const context = ids("long", 60);
    engine.submit({ sequenceId: 1, context, sampling: sampling() });
    const answer = answerOf(engine, 1);
    expect(answer.stop).toBe("context");
    expect(answer.ids.length).toBe(4);
    expectClose(answer.logprobs, reference([...context, ...answer.ids], 60), 2e-5);
    engine.submit({ sequenceId: 1, context: ids("more", 1), sampling: sampling() });
    expect(answerOf(engine, 1)).toMatchObject({ stop: "context", ids: new Int32Array(0) });
  });

  test("a context without room is not appended: a shorter one still works", () => {
    const engine = makeEngine();
    engine.open(1, "r");
    engine.submit({ sequenceId: 1, context: ids("too long", 64), sampling: sampling() });
    expect(answerOf(engine, 1).ids.length).toBe(0);
    engine.submit({ sequenceId: 1, context: ids("fits", 63), sampling: sampling() });
    expect(answerOf(engine, 1).ids.length).toBe(1);
  });

  test("padding of a chunk never runs past a row, for every context and position", () => {
    for (const context of [2, 7, 8, 9, 64, 100, 256, 300, 1024]) {
      const sizes = chunkSizes(context);
      const cells = cellsFor(context);
      for (let start = 0; start < context; start++) {
        for (let count = 1; start + count < context; count++) {
          const size = nextChunk(sizes, count);
          if (size >= count && start + size > cells) throw new Error(`${context}: ${start} + ${size} > ${cells}`);
        }
      }
      expect(cells).toBeLessThanOrEqual(Math.max(context + 7, context * 1.2));
    }
  });
});

describe("cancelling and closing", () => {
  test("a cancelled request is taken back within one step, whatever it was doing, and can be made again", () => {
    const expected = episode(makeEngine(), 1, "k");
    for (const stepsBefore of [0, 1, 2, 5, 9]) {
      const engine = makeEngine();
      const request = { sequenceId: 1, context: ids("prompt k", 13), sampling: sampling() };
      engine.open(1, "k");
      engine.submit(request);
      for (let i = 0; i < stepsBefore; i++) engine.step();
      engine.cancel(1);
      expect(engine.step()).toEqual({ finished: [], sampled: [], worked: false });
      engine.submit(request);
      expect(answerOf(engine, 1)).toEqual(expected[0] as Generation);
      const second = { sequenceId: 1, context: ids("observation k", 6), sampling: sampling({ temperature: 0.7 }) };
      engine.submit(second);
      for (let i = 0; i < stepsBefore; i++) engine.step();
      engine.cancel(1);
      expect(engine.step().worked).toBe(false);
      engine.submit(second);
      expect(answerOf(engine, 1)).toEqual(expected[1] as Generation);
    }
  });

  test("closing frees the row at once and leaves the others alone", () => {
    const engine = makeEngine({ maxBlocks: 1, slots: 4 });
    const alone = episode(makeEngine(), 1, "other");
    engine.open(1, "other");
    for (const id of [2, 3, 4]) {
      engine.open(id, `n${id}`);
      engine.submit({ sequenceId: id, context: ids(`p${id}`, 9), sampling: sampling({ maxTokens: 40 }) });
    }
    engine.submit({ sequenceId: 1, context: ids("prompt other", 13), sampling: sampling() });
    for (let i = 0; i < 8; i++) engine.step();
    expect(() => engine.open(5, "x")).toThrow("all 4 generation rows are taken");
    engine.close(3);
    engine.close(3);
    engine.open(5, "x");
    expect(answerOf(engine, 1)).toEqual(alone[0] as Generation);
    // answers that came meanwhile were kept
    expect([...answersOf(engine, [2, 4]).keys()].sort()).toEqual([2, 4]);
  });

  test("wrong requests are refused by name and change nothing", () => {
    const engine = makeEngine();
    engine.open(1, "w");
    const submit = (context: Int32Array, options: Partial<SamplingOptions> = {}, sequenceId = 1) =>
      engine.submit({ sequenceId, context, sampling: sampling(options) });
    expect(() => engine.open(1, "w")).toThrow("sequence 1 is already open");
    expect(() => submit(ids("a", 3), {}, 9)).toThrow("sequence 9 is not open");
    expect(() => submit(new Int32Array(0))).toThrow("the first context is empty");
    expect(() => submit(Int32Array.of(1, 40))).toThrow("context token 1 is 40, but the vocabulary has 40");
    expect(() => submit(ids("a", 3), { maxTokens: 0 })).toThrow("maxTokens is 0");
    expect(() => submit(ids("a", 3), { temperature: 0 })).toThrow("temperature is 0");
    expect(engine.step().worked).toBe(false);
    submit(ids("a", 3));
    expect(() => submit(ids("a", 3))).toThrow("still waiting");
    expect(answerOf(engine, 1).ids.length).toBe(10);
    expect(() => makeEngine({ slots: 1 })).toThrow("at least 2 slots");
  });
});

describe("weights", () => {
  test("a version published between two steps samples from the next token on", () => {
    const engine = makeEngine();
    const context = ids("swap", 9);
    engine.open(1, "v");
    engine.submit({ sequenceId: 1, context, sampling: sampling() });
    for (let i = 0; i < 4; i++) engine.step();
    STORE.publish(1, 8);
    const answer = answerOf(engine, 1);
    expect([...answer.versions]).toEqual([7, 7, 7, 8, 8, 8, 8, 8, 8, 8]);
    expectClose(answer.logprobs.slice(0, 3), reference([...context, ...answer.ids.slice(0, 3)], 9), 2e-5);
  });

  test("at the next turn the cache is computed again under the new weights, or kept on request", () => {
    for (const afterSync of ["recompute", "keep"] as const) {
      const engine = makeEngine({ afterSync });
      const sequence = [...ids("first", 12)];
      engine.open(1, "r");
      engine.submit({ sequenceId: 1, context: Int32Array.from(sequence), sampling: sampling() });
      sequence.push(...answerOf(engine, 1).ids, ...ids("second", 4));
      STORE.publish(2, 9);
      engine.submit({ sequenceId: 1, context: Int32Array.from(sequence.slice(-4)), sampling: sampling() });
      const answer = answerOf(engine, 1);
      const start = sequence.length;
      sequence.push(...answer.ids);
      const expected = reference(sequence, start, 1, 2);
      const difference = Math.max(...expected.map((value, i) => Math.abs(value - (answer.logprobs[i] as number))));
      if (afterSync === "recompute") expect(difference).toBeLessThan(2e-5);
      else expect(difference).toBeGreaterThan(1e-2);
    }
  });

  test("a context computed under old weights is not copied under new ones", () => {
    const engine = makeEngine();
    const context = ids("versioned", 15);
    for (const [id, slot] of [0, 1].entries()) {
      STORE.publish(slot as 0 | 1, 10 + slot);
      engine.open(id, "n");
      engine.submit({ sequenceId: id, context, sampling: sampling() });
      const answer = answerOf(engine, id);
      expectClose(answer.logprobs, reference([...context, ...answer.ids], 15, 1, slot as 0 | 1), 2e-5);
    }
    expect(engine.stats.copiedPrefixes).toBe(0);
  });

  test("a log-probability that is not a number names sequence, block and step; the others go on", () => {
    const engine = makeEngine();
    const expected = episode(makeEngine(), 1, "healthy")[0] as Generation;
    const poisoned = 39;
    const flat = STORE.parameters(0);
    const at = poisoned * CONFIG.hiddenSize;
    const before = flat.slice(at, at + CONFIG.hiddenSize);
    const context = ids("prompt healthy", 13).map((id) => (id === poisoned ? 0 : id));
    engine.open(1, "healthy");
    engine.open(2, "sick");
    engine.submit({ sequenceId: 1, context, sampling: sampling() });
    engine.submit({ sequenceId: 2, context: ids("sick", 6).fill(poisoned, 5), sampling: sampling() });
    engine.step();
    engine.step();
    flat.fill(Number.NaN, at, at + CONFIG.hiddenSize);
    try {
      expect(() => engine.step()).toThrow(
        /sequence 1 \(decode row 0, position 13\).*NaN.*step 1 under weight version 7/,
      );
    } finally {
      flat.set(before, at);
    }
    expect(engine.step().sampled).toEqual([2]);
    engine.submit({ sequenceId: 1, context: ids("prompt healthy", 13), sampling: sampling() });
    expect(answerOf(engine, 1)).toEqual(expected);
  });

  test("nothing published yet is an error, not a guess", () => {
    const engine = new GenerationEngine(CONFIG, ParameterStore.inMemory(LAYOUT), {
      threads: 1,
      slots: 2,
      maxBlocks: 1,
      context: 16,
    });
    engines.push(engine);
    engine.open(1, "n");
    engine.submit({ sequenceId: 1, context: ids("n", 3), sampling: sampling() });
    expect(() => engine.step()).toThrow("no weights have been published yet");
  });
});

describe("parity probe", () => {
  const sequences = [31, 2, 64, 17, 5, 48, 1, 90].map((length, i) => ids(`probe ${i}`, length));
  const learner = {
    logprobs: (batch: readonly Int32Array[], slot: 0 | 1 | 2, temperature: number) =>
      batch.map((sequence) => Float32Array.from([0, ...reference([...sequence], 1, temperature, slot)])),
  };

  test("generation agrees with the reference in every layout, while another sequence is under way", () => {
    const engine = makeEngine({ maxBlocks: 1, slots: 4 });
    const expected = episode(makeEngine(), 1, "bystander")[0] as Generation;
    for (const id of [2, 3, 4]) engine.open(id, "idle");
    engine.open(1, "bystander");
    engine.submit({ sequenceId: 1, context: ids("prompt bystander", 13), sampling: sampling() });
    engine.step();
    const before = engine.stats.copiedPrefixes;
    expect(probeParity(engine, learner, sequences, 0)).toBeLessThan(2e-5);
    expect(engine.stats.copiedPrefixes - before).toBeGreaterThan(3);
    expect(answerOf(engine, 1)).toEqual(expected);
  });

  test("it notices other weights and shifted positions", () => {
    const engine = makeEngine();
    expect(probeParity(engine, { logprobs: (b, _, t) => learner.logprobs(b, 1, t) }, sequences, 0)).toBeGreaterThan(
      0.1,
    );
    const shifted = {
      logprobs: (b: readonly Int32Array[], s: 0 | 1 | 2, t: number) => learner.logprobs(b, s, t).map((l) => l.slice(1)),
    };
    expect(() => probeParity(engine, shifted, sequences, 0)).toThrow("NaN");
    expect(() => probeParity(engine, learner, [Int32Array.of(3)], 0)).toThrow("at least one sequence");
  });
});
