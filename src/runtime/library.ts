/** Where the ONNX Runtime library lies: unpacked from the executable, or in `node_modules`. */

import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { AleError } from "../core/errors.ts";
import { loadOrtLibrary } from "./natives.ts";
import { isCompiled } from "./shipped.ts";

/** The release Ale is tested with. From 1.29 on the library sends telemetry by default, so a newer one is refused. */
export const ORT_VERSION = "1.27.0";

const PACKAGED = "node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime.so.1";

/**
 * Absolute path of `libonnxruntime.so.1`: in the executable its own copy, which is then loaded already; else the copy in the
 * nearest `node_modules`.
 * @throws AleError("engine") when there is none.
 */
export function ortLibraryPath(): string {
  if (isCompiled) return loadOrtLibrary();
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const candidate = join(folder, PACKAGED);
    if (existsSync(candidate)) return candidate;
    const parent = dirname(folder);
    if (parent === folder) break;
    folder = parent;
  }
  throw new AleError("engine", "libonnxruntime.so.1 was not found", {
    hint: "run `bun install`, or use the executable made by `bun run build`",
  });
}
