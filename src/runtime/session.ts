/** A compiled graph and the calls prepared on it. */

import { AleError } from "../core/errors.ts";
import { type CApi, ortApi } from "./c-api.ts";
import { Completion } from "./completion.ts";
import { addressOf, allocateBytes, allocatePointers, allocateString } from "./memory.ts";
import type { Bindable } from "./value.ts";

/** How far ONNX Runtime rewrites a graph: `basic` keeps float64 graphs free of fusions that exist in float32 only. */
export type OptimizationLevel = "none" | "basic" | "extended" | "all";
const OPTIMIZATION_CODES: Readonly<Record<OptimizationLevel, number>> = { none: 0, basic: 1, extended: 2, all: 99 };

/** Where constants without data would be read from: the folder must exist, whatever becomes of the working directory. */
const EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path";

/** Errors are thrown with ONNX Runtime's message, so printing them too is of no use. */
const LOG_FATAL = 4;

export interface SessionOptions {
  /** Threads of one operator, the calling thread included. */
  readonly threads: number;
  /** Let idle threads spin: faster on a machine of one's own, ruinous on a shared one. Default false. */
  readonly spinning?: boolean;
  /** Default `all`. */
  readonly optimization?: OptimizationLevel;
  /** Plan one block for all temporaries of a run; faster for some graphs, costs memory. Default false. */
  readonly memoryPattern?: boolean;
  /** Entries of `onnxruntime_session_options_config_keys.h`. */
  readonly config?: Readonly<Record<string, string>>;
  /**
   * Constants whose memory is the caller's, by the names of the model's constants without data. Operators that repack their
   * constants do so once, here; they keep the result and never look at these again.
   */
  readonly initializers?: Values;
  /** A native `OrtCustomOpDomain*` with operators that the graph has from elsewhere, see `own-operators.ts`. */
  readonly operators?: number | undefined;
  /** Write an operator profile to files with this prefix when the session is released. */
  readonly profilePrefix?: string;
  /** The device that runs the graph, all of it; the processor when omitted. */
  readonly provider?: ExecutionProvider | undefined;
}

/** An execution provider other than the processor's; `Provider` implements it. */
export interface ExecutionProvider {
  /** Adds itself to native session options. @throws AleError("engine") when its libraries do not load. */
  appendTo(nativeOptions: number): void;
}

export type Values = Readonly<Record<string, Bindable>>;

/** Runs the graph once, synchronously: reads the feeds' memory, writes the fetches' memory. */
export type PreparedCall = () => void;

/** A run in two halves. Every `start` needs its `wait` before the next `start`. */
export interface BackgroundCall {
  start(): void;
  /** Blocks until the run has ended. A run that failed leaves its outputs unwritten: put NaN there first and look. */
  wait(): void;
  /** What the native side points to. */
  readonly keep: readonly unknown[];
}

interface Binding {
  readonly count: number;
  readonly names: number;
  readonly values: number;
  /** What the addresses above point to; referenced so that it is not collected. */
  readonly keep: readonly unknown[];
}

export class Session {
  #handle: number;
  readonly #api: CApi;
  /** Names of inputs and outputs as native strings, shared by all calls. */
  readonly #names = new Map<string, Uint8Array>();

  /**
   * @param model bytes of an ONNX `ModelProto`.
   * @throws AleError("engine") with ONNX Runtime's message when the graph is not valid.
   */
  constructor(model: Uint8Array, options: SessionOptions) {
    const api = ortApi();
    this.#api = api;
    const native = api.make("create session options", (out) => api.call.createSessionOptions(out));
    try {
      applyOptions(api, native, options);
      const bytes = allocateBytes(model.length);
      bytes.set(model);
      this.#handle = api.make("compile graph", (out) =>
        api.call.createSessionFromArray(api.environment, addressOf(bytes), bytes.length, native, out),
      );
    } finally {
      api.call.releaseSessionOptions(native);
    }
  }

  /**
   * Binds graph inputs and outputs by name, once. An output may share the memory of an input where the operator that
   * writes it is the last to read that input (elementwise updates, caches appended in place).
   */
  prepare(feeds: Values, fetches: Values): PreparedCall {
    const inputs = this.#bind(feeds);
    const outputs = this.#bind(fetches);
    const { run } = this.#api.call;
    return () => {
      if (this.#handle === 0) throw new AleError("internal", "this session was released");
      const status = run(
        this.#handle,
        null,
        inputs.names,
        inputs.values,
        inputs.count,
        outputs.names,
        outputs.count,
        outputs.values,
      );
      if (status !== null && status !== 0) this.#api.check(status, "run graph");
    };
  }

  #bind(values: Values): Binding {
    const entries = Object.entries(values);
    const names = allocatePointers(entries.length);
    const handles = allocatePointers(entries.length);
    for (const [i, [name, value]] of entries.entries()) {
      names[i] = BigInt(addressOf(this.#nativeName(name)));
      handles[i] = BigInt(value.handle);
    }
    return {
      count: entries.length,
      names: addressOf(names),
      values: addressOf(handles),
      keep: [this.#names, names, handles, values],
    };
  }

  #nativeName(name: string): Uint8Array {
    let native = this.#names.get(name);
    if (native === undefined) {
      native = allocateString(name);
      this.#names.set(name, native);
    }
    return native;
  }

  /**
   * As `prepare`, for runs on a thread of the session's own, so that the caller can run another graph meanwhile. The session
   * needs at least two threads.
   */
  prepareBackground(feeds: Values, fetches: Values): BackgroundCall {
    const inputs = this.#bind(feeds);
    const outputs = this.#bind(fetches);
    const completion = new Completion();
    const { call, check } = this.#api;
    return {
      start: () => {
        if (this.#handle === 0) throw new AleError("internal", "this session was released");
        const status = call.runAsync(
          this.#handle,
          null,
          inputs.names,
          inputs.values,
          inputs.count,
          outputs.names,
          outputs.count,
          outputs.values,
          completion.callback,
          completion.argument,
        );
        check(status, "start graph");
      },
      wait: () => completion.wait("a graph that runs in the background"),
      keep: [inputs, outputs, completion],
    };
  }

  /** The native `OrtSession*`. @throws AleError("internal") after `release`. */
  get handle(): number {
    if (this.#handle === 0) throw new AleError("internal", "this session was released");
    return this.#handle;
  }

  /** Frees the compiled graph; prepared calls throw afterwards. Safe to call twice. */
  release(): void {
    if (this.#handle !== 0) this.#api.call.releaseSession(this.#handle);
    this.#handle = 0;
  }
}

function applyOptions(api: CApi, native: number, options: SessionOptions): void {
  const { call, check } = api;
  check(call.setIntraOpNumThreads(native, options.threads), "set threads");
  const level = OPTIMIZATION_CODES[options.optimization ?? "all"];
  check(call.setSessionGraphOptimizationLevel(native, level), "set optimization level");
  if (options.memoryPattern !== true) check(call.disableMemPattern(native), "turn the memory pattern off");
  check(call.setSessionLogSeverityLevel(native, LOG_FATAL), "set log level");
  options.provider?.appendTo(native);
  if (options.operators !== undefined) check(call.addCustomOpDomain(native, options.operators), "add operators");
  const entries = {
    "session.intra_op.allow_spinning": options.spinning ? "1" : "0",
    // Softmax leaves 1e-45 where a mask hides a key, and every operation on such a number takes a hundred cycles. Holds for
    // the thread that makes a process's first session as well as for those of the sessions.
    "session.set_denormal_as_zero": "1",
    "session.use_env_allocators": "1",
    ...(options.initializers === undefined ? {} : { [EXTERNAL_FOLDER]: "/" }),
    // An operator that the device cannot do is an error, not a silent copy to the processor and back.
    ...(options.provider === undefined ? {} : { "session.disable_cpu_ep_fallback": "1" }),
    ...options.config,
  };
  for (const [key, value] of Object.entries(entries)) {
    const nativeKey = allocateString(key);
    const nativeValue = allocateString(value);
    check(call.addSessionConfigEntry(native, addressOf(nativeKey), addressOf(nativeValue)), `set ${key}`);
  }
  for (const [name, value] of Object.entries(options.initializers ?? {})) {
    const nativeName = allocateString(name);
    check(call.addInitializer(native, addressOf(nativeName), value.handle), `add constant ${name}`);
  }
  if (options.profilePrefix !== undefined) {
    const prefix = allocateString(options.profilePrefix);
    check(call.enableProfiling(native, addressOf(prefix)), "enable profiling");
  }
}
