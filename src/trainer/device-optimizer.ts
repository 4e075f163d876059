/** AdamW and the global gradient norm on tensors that stay on a GPU. */

import { allocateTensors, type DeviceParameters, type DeviceTensors } from "../models/device-parameters.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { ParameterEntry, ParameterLayout } from "../models/parameters.ts";
import { bfloat16Form } from "../onnx/bfloat16.ts";
import { OnnxBuilder } from "../onnx/builder.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { copyTensors, type DeviceValue, type Provider } from "../runtime/provider.ts";
import { type PreparedCall, Session } from "../runtime/session.ts";
import { float32Value, type Value } from "../runtime/value.ts";
import {
  ADAMW_SCALARS,
  type AdamWSettings,
  adamWGraph,
  adamWScalars,
  OPTIMIZER_GROUPS,
  type OptimizerGroup,
} from "./optimizer.ts";

/**
 * Two sets of gradients, used in turn: a GPU's graph may not write what it reads. One holds the sum so far, the other
 * receives the next one.
 */
export class DeviceGradients {
  readonly layout: ParameterLayout;
  readonly #sets: readonly [DeviceTensors, DeviceTensors];
  readonly #zero: PerRank;
  readonly #zeroCalls: (readonly PreparedCall[] | undefined)[] = [undefined, undefined];
  #now: 0 | 1 = 0;

  constructor(provider: Provider, layout: ParameterLayout) {
    this.layout = layout;
    this.#sets = [allocateTensors(provider, layout), allocateTensors(provider, layout)];
    this.#zero = new PerRank(provider, zeroGraph);
    this.clear();
  }

  /** 0 or 1: which set holds the sum; calls are prepared for each. */
  get turn(): 0 | 1 {
    return this.#now;
  }

  /** The sum so far. */
  get sum(): DeviceTensors {
    return this.#sets[this.#now];
  }

  /** Where the next sum goes. */
  get next(): DeviceTensors {
    return this.#sets[1 - this.#now] as DeviceTensors;
  }

  /** What was `next` is now the sum. */
  swap(): void {
    this.#now = this.#now === 0 ? 1 : 0;
  }

  clear(): void {
    const calls = this.#zeroCalls[this.#now] ?? this.#prepareZero();
    this.#zeroCalls[this.#now] = calls;
    for (const call of calls) call();
    this.swap();
  }

  release(): void {
    this.#zero.release();
    for (const set of this.#sets) for (const value of Object.values(set)) value.release();
  }

  #prepareZero(): readonly PreparedCall[] {
    return this.layout.entries.map(({ name, shape }) =>
      this.#zero
        .session(shape.length)
        .prepare({ x: this.sum[name] as DeviceValue }, { zeros: this.next[name] as DeviceValue }),
    );
  }
}

/** Zeros in the shape of x, whatever x holds: 0 · x would keep NaN. */
function zeroGraph(rank: number): Uint8Array {
  const graph = new OnnxBuilder("zero");
  const axes = axesOf(rank);
  const never = graph.constant("bool", [], Uint8Array.of(0));
  graph.node("Where", [never, graph.input("x", "float32", axes), graph.scalar("float32", 0)], { outputs: ["zeros"] });
  graph.output("zeros", "float32", axes);
  return graph.encode();
}

/** Compiled graphs of one kind for tensors of different numbers of axes. */
class PerRank {
  readonly #provider: Provider;
  readonly #graph: (rank: number) => Uint8Array;
  readonly #sessions = new Map<number, Session>();

  constructor(provider: Provider, graph: (rank: number) => Uint8Array) {
    this.#provider = provider;
    this.#graph = graph;
  }

  session(rank: number): Session {
    const found = this.#sessions.get(rank) ?? new Session(this.#graph(rank), { threads: 1, provider: this.#provider });
    this.#sessions.set(rank, found);
    return found;
  }

  release(): void {
    for (const session of this.#sessions.values()) session.release();
    this.#sessions.clear();
  }
}

const axesOf = (rank: number) => Array.from({ length: rank }, (_, axis) => `n${axis}`);

/** Adam's update of one slot of `DeviceParameters` into another. */
export class DeviceAdamW {
  readonly #parameters: DeviceParameters;
  readonly #gradients: DeviceGradients;
  readonly #groupOf: (entry: ParameterEntry) => OptimizerGroup;
  readonly #graphs: PerRank;
  /** For matrices with a copy in bfloat16. */
  readonly #shortGraphs: PerRank;
  /** The scalars of each group on host and device. */
  readonly #host: Readonly<Record<OptimizerGroup, Readonly<Record<string, Value>>>>;
  readonly #device: Readonly<Record<OptimizerGroup, Readonly<Record<string, DeviceValue>>>>;
  readonly #calls = new Map<string, readonly PreparedCall[]>();

  constructor(
    parameters: DeviceParameters,
    gradients: DeviceGradients,
    groupOf: (entry: ParameterEntry) => OptimizerGroup,
  ) {
    const { provider } = parameters;
    this.#parameters = parameters;
    this.#gradients = gradients;
    this.#groupOf = groupOf;
    this.#graphs = new PerRank(provider, (rank) => adamWGraph(rank));
    const form = bfloat16Form(provider.device.kind);
    this.#shortGraphs = new PerRank(provider, (rank) => adamWGraph(rank, form));
    const scalars = <T>(make: () => T) => {
      const group = () => Object.fromEntries(ADAMW_SCALARS.map((name) => [name, make()]));
      return { decayed: group(), spared: group(), "value-head": group() };
    };
    this.#host = scalars(() => float32Value(allocateFloat32(1), []));
    this.#device = scalars(() => provider.allocate("float32", []));
  }

  /**
   * Reads slot `from` and the gradients, writes slot `to`, another one.
   * @param step number of this update, from 1. @param gradientScale factor on every gradient (clipping).
   */
  update(from: Slot, to: Slot, settings: AdamWSettings, step: number, gradientScale: number): void {
    for (const group of OPTIMIZER_GROUPS) {
      for (const [name, value] of Object.entries(adamWScalars(settings, group, step, gradientScale))) {
        (this.#host[group][name] as Value).data[0] = value;
      }
      copyTensors(Object.values(this.#host[group]), Object.values(this.#device[group]));
    }
    const source = this.#parameters.source(from);
    const target = this.#parameters.target(to);
    const key = `${from} ${to} ${this.#gradients.turn}`;
    const known = this.#calls.get(key);
    const calls =
      known ??
      this.#parameters.layout.entries.map((entry) => {
        const { name, shape } = entry;
        const of = (tensors: DeviceTensors) => tensors[name] as DeviceValue;
        const short = target.short[name];
        const graphs = short === undefined ? this.#graphs : this.#shortGraphs;
        return graphs.session(shape.length).prepare(
          {
            p: of(source.parameters),
            m: of(source.firstMoment),
            v: of(source.secondMoment),
            g: of(this.#gradients.sum),
            ...this.#device[this.#groupOf(entry)],
          },
          {
            p2: of(target.parameters),
            m2: of(target.firstMoment),
            v2: of(target.secondMoment),
            ...(short === undefined ? {} : { short }),
          },
        );
      });
    this.#calls.set(key, calls);
    for (const call of calls) call();
  }

  release(): void {
    this.#graphs.release();
    this.#shortGraphs.release();
    for (const scalars of [...Object.values(this.#host), ...Object.values(this.#device)]) {
      for (const value of Object.values(scalars)) value.release();
    }
  }
}

/** Euclidean norm of all gradients together. */
export class DeviceNorm {
  readonly #gradients: DeviceGradients;
  readonly #session: Session;
  readonly #norm = allocateFloat32(1);
  readonly #value = float32Value(this.#norm, []);
  readonly #calls: (PreparedCall | undefined)[] = [undefined, undefined];

  constructor(provider: Provider, gradients: DeviceGradients) {
    this.#gradients = gradients;
    this.#session = new Session(normGraph(gradients.layout), { threads: 1, provider });
  }

  compute(): number {
    const { turn, sum } = this.#gradients;
    const call = this.#calls[turn] ?? this.#session.prepare(sum, { norm: this.#value });
    this.#calls[turn] = call;
    call();
    return this.#norm[0] as number;
  }

  release(): void {
    this.#session.release();
    this.#value.release();
  }
}

function normGraph({ entries }: ParameterLayout): Uint8Array {
  const graph = new OnnxBuilder("norm");
  const squares = entries.map(({ name, shape }) =>
    graph.node("ReduceSumSquare", [graph.input(name, "float32", shape)], { attributes: { keepdims: { int: 0 } } }),
  );
  const total = squares.reduce((sum, square) => graph.node("Add", [sum, square]));
  graph.node("Sqrt", [total], { outputs: ["norm"] });
  graph.output("norm", "float32", []);
  return graph.encode();
}
