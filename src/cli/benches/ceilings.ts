/** What this machine can do at best: the rates that achieved ones are held against. */

import { OnnxBuilder } from "../../onnx/builder.ts";
import { allocateFloat32 } from "../../runtime/memory.ts";
import { Session } from "../../runtime/session.ts";
import { float32Value } from "../../runtime/value.ts";
import { timeRuns } from "./bench.ts";

export interface Ceilings {
  /** float32 arithmetic in a product of two 1024 × 1024 matrices, 10⁹ operations a second. */
  readonly gflops: number;
  /** Reading a matrix larger than any cache once, 10⁹ bytes a second. */
  readonly gbs: number;
}

const SQUARE = 1024;
/** 256 MB of weights, as one row of activations reads them. */
const WIDE = { rows: 16_384, columns: 4096 };
const BUDGET_MS = 600;

/** The best of many runs: whatever else the machine does can only slow it down. */
export async function measureCeilings(threads: number, signal: AbortSignal): Promise<Ceilings> {
  const compute = await fastest({ m: SQUARE, n: SQUARE, k: SQUARE }, threads, signal);
  const read = await fastest({ m: 1, n: WIDE.rows, k: WIDE.columns }, threads, signal);
  return { gflops: (2 * SQUARE ** 3) / compute / 1e6, gbs: (WIDE.rows * WIDE.columns * 4) / read / 1e6 };
}

interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Milliseconds of the fastest x Wᵀ with x [m, k] and W [n, k]. */
async function fastest({ m, n, k }: Product, threads: number, signal: AbortSignal): Promise<number> {
  const graph = new OnnxBuilder("product");
  const inputs = [graph.input("x", "float32", [m, k]), graph.input("w", "float32", [n, k])];
  graph.node("Gemm", inputs, { outputs: ["y"], attributes: { transB: { int: 1 } } });
  graph.output("y", "float32", [m, n]);
  const session = new Session(graph.encode(), { threads });
  try {
    const [x, w] = [allocateFloat32(m * k).fill(0.5), allocateFloat32(n * k).fill(0.25)];
    const call = session.prepare(
      { x: float32Value(x, [m, k]), w: float32Value(w, [n, k]) },
      { y: float32Value(allocateFloat32(m * n), [m, n]) },
    );
    return Math.min(...(await timeRuns(call, { signal, budgetMs: BUDGET_MS })));
  } finally {
    session.release();
  }
}
