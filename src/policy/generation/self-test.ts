/**
 * Proof, at start, that generation is reproducible here: what a row computes must not depend on which row it is, on what
 * the other rows hold, or on whether its first context was computed or copied. Floating-point libraries do not promise
 * this; they choose kernels by shape, processor and thread count.
 */

import type { SamplingOptions } from "../../core/ports.ts";
import { Rng } from "../../core/rng.ts";
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

export function testDeterminism(engine: GenerationEngine): DeterminismReport {
  const { slots, threads } = engine.options;
  const alone = traceSubject(engine, 0, false);
  const others: [name: string, trace: () => Trace][] = [
    ["in the last row of a full block", () => traceSubject(engine, slots - 1, false)],
    ["in a middle row", () => traceSubject(engine, slots >> 1, false)],
    ["with its first context copied", () => traceSubject(engine, slots >> 1, true)],
    ["alone again", () => traceSubject(engine, 0, false)],
  ];
  let compared = 0;
  const copiedBefore = engine.stats.copiedPrefixes;
  for (const [name, trace] of others) {
    const difference = firstDifference(alone, trace());
    if (difference !== undefined) {
      return { ok: false, detail: `a sequence ${name} differs from the same one alone: ${difference}` };
    }
    compared += alone.numbers.reduce((sum, values) => sum + values.length, 0);
  }
  if (engine.stats.copiedPrefixes === copiedBefore) {
    return { ok: false, detail: "an equal first context was computed again instead of copied" };
  }
  return {
    ok: true,
    detail: `${compared} values bit-equal in every row, company and by copy (${slots} slots, ${threads} threads)`,
  };
}

/**
 * Two turns of one sequence, after `company` other sequences took the rows before it and fill the block with work of
 * their own that ends at different times. With `copied`, one of them has the same first context.
 */
function traceSubject(engine: GenerationEngine, company: number, copied: boolean): Trace {
  const { context, slots } = engine.options;
  const vocabulary = engine.config.vocabularySize;
  const rng = new Rng(`determinism ${company} ${copied}`);
  const some = (source: Rng, length: number) => Int32Array.from({ length }, () => source.int(0, vocabulary - 1));
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
  const opened: number[] = [];
  const open = (id: number, ids: Int32Array, maxTokens: number) => {
    engine.open(id, `determinism ${id}`);
    opened.push(id);
    engine.submit({ sequenceId: id, context: ids, sampling: sampling(1, maxTokens) });
  };
  engine.forgetPrefixes();
  try {
    for (let i = 0; i < company; i++) {
      open(COMPANY - i, copied && i === 0 ? first : some(rng, 1 + ((i * 5) % (2 * unit))), 1 + ((i * 7) % (3 * unit)));
    }
    open(SUBJECT, first, unit);
    for (let i = company; company > 0 && i < slots - 1; i++) open(COMPANY - i, some(rng, unit), 1 + (i % unit));
    const trace: Trace = { ids: [], numbers: [] };
    const subjectAlone = new Set([SUBJECT]);
    follow(engine, trace, subjectAlone);
    engine.submit({ sequenceId: SUBJECT, context: second, sampling: sampling(0.7, unit) });
    follow(engine, trace, subjectAlone);
    trace.numbers.push(...engine.readCache(SUBJECT));
    return trace;
  } finally {
    for (const id of opened) engine.close(id);
    engine.forgetPrefixes();
  }
}

/** Steps until the subject has its answer, noting its logits at each of its tokens. */
function follow(engine: GenerationEngine, trace: Trace, subject: Set<number>): void {
  const pending = new Set(subject);
  engine.drain(
    pending,
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
