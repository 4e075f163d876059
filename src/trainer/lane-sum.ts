/** Adding the gradients of lanes up, and their norm on the way. */

import { MICROSOFT, OnnxBuilder } from "../onnx/builder.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { type PreparedCall, Session } from "../runtime/session.ts";
import { float32Value, type Value } from "../runtime/value.ts";
import { type CallBinding, prepareLanes } from "./lane-calls.ts";
import { CHUNK, normOf } from "./optimizer.ts";

/** Adds flat arrays of one length up in the first one, in their order; the others stay as they are. */
export class LaneSum {
  readonly #session: Session;
  /** One sum of squares per chunk. */
  readonly #squares: Float32Array;
  /** In their order they add everything up. */
  readonly calls: readonly PreparedCall[];

  /** @param lanes at least two. */
  constructor(lanes: readonly Float32Array[], threads: number) {
    const [first] = lanes as [Float32Array];
    this.#session = new Session(sumGraph(lanes.length), { threads, optimization: "none" });
    const chunks = Math.ceil(first.length / CHUNK);
    this.#squares = allocateFloat32(chunks);
    const bindings = Array.from({ length: chunks }, (_, i): CallBinding => {
      const parts = lanes.map((flat) => {
        const part = flat.subarray(i * CHUNK, Math.min(flat.length, (i + 1) * CHUNK));
        return float32Value(part, [1, part.length]);
      });
      const square = float32Value(this.#squares.subarray(i, i + 1), [1, 1]);
      const feeds = Object.fromEntries(parts.map((part, lane) => [`lane${lane}`, part]));
      return { feeds, fetches: { sum: parts[0] as Value, square } };
    });
    this.calls = prepareLanes(this.#session, bindings, threads);
  }

  /** Euclidean norm of the sum, once `calls` were made; the same as `GlobalNorm`'s. */
  norm(): number {
    return normOf(this.#squares);
  }

  release(): void {
    this.#session.release();
  }
}

/** lane0, lane1 … [1, n] → their sum, and the sum of its squares [1, 1]. */
function sumGraph(lanes: number): Uint8Array {
  const graph = new OnnxBuilder("lane-sum");
  const inputs = Array.from({ length: lanes }, (_, lane) => graph.input(`lane${lane}`, "float32", [1, "n"]));
  inputs.reduce((sum, lane, i) => graph.node("Add", [sum, lane], i + 1 === lanes ? { outputs: ["sum"] } : {}));
  const attributes = { transB: { int: 1 } };
  graph.node("FusedMatMul", ["sum", "sum"], { outputs: ["square"], domain: MICROSOFT, attributes });
  graph.output("sum", "float32", [1, "n"]);
  graph.output("square", "float32", [1, 1]);
  return graph.encode();
}
