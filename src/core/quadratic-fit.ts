/** Least-squares parabola of a learning curve, and what it says the curve came to. */

export interface QuadraticFit {
  /** Coefficients of y = a·x² + b·x + c. */
  readonly a: number;
  readonly b: number;
  readonly c: number;
  /** Values of the parabola at the given x. */
  readonly fitted: readonly number[];
  /** Share of the variance that the parabola explains; 1 for a curve without variance. */
  readonly r2: number;
  /** The vertex (−b/2a, c − b²/4a); not finite for a straight line. */
  readonly vertexX: number;
  readonly vertexY: number;
  /** Is the vertex a maximum within the data? */
  readonly vertexIsInsideMaximum: boolean;
  /** The vertex's value where it is a maximum within the data, else the parabola at the last x. */
  readonly converged: number;
  /** Largest raw y. */
  readonly peak: number;
  /** `converged` less the first y, and the same relative to the first y. */
  readonly gain: number;
  readonly relative: number;
}

/**
 * Ordinary least squares on at least three points with distinct x, given in order of x; undefined for fewer. Solved in
 * units centred on the data, where the normal equations are well conditioned.
 */
export function fitQuadratic(x: readonly number[], y: readonly number[]): QuadraticFit | undefined {
  if (x.length !== y.length || new Set(x).size < 3) return undefined;
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const low = Math.min(...x);
  const high = Math.max(...x);
  const width = high - low;
  const scaled = x.map((value) => (value - mean) / width);
  const [A, B, C] = solve(scaled, y);
  const fitted = scaled.map((s) => (A * s + B) * s + C);
  const vertexX = mean - (width * B) / (2 * A);
  const vertexY = C - (B * B) / (4 * A);
  const inside = A < 0 && vertexX >= low && vertexX <= high;
  const converged = inside ? vertexY : (fitted.at(-1) as number);
  const first = y[0] as number;
  return {
    a: A / width ** 2,
    b: B / width - (2 * A * mean) / width ** 2,
    c: (A * mean ** 2) / width ** 2 - (B * mean) / width + C,
    fitted,
    r2: explained(y, fitted),
    vertexX,
    vertexY,
    vertexIsInsideMaximum: inside,
    converged,
    peak: Math.max(...y),
    gain: converged - first,
    relative: (converged - first) / first,
  };
}

/** Coefficients of s², s and 1 by modified Gram-Schmidt: orthogonal columns keep the digits normal equations would lose. */
function solve(s: readonly number[], y: readonly number[]): [number, number, number] {
  const dot = (u: readonly number[], v: readonly number[]) => u.reduce((sum, value, i) => sum + value * (v[i] ?? 0), 0);
  const n = s.length;
  const q1 = s.map(() => 1);
  const mean1 = dot(s, q1) / n;
  const q2 = s.map((value) => value - mean1);
  const squares = s.map((value) => value * value);
  const m = dot(squares, q1) / n;
  const k = dot(squares, q2) / dot(q2, q2);
  const q3 = squares.map((value, i) => value - m - k * (q2[i] ?? 0));
  const A = dot(y, q3) / dot(q3, q3);
  const beta = dot(y, q2) / dot(q2, q2);
  const alpha = dot(y, q1) / n;
  // y = alpha + beta·(s − mean1) + A·(s² − m − k·(s − mean1))
  return [A, beta - A * k, alpha - beta * mean1 - A * (m - k * mean1)];
}

function explained(y: readonly number[], fitted: readonly number[]): number {
  const mean = y.reduce((sum, value) => sum + value, 0) / y.length;
  const total = y.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const rest = y.reduce((sum, value, i) => sum + (value - (fitted[i] ?? 0)) ** 2, 0);
  return total === 0 ? 1 : 1 - rest / total;
}
