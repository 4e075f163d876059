/** A mean over seeds with its 95 % interval. */

/** Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom; above the table an expansion of it. */
const T_95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131];
const Z_95 = 1.96;

export interface Estimate {
  readonly mean: number;
  readonly n: number;
  /** Student's 95 % interval; null for fewer than two values. */
  readonly low: number | null;
  readonly high: number | null;
}

/** @throws Error without values: there is nothing to estimate. */
export function estimate(values: readonly number[]): Estimate {
  const n = values.length;
  if (n === 0) throw new Error("no values to estimate a mean from");
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  if (n === 1) return { mean, n, low: null, high: null };
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const half = studentQuantile(n - 1) * Math.sqrt(variance / n);
  return { mean, n, low: mean - half, high: mean + half };
}

export function studentQuantile(degrees: number): number {
  // Cornish-Fisher's first two terms, within 0.001 of the exact quantile from 16 degrees on
  const first = (Z_95 ** 3 + Z_95) / (4 * degrees);
  const second = (5 * Z_95 ** 5 + 16 * Z_95 ** 3 + 3 * Z_95) / (96 * degrees ** 2);
  return T_95[degrees - 1] ?? Z_95 + first + second;
}

/** Whether neither interval reaches into the other; unknown, and so false, without both. */
export function areApart(a: Estimate, b: Estimate): boolean {
  if (a.low === null || a.high === null || b.low === null || b.high === null) return false;
  return a.low > b.high || b.low > a.high;
}
