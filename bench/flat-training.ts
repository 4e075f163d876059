/**
 * Resident memory over many training steps: `bun bench/flat-training.ts [--steps N] [--every N] [--executor graph|layers]`
 *
 * Batches of a tiny model (what grows does not depend on its size) with other sequence lengths in every step, as rollouts
 * have them, log-probabilities and optimizer steps included. Prints resident memory every so many steps, and last how much
 * the second half added.
 */

import { parseArgs } from "node:util";
import { MODEL_SIZES } from "../src/cli/benches/model-sizes.ts";
import { Rng } from "../src/core/rng.ts";
import { ParameterStore, type Slot } from "../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../src/models/parameters.ts";
import { Learner } from "../src/trainer/learner.ts";

const SEQUENCES = 8;
const SETTINGS = { lr: 1e-4, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 } as const;

const { values: options } = parseArgs({
  options: {
    steps: { type: "string", default: "2000" },
    every: { type: "string", default: "200" },
    executor: { type: "string", default: "graph" },
  },
});

const [{ config }] = MODEL_SIZES as [(typeof MODEL_SIZES)[number]];
const store = ParameterStore.inMemory(parameterLayout(config));
initializeParameters(config, store.layout, store.parameters(0), 1);
const executor = options.executor === "layers" ? "layers" : "graph";
const learner = new Learner(config, store, { threads: 2, maxTokensPerMicroBatch: 256, executor });
const rng = new Rng("flat training");
const samples: number[] = [];
let slot: Slot = 0;
for (let step = 1; step <= Number(options.steps); step++) {
  const sequences = Array.from({ length: SEQUENCES }, () =>
    Int32Array.from({ length: rng.int(4, 96) }, () => rng.int(0, config.vocabularySize - 1)),
  );
  learner.logprobs(sequences, slot);
  learner.backward(
    sequences,
    sequences.map(({ length }) => new Float32Array(length).fill(1 / length)),
    slot,
  );
  const target = store.targetFor(slot);
  learner.step(SETTINGS, slot, target);
  slot = target;
  if (step % Number(options.every) === 0) {
    Bun.gc(true);
    samples.push(process.memoryUsage.rss());
    console.log(`${step} steps: ${((samples.at(-1) as number) / 1e6).toFixed(1)} MB`);
  }
}
const half = samples.slice(Math.floor(samples.length / 2));
const added = (Math.max(...half) - (half[0] as number)) / 1e6;
console.log(`${executor}: the second half added ${added.toFixed(1)} MB`);
learner.release();
