/** AdamW and the global gradient norm over flat arrays, as small graphs that run chunk by chunk. */

import type { ParameterKind } from "../models/parameters.ts";
import { type Bfloat16Form, emitNarrow } from "../onnx/bfloat16.ts";
import { OnnxBuilder } from "../onnx/builder.ts";
import { OWN_OPERATORS } from "../onnx/model.ts";
import { type AdamWInstructions, adamWAttributes, adamWOperator } from "../runtime/adamw.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { type PreparedCall, Session } from "../runtime/session.ts";
import { float32Value, type Value } from "../runtime/value.ts";
import { type CallBinding, prepareLanes } from "./lane-calls.ts";

export interface AdamWSettings {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  /** Decoupled: decaying parameters shrink by lr · weightDecay before the update. */
  readonly weightDecay: number;
  /** Learning rate of the value head; `lr` when omitted. */
  readonly valueLr?: number | undefined;
}

/** Parameters with their moments, flat and of one length. */
export interface OptimizerArrays {
  readonly parameters: Float32Array;
  readonly firstMoment: Float32Array;
  readonly secondMoment: Float32Array;
}

/** Parameters that weight decay may leave alone, as `optimizer.noDecay` names them. */
export type NoDecay = "norms" | "biases" | "embeddings";

/** `decayed` parameters shrink by weight decay, `spared` ones do not, nor does a `value-head`, which has its own rate. */
export const OPTIMIZER_GROUPS = ["decayed", "spared", "value-head"] as const;
export type OptimizerGroup = (typeof OPTIMIZER_GROUPS)[number];

const NO_DECAY_KINDS: Readonly<Record<NoDecay, ParameterKind>> = {
  norms: "norm",
  biases: "bias",
  embeddings: "embedding",
};

/** The group of parameters of a kind. */
export function optimizerGroup(kind: ParameterKind, noDecay: readonly NoDecay[]): OptimizerGroup {
  if (kind === "value-head") return "value-head";
  return noDecay.some((name) => NO_DECAY_KINDS[name] === kind) ? "spared" : "decayed";
}

/** A stretch of the flat arrays, in elements. */
export interface OptimizerRange {
  readonly begin: number;
  readonly end: number;
  readonly group: OptimizerGroup;
}

/** Elements per run, so that the arrays and temporaries of a run stay in the second-level cache. */
export const CHUNK = 1 << 15;

/** Names of the scalars an update reads; see `adamWScalars`. */
export const ADAMW_SCALARS = ["decay1", "gain1", "decay2", "gain2", "stepSize", "eps", "keep"] as const;
export type AdamWScalar = (typeof ADAMW_SCALARS)[number];

/**
 * p ← (1 − lr · λ) p; m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; p ← p − lr · m̂ / (√v̂ + ε), with bias-corrected m̂, v̂.
 * Loshchilov and Hutter, https://arxiv.org/abs/1711.05101. The bias corrections are folded into step size and ε.
 */
export class AdamW {
  readonly #gradients: Float32Array;
  readonly #ranges: readonly OptimizerRange[];
  readonly #session: Session;
  readonly #scalars: Readonly<Record<OptimizerGroup, Readonly<Record<AdamWScalar, Value>>>>;
  readonly #threads: number;
  readonly #calls = new Map<Float32Array, Map<Float32Array, readonly PreparedCall[]>>();

  /**
   * @param gradients flat array that every update reads. @param ranges what to update; together, the parameters.
   * @param instructions of the operator `ale::AdamW`; `none` is the plain graph, as where that operator cannot be had.
   */
  constructor(
    gradients: Float32Array,
    ranges: readonly OptimizerRange[],
    threads: number,
    instructions: AdamWInstructions | "none" = adamWOperator()?.instructions.at(-1) ?? "none",
  ) {
    this.#gradients = gradients;
    this.#ranges = ranges;
    this.#threads = threads;
    const length = ranges.reduce((sum, { begin, end }) => sum + end - begin, 0);
    const graph = instructions === "none" ? adamWGraph() : ownAdamWGraph(instructions, length >= PAST_CACHES);
    this.#session = new Session(graph, { threads, operators: adamWOperator()?.domain });
    const scalars = () =>
      Object.fromEntries(ADAMW_SCALARS.map((name) => [name, float32Value(allocateFloat32(1), [])])) as Record<
        AdamWScalar,
        Value
      >;
    this.#scalars = { decayed: scalars(), spared: scalars(), "value-head": scalars() };
  }

  /**
   * Reads `from`, writes `to`, which may be the same.
   * @param step number of this update, from 1. @param gradientScale factor on every gradient (clipping).
   */
  update(from: OptimizerArrays, to: OptimizerArrays, settings: AdamWSettings, step: number, gradientScale: number) {
    for (const call of this.calls(from, to, settings, step, gradientScale)) call();
  }

  /** As `update`, in calls that are to be made in their order before the next update begins. */
  calls(
    from: OptimizerArrays,
    to: OptimizerArrays,
    settings: AdamWSettings,
    step: number,
    gradientScale: number,
  ): readonly PreparedCall[] {
    for (const group of OPTIMIZER_GROUPS) {
      const values = adamWScalars(settings, group, step, gradientScale);
      for (const name of ADAMW_SCALARS) this.#scalars[group][name].data[0] = values[name];
    }
    return this.#callsFor(from, to);
  }

  release(): void {
    this.#session.release();
  }

  #callsFor(from: OptimizerArrays, to: OptimizerArrays): readonly PreparedCall[] {
    const targets = this.#calls.get(from.parameters) ?? new Map<Float32Array, readonly PreparedCall[]>();
    this.#calls.set(from.parameters, targets);
    const calls = targets.get(to.parameters) ?? this.#prepare(from, to);
    targets.set(to.parameters, calls);
    return calls;
  }

  #prepare(from: OptimizerArrays, to: OptimizerArrays): readonly PreparedCall[] {
    const bindings: CallBinding[] = [];
    for (const range of this.#ranges) {
      for (let begin = range.begin; begin < range.end; begin += CHUNK) {
        const end = Math.min(range.end, begin + CHUNK);
        const part = (flat: Float32Array) => float32Value(flat.subarray(begin, end), [end - begin]);
        const feeds = {
          p: part(from.parameters),
          m: part(from.firstMoment),
          v: part(from.secondMoment),
          g: part(this.#gradients),
          ...this.#scalars[range.group],
        };
        const fetches = { p2: part(to.parameters), m2: part(to.firstMoment), v2: part(to.secondMoment) };
        bindings.push({ feeds, fetches });
      }
    }
    return prepareLanes(this.#session, bindings, this.#threads);
  }
}

/**
 * The scalars of a group's update number `step` (from 1), in float64.
 * @param gradientScale factor on every gradient (clipping).
 */
export function adamWScalars(
  settings: AdamWSettings,
  group: OptimizerGroup,
  step: number,
  gradientScale: number,
): Record<AdamWScalar, number> {
  const lr = group === "value-head" ? (settings.valueLr ?? settings.lr) : settings.lr;
  const [beta1, beta2] = settings.betas;
  const correction1 = 1 - beta1 ** step;
  const rootCorrection2 = Math.sqrt(1 - beta2 ** step);
  return {
    decay1: beta1,
    gain1: (1 - beta1) * gradientScale,
    decay2: beta2,
    gain2: (1 - beta2) * gradientScale * gradientScale,
    stepSize: (lr * rootCorrection2) / correction1,
    eps: settings.eps * rootCorrection2,
    keep: group === "decayed" ? 1 - lr * settings.weightDecay : 1,
  };
}

/** Parameters from which an update goes past the caches: the next that reads them would not find them there. */
const PAST_CACHES = 1 << 22;

/** As `adamWGraph`, by the operator `ale::AdamW`: the same bits in one pass. */
export function ownAdamWGraph(instructions: AdamWInstructions, pastCaches: boolean): Uint8Array {
  const graph = new OnnxBuilder("adamw");
  const arrays = ["p", "m", "v", "g"].map((name) => graph.input(name, "float32", ["n"]));
  const scalars = ADAMW_SCALARS.map((name) => graph.input(name, "float32", []));
  const attributes = adamWAttributes(instructions, pastCaches);
  const outputs = ["p2", "m2", "v2"];
  graph.nodes("AdamW", [...arrays, ...scalars], outputs.length, { domain: OWN_OPERATORS, attributes, outputs });
  for (const name of outputs) graph.output(name, "float32", ["n"]);
  return graph.encode();
}

/**
 * p, m, v, g and the scalars → p2, m2, v2, for tensors of this many axes.
 * @param form makes the graph of matrices: `short` is p2 in bfloat16, in that form.
 */
export function adamWGraph(rank = 1, form?: Bfloat16Form): Uint8Array {
  const graph = new OnnxBuilder("adamw");
  const axes = Array.from({ length: rank }, (_, axis) => `n${axis}`);
  const [p, m, v, g] = ["p", "m", "v", "g"].map((name) => graph.input(name, "float32", axes)) as [
    string,
    string,
    string,
    string,
  ];
  for (const name of ADAMW_SCALARS) graph.input(name, "float32", []);
  graph.node("Add", [graph.node("Mul", [m, "decay1"]), graph.node("Mul", [g, "gain1"])], { outputs: ["m2"] });
  const square = graph.node("Mul", [graph.node("Mul", [g, g]), "gain2"]);
  graph.node("Add", [graph.node("Mul", [v, "decay2"]), square], { outputs: ["v2"] });
  const denominator = graph.node("Add", [graph.node("Sqrt", ["v2"]), "eps"]);
  const change = graph.node("Div", [graph.node("Mul", ["m2", "stepSize"]), denominator]);
  graph.node("Sub", [graph.node("Mul", [p, "keep"]), change], { outputs: ["p2"] });
  for (const name of ["p2", "m2", "v2"]) graph.output(name, "float32", axes);
  if (form !== undefined) {
    emitNarrow(graph, form, "p2", "short");
    if (form === "native") graph.output("short", "bfloat16", axes);
    else graph.output("short", "uint32", ["n0", "half"]);
  }
  return graph.encode();
}

/**
 * Euclidean norm of a flat array, in float32 within a chunk and float64 across chunks. The order of additions is fixed, so
 * equal arrays give equal norms.
 */
export class GlobalNorm {
  readonly #session: Session;
  /** One sum of squares per chunk. */
  readonly #sums: Float32Array;
  /** In their order they write all of `#sums`. */
  readonly calls: readonly PreparedCall[];

  constructor(flat: Float32Array, threads: number) {
    const graph = new OnnxBuilder("norm");
    const row = graph.input("row", "float32", [1, "n"]);
    const attributes = { transB: { int: 1 } };
    graph.node("FusedMatMul", [row, row], { outputs: ["sum"], domain: "com.microsoft", attributes });
    graph.output("sum", "float32", [1, 1]);
    this.#session = new Session(graph.encode(), { threads });
    const chunks = Math.ceil(flat.length / CHUNK);
    this.#sums = allocateFloat32(chunks);
    const bindings = Array.from({ length: chunks }, (_, i): CallBinding => {
      const part = flat.subarray(i * CHUNK, Math.min(flat.length, (i + 1) * CHUNK));
      return {
        feeds: { row: float32Value(part, [1, part.length]) },
        fetches: { sum: float32Value(this.#sums.subarray(i, i + 1), [1, 1]) },
      };
    });
    this.calls = prepareLanes(this.#session, bindings, threads);
  }

  compute(): number {
    for (const call of this.calls) call();
    return this.result();
  }

  /** The norm, once `calls` were made. */
  result(): number {
    return normOf(this.#sums);
  }

  release(): void {
    this.#session.release();
  }
}

/** The root of a sum, in float64. */
export function normOf(squares: Float32Array): number {
  return Math.sqrt(squares.reduce((total, square) => total + square, 0));
}

/** Elements that are added up at a time: some milliseconds. */
const SUM_PART = 1 << 22;

/** Adds the gradients of all lanes up in the first one, in the order of the lanes; the others stay as they are. */
export class GradientSum {
  readonly #session: Session;
  /** In their order they add everything up. */
  readonly calls: readonly PreparedCall[];

  constructor(lanes: readonly Float32Array[], threads: number) {
    const graph = new OnnxBuilder("gradient-sum");
    graph.node("Add", [graph.input("a", "float32", ["n"]), graph.input("b", "float32", ["n"])], { outputs: ["sum"] });
    graph.output("sum", "float32", ["n"]);
    this.#session = new Session(graph.encode(), { threads });
    const [first, ...others] = lanes;
    this.calls = others.flatMap((other) => this.#add(first as Float32Array, other));
  }

  collect(): void {
    for (const call of this.calls) call();
  }

  #add(to: Float32Array, from: Float32Array): PreparedCall[] {
    const calls: PreparedCall[] = [];
    for (let begin = 0; begin < to.length; begin += SUM_PART) {
      const part = (flat: Float32Array) => {
        const elements = flat.subarray(begin, begin + SUM_PART);
        return float32Value(elements, [elements.length]);
      };
      const sum = part(to);
      calls.push(this.#session.prepare({ a: sum, b: part(from) }, { sum }));
    }
    return calls;
  }

  release(): void {
    this.#session.release();
  }
}

/** Factor that brings a gradient of this norm down to `clip`; PyTorch's `clip_grad_norm_`. A `clip` of 0 means no limit. */
export function clipScale(norm: number, clip: number): number {
  return clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1;
}
