/**
 * The small model of these tests, and their WebGPU device: the machine's own GPU, or SwiftShader, the software driver that comes with Debian's
 * Chromium. Where there is neither, `webgpu` is undefined and the tests say why they are skipped.
 */

import { existsSync } from "node:fs";
import { errorMessage } from "../../src/core/errors.ts";
import { ARCHITECTURES, type DecoderConfig, type ModelType } from "../../src/models/config.ts";
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

/** A decoder of two layers, 16 wide, with grouped queries; small enough for a software driver. */
export function tinyDecoder(type: ModelType, changes: Partial<DecoderConfig> = {}): DecoderConfig {
  return {
    ...ARCHITECTURES[type],
    experts: null,
    vocabularySize: 40,
    hiddenSize: 16,
    layers: 2,
    heads: 2,
    kvHeads: 1,
    headDim: 16,
    intermediateSize: 24,
    normEps: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: null,
    tiedEmbeddings: true,
    contextLength: 64,
    ...changes,
  };
}
