/** Generation against numbers from elsewhere, and under random schedules; slower than unit tests. */

import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Generation, SamplingOptions } from "../../src/core/ports.ts";
import { Rng } from "../../src/core/rng.ts";
import { configFromHuggingFace, configFromPreset, type DecoderConfig } from "../../src/models/config.ts";
import { ParameterStore, type Slot } from "../../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../src/models/parameters.ts";
import { readSafetensors } from "../../src/models/safetensors.ts";
import { readWeights } from "../../src/models/weights.ts";
import { GenerationEngine, type GenerationOptions } from "../../src/policy/generation/engine.ts";
import { PARITY_LIMIT, probeParity } from "../../src/policy/generation/parity.ts";
import { referenceLogits, referenceLogprob } from "../../src/policy/generation/reference-forward.ts";
import { Learner } from "../../src/trainer/learner.ts";

const root = join(import.meta.dir, "../..");
const engines: GenerationEngine[] = [];
afterEach(() => {
  for (const engine of engines.splice(0)) engine.dispose();
});

function open(config: DecoderConfig, store: ParameterStore, options: Partial<GenerationOptions>): GenerationEngine {
  const engine = new GenerationEngine(config, store, { threads: 2, slots: 8, rows: 32, context: 256, ...options });
  engines.push(engine);
  return engine;
}

interface GoldenPrompt {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly greedy: readonly number[];
  readonly greedy_logprobs: readonly number[];
}

describe("golden llama-tiny (llama3 RoPE scaling, untied head)", () => {
  const folder = join(root, "test/golden/models/llama-tiny");
  const config = configFromHuggingFace(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")), "config.json");
  const layout = parameterLayout(config);
  const store = ParameterStore.inMemory(layout);
  readWeights(readSafetensors(join(folder, "model.safetensors")), layout, store.parameters(0));
  store.publish(0, 1);
  const { prompts } = JSON.parse(readFileSync(join(folder, "generation.json"), "utf8")) as {
    readonly prompts: readonly GoldenPrompt[];
  };

  const expectNear = (actual: Float32Array, expected: readonly number[]) => {
    expect(actual.length).toBe(expected.length);
    for (const [i, value] of actual.entries()) expect(Math.abs(value - (expected[i] as number))).toBeLessThan(2e-4);
  };

  test("greedy continuations are the golden ones", () => {
    for (const slots of [2, 3, 8]) {
      const engine = open(config, store, { slots });
      for (const [i, { ids }] of prompts.entries()) {
        engine.open(i, "");
        const sampling: SamplingOptions = { greedy: true, temperature: 1, maxTokens: 16, stopIds: [] };
        engine.submit({ sequenceId: i, context: Int32Array.from(ids), sampling });
      }
      const seen = new Set<number>();
      engine.drain(new Set(prompts.keys()), ({ sequenceId, generation }) => {
        const prompt = prompts[sequenceId] as GoldenPrompt;
        expect([...generation.ids]).toEqual([...prompt.greedy]);
        expectNear(generation.logprobsT1, prompt.greedy_logprobs);
        seen.add(sequenceId);
      });
      expect(seen.size).toBe(3);
    }
  });

  test("log-probabilities of the prompts are the golden ones in every layout of the work", () => {
    const engine = open(config, store, {});
    const sequences = prompts.map(({ ids }) => Int32Array.from(ids));
    const golden = { logprobs: () => prompts.map(({ logprobs }) => Float32Array.from([0, ...logprobs])) };
    expect(probeParity(engine, golden, sequences, 0).max).toBeLessThan(PARITY_LIMIT);
  });

  test("positions far beyond the original context", () => {
    const engine = open(config, store, { context: 450 });
    const rng = new Rng("far");
    const ids = Int32Array.from({ length: 420 }, () => rng.int(0, config.vocabularySize - 1));
    const logits = referenceLogits(config, layout, store.parameters(0), ids);
    const reference = {
      logprobs: (batch: readonly Int32Array[]) =>
        batch.map((sequence) =>
          Float32Array.from(sequence, (id, t) => (t === 0 ? 0 : referenceLogprob(logits[t - 1] as Float64Array, id))),
        ),
    };
    expect(probeParity(engine, reference, [ids], 0).max).toBeLessThan(PARITY_LIMIT);
  }, 60_000);
});

describe("random schedules on the shell model", () => {
  const config = configFromPreset(readFileSync(join(root, "models/shell.toml"), "utf8"), "models/shell.toml");
  const layout = parameterLayout(config);
  const store = ParameterStore.inMemory(layout);
  initializeParameters(config, layout, store.parameters(0), 1);
  store.publish(0, 1);

  interface Plan {
    readonly key: string;
    readonly turns: readonly { readonly context: Int32Array; readonly sampling: SamplingOptions }[];
  }

  /** Groups of four share their prompt; lengths, temperatures and stop ids vary. */
  function plan(i: number): Plan {
    const group = new Rng(`group ${i >> 2}`);
    const own = new Rng(`plan ${i}`);
    const some = (rng: Rng, length: number) => Int32Array.from({ length }, () => rng.int(0, 511));
    const prompt = some(group, group.int(1, 70));
    const turns = Array.from({ length: own.int(1, 4) }, (_, turn) => ({
      context: turn === 0 ? prompt : some(own, own.int(turn === 2 ? 0 : 1, 40)),
      sampling: {
        temperature: own.pick([0.5, 1, 2]),
        greedy: own.int(0, 4) === 0,
        maxTokens: own.int(1, 30),
        stopIds: [own.int(0, 511), own.int(0, 511)],
      },
    }));
    return { key: `plan ${i}`, turns };
  }

  const plans = Array.from({ length: 48 }, (_, i) => plan(i));
  let evictions = 0;

  function runAlone(): Generation[][] {
    const engine = open(config, store, { bitEqual: true });
    return plans.map(({ key, turns }, id) => {
      engine.open(id, key, { shares: false });
      const answers: Generation[] = [];
      for (const turn of turns) {
        engine.submit({ sequenceId: id, ...turn });
        engine.drain(new Set([id]), ({ generation }) => answers.push(generation));
      }
      engine.close(id);
      return answers;
    });
  }

  /** Opens, submits, waits, cancels and closes at random until every plan has been carried out once without a cancel. */
  function runScheduled(seed: number, options: Partial<GenerationOptions>): Generation[][] {
    const rng = new Rng(`schedule ${seed}`);
    const engine = open(config, store, options);
    const answers: Generation[][] = plans.map(() => []);
    const queue = rng.shuffle(plans.map((_, i) => i));
    const turnOf = new Map<number, number>();
    const waiting = new Set<number>();
    const submit = (id: number) => {
      const turn = (plans[id] as Plan).turns[turnOf.get(id) as number];
      if (turn === undefined) {
        engine.close(id);
        turnOf.delete(id);
      } else {
        engine.submit({ sequenceId: id, ...turn });
        waiting.add(id);
      }
    };
    const restart = (id: number) => {
      engine.close(id);
      waiting.delete(id);
      turnOf.delete(id);
      (answers[id] as Generation[]).length = 0;
      queue.push(id);
    };
    for (let tick = 0; queue.length > 0 || turnOf.size > 0; tick++) {
      while (queue.length > 0 && turnOf.size < 24 && rng.int(0, 2) > 0) {
        const id = queue.shift() as number;
        engine.open(id, (plans[id] as Plan).key);
        turnOf.set(id, 0);
        submit(id);
      }
      for (const id of turnOf.keys()) if (!waiting.has(id) && rng.int(0, 3) === 0) submit(id);
      if (tick < 600 && waiting.size > 0 && rng.int(0, 30) === 0) {
        const id = rng.pick([...waiting]);
        if (rng.int(0, 1) === 0) {
          restart(id);
        } else {
          engine.cancel(id);
          waiting.delete(id);
        }
      }
      for (const { sequenceId, generation } of engine.step().finished) {
        waiting.delete(sequenceId);
        answers[sequenceId]?.push(generation);
        turnOf.set(sequenceId, (turnOf.get(sequenceId) as number) + 1);
      }
    }
    expect(engine.stats.copiedPrefixes).toBeGreaterThan(5);
    evictions += engine.stats.evictions;
    return answers;
  }

  test("whatever the schedule, every answer is the one the sequence gives alone, to the bit", () => {
    const alone = runAlone();
    expect(alone.flat().length).toBeGreaterThan(90);
    for (const seed of [1, 2]) expect(runScheduled(seed, { rows: 24, bitEqual: true })).toEqual(alone);
  }, 60_000);

  test("with room for few caches every answer comes, the same up to rounding", () => {
    const alone = runAlone().flat();
    for (const [seed, rows] of [3, 9].entries()) {
      const scheduled = runScheduled(seed, { rows, prefillTokens: 16 }).flat();
      expect(scheduled.map(({ ids }) => ids)).toEqual(alone.map(({ ids }) => ids));
      for (const [i, { logprobs }] of scheduled.entries()) {
        for (const [t, logprob] of logprobs.entries()) {
          expect(Math.abs(logprob - (alone[i]?.logprobs[t] as number))).toBeLessThan(2e-5);
        }
      }
    }
    expect(evictions).toBeGreaterThan(50);
  }, 60_000);

  test("the self-test holds for every number of slots and threads in use", () => {
    for (const threads of [1, 2]) {
      for (const slots of [2, 5, 8, 32]) {
        const report = open(config, store, { threads, slots, bitEqual: true }).selfTestDeterminism();
        expect(report.ok).toBe(true);
        expect(report.detail).toContain("batch size");
      }
    }
  }, 60_000);
});

describe("generation and training", () => {
  const config = configFromPreset(readFileSync(join(root, "models/shell.toml"), "utf8"), "models/shell.toml");
  const layout = parameterLayout(config);
  const store = ParameterStore.inMemory(layout);
  initializeParameters(config, layout, store.parameters(0), 4);
  const learner = new Learner(config, store, { threads: 2 });
  const rng = new Rng("generation and training");
  const some = (length: number) => Int32Array.from({ length }, () => rng.int(0, 511));

  /** Two turns of 12 sequences in 8 seats, ending in another order than they began; sequences and what was sampled. */
  function rollOut(engine: GenerationEngine, temperature: number) {
    const records = Array.from({ length: 12 }, () => ({ ids: [] as number[], logprobs: new Map<number, number>() }));
    const turns = new Map<number, number>();
    const pending = new Set<number>();
    const finishedOrder: number[] = [];
    const submit = (id: number) => {
      const context = some(rng.int(3, 30));
      records[id]?.ids.push(...context);
      const maxTokens = 24 - ((id * 5) % 19);
      engine.submit({ sequenceId: id, context, sampling: { temperature, greedy: false, maxTokens, stopIds: [7] } });
      turns.set(id, (turns.get(id) ?? 0) + 1);
      pending.add(id);
    };
    for (const id of records.keys()) {
      engine.open(id, `${temperature} ${id}`);
      submit(id);
    }
    engine.drain(pending, ({ sequenceId: id, generation }) => {
      const record = records[id] as (typeof records)[number];
      for (const [i, logprob] of generation.logprobs.entries()) record.logprobs.set(record.ids.length + i, logprob);
      record.ids.push(...generation.ids);
      if (turns.get(id) === 1) {
        submit(id);
      } else {
        finishedOrder.push(id);
        engine.close(id);
      }
    });
    expect(finishedOrder).not.toEqual(finishedOrder.toSorted((a, b) => a - b));
    return records;
  }

  test("what was sampled has the log-probabilities that training computes, before and after an update", () => {
    const engine = open(config, store, { slots: 8 });
    let slot: Slot = 0;
    store.publish(slot, 0);
    for (const [version, temperature] of [1, 0.7, 1.3].entries()) {
      const records = rollOut(engine, temperature);
      const sequences = records.map(({ ids }) => Int32Array.from(ids));
      const trained = learner.logprobs(sequences, slot, temperature);
      let compared = 0;
      for (const [i, { logprobs }] of records.entries()) {
        for (const [t, logprob] of logprobs) {
          expect(Math.abs(logprob - (trained[i]?.[t] as number))).toBeLessThan(PARITY_LIMIT);
          compared++;
        }
      }
      expect(compared).toBeGreaterThan(150);
      expect(probeParity(engine, learner, sequences, slot).max).toBeLessThan(PARITY_LIMIT);

      const weights = sequences.map((sequence) => new Float32Array(sequence.length).fill(0.01));
      learner.backward(sequences, weights, slot, temperature);
      const target = store.targetFor(slot);
      learner.step({ lr: 0.01, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 }, slot, target);
      const stale = learner.logprobs(sequences, slot, 1);
      const fresh = learner.logprobs(sequences, target, 1);
      expect(Math.abs((stale[0]?.[5] as number) - (fresh[0]?.[5] as number))).toBeGreaterThan(0.01);
      store.publish(target, version + 1);
      slot = target;
      expect(probeParity(engine, learner, sequences, slot).max).toBeLessThan(PARITY_LIMIT);
    }
  }, 60_000);
});
