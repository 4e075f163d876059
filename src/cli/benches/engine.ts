/** `ale bench engine`: training steps, prefill and decode over a table of model sizes, beside what the machine can do. */

import { ParameterStore, type Slot } from "../../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../models/parameters.ts";
import { GenerationEngine } from "../../policy/generation/engine.ts";
import { Learner } from "../../trainer/learner.ts";
import { type Bench, type BenchContext, median, type Row, rounded, timeRuns } from "./bench.ts";
import { type Ceilings, measureCeilings } from "./ceilings.ts";
import { attentionFlops, MODEL_SIZES, type ModelSize, matrixParameters } from "./model-sizes.ts";

const DECODE_BATCHES = [1, 8, 32] as const;
/** Known tokens before the first decode step, and the tokens of a prefill. */
const DECODE_CONTEXT = 128;
const PREFILL_TOKENS = 512;
const CONTEXT = 1024;
const BUDGET_MS = 1500;

export const ENGINE_BENCH: Bench = {
  name: "engine",
  summary: "training step, prefill and decode of several model sizes, beside the machine's ceilings",
  measure: measureEngine,
  show: (row) =>
    `${String(row.name).padEnd(16)} ${`${row.batch} × ${row.seq}`.padStart(10)} ${`${row.ms} ms`.padStart(12)} ` +
    `${`${Math.round(Number(row.tokensPerSecond))} tokens/s`.padStart(18)} ` +
    `${`${row.gflops} of ${row.ceilingGflops} GFLOP/s`.padStart(26)} ${`${row.gbs} of ${row.ceilingGbs} GB/s`.padStart(22)}`,
};

/** What one case did: time, tokens, arithmetic, and bytes of weights and cache that had to be read. */
interface Work {
  readonly kind: "train" | "prefill" | "decode";
  readonly batch: number;
  readonly seq: number;
  readonly ms: number;
  readonly tokens: number;
  readonly flops: number;
  readonly bytes: number;
}

async function measureEngine(context: BenchContext): Promise<void> {
  const chosen = MODEL_SIZES.filter(({ name, byDefault }) =>
    context.sizes.length === 0 ? byDefault : context.sizes.includes(name),
  );
  const ceilings = await measureCeilings(context.threads, context.signal);
  for (const size of chosen) {
    const model = openModel(size);
    const report = (work: Work) => context.report(toRow(size, model.store, work, ceilings, context.threads));
    report(await measureTraining(model, size, context));
    await measureGeneration(model, size, context, report);
  }
}

interface Model {
  readonly store: ParameterStore;
}

function openModel({ config }: ModelSize): Model {
  const store = ParameterStore.inMemory(parameterLayout(config));
  initializeParameters(config, store.layout, store.parameters(0), 1);
  store.publish(0, 1);
  return { store };
}

function toRow(size: ModelSize, store: ParameterStore, work: Work, ceilings: Ceilings, threads: number): Row {
  const { kind, batch, seq, ms, tokens, flops, bytes } = work;
  return {
    name: kind === "decode" ? `${kind}/${size.name}/${batch}` : `${kind}/${size.name}`,
    params: store.layout.parameterCount,
    batch,
    seq,
    threads,
    device: "cpu",
    ms: rounded(ms),
    tokensPerSecond: rounded((tokens / ms) * 1000),
    gflops: rounded(flops / ms / 1e6),
    gbs: rounded(bytes / ms / 1e6),
    ceilingGflops: rounded(ceilings.gflops),
    ceilingGbs: rounded(ceilings.gbs),
  };
}

/** Token ids that repeat neither within nor across rows, the same on every machine. */
function fillTokens(row: number, length: number, vocabulary: number): Int32Array {
  return Int32Array.from({ length }, (_, t) => (row * 7919 + t * 104_729) % vocabulary);
}

/** Forward, backward, clipping and AdamW of one batch. */
async function measureTraining({ store }: Model, size: ModelSize, context: BenchContext): Promise<Work> {
  const { config, train } = size;
  const tokens = train.batch * train.length;
  const learner = new Learner(config, store, { threads: context.threads, maxTokensPerMicroBatch: tokens });
  try {
    const sequences = Array.from({ length: train.batch }, (_, row) =>
      fillTokens(row, train.length + 1, config.vocabularySize),
    );
    const weights = sequences.map((ids) => new Float32Array(ids.length).fill(1 / tokens));
    const settings = { lr: 1e-4, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 1 } as const;
    let slot: Slot = 0;
    const step = (): void => {
      learner.backward(sequences, weights, slot);
      const target = store.targetFor(slot);
      learner.step(settings, slot, target);
      slot = target;
    };
    const ms = median(await timeRuns(step, { signal: context.signal, budgetMs: BUDGET_MS, warmUp: 3 }));
    // Forward, and twice as much for the gradients of activations and of weights; attention sees half of its square.
    const flops = 3 * tokens * (2 * matrixParameters(config) + attentionFlops(config, train.length / 2));
    // Weights are read three times; AdamW reads parameters, gradient and two moments, and writes all but the gradient.
    const bytes = (3 + 7) * 4 * store.layout.parameterCount;
    return { kind: "train", batch: train.batch, seq: train.length, ms, tokens, flops, bytes };
  } finally {
    learner.release();
  }
}

async function measureGeneration(
  { store }: Model,
  size: ModelSize,
  context: BenchContext,
  report: (work: Work) => void,
): Promise<void> {
  const { config } = size;
  const slots = Math.max(...DECODE_BATCHES);
  const engine = new GenerationEngine(config, store, {
    threads: context.threads,
    slots,
    rows: slots,
    context: CONTEXT,
  });
  const kvBytes = 2 * config.layers * config.kvHeads * config.headDim * 4;
  const weightBytes = 4 * store.layout.parameterCount;
  const sampling = (maxTokens: number) => ({ temperature: 1, greedy: false, maxTokens, stopIds: [] });
  let opened = 0;
  try {
    // The first answer ends with the prefill, so a one-token answer is a prefill and one decode step.
    const prefill = () => {
      const id = opened++;
      engine.open(id, `bench ${id}`);
      const ids = fillTokens(id, PREFILL_TOKENS, config.vocabularySize);
      engine.submit({ sequenceId: id, context: ids, sampling: sampling(1) });
      engine.drain(new Set([id]), () => engine.close(id));
    };
    const prefillMs = median(await timeRuns(prefill, { signal: context.signal, budgetMs: BUDGET_MS / 2 }));
    const prefillFlops = PREFILL_TOKENS * (2 * matrixParameters(config) + attentionFlops(config, PREFILL_TOKENS / 2));
    report({
      kind: "prefill",
      batch: 1,
      seq: PREFILL_TOKENS,
      ms: prefillMs,
      tokens: PREFILL_TOKENS,
      flops: prefillFlops,
      bytes: weightBytes,
    });
    for (const batch of DECODE_BATCHES) {
      const ms = await measureDecode(engine, config.vocabularySize, batch, context);
      report({
        kind: "decode",
        batch,
        seq: DECODE_CONTEXT,
        ms,
        tokens: batch,
        flops: batch * (2 * matrixParameters(config) + attentionFlops(config, DECODE_CONTEXT)),
        bytes: weightBytes + batch * DECODE_CONTEXT * kvBytes,
      });
    }
  } finally {
    engine.dispose();
  }
}

/** Milliseconds of one step that samples a token for each of `batch` sequences. */
async function measureDecode(
  engine: GenerationEngine,
  vocabulary: number,
  batch: number,
  { signal }: BenchContext,
): Promise<number> {
  const rows = Array.from({ length: batch }, (_, row) => row + 1_000_000);
  for (const row of rows) {
    engine.open(row, `bench ${row}`);
    const ids = fillTokens(row, DECODE_CONTEXT, vocabulary);
    const maxTokens = CONTEXT - DECODE_CONTEXT;
    engine.submit({
      sequenceId: row,
      context: ids,
      sampling: { temperature: 1, greedy: false, maxTokens, stopIds: [] },
    });
  }
  while (engine.step().sampled.length < batch) signal.throwIfAborted();
  const times: number[] = [];
  const started = performance.now();
  // Half of what is left of the context: nobody may finish on the way.
  while (
    times.length < (CONTEXT - DECODE_CONTEXT) / 2 &&
    (times.length < 5 || performance.now() - started < BUDGET_MS / 3)
  ) {
    const begin = performance.now();
    engine.step();
    times.push(performance.now() - begin);
    if (times.length % 16 === 0) await Bun.sleep(0);
    signal.throwIfAborted();
  }
  for (const row of rows) engine.close(row);
  return median(times);
}
