/** From values to positions on a chart, and the ticks that label them. */

export interface Scale {
  readonly domain: readonly [number, number];
  readonly ticks: readonly number[];
  at(value: number): number;
}

/** Round numbers (1, 2 or 5 times a power of ten) that cover the values in about `count` steps. */
export function niceTicks(low: number, high: number, count: number): number[] {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) ?? 10) * power;
  const ticks: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

/** A linear scale from `domain` to the positions `from` … `to`. */
export function linearScale(domain: readonly [number, number], from: number, to: number, count: number): Scale {
  const [low, high] = domain;
  const span = high - low || 1;
  return {
    domain,
    ticks: niceTicks(low, high, count),
    at: (value) => from + ((value - low) / span) * (to - from),
  };
}

/** A logarithmic scale in whole decades; values that have no logarithm go to its lower end. */
export function logScale(domain: readonly [number, number], from: number, to: number): Scale {
  const low = Math.floor(Math.log10(domain[0]));
  const high = Math.max(low + 1, Math.ceil(Math.log10(domain[1])));
  const stride = Math.ceil((high - low) / 5);
  const ticks: number[] = [];
  for (let power = low; power <= high; power += stride) ticks.push(10 ** power);
  return {
    domain: [10 ** low, 10 ** high],
    ticks,
    at: (value) => from + ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) * (to - from),
  };
}

/** The smallest and largest finite value, widened a little; `[0, 1]` when there is none. */
export function extent(values: Iterable<number | null | undefined>, includeZero: boolean): [number, number] {
  let low = includeZero ? 0 : Number.POSITIVE_INFINITY;
  let high = includeZero ? 0 : Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (value === null || value === undefined || !Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high || (low === 0 && high === 0)) return [0, 1];
  if (low === high) return [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
  const margin = (high - low) * 0.05;
  return [includeZero && low === 0 ? 0 : low - margin, high + margin];
}
