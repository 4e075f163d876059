/**
 * ONNX Runtime's C API through bun:ffi. The library exports one symbol; everything else is a table of function pointers
 * that only ever grows at its end, so an index found in `onnxruntime_c_api.h` stays right.
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/include/onnxruntime/core/session/onnxruntime_c_api.h
 */

import { CFunction, CString, dlopen, type FFITypeOrString, type Pointer, read } from "bun:ffi";
import { AleError, errorMessage } from "../core/errors.ts";
import { ORT_VERSION, ortLibraryPath } from "./library.ts";
import { addressOf, allocatePointers, allocateString } from "./memory.ts";

/** Position in `OrtApi` and argument types of each function in use. All but the releasing ones return an `OrtStatus*`. */
const FUNCTIONS = {
  getErrorMessage: { index: 2, args: ["ptr"], returns: "ptr" },
  createEnv: { index: 3, args: ["i32", "ptr", "ptr"], returns: "ptr" },
  createSessionFromArray: { index: 8, args: ["ptr", "ptr", "usize", "ptr", "ptr"], returns: "ptr" },
  run: { index: 9, args: ["ptr", "ptr", "ptr", "ptr", "usize", "ptr", "usize", "ptr"], returns: "ptr" },
  createSessionOptions: { index: 10, args: ["ptr"], returns: "ptr" },
  disableMemPattern: { index: 17, args: ["ptr"], returns: "ptr" },
  disableCpuMemArena: { index: 19, args: ["ptr"], returns: "ptr" },
  enableProfiling: { index: 14, args: ["ptr", "ptr"], returns: "ptr" },
  setSessionLogSeverityLevel: { index: 22, args: ["ptr", "i32"], returns: "ptr" },
  setSessionGraphOptimizationLevel: { index: 23, args: ["ptr", "i32"], returns: "ptr" },
  setIntraOpNumThreads: { index: 24, args: ["ptr", "i32"], returns: "ptr" },
  createTensorAsOrtValue: { index: 48, args: ["ptr", "ptr", "usize", "i32", "ptr"], returns: "ptr" },
  createTensorWithDataAsOrtValue: {
    index: 49,
    args: ["ptr", "ptr", "usize", "ptr", "usize", "i32", "ptr"],
    returns: "ptr",
  },
  createMemoryInfo: { index: 68, args: ["ptr", "i32", "i32", "i32", "ptr"], returns: "ptr" },
  createCpuMemoryInfo: { index: 69, args: ["i32", "i32", "ptr"], returns: "ptr" },
  releaseStatus: { index: 93, args: ["ptr"], returns: "void" },
  releaseMemoryInfo: { index: 94, args: ["ptr"], returns: "void" },
  releaseSession: { index: 95, args: ["ptr"], returns: "void" },
  releaseValue: { index: 96, args: ["ptr"], returns: "void" },
  releaseSessionOptions: { index: 100, args: ["ptr"], returns: "void" },
  createAndRegisterAllocator: { index: 144, args: ["ptr", "ptr", "ptr"], returns: "ptr" },
  runAsync: {
    index: 260,
    args: ["ptr", "ptr", "ptr", "ptr", "usize", "ptr", "usize", "ptr", "ptr", "ptr"],
    returns: "ptr",
  },
  addInitializer: { index: 150, args: ["ptr", "ptr", "ptr"], returns: "ptr" },
  addCustomOpDomain: { index: 28, args: ["ptr", "ptr"], returns: "ptr" },
  addSessionConfigEntry: { index: 130, args: ["ptr", "ptr", "ptr"], returns: "ptr" },
  createAllocator: { index: 131, args: ["ptr", "ptr", "ptr"], returns: "ptr" },
  releaseAllocator: { index: 132, args: ["ptr"], returns: "void" },
  appendCudaProvider: { index: 204, args: ["ptr", "ptr"], returns: "ptr" },
  createCudaProviderOptions: { index: 205, args: ["ptr"], returns: "ptr" },
  updateCudaProviderOptions: { index: 206, args: ["ptr", "ptr", "ptr", "usize"], returns: "ptr" },
  releaseCudaProviderOptions: { index: 208, args: ["ptr"], returns: "void" },
  appendProvider: { index: 216, args: ["ptr", "ptr", "ptr", "ptr", "usize"], returns: "ptr" },
  copyTensors: { index: 386, args: ["ptr", "ptr", "ptr", "ptr", "usize"], returns: "ptr" },
} as const;

type FunctionName = keyof typeof FUNCTIONS;
type NativeFunction = (...args: readonly (number | bigint | null)[]) => number | null;

/** Number of the API table asked for; 23 is ORT 1.23's, the first with CopyTensors, and later releases still serve it. */
const API_VERSION = 23;
const LOG_WARNING = 2;
/** Errors come back as statuses and are thrown; printing them too would only garble the terminal. */
const LOG_FATAL = 4;
const ARENA_ALLOCATOR = 1;
const MEMORY_TYPE_DEFAULT = 0;

/** The loaded library: its functions, the environment and the description of host memory every value refers to. */
export interface CApi {
  readonly call: Readonly<Record<FunctionName, NativeFunction>>;
  /** Throws AleError("engine") for a failed call; frees the status. */
  check(status: number | null, what: string): void;
  /** Runs `make` with an out-pointer and returns what was stored there. */
  make(what: string, make: (out: number) => number | null): number;
  readonly environment: number;
  readonly cpuMemory: number;
  /** Address of the function table, for native code that calls the library itself. */
  readonly table: number;
}

let loaded: CApi | undefined;

/** Loads the library at the first call. @throws AleError("engine") when it is missing or of another version. */
export function ortApi(): CApi {
  loaded ??= load();
  return loaded;
}

function load(): CApi {
  setNativeEnvironment("ORT_DISABLE_TELEMETRY", "1"); // Before the library is even mapped.
  const api = openLibrary(ortLibraryPath());
  const call = {} as Record<FunctionName, NativeFunction>;
  for (const [name, { index, args, returns }] of Object.entries(FUNCTIONS)) {
    call[name as FunctionName] = nativeFunction(read.ptr(api as Pointer, index * 8), args, returns);
  }
  const out = allocatePointers(1);
  const outAddress = addressOf(out);
  const check = (status: number | null, what: string): void => {
    if (status === null || status === 0) return;
    const message = new CString(call.getErrorMessage(status) as Pointer).toString();
    call.releaseStatus(status);
    throw new AleError("engine", `ONNX Runtime: ${what}: ${message}`);
  };
  const make = (what: string, maker: (out: number) => number | null): number => {
    out[0] = 0n;
    check(maker(outAddress), what);
    return Number(out[0]);
  };
  const logName = allocateString("ale");
  const severity = process.env.ALE_ORT_LOG === "1" ? LOG_WARNING : LOG_FATAL;
  const environment = make("create environment", (o) => call.createEnv(severity, addressOf(logName), o));
  const cpuMemory = make("describe host memory", (o) =>
    call.createCpuMemoryInfo(ARENA_ALLOCATOR, MEMORY_TYPE_DEFAULT, o),
  );
  // Sessions ask for this allocator (`session.use_env_allocators`): with one arena each, every shape in use would keep its
  // own activations for good.
  check(call.createAndRegisterAllocator(environment, cpuMemory, null), "register the shared allocator");
  return { call, check, make, environment, cpuMemory, table: api };
}

function nativeFunction(address: number, args: readonly string[], returns: string): NativeFunction {
  return CFunction({
    ptr: address as Pointer,
    args: args as FFITypeOrString[],
    returns: returns as FFITypeOrString,
  }) as unknown as NativeFunction;
}

/**
 * Opens the library, checks its version and returns the address of its function table.
 * @throws AleError("engine") naming the file when it cannot be loaded or is of another version.
 */
export function openLibrary(path: string): number {
  let base: number | null;
  try {
    const library = dlopen(path, { OrtGetApiBase: { returns: "ptr", args: [] } });
    base = library.symbols.OrtGetApiBase() as number | null;
  } catch (error) {
    throw new AleError("engine", `cannot load ${path}: ${errorMessage(error)}`, {
      hint: "run `ale doctor`; it names the missing library",
      cause: error,
    });
  }
  const getApi = nativeFunction(read.ptr(base as Pointer, 0), ["u32"], "ptr");
  const getVersion = nativeFunction(read.ptr(base as Pointer, 8), [], "ptr");
  const version = new CString(getVersion() as Pointer).toString();
  if (version !== ORT_VERSION) {
    throw new AleError("engine", `${path} is ONNX Runtime ${version}, but Ale needs ${ORT_VERSION}`, {
      hint: `install onnxruntime-node ${ORT_VERSION}`,
    });
  }
  const api = getApi(API_VERSION);
  if (api === null || api === 0) throw new AleError("engine", `${path} does not offer API version ${API_VERSION}`);
  return api;
}

/**
 * Sets a variable where native code will see it: under Bun an assignment to `process.env` never reaches getenv(3).
 * https://github.com/oven-sh/bun/issues/42891
 */
export function setNativeEnvironment(name: string, value: string): void {
  const libc = dlopen("libc.so.6", { setenv: { returns: "i32", args: ["ptr", "ptr", "i32"] } });
  const nativeName = allocateString(name);
  const nativeValue = allocateString(value);
  libc.symbols.setenv(addressOf(nativeName) as Pointer, addressOf(nativeValue) as Pointer, 1);
}
