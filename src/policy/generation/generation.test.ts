import { afterEach, describe, expect, test } from "bun:test";
import type { Generation } from "../../core/ports.ts";
import { LAYOUTS, probeParity } from "./parity.ts";
import { referenceLogits } from "./reference-forward.ts";
import {
  answerOf,
  CONFIG,
  disposeEngines,
  episode,
  expectClose,
  ids,
  LAYOUT,
  makeEngine,
  reference,
  STORE,
  sampling,
} from "./test-model.ts";

afterEach(disposeEngines);

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
    const run = (id: number, shares = true) => {
      engine.open(id, "same noise", { shares });
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
    const recomputed = run(5, false);
    expect(engine.stats.copiedPrefixes).toBe(2);
    for (const other of [copied, fromClosed, recomputed]) expect(other).toEqual(computed);
  });

  test("the self-test says so for one and two threads", () => {
    for (const threads of [1, 2]) {
      const report = makeEngine({ threads }).selfTestDeterminism();
      expect(report.detail).toContain("bit-equal in every row, batch size and by copy");
      expect(report.ok).toBe(true);
    }
  });
});

describe("parity probe", () => {
  const sequences = [31, 2, 64, 17, 5, 48, 1, 90].map((length, i) => ids(`probe ${i}`, length));
  const learner = {
    logprobs: (batch: readonly Int32Array[], slot: 0 | 1 | 2, temperature: number) =>
      batch.map((sequence) => Float32Array.from([0, ...reference([...sequence], 1, temperature, slot)])),
  };

  test("generation agrees with the reference in every layout, while another sequence is under way", () => {
    const engine = makeEngine({ rows: 4, slots: 4 });
    const expected = episode(makeEngine(), 1, "bystander")[0] as Generation;
    for (const id of [2, 3, 4]) engine.open(id, "idle");
    engine.open(1, "bystander");
    engine.submit({ sequenceId: 1, context: ids("prompt bystander", 13), sampling: sampling() });
    engine.step();
    const before = engine.stats.copiedPrefixes;
    const report = probeParity(engine, learner, sequences, 0);
    expect(report.max).toBeLessThan(2e-5);
    expect(Object.keys(report.layouts)).toEqual([...LAYOUTS]);
    for (const { tokens, max } of Object.values(report.layouts)) expect(tokens > 10 && max < 2e-5).toBe(true);
    expect(engine.stats.copiedPrefixes - before).toBeGreaterThan(3);
    expect(answerOf(engine, 1)).toEqual(expected);
  });

  test("it does with batches that are only equal up to rounding", () => {
    const { max, layouts } = probeParity(makeEngine({ slots: 8, bitEqual: false }), learner, sequences, 0);
    expect(max).toBeLessThan(2e-5);
    expect(layouts.common_prefix.tokens).toBeGreaterThan(10);
  });

  test("it notices other weights and shifted positions", () => {
    const engine = makeEngine();
    const { mean, kl } = probeParity(engine, { logprobs: (b, _, t) => learner.logprobs(b, 1, t) }, sequences, 0);
    expect(mean).toBeGreaterThan(0.1);
    expect(kl).toBeGreaterThan(0.1);
    const shifted = {
      logprobs: (b: readonly Int32Array[], s: 0 | 1 | 2, t: number) => learner.logprobs(b, s, t).map((l) => l.slice(1)),
    };
    expect(() => probeParity(engine, shifted, sequences, 0)).toThrow("NaN");
    expect(() => probeParity(engine, learner, [Int32Array.of(3)], 0)).toThrow("at least one sequence");
  });
});
