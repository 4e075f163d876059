/** Small statistics that several layers report. */

/** Two-sided 95 % quantile of the standard normal. */
const Z_95 = 1.959963984540054;

/**
 * Wilson's 95 % score interval of a proportion (Wilson 1927, doi 10.1080/01621459.1927.10502953).
 * For n = 0 it is [0, 1]: nothing is known.
 */
export function wilsonInterval(successes: number, n: number): { readonly low: number; readonly high: number } {
  if (n === 0) return { low: 0, high: 1 };
  const rate = successes / n;
  const z2 = Z_95 * Z_95;
  const centre = (rate + z2 / (2 * n)) / (1 + z2 / n);
  const half = (Z_95 / (1 + z2 / n)) * Math.sqrt((rate * (1 - rate)) / n + z2 / (4 * n * n));
  // At the ends the bounds are exact; rounding must not show as 1e-17.
  return { low: successes === 0 ? 0 : centre - half, high: successes === n ? 1 : centre + half };
}
