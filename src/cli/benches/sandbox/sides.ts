/** Sides that do the same thing in turns, so that what else the machine does meets all of them. */

import { type Percentiles, type Row, rounded } from "../bench.ts";

/** Milliseconds until the first output, and until everything was gone again. */
export interface Use {
  readonly first: number;
  readonly total: number;
}

/** One of those that are compared. */
export interface Side {
  /** `native`, or the peer's name. */
  readonly backend: string;
  /** Takes part in every n-th round only; for the slow. Default 1. */
  readonly every?: number;
  readonly use: (signal: AbortSignal) => Promise<Use>;
}

export interface Turns {
  readonly rounds: number;
  /** Uses that each side begins at the same time. */
  readonly concurrency: number;
  readonly signal: AbortSignal;
}

/** Uses before the measurement, which fill caches and compile. */
const WARM_UP = 2;

export interface Measured {
  readonly backend: string;
  readonly uses: readonly Use[];
  /** Wall time of all its turns. */
  readonly seconds: number;
}

/** Each side in turn, round by round. The order is turned around every time, so that none always follows the same other. */
export async function takeTurns(sides: readonly Side[], turns: Turns): Promise<Measured[]> {
  const { rounds, concurrency, signal } = turns;
  const uses = sides.map((): Use[] => []);
  const seconds = sides.map(() => 0);
  const turn = async (index: number) => {
    signal.throwIfAborted();
    const side = sides[index] as Side;
    const started = performance.now();
    const batch = await Promise.all(Array.from({ length: concurrency }, () => side.use(signal)));
    seconds[index] = (seconds[index] ?? 0) + (performance.now() - started) / 1000;
    uses[index]?.push(...batch);
  };
  for (const side of sides) for (let i = 0; i < WARM_UP; i++) await side.use(signal);
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? [...sides.keys()] : [...sides.keys()].reverse();
    for (const index of order) if (round % (sides[index]?.every ?? 1) === 0) await turn(index);
  }
  return sides.map(({ backend }, i) => ({ backend, uses: uses[i] ?? [], seconds: seconds[i] ?? 0 }));
}

/**
 * Rows of a case: the first side's under the name of the case, the others' under their own, with `ratio`: how many times as
 * long as the first they took to their first output, by the medians.
 */
export function rowsOf(name: string, concurrency: number, measured: readonly Measured[]): Row[] {
  const [own] = measured;
  return measured.map(({ backend, uses, seconds }, i) => {
    const row = {
      ...{ name: i === 0 ? name : backend, backend, concurrency },
      ...timing(uses),
      perSecond: rounded(uses.length / seconds),
      rounds: uses.length,
    };
    if (i === 0 || own === undefined) return row;
    return { ...row, ratio: rounded(row.firstMs.p50 / timing(own.uses).firstMs.p50) };
  });
}

export function timing(uses: readonly Use[]): { readonly firstMs: Percentiles; readonly totalMs: Percentiles } {
  return {
    firstMs: percentiles(uses.map(({ first }) => first)),
    totalMs: percentiles(uses.map(({ total }) => total)),
  };
}

function percentiles(values: readonly number[]): Percentiles {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) =>
    rounded(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN);
  return { p50: at(0.5), p99: at(0.99) };
}

/** Something without an end of its own. */
export async function timed(work: () => Promise<unknown>): Promise<Use> {
  const started = performance.now();
  await work();
  const ms = performance.now() - started;
  return { first: ms, total: ms };
}
