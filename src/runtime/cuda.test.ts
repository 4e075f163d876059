import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import { cudaFolders, inspectCuda, libraryHint, listGpus, prepareCuda } from "./cuda.ts";
import { ortLibraryPath } from "./library.ts";
import { linkLibrary } from "./shared-library.ts";
import { loadVulkan, vulkanDrivers } from "./vulkan.ts";

let home = "";
const provider = () => join(home, "providers", "cuda", "libonnxruntime_providers_cuda.so");

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "ale-cuda-"));
  mkdirSync(join(home, "providers", "cuda"), { recursive: true });
});
afterAll(() => rmSync(home, { recursive: true }));

function failure(work: () => unknown): AleError {
  try {
    work();
  } catch (error) {
    if (error instanceof AleError) return error;
  }
  throw new Error("nothing was thrown");
}

describe("CUDA", () => {
  test("without the provider, the error names every folder that was looked at", () => {
    const env = { ALE_HOME: home, ALE_CUDA_PROVIDERS: "/nowhere" };
    const { message, hint } = failure(() => prepareCuda(env));
    for (const folder of ["/nowhere", join(home, "providers", "cuda")]) expect(message).toContain(folder);
    expect(cudaFolders(env)[0]).toBe("/nowhere");
    expect(hint).toContain("libonnxruntime_providers_shared.so of ONNX Runtime 1.27.0");
  });

  test("a provider without its companion is refused with the path that is missing", () => {
    copyFileSync(ortLibraryPath(), provider()); // A real library, that needs nothing of CUDA's.
    const env = { ALE_HOME: home };
    expect(inspectCuda(env)?.folder).toBe(join(home, "providers", "cuda"));
    const { message } = failure(() => prepareCuda(env));
    expect(message).toContain("libonnxruntime_providers_shared.so: no such file");
  });

  test("what to install is said of each library: driver, CUDA and cuDNN with their versions, ONNX Runtime", () => {
    const hint = (library: string) => libraryHint(library, "/providers");
    expect(hint("libcuda.so.1")).toContain("NVIDIA driver");
    expect(hint("libcuda.so.1")).not.toContain("/providers"); // A copied driver library does not work.
    expect(hint("libcublasLt.so.13")).toContain("CUDA 13: install it where the linker looks");
    expect(hint("libcudnn.so.9")).toContain("cuDNN 9");
    expect(hint("libcufft.so.12")).toContain("CUDA, of the version of libcudart");
    expect(hint("libonnxruntime_providers_shared.so")).toContain("ONNX Runtime 1.27.0");
    expect(hint("libcudnn.so.9")).toContain("put it into /providers");
  });

  test("a file that is not a library is named", () => {
    writeFileSync(provider(), "not a library".repeat(10));
    expect(failure(() => inspectCuda({ ALE_HOME: home })).message).toContain("is not a 64-bit shared library");
  });

  test("GPUs are listed, or the linker's reason why the driver cannot be asked", () => {
    const { gpus, error } = listGpus();
    if (error === undefined) expect(gpus.every(({ name, memory }) => name !== "" && (memory ?? 0) > 0)).toBe(true);
    else expect(error).toMatch(/libcuda\.so\.1|CUDA error/);
  });
});

describe("Vulkan", () => {
  test("the variables of the Vulkan loader name drivers; files that are missing do not count", () => {
    const driver = join(home, "icd.json");
    writeFileSync(driver, "{}");
    expect(vulkanDrivers({ VK_ICD_FILENAMES: `${driver}:/nowhere.json` })).toEqual([driver]);
    expect(vulkanDrivers({ VK_DRIVER_FILES: "/nowhere.json", VK_ICD_FILENAMES: driver })).toEqual([]);
  });

  test("the system's loader is used; without one the error says what to install", () => {
    const env = { VK_ICD_FILENAMES: "/nowhere.json" };
    if (linkLibrary("libvulkan.so.1") === undefined) {
      expect(loadVulkan(env)).toBe("libvulkan.so.1");
      return;
    }
    const { message, hint } = failure(() => loadVulkan(env));
    expect(message).toContain("libvulkan.so.1: cannot open shared object file");
    expect(hint).toContain("install libvulkan1");
  });
});
