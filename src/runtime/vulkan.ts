/** Finding Vulkan, on which ONNX Runtime's WebGPU provider (Dawn) works. */

import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { AleError } from "../core/errors.ts";
import { linkLibrary } from "./shared-library.ts";

type Environment = Readonly<Record<string, string | undefined>>;

const LOADER = "libvulkan.so.1";
/** Where drivers announce themselves; https://github.com/KhronosGroup/Vulkan-Loader/blob/main/docs/LoaderDriverInterface.md */
const DRIVER_FOLDERS = ["/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d"];

/** The driver files the Vulkan loader will look at, by the rules it follows itself. */
export function vulkanDrivers(env: Environment = process.env): readonly string[] {
  const named = env.VK_DRIVER_FILES || env.VK_ICD_FILENAMES;
  if (named) return named.split(":").filter((path) => path !== "" && existsSync(path));
  return DRIVER_FOLDERS.flatMap((folder) => {
    try {
      return readdirSync(folder)
        .filter((name) => name.endsWith(".json"))
        .map((name) => join(folder, name));
    } catch {
      return []; // A folder that is not there holds no drivers.
    }
  });
}

/**
 * Loads the Vulkan loader, so that Dawn, which asks for it by name, finds it: the system's, or one that lies beside a
 * driver (as Chromium ships it with its software driver).
 * @returns what was loaded. @throws AleError("engine") when there is none.
 */
export function loadVulkan(env: Environment = process.env): string {
  const candidates = [LOADER, ...vulkanDrivers(env).map((driver) => join(dirname(driver), LOADER))];
  let reason: string | undefined;
  for (const path of candidates) {
    const error = linkLibrary(path);
    if (error === undefined) return path;
    reason ??= error;
  }
  throw new AleError("engine", `Vulkan cannot be loaded: ${reason}`, {
    hint: "install libvulkan1 and the Vulkan driver of the GPU; without a GPU, VK_ICD_FILENAMES may name a software driver",
  });
}
