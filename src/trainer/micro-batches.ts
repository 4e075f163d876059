/** Groups sequences of similar length into rectangles of tokens. */

/** Sequences that go through the model together: `rows` × `length` tokens, some of them padding. */
export interface MicroBatch {
  /** Indices of the sequences; what they leave of the rectangle is padding. */
  readonly members: readonly number[];
  /** For each member its first token's index in the rectangle: row · `length` + offset in the row. */
  readonly starts: readonly number[];
  readonly rows: number;
  readonly length: number;
  /** Rows may hold several sequences, one behind the other. */
  readonly packed: boolean;
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

/** Indices of what is not empty. */
function longestFirst(lengths: readonly number[]): number[] {
  const order = [...lengths.keys()].filter((index) => (lengths[index] as number) > 0);
  return order.sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b);
}

/**
 * One sequence per row. Covers all sequences of at least one token, longest first; rows that a rectangle has to spare take the next shorter ones.
 * The result depends on the lengths only.
 * @param lengths tokens per sequence.
 */
function planRectangles(lengths: readonly number[], limits: MicroBatchLimits): MicroBatch[] {
  const order = longestFirst(lengths);
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
    const members = order.slice(begin, begin + rows);
    plan.push({ members, starts: members.map((_, row) => row * length), rows, length, packed: false });
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

/** Rows are made this long where no sequence is longer: the longer, the less is left over, but attention costs more. */
const PACKED_ROW = 256;

/** Room in a packed row that opens with a sequence of `length` tokens. */
export function packedRowLength(length: number, { tokens, contextLength }: MicroBatchLimits): number {
  const usual = LENGTHS.findLast((candidate) => candidate <= Math.min(PACKED_ROW, tokens)) ?? 0;
  return bucketLength(Math.max(length, usual), contextLength);
}

interface PackedRow {
  readonly members: number[];
  readonly offsets: number[];
  used: number;
  readonly capacity: number;
}

/**
 * Several sequences per row: first-fit decreasing (Johnson et al., https://doi.org/10.1137/0203025) into rows that are as
 * long as the first of their sequences asks for; the rows then go into rectangles as sequences do. The result depends on the
 * lengths only; of equal ones the earlier comes first.
 * @param lengths tokens per sequence.
 */
function packRectangles(lengths: readonly number[], limits: MicroBatchLimits): MicroBatch[] {
  const rows: PackedRow[] = [];
  for (const index of longestFirst(lengths)) {
    const length = lengths[index] as number;
    let row = rows.find(({ used, capacity }) => used + length <= capacity);
    if (row === undefined) {
      row = { members: [], offsets: [], used: 0, capacity: packedRowLength(length, limits) };
      rows.push(row);
    }
    row.members.push(index);
    row.offsets.push(row.used);
    row.used += length;
  }
  const rectangles = planRectangles(
    rows.map(({ used }) => used),
    limits,
  );
  return rectangles.map((rectangle) => {
    const laid = rectangle.members.map((index) => rows[index] as PackedRow);
    return {
      ...rectangle,
      members: laid.flatMap(({ members }) => members),
      starts: laid.flatMap(({ offsets }, row) => offsets.map((offset) => row * rectangle.length + offset)),
      packed: true,
    };
  });
}

/** Whether rows hold several sequences; `auto`: where that leaves enough padding out to pay for its masks. */
export type Packing = "auto" | "on" | "off";

/**
 * Share of the tokens, padding included, that packing has to save: in its longer rows a token took up to 1.22 times as long
 * (the shipped model, sequences of 20 to 120 tokens; bench/packing.ts).
 */
const PACKING_COST = 0.18;

/**
 * Puts all sequences of at least one token into rectangles; the result depends on the lengths only.
 * @param lengths tokens per sequence.
 */
export function planMicroBatches(
  lengths: readonly number[],
  limits: MicroBatchLimits,
  packing: Packing = "off",
): MicroBatch[] {
  if (packing === "off") return planRectangles(lengths, limits);
  const packed = packRectangles(lengths, limits);
  if (packing === "on") return packed;
  const plain = planRectangles(lengths, limits);
  return plannedTokens(packed) <= (1 - PACKING_COST) * plannedTokens(plain) ? packed : plain;
}

/** Tokens of all rectangles, padding included. */
export function plannedTokens(plan: readonly MicroBatch[]): number {
  return plan.reduce((sum, { rows, length }) => sum + rows * length, 0);
}
