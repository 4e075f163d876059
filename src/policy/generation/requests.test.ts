import { afterEach, describe, expect, test } from "bun:test";
import { firstTokens } from "../../core/generation.ts";
import type { Generation, SamplingOptions } from "../../core/ports.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { parameterLayout } from "../../models/parameters.ts";
import { GenerationEngine } from "./engine.ts";
import { cellsFor, chunkSizes, nextChunk } from "./prefiller.ts";
import {
  answerOf,
  answersOf,
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

  test("where it is cut, while it is sampled or afterwards; the next turn goes on behind the cut", () => {
    const request = { sequenceId: 1, context: ids("cut", 5), sampling: sampling({ maxTokens: 12 }) };
    const rest = { ...request, context: new Int32Array(0), sampling: sampling({ maxTokens: 8 }) };
    const whole = makeEngine();
    whole.open(1, "s");
    whole.submit(request);
    const free = answerOf(whole, 1);
    const running = makeEngine();
    running.open(1, "s");
    running.submit(request);
    while (running.sampledToken(1, 6) === undefined) running.step();
    expect(running.sampledToken(1, 3)).toEqual({ id: free.ids[3] as number, logprob: free.logprobs[3] as number });
    running.cut(1, 4);
    expect(answerOf(running, 1)).toEqual(firstTokens(free, 4));
    whole.cut(1, 4);
    for (const engine of [running, whole]) {
      engine.submit(rest);
      const { ids: more, logprobs } = answerOf(engine, 1);
      expect(more).toEqual(free.ids.slice(4));
      expectClose(logprobs, [...free.logprobs.slice(4)], 2e-5);
    }
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

  test("after a cancelled prompt another one works, and nobody copies what it overwrote", () => {
    const context = ids("cancelled", 20);
    const expected = (first: Int32Array) => {
      const engine = makeEngine();
      engine.open(1, "c");
      engine.submit({ sequenceId: 1, context: first, sampling: sampling() });
      return answerOf(engine, 1);
    };
    for (const other of [context.slice(7, 8), ids("short", 5), ids("long", 41)]) {
      const engine = makeEngine();
      engine.open(1, "c");
      engine.submit({ sequenceId: 1, context, sampling: sampling() });
      for (let i = 0; i < 5; i++) engine.step();
      engine.cancel(1);
      engine.submit({ sequenceId: 1, context: other, sampling: sampling() });
      expect(answerOf(engine, 1)).toEqual(expected(other));
      engine.open(2, "c");
      engine.submit({ sequenceId: 2, context, sampling: sampling() });
      expect(answerOf(engine, 2)).toEqual(expected(context));
      expect(engine.stats.copiedPrefixes).toBe(0);
    }
  });

  test("closing frees the row at once and leaves the others alone", () => {
    const engine = makeEngine({ rows: 4, slots: 4, bitEqual: true });
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
    const narrow = { ...CONFIG, headDim: 8 };
    const store = ParameterStore.inMemory(parameterLayout(narrow));
    expect(() => new GenerationEngine(narrow, store, { threads: 1, slots: 2, rows: 2, context: 16 })).toThrow(
      "head size of 8 is not supported",
    );
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

  test("a cache computed again is the same to the bit whether or not its first context could be copied", () => {
    const context = ids("again", 14);
    const run = (withOther: boolean) => {
      const engine = makeEngine({ bitEqual: true });
      engine.open(1, "a");
      engine.submit({ sequenceId: 1, context, sampling: sampling() });
      const first = answerOf(engine, 1);
      STORE.publish(1, 8);
      if (withOther) {
        engine.open(2, "b");
        engine.submit({ sequenceId: 2, context, sampling: sampling() });
        answerOf(engine, 2);
      }
      engine.submit({ sequenceId: 1, context: ids("more", 9), sampling: sampling() });
      const second = answerOf(engine, 1);
      expect(engine.stats.copiedPrefixes).toBe(withOther ? 1 : 0);
      return { first, second, cache: engine.readCache(1) };
    };
    expect(run(true)).toEqual(run(false));
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
      rows: 2,
      context: 16,
    });
    engine.open(1, "n");
    engine.submit({ sequenceId: 1, context: ids("n", 3), sampling: sampling() });
    expect(() => engine.step()).toThrow("no weights have been published yet");
    engine.dispose();
  });
});
