/** Groups sequences of similar length into rectangles of tokens. */

/** Sequences that go through the model together: `rows` × `length` tokens, some of them padding. */
export interface MicroBatch {
  /** Indices of the sequences, at most `rows`; missing rows are padding. */
  readonly members: readonly number[];
  readonly rows: number;
  readonly length: number;
}

export interface MicroBatchLimits {
  /** Tokens per micro-batch that rectangles aim at. */
  readonly tokens: number;
  /** Longest sequence the model can take. */
  readonly contextLength: number;
}

/** Lengths that rectangles may have; each new one costs compiling a graph. */
const LENGTHS = [16, 32, 48, 64, 96, 128, 160, 208, 256, 384, 512, 768, 1024];

/** The shortest allowed rectangle for `length` tokens. */
export function bucketLength(length: number, contextLength: number): number {
  const listed = LENGTHS.find((candidate) => candidate >= length);
  return Math.min(contextLength, listed ?? Math.ceil(length / 512) * 512);
}

/** Numbers of rows a rectangle may have: the most that fit, and halves of it, down to one. */
function rowChoices(length: number, tokens: number): number[] {
  const choices: number[] = [];
  for (let rows = Math.max(1, Math.floor(tokens / length)); rows > 1; rows = Math.ceil(rows / 2)) choices.push(rows);
  return [...choices, 1].reverse();
}

/**
 * Covers all sequences of at least one token, longest first; rows that a rectangle has to spare take the next shorter ones.
 * The result depends on the lengths only.
 * @param lengths tokens per sequence.
 */
export function planMicroBatches(lengths: readonly number[], limits: MicroBatchLimits): MicroBatch[] {
  const order = [...lengths.keys()].filter((index) => (lengths[index] as number) > 0);
  order.sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b);
  const bucketOf = (index: number | undefined) =>
    index === undefined ? 0 : bucketLength(lengths[index] as number, limits.contextLength);
  const plan: MicroBatch[] = [];
  for (let begin = 0; begin < order.length; ) {
    const length = bucketOf(order[begin]);
    const choices = rowChoices(length, limits.tokens);
    const most = choices.at(-1) as number;
    let same = 1;
    while (same < most && bucketOf(order[begin + same]) === length) same++;
    const rows = choices.find((choice) => choice >= same) as number;
    plan.push({ members: order.slice(begin, begin + rows), rows, length });
    begin += rows;
  }
  return plan;
}

/** Predictions in some micro-batches, without padding: a sequence of n tokens has n − 1. */
export function countTokens(batches: readonly MicroBatch[], sequences: readonly { readonly length: number }[]): number {
  let tokens = 0;
  for (const { members } of batches) for (const index of members) tokens += (sequences[index]?.length ?? 1) - 1;
  return tokens;
}
