/**
 * A GPU as ONNX Runtime sees it: an execution provider for sessions, and memory for tensors that stay there. Tensors made
 * here are bound like host values; nothing moves unless `copyTensors` is called or a host value is bound.
 */

import { type Device, deviceName } from "../core/device.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import { OnnxBuilder } from "../onnx/builder.ts";
import { ELEMENT_CODES, type ElementType } from "../onnx/model.ts";
import { ortApi } from "./c-api.ts";
import { CUDA_HINT, prepareCuda } from "./cuda.ts";
import { addressOf, allocateInt64, allocatePointers, allocateString } from "./memory.ts";
import { type ExecutionProvider, Session } from "./session.ts";
import type { Bindable } from "./value.ts";
import { loadVulkan } from "./vulkan.ts";

const DEVICE_ALLOCATOR = 0;
const MEMORY_TYPE_DEFAULT = 0;

/** The name under which each provider offers its memory. */
const MEMORY_NAMES = { webgpu: "WebGPU_Buf", cuda: "Cuda" } as const;

/** A tensor in the memory of a device. */
export class DeviceValue implements Bindable {
  readonly type: ElementType;
  readonly shape: readonly number[];
  #handle: number;

  /** Made by `Provider.allocate`. */
  constructor(type: ElementType, shape: readonly number[], handle: number) {
    this.type = type;
    this.shape = shape;
    this.#handle = handle;
  }

  /** The native `OrtValue*`. @throws AleError("internal") after `release`. */
  get handle(): number {
    if (this.#handle === 0) throw new AleError("internal", "this device tensor was released");
    return this.#handle;
  }

  /** Frees the memory on the device. Calls prepared with it must not run afterwards. Safe to call twice. */
  release(): void {
    if (this.#handle !== 0) ortApi().call.releaseValue(this.#handle);
    this.#handle = 0;
  }
}

/** Copies each source tensor to the target in its place, in either direction, and waits for the end. */
export function copyTensors(sources: readonly Bindable[], targets: readonly Bindable[]): void {
  if (sources.length !== targets.length) throw new AleError("internal", "as many sources as targets are needed");
  if (sources.length === 0) return;
  const api = ortApi();
  const handles = (values: readonly Bindable[]) => {
    const native = allocatePointers(values.length);
    for (const [i, value] of values.entries()) native[i] = BigInt(value.handle);
    return native;
  };
  const from = handles(sources);
  const to = handles(targets);
  const status = api.call.copyTensors(api.environment, addressOf(from), addressOf(to), null, sources.length);
  api.check(status, "copy tensors");
}

export class Provider implements ExecutionProvider {
  readonly device: Device;
  /** The provider's memory lives as long as a session that uses it, so one is kept. */
  readonly #anchor: Session;
  readonly #memory: number;
  readonly #allocator: number;

  private constructor(device: Device) {
    this.device = device;
    this.#anchor = new Session(identityGraph(), { threads: 1, provider: { appendTo: (o) => this.appendTo(o) } });
    const api = ortApi();
    const name = allocateString(MEMORY_NAMES[gpuKind(device)]);
    this.#memory = api.make(`describe ${deviceName(device)}'s memory`, (out) =>
      api.call.createMemoryInfo(addressOf(name), DEVICE_ALLOCATOR, device.index, MEMORY_TYPE_DEFAULT, out),
    );
    this.#allocator = api.make(`find ${deviceName(device)}'s memory`, (out) =>
      api.call.createAllocator(this.#anchor.handle, this.#memory, out),
    );
  }

  /**
   * Opens a GPU; later calls for the same one give the same object, which lives as long as the process.
   * @throws AleError("engine") saying exactly which library or driver is missing.
   */
  static open(device: Device): Provider {
    const key = deviceName(device);
    const found = opened.get(key);
    if (found !== undefined) return found;
    const kind = gpuKind(device);
    if (kind === "cuda") prepareCuda();
    else loadVulkan();
    try {
      const provider = new Provider(device);
      opened.set(key, provider);
      return provider;
    } catch (error) {
      throw new AleError("engine", `device "${key}" cannot be used: ${errorMessage(error)}`, {
        hint:
          kind === "cuda" ? CUDA_HINT : "`vulkaninfo --summary` must list the GPU; `ale doctor` shows what was found",
        cause: error,
      });
    }
  }

  /** A tensor on the device; what it holds at first is undefined. */
  allocate(type: ElementType, shape: readonly number[]): DeviceValue {
    const api = ortApi();
    const dims = allocateInt64(Math.max(1, shape.length));
    for (const [i, size] of shape.entries()) dims[i] = BigInt(size);
    const handle = api.make(`allocate [${shape}] on ${deviceName(this.device)}`, (out) =>
      api.call.createTensorAsOrtValue(this.#allocator, addressOf(dims), shape.length, ELEMENT_CODES[type], out),
    );
    return new DeviceValue(type, shape, handle);
  }

  appendTo(nativeOptions: number): void {
    if (this.device.kind === "cuda") this.#appendCuda(nativeOptions);
    else {
      const api = ortApi();
      const name = allocateString("WebGPU");
      api.check(api.call.appendProvider(nativeOptions, addressOf(name), null, null, 0), "use WebGPU");
    }
  }

  #appendCuda(nativeOptions: number): void {
    const { call, check, make } = ortApi();
    const options = make("create CUDA options", (out) => call.createCudaProviderOptions(out));
    try {
      const settings = { device_id: String(this.device.index), arena_extend_strategy: "kSameAsRequested" };
      const keys = stringArray(Object.keys(settings));
      const values = stringArray(Object.values(settings));
      const count = keys.strings.length;
      const [k, v] = [addressOf(keys.pointers), addressOf(values.pointers)];
      check(call.updateCudaProviderOptions(options, k, v, count), "set CUDA options");
      check(call.appendCudaProvider(nativeOptions, options), "use CUDA");
    } finally {
      call.releaseCudaProviderOptions(options);
    }
  }
}

const opened = new Map<string, Provider>();

function gpuKind(device: Device): "webgpu" | "cuda" {
  if (device.kind === "cpu") throw new AleError("internal", "the processor needs no execution provider");
  return device.kind;
}

/** A `char*[]`; the strings are held beside it. */
function stringArray(texts: readonly string[]) {
  const strings = texts.map(allocateString);
  const pointers = allocatePointers(texts.length);
  for (const [i, text] of strings.entries()) pointers[i] = BigInt(addressOf(text));
  return { strings, pointers };
}

function identityGraph(): Uint8Array {
  const graph = new OnnxBuilder("anchor");
  graph.node("Identity", [graph.input("x", "float32", [1])], { outputs: ["y"] });
  graph.output("y", "float32", [1]);
  return graph.encode();
}
