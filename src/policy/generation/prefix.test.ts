import { afterEach, describe, expect, test } from "bun:test";
import type { Generation } from "../../core/ports.ts";
import type { GenerationEngine, GenerationOptions } from "./engine.ts";
import {
  answerOf,
  answersOf,
  disposeEngines,
  expectClose,
  ids,
  makeEngine,
  reference,
  STORE,
  sampling,
} from "./test-model.ts";

afterEach(disposeEngines);

/** An engine that copies what it can and gives up what it must. */
function freeEngine(options: Partial<GenerationOptions> = {}): GenerationEngine {
  return makeEngine({ bitEqual: false, ...options });
}

/** Asks for an answer and checks it against a forward pass over the whole sequence, which grows by both. */
function turn(
  engine: GenerationEngine,
  id: number,
  sequence: number[],
  context: Int32Array,
  maxTokens = 4,
): Generation {
  engine.submit({ sequenceId: id, context, sampling: sampling({ maxTokens }) });
  const answer = answerOf(engine, id);
  sequence.push(...context, ...answer.ids);
  const start = sequence.length - answer.ids.length;
  const slot = answer.versions[0] === 7 ? 0 : 1;
  expectClose(answer.logprobs, reference(sequence, start, 1, slot), 2e-5);
  return answer;
}

describe("prefixes", () => {
  test("a group of eight costs the prefill of one", () => {
    for (const bitEqual of [false, true]) {
      const engine = freeEngine({ slots: 8, bitEqual });
      const context = ids("group", 40);
      const members = [1, 2, 3, 4, 5, 6, 7, 8];
      for (const id of members) {
        engine.open(id, `member ${id}`);
        engine.submit({ sequenceId: id, context, sampling: sampling() });
      }
      for (const { ids: sampled, logprobs } of answersOf(engine, members).values()) {
        expectClose(logprobs, reference([...context, ...sampled], 40), 2e-5);
      }
      expect(engine.stats).toMatchObject({ prefillTokens: 39, reusedTokens: 7 * 39, copiedPrefixes: 7 });
    }
  });

  test("an episode of ten turns prefills each new token exactly once", () => {
    const engine = freeEngine();
    engine.open(1, "episode");
    const sequence: number[] = [];
    for (let i = 0; i < 10; i++) turn(engine, 1, sequence, ids(`turn ${i}`, i === 0 ? 12 : 3), 2);
    // All but the last token of the first context; then the last token of each answer and all but the last of the next.
    expect(engine.stats.prefillTokens).toBe(11 + 9 * 3);
    expect(engine.stats).toMatchObject({ reusedTokens: 0, evictedTokens: 0, reprefillTokens: 0 });
  });

  test("the longest common beginning of open and of closed sequences is copied, also of what they sampled", () => {
    const engine = freeEngine();
    const first: number[] = [];
    engine.open(1, "first");
    const { ids: sampled } = turn(engine, 1, first, ids("system", 20), 6);
    const again = Int32Array.from([...first.slice(0, 24), ...ids("other", 9)]);
    expect(again.slice(20, 24)).toEqual(sampled.slice(0, 4));
    for (const [id, closed] of [false, true].entries()) {
      if (closed) engine.close(1);
      const before = { ...engine.stats };
      engine.open(10 + id, `second ${id}`);
      turn(engine, 10 + id, [], again);
      // The last token of a context is never copied, and the second one finds the first one's whole context.
      const common = id === 0 ? 24 : 32;
      expect(engine.stats.reusedTokens - before.reusedTokens).toBe(common);
      expect(engine.stats.prefillTokens - before.prefillTokens).toBe(32 - common);
    }
    engine.open(20, "short");
    const before = engine.stats.reusedTokens;
    turn(engine, 20, [], Int32Array.from([...first.slice(0, 9), ...ids("another", 9)]));
    expect(engine.stats.reusedTokens).toBe(before);
  });

  test("nothing is copied across weight versions, and a cache kept across them is nobody else's", () => {
    const engine = freeEngine({ afterSync: "keep" });
    const sequence: number[] = [];
    engine.open(1, "old");
    turn(engine, 1, sequence, ids("versions", 24));
    STORE.publish(1, 8);
    engine.submit({ sequenceId: 1, context: ids("more", 3), sampling: sampling() });
    const kept = answerOf(engine, 1);
    expect([...new Set(kept.versions)]).toEqual([8]);
    expect([...new Set(kept.kvOldest)]).toEqual([7]);
    engine.open(2, "new");
    turn(engine, 2, [], ids("versions", 24));
    expect(engine.stats.copiedPrefixes).toBe(0);
  });

  test("kvOldest follows the cache through a publication in the middle of an answer", () => {
    const engine = freeEngine();
    engine.open(1, "k");
    engine.submit({ sequenceId: 1, context: ids("k", 9), sampling: sampling() });
    for (let i = 0; i < 4; i++) engine.step();
    STORE.publish(1, 8);
    const answer = answerOf(engine, 1);
    expect([...answer.versions]).toEqual([7, 7, 7, 8, 8, 8, 8, 8, 8, 8]);
    expect([...answer.kvOldest]).toEqual(new Array(10).fill(7));
    engine.submit({ sequenceId: 1, context: ids("l", 3), sampling: sampling() });
    expect([...answerOf(engine, 1).kvOldest]).toEqual(new Array(10).fill(8));
    expect(engine.stats.outdatedTokens).toBe(18);
    expect(engine.stats.reprefillTokens).toBe(18);
  });
});

describe("a bounded working set", () => {
  test("idle sequences lose their cache, least recently used first, and go on as if they had not", () => {
    const engine = freeEngine({ rows: 2, slots: 2 });
    const sequences: number[][] = [[], [], []];
    for (const id of [0, 1, 2]) engine.open(id, `s${id}`);
    turn(engine, 0, sequences[0] as number[], ids("a", 18));
    turn(engine, 1, sequences[1] as number[], ids("b", 18));
    turn(engine, 0, sequences[0] as number[], ids("c", 2));
    expect(engine.stats.evictions).toBe(0);
    turn(engine, 2, sequences[2] as number[], ids("d", 18));
    expect(engine.stats).toMatchObject({ evictions: 1, evictedTokens: 21, reprefillTokens: 0 });
    turn(engine, 0, sequences[0] as number[], ids("e", 2));
    expect(engine.stats.evictions).toBe(1);
    const before = engine.stats.prefillTokens;
    turn(engine, 1, sequences[1] as number[], ids("f", 2));
    expect(engine.stats).toMatchObject({ evictions: 2, reprefillTokens: 21 });
    expect(engine.stats.prefillTokens - before).toBe(23);
    expect(engine.stats.reprefillMs).toBeGreaterThan(0);
  });

  test("more answers than rows come in the order they were asked for, also from those who ask again at once", () => {
    const engine = freeEngine({ rows: 2, slots: 2 });
    const order: number[] = [];
    const pending = new Set<number>();
    const ask = (id: number, label: string) => {
      engine.submit({ sequenceId: id, context: ids(label, 6), sampling: sampling({ maxTokens: 3 }) });
      pending.add(id);
    };
    for (const id of [0, 1, 2, 3, 4, 5]) {
      engine.open(id, `s${id}`);
      ask(id, `first ${id}`);
    }
    engine.drain(pending, ({ sequenceId }) => {
      order.push(sequenceId);
      if (order.length <= 12) ask(sequenceId, `again ${order.length}`);
    });
    // Two are in work at a time: nobody is passed by more than one.
    for (const [i, id] of order.entries()) expect(Math.abs((i % 6) - id)).toBeLessThanOrEqual(1);
    expect(order.length).toBe(18);
  });
});

describe("long contexts", () => {
  test("others get their tokens between the chunks", () => {
    const engine = freeEngine({ prefillTokens: 16, context: 64 });
    engine.open(1, "decoding");
    engine.submit({ sequenceId: 1, context: ids("short", 3), sampling: sampling({ maxTokens: 40 }) });
    while (engine.step().sampled.length === 0);
    engine.open(2, "long");
    engine.submit({ sequenceId: 2, context: ids("long", 61), sampling: sampling({ maxTokens: 2 }) });
    const prefilled: number[] = [];
    let since = engine.stats.prefillTokens;
    for (let sampled: readonly number[] = []; !sampled.includes(2); ) {
      ({ sampled } = engine.step());
      if (sampled.length === 0) continue;
      prefilled.push(engine.stats.prefillTokens - since);
      since = engine.stats.prefillTokens;
    }
    // 60 tokens in chunks of 32 and 28, each of which is over the limit of 16 by itself
    expect(prefilled).toEqual([32, 28]);
  });

  test("cancelled while it is prefilled or decoded, a request leaves its seat to the next at once", () => {
    for (const steps of [0, 2]) {
      const engine = freeEngine({ rows: 2, slots: 2, prefillTokens: 16 });
      for (const id of [1, 2]) {
        engine.open(id, `c${id}`);
        engine.submit({ sequenceId: id, context: ids(`cancel ${id}`, id === 1 ? 3 : 61), sampling: sampling() });
      }
      while (engine.step().sampled.length === 0);
      for (let i = 0; i < steps; i++) engine.step();
      expect(engine.seatOf(2) >= 0).toBe(steps === 2);
      engine.cancel(2);
      engine.close(2);
      engine.open(3, "next");
      engine.submit({ sequenceId: 3, context: ids("next", 2), sampling: sampling({ maxTokens: 1 }) });
      const before = engine.stats.prefillTokens;
      // At most: a decode step of the others, the one token of context, a decode step with the new sequence.
      const sampled = Array.from({ length: 3 }, () => engine.step().sampled);
      expect(sampled.flat()).toContain(3);
      expect(engine.stats.prefillTokens - before).toBe(1);
    }
  });
});
