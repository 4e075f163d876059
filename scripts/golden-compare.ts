/** Comparisons that golden checks share. */

/** Euclidean norm. */
export function l2(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2;
  return Math.sqrt(sum);
}

/** Throws at the first element further than `limit` from what is expected; returns what to print otherwise. */
export function within(what: string, got: ArrayLike<number>, expected: ArrayLike<number>, limit: number): string {
  if (got.length !== expected.length) throw new Error(`${what}: ${got.length} values instead of ${expected.length}`);
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((got[i] as number) - (expected[i] as number));
    if (!(difference <= limit)) throw new Error(`${what}[${i}] is ${got[i]}, expected ${expected[i]}`);
    worst = Math.max(worst, difference);
  }
  return `${what}: max difference ${worst.toExponential(1)}`;
}
