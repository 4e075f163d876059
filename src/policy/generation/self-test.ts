/**
 * Proof, at start, that generation is reproducible here: what a sequence computes must not depend on its row of the
 * batch, on the size of the batch, on what the other rows hold, or on whether its first context was computed or copied.
 * Floating-point libraries do not promise this; they choose kernels by shape, processor and thread count.
 */

import type { SamplingOptions } from "../../core/ports.ts";
import { Rng } from "../../core/rng.ts";
import { batchSizes } from "./decode-batch.ts";
import type { GenerationEngine } from "./engine.ts";

export interface DeterminismReport {
  readonly ok: boolean;
  /** One line for people: what was compared, or what differed. */
  readonly detail: string;
}

/** Everything a sequence computed: per sampled token its id, log-probabilities and logits; at the end its cache. */
interface Trace {
  readonly ids: number[];
  readonly numbers: Float32Array[];
}

/** Ids of the sequence under test and of the first of those that keep it company. */
const SUBJECT = -1;
const COMPANY = -2;

/** Who shares the batch with the subject. */
interface Company {
  readonly name: string;
  /** Sequences seated before the subject. */
  readonly before: number;
  /** Sequences seated after it. */
  readonly after: number;
  /** They stay as long as the subject does; otherwise they leave one by one and the ranks close. */
  readonly stays: boolean;
  /** The first of them has the subject's first context. */
  readonly copied: boolean;
}

/**
 * Compares a sequence alone with itself in company. Where the size of a batch matters, the engine is set to whole
 * batches and tested again.
 */
export function testDeterminism(engine: GenerationEngine): DeterminismReport {
  const { slots, threads } = engine.options;
  const setting = `${slots} slots, ${threads} threads`;
  const varying = compare(engine);
  if (varying.difference === undefined) {
    return {
      ok: true,
      detail: `${varying.compared} values bit-equal in every row, batch size and by copy (${setting})`,
    };
  }
  engine.fixBatchSize();
  const whole = compare(engine);
  if (whole.difference === undefined) {
    return {
      ok: true,
      detail: `${whole.compared} values bit-equal in every row and by copy, in whole batches (${setting})`,
    };
  }
  return { ok: false, detail: `${whole.difference} (${setting})` };
}

function compare(engine: GenerationEngine): { readonly compared: number; readonly difference: string | undefined } {
  const { slots, bitEqual = false } = engine.options;
  const base: Company = { name: "alone again", before: 0, after: 0, stays: true, copied: false };
  const companies: Company[] = [
    ...batchSizes(slots, !bitEqual).map((size) => ({ ...base, name: `last of ${size} rows`, before: size - 1 })),
    { ...base, name: "at the end of a thinning batch", before: slots - 1, stays: false },
    { ...base, name: "in the middle of a thinning batch", before: slots >> 1, after: (slots - 1) >> 1, stays: false },
    { ...base, name: "with its first context copied", before: 1, copied: true },
    base,
  ];
  const copiedBefore = engine.stats.copiedPrefixes;
  const alone = traceSubject(engine, base);
  let compared = 0;
  for (const company of companies) {
    const difference = firstDifference(alone, traceSubject(engine, company));
    if (difference !== undefined) return { compared, difference: `a sequence ${company.name} differs: ${difference}` };
    compared += alone.numbers.reduce((sum, values) => sum + values.length, 0);
  }
  const copies = engine.stats.copiedPrefixes - copiedBefore;
  return { compared, difference: copies === 1 ? undefined : `${copies} first contexts were copied instead of 1` };
}

/** Two turns of the subject: its tokens, log-probabilities, logits and cache. */
function traceSubject(engine: GenerationEngine, company: Company): Trace {
  const { context } = engine.options;
  const vocabulary = engine.config.vocabularySize;
  const some = (rng: Rng, length: number) => Int32Array.from({ length }, () => rng.int(0, vocabulary - 1));
  const sampling = (temperature: number, maxTokens: number): SamplingOptions => ({
    temperature,
    greedy: false,
    maxTokens,
    stopIds: [],
  });
  const unit = Math.max(1, Math.min(12, Math.floor(context / 6)));
  const own = new Rng("determinism subject");
  const first = some(own, unit + 1);
  const second = some(own, unit);
  const rng = new Rng(`determinism ${company.name}`);
  const opened: number[] = [];
  const open = (id: number, ids: Int32Array, maxTokens: number) => {
    engine.open(id, `determinism ${id}`, { shares: company.copied });
    opened.push(id);
    engine.submit({ sequenceId: id, context: ids, sampling: sampling(1, maxTokens) });
  };
  const openCompanion = (i: number) => {
    const ids = company.copied ? first : some(rng, 2 + ((i * 5) % (2 * unit)));
    open(COMPANY - i, ids, company.stays ? 3 * unit : 1 + ((i * 7) % (2 * unit)));
  };
  try {
    for (let i = 0; i < company.before; i++) openCompanion(i);
    open(SUBJECT, first, unit);
    for (let i = 0; i < company.after; i++) openCompanion(company.before + i);
    const trace: Trace = { ids: [], numbers: [] };
    follow(engine, trace);
    engine.submit({ sequenceId: SUBJECT, context: second, sampling: sampling(0.7, unit) });
    follow(engine, trace);
    trace.numbers.push(...engine.readCache(SUBJECT));
    return trace;
  } finally {
    for (const id of opened) engine.close(id);
  }
}

/** Steps until the subject has its answer, noting its logits at each of its tokens. */
function follow(engine: GenerationEngine, trace: Trace): void {
  engine.drain(
    new Set([SUBJECT]),
    ({ generation }) => {
      trace.ids.push(...generation.ids);
      trace.numbers.push(generation.logprobs, generation.logprobsT1);
    },
    (sampled) => {
      if (sampled.includes(SUBJECT)) trace.numbers.push(engine.logits(SUBJECT).slice());
    },
  );
}

function firstDifference(expected: Trace, actual: Trace): string | undefined {
  let differing = 0;
  let total = 0;
  let largest = 0;
  for (const [i, values] of expected.numbers.entries()) {
    const others = actual.numbers[i];
    if (others === undefined || others.length !== values.length) return "it has another length";
    for (let k = 0; k < values.length; k++) {
      total++;
      if (Object.is(values[k], others[k])) continue;
      differing++;
      largest = Math.max(largest, Math.abs((values[k] as number) - (others[k] as number)));
    }
  }
  if (differing > 0) return `${differing} of ${total} values, by at most ${largest.toExponential(2)}`;
  const token = expected.ids.findIndex((id, i) => id !== actual.ids[i]);
  return token < 0 ? undefined : `sampled token ${token} is ${actual.ids[token]} instead of ${expected.ids[token]}`;
}
