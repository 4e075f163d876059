/** Weights as values of a generation graph, and the products with them: plain, quantised, with biases and adapters. */

import type { DecoderConfig } from "../../models/config.ts";
import type { Adapter, Adapters } from "../../models/lora.ts";
import {
  biasName,
  EMBEDDING,
  type ParameterEntry,
  type ParameterLayout,
  parameterLayout,
} from "../../models/parameters.ts";
import { builderEmitter, emitWiden, rowBlocks, storedAs, WIDENED_AT_ONCE } from "../../onnx/bfloat16.ts";
import { MICROSOFT, type OnnxBuilder } from "../../onnx/builder.ts";
import { EMBEDDING_TABLE, emitProduct, tableAttributes, tableShapes } from "./quantized-operators.ts";
import { type ShortMatrices, stackedWeights, type WeightPlaces } from "./weight-values.ts";

export class Projections {
  readonly graph: OnnxBuilder;
  readonly #config: DecoderConfig;
  readonly #places: WeightPlaces;
  readonly #weightsFirst: boolean;
  readonly #weights = new Map<string, string>();
  readonly #weightNames: string[] = [];

  /**
   * @param weightsFirst compute W xᵀ and turn it round instead of x Wᵀ. A library of matrix products first copies the right
   * operand into an order of its own; with a few rows that is most of the work where it is the weights. In another order of
   * summation.
   */
  constructor(graph: OnnxBuilder, config: DecoderConfig, places: WeightPlaces, weightsFirst: boolean) {
    this.graph = graph;
    this.#config = config;
    this.#places = places;
    this.#weightsFirst = weightsFirst;
  }

  /** Names of the graph inputs that are weights. */
  get weightNames(): readonly string[] {
    return this.#weightNames;
  }

  /** A weight, or several stacked along their first axis, as a graph input. */
  weight(...names: readonly string[]): string {
    return this.#input(this.#places.layout, names);
  }

  #input(layout: ParameterLayout, names: readonly string[]): string {
    const key = names.join("+");
    const known = this.#weights.get(key);
    if (known !== undefined) return known;
    const inputs = stackedWeights(layout, names).map(({ name, shape }) => this.graph.input(name, "float32", shape));
    this.#weightNames.push(...inputs);
    const [single] = inputs;
    const value =
      inputs.length === 1
        ? (single as string)
        : this.graph.node("Concat", inputs, { attributes: { axis: { int: 0 } } });
    this.#weights.set(key, value);
    return value;
  }

  /** x Wᵀ (+ bias) for a matrix that is kept in bfloat16, row block by row block. */
  #shortProduct(x: string, name: string, bias: string | undefined, output: string | undefined): string {
    const { graph } = this;
    const { form } = this.#places.short as ShortMatrices;
    const { shape } = this.#places.layout.byName.get(name) as ParameterEntry;
    const [rows, columns] = shape as [number, number];
    const stored = this.#shortInput(name);
    const blocks = rowBlocks(shape, WIDENED_AT_ONCE);
    const parts = blocks.map((numbers) => {
      const whole = blocks.length === 1;
      const block = whole ? stored : graph.node("Gather", [stored, graph.constant("int32", [numbers.length], numbers)]);
      const values = emitWiden(builderEmitter(graph), form, block, [numbers.length, columns]);
      const addend = bias === undefined || !whole ? [] : [bias];
      const outputs = whole && output !== undefined ? { outputs: [output] } : {};
      return graph.node("Gemm", [x, values, ...addend], { attributes: { transB: { int: 1 } }, ...outputs });
    });
    if (parts.length === 1) return parts[0] as string;
    const named = output === undefined ? {} : { outputs: [output] };
    const joined = { attributes: { axis: { int: 1 } } };
    if (bias === undefined) return graph.node("Concat", parts, { ...joined, ...named });
    const wide = graph.node("Reshape", [bias, graph.int64s([1, rows])]);
    return graph.node("Add", [graph.node("Concat", parts, joined), wide], named);
  }

  /** A matrix that is kept in bfloat16, as a graph input; the embedding is asked for twice where it is the head too. */
  #shortInput(name: string): string {
    const { short, layout } = this.#places;
    return this.graph.shared(`input ${name}`, () => {
      const { form } = short as ShortMatrices;
      const stored = storedAs(form, (layout.byName.get(name) as ParameterEntry).shape);
      this.#weightNames.push(name);
      return this.graph.input(name, stored.type, stored.shape);
    });
  }

  /** x Wᵀ for W in [out, in], plus what the projections have of biases and adapters; several give one wide result. */
  linear(x: string, ...names: readonly string[]): string {
    if (this.#places.onDevice && names.length > 1) {
      const parts = names.map((name) => this.linear(x, name));
      return this.graph.node("Concat", parts, { attributes: { axis: { int: 1 } } });
    }
    const y = this.product(x, names);
    const { adapters } = this.#places;
    if (!names.some((name) => adapters?.byWeight.has(name))) return y;
    const { byName } = parameterLayout(this.#config);
    const parts = names.map((name) => ({
      adapter: adapters?.byWeight.get(name),
      rows: byName.get(name)?.shape[0] as number,
    }));
    return this.#adapted(x, y, parts);
  }

  /** x Wᵀ plus bias, as the value named `output` if one is given. */
  product(x: string, names: readonly string[], output?: string): string {
    const { graph } = this;
    const biases = names.flatMap((name) => biasName(this.#config, name) ?? []);
    const bias = biases.length > 0 ? [this.weight(...biases)] : [];
    const outputs = output === undefined ? {} : { outputs: [output] };
    const key = names.join("+");
    const quantized = this.#places.quantized?.matrices.get(key);
    if (quantized === undefined) {
      const transB = { attributes: { transB: { int: 1 } } };
      const short = this.#places.short;
      if (short !== undefined && names.length === 1 && short.names.has(names[0] as string)) {
        return this.#shortProduct(x, names[0] as string, bias[0], output);
      }
      const weight = this.weight(...names);
      if (!this.#weightsFirst) return graph.node("Gemm", [x, weight, ...bias], { ...transB, ...outputs });
      const turned = graph.node("Gemm", [weight, x], transB);
      const perm = { attributes: { perm: { ints: [1, 0] } } };
      const [biasValue] = bias;
      if (biasValue === undefined) return graph.node("Transpose", [turned], { ...perm, ...outputs });
      return graph.node("Add", [graph.node("Transpose", [turned], perm), biasValue], outputs);
    }
    return emitProduct(graph, x, key, quantized, { bias: bias[0], ...outputs });
  }

  /** Rows `tokens` of the embedding table. */
  embed(tokens: string): string {
    const { graph } = this;
    const quantized = this.#places.quantized?.matrices.get(EMBEDDING);
    const { short } = this.#places;
    if (short?.names.has(EMBEDDING) === true) {
      const rows = graph.node("Gather", [this.#shortInput(EMBEDDING), tokens]);
      return emitWiden(builderEmitter(graph), short.form, rows, [0, this.#config.hiddenSize]);
    }
    if (quantized === undefined) return graph.node("Gather", [this.weight(EMBEDDING), tokens]);
    const { codesShape, scalesShape } = tableShapes(quantized);
    const codes = graph.input(EMBEDDING_TABLE.codes, "uint8", codesShape);
    const scales = graph.input(EMBEDDING_TABLE.scales, "float32", scalesShape);
    this.#weightNames.push(codes, scales);
    return graph.node("GatherBlockQuantized", [codes, tokens, scales], {
      domain: MICROSOFT,
      attributes: tableAttributes(quantized),
    });
  }

  /** y + scale · (x Aᵀ) Bᵀ, part by part where projections are stacked; all A are one product. */
  #adapted(
    x: string,
    y: string,
    parts: readonly { readonly adapter: Adapter | undefined; readonly rows: number }[],
  ): string {
    const { graph } = this;
    const { layout, config } = this.#places.adapters as Adapters;
    const present = parts.flatMap(({ adapter }) => adapter ?? []);
    const stacked = this.#input(
      layout,
      present.map(({ a }) => a),
    );
    const inside = graph.node("Gemm", [x, stacked], {
      attributes: { transB: { int: 1 }, alpha: { float: (present[0] as Adapter).scale } },
    });
    const insides = this.#split(
      inside,
      present.map(() => config.rank),
    );
    const corrected = this.#split(
      y,
      parts.map(({ rows }) => rows),
    ).map((part, i) => {
      const adapter = parts[i]?.adapter;
      if (adapter === undefined) return part;
      const own = insides[present.indexOf(adapter)] as string;
      return graph.node("Gemm", [own, this.#input(layout, [adapter.b]), part], { attributes: { transB: { int: 1 } } });
    });
    if (corrected.length === 1) return corrected[0] as string;
    return graph.node("Concat", corrected, { attributes: { axis: { int: 1 } } });
  }

  /** Columns of `x` in runs of the given widths. */
  #split(x: string, widths: readonly number[]): readonly string[] {
    if (widths.length === 1) return [x];
    return this.graph.nodes("Split", [x, this.graph.int64s(widths)], widths.length, {
      attributes: { axis: { int: 1 } },
    });
  }
}
