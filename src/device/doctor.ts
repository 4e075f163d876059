/** What `ale doctor` says about devices: which there are, what is missing, and whether they compute right. */

import type { Device } from "../core/device.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import {
  CUDA_HINT,
  type CudaReport,
  cudaFolders,
  type GpuList,
  inspectCuda,
  libraryHint,
  listGpus,
} from "../runtime/cuda.ts";
import { loadVulkan, vulkanDrivers } from "../runtime/vulkan.ts";
import { passes, runSelfTest, SELF_TEST_LIMITS, type SelfTestReport, selfTestProcess } from "./self-test.ts";

/** One line of `ale doctor`. */
export interface DeviceProbe {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly hint?: string;
  readonly required?: boolean;
  /** Differences from float64, and their limits; only of devices that were tested. */
  readonly selfTest?: SelfTestReport & { readonly limits: typeof SELF_TEST_LIMITS };
}

/** The driver of a GPU needs a second or two to compile; one in software, on busy cores, most of a minute. */
const SELF_TEST_MS = 90_000;

/** @param test run a small model on every device that is there. */
export async function probeDevices(test: boolean): Promise<DeviceProbe[]> {
  const gpus = listGpus();
  return [await probeProcessor(test), await probeWebgpu(test), describeGpus(gpus), ...(await probeCuda(gpus, test))];
}

async function probeProcessor(test: boolean): Promise<DeviceProbe> {
  if (!test) return { name: "cpu", ok: true, detail: "not tested" };
  return judge("cpu", () => runSelfTest({ kind: "cpu", index: 0 }), { required: true, prefix: "" });
}

async function probeWebgpu(test: boolean): Promise<DeviceProbe> {
  const name = "webgpu";
  const drivers = vulkanDrivers();
  if (drivers.length === 0)
    return { name, ok: true, detail: "no Vulkan driver is installed; it is only needed for a GPU" };
  try {
    loadVulkan();
  } catch (error) {
    return failure(name, error);
  }
  const prefix = `drivers ${drivers.join(", ")}; `;
  if (!test) return { name, ok: true, detail: `${prefix}not tested` };
  return judge(name, () => selfTestProcess({ kind: "webgpu", index: 0 }, SELF_TEST_MS), { required: false, prefix });
}

function describeGpus({ gpus, driverCuda, error }: GpuList): DeviceProbe {
  const names = gpus.map(({ index, name, memory, capability }) => {
    const size = memory === undefined ? "" : `, ${(memory / 1e9).toFixed(1)} GB`;
    return `cuda:${index} ${name}${size}${capability === undefined ? "" : `, compute ${capability}`}`;
  });
  const driver = driverCuda === undefined ? "" : `; the driver serves CUDA ${driverCuda}`;
  const detail = names.length > 0 ? `${names.join("; ")}${driver}` : `none (${error ?? "the driver lists none"})`;
  return { name: "NVIDIA GPUs", ok: true, detail };
}

/** The provider's libraries, one line for each that is missing, and a test of each GPU when none is. */
async function probeCuda({ gpus }: GpuList, test: boolean): Promise<DeviceProbe[]> {
  const name = "cuda";
  let report: CudaReport | undefined;
  try {
    report = inspectCuda();
  } catch (error) {
    return [failure(name, error)];
  }
  if (report === undefined) {
    if (gpus.length === 0)
      return [
        { name, ok: true, detail: `no provider in ${cudaFolders().join(", ")}; it is only needed for an NVIDIA GPU` },
      ];
    return [
      { name, ok: false, required: false, detail: "ONNX Runtime's CUDA provider is not installed", hint: CUDA_HINT },
    ];
  }
  const missing = report.libraries.filter(({ error }) => error !== undefined);
  if (missing.length > 0) {
    return missing.map((library) => ({
      name: `cuda: ${library.name}`,
      ok: false,
      required: false,
      detail: library.error as string,
      hint: libraryHint(library.name, report.folder),
    }));
  }
  const prefix = `provider in ${report.folder}; `;
  if (!test) return [{ name, ok: true, detail: `${prefix}not tested` }];
  const devices: Device[] = gpus.map(({ index }) => ({ kind: "cuda", index }));
  return Promise.all(
    devices.map((device) =>
      judge(`cuda:${device.index}`, () => selfTestProcess(device, SELF_TEST_MS), { required: false, prefix }),
    ),
  );
}

async function judge(
  name: string,
  run: () => SelfTestReport | Promise<SelfTestReport>,
  { required, prefix }: { readonly required: boolean; readonly prefix: string },
): Promise<DeviceProbe> {
  let report: SelfTestReport;
  try {
    report = await run();
  } catch (error) {
    return { ...failure(name, error), required };
  }
  const parts = Object.entries(SELF_TEST_LIMITS).map(([part, limit]) => {
    const found = report[part as keyof typeof SELF_TEST_LIMITS];
    return `${part} ${found.toExponential(1)}${found <= limit ? "" : ` > ${limit}`}`;
  });
  return {
    name,
    ok: passes(report),
    required,
    detail: `${prefix}off float64 by ${parts.join(", ")}, within ${Math.round(report.ms)} ms`,
    hint: "the device computes wrong numbers; do not train on it, and report it with the output of ale doctor --json",
    selfTest: { ...report, limits: SELF_TEST_LIMITS },
  };
}

function failure(name: string, error: unknown): DeviceProbe {
  const hint = (error instanceof AleError ? error.hint : undefined) ?? "docs/devices.md says what the device needs";
  return { name, ok: false, required: false, detail: errorMessage(error), hint };
}
