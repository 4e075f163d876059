/**
 * The WebGPU device of these tests: the machine's own GPU, or SwiftShader, the software driver that comes with Debian's
 * Chromium. Where there is neither, `webgpu` is undefined and the tests say why they are skipped.
 */

import { existsSync } from "node:fs";
import { errorMessage } from "../../src/core/errors.ts";
import { setNativeEnvironment } from "../../src/runtime/c-api.ts";
import { Provider } from "../../src/runtime/provider.ts";
import { vulkanDrivers } from "../../src/runtime/vulkan.ts";

export const SWIFTSHADER = "/usr/lib/chromium/vk_swiftshader_icd.json";

function openWebgpu(): Provider | undefined {
  if (vulkanDrivers().length === 0 && existsSync(SWIFTSHADER)) {
    process.env.VK_ICD_FILENAMES = SWIFTSHADER; // For child processes and our own search,
    setNativeEnvironment("VK_ICD_FILENAMES", SWIFTSHADER); // and for the Vulkan loader in this one.
  }
  try {
    return Provider.open({ kind: "webgpu", index: 0 });
  } catch (error) {
    console.log(
      `skipped: no WebGPU device (${errorMessage(error)}; Debian's chromium package brings a software driver)`,
    );
    return undefined;
  }
}

export const webgpu = openWebgpu();
