/** Adding the gradients of embedded tokens to the rows of the embedding's gradient. */

import { EMBEDDING } from "../models/parameters.ts";
import { OnnxBuilder } from "../onnx/builder.ts";
import { type PreparedCall, Session } from "../runtime/session.ts";
import { float32Value, type Value } from "../runtime/value.ts";
import { type BatchMemory, idValue } from "./batch-memory.ts";

/** Gradient accumulators of one lane, by parameter name. */
export type Lane = Readonly<Record<string, Value>>;

export class EmbeddingGradient {
  readonly #session = new Session(scatterGraph(), { threads: 1 });

  /**
   * A call that adds `rows` [ids.length, width] to the rows `ids` of the embedding's gradient in `lane`, in order. Padding
   * takes part with gradients that are exactly 0.
   */
  prepare(lane: Lane, ids: BatchMemory["ids"], rows: Float32Array): PreparedCall {
    const table = lane[EMBEDDING] as Value;
    const tokens = ids.length;
    const feeds = {
      table,
      ids: idValue(ids, [tokens, 1]),
      rows: float32Value(rows, [tokens, rows.length / tokens]),
    };
    return this.#session.prepare(feeds, { sum: table });
  }

  release(): void {
    this.#session.release();
  }
}

/**
 * table[ids[i]] += rows[i], in place. To be run on one thread: with more, ONNX Runtime's CPU provider loses updates where ids
 * repeat (https://github.com/microsoft/onnxruntime/issues/18048).
 */
function scatterGraph(): Uint8Array {
  const graph = new OnnxBuilder("scatter");
  const table = graph.input("table", "float32", ["v", "d"]);
  const inputs = [table, graph.input("ids", "int64", ["n", 1]), graph.input("rows", "float32", ["n", "d"])];
  graph.node("ScatterND", inputs, { outputs: ["sum"], attributes: { reduction: { string: "add" } } });
  graph.output("sum", "float32", ["v", "d"]);
  return graph.encode();
}
