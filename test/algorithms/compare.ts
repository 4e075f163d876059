/** What the checks of golden vectors share: shapes of their JSON and comparisons within tolerance. */

import { z } from "zod";

/** A case of a golden file, as it was read. */
export type Check = (golden: unknown) => string;
/** Cases whose name begins with `prefix` are run by `check`. */
export type Operation = readonly [prefix: string, check: Check];

export const Row = z.array(z.number());
export const Rows = z.array(Row);
export type Tolerance = readonly [relative: number, absolute: number];

export const FLOAT64: Tolerance = [1e-9, 1e-12];
export const FLOAT32: Tolerance = [1e-5, 1e-6];

/** Throws unless |got − expected| ≤ relative · |expected| + absolute everywhere; returns the largest difference. */
export function compareNumbers(
  what: string,
  got: ArrayLike<number>,
  expected: readonly number[],
  [relative, absolute]: Tolerance = FLOAT64,
): number {
  if (got.length !== expected.length) throw new Error(`${what}: ${got.length} values instead of ${expected.length}`);
  let worst = 0;
  for (const [i, want] of expected.entries()) {
    const value = got[i] as number;
    const difference = Math.abs(value - want);
    if (!(difference <= relative * Math.abs(want) + absolute))
      throw new Error(`${what}[${i}] is ${value}, expected ${want}`);
    worst = Math.max(worst, difference);
  }
  return worst;
}

/** As `compareNumbers`, row by row. */
export function compareRows(
  what: string,
  got: readonly ArrayLike<number>[],
  expected: readonly (readonly number[])[],
  tolerance: Tolerance = FLOAT64,
): number {
  if (got.length !== expected.length) throw new Error(`${what}: ${got.length} rows instead of ${expected.length}`);
  return Math.max(
    0,
    ...expected.map((row, i) => compareNumbers(`${what}[${i}]`, got[i] as ArrayLike<number>, row, tolerance)),
  );
}

export function compareNumber(what: string, got: number, expected: number, tolerance: Tolerance = FLOAT64): number {
  return compareNumbers(what, [got], [expected], tolerance);
}

/** Integers, booleans and nulls have to be the same. */
export function compareExact(what: string, got: unknown, expected: unknown): void {
  const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what} is ${a}, expected ${b}`);
}

/** Nothing may reach what the policy did not write. */
export function requireZeros(what: string, rows: readonly ArrayLike<number>[], masks: readonly (readonly number[])[]) {
  masks.forEach((mask, i) => {
    mask.forEach((bit, t) => {
      const value = rows[i]?.[t];
      if (bit === 0 && value !== 0) throw new Error(`${what}[${i}][${t}] is ${value} outside of the mask`);
    });
  });
}

export function sum(values: ArrayLike<number>): number {
  return Array.from(values).reduce((a, b) => a + b, 0);
}

export function negate(rows: readonly Float64Array[]): Float64Array[] {
  return rows.map((row) => row.map((value) => -value));
}

export function report(...differences: readonly number[]): string {
  return `max difference ${Math.max(0, ...differences).toExponential(1)}`;
}

/** The row of `rows` at `i`; golden arrays of one case have the same shape. */
export function at<T>(rows: readonly T[], i: number): T {
  return rows[i] as T;
}
