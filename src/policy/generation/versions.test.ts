/** Weights that are published while sequences are prefilled and sampled. */

import { afterEach, expect, test } from "bun:test";
import type { Generation } from "../../core/ports.ts";
import type { GenerationEngine } from "./engine.ts";
import { referenceLogits, referenceLogprob } from "./reference-forward.ts";
import {
  answerOf,
  CONFIG,
  disposeEngines,
  expectClose,
  ids,
  LAYOUT,
  makeEngine,
  STORE,
  sampling,
} from "./test-model.ts";

afterEach(disposeEngines);

/** `makeEngine` publishes slot 0 as version 7; the others follow. */
const slotOf = (version: number) => (version - 7) as 0 | 1 | 2;
const publish = (version: number) => STORE.publish(slotOf(version), version);

/**
 * Log-probabilities of `tokens` from `start` on in float64, where the step that computed token t had the weights of version
 * `cells[t]`.
 */
function mixedReference(tokens: readonly number[], start: number, cells: readonly number[]): number[] {
  // The last token was sampled, not computed.
  const flat = (t: number) => STORE.parameters(slotOf(cells[t] ?? 7));
  const logits = referenceLogits(CONFIG, LAYOUT, flat, tokens);
  return tokens.slice(start).map((id, i) => referenceLogprob(logits[start + i - 1] as Float64Array, id));
}

/** The step that samples a token computes the one before it; what came before that was prefilled. */
function cellsOf(prefilled: readonly number[], { versions }: Generation): number[] {
  return [...prefilled, ...versions];
}

function begin(engine: GenerationEngine, id: number, context: Int32Array, maxTokens = 12): void {
  engine.submit({ sequenceId: id, context, sampling: sampling({ maxTokens }) });
}

/** Steps until the answer in work has `count` tokens. */
function sampleUntil(engine: GenerationEngine, id: number, count: number): void {
  while (engine.sampledToken(id, count - 1) === undefined) engine.step();
}

test("an answer goes on under the weights that are published in its middle, over the cache it has", () => {
  const engine = makeEngine();
  // Two more sequences keep their seats meanwhile, so that seats and steps are shared.
  for (const id of [1, 2, 3]) {
    engine.open(id, `s${id}`);
    begin(engine, id, ids(`prompt ${id}`, 9 + id));
  }
  sampleUntil(engine, 1, 4);
  publish(8);
  sampleUntil(engine, 1, 9);
  publish(9);
  const answers = [1, 2, 3].map((id) => ({ id, answer: answerOf(engine, id) }));
  for (const { id, answer } of answers) {
    const context = [...ids(`prompt ${id}`, 9 + id)];
    expect([...answer.versions]).toEqual([7, 7, 7, 7, 8, 8, 8, 8, 8, 9, 9, 9]);
    expect(new Set(answer.kvOldest)).toEqual(new Set([7]));
    const cells = cellsOf(new Array<number>(context.length - 1).fill(7), answer);
    expectClose(answer.logprobs, mixedReference([...context, ...answer.ids], context.length, cells), 2e-5);
  }
});

test("a context that is prefilled half before and half after has the versions of both", () => {
  const engine = makeEngine({ prefillTokens: 8 });
  const context = ids("long", 45);
  engine.open(1, "s");
  begin(engine, 1, context);
  engine.step();
  const before = engine.stats.prefillTokens;
  expect(before).toBeGreaterThan(0);
  expect(before).toBeLessThan(44);
  publish(8);
  const answer = answerOf(engine, 1);
  expect([...answer.versions]).toEqual(new Array(12).fill(8));
  expect([...answer.kvOldest]).toEqual(new Array(12).fill(7));
  const cells = cellsOf([...new Array<number>(before).fill(7), ...new Array<number>(44 - before).fill(8)], answer);
  expectClose(answer.logprobs, mixedReference([...context, ...answer.ids], 45, cells), 2e-5);
  // Nothing of the mixture is given to others: an equal context is computed under the weights there are now.
  engine.open(2, "s");
  begin(engine, 2, context);
  const fresh = answerOf(engine, 2);
  expect(engine.stats.copiedPrefixes).toBe(0);
  expect([...fresh.kvOldest]).toEqual(new Array(12).fill(8));
  expectClose(
    fresh.logprobs,
    mixedReference([...context, ...fresh.ids], 45, cellsOf(new Array(44).fill(8), fresh)),
    2e-5,
  );
});

test.each(["recompute", "keep"] as const)(
  "at the next turn the cache of a mixed answer is as afterSync says: %s",
  (afterSync) => {
    const engine = makeEngine({ afterSync });
    const context = ids("turn", 14);
    engine.open(1, "s");
    begin(engine, 1, context);
    sampleUntil(engine, 1, 5);
    publish(8);
    const first = answerOf(engine, 1);
    const observation = ids("observation", 4);
    begin(engine, 1, observation, 8);
    // A publication while the turn waits, before any of it was computed, is as one before it.
    publish(9);
    const second = answerOf(engine, 1);
    expect([...second.versions]).toEqual(new Array(8).fill(9));
    const tokens = [...context, ...first.ids, ...observation, ...second.ids];
    const start = tokens.length - 8;
    const kept = cellsOf(new Array<number>(13).fill(7), first);
    const cells =
      afterSync === "keep" ? [...kept, ...new Array<number>(4).fill(9)] : new Array<number>(start - 1).fill(9);
    expect([...second.kvOldest]).toEqual(new Array(8).fill(afterSync === "keep" ? 7 : 9));
    expectClose(second.logprobs, mixedReference(tokens, start, cellsOf(cells, second)), 2e-5);
  },
);
