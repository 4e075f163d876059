/**
 * CUDA: what the operator has installed, and what is missing. Ale ships no CUDA libraries. ONNX Runtime takes its CUDA
 * provider from the folder that holds the library itself, so the operator's files are linked there.
 */

import { dlopen, type Pointer } from "bun:ffi";
import { existsSync, lstatSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { aleHome } from "../config/paths.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import { neededLibraries } from "./elf.ts";
import { ORT_VERSION, ortLibraryPath } from "./library.ts";
import { addressOf, allocateBytes, allocateInt32, allocatePointers } from "./memory.ts";
import { linkLibrary } from "./shared-library.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Names the folder with the provider libraries. */
export const CUDA_FOLDER_VARIABLE = "ALE_CUDA_PROVIDERS";
const PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so";
const SHARED_LIBRARY = "libonnxruntime_providers_shared.so";

export const CUDA_HINT =
  `put ${PROVIDER_LIBRARY} and ${SHARED_LIBRARY} of ONNX Runtime ${ORT_VERSION} into $ALE_HOME/providers/cuda ` +
  `or the folder named by ${CUDA_FOLDER_VARIABLE}; docs/devices.md says where to get them`;

/** Folders that are looked at for the provider libraries, in order. */
export function cudaFolders(env: Environment = process.env): readonly string[] {
  const named = env[CUDA_FOLDER_VARIABLE];
  return [...(named ? [named] : []), join(aleHome(env), "providers", "cuda"), dirname(ortLibraryPath())];
}

export interface LibraryReport {
  readonly name: string;
  /** What the dynamic linker says; undefined when the library loads. */
  readonly error?: string;
}

export interface CudaReport {
  /** Folder of the provider libraries, and what they need besides the C library, in loading order. */
  readonly folder: string;
  readonly libraries: readonly LibraryReport[];
}

/**
 * Finds the provider and loads what it needs, each library by name or from the provider's folder.
 * @returns undefined when no folder holds a provider. @throws AleError("engine") for a file that is not a library.
 */
export function inspectCuda(env: Environment = process.env): CudaReport | undefined {
  const folder = cudaFolders(env).find((candidate) => existsSync(join(candidate, PROVIDER_LIBRARY)));
  if (folder === undefined) return undefined;
  const needed = neededLibraries(join(folder, PROVIDER_LIBRARY)).filter((name) => /^lib(cu|nv)/.test(name));
  const shared = join(folder, SHARED_LIBRARY);
  const libraries = needed.map((name) => loadFrom(folder, name));
  const sharedReport = existsSync(shared) ? linkLibrary(shared) : `${shared}: no such file`;
  return {
    folder,
    libraries: [...libraries, { name: SHARED_LIBRARY, ...(sharedReport === undefined ? {} : { error: sharedReport }) }],
  };
}

/** The part of NVIDIA's software that a library belongs to, with the version that its name ends with. */
function packageOf(library: string): string {
  const version = /\.so\.(\d+)/.exec(library)?.[1] ?? "";
  if (library.startsWith("libcuda.so")) return "the NVIDIA driver of this machine's kernel";
  if (library.startsWith("libcudnn")) return `cuDNN ${version}`;
  if (library === SHARED_LIBRARY) return `ONNX Runtime ${ORT_VERSION}`;
  // cuBLAS, the runtime and the compiler are numbered as CUDA itself is, the others on their own.
  return /^lib(cublas|cudart|nvrtc)/.test(library) ? `CUDA ${version}` : "CUDA, of the version of libcudart";
}

/** What to install where, for a library that the provider in `folder` asks for and that does not load. */
export function libraryHint(library: string, folder: string): string {
  const from = packageOf(library);
  if (library.startsWith("libcuda.so")) return `it comes with ${from}; install that, docs/devices.md names the version`;
  return `it is part of ${from}: install it where the linker looks (ldconfig, LD_LIBRARY_PATH) or put it into ${folder}`;
}

/** A library of that name stays loaded, and the linker takes it for the provider's own wish of the same name. */
function loadFrom(folder: string, name: string): LibraryReport {
  const error = linkLibrary(name);
  if (error === undefined) return { name };
  const beside = join(folder, name);
  const besideError = existsSync(beside) ? linkLibrary(beside) : error;
  return besideError === undefined ? { name } : { name, error: besideError };
}

/**
 * Makes sure ONNX Runtime will find the CUDA provider and everything it needs.
 * @throws AleError("engine") with the linker's words for each library that is missing.
 */
export function prepareCuda(env: Environment = process.env): void {
  const report = inspectCuda(env);
  if (report === undefined) {
    throw new AleError("engine", `no ${PROVIDER_LIBRARY} in ${cudaFolders(env).join(", ")}`, { hint: CUDA_HINT });
  }
  const missing = report.libraries.flatMap(({ error }) => (error === undefined ? [] : [error]));
  if (missing.length > 0) {
    const first = report.libraries.find(({ error }) => error !== undefined) as LibraryReport;
    throw new AleError("engine", `the CUDA provider in ${report.folder} cannot be loaded: ${missing.join("; ")}`, {
      hint: `${first.name}: ${libraryHint(first.name, report.folder)}; \`ale doctor\` lists them one by one`,
    });
  }
  const home = dirname(ortLibraryPath());
  if (home === report.folder) return;
  for (const name of [SHARED_LIBRARY, PROVIDER_LIBRARY]) linkBeside(join(home, name), join(report.folder, name));
}

/** Links `path` to `target`, replacing a link to somewhere else; a real file is left alone. */
function linkBeside(path: string, target: string): void {
  try {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) rmSync(path);
    if (!existsSync(path)) symlinkSync(target, path);
  } catch (error) {
    throw new AleError("engine", `cannot link ${path} to ${target}: ${errorMessage(error)}`, {
      hint: "set ALE_CACHE_DIR to a folder that is writable and not mounted noexec",
      cause: error,
    });
  }
}

export interface Gpu {
  readonly index: number;
  readonly name: string;
  /** Bytes of its memory; undefined when only the kernel module could be asked. */
  readonly memory?: number;
  /** Compute capability, e.g. 9.0. */
  readonly capability?: string;
}

export interface GpuList {
  readonly gpus: readonly Gpu[];
  /** Newest CUDA version the driver serves, e.g. 13.0. */
  readonly driverCuda?: string;
  /** Why the driver could not be asked. */
  readonly error?: string;
}

const NAME_BYTES = 256;
const CAPABILITY_MAJOR = 75;
const CAPABILITY_MINOR = 76;

/** The NVIDIA GPUs of this machine, as the driver library or, without it, the kernel module names them. */
export function listGpus(): GpuList {
  try {
    return askDriver();
  } catch (error) {
    return { gpus: askKernel(), error: errorMessage(error) };
  }
}

/** https://docs.nvidia.com/cuda/cuda-driver-api/ */
function askDriver(): GpuList {
  const missing = linkLibrary("libcuda.so.1");
  if (missing !== undefined) throw new AleError("engine", missing);
  const { symbols: cuda } = dlopen("libcuda.so.1", {
    cuInit: { args: ["u32"], returns: "i32" },
    cuDriverGetVersion: { args: ["ptr"], returns: "i32" },
    cuDeviceGetCount: { args: ["ptr"], returns: "i32" },
    cuDeviceGet: { args: ["ptr", "i32"], returns: "i32" },
    cuDeviceGetName: { args: ["ptr", "i32", "i32"], returns: "i32" },
    cuDeviceTotalMem_v2: { args: ["ptr", "i32"], returns: "i32" },
    cuDeviceGetAttribute: { args: ["ptr", "i32", "i32"], returns: "i32" },
  });
  const check = (status: number, what: string) => {
    if (status !== 0) throw new AleError("engine", `${what} failed with CUDA error ${status}`);
  };
  const word = allocateInt32(1);
  const wordAddress = addressOf(word) as Pointer;
  const number = (what: string, ask: (out: Pointer) => number): number => {
    check(ask(wordAddress), what);
    return word[0] as number;
  };
  check(cuda.cuInit(0), "cuInit");
  const version = number("cuDriverGetVersion", (out) => cuda.cuDriverGetVersion(out));
  const count = number("cuDeviceGetCount", (out) => cuda.cuDeviceGetCount(out));
  const gpus = Array.from({ length: count }, (_, index): Gpu => {
    const device = number("cuDeviceGet", (out) => cuda.cuDeviceGet(out, index));
    const name = allocateBytes(NAME_BYTES);
    check(cuda.cuDeviceGetName(addressOf(name) as Pointer, NAME_BYTES, device), "cuDeviceGetName");
    const memory = allocatePointers(1);
    check(cuda.cuDeviceTotalMem_v2(addressOf(memory) as Pointer, device), "cuDeviceTotalMem");
    const attribute = (code: number) =>
      number("cuDeviceGetAttribute", (out) => cuda.cuDeviceGetAttribute(out, code, device));
    return {
      index,
      name: new TextDecoder().decode(name.subarray(0, name.indexOf(0))),
      memory: Number(memory[0]),
      capability: `${attribute(CAPABILITY_MAJOR)}.${attribute(CAPABILITY_MINOR)}`,
    };
  });
  return { gpus, driverCuda: `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}` };
}

const KERNEL_FOLDER = "/proc/driver/nvidia/gpus";

function askKernel(): Gpu[] {
  if (!existsSync(KERNEL_FOLDER)) return [];
  return readdirSync(KERNEL_FOLDER).map((folder, index) => {
    const text = readFileSync(join(KERNEL_FOLDER, folder, "information"), "utf8");
    return { index, name: /^Model:\s*(.+)$/m.exec(text)?.[1] ?? folder };
  });
}
