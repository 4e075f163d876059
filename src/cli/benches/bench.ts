/** What a measurement of `ale bench` is, and the little arithmetic they share. */

/** One measured case, with the names that `--json` prints. */
export type Row = Readonly<Record<string, string | number | Percentiles>>;

export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

export interface BenchContext {
  readonly signal: AbortSignal;
  /** Threads of an engine. */
  readonly threads: number;
  /** Model sizes to measure; empty = the bench's own choice. */
  readonly sizes: readonly string[];
  /** How often a case is measured; omitted: the bench's own choice. */
  readonly rounds?: number | undefined;
  /** Names of cases to measure; empty = all. */
  readonly only: readonly string[];
  /** Says what is going on, or what is left out and why. */
  readonly note: (message: string) => void;
  /** Called with every row as soon as it is measured. */
  readonly report: (row: Row) => void;
}

export interface Bench {
  readonly name: string;
  readonly summary: string;
  readonly measure: (context: BenchContext) => Promise<void>;
  /** A row as one line of text. */
  readonly show: (row: Row) => string;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Three significant digits are all that a timing is good for. */
export function rounded(value: number): number {
  return Number(value.toPrecision(4));
}

/**
 * Milliseconds of each run of `work`: runs of warm-up first, then as many as fit `budgetMs`, at least three. Between runs
 * the event loop turns, so that Ctrl-C gets through.
 */
export async function timeRuns(
  work: () => unknown,
  options: { readonly signal: AbortSignal; readonly budgetMs: number; readonly warmUp?: number },
): Promise<number[]> {
  const { signal, budgetMs, warmUp = 2 } = options;
  for (let i = 0; i < warmUp; i++) await work();
  const times: number[] = [];
  const started = performance.now();
  while (times.length < 3 || performance.now() - started < budgetMs) {
    signal.throwIfAborted();
    const begin = performance.now();
    await work();
    times.push(performance.now() - begin);
    await Bun.sleep(0);
  }
  return times;
}
