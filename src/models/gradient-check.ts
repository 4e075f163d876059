/**
 * Gradients of emitted graphs against central differences of the same graph in float64, and float32 profiles against the
 * float64 one. Used by the tests of every operator and of whole models.
 */

import { elementCount, Graph, type Profile, type Tensor } from "../autodiff/graph.ts";
import { Rng } from "../core/rng.ts";
import { type Bfloat16Form, bfloat16Form, storedAs } from "../onnx/bfloat16.ts";
import { allocateFloat32, allocateFloat64, allocateInt32, allocateInt64, type NativeArray } from "../runtime/memory.ts";
import { type ExecutionProvider, Session } from "../runtime/session.ts";
import { Value } from "../runtime/value.ts";
import { bfloat16Bytes } from "./bfloat16-matrices.ts";

/** An input of the function under test; float inputs get gradients unless `constant`. */
export interface CheckedInput {
  readonly shape: readonly number[];
  readonly values: ArrayLike<number>;
  readonly type?: "float" | "integer";
  readonly constant?: boolean;
  /** A matrix that the profile under test keeps in bfloat16; float64 sees it as it is, so its values should be of that type. */
  readonly short?: boolean;
}

export type CheckedInputs<Name extends string = string> = Readonly<Record<Name, CheckedInput>>;

/** Emits the function under test; the loss is the sum of its outputs, each weighted by fixed random numbers. */
export type CheckedFunction<Name extends string = string> = (
  graph: Graph,
  inputs: Readonly<Record<Name, Tensor>>,
) => readonly Tensor[];

export interface CheckReport {
  /** Largest |central difference − gradient| over the root mean square of that tensor's gradient (see `SMALL`). */
  readonly differenceError: number;
  /** Per input: rms(float32 gradient − float64 gradient) / rms(float64 gradient), the largest; see `SMALL`. */
  readonly float32Error: number;
  /** Central differences taken. */
  readonly probes: number;
}

/**
 * Errors are relative to a tensor's own gradient, but never to less than this share of all gradients: one that vanishes, as
 * that of the queries of a one-token sequence, has no error to be relative to.
 */
const SMALL = 0.1;

/** Step of the differences; fourth order, so the error is near 1e-12 for smooth functions of size one. */
const STEP = 1e-3;

/** Where the float32 gradients are computed. */
export interface CheckTarget {
  readonly profile: Exclude<Profile, "ref64">;
  readonly provider?: ExecutionProvider;
}

/** Checks up to `probesPerInput` elements of each input by differences, and `target`'s gradients as a whole. */
export function checkGradients<Name extends string>(
  build: CheckedFunction<Name>,
  inputs: CheckedInputs<Name>,
  probesPerInput: number,
  target: CheckTarget = { profile: "cpu" },
): CheckReport {
  const reference = new Evaluation({ profile: "ref64" }, build, inputs);
  const single = new Evaluation(target, build, inputs);
  try {
    reference.run();
    single.run();
    const gradients = new Map([...reference.gradients].map(([name, values]) => [name, values.slice()]));
    let differenceError = 0;
    let float32Error = 0;
    let probes = 0;
    const least = SMALL * rootMeanSquare([...gradients.values()].flatMap((gradient) => [...gradient]));
    for (const [name, gradient] of gradients) {
      const rms = Math.max(rootMeanSquare(gradient), least);
      const difference = Float64Array.from(
        single.gradients.get(name) as NativeArray as Float32Array,
        (g, i) => g - (gradient[i] as number),
      );
      float32Error = Math.max(float32Error, rootMeanSquare(difference) / rms);
      const rng = new Rng(`probes ${name}`);
      const elements = rng.shuffle([...gradient.keys()]).slice(0, probesPerInput);
      for (const element of elements) {
        const error = Math.abs(reference.centralDifference(name, element) - (gradient[element] as number)) / rms;
        // NaN must not hide behind a comparison
        if (!(error <= differenceError)) differenceError = error;
        probes++;
      }
    }
    return { differenceError, float32Error, probes };
  } finally {
    reference.release();
    single.release();
  }
}

export function rootMeanSquare(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2;
  return Math.sqrt(sum / values.length);
}

function integerArray(type: "int32" | "int64", values: ArrayLike<number>): NativeArray {
  const data = type === "int32" ? allocateInt32(values.length) : allocateInt64(values.length);
  for (let i = 0; i < values.length; i++)
    data[i] = type === "int32" ? (values[i] as number) : BigInt(values[i] as number);
  return data;
}

function shortValue(form: Bfloat16Form, shape: readonly number[], values: ArrayLike<number>): Value {
  const stored = storedAs(form, shape);
  return new Value(stored.type, stored.shape, bfloat16Bytes(form, Float32Array.from(values), shape[1] as number));
}

/** The function, its gradients and its inputs' memory in one profile. */
class Evaluation {
  readonly gradients = new Map<string, Float64Array | Float32Array>();
  readonly #inputs = new Map<string, NativeArray>();
  readonly #outputs: { readonly values: Float64Array | Float32Array; readonly seed: Float64Array }[] = [];
  readonly #session: Session;
  readonly #call: () => void;

  constructor(target: CheckTarget | { readonly profile: "ref64" }, build: CheckedFunction, inputs: CheckedInputs) {
    const { profile } = target;
    const graph = new Graph(profile);
    const tensors: Record<string, Tensor> = {};
    const feeds: Record<string, Value> = {};
    const fetches: Record<string, Value> = {};
    const float = (size: number) => (profile === "ref64" ? allocateFloat64(size) : allocateFloat32(size));
    for (const [name, { shape, values, type, constant, short }] of Object.entries<CheckedInput>(inputs)) {
      const integer = type === "integer";
      if (short === true && profile !== "ref64") {
        tensors[name] = graph.bfloat16Input(name, shape, { differentiable: constant !== true });
        feeds[name] = shortValue(bfloat16Form(profile), shape, values);
        continue;
      }
      tensors[name] = graph.input(
        name,
        shape,
        integer ? { type: graph.integer } : { differentiable: constant !== true },
      );
      const data = integer ? integerArray(graph.integer, values) : float(values.length);
      if (!integer) (data as Float32Array).set(values);
      this.#inputs.set(name, data);
      feeds[name] = new Value(integer ? graph.integer : graph.float, shape, data);
    }
    const outputs = build(graph, tensors);
    const seeds = outputs.map((output, i) => {
      const rng = new Rng(`seed ${i}`);
      // rounded to float32, so that both profiles see the same loss
      const seed = Float64Array.from({ length: elementCount(output.shape) }, () => Math.fround(rng.normal()));
      const values = float(seed.length);
      this.#outputs.push({ values, seed });
      graph.output(`output ${i}`, output);
      fetches[`output ${i}`] = new Value(graph.float, output.shape, values);
      return [output, graph.constant(output.shape, seed)] as const;
    });
    graph.backward(seeds);
    for (const [name, tensor] of Object.entries(tensors)) {
      if (!tensor.differentiable) continue;
      const gradient = float(elementCount(tensor.shape));
      this.gradients.set(name, gradient);
      graph.output(`gradient ${name}`, graph.gradient(tensor));
      fetches[`gradient ${name}`] = new Value(graph.float, tensor.shape, gradient);
    }
    const optimization = profile === "ref64" ? "basic" : "all";
    const provider = "provider" in target && target.provider !== undefined ? { provider: target.provider } : {};
    this.#session = new Session(graph.encode(), { threads: 1, optimization, ...provider });
    this.#call = this.#session.prepare(feeds, fetches);
  }

  run(): void {
    this.#call();
  }

  /** d loss / d element by the fourth-order central formula. */
  centralDifference(name: string, element: number): number {
    const data = this.#inputs.get(name) as Float64Array;
    const centre = data[element] as number;
    const lossAt = (offset: number) => {
      data[element] = centre + offset;
      this.run();
      return this.#loss();
    };
    const near = lossAt(STEP) - lossAt(-STEP);
    const far = lossAt(2 * STEP) - lossAt(-2 * STEP);
    data[element] = centre;
    return (8 * near - far) / (12 * STEP);
  }

  release(): void {
    this.#session.release();
  }

  #loss(): number {
    let loss = 0;
    for (const { values, seed } of this.#outputs) {
      for (let i = 0; i < seed.length; i++) loss += (seed[i] as number) * (values[i] as number);
    }
    return loss;
  }
}
